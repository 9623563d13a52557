//! Bandwidth cap and progress figures. Pure: time comes in as an argument.

use std::time::Duration;

/// A token bucket: how long to wait before so many bytes may go out. Times are counted from any fixed moment.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// When what was sent so far would have been sent at the capped rate.
    free_at: Duration,
}

impl Bucket {
    /// Unused capacity that may be caught up at once.
    const BURST: Duration = Duration::from_millis(100);

    /// A full bucket.
    #[must_use]
    pub fn new() -> Self {
        Self {
            free_at: Duration::ZERO,
        }
    }

    /// Takes `bytes` at `now` under a cap of `per_second` bytes a second (0: none) and says how long to wait before sending them.
    pub fn take(&mut self, now: Duration, bytes: u64, per_second: u64) -> Duration {
        if per_second == 0 {
            self.free_at = now;
            return Duration::ZERO;
        }
        let start = self.free_at.max(now.saturating_sub(Self::BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second);
        self.free_at = start.saturating_add(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ));
        start.saturating_sub(now)
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// A smoothed rate, and from it how long the rest takes.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    last: Option<(Duration, u64)>,
    per_second: Option<f64>,
}

impl Rate {
    /// Shorter steps are gathered first.
    const STEP: Duration = Duration::from_millis(250);

    /// Weight of the newest step.
    const WEIGHT: f64 = 0.3;

    /// Notes that `done` bytes in all are done at `now`.
    pub fn note(&mut self, now: Duration, done: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, done));
            return;
        };
        let Some(step) = now.checked_sub(then).filter(|step| *step >= Self::STEP) else {
            return;
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let newest = done.saturating_sub(before) as f64 / step.as_secs_f64();
        self.per_second = Some(
            self.per_second
                .map_or(newest, |old| old + Self::WEIGHT * (newest - old)),
        );
        self.last = Some((now, done));
    }

    /// Bytes a second; `None` before there is one.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative; a rate for people"
    )]
    pub fn per_second(&self) -> Option<u64> {
        self.per_second.map(|rate| rate as u64)
    }

    /// Seconds until `left` bytes are done; `None` when nothing moves.
    #[must_use]
    pub fn eta_seconds(&self, left: u64) -> Option<u64> {
        self.per_second()
            .filter(|rate| *rate > 0)
            .map(|rate| left.div_ceil(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        fn the_cap_holds_over_any_sequence(sizes in prop::collection::vec(1u64..1_000_000, 1..60), gaps in prop::collection::vec(0u64..50, 60), cap in 1_000u64..10_000_000) {
            let mut bucket = Bucket::new();
            let mut now = Duration::from_secs(1);
            let begin = now;
            let mut before_last = 0;
            for (size, gap) in sizes.iter().zip(&gaps) {
                now += Duration::from_millis(*gap);
                now += bucket.take(now, *size, cap);
                // All but the frame that goes out now have been paid for, save the burst.
                let allowed = (now.saturating_sub(begin) + Bucket::BURST).as_secs_f64() * cap as f64;
                prop_assert!(before_last as f64 <= allowed + 1.0, "{before_last} > {allowed}");
                before_last += size;
            }
        }
    }

    #[test]
    fn without_a_cap_nothing_waits_and_a_new_cap_starts_at_once() {
        let mut bucket = Bucket::new();
        let now = Duration::from_secs(5);
        assert_eq!(bucket.take(now, u64::MAX, 0), Duration::ZERO);
        assert_eq!(bucket.take(now, 1000, 1000), Duration::ZERO);
        assert_eq!(bucket.take(now, 1000, 1000), Duration::from_secs(1));
    }

    #[test]
    fn the_rate_follows_and_predicts() {
        let mut rate = Rate::default();
        assert_eq!(rate.eta_seconds(10), None);
        rate.note(Duration::from_secs(1), 0);
        rate.note(Duration::from_secs(2), 1000);
        assert_eq!(
            (rate.per_second(), rate.eta_seconds(2500)),
            (Some(1000), Some(3))
        );
        rate.note(Duration::from_secs(3), 1000);
        assert_eq!(rate.per_second(), Some(700));
    }
}
