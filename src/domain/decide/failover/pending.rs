//! The action that was decided before: its fate is looked for before anything new is decided, and every order carries a mark newer than
//! all that may still be on its way (safety rules S1, S2).

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::api::{PendingActionStatus, TaskState};
use crate::domain::action::{Action, ActionKind, Mark};
use crate::domain::decide::wait::{Wait, Waiting};
use crate::domain::decide::{event, next_failure, pending_mark, report, submission, tasks, to_i64};
use crate::domain::decision::Effect;
use crate::domain::fact::Fact;
use crate::domain::failure::ErrorClass;
use crate::domain::observation::{Operation, OperationState, Stage, VmObservation};

use super::{Move, Next, doing, half_resumed};

/// What is waited for while an operation runs.
fn words(operation: &Operation) -> String {
    let doing_now = operation.job.as_ref().and_then(|job| job.doing.as_deref());
    match (&operation.progress, doing_now) {
        (Some(progress), _) => progress.what.clone(),
        (None, Some(says)) => format!("{}: {says}", doing(operation.kind)),
        (None, None) => doing(operation.kind),
    }
}

/// How much a part of an action keeps the whole from being done.
const fn gravity(state: &OperationState) -> u8 {
    match state {
        OperationState::Succeeded => 0,
        OperationState::Interrupted => 1,
        OperationState::Failed { .. } => 2,
        // It is judged when all its parts have ended.
        OperationState::Running => 3,
    }
}

impl Move<'_> {
    /// The pending action is looked for among what each side tells; nothing new is decided before its fate is known.
    pub(super) fn settle_pending(&mut self, vm: &VmObservation) -> Option<Next> {
        let pending = self.status.pending_action.clone()?;
        let mark = pending_mark(&pending);
        let kind = ActionKind::parse(&pending.action)?;
        let action = Action::of_move(kind, self.from(), self.data_sync())?;
        // Of an action with orders for both sides, the one that fared worst tells.
        let operation = vm
            .operations
            .iter()
            .filter(|op| op.mark == mark && op.kind == kind)
            .max_by_key(|operation| gravity(&operation.state));
        if let Some(operation) = operation {
            if operation.state == OperationState::Succeeded && kind == ActionKind::CancelSync {
                // The side that would have to undo comes last: what did not reach it is sent again.
                match &vm.marks[operation.site.other()] {
                    Fact::Known(seen) if *seen < mark && !pending.refused => {
                        return Some(Next::Resubmit(action, mark));
                    }
                    Fact::Unknown(why) => {
                        return Some(Next::Wait(Wait::outside(format!(
                            "whether {kind} took effect at both sites: {why}"
                        ))));
                    }
                    Fact::Known(_) | Fact::Absent => {}
                }
            }
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

    pub(super) fn settle_seen(&mut self, operation: &Operation, action: &Action) -> Option<Next> {
        if let Some(job) = &operation.job {
            let name = operation.kind.as_str();
            self.events
                .extend(tasks::follow(&mut self.status, name, job));
        }
        match &operation.state {
            OperationState::Running => {
                if self.goes_back_over(operation.kind) {
                    return None;
                }
                self.progress.clone_from(&operation.progress);
                Some(Next::Wait(Wait::operation(words(operation))))
            }
            OperationState::Succeeded => {
                self.count_bytes(operation);
                self.status.failure = None;
                self.drop_pending();
                tasks::set(
                    &mut self.status,
                    operation.kind.as_str(),
                    TaskState::Succeeded,
                    operation.remark.clone(),
                    self.world.now,
                );
                if let Some(remark) = &operation.remark {
                    let words = format!("{}: {remark}", operation.kind);
                    self.events.push(event(true, "DoneOtherwise", words));
                }
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
    pub(super) fn goes_back_over(&self, kind: ActionKind) -> bool {
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

    pub(super) fn note_taken(&mut self, mark: Mark) {
        if mark > self.taken() {
            self.status.epoch = Some(to_i64(mark.epoch));
            self.status.step = Some(to_i64(mark.step));
        }
    }

    /// The newest order of this move that was seen to have been taken.
    pub(super) fn taken(&self) -> Mark {
        super::super::written_mark(self.status.epoch, self.status.step)
    }

    /// S7: registers only grow, and an operation that has ended does not run again. A look that shows less than this move has seen
    /// is older than that.
    pub(super) fn is_behind(&self, vm: &VmObservation) -> bool {
        let taken = self.taken();
        !vm.reaches(taken)
            || vm.operations.iter().any(|operation| {
                operation.mark == taken && operation.state == OperationState::Running
            })
    }

    pub(super) fn drop_pending(&mut self) {
        self.status.pending_action = None;
        self.progress = None;
    }

    /// A failed step is tried again only after a while.
    pub(super) fn holding_off(&self) -> Option<Wait> {
        let failure = self.status.failure.as_ref()?;
        let retry = failure.retry_time.as_ref()?.0;
        let class = ErrorClass::parse(&failure.class);
        // A time further away than any delay was written by a clock that has been set back since.
        let left = retry.duration_since(self.now());
        let longest = class.retry_delay(u64::try_from(failure.count).unwrap_or(u64::MAX));
        if left <= SignedDuration::ZERO || left > longest {
            return None;
        }
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
            reason: None,
        })
    }

    pub(super) fn submit(&mut self, action: Action) -> Effect {
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
    pub(super) fn acts_for(&self) -> String {
        let from = self.from();
        self.seen()
            .filter(|vm| {
                !matches!(vm.stage, Fact::Known(Stage::Settled { .. })) || half_resumed(vm, from)
            })
            .and_then(|vm| vm.failover().map(str::to_owned))
            .unwrap_or_else(|| self.fo.uid.into())
    }

    pub(super) fn seen(&self) -> Option<&VmObservation> {
        report::seen(self.world)
    }

    /// S1, S2: newer than all that either side has taken and than all that may still be on its way.
    pub(super) fn next_mark(&self, action: &Action) -> Mark {
        let Some(vm) = self.seen() else {
            return Mark::default();
        };
        let taken = vm.newest_mark().unwrap_or_default().max(self.taken());
        let settled = matches!(vm.stage, Fact::Known(Stage::Settled { .. }));
        // What leads a move on is taken at the epoch under way only. A fence of a newer one that is still on its way is not barred by a
        // number: after commit it is refused (S5), and before that it ends the move at a place that is safe.
        let leads_on = match action.kind() {
            ActionKind::FinalSync
            | ActionKind::StartTarget
            | ActionKind::Commit
            | ActionKind::RetireSource => true,
            ActionKind::StopSource => !settled,
            _ => false,
        };
        let highest = self
            .status
            .pending_action
            .as_ref()
            .map(pending_mark)
            .filter(|pending| !(leads_on && pending.epoch > taken.epoch))
            .map_or(taken, |pending| pending.max(taken));
        let moves_right = match action.kind() {
            ActionKind::StopSource | ActionKind::CompleteFailover => settled,
            ActionKind::FenceTarget => true,
            _ => false,
        };
        // A stop or a fence that may still be on its way is given again in its own epoch, since either of the two may come first: the replica takes
        // data of no epoch that is far from its own, and the source comes back at the epoch of the fence.
        let again = self.status.pending_action.as_ref().filter(|pending| {
            pending.action == action.kind().as_str() && pending_mark(pending).epoch > taken.epoch
        });
        if let Some(pending) = again.filter(|_| moves_right) {
            let before = pending_mark(pending);
            Mark {
                step: before.step + 1,
                ..before
            }
        } else if moves_right {
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
}
