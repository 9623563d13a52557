//! From what was decided to status and conditions, as kstatus reads them: moving is `Reconciling=True`, `Ready=False`; waiting for a
//! person is `Ready=True` with the reason and `Placed=False`; what a person must mend is `Stalled=True`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::conditions::{ConditionType, Reason, Said, Truth, merge};
use super::super::decision::{Decision, Event, Pace};
use super::super::fact::Fact;
use super::super::observation::{
    Progress, Protection, ProtectionState, Stage, VmObservation, WholePass,
};
use super::super::world::{CurrentFailover, FailoverView, World};
use super::to_i64;
use super::wait::{Wait, Waiting};
use crate::api::{
    Condition, DataSync, FailoverOutcome, FailoverPhase, FailoverStatus, Health,
    LastFailoverStatus, MeasuredDowntime, ProgressStatus, ProtectedVirtualMachineStatus,
    ReplicationStatus, VirtualMachinePhase,
};

/// What `Ready` says, and what goes with it.
pub struct Standing {
    /// Reason of `Ready`.
    pub reason: Reason,
    /// Message of `Ready`.
    pub message: String,
    /// The wait, if any.
    pub waiting: Option<Waiting>,
    /// Something is under way.
    pub moving: bool,
}

fn stand(said: &mut Vec<Said>, standing: &Standing) {
    let Standing {
        reason,
        message,
        waiting,
        moving,
    } = standing;
    let (ready, extra) = match waiting {
        Some(Waiting::Mend) => (Truth::False, Some(ConditionType::Stalled)),
        Some(Waiting::Operation | Waiting::Outside) => {
            (Truth::False, Some(ConditionType::Reconciling))
        }
        None if *moving => (Truth::False, Some(ConditionType::Reconciling)),
        Some(Waiting::Person | Waiting::Suspended) | None => (Truth::True, None),
    };
    said.push(Said::new(
        ConditionType::Ready,
        ready,
        *reason,
        message.clone(),
    ));
    if let Some(kind) = extra {
        said.push(Said::new(kind, Truth::True, *reason, message.clone()));
    }
}

fn reason_of(wait: Option<&Wait>) -> Reason {
    if let Some(reason) = wait.and_then(|wait| wait.reason) {
        return reason;
    }
    match wait.map(|wait| wait.waiting) {
        Some(Waiting::Person) => Reason::AwaitingApproval,
        Some(Waiting::Suspended) => Reason::Suspended,
        Some(Waiting::Mend) => Reason::ActionFailed,
        Some(Waiting::Operation | Waiting::Outside) | None => Reason::FailingOver,
    }
}

/// Conditions of a Failover.
pub fn failover_conditions(
    status: &FailoverStatus,
    before: &[Condition],
    wait: Option<&Wait>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut said = Vec::new();
    let ended = match status.phase {
        Some(phase) if phase.is_final() => status.outcome,
        _ => None,
    };
    let standing = match ended {
        Some(FailoverOutcome::Succeeded) => Standing {
            reason: Reason::Completed,
            message: "the VM was moved and the move is committed".into(),
            waiting: None,
            moving: false,
        },
        Some(outcome) => Standing {
            reason: Reason::NotMoved,
            message: format!(
                "{outcome:?}: {}",
                status
                    .turned_back_because
                    .as_deref()
                    .unwrap_or("the VM is at its source")
            ),
            waiting: None,
            moving: false,
        },
        None => {
            let waiting = wait.map(|wait| wait.waiting);
            let phase = status.phase.unwrap_or(FailoverPhase::AwaitingStart);
            let message = wait.map_or_else(
                || format!("{phase:?}"),
                |wait| format!("waits for {}", wait.text),
            );
            Standing {
                reason: reason_of(wait),
                message,
                waiting,
                moving: true,
            }
        }
    };
    stand(&mut said, &standing);
    merge(before, said, generation, now)
}

/// Told once, when a person has to mend something from now on. An action that failed has been told of already, each time that it was tried.
pub fn newly_stalled(before: &[Condition], after: &[Condition]) -> Option<Event> {
    let stalled = |all: &[Condition]| {
        let kind = ConditionType::Stalled.as_str();
        all.iter()
            .find(|it| it.type_ == kind && it.status == Truth::True.as_str())
            .cloned()
    };
    let now = stalled(after)?;
    if stalled(before).is_some_and(|was| was.reason == now.reason) {
        return None;
    }
    let reason = Reason::ALL
        .iter()
        .find(|reason| reason.as_str() == now.reason)?;
    (*reason != Reason::ActionFailed).then(|| super::event(true, reason.as_str(), now.message))
}

