//! Single stories, told straight.

use homeward::api::{Approval, DataSyncRequest, FailoverOutcome, FailoverPhase, Site};
use homeward::domain::{ActionKind, ErrorClass, Mark};
use homeward::driver::simulated::{Fate, Happening};

use super::scenario::{Kind, Prelude, Start, Step, World, run};
use super::store::Answer;

fn start(kind: Kind) -> Start {
    Start {
        kind,
        running: true,
        placement: Site::OnPremises,
        prelude: Prelude::Nothing,
    }
}

#[test]
fn there_and_back_with_agents() {
    let mut world = World::new(&start(Kind::Agents));
    world.converge().unwrap();
    for site in [Site::Azure, Site::OnPremises, Site::Azure] {
        world.store.change(|spec| spec.placement = site);
        world.converge().unwrap();
        assert!(world.simulation.guest("vm", site).running);
        // S1: at rest the registers name no Failover.
        assert_eq!(world.look().unwrap().failover(), None);
    }
    assert!(world.store.failovers.values().all(|failover| {
        failover.status.outcome == Some(FailoverOutcome::Succeeded)
            && failover.status.phase == Some(FailoverPhase::Succeeded)
    }));
}

#[test]
fn there_and_back_with_a_service() {
    let mut world = World::new(&start(Kind::Service));
    world.converge().unwrap();
    for site in [Site::Azure, Site::OnPremises, Site::Azure] {
        world.store.change(|spec| spec.placement = site);
        world.converge().unwrap();
        assert!(world.simulation.guest("vm", site).running);
    }
}

/// Data that a service synchronises home is no recovery point: until the VM runs there, what it writes is in Azure alone.
#[test]
fn a_synchronisation_home_is_not_called_protection() {
    let mut world = World::new(&start(Kind::Service));
    world.store.change(|spec| spec.placement = Site::Azure);
    world.converge().unwrap();
    world.store.change(|spec| {
        spec.cutover = Approval::Manual;
        spec.placement = Site::OnPremises;
    });
    world.play(&[run_of(30)]).unwrap();
    let phase = world.store.current().unwrap().status.phase;
    assert_eq!(phase, Some(FailoverPhase::AwaitingCutover));
    let status = &world.store.pvm.as_ref().unwrap().status;
    let mut conditions = status.conditions.iter();
    let protected = conditions.find(|it| it.type_ == "Protected").unwrap();
    assert_eq!(
        (protected.status.as_str(), protected.reason.as_str()),
        ("False", "ServiceDoesNotProtectFromAzure"),
        "{protected:?}"
    );
}

/// One operation of a service stops the VM and moves it. Where that broke off, whoever has started the VM again is not surprised a minute later.
#[test]
fn s20_a_vm_is_not_stopped_again_unasked_after_an_operation_that_failed() {
    let mut world = World::new(&start(Kind::Service));
    world.converge().unwrap();
    let class = ErrorClass::Capacity;
    world
        .simulation
        .fail_next(Site::OnPremises, class, "no cores are free");
    world.store.change(|spec| spec.placement = Site::Azure);
    world.play(&[run_of(40)]).unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Failed));
    let next = world.store.current().unwrap().status.clone();
    assert_eq!(next.phase, Some(FailoverPhase::AwaitingStart), "{next:?}");
    assert!(world.simulation.guest("vm", Site::OnPremises).running);
    world.converge().unwrap();
    assert!(world.simulation.guest("vm", Site::Azure).running);
}

#[test]
fn deleting_lets_go() {
    run(&start(Kind::Agents), &[Step::DeletePvm]).unwrap();
}

fn at(prelude: Prelude) -> World {
    let begun = Start {
        prelude,
        ..start(Kind::Agents)
    };
    let mut world = World::new(&begun);
    world.prelude(prelude).unwrap();
    world
}

fn run_of(passes: u8) -> Step {
    Step::Run {
        operator: 0,
        passes,
        beats: 2,
    }
}

fn last_outcome(world: &World) -> Option<FailoverOutcome> {
    let pvm = world.store.pvm.as_ref().unwrap();
    pvm.status.last_failover.as_ref().map(|last| last.outcome)
}

/// Waits at the commit gate; the target runs.
fn at_commit_gate() -> World {
    let world = at(Prelude::AtGate(1));
    let phase = world.store.current().unwrap().status.phase;
    assert_eq!(phase, Some(FailoverPhase::AwaitingCommit));
    world
}

