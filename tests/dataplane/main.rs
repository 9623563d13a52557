//! The data plane from end to end: two sides, real sockets, real or simulated files.

mod crash;
mod failures;
mod passes;
mod simfs;
mod support;
