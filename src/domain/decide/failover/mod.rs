//! The phases of one move.
//!
//! ```text
//!  AwaitingStart ─▶ Preparing ─▶ Synchronizing ─▶ AwaitingCutover ─▶ CuttingOver ─▶ AwaitingCommit ─▶ Committing
//!        │              │              │                 │                │               │               │
//!        │ cancel, or the placement    ▼                 ▼                ▼               ▼ rollback      ▼
//!        └──────────────┴────────▶ Cancelling ◀──────────┴────────────────┘         RollingBack   AwaitingReverseReplication
//!                                      │                                                  │               ▼
//!                                      ▼                                                  ▼        ReverseReplicating
//!                              Cancelled | Failed                                     RolledBack          ▼
//!                                                                                                     Succeeded
//! ```
//!
//! With a full download, and where the driver cannot pause, `AwaitingCutover` comes before the copy and `Synchronizing` after the
//! stop. Within a phase the stage that the registers show says what comes next, so that a move taken up by another process, or an
//! action that took effect without being heard of, goes on from where things stand.

mod after_cutover;
mod before_cutover;
mod cutover;
mod holds;
mod pending;
mod record;
mod turning_back;

use jiff::Timestamp;

use crate::api::{DataSync, FailoverOutcome, FailoverPhase, FailoverStatus, Site};
use crate::domain::action::{Action, ActionKind, Mark};
use crate::domain::conditions::Reason;
use crate::domain::decide::wait::Wait;
use crate::domain::decide::{
    event, no_guess, renamed, submission, unknown_because, without_register,
};
use crate::domain::decision::{Decision, Effect, Event};
use crate::domain::fact::Fact;
use crate::domain::observation::{
    Operation, OperationState, Power, Progress, Protection, Stage, VmObservation,
};
use crate::domain::world::{FailoverView, VaultView, World};
use holds::{busy, disconnected, missing_job, obstacles, silent_host};

/// What follows within a phase.
enum Next {
    Enter(FailoverPhase),
    Submit(Action),
    Resubmit(Action, Mark),
    /// Not stored before: it may be asked for any number of times, and nothing of the move rests on it.
    Ask(Action, Option<String>),
    Wait(Wait),
    Finish(FailoverOutcome),
}

/// What a move waits for that finds the VM claimed by nobody.
const REGISTERS_GONE: &str = "the registers of the VM: no host has one any more; see the runbook on contradicting registers, or delete this ProtectedVirtualMachine, which touches no VM";

fn registers_gone() -> Wait {
    Wait::mend(REGISTERS_GONE).because(Reason::RegistersContradict)
}

struct Move<'a> {
    world: &'a World<'a>,
    fo: FailoverView<'a>,
    status: FailoverStatus,
    events: Vec<Event>,
    progress: Option<Progress>,
    /// The gates before cutover were passed in this very pass.
    gates_passed: bool,
}

pub fn decide(world: &World<'_>, fo: FailoverView<'_>) -> Decision {
    let mut this = Move {
        world,
        fo,
        status: fo.status.clone(),
        events: Vec::new(),
        progress: None,
        gates_passed: false,
    };
    if this.status.phase.is_some_and(FailoverPhase::is_final) {
        return this.close();
    }
    this.status.observed_generation = fo.generation;
    let (effect, wait) = this.run();
    this.publish(effect, wait.as_ref())
}

