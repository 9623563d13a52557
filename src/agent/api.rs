//! The control API of an agent: what goes over the wire between an agent and those who give it orders.
//!
//! ```text
//!   GET  /v1/state                          -> HostState        everything of this host in one answer
//!   POST /v1/vms/{uuid}/orders   Order      -> OrderAnswer      200 ended, 202 under way, else Refusal
//!   GET  /v1/vms/{uuid}/console?tail=BYTES  -> text
//!   GET  /healthz                           -> "ok"
//! ```
//!
//! Types only, with the checks that need nothing but the value itself. The driver imports this module; it knows nothing of
//! the agent's inside. Requests refuse unknown fields; answers tolerate them, so that a newer agent can say more.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use crate::api::Site;

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

// ------------------------------------------------------------------------------------------------ identities

/// Who says where a VM runs: one `ProtectedVirtualMachine` of one cluster. Cluster and resource are UIDs, so that a rebuilt
/// cluster or a re-created resource is somebody else (S6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// UID of the cluster (of its `kube-system` namespace).
    pub cluster: String,
    /// UID of the `ProtectedVirtualMachine`.
    pub pvm: String,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource {} of cluster {}", self.pvm, self.cluster)
    }
}

/// One step of one VM on one host: compared epoch first (S2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct StepId {
    /// Raised whenever the right to run moves.
    pub epoch: u64,
    /// Counts the orders within an epoch.
    pub step: u64,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} step {}", self.epoch, self.step)
    }
}

/// The digest over one whole disk: its id, size and every block. On the wire: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Root {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "a root is 64 hexadecimal digits, not {:?}",
                text.chars().take(80).collect::<String>()
            )
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut root = [0; 32];
        for (byte, at) in root.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(root))
    }
}

impl Serialize for Root {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The roots of all disks of a VM, by disk id: what two sites compare to say "the same content".
pub type Roots = BTreeMap<String, Root>;

/// Where another agent is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAddress {
    /// The host's name; the peer's certificate must carry it.
    pub host: String,
    /// URL of its control API. The agent itself does not call it; it stands here so that people see who is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control: String,
    /// `address:port` of its data plane.
    pub data: String,
}

// ------------------------------------------------------------------------------------------------ definitions

/// A VM as a person wrote it down, or as it arrived by [`Command::Enroll`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmDefinition {
    /// Identity of the VM on every host.
    pub uuid: Uuid,
    /// Its name, for people and for `virtualMachineName`.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Disks in the order the guest sees them.
    pub disks: Vec<DiskDefinition>,
    /// Network cards.
    #[serde(default)]
    pub networks: Vec<NetworkDefinition>,
    /// What it boots.
    #[serde(default)]
    pub boot: Boot,
    /// Must be false: only agents start VMs (S4). `true` is reported as a refusal in the inventory.
    #[serde(default)]
    pub autostart: bool,
}

/// One disk of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskDefinition {
    /// Stable id of the disk, the same on every host (S14).
    pub id: String,
    /// Raw file or block device on this host. In an [`Command::Enroll`] it is ignored: the passive host chooses.
    #[serde(default)]
    pub path: PathBuf,
    /// Exact size. Where it is left out it is read from the file; an [`Command::Enroll`] must say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// One network card of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkDefinition {
    /// Name of the network (virtual switch); both hosts must have it.
    pub name: String,
    /// Hardware address, `52:54:00:12:34:56`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What a VM boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "from",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Boot {
    /// Its first disk, by the firmware.
    #[default]
    Disk,
    /// A kernel on this host.
    Kernel {
        /// Path of the kernel.
        kernel: PathBuf,
        /// Path of the initial file system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initramfs: Option<PathBuf>,
        /// `{site}` and `{host}` are filled in by the agent.
        #[serde(default)]
        command_line: String,
    },
    /// A kernel that every host knows by a name (`boots` in the agent's configuration), so that paths may differ.
    Profile {
        /// Name in `boots`.
        name: String,
        /// `{site}` and `{host}` are filled in by the agent.
        #[serde(default)]
        command_line: String,
    },
}

/// Id and exact size of a disk (S14).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskShape {
    /// Stable id.
    pub id: String,
    /// Exact size.
    pub size_bytes: u64,
}

