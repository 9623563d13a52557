use homeward_asr_emulator::{FabricKind, JobError, JobFailure, Phase, Scenario, Seed, Settings};
use serde_json::{Value, json};

use crate::client::{Client, operation, task, words};

fn client() -> Client {
    let seed = Seed::of(FabricKind::HyperVSite, 3).plan("plan-1", &[&["vm-1", "vm-2"], &["vm-3"]]);
    Client::with(&seed, Settings::default())
}

fn act(client: &mut Client, verb: &str, body: &Value) -> (String, Value) {
    let response = client.post(&format!("/replicationRecoveryPlans/plan-1/{verb}"), body);
    assert_eq!(response.status, 202, "{}", response.value());
    let operation = operation(&response);
    client.settle();
    let job = client.get(&format!("/replicationJobs/{operation}"));
    assert_ne!(job["name"], operation.as_str());
    (operation, job)
}

fn out() -> Value {
    json!({ "properties": {
        "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": [{ "instanceType": "HyperVReplicaAzure" }],
    } })
}

fn back(sync: &str) -> Value {
    json!({ "properties": {
        "failoverDirection": "RecoveryToPrimary",
        "providerSpecificDetails": [{
            "instanceType": "HyperVReplicaAzureFailback",
            "dataSyncOption": sync,
            "recoveryVmCreationOption": "NoAction",
        }],
    } })
}

#[test]
fn a_plan_goes_to_azure_and_back() {
    let mut client = client();
    let (_, job) = act(&mut client, "plannedFailover", &out());
    assert_eq!(job["properties"]["state"], "Succeeded");
    assert_eq!(job["properties"]["targetInstanceType"], "RecoveryPlan");
    let plan = client.get("/replicationRecoveryPlans/plan-1")["properties"].clone();
    assert!(words(&plan["allowedOperations"]).contains(&"Commit"));
    assert_eq!(plan["groups"].as_array().unwrap().len(), 4);
    let (_, job) = act(&mut client, "failoverCommit", &Value::Null);
    assert_eq!(job["properties"]["state"], "Succeeded");
    let plan = client.get("/replicationRecoveryPlans/plan-1")["properties"].clone();
    assert!(!words(&plan["allowedOperations"]).contains(&"Commit"));
    for vm in ["vm-1", "vm-2", "vm-3"] {
        assert_eq!(
            client.service.phase(vm),
            Some(Phase::Committed { planned: true })
        );
    }

    let (_, job) = act(&mut client, "plannedFailover", &back("ForDownTime"));
    let name = job["name"].as_str().unwrap().to_owned();
    let job = &job["properties"];
    assert_eq!(
        (&job["state"], &job["scenarioName"]),
        (&"Suspended".into(), &"Failback".into())
    );
    let vms = &task(job, "DataSyncAllActionGroup")["groupTaskCustomDetails"]["childTasks"];
    let child = &vms[0]["customDetails"]["jobTask"];
    assert_eq!(child["jobScenarioName"], "Failback");
    let child = client.job(child["jobId"].as_str().unwrap());
    assert_eq!(child["state"], "Suspended");
    assert!(words(&child["allowedActions"]).is_empty());
    let item = client.item("vm-1");
    assert!(words(&item["allowedOperations"]).is_empty());
    let response = client.post(
        &format!("/replicationJobs/{name}/resume"),
        &json!({ "properties": {} }),
    );
    assert_eq!(response.status, 202);
    client.settle();
    assert_eq!(client.job(&name)["state"], "Succeeded");
    for vm in ["vm-1", "vm-2", "vm-3"] {
        assert_eq!(client.runs(vm), (true, false));
    }
    let (_, job) = act(&mut client, "failoverCommit", &Value::Null);
    assert_eq!(job["properties"]["scenarioName"], "FinalizeFailback");
    let (_, job) = act(&mut client, "reProtect", &Value::Null);
    assert_eq!(job["properties"]["scenarioName"], "ReverseReplication");
    client.settle();
    assert_eq!(client.service.phase("vm-3"), Some(Phase::Steady));
    assert!(client.service.violations().is_empty());
}

#[test]
fn details_of_a_plan_are_a_list_and_its_state_is_that_of_its_vms() {
    let mut client = client();
    let mut body = out();
    body["properties"]["providerSpecificDetails"] = json!({ "instanceType": "HyperVReplicaAzure" });
    let target = "/replicationRecoveryPlans/plan-1/plannedFailover";
    assert_eq!(client.post(target, &body).status, 400);
    let (_, job) = act(&mut client, "plannedFailover", &back("ForSynchronization"));
    assert_eq!(
        job["properties"]["errors"][0]["serviceErrorDetails"]["code"],
        "25014"
    );
    let listed =
        client.get("/replicationProtectedItems?$filter=RecoveryPlanName%20eq%20%27plan-1%27");
    assert_eq!(listed["value"].as_array().unwrap().len(), 3);
}

#[test]
fn one_vm_that_fails_is_shown_in_its_own_job() {
    let mut client = client();
    client.service.fail_job(JobFailure {
        scenario: Scenario::PlannedFailover,
        item: Some("vm-2".into()),
        task: "VmFoStartVmOnSecondary".into(),
        error: JobError::new("28031", "No quota.", "", ""),
    });
    let (operation, job) = act(&mut client, "plannedFailover", &out());
    assert_eq!(job["properties"]["state"], "Failed");
    let status = client.get(&format!("/replicationOperationStatus/{operation}"));
    assert_eq!(status["error"]["code"], "28031");
    let jobs = client.service.jobs();
    let failed: Vec<_> = jobs.iter().filter(|job| job.error.is_some()).collect();
    let targets: Vec<&str> = failed.iter().map(|job| job.target.as_str()).collect();
    assert_eq!(targets, ["plan-1", "vm-2"]);
    assert_eq!(client.runs("vm-1"), (false, true));
    assert_eq!(client.runs("vm-2"), (false, false));
    assert!(client.service.violations().is_empty());
}