impl Move<'_> {
    fn from(&self) -> Site {
        self.fo.spec.from
    }

    fn to(&self) -> Site {
        self.fo.spec.to
    }

    fn phase(&self) -> FailoverPhase {
        self.status.phase.unwrap_or(FailoverPhase::AwaitingStart)
    }

    fn now(&self) -> Timestamp {
        self.world.now
    }

    /// Goes through the phases until something is to be done or waited for.
    fn run(&mut self) -> (Option<Effect>, Option<Wait>) {
        if self.status.phase.is_none() {
            self.status.phase = Some(FailoverPhase::AwaitingStart);
        }
        // More turns than there are phases would mean that two phases send the move to each other.
        for _ in 0..24 {
            match self.next() {
                Next::Enter(phase) => self.enter(phase),
                Next::Wait(wait) => return (None, Some(wait)),
                Next::Submit(action) => match self.holding_off() {
                    Some(wait) => return (None, Some(wait)),
                    None => return (Some(self.submit(action)), None),
                },
                Next::Resubmit(action, mark) => match self.holding_off() {
                    Some(wait) => return (None, Some(wait)),
                    None => {
                        if let Some(pending) = &mut self.status.pending_action {
                            pending.unresolved = true;
                        }
                        let failover = self.acts_for();
                        return (
                            Some(submission(self.world, action, mark, Some(&failover))),
                            None,
                        );
                    }
                },
                Next::Ask(action, failover) => {
                    let mark = self.next_mark(&action);
                    return match self.holding_off() {
                        Some(wait) => (None, Some(wait)),
                        None => (
                            Some(submission(self.world, action, mark, failover.as_deref())),
                            None,
                        ),
                    };
                }
                Next::Finish(outcome) => {
                    self.finish(outcome);
                    return (None, None);
                }
            }
        }
        (
            None,
            Some(Wait::mend(
                "the move does not come to rest; please report this with the Failover's status",
            )),
        )
    }

    fn next(&mut self) -> Next {
        let phase = self.phase();
        if phase == FailoverPhase::AwaitingStart {
            return self.awaiting_start();
        }
        let world = self.world;
        let view = match &world.vault {
            Fact::Known(view) => view,
            Fact::Absent => {
                if world.intent.deleting {
                    return self.abandon("the vault is gone");
                }
                return Next::Wait(Wait::mend(format!(
                    "RecoveryVault {} does not exist: apply it again so that the move can go on",
                    world.intent.vault
                ))
                .because(Reason::VaultNotFound));
            }
            Fact::Unknown(why) => {
                return Next::Wait(
                    Wait::outside(format!("a look at the vault: {why}"))
                        .because(Reason::VaultNotObserved),
                );
            }
        };
        let vm = match &view.vm {
            Fact::Known(vm) => *vm,
            Fact::Absent if view.renamed.is_some() => {
                let name = view.renamed.unwrap_or_default();
                return Next::Wait(
                    Wait::mend(renamed(world, name)).because(Reason::VirtualMachineNotFound),
                );
            }
            Fact::Absent if world.intent.deleting => {
                return self.abandon("no host of the vault knows the VM any more");
            }
            Fact::Absent if !view.capabilities.registers => {
                return Next::Wait(Wait::mend(format!(
                    "VM {} to be in the vault again, where its protection was disabled: enable its replication in Azure Site Recovery, which Homeward does not do, or delete this ProtectedVirtualMachine",
                    world.intent.vm_name,
                ))
                .because(Reason::NotProtected));
            }
            Fact::Absent => {
                let id = world.status.virtual_machine_id.as_deref();
                return Next::Wait(Wait::mend(format!(
                    "VM {} of UUID {} to be known to the vault again (another VM of its name does not count): bring it back, or delete this ProtectedVirtualMachine",
                    world.intent.vm_name,
                    id.unwrap_or("unknown"),
                ))
                .because(Reason::VirtualMachineNotFound));
            }
            Fact::Unknown(why) => {
                return Next::Wait(Wait::outside(why.clone()).because(unknown_because(view)));
            }
        };
        // S4: what this host's register says of the move is not known, and no look will tell.
        if let Fact::Known(Stage::Unreadable { why }) = &vm.stage {
            return Next::Wait(Wait::mend(no_guess(why)).because(Reason::RegistersContradict));
        }
        if self.is_behind(vm) {
            if let Some(site) = without_register(vm) {
                // A process that runs the guest there is named by it.
                let seen = match &vm.stage {
                    Fact::Known(Stage::Contradiction { seen }) => format!(": {seen}"),
                    _ => String::new(),
                };
                let words = format!(
                    "the register of the VM in {site}, which is gone in the middle of this move; nothing is guessed of where its newest disks are{seen}"
                );
                return Next::Wait(
                    Wait::mend(no_guess(&words)).because(Reason::RegistersContradict),
                );
            }
            return Next::Wait(Wait::outside(
                "a newer look: what was seen is older than what this move has done; if a host was put back to an earlier state, see the runbook on contradicting registers",
            )
            .because(unknown_because(view)));
        }
        if let Some(wait) = self.target_lost(view, vm) {
            return Next::Wait(wait);
        }
        if let Some(wait) = missing_job(vm) {
            return Next::Wait(wait);
        }
        if let Some(next) = self.settle_pending(vm) {
            return next;
        }
        let stage = match &vm.stage {
            Fact::Known(Stage::Contradiction { seen }) => {
                let words = format!(
                    "the sites to agree on who may run the VM, of which nothing is guessed: {seen}"
                );
                return Next::Wait(
                    Wait::mend(no_guess(&words)).because(Reason::RegistersContradict),
                );
            }
            // Nothing is left of the move on any host, and nobody wants it to go on.
            Fact::Known(Stage::Unclaimed { .. }) if world.intent.deleting => {
                return self.abandon("no host has a register of the VM any more");
            }
            Fact::Known(stage) => stage,
            // S7: start, stop, commit, undo, resume, cancel and reverse replication all wait for this fact.
            Fact::Unknown(why) => {
                return Next::Wait(Wait::outside(why.clone()).because(unknown_because(view)));
            }
            Fact::Absent => {
                return Next::Wait(
                    Wait::mend("a site to know who may run the VM: none does")
                        .because(Reason::RegistersContradict),
                );
            }
        };
        if let Some(next) = self.own_registers(vm, stage) {
            return next;
        }
        if !view.capabilities.registers
            && let Some(outcome) = self.moved_on(phase, stage)
        {
            return Next::Finish(outcome);
        }
        let can = &view.capabilities.towards[self.to()];
        match phase {
            FailoverPhase::AwaitingStart => self.awaiting_start(),
            FailoverPhase::Preparing => self.preparing(view, vm, stage, can),
            FailoverPhase::Synchronizing if self.full() => self.cutting_over(vm, stage, can),
            FailoverPhase::Synchronizing => self.synchronizing(view, vm, stage, can),
            FailoverPhase::AwaitingCutover => self.awaiting_cutover(view, vm, stage, can),
            FailoverPhase::CuttingOver => self.cutting_over(vm, stage, can),
            FailoverPhase::AwaitingCommit => self.awaiting_commit(vm, stage, can),
            FailoverPhase::Committing => self.committing(vm, stage),
            FailoverPhase::AwaitingReverseReplication => {
                self.awaiting_reverse_replication(view, vm, can)
            }
            FailoverPhase::ReverseReplicating => self.reverse_replicating(vm),
            FailoverPhase::Cancelling => self.cancelling(vm, stage, can),
            FailoverPhase::RollingBack => self.rolling_back(vm, stage),
            FailoverPhase::Succeeded
            | FailoverPhase::Cancelled
            | FailoverPhase::RolledBack
            | FailoverPhase::Failed => Next::Wait(Wait::operation("nothing: the move has ended")),
        }
    }

    /// S4, S8: the target has no register any more, and its guest runs or may have run: what it has written there is nowhere else. No start is
    /// asked for there again, and the source is not brought back over it on a guess.
    fn target_lost(&self, view: &VaultView<'_>, vm: &VmObservation) -> Option<Wait> {
        let to = self.to();
        let midway = vm.stage.known().is_some_and(Stage::is_midway);
        if !view.capabilities.registers || !midway || vm.marks[to] != Fact::Absent {
            return None;
        }
        let downtime = self.status.downtime.as_ref();
        let what = if vm.power[to] == Fact::Known(Power::On) {
            "while its guest runs there"
        } else if downtime.is_some_and(|downtime| downtime.start_ordered_time.is_some()) {
            "after its guest was to be started there"
        } else {
            return None;
        };
        let words = format!(
            "the register of the VM in {to}, which is gone {what}: what the guest has written there is nowhere else, and nobody but you gives it up"
        );
        Some(Wait::mend(no_guess(&words)).because(Reason::RegistersContradict))
    }

    /// Somebody has begun another move at the service since: after the commit of this one there is nothing left to protect here; and what now waits
    /// for its commit at the source of this one is no move of this direction, to which no approval given here applies (S5).
    fn moved_on(&mut self, phase: FailoverPhase, stage: &Stage) -> Option<FailoverOutcome> {
        use FailoverPhase as P;
        let committed = matches!(phase, P::AwaitingReverseReplication | P::ReverseReplicating);
        if committed && !matches!(stage, Stage::Settled { site } if *site == self.to()) {
            return Some(FailoverOutcome::Succeeded);
        }
        let from = self.from();
        let moved = matches!(stage, Stage::TargetStarted { to, .. } | Stage::Committed { to } if *to == from);
        // What was committed was another move than this one, which looked the same.
        let other = phase == P::Committing
            && self.status.pending_action.is_none()
            && matches!(stage, Stage::Settled { site } if *site == from);
        if !moved && !other {
            return None;
        }
        // Only what is committed can be moved on.
        if moved && matches!(phase, P::AwaitingCommit | P::Committing) {
            return Some(FailoverOutcome::Succeeded);
        }
        self.status.turned_back_because = Some(format!(
            "the VM was moved to {from} at the service meanwhile"
        ));
        Some(FailoverOutcome::Cancelled)
    }

    /// The resource is being deleted and there is nothing left that could be brought to a safe end.
    fn abandon(&mut self, why: &str) -> Next {
        self.events.push(event(
            true,
            "Abandoned",
            format!("{why}: the move ends where it stands, and nothing is touched"),
        ));
        self.status.turned_back_because = Some(why.into());
        Next::Finish(FailoverOutcome::Failed)
    }

    /// The registers name this move and its claim before anything else is asked of them; a late order may have brought others back.
    fn own_registers(&self, vm: &VmObservation, stage: &Stage) -> Option<Next> {
        let world = self.world;
        if let Some(claim) = vm.claimed_by_other(&world.claim) {
            // S1: a claim moves only by an explicit takeover.
            let named = world.intent.takeover.as_deref() == Some(claim.to_string().as_str());
            if !named && !world.claim_holder_gone {
                return Some(Next::Wait(Wait::mend(format!(
                    "the claim {claim} to be given up: another cluster or resource acts on the VM; if it is gone, set the annotation {}: {claim}",
                    crate::api::TAKEOVER_ANNOTATION
                ))
                .because(Reason::ClaimedElsewhere)));
            }
            let adopt = Action::Adopt {
                at: stage.active().unwrap_or(self.from()),
                takeover: Some(claim.clone()),
            };
            let failover = vm
                .failover()
                .map(str::to_owned)
                .filter(|_| stage.is_midway());
            return Some(Next::Ask(adopt, failover));
        }
        // S1: a Failover that has ended still stands in the registers, which refuse another one until it is released.
        let other = vm.names_another_failover(self.fo.uid);
        // A resume that broke off is first given again, in the name that the registers know.
        let half = half_resumed(vm, self.from());
        (other && !half && matches!(stage, Stage::Settled { .. }))
            .then_some(Next::Ask(Action::Release, None))
    }

    /// S14: the replica is gone, or was made for another shape of the VM: it is made anew before any data rests on it.
    fn replica_is_stale(&self, view: &VaultView<'_>, vm: &VmObservation) -> bool {
        let protects = view.capabilities.towards[self.from()]
            .protects_after_commit
            .is_ok();
        protects && vm.protection_stale.is_some()
    }

    /// The host that has to do what is asked for next does not answer. A move to another host is there for when the VM's own is gone.
    fn silent(&self, view: &VaultView<'_>, vm: &VmObservation) -> Option<Wait> {
        let own = self.fo.spec.host.is_none();
        disconnected(view).or_else(|| silent_host(vm).filter(|_| own))
    }

    /// The host on the premises, where the VM has been brought back to, does not answer.
    fn silent_home(&self, vm: &VmObservation) -> Option<Wait> {
        silent_host(vm).filter(|_| self.to() == Site::OnPremises && self.fo.spec.host.is_none())
    }

    fn full(&self) -> bool {
        self.data_sync() == DataSync::FullDuringFailover
    }

    /// What would break a full download off is seen before the VM is stopped for it.
    fn full_download_obstacles(&self, vm: &VmObservation) -> Option<Wait> {
        let obstacles = &vm.full_download_obstacles;
        (self.full() && !obstacles.is_empty()).then(|| {
            Wait::mend(format!(
                "{}; or cancel this Failover and set spec.failback.dataSync of the VM to DeltaBeforeFailover",
                obstacles.join("; ")
            ))
        })
    }

    fn data_sync(&self) -> DataSync {
        self.status
            .data_sync
            .as_ref()
            .map_or(DataSync::DeltaBeforeFailover, |choice| choice.chosen)
    }

    fn still_at_source(&self, stage: &Stage) -> bool {
        matches!(stage, Stage::Settled { site } if *site == self.from())
    }

    /// S17: a pass that began after this move's own order has become whole: it covered the whole disk.
    fn synchronized(&self, protection: &Protection) -> bool {
        protection.from == self.from()
            && protection
                .last_whole
                .as_ref()
                .is_some_and(|whole| whole.failover.as_deref() == Some(self.fo.uid))
    }
}

