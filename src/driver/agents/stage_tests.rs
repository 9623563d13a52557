use uuid::Uuid;

use super::*;
use crate::agent::api::{
    CommitRecord, FenceRecord, PowerSwitch, Root, StartRecord, StopProof, StopRecord,
};

const VM: Uuid = Uuid::from_u128(1);

fn now() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH
}

fn roots() -> Roots {
    Roots::from([("root".into(), Root([7; 32]))])
}

fn register(role: Role, epoch: u64) -> Register {
    Register {
        start_owed: false,
        vm: VM,
        name: "app".into(),
        epoch,
        step: 1,
        claim: None,
        failover: None,
        role,
        desired_power: PowerSwitch::On,
        moving_to: None,
        stop: None,
        start: None,
        commit: None,
        fence: None,
        owner: None,
        session: None,
        last: None,
        boot_id: "boot".into(),
        updated_at: now(),
    }
}

fn fenced(epoch: u64) -> Register {
    Register {
        moving_to: Some("az01".into()),
        ..register(Role::Fenced, epoch)
    }
}

fn stopped(epoch: u64) -> Register {
    let stop = StopRecord {
        vm: VM,
        epoch,
        host: "hv01".into(),
        target: "az01".into(),
        proof: StopProof::ProcessGone,
        was_running: true,
        roots: roots(),
        disks: vec![],
        manifest: crate::agent::api::ManifestSource::Read,
        at: now(),
    };
    Register {
        stop: Some(stop),
        ..fenced(epoch)
    }
}

fn started(epoch: u64) -> Register {
    let start = StartRecord {
        epoch,
        roots: roots(),
        left_off: false,
        at: now(),
    };
    Register {
        start: Some(start),
        ..register(Role::Owner, epoch)
    }
}

fn committed(epoch: u64) -> Register {
    let commit = CommitRecord {
        vm: VM,
        epoch,
        host: "az01".into(),
        failover: None,
        at: now(),
    };
    Register {
        commit: Some(commit),
        ..started(epoch)
    }
}

fn barred(epoch: u64) -> Register {
    let fence = FenceRecord {
        vm: VM,
        epoch,
        host: "az01".into(),
        was_started: false,
        at: now(),
    };
    Register {
        fence: Some(fence),
        ..register(Role::Replica, epoch)
    }
}

fn told(here: Option<&Register>, there: Option<&Register>, whole: bool) -> String {
    let roots = roots();
    // Without a register a side counts only where it has a definition; here the VM is defined on-premises alone.
    let on_premises = Some(Said {
        host: "hv01",
        register: here,
        defined: true,
        power: Power::Running,
        power_reason: None,
        content: None,
    });
    let azure = there.map(|_| Said {
        host: "az01",
        register: there,
        defined: true,
        power: Power::Running,
        power_reason: None,
        content: whole.then_some(&roots),
    });
    format!("{:?}", stage(on_premises, azure).unwrap())
}

/// Every pair of register roles, with the records that make a difference.
#[test]
fn s08_the_stage_of_every_pair_of_registers() {
    let sides: Vec<(&str, Option<Register>)> = vec![
        ("none", None),
        ("Owner 1", Some(register(Role::Owner, 1))),
        ("Owner 2 started", Some(started(2))),
        ("Owner 2 committed", Some(committed(2))),
        ("Fenced 2", Some(fenced(2))),
        ("Fenced 2 stopped", Some(stopped(2))),
        ("Replica 1", Some(register(Role::Replica, 1))),
        ("Replica 3 barred", Some(barred(3))),
    ];
    let mut table = String::new();
    for (here_name, here) in &sides {
        for (there_name, there) in &sides {
            let seen = told(here.as_ref(), there.as_ref(), false);
            let short = match seen.split_once("{ seen:") {
                Some(_) => "contradiction".to_owned(),
                None => seen,
            };
            table += &format!("{here_name:18} | {there_name:18} | {short}\n");
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn s03_a_target_is_whole_only_with_the_content_of_the_stop() {
    let (source, replica) = (stopped(2), register(Role::Replica, 1));
    assert!(told(Some(&source), Some(&replica), true).starts_with("TargetWhole"));
    assert!(told(Some(&source), Some(&replica), false).starts_with("SourceStopped"));
    assert!(told(Some(&fenced(2)), Some(&replica), true).starts_with("SourceFenced"));
}

#[test]
fn s04_an_owner_older_than_its_peer_is_not_believed() {
    let (old, newer) = (register(Role::Owner, 1), register(Role::Replica, 2));
    let seen = told(Some(&old), Some(&newer), false);
    assert!(seen.starts_with("Contradiction"), "{seen}");
    assert!(
        seen.contains("OnPremises (hv01) is Owner at epoch 1"),
        "{seen}"
    );
    assert!(
        seen.contains("Azure (az01) is Replica at epoch 2"),
        "{seen}"
    );
}

#[test]
fn a_fence_of_another_host_does_not_turn_a_move_back() {
    let mut source = stopped(2);
    source.moving_to = Some("az02".into());
    let seen = told(Some(&source), Some(&barred(3)), false);
    assert!(seen.starts_with("SourceStopped"), "{seen}");
}
