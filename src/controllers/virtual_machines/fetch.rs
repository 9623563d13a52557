//! Step 1: the resource, its Failover, and those that ended.

use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt as _};

use crate::api::{Failover, FailoverPhase, ProtectedVirtualMachine};
use crate::controllers::context::Context;
use crate::controllers::feed::{self, Guarded};
use crate::controllers::key::Key;
use crate::controllers::kubernetes::{ApiError, held, is_held};
use crate::controllers::lease::LeadershipEnded;
use crate::domain::{CurrentFailover, ErrorClass, FailoverView, FinishedFailover, Intent};

/// Why the resources could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
}

impl FetchError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
        }
    }
}

/// What was found.
pub enum Found {
    /// Nothing that anything follows from.
    Gone,
    /// A resource that cannot be understood.
    Invalid {
        /// The resource.
        vm: Arc<ProtectedVirtualMachine>,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A resource.
    Resource(Box<Fetched>),
}

/// The Failover that the status names.
pub enum Current {
    /// It names none.
    None,
    /// It exists with that UID.
    Known(Arc<Failover>, Box<FailoverParts>),
    /// No Failover with that UID exists, the API server says (safety rule S6).
    Missing,
}

/// What of a Failover can be absent in the resource but not in a decision.
pub struct FailoverParts {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// What was last written of it.
    pub status: crate::api::FailoverStatus,
    /// Why it waits for `start: Approved`.
    pub start_held_because: Option<String>,
    /// It was made for a move that was under way.
    pub taken_up: bool,
}

/// Whether the vault that a VM names exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultStanding {
    /// It does not.
    Absent,
    /// It is being deleted.
    Leaving,
    /// It does.
    Stands,
}

/// All that the resources say.
pub struct Fetched {
    /// Namespace and name.
    pub key: Key,
    /// The resource.
    pub vm: Arc<ProtectedVirtualMachine>,
    /// What a person asked for.
    pub intent: Intent,
    /// The Failover under way.
    pub failover: Current,
    /// Those that ended, oldest first.
    pub history: Vec<FinishedFailover>,
    /// The vault that it names.
    pub vault: Key,
    /// Whether that exists.
    pub vault_standing: VaultStanding,
}

impl Fetched {
    /// The Failover under way, as decisions see it.
    pub fn current(&self) -> CurrentFailover<'_> {
        match &self.failover {
            Current::None => CurrentFailover::None,
            Current::Missing => CurrentFailover::Missing,
            Current::Known(failover, parts) => CurrentFailover::Known(FailoverView {
                name: &parts.name,
                uid: &parts.uid,
                generation: failover.metadata.generation,
                spec: &failover.spec,
                status: &parts.status,
                start_held_because: parts.start_held_because.as_deref(),
                taken_up: parts.taken_up,
                deleting: failover.metadata.deletion_timestamp.is_some(),
            }),
        }
    }
}

/// Reads the resources. The VM is held by its finalizer before anything follows from it.
pub async fn fetch(context: &Context, key: &Key) -> Result<Found, FetchError> {
    let Some(mut vm) = context.vms.newest(key) else {
        return Ok(Found::Gone);
    };
    let deleting = vm.metadata.deletion_timestamp.is_some();
    if deleting && !is_held(vm.as_ref()) {
        return Ok(Found::Gone);
    }
    if !deleting && !is_held(vm.as_ref()) {
        context.proof.check()?;
        let api = context.vm_api(&key.namespace);
        let written = context
            .within
            .write_finalizers("hold a VM", &api, vm.as_ref(), &held(vm.as_ref()))
            .await?;
        vm = context.vms.recent.wrote(written);
    }
    let intent = match Intent::parse(&vm) {
        Ok(intent) => intent,
        Err(problem) => {
            return Ok(Found::Invalid {
                vm,
                problem: problem.to_string(),
            });
        }
    };
    let failover = match current(context, key, &vm).await? {
        Ok(failover) => failover,
        Err(problem) => return Ok(Found::Invalid { vm, problem }),
    };
    let vault = Key::new(&key.namespace, &intent.vault);
    Ok(Found::Resource(Box::new(Fetched {
        key: key.clone(),
        failover,
        history: history(context, &vm),
        vault_standing: vault_standing(context, &vault).await?,
        vault,
        intent,
        vm,
    })))
}

