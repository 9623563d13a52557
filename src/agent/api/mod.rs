//! The control API of an agent: what goes over the wire between an agent and those who give it orders.
//!
//! ```text
//!   GET  /v1/state                          -> HostState        everything of this host in one answer; `?vms=UUID,…`: of these VMs
//!   POST /v1/vms/{uuid}/orders   Order      -> OrderAnswer      200 ended, 202 under way, else Refusal
//!   GET  /v1/vms/{uuid}/console?tail=BYTES  -> text
//!   GET  /healthz                           -> "ok"
//! ```
//!
//! Types only, with the checks that need nothing but the value itself. The driver imports this module; it knows nothing of
//! the agent's inside. Requests refuse unknown fields; answers tolerate them, so that a newer agent can say more.

mod check;
mod definition;
mod identity;
mod inventory;
mod operation;
mod order;
mod record;
mod register;
#[cfg(test)]
mod tests;

pub use crate::api::Site;
pub(crate) use check::check_name;
pub use definition::{Boot, DiskDefinition, DiskShape, NetworkDefinition, VmDefinition};
pub use identity::{Claim, PeerAddress, Root, Roots, StepId};
pub use inventory::{
    CandidatesUsed, ContentKind, ContentState, Found, HostState, PassReport, Power, Problem,
    ProblemKind, ReplicationActivity, ReplicationState, RunningPass, VmState,
};
pub use operation::{
    Operation, OperationError, OperationErrorKind, OperationState, OrderAnswer, OrderResult,
    Progress, ProgressPhase, Refusal, RefusalKind,
};
pub use order::{Command, DeliverMode, Order, OrderKind, PowerSwitch};
pub use record::{CommitRecord, FenceRecord, ManifestSource, StartRecord, StopProof, StopRecord};
pub use register::{Register, Role, StepRecord};

/// The largest body of a request, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;
/// The longest name of a host, VM, disk or network.
pub const MAX_NAME: usize = 253;
/// The longest path, address or command line.
pub const MAX_TEXT: usize = 4096;
/// The most disks, and the most networks, of one VM.
pub const MAX_DEVICES: usize = 64;
/// The highest epoch and step.
pub const MAX_NUMBER: u64 = 1 << 53;
/// The most bytes of console that one request can ask for.
pub const MAX_CONSOLE: u64 = 1024 * 1024;
