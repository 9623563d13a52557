//! How jobs go on: each event of each job in the order of time, so that an hour in one step is an hour in many.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::jobs::{
    Effect, Job, JobError, JobState, PlannedFailure, Scenario, Target, Task, TaskState,
};
use crate::service::Service;
use crate::world::Site;

/// What a walk over tasks came to.
enum Progress {
    Done,
    Until(Timestamp),
    Waiting,
    Failed(JobError),
}

/// What a walk over tasks needs to know, and what it brings back.
struct Walk<'a> {
    at: Timestamp,
    resumed: bool,
    silent: &'a HashSet<String>,
    unready: &'a HashMap<String, JobError>,
    own: Option<&'a str>,
    doom: &'a mut Option<JobError>,
    fails_at: &'a mut Option<PlannedFailure>,
    effects: Vec<(Option<String>, Effect)>,
    errors: Vec<(String, JobError)>,
}

impl Walk<'_> {
    fn all(&mut self, tasks: &mut [Task], parallel: bool) -> Progress {
        let mut until: Option<Timestamp> = None;
        let mut failed = None;
        for task in tasks {
            match self.one(task) {
                Progress::Done => {}
                Progress::Until(then) if parallel => {
                    until = Some(until.map_or(then, |until| until.min(then)));
                }
                Progress::Failed(error) if parallel => failed = Some(error),
                other => return other,
            }
        }
        match (until, failed) {
            (Some(until), _) => Progress::Until(until),
            (None, Some(error)) => Progress::Failed(error),
            (None, None) => Progress::Done,
        }
    }

    fn one(&mut self, task: &mut Task) -> Progress {
        match task.state {
            TaskState::Succeeded | TaskState::Skipped | TaskState::Cancelled => {
                return Progress::Done;
            }
            TaskState::Failed => {
                return Progress::Failed(task.error.clone().unwrap_or_else(unknown));
            }
            TaskState::NotStarted => {
                task.state = TaskState::InProgress;
                task.start = Some(self.at);
            }
            TaskState::InProgress => {}
        }
        if !task.children.is_empty() {
            let parallel = task.parallel;
            let progress = self.all(&mut task.children, parallel);
            match &progress {
                Progress::Done => {
                    task.state = TaskState::Succeeded;
                    task.end = Some(self.at);
                }
                Progress::Failed(error) => {
                    task.state = TaskState::Failed;
                    task.end = Some(self.at);
                    task.error = Some(error.clone());
                }
                Progress::Until(_) | Progress::Waiting => {}
            }
            return progress;
        }
        if task.waits && !self.resumed {
            return Progress::Waiting;
        }
        if !task.waits {
            let due = later(task.start.unwrap_or(self.at), task.millis);
            if due > self.at {
                return Progress::Until(due);
            }
        }
        task.end = Some(self.at);
        if let Some(error) = self.fault(task) {
            task.state = TaskState::Failed;
            task.error = Some(error.clone());
            self.errors.push((task.id.clone(), error.clone()));
            return Progress::Failed(error);
        }
        task.state = TaskState::Succeeded;
        for effect in &task.effects {
            self.effects.push((task.item.clone(), effect.clone()));
        }
        Progress::Done
    }

    fn fault(&mut self, task: &Task) -> Option<JobError> {
        if let Some(doom) = self.doom.take() {
            return Some(doom);
        }
        let wanted = self.fails_at.as_ref().is_some_and(|failure| {
            let here = failure.item.is_none()
                || failure.item.as_deref() == task.item.as_deref().or(self.own);
            here && failure.task.eq_ignore_ascii_case(&task.name)
        });
        if wanted {
            return self.fails_at.take().map(|failure| failure.error);
        }
        let item = task.item.as_deref().or(self.own)?;
        if task.needs_host && self.silent.contains(item) {
            return Some(JobError::new(
                "539",
                "The operation could not be done because the server that runs the provider did not answer.",
                "The provider's service is not running, or the server has no connection to the service.",
                "Check that the server is connected, then try the operation again.",
            ));
        }
        if task.needs_vm {
            return self.unready.get(item).cloned();
        }
        None
    }
}

fn unknown() -> JobError {
    JobError::new("1", "The task has failed.", "", "")
}

/// That many milliseconds later.
pub(crate) fn later(at: Timestamp, millis: u64) -> Timestamp {
    at + SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX / 1_000_000))
}

fn cancel_open(tasks: &mut [Task], at: Timestamp) {
    for task in tasks {
        if matches!(task.state, TaskState::InProgress) {
            task.state = TaskState::Cancelled;
            task.end = Some(at);
        }
        cancel_open(&mut task.children, at);
    }
}

impl Service {
    /// Lets everything happen that is due by `now`, in the order of time. Time never goes back.
    pub fn advance(&mut self, now: Timestamp) {
        self.state.time = self.state.time.max(now);
        loop {
            let job = self.state.due.first().copied().filter(|(at, _)| *at <= now);
            let held = self.next_held(now);
            match (job, held) {
                (Some((at, place)), held) if held.is_none_or(|(held, _)| held >= at) => {
                    self.state.due.remove(&(at, place));
                    self.step(place, at);
                }
                (_, Some((at, id))) => self.act_held(id, at),
                (_, None) => break,
            }
        }
    }

    /// The keys of the items a job works on.
    pub(crate) fn members(&self, place: usize) -> Vec<String> {
        match &self.state.jobs[place].target {
            Target::Item(key) => vec![key.clone()],
            Target::Plan(key) => self
                .state
                .plans
                .get(key)
                .map(crate::state::Plan::members)
                .unwrap_or_default(),
            Target::Provider(..) => Vec::new(),
        }
    }

