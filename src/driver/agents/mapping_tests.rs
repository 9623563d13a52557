use serde_json::{Value, json};

use super::*;
use crate::driver::agents::fixture::{VM, host};

fn said(role: Option<&str>) -> Value {
    let register = role.map(|role| {
        json!({
            "vm": VM, "name": "app", "epoch": 2, "step": 3, "role": role, "desiredPower": "On", "bootId": "b", "failover": "fo",
            "updatedAt": "1970-01-01T00:00:00Z",
        })
    });
    json!({
        "uuid": VM, "name": "app", "power": "Off", "content": {"kind": "Whole"}, "disks": [], "register": register,
        "definition": {"uuid": VM, "name": "app", "cpus": 1, "memoryMiB": 64, "disks": [], "networks": [], "boot": {"from": "disk"}},
    })
}

fn stage(hosts: &[(&str, Site, Value)]) -> Fact<Stage> {
    let hosts = hosts
        .iter()
        .map(|(name, site, vm)| host(name, *site, 0, vm))
        .collect();
    stage_of(&Look { hosts }, VM)
}

fn contradiction(stage: &Fact<Stage>) -> Option<&str> {
    match stage {
        Fact::Known(Stage::Contradiction { seen }) => Some(seen),
        _ => None,
    }
}

#[test]
fn s08_within_a_site_too_one_host_alone_holds_the_right() {
    let azure = ("az01", Site::Azure, said(Some("Replica")));
    let one = |name, role| (name, Site::OnPremises, said(Some(role)));
    let stages = |second| stage(&[one("hv01", "Owner"), one("hv02", second), azure.clone()]);
    assert!(contradiction(&stages("Owner")).is_some());
    assert!(contradiction(&stages("Fenced")).is_some());
    assert_eq!(
        stages("Replica"),
        Fact::Known(Stage::Settled {
            site: Site::OnPremises
        })
    );
}

#[test]
fn s08_of_two_hosts_that_both_define_a_vm_none_is_guessed() {
    let defines = |name| (name, Site::OnPremises, said(None));
    let both = stage(&[defines("hv01"), defines("hv02")]);
    let seen = contradiction(&both).expect("nothing is guessed");
    assert!(seen.contains("hv01 and hv02"), "{seen}");
    let one = stage(&[defines("hv01")]);
    assert_eq!(
        one,
        Fact::Known(Stage::Unclaimed {
            site: Site::OnPremises
        })
    );
}

#[test]
fn a_power_that_is_not_known_is_told_with_its_reason() {
    let mut lost = said(None);
    lost["power"] = json!("Unknown");
    lost["powerReason"] = json!("process 42 runs it");
    let azure = ("az01", Site::Azure, said(Some("Replica")));
    let told = stage(&[("hv01", Site::OnPremises, lost), azure]);
    let seen = contradiction(&told).expect("nothing is guessed");
    assert!(
        seen.contains("power Unknown (process 42 runs it)"),
        "{seen}"
    );
}

fn stray(power: &str) -> Value {
    json!({
        "uuid": VM, "name": "app", "power": power, "powerReason": "process 42 runs it", "content": {"kind": "Unknown"}, "disks": [],
    })
}

/// A whole `stateDir` was lost under the guest, and with it the definition of a VM that had arrived there: its process is all that the host tells of.
#[test]
fn s03_s08_a_guest_that_runs_where_nothing_is_known_of_it_stalls_the_vm() {
    let others = [
        ("a definition", Some(said(None))),
        ("Owner", Some(said(Some("Owner")))),
        ("Fenced", Some(said(Some("Fenced")))),
        ("Replica", Some(said(Some("Replica")))),
        ("nothing", None),
    ];
    let mut table = String::new();
    for (what, other) in &others {
        for power in ["Unknown", "Running", "ShutDown", "Off"] {
            let mut hosts = vec![("az01", Site::Azure, stray(power))];
            hosts.extend(other.clone().map(|vm| ("hv01", Site::OnPremises, vm)));
            let told = match stage(&hosts) {
                Fact::Known(Stage::Contradiction { seen }) => format!("Contradiction: {seen}"),
                told => format!("{told:?}"),
            };
            table += &format!("{what:12} | {power:8} | {told}\n");
        }
    }
    insta::assert_snapshot!(table);
}

/// The host that owns the VM speaks for its site, and says nothing of another host there.
#[test]
fn s08_a_stray_guest_is_seen_beside_the_host_that_speaks_for_its_site() {
    let told = stage(&[
        ("hv01", Site::OnPremises, said(Some("Replica"))),
        ("az01", Site::Azure, said(Some("Owner"))),
        ("az02", Site::Azure, stray("Unknown")),
    ]);
    let seen = contradiction(&told).expect("nothing is guessed");
    let words =
        "Azure (az02) knows nothing of the VM but its process, power Unknown (process 42 runs it)";
    assert!(seen.contains(words), "{seen}");
    assert!(seen.contains("Azure (az01) is Owner"), "{seen}");
}

