//! A disk as it was copied at a point in time.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use homeward::agent::hypervisor::BlockSource;

/// A copy of one disk. It stays readable when its file is removed.
pub(super) struct FileCopy {
    file: File,
    length: u64,
}

impl FileCopy {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }
}

impl BlockSource for FileCopy {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}
