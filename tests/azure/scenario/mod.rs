//! A sequence of steps over one VM, a service, two operator processes, one person at the resources and one in the portal; what must always hold is
//! checked after each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use homeward::api::{Approval, DataSyncRequest, FailoverPhase, Site, VirtualMachinePhase};
use homeward::domain::{Alternate, Decision, Fact, Stage, VmObservation};
use homeward_asr_emulator as emulator;
use homeward_asr_emulator::{
    Assumptions, FabricKind, Fault, JobError, JobFailure, Rule, Scenario, Seed, SeedVm,
};
use jiff::SignedDuration;
use tokio::sync::Mutex as Turn;

use super::operator::{Disturbance, Operator};
use super::store::{Answer, Key, Store, spec};
use super::view::VM;
use super::wire::{Trouble, Wire};

mod act;
mod check;
mod people;

pub use people::Press;

/// The other VM of the recovery plan.
const OTHER: &str = "other";
const PLAN: &str = "plan-1";
/// Hosts that VMs run on, or could; of a management server only that one has a provider.
const HOSTS: [&str; 3] = [
    "hv-1.example.test",
    "hv-2.example.test",
    "vmm-1.example.test",
];

/// What befalls the next mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It never gets there.
    Lost,
    /// It acts, and its answer is lost.
    AnswerLost,
    /// It is refused as one too many.
    Throttled,
    /// It is answered with an error and does nothing.
    Fails(u16),
    /// It is answered with an error and acts all the same.
    ActsAndFails(u16),
    /// No connection is made.
    NoConnection,
    /// The connection is closed, and it acts so many seconds later.
    Held(u8),
    /// It acts so many seconds later, and is answered then.
    Slow(u8),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Passes of one operator, some seconds apart.
    Run {
        operator: usize,
        passes: u8,
        seconds: u8,
    },
    /// One pass, disturbed.
    Pass {
        operator: usize,
        disturbance: Disturbance,
    },
    Wait {
        seconds: u16,
    },
    /// The process is replaced.
    Die(usize),
    Place(Site),
    Suspend(bool),
    Cutover(Approval),
    Commit(Approval),
    Reverse(Approval),
    DataSync(DataSyncRequest),
    Answer(Answer),
    DeleteFailover,
    LoseFailover,
    DeletePvm,
    /// The resources are made anew out of nothing.
    Rebuild(Site),
    Meets(Way),
    /// The next reads fail.
    ReadsFail {
        status: u16,
        times: u8,
    },
    /// The next job of this kind fails in this task of it.
    JobFails(Scenario, u8),
    /// The providers on the premises, all of them.
    Silent(bool),
    /// The provider of one host, whose last heartbeat is of so many minutes ago; the service may go on calling it connected.
    HostSilent {
        host: usize,
        minutes: u8,
        unnoticed: bool,
    },
    /// To where a VM is to be brought back.
    Alternate {
        host: Option<usize>,
        create: bool,
    },
    /// The Secret with the key certificate.
    Key(Key),
    /// No token that was given out is taken any more.
    Revoke,
    /// Whether who signs in is let in.
    SignIn(bool),
    Press(Press),
    /// The service does not know any more of the jobs that go on; what they do goes on.
    Purge,
}

#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Which combination of what nobody knows of the service; none for the likeliest.
    pub assumptions: Option<u64>,
    pub vmm: bool,
    /// Its data is encrypted in the vault.
    pub encrypted: bool,
    pub placement: Site,
    pub prelude: Prelude,
}

/// How far things have come before the steps begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    Nothing,
    Protected,
    /// A move to Azure has gone through.
    InAzure,
    /// In Azure, and a move back waits for its cutover.
    BackAtGate,
    /// A move to Azure waits for its commit.
    ThereUncommitted,
    /// A move back waits for its commit.
    BackUncommitted,
    /// A move back waits for its reverse replication.
    BackUnprotected,
}

pub type Checked = Result<(), String>;

pub struct World {
    pub wire: Arc<Wire>,
    store: Arc<Mutex<Store>>,
    operators: [Arc<Turn<Operator>>; 2],
    trace: bool,
    jobs_failed: bool,
    /// Protection was taken away in the portal.
    disabled: bool,
    /// The service has forgotten jobs.
    purged: bool,
}

impl World {
    pub fn new(start: &Start) -> Self {
        let mut seed = Seed::of(
            if start.vmm {
                FabricKind::Vmm
            } else {
                FabricKind::HyperVSite
            },
            0,
        )
        .plan(PLAN, &[&[VM, OTHER]]);
        seed.fabrics[0].vms = vec![
            SeedVm {
                encrypted: start.encrypted,
                ..SeedVm::named(VM)
            },
            SeedVm::named(OTHER),
        ];
        let assumptions = start
            .assumptions
            .map_or_else(Assumptions::default, Assumptions::drawn);
        let settings = emulator::Settings {
            assumptions,
            ..emulator::Settings::default()
        };
        let wire = Wire::new(&seed, settings);
        let mut wanted = spec(start.placement);
        if start.encrypted {
            wanted.key = Key::Usable;
        }
        let store = Arc::new(Mutex::new(Store::new(wanted)));
        let operators = [(); 2].map(|()| Arc::new(Turn::new(Operator::new(&wire, &store))));
        Self {
            wire,
            store,
            operators,
            trace: std::env::var_os("HOMEWARD_TRACE").is_some(),
            jobs_failed: false,
            disabled: false,
            purged: false,
        }
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn play(&mut self, steps: &[Step]) -> Checked {
        for step in steps {
            if self.trace {
                println!("== {step:?}");
            }
            self.step(step)
                .await
                .map_err(|why| format!("after {step:?}: {why}"))?;
        }
        Ok(())
    }

    async fn wait(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    pub async fn prelude(&mut self, prelude: Prelude) -> Checked {
        let run = |passes| Step::Run {
            operator: 0,
            passes,
            seconds: 4,
        };
        let there = [
            run(3),
            Step::Place(Site::Azure),
            run(8),
            Step::Answer(Answer::Start),
            run(14),
        ];
        match prelude {
            Prelude::Nothing => Ok(()),
            Prelude::Protected => self.play(&[run(4)]).await,
            Prelude::InAzure => self.play(&there).await,
            Prelude::ThereUncommitted => {
                self.play(&[Step::Commit(Approval::Manual)]).await?;
                self.play(&there).await
            }
            Prelude::BackAtGate | Prelude::BackUncommitted | Prelude::BackUnprotected => {
                self.play(&there).await?;
                let held = match prelude {
                    Prelude::BackAtGate => Step::Cutover(Approval::Manual),
                    Prelude::BackUncommitted => Step::Commit(Approval::Manual),
                    _ => Step::Reverse(Approval::Manual),
                };
                self.play(&[held, Step::Place(Site::OnPremises), run(20)])
                    .await
            }
        }
    }
}

/// Plays in a time of its own, which passes only while everybody waits.
pub fn in_time<T>(play: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(play)
}

/// Plays the steps and the end.
pub fn run(start: &Start, steps: &[Step]) -> Checked {
    in_time(async {
        let mut world = World::new(start);
        world.prelude(start.prelude).await?;
        world.play(steps).await?;
        world.converge().await
    })
}
