//! A driver whose service keeps no registers: it takes whatever request comes, and tells of its jobs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use homeward::api::Site;
use homeward::controllers::{DriverFactory, DriverInput};
use homeward::domain::{
    Action, ActionKind, BySite, Capabilities, Connection, DirectionCapabilities, ErrorClass, Fact,
    Job, JobKind, JobState, Jobs, Protection, ProtectionState, Stage, Submission, VaultObservation,
    VmObservation, WholePass,
};
use homeward::driver::{DriverError, ReplicationDriver};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::observed::nothing_of;

/// What a test can change, and what it can look at.
pub struct State {
    stage: Stage,
    jobs: Vec<Job>,
    /// Every request that arrived, in order, whatever it was answered.
    pub heard: Vec<Submission>,
    /// What the next requests are answered instead of being acted on.
    pub answers: VecDeque<DriverError>,
    /// Looks that were begun.
    pub looks: u64,
}

/// One VM at a service. Clones are the same service.
#[derive(Clone)]
pub struct FakeService {
    vm: String,
    pub state: Arc<Mutex<State>>,
    /// So many requests are dealt with before the next one waits.
    gate: Arc<Semaphore>,
    capabilities: Arc<Capabilities>,
}

impl FakeService {
    /// A service that protects this VM on the premises.
    pub fn new(vm: &str) -> Self {
        let direction = DirectionCapabilities {
            rollback: false,
            cancel_after_stop: false,
            pause_before_cutover: false,
            separate_stop: false,
            alternate_location: Ok(()),
            protects_after_commit: Ok(()),
        };
        Self {
            vm: vm.into(),
            state: Arc::new(Mutex::new(State {
                stage: Stage::Settled {
                    site: Site::OnPremises,
                },
                jobs: Vec::new(),
                heard: Vec::new(),
                answers: VecDeque::new(),
                looks: 0,
            })),
            gate: Arc::new(Semaphore::new(1_000_000)),
            capabilities: Arc::new(Capabilities {
                registers: false,
                towards: BySite {
                    on_premises: direction.clone(),
                    azure: DirectionCapabilities {
                        protects_after_commit: Err("it protects nothing that runs there".into()),
                        ..direction
                    },
                },
            }),
        }
    }

    /// How often something was asked for.
    pub fn heard(&self, kind: ActionKind) -> usize {
        let state = self.state.lock().unwrap();
        let of_kind = |it: &&Submission| it.action.kind() == kind;
        state.heard.iter().filter(of_kind).count()
    }

    /// From now on each request that was heard waits for [`Self::answer_one`].
    pub fn hold(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    pub fn answer_one(&self) {
        self.gate.add_permits(1);
    }

    pub fn looks(&self) -> u64 {
        self.state.lock().unwrap().looks
    }

    /// A request that was on its way all the while takes effect.
    pub fn arrives(&self, action: &Action) {
        self.state.lock().unwrap().act(action);
    }
}

impl State {
    fn act(&mut self, action: &Action) {
        let (does, stage) = match action {
            Action::CompleteFailover {
                from: Site::OnPremises,
                ..
            } => (
                JobKind::Failover,
                Stage::TargetStarted {
                    to: Site::Azure,
                    as_left: true,
                },
            ),
            Action::Commit { at } => (JobKind::Commit, Stage::Settled { site: *at }),
            other => panic!("{} is not asked of this service", other.kind()),
        };
        self.stage = stage;
        self.jobs.push(Job {
            id: format!("job-{}", self.jobs.len()),
            does,
            unplanned: false,
            plan: None,
            missed: None,
            state: JobState::Succeeded,
            started: Some(Timestamp::now()),
            doing: None,
            remark: None,
            tasks: Vec::new(),
        });
    }

    fn look(&self, began: Timestamp) -> VmObservation {
        let protection = match self.stage {
            Stage::Settled {
                site: Site::OnPremises,
            } => Fact::Known(Protection {
                from: Site::OnPremises,
                state: ProtectionState::Replicating,
                failover: None,
                last_whole: Some(WholePass {
                    point: began,
                    failover: None,
                    bytes_on_wire: 0,
                    bytes_changed: 0,
                    bytes_per_second: None,
                }),
                progress: None,
                overdue: false,
            }),
            _ => Fact::Absent,
        };
        VmObservation {
            stage: Fact::Known(self.stage.clone()),
            protection,
            disk_bytes: Some(1 << 30),
            jobs: Some(Jobs {
                all: self.jobs.clone(),
                scenario: "None".into(),
                server_time: Some(began),
                looked: began,
                listed: began,
            }),
            ..nothing_of("item")
        }
    }
}

#[async_trait]
impl ReplicationDriver for FakeService {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        let mut state = self.state.lock().unwrap();
        state.looks += 1;
        let seen = state.look(Timestamp::now());
        Ok(VaultObservation {
            missing_permissions: Vec::new(),
            hosts: Vec::new(),
            sites: BySite::from_fn(|_| Connection::Connected),
            vms: BTreeMap::from([(self.vm.clone(), seen)]),
            complete: Ok(()),
        })
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        if vm != self.vm {
            return Err(DriverError::refused(ErrorClass::Invalid, "no such VM"));
        }
        self.state.lock().unwrap().heard.push(submission.clone());
        self.gate.acquire().await.unwrap().forget();
        let mut state = self.state.lock().unwrap();
        if let Some(error) = state.answers.pop_front() {
            return Err(error);
        }
        state.act(&submission.action);
        Ok(())
    }
}

impl DriverFactory for FakeService {
    fn build(&self, _: &DriverInput) -> Result<Arc<dyn ReplicationDriver>, DriverError> {
        Ok(Arc::new(self.clone()))
    }
}
