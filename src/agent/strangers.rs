//! Connections that have not yet said who they are. They are few in all and fewer from one address, so that nobody without a
//! certificate keeps others out by connecting and being slow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::host::lock;

/// Those that are waiting to be known.
pub(super) struct Strangers {
    most: usize,
    most_of_one: usize,
    waiting: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped: it is known, or gone.
pub(super) struct Stranger {
    among: Arc<Strangers>,
    from: IpAddr,
}

impl Strangers {
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_one,
            waiting: Mutex::default(),
        })
    }

    /// None when there are too many.
    pub(super) fn come(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        let mut waiting = lock(&self.waiting);
        let of_one = waiting.get(&from).copied().unwrap_or(0);
        if of_one >= self.most_of_one || waiting.values().sum::<usize>() >= self.most {
            return None;
        }
        waiting.insert(from, of_one + 1);
        drop(waiting);
        Some(Stranger {
            among: Arc::clone(self),
            from,
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut waiting = lock(&self.among.waiting);
        if let Some(of_one) = waiting.get_mut(&self.from) {
            *of_one -= 1;
            if *of_one == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place_and_places_come_back() {
        let strangers = Strangers::new(3, 2);
        let at = |last| IpAddr::from([192, 0, 2, last]);
        let first = strangers.come(at(1)).unwrap();
        let _second = strangers.come(at(1)).unwrap();
        assert!(strangers.come(at(1)).is_none(), "its share is taken");
        let other = strangers.come(at(2)).unwrap();
        assert!(strangers.come(at(3)).is_none(), "all places are taken");
        drop(other);
        assert!(strangers.come(at(1)).is_none(), "its share still is");
        drop(first);
        assert!(strangers.come(at(1)).is_some());
    }
}
