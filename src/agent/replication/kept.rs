//! What has to be known of a VM's replication after a restart, as it stands in `replication/<vm>.json`, and what changes it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::agent::api::{DiskDefinition, OperationError, PassReport, PeerAddress, Roots, StepId};
use crate::agent::host::{Host, Vm, blocking};
use crate::agent::hypervisor::GuestDefinition;

/// What is kept over restarts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    /// The last `Replicate` order.
    pub order: Option<KeptOrder>,
    /// No pass begins.
    pub paused: bool,
    /// The bitmap generation that tracks changes now (S13). None with a base: the disks have stood still since.
    pub tracking: Option<Uuid>,
    /// The content at the beginning of the generation, as the peer holds it.
    pub base: Option<Roots>,
    /// The last whole pass.
    pub last: Option<PassReport>,
    /// What the guest wrote between the start that waits for its commit and the last time it was switched off. None: not known.
    pub written_before: Option<u64>,
    /// Of a guest that was off: what its disks held, and how to see that nobody has written to them since.
    pub still: Option<Still>,
}

/// Disks that nobody writes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Still {
    pub(super) stamps: Vec<Stamp>,
    pub(super) roots: Roots,
}

/// What changes with a write to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Kept {
    /// What it wrote since that start, when it has written `now` since it was last switched on.
    pub(crate) fn written(&self, now: Option<u64>) -> Option<u64> {
        let now = if self.tracking.is_some() {
            now?
        } else {
            // Nothing is tracked: it is off.
            0
        };
        Some(self.written_before?.saturating_add(now))
    }

    /// The generation does not hold any more, and with it goes what it would have told.
    pub(super) const fn lose(&mut self) {
        if self.tracking.is_some() {
            self.written_before = None;
        }
        self.tracking = None;
    }
}

/// A `Replicate` order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptOrder {
    /// Where to.
    pub peer: PeerAddress,
    /// How often.
    pub interval_seconds: u64,
    /// Which order it was.
    pub ordered: StepId,
}

/// What shows that nobody writes to these disks. None where it would not show: devices, and files that were written to a moment ago, whose
/// next write may leave the same time. Never more than a reason not to read a disk that has been compared: at the stop everything is read.
pub(super) fn stamps(disks: &[DiskDefinition]) -> Option<Vec<Stamp>> {
    use std::os::unix::fs::MetadataExt;
    let settled = Timestamp::now().as_second() - 2;
    let stamp = |disk: &DiskDefinition| {
        let meta = std::fs::metadata(&disk.path).ok()?;
        let settled = meta.mtime() < settled && meta.ctime() < settled;
        (meta.is_file() && settled).then(|| Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    };
    disks.iter().map(stamp).collect()
}

pub(super) async fn keep(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    change: impl FnOnce(&mut Kept) + Send + 'static,
) -> Result<(), OperationError> {
    let (host, vm) = (Arc::clone(host), Arc::clone(vm));
    blocking(move || vm.replication.keep(&host.store, vm.uuid, change)).await
}

/// S13: the generation does not hold any more.
pub(crate) async fn forget(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), OperationError> {
    keep(host, vm, |kept| {
        kept.lose();
        kept.base = None;
        kept.still = None;
    })
    .await
}

/// The guest has shut down and its process is about to end: what it wrote is added up while the process can still tell.
pub(crate) async fn tally(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    guest: &GuestDefinition,
) -> Result<(), OperationError> {
    let Some(tracking) = vm.replication.kept().tracking else {
        return Ok(());
    };
    let wrote = match host.hypervisor.dirty_bytes(guest, tracking).await {
        Ok(wrote) => wrote,
        Err(failed) => {
            tracing::warn!(vm = %vm.uuid, error = %failed, "how much the guest wrote is not known");
            None
        }
    };
    keep(host, vm, move |kept| {
        kept.written_before = kept.written(wrote);
        kept.tracking = None;
        kept.base = None;
    })
    .await
}

/// The disks stand still at this content, from now until the guest is started.
pub(crate) async fn standing(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    roots: Option<Roots>,
) -> Result<(), OperationError> {
    keep(host, vm, |kept| {
        kept.tracking = None;
        kept.base = roots;
        kept.written_before = Some(0);
    })
    .await
}

/// A new generation for a guest about to be started. Written down before the guest's first instruction: from then on the
/// disks do not stand still.
pub(crate) async fn mint(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<Uuid, OperationError> {
    let generation = Uuid::new_v4();
    keep(host, vm, move |kept| {
        // The base of an older generation is the content before what that guest wrote.
        kept.base = if kept.tracking.is_none() {
            kept.base.take()
        } else {
            None
        };
        kept.lose();
        kept.still = None;
        kept.tracking = Some(generation);
    })
    .await?;
    Ok(generation)
}

/// Sets what the loop is to do, durably.
pub(crate) async fn set_order(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    order: KeptOrder,
) -> Result<(), OperationError> {
    keep(host, vm, move |kept| {
        // Another peer knows nothing of this base.
        if kept
            .order
            .as_ref()
            .is_some_and(|old| old.peer.host != order.peer.host)
        {
            kept.last = None;
        }
        kept.order = Some(order);
        kept.paused = false;
    })
    .await
}

/// No pass begins until the next `Replicate`.
pub(crate) async fn pause(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), OperationError> {
    keep(host, vm, |kept| kept.paused = true).await
}
