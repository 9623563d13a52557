//! What a person must mend, and what it holds: the VM as a whole, or its protection and its moves.

use super::look::{At, Look};
use crate::agent::api::{HostState, Problem, ProblemKind, Role};
use crate::api::Site;
use crate::domain::{BySite, Fact};

/// What holds everything, being taken on included.
pub(super) fn of_the_vm(sides: &BySite<Fact<At<'_>>>) -> Vec<String> {
    problems(sides, |kind| {
        matches!(
            kind,
            ProblemKind::Autostart | ProblemKind::Storage | ProblemKind::RunsWithoutRight
        )
    })
}

/// What holds protection and moves; the VM runs where it is without that.
pub(super) fn of_its_protection(
    look: &Look,
    sides: &BySite<Fact<At<'_>>>,
    active: Option<Site>,
    passive: &Fact<At<'_>>,
) -> Vec<String> {
    let mut found = problems(sides, |kind| {
        matches!(kind, ProblemKind::Disk | ProblemKind::Definition)
    });
    // Where nobody wrote the replica's definition, a disk of it that is gone is made again.
    found.extend(
        Site::BOTH
            .into_iter()
            .filter_map(|site| sides[site].known())
            .flat_map(|at| {
                let gone = at.vm.problems.iter().filter(|problem| {
                    problem.kind == ProblemKind::DiskMissing && !is_made_again(at)
                });
                gone.map(|problem| format!("{}: {}", at.host.name, problem.message))
            }),
    );
    let Some((site, own)) = active.and_then(|site| Some((site, sides[site].known()?))) else {
        return found;
    };
    match passive {
        Fact::Known(replica) if replica.register().is_some() => {
            found.extend(of_a_replica(own, replica));
            found.extend(
                no_hypervisor(replica.state).map(|why| format!("{}: {why}", replica.host.name)),
            );
        }
        Fact::Absent | Fact::Known(_) => {
            let reasons: Vec<String> = look
                .answering(site.other())
                .map(|(host, state)| match takes(own, state) {
                    Ok(()) => String::new(),
                    Err(why) => format!("{}: {why}", host.name),
                })
                .collect();
            if !reasons.is_empty() && reasons.iter().all(|why| !why.is_empty()) {
                found.push(format!(
                    "no host in {} can take the VM: {}",
                    site.other(),
                    reasons.join("; ")
                ));
            }
        }
        Fact::Unknown(_) => {}
    }
    found
}

fn problems(sides: &BySite<Fact<At<'_>>>, hinders: impl Fn(ProblemKind) -> bool) -> Vec<String> {
    Site::BOTH
        .into_iter()
        .filter_map(|site| sides[site].known())
        .flat_map(|at| {
            at.vm
                .problems
                .iter()
                .filter(|problem| hinders(problem.kind))
                .map(|problem| format!("{}: {}", at.host.name, problem.message))
        })
        .collect()
}

/// What stands in the way of a full download: it goes into new files beside the replica's disks, which stay until it is whole (S10).
pub(super) fn of_a_full_download(
    sides: &BySite<Fact<At<'_>>>,
    active: Option<Site>,
    passive: &Fact<At<'_>>,
) -> Vec<String> {
    let (Some(own), Some(replica)) = (
        active.and_then(|site| sides[site].known()),
        passive.known().filter(|at| at.register().is_some()),
    ) else {
        return Vec::new();
    };
    let mut found: Vec<String> = replica
        .vm
        .devices
        .iter()
        .map(|disk| {
            format!(
                "disk {disk} on {} is a block device, which a full download cannot swap for a new file: use a file there",
                replica.host.name
            )
        })
        .collect();
    if let Err(why) = has_room(own, replica.state) {
        found.push(format!(
            "{}: a full download keeps the replica's disks until it is whole: {why}",
            replica.host.name
        ));
    }
    found
}

