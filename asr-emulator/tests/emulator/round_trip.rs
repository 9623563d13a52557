use homeward_asr_emulator::{Button, FabricKind, Seed, Settings, Site};
use serde_json::{Value, json};

use crate::client::{Client, task, to_azure, to_premises, words};

fn reverse(client: &mut Client, vm: &str) {
    let body = json!({ "properties": {
        "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": { "instanceType": "HyperVReplicaAzure" },
    } });
    let job = client.act(vm, "reProtect", &body);
    client.pass(4_000);
    let shown = client.job(&job);
    assert_eq!(shown["scenarioName"], "ReprotectReplicationGroup");
    assert_eq!(shown["state"], "Succeeded");
    let item = client.item(vm);
    assert_eq!(item["protectionState"], "InitialReplicationInProgress");
    assert_eq!(words(&item["allowedOperations"]), ["DisableProtection"]);
    client.pass(4_000);
    let item = client.item(vm);
    assert_eq!(item["currentScenario"]["scenarioName"], "EnableProtection");
    assert!(words(&item["allowedOperations"]).is_empty());
    client.settle();
    let item = client.item(vm);
    assert_eq!(item["protectionState"], "Protected");
    assert_eq!(
        words(&item["allowedOperations"]),
        [
            "PlannedFailover",
            "UnplannedFailover",
            "DisableProtection",
            "TestFailover"
        ]
    );
}

fn out(client: &mut Client, vm: &str) {
    let job = client.act(vm, "plannedFailover", &to_azure());
    client.pass(2_000);
    let item = client.item(vm);
    assert!(words(&item["allowedOperations"]).is_empty());
    let current = item["currentScenario"]["jobId"].as_str().unwrap();
    assert!(current.ends_with(&job));
    client.settle();
    let item = client.item(vm);
    assert_eq!(item["protectionState"], "PlannedFailoverCommitRequired");
    assert_eq!(item["activeLocation"], "Recovery");
    assert_eq!(
        words(&item["allowedOperations"]),
        [
            "CompleteMigration",
            "Commit",
            "DisableProtection",
            "ChangePit"
        ]
    );
    assert_eq!(client.runs(vm), (false, true));
    let job = client.finish(vm, "failoverCommit", &Value::Null);
    assert_eq!(job["scenarioName"], "CommitFailover");
    let item = client.item(vm);
    assert_eq!(item["protectionState"], "PlannedFailoverStatesBegin");
    assert!(words(&item["allowedOperations"]).contains(&"Failback"));
}

fn commit_back(client: &mut Client, vm: &str) {
    assert!(client.machine(vm).copy(Site::Azure).is_some());
    let job = client.finish(vm, "failoverCommit", &Value::Null);
    assert_eq!(job["scenarioName"], "FinalizeFailback");
    assert_eq!(
        job["customDetails"]["affectedObjectDetails"]["PrimaryCloudName"],
        "Microsoft Azure"
    );
    let item = client.item(vm);
    assert_eq!(item["protectionState"], "RestoreFinalized");
    assert_eq!(
        words(&item["allowedOperations"]),
        ["ReverseReplicate", "DisableProtection"]
    );
    assert!(client.machine(vm).copy(Site::Azure).is_none());
}

#[test]
fn with_differences_first_the_failback_waits_for_its_resume() {
    for kind in [FabricKind::HyperVSite, FabricKind::Vmm] {
        let mut client = Client::with(&Seed::of(kind, 2), Settings::default());
        out(&mut client, "vm-1");
        let body = to_premises("ForDownTime", "NoAction");
        let name = client.act("vm-1", "plannedFailover", &body);
        client.settle();
        let job = client.job(&name);
        assert_eq!(job["state"], "Suspended");
        assert_eq!(job["scenarioName"], "PlannedFailover");
        assert_eq!(words(&job["allowedActions"]), ["Cancel", "Resume"]);
        assert_eq!(task(&job, "MonitorDataSync")["state"], "Succeeded");
        assert_eq!(
            task(&job, "WaitForUserInputForFailback")["state"],
            "InProgress"
        );
        let inner = task(&job, "StartAzureVmFailback");
        assert_eq!(inner["startTime"], "0001-01-01T00:00:00");
        assert_eq!(inner["taskType"], "InlineWorkflowTaskDetails");
        assert_eq!(client.runs("vm-1"), (false, true));
        let status = client.get(&format!("/replicationOperationStatus/{name}"));
        assert_eq!(status["status"], "InProgress");

        let resume = json!({ "properties": { "comments": "now" } });
        let response = client.post(&format!("/replicationJobs/{name}/resume"), &resume);
        assert_eq!(response.status, 202);
        client.settle();
        let job = client.job(&name);
        assert_eq!(job["state"], "Succeeded");
        let children = &task(&job, "StartAzureVmFailback")["groupTaskCustomDetails"]["childTasks"];
        assert_eq!(children[1]["name"], "ShutdownVmOnAzure");
        assert_eq!(client.runs("vm-1"), (true, false));
        let side = client.get("/replicationJobs");
        let side = side["value"].as_array().unwrap();
        assert!(
            side.iter()
                .any(|job| job["properties"]["scenarioName"] == "RestoreCompletion")
        );
        commit_back(&mut client, "vm-1");
        reverse(&mut client, "vm-1");
        // Round again: nothing is left over from the first time.
        out(&mut client, "vm-1");
        assert!(client.service.violations().is_empty());
    }
}

