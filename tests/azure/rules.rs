//! The safety rules of a service, one by one, over the whole way.

use homeward::api::Site::{self, Azure, OnPremises};
use homeward::api::{Approval, DataSyncRequest, FailoverPhase};
use homeward_asr_emulator::{JobState, Scenario};

use super::operator::Disturbance;
use super::scenario::{Checked, Prelude, Press, Start, Step, Way, World, in_time};
use super::store::Answer;
use super::stories::{passes, start};

/// Plays the steps after the prelude; what `look` finds wrong then, and what does not come to rest after that, is told.
fn play(prelude: Prelude, steps: &[Step], look: impl FnOnce(&World) -> Checked) {
    play_from(&start(prelude), steps, look);
}

pub fn play_from(start: &Start, steps: &[Step], look: impl FnOnce(&World) -> Checked) {
    let played = in_time(async {
        let mut world = World::new(start);
        world.prelude(start.prelude).await?;
        world.play(steps).await?;
        look(&world)?;
        world.converge().await
    });
    if let Err(why) = played {
        panic!("{why}");
    }
}

fn pass(disturbance: Disturbance) -> Step {
    Step::Pass {
        operator: 0,
        disturbance,
    }
}

fn old_look() -> Disturbance {
    Disturbance {
        stale_vault: true,
        ..Disturbance::default()
    }
}

/// How many mutations of this kind were sent.
pub fn sent(world: &World, operation: &str) -> usize {
    let is = |path: &str| path.ends_with(&format!("/{operation}"));
    world
        .wire
        .sent()
        .iter()
        .filter(|sent| is(&sent.path))
        .count()
}

#[allow(clippy::needless_pass_by_value)] // values read better where it is asked
pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Checked {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}"))
    }
}

fn state_of(world: &World, scenario: Scenario) -> Option<JobState> {
    let service = world.wire.service();
    let jobs = service.jobs();
    jobs.iter()
        .rev()
        .find(|job| job.scenario == scenario)
        .map(|job| job.state)
}

const THERE: [Step; 3] = [Step::Place(Azure), passes(2), Step::Answer(Answer::Start)];

#[test]
fn s18_a_request_is_not_sent_after_its_time() {
    let stands_still = Disturbance {
        stands_still: 31,
        ..Disturbance::default()
    };
    // The first pass makes the Failover, the second one asks for it to be moved.
    let steps = [
        Step::Place(Azure),
        passes(1),
        pass(stands_still),
        Step::Wait { seconds: 40 },
    ];
    play(Prelude::Protected, &steps, |world| {
        expect("requests", sent(world, "plannedFailover"), 0)
    });
}

#[test]
fn s18_a_request_that_is_in_time_is_sent_though_it_stood_still() {
    let stands_still = Disturbance {
        stands_still: 29,
        ..Disturbance::default()
    };
    let steps = [
        Step::Place(Azure),
        passes(1),
        pass(stands_still),
        Step::Wait { seconds: 40 },
    ];
    play(Prelude::Protected, &steps, |world| {
        expect("requests", sent(world, "plannedFailover"), 1)
    });
}

/// That nothing is sent meanwhile, and that it acts once, is looked at with each request.
#[test]
fn s18_nothing_is_sent_while_a_request_may_still_take_effect() {
    for seconds in [1, 60, 170] {
        let steps = [
            Step::Meets(Way::Held(seconds)),
            Step::Place(Azure),
            passes(60),
        ];
        play(Prelude::Protected, &steps, |world| {
            expect("requests", sent(world, "plannedFailover"), 1)
        });
    }
}

#[test]
fn s18_another_process_waits_for_what_the_one_before_has_sent() {
    let dies = Disturbance {
        // The Failover and the register are stored and the request is sent; its answer is not taken down any more.
        dies_after: Some(3),
        ..Disturbance::default()
    };
    let other = Step::Run {
        operator: 1,
        passes: 50,
        seconds: 4,
    };
    for way in [Way::Held(150), Way::AnswerLost, Way::Slow(20)] {
        let steps = [
            Step::Place(Azure),
            passes(1),
            Step::Meets(way),
            pass(dies),
            other.clone(),
        ];
        play(Prelude::Protected, &steps, |world| {
            expect("requests", sent(world, "plannedFailover"), 1)
        });
    }
}

