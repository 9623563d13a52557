use homeward_asr_emulator::{Assumptions, CommitWord, FabricKind, Phase, Seed, Settings};
use serde_json::{Value, json};

use crate::client::{Client, to_azure, to_premises, words};

#[test]
fn whatever_is_assumed_a_vm_comes_home_by_what_the_item_offers() {
    for seed in 0..40 {
        let assumptions = Assumptions::drawn(seed);
        assert_eq!(assumptions, Assumptions::drawn(seed));
        let settings = Settings {
            assumptions: assumptions.clone(),
            ..Settings::default()
        };
        let mut client = Client::with(&Seed::of(FabricKind::HyperVSite, 1), settings);
        client.move_to_azure("vm-1");
        let item = client.item("vm-1");
        assert!(
            words(&item["allowedOperations"]).contains(&assumptions.committed_operation.word())
        );
        let name = client.act(
            "vm-1",
            "plannedFailover",
            &to_premises("ForDownTime", "NoAction"),
        );
        client.settle();
        let job = client.job(&name);
        assert_eq!(job["state"], "Suspended");
        assert_eq!(
            job["stateDescription"],
            assumptions.suspended_description.as_str()
        );
        let item = client.item("vm-1");
        assert_eq!(
            words(&item["allowedOperations"]).is_empty(),
            !assumptions.operations_while_suspended
        );
        client.post(
            &format!("/replicationJobs/{name}/resume"),
            &json!({ "properties": {} }),
        );
        client.settle();
        let item = client.item("vm-1");
        let offered = words(&item["allowedOperations"]);
        assert_eq!(
            offered.contains(&"Commit"),
            assumptions.failed_back_operation != CommitWord::FinalizeFailback
        );
        assert_eq!(
            item["activeLocation"],
            assumptions.failed_back_location.word()
        );
        client.finish("vm-1", "failoverCommit", &Value::Null);
        client.finish("vm-1", "reProtect", &to_azure());
        assert_eq!(client.service.phase("vm-1"), Some(Phase::Steady));
        assert!(client.service.violations().is_empty());
    }
}
