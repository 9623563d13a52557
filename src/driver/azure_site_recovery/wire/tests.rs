//! Payloads of the service's shapes, whole and mutilated.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fabric::Provider;
use super::item::Item;
use super::job::Job;
use super::page::{Element as _, Page};
use super::problem::Problem;
use super::value::{same_id, segment_after, time};
use crate::api::Site;

/// In the environment: a folder of payloads that were recorded or published, whose tree is read.
const PAYLOADS: &str = "HOMEWARD_ASR_PAYLOADS";

const VAULT: &str = "/Subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.RecoveryServices/vaults/v";

fn item() -> Value {
    let fabric = format!("{VAULT}/replicationFabrics/site");
    json!({
        "id": format!("{fabric}/replicationProtectionContainers/c/replicationProtectedItems/i"),
        "name": "i",
        "properties": {
            "friendlyName": "web",
            "protectionState": "Protected",
            "protectionStateDescription": "Protected",
            "activeLocation": "Primary",
            "testFailoverState": "None",
            "allowedOperations": ["PlannedFailover", "UnplannedFailover"],
            "replicationHealth": "Normal",
            "healthErrors": [{"errorCode": "161011", "errorLevel": "Warning", "errorMessage": "No test failover.", "recommendedAction": "Do one."}],
            "currentScenario": {"scenarioName": "None", "jobId": format!("{VAULT}/replicationJobs/None"), "startTime": "1753-01-01T01:01:01Z"},
            "recoveryServicesProviderId": format!("{fabric}/replicationRecoveryServicesProviders/p"),
            "providerSpecificDetails": {
                "instanceType": "HyperVReplicaAzure",
                "vmId": "4468B400-1393-4D08-A81E-0E3C19C04A0B",
                "azureVmDiskDetails": [
                    {"vhdType": "Data", "vhdId": "data", "maxSizeMB": "1024"},
                    {"vhdType": "OperatingSystem", "vhdId": "os", "maxSizeMB": "40960"},
                ],
                "recoveryAzureStorageAccount": "account",
                "lastReplicatedTime": "2026-01-02T03:04:05.1234567Z",
                "encryption": "Disabled",
                "oSDetails": {"osType": "Linux"},
            },
        },
    })
}

fn job() -> Value {
    json!({
        "id": format!("{VAULT}/replicationJobs/j-1"),
        "name": "j-1",
        "properties": {
            "scenarioName": "PlannedFailover",
            "friendlyName": "Planned failover",
            "state": "Suspended",
            "stateDescription": "WaitingForSomething",
            "allowedActions": ["Cancel", "Resume"],
            "startTime": "2026-01-02T03:04:05Z",
            "targetObjectId": "4468b400-1393-4d08-a81e-0e3c19c04a0b",
            "targetInstanceType": "ProtectionEntity",
            "tasks": [
                {"name": "MonitorDataSync", "state": "Succeeded", "startTime": "2026-01-02T03:04:06", "endTime": "2026-01-02T03:05:06"},
                {"name": "WaitForUserInputForFailback", "friendlyName": "Waiting for user input", "state": "InProgress", "endTime": "0001-01-01T00:00:00"},
                {"name": "StartAzureVmFailback", "state": "NotStarted", "groupTaskCustomDetails": {"childTasks": [
                    {"name": "ShutdownVmOnAzure", "state": "NotStarted", "errors": [{
                        "serviceErrorDetails": {"code": "28031", "message": "No\nroom.", "possibleCauses": "Quota.", "recommendedAction": "Raise it."},
                        "errorLevel": "Error",
                    }]},
                    {"name": "Skipped", "state": "Other", "stateDescription": "Skipped"},
                ]}},
            ],
            "customDetails": {"affectedObjectDetails": {"PrimaryFabricProviderId": "Azure", "RecoveryFabricProviderId": "HyperVSite"}},
        },
    })
}

#[test]
fn an_item_is_read() {
    let read = Item::read(&item()).unwrap();
    assert_eq!(read.friendly_name, "web");
    assert_eq!(read.identity(), "4468b400-1393-4d08-a81e-0e3c19c04a0b");
    assert_eq!(read.active, Some(Site::OnPremises));
    assert!(read.allows("plannedfailover") && !read.allows("Commit"));
    assert_eq!(read.scenario.job, None);
    assert_eq!(read.os_disk.as_deref(), Some("os"));
    assert_eq!(read.disk_bytes, Some((1024 + 40_960) << 20));
    assert_eq!(read.fabric(), Some("site"));
    assert!(!read.encrypted && read.test_failover_state.is_empty());
    assert_eq!(read.health_errors.len(), 1);
}

