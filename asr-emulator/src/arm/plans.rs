//! Recovery plans as the service shows them, and what can be asked of them.

use serde_json::{Value, json};

use crate::arm::errors::{ArmError, bad_parameter, no_resource};
use crate::arm::item_actions::{Direction, direction, failback, has_key, instance, unsupported};
use crate::arm::{Answer, Call, no_route};
use crate::assumptions::FailbackWord;
use crate::jobs::start::Order;
use crate::jobs::view::names;
use crate::jobs::{JobState, Scenario};
use crate::service::Service;
use crate::state::Plan;
use crate::wire::moment;

impl Service {
    pub(crate) fn list_plans(&self) -> Answer {
        let value: Vec<Value> = self
            .state
            .plans
            .values()
            .map(|plan| self.plan_view(plan))
            .collect();
        json!({ "value": value, "nextLink": null }).into()
    }

    pub(crate) fn get_plan(&self, name: &str) -> Result<Answer, ArmError> {
        let plan = self.state.plan(name).ok_or_else(|| no_resource(name))?;
        Ok(self.plan_view(plan).into())
    }

    pub(crate) fn plan_view(&self, plan: &Plan) -> Value {
        let vault = self.vault_id();
        let group = |kind: &str, members: &[String]| {
            let members: Vec<Value> = (members.iter())
                .filter_map(|key| Some((key, self.state.items.get(key)?)))
                .map(|(key, item)| {
                    json!({
                        "id": format!("{vault}{}", self.item_path(key)),
                        "virtualMachineId": item.vm,
                    })
                })
                .collect();
            json!({
                "groupType": kind,
                "replicationProtectedItems": members,
                "startGroupActions": [],
                "endGroupActions": [],
            })
        };
        let mut groups = vec![group("Shutdown", &[]), group("Failover", &[])];
        groups.extend(plan.groups.iter().map(|members| group("Boot", members)));
        let mut operations = vec!["PlannedFailover", "UnplannedFailover", "TestFailover"];
        if self.plan_offers_commit(&plan.name.to_ascii_lowercase()) {
            operations.push("Commit");
        }
        let job = (plan.last_job)
            .map(|place| &self.state.jobs[place])
            .filter(|job| job.state != JobState::NotStarted);
        let scenario = job.map(|job| {
            let name = match job.scenario {
                Scenario::Failback => FailbackWord::PlannedFailover.word(),
                _ => names(job).0,
            };
            json!({
                "scenarioName": name,
                "jobId": format!("{vault}/replicationJobs/{}", job.name),
                "startTime": moment(job.start.unwrap_or(job.created)),
            })
        });
        let mut view = json!({
            "id": format!("{vault}/replicationRecoveryPlans/{}", plan.name),
            "name": plan.name,
            "type": "Microsoft.RecoveryServices/vaults/replicationRecoveryPlans",
            "properties": {
                "friendlyName": plan.name,
                "primaryFabricId": format!("{vault}/replicationFabrics/{}", plan.fabric),
                "primaryFabricFriendlyName": plan.fabric,
                "recoveryFabricId": "Microsoft Azure",
                "recoveryFabricFriendlyName": "Microsoft Azure",
                "failoverDeploymentModel": "ResourceManager",
                "replicationProviders": ["HyperVReplicaAzure"],
                "allowedOperations": operations,
                "currentScenario": scenario,
                "currentScenarioStatus": job.map(|job| job.state.word()),
                "currentScenarioStatusDescription": job.map(|job| match job.state {
                    JobState::Succeeded => "Completed",
                    JobState::Suspended => self.settings.assumptions.suspended_description.as_str(),
                    other => other.word(),
                }),
                "groups": groups,
                "providerSpecificDetails": [],
            },
        });
        let times = [
            ("lastPlannedFailoverTime", plan.last_planned),
            ("lastUnplannedFailoverTime", plan.last_unplanned),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                view["properties"][name] = moment(time);
            }
        }
        view
    }

    pub(crate) fn plan_action(
        &mut self,
        call: &Call,
        name: &str,
        verb: &str,
    ) -> Result<Answer, ArmError> {
        let key = name.to_ascii_lowercase();
        if !self.state.plans.contains_key(&key) {
            return Err(no_resource(name));
        }
        let bare = matches!(verb, "failovercommit" | "failovercancel" | "reprotect");
        let body = if bare { Value::Null } else { call.body()? };
        let properties = &body["properties"];
        let details = &properties["providerSpecificDetails"];
        let order = match verb {
            "plannedfailover" => planned(properties, details)?,
            "unplannedfailover" => {
                let details = only(details)?;
                instance(details, "HyperVReplicaAzure")?;
                Order {
                    key: has_key(details),
                    stops: properties["sourceSiteOperations"] == "Required",
                    ..Order::new(Scenario::UnplannedFailover)
                }
            }
            "failovercommit" => Order::new(self.plan_commit(&key)),
            "failovercancel" => return Err(unsupported()),
            "reprotect" => Order::new(Scenario::Reprotect),
            _ => return Err(no_route(call)),
        };
        let started = self.start_plan(&order, &key, call.now);
        Ok(self.accepted(call, &started))
    }
}

fn planned(properties: &Value, details: &Value) -> Result<Order, ArmError> {
    let details = only(details)?;
    if direction(properties)? == Direction::ToAzure {
        instance(details, "HyperVReplicaAzure")?;
        return Ok(Order {
            key: has_key(details),
            ..Order::new(Scenario::PlannedFailover)
        });
    }
    instance(details, "HyperVReplicaAzureFailback")?;
    if !details["providerIdForAlternateRecovery"].is_null() {
        let what = "A recovery plan has no alternate recovery location.";
        return Err(bad_parameter(what));
    }
    Ok(Order {
        failback: failback(details)?,
        ..Order::new(Scenario::Failback)
    })
}

/// The details of a plan are a list, unlike those of an item.
fn only(details: &Value) -> Result<&Value, ArmError> {
    details
        .as_array()
        .and_then(|list| list.first())
        .ok_or_else(|| bad_parameter("The provider specific details must be a list."))
}
