//! Stop: the fence stands; now the guest ends, and what it left is written down (S3).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::agent::api::{
    DiskShape, OperationError, OperationErrorKind, OrderResult, PowerSwitch, ProgressPhase,
    Refusal, RefusalKind, Role, StopProof, StopRecord, VmDefinition,
};
use crate::agent::config::OnShutdownDeadline;
use crate::agent::definitions::{self, refusal};
use crate::agent::host::{Host, Vm, Work, blocking, cancelled, error, internal, lock};
use crate::agent::hypervisor::{
    Dirty, ErrorCategory, GuestDefinition, GuestDisk, GuestPower, HypervisorError, LostGeneration,
    QuitReport, Stopped,
};
use crate::agent::last_disks;
use crate::agent::manifest::{self, Changed, Plan};
use crate::agent::replication;
use crate::agent::store::Kind;

/// What a stopped guest had changed since the last point. Kept until the stop is a record and its content delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changes {
    /// The stop's epoch.
    pub epoch: u64,
    /// The generation whose bitmap said so.
    pub generation: Uuid,
    /// The process ended and nothing was written after the answer.
    pub last_word: bool,
    /// Bytes of each disk.
    pub ranges: Changed,
}

/// The disks that a guest ran on when the stop of this epoch fenced it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RanOn {
    epoch: u64,
    disks: Vec<GuestDisk>,
    /// Why what it wrote at last is not all on those disks. An error of a disk is told once: a second stop would find nothing wrong (S12).
    #[serde(default)]
    unsound: Option<String>,
}

/// S14: a disk that the last pass did not bring to the target is seen before the fence.
pub(super) async fn check(host: &Host, vm: &Vm, target: &str) -> Result<(), Refusal> {
    // One that is fenced already is told by the stop itself: its guest may be off, and is nobody's to start.
    let owner = vm
        .register()
        .is_some_and(|register| register.role == Role::Owner);
    if owner && let Ok((_, guest)) = host.guest(vm.uuid) {
        let other = host
            .other_disks(vm, &guest)
            .await
            .map_err(|failed| refusal(RefusalKind::PowerUnknown, failed.to_string()))?;
        if let Some(other) = other {
            return Err(refusal(RefusalKind::DisksDiffer, other));
        }
    }
    let kept = vm.replication.kept();
    let (Some(definition), Some(order), Some(last)) =
        (host.definitions.get(vm.uuid), kept.order, kept.last)
    else {
        return Ok(());
    };
    if order.peer.host != target {
        return Ok(());
    }
    if let Some(disk) = definition
        .disks
        .iter()
        .find(|disk| !last.roots.contains_key(&disk.id))
    {
        let message = format!(
            "disk {} has no counterpart on {target}: enroll the VM there again, then let a pass become whole",
            disk.id
        );
        return Err(refusal(RefusalKind::DisksDiffer, message));
    }
    Ok(())
}

pub(super) async fn stop(
    work: &Work,
    target: &str,
    force: bool,
) -> Result<OrderResult, OperationError> {
    let (host, vm, epoch) = (&work.host, &work.vm, work.order.epoch);
    // No pass may begin any more: the register says Fenced. The one under way is cancelled, its bits go back (S13).
    replication::pause(host, vm).await?;
    let _quiet = vm.replication.quiet().await;
    work.check_cancelled()?;
    work.place("fenced").await;

    *lock(&vm.not_started) = None;
    let register = vm
        .register()
        .ok_or_else(|| internal("the register is gone"))?;
    let (before, guest) = host.guest(vm.uuid)?;
    sound(host, vm, epoch).await?;
    let held = hold(&before).await?;
    let attached = ran_on(host, vm, &guest, epoch).await?;
    work.phase(ProgressPhase::ShuttingDown);
    let cut = end_guest(work, &guest, force, epoch).await?;
    work.place("ended").await;

    // S14: the definition is read again, and the disks' sizes.
    let reread = Arc::clone(host);
    let (definition, guest) = blocking(move || {
        reread.definitions.refresh();
        Ok(())
    })
    .await
    .and_then(|()| host.guest(vm.uuid))?;
    let other = match attached {
        Some(runs) => definitions::differing(&guest.disks, &runs).map(|differs| {
            format!(
                "the definition was changed under a running guest, which is off now: {differs}. Put the definition back as it was (take the changed file out of definitionsDir, or name in it the disks that the guest ran on), and the move goes on. Cancelling the Failover starts the guest on the disks that it ran on; on others that leave one of those out only a person does, with `homeward vm start --on-other-disks`, which gives up what it wrote"
            )
        }),
        None => last_disks::objection(vm, &guest.disks).await,
    };
    if let Some(message) = other {
        return Err(error(OperationErrorKind::DiskWithoutTarget, message));
    }
    if let Err(failed) = synced(held).await {
        return Err(unsound_from_now_on(host, vm, epoch, failed).await?);
    }
    let disks = shapes(&definition).await?;
    let (roots, source) = content(work, &definition, epoch).await?;
    work.place("read").await;

    let was_running = register.desired_power == PowerSwitch::On;
    let record = StopRecord {
        vm: vm.uuid,
        epoch,
        host: host.config.host.clone(),
        target: target.to_owned(),
        proof: if cut {
            StopProof::PowerTakenAway
        } else if was_running {
            StopProof::ProcessGone
        } else {
            StopProof::WasOff
        },
        was_running,
        roots,
        disks,
        manifest: source,
        at: Timestamp::now(),
    };
    tracing::info!(vm = %vm.uuid, epoch, manifest = ?source, was_running, "the stop is proven");
    Ok(OrderResult::Stopped { record })
}