fn running(vm: &VmObservation, site: Site) -> Option<&Operation> {
    vm.operations
        .iter()
        .find(|operation| operation.site == site && operation.state == OperationState::Running)
}

/// Whether the right is back at a site by an order that has not brought the guest up there.
fn half_resumed(vm: &VmObservation, at: Site) -> bool {
    broke_off(vm, at, ActionKind::ResumeSource).is_some() && vm.down_because.is_some()
}

/// The last order of this kind at a site, when it was taken and did not come to its end.
fn broke_off(vm: &VmObservation, site: Site, kind: ActionKind) -> Option<&Operation> {
    vm.operations.iter().find(|operation| {
        operation.site == site
            && operation.kind == kind
            && matches!(
                operation.state,
                OperationState::Failed { .. } | OperationState::Interrupted
            )
    })
}

/// For a guest that should run and does not.
fn down(vm: &VmObservation, at: Site) -> Wait {
    let why = vm.down_because.as_deref().unwrap_or_default();
    Wait::mend(format!("the guest in {at}: {why}")).because(Reason::GuestNotRunning)
}

fn doing(kind: ActionKind) -> String {
    match kind {
        ActionKind::StopSource => "the VM to shut down",
        ActionKind::FinalSync => "the last delta to be sent",
        ActionKind::StartTarget => "the VM to start at the target",
        ActionKind::Commit => "the commit to be recorded",
        ActionKind::RetireSource => "the source copy to be retired",
        ActionKind::ReverseReplicate => "reverse replication to begin",
        ActionKind::CancelSync => "data synchronisation to be cancelled and undone",
        ActionKind::FenceTarget => "the target to be barred",
        ActionKind::ResumeSource => "the VM to start at its source again",
        ActionKind::Synchronize => "data synchronisation to begin",
        ActionKind::Protect => "the replica to be made",
        ActionKind::CompleteFailover => "stop, last delta and start",
        ActionKind::Adopt => "the VM to be taken on",
        ActionKind::Release => "the move before to be over in the registers",
        ActionKind::Detach => "the VM to be let go",
    }
    .into()
}
