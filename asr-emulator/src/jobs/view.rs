//! A job as the service shows it.

use serde_json::{Value, json};

use crate::ids::named;
use crate::jobs::{Job, JobError, JobState, Scenario, Target, Task, TaskKind, TaskState};
use crate::seed::FabricKind;
use crate::service::Service;
use crate::wire::{moment, second};

/// The ids that stand for Azure in every vault.
pub(crate) const AZURE_CLOUD: &str = "d38048d4-b460-4791-8ece-108395ee8478";
const AZURE_VMM: &str = "21a9403c-6ec1-44f2-b744-b4e50b792387";
const AZURE: &str = "Microsoft Azure";
/// What a time is that has not come.
const NEVER: &str = "0001-01-01T00:00:00";

/// `scenarioName` and `friendlyName`.
pub(crate) fn names(job: &Job) -> (&'static str, &'static str) {
    let plan = matches!(job.target, Target::Plan(_));
    match job.scenario {
        Scenario::Failback if plan || job.parent.is_some() => ("Failback", "Planned failover"),
        Scenario::PlannedFailover | Scenario::Failback => ("PlannedFailover", "Planned failover"),
        Scenario::UnplannedFailover => ("UnplannedFailover", "Failover"),
        Scenario::CommitFailover => ("CommitFailover", "Commit"),
        Scenario::FinalizeFailback => ("FinalizeFailback", "Commit"),
        Scenario::Reprotect if plan => ("ReverseReplication", "Reverse replication"),
        Scenario::Reprotect => ("ReprotectReplicationGroup", "Reverse replication"),
        Scenario::IrCompletion => ("IrCompletion", "Finalize protection on the virtual machine"),
        Scenario::RestoreCompletion => ("RestoreCompletion", "Complete data synchronization"),
        Scenario::TestFailover => ("TestFailover", "Test failover"),
        Scenario::TestFailoverCleanup => ("TestFailoverCleanup", "Test failover cleanup"),
        Scenario::RepairReplication => ("RepairVMReplication", "Resynchronize"),
        Scenario::ChangePit => ("ChangePit", "Change recovery point"),
        Scenario::DisableDr => ("DisableDr", "Disable replication"),
        Scenario::RefreshFabric => ("RefreshFabricLayout", "Refresh server"),
    }
}

impl Service {
    /// The job with its tasks.
    pub(crate) fn job_view(&self, place: usize) -> Value {
        let job = &self.state.jobs[place];
        let id = format!("{}/replicationJobs/{}", self.vault_id(), job.name);
        if job.state == JobState::NotStarted {
            // Accepted and not begun: nothing is known yet, and operation members stand beside `properties`.
            return json!({
                "id": id,
                "name": job.name,
                "type": "Microsoft.RecoveryServices/vaults/replicationJobs",
                "status": "NotStarted",
                "error": null,
                "startTime": null,
                "endTime": null,
                "properties": {
                    "activityId": null,
                    "scenarioName": null,
                    "friendlyName": null,
                    "state": "NotStarted",
                    "stateDescription": "NotStarted",
                    "tasks": [],
                    "errors": [],
                    "allowedActions": [],
                    "targetObjectId": null,
                    "targetObjectName": null,
                    "targetInstanceType": null,
                    "customDetails": null,
                },
            });
        }
        let mut view = self.job_line(place);
        let properties = &mut view["properties"];
        properties["tasks"] = (job.tasks.iter())
            .map(|task| self.task_view(task))
            .collect();
        properties["customDetails"] = self.details(job);
        view
    }

    /// The job as lists have it: without its tasks and details.
    pub(crate) fn job_line(&self, place: usize) -> Value {
        let job = &self.state.jobs[place];
        let (scenario, friendly) = names(job);
        let mut properties = json!({
            "activityId": job.activity,
            "scenarioName": scenario,
            "friendlyName": friendly,
            "state": job.state.word(),
            "stateDescription": match job.state {
                JobState::Succeeded => "Completed",
                JobState::Suspended => &self.settings.assumptions.suspended_description,
                other => other.word(),
            },
            "tasks": [],
            "errors": (job.errors.iter())
                .map(|(at, task, error)| json!({
                    "serviceErrorDetails": service_error(error, &job.activity),
                    "providerErrorDetails": null,
                    "errorLevel": "Error",
                    "creationTime": moment(*at),
                    "taskId": task,
                }))
                .collect::<Vec<_>>(),
            "allowedActions": self.allowed_actions(job),
            "targetObjectId": job.object.0,
            "targetObjectName": job.object.1,
            "targetInstanceType": match job.target {
                Target::Item(_) => "ProtectionEntity",
                Target::Plan(_) => "RecoveryPlan",
                Target::Provider(..) => "Server",
            },
            "customDetails": null,
        });
        if let Some(start) = job.start {
            properties["startTime"] = moment(start);
        }
        if let Some(end) = job.end {
            properties["endTime"] = second(end).into();
        }
        json!({
            "id": format!("{}/replicationJobs/{}", self.vault_id(), job.name),
            "name": job.name,
            "type": "Microsoft.RecoveryServices/vaults/replicationJobs",
            "properties": properties,
        })
    }

