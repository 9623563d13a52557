//! ProtectedVirtualMachine: one pass brings one VM one step further.
//!
//! ```text
//!   fetch     the resource, its Failover, those that ended                     FetchError
//!   observe   what the vault showed, who else claims the VM                    ObserveError
//!   decide    crate::domain::decide, pure
//!   act       the one effect; the intent is stored before it is asked for      ActError
//!   publish   the status, from what was acted; no write when nothing changed   PublishError
//! ```

mod act;
mod encryption;
mod fetch;
mod observe;
mod publish;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::controller::Action;

use super::context::Context;
use super::feed::Guarded;
use super::hub::Wish;
use super::key::Key;
use super::unreadable::UntoldError;
use crate::api::{ProtectedVirtualMachine, VirtualMachinePhase};
use crate::domain::{self, ErrorClass, World};
use act::ActError;
use fetch::{FetchError, Found, VaultStanding};
use observe::ObserveError;
use publish::PublishError;

/// Why a pass ended before it was through.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The resources could not be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What is needed to decide could not be found out.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The effect was not brought about.
    #[error(transparent)]
    Act(#[from] ActError),
    /// The status was not written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What cannot be read could not be told of.
    #[error(transparent)]
    Unreadable(#[from] UntoldError),
}

impl PassError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Fetch(error) => error.class(),
            Self::Observe(ObserveError::Api(error)) => error.class(),
            Self::Unreadable(error) => error.class(),
            Self::Act(error) => error.class(),
            Self::Publish(error) => error.class(),
        }
    }
}

/// One pass.
pub async fn pass(
    guarded: Arc<Guarded<ProtectedVirtualMachine>>,
    context: Arc<Context>,
) -> Result<Action, PassError> {
    if let Err(invalid) = &guarded.0 {
        context
            .unreadable
            .tell::<ProtectedVirtualMachine>(
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
    let fetched = match fetch::fetch(&context, &key).await? {
        Found::Gone => return Ok(Action::await_change()),
        Found::Invalid { vm, problem } => {
            publish::invalid(&context, &vm, &problem).await?;
            return Ok(Action::await_change());
        }
        Found::Resource(fetched) => *fetched,
    };
    context
        .hub
        .interest(&fetched.vault, &key, &fetched.intent.vm_name);
    let observed = observe::observe(&context, &fetched).await?;
    let encryption_key = encryption::key(&context, &fetched)
        .await
        .map_err(ObserveError::from)?;
    let mut status = fetched.vm.status.clone().unwrap_or_default();
    if let Some(kept) = &observed.kept {
        status.register.clone_from(&kept.register);
    }
    if fetched.vault_standing != VaultStanding::Absent
        && observed.is_not_yet()
        && !status.conditions.is_empty()
    {
        // A new leader has seen nothing yet, and nothing has changed by that: what was said last stands, and nobody is told otherwise.
        return Ok(Action::requeue(context.settings.stale_after()));
    }
    if observed.waits_for_look() && !status.conditions.is_empty() {
        // Nothing follows before that look, which is on its way; what was said with the action stands until then.
        return Ok(Action::await_change());
    }
    let world = World {
        intent: &fetched.intent,
        generation: fetched.vm.metadata.generation,
        status: &status,
        failover: fetched.current(),
        history: &fetched.history,
        vault: observed.vault(&fetched),
        earlier_owner: observed.earlier_owner.as_deref(),
        claim: observed.claim.clone(),
        claim_holder_gone: observed.claim_holder_gone,
        encryption_key_problem: encryption_key.problem(),
        now: Timestamp::now(),
    };
    let began = Instant::now();
    let decision = domain::decide(&world);
    context.metrics.decision(began.elapsed());
    drop(world);

    let wake_after = decision.wake_after;
    let wish = Wish {
        vm_name: fetched.intent.vm_name.clone(),
        pace: decision.pace,
        figures: decision.status.current_failover.is_some()
            || decision.status.phase == Some(VirtualMachinePhase::Protecting),
    };
    context.hub.wish(&fetched.vault, &key, wish);
    let acted = act::act(&context, &fetched, &observed, &encryption_key, decision).await?;
    let refused = publish::publish(&context, &fetched, acted).await?;
    if let Some(refusal) = refused {
        return Err(ActError::Refused(refusal).into());
    }
    Ok(wake_after
        .and_then(|after| Duration::try_from(after).ok())
        .map_or_else(Action::await_change, Action::requeue))
}
