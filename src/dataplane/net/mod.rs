//! A pass over the network: TCP, plain or mutual TLS, blocking. One thread a side, and three
//! more at the target that journal, write, and prove.

mod conn;
mod control;
mod send;
mod serve;

pub use control::{PassControl, PassPhase, Progress};
pub use send::{Candidates, Endpoint, PassDisk, PassOutcome, PassSpec, send_pass};
pub use serve::{Admission, Admitted, Peer, ServeOptions, Served, serve_connection};