// ------------------------------------------------------------------------------------------------ orders

/// An order about one VM. It is admitted by the register alone: see [`Register`].
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
        /// A pass begins now; it is whole once [`PassReport::began_after`] is at least this order's step.
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

// ------------------------------------------------------------------------------------------------ records

/// Proof that the source's guest has stopped for good at this epoch, and what it left on its disks (S3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopRecord {
    /// The VM.
    pub vm: Uuid,
    /// The fence's epoch.
    pub epoch: u64,
    /// The host that stopped it.
    pub host: String,
    /// The only host that may start it.
    pub target: String,
    /// How it is known that nothing runs.
    pub proof: StopProof,
    /// Whether it ran before the fence: whether the target is to run it.
    pub was_running: bool,
    /// Content of every disk after the stop.
    pub roots: Roots,
    /// The disks, read again after the stop (S14).
    pub disks: Vec<DiskShape>,
    /// Where the roots come from.
    pub manifest: ManifestSource,
    /// When.
    pub at: Timestamp,
}

/// How it is known that nothing runs. A hypervisor that does not answer is never a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopProof {
    /// The guest's process was seen to end.
    ProcessGone,
    /// There was no process when the fence was set.
    WasOff,
}

/// Where the roots of a stop record come from (S17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ManifestSource {
    /// From the last recovery point and the ranges changed since, under a valid bitmap generation.
    CarriedOver,
    /// Every disk was read.
    Read,
}

/// The target's accepted result (S5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRecord {
    /// The VM.
    pub vm: Uuid,
    /// The epoch that is committed.
    pub epoch: u64,
    /// The host that holds the right to run.
    pub host: String,
    /// The failover that was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The target's word that it will not run the VM at any older epoch (S2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FenceRecord {
    /// The VM.
    pub vm: Uuid,
    /// The fence's epoch.
    pub epoch: u64,
    /// The host that is fenced.
    pub host: String,
    /// Whether the guest had been started there; what it wrote is dropped.
    pub was_started: bool,
    /// When.
    pub at: Timestamp,
}

/// A start of the guest under an epoch. It is synced before the guest's first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartRecord {
    /// The epoch of the start.
    pub epoch: u64,
    /// The content it started from.
    pub roots: Roots,
    /// Whether the guest was left off because it had been off at the source.
    pub left_off: bool,
    /// When.
    pub at: Timestamp,
}

// ------------------------------------------------------------------------------------------------ the register

/// The right to run one VM, as one host knows it (S1). Changed only by compare-and-set and synced before it is acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// The VM.
    pub vm: Uuid,
    /// Its name.
    pub name: String,
    /// The highest epoch that an order brought.
    pub epoch: u64,
    /// The newest step within the epoch.
    pub step: u64,
    /// Whose VM it is; None after a detach.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The failover under way.
    #[serde(default)]
    pub failover: Option<String>,
    /// What this host is for the VM.
    pub role: Role,
    /// Whether the guest is to run while this host is `Owner`; kept over a reboot.
    pub desired_power: PowerSwitch,
    /// `Fenced`: the host it moves to; only that one can start it, commit it, or let it turn back.
    #[serde(default)]
    pub moving_to: Option<String>,
    /// `Fenced`: the stop, once it is proven.
    #[serde(default)]
    pub stop: Option<StopRecord>,
    /// `Owner` by a start: that start.
    #[serde(default)]
    pub start: Option<StartRecord>,
    /// `Owner`: the commit of that start.
    #[serde(default)]
    pub commit: Option<CommitRecord>,
    /// `Replica` by a fence: that fence.
    #[serde(default)]
    pub fence: Option<FenceRecord>,
    /// `Replica`: the newest (epoch, step) of a data session that was let in; older ones are refused (S9).
    #[serde(default)]
    pub session: Option<StepId>,
    /// The last order that was admitted, and how it ended.
    #[serde(default)]
    pub last: Option<StepRecord>,
    /// The host's boot under which this was written.
    pub boot_id: String,
    /// When this was written.
    pub updated_at: Timestamp,
}