#[test]
fn a_full_download_does_not_wait() {
    let mut client = Client::new();
    out(&mut client, "vm-1");
    let body = to_premises("ForSynchronization", "NoAction");
    let name = client.act("vm-1", "plannedFailover", &body);
    client.pass(5_000);
    assert_eq!(client.runs("vm-1"), (false, false));
    client.settle();
    let job = client.job(&name);
    assert_eq!(job["state"], "Succeeded");
    for skipped in [
        "InitiateDataSync",
        "MonitorDataSync",
        "WaitForUserInputForFailback",
    ] {
        assert_eq!(task(&job, skipped)["state"], "Other");
        assert_eq!(task(&job, skipped)["stateDescription"], "Skipped");
    }
    commit_back(&mut client, "vm-1");
    reverse(&mut client, "vm-1");
    assert!(client.service.violations().is_empty());
}

#[test]
fn a_failback_to_another_host_makes_the_vm_there() {
    let mut client = Client::new();
    client.move_to_azure("vm-1");
    client.press(&Button::RemoveVm { vm: "vm-1".into() });
    let body = to_premises("ForSynchronization", "NoAction");
    let job = client.finish("vm-1", "plannedFailover", &body);
    assert_eq!(job["state"], "Failed");
    assert_eq!(job["errors"][0]["serviceErrorDetails"]["code"], "559");

    let providers = client.get("/replicationRecoveryServicesProviders");
    let other = providers["value"]
        .as_array()
        .unwrap()
        .iter()
        .find(|provider| provider["properties"]["friendlyName"] == "hv-2.example.test")
        .unwrap()["id"]
        .clone();
    let mut body = to_premises("ForSynchronization", "CreateVmIfNotFound");
    body["properties"]["providerSpecificDetails"]["providerIdForAlternateRecovery"] = other.clone();
    let job = client.finish("vm-1", "plannedFailover", &body);
    assert_eq!(job["state"], "Succeeded");
    assert_eq!(client.runs("vm-1"), (true, false));
    assert_eq!(client.machine("vm-1").host, "hv-2.example.test");
    assert_eq!(client.item("vm-1")["recoveryServicesProviderId"], other);
    assert!(client.service.violations().is_empty());
}

#[test]
fn an_unplanned_failover_of_a_running_vm_is_a_violation_of_the_world() {
    let mut client = Client::new();
    let mut body = to_azure();
    body["properties"]["sourceSiteOperations"] = "NotRequired".into();
    let job = client.finish("vm-1", "unplannedFailover", &body);
    assert_eq!(job["state"], "Succeeded");
    assert_eq!(
        task(&job, "VmShutdownVmOnPrimary")["stateDescription"],
        "Skipped"
    );
    assert_eq!(
        client.item("vm-1")["protectionState"],
        "UnplannedFailoverCommitPendingStatesBegin"
    );
    assert_eq!(client.service.violations().len(), 1);

    body["properties"]["sourceSiteOperations"] = "Required".into();
    let job = client.finish("vm-2", "unplannedFailover", &body);
    assert_eq!(job["state"], "Succeeded");
    assert_eq!(client.runs("vm-2"), (false, true));
    assert_eq!(client.service.violations().len(), 1);
}

#[test]
fn a_test_failover_waits_for_its_cleanup() {
    let mut client = Client::new();
    let mut body = to_azure();
    body["properties"]["networkType"] = "NoNetworkAttachAsInput".into();
    client.finish("vm-1", "testFailover", &body);
    let item = client.item("vm-1");
    assert_eq!(item["testFailoverState"], "WaitingForCompletion");
    assert_eq!(words(&item["allowedOperations"]), ["TestFailoverCleanup"]);
    assert!(client.machine("vm-1").test_vm);
    let cleanup = json!({ "properties": { "comments": "fine" } });
    client.finish("vm-1", "testFailoverCleanup", &cleanup);
    let item = client.item("vm-1");
    assert_eq!(item["testFailoverState"], "None");
    assert_eq!(item["failoverHealth"], "Normal");
    assert!(!client.machine("vm-1").test_vm);
}

#[test]
fn another_recovery_point_can_be_chosen_before_the_commit() {
    let mut client = Client::new();
    client.finish("vm-1", "plannedFailover", &to_azure());
    let id = client.service.item_id("vm-1").unwrap();
    let points = client.get(&format!("{id}/recoveryPoints"));
    let point = points["value"][2]["id"].clone();
    let body = json!({ "properties": {
        "recoveryPointId": point,
        "providerSpecificDetails": { "instanceType": "HyperVReplicaAzure" },
    } });
    let job = client.finish("vm-1", "applyRecoveryPoint", &body);
    assert_eq!(job["state"], "Succeeded");
    assert_eq!(client.item("vm-1")["failoverRecoveryPointId"], point);
    assert!(client.service.violations().is_empty());
}

#[test]
fn protection_that_is_taken_away_leaves_no_item() {
    let mut client = Client::new();
    let id = client.service.item_id("vm-1").unwrap();
    let response = client.post(&format!("{id}/remove"), &json!({ "properties": {} }));
    assert_eq!(response.status, 202);
    let location = response.get("location").unwrap().to_owned();
    let result = location
        .split_once("asr.example.test")
        .unwrap()
        .1
        .to_owned();
    assert_eq!(client.send(&client.request("GET", &result)).status, 202);
    client.settle();
    assert_eq!(client.send(&client.request("GET", &result)).status, 204);
    let gone = client.send(&client.request("GET", &id));
    assert_eq!(gone.status, 404);
    assert_eq!(
        gone.value()["error"]["details"][0]["code"],
        "ArmResourceDoesNotExist"
    );
    assert_eq!(client.runs("vm-1"), (true, false));
}
