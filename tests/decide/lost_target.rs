//! A target that has lost its register in the middle of a move: what its guest may have written there is not given up on a guess (S4, S8).

use homeward::api::{DowntimeStatus, FailoverPhase, FailoverStatus, ProtectedVirtualMachineStatus};
use homeward::domain::{
    ActionKind, BySite, Connection, CurrentFailover, Decision, Effect, Fact, Power, Stage,
    VaultView, decide,
};
use homeward::driver::simulated::agents_like;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::store::{Store, spec};
use super::tables::{Asked, FROM, TO, claim, observation, world};
use super::view::intent;

/// How far the move is, and what is known of the guest at the target.
struct Case {
    phase: FailoverPhase,
    stage: Stage,
    start_ordered: bool,
    runs: bool,
}

fn decided(case: &Case) -> Decision {
    decided_after(case, &ProtectedVirtualMachineStatus::default())
}

fn decided_after(case: &Case, before: &ProtectedVirtualMachineStatus) -> Decision {
    let store = Store::new(spec(TO));
    let pvm = store.pvm.as_ref().unwrap();
    let asked = Asked::new(pvm.uid.clone());
    let status = FailoverStatus {
        phase: Some(case.phase),
        downtime: case.start_ordered.then(|| DowntimeStatus {
            start_ordered_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..DowntimeStatus::default()
        }),
        ..FailoverStatus::default()
    };
    let mut vm = observation(&Fact::Known(case.stage.clone()), &claim(&store));
    vm.marks[TO] = Fact::Absent;
    vm.claims[TO] = Fact::Absent;
    vm.failovers[TO] = None;
    if case.runs {
        vm.power[TO] = Fact::Known(Power::On);
    }
    let intent = intent(pvm);
    let vault = VaultView {
        renamed: None,
        sites: &BySite::from_fn(|_| Connection::Connected),
        capabilities: &agents_like(),
        vm: Fact::Known(&vm),
    };
    let moving = CurrentFailover::Known(asked.view(&status));
    decide(&world(&intent, before, moving, vault, claim(&store)))
}

fn asked_for(decision: &Decision) -> Option<ActionKind> {
    match &decision.effect {
        Some(Effect::Submit(submission)) => Some(submission.action.kind()),
        _ => None,
    }
}

fn reason(decision: &Decision) -> &str {
    let conditions = &decision.failover.as_ref().unwrap().conditions;
    let ready = conditions.iter().find(|it| it.type_ == "Stalled").unwrap();
    &ready.reason
}

fn cases() -> Vec<(FailoverPhase, Stage)> {
    let stages = [
        Stage::SourceFenced { from: FROM },
        Stage::SourceStopped {
            from: FROM,
            was_running: true,
        },
    ];
    let phases = [
        FailoverPhase::CuttingOver,
        FailoverPhase::Cancelling,
        FailoverPhase::RollingBack,
    ];
    phases
        .into_iter()
        .flat_map(|phase| stages.clone().map(|stage| (phase, stage)))
        .collect()
}

#[test]
fn s04_what_may_have_run_at_a_target_without_a_register_is_not_given_up() {
    for (phase, stage) in cases() {
        for (start_ordered, runs) in [(true, false), (false, true), (true, true)] {
            let stage = stage.clone();
            let case = Case {
                phase,
                stage,
                start_ordered,
                runs,
            };
            let decision = decided(&case);
            let named = format!("{phase:?}, {:?}, runs: {runs}", case.stage);
            assert_eq!(asked_for(&decision), None, "{named}");
            assert_eq!(reason(&decision), "RegistersContradict", "{named}");
        }
    }
}

#[test]
fn s08_the_site_that_was_seen_last_stays_the_active_one() {
    for (phase, stage) in cases() {
        let case = Case {
            phase,
            stage,
            start_ordered: true,
            runs: false,
        };
        let before = ProtectedVirtualMachineStatus {
            active_site: Some(TO),
            epoch: Some(6),
            step: Some(1),
            ..ProtectedVirtualMachineStatus::default()
        };
        let after = decided_after(&case, &before).status;
        assert_eq!(
            (after.active_site, after.epoch, after.step),
            (Some(TO), Some(6), Some(1)),
            "{phase:?}"
        );
    }
}

#[test]
fn where_nothing_can_have_run_the_source_comes_back_by_itself() {
    for (phase, stage) in cases() {
        let case = Case {
            phase,
            stage,
            start_ordered: false,
            runs: false,
        };
        let decision = decided(&case);
        assert_eq!(
            asked_for(&decision),
            Some(ActionKind::FenceTarget),
            "{phase:?}"
        );
    }
}
