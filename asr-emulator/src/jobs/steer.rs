//! Cancel, resume and restart of a job.

use jiff::Timestamp;

use crate::jobs::run::later;
use crate::jobs::start::Started;
use crate::jobs::{Effect, Job, JobState, Scenario, Target, Task, TaskState};
use crate::service::Service;
use crate::world::Site;

/// What can be done with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steer {
    Cancel,
    Resume,
    Restart,
}

impl Steer {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cancel => "Cancel",
            Self::Resume => "Resume",
            Self::Restart => "Restart",
        }
    }
}

/// Whether the job has shut down the VM in Azure already.
fn azure_is_down(tasks: &[Task]) -> bool {
    tasks.iter().any(|task| {
        azure_is_down(&task.children)
            || (task.state == TaskState::Succeeded
                && task.effects.contains(&Effect::Stop(Site::Azure)))
    })
}

fn reset(tasks: &mut [Task]) {
    for task in tasks {
        if task.state != TaskState::Skipped {
            task.state = TaskState::NotStarted;
        }
        (task.start, task.end, task.error) = (None, None, None);
        reset(&mut task.children);
    }
}

impl Service {
    /// What the job allows now.
    pub(crate) fn allowed_actions(&self, job: &Job) -> Vec<&'static str> {
        if job.parent.is_some() {
            return Vec::new();
        }
        match job.state {
            JobState::InProgress => {
                let late = job.scenario == Scenario::Failback
                    && !self.settings.assumptions.cancel_after_shutdown
                    && azure_is_down(&job.tasks);
                if late { Vec::new() } else { vec!["Cancel"] }
            }
            JobState::Suspended => vec!["Cancel", "Resume"],
            JobState::Failed
                if matches!(job.scenario, Scenario::DisableDr | Scenario::RefreshFabric) =>
            {
                vec!["Restart"]
            }
            _ => Vec::new(),
        }
    }

    /// Steers a job that allows it; `None` when it does not.
    pub(crate) fn steer(
        &mut self,
        place: usize,
        steer: Steer,
        comments: Option<String>,
        now: Timestamp,
    ) -> Option<Started> {
        let job = &self.state.jobs[place];
        if !self.allowed_actions(job).contains(&steer.word()) {
            return None;
        }
        let pending: Vec<_> = (self.state.due.iter())
            .filter(|(_, due)| *due == place)
            .copied()
            .collect();
        for due in pending {
            self.state.due.remove(&due);
        }
        let (cancel, placeholder) = (
            later(now, self.settings.timings.cancel),
            later(now, self.settings.timings.placeholder),
        );
        let job = &mut self.state.jobs[place];
        let then = match steer {
            Steer::Cancel => {
                job.state = JobState::Cancelling;
                cancel
            }
            Steer::Resume => {
                job.state = JobState::InProgress;
                job.resumed = true;
                job.comments = comments;
                now
            }
            Steer::Restart => {
                reset(&mut job.tasks);
                job.errors.clear();
                (job.state, job.start, job.end) = (JobState::NotStarted, None, None);
                placeholder
            }
        };
        let name = job.name.clone();
        if let (Steer::Restart, Target::Item(key)) = (steer, job.target.clone()) {
            if let Some(item) = self.state.items.get_mut(&key) {
                item.current = item.current.or(Some(place));
            }
        }
        self.state.due.insert((then, place));
        self.mirror_children(place);
        let id = self.state.ids.next();
        let started = self.make_operation(
            id.clone(),
            place,
            format!("/replicationJobs/{name}"),
            false,
            now,
        );
        if let Some(operation) = self.state.operations.get_mut(&id) {
            operation.instant = true;
        }
        self.advance(now);
        Some(started)
    }
}
