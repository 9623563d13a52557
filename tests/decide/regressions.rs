//! Sequences that once failed, made as small as they get.

use homeward::api::Approval;
use homeward::api::Site::{Azure, OnPremises};
use homeward::domain::ErrorClass;
use homeward::driver::simulated::Fate;
use jiff::SignedDuration;

use super::operator::Disturbance;
use super::scenario::{Kind, Prelude, Start, Step, run};
use super::store::Answer;

fn play(kind: Kind, steps: &[Step]) {
    play_from(kind, true, Prelude::Nothing, steps);
}

/// Of a VM that is switched off.
fn play_off(kind: Kind, steps: &[Step]) {
    play_from(kind, false, Prelude::Nothing, steps);
}

fn play_from(kind: Kind, running: bool, prelude: Prelude, steps: &[Step]) {
    let start = Start {
        kind,
        running,
        placement: OnPremises,
        prelude,
    };
    if let Err(why) = run(&start, steps) {
        panic!("{why}");
    }
}

const fn run_of(operator: usize, passes: u8, beats: u8) -> Step {
    Step::Run {
        operator,
        passes,
        beats,
    }
}

/// The next Failover took the move up and was cancelled before it had looked, again and again, while the VM stayed down.
#[test]
fn a_lost_move_is_taken_up_even_when_the_vm_is_to_stay() {
    let steps = [
        run_of(0, 5, 4),
        Step::Place(Azure),
        run_of(0, 8, 2),
        Step::LoseFailover,
        Step::Place(OnPremises),
    ];
    play(Kind::Agents, &steps);
    play(Kind::Service, &steps);
}

/// A rebuilt cluster has another claim, and the registers took no order of the move from it.
#[test]
fn a_rebuilt_cluster_takes_the_claim_over_in_the_middle_of_a_move() {
    for passes in 1..14 {
        let steps = [
            run_of(0, 5, 4),
            Step::Place(Azure),
            run_of(0, passes, 1),
            Step::Rebuild(OnPremises),
        ];
        play(Kind::Agents, &steps);
        play(Kind::Service, &steps);
    }
}

/// Only one of the two registers had heard of the new claim, or of its end.
#[test]
fn claims_that_moved_half_way_move_on() {
    for fate in [Fate::LostBefore, Fate::LostAfter] {
        play(
            Kind::Agents,
            &[
                run_of(0, 5, 4),
                Step::Rebuild(Azure),
                Step::Fate(fate),
                run_of(0, 1, 0),
            ],
        );
        play(
            Kind::Agents,
            &[
                run_of(0, 5, 4),
                Step::DeletePvm,
                Step::Fate(fate),
                run_of(0, 1, 0),
            ],
        );
    }
}

#[test]
fn two_operators_one_behind() {
    let behind = Disturbance {
        stale_resources: true,
        ..Disturbance::default()
    };
    play(
        Kind::Service,
        &[
            Step::Pass {
                operator: 1,
                disturbance: Disturbance::default(),
            },
            Step::Place(Azure),
            run_of(0, 3, 0),
            Step::Pass {
                operator: 1,
                disturbance: behind,
            },
        ],
    );
}

/// Who deletes the resource of a rebuilt cluster is not to leave the VM down between two sites.
#[test]
fn a_move_of_a_holder_that_is_gone_is_ended_before_letting_go() {
    play(
        Kind::Agents,
        &[
            run_of(0, 2, 0),
            Step::Place(Azure),
            run_of(0, 4, 2),
            Step::Rebuild(OnPremises),
            Step::DeletePvm,
        ],
    );
}

/// The answer could not be changed, and the driver could not follow it.
#[test]
fn a_rollback_that_the_driver_cannot_do_leaves_a_way_on() {
    play(
        Kind::Service,
        &[
            run_of(0, 5, 4),
            Step::Commit(Approval::Manual),
            Step::Place(Azure),
            run_of(0, 12, 2),
            Step::Answer(Answer::Rollback),
        ],
    );
}

/// Orders of the cluster before arrive while the claim moves.
#[test]
fn late_orders_of_the_claim_before() {
    use jiff::SignedDuration;
    play(
        Kind::Agents,
        &[
            Step::Place(Azure),
            run_of(0, 2, 0),
            Step::Fate(Fate::Late(SignedDuration::from_millis(1300))),
            Step::Fate(Fate::Late(SignedDuration::from_millis(700))),
            Step::LoseFailover,
            run_of(0, 2, 0),
            Step::Rebuild(Azure),
            run_of(0, 1, 0),
        ],
    );
}

