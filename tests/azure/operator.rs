//! One operator process, step for step as the controllers do it: fetch, observe, decide, act, publish. It can be cut short between any two
//! effects, stand still before it sends, and see what is old.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use homeward::api::{FailoverStatus, ProtectedVirtualMachineStatus, Site};
use homeward::domain::kept::{self, Admitted, Limits};
use homeward::domain::{
    ActionKind, Decision, Effect, Fact, SecretBytes, Submission, VaultObservation, VaultView,
    VmObservation, World, decide, record_refusal, record_vm_refusal, still_refused,
};
use homeward::driver::azure_site_recovery::AzureSiteRecoveryDriver;
use homeward::driver::{DriverError, ReplicationDriver};
use jiff::{SignedDuration, Timestamp};

use super::store::{Failover, Key, Pvm, Store};
use super::view::{self, VM};
use super::wire::Wire;

/// How old a look may be before nothing is known any more, as the controllers have it.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// How long an answer is waited for, as the controllers have it.
const SUBMIT_LIMIT: Duration = Duration::from_secs(30);
/// How long a look may take, as the controllers have it.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// How one pass is disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// The resources are those of the pass before.
    pub stale_resources: bool,
    /// The vault is seen as in the pass before, unless this process has asked for something since (S7).
    pub stale_vault: bool,
    /// The process dies after so many of its effects.
    pub dies_after: Option<u8>,
    /// It stands still for so many seconds right before it asks the driver.
    pub stands_still: u16,
}

/// What a pass decided.
#[derive(Debug)]
pub struct Passed {
    pub decision: Decision,
    /// What it decided on.
    pub shown: Option<VmObservation>,
    pub whole: bool,
}

struct Look {
    began: Timestamp,
    seen: Result<VaultObservation, String>,
}

pub struct Operator {
    wire: Arc<Wire>,
    store: Arc<Mutex<Store>>,
    driver: Arc<AzureSiteRecoveryDriver>,
    resources: Option<Store>,
    look: Option<Look>,
    last_submit: Option<Timestamp>,
}

/// The process is no more.
struct Cut;

/// How many effects a process has left.
struct Life(Option<u8>);

