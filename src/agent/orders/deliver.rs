//! Deliver: the peer comes to hold exactly what the stop record says.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::stop;
use crate::agent::api::{
    DeliverMode, ManifestSource, OperationError, OperationErrorKind, OrderResult, PeerAddress,
    StopRecord,
};
use crate::agent::host::{Work, cancelled, error, internal, lock};
use crate::agent::last_disks;
use crate::agent::transfer::{self, Candidates, Meter, Pass, Sources};

/// How often a broken connection is tried again before people are told.
const TRIES: u32 = 6;

pub(super) async fn deliver(
    work: &Work,
    peer: PeerAddress,
    mode: DeliverMode,
) -> Result<OrderResult, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    let register = vm
        .register()
        .ok_or_else(|| internal("the register is gone"))?;
    let stop = register
        .stop
        .clone()
        .ok_or_else(|| internal("there is no stop record"))?;
    let (definition, guest) = host.guest(vm.uuid)?;
    // What stands on other disks would not be what was stopped, and by the time that is seen it has been sent.
    if let Some(other) = last_disks::objection(vm, &guest.disks).await {
        return Err(error(OperationErrorKind::DiskWithoutTarget, other));
    }
    let quiet = vm.replication.quiet().await;
    let base = vm.replication.kept().base;
    let changes = stop::changes(host, vm, stop.epoch).await;
    let pass = pass_of(&stop, mode);
    let point = Timestamp::now();
    let mut pause = Duration::from_millis(500);
    let mut tried = 0;
    let report = loop {
        tried += 1;
        let (candidates, reason) = match (stop.manifest, &changes, &base, mode) {
            (.., DeliverMode::Full) => (Candidates::All, "a full copy was ordered".to_owned()),
            (ManifestSource::CarriedOver, Some(changes), Some(base), DeliverMode::Delta) => (
                Candidates::Ranges {
                    base: base.clone(),
                    ranges: changes.ranges.clone(),
                },
                "a trusted bitmap until the guest's end".to_owned(),
            ),
            _ => (
                Candidates::All,
                "what the guest changed until its end is not known".to_owned(),
            ),
        };
        let asked = Pass {
            name: pass,
            id: work.order.id(),
            began_after: work.order.id(),
            peer: peer.clone(),
            full: mode == DeliverMode::Full,
            candidates,
            reason,
            point,
        };
        let meter = Meter::new();
        let shown = tokio::spawn(show(work.clone(), meter.clone()));
        let sent = transfer::send(
            host,
            vm,
            asked,
            Sources::files(&definition),
            &work.running.cancel,
            &meter,
        )
        .await;
        shown.abort();
        match sent {
            Ok(report) => break report,
            Err(failed) if failed.kind == OperationErrorKind::Disconnected && tried < TRIES => {
                tracing::warn!(vm = %vm.uuid, epoch = stop.epoch, error = %failed.message, tried, "delivery broke off; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = work.running.cancel.cancelled() => return Err(cancelled()),
                }
                pause *= 2;
            }
            Err(failed) => return Err(failed),
        }
    };
    drop(quiet);
    // S3, S17: what arrived is what the record says, or nothing is started from it.
    if report.roots != stop.roots {
        let message = "the disks have changed since the stop record was made: somebody has written to them; turn back";
        return Err(error(OperationErrorKind::Corrupt, message));
    }
    tracing::info!(
        vm = %vm.uuid, epoch = stop.epoch, bytes_changed = report.bytes_changed, bytes_sent = report.bytes_sent,
        candidates = ?report.candidates, why = %report.candidates_reason, millis = report.duration_millis, "the stopped content is delivered"
    );
    Ok(OrderResult::Delivered { pass: report })
}

/// The pass's id: one for all tries and all orders, since the stop record fixes the content. What has arrived is not sent again, whoever
/// was started anew meanwhile.
fn pass_of(stop: &StopRecord, mode: DeliverMode) -> Uuid {
    // Serialisation of these types cannot fail; were it to, the roots at the end of the pass would tell.
    let what = serde_json::to_vec(&(stop.vm, stop.epoch, &stop.roots, mode)).unwrap_or_default();
    let digest = blake3::derive_key("homeward 2026 delivery of a stopped VM", &what);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(id).into_uuid()
}

/// Shows the pass's progress as the order's.
async fn show(work: Work, meter: std::sync::Arc<Meter>) {
    loop {
        *lock(&work.running.progress) = meter.progress();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
