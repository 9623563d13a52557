//! The agent's own files: written whole or not at all, and durable before anyone acts on them (S1).
//!
//! ```text
//!   stateDir/
//!     lock                      held by the one agent of this host
//!     registers/<vm>.json       the right to run; never deleted (S4)
//!     definitions/<vm>.json     VMs that arrived from another host
//!     remembered/<vm>.json      what a person's definition said at the last order, should its file break or go
//!     replication/<vm>.json     what the replication loop was told and knows
//!     changes/<vm>.json         what a stopped guest had changed, until its stop is a record
//!     attached/<vm>.json        the disks that a guest ran on when it was last fenced
//!     last-disks/<vm>.json      the disks that hold what an owner's guest wrote last
//!     volumes/<vm>/             the data plane's
//!     hypervisor/               the hypervisor's
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// A file of the agent's own could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub(crate) struct StoreError {
    path: PathBuf,
    error: io::Error,
}

/// Which kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Registers.
    Register,
    /// Definitions that arrived.
    Definition,
    /// Definitions that a person wrote, as they were at the last order.
    Remembered,
    /// The replication loop.
    Replication,
    /// What a stopped guest had changed.
    Changes,
    /// The disks that a stopped guest ran on.
    Attached,
    /// The disks that hold what an owner's guest wrote last.
    LastDisks,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Register,
        Self::Definition,
        Self::Remembered,
        Self::Replication,
        Self::Changes,
        Self::Attached,
        Self::LastDisks,
    ];

    const fn folder(self) -> &'static str {
        match self {
            Self::Register => "registers",
            Self::Definition => "definitions",
            Self::Remembered => "remembered",
            Self::Replication => "replication",
            Self::Changes => "changes",
            Self::Attached => "attached",
            Self::LastDisks => "last-disks",
        }
    }
}

/// The folder, and the lock that keeps a second agent out of it.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes what is missing and takes the lock.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path, error| StoreError {
            path: path.to_owned(),
            error,
        };
        for kind in Kind::ALL {
            let path = folder.join(kind.folder());
            fs::create_dir_all(&path).map_err(|error| at(&path, error))?;
        }
        sync_folder(folder).map_err(|error| at(folder, error))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| at(&path, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            at(
                &path,
                io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another agent runs on this stateDir; there is one agent a host",
                ),
            )
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    fn path(&self, kind: Kind, vm: Uuid) -> PathBuf {
        self.folder.join(kind.folder()).join(format!("{vm}.json"))
    }

    /// Writes one file. When this returns, it is on the disk.
    pub(crate) fn save<T: Serialize>(
        &self,
        kind: Kind,
        vm: Uuid,
        value: &T,
    ) -> Result<(), StoreError> {
        let path = self.path(kind, vm);
        let at = |error| StoreError {
            path: path.clone(),
            error,
        };
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| at(error.into()))?;
        replace(&path, &bytes, &mut Plainly).map_err(at)
    }

    /// Reads one file; None when there is none.
    pub(crate) fn load<T: DeserializeOwned>(
        &self,
        kind: Kind,
        vm: Uuid,
    ) -> Result<Option<T>, StoreError> {
        let path = self.path(kind, vm);
        let at = |error| StoreError {
            path: path.clone(),
            error,
        };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| at(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(error)),
        }
    }

    /// Removes one file, if it is there. Never a register (S4).
    pub(crate) fn remove(&self, kind: Kind, vm: Uuid) -> Result<(), StoreError> {
        debug_assert_ne!(kind, Kind::Register);
        let path = self.path(kind, vm);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(path.parent().unwrap_or(&self.folder))
                .map_err(|error| StoreError { path, error }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError { path, error }),
        }
    }

    /// The VMs that have a file of this kind.
    pub(crate) fn list(&self, kind: Kind) -> Result<Vec<Uuid>, StoreError> {
        let folder = self.folder.join(kind.folder());
        let at = |error| StoreError {
            path: folder.clone(),
            error,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at)? {
            let name = entry.map_err(at)?.file_name();
            if let Some(vm) = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|name| name.parse().ok())
            {
                found.push(vm);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// What replacing a file does to the disk. A test sees in which order, since no crash that a test can bring about would tell.
trait Steps {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// Does what the steps say, and nothing else.
struct Plainly;

impl Steps for Plainly {}

/// Replaces a file in one step: a crash leaves the old or the new one whole.
fn replace(path: &Path, bytes: &[u8], steps: &mut impl Steps) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("no folder"))?;
    let next = path.with_extension("json.tmp");
    // Definitions and registers are the agent's own affair.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    steps.write(&mut file, bytes)?;
    // S1: durable before it counts, and again once it is found under its name.
    steps.sync(&file)?;
    steps.rename(&next, path)?;
    steps.sync(&File::open(folder)?)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let vm = Uuid::from_u128(1);
        assert_eq!(store.load::<String>(Kind::Changes, vm).unwrap(), None);
        store.save(Kind::Changes, vm, &"one").unwrap();
        store.save(Kind::Changes, vm, &"two").unwrap();
        assert_eq!(
            store.load::<String>(Kind::Changes, vm).unwrap().unwrap(),
            "two"
        );
        assert_eq!(store.list(Kind::Changes).unwrap(), [vm]);
        store.remove(Kind::Changes, vm).unwrap();
        store.remove(Kind::Changes, vm).unwrap();
        assert!(store.list(Kind::Changes).unwrap().is_empty());
    }

    #[test]
    fn s01_a_register_is_durable_before_it_is_found_and_after() {
        #[derive(Default)]
        struct Seen(Vec<&'static str>);
        impl Steps for Seen {
            fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
                self.0.push("write");
                file.write_all(bytes)
            }
            fn sync(&mut self, file: &File) -> io::Result<()> {
                let folder = file.metadata()?.is_dir();
                self.0
                    .push(if folder { "sync folder" } else { "sync file" });
                file.sync_all()
            }
            fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
                self.0.push("rename");
                fs::rename(from, to)
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Seen::default();
        replace(&folder.path().join("one.json"), b"{}", &mut seen).unwrap();
        assert_eq!(seen.0, ["write", "sync file", "rename", "sync folder"]);
    }

    #[test]
    fn what_is_kept_is_for_the_agent_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let vm = Uuid::from_u128(1);
        store.save(Kind::Register, vm, &"one").unwrap();
        let mode = fs::metadata(store.path(Kind::Register, vm))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_half_written_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let vm = Uuid::from_u128(1);
        store.save(Kind::Register, vm, &"whole").unwrap();
        fs::write(
            store.path(Kind::Register, vm).with_extension("json.tmp"),
            "\"hal",
        )
        .unwrap();
        assert_eq!(
            store.load::<String>(Kind::Register, vm).unwrap().unwrap(),
            "whole"
        );
        assert_eq!(store.list(Kind::Register).unwrap(), [vm]);
    }

    #[test]
    fn a_second_agent_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(
            Store::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("another agent")
        );
        drop(first);
        Store::open(folder.path()).unwrap();
    }
}
