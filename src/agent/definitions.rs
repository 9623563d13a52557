//! The VM definitions of this host: those that people wrote, and those that arrived from another host.
//!
//! Where both are there, the one that a person wrote counts: it lies in a folder that people watch. What it said at the last order is
//! remembered: a guest does not vanish because its file was saved with a mistake in it, or was moved.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use uuid::Uuid;

use super::api::{
    Boot, DiskDefinition, DiskShape, Problem, ProblemKind, Refusal, RefusalKind, VmDefinition,
};
use super::config::Config;
use super::hypervisor::disk::{DiskKind, measure};
use super::hypervisor::{GuestBoot, GuestDefinition, GuestDisk, GuestNetwork};
use super::last_disks::leaves_out;
use super::store::{Kind, Store, StoreError};
use crate::dataplane::blocks::Geometry;

/// The longest definition file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// What was read, and from which state of the files.
#[derive(Debug, Default)]
struct Cache {
    stamps: BTreeMap<PathBuf, (SystemTime, u64)>,
    written: BTreeMap<Uuid, VmDefinition>,
    remembered: BTreeMap<Uuid, VmDefinition>,
    arrived: BTreeMap<Uuid, VmDefinition>,
    /// The VMs whose definition has a disk at this path.
    disks: BTreeMap<PathBuf, Vec<Uuid>>,
    problems: Vec<Problem>,
}

impl Cache {
    /// The definition that counts.
    fn get(&self, vm: Uuid) -> Option<&VmDefinition> {
        self.written
            .get(&vm)
            .or_else(|| self.remembered.get(&vm))
            .or_else(|| self.arrived.get(&vm))
    }

    fn all(&self) -> BTreeSet<Uuid> {
        self.written
            .keys()
            .chain(self.remembered.keys())
            .chain(self.arrived.keys())
            .copied()
            .collect()
    }

    /// What has changed is to be found.
    fn index(&mut self) {
        let mut disks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for vm in self.all() {
            for disk in self.get(vm).into_iter().flat_map(|known| &known.disks) {
                disks.entry(straight(&disk.path)).or_default().push(vm);
            }
        }
        self.disks = disks;
    }
}

/// The path without what changes nothing about where it leads. Links are not followed: a share that hangs must not hang this.
pub(super) fn straight(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            straight.pop();
        } else {
            straight.push(part);
        }
    }
    straight
}

/// The definitions.
#[derive(Debug)]
pub(crate) struct Definitions {
    folder: Option<PathBuf>,
    cache: Mutex<Cache>,
}