/// What a host is for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Holds the right to run; the guest may be on or off.
    Owner,
    /// Was `Owner`; a move has fenced it. Stopped only if there is a stop record.
    Fenced,
    /// Passive: receives, never runs.
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The last admitted order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// Digest of the whole order: an equal step with another content is refused (S2).
    pub hash: Root,
    /// What became of it.
    pub operation: Operation,
}

// ------------------------------------------------------------------------------------------------ operations

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
    /// The peer did not let the data session in.
    PeerRefused,
    /// Not enough room at the target.
    NoSpace,
    /// A disk here could not be read.
    SourceRead,
    /// A disk there could not be written.
    TargetWrite,
    /// A disk that has no counterpart at the target (S14).
    DiskWithoutTarget,
    /// The content is not what it has to be.
    Corrupt,
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
    /// Done so far.
    pub bytes_done: u64,
    /// In all, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Compared so far.
    #[serde(default)]
    pub bytes_compared: u64,
    /// Now.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// Estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
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

// ------------------------------------------------------------------------------------------------ the inventory

/// Everything an agent knows, read when it was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostState {
    /// Name of the host.
    pub host: String,
    /// Where it stands.
    pub site: Site,
    /// Version of the agent.
    pub version: String,
    /// Changes when the host is started again.
    pub boot_id: String,
    /// When the agent began.
    pub started_at: Timestamp,
    /// The host's clock.
    pub now: Timestamp,
    /// `address:port` where peers send data to.
    pub data_address: String,
    /// Free on the storage for replicas.
    pub free_bytes: u64,
    /// Networks (virtual switches) that VMs here can have.
    pub networks: Vec<String>,
    /// What the agent found when it began.
    pub found: Found,
    /// Every VM that has a definition or a register here.
    pub vms: Vec<VmState>,
    /// What is wrong with this host as a whole, in words.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What the agent found when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The host had been started again since the registers were written.
    pub rebooted: bool,
    /// VMs that run.
    pub running: Vec<Uuid>,
    /// VMs started because they were on before the reboot.
    pub started: Vec<Uuid>,
    /// VMs with an order that had not ended.
    pub interrupted: Vec<Uuid>,
    /// VMs with an open undo journal.
    pub open_journals: Vec<Uuid>,
}

/// One VM on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmState {
    /// Identity.
    pub uuid: Uuid,
    /// Name.
    pub name: String,
    /// Its definition, where there is one; disk paths are this host's.
    #[serde(default)]
    pub definition: Option<VmDefinition>,
    /// Whether it runs.
    pub power: Power,
    /// Why `power` is `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_reason: Option<String>,
    /// Its disks with the sizes they have now; a disk that cannot be read is left out and stands in `problems`.
    pub disks: Vec<DiskShape>,
    /// The right to run. None: fenced (S4).
    #[serde(default)]
    pub register: Option<Register>,
    /// The last order: under way or ended.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// Continuous replication from here.
    #[serde(default)]
    pub replication: Option<ReplicationState>,
    /// What the disks hold.
    pub content: ContentState,
    /// Bytes the guest wrote since its bitmap generation began. None: not known now.
    #[serde(default)]
    pub dirty_bytes: Option<u64>,
    /// What hinders this VM, in words.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Power {
    /// Its processors run.
    Running,
    /// Its process is there, its processors do not run.
    Paused,
    /// It has shut down; its process is still there.
    ShutDown,
    /// There is no process.
    Off,
    /// The hypervisor does not say. Never taken for stopped (S3).
    Unknown,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// For programs.
    pub kind: ProblemKind,
    /// For people: what is wrong and what can be done.
    pub message: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemKind {
    /// The definition asks the host to start the VM (S4).
    Autostart,
    /// A disk is missing or cannot be read.
    Disk,
    /// The definition is not valid.
    Definition,
    /// A register, or another file of the agent's, cannot be read.
    Storage,
    /// The guest runs though this host has no right to run it.
    RunsWithoutRight,
    /// The guest is to run and could not be started.
    NotStarted,
    /// A word from a newer agent.
    #[serde(other)]
    Unknown,
}

