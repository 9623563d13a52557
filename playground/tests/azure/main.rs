//! Moves by Azure Site Recovery from end to end: a real API server, the real operator, and the emulator of the service as processes of their
//! own. What was done is told by the emulator's records and by what is true of its VMs, not by the operator.
//!
//! The matrix of faults runs a seeded sample in which every request and every fault occurs, and with `FULL=1` as a whole. The seed is
//! printed; `SEED=n` repeats it.

mod away;
mod cancel;
mod credentials;
mod elsewhere;
mod encrypted;
mod failed;
mod faults;
mod lane;
mod others;
mod plans;
mod portal;
mod purged;
mod round_trip;
#[path = "../e2e/sampler.rs"]
#[expect(dead_code, reason = "what the agents' tests use of it")]
mod sampler;
mod secrets;
mod silent;