#[test]
fn a_place_changed_back_before_commit_rolls_back() {
    let mut world = at_commit_gate();
    world
        .play(&[Step::Place(Site::OnPremises), run_of(20)])
        .unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::RolledBack));
    world.converge().unwrap();
}

#[test]
fn s05_a_target_that_was_switched_off_is_not_committed() {
    let mut world = at_commit_gate();
    let off = Step::Switch(Site::Azure, false);
    world
        .play(&[off, Step::Answer(Answer::Commit), run_of(30)])
        .unwrap();
    let words = world
        .store
        .current()
        .unwrap()
        .status
        .waiting_for
        .clone()
        .unwrap();
    assert!(words.contains("start it there"), "{words}");
    world.converge().unwrap();
}

#[test]
fn what_was_cancelled_waits_for_a_start() {
    let mut world = at(Prelude::AtGate(0));
    let steps = [
        Step::Answer(Answer::Cancel),
        run_of(20),
        Step::Reapply,
        run_of(60),
    ];
    world.play(&steps).unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Cancelled));
    let phase = world.store.current().unwrap().status.phase;
    assert_eq!(phase, Some(FailoverPhase::AwaitingStart));
    assert!(world.simulation.guest("vm", Site::OnPremises).running);
}

#[test]
fn s06_no_start_is_inherited_from_a_lost_failover() {
    let mut world = World::new(&Start {
        placement: Site::Azure,
        ..start(Kind::Agents)
    });
    world
        .play(&[run_of(20), Step::LoseFailover, run_of(60)])
        .unwrap();
    let phase = world.store.current().unwrap().status.phase;
    assert_eq!(phase, Some(FailoverPhase::AwaitingStart));
    assert!(world.simulation.guest("vm", Site::OnPremises).running);
}

#[test]
fn a_step_that_fails_is_tried_again_only_after_a_while() {
    let mut world = at(Prelude::Protected);
    for _ in 0..100 {
        world
            .simulation
            .fail_next(Site::OnPremises, ErrorClass::Transient, "made to fail");
    }
    world
        .play(&[Step::Place(Site::Azure), run_of(250)])
        .unwrap();
    let stops = world.simulation.effects().iter().filter(|effect| {
        matches!(
            &effect.what,
            Happening::Admitted {
                kind: ActionKind::StopSource,
                ..
            }
        )
    });
    let stops = stops.count();
    assert!((2..12).contains(&stops), "{stops} stops in 50 s");
}

/// What hinders protection holds protection: the VM is taken on, and can be worked with where it is.
#[test]
fn a_vm_that_cannot_be_protected_is_taken_on() {
    let mut world = World::new(&start(Kind::Agents));
    world.play(&[Step::Obstruct(true), run_of(8)]).unwrap();
    let vm = world.look().unwrap();
    assert!(vm.claims[Site::OnPremises].known().is_some());
    assert!(vm.protection.known().is_none());
    let pvm = world.store.pvm.as_ref().unwrap();
    let ready = pvm
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "VirtualMachineNotReady")
    );
    world.converge().unwrap();
}

/// What would break a full download off is seen while the guest runs, and holds the move there.
#[test]
fn a_full_download_without_room_holds_before_the_guest_is_stopped() {
    let mut world = at(Prelude::Protected);
    world.play(&[Step::Place(Site::Azure), run_of(80)]).unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Succeeded));
    let no_room = || vec!["hv01: make room".to_owned()];
    world.simulation.obstruct_full_download("vm", no_room());
    world
        .play(&[
            Step::DataSync(DataSyncRequest::FullDuringFailover),
            Step::Place(Site::OnPremises),
            run_of(60),
        ])
        .unwrap();
    let status = world.store.current().unwrap().status.clone();
    assert_eq!(status.phase, Some(FailoverPhase::Preparing));
    let words = status.waiting_for.unwrap();
    assert!(
        words.contains("hv01: make room") && words.contains("DeltaBeforeFailover"),
        "{words}"
    );
    assert!(world.simulation.guest("vm", Site::Azure).running);
    // Mended, it goes on; and what was mended may be gone again when the guest is about to be stopped.
    world.store.change(|spec| spec.cutover = Approval::Manual);
    world.simulation.obstruct_full_download("vm", vec![]);
    world.play(&[run_of(20)]).unwrap();
    let phase = world.store.current().unwrap().status.phase;
    assert_eq!(phase, Some(FailoverPhase::AwaitingCutover));
    world.simulation.obstruct_full_download("vm", no_room());
    world
        .store
        .change(|spec| spec.cutover = Approval::Automatic);
    world.play(&[run_of(60)]).unwrap();
    assert!(world.simulation.guest("vm", Site::Azure).running);
    world.simulation.obstruct_full_download("vm", vec![]);
    world.play(&[run_of(80)]).unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Succeeded));
    assert!(world.simulation.guest("vm", Site::OnPremises).running);
}