impl Definitions {
    /// Reads all.
    pub(crate) fn open(config: &Config, store: &Store) -> Result<Self, StoreError> {
        let mut cache = Cache::default();
        for (kind, into) in [
            (Kind::Definition, &mut cache.arrived),
            (Kind::Remembered, &mut cache.remembered),
        ] {
            for vm in store.list(kind)? {
                match store.load(kind, vm) {
                    Ok(Some(definition)) => {
                        into.insert(vm, definition);
                    }
                    Ok(None) => {}
                    // One VM without its definition must not keep the others from being served.
                    Err(error) => {
                        tracing::error!(%vm, %error, "a kept definition cannot be read");
                    }
                }
            }
        }
        let definitions = Self {
            folder: config.definitions_dir.clone(),
            cache: Mutex::new(cache),
        };
        definitions.refresh();
        Ok(definitions)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the folder again if a file has changed. Blocking.
    pub(crate) fn refresh(&self) {
        let Some(folder) = &self.folder else { return };
        let mut problems = Vec::new();
        let stamps = stamps(folder, &mut problems);
        if stamps == self.cache().stamps && problems.is_empty() && !stamps.is_empty() {
            return;
        }
        // Nobody who asks for a definition waits for files to be read.
        let mut written: BTreeMap<Uuid, VmDefinition> = BTreeMap::new();
        let mut files: BTreeMap<Uuid, Vec<&Path>> = BTreeMap::new();
        for path in stamps.keys() {
            match read(path, folder) {
                Ok(definition) => {
                    files.entry(definition.uuid).or_default().push(path);
                    written.insert(definition.uuid, definition);
                }
                Err(message) => problems.push(Problem {
                    kind: ProblemKind::Definition,
                    message,
                }),
            }
        }
        // Which of two is meant is not guessed: a copy of a file must not take the place of the file.
        for (vm, files) in files.iter().filter(|(_, files)| files.len() > 1) {
            written.remove(vm);
            let files: Vec<_> = files
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            problems.push(Problem {
                kind: ProblemKind::Definition,
                message: format!(
                    "uuid {vm} stands in {}: none of them counts; give each VM a uuid of its own",
                    files.join(" and ")
                ),
            });
        }
        let mut cache = self.cache();
        for problem in problems
            .iter()
            .filter(|problem| !cache.problems.contains(problem))
        {
            tracing::warn!(problem = %problem.message, "definitionsDir");
        }
        cache.stamps = stamps;
        cache.written = written;
        cache.problems = problems;
        cache.index();
    }

    /// How the disks of a VM are also those of another one here, in words. What one receives the other would lose.
    pub(crate) fn shared(&self, definition: &VmDefinition) -> Option<String> {
        let cache = self.cache();
        definition.disks.iter().find_map(|disk| {
            let users = cache.disks.get(&straight(&disk.path))?;
            let other = users.iter().find(|vm| **vm != definition.uuid)?;
            let name = cache.get(*other).map_or("", |other| other.name.as_str());
            Some(format!(
                "disk {} is {}, which is also a disk of VM {name} ({other}) on this host: give each VM files of its own",
                disk.id,
                disk.path.display()
            ))
        })
    }

    /// The definition of a VM.
    pub(crate) fn get(&self, vm: Uuid) -> Option<VmDefinition> {
        self.cache().get(vm).cloned()
    }

    /// Whether the definition that counts is one whose file is gone or cannot be read.
    pub(crate) fn is_remembered(&self, vm: Uuid) -> bool {
        let cache = self.cache();
        !cache.written.contains_key(&vm) && cache.remembered.contains_key(&vm)
    }

    /// Remembers what a person wrote, durably. Blocking; writes only what has changed.
    pub(crate) fn remember(&self, store: &Store, vm: Uuid) -> Result<(), StoreError> {
        let definition = {
            let cache = self.cache();
            match cache.written.get(&vm) {
                Some(written) if cache.remembered.get(&vm) != Some(written) => written.clone(),
                _ => return Ok(()),
            }
        };
        store.save(Kind::Remembered, vm, &definition)?;
        let mut cache = self.cache();
        cache.remembered.insert(vm, definition);
        cache.index();
        Ok(())
    }

    /// What a person wrote counts only as long as it is there. Blocking.
    pub(crate) fn forget(&self, store: &Store, vm: Uuid) -> Result<(), StoreError> {
        store.remove(Kind::Remembered, vm)?;
        let mut cache = self.cache();
        cache.remembered.remove(&vm);
        cache.index();
        Ok(())
    }

    /// Whether a person wrote it.
    pub(crate) fn is_written(&self, vm: Uuid) -> bool {
        self.cache().written.contains_key(&vm)
    }

    /// All VMs that have one.
    pub(crate) fn all(&self) -> Vec<Uuid> {
        self.cache().all().into_iter().collect()
    }

    /// What is wrong with the files.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.cache().problems.clone()
    }

    /// Keeps one that arrived, durably. Blocking.
    pub(crate) fn keep(&self, store: &Store, definition: VmDefinition) -> Result<(), StoreError> {
        store.save(Kind::Definition, definition.uuid, &definition)?;
        self.forget(store, definition.uuid)?;
        let mut cache = self.cache();
        cache.arrived.insert(definition.uuid, definition);
        cache.index();
        Ok(())
    }
}

fn stamps(folder: &Path, problems: &mut Vec<Problem>) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("definitionsDir {}: {error}", folder.display());
            problems.push(Problem {
                kind: ProblemKind::Definition,
                message,
            });
            return found;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            continue;
        }
        if let Ok(meta) = fs::metadata(&path) {
            found.insert(
                path,
                (
                    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    meta.len(),
                ),
            );
        }
    }
    found
}

