//! What is read from the jobs of the service.

use serde_json::{Value, json};

use super::super::book::Book;
use super::super::wire::page::Element as _;
use super::*;

const VM_ID: &str = "4468b400-1393-4d08-a81e-0e3c19c04a0b";

fn item(active: &str) -> Item {
    Item::read(
        &json!({"id": "/replicationFabrics/site/replicationProtectedItems/i", "properties": {
            "friendlyName": "web",
            "activeLocation": active,
            "providerSpecificDetails": {"vmId": VM_ID},
        }}),
    )
    .unwrap()
}

#[allow(clippy::needless_pass_by_value)] // `json!` stands where it is asked
fn told(scenario: &str, state: &str, more: Value) -> Told {
    let mut job = json!({"name": "j", "properties": {
        "scenarioName": scenario,
        "state": state,
        "targetObjectId": VM_ID,
        "targetInstanceType": "ProtectionEntity",
        "allowedActions": ["Cancel"],
    }});
    for (name, value) in more.as_object().unwrap() {
        job["properties"][name] = value.clone();
    }
    Told::read(&job).unwrap()
}

fn read(told: &Told) -> Job {
    job(told, &item("Recovery"))
}

#[test]
fn what_a_job_does_by_its_scenario() {
    let rows = [
        ("Failback", JobKind::Failback),
        ("CommitFailover", JobKind::Commit),
        ("FinalizeFailback", JobKind::Commit),
        ("ReprotectReplicationGroup", JobKind::Reprotect),
        ("ReverseReplication", JobKind::Reprotect),
        ("TestFailover", JobKind::Other),
        ("IrCompletion", JobKind::Other),
        ("RestoreCompletion", JobKind::Other),
        ("", JobKind::Other),
    ];
    for (scenario, does) in rows {
        assert_eq!(
            read(&told(scenario, "InProgress", json!({}))).does,
            does,
            "{scenario}"
        );
    }
}

#[test]
fn the_direction_is_told_by_the_fabrics_before_all_else() {
    let fabrics = |from: &str, to: &str| {
        json!({"customDetails": {"affectedObjectDetails": {
            "PrimaryFabricProviderId": from, "RecoveryFabricProviderId": to,
        }}})
    };
    let back = told(
        "PlannedFailover",
        "InProgress",
        fabrics("Azure", "HyperVSite"),
    );
    let there = told(
        "PlannedFailover",
        "InProgress",
        fabrics("HyperVSite", "Azure"),
    );
    for active in ["Primary", "Recovery", ""] {
        assert_eq!(
            job(&back, &item(active)).does,
            JobKind::Failback,
            "{active}"
        );
        assert_eq!(
            job(&there, &item(active)).does,
            JobKind::Failover,
            "{active}"
        );
    }
}

#[test]
fn the_direction_is_told_by_the_tasks_where_the_fabrics_are_not() {
    for name in [
        "AzureVmFailbackPrerequisitesCheck",
        "PrepareVmOnPremForFailback",
        "InitiateDataSync",
        "MonitorDataSync",
        "WaitForUserInputForFailback",
        "StartAzureVmFailback",
    ] {
        let tasks = json!({"tasks": [{"name": name, "state": "InProgress"}]});
        let back = told("PlannedFailover", "InProgress", tasks);
        assert_eq!(
            job(&back, &item("Primary")).does,
            JobKind::Failback,
            "{name}"
        );
    }
    let tasks = json!({"tasks": [{"name": "VmFailover", "state": "InProgress"}]});
    let there = told("PlannedFailover", "InProgress", tasks);
    assert_eq!(job(&there, &item("Recovery")).does, JobKind::Failover);
}

#[test]
fn the_direction_of_a_job_that_tells_nothing_is_that_of_where_the_vm_is() {
    let bare = told("PlannedFailover", "InProgress", json!({}));
    assert_eq!(job(&bare, &item("Recovery")).does, JobKind::Failback);
    assert_eq!(job(&bare, &item("Primary")).does, JobKind::Failover);
}

#[test]
fn the_states_of_a_job() {
    let state = |state: &str| read(&told("Failback", state, json!({}))).state;
    assert_eq!(state("Succeeded"), JobState::Succeeded);
    assert_eq!(state("CompletedWithInformation"), JobState::Succeeded);
    assert_eq!(state("Cancelled"), JobState::Cancelled);
    assert_eq!(state("Cancelling"), JobState::Cancelling);
    assert!(matches!(state("Failed"), JobState::Failed { .. }));
    assert!(matches!(
        state("PartiallySucceeded"),
        JobState::Failed { .. }
    ));
    // An unknown state goes on, and so does one that is suspended without a way to go on.
    assert!(matches!(state("Levitating"), JobState::Running { .. }));
    assert!(matches!(state("Suspended"), JobState::Running { .. }));
    let waits = told(
        "Failback",
        "Suspended",
        json!({"allowedActions": ["Cancel", "Resume"]}),
    );
    assert_eq!(read(&waits).state, JobState::Waiting);
}

