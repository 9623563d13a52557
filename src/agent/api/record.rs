//! What one host proves to another.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DiskShape, Roots};

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
    /// As [`StopProof::ProcessGone`]; the guest had not shut down in time, or it was ordered so, and its power was taken away: its file
    /// systems are as after a power cut.
    PowerTakenAway,
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