impl Life {
    fn live(&mut self) -> Result<(), Cut> {
        match &mut self.0 {
            None => Ok(()),
            Some(0) => Err(Cut),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// Where the service keeps no registers, what stands in the resource is read with what the service showed.
struct Kept {
    look: VmObservation,
    register: Option<homeward::api::KeptRegister>,
    shown: VmObservation,
}

/// What is brought about of a pass.
struct Acted {
    pvm: Option<(Pvm, ProtectedVirtualMachineStatus)>,
    failover: Option<(Failover, FailoverStatus)>,
    made: Option<i64>,
}

impl Operator {
    pub fn new(wire: &Arc<Wire>, store: &Arc<Mutex<Store>>) -> Self {
        Self {
            wire: wire.clone(),
            store: store.clone(),
            driver: wire.driver(),
            resources: None,
            look: None,
            last_submit: None,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.wire.now.now()
    }

    /// The process is replaced by a new one, which knows nothing.
    pub fn die(&mut self) {
        *self = Self::new(&self.wire, &self.store);
    }

    pub async fn pass(&mut self, disturbance: Disturbance) -> Option<Passed> {
        let fresh = self.store().clone();
        let view = match self.resources.replace(fresh.clone()) {
            Some(before) if disturbance.stale_resources => before,
            _ => fresh,
        };
        let now = self.now();
        let old = disturbance.stale_vault
            && self.look.as_ref().is_some_and(|look| {
                now.duration_since(look.began) <= STALE_AFTER
                    && self.last_submit.is_none_or(|last| last < look.began)
            });
        if !old {
            let driver = self.driver.clone();
            let seen = match tokio::time::timeout(LOOK_LIMIT, driver.observe()).await {
                Ok(Ok(seen)) => Ok(seen),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the look has not ended in time".to_owned()),
            };
            self.look = Some(Look { began: now, seen });
        }
        let pvm = view.pvm.clone()?;
        let kept = self.kept(&pvm);
        let decision = self.decide(&view, &pvm, kept.as_ref());
        let shown = kept.as_ref().map(|kept| kept.shown.clone());
        let mut life = Life(disturbance.dies_after);
        let whole = self
            .act(
                &view,
                &pvm,
                kept.as_ref(),
                &decision,
                disturbance,
                &mut life,
            )
            .await
            .is_ok();
        if !whole && life.0 == Some(0) {
            self.die();
        }
        Some(Passed {
            decision,
            shown,
            whole,
        })
    }

    fn kept(&self, pvm: &Pvm) -> Option<Kept> {
        let seen = self.look.as_ref()?.seen.as_ref().ok()?;
        let look = seen.vm(VM).known().copied()?.clone();
        let now = self.now();
        let register = pvm
            .status
            .register
            .as_ref()
            .map(|register| kept::settle(register, &look, Limits::default(), now));
        let shown = kept::show(register.as_ref(), &look, Limits::default(), now);
        Some(Kept {
            look,
            register,
            shown,
        })
    }

    fn decide(&self, seen: &Store, pvm: &Pvm, kept: Option<&Kept>) -> Decision {
        let own = view::claim(pvm);
        let holder_gone = kept
            .and_then(|kept| kept.shown.claimed_by_other(&own))
            .is_some_and(|holder| view::is_gone(holder, &self.store()));
        let mut status = pvm.status.clone();
        if let Some(kept) = kept {
            status.register.clone_from(&kept.register);
        }
        let look = self.look.as_ref().expect("it has looked");
        let vault = match &look.seen {
            Err(why) => Fact::Unknown(why.clone()),
            Ok(_) if self.now().duration_since(look.began) > STALE_AFTER => {
                Fact::Unknown("the last look is too old".into())
            }
            Ok(seen) => Fact::Known(VaultView {
                sites: &seen.sites,
                renamed: (pvm.status.virtual_machine_id.as_deref())
                    .and_then(|id| seen.renamed(id, VM)),
                capabilities: self.driver.capabilities(),
                vm: match kept {
                    Some(kept) => Fact::Known(&kept.shown),
                    None => seen.vm(VM),
                },
            }),
        };
        decide(&World {
            intent: &view::intent(pvm),
            generation: Some(1),
            status: &status,
            failover: view::current(pvm, seen.current()),
            history: &view::history(seen, pvm),
            vault,
            earlier_owner: None,
            claim: own,
            encryption_key_problem: needs_key(seen, pvm)
                .filter(|key| *key == Key::Unusable)
                .map(|_| "spec.encryptionKeySecretRef: Secret key does not exist; apply it"),
            claim_holder_gone: holder_gone,
            now: self.now(),
        })
    }

    async fn act(
        &mut self,
        view: &Store,
        pvm: &Pvm,
        kept: Option<&Kept>,
        decision: &Decision,
        disturbance: Disturbance,
        life: &mut Life,
    ) -> Result<(), Cut> {
        let current = view.current().cloned();
        let mut acted = Acted {
            pvm: Some((pvm.clone(), decision.status.clone())),
            failover: current.zip(decision.failover.clone()),
            made: None,
        };
        match &decision.effect {
            None => {}
            Some(Effect::Submit(submission)) => {
                self.submit((view, pvm), kept, submission, disturbance, &mut acted, life)
                    .await?;
            }
            Some(Effect::CreateFailover(_)) if !unchanged(&self.store(), pvm) => {
                life.live()?;
                return Err(Cut);
            }
            Some(effect) => {
                life.live()?;
                let mut status = decision.status.clone();
                acted.made = view::bring_about(&mut self.store(), pvm, &mut status, effect);
                let gone = matches!(effect, Effect::ReleaseVm);
                acted.pvm = (!gone).then(|| (pvm.clone(), status));
            }
        }
        self.publish(acted, life)
    }

    async fn submit(
        &mut self,
        (view, pvm): (&Store, &Pvm),
        kept: Option<&Kept>,
        submission: &Submission,
        disturbance: Disturbance,
        acted: &mut Acted,
        life: &mut Life,
    ) -> Result<(), Cut> {
        let now = self.now();
        let usable = needs_key(view, pvm) == Some(Key::Usable)
            && submission.action.kind() == ActionKind::CompleteFailover;
        let key = usable.then(|| SecretBytes(b"a key certificate".to_vec()));
        let admitted = match kept {
            Some(kept) => kept::admit(
                kept.register.as_ref(),
                &kept.look,
                submission,
                Limits::default(),
                now,
            )
            .map(Some),
            None => Ok(None),
        };
        if let (Ok(Some(admitted)), Some((_, status))) = (&admitted, &mut acted.pvm) {
            status.register.clone_from(&admitted.register);
        }
        match (&mut acted.failover, &mut acted.pvm) {
            (Some((failover, status)), vm) => {
                self.write_failover(failover, status, life)?;
                if let (Some((pvm, status)), Ok(Some(_))) = (vm, &admitted) {
                    self.write_pvm(pvm, status, life)?;
                }
            }
            (None, Some((pvm, status))) => {
                let refused = still_refused(&pvm.status, status);
                let stored = refused.unwrap_or_else(|| status.clone());
                if pvm.status == stored && !unchanged(&self.store(), pvm) {
                    return Err(Cut);
                }
                self.write_pvm(pvm, &stored, life)?;
            }
            (None, None) => {}
        }
        if disturbance.stands_still > 0 {
            tokio::time::sleep(Duration::from_secs(disturbance.stands_still.into())).await;
        }
        life.live()?;
        let answer = match admitted {
            Ok(None) => self.ask(submission).await,
            Ok(Some(Admitted { send: None, .. })) => Ok(()),
            Ok(Some(Admitted { send, .. })) => {
                let sent = Submission {
                    attempt: send,
                    encryption_key: key,
                    ..submission.clone()
                };
                let answer = self.ask(&sent).await;
                if let Some((_, status)) = &mut acted.pvm {
                    if let Some(register) = &status.register {
                        match &answer {
                            Ok(()) => status.register = Some(kept::accepted(register)),
                            Err(error) if error.ambiguous => {}
                            Err(_) => status.register = Some(kept::refused(register)),
                        }
                    }
                }
                answer
            }
            Err(refusal) => Err(DriverError {
                class: refusal.class,
                message: refusal.message,
                ambiguous: refusal.ambiguous,
            }),
        };
        let Err(error) = answer else { return Ok(()) };
        let now = self.now();
        match (&mut acted.failover, &mut acted.pvm) {
            (Some((_, status)), _) => {
                *status = record_refusal(status, error.class, &error.message, error.ambiguous, now);
            }
            (None, Some((pvm, status))) => {
                let message = format!("{}: {}", submission.action.kind(), error.message);
                *status =
                    record_vm_refusal(&pvm.status, status, error.class, &message, Some(1), now);
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn ask(&mut self, submission: &Submission) -> Result<(), DriverError> {
        let driver = self.driver.clone();
        let answer = tokio::time::timeout(SUBMIT_LIMIT, driver.submit(VM, submission))
            .await
            .unwrap_or_else(|_| Err(DriverError::ambiguous("not answered in time")));
        self.last_submit = Some(self.now());
        answer
    }

    fn publish(&self, acted: Acted, life: &mut Life) -> Result<(), Cut> {
        if let Some((mut failover, status)) = acted.failover {
            self.write_failover(&mut failover, &status, life)?;
        }
        if let Some((mut pvm, status)) = acted.pvm {
            let written = self.write_pvm(&mut pvm, &status, life);
            if let (Err(Cut), Some(made)) = (&written, acted.made) {
                if life.0 != Some(0) {
                    let mut store = self.store();
                    let name = store.failovers[&made].name.clone();
                    store.release_failover(&name);
                    store.delete_failover(made);
                }
            }
            written?;
        }
        Ok(())
    }

    fn write_failover(
        &self,
        failover: &mut Failover,
        status: &FailoverStatus,
        life: &mut Life,
    ) -> Result<(), Cut> {
        if failover.status == *status {
            return Ok(());
        }
        life.live()?;
        let written = self.store().write_failover(failover, status.clone());
        failover.version = written.map_err(|_| Cut)?;
        failover.status = status.clone();
        Ok(())
    }

    fn write_pvm(
        &self,
        pvm: &mut Pvm,
        status: &ProtectedVirtualMachineStatus,
        life: &mut Life,
    ) -> Result<(), Cut> {
        if pvm.status == *status {
            return Ok(());
        }
        life.live()?;
        let mut store = self.store();
        store.write_pvm(pvm, status.clone()).map_err(|_| Cut)?;
        pvm.version = store.pvm.as_ref().ok_or(Cut)?.version;
        pvm.status = status.clone();
        Ok(())
    }
}

/// Whether the resource is still the one that was read.
fn unchanged(store: &Store, pvm: &Pvm) -> bool {
    (store.pvm.as_ref()).is_some_and(|now| now.uid == pvm.uid && now.version == pvm.version)
}

/// The key certificate, where the resource names one and a move to Azure is under way.
fn needs_key(seen: &Store, pvm: &Pvm) -> Option<Key> {
    let to_azure = seen.current().is_some_and(|it| it.spec.to == Site::Azure);
    (to_azure && pvm.spec.key != Key::None).then_some(pvm.spec.key)
}