/// A passive host that was made anew is enrolled again, at rest and in the middle of a move.
#[test]
fn s04_a_replica_that_is_gone_is_made_again() {
    let mut world = at(Prelude::Protected);
    assert!(world.simulation.lose_replica("vm", Site::Azure));
    world.converge().unwrap();
    assert!(world.look().unwrap().replica_present.known() == Some(&true));
    for passes in 1..16 {
        run(
            &Start {
                prelude: Prelude::Protected,
                ..start(Kind::Agents)
            },
            &[
                Step::Place(Site::Azure),
                run_of(passes),
                Step::LoseReplica(Site::Azure),
                Step::LoseReplica(Site::OnPremises),
            ],
        )
        .unwrap();
    }
}

/// What only a person can mend does not keep the VM down: it runs at its source while they do.
#[test]
fn a_last_delta_that_can_never_be_sent_turns_the_move_back() {
    for class in [ErrorClass::Invalid, ErrorClass::Capacity] {
        let mut world = at(Prelude::AtGate(0));
        world
            .play(&[Step::Answer(Answer::Cutover), run_of(2)])
            .unwrap();
        for _ in 0..20 {
            if matches!(
                world.look().unwrap().stage.known(),
                Some(homeward::domain::Stage::SourceStopped { .. })
            ) {
                break;
            }
            world.play(&[run_of(1)]).unwrap();
        }
        world
            .play(&[Step::FailNext(Site::OnPremises, class), run_of(12)])
            .unwrap();
        assert_eq!(
            last_outcome(&world),
            Some(FailoverOutcome::Failed),
            "{class:?}"
        );
        assert!(world.simulation.guest("vm", Site::OnPremises).running);
    }
}

/// A move that was taken back leaves replication paused; the next one waits for a person, and the VM is protected meanwhile.
#[test]
fn a_vm_is_protected_while_its_next_move_waits_for_a_start() {
    let mut world = at_commit_gate();
    world
        .play(&[Step::Answer(Answer::Rollback), run_of(60)])
        .unwrap();
    let failover = world.store.current().unwrap();
    assert_eq!(failover.status.phase, Some(FailoverPhase::AwaitingStart));
    let vm = world.look().unwrap();
    let protection = vm.protection.known().unwrap();
    assert_eq!(
        (protection.from, &protection.state),
        (
            Site::OnPremises,
            &homeward::domain::ProtectionState::Replicating
        )
    );
    let ready = |world: &World| {
        let pvm = world.store.pvm.as_ref().unwrap();
        let said = pvm.status.conditions.iter();
        said.map(|it| format!("{}={}", it.type_, it.status))
            .collect::<Vec<_>>()
    };
    assert!(ready(&world).contains(&"Protected=True".to_owned()));
    // And nothing is asked again and again.
    let asked = world.simulation.effects().len();
    world.play(&[run_of(20)]).unwrap();
    let orders = |happening: &Happening| matches!(happening, Happening::Admitted { .. });
    assert!(
        !world.simulation.effects()[asked..]
            .iter()
            .any(|effect| orders(&effect.what))
    );
}

/// How often an action was taken.
fn taken(world: &World, wanted: ActionKind) -> Vec<Mark> {
    let effects = world.simulation.effects().iter();
    effects
        .filter_map(|effect| match &effect.what {
            Happening::Admitted { kind, mark, .. } if *kind == wanted => Some(*mark),
            _ => None,
        })
        .collect()
}

/// Passes until an action has been taken one time more than before.
fn until_taken(world: &mut World, kind: ActionKind) {
    let before = taken(world, kind).len();
    for _ in 0..60 {
        let step = Step::Run {
            operator: 0,
            passes: 1,
            beats: 0,
        };
        world.play(&[step]).unwrap();
        if taken(world, kind).len() > before {
            return;
        }
        world.play(&[Step::Advance { beats: 1 }]).unwrap();
    }
    panic!("{kind} was never taken");
}

