//! Vaults: how they are looked at, what a look counts for (S7), and what a driver refuses.

use std::collections::BTreeMap;

use homeward::api::{FailoverPhase, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward::domain::{ActionKind, ErrorClass, OperationState, Progress, ProtectionState};
use homeward::driver::DriverError;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::json;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition, until};
use crate::{phase, protected};

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

/// Of everything whose status could have been written.
async fn versions(bench: &Bench) -> BTreeMap<String, Option<String>> {
    let all = ListParams::default();
    let vms = bench.api::<ProtectedVirtualMachine>().list(&all).await;
    let vaults = bench.api::<RecoveryVault>().list(&all).await;
    let vms = vms.unwrap().items.into_iter().map(|vm| vm.metadata);
    let vaults = vaults.unwrap().items.into_iter();
    vms.chain(vaults.map(|vault| vault.metadata))
        .map(|metadata| (metadata.name.unwrap_or_default(), metadata.resource_version))
        .collect()
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
    let before = versions(&bench).await;
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
    assert_eq!(versions(&bench).await, before);
    let text = running.metrics.text().unwrap();
    assert!(
        text.contains("homeward_vm_standing{reason=\"AsDeclared\"} 10"),
        "{text}"
    );
    assert!(text.contains("homeward_vm_recovery_point_age_seconds{namespace=\"idle\",vm=\"vm3\"}"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_that_finds_everything_as_it_was_writes_nothing() {
    let bench = Bench::new("heir").await;
    let vault = FakeVault::new();
    for name in ["web", "db", "late"] {
        vault.add(name, &format!("id-{name}"), Site::OnPremises);
    }
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    for name in ["web", "db"] {
        bench.vm(name, Site::OnPremises, json!({})).await;
        protected(&bench, name).await;
    }
    bench
        .resource_is::<RecoveryVault>("vault", "connected", |vault| {
            condition(vault, "Ready") == "True/Connected"
        })
        .await;
    running.end().await;
    let before = versions(&bench).await;
    // Its first look does not end before it has been at every VM: the newest of them says so.
    let looking = vault.looking.acquire().await.unwrap();
    bench.vm("late", Site::OnPremises, json!({})).await;
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench
        .vm_is("late", "waiting for the first look", |vm| {
            condition(vm, "Ready") == "False/VaultNotObserved"
        })
        .await;
    drop(looking);
    let looks = vault.state.lock().unwrap().looks;
    until("ten more looks", || async {
        (vault.state.lock().unwrap().looks >= looks + 10).then_some(())
    })
    .await;
    protected(&bench, "late").await;
    let mut after = versions(&bench).await;
    after.remove("late");
    assert_eq!(after, before);
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
async fn the_first_replica_shows_how_far_it_is() {
    let bench = Bench::new("seeding").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let whole = protected(&bench, "web").await;
    let replication = |vm: &ProtectedVirtualMachine| vm.status.clone()?.replication;
    assert!(replication(&whole).unwrap().progress.is_none());
    {
        let mut state = vault.state.lock().unwrap();
        let protection = state
            .vms
            .get_mut("web")
            .unwrap()
            .protection
            .as_mut()
            .unwrap();
        protection.state = ProtectionState::Seeding;
        protection.last_whole = None;
        protection.progress = Some(Progress {
            what: "what differs to be sent".into(),
            bytes_done: 70 << 20,
            bytes_total: Some(200 << 20),
            bytes_per_second: Some(1 << 20),
        });
    }
    let seen = bench
        .vm_is("web", "seeding", |vm| {
            condition(vm, "Ready") == "False/Seeding"
        })
        .await;
    let progress = replication(&seen).unwrap().progress.unwrap();
    assert_eq!(progress.summary, "35% of 200 MiB");
    assert!(progress.estimated_completion_time.is_some());
    let said = serde_json::to_string(&seen.status).unwrap();
    assert!(
        said.contains("being made in Azure: 35% of 200 MiB"),
        "{said}"
    );
    running.end().await;
}

/// The source goes on sending, and only the target knows that it could not take the VM.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_could_not_take_the_vm_is_not_called_protection() {
    let bench = Bench::new("not-taken").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    let asked = vault.kinds("web").len();
    {
        let mut state = vault.state.lock().unwrap();
        let vm = state.vms.get_mut("web").unwrap();
        let protect = vm
            .operations
            .iter_mut()
            .rfind(|it| it.kind == ActionKind::Protect);
        let protect = protect.unwrap();
        protect.site = Site::Azure;
        protect.state = OperationState::Failed {
            class: ErrorClass::Invalid,
            message: "boot.kernel: it is not there".into(),
        };
    }
    let told = bench
        .vm_is("web", "stalled", |vm| {
            condition(vm, "Stalled") == "True/VirtualMachineNotReady"
        })
        .await;
    let said = serde_json::to_string(&told.status).unwrap();
    assert!(
        said.contains("Azure cannot take the VM") && said.contains("boot.kernel: it is not there"),
        "{said}"
    );
    // It is told first, and asked again only after a while.
    assert_eq!(vault.kinds("web").len(), asked);
    running.end().await;
}
