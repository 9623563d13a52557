//! A deterministic driver with a fault schedule; only for tests, never in a custom resource.
//!
//! ```text
//!   SimulatedDriver (async trait) ──▶ Simulation (pure; tests drive it directly too)
//!                                       ├── register    which orders a side admits: S1 to S5, as the agents do
//!                                       ├── orders      an action as orders to the two sides, and what an admitted one does
//!                                       ├── clockwork   time: guests write, passes travel, operations end, late messages arrive
//!                                       ├── observe     what a look shows
//!                                       └── effects     all that happened, and what must never happen
//! ```
//!
//! There is no IO and no clock: time passes when a test says so. The simulated hypervisor starts whatever it is told to start; that
//! two guests run, or that one starts without what was written before, is not prevented here but noticed: see
//! [`Simulation::violations`].

mod capabilities;
mod clockwork;
mod effects;
mod observe;
mod orders;
mod register;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{DriverError, ReplicationDriver};
use crate::api::Site;
use crate::domain::{BySite, Capabilities, ErrorClass, Submission, VaultObservation};

pub use capabilities::{agents_like, service_like};
pub use effects::{Effect, Happening};
use orders::Message;
use register::Register;

/// Bytes of one record that a guest writes.
pub const RECORD_BYTES: u64 = 4096;
/// Simulated time moves in beats of this length.
pub const BEAT: SignedDuration = SignedDuration::from_millis(100);

/// What becomes of a message to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives and is answered.
    Arrives,
    /// It never arrives; nobody can tell.
    LostBefore,
    /// It arrives; its answer does not.
    LostAfter,
    /// It arrives when so much time has passed, after messages that were sent later; its answer reaches nobody.
    Late(SignedDuration),
    /// It arrives and is refused for a reason of the moment, such as a hypervisor that does not answer.
    Refused(ErrorClass),
}

/// An operation that will fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Class of the failure.
    pub class: ErrorClass,
    /// Its words.
    pub message: String,
}

/// What of a guest can be seen by somebody who stands beside the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Whether it runs.
    pub running: bool,
    /// The records on its disk, in the order written.
    pub records: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    records: Vec<u32>,
    /// The records are one point in time.
    whole: bool,
    /// While a pass is under way or broke off: the point in time that the journal can bring back (S10).
    before: Option<Vec<u32>>,
}

#[derive(Clone, Debug)]
struct Pass {
    failover: Option<String>,
    beats_left: u32,
    records: Vec<u32>,
    taken_at: Timestamp,
}

#[derive(Clone, Debug)]
struct Whole {
    failover: Option<String>,
    point: Timestamp,
}

#[derive(Clone, Debug)]
struct Replication {
    failover: Option<String>,
    paused: bool,
    pass: Option<Pass>,
    last: Option<Whole>,
    failing: Option<String>,
    sent: u64,
    changed: u64,
}

