//! A driver whose VMs are numbers in memory, and that does what a test tells it to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use homeward::api::Site;
use homeward::controllers::{DriverFactory, DriverInput};
use homeward::domain::{
    Action, ActionKind, BySite, Capabilities, Claim, Connection, DirectionCapabilities, ErrorClass,
    Fact, HostObservation, Mark, Operation, OperationState, Power, Protection, ProtectionState,
    Stage, Submission, VaultObservation, VmObservation, WholePass,
};
use homeward::driver::{DriverError, ReplicationDriver};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::observed::nothing_of;

/// One VM and its registers.
#[derive(Clone, Debug)]
pub struct FakeVm {
    pub id: String,
    pub claim: Option<Claim>,
    pub stage: Stage,
    pub marks: BySite<Option<Mark>>,
    pub failover: Option<String>,
    pub protection: Option<Protection>,
    pub operations: Vec<Operation>,
    pub obstacles: Vec<String>,
}

/// What a test can change, and what it can look at.
#[derive(Default)]
pub struct State {
    pub vms: BTreeMap<String, FakeVm>,
    /// What was submitted, whatever became of it.
    pub heard: Vec<Submission>,
    /// What was submitted and accepted, in order.
    pub taken: Vec<(String, Submission)>,
    /// What is refused next, by kind.
    pub refusals: VecDeque<(ActionKind, DriverError)>,
    /// Kinds whose operations stay under way.
    pub held: BTreeSet<ActionKind>,
    pub disconnected: Option<(Site, String)>,
    pub blind: Option<DriverError>,
    /// At the whole vault.
    pub looks: u64,
    /// At some of its VMs.
    pub narrow_looks: u64,
    pub metered: bool,
}

/// A vault in memory. Clones are the same vault.
#[derive(Clone)]
pub struct FakeVault {
    pub state: Arc<Mutex<State>>,
    capabilities: Arc<Capabilities>,
    /// Submits wait here when a test has taken the permits.
    pub gate: Arc<Semaphore>,
    /// Looks at the whole vault wait here while a test holds the permit.
    pub looking: Arc<Semaphore>,
}

impl FakeVault {
    pub fn new() -> Self {
        Self::with_rollback(true)
    }

    pub fn with_rollback(rollback: bool) -> Self {
        let direction = DirectionCapabilities {
            rollback,
            cancel_after_stop: true,
            pause_before_cutover: true,
            separate_stop: true,
            alternate_location: Ok(()),
            protects_after_commit: Ok(()),
        };
        Self {
            state: Arc::default(),
            capabilities: Arc::new(Capabilities {
                registers: true,
                towards: BySite {
                    on_premises: direction.clone(),
                    azure: direction,
                },
            }),
            gate: Arc::new(Semaphore::new(1000)),
            looking: Arc::new(Semaphore::new(1)),
        }
    }

    pub fn with_vm(self, name: &str, id: &str, site: Site) -> Self {
        self.add(name, id, site);
        self
    }

    pub fn add(&self, name: &str, id: &str, site: Site) {
        self.state.lock().unwrap().vms.insert(
            name.into(),
            FakeVm {
                id: id.into(),
                claim: None,
                stage: Stage::Unclaimed { site },
                marks: BySite::default(),
                failover: None,
                protection: None,
                operations: Vec::new(),
                obstacles: Vec::new(),
            },
        );
    }

    /// From now on each order waits for [`Self::take_one`].
    pub fn meter(&self) {
        self.state.lock().unwrap().metered = true;
        self.gate.forget_permits(usize::MAX);
    }

    /// Takes one order.
    pub fn take_one(&self) {
        self.gate.add_permits(1);
    }

    /// Takes every order at once again.
    pub fn open(&self) {
        self.state.lock().unwrap().metered = false;
        self.gate.add_permits(1000);
    }

    pub fn vm(&self, name: &str) -> FakeVm {
        self.state.lock().unwrap().vms[name].clone()
    }

    pub fn kinds(&self, name: &str) -> Vec<ActionKind> {
        self.state
            .lock()
            .unwrap()
            .taken
            .iter()
            .filter(|(vm, _)| vm == name)
            .map(|(_, submission)| submission.action.kind())
            .collect()
    }

    pub fn hold(&self, kind: ActionKind) {
        self.state.lock().unwrap().held.insert(kind);
    }

