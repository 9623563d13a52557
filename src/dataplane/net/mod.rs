//! A pass over the network: TCP, plain or mutual TLS, blocking. One thread a side, and two more at the target that journal and write.

mod conn;
mod control;
mod send;
mod serve;

pub use control::{PassControl, PassPhase, Progress};
pub use send::{Candidates, Endpoint, PassDisk, PassOutcome, PassSpec, send_pass};
pub use serve::{Admission, Admitted, Peer, ServeOptions, Served, serve_connection};
