//! What this host says about itself: read when it is asked, in one answer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use uuid::Uuid;

use super::api::{
    ContentKind, ContentState, HostState, Power, Problem, ProblemKind, Role, VmState,
};
use super::definitions::{odd_size, size_of};
use super::host::{Host, Vm, lock};
use super::hypervisor::FoundGuest;
use super::hypervisor::disk::DiskKind;
use super::orders;
use super::register;
use super::room;
use super::stray;
use crate::dataplane::io::room::Room;

/// How many VMs are asked at once.
const AT_ONCE: usize = 128;
/// How long one answer of a hypervisor or of a disk is waited for. What has not come by then is not known: one VM that hangs must not make
/// the whole host silent to those who ask it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The whole inventory, or that part of it which is about some VMs.
pub(crate) async fn read(host: &Arc<Host>, only: Option<Vec<Uuid>>) -> HostState {
    let (refreshed, storage) = (Arc::clone(host), host.config.storage_dir.clone());
    let free = host
        .probe
        .ask(PATIENCE, move || {
            refreshed.definitions.refresh();
            room::of(&storage)
        })
        .await
        .unwrap_or_else(|silent| {
            let folders = host.config.definitions_dir.iter();
            let folders: Vec<_> = folders
                .chain([&host.config.storage_dir])
                .map(|folder| folder.display().to_string())
                .collect();
            Err(format!("{}: {silent}", folders.join(" or ")))
        });
    let mut problems = host.definitions.problems();
    problems.extend(lock(&host.problems).iter().cloned());
    if let Err(unusable) = host.hypervisor.usable() {
        problems.push(Problem {
            kind: ProblemKind::Hypervisor,
            message: unusable.to_string(),
        });
    }
    let free_bytes = free.map_or_else(
        |message| {
            problems.push(Problem {
                kind: ProblemKind::Storage,
                message,
            });
            0
        },
        Room::spare,
    );
    let strays = match stray::look(host, PATIENCE).await {
        Ok(found) => found,
        Err(problem) => {
            problems.push(problem);
            Vec::new()
        }
    };
    problems.extend(strays.iter().map(stray::problem));
    let strays = stray::among(strays, only.as_deref());
    let asked = match only {
        None => host.vms(),
        Some(vms) => vms.into_iter().filter_map(|vm| host.known(vm)).collect(),
    };
    // A definition may have come since the look; the next one says so.
    let is_stray = |vm: &Arc<Vm>| strays.iter().any(|guest| guest.uuid == vm.uuid);
    let known = asked
        .into_iter()
        .filter(|vm| host.knows(vm.uuid) && !is_stray(vm));
    let known: Vec<_> = known.map(|vm| (vm, None)).collect();
    let strays = strays
        .into_iter()
        .map(|guest| (Arc::new(Vm::stranger(guest.uuid)), Some(guest)));
    let vms = futures::stream::iter(known.into_iter().chain(strays)).map(|(vm, stray)| {
        let host = Arc::clone(host);
        async move {
            let state = one(&host, &vm).await;
            match stray {
                None => state,
                Some(guest) => as_stray(state, &guest),
            }
        }
    });
    let mut vms: Vec<_> = vms.buffer_unordered(AT_ONCE).collect().await;
    vms.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
    HostState {
        host: host.config.host.clone(),
        site: host.config.site,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: host.boot_id.clone(),
        started_at: host.started_at,
        now: Timestamp::now(),
        data_address: host.config.data_address(),
        free_bytes,
        networks: host.config.networks.clone(),
        found: lock(&host.found).clone(),
        vms,
        problems,
    }
}

/// S3: the process was seen, whatever is said of its guest: this host has no right to it and knows nothing of its disks.
fn as_stray(state: VmState, guest: &FoundGuest) -> VmState {
    let pid = guest.pid;
    let seen = match state.power_reason {
        Some(why) => why,
        None => format!("process {pid} runs it, and this host knows no such VM"),
    };
    let power = match state.power {
        Power::Running | Power::Paused => state.power,
        Power::ShutDown | Power::Off | Power::Unknown => Power::Unknown,
    };
    VmState {
        name: stray::name(guest),
        power,
        power_reason: Some(seen),
        ..state
    }
}

