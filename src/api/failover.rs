//! Failover: one move of one VM from one site to the other; the durable intent, the record, and where people answer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, DataSync, Site, Verdict, Yes};
use super::protected_virtual_machine::DataSyncRequest;

/// One move, and the answers people gave. Everything but the answers is immutable; an answer is never taken back.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "homeward.dev",
    version = "v1alpha1",
    kind = "Failover",
    plural = "failovers",
    shortname = "fo",
    category = "homeward",
    namespaced,
    status = "FailoverStatus",
    derive = "PartialEq",
    doc = "Failover is one move of one virtual machine from one site to the other. Homeward makes it; people answer in it.",
    validation = Rule::new("!has(self.spec.commit) || (has(self.status) && has(self.status.phase))")
        .message("spec.commit can be answered only once status.phase is AwaitingCommit: wait until the VM has been started at the target and look at it first")
        .field_path(".spec.commit"),
    validation = Rule::new(
        "has(oldSelf.spec.commit) || !has(self.spec.commit) || !has(self.status) || !has(self.status.phase) || \
         !(self.status.phase in ['AwaitingStart', 'Preparing', 'Synchronizing', 'AwaitingCutover', 'CuttingOver', 'Cancelling'])")
        .message("spec.commit can be answered only once status.phase is AwaitingCommit: wait until the VM has been started at the target and look at it first")
        .field_path(".spec.commit"),
    validation = Rule::new(
        "has(oldSelf.spec.commit) || !has(self.spec.commit) || self.spec.commit != 'Rollback' || !has(self.status) || !has(self.status.phase) || \
         !(self.status.phase in ['Committing', 'AwaitingReverseReplication', 'ReverseReplicating'])")
        .message("spec.commit: Rollback comes too late: the move is committed; change spec.placement of the ProtectedVirtualMachine back, and the VM comes back by a move of its own")
        .field_path(".spec.commit"),
    validation = Rule::new(
        "has(oldSelf.spec.commit) || !has(self.spec.commit) || self.spec.commit != 'Rollback' || !has(self.status) || !has(self.status.rollback) || self.status.rollback != 'Unavailable'")
        .message("spec.commit: Rollback cannot be done: the service of this vault takes no move back; answer Approved, and change spec.placement of the ProtectedVirtualMachine to bring the VM back by a move of its own")
        .field_path(".spec.commit"),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.phase) || !(self.status.phase in ['Succeeded', 'Cancelled', 'RolledBack', 'Failed']) || self.spec == oldSelf.spec")
        .message("the move has ended and takes no answer any more: to move the VM, change spec.placement of the ProtectedVirtualMachine")
        .field_path(".spec"),
    validation = Rule::new(
        "(has(oldSelf.spec.cancel) && oldSelf.spec.cancel) || !(has(self.spec.cancel) && self.spec.cancel) || !has(self.status) || !has(self.status.phase) || \
         !(self.status.phase in ['AwaitingCommit', 'Committing', 'AwaitingReverseReplication', 'ReverseReplicating'])")
        .message("spec.cancel comes too late: the VM has been started at the target; answer spec.commit: Rollback while status.phase is AwaitingCommit, or change the placement back")
        .field_path(".spec.cancel"),
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.virtualMachine.name"),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.from"),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.to"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.summary"),
    printcolumn(name = "Waiting For", type_ = "string", json_path = ".status.waitingFor"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.virtualMachine == oldSelf.virtualMachine")
    .message("spec.virtualMachine is immutable: a Failover moves one VM once; to move another, change spec.placement of its ProtectedVirtualMachine").field_path(".virtualMachine"))]
#[x_kube(validation = Rule::new("self.from == oldSelf.from")
    .message("spec.from is immutable: change spec.placement of the ProtectedVirtualMachine instead").field_path(".from"))]
#[x_kube(validation = Rule::new("self.to == oldSelf.to")
    .message("spec.to is immutable: change spec.placement of the ProtectedVirtualMachine instead").field_path(".to"))]
#[x_kube(validation = Rule::new("self.from != self.to")
    .message("spec.to must be the other site than spec.from").field_path(".to"))]
#[x_kube(validation = Rule::new("self.dataSync == oldSelf.dataSync")
    .message("spec.dataSync is immutable: cancel this Failover, set spec.failback.dataSync of the ProtectedVirtualMachine, and start the next one").field_path(".dataSync"))]
