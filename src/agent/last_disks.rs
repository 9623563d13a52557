//! The disks that hold what the VM wrote last, kept beside its register in `last-disks/<vm>.json`.
//!
//! A definition only says which disks a guest is to have. Which ones it had is written down before its first instruction, and where the VM arrives
//! before the right to run does. Until a person says otherwise, nothing is started from disks that leave out one of these while it is still there,
//! and nothing of such disks is sent: the guest would go on from old content, and the next pass would put that over the only other copy.
//!
//! It belongs to whoever holds the right to run. At a replica it is taken away, and means nothing should it still be there.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::api::{OperationError, Role};
use super::definitions::{self, straight};
use super::host::{Host, Vm, blocking, lock};
use super::hypervisor::GuestDisk;
use super::store::{Kind, Store};

/// How long disks are waited for that may not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which disks, since when, and why these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastDisks {
    disks: Vec<GuestDisk>,
    since: Timestamp,
    how: How,
}

/// How the disks came to be the VM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum How {
    /// Its guest was started on them, or found running on them.
    Ran,
    /// Its content came to them by a move.
    Arrived,
    /// It was switched off, and its definition named them, when this host first wrote this down.
    TakenOn,
}

/// What is known of them.
#[derive(Clone, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    These(LastDisks),
    /// There is a file, and it cannot be read.
    Unreadable(String),
}

/// What one VM's file says, as it is on the disk.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    known: Mutex<Known>,
    /// Held while it is written.
    writing: Mutex<()>,
}

impl Slot {
    /// Reads it. Blocking.
    pub(crate) fn load(&self, store: &Store, vm: Uuid) {
        let known = match store.load(Kind::LastDisks, vm) {
            Ok(None) => Known::Nothing,
            Ok(Some(these)) => Known::These(these),
            Err(error) => {
                tracing::error!(%vm, %error, "which disks the guest last ran on cannot be read");
                Known::Unreadable(error.to_string())
            }
        };
        *lock(&self.known) = known;
    }

    fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    /// Durably; gives what was known before. Blocking.
    fn put(
        &self,
        store: &Store,
        vm: Uuid,
        these: Option<LastDisks>,
    ) -> Result<Option<LastDisks>, OperationError> {
        let _writing = lock(&self.writing);
        match &these {
            Some(these) => store.save(Kind::LastDisks, vm, these)?,
            None => store.remove(Kind::LastDisks, vm)?,
        }
        let next = these.map_or(Known::Nothing, Known::These);
        match std::mem::replace(&mut *lock(&self.known), next) {
            Known::These(before) => Ok(Some(before)),
            Known::Nothing | Known::Unreadable(_) => Ok(None),
        }
    }
}

async fn put(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    these: Option<LastDisks>,
) -> Result<Option<LastDisks>, OperationError> {
    let (host, vm) = (Arc::clone(host), Arc::clone(vm));
    blocking(move || vm.last_disks.put(&host.store, vm.uuid, these)).await
}

fn these(disks: &[GuestDisk], how: How) -> LastDisks {
    LastDisks {
        disks: disks.to_vec(),
        since: Timestamp::now(),
        how,
    }
}

/// The guest is about to run on these. What was known before, for a start that fails.
pub(crate) async fn runs(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    disks: &[GuestDisk],
) -> Result<Option<LastDisks>, OperationError> {
    put(host, vm, Some(these(disks, How::Ran))).await
}

/// The guest has not run on them after all.
pub(crate) async fn did_not_run(host: &Arc<Host>, vm: &Arc<Vm>, before: Option<LastDisks>) {
    if before.is_none() {
        return;
    }
    if let Err(failed) = put(host, vm, before).await {
        tracing::warn!(vm = %vm.uuid, error = %failed.message, "that the guest did not run on the disks of this start could not be written down");
    }
}

/// The content of a move has come to these, which this host is about to own.
pub(crate) async fn arrived(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    disks: &[GuestDisk],
) -> Result<(), OperationError> {
    let arrived = these(disks, How::Arrived);
    put(host, vm, Some(arrived)).await.map(drop)
}

