//! Buttons that a person presses: the same orders, without a token and without a request that a client could know of.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::jobs::start::{Order, Started};
use crate::jobs::steer::Steer;
use crate::jobs::{FailbackOptions, Scenario};
use crate::service::Service;
use crate::world::{Site, Violation};

/// How a failback copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataSync {
    /// Differences first while the VM runs in Azure, then a pause.
    #[default]
    ForDownTime,
    /// Whole disks with the VM shut down, without a pause.
    ForSynchronization,
}

/// A button.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "press", deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "the fields are items, VMs, plans and jobs by their names"
)]
pub enum Button {
    /// Planned failover of an item to Azure.
    PlannedFailover { item: String },
    /// Planned failover of an item to the premises.
    #[serde(rename_all = "camelCase")]
    Failback {
        item: String,
        #[serde(default)]
        data_sync: DataSync,
        #[serde(default)]
        create: bool,
    },
    /// Unplanned failover of an item, with or without a try to stop the VM on the premises.
    UnplannedFailover { item: String, stop: bool },
    /// Commit of whatever the item waits with.
    Commit { item: String },
    /// Reverse replication of an item.
    Reprotect { item: String },
    /// Planned failover of a plan to Azure.
    PlanFailover { plan: String },
    /// Planned failover of a plan to the premises.
    #[serde(rename_all = "camelCase")]
    PlanFailback {
        plan: String,
        #[serde(default)]
        data_sync: DataSync,
    },
    /// Commit of a plan.
    PlanCommit { plan: String },
    /// Reverse replication of a plan.
    PlanReprotect { plan: String },
    /// Test failover of an item.
    TestFailover { item: String },
    /// Its cleanup.
    TestFailoverCleanup { item: String },
    /// Resynchronisation of an item.
    Repair { item: String },
    /// Protection is taken away: the item is gone when the job has ended.
    Disable { item: String },
    /// Cancel of a job.
    Cancel { job: String },
    /// "Complete failover" of a job that waits.
    Resume { job: String },
    /// Another name for a VM; ids stay.
    Rename { vm: String, to: String },
    /// The VM is deleted on its host.
    RemoveVm { vm: String },
    /// The VM is started or stopped at one site by hand.
    Power { vm: String, site: Site, on: bool },
}

impl Service {
    /// Presses a button. The answer is the job's name where there is one; an error says what does not exist.
    pub fn press(&mut self, button: &Button, now: Timestamp) -> Result<Option<String>, String> {
        self.advance(now);
        let now = now.max(self.state.time);
        let simple = |scenario| Order::new(scenario);
        let back = |data_sync: DataSync, create| Order {
            failback: FailbackOptions {
                full_download: data_sync == DataSync::ForSynchronization,
                create,
                provider: None,
            },
            ..Order::new(Scenario::Failback)
        };
        let started = match button {
            Button::PlannedFailover { item } => {
                // The portal asks for the key where one is needed.
                let order = Order {
                    key: true,
                    ..simple(Scenario::PlannedFailover)
                };
                self.press_item(&order, item, now)?
            }
            Button::Failback {
                item,
                data_sync,
                create,
            } => self.press_item(&back(*data_sync, *create), item, now)?,
            Button::UnplannedFailover { item, stop } => {
                let order = Order {
                    key: true,
                    stops: *stop,
                    ..simple(Scenario::UnplannedFailover)
                };
                self.press_item(&order, item, now)?
            }
            Button::Commit { item } => {
                let key = self.state.find_item(item).ok_or_else(|| no(item))?;
                self.start_item(&simple(self.commit_of(&key)), &key, now)
            }
            Button::Reprotect { item } => {
                self.press_item(&simple(Scenario::Reprotect), item, now)?
            }
            Button::TestFailover { item } => {
                let order = Order {
                    key: true,
                    ..simple(Scenario::TestFailover)
                };
                self.press_item(&order, item, now)?
            }
            Button::TestFailoverCleanup { item } => {
                self.press_item(&simple(Scenario::TestFailoverCleanup), item, now)?
            }
            Button::Repair { item } => {
                self.press_item(&simple(Scenario::RepairReplication), item, now)?
            }
            Button::Disable { item } => self.press_item(&simple(Scenario::DisableDr), item, now)?,
            Button::PlanFailover { plan } => {
                let order = Order {
                    key: true,
                    ..simple(Scenario::PlannedFailover)
                };
                self.press_plan(&order, plan, now)?
            }
            Button::PlanFailback { plan, data_sync } => {
                self.press_plan(&back(*data_sync, false), plan, now)?
            }
            Button::PlanCommit { plan } => {
                let scenario = self.plan_commit(&plan.to_ascii_lowercase());
                self.press_plan(&simple(scenario), plan, now)?
            }
            Button::PlanReprotect { plan } => {
                self.press_plan(&simple(Scenario::Reprotect), plan, now)?
            }
            Button::Cancel { job } => self.press_job(job, Steer::Cancel, now)?,
            Button::Resume { job } => self.press_job(job, Steer::Resume, now)?,
            Button::Rename { .. } | Button::RemoveVm { .. } | Button::Power { .. } => {
                self.press_host(button, now)?;
                return Ok(None);
            }
        };
        Ok(Some(self.state.jobs[started.job].name.clone()))
    }

    fn press_item(&mut self, order: &Order, item: &str, now: Timestamp) -> Result<Started, String> {
        let key = self.state.find_item(item).ok_or_else(|| no(item))?;
        Ok(self.start_item(order, &key, now))
    }

    fn press_plan(&mut self, order: &Order, plan: &str, now: Timestamp) -> Result<Started, String> {
        let key = plan.to_ascii_lowercase();
        if !self.state.plans.contains_key(&key) {
            return Err(no(plan));
        }
        Ok(self.start_plan(order, &key, now))
    }

    fn press_job(&mut self, job: &str, steer: Steer, now: Timestamp) -> Result<Started, String> {
        let place = self.state.job_place(job).ok_or_else(|| no(job))?;
        self.steer(place, steer, None, now)
            .ok_or_else(|| format!("{job} does not allow {}", steer.word()))
    }

    fn press_host(&mut self, button: &Button, now: Timestamp) -> Result<(), String> {
        let (Button::Rename { vm, .. } | Button::RemoveVm { vm } | Button::Power { vm, .. }) =
            button
        else {
            return Ok(());
        };
        let id = (self.state.find_machine(vm)).map(|machine| machine.vm_id.clone());
        let machine = id
            .and_then(|id| self.state.machines.get_mut(&id))
            .ok_or_else(|| no(vm))?;
        match button {
            Button::Rename { to, .. } => machine.name.clone_from(to),
            Button::RemoveVm { .. } => machine.on_premises = None,
            Button::Power {
                site, on: false, ..
            } => machine.stop(*site),
            Button::Power { site, .. } => {
                let vm_id = machine.vm_id.clone();
                let wrong = machine.start(*site, false);
                self.state
                    .violations
                    .extend(wrong.into_iter().map(|kind| Violation {
                        at: now,
                        vm_id: vm_id.clone(),
                        kind,
                        cause: "by hand".into(),
                    }));
            }
            _ => {}
        }
        Ok(())
    }
}

fn no(name: &str) -> String {
    format!("there is no {name}")
}
