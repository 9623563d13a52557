//! What a session does with the target's disks before it writes: digests for the sender, pre-images for the journal.

use std::io;
use std::ops::Range;

use super::fs::read_padded;
use super::source::{Padded, Window, allocated, index};
use super::table::chunks;
use super::target::{Target, TargetDisk};
use crate::dataplane::blocks::{BLOCK, FRAME_BLOCKS};
use crate::dataplane::digest::{Digest, is_zero};
use crate::dataplane::journal::Kind;

impl TargetDisk {
    /// Bytes that earlier sessions of an open journal have written at most.
    pub(super) fn arrived(&self) -> io::Result<u64> {
        if self.fresh {
            // A new disk has no pre-images, but all that it holds has been written.
            let mut source = Padded {
                disk: self.disk.as_ref(),
                size: self.geometry.size(),
            };
            return allocated(&mut source, 0..self.geometry.size());
        }
        Ok(self.covered.count() * BLOCK)
    }
}

impl Target {
    /// Gives the digests of some blocks as they are on the disk now, a chunk at a time.
    pub(crate) fn digests(
        &self,
        at: usize,
        spans: &[Range<u64>],
        mut each: impl FnMut(u64, Vec<Digest>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(disk) = self.disks.get(at) else {
            return Ok(());
        };
        let mut source = Padded {
            disk: disk.disk.as_ref(),
            size: disk.geometry.size(),
        };
        let mut window = Window::new(disk.geometry);
        for run in spans.iter().cloned().flat_map(chunks) {
            let mut digests = if disk.resizing {
                let mut hashes = Vec::new();
                window.hash(&mut source, &run, &mut hashes)?;
                hashes.iter().map(|hash| hash.digest).collect()
            } else {
                disk.table.learn(&run, &mut source, &mut window)?
            };
            if disk.suspect {
                // S12: what the cache shows after a failed sync proves nothing.
                for (block, digest) in run.clone().zip(&mut digests) {
                    // What lies behind the old end needs no pre-image, and may have been written all the same.
                    let new = disk.fresh || block >= disk.before.blocks();
                    if new || disk.covered.contains(block) {
                        *digest = Digest::UNKNOWN;
                    }
                }
            }
            each(run.start, digests)?;
        }
        Ok(())
    }

    /// S10: puts the first pre-image of these blocks into the journal, where it is not there yet. Durable only after its sync.
    pub(crate) fn cover(&mut self, at: usize, blocks: &Range<u64>) -> io::Result<()> {
        let Some((disk, journal)) = self.disks.get_mut(at).zip(self.journal.as_mut()) else {
            return Ok(());
        };
        let place = journal
            .header()
            .disks
            .iter()
            .position(|before| before.id == disk.id);
        let Some(place) = place.and_then(|place| u16::try_from(place).ok()) else {
            return Err(io::Error::other("the journal does not know the disk"));
        };
        if disk.fresh {
            return Ok(());
        }
        let mut buf = Vec::new();
        let mut first = blocks.start;
        let end = blocks.end.min(disk.before.blocks());
        while first < end {
            if disk.covered.contains(first) {
                first += 1;
                continue;
            }
            let mut last = first + 1;
            while last < end && last - first < FRAME_BLOCKS && !disk.covered.contains(last) {
                last += 1;
            }
            buf.resize(index(disk.before.run_len(first, last - first)), 0);
            read_padded(disk.disk.as_ref(), first * BLOCK, &mut buf)?;
            for (block, bytes) in
                (first..last).zip(buf.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX)))
            {
                let kind = if is_zero(bytes) {
                    Kind::Zero
                } else {
                    Kind::Data
                };
                journal.append(kind, place, block * BLOCK, bytes)?;
                disk.covered.insert(block);
            }
            first = last;
        }
        Ok(())
    }
}
