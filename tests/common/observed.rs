//! What an observation is made from in tests.

use homeward::domain::{BySite, Fact, VmObservation};

/// A VM of which nothing is known, and that nothing hinders.
pub fn nothing_of(id: &str) -> VmObservation {
    let unknown = || "it is not told".to_owned();
    VmObservation {
        id: id.into(),
        claims: BySite::from_fn(|_| Fact::Absent),
        stage: Fact::Unknown(unknown()),
        marks: BySite::from_fn(|_| Fact::Absent),
        failovers: BySite::default(),
        power: BySite::from_fn(|_| Fact::Unknown(unknown())),
        protection: Fact::Absent,
        operations: Vec::new(),
        active_since: None,
        target_consistent: Fact::Known(true),
        replica_present: Fact::Known(true),
        written_since_start: Fact::Unknown(unknown()),
        pending_delta: None,
        disk_bytes: None,
        obstacles: Vec::new(),
        protection_obstacles: Vec::new(),
        host_silent: None,
        busy: None,
        full_download_obstacles: Vec::new(),
        protection_stale: None,
        down_because: None,
        encrypted: false,
        networks: Vec::new(),
        jobs: None,
        inconsistent_because: None,
        sync_ended: None,
        leaving: None,
        led_elsewhere: None,
        missing_job: None,
        perhaps_down: None,
    }
}
