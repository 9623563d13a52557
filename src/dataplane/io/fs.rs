//! Every effect on files goes through [`Fs`] and [`Disk`]: so a test can crash after any of them, lose what was not synced, fill
//! the file system or corrupt a write, while the code that runs is the code that production runs.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use serde::{Deserialize, Serialize};

use super::room::Room;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading. It must exist.
    Read,
    /// For reading and writing. It must exist.
    Write,
    /// For reading and writing. It must not exist.
    CreateNew,
}

/// What tells that a disk is not the one it was, or was written to by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stamp {
    /// A regular file.
    File {
        /// The inode.
        inode: u64,
        /// Seconds of the last change of content.
        seconds: i64,
        /// Nanoseconds of it.
        nanos: i64,
        /// The last change of anything, in seconds and nanoseconds: nobody can set this time.
        #[serde(default)]
        changed: (i64, i64),
    },
    /// A block device. Nothing tells that it was written to; that another one has come to stand behind its path shows.
    Device {
        /// Its number.
        device: u64,
        /// The kernel's count of disks and media that have come since the boot (`diskseq` in sysfs).
        sequence: u64,
    },
}

/// A file system.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Opens a file or block device.
    ///
    /// # Errors
    /// Those of `open(2)`.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Disk>>;
    /// Whether something of that name is there.
    ///
    /// # Errors
    /// Those of `stat(2)` other than that it is not there.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes a folder and those above it, durably.
    ///
    /// # Errors
    /// Those of `mkdir(2)` and `fsync(2)`.
    fn create_dirs(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what has it. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// Those of `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; that it is not there is no error. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Those of `fsync(2)`.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The room in the file system of a folder.
    ///
    /// # Errors
    /// Those of `statvfs(2)`.
    fn room(&self, dir: &Path) -> io::Result<Room>;
    /// Which file system a folder lies in: folders with the same number share its room.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    fn file_system(&self, dir: &Path) -> io::Result<u64>;
    /// Gives a new file the owner and permissions of another.
    ///
    /// # Errors
    /// Those of `chown(2)` and `chmod(2)`.
    fn own_like(&self, path: &Path, like: &Path) -> io::Result<()>;
}

/// An open file or block device.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Its size in bytes.
    ///
    /// # Errors
    /// Those of `lseek(2)`.
    fn size(&self) -> io::Result<u64>;
    /// Reads up to the end of the buffer or of the file, whichever comes first, and says how much.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes a range zero: a hole in a file, zeros on a device (S16).
    ///
    /// # Errors
    /// Those of `fallocate(2)` and `pwrite(2)`.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or grows a file.
    ///
    /// # Errors
    /// Those of `ftruncate(2)`.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Reserves room, so that writes up to `len` cannot fail for want of it.
    ///
    /// # Errors
    /// Those of `fallocate(2)`; no space above all.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Makes content and size durable.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`. S12: after one nothing that was not synced before may be taken as written.
    fn sync(&self) -> io::Result<()>;
    /// A hint: begin to write this range out.
    fn start_writeback(&self, offset: u64, len: u64);
    /// The next range at or after `offset` that may hold data.
    ///
    /// # Errors
    /// Those of `lseek(2)`.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
    /// Whether it is a block device: it has a fixed size and no holes.
    fn is_device(&self) -> bool;
    /// The room in the file system it lies in; `None` for a device, which takes none.
    ///
    /// # Errors
    /// Those of `fstatvfs(2)`.
    fn room(&self) -> io::Result<Option<Room>>;
    /// Whether all of a range has its room already, so that writing it takes none. `false` where that is not known.
    ///
    /// # Errors
    /// Those of `fstat(2)` and `lseek(2)`.
    fn has_room(&self, range: &Range<u64>) -> io::Result<bool>;
    /// Takes an advisory lock that lasts until the file is closed; says whether it was free.
    ///
    /// # Errors
    /// Those of `flock(2)`.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;
    /// What tells foreign writes; `None` where nothing does.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    fn stamp(&self) -> io::Result<Option<Stamp>>;
    /// As [`Disk::stamp`], and it will be the same after a power cut.
    ///
    /// # Errors
    /// Those of `fsync(2)` and `fstat(2)`.
    fn durable_stamp(&self) -> io::Result<Option<Stamp>> {
        self.stamp()
    }
}

/// Reads all of the buffer; what lies past the end of the file reads as zeros.
///
/// # Errors
/// Those of [`Disk::read_at`].
pub fn read_padded(disk: &dyn Disk, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let read = disk.read_at(offset, buf)?;
    buf[read..].fill(0);
    Ok(())
}

/// Reads all of the buffer or fails.
///
/// # Errors
/// Those of [`Disk::read_at`], and an unexpected end.
pub fn read_exact(disk: &dyn Disk, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    if disk.read_at(offset, buf)? < buf.len() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}

/// The file system of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFs;

impl Fs for HostFs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Disk>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Write => {
                options.write(true);
            }
            Open::CreateNew => {
                options.write(true).create_new(true).mode(0o600);
            }
        }
        let file = options.open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file nor a block device",
            ));
        }
        Ok(Arc::new(HostDisk {
            device: kind.is_block_device(),
            file,
        }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let above = path.parent().unwrap_or(Path::new(""));
        self.create_dirs(above)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_dir(above),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(named(path))?.sync_all()
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        Ok(rustix::fs::statvfs(named(dir))?.into())
    }

    fn file_system(&self, dir: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(named(dir))?.dev())
    }

    fn own_like(&self, path: &Path, like: &Path) -> io::Result<()> {
        let (now, wanted) = (std::fs::metadata(path)?, std::fs::metadata(like)?);
        if (now.uid(), now.gid()) != (wanted.uid(), wanted.gid()) {
            std::os::unix::fs::chown(path, Some(wanted.uid()), Some(wanted.gid()))?;
        }
        std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(wanted.mode() & 0o7777),
        )
    }
}

