//! Jobs and their tasks: what the service is busy with. How they are made is in `scenarios`, how they go on in `run`.

pub(crate) mod children;
pub(crate) mod effects;
mod plan_tasks;
pub(crate) mod plans;
pub(crate) mod run;
pub(crate) mod scenarios;
pub(crate) mod start;
pub(crate) mod steer;
pub(crate) mod view;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::world::Site;

/// What a job is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scenario {
    /// On-premises to Azure, without loss.
    PlannedFailover,
    /// Azure to on-premises; the service calls it a planned failover too.
    Failback,
    /// On-premises to Azure, with loss if need be.
    UnplannedFailover,
    /// The commit of a failover.
    CommitFailover,
    /// The commit of a failback.
    FinalizeFailback,
    /// Replication to Azure begins anew after a failback.
    Reprotect,
    /// The automatic end of an initial replication.
    IrCompletion,
    /// The automatic job beside a failback when the data is in.
    RestoreCompletion,
    /// A test of a failover.
    TestFailover,
    /// Its end.
    TestFailoverCleanup,
    /// Resynchronisation.
    RepairReplication,
    /// Another recovery point for an uncommitted failover.
    ChangePit,
    /// Protection is taken away.
    DisableDr,
    /// A provider reads its hosts anew.
    RefreshFabric,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// Accepted: a placeholder.
    NotStarted,
    /// Going on.
    InProgress,
    /// Waiting for its resume.
    Suspended,
    /// Being cancelled.
    Cancelling,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended by a cancel.
    Cancelled,
}

impl JobState {
    /// The service's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotStarted => "NotStarted",
            Self::InProgress => "InProgress",
            Self::Suspended => "Suspended",
            Self::Cancelling => "Cancelling",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What went wrong in a job, in the service's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobError {
    /// The service's error code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Why that may be.
    #[serde(default)]
    pub possible_causes: String,
    /// What to do.
    #[serde(default)]
    pub recommended_action: String,
}

impl JobError {
    /// An error of that code.
    #[must_use]
    pub fn new(code: &str, message: &str, causes: &str, action: &str) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            possible_causes: causes.into(),
            recommended_action: action.into(),
        }
    }
}

/// What a job works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// The key of an item.
    Item(String),
    /// The key of a plan.
    Plan(String),
    /// A fabric and the name of its provider.
    Provider(String, String),
}

/// How a failback is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailbackOptions {
    /// Whole disks at once, with the Azure VM shut down from the start.
    pub(crate) full_download: bool,
    /// The VM on the premises may be made if it is not there.
    pub(crate) create: bool,
    /// The name of another host's provider.
    pub(crate) provider: Option<String>,
}

/// What a task does to the world or to an item when it ends well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Effect {
    Stop(Site),
    StopIfReachable,
    MakeAzure,
    Start(Site),
    FailedOver { planned: bool },
    Committed,
    PrepareOnPremises,
    BeginSync,
    DataIsIn,
    FinishSync,
    FailedBack,
    Finalized,
    Replicating,
    FirstPointPending,
    Finalizing,
    Protected,
    TestStarted,
    TestEnded,
    Repaired,
    PointChanged(String),
    Removed,
    Refreshed,
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TaskState {
    NotStarted,
    InProgress,
    Succeeded,
    Skipped,
    Failed,
    Cancelled,
}

/// The kinds of task, which differ in how they show their children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TaskKind {
    Plain,
    Inline,
    Group,
    ShutdownGroup,
    VirtualMachine,
}

/// A step of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) friendly: String,
    pub(crate) kind: TaskKind,
    pub(crate) state: TaskState,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
    /// How long it takes.
    pub(crate) millis: u64,
    pub(crate) effects: Vec<Effect>,
    /// The item it is about, when that is not the job's own.
    pub(crate) item: Option<String>,
    /// It fails when the provider is silent.
    pub(crate) needs_host: bool,
    /// It fails when the VM on the premises is not as a failback needs it.
    pub(crate) needs_vm: bool,
    /// It waits for a resume.
    pub(crate) waits: bool,
    /// Its children go on side by side.
    pub(crate) parallel: bool,
    pub(crate) children: Vec<Task>,
    /// The VM's own job, by its place in the list of jobs.
    pub(crate) child_job: Option<usize>,
    pub(crate) error: Option<JobError>,
}

/// Where a test wants a job to fail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlannedFailure {
    /// The task's name.
    pub(crate) task: String,
    /// The VM of a plan's job, by its item; any when there is none.
    pub(crate) item: Option<String>,
    pub(crate) error: JobError,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) activity: String,
    pub(crate) scenario: Scenario,
    pub(crate) target: Target,
    pub(crate) state: JobState,
    pub(crate) tasks: Vec<Task>,
    pub(crate) errors: Vec<(Timestamp, String, JobError)>,
    pub(crate) created: Timestamp,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
    /// The id, the name and the type of what it works on, as they were when it was made.
    pub(crate) object: (String, String),
    pub(crate) failback: FailbackOptions,
    /// It fails at its first task.
    pub(crate) doom: Option<JobError>,
    /// A test wants it to fail.
    pub(crate) fails_at: Option<PlannedFailure>,
    pub(crate) resumed: bool,
    /// Jobs the service starts by itself are not seen before they begin, and hold their item only then.
    pub(crate) automatic: bool,
    /// The plan's job that this one is a part of.
    pub(crate) parent: Option<usize>,
    /// The jobs of its VMs.
    pub(crate) children: Vec<usize>,
    pub(crate) comments: Option<String>,
    /// Nobody is told of it any more; what it does goes on.
    pub(crate) purged: bool,
}

/// An asynchronous operation: what an accepted request can be asked about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) job: usize,
    /// The path of the resource below the vault.
    pub(crate) resource: String,
    /// It ends with no resource left.
    pub(crate) deletes: bool,
    /// It is over at once: a cancel or resume of a job.
    pub(crate) instant: bool,
    pub(crate) created: Timestamp,
    pub(crate) warning: Option<(String, String)>,
}
