//! The phases after the target was started: commit, and protection in the other direction.

use crate::api::{Approval, FailoverOutcome, FailoverPhase, RollbackStatus, TaskState, Verdict};
use crate::domain::action::{Action, ActionKind};
use crate::domain::capabilities::DirectionCapabilities;
use crate::domain::conditions::Reason;
use crate::domain::decide::wait::Wait;
use crate::domain::decide::{tasks, to_i64};
use crate::domain::fact::Fact;
use crate::domain::observation::{ProtectionState, Stage, VmObservation};
use crate::domain::world::VaultView;

use super::{Move, Next, broke_off, busy, doing, registers_gone, running};

impl Move<'_> {
    pub(super) fn awaiting_commit(
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
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } | Stage::Unreadable { .. } => {
                return Next::Wait(registers_gone());
            }
        };
        // A silent hypervisor may yet turn out not to have started it.
        let known = vm.power[self.to()].known().is_some();
        if (as_left && known) || self.has_started() {
            self.saw_started(vm);
        }
        // Told before a person can answer: what cannot be done is refused at admission.
        self.status.rollback = (!can.rollback).then_some(RollbackStatus::Unavailable);
        let from = self.from();
        let back = self.fo.spec.commit == Some(Verdict::Rollback);
        let asks_for_source = self.world.intent.placement == from;
        // S6: a placement that may be older than the move says nothing of what the guest has written since.
        let flipped = asks_for_source && !self.world.intent.deleting && !self.fo.taken_up;
        // S5: until the commit is asked for, what was accepted and cannot be committed can still be taken back.
        let approved = self.fo.spec.commit == Some(Verdict::Approved);
        let given_up = approved && !as_left && self.fo.deleting;
        if back || given_up || (flipped && !(approved && as_left)) {
            let why = if back {
                "spec.commit: Rollback was answered".to_owned()
            } else if given_up {
                "this Failover was deleted while the guest was down at the target".to_owned()
            } else {
                format!("the placement was changed back to {from}")
            };
            if can.rollback {
                return self.turn_back(why, FailoverOutcome::RolledBack);
            }
            // S20: what the driver cannot do is not imitated.
            if !approved {
                return Next::Wait(Wait::person(format!(
                    "spec.commit: Approved on this Failover: {why}, but this driver cannot take an uncommitted move back; once committed, the VM is brought back by a new Failover"
                )));
            }
        }
        if !as_left
            && !self.has_started()
            && let Some(next) = self.start_again(vm, can.rollback)
        {
            return next;
        }
        if !as_left {
            return Next::Wait(self.down_before_commit(can));
        }
        if self.world.intent.suspend && !self.world.intent.deleting {
            return Next::Wait(Wait::suspended("the move goes on to commit"));
        }
        let late_cancel = self.fo.spec.cancel == Some(true) || self.fo.deleting;
        let asks = self.world.intent.commit == Approval::Manual
            || late_cancel
            || (self.fo.taken_up && asks_for_source)
            || self.status.turned_back_because.is_some();
        if asks && self.fo.spec.commit.is_none() {
            let why = if self.world.intent.deleting {
                "the ProtectedVirtualMachine is being deleted, which waits for this".to_owned()
            } else if self.fo.deleting {
                "this Failover is being deleted, which did not end the move before the VM was started at the target"
                    .to_owned()
            } else if late_cancel {
                "spec.cancel did not end the move before the VM was started at the target"
                    .to_owned()
            } else if let Some(why) = &self.status.turned_back_because {
                why.clone()
            } else if self.fo.taken_up && asks_for_source {
                let back = if can.rollback {
                    "going back drops what the guest has written since"
                } else {
                    "once it is committed, a Failover of its own brings the VM back"
                };
                format!(
                    "this move was under way before this Failover was made for it, and the placement, which may be older, asks for the site that it left; {back}"
                )
            } else {
                "spec.commit.approval of the VM is Manual".to_owned()
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
        if let Some(wait) = self.holding_off() {
            return Next::Wait(wait);
        }
        Next::Enter(FailoverPhase::Committing)
    }

    /// The guest went down before anything was accepted, and only one that runs is committed (S5).
    fn down_before_commit(&self, can: &DirectionCapabilities) -> Wait {
        let to = self.to();
        let or = match (can.rollback, self.fo.spec.commit) {
            (false, _) => String::new(),
            (true, Some(_)) => {
                ", or delete this Failover, which takes the move back although spec.commit: Approved was answered".to_owned()
            }
            (true, None) => ", or answer spec.commit: Rollback".to_owned(),
        };
        Wait::mend(format!(
            "the guest to run in {to}, where it went down: start it there (`homeward vm start`) so that it can be committed{or}"
        ))
        .because(Reason::GuestNotRunning)
    }

    /// The right has moved, and the guest was not brought up with it: a start that broke off is given again, however long it takes. A guest that
    /// came up and went down later is its user's affair.
    fn start_again(&self, vm: &VmObservation, can_roll_back: bool) -> Option<Next> {
        let to = self.to();
        if let Some(operation) = running(vm, to) {
            return Some(Next::Wait(Wait::operation(doing(operation.kind))));
        }
        broke_off(vm, to, ActionKind::StartTarget)?;
        Some(match self.holding_off() {
            Some(wait) if can_roll_back => Next::Wait(Wait {
                text: format!(
                    "{}; to go back instead, answer spec.commit: Rollback on this Failover",
                    wait.text
                ),
                ..wait
            }),
            Some(wait) => Next::Wait(wait),
            None => Next::Submit(Action::StartTarget { to }),
        })
    }

    pub(super) fn committing(&mut self, vm: &VmObservation, stage: &Stage) -> Next {
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
                // A failback is finalized by the host too. One that may be on its way is seen to its end.
                match self.silent_home(vm).or_else(|| busy(vm)) {
                    Some(wait) if !asked => Next::Wait(wait),
                    _ => Next::Submit(Action::Commit { at: self.to() }),
                }
            }
            Stage::Committed { .. } => Next::Submit(Action::RetireSource { at: self.from() }),
            Stage::Settled { site } if *site == self.to() => {
                self.status.uncommitted = None;
                Next::Enter(FailoverPhase::AwaitingReverseReplication)
            }
            // S5: the target was barred before it recorded a commit, by a late order of a Failover that is gone: none of what is here now
            // was accepted.
            _ if vm.newest_mark().is_some_and(|newest| newest > self.taken()) => {
                Next::Enter(FailoverPhase::AwaitingCommit)
            }
            // S7: where it stood before is an old look.
            _ => Next::Wait(Wait::outside(
                "a newer look: what was seen is older than the commit that was asked for",
            )),
        }
    }

    pub(super) fn awaiting_reverse_replication(
        &mut self,
        view: &VaultView<'_>,
        vm: &VmObservation,
        can: &DirectionCapabilities,
    ) -> Next {
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
        // Somebody else has asked the service for it: there is nothing left to approve.
        let stands = !view.capabilities.registers
            && vm.protection.known().is_some_and(|protection| {
                protection.from == self.to() && protection.failover.as_deref() == Some(self.fo.uid)
            });
        if stands {
            return Next::Enter(FailoverPhase::ReverseReplicating);
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("reverse replication begins"));
        }
        if self.world.intent.reverse_replication == Approval::Manual
            && self.fo.spec.reverse_replicate.is_none()
        {
            let back = if self.world.intent.placement == self.from() {
                ", nor brought back to the placement that is asked for now"
            } else {
                ""
            };
            return Next::Wait(Wait::person(format!(
                "spec.reverseReplicate: Approved on this Failover (spec.reverseReplication of the VM is Manual); the VM is not protected until then{back}"
            )));
        }
        Next::Enter(FailoverPhase::ReverseReplicating)
    }

    pub(super) fn reverse_replicating(&mut self, vm: &VmObservation) -> Next {
        if self.world.intent.deleting {
            return Next::Finish(FailoverOutcome::Succeeded);
        }
        let from = self.to();
        let protection = match &vm.protection {
            Fact::Known(protection) => protection,
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Absent => {
                return match self.silent_home(vm).or_else(|| busy(vm)) {
                    Some(wait) => Next::Wait(wait),
                    None => Next::Submit(Action::ReverseReplicate { from }),
                };
            }
        };
        let mine = protection.from == from && protection.failover.as_deref() == Some(self.fo.uid);
        // S4: a former source that was made anew is enrolled again by the same order.
        let stale = vm.protection_stale.is_some();
        if !mine || stale || matches!(protection.state, ProtectionState::Paused) {
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
        let then = if self.world.intent.placement == self.from() {
            "; the VM is brought back by a move of its own after that"
        } else {
            ""
        };
        Next::Wait(match &protection.state {
            ProtectionState::Failing(why) => Wait::outside(format!(
                "reverse replication to {} to get through; it goes on trying: {why}{then}",
                self.from()
            )),
            _ => Wait::operation(format!("{} to receive what changed{then}", self.from())),
        })
    }
}
