//! The steps: what people do, what happens to orders, and the passes of an operator.

use super::*;

impl World {
    pub(super) fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Run {
                operator,
                passes,
                beats,
            } => {
                for _ in 0..*passes {
                    self.pass(*operator, Disturbance::default())?;
                    self.simulation.advance(BEAT * i32::from(*beats));
                }
            }
            Step::Pass {
                operator,
                disturbance,
            } => {
                self.pass(*operator, *disturbance)?;
            }
            Step::Advance { beats } => self.simulation.advance(BEAT * i32::from(*beats)),
            Step::Place(site) => {
                self.unasked = false;
                self.store.change(|spec| spec.placement = *site);
            }
            Step::Suspend(on) => self.store.change(|spec| spec.suspend = *on),
            Step::Cutover(approval) => self.store.change(|spec| spec.cutover = *approval),
            Step::Commit(approval) => self.store.change(|spec| spec.commit = *approval),
            Step::Reverse(approval) => {
                self.store
                    .change(|spec| spec.reverse_replication = *approval);
            }
            Step::DataSync(asked) => self.store.change(|spec| spec.data_sync = *asked),
            Step::Answer(answer) => {
                self.store.answer(*answer);
            }
            Step::DeleteFailover => self.store.delete_current(),
            Step::LoseFailover => self.store.lose_current(),
            Step::DeletePvm => self.store.delete_pvm(),
            Step::Rebuild(placement) => {
                self.orphaned |= self.simulation.on_their_way() > 0;
                self.unasked = true;
                self.store.lose_everything();
                self.store.apply(spec(*placement));
                for operator in &mut self.operators {
                    operator.die();
                }
            }
            Step::Reapply => self.store.change(|_| ()),
            Step::Fate(fate) => self.simulation.schedule([*fate]),
            Step::FailNext(site, class) => {
                self.simulation.fail_next(*site, *class, "made to fail");
            }
            Step::FailPasses(site, on) => {
                self.simulation
                    .fail_passes(VM, *site, on.then_some("made to fail"));
            }
            Step::Connect(site, on) => self.simulation.connect(*site, *on),
            Step::RestartAgent(site) => self.simulation.restart_agent(*site),
            Step::Reboot(site) => self.simulation.reboot_host(*site),
            Step::Switch(site, on) => {
                self.simulation.switch(VM, *site, *on);
            }
            Step::LoseReplica(site) | Step::LoseReplicaUnderway(site) => {
                if self.simulation.lose_replica(VM, *site) {
                    // Another host in its place: it has taken nothing.
                    self.taken.retain(|(at, _, _)| at != site);
                    if matches!(step, Step::LoseReplica(_)) {
                        self.simulation.lose_what_is_on_its_way(VM, *site);
                    }
                }
            }
            Step::Obstruct(on) => {
                let obstacles = if *on {
                    vec!["a disk without a target".into()]
                } else {
                    vec![]
                };
                self.simulation.obstruct(VM, obstacles);
            }
        }
        self.check()
    }

    /// One pass; returns what it decided, if there was anything to decide on.
    pub(super) fn pass(
        &mut self,
        operator: usize,
        disturbance: Disturbance,
    ) -> Result<Option<homeward::domain::Decision>, String> {
        let stage_before = self.look().map(|vm| vm.stage);
        let phase_before = self
            .store
            .current()
            .and_then(|failover| failover.status.phase);
        let passed =
            self.operators[operator].pass(&mut self.store, &mut self.simulation, disturbance);
        let decision = passed.map(|passed| passed.decision);
        if self.trace {
            if let Some(decision) = &decision {
                let stage = self.look().map(|vm| format!("{:?}", vm.stage));
                println!(
                    "   {} {stage:?} -> {:?} {:?} {:?} | {:?} | pending {:?} failure {:?}",
                    self.simulation.now(),
                    decision
                        .failover
                        .as_ref()
                        .and_then(|failover| failover.phase),
                    decision.effect,
                    decision
                        .failover
                        .as_ref()
                        .and_then(|failover| failover.waiting_for.clone()),
                    decision.status.phase,
                    decision
                        .failover
                        .as_ref()
                        .and_then(|failover| failover.pending_action.clone()),
                    decision
                        .failover
                        .as_ref()
                        .and_then(|failover| failover.failure.clone()),
                );
            }
        }
        if let Some(Effect::Submit(submission)) = decision.as_ref().and_then(|d| d.effect.as_ref())
        {
            self.check_asked(submission.action.kind(), stage_before.as_ref())?;
            // S20: what the driver cannot do is never asked of it.
            self.simulation
                .check_capable(&submission.action)
                .map_err(|error| format!("asks for {:?}: {error}", submission.action))?;
        }
        self.check()?;
        self.check_ending(phase_before)?;
        Ok(decision)
    }
}
