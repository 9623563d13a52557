//! Moves: there, with gates, cancelled, turned back, and over the death of the operator.

use homeward::api::{Failover, FailoverPhase, Site};
use homeward::domain::ActionKind;
use serde_json::json;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition, until};
use crate::{phase, protected, waiting_for};

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
    for (at, placed, answer, next) in [
        (
            FailoverPhase::AwaitingCutover,
            "False/AwaitingApproval",
            json!({"spec": {"cutover": "Approved"}}),
            ActionKind::StopSource,
        ),
        (
            FailoverPhase::AwaitingCommit,
            "False/AwaitingApproval",
            json!({"spec": {"commit": "Approved"}}),
            ActionKind::Commit,
        ),
        (
            FailoverPhase::AwaitingReverseReplication,
            "True/AsDeclared",
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
                condition(vm, "Placed") == placed
                    && condition(vm, "Ready") == "True/AwaitingApproval"
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
        until(&format!("{kind} is asked for"), || async {
            let state = vault.state.lock().unwrap();
            let asked = state.heard.iter().any(|it| it.action.kind() == kind);
            asked.then_some(())
        })
        .await;
        // As the API server has it while the driver has not even answered.
        let failover = bench.get::<Failover>("web-1").await.unwrap();
        let pending = failover.status.unwrap().pending_action;
        let pending =
            pending.unwrap_or_else(|| panic!("{kind} was asked for and is not on record"));
        assert_eq!(pending.action, kind.as_str());
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
