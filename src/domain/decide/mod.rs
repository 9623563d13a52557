//! `decide`: what follows from a [`World`].
//!
//! ```text
//!   status names a Failover? ──yes──▶ failover: the phases of one move
//!            │no
//!            ▼
//!   settled: adopt, protect, compare the place with the placement, begin the next move, let go
//! ```
//!
//! Everything is derived anew from the resources and the observation; the phase in a Failover's status only says how far the
//! move was when it was last written, and what the registers show is stronger.

mod failover;
mod report;
mod settled;
mod tasks;
mod wait;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::action::{Mark, Submission};
use super::conditions::{ConditionType, Reason};
use super::decision::{Decision, Effect, Event, Pace};
use super::fact::Fact;
use super::failure::ErrorClass;
use super::observation::{Connection, Stage, VmObservation};
use super::world::{CurrentFailover, VaultView, World};
use crate::api::{
    FailoverOutcome, FailoverStatus, FailureStatus, LastFailoverStatus, PendingActionStatus,
    ProtectedVirtualMachineStatus, Site,
};
use wait::{Wait, Waiting};

/// Decides. Total and deterministic: the same world gives the same decision.
#[must_use]
pub fn decide(world: &World<'_>) -> Decision {
    if let Some(absent) = without_another_vm(world) {
        return decide_on(&absent);
    }
    if let Some(unseen) = without_old_look(world) {
        return decide_on(&unseen);
    }
    decide_on(world)
}

/// A VM made anew under the name is not the VM that was taken on: its disks must not replace the replica of that one.
fn without_another_vm<'a>(world: &World<'a>) -> Option<World<'a>> {
    let known = world.status.virtual_machine_id.as_deref()?;
    let seen = report::seen(world)?;
    let Fact::Known(view) = &world.vault else {
        return None;
    };
    // Of two of the name one is shown, and that they contradict each other is the stronger word.
    let contradicts = matches!(seen.stage, Fact::Known(Stage::Contradiction { .. }));
    (seen.id != known && !contradicts).then(|| World {
        vault: Fact::Known(VaultView {
            vm: Fact::Absent,
            ..view.clone()
        }),
        ..world.clone()
    })
}

/// S7: registers only grow, so that one that shows less than was written down was read before that. Nothing is known from such a look.
fn without_old_look<'a>(world: &World<'a>) -> Option<World<'a>> {
    let written = written_mark(world.status.epoch, world.status.step);
    let vm = report::seen(world)?;
    let newest = vm.newest_mark()?;
    let Fact::Known(view) = &world.vault else {
        return None;
    };
    // What no newer look can mend is the stronger word. In a move, orders that cross a look make the sides contradict each other for a moment.
    let moving = matches!(world.failover, CurrentFailover::Known(_));
    let lasting = match vm.stage.known() {
        Some(Stage::Unreadable { .. }) => true,
        // A register that is gone is not brought back by a newer look.
        Some(Stage::Contradiction { .. }) => !moving || without_register(vm).is_some(),
        // In a move nothing follows from such a look either, and there it is said whose register is gone.
        _ => moving && without_register(vm).is_some(),
    };
    (!lasting && !vm.reaches(written)).then(|| World {
        vault: Fact::Known(VaultView {
            vm: Fact::Unknown(format!(
                "a newer look: the registers were seen at {newest}, and at {written} before{}; if a host was put back to an earlier state, see the runbook on contradicting registers",
                without_register(vm).map_or_else(String::new, |site| format!(", and {site} has none of the VM now"))
            )),
            ..view.clone()
        }),
        ..world.clone()
    })
}

/// A site that has no register of the VM.
fn without_register(vm: &VmObservation) -> Option<Site> {
    Site::BOTH
        .into_iter()
        .find(|site| vm.marks[*site] == Fact::Absent)
}

/// Why something is not known: the site that does not answer, where one does not.
fn unknown_because(view: &VaultView<'_>) -> Reason {
    let silent = |site: Site| matches!(view.sites[site], Connection::Disconnected(_));
    if Site::BOTH.into_iter().any(silent) {
        Reason::SiteDisconnected
    } else {
        Reason::ObservationUnknown
    }
}

