//! The operator against a real API server, with a driver in memory.
#![allow(missing_docs)]

mod common;

use common::fake_driver::{FakeFactory, FakeVault};
use common::{Bench, condition};
use homeward::api::{FailoverPhase, Site};
use homeward::domain::ActionKind;
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
    assert_eq!(
        vault.kinds("web")[2..],
        [
            ActionKind::Synchronize,
            ActionKind::StopSource,
            ActionKind::FinalSync,
            ActionKind::StartTarget,
            ActionKind::Commit,
            ActionKind::RetireSource,
            ActionKind::ReverseReplicate,
        ]
    );
    running.end().await;
}
