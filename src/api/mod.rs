//! The custom resources of group `homeward.dev`, version `v1alpha1`.
//!
//! Types, their schema and the CEL rules beside the fields they guard; nothing else. This module imports no other module
//! of the crate: the schema stands alone. `homeward crds` prints what stands here, and `crds/` holds the printed files.

mod azure_site_recovery;
mod common;
mod failover;
mod kept_register;
mod protected_virtual_machine;
mod recovery_vault;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use azure_site_recovery::{
    AzureCloud, AzureCredentials, AzureSiteRecoveryVault, CustomCloud, ManagedIdentity,
    WorkloadIdentity,
};
pub use common::{
    Approval, Condition, DataSync, FailoverReference, Health, Placement, SecretReference, Site,
    VaultReference, Verdict, Yes,
};
pub use failover::{
    DataSyncChoice, DowntimeStatus, Failover, FailoverOutcome, FailoverPhase, FailoverSpec,
    FailoverStatus, FailureStatus, PendingActionStatus, ProgressStatus, RollbackStatus, StepStatus,
    TaskState, TaskStatus, TransferStatus, UncommittedStatus, VirtualMachineReference,
};
pub use kept_register::{KeptOutcome, KeptRegister, KeptRequest, KeptResult};
pub use protected_virtual_machine::{
    CommitSpec, CutoverSpec, DataSyncRequest, FailbackSpec, LastFailoverStatus, MeasuredDowntime,
    ProtectedVirtualMachine, ProtectedVirtualMachineSpec, ProtectedVirtualMachineStatus,
    ReplicationStatus, VirtualMachinePhase,
};
pub use recovery_vault::{
    AgentHost, AgentsVault, HostStatus, RecoveryVault, RecoveryVaultSpec, RecoveryVaultStatus,
    SiteAgents, TlsSecrets,
};

/// API group of every kind.
pub const GROUP: &str = "homeward.dev";
/// The one version served.
pub const VERSION: &str = "v1alpha1";
/// Finalizer that holds a resource until exactly one site may run its VM (safety rule S6).
pub const FINALIZER: &str = "homeward.dev/safe-end";
/// Label on a Failover: the name of the ProtectedVirtualMachine it moves.
pub const VM_LABEL: &str = "homeward.dev/virtual-machine";
/// Annotation on a ProtectedVirtualMachine: the claim (`<cluster>/<uid>`) that may be taken over from another cluster (S1).
pub const TAKEOVER_ANNOTATION: &str = "homeward.dev/take-over-claim";

/// Annotation on a ProtectedVirtualMachine: the job of a service after which a person has seen the VM run, where nothing else tells.
pub const SEEN_RUNNING_ANNOTATION: &str = "homeward.dev/seen-running";

/// All definitions, in the order in which their files are written.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        RecoveryVault::crd(),
        ProtectedVirtualMachine::crd(),
        Failover::crd(),
    ]
}