/// S4, S8: what is said of registers that nobody can act on.
fn no_guess(seen: &str) -> String {
    format!("{seen}; see the runbook on contradicting registers")
}

/// Why a VM may be down where it should run, until a person has looked or a move has come to its end: nothing else tells.
fn told_to_stop(world: &World<'_>, vm: &VmObservation) -> Option<String> {
    let down = vm.perhaps_down.as_ref()?;
    let annotation = crate::api::SEEN_RUNNING_ANNOTATION;
    let other = match world.intent.seen_running.as_deref() {
        Some(job) if job.eq_ignore_ascii_case(&down.job) => return None,
        Some(job) => format!(" (it names {job} now)"),
        None => String::new(),
    };
    Some(format!(
        "{}. See whether it runs, and start it there if it does not; then set the annotation {annotation}: {} on this resource{other}",
        down.what, down.job
    ))
}

fn written_mark(epoch: Option<i64>, step: Option<i64>) -> Mark {
    let number = |written: Option<i64>| written.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Mark {
        epoch: number(epoch),
        step: number(step),
    }
}

fn decide_on(world: &World<'_>) -> Decision {
    match world.failover {
        CurrentFailover::Known(view) => failover::decide(world, view),
        CurrentFailover::None | CurrentFailover::Missing => settled::decide(world),
    }
}

/// What an answer that is not an acceptance does to the record of a move: a refusal is counted and the action decided anew after a
/// while; an answer that never came leaves the pending action standing, since it may have taken effect.
#[must_use]
pub fn record_refusal(
    status: &FailoverStatus,
    class: ErrorClass,
    message: &str,
    ambiguous: bool,
    now: Timestamp,
) -> FailoverStatus {
    let mut status = status.clone();
    let pending = status.pending_action.as_ref();
    let action = pending.map(|pending| pending.action.clone());
    if !ambiguous {
        // S2: a refusal speaks of the message that was answered; one that was sent before may still arrive.
        status.pending_action = status
            .pending_action
            .filter(|pending| pending.unresolved)
            .map(|pending| PendingActionStatus {
                refused: true,
                ..pending
            });
    }
    if let Some(refused) = &action
        && !ambiguous
    {
        tasks::set(
            &mut status,
            refused,
            crate::api::TaskState::Failed,
            Some(message.to_owned()),
            now,
        );
    }
    status.failure = Some(next_failure(status.failure.as_ref(), class, message, now));
    status
}

/// What is stored before an action is asked for that belongs to no move: what was decided, and what was said of its last refusal until it is
/// accepted. None when nothing was refused.
#[must_use]
pub fn still_refused(
    before: &ProtectedVirtualMachineStatus,
    decided: &ProtectedVirtualMachineStatus,
) -> Option<ProtectedVirtualMachineStatus> {
    let refused = |condition: &&crate::api::Condition| {
        condition.type_ == ConditionType::Ready.as_str()
            && condition.reason == super::conditions::Reason::ActionFailed.as_str()
    };
    before.conditions.iter().find(refused)?;
    let mut status = decided.clone();
    status.phase = before.phase;
    status.conditions = with_standing_of(before.conditions.clone(), &decided.conditions);
    Some(status)
}

/// `Ready`, `Reconciling` and `Stalled` as they are in `standing`, and all the others as in `decided`.
fn with_standing_of(
    standing: Vec<crate::api::Condition>,
    decided: &[crate::api::Condition],
) -> Vec<crate::api::Condition> {
    let of_standing = |condition: &crate::api::Condition| {
        [
            ConditionType::Ready,
            ConditionType::Reconciling,
            ConditionType::Stalled,
        ]
        .iter()
        .any(|kind| kind.as_str() == condition.type_)
    };
    let mut all: Vec<_> = standing.into_iter().filter(of_standing).collect();
    all.extend(decided.iter().filter(|other| !of_standing(other)).cloned());
    all
}

