use homeward_asr_emulator::{FabricKind, Seed, Settings};
use serde_json::Value;

use crate::client::{Client, operation, to_azure};

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn an_accepted_request_has_no_body_and_two_addresses() {
    for (version, word, wait) in [
        ("2018-01-10", "replicationJobs", Some("30")),
        ("2022-08-01", "replicationOperationStatus", None),
        ("2025-08-01", "replicationOperationStatus", None),
    ] {
        let mut client = Client::new();
        client.version = version;
        let id = client.service.item_id("vm-1").unwrap();
        let response = client.post(&format!("{id}/plannedFailover"), &to_azure());
        assert_eq!(response.status, 202);
        assert!(response.body.is_empty());
        let status = response.get("azure-asyncoperation").unwrap();
        assert!(status.starts_with("https://asr.example.test/Subscriptions/"));
        assert!(status.contains(&format!("/{word}/")));
        assert!(status.ends_with(&format!("api-version={version}")));
        assert!(
            response
                .get("location")
                .unwrap()
                .contains("/operationresults/")
        );
        assert_eq!(response.get("retry-after"), wait);
    }
}

#[test]
fn a_job_is_a_placeholder_before_it_begins() {
    let mut client = Client::new();
    let name = client.act("vm-1", "plannedFailover", &to_azure());
    let job = client.get(&format!("/replicationJobs/{name}"));
    assert_eq!(job["properties"]["state"], "NotStarted");
    assert!(job["properties"]["scenarioName"].is_null());
    assert!(job["properties"]["targetObjectId"].is_null());
    assert_eq!(job["status"], "NotStarted");
    let status = client.get(&format!("/replicationOperationStatus/{name}"));
    assert_eq!(
        keys(&status),
        [
            "endTime",
            "error",
            "id",
            "name",
            "percentComplete",
            "properties",
            "startTime",
            "status"
        ]
    );
    assert_eq!(status["status"], "NotStarted");
    client.pass(600);
    let job = client.job(&name);
    assert_eq!(job["state"], "InProgress");
    assert!(job.get("endTime").is_none());
    client.settle();
    let job = client.job(&name);
    let end = job["endTime"].as_str().unwrap();
    assert_eq!(end.len(), "2026-03-01T08:00:00Z".len());
    assert_eq!(
        job["startTime"].as_str().unwrap().len(),
        "2026-03-01T08:00:00.1234567Z".len()
    );
}

#[test]
fn operation_results_end_with_the_resource() {
    let mut client = Client::new();
    let id = client.service.item_id("vm-1").unwrap();
    let response = client.post(&format!("{id}/plannedFailover"), &to_azure());
    let result = format!("{id}/operationresults/{}", operation(&response));
    let response = client.send(&client.request("GET", &result));
    assert_eq!((response.status, response.body.len()), (202, 0));
    assert!(response.get("azure-asyncoperation").is_some());
    client.settle();
    assert_eq!(
        client.get(&result)["properties"]["activeLocation"],
        "Recovery"
    );
}

#[test]
fn an_item_has_the_members_that_clients_read() {
    let mut client = Client::new();
    let id = client.service.item_id("vm-1").unwrap();
    assert!(id.starts_with("/Subscriptions/"));
    let item = client.get(&id);
    assert_eq!(keys(&item), ["id", "name", "properties", "type"]);
    let item = &item["properties"];
    let idle = &item["currentScenario"];
    assert_eq!(idle["scenarioName"], "None");
    assert!(
        idle["jobId"]
            .as_str()
            .unwrap()
            .ends_with("/replicationJobs/None")
    );
    assert_eq!(idle["startTime"], "1753-01-01T01:01:01Z");
    let details = &item["providerSpecificDetails"];
    let disk = &details["azureVmDiskDetails"][0];
    assert_eq!(
        (&disk["maxSizeMB"], &disk["lunId"]),
        (&"40960".into(), &"0".into())
    );
    assert!(details["rpoInSeconds"].is_u64());
    assert!(details["useManagedDisks"].is_string());
    // Names in any letter case find the same thing.
    assert_eq!(client.get(&id.to_ascii_lowercase())["id"], id);
    let protectable = client.get(item["protectableItemId"].as_str().unwrap());
    assert_eq!(protectable["properties"]["replicationProtectedItemId"], id);
    let custom = &protectable["properties"]["customDetails"];
    assert_eq!(custom["diskDetails"][0]["vhdId"], disk["vhdId"]);
}

#[test]
fn older_spelling_is_a_switch() {
    let settings = Settings {
        legacy_casing: true,
        ..Settings::default()
    };
    let mut client = Client::with(&Seed::of(FabricKind::HyperVSite, 1), settings);
    let item = client.item("vm-1");
    assert!(item["providerSpecificDetails"]["azureVMDiskDetails"].is_array());
    assert!(item["providerSpecificDetails"]["azureVmDiskDetails"].is_null());
    assert!(item["replicationHealthErrors"].is_array());
}

#[test]
fn the_version_and_the_vault_must_be_right() {
    let mut client = Client::new();
    let path = client.service.vault().path();
    assert_eq!(client.get(&path)["name"], "homeward-vault");
    let mut refused = |target: String| {
        let response = client.send(&client.request("GET", &target));
        (
            response.status,
            response.value()["error"]["code"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    };
    let list = "replicationProtectedItems";
    let missing = |code: &str| (400, code.to_owned());
    assert_eq!(
        refused(format!("{path}/{list}?api-version=")),
        missing("MissingApiVersionParameter")
    );
    assert_eq!(
        refused(format!("{path}/{list}?api-version=2031-01-01")),
        missing("NoRegisteredProviderFound")
    );
    assert_eq!(
        refused(format!("{path}/{list}?api-version=new")),
        missing("InvalidApiVersionParameter")
    );
    let other = path.replace("homeward-vault", "other");
    assert_eq!(
        refused(format!("{other}/{list}")),
        (404, "ResourceNotFound".into())
    );
    assert_eq!(
        refused(format!("{path}/replicationRockets")),
        (404, "InvalidResourceType".into())
    );
    assert_eq!(
        refused(format!("{path}/replicationFabrics/none")),
        (404, "NotFound".into())
    );
}

#[test]
fn every_answer_can_be_traced() {
    let mut client = Client::new();
    let request = client
        .request("GET", "/replicationVaultHealth")
        .header("x-ms-client-request-id", "mine");
    let response = client.send(&request);
    assert_eq!(response.get("x-ms-client-request-id"), Some("mine"));
    let refused = client
        .request("GET", "/replicationFabrics/none")
        .header("x-ms-client-request-id", "mine");
    let refused = client.send(&refused);
    let detail = &refused.value()["error"]["details"][0];
    assert_eq!(detail["clientRequestId"], "mine");
    assert_eq!(
        detail["activityId"],
        refused.get("x-ms-request-id").unwrap()
    );
    assert!(response.get("x-ms-request-id").is_some());
    assert!(response.get("x-ms-correlation-request-id").is_some());
    assert_eq!(response.get("date"), Some("Sun, 01 Mar 2026 08:00:00 GMT"));
    assert!(
        response
            .get("x-ms-ratelimit-remaining-subscription-reads")
            .is_some()
    );
}
