//! RecoveryVault: one driver and one loop of looks a vault, and what both say of it.
//!
//! ```text
//!   fetch     the resource and its Secrets
//!   lookers   the driver, by the factory, made anew when either changes; what cannot be used any more takes no working driver away
//!   look      one loop a vault, for all of its VMs    ──▶ hub
//!   standing  what the last look says, pure           ──▶ status, written when it changes
//! ```

mod fetch;
mod look;
mod lookers;
mod standing;

use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::controller::Action;

use super::context::{Context, VmGroup};
use super::factory::DriverInput;
use super::feed::Guarded;
use super::hub::Blind;
use super::key::Key;
use super::kubernetes::{ApiError, held, is_held, is_held_by, let_go};
use super::lease::LeadershipEnded;
use super::unreadable::UntoldError;
use crate::api::RecoveryVault;
use crate::domain::{ErrorClass, Event};

pub use lookers::Lookers;

/// Why a pass ended before it was through.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
    /// What cannot be read could not be told of.
    #[error(transparent)]
    Unreadable(#[from] UntoldError),
}

impl PassError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
            Self::Unreadable(error) => error.class(),
        }
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
            .tell::<RecoveryVault>(
                &context.client,
                context.within,
                &context.announcer,
                &context.proof,
                invalid,
            )
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
    let uid = vault.metadata.uid.as_deref();
    let wrong = match fetch::secrets(&context, &key.namespace, &vault.spec).await? {
        Ok(secrets) => {
            let input = DriverInput {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                spec: vault.spec.clone(),
                secrets,
            };
            lookers.ensure(&context, &key, uid, input).err()
        }
        Err(blind) => Some(blind),
    };
    if let Some(blind) = &wrong {
        lookers.go_on_without(&context, &key, uid, blind);
    }
    publish(&context, &key, &vault, &users, wrong.as_ref()).await?;
    Ok(Action::requeue(context.settings.secrets_every))
}

async fn publish(
    context: &Context,
    key: &Key,
    vault: &Arc<RecoveryVault>,
    users: &[String],
    wrong: Option<&Blind>,
) -> Result<(), PassError> {
    let before = vault.status.clone().unwrap_or_default();
    let look = context.hub.last(key);
    let status = standing::status(
        &before,
        vault.metadata.generation,
        look.as_ref().map(|look| &look.seen),
        users,
        wrong,
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
        tracing::info!(vault = %key, ready = %truth, %reason, %message, "the vault's standing changed");
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
    let names = listed.items.iter().filter_map(|vm| match &vm.0 {
        Ok(vm) if vm.spec.vault_ref.name == vault.name => vm.metadata.name.clone(),
        Ok(_) => None,
        // Which vault it names cannot be read; as long as it is held, it may be this one.
        Err(unreadable) => {
            let held = is_held_by(&unreadable.metadata);
            held.then(|| unreadable.metadata.name.clone()).flatten()
        }
    });
    Ok(names.collect())
}