async fn one(host: &Arc<Host>, vm: &Arc<Vm>) -> VmState {
    let mut problems = Vec::new();
    let definition = host.definitions.get(vm.uuid);
    let (power, power_reason) = tokio::time::timeout(PATIENCE, host.power(vm.uuid))
        .await
        .unwrap_or_else(|_| {
            let silent = format!(
                "the hypervisor has not answered for {} s",
                PATIENCE.as_secs()
            );
            (Power::Unknown, Some(silent))
        });
    // The register is read after the hypervisor: what it says may be newer than the power, never older.
    let register = vm.register();
    if let Some(message) = lock(&vm.damaged).clone() {
        problems.push(Problem {
            kind: ProblemKind::Register,
            message,
        });
    }
    if host.definitions.is_remembered(vm.uuid) {
        let unread: Vec<_> = host
            .definitions
            .problems()
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        let why = if unread.is_empty() {
            "is gone".to_owned()
        } else {
            format!("is gone or cannot be read ({})", unread.join("; "))
        };
        let message = format!(
            "the VM's file in definitionsDir {why}; what it said at the last order counts until it is mended"
        );
        problems.push(Problem {
            kind: ProblemKind::Definition,
            message,
        });
    }
    if definition
        .as_ref()
        .is_some_and(|definition| definition.autostart)
    {
        let message =
            "autostart is true; only the agent may start the VM: set it to false".to_owned();
        problems.push(Problem {
            kind: ProblemKind::Autostart,
            message,
        });
    }
    if matches!(power, Power::Running | Power::Paused) && orders::runs_without_right(vm) {
        let message = "the guest runs though this host's register gives it no right to. Before you stop anything: if this host was put back to an earlier state, or the other one does not run the VM, see the runbook on contradicting registers; else somebody started it by hand, and it is to be stopped the same way".to_owned();
        problems.push(Problem {
            kind: ProblemKind::RunsWithoutRight,
            message,
        });
    }
    if let Some(message) = super::keep_running::complaint(vm, power) {
        problems.push(Problem {
            kind: ProblemKind::NotStarted,
            message,
        });
    }
    let (mut disks, mut devices, mut hangs) = (Vec::new(), Vec::new(), false);
    if let Some(definition) = &definition {
        if let Some(message) = host.definitions.shared(definition) {
            problems.push(Problem {
                kind: ProblemKind::Definition,
                message,
            });
        }
        match super::definitions::guest(definition, &host.config) {
            Ok(guest) => {
                // What would break a start off is told of before anybody relies on it; the disks are asked below, with patience.
                let passive = register
                    .as_ref()
                    .is_some_and(|own| own.role == Role::Replica);
                let check = || host.hypervisor.suits(&guest).err();
                if let Some(wrong) = passive.then(check).flatten() {
                    problems.push(Problem {
                        kind: ProblemKind::Definition,
                        message: wrong.to_string(),
                    });
                }
                if let Some(message) = host.other_disks(vm, &guest).await.unwrap_or_default() {
                    problems.push(Problem {
                        kind: ProblemKind::Definition,
                        message,
                    });
                }
            }
            Err(wrong) => problems.push(Problem {
                kind: ProblemKind::Definition,
                message: wrong.message,
            }),
        }
        let list = definition.disks.clone();
        let shapes = vm
            .probe
            .ask(PATIENCE, move || {
                let measured = list.iter().map(|disk| {
                    let (shape, kind) =
                        size_of(disk).map_err(|message| (message, !disk.path.exists()))?;
                    match odd_size(disk, shape.size_bytes) {
                        Some(message) => Err((message, false)),
                        None => Ok((shape, kind)),
                    }
                });
                measured.collect()
            })
            .await
            .unwrap_or_else(|silent| {
                hangs = true;
                let paths = definition.disks.iter().map(|disk| disk.path.display());
                let paths: Vec<_> = paths.map(|path| path.to_string()).collect();
                vec![Err((format!("{}: {silent}", paths.join(" or ")), false))]
            });
        for shape in shapes {
            match shape {
                Ok((shape, kind)) => {
                    if kind == DiskKind::Device {
                        devices.push(shape.id.clone());
                    }
                    disks.push(shape);
                }
                Err((message, missing)) => problems.push(Problem {
                    kind: if missing {
                        ProblemKind::DiskMissing
                    } else {
                        ProblemKind::Disk
                    },
                    message,
                }),
            }
        }
    }
    let mut content = ContentState {
        kind: ContentKind::Unknown,
        roots: None,
        point: None,
        pass: None,
    };
    // Disks that do not answer are not opened.
    if register.is_some() && definition.is_some() && !hangs {
        match tokio::time::timeout(PATIENCE, host.volume(vm)).await {
            Ok(Ok(volume)) => content = volume.content(),
            Ok(Err(failed)) => problems.push(Problem {
                kind: ProblemKind::Storage,
                message: failed.message,
            }),
            // Whoever opens them now is waited for at the next look.
            Err(_) => {}
        }
    }
    // Disks that do not answer are not looked at in passing either.
    let dirty_bytes = if hangs {
        None
    } else {
        dirty_bytes(host, vm, power).await
    };
    VmState {
        uuid: vm.uuid,
        name: definition
            .as_ref()
            .map(|definition| definition.name.clone())
            .or_else(|| register.as_ref().map(|register| register.name.clone()))
            .unwrap_or_default(),
        dirty_bytes,
        written_since_start: register
            .as_ref()
            .filter(|register| register::uncommitted(register))
            .and_then(|_| vm.replication.kept().written(dirty_bytes)),
        operation: vm.operation(),
        replication: vm.replication.state(),
        definition_written: host.definitions.is_written(vm.uuid),
        definition,
        power,
        power_reason,
        disks,
        devices,
        register,
        content,
        problems,
    }
}

/// What the guest wrote since its generation began; None when that is not known now.
async fn dirty_bytes(host: &Arc<Host>, vm: &Arc<Vm>, power: Power) -> Option<u64> {
    let generation = vm.replication.kept().tracking?;
    if !matches!(power, Power::Running | Power::Paused | Power::ShutDown) {
        return None;
    }
    let (_, guest) = host.guest(vm.uuid).ok()?;
    tokio::time::timeout(PATIENCE, host.hypervisor.dirty_bytes(&guest, generation))
        .await
        .ok()?
        .ok()
        .flatten()
}
