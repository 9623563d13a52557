//! The list of tasks in a Failover's status: what was done, when, and what it said.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::event;
use crate::api::{FailoverStatus, StepStatus, TaskState, TaskStatus};
use crate::domain::decision::Event;
use crate::domain::observation::Job;

/// Puts a task into a state; its start is the first time it is heard of, its end the first time it is over.
pub fn set(
    status: &mut FailoverStatus,
    name: &str,
    state: TaskState,
    message: Option<String>,
    now: Timestamp,
) {
    let position = status
        .tasks
        .iter()
        .position(|task| task.name == name)
        .unwrap_or_else(|| {
            status.tasks.push(TaskStatus {
                name: name.into(),
                state,
                start_time: Some(Time(now)),
                completion_time: None,
                message: None,
                job: None,
                steps: Vec::new(),
            });
            status.tasks.len() - 1
        });
    let task = &mut status.tasks[position];
    let over = matches!(
        state,
        TaskState::Succeeded | TaskState::Failed | TaskState::Skipped
    );
    if over && (task.state != state || task.completion_time.is_none()) {
        task.completion_time = Some(Time(now));
    } else if !over {
        task.completion_time = None;
    }
    task.state = state;
    if message.is_some() || over {
        task.message =
            message.or_else(|| task.message.take().filter(|_| state == TaskState::Failed));
    }
}

/// Takes down the steps of the job that does a task. Returns what is new of those that have ended or gone wrong, in their order.
pub fn follow(status: &mut FailoverStatus, name: &str, job: &Job) -> Vec<Event> {
    let Some(task) = status.tasks.iter_mut().find(|task| task.name == name) else {
        return Vec::new();
    };
    let steps = steps(job);
    let before = if task.job.as_deref() == Some(job.id.as_str()) {
        std::mem::take(&mut task.steps)
    } else {
        Vec::new()
    };
    let told = |step: &StepStatus| {
        let over = ["Succeeded", "Failed", "Skipped", "Cancelled", "Suspended"]
            .iter()
            .any(|state| state.eq_ignore_ascii_case(&step.state));
        let known = before.iter().any(|old| {
            old.name == step.name && old.state == step.state && old.message == step.message
        });
        over && !known
    };
    let events = steps
        .iter()
        .filter(|step| told(step))
        .map(|step| {
            let words = step
                .message
                .as_ref()
                .map_or_else(String::new, |message| format!(": {message}"));
            event(
                step.message.is_some() || step.state.eq_ignore_ascii_case("failed"),
                "JobStep",
                format!("{name}, {}: {}{words}", step.name, step.state),
            )
        })
        .collect();
    task.job = Some(job.id.clone());
    task.steps = steps;
    events
}

fn steps(job: &Job) -> Vec<StepStatus> {
    let mut path: Vec<&str> = Vec::new();
    job.tasks
        .iter()
        .map(|task| {
            path.truncate(task.depth);
            path.push(task.title.as_deref().unwrap_or(&task.name));
            StepStatus {
                name: path.join(" / "),
                state: task.state.clone(),
                start_time: task.started.map(Time),
                completion_time: task.ended.map(Time),
                message: task.message.clone(),
            }
        })
        .collect()
}

/// Ends every task that is still open.
pub fn close_open(status: &mut FailoverStatus, state: TaskState, now: Timestamp) {
    let open: Vec<String> = status
        .tasks
        .iter()
        .filter(|task| task.state == TaskState::Running)
        .map(|task| task.name.clone())
        .collect();
    for name in open {
        set(status, &name, state, None, now);
    }
}
