//! A sequence of steps over one VM, a service, two operator processes, one person at the resources and one in the portal; what must always hold is
//! checked after each.

mod people;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use homeward::api::{Approval, DataSyncRequest, FailoverPhase, Site, VirtualMachinePhase};
use homeward::domain::{Decision, Fact, Stage, VmObservation};
use homeward_asr_emulator as emulator;
use homeward_asr_emulator::{
    Assumptions, FabricKind, Fault, JobError, JobFailure, Rule, Scenario, Seed, SeedVm,
};
use tokio::sync::Mutex as Turn;

use super::operator::{Disturbance, Operator, VM};
use super::store::{Answer, Spec, Store};
use super::wire::{Trouble, Wire};
pub use people::Press;

/// The other VM of the recovery plan.
const OTHER: &str = "other";
const PLAN: &str = "plan-1";

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
    /// The provider on the premises.
    Silent(bool),
    Press(Press),
    /// The service does not know any more of the jobs that go on; what they do goes on.
    Purge,
}

#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Which combination of what nobody knows of the service; none for the likeliest.
    pub assumptions: Option<u64>,
    pub vmm: bool,
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
}

pub fn spec(placement: Site) -> Spec {
    Spec {
        placement,
        suspend: false,
        cutover: Approval::Automatic,
        commit: Approval::Automatic,
        reverse_replication: Approval::Automatic,
        data_sync: DataSyncRequest::Auto,
    }
}

fn at(site: Site) -> emulator::Site {
    match site {
        Site::OnPremises => emulator::Site::OnPremises,
        Site::Azure => emulator::Site::Azure,
    }
}

