//! Room for replicas that are still to arrive: counted before a VM is enrolled, file system by file system, so that two that come at once do
//! not both get what is there for one.
//!
//! A replica that is whole is counted as it is: disks are sparse, and what they hold grows as the guest writes. The pass that brings it
//! finds out when there is no room left ([`crate::dataplane`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::api::{Refusal, RefusalKind, Role, VmDefinition};
use super::definitions::refusal;
use super::host::{Host, Vm, lock};
use crate::dataplane::io::fs::{Fs, HostFs};
use crate::dataplane::io::room::Room;

/// How long one enrolment waits for another to be counted.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes by file system, with a folder in each.
pub(crate) type Growth = BTreeMap<u64, (PathBuf, u64)>;

#[derive(Debug)]
struct Promised {
    vm: Uuid,
    growth: Growth,
}

/// What was promised to enrolments under way.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Held while one is counted, so that the next counts it too.
    counting: Arc<tokio::sync::Mutex<()>>,
    given: Arc<Mutex<BTreeMap<Uuid, Promised>>>,
}

/// Room that one enrolment may count on until it has ended; from then on the VM's definition and register tell of it.
#[derive(Debug)]
pub(crate) struct Promise {
    given: Arc<Mutex<BTreeMap<Uuid, Promised>>>,
    id: Uuid,
}

impl Drop for Promise {
    fn drop(&mut self) {
        lock(&self.given).remove(&self.id);
    }
}

/// Promises the room that these disks will take, beyond what they take already. Sparse files are counted whole: they fill up.
pub(crate) async fn promise(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    placed: VmDefinition,
) -> Result<Promise, Refusal> {
    let counting = Arc::clone(&host.promises.counting).lock_owned();
    let counting = tokio::time::timeout(PATIENCE, counting)
        .await
        .map_err(|_| {
            let message =
                "another VM is being enrolled, and its storage is slow to answer; try again";
            refusal(RefusalKind::Busy, message)
        })?;
    let given = Arc::clone(&host.promises.given);
    let (host, uuid, id) = (Arc::clone(host), vm.uuid, Uuid::new_v4());
    let counted = tokio::task::spawn_blocking(move || {
        let _counting = counting;
        let wanted = growth(&placed);
        let others = arriving(&host, uuid);
        for (file_system, (folder, needed)) in &wanted {
            let room = HostFs.room(folder).map_err(|failed| {
                refusal(
                    RefusalKind::Storage,
                    format!("{}: {failed}", folder.display()),
                )
            })?;
            let taken = others.get(file_system).map_or(0, |(_, bytes)| *bytes);
            enough(folder, *needed, taken, room)?;
        }
        let promised = Promised {
            vm: uuid,
            growth: wanted,
        };
        lock(&given).insert(id, promised);
        Ok(Promise { given, id })
    });
    counted
        .await
        .map_err(|failed| refusal(RefusalKind::Storage, failed.to_string()))?
}

fn enough(folder: &Path, needed: u64, taken: u64, room: Room) -> Result<(), Refusal> {
    let available = room.spare().saturating_sub(taken);
    if needed <= available {
        return Ok(());
    }
    let others = if taken == 0 {
        String::new()
    } else {
        format!(", and other replicas that are still arriving will take {taken} of them")
    };
    let message = format!(
        "the disks need {needed} bytes in {}, where {room}{others}",
        folder.display()
    );
    Err(Refusal {
        needed: Some(needed),
        available: Some(available),
        ..refusal(RefusalKind::NoSpace, message)
    })
}

/// What all other replicas that have not arrived whole will take.
fn arriving(host: &Host, except: Uuid) -> Growth {
    // Disks are measured below, which may hang: whoever lets go of a promise must not wait for that.
    let given: Vec<(Uuid, Growth)> = lock(&host.promises.given)
        .values()
        .map(|promised| (promised.vm, promised.growth.clone()))
        .collect();
    let mut sum = Growth::new();
    let mut add = |growth: Growth| {
        for (file_system, (folder, bytes)) in growth {
            let slot = sum.entry(file_system).or_insert((folder, 0));
            slot.1 = slot.1.saturating_add(bytes);
        }
    };
    for vm in host.vms() {
        let counted = given.iter().any(|(promised, _)| *promised == vm.uuid);
        if vm.uuid == except || counted || !is_arriving(&vm) {
            continue;
        }
        if let Some(definition) = host.definitions.get(vm.uuid) {
            add(growth(&definition));
        }
    }
    let others = given.into_iter().filter(|(vm, _)| *vm != except);
    others.for_each(|(_, growth)| add(growth));
    sum
}

/// A replica that holds no whole point yet, nor stands under a pass over one.
fn is_arriving(vm: &Vm) -> bool {
    let replica = vm
        .register()
        .is_some_and(|register| register.role == Role::Replica);
    replica
        && match vm.volume.try_lock() {
            Ok(volume) => volume
                .as_ref()
                .is_none_or(|volume| volume.content().roots.is_none()),
            // Somebody opens it now: what it holds is not known.
            Err(_) => true,
        }
}

fn growth(placed: &VmDefinition) -> Growth {
    use std::os::unix::fs::MetadataExt;
    let mut growth = Growth::new();
    for disk in &placed.disks {
        let size = disk.size_bytes.unwrap_or(0);
        let missing = match std::fs::metadata(&disk.path) {
            Ok(meta) if meta.is_file() => size.saturating_sub(meta.blocks() * 512),
            Ok(_) => continue,
            Err(_) => size,
        };
        let folder = disk
            .path
            .ancestors()
            .skip(1)
            .find(|folder| folder.is_dir())
            .unwrap_or(Path::new("/"));
        let file_system = HostFs.file_system(folder).unwrap_or(0);
        let slot = growth
            .entry(file_system)
            .or_insert_with(|| (folder.to_owned(), 0));
        slot.1 = slot.1.saturating_add(missing);
    }
    growth
}
