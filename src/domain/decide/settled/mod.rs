//! A VM with no move under way: taken on where it is, protected, and moved when it is not where it should be.

mod holds;
mod moves;
mod outcome;
mod protection;

use crate::api::{Condition, ProtectedVirtualMachineStatus, Site, VirtualMachinePhase};
use crate::domain::action::{Action, ActionKind, Mark};
use crate::domain::conditions::{ConditionType, Reason};
use crate::domain::decide::report::{newly_stalled, observed, say};
use crate::domain::decide::wait::Waiting;
use crate::domain::decide::{
    LOOK_AGAIN, event, no_guess, submission, unknown_because, written_mark,
};
use crate::domain::decision::{Decision, Effect, Event, Pace};
use crate::domain::fact::Fact;
use crate::domain::observation::{Operation, OperationState, Stage, VmObservation};
use crate::domain::world::{CurrentFailover, VaultView, World};
use holds::{busy, disconnected, mend, missing_job};
use moves::{begin, follow_to, recover};
use outcome::Outcome;
use protection::protect;

pub fn decide(world: &World<'_>) -> Decision {
    let mut status = observed(world);
    if matches!(world.failover, CurrentFailover::Missing) {
        // S6: the Failover is gone; the next number is taken and none of its answers is inherited.
        let lost = status.current_failover.take();
        // Nor is an approval to begin.
        status.next_start_held_because = status
            .next_start_held_because
            .or(lost.and_then(|lost| lost.start_held_because));
    }
    hold_first_move(world, &mut status);
    let mut outcome = follow(world, &mut status);
    let mut steady = Pace::Steady;
    if outcome.effect.is_some() || outcome.standing.moving {
        steady = Pace::Busy;
    } else {
        outcome.effect = housekeeping(world);
    }
    status.phase = Some(outcome.phase);
    say(world, &mut status, &outcome.standing);
    outcome
        .events
        .extend(told_of_change(&world.status.conditions, &status.conditions));
    let wake_after = match (&outcome.effect, outcome.standing.waiting) {
        (Some(_), _) | (None, Some(Waiting::Operation | Waiting::Outside | Waiting::Mend)) => {
            Some(LOOK_AGAIN)
        }
        (None, _) => None,
    };
    Decision {
        effect: outcome.effect,
        status,
        failover: None,
        wake_after,
        pace: steady,
        events: outcome.events,
    }
}

/// What people are told of a VM at rest when it changes: that it was taken on, that it is protected, that it is not any more.
fn told_of_change(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let find = |all: &[Condition], kind: ConditionType| {
        all.iter().find(|it| it.type_ == kind.as_str()).cloned()
    };
    let of = |kind: ConditionType| (find(before, kind), find(after, kind));
    let mut told: Vec<Event> = newly_stalled(before, after).into_iter().collect();
    if let (Some(was), Some(is)) = of(ConditionType::Ready) {
        let adopting = Reason::Adopting.as_str();
        let stalled = find(after, ConditionType::Stalled).is_some_and(|it| it.status == "True");
        if was.reason == adopting && is.reason != adopting && !stalled {
            told.push(event(false, "Adopted", was.message));
        }
    }
    if let (Some(was), Some(is)) = of(ConditionType::Protected) {
        match (was.status.as_str(), is.status.as_str()) {
            ("False", "True") => told.push(event(false, "Protected", is.message)),
            ("True", "False") => told.push(event(true, "Unprotected", is.message)),
            _ => {}
        }
    }
    told
}

/// A VM seen for the first time is taken on where it runs; if that is not the placement asked, its first move waits for a person.
fn hold_first_move(world: &World<'_>, status: &mut ProtectedVirtualMachineStatus) {
    if world.status.active_site.is_none() && status.next_start_held_because.is_none() {
        if let Some(site) = status
            .active_site
            .filter(|site| *site != world.intent.placement)
        {
            status.next_start_held_because = Some(format!(
                "the VM was first seen in {site}, and a rebuilt cluster must not move a fleet by surprise"
            ));
        }
    }
}

