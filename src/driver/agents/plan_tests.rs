use serde_json::json;

use super::*;
use crate::driver::agents::fixture::{VM, host};
use crate::driver::agents::look::HostSight;

fn at(name: &str, site: Site, role: &str, moving_to: Option<&str>) -> HostSight {
    let vm = json!({
        "uuid": VM, "name": "app", "power": "Off", "content": {"kind": "Whole"}, "disks": [],
        "register": {
            "vm": VM, "name": "app", "epoch": 2, "step": 1, "role": role, "desiredPower": "On", "bootId": "b",
            "movingTo": moving_to, "updatedAt": "1970-01-01T00:00:00Z",
        },
    });
    host(name, site, 0, &vm)
}

fn submission(action: Action) -> Submission {
    Submission {
        action,
        mark: Mark { epoch: 2, step: 5 },
        claim: domain::Claim {
            cluster: "cluster".into(),
            vm_uid: "pvm".into(),
        },
        failover: Some("failover".into()),
        alternate: crate::domain::Alternate::default(),
        encryption_key: None,
        attempt: None,
    }
}

/// Who gets the fence, when the source is like this.
fn fenced(role: &str, moving_to: Option<&str>) -> String {
    let look = Look {
        hosts: vec![
            at("hv01", Site::OnPremises, role, moving_to),
            at("az01", Site::Azure, "Replica", None),
        ],
    };
    let submission = submission(Action::FenceTarget { to: Site::Azure });
    let planned = plan(&look, "app", &submission, 60).unwrap();
    let [Planned { host, order }] = &planned[..] else {
        panic!("{planned:?}")
    };
    assert_eq!(order.command, Command::Fence {});
    assert_eq!(order.failover.as_deref(), Some("failover"));
    host.clone()
}

#[test]
fn a_fence_goes_where_the_source_moves_to_or_to_the_replica_of_a_source_at_rest() {
    assert_eq!(fenced("Fenced", Some("az02")), "az02");
    assert_eq!(fenced("Owner", None), "az01");
}

/// Nobody may be given the right to run a VM that runs where nothing is known of it, whatever was seen a moment ago.
#[test]
fn s03_no_right_is_given_while_a_stray_process_runs_the_guest() {
    let stray = json!({
        "uuid": VM, "name": "other", "power": "Unknown", "powerReason": "process 42 runs it", "content": {"kind": "Unknown"}, "disks": [],
    });
    let adopt = submission(Action::Adopt {
        at: Site::OnPremises,
        takeover: None,
    });
    let with = |power: &str| {
        let mut stray = stray.clone();
        stray["power"] = json!(power);
        let hosts = vec![
            at("hv01", Site::OnPremises, "Owner", None),
            host("az01", Site::Azure, 0, &stray),
        ];
        plan(&Look { hosts }, "app", &adopt, 60)
    };
    let refused = with("Unknown").unwrap_err().to_string();
    assert!(refused.contains("process 42 runs it"), "{refused}");
    assert_eq!(with("Off").unwrap().len(), 1);
}

/// The source has come back, its order to start broke off, and its register no longer says where from.
#[test]
fn a_resume_is_given_again_with_the_fence_of_its_epoch() {
    let fence = |epoch: u64| {
        let mut az = at("az01", Site::Azure, "Replica", None);
        let state = std::sync::Arc::make_mut(az.state.as_mut().unwrap());
        state.vms[0].register.as_mut().unwrap().fence = Some(
            serde_json::from_value(json!({
                "vm": VM, "epoch": epoch, "host": "az01", "wasStarted": true, "at": "1970-01-01T00:00:00Z",
            }))
            .unwrap(),
        );
        let hosts = vec![at("hv01", Site::OnPremises, "Owner", None), az];
        let resume = submission(Action::ResumeSource {
            from: Site::OnPremises,
        });
        plan(&Look { hosts }, "app", &resume, 60)
    };
    let planned = fence(2).unwrap();
    let [Planned { host, order }] = &planned[..] else {
        panic!("{planned:?}")
    };
    assert_eq!(host, "hv01");
    assert!(matches!(&order.command, Command::Resume { fence } if fence.host == "az01"));
    assert!(fence(1).is_err(), "a fence of another turning back");
}
