//! What every host said, and which of them speaks for a VM at its site.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::AgentsHost;
use crate::agent::api::{HostState, PeerAddress, Register, Role, VmState};
use crate::api::Site;
use crate::domain::Fact;

/// One host in a look.
#[derive(Clone, Debug)]
pub(super) struct HostSight {
    pub name: String,
    pub site: Site,
    /// URL of its control API.
    pub control: String,
    pub last_heartbeat: Option<Timestamp>,
    /// What it said when it last said anything, this look included.
    pub before: Option<Arc<HostState>>,
    /// What it says, or why it says nothing.
    pub state: Result<Arc<HostState>, String>,
}

/// One look at all hosts.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub hosts: Vec<HostSight>,
}

/// The host that speaks for a VM at a site, and what it says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub host: &'a HostSight,
    pub state: &'a HostState,
    pub vm: &'a VmState,
}

impl At<'_> {
    pub fn register(&self) -> Option<&Register> {
        self.vm.register.as_ref()
    }

    pub fn address(&self) -> PeerAddress {
        address(self.host, self.state)
    }
}

pub(super) fn address(host: &HostSight, state: &HostState) -> PeerAddress {
    PeerAddress {
        host: host.name.clone(),
        control: host.control.clone(),
        data: state.data_address.clone(),
    }
}

/// An agent that answers in another's place would make one site speak for the other.
pub(super) fn check_identity(host: &AgentsHost, state: HostState) -> Result<HostState, String> {
    if state.host == host.name && state.site == host.site {
        return Ok(state);
    }
    Err(format!(
        "{} answers as host {} in {}, not as {} in {}: correct the vault's hosts or the agent's configuration",
        host.client.url(),
        state.host,
        state.site,
        host.name,
        host.site
    ))
}

impl Look {
    /// The VMs that any host that answers knows: identity and name.
    pub fn vms(&self) -> BTreeSet<(String, Uuid)> {
        self.hosts
            .iter()
            .filter_map(|host| host.state.as_ref().ok())
            .flat_map(|state| state.vms.iter().map(|vm| (vm.name.clone(), vm.uuid)))
            .collect()
    }

    /// All that the hosts of a site that answer know of a VM.
    pub fn all_at(&self, site: Site, vm: Uuid) -> impl Iterator<Item = At<'_>> {
        self.hosts
            .iter()
            .filter(move |host| host.site == site)
            .filter_map(move |host| {
                let state = host.state.as_ref().ok()?;
                let vm = state.vms.iter().find(|known| known.uuid == vm)?;
                Some(At { host, state, vm })
            })
    }

    /// Who speaks for the VM at a site: the host that may run it or was fenced last, else the newest replica, else one that has
    /// its definition. Other hosts keep tombstones (S4).
    pub fn at(&self, site: Site, vm: Uuid) -> Fact<At<'_>> {
        if let Some(why) = self.silent(site, vm) {
            return Fact::Unknown(why);
        }
        self.all_at(site, vm)
            .max_by_key(|at| {
                at.register().map(|register| {
                    let holds = register.role != Role::Replica;
                    (holds, register.id())
                })
            })
            .map_or(Fact::Absent, Fact::Known)
    }

    /// S7: why the site cannot be told of: a host is silent that knew the VM, or that was never heard of.
    fn silent(&self, site: Site, vm: Uuid) -> Option<String> {
        self.hosts
            .iter()
            .filter(|host| host.site == site)
            .find_map(|host| {
                let why = host.state.as_ref().err()?;
                let knew = host
                    .before
                    .as_ref()
                    .is_none_or(|state| state.vms.iter().any(|known| known.uuid == vm));
                knew.then(|| format!("host {} in {site}: {why}", host.name))
            })
    }

    /// Hosts of a site that answer, in the order of the vault.
    pub fn answering(&self, site: Site) -> impl Iterator<Item = (&HostSight, &HostState)> {
        self.hosts
            .iter()
            .filter(move |host| host.site == site)
            .filter_map(|host| Some((host, host.state.as_ref().ok()?.as_ref())))
    }
}
