//! Keeps the lease: asks the API server what the elector says, with a client of its own that does not retry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::claim::{Claim, LeadershipProof};
use super::elector::{Answer, Ask, BadTerms, Elector, Next, Record, Terms};
use crate::controllers::FIELD_MANAGER;
use crate::telemetry::{Health, Metrics};

/// Name of this part in readiness and liveness.
const PART: &str = "lease";

/// Where the lease is and how fast it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Name of the Lease.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of this replica; a random part is added, so that no two processes ever share it.
    pub identity: String,
    /// How long others must see the lease unchanged before they take it.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// How soon it is tried again.
    pub retry_every: Duration,
}

/// Keeps the lease in the background.
pub struct Keeper {
    api: Api<Lease>,
    settings: LeaseSettings,
    elector: Elector,
    identity: String,
    request_timeout: Duration,
    claim: Claim,
    term: u64,
    acquired: MicroTime,
    tell: watch::Sender<Option<LeadershipProof>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Keeper {
    /// A keeper that has asked nothing yet. `client` must not retry by itself.
    ///
    /// # Errors
    /// When the terms leave no room for a second attempt.
    pub fn new(
        client: Client,
        settings: LeaseSettings,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, watch::Receiver<Option<LeadershipProof>>), BadTerms> {
        let identity = format!("{}_{}", settings.identity, uuid::Uuid::new_v4());
        let terms = Terms {
            identity: identity.clone(),
            duration: settings.duration,
            renew_every: settings.renew_every,
            retry_every: settings.retry_every,
            margin: settings.duration / 5,
        };
        terms.check()?;
        let (tell, told) = watch::channel(None);
        let keeper = Self {
            api: Api::namespaced(client, &settings.namespace),
            request_timeout: settings.retry_every.max(Duration::from_millis(500)),
            elector: Elector::new(terms, Instant::now()),
            identity,
            settings,
            claim: Claim::default(),
            term: 0,
            acquired: MicroTime(Timestamp::now()),
            tell,
            health,
            metrics,
        };
        Ok((keeper, told))
    }

    /// Keeps the lease until `stop`, then lets go of it. What acts in its name must have ended before `stop`.
    pub async fn keep(mut self, stop: CancellationToken) {
        let at_most = self.settings.duration * 4;
        let mut waits_for: Option<String> = None;
        loop {
            self.health.beat(PART, at_most);
            let now = Instant::now();
            self.publish(now);
            match self.elector.next(now) {
                Next::Wait(until) => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
                Next::Ask(ask) => {
                    let began = Instant::now();
                    if self.elector.held_until(began).is_none() {
                        self.acquired = MicroTime(Timestamp::now());
                    }
                    let answer = tokio::select! {
                        () = stop.cancelled() => break,
                        answer = self.ask(&ask) => answer,
                    };
                    match &answer {
                        Answer::Failed | Answer::Conflict => {}
                        Answer::Read(_) | Answer::Written(_) => self.health.ready(PART),
                    }
                    if let Answer::Read(Some(Record {
                        holder: Some(holder),
                        ..
                    })) = &answer
                        && *holder != self.identity
                        && waits_for.as_ref() != Some(holder)
                    {
                        tracing::info!(lease = %self.settings.name, %holder, "another replica holds the lease; this one waits to take over");
                        waits_for = Some(holder.clone());
                    }
                    self.elector.answered(answer, began, Instant::now());
                }
            }
        }
        self.release().await;
        self.health.ended(PART);
    }

    /// Tells the rest of the process when it may act and when it may not any more.
    fn publish(&mut self, now: Instant) {
        let until = self.elector.held_until(now);
        let told = self.tell.borrow().is_some();
        match until {
            Some(_) if !told => {
                self.term += 1;
                self.claim.set(self.term, until);
                tracing::info!(lease = %self.settings.name, identity = %self.identity, "this replica acts from now on");
                self.tell.send_replace(Some(self.claim.proof(self.term)));
            }
            Some(_) => self.claim.set(self.term, until),
            None => {
                self.claim.set(self.term, None);
                if told {
                    tracing::warn!(lease = %self.settings.name, identity = %self.identity, "this replica does not hold the lease any more and stops acting");
                    self.tell.send_replace(None);
                }
            }
        }
        self.metrics.lease_held(until.is_some());
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        // An answer that comes after the claim is over is of no use: the loop must get to say so in time.
        let limit = self
            .elector
            .held_until(Instant::now())
            .map_or(self.request_timeout, |until| {
                self.request_timeout
                    .min(until.saturating_duration_since(Instant::now()))
            });
        match tokio::time::timeout(limit, self.send(ask)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.failed(ask, &error.to_string());
                Answer::Failed
            }
            Err(_) => {
                self.failed(ask, "no answer in time");
                Answer::Failed
            }
        }
    }

    fn failed(&self, ask: &Ask, error: &str) {
        tracing::warn!(lease = %self.settings.name, ?ask, error, "the lease could not be asked for");
        self.health.waits(
            PART,
            format!(
                "an answer about Lease {}/{}: {error}",
                self.settings.namespace, self.settings.name
            ),
        );
    }

    async fn send(&self, ask: &Ask) -> Result<Answer, kube::Error> {
        let answer = match ask {
            Ask::Read => {
                let lease = self.api.get_opt(&self.settings.name).await?;
                return Ok(Answer::Read(lease.as_ref().map(record)));
            }
            Ask::Create => {
                self.api
                    .create(&parameters(), &self.lease(None, Some(&self.identity), 0))
                    .await
            }
            Ask::Replace {
                version,
                transitions,
            } => {
                self.replace(version, Some(&self.identity), *transitions)
                    .await
            }
        };
        match answer {
            Ok(lease) => Ok(Answer::Written(record(&lease))),
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(Answer::Conflict)
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(
        &self,
        version: &str,
        holder: Option<&str>,
        transitions: i32,
    ) -> Result<Lease, kube::Error> {
        let lease = self.lease(Some(version), holder, transitions);
        self.api
            .replace(&self.settings.name, &parameters(), &lease)
            .await
    }

    fn lease(&self, version: Option<&str>, holder: Option<&str>, transitions: i32) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                resource_version: version.map(Into::into),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: holder.map(Into::into),
                lease_duration_seconds: Some(
                    i32::try_from(self.settings.duration.as_secs()).unwrap_or(i32::MAX),
                ),
                lease_transitions: Some(transitions),
                renew_time: Some(MicroTime(Timestamp::now())),
                acquire_time: holder.map(|_| self.acquired.clone()),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn release(&mut self) {
        self.claim.set(self.term, None);
        self.tell.send_replace(None);
        self.metrics.lease_held(false);
        let Some(record) = self.elector.release() else {
            return;
        };
        let written = tokio::time::timeout(
            self.request_timeout,
            self.replace(&record.version, None, record.transitions),
        )
        .await;
        match written {
            Ok(Ok(_)) => tracing::info!(lease = %self.settings.name, "the lease was released"),
            Ok(Err(error)) => {
                tracing::warn!(lease = %self.settings.name, %error, "the lease could not be released; it runs out by itself");
            }
            Err(_) => {
                tracing::warn!(lease = %self.settings.name, "the lease could not be released in time; it runs out by itself");
            }
        }
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0);
    Record {
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}
