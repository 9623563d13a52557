//! What can be ordered.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Claim, CommitRecord, FenceRecord, PeerAddress, StopRecord, VmDefinition};

/// An order about one VM. It is admitted by the register alone: see [`Register`](super::Register).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// The VM; the same as in the path.
    pub vm: Uuid,
    /// See each [`Command`] for the epoch it takes.
    pub epoch: u64,
    /// Newer than the register's within the epoch; an equal one only asks for the recorded result (S2).
    pub step: u64,
    /// Who orders. None: a person, and only for a VM that nobody has claimed, or for [`Command::Power`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// UID of the Failover that this order is part of. Orders outside a failover carry none; one of those on a register at
    /// rest says that the failover before it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
    /// What to do.
    pub command: Command,
}

/// What an order asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Take a VM under the register. Without a register here: the VM becomes `Owner` at the order's epoch, which is 1, or one
    /// more than the highest epoch seen on any host. With a register: the epoch is the register's and only the claim moves.
    Adopt {
        /// The claim to take over, named so that nobody is robbed by accident (S1).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        takeover: Option<Claim>,
    },
    /// Make this host the passive one: register `Replica`, definition stored, sparse disks made. The epoch is the owner's.
    Enroll {
        /// The VM, with the size of every disk.
        definition: Box<VmDefinition>,
        /// The host that owns it now.
        owner: PeerAddress,
    },
    /// Owner: replicate to the peer again and again. Kept over restarts. The epoch is the register's.
    Replicate {
        /// Where to.
        peer: PeerAddress,
        /// From the begin of one pass to the begin of the next.
        interval_seconds: u64,
        /// A pass begins now; it is whole once [`began_after`](super::PassReport::began_after) is at least this order's step.
        #[serde(default)]
        immediate: bool,
    },
    /// Owner: stop sending; a running pass is cancelled. The epoch is the register's.
    Pause {},
    /// Owner: the fence, then the stop. The epoch is new (the highest of both sites plus one); the guest is shut down, its
    /// last changes are read, and the result is the [`StopRecord`]. May be ordered again at the same epoch with a newer step
    /// while there is no record.
    Stop {
        /// The one host that may start it with the record; another can neither start it nor let it turn back.
        target: String,
        /// Power off at once instead of asking the guest.
        #[serde(default)]
        force: bool,
    },
    /// Fenced with a stop record: bring the peer to exactly that content. The epoch is the stop's.
    Deliver {
        /// Where to.
        peer: PeerAddress,
        /// How.
        mode: DeliverMode,
    },
    /// Replica: become `Owner` and run. The epoch is the stop record's.
    Start {
        /// The source's proof that it has stopped (S3).
        stop: StopRecord,
    },
    /// Owner by a start that is not yet committed: the result is the [`CommitRecord`] (S5). The epoch is the start's.
    Commit {},
    /// Fenced source: become `Replica` after the peer's commit. The epoch is the commit's.
    Retire {
        /// The target's commit.
        commit: CommitRecord,
    },
    /// Target, turning back: stop what runs, never start again at an older epoch. The epoch is new. Refused after a commit.
    /// The result is the [`FenceRecord`].
    Fence {},
    /// Fenced source, turning back: become `Owner` again. The epoch is the fence's.
    Resume {
        /// The target's fence (S2).
        fence: FenceRecord,
    },
    /// Replica: back to the last whole content. The epoch is the register's.
    Undo {},
    /// Owner: switch the VM on or off, by a person. The epoch is the register's.
    Power {
        /// Which.
        state: PowerSwitch,
        /// Off: pull the plug instead of asking the guest.
        #[serde(default)]
        force: bool,
        /// On: also where the definition leaves out a disk that the guest last ran on and that is still there. What the guest wrote to it is
        /// given up, and the replica is overwritten with what the disks of the definition hold.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        on_other_disks: bool,
    },
    /// The failover that the order names is over; another may begin at this epoch. The epoch is the register's.
    Release {},
    /// The claim goes; nothing of VM, disk or replication is touched; the register stays (S4). The epoch is the register's.
    Detach {},
}

/// Which kind of order: the name of a [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OrderKind {
    /// [`Command::Adopt`]
    Adopt,
    /// [`Command::Enroll`]
    Enroll,
    /// [`Command::Replicate`]
    Replicate,
    /// [`Command::Pause`]
    Pause,
    /// [`Command::Stop`]
    Stop,
    /// [`Command::Deliver`]
    Deliver,
    /// [`Command::Start`]
    Start,
    /// [`Command::Commit`]
    Commit,
    /// [`Command::Retire`]
    Retire,
    /// [`Command::Fence`]
    Fence,
    /// [`Command::Resume`]
    Resume,
    /// [`Command::Undo`]
    Undo,
    /// [`Command::Power`]
    Power,
    /// [`Command::Release`]
    Release,
    /// [`Command::Detach`]
    Detach,
}

impl fmt::Display for OrderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Command {
    /// The kind of this command.
    #[must_use]
    pub const fn kind(&self) -> OrderKind {
        match self {
            Self::Adopt { .. } => OrderKind::Adopt,
            Self::Enroll { .. } => OrderKind::Enroll,
            Self::Replicate { .. } => OrderKind::Replicate,
            Self::Pause {} => OrderKind::Pause,
            Self::Stop { .. } => OrderKind::Stop,
            Self::Deliver { .. } => OrderKind::Deliver,
            Self::Start { .. } => OrderKind::Start,
            Self::Commit {} => OrderKind::Commit,
            Self::Retire { .. } => OrderKind::Retire,
            Self::Fence {} => OrderKind::Fence,
            Self::Resume { .. } => OrderKind::Resume,
            Self::Undo {} => OrderKind::Undo,
            Self::Power { .. } => OrderKind::Power,
            Self::Release {} => OrderKind::Release,
            Self::Detach {} => OrderKind::Detach,
        }
    }
}

/// How the last content travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliverMode {
    /// Only what differs.
    Delta,
    /// Everything, into new files that are swapped in when they are whole.
    Full,
}

/// What a person does to the power switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerSwitch {
    /// Run.
    On,
    /// Do not run.
    Off,
}
