//! What decisions see: as if the service kept registers.

use homeward::api::KeptRegister;
use homeward::api::Site::{Azure, OnPremises};
use homeward::domain::{
    ActionKind, ErrorClass, Fact, Job, JobKind, JobState, OperationState, Stage, VmObservation,
    kept,
};

use super::bench::*;

fn show(register: &KeptRegister, look: &VmObservation) -> VmObservation {
    let settled = kept::settle(register, look, LIMITS, later(5));
    kept::show(Some(&settled), look, LIMITS, later(5))
}

#[test]
fn a_vm_without_a_register_is_nobodys() {
    let shown = kept::show(None, &look(IN_AZURE, vec![]), LIMITS, now());
    assert_eq!(shown.stage, Fact::Known(Stage::Unclaimed { site: Azure }));
    assert_eq!(shown.claims[Azure], Fact::Absent);
    // In the middle of a move it is not said to rest.
    let midway = Stage::SourceFenced { from: Azure };
    let shown = kept::show(None, &look(midway.clone(), vec![]), LIMITS, now());
    assert_eq!(shown.stage, Fact::Known(midway));
}

#[test]
fn claim_mark_and_failover_stand_at_both_sides() {
    let shown = show(&register(), &look(IN_AZURE, vec![]));
    for site in [Azure, OnPremises] {
        assert_eq!(shown.claims[site], Fact::Known(claim()));
        assert_eq!(shown.marks[site], Fact::Known(mark(2, 3)));
        assert_eq!(shown.failovers[site].as_deref(), Some(FAILOVER));
    }
    assert_eq!(shown.stage, Fact::Known(IN_AZURE));
}

#[test]
fn s18_nothing_is_known_while_the_outcome_of_a_request_is_not() {
    let shown = show(
        &asked(ActionKind::Synchronize, Azure),
        &look(IN_AZURE, vec![]),
    );
    assert!(shown.stage.why_unknown().is_some());
    assert!(shown.marks[Azure].why_unknown().is_some());
    assert_eq!(shown.operations, []);
}

#[test]
fn s19_the_result_of_a_request_is_shown_as_its_operation() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let rows = [
        (RUNS, OperationState::Running),
        (JobState::Waiting, OperationState::Succeeded),
        (
            failed(),
            OperationState::Failed {
                class: ErrorClass::Capacity,
                message: "no quota".into(),
            },
        ),
    ];
    for (state, expected) in rows {
        let seen = look(IN_AZURE, vec![job("new", JobKind::Failback, state)]);
        let shown = show(&asked, &seen);
        let operation = &shown.operations[0];
        assert_eq!(operation.state, expected);
        assert_eq!(
            (operation.mark, operation.kind),
            (mark(2, 4), ActionKind::Synchronize)
        );
        assert_eq!(operation.job.as_ref().unwrap().id, "new");
        assert_eq!(shown.marks[OnPremises], Fact::Known(mark(2, 4)));
    }
}

#[test]
fn what_had_no_effect_is_not_shown() {
    let shown = show(
        &kept::refused(&asked(ActionKind::Commit, Azure)),
        &look(IN_AZURE, vec![]),
    );
    assert_eq!(shown.operations, []);
    assert_eq!(shown.marks[Azure], Fact::Known(mark(2, 3)));
    assert_eq!(shown.stage, Fact::Known(IN_AZURE));
}

#[test]
fn a_sync_that_somebody_else_ended_is_told_of() {
    let waited = kept::settle(
        &asked(ActionKind::Synchronize, Azure),
        &look(
            IN_AZURE,
            vec![job("new", JobKind::Failback, JobState::Waiting)],
        ),
        LIMITS,
        later(5),
    );
    let ended = |state| {
        show(
            &waited,
            &look(IN_AZURE, vec![job("new", JobKind::Failback, state)]),
        )
        .sync_ended
    };
    assert!(
        ended(JobState::Cancelling)
            .unwrap()
            .contains("somebody else")
    );
    assert!(
        ended(JobState::Cancelled)
            .unwrap()
            .contains("somebody else")
    );
    assert!(ended(failed()).unwrap().contains("no quota"));
    assert_eq!(ended(JobState::Waiting), None);
    assert_eq!(ended(STOPS), None, "somebody completed it");
    // Whoever looks now was never told of it.
    for (scenario, over) in [("None", true), ("PlannedFailover", false)] {
        let mut seen = look(IN_AZURE, vec![]);
        seen.jobs.as_mut().unwrap().scenario = scenario.into();
        let ended = show(&waited, &seen).sync_ended;
        assert_eq!(ended.is_some(), over, "{scenario}: {ended:?}");
        // Invariant 4: how far it was broken off is not known either.
        let noted = kept::settle(&waited, &seen, LIMITS, later(9)).inconsistent_because;
        assert_eq!(noted.is_some(), over, "{scenario}: {noted:?}");
    }
}

#[test]
fn the_site_that_the_vm_leaves_is_told_of_whoever_moves_it() {
    let leaving = |does, state| {
        let seen = look(IN_AZURE, vec![job("any", does, state)]);
        kept::show(Some(&register()), &seen, LIMITS, now()).leaving
    };
    assert_eq!(leaving(JobKind::Failback, RUNS), Some(Azure));
    assert_eq!(leaving(JobKind::Failover, STOPS), Some(OnPremises));
    assert_eq!(leaving(JobKind::Failback, JobState::Cancelled), None);
    assert_eq!(leaving(JobKind::Commit, RUNS), None);
    let missed = Job {
        missed: Some(now()),
        ..job("any", JobKind::Failback, RUNS)
    };
    let seen = look(IN_AZURE, vec![missed]);
    let shown = kept::show(Some(&register()), &seen, LIMITS, now());
    assert_eq!(shown.leaving, None, "who knows whether it goes on");
}

/// Invariant 4: the jobs that tell of a broken sync are forgotten one day; that it was broken is not, until the VM has come back.
#[test]
fn a_broken_sync_is_remembered_until_the_vm_has_come_back() {
    let broken = VmObservation {
        target_consistent: Fact::Known(false),
        inconsistent_because: Some("half written".into()),
        ..look(IN_AZURE, vec![])
    };
    let noted = kept::settle(&register(), &broken, LIMITS, later(5));
    assert_eq!(noted.inconsistent_because.as_deref(), Some("half written"));
    let quiet: Vec<Job> = vec![];
    let forgotten = look(IN_AZURE, quiet.clone());
    let still = kept::settle(&noted, &forgotten, LIMITS, later(6));
    let shown = kept::show(Some(&still), &forgotten, LIMITS, later(6));
    assert_eq!(shown.target_consistent, Fact::Known(false));
    assert_eq!(shown.inconsistent_because.as_deref(), Some("half written"));
    let home = kept::settle(&still, &look(ON_PREMISES, quiet), LIMITS, later(7));
    assert_eq!(home.inconsistent_because, None);
}
