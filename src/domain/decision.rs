//! What was decided: at most one effect, and the report.

use jiff::SignedDuration;

use super::action::{Alternate, Submission};
use crate::api::{DataSyncRequest, FailoverStatus, ProtectedVirtualMachineStatus, Site};

/// What was decided. The executor makes no choices of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do, if anything.
    pub effect: Option<Effect>,
    /// What to write of the VM.
    pub status: ProtectedVirtualMachineStatus,
    /// What to write of the current Failover.
    pub failover: Option<FailoverStatus>,
    /// When to look again even if nothing is heard; none when only news matters.
    pub wake_after: Option<SignedDuration>,
    /// How soon new observations are wanted.
    pub pace: Pace,
    /// What to tell.
    pub events: Vec<Event>,
}

/// How soon new observations are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Nothing moves.
    Steady,
    /// Something is copied.
    Busy,
    /// A guest is down: every moment counts.
    Urgent,
}

/// The one thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the next Failover, then write its reference into the VM's status.
    CreateFailover(NewFailover),
    /// Write first, then ask the driver: in a move the Failover's status, with the pending action in it; outside of one the VM's
    /// status. Where that write meets a newer version, nothing is asked: who decides from an old view is not to act on it.
    Submit(Submission),
    /// Let a Failover that has ended go: its finalizer is not needed any more.
    ReleaseFailover {
        /// Its name.
        name: String,
    },
    /// Delete a Failover that has ended, beyond the history to keep.
    DeleteFailover {
        /// Its name.
        name: String,
    },
    /// Let the resource go: remove its finalizer.
    ReleaseVm,
}

/// A Failover to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFailover {
    /// Its number; its name is `<vm>-<number>`. When the name is taken, the next number is.
    pub number: i64,
    /// The site it starts from.
    pub from: Site,
    /// The site it goes to.
    pub to: Site,
    /// The data sync asked for.
    pub data_sync: DataSyncRequest,
    /// Where on the premises it goes to.
    pub alternate: Alternate,
    /// Why it waits for `start: Approved`.
    pub start_held_because: Option<String>,
    /// It is made for a move that is under way, whose own Failover is gone.
    pub taken_up: bool,
}

/// Something to tell, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}
