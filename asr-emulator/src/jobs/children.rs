//! The jobs of a plan's VMs: they do nothing themselves, they show what the plan's job does to their VM.

use crate::jobs::{JobState, Task, TaskState};
use crate::service::Service;

fn of_child<'a>(tasks: &'a [Task], child: usize, found: &mut Vec<&'a Task>) {
    for task in tasks {
        if task.child_job == Some(child) {
            found.push(task);
        }
        of_child(&task.children, child, found);
    }
}

impl Service {
    pub(crate) fn mirror_children(&mut self, place: usize) {
        let job = &self.state.jobs[place];
        if job.children.is_empty() {
            return;
        }
        let (state, end) = (job.state, job.end);
        let mut shown = Vec::new();
        for &child in &job.children {
            let mut found = Vec::new();
            of_child(&job.tasks, child, &mut found);
            let tasks: Vec<Task> = found.into_iter().cloned().collect();
            let errors = (job.errors.iter())
                .filter(|(_, id, _)| tasks.iter().any(|task| task.id == *id))
                .cloned()
                .collect();
            shown.push((child, tasks, errors));
        }
        for (child, tasks, errors) in shown {
            let start = tasks.iter().filter_map(|task| task.start).min();
            let any = |wanted: TaskState| tasks.iter().any(|task| task.state == wanted);
            let done = tasks
                .iter()
                .all(|task| matches!(task.state, TaskState::Succeeded | TaskState::Skipped));
            let last = tasks.iter().filter_map(|task| task.end).max();
            let child = &mut self.state.jobs[child];
            (child.state, child.end) = if any(TaskState::Failed) {
                (JobState::Failed, last)
            } else if done {
                (JobState::Succeeded, last)
            } else if state.over() {
                (JobState::Cancelled, end)
            } else if start.is_none() {
                (JobState::NotStarted, None)
            } else if matches!(state, JobState::Suspended | JobState::Cancelling) {
                (state, None)
            } else {
                (JobState::InProgress, None)
            };
            child.start = start;
            child.tasks = tasks
                .into_iter()
                .map(|task| Task {
                    child_job: None,
                    ..task
                })
                .collect();
            child.errors = errors;
        }
    }
}
