//! Sequences that once failed, made as small as they get.

use homeward::api::Approval;
use homeward::api::Site::{Azure, OnPremises};
use homeward_asr_emulator::Scenario;

use super::operator::Disturbance;
use super::scenario::{Prelude, Press, Start, Step, Way, run};
use super::store::Answer;
use super::stories::start;

fn play(prelude: Prelude, steps: &[Step]) {
    if let Err(why) = run(&start(prelude), steps) {
        panic!("{why}");
    }
}

fn pass() -> Step {
    Step::Pass {
        operator: 0,
        disturbance: Disturbance::default(),
    }
}

/// The failover that was asked for in the portal meanwhile had failed at once, and was taken for the last move.
#[test]
fn a_broken_sync_is_told_of_though_something_was_asked_for_after_it() {
    play(
        Prelude::BackAtGate,
        &[
            Step::Press(Press::PlannedFailover),
            Step::Answer(Answer::Cancel),
        ],
    );
}

/// The process that reads it anew saw no more of the cancelled job than that there was one, since another had failed after it.
#[test]
fn a_broken_sync_is_told_of_by_a_process_that_has_not_seen_it() {
    play(
        Prelude::BackAtGate,
        &[
            Step::Press(Press::PlannedFailover),
            Step::Press(Press::Cancel),
            Step::Rebuild(OnPremises),
            Step::Wait { seconds: 2 },
        ],
    );
}

/// It was brought back and is not protected yet: the service moves nothing like that.
#[test]
fn a_lost_failover_after_its_commit() {
    play(
        Prelude::BackUnprotected,
        &[Step::LoseFailover, pass(), Step::Place(Azure)],
    );
}

/// For a moment the failover that could not be done was shown as under way, and the VM as if it were on-premises.
#[test]
fn an_unplanned_failover_while_a_failback_waits() {
    play(
        Prelude::BackAtGate,
        &[
            Step::Press(Press::UnplannedFailover),
            Step::Wait { seconds: 1 },
        ],
    );
}

/// For a moment the commit that could not be done made the VM uncommitted, and a move to the other site waited for its commit for ever.
#[test]
fn a_commit_is_pressed_where_nothing_waits_for_it() {
    play(
        Prelude::InAzure,
        &[
            Step::Place(OnPremises),
            pass(),
            Step::Press(Press::Commit),
            Step::Wait { seconds: 1 },
            pass(),
        ],
    );
}

/// Somebody protected the VM and moved it on at the service, while the move before still asked whether it is to be protected.
#[test]
fn a_vm_is_moved_on_at_the_service_before_its_last_move_has_ended() {
    play(
        Prelude::BackUnprotected,
        &[
            Step::Press(Press::Reprotect),
            Step::Wait { seconds: 30 },
            Step::Press(Press::PlannedFailover),
            Step::Wait { seconds: 30 },
            Step::Answer(Answer::ReverseReplicate),
        ],
    );
}

/// An unplanned failover was pressed while the planned one was on its way unanswered, and its job was taken for the result: the commit followed while
/// the first could still come.
#[test]
fn s18_an_unplanned_failover_is_not_the_result_of_a_planned_one() {
    play(
        Prelude::Nothing,
        &[
            Step::Meets(Way::Held(7)),
            Step::JobFails(Scenario::PlannedFailover, 0),
            Step::Run {
                operator: 0,
                passes: 1,
                seconds: 1,
            },
            Step::Place(Azure),
            pass(),
            Step::Press(Press::UnplannedFailover),
            Step::Run {
                operator: 0,
                passes: 6,
                seconds: 1,
            },
        ],
    );
}

/// The process that looked for it first knew of it by the item alone, and took it for a move to Azure once it had ended.
#[test]
fn a_sync_of_which_only_the_item_told_leaves_a_copy_that_is_not_to_be_started() {
    let one = |operator| Step::Run {
        operator,
        passes: 1,
        seconds: 0,
    };
    play(
        Prelude::BackAtGate,
        &[Step::Purge, one(1), Step::Die(0), Step::DeletePvm],
    );
}

