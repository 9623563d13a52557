//! Whether the process lives and is ready.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::telemetry::metrics::locked;

/// Checks by name. A part that works calls [`Health::ready`]; one that waits says for what with [`Health::waits`].
#[derive(Debug, Default)]
pub struct Health {
    checks: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    beats: Mutex<BTreeMap<&'static str, (Instant, Duration)>>,
}

impl Health {
    /// The part does what it should.
    pub fn ready(&self, part: &'static str) {
        locked(&self.checks).insert(part, Ok(()));
    }

    /// The part waits, in words a person can act on.
    pub fn waits(&self, part: &'static str, what_for: impl Into<String>) {
        locked(&self.checks).insert(part, Err(what_for.into()));
    }

    /// The part has nothing to do now, and nothing is expected of it.
    pub fn rests(&self, part: &'static str) {
        locked(&self.checks).remove(part);
    }

    /// The part went round its loop, and will again within `at_most`.
    pub fn beat(&self, part: &'static str, at_most: Duration) {
        locked(&self.beats).insert(part, (Instant::now(), at_most));
    }

    /// The part has ended as it should: nothing more is expected of it.
    pub fn ended(&self, part: &'static str) {
        locked(&self.beats).remove(part);
    }

    /// Whether every part is ready, and one line a part.
    #[must_use]
    pub fn readiness(&self) -> (bool, String) {
        let checks = locked(&self.checks);
        let lines: Vec<String> = checks
            .iter()
            .map(|(part, check)| match check {
                Ok(()) => format!("{part}: ready"),
                Err(why) => format!("{part}: waits for {why}"),
            })
            .collect();
        let all = !checks.is_empty() && checks.values().all(Result::is_ok);
        (all, lines.join("\n"))
    }

    /// Whether every loop went round when it should have, and one line for each that did not.
    #[must_use]
    pub fn liveness(&self, now: Instant) -> (bool, String) {
        let late: Vec<String> = locked(&self.beats)
            .iter()
            .filter_map(|(part, (last, at_most))| {
                let ago = now.saturating_duration_since(*last);
                (ago > *at_most)
                    .then(|| format!("{part}: has not gone round for {} s", ago.as_secs()))
            })
            .collect();
        (late.is_empty(), late.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_part_is() {
        let health = Health::default();
        assert!(!health.readiness().0, "nothing is known yet");
        health.ready("lease");
        health.waits("resources", "the definition of Failover");
        assert_eq!(
            health.readiness(),
            (
                false,
                "lease: ready\nresources: waits for the definition of Failover".to_owned()
            )
        );
        health.ready("resources");
        assert!(health.readiness().0);
    }

    #[test]
    fn a_loop_that_hangs_is_not_alive() {
        let health = Health::default();
        health.beat("lease", Duration::from_secs(5));
        let now = Instant::now();
        assert!(health.liveness(now).0);
        assert!(!health.liveness(now + Duration::from_secs(6)).0);
        health.ended("lease");
        assert!(health.liveness(now + Duration::from_secs(6)).0);
    }
}
