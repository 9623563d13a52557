//! What is read of a VM whose job the service does not know any more.

use super::*;

fn see_lost(item: &Value, jobs: &[Value], lost: &str) -> VmObservation {
    let items = [Item::read(item).unwrap()];
    let mut book = Book::default();
    for job in jobs {
        book.read(ToldJob::read(job).unwrap());
    }
    book.missed(lost, now() - jiff::SignedDuration::from_hours(1));
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
