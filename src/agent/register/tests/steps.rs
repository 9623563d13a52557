//! Which order is newer, and turning back (safety rule S2); a whole move there and back.

use super::host::*;
use super::*;

#[test]
fn a_move_there_and_back() {
    let (mut hv, mut az, mut issued) = moved();
    assert!(az.running && !hv.running && az.may_run() && !hv.may_run());
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    az.settle(&mut issued);
    hv.order(&order(
        2,
        5,
        Command::Retire {
            commit: issued.commits[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert_eq!(hv.register.as_ref().unwrap().role, Role::Replica);
    // And back, as another failover at a new epoch.
    let back = |epoch, step, command| Order {
        failover: Some("f1".into()),
        ..order(epoch, step, command)
    };
    az.order(&back(3, 1, stop_to(hv.name))).unwrap();
    az.settle(&mut issued);
    deliver(&az, &mut hv, 1).unwrap();
    hv.order(&back(3, 2, start_of(&issued.stops[1]))).unwrap();
    hv.settle(&mut issued);
    assert!(hv.running && !az.running);
}

#[test]
fn s02_old_steps_are_refused_and_equal_ones_return_what_is_recorded() {
    let (mut hv, _, mut issued) = owner_and_replica();
    let stop = order(2, 1, stop_to(HOSTS[1]));
    hv.order(&stop).unwrap();
    hv.settle(&mut issued);
    assert_eq!(
        kind(hv.order(&order(1, 99, Command::Pause {}))),
        RefusalKind::Stale
    );
    let other = order(
        2,
        1,
        Command::Stop {
            target: HOSTS[1].into(),
            force: true,
        },
    );
    assert_eq!(kind(hv.order(&other)), RefusalKind::StepReused);
    let Ok(Admission::Known(known)) = hv.admit(&stop) else {
        panic!("not replayed")
    };
    assert_eq!(
        known.result,
        Some(OrderResult::Stopped {
            record: issued.stops[0].clone()
        })
    );
}

#[test]
fn s02_a_start_delayed_past_the_fence_is_refused() {
    let (mut hv, mut az, mut issued) = stopped();
    deliver(&hv, &mut az, 2).unwrap();
    let late = order(2, 3, start_of(&issued.stops[0]));
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    az.settle(&mut issued);
    assert_eq!(kind(az.order(&late)), RefusalKind::Stale);
    hv.order(&order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert_eq!(kind(az.order(&late)), RefusalKind::Stale);
    let renumbered = order(3, 9, start_of(&issued.stops[0]));
    assert_eq!(kind(az.order(&renumbered)), RefusalKind::WrongEpoch);
    assert!(hv.running && !az.running);
}

#[test]
fn s02_turning_back_needs_the_targets_fence() {
    let (mut hv, mut az, mut issued) = moved();
    let forged = FenceRecord {
        vm: VM,
        epoch: 2,
        host: az.name.into(),
        was_started: false,
        at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        kind(hv.order(&order(
            2,
            9,
            Command::Resume {
                fence: forged.clone()
            }
        ))),
        RefusalKind::WrongEpoch
    );
    assert_eq!(
        kind(hv.order(&order(3, 9, Command::Resume { fence: forged }))),
        RefusalKind::WrongEpoch
    );
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    // The fence is synced, the guest still runs: there is no record yet, and nothing else may happen here.
    assert!(az.running && issued.fences.is_empty() && !az.may_run());
    assert_eq!(
        kind(az.order(&order(3, 2, Command::Undo {}))),
        RefusalKind::WrongRole
    );
    az.settle(&mut issued);
    assert!(issued.fences[0].was_started && !az.running);
    hv.order(&order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert!(hv.running);
}
