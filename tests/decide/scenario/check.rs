//! What must hold after every step, and where everything must come to in the end.

use super::*;

impl World {
    /// What must hold after every step.
    pub(super) fn check(&mut self) -> Checked {
        if let Some(violation) = self.simulation.violations().first() {
            return Err(format!("invariant {violation}"));
        }
        let running = Site::BOTH
            .into_iter()
            .filter(|site| self.simulation.guest(VM, *site).running)
            .count();
        if running > 1 {
            return Err("invariant 1: the VM runs at both sites".into());
        }
        let effects = self.simulation.effects()[self.checked..].to_vec();
        for (at, effect) in effects.iter().enumerate() {
            match &effect.what {
                Happening::Admitted {
                    mark,
                    kind,
                    failover,
                } => {
                    let moves = matches!(
                        kind,
                        ActionKind::StopSource
                            | ActionKind::StartTarget
                            | ActionKind::CompleteFailover
                            | ActionKind::Commit
                            | ActionKind::RetireSource
                    );
                    if moves
                        && failover
                            .as_ref()
                            .is_some_and(|uid| self.ended.contains(uid))
                    {
                        return Err(format!(
                            "invariant 5: {kind} of a Failover that has ended took effect"
                        ));
                    }
                    if !self.taken.insert((effect.site, mark.epoch, mark.step)) {
                        return Err(format!(
                            "invariant 5: {mark} took effect twice in {}",
                            effect.site
                        ));
                    }
                }
                Happening::Retired => {
                    let before = &self.simulation.effects()[..self.checked + at];
                    let newest = before.iter().rev().find(|earlier| {
                        matches!(earlier.what, Happening::Committed | Happening::Retired)
                    });
                    let committed = self.kind == Kind::Service
                        || newest.is_some_and(|earlier| {
                            earlier.what == Happening::Committed
                                && earlier.site == effect.site.other()
                        });
                    if !committed {
                        return Err("invariant 3: the source is given up before the commit".into());
                    }
                }
                _ => {}
            }
        }
        self.checked = self.simulation.effects().len();
        Ok(())
    }

    /// Whatever a Failover says at its end must be so.
    pub(super) fn check_ending(&mut self, _before: Option<FailoverPhase>) -> Checked {
        let Some(vm) = self.look() else { return Ok(()) };
        let Some(failover) = self.store.current() else {
            return Ok(());
        };
        let (uid, from, to) = (failover.uid.clone(), failover.spec.from, failover.spec.to);
        let Some(outcome) = failover
            .status
            .outcome
            .filter(|_| failover.status.phase.is_some_and(FailoverPhase::is_final))
        else {
            return Ok(());
        };
        let known = vm.stage.known().is_some();
        if known && !self.ended.insert(uid.clone()) {
            return Ok(());
        }
        let Some(stage) = vm.stage.known() else {
            return Ok(());
        };
        let settled_in = match stage {
            Stage::Settled { site } => Some(*site),
            _ => None,
        };
        let deleting = self.store.pvm.as_ref().is_some_and(|pvm| pvm.deleting);
        if outcome == FailoverOutcome::Succeeded {
            if settled_in != Some(to) {
                return Err(format!("Succeeded towards {to}, but {stage:?}"));
            }
            let protects = self.simulation.capabilities().towards[to]
                .protects_after_commit
                .is_ok();
            let protected = vm.protection.known().is_some_and(|protection| {
                protection.from == to
                    && protection
                        .last_whole
                        .as_ref()
                        .is_some_and(|whole| whole.failover.as_deref() == Some(&uid))
            });
            if protects && !protected && !deleting {
                return Err(format!(
                    "invariant 7: Succeeded without reverse replication: {:?}",
                    vm.protection
                ));
            }
        } else if settled_in.is_none() {
            return Err(format!(
                "invariant 6: ended {outcome:?} from {from} with {stage:?}"
            ));
        }
        Ok(())
    }

    // ---- the end: everything works again -----------------------------------------------------------------------

    /// Faults cease; the VM comes to the place asked for last, a person giving the answers that are waited for.
    pub fn converge(&mut self) -> Checked {
        self.simulation.calm();
        let mut quiet = 0;
        let mut actions = 0;
        let mut answers = 0;
        let mut last_words = String::new();
        for _ in 0..1500 {
            if self.trace {
                println!("== converge");
            }
            let writes = self.store.writes;
            let decision = self.pass(0, Disturbance::default())?;
            let Some(decision) = decision else {
                return self.check_released();
            };
            if let Some(Effect::Submit(_) | Effect::CreateFailover(_)) = decision.effect {
                actions += 1;
            }
            // No spinning: a move takes some ten actions; what faults left behind, a few moves.
            if actions > 150 {
                return Err("invariant 8: it spins".into());
            }
            let idle = decision.effect.is_none() && self.store.writes == writes;
            if !idle {
                quiet = 0;
                self.simulation.advance(BEAT * 2);
                self.check()?;
                continue;
            }
            quiet += 1;
            if quiet < 8 {
                self.simulation.advance(BEAT * 2);
                continue;
            }
            if self.is_placed() {
                if self.simulation.on_their_way() > 0 {
                    self.simulation.advance(SignedDuration::from_secs(61));
                    quiet = 0;
                    continue;
                }
                return self.stays(decision.wake_after);
            }
            last_words = self.words(&decision);
            if quiet == 8 {
                answers += 1;
                if answers > 60 {
                    return Err(format!("invariant 6: asks for ever: {last_words}"));
                }
                self.give_answer(&decision, &last_words);
                quiet = 0;
                if self.simulation_waits(&decision) {
                    self.simulation.advance(SignedDuration::from_secs(61));
                }
            }
        }
        Err(format!(
            "does not converge: {last_words}; {:?}",
            self.look().map(|vm| vm.stage)
        ))
    }

