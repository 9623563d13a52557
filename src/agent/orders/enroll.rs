//! Enroll: this host becomes the passive one.

use std::sync::Arc;

use super::fence;
use crate::agent::api::{Boot, OperationError, OrderResult, Refusal, RefusalKind, VmDefinition};
use crate::agent::definitions::{self, refusal};
use crate::agent::growth::{self, Promise};
use crate::agent::host::{Host, Vm, Work, blocking};
use crate::agent::last_disks;

/// Room, networks, boot profile and shape, before anything is changed. The room is promised.
pub(super) async fn check(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    arriving: &VmDefinition,
) -> Result<Promise, Refusal> {
    for network in &arriving.networks {
        if !host.config.networks.contains(&network.name) {
            let message = format!(
                "this host has no network {}: make one of that name and list it under `networks` in the agent's configuration",
                network.name
            );
            return Err(refusal(RefusalKind::NoNetwork, message));
        }
    }
    if let Boot::Profile { name, .. } = &arriving.boot
        && !host.config.boots.contains_key(name)
    {
        let message = format!(
            "this host has no boot profile {name}: name it under `boots` in the agent's configuration"
        );
        return Err(refusal(RefusalKind::NoBootProfile, message));
    }
    let known = host.definitions.get(vm.uuid);
    if host.definitions.is_written(vm.uuid)
        && let Some(known) = &known
    {
        // A person's definition is not changed from afar (S14).
        let same = known.disks.len() == arriving.disks.len()
            && arriving
                .disks
                .iter()
                .all(|disk| known.disks.iter().any(|here| here.id == disk.id));
        if !same {
            let message = "the disks in this host's definition file are not those of the owner; change the file in definitionsDir";
            return Err(refusal(RefusalKind::DisksDiffer, message));
        }
    }
    let placed = definitions::placed(arriving, known.as_ref(), &host.config.storage_dir);
    let (looking, disks) = (Arc::clone(host), placed.clone());
    let shared = tokio::task::spawn_blocking(move || looking.definitions.shared(&disks)).await;
    let shared = shared.map_err(|failed| refusal(RefusalKind::Storage, failed.to_string()))?;
    // What arrives would be written over what another VM has.
    if let Some(message) = shared {
        return Err(refusal(RefusalKind::DisksDiffer, message));
    }
    growth::promise(host, vm, placed).await
}

pub(super) async fn enroll(
    work: &Work,
    arriving: VmDefinition,
) -> Result<OrderResult, OperationError> {
    let (host, vm) = (Arc::clone(&work.host), Arc::clone(&work.vm));
    let known = host.definitions.get(vm.uuid);
    let placed = definitions::placed(&arriving, known.as_ref(), &host.config.storage_dir);
    let missing: Vec<_> = placed
        .disks
        .iter()
        .filter(|disk| !disk.path.exists())
        .map(|disk| disk.id.clone())
        .collect();
    let places = |definition: &VmDefinition| -> std::collections::BTreeMap<_, _> {
        let disks = definition.disks.iter();
        disks
            .map(|disk| (disk.id.clone(), disk.path.clone()))
            .collect()
    };
    if known
        .as_ref()
        .is_some_and(|known| places(known) != places(&placed))
    {
        // S10, S14: a pass that broke off is undone with the disks that it wrote to, while they are still known.
        fence::undo(work).await?;
        work.place("undone").await;
    }
    {
        let (host, placed) = (Arc::clone(&host), placed.clone());
        blocking(move || {
            for folder in placed.disks.iter().filter_map(|disk| disk.path.parent()) {
                std::fs::create_dir_all(folder).map_err(|failed| {
                    crate::agent::host::error(
                        crate::agent::api::OperationErrorKind::Storage,
                        format!("{}: {failed}", folder.display()),
                    )
                })?;
            }
            if !host.definitions.is_written(placed.uuid) {
                host.definitions.keep(&host.store, placed)?;
            }
            Ok(())
        })
        .await?;
    }
    last_disks::forget(&host, &vm).await;
    work.place("defined").await;
    let volume = host.volume(&vm).await?;
    if !missing.is_empty() {
        // Whoever sends holds the disks until they are told to let go.
        let gate = Arc::clone(&volume.gate);
        // Only what is made here is known to be new (S16).
        let made = volume
            .with_closed(move || gate.close_all(), |set| Ok(set.create_missing()?))
            .await;
        volume.gate.reopen();
        made?;
    }
    let (_, guest) = host.guest(vm.uuid)?;
    {
        let host = Arc::clone(&host);
        blocking(move || Ok(host.hypervisor.check(&guest)?)).await?;
    }
    Ok(OrderResult::Enrolled { created: missing })
}