fn follow(world: &World<'_>, status: &mut ProtectedVirtualMachineStatus) -> Outcome {
    let intent = world.intent;
    let view = match &world.vault {
        Fact::Known(view) => view,
        Fact::Absent if intent.deleting => {
            return release("the vault is gone; nothing of the VM is touched");
        }
        Fact::Absent => {
            return Outcome::stalled(
                Reason::VaultNotFound,
                format!(
                    "spec.vaultRef.name: RecoveryVault {} does not exist in this namespace; apply it",
                    intent.vault
                ),
            );
        }
        Fact::Unknown(why) if intent.deleting => return let_go_unseen(world, why),
        Fact::Unknown(why) => {
            return Outcome::outside(
                Reason::VaultNotObserved,
                format!("waits for a look at the vault: {why}"),
            );
        }
    };
    // Who holds the claim keeps it: two resources of the same second, or one whose VM was not seen in time, must not stall each other.
    let held = matches!(&view.vm, Fact::Known(vm) if vm.is_claimed_by(&world.claim));
    if let Some(owner) = world.earlier_owner.filter(|_| !held) {
        if intent.deleting {
            return release("another resource owns the VM");
        }
        return Outcome::stalled(
            Reason::DuplicateClaim,
            format!(
                "{owner} claims the same VM and came first; this resource acts on nothing: delete one of the two"
            ),
        );
    }
    let vm = match &view.vm {
        Fact::Known(vm) => *vm,
        // S6: where the right to run it stands is not looked for under another name, also when it is to be let go.
        Fact::Absent if view.renamed.is_some() => {
            let name = view.renamed.unwrap_or_default();
            return Outcome::stalled(
                Reason::VirtualMachineNotFound,
                format!("waits for {}", crate::domain::decide::renamed(world, name)),
            );
        }
        Fact::Absent if intent.deleting => return release("the vault does not know the VM"),
        Fact::Absent if !view.capabilities.registers => {
            let gone = if world.status.virtual_machine_id.is_some() {
                "is not in the vault any more: its protection was disabled there"
            } else {
                "is not in the vault"
            };
            return Outcome::stalled(
                Reason::NotProtected,
                format!(
                    "VM {} {gone}; enable its replication in Azure Site Recovery, which Homeward does not do, correct spec.virtualMachineName (names are compared letter by letter), or delete this resource",
                    intent.vm_name
                ),
            );
        }
        Fact::Absent => {
            return Outcome::stalled(
                Reason::VirtualMachineNotFound,
                match &world.status.virtual_machine_id {
                    None => format!(
                        "spec.virtualMachineName: no host of the vault knows a VM named {}; check the name, or define the VM on its host (a definition that cannot be read is told of in status.hosts of the vault)",
                        intent.vm_name
                    ),
                    Some(id) => format!(
                        "no host of the vault knows the VM that this resource took on, {} of UUID {id}, and another VM of its name does not count; bring it back, or delete this resource and apply it again, so that the VM that has the name now is taken on",
                        intent.vm_name
                    ),
                },
            );
        }
        Fact::Unknown(why) if intent.deleting => return let_go_later(why),
        Fact::Unknown(why) => {
            return Outcome::outside(unknown_because(view), format!("waits for {why}"));
        }
    };
    if let Some(claim) = vm.claimed_by_other(&world.claim) {
        let named = intent.takeover.as_deref() == Some(claim.to_string().as_str());
        // S6: who held it in this cluster is gone, and nobody else would bring a move that it left half way to an end.
        let running = |operation: &Operation| operation.state == OperationState::Running;
        let abandoned = world.claim_holder_gone
            && (vm.stage.known().is_none_or(perhaps_midway) || vm.operations.iter().any(running));
        if intent.deleting && !abandoned {
            return release("the VM is claimed elsewhere");
        }
        if !named && !world.claim_holder_gone {
            return Outcome::stalled(
                Reason::ClaimedElsewhere,
                format!(
                    "the VM is claimed by {claim}, another cluster or a resource of another name; this resource acts on nothing. If that one is given up, set the annotation {}: {claim}",
                    crate::api::TAKEOVER_ANNOTATION
                ),
            );
        }
    }
    let stage = match &vm.stage {
        Fact::Known(stage) => stage,
        Fact::Unknown(why) if intent.deleting => {
            let missing = vm.missing_job.as_ref();
            return let_go_later(missing.map_or(why, |job| &job.what));
        }
        Fact::Unknown(why) => {
            // What came of a request that a job out of sight was to answer is known to nobody before that job is.
            if let Some(outcome) = missing_job(vm) {
                return outcome;
            }
            return Outcome::outside(unknown_because(view), format!("waits for {why}"));
        }
        Fact::Absent => {
            return Outcome::stalled(
                Reason::RegistersContradict,
                "no site knows who may run the VM",
            );
        }
    };
    match stage {
        Stage::Contradiction { seen } => Outcome::stalled(
            Reason::RegistersContradict,
            no_guess(&format!(
                "the sites contradict each other and nothing is guessed: {seen}"
            )),
        ),
        Stage::Unreadable { why } => Outcome::stalled(
            Reason::RegistersContradict,
            no_guess(&format!("waits for {why}")),
        ),
        Stage::Unclaimed { .. } if intent.deleting => release("nobody has a claim on the VM"),
        Stage::Unclaimed { site } => adopt(world, view, vm, *site),
        Stage::Settled { site } => settled(world, status, view, vm, *site),
        Stage::SourceFenced { from }
        | Stage::SourceStopped { from, .. }
        | Stage::TargetWhole { from }
        | Stage::TargetFenced { from } => recover(world, status, view, vm, *from, *from),
        Stage::TargetStarted { to, .. } | Stage::Committed { to } => {
            recover(world, status, view, vm, to.other(), *to)
        }
    }
}

