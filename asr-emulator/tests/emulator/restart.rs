use homeward_asr_emulator::{FabricKind, Phase, Seed, Service, Settings};
use jiff::SignedDuration;
use serde_json::json;

use crate::client::{Client, to_premises};

#[test]
fn a_restart_goes_on_in_the_middle_of_a_job() {
    let mut client = Client::new();
    client.move_to_azure("vm-1");
    let name = client.act(
        "vm-1",
        "plannedFailover",
        &to_premises("ForDownTime", "NoAction"),
    );
    client.pass(3_000);
    let before = client.job(&name);
    let saved = client.service.save().unwrap();
    let restored = Service::restore(&saved, Settings::default()).unwrap();
    let mut client = Client::around(restored, client.now);
    assert_eq!(client.job(&name), before);
    client.settle();
    assert_eq!(client.job(&name)["state"], "Suspended");
    client.post(
        &format!("/replicationJobs/{name}/resume"),
        &json!({ "properties": {} }),
    );
    client.settle();
    assert_eq!(client.service.phase("vm-1"), Some(Phase::FailedBack));
    assert!(client.service.violations().is_empty());
}

#[test]
fn an_hour_in_one_step_is_an_hour_in_many() {
    let end = |steps: i32| {
        let mut client = Client::with(&Seed::of(FabricKind::HyperVSite, 2), Settings::default());
        client.move_to_azure("vm-1");
        client.act(
            "vm-1",
            "plannedFailover",
            &to_premises("ForSynchronization", "NoAction"),
        );
        for _ in 0..steps {
            client.now += SignedDuration::from_secs(3_600) / steps;
            client.service.advance(client.now);
        }
        String::from_utf8(client.service.save().unwrap()).unwrap()
    };
    assert_eq!(end(1), end(720));
}
