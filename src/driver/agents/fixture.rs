//! What hosts tell, for tests.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::look::HostSight;
use crate::agent::api::HostState;
use crate::api::Site;

/// The one VM.
pub(super) const VM: Uuid = Uuid::from_u128(1);

/// A host that answers: so much is free, and it tells this of the VM.
pub(super) fn host(name: &str, site: Site, free: u64, vm: &Value) -> HostSight {
    let state: HostState = serde_json::from_value(json!({
        "host": name, "site": site, "version": "0", "bootId": "b", "startedAt": "1970-01-01T00:00:00Z", "now": "1970-01-01T00:00:00Z",
        "dataAddress": "d", "freeBytes": free, "networks": [], "found": {"rebooted": false, "running": [], "started": [], "interrupted": [], "openJournals": []},
        "vms": [vm],
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