#[derive(Clone, Debug, Default)]
struct Side {
    defined: bool,
    register: Option<Register>,
    running: bool,
    disk: Disk,
    replication: Option<Replication>,
    /// Beats until the operation in the register ends.
    beats_left: u32,
    records_at_start: usize,
    active_since: Option<Timestamp>,
    down_since: Option<Timestamp>,
    pass_fails: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Vm {
    id: String,
    sides: BySite<Side>,
    next_record: u32,
    /// Every record that a guest wrote and that nobody has chosen to drop.
    acknowledged: Vec<u32>,
    obstacles: Vec<String>,
    full_download_obstacles: Vec<String>,
}

#[derive(Clone, Debug)]
struct InFlight {
    arrives: Timestamp,
    vm: String,
    site: Site,
    message: Message,
}

/// Two sites with their VMs, as a pure state machine.
#[derive(Clone, Debug)]
pub struct Simulation {
    now: Timestamp,
    capabilities: Capabilities,
    connected: BySite<bool>,
    vms: BTreeMap<String, Vm>,
    fates: VecDeque<Fate>,
    failures: BySite<VecDeque<Failure>>,
    in_flight: Vec<InFlight>,
    effects: Vec<Effect>,
    violations: Vec<String>,
}

impl Simulation {
    /// Two connected sites without VMs.
    #[must_use]
    pub fn new(capabilities: Capabilities, now: Timestamp) -> Self {
        Self {
            now,
            capabilities,
            connected: BySite {
                on_premises: true,
                azure: true,
            },
            vms: BTreeMap::new(),
            fates: VecDeque::new(),
            failures: BySite::default(),
            in_flight: Vec::new(),
            effects: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Puts a VM on a host of a site; a second site can be told to know it too.
    pub fn define(&mut self, name: &str, site: Site, running: bool) {
        let vm = self.vms.entry(name.into()).or_default();
        vm.id = format!("id-of-{name}");
        let side = &mut vm.sides[site];
        side.defined = true;
        side.running = running;
        side.disk.whole = true;
    }

    /// What can be done.
    #[must_use]
    pub const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Now.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// What becomes of the next messages to sides, one after the other; those beyond the list arrive.
    pub fn schedule(&mut self, fates: impl IntoIterator<Item = Fate>) {
        self.fates.extend(fates);
    }

    /// The next long operation at this side fails.
    pub fn fail_next(&mut self, site: Site, class: ErrorClass, message: &str) {
        self.failures[site].push_back(Failure {
            class,
            message: message.into(),
        });
    }

    /// Passes that this side sends fail with these words until told otherwise.
    pub fn fail_passes(&mut self, vm: &str, site: Site, why: Option<&str>) {
        if let Some(vm) = self.vms.get_mut(vm) {
            vm.sides[site].pass_fails = why.map(ToOwned::to_owned);
        }
    }

    /// Nothing scheduled happens any more, both sites answer, and what was lost stays lost. What is still on its way arrives.
    pub fn calm(&mut self) {
        self.fates.clear();
        self.failures = BySite::default();
        for site in Site::BOTH {
            self.connected[site] = true;
        }
        for vm in self.vms.values_mut() {
            vm.obstacles.clear();
            vm.full_download_obstacles.clear();
            for site in Site::BOTH {
                vm.sides[site].pass_fails = None;
            }
        }
    }

    /// Messages that are still on their way.
    #[must_use]
    pub fn on_their_way(&self) -> usize {
        self.in_flight.len()
    }

    /// Connects or disconnects a site.
    pub fn connect(&mut self, site: Site, connected: bool) {
        self.connected[site] = connected;
    }

    /// Things that a person must mend before anything is begun with the VM.
    pub fn obstruct(&mut self, vm: &str, obstacles: Vec<String>) {
        if let Some(vm) = self.vms.get_mut(vm) {
            vm.obstacles = obstacles;
        }
    }

    /// What stands in the way of a full download alone.
    pub fn obstruct_full_download(&mut self, vm: &str, obstacles: Vec<String>) {
        if let Some(vm) = self.vms.get_mut(vm) {
            vm.full_download_obstacles = obstacles;
        }
    }

    /// A passive host is made anew: its replica and its register are gone (S4: that means fenced). Only while no move is under way there.
    pub fn lose_replica(&mut self, name: &str, site: Site) -> bool {
        let Some(vm) = self.vms.get_mut(name) else {
            return false;
        };
        let owned = |side: &Side| {
            side.register
                .as_ref()
                .is_some_and(|own| own.role == register::Role::Owner && !own.uncommitted())
        };
        let rests = |side: &Side| {
            side.register
                .as_ref()
                .is_some_and(|own| own.role == register::Role::Replica && !own.fencing)
        };
        // A service's job is a move under way, whatever the sides say before it has come to them.
        let job = matches!(
            vm.sides[site.other()].running_order(),
            Some(orders::Order::Complete { .. })
        );
        if job || !owned(&vm.sides[site.other()]) || !rests(&vm.sides[site]) {
            return false;
        }
        vm.sides[site] = Side::default();
        true
    }

    /// What is on its way to a side goes with its host: a connection ends where it was made to.
    pub fn lose_what_is_on_its_way(&mut self, name: &str, site: Site) {
        self.in_flight
            .retain(|message| message.site != site || message.vm != name);
    }

    /// What stands at one side.
    #[must_use]
    pub fn guest(&self, vm: &str, site: Site) -> Guest {
        self.vms.get(vm).map_or_else(Guest::default, |vm| Guest {
            running: vm.sides[site].running,
            records: vm.sides[site].disk.records.clone(),
        })
    }

    /// Whether a side may run the VM, should, and does not.
    #[must_use]
    pub fn is_left_down(&self, vm: &str, site: Site) -> bool {
        self.vms
            .get(vm)
            .is_some_and(|vm| vm.sides[site].is_left_down())
    }

    /// Everything that happened, in order.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// What must never happen and did; empty, or a test has found a flaw.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Looks at everything. Sides that do not answer are unknown.
    #[must_use]
    pub fn observe(&self) -> VaultObservation {
        observe::observe(self)
    }
}

/// The simulation as a driver.
#[derive(Clone, Debug)]
pub struct SimulatedDriver {
    simulation: Arc<Mutex<Simulation>>,
    capabilities: Capabilities,
}

impl SimulatedDriver {
    /// A driver over this simulation.
    #[must_use]
    pub fn new(simulation: Simulation) -> Self {
        Self {
            capabilities: simulation.capabilities.clone(),
            simulation: Arc::new(Mutex::new(simulation)),
        }
    }

    /// The simulation behind it.
    pub fn simulation(&self) -> MutexGuard<'_, Simulation> {
        // A test that panicked while it held the lock has failed already.
        self.simulation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ReplicationDriver for SimulatedDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        Ok(self.simulation().observe())
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        self.simulation().submit(vm, submission)
    }
}