/// S14: the disks that the guest ran on when it was fenced. They are kept for as often as this stop is ordered: once the process is gone nobody
/// else can tell, and what it wrote there must not be taken for the content of other files.
async fn ran_on(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    guest: &GuestDefinition,
    epoch: u64,
) -> Result<Option<Vec<GuestDisk>>, OperationError> {
    let now = host.hypervisor.attached(guest).await?;
    let (host, uuid) = (Arc::clone(host), vm.uuid);
    blocking(move || match now {
        Some(disks) => {
            let kept = RanOn {
                epoch,
                disks,
                unsound: None,
            };
            host.store.save(Kind::Attached, uuid, &kept)?;
            Ok(Some(kept.disks))
        }
        None => {
            let kept = host.store.load::<RanOn>(Kind::Attached, uuid)?;
            Ok(kept
                .filter(|kept| kept.epoch == epoch)
                .map(|kept| kept.disks))
        }
    })
    .await
}

/// Ends the guest and its process; keeps what it changed. Silence is never taken for an end (S3). Whether its power had to be taken away.
async fn end_guest(
    work: &Work,
    guest: &GuestDefinition,
    force: bool,
    epoch: u64,
) -> Result<bool, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    match awake(host, vm, guest).await {
        GuestPower::Gone => return Ok(false),
        GuestPower::Unknown { why } if !force => {
            return Err(error(
                OperationErrorKind::Hypervisor,
                format!(
                    "whether the guest runs is not known ({why}); nothing follows from silence"
                ),
            ));
        }
        GuestPower::Running
        | GuestPower::Paused { .. }
        | GuestPower::ShutDown
        | GuestPower::Unknown { .. } => {}
    }
    let Down { stopped, cut } = shut_down(work, guest, force).await?;
    tracing::info!(vm = %vm.uuid, epoch, step = work.order.step, power_taken_away = cut, "guest stopped");
    work.place("off").await;
    let tracking = vm.replication.kept().tracking;
    let mut changes = None;
    if let (Stopped::ShutDown, Some(generation)) = (stopped, tracking) {
        match final_dirty(host, guest, generation).await? {
            Dirty::Known(ranges) => {
                changes = Some(Changes {
                    epoch,
                    generation,
                    last_word: false,
                    ranges,
                });
            }
            Dirty::Lost(why) => {
                tracing::warn!(vm = %vm.uuid, epoch, %why, "what the guest changed is not known; the disks will be read");
            }
        }
    }
    save(host, vm, changes.clone()).await?;
    work.place("changes").await;
    let report = host.hypervisor.quit(guest).await?;
    match (report, changes) {
        (QuitReport::Untouched, Some(changes)) => {
            save(
                host,
                vm,
                Some(Changes {
                    last_word: true,
                    ..changes
                }),
            )
            .await?;
        }
        (QuitReport::Written, Some(_)) => {
            tracing::warn!(vm = %vm.uuid, epoch, "the guest was revived before its process ended; the disks will be read");
            save(host, vm, None).await?;
        }
        (QuitReport::NotWatched, Some(_)) => save(host, vm, None).await?,
        (_, None) => {}
    }
    Ok(cut)
}