/// Nothing happens at the service that would make this process list its jobs.
#[test]
fn s19_another_process_finds_out_that_a_request_was_lost() {
    let dies = Disturbance {
        dies_after: Some(3),
        ..Disturbance::default()
    };
    let other = |passes| Step::Run {
        operator: 1,
        passes,
        seconds: 20,
    };
    let steps = [
        other(2),
        // For a while after it began it lists them in any case.
        Step::Wait { seconds: 900 },
        Step::Place(Azure),
        passes(1),
        Step::Meets(Way::Lost),
        pass(dies),
        other(40),
    ];
    play(Prelude::Protected, &steps, |world| {
        expect("requests", sent(world, "plannedFailover"), 2)
    });
}

#[test]
fn s18_a_mutation_is_sent_once_an_attempt() {
    for status in [408, 500, 503] {
        let steps = [
            Step::Meets(Way::Fails(status)),
            Step::Place(Azure),
            passes(10),
        ];
        play(Prelude::Protected, &steps, |world| {
            expect("requests", sent(world, "plannedFailover"), 1)
        });
    }
}

#[test]
fn s19_what_was_lost_is_sent_again_once_it_can_have_no_effect_any_more() {
    let steps = [Step::Meets(Way::Lost), Step::Place(Azure), passes(40)];
    play(Prelude::Protected, &steps, |world| {
        expect(
            "requests within the wait",
            sent(world, "plannedFailover"),
            1,
        )
    });
    let steps = [Step::Meets(Way::Lost), Step::Place(Azure), passes(70)];
    play(Prelude::Protected, &steps, |world| {
        expect("requests after the wait", sent(world, "plannedFailover"), 2)
    });
}

#[test]
fn s19_a_request_whose_answer_was_lost_is_known_by_its_job() {
    for way in [Way::AnswerLost, Way::ActsAndFails(500)] {
        let steps = [Step::Meets(way), Step::Place(Azure), passes(20)];
        play(Prelude::Protected, &steps, |world| {
            expect("requests", sent(world, "plannedFailover"), 1)?;
            expect("commits", sent(world, "failoverCommit"), 1)
        });
    }
}

#[test]
fn s19_what_was_refused_is_sent_again_at_once() {
    for way in [Way::Throttled, Way::NoConnection, Way::Fails(409)] {
        let steps = [Step::Meets(way), Step::Place(Azure), passes(20)];
        play(Prelude::Protected, &steps, |world| {
            let service = world.wire.service();
            expect(
                "where it is",
                service
                    .machine("vm")
                    .map(|vm| vm.runs(homeward_asr_emulator::Site::Azure)),
                Some(true),
            )
        });
    }
}

/// A job that waits is told to go on once, though nobody heard that it was.
#[test]
fn s18_a_job_is_told_to_go_on_once() {
    for way in [Way::AnswerLost, Way::Held(100), Way::Slow(60)] {
        let steps = [Step::Meets(way), Step::Answer(Answer::Cutover), passes(60)];
        play(Prelude::BackAtGate, &steps, |world| {
            expect("resumes", sent(world, "resume"), 1)
        });
    }
}

#[test]
fn s20_a_failback_that_waits_is_cancelled_and_its_copy_is_not_to_be_started() {
    let steps = [Step::Answer(Answer::Cancel), passes(10)];
    play(Prelude::BackAtGate, &steps, |world| {
        expect("cancels", sent(world, "cancel"), 1)?;
        expect(
            "job",
            state_of(world, Scenario::Failback),
            Some(JobState::Cancelled),
        )?;
        expect(
            "TargetConsistent",
            world.said_of("TargetConsistent"),
            Some("False".to_owned()),
        )
    });
}