/// What the disks of a VM hold, as far as replication knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentState {
    /// Which.
    pub kind: ContentKind,
    /// `Whole`: the content. `Partial`: the content it can go back to.
    #[serde(default)]
    pub roots: Option<Roots>,
    /// `Whole`: the point in time at the source.
    #[serde(default)]
    pub point: Option<Timestamp>,
    /// The pass that made it, or is making it.
    #[serde(default)]
    pub pass: Option<Uuid>,
}

/// Which content the disks hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContentKind {
    /// Not known: never received, or written to by a guest.
    Unknown,
    /// One whole point in time.
    Whole,
    /// A pass is under way or broke off; the journal can take it back.
    Partial,
    /// A full copy into new files is under way; the old files stand.
    NewFiles,
}

/// Continuous replication of an `Owner`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationState {
    /// Where to.
    pub peer: PeerAddress,
    /// From the begin of one pass to the begin of the next.
    pub interval_seconds: u64,
    /// What the loop does.
    pub activity: ReplicationActivity,
    /// The newest `Replicate` order that the loop has read.
    pub ordered: StepId,
    /// The pass under way.
    #[serde(default)]
    pub pass: Option<RunningPass>,
    /// The last whole pass.
    #[serde(default)]
    pub last: Option<PassReport>,
    /// Passes that failed since the last whole one.
    pub failures: u32,
    /// Why the last one failed.
    #[serde(default)]
    pub last_error: Option<OperationError>,
    /// When it failed.
    #[serde(default)]
    pub last_error_at: Option<Timestamp>,
    /// When the next one begins.
    #[serde(default)]
    pub next_at: Option<Timestamp>,
}

/// What the replication loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReplicationActivity {
    /// A pass is under way.
    Running,
    /// It waits for the next interval.
    Waiting,
    /// It waits after a failure.
    BackingOff,
    /// It was told to stop.
    Paused,
    /// A word from a newer agent.
    #[serde(other)]
    Unknown,
}

/// A pass under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningPass {
    /// Its id.
    pub pass: Uuid,
    /// The newest `Replicate` order before it began.
    pub began_after: StepId,
    /// When.
    pub began_at: Timestamp,
    /// How far.
    pub progress: Progress,
}

/// A pass that became whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassReport {
    /// Its id.
    pub pass: Uuid,
    /// The newest order before it began: of a `Replicate` in the loop, of the `Deliver` itself there.
    pub began_after: StepId,
    /// The point in time the peer now holds.
    pub point: Timestamp,
    /// That content.
    pub roots: Roots,
    /// Bytes that differed.
    pub bytes_changed: u64,
    /// Bytes sent over the connection.
    pub bytes_sent: u64,
    /// Bytes received over it.
    pub bytes_received: u64,
    /// Bytes that had arrived earlier and were not sent again.
    pub bytes_resumed: u64,
    /// Which blocks were looked at.
    pub candidates: CandidatesUsed,
    /// Why those.
    pub candidates_reason: String,
    /// From its begin to the peer's durable acknowledgement.
    pub duration_millis: u64,
    /// When it became whole.
    pub ended_at: Timestamp,
}

/// Which blocks a pass looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CandidatesUsed {
    /// Every block.
    All,
    /// The ranges that the guest wrote.
    Ranges,
}

// ------------------------------------------------------------------------------------------------ checks

