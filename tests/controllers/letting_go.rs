//! What is deleted: VMs, vaults and Failovers that have ended.

use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward::domain::ActionKind;
use k8s_openapi::api::core::v1::Secret;
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

/// As when a namespace is deleted: the Secrets go at once, whatever still needs them.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_gone_keeps_nobody_from_working_or_from_going() {
    let bench = Bench::new("no-secret").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench.delete::<Secret>("client").await;
    let said = bench
        .resource_is::<RecoveryVault>("vault", "says so", |vault| {
            condition(vault, "Stalled") == "True/CredentialsInvalid"
        })
        .await;
    assert_eq!(condition(&said, "OnPremisesConnected"), "True/Connected");
    let text = serde_json::to_string(&said.status).unwrap();
    assert!(text.contains("client does not exist"), "{text}");
    // What was begun is brought to its end, guest and all.
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "succeeded", crate::succeeded)
        .await;
    bench.delete::<RecoveryVault>("vault").await;
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<RecoveryVault>("vault").await;
    assert_eq!(vault.kinds("web").last(), Some(&ActionKind::Detach));
    running.end().await;
}

/// The operator comes back to a namespace that is being deleted, and finds nothing to look with.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_at_rest_goes_with_a_vault_that_can_never_be_looked_at_again() {
    let bench = Bench::new("no-secret-left").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let first = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    first.end().await;
    bench.delete::<Secret>("client").await;
    bench.delete::<ProtectedVirtualMachine>("web").await;
    let second = bench.run(FakeFactory::of("vault", &vault));
    // As long as the vault stays, the Secret may come back.
    bench
        .vm_is("web", "names the way out", |vm| {
            condition(vm, "Ready") == "False/Detaching"
                && serde_json::to_string(&vm.status)
                    .unwrap()
                    .contains(homeward::api::FINALIZER)
        })
        .await;
    bench.delete::<RecoveryVault>("vault").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<RecoveryVault>("vault").await;
    assert!(!vault.kinds("web").contains(&ActionKind::Detach));
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_never_seen_is_let_go_without_a_look() {
    let bench = Bench::new("never-seen").await;
    let running = bench.run(FakeFactory::default());
    bench.vault_without_secrets("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    bench
        .vm_is("web", "waits", |vm| {
            condition(vm, "Ready") == "False/VaultNotObserved"
        })
        .await;
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_was_deleted_goes_when_its_move_ends() {
    let bench = Bench::new("delete-failover").await;
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
    bench.delete::<Failover>("web-1").await;
    // The placement stays, so that another one is made at once, and waits.
    bench
        .failover_is("web-2", "waits for a start", |failover| {
            phase(failover) == Some(FailoverPhase::AwaitingStart)
        })
        .await;
    bench.is_gone::<Failover>("web-1").await;
    running.end().await;
}

/// Its disks must not replace the replica of the VM that was taken on.
#[tokio::test(flavor = "multi_thread")]
async fn another_vm_of_the_name_is_not_taken_for_the_one_that_was() {
    let bench = Bench::new("another-vm").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    let before = vault.kinds("web").len();
    vault.add("web", "id-other", Site::OnPremises);
    let said = bench
        .vm_is("web", "stalled", |vm| {
            condition(vm, "Stalled") == "True/VirtualMachineNotFound"
        })
        .await;
    let status = said.status.unwrap();
    assert_eq!(status.virtual_machine_id.as_deref(), Some("id-web"));
    let text = serde_json::to_string(&status.conditions).unwrap();
    assert!(text.contains("another VM of its name"), "{text}");
    assert_eq!(vault.kinds("web").len(), before);
    bench.delete::<ProtectedVirtualMachine>("web").await;
    bench.is_gone::<ProtectedVirtualMachine>("web").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let anew = protected(&bench, "web").await;
    assert_eq!(
        anew.status.unwrap().virtual_machine_id.as_deref(),
        Some("id-other")
    );
    running.end().await;
}
