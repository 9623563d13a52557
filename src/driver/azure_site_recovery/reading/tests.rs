//! The states of an item, as they were recorded, published or have to be expected, and what is read from each.

mod held;
mod lost;

use serde_json::{Value, json};

use super::super::wire::job::Job as ToldJob;
use super::super::wire::page::Element as _;
use super::*;

const VAULT: &str =
    "/Subscriptions/s/resourceGroups/g/providers/Microsoft.RecoveryServices/vaults/v";
const VM_ID: &str = "4468b400-1393-4d08-a81e-0e3c19c04a0b";

fn now() -> Timestamp {
    "2026-01-02T12:00:00Z".parse().unwrap()
}

fn item(state: &str, active: &str, allowed: &[&str]) -> Value {
    let fabric = format!("{VAULT}/replicationFabrics/site");
    json!({
        "id": format!("{fabric}/replicationProtectionContainers/c/replicationProtectedItems/i"),
        "name": "i",
        "properties": {
            "friendlyName": "web",
            "protectionState": state,
            "protectionStateDescription": "in words",
            "activeLocation": active,
            "testFailoverState": "None",
            "allowedOperations": allowed,
            "replicationHealth": "Normal",
            "currentScenario": {"scenarioName": "None", "jobId": format!("{VAULT}/replicationJobs/None")},
            "recoveryServicesProviderId": format!("{fabric}/replicationRecoveryServicesProviders/p"),
            "providerSpecificDetails": {
                "instanceType": "HyperVReplicaAzure",
                "vmId": VM_ID,
                "lastRecoveryPointReceived": "2026-01-02T11:55:00Z",
            },
        },
    })
}

fn provider(connected: bool, beat: &str) -> Value {
    let id = format!("{VAULT}/replicationFabrics/site/replicationRecoveryServicesProviders/p");
    json!({"id": id, "name": "p", "properties": {
        "fabricType": "HyperVSite",
        "friendlyName": "host-1",
        "connectionStatus": if connected { "Connected" } else { "NotConnected" },
        "lastHeartBeat": beat,
    }})
}

/// A job of the VM; tasks as (name, state).
fn job(name: &str, scenario: &str, state: &str, tasks: &[(&str, &str)]) -> Value {
    let started = format!("2026-01-02T11:{:02}:00Z", 10 + name.len());
    let tasks: Vec<Value> = tasks
        .iter()
        .map(|(name, state)| match *state {
            "Skipped" => json!({"name": name, "state": "Other", "stateDescription": "Skipped"}),
            state => json!({"name": name, "state": state, "stateDescription": state}),
        })
        .collect();
    json!({"name": name, "properties": {
        "scenarioName": scenario,
        "friendlyName": scenario,
        "state": state,
        "startTime": started,
        "allowedActions": if state == "Suspended" { json!(["Cancel", "Resume"]) } else { json!(["Cancel"]) },
        "targetObjectId": VM_ID,
        "targetInstanceType": "ProtectionEntity",
        "tasks": tasks,
    }})
}

fn from_azure(mut job: Value) -> Value {
    job["properties"]["customDetails"] = json!({"affectedObjectDetails": {
        "PrimaryFabricProviderId": "Azure", "RecoveryFabricProviderId": "HyperVSite",
    }});
    job
}

fn see_all(items: &[Value], jobs: &[Value], provider: &Value) -> VaultObservation {
    let mut book = Book::default();
    for job in jobs {
        book.read(ToldJob::read(job).unwrap());
    }
    let items: Vec<Item> = items.iter().map(|item| Item::read(item).unwrap()).collect();
    vault(&Told {
        missing_permissions: &[],
        items: &items,
        providers: &[Provider::read(provider).unwrap()],
        book: &book,
        looked: now(),
        listed: now(),
        server_time: Some(now()),
        fabric: None,
        now: now(),
    })
}

fn see(item: Value, jobs: &[Value]) -> VmObservation {
    see_all(&[item], jobs, &provider(true, "2026-01-02T11:59:00Z")).vms["web"].clone()
}

const STEADY: [&str; 4] = [
    "PlannedFailover",
    "UnplannedFailover",
    "DisableProtection",
    "TestFailover",
];
const FAILED_OVER: [&str; 4] = [
    "CompleteMigration",
    "Commit",
    "DisableProtection",
    "ChangePit",
];
const COMMITTED: [&str; 3] = ["CompleteMigration", "DisableProtection", "Failback"];

const HERE: Stage = Stage::Settled {
    site: Site::OnPremises,
};
const THERE: Stage = Stage::Settled { site: Site::Azure };

fn started(to: Site) -> Stage {
    Stage::TargetStarted { to, as_left: true }
}