/// The role that it belonged to has gone. One that stays is not believed at a replica, so nothing waits for this.
pub(crate) async fn forget(host: &Arc<Host>, vm: &Arc<Vm>) {
    if let Err(failed) = put(host, vm, None).await {
        tracing::warn!(vm = %vm.uuid, error = %failed.message, "which disks the guest last ran on could not be taken away");
    }
}

/// The register was lost; what was written down beside it still holds.
pub(crate) async fn read_again(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), OperationError> {
    let (host, vm) = (Arc::clone(host), Arc::clone(vm));
    blocking(move || {
        vm.last_disks.load(&host.store, vm.uuid);
        Ok(())
    })
    .await
}

/// What an owner's guest is found on. One that runs says so itself; one that is off is taken at its definition's word where nothing is known:
/// it was taken on like that, or by an agent that did not keep this yet.
pub(crate) async fn found(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), OperationError> {
    if !owns(vm) {
        return Ok(());
    }
    let attached = host.hypervisor.attached(&host.process(vm.uuid)).await?;
    let next = match (attached, vm.last_disks.known()) {
        (Some(disks), Known::These(last)) if last.how == How::Ran && last.disks == disks => None,
        (Some(disks), _) => Some(these(&disks, How::Ran)),
        (None, Known::Nothing) => host
            .definitions
            .get(vm.uuid)
            .map(|definition| these(&definitions::disks(&definition), How::TakenOn)),
        (None, Known::These(_) | Known::Unreadable(_)) => None,
    };
    if next.is_some() {
        put(host, vm, next).await?;
    }
    Ok(())
}

fn owns(vm: &Vm) -> bool {
    vm.register()
        .is_some_and(|register| register.role == Role::Owner)
}

/// Why the disks of a definition must not be taken for the VM's, in words. None: they may, or nothing is known against it.
pub(crate) async fn objection(vm: &Vm, defined: &[GuestDisk]) -> Option<String> {
    // What a replica's disks were before says nothing.
    if vm
        .register()
        .is_some_and(|register| register.role == Role::Replica)
    {
        return None;
    }
    let last = match vm.last_disks.known() {
        Known::Nothing => return None,
        Known::These(last) => last,
        Known::Unreadable(why) => {
            return Some(format!(
                "which disks the guest last ran on cannot be read ({why}): nothing is started, and nothing of it is sent. See that the definition names the right ones; then `homeward vm start --on-other-disks` starts the guest on those"
            ));
        }
    };
    if !leaves_out(defined, &last.disks) {
        return None;
    }
    let defined = defined.to_vec();
    let disks = last.disks.clone();
    let why = vm
        .probe
        .ask(PATIENCE, move || last.against(&defined))
        .await
        .unwrap_or_else(|silent| {
            let paths: Vec<_> = disks
                .iter()
                .map(|disk| disk.path.display().to_string())
                .collect();
            Some(format!(
                "the definition does not name the disks that the guest last ran on ({}), and whether they are still there is not known: {silent}",
                paths.join(", ")
            ))
        })?;
    Some(why)
}

/// Whether a definition names other paths than all of these.
pub(crate) fn leaves_out(defined: &[GuestDisk], these: &[GuestDisk]) -> bool {
    these.iter().any(|disk| !names(defined, &disk.path))
}

fn names(defined: &[GuestDisk], path: &Path) -> bool {
    defined
        .iter()
        .any(|disk| straight(&disk.path) == straight(path))
}