#[test]
fn a_job_is_read_with_its_nested_tasks() {
    let read = Job::read(&job()).unwrap();
    assert!(read.waits() && !read.is_final() && read.allows("cancel"));
    let depths: Vec<(usize, &str)> = read
        .tasks
        .iter()
        .map(|task| (task.depth, task.name.as_str()))
        .collect();
    assert_eq!(
        depths,
        [
            (0, "MonitorDataSync"),
            (0, "WaitForUserInputForFailback"),
            (0, "StartAzureVmFailback"),
            (1, "ShutdownVmOnAzure"),
            (1, "Skipped"),
        ]
    );
    assert_eq!(read.tasks[1].ended, None, "no time is no time");
    assert!(read.tasks[4].is_skipped() && !read.tasks[4].has_begun());
    assert_eq!(
        read.tasks[3].errors[0].words(),
        "28031: No room. Possible causes: Quota. Recommended: Raise it."
    );
    assert_eq!(
        read.fabrics,
        Some(("Azure".to_owned(), "HyperVSite".to_owned()))
    );
    // Which words describe the pause does not matter.
    let mut other = job();
    other["properties"]["stateDescription"] = json!(null);
    assert!(Job::read(&other).unwrap().waits());
    other["properties"]["allowedActions"] = json!(["Cancel"]);
    assert!(!Job::read(&other).unwrap().waits());
}

#[test]
fn the_placeholder_of_a_job_is_a_job_without_words() {
    let placeholder = json!({
        "id": format!("{VAULT}/replicationJobs/j-2"), "name": "j-2",
        "properties": {"scenarioName": null, "friendlyName": null, "state": "NotStarted", "tasks": [], "allowedActions": [], "targetObjectId": null},
        "status": "NotStarted", "error": null, "startTime": null, "endTime": null,
    });
    let read = Job::read(&placeholder).unwrap();
    assert!(!read.is_final() && read.scenario.is_none() && read.tasks.is_empty());
}

#[test]
fn pages_are_read_one_element_at_a_time() {
    let text = json!({"nextLink": "https://x/next", "value": [item(), null, 7, {"no": "id"}]});
    let page: Page<Item> = Page::read(text.to_string().as_bytes()).unwrap();
    assert_eq!(page.elements.len(), 1);
    assert_eq!(page.next.as_deref(), Some("https://x/next"));
    for empty in [
        r#"{"value":[],"nextLink":null}"#,
        r#"{"Value":null}"#,
        "{}",
        r#"{"value":[],"nextLink":""}"#,
    ] {
        let page: Page<Item> = Page::read(empty.as_bytes()).unwrap();
        assert!(page.elements.is_empty() && page.next.is_none(), "{empty}");
    }
    assert!(Page::<Item>::read(b"[]").is_err());
    assert!(Page::<Item>::read(b"").is_err());
}

#[test]
fn times_that_stand_for_none_are_none() {
    for (text, there) in [
        ("0001-01-01T00:00:00", false),
        ("1753-01-01T01:01:01Z", false),
        ("2026-01-02T03:04:05", true),
        ("2026-01-02T03:04:05.1234567Z", true),
        ("yesterday", false),
        ("", false),
    ] {
        assert_eq!(time(text).is_some(), there, "{text}");
    }
    assert_eq!(time("2026-01-02T03:04:05"), time("2026-01-02T03:04:05Z"));
}

#[test]
fn ids_are_compared_without_case() {
    assert!(same_id("/Subscriptions/A/x", "/subscriptions/a/X/"));
    assert!(!same_id("/subscriptions/a", "/subscriptions/b"));
    assert_eq!(
        segment_after("/a/ReplicationFabrics/f/b", "replicationFabrics"),
        Some("f")
    );
}

#[test]
fn an_error_says_its_most_exact_code() {
    let body = json!({"error": {"code": "BadRequest", "message": "m", "details": [
        {"code": "InvalidFailoverDirection", "message": "wrong\tway", "possibleCauses": "c", "recommendedAction": "r"},
    ]}});
    let read = Problem::read(body.to_string().as_bytes());
    assert_eq!(read.code.as_deref(), Some("InvalidFailoverDirection"));
    assert_eq!(read.words, "wrong way Possible causes: c Recommended: r");
    assert_eq!(Problem::read(b"<html>oops</html>"), Problem::default());
    let plain = json!({"error": {"code": "ResourceNotFound", "message": "m"}});
    assert_eq!(
        Problem::read(plain.to_string().as_bytes()).text(),
        "ResourceNotFound: m"
    );
}

/// What can happen to a payload on its way through versions and proxies.
#[derive(Clone, Debug)]
enum Harm {
    Drop,
    Null,
    Number,
    Text,
    List,
    Object,
    Case,
}

fn harm() -> impl Strategy<Value = (prop::sample::Index, Harm)> {
    let harms = prop_oneof![
        Just(Harm::Drop),
        Just(Harm::Null),
        Just(Harm::Number),
        Just(Harm::Text),
        Just(Harm::List),
        Just(Harm::Object),
        Just(Harm::Case),
    ];
    (any::<prop::sample::Index>(), harms)
}

fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let place = format!("{at}/{key}");
                found.push(place.clone());
                places(value, &place, found);
            }
        }
        Value::Array(all) => {
            for (index, value) in all.iter().enumerate() {
                let place = format!("{at}/{index}");
                found.push(place.clone());
                places(value, &place, found);
            }
        }
        _ => {}
    }
}

