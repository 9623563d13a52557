//! Orders under way and ended, and how they are answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CommitRecord, FenceRecord, OrderKind, PassReport, PowerSwitch, Register, StartRecord,
    StopRecord,
};

/// An order under way or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Its epoch.
    pub epoch: u64,
    /// Its step.
    pub step: u64,
    /// What it does.
    pub kind: OrderKind,
    /// How far it is.
    pub state: OperationState,
    /// While it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OperationError>,
    /// What it brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OrderResult>,
    /// When it was admitted.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

impl Eq for Operation {}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done; the result stands.
    Succeeded,
    /// Ended without success; the error says why. May be ordered again with a newer step.
    Failed,
    /// The agent ended, or a newer order cut it short, before it was done. May be ordered again with a newer step.
    Interrupted,
}

/// Why an order failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationError {
    /// For programs.
    pub kind: OperationErrorKind,
    /// For people: what happened and what can be done.
    pub message: String,
}

/// Why an order or a pass failed, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationErrorKind {
    /// The guest did not shut down in time and still runs: order `Stop` again (with `force`), or turn back.
    ShutdownTimedOut,
    /// The hypervisor did not do what it was asked, or does not answer.
    Hypervisor,
    /// The connection to the peer broke or could not be made; retry.
    Disconnected,
    /// The peer did not let the data session in, or its register is newer than the one here (S4).
    PeerRefused,
    /// Not enough room at the target.
    NoSpace,
    /// A disk here could not be read.
    SourceRead,
    /// A disk there could not be written.
    TargetWrite,
    /// A disk that has no counterpart at the target (S14).
    DiskWithoutTarget,
    /// The definition leaves out a disk that the guest last ran on: nothing is started from others before a person says so.
    OtherDisks,
    /// The content is not what it has to be.
    Corrupt,
    /// What a stopped guest wrote did not all reach its disk: what stands there is not delivered, however often it is asked for (S12).
    Unsound,
    /// The agents do not understand one another.
    Protocol,
    /// Cut short by a newer order.
    Cancelled,
    /// A file of the agent's own could not be written or read.
    Storage,
    /// A fault in the agent.
    Internal,
    /// A word from a newer agent.
    #[serde(other)]
    Unknown,
}

/// How far something long is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What it is doing.
    pub phase: ProgressPhase,
    /// Done so far, of what the phase does: compared, sent, read.
    pub bytes_done: u64,
    /// Of the phase in all, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Now.
    #[serde(default)]
    pub bytes_per_second: u64,
}

/// What something long is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProgressPhase {
    /// Getting ready.
    #[default]
    Preparing,
    /// The guest was asked to shut down.
    ShuttingDown,
    /// Reading what the guest changed, for the manifest.
    ReadingManifest,
    /// Comparing both sides.
    Comparing,
    /// Sending.
    Transferring,
    /// The target syncs and reads back.
    Verifying,
    /// Closing sessions and sealing the content.
    Sealing,
    /// The guest is being started.
    Starting,
    /// The target is being brought back to its last whole content.
    Undoing,
    /// A word from a newer agent.
    #[serde(other)]
    Unknown,
}

/// What an order brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum OrderResult {
    /// The register stands.
    Adopted {},
    /// Definition and disks stand.
    Enrolled {
        /// Disks made here, known new.
        created: Vec<String>,
    },
    /// The loop has been told.
    Replicating {},
    /// Nothing is sent any more.
    Paused {},
    /// The guest has stopped.
    Stopped {
        /// The proof.
        record: StopRecord,
    },
    /// The peer holds exactly the stopped content.
    Delivered {
        /// What travelled.
        pass: PassReport,
    },
    /// This host is `Owner`.
    Started {
        /// The start.
        record: StartRecord,
    },
    /// Accepted for good.
    Committed {
        /// The proof.
        record: CommitRecord,
    },
    /// This host is `Replica`; its disks are the replica's base.
    Retired {},
    /// This host will not run the VM at any older epoch.
    Fenced {
        /// The proof.
        record: FenceRecord,
    },
    /// This host is `Owner` again.
    Resumed {
        /// Whether the guest runs.
        running: bool,
    },
    /// The last whole content stands.
    Undone {
        /// Blocks brought back.
        blocks: u64,
    },
    /// The switch was moved.
    Powered {
        /// Where to.
        state: PowerSwitch,
    },
    /// The failover is over.
    Released {},
    /// Nobody's VM now.
    Detached {},
}

/// The answer to an order that was admitted: now, or before with the same step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderAnswer {
    /// The order, under way (202) or ended (200; a failed one too).
    pub operation: Operation,
    /// The register after admission.
    pub register: Register,
}

/// The answer to an order that was not admitted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what is wrong and what would be needed.
    pub message: String,
    /// The register as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<Box<Register>>,
    /// [`RefusalKind::NoSpace`]: bytes needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u64>,
    /// [`RefusalKind::NoSpace`]: bytes available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
}

/// Why an order was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalKind {
    /// Older than the register (S2). Read the state again.
    Stale,
    /// The step was used by another order (S2).
    StepReused,
    /// Not from this role, or not before another order.
    WrongRole,
    /// The epoch is not the one this order takes.
    WrongEpoch,
    /// Another failover is under way at this epoch (S1).
    OtherFailover,
    /// The VM is another resource's (S1).
    Claimed,
    /// The VM is nobody's: adopt or enroll it first.
    NotClaimed,
    /// No register here: fenced (S4).
    NoRegister,
    /// No definition here.
    NoDefinition,
    /// A record of the peer is not the one that is needed.
    WrongRecord,
    /// The content here is not the one that is to run (S3, S11).
    ContentMismatch,
    /// Committed: nothing turns back (S5).
    Committed,
    /// The guest does not run, so nothing can be committed (S5).
    NotRunning,
    /// Not enough room for the disks.
    NoSpace,
    /// A network of that name is missing here.
    NoNetwork,
    /// A boot profile of that name is missing here.
    NoBootProfile,
    /// The disks here are not those of the definition (S14).
    DisksDiffer,
    /// The VM would be started by the host itself (S4).
    Autostart,
    /// What runs is not known now; nothing irreversible follows from that. Retry.
    PowerUnknown,
    /// The order before it has not ended. Retry.
    Busy,
    /// The request itself is wrong (422).
    Invalid,
    /// The name in the certificate may not do this (403).
    NotAllowed,
    /// A file of the agent's own could not be written or read (500). Retry.
    Storage,
    /// A word from a newer agent.
    #[serde(other)]
    Unknown,
}