#[test]
fn s20_a_failback_is_cancelled_in_phase_one() {
    let steps = [
        Step::Place(OnPremises),
        passes(2),
        Step::Answer(Answer::Cancel),
        passes(10),
    ];
    play(Prelude::InAzure, &steps, |world| {
        expect("cancels", sent(world, "cancel"), 1)?;
        expect(
            "job",
            state_of(world, Scenario::Failback),
            Some(JobState::Cancelled),
        )
    });
}

/// The look is older than what somebody has done in the portal since: what is allowed is read anew right before it is asked for (S7).
#[test]
fn s20_what_has_begun_since_the_look_is_not_cancelled() {
    for wait in 0..2 {
        let steps = [
            passes(1),
            Step::Answer(Answer::Cancel),
            Step::Press(Press::Resume),
            Step::Wait { seconds: wait },
            pass(old_look()),
        ];
        play(Prelude::BackAtGate, &steps, |world| {
            expect("cancels", sent(world, "cancel"), 0)
        });
    }
}

#[test]
fn s19_what_was_done_since_the_look_is_not_asked_for_again() {
    let since = |before: Vec<Step>, press| {
        let mut steps = before;
        steps.extend([
            Step::Press(press),
            Step::Wait { seconds: 2 },
            pass(old_look()),
        ]);
        steps
    };
    let wish = |step| vec![passes(1), step];
    let rows = [
        (
            Prelude::Protected,
            since(vec![Step::Place(Azure), passes(1)], Press::PlannedFailover),
            "plannedFailover",
        ),
        (
            Prelude::InAzure,
            since(
                vec![passes(3), Step::Place(OnPremises), passes(1)],
                Press::Failback { full: false },
            ),
            "plannedFailover",
        ),
        (
            Prelude::BackAtGate,
            since(wish(Step::Answer(Answer::Cutover)), Press::Resume),
            "resume",
        ),
        (
            Prelude::ThereUncommitted,
            since(wish(Step::Answer(Answer::Commit)), Press::Commit),
            "failoverCommit",
        ),
        (
            Prelude::BackUnprotected,
            since(
                wish(Step::Answer(Answer::ReverseReplicate)),
                Press::Reprotect,
            ),
            "reProtect",
        ),
    ];
    for (prelude, steps, operation) in rows {
        let before = std::cell::Cell::new(0);
        play(prelude, &steps[..steps.len() - 1], |world| {
            before.set(sent(world, operation));
            Ok(())
        });
        play(prelude, &steps, |world| {
            expect(operation, sent(world, operation), before.get())
        });
    }
}

/// The wish to go back comes when the VM is being stopped: the move is led on, and a person is asked before it is committed.
#[test]
fn s20_a_job_that_stops_the_vm_is_led_on_whatever_is_wished() {
    for wish in [Step::Answer(Answer::Cancel), Step::Place(Azure)] {
        for wait in [0, 1, 2, 4, 6] {
            let steps = [
                Step::Answer(Answer::Cutover),
                passes(1),
                Step::Wait { seconds: wait },
                wish.clone(),
                passes(12),
            ];
            play(Prelude::BackAtGate, &steps, |world| {
                expect("cancels", sent(world, "cancel"), 0)?;
                expect("phase", world.phase(), Some(FailoverPhase::AwaitingCommit))
            });
        }
    }
}

#[test]
fn s20_a_full_download_and_a_failover_to_azure_are_never_cancelled() {
    for wait in [0, 1, 2, 4, 6] {
        let wish = |from: Site| {
            [
                Step::Wait { seconds: wait },
                Step::Place(from),
                Step::Answer(Answer::Cancel),
                passes(15),
            ]
        };
        let mut full = vec![
            Step::DataSync(DataSyncRequest::FullDuringFailover),
            Step::Place(OnPremises),
            passes(2),
        ];
        full.extend(wish(Azure));
        play(Prelude::InAzure, &full, |world| {
            expect("cancels", sent(world, "cancel"), 0)
        });
        let mut there = THERE.to_vec();
        there.extend(wish(OnPremises));
        play(Prelude::Protected, &there, |world| {
            expect("cancels", sent(world, "cancel"), 0)
        });
    }
}

