//! All disks of one VM on one host, and what is known of their content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::fs::{Disk, Fs, HostFs, Open};
use super::journal_file::JournalFile;
use super::record::{DiskRecord, Record};
use super::source::BlockSource;
use super::table::Table;
use crate::dataplane::blocks::Geometry;
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, DiskId, Point, Roots};
use crate::dataplane::journal::{self, Recovery};

/// One disk as the VM's definition has it on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Its stable name, the same at both sites.
    pub id: DiskId,
    /// The raw image or block device.
    pub path: PathBuf,
    /// Its size in bytes. Used by [`VolumeSet::create_missing`]; a disk that is there has the size it has.
    pub size: u64,
}

/// The disks of one VM on one host, their digests and their undo journal. It is the source of one pass and the target of the next:
/// what it knows serves both, so roles change without reading anything again.
///
/// All of it survives a crash at any moment; [`VolumeSet::open`] brings a half-done step to its end and never destroys.
#[derive(Debug)]
pub struct VolumeSet {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) record: Record,
    /// Bytes of the journal that count at most, when a sync of it has failed in this process (S12).
    pub(super) journal_limit: Option<u64>,
    /// A sync of a disk has failed in this process (S12).
    pub(super) resend: bool,
    /// The open journal was read to its end in this process, it has no commit record, and nobody has written to it since. A journal may be
    /// as large as the disks are: it is not read more often than it must be.
    pub(super) uncommitted: bool,
    _lock: Arc<dyn Disk>,
}

/// An exclusive lock of all disks of a set; it lasts until it is dropped. While it lasts no session writes.
#[derive(Debug)]
pub struct Lock {
    _disks: Vec<Arc<dyn Disk>>,
}

impl VolumeSet {
    /// Opens the set of a VM, or begins one of unknown content, and recovers what a crash has left.
    ///
    /// `dir` is the set's own folder. A second process is kept out.
    ///
    /// # Errors
    /// [`SetError::Busy`] when another process has it, [`SetError::Shape`] when the disks are not the recorded ones while a pass is
    /// open over those, and whatever reading and writing brings.
    pub fn open(dir: &Path, vm: Uuid, disks: &[DiskSpec]) -> Result<Self, SetError> {
        Self::open_with(Arc::new(HostFs), dir, vm, disks)
    }

    /// Opens it in a given file system.
    ///
    /// # Errors
    /// As [`VolumeSet::open`].
    pub fn open_with(
        fs: Arc<dyn Fs>,
        dir: &Path,
        vm: Uuid,
        disks: &[DiskSpec],
    ) -> Result<Self, SetError> {
        fs.create_dirs(&dir.join("tables")).context("make", dir)?;
        let lock_path = dir.join("lock");
        let how = if fs.exists(&lock_path).context("look for", &lock_path)? {
            Open::Write
        } else {
            Open::CreateNew
        };
        let lock = fs.open(&lock_path, how).context("open", &lock_path)?;
        if !lock.try_lock(true).context("lock", &lock_path)? {
            return Err(SetError::Busy { path: lock_path });
        }
        let wanted: Vec<_> = disks
            .iter()
            .map(|spec| DiskRecord {
                id: spec.id.clone(),
                path: spec.path.clone(),
                size: spec.size,
                fresh: false,
                stamp: None,
            })
            .collect();
        let record = Record::load(fs.as_ref(), &dir.join("set.json"))?
            .unwrap_or_else(|| Record::new(vm, wanted.clone()));
        let mut set = Self {
            fs,
            dir: dir.to_owned(),
            record,
            journal_limit: None,
            resend: false,
            uncommitted: false,
            _lock: lock,
        };
        if set.record.vm != vm {
            return Err(SetError::Damaged {
                path: set.record_path(),
                why: "it belongs to another VM".to_owned(),
            });
        }
        set.recover()?;
        set.take_shape(wanted)?;
        Ok(set)
    }

    /// Opens a set that was begun before, with the disks that it remembers: for a VM whose definition is gone. `None`: there is none.
    ///
    /// # Errors
    /// As [`VolumeSet::open`].
    pub fn open_recorded(dir: &Path, vm: Uuid) -> Result<Option<Self>, SetError> {
        let Some(record) = Record::load(&HostFs, &dir.join("set.json"))? else {
            return Ok(None);
        };
        let specs: Vec<_> = record.disks.iter().map(DiskRecord::spec).collect();
        Self::open(dir, vm, &specs).map(Some)
    }