/// S14: seen here, a disk without a target holds the move before the fence.
fn of_a_replica(own: &At<'_>, replica: &At<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for disk in &own.vm.disks {
        let there = replica.vm.disks.iter().find(|there| there.id == disk.id);
        match there {
            Some(there)
                if replica.vm.devices.contains(&disk.id)
                    && there.size_bytes != disk.size_bytes =>
            {
                found.push(format!(
                    "disk {} has {} bytes on {} and is a block device of {} bytes on {}: both must have the same size",
                    disk.id, disk.size_bytes, own.host.name, there.size_bytes, replica.host.name
                ));
            }
            // A pass makes a file as large as it has to be.
            Some(_) => {}
            // Where nobody wrote the replica's definition, it is enrolled anew with this disk.
            None if !replica.vm.definition_written => {}
            None => found.push(format!(
                "disk {} of {} has no disk to go to on {}: put one of that id into the VM's file in definitionsDir there, or take it out of the VM",
                disk.id, own.host.name, replica.host.name
            )),
        }
    }
    if replica.vm.definition_written {
        for disk in &replica.vm.disks {
            if !own.vm.disks.iter().any(|here| here.id == disk.id) {
                found.push(format!(
                    "disk {} of the replica on {} is not a disk of the VM on {}: take it out of the VM's file in definitionsDir on {}",
                    disk.id, replica.host.name, own.host.name, replica.host.name
                ));
            }
        }
    }
    if let Some(why) = missing_network(own, &replica.state.networks) {
        found.push(format!("{}: {why}", replica.host.name));
    }
    found
}

/// Whether a disk of this host that is gone is made again by enrolling the VM there anew.
pub(super) fn is_made_again(at: &At<'_>) -> bool {
    let replica = at.register().is_some_and(|own| own.role == Role::Replica);
    replica && !at.vm.definition_written
}

/// Why a host could start no guest.
fn no_hypervisor(state: &HostState) -> Option<String> {
    let problem = |problem: &&Problem| problem.kind == ProblemKind::Hypervisor;
    let found = state.problems.iter().find(problem)?;
    Some(format!("it could not start the VM: {}", found.message))
}

/// Whether a host without a replica could have one.
pub(super) fn takes(own: &At<'_>, state: &HostState) -> Result<(), String> {
    no_hypervisor(state).map_or(Ok(()), Err)?;
    has_room(own, state)?;
    missing_network(own, &state.networks).map_or(Ok(()), Err)
}

fn has_room(own: &At<'_>, state: &HostState) -> Result<(), String> {
    let needed: u64 = own.vm.disks.iter().map(|disk| disk.size_bytes).sum();
    if needed > state.free_bytes {
        return Err(format!(
            "{} are needed and about {} can be had: make room",
            binary(needed, needed),
            binary(roughly(state.free_bytes), needed)
        ));
    }
    Ok(())
}

/// What is free changes with every write of a guest; what is said of it, and stands in a status, changes seldom: two figures, rounded down.
fn roughly(bytes: u64) -> u64 {
    let mut unit = 1;
    while bytes / unit >= 100 {
        unit *= 10;
    }
    bytes / unit * unit
}

/// In GiB or MiB where `scale` is so large, with one decimal, rounded down.
fn binary(bytes: u64, scale: u64) -> String {
    let (unit, name) = match scale {
        0x4000_0000.. => (1 << 30, "GiB"),
        0x10_0000.. => (1 << 20, "MiB"),
        _ => return format!("{bytes} bytes"),
    };
    format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
}

fn missing_network(own: &At<'_>, networks: &[String]) -> Option<String> {
    let definition = own.vm.definition.as_ref()?;
    let missing = definition
        .networks
        .iter()
        .find(|network| !networks.contains(&network.name))?;
    Some(format!(
        "it has no network named {}: make one, or name it in the agent's configuration",
        missing.name
    ))
}

#[cfg(test)]
#[path = "obstacles_tests.rs"]
mod tests;
