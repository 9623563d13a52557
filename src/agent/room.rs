//! Room on the storage for replicas, and the part of it that points in time leave alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::api::{OperationError, OperationErrorKind};
use super::host::{Host, error};
use crate::dataplane::io::fs::{Fs, HostFs};
use crate::dataplane::io::room::Room;

/// How often it is looked at while a point in time is open, and how long a look may take.
const LOOK: Duration = Duration::from_secs(1);

/// Of the storage for replicas. Blocking.
pub(crate) fn of(storage: &Path) -> Result<Room, String> {
    HostFs
        .room(storage)
        .map_err(|failed| format!("storageDir {}: {failed}", storage.display()))
}

fn told(room: Room, storage: &Path) -> OperationError {
    error(
        OperationErrorKind::NoSpace,
        format!(
            "storageDir {}: {room}: a point in time of a running guest takes room for what the guest overwrites; make room",
            storage.display()
        ),
    )
}

/// Whether a point in time may be begun.
pub(crate) async fn check(host: &Arc<Host>) -> Result<(), OperationError> {
    match look(host).await {
        Some(room) if room.is_scarce() => Err(told(room, &host.config.storage_dir)),
        _ => Ok(()),
    }
}

/// None: the storage does not answer, which others tell of.
async fn look(host: &Arc<Host>) -> Option<Room> {
    let storage = host.config.storage_dir.clone();
    let room = host.probe.ask(LOOK, move || of(&storage)).await;
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
                    Some(room) => told(room, &host.config.storage_dir),
                    None => failed,
                })
            }
            outcome => outcome,
        }
    }
}