/// One pass, of a look at the vault from before or of a new one.
fn pass(operator: usize, stale_vault: bool) -> Step {
    Step::Pass {
        operator,
        disturbance: Disturbance {
            stale_vault,
            ..Disturbance::default()
        },
    }
}

fn late(beats: i64) -> Step {
    Step::Fate(Fate::Late(jiff::SignedDuration::from_millis(beats * 100)))
}

/// The stop was still on its way when the move was cancelled and had nothing else to undo; the VM went down with nobody in charge.
#[test]
fn a_stop_on_its_way_is_barred_before_a_move_ends_cancelled() {
    let start = Start {
        kind: Kind::Agents,
        running: true,
        placement: OnPremises,
        prelude: Prelude::FullBack,
    };
    for again in [Fate::Arrives, Fate::LostBefore] {
        let steps = [
            late(50),
            Step::Fate(again),
            run_of(0, 1, 0),
            Step::Place(Azure),
        ];
        run(&start, &steps).unwrap();
        let steps = [
            late(50),
            run_of(0, 1, 0),
            Step::Connect(Azure, false),
            run_of(0, 3, 1),
            Step::Connect(Azure, true),
            Step::Place(Azure),
        ];
        run(&start, &steps).unwrap();
    }
}

/// A look from before the source was resumed fenced the target a second time, and the registers contradicted each other.
#[test]
fn a_look_from_before_the_end_of_a_move_fences_nothing() {
    let start = Start {
        kind: Kind::Agents,
        running: false,
        placement: OnPremises,
        prelude: Prelude::FullBack,
    };
    let behind = Disturbance {
        stale_vault: true,
        ..Disturbance::default()
    };
    let steps = [
        run_of(0, 1, 1),
        Step::Answer(Answer::Cancel),
        run_of(1, 1, 0),
        run_of(0, 1, 0),
        run_of(1, 6, 2),
        Step::Pass {
            operator: 0,
            disturbance: behind,
        },
    ];
    run(&start, &steps).unwrap();
}

/// Asked for again, the stop was refused; the first copy of it was still on its way.
#[test]
fn a_stop_that_was_refused_when_repeated_may_still_arrive() {
    let start = Start {
        kind: Kind::Agents,
        running: true,
        placement: OnPremises,
        prelude: Prelude::FullBack,
    };
    let behind = Disturbance {
        stale_vault: true,
        ..Disturbance::default()
    };
    let steps = [
        Step::Suspend(true),
        run_of(1, 1, 0),
        Step::Suspend(false),
        late(50),
        run_of(0, 1, 0),
        Step::Connect(Azure, false),
        Step::Advance { beats: 10 },
        Step::Pass {
            operator: 1,
            disturbance: behind,
        },
        Step::Connect(Azure, true),
        Step::Place(Azure),
    ];
    run(&start, &steps).unwrap();
}

/// A Failover made to take up a lost move ended cancelled on a look from before that move.
#[test]
fn a_taken_up_move_does_not_end_unseen() {
    let start = Start {
        kind: Kind::Agents,
        running: true,
        placement: OnPremises,
        prelude: Prelude::InAzure,
    };
    let behind = Disturbance {
        stale_vault: true,
        ..Disturbance::default()
    };
    let steps = [
        Step::Place(OnPremises),
        run_of(1, 4, 2),
        Step::LoseFailover,
        Step::DeletePvm,
        run_of(1, 1, 0),
        Step::Pass {
            operator: 0,
            disturbance: behind,
        },
    ];
    run(&start, &steps).unwrap();
}

/// In Azure, and a move back by full download has been given over to a driver that finishes what it has begun.
fn play_in_the_middle_of_a_full_download(steps: &[Step]) {
    play_from(Kind::Service, false, Prelude::FullBack, steps);
}

/// The move was taken up by fencing a target that this driver cannot fence, and then the commit carried the epoch of that fence.
#[test]
fn s20_a_lost_move_that_cannot_go_back_is_led_on() {
    play_in_the_middle_of_a_full_download(&[
        run_of(0, 4, 1),
        Step::LoseFailover,
        run_of(0, 1, 0),
        Step::Pass {
            operator: 0,
            disturbance: Disturbance {
                dies_after: Some(1),
                ..Disturbance::default()
            },
        },
    ]);
}

