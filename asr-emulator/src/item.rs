//! A protected item: what the service knows of one VM's replication, and which operations it offers for it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::assumptions::{Assumptions, CommitWord, Location};

/// Where an item is on its way round.
///
/// ```text
/// Steady -> FailedOver -> Committed -> FailedBack -> RestoreFinalized -> Replicating -> Finalizing -> Steady
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The disks are being copied to Azure.
    Replicating,
    /// They are there and the first recovery point is awaited.
    FirstPointPending,
    /// The completion job of a replication runs.
    Finalizing,
    /// Replicated to Azure, running on the premises.
    Steady,
    /// Running in Azure, uncommitted.
    FailedOver {
        /// Whether by a planned failover.
        planned: bool,
    },
    /// Running in Azure, committed: nothing is replicated.
    Committed {
        /// Whether by a planned failover.
        planned: bool,
    },
    /// Running on the premises, the failback uncommitted.
    FailedBack,
    /// Running on the premises, nothing in Azure, nothing replicated.
    RestoreFinalized,
    /// An unplanned failover that did not end well.
    FailoverIncomplete,
    /// A failover to Azure was cancelled: replication goes on only after a repair.
    NeedsRepair,
}

/// The state of an item's test failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TestState {
    None,
    WaitingForCompletion,
    MarkedForDeletion,
}

impl TestState {
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::None => ("None", "None"),
            Self::WaitingForCompletion => {
                ("WaitingForCompletion", "Waiting for cleanup of the test")
            }
            Self::MarkedForDeletion => ("MarkedForDeletion", "Cleaning up test environment"),
        }
    }
}

/// A moment to which an item can be failed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) at: Timestamp,
    pub(crate) kind: String,
}

/// A protected item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) fabric: String,
    pub(crate) container: String,
    /// The GUID of its VM: the key of the world.
    pub(crate) vm: String,
    pub(crate) phase: Phase,
    pub(crate) test: TestState,
    /// The job that works on it, by its place in the list of jobs.
    pub(crate) current: Option<usize>,
    pub(crate) encrypted: bool,
    pub(crate) points: Vec<Point>,
    pub(crate) failover_point: Option<String>,
    pub(crate) last_failover: Option<Timestamp>,
    pub(crate) last_test: Option<Timestamp>,
    /// A health a test has given it.
    pub(crate) health: Option<String>,
}

impl Item {
    /// `protectionState` and its description.
    pub(crate) fn state<'a>(&self, assumed: &'a Assumptions) -> (&'a str, &'a str) {
        match self.phase {
            Phase::Replicating => (
                "InitialReplicationInProgress",
                "Initial replication is in progress",
            ),
            Phase::FirstPointPending => (
                "InitialReplicationRecoveryCompletionPending",
                "Waiting for first recovery point",
            ),
            Phase::Finalizing | Phase::Steady | Phase::NeedsRepair => ("Protected", "Protected"),
            Phase::FailedOver { planned: true } => {
                ("PlannedFailoverCommitRequired", "Planned failover finished")
            }
            Phase::FailedOver { planned: false } => (
                "UnplannedFailoverCommitPendingStatesBegin",
                "Failover completed",
            ),
            Phase::Committed { planned: true } => {
                ("PlannedFailoverStatesBegin", "Planned failover committed")
            }
            Phase::Committed { planned: false } => {
                ("UnplannedFailoverStatesBegin", "Failover committed")
            }
            Phase::FailedBack => (&assumed.failed_back_state, &assumed.failed_back_description),
            Phase::RestoreFinalized => ("RestoreFinalized", "Failback finalized"),
            Phase::FailoverIncomplete => (
                "UnplannedFailoverCompletionFailed",
                "Failover couldn't be completed",
            ),
        }
    }

    /// `vmProtectionState` and its description.
    pub(crate) fn vm_state(&self) -> (&'static str, &'static str) {
        match self.phase {
            Phase::Replicating | Phase::FirstPointPending => {
                ("UnprotectedStatesBegin", "Unprotected")
            }
            Phase::Finalizing => (
                "ReplicaConfigurationInProgress",
                "Replica configuration in progress",
            ),
            _ => ("Protected", "Protected"),
        }
    }

    /// The side the service calls active.
    pub(crate) fn location(&self, assumed: &Assumptions) -> Location {
        match self.phase {
            Phase::FailedOver { .. } | Phase::Committed { .. } => Location::Recovery,
            Phase::FailedBack => assumed.failed_back_location,
            _ => Location::Primary,
        }
    }

    /// What the item offers while no job works on it.
    pub(crate) fn operations(&self, assumed: &Assumptions) -> Vec<&'static str> {
        match self.phase {
            Phase::Replicating | Phase::FirstPointPending => vec!["DisableProtection"],
            Phase::Finalizing => Vec::new(),
            Phase::Steady if self.test == TestState::WaitingForCompletion => {
                vec!["TestFailoverCleanup"]
            }
            Phase::Steady => vec![
                "PlannedFailover",
                "UnplannedFailover",
                "DisableProtection",
                "TestFailover",
            ],
            Phase::FailedOver { .. } => {
                vec![
                    "CompleteMigration",
                    "Commit",
                    "DisableProtection",
                    "ChangePit",
                ]
            }
            Phase::Committed { .. } => vec![
                "CompleteMigration",
                "DisableProtection",
                assumed.committed_operation.word(),
            ],
            Phase::FailedBack => match assumed.failed_back_operation {
                CommitWord::Commit => vec!["Commit", "DisableProtection"],
                CommitWord::FinalizeFailback => vec!["FinalizeFailback", "DisableProtection"],
                CommitWord::Both => vec!["Commit", "FinalizeFailback", "DisableProtection"],
            },
            Phase::RestoreFinalized => vec!["ReverseReplicate", "DisableProtection"],
            Phase::FailoverIncomplete => vec!["UnplannedFailover", "DisableProtection"],
            Phase::NeedsRepair => vec!["RepairReplication", "DisableProtection"],
        }
    }

    /// `replicationHealth`.
    pub(crate) fn replication_health(&self) -> &str {
        match (&self.health, self.phase) {
            (Some(health), _) => health,
            (None, Phase::NeedsRepair | Phase::FailoverIncomplete) => "Critical",
            (None, _) => "Normal",
        }
    }
}
