//! Reads what the test guest wrote to its disks, and says what is missing.
//!
//! The writer is `tools/guest/recorder.c`; this module reads its format independently, from the raw images. All numbers
//! are little-endian, sectors have 4096 bytes, and the last 8 bytes of a sector are its [`checksum`].
//!
//! ```text
//! sector 0            superblock "HWDISK01": which disk of how many, of which set, and where the areas below are
//! from ring_start     ring of records "HWREC001", ring_sectors long
//! from scribble_start area of scribbles "HWSCRIB1", scribble_sectors long
//! ```
//!
//! **Records.** Record n (from 1) lies on disk n mod k, at sector n / k mod `ring_sectors` of its ring; so the ring as a
//! whole holds `capacity = k * ring_sectors` records, and record n takes the place of record n - capacity. A record
//! holds its number, the checksum of the record before it, the id of the boot that wrote it, the site, the VM, the time
//! and how many scribbles had been completed. It is durable before the next one is begun. So whatever was copied at one
//! point in time, or was left behind by a crash, is a prefix: with `last` the highest record,
//!
//! - every record from `max(1, last + 2 - capacity)` to `last` must be there, each naming the checksum of the one before;
//! - the place of record `last + 1` may be in any state, its write may have been under way;
//! - the places of all later records are still blank.
//!
//! The chain of checksums finds what a gap cannot: two histories, written at two sites from one ancestor and mixed.
//!
//! **Scribbles** are what a busy guest writes without waiting. Scribble i (from 1) fills four sectors at a place that
//! follows from the seed in the superblock, so it is known which ones must be there: of the scribbles up to the number
//! that the last record names, each place holds the latest or a later one; and no scribble names a record as older than
//! itself that is not there.

use std::{
    fs::File,
    ops::RangeInclusive,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

mod layout;
mod report;
mod scribbles;

pub use layout::{Kind, Record, checksum};
pub use report::{Boot, Problem, Report};

use layout::{Superblock, is_blank};
use report::Slot;

const SECTOR: usize = 4096;
/// How much is read at a time.
const BATCH: usize = 256;

/// Reads the disks of one VM, given in the order in which the guest has them, and reports what they hold.
///
/// Disks that were never written give an empty report without problems.
///
/// # Errors
///
/// When a file cannot be read, or the disks are not those of one recorder in this order.
pub fn read_disks<P: AsRef<Path>>(paths: &[P]) -> Result<Report> {
    ensure!(!paths.is_empty(), "no disks");
    let disks = paths
        .iter()
        .map(|path| Disk::open(path.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let Some(set) = superblock(&disks)? else {
        return Ok(Report::default());
    };
    let slots = ring(&disks, &set)?;
    let mut report = Report::of_ring(&set, &slots);
    report
        .problems
        .extend(scribbles::check(&disks, &set, &report)?);
    Ok(report)
}

/// The superblock of disk 0, after a look at all of them; nothing when the set was never written.
fn superblock(disks: &[Disk]) -> Result<Option<Superblock>> {
    let mut first: Option<Superblock> = None;
    for (index, disk) in disks.iter().enumerate() {
        let sector = disk.read(0, 1)?;
        if is_blank(&sector) {
            // Disk 0 is formatted last, so nothing was recorded without it.
            if index == 0 {
                return Ok(None);
            }
            bail!(
                "{} has no superblock, and the first disk has one",
                disk.path.display()
            );
        }
        let found = Superblock::parse(&sector)
            .with_context(|| format!("{} has a foreign superblock", disk.path.display()))?;
        ensure!(
            (found.disk, found.disks) == (u32::try_from(index)?, u32::try_from(disks.len())?),
            "{} is disk {} of {}, not {index} of {}",
            disk.path.display(),
            found.disk,
            found.disks,
            disks.len()
        );
        ensure!(
            found.scribble_start + found.scribble_sectors <= disk.sectors,
            "{} has shrunk",
            disk.path.display()
        );
        match &first {
            None => first = Some(found),
            Some(first) => ensure!(
                first.same_set(&found),
                "{} is of another set",
                disk.path.display()
            ),
        }
    }
    Ok(first)
}

/// What each place of the ring holds: place n mod capacity is that of record n.
fn ring(disks: &[Disk], set: &Superblock) -> Result<Vec<Slot>> {
    let capacity = set.capacity();
    let mut slots = vec![Slot::Blank; usize::try_from(capacity)?];
    for (index, disk) in disks.iter().enumerate() {
        disk.each_sector(set.ring_start, set.ring_sectors, |at, sector| {
            let place = at * disks.len() as u64 + index as u64;
            let slot = if is_blank(sector) {
                Slot::Blank
            } else {
                match Record::parse(sector) {
                    Some(record)
                        if record.set == set.set
                            && record.disk as usize == index
                            && record.number % capacity == place
                            && record.number > 0 =>
                    {
                        Slot::Record(Box::new(record))
                    }
                    _ => Slot::Torn,
                }
            };
            slots[usize::try_from(place)?] = slot;
            Ok(())
        })?;
    }
    Ok(slots)
}

struct Disk {
    path: PathBuf,
    file: File,
    sectors: u64,
}

impl Disk {
    fn open(path: &Path) -> Result<Self> {
        use std::io::{Seek as _, SeekFrom};
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        // A block device says its size only this way.
        let size = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("cannot size {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            sectors: size / SECTOR as u64,
        })
    }

    fn read(&self, sector: u64, count: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; count * SECTOR];
        self.file
            .read_exact_at(&mut data, sector * SECTOR as u64)
            .with_context(|| format!("cannot read sector {sector} of {}", self.path.display()))?;
        Ok(data)
    }

    /// Calls `visit` with the offset from `start` and the bytes of each sector.
    fn each_sector(
        &self,
        start: u64,
        count: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        while at < count {
            let batch = usize::try_from(count - at)?.min(BATCH);
            for (index, sector) in self
                .read(start + at, batch)?
                .chunks_exact(SECTOR)
                .enumerate()
            {
                visit(at + index as u64, sector)?;
            }
            at += batch as u64;
        }
        Ok(())
    }
}

/// The records that must be there when `last` is the highest one.
fn required(last: u64, capacity: u64) -> RangeInclusive<u64> {
    (last + 2).saturating_sub(capacity).max(1)..=last
}

#[cfg(test)]
mod tests;