#[test]
fn s20_only_a_failback_that_has_stopped_nothing_can_be_cancelled() {
    let can = |told: &Told| read(told).state.can_be_cancelled();
    let tasks = |tasks: Value| json!({"tasks": tasks});
    let syncs = tasks(json!([{"name": "MonitorDataSync", "state": "InProgress"}]));
    assert!(can(&told("Failback", "InProgress", syncs.clone())));
    let mut forbidden = syncs.clone();
    forbidden["allowedActions"] = json!([]);
    assert!(!can(&told("Failback", "InProgress", forbidden)));
    let stops = tasks(
        json!([{"name": "StartAzureVmFailback", "state": "InProgress", "groupTaskCustomDetails": {"childTasks": [
            {"name": "ShutdownVmOnAzure", "state": "InProgress"},
        ]}}]),
    );
    assert!(!can(&told("Failback", "InProgress", stops)));
    let of_plan = tasks(json!([{"name": "ShutdownAllActionGroup", "state": "InProgress"}]));
    assert!(!can(&told("Failback", "InProgress", of_plan)));
    // A full download has no phase in which the VM runs.
    let full = tasks(json!([
        {"name": "MonitorDataSync", "state": "Other", "stateDescription": "Skipped"},
        {"name": "WaitForUserInputForFailback", "state": "Other", "stateDescription": "Skipped"},
        {"name": "StartAzureVmFailback", "state": "NotStarted"},
    ]));
    assert!(!can(&told("Failback", "InProgress", full)));
    // A cancelled failover to Azure leaves replication broken.
    let there = json!({"tasks": [{"name": "VmPfoPrerequisitesCheck", "state": "InProgress"}]});
    assert!(!can(&told("PlannedFailover", "InProgress", there)));
}

/// It has been told to go on: a cancel that is sent now comes after the stop.
#[test]
fn s20_a_failback_that_was_told_to_go_on_is_not_cancelled() {
    let goes_on = json!({"tasks": [
        {"name": "MonitorDataSync", "state": "Succeeded"},
        {"name": "WaitForUserInputForFailback", "state": "Succeeded"},
        {"name": "StartAzureVmFailback", "state": "InProgress", "groupTaskCustomDetails": {"childTasks": [
            {"name": "AzureVmFailbackPrerequisitesCheck", "state": "InProgress"},
            {"name": "ShutdownVmOnAzure", "state": "NotStarted"},
        ]}},
    ]});
    let job = read(&told("Failback", "InProgress", goes_on));
    assert!(!job.state.can_be_cancelled());
}

#[test]
fn what_follows_from_an_error_of_a_job() {
    let rows = [
        ("532", ErrorClass::Conflict),
        ("28031", ErrorClass::Capacity),
        ("25014", ErrorClass::Invalid),
        ("25017", ErrorClass::Invalid),
        ("25037", ErrorClass::Invalid),
        ("25038", ErrorClass::Invalid),
        ("539", ErrorClass::Unresponsive),
    ];
    for (code, expected) in rows {
        let error = json!({"serviceErrorDetails": {"code": code, "message": "why", "possibleCauses": "causes", "recommendedAction": "do"}, "errorLevel": "Error"});
        let failed = read(&told("Failback", "Failed", json!({"errors": [error]})));
        let JobState::Failed { class, message } = failed.state else {
            panic!("{code}: it failed");
        };
        assert_eq!(class, expected, "{code}");
        assert!(
            message.contains(&format!(
                "{code}: why Possible causes: causes Recommended: do"
            )),
            "{message}"
        );
    }
}

#[test]
fn warnings_of_a_job_that_was_done_are_told_and_do_not_make_it_fail() {
    let warning = json!({"serviceErrorDetails": {"code": "28175", "message": "renamed"}, "errorLevel": "Warning"});
    let done = read(&told(
        "PlannedFailover",
        "Succeeded",
        json!({"errors": [warning]}),
    ));
    assert_eq!(done.state, JobState::Succeeded);
    assert_eq!(done.remark.as_deref(), Some("28175: renamed"));
}

