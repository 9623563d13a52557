//! A volume set as the target of a pass: what it can offer to a sender, and opening the journal or the new files.

use std::sync::Arc;

use uuid::Uuid;

use super::fs::{Disk, Open};
use super::journal_file::{JournalFile, Scan};
use super::new_files::Shortage;
use super::table::{Table, chunks};
use super::volume_set::VolumeSet;
use crate::dataplane::blocks::{BLOCK, BlockSet, Geometry};
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, DiskId, Mode, Point, Roots};
use crate::dataplane::journal::{self, DiskBefore, Header};
use crate::dataplane::wire::{Hello, Refusal, RefusalKind, Welcome};

/// Bytes of data between two syncs of the journal.
pub(crate) const BATCH: u64 = 2 * 1024 * 1024;

/// A disk as a session writes it.
#[derive(Debug)]
pub(crate) struct TargetDisk {
    pub(crate) id: DiskId,
    /// What is written: the disk, or its new file.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) geometry: Geometry,
    /// The size before the first write.
    pub(crate) before: Geometry,
    /// Nothing but zeros was there: no pre-images are needed, zeros need not be written.
    pub(crate) fresh: bool,
    pub(crate) table: Table,
    /// Blocks whose first pre-image is in the journal.
    pub(crate) covered: BlockSet,
    /// Blocks of which the cache may show what the disk does not have (S12): they are sent again.
    pub(super) suspect: bool,
    /// The table still is of another size: nothing is learned into it.
    pub(super) resizing: bool,
}

/// One session's view of the set.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) mode: Mode,
    pub(crate) pass: Uuid,
    pub(crate) disks: Vec<TargetDisk>,
    pub(super) scan: Option<Scan>,
    pub(super) base: Option<Point>,
    /// The journal of this session, once opened.
    pub(crate) journal: Option<JournalFile>,
    /// Why the pass turned to new files in this session.
    pub(super) no_journal: Option<Shortage>,
    /// New files of a pass that was to be written in place: they are swapped in when they are whole.
    pub(super) in_place_of: bool,
}

impl VolumeSet {
    /// Gets ready to receive: recovers, checks the shape, locks the disks, finds what can be trusted.
    pub(crate) fn begin_target(&mut self, hello: &Hello) -> Result<(Target, Welcome), SetError> {
        self.recover()?;
        self.check_shape(hello)?;
        self.void_if_touched()?;
        match (hello.mode, &self.record.content) {
            // What has turned to new files goes on in them: what has arrived there is not sent again.
            (Mode::InPlace, Content::NewFiles { pass, .. }) if *pass == hello.pass => {
                self.begin_new_files(hello)
            }
            (Mode::InPlace, _) => self.begin_in_place(hello),
            (Mode::NewFiles, _) => self.begin_new_files(hello),
        }
    }

    /// S14: the sender's disks must be this VM's disks.
    fn check_shape(&self, hello: &Hello) -> Result<(), SetError> {
        let missing = hello
            .disks
            .iter()
            .find(|disk| self.disk_record(&disk.id).is_none());
        if let Some(disk) = missing {
            return Err(SetError::Shape(format!(
                "disk {} has no counterpart at the target",
                disk.id
            )));
        }
        if let Some(disk) = self
            .record
            .disks
            .iter()
            .find(|disk| !hello.disks.iter().any(|named| named.id == disk.id))
        {
            return Err(SetError::Shape(format!(
                "disk {} of the target is not at the source",
                disk.id
            )));
        }
        Ok(())
    }

    /// A file that was written by somebody else since its content was recorded does not hold it any more.
    pub(super) fn void_if_touched(&mut self) -> Result<(), SetError> {
        let exact = matches!(self.record.content, Content::Whole { exact: true, .. });
        let mut touched = false;
        for record in &self.record.disks {
            if !(exact || record.fresh)
                || !self
                    .fs
                    .exists(&record.path)
                    .context("look for", &record.path)?
            {
                touched |= exact;
                continue;
            }
            let disk = self
                .fs
                .open(&record.path, Open::Read)
                .context("open", &record.path)?;
            let same_size = disk.size().context("read", &record.path)? == record.size;
            let stamp = disk.stamp().context("read", &record.path)?;
            touched |= !same_size || (record.stamp.is_some() && record.stamp != stamp);
        }
        if touched { self.void() } else { Ok(()) }
    }

