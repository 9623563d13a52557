//! What all parts of the agent share: the host, its VMs, and the one way to change a register.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{
    Found, Operation, OperationError, OperationErrorKind, OperationState, Order, Power, Problem,
    Progress, Refusal, RefusalKind, Register, Roots, StepId, VmDefinition,
};
use super::config::Config;
use super::definitions::{self, Definitions, refusal};
use super::failpoint::Failpoints;
use super::hypervisor::{ErrorCategory, GuestDefinition, GuestPower, Hypervisor, HypervisorError};
use super::last_disks;
use super::probe::Probe;
use super::register::{self, Ending};
use super::replication::Replication;
use super::store::{Kind, Store, StoreError};
use super::tls::Identity;
use super::volume::Volume;

/// One host.
pub(crate) struct Host {
    pub config: Config,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub store: Store,
    pub definitions: Definitions,
    pub identity: Identity,
    pub boot_id: String,
    pub started_at: Timestamp,
    pub failpoints: Failpoints,
    pub bandwidth: super::transfer::Bandwidth,
    /// Room for replicas whose enrolment is under way.
    pub promises: super::growth::Promises,
    /// Those of the passes that come round by themselves that may be under way.
    pub passes: Semaphore,
    pub shutdown: CancellationToken,
    pub found: Mutex<Found>,
    /// Registers and other files that could not be read when the agent began.
    pub problems: Mutex<Vec<Problem>>,
    /// Asks the folder of definitions and the storage for replicas.
    pub probe: Probe,
    vms: Mutex<BTreeMap<Uuid, Arc<Vm>>>,
}

/// One VM on this host.
pub(crate) struct Vm {
    pub uuid: Uuid,
    /// Orders come one after the other.
    pub turn: tokio::sync::Mutex<()>,
    /// Held while a register is computed and synced.
    writing: Mutex<()>,
    /// The register as it is on the disk.
    register: Mutex<Option<Register>>,
    /// A register that is there and cannot be read: the VM is fenced until somebody looks at it (S4).
    pub damaged: Mutex<Option<String>>,
    /// The order under way.
    pub running: Mutex<Option<Running>>,
    /// What keeps the guest from running though it should.
    pub not_started: Mutex<Option<String>>,
    /// What follows from the host's last boot is not done yet (S12).
    pub boot_unsettled: std::sync::atomic::AtomicBool,
    /// A guest that should run is being tried to be started.
    pub bringing_up: std::sync::atomic::AtomicBool,
    pub volume: tokio::sync::Mutex<Option<Arc<Volume>>>,
    /// Asks the disks for their sizes.
    pub probe: Probe,
    pub replication: Replication,
    /// The disks that hold what the guest wrote last.
    pub last_disks: last_disks::Slot,
}

/// An order under way.
#[derive(Clone)]
pub(crate) struct Running {
    pub step: StepId,
    pub cancel: CancellationToken,
    pub progress: Arc<Mutex<Progress>>,
    pub ended: Arc<Ended>,
}

/// Wakes those who wait for an order's end.
#[derive(Default)]
pub(crate) struct Ended {
    done: Mutex<bool>,
    notify: Notify,
}

impl Ended {
    pub(crate) fn set(&self) {
        *lock(&self.done) = true;
        self.notify.notify_waiters();
    }

    pub(crate) async fn wait(&self) {
        loop {
            let notified = self.notify.notified();
            if *lock(&self.done) {
                return;
            }
            notified.await;
        }
    }
}

