//! Single stories, told straight.

use homeward::api::{FailoverOutcome, FailoverPhase, Site};

use super::scenario::{Kind, Prelude, Start, Step, World, run};

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
