//! What holds a VM: for a person to mend, or for a while.

use super::*;

#[test]
fn a_test_failover_holds_everything() {
    let mut up = item("Protected", "Primary", &["TestFailoverCleanup"]);
    up["properties"]["testFailoverState"] = json!("WaitingForCompletion");
    let vm = see(up, &[]);
    assert_eq!(vm.stage, Fact::Known(HERE));
    assert!(vm.obstacles[0].contains("clean it up in the portal"));
}

#[test]
fn a_job_of_another_kind_holds_everything_while_it_runs() {
    let repairs = |state| vec![job("r", "RepairVMReplication", state, &[])];
    let vm = see(item("Protected", "Primary", &[]), &repairs("InProgress"));
    assert!(vm.busy.unwrap().starts_with("job r of the service"));
    // It ends by itself: nobody is asked to mend anything.
    assert_eq!(vm.obstacles, Vec::<String>::new());
    assert_eq!(vm.protection_obstacles, Vec::<String>::new());
    assert_eq!(
        see(item("Protected", "Primary", &STEADY), &repairs("Succeeded")).busy,
        None
    );
}

#[test]
fn another_kind_of_replication_is_not_moved() {
    let mut other = item("Protected", "Primary", &STEADY);
    other["properties"]["providerSpecificDetails"]["instanceType"] = json!("InMageRcm");
    assert!(see(other, &[]).obstacles[0].contains("InMageRcm"));
}

#[test]
fn a_silent_provider_holds_the_vm_and_the_site() {
    let rows = [
        (provider(false, "2026-01-02T11:59:00Z"), "NotConnected"),
        // The service notices late.
        (
            provider(true, "2026-01-02T11:00:00Z"),
            "is called Connected, but was last heard",
        ),
    ];
    for (provider, words) in rows {
        let all = see_all(&[item("Protected", "Primary", &STEADY)], &[], &provider);
        let vm = &all.vms["web"];
        assert!(vm.host_silent.as_ref().unwrap().contains(words));
        // It comes back by itself: nobody is asked to mend the VM.
        assert_eq!(vm.protection_obstacles, Vec::<String>::new());
        assert!(!all.sites.on_premises.is_connected());
        assert!(all.sites.azure.is_connected());
    }
}

/// Nothing but its jobs tells that a VM may be down: the service does not say what runs.
#[test]
fn a_vm_that_was_told_to_stop_by_a_move_that_broke_off() {
    let stop = |state| [("VmShutdownVmOnPrimary", state)];
    let move_of = |name, state, stop: [(&str, &str); 1]| job(name, "PlannedFailover", state, &stop);
    let succeeded = || move_of("b", "Succeeded", stop("Succeeded"));
    let rows = [
        (
            "it failed",
            vec![move_of("b", "Failed", stop("Succeeded"))],
            true,
        ),
        (
            "it was cancelled",
            vec![move_of("b", "Cancelled", stop("Failed"))],
            true,
        ),
        (
            "it failed before",
            vec![move_of("b", "Failed", stop("NotStarted"))],
            false,
        ),
        ("there was no move", vec![], false),
        (
            "a later one failed before",
            vec![
                move_of("b", "Failed", stop("Succeeded")),
                move_of("bb", "Failed", stop("NotStarted")),
            ],
            true,
        ),
        (
            "a later one succeeded",
            vec![
                move_of("b", "Failed", stop("Succeeded")),
                from_azure(move_of(
                    "bb",
                    "Succeeded",
                    [("ShutdownVmOnAzure", "Succeeded")],
                )),
            ],
            false,
        ),
        ("it succeeded", vec![succeeded()], false),
    ];
    for (row, jobs, expected) in rows {
        let vm = see(item("Protected", "Primary", &STEADY), &jobs);
        assert_eq!(vm.perhaps_down.is_some(), expected, "{row}");
    }
    let back = |state| {
        from_azure(job(
            "b",
            "PlannedFailover",
            state,
            &[("ShutdownVmOnAzure", "Succeeded")],
        ))
    };
    let there = see(
        item("UnplannedFailoverCommitted", "Recovery", &["Failback"]),
        &[back("Failed")],
    );
    assert_eq!(there.stage.known(), Some(&THERE));
    let what = there.perhaps_down.unwrap().what;
    assert!(what.contains("the VM in Azure"), "{what}");
}
