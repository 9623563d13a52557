//! Single stories, told straight.

use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward::domain::{ActionKind, ErrorClass};
use homeward::driver::simulated::Happening;

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
        assert_eq!(world.look().unwrap().failover, None);
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