/// The VM was free by the time that another process looked for the first time, which saw nothing of the job, took its move for one that had
/// synchronised nothing yet, and asked for another.
#[test]
fn s19_a_sync_that_nobody_can_tell_of_any_more_has_ended() {
    for ends in [Press::Cancel, Press::Resume] {
        play(
            Prelude::BackAtGate,
            &[
                Step::Purge,
                Step::Press(ends),
                Step::Wait { seconds: 1 },
                Step::Run {
                    operator: 1,
                    passes: 2,
                    seconds: 2,
                },
            ],
        );
    }
}

/// A process that had not looked for long followed a move that had been over for as long.
#[test]
fn a_move_that_the_service_does_not_know_any_more_is_followed_by_nobody() {
    let one = |operator| Step::Run {
        operator,
        passes: 1,
        seconds: 1,
    };
    play(
        Prelude::InAzure,
        &[
            one(0),
            Step::Press(Press::Failback { full: false }),
            one(0),
            one(1),
            Step::Purge,
        ],
    );
}

/// "Complete failover" was on its way, the Failover was lost, and so was the job: it was waited for without end what had come of the request, and
/// nobody was told what to look at.
#[test]
fn s18_a_request_to_a_job_that_is_not_told_of_any_more_is_left_to_people() {
    play(
        Prelude::BackAtGate,
        &[
            Step::Cutover(Approval::Automatic),
            Step::Meets(Way::Held(124)),
            Step::Run {
                operator: 0,
                passes: 1,
                seconds: 6,
            },
            Step::LoseFailover,
            Step::Purge,
        ],
    );
}

/// The Failover was lost and its job too, which the register still had under way: it was told again and again that the move is over.
#[test]
fn a_register_is_not_told_that_a_move_is_over_while_its_job_is_out_of_sight() {
    for last in [Step::Place(Azure), Step::DeletePvm] {
        play(
            Prelude::BackAtGate,
            &[
                Step::Answer(Answer::Cutover),
                Step::Cutover(Approval::Automatic),
                Step::Run {
                    operator: 0,
                    passes: 2,
                    seconds: 1,
                },
                Step::LoseFailover,
                Step::Purge,
                last,
                Step::Run {
                    operator: 0,
                    passes: 4,
                    seconds: 1,
                },
            ],
        );
    }
}

/// A plan was started at the service when the VM had come home, and its jobs were not told of any more: the move before them was believed to be
/// what waited for its commit, and one to Azure, which nobody had asked for here, was committed as a move home.
#[test]
fn s05_a_move_of_which_only_the_item_tells_is_not_committed_as_the_one_before() {
    play(
        Prelude::BackAtGate,
        &[
            Step::Answer(Answer::Cutover),
            Step::Run {
                operator: 0,
                passes: 6,
                seconds: 10,
            },
            Step::Press(Press::PlanFailover),
            Step::Purge,
        ],
    );
}

/// A failback out of sight that looks like a failover to Azure which waits for its commit: it is committed as what it was, and the Failover that was made
/// for it waits for nothing more.
#[test]
fn a_move_that_turns_out_to_be_another_one_ends_when_that_is_committed() {
    let looks_the_same = Start {
        assumptions: Some(31735),
        ..start(Prelude::InAzure)
    };
    let dies = |operator, dies_after, stands_still| Step::Pass {
        operator,
        disturbance: Disturbance {
            stale_resources: false,
            stale_vault: operator == 1,
            dies_after: Some(dies_after),
            stands_still,
        },
    };
    let steps = [
        Step::ReadsFail {
            status: 500,
            times: 7,
        },
        Step::DeletePvm,
        dies(1, 1, 0),
        dies(0, 3, 43),
        Step::Press(Press::Failback { full: true }),
        Step::Purge,
    ];
    if let Err(why) = run(&looks_the_same, &steps) {
        panic!("{why}");
    }
}