impl From<rustix::fs::StatVfs> for Room {
    fn from(stat: rustix::fs::StatVfs) -> Self {
        Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        }
    }
}

/// The folder of a path that names none.
fn named(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    }
}

/// Bytes of one `pread(2)` at most. A cached file lies in large folios, each copied by one string instruction; from some length on
/// processors then write past their caches, and hashing has to fetch the bytes from memory again. Measured on an EPYC: 12 GB/s with
/// reads of 128 KiB, 2.5 GB/s with 256 KiB.
const READ: usize = 128 * 1024;

#[derive(Debug)]
struct HostDisk {
    file: File,
    device: bool,
}

impl Disk for HostDisk {
    fn size(&self) -> io::Result<u64> {
        // For a device its metadata has no size, but its end can be sought.
        if self.device {
            Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
        } else {
            Ok(self.file.metadata()?.len())
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let end = buf.len().min(done + READ);
            match self.file.read_at(&mut buf[done..end], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        // On a device a punched hole may only be advice to it; ZERO_RANGE makes it zero or fails.
        let how = if self.device {
            FallocateFlags::ZERO_RANGE
        } else {
            FallocateFlags::PUNCH_HOLE
        } | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, how, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                self.write_zeros(offset, len)
            }
            other => Ok(other?),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        // Without KEEP_SIZE: syncs of the writes then need not record a growing size each time.
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.grow_by_hand(len),
            other => Ok(other?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[expect(unsafe_code, reason = "neither std nor rustix has sync_file_range")]
    fn start_writeback(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return;
        };
        // SAFETY: the descriptor is open as long as `self.file` is; the call takes plain numbers and touches no memory of ours.
        // Only a hint: its result does not matter, durability comes from `sync` alone.
        let _ = unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                offset,
                len,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size()?;
        if offset >= size {
            return Ok(None);
        }
        if self.device {
            return Ok(Some(offset..size));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                return Ok(Some(offset..size));
            }
            other => other?,
        };
        Ok(Some(
            start..rustix::fs::seek(&self.file, SeekFrom::Hole(start))?,
        ))
    }

    fn is_device(&self) -> bool {
        self.device
    }

    fn room(&self) -> io::Result<Option<Room>> {
        if self.device {
            return Ok(None);
        }
        Ok(Some(rustix::fs::fstatvfs(&self.file)?.into()))
    }

    fn has_room(&self, range: &Range<u64>) -> io::Result<bool> {
        let data = self.file.metadata()?;
        // What was reserved and not yet written looks like a hole, and has its room.
        if self.device || data.blocks().saturating_mul(512) >= data.len() {
            return Ok(true);
        }
        let data = self.next_data(range.start)?;
        Ok(data.is_some_and(|data| data.start <= range.start && range.end <= data.end))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let how = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match rustix::fs::flock(&self.file, how) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        let data = self.file.metadata()?;
        if self.device {
            let device = data.rdev();
            return Ok(sequence(device).map(|sequence| Stamp::Device { device, sequence }));
        }
        Ok(Some(Stamp::File {
            inode: data.ino(),
            seconds: data.mtime(),
            nanos: data.mtime_nsec(),
            changed: (data.ctime(), data.ctime_nsec()),
        }))
    }

    fn durable_stamp(&self) -> io::Result<Option<Stamp>> {
        // `fdatasync(2)` leaves the time of the last change to a later moment.
        self.file.sync_all()?;
        self.stamp()
    }
}

/// The kernel's number of the disk that stands behind a device's number now (Linux 5.15); a partition has that of its disk.
fn sequence(device: u64) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let read = |path| std::fs::read_to_string(path).ok();
    read(format!("{folder}/diskseq"))
        .or_else(|| read(format!("{folder}/../diskseq")))?
        .trim()
        .parse()
        .ok()
}

impl HostDisk {
    /// Where no room can be reserved without writing. What is there already stays as it is.
    fn grow_by_hand(&self, len: u64) -> io::Result<()> {
        let there = self.size()?;
        if len > there {
            self.write_zeros(there, len - there)?;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; 256 * 1024];
        let mut done = 0;
        while done < len {
            let step = usize::try_from(len - done)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            self.write_at(offset + done, &zeros[..step])?;
            done += step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on file systems that cannot reserve: a journal is extended over records that count.
    #[test]
    fn s10_growing_by_hand_leaves_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let file = HostFs.open(&path, Open::CreateNew).unwrap();
        file.write_at(0, &vec![7; 100_000]).unwrap();
        let disk = HostDisk {
            file: std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap(),
            device: false,
        };
        for (len, grown) in [(50_000, 100_000), (100_000, 100_000), (400_001, 400_001)] {
            disk.grow_by_hand(len).unwrap();
            let found = std::fs::read(&path).unwrap();
            assert_eq!(found.len(), grown);
            assert!(found[..100_000].iter().all(|byte| *byte == 7));
            assert!(found[100_000..].iter().all(|byte| *byte == 0));
        }
    }
}
