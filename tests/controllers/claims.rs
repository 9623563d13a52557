//! Whose a VM is, and which Failover counts (S6).

use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine, Site};
use homeward::domain::{ActionKind, Claim, Stage};
use serde_json::json;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition};
use crate::{phase, protected, waiting_for};

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_two_claimants_wins_and_the_other_follows_when_it_is_gone() {
    let bench = Bench::new("claims").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench
        .vm(
            "x-second",
            Site::Azure,
            json!({"virtualMachineName": "web"}),
        )
        .await;
    let second = bench
        .vm_is("x-second", "stalled", |vm| {
            condition(vm, "Stalled") == "True/DuplicateClaim"
        })
        .await;
    assert!(
        serde_json::to_string(&second.status)
            .unwrap()
            .contains("claims/web")
    );
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    // It takes the VM on where it is, and the first move waits: nobody moved it on purpose.
    bench
        .failover_is("x-second-1", "waits for start", |failover| {
            waiting_for(failover).contains("spec.start: Approved")
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_came_in_the_same_second_the_one_that_holds_the_vm_keeps_it() {
    let bench = Bench::new("same-second").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench
        .vm(
            "a-second",
            Site::OnPremises,
            json!({"virtualMachineName": "web"}),
        )
        .await;
    bench
        .vm_is("a-second", "stalled", |vm| {
            condition(vm, "Stalled").starts_with("True/")
        })
        .await;
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_another_name_in_another_vault_is_the_same_vm_by_its_identity() {
    let bench = Bench::new("same-identity").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let factory = FakeFactory::of("vault", &vault);
    let other = FakeVault::new().with_vm("x-renamed", "id-web", Site::OnPremises);
    factory.add("other", &other);
    let running = bench.run(factory);
    bench.vault("vault").await;
    bench.vault("other").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench
        .vm(
            "x-renamed",
            Site::OnPremises,
            json!({"vaultRef": {"name": "other"}}),
        )
        .await;
    bench
        .vm_is("x-renamed", "stalled", |vm| {
            condition(vm, "Stalled") == "True/DuplicateClaim"
        })
        .await;
    assert_eq!(other.kinds("x-renamed"), []);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_claim_of_this_cluster_whose_holder_is_gone_is_taken_over() {
    let bench = Bench::new("holder-gone").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let cluster = bench.cluster().await;
    {
        let mut state = vault.state.lock().unwrap();
        let vm = state.vms.get_mut("web").unwrap();
        vm.stage = Stage::Settled {
            site: Site::OnPremises,
        };
        vm.claim = Some(Claim {
            cluster: cluster.clone(),
            vm_uid: "deleted-long-ago".into(),
        });
    }
    vault.add("db", "id-db", Site::OnPremises);
    {
        let mut state = vault.state.lock().unwrap();
        let vm = state.vms.get_mut("db").unwrap();
        vm.stage = Stage::Settled {
            site: Site::OnPremises,
        };
        vm.claim = Some(Claim {
            cluster: "another-cluster".into(),
            vm_uid: "x".into(),
        });
    }
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    let vm = bench.vm("web", Site::OnPremises, json!({})).await;
    bench.vm("db", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    assert_eq!(
        vault.vm("web").claim,
        Some(Claim {
            cluster,
            vm_uid: vm.metadata.uid.unwrap()
        })
    );
    let stalled = bench
        .vm_is("db", "claimed elsewhere", |vm| {
            condition(vm, "Stalled") == "True/ClaimedElsewhere"
        })
        .await;
    assert!(
        serde_json::to_string(&stalled.status)
            .unwrap()
            .contains("another-cluster/x")
    );
    assert_eq!(vault.kinds("db"), []);
    bench
        .change::<ProtectedVirtualMachine>(
            "db",
            json!({"metadata": {"annotations": {homeward::api::TAKEOVER_ANNOTATION: "another-cluster/x"}}}),
        )
        .await;
    protected(&bench, "db").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_failover_made_by_hand_is_ignored_and_its_number_is_left_out() {
    let bench = Bench::new("by-hand").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    let vm = bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    // As a backup would bring it back, or a person who means well: even with the right UID.
    bench
        .failover("web-1", "web", vm.metadata.uid.as_deref().unwrap())
        .await;
    bench.failover("stray", "nobody", "no-uid").await;
    for name in ["web-1", "stray"] {
        let ignored = bench
            .failover_is(name, "ignored", |failover| {
                condition(failover, "Ready") == "False/NotMadeByController"
            })
            .await;
        assert_eq!(phase(&ignored), None);
    }
    assert_eq!(vault.kinds("web"), [ActionKind::Adopt, ActionKind::Protect]);
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-2", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    let vm = protected(&bench, "web").await;
    assert_eq!(vm.status.unwrap().failover_counter, Some(2));
    bench.delete::<Failover>("web-1").await;
    bench.is_gone::<Failover>("web-1").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_failover_that_vanished_is_followed_by_the_next_number() {
    let bench = Bench::new("vanished").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench
        .vm(
            "web",
            Site::OnPremises,
            json!({"commit": {"approval": "Manual"}}),
        )
        .await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "at commit", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingCommit)
        })
        .await;
    // Somebody tears the finalizer off.
    bench.delete::<Failover>("web-1").await;
    bench
        .change::<Failover>("web-1", json!({"metadata": {"finalizers": null}}))
        .await;
    bench
        .failover_is("web-2", "asks again", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingCommit)
        })
        .await;
    bench
        .change::<Failover>("web-2", json!({"spec": {"commit": "Approved"}}))
        .await;
    bench
        .failover_is("web-2", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    running.end().await;
}
