//! Random walks: whatever comes in which order, the service stays sound, and a client that keeps to what is offered
//! does no harm.

use homeward_asr_emulator::{
    Assumptions, FabricKind, JobError, JobFailure, JobState, Scenario, Seed, Service, Settings,
};
use serde_json::{Value, json};

use crate::client::{Client, to_azure, to_premises, words};

/// Numbers that are drawn from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // Knuth's multiplier; the high half is the better one.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

fn failback(dice: &mut Dice) -> Value {
    to_premises(
        ["ForDownTime", "ForSynchronization"][dice.roll(2)],
        ["NoAction", "CreateVmIfNotFound"][dice.roll(2)],
    )
}

/// The request that belongs to an operation an item offers.
fn request_for(offer: &str, item: &Value, dice: &mut Dice) -> Option<(&'static str, Value)> {
    let away = item["activeLocation"] == "Recovery";
    Some(match offer {
        "PlannedFailover" if away => ("plannedFailover", failback(dice)),
        "Failback" => ("plannedFailover", failback(dice)),
        "PlannedFailover" => ("plannedFailover", to_azure()),
        "Commit" | "FinalizeFailback" => ("failoverCommit", Value::Null),
        "ReverseReplicate" => ("reProtect", to_azure()),
        "TestFailover" => ("testFailover", to_azure()),
        "TestFailoverCleanup" => (
            "testFailoverCleanup",
            json!({ "properties": { "comments": "" } }),
        ),
        "RepairReplication" => ("repairReplication", Value::Null),
        _ => return None,
    })
}

/// Steers the jobs that ask for it, some of them back.
fn steer(client: &mut Client, dice: &mut Dice) {
    let open = "JobStatus%20eq%20%27InProgress%27%20or%20JobStatus%20eq%20%27Suspended%27";
    let jobs = client.get(&format!("/replicationJobs?$filter={open}"));
    for job in jobs["value"].as_array().unwrap() {
        let name = job["name"].as_str().unwrap();
        let allowed = words(&job["properties"]["allowedActions"]);
        let back = job["properties"]["scenarioName"] == "PlannedFailover";
        let verb = if allowed.contains(&"Resume") && dice.roll(2) == 0 {
            "resume"
        } else if allowed.contains(&"Cancel") && back && dice.roll(8) == 0 {
            "cancel"
        } else {
            continue;
        };
        let body = json!({ "properties": { "comments": "" } });
        let response = client.post(&format!("/replicationJobs/{name}/{verb}"), &body);
        assert_eq!(response.status, 202);
    }
}

#[test]
fn a_client_that_does_what_is_offered_does_no_harm() {
    let (mut home, mut cancelled) = (0, 0);
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let kind = [FabricKind::HyperVSite, FabricKind::Vmm][dice.roll(2)];
        // An Azure VM that stays down after a cancel is what an operator would then start by hand.
        let assumptions = Assumptions {
            azure_vm_restarts: true,
            ..Assumptions::drawn(seed)
        };
        let settings = Settings {
            assumptions,
            ..Settings::default()
        };
        let mut client = Client::with(&Seed::of(kind, 3), settings);
        client.service.settings.token_lifetime = 1_000_000;
        client.renew();
        for _ in 0..120 {
            let vm = ["vm-1", "vm-2", "vm-3"][dice.roll(3)];
            if dice.roll(10) == 0 {
                let scenario = [Scenario::Failback, Scenario::PlannedFailover][dice.roll(2)];
                let task = ["StartVmOnPrimary", "VmFailover", "MonitorDataSync"][dice.roll(3)];
                client.service.fail_job(JobFailure {
                    scenario,
                    item: None,
                    task: task.into(),
                    error: JobError::new("28031", "It failed.", "", ""),
                });
            }
            let item = client.item(vm);
            let offers = words(&item["allowedOperations"]);
            if !offers.is_empty() {
                let offer = offers[dice.roll(offers.len())];
                if let Some((verb, body)) = request_for(offer, &item, &mut dice) {
                    client.act(vm, verb, &body);
                }
            }
            steer(&mut client, &mut dice);
            client.pass(i64::try_from(dice.roll(9_000)).unwrap());
        }
        let violations = client.service.violations();
        assert!(violations.is_empty(), "seed {seed}: {violations:?}");
        for job in client.service.jobs() {
            let done = job.state == JobState::Succeeded;
            home += usize::from(done && job.scenario == Scenario::FinalizeFailback);
            cancelled += usize::from(job.state == JobState::Cancelled);
        }
    }
    // The walks go all the way round, and off it.
    assert!(home > 30 && cancelled > 10, "{home} {cancelled}");
}

#[test]
fn anything_in_any_order_leaves_a_state_that_can_be_saved_and_goes_on() {
    for seed in 0..15 {
        let mut dice = Dice(seed + 1_000);
        let seeded = Seed::of(FabricKind::HyperVSite, 3).plan("plan-1", &[&["vm-1"], &["vm-2"]]);
        let settings = Settings {
            assumptions: Assumptions::drawn(seed),
            ..Settings::default()
        };
        let mut client = Client::with(&seeded, settings.clone());
        client.service.settings.token_lifetime = 1_000_000;
        client.renew();
        for _ in 0..80 {
            let vm = ["vm-1", "vm-2", "vm-3"][dice.roll(3)];
            let plan = dice.roll(5) == 0;
            let (verb, body) = match dice.roll(7) {
                0 => ("plannedFailover", to_azure()),
                1 => ("plannedFailover", failback(&mut dice)),
                2 => ("unplannedFailover", to_azure()),
                3 => ("failoverCommit", Value::Null),
                4 => ("reProtect", to_azure()),
                5 => ("testFailover", to_azure()),
                _ => ("repairReplication", Value::Null),
            };
            if plan {
                let mut body = body;
                if !body.is_null() {
                    let details = body["properties"]["providerSpecificDetails"].take();
                    body["properties"]["providerSpecificDetails"] = json!([details]);
                }
                client.post(&format!("/replicationRecoveryPlans/plan-1/{verb}"), &body);
            } else {
                client.act(vm, verb, &body);
            }
            steer(&mut client, &mut dice);
            client.pass(i64::try_from(dice.roll(12_000)).unwrap());
        }
        let saved = client.service.save().unwrap();
        let restored = Service::restore(&saved, settings).unwrap();
        let mut client = Client::around(restored, client.now);
        client.pass(600_000);
        for vm in ["vm-1", "vm-2", "vm-3"] {
            let current = client.item(vm)["currentScenario"]["jobId"].clone();
            let name = current.as_str().unwrap().rsplit('/').next().unwrap();
            if name != "None" {
                // Only a job that waits for a person still holds its item.
                assert_eq!(client.job(name)["state"], "Suspended", "seed {seed}");
            }
        }
    }
}
