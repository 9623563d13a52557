use homeward_asr_emulator::{Button, FabricKind, Phase, Seed, Settings, Site, ViolationKind};
use serde_json::Value;

use crate::client::{Client, to_azure, to_premises, words};

fn cancel(client: &mut Client, job: &str) -> Value {
    let response = client.post(&format!("/replicationJobs/{job}/cancel"), &Value::Null);
    assert_eq!(response.status, 202, "{}", response.value());
    assert_eq!(client.job(job)["state"], "Cancelling");
    client.settle();
    client.job(job)
}

#[test]
fn a_failback_cancelled_in_its_data_sync_leaves_disks_that_must_not_be_started() {
    let mut client = Client::new();
    client.move_to_azure("vm-1");
    let body = to_premises("ForDownTime", "NoAction");
    let name = client.act("vm-1", "plannedFailover", &body);
    client.pass(5_000);
    let job = cancel(&mut client, &name);
    assert_eq!(job["state"], "Cancelled");
    assert_eq!(job["stateDescription"], "Cancelled");
    assert!(words(&job["allowedActions"]).is_empty());
    assert!(
        !client
            .machine("vm-1")
            .copy(Site::OnPremises)
            .unwrap()
            .consistent
    );
    assert_eq!(client.runs("vm-1"), (false, true));
    assert!(words(&client.item("vm-1")["allowedOperations"]).contains(&"Failback"));

    // The failback can be done again, and then the disks are whole.
    let body = to_premises("ForSynchronization", "NoAction");
    assert_eq!(
        client.finish("vm-1", "plannedFailover", &body)["state"],
        "Succeeded"
    );
    assert!(
        client
            .machine("vm-1")
            .copy(Site::OnPremises)
            .unwrap()
            .consistent
    );
    assert!(client.service.violations().is_empty());
}

#[test]
fn a_cancel_while_the_job_waits_is_possible_too() {
    let mut client = Client::new();
    client.move_to_azure("vm-1");
    let body = to_premises("ForDownTime", "NoAction");
    let name = client.act("vm-1", "plannedFailover", &body);
    client.settle();
    assert_eq!(client.job(&name)["state"], "Suspended");
    assert_eq!(cancel(&mut client, &name)["state"], "Cancelled");
    client.press(&Button::Power {
        vm: "vm-1".into(),
        site: Site::OnPremises,
        on: true,
    });
    let kinds: Vec<ViolationKind> = client
        .service
        .violations()
        .iter()
        .map(|violation| violation.kind)
        .collect();
    assert!(kinds.contains(&ViolationKind::StartedInconsistent));
    assert!(kinds.contains(&ViolationKind::RanAtBothSites));
}

#[test]
fn after_the_shutdown_a_cancel_brings_the_azure_vm_back_or_not() {
    for restarts in [true, false] {
        let mut settings = Settings::default();
        settings.assumptions.azure_vm_restarts = restarts;
        let mut client = Client::with(&Seed::of(FabricKind::HyperVSite, 1), settings);
        client.move_to_azure("vm-1");
        let body = to_premises("ForSynchronization", "NoAction");
        let name = client.act("vm-1", "plannedFailover", &body);
        client.pass(6_000);
        assert_eq!(client.runs("vm-1"), (false, false));
        cancel(&mut client, &name);
        assert_eq!(client.runs("vm-1"), (false, restarts));
    }
}

#[test]
fn a_cancelled_failover_to_azure_needs_a_repair() {
    let mut client = Client::new();
    let name = client.act("vm-1", "plannedFailover", &to_azure());
    client.pass(2_000);
    cancel(&mut client, &name);
    assert_eq!(client.service.phase("vm-1"), Some(Phase::NeedsRepair));
    assert_eq!(client.item("vm-1")["replicationHealth"], "Critical");
    let job = client.finish("vm-1", "repairReplication", &Value::Null);
    assert_eq!(job["scenarioName"], "RepairVMReplication");
    assert_eq!(client.service.phase("vm-1"), Some(Phase::Steady));
}

#[test]
fn a_job_that_is_over_is_not_cancelled_resumed_or_restarted() {
    let mut client = Client::new();
    let name = client.act("vm-1", "plannedFailover", &to_azure());
    client.settle();
    for verb in ["cancel", "resume", "restart"] {
        let response = client.post(&format!("/replicationJobs/{name}/{verb}"), &Value::Null);
        assert_eq!(response.status, 400, "{verb}");
    }
}