impl LastDisks {
    /// What speaks against a definition's disks. Blocking.
    fn against(&self, defined: &[GuestDisk]) -> Option<String> {
        let left_out: Vec<&GuestDisk> = self
            .disks
            .iter()
            .filter(|disk| !names(defined, &disk.path) && is_there(&disk.path))
            // By another name it is the same disk.
            .filter(|disk| {
                let own = Thing::at(&disk.path);
                own.is_none() || !defined.iter().any(|other| Thing::at(&other.path) == own)
            })
            .collect();
        if left_out.is_empty() {
            return None;
        }
        let told: Vec<String> = left_out
            .iter()
            .map(|disk| self.one(disk, defined))
            .collect();
        let paths: Vec<String> = left_out
            .iter()
            .map(|disk| disk.path.display().to_string())
            .collect();
        Some(format!(
            "{}. Nothing is started from other disks, and nothing of them is sent. Put the definition back: take the changed file out of definitionsDir, or name {} in it again. Only if the other disks are really meant: `homeward vm start --on-other-disks`; what the guest wrote to {} is then given up, and the replica is overwritten with what the other disks hold",
            told.join("; "),
            paths.join(" and "),
            paths.join(" and "),
        ))
    }

    fn one(&self, disk: &GuestDisk, defined: &[GuestDisk]) -> String {
        let since = seconds(self.since);
        let path = disk.path.display();
        let what = match self.how {
            How::Ran => format!("the guest last ran on {path}, since {since}"),
            How::Arrived => format!("the VM arrived on {path} at {since}"),
            How::TakenOn => {
                format!("the VM was switched off, and {path} was its disk, at {since}")
            }
        };
        let instead = defined
            .iter()
            .find(|other| other.id == disk.id)
            .map_or_else(
                || "names no such disk".to_owned(),
                |other| {
                    format!(
                        "names {} instead{}",
                        other.path.display(),
                        written(&other.path)
                    )
                },
            );
        format!(
            "disk {}: {what}{}, and the definition {instead}",
            disk.id,
            written(&disk.path)
        )
    }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%FT%TZ").to_string()
}

/// When a file was last written to, to the minute, so that a status that says it does not change all the time; devices do not tell.
fn written(path: &Path) -> String {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .and_then(|meta| Timestamp::from_second(meta.mtime()).ok())
        .map_or_else(String::new, |at| {
            at.strftime(" (last written to at %FT%H:%MZ)").to_string()
        })
}

/// One that cannot be asked may be there.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// What lies at a path, whatever the path is called.
#[derive(Debug, PartialEq, Eq)]
enum Thing {
    File { device: u64, inode: u64 },
    Device(u64),
}

impl Thing {
    fn at(path: &PathBuf) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(if meta.file_type().is_block_device() {
            Self::Device(meta.rdev())
        } else {
            Self::File {
                device: meta.dev(),
                inode: meta.ino(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: &str, path: &Path) -> GuestDisk {
        GuestDisk {
            id: id.into(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn only_a_disk_that_is_left_out_and_still_there_speaks_against_a_definition() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["new.raw", "old.raw", "more.raw"] {
            fs::write(at(name), [1; 512]).unwrap();
        }
        std::os::unix::fs::symlink(at("new.raw"), at("link.raw")).unwrap();
        fs::hard_link(at("new.raw"), at("hard.raw")).unwrap();
        let last = these(&[disk("root", &at("new.raw"))], How::Ran);
        let against = |defined: &[GuestDisk]| {
            leaves_out(defined, &last.disks)
                .then(|| last.against(defined))
                .flatten()
        };
        for same in ["new.raw", "./x/../new.raw", "link.raw", "hard.raw"] {
            assert_eq!(against(&[disk("root", &at(same))]), None, "{same}");
        }
        let added = [disk("root", &at("new.raw")), disk("more", &at("more.raw"))];
        assert_eq!(against(&added), None);
        let other = against(&[disk("root", &at("old.raw"))]).unwrap();
        for said in [
            "last ran on",
            "new.raw",
            "names",
            "old.raw",
            "last written to",
            "--on-other-disks",
            "definitionsDir",
        ] {
            assert!(other.contains(said), "{said}: {other}");
        }
        let none = against(&[disk("more", &at("more.raw"))]).unwrap();
        assert!(none.contains("names no such disk"), "{none}");
        fs::remove_file(at("new.raw")).unwrap();
        assert_eq!(against(&[disk("root", &at("old.raw"))]), None);
    }
}
