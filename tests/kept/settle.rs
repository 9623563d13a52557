//! What came of a request.

use homeward::api::Site::{Azure, OnPremises};
use homeward::api::{KeptOutcome, KeptRegister, KeptRequest, KeptResult};
use homeward::domain::{ActionKind, ErrorClass, Job, JobKind, JobState, Stage, kept};

use super::bench::*;

fn settle(register: &KeptRegister, jobs: Vec<Job>) -> KeptRegister {
    kept::settle(register, &look(IN_AZURE, jobs), LIMITS, later(5))
}

fn outcome(register: &KeptRegister) -> Option<KeptOutcome> {
    register.request.as_ref().unwrap().outcome.clone()
}

fn result(register: &KeptRegister) -> Option<KeptResult> {
    outcome(register).map(|outcome| outcome.result)
}

#[test]
fn s19_the_newest_job_that_was_not_known_before_is_the_result() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let jobs = vec![
        job("OLD", JobKind::Failback, failed()),
        job("first", JobKind::Failback, failed()),
        job("new", JobKind::Failback, RUNS),
    ];
    let settled = settle(&asked, jobs);
    assert_eq!((settled.epoch, settled.step), (2, 4), "it took effect");
    let request = settled.request.unwrap();
    assert_eq!(request.job.as_deref(), Some("new"));
    assert!(request.accepted && request.outcome.is_none());
}

/// Whoever asks for the same at the same time is told by a job that another operation is in progress.
#[test]
fn s19_of_two_that_do_the_same_the_one_that_was_let_do_it_is_the_result() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let second = JobState::Failed {
        class: ErrorClass::Conflict,
        message: "532".into(),
    };
    let jobs = vec![
        job("first", JobKind::Failback, RUNS),
        job("second", JobKind::Failback, second.clone()),
    ];
    let settled = settle(&asked, jobs);
    assert_eq!(settled.request.unwrap().job.as_deref(), Some("first"));
    let alone = settle(&asked, vec![job("second", JobKind::Failback, second)]);
    assert_eq!(result(&alone), Some(KeptResult::Failed));
}

#[test]
fn s19_a_job_that_was_known_before_is_not_the_result() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let settled = settle(
        &asked,
        vec![job("Old", JobKind::Failback, JobState::Waiting)],
    );
    assert_eq!(settled, asked);
}

#[test]
fn s19_a_job_that_began_before_is_not_the_result() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let earlier = |seconds| {
        vec![Job {
            started: Some(later(seconds)),
            ..job("new", JobKind::Failback, JobState::Waiting)
        }]
    };
    assert_eq!(settle(&asked, earlier(-10)), asked);
    // The service tells of whole seconds.
    assert_eq!(
        result(&settle(&asked, earlier(-1))),
        Some(KeptResult::Succeeded)
    );
}

#[test]
fn s19_a_job_that_does_something_else_is_not_the_result() {
    let asked = asked(ActionKind::Synchronize, Azure);
    for does in [
        JobKind::Failover,
        JobKind::Commit,
        JobKind::Reprotect,
        JobKind::Other,
    ] {
        assert_eq!(
            settle(&asked, vec![job("new", does, failed())]),
            asked,
            "{does:?}"
        );
    }
}

/// It stands where it was asked to be, by a failover that somebody pressed; the request may still come to it.
#[test]
fn s18_what_somebody_else_has_done_is_not_the_result() {
    let asked = asked(ActionKind::CompleteFailover, OnPremises);
    let pressed = Job {
        unplanned: true,
        ..job("theirs", JobKind::Failover, JobState::Succeeded)
    };
    let there = Stage::TargetStarted {
        to: Azure,
        as_left: true,
    };
    let at = |register: &KeptRegister, seconds| {
        let look = look_at(seconds, there.clone(), vec![pressed.clone()]);
        kept::settle(register, &look, LIMITS, later(seconds))
    };
    assert_eq!(at(&asked, 10), asked);
    assert_eq!(result(&at(&asked, over() + 1)), Some(KeptResult::Succeeded));
    // What the service has taken is not on its way any more.
    let taken = kept::accepted(&asked);
    assert_eq!(result(&at(&taken, 10)), Some(KeptResult::Succeeded));
}

#[test]
fn s18_nothing_is_known_for_good_within_the_longest_life_of_a_request() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let at = |listed, now| {
        kept::settle(
            &asked,
            &look_at(listed, IN_AZURE, vec![]),
            LIMITS,
            later(now),
        )
    };
    assert_eq!(at(over() - 1, over() - 1), asked);
    assert_eq!(
        result(&at(over() + 1, over() + 1)),
        Some(KeptResult::NoEffect)
    );
    // A look from before that shows nothing of what may have come since.
    assert_eq!(at(over() - 1, over() + 100), asked);
    let blind = without_jobs(look(IN_AZURE, vec![]));
    assert_eq!(
        kept::settle(&asked, &blind, LIMITS, later(over() + 100)),
        asked
    );
}