impl Order {
    /// Whether the order makes sense by itself: every length bounded, every name a name.
    ///
    /// # Errors
    /// The first field that does not, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        // The upper bound keeps one bad order from using up all epochs, and the numbers exact in any JSON reader.
        for (field, number) in [("epoch", self.epoch), ("step", self.step)] {
            if number == 0 || number > MAX_NUMBER {
                return Err(format!("{field}: between 1 and {MAX_NUMBER}"));
            }
        }
        if let Some(claim) = &self.claim {
            check_claim("claim", claim)?;
        }
        if let Some(failover) = &self.failover {
            check_name("failover", failover)?;
        }
        match &self.command {
            Command::Adopt { takeover } => takeover
                .as_ref()
                .map_or(Ok(()), |claim| check_claim("command.takeover", claim)),
            Command::Enroll { definition, owner } => {
                definition
                    .validate()
                    .map_err(|wrong| format!("command.definition.{wrong}"))?;
                if definition.uuid != self.vm {
                    return Err("command.definition.uuid: must be the VM of the order".into());
                }
                if let Some(disk) = definition
                    .disks
                    .iter()
                    .find(|disk| disk.size_bytes.is_none())
                {
                    return Err(format!(
                        "command.definition.disks: disk {} must say its sizeBytes",
                        disk.id
                    ));
                }
                check_peer("command.owner", owner)
            }
            Command::Replicate {
                peer,
                interval_seconds,
                immediate: _,
            } => {
                if *interval_seconds == 0 || *interval_seconds > 30 * 24 * 3600 {
                    return Err("command.intervalSeconds: between 1 second and 30 days".into());
                }
                check_peer("command.peer", peer)
            }
            Command::Stop { target, force: _ } => check_name("command.target", target),
            Command::Deliver { peer, mode: _ } => check_peer("command.peer", peer),
            Command::Start { stop } => {
                check_name("command.stop.host", &stop.host)?;
                check_name("command.stop.target", &stop.target)?;
                if stop.disks.is_empty()
                    || stop.disks.len() > MAX_DEVICES
                    || stop.roots.len() != stop.disks.len()
                {
                    return Err(format!(
                        "command.stop: between 1 and {MAX_DEVICES} disks, each with its root"
                    ));
                }
                for disk in &stop.disks {
                    check_disk_id("command.stop.disks.id", &disk.id)?;
                    if !stop.roots.contains_key(&disk.id) {
                        return Err(format!("command.stop.roots: none for disk {}", disk.id));
                    }
                }
                Ok(())
            }
            Command::Retire { commit } => check_name("command.commit.host", &commit.host),
            Command::Resume { fence } => check_name("command.fence.host", &fence.host),
            Command::Pause {}
            | Command::Commit {}
            | Command::Fence {}
            | Command::Undo {}
            | Command::Power { state: _, force: _ }
            | Command::Release {}
            | Command::Detach {} => Ok(()),
        }
    }

    /// Epoch and step.
    #[must_use]
    pub const fn id(&self) -> StepId {
        StepId {
            epoch: self.epoch,
            step: self.step,
        }
    }
}

impl Register {
    /// Epoch and step.
    #[must_use]
    pub const fn id(&self) -> StepId {
        StepId {
            epoch: self.epoch,
            step: self.step,
        }
    }
}

impl VmDefinition {
    /// Whether the definition makes sense by itself.
    ///
    /// # Errors
    /// The first field that does not, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        if self.cpus == 0 || self.cpus > 1024 {
            return Err("cpus: between 1 and 1024".into());
        }
        if self.memory_mib == 0 || self.memory_mib > 64 * 1024 * 1024 {
            return Err("memoryMiB: between 1 MiB and 64 TiB".into());
        }
        if self.disks.is_empty() || self.disks.len() > MAX_DEVICES {
            return Err(format!("disks: between 1 and {MAX_DEVICES}"));
        }
        for (at, disk) in self.disks.iter().enumerate() {
            check_disk_id(&format!("disks[{at}].id"), &disk.id)?;
            if self.disks[..at].iter().any(|other| other.id == disk.id) {
                return Err(format!("disks[{at}].id: {} stands twice", disk.id));
            }
            check_path(&format!("disks[{at}].path"), &disk.path)?;
            if let Some(size) = disk.size_bytes
                && (size == 0 || size % 512 != 0)
            {
                return Err(format!(
                    "disks[{at}].sizeBytes: {size} is not a positive multiple of 512"
                ));
            }
        }
        if self.networks.len() > MAX_DEVICES {
            return Err(format!("networks: at most {MAX_DEVICES}"));
        }
        for (at, network) in self.networks.iter().enumerate() {
            check_name(&format!("networks[{at}].name"), &network.name)?;
            if let Some(mac) = &network.mac {
                check_mac(&format!("networks[{at}].mac"), mac)?;
            }
        }
        match &self.boot {
            Boot::Disk => Ok(()),
            Boot::Kernel {
                kernel,
                initramfs,
                command_line,
            } => {
                check_path("boot.kernel", kernel)?;
                if let Some(initramfs) = initramfs {
                    check_path("boot.initramfs", initramfs)?;
                }
                check_text("boot.commandLine", command_line)
            }
            Boot::Profile { name, command_line } => {
                check_name("boot.name", name)?;
                check_text("boot.commandLine", command_line)
            }
        }
    }
}

