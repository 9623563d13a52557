//! The whole way to Azure Site Recovery without a socket: decisions, the register in the resource, the real driver, and the emulator of the
//! service, with a clock that moves only when somebody waits. What must always hold, whatever people, faults and operators do.
//!
//! `HOMEWARD_FULL=1` plays many more sequences; `HOMEWARD_SEED` replays one; `HOMEWARD_CASES` says how many; `HOMEWARD_TRACE=1` tells each pass.

#[path = "../common/seeded.rs"]
mod seeded;

mod heard;
mod operator;
mod properties;
mod regressions;
mod rules;
mod scenario;
#[allow(
    dead_code,
    reason = "the resources are modelled once, and not all of it is needed here"
)]
#[path = "../decide/store.rs"]
mod store;
mod stories;
mod throttled;
#[path = "../decide/view.rs"]
mod view;
mod wire;
