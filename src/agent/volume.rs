//! The disks of one VM as the data plane knows them, and the gate before them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::api::{
    ContentKind, ContentState, OperationError, OperationErrorKind, Root, Roots, VmDefinition,
};
use super::definitions::size_of;
use super::host::{Host, Vm, blocking, error, internal, lock};
use super::hypervisor::GuestDisk;
use crate::dataplane::digest::Digest;
use crate::dataplane::{self, Content, DiskId, DiskSpec, Gate, SetError, VolumeSet};

/// One VM's disks.
pub(crate) struct Volume {
    /// The set; whoever sends, receives, seals or undoes holds it.
    pub set: Arc<Mutex<VolumeSet>>,
    /// S9: who may write now.
    pub gate: Arc<Gate>,
    disks: Vec<(String, PathBuf)>,
    shown: Mutex<ContentState>,
}

impl Volume {
    /// The disks of the set.
    pub(crate) fn disks(&self) -> Vec<GuestDisk> {
        let disks = self.disks.iter().cloned();
        disks.map(|(id, path)| GuestDisk { id, path }).collect()
    }

    /// What the disks hold; while somebody works on them, what they held before.
    pub(crate) fn content(&self) -> ContentState {
        if let Ok(set) = self.set.try_lock() {
            *lock(&self.shown) = state(set.content());
        }
        lock(&self.shown).clone()
    }

    /// Works on the set where blocking is allowed.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut VolumeSet) -> Result<T, OperationError> + Send + 'static,
    ) -> Result<T, OperationError> {
        self.with_closed(|| {}, work).await
    }

    /// As [`Volume::with`], after something that may block too.
    pub(crate) async fn with_closed<T: Send + 'static>(
        self: &Arc<Self>,
        before: impl FnOnce() + Send + 'static,
        work: impl FnOnce(&mut VolumeSet) -> Result<T, OperationError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let volume = Arc::clone(self);
        blocking(move || {
            before();
            let mut set = lock(&volume.set);
            let result = work(&mut set);
            *lock(&volume.shown) = state(set.content());
            result
        })
        .await
    }
}

impl Host {
    /// The VM's disks; opened when they are first asked for, and again when the definition names others.
    ///
    /// Whoever stops waiting for them leaves the opening to its end: it may read a large journal, and the next to ask finds it done.
    pub(crate) async fn volume(
        self: &Arc<Self>,
        vm: &Arc<Vm>,
    ) -> Result<Arc<Volume>, OperationError> {
        let (host, vm) = (Arc::clone(self), Arc::clone(vm));
        let opening = tokio::spawn(async move { host.open_volume(&vm).await });
        opening
            .await
            .unwrap_or_else(|failed| Err(internal(failed.to_string())))
    }

    async fn open_volume(&self, vm: &Vm) -> Result<Arc<Volume>, OperationError> {
        let definition = self
            .definitions
            .get(vm.uuid)
            .ok_or_else(|| internal("this host has no definition of the VM"))?;
        let disks: Vec<_> = definition
            .disks
            .iter()
            .map(|disk| (disk.id.clone(), disk.path.clone()))
            .collect();
        let mut slot = vm.volume.lock().await;
        if let Some(volume) = slot.as_ref() {
            if volume.disks == disks {
                return Ok(Arc::clone(volume));
            }
            // S9: whoever still writes to the old disks is barred; whoever still reads them is waited for, but not here.
            let old = Arc::clone(volume);
            let free = blocking(move || {
                old.gate.close_all();
                let mut tries = 0;
                while old.set.try_lock().is_err() && tries < 40 {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                let free = old.set.try_lock().is_ok();
                if !free {
                    old.gate.reopen();
                }
                Ok(free)
            })
            .await?;
            if !free {
                let message = "the definition names other disks, and a pass over the old ones is under way; try again when it has ended";
                return Err(error(OperationErrorKind::Storage, message));
            }
            *slot = None;
        }
        let (folder, uuid) = (self.volume_folder(vm.uuid), vm.uuid);
        let set =
            blocking(move || Ok(VolumeSet::open(&folder, uuid, &specs(&definition)?)?)).await?;
        let shown = Mutex::new(state(set.content()));
        let volume = Arc::new(Volume {
            set: Arc::new(Mutex::new(set)),
            gate: Gate::new(),
            disks,
            shown,
        });
        *slot = Some(Arc::clone(&volume));
        Ok(volume)
    }
}

fn specs(definition: &VmDefinition) -> Result<Vec<DiskSpec>, OperationError> {
    let spec = |disk: &super::api::DiskDefinition| {
        let id = DiskId::new(disk.id.clone())
            .map_err(|wrong| internal(format!("disk {}: {wrong}", disk.id)))?;
        let size = disk
            .size_bytes
            .or_else(|| size_of(disk).ok().map(|(shape, _)| shape.size_bytes))
            .unwrap_or(0);
        Ok(DiskSpec {
            id,
            path: disk.path.clone(),
            size,
        })
    };
    definition.disks.iter().map(spec).collect()
}

/// The data plane's content in the API's words.
fn state(content: &Content) -> ContentState {
    let (kind, point, pass) = match content {
        Content::Whole { point, exact: true } => {
            (ContentKind::Whole, Some(point), Some(point.pass))
        }
        // Not exact: the tables are a bitmap's base; a guest has written since, or may have.
        Content::Unknown
        | Content::Whole {
            point: _,
            exact: false,
        } => (ContentKind::Unknown, None, None),
        Content::Partial { base, pass, .. } => (ContentKind::Partial, base.as_ref(), Some(*pass)),
        Content::NewFiles {
            whole: Some(point), ..
        } => (ContentKind::Whole, Some(point), Some(point.pass)),
        Content::NewFiles {
            base,
            pass,
            whole: None,
        } => (ContentKind::NewFiles, base.as_ref(), Some(*pass)),
    };
    ContentState {
        kind,
        roots: point.map(|point| to_api(&point.roots)),
        point: point.and_then(|point| point.point.parse().ok()),
        pass,
    }
}

/// Roots in the API's words.
pub(crate) fn to_api(roots: &dataplane::Roots) -> Roots {
    roots
        .iter()
        .map(|(id, root)| (id.to_string(), Root(*root.as_bytes())))
        .collect()
}

/// Roots in the data plane's words.
pub(crate) fn from_api(roots: &Roots) -> Result<dataplane::Roots, OperationError> {
    let one = |(id, root): (&String, &Root)| {
        let id =
            DiskId::new(id.clone()).map_err(|wrong| internal(format!("disk {id}: {wrong}")))?;
        Ok((id, Digest::from_bytes(root.0)))
    };
    roots.iter().map(one).collect()
}

impl From<SetError> for OperationError {
    fn from(failed: SetError) -> Self {
        let kind = match &failed {
            SetError::NotWhole(_)
            | SetError::OtherRoots
            | SetError::UndoMismatch(_)
            | SetError::Damaged { .. } => OperationErrorKind::Corrupt,
            SetError::Shape(_) => OperationErrorKind::DiskWithoutTarget,
            failed if failed.is_no_space() => OperationErrorKind::NoSpace,
            SetError::Io { .. }
            | SetError::Sealed
            | SetError::Busy { .. }
            | SetError::Exists { .. } => OperationErrorKind::Storage,
        };
        error(kind, failed.to_string())
    }
}
