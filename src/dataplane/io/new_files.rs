//! New files beside the disks: a full copy grows in them, and any pass for whose undo journal there is no room (S10).
//!
//! A full copy that was asked for is swapped in by the seal. A pass that was to be written in place and was turned to new files ends as
//! one in place does: whole means that the disks hold it, so it is swapped in at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fs::Open;
use super::table::Table;
use super::target::{Target, TargetDisk, refusal};
use super::undo::incoming_path;
use super::volume_set::{VolumeSet, parent};
use crate::dataplane::blocks::{BlockSet, Geometry};
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, Mode, Point};
use crate::dataplane::wire::{Hello, Refusal, RefusalKind, Welcome};

/// Where a pass can be written.
#[derive(Debug)]
pub(crate) enum Room {
    /// Where it was to be.
    Reserved,
    /// Not in place: in new files, for which the sender has to plan anew.
    NewFiles(Welcome),
}

/// How much is needed, how much is there, and words for it.
#[derive(Debug, Clone)]
pub(crate) struct Shortage {
    needed: u64,
    available: u64,
    words: String,
}

impl VolumeSet {
    pub(super) fn begin_new_files(&mut self, hello: &Hello) -> Result<(Target, Welcome), SetError> {
        self.check_files()?;
        if self.has_open_journal() {
            // The old files have to be whole while the new ones grow.
            self.undo()?;
        }
        let same = |set: &Self| {
            hello.disks.iter().all(|wanted| {
                set.disk_record(&wanted.id)
                    .is_some_and(|disk| disk.size == wanted.size)
            })
        };
        let mut done = false;
        match self.record.content.clone() {
            Content::NewFiles { pass, whole, .. } if pass == hello.pass && same(self) => {
                done = whole.is_some();
            }
            Content::NewFiles { base, .. } => {
                self.leave_new_files(base)?;
                self.make_new_files(hello)?;
            }
            Content::Unknown | Content::Whole { .. } | Content::Partial { .. } => {
                self.make_new_files(hello)?;
            }
        }
        let mut disks = Vec::new();
        let mut arrived = Vec::new();
        for wanted in &hello.disks {
            let record = self
                .disk_record(&wanted.id)
                .ok_or_else(|| SetError::Shape(format!("disk {} is not recorded", wanted.id)))?;
            let disk = self.locked(&incoming_path(&record.path), false)?;
            let geometry = Geometry::new(wanted.size).ok_or_else(|| {
                SetError::Shape(format!("disk {} has no possible size", wanted.id))
            })?;
            let path = self.table_path(&wanted.id, "incoming");
            let table =
                Table::open_or_create(self.fs.as_ref(), &path, geometry).context("open", &path)?;
            // S12: an entry stands only for what was synced and read back, and data comes in order.
            let end = if done {
                geometry.blocks()
            } else {
                table.known_end().context("read", &path)?
            };
            arrived.push(geometry.run_len(0, end));
            disks.push(TargetDisk {
                id: wanted.id.clone(),
                disk,
                geometry,
                before: geometry,
                fresh: true,
                table,
                covered: BlockSet::new(0),
                suspect: false,
                resizing: false,
            });
        }
        let welcome = Welcome {
            session: 0,
            base: None,
            partial: false,
            done,
            new_files: true,
            arrived,
        };
        Ok((
            Target {
                mode: Mode::NewFiles,
                pass: hello.pass,
                disks,
                scan: None,
                base: None,
                journal: None,
                no_journal: None,
                in_place_of: hello.mode == Mode::InPlace,
            },
            welcome,
        ))
    }

    /// A device has no place beside it.
    fn check_files(&self) -> Result<(), SetError> {
        for disk in &self.record.disks {
            let path = &disk.path;
            if self.fs.exists(path).context("look for", path)?
                && self
                    .fs
                    .open(path, Open::Read)
                    .context("open", path)?
                    .is_device()
            {
                return Err(SetError::Shape(format!(
                    "disk {} is a block device: it can only be written in place",
                    disk.id
                )));
            }
        }
        Ok(())
    }

