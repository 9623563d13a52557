//! Reading disks: what a pass sends from, and hashing with holes skipped.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::fs::{Disk, Fs, HostFs, Open, read_exact, read_padded};
use crate::dataplane::blocks::{BLOCK, FRAME_BLOCKS, FRAME_PAYLOAD, Geometry};
use crate::dataplane::digest::{BlockHash, hash_blocks};

/// One disk to read, standing still while a pass reads it: a stopped VM's disk, or a point-in-time export (S15).
pub trait BlockSource: Send {
    /// Its size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    /// Reads exactly the buffer.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The next range at or after `offset` that may hold data; what lies between is zero. `None`: only zeros follow.
    ///
    /// # Errors
    /// Whatever keeps it from knowing.
    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.size()).then(|| offset..self.size()))
    }
}

/// A raw image or a block device, opened for reading.
#[derive(Debug)]
pub struct FileSource {
    disk: Arc<dyn Disk>,
    size: u64,
}

impl FileSource {
    /// Opens a raw image or block device.
    ///
    /// # Errors
    /// When it cannot be opened, or its size is no size of a disk.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(&HostFs, path)
    }

    /// Opens it in a given file system.
    ///
    /// # Errors
    /// When it cannot be opened, or its size is no size of a disk.
    pub fn open_with(fs: &dyn Fs, path: &Path) -> io::Result<Self> {
        let disk = fs.open(path, Open::Read)?;
        let size = disk.size()?;
        if Geometry::new(size).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{size} bytes are no multiple of 512, or above 64 TiB"),
            ));
        }
        Ok(Self { disk, size })
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        read_exact(self.disk.as_ref(), offset, buf)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(offset)
    }
}

/// A target disk as a source of its own content, under the geometry that it will have: past its end it is zero.
pub(crate) struct Padded<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) size: u64,
}

impl BlockSource for Padded<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        read_padded(self.disk, offset, buf)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(offset)
    }
}

/// Reads and hashes runs of blocks through one window of 256 KiB.
pub(crate) struct Window {
    geometry: Geometry,
    buf: Vec<u8>,
    /// From this offset on, the next data is that. Spares a system call a run.
    extent: Option<(u64, Option<Range<u64>>)>,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl Window {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            buf: Vec::new(),
            extent: None,
        }
    }

    /// Asks anew where the holes are: for a disk that is written meanwhile.
    pub(crate) fn forget_holes(&mut self) {
        self.extent = None;
    }

    /// The bytes of the last [`Window::read`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Reads at most four blocks and hashes them; [`Window::bytes`] then has them all, zeros included.
    pub(crate) fn read(
        &mut self,
        source: &mut dyn BlockSource,
        blocks: &Range<u64>,
        hashes: &mut Vec<BlockHash>,
    ) -> io::Result<()> {
        let len = self
            .geometry
            .run_len(blocks.start, (blocks.end - blocks.start).min(FRAME_BLOCKS));
        if self.in_hole(source, &(blocks.start * BLOCK..blocks.start * BLOCK + len))? {
            self.buf.clear();
            self.buf.resize(index(len), 0);
            hashes.extend(
                blocks
                    .clone()
                    .map(|block| BlockHash::zero(self.geometry.block_len(block))),
            );
            return Ok(());
        }
        self.buf.resize(index(len), 0);
        source.read_at(blocks.start * BLOCK, &mut self.buf)?;
        hash_blocks(&self.buf, hashes);
        Ok(())
    }

    /// Hashes any number of blocks.
    pub(crate) fn hash(
        &mut self,
        source: &mut dyn BlockSource,
        blocks: &Range<u64>,
        hashes: &mut Vec<BlockHash>,
    ) -> io::Result<()> {
        let mut first = blocks.start;
        while first < blocks.end {
            let end = blocks.end.min(first + FRAME_BLOCKS);
            let len = self.geometry.run_len(first, end - first);
            if self.in_hole(source, &(first * BLOCK..first * BLOCK + len))? {
                hashes.extend(
                    (first..end).map(|block| BlockHash::zero(self.geometry.block_len(block))),
                );
            } else {
                self.read(source, &(first..end), hashes)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Whether a range is known to hold no data.
    fn in_hole(&mut self, source: &mut dyn BlockSource, bytes: &Range<u64>) -> io::Result<bool> {
        let known = self.extent.as_ref().is_some_and(|(from, data)| {
            *from <= bytes.start && data.as_ref().is_none_or(|data| bytes.start < data.end)
        });
        if !known {
            self.extent = Some((bytes.start, source.next_data(bytes.start)?));
        }
        Ok(match &self.extent {
            Some((_, Some(data))) => bytes.end <= data.start,
            _ => true,
        })
    }
}

/// Bytes of a stretch that may hold data.
pub(crate) fn allocated(source: &mut dyn BlockSource, stretch: Range<u64>) -> io::Result<u64> {
    let (mut at, mut sum) = (stretch.start, 0);
    let end = stretch.end.min(source.size());
    while at < end {
        let Some(data) = source.next_data(at)? else {
            break;
        };
        sum += data.end.min(end).saturating_sub(data.start.max(at));
        at = data.end.max(at + 1);
    }
    Ok(sum)
}

/// A length that is bounded by a frame, as an index.
pub(crate) fn index(len: u64) -> usize {
    debug_assert!(len <= FRAME_PAYLOAD);
    usize::try_from(len).unwrap_or(0)
}
