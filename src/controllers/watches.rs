//! The watches of a term: what each change of a resource wakes, and what is forgotten with it.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::context::{Resources, VmGroup};
use super::feed::{Touch, Watched, feed};
use super::groups::Groups;
use super::hub::Hub;
use super::key::Key;
use super::recent::Recent;
use super::vaults;
use crate::api::{Failover, ProtectedVirtualMachine, RecoveryVault};
use crate::telemetry::{Health, Metrics};

/// Where passes are asked for. The receivers are gone only while a term ends.
#[derive(Clone)]
pub(super) struct Wakes {
    pub(super) vaults: UnboundedSender<Key>,
    pub(super) vms: UnboundedSender<Key>,
    pub(super) failovers: UnboundedSender<Key>,
}

impl Wakes {
    fn vault(&self, key: &Key) {
        let _ = self.vaults.unbounded_send(key.clone());
    }

    fn vm(&self, key: &Key) {
        let _ = self.vms.unbounded_send(key.clone());
    }

    fn failover(&self, key: &Key) {
        let _ = self.failovers.unbounded_send(key.clone());
    }
}

/// What the watches of a term need.
pub(super) struct Watches {
    pub client: Client,
    /// Namespaces that are watched; none means all.
    pub namespaces: Vec<String>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub hub: Arc<Hub>,
    pub lookers: Arc<vaults::Lookers>,
    pub wakes: Wakes,
    /// Ends them.
    pub stop: CancellationToken,
}

impl Watches {
    /// Watches a kind. What is remembered of a resource by itself goes with it.
    fn watch<K: Watched>(
        &self,
        part: &'static str,
        touched: impl Fn(Touch<'_, K>) + Send + 'static,
    ) -> Resources<K> {
        let recent: Arc<Recent<K>> = Arc::default();
        let backoff: Arc<Backoff> = Arc::default();
        let (forget, passed) = (recent.clone(), backoff.clone());
        let store = feed(
            &self.client,
            &self.namespaces,
            (self.health.clone(), part),
            self.stop.child_token(),
            move |touch: Touch<'_, K>| {
                if let Touch::Gone(key) = &touch {
                    forget.forget(key);
                    passed.clear(key);
                }
                touched(touch);
            },
        );
        Resources {
            store,
            recent,
            backoff,
        }
    }

    /// Of vaults.
    pub(super) fn vaults(&self, groups: &Arc<Groups<VmGroup>>) -> Resources<RecoveryVault> {
        let (wakes, hub, lookers) = (self.wakes.clone(), self.hub.clone(), self.lookers.clone());
        let groups = groups.clone();
        self.watch(
            "watch of vaults",
            move |touch: Touch<'_, RecoveryVault>| match touch {
                Touch::Changed(key, guarded) => {
                    wakes.vault(key);
                    if kube::Resource::meta(guarded).deletion_timestamp.is_some() {
                        // Those that wait for a vault that nobody can look at need not wait for this one.
                        for vm in groups.members(&VmGroup::Vault(key.clone())) {
                            wakes.vm(&vm);
                        }
                    }
                }
                Touch::Gone(key) => {
                    lookers.end(key);
                    // Its VMs are told, also when somebody took its finalizer off.
                    hub.withdraw(key, None);
                }
            },
        )
    }

    /// Of virtual machines.
    pub(super) fn vms(&self, groups: &Arc<Groups<VmGroup>>) -> Resources<ProtectedVirtualMachine> {
        let (wakes, hub) = (self.wakes.clone(), self.hub.clone());
        let (groups, metrics) = (groups.clone(), self.metrics.clone());
        self.watch(
            "watch of virtual machines",
            move |touch: Touch<'_, ProtectedVirtualMachine>| match touch {
                Touch::Changed(key, guarded) => {
                    if let Ok(vm) = &guarded.0 {
                        groups.set(key, vm_groups(key, vm));
                    }
                    wakes.vm(key);
                }
                Touch::Gone(key) => {
                    hub.forget(key);
                    metrics.fleet.forget(&key.namespace, &key.name);
                    // Who waited for this one to be gone: another claimant, or the vault.
                    for other in groups.remove(key) {
                        wakes.vm(&other);
                    }
                    for vault in hub.vaults(&key.namespace) {
                        wakes.vault(&vault);
                    }
                }
            },
        )
    }

    /// Of Failovers.
    pub(super) fn failovers(&self, groups: &Arc<Groups<String>>) -> Resources<Failover> {
        let (wakes, groups) = (self.wakes.clone(), groups.clone());
        self.watch(
            "watch of failovers",
            move |touch: Touch<'_, Failover>| match touch {
                Touch::Changed(key, guarded) => {
                    if let Ok(failover) = &guarded.0 {
                        let vm = &failover.spec.virtual_machine;
                        groups.set(key, vec![vm.uid.clone()]);
                        wakes.vm(&Key::new(&key.namespace, &vm.name));
                    } else if let Some((vm, _)) = key.name.rsplit_once('-') {
                        // What it holds cannot be read; a VM whose move it is says so.
                        wakes.vm(&Key::new(&key.namespace, vm));
                    }
                    wakes.failover(key);
                }
                Touch::Gone(key) => {
                    groups.remove(key);
                    if let Some((vm, _)) = key.name.rsplit_once('-') {
                        wakes.vm(&Key::new(&key.namespace, vm));
                    }
                }
            },
        )
    }
}

fn vm_groups(key: &Key, vm: &ProtectedVirtualMachine) -> Vec<VmGroup> {
    let vault = Key::new(&key.namespace, &vm.spec.vault_ref.name);
    let name = vm
        .spec
        .virtual_machine_name
        .clone()
        .unwrap_or_else(|| key.name.clone());
    let identity = vm
        .status
        .as_ref()
        .and_then(|status| status.virtual_machine_id.clone());
    let mut groups = vec![VmGroup::Vault(vault.clone()), VmGroup::Name(vault, name)];
    groups.extend(identity.map(VmGroup::Identity));
    groups
}
