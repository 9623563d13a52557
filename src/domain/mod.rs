//! Decisions: what follows from what is wanted and what is seen.
//!
//! Everything here is a pure function of its arguments: no async, no IO, no clock, no randomness, no client. [`decide`] takes a
//! [`World`] and gives a [`Decision`]: at most one effect, and a report of what is waited for, in words a person can act on.
//!
//! ```text
//!   Intent ──────────┐
//!   Observed facts ──┼──▶ decide ──▶ Decision { effect?, status, failover, wake, events }
//!   Record, now ─────┘
//! ```

mod action;
mod capabilities;
mod conditions;
mod data_sync;
mod decide;
mod decision;
mod downtime;
mod fact;
mod failure;
mod intent;
pub mod kept;
mod observation;
mod ownership;
mod world;

pub use action::{Action, ActionKind, Alternate, Attempt, Mark, SecretBytes, Submission};
pub use capabilities::{Capabilities, DirectionCapabilities};
pub use conditions::{ConditionType, Reason, Said, Truth, merge as merge_conditions};
pub use decide::{decide, record_refusal, record_vm_refusal, still_refused};
pub use decision::{Decision, Effect, Event, NewFailover, Pace};
pub use fact::Fact;
pub use failure::ErrorClass;
pub use intent::{DEFAULT_HISTORY_LIMIT, Intent, InvalidIntent};
pub use observation::{
    BySite, Claim, Connection, HostObservation, Job, JobKind, JobState, JobTask, Jobs, MissingJob,
    Operation, OperationState, PerhapsDown, Power, Progress, Protection, ProtectionState, Stage,
    VaultObservation, VmObservation, WholePass,
};
pub use ownership::{Claimant, earlier_owner};
pub use world::{CurrentFailover, FailoverView, FinishedFailover, VaultView, World};
