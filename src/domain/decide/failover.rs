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

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::super::action::{Action, ActionKind, Mark};
use super::super::capabilities::DirectionCapabilities;
use super::super::data_sync;
use super::super::decision::{Decision, Effect, Event, Pace};
use super::super::downtime;
use super::super::fact::Fact;
use super::super::failure::ErrorClass;
use super::super::observation::{
    Operation, OperationState, Progress, Protection, ProtectionState, Stage, VmObservation,
};
use super::super::world::{FailoverView, VaultView, World};
use super::wait::{Wait, Waiting};
use super::{
    LOOK_AGAIN, event, last_failover, next_failure, pending_mark, report, submission, tasks,
    to_i64, until,
};
use crate::api::{
    Approval, DataSync, FailoverOutcome, FailoverPhase, FailoverStatus, PendingActionStatus,
    ProgressStatus, Site, TaskState, TransferStatus, UncommittedStatus, Verdict,
};

/// How often a Failover's progress is written at most: every 5 seconds.
const PROGRESS_INTERVAL_SECONDS: i64 = 5;
/// How often the bytes that a rollback would drop are written while commit waits: every 15 seconds.
const UNCOMMITTED_INTERVAL_SECONDS: i64 = 15;

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

struct Move<'a> {
    world: &'a World<'a>,
    fo: FailoverView<'a>,
    status: FailoverStatus,
    events: Vec<Event>,
    progress: Option<Progress>,
}

