//! The digest table of one disk as a file: 32 bytes a block, all zero while unknown. It is never held in memory as a whole: a
//! disk of 1 TiB has 512 MiB of it.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::fs::{Disk, Fs, Open, read_exact};
use super::source::{BlockSource, Window};
use crate::dataplane::blocks::Geometry;
use crate::dataplane::digest::{Digest, RootHasher};
use crate::dataplane::identity::DiskId;

const ENTRY: u64 = Digest::LEN as u64;

/// Entries that are read or filled at once.
const CHUNK: u64 = 256;

/// One open table.
#[derive(Debug)]
pub(crate) struct Table {
    file: Arc<dyn Disk>,
    geometry: Geometry,
}

impl Table {
    /// A new table in which everything is unknown. What was there is lost.
    pub(crate) fn create(fs: &dyn Fs, path: &Path, geometry: Geometry) -> io::Result<Self> {
        fs.remove(path)?;
        let file = fs.open(path, Open::CreateNew)?;
        file.set_size(geometry.blocks() * ENTRY)?;
        file.sync()?;
        if let Some(dir) = path.parent() {
            fs.sync_dir(dir)?;
        }
        Ok(Self { file, geometry })
    }

    /// The table that is there; `None` when there is none of this geometry.
    pub(crate) fn open(fs: &dyn Fs, path: &Path, geometry: Geometry) -> io::Result<Option<Self>> {
        if !fs.exists(path)? {
            return Ok(None);
        }
        let file = fs.open(path, Open::Write)?;
        Ok((file.size()? == geometry.blocks() * ENTRY).then_some(Self { file, geometry }))
    }

    /// The table that is there, or a new one.
    pub(crate) fn open_or_create(fs: &dyn Fs, path: &Path, geometry: Geometry) -> io::Result<Self> {
        match Self::open(fs, path, geometry)? {
            Some(table) => Ok(table),
            None => Self::create(fs, path, geometry),
        }
    }

    /// The same table for another thread.
    pub(crate) fn share(&self) -> Self {
        Self {
            file: Arc::clone(&self.file),
            geometry: self.geometry,
        }
    }

    /// Copies every entry of another table of the same geometry.
    pub(crate) fn copy_from(&self, other: &Self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for run in self.chunks() {
            other.read_raw(&run, &mut bytes)?;
            self.file.write_at(run.start * ENTRY, &bytes)?;
        }
        Ok(())
    }

    pub(crate) fn read(&self, blocks: &Range<u64>) -> io::Result<Vec<Digest>> {
        let mut bytes = Vec::new();
        self.read_raw(blocks, &mut bytes)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .map(|entry| Digest::from_bytes(*entry))
            .collect())
    }

    pub(crate) fn write(&self, first: u64, digests: &[Digest]) -> io::Result<()> {
        let bytes: Vec<u8> = digests
            .iter()
            .flat_map(|digest| *digest.as_bytes())
            .collect();
        self.file.write_at(first * ENTRY, &bytes)
    }

    pub(crate) fn forget(&self, blocks: &Range<u64>) -> io::Result<()> {
        let mut first = blocks.start;
        while first < blocks.end {
            let end = blocks.end.min(first + CHUNK);
            self.write(
                first,
                &vec![Digest::UNKNOWN; usize::try_from(end - first).unwrap_or(0)],
            )?;
            first = end;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The root; `None` while an entry is unknown.
    pub(crate) fn root(&self, id: &DiskId) -> io::Result<Option<Digest>> {
        let mut hasher = RootHasher::new(id.as_str(), self.geometry);
        let mut bytes = Vec::new();
        for run in self.chunks() {
            self.read_raw(&run, &mut bytes)?;
            hasher.push(&bytes);
        }
        Ok(hasher.finish())
    }

    /// Where the last known entry ends, in blocks.
    pub(crate) fn known_end(&self) -> io::Result<u64> {
        let mut end = self.geometry.blocks();
        while end > 0 {
            let start = end.saturating_sub(CHUNK);
            if let Some(at) = self.read(&(start..end))?.iter().rposition(Digest::is_known) {
                return Ok(start + at as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    /// Reads and hashes the blocks of a range whose entries are unknown, and gives the entries of all of it.
    pub(crate) fn learn(
        &self,
        blocks: &Range<u64>,
        source: &mut dyn BlockSource,
        window: &mut Window,
    ) -> io::Result<Vec<Digest>> {
        let mut digests = self.read(blocks)?;
        let mut hashes = Vec::new();
        let mut at = 0;
        while let Some(skip) = digests[at..].iter().position(|digest| !digest.is_known()) {
            let start = at + skip;
            let end = digests[start..]
                .iter()
                .position(Digest::is_known)
                .map_or(digests.len(), |known| start + known);
            hashes.clear();
            window.hash(
                source,
                &(blocks.start + start as u64..blocks.start + end as u64),
                &mut hashes,
            )?;
            for (digest, hash) in digests[start..end].iter_mut().zip(&hashes) {
                *digest = hash.digest;
            }
            self.write(blocks.start + start as u64, &digests[start..end])?;
            at = end;
        }
        Ok(digests)
    }

    /// Makes every entry known, reading what is not.
    pub(crate) fn learn_all(&self, source: &mut dyn BlockSource) -> io::Result<()> {
        let mut window = Window::new(self.geometry);
        for run in self.chunks() {
            self.learn(&run, source, &mut window)?;
        }
        Ok(())
    }

    /// The table's blocks in runs of a bounded length.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        chunks(0..self.geometry.blocks())
    }

    fn read_raw(&self, blocks: &Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(
            usize::try_from((blocks.end - blocks.start) * ENTRY).unwrap_or(0),
            0,
        );
        read_exact(self.file.as_ref(), blocks.start * ENTRY, bytes)
    }
}

/// A range of blocks in runs of a bounded length.
pub(crate) fn chunks(blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut first = blocks.start;
    std::iter::from_fn(move || {
        let run = first..blocks.end.min(first + CHUNK);
        first = run.end;
        (!run.is_empty()).then_some(run)
    })
}
