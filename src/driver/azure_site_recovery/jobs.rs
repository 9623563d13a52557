//! A job of the service, as decisions see it. Pure.

use super::wire::item::Item;
use super::wire::job::{Child, Job as Told, JobError, Task};
use super::wire::value::same_id;
use crate::api::Site;
use crate::domain::{ErrorClass, Job, JobKind, JobState, JobTask};

/// The tasks by which a failover to Azure stops the VM on the premises, and a failback the one in Azure.
const STOPS: [&str; 3] = [
    "VmShutdownVmOnPrimary",
    "ShutdownVmOnAzure",
    "ShutdownAllActionGroup",
];
/// The inner part of a failback, after somebody said that it shall go on. Its first steps check again; what it stops is named in [`STOPS`]. It
/// may come to that while a cancel is on its way.
const COMPLETES: [&str; 1] = ["StartAzureVmFailback"];
/// The tasks by which data gets to the premises.
const WRITES: [&str; 3] = [
    "InitiateDataSync",
    "MonitorDataSync",
    "DataSyncAllActionGroup",
];
/// The task that waits for somebody.
const WAITS: &str = "WaitForUserInputForFailback";

/// What decisions see of the jobs on one VM. That of a recovery plan has a job of its own for each VM, which tells what becomes of that VM and can be
/// neither told to go on nor cancelled; where the plan moves this VM alone its job stands for both.
#[must_use]
pub fn of_vm(all: &[&Told], item: &Item) -> Vec<Job> {
    let plans = || all.iter().filter(|told| told.is_of_plan());
    let plan_of = |told: &Told| {
        plans().find(|plan| {
            let is_it = |child: &Child| child.job.eq_ignore_ascii_case(&told.name);
            plan.children().any(is_it)
        })
    };
    let seen = |told: &&Told| {
        let plan = plan_of(told);
        let leads = plan.copied().or(told.is_of_plan().then_some(*told));
        let others = leads.filter(|plan| moves_others(plan, item));
        if plan.is_some() && others.is_none() {
            return None;
        }
        let mut job = job(told, item);
        job.plan = others.map(|plan| plan.target_name.clone().unwrap_or_default());
        if let Some(plan) = plan {
            // Only the plan's job says that it waits, and what broke off before it came to this VM.
            let waits = told.is(&["Suspended"]) && plan.waits();
            let broke_off = told.is(&["Cancelled"]) && plan.is(&["Failed"]);
            if waits || broke_off {
                job.state = state(plan, job.does);
            }
        }
        Some(job)
    };
    all.iter().filter_map(seen).collect()
}

/// Whether a plan's job moves other VMs than this one.
fn moves_others(plan: &Told, item: &Item) -> bool {
    let is_other = |child: &Child| {
        let same = |(target, id): (&String, &String)| same_id(target, id);
        !child
            .target
            .as_ref()
            .zip(item.vm_id.as_ref())
            .is_some_and(same)
    };
    plan.children().any(is_other)
}

/// What decisions see of a job.
#[must_use]
pub fn job(told: &Told, item: &Item) -> Job {
    let does = kind(told, item);
    Job {
        id: told.name.clone(),
        does,
        unplanned: told
            .scenario
            .as_deref()
            .is_some_and(|scenario| scenario.eq_ignore_ascii_case("UnplannedFailover")),
        plan: None,
        missed: told.missed.filter(|_| !told.lost),
        state: state(told, does),
        started: told.started,
        doing: Some(doing(told)),
        remark: remark(told),
        tasks: told.tasks.iter().map(task).collect(),
    }
}

/// What a job does. Both directions have one name; a failback goes from Azure, by its fabrics, by its tasks, or by where the VM was.
fn kind(told: &Told, item: &Item) -> JobKind {
    let scenario = told.scenario.as_deref().unwrap_or_default();
    let named = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(scenario));
    if named(&["Failback"]) {
        return JobKind::Failback;
    }
    if named(&["PlannedFailover", "UnplannedFailover", "Failover"]) {
        return match towards(told, item) {
            Site::OnPremises => JobKind::Failback,
            Site::Azure => JobKind::Failover,
        };
    }
    if named(&["CommitFailover", "FinalizeFailback", "Commit"]) {
        return JobKind::Commit;
    }
    if named(&["ReprotectReplicationGroup", "ReverseReplication"]) {
        return JobKind::Reprotect;
    }
    JobKind::Other
}

fn towards(told: &Told, item: &Item) -> Site {
    if let Some((primary, _)) = &told.fabrics {
        return if primary.eq_ignore_ascii_case("azure") {
            Site::OnPremises
        } else {
            Site::Azure
        };
    }
    let of_failback = told.tasks.iter().any(|task| {
        WRITES
            .iter()
            .chain(&COMPLETES)
            .chain(&[
                "AzureVmFailbackPrerequisitesCheck",
                "PrepareVmOnPremForFailback",
                WAITS,
            ])
            .any(|name| name.eq_ignore_ascii_case(&task.name))
    });
    if of_failback {
        return Site::OnPremises;
    }
    if told.tasks.is_empty() && item.active == Some(Site::Azure) && !told.is_final() {
        return Site::OnPremises;
    }
    Site::Azure
}

