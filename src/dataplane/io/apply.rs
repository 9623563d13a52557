//! Applying what arrives, in the order of S10: pre-images, sync of the journal, write, sync, read back, table, sync.
//!
//! Three stages, each a thread of its own in production, so that one batch is received while the one before it is journaled, the
//! one before that is written and an earlier stretch is synced and read back. Batches are a fixed few, which bounds memory.

use std::ops::Range;
use std::sync::Arc;

use super::fs::Disk;
use super::gate::Session;
use super::room::Room;
use super::source::Padded;
use super::source::Window;
use super::table::Table;
use super::target::{BATCH, Target, TargetDisk};
use crate::dataplane::blocks::{BLOCK, FRAME_PAYLOAD, Geometry};
use crate::dataplane::digest::{BlockHash, Digest};
use crate::dataplane::error::is_no_space;
use crate::dataplane::identity::DiskId;
use crate::dataplane::wire::{Failure, FailureKind};

/// Bytes that are written between two checkpoints.
const CHECKPOINT: u64 = 64 * 1024 * 1024;

/// Blocks that are written between two checkpoints, so that a list of them stays small.
const CHECKPOINT_BLOCKS: u64 = 64 * 1024;

/// Items in a batch.
const ITEMS: usize = 1024;

/// Some runs that arrived, with their bytes.
#[derive(Debug)]
pub(crate) struct Batch {
    data: Vec<u8>,
    used: usize,
    items: Vec<Item>,
}

/// One run.
#[derive(Debug)]
struct Item {
    disk: usize,
    blocks: Range<u64>,
    /// Where its bytes lie in the batch; `None`: zeros.
    at: Option<usize>,
    /// One a block; none for zeros.
    digests: Vec<Digest>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            data: vec![0; usize::try_from(BATCH).unwrap_or(0)],
            used: 0,
            items: Vec::new(),
        }
    }

    /// The place for the bytes of the next run; `None` when the batch is full.
    pub(crate) fn place(&mut self, len: usize) -> Option<&mut [u8]> {
        self.data.get_mut(self.used..self.used + len)
    }

    /// Adds a run of data whose bytes were put into its [`Batch::place`].
    pub(crate) fn data(
        &mut self,
        disk: usize,
        blocks: Range<u64>,
        digests: Vec<Digest>,
        len: usize,
    ) {
        self.items.push(Item {
            disk,
            blocks,
            at: Some(self.used),
            digests,
        });
        self.used += len;
    }

    /// Adds a run of zeros.
    pub(crate) fn zeros(&mut self, disk: usize, blocks: Range<u64>) {
        self.items.push(Item {
            disk,
            blocks,
            at: None,
            digests: Vec::new(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the next frame should go into another one.
    pub(crate) fn is_full(&self) -> bool {
        self.used as u64 + FRAME_PAYLOAD > BATCH || self.items.len() >= ITEMS
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.items.clear();
    }
}

/// The stage that makes a batch undoable.
#[derive(Debug)]
pub(crate) struct JournalStage<'a> {
    pub(crate) target: &'a mut Target,
}

impl JournalStage<'_> {
    /// S10: the first pre-image of every block of the batch, durably. Only after this may the batch be written.
    pub(crate) fn cover(&mut self, batch: &Batch) -> Result<(), StageError> {
        for item in &batch.items {
            self.target
                .cover(item.disk, &item.blocks)
                .map_err(|error| StageError::io("reading or journaling what was there", &error))?;
        }
        match &mut self.target.journal {
            Some(journal) => journal.sync().map_err(|error| StageError {
                journal_sync: true,
                ..StageError::io("syncing the journal", &error)
            }),
            None => Ok(()),
        }
    }
}

/// What the later stages need of a disk; they share nothing that changes with the first one.
#[derive(Debug)]
struct StageDisk {
    id: DiskId,
    disk: Arc<dyn Disk>,
    geometry: Geometry,
    table: Table,
}

fn stage_disks(disks: &[TargetDisk]) -> Vec<StageDisk> {
    disks
        .iter()
        .map(|disk| StageDisk {
            id: disk.id.clone(),
            disk: Arc::clone(&disk.disk),
            geometry: disk.geometry,
            table: disk.table.share(),
        })
        .collect()
}

/// Runs that were written and are not yet known to be durable.
#[derive(Debug, Default)]
pub(crate) struct Written {
    runs: Vec<WrittenRun>,
    bytes: u64,
    blocks: u64,
}

#[derive(Debug)]
struct WrittenRun {
    disk: usize,
    blocks: Range<u64>,
    /// One a block; none for zeros.
    digests: Vec<Digest>,
}

impl Written {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether it is worth a sync.
    pub(crate) fn is_due(&self) -> bool {
        self.bytes >= CHECKPOINT || self.blocks >= CHECKPOINT_BLOCKS
    }

    /// Whether it may not grow further.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= 4 * CHECKPOINT || self.blocks >= 4 * CHECKPOINT_BLOCKS
    }
}

