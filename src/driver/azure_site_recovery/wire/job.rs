//! A Site Recovery job with its tasks.

use jiff::Timestamp;
use serde_json::Value;

use super::page::Element;
use super::value::{Object, last_segment};

/// How deep tasks are followed; the service nests them two or three deep.
const DEEPEST: usize = 6;
/// How many tasks of a job are read.
const MOST_TASKS: usize = 200;

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name, by which it is resumed and cancelled. Not always that of the operation which began it.
    pub name: String,
    /// What it is, for programs; none in the placeholder that stands for a job right after it was asked for.
    pub scenario: Option<String>,
    /// What it is, for people.
    pub friendly_name: Option<String>,
    /// How it stands.
    pub state: String,
    /// The same for people.
    pub state_description: String,
    /// Its tasks in order, with how deep each is nested. Lists tell of none.
    pub tasks: Vec<Task>,
    /// What went wrong.
    pub errors: Vec<JobError>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What may be done with it.
    pub allowed: Vec<String>,
    /// Identity of the VM, or of the plan, that it works on.
    pub target: Option<String>,
    /// Name of that.
    pub target_name: Option<String>,
    /// What the target is: `ProtectionEntity` for a VM.
    pub target_type: Option<String>,
    /// The kinds of fabric that the VM goes from and to, where the job tells: `Azure` and the kinds of Hyper-V.
    pub fabrics: Option<(String, String)>,
    /// It was read by itself, not from a list: its tasks are all there.
    pub detailed: bool,
    /// It went on when it was last told of, and since then, by its own clock, the service does not know it.
    pub missed: Option<Timestamp>,
    /// It was missed for so long that it must have ended.
    pub lost: bool,
    /// The VMs that are held by it, where their items are all that tells of it.
    pub holds: Vec<String>,
}

/// One task of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// How deep it is nested.
    pub depth: usize,
    /// What it is, for programs.
    pub name: String,
    /// What it is, for people.
    pub friendly_name: Option<String>,
    /// How it stands.
    pub state: String,
    /// The same for people; `Skipped` only shows here.
    pub state_description: String,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What went wrong.
    pub errors: Vec<JobError>,
    /// The job of a VM, where the task of a plan stands for one.
    pub child: Option<Child>,
}

/// The job of a VM inside the job of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Name of the job.
    pub job: String,
    /// Identity of the VM.
    pub target: Option<String>,
}

/// What went wrong, in the words of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// Its code.
    pub code: Option<String>,
    /// `Error`, `Warning` or the like.
    pub level: Option<String>,
    /// What went wrong.
    pub message: Option<String>,
    /// What may have caused it.
    pub causes: Option<String>,
    /// What the service recommends.
    pub recommended: Option<String>,
}

impl Job {
    /// One of which only the name is known.
    #[must_use]
    pub fn nothing_of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            scenario: None,
            friendly_name: None,
            state: String::new(),
            state_description: String::new(),
            tasks: Vec::new(),
            errors: Vec::new(),
            started: None,
            ended: None,
            allowed: Vec::new(),
            target: None,
            target_name: None,
            target_type: None,
            fabrics: None,
            detailed: false,
            missed: None,
            lost: false,
            holds: Vec::new(),
        }
    }

    /// Whether the state is one of these.
    #[must_use]
    pub fn is(&self, states: &[&str]) -> bool {
        is(&self.state, states)
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.lost
            || self.is(&[
                "Succeeded",
                "Failed",
                "Cancelled",
                "PartiallySucceeded",
                "CompletedWithInformation",
            ])
    }

    /// Whether this may be done with it.
    #[must_use]
    pub fn allows(&self, action: &str) -> bool {
        is(
            action,
            &self.allowed.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    /// Whether it has synchronised and waits for somebody to say that it shall go on. The words that describe the pause are not relied on.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.is(&["Suspended"]) && self.allows("Resume")
    }

    /// Whether it is that of a recovery plan.
    #[must_use]
    pub fn is_of_plan(&self) -> bool {
        let kind = self.target_type.as_deref().unwrap_or_default();
        kind.eq_ignore_ascii_case("RecoveryPlan")
    }

    /// The jobs of the VMs of a plan.
    pub fn children(&self) -> impl Iterator<Item = &Child> {
        self.tasks.iter().filter_map(|task| task.child.as_ref())
    }

    /// The tasks of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Task> {
        self.tasks
            .iter()
            .filter(move |task| task.name.eq_ignore_ascii_case(name))
    }
}

impl Task {
    /// Whether it was left out.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        self.state_description.eq_ignore_ascii_case("skipped")
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.is_skipped() && !is(&self.state, &["", "NotStarted"])
    }

    /// Whether it is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        is(&self.state, &["InProgress", "Suspended"])
    }
}

