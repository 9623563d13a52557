//! A pass over the network: TCP, plain or mutual TLS, blocking. One thread a side, and three
//! more at the target that journal, write, and prove.

mod ask;
mod conn;
mod control;
mod send;
mod serve;
mod stages;

use std::time::Duration;

/// How long a peer may say nothing between two frames: it may be reading all of a large disk, for what has arrived or for what it has to prove.
/// A host or a network that is gone is noticed in minutes all the same, by TCP; a newer session of the VM ends an older one.
pub const IDLE: Duration = Duration::from_hours(24);

pub use ask::ask_epoch;
pub use control::{PassControl, PassPhase, Progress};
pub use send::{Candidates, Endpoint, PassDisk, PassOutcome, PassSpec, send_pass};
pub use serve::{Admission, Admitted, Peer, ServeOptions, Served, serve_connection};
