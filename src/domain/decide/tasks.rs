//! The list of tasks in a Failover's status: what was done, when, and what it said.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{FailoverStatus, TaskState, TaskStatus};

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
