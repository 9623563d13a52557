//! One operator process: a pass looks, decides, writes down, acts; it can be cut short between any two of these.

use homeward::domain::{
    Decision, Effect, Fact, VaultObservation, VaultView, World, decide, record_refusal,
};
use homeward::driver::simulated::Simulation;
use jiff::Timestamp;

use super::store::{Pvm, Store};
use super::view::{self, VM};

/// How one pass is disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// The resources are those of the look before.
    pub stale_resources: bool,
    /// The vault is seen as in the look before, unless this process has asked for something since (S7).
    pub stale_vault: bool,
    /// The process dies after so many of its steps.
    pub dies_after: Option<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Operator {
    resources: Option<Store>,
    vault: Option<(Timestamp, VaultObservation)>,
    last_submit: Option<Timestamp>,
}

/// What a pass did.
#[derive(Debug)]
pub struct Passed {
    pub decision: Decision,
    /// It went through to its end.
    #[allow(dead_code)]
    pub whole: bool,
}

impl Operator {
    /// The process is replaced by a new one, which knows nothing.
    pub fn die(&mut self) {
        *self = Self::default();
    }

    pub fn pass(
        &mut self,
        store: &mut Store,
        simulation: &mut Simulation,
        disturbance: Disturbance,
    ) -> Option<Passed> {
        let now = simulation.now();
        let fresh = store.clone();
        let view = match self.resources.replace(fresh.clone()) {
            Some(before) if disturbance.stale_resources => before,
            _ => fresh,
        };
        let seen = simulation.observe();
        let vault = match self.vault.replace((now, seen.clone())) {
            Some((then, before))
                if disturbance.stale_vault && self.last_submit.is_none_or(|last| last < then) =>
            {
                before
            }
            _ => seen,
        };
        let pvm = view.pvm.clone()?;
        let decision = look_and_decide(&view, &pvm, &vault, simulation, store);
        let mut steps_left = disturbance.dies_after;
        let whole = self
            .act(store, simulation, &view, &pvm, &decision, &mut steps_left)
            .is_some();
        if !whole && disturbance.dies_after.is_some() {
            self.die();
        }
        Some(Passed { decision, whole })
    }

    fn act(
        &mut self,
        store: &mut Store,
        simulation: &mut Simulation,
        view: &Store,
        pvm: &Pvm,
        decision: &Decision,
        steps_left: &mut Option<u8>,
    ) -> Option<()> {
        let now = simulation.now();
        let mut current = view.current().cloned();
        if let (Some(failover), Some(status)) = (&mut current, &decision.failover) {
            if *status != failover.status {
                live(steps_left)?;
                failover.version = store.write_failover(failover, status.clone()).ok()?;
                failover.status = status.clone();
            }
        }
        let mut status = decision.status.clone();
        match &decision.effect {
            None => {}
            Some(Effect::Submit(submission)) => {
                if current.is_none() {
                    live(steps_left)?;
                    return self
                        .act_outside(store, simulation, pvm, status, submission, steps_left);
                }
                live(steps_left)?;
                let answer = simulation.submit(VM, submission);
                self.last_submit = Some(simulation.now());
                if let (Err(error), Some(failover)) = (answer, current) {
                    live(steps_left)?;
                    let after = record_refusal(
                        &failover.status,
                        error.class,
                        &error.message,
                        error.ambiguous,
                        now,
                    );
                    store.write_failover(&failover, after).ok()?;
                }
            }
            Some(effect) => {
                live(steps_left)?;
                view::bring_about(store, pvm, &mut status, effect);
            }
        }
        live(steps_left)?;
        store.write_pvm(pvm, status).ok()
    }
}

impl Operator {
    fn act_outside(
        &mut self,
        store: &mut Store,
        simulation: &mut Simulation,
        pvm: &Pvm,
        status: homeward::api::ProtectedVirtualMachineStatus,
        submission: &homeward::domain::Submission,
        steps_left: &mut Option<u8>,
    ) -> Option<()> {
        store.write_pvm(pvm, status).ok()?;
        live(steps_left)?;
        let _told_by_the_next_look = simulation.submit(VM, submission);
        self.last_submit = Some(simulation.now());
        Some(())
    }
}

/// Dies when its steps are used up.
fn live(steps_left: &mut Option<u8>) -> Option<()> {
    match steps_left {
        None => Some(()),
        Some(0) => None,
        Some(left) => {
            *left -= 1;
            Some(())
        }
    }
}

fn look_and_decide(
    seen: &Store,
    pvm: &Pvm,
    vault: &VaultObservation,
    simulation: &Simulation,
    store: &Store,
) -> Decision {
    let vm = vault.vm(VM);
    let own = view::claim(pvm);
    let holder = vm.known().and_then(|vm| vm.claimed_by_other(&own));
    decide(&World {
        intent: &view::intent(pvm),
        generation: Some(1),
        status: &pvm.status,
        failover: view::current(pvm, seen.current()),
        history: &view::history(seen, pvm),
        vault: Fact::Known(VaultView {
            renamed: None,
            sites: &vault.sites,
            capabilities: simulation.capabilities(),
            vm,
        }),
        earlier_owner: None,
        claim_holder_gone: holder.is_some_and(|holder| view::is_gone(holder, store)),
        claim: own,
        encryption_key_problem: None,
        now: simulation.now(),
    })
}
