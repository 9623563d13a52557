use homeward_asr_emulator::{
    Button, DataSync, Fault, JobError, JobFailure, JobState, OperationWarning, Outcome, Phase,
    Rule, Scenario, Settings, Throttle,
};
use serde_json::{Value, json};

use crate::client::{Client, task, to_azure, to_premises};

fn failover(client: &mut Client) -> Outcome {
    let id = client.service.item_id("vm-1").unwrap();
    let request = client
        .request("POST", &format!("{id}/plannedFailover"))
        .json(&to_azure());
    client.service.submit(&request, client.now)
}

fn status(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Answer(response) => response.status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_befalls_the_request_it_names() {
    let mut client = Client::new();
    let mut rule = Rule::next(
        "POST",
        "plannedfailover",
        Fault::Throttle {
            retry_after: Some(7),
        },
    );
    rule.nth = 2;
    client.service.add_rule(rule).unwrap();
    let mut rule = Rule::next("POST", "/plannedFailover\\?", Fault::Status { status: 503 });
    rule.nth = 3;
    client.service.add_rule(rule).unwrap();
    assert_eq!(status(&failover(&mut client)), 202);
    let Outcome::Answer(second) = failover(&mut client) else {
        panic!()
    };
    assert_eq!((second.status, second.get("retry-after")), (429, Some("7")));
    assert_eq!(client.service.jobs().len(), 1);
    assert!(
        client
            .service
            .add_rule(Rule::next("GET", "(", Fault::DropBefore))
            .is_err()
    );
    let records: Vec<_> = client.service.requests().collect();
    let last = records.last().unwrap();
    assert_eq!(
        (last.fault.as_deref(), last.acted),
        (Some("throttle"), false)
    );
}

#[test]
fn an_answer_can_be_lost_before_or_after_the_deed() {
    let mut client = Client::new();
    let rule = |fault| Rule::next("POST", "plannedFailover", fault);
    client.service.add_rule(rule(Fault::DropBefore)).unwrap();
    assert!(matches!(failover(&mut client), Outcome::Dropped));
    assert!(client.service.jobs().is_empty());
    client.service.add_rule(rule(Fault::DropAfter)).unwrap();
    assert!(matches!(failover(&mut client), Outcome::Dropped));
    assert_eq!(client.service.jobs().len(), 1);
    let last = client.service.requests().last().unwrap();
    assert_eq!((last.status, last.acted), (None, true));
    assert_eq!(last.job.as_ref(), Some(&client.service.jobs()[0].name));
}

#[test]
fn an_answer_can_deny_the_deed() {
    let mut client = Client::new();
    let rule = Rule::next(
        "POST",
        "plannedFailover",
        Fault::StatusAfter { status: 500 },
    );
    client.service.add_rule(rule).unwrap();
    assert_eq!(status(&failover(&mut client)), 500);
    assert_eq!(client.service.jobs().len(), 1);
    let last = client.service.requests().last().unwrap();
    assert_eq!((last.status, last.acted), (Some(500), true));
}

#[test]
fn a_held_request_acts_later() {
    let mut client = Client::new();
    let hold = |millis| Rule::next("POST", "plannedFailover", Fault::Hold { millis });
    client.service.add_rule(hold(Some(10_000))).unwrap();
    assert!(matches!(failover(&mut client), Outcome::Dropped));
    client.pass(9_000);
    assert!(client.service.jobs().is_empty());
    client.settle();
    assert_eq!(
        client.service.phase("vm-1"),
        Some(Phase::FailedOver { planned: true })
    );
    client.service.add_rule(hold(None)).unwrap();
    assert!(matches!(failover(&mut client), Outcome::Dropped));
    client.settle();
    assert_eq!(client.service.held().len(), 1);
    let now = client.now;
    assert_eq!(client.service.release(None, now), 1);
    client.settle();
    assert_eq!(
        client.service.jobs().last().unwrap().error.as_deref(),
        Some("25014")
    );
}

#[test]
fn a_job_fails_where_a_test_wants_it() {
    let mut client = Client::new();
    client.service.fail_job(JobFailure {
        scenario: Scenario::PlannedFailover,
        item: Some("vm-1".into()),
        task: "VmFoStartVmOnSecondary".into(),
        error: JobError::new(
            "28031",
            "The virtual machine could not be created.",
            "No quota.",
            "Ask for quota.",
        ),
    });
    assert_eq!(
        client.finish("vm-2", "plannedFailover", &to_azure())["state"],
        "Succeeded"
    );
    let job = client.finish("vm-1", "plannedFailover", &to_azure());
    assert_eq!(job["state"], "Failed");
    let error = &job["errors"][0]["serviceErrorDetails"];
    assert_eq!(error["code"], "28031");
    assert_eq!(error["recommendedAction"], "Ask for quota.");
    let failed = task(&job, "VmFoStartVmOnSecondary");
    assert_eq!(failed["errors"][0]["serviceErrorDetails"]["code"], "28031");
    assert_eq!(task(&job, "VmFailover")["state"], "Succeeded");
    // The item can be failed over again, and its VM runs nowhere.
    assert_eq!(client.runs("vm-1"), (false, false));
    assert_eq!(
        client.finish("vm-1", "plannedFailover", &to_azure())["state"],
        "Succeeded"
    );
}

#[test]
fn a_warning_does_not_change_the_end() {
    let mut client = Client::new();
    client.service.warn(OperationWarning {
        scenario: Scenario::PlannedFailover,
        code: "28175".into(),
        message: "The name was changed.".into(),
    });
    let name = client.act("vm-1", "plannedFailover", &to_azure());
    client.pass(1_000);
    let running = client.get(&format!("/replicationOperationStatus/{name}"));
    assert_eq!(
        (&running["status"], &running["error"]["code"]),
        (&"InProgress".into(), &"28175".into())
    );
    client.settle();
    let ended = client.get(&format!("/replicationOperationStatus/{name}"));
    assert_eq!(
        (&ended["status"], &ended["error"]["code"]),
        (&"Succeeded".into(), &"28175".into())
    );
}

#[test]
fn requests_beyond_the_limit_are_told_when_to_come_again() {
    let settings = Settings {
        throttle: Some(Throttle {
            reads: 3,
            reads_per_second: 1,
            ..Throttle::default()
        }),
        ..Settings::default()
    };
    let seed = homeward_asr_emulator::Seed::of(homeward_asr_emulator::FabricKind::HyperVSite, 1);
    let mut client = Client::with(&seed, settings);
    for _ in 0..3 {
        client.get("/replicationFabrics");
    }
    let response = client.send(&client.request("GET", "/replicationFabrics"));
    assert_eq!(response.status, 429);
    assert_eq!(response.get("retry-after"), Some("1"));
    client.pass(1_000);
    client.get("/replicationFabrics");
}

#[test]
fn a_person_presses_the_same_buttons() {
    let mut client = Client::new();
    let job = client
        .press(&Button::PlannedFailover {
            item: "vm-1".into(),
        })
        .unwrap();
    client.settle();
    assert_eq!(client.job(&job)["state"], "Succeeded");
    client.press(&Button::Commit {
        item: "vm-1".into(),
    });
    client.settle();
    client.press(&Button::Rename {
        vm: "vm-1".into(),
        to: "renamed".into(),
    });
    assert_eq!(client.item("renamed")["friendlyName"], "renamed");
    let job = client
        .press(&serde_json::from_value(json!({ "press": "failback", "item": "renamed" })).unwrap())
        .unwrap();
    client.settle();
    assert_eq!(client.job(&job)["state"], "Suspended");
    client.press(&Button::Resume { job: job.clone() });
    client.settle();
    assert_eq!(client.job(&job)["state"], "Succeeded");
    client.press(&Button::Disable {
        item: "renamed".into(),
    });
    client.settle();
    assert_eq!(client.service.phase("renamed"), None);
}

#[test]
fn a_silent_host_fails_a_failback_and_not_an_unplanned_failover() {
    let mut client = Client::new();
    client.move_to_azure("vm-1");
    let now = client.now;
    client.service.silence("hv-1.example.test", Some(now));
    let job = client.finish(
        "vm-1",
        "plannedFailover",
        &to_premises("ForDownTime", "NoAction"),
    );
    assert_eq!(job["errors"][0]["serviceErrorDetails"]["code"], "539");
    client.service.silence("hv-1.example.test", None);
    let job = client.finish(
        "vm-1",
        "plannedFailover",
        &to_premises("ForDownTime", "NoAction"),
    );
    assert_eq!(job["state"], "Suspended");
    client.service.silence("hv-2.example.test", Some(now));
    client.press(&Button::Power {
        vm: "vm-2".into(),
        site: homeward_asr_emulator::Site::OnPremises,
        on: false,
    });
    let mut body = to_azure();
    body["properties"]["sourceSiteOperations"] = "Required".into();
    assert_eq!(
        client.finish("vm-2", "unplannedFailover", &body)["state"],
        "Succeeded"
    );
    assert!(client.service.violations().is_empty());
    let _: Value = client.get("/replicationVaultHealth");
}

#[test]
fn a_job_that_was_purged_is_told_of_nowhere_and_goes_on() {
    let mut client = Client::new();
    client.press(&Button::PlannedFailover {
        item: "vm-1".into(),
    });
    client.settle();
    let jobs = client.service.jobs();
    let job = &jobs.last().unwrap().name;
    assert!(client.service.purge_job(job));
    assert!(!client.service.purge_job("nothing"));
    let listed = client.get("/replicationJobs");
    assert_eq!(listed["value"], serde_json::json!([]));
    let phase = client.service.phase("vm-1");
    assert_eq!(phase, Some(Phase::FailedOver { planned: true }));
}

/// What waits for a person is out of reach by its name; the item still names it.
#[test]
fn a_job_that_was_purged_while_it_waits_can_be_steered_by_no_request() {
    let mut client = Client::new();
    client.finish("vm-1", "plannedFailover", &to_azure());
    client.finish("vm-1", "failoverCommit", &Value::Null);
    client.press(&Button::Failback {
        item: "vm-1".into(),
        data_sync: DataSync::ForDownTime,
        create: false,
    });
    client.settle();
    let jobs = client.service.jobs();
    let waits = jobs.iter().find(|job| job.state == JobState::Suspended);
    let job = waits.unwrap().name.clone();
    client.service.purge_job(&job);
    for verb in ["resume", "cancel"] {
        let answer = client.post(&format!("/replicationJobs/{job}/{verb}"), &json!({}));
        assert_eq!(answer.status, 404, "{verb}");
    }
    let id = client.service.item_id("vm-1").unwrap();
    let named = client.get(&id)["properties"]["currentScenario"]["jobId"].clone();
    assert!(named.as_str().unwrap().ends_with(&job), "{named}");
    client.press(&Button::Resume { job: job.clone() });
    client.settle();
    assert_eq!(client.service.phase("vm-1"), Some(Phase::FailedBack));
}

#[test]
fn a_silence_that_nobody_has_noticed_shows_in_the_heartbeat_alone() {
    let mut client = Client::new();
    let now = client.now;
    assert!(
        client
            .service
            .silence_unnoticed("hv-1.example.test", Some(now))
    );
    client.pass(1_800_000);
    let providers = client.get("/replicationRecoveryServicesProviders");
    let quiet = &providers["value"][0]["properties"];
    assert_eq!(quiet["connectionStatus"], "Connected");
    assert_eq!(quiet["healthErrorDetails"], serde_json::json!([]));
    let beat = quiet["lastHeartBeat"].as_str().unwrap();
    assert!(beat.starts_with("2026-03-01T08:00:00"), "{beat}");
    let job = client.finish("vm-1", "plannedFailover", &to_azure());
    assert_eq!(job["errors"][0]["serviceErrorDetails"]["code"], "539");
}
