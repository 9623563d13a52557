//! S9: who may write now. One gate a VM; every write passes it with the number of its session.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};

/// How long a new session waits for the write under way of the one before it. Most take milliseconds; an undo, or a disk that hangs,
/// may take far longer than whoever waits can be kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// The gate of one VM's disks. Shared by whoever receives, starts, undoes or seals.
#[derive(Default)]
pub struct Gate {
    state: RwLock<GateState>,
    kick: Mutex<Option<(u64, Kick)>>,
}

type Kick = Box<dyn Fn() + Send>;

#[derive(Debug, Default)]
struct GateState {
    epoch: u64,
    number: u64,
    closed: bool,
}

/// The session is not the current one any more, or none may write now. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is barred: a newer one, or the host, has taken its place")]
pub struct Barred;

/// No session could be opened. The one before it, if any, stays what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// The gate is closed, or has seen a higher epoch.
    #[error(transparent)]
    Barred(#[from] Barred),
    /// The session before it is at something that takes long.
    #[error("the session before it is still at a write or an undo on the disks; try again")]
    Busy,
}

impl Gate {
    /// An open gate without a session.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens a session for an order of this epoch, and closes the one before: it has ended its last write when this returns.
    /// Call it where the right to write is decided, under the same lock, so that nothing changes in between; for the sake of that lock it
    /// waits no longer than a few seconds.
    ///
    /// # Errors
    /// [`NotOpened`]: nothing has changed then.
    pub fn open_session(self: &Arc<Self>, epoch: u64) -> Result<Session, NotOpened> {
        self.open_within(epoch, PATIENCE)
    }

    fn open_within(self: &Arc<Self>, epoch: u64, patience: Duration) -> Result<Session, NotOpened> {
        let state = self.state.try_write_for(patience);
        let mut state = state.ok_or(NotOpened::Busy)?;
        if state.closed || epoch < state.epoch {
            return Err(Barred.into());
        }
        state.epoch = epoch;
        state.number += 1;
        let number = state.number;
        drop(state);
        self.kick_out();
        Ok(Session {
            gate: Arc::clone(self),
            epoch,
            number,
        })
    }

    /// Bars every session, and new ones until [`Gate::reopen`]. When it returns, no write is under way and none can begin.
    pub fn close_all(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.number += 1;
        drop(state);
        self.kick_out();
    }

    /// Lets new sessions in again. Those that were barred stay barred.
    pub fn reopen(&self) {
        self.state.write().closed = false;
    }

    /// Whether a session could be opened.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.read().closed
    }

    /// Ends the connection of the session that was barred, so that it lets go of the disks soon.
    fn kick_out(&self) {
        if let Some((_, kick)) = self.kicks().take() {
            kick();
        }
    }

    fn kicks(&self) -> MutexGuard<'_, Option<(u64, Kick)>> {
        self.kick.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// One session's right to write.
#[derive(Debug, Clone)]
pub struct Session {
    gate: Arc<Gate>,
    epoch: u64,
    number: u64,
}

impl Session {
    /// Its number, unique for this gate.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The epoch of its order.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Passes the gate for one write. While the guard lives, nobody can close the gate.
    ///
    /// # Errors
    /// [`Barred`] when this is not the current session.
    pub fn enter(&self) -> Result<Entered<'_>, Barred> {
        let state = self.gate.state.read();
        // S9: the number is checked at every write, under the lock that closing takes.
        if state.closed || state.number != self.number || state.epoch != self.epoch {
            Err(Barred)
        } else {
            Ok(Entered { _state: state })
        }
    }

    /// What to do when the session is barred: end its connection. Done at once when it is barred already.
    pub fn on_barred(&self, kick: impl Fn() + Send + 'static) {
        let mut kicks = self.gate.kicks();
        if self.enter().is_ok() {
            *kicks = Some((self.number, Box::new(kick)));
        } else {
            drop(kicks);
            kick();
        }
    }

    /// Forgets what [`Session::on_barred`] was told.
    pub fn forget(&self) {
        let mut kicks = self.gate.kicks();
        if kicks
            .as_ref()
            .is_some_and(|(number, _)| *number == self.number)
        {
            *kicks = None;
        }
    }
}

/// The right to do one write, now.
#[derive(Debug)]
pub struct Entered<'a> {
    _state: RwLockReadGuard<'a, GateState>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn s09_only_the_newest_session_enters() {
        let gate = Gate::new();
        let first = gate.open_session(3).unwrap();
        let kicked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&kicked);
        first.on_barred(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        assert!(first.enter().is_ok());
        let second = gate.open_session(3).unwrap();
        assert_eq!(kicked.load(Ordering::SeqCst), 1);
        assert_eq!(first.enter().unwrap_err(), Barred);
        assert!(second.enter().is_ok());
        assert_eq!(gate.open_session(2).unwrap_err(), Barred.into());
        assert!(second.enter().is_ok(), "a refused order bars nobody");
        gate.close_all();
        assert_eq!(second.enter().unwrap_err(), Barred);
        assert_eq!(gate.open_session(9).unwrap_err(), Barred.into());
        gate.reopen();
        assert_eq!(second.enter().unwrap_err(), Barred);
        assert!(gate.open_session(3).unwrap().enter().is_ok());
    }

    #[test]
    fn a_session_at_something_long_keeps_nobody_waiting_and_stays_what_it_is() {
        let gate = Gate::new();
        let session = gate.open_session(1).unwrap();
        let entered = session.enter().unwrap();
        let second = gate.open_within(2, Duration::ZERO);
        assert_eq!(second.unwrap_err(), NotOpened::Busy);
        drop(entered);
        assert!(session.enter().is_ok());
        assert!(gate.open_within(2, Duration::ZERO).is_ok());
    }

    #[test]
    fn s09_closing_waits_for_the_write_under_way() {
        let gate = Gate::new();
        let session = gate.open_session(1).unwrap();
        let written = AtomicUsize::new(0);
        let entered = session.enter().unwrap();
        std::thread::scope(|scope| {
            let closer = scope.spawn(|| {
                gate.close_all();
                written.load(Ordering::SeqCst)
            });
            written.store(1, Ordering::SeqCst);
            drop(entered);
            assert_eq!(closer.join().unwrap(), 1);
        });
    }
}
