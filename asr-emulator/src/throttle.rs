//! Request limits: token buckets by kind of request.

use jiff::Timestamp;

use crate::arm::errors::{ArmError, throttled};
use crate::service::Service;

/// What is left of each bucket, in thousandths of a request.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    last: Option<Timestamp>,
    left: [u64; 3],
}

/// The kind of a request, by its method.
pub(crate) fn kind(method: &str) -> (usize, &'static str) {
    match method {
        "GET" | "HEAD" => (0, "reads"),
        "DELETE" => (2, "deletes"),
        _ => (1, "writes"),
    }
}

impl Service {
    /// Takes one request out of its bucket.
    pub(crate) fn take(&mut self, method: &str, now: Timestamp) -> Result<(), ArmError> {
        let Some(limits) = self.settings.throttle else {
            return Ok(());
        };
        let sizes = [limits.reads, limits.writes, limits.writes].map(|size| u64::from(size) * 1000);
        let refills = [
            limits.reads_per_second,
            limits.writes_per_second,
            limits.writes_per_second,
        ];
        let buckets = &mut self.buckets;
        let passed = buckets
            .last
            .map(|last| u64::try_from(now.duration_since(last).as_millis()).unwrap_or(0));
        for at in 0..3 {
            buckets.left[at] = match passed {
                Some(passed) => sizes[at].min(
                    buckets.left[at].saturating_add(passed.saturating_mul(u64::from(refills[at]))),
                ),
                None => sizes[at],
            };
        }
        buckets.last = Some(now);
        let (at, word) = kind(method);
        if buckets.left[at] >= 1000 {
            buckets.left[at] -= 1000;
            return Ok(());
        }
        let wait = (1000 - buckets.left[at]).div_ceil(u64::from(refills[at].max(1)) * 1000);
        Err(throttled(word).with("retry-after", &wait.max(1).to_string()))
    }

    /// What is left, for the answer's header.
    pub(crate) fn remaining(&self, method: &str) -> (String, u64) {
        let (at, word) = kind(method);
        let left = if self.settings.throttle.is_some() {
            self.buckets.left[at] / 1000
        } else {
            [11_999, 1_199, 14_999][at]
        };
        (
            format!("x-ms-ratelimit-remaining-subscription-{word}"),
            left,
        )
    }
}