/// The stage that writes.
#[derive(Debug)]
pub(crate) struct WriteStage {
    disks: Vec<StageDisk>,
    session: Session,
}

impl WriteStage {
    pub(crate) fn new(disks: &[TargetDisk], session: Session) -> Self {
        Self {
            disks: stage_disks(disks),
            session,
        }
    }

    /// Writes a batch that is covered.
    pub(crate) fn write(&self, batch: &mut Batch, written: &mut Written) -> Result<(), StageError> {
        let crowded = self.crowded(batch.used as u64)?;
        for item in batch.items.drain(..) {
            let Some(disk) = self.disks.get(item.disk) else {
                continue;
            };
            let blocks = item.blocks.end - item.blocks.start;
            let len = disk.geometry.run_len(item.blocks.start, blocks);
            let offset = item.blocks.start * BLOCK;
            if item.at.is_some()
                && let Some(room) = crowded.get(item.disk).copied().flatten()
                && !disk.takes_no_room(&(offset..offset + len))?
            {
                let words = format!("writing disk {}: it grows, and {room}", disk.id);
                return Err(StageError::new(FailureKind::NoSpace, words));
            }
            let failed = |error: &std::io::Error| {
                StageError::io(&format!("writing disk {}", disk.id), error)
            };
            // S9: the session's number is checked at every write, under the lock that closing takes.
            let enter = || {
                self.session
                    .enter()
                    .map_err(|barred| StageError::new(FailureKind::Barred, barred.to_string()))
            };
            if let Some(at) = item.at {
                let bytes = &batch.data[at..at + usize::try_from(len).unwrap_or(0)];
                let entered = enter()?;
                disk.disk
                    .write_at(offset, bytes)
                    .map_err(|error| failed(&error))?;
                drop(entered);
                written.bytes += len;
            } else {
                // S16: zeros are content. A long run of them may take a while, and whoever closes the session waits for one piece of it.
                let mut done = 0;
                while done < len {
                    let piece = (len - done).min(ZEROS_AT_ONCE);
                    let entered = enter()?;
                    disk.disk
                        .zero(offset + done, piece)
                        .map_err(|error| failed(&error))?;
                    drop(entered);
                    done += piece;
                }
            }
            disk.disk.start_writeback(offset, len);
            written.blocks += blocks;
            written.runs.push(WrittenRun {
                disk: item.disk,
                blocks: item.blocks,
                digests: item.digests,
            });
        }
        Ok(())
    }
}

impl WriteStage {
    /// The room of each disk whose file system cannot take so many bytes more and leave to others what is theirs.
    ///
    /// What a plan needs was looked at before the pass; others have taken room since, and a sparse disk fills up where nobody counted.
    fn crowded(&self, bytes: u64) -> Result<Vec<Option<Room>>, StageError> {
        let look = |disk: &StageDisk| {
            let room = disk.disk.room().map_err(|error| {
                StageError::io(&format!("measuring the room of disk {}", disk.id), &error)
            })?;
            Ok(room.filter(|room| room.spare() < bytes))
        };
        self.disks.iter().map(look).collect()
    }
}