    fn begin_in_place(&mut self, hello: &Hello) -> Result<(Target, Welcome), SetError> {
        if let Content::NewFiles { base, .. } = self.record.content.clone() {
            self.leave_new_files(base)?;
            // The old files stood beside the new ones for a while, and nobody looked at them.
            self.void_if_touched()?;
        }
        let (base, offered, trusted) = match &self.record.content {
            Content::Whole { point, exact: true } => {
                (Some(point.clone()), Some(point.clone()), true)
            }
            Content::Partial { base, distrust, .. } => {
                (base.clone(), base.clone().filter(|_| !distrust), true)
            }
            Content::Whole { exact: false, .. } | Content::Unknown | Content::NewFiles { .. } => {
                (None, None, false)
            }
        };
        let done = matches!(&self.record.content, Content::Whole { point, exact: true } if point.pass == hello.pass);
        let resend =
            self.resend || matches!(self.record.content, Content::Partial { resend: true, .. });
        let mut disks = Vec::new();
        for wanted in &hello.disks {
            disks.push(self.open_in_place(&wanted.id, wanted.size, trusted, resend)?);
        }
        let mut scan = None;
        if self.has_open_journal() {
            scan = self.find_covered(&mut disks)?;
        }
        // A table that does not have the roots of the point it should describe is worth nothing.
        if scan.is_none() && base.is_some() && !self.tables_match(&disks, offered.as_ref())? {
            self.void()?;
            self.forget_tables()?;
            return self.begin_in_place(hello);
        }
        // S14: a bitmap over other sizes is no hint at all.
        let same = disks.iter().all(|disk| disk.geometry == disk.before);
        let welcome = Welcome {
            session: 0,
            base: offered.filter(|_| same).map(|point| point.roots),
            partial: scan.is_some(),
            done: done && same,
            new_files: false,
            arrived: disks
                .iter()
                .map(TargetDisk::arrived)
                .collect::<std::io::Result<_>>()
                .context("read", &self.dir)?,
        };
        Ok((
            Target {
                mode: Mode::InPlace,
                pass: hello.pass,
                disks,
                scan,
                base,
                journal: None,
                no_journal: None,
                in_place_of: false,
            },
            welcome,
        ))
    }

    fn open_in_place(
        &self,
        id: &DiskId,
        size: u64,
        trusted: bool,
        resend: bool,
    ) -> Result<TargetDisk, SetError> {
        let shape = |what: &str| SetError::Shape(format!("disk {id}: {what}"));
        let record = self.disk_record(id).ok_or_else(|| shape("not recorded"))?;
        if !self
            .fs
            .exists(&record.path)
            .context("look for", &record.path)?
        {
            return Err(shape(&format!(
                "{} is not there; it has to be created first",
                record.path.display()
            )));
        }
        let disk = self.locked(&record.path, false)?;
        let geometry = Geometry::new(size).ok_or_else(|| shape("no disk has such a size"))?;
        let now = disk.size().context("read", &record.path)?;
        let before = Geometry::new(now)
            .ok_or_else(|| shape(&format!("{now} bytes at the target are no multiple of 512")))?;
        if disk.is_device() && geometry != before {
            return Err(shape(&format!(
                "the device at the target has {now} bytes, the source {size}, and a device cannot be resized"
            )));
        }
        let path = self.table_path(id, "digests");
        let table = if trusted {
            Table::open_or_create(self.fs.as_ref(), &path, before)
        } else {
            Table::create(self.fs.as_ref(), &path, before)
        };
        Ok(TargetDisk {
            id: id.clone(),
            disk,
            geometry,
            before,
            fresh: record.fresh,
            table: table.context("open", &path)?,
            covered: BlockSet::new(before.blocks()),
            suspect: resend,
            resizing: geometry != before,
        })
    }

