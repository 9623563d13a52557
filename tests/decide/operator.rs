//! One operator process: a pass looks, decides, writes down, acts; it can be cut short between any two of these.

use homeward::api::FailoverReference;
use homeward::domain::{
    Claim, CurrentFailover, DEFAULT_HISTORY_LIMIT, Decision, Effect, Fact, FailoverView,
    FinishedFailover, Intent, VaultObservation, VaultView, World, decide, record_refusal,
};
use homeward::driver::simulated::Simulation;
use jiff::{SignedDuration, Timestamp};

use super::store::{Failover, Pvm, Store};

pub const VM: &str = "vm";
pub const CLUSTER: &str = "cluster";

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

pub fn intent(pvm: &Pvm) -> Intent {
    Intent {
        name: VM.into(),
        uid: pvm.uid.clone(),
        vm_name: VM.into(),
        vault: "vault".into(),
        placement: pvm.spec.placement,
        data_sync: pvm.spec.data_sync,
        alternate: homeward::domain::Alternate::default(),
        encryption_key: None,
        full_download_after: SignedDuration::from_hours(720),
        cutover: pvm.spec.cutover,
        commit: pvm.spec.commit,
        reverse_replication: pvm.spec.reverse_replication,
        suspend: pvm.spec.suspend,
        history_limit: DEFAULT_HISTORY_LIMIT.min(3),
        deleting: pvm.deleting,
        takeover: None,
    }
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
            Some(Effect::CreateFailover(new)) => {
                live(steps_left)?;
                let (number, name, uid) = store.create_failover(&pvm.uid, new);
                status.failover_counter = Some(number);
                status.next_start_held_because = None;
                status.current_failover = Some(FailoverReference {
                    name,
                    uid,
                    start_held_because: new.start_held_because.clone(),
                    taken_up: new.taken_up,
                });
            }
            Some(Effect::ReleaseFailover { name }) => {
                live(steps_left)?;
                store.release_failover(name);
            }
            Some(Effect::DeleteFailover { name }) => {
                live(steps_left)?;
                let number = store
                    .failovers
                    .values()
                    .find(|failover| failover.name == *name)
                    .map(|failover| failover.number);
                if let Some(number) = number {
                    store.delete_failover(number);
                    store.writes += 1;
                }
            }
            Some(Effect::ReleaseVm) => {
                live(steps_left)?;
                store.release_pvm();
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
    view: &Store,
    pvm: &Pvm,
    vault: &VaultObservation,
    simulation: &Simulation,
    store: &Store,
) -> Decision {
    let intent = intent(pvm);
    let current = view.current();
    let history = history(view, pvm, current);
    let vm = vault.vm(VM);
    let own = Claim {
        cluster: CLUSTER.into(),
        vm_uid: pvm.uid.clone(),
    };
    // Asked of the API server itself, not of a cache.
    let holder_gone = vm
        .known()
        .and_then(|vm| vm.claimed_by_other(&own))
        .is_some_and(|claim| {
            claim.cluster == CLUSTER && store.pvm.as_ref().is_none_or(|pvm| pvm.uid != claim.vm_uid)
        });
    let reference = pvm.status.current_failover.as_ref();
    let world = World {
        intent: &intent,
        generation: Some(1),
        status: &pvm.status,
        failover: match (reference, current) {
            (None, _) => CurrentFailover::None,
            (Some(_), None) => CurrentFailover::Missing,
            (Some(reference), Some(failover)) => CurrentFailover::Known(FailoverView {
                name: &failover.name,
                uid: &failover.uid,
                generation: Some(1),
                spec: &failover.spec,
                status: &failover.status,
                start_held_because: reference.start_held_because.as_deref(),
                taken_up: reference.taken_up,
                deleting: failover.deleting,
            }),
        },
        history: &history,
        vault: Fact::Known(VaultView {
            renamed: None,
            sites: &vault.sites,
            capabilities: simulation.capabilities(),
            vm,
        }),
        earlier_owner: None,
        claim: own,
        encryption_key_problem: None,
        claim_holder_gone: holder_gone,
        now: simulation.now(),
    };
    decide(&world)
}

fn history(view: &Store, pvm: &Pvm, current: Option<&Failover>) -> Vec<FinishedFailover> {
    view.failovers
        .values()
        .filter(|failover| {
            failover.spec.virtual_machine.uid == pvm.uid
                && failover
                    .status
                    .phase
                    .is_some_and(homeward::api::FailoverPhase::is_final)
                && current.is_none_or(|current| current.uid != failover.uid)
        })
        .map(|failover| FinishedFailover {
            name: failover.name.clone(),
            finalizer: failover.finalizer,
        })
        .collect()
}
