//! What a host knows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    DiskShape, Operation, OperationError, PeerAddress, Progress, Register, Roots, Site, StepId,
    VmDefinition,
};

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
    /// Bytes that replicas may take on the storage: what is free there, less the last that is left for others.
    pub free_bytes: u64,
    /// Networks (virtual switches) that VMs here can have.
    pub networks: Vec<String>,
    /// What the agent found when it began.
    pub found: Found,
    /// Every VM that has a definition or a register here, or a process that was found.
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
    /// A person wrote the definition on this host; no order changes it.
    #[serde(default)]
    pub definition_written: bool,
    /// Whether it runs.
    pub power: Power,
    /// Why `power` is `Unknown`, or which process runs a VM that this host does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_reason: Option<String>,
    /// Its disks with the sizes they have now; a disk that cannot be read is left out and stands in `problems`.
    pub disks: Vec<DiskShape>,
    /// Which of them are block devices: they are written in place, and keep their size.
    #[serde(default)]
    pub devices: Vec<String>,
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
    /// Bytes the guest wrote here since the start that waits for its commit, over all its power cycles; what it wrote twice in one of them
    /// counts once. None: nothing waits for a commit, or it is not known.
    #[serde(default)]
    pub written_since_start: Option<u64>,
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
    /// A disk cannot be read.
    Disk,
    /// There is nothing at the path of a disk.
    DiskMissing,
    /// The definition is not valid.
    Definition,
    /// A register, or another file of the agent's, cannot be read.
    Storage,
    /// The register is there and cannot be read: the VM is fenced here (S4).
    Register,
    /// The host can start no guest.
    Hypervisor,
    /// The guest runs though this host has no right to run it.
    RunsWithoutRight,
    /// The guest is to run and could not be started.
    NotStarted,
    /// A guest's process is there, and this host knows no such VM, or it cannot be told whether there is one.
    Stranger,
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
