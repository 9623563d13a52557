//! A VM that is where it should be: its protection towards the other site.

use jiff::SignedDuration;

use super::holds::{busy, disconnected, mend, silent_host};
use super::next_mark;
use super::outcome::Outcome;
use crate::api::{ProtectedVirtualMachineStatus, Site, VirtualMachinePhase};
use crate::domain::action::{Action, ActionKind};
use crate::domain::conditions::{ConditionType, Reason};
use crate::domain::decide::wait::Waiting;
use crate::domain::decide::{report, submission, told_to_stop};
use crate::domain::fact::Fact;
use crate::domain::observation::{OperationState, Power, ProtectionState, VmObservation};
use crate::domain::world::{VaultView, World};

/// What holds protection.
fn not_ready(view: &VaultView<'_>, vm: &VmObservation) -> Option<Outcome> {
    mend(&vm.obstacles)
        .or_else(|| mend(&vm.protection_obstacles))
        .or_else(|| disconnected(view))
        .or_else(|| silent_host(vm))
        .or_else(|| busy(vm))
}

pub(super) fn protect(
    world: &World<'_>,
    status: &ProtectedVirtualMachineStatus,
    view: &VaultView<'_>,
    vm: &VmObservation,
    site: Site,
) -> Outcome {
    let to = site.other();
    if let Err(why) = &view.capabilities.towards[site].protects_after_commit {
        if let Some(outcome) = perhaps_down(world, vm, site) {
            return outcome;
        }
        // It is as declared, and Ready. Whoever thinks of the way back reads here that it is closed.
        let elsewhere = world.intent.alternate.host.is_some();
        let closed = disconnected(view).or_else(|| silent_host(vm).filter(|_| !elsewhere));
        return Outcome::new(
            VirtualMachinePhase::Unprotected,
            Reason::ServiceDoesNotProtectFromAzure,
            None,
            match closed {
                None => why.clone(),
                Some(closed) => format!("{why}; a move back {}", closed.standing.message),
            },
        );
    }
    if let Some(outcome) = unfinished_replica(world, vm, to) {
        return outcome;
    }
    if !view.capabilities.registers {
        if let Some(outcome) = refused_by_service(world, vm, site) {
            return outcome;
        }
    }
    let state = match &vm.protection {
        Fact::Known(protection)
            if protection.from == site
                && vm.protection_stale.is_none()
                && !matches!(protection.state, ProtectionState::Paused) =>
        {
            &protection.state
        }
        Fact::Unknown(why) => {
            return Outcome::outside(Reason::ObservationUnknown, format!("waits for {why}"));
        }
        Fact::Known(_) | Fact::Absent => {
            if let Some(why) = vm.down_because.as_ref().filter(|_| world.intent.suspend) {
                return Outcome::stalled(Reason::GuestNotRunning, format!("{site}: {why}"));
            }
            if world.intent.suspend {
                return Outcome::new(
                    VirtualMachinePhase::Suspended,
                    Reason::Suspended,
                    Some(Waiting::Suspended),
                    "spec.suspend is true: protection begins when it is set to false",
                );
            }
            if let Some(outcome) = not_ready(view, vm) {
                return outcome;
            }
            return Outcome::doing(
                VirtualMachinePhase::Protecting,
                Reason::Seeding,
                submission(
                    world,
                    Action::Protect { from: site },
                    next_mark(world, vm),
                    None,
                ),
                match &vm.protection_stale {
                    Some(why) => format!("protection towards {to} is set up anew: {why}"),
                    None => format!("protection towards {to} is set up"),
                },
            );
        }
    };
    let whole = vm
        .protection
        .known()
        .and_then(|protection| protection.last_whole.as_ref())
        .is_some();
    if let Some(why) = &vm.down_because {
        return Outcome::stalled(Reason::GuestNotRunning, format!("{site}: {why}"));
    }
    if let Some(outcome) = perhaps_down(world, vm, site) {
        return outcome;
    }
    // What would hold the next move is told of before somebody needs that move; replication goes on meanwhile.
    let held = mend(&vm.obstacles)
        .or_else(|| mend(&vm.protection_obstacles))
        .or_else(|| silent_host(vm))
        // The first replica is made by operations of its own.
        .or_else(|| busy(vm).filter(|_| whole));
    if let Some(outcome) = held {
        return outcome;
    }
    let late = vm.protection.known().and_then(|protection| {
        let last = protection.last_whole.as_ref()?;
        Some(report::lateness(protection, last))
    });
    let late = late.unwrap_or_default();
    let runs = match vm.power[site] {
        Fact::Known(Power::On) => "runs",
        Fact::Known(Power::Off) => "is switched off",
        // Whether it runs is not said by who does not know.
        Fact::Absent | Fact::Unknown(_) => "is",
    };
    match state {
        ProtectionState::Failing(why) => Outcome::new(
            VirtualMachinePhase::Unprotected,
            Reason::ReplicationFailing,
            Some(Waiting::Outside),
            format!("replication to {to} goes on trying: {why}"),
        ),
        ProtectionState::Seeding | ProtectionState::Replicating | ProtectionState::Paused
            if !whole =>
        {
            Outcome::new(
                VirtualMachinePhase::Protecting,
                Reason::Seeding,
                Some(Waiting::Operation),
                match status
                    .replication
                    .as_ref()
                    .and_then(|it| it.progress.as_ref())
                {
                    Some(progress) => format!(
                        "the first replica is being made in {to}: {}",
                        progress.summary
                    ),
                    None => format!("the first replica is being made in {to}"),
                },
            )
        }
        _ if world.intent.suspend => Outcome::new(
            VirtualMachinePhase::Suspended,
            Reason::Suspended,
            Some(Waiting::Suspended),
            format!("{runs} in {site} and is protected; spec.suspend is true"),
        ),
        _ => Outcome::new(
            VirtualMachinePhase::Protected,
            Reason::AsDeclared,
            None,
            format!("{runs} in {site} and is protected towards {to}{late}"),
        ),
    }
}