#[x_kube(validation = Rule::new("has(self.host) == has(oldSelf.host) && (!has(self.host) || self.host == oldSelf.host)")
    .message("spec.host is immutable: cancel this Failover, set spec.failback.host of the ProtectedVirtualMachine, and start the next one").field_path(".host"))]
#[x_kube(validation = Rule::new("has(self.createIfMissing) == has(oldSelf.createIfMissing) && (!has(self.createIfMissing) || self.createIfMissing == oldSelf.createIfMissing)")
    .message("spec.createIfMissing is immutable: cancel this Failover, set spec.failback.createIfMissing of the ProtectedVirtualMachine, and start the next one").field_path(".createIfMissing"))]
#[x_kube(validation = Rule::new("!has(oldSelf.start) || (has(self.start) && self.start == oldSelf.start)")
    .message("spec.start was answered and cannot be taken back: set spec.cancel: true to stop the move").field_path(".start"))]
#[x_kube(validation = Rule::new("!has(oldSelf.cutover) || (has(self.cutover) && self.cutover == oldSelf.cutover)")
    .message("spec.cutover was answered and cannot be taken back: set spec.cancel: true to stop the move").field_path(".cutover"))]
#[x_kube(validation = Rule::new("!has(oldSelf.commit) || (has(self.commit) && self.commit == oldSelf.commit)")
    .message("spec.commit was answered and cannot be taken back: after Approved, change spec.placement of the ProtectedVirtualMachine to bring the VM back; after Rollback, the next Failover waits for spec.start: Approved").field_path(".commit"))]
#[x_kube(validation = Rule::new("!has(oldSelf.reverseReplicate) || (has(self.reverseReplicate) && self.reverseReplicate == oldSelf.reverseReplicate)")
    .message("spec.reverseReplicate was answered and cannot be taken back: the VM stays protected; to stop that, delete the ProtectedVirtualMachine, which touches no VM").field_path(".reverseReplicate"))]
#[x_kube(validation = Rule::new("!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)")
    .message("spec.cancel was answered and cannot be taken back: the next Failover waits for spec.start: Approved").field_path(".cancel"))]
pub struct FailoverSpec {
    /// The VM that moves.
    pub virtual_machine: VirtualMachineReference,
    /// The site it starts from.
    pub from: Site,
    /// The site it goes to.
    pub to: Site,
    /// The data sync asked for.
    pub data_sync: DataSyncRequest,
    /// The host asked for on-premises, where it is another than the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub host: Option<String>,
    /// Leave to create the VM on-premises where it is not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_if_missing: Option<bool>,
    /// Answer: begin, where the move waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Yes>,
    /// Answer: stop the VM now and move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutover: Option<Yes>,
    /// Answer: accept the result, or go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Verdict>,
    /// Answer: protect the VM in the other direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_replicate: Option<Yes>,
    /// Answer: stop the move and stay at the source. Heard until the target has been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

/// The ProtectedVirtualMachine of a Failover, by name and UID (safety rule S6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineReference {
    /// Name of the ProtectedVirtualMachine.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its UID.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// Where a move stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum FailoverPhase {
    /// Waits for `start: Approved`.
    AwaitingStart,
    /// Checks what must hold before anything is touched.
    Preparing,
    /// Copies what differs.
    Synchronizing,
    /// Waits at the cutover gates.
    AwaitingCutover,
    /// Stops the VM, sends the last delta, starts it at the target.
    CuttingOver,
    /// Runs at the target; waits at the commit gates.
    AwaitingCommit,
    /// Accepts the result and retires the source copy.
    Committing,
    /// Waits for `reverseReplicate: Approved`.
    AwaitingReverseReplication,
    /// Protects the VM in the other direction.
    ReverseReplicating,
    /// Ended: moved, committed and, where the driver protects there, protected.
    Succeeded,
    /// Goes back before the target was started.
    Cancelling,
    /// Ended: the VM stayed at its source.
    Cancelled,
    /// Goes back after the target was started.
    RollingBack,
    /// Ended: the VM is at its source again; what the target wrote was dropped.
    RolledBack,
    /// Ended: could not be done; the VM is at its source.
    Failed,
}

