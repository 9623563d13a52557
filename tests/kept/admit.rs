//! What may be sent, and what is stored before.

use homeward::api::KeptRegister;
use homeward::api::Site::{Azure, OnPremises};
use homeward::api::{DataSync, KeptResult};
use homeward::domain::kept::{self, Admitted, Refusal};
use homeward::domain::{
    Action, ActionKind, Claim, ErrorClass, JobKind, JobState, Stage, Submission, VmObservation,
};

use super::bench::*;

fn admit(
    register: &KeptRegister,
    look: &VmObservation,
    order: &Submission,
) -> Result<Admitted, Refusal> {
    kept::admit(Some(register), look, order, LIMITS, later(5))
}

fn refused(register: &KeptRegister, look: &VmObservation, order: &Submission) -> Refusal {
    admit(register, look, order).expect_err("it must be refused")
}

#[test]
fn s01_nobodys_vm_takes_nothing_but_to_be_taken_on() {
    let seen = look(IN_AZURE, vec![]);
    for kind in ActionKind::ALL {
        let Some(action) = Action::of_move(kind, Azure, DataSync::DeltaBeforeFailover) else {
            continue;
        };
        let refusal =
            kept::admit(None, &seen, &order(action, mark(1, 1)), LIMITS, now()).unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Denied, "{kind}");
    }
    let adopt = Action::Adopt {
        at: Azure,
        takeover: None,
    };
    let admitted = kept::admit(None, &seen, &order(adopt, mark(1, 1)), LIMITS, now()).unwrap();
    let register = admitted.register.unwrap();
    assert_eq!((register.epoch, register.step), (1, 1));
    assert_eq!(register.vm_uid, "uid");
    assert_eq!(admitted.send, None);
}

#[test]
fn s01_a_claim_moves_only_by_an_explicit_takeover() {
    let seen = look(IN_AZURE, vec![]);
    let other = Claim {
        cluster: "another".into(),
        ..claim()
    };
    let with = |takeover: Option<Claim>| Submission {
        claim: other.clone(),
        failover: None,
        ..order(
            Action::Adopt {
                at: Azure,
                takeover,
            },
            mark(2, 4),
        )
    };
    assert_eq!(
        refused(&register(), &seen, &with(None)).class,
        ErrorClass::Denied
    );
    let wrong = refused(&register(), &seen, &with(Some(other.clone())));
    assert_eq!(wrong.class, ErrorClass::Denied);
    let taken = admit(&register(), &seen, &with(Some(claim()))).unwrap();
    assert_eq!(taken.register.unwrap().cluster, "another");
    let foreign = Submission {
        claim: other,
        ..back(ActionKind::Synchronize, mark(2, 4))
    };
    assert_eq!(
        refused(&register(), &seen, &foreign).class,
        ErrorClass::Denied
    );
}

#[test]
fn s01_another_failover_is_refused_until_the_one_before_was_released() {
    let seen = look(IN_AZURE, vec![]);
    let other = Submission {
        failover: Some("fo-2".into()),
        ..back(ActionKind::Synchronize, mark(2, 4))
    };
    assert_eq!(
        refused(&register(), &seen, &other).class,
        ErrorClass::Conflict
    );
    let release = Submission {
        failover: None,
        ..order(Action::Release, mark(2, 4))
    };
    let released = admit(&register(), &seen, &release)
        .unwrap()
        .register
        .unwrap();
    assert_eq!(released.failover, None);
    assert!(
        admit(
            &released,
            &seen,
            &Submission {
                mark: mark(2, 5),
                ..other
            }
        )
        .is_ok()
    );
    // In the middle of its move nothing else is let in.
    let midway = look(Stage::SourceFenced { from: Azure }, vec![]);
    assert_eq!(
        refused(&register(), &midway, &release).class,
        ErrorClass::Conflict
    );
}

#[test]
fn s02_an_older_order_is_refused() {
    let seen = look(IN_AZURE, vec![]);
    for old in [mark(2, 3), mark(2, 2), mark(1, 9)] {
        let refusal = refused(&register(), &seen, &back(ActionKind::Synchronize, old));
        assert_eq!(refusal.class, ErrorClass::Conflict, "{old}");
    }
    for none in [mark(0, 4), mark(2, 0)] {
        let refusal = refused(&register(), &seen, &back(ActionKind::Synchronize, none));
        assert_eq!(refusal.class, ErrorClass::Invalid, "{none}");
    }
}

