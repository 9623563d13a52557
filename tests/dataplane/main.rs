//! The data plane from end to end: two sides, real sockets, real or simulated files.

#![allow(
    clippy::cast_possible_truncation,
    clippy::items_after_statements,
    clippy::needless_for_each,
    reason = "tests: the numbers are small, and a type of one test stands in it"
)]

mod crash;
mod failures;
mod life;
mod passes;
mod progress;
mod protocol;
mod room;
mod simfs;
#[path = "../common/skipped.rs"]
mod skipped;
mod support;
mod tls;
