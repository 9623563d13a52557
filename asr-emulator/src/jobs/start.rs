//! The begin of a job about one item: it is accepted in any state, and a job that may not be fails at its first task.

use jiff::Timestamp;

use crate::faults::JobFailure;
use crate::item::{Phase, TestState};
use crate::jobs::run::later;
use crate::jobs::scenarios::Maker;
use crate::jobs::{
    FailbackOptions, Job, JobError, JobState, Operation, PlannedFailure, Scenario, Target,
};
use crate::service::Service;

/// What somebody has asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) scenario: Scenario,
    pub(crate) failback: FailbackOptions,
    /// An encryption key came with it.
    pub(crate) key: bool,
    /// An unplanned failover first stops the VM on the premises.
    pub(crate) stops: bool,
    pub(crate) point: Option<String>,
    pub(crate) comments: Option<String>,
}

impl Order {
    pub(crate) fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            failback: FailbackOptions::default(),
            key: false,
            stops: false,
            point: None,
            comments: None,
        }
    }
}

/// What came of an order: the operation to ask about, and the job's place in the list.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) operation: String,
    pub(crate) job: usize,
}

/// The error of a job that came while another one holds the item.
pub(crate) fn busy() -> JobError {
    JobError::new(
        "532",
        "Another operation is in progress on the virtual machine.",
        "An operation that was started before has not finished.",
        "Wait for that operation to finish and try again.",
    )
}

impl Service {
    /// Whether the order may be done now: the error its job will fail with if not.
    pub(crate) fn doom(&self, order: &Order, key: &str) -> Option<JobError> {
        let item = self.state.items.get(key)?;
        if item.current.is_some() {
            return Some(busy());
        }
        let steady = item.phase == Phase::Steady && item.test == TestState::None;
        let wrong = |code: &str, what: &str| {
            Some(JobError::new(
                code,
                what,
                "The virtual machine is not in a state in which the operation is possible.",
                "Check the state of the virtual machine and the operations it allows, then try again.",
            ))
        };
        match order.scenario {
            Scenario::PlannedFailover | Scenario::UnplannedFailover | Scenario::TestFailover
                if item.encrypted && !order.key =>
            {
                wrong(
                    "506",
                    "A parameter is missing: the virtual machine's data is encrypted and no key certificate was given.",
                )
            }
            Scenario::PlannedFailover if !steady => wrong(
                "25014",
                "The virtual machine is not ready for a planned failover.",
            ),
            Scenario::Failback if !matches!(item.phase, Phase::Committed { .. }) => {
                wrong("25014", "The virtual machine is not ready for a failback.")
            }
            Scenario::UnplannedFailover if !steady && item.phase != Phase::FailoverIncomplete => {
                wrong("25017", "The virtual machine is not being replicated.")
            }
            Scenario::TestFailover if !steady => {
                wrong("25017", "The virtual machine is not being replicated.")
            }
            Scenario::TestFailoverCleanup if item.test != TestState::WaitingForCompletion => {
                wrong("25017", "There is no test failover to clean up.")
            }
            Scenario::CommitFailover if !matches!(item.phase, Phase::FailedOver { .. }) => {
                wrong("25037", "The virtual machine is not ready for committing.")
            }
            Scenario::Reprotect if item.phase != Phase::RestoreFinalized => wrong(
                "25038",
                "The virtual machine is not ready for re-enabling protection.",
            ),
            Scenario::RepairReplication
                if !matches!(item.phase, Phase::Steady | Phase::NeedsRepair) =>
            {
                wrong("25017", "The virtual machine is not being replicated.")
            }
            Scenario::ChangePit if !matches!(item.phase, Phase::FailedOver { .. }) => {
                wrong("25017", "The virtual machine has no uncommitted failover.")
            }
            _ => None,
        }
    }

    /// The commit that fits the item's state.
    pub(crate) fn commit_of(&self, key: &str) -> Scenario {
        match self.state.items.get(key).map(|item| item.phase) {
            Some(Phase::FailedBack) => Scenario::FinalizeFailback,
            _ => Scenario::CommitFailover,
        }
    }

    /// Accepts an order about an item.
    pub(crate) fn start_item(&mut self, order: &Order, key: &str, now: Timestamp) -> Started {
        let doom = self.doom(order, key);
        let holds = doom.is_none();
        let place = self.make_job(order, Target::Item(key.to_owned()), now);
        let mut maker = Maker {
            ids: &mut self.state.ids,
            timings: &self.settings.timings,
        };
        let tasks = maker.item(
            order.scenario,
            &order.failback,
            order.stops,
            order.point.as_deref(),
        );
        let job = &mut self.state.jobs[place];
        job.tasks = tasks;
        job.doom = doom;
        if holds {
            if let Some(item) = self.state.items.get_mut(key) {
                item.current = Some(place);
            }
            self.plant_failure(place);
        }
        let resource = self.item_path(key);
        let deletes = order.scenario == Scenario::DisableDr;
        let name = self.state.jobs[place].name.clone();
        self.begin(place, now);
        let started = self.make_operation(name, place, resource, deletes, now);
        self.plant_warning(&started);
        started
    }