/// The passive site was told to make a place for the replica, and that has not ended well: replication alone would not tell.
fn unfinished_replica(world: &World<'_>, vm: &VmObservation, to: Site) -> Option<Outcome> {
    let making = vm
        .operations
        .iter()
        .find(|operation| operation.site == to && operation.kind == ActionKind::Protect)?;
    match &making.state {
        OperationState::Succeeded => None,
        OperationState::Running => Some(Outcome::new(
            VirtualMachinePhase::Protecting,
            Reason::Seeding,
            Some(Waiting::Operation),
            format!("the replica's place is being made in {to}"),
        )),
        OperationState::Failed { .. } | OperationState::Interrupted if world.intent.suspend => None,
        OperationState::Failed { class, message } => {
            let again = again_after(world, to.other(), class.retry_delay(u64::MAX));
            Some(again.unwrap_or_else(|| {
                Outcome::stalled(
                    Reason::VirtualMachineNotReady,
                    format!("{to} cannot take the VM, and is asked again after a while: {message}"),
                )
            }))
        }
        OperationState::Interrupted => again_after(world, to.other(), SignedDuration::ZERO),
    }
}

/// The service was asked to protect the VM again, and that runs or has failed.
fn refused_by_service(world: &World<'_>, vm: &VmObservation, site: Site) -> Option<Outcome> {
    let asked = vm
        .operations
        .iter()
        .find(|operation| operation.site == site && operation.kind == ActionKind::Protect)?;
    match &asked.state {
        OperationState::Running => Some(Outcome::new(
            VirtualMachinePhase::Protecting,
            Reason::Seeding,
            Some(Waiting::Operation),
            "the service sets up reverse replication",
        )),
        OperationState::Failed { class, message } if vm.protection == Fact::Absent => {
            let again = again_after(world, site, class.retry_delay(u64::MAX));
            Some(again.unwrap_or_else(|| {
                Outcome::stalled(
                    Reason::VirtualMachineNotReady,
                    format!("the VM is not protected, and the service is asked again after a while: {message}"),
                )
            }))
        }
        _ => None,
    }
}

fn again_after(world: &World<'_>, from: Site, delay: SignedDuration) -> Option<Outcome> {
    let vm = report::seen(world)?;
    // By this operator's own clock, since when a person is asked to mend it: the order ended by another host's.
    let asked = world.status.conditions.iter().find(|condition| {
        condition.type_ == ConditionType::Stalled.as_str()
            && condition.reason == Reason::VirtualMachineNotReady.as_str()
    });
    let stood = asked.map(|asked| world.now.duration_since(asked.last_transition_time.0).abs());
    let due = delay.is_zero() || stood.is_some_and(|stood| stood >= delay);
    due.then(|| {
        Outcome::doing(
            VirtualMachinePhase::Protecting,
            Reason::Seeding,
            submission(world, Action::Protect { from }, next_mark(world, vm), None),
            format!("protection towards {} is set up again", from.other()),
        )
    })
}

fn perhaps_down(world: &World<'_>, vm: &VmObservation, site: Site) -> Option<Outcome> {
    let why = told_to_stop(world, vm)?;
    Some(Outcome::stalled(
        Reason::GuestNotRunning,
        format!("{site}: {why}"),
    ))
}