#[test]
fn the_job_of_a_plan_is_of_each_vm_that_is_in_it() {
    let child = |target: &str| {
        json!({"name": "group", "state": "InProgress", "groupTaskCustomDetails": {"childTasks": [
            {"name": "vm", "state": "InProgress", "customDetails": {"jobTask": {"jobId": "/replicationJobs/c", "targetObjectId": target}}},
        ]}})
    };
    let plan = |target: &str| {
        told(
            "Failback",
            "InProgress",
            json!({
                "targetInstanceType": "RecoveryPlan",
                "targetObjectId": "plan",
                "tasks": [child(target)],
            }),
        )
    };
    let mut book = Book::default();
    book.read(plan("4468B400-1393-4D08-A81E-0E3C19C04A0B"));
    assert_eq!(book.of_vm(Some(VM_ID), "web").len(), 1);
    assert_eq!(book.of_vm(Some("another"), "other").len(), 0);
    assert_eq!(
        book.of_vm(None, "web").len(),
        0,
        "a plan tells of identities only"
    );
}

/// The job of a plan, and that of this VM in it; `others` is what else the plan moves.
fn of_plan(state: &str, own: &str, others: &[&str]) -> (Told, Told) {
    let group = |(number, target): (usize, &&str)| {
        let job = json!({"jobId": format!("/replicationJobs/c{number}"), "targetObjectId": target});
        json!({"name": "MonitorDataSync", "state": "InProgress", "customDetails": {"jobTask": job}})
    };
    let members: Vec<&str> = [VM_ID].into_iter().chain(others.iter().copied()).collect();
    let tasks: Vec<_> = members.iter().enumerate().map(group).collect();
    let mut plan = told(
        "Failback",
        state,
        json!({
            "targetInstanceType": "RecoveryPlan",
            "targetObjectId": "plan",
            "targetObjectName": "plan-1",
            "allowedActions": ["Cancel", "Resume"],
            "tasks": tasks,
        }),
    );
    plan.name = "p".into();
    let target = json!({"targetInstanceType": "ProtectionEntity", "targetObjectId": VM_ID});
    let mut child = told("Failback", own, target);
    child.name = "C0".into();
    (plan, child)
}

fn seen_of_plan(
    state: &str,
    own: &str,
    others: &[&str],
) -> Vec<(String, JobState, Option<String>)> {
    let (plan, child) = of_plan(state, own, others);
    of_vm(&[&plan, &child], &item("Recovery"))
        .into_iter()
        .map(|job| (job.id, job.state, job.plan))
        .collect()
}

#[test]
fn s20_the_jobs_of_a_plan_say_that_other_vms_move_by_them() {
    let plan = || Some("plan-1".to_owned());
    let waits = [
        ("p".to_owned(), JobState::Waiting, plan()),
        ("C0".to_owned(), JobState::Waiting, plan()),
    ];
    assert_eq!(seen_of_plan("Suspended", "Suspended", &["other"]), waits);
    // What broke off before it came to this VM is told of in the plan's job.
    let broken = seen_of_plan("Failed", "Cancelled", &["other"]);
    assert!(matches!(broken[1].1, JobState::Failed { .. }), "{broken:?}");
    let cancelled = seen_of_plan("Cancelled", "Cancelled", &["other"]);
    assert_eq!(cancelled[1].1, JobState::Cancelled);
}

#[test]
fn a_plan_that_moves_one_vm_is_a_job_of_that_vm() {
    let alone = [("p".to_owned(), JobState::Waiting, None)];
    assert_eq!(seen_of_plan("Suspended", "Suspended", &[]), alone);
}

#[test]
fn what_a_list_tells_does_not_take_away_what_was_read() {
    let mut book = Book::default();
    let tasks = json!({"tasks": [{"name": "MonitorDataSync", "state": "InProgress"}]});
    book.read(told("PlannedFailover", "InProgress", tasks));
    book.listed(vec![told("PlannedFailover", "Suspended", json!({}))]);
    let known = book.get("J").unwrap();
    assert_eq!(known.state, "Suspended");
    assert_eq!(known.tasks.len(), 1);
    assert!(book.wants("j"), "it goes on");
    book.read(told("PlannedFailover", "Succeeded", json!({})));
    assert!(!book.wants("j"));
    // A list that was begun before knows less.
    book.listed(vec![told("PlannedFailover", "InProgress", json!({}))]);
    assert_eq!(book.get("j").unwrap().state, "Succeeded");
}

#[test]
fn a_job_that_failed_after_the_stop_says_that_the_vm_may_be_down() {
    let rows = [("NotStarted", false), ("Succeeded", true), ("Failed", true)];
    for (state, expected) in rows {
        let tasks = json!({"tasks": [{"name": "VmShutdownVmOnPrimary", "state": state}]});
        let job = read(&told("PlannedFailover", "Failed", tasks));
        let JobState::Failed { message, .. } = job.state else {
            panic!("{state}: it failed");
        };
        let says = message.contains("had been told to stop");
        assert_eq!(says, expected, "{state}: {message}");
    }
}