/// The Failover that the status names; inside, why its move cannot be led.
async fn current(
    context: &Context,
    key: &Key,
    vm: &ProtectedVirtualMachine,
) -> Result<Result<Current, String>, FetchError> {
    let Some(named) = vm
        .status
        .as_ref()
        .and_then(|status| status.current_failover.as_ref())
    else {
        return Ok(Ok(Current::None));
    };
    let known = |failover: Arc<Failover>| {
        let parts = FailoverParts {
            uid: named.uid.clone(),
            name: named.name.clone(),
            status: failover.status.clone().unwrap_or_default(),
            start_held_because: named.start_held_because.clone(),
            taken_up: named.taken_up,
        };
        Current::Known(failover, Box::new(parts))
    };
    let fo_key = Key::new(&key.namespace, &named.name);
    if let Some(failover) = context.failovers.newest(&fo_key) {
        if failover.metadata.uid.as_deref() == Some(named.uid.as_str()) {
            return Ok(Ok(known(failover)));
        }
    }
    // The store may be behind: only the API server can say that it is gone (safety rule S6).
    let api: Api<Guarded<Failover>> = Api::namespaced(context.client.clone(), &key.namespace);
    let live = context
        .within
        .call("read a Failover", api.get_opt(&named.name))
        .await?;
    match live {
        Some(DeserializeGuard(Ok(failover)))
            if failover.metadata.uid.as_deref() == Some(named.uid.as_str()) =>
        {
            Ok(Ok(known(Arc::new(failover))))
        }
        Some(DeserializeGuard(Err(invalid)))
            if invalid.metadata.uid.as_deref() == Some(named.uid.as_str()) =>
        {
            Ok(Err(format!(
                "Failover {} of this VM cannot be read, and its move stands still: {}; mend it, or run the version of Homeward that made it",
                named.name, invalid.error
            )))
        }
        Some(_) | None => Ok(Ok(Current::Missing)),
    }
}

/// The Failovers of this very VM that have ended, oldest first.
fn history(context: &Context, vm: &ProtectedVirtualMachine) -> Vec<FinishedFailover> {
    let Some(uid) = vm.uid() else {
        return Vec::new();
    };
    let current = vm
        .status
        .as_ref()
        .and_then(|status| status.current_failover.as_ref())
        .map(|named| named.uid.as_str());
    let mut finished: Vec<_> = context
        .failover_groups
        .members(&uid)
        .iter()
        .filter_map(|key| context.failovers.newest(key))
        .filter(|failover| failover.spec.virtual_machine.uid == uid)
        .filter(|failover| failover.metadata.uid.as_deref() != current)
        .filter(|failover| {
            failover
                .status
                .as_ref()
                .and_then(|status| status.phase)
                .is_some_and(FailoverPhase::is_final)
        })
        .map(|failover| {
            let name = failover.name_any();
            let number = name
                .rsplit('-')
                .next()
                .and_then(|number| number.parse::<i64>().ok())
                .unwrap_or(0);
            let created = failover.metadata.creation_timestamp.clone();
            let finished = FinishedFailover {
                finalizer: is_held(failover.as_ref()),
                name,
            };
            (created, number, finished)
        })
        .collect();
    finished.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    finished
        .into_iter()
        .map(|(_, _, finished)| finished)
        .collect()
}

async fn vault_standing(context: &Context, vault: &Key) -> Result<VaultStanding, FetchError> {
    let standing = |meta: &kube::api::ObjectMeta| match meta.deletion_timestamp {
        Some(_) => VaultStanding::Leaving,
        None => VaultStanding::Stands,
    };
    if let Some(found) = feed::find(&context.vaults.store, vault) {
        return Ok(standing(kube::Resource::meta(found.as_ref())));
    }
    // Letting a VM go can follow from this: the store may be behind.
    let api = context.vault_api(&vault.namespace);
    let live = context
        .within
        .call("read a RecoveryVault", api.get_metadata_opt(&vault.name))
        .await?;
    Ok(live.map_or(VaultStanding::Absent, |live| standing(&live.metadata)))
}
