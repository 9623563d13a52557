//! What is asked of the service: one POST for an action, where the service lets it be done right then.

use jiff::Timestamp;
use tokio::time::Instant;

use super::reading::{connection, host_silent};
use super::wire::fabric::Provider;
use super::wire::item::Item;
use super::wire::job::Job;
use super::wire::value::{last_segment, same_id};
use super::{AzureSiteRecoveryDriver, jobs, request};
use crate::api::{DataSync, Site};
use crate::domain::{Action, Alternate, Connection, ErrorClass, Submission};
use crate::driver::DriverError;

impl AzureSiteRecoveryDriver {
    /// Asks for one action, at most once.
    pub(super) async fn ask(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        let attempt = submission.attempt.as_ref().ok_or_else(|| {
            DriverError::refused(
                ErrorClass::Invalid,
                format!("{} is not asked of this service", submission.action.kind()),
            )
        })?;
        let before = Some(attempt.send_before);
        // S7: what is allowed is read anew, right before it is asked for.
        match (&submission.action, &attempt.job) {
            (Action::CompleteFailover { .. }, Some(job)) => {
                if !self.known_job(job).await?.waits() {
                    return Err(DriverError::refused(
                        ErrorClass::Conflict,
                        format!("job {job} of the service does not wait to be completed"),
                    ));
                }
                let item = self.item(vm).await?;
                self.host_hears(&item, &submission.alternate).await?;
                self.memory().asked = Some(Instant::now());
                let path = self
                    .client
                    .in_vault(&format!("replicationJobs/{job}/resume"));
                self.client
                    .mutate(&path, Some(&request::resume()), before)
                    .await
            }
            (Action::CancelSync { .. }, Some(job)) => {
                let item = self.item(vm).await?;
                let told = self.known_job(job).await?;
                // S20: only in phase 1, or while it waits.
                if !jobs::job(&told, &item).state.can_be_cancelled() {
                    return Err(DriverError::refused(
                        ErrorClass::Conflict,
                        format!(
                            "job {job} of the service is {} and cannot be cancelled without harm to the VM",
                            told.state
                        ),
                    ));
                }
                self.memory().asked = Some(Instant::now());
                let path = self
                    .client
                    .in_vault(&format!("replicationJobs/{job}/cancel"));
                self.client.mutate(&path, None, before).await
            }
            _ => {
                let item = self.item(vm).await?;
                self.memory().asked = Some(Instant::now());
                self.ask_of(&item, submission, before).await
            }
        }
    }

    /// The job that an action is about, read anew.
    async fn known_job(&self, name: &str) -> Result<Job, DriverError> {
        self.job(name).await?.ok_or_else(|| {
            DriverError::refused(
                ErrorClass::Conflict,
                format!("the service does not know job {name} any more"),
            )
        })
    }

    async fn post(
        &self,
        item: &Item,
        operation: &str,
        body: Option<serde_json::Value>,
        send_before: Option<Timestamp>,
    ) -> Result<(), DriverError> {
        let path = format!("{}/{operation}", item.id);
        self.client.mutate(&path, body.as_ref(), send_before).await
    }

    /// The providers as they are right before something is asked for that one of them has to do. A look may be a minute behind, and what a host
    /// that went silent since cannot do would be accepted, and fail as a job: some of them with the VM stopped. One list serves whoever asks
    /// within the shortest pause.
    async fn providers_now(&self) -> Result<Vec<Provider>, DriverError> {
        self.providers_since(self.shortest_pause).await
    }

    /// The VM's own host is heard, unless the move is to another one.
    async fn host_hears(&self, item: &Item, alternate: &Alternate) -> Result<(), DriverError> {
        if alternate.host.is_some() {
            return Ok(());
        }
        let providers = self.providers_now().await?;
        let all: Vec<&Provider> = providers.iter().collect();
        match host_silent(item, &all, self.clock.now()) {
            None => Ok(()),
            // It comes back by itself, and nothing was asked of it yet.
            Some(why) => Err(DriverError::refused(
                ErrorClass::Transient,
                format!("the host of the VM is not heard: {why}"),
            )),
        }
    }

    /// The place of a failback: the provider of the host asked for, or the item's own.
    async fn place(
        &self,
        item: &Item,
        alternate: &Alternate,
    ) -> Result<request::Place, DriverError> {
        let providers = self.providers_now().await?;
        place(item, alternate, &providers, self.clock.now())
    }