/// A mutex whose holder panicked is still good: every value here is replaced as a whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vm {
    /// One that nothing is known of but its process.
    pub(crate) fn stranger(uuid: Uuid) -> Self {
        Self::new(uuid, None, None)
    }

    fn new(uuid: Uuid, register: Option<Register>, damaged: Option<String>) -> Self {
        Self {
            uuid,
            turn: tokio::sync::Mutex::default(),
            writing: Mutex::default(),
            register: Mutex::new(register),
            damaged: Mutex::new(damaged),
            running: Mutex::default(),
            not_started: Mutex::default(),
            boot_unsettled: std::sync::atomic::AtomicBool::default(),
            bringing_up: std::sync::atomic::AtomicBool::default(),
            volume: tokio::sync::Mutex::default(),
            probe: Probe::default(),
            replication: Replication::default(),
            last_disks: last_disks::Slot::default(),
        }
    }

    /// The register as it is on the disk.
    pub(crate) fn register(&self) -> Option<Register> {
        lock(&self.register).clone()
    }

    /// The last order with what is known of it now.
    pub(crate) fn operation(&self) -> Option<Operation> {
        let mut operation = self.register()?.last?.operation;
        if operation.state == OperationState::Running
            && let Some(running) = lock(&self.running).as_ref()
            && running.step
                == (StepId {
                    epoch: operation.epoch,
                    step: operation.step,
                })
        {
            operation.progress = Some(lock(&running.progress).clone());
        }
        Some(operation)
    }
}