fn state(told: &Told, does: JobKind) -> JobState {
    if told.lost {
        return JobState::Lost;
    }
    if told.waits() {
        return JobState::Waiting;
    }
    if told.is(&["Succeeded", "CompletedWithInformation"]) {
        return JobState::Succeeded;
    }
    if told.is(&["Cancelled"]) {
        return JobState::Cancelled;
    }
    if told.is(&["Cancelling"]) {
        return JobState::Cancelling;
    }
    if told.is(&["Failed", "PartiallySucceeded"]) {
        return JobState::Failed {
            class: class(&errors(told)),
            message: failure(told),
        };
    }
    JobState::Running {
        cancellable: does == JobKind::Failback
            && told.allows("Cancel")
            && !goes_on(told)
            && !is_full_download(told),
    }
}

/// A full download skips the sync while the VM runs: nothing of it can be cancelled safely.
fn is_full_download(told: &Told) -> bool {
    told.named("MonitorDataSync")
        .any(|task| task.depth == 0 && task.is_skipped())
        || told.named(WAITS).any(Task::is_skipped)
}

/// Whether the source is being stopped, or was, or will be without anybody saying so.
fn goes_on(told: &Told) -> bool {
    STOPS
        .iter()
        .chain(&COMPLETES)
        .any(|name| told.named(name).any(Task::has_begun))
}

/// Whether the source is being stopped, or was.
#[must_use]
pub fn has_stopped_the_source(job: &Job) -> bool {
    begun(job, &STOPS)
}

/// Whether data was written to the premises.
#[must_use]
pub fn has_written_the_target(job: &Job) -> bool {
    begun(job, &WRITES)
}

fn begun(job: &Job, names: &[&str]) -> bool {
    job.tasks.iter().any(|task| {
        names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&task.name))
            && task.has_begun()
    })
}

/// What the job is doing: its innermost task under way.
fn doing(told: &Told) -> String {
    let name = told
        .friendly_name
        .clone()
        .or_else(|| told.scenario.clone())
        .unwrap_or_else(|| "job".into());
    let task = told
        .tasks
        .iter()
        .filter(|task| task.is_under_way())
        .max_by_key(|task| task.depth);
    match task {
        Some(task) => format!(
            "{name}, {}",
            task.friendly_name.as_deref().unwrap_or(&task.name)
        ),
        None => name,
    }
}

fn errors(told: &Told) -> Vec<&JobError> {
    let mut all: Vec<&JobError> = Vec::new();
    for error in told
        .errors
        .iter()
        .chain(told.tasks.iter().flat_map(|task| &task.errors))
    {
        if !all.contains(&error) {
            all.push(error);
        }
    }
    all
}

fn failure(told: &Told) -> String {
    let words: Vec<String> = errors(told)
        .into_iter()
        .filter(|error| !error.is_warning())
        .map(JobError::words)
        .collect();
    let what = told.friendly_name.as_deref().unwrap_or("the job");
    let why = match words.join("; ") {
        none if none.is_empty() => " without a word".to_owned(),
        words => format!(": {words}"),
    };
    let stops = STOPS.iter().flat_map(|name| told.named(name));
    let down = if stops.into_iter().any(Task::has_begun) {
        "; by then the VM had been told to stop, and the service does not say whether it runs: see whether it does"
    } else {
        ""
    };
    format!(
        "{what} failed at the service{why} (job {}){down}",
        told.name
    )
}

/// Warnings of a job that was done all the same.
fn remark(told: &Told) -> Option<String> {
    if !told.is(&["Succeeded", "CompletedWithInformation"]) {
        return None;
    }
    let words: Vec<String> = errors(told).into_iter().map(JobError::words).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// What follows from a job's errors.
fn class(errors: &[&JobError]) -> ErrorClass {
    let has = |codes: &[&str]| {
        errors.iter().any(|error| {
            error
                .code
                .as_deref()
                .is_some_and(|code| codes.contains(&code))
        })
    };
    if has(&["532"]) {
        // Another operation was under way.
        ErrorClass::Conflict
    } else if has(&["28031"]) {
        // A quota, most of the time.
        ErrorClass::Capacity
    } else if has(&["25037", "25038", "25014", "25017"]) {
        ErrorClass::Invalid
    } else {
        ErrorClass::Unresponsive
    }
}

fn task(told: &Task) -> JobTask {
    let message: Vec<String> = told.errors.iter().map(JobError::words).collect();
    JobTask {
        depth: told.depth,
        name: told.name.clone(),
        title: told.friendly_name.clone(),
        state: if told.is_skipped() {
            "Skipped".into()
        } else {
            told.state.clone()
        },
        started: told.started,
        ended: told.ended,
        message: (!message.is_empty()).then(|| message.join("; ")),
    }
}

#[cfg(test)]
mod tests;
