//! Step 2: what the vault showed, and who else claims the VM.

use std::time::Instant;

use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::fetch::{Current, Fetched, VaultStanding};
use crate::api::{KeptRegister, ProtectedVirtualMachine};
use crate::controllers::context::{Context, VmGroup};
use crate::controllers::hub::Sight;
use crate::controllers::key::Key;
use crate::controllers::kubernetes::ApiError;
use crate::domain::{Claim, Claimant, Fact, VaultView, VmObservation, earlier_owner, kept};

/// Why something could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// How many names are asked for at once.
const PAGE: u32 = 500;

/// All that was found out.
pub struct Observed {
    /// The newest look at the vault.
    pub sight: Sight,
    /// Another resource that claims the same VM and came first.
    pub earlier_owner: Option<String>,
    /// The claim of this resource.
    pub claim: Claim,
    /// The VM is claimed in the name of a resource of this very cluster that no longer exists.
    pub claim_holder_gone: bool,
    /// The VM of a service that keeps no registers, with the one that stands in the resource.
    pub kept: Option<Kept>,
}

/// A VM of a service that keeps no registers.
pub struct Kept {
    /// What the service showed.
    pub look: VmObservation,
    /// The register, with what is known for good of the last request.
    pub register: Option<KeptRegister>,
    /// Both together, as decisions see it.
    pub shown: VmObservation,
}

impl Observed {
    /// Whether the first look at the vault has not ended yet.
    pub fn is_not_yet(&self) -> bool {
        matches!(self.sight, Sight::NotYet)
    }

    /// Whether nothing counts that was seen of the VM until a look has begun after its last action (S7). That look wakes the VM.
    pub const fn waits_for_look(&self) -> bool {
        matches!(
            self.sight,
            Sight::Seen {
                vm_unknown: Some(_),
                ..
            }
        )
    }

    /// The vault, as decisions see it.
    pub fn vault<'a>(&'a self, fetched: &Fetched) -> Fact<VaultView<'a>> {
        if fetched.vault_standing == VaultStanding::Absent {
            return Fact::Absent;
        }
        match &self.sight {
            Sight::NotYet => Fact::Unknown("it has not been looked at yet".into()),
            Sight::Nothing(why) => Fact::Unknown(why.clone()),
            Sight::Nobody(why) => {
                let both_leave =
                    fetched.intent.deleting && fetched.vault_standing == VaultStanding::Leaving;
                match fetched.failover {
                    // Nobody will look again: no driver was made before the Secrets were deleted, as with a whole namespace.
                    Current::None if both_leave => Fact::Absent,
                    Current::None | Current::Known(..) | Current::Missing => {
                        Fact::Unknown(why.clone())
                    }
                }
            }
            Sight::Seen {
                observation,
                driver,
                vm_unknown,
            } => Fact::Known(VaultView {
                sites: &observation.sites,
                renamed: fetched
                    .vm
                    .status
                    .as_ref()
                    .and_then(|status| status.virtual_machine_id.as_deref())
                    .and_then(|id| observation.renamed(id, &fetched.intent.vm_name)),
                capabilities: driver.capabilities(),
                vm: match vm_unknown {
                    // S7: what was seen before the last action ended does not count.
                    Some(why) => Fact::Unknown(why.clone()),
                    None => match &self.kept {
                        Some(kept) => Fact::Known(&kept.shown),
                        None => observation.vm(&fetched.intent.vm_name),
                    },
                },
            }),
        }
    }
}

/// Finds out.
pub async fn observe(context: &Context, fetched: &Fetched) -> Result<Observed, ObserveError> {
    let sight = context
        .hub
        .sight(&fetched.vault, &fetched.intent.vm_name, Instant::now());
    let claim = Claim {
        cluster: context.cluster.clone(),
        vm_uid: fetched.intent.uid.clone(),
    };
    let kept = kept_of(context.settings.service, fetched, &sight);
    let (identity, holder) = match &sight {
        Sight::Seen { observation, .. } => match observation.vm(&fetched.intent.vm_name) {
            Fact::Known(vm) => {
                let vm = kept.as_ref().map_or(vm, |kept| &kept.shown);
                (Some(vm.id.clone()), vm.claimed_by_other(&claim).cloned())
            }
            Fact::Absent | Fact::Unknown(_) => (None, None),
        },
        Sight::NotYet | Sight::Nothing(_) | Sight::Nobody(_) => (None, None),
    };
    let claim_holder_gone = match holder {
        Some(holder) if holder.cluster == claim.cluster => is_gone(context, &holder.vm_uid).await?,
        Some(_) | None => false,
    };
    Ok(Observed {
        earlier_owner: owner(context, fetched, identity),
        sight,
        claim,
        claim_holder_gone,
        kept,
    })
}

/// Where the service keeps no registers, what stands in the resource is read with what the service showed.
fn kept_of(limits: kept::Limits, fetched: &Fetched, sight: &Sight) -> Option<Kept> {
    let Sight::Seen {
        observation,
        driver,
        ..
    } = sight
    else {
        return None;
    };
    if driver.capabilities().registers {
        return None;
    }
    let look = observation
        .vm(&fetched.intent.vm_name)
        .known()
        .copied()?
        .clone();
    let now = Timestamp::now();
    let status = fetched.vm.status.as_ref();
    let register = status
        .and_then(|status| status.register.as_ref())
        .map(|register| kept::settle(register, &look, limits, now));
    let shown = kept::show(register.as_ref(), &look, limits, now);
    Some(Kept {
        look,
        register,
        shown,
    })
}

/// The oldest other resource that names the same VM of the same vault, or that was seen to be the same VM.
fn owner(context: &Context, fetched: &Fetched, identity: Option<String>) -> Option<String> {
    let mut groups = vec![VmGroup::Name(
        fetched.vault.clone(),
        fetched.intent.vm_name.clone(),
    )];
    let known = fetched
        .vm
        .status
        .as_ref()
        .and_then(|status| status.virtual_machine_id.clone());
    groups.extend(identity.or(known).map(VmGroup::Identity));
    let others: Vec<Claimant> = groups
        .iter()
        .flat_map(|group| context.vm_groups.members(group))
        .filter(|other| *other != fetched.key)
        .filter_map(|other| Some(claimant(&other, context.vms.newest(&other)?.as_ref())))
        .collect();
    earlier_owner(&claimant(&fetched.key, &fetched.vm), &others)
}

fn claimant(key: &Key, vm: &ProtectedVirtualMachine) -> Claimant {
    Claimant {
        created: vm
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MAX, |created| created.0),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// Whether no resource of this UID is left in the whole cluster: neither in the store nor, asked anew, at the API server.
async fn is_gone(context: &Context, uid: &str) -> Result<bool, ObserveError> {
    let watched = context
        .vms
        .store
        .find(|vm| kube::Resource::meta(vm).uid.as_deref() == Some(uid));
    if watched.is_some() {
        return Ok(false);
    }
    let api: Api<ProtectedVirtualMachine> = Api::all(context.client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = match context
            .within
            .call("list VMs of all namespaces", api.list_metadata(&page))
            .await
        {
            Ok(listed) => listed,
            // Without the right to list all namespaces nothing follows: a person names the claim that may be taken over.
            Err(error) if error.class() == crate::domain::ErrorClass::Denied => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if listed
            .items
            .iter()
            .any(|vm| vm.metadata.uid.as_deref() == Some(uid))
        {
            return Ok(false);
        }
        match listed.metadata.continue_ {
            Some(token) if !token.is_empty() => page = page.continue_token(&token),
            Some(_) | None => return Ok(true),
        }
    }
}
