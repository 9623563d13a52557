//! Places between two effects where a test lets the agent die.
//!
//! In the product nothing is ever armed, and a place costs one look at an empty list.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The places that are armed. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Failpoints {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    armed: Mutex<BTreeSet<String>>,
    reached: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl Failpoints {
    /// Whoever comes to this place next stays there for ever, as if the process had died in between.
    pub fn arm(&self, place: &str) {
        self.inner
            .armed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(place.to_owned());
    }

    /// Waits until somebody has come to the place.
    pub async fn reached(&self, place: &str) {
        loop {
            let changed = self.inner.changed.notified();
            if self
                .inner
                .reached
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(place)
            {
                return;
            }
            changed.await;
        }
    }

    /// Passes the place, unless it is armed.
    pub(crate) async fn pass(&self, place: &str) {
        let hit = {
            let armed = self
                .inner
                .armed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            !armed.is_empty() && armed.contains(place)
        };
        if hit {
            self.inner
                .reached
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(place.to_owned());
            self.inner.changed.notify_waiters();
            std::future::pending::<()>().await;
        }
    }
}
