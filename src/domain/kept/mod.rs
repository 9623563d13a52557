//! The register that Homeward keeps of a VM whose service keeps none.
//!
//! Agents refuse what is older than what they have taken (safety rules S1, S2). A service takes whatever request comes, as often as it comes,
//! and says what it did only by its jobs. So the register of such a VM stands in the status of its resource, written by compare-and-swap before
//! anything is sent, and this module reads the service's jobs as its answers:
//!
//! ```text
//!   settle(register, look, limits, now) ─▶ register    what came of the last request, once that is known for good (S19)
//!   show(register, look, limits, now)   ─▶ look        with marks, claims and operations, as if the service kept registers
//!   admit(register, look, order, limits, now) ─▶ register to store, and what makes the request safe to send (S18)
//!   refused(register)                   ─▶ register    the request was answered, and had no effect
//! ```
//!
//! [`decide`](super::decide()) then needs no word of services: it sees registers and operations in either case.

mod admit;
mod fate;
mod show;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::action::{ActionKind, Mark};
use super::observation::{Claim, JobKind, VmObservation};
use crate::api::{KeptOutcome, KeptRegister, KeptRequest, KeptResult};
use fate::Fate;

pub use admit::{Admitted, Refusal, admit};
pub use show::show;

/// How late a request can have an effect (safety rule S18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For how long after it was decided a request may be sent.
    pub send_within: SignedDuration,
    /// The longest that a request which was sent can take to have an effect.
    pub longest_life: SignedDuration,
}

impl Limits {
    /// The service's front end ends a request after about a minute; a connection on the way to it may hold one for a while longer.
    pub const DEFAULT: Self = Self {
        send_within: SignedDuration::from_secs(30),
        longest_life: SignedDuration::from_secs(180),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How many of the jobs known before are written down, newest first: more than a VM has in a day of moves.
const JOBS_KEPT: usize = 24;

/// What is known for good of the last request, taken down.
#[must_use]
pub fn settle(
    register: &KeptRegister,
    look: &VmObservation,
    limits: Limits,
    now: jiff::Timestamp,
) -> KeptRegister {
    let mut next = register.clone();
    show::note_consistency(&mut next, look);
    if let Some(job) = show::vanished_sync(register, look) {
        next.inconsistent_because = Some(half_written(job));
    }
    let Some(request) = &register.request else {
        return next;
    };
    match fate::of(request, look, limits, now) {
        Fate::Ended(outcome) => {
            if outcome.result != KeptResult::NoEffect {
                take(&mut next, request);
            }
            if let Some(why) = vanished_sync(request, &outcome) {
                next.inconsistent_because = Some(why);
            }
            let cancelled = request.outcome.is_none()
                && outcome.result == KeptResult::Succeeded
                && ActionKind::parse(&request.action) == Some(ActionKind::CancelSync);
            if cancelled {
                next.failover = None;
            }
            if let Some(request) = &mut next.request {
                request.outcome = Some(outcome);
            }
        }
        Fate::Running(job) => {
            take(&mut next, request);
            if let Some(request) = &mut next.request {
                request.job = Some(job.id.clone());
                request.accepted = true;
            }
        }
        Fate::Unresolved(_) => {}
    }
    next
}

/// Invariant 4: a data sync from Azure was seen under way, and whoever looks now is told neither of its job nor of its end.
fn vanished_sync(request: &KeptRequest, outcome: &KeptOutcome) -> Option<String> {
    // Told of once: another sync may have made the copy whole since.
    if request.outcome.is_some() {
        return None;
    }
    let kind = ActionKind::parse(&request.action)?;
    let syncs = fate::job_kind(kind, request.site) == Some(JobKind::Failback);
    let job = request.job.as_ref()?;
    (syncs && outcome.result == KeptResult::NoEffect).then(|| half_written(job))
}

fn half_written(job: &str) -> String {
    format!(
        "a data sync from Azure was under way (job {job}), which the service does not know any more: the disks of the VM on-premises may be half written, and it must not be started there; bring the VM back to completion first"
    )
}

/// The request was answered, and what it was answered says that it had no effect.
#[must_use]
pub fn refused(register: &KeptRegister) -> KeptRegister {
    let mut next = register.clone();
    if let Some(request) = &mut next.request {
        request.outcome = Some(KeptOutcome {
            result: KeptResult::NoEffect,
            job: None,
            class: None,
            message: None,
        });
    }
    next
}

/// The service has said that it took the request.
#[must_use]
pub fn accepted(register: &KeptRegister) -> KeptRegister {
    let mut next = register.clone();
    if let Some(request) = &mut next.request {
        request.accepted = true;
    }
    next
}

fn take(register: &mut KeptRegister, request: &KeptRequest) {
    register.epoch = request.epoch;
    register.step = request.step;
}

fn claim(register: &KeptRegister) -> Claim {
    Claim {
        cluster: register.cluster.clone(),
        vm_uid: register.vm_uid.clone(),
    }
}

fn number(written: i64) -> u64 {
    u64::try_from(written).unwrap_or(0)
}

fn mark(register: &KeptRegister) -> Mark {
    Mark {
        epoch: number(register.epoch),
        step: number(register.step),
    }
}

fn mark_of(request: &KeptRequest) -> Mark {
    Mark {
        epoch: number(request.epoch),
        step: number(request.step),
    }
}

/// S7: whether the look began before the last request was stored, by another process for example: what it shows may be from before that request.
fn is_old(request: &KeptRequest, look: &VmObservation, limits: Limits) -> bool {
    let stored = request.send_before.0.checked_sub(limits.send_within);
    let jobs = look.jobs.as_ref();
    jobs.is_some_and(|jobs| stored.is_ok_and(|stored| jobs.looked < stored))
}

/// From when on a request that left no trace can have no effect any more (safety rule S18).
fn over_at(send_before: &MicroTime, limits: Limits) -> jiff::Timestamp {
    send_before
        .0
        .checked_add(limits.longest_life)
        .unwrap_or(jiff::Timestamp::MAX)
}