/// The right was back and the guest was not: the move said that it had ended, and the VM stayed down.
#[test]
fn a_resume_that_breaks_off_is_given_again() {
    for fails in [true, false] {
        let mut world = at_commit_gate();
        world.play(&[Step::Answer(Answer::Rollback)]).unwrap();
        until_taken(&mut world, ActionKind::ResumeSource);
        let breaks = if fails {
            Step::FailNext(Site::OnPremises, ErrorClass::Transient)
        } else {
            Step::RestartAgent(Site::OnPremises)
        };
        world.play(&[breaks, Step::Advance { beats: 1 }]).unwrap();
        assert!(!world.simulation.guest("vm", Site::OnPremises).running);
        world.play(&[run_of(10)]).unwrap();
        assert_eq!(taken(&world, ActionKind::ResumeSource).len(), 2);
        assert!(world.simulation.guest("vm", Site::OnPremises).running);
        assert_eq!(last_outcome(&world), Some(FailoverOutcome::RolledBack));
    }
}

/// The right had moved and the guest did not come up: nobody has to answer for it to be tried again, and no start is written down before.
#[test]
fn a_start_that_breaks_off_is_given_again() {
    for fails in [true, false] {
        let mut world = at(Prelude::AtGate(0));
        world.play(&[Step::Answer(Answer::Cutover)]).unwrap();
        until_taken(&mut world, ActionKind::StartTarget);
        let breaks = if fails {
            Step::FailNext(Site::Azure, ErrorClass::Unresponsive)
        } else {
            Step::RestartAgent(Site::Azure)
        };
        world
            .play(&[
                // The right moves, and the guest is not up yet.
                Step::Advance { beats: 1 },
                breaks,
                Step::Advance { beats: 1 },
                Step::Run {
                    operator: 0,
                    passes: 1,
                    beats: 0,
                },
            ])
            .unwrap();
        assert!(!world.simulation.guest("vm", Site::Azure).running);
        let status = world.store.current().unwrap().status.clone();
        let downtime = status.downtime.unwrap();
        assert!(downtime.started_time.is_none() && downtime.actual_milliseconds.is_none());
        if fails {
            let words = status.waiting_for.unwrap();
            assert!(
                words.contains("made to fail") && words.contains("Rollback"),
                "{words}"
            );
        }
        world.play(&[run_of(60)]).unwrap();
        assert_eq!(taken(&world, ActionKind::StartTarget).len(), 2);
        assert!(world.simulation.guest("vm", Site::Azure).running);
        assert_eq!(last_outcome(&world), Some(FailoverOutcome::Succeeded));
    }
}

/// A stop that was lost and then refused was given again an epoch further each time, and the replica refused the last delta for that.
#[test]
fn a_stop_that_is_lost_and_then_refused_keeps_its_epoch() {
    let mut world = at(Prelude::AtGate(0));
    let before = world.look().unwrap().newest_mark().unwrap();
    let refused = Fate::Refused(ErrorClass::Transient);
    world
        .simulation
        .schedule([Fate::LostBefore, refused, refused, refused]);
    world
        .play(&[Step::Answer(Answer::Cutover), run_of(120)])
        .unwrap();
    let stops = taken(&world, ActionKind::StopSource);
    assert_eq!(stops.len(), 1);
    assert_eq!(stops[0].epoch, before.epoch + 1, "{stops:?}");
    assert!(stops[0].step > 1);
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Succeeded));
}

/// What is refused again and again does not keep the VM down.
#[test]
fn a_last_delta_that_is_refused_for_ever_turns_the_move_back() {
    let mut world = at(Prelude::AtGate(0));
    world.play(&[Step::Answer(Answer::Cutover)]).unwrap();
    until_taken(&mut world, ActionKind::FinalSync);
    for _ in 0..20 {
        world
            .simulation
            .fail_next(Site::OnPremises, ErrorClass::Conflict, "refused");
    }
    world
        .play(&[Step::Run {
            operator: 0,
            passes: 200,
            beats: 10,
        }])
        .unwrap();
    assert_eq!(last_outcome(&world), Some(FailoverOutcome::Failed));
    let deliveries = taken(&world, ActionKind::FinalSync).len();
    assert_eq!(deliveries, 20);
    world.converge().unwrap();
}

