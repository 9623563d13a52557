//! Back to the whole old content (S10). May be cut short anywhere and begun again: the journal stays until all is done.

use std::sync::Arc;

use super::fs::{Disk, Open};
use super::journal_file::JournalFile;
use super::record::DiskRecord;
use super::source::Padded;
use super::table::Table;
use super::volume_set::{VolumeSet, parent};
use crate::dataplane::blocks::{BLOCK, Geometry};
use crate::dataplane::digest::{Digest, zero_digest};
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, DiskId, Point};
use crate::dataplane::journal::{DiskBefore, Kind};

/// What undo has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndoReport {
    /// The content was whole: nothing was to be undone.
    NothingToDo,
    /// So many pre-images were written back.
    Restored {
        /// Pre-images of up to one block each.
        blocks: u64,
    },
    /// New files that were not swapped in were removed; the old ones had not been touched.
    NewFilesRemoved,
}

struct Restoring {
    before: DiskBefore,
    disk: Arc<dyn Disk>,
    table: Table,
}

impl VolumeSet {
    /// Brings the disks back to the whole content that they had before the open pass. Bar the sessions first
    /// ([`super::gate::Gate::close_all`]).
    ///
    /// # Errors
    /// [`SetError::Sealed`] after a seal (S11); [`SetError::UndoMismatch`] when what was restored has not the digests it had before;
    /// whatever reading and writing brings: then it can be begun again.
    pub fn undo(&mut self) -> Result<UndoReport, SetError> {
        self.recover()?;
        if self.record.sealed.is_some() {
            return Err(SetError::Sealed);
        }
        match self.record.content.clone() {
            Content::Unknown | Content::Whole { .. } => Ok(UndoReport::NothingToDo),
            Content::NewFiles { base, .. } => {
                self.leave_new_files(base)?;
                Ok(UndoReport::NewFilesRemoved)
            }
            Content::Partial { base, .. } => self.restore(base),
        }
    }

    fn restore(&mut self, base: Option<Point>) -> Result<UndoReport, SetError> {
        let path = self.journal_path();
        let header = JournalFile::read_header(self.fs.as_ref(), &path).context("read", &path)?;
        let Some(header) = header else {
            return Err(SetError::Damaged {
                path,
                why: "it is not there or its header is torn".to_owned(),
            });
        };
        let mut disks = Vec::new();
        for before in &header.disks {
            disks.push(self.begin_restoring(before)?);
        }
        let mut blocks = 0;
        JournalFile::scan(
            self.fs.as_ref(),
            &path,
            self.journal_limit,
            |head, payload| {
                let Some(Restoring { disk, table, .. }) = disks.get(usize::from(head.disk)) else {
                    return Ok(());
                };
                let digest = match head.kind {
                    Kind::Data => {
                        disk.write_at(head.offset, payload)?;
                        Digest::of(payload)
                    }
                    Kind::Zero => {
                        disk.zero(head.offset, head.len)?;
                        if head.len <= BLOCK {
                            zero_digest(head.len)
                        } else {
                            Digest::UNKNOWN
                        }
                    }
                    Kind::Commit => return Ok(()),
                };
                blocks += 1;
                table.write(head.offset / BLOCK, &[digest])
            },
        )
        .context("restore from", &path)?;
        for Restoring {
            before,
            disk,
            table,
        } in &disks
        {
            disk.sync()
                .and_then(|()| table.sync())
                .context("sync", &self.table_path(&before.id, "digests"))?;
        }
        // The journal holds bytes, the roots tell whether they are the right ones.
        let other = match &base {
            Some(base) => self.first_other(base, &disks)?,
            None => None,
        };
        self.record_before(&header.disks, base.filter(|_| other.is_none()))?;
        self.drop_journal()?;
        other.map_or(Ok(UndoReport::Restored { blocks }), |id| {
            Err(SetError::UndoMismatch(id))
        })
    }

    fn begin_restoring(&self, before: &DiskBefore) -> Result<Restoring, SetError> {
        let record = self.disk_record(&before.id).ok_or_else(|| {
            SetError::Shape(format!("disk {} of the journal is not recorded", before.id))
        })?;
        let disk = self
            .fs
            .open(&record.path, Open::Write)
            .context("open", &record.path)?;
        let geometry = Geometry::new(before.size)
            .ok_or_else(|| SetError::Shape(format!("disk {} has no possible size", before.id)))?;
        if disk.size().context("read", &record.path)? != before.size {
            disk.set_size(before.size).context("resize", &record.path)?;
        }
        if before.fresh {
            disk.zero(0, before.size).context("empty", &record.path)?;
        }
        let path = self.table_path(&before.id, "digests");
        let table =
            Table::open_or_create(self.fs.as_ref(), &path, geometry).context("open", &path)?;
        Ok(Restoring {
            before: before.clone(),
            disk,
            table,
        })
    }

    /// The first disk whose root is not that of the base. A table that was made anew during the pass is read first.
    fn first_other(&self, base: &Point, disks: &[Restoring]) -> Result<Option<DiskId>, SetError> {
        for Restoring {
            before,
            disk,
            table,
        } in disks
        {
            let path = self.table_path(&before.id, "digests");
            let mut source = Padded {
                disk: disk.as_ref(),
                size: before.size,
            };
            table.learn_all(&mut source).context("read", &path)?;
            if table.root(&before.id).context("read", &path)?.as_ref() != base.roots.get(&before.id)
            {
                return Ok(Some(before.id.clone()));
            }
        }
        Ok(None)
    }

    fn record_before(&mut self, disks: &[DiskBefore], base: Option<Point>) -> Result<(), SetError> {
        let content = base.map_or(Content::Unknown, |point| Content::Whole {
            point,
            exact: true,
        });
        for before in disks {
            let Some(at) = self
                .record
                .disks
                .iter()
                .position(|disk| disk.id == before.id)
            else {
                continue;
            };
            let path = self.record.disks[at].path.clone();
            let file = self.fs.open(&path, Open::Read).context("open", &path)?;
            let DiskRecord {
                size, fresh, stamp, ..
            } = &mut self.record.disks[at];
            (*size, *fresh) = (before.size, before.fresh);
            *stamp = file.durable_stamp().context("read", &path)?;
        }
        self.record.content = content;
        self.resend = false;
        self.store()
    }

    /// Removes new files that were not swapped in. The old ones were never touched.
    pub(super) fn leave_new_files(&mut self, base: Option<Point>) -> Result<(), SetError> {
        self.record.content = base.map_or(Content::Unknown, |point| Content::Whole {
            point,
            exact: true,
        });
        for at in 0..self.record.disks.len() {
            let path = self.record.disks[at].path.clone();
            if self.fs.exists(&path).context("look for", &path)? {
                let size = self
                    .fs
                    .open(&path, Open::Read)
                    .and_then(|disk| disk.size())
                    .context("read", &path)?;
                self.record.disks[at].size = size;
            }
        }
        // Recorded first: files of that name are then strays that the next copy removes.
        self.store()?;
        for disk in self.record.disks.clone() {
            let incoming = incoming_path(&disk.path);
            self.fs
                .remove(&incoming)
                .and_then(|()| self.fs.sync_dir(parent(&incoming)))
                .context("remove", &incoming)?;
            let table = self.table_path(&disk.id, "incoming");
            self.fs.remove(&table).context("remove", &table)?;
        }
        Ok(())
    }
}

/// Where a full copy of a disk grows.
pub(super) fn incoming_path(path: &std::path::Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".incoming");
    name.into()
}
