//! Reading a disk block by block. (The data plane's trait takes this one's place.)

use std::io;
use std::ops::Range;

/// Random access to the content of one disk, blocking.
pub trait BlockSource: Send {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Any error of the medium, and a range beyond the end.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The next range at or after `offset` that may hold anything but zeros.
    ///
    /// # Errors
    /// Any error of the medium.
    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.size()).then(|| offset..self.size()))
    }
}