    async fn ask_of(
        &self,
        item: &Item,
        submission: &Submission,
        before: Option<Timestamp>,
    ) -> Result<(), DriverError> {
        let action = &submission.action;
        match action {
            Action::CompleteFailover {
                from: Site::OnPremises,
                ..
            } => {
                if !item.allows("PlannedFailover") || item.active == Some(Site::Azure) {
                    return Err(not_allowed(item, "a planned failover to Azure"));
                }
                self.host_hears(item, &submission.alternate).await?;
                let body = request::failover_to_azure(submission.encryption_key.as_ref());
                self.post(item, "plannedFailover", Some(body), before).await
            }
            Action::Synchronize { from: Site::Azure }
            | Action::CompleteFailover {
                from: Site::Azure, ..
            } => {
                let data_sync = match action {
                    Action::CompleteFailover { data_sync, .. } => *data_sync,
                    _ => DataSync::DeltaBeforeFailover,
                };
                let allowed = item.allows("Failback")
                    || (item.allows("PlannedFailover") && item.active == Some(Site::Azure));
                if !allowed {
                    return Err(not_allowed(item, "a failback"));
                }
                self.host_hears(item, &submission.alternate).await?;
                let place = self.place(item, &submission.alternate).await?;
                let body = request::failback(data_sync, &place);
                self.post(item, "plannedFailover", Some(body), before).await
            }
            Action::Commit { at } => {
                if !item.allows("Commit") && !item.allows("FinalizeFailback") {
                    return Err(not_allowed(item, "a commit"));
                }
                // A failback is finalized by the host too.
                if *at == Site::OnPremises {
                    self.host_hears(item, &submission.alternate).await?;
                }
                self.post(item, "failoverCommit", None, before).await
            }
            Action::ReverseReplicate {
                from: Site::OnPremises,
            }
            | Action::Protect {
                from: Site::OnPremises,
            } => {
                if !item.allows("ReverseReplicate") {
                    return Err(not_allowed(item, "reverse replication"));
                }
                self.host_hears(item, &submission.alternate).await?;
                let body = request::reverse_replicate(item);
                self.post(item, "reProtect", Some(body), before).await
            }
            other => Err(DriverError::refused(
                ErrorClass::Invalid,
                format!("{} is nothing that the service does", other.kind()),
            )),
        }
    }
}

/// The provider is named only where the VM may be created, and only in a Hyper-V site: VMM places VMs by itself.
fn place(
    item: &Item,
    alternate: &Alternate,
    providers: &[Provider],
    now: Timestamp,
) -> Result<request::Place, DriverError> {
    if !alternate.create_if_missing {
        return Ok(request::Place::Own);
    }
    let own = item
        .provider_id
        .as_deref()
        .and_then(|id| providers.iter().find(|provider| same_id(&provider.id, id)));
    let of_vmm = own.is_some_and(|provider| provider.fabric_type.eq_ignore_ascii_case("VMM"));
    let invalid = |message: String| Err(DriverError::refused(ErrorClass::Invalid, message));
    let Some(host) = &alternate.host else {
        return match own {
            _ if of_vmm => Ok(request::Place::Created { provider_id: None }),
            Some(own) => Ok(request::Place::Created {
                provider_id: Some(own.id.clone()),
            }),
            None => invalid(format!(
                "the service names no provider of {}; name one in spec.failback.host",
                item.friendly_name
            )),
        };
    };
    if of_vmm {
        return invalid(
            "spec.failback.host cannot be used under VMM, which places the VM by itself; take it out of the ProtectedVirtualMachine, cancel this Failover, and start the next one".into(),
        );
    }
    let named = |provider: &&Provider| {
        same_id(&provider.id, host)
            || last_segment(&provider.id).eq_ignore_ascii_case(host)
            || provider.host.eq_ignore_ascii_case(host)
    };
    let sites: Vec<&Provider> = providers
        .iter()
        .filter(|provider| provider.fabric_type.eq_ignore_ascii_case("HyperVSite"))
        .collect();
    match sites.iter().find(|provider| named(provider)) {
        Some(provider) => match connection(provider, now) {
            Connection::Connected => Ok(request::Place::Created {
                provider_id: Some(provider.id.clone()),
            }),
            // It comes back by itself, and nothing was asked of it yet.
            Connection::Disconnected(why) => Err(DriverError::refused(
                ErrorClass::Transient,
                format!("spec.failback.host: {why}"),
            )),
        },
        None => {
            let known: Vec<&str> = sites
                .iter()
                .map(|provider| provider.host.as_str())
                .collect();
            invalid(format!(
                "spec.failback.host: no recovery services provider of a Hyper-V site is {host}; the vault has {}; correct it in the ProtectedVirtualMachine, cancel this Failover, and start the next one",
                known.join(", ")
            ))
        }
    }
}

fn not_allowed(item: &Item, what: &str) -> DriverError {
    let allowed = if item.allowed.is_empty() {
        "nothing".to_owned()
    } else {
        item.allowed.join(", ")
    };
    DriverError::refused(
        ErrorClass::Conflict,
        format!(
            "the service does not let {what} be done now: it calls the VM {} ({}) and lets be done: {allowed}",
            item.protection_state, item.protection_state_description
        ),
    )
}