    pub(super) fn simulation_waits(&self, decision: &homeward::domain::Decision) -> bool {
        decision.wake_after.is_some()
    }

    pub(super) fn words(&self, decision: &homeward::domain::Decision) -> String {
        let waiting = decision
            .failover
            .as_ref()
            .and_then(|failover| failover.waiting_for.clone());
        let ready = decision
            .status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|condition| format!("{}: {}", condition.reason, condition.message));
        waiting.or(ready).unwrap_or_default()
    }

    /// S6: what a guest has written since its cutover is not dropped because an old Git asks for the site that it left.
    pub(super) fn check_asked(&self, kind: ActionKind, stage: Option<&Fact<Stage>>) -> Checked {
        let started = matches!(stage, Some(Fact::Known(Stage::TargetStarted { .. })));
        let answered = self
            .store
            .current()
            .is_some_and(|failover| failover.spec.commit.is_some());
        if kind == ActionKind::FenceTarget && started && self.unasked && !answered {
            return Err("S6: rolls back a move that was under way, and nobody asked".into());
        }
        Ok(())
    }

    /// Does what the words ask a person to do.
    pub(super) fn give_answer(&mut self, decision: &homeward::domain::Decision, words: &str) {
        if self.trace {
            println!("== a person reads: {words}");
        }
        let _ = decision;
        if words.contains("spec.suspend ") {
            self.store.change(|spec| spec.suspend = false);
        } else if words.contains("start it there") {
            for site in Site::BOTH {
                self.simulation.switch(VM, site, true);
            }
        } else if words.contains("spec.start: Approved") {
            self.store.answer(Answer::Start);
        } else if words.contains("spec.cutover: Approved") {
            self.store.answer(Answer::Cutover);
        } else if words.contains("cannot take an uncommitted move back") {
            self.store.commit_instead_of_rollback();
        } else if words.contains("spec.commit: Approved") {
            self.store.answer(Answer::Commit);
        } else if words.contains("spec.reverseReplicate: Approved") {
            self.store.answer(Answer::ReverseReplicate);
        }
    }

    pub(super) fn is_placed(&self) -> bool {
        let Some(pvm) = &self.store.pvm else {
            return true;
        };
        let Some(vm) = self.look() else { return false };
        let placed = vm.stage
            == Fact::Known(Stage::Settled {
                site: pvm.spec.placement,
            })
            && pvm.status.active_site == Some(pvm.spec.placement)
            && pvm.status.current_failover.is_none();
        let protected = match pvm.status.phase {
            Some(VirtualMachinePhase::Protected) => {
                vm.protection.known().is_some_and(|protection| {
                    protection.from == pvm.spec.placement
                        && protection.state == ProtectionState::Replicating
                })
            }
            Some(VirtualMachinePhase::Unprotected) => self.simulation.capabilities().towards
                [pvm.spec.placement]
                .protects_after_commit
                .is_err(),
            Some(VirtualMachinePhase::Suspended) => true,
            _ => false,
        };
        // A guest whose start broke off is brought up by its host in a while.
        let up = !Site::BOTH
            .into_iter()
            .any(|site| self.simulation.is_left_down(VM, site));
        placed && protected && up && !pvm.deleting
    }

    /// An idle VM is left alone: no effect, no write. It runs, if it should.
    pub(super) fn stays(&mut self, _wake: Option<SignedDuration>) -> Checked {
        for site in Site::BOTH {
            if self.simulation.is_left_down(VM, site) {
                return Err(format!("invariant 6: the VM is left down in {site}"));
            }
        }
        let writes = self.store.writes;
        let running = Site::BOTH.map(|site| self.simulation.guest(VM, site).running);
        for round in 0..6 {
            self.store.change(|_| ());
            let decision = self.pass(round % 2, Disturbance::default())?;
            if let Some(effect) = decision.and_then(|decision| decision.effect) {
                return Err(format!(
                    "invariant 9: does {effect:?} though all is as declared"
                ));
            }
            self.simulation.advance(SignedDuration::from_secs(20));
        }
        if self.store.writes != writes {
            return Err("invariant 8: an idle VM is written".into());
        }
        if running != Site::BOTH.map(|site| self.simulation.guest(VM, site).running) {
            return Err("invariant 9: an idle VM was touched".into());
        }
        self.check()
    }

    /// The resource is gone: the VM is let go, in one place.
    pub(super) fn check_released(&mut self) -> Checked {
        self.simulation.advance(SignedDuration::from_secs(120));
        self.check()?;
        let Some(vm) = self.look() else {
            return Err("the VM is not known any more".into());
        };
        match vm.stage {
            Fact::Known(Stage::Settled { .. } | Stage::Unclaimed { .. }) => Ok(()),
            Fact::Known(_) if self.orphaned => {
                // S6: whoever makes the resource anew finds the registers, and goes on from them.
                self.orphaned = false;
                self.store.apply(spec(Site::OnPremises));
                self.converge()
            }
            stage => Err(format!("let go of in the middle of a move: {stage:?}")),
        }
    }
}
