//! Guests that should run and do not: after the host was started again, after an order that broke off before it had brought the guest up, and
//! after a shutdown that came later than anybody waited for.
//!
//! A guest that its user shut down from inside is left alone and told of; nothing here starts a guest that nobody was promised.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::api::{Power, PowerSwitch, Register, Role};
use super::definitions::size_of;
use super::host::{Host, Vm, blocking, lock};
use super::hypervisor::disk::DiskKind;
use super::{orders, peer, replication};
use crate::dataplane::{Content, VolumeSet};

/// The first pause between two attempts, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a guest that was asked to shut down, and was then to run on, is watched.
const WATCH: Duration = Duration::from_mins(30);
const LOOK: Duration = Duration::from_secs(1);

/// The host was started again. What follows from it is done now, or tried until it works. Whether a guest was started.
pub(super) async fn after_reboot(host: &Arc<Host>, vm: &Arc<Vm>) -> bool {
    let mut voided = false;
    match attempt(host, vm, &mut voided).await {
        Ok(started) => started,
        Err(why) => {
            failed(vm, &why);
            vm.boot_unsettled.store(true, Ordering::SeqCst);
            tokio::spawn(try_again(Arc::clone(host), Arc::clone(vm), voided));
            false
        }
    }
}

/// Waits a while, twice as long the next time, and then for a moment in which no order is at work. None is admitted while the guard lives: one that
/// takes the right to run away must not cross a start. None: the agent ends.
async fn next_turn<'a>(
    host: &Host,
    vm: &'a Vm,
    pause: &mut Duration,
) -> Option<tokio::sync::MutexGuard<'a, ()>> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            () = host.shutdown.cancelled() => return None,
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        let turn = vm.turn.lock().await;
        if lock(&vm.running).is_none() {
            return Some(turn);
        }
    }
}

async fn try_again(host: Arc<Host>, vm: Arc<Vm>, mut voided: bool) {
    let mut pause = FIRST_PAUSE;
    while let Some(_turn) = next_turn(&host, &vm, &mut pause).await {
        match attempt(&host, &vm, &mut voided).await {
            Ok(_) => {
                vm.boot_unsettled.store(false, Ordering::SeqCst);
                return;
            }
            Err(why) => failed(&vm, &why),
        }
    }
}

fn failed(vm: &Vm, why: &str) {
    tracing::error!(vm = %vm.uuid, error = %why, "what follows from the host's reboot could not be done yet; it is tried again");
    *lock(&vm.not_started) = Some(why.to_owned());
}

/// Voids the digests of a source, starts an owner's guest, and only then writes the new boot down. Whether a guest was started.
async fn attempt(host: &Arc<Host>, vm: &Arc<Vm>, voided: &mut bool) -> Result<bool, String> {
    let Some(register) = vm.register() else {
        return Ok(false);
    };
    // What arrived at a replica was synced, and nothing runs there. What a stop record speaks of was synced before it was read.
    if register.role != Role::Replica && register.stop.is_none() && !*voided {
        void(host, vm).await?;
        *voided = true;
    }
    if register.role == Role::Replica {
        void_devices(host, vm).await?;
    }
    // Without a definition there is nothing to start; should it come back, that the guest does not run is complained of.
    let defined = host.definitions.get(vm.uuid).is_some();
    let started = defined && bring_up(host, vm).await?;
    let boot_id = host.boot_id.clone();
    host.change(vm, move |register| {
        let next = register.map(|register| Register {
            boot_id,
            start_owed: register.start_owed && !defined,
            updated_at: Timestamp::now(),
            ..register.clone()
        });
        Ok((next, ()))
    })
    .await
    .map_err(|refusal| refusal.message)?;
    *lock(&vm.not_started) = None;
    Ok(started)
}

/// Starts the guest of an owner that is to run and is off. Whether it was started.
async fn bring_up(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<bool, String> {
    let Some(register) = vm.register() else {
        return Ok(false);
    };
    if !(wants_to_run(&register) && orders::may_run(vm)) {
        return Ok(false);
    }
    match host.power(vm.uuid).await {
        // A process in which the guest never ran, or has ended, pays nothing that is owed.
        (Power::Off, _) => {
            peer::check(host, vm, register.epoch)
                .await
                .map_err(|refused| refused.message)?;
            orders::run(host, vm, register.epoch, register.step)
                .await
                .map_err(|failed| format!("the guest should run here: {}", failed.message))?;
            Ok(true)
        }
        (Power::Unknown, why) => Err(format!(
            "whether the guest runs is not known: {}",
            why.unwrap_or_default()
        )),
        (Power::Paused | Power::ShutDown, _) if register.start_owed => {
            orders::run(host, vm, register.epoch, register.step)
                .await
                .map_err(|failed| format!("the guest should run here: {}", failed.message))?;
            Ok(true)
        }
        (Power::Running | Power::Paused | Power::ShutDown, _) => Ok(false),
    }
}

/// The register says that no start is owed any more.
async fn paid(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), String> {
    host.change(vm, |register| {
        let next = register.filter(|own| own.start_owed).map(|own| Register {
            start_owed: false,
            updated_at: Timestamp::now(),
            ..own.clone()
        });
        Ok((next, ()))
    })
    .await
    .map_err(|refusal| refusal.message)
}

/// An order that gave this host the right to run was to bring the guest up, and broke off before it had: whoever gave it may be gone, so it is
/// tried until the guest runs, or the right is somewhere else.
pub(super) fn until_it_runs(host: &Arc<Host>, vm: &Arc<Vm>, why: &str) {
    *lock(&vm.not_started) = Some(why.to_owned());
    if vm.bringing_up.swap(true, Ordering::SeqCst) {
        return;
    }
    let (host, vm) = (Arc::clone(host), Arc::clone(vm));
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while let Some(_turn) = next_turn(&host, &vm, &mut pause).await {
            let up = match bring_up(&host, &vm).await {
                Ok(_) => paid(&host, &vm).await,
                Err(why) => Err(why),
            };
            match up {
                Ok(()) => {
                    *lock(&vm.not_started) = None;
                    vm.bringing_up.store(false, Ordering::SeqCst);
                    return;
                }
                Err(why) => {
                    tracing::error!(vm = %vm.uuid, error = %why, "a guest that should run could not be started yet; it is tried again");
                    *lock(&vm.not_started) = Some(why);
                }
            }
        }
    });
}

