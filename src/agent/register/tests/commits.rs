//! The commit, and what an uncommitted start may not do (safety rule S5).

use super::host::*;
use super::*;

#[test]
fn s05_a_commit_needs_a_running_guest_and_ends_every_way_back() {
    let (mut hv, mut az, mut issued) = moved();
    az.running = false;
    assert_eq!(
        kind(az.order(&order(2, 4, Command::Commit {}))),
        RefusalKind::NotRunning
    );
    az.running = true;
    // A record of an earlier move, of another host, of another VM.
    for (vm, epoch, host) in [
        (VM, 1, az.name),
        (VM, 2, HOSTS[2]),
        (Uuid::from_u128(8), 2, az.name),
    ] {
        let forged = CommitRecord {
            vm,
            epoch,
            host: host.into(),
            failover: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let retired = hv.order(&order(2, 5, Command::Retire { commit: forged }));
        assert_eq!(
            kind(retired),
            RefusalKind::WrongRecord,
            "{vm} {epoch} {host}"
        );
    }
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    az.settle(&mut issued);
    assert_eq!(
        kind(az.order(&order(3, 1, Command::Fence {}))),
        RefusalKind::Committed
    );
}

#[test]
fn s05_a_vm_that_was_off_is_committed_off() {
    let (mut hv, mut az, mut issued) = owner_and_replica();
    hv.running = false;
    let stop = stop_to(az.name);
    // One that should run and does not would be left off for good.
    assert_eq!(
        kind(hv.order(&order(2, 1, stop.clone()))),
        RefusalKind::NotRunning
    );
    hv.register.as_mut().unwrap().desired_power = PowerSwitch::Off;
    hv.order(&order(2, 1, stop)).unwrap();
    hv.settle(&mut issued);
    deliver(&hv, &mut az, 2).unwrap();
    az.order(&order(2, 3, start_of(&issued.stops[0]))).unwrap();
    az.settle(&mut issued);
    assert!(!az.running && az.may_run());
    az.order(&order(2, 4, Command::Commit {})).unwrap();
}

#[test]
fn an_uncommitted_owner_neither_moves_on_nor_replicates() {
    let (_, mut az, _) = moved();
    let stop = stop_to(HOSTS[0]);
    assert_eq!(kind(az.order(&order(3, 1, stop))), RefusalKind::WrongRole);
    let replicate = Command::Replicate {
        peer: peer(HOSTS[0]),
        interval_seconds: 5,
        immediate: false,
    };
    assert_eq!(
        kind(az.order(&order(2, 9, replicate))),
        RefusalKind::WrongRole
    );
    let elsewhere = Order {
        failover: None,
        ..order(2, 9, Command::Detach {})
    };
    assert_eq!(kind(az.order(&elsewhere)), RefusalKind::OtherFailover);
}
