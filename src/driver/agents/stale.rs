//! Whether a protection was made for what is there now: its replica, the peer's address, the interval, the VM's definition.

use super::look::{At, Look};
use crate::agent::api::{ProblemKind, Role, VmDefinition};
use crate::domain::Fact;

/// Why the protection must be set up anew.
pub(super) fn why(
    look: &Look,
    own: &At<'_>,
    passive: &Fact<At<'_>>,
    interval_seconds: u64,
) -> Option<String> {
    let replication = own.vm.replication.as_ref()?;
    // Only an owner at rest sends; in the middle of a move its orders come from the move.
    let rests = own.register().is_some_and(|own| {
        own.role == Role::Owner && (own.start.is_none() || own.commit.is_some())
    });
    if !rests {
        return None;
    }
    let peer = &replication.peer.host;
    let replica = match passive {
        Fact::Known(replica) if replica.register().is_some() => replica,
        Fact::Known(_) | Fact::Absent => {
            return Some(if look.hosts.iter().any(|host| host.name == *peer) {
                format!("host {peer} has lost its replica")
            } else {
                format!("host {peer} is not of this vault any more")
            });
        }
        Fact::Unknown(_) => return None,
    };
    if replica.host.name != *peer {
        return Some(format!(
            "the replica is on host {}, not on {peer}",
            replica.host.name
        ));
    }
    let owner = replica.register().and_then(|there| there.owner.as_deref());
    if owner != Some(own.host.name.as_str()) {
        return Some(format!(
            "the replica on host {peer} takes data from {}, not from {}",
            owner.unwrap_or("nobody"),
            own.host.name
        ));
    }
    if replica.address() != replication.peer {
        return Some(format!("host {peer} has another address now"));
    }
    if replication.interval_seconds != interval_seconds {
        return Some(format!(
            "spec.agents.replicationInterval of the vault is {interval_seconds} s now"
        ));
    }
    // A definition that a person wrote there is not changed from afar (S14).
    if replica.vm.definition_written {
        return None;
    }
    let gone = replica
        .vm
        .problems
        .iter()
        .find(|problem| problem.kind == ProblemKind::DiskMissing);
    if let Some(gone) = gone {
        return Some(format!(
            "a disk of the replica on {peer} is gone: {}",
            gone.message
        ));
    }
    let (here, there) = (own.vm.definition.as_ref()?, replica.vm.definition.as_ref()?);
    differs(here, there)
        .map(|what| format!("{what} of the VM changed since the replica was made on {peer}"))
}

/// What of a definition is another than it was. Paths of disks and their sizes are each host's own affair.
fn differs(here: &VmDefinition, there: &VmDefinition) -> Option<&'static str> {
    let VmDefinition {
        uuid: _,
        name,
        cpus,
        memory_mib,
        disks,
        networks,
        boot,
        autostart: _,
    } = here;
    let ids = |disks: &[crate::agent::api::DiskDefinition]| {
        disks.iter().map(|disk| disk.id.clone()).collect::<Vec<_>>()
    };
    if *name != there.name {
        Some("the name")
    } else if *cpus != there.cpus {
        Some("the number of CPUs")
    } else if *memory_mib != there.memory_mib {
        Some("the memory")
    } else if ids(disks) != ids(&there.disks) {
        Some("the set of disks")
    } else if *networks != there.networks {
        Some("the network cards")
    } else if *boot != there.boot {
        Some("what it boots")
    } else {
        None
    }
}