fn read(path: &Path, folder: &Path) -> Result<VmDefinition, String> {
    let wrong = |message: String| format!("{}: {message}", path.display());
    if fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_FILE) {
        return Err(wrong(format!("longer than {MAX_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut definition: VmDefinition =
        serde_yaml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    definition.validate().map_err(wrong)?;
    for disk in &mut definition.disks {
        if disk.path.as_os_str().is_empty() {
            return Err(wrong(format!("disks: disk {} has no path", disk.id)));
        }
        if disk.path.is_relative() {
            disk.path = folder.join(&disk.path);
        }
    }
    Ok(definition)
}

/// The disks of a definition as the hypervisor needs them.
pub(crate) fn disks(definition: &VmDefinition) -> Vec<GuestDisk> {
    let disks = definition.disks.iter();
    disks
        .map(|disk| GuestDisk {
            id: disk.id.clone(),
            path: disk.path.clone(),
        })
        .collect()
}

/// The definition as the hypervisor needs it.
pub(crate) fn guest(
    definition: &VmDefinition,
    config: &Config,
) -> Result<GuestDefinition, Refusal> {
    let boot = match &definition.boot {
        Boot::Disk => GuestBoot::Disk { firmware: None },
        Boot::Kernel {
            kernel,
            initramfs,
            command_line,
        } => GuestBoot::Kernel {
            kernel: kernel.clone(),
            initramfs: initramfs.clone(),
            command_line: command_line.clone(),
        },
        Boot::Profile { name, command_line } => {
            let profile = config.boots.get(name).ok_or_else(|| {
                let message = format!("this host has no boot profile {name}: name it under `boots` in the agent's configuration");
                refusal(RefusalKind::NoBootProfile, message)
            })?;
            GuestBoot::Kernel {
                kernel: profile.kernel.clone(),
                initramfs: profile.initramfs.clone(),
                command_line: command_line.clone(),
            }
        }
    };
    Ok(GuestDefinition {
        uuid: definition.uuid,
        name: definition.name.clone(),
        cpus: definition.cpus,
        memory_mib: definition.memory_mib,
        disks: disks(definition),
        networks: definition
            .networks
            .iter()
            .map(|network| GuestNetwork {
                name: network.name.clone(),
                mac: network.mac.clone(),
            })
            .collect(),
        boot,
    })
}

/// How the definition's disks differ from those that the guest was started with, in words.
pub(crate) fn other_disks(defined: &[GuestDisk], attached: &[GuestDisk]) -> Option<String> {
    let differs = differing(defined, attached)?;
    let (else_if, losing) = if leaves_out(defined, attached) {
        (
            "Only if the other disks are really meant: ",
            " --on-other-disks`; what the guest wrote to those that it runs on is then given up, and the replica is overwritten with what the others hold",
        )
    } else {
        ("If the guest is to have the disks that were added: ", "`")
    };
    Some(format!(
        "the definition was changed under a running guest: {differs}. Put the definition back as it was: take the changed file out of definitionsDir, or name in it the disks that the guest runs on. {else_if}`homeward vm stop`, then `homeward vm start{losing}"
    ))
}

/// In which disks a definition and what a guest ran on differ.
pub(crate) fn differing(defined: &[GuestDisk], attached: &[GuestDisk]) -> Option<String> {
    let other = |id: &str| attached.iter().find(|disk| disk.id == id);
    let mut differs: Vec<String> = defined
        .iter()
        .filter_map(|disk| match other(&disk.id) {
            Some(runs) if runs.path == disk.path => None,
            Some(runs) => Some(format!(
                "disk {} is {} and the guest runs on {}",
                disk.id,
                disk.path.display(),
                runs.path.display()
            )),
            None => Some(format!("the guest runs without disk {}", disk.id)),
        })
        .collect();
    let taken_out = attached
        .iter()
        .filter(|runs| !defined.iter().any(|disk| disk.id == runs.id))
        .map(|runs| format!("the guest still runs on disk {}", runs.id));
    differs.extend(taken_out);
    (!differs.is_empty()).then(|| differs.join(", "))
}

/// A guest of which only the UUID is known.
pub(crate) fn unknown_guest(uuid: Uuid) -> GuestDefinition {
    GuestDefinition {
        uuid,
        name: uuid.to_string(),
        cpus: 1,
        memory_mib: 1,
        disks: Vec::new(),
        networks: Vec::new(),
        boot: GuestBoot::Disk { firmware: None },
    }
}

/// A refusal without a register.
pub(crate) fn refusal(kind: RefusalKind, message: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
        register: None,
        needed: None,
        available: None,
    }
}

/// What keeps a disk of this size from being moved, if anything does.
pub(crate) fn odd_size(disk: &DiskDefinition, size_bytes: u64) -> Option<String> {
    (size_bytes == 0 || Geometry::new(size_bytes).is_none()).then(|| {
        format!(
            "disk {}: {} has {size_bytes} bytes; a disk has a positive multiple of 512, up to 64 TiB: make it one (for example `truncate -s %512 FILE` while the guest is off)",
            disk.id,
            disk.path.display()
        )
    })
}

/// The size that a disk has now (a file's length, a device's size), and which of both it is. Blocking.
pub(crate) fn size_of(disk: &DiskDefinition) -> Result<(DiskShape, DiskKind), String> {
    let (kind, size_bytes) = measure(&disk.path).map_err(|error| {
        let what = format!("disk {}: {}", disk.id, disk.path.display());
        if error.kind() == std::io::ErrorKind::NotFound {
            format!("{what} is not there: put it back, or take the disk out of the VM's file in definitionsDir")
        } else {
            format!("{what}: {error}")
        }
    })?;
    let shape = DiskShape {
        id: disk.id.clone(),
        size_bytes,
    };
    Ok((shape, kind))
}

/// Where the disks of a definition that arrives will lie: those that are here already stay where they are.
pub(crate) fn placed(
    arriving: &VmDefinition,
    known: Option<&VmDefinition>,
    storage: &Path,
) -> VmDefinition {
    let mut definition = arriving.clone();
    definition.autostart = false;
    for disk in &mut definition.disks {
        let here = known.and_then(|known| known.disks.iter().find(|here| here.id == disk.id));
        disk.path = here.map_or_else(
            || {
                storage
                    .join(arriving.uuid.to_string())
                    .join(format!("{}.raw", disk.id))
            },
            |here| here.path.clone(),
        );
    }
    definition
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "
uuid: 00000000-0000-0000-0000-000000000007
name: app
cpus: 1
memoryMiB: 64
disks: [{ id: root, path: root.raw }]
networks: [{ name: lan, mac: '52:54:00:12:34:56' }]
boot: { from: profile, name: demo, commandLine: 'site={site}' }
";

    #[test]
    fn a_definition_is_read_from_its_folder_and_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("app.yaml"), APP).unwrap();
        fs::write(
            folder.path().join("bad.yaml"),
            APP.replace("cpus: 1", "cpus: 0").replace("0007", "0008"),
        )
        .unwrap();
        fs::write(
            folder.path().join("more.yaml"),
            APP.replace("cpus: 1", "cpus: 1\nbogus: 2"),
        )
        .unwrap();
        let definitions = Definitions {
            folder: Some(folder.path().to_owned()),
            cache: Mutex::default(),
        };
        definitions.refresh();
        let app = definitions.get(Uuid::from_u128(7)).unwrap();
        assert_eq!(app.disks[0].path, folder.path().join("root.raw"));
        fs::write(folder.path().join("twin.yaml"), APP).unwrap();
        definitions.refresh();
        assert!(definitions.get(Uuid::from_u128(7)).is_none());
        let problems: Vec<_> = definitions
            .problems()
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("cpus")
                && problems[1].contains("bogus")
                && problems[2].contains("app.yaml and ")
                && problems[2].contains("twin.yaml: none of them counts"),
            "{problems:?}"
        );
        fs::remove_file(folder.path().join("app.yaml")).unwrap();
        fs::remove_file(folder.path().join("twin.yaml")).unwrap();
        definitions.refresh();
        assert!(definitions.get(Uuid::from_u128(7)).is_none());
    }

    #[test]
    fn disks_that_are_here_stay_where_they_are() {
        let known: VmDefinition = serde_yaml::from_str(APP).unwrap();
        let mut arriving = known.clone();
        arriving.disks[0].path = "/elsewhere/root.raw".into();
        arriving.disks.push(DiskDefinition {
            id: "data".into(),
            path: "/elsewhere/data.raw".into(),
            size_bytes: Some(512),
        });
        let placed = placed(&arriving, Some(&known), Path::new("/storage"));
        assert_eq!(placed.disks[0].path, Path::new("root.raw"));
        assert_eq!(
            placed.disks[1].path,
            Path::new("/storage/00000000-0000-0000-0000-000000000007/data.raw")
        );
    }

    #[test]
    fn disks_of_two_vms_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let definitions = Definitions {
            folder: Some(folder.path().to_owned()),
            cache: Mutex::default(),
        };
        let put = |name: &str, uuid: &str, path: &str| {
            let text = APP
                .replace("0007", uuid)
                .replace("name: app", &format!("name: {name}"))
                .replace("root.raw", path);
            fs::write(folder.path().join(format!("{name}.yaml")), text).unwrap();
            definitions.refresh();
        };
        let shared = |vm| definitions.shared(&definitions.get(Uuid::from_u128(vm)).unwrap());
        put("app", "0007", "root.raw");
        put("web", "0008", "web.raw");
        assert_eq!((shared(7), shared(8)), (None, None));
        put("web", "0008", "./disks/../root.raw");
        assert!(shared(7).unwrap().contains("also a disk of VM web"));
        assert!(shared(8).unwrap().contains("also a disk of VM app"));
        put("web", "0008", "web.raw");
        assert_eq!((shared(7), shared(8)), (None, None));
    }
}