#[test]
fn s02_an_equal_step_only_returns_what_is_known_of_it() {
    let runs = look(IN_AZURE, vec![job("new", JobKind::Failback, RUNS)]);
    let register = asked(ActionKind::Synchronize, Azure);
    let same = back(ActionKind::Synchronize, mark(2, 4));
    assert_eq!(admit(&register, &runs, &same).unwrap().send, None);
    let done = look(IN_AZURE, vec![job("new", JobKind::Failback, failed())]);
    assert_eq!(admit(&register, &done, &same).unwrap().send, None);
}

#[test]
fn a_vm_in_the_middle_of_a_move_is_not_let_go() {
    let midway = look(
        Stage::TargetStarted {
            to: Azure,
            as_left: true,
        },
        vec![],
    );
    let detach = order(Action::Detach, mark(2, 4));
    assert_eq!(
        refused(&register(), &midway, &detach).class,
        ErrorClass::Conflict
    );
    let rests = look(IN_AZURE, vec![]);
    assert_eq!(admit(&register(), &rests, &detach).unwrap().register, None);
}

#[test]
fn s05_a_commit_is_of_what_waits_for_it() {
    for (to, at, may) in [(Azure, Azure, true), (Azure, OnPremises, false)] {
        let waits = look(Stage::TargetStarted { to, as_left: true }, vec![]);
        let commit = order(Action::Commit { at }, mark(2, 4));
        let admitted = admit(&register(), &waits, &commit);
        assert_eq!(admitted.is_ok(), may, "{at} while it is {to}: {admitted:?}");
    }
}

#[test]
fn s18_all_that_was_known_before_is_stored_with_the_attempt() {
    let mut seen = look(
        IN_AZURE,
        (0..30)
            .map(|n| job(&format!("j-{n}"), JobKind::Commit, JobState::Succeeded))
            .collect(),
    );
    seen.jobs.as_mut().unwrap().scenario = "TestFailover".into();
    let admitted = admit(
        &register(),
        &seen,
        &back(ActionKind::Synchronize, mark(2, 4)),
    )
    .unwrap();
    let attempt = admitted.send.unwrap();
    let register = admitted.register.unwrap();
    let request = register.request.unwrap();
    assert_eq!(
        (register.epoch, register.step),
        (2, 3),
        "not before it took effect"
    );
    assert_eq!((request.epoch, request.step, request.attempt), (2, 4, 1));
    assert_eq!(request.action, "Synchronize");
    assert_eq!(request.send_before.0, later(5) + LIMITS.send_within);
    assert_eq!(attempt.send_before, request.send_before.0);
    assert_eq!(attempt.jobs_before, request.jobs_before);
    assert_eq!(request.jobs_before.len(), 24);
    assert_eq!(request.jobs_before[0], "j-29", "the newest come first");
    assert_eq!(request.scenario_before, "TestFailover");
    assert_eq!(request.server_time.unwrap().0, later(5));
    assert!(!request.accepted && request.outcome.is_none());
}

#[test]
fn s18_nothing_is_sent_without_a_look_at_the_jobs() {
    let blind = without_jobs(look(IN_AZURE, vec![]));
    let refusal = refused(
        &register(),
        &blind,
        &back(ActionKind::Synchronize, mark(2, 4)),
    );
    assert_eq!(refusal.class, ErrorClass::Transient);
}

#[test]
fn s18_nothing_is_sent_before_the_outcome_of_the_last_request_is_known() {
    let seen = look(IN_AZURE, vec![]);
    let register = asked(ActionKind::Synchronize, Azure);
    let same = refused(&register, &seen, &back(ActionKind::Synchronize, mark(2, 4)));
    assert!(same.ambiguous, "the very same may have taken effect");
    for kind in [
        ActionKind::Synchronize,
        ActionKind::CancelSync,
        ActionKind::CompleteFailover,
        ActionKind::Commit,
    ] {
        let refusal = refused(&register, &seen, &back(kind, mark(3, 1)));
        assert_eq!(refusal.class, ErrorClass::Conflict, "{kind}");
        assert!(!refusal.ambiguous, "{kind}");
    }
    for action in [Action::Release, Action::Detach] {
        assert_eq!(
            refused(&register, &seen, &order(action, mark(3, 1))).class,
            ErrorClass::Conflict
        );
    }
}

#[test]
fn s18_a_request_that_the_service_took_is_not_sent_again() {
    let seen = look(IN_AZURE, vec![]);
    let register = kept::accepted(&asked(ActionKind::Synchronize, Azure));
    let admitted = admit(&register, &seen, &back(ActionKind::Synchronize, mark(2, 4))).unwrap();
    assert_eq!(admitted.send, None);
    assert_eq!(admitted.register, Some(register));
}

