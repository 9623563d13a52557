//! Sequences that once failed, made as small as they get.

use homeward::api::Site::Azure;

use super::operator::Disturbance;
use super::scenario::{Prelude, Press, Step, run};
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

#[test]
fn a_lost_failover_after_its_commit() {
    play(
        Prelude::BackUnprotected,
        &[Step::LoseFailover, pass(), Step::Place(Azure)],
    );
}

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
