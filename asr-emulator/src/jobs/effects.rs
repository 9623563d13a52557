//! What the end of a task, or of a whole job, does to the world and to the item.

use jiff::Timestamp;

use crate::ids::named;
use crate::item::{Phase, Point, TestState};
use crate::jobs::run::later;
use crate::jobs::{Effect, JobState, Scenario, Target};
use crate::service::Service;
use crate::state::Plan;
use crate::world::{Site, Violation};

impl Service {
    pub(crate) fn apply(
        &mut self,
        place: usize,
        item: Option<String>,
        effect: &Effect,
        at: Timestamp,
    ) {
        if *effect == Effect::Refreshed {
            return;
        }
        let Some(key) = item else { return };
        let silent = self.state.silent(&key);
        let job = &self.state.jobs[place];
        let (cause, scenario, options) = (job.name.clone(), job.scenario, job.failback.clone());
        let Some(item) = self.state.items.get_mut(&key) else {
            return;
        };
        let vm = item.vm.clone();
        let Some(machine) = self.state.machines.get_mut(&vm) else {
            return;
        };
        let newest_point = item.points.first().map(|point| point.name.clone());
        let mut wrong = Vec::new();
        match effect {
            Effect::Stop(site) => machine.stop(*site),
            Effect::StopIfReachable => {
                if !silent {
                    machine.stop(Site::OnPremises);
                }
            }
            Effect::MakeAzure => machine.make_azure(),
            Effect::Start(site) => {
                // Recovery points are older than what ran: whoever asks for one accepts the loss.
                let loss = matches!(scenario, Scenario::UnplannedFailover | Scenario::ChangePit);
                wrong = machine.start(*site, loss);
            }
            Effect::FailedOver { planned } => {
                item.phase = Phase::FailedOver { planned: *planned };
                item.last_failover = Some(at);
                item.failover_point = newest_point;
            }
            Effect::Committed => {
                if let Phase::FailedOver { planned } = item.phase {
                    item.phase = Phase::Committed { planned };
                }
                // A commit keeps no recovery point but the one that was used.
                item.points.clear();
            }
            Effect::PrepareOnPremises => {
                let elsewhere = (options.provider.as_ref())
                    .filter(|name| !name.eq_ignore_ascii_case(&machine.provider));
                if let Some(name) = elsewhere {
                    if machine.on_premises.take().is_some() {
                        machine.abandoned += 1;
                    }
                    machine.provider.clone_from(name);
                    let fabric = self.state.fabrics.get(&item.fabric.to_ascii_lowercase());
                    if let Some(provider) = fabric.and_then(|fabric| fabric.provider(name)) {
                        machine.host.clone_from(&provider.host);
                    }
                }
                if machine.on_premises.is_none() && options.create {
                    machine.make_on_premises();
                }
            }
            Effect::BeginSync => machine.begin_sync(),
            Effect::DataIsIn => {
                self.start_automatic(Scenario::RestoreCompletion, &key, at, at);
            }
            Effect::FinishSync => machine.finish_sync(),
            Effect::FailedBack => item.phase = Phase::FailedBack,
            Effect::Finalized => {
                machine.azure = None;
                item.phase = Phase::RestoreFinalized;
                item.points.clear();
                item.failover_point = None;
            }
            Effect::Replicating => {
                item.phase = Phase::Replicating;
                let wait = self.settings.timings.initial_replication;
                self.start_automatic(Scenario::IrCompletion, &key, at, later(at, wait));
            }
            Effect::FirstPointPending => item.phase = Phase::FirstPointPending,
            Effect::Finalizing => item.phase = Phase::Finalizing,
            Effect::Protected => {
                item.phase = Phase::Steady;
                item.test = TestState::None;
                item.points = vec![Point {
                    name: named("point", &format!("{cause}{at}")),
                    at,
                    kind: "CrashConsistent".into(),
                }];
            }
            Effect::TestStarted => {
                machine.test_vm = true;
                item.test = TestState::WaitingForCompletion;
            }
            Effect::TestEnded => {
                machine.test_vm = false;
                item.test = TestState::None;
                item.last_test = Some(at);
            }
            Effect::Repaired => {
                if item.phase == Phase::NeedsRepair {
                    item.phase = Phase::Steady;
                }
            }
            Effect::PointChanged(point) => item.failover_point = Some(point.clone()),
            Effect::Removed => {
                self.state.items.remove(&key);
                for plan in self.state.plans.values_mut() {
                    for group in &mut plan.groups {
                        group.retain(|member| *member != key);
                    }
                }
            }
            Effect::Refreshed => {}
        }
        self.state
            .violations
            .extend(wrong.into_iter().map(|kind| Violation {
                at,
                vm_id: vm.clone(),
                kind,
                cause: cause.clone(),
            }));
    }

    /// What a job that did not end well leaves of an item.
    pub(crate) fn undone(&mut self, place: usize, key: &str, state: JobState, at: Timestamp) {
        let job = &self.state.jobs[place];
        let (scenario, cause) = (job.scenario, job.name.clone());
        let assumed = &self.settings.assumptions;
        let Some(item) = self.state.items.get_mut(key) else {
            return;
        };
        let Some(machine) = self.state.machines.get_mut(&item.vm) else {
            return;
        };
        let mut wrong = Vec::new();
        match scenario {
            Scenario::Failback => {
                let dark = matches!(item.phase, Phase::Committed { .. })
                    && !machine.runs(Site::Azure)
                    && !machine.runs(Site::OnPremises);
                if dark && assumed.azure_vm_restarts {
                    wrong = machine.start(Site::Azure, false);
                }
            }
            Scenario::PlannedFailover if item.phase == Phase::Steady => {
                if state == JobState::Cancelled && assumed.cancelled_failover_needs_repair {
                    item.phase = Phase::NeedsRepair;
                }
                if !machine.runs(Site::Azure) {
                    machine.azure = None;
                    if assumed.on_premises_vm_restarts {
                        wrong = machine.start(Site::OnPremises, false);
                    }
                }
            }
            Scenario::UnplannedFailover
                if item.phase == Phase::Steady && machine.azure.is_some() =>
            {
                item.phase = Phase::FailoverIncomplete;
            }
            _ => {}
        }
        let vm_id = item.vm.clone();
        self.state
            .violations
            .extend(wrong.into_iter().map(|kind| Violation {
                at,
                vm_id: vm_id.clone(),
                kind,
                cause: cause.clone(),
            }));
    }

    /// What the good end of a plan's job leaves on the plan.
    pub(crate) fn plan_ended(&mut self, place: usize, at: Timestamp) {
        let job = &self.state.jobs[place];
        let Target::Plan(key) = &job.target else {
            return;
        };
        let scenario = job.scenario;
        let Some(plan): Option<&mut Plan> = self.state.plans.get_mut(key) else {
            return;
        };
        match scenario {
            Scenario::PlannedFailover | Scenario::Failback => plan.last_planned = Some(at),
            Scenario::UnplannedFailover => plan.last_unplanned = Some(at),
            _ => {}
        }
    }
}
