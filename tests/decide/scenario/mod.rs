//! A sequence of steps over one VM, two sites, two operator processes and one person; what must always hold is checked after each.

use std::collections::BTreeSet;

use homeward::api::{
    Approval, DataSyncRequest, FailoverOutcome, FailoverPhase, Site, VirtualMachinePhase,
};
use homeward::domain::{
    ActionKind, Effect, ErrorClass, Fact, ProtectionState, Stage, VmObservation,
};
use homeward::driver::simulated::{BEAT, Fate, Happening, Simulation, agents_like, service_like};
use jiff::{SignedDuration, Timestamp};

use super::operator::{Disturbance, Operator};
use super::store::{Answer, Store, spec};
use super::view::VM;

mod act;
mod check;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Agents,
    Service,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Passes of one operator, a few beats apart.
    Run {
        operator: usize,
        passes: u8,
        beats: u8,
    },
    /// One pass, disturbed.
    Pass {
        operator: usize,
        disturbance: Disturbance,
    },
    Advance {
        beats: u16,
    },
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
    /// Cluster and resources are made anew; the sites go on.
    Rebuild(Site),
    Reapply,
    Fate(Fate),
    FailNext(Site, ErrorClass),
    FailPasses(Site, bool),
    Connect(Site, bool),
    RestartAgent(Site),
    Reboot(Site),
    Switch(Site, bool),
    Obstruct(bool),
    /// With what was on its way to it.
    LoseReplica(Site),
    /// What is on its way reaches the host that takes its place: whoever sent it had stood still before it connected.
    LoseReplicaUnderway(Site),
}

#[derive(Clone, Debug)]
pub struct Start {
    pub kind: Kind,
    pub running: bool,
    pub placement: Site,
    /// How far things have come before the steps begin.
    pub prelude: Prelude,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    Nothing,
    Protected,
    /// Protected, and a move to Azure has gone through.
    InAzure,
    /// In Azure, and a move back with the full download is about to stop the VM.
    FullBack,
    /// A move to Azure waits at the gate of this number.
    AtGate(u8),
}

pub struct World {
    pub simulation: Simulation,
    pub store: Store,
    pub operators: [Operator; 2],
    kind: Kind,
    checked: usize,
    taken: BTreeSet<(Site, u64, u64)>,
    ended: BTreeSet<String>,
    pub trace: bool,
    /// Everything was lost while an order was still on its way: nobody is left who could wait for it.
    orphaned: bool,
    /// The placement was written before the move that is under way was, and nobody has said anything since.
    unasked: bool,
}

pub type Checked = Result<(), String>;

impl World {
    pub fn new(start: &Start) -> Self {
        let capabilities = match start.kind {
            Kind::Agents => agents_like(),
            Kind::Service => service_like(),
        };
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut simulation = Simulation::new(capabilities, epoch);
        simulation.define(VM, Site::OnPremises, start.running);
        Self {
            simulation,
            store: Store::new(spec(start.placement)),
            operators: [Operator::default(), Operator::default()],
            kind: start.kind,
            checked: 0,
            taken: BTreeSet::new(),
            ended: BTreeSet::new(),
            orphaned: false,
            unasked: false,
            trace: std::env::var_os("HOMEWARD_TRACE").is_some(),
        }
    }

    pub fn play(&mut self, steps: &[Step]) -> Checked {
        for step in steps {
            if self.trace {
                println!("== {step:?}");
            }
            self.step(step)
                .map_err(|why| format!("after {step:?}: {why}"))?;
        }
        Ok(())
    }

    pub fn look(&self) -> Option<VmObservation> {
        self.simulation.observe().vms.get(VM).cloned()
    }
}

impl World {
    pub fn prelude(&mut self, prelude: Prelude) -> Checked {
        let run = |passes| Step::Run {
            operator: 0,
            passes,
            beats: 3,
        };
        match prelude {
            Prelude::Nothing => Ok(()),
            Prelude::Protected => self.play(&[run(12)]),
            Prelude::InAzure => self.play(&[
                Step::Place(Site::Azure),
                run(40),
                Step::Answer(Answer::Start),
                run(40),
            ]),
            Prelude::FullBack => {
                self.prelude(Prelude::InAzure)?;
                self.play(&[
                    Step::DataSync(DataSyncRequest::FullDuringFailover),
                    Step::Cutover(Approval::Manual),
                    Step::Place(Site::OnPremises),
                    run(6),
                    Step::Answer(Answer::Cutover),
                ])
            }
            Prelude::AtGate(gate) => {
                let manual = match gate % 3 {
                    0 => Step::Cutover(Approval::Manual),
                    1 => Step::Commit(Approval::Manual),
                    _ => Step::Reverse(Approval::Manual),
                };
                self.play(&[manual])?;
                self.prelude(Prelude::InAzure)
            }
        }
    }
}

/// Plays the steps and the end.
pub fn run(start: &Start, steps: &[Step]) -> Checked {
    let mut world = World::new(start);
    world.prelude(start.prelude)?;
    world.play(steps)?;
    world.converge()
}