/// By UUID where that is known elsewhere, though the process tells another name; and by name where a definition was made anew.
#[test]
fn s08_a_stray_guest_is_matched_by_uuid_and_by_name() {
    let observed = |uuid: Uuid, name: &str| {
        let mut found = stray("Unknown");
        found["uuid"] = json!(uuid);
        found["name"] = json!(name);
        let hosts = vec![
            host("hv01", Site::OnPremises, 0, &said(None)),
            host("az01", Site::Azure, 0, &found),
        ];
        let observed = vault(&Look { hosts }, 60);
        let told = observed.vms["app"].stage.clone();
        contradiction(&told).map(ToOwned::to_owned)
    };
    let by_uuid = observed(VM, &VM.to_string()).expect("its UUID is known");
    assert!(by_uuid.contains("process 42 runs it"), "{by_uuid}");
    let other = Uuid::from_u128(2);
    let by_name = observed(other, "app").expect("its name is known");
    assert!(
        by_name.contains("process 42 runs it") && by_name.contains(&other.to_string()),
        "{by_name}"
    );
    assert_eq!(observed(other, "another"), None);
}

/// A register that is there and cannot be read is not one that is missing: the words of that would send people to take the definition away.
#[test]
fn s04_a_register_that_cannot_be_read_says_nothing() {
    let mut broken = said(None);
    broken["problems"] = json!([{"kind": "Register", "message": "registers/x.json: damaged"}]);
    let stage = stage(&[
        ("hv01", Site::OnPremises, broken),
        ("az01", Site::Azure, said(Some("Replica"))),
    ]);
    let Fact::Known(Stage::Unreadable { why }) = stage else {
        panic!("{stage:?}")
    };
    assert!(why.contains("hv01") && why.contains("damaged"), "{why}");
}

/// S17: a pass that began before the order may have passed over what the order is about.
#[test]
fn s17_only_a_pass_that_began_after_the_order_covers_it() {
    let covered = |began_after: u64| {
        let mut owner = said(Some("Owner"));
        owner["replication"] = json!({
            "peer": {"host": "az01", "control": "c", "data": "d"}, "intervalSeconds": 60, "activity": "Waiting",
            "ordered": {"epoch": 2, "step": 3}, "failures": 0,
            "last": {
                "pass": VM, "beganAfter": {"epoch": 2, "step": began_after}, "point": "1970-01-01T00:00:00Z", "roots": {},
                "bytesChanged": 0, "bytesSent": 0, "bytesReceived": 0, "bytesResumed": 0, "candidates": "All",
                "candidatesReason": "", "durationMillis": 1, "endedAt": "1970-01-01T00:00:00Z",
            },
        });
        let hosts = vec![
            host("hv01", Site::OnPremises, 0, &owner),
            host("az01", Site::Azure, 0, &said(Some("Replica"))),
        ];
        let vm = vm(&Look { hosts }, VM, 60);
        let protection = vm.protection.known().unwrap().clone();
        protection.last_whole.unwrap().failover
    };
    assert_eq!(covered(3).as_deref(), Some("fo"));
    assert_eq!(covered(2), None);
}

/// A peer that hangs keeps a pass under way for minutes, and nothing else would tell.
#[test]
fn a_recovery_point_that_does_not_come_is_told_of() {
    let overdue = |activity: &str, point: &str| {
        let mut owner = said(Some("Owner"));
        owner["replication"] = json!({
            "peer": {"host": "az01", "control": "c", "data": "d"}, "intervalSeconds": 60, "activity": activity,
            "ordered": {"epoch": 2, "step": 3}, "failures": 0,
            "last": {
                "pass": VM, "beganAfter": {"epoch": 2, "step": 3}, "point": point, "roots": {},
                "bytesChanged": 0, "bytesSent": 0, "bytesReceived": 0, "bytesResumed": 0, "candidates": "All",
                "candidatesReason": "", "durationMillis": 1, "endedAt": point,
            },
        });
        let hosts = vec![
            host("hv01", Site::OnPremises, 0, &owner),
            host("az01", Site::Azure, 0, &said(Some("Replica"))),
        ];
        let now = hosts[0].state.as_ref().unwrap().now;
        let vm = vm(&Look { hosts }, VM, 60);
        (now, vm.protection.known().unwrap().overdue)
    };
    let (now, _) = overdue("Waiting", "1970-01-01T00:00:00Z");
    let ago = |seconds| (now - jiff::SignedDuration::from_secs(seconds)).to_string();
    for (activity, point, late) in [
        ("Running", ago(180), false),
        ("Running", ago(181), true),
        ("Waiting", ago(181), true),
        ("Paused", ago(9999), false),
        ("Running", ago(-60), false),
    ] {
        assert_eq!(overdue(activity, &point).1, late, "{activity} {point}");
    }
}
