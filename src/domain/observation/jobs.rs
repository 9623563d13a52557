//! What a service that keeps no registers tells of what it does.

use jiff::Timestamp;

use crate::domain::failure::ErrorClass;

/// What a service tells of its jobs on one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jobs {
    /// All that it tells of, oldest first.
    pub all: Vec<Job>,
    /// What it calls under way on the VM.
    pub scenario: String,
    /// Its clock when this was seen.
    pub server_time: Option<Timestamp>,
    /// When this look began, by the clock here.
    pub looked: Timestamp,
    /// When the service was last asked for its list of jobs, by the clock here: a job that came into being after that is not among them.
    pub listed: Timestamp,
}

/// A job that went on when it was last told of, by which the service still holds the VM or may do so, and that it does not know now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingJob {
    /// What is waited for, and what a person can look at.
    pub what: String,
    /// The service has had time to tell of it again, and still holds the VM: only people can end that.
    pub is_stuck: bool,
}

/// One job of a service on one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name, which no other job has.
    pub id: String,
    /// What it does.
    pub does: JobKind,
    /// It is an unplanned failover, which only a person asks for: never the result of a request of Homeward's.
    pub unplanned: bool,
    /// Name of the recovery plan whose other VMs move by it too: then it is neither told to go on nor cancelled for this one alone.
    pub plan: Option<String>,
    /// How it stands.
    pub state: JobState,
    /// Since when the service does not know it, though it had not ended when it was last told of: its state is that of before.
    pub missed: Option<Timestamp>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// What it is doing, in the service's words.
    pub doing: Option<String>,
    /// What people must hear of how it was done.
    pub remark: Option<String>,
    /// Its steps, as the service has them.
    pub tasks: Vec<JobTask>,
}

/// What a job of a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Moves the VM to Azure.
    Failover,
    /// Brings the VM back on-premises.
    Failback,
    /// Accepts a move.
    Commit,
    /// Protects the VM again after it was brought back.
    Reprotect,
    /// Something that Homeward asks of no service.
    Other,
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It goes on by itself; whether it can be cancelled without harm to where the VM runs.
    Running {
        /// It can.
        cancellable: bool,
    },
    /// It has synchronised, and waits to be told to go on.
    Waiting,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// Done.
    Succeeded,
    /// Not done.
    Failed {
        /// What follows from it.
        class: ErrorClass,
        /// The words of the service: what failed, possible causes, what it recommends.
        message: String,
    },
    /// The service does not know it any more, and has nothing under way on the VM: it has ended, and only where the VM stands tells how.
    Lost,
}

impl JobState {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Succeeded | Self::Failed { .. } | Self::Lost
        )
    }

    /// Whether it can be cancelled without harm to where the VM runs (safety rule S20).
    #[must_use]
    pub const fn can_be_cancelled(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running { cancellable: true })
    }
}

/// One step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobTask {
    /// How deep it is nested; 0 for a step of the job itself.
    pub depth: usize,
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: Option<String>,
    /// How it stands, in the words of the service.
    pub state: String,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What is wrong with it.
    pub message: Option<String>,
}

impl JobTask {
    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !["", "NotStarted", "Skipped"]
            .iter()
            .any(|state| state.eq_ignore_ascii_case(&self.state))
    }
}
