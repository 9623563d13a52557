//! Everything the emulator remembers over a restart, and how it is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::faults::{Held, JobFailure, OperationWarning, Rule};
use crate::ids::Ids;
use crate::item::{Item, Phase, Point, TestState};
use crate::jobs::{Job, Operation};
use crate::seed::{FabricKind, Principal, Seed, SeedFabric, SeedVm, Vault};
use crate::world::{Copy, Machine, Violation};

/// A provider: the service's agent on a host or on a management server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Provider {
    pub(crate) name: String,
    pub(crate) host: String,
    /// Since when it has been silent.
    pub(crate) silent_since: Option<Timestamp>,
    /// The service has not noticed that yet, and goes on calling it connected.
    pub(crate) silence_unnoticed: bool,
}

/// A fabric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fabric {
    pub(crate) name: String,
    pub(crate) kind: FabricKind,
    pub(crate) container: String,
    pub(crate) providers: Vec<Provider>,
    pub(crate) hosts: Vec<String>,
}

impl Fabric {
    pub(crate) fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers
            .iter()
            .find(|provider| provider.name.eq_ignore_ascii_case(name))
    }
}

/// A recovery plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) fabric: String,
    /// Keys of items, group by group.
    pub(crate) groups: Vec<Vec<String>>,
    /// Its last job, by its place in the list.
    pub(crate) last_job: Option<usize>,
    pub(crate) last_planned: Option<Timestamp>,
    pub(crate) last_unplanned: Option<Timestamp>,
}

impl Plan {
    pub(crate) fn members(&self) -> Vec<String> {
        self.groups.iter().flatten().cloned().collect()
    }
}

/// An access token that was given out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) client_id: String,
    pub(crate) expires: Timestamp,
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) ids: Ids,
    pub(crate) tenant: String,
    pub(crate) vault: Vault,
    pub(crate) principals: Vec<Principal>,
    pub(crate) fabrics: BTreeMap<String, Fabric>,
    /// By `fabric/container/item` in lower case.
    pub(crate) items: BTreeMap<String, Item>,
    /// By GUID.
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) plans: BTreeMap<String, Plan>,
    /// In the order in which they were made.
    pub(crate) jobs: Vec<Job>,
    /// By operation id.
    pub(crate) operations: BTreeMap<String, Operation>,
    /// When each job that goes on by itself has its next event.
    pub(crate) due: BTreeSet<(Timestamp, usize)>,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) failures: Vec<JobFailure>,
    pub(crate) warnings: Vec<OperationWarning>,
    pub(crate) held: Vec<Held>,
    pub(crate) held_count: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) time: Timestamp,
    #[serde(skip)]
    pub(crate) job_places: HashMap<String, usize>,
}

/// The key of an item.
pub(crate) fn item_key(fabric: &str, container: &str, item: &str) -> String {
    format!("{fabric}/{container}/{item}").to_ascii_lowercase()
}

impl State {
    pub(crate) fn new(seed: &Seed, now: Timestamp) -> Self {
        let mut state = Self {
            ids: Ids::new(seed.ids),
            tenant: seed.tenant.clone(),
            vault: seed.vault.clone(),
            principals: seed.principals.clone(),
            fabrics: BTreeMap::new(),
            items: BTreeMap::new(),
            machines: BTreeMap::new(),
            plans: BTreeMap::new(),
            jobs: Vec::new(),
            operations: BTreeMap::new(),
            due: BTreeSet::new(),
            tokens: BTreeMap::new(),
            rules: Vec::new(),
            failures: Vec::new(),
            warnings: Vec::new(),
            held: Vec::new(),
            held_count: 0,
            violations: Vec::new(),
            time: now,
            job_places: HashMap::new(),
        };
        for fabric in &seed.fabrics {
            state.add_fabric(fabric, now);
        }
        for plan in &seed.plans {
            let key = |name: &String| {
                let wanted = |item: &(&String, &Item)| {
                    state.machines[&item.1.vm].name.eq_ignore_ascii_case(name)
                };
                state.items.iter().find(wanted).map(|(key, _)| key.clone())
            };
            let groups: Vec<Vec<String>> = plan
                .groups
                .iter()
                .map(|group| group.iter().filter_map(key).collect())
                .collect();
            let fabric = groups
                .iter()
                .flatten()
                .next()
                .map(|key| state.items[key].fabric.clone())
                .unwrap_or_default();
            let id = state.ids.next();
            state.plans.insert(
                plan.name.to_ascii_lowercase(),
                Plan {
                    name: plan.name.clone(),
                    id,
                    fabric,
                    groups,
                    last_job: None,
                    last_planned: None,
                    last_unplanned: None,
                },
            );
        }
        state
    }

