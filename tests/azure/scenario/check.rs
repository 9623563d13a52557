//! What must hold after every step, and where everything must come to in the end.

use super::act::at;
use super::*;

impl World {
    /// What must hold after every step.
    pub(super) fn check(&mut self) -> Checked {
        if let Some(wrong) = self.wire.wrong() {
            return Err(wrong);
        }
        let service = self.wire.service();
        if let Some(violation) = service.violations().first() {
            return Err(format!("{violation:?}"));
        }
        let jobs = service.jobs();
        let orphaned = (self.wire.orphaned).load(std::sync::atomic::Ordering::Relaxed);
        drop(service);
        for sent in self.wire.sent() {
            let Some(name) = &sent.job else { continue };
            let Some(job) = jobs.iter().find(|job| job.name == *name) else {
                continue;
            };
            let wrong = job.error.as_deref().is_some_and(|code| {
                ["506", "532", "25014", "25017", "25037", "25038"].contains(&code)
            });
            if wrong && sent.alone && !orphaned {
                return Err(format!(
                    "S19: {} was asked for though it could not be done: {job:?}",
                    sent.path
                ));
            }
        }
        Ok(())
    }

    /// Invariant 4: who looks at a VM that rests in Azure is told when its copy on the premises must not be started.
    pub(super) fn check_consistency(&self, shown: &VmObservation, decision: &Decision) -> Checked {
        let rests = shown.stage == Fact::Known(Stage::Settled { site: Site::Azure });
        let service = self.wire.service();
        let moving = service
            .jobs()
            .iter()
            .any(|job| !job.state.over() && job.scenario != Scenario::DisableDr);
        let half_written = service
            .machine(VM)
            .and_then(|machine| machine.copy(emulator::Site::OnPremises))
            .is_some_and(|copy| !copy.consistent);
        let told = (decision.status.conditions.iter())
            .find(|condition| condition.type_ == "TargetConsistent")
            .map(|condition| condition.status.clone());
        // Neither the service nor a register is left that could tell.
        let forgotten =
            self.purged && (self.wire.orphaned).load(std::sync::atomic::Ordering::Relaxed);
        if rests && half_written && !moving && !forgotten && told.as_deref() != Some("False") {
            return Err(format!(
                "invariant 4: the copy on the premises is half written, and TargetConsistent is {told:?}"
            ));
        }
        Ok(())
    }

    pub(super) fn runs(&self, site: Site) -> bool {
        let service = self.wire.service();
        service
            .machine(VM)
            .is_some_and(|machine| machine.runs(at(site)))
    }

    // ---- the end: everything works again -----------------------------------------------------------------------

    /// Faults cease; the VM comes to the place asked for last, or says what it waits for from a person, who gives it where that can be done.
    pub async fn converge(&mut self) -> Checked {
        self.wire.calm();
        self.silent(false);
        let mut quiet = 0_u32;
        let mut answers = 0;
        let mut last = String::new();
        let sent_before = self.wire.sent().len();
        for _ in 0..400 {
            if self.trace {
                println!("== converge");
            }
            let writes = self.store().writes;
            let Some(decision) = self.pass(0, Disturbance::default()).await? else {
                if self.store().pvm.is_none() {
                    self.store().apply(spec(Site::OnPremises));
                }
                self.wait(20).await;
                continue;
            };
            if self.wire.sent().len() - sent_before > 60 {
                return Err("it asks the service again and again".into());
            }
            if decision.effect.is_some() || self.store().writes != writes {
                // What cannot be done is tried again and again meanwhile.
                if said(&decision).contains("cancel this Failover, and start the next one") {
                    self.give(&said(&decision));
                }
                quiet = 0;
                self.wait(4).await;
                self.check()?;
                continue;
            }
            quiet += 1;
            if quiet < 9 {
                self.wait(if quiet < 4 { 4 } else { 61 }).await;
                continue;
            }
            if self.is_placed() {
                return self.stays().await;
            }
            last = said(&decision);
            answers += 1;
            if answers > 60 {
                return Err(format!("asks for ever: {last}"));
            }
            if self.disabled && last.contains("enable its replication in Azure Site Recovery") {
                return Ok(());
            }
            self.give(&last);
            quiet = 0;
            self.wait(61).await;
        }
        let service = self.wire.service();
        Err(format!(
            "does not come to rest: {last}; {:?}, {:?}",
            service.phase(VM),
            service.jobs().last()
        ))
    }

    pub(super) fn is_placed(&self) -> bool {
        let store = self.store();
        let Some(pvm) = &store.pvm else { return false };
        let site = pvm.spec.placement;
        let at_rest = matches!(
            pvm.status.phase,
            Some(
                VirtualMachinePhase::Protected
                    | VirtualMachinePhase::Unprotected
                    | VirtualMachinePhase::Suspended
            )
        );
        at_rest
            && !pvm.deleting
            && pvm.status.active_site == Some(site)
            && pvm.status.current_failover.is_none()
    }

    /// An idle VM is left alone: no effect, no write, no request. It runs, if nobody but Homeward has moved it.
    pub(super) async fn stays(&mut self) -> Checked {
        let site = self.store().pvm.as_ref().map(|pvm| pvm.spec.placement);
        let untouched = !self.wire.was_pressed() && !self.jobs_failed;
        if let (Some(site), true) = (site, untouched) {
            if !self.runs(site) {
                return Err(format!("it is said to be in {site} and does not run there"));
            }
        }
        // What a process knew of jobs is from when it last looked: it needs a while to believe that they are gone.
        for round in 0..if self.purged { 12 } else { 0 } {
            self.pass(round % 2, Disturbance::default()).await?;
            self.wait(31).await;
        }
        let before = self.store().clone();
        let writes = before.writes;
        let sent = self.wire.sent().len();
        for round in 0..4 {
            let decision = self.pass(round % 2, Disturbance::default()).await?;
            if let Some(effect) = decision.and_then(|decision| decision.effect) {
                return Err(format!("does {effect:?} though all is as declared"));
            }
            self.wait(20).await;
        }
        if self.store().writes != writes || self.wire.sent().len() != sent {
            let status = |store: &Store| store.pvm.as_ref().map(|pvm| pvm.status.clone());
            return Err(format!(
                "invariant 8: an idle VM is written: {:?}, after {:?}",
                status(&self.store()),
                status(&before)
            ));
        }
        self.check()
    }

    /// What the status of the VM says of this condition.
    pub fn said_of(&self, kind: &str) -> Option<String> {
        let store = self.store();
        let conditions = &store.pvm.as_ref()?.status.conditions;
        let condition = conditions.iter().find(|it| it.type_ == kind)?;
        Some(condition.status.clone())
    }

    /// Why the status of the VM says that this condition is true, and its words.
    pub fn reason_of(&self, kind: &str) -> Option<(String, String)> {
        let store = self.store();
        let conditions = &store.pvm.as_ref()?.status.conditions;
        let found = conditions.iter().find(|it| it.type_ == kind);
        let is = found.filter(|it| it.status == "True")?;
        Some((is.reason.clone(), is.message.clone()))
    }

    /// How far the move under way has come.
    pub fn phase(&self) -> Option<FailoverPhase> {
        self.store().current()?.status.phase
    }
}

pub(super) fn words(decision: &Decision) -> Option<String> {
    decision
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| format!("{}: {}", condition.reason, condition.message))
}

pub(super) fn said(decision: &Decision) -> String {
    decision
        .failover
        .as_ref()
        .and_then(|failover| failover.waiting_for.clone())
        .or_else(|| words(decision))
        .unwrap_or_default()
}
