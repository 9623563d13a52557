//! RecoveryVault: one driver and one loop of looks a vault, and what both say of it.
//!
//! ```text
//!   fetch     the resource and its Secrets            ──▶ driver, by the factory, made anew when either changes
//!   look      one loop a vault, for all of its VMs    ──▶ hub
//!   standing  what the last look says, pure           ──▶ status, written when it changes
//! ```

mod fetch;
mod look;
mod standing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use tokio_util::sync::CancellationToken;

use super::context::{Context, VmGroup};
use super::factory::{DriverFactory, DriverInput};
use super::feed::Guarded;
use super::hub::Blind;
use super::key::Key;
use super::kubernetes::{ApiError, held, is_held, let_go};
use super::lease::LeadershipEnded;
use crate::api::RecoveryVault;
use crate::domain::{ErrorClass, Event};

/// Why a pass ended before it was through.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
}

impl PassError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
        }
    }
}

/// The drivers that look at vaults now, and what each was made from.
pub struct Lookers {
    factory: Arc<dyn DriverFactory>,
    running: Mutex<HashMap<Key, Looker>>,
    stop: CancellationToken,
}

struct Looker {
    uid: Option<String>,
    input: DriverInput,
    stop: CancellationToken,
}

impl Lookers {
    /// None yet; all end with `stop`.
    pub fn new(factory: Arc<dyn DriverFactory>, stop: CancellationToken) -> Self {
        Self {
            factory,
            running: Mutex::default(),
            stop,
        }
    }

    /// Ends the loop of a vault, if there is one.
    pub fn end(&self, vault: &Key) {
        if let Some(looker) = self.lock().remove(vault) {
            looker.stop.cancel();
        }
    }

    /// Begins a loop for a vault, unless one runs that was made from the same.
    fn ensure(&self, context: &Arc<Context>, vault: &Key, uid: Option<String>, input: DriverInput) {
        {
            let running = self.lock();
            if running.get(vault).is_some_and(|looker| {
                looker.uid == uid
                    && looker.input.spec == input.spec
                    && looker.input.secrets == input.secrets
            }) {
                return;
            }
        }
        self.end(vault);
        match self.factory.build(&input) {
            Ok(driver) => {
                tracing::info!(%vault, "a driver was made");
                context.hub.install(vault, driver.clone());
                let stop = self.stop.child_token();
                tokio::spawn(look::look_again_and_again(
                    context.clone(),
                    vault.clone(),
                    driver,
                    stop.clone(),
                ));
                self.lock()
                    .insert(vault.clone(), Looker { uid, input, stop });
            }
            Err(error) => {
                let blind = Blind {
                    class: error.class,
                    message: error.message.clone(),
                };
                if context.hub.withdraw(vault, Some(blind)) {
                    tracing::warn!(%vault, %error, "no driver could be made");
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Looker>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pass.
pub async fn pass(
    guarded: Arc<Guarded<RecoveryVault>>,
    context: Arc<Context>,
    lookers: Arc<Lookers>,
) -> Result<Action, PassError> {
    if let Err(invalid) = &guarded.0 {
        context
            .unreadable
            .tell::<RecoveryVault>(&context.client, context.within, &context.announcer, invalid)
            .await?;
        return Ok(Action::await_change());
    }
    let key = Key::of(kube::Resource::meta(guarded.as_ref()));
    let Some(mut vault) = context.vaults.newest(&key) else {
        return Ok(Action::await_change());
    };
    let api = context.vault_api(&key.namespace);
    let deleting = vault.metadata.deletion_timestamp.is_some();
    if !deleting && !is_held(vault.as_ref()) {
        context.proof.check()?;
        let written = context
            .within
            .write_finalizers("hold a vault", &api, vault.as_ref(), &held(vault.as_ref()))
            .await?;
        vault = context.vaults.recent.wrote(written);
    }
    let mut users = Vec::new();
    if deleting {
        users = users_of(&context, &key).await?;
        if users.is_empty() {
            lookers.end(&key);
            context.hub.withdraw(&key, None);
            if is_held(vault.as_ref()) {
                context.proof.check()?;
                let written = context
                    .within
                    .write_finalizers(
                        "let a vault go",
                        &api,
                        vault.as_ref(),
                        &let_go(vault.as_ref()),
                    )
                    .await;
                match written {
                    Ok(vault) => {
                        context.vaults.recent.wrote(vault);
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(Action::await_change());
        }
    }
    match fetch::secrets(&context, &key.namespace, &vault.spec).await? {
        Ok(secrets) => {
            let input = DriverInput {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                spec: vault.spec.clone(),
                secrets,
            };
            lookers.ensure(&context, &key, vault.metadata.uid.clone(), input);
        }
        Err(blind) => {
            lookers.end(&key);
            context.hub.withdraw(&key, Some(blind));
        }
    }
    publish(&context, &key, &vault, &users).await?;
    Ok(Action::requeue(context.settings.secrets_every))
}

async fn publish(
    context: &Context,
    key: &Key,
    vault: &Arc<RecoveryVault>,
    users: &[String],
) -> Result<(), PassError> {
    let before = vault.status.clone().unwrap_or_default();
    let look = context.hub.last(key);
    let status = standing::status(
        &before,
        vault.metadata.generation,
        look.as_ref().map(|look| &look.seen),
        users,
        Timestamp::now(),
    );
    if vault.status.as_ref() == Some(&status) {
        return Ok(());
    }
    context.proof.check()?;
    let ready = |conditions: &[crate::api::Condition]| {
        conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|ready| {
                (
                    ready.status.clone(),
                    ready.reason.clone(),
                    ready.message.clone(),
                )
            })
    };
    let changed = ready(&status.conditions).filter(|after| {
        ready(&before.conditions)
            .is_none_or(|before| (&before.0, &before.1) != (&after.0, &after.1))
    });
    let mut next = vault.as_ref().clone();
    next.status = Some(status);
    let api = context.vault_api(&key.namespace);
    let written = context
        .within
        .write_status("write the status of a vault", &api, &next)
        .await?;
    context.metrics.status_write("RecoveryVault");
    if let Some((truth, reason, message)) = changed {
        let event = Event {
            warning: truth == "False",
            reason: "Connection",
            message,
        };
        context.announcer.tell(&written, &reason, &[event]).await;
    }
    context.vaults.recent.wrote(written);
    Ok(())
}

/// The VMs that name a vault: those that are known, and before it is let go the API server is asked anew.
async fn users_of(context: &Context, vault: &Key) -> Result<Vec<String>, ApiError> {
    let known: Vec<String> = context
        .vm_groups
        .members(&VmGroup::Vault(vault.clone()))
        .into_iter()
        .map(|vm| vm.name)
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let api: kube::Api<Guarded<crate::api::ProtectedVirtualMachine>> =
        kube::Api::namespaced(context.client.clone(), &vault.namespace);
    let listed = context
        .within
        .call("list VMs", api.list(&ListParams::default()))
        .await?;
    Ok(listed
        .items
        .iter()
        .filter_map(|vm| vm.0.as_ref().ok())
        .filter(|vm| vm.spec.vault_ref.name == vault.name)
        .filter_map(|vm| vm.metadata.name.clone())
        .collect())
}
