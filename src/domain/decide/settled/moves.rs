//! Moves that begin: what the placement asks for, what somebody began at the service, and what has lost its Failover.

use super::adopt;
use super::holds::missing_job;
use super::outcome::Outcome;
use crate::api::{DataSyncRequest, ProtectedVirtualMachineStatus, Site, VirtualMachinePhase};
use crate::domain::action::Alternate;
use crate::domain::conditions::Reason;
use crate::domain::decide::event;
use crate::domain::decision::{Effect, NewFailover};
use crate::domain::observation::VmObservation;
use crate::domain::world::{VaultView, World};

pub(super) fn begin(
    world: &World<'_>,
    status: &ProtectedVirtualMachineStatus,
    from: Site,
    to: Site,
) -> Outcome {
    let number = world.status.failover_counter.unwrap_or(0) + 1;
    let data_sync = if to == Site::OnPremises {
        world.intent.data_sync
    } else {
        DataSyncRequest::Auto
    };
    let mut outcome = Outcome::doing(
        VirtualMachinePhase::FailingOver,
        Reason::FailingOver,
        Effect::CreateFailover(NewFailover {
            number,
            from,
            to,
            data_sync,
            alternate: if to == Site::OnPremises {
                world.intent.alternate.clone()
            } else {
                Alternate::default()
            },
            start_held_because: status.next_start_held_because.clone(),
            taken_up: false,
        }),
        format!("a move from {from} to {to} is begun"),
    );
    outcome.events.push(event(
        false,
        "FailoverCreated",
        format!("the placement asks for {to} and the VM is in {from}"),
    ));
    outcome
}

/// A Failover for a move that is under way already: it is held for nobody.
fn take_up(world: &World<'_>, status: &ProtectedVirtualMachineStatus, from: Site) -> Outcome {
    let status = ProtectedVirtualMachineStatus {
        next_start_held_because: None,
        ..status.clone()
    };
    let mut outcome = begin(world, &status, from, from.other());
    if let Some(Effect::CreateFailover(new)) = &mut outcome.effect {
        new.taken_up = true;
    }
    outcome
}

/// A move that somebody began at the service is followed to its end.
pub(super) fn follow_to(
    world: &World<'_>,
    status: &ProtectedVirtualMachineStatus,
    from: Site,
) -> Outcome {
    let mut outcome = take_up(world, status, from);
    outcome.events = vec![event(
        true,
        "FailoverFollowed",
        format!(
            "somebody began a move from {from} to {} at the service; it is followed to its end",
            from.other()
        ),
    )];
    outcome
}

/// A move whose Failover is gone: a new one brings the VM to a safe end (safety rule S6).
pub(super) fn recover(
    world: &World<'_>,
    status: &ProtectedVirtualMachineStatus,
    view: &VaultView<'_>,
    vm: &VmObservation,
    from: Site,
    active: Site,
) -> Outcome {
    if !vm.is_claimed_by(&world.claim) {
        // S1: the claim moves first; the registers take no other order from somebody else.
        return adopt(world, view, vm, active);
    }
    if let Some(outcome) = missing_job(vm) {
        return outcome;
    }
    let mut outcome = take_up(world, status, from);
    outcome.events.push(event(
        true,
        "FailoverMissing",
        "the Failover of a move under way is gone; a new one brings the VM to a safe end",
    ));
    outcome
}