pub fn decide(world: &World<'_>, fo: FailoverView<'_>) -> Decision {
    let mut this = Move {
        world,
        fo,
        status: fo.status.clone(),
        events: Vec::new(),
        progress: None,
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
                    return Next::Finish(FailoverOutcome::Failed);
                }
                return Next::Wait(Wait::mend(format!(
                    "RecoveryVault {} does not exist: apply it again so that the move can go on",
                    world.intent.vault
                )));
            }
            Fact::Unknown(why) => {
                return Next::Wait(Wait::outside(format!("the first look at the vault: {why}")));
            }
        };
        let vm = match &view.vm {
            Fact::Known(vm) => *vm,
            Fact::Absent => {
                return Next::Wait(Wait::mend(format!(
                    "VM {} is not known to the vault any more: bring it back, or delete this ProtectedVirtualMachine",
                    world.intent.vm_name
                )));
            }
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
        };
        if self.is_behind(vm) {
            return Next::Wait(Wait::outside(
                "a newer look: what was seen is older than what this move has done; if a host was put back to an earlier state, see the runbook on contradicting registers",
            ));
        }
        if let Some(next) = self.settle_pending(vm) {
            return next;
        }
        let stage = match &vm.stage {
            Fact::Known(Stage::Contradiction { seen }) => {
                return Next::Wait(Wait::mend(format!(
                    "the sites contradict each other and nothing is guessed: {seen}; see the runbook on contradicting registers"
                )));
            }
            Fact::Known(stage) => stage,
            // S7: start, stop, commit, undo, resume, cancel and reverse replication all wait for this fact.
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Absent => return Next::Wait(Wait::mend("no site knows who may run the VM")),
        };
        if let Some(next) = self.own_registers(vm, stage) {
            return next;
        }
        let can = &view.capabilities.towards[self.to()];
        match phase {
            FailoverPhase::AwaitingStart => self.awaiting_start(),
            FailoverPhase::Preparing => self.preparing(view, vm, stage, can),
            FailoverPhase::Synchronizing if self.full() => self.cutting_over(vm, stage, can),
            FailoverPhase::Synchronizing => self.synchronizing(vm, stage),
            FailoverPhase::AwaitingCutover => self.awaiting_cutover(view, vm, stage, can),
            FailoverPhase::CuttingOver => self.cutting_over(vm, stage, can),
            FailoverPhase::AwaitingCommit => self.awaiting_commit(vm, stage, can),
            FailoverPhase::Committing => self.committing(stage),
            FailoverPhase::AwaitingReverseReplication => self.awaiting_reverse_replication(can),
            FailoverPhase::ReverseReplicating => self.reverse_replicating(vm),
            FailoverPhase::Cancelling => self.cancelling(vm, stage, can),
            FailoverPhase::RollingBack => self.rolling_back(stage),
            FailoverPhase::Succeeded
            | FailoverPhase::Cancelled
            | FailoverPhase::RolledBack
            | FailoverPhase::Failed => Next::Wait(Wait::operation("nothing: the move has ended")),
        }
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
                ))));
            }
            let adopt = Action::Adopt {
                at: stage.active().unwrap_or(self.from()),
                takeover: Some(claim.clone()),
            };
            let failover = vm.failover.clone().filter(|_| stage.is_midway());
            return Some(Next::Ask(adopt, failover));
        }
        // S1: a Failover that has ended still stands in the registers, which refuse another one until it is released.
        let other = vm.failover.as_deref().is_some_and(|uid| uid != self.fo.uid);
        (other && matches!(stage, Stage::Settled { .. }))
            .then_some(Next::Ask(Action::Release, None))
    }

    // ---- what was asked for before -------------------------------------------------------------------------------

    /// The pending action is looked for among what each side tells; nothing new is decided before its fate is known.
    fn settle_pending(&mut self, vm: &VmObservation) -> Option<Next> {
        let pending = self.status.pending_action.clone()?;
        let mark = pending_mark(&pending);
        let kind = ActionKind::parse(&pending.action)?;
        let action = Action::of_move(kind, self.from(), self.data_sync())?;
        let operation = vm
            .operations
            .iter()
            .find(|op| op.mark == mark && op.kind == kind);
        if let Some(operation) = operation {
            if operation.state != OperationState::Running {
                self.note_taken(mark);
            }
            return self.settle_seen(operation, &action);
        }
        let seen = action.site().map_or_else(
            || Fact::Unknown("no side".into()),
            |site| vm.marks[site].clone(),
        );
        match seen {
            Fact::Unknown(why) => Some(Next::Wait(Wait::outside(format!(
                "whether {kind} took effect: {why}"
            )))),
            // Somebody went on since, this controller's other replica for example: what stands now decides.
            Fact::Known(seen) if seen > mark => {
                self.note_taken(mark);
                self.drop_pending();
                None
            }
            // S2: the side has taken this very step and tells nothing of it any more: the registers show what came of it.
            Fact::Known(seen) if seen == mark => {
                self.note_taken(mark);
                self.drop_pending();
                None
            }
            Fact::Known(_) | Fact::Absent => {
                if pending.refused || self.goes_back_over(kind) {
                    // S2: what is decided instead carries a newer mark, so that this one is refused should it still arrive.
                    return None;
                }
                Some(Next::Resubmit(action, mark))
            }
        }
    }

    fn settle_seen(&mut self, operation: &Operation, action: &Action) -> Option<Next> {
        match &operation.state {
            OperationState::Running => {
                if self.goes_back_over(operation.kind) {
                    return None;
                }
                self.progress.clone_from(&operation.progress);
                let what = operation
                    .progress
                    .as_ref()
                    .map_or_else(|| doing(operation.kind), |progress| progress.what.clone());
                Some(Next::Wait(Wait::operation(what)))
            }
            OperationState::Succeeded => {
                self.count_bytes(operation);
                self.status.failure = None;
                self.drop_pending();
                tasks::set(
                    &mut self.status,
                    operation.kind.as_str(),
                    TaskState::Succeeded,
                    None,
                    self.world.now,
                );
                None
            }
            OperationState::Failed { class, message } => {
                self.drop_pending();
                self.status.failure = Some(next_failure(
                    self.status.failure.as_ref(),
                    *class,
                    message,
                    self.world.now,
                ));
                tasks::set(
                    &mut self.status,
                    action.kind().as_str(),
                    TaskState::Failed,
                    Some(message.clone()),
                    self.world.now,
                );
                self.events.push(event(
                    true,
                    "ActionFailed",
                    format!("{}: {message}", action.kind()),
                ));
                None
            }
            OperationState::Interrupted => {
                self.drop_pending();
                None
            }
        }
    }

    /// Whether the move turns back and need not wait for this action first.
    fn goes_back_over(&self, kind: ActionKind) -> bool {
        self.going_back().is_some()
            && matches!(
                kind,
                ActionKind::Protect
                    | ActionKind::Synchronize
                    | ActionKind::StopSource
                    | ActionKind::FinalSync
                    | ActionKind::StartTarget
            )
    }

    fn note_taken(&mut self, mark: Mark) {
        if mark > self.taken() {
            self.status.epoch = Some(to_i64(mark.epoch));
            self.status.step = Some(to_i64(mark.step));
        }
    }

    /// The newest order of this move that was seen to have been taken.
    fn taken(&self) -> Mark {
        super::written_mark(self.status.epoch, self.status.step)
    }

    /// S7: registers only grow, and an operation that has ended does not run again. A look that shows less than this move has seen
    /// is older than that.
    fn is_behind(&self, vm: &VmObservation) -> bool {
        let taken = self.taken();
        vm.newest_mark().is_some_and(|newest| newest < taken)
            || vm.operations.iter().any(|operation| {
                operation.mark == taken && operation.state == OperationState::Running
            })
    }

    fn drop_pending(&mut self) {
        self.status.pending_action = None;
        self.progress = None;
    }

    /// A failed step is tried again only after a while.
    fn holding_off(&self) -> Option<Wait> {
        let failure = self.status.failure.as_ref()?;
        let retry = failure.retry_time.as_ref()?.0;
        if retry <= self.now() {
            return None;
        }
        let class = ErrorClass::parse(&failure.class);
        let text = format!(
            "the next attempt after {} failures: {}",
            failure.count, failure.message
        );
        let waiting = if class.needs_person() {
            Waiting::Mend
        } else {
            Waiting::Outside
        };
        Some(Wait {
            waiting,
            text,
            until: Some(retry),
        })
    }

    fn submit(&mut self, action: Action) -> Effect {
        let mark = self.next_mark(&action);
        let now = self.now();
        let kind = action.kind();
        self.status.pending_action = Some(PendingActionStatus {
            action: kind.as_str().into(),
            epoch: to_i64(mark.epoch),
            step: to_i64(mark.step),
            stored_time: Time(now),
            unresolved: self.status.pending_action.is_some(),
            refused: false,
        });
        tasks::set(
            &mut self.status,
            kind.as_str(),
            TaskState::Running,
            None,
            now,
        );
        let downtime = self.status.downtime.get_or_insert_default();
        match kind {
            ActionKind::StopSource | ActionKind::CompleteFailover
                if downtime.stop_ordered_time.is_none() =>
            {
                downtime.stop_ordered_time = Some(MicroTime(now));
            }
            ActionKind::StartTarget if downtime.start_ordered_time.is_none() => {
                downtime.start_ordered_time = Some(MicroTime(now));
            }
            _ => {}
        }
        let failover = self.acts_for();
        submission(self.world, action, mark, Some(&failover))
    }

    /// S1, S6: the Failover that the registers know the move by: this one, or the lost one that it was taken up from in the middle. The
    /// registers refuse any other until the move has come to rest.
    fn acts_for(&self) -> String {
        self.seen()
            .filter(|vm| !matches!(vm.stage, Fact::Known(Stage::Settled { .. })))
            .and_then(|vm| vm.failover.clone())
            .unwrap_or_else(|| self.fo.uid.into())
    }

    fn seen(&self) -> Option<&VmObservation> {
        report::seen(self.world)
    }

    /// S1, S2: newer than all that either side has taken and than all that may still be on its way.
    fn next_mark(&self, action: &Action) -> Mark {
        let Some(vm) = self.seen() else {
            return Mark::default();
        };
        let mut highest = self
            .status
            .pending_action
            .as_ref()
            .map(pending_mark)
            .unwrap_or_default();
        for site in Site::BOTH {
            if let Fact::Known(mark) = vm.marks[site] {
                highest = highest.max(mark);
            }
        }
        let settled = matches!(vm.stage, Fact::Known(Stage::Settled { .. }));
        let moves_right = match action.kind() {
            ActionKind::StopSource | ActionKind::CompleteFailover => settled,
            ActionKind::FenceTarget => true,
            _ => false,
        };
        if moves_right {
            Mark {
                epoch: highest.epoch + 1,
                step: 1,
            }
        } else {
            Mark {
                epoch: highest.epoch,
                step: highest.step + 1,
            }
        }
    }

    // ---- going back ----------------------------------------------------------------------------------------------

    /// Why the move should go back, if it should.
    fn going_back(&self) -> Option<String> {
        if let Some(why) = &self.status.turned_back_because {
            return Some(why.clone());
        }
        if self.fo.spec.cancel == Some(true) {
            return Some("spec.cancel was answered".into());
        }
        if self.fo.deleting {
            return Some("the Failover was deleted".into());
        }
        if self.world.intent.deleting {
            return Some("the ProtectedVirtualMachine is being deleted".into());
        }
        (self.world.intent.placement == self.from())
            .then(|| format!("the placement was changed back to {}", self.from()))
    }

    fn turn_back(&mut self, why: String, outcome: FailoverOutcome) -> Next {
        self.events.push(event(
            outcome == FailoverOutcome::Failed,
            "TurningBack",
            format!("going back to {}: {why}", self.from()),
        ));
        self.status.turned_back_because = Some(why);
        self.status.outcome = Some(outcome);
        self.status.failure = None;
        Next::Enter(if outcome == FailoverOutcome::RolledBack {
            FailoverPhase::RollingBack
        } else {
            FailoverPhase::Cancelling
        })
    }

    // ---- the phases ----------------------------------------------------------------------------------------------

    /// Why it is not known where the right to run stands, when it is not.
    fn why_unseen(&self) -> Option<&str> {
        match &self.world.vault {
            Fact::Known(view) => match &view.vm {
                Fact::Known(vm) => vm.stage.why_unknown(),
                unseen => unseen.why_unknown(),
            },
            unseen => unseen.why_unknown(),
        }
    }

    fn awaiting_start(&mut self) -> Next {
        let midway = self
            .seen()
            .and_then(|vm| vm.stage.known())
            .is_some_and(Stage::is_midway);
        if midway {
            // S6: taken up from a Failover that is gone. Neither a held start, nor suspend, nor a wish to stay leaves the VM half way.
            self.status.start_time = Some(Time(self.now()));
            return Next::Enter(FailoverPhase::Preparing);
        }
        if let Some(why) = self.going_back() {
            // S6, S7: it may have been made to take up a move that was half way; only a look tells that there is none.
            if let Some(unknown) = self.why_unseen() {
                return Next::Wait(Wait::outside(format!(
                    "a look that shows that nothing was begun: {unknown}"
                )));
            }
            self.status.turned_back_because = Some(why);
            return Next::Finish(FailoverOutcome::Cancelled);
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("the move begins"));
        }
        if let (Some(why), None) = (self.fo.start_held_because, self.fo.spec.start) {
            return Next::Wait(Wait::person(format!(
                "spec.start: Approved on this Failover, because {why}"
            )));
        }
        self.status.start_time = Some(Time(self.now()));
        Next::Enter(FailoverPhase::Preparing)
    }

    fn preparing(
        &mut self,
        view: &VaultView<'_>,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        match stage {
            Stage::Settled { site } if *site == self.from() => {}
            Stage::Settled { site } => {
                self.status.turned_back_because = Some(format!("the VM already runs in {site}"));
                return Next::Finish(FailoverOutcome::Cancelled);
            }
            Stage::TargetStarted { .. } | Stage::Committed { .. } => {
                return Next::Enter(FailoverPhase::AwaitingCommit);
            }
            Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. }
            | Stage::TargetFenced { .. } => {
                // S6: no answer is inherited from the Failover that began this; before the start, going back is always safe.
                let why =
                    "it was begun by a Failover that is gone, whose answers are not inherited"
                        .to_owned();
                return self.turn_back(why, FailoverOutcome::Cancelled);
            }
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } => {
                return Next::Wait(Wait::outside("the VM to be taken on"));
            }
        }
        if let Some(why) = self.going_back() {
            self.status.turned_back_because = Some(why);
            return Next::Finish(FailoverOutcome::Cancelled);
        }
        if let Some(wait) = disconnected(view) {
            return Next::Wait(wait);
        }
        if let Some(wait) = obstacles(vm) {
            return Next::Wait(wait);
        }
        let protection = match &vm.protection {
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Known(protection) if protection.from == self.from() => Some(protection),
            Fact::Known(_) | Fact::Absent => None,
        };
        let replicating = protection.is_some_and(|protection| protection.last_whole.is_some());
        if self.status.data_sync.is_none() {
            let basis = data_sync::Basis {
                asked: self.fo.spec.data_sync,
                to: self.to(),
                active_since: vm.active_since,
                full_download_after: self.world.intent.full_download_after,
                replica_present: &vm.replica_present,
                replicating,
                now: self.now(),
            };
            match data_sync::choose(&basis) {
                Ok(choice) => self.status.data_sync = Some(choice),
                Err(unknown) => return Next::Wait(Wait::outside(unknown)),
            }
        }
        // The data needs a place to go to, and that there is room for it must be known before the VM is stopped.
        // Where the driver protects nothing that runs at the source, the move itself makes that place.
        let protects = view.capabilities.towards[self.from()]
            .protects_after_commit
            .is_ok();
        if protects && protection.is_none() && vm.replica_present != Fact::Known(true) {
            return Next::Submit(Action::Protect { from: self.from() });
        }
        tasks::set(
            &mut self.status,
            "Prepare",
            TaskState::Succeeded,
            None,
            self.world.now,
        );
        Next::Enter(if can.pause_before_cutover && !self.full() {
            FailoverPhase::Synchronizing
        } else {
            FailoverPhase::AwaitingCutover
        })
    }

    fn synchronizing(&mut self, vm: &VmObservation, stage: &Stage) -> Next {
        if !self.still_at_source(stage) {
            return Next::Enter(FailoverPhase::CuttingOver);
        }
        if let Some(why) = self.going_back() {
            return self.turn_back(why, FailoverOutcome::Cancelled);
        }
        let protection = match &vm.protection {
            Fact::Known(protection) => protection,
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Absent => return Next::Submit(Action::Synchronize { from: self.from() }),
        };
        if self.synchronized(protection) {
            self.note_synchronized(protection);
            tasks::set(
                &mut self.status,
                ActionKind::Synchronize.as_str(),
                TaskState::Succeeded,
                None,
                self.world.now,
            );
            return Next::Enter(FailoverPhase::AwaitingCutover);
        }
        if protection.failover.as_deref() != Some(self.fo.uid)
            || matches!(protection.state, ProtectionState::Paused)
        {
            return Next::Submit(Action::Synchronize { from: self.from() });
        }
        self.progress.clone_from(&protection.progress);
        Next::Wait(match &protection.state {
            ProtectionState::Failing(why) => Wait::outside(format!(
                "replication to {} to get through; it goes on trying: {why}",
                self.to()
            )),
            ProtectionState::Seeding | ProtectionState::Replicating | ProtectionState::Paused => {
                Wait::operation(protection.progress.as_ref().map_or_else(
                    || format!("{} to receive what differs", self.to()),
                    |p| p.what.clone(),
                ))
            }
        })
    }

    fn awaiting_cutover(
        &mut self,
        view: &VaultView<'_>,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        if !self.still_at_source(stage) {
            return Next::Enter(FailoverPhase::CuttingOver);
        }
        if let Some(why) = self.going_back() {
            return self.turn_back(why, FailoverOutcome::Cancelled);
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("the move goes on to cutover"));
        }
        if self.world.intent.cutover == Approval::Manual && self.fo.spec.cutover.is_none() {
            return Next::Wait(Wait::person(
                "spec.cutover: Approved on this Failover (spec.cutover.approval of the VM is Manual); the VM runs on at its source until then",
            ));
        }
        if let Some(wait) = disconnected(view) {
            return Next::Wait(wait);
        }
        // S14: a disk without a target is seen here, before the source is fenced.
        if let Some(wait) = obstacles(vm) {
            return Next::Wait(wait);
        }
        if can.pause_before_cutover && !self.full() {
            match &vm.protection {
                Fact::Known(protection) if self.synchronized(protection) => {
                    self.note_synchronized(protection);
                }
                _ => return Next::Enter(FailoverPhase::Synchronizing),
            }
        }
        self.predict(vm);
        Next::Enter(FailoverPhase::CuttingOver)
    }

    fn cutting_over(
        &mut self,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        match stage {
            Stage::TargetStarted { .. } | Stage::Committed { .. } => {
                return Next::Enter(FailoverPhase::AwaitingCommit);
            }
            Stage::Settled { site } if *site == self.to() => {
                return Next::Enter(FailoverPhase::AwaitingReverseReplication);
            }
            Stage::TargetFenced { .. } => {
                return self.turn_back("the target was barred".into(), FailoverOutcome::Cancelled);
            }
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } => {
                return Next::Wait(Wait::mend("the registers of the VM are gone"));
            }
            Stage::Settled { .. }
            | Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => {}
        }
        if self
            .status
            .failure
            .as_ref()
            .is_some_and(|failure| failure.class == ErrorClass::Unresponsive.as_str())
        {
            let why = self
                .status
                .failure
                .as_ref()
                .map(|failure| failure.message.clone())
                .unwrap_or_default();
            return self.turn_back(why, FailoverOutcome::Failed);
        }
        if let Some(why) = self.going_back() {
            if can.cancel_after_stop || self.still_at_source(stage) {
                return self.turn_back(why, FailoverOutcome::Cancelled);
            }
        }
        let from = self.from();
        let data_sync = self.data_sync();
        match stage {
            Stage::Settled { .. } if can.separate_stop => Next::Submit(Action::StopSource { from }),
            Stage::SourceFenced { .. } => {
                if let Some(running) = running(vm, from) {
                    self.progress.clone_from(&running.progress);
                    return Next::Wait(Wait::operation(doing(running.kind)));
                }
                Next::Submit(Action::StopSource { from })
            }
            Stage::SourceStopped { .. } => {
                self.saw_stopped();
                if self.full() && self.phase() != FailoverPhase::Synchronizing {
                    return Next::Enter(FailoverPhase::Synchronizing);
                }
                if let Some(running) = running(vm, from) {
                    self.progress.clone_from(&running.progress);
                    return Next::Wait(Wait::operation(doing(running.kind)));
                }
                Next::Submit(Action::FinalSync { from, data_sync })
            }
            Stage::TargetWhole { .. } => {
                self.saw_stopped();
                if self.phase() == FailoverPhase::Synchronizing {
                    return Next::Enter(FailoverPhase::CuttingOver);
                }
                Next::Submit(Action::StartTarget { to: self.to() })
            }
            _ => Next::Submit(Action::CompleteFailover { from, data_sync }),
        }
    }

    fn awaiting_commit(
        &mut self,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        let as_left = match stage {
            Stage::TargetStarted { as_left, .. } => *as_left,
            Stage::Committed { .. } => return Next::Enter(FailoverPhase::Committing),
            Stage::Settled { site } if *site == self.to() => {
                return Next::Enter(FailoverPhase::AwaitingReverseReplication);
            }
            Stage::Settled { .. } | Stage::TargetFenced { .. } => {
                return self.turn_back("the target was barred".into(), FailoverOutcome::RolledBack);
            }
            Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => {
                return Next::Enter(FailoverPhase::CuttingOver);
            }
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } => {
                return Next::Wait(Wait::mend("the registers of the VM are gone"));
            }
        };
        self.saw_started(vm);
        let back = self.fo.spec.commit == Some(Verdict::Rollback);
        let flipped = !self.world.intent.deleting && self.world.intent.placement == self.from();
        if (back || flipped) && self.fo.spec.commit != Some(Verdict::Approved) {
            let why = if back {
                "spec.commit: Rollback was answered".to_owned()
            } else {
                format!("the placement was changed back to {}", self.from())
            };
            if can.rollback {
                return self.turn_back(why, FailoverOutcome::RolledBack);
            }
            // S20: what the driver cannot do is not imitated.
            return Next::Wait(Wait::person(format!(
                "spec.commit: Approved on this Failover: {why}, but this driver cannot take an uncommitted move back; once committed, the VM is brought back by a new Failover"
            )));
        }
        if self.world.intent.suspend && !self.world.intent.deleting {
            return Next::Wait(Wait::suspended("the move goes on to commit"));
        }
        let late_cancel = self.fo.spec.cancel == Some(true) || self.fo.deleting;
        let asks = self.world.intent.commit == Approval::Manual
            || late_cancel
            || self.status.turned_back_because.is_some();
        if asks && self.fo.spec.commit.is_none() {
            let why = if late_cancel || self.status.turned_back_because.is_some() {
                "the wish to go back came after the VM had been started at the target"
            } else {
                "spec.commit.approval of the VM is Manual"
            };
            // S20: only what the driver can do is offered.
            let answers = if can.rollback {
                "Approved or Rollback"
            } else {
                "Approved"
            };
            return Next::Wait(Wait::person(format!(
                "spec.commit: {answers} on this Failover ({why})"
            )));
        }
        if !as_left {
            let or = if can.rollback {
                ", or answer spec.commit: Rollback"
            } else {
                ""
            };
            return Next::Wait(Wait::mend(format!(
                "the guest does not run in {}: start it there so that it can be committed{or}",
                self.to()
            )));
        }
        if let Some(wait) = self.holding_off() {
            return Next::Wait(wait);
        }
        Next::Enter(FailoverPhase::Committing)
    }

    fn committing(&mut self, stage: &Stage) -> Next {
        match stage {
            Stage::TargetStarted { .. } => {
                // S5: a commit that was refused, with none on record, leaves the question open again.
                let asked = self
                    .status
                    .pending_action
                    .as_ref()
                    .is_some_and(|pending| !pending.refused);
                if !asked && self.holding_off().is_some() {
                    return Next::Enter(FailoverPhase::AwaitingCommit);
                }
                Next::Submit(Action::Commit { at: self.to() })
            }
            Stage::Committed { .. } => Next::Submit(Action::RetireSource { at: self.from() }),
            Stage::Settled { site } if *site == self.to() => {
                self.status.uncommitted = None;
                Next::Enter(FailoverPhase::AwaitingReverseReplication)
            }
            other => Next::Wait(Wait::mend(format!(
                "the commit cannot go on from where the VM stands now: {other:?}"
            ))),
        }
    }

    fn awaiting_reverse_replication(&mut self, can: &DirectionCapabilities) -> Next {
        if self.world.intent.deleting {
            return Next::Finish(FailoverOutcome::Succeeded);
        }
        if can.protects_after_commit.is_err() {
            tasks::set(
                &mut self.status,
                ActionKind::ReverseReplicate.as_str(),
                TaskState::Skipped,
                can.protects_after_commit.clone().err(),
                self.world.now,
            );
            return Next::Finish(FailoverOutcome::Succeeded);
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("reverse replication begins"));
        }
        if self.world.intent.reverse_replication == Approval::Manual
            && self.fo.spec.reverse_replicate.is_none()
        {
            return Next::Wait(Wait::person(
                "spec.reverseReplicate: Approved on this Failover (spec.reverseReplication of the VM is Manual); the VM is not protected until then",
            ));
        }
        Next::Enter(FailoverPhase::ReverseReplicating)
    }

    fn reverse_replicating(&mut self, vm: &VmObservation) -> Next {
        if self.world.intent.deleting {
            return Next::Finish(FailoverOutcome::Succeeded);
        }
        let from = self.to();
        let protection = match &vm.protection {
            Fact::Known(protection) => protection,
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Absent => return Next::Submit(Action::ReverseReplicate { from }),
        };
        let mine = protection.from == from && protection.failover.as_deref() == Some(self.fo.uid);
        if !mine || matches!(protection.state, ProtectionState::Paused) {
            return Next::Submit(Action::ReverseReplicate { from });
        }
        if let Some(whole) = protection
            .last_whole
            .as_ref()
            .filter(|whole| whole.failover.as_deref() == Some(self.fo.uid))
        {
            let transfer = self.status.transfer.get_or_insert_default();
            transfer.reverse_bytes = Some(to_i64(whole.bytes_on_wire));
            transfer.reverse_changed_bytes = Some(to_i64(whole.bytes_changed));
            tasks::set(
                &mut self.status,
                ActionKind::ReverseReplicate.as_str(),
                TaskState::Succeeded,
                None,
                self.world.now,
            );
            return Next::Finish(FailoverOutcome::Succeeded);
        }
        self.progress.clone_from(&protection.progress);
        Next::Wait(match &protection.state {
            ProtectionState::Failing(why) => Wait::outside(format!(
                "reverse replication to {} to get through; it goes on trying: {why}",
                self.from()
            )),
            _ => Wait::operation(format!("{} to receive what changed", self.from())),
        })
    }

    fn cancelling(
        &mut self,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        let from = self.from();
        match stage {
            // S2: an order that may still be on its way must not take effect once nobody waits for it: a newer one bars it.
            Stage::Settled { site } if *site == from && self.status.pending_action.is_some() => {
                Next::Submit(Action::CancelSync { from })
            }
            Stage::Settled { site } if *site == from => match &vm.protection {
                Fact::Unknown(why) => Next::Wait(Wait::outside(why.clone())),
                Fact::Known(protection)
                    if protection.failover.as_deref() == Some(self.fo.uid)
                        && !matches!(protection.state, ProtectionState::Paused) =>
                {
                    Next::Submit(Action::CancelSync { from })
                }
                Fact::Known(_) | Fact::Absent => {
                    Next::Finish(self.status.outcome.unwrap_or(FailoverOutcome::Cancelled))
                }
            },
            Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => Next::Submit(Action::FenceTarget { to: self.to() }),
            Stage::TargetFenced { .. } => match running(vm, from) {
                // The guest may be half way down: it is started again once it is known to have stopped, or is left running.
                Some(operation) => Next::Wait(Wait::operation(format!(
                    "{} to end before the VM is resumed",
                    doing(operation.kind)
                ))),
                None => Next::Submit(Action::ResumeSource { from }),
            },
            Stage::TargetStarted { .. } if can.rollback && self.fo.spec.cancel != Some(true) => {
                self.status.outcome = Some(FailoverOutcome::RolledBack);
                Next::Enter(FailoverPhase::RollingBack)
            }
            // The start was faster than the wish to go back: a person says what becomes of it.
            Stage::TargetStarted { .. } | Stage::Committed { .. } => {
                Next::Enter(FailoverPhase::AwaitingCommit)
            }
            Stage::Settled { .. } => Next::Enter(FailoverPhase::AwaitingReverseReplication),
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } => {
                Next::Wait(Wait::mend("the registers of the VM are gone"))
            }
        }
    }

    fn rolling_back(&mut self, stage: &Stage) -> Next {
        let from = self.from();
        match stage {
            Stage::TargetStarted { .. }
            | Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => Next::Submit(Action::FenceTarget { to: self.to() }),
            Stage::TargetFenced { .. } => Next::Submit(Action::ResumeSource { from }),
            Stage::Settled { site } if *site == from => {
                self.status.uncommitted = None;
                Next::Finish(self.status.outcome.unwrap_or(FailoverOutcome::RolledBack))
            }
            // S5: committed after all; nothing rolls back.
            Stage::Committed { .. } => Next::Enter(FailoverPhase::Committing),
            Stage::Settled { .. } => Next::Enter(FailoverPhase::AwaitingReverseReplication),
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } => {
                Next::Wait(Wait::mend("the registers of the VM are gone"))
            }
        }
    }

    // ---- small questions -----------------------------------------------------------------------------------------

    fn full(&self) -> bool {
        self.data_sync() == DataSync::FullDuringFailover
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

    // ---- the record ----------------------------------------------------------------------------------------------

    fn enter(&mut self, phase: FailoverPhase) {
        self.status.phase = Some(phase);
        self.progress = None;
    }

    fn finish(&mut self, outcome: FailoverOutcome) {
        let now = self.now();
        self.status.phase = Some(match outcome {
            FailoverOutcome::Succeeded => FailoverPhase::Succeeded,
            FailoverOutcome::Cancelled => FailoverPhase::Cancelled,
            FailoverOutcome::RolledBack => FailoverPhase::RolledBack,
            FailoverOutcome::Failed => FailoverPhase::Failed,
        });
        self.status.outcome = Some(outcome);
        self.status.completion_time = Some(Time(now));
        self.status.pending_action = None;
        self.status.failure = None;
        self.progress = None;
        tasks::close_open(
            &mut self.status,
            if outcome == FailoverOutcome::Succeeded {
                TaskState::Succeeded
            } else {
                TaskState::Skipped
            },
            now,
        );
    }

    /// What the move's passes sent while the VM ran; written when it is synchronised and again when cutover begins.
    fn note_synchronized(&mut self, protection: &Protection) {
        if let Some(whole) = &protection.last_whole {
            let transfer = self.status.transfer.get_or_insert_default();
            transfer.synchronized_bytes = to_i64(whole.bytes_on_wire);
            transfer.changed_bytes = to_i64(whole.bytes_changed);
        }
    }

    fn count_bytes(&mut self, operation: &Operation) {
        if matches!(
            operation.kind,
            ActionKind::FinalSync | ActionKind::CompleteFailover
        ) {
            if let (Some(wire), Some(changed)) = (operation.bytes_on_wire, operation.bytes_changed)
            {
                let transfer: &mut TransferStatus = self.status.transfer.get_or_insert_default();
                transfer.final_bytes += to_i64(wire);
                transfer.changed_bytes += to_i64(changed);
            }
        }
    }

    fn predict(&mut self, vm: &VmObservation) {
        let rate = vm
            .protection
            .known()
            .and_then(|protection| protection.last_whole.as_ref())
            .and_then(|whole| whole.bytes_per_second);
        let prediction = downtime::predict(&downtime::Basis {
            measured: self.world.status.measured_downtime.as_ref(),
            bytes: if self.full() {
                vm.disk_bytes
            } else {
                vm.pending_delta
            },
            bytes_per_second: rate,
        });
        let downtime = self.status.downtime.get_or_insert_default();
        downtime.predicted_milliseconds = prediction.milliseconds;
        downtime.prediction = Some(prediction.parts);
    }

    fn saw_stopped(&mut self) {
        let now = self.now();
        let downtime = self.status.downtime.get_or_insert_default();
        if downtime.stopped_time.is_none() {
            downtime.stopped_time = Some(MicroTime(now));
        }
    }

    fn saw_started(&mut self, vm: &VmObservation) {
        let now = self.now();
        let downtime = self.status.downtime.get_or_insert_default();
        if downtime.started_time.is_none() {
            downtime.started_time = Some(MicroTime(now));
            downtime.actual_milliseconds = downtime
                .stop_ordered_time
                .as_ref()
                .map(|stop| super::milliseconds_between(stop, &MicroTime(now)));
        }
        let since = Time(
            downtime
                .started_time
                .as_ref()
                .map_or(now, |started| started.0),
        );
        let fresh = self.status.uncommitted.as_ref().is_some_and(|before| {
            before.bytes.is_some()
                && now.duration_since(before.observed_time.0).as_secs()
                    < UNCOMMITTED_INTERVAL_SECONDS
        });
        if !fresh {
            let bytes = vm.written_since_start.known().map(|bytes| to_i64(*bytes));
            self.status.uncommitted = Some(UncommittedStatus {
                bytes,
                since,
                observed_time: Time(now),
            });
        }
    }

    /// A Failover that has ended: the VM's status lets go of it.
    fn close(self) -> Decision {
        let outcome = self.status.outcome.unwrap_or(FailoverOutcome::Failed);
        report::closed(
            self.world,
            last_failover(self.world, self.fo, outcome),
            &self.status,
        )
    }

    fn publish(mut self, effect: Option<Effect>, wait: Option<&Wait>) -> Decision {
        let now = self.now();
        let phase = self.phase();
        if phase != self.fo.status.phase.unwrap_or(FailoverPhase::AwaitingStart) {
            let text = wait
                .as_ref()
                .map_or_else(String::new, |wait| format!("; waits for {}", wait.text));
            self.events.push(event(
                matches!(phase, FailoverPhase::Failed),
                "PhaseChanged",
                format!("{} to {}: {phase:?}{text}", self.from(), self.to()),
            ));
        }
        self.status.waiting_for = wait.map(|wait| wait.text.clone());
        self.status.progress = self.progress_status();
        self.status.conditions = report::failover_conditions(
            &self.status,
            &self.fo.status.conditions,
            wait,
            self.fo.generation,
            now,
        );
        let pace = match phase {
            FailoverPhase::CuttingOver
            | FailoverPhase::Committing
            | FailoverPhase::Cancelling
            | FailoverPhase::RollingBack => Pace::Urgent,
            _ => super::pace_of(wait, effect.is_some() || wait.is_some()),
        };
        let wake_after = wait
            .as_ref()
            .map(|wait| wait.until.map_or(LOOK_AGAIN, |then| until(now, then)));
        let status = report::moving(self.world, self.fo, &self.status, wait);
        Decision {
            effect,
            status,
            failover: Some(self.status),
            wake_after,
            pace,
            events: self.events,
        }
    }

    fn progress_status(&self) -> Option<ProgressStatus> {
        let progress = self.progress.as_ref()?;
        let before = self.fo.status.progress.as_ref();
        if let Some(before) = before.filter(|_| self.fo.status.phase == self.status.phase) {
            let age = self.now().duration_since(before.observed_time.0).as_secs();
            if age < PROGRESS_INTERVAL_SECONDS {
                return Some(before.clone());
            }
        }
        let left = progress
            .bytes_total
            .map(|total| total.saturating_sub(progress.bytes_done));
        let eta = match (left, progress.bytes_per_second) {
            (Some(left), Some(rate)) if rate > 0 => {
                let seconds = i64::try_from(left / rate).ok()?;
                self.now()
                    .checked_add(jiff::SignedDuration::from_secs(seconds))
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
            observed_time: Time(self.now()),
        })
    }
}

fn running(vm: &VmObservation, site: Site) -> Option<&Operation> {
    vm.operations
        .iter()
        .find(|operation| operation.site == site && operation.state == OperationState::Running)
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

fn disconnected(view: &VaultView<'_>) -> Option<Wait> {
    Site::BOTH
        .into_iter()
        .find_map(|site| match &view.sites[site] {
            super::super::observation::Connection::Connected => None,
            super::super::observation::Connection::Disconnected(why) => {
                Some(Wait::outside(format!("{site} to be connected: {why}")))
            }
        })
}

fn obstacles(vm: &VmObservation) -> Option<Wait> {
    (!vm.obstacles.is_empty()).then(|| Wait::mend(vm.obstacles.join("; ")))
}