    fn task_view(&self, task: &Task) -> Value {
        let (state, description) = match task.state {
            TaskState::NotStarted => ("NotStarted", "NotStarted"),
            TaskState::InProgress
                if task.waits && self.settings.assumptions.waiting_task_is_suspended =>
            {
                ("Suspended", "Suspended")
            }
            TaskState::InProgress => ("InProgress", "InProgress"),
            TaskState::Succeeded => ("Succeeded", "Completed"),
            TaskState::Skipped => ("Other", "Skipped"),
            TaskState::Failed => ("Failed", "Failed"),
            TaskState::Cancelled => ("Cancelled", "Cancelled"),
        };
        let children: Vec<Value> = task
            .children
            .iter()
            .map(|child| self.task_view(child))
            .collect();
        let group = |kind: &str, more: Value| {
            let mut view = json!({ "instanceType": kind, "childTasks": children });
            if let (Value::Object(view), Value::Object(more)) = (&mut view, more) {
                view.extend(more);
            }
            view
        };
        let (kind, group) = match task.kind {
            TaskKind::Plain => ("TaskDetails", Value::Null),
            TaskKind::VirtualMachine => ("VirtualMachineTaskDetails", Value::Null),
            TaskKind::Inline => (
                "InlineWorkflowTaskDetails",
                group("InlineWorkflowTaskDetails", json!({ "workflowIds": [] })),
            ),
            TaskKind::Group => (
                "RecoveryPlanGroupTaskDetails",
                group(
                    "RecoveryPlanGroupTaskDetails",
                    json!({ "name": task.name, "groupId": task.id, "rpGroupType": "Boot" }),
                ),
            ),
            TaskKind::ShutdownGroup => (
                "RecoveryPlanShutdownGroupTaskDetails",
                group(
                    "RecoveryPlanShutdownGroupTaskDetails",
                    json!({ "name": task.name, "groupId": task.id, "rpGroupType": "Shutdown" }),
                ),
            ),
        };
        let custom = task.child_job.map(|child| {
            let job = &self.state.jobs[child];
            let (scenario, friendly) = names(job);
            json!({
                "instanceType": "VirtualMachineTaskDetails",
                "skippedReason": null,
                "skippedReasonString": null,
                "jobTask": {
                    "jobId": job.name,
                    "jobFriendlyName": friendly,
                    "targetObjectId": job.object.0,
                    "targetObjectName": job.object.1,
                    "targetInstanceType": "ProtectionEntity",
                    "jobScenarioName": scenario,
                },
            })
        });
        let errors: Vec<Value> = (task.error.iter())
            .filter(|_| task.children.is_empty())
            .map(|error| {
                json!({
                    "serviceErrorDetails": service_error(error, ""),
                    "providerErrorDetails": null,
                    "errorLevel": "Error",
                    "creationTime": task.end.map(moment),
                    "taskId": task.id,
                })
            })
            .collect();
        json!({
            "taskId": task.id,
            "name": task.name,
            "startTime": task.start.map_or_else(|| NEVER.into(), moment),
            "endTime": task.end.map_or_else(|| NEVER.into(), moment),
            "allowedActions": [],
            "friendlyName": task.friendly,
            "state": state,
            "stateDescription": description,
            "taskType": kind,
            "customDetails": custom,
            "groupTaskCustomDetails": group,
            "errors": errors,
        })
    }

    /// `customDetails`: the two sides, with Azure first when the job moves towards the premises.
    fn details(&self, job: &Job) -> Value {
        let fabric = match &job.target {
            Target::Item(key) => key.split('/').next().map(str::to_owned),
            Target::Plan(key) => self.state.plans.get(key).map(|plan| plan.fabric.clone()),
            Target::Provider(fabric, _) => Some(fabric.clone()),
        };
        let fabric = fabric.and_then(|name| self.state.fabric(&name));
        let (cloud, name, kind) =
            fabric.map_or(("", "", FabricKind::HyperVSite.word()), |fabric| {
                (
                    fabric.container.as_str(),
                    fabric.name.as_str(),
                    fabric.kind.word(),
                )
            });
        let vmm = cloud.strip_prefix("cloud_").unwrap_or(cloud);
        let home = [cloud, name, vmm, name, kind];
        let azure = [AZURE_CLOUD, AZURE, AZURE_VMM, AZURE, "Azure"];
        let back = matches!(
            job.scenario,
            Scenario::Failback | Scenario::FinalizeFailback | Scenario::RestoreCompletion
        );
        let (primary, recovery) = if back { (azure, home) } else { (home, azure) };
        let mut affected = json!({
            "PrimaryCloudId": primary[0],
            "PrimaryCloudName": primary[1],
            "PrimaryVmmId": primary[2],
            "PrimaryVmmName": primary[3],
            "PrimaryFabricProviderId": primary[4],
            "RecoveryCloudId": recovery[0],
            "RecoveryCloudName": recovery[1],
            "RecoveryVmmId": recovery[2],
            "RecoveryVmmName": recovery[3],
            "RecoveryFabricProviderId": recovery[4],
        });
        if matches!(job.target, Target::Item(_)) {
            affected["PrimaryVmId"] = job.object.0.as_str().into();
            affected["PrimaryVmName"] = job.object.1.as_str().into();
            affected["RecoveryVmId"] = "".into();
            affected["RecoveryVmName"] = job.object.1.as_str().into();
            affected["ProtectionProfileId"] = named("policy", "policy-1").into();
        }
        let mut details = json!({
            "instanceType": "AsrJobDetails",
            "affectedObjectDetails": affected,
        });
        if let Some(comments) = &job.comments {
            details["comments"] = comments.as_str().into();
        }
        details
    }
}

fn service_error(error: &JobError, activity: &str) -> Value {
    json!({
        "code": error.code,
        "message": error.message,
        "possibleCauses": error.possible_causes,
        "recommendedAction": error.recommended_action,
        "activityId": activity,
    })
}