impl Host {
    #[allow(
        clippy::too_many_arguments,
        reason = "made in one place, from the parts that `run` has opened"
    )]
    pub(crate) fn new(
        config: Config,
        hypervisor: Arc<dyn Hypervisor>,
        store: Store,
        definitions: Definitions,
        identity: Identity,
        boot_id: String,
        failpoints: Failpoints,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let mut vms = BTreeMap::new();
        let mut problems = Vec::new();
        for uuid in store.list(Kind::Register)? {
            let (register, damaged) = match store.load(Kind::Register, uuid) {
                Ok(register) => (register, None),
                // S4: not known means fenced. The file is left for people.
                Err(error) => {
                    let message =
                        format!("the register cannot be read, so the VM is fenced here: {error}");
                    tracing::error!(vm = %uuid, %error, "the register cannot be read");
                    problems.push(Problem {
                        kind: super::api::ProblemKind::Storage,
                        message: message.clone(),
                    });
                    (None, Some(message))
                }
            };
            let vm = Vm::new(uuid, register, damaged);
            vm.replication.load(&store, uuid);
            vm.last_disks.load(&store, uuid);
            vms.insert(uuid, Arc::new(vm));
        }
        Ok(Self {
            passes: Semaphore::new(config.max_concurrent_passes.get().into()),
            config,
            hypervisor,
            store,
            definitions,
            identity,
            boot_id,
            started_at: Timestamp::now(),
            failpoints,
            bandwidth: super::transfer::Bandwidth::default(),
            promises: super::growth::Promises::default(),
            shutdown,
            found: Mutex::default(),
            problems: Mutex::new(problems),
            probe: Probe::default(),
            vms: Mutex::new(vms),
        })
    }

    /// Every VM with a register or a definition.
    pub(crate) fn vms(&self) -> Vec<Arc<Vm>> {
        for uuid in self.definitions.all() {
            self.vm(uuid);
        }
        lock(&self.vms).values().cloned().collect()
    }

    /// Whether this host knows the VM: by a register, also one that cannot be read, or by a definition.
    pub(crate) fn knows(&self, uuid: Uuid) -> bool {
        let known = lock(&self.vms).get(&uuid).cloned();
        let registered =
            known.is_some_and(|vm| vm.register().is_some() || lock(&vm.damaged).is_some());
        registered || self.definitions.get(uuid).is_some()
    }

    /// One VM; its entry is made when it is not there.
    pub(crate) fn vm(&self, uuid: Uuid) -> Arc<Vm> {
        Arc::clone(
            lock(&self.vms)
                .entry(uuid)
                .or_insert_with(|| Arc::new(Vm::new(uuid, None, None))),
        )
    }

    /// One VM, if this host has heard of it.
    pub(crate) fn known(&self, uuid: Uuid) -> Option<Arc<Vm>> {
        if let Some(vm) = lock(&self.vms).get(&uuid) {
            return Some(Arc::clone(vm));
        }
        self.definitions.get(uuid).map(|_| self.vm(uuid))
    }

    /// The VM's definition, and as the hypervisor needs it.
    pub(crate) fn guest(
        &self,
        uuid: Uuid,
    ) -> Result<(VmDefinition, GuestDefinition), OperationError> {
        let definition = self
            .definitions
            .get(uuid)
            .ok_or_else(|| internal("this host has no definition of the VM"))?;
        let guest = definitions::guest(&definition, &self.config)
            .map_err(|refusal| error(OperationErrorKind::Hypervisor, refusal.message))?;
        Ok((definition, guest))
    }

    /// The guest's process, for asking whether it runs and for ending it: that takes its UUID alone. A definition that is gone, or that
    /// this host cannot start, says nothing about what runs.
    pub(crate) fn process(&self, uuid: Uuid) -> GuestDefinition {
        self.guest(uuid)
            .map_or_else(|_| definitions::unknown_guest(uuid), |(_, guest)| guest)
    }

    /// Whether the guest runs, as the hypervisor says now.
    pub(crate) async fn power(&self, uuid: Uuid) -> (Power, Option<String>) {
        let guest = self.process(uuid);
        match self.hypervisor.power(&guest).await {
            GuestPower::Running => (Power::Running, None),
            GuestPower::Paused { state } => (Power::Paused, Some(state)),
            GuestPower::ShutDown => (Power::ShutDown, None),
            GuestPower::Gone => (Power::Off, None),
            GuestPower::Unknown { why } => (Power::Unknown, Some(why)),
        }
    }

    /// Why the disks of the definition are not those that the guest writes to, or wrote to last, when they are not.
    pub(crate) async fn other_disks(
        &self,
        vm: &Vm,
        guest: &GuestDefinition,
    ) -> Result<Option<String>, HypervisorError> {
        match self.hypervisor.attached(guest).await? {
            Some(attached) => Ok(definitions::other_disks(&guest.disks, &attached)),
            None => Ok(last_disks::objection(vm, &guest.disks).await),
        }
    }

    /// S1: the one way to change a register. Computed from what stands, synced, and only then believed.
    pub(crate) async fn change<T, F>(
        self: &Arc<Self>,
        vm: &Arc<Vm>,
        compute: F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(Option<&Register>) -> Result<(Option<Register>, T), Refusal> + Send + 'static,
    {
        let (host, vm) = (Arc::clone(self), Arc::clone(vm));
        let work = move || host.change_now(&vm, compute);
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(refusal(RefusalKind::Storage, error.to_string())))
    }

    /// As [`Host::change`], on a thread that may block.
    pub(crate) fn change_now<T>(
        &self,
        vm: &Vm,
        compute: impl FnOnce(Option<&Register>) -> Result<(Option<Register>, T), Refusal>,
    ) -> Result<T, Refusal> {
        let _writing = lock(&vm.writing);
        if let Some(message) = lock(&vm.damaged).clone() {
            return Err(refusal(
                RefusalKind::Storage,
                format!("{message}; mend or replace the file, then start the agent again"),
            ));
        }
        let current = vm.register();
        let (next, value) = compute(current.as_ref())?;
        if let Some(next) = next {
            self.store
                .save(Kind::Register, vm.uuid, &next)
                .map_err(|error| refusal(RefusalKind::Storage, error.to_string()))?;
            if current
                .as_ref()
                .map(|register| (register.role, register.epoch))
                != Some((next.role, next.epoch))
            {
                let from = current
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), |register| register.role.to_string());
                tracing::info!(vm = %vm.uuid, name = %next.name, epoch = next.epoch, step = next.step, %from, to = %next.role, "register changed");
            }
            *lock(&vm.register) = Some(next);
        }
        Ok(value)
    }

    /// Records how an order ended.
    pub(crate) async fn complete(self: &Arc<Self>, vm: &Arc<Vm>, step: StepId, ending: Ending) {
        let mut pause = std::time::Duration::from_millis(200);
        loop {
            let ending = ending.clone();
            let outcome = self
                .change(vm, move |register| {
                    let next = register.and_then(|register| {
                        register::complete(register, step, ending, Timestamp::now())
                    });
                    Ok((next, ()))
                })
                .await;
            let Err(refusal) = outcome else { return };
            // The effect has happened and cannot be forgotten: its result is written as soon as the disk lets us.
            tracing::error!(vm = %vm.uuid, epoch = step.epoch, step = step.step, error = %refusal.message, "the result of an order could not be written; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_secs(10));
        }
    }

    /// Where the data plane keeps what it knows of a VM.
    pub(crate) fn volume_folder(&self, vm: Uuid) -> PathBuf {
        self.config.state_dir.join("volumes").join(vm.to_string())
    }
}

