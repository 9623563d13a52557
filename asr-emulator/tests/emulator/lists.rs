use homeward_asr_emulator::{FabricKind, Seed, Settings};
use serde_json::Value;

use crate::client::{Client, to_azure};

fn pages(client: &mut Client, first: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(target) = next {
        let page = client.get(&target);
        pages.push(page["value"].as_array().unwrap().clone());
        next = page["nextLink"]
            .as_str()
            .map(|link| link.split_once("asr.example.test").unwrap().1.to_owned());
    }
    pages
}

#[test]
fn items_come_in_pages() {
    let settings = Settings {
        page_size: 4,
        ..Settings::default()
    };
    let mut client = Client::with(&Seed::of(FabricKind::HyperVSite, 10), settings);
    let found = pages(&mut client, "/replicationProtectedItems");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    let mut ids: Vec<String> = found
        .iter()
        .flatten()
        .map(|item| item["id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    client.service.settings.empty_last_page = true;
    let found = pages(&mut client, "/replicationProtectedItems");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 0]);
}

#[test]
fn a_container_lists_its_own_items() {
    let mut seed = Seed::of(FabricKind::HyperVSite, 3);
    let mut second = Seed::of(FabricKind::Vmm, 0).fabrics.remove(0);
    second
        .vms
        .push(homeward_asr_emulator::SeedVm::named("other"));
    seed.fabrics.push(second);
    let mut client = Client::with(&seed, Settings::default());
    let containers = client.get("/replicationProtectionContainers");
    let mut counts = Vec::new();
    for container in containers["value"].as_array().unwrap() {
        let id = container["id"].as_str().unwrap();
        let items = client.get(&format!("{id}/replicationProtectedItems"));
        let can = client.get(&format!("{id}/replicationProtectableItems"));
        assert_eq!(
            items["value"].as_array().unwrap().len(),
            can["value"].as_array().unwrap().len()
        );
        counts.push(items["value"].as_array().unwrap().len());
    }
    assert_eq!(counts, [3, 1]);
}

#[test]
fn jobs_are_listed_without_their_tasks_and_by_filter() {
    let mut client = Client::new();
    client.finish("vm-1", "plannedFailover", &to_azure());
    let later = client.now;
    client.finish("vm-1", "plannedFailover", &to_azure());
    let all = client.get("/replicationJobs");
    let all = all["value"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert!(all[0]["properties"]["tasks"].as_array().unwrap().is_empty());
    assert!(all[0]["properties"]["customDetails"].is_null());
    // The newest comes first.
    assert_eq!(all[0]["properties"]["state"], "Failed");
    let mut count = |filter: &str| {
        let filter = filter.replace(' ', "%20").replace('\'', "%27");
        let list = client.get(&format!("/replicationJobs?$filter={filter}"));
        list["value"].as_array().unwrap().len()
    };
    assert_eq!(count("( JobStatus eq 'Succeeded' )"), 1);
    assert_eq!(
        count("JobStatus eq 'Succeeded' or JobStatus eq 'Failed'"),
        2
    );
    let from = later.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    assert_eq!(
        count(&format!(
            "StartTime eq '{from}' and EndTime eq '2027-01-01 00:00:00'"
        )),
        1
    );
}

#[test]
fn a_job_that_has_not_begun_is_in_no_list_unless_that_is_assumed() {
    let mut client = Client::new();
    client.act("vm-1", "plannedFailover", &to_azure());
    assert!(
        client.get("/replicationJobs")["value"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    client.service.settings.assumptions.job_listed_before_start = true;
    let list = client.get("/replicationJobs");
    assert_eq!(list["value"][0]["properties"]["state"], "NotStarted");
}

#[test]
fn five_thousand_items_are_a_list_like_any_other() {
    let mut client = Client::with(
        &Seed::of(FabricKind::HyperVSite, 5_000),
        Settings::default(),
    );
    let found = pages(&mut client, "/replicationProtectedItems");
    assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 5_000);
}

#[test]
fn providers_tell_which_host_is_silent() {
    let mut client = Client::new();
    let now = client.now;
    assert!(client.service.silence("hv-1.example.test", Some(now)));
    client.pass(1_800_000);
    let providers = client.get("/replicationFabrics/site-1/replicationRecoveryServicesProviders");
    let shown = |host: &str| {
        providers["value"]
            .as_array()
            .unwrap()
            .iter()
            .find(|provider| provider["properties"]["friendlyName"] == host)
            .unwrap()["properties"]
            .clone()
    };
    let quiet = shown("hv-1.example.test");
    assert_eq!(quiet["connectionStatus"], "NotConnected");
    assert!(
        quiet["lastHeartBeat"]
            .as_str()
            .unwrap()
            .starts_with("2026-03-01T08:00:00")
    );
    assert_eq!(quiet["healthErrorDetails"][0]["errorCode"], "581");
    assert_eq!(shown("hv-2.example.test")["connectionStatus"], "Connected");
    // Its VMs cannot be moved away in order; the others can.
    assert_eq!(
        client.finish("vm-1", "plannedFailover", &to_azure())["state"],
        "Failed"
    );
    assert_eq!(
        client.finish("vm-2", "plannedFailover", &to_azure())["state"],
        "Succeeded"
    );
    let id = providers["value"][0]["id"].as_str().unwrap();
    let response = client.post(&format!("{id}/refreshProvider"), &Value::Null);
    assert_eq!(response.status, 202);
}
