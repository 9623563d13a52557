//! ProtectedVirtualMachine: where a VM should run, and how it may be moved there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{
    Approval, Condition, FailoverReference, Health, Placement, SecretReference, Site,
    VaultReference,
};
use super::failover::{FailoverOutcome, ProgressStatus};
use super::kept_register::KeptRegister;

/// What a person says of a VM.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "homeward.dev",
    version = "v1alpha1",
    kind = "ProtectedVirtualMachine",
    plural = "protectedvirtualmachines",
    shortname = "pvm",
    category = "homeward",
    namespaced,
    status = "ProtectedVirtualMachineStatus",
    derive = "PartialEq",
    doc = "ProtectedVirtualMachine says at which site a virtual machine should run; Homeward brings it there and keeps it protected.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name must have at most 63 characters: it labels the Failovers of this VM"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".spec.placement"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.activeSite"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Protected", type_ = "string", json_path = ".status.conditions[?(@.type=='Protected')].status"),
    printcolumn(name = "Failover", type_ = "string", json_path = ".status.currentFailover.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.vaultRef.name == oldSelf.vaultRef.name")
    .message("spec.vaultRef is immutable: delete this resource (the VM is not touched) and make one for the other vault")
    .field_path(".vaultRef"))]
#[x_kube(validation = Rule::new(
    "has(self.virtualMachineName) == has(oldSelf.virtualMachineName) && (!has(self.virtualMachineName) || self.virtualMachineName == oldSelf.virtualMachineName)")
    .message("spec.virtualMachineName is immutable: delete this resource (the VM is not touched) and make one for the other VM")
    .field_path(".virtualMachineName"))]
pub struct ProtectedVirtualMachineSpec {
    /// The vault that replicates this VM. Immutable.
    pub vault_ref: VaultReference,
    /// The VM's name in the vault; `metadata.name` when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub virtual_machine_name: Option<String>,
    /// The site where the VM should run.
    pub placement: Placement,
    /// How the VM comes back on-premises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback: Option<FailbackSpec>,
    /// What holds the cutover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutover: Option<CutoverSpec>,
    /// What holds the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitSpec>,
    /// Whether protection in the other direction follows commit by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_replication: Option<Approval>,
    /// Secret with the key certificate of data that is encrypted in the vault: `certificate.pfx`, and `password` where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key_secret_ref: Option<SecretReference>,
    /// Start nothing new; what runs goes on to its next gate and holds there, whatever the gate's approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How many finished Failovers to keep; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000), extend("format" = "int32"))]
    pub failover_history_limit: Option<u32>,
}

/// How the VM comes back on-premises.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.host) || (has(self.createIfMissing) && self.createIfMissing)")
    .message("spec.failback.host needs spec.failback.createIfMissing: true, since the VM is not on that host yet").field_path(".host"))]
pub struct FailbackSpec {
    /// Another host than the VM's own: with Azure Site Recovery the id or the name of a recovery services provider of a Hyper-V site. The host
    /// needs a virtual switch of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub host: Option<String>,
    /// Leave to create the VM on-premises where it is not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_if_missing: Option<bool>,
    /// How data is brought back; `Auto` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sync: Option<DataSyncRequest>,
    /// `Auto` takes the full download when Azure has run the VM longer than this without bringing the replica on-premises up to date; `720h`
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')")
        .message("spec.failback.fullDownloadAfter must be a time in h, m and s, longer than zero, for example 720h for 30 days"))]
    pub full_download_after: Option<Duration>,
}

/// The data sync asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DataSyncRequest {
    /// Homeward chooses; the choice and its reason stand in the Failover's status.
    #[default]
    Auto,
    /// Always the delta.
    DeltaBeforeFailover,
    /// Always the full download.
    FullDuringFailover,
}

/// What holds the cutover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CutoverSpec {
    /// `Automatic` (when absent), or `Manual`: wait for `cutover: Approved` on the Failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// What holds the commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitSpec {
    /// `Automatic` (when absent), or `Manual`: wait for `commit: Approved` or `commit: Rollback` on the Failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// What is known of a VM. Figures that change all the time are metrics, not status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedVirtualMachineStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled`, `Placed`, `Protected`, `TargetConsistent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The VM's identity in the vault, once it was seen: what makes two resources claim the same VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machine_id: Option<String>,
    /// The site that holds the right to run the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_site: Option<Site>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Time>,
    /// One word for people; decisions rest on conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<VirtualMachinePhase>,
    /// Counter raised whenever the right to run moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Newest order within the epoch that was seen to have been taken; a look that shows less than both is an old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// The protection that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationStatus>,
    /// The Failover under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_failover: Option<FailoverReference>,
    /// The Failover that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<LastFailoverStatus>,
    /// The highest number a Failover of this VM has had; the next one takes the next number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_counter: Option<i64>,
    /// Why the next Failover will wait for `start: Approved`; absent when it starts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start_held_because: Option<String>,
    /// What stopping and starting this VM took when it was last done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_downtime: Option<MeasuredDowntime>,
    /// The register of this VM, where its vault is a service that keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<KeptRegister>,
}

/// One word for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VirtualMachinePhase {
    /// Nothing is known yet.
    Pending,
    /// The first replica is being made.
    Protecting,
    /// Runs where it should, with a replica on the other site.
    Protected,
    /// Runs where it should, without a usable replica.
    Unprotected,
    /// A Failover is under way.
    FailingOver,
    /// A Failover waits for a person.
    AwaitingApproval,
    /// A person asked to start nothing new.
    Suspended,
    /// A person must mend something.
    Stalled,
    /// Being let go of.
    Detaching,
}

/// The protection that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    /// The site that sends.
    pub from: Site,
    /// The site that receives.
    pub to: Site,
    /// How well it does.
    pub health: Health,
    /// How far the first replica is; absent once it is whole. Written at most every 10 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
}

/// The Failover that ended last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailoverStatus {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The site it started from.
    pub from: Site,
    /// The site it went to.
    pub to: Site,
    /// How it ended.
    pub outcome: FailoverOutcome,
    /// When it ended.
    pub time: Time,
}

/// What stopping and starting a VM took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredDowntime {
    /// From the order to stop until the guest had stopped, in milliseconds.
    pub shutdown_milliseconds: i64,
    /// From the order to start until the guest ran, in milliseconds.
    pub start_milliseconds: i64,
    /// The last delta, from the stop until the order to start, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delta_milliseconds: Option<i64>,
    /// Bytes that the last delta sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delta_bytes: Option<i64>,
}
