//! What a stopped VM's disks hold: carried over from the last point under a trusted bitmap, else read (S3, S17).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{
    ManifestSource, OperationError, OperationErrorKind, Progress, ProgressPhase, Roots,
};
use super::host::{cancelled, error, internal, lock};
use super::volume::{from_api, to_api};
use crate::dataplane::blocks::Geometry;
use crate::dataplane::io::source::Window;
use crate::dataplane::{BlockSource, DiskId, FileSource, Point, SetError, VolumeSet};

/// What changed since the base, a disk's bytes each.
pub(crate) type Changed = BTreeMap<String, Vec<Range<u64>>>;

/// How to find out.
pub(crate) struct Plan {
    /// The disks as they are now.
    pub disks: Vec<(String, PathBuf)>,
    /// The content at the beginning of the bitmap, and what changed since; None reads everything.
    pub carried: Option<(Roots, Changed)>,
}

/// The roots, and where they come from. Blocking; reads what changed, or everything.
pub(crate) fn take(
    set: &mut VolumeSet,
    plan: &Plan,
    cancel: &CancellationToken,
    progress: &Arc<Mutex<Progress>>,
) -> Result<(Roots, ManifestSource), OperationError> {
    let mut sources = Vec::new();
    for (id, path) in &plan.disks {
        let id = DiskId::new(id.clone()).map_err(|wrong| internal(wrong.to_string()))?;
        let inner = FileSource::open(path).map_err(|failed| unreadable(&id, &failed))?;
        let source = Watched {
            inner,
            cancel: cancel.clone(),
            progress: Arc::clone(progress),
        };
        sources.push((id, Box::new(source) as Box<dyn BlockSource>));
    }
    if let Some((base, changed)) = &plan.carried {
        let to_read = changed
            .values()
            .flatten()
            .map(|range| range.end - range.start)
            .sum();
        begin(progress, to_read);
        if let Some(roots) = carry(set, base, changed, &mut sources, cancel)? {
            return Ok((roots, ManifestSource::CarriedOver));
        }
    }
    begin(
        progress,
        sources.iter().map(|(_, source)| source.size()).sum(),
    );
    let roots = set
        .manifest_from_read(&mut sources, &Timestamp::now().to_string(), Uuid::new_v4())
        .map_err(|failed| {
            if cancel.is_cancelled() {
                cancelled()
            } else {
                failed.into()
            }
        })?;
    Ok((to_api(&roots), ManifestSource::Read))
}

fn begin(progress: &Mutex<Progress>, total: u64) {
    *lock(progress) = Progress {
        phase: ProgressPhase::ReadingManifest,
        bytes_total: Some(total),
        ..Progress::default()
    };
}

fn unreadable(id: &DiskId, failed: &io::Error) -> OperationError {
    error(
        OperationErrorKind::SourceRead,
        format!("disk {id}: {failed}"),
    )
}

/// The roots without recording them: the set stays at the base, which the last pass starts from. None when the set's tables do
/// not describe that base, or the disks are not of its shape (S13, S14).
fn carry(
    set: &mut VolumeSet,
    base: &Roots,
    changed: &Changed,
    sources: &mut [(DiskId, Box<dyn BlockSource>)],
    cancel: &CancellationToken,
) -> Result<Option<Roots>, OperationError> {
    if set.source_base() != Some(&from_api(base)?) {
        return Ok(None);
    }
    let known = set.disks();
    let same = known.len() == sources.len()
        && sources.iter().all(|(id, source)| {
            known
                .iter()
                .any(|disk| disk.id == *id && disk.size == source.size())
        });
    if !same {
        return Ok(None);
    }
    let shape: Vec<_> = sources
        .iter()
        .map(|(id, source)| (id.clone(), source.size()))
        .collect();
    let tables = set.begin_source(&shape, true)?;
    let mut roots = Roots::new();
    for ((id, source), table) in sources.iter_mut().zip(&tables) {
        let failed = |failed: io::Error| {
            if cancel.is_cancelled() {
                cancelled()
            } else {
                unreadable(id, &failed)
            }
        };
        let geometry = Geometry::new(source.size())
            .ok_or_else(|| internal(format!("disk {id} has no possible size")))?;
        let mut window = Window::new(geometry);
        for range in changed.get(id.as_str()).into_iter().flatten() {
            let blocks = geometry.blocks_of(range);
            let mut first = blocks.start;
            while first < blocks.end {
                let end = blocks.end.min(first + 256);
                let mut hashes = Vec::new();
                window
                    .hash(source.as_mut(), &(first..end), &mut hashes)
                    .map_err(failed)?;
                let digests: Vec<_> = hashes.iter().map(|hash| hash.digest).collect();
                table.write(first, &digests).map_err(|failed| {
                    error(
                        OperationErrorKind::Storage,
                        format!("digests of disk {id}: {failed}"),
                    )
                })?;
                first = end;
            }
        }
        let root = table.root(id).map_err(|failed| {
            error(
                OperationErrorKind::Storage,
                format!("digests of disk {id}: {failed}"),
            )
        })?;
        let Some(root) = root else { return Ok(None) };
        roots.insert(id.to_string(), super::api::Root(*root.as_bytes()));
    }
    Ok(Some(roots))
}

/// A disk whose reading can be watched and cut short.
struct Watched {
    inner: FileSource,
    cancel: CancellationToken,
    progress: Arc<Mutex<Progress>>,
}

impl BlockSource for Watched {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cut short"));
        }
        self.inner.read_at(offset, buf)?;
        lock(&self.progress).bytes_done += buf.len() as u64;
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(offset)
    }
}

/// Says that the disks stand still at exactly these roots, so that the set can be a target without being read.
pub(crate) fn adopt(set: &mut VolumeSet, roots: &Roots) -> Result<bool, OperationError> {
    match set.adopt(&from_api(roots)?) {
        Ok(()) => Ok(true),
        Err(SetError::OtherRoots | SetError::NotWhole(_)) => Ok(false),
        Err(failed) => Err(failed.into()),
    }
}

/// Whether the set's tables describe these roots.
pub(crate) fn describes(set: &VolumeSet, roots: &Roots) -> bool {
    let base: Option<&crate::dataplane::Roots> = set.source_base();
    from_api(roots).is_ok_and(|roots| base == Some(&roots))
}

/// The point that the set is sealed at, or would be.
pub(crate) fn ready_to_start(set: &VolumeSet) -> Option<Roots> {
    use crate::dataplane::Content;
    let whole: Option<&Point> = set.content().whole();
    match (whole, set.content()) {
        (Some(point), _) => Some(to_api(&point.roots)),
        // Sealed by a start that was cut short before the right moved: no guest has written since.
        (
            None,
            Content::Whole {
                point,
                exact: false,
            },
        ) if set.sealed() == Some(&point.roots) => Some(to_api(&point.roots)),
        _ => None,
    }
}