impl StageDisk {
    fn takes_no_room(&self, range: &Range<u64>) -> Result<bool, StageError> {
        self.disk.has_room(range).map_err(|error| {
            StageError::io(&format!("measuring the room of disk {}", self.id), &error)
        })
    }
}

/// Bytes of zeros that are written between two looks at whether the session still may.
const ZEROS_AT_ONCE: u64 = 64 * 1024 * 1024;

/// The stage that makes durable and proves.
#[derive(Debug)]
pub(crate) struct ProveStage {
    disks: Vec<StageDisk>,
    windows: Vec<Window>,
    hashes: Vec<BlockHash>,
    durable: u64,
}

impl ProveStage {
    pub(crate) fn new(disks: &[TargetDisk]) -> Self {
        Self {
            disks: stage_disks(disks),
            windows: disks
                .iter()
                .map(|disk| Window::new(disk.geometry))
                .collect(),
            hashes: Vec::new(),
            durable: 0,
        }
    }

    /// Makes durable what was written, and proves it (S12, S17): sync, read back, compare with what was promised, then the
    /// tables. Gives how many blocks of the session are durable.
    pub(crate) fn prove(&mut self, written: &Written) -> Result<u64, StageError> {
        let touched = |at: usize| written.runs.iter().any(|run| run.disk == at);
        for (_, disk) in self.disks.iter().enumerate().filter(|(at, _)| touched(*at)) {
            disk.disk.sync().map_err(|error| StageError {
                disk_sync: true,
                ..StageError::io(&format!("syncing disk {}", disk.id), &error)
            })?;
        }
        for run in &written.runs {
            self.read_back(run)?;
        }
        for (_, disk) in self.disks.iter().enumerate().filter(|(at, _)| touched(*at)) {
            disk.table.sync().map_err(|error| {
                StageError::io(&format!("syncing the table of disk {}", disk.id), &error)
            })?;
        }
        self.durable += written.blocks;
        Ok(self.durable)
    }

    fn read_back(&mut self, written: &WrittenRun) -> Result<(), StageError> {
        let Some((disk, window)) = self
            .disks
            .get(written.disk)
            .zip(self.windows.get_mut(written.disk))
        else {
            return Ok(());
        };
        let failed = |error: &std::io::Error| {
            StageError::io(&format!("reading disk {} back", disk.id), error)
        };
        let mut source = Padded {
            disk: disk.disk.as_ref(),
            size: disk.geometry.size(),
        };
        // What was a hole before may be data now.
        window.forget_holes();
        for run in super::table::chunks(written.blocks.clone()) {
            self.hashes.clear();
            window
                .hash(&mut source, &run, &mut self.hashes)
                .map_err(|error| failed(&error))?;
            for (block, hash) in run.clone().zip(&self.hashes) {
                let at = usize::try_from(block - written.blocks.start).unwrap_or(usize::MAX);
                let promised = match written.digests.get(at) {
                    Some(digest) => *digest,
                    None => BlockHash::zero(disk.geometry.block_len(block)).digest,
                };
                if hash.digest != promised {
                    let text = format!(
                        "disk {}: what was read back at byte {} is not what was sent",
                        disk.id,
                        block * BLOCK
                    );
                    return Err(StageError::new(FailureKind::Corrupt, text));
                }
            }
            let digests: Vec<_> = self.hashes.iter().map(|hash| hash.digest).collect();
            disk.table
                .write(run.start, &digests)
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Why a stage stopped.
#[derive(Debug)]
pub(crate) struct StageError {
    pub(crate) failure: Failure,
    /// The journal's sync failed: records after its last good one must not count (S12).
    pub(crate) journal_sync: bool,
    /// A disk's sync failed: what the cache shows must not be believed (S12).
    pub(crate) disk_sync: bool,
}

impl StageError {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            failure: Failure::new(kind, message),
            journal_sync: false,
            disk_sync: false,
        }
    }

    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        let kind = if is_no_space(error) {
            FailureKind::NoSpace
        } else {
            FailureKind::TargetIo
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}