/// The guest's power, after it was let go on from a point in time in which it had been left standing: no pass comes any more that would.
pub(super) async fn awake(host: &Arc<Host>, vm: &Arc<Vm>, guest: &GuestDefinition) -> GuestPower {
    let power = host.hypervisor.power(guest).await;
    if !matches!(power, GuestPower::Paused { .. }) {
        return power;
    }
    replication::recover(host, vm, guest).await;
    host.hypervisor.power(guest).await
}

/// What the guest changed. A hypervisor that cannot tell costs reading the disks, not the stop, as long as the guest stays off.
async fn final_dirty(
    host: &Host,
    guest: &GuestDefinition,
    generation: Uuid,
) -> Result<Dirty, OperationError> {
    let failed = match host.hypervisor.final_dirty(guest, generation).await {
        Ok(dirty) => return Ok(dirty),
        Err(failed) => failed,
    };
    match host.hypervisor.power(guest).await {
        GuestPower::ShutDown | GuestPower::Gone => {
            Ok(Dirty::Lost(LostGeneration::NotRead(failed.to_string())))
        }
        GuestPower::Running | GuestPower::Paused { .. } | GuestPower::Unknown { .. } => {
            Err(failed.into())
        }
    }
}

/// Opens the disks and writes out what the host's page cache holds of them while the guest still runs; what is left at the end costs downtime.
/// An error of the host's disk is told once to each who had the file open then, and to nobody who opens it later: so these files are kept open
/// until the sync that counts (S12).
async fn hold(definition: &VmDefinition) -> Result<Vec<(String, File)>, OperationError> {
    let disks = definition.disks.clone();
    blocking(move || {
        disks
            .into_iter()
            .map(|disk| {
                let file = File::open(&disk.path)
                    .map_err(|failed| unsound(&disk.id, &disk.path, &failed))?;
                file.sync_data()
                    .map_err(|failed| unsound(&disk.id, &disk.path, &failed))?;
                Ok((disk.id, file))
            })
            .collect()
    })
    .await
}

fn unsound(id: &str, path: &Path, failed: &std::io::Error) -> OperationError {
    let message = format!("disk {id}: {}: {failed}", path.display());
    error(OperationErrorKind::SourceRead, message)
}

/// How a guest went down.
pub(super) struct Down {
    pub stopped: Stopped,
    /// Its power was taken away.
    pub cut: bool,
}

/// Asks the guest to shut down; takes its power away only where that was ordered or configured, and says so.
pub(super) async fn shut_down(
    work: &Work,
    guest: &GuestDefinition,
    force: bool,
) -> Result<Down, OperationError> {
    let host = &work.host;
    let down = |stopped, cut| Down { stopped, cut };
    if force {
        return Ok(down(host.hypervisor.power_off(guest).await?, true));
    }
    let asked = tokio::select! {
        asked = host.hypervisor.power_down(guest, host.config.shutdown_deadline()) => asked,
        () = work.running.cancel.cancelled() => return Err(cancelled()),
    };
    match asked {
        Ok(stopped) => Ok(down(stopped, false)),
        Err(HypervisorError::Deadline { deadline })
            if host.config.hypervisor.qemu.on_shutdown_deadline == OnShutdownDeadline::PowerOff =>
        {
            tracing::warn!(vm = %work.vm.uuid, epoch = work.order.epoch, seconds = deadline.as_secs(), "the guest did not shut down in time; its power is taken away as configured");
            Ok(down(host.hypervisor.power_off(guest).await?, true))
        }
        Err(failed) => {
            if failed.category() == ErrorCategory::Unknown {
                replication::recover(host, &work.vm, guest).await;
            }
            Err(failed.into())
        }
    }
}

async fn save(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    changes: Option<Changes>,
) -> Result<(), OperationError> {
    let (host, uuid) = (Arc::clone(host), vm.uuid);
    blocking(move || {
        match changes {
            Some(changes) => host.store.save(Kind::Changes, uuid, &changes)?,
            None => host.store.remove(Kind::Changes, uuid)?,
        }
        Ok(())
    })
    .await
}