/// The state of protection, for a table.
fn protected(vm: &VmObservation) -> Option<(Site, ProtectionState)> {
    let protection = vm.protection.known()?;
    Some((protection.from, protection.state.clone()))
}

#[test]
fn each_row_of_the_state_table() {
    use ProtectionState::{Replicating, Seeding};
    let here = |state| Some((Site::OnPremises, state));
    // State, active location, what may be done, where it stands, how it is protected, and whether something holds a move.
    type Row = (
        &'static str,
        &'static str,
        &'static [&'static str],
        Stage,
        Option<(Site, ProtectionState)>,
        bool,
    );
    let rows: Vec<Row> = vec![
        (
            "InitialReplicationInProgress",
            "Primary",
            &["DisableProtection"],
            HERE,
            here(Seeding),
            false,
        ),
        (
            "InitialReplicationRecoveryCompletionPending",
            "Primary",
            &["DisableProtection"],
            HERE,
            here(Seeding),
            false,
        ),
        (
            "Protected",
            "Primary",
            &STEADY,
            HERE,
            here(Replicating),
            false,
        ),
        (
            "Protected",
            "Primary",
            &["RepairReplication", "DisableProtection"],
            HERE,
            here(Replicating),
            true,
        ),
        (
            "PlannedFailoverCommitRequired",
            "Recovery",
            &FAILED_OVER,
            started(Site::Azure),
            None,
            false,
        ),
        (
            "UnplannedFailoverCommitPendingStatesBegin",
            "Recovery",
            &FAILED_OVER,
            started(Site::Azure),
            None,
            false,
        ),
        (
            "PlannedFailoverStatesBegin",
            "Recovery",
            &COMMITTED,
            THERE,
            None,
            false,
        ),
        (
            "UnplannedFailoverStatesBegin",
            "Recovery",
            &COMMITTED,
            THERE,
            None,
            false,
        ),
        // Some versions call the way back a planned failover, too.
        (
            "PlannedFailoverStatesBegin",
            "Recovery",
            &["CompleteMigration", "DisableProtection", "PlannedFailover"],
            THERE,
            None,
            false,
        ),
        (
            "RestoreCompleted",
            "Primary",
            &["FinalizeFailback", "DisableProtection"],
            started(Site::OnPremises),
            None,
            false,
        ),
        (
            "RestoreCompleted",
            "Recovery",
            &["FinalizeFailback", "DisableProtection"],
            started(Site::OnPremises),
            None,
            false,
        ),
        (
            "RestoreCompleted",
            "Primary",
            &["Commit", "DisableProtection"],
            started(Site::OnPremises),
            None,
            false,
        ),
        (
            "RestoreFinalized",
            "Primary",
            &["ReverseReplicate", "DisableProtection"],
            HERE,
            None,
            false,
        ),
        (
            "UnplannedFailoverCompletionFailed",
            "Primary",
            &["UnplannedFailover", "DisableProtection"],
            HERE,
            here(Seeding),
            true,
        ),
    ];
    for (state, active, allowed, stage, protection, held) in rows {
        let vm = see(item(state, active, allowed), &[]);
        let row = format!("{state} {active} {allowed:?}");
        assert_eq!(vm.stage, Fact::Known(stage), "{row}");
        assert_eq!(protected(&vm), protection, "{row}");
        assert_eq!(
            !vm.protection_obstacles.is_empty(),
            held,
            "{row}: {:?}",
            vm.protection_obstacles
        );
    }
}

#[test]
fn what_does_not_say_where_the_vm_runs_is_a_contradiction_and_not_guessed() {
    let vm = see(item("SomethingNew", "", &[]), &[]);
    assert!(matches!(vm.stage, Fact::Known(Stage::Contradiction { .. })));
    // A commit is wanted, of what nobody tells: not by its operation, not by a job, not by the side that is called active.
    let vm = see(item("SomethingNew", "Recovery", &["Commit"]), &[]);
    assert!(matches!(vm.stage, Fact::Known(Stage::Contradiction { .. })));
}

#[test]
fn the_newest_move_that_has_ended_says_what_a_commit_is_of() {
    let back = from_azure(job("b", "PlannedFailover", "Succeeded", &[]));
    let there = job(
        "there",
        "PlannedFailover",
        "Succeeded",
        &[("VmFailover", "Succeeded")],
    );
    let item = || item("SomethingNew", "Recovery", &["Commit"]);
    assert_eq!(
        see(item(), std::slice::from_ref(&back)).stage,
        Fact::Known(started(Site::OnPremises))
    );
    assert_eq!(
        see(item(), &[back, there]).stage,
        Fact::Known(started(Site::Azure))
    );
}

