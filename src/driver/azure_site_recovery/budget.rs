//! One budget of requests for each vault, below what the service lets one client ask. Pure: time comes in.
//!
//! The service counts by subscription, principal and region: 250 reads refilled by 25 a second, 200 writes and deletes refilled by 10 a second.
//! Others may use the same principal, so that a part is left to them.

use std::time::Duration;

/// A bucket that is refilled all the time.
#[derive(Clone, Debug)]
pub struct Bucket {
    capacity: f64,
    per_second: f64,
    /// What is in it; below zero, what was lent to those who wait.
    level: f64,
    /// When that was so, as time since an arbitrary beginning.
    at: Duration,
    /// Nothing is taken before this: the service said so.
    not_before: Duration,
}

impl Bucket {
    /// Reads.
    #[must_use]
    pub const fn reads() -> Self {
        Self::new(200.0, 20.0)
    }

    /// Writes.
    #[must_use]
    pub const fn writes() -> Self {
        Self::new(160.0, 8.0)
    }

    /// A full one.
    #[must_use]
    pub const fn new(capacity: f64, per_second: f64) -> Self {
        Self {
            capacity,
            per_second,
            level: capacity,
            at: Duration::ZERO,
            not_before: Duration::ZERO,
        }
    }

    /// Takes one; says how long to wait before it is used.
    pub fn take(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.level = passed
            .mul_add(self.per_second, self.level)
            .min(self.capacity);
        self.at = self.at.max(now);
        self.level -= 1.0;
        let short = Duration::from_secs_f64((-self.level).max(0.0) / self.per_second);
        short.max(self.not_before.saturating_sub(now))
    }

    /// How long the service has asked to be left alone from now on.
    #[must_use]
    pub const fn pause_left(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// The service asks for a pause.
    pub fn pause(&mut self, now: Duration, pause: Duration) {
        self.not_before = self.not_before.max(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_capacity_and_what_was_refilled(gaps in prop::collection::vec(0u64..2000, 1..400)) {
            let (capacity, per_second) = (20.0, 5.0);
            let mut bucket = Bucket::new(capacity, per_second);
            let mut now = Duration::ZERO;
            let mut used: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                used.push(now + bucket.take(now));
            }
            used.sort();
            for (from, first) in used.iter().enumerate() {
                for (to, last) in used.iter().enumerate().skip(from) {
                    let count = f64::from(u32::try_from(to - from + 1).unwrap());
                    let allowed = capacity + last.saturating_sub(*first).as_secs_f64() * per_second + 1.001;
                    prop_assert!(count <= allowed, "{count} between {first:?} and {last:?}");
                }
            }
        }
    }

    #[test]
    fn a_pause_that_the_service_asks_for_is_kept() {
        let mut bucket = Bucket::reads();
        let now = Duration::from_secs(10);
        bucket.pause(now, Duration::from_secs(7));
        assert_eq!(
            bucket.take(now + Duration::from_secs(2)),
            Duration::from_secs(5)
        );
        assert_eq!(
            bucket.pause_left(now + Duration::from_secs(2)),
            Duration::from_secs(5)
        );
        assert_eq!(bucket.take(now + Duration::from_secs(8)), Duration::ZERO);
        assert_eq!(
            bucket.pause_left(now + Duration::from_secs(8)),
            Duration::ZERO
        );
    }
}