#[test]
fn s18_s19_it_is_asked_for_again_once_it_can_have_no_effect_any_more() {
    let register = asked(ActionKind::Synchronize, Azure);
    let same = back(ActionKind::Synchronize, mark(2, 4));
    let at = |listed, now| {
        let seen = look_at(listed, IN_AZURE, vec![]);
        kept::admit(Some(&register), &seen, &same, LIMITS, later(now))
    };
    assert!(at(over() - 1, over() - 1).is_err());
    let again = at(over() + 1, over() + 1).unwrap();
    assert_eq!(again.register.unwrap().request.unwrap().attempt, 2);
    assert!(again.send.is_some());
    // What is looked at must be from after that, too: it may have taken effect since.
    assert!(at(over() - 1, over() + 60).is_err());
}

/// The look of this process is from before another one has asked: what has ended since is not to be seen in it.
#[test]
fn s07_nothing_follows_from_a_look_that_began_before_the_last_request() {
    let done = kept::refused(&asked(ActionKind::Synchronize, Azure));
    let old = look_at(-1, IN_AZURE, vec![]);
    let order = back(ActionKind::Synchronize, mark(2, 5));
    assert_eq!(refused(&done, &old, &order).class, ErrorClass::Conflict);
    let shown = kept::show(Some(&done), &old, LIMITS, later(5));
    assert!(shown.stage.why_unknown().is_some());
    assert!(admit(&done, &look(IN_AZURE, vec![]), &order).is_ok());
    let waits = look_at(
        -1,
        IN_AZURE,
        vec![job("new", JobKind::Failback, JobState::Waiting)],
    );
    let asked = asked(ActionKind::Synchronize, Azure);
    assert_eq!(kept::settle(&asked, &waits, LIMITS, later(5)), asked);
}

#[test]
fn s19_an_answer_that_says_that_nothing_was_done_is_proof_enough() {
    let register = kept::refused(&asked(ActionKind::Synchronize, Azure));
    let seen = look(IN_AZURE, vec![]);
    let again = admit(&register, &seen, &back(ActionKind::Synchronize, mark(2, 4))).unwrap();
    assert_eq!(again.register.unwrap().request.unwrap().attempt, 2);
    let other = admit(&register, &seen, &back(ActionKind::Synchronize, mark(2, 5))).unwrap();
    assert_eq!(other.register.unwrap().request.unwrap().attempt, 1);
}

#[test]
fn s19_a_job_that_does_it_already_is_taken_for_the_result_and_nothing_is_sent() {
    let failback = |state| look(IN_AZURE, vec![job("theirs", JobKind::Failback, state)]);
    for state in [RUNS, JobState::Waiting] {
        let order = back(ActionKind::Synchronize, mark(2, 4));
        let admitted = admit(&register(), &failback(state), &order).unwrap();
        assert_eq!(admitted.send, None);
        let request = admitted.register.unwrap().request.unwrap();
        assert_eq!(request.job.as_deref(), Some("theirs"));
        assert!(request.accepted);
    }
    let commits = look(
        Stage::TargetStarted {
            to: Azure,
            as_left: true,
        },
        vec![job("theirs", JobKind::Commit, STOPS)],
    );
    let commit = there(ActionKind::Commit, mark(2, 4));
    assert_eq!(admit(&register(), &commits, &commit).unwrap().send, None);
}

#[test]
fn nothing_is_sent_while_a_job_of_an_earlier_request_goes_on_but_its_cancel() {
    let runs = look(IN_AZURE, vec![job("new", JobKind::Failback, RUNS)]);
    let register = asked(ActionKind::Synchronize, Azure);
    let complete = refused(
        &register,
        &runs,
        &back(ActionKind::CompleteFailover, mark(3, 1)),
    );
    assert_eq!(complete.class, ErrorClass::Conflict);
    let cancel = admit(&register, &runs, &back(ActionKind::CancelSync, mark(2, 5))).unwrap();
    assert_eq!(cancel.send.unwrap().job.as_deref(), Some("new"));
}

