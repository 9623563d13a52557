//! A pass over the network: TCP, plain or mutual TLS, blocking. Two threads a side, one that works and one that beats, and
//! three more at the target that journal, write, and prove.

mod ask;
mod conn;
mod control;
mod input;
mod line;
mod pulse;
mod send;
mod serve;
mod stages;

use std::time::Duration;

/// How long a peer may do nothing but say that it is at work: it may be reading all of a large disk, for what has arrived or for what it has to
/// prove. One that says nothing at all is gone much sooner ([`Pulse`]); a newer session of the VM ends an older one.
pub const IDLE: Duration = Duration::from_hours(24);

pub use ask::ask_epoch;
pub use control::{PassControl, PassPhase, Progress};
pub use pulse::{Clock, Pulse};
pub use send::{Candidates, Endpoint, PassDisk, PassOutcome, PassSpec, send_pass};
pub use serve::{Admission, Admitted, Peer, ServeOptions, Served, serve_connection};