/// The facts of a VM for the register.
pub(crate) struct Gathered {
    /// The boot that the register may name: not this one before what follows from it is done.
    pub boot_id: String,
    pub definition: Option<VmDefinition>,
    pub power: Power,
    pub power_reason: Option<String>,
    pub content: Option<Roots>,
}

impl Host {
    /// The facts in the register's words.
    pub(crate) fn facts<'a>(&'a self, gathered: &'a Gathered) -> register::Facts<'a> {
        register::Facts {
            host: &self.config.host,
            boot_id: &gathered.boot_id,
            now: Timestamp::now(),
            definition: gathered.definition.as_ref(),
            power: gathered.power,
            power_reason: gathered.power_reason.as_deref(),
            content: gathered.content.as_ref(),
        }
    }
}

/// What an order that executes has at hand.
#[derive(Clone)]
pub(crate) struct Work {
    pub host: Arc<Host>,
    pub vm: Arc<Vm>,
    pub order: Order,
    /// The register before the order.
    pub before: Option<Register>,
    pub running: Running,
}

impl Work {
    pub(crate) fn phase(&self, phase: super::api::ProgressPhase) {
        *lock(&self.running.progress) = Progress {
            phase,
            ..Progress::default()
        };
    }

    /// A place where a test lets the agent die.
    pub(crate) async fn place(&self, name: &str) {
        self.host
            .failpoints
            .pass(&format!("{}:{name}", self.order.command.kind()))
            .await;
    }

    pub(crate) fn check_cancelled(&self) -> Result<(), OperationError> {
        if self.running.cancel.is_cancelled() {
            Err(cancelled())
        } else {
            Ok(())
        }
    }
}

pub(crate) fn error(kind: OperationErrorKind, message: impl Into<String>) -> OperationError {
    OperationError {
        kind,
        message: message.into(),
    }
}

pub(crate) fn internal(message: impl Into<String>) -> OperationError {
    error(OperationErrorKind::Internal, message)
}

pub(crate) fn cancelled() -> OperationError {
    error(
        OperationErrorKind::Cancelled,
        "cut short by a newer order or by the agent's end",
    )
}

impl From<StoreError> for OperationError {
    fn from(failed: StoreError) -> Self {
        error(OperationErrorKind::Storage, failed.to_string())
    }
}

impl From<HypervisorError> for OperationError {
    fn from(failed: HypervisorError) -> Self {
        let kind = match failed.category() {
            ErrorCategory::Deadline => OperationErrorKind::ShutdownTimedOut,
            ErrorCategory::NoSpace => OperationErrorKind::NoSpace,
            ErrorCategory::Invalid
            | ErrorCategory::Conflict
            | ErrorCategory::Unknown
            | ErrorCategory::Failed => OperationErrorKind::Hypervisor,
        };
        error(kind, failed.to_string())
    }
}

/// Runs blocking work; a panic in it becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OperationError> + Send + 'static,
) -> Result<T, OperationError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|failed| Err(internal(failed.to_string())))
}
