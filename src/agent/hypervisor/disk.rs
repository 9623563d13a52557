//! What lies at the path of a disk.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Is this disk a block device?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A raw file.
    File,
    /// A block device.
    Device,
}

/// Kind and size in bytes of the disk at `path`. Blocking.
///
/// # Errors
/// When it cannot be opened, or is neither a file nor a block device.
pub fn measure(path: &Path) -> io::Result<(DiskKind, u64)> {
    // Looked at before it is opened: opening a pipe waits for whoever writes to it.
    let kind = fs::metadata(path)?.file_type();
    if kind.is_file() {
        Ok((DiskKind::File, File::open(path)?.metadata()?.len()))
    } else if kind.is_block_device() {
        Ok((DiskKind::Device, File::open(path)?.seek(SeekFrom::End(0))?))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither a regular file nor a block device",
        ))
    }
}
