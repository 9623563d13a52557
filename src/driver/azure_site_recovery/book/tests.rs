//! Jobs that go on, and that the service does not know any more.

use serde_json::{Value, json};

use super::super::wire::page::Element as _;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn told(name: &str, state: &str) -> Job {
    let job = json!({"name": name, "properties": {
        "scenarioName": "PlannedFailover",
        "state": state,
        "startTime": at(-60).to_string(),
        "targetObjectId": "vm-id",
        "targetInstanceType": "ProtectionEntity",
    }});
    Job::read(&job).unwrap()
}

fn item(allowed: &[&str], scenario: &Value) -> Item {
    let item = json!({"id": "/i", "properties": {
        "friendlyName": "web",
        "allowedOperations": allowed,
        "currentScenario": scenario,
        "providerSpecificDetails": {"vmId": "vm-id"},
    }});
    Item::read(&item).unwrap()
}

fn free() -> Item {
    let none = json!({"scenarioName": "None", "jobId": "/replicationJobs/None"});
    item(&["Commit"], &none)
}

/// A job that goes on, and is missed from the beginning.
fn missed() -> Book {
    let mut book = Book::default();
    book.read(told("J", "InProgress"));
    book.missed("j", &[], at(0));
    book
}

#[test]
fn s19_a_job_that_is_missed_has_ended_when_the_vm_is_free_for_a_while() {
    let mut book = missed();
    for seconds in [0, 100, 179] {
        book.missed("J", &[], at(seconds));
        book.give_up(&[free()], at(seconds));
        assert_eq!(book.live(), ["J"], "after {seconds} s");
    }
    book.missed("J", &[], at(180));
    book.give_up(&[free()], at(180));
    assert_eq!(book.live(), Vec::<String>::new());
    assert!(book.get("j").unwrap().lost && !book.wants("j"));
    assert_eq!(book.of_vm(Some("vm-id"), "web").len(), 1, "it is told of");
}

#[test]
fn s19_a_job_that_is_missed_goes_on_while_the_vm_is_held() {
    let busy = json!({"scenarioName": "PlannedFailover", "jobId": "/replicationJobs/J"});
    let nameless = json!({"scenarioName": "PlannedFailover"});
    let none = json!({"scenarioName": "None"});
    let held = [
        item(&["Commit"], &busy),
        item(&["Commit"], &nameless),
        item(&[], &none),
    ];
    for item in held {
        let mut book = missed();
        book.give_up(std::slice::from_ref(&item), at(100_000));
        assert_eq!(book.live(), ["J"], "{:?}", item.scenario);
    }
    // The VMs of others say nothing of it.
    let mut other = item(&[], &none);
    other.vm_id = Some("another".into());
    let mut book = missed();
    book.give_up(&[other, free()], at(100_000));
    assert_eq!(book.live(), Vec::<String>::new());
}

#[test]
fn s19_a_job_that_is_told_of_again_was_not_lost() {
    let mut book = missed();
    book.read(told("J", "InProgress"));
    book.give_up(&[free()], at(1_000));
    assert_eq!(book.live(), ["J"], "it was read");
    book.missed("J", &[], at(1_000));
    book.listed(vec![told("J", "InProgress")]);
    book.give_up(&[free()], at(2_000));
    assert_eq!(book.live(), ["J"], "it was listed");
    book.missed("J", &[], at(2_000));
    book.give_up(&[free()], at(3_000));
    assert_eq!(book.live(), Vec::<String>::new());
    book.listed(vec![told("J", "Suspended")]);
    assert_eq!(book.live(), ["J"], "it came back");
}

#[test]
fn a_job_that_has_another_name_is_known_by_that() {
    let mut book = Book::default();
    book.listed(vec![told("operation", "InProgress")]);
    book.read_as("Operation", told("J", "InProgress"));
    assert_eq!(book.live(), ["J"]);
    assert_eq!(book.get("OPERATION").unwrap().name, "J");
    book.read(told("J", "Succeeded"));
    assert!(!book.wants("operation"));
}

/// A process that has just begun has never been told of it.
#[test]
fn s18_a_job_that_only_items_name_holds_their_vms() {
    let named = json!({
        "scenarioName": "PlannedFailover",
        "jobId": "/replicationJobs/J",
        "startTime": at(-60).to_string(),
    });
    let mut second = item(&[], &named);
    second.vm_id = Some("second".into());
    let mut other = free();
    other.vm_id = Some("other".into());
    let items = [item(&["Failback"], &named), second, other];
    let mut book = Book::default();
    book.missed("nobody-names-it", &items, at(0));
    assert_eq!(book.live(), Vec::<String>::new());
    book.missed("j", &items, at(0));
    let job = book.get("J").unwrap();
    assert_eq!((job.missed, job.started), (Some(at(0)), Some(at(-60))));
    assert!(book.wants("J"));
    for (vm, jobs) in [("vm-id", 1), ("second", 1), ("other", 0)] {
        assert_eq!(book.of_vm(Some(vm), "web").len(), jobs, "{vm}");
    }
    book.give_up(&items, at(1_000));
    assert_eq!(book.live(), ["j"], "they still name it");
    book.read(told("J", "Suspended"));
    assert_eq!(book.of_vm(Some("second"), "web").len(), 0, "it is told of");
}

/// Somebody refreshes a provider on a host that has the name of the VM: the VM is not held by that.
#[test]
fn a_job_on_a_host_is_none_of_a_vm() {
    for (kind, jobs) in [("Server", 0), ("ProtectionEntity", 1), ("Another", 1)] {
        let refresh = json!({"name": "R", "properties": {
            "scenarioName": "RefreshFabricLayout",
            "state": "InProgress",
            "targetObjectName": "web",
            "targetInstanceType": kind,
        }});
        let mut book = Book::default();
        book.read(Job::read(&refresh).unwrap());
        assert_eq!(book.of_vm(Some("vm-id"), "web").len(), jobs, "{kind}");
    }
}