#[test]
fn s19_a_service_that_has_something_else_under_way_is_no_unchanged_baseline() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let with = |scenario: &str| {
        let mut seen = look_at(over() + 1, IN_AZURE, vec![]);
        seen.jobs.as_mut().unwrap().scenario = scenario.into();
        kept::settle(&asked, &seen, LIMITS, later(over() + 1))
    };
    assert_eq!(with("PlannedFailover"), asked);
    assert_eq!(result(&with("None")), Some(KeptResult::NoEffect));
}

#[test]
fn what_had_no_effect_leaves_the_register_where_it_stood() {
    let asked = asked(ActionKind::Synchronize, Azure);
    let settled = kept::settle(
        &asked,
        &look_at(over() + 1, IN_AZURE, vec![]),
        LIMITS,
        later(over() + 1),
    );
    assert_eq!((settled.epoch, settled.step), (2, 3));
    let refused = kept::refused(&asked);
    assert_eq!((refused.epoch, refused.step), (2, 3));
    assert_eq!(result(&refused), Some(KeptResult::NoEffect));
}

/// What is known for good does not change any more, whatever is looked at.
#[test]
fn an_outcome_stands() {
    let done = settle(
        &asked(ActionKind::Synchronize, Azure),
        vec![job("new", JobKind::Failback, JobState::Waiting)],
    );
    assert_eq!(
        settle(&done, vec![job("new", JobKind::Failback, failed())]),
        done
    );
    assert_eq!(settle(&done, vec![]).request, done.request);
}

#[test]
fn what_the_state_of_the_job_says_of_each_action() {
    use KeptResult::{Failed, Succeeded};
    // The action, whether it acts on a job that was there, the state, and what is known: none while it goes on.
    let rows: [(ActionKind, JobKind, bool, JobState, Option<KeptResult>); 18] = [
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            RUNS,
            None,
        ),
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            JobState::Cancelling,
            None,
        ),
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            JobState::Waiting,
            Some(Succeeded),
        ),
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            JobState::Succeeded,
            Some(Succeeded),
        ),
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            JobState::Cancelled,
            Some(Failed),
        ),
        (
            ActionKind::Synchronize,
            JobKind::Failback,
            false,
            failed(),
            Some(Failed),
        ),
        (
            ActionKind::CompleteFailover,
            JobKind::Failback,
            true,
            JobState::Waiting,
            None,
        ),
        (
            ActionKind::CompleteFailover,
            JobKind::Failback,
            true,
            STOPS,
            None,
        ),
        (
            ActionKind::CompleteFailover,
            JobKind::Failback,
            true,
            JobState::Succeeded,
            Some(Succeeded),
        ),
        (
            ActionKind::CompleteFailover,
            JobKind::Failback,
            true,
            JobState::Cancelled,
            Some(Failed),
        ),
        (
            ActionKind::CompleteFailover,
            JobKind::Failback,
            true,
            failed(),
            Some(Failed),
        ),
        (ActionKind::CancelSync, JobKind::Failback, true, RUNS, None),
        (
            ActionKind::CancelSync,
            JobKind::Failback,
            true,
            JobState::Waiting,
            None,
        ),
        (
            ActionKind::CancelSync,
            JobKind::Failback,
            true,
            JobState::Cancelling,
            None,
        ),
        (
            ActionKind::CancelSync,
            JobKind::Failback,
            true,
            JobState::Cancelled,
            Some(Succeeded),
        ),
        (
            ActionKind::CancelSync,
            JobKind::Failback,
            true,
            failed(),
            Some(Succeeded),
        ),
        (
            ActionKind::CancelSync,
            JobKind::Failback,
            true,
            JobState::Succeeded,
            Some(Failed),
        ),
        (
            ActionKind::ReverseReplicate,
            JobKind::Reprotect,
            false,
            failed(),
            Some(Failed),
        ),
    ];
    for (kind, does, acts_on, state, expected) in rows {
        let asked = if acts_on {
            asked_of(kind, Azure, "new")
        } else {
            asked(kind, Azure)
        };
        let settled = settle(&asked, vec![job("new", does, state.clone())]);
        assert_eq!(result(&settled), expected, "{kind} {state:?}");
        let known = outcome(&settled);
        if let (Some(outcome), JobState::Failed { .. }, Some(Failed)) = (&known, &state, expected) {
            assert_eq!(
                outcome.class.as_deref(),
                Some(ErrorClass::Capacity.as_str())
            );
            assert_eq!(outcome.message.as_deref(), Some("no quota"));
            assert_eq!(outcome.job.as_deref(), Some("new"));
        }
    }
}