fn perhaps_midway(stage: &Stage) -> bool {
    stage.is_midway() || matches!(stage, Stage::Unreadable { .. })
}

/// The resource is being deleted, and nothing has been seen of its vault. What was never seen was never asked for anything (safety rule S2: the
/// status is stored first).
fn let_go_unseen(world: &World<'_>, why: &str) -> Outcome {
    let status = world.status;
    let seen = status.virtual_machine_id.is_some() || status.epoch.is_some();
    if !seen && world.history.is_empty() && matches!(world.failover, CurrentFailover::None) {
        return release("the VM was never taken on");
    }
    let_go_later(why)
}

/// S6: somebody may have left the VM half way; only a look tells.
fn let_go_later(why: &str) -> Outcome {
    Outcome::new(
        VirtualMachinePhase::Detaching,
        Reason::Detaching,
        Some(Waiting::Outside),
        format!(
            "waits to let go of the VM until it can be looked at: {why}; if it never can be again, take the finalizer {} off by hand: its hosts keep the claim of this resource",
            crate::api::FINALIZER
        ),
    )
}

fn release(why: &str) -> Outcome {
    let mut outcome = Outcome::doing(
        VirtualMachinePhase::Detaching,
        Reason::Detaching,
        Effect::ReleaseVm,
        why,
    );
    outcome.events.push(event(
        false,
        "Released",
        format!("the resource is let go: {why}"),
    ));
    outcome
}

fn adopt(world: &World<'_>, view: &VaultView<'_>, vm: &VmObservation, site: Site) -> Outcome {
    // A move that a holder left half way is taken over whatever there is to mend.
    let held = (!world.intent.deleting).then(|| mend(&vm.obstacles).or_else(|| busy(vm)));
    if let Some(outcome) = held.flatten().or_else(|| disconnected(view)) {
        return outcome;
    }
    let takeover = vm.claimed_by_other(&world.claim).cloned();
    Outcome::doing(
        VirtualMachinePhase::Pending,
        Reason::Adopting,
        submission(
            world,
            Action::Adopt { at: site, takeover },
            next_mark(world, vm),
            // S1: in the middle of a move, or of a fence that broke off, the registers take orders in its name alone.
            vm.failover().filter(|_| {
                vm.stage.known().is_some_and(Stage::is_midway)
                    || broken_fence(vm, site.other()).is_some()
            }),
        ),
        format!("the VM is taken on in {site}, where it is"),
    )
}