    /// What the disks hold.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.record.content
    }

    /// The VM.
    #[must_use]
    pub fn vm(&self) -> Uuid {
        self.record.vm
    }

    /// The disks as they are recorded.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskSpec> {
        self.record.disks.iter().map(DiskRecord::spec).collect()
    }

    /// Whether a pass has written and can be undone.
    #[must_use]
    pub fn has_open_journal(&self) -> bool {
        matches!(self.record.content, Content::Partial { .. })
    }

    /// The roots that a start rests on, if the content was sealed and no pass has come since.
    #[must_use]
    pub fn sealed(&self) -> Option<&Roots> {
        self.record.sealed.as_ref()
    }

    /// Makes the disks that are not there: sparse files, known to be new. Does nothing for those that are there.
    ///
    /// # Errors
    /// [`SetError::Shape`] for a size that no disk has, or for a disk that is gone under an open pass; whatever making a file brings.
    pub fn create_missing(&mut self) -> Result<(), SetError> {
        let open = matches!(
            self.record.content,
            Content::Partial { .. } | Content::NewFiles { .. }
        );
        let mut made = false;
        for at in 0..self.record.disks.len() {
            let DiskRecord { path, size, id, .. } = self.record.disks[at].clone();
            if self.fs.exists(&path).context("look for", &path)? {
                continue;
            }
            if open {
                return Err(SetError::Shape(format!(
                    "disk {id}: {} is gone, and a pass is open over these disks: finish or undo it first",
                    path.display()
                )));
            }
            if Geometry::new(size).is_none() {
                return Err(SetError::Shape(format!(
                    "disk {id}: {size} bytes are no multiple of 512, or above 64 TiB"
                )));
            }
            let dir = parent(&path);
            self.fs.create_dirs(dir).context("make", dir)?;
            // What is new is first recorded as such when it is durably there.
            let file = self
                .fs
                .open(&path, Open::CreateNew)
                .context("create", &path)?;
            file.set_size(size)
                .and_then(|()| file.sync())
                .and_then(|()| self.fs.sync_dir(dir))
                .context("create", &path)?;
            self.record.disks[at].fresh = true;
            self.record.disks[at].stamp = file.durable_stamp().context("read", &path)?;
            made = true;
        }
        if made {
            self.record.content = Content::Unknown;
            self.record.sealed = None;
            self.store()?;
        }
        Ok(())
    }

    /// Says that the disks may hold anything: after a foreign write, a reboot of a source (S12), or a guest that ran here unrecorded.
    /// An open journal stays open: what it protects can still be undone.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn void(&mut self) -> Result<(), SetError> {
        match &mut self.record.content {
            Content::Unknown | Content::Whole { .. } => {
                self.record.content = Content::Unknown;
                self.record.sealed = None;
            }
            Content::Partial { base, distrust, .. } => {
                *base = None;
                *distrust = true;
                // Every entry is read anew, not only those of journaled blocks.
                self.forget_tables()?;
            }
            Content::NewFiles { base, .. } => *base = None,
        }
        self.record
            .disks
            .iter_mut()
            .for_each(|disk| disk.fresh = false);
        self.store()
    }

    /// Says that the disks hold exactly the recorded point, and nothing has written since: at a source whose guest was stopped before
    /// its last pass. The set can then be a target whose digests are known.
    ///
    /// # Errors
    /// [`SetError::OtherRoots`] when another point is recorded, [`SetError::NotWhole`] when none is.
    pub fn adopt(&mut self, roots: &Roots) -> Result<(), SetError> {
        let Content::Whole { point, .. } = &self.record.content else {
            return Err(SetError::NotWhole(self.record.content.kind()));
        };
        if point.roots != *roots {
            return Err(SetError::OtherRoots);
        }
        let content = Content::Whole {
            point: point.clone(),
            exact: true,
        };
        self.record_whole(content)
    }

    /// Reads every disk from these sources, one a disk in any order, and records what it finds as a point of this set's tables.
    /// For a source: [`VolumeSet::adopt`] says in addition that the disks themselves stand still.
    ///
    /// # Errors
    /// [`SetError::Shape`] when the sources are not the set's disks; whatever reading brings.
    pub fn manifest_from_read(
        &mut self,
        sources: &mut [(DiskId, Box<dyn BlockSource>)],
        point: &str,
        pass: Uuid,
    ) -> Result<Roots, SetError> {
        let shape: Vec<_> = sources
            .iter()
            .map(|(id, source)| (id.clone(), source.size()))
            .collect();
        let tables = self.begin_source(&shape, false)?;
        let mut roots = Roots::new();
        for ((id, source), table) in sources.iter_mut().zip(&tables) {
            let path = self.table_path(id, "next");
            table.learn_all(source.as_mut()).context("read", &path)?;
            roots.extend(
                table
                    .root(id)
                    .context("read", &path)?
                    .map(|root| (id.clone(), root)),
            );
        }
        self.commit_source(
            tables,
            &shape,
            Point {
                roots: roots.clone(),
                point: point.to_owned(),
                pass,
            },
        )?;
        Ok(roots)
    }

    /// S9: locks all disks against every session, before a start.
    ///
    /// # Errors
    /// [`SetError::Busy`] when one is in use.
    pub fn lock_exclusive(&self) -> Result<Lock, SetError> {
        let disks = self
            .record
            .disks
            .iter()
            .map(|disk| self.locked(&disk.path, true))
            .collect::<Result<_, _>>()?;
        Ok(Lock { _disks: disks })
    }

    pub(super) fn locked(&self, path: &Path, exclusive: bool) -> Result<Arc<dyn Disk>, SetError> {
        let how = if exclusive { Open::Read } else { Open::Write };
        let disk = self.fs.open(path, how).context("open", path)?;
        if !disk.try_lock(exclusive).context("lock", path)? {
            return Err(SetError::Busy {
                path: path.to_owned(),
            });
        }
        Ok(disk)
    }

    /// Reads the state again and brings what was left half done to its end.
    pub(super) fn recover(&mut self) -> Result<(), SetError> {
        let path = self.record_path();
        if let Some(record) = Record::load(self.fs.as_ref(), &path)? {
            self.record = record;
        }
        if self.record.swap.is_some() {
            self.finish_swap()?;
        }
        let journal = self.journal_path();
        let there = self.fs.exists(&journal).context("look for", &journal)?;
        let settled = match (there, self.has_open_journal()) {
            (false, false) => true,
            (there, open) => there && open && self.uncommitted,
        };
        if settled {
            return Ok(());
        }
        let scan = JournalFile::scan(
            self.fs.as_ref(),
            &journal,
            self.journal_limit,
            |_, _| Ok(()),
        )
        .context("read", &journal)?;
        let committed = scan.as_ref().and_then(|scan| scan.committed.clone());
        match journal::recover(self.has_open_journal(), scan.is_some(), committed) {
            Recovery::Keep => {
                self.uncommitted = true;
                return Ok(());
            }
            Recovery::Drop => {}
            // The commit record was synced after everything was verified.
            Recovery::RollForward(point) => {
                self.record_whole(Content::Whole { point, exact: true })?;
            }
            Recovery::Lost => {
                self.record.content = Content::Unknown;
                self.store()?;
            }
        }
        self.drop_journal()
    }

    /// S14: takes the disks of the definition. Other disks than recorded are of unknown content.
    fn take_shape(&mut self, wanted: Vec<DiskRecord>) -> Result<(), SetError> {
        let key = |disks: &[DiskRecord]| {
            disks
                .iter()
                .map(|disk| (disk.id.clone(), disk.path.clone()))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        if key(&wanted).len() != wanted.len() {
            return Err(SetError::Shape("two disks have one name".to_owned()));
        }
        if key(&wanted) == key(&self.record.disks) {
            return Ok(());
        }
        if matches!(
            self.record.content,
            Content::Partial { .. } | Content::NewFiles { .. }
        ) {
            return Err(SetError::Shape("the VM's disks have changed while a pass is open over the old ones: undo it with those first".to_owned()));
        }
        let old = std::mem::replace(&mut self.record.disks, wanted);
        for disk in &mut self.record.disks {
            disk.fresh = old
                .iter()
                .any(|old| old.id == disk.id && old.path == disk.path && old.fresh);
        }
        self.record.content = Content::Unknown;
        self.record.sealed = None;
        self.store()
    }

    /// Records a whole point, with how the files look now.
    pub(super) fn record_whole(&mut self, content: Content) -> Result<(), SetError> {
        for at in 0..self.record.disks.len() {
            let path = self.record.disks[at].path.clone();
            if self.fs.exists(&path).context("look for", &path)? {
                let disk = self.fs.open(&path, Open::Read).context("open", &path)?;
                self.record.disks[at].size = disk.size().context("read", &path)?;
                self.record.disks[at].stamp = disk.durable_stamp().context("read", &path)?;
            }
            self.record.disks[at].fresh = false;
        }
        self.record.content = content;
        self.record.sealed = None;
        self.journal_limit = None;
        self.resend = false;
        self.store()
    }

    pub(super) fn drop_journal(&mut self) -> Result<(), SetError> {
        let path = self.journal_path();
        self.fs
            .remove(&path)
            .and_then(|()| self.fs.sync_dir(&self.dir))
            .context("remove", &path)?;
        self.journal_limit = None;
        self.uncommitted = false;
        Ok(())
    }

    pub(super) fn forget_tables(&self) -> Result<(), SetError> {
        for disk in &self.record.disks {
            let path = self.table_path(&disk.id, "digests");
            self.fs.remove(&path).context("remove", &path)?;
        }
        let tables = self.dir.join("tables");
        self.fs.sync_dir(&tables).context("sync", &tables)
    }

    pub(super) fn store(&self) -> Result<(), SetError> {
        self.record.store(self.fs.as_ref(), &self.record_path())
    }

    pub(super) fn disk_record(&self, id: &DiskId) -> Option<&DiskRecord> {
        self.record.disks.iter().find(|disk| disk.id == *id)
    }

    pub(super) fn record_path(&self) -> PathBuf {
        self.dir.join("set.json")
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// A table: `digests` describes the disks, `next` grows during a pass at the source, `incoming` belongs to new files.
    pub(super) fn table_path(&self, id: &DiskId, kind: &str) -> PathBuf {
        self.dir.join("tables").join(format!("{id}.{kind}"))
    }

    pub(super) fn open_table(
        &self,
        id: &DiskId,
        kind: &str,
        geometry: Geometry,
    ) -> Result<Option<Table>, SetError> {
        let path = self.table_path(id, kind);
        Table::open(self.fs.as_ref(), &path, geometry).context("open", &path)
    }
}

/// The folder of a file.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}
