//! Fence, stop, last delta, start: the phase that is downtime.

use crate::api::{FailoverOutcome, FailoverPhase};
use crate::domain::action::{Action, ActionKind};
use crate::domain::capabilities::DirectionCapabilities;
use crate::domain::decide::wait::Wait;
use crate::domain::fact::Fact;
use crate::domain::failure::ErrorClass;
use crate::domain::observation::{OperationState, Stage, VmObservation};

use super::{Move, Next, disconnected, doing, down, registers_gone, running};

/// After so many refusals in a row, which take a minute and more, the last delta is not asked for again while the VM is down.
const REFUSALS: i64 = 20;

impl Move<'_> {
    pub(super) fn cutting_over(
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
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } | Stage::Unreadable { .. } => {
                return Next::Wait(registers_gone());
            }
            Stage::Settled { .. }
            | Stage::SourceFenced { .. }
            | Stage::SourceStopped { .. }
            | Stage::TargetWhole { .. } => {}
        }
        let failure = self.status.failure.as_ref();
        let unresponsive = failure.is_some_and(|it| it.class == ErrorClass::Unresponsive.as_str());
        if let Some(failure) = failure.filter(|_| unresponsive || self.one_stop_is_used_up(vm)) {
            let why = failure.message.clone();
            return self.turn_back(why, FailoverOutcome::Failed);
        }
        // While a site is away nothing can be turned back either, and the line may come back any moment.
        let both_answer =
            matches!(&self.world.vault, Fact::Known(view) if disconnected(view).is_none());
        // The VM is down: what nobody but a person can mend is mended while it runs at its source.
        let hopeless = self.status.failure.as_ref().filter(|failure| {
            let is = |classes: &[ErrorClass]| {
                classes.iter().any(|class| failure.class == class.as_str())
            };
            // What is refused again and again is not mended by waiting either.
            is(&[ErrorClass::Invalid, ErrorClass::Capacity])
                || (failure.count >= REFUSALS && is(&[ErrorClass::Conflict, ErrorClass::Denied]))
                || (failure.count >= REFUSALS && both_answer && is(&[ErrorClass::Transient]))
        });
        if let Some(failure) = hopeless
            && can.cancel_after_stop
            && matches!(stage, Stage::SourceStopped { .. })
        {
            let why = format!("the last delta cannot be sent: {}", failure.message);
            return self.turn_back(why, FailoverOutcome::Failed);
        }
        // S4: a target that was made anew holds nothing that could be started, and takes no delta; its source still does.
        let lost = matches!(vm.marks[self.to()], Fact::Absent);
        if lost
            && can.cancel_after_stop
            && matches!(
                stage,
                Stage::SourceFenced { .. } | Stage::SourceStopped { .. }
            )
        {
            let why = format!("the replica in {} is gone", self.to());
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
            // Nothing of the stop has arrived or can arrive any more, and time may have passed: the gates are asked again.
            Stage::Settled { .. } if self.may_wait_again() => {
                Next::Enter(FailoverPhase::AwaitingCutover)
            }
            // It would be moved as one that is meant to be off; an order that may still be on its way is refused for the same reason.
            Stage::Settled { .. } if vm.down_because.is_some() => Next::Wait(down(vm, from)),
            Stage::Settled { .. } if can.separate_stop => Next::Submit(Action::StopSource { from }),
            Stage::SourceFenced { .. } => {
                if let Some(running) = running(vm, from) {
                    self.progress.clone_from(&running.progress);
                    return Next::Wait(Wait::operation(doing(running.kind)));
                }
                if can.separate_stop {
                    Next::Submit(Action::StopSource { from })
                } else {
                    Next::Submit(Action::CompleteFailover { from, data_sync })
                }
            }
            Stage::SourceStopped { .. } if can.separate_stop => {
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
            Stage::TargetWhole { .. } if can.separate_stop => {
                self.saw_stopped();
                if self.phase() == FailoverPhase::Synchronizing {
                    return Next::Enter(FailoverPhase::CuttingOver);
                }
                Next::Submit(Action::StartTarget { to: self.to() })
            }
            _ => Next::Submit(Action::CompleteFailover { from, data_sync }),
        }
    }

    /// S20: one operation that stops the VM and moves it has failed. The VM may be down by it, and a person may have started it again since; it was
    /// given up for one stop, not for one after the other.
    fn one_stop_is_used_up(&self, vm: &VmObservation) -> bool {
        vm.operations.iter().any(|operation| {
            let failed = match &operation.state {
                // Another operation was first: this one did nothing.
                OperationState::Failed { class, .. } => *class != ErrorClass::Conflict,
                _ => false,
            };
            failed
                && operation.kind == ActionKind::CompleteFailover
                && operation.mark == self.taken()
        })
    }

    /// Whether the move stands before its stop as if it had not been asked for.
    fn may_wait_again(&self) -> bool {
        let on_its_way = self
            .status
            .pending_action
            .as_ref()
            .is_some_and(|pending| !pending.refused || pending.unresolved);
        !self.gates_passed && !on_its_way
    }
}
