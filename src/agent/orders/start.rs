//! Start and Resume: the right to run moves here, then the guest runs.

use std::sync::Arc;

use jiff::Timestamp;

use crate::agent::api::{
    OperationError, OperationErrorKind, OrderResult, PowerSwitch, ProgressPhase, Role, StartRecord,
    StopRecord,
};
use crate::agent::host::{Host, Vm, Work, error, internal};
use crate::agent::hypervisor::{ErrorCategory, GuestPower, StartSpec};
use crate::agent::keep_running;
use crate::agent::last_disks;
use crate::agent::manifest;
use crate::agent::register;
use crate::agent::replication;
use crate::agent::volume::from_api;

pub(super) async fn start(work: &Work, stop: &StopRecord) -> Result<OrderResult, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    let role = vm.register().map(|register| register.role);
    if role == Some(Role::Replica) {
        work.phase(ProgressPhase::Sealing);
        let volume = host.volume(vm).await?;
        // S9: the gate was closed when the order was judged; now the images are locked too. S11: sealed and synced first.
        let roots = from_api(&stop.roots)?;
        let _locked = volume
            .with(move |set| {
                let locked = set.lock_exclusive()?;
                set.seal(&roots)?;
                Ok(locked)
            })
            .await?;
        work.place("sealed").await;
        // Before the right to run is here, so that there is no moment in which it is and this is not known.
        last_disks::arrived(host, vm, &volume.disks()).await?;
        // What the bitmap of the coming start will be a difference to.
        replication::standing(host, vm, Some(stop.roots.clone())).await?;
        replication::pause(host, vm).await?;
        let record = StartRecord {
            epoch: work.order.epoch,
            roots: stop.roots.clone(),
            left_off: !stop.was_running,
            at: Timestamp::now(),
        };
        let ordered = work.order.id();
        // S1: this host is Owner, durably, before the guest's first instruction.
        let promoted = host
            .change(vm, move |register| {
                let next = register.and_then(|register| {
                    register::promote(register, ordered, record, Timestamp::now())
                });
                let promoted = next.is_some();
                Ok((next, promoted))
            })
            .await
            .map_err(|refusal| error(OperationErrorKind::Storage, refusal.message))?;
        if !promoted {
            return Err(internal("a newer order has taken the place of this start"));
        }
        work.place("promoted").await;
    }
    run_if_wanted(work).await?;
    work.place("started").await;
    let record = vm
        .register()
        .and_then(|register| register.start)
        .ok_or_else(|| internal("the start is not in the register"))?;
    Ok(OrderResult::Started { record })
}

pub(super) async fn resume(work: &Work) -> Result<OrderResult, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    // The disks still hold what the stop record said; the replica's side has undone or will.
    if let Some(stop) = work.before.as_ref().and_then(|before| before.stop.clone()) {
        let volume = host.volume(vm).await?;
        let roots = stop.roots.clone();
        let known = volume
            .with(move |set| Ok(manifest::describes(set, &roots)))
            .await?;
        replication::standing(host, vm, known.then_some(stop.roots)).await?;
    }
    work.place("standing").await;
    let running = run_if_wanted(work).await?;
    let asked_to_stop = work
        .before
        .as_ref()
        .is_some_and(|before| before.role == Role::Fenced && before.stop.is_none());
    if running && asked_to_stop {
        keep_running::watch(host, vm, work.order.epoch);
    }
    Ok(OrderResult::Resumed { running })
}

/// Starts the guest if it is to run and does not. Whether it runs now.
async fn run_if_wanted(work: &Work) -> Result<bool, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    let register = vm
        .register()
        .ok_or_else(|| internal("the register is gone"))?;
    if register.desired_power != PowerSwitch::On {
        *crate::agent::host::lock(&vm.not_started) = None;
        tracing::info!(vm = %vm.uuid, epoch = register.epoch, step = register.step, "guest left off, as it was");
        return Ok(false);
    }
    work.phase(ProgressPhase::Starting);
    let started = run(host, vm, register.epoch, register.step).await;
    match &started {
        Ok(()) => *crate::agent::host::lock(&vm.not_started) = None,
        Err(failed) => keep_running::until_it_runs(host, vm, &failed.message),
    }
    started.map(|()| true)
}

/// Starts the guest, unless it runs, and not on disks that leave out what it last ran on.
pub(in crate::agent) async fn run(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    epoch: u64,
    step: u64,
) -> Result<(), OperationError> {
    run_on(host, vm, epoch, step, Disks::ThoseItRanOn).await
}

/// As [`run`], on whatever disks the definition names: a person has said that those are meant.
pub(super) async fn run_on_other_disks(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    epoch: u64,
    step: u64,
) -> Result<(), OperationError> {
    run_on(host, vm, epoch, step, Disks::Others).await
}

/// Which disks a start may be on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disks {
    ThoseItRanOn,
    Others,
}

async fn run_on(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    epoch: u64,
    step: u64,
    disks: Disks,
) -> Result<(), OperationError> {
    // S1, S4: only what the synced register says lets a guest run.
    if !register::may_run(vm.register().as_ref()) {
        return Err(internal("this host has no right to run the VM"));
    }
    let _quiet = vm.replication.quiet().await;
    let (_, guest) = host.guest(vm.uuid)?;
    match host.hypervisor.power(&guest).await {
        GuestPower::Running => return Ok(()),
        GuestPower::Gone => {}
        GuestPower::ShutDown => replication::tally(host, vm, &guest).await?,
        other @ (GuestPower::Paused { .. } | GuestPower::Unknown { .. }) => {
            replication::recover(host, vm, &guest).await;
            let now = host.hypervisor.power(&guest).await;
            if now == GuestPower::Running {
                return Ok(());
            }
            if !matches!(now, GuestPower::Gone | GuestPower::ShutDown) {
                let message = format!("the guest is {other}; it can be started when it is off");
                return Err(error(OperationErrorKind::Hypervisor, message));
            }
        }
    }
    if let Some(why) = last_disks::objection(vm, &guest.disks).await {
        if disks == Disks::ThoseItRanOn {
            return Err(error(OperationErrorKind::OtherDisks, why));
        }
        tracing::warn!(vm = %vm.uuid, epoch, step, given_up = %why, "the guest is started on other disks than it last ran on, as a person has said");
        // What the others held is nothing that a bitmap of these could be a difference to.
        replication::forget(host, vm).await?;
    }
    let before = last_disks::runs(host, vm, &guest.disks).await?;
    let generation = replication::mint(host, vm).await?;
    host.failpoints.pass("run:minted").await;
    let spec = StartSpec {
        site: host.config.site.to_string(),
        host: host.config.host.clone(),
        generation: Some(generation),
    };
    if let Err(failed) = host.hypervisor.start(&guest, &spec).await {
        if failed.category() == ErrorCategory::Unknown {
            replication::recover(host, vm, &guest).await;
        } else {
            last_disks::did_not_run(host, vm, before).await;
        }
        return Err(failed.into());
    }
    tracing::info!(vm = %vm.uuid, epoch, step, %generation, "guest started");
    Ok(())
}
