//! Client of Homeward's own agents.
//!
//! ```text
//!   observe ─▶ GET /v1/state of every host, side by side ─▶ look: what each host says ─▶ mapping: one VM ─▶ stage: two registers
//!   submit  ─▶ plan: an action as orders, passive side first ─▶ POST one after the other ─▶ answers: classes of errors
//! ```
//!
//! Nothing is decided here and nothing is retried: an order that was not answered may have taken effect, and says so. `look`, `mapping`,
//! `stage` and `plan` are pure.

mod answers;
#[cfg(test)]
mod fixture;
mod look;
mod mapping;
mod obstacles;
mod plan;
mod stage;
mod stale;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use uuid::Uuid;

use super::{DriverError, ReplicationDriver};
use crate::agent::api::HostState;
use crate::agent::client::AgentClient;
use crate::api::Site;
use crate::domain::{
    BySite, Capabilities, DirectionCapabilities, ErrorClass, Submission, VaultObservation,
};
use look::{HostSight, Look};
use plan::Planned;

/// How long one host may take to tell its state.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// One host of a vault.
#[derive(Clone, Debug)]
pub struct AgentsHost {
    /// Its name, as its own configuration gives it.
    pub name: String,
    /// Its site.
    pub site: Site,
    /// Its agent.
    pub client: AgentClient,
}

/// What was last heard of a host.
#[derive(Clone, Debug)]
struct Heard {
    state: Arc<HostState>,
    at: Timestamp,
}

/// The agents of both sites as a driver.
#[derive(Debug)]
pub struct AgentsDriver {
    hosts: Vec<AgentsHost>,
    interval: Duration,
    capabilities: Capabilities,
    /// What each host last said: a host that is silent now matters only to VMs that it knew then.
    heard: Mutex<BTreeMap<String, Heard>>,
}

impl AgentsDriver {
    /// A driver over these hosts, in the order in which a VM without a replica looks for one.
    #[must_use]
    pub fn new(hosts: Vec<AgentsHost>, replication_interval: Duration) -> Self {
        let everything = DirectionCapabilities {
            rollback: true,
            cancel_after_stop: true,
            pause_before_cutover: true,
            separate_stop: true,
            alternate_location: Err("agents bring a VM back to the host that it came from".into()),
            protects_after_commit: Ok(()),
        };
        Self {
            hosts,
            interval: replication_interval,
            capabilities: Capabilities {
                registers: true,
                towards: BySite {
                    on_premises: everything.clone(),
                    azure: everything,
                },
            },
            heard: Mutex::default(),
        }
    }

    fn interval_seconds(&self) -> u64 {
        self.interval.as_secs().max(1)
    }

    /// The VMs of these names, as the hosts last told of them. None: of one of them nobody has told.
    fn ids(&self, names: &BTreeSet<String>) -> Option<Vec<Uuid>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heard.values().flat_map(|heard| &heard.state.vms);
        let (found, ids): (BTreeSet<&str>, BTreeSet<Uuid>) = known
            .filter(|vm| names.contains(&vm.name))
            .map(|vm| (vm.name.as_str(), vm.uuid))
            .unzip();
        (found.len() == names.len()).then(|| ids.into_iter().collect())
    }

    /// Looks at all hosts, for all VMs or for some alone.
    async fn look(&self, only: Option<&[Uuid]>) -> Look {
        let answers = join_all(self.hosts.iter().map(|host| async {
            let state = async {
                match only {
                    None => host.client.state().await,
                    Some(vms) => host.client.state_of(vms).await,
                }
            };
            let answer = tokio::time::timeout(LOOK_DEADLINE, state).await;
            match answer {
                Ok(Ok(state)) => look::check_identity(host, state),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!(
                    "{} did not answer within {} s: check that its agent runs and can be reached",
                    host.client.url(),
                    LOOK_DEADLINE.as_secs()
                )),
            }
        }))
        .await;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let hosts = self
            .hosts
            .iter()
            .zip(answers)
            .map(|(host, answer)| {
                let answer = answer.map(Arc::new);
                if let Ok(state) = &answer {
                    // What a host knows as a whole is only heard in a whole answer.
                    match (only, heard.get_mut(&host.name)) {
                        (Some(_), Some(before)) => {
                            before.at = now;
                            let news = state.vms.iter().filter(|vm| {
                                !before.state.vms.iter().any(|known| known.uuid == vm.uuid)
                            });
                            let news: Vec<_> = news.cloned().collect();
                            if !news.is_empty() {
                                // Should the host go silent before the next whole look, it knew these all the same.
                                Arc::make_mut(&mut before.state).vms.extend(news);
                            }
                        }
                        (Some(_), None) => {}
                        (None, _) => {
                            let state = Arc::clone(state);
                            heard.insert(host.name.clone(), Heard { state, at: now });
                        }
                    }
                }
                let before = heard.get(&host.name);
                HostSight {
                    name: host.name.clone(),
                    site: host.site,
                    control: host.client.url().to_owned(),
                    last_heartbeat: before.map(|heard| heard.at),
                    before: before.map(|heard| heard.state.clone()),
                    state: answer,
                }
            })
            .collect();
        Look { hosts }
    }

    async fn give(&self, planned: &Planned) -> Result<(), DriverError> {
        let Some(host) = self.hosts.iter().find(|host| host.name == planned.host) else {
            return Err(DriverError::refused(
                ErrorClass::Conflict,
                format!(
                    "host {} is not of this vault any more: put it back into spec.agents of the vault until the move has ended",
                    planned.host
                ),
            ));
        };
        match host.client.order(planned.order.vm, &planned.order).await {
            // Under way, or done: how it goes on shows in the next look. What has failed already has no second part.
            Ok(answer) => match answers::failure(&host.name, &answer.operation) {
                Some(error) => Err(error),
                None => Ok(()),
            },
            Err(error) => Err(answers::refusal(&host.name, &error)),
        }
    }
}

#[async_trait]
impl ReplicationDriver for AgentsDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        Ok(mapping::vault(
            &self.look(None).await,
            self.interval_seconds(),
        ))
    }

    fn observes_some(&self) -> bool {
        true
    }

    async fn observe_some(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<VaultObservation, DriverError> {
        let ids = self.ids(names);
        let look = self.look(ids.as_deref()).await;
        Ok(mapping::vault(&look, self.interval_seconds()))
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        // S7: read anew, and no more of it than the plan is about: a fleet would be read once for every order.
        let only = self.ids(&BTreeSet::from([vm.to_owned()]));
        let look = self.look(only.as_deref()).await;
        for planned in plan::plan(&look, vm, submission, self.interval_seconds())? {
            self.give(&planned).await?;
        }
        Ok(())
    }
}