impl FailoverPhase {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Cancelled | Self::RolledBack | Self::Failed
        )
    }
}

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailoverOutcome {
    /// Moved and committed.
    Succeeded,
    /// Stopped before the target was started; the VM stayed at its source.
    Cancelled,
    /// Taken back before commit.
    RolledBack,
    /// Could not be done; the VM is at its source.
    Failed,
}

/// The record of a move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Where the move stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<FailoverPhase>,
    /// What the move waits for, in words; absent when it waits for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Epoch of the right to run that this move works under: that of its newest order that was seen to have been taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Step of that order within the epoch; a look that shows less than both is older than the move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// What was done and when, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tasks: Vec<TaskStatus>,
    /// `Unavailable` where the vault's driver cannot take this move back before commit; absent where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// How far the copy is; written at most every 5 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// The data sync chosen and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sync: Option<DataSyncChoice>,
    /// Downtime, predicted and measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<DowntimeStatus>,
    /// Bytes sent against bytes changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferStatus>,
    /// What a rollback would drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncommitted: Option<UncommittedStatus>,
    /// The action that was decided, stored before it is asked for (safety rule S2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_action: Option<PendingActionStatus>,
    /// The failures of the present step, cleared when it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureStatus>,
    /// Why the move goes back, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turned_back_because: Option<String>,
    /// How the move ended; while it goes back, how it will end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<FailoverOutcome>,
    /// When the move began to touch anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the move ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// Whether a move can be taken back before commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackStatus {
    /// It cannot.
    Unavailable,
}

/// One task of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Name of the task.
    pub name: String,
    /// Where it stands.
    pub state: TaskState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The job of the service that does it, where a service does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The steps of that job in the service's own order and words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
}

/// One step of a job of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Its name; behind that of the step that it is a part of, where there is one.
    pub name: String,
    /// Where it stands, in the service's words.
    pub state: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What the service says of it: error code, message, possible causes, recommended action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaskState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Could not be done.
    Failed,
    /// Was not needed.
    Skipped,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// One short line for `kubectl get`.
    pub summary: String,
    /// Bytes done.
    pub bytes_done: i64,
    /// Bytes to do, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// Rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// When the copy should be through at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_completion_time: Option<Time>,
    /// When this was seen.
    pub observed_time: Time,
}

/// A data sync and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSyncChoice {
    /// The data sync.
    pub chosen: DataSync,
    /// Why.
    pub reason: String,
}

/// Downtime, predicted and measured. All times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DowntimeStatus {
    /// The prediction as it stood when cutover began; absent when a part of it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_milliseconds: Option<i64>,
    /// The parts of the prediction, or what is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// From the order to stop the VM until it ran at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_milliseconds: Option<i64>,
    /// When the VM was ordered to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_ordered_time: Option<MicroTime>,
    /// When it was seen stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_time: Option<MicroTime>,
    /// When it was ordered to start at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ordered_time: Option<MicroTime>,
    /// When it was seen running at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_time: Option<MicroTime>,
}

/// Bytes sent against bytes changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferStatus {
    /// Bytes on the wire while the VM ran.
    pub synchronized_bytes: i64,
    /// Bytes of the last delta on the wire.
    pub final_bytes: i64,
    /// Bytes of the blocks that differed, both parts together.
    pub changed_bytes: i64,
    /// Bytes on the wire until reverse replication was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_bytes: Option<i64>,
    /// Bytes of the blocks that had changed at the target until reverse replication was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_changed_bytes: Option<i64>,
}

/// What a rollback would drop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UncommittedStatus {
    /// Bytes that the guest wrote at the target; absent while that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Since when.
    pub since: Time,
    /// When this was seen.
    pub observed_time: Time,
}

/// An action stored before it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingActionStatus {
    /// The action.
    pub action: String,
    /// Epoch it carries.
    pub epoch: i64,
    /// Step within the epoch.
    pub step: i64,
    /// When it was stored.
    pub stored_time: Time,
    /// It, or one before it, was asked for and no answer came: it may still be on its way, whatever is answered now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unresolved: bool,
    /// It was refused when it was asked for again; what is decided now carries a newer step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// The failures of the present step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// How many in a row.
    pub count: i64,
    /// Class, which decides what follows: `Transient`, `Throttled`, `Conflict`, `Capacity`, `Unresponsive`,
    /// `Invalid`, `Denied`.
    pub class: String,
    /// The words of whoever failed.
    pub message: String,
    /// When it last failed.
    pub time: MicroTime,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<MicroTime>,
}