    fn add_fabric(&mut self, seed: &SeedFabric, now: Timestamp) {
        let hosts = match seed.kind {
            FabricKind::HyperVSite => seed.hosts.len(),
            FabricKind::Vmm => 1,
        };
        let providers = (0..hosts)
            .map(|host| Provider {
                name: seed.provider(host),
                host: seed.hosts.get(host).cloned().unwrap_or_default(),
                silent_since: None,
                silence_unnoticed: false,
            })
            .collect();
        self.fabrics.insert(
            seed.name.to_ascii_lowercase(),
            Fabric {
                name: seed.name.clone(),
                kind: seed.kind,
                container: seed.container(),
                providers,
                hosts: seed.hosts.clone(),
            },
        );
        for vm in &seed.vms {
            self.add_vm(seed, vm, now);
        }
    }

    fn add_vm(&mut self, fabric: &SeedFabric, vm: &SeedVm, now: Timestamp) {
        let vm_id = vm.vm_id().to_ascii_lowercase();
        self.machines.insert(
            vm_id.clone(),
            Machine {
                vm_id: vm_id.clone(),
                name: vm.name.clone(),
                os_type: vm.os_type.clone(),
                generation: vm.generation,
                disks: vm.disks.clone(),
                fabric: fabric.name.clone(),
                container: fabric.container(),
                provider: fabric.provider(vm.host),
                host: fabric.hosts.get(vm.host).cloned().unwrap_or_default(),
                on_premises: Some(Copy {
                    running: true,
                    version: 1,
                    consistent: true,
                }),
                azure: None,
                test_vm: false,
                abandoned: 0,
                newest: 1,
            },
        );
        if !vm.protected {
            return;
        }
        let points = (1..=3)
            .map(|age| Point {
                name: self.ids.next(),
                at: now - SignedDuration::from_mins(5 * age),
                kind: if age == 2 {
                    "ApplicationConsistent".into()
                } else {
                    "CrashConsistent".into()
                },
            })
            .collect();
        self.items.insert(
            item_key(&fabric.name, &fabric.container(), &vm.item_name()),
            Item {
                name: vm.item_name(),
                fabric: fabric.name.clone(),
                container: fabric.container(),
                vm: vm_id,
                phase: Phase::Steady,
                test: TestState::None,
                current: None,
                encrypted: vm.encrypted,
                points,
                failover_point: None,
                last_failover: None,
                last_test: None,
                health: None,
            },
        );
    }

    /// Makes the indexes that are not written to the file.
    pub(crate) fn index(&mut self) {
        self.job_places = (self.jobs.iter().enumerate())
            .map(|(place, job)| (job.name.to_ascii_lowercase(), place))
            .collect();
    }

    pub(crate) fn fabric(&self, name: &str) -> Option<&Fabric> {
        self.fabrics.get(&name.to_ascii_lowercase())
    }

    pub(crate) fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.get(&name.to_ascii_lowercase())
    }

    /// The job of that name, or the one an operation of that id has made.
    pub(crate) fn job_place(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.job_places
            .get(&name)
            .copied()
            .or_else(|| self.operations.get(&name).map(|operation| operation.job))
    }

    /// The key of the item of that name, or of the VM of that name or GUID.
    pub(crate) fn find_item(&self, name: &str) -> Option<String> {
        self.items
            .iter()
            .find(|(key, item)| {
                key.eq_ignore_ascii_case(name)
                    || item.name.eq_ignore_ascii_case(name)
                    || item.vm.eq_ignore_ascii_case(name)
                    || (self.machines.get(&item.vm))
                        .is_some_and(|machine| machine.name.eq_ignore_ascii_case(name))
            })
            .map(|(key, _)| key.clone())
    }

    /// The VM of that name or GUID.
    pub(crate) fn find_machine(&self, name: &str) -> Option<&Machine> {
        self.machines.get(&name.to_ascii_lowercase()).or_else(|| {
            self.machines
                .values()
                .find(|machine| machine.name.eq_ignore_ascii_case(name))
        })
    }

    /// Whether the provider that answers for the item's VM is silent.
    pub(crate) fn silent(&self, item: &str) -> bool {
        let machine = self
            .items
            .get(item)
            .and_then(|item| self.machines.get(&item.vm));
        machine.is_some_and(|machine| {
            self.fabric(&machine.fabric)
                .and_then(|fabric| fabric.provider(&machine.provider))
                .is_none_or(|provider| provider.silent_since.is_some())
        })
    }
}
