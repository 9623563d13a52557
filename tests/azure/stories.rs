//! What people do with it, and nothing goes wrong.

use homeward::api::Site::{Azure, OnPremises};

use super::scenario::{Prelude, Start, Step, run};

pub fn start(prelude: Prelude) -> Start {
    Start {
        assumptions: None,
        vmm: false,
        encrypted: false,
        placement: OnPremises,
        prelude,
    }
}

pub const fn passes(passes: u8) -> Step {
    Step::Run {
        operator: 0,
        passes,
        seconds: 4,
    }
}

#[test]
fn there_and_back() {
    let steps = [
        passes(4),
        Step::Place(Azure),
        passes(25),
        Step::Place(OnPremises),
        passes(40),
    ];
    run(&start(Prelude::Nothing), &steps).unwrap();
}