/// What is done in the portal is taken for what was asked for, and not asked for again.
#[test]
fn s19_what_people_do_in_the_portal_is_followed() {
    let steps = [
        Step::Press(Press::Resume),
        passes(12),
        Step::Press(Press::Commit),
        passes(12),
    ];
    play(Prelude::BackAtGate, &steps, |world| {
        expect("resumes", sent(world, "resume"), 0)
    });
    let steps = [
        Step::Commit(Approval::Manual),
        Step::Press(Press::Commit),
        passes(6),
    ];
    play(Prelude::ThereUncommitted, &steps, |world| {
        expect("commits", sent(world, "failoverCommit"), 0)
    });
}

/// Jobs are purged, or moved to another name. That one has ended is believed only once the VM has been free of it for a while; then the VM
/// itself says what came of it, and nothing waits for ever.
#[test]
fn s19_a_job_that_the_service_does_not_know_any_more_has_ended_once_the_vm_is_free() {
    let look_once = Step::Run {
        operator: 0,
        passes: 1,
        seconds: 0,
    };
    for (prelude, to, commits) in [
        (Prelude::Protected, Azure, 0),
        (Prelude::InAzure, OnPremises, 1),
    ] {
        let steps = [
            Step::DataSync(DataSyncRequest::FullDuringFailover),
            Step::Place(to),
            passes(2),
            look_once.clone(),
            Step::Purge,
            passes(15),
        ];
        // It is waited for at first, whatever the VM says.
        play(prelude, &steps, |world| {
            expect("commits", sent(world, "failoverCommit"), commits)
        });
    }
    // It paused, and nobody can tell it to go on any more: it is cancelled in the portal, and another one brings the VM home.
    let steps = [Step::Press(Press::Cancel), Step::Purge, passes(100)];
    play(Prelude::BackAtGate, &steps, |world| {
        expect("requests to go on", sent(world, "resume"), 0)
    });
}

/// A failback that has paused, and whose job is told of no more: the item still names it, so that it may go on, and nothing proves otherwise.
/// Neither is anything asked for beside it, nor is it waited for without a word; what people then do with it is followed.
#[test]
fn s18_a_job_that_pauses_and_is_not_told_of_any_more_is_left_to_people() {
    let offers_all_the_while = (0..100)
        .find(|seed| homeward_asr_emulator::Assumptions::drawn(*seed).operations_while_suspended);
    for (assumptions, vmm) in [(None, false), (offers_all_the_while, true)] {
        for dies in [false, true] {
            let from = Start {
                assumptions,
                vmm,
                ..start(Prelude::BackAtGate)
            };
            let mut steps = vec![Step::Purge];
            if dies {
                steps.push(Step::Die(0));
            }
            steps.extend([Step::Answer(Answer::Cutover), passes(60)]);
            let left_alone = |world: &World| {
                expect("requests to go on", sent(world, "resume"), 0)?;
                expect("cancels", sent(world, "cancel"), 0)?;
                expect("moves", sent(world, "plannedFailover"), 2)?;
                let (reason, words) = world.reason_of("Stalled").unwrap_or_default();
                expect("reason", reason, "JobMissing".to_owned())?;
                let tells = words.contains("Do not start the VM on-premises");
                expect(&words, tells, true)?;
                let consistent = world.said_of("TargetConsistent");
                expect("TargetConsistent", consistent.as_deref(), Some("False"))
            };
            play_from(&from, &steps, left_alone);
            steps.extend([Step::Press(Press::Resume), passes(60)]);
            play_from(&from, &steps, |world| {
                expect("moves", sent(world, "plannedFailover"), 2)
            });
        }
    }
}
