//! The decision core against the simulated driver: what must always hold, whatever people, faults and operators do.
//!
//! `HOMEWARD_FULL=1` plays many more sequences, with a seed of its own; `HOMEWARD_SEED` replays one; `HOMEWARD_TRACE=1` tells each pass.

#[path = "../common/seeded.rs"]
mod seeded;

mod conditions;
mod failback;
mod lost_target;
#[path = "../common/observed.rs"]
mod observed;
mod operator;
mod properties;
mod regressions;
mod scenario;
mod store;
mod stories;
mod tables;
mod view;
