//! Time: the world's, the world's at another speed, or a test's.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::jobs::run::later;

/// Which time the emulator has.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    /// The world's, so many times as fast.
    Real {
        /// 1 for the world's own.
        speed: u32,
    },
    /// It stands still until a test moves it.
    Manual {
        /// When it begins; the world's time when there is none.
        start: Option<Timestamp>,
    },
}

#[derive(Debug)]
enum Kind {
    Real {
        from: Timestamp,
        begun: Instant,
        speed: u32,
    },
    Manual(watch::Sender<Timestamp>),
}

/// The emulator's clock.
#[derive(Debug)]
pub struct Clock {
    kind: Kind,
    moving: Mutex<()>,
}

impl Clock {
    /// A clock that never shows an earlier time than `least`.
    pub(crate) fn new(time: Time, least: Option<Timestamp>) -> Self {
        let world = Timestamp::now();
        let from = least.map_or(world, |least| least.max(world));
        let kind = match time {
            Time::Real { speed } => Kind::Real {
                from,
                begun: Instant::now(),
                speed: speed.max(1),
            },
            Time::Manual { start } => {
                let start = start.unwrap_or(world);
                let start = least.map_or(start, |least| least.max(start));
                Kind::Manual(watch::Sender::new(start))
            }
        };
        Self {
            kind,
            moving: Mutex::new(()),
        }
    }

    /// The emulator's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::Real { from, begun, speed } => {
                let passed = begun
                    .elapsed()
                    .as_millis()
                    .saturating_mul(u128::from(*speed));
                later(*from, u64::try_from(passed).unwrap_or(u64::MAX / 2))
            }
            Kind::Manual(now) => *now.borrow(),
        }
    }

    /// Moves a test's clock; says whether it is one.
    pub fn advance(&self, by: Duration) -> bool {
        let Kind::Manual(now) = &self.kind else {
            return false;
        };
        let _one_at_a_time = self.moving.lock();
        let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
        now.send_modify(|now| *now = now.checked_add(by).unwrap_or(Timestamp::MAX));
        true
    }

    /// Waits for that many milliseconds of the emulator's time.
    pub(crate) async fn sleep(&self, millis: u64) {
        match &self.kind {
            Kind::Real { speed, .. } => {
                tokio::time::sleep(Duration::from_millis(millis / u64::from(*speed))).await;
            }
            Kind::Manual(now) => {
                let until = later(self.now(), millis);
                let mut seen = now.subscribe();
                // The sender lives as long as the clock does.
                let _ = seen.wait_for(|now| *now >= until).await;
            }
        }
    }
}