#[test]
fn two_items_of_one_name_contradict_each_other() {
    let mut other = item("Protected", "Primary", &STEADY);
    other["id"] = json!(format!(
        "{VAULT}/replicationFabrics/b/replicationProtectionContainers/c/replicationProtectedItems/j"
    ));
    let all = see_all(
        &[item("Protected", "Primary", &STEADY), other],
        &[],
        &provider(true, "2026-01-02T11:59:00Z"),
    );
    assert!(matches!(
        all.vms["web"].stage,
        Fact::Known(Stage::Contradiction { .. })
    ));
}

#[test]
fn a_failover_under_way_stands_at_its_source_until_it_stops_the_vm() {
    let rows = [
        (vec![("VmPfoPrerequisitesCheck", "InProgress")], HERE),
        (
            vec![
                ("VmPfoPrerequisitesCheck", "Succeeded"),
                ("VmShutdownVmOnPrimary", "InProgress"),
            ],
            Stage::SourceFenced {
                from: Site::OnPremises,
            },
        ),
        (vec![("VmShutdownVmOnPrimary", "NotStarted")], HERE),
        (vec![("VmShutdownVmOnPrimary", "Skipped")], HERE),
    ];
    for (tasks, stage) in rows {
        let vm = see(
            item("Protected", "Primary", &[]),
            &[job("f", "PlannedFailover", "InProgress", &tasks)],
        );
        assert_eq!(vm.stage, Fact::Known(stage), "{tasks:?}");
    }
}

#[test]
fn a_failback_under_way_and_at_its_pause() {
    let sync = [
        ("InitiateDataSync", "Succeeded"),
        ("MonitorDataSync", "InProgress"),
    ];
    let runs = see(
        item("PlannedFailoverStatesBegin", "Recovery", &[]),
        &[from_azure(job("f", "PlannedFailover", "InProgress", &sync))],
    );
    assert_eq!(runs.stage, Fact::Known(THERE));
    assert_eq!(
        protected(&runs),
        Some((Site::Azure, ProtectionState::Seeding))
    );
    assert_eq!(runs.protection.known().unwrap().last_whole, None);
    assert_eq!(
        runs.jobs.unwrap().all[0].state,
        JobState::Running { cancellable: true }
    );

    let waits = see(
        item("PlannedFailoverStatesBegin", "Recovery", &[]),
        &[from_azure(job("f", "PlannedFailover", "Suspended", &sync))],
    );
    assert_eq!(
        protected(&waits),
        Some((Site::Azure, ProtectionState::Replicating))
    );
    assert!(waits.protection.known().unwrap().last_whole.is_some());

    let stops = see(
        item("PlannedFailoverStatesBegin", "Recovery", &[]),
        &[from_azure(job(
            "f",
            "PlannedFailover",
            "InProgress",
            &[("ShutdownVmOnAzure", "InProgress")],
        ))],
    );
    assert_eq!(
        stops.stage,
        Fact::Known(Stage::SourceFenced { from: Site::Azure })
    );
    assert_eq!(stops.protection, Fact::Absent);

    let cancelling = see(
        item("PlannedFailoverStatesBegin", "Recovery", &[]),
        &[from_azure(job("f", "PlannedFailover", "Cancelling", &sync))],
    );
    assert_eq!(cancelling.protection, Fact::Absent);
}

/// S8: the job that completes the data synchronisation is the newer one, and says nothing of where the VM stands.
#[test]
fn s08_a_side_job_of_a_failback_does_not_hide_it() {
    let stops = from_azure(job(
        "f",
        "PlannedFailover",
        "InProgress",
        &[("ShutdownVmOnAzure", "Succeeded")],
    ));
    let side = job("side", "RestoreCompletion", "InProgress", &[]);
    let vm = see(
        item("PlannedFailoverStatesBegin", "Recovery", &[]),
        &[stops, side],
    );
    assert_eq!(
        vm.stage,
        Fact::Known(Stage::SourceFenced { from: Site::Azure })
    );
    assert_eq!(vm.obstacles, Vec::<String>::new());
}

