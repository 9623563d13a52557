//! The operator against a real API server, with a driver in memory.
#![allow(missing_docs)]

mod common;

use common::fake_driver::{FakeFactory, FakeVault};
use common::{Bench, condition, until};
use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward::domain::{ActionKind, Claim, ErrorClass, Stage};
use homeward::driver::DriverError;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::json;

fn phase(failover: &homeward::api::Failover) -> Option<FailoverPhase> {
    failover.status.as_ref()?.phase
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_adopted_protected_and_moved() {
    let bench = Bench::new("move").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let vm = bench
        .vm_is("web", "protected", |vm| {
            condition(vm, "Ready") == "True/AsDeclared"
                && condition(vm, "Protected") == "True/Replicating"
        })
        .await;
    let status = vm.status.unwrap();
    assert_eq!(status.active_site, Some(Site::OnPremises));
    assert_eq!(status.virtual_machine_id.as_deref(), Some("id-web"));
    assert_eq!(vault.kinds("web"), [ActionKind::Adopt, ActionKind::Protect]);

    bench.place("web", Site::Azure).await;
    let failover = bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    assert_eq!(failover.spec.virtual_machine.uid, vm.metadata.uid.unwrap());
    let vm = bench
        .vm_is("web", "settled in Azure", |vm| {
            condition(vm, "Ready") == "True/AsDeclared"
                && condition(vm, "Placed") == "True/AsDeclared"
        })
        .await;
    let status = vm.status.unwrap();
    assert_eq!(status.active_site, Some(Site::Azure));
    assert_eq!(status.current_failover, None);
    assert_eq!(status.last_failover.unwrap().name, "web-1");
    let moved = [
        ActionKind::Synchronize,
        ActionKind::StopSource,
        ActionKind::FinalSync,
        ActionKind::StartTarget,
        ActionKind::Commit,
        ActionKind::RetireSource,
        ActionKind::ReverseReplicate,
    ];
    assert_eq!(vault.kinds("web")[2..][..moved.len()], moved);
    running.end().await;
}

fn waiting_for(failover: &homeward::api::Failover) -> String {
    failover
        .status
        .as_ref()
        .and_then(|status| status.waiting_for.clone())
        .unwrap_or_default()
}

async fn protected(bench: &Bench, name: &str) -> ProtectedVirtualMachine {
    bench
        .vm_is(name, "protected", |vm| {
            condition(vm, "Ready") == "True/AsDeclared"
                && condition(vm, "Protected") == "True/Replicating"
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_gates_wait_for_answers_in_the_failover() {
    let bench = Bench::new("gates").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    let manual = json!({
        "cutover": {"approval": "Manual"}, "commit": {"approval": "Manual"}, "reverseReplication": "Manual",
    });
    bench.vm("web", Site::OnPremises, manual).await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    for (at, answer, next) in [
        (
            FailoverPhase::AwaitingCutover,
            json!({"spec": {"cutover": "Approved"}}),
            ActionKind::StopSource,
        ),
        (
            FailoverPhase::AwaitingCommit,
            json!({"spec": {"commit": "Approved"}}),
            ActionKind::Commit,
        ),
        (
            FailoverPhase::AwaitingReverseReplication,
            json!({"spec": {"reverseReplicate": "Approved"}}),
            ActionKind::ReverseReplicate,
        ),
    ] {
        let failover = bench
            .failover_is("web-1", &format!("{at:?}"), |failover| {
                phase(failover) == Some(at) && waiting_for(failover).contains("Approved")
            })
            .await;
        assert_eq!(condition(&failover, "Ready"), "True/AwaitingApproval");
        bench
            .vm_is("web", "waits for a person", |vm| {
                condition(vm, "Placed") == "False/AwaitingApproval"
                    && condition(vm, "Reconciling").is_empty()
            })
            .await;
        assert!(!vault.kinds("web").contains(&next), "{at:?} did not hold");
        bench.change::<Failover>("web-1", answer).await;
    }
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_move_goes_back_and_the_next_one_waits_for_start() {
    let bench = Bench::new("cancel").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench
        .vm(
            "web",
            Site::OnPremises,
            json!({"cutover": {"approval": "Manual"}}),
        )
        .await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "at cutover", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingCutover)
        })
        .await;
    bench
        .change::<Failover>("web-1", json!({"spec": {"cancel": true}}))
        .await;
    bench
        .failover_is("web-1", "cancelled", |failover| {
            phase(failover) == Some(FailoverPhase::Cancelled)
        })
        .await;
    let next = bench
        .failover_is("web-2", "waits for start", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingStart)
                && waiting_for(failover).contains("spec.start: Approved")
        })
        .await;
    assert!(
        waiting_for(&next).contains("web-1"),
        "{}",
        waiting_for(&next)
    );
    assert!(!vault.kinds("web").contains(&ActionKind::StopSource));
    // Turning the placement back ends it, and nothing follows.
    bench.place("web", Site::OnPremises).await;
    bench
        .failover_is("web-2", "cancelled", |failover| {
            phase(failover) == Some(FailoverPhase::Cancelled)
        })
        .await;
    let vm = protected(&bench, "web").await;
    assert_eq!(vm.status.unwrap().active_site, Some(Site::OnPremises));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_flipped_back_before_commit_rolls_back() {
    let bench = Bench::new("flip").await;
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
    bench.place("web", Site::OnPremises).await;
    bench
        .failover_is("web-1", "rolled back", |failover| {
            phase(failover) == Some(FailoverPhase::RolledBack)
        })
        .await;
    let vm = protected(&bench, "web").await;
    assert_eq!(vm.status.unwrap().active_site, Some(Site::OnPremises));
    let kinds = vault.kinds("web");
    assert!(kinds.contains(&ActionKind::FenceTarget) && kinds.contains(&ActionKind::ResumeSource));
    assert!(!kinds.contains(&ActionKind::Commit));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_seen_first_elsewhere_is_not_moved_without_a_word() {
    let bench = Bench::new("surprise").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::Azure);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    bench
        .failover_is("web-1", "waits for start", |failover| {
            waiting_for(failover).contains("spec.start: Approved")
        })
        .await;
    // It is protected where it runs while the move waits for its start; nothing else is asked.
    let asked = vault.kinds("web");
    assert!(
        asked
            .iter()
            .all(|kind| matches!(kind, ActionKind::Adopt | ActionKind::Protect)),
        "{asked:?}"
    );
    bench
        .change::<Failover>("web-1", json!({"spec": {"start": "Approved"}}))
        .await;
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_detaches_and_a_vault_waits_for_its_users() {
    let bench = Bench::new("delete").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let vm = protected(&bench, "web").await;
    assert_eq!(
        vm.metadata.finalizers.as_deref(),
        Some([homeward::api::FINALIZER.to_owned()].as_slice())
    );
    bench.delete::<RecoveryVault>("vault").await;
    let held = bench
        .resource_is::<RecoveryVault>("vault", "names its users", |vault| {
            condition(vault, "Ready") == "False/Detaching"
        })
        .await;
    let text = serde_json::to_string(&held.status).unwrap();
    assert!(text.contains("web"), "{text}");
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<RecoveryVault>("vault").await;
    assert_eq!(
        vault.kinds("web"),
        [ActionKind::Adopt, ActionKind::Protect, ActionKind::Detach]
    );
    assert!(vault.vm("web").protection.is_some(), "nothing is touched");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_in_the_middle_of_a_move_brings_it_to_a_safe_end_first() {
    let bench = Bench::new("delete-moving").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench
        .vm(
            "web",
            Site::OnPremises,
            json!({"cutover": {"approval": "Manual"}}),
        )
        .await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "at cutover", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingCutover)
        })
        .await;
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    let kinds = vault.kinds("web");
    assert_eq!(
        kinds[kinds.len() - 2..],
        [ActionKind::CancelSync, ActionKind::Detach]
    );
    // What garbage collection would delete is not held by the finalizer.
    bench.delete::<Failover>("web-1").await;
    bench.is_gone::<Failover>("web-1").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_gone_never_blocks() {
    let bench = Bench::new("no-vault").await;
    let running = bench.run(FakeFactory::default());
    bench.vm("web", Site::OnPremises, json!({})).await;
    bench
        .vm_is("web", "stalled", |vm| {
            condition(vm, "Stalled") == "True/VaultNotFound"
        })
        .await;
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_whose_driver_cannot_be_made_says_why() {
    let bench = Bench::new("bad-vault").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let factory = FakeFactory::of("vault", &vault);
    let running = bench.run(factory.clone());
    bench.vault("other").await;
    bench
        .resource_is::<RecoveryVault>("other", "stalled", |vault| {
            condition(vault, "Stalled") == "True/InvalidSpec"
        })
        .await;
    bench.delete::<Secret>("ca").await;
    bench.vault_without_secrets("vault").await;
    let stalled = bench
        .resource_is::<RecoveryVault>("vault", "without its Secret", |vault| {
            condition(vault, "Stalled") == "True/CredentialsInvalid"
        })
        .await;
    let text = serde_json::to_string(&stalled.status).unwrap();
    assert!(
        text.contains("caSecretRef") && text.contains("does not exist"),
        "{text}"
    );
    bench.secret("ca", b"one").await;
    bench
        .resource_is::<RecoveryVault>("vault", "connected", |vault| {
            condition(vault, "Ready") == "True/Connected"
                && condition(vault, "OnPremisesConnected") == "True/Connected"
                && vault.status.as_ref().unwrap().virtual_machines == Some(1)
        })
        .await;
    // A Secret that changes gives a new driver; what it holds is handed over as bytes.
    let inputs = || {
        factory
            .inputs
            .lock()
            .unwrap()
            .iter()
            .filter(|input| input.name == "vault")
            .count()
    };
    let before = inputs();
    bench.secret("ca", b"two").await;
    until("the driver is made anew", || async {
        (inputs() > before).then_some(())
    })
    .await;
    let newest = factory
        .inputs
        .lock()
        .unwrap()
        .iter()
        .rfind(|input| input.name == "vault")
        .unwrap()
        .clone();
    assert_eq!(newest.secrets.get("ca", "tls.key"), Some(b"two".as_slice()));
    vault.state.lock().unwrap().disconnected = Some((Site::Azure, "az1 does not answer".into()));
    let lost = bench
        .resource_is::<RecoveryVault>("vault", "disconnected", |vault| {
            condition(vault, "AzureConnected") == "False/SiteDisconnected"
        })
        .await;
    assert_eq!(condition(&lost, "OnPremisesConnected"), "True/Connected");
    running.end().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_moves_is_looked_at_alone() {
    let bench = Bench::new("alone").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    vault.add("other", "id-other", Site::OnPremises);
    let mut settings = bench.settings();
    settings.paces.steady = std::time::Duration::from_hours(1);
    let running = bench.run_with(FakeFactory::of("vault", &vault), settings);
    bench.vault("vault").await;
    for name in ["web", "other"] {
        bench.vm(name, Site::OnPremises, json!({})).await;
        protected(&bench, name).await;
    }
    let looks = || {
        let state = vault.state.lock().unwrap();
        (state.looks, state.narrow_looks)
    };
    let before = looks();
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    protected(&bench, "web").await;
    let after = looks();
    assert_eq!(after.0, before.0, "the others rest");
    assert!(after.1 > before.1 + 3, "{before:?} {after:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_fleet_writes_nothing() {
    let bench = Bench::new("idle").await;
    let vault = FakeVault::new();
    for number in 0..10 {
        vault.add(
            &format!("vm{number}"),
            &format!("id-{number}"),
            Site::OnPremises,
        );
    }
    let mut settings = bench.settings();
    settings.secrets_every = std::time::Duration::from_millis(100);
    let running = bench.run_with(FakeFactory::of("vault", &vault), settings);
    bench.vault("vault").await;
    for number in 0..10 {
        bench
            .vm(&format!("vm{number}"), Site::OnPremises, json!({}))
            .await;
    }
    for number in 0..10 {
        protected(&bench, &format!("vm{number}")).await;
    }
    bench
        .resource_is::<RecoveryVault>("vault", "connected", |vault| {
            condition(vault, "Ready") == "True/Connected"
        })
        .await;
    let versions = || async {
        let vms = bench
            .api::<ProtectedVirtualMachine>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let vaults = bench
            .api::<RecoveryVault>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let vms = vms.items.into_iter().map(|vm| vm.metadata.resource_version);
        vms.chain(
            vaults
                .items
                .into_iter()
                .map(|vault| vault.metadata.resource_version),
        )
        .collect::<Vec<_>>()
    };
    let before = versions().await;
    // New recovery points come in all the time, and nobody is told by a write.
    let looks = vault.state.lock().unwrap().looks;
    until("thirty more looks", || async {
        let mut state = vault.state.lock().unwrap();
        for vm in state.vms.values_mut() {
            if let Some(whole) = vm.protection.as_mut().and_then(|p| p.last_whole.as_mut()) {
                whole.point = jiff::Timestamp::now();
                whole.bytes_on_wire += 1;
            }
        }
        (state.looks >= looks + 30).then_some(())
    })
    .await;
    assert_eq!(versions().await, before);
    let text = running.metrics.text().unwrap();
    assert!(
        text.contains("homeward_vm_standing{reason=\"AsDeclared\"} 10"),
        "{text}"
    );
    assert!(text.contains("homeward_vm_recovery_point_age_seconds{namespace=\"idle\",vm=\"vm3\"}"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_facts_from_before_the_last_action_do_not_count() {
    let bench = Bench::new("fresh").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    // Many VMs nudge the loop while each submit hangs for a moment; every action is taken once all the same.
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    let taken = vault.state.lock().unwrap().taken.clone();
    let mut marks: Vec<_> = taken
        .iter()
        .map(|(_, submission)| submission.mark)
        .collect();
    let all = marks.len();
    marks.dedup();
    assert_eq!(marks.len(), all, "no mark was used twice");
    assert!(marks.is_sorted());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_driver_refuses_is_said_and_tried_again() {
    let bench = Bench::new("refused").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    {
        let mut state = vault.state.lock().unwrap();
        for _ in 0..2 {
            state.refusals.push_back((
                ActionKind::Adopt,
                DriverError::refused(ErrorClass::Denied, "the agent does not know this operator"),
            ));
        }
    }
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let refused = bench
        .vm_is("web", "says so", |vm| {
            condition(vm, "Stalled") == "True/ActionFailed"
        })
        .await;
    assert!(
        serde_json::to_string(&refused.status)
            .unwrap()
            .contains("does not know this operator")
    );
    protected(&bench, "web").await;

    vault.state.lock().unwrap().refusals.push_back((
        ActionKind::StopSource,
        DriverError::ambiguous("the connection broke"),
    ));
    vault.state.lock().unwrap().refusals.push_back((
        ActionKind::FinalSync,
        DriverError::refused(ErrorClass::Transient, "busy"),
    ));
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    let kinds = vault.kinds("web");
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == ActionKind::StopSource)
            .count(),
        1
    );
    let text = running.metrics.text().unwrap();
    for line in [
        "homeward_driver_calls_total{action=\"Adopt\",outcome=\"Denied\"} 2",
        "homeward_driver_calls_total{action=\"StopSource\",outcome=\"ambiguous\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_failovers_are_let_go_and_kept_up_to_the_limit() {
    let bench = Bench::new("history").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench
        .vm("web", Site::OnPremises, json!({"failoverHistoryLimit": 1}))
        .await;
    protected(&bench, "web").await;
    for (number, site) in [(1, Site::Azure), (2, Site::OnPremises), (3, Site::Azure)] {
        bench.place("web", site).await;
        let name = format!("web-{number}");
        bench
            .failover_is(&name, "ended and let go", |failover| {
                phase(failover) == Some(FailoverPhase::Succeeded)
                    && failover
                        .metadata
                        .finalizers
                        .as_ref()
                        .is_none_or(Vec::is_empty)
            })
            .await;
    }
    bench.is_gone::<Failover>("web-1").await;
    bench.is_gone::<Failover>("web-2").await;
    assert!(bench.get::<Failover>("web-3").await.is_some());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_is_followed_by_one_that_goes_on() {
    let bench = Bench::new("killed").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    vault.hold(ActionKind::StopSource);
    let first = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "stops the source", |failover| {
            failover.status.as_ref().is_some_and(|status| {
                status
                    .pending_action
                    .as_ref()
                    .is_some_and(|pending| pending.action == "StopSource")
            })
        })
        .await;
    first.kill();
    vault.let_end(ActionKind::StopSource);
    let second = bench.run(FakeFactory::of("vault", &vault));
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    let kinds = vault.kinds("web");
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == ActionKind::StopSource)
            .count(),
        1
    );
    second.end().await;
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
async fn s02_an_action_is_on_record_before_it_is_asked_for() {
    let bench = Bench::new("record").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    // The driver hears every order, and takes none until the test has looked.
    vault.meter();
    for kind in [
        ActionKind::Synchronize,
        ActionKind::StopSource,
        ActionKind::FinalSync,
        ActionKind::StartTarget,
        ActionKind::Commit,
        ActionKind::RetireSource,
        ActionKind::ReverseReplicate,
    ] {
        if kind == ActionKind::Synchronize {
            bench.place("web", Site::Azure).await;
        }
        let failover = bench
            .failover_is("web-1", &format!("{kind} on record"), |failover| {
                failover.status.as_ref().is_some_and(|status| {
                    status
                        .pending_action
                        .as_ref()
                        .is_some_and(|pending| pending.action == kind.as_str())
                })
            })
            .await;
        assert!(
            !vault.kinds("web").contains(&kind),
            "{kind} had taken effect before it was on record"
        );
        let pending = failover.status.unwrap().pending_action.unwrap();
        vault.take_one();
        until(&format!("{kind} took effect"), || async {
            vault.kinds("web").contains(&kind).then_some(())
        })
        .await;
        let taken = vault.state.lock().unwrap().taken.clone();
        let (_, submission) = taken
            .iter()
            .find(|(_, submission)| submission.action.kind() == kind)
            .unwrap();
        assert_eq!(
            (pending.epoch, pending.step),
            (
                i64::try_from(submission.mark.epoch).unwrap(),
                i64::try_from(submission.mark.step).unwrap()
            )
        );
    }
    vault.open();
    bench
        .failover_is("web-1", "succeeded", |failover| {
            phase(failover) == Some(FailoverPhase::Succeeded)
        })
        .await;
    running.end().await;
}
