//! What nobody has seen the service do: one switch for each, so that a client is tried against every answer it may get.
//!
//! A default is the likeliest reading of the published material, never a promise. Nothing that is known belongs here.

use serde::{Deserialize, Serialize};

/// The side the service calls active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Location {
    /// On-premises.
    Primary,
    /// Azure.
    Recovery,
}

impl Location {
    /// The service's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "Primary",
            Self::Recovery => "Recovery",
        }
    }
}

/// Which operation an item offers after a failback that has not been committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommitWord {
    /// `Commit`.
    Commit,
    /// `FinalizeFailback`.
    FinalizeFailback,
    /// Both of them.
    Both,
}

/// The two words the service has for a move back to the premises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailbackWord {
    /// `Failback`.
    Failback,
    /// `PlannedFailover`.
    PlannedFailover,
}

impl FailbackWord {
    /// The service's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Failback => "Failback",
            Self::PlannedFailover => "PlannedFailover",
        }
    }
}

/// The answers to what is not known of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Assumptions {
    /// `protectionState` after a failback that has not been committed.
    pub failed_back_state: String,
    /// `protectionStateDescription` beside it.
    pub failed_back_description: String,
    /// `activeLocation` after a failback that has not been committed.
    pub failed_back_location: Location,
    /// The operation an item offers then.
    pub failed_back_operation: CommitWord,
    /// `stateDescription` of a failback job that waits for its resume.
    pub suspended_description: String,
    /// Whether the waiting task itself is `Suspended` rather than `InProgress`.
    pub waiting_task_is_suspended: bool,
    /// `currentScenario.scenarioName` of an item that fails back.
    pub failback_scenario: FailbackWord,
    /// The operation by which an item in Azure offers its failback.
    pub committed_operation: FailbackWord,
    /// Whether an item shows its operations while its failback is suspended.
    pub operations_while_suspended: bool,
    /// Whether the asynchronous operation counts as succeeded once the failback is suspended.
    pub operation_ends_at_pause: bool,
    /// Whether an item names a job that is accepted and has not begun.
    pub scenario_shown_before_start: bool,
    /// Whether an item that moves with its plan names the plan's job rather than its own part of it.
    pub item_names_plan_job: bool,
    /// Whether a protectable item tells its operating system; it has been seen to be null.
    pub protectable_os_known: bool,
    /// Whether the list of jobs has a job that is accepted and has not begun.
    pub job_listed_before_start: bool,
    /// Whether a failback still offers `Cancel` after the Azure VM has been shut down.
    pub cancel_after_shutdown: bool,
    /// Whether a failback that is cancelled or failed starts the Azure VM again.
    pub azure_vm_restarts: bool,
    /// Whether a planned failover to Azure that is cancelled or failed starts the VM on the premises again.
    pub on_premises_vm_restarts: bool,
    /// Whether a planned failover to Azure that was cancelled needs a repair of the replication.
    pub cancelled_failover_needs_repair: bool,
    /// Whether `operationresults` answers with an error when the job has failed, rather than with the resource.
    pub failed_result_is_error: bool,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            failed_back_state: "RestoreCompleted".into(),
            failed_back_description: "Failback completed".into(),
            failed_back_location: Location::Primary,
            failed_back_operation: CommitWord::FinalizeFailback,
            suspended_description: "WaitingForUserInput".into(),
            waiting_task_is_suspended: false,
            failback_scenario: FailbackWord::PlannedFailover,
            committed_operation: FailbackWord::Failback,
            operations_while_suspended: false,
            operation_ends_at_pause: false,
            scenario_shown_before_start: false,
            item_names_plan_job: false,
            protectable_os_known: true,
            job_listed_before_start: false,
            cancel_after_shutdown: true,
            azure_vm_restarts: true,
            on_premises_vm_restarts: false,
            cancelled_failover_needs_repair: true,
            failed_result_is_error: true,
        }
    }
}

impl Assumptions {
    /// One combination out of all; the same seed draws the same one.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let bytes = *blake3::hash(&seed.to_le_bytes()).as_bytes();
        let yes = |at: usize| bytes[at] & 1 == 1;
        let word = |at: usize| {
            if yes(at) {
                FailbackWord::Failback
            } else {
                FailbackWord::PlannedFailover
            }
        };
        let (state, description) = [
            ("RestoreCompleted", "Failback completed"),
            ("PlannedFailoverCommitRequired", "Planned failover finished"),
            ("FailbackCommitPending", "Failback finished"),
        ][usize::from(bytes[0] % 3)];
        Self {
            failed_back_state: state.into(),
            failed_back_description: description.into(),
            failed_back_location: if yes(1) {
                Location::Primary
            } else {
                Location::Recovery
            },
            failed_back_operation: [
                CommitWord::Commit,
                CommitWord::FinalizeFailback,
                CommitWord::Both,
            ][usize::from(bytes[2] % 3)],
            suspended_description: [
                "WaitingForUserInput",
                "WaitingForStopTestFailover",
                "Suspended",
            ][usize::from(bytes[3] % 3)]
            .into(),
            waiting_task_is_suspended: yes(4),
            failback_scenario: word(5),
            committed_operation: word(6),
            operations_while_suspended: yes(7),
            operation_ends_at_pause: yes(8),
            scenario_shown_before_start: yes(9),
            item_names_plan_job: yes(15),
            protectable_os_known: yes(17),
            job_listed_before_start: yes(10),
            cancel_after_shutdown: yes(11),
            azure_vm_restarts: yes(12),
            on_premises_vm_restarts: yes(16),
            cancelled_failover_needs_repair: yes(13),
            failed_result_is_error: yes(14),
        }
    }
}
