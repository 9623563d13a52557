//! What the vault holds at first: fabrics with their hosts and VMs, recovery plans, and who may ask.

use serde::{Deserialize, Serialize};

use crate::ids::named;

/// Where the vault is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vault {
    /// The subscription's id.
    pub subscription: String,
    /// The resource group's name.
    pub resource_group: String,
    /// The vault's name.
    pub name: String,
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            subscription: "5b0e7a3c-1111-4222-8333-944445555666".into(),
            resource_group: "homeward-rg".into(),
            name: "homeward-vault".into(),
        }
    }
}

impl Vault {
    /// The path of the vault, as a client writes it.
    #[must_use]
    pub fn path(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.RecoveryServices/vaults/{}",
            self.subscription, self.resource_group, self.name
        )
    }

    /// The id of the vault, as the service writes it.
    #[must_use]
    pub fn id(&self) -> String {
        self.path().replacen("/subscriptions", "/Subscriptions", 1)
    }
}

/// The two kinds of Hyper-V site the service knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FabricKind {
    /// Hosts without a management server, each with its own provider.
    HyperVSite,
    /// Hosts of one management server, which has the only provider.
    #[serde(rename = "VMM")]
    Vmm,
}

impl FabricKind {
    /// The service's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::HyperVSite => "HyperVSite",
            Self::Vmm => "VMM",
        }
    }
}

/// A VM of the seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SeedVm {
    /// The VM's name.
    pub name: String,
    /// The VM's GUID on its host; made of the name when empty.
    pub id: String,
    /// The protected item's name; the VM's GUID when empty.
    pub item: String,
    /// The host it runs on, by its place in the fabric's list.
    pub host: usize,
    /// `Windows` or `Linux`.
    pub os_type: String,
    /// 1 or 2.
    pub generation: u8,
    /// Sizes of its disks, in megabytes; the first one is the system's.
    pub disks: Vec<u64>,
    /// Whether a failover needs the management server's encryption key.
    pub encrypted: bool,
    /// Whether the service replicates it.
    pub protected: bool,
}

impl Default for SeedVm {
    fn default() -> Self {
        Self {
            name: String::new(),
            id: String::new(),
            item: String::new(),
            host: 0,
            os_type: "Windows".into(),
            generation: 2,
            disks: vec![40_960],
            encrypted: false,
            protected: true,
        }
    }
}

impl SeedVm {
    /// A protected VM with one disk.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The VM's GUID.
    #[must_use]
    pub fn vm_id(&self) -> String {
        if self.id.is_empty() {
            named("vm", &self.name)
        } else {
            self.id.clone()
        }
    }

    /// The name of its protected item.
    #[must_use]
    pub fn item_name(&self) -> String {
        if self.item.is_empty() {
            self.vm_id()
        } else {
            self.item.clone()
        }
    }
}

/// A fabric of the seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeedFabric {
    /// The fabric's name.
    pub name: String,
    /// Its kind.
    pub kind: FabricKind,
    /// Its hosts; a management server's fabric has one provider, named for the first entry.
    pub hosts: Vec<String>,
    /// Its VMs.
    #[serde(default)]
    pub vms: Vec<SeedVm>,
}

impl SeedFabric {
    /// The name of the fabric's only container.
    #[must_use]
    pub fn container(&self) -> String {
        format!("cloud_{}", named("container", &self.name))
    }

    /// The name of the provider on the host of that place in the list.
    #[must_use]
    pub fn provider(&self, host: usize) -> String {
        let host = match self.kind {
            FabricKind::HyperVSite => self.hosts.get(host),
            FabricKind::Vmm => self.hosts.first(),
        };
        named("provider", host.map_or("none", String::as_str))
    }
}

/// A recovery plan of the seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeedPlan {
    /// The plan's name.
    pub name: String,
    /// The names of its VMs, group by group.
    pub groups: Vec<Vec<String>>,
}

/// Somebody who may ask for a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Principal {
    /// The application's id.
    pub client_id: String,
    /// The object's id, named in refusals.
    pub object_id: String,
    /// Secrets that are right.
    pub secrets: Vec<String>,
    /// Certificates, in PEM, with which an assertion may be signed.
    pub certificates: Vec<String>,
    /// Federated tokens that are right, as they stand.
    pub federated_tokens: Vec<String>,
    /// Actions that are granted; `*` stands for any text.
    pub actions: Vec<String>,
    /// Actions that are taken away again.
    pub not_actions: Vec<String>,
}

impl Default for Principal {
    fn default() -> Self {
        Self {
            client_id: "0c1e0a4e-aaaa-4bbb-8ccc-1dddd2eeee3f".into(),
            object_id: "7d2f4b6a-9999-4888-8777-066665555444".into(),
            secrets: vec!["emulated-secret".into()],
            certificates: Vec::new(),
            federated_tokens: Vec::new(),
            actions: vec!["*".into()],
            not_actions: Vec::new(),
        }
    }
}

/// What the vault holds at first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Seed {
    /// From this every id is made.
    pub ids: u64,
    /// The tenant whose token endpoint is served.
    pub tenant: String,
    /// Who may ask.
    pub principals: Vec<Principal>,
    /// Where the vault is.
    pub vault: Vault,
    /// Its fabrics.
    pub fabrics: Vec<SeedFabric>,
    /// Its recovery plans.
    pub plans: Vec<SeedPlan>,
}

impl Default for Seed {
    fn default() -> Self {
        Self {
            ids: 1,
            tenant: "9f8e7d6c-5b4a-4321-8fed-cba987654321".into(),
            principals: vec![Principal::default()],
            vault: Vault::default(),
            fabrics: Vec::new(),
            plans: Vec::new(),
        }
    }
}

impl Seed {
    /// One fabric of that kind with two hosts, and VMs `vm-1`, `vm-2`, ... spread over them.
    #[must_use]
    pub fn of(kind: FabricKind, vms: usize) -> Self {
        let mut seed = Self::default();
        let (name, hosts) = match kind {
            FabricKind::HyperVSite => ("site-1", ["hv-1.example.test", "hv-2.example.test"]),
            FabricKind::Vmm => ("vmm-1", ["vmm-1.example.test", "hv-1.example.test"]),
        };
        seed.fabrics.push(SeedFabric {
            name: name.into(),
            kind,
            hosts: hosts.map(String::from).to_vec(),
            vms: (1..=vms)
                .map(|number| SeedVm {
                    host: (number - 1) % 2,
                    ..SeedVm::named(&format!("vm-{number}"))
                })
                .collect(),
        });
        seed
    }

    /// With one more plan: the names of its VMs, group by group.
    #[must_use]
    pub fn plan(mut self, name: &str, groups: &[&[&str]]) -> Self {
        let words = |group: &&[&str]| group.iter().map(ToString::to_string).collect();
        self.plans.push(SeedPlan {
            name: name.into(),
            groups: groups.iter().map(words).collect(),
        });
        self
    }
}
