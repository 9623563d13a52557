//! Going back: why, and how, before and after the target was started.

use crate::api::{FailoverOutcome, FailoverPhase};
use crate::domain::action::{Action, ActionKind};
use crate::domain::capabilities::DirectionCapabilities;
use crate::domain::decide::wait::Wait;
use crate::domain::decide::{event, pending_mark};
use crate::domain::fact::Fact;
use crate::domain::observation::{ProtectionState, Stage, VmObservation};

use super::{Move, Next, doing, half_resumed, registers_gone, running};

impl Move<'_> {
    /// Why the move should go back, if it should.
    pub(super) fn going_back(&self) -> Option<String> {
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
        // S6: what somebody began at the service is followed; a placement that may be older does not end it.
        if self.is_followed() {
            return None;
        }
        (self.world.intent.placement == self.from())
            .then(|| format!("the placement was changed back to {}", self.from()))
    }

    /// Whether this move was begun by somebody else at the service, and goes on there.
    pub(super) fn is_followed(&self) -> bool {
        let leaving = self.seen().and_then(|vm| vm.leaving);
        self.fo.taken_up && leaving == Some(self.from())
    }

    pub(super) fn turn_back(&mut self, why: String, outcome: FailoverOutcome) -> Next {
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

    pub(super) fn cancelling(
        &mut self,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        let from = self.from();
        if let Some(next) = self.resumed_half(vm, stage) {
            return next;
        }
        match (stage, &vm.led_elsewhere) {
            // S20: nor is it cancelled for one of them.
            (Stage::Settled { site }, Some(led)) if *site == from => {
                return Next::Wait(Wait::person(format!(
                    "a cancel of {led}, where it was begun: Homeward does not cancel it for one of its VMs; if it goes on, so does this move"
                )));
            }
            _ => {}
        }
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
            // S20: what was begun in the meantime cannot be taken back here; the driver leads it on.
            Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. }
                if !can.cancel_after_stop =>
            {
                Next::Enter(FailoverPhase::CuttingOver)
            }
            Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => Next::Submit(Action::FenceTarget { to: self.to() }),
            Stage::TargetFenced { .. } => match running(vm, from) {
                // The guest may be half way down: it is started again once it is known to have stopped, or is left running.
                Some(operation) => Next::Wait(Wait::operation(format!(
                    "{} to end before the VM is resumed",
                    doing(operation.kind)
                ))),
                None => self.resume(vm),
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
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } | Stage::Unreadable { .. } => {
                Next::Wait(registers_gone())
            }
        }
    }

    /// S2: the source comes back at the epoch of the fence. A fence of a newer epoch that may still be on its way would bar the target anew after
    /// that, and leave the two sides in contradiction: it is given again first.
    fn resume(&self, vm: &VmObservation) -> Next {
        let (from, to) = (self.from(), self.to());
        let fenced_at = vm.marks[to].known().map_or(0, |mark| mark.epoch);
        let on_its_way = self
            .status
            .pending_action
            .as_ref()
            .is_some_and(|pending| pending_mark(pending).epoch > fenced_at);
        if on_its_way {
            Next::Submit(Action::FenceTarget { to })
        } else {
            Next::Submit(Action::ResumeSource { from })
        }
    }

    /// The right is back at the source, and the guest was not brought up with it: an order that broke off is given again until it succeeds.
    fn resumed_half(&self, vm: &VmObservation, stage: &Stage) -> Option<Next> {
        let from = self.from();
        if !self.still_at_source(stage) {
            return None;
        }
        if let Some(operation) = running(vm, from) {
            return (operation.kind == ActionKind::ResumeSource)
                .then(|| Next::Wait(Wait::operation(doing(operation.kind))));
        }
        // Whatever became of the order: a guest that is as it should be needs no other.
        half_resumed(vm, from).then_some(Next::Submit(Action::ResumeSource { from }))
    }

    pub(super) fn rolling_back(&mut self, vm: &VmObservation, stage: &Stage) -> Next {
        let from = self.from();
        if let Some(next) = self.resumed_half(vm, stage) {
            return next;
        }
        match stage {
            Stage::TargetStarted { .. }
            | Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => Next::Submit(Action::FenceTarget { to: self.to() }),
            Stage::TargetFenced { .. } => self.resume(vm),
            // What was not committed stays in the record: it is what was dropped.
            Stage::Settled { site } if *site == from => {
                Next::Finish(self.status.outcome.unwrap_or(FailoverOutcome::RolledBack))
            }
            // S5: committed after all; nothing rolls back.
            Stage::Committed { .. } => Next::Enter(FailoverPhase::Committing),
            Stage::Settled { .. } => Next::Enter(FailoverPhase::AwaitingReverseReplication),
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } | Stage::Unreadable { .. } => {
                Next::Wait(registers_gone())
            }
        }
    }
}