    /// Reads the open journal: which blocks it covers, how large the disks were. Their entries are never trusted (S12).
    fn find_covered(&self, disks: &mut [TargetDisk]) -> Result<Option<Scan>, SetError> {
        let path = self.journal_path();
        let header = JournalFile::read_header(self.fs.as_ref(), &path).context("read", &path)?;
        let Some(header) = header else {
            return Ok(None);
        };
        let mut places = Vec::new();
        for before in &header.disks {
            let at = disks.iter().position(|disk| disk.id == before.id);
            if let (Some(at), Some(geometry)) = (at, Geometry::new(before.size)) {
                let disk = &mut disks[at];
                // What the table describes is the disk as it is; what needs a pre-image is the disk as it was.
                disk.before = geometry;
                disk.fresh = before.fresh;
                disk.covered = BlockSet::new(geometry.blocks());
                if before.fresh {
                    disk.table = Table::create(
                        self.fs.as_ref(),
                        &self.table_path(&disk.id, "digests"),
                        disk.geometry,
                    )
                    .context("create", &path)?;
                }
            }
            places.push(at);
        }
        // What lies behind the old end has no pre-image that would tell that it was written.
        for disk in disks.iter_mut().filter(|disk| !disk.resizing) {
            let behind = disk.before.blocks()..disk.geometry.blocks();
            if !disk.fresh && !behind.is_empty() {
                disk.table.forget(&behind).context("write", &path)?;
            }
        }
        JournalFile::scan(self.fs.as_ref(), &path, self.journal_limit, |head, _| {
            if let Some(disk) = places
                .get(usize::from(head.disk))
                .copied()
                .flatten()
                .and_then(|at| disks.get_mut(at))
            {
                let blocks = disk
                    .before
                    .blocks_of(&(head.offset..head.offset + head.len));
                disk.covered.insert_range(blocks.clone());
                if !disk.resizing {
                    disk.table
                        .forget(&(blocks.start..blocks.end.min(disk.geometry.blocks())))?;
                }
            }
            Ok(())
        })
        .context("read", &path)
    }

