use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::agent::api::HostState;
use crate::driver::agents::look::HostSight;

const VM: Uuid = Uuid::from_u128(1);

fn host(name: &str, site: Site, role: &str, moving_to: Option<&str>) -> HostSight {
    let state: HostState = serde_json::from_value(json!({
        "host": name, "site": site, "version": "0", "bootId": "b", "startedAt": "1970-01-01T00:00:00Z", "now": "1970-01-01T00:00:00Z",
        "dataAddress": "d", "freeBytes": 0, "networks": [], "found": {"rebooted": false, "running": [], "started": [], "interrupted": [], "openJournals": []},
        "vms": [{
            "uuid": VM, "name": "app", "power": "Off", "content": {"kind": "Whole"}, "disks": [],
            "register": {
                "vm": VM, "name": "app", "epoch": 2, "step": 1, "role": role, "desiredPower": "On", "bootId": "b",
                "movingTo": moving_to, "updatedAt": "1970-01-01T00:00:00Z",
            },
        }],
    }))
    .unwrap();
    let state = Arc::new(state);
    HostSight {
        name: name.into(),
        site,
        control: "c".into(),
        last_heartbeat: None,
        before: Some(Arc::clone(&state)),
        state: Ok(state),
    }
}

/// Who gets the fence, when the source is like this.
fn fenced(role: &str, moving_to: Option<&str>) -> String {
    let look = Look {
        hosts: vec![
            host("hv01", Site::OnPremises, role, moving_to),
            host("az01", Site::Azure, "Replica", None),
        ],
    };
    let submission = Submission {
        action: Action::FenceTarget { to: Site::Azure },
        mark: Mark { epoch: 2, step: 5 },
        claim: domain::Claim {
            cluster: "cluster".into(),
            vm_uid: "pvm".into(),
        },
        failover: Some("failover".into()),
    };
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