    /// Sets the time at which an accepted job begins.
    pub(crate) fn begin(&mut self, place: usize, now: Timestamp) {
        let start = later(now, self.settings.timings.placeholder);
        self.state.due.insert((start, place));
    }

    /// A job that the service starts by itself.
    pub(crate) fn start_automatic(
        &mut self,
        scenario: Scenario,
        key: &str,
        now: Timestamp,
        start: Timestamp,
    ) {
        let order = Order::new(scenario);
        let place = self.make_job(&order, Target::Item(key.to_owned()), now);
        let mut maker = Maker {
            ids: &mut self.state.ids,
            timings: &self.settings.timings,
        };
        let tasks = maker.item(scenario, &order.failback, false, None);
        let job = &mut self.state.jobs[place];
        job.tasks = tasks;
        job.automatic = true;
        self.plant_failure(place);
        self.state.due.insert((start, place));
    }

    pub(crate) fn make_job(&mut self, order: &Order, target: Target, now: Timestamp) -> usize {
        let name = self.state.ids.next();
        let activity = format!(
            "{} ActivityId: {}",
            self.state.ids.next(),
            self.state.ids.next()
        );
        let object = match &target {
            Target::Item(key) => self.state.items.get(key).map(|item| {
                let name = self.state.machines.get(&item.vm);
                (
                    item.vm.clone(),
                    name.map(|vm| vm.name.clone()).unwrap_or_default(),
                )
            }),
            Target::Plan(key) => {
                (self.state.plans.get(key)).map(|plan| (plan.id.clone(), plan.name.clone()))
            }
            Target::Provider(fabric, name) => (self.state.fabric(fabric))
                .and_then(|fabric| fabric.provider(name))
                .map(|provider| (provider.name.clone(), provider.host.clone())),
        };
        let place = self.state.jobs.len();
        self.state.job_places.insert(name.clone(), place);
        self.state.jobs.push(Job {
            name,
            activity,
            scenario: order.scenario,
            target,
            state: JobState::NotStarted,
            tasks: Vec::new(),
            errors: Vec::new(),
            created: now,
            start: None,
            end: None,
            object: object.unwrap_or_default(),
            failback: order.failback.clone(),
            doom: None,
            fails_at: None,
            resumed: false,
            automatic: false,
            parent: None,
            children: Vec::new(),
            comments: order.comments.clone(),
            purged: false,
        });
        place
    }

    /// Gives a new job the failure that a test has prepared for it.
    pub(crate) fn plant_failure(&mut self, place: usize) {
        let scenario = self.state.jobs[place].scenario;
        let members = self.members(place);
        let item = |failure: &JobFailure| {
            (failure.item.as_ref()).map(|name| self.state.find_item(name).unwrap_or_default())
        };
        let found = self.state.failures.iter().position(|failure| {
            failure.scenario == scenario && item(failure).is_none_or(|item| members.contains(&item))
        });
        if let Some(found) = found {
            let item = item(&self.state.failures[found]);
            let failure = self.state.failures.remove(found);
            let job = &mut self.state.jobs[place];
            if failure.task.is_empty() {
                job.doom = Some(failure.error);
            } else {
                job.fails_at = Some(PlannedFailure {
                    task: failure.task,
                    item,
                    error: failure.error,
                });
            }
        }
    }

    pub(crate) fn make_operation(
        &mut self,
        id: String,
        job: usize,
        resource: String,
        deletes: bool,
        now: Timestamp,
    ) -> Started {
        self.state.operations.insert(
            id.clone(),
            Operation {
                id: id.clone(),
                job,
                resource,
                deletes,
                instant: false,
                created: now,
                warning: None,
            },
        );
        Started { operation: id, job }
    }

    /// Gives a new operation the warning that a test has prepared for it.
    pub(crate) fn plant_warning(&mut self, started: &Started) {
        let scenario = self.state.jobs[started.job].scenario;
        let found = (self.state.warnings.iter()).position(|warning| warning.scenario == scenario);
        if let Some(found) = found {
            let warning = self.state.warnings.remove(found);
            if let Some(operation) = self.state.operations.get_mut(&started.operation) {
                operation.warning = Some((warning.code, warning.message));
            }
        }
    }
}
