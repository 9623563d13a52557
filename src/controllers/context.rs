//! What every pass may use.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use kube::runtime::reflector::Store;
use kube::{Api, Client};

use super::announce::Announcer;
use super::backoff::Backoff;
use super::feed::Guarded;
use super::groups::Groups;
use super::hub::Hub;
use super::key::Key;
use super::kubernetes::Within;
use super::lease::LeadershipProof;
use super::recent::Recent;
use super::settings::Settings;
use super::unreadable::Unreadable;
use crate::api::{Failover, ProtectedVirtualMachine, RecoveryVault};
use crate::telemetry::Metrics;

/// What VMs can have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VmGroup {
    /// They name this vault.
    Vault(Key),
    /// They name this VM of this vault.
    Name(Key, String),
    /// They were seen to be this VM, whatever they name.
    Identity(String),
}

/// One kind of resource: what the watch told, and what was written since.
pub struct Resources<K: 'static>
where
    Guarded<K>: kube::runtime::reflector::Lookup,
    <Guarded<K> as kube::runtime::reflector::Lookup>::DynamicType: std::hash::Hash + Eq + Clone,
{
    /// What the watch told.
    pub store: Store<Guarded<K>>,
    /// What was written and the watch has not told of yet.
    pub recent: Arc<Recent<K>>,
    /// Failures in a row.
    pub backoff: Arc<Backoff>,
}

/// What every pass may use.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What can be set.
    pub settings: Settings,
    /// Each call of the API server gets this long.
    pub within: Within,
    /// Shows that this replica may act; every effect checks it right before.
    pub proof: LeadershipProof,
    /// Identity of the cluster: the UID of its namespace `kube-system`.
    pub cluster: String,
    /// What was last seen of each vault.
    pub hub: Arc<Hub>,
    /// Vaults.
    pub vaults: Resources<RecoveryVault>,
    /// VMs.
    pub vms: Resources<ProtectedVirtualMachine>,
    /// Failovers.
    pub failovers: Resources<Failover>,
    /// VMs by what they have in common.
    pub vm_groups: Arc<Groups<VmGroup>>,
    /// Failovers by the UID of their VM.
    pub failover_groups: Arc<Groups<String>>,
    /// Where passes over Failovers are asked for.
    pub wake_failover: UnboundedSender<Key>,
    /// Events.
    pub announcer: Announcer,
    /// Resources that cannot be read.
    pub unreadable: Unreadable,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Vaults of a namespace.
    pub fn vault_api(&self, namespace: &str) -> Api<RecoveryVault> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// VMs of a namespace.
    pub fn vm_api(&self, namespace: &str) -> Api<ProtectedVirtualMachine> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Failovers of a namespace.
    pub fn failover_api(&self, namespace: &str) -> Api<Failover> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

macro_rules! newest {
    ($kind:ty) => {
        impl Resources<$kind> {
            /// The newest that is known of a resource; none when it is not there or cannot be read.
            pub fn newest(&self, key: &Key) -> Option<Arc<$kind>> {
                let watched = super::feed::find(&self.store, key)
                    .and_then(|guarded| guarded.0.as_ref().ok().cloned().map(Arc::new));
                self.recent.newer(key, watched)
            }
        }
    };
}

newest!(RecoveryVault);
newest!(ProtectedVirtualMachine);
newest!(Failover);