    /// Lets operations that were held end.
    pub fn let_end(&self, kind: ActionKind) {
        let mut state = self.state.lock().unwrap();
        state.held.remove(&kind);
        for vm in state.vms.values_mut() {
            let ended: Vec<_> = vm
                .operations
                .iter_mut()
                .filter(|operation| {
                    operation.kind == kind && operation.state == OperationState::Running
                })
                .map(|operation| operation.state = OperationState::Succeeded)
                .collect();
            if !ended.is_empty() {
                match kind {
                    ActionKind::StopSource => {
                        if let Stage::SourceFenced { from } = vm.stage {
                            vm.stage = Stage::SourceStopped {
                                from,
                                was_running: true,
                            };
                        }
                    }
                    other => panic!("{other} cannot be held"),
                }
            }
        }
    }
}

fn apply(vm: &mut FakeVm, submission: &Submission, held: bool) {
    let Submission {
        action,
        mark,
        claim,
        failover,
        alternate: _,
        encryption_key: _,
        attempt: _,
    } = submission;
    let whole = |failover: &Option<String>| WholePass {
        point: Timestamp::now(),
        failover: failover.clone(),
        bytes_on_wire: 4096,
        bytes_changed: 4096,
        bytes_per_second: Some(1 << 20),
    };
    let replicate = |from| {
        Some(Protection {
            from,
            state: ProtectionState::Replicating,
            failover: failover.clone(),
            last_whole: Some(whole(failover)),
            progress: None,
            overdue: false,
        })
    };
    match action {
        Action::Adopt { at, .. } => {
            vm.claim = Some(claim.clone());
            vm.stage = Stage::Settled { site: *at };
        }
        Action::Protect { from }
        | Action::Synchronize { from }
        | Action::ReverseReplicate { from } => {
            vm.protection = replicate(*from);
        }
        Action::StopSource { from } if held => vm.stage = Stage::SourceFenced { from: *from },
        Action::StopSource { from } => {
            vm.stage = Stage::SourceStopped {
                from: *from,
                was_running: true,
            };
        }
        Action::FinalSync { from, .. } => vm.stage = Stage::TargetWhole { from: *from },
        Action::StartTarget { to } => {
            vm.stage = Stage::TargetStarted {
                to: *to,
                as_left: true,
            };
        }
        Action::CompleteFailover { from, .. } => {
            vm.stage = Stage::TargetStarted {
                to: from.other(),
                as_left: true,
            };
        }
        Action::Commit { at } => vm.stage = Stage::Committed { to: *at },
        Action::RetireSource { at } => {
            vm.stage = Stage::Settled { site: at.other() };
            vm.protection = None;
        }
        Action::CancelSync { .. } => {
            if let Some(protection) = &mut vm.protection {
                protection.failover = None;
            }
        }
        Action::FenceTarget { to } => vm.stage = Stage::TargetFenced { from: to.other() },
        Action::ResumeSource { from } => vm.stage = Stage::Settled { site: *from },
        Action::Release => {}
        Action::Detach => vm.claim = None,
    }
    vm.failover.clone_from(failover);
    // The other side is enrolled before anything is sent to it, told to undo when it is over, and keeps that in its register.
    let sites = match (action.kind(), action.site()) {
        (ActionKind::Protect | ActionKind::CancelSync, _) | (_, None) => Site::BOTH.to_vec(),
        (_, Some(site)) => vec![site],
    };
    for site in sites {
        vm.marks[site] = Some(*mark);
    }
    vm.operations.push(Operation {
        job: None,
        site: action.site().unwrap_or(Site::OnPremises),
        mark: *mark,
        kind: action.kind(),
        state: if held {
            OperationState::Running
        } else {
            OperationState::Succeeded
        },
        progress: None,
        bytes_on_wire: Some(10),
        remark: None,
        bytes_changed: Some(10),
    });
}

fn look(vm: &FakeVm) -> VmObservation {
    let runs = match &vm.stage {
        Stage::Unclaimed { site } | Stage::Settled { site } => Some(*site),
        Stage::SourceFenced { from } => Some(*from),
        Stage::TargetStarted { to, .. } | Stage::Committed { to } => Some(*to),
        Stage::SourceStopped { .. }
        | Stage::TargetWhole { .. }
        | Stage::TargetFenced { .. }
        | Stage::Contradiction { .. }
        | Stage::Unreadable { .. } => None,
    };
    VmObservation {
        claims: BySite::from_fn(|_| vm.claim.clone().map_or(Fact::Absent, Fact::Known)),
        stage: Fact::Known(vm.stage.clone()),
        marks: BySite::from_fn(|site| vm.marks[site].map_or(Fact::Absent, Fact::Known)),
        failovers: BySite::from_fn(|_| vm.failover.clone()),
        power: BySite::from_fn(|site| {
            Fact::Known(if runs == Some(site) {
                Power::On
            } else {
                Power::Off
            })
        }),
        protection: vm.protection.clone().map_or(Fact::Absent, Fact::Known),
        operations: vm.operations.clone(),
        target_consistent: Fact::Known(vm.protection.is_some()),
        replica_present: vm.stage.active().map_or(Fact::Known(true), |site| {
            Fact::Known(vm.marks[site.other()].is_some())
        }),
        written_since_start: Fact::Known(7),
        pending_delta: Some(0),
        disk_bytes: Some(1 << 30),
        protection_obstacles: vm.obstacles.clone(),
        ..nothing_of(&vm.id)
    }
}

