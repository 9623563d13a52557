//! What is kept on disk about one guest: where its files lie, and the records that survive the agent.
//!
//! ```text
//! <stateDir>/<uuid>/
//!     process.json    which process is the guest (written before the start, completed before the first instruction)
//!     tracking.json   the sizes of the disks at the beginning of each generation (S14)
//!     point.json      there while a point in time is open or half made
//!     qemu.pid  qmp.sock  serial.sock  nbd.sock  console.log  qemu.log  launch.log
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::agent::hypervisor::{DiskId, Generation, HypervisorError, Result};

/// Version of the records' format. Another one is refused.
pub const VERSION: u32 = 1;
/// Longest record that is read, bytes.
const MAX_RECORD: u64 = 1 << 20;
/// A console log longer than this is set aside at the next start, bytes.
const MAX_CONSOLE: u64 = 16 << 20;

/// The paths of one guest.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    dir: PathBuf,
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(&self) -> PathBuf { self.dir.join($file) })*
    };
}

impl GuestFiles {
    /// The files of the guest `vm` below `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path, vm: Uuid) -> Self {
        Self {
            dir: state_dir.join(vm.to_string()),
        }
    }

    paths! {
        /// Written and locked by QEMU.
        pid = "qemu.pid";
        /// The monitor's socket.
        qmp_socket = "qmp.sock";
        /// The console's socket, for a person.
        serial_socket = "serial.sock";
        /// The socket of exports, while there are any.
        nbd_socket = "nbd.sock";
        /// Everything that the guest said on its console.
        console = "console.log";
        /// What QEMU itself says.
        log = "qemu.log";
        /// What QEMU says before it goes to the background.
        launch_log = "launch.log";
        /// The [`ProcessRecord`].
        process = "process.json";
        /// The [`TrackingRecord`].
        tracking = "tracking.json";
        /// The [`PointRecord`].
        point = "point.json";
    }

    /// Makes the folder, readable for nobody else: its sockets give access to the guest's disks.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make_dir(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(storage(&self.dir))
    }

    /// Removes what an earlier process left, sets a long console log aside and appends the marker of this start.
    ///
    /// # Errors
    /// `Storage`.
    pub fn prepare_start(&self, marker: &str) -> Result<()> {
        for path in [
            self.pid(),
            self.qmp_socket(),
            self.serial_socket(),
            self.nbd_socket(),
            self.launch_log(),
            self.log(),
        ] {
            remove(&path)?;
        }
        let console = self.console();
        if fs::metadata(&console).is_ok_and(|found| found.len() > MAX_CONSOLE) {
            fs::rename(&console, self.dir.join("console.log.1")).map_err(storage(&console))?;
        }
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&console)
            .map_err(storage(&console))?;
        log.write_all(marker.as_bytes()).map_err(storage(&console))
    }

    /// The last words of QEMU, for an error message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for path in [self.launch_log(), self.log()] {
            if let Ok(text) = fs::read(&path) {
                words.push_str(&String::from_utf8_lossy(
                    &text[text.len().saturating_sub(2000)..],
                ));
            }
        }
        words.trim().replace('\n', "; ")
    }
}

/// Wraps an IO error with its path.
pub fn storage(path: &Path) -> impl FnOnce(io::Error) -> HypervisorError + '_ {
    |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HypervisorError::NoSpace {
            path: path.to_owned(),
            message: source.to_string(),
        },
        _ => HypervisorError::Storage {
            path: path.to_owned(),
            source,
        },
    }
}

/// Removes a file that may be missing.
///
/// # Errors
/// `Storage`.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(storage(path)(error)),
        _ => Ok(()),
    }
}

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It may be coming up; its pid is not known yet.
    Starting,
    /// Known, tracked, allowed to run.
    Started,
    /// It was seen gone.
    Ended,
}

/// Which process is the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessRecord {
    /// [`VERSION`].
    pub version: u32,
    /// How far it has come.
    pub stage: Stage,
    /// The host's boot, from `/proc/sys/kernel/random/boot_id`: no process outlives it.
    pub boot_id: String,
    /// The PID namespace in which the pid counts, from `/proc/self/ns/pid`.
    pub pid_namespace: String,
    /// The process id, once known.
    pub pid: Option<u32>,
    /// Its start in clock ticks after the boot (`/proc/PID/stat`, field 22): a recycled pid has another.
    pub start_ticks: Option<u64>,
    /// The command line.
    pub arguments: Vec<String>,
    /// The disks with which it was started, in order; the place in this list is the number in node names.
    pub disks: Vec<RecordedDisk>,
}

/// A disk as it was at the start of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedDisk {
    /// Stable id.
    pub id: DiskId,
    /// Path on this host.
    pub path: PathBuf,
}

/// The shape of the disks at the beginning of each generation (S14).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrackingRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Sizes in bytes by generation and disk.
    pub generations: BTreeMap<Generation, BTreeMap<DiskId, u64>>,
}

/// A point in time that is open or half made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PointRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The generation that the caller named, held or not.
    pub asked: Option<Generation>,
    /// The generation that held on all disks and ends at the point.
    pub old: Option<Generation>,
    /// The generation that begins at the point.
    pub new: Generation,
    /// The scratch files, one a disk, in order.
    pub scratch: Vec<PathBuf>,
}

/// Writes a record: a new file, synced, renamed over the old one, the folder synced.
///
/// # Errors
/// `Storage`, `NoSpace`.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|error| HypervisorError::Protocol(error.to_string()))?;
    let fresh = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(storage(&fresh))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(storage(&fresh))?;
    fs::rename(&fresh, path).map_err(storage(path))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(storage(folder))
}

/// Reads a record; none when there is no file.
///
/// # Errors
/// `Storage`; `Protocol` for a record that cannot be understood (it is never taken for a missing one).
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage(path)(error)),
    };
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_RECORD), &mut text)
        .map_err(storage(path))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| HypervisorError::Protocol(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_understood_is_not_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("point.json");
        assert_eq!(read::<PointRecord>(&path).unwrap(), None);
        let record = PointRecord {
            version: VERSION,
            asked: None,
            old: None,
            new: Uuid::from_u128(1),
            scratch: vec![],
        };
        write(&path, &record).unwrap();
        assert_eq!(read(&path).unwrap(), Some(record));
        fs::write(&path, "{\"version\":1").unwrap();
        assert!(read::<PointRecord>(&path).is_err());
    }

    #[test]
    fn the_console_keeps_what_earlier_starts_said() {
        let dir = tempfile::tempdir().unwrap();
        let files = GuestFiles::new(dir.path(), Uuid::from_u128(1));
        files.make_dir().unwrap();
        files.prepare_start("--- one\n").unwrap();
        fs::write(files.log(), "old words").unwrap();
        files.prepare_start("--- two\n").unwrap();
        assert_eq!(
            fs::read_to_string(files.console()).unwrap(),
            "--- one\n--- two\n"
        );
        assert_eq!(files.last_words(), "");
    }
}