fn settled(
    world: &World<'_>,
    status: &mut ProtectedVirtualMachineStatus,
    view: &VaultView<'_>,
    vm: &VmObservation,
    site: Site,
) -> Outcome {
    let intent = world.intent;
    if intent.deleting && vm.claimed_by_other(&world.claim).is_some() {
        // S6: an operation of a holder that is gone still runs, and would leave the VM half way: it is taken over and seen to its end.
        return adopt(world, view, vm, site);
    }
    if let Some(outcome) = unfinished_fence(world, vm, site.other()) {
        return outcome;
    }
    if intent.deleting {
        let held = |site: Site| vm.claims[site].known() == Some(&world.claim);
        if !Site::BOTH.into_iter().any(held) {
            return release("nothing of the VM is touched");
        }
        if let Some(job) = &vm.missing_job {
            return let_go_later(&job.what);
        }
        return Outcome::doing(
            VirtualMachinePhase::Detaching,
            Reason::Detaching,
            submission(world, Action::Detach, next_mark(world, vm), None),
            "the VM is let go: no VM, disk or replication is touched",
        );
    }
    if !vm.is_claimed_by(&world.claim) {
        return adopt(world, view, vm, site);
    }
    if vm.leaving == Some(site) {
        return follow_to(world, status, site);
    }
    // S7: a register takes no order while what it asked for last is out of sight.
    if let Some(outcome) = missing_job(vm) {
        return outcome;
    }
    if vm.failover().is_some() {
        // S1: the registers refuse another Failover until the one that has ended is released.
        return Outcome::doing(
            VirtualMachinePhase::Pending,
            Reason::FailingOver,
            submission(world, Action::Release, next_mark(world, vm), None),
            "the registers are told that the last move is over",
        );
    }
    if site == intent.placement {
        status.next_start_held_because = None;
    }
    if site != intent.placement {
        if intent.suspend {
            return Outcome::new(
                VirtualMachinePhase::Suspended,
                Reason::Suspended,
                Some(Waiting::Suspended),
                format!(
                    "spec.suspend is true: the move from {site} to {} is begun when it is set to false",
                    intent.placement
                ),
            );
        }
        return begin(world, status, site, intent.placement);
    }
    protect(world, status, view, vm, site)
}

fn broken_fence(vm: &VmObservation, at: Site) -> Option<&Operation> {
    vm.operations.iter().find(|operation| {
        operation.site == at
            && operation.kind == ActionKind::FenceTarget
            && operation.state != OperationState::Succeeded
    })
}

/// A fence of the passive side that broke off, though the VM is at rest at the other one: a message that came late, on a host that had taken
/// the place of the one it was meant for. The register there takes no other order before the fence has ended.
fn unfinished_fence(world: &World<'_>, vm: &VmObservation, at: Site) -> Option<Outcome> {
    if vm.claims[at].known() != Some(&world.claim) {
        return None;
    }
    let fence = broken_fence(vm, at)?;
    if fence.state == OperationState::Running {
        return Some(Outcome::new(
            VirtualMachinePhase::Pending,
            Reason::FailingOver,
            Some(Waiting::Operation),
            format!("waits for a fence in {at} to end"),
        ));
    }
    Some(Outcome::doing(
        VirtualMachinePhase::Pending,
        Reason::FailingOver,
        submission(
            world,
            Action::FenceTarget { to: at },
            next_mark(world, vm),
            vm.failover(),
        ),
        format!("a fence in {at} that broke off is brought to its end"),
    ))
}

/// Newer than all that either side has taken, and than all that was written down of it (safety rule S2).
fn next_mark(world: &World<'_>, vm: &VmObservation) -> Mark {
    let highest = vm
        .newest_mark()
        .unwrap_or_default()
        .max(written_mark(world.status.epoch, world.status.step));
    Mark {
        // The first epoch is 1: none is older than it.
        epoch: highest.epoch.max(1),
        step: highest.step + 1,
    }
}

fn housekeeping(world: &World<'_>) -> Option<Effect> {
    if let Some(held) = world.history.iter().find(|finished| finished.finalizer) {
        return Some(Effect::ReleaseFailover {
            name: held.name.clone(),
        });
    }
    let keep = usize::try_from(world.intent.history_limit).unwrap_or(usize::MAX);
    (world.history.len() > keep).then(|| Effect::DeleteFailover {
        name: world.history[0].name.clone(),
    })
}