/// The tasks of a kind of job, in one of which it can be made to fail.
fn tasks_of(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::PlannedFailover => &[
            "VmPfoPrerequisitesCheck",
            "VmShutdownVmOnPrimary",
            "VmPrepareForFailover",
            "VmFailover",
            "VmFoStartVmOnSecondary",
        ],
        Scenario::Failback => &[
            "AzureVmFailbackPrerequisitesCheck",
            "PrepareVmOnPremForFailback",
            "InitiateDataSync",
            "MonitorDataSync",
            "ShutdownVmOnAzure",
            "PrepareForFinalizeRestore",
            "StartVmOnPrimary",
        ],
        Scenario::CommitFailover => &["VmCommitPrerequisitesCheck", "VmCommit"],
        Scenario::FinalizeFailback => &["FinalizeRestoreOnRecovery", "FinalizeRestoreOnPrimary"],
        Scenario::Reprotect => &[
            "CreateProtectionTarget",
            "EnableProtection",
            "VmStartInitialReplication",
        ],
        _ => &[""],
    }
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
        seed.fabrics[0].vms = vec![SeedVm::named(VM), SeedVm::named(OTHER)];
        let assumptions = start
            .assumptions
            .map_or_else(Assumptions::default, Assumptions::drawn);
        let settings = emulator::Settings {
            assumptions,
            ..emulator::Settings::default()
        };
        let wire = Wire::new(&seed, settings);
        let store = Arc::new(Mutex::new(Store::new(spec(start.placement))));
        let operators = [(); 2].map(|()| Arc::new(Turn::new(Operator::new(&wire, &store))));
        Self {
            wire,
            store,
            operators,
            trace: std::env::var_os("HOMEWARD_TRACE").is_some(),
            jobs_failed: false,
            disabled: false,
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

    async fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Run {
                operator,
                passes,
                seconds,
            } => {
                for _ in 0..*passes {
                    self.pass(*operator, Disturbance::default()).await?;
                    self.wait(u64::from(*seconds)).await;
                    self.check()?;
                }
            }
            Step::Pass {
                operator,
                disturbance,
            } => {
                self.pass(*operator, *disturbance).await?;
            }
            Step::Wait { seconds } => self.wait(u64::from(*seconds)).await,
            Step::Die(operator) => {
                if let Ok(mut operator) = self.operators[*operator].try_lock() {
                    operator.die();
                }
            }
            Step::Place(site) => self.store().change(|spec| spec.placement = *site),
            Step::Suspend(on) => self.store().change(|spec| spec.suspend = *on),
            Step::Cutover(approval) => self.store().change(|spec| spec.cutover = *approval),
            Step::Commit(approval) => self.store().change(|spec| spec.commit = *approval),
            Step::Reverse(approval) => {
                self.store()
                    .change(|spec| spec.reverse_replication = *approval);
            }
            Step::DataSync(asked) => self.store().change(|spec| spec.data_sync = *asked),
            Step::Answer(answer) => {
                self.store().answer(*answer);
            }
            Step::DeleteFailover => self.store().delete_current(),
            Step::LoseFailover => self.store().lose_current(),
            Step::DeletePvm => self.store().delete_pvm(),
            Step::Rebuild(placement) => self.rebuild(*placement),
            Step::Meets(way) => self.meets(*way),
            Step::ReadsFail { status, times } => {
                let fault = if *status == 429 {
                    Fault::Throttle {
                        retry_after: Some(3),
                    }
                } else {
                    Fault::Status { status: *status }
                };
                let rule = Rule {
                    times: Some(u32::from(*times)),
                    ..Rule::next("GET", "", fault)
                };
                self.wire.service().add_rule(rule).unwrap();
            }
            Step::JobFails(scenario, task) => {
                self.jobs_failed = true;
                let tasks = tasks_of(*scenario);
                self.wire.service().fail_job(JobFailure {
                    scenario: *scenario,
                    item: Some(VM.into()),
                    task: tasks[usize::from(*task) % tasks.len()].into(),
                    error: JobError::new("28031", "it was made to fail", "a test", "try again"),
                });
            }
            Step::Silent(silent) => self.silent(*silent),
            Step::Press(press) => self.press(*press),
            Step::Purge => {
                let mut service = self.wire.service();
                for job in service.jobs().iter().filter(|job| !job.state.over()) {
                    service.purge_job(&job.name);
                }
            }
        }
        self.check()
    }

    fn rebuild(&mut self, placement: Site) {
        // What was on its way, or was asked for a moment ago, is known to nobody any more.
        self.wire
            .orphaned
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.store().lose_everything();
        self.store().apply(spec(placement));
        for operator in &self.operators {
            if let Ok(mut operator) = operator.try_lock() {
                operator.die();
            }
        }
    }

    fn meets(&self, way: Way) {
        let fault = match way {
            Way::NoConnection => return self.wire.trouble(Trouble::NoConnection),
            Way::ActsAndFails(status) => return self.wire.trouble(Trouble::ActsAndFails(status)),
            Way::Lost => Fault::DropBefore,
            Way::AnswerLost => Fault::DropAfter,
            Way::Throttled => Fault::Throttle {
                retry_after: Some(7),
            },
            Way::Fails(status) => Fault::Status { status },
            Way::Held(seconds) => Fault::Hold {
                millis: Some(u64::from(seconds) * 1000),
            },
            Way::Slow(seconds) => Fault::Delay {
                millis: u64::from(seconds) * 1000,
            },
        };
        self.wire
            .service()
            .add_rule(Rule::next("POST", "", fault))
            .unwrap();
    }

    fn silent(&self, silent: bool) {
        let since = silent.then(|| self.wire.now.now());
        let mut service = self.wire.service();
        for host in [
            "hv-1.example.test",
            "hv-2.example.test",
            "vmm-1.example.test",
        ] {
            service.silence(host, since);
        }
    }

    /// One pass; returns what it decided, if there was anything to decide on.
    async fn pass(
        &mut self,
        operator: usize,
        disturbance: Disturbance,
    ) -> Result<Option<Decision>, String> {
        let Ok(mut turn) = self.operators[operator].clone().try_lock_owned() else {
            // It still stands where it stood.
            return Ok(None);
        };
        let trace = self.trace;
        let now = self.wire.now;
        let pass = async move {
            let passed = turn.pass(disturbance).await;
            if let (true, Some(passed)) = (trace, &passed) {
                let decision = &passed.decision;
                println!(
                    "   {} by {operator}: {:?} -> {:?} {:?} | {:?} {:?} | pending {:?} failure {:?}{}",
                    now.now(),
                    passed.shown.as_ref().map(|vm| &vm.stage),
                    (decision.failover.as_ref()).and_then(|failover| failover.phase),
                    decision.effect,
                    decision.status.phase,
                    (decision.failover.as_ref())
                        .and_then(|failover| failover.waiting_for.clone())
                        .or_else(|| words(decision)),
                    (decision.failover.as_ref())
                        .and_then(|failover| failover.pending_action.clone()),
                    (decision.failover.as_ref()).and_then(|failover| failover.failure.clone()),
                    if passed.whole { "" } else { " (cut short)" },
                );
            }
            passed
        };
        if disturbance.stands_still > 0 {
            tokio::spawn(pass);
            self.wait(1).await;
            self.check()?;
            return Ok(None);
        }
        let passed = pass.await;
        self.check()?;
        let Some(passed) = passed else {
            return Ok(None);
        };
        if let (Some(shown), true) = (&passed.shown, disturbance == Disturbance::default()) {
            self.check_consistency(shown, &passed.decision)?;
        }
        Ok(Some(passed.decision))
    }

    /// What must hold after every step.
    fn check(&mut self) -> Checked {
        if let Some(wrong) = self.wire.wrong() {
            return Err(wrong);
        }
        let service = self.wire.service();
        if let Some(violation) = service.violations().first() {
            return Err(format!("{violation:?}"));
        }
        let jobs = service.jobs();
        let orphaned = (self.wire.orphaned).load(std::sync::atomic::Ordering::Relaxed);
        drop(service);
        for sent in self.wire.sent() {
            let Some(name) = &sent.job else { continue };
            let Some(job) = jobs.iter().find(|job| job.name == *name) else {
                continue;
            };
            let wrong = job
                .error
                .as_deref()
                .is_some_and(|code| ["532", "25014", "25017", "25037", "25038"].contains(&code));
            if wrong && sent.alone && !orphaned {
                return Err(format!(
                    "S19: {} was asked for though it could not be done: {job:?}",
                    sent.path
                ));
            }
        }
        Ok(())
    }

    /// Invariant 4: who looks at a VM that rests in Azure is told when its copy on the premises must not be started.
    fn check_consistency(&self, shown: &VmObservation, decision: &Decision) -> Checked {
        let rests = shown.stage == Fact::Known(Stage::Settled { site: Site::Azure });
        let service = self.wire.service();
        let moving = service
            .jobs()
            .iter()
            .any(|job| !job.state.over() && job.scenario != Scenario::DisableDr);
        let half_written = service
            .machine(VM)
            .and_then(|machine| machine.copy(emulator::Site::OnPremises))
            .is_some_and(|copy| !copy.consistent);
        let told = (decision.status.conditions.iter())
            .find(|condition| condition.type_ == "TargetConsistent")
            .map(|condition| condition.status.clone());
        if rests && half_written && !moving && told.as_deref() != Some("False") {
            return Err(format!(
                "invariant 4: the copy on the premises is half written, and TargetConsistent is {told:?}"
            ));
        }
        Ok(())
    }

    fn runs(&self, site: Site) -> bool {
        let service = self.wire.service();
        service
            .machine(VM)
            .is_some_and(|machine| machine.runs(at(site)))
    }

    // ---- the end: everything works again -----------------------------------------------------------------------

    /// Faults cease; the VM comes to the place asked for last, or says what it waits for from a person, who gives it where that can be done.
    pub async fn converge(&mut self) -> Checked {
        self.wire.calm();
        self.silent(false);
        let mut quiet = 0_u32;
        let mut answers = 0;
        let mut last = String::new();
        let sent_before = self.wire.sent().len();
        for _ in 0..400 {
            if self.trace {
                println!("== converge");
            }
            let writes = self.store().writes;
            let Some(decision) = self.pass(0, Disturbance::default()).await? else {
                if self.store().pvm.is_none() {
                    self.store().apply(spec(Site::OnPremises));
                }
                self.wait(20).await;
                continue;
            };
            if self.wire.sent().len() - sent_before > 60 {
                return Err("it asks the service again and again".into());
            }
            if decision.effect.is_some() || self.store().writes != writes {
                quiet = 0;
                self.wait(4).await;
                self.check()?;
                continue;
            }
            quiet += 1;
            if quiet < 9 {
                self.wait(if quiet < 4 { 4 } else { 61 }).await;
                continue;
            }
            if self.is_placed() {
                return self.stays().await;
            }
            last = said(&decision);
            answers += 1;
            if answers > 60 {
                return Err(format!("asks for ever: {last}"));
            }
            if self.disabled && last.contains("enable its replication in Azure Site Recovery") {
                return Ok(());
            }
            self.give(&last);
            quiet = 0;
            self.wait(61).await;
        }
        let service = self.wire.service();
        Err(format!(
            "does not come to rest: {last}; {:?}, {:?}",
            service.phase(VM),
            service.jobs().last()
        ))
    }

    fn is_placed(&self) -> bool {
        let store = self.store();
        let Some(pvm) = &store.pvm else { return false };
        let site = pvm.spec.placement;
        let at_rest = matches!(
            pvm.status.phase,
            Some(
                VirtualMachinePhase::Protected
                    | VirtualMachinePhase::Unprotected
                    | VirtualMachinePhase::Suspended
            )
        );
        at_rest
            && !pvm.deleting
            && pvm.status.active_site == Some(site)
            && pvm.status.current_failover.is_none()
    }

    /// An idle VM is left alone: no effect, no write, no request. It runs, if nobody but Homeward has moved it.
    async fn stays(&mut self) -> Checked {
        let site = self.store().pvm.as_ref().map(|pvm| pvm.spec.placement);
        let untouched = !self.wire.was_pressed() && !self.jobs_failed;
        if let (Some(site), true) = (site, untouched) {
            if !self.runs(site) {
                return Err(format!("it is said to be in {site} and does not run there"));
            }
        }
        let writes = self.store().writes;
        let sent = self.wire.sent().len();
        for round in 0..4 {
            let decision = self.pass(round % 2, Disturbance::default()).await?;
            if let Some(effect) = decision.and_then(|decision| decision.effect) {
                return Err(format!("does {effect:?} though all is as declared"));
            }
            self.wait(20).await;
        }
        if self.store().writes != writes || self.wire.sent().len() != sent {
            return Err("invariant 8: an idle VM is written".into());
        }
        self.check()
    }

    /// What the status of the VM says of this condition.
    pub fn said_of(&self, kind: &str) -> Option<String> {
        let store = self.store();
        let conditions = &store.pvm.as_ref()?.status.conditions;
        let condition = conditions.iter().find(|it| it.type_ == kind)?;
        Some(condition.status.clone())
    }

    /// How far the move under way has come.
    pub fn phase(&self) -> Option<FailoverPhase> {
        self.store().current()?.status.phase
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

/// Why a VM is not ready, in words.
fn words(decision: &Decision) -> Option<String> {
    decision
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| format!("{}: {}", condition.reason, condition.message))
}

fn said(decision: &Decision) -> String {
    decision
        .failover
        .as_ref()
        .and_then(|failover| failover.waiting_for.clone())
        .or_else(|| words(decision))
        .unwrap_or_default()
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