/// A name: letters, digits, `.`, `_`, `-`; begins with a letter or digit, so that it is safe in paths, logs and arguments.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), String> {
    let fine = name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if fine {
        return Ok(());
    }
    let seen: String = name.chars().take(80).collect();
    Err(format!(
        "{field}: {seen:?} is not a name of up to {MAX_NAME} letters, digits, dots, dashes and underscores"
    ))
}

/// Disk ids are names that stay short, since file names are made of them.
fn check_disk_id(field: &str, id: &str) -> Result<(), String> {
    if id.len() > 64 {
        return Err(format!("{field}: at most 64 characters"));
    }
    check_name(field, id)
}

fn check_claim(field: &str, claim: &Claim) -> Result<(), String> {
    check_name(&format!("{field}.cluster"), &claim.cluster)?;
    check_name(&format!("{field}.pvm"), &claim.pvm)
}

fn check_peer(field: &str, peer: &PeerAddress) -> Result<(), String> {
    check_name(&format!("{field}.host"), &peer.host)?;
    check_text(&format!("{field}.control"), &peer.control)?;
    check_text(&format!("{field}.data"), &peer.data)?;
    match peer.data.rsplit_once(':') {
        Some((address, port))
            if !address.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(())
        }
        _ => Err(format!("{field}.data: must be address:port")),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!("{field}: at most {MAX_TEXT} bytes on one line"));
    }
    Ok(())
}

fn check_path(field: &str, path: &std::path::Path) -> Result<(), String> {
    path.to_str().map_or_else(
        || Err(format!("{field}: must be UTF-8")),
        |text| check_text(field, text),
    )
}

fn check_mac(field: &str, mac: &str) -> Result<(), String> {
    let parts: Vec<_> = mac.split(':').collect();
    if parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))
    {
        return Ok(());
    }
    Err(format!("{field}: must look like 52:54:00:12:34:56"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(command: Command) -> Order {
        Order {
            vm: Uuid::nil(),
            epoch: 1,
            step: 1,
            claim: None,
            failover: None,
            command,
        }
    }

    #[test]
    fn orders_read_as_written() {
        let text = r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,
            "claim":{"cluster":"c","pvm":"p"},"failover":"f","command":{"kind":"Stop","target":"az01","force":true}}"#;
        let read: Order = serde_json::from_str(text).unwrap();
        assert_eq!(
            read.command,
            Command::Stop {
                target: "az01".into(),
                force: true
            }
        );
        let again: Order = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn requests_refuse_unknown_fields() {
        for text in [
            r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Commit"},"x":1}"#,
            r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Commit","x":1}}"#,
            r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Explode"}}"#,
        ] {
            assert!(serde_json::from_str::<Order>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_stay_in_their_folder() {
        for bad in [
            "",
            "..",
            "../x",
            "a/b",
            "-rf",
            "a\nb",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(check_name("f", bad).is_err(), "{bad}");
        }
        assert!(check_name("f", "disk-0_a.b").is_ok());
    }

    #[test]
    fn peers_need_a_port() {
        let peer = |data: &str| PeerAddress {
            host: "az01".into(),
            control: String::new(),
            data: data.into(),
        };
        let replicate = |data| {
            order(Command::Replicate {
                peer: peer(data),
                interval_seconds: 5,
                immediate: false,
            })
        };
        assert!(replicate("127.0.0.1:7444").validate().is_ok());
        assert!(replicate("[::1]:7444").validate().is_ok());
        for bad in ["127.0.0.1", ":7444", "host:", "host:99999", "host:0"] {
            assert!(replicate(bad).validate().is_err(), "{bad}");
        }
    }

    #[test]
    fn roots_are_hexadecimal() {
        let root = Root([0xab; 32]);
        assert_eq!(root.to_string().parse::<Root>().unwrap(), root);
        assert!("ab".parse::<Root>().is_err());
        assert!("é".repeat(32).parse::<Root>().is_err());
    }
}
