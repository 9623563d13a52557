//! Room on the storage for replicas, and the part of it that points in time leave alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::api::{OperationError, OperationErrorKind};
use super::host::{Host, error};

/// What points in time leave free, bytes. On a small storage a twentieth of it.
const RESERVE: u64 = 1 << 30;
/// How often it is looked at while a point in time is open, and how long a look may take.
const LOOK: Duration = Duration::from_secs(1);

/// Of one file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub free: u64,
    pub total: u64,
}

impl Room {
    /// Of the storage. Blocking.
    pub(crate) fn of(storage: &Path) -> Result<Self, String> {
        let stat = rustix::fs::statvfs(storage)
            .map_err(|failed| format!("storageDir {}: {failed}", storage.display()))?;
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// The last of the storage belongs to guests that write to their disks there, not to points in time of others.
    pub(crate) fn is_scarce(self) -> bool {
        self.free < RESERVE.min(self.total / 20)
    }

    fn told(self, storage: &Path) -> OperationError {
        error(
            OperationErrorKind::NoSpace,
            format!(
                "storageDir {} has {} of {} bytes free: a point in time of a running guest takes room for what the guest overwrites, and leaves the last for the disks that lie there; make room",
                storage.display(),
                self.free,
                self.total
            ),
        )
    }
}

/// Whether a point in time may be begun.
pub(crate) async fn check(host: &Arc<Host>) -> Result<(), OperationError> {
    match look(host).await {
        Some(room) if room.is_scarce() => Err(room.told(&host.config.storage_dir)),
        _ => Ok(()),
    }
}

/// None: the storage does not answer, which others tell of.
async fn look(host: &Arc<Host>) -> Option<Room> {
    let storage = host.config.storage_dir.clone();
    let room = host.probe.ask(LOOK, move || Room::of(&storage)).await;
    room.ok()?.ok()
}

/// Looks at the room while a point in time is open, and cancels its pass where it becomes scarce.
pub(crate) struct Watch {
    scarce: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub(crate) fn begin(host: &Arc<Host>, cancel: &CancellationToken) -> Self {
        let scarce = Arc::new(AtomicBool::new(false));
        let (host, cancel, found) = (Arc::clone(host), cancel.clone(), Arc::clone(&scarce));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if look(&host).await.is_some_and(Room::is_scarce) {
                    found.store(true, Ordering::SeqCst);
                    cancel.cancel();
                    return;
                }
            }
        });
        Self { scarce, task }
    }

    /// The pass has ended like this; why it was cancelled is said.
    pub(crate) async fn end<T>(
        self,
        host: &Arc<Host>,
        outcome: Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        self.task.abort();
        match outcome {
            Err(failed)
                if failed.kind == OperationErrorKind::Cancelled
                    && self.scarce.load(Ordering::SeqCst) =>
            {
                Err(match look(host).await {
                    Some(room) => room.told(&host.config.storage_dir),
                    None => failed,
                })
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_gibibyte_or_twentieth_is_left_alone() {
        const GIB: u64 = 1 << 30;
        for (free, total, scarce) in [
            (GIB, 1000 * GIB, false),
            (GIB - 1, 1000 * GIB, true),
            (GIB / 2, 10 * GIB, false),
            (GIB / 2 - 1, 10 * GIB, true),
            (0, 1, false),
            (0, 20, true),
        ] {
            assert_eq!(
                Room { free, total }.is_scarce(),
                scarce,
                "{free} of {total}"
            );
        }
    }
}
