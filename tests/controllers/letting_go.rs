//! What is deleted: VMs, vaults and Failovers that have ended.

use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward::domain::ActionKind;
use serde_json::json;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition};
use crate::{phase, protected};

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
