use serde_json::{Value, json};

use super::*;
use crate::driver::agents::fixture::{VM, host};

fn vm(role: &str, root_bytes: u64, devices: &[&str]) -> Value {
    json!({
        "uuid": VM, "name": "app", "power": "Off", "content": {"kind": "Whole"}, "devices": devices,
        "disks": [{"id": "root", "sizeBytes": root_bytes}, {"id": "data", "sizeBytes": 512}],
        "register": {
            "vm": VM, "name": "app", "epoch": 2, "step": 1, "role": role, "desiredPower": "On", "bootId": "b",
            "updatedAt": "1970-01-01T00:00:00Z",
        },
    })
}

/// What is said of a VM with a root disk of 1024 bytes, owned in Azure, when its replica's host is this.
fn said(replica: &Value, free: u64) -> (Vec<String>, Vec<String>) {
    let look = Look {
        hosts: vec![
            host("az01", Site::Azure, 0, &vm("Owner", 1024, &["root"])),
            host("hv01", Site::OnPremises, free, replica),
        ],
    };
    let sides = BySite::from_fn(|site| look.at(site, VM));
    let passive = sides[Site::OnPremises].as_ref().map(|at| *at);
    (
        of_a_full_download(&sides, Some(Site::Azure), &passive),
        of_its_protection(&look, &sides, Some(Site::Azure), &passive),
    )
}

#[test]
fn a_full_download_needs_files_and_room_for_both() {
    let file = vm("Replica", 1024, &[]);
    assert_eq!(said(&file, 1536), (vec![], vec![]));
    let (full, protection) = said(&file, 1535);
    assert_eq!(full.len(), 1);
    assert!(
        full[0].starts_with("hv01: ")
            && full[0].contains("1536 bytes are needed and about 1500 bytes can be had")
    );
    assert_eq!(protection, Vec::<String>::new(), "a delta needs none of it");
    let (full, protection) = said(&vm("Replica", 1024, &["data"]), 1536);
    assert_eq!(full.len(), 1);
    assert!(full[0].contains("disk data on hv01 is a block device"));
    assert_eq!(protection, Vec::<String>::new());
}

#[test]
fn what_is_said_of_room_changes_seldom() {
    const GIB: u64 = 1 << 30;
    let said = |free: u64, needed: u64| {
        format!(
            "{} {}",
            binary(needed, needed),
            binary(roughly(free), needed)
        )
    };
    assert_eq!(said(0, 700), "700 bytes 0 bytes");
    assert_eq!(said(40 * GIB, 64 * GIB), "64.0 GiB 39.1 GiB");
    assert_eq!(
        said(40 * GIB + 3_000_000, 64 * GIB),
        said(40 * GIB, 64 * GIB)
    );
    assert_eq!(said(99, 3 << 19), "1.5 MiB 0.0 MiB");
    assert_eq!(roughly(u64::MAX), 18_000_000_000_000_000_000);
}

#[test]
fn s14_a_device_at_the_target_has_the_very_size_of_the_disk() {
    for (bytes, devices, fits) in [
        (1024, vec!["root"], true),
        (2048, vec!["root"], false),
        (512, vec!["root"], false),
        // A file takes the size of the source.
        (2048, vec![], true),
    ] {
        let (_, protection) = said(&vm("Replica", bytes, &devices), 4096);
        assert_eq!(
            protection.is_empty(),
            fits,
            "{bytes} {devices:?} {protection:?}"
        );
    }
}

/// What is seen here holds the move while the guest still runs.
#[test]
fn a_host_that_can_start_no_guest_takes_none() {
    let problem = Problem {
        kind: ProblemKind::Hypervisor,
        message: "qemu is not there".into(),
    };
    let mut target = host("hv01", Site::OnPremises, 4096, &vm("Replica", 1024, &[]));
    let state = std::sync::Arc::make_mut(target.state.as_mut().unwrap());
    state.problems.push(problem);
    let owner = host("az01", Site::Azure, 0, &vm("Owner", 1024, &[]));
    let look = Look {
        hosts: vec![owner, target],
    };
    let sides = BySite::from_fn(|site| look.at(site, VM));
    let protection =
        |passive: &Fact<At<'_>>| of_its_protection(&look, &sides, Some(Site::Azure), passive);
    let replica = protection(&sides[Site::OnPremises].as_ref().map(|at| *at));
    assert_eq!(replica.len(), 1);
    assert!(replica[0].starts_with("hv01: ") && replica[0].contains("qemu is not there"));
    let none = protection(&Fact::Absent);
    assert!(
        none[0].contains("no host in OnPremises can take the VM")
            && none[0].contains("qemu is not there")
    );
}

#[test]
fn a_disk_of_a_replica_that_is_gone_is_made_again_unless_a_person_placed_it() {
    for (written, obstacles) in [(false, 0), (true, 1)] {
        let mut replica = vm("Replica", 1024, &[]);
        replica["definitionWritten"] = json!(written);
        replica["problems"] = json!([{"kind": "DiskMissing", "message": "disk root: gone"}]);
        let (_, protection) = said(&replica, 4096);
        assert_eq!(protection.len(), obstacles, "{protection:?}");
    }
}
