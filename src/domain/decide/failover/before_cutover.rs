//! The phases while the VM runs at its source and nothing has been taken from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{Approval, FailoverOutcome, FailoverPhase, Site, TaskState};
use crate::domain::action::{Action, ActionKind};
use crate::domain::capabilities::DirectionCapabilities;
use crate::domain::conditions::Reason;
use crate::domain::data_sync;
use crate::domain::decide::wait::Wait;
use crate::domain::decide::{tasks, told_to_stop};
use crate::domain::fact::Fact;
use crate::domain::observation::{
    OperationState, Protection, ProtectionState, Stage, VmObservation,
};
use crate::domain::world::VaultView;

use super::{Move, Next, doing, down, obstacles, running};

impl Move<'_> {
    pub(super) fn awaiting_start(&mut self) -> Next {
        let midway = self
            .seen()
            .and_then(|vm| vm.stage.known())
            .is_some_and(Stage::is_midway);
        if midway || self.is_followed() {
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
            return self.cancelled_before_it_began(why);
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("the move begins"));
        }
        if let (Some(why), None) = (self.fo.start_held_because, self.fo.spec.start) {
            if let Some(protect) = self.unprotected_meanwhile() {
                return protect;
            }
            let held = format!("spec.start: Approved on this Failover, because {why}");
            let from = self.from();
            let down = self.seen().and_then(|vm| {
                let down = vm.down_because.as_ref();
                let down =
                    down.map(|down| format!("the guest should run in {from} and does not: {down}"));
                down.or_else(|| told_to_stop(self.world, vm))
            });
            // That it is down is not as declared, whatever else is waited for.
            return Next::Wait(match down {
                None => Wait::person(held),
                Some(down) => {
                    Wait::mend(format!("{held}; {down}")).because(Reason::GuestNotRunning)
                }
            });
        }
        self.status.start_time = Some(Time(self.now()));
        Next::Enter(FailoverPhase::Preparing)
    }

    /// The move before may have left replication paused; a person who takes their time must not find the VM without a replica.
    fn unprotected_meanwhile(&self) -> Option<Next> {
        let Fact::Known(view) = &self.world.vault else {
            return None;
        };
        let vm = self.seen()?;
        let from = self.from();
        let protects = view.capabilities.towards[from]
            .protects_after_commit
            .is_ok();
        let rests = matches!(vm.stage, Fact::Known(Stage::Settled { site }) if site == from)
            && vm.is_claimed_by(&self.world.claim)
            && !vm
                .operations
                .iter()
                .any(|operation| operation.state == OperationState::Running);
        let stands = match &vm.protection {
            Fact::Unknown(_) => true,
            Fact::Absent => false,
            Fact::Known(protection) => {
                protection.from == from
                    && vm.protection_stale.is_none()
                    && !matches!(protection.state, ProtectionState::Paused)
            }
        };
        // What did not work is tried again after a while; meanwhile it is said what the person is asked for.
        let can_begin = self.silent(view, vm).is_none()
            && obstacles(vm).is_none()
            && self.holding_off().is_none();
        (protects && rests && !stands && can_begin).then(|| {
            // S1: at rest the registers name no Failover, this one neither: it has not begun.
            if vm.failover().is_some() {
                Next::Ask(Action::Release, None)
            } else {
                Next::Ask(Action::Protect { from }, None)
            }
        })
    }

    /// Why it is not known where the right to run stands, when it is not.
    pub(super) fn why_unseen(&self) -> Option<&str> {
        match &self.world.vault {
            Fact::Known(view) => match &view.vm {
                Fact::Known(vm) => vm.stage.why_unknown(),
                unseen => unseen.why_unknown(),
            },
            unseen => unseen.why_unknown(),
        }
    }

    /// Nothing was asked for in the name of this move. What a Failover before it has asked for may be under way, and leave the VM half way.
    fn cancelled_before_it_began(&mut self, why: String) -> Next {
        let under_way = self
            .seen()
            .and_then(|vm| Site::BOTH.into_iter().find_map(|site| running(vm, site)));
        if let Some(operation) = under_way.filter(|operation| operation.kind != ActionKind::Protect)
        {
            return Next::Wait(Wait::operation(doing(operation.kind)));
        }
        self.status.turned_back_because = Some(why);
        Next::Finish(FailoverOutcome::Cancelled)
    }

    pub(super) fn preparing(
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
                // S6: no answer is inherited from the Failover that began this; before the start, going back is safe where it can be done.
                let why =
                    "it was begun by a Failover that is gone, whose answers are not inherited"
                        .to_owned();
                if can.cancel_after_stop {
                    return self.turn_back(why, FailoverOutcome::Cancelled);
                }
                // S20: the driver leads on what it has begun; a person says what becomes of it before commit.
                self.status.turned_back_because = Some(why);
                return Next::Enter(FailoverPhase::CuttingOver);
            }
            Stage::Unclaimed { .. } | Stage::Contradiction { .. } | Stage::Unreadable { .. } => {
                return Next::Wait(Wait::outside("the VM to be taken on"));
            }
        }
        if let Some(why) = self.going_back() {
            return self.cancelled_before_it_began(why);
        }
        if let Some(wait) = self.silent(view, vm) {
            return Next::Wait(wait);
        }
        if let Some(wait) = obstacles(vm) {
            return Next::Wait(wait);
        }
        if let Some(wait) = self.encryption_key(vm) {
            return Next::Wait(wait);
        }
        if self.fo.alternate().is_asked()
            && let Err(why) = &can.alternate_location
        {
            return Next::Wait(Wait::mend(format!(
                "another place than spec.failback asks for: {why}; take spec.failback.host and createIfMissing out of the ProtectedVirtualMachine, cancel this Failover, and start the next one"
            )));
        }
        let protection = match &vm.protection {
            Fact::Unknown(why) => return Next::Wait(Wait::outside(why.clone())),
            Fact::Known(protection) if protection.from == self.from() => Some(protection),
            Fact::Known(_) | Fact::Absent => None,
        };
        let replicated_at = protection
            .and_then(|protection| protection.last_whole.as_ref())
            .map(|whole| whole.point);
        if self.status.data_sync.is_none() {
            let basis = data_sync::Basis {
                asked: self.fo.spec.data_sync,
                to: self.to(),
                to_another_host: self.fo.spec.host.is_some(),
                active_since: vm.active_since,
                full_download_after: self.world.intent.full_download_after,
                replica_present: &vm.replica_present,
                replicated_at,
                full_download_obstacles: &vm.full_download_obstacles,
                now: self.now(),
            };
            match data_sync::choose(&basis) {
                Ok(choice) => self.status.data_sync = Some(choice),
                Err(unknown) => return Next::Wait(Wait::outside(unknown)),
            }
        }
        if let Some(wait) = self.full_download_obstacles(vm) {
            return Next::Wait(wait);
        }
        // The data needs a place to go to, and that there is room for it must be known before the VM is stopped.
        // Where the driver protects nothing that runs at the source, the move itself makes that place.
        let protects = view.capabilities.towards[self.from()]
            .protects_after_commit
            .is_ok();
        // A service moves nothing that it does not protect, whatever is left of the VM at the other side.
        let of_service = !view.capabilities.registers;
        let missing = protects
            && protection.is_none()
            && (of_service || vm.replica_present != Fact::Known(true));
        if missing || self.replica_is_stale(view, vm) {
            return Next::Submit(Action::Protect { from: self.from() });
        }
        let seeding = |it: &&Protection| it.state == ProtectionState::Seeding;
        if let Some(seeding) = protection.filter(seeding)
            && of_service
            && protects
        {
            self.progress.clone_from(&seeding.progress);
            return Next::Wait(Wait::operation(format!(
                "the replica in {} to be whole, before which the service moves nothing",
                self.to()
            )));
        }
        // What nobody here can see is said before it is found out in the middle of the move.
        let needs = self.fo.alternate().is_asked().then(|| {
            format!(
                "the host on-premises needs virtual switches of the same names: {}",
                if vm.networks.is_empty() {
                    "the service tells of none".to_owned()
                } else {
                    vm.networks.join(", ")
                }
            )
        });
        tasks::set(
            &mut self.status,
            "Prepare",
            TaskState::Succeeded,
            needs,
            self.world.now,
        );
        Next::Enter(if can.pause_before_cutover && !self.full() {
            FailoverPhase::Synchronizing
        } else {
            FailoverPhase::AwaitingCutover
        })
    }

    /// What a move to Azure of encrypted data needs is looked at before anything is touched.
    fn encryption_key(&self, vm: &VmObservation) -> Option<Wait> {
        if self.to() != Site::Azure {
            return None;
        }
        if let Some(problem) = self.world.encryption_key_problem {
            return Some(Wait::mend(problem.to_owned()));
        }
        (vm.encrypted && self.world.intent.encryption_key.is_none()).then(|| {
            Wait::mend(
                "spec.encryptionKeySecretRef of the ProtectedVirtualMachine: the data in the vault is encrypted, and the service starts the VM in Azure only with its key certificate",
            )
        })
    }

    /// The source was fenced while this move had not asked for it yet.
    fn fenced_meanwhile(&mut self, vm: &VmObservation, can: &DirectionCapabilities) -> Next {
        let other = vm.failover().is_some_and(|uid| uid != self.fo.uid);
        if other && can.cancel_after_stop {
            // S6: a late order of a Failover that is gone; its answers count for nothing, and the gates of this one hold.
            let why = "a late order of a Failover that is gone stopped the VM, and its answers are not inherited";
            return self.turn_back(why.into(), FailoverOutcome::Cancelled);
        }
        Next::Enter(FailoverPhase::CuttingOver)
    }

    pub(super) fn synchronizing(
        &mut self,
        view: &VaultView<'_>,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        if !self.still_at_source(stage) {
            return self.fenced_meanwhile(vm, can);
        }
        if let Some(why) = self.going_back() {
            return self.turn_back(why, FailoverOutcome::Cancelled);
        }
        if let Some(why) = &vm.sync_ended {
            return self.turn_back(why.clone(), FailoverOutcome::Failed);
        }
        if self.replica_is_stale(view, vm) {
            return Next::Enter(FailoverPhase::Preparing);
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

    pub(super) fn awaiting_cutover(
        &mut self,
        view: &VaultView<'_>,
        vm: &VmObservation,
        stage: &Stage,
        can: &DirectionCapabilities,
    ) -> Next {
        if !self.still_at_source(stage) {
            return self.fenced_meanwhile(vm, can);
        }
        if let Some(downtime) = &mut self.status.downtime {
            // A stop that was asked for before and did not take place is no downtime.
            downtime.stop_ordered_time = None;
        }
        if let Some(why) = self.going_back() {
            return self.turn_back(why, FailoverOutcome::Cancelled);
        }
        // Who ended it did so on purpose, or something is to be looked at: it is not begun again unasked.
        if let Some(why) = &vm.sync_ended {
            return self.turn_back(why.clone(), FailoverOutcome::Failed);
        }
        if let Some(led) = &vm.led_elsewhere {
            return Next::Wait(self.led_on_elsewhere(vm, led));
        }
        if self.world.intent.suspend {
            return Next::Wait(Wait::suspended("the move goes on to cutover"));
        }
        if self.is_followed()
            && self.world.intent.placement == self.from()
            && self.fo.spec.cutover.is_none()
        {
            return Next::Wait(Wait::person(format!(
                "spec.cutover: Approved or spec.cancel: true on this Failover: somebody began this move at the service, and the placement asks for {}",
                self.from()
            )));
        }
        let silent = self.silent(view, vm);
        if self.world.intent.cutover == Approval::Manual && self.fo.spec.cutover.is_none() {
            // What would hold it then is told of to whoever is about to answer.
            let then = silent.or_else(|| obstacles(vm));
            return Next::Wait(Wait::person(format!(
                "spec.cutover: Approved on this Failover (spec.cutover.approval of the VM is Manual); nothing happens to the VM at its source until then{}",
                then.map_or_else(String::new, |wait| format!(
                    ", nor before it has waited for {}",
                    wait.text
                ))
            )));
        }
        if let Some(wait) = silent {
            return Next::Wait(wait);
        }
        if self.replica_is_stale(view, vm) {
            return Next::Enter(FailoverPhase::Preparing);
        }
        // S14: a disk without a target is seen here, before the source is fenced.
        if let Some(wait) = obstacles(vm).or_else(|| self.full_download_obstacles(vm)) {
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
        if vm.down_because.is_some() {
            // It would be moved as one that is meant to be off, and left off.
            return Next::Wait(down(vm, self.from()));
        }
        self.predict(vm);
        self.gates_passed = true;
        Next::Enter(FailoverPhase::CuttingOver)
    }

    /// S20: a job that moves other VMs too is not told to go on for one of them, whose gates say nothing of the others.
    fn led_on_elsewhere(&self, vm: &VmObservation, led: &str) -> Wait {
        let waits = vm
            .protection
            .known()
            .is_some_and(|it| self.synchronized(it));
        if waits {
            Wait::person(format!(
                "\"Complete failover\", or a cancel, of {led}: it has synchronised, and Homeward does neither for one of its VMs"
            ))
        } else {
            Wait::operation(format!("what is done by {led}"))
        }
    }
}
