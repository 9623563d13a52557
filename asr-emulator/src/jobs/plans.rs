//! The begin of a plan's job, whose VMs each have a job of their own, and of a provider's.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::item::Phase;
use crate::jobs::scenarios::Maker;
use crate::jobs::start::{Order, Started, busy};
use crate::jobs::{JobError, Scenario, Target};
use crate::service::Service;

impl Service {
    /// The commit that fits the plan's VMs.
    pub(crate) fn plan_commit(&self, key: &str) -> Scenario {
        let members = self
            .state
            .plans
            .get(key)
            .map(crate::state::Plan::members)
            .unwrap_or_default();
        if members
            .iter()
            .any(|member| self.commit_of(member) == Scenario::FinalizeFailback)
        {
            Scenario::FinalizeFailback
        } else {
            Scenario::CommitFailover
        }
    }

    /// Whether a commit of the plan has something to do.
    pub(crate) fn plan_offers_commit(&self, key: &str) -> bool {
        let plan = self.state.plans.get(key);
        plan.is_some_and(|plan| {
            plan.groups.iter().flatten().any(|member| {
                self.state.items.get(member).is_some_and(|item| {
                    matches!(item.phase, Phase::FailedOver { .. } | Phase::FailedBack)
                        && item.current.is_none()
                })
            })
        })
    }

    fn plan_doom(&self, order: &Order, key: &str) -> Option<JobError> {
        let plan = self.state.plans.get(key)?;
        let busy_member = |member: &String| {
            (self.state.items.get(member)).is_some_and(|item| item.current.is_some())
        };
        let members = plan.members();
        if members.iter().any(busy_member) {
            return Some(busy());
        }
        let mut dooms = members.iter().map(|member| self.doom(order, member));
        if members.is_empty() {
            return Some(JobError::new(
                "25014",
                "The recovery plan has no virtual machine.",
                "",
                "",
            ));
        }
        dooms.find_map(|doom| doom)
    }

    /// Accepts an order about a plan. Its operation has an id of its own, unlike that of an item.
    pub(crate) fn start_plan(&mut self, order: &Order, key: &str, now: Timestamp) -> Started {
        let doom = self.plan_doom(order, key);
        let place = self.make_job(order, Target::Plan(key.to_owned()), now);
        let groups = self
            .state
            .plans
            .get(key)
            .map(|plan| plan.groups.clone())
            .unwrap_or_default();
        let mut children = HashMap::new();
        if doom.is_none() {
            for member in groups.iter().flatten() {
                let child = self.make_job(order, Target::Item(member.clone()), now);
                self.state.jobs[child].parent = Some(place);
                if let Some(item) = self.state.items.get_mut(member) {
                    item.current = Some(child);
                }
                children.insert(member.clone(), child);
            }
        }
        let placed = |group: &Vec<String>| -> Vec<(String, usize)> {
            (group.iter())
                .filter_map(|member| Some((member.clone(), *children.get(member)?)))
                .collect()
        };
        let groups: Vec<_> = groups.iter().map(placed).collect();
        let mut maker = Maker {
            ids: &mut self.state.ids,
            timings: &self.settings.timings,
        };
        let tasks = maker.plan(order.scenario, &order.failback, &groups);
        let doomed = doom.is_some();
        let job = &mut self.state.jobs[place];
        job.tasks = tasks;
        job.doom = doom;
        job.children = groups.iter().flatten().map(|(_, child)| *child).collect();
        if !doomed {
            self.plant_failure(place);
        }
        let id = self.state.ids.next();
        let mut resource = String::new();
        if let Some(plan) = self.state.plans.get_mut(key) {
            plan.last_job = Some(place);
            resource = format!("/replicationRecoveryPlans/{}", plan.name);
        }
        self.begin(place, now);
        self.mirror_children(place);
        let started = self.make_operation(id, place, resource, false, now);
        self.plant_warning(&started);
        started
    }

    /// Accepts a refresh of a provider.
    pub(crate) fn start_refresh(&mut self, fabric: &str, name: &str, now: Timestamp) -> Started {
        let order = Order::new(Scenario::RefreshFabric);
        let target = Target::Provider(fabric.to_owned(), name.to_owned());
        let place = self.make_job(&order, target, now);
        let mut maker = Maker {
            ids: &mut self.state.ids,
            timings: &self.settings.timings,
        };
        let tasks = maker.item(Scenario::RefreshFabric, &order.failback, false, None);
        self.state.jobs[place].tasks = tasks;
        self.plant_failure(place);
        self.begin(place, now);
        let resource =
            format!("/replicationFabrics/{fabric}/replicationRecoveryServicesProviders/{name}");
        let id = self.state.jobs[place].name.clone();
        let started = self.make_operation(id, place, resource, false, now);
        self.plant_warning(&started);
        started
    }
}
