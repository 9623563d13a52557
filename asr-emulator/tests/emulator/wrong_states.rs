use homeward_asr_emulator::{FabricKind, Seed, SeedVm, Settings};
use serde_json::{Value, json};

use crate::client::{Client, to_azure, to_premises};

fn code(job: &Value) -> &str {
    assert_eq!(job["state"], "Failed");
    job["errors"][0]["serviceErrorDetails"]["code"]
        .as_str()
        .unwrap()
}

#[test]
fn what_may_not_be_done_now_is_accepted_and_fails_as_a_job() {
    let mut client = Client::new();
    let none = Value::Null;
    assert_eq!(
        code(&client.finish("vm-1", "failoverCommit", &none)),
        "25037"
    );
    assert_eq!(
        code(&client.finish("vm-1", "reProtect", &to_azure())),
        "25038"
    );
    let back = to_premises("ForDownTime", "NoAction");
    assert_eq!(
        code(&client.finish("vm-1", "plannedFailover", &back)),
        "25014"
    );
    client.finish("vm-1", "plannedFailover", &to_azure());
    assert_eq!(
        code(&client.finish("vm-1", "plannedFailover", &to_azure())),
        "25014"
    );
    let mut body = to_azure();
    body["properties"]["failoverDirection"] = "RecoveryToPrimary".into();
    assert_eq!(code(&client.finish("vm-1", "reProtect", &body)), "25038");
    // The item is as it was.
    assert_eq!(
        client.item("vm-1")["protectionState"],
        "PlannedFailoverCommitRequired"
    );
}

#[test]
fn a_second_job_fails_while_the_first_goes_on() {
    let mut client = Client::new();
    let first = client.act("vm-1", "plannedFailover", &to_azure());
    let second = client.act("vm-1", "plannedFailover", &to_azure());
    client.settle();
    assert_eq!(client.job(&first)["state"], "Succeeded");
    assert_eq!(code(&client.job(&second)), "532");
    let status = client.get(&format!("/replicationOperationStatus/{second}"));
    assert_eq!(status["status"], "Failed");
    assert_eq!(status["error"]["code"], "532");
}

#[test]
fn requests_that_make_no_sense_are_refused_at_once() {
    let mut client = Client::new();
    let id = client.service.item_id("vm-1").unwrap();
    let mut refused = |verb: &str, body: &Value| {
        let response = client.post(&format!("{id}/{verb}"), body);
        assert_eq!(response.status, 400, "{verb} {body}");
        response.value()["error"]["details"][0]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let mut wrong = to_azure();
    wrong["properties"]["failoverDirection"] = "RecoveryToPrimary".into();
    assert_eq!(refused("reProtect", &wrong), "InvalidFailoverDirection");
    wrong["properties"]["failoverDirection"] = "Sideways".into();
    assert_eq!(
        refused("plannedFailover", &wrong),
        "InvalidFailoverDirection"
    );
    let mut wrong = to_premises("ForDownTime", "NoAction");
    wrong["properties"]["providerSpecificDetails"]["instanceType"] = "HyperVReplicaAzure".into();
    refused("plannedFailover", &wrong);
    refused("plannedFailover", &to_premises("ForDowntime", "NoAction"));
    refused("plannedFailover", &to_premises("ForDownTime", "Create"));
    refused("failoverCancel", &Value::Null);
    let mut wrong = to_premises("ForDownTime", "CreateVmIfNotFound");
    wrong["properties"]["providerSpecificDetails"]["providerIdForAlternateRecovery"] =
        "/nowhere".into();
    refused("plannedFailover", &wrong);
    assert!(client.service.jobs().is_empty());

    let text = client.request("POST", &format!("{id}/plannedFailover"));
    let mut text = text.header("content-type", "application/json");
    text.body = b"{".to_vec();
    let response = client.send(&text);
    assert_eq!(response.status, 400);
    assert_eq!(response.value()["error"]["code"], "InvalidRequestContent");
    // A body on a call that takes none does no harm.
    client.finish("vm-1", "plannedFailover", &to_azure());
    let response = client.post(&format!("{id}/failoverCommit"), &json!({ "any": 1 }));
    assert_eq!(response.status, 202);
}

#[test]
fn a_management_server_has_no_alternate_location() {
    let mut client = Client::with(&Seed::of(FabricKind::Vmm, 1), Settings::default());
    let providers = client.get("/replicationRecoveryServicesProviders");
    assert_eq!(providers["value"].as_array().unwrap().len(), 1);
    client.move_to_azure("vm-1");
    let mut body = to_premises("ForDownTime", "CreateVmIfNotFound");
    body["properties"]["providerSpecificDetails"]["providerIdForAlternateRecovery"] =
        providers["value"][0]["id"].clone();
    let id = client.service.item_id("vm-1").unwrap();
    assert_eq!(
        client.post(&format!("{id}/plannedFailover"), &body).status,
        400
    );
}

#[test]
fn encrypted_data_needs_its_key_towards_azure() {
    let mut seed = Seed::of(FabricKind::Vmm, 0);
    seed.fabrics[0].vms.push(SeedVm {
        encrypted: true,
        ..SeedVm::named("vault-vm")
    });
    let mut client = Client::with(&seed, Settings::default());
    assert_eq!(
        client.item("vault-vm")["providerSpecificDetails"]["encryption"],
        "Enabled"
    );
    assert_eq!(
        code(&client.finish("vault-vm", "plannedFailover", &to_azure())),
        "506"
    );
    let mut body = to_azure();
    body["properties"]["providerSpecificDetails"]["primaryKekCertificatePfx"] = "c2VjcmV0".into();
    assert_eq!(
        client.finish("vault-vm", "plannedFailover", &body)["state"],
        "Succeeded"
    );
    // What was sent is remembered without the key.
    let kept = format!("{:?}", client.service.requests().last());
    assert!(!kept.contains("c2VjcmV0"));
    assert!(
        client
            .service
            .requests()
            .all(|record| !record.body.to_string().contains("c2VjcmV0"))
    );
}