    /// Makes empty new files beside the old ones, then records them.
    fn make_new_files(&mut self, hello: &Hello) -> Result<(), SetError> {
        for wanted in &hello.disks {
            let Some(record) = self.disk_record(&wanted.id) else {
                continue;
            };
            let incoming = incoming_path(&record.path);
            let dir = parent(&incoming);
            self.fs.create_dirs(dir).context("make", dir)?;
            let make = || {
                self.fs.remove(&incoming)?;
                let file = self.fs.open(&incoming, Open::CreateNew)?;
                file.set_size(wanted.size)?;
                file.sync()?;
                self.fs.sync_dir(dir)
            };
            make().context("create", &incoming)?;
            let geometry = Geometry::new(wanted.size).ok_or_else(|| {
                SetError::Shape(format!("disk {} has no possible size", wanted.id))
            })?;
            let path = self.table_path(&wanted.id, "incoming");
            Table::create(self.fs.as_ref(), &path, geometry).context("create", &path)?;
        }
        let base = match &self.record.content {
            Content::Whole { point, exact: true } => Some(point.clone()),
            _ => None,
        };
        for wanted in &hello.disks {
            if let Some(disk) = self
                .record
                .disks
                .iter_mut()
                .find(|disk| disk.id == wanted.id)
            {
                disk.size = wanted.size;
            }
        }
        self.record.content = Content::NewFiles {
            base,
            pass: hello.pass,
            whole: None,
        };
        self.record.sealed = None;
        self.store()
    }

    /// Reserves what a plan needs. Where the undo journal has no room the pass turns to new files, which `target` then shows.
    ///
    /// A refusal leaves the disks with what they held before.
    pub(crate) fn make_room(
        &mut self,
        hello: &Hello,
        target: &mut Target,
        blocks: u64,
        bytes: u64,
    ) -> Result<Room, Refusal> {
        let needed = Self::journal_space(target, blocks);
        let error = match self.reserve(target, blocks, bytes) {
            Ok(()) => return Ok(Room::Reserved),
            Err(error) if !error.is_no_space() => return Err(refusal(&error)),
            Err(error) => error,
        };
        if target.mode == Mode::NewFiles {
            return Err(self.no_room_for_files(target, bytes));
        }
        let (available, room) = match self.fs.room(&self.dir) {
            Ok(room) => (room.spare(), room.to_string()),
            Err(unknown) => (0, format!("its room is not known: {unknown}")),
        };
        let journal = Shortage {
            needed,
            available,
            words: format!(
                "the undo journal needs {needed} bytes; in {} {room} ({error})",
                self.dir.display()
            ),
        };
        match self.begin_new_files(hello) {
            Ok((mut new, welcome)) => {
                tracing::info!(vm = %hello.vm, pass = %hello.pass, why = %journal.words, "the pass goes to new files");
                new.no_journal = Some(journal);
                *target = new;
                Ok(Room::NewFiles(welcome))
            }
            Err(error) => {
                Err(journal.and(&format!("new files could not be made instead: {error}")))
            }
        }
    }

    fn no_room_for_files(&mut self, target: &Target, needed: u64) -> Refusal {
        let available = self.spare_for_files().unwrap_or(0);
        let words =
            format!("new files need {needed} bytes, and {available} can be had beside the disks");
        let Some(journal) = &target.no_journal else {
            return Shortage {
                needed,
                available,
                words,
            }
            .refusal();
        };
        // They were begun in this session and hold nothing yet.
        if let Content::NewFiles { base, .. } = self.record.content.clone()
            && let Err(error) = self.leave_new_files(base)
        {
            tracing::warn!(%error, "new files that are of no use could not be removed");
        }
        journal.and(&words)
    }

    pub(super) fn check_room(&self, bytes: u64) -> Result<(), SetError> {
        if self.spare_for_files()? < bytes {
            return Err(SetError::Io {
                what: "copy into",
                path: self.file_dirs().into_iter().next().unwrap_or_default(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }

    fn file_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = self
            .record
            .disks
            .iter()
            .map(|disk| parent(&disk.path).to_owned())
            .collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    fn spare_for_files(&self) -> Result<u64, SetError> {
        // Folders of one file system share its room.
        let mut spare = BTreeMap::new();
        for dir in self.file_dirs() {
            let file_system = self.fs.file_system(&dir).context("measure", &dir)?;
            let room = self.fs.room(&dir).context("measure", &dir)?;
            spare.insert(file_system, room.spare());
        }
        Ok(spare.into_values().fold(0, u64::saturating_add))
    }

    /// Ends a pass that was turned to new files as one in place ends: they take the place of the old ones. A crash goes on with it.
    pub(super) fn swap_in(&mut self, point: Point) -> Result<(), SetError> {
        self.record.swap = Some(point);
        self.record.swap_only = true;
        self.store()?;
        self.finish_swap()
    }
}

impl Shortage {
    /// Neither this nor the other way.
    fn and(&self, other: &str) -> Refusal {
        Shortage {
            words: format!("{}; {other}", self.words),
            ..self.clone()
        }
        .refusal()
    }

    fn refusal(self) -> Refusal {
        Refusal {
            needed: self.needed,
            available: self.available,
            ..Refusal::new(RefusalKind::NoSpace, self.words)
        }
    }
}