    fn tables_match(&self, disks: &[TargetDisk], point: Option<&Point>) -> Result<bool, SetError> {
        let Some(point) = point else { return Ok(true) };
        for disk in disks {
            let root = disk
                .table
                .root(&disk.id)
                .context("read", &self.table_path(&disk.id, "digests"))?;
            if root.as_ref() != point.roots.get(&disk.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// S10: room first, then the journal, durably, then the record that a pass writes, then what it protects.
    pub(crate) fn reserve(
        &mut self,
        target: &mut Target,
        blocks: u64,
        bytes: u64,
    ) -> Result<(), SetError> {
        if target.mode == Mode::NewFiles {
            return self.check_room(bytes);
        }
        let resizes = target.disks.iter().any(|disk| disk.resizing);
        if blocks == 0 && !resizes && target.scan.is_none() {
            return Ok(());
        }
        let space = Self::journal_space(target, blocks);
        let path = self.journal_path();
        self.check_room_for_journal(target.scan.as_ref(), space)?;
        // From here on there may be a commit record in it.
        self.uncommitted = false;
        let journal = match target.scan.take() {
            Some(scan) => {
                let journal = JournalFile::reopen(self.fs.as_ref(), &path, scan, space)
                    .context("extend", &path)?;
                // What must not count is cut off, durably. What comes now in its place does count.
                self.journal_limit = None;
                journal
            }
            None => {
                let before = |disk: &TargetDisk| DiskBefore {
                    id: disk.id.clone(),
                    size: disk.before.size(),
                    fresh: disk.fresh,
                };
                let header = Header {
                    pass: target.pass,
                    salt: [Uuid::new_v4(), Uuid::new_v4()],
                    disks: target.disks.iter().map(before).collect(),
                };
                JournalFile::create(self.fs.as_ref(), &path, header, space)
                    .context("reserve", &path)?
            }
        };
        let (distrust, resend) = match self.record.content {
            Content::Partial {
                distrust, resend, ..
            } => (distrust, resend || self.resend),
            _ => (false, false),
        };
        self.record.content = Content::Partial {
            base: target.base.clone(),
            pass: target.pass,
            distrust,
            resend,
        };
        self.record.sealed = None;
        self.record
            .disks
            .iter_mut()
            .for_each(|disk| disk.fresh = false);
        self.store()?;
        target.journal = Some(journal);
        self.resize(target)
    }

    /// Bytes that the journal needs at most for a plan.
    pub(super) fn journal_space(target: &Target, blocks: u64) -> u64 {
        let old = |disk: &&TargetDisk| !disk.fresh;
        let cut: u64 = target
            .disks
            .iter()
            .filter(|disk| disk.resizing)
            .filter(old)
            .map(|disk| {
                disk.before
                    .blocks()
                    .saturating_sub(disk.geometry.size() / BLOCK)
            })
            .sum();
        // There is one pre-image at most of every block that was there, and none of a disk that was empty.
        let there: u64 = target
            .disks
            .iter()
            .filter(old)
            .map(|disk| disk.before.blocks())
            .sum();
        let blocks = (blocks + cut).min(there);
        journal::space(blocks)
    }

    /// The journal lies beside the registers of all VMs: it never takes the last room there.
    fn check_room_for_journal(&self, scan: Option<&Scan>, space: u64) -> Result<(), SetError> {
        let path = self.journal_path();
        let mut needed = space;
        if let Some(scan) = scan {
            let there = self
                .fs
                .open(&path, Open::Read)
                .and_then(|file| file.size())
                .context("measure", &path)?;
            needed = scan.end.saturating_add(space).saturating_sub(there);
        }
        if self
            .fs
            .room(&self.dir)
            .context("measure", &self.dir)?
            .spare()
            < needed
        {
            return Err(SetError::Io {
                what: "reserve",
                path,
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }

    /// After a session: what is in memory follows what is durable.
    pub(crate) fn settle(&mut self) -> Result<(), SetError> {
        self.recover()
    }

    /// Gives the disks the sizes of the source, after what a cut takes away is in the journal.
    fn resize(&self, target: &mut Target) -> Result<(), SetError> {
        for at in 0..target.disks.len() {
            if !target.disks[at].resizing {
                continue;
            }
            let first = target.disks[at].geometry.size() / BLOCK;
            let last = target.disks[at].before.blocks();
            for run in chunks(first.min(last)..last) {
                target
                    .cover(at, &run)
                    .context("journal", &self.journal_path())?;
            }
            if let Some(journal) = &mut target.journal {
                journal.sync().context("sync", &self.journal_path())?;
            }
            let disk = &mut target.disks[at];
            disk.disk
                .set_size(disk.geometry.size())
                .context("resize", &self.table_path(&disk.id, "digests"))?;
            let path = self.table_path(&disk.id, "digests");
            disk.table =
                Table::create(self.fs.as_ref(), &path, disk.geometry).context("create", &path)?;
            disk.resizing = false;
        }
        Ok(())
    }
}

/// What to tell a sender whose pass cannot begin.
pub(crate) fn refusal(error: &SetError) -> Refusal {
    let kind = match error {
        SetError::Busy { .. } => RefusalKind::Busy,
        SetError::Shape(_) => RefusalKind::Shape,
        SetError::Sealed => RefusalKind::Fenced,
        error if error.is_no_space() => RefusalKind::NoSpace,
        _ => RefusalKind::Internal,
    };
    Refusal::new(kind, error.to_string())
}

/// The roots of tables, where every entry is known.
pub(crate) fn roots(disks: &[TargetDisk]) -> std::io::Result<Roots> {
    let mut roots = Roots::new();
    for disk in disks {
        roots.extend(
            disk.table
                .root(&disk.id)?
                .map(|root| (disk.id.clone(), root)),
        );
    }
    Ok(roots)
}