#[async_trait]
impl ReplicationDriver for FakeVault {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn observes_some(&self) -> bool {
        true
    }

    async fn observe_some(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<VaultObservation, DriverError> {
        let mut state = self.state.lock().unwrap();
        state.narrow_looks += 1;
        let mut seen = seen(&state)?;
        seen.vms.retain(|name, _| names.contains(name));
        Ok(seen)
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        let _permit = self.looking.acquire().await.unwrap();
        let mut state = self.state.lock().unwrap();
        state.looks += 1;
        seen(&state)
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        self.state.lock().unwrap().heard.push(submission.clone());
        let permit = self.gate.acquire().await.unwrap();
        let mut state = self.state.lock().unwrap();
        if state.metered {
            permit.forget();
        }
        let kind = submission.action.kind();
        if state
            .refusals
            .front()
            .is_some_and(|(refused, _)| *refused == kind)
        {
            return Err(state.refusals.pop_front().unwrap().1);
        }
        let held = state.held.contains(&kind);
        let State { vms, taken, .. } = &mut *state;
        let Some(known) = vms.get_mut(vm) else {
            return Err(DriverError::refused(ErrorClass::Invalid, "no such VM"));
        };
        let newest = Site::BOTH
            .into_iter()
            .filter_map(|site| known.marks[site])
            .max();
        if newest == Some(submission.mark) {
            return Ok(());
        }
        if newest > Some(submission.mark) {
            return Err(DriverError::refused(
                ErrorClass::Conflict,
                format!("{} is not newer than what was taken", submission.mark),
            ));
        }
        if known
            .claim
            .as_ref()
            .is_some_and(|claim| *claim != submission.claim)
            && !matches!(&submission.action, Action::Adopt { takeover, .. } if *takeover == known.claim)
        {
            return Err(DriverError::refused(ErrorClass::Denied, "claimed"));
        }
        apply(known, submission, held);
        taken.push((vm.into(), submission.clone()));
        Ok(())
    }
}

/// Hands out the vaults of a test by name, and keeps what they were made from.
#[derive(Clone, Default)]
pub struct FakeFactory {
    pub vaults: Arc<Mutex<BTreeMap<String, FakeVault>>>,
    pub inputs: Arc<Mutex<Vec<DriverInput>>>,
}

impl FakeFactory {
    pub fn of(name: &str, vault: &FakeVault) -> Self {
        let factory = Self::default();
        factory.add(name, vault);
        factory
    }

    pub fn add(&self, name: &str, vault: &FakeVault) {
        self.vaults
            .lock()
            .unwrap()
            .insert(name.into(), vault.clone());
    }
}

impl DriverFactory for FakeFactory {
    fn build(&self, input: &DriverInput) -> Result<Arc<dyn ReplicationDriver>, DriverError> {
        self.inputs.lock().unwrap().push(input.clone());
        match self.vaults.lock().unwrap().get(&input.name) {
            Some(vault) => Ok(Arc::new(vault.clone())),
            None => Err(DriverError::refused(
                ErrorClass::Invalid,
                "spec.agents: this test has no such vault",
            )),
        }
    }
}

fn seen(state: &State) -> Result<VaultObservation, DriverError> {
    if let Some(error) = &state.blind {
        return Err(error.clone());
    }
    let sites = BySite::from_fn(|site| match &state.disconnected {
        Some((lost, why)) if *lost == site => Connection::Disconnected(why.clone()),
        _ => Connection::Connected,
    });
    Ok(VaultObservation {
        missing_permissions: Vec::new(),
        hosts: Site::BOTH
            .into_iter()
            .map(|site| HostObservation {
                name: format!("host-{}", site.as_str().to_lowercase()),
                site,
                connection: sites[site].clone(),
                last_heartbeat: Some(Timestamp::now()),
                problems: Vec::new(),
            })
            .collect(),
        sites,
        vms: state
            .vms
            .iter()
            .map(|(name, vm)| (name.clone(), look(vm)))
            .collect(),
        complete: Ok(()),
    })
}