/// The sites looked settled while the job of the cluster before had just begun: the resource was let go, and the job left the VM half
/// way with nobody to end its move.
#[test]
fn a_job_of_a_holder_that_is_gone_is_seen_to_its_end_before_letting_go() {
    play_in_the_middle_of_a_full_download(&[
        run_of(0, 1, 0),
        Step::Rebuild(OnPremises),
        Step::DeletePvm,
        run_of(0, 2, 0),
    ]);
}

/// A fence came late to a host that had taken the place of the one it was meant for, and broke off. The register there took no other order, and the
/// last move was never over.
#[test]
fn a_late_fence_that_breaks_off_on_another_host_is_brought_to_its_end() {
    let steps = [
        Step::FailNext(OnPremises, ErrorClass::Transient),
        run_of(0, 1, 0),
        Step::Fate(Fate::LostBefore),
        Step::Place(Azure),
        run_of(0, 1, 0),
        run_of(0, 1, 0),
        Step::Advance { beats: 5 },
        run_of(0, 3, 2),
        Step::Fate(Fate::Late(SignedDuration::from_millis(1200))),
        Step::Place(OnPremises),
        run_of(0, 3, 3),
        Step::FailNext(Azure, ErrorClass::Transient),
        run_of(0, 1, 0),
        Step::Place(OnPremises),
        Step::LoseReplicaUnderway(Azure),
        run_of(0, 1, 0),
        run_of(0, 1, 3),
    ];
    play_off(Kind::Agents, &steps);
}

/// The same, when the cluster was rebuilt since: the claim has to move first, and the register took it in the name of that move alone.
#[test]
fn a_late_fence_that_breaks_off_does_not_keep_a_rebuilt_cluster_out() {
    let steps = [
        Step::Fate(Fate::Late(SignedDuration::from_millis(1700))),
        Step::Place(OnPremises),
        run_of(0, 5, 2),
        Step::LoseReplicaUnderway(Azure),
        Step::FailNext(Azure, ErrorClass::Transient),
        Step::DeletePvm,
        run_of(0, 1, 0),
        Step::Advance { beats: 7 },
        Step::Rebuild(OnPremises),
    ];
    play_from(Kind::Agents, false, Prelude::AtGate(1), &steps);
}

/// The host of the replica was replaced, and what came late gave the new one a register that was behind what the lost one had shown: nothing was
/// ever believed again.
#[test]
fn steps_that_went_with_a_lost_replica_are_not_waited_for() {
    let steps = [
        run_of(0, 5, 3),
        Step::Rebuild(Azure),
        run_of(0, 9, 1),
        run_of(0, 8, 1),
        Step::LoseFailover,
        Step::Fate(Fate::Late(SignedDuration::from_millis(1900))),
        run_of(0, 7, 1),
        run_of(0, 1, 0),
        Step::Fate(Fate::Arrives),
        Step::Fate(Fate::LostBefore),
        Step::Fate(Fate::LostBefore),
        run_of(0, 3, 1),
        Step::Connect(OnPremises, false),
        Step::LoseReplicaUnderway(Azure),
        run_of(0, 4, 3),
    ];
    play_from(Kind::Agents, false, Prelude::FullBack, &steps);
}

/// The right came back under a Failover that took a lost move up; the guest did not come up with it, and nobody asked again.
#[test]
fn a_resume_that_failed_is_given_again_whoever_turned_back() {
    let steps = [
        Step::Rebuild(OnPremises),
        run_of(0, 1, 0),
        Step::FailNext(OnPremises, ErrorClass::Transient),
        run_of(0, 4, 0),
        run_of(0, 2, 1),
    ];
    play_from(Kind::Agents, true, Prelude::AtGate(1), &steps);
}

/// The fence that was lost arrived after all, the one given again an epoch further was refused, and the source would not come back at that epoch: the
/// VM stayed down.
#[test]
fn a_fence_that_is_lost_and_then_refused_keeps_its_epoch() {
    let steps = [
        Step::Fate(Fate::Arrives),
        Step::Fate(Fate::Late(SignedDuration::from_secs(1))),
        Step::FailNext(Azure, ErrorClass::Transient),
        Step::Fate(Fate::Refused(ErrorClass::Conflict)),
        run_of(0, 1, 0),
        Step::Place(Azure),
        Step::Fate(Fate::Refused(ErrorClass::Transient)),
        run_of(0, 4, 3),
    ];
    play_from(Kind::Agents, false, Prelude::FullBack, &steps);
}