/// Status of a VM while a move is under way.
pub fn moving(
    world: &World<'_>,
    fo: FailoverView<'_>,
    failover: &FailoverStatus,
    wait: Option<&Wait>,
) -> ProtectedVirtualMachineStatus {
    let mut status = observed(world);
    let waiting = wait.map(|wait| wait.waiting);
    let phase = failover.phase.unwrap_or(FailoverPhase::AwaitingStart);
    let leaving = if world.intent.deleting {
        "is being deleted once its move has come to a safe end: "
    } else {
        ""
    };
    let message = match wait {
        Some(wait) => format!(
            "{leaving}Failover {} is {phase:?} and waits for {}",
            fo.name, wait.text
        ),
        None => format!("{leaving}Failover {} is {phase:?}", fo.name),
    };
    status.phase = Some(match waiting {
        Some(Waiting::Person) => VirtualMachinePhase::AwaitingApproval,
        Some(Waiting::Suspended) => VirtualMachinePhase::Suspended,
        Some(Waiting::Mend) => VirtualMachinePhase::Stalled,
        _ => VirtualMachinePhase::FailingOver,
    });
    if let Some(downtime) = &failover.downtime {
        if let (Some(ordered), Some(stopped), Some(start), Some(started)) = (
            &downtime.stop_ordered_time,
            &downtime.stopped_time,
            &downtime.start_ordered_time,
            &downtime.started_time,
        ) {
            // What a whole disk took says nothing of a delta.
            let delta = failover
                .data_sync
                .as_ref()
                .is_some_and(|choice| choice.chosen == DataSync::DeltaBeforeFailover);
            let before = status.measured_downtime.take();
            let (took, sent) = if delta {
                let sent = failover.transfer.as_ref().map(|sent| sent.final_bytes);
                (Some(super::milliseconds_between(stopped, start)), sent)
            } else {
                before.map_or((None, None), |before| {
                    (before.last_delta_milliseconds, before.last_delta_bytes)
                })
            };
            status.measured_downtime = Some(MeasuredDowntime {
                shutdown_milliseconds: super::milliseconds_between(ordered, stopped),
                start_milliseconds: super::milliseconds_between(start, started),
                last_delta_milliseconds: took,
                last_delta_bytes: sent,
            });
        }
    }
    let standing = Standing {
        reason: reason_of(wait),
        message,
        waiting,
        moving: true,
    };
    say(world, &mut status, &standing);
    status
}

/// A move has ended: the VM's status lets go of it.
pub fn closed(world: &World<'_>, last: LastFailoverStatus, failover: &FailoverStatus) -> Decision {
    let mut status = observed(world);
    status.current_failover = None;
    status.next_start_held_because = held_after(world, &last, failover);
    let warning = last.outcome == FailoverOutcome::Failed;
    let message = format!(
        "{} from {} to {}: {:?}",
        last.name, last.from, last.to, last.outcome
    );
    status.last_failover = Some(last);
    status.phase = Some(VirtualMachinePhase::Pending);
    let standing = Standing {
        reason: Reason::FailingOver,
        message: message.clone(),
        waiting: None,
        moving: true,
    };
    say(world, &mut status, &standing);
    let events = vec![Event {
        warning,
        reason: "FailoverEnded",
        message,
    }];
    Decision {
        effect: None,
        status,
        failover: None,
        wake_after: Some(jiff::SignedDuration::from_millis(10)),
        pace: Pace::Steady,
        events,
    }
}

/// How far a copy is, in words and figures. What was written less than `every` seconds ago stands.
pub fn progress(
    progress: &Progress,
    before: Option<&ProgressStatus>,
    now: Timestamp,
    every: i64,
) -> Option<ProgressStatus> {
    if let Some(before) = before {
        let age = now.duration_since(before.observed_time.0).as_secs();
        if (0..every).contains(&age) {
            return Some(before.clone());
        }
    }
    let left = progress
        .bytes_total
        .map(|total| total.saturating_sub(progress.bytes_done));
    let eta = match (left, progress.bytes_per_second) {
        (Some(left), Some(rate)) if rate > 0 => {
            let seconds = i64::try_from(left / rate).ok()?;
            now.checked_add(jiff::SignedDuration::from_secs(seconds))
                .ok()
                .map(Time)
        }
        _ => None,
    };
    let summary = match progress.bytes_total {
        Some(total) if total > 0 => format!(
            "{}% of {} MiB",
            progress.bytes_done.saturating_mul(100) / total,
            total >> 20
        ),
        _ => format!("{} MiB", progress.bytes_done >> 20),
    };
    Some(ProgressStatus {
        summary,
        bytes_done: to_i64(progress.bytes_done),
        bytes_total: progress.bytes_total.map(to_i64),
        bytes_per_second: progress.bytes_per_second.map(to_i64),
        estimated_completion_time: eta,
        observed_time: Time(now),
    })
}

/// How often the progress of a first replica is written at most, in seconds.
const SEEDING_INTERVAL: i64 = 10;