fn harmed(mut value: Value, harms: &[(prop::sample::Index, Harm)]) -> Value {
    for (index, harm) in harms {
        let mut all = Vec::new();
        places(&value, "", &mut all);
        if all.is_empty() {
            break;
        }
        let place = index.get(&all).clone();
        let (parent, key) = place.rsplit_once('/').unwrap();
        let Some(parent) = value.pointer_mut(parent) else {
            continue;
        };
        let slot = match parent {
            Value::Object(map) => {
                match harm {
                    Harm::Drop => {
                        map.remove(key);
                        continue;
                    }
                    Harm::Case => {
                        if let Some(value) = map.remove(key) {
                            map.insert(key.to_ascii_uppercase(), value);
                        }
                        continue;
                    }
                    _ => {}
                }
                map.get_mut(key)
            }
            Value::Array(all) => key.parse::<usize>().ok().and_then(|at| all.get_mut(at)),
            _ => None,
        };
        if let Some(slot) = slot {
            *slot = match harm {
                Harm::Null => Value::Null,
                Harm::Number => json!(-7.5),
                Harm::Text => json!("Ünknown value"),
                Harm::List => json!([[], {}, null]),
                Harm::Object => json!({"a": {"b": 1}}),
                Harm::Drop | Harm::Case => continue,
            };
        }
    }
    value
}

proptest! {
    #[test]
    fn no_harm_to_a_payload_breaks_the_reading(harms in prop::collection::vec(harm(), 0..12)) {
        for value in [item(), job()] {
            let value = harmed(value, &harms);
            let _ = Item::read(&value);
            let _ = Job::read(&value);
            let _ = Provider::read(&value);
            let text = json!({"value": [value], "nextLink": 3}).to_string();
            let _ = Page::<Item>::read(text.as_bytes());
            let _ = Problem::read(text.as_bytes());
        }
    }

    #[test]
    fn the_case_of_names_does_not_matter(places in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let harms: Vec<_> = places.into_iter().map(|place| (place, Harm::Case)).collect();
        prop_assert_eq!(Item::read(&harmed(item(), &harms)), Item::read(&item()));
        prop_assert_eq!(Job::read(&harmed(job(), &harms)), Job::read(&job()));
    }

    #[test]
    fn garbage_is_no_page(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Page::<Item>::read(&bytes);
        let _ = Problem::read(&bytes);
    }
}

/// Payloads that were recorded or published stay outside of this tree; where a folder of them is named, all of it is read.
#[test]
fn payloads_of_the_real_service_are_read() {
    let Some(folder) = std::env::var_os(PAYLOADS) else {
        let said = format!(
            "SKIPPED payloads_of_the_real_service_are_read: set {PAYLOADS} to a folder of payloads\n"
        );
        let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
        return;
    };
    let mut read = 0;
    walk(Path::new(&folder), &mut read);
    assert!(read > 20, "{read} payloads were read");
}

fn walk(folder: &Path, read: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, read);
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
            continue;
        };
        // A published example holds its answers by status.
        let bodies: Vec<&Value> = match value.get("responses").and_then(Value::as_object) {
            Some(answers) => answers.values().filter_map(|it| it.get("body")).collect(),
            None => vec![&value],
        };
        for body in bodies {
            check(&name, body, read);
        }
    }
}

fn check(name: &str, body: &Value, read: &mut usize) {
    let hyper_v = body.to_string().contains("HyperVReplicaAzure");
    if name.starts_with("rpi_") || (name.starts_with("ReplicationProtectedItems_") && hyper_v) {
        let items = match body.get("value").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Item::read).collect(),
            None => vec![Item::read(body).unwrap_or_else(|| panic!("{name} is no item"))],
        };
        for item in items {
            assert!(!item.protection_state.is_empty(), "{name}");
            assert!(item.active.is_some(), "{name}");
            assert!(!item.instance_type.is_empty(), "{name}");
            *read += 1;
        }
    } else if name.starts_with("ReplicationJobs_") && body.get("properties").is_some() {
        let job = Job::read(body).unwrap_or_else(|| panic!("{name} is no job"));
        assert!(!job.state.is_empty(), "{name}");
        *read += 1;
    } else if name.starts_with("ReplicationRecoveryServicesProviders_") && body.is_object() {
        let text = match body.get("value") {
            Some(_) => body.to_string(),
            None => json!({"value": [body]}).to_string(),
        };
        let page: Page<Provider> = Page::read(text.as_bytes()).unwrap();
        assert!(page.elements.iter().all(|it| !it.host.is_empty()), "{name}");
        *read += page.elements.len();
    } else if name.starts_with("error_") {
        let problem = Problem::read(body.to_string().as_bytes());
        assert!(
            problem.code.is_some() && !problem.words.is_empty(),
            "{name}: {problem:?}"
        );
        *read += 1;
    }
}