/// What the guest changed until its end, if that is known for the stop of this epoch.
pub(super) async fn changes(host: &Arc<Host>, vm: &Arc<Vm>, epoch: u64) -> Option<Changes> {
    let (host, uuid, tracking) = (Arc::clone(host), vm.uuid, vm.replication.kept().tracking);
    let loaded = blocking(move || Ok(host.store.load::<Changes>(Kind::Changes, uuid)?))
        .await
        .ok()
        .flatten();
    loaded.filter(|changes| {
        changes.epoch == epoch && changes.last_word && Some(changes.generation) == tracking
    })
}

/// What the guest wrote is on the disk when this returns (S3, S12).
async fn synced(held: Vec<(String, File)>) -> Result<(), OperationError> {
    blocking(move || {
        for (id, file) in &held {
            file.sync_all().map_err(|failed| {
                let message =
                    format!("disk {id}: what the guest wrote did not all reach it: {failed}");
                error(OperationErrorKind::Unsound, message)
            })?;
        }
        Ok(())
    })
    .await
}

/// Writes down that this stop's content cannot be trusted, and takes back what was said of it. Returns what to tell.
async fn unsound_from_now_on(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    epoch: u64,
    failed: OperationError,
) -> Result<OperationError, OperationError> {
    tracing::error!(vm = %vm.uuid, epoch, error = %failed.message, "a disk did not take what the guest wrote at last; the move cannot go on from it");
    let (kept, uuid, why) = (Arc::clone(host), vm.uuid, failed.message.clone());
    blocking(move || {
        let before = kept.store.load::<RanOn>(Kind::Attached, uuid)?;
        let disks = before
            .filter(|before| before.epoch == epoch)
            .map(|before| before.disks);
        let mark = RanOn {
            epoch,
            disks: disks.unwrap_or_default(),
            unsound: Some(why),
        };
        kept.store.save(Kind::Attached, uuid, &mark)?;
        kept.store.remove(Kind::Changes, uuid)?;
        Ok(())
    })
    .await?;
    let volume = host.volume(vm).await?;
    volume.with(|set| Ok(set.void()?)).await?;
    replication::forget(host, vm).await?;
    Ok(failed)
}

/// S12: a stop of this epoch has found that a disk did not take everything; that it finds nothing the next time says nothing.
async fn sound(host: &Arc<Host>, vm: &Arc<Vm>, epoch: u64) -> Result<(), OperationError> {
    let (host, uuid) = (Arc::clone(host), vm.uuid);
    let kept = blocking(move || Ok(host.store.load::<RanOn>(Kind::Attached, uuid)?)).await?;
    match kept
        .filter(|kept| kept.epoch == epoch)
        .and_then(|kept| kept.unsound)
    {
        None => Ok(()),
        Some(why) => Err(error(OperationErrorKind::Unsound, why)),
    }
}

/// Sizes as they are now, of disks that take a sync.
async fn shapes(definition: &VmDefinition) -> Result<Vec<DiskShape>, OperationError> {
    let disks = definition.disks.clone();
    blocking(move || {
        disks
            .iter()
            .map(|disk| {
                // A guest that was off may have got another disk meanwhile.
                File::open(&disk.path)
                    .and_then(|file| file.sync_all())
                    .map_err(|failed| unsound(&disk.id, &disk.path, &failed))?;
                definitions::size_of(disk)
                    .map(|(shape, _)| shape)
                    .map_err(|wrong| error(OperationErrorKind::SourceRead, wrong))
            })
            .collect()
    })
    .await
}

async fn content(
    work: &Work,
    definition: &VmDefinition,
    epoch: u64,
) -> Result<(crate::agent::api::Roots, crate::agent::api::ManifestSource), OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    work.phase(ProgressPhase::ReadingManifest);
    let base = vm.replication.kept().base;
    let carried = match (changes(host, vm, epoch).await, base) {
        (Some(changes), Some(base)) => Some((base, changes.ranges)),
        _ => None,
    };
    let plan = Plan {
        disks: definition
            .disks
            .iter()
            .map(|disk| (disk.id.clone(), disk.path.clone()))
            .collect(),
        carried,
    };
    let volume = host.volume(vm).await?;
    let (cancel, progress) = (
        work.running.cancel.clone(),
        Arc::clone(&work.running.progress),
    );
    volume
        .with(move |set| manifest::take(set, &plan, &cancel, &progress))
        .await
}