/// The job may have gone from the list, or never have been seen: of a request that the service took, where the VM stands is as good.
#[test]
fn where_the_vm_stands_says_that_it_took_effect() {
    let started = |to| Stage::TargetStarted { to, as_left: true };
    let rows = [
        (
            ActionKind::CompleteFailover,
            OnPremises,
            started(Azure),
            true,
        ),
        (ActionKind::CompleteFailover, OnPremises, IN_AZURE, true),
        (ActionKind::CompleteFailover, OnPremises, ON_PREMISES, false),
        (
            ActionKind::CompleteFailover,
            Azure,
            started(OnPremises),
            true,
        ),
        (ActionKind::CompleteFailover, Azure, IN_AZURE, false),
        (ActionKind::Commit, Azure, IN_AZURE, true),
        (ActionKind::Commit, Azure, started(Azure), false),
        (ActionKind::Commit, OnPremises, ON_PREMISES, true),
        (ActionKind::Synchronize, Azure, IN_AZURE, false),
    ];
    for (kind, site, stage, shows) in rows {
        let settled = kept::settle(
            &kept::accepted(&asked(kind, site)),
            &look(stage.clone(), vec![]),
            LIMITS,
            later(5),
        );
        let expected = shows.then_some(KeptResult::Succeeded);
        assert_eq!(result(&settled), expected, "{kind} {stage:?}");
    }
}

#[test]
fn a_register_of_an_action_nobody_knows_holds_nothing_up() {
    let strange = KeptRegister {
        request: Some(KeptRequest {
            action: "Levitate".into(),
            ..request(ActionKind::Commit, Azure)
        }),
        ..register()
    };
    assert_eq!(
        result(&settle(&strange, vec![])),
        Some(KeptResult::NoEffect)
    );
}

#[test]
fn s19_a_job_that_was_lost_has_ended_and_the_vm_says_how() {
    let lost = |does| vec![job("new", does, JobState::Lost)];
    let moved = Stage::TargetStarted {
        to: Azure,
        as_left: true,
    };
    let there = asked(ActionKind::CompleteFailover, OnPremises);
    let at = |stage: Stage| {
        let look = look(stage, lost(JobKind::Failover));
        kept::settle(&there, &look, LIMITS, later(5))
    };
    assert_eq!(result(&at(moved)), Some(KeptResult::Succeeded));
    let stands = outcome(&at(ON_PREMISES)).unwrap();
    assert_eq!(stands.result, KeptResult::Failed);
    assert_eq!(
        stands.class.as_deref(),
        Some(ErrorClass::Transient.as_str())
    );
    assert!(
        stands
            .message
            .unwrap()
            .contains("does not know job new any more")
    );
    // Whatever became of a sync, it goes on no more.
    let cancel = asked(ActionKind::CancelSync, Azure);
    let cancelled = settle(&cancel, lost(JobKind::Failback));
    assert_eq!(result(&cancelled), Some(KeptResult::Succeeded));
}

/// Another process has taken over meanwhile: nobody has seen the job's last words.
#[test]
fn s19_a_sync_whose_job_is_told_of_no_more_may_have_written_half_of_the_copy() {
    let mut begun = asked(ActionKind::Synchronize, Azure);
    if let Some(request) = &mut begun.request {
        request.job = Some("gone".into());
        request.accepted = true;
    }
    let at = |register: &KeptRegister| {
        let look = look_at(over() + 1, IN_AZURE, vec![]);
        kept::settle(register, &look, LIMITS, later(over() + 1))
    };
    let settled = at(&begun);
    assert_eq!(result(&settled), Some(KeptResult::NoEffect));
    let why = settled.inconsistent_because.unwrap();
    assert!(
        why.contains("job gone") && why.contains("must not be started"),
        "{why}"
    );
    // What was never seen to begin has written nothing.
    let never = at(&asked(ActionKind::Synchronize, Azure));
    assert_eq!(result(&never), Some(KeptResult::NoEffect));
    assert_eq!(never.inconsistent_because, None);
}

/// S7: a state that was told long ago is no baseline that stayed unchanged.
#[test]
fn s19_a_job_that_is_not_told_of_now_does_not_prove_that_it_was_not_steered() {
    for kind in [ActionKind::CompleteFailover, ActionKind::CancelSync] {
        for missed in [None, Some(later(3))] {
            let asked = asked_of(kind, Azure, "j");
            let waits = Job {
                missed,
                ..job("j", JobKind::Failback, JobState::Waiting)
            };
            let late = over() + 5;
            let look = look_at(late, IN_AZURE, vec![waits]);
            let settled = kept::settle(&asked, &look, LIMITS, later(late));
            let expected = missed.is_none().then_some(KeptResult::NoEffect);
            assert_eq!(result(&settled), expected, "{kind}, {missed:?}");
        }
    }
}
