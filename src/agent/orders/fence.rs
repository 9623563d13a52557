//! Fence and Undo: the target gives up what it took.

use jiff::Timestamp;

use super::power;
use crate::agent::api::{FenceRecord, OperationError, OrderResult, ProgressPhase};
use crate::agent::host::Work;
use crate::agent::last_disks;
use crate::agent::replication;
use crate::dataplane::{Content, UndoReport};

pub(super) async fn fence(work: &Work) -> Result<OrderResult, OperationError> {
    let (host, vm, epoch) = (&work.host, &work.vm, work.order.epoch);
    let was_started = vm
        .register()
        .is_some_and(|register| register.start.is_some());
    // Who sends to a VM without a definition came when it had one.
    let volume = if host.definitions.get(vm.uuid).is_some() {
        match host.volume(vm).await {
            Ok(volume) => Some(volume),
            // Where nothing has run, disks that cannot be opened take no data either, and must not keep the source from coming back.
            Err(failed) if !was_started && vm.volume.lock().await.is_none() => {
                tracing::warn!(vm = %vm.uuid, epoch, error = %failed.message, "the disks here cannot be opened; this host is fenced all the same");
                None
            }
            Err(failed) => return Err(failed),
        }
    } else {
        vm.volume.lock().await.clone()
    };
    if let Some(volume) = &volume {
        // S9: whoever still sends is barred, and has ended its last write, before the fence is a record.
        let gate = std::sync::Arc::clone(&volume.gate);
        tokio::task::spawn_blocking(move || gate.close_all())
            .await
            .map_err(|failed| crate::agent::host::internal(failed.to_string()))?;
    }
    work.place("barred").await;
    replication::pause(host, vm).await?;
    let _quiet = vm.replication.quiet().await;
    // What it wrote is dropped, so nobody waits for it to shut down. Whatever became of its definition: the source is started on the
    // strength of this record.
    power::pull(work, epoch).await?;
    work.place("off").await;
    if was_started {
        // S13: a guest has run here: the content is nobody's point any more.
        let Some(volume) = &volume else {
            return Err(crate::agent::host::internal(
                "the guest is off, but this host has no definition of the VM and so cannot void what its disks hold: put the file back into definitionsDir",
            ));
        };
        volume.with(|set| Ok(set.void()?)).await?;
    }
    replication::forget(host, vm).await?;
    last_disks::forget(host, vm).await;
    *crate::agent::host::lock(&vm.not_started) = None;
    tracing::info!(vm = %vm.uuid, epoch, was_started, "this host is fenced");
    let record = FenceRecord {
        vm: vm.uuid,
        epoch,
        host: host.config.host.clone(),
        was_started,
        at: Timestamp::now(),
    };
    Ok(OrderResult::Fenced { record })
}

pub(super) async fn undo(work: &Work) -> Result<OrderResult, OperationError> {
    work.phase(ProgressPhase::Undoing);
    let volume = work.host.volume(&work.vm).await?;
    let gate = std::sync::Arc::clone(&volume.gate);
    let closed = tokio::task::spawn_blocking(move || gate.close_all()).await;
    let undone = match closed {
        Ok(()) => {
            volume
                .with(|set| match set.content() {
                    // S11: after a start there is nothing to go back to; what stands is compared by the next pass.
                    Content::Unknown | Content::Whole { .. } => Ok(0),
                    Content::Partial { .. } | Content::NewFiles { .. } => match set.undo()? {
                        UndoReport::Restored { blocks } => Ok(blocks),
                        UndoReport::NothingToDo | UndoReport::NewFilesRemoved => Ok(0),
                    },
                })
                .await
        }
        Err(failed) => Err(crate::agent::host::internal(failed.to_string())),
    };
    volume.gate.reopen();
    let blocks = undone?;
    tracing::info!(vm = %work.vm.uuid, epoch = work.order.epoch, blocks, "undone");
    Ok(OrderResult::Undone { blocks })
}