/// The status as it stands, with all that the observation says of the VM.
pub fn observed(world: &World<'_>) -> ProtectedVirtualMachineStatus {
    let mut status = world.status.clone();
    status.observed_generation = world.generation;
    let Some(vm) = seen(world) else { return status };
    status.virtual_machine_id = Some(vm.id.clone());
    let active = vm.stage.known().and_then(Stage::active);
    // S8: in a move, a side that has lost its register makes the other one look like the one that counts.
    let written = super::written_mark(world.status.epoch, world.status.step);
    let midway = vm.stage.known().is_some_and(Stage::is_midway);
    let behind = midway && vm.newest_mark().is_some_and(|newest| newest < written);
    if let Some(site) = active.filter(|_| !behind) {
        if status.active_site != Some(site) || status.active_since.is_none() {
            status.active_site = Some(site);
            status.active_since = Some(Time(vm.active_since.unwrap_or(world.now)));
        }
        if let Some(newest) = vm.newest_mark() {
            status.epoch = Some(to_i64(newest.epoch));
            status.step = Some(to_i64(newest.step));
        }
    }
    match &vm.protection {
        Fact::Known(protection) => {
            let health = match &protection.state {
                ProtectionState::Replicating if !protection.overdue => Health::Normal,
                ProtectionState::Replicating
                | ProtectionState::Seeding
                | ProtectionState::Paused => Health::Warning,
                ProtectionState::Failing(_) => Health::Critical,
            };
            let before = status
                .replication
                .take()
                .filter(|before| before.from == protection.from)
                .and_then(|before| before.progress);
            // Of the first replica alone: what follows it is small, and comes all the time.
            let seeding = protection
                .progress
                .as_ref()
                .filter(|_| protection.last_whole.is_none());
            status.replication = Some(ReplicationStatus {
                from: protection.from,
                to: protection.from.other(),
                health,
                progress: seeding.and_then(|under_way| {
                    progress(under_way, before.as_ref(), world.now, SEEDING_INTERVAL)
                }),
            });
        }
        Fact::Absent => status.replication = None,
        Fact::Unknown(_) => {
            if let Some(replication) = &mut status.replication {
                replication.health = Health::Unknown;
            }
        }
    }
    status
}

/// Why the next move waits for a person, after this one.
fn held_after(
    world: &World<'_>,
    last: &LastFailoverStatus,
    failover: &FailoverStatus,
) -> Option<String> {
    let placement = world.intent.placement;
    let moved = last.outcome == FailoverOutcome::Succeeded;
    // A person was asked and has accepted it: a placement that was there before does not undo that by itself.
    let taken_up = matches!(world.failover, CurrentFailover::Known(fo) if fo.taken_up);
    if taken_up && moved && placement == last.from {
        return Some(format!(
            "{}, a move to {} that was under way before a Failover was made for it, was accepted, and the placement may be older",
            last.name, last.to
        ));
    }
    (!moved && placement == last.to).then(|| {
        let why = failover
            .turned_back_because
            .as_deref()
            .unwrap_or("it could not be done");
        format!(
            "the last one, {}, ended {:?} ({why}) and the placement stayed {}",
            last.name, last.outcome, last.to
        )
    })
}

/// The VM as last seen, when it was.
pub fn seen<'a>(world: &'a World<'_>) -> Option<&'a VmObservation> {
    match &world.vault {
        Fact::Known(view) => view.vm.known().copied(),
        Fact::Absent | Fact::Unknown(_) => None,
    }
}

/// Writes the conditions of a VM.
pub fn say(world: &World<'_>, status: &mut ProtectedVirtualMachineStatus, standing: &Standing) {
    let mut said = Vec::new();
    stand(&mut said, standing);
    said.push(placed(world, status, standing));
    said.push(protected(world));
    said.push(target_consistent(world));
    status.conditions = merge(&world.status.conditions, said, world.generation, world.now);
}

fn placed(world: &World<'_>, status: &ProtectedVirtualMachineStatus, standing: &Standing) -> Said {
    let kind = ConditionType::Placed;
    let wanted = world.intent.placement;
    let contradicted = seen(world).is_some_and(|vm| {
        matches!(
            vm.stage,
            Fact::Known(Stage::Contradiction { .. } | Stage::Unreadable { .. })
        )
    });
    if contradicted {
        return Said::new(
            kind,
            Truth::Unknown,
            Reason::RegistersContradict,
            "the registers do not say which site holds the right to run the VM",
        );
    }
    match status.active_site {
        None => Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            "the VM has not been seen yet",
        ),
        Some(site) if site == wanted && committed(world, status) => Said::new(
            kind,
            Truth::True,
            Reason::AsDeclared,
            format!("{site} holds the right to run the VM"),
        ),
        Some(_) => Said::new(
            kind,
            Truth::False,
            standing.reason,
            standing.message.clone(),
        ),
    }
}

