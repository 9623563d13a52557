//! The right to run, as a host tells it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Claim, CommitRecord, FenceRecord, Operation, PowerSwitch, Root, StartRecord, StepId, StopRecord,
};

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
    /// `Owner`: an order was to bring the guest up, and it has not been seen up since. It is tried until it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub start_owed: bool,
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
    /// `Replica`: the host that owns the VM, and the only one whose data is taken. Named by an enroll or by the commit that it retired
    /// after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
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