/// What an answer that is not an acceptance does to the record of a VM, for an action that belongs to no move: it is said, and tried
/// again after a while.
#[must_use]
pub fn record_vm_refusal(
    before: &ProtectedVirtualMachineStatus,
    decided: &ProtectedVirtualMachineStatus,
    class: ErrorClass,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> ProtectedVirtualMachineStatus {
    let mut status = decided.clone();
    let said = |kind, truth| {
        super::conditions::Said::new(
            kind,
            truth,
            super::conditions::Reason::ActionFailed,
            message,
        )
    };
    let second = if class.needs_person() {
        ConditionType::Stalled
    } else {
        ConditionType::Reconciling
    };
    let conditions = super::conditions::merge(
        &before.conditions,
        vec![
            said(ConditionType::Ready, super::conditions::Truth::False),
            said(second, super::conditions::Truth::True),
        ],
        generation,
        now,
    );
    status.conditions = with_standing_of(conditions, &decided.conditions);
    if class.needs_person() {
        status.phase = Some(crate::api::VirtualMachinePhase::Stalled);
    }
    status
}

fn next_failure(
    before: Option<&FailureStatus>,
    class: ErrorClass,
    message: &str,
    now: Timestamp,
) -> FailureStatus {
    // What failed for another kind of reason was another failure.
    let count = before
        .filter(|failure| failure.class == class.as_str())
        .map_or(1, |failure| failure.count.saturating_add(1));
    let delay = class.retry_delay(u64::try_from(count).unwrap_or(1));
    FailureStatus {
        count,
        class: class.as_str().into(),
        message: message.into(),
        time: MicroTime(now),
        retry_time: now.checked_add(delay).ok().map(MicroTime),
    }
}

fn pending_mark(pending: &PendingActionStatus) -> Mark {
    Mark {
        epoch: u64::try_from(pending.epoch).unwrap_or(0),
        step: u64::try_from(pending.step).unwrap_or(0),
    }
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn milliseconds_between(from: &MicroTime, to: &MicroTime) -> i64 {
    i64::try_from(to.0.duration_since(from.0).as_millis())
        .unwrap_or(i64::MAX)
        .max(0)
}

/// How long to sleep when only news matters but a wait can be overlooked.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(60);

fn until(now: Timestamp, then: Timestamp) -> SignedDuration {
    then.duration_since(now)
        .max(SignedDuration::from_millis(50))
}

fn submission(
    world: &World<'_>,
    action: super::action::Action,
    mark: Mark,
    failover: Option<&str>,
) -> Effect {
    Effect::Submit(Submission {
        action,
        mark,
        claim: world.claim.clone(),
        failover: failover.map(ToOwned::to_owned),
        alternate: match world.failover {
            CurrentFailover::Known(view) => view.alternate(),
            CurrentFailover::None | CurrentFailover::Missing => super::action::Alternate::default(),
        },
        encryption_key: None,
        attempt: None,
    })
}

fn last_failover(
    world: &World<'_>,
    view: super::world::FailoverView<'_>,
    outcome: FailoverOutcome,
) -> LastFailoverStatus {
    LastFailoverStatus {
        name: view.name.into(),
        uid: view.uid.into(),
        from: view.spec.from,
        to: view.spec.to,
        outcome,
        time: Time(world.now),
    }
}

/// The words for a VM that goes by another name on its hosts.
fn renamed(world: &World<'_>, name: &str) -> String {
    format!(
        "the VM of UUID {} to be named {} on its hosts again: it is {name} there now; rename it back, since spec.virtualMachineName is immutable",
        world
            .status
            .virtual_machine_id
            .as_deref()
            .unwrap_or_default(),
        world.intent.vm_name
    )
}

fn event(warning: bool, reason: &'static str, message: impl Into<String>) -> Event {
    Event {
        warning,
        reason,
        message: message.into(),
    }
}

fn pace_of(wait: Option<&Wait>, moving: bool) -> Pace {
    match wait.map(|wait| wait.waiting) {
        Some(Waiting::Operation) | None if moving => Pace::Busy,
        _ => Pace::Steady,
    }
}