/// The move stood before its stop for an hour, and much has changed.
#[test]
fn the_gates_are_asked_again_before_a_late_stop() {
    let mut world = at(Prelude::AtGate(0));
    let refused = [Fate::Refused(ErrorClass::Transient); 3];
    world.simulation.schedule(refused);
    world
        .play(&[Step::Cutover(Approval::Automatic), run_of(12)])
        .unwrap();
    let status = world.store.current().unwrap().status.clone();
    assert_eq!(status.phase, Some(FailoverPhase::CuttingOver));
    assert!(status.pending_action.is_none() && status.failure.is_some());
    world
        .play(&[
            Step::Cutover(Approval::Manual),
            Step::Advance { beats: 600 },
            run_of(3),
        ])
        .unwrap();
    let status = world.store.current().unwrap().status.clone();
    assert_eq!(status.phase, Some(FailoverPhase::AwaitingCutover));
    assert!(
        status
            .waiting_for
            .unwrap()
            .contains("spec.cutover: Approved")
    );
    assert!(status.downtime.unwrap().stop_ordered_time.is_none());
    assert!(taken(&world, ActionKind::StopSource).is_empty());
    assert!(world.simulation.guest("vm", Site::OnPremises).running);
    world.converge().unwrap();
}

/// A move to Azure that has started the guest there and waits for its commit.
fn uncommitted() -> World {
    let mut world = at(Prelude::Protected);
    world
        .play(&[
            Step::Commit(Approval::Manual),
            Step::Place(Site::Azure),
            run_of(40),
        ])
        .unwrap();
    let status = world.store.current().unwrap().status.clone();
    assert_eq!(status.phase, Some(FailoverPhase::AwaitingCommit));
    assert!(world.simulation.guest("vm", Site::Azure).running);
    world
}

fn ready(world: &World) -> (String, String) {
    let status = &world.store.pvm.as_ref().unwrap().status;
    let conditions = status.conditions.iter();
    let ready = conditions.clone().find(|it| it.type_ == "Ready").unwrap();
    (ready.reason.clone(), ready.message.clone())
}

/// The cluster is made anew from a Git that is older than the move: what the guest wrote at the target is not dropped for that.
#[test]
fn s06_an_old_placement_takes_no_move_back_that_was_under_way() {
    for (answer, site) in [
        (Answer::Commit, Site::Azure),
        (Answer::Rollback, Site::OnPremises),
    ] {
        let mut world = uncommitted();
        world
            .play(&[Step::Rebuild(Site::OnPremises), run_of(60)])
            .unwrap();
        assert!(world.simulation.guest("vm", Site::Azure).running);
        let (reason, words) = ready(&world);
        assert_eq!(reason, "AwaitingApproval", "{words}");
        assert!(
            words.contains("Approved or Rollback") && words.contains("under way"),
            "{words}"
        );
        assert!(world.store.answer(answer));
        world.play(&[run_of(20)]).unwrap();
        let vm = world.look().unwrap();
        assert_eq!(
            vm.stage,
            homeward::domain::Fact::Known(homeward::domain::Stage::Settled { site })
        );
        world.converge().unwrap();
    }
}

/// Only what runs is committed: it is said before somebody approves it, and there is a way back after.
#[test]
fn a_guest_that_went_down_before_its_commit_is_told_of_and_can_be_taken_home() {
    for approved_first in [false, true] {
        for way_back in [Step::Place(Site::OnPremises), Step::DeleteFailover] {
            let mut world = uncommitted();
            let down = Step::Switch(Site::Azure, false);
            if approved_first {
                world.play(&[down]).unwrap();
                assert!(world.store.answer(Answer::Commit));
            } else {
                world.play(&[down, run_of(3)]).unwrap();
                let (reason, words) = ready(&world);
                assert_eq!(reason, "GuestNotRunning");
                assert!(words.contains("spec.commit: Rollback"), "{words}");
                assert!(world.store.answer(Answer::Commit));
            }
            world.play(&[run_of(6)]).unwrap();
            let (reason, words) = ready(&world);
            assert_eq!(reason, "GuestNotRunning");
            assert!(words.contains("delete this Failover"), "{words}");
            world.play(&[way_back, run_of(40)]).unwrap();
            assert_eq!(last_outcome(&world), Some(FailoverOutcome::RolledBack));
            assert!(world.simulation.guest("vm", Site::OnPremises).running);
        }
    }
}
