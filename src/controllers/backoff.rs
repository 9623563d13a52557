//! Back-off per resource: a resource whose pass failed is left alone for a while, unless a person changes it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::key::Key;
use crate::domain::ErrorClass;

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u64,
    until: Instant,
    generation: Option<i64>,
}

/// The failures in a row of each resource.
#[derive(Debug, Default)]
pub struct Backoff {
    failed: Mutex<HashMap<Key, Failed>>,
}

impl Backoff {
    /// How long the resource is still to be left alone. A new generation is taken up at once.
    pub fn left(&self, key: &Key, generation: Option<i64>, now: Instant) -> Option<Duration> {
        let failed = self.lock();
        let failed = failed.get(key)?;
        (failed.generation == generation && now < failed.until).then(|| failed.until - now)
    }

    /// A pass failed: how long to leave the resource alone.
    pub fn failed(
        &self,
        key: &Key,
        generation: Option<i64>,
        class: ErrorClass,
        now: Instant,
    ) -> Duration {
        let mut all = self.lock();
        let count = all.get(key).map_or(1, |before| before.count + 1);
        let delay = Duration::try_from(class.retry_delay(count)).unwrap_or(Duration::from_mins(1));
        all.insert(
            key.clone(),
            Failed {
                count,
                until: now + delay,
                generation,
            },
        );
        delay
    }

    /// A pass went well, or the resource is gone.
    pub fn clear(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_a_new_generation_ends_them() {
        let backoff = Backoff::default();
        let key = Key::new("ns", "a");
        let now = Instant::now();
        assert_eq!(backoff.left(&key, Some(1), now), None);
        let first = backoff.failed(&key, Some(1), ErrorClass::Transient, now);
        let second = backoff.failed(&key, Some(1), ErrorClass::Transient, now);
        assert!(second > first);
        assert_eq!(backoff.left(&key, Some(1), now), Some(second));
        assert_eq!(backoff.left(&key, Some(2), now), None);
        assert_eq!(backoff.left(&key, Some(1), now + second), None);
        backoff.clear(&key);
        assert_eq!(backoff.left(&key, Some(1), now), None);
    }
}