/// Whether no move is under way that could still take the right to run away.
fn committed(world: &World<'_>, status: &ProtectedVirtualMachineStatus) -> bool {
    let rests =
        || seen(world).is_some_and(|vm| matches!(vm.stage, Fact::Known(Stage::Settled { .. })));
    match world.failover {
        _ if status.current_failover.is_none() => true,
        CurrentFailover::Known(failover) => failover.spec.to == world.intent.placement && rests(),
        CurrentFailover::None | CurrentFailover::Missing => false,
    }
}

fn protected(world: &World<'_>) -> Said {
    let kind = ConditionType::Protected;
    let Some(vm) = seen(world) else {
        return Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            "the VM has not been seen",
        );
    };
    // What a synchronisation home brings over is no recovery point.
    let heard = vm.protection.why_unknown().is_none();
    if let Some(why) = never_protects(world, vm).filter(|_| heard) {
        let reason = Reason::ServiceDoesNotProtectFromAzure;
        return Said::new(kind, Truth::False, reason, why);
    }
    match &vm.protection {
        Fact::Unknown(why) => Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            why.clone(),
        ),
        Fact::Absent => Said::new(
            kind,
            Truth::False,
            Reason::NotProtected,
            "nothing is replicated",
        ),
        Fact::Known(protection) => {
            let to = protection.from.other();
            match (&protection.state, &protection.last_whole) {
                (ProtectionState::Failing(why), _) => {
                    Said::new(kind, Truth::False, Reason::ReplicationFailing, why.clone())
                }
                (ProtectionState::Paused, _) => Said::new(
                    kind,
                    Truth::False,
                    Reason::NotProtected,
                    "replication is paused",
                ),
                (_, Some(last)) => Said::new(
                    kind,
                    Truth::True,
                    Reason::Replicating,
                    format!(
                        "recovery points are sent to {to}{}",
                        lateness(protection, last)
                    ),
                ),
                (_, None) => Said::new(
                    kind,
                    Truth::False,
                    Reason::Seeding,
                    format!("the first replica is being made in {to}"),
                ),
            }
        }
    }
}

/// Why nothing protects a VM that rests where it is.
fn never_protects(world: &World<'_>, vm: &VmObservation) -> Option<String> {
    let (Fact::Known(view), Some(Stage::Settled { site })) = (&world.vault, vm.stage.known())
    else {
        return None;
    };
    let protects = &view.capabilities.towards[*site].protects_after_commit;
    protects.as_ref().err().cloned()
}

/// What is to be added where the next recovery point is overdue.
pub fn lateness(protection: &Protection, last: &WholePass) -> String {
    if !protection.overdue {
        return String::new();
    }
    let to = protection.from.other();
    let point = last.point.strftime("%FT%TZ");
    format!(
        "; the last is of {point}, and the next is overdue: a pass takes long, or the host in {to} takes nothing"
    )
}

fn target_consistent(world: &World<'_>) -> Said {
    let kind = ConditionType::TargetConsistent;
    let Some(vm) = seen(world) else {
        return Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            "the VM has not been seen",
        );
    };
    match &vm.target_consistent {
        Fact::Known(true) => Said::new(
            kind,
            Truth::True,
            Reason::WholePointInTime,
            "the passive site holds a whole point in time, or can be brought back to one",
        ),
        Fact::Known(false) | Fact::Absent => Said::new(
            kind,
            Truth::False,
            Reason::NotWhole,
            vm.inconsistent_because.clone().unwrap_or_else(|| {
                "the passive site holds no whole point in time; it is not started from there".into()
            }),
        ),
        Fact::Unknown(why) => Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            why.clone(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_after_a_while_and_whatever_the_clock_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let done = |mib: u64| Progress {
            what: String::new(),
            bytes_done: mib << 20,
            bytes_total: Some(200 << 20),
            bytes_per_second: Some(10 << 20),
        };
        let first = progress(&done(70), None, at(1000), 10).unwrap();
        assert_eq!(first.summary, "35% of 200 MiB");
        assert_eq!(
            first.estimated_completion_time.as_ref().map(|time| time.0),
            Some(at(1013))
        );
        for (second, percent) in [(1009, 35), (1010, 40), (500, 40)] {
            let next = progress(&done(80), Some(&first), at(second), 10).unwrap();
            assert_eq!(next.summary, format!("{percent}% of 200 MiB"), "{second}");
        }
        let unknown = Progress {
            bytes_total: None,
            bytes_per_second: None,
            ..done(3)
        };
        let unknown = progress(&unknown, None, at(0), 10).unwrap();
        assert_eq!(unknown.summary, "3 MiB");
        assert!(unknown.estimated_completion_time.is_none());
    }
}