/// S12: digests of a source are void after a reboot: what the cache held may never have reached the disk.
async fn void(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), String> {
    let voided = if host.definitions.get(vm.uuid).is_some() {
        match host.volume(vm).await {
            Ok(volume) => volume.with(|set| Ok(set.void()?)).await,
            Err(failed) => Err(failed),
        }
    } else {
        // Should the definition come back, what was known of its disks before the reboot must not count.
        let (folder, uuid) = (host.volume_folder(vm.uuid), vm.uuid);
        blocking(move || {
            if let Some(mut set) = VolumeSet::open_recorded(&folder, uuid)? {
                set.void()?;
            }
            Ok(())
        })
        .await
    };
    let forgotten = replication::forget(host, vm).await;
    voided.and(forgotten).map_err(|failed| {
        format!(
            "cached digests could not be voided, and the guest is not started before: {}",
            failed.message
        )
    })
}

/// S13: after a reboot another device may stand behind a path, and nothing of a device tells whether it is the same. What a replica holds on one is
/// compared again.
async fn void_devices(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<(), String> {
    let Some(definition) = host.definitions.get(vm.uuid) else {
        return Ok(());
    };
    let on_devices = tokio::task::spawn_blocking(move || {
        let mut disks = definition.disks.iter();
        disks.any(|disk| matches!(size_of(disk), Ok((_, DiskKind::Device))))
    });
    if !on_devices.await.map_err(|failed| failed.to_string())? {
        return Ok(());
    }
    let volume = host.volume(vm).await.map_err(|failed| failed.message)?;
    let voided = volume.with(|set| {
        if matches!(set.content(), Content::Whole { .. }) {
            set.void()?;
        }
        Ok(())
    });
    voided.await.map_err(|failed| failed.message)
}

const fn wants_to_run(register: &Register) -> bool {
    matches!(register.desired_power, PowerSwitch::On)
}

/// A guest was asked to shut down, did not in time, and is to run on: should it go down after all, it is started again.
pub(super) fn watch(host: &Arc<Host>, vm: &Arc<Vm>, epoch: u64) {
    let (host, vm) = (Arc::clone(host), Arc::clone(vm));
    tokio::spawn(async move {
        let until = Instant::now() + WATCH;
        while Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = host.shutdown.cancelled() => return,
            }
            let (power, _) = host.power(vm.uuid).await;
            if !matches!(power, Power::Off | Power::ShutDown) {
                if wanted_still(&vm, epoch) {
                    continue;
                }
                return;
            }
            let _turn = vm.turn.lock().await;
            if !wanted_still(&vm, epoch) {
                return;
            }
            if lock(&vm.running).is_some() {
                continue;
            }
            let Some(register) = vm.register() else {
                return;
            };
            tracing::warn!(vm = %vm.uuid, epoch, "the guest followed an earlier request to shut down after the move had turned back; it is started again");
            match orders::run(&host, &vm, register.epoch, register.step).await {
                Ok(()) => {
                    *lock(&vm.not_started) = None;
                    return;
                }
                Err(failed) => *lock(&vm.not_started) = Some(failed.message),
            }
        }
    });
}

fn wanted_still(vm: &Vm, epoch: u64) -> bool {
    orders::may_run(vm)
        && vm
            .register()
            .is_some_and(|register| register.epoch == epoch && wants_to_run(&register))
}

/// What is to be said of a guest that should run and does not, when no order is at work on it.
pub(super) fn complaint(vm: &Vm, power: Power) -> Option<String> {
    if let Some(why) = lock(&vm.not_started).clone() {
        return Some(why);
    }
    let should = orders::may_run(vm) && vm.register().is_some_and(|own| wants_to_run(&own));
    let idle = lock(&vm.running).is_none();
    if idle && orders::owes_a_start(vm) && power != Power::Running {
        return Some(
            "the guest was to be started and has not come up yet; it is tried again".to_owned(),
        );
    }
    (should && idle && matches!(power, Power::Off | Power::ShutDown)).then(|| {
        "the guest should run and does not: it was shut down from inside, or its process ended; start it with `homeward vm start`, or switch it off with `homeward vm stop` if that is what is wanted".to_owned()
    })
}