#[test]
fn a_delta_is_completed_by_the_job_that_waits_for_it_and_by_no_new_one() {
    let waits = look(
        IN_AZURE,
        vec![job("new", JobKind::Failback, JobState::Waiting)],
    );
    let complete = back(ActionKind::CompleteFailover, mark(3, 1));
    let admitted = admit(&register(), &waits, &complete).unwrap();
    assert_eq!(admitted.send.unwrap().job.as_deref(), Some("new"));
    let nothing = look(IN_AZURE, vec![]);
    let refusal = refused(&register(), &nothing, &complete);
    assert_eq!(refusal.class, ErrorClass::Conflict);
    // The full download is one job from its beginning.
    let full = order(
        Action::CompleteFailover {
            from: Azure,
            data_sync: DataSync::FullDuringFailover,
        },
        mark(3, 1),
    );
    assert_eq!(
        admit(&register(), &nothing, &full)
            .unwrap()
            .send
            .unwrap()
            .job,
        None
    );
    let there = there(ActionKind::CompleteFailover, mark(3, 1));
    let rests = look(ON_PREMISES, vec![]);
    assert_eq!(
        admit(&register(), &rests, &there)
            .unwrap()
            .send
            .unwrap()
            .job,
        None
    );
}

#[test]
fn s20_a_job_that_has_begun_to_stop_the_vm_is_not_cancelled() {
    let stops = look(
        Stage::SourceFenced { from: Azure },
        vec![job("new", JobKind::Failback, STOPS)],
    );
    let refusal = refused(
        &register(),
        &stops,
        &back(ActionKind::CancelSync, mark(2, 4)),
    );
    assert_eq!(refusal.class, ErrorClass::Conflict);
}

#[test]
fn s20_a_cancel_is_sent_in_phase_one_and_while_it_waits_and_not_twice() {
    let with = |state| look(IN_AZURE, vec![job("new", JobKind::Failback, state)]);
    let cancel = back(ActionKind::CancelSync, mark(2, 4));
    for state in [RUNS, JobState::Waiting] {
        let admitted = admit(&register(), &with(state), &cancel).unwrap();
        assert_eq!(admitted.send.unwrap().job.as_deref(), Some("new"));
        // It ends the move once it has taken effect, not before.
        let failover = admitted.register.unwrap().failover;
        assert_eq!(failover.as_deref(), Some(FAILOVER));
    }
    let twice = admit(&register(), &with(JobState::Cancelling), &cancel).unwrap();
    assert_eq!(twice.send, None);
    // With nothing to cancel it is done.
    let nothing = admit(&register(), &look(IN_AZURE, vec![]), &cancel).unwrap();
    assert_eq!(nothing.send, None);
    let register = nothing.register.unwrap();
    assert_eq!((register.epoch, register.step), (2, 4));
    assert_eq!(
        register.request.unwrap().outcome.unwrap().result,
        KeptResult::Succeeded
    );
}

/// One VM's gates, and its cancel, say nothing of the others that move by the same job.
#[test]
fn s20_what_other_vms_move_by_is_neither_told_to_go_on_nor_cancelled() {
    let with = |state| {
        let mut job = job("new", JobKind::Failback, state);
        job.plan = Some("plan-1".into());
        look(IN_AZURE, vec![job])
    };
    for (kind, state) in [
        (ActionKind::CompleteFailover, JobState::Waiting),
        (ActionKind::CancelSync, JobState::Waiting),
        (ActionKind::CancelSync, RUNS),
    ] {
        let refusal = refused(&register(), &with(state), &back(kind, mark(3, 1)));
        assert_eq!(refusal.class, ErrorClass::Conflict, "{kind}");
        assert!(refusal.message.contains("plan-1"), "{}", refusal.message);
    }
    // It does what a sync would do, and is followed.
    let sync = back(ActionKind::Synchronize, mark(2, 4));
    let followed = admit(&register(), &with(RUNS), &sync).unwrap();
    assert_eq!(followed.send, None);
    let request = followed.register.unwrap().request.unwrap();
    assert_eq!(request.job.as_deref(), Some("new"));
}

#[test]
fn s20_what_the_service_cannot_do_is_not_asked_of_it() {
    let seen = look(IN_AZURE, vec![]);
    let delta = DataSync::DeltaBeforeFailover;
    let impossible = [
        Action::StopSource { from: Azure },
        Action::FinalSync {
            from: Azure,
            data_sync: delta,
        },
        Action::StartTarget { to: OnPremises },
        Action::RetireSource { at: Azure },
        Action::FenceTarget { to: OnPremises },
        Action::ResumeSource { from: Azure },
        Action::Protect { from: Azure },
        Action::ReverseReplicate { from: Azure },
        Action::Synchronize { from: OnPremises },
    ];
    for action in impossible {
        let refusal = refused(&register(), &seen, &order(action.clone(), mark(3, 1)));
        assert_eq!(refusal.class, ErrorClass::Invalid, "{action:?}");
    }
}
