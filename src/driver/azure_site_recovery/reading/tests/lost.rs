//! What is read of a VM whose job the service does not know any more.

use super::*;

fn see_lost(item: &Value, jobs: &[Value], lost: &str) -> VmObservation {
    see_missed(item, jobs, lost, jiff::SignedDuration::from_hours(1))
}

fn see_missed(
    item: &Value,
    jobs: &[Value],
    missed: &str,
    since: jiff::SignedDuration,
) -> VmObservation {
    let items = [Item::read(item).unwrap()];
    let mut book = Book::default();
    for job in jobs {
        book.read(ToldJob::read(job).unwrap());
    }
    book.missed(missed, &items, now() - since);
    book.give_up(&items, now());
    vault(&Told {
        missing_permissions: &[],
        items: &items,
        providers: &[],
        book: &book,
        looked: now(),
        listed: now(),
        server_time: Some(now()),
        fabric: None,
        now: now(),
    })
    .vms["web"]
        .clone()
}

fn there() -> Value {
    job(
        "e",
        "PlannedFailover",
        "Succeeded",
        &[("VmFailover", "Succeeded")],
    )
}

#[test]
fn s19_moves_before_a_lost_one_do_not_say_where_the_vm_is() {
    let back = from_azure(job(
        "later",
        "PlannedFailover",
        "InProgress",
        &[("StartVmOnPrimary", "InProgress")],
    ));
    let home = Stage::TargetStarted {
        to: Site::OnPremises,
        as_left: true,
    };
    let rows = [("Primary", Some(home)), ("Recovery", None)];
    for (active, stage) in rows {
        let uncommitted = item("PlannedFailoverCommitRequired", active, &["Commit"]);
        let vm = see_lost(&uncommitted, &[there(), back.clone()], "later");
        let found = vm.stage.known().cloned();
        match stage {
            Some(stage) => assert_eq!(found, Some(stage), "{active}"),
            None => assert!(
                matches!(found, Some(Stage::Contradiction { .. })),
                "{active}: {found:?}"
            ),
        }
    }
}

/// Invariant 4: what it had written may be half of it.
#[test]
fn s19_a_sync_that_was_lost_leaves_a_copy_that_is_not_to_be_started() {
    let committed = item("PlannedFailoverStatesBegin", "Recovery", &COMMITTED);
    let wrote = [
        ("InitiateDataSync", "Succeeded"),
        ("MonitorDataSync", "InProgress"),
    ];
    for tasks in [&wrote[..], &[]] {
        let back = from_azure(job("later", "Failback", "InProgress", tasks));
        let vm = see_lost(&committed, &[there(), back], "later");
        assert_eq!(vm.stage, Fact::Known(THERE));
        assert_eq!(vm.target_consistent, Fact::Known(false), "{tasks:?}");
        assert_eq!(protected(&vm), None);
        assert_eq!(vm.busy, None);
    }
    let prepared = [("PrepareVmOnPremForFailback", "InProgress")];
    let back = from_azure(job("later", "Failback", "InProgress", &prepared));
    let vm = see_lost(&committed, &[there(), back], "later");
    assert_eq!(vm.target_consistent, Fact::Known(true));
}

/// What the item offers proves nothing: it may offer a failback while another one waits.
#[test]
fn s18_a_job_that_holds_the_vm_and_is_not_told_of_may_still_act() {
    let paused = from_azure(job(
        "back",
        "PlannedFailover",
        "Suspended",
        &[
            ("MonitorDataSync", "Succeeded"),
            ("WaitForUserInputForFailback", "InProgress"),
        ],
    ));
    let seconds = jiff::SignedDuration::from_secs;
    let names = |job: &str, allowed: &[&str]| {
        let mut item = item("PlannedFailoverStatesBegin", "Recovery", allowed);
        item["properties"]["currentScenario"] = json!({
            "scenarioName": "PlannedFailover", "jobId": format!("{VAULT}/replicationJobs/{job}"),
        });
        item
    };
    let nameless = item("PlannedFailoverStatesBegin", "Recovery", &[]);
    let free = item("PlannedFailoverStatesBegin", "Recovery", &COMMITTED);
    // What the item says, whether the job was ever told of, for how long it is missed, and whether only people can end it.
    let rows = [
        (names("back", &[]), true, 179, Some(false)),
        (names("BACK", &[]), true, 180, Some(true)),
        (names("back", &COMMITTED), true, 180, Some(true)),
        (names("back", &[]), false, 0, Some(false)),
        (names("back", &COMMITTED), false, 180, Some(true)),
        (nameless, true, 180, Some(true)),
        // It has ended by then.
        (free.clone(), true, 180, None),
        (free, true, 10, Some(false)),
        // The VM is held by another one.
        (names("another", &[]), true, 180, None),
    ];
    for (item, told, since, stuck) in rows {
        let jobs = if told { vec![paused.clone()] } else { vec![] };
        let vm = see_missed(&item, &jobs, "back", seconds(since));
        let found = vm.missing_job.as_ref().map(|job| job.is_stuck);
        let scenario = &item["properties"]["currentScenario"];
        assert_eq!(found, stuck, "{scenario}, missed for {since} s");
        if stuck.is_some() {
            assert_eq!(vm.stage, Fact::Known(THERE), "{scenario}");
            assert_eq!(vm.target_consistent, Fact::Known(false), "{scenario}");
        }
        if stuck == Some(true) {
            let words = vm.missing_job.unwrap().what;
            for word in ["job back", "Site Recovery jobs", "Do not start the VM"] {
                assert!(words.contains(word), "{words}");
            }
        }
    }
}

/// The move before it, which had ended well, is not what waits for its commit.
#[test]
fn s05_while_a_move_is_missed_the_one_before_does_not_say_where_the_vm_is() {
    let back = from_azure(job("back", "Failback", "Succeeded", &[]));
    let uncommitted = item("PlannedFailoverCommitRequired", "Recovery", &["Commit"]);
    let mut again = job("once-more", "PlannedFailover", "InProgress", &[]);
    again["properties"]["customDetails"] = json!({"affectedObjectDetails": {
        "PrimaryFabricProviderId": "HyperVSite", "RecoveryFabricProviderId": "Azure",
    }});
    let seconds = jiff::SignedDuration::from_secs(5);
    let vm = see_missed(&uncommitted, &[back, again], "once-more", seconds);
    let to_azure = Stage::TargetStarted {
        to: Site::Azure,
        as_left: true,
    };
    assert_eq!(vm.stage, Fact::Known(to_azure));
}

/// It may have gone on after it was last told of, up to the stop and past it.
#[test]
fn a_vm_that_a_lost_move_left_where_it_was_may_be_down() {
    let begun = |name| {
        job(
            name,
            "PlannedFailover",
            "InProgress",
            &[("VmPfoPrerequisitesCheck", "InProgress")],
        )
    };
    let back = item("Protected", "Primary", &STEADY);
    let vm = see_lost(&back, &[begun("e")], "e");
    let down = vm.perhaps_down.expect("nobody knows");
    assert!(
        down.what.contains("perhaps told the VM in OnPremises"),
        "{}",
        down.what
    );
    let vm = see(back, &[begun("e")]);
    assert_eq!(vm.perhaps_down, None, "it goes on");
}