/// The name of the new move at the passive side hid that the active side had just taken a late order of the one before, and refused all others.
#[test]
fn a_late_order_of_a_move_that_is_gone_is_released_though_the_new_one_has_begun() {
    let begun = Start {
        kind: Kind::Agents,
        running: false,
        placement: OnPremises,
        prelude: Prelude::Nothing,
    };
    let steps = [
        run_of(1, 3, 1),
        late(1),
        Step::Fate(Fate::LostAfter),
        Step::Place(Azure),
        pass(0, false),
        Step::LoseReplica(Azure),
        pass(0, true),
        run_of(0, 1, 0),
        Step::LoseFailover,
        run_of(0, 3, 0),
    ];
    run(&begun, &steps).unwrap();
}

/// What the Failover before had asked for was still under way, in an operation of its own; nobody waited for it, and it left the VM half way.
#[test]
fn a_move_is_not_cancelled_over_what_a_lost_one_has_under_way() {
    let begun = Start {
        kind: Kind::Service,
        running: false,
        placement: OnPremises,
        prelude: Prelude::FullBack,
    };
    let cancelled = [
        run_of(0, 1, 1),
        run_of(0, 1, 0),
        Step::Advance { beats: 3 },
        Step::LoseFailover,
        run_of(1, 1, 0),
        Step::Answer(Answer::Cancel),
        pass(0, true),
    ];
    let deleted = [
        late(4),
        run_of(0, 5, 1),
        Step::LoseFailover,
        Step::Advance { beats: 2 },
        Step::DeletePvm,
        pass(1, false),
        pass(0, true),
    ];
    run(&begun, &cancelled).unwrap();
    run(&begun, &deleted).unwrap();
}

/// A late stop of one move and the replica of the next: each register takes the new claim in the name of its own Failover alone.
#[test]
fn a_claim_moves_where_the_two_registers_name_two_failovers() {
    let begun = Start {
        kind: Kind::Agents,
        running: false,
        placement: OnPremises,
        prelude: Prelude::FullBack,
    };
    let steps = [
        late(104),
        Step::Reapply,
        pass(0, false),
        Step::LoseReplica(OnPremises),
        run_of(0, 1, 0),
        Step::LoseFailover,
        run_of(0, 2, 0),
        Step::Rebuild(OnPremises),
        Step::Advance { beats: 104 },
    ];
    run(&begun, &steps).unwrap();
}

/// The fence of a move that is gone came late, to a target whose commit had just been accepted and was not on record.
#[test]
fn a_late_fence_of_a_lost_move_ends_the_commit_that_it_came_before() {
    play(
        Kind::Agents,
        &[
            Step::FailNext(Azure, ErrorClass::Throttled),
            run_of(0, 1, 0),
            Step::Fate(Fate::LostBefore),
            Step::Place(Azure),
            run_of(0, 6, 2),
            run_of(0, 6, 2),
            late(4),
            Step::Answer(Answer::Rollback),
            Step::Fate(Fate::Arrives),
            Step::Reapply,
            Step::Reapply,
            run_of(0, 1, 0),
            Step::LoseFailover,
            Step::Fate(Fate::LostBefore),
            run_of(0, 4, 1),
            run_of(0, 1, 0),
        ],
    );
}

/// An old look, of before the stop, while the commit was being recorded.
#[test]
fn s07_a_look_from_before_the_stop_takes_no_commit_back() {
    let steps = [
        run_of(0, 1, 1),
        Step::Fate(Fate::Arrives),
        Step::Fate(Fate::Refused(ErrorClass::Transient)),
        pass(1, false),
        run_of(0, 9, 1),
        pass(1, true),
    ];
    play_from(Kind::Service, false, Prelude::FullBack, &steps);
}

/// The fence of a lost move was lost, and refused when the next Failover gave it.
#[test]
fn a_fence_that_a_lost_move_gave_keeps_its_epoch() {
    let steps = [
        run_of(0, 1, 0),
        Step::Place(Azure),
        pass(0, false),
        run_of(0, 5, 1),
        Step::Place(OnPremises),
        pass(0, false),
        Step::Fate(Fate::LostBefore),
        Step::Fate(Fate::Refused(ErrorClass::Transient)),
        Step::LoseFailover,
        run_of(0, 2, 0),
        Step::Advance { beats: 1 },
        run_of(0, 5, 1),
    ];
    play_off(Kind::Agents, &steps);
}