    fn step(&mut self, place: usize, at: Timestamp) {
        match self.state.jobs[place].state {
            JobState::NotStarted => {
                if self.state.jobs[place].automatic && !self.begin_automatic(place, at) {
                    return;
                }
                let job = &mut self.state.jobs[place];
                job.state = JobState::InProgress;
                job.start = Some(at);
                self.walk(place, at);
            }
            JobState::InProgress => self.walk(place, at),
            JobState::Cancelling => {
                cancel_open(&mut self.state.jobs[place].tasks, at);
                self.finish(place, JobState::Cancelled, at);
            }
            _ => {}
        }
    }

    /// Whether an automatic job may begin: not without its item, and later while another job holds it.
    fn begin_automatic(&mut self, place: usize, at: Timestamp) -> bool {
        if self.state.jobs[place].scenario == Scenario::RestoreCompletion {
            return true;
        }
        let Some(key) = self.members(place).pop() else {
            return true;
        };
        match self.state.items.get_mut(&key) {
            None => {
                self.state.jobs[place].state = JobState::Cancelled;
                false
            }
            Some(item) if item.current.is_some() => {
                self.state.due.insert((later(at, 1_000), place));
                false
            }
            Some(item) => {
                item.current = Some(place);
                true
            }
        }
    }

    fn walk(&mut self, place: usize, at: Timestamp) {
        let members = self.members(place);
        let (silent, unready) = self.obstacles(place, &members);
        let job = &mut self.state.jobs[place];
        let mut tasks = std::mem::take(&mut job.tasks);
        let own = match &job.target {
            Target::Item(key) => Some(key.clone()),
            Target::Plan(_) => None,
            Target::Provider(fabric, name) => Some(format!("{fabric}/{name}")),
        };
        let mut walk = Walk {
            at,
            resumed: job.resumed,
            silent: &silent,
            unready: &unready,
            own: own.as_deref(),
            doom: &mut job.doom,
            fails_at: &mut job.fails_at,
            effects: Vec::new(),
            errors: Vec::new(),
        };
        let progress = walk.all(&mut tasks, false);
        let (effects, errors) = (walk.effects, walk.errors);
        job.tasks = tasks;
        job.errors
            .extend(errors.into_iter().map(|(task, error)| (at, task, error)));
        for (item, effect) in effects {
            self.apply(place, item.or_else(|| own.clone()), &effect, at);
        }
        match progress {
            Progress::Until(then) => {
                self.state.due.insert((then, place));
            }
            Progress::Waiting => self.state.jobs[place].state = JobState::Suspended,
            Progress::Done => self.finish(place, JobState::Succeeded, at),
            Progress::Failed(_) => self.finish(place, JobState::Failed, at),
        }
        self.mirror_children(place);
    }

    /// Which items' hosts do not answer, and whose VM is not as a failback needs it.
    fn obstacles(
        &self,
        place: usize,
        members: &[String],
    ) -> (HashSet<String>, HashMap<String, JobError>) {
        let job = &self.state.jobs[place];
        let mut silent = HashSet::new();
        let mut unready = HashMap::new();
        if let Target::Provider(fabric, name) = &job.target {
            let provider = (self.state.fabric(fabric)).and_then(|fabric| fabric.provider(name));
            if provider.is_none_or(|provider| provider.silent_since.is_some()) {
                silent.insert(format!("{fabric}/{name}"));
            }
        }
        for key in members {
            let Some(item) = self.state.items.get(key) else {
                continue;
            };
            let quiet = match &job.failback.provider {
                Some(name) => (self.state.fabric(&item.fabric))
                    .and_then(|fabric| fabric.provider(name))
                    .is_none_or(|provider| provider.silent_since.is_some()),
                None => self.state.silent(key),
            };
            if quiet {
                silent.insert(key.clone());
            }
            let Some(machine) = self.state.machines.get(&item.vm) else {
                continue;
            };
            let elsewhere = (job.failback.provider.as_ref())
                .is_some_and(|name| !name.eq_ignore_ascii_case(&machine.provider));
            if (machine.on_premises.is_none() || elsewhere) && !job.failback.create {
                unready.insert(
                    key.clone(),
                    JobError::new(
                        "559",
                        "The virtual machine was not found on the on-premises server.",
                        "The virtual machine was deleted.",
                        "Start the failback again and let it create the virtual machine.",
                    ),
                );
            } else if machine.runs(Site::OnPremises) && !elsewhere {
                unready.insert(
                    key.clone(),
                    JobError::new(
                        "559",
                        "The on-premises virtual machine is running.",
                        "The virtual machine was started after the failover.",
                        "Shut down the on-premises virtual machine and try the operation again.",
                    ),
                );
            }
        }
        (silent, unready)
    }

    /// Ends a job and lets go of what it held.
    pub(crate) fn finish(&mut self, place: usize, state: JobState, at: Timestamp) {
        let job: &mut Job = &mut self.state.jobs[place];
        job.state = state;
        job.end = Some(at);
        let children = job.children.clone();
        for key in self.members(place) {
            if let Some(item) = self.state.items.get_mut(&key) {
                let held = item.current;
                let ours = held.is_some_and(|held| held == place || children.contains(&held));
                if ours {
                    item.current = None;
                    if state != JobState::Succeeded {
                        self.undone(place, &key, state, at);
                    }
                }
            }
        }
        if state == JobState::Succeeded {
            self.plan_ended(place, at);
        }
        self.mirror_children(place);
    }
}
