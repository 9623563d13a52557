//! What no register, and a register without a VM, stand for (safety rule S4).

use super::host::*;
use super::*;

#[test]
fn s04_a_missing_register_is_a_fence() {
    let mut host = Host::new(HOSTS[1]);
    host.definition = Some(definition());
    let stop = stop_to(HOSTS[0]);
    for command in [
        Command::Power {
            state: PowerSwitch::On,
            force: false,
            on_other_disks: false,
        },
        Command::Pause {},
        Command::Commit {},
        stop,
    ] {
        assert_eq!(
            kind(host.order(&order(1, 1, command))),
            RefusalKind::NoRegister
        );
    }
    assert!(!host.may_run());
}

#[test]
fn s04_registers_outlive_commit_and_detach() {
    let (mut hv, mut az, mut issued) = moved();
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
    for host in [&mut hv, &mut az] {
        host.order(&Order {
            failover: None,
            ..order(2, 9, Command::Detach {})
        })
        .unwrap();
        host.settle(&mut issued);
        assert_eq!(host.register.as_ref().unwrap().claim, None);
    }
    assert!(az.running, "a detach touches no guest");
    let power = Command::Power {
        state: PowerSwitch::On,
        force: false,
        on_other_disks: false,
    };
    assert_eq!(
        kind(hv.order(&Order {
            claim: None,
            ..order(2, 10, power)
        })),
        RefusalKind::WrongRole
    );
    assert_eq!(
        kind(hv.order(&order(2, 10, Command::Undo {}))),
        RefusalKind::NotClaimed
    );
}

#[test]
fn s04_a_definition_that_starts_itself_is_not_adopted() {
    let mut host = Host::new(HOSTS[0]);
    host.definition = Some(VmDefinition {
        autostart: true,
        ..definition()
    });
    assert_eq!(
        kind(host.order(&order(1, 1, Command::Adopt { takeover: None }))),
        RefusalKind::Autostart
    );
}

#[test]
fn s04_a_guest_that_runs_without_a_register_is_not_fenced_off() {
    let (_, mut az, _) = moved();
    assert!(az.running, "it was started here");
    az.register = None;
    assert_eq!(
        kind(az.order(&order(3, 1, Command::Fence {}))),
        RefusalKind::NoRegister
    );
    assert!(az.running && az.register.is_none());
    // One that does not run is promised not to be run.
    az.running = false;
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    assert_eq!(az.register.as_ref().unwrap().role, Role::Replica);
}