fn is(state: &str, states: &[&str]) -> bool {
    states.iter().any(|one| one.eq_ignore_ascii_case(state))
}

impl Element for Job {
    fn read(value: &Value) -> Option<Self> {
        let job = Object::of(value);
        let id = job.text("id");
        let name = job
            .text("name")
            .or_else(|| id.as_deref().map(|id| last_segment(id).to_owned()))?;
        let properties = job.object("properties");
        let custom = properties.object("customDetails");
        let affected = custom.object("affectedObjectDetails");
        let mut tasks = Vec::new();
        for task in properties.objects("tasks") {
            read_task(task, 0, &mut tasks);
        }
        Some(Self {
            scenario: properties.text("scenarioName"),
            friendly_name: properties.text("friendlyName"),
            state: properties.text("state").unwrap_or_default(),
            state_description: properties.text("stateDescription").unwrap_or_default(),
            tasks,
            errors: properties.objects("errors").filter_map(error).collect(),
            started: properties.time("startTime"),
            ended: properties.time("endTime"),
            allowed: properties.texts("allowedActions"),
            target: properties
                .text("targetObjectId")
                .map(|id| id.to_ascii_lowercase()),
            target_name: properties.text("targetObjectName"),
            target_type: properties.text("targetInstanceType"),
            fabrics: fabrics(affected),
            ..Self::nothing_of(&name)
        })
    }
}

fn fabrics(affected: Object<'_>) -> Option<(String, String)> {
    // The identity under which the service knows Azure, whatever it calls the fabric.
    const AZURE_CLOUD: &str = "d38048d4-b460-4791-8ece-108395ee8478";
    let side = |of: &str| {
        affected
            .text(&format!("{of}FabricProviderId"))
            .or_else(|| {
                let cloud = affected.text(&format!("{of}CloudId"))?;
                Some(if cloud.eq_ignore_ascii_case(AZURE_CLOUD) {
                    "Azure".to_owned()
                } else {
                    "HyperV".to_owned()
                })
            })
            .or_else(|| affected.text(&format!("{of}CloudName")))
            .map(|name| {
                if name.eq_ignore_ascii_case("microsoft azure") {
                    "Azure".to_owned()
                } else {
                    name
                }
            })
    };
    Some((side("Primary")?, side("Recovery")?))
}

fn read_task(task: Object<'_>, depth: usize, into: &mut Vec<Task>) {
    if depth > DEEPEST || into.len() >= MOST_TASKS {
        return;
    }
    let custom = task.object("customDetails");
    let of_vm = custom.object("jobTask");
    into.push(Task {
        depth,
        name: task.text("name").unwrap_or_default(),
        friendly_name: task.text("friendlyName"),
        state: task.text("state").unwrap_or_default(),
        state_description: task.text("stateDescription").unwrap_or_default(),
        started: task.time("startTime"),
        ended: task.time("endTime"),
        errors: task.objects("errors").filter_map(error).collect(),
        child: of_vm.text("jobId").map(|id| Child {
            job: last_segment(&id).to_owned(),
            target: of_vm
                .text("targetObjectId")
                .map(|id| id.to_ascii_lowercase()),
        }),
    });
    // Since 2016 under the one name, before that under the other.
    for details in [task.object("groupTaskCustomDetails"), custom] {
        for child in details.objects("childTasks") {
            read_task(child, depth + 1, into);
        }
    }
}

fn error(error: Object<'_>) -> Option<JobError> {
    let service = error.object("serviceErrorDetails");
    let provider = error.object("providerErrorDetails");
    let either = |one: &str, other: &str| service.text(one).or_else(|| provider.text(other));
    let read = JobError {
        code: either("code", "errorCode"),
        level: error.text("errorLevel"),
        message: either("message", "errorMessage"),
        causes: either("possibleCauses", "possibleCauses"),
        recommended: either("recommendedAction", "recommendedAction"),
    };
    (read.code.is_some() || read.message.is_some()).then_some(read)
}

impl JobError {
    /// All of it in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => format!("error {code}"),
            (None, Some(message)) => message.clone(),
            (None, None) => String::new(),
        };
        if let Some(causes) = &self.causes {
            words.push_str(" Possible causes: ");
            words.push_str(causes);
        }
        if let Some(recommended) = &self.recommended {
            words.push_str(" Recommended: ");
            words.push_str(recommended);
        }
        super::problem::one_line(&words)
    }

    /// Whether it is a warning only.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.level
            .as_deref()
            .is_some_and(|level| is(level, &["Warning", "Information", "Info"]))
    }
}