/// S8: what was asked for while another job held the VM is accepted, and fails a moment later.
#[test]
fn s08_a_failover_that_cannot_be_done_does_not_move_the_vm() {
    let waits = from_azure(job(
        "f",
        "PlannedFailover",
        "Suspended",
        &[("MonitorDataSync", "Succeeded")],
    ));
    let doomed = job(
        "doomed",
        "UnplannedFailover",
        "InProgress",
        &[("VmUfoPrerequisitesCheck", "InProgress")],
    );
    let both = [waits, doomed];
    let mut names = item("PlannedFailoverStatesBegin", "Recovery", &[]);
    names["properties"]["currentScenario"] =
        json!({"scenarioName": "PlannedFailover", "jobId": format!("{VAULT}/replicationJobs/F")});
    for item in [item("PlannedFailoverStatesBegin", "Recovery", &[]), names] {
        let vm = see(item, &both);
        assert_eq!(vm.stage, Fact::Known(THERE));
        assert_eq!(
            protected(&vm),
            Some((Site::Azure, ProtectionState::Replicating))
        );
    }
    // A move that has stopped its source may be ahead of what the item is called.
    let ends = job(
        "f",
        "PlannedFailover",
        "InProgress",
        &[("VmShutdownVmOnPrimary", "Succeeded")],
    );
    let vm = see(
        item("PlannedFailoverCommitRequired", "Recovery", &[]),
        &[ends],
    );
    assert_eq!(
        vm.stage,
        Fact::Known(Stage::SourceFenced {
            from: Site::OnPremises
        })
    );
}

/// S8: nothing waits for a commit; that it was asked for does not make the VM uncommitted.
#[test]
fn s08_a_commit_that_cannot_be_done_takes_nothing_back() {
    let there = job(
        "there",
        "PlannedFailover",
        "Succeeded",
        &[("VmFailover", "Succeeded")],
    );
    let doomed = job("doomed-commit", "CommitFailover", "InProgress", &[]);
    let vm = see(
        item("PlannedFailoverStatesBegin", "Recovery", &COMMITTED),
        &[there, doomed],
    );
    assert_eq!(vm.stage, Fact::Known(THERE));
}

#[test]
fn a_commit_under_way_stands_where_the_move_went() {
    let back = from_azure(job("b", "PlannedFailover", "Succeeded", &[]));
    let commit = job("commit", "FinalizeFailback", "InProgress", &[]);
    let vm = see(item("RestoreCompleted", "Primary", &[]), &[back, commit]);
    assert_eq!(vm.stage, Fact::Known(started(Site::OnPremises)));
}

/// Invariant 4: what was begun to be written over and did not become whole must not be started.
#[test]
fn a_sync_that_was_broken_off_leaves_a_copy_that_must_not_be_started() {
    let wrote = [
        ("InitiateDataSync", "Succeeded"),
        ("MonitorDataSync", "Cancelled"),
    ];
    let in_azure = || item("PlannedFailoverStatesBegin", "Recovery", &COMMITTED);
    for state in ["Cancelled", "Failed"] {
        let broken = from_azure(job("f", "PlannedFailover", state, &wrote));
        let vm = see(in_azure(), std::slice::from_ref(&broken));
        assert_eq!(vm.target_consistent, Fact::Known(false), "{state}");
        assert!(
            vm.inconsistent_because.unwrap().contains("job f"),
            "{state}"
        );
    }
    // Nothing had been written yet.
    let early = from_azure(job(
        "f",
        "PlannedFailover",
        "Failed",
        &[("InitiateDataSync", "NotStarted")],
    ));
    assert_eq!(
        see(in_azure(), &[early]).target_consistent,
        Fact::Known(true)
    );
    // What was asked for since and failed at once says nothing of it.
    let broken = from_azure(job("f", "PlannedFailover", "Cancelled", &wrote));
    for does in ["PlannedFailover", "Failback"] {
        let doomed = job(
            "doomed",
            does,
            "Failed",
            &[("VmPfoPrerequisitesCheck", "Failed")],
        );
        let vm = see(in_azure(), &[broken.clone(), doomed]);
        assert_eq!(vm.target_consistent, Fact::Known(false), "{does}");
    }
    // It has come back since.
    let broken = from_azure(job("f", "PlannedFailover", "Cancelled", &wrote));
    let whole = from_azure(job("later", "PlannedFailover", "Succeeded", &wrote));
    let home = see(
        item("RestoreFinalized", "Primary", &["ReverseReplicate"]),
        &[broken, whole],
    );
    assert_eq!(home.target_consistent, Fact::Known(true));
}

#[test]
fn bad_health_is_told_in_the_words_of_the_service() {
    let mut sick = item("Protected", "Primary", &STEADY);
    sick["properties"]["replicationHealth"] = json!("Critical");
    sick["properties"]["healthErrors"] = json!([
        {"errorCode": "1", "errorLevel": "Warning", "errorMessage": "a little"},
        {"errorCode": "67501", "errorLevel": "Error", "errorMessage": "trouble", "recommendedAction": "mend it"},
    ]);
    let Some((_, ProtectionState::Failing(why))) = protected(&see(sick, &[])) else {
        panic!("it fails");
    };
    assert_eq!(why, "67501: trouble Recommended: mend it");
}
