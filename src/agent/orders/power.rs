//! Power: a person's switch.

use super::{start, stop};
use crate::agent::api::{
    OperationError, OperationErrorKind, OrderResult, Power, PowerSwitch, ProgressPhase, Refusal,
    RefusalKind,
};
use crate::agent::definitions::refusal;
use crate::agent::host::{Host, Vm, Work, error, lock};
use crate::agent::hypervisor::GuestPower;
use crate::agent::{last_disks, peer, replication};

/// Before anything is changed: a guest that is off is not started on other disks than it last ran on, unless somebody says so.
pub(super) async fn check(host: &Host, vm: &Vm) -> Result<(), Refusal> {
    let Ok((_, guest)) = host.guest(vm.uuid) else {
        return Ok(());
    };
    let (power, _) = host.power(vm.uuid).await;
    if !matches!(power, Power::Off | Power::ShutDown) {
        return Ok(());
    }
    match last_disks::objection(vm, &guest.disks).await {
        None => Ok(()),
        Some(why) => Err(refusal(RefusalKind::DisksDiffer, why)),
    }
}

pub(super) async fn power(
    work: &Work,
    state: PowerSwitch,
    force: bool,
    on_other_disks: bool,
) -> Result<OrderResult, OperationError> {
    let (host, vm, epoch, step) = (&work.host, &work.vm, work.order.epoch, work.order.step);
    match state {
        PowerSwitch::On => {
            work.phase(ProgressPhase::Starting);
            let started = match peer::check(host, vm, epoch).await {
                Ok(()) if on_other_disks => start::run_on_other_disks(host, vm, epoch, step).await,
                Ok(()) => start::run(host, vm, epoch, step).await,
                Err(refused) => Err(refused),
            };
            *lock(&vm.not_started) = started.as_ref().err().map(|failed| failed.message.clone());
            started?;
        }
        PowerSwitch::Off => {
            work.phase(ProgressPhase::ShuttingDown);
            let _quiet = vm.replication.quiet().await;
            if force {
                pull(work, epoch).await?;
            } else {
                let guest = host.process(vm.uuid);
                match stop::awake(host, vm, &guest).await {
                    GuestPower::Gone => {}
                    GuestPower::Unknown { why } => {
                        return Err(error(
                            OperationErrorKind::Hypervisor,
                            format!("whether the guest runs is not known ({why})"),
                        ));
                    }
                    GuestPower::Running | GuestPower::Paused { .. } | GuestPower::ShutDown => {
                        stop::shut_down(work, &guest, false).await?;
                        replication::tally(host, vm, &guest).await?;
                        host.hypervisor.quit(&guest).await?;
                        tracing::info!(vm = %vm.uuid, epoch, step, "guest stopped");
                    }
                }
            }
            // The bitmap went with the process.
            replication::forget(host, vm).await?;
            *lock(&vm.not_started) = None;
        }
    }
    Ok(OrderResult::Powered { state })
}

/// Takes the power away and ends the process.
pub(super) async fn pull(work: &Work, epoch: u64) -> Result<(), OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    let guest = host.process(vm.uuid);
    if host.hypervisor.power(&guest).await == GuestPower::Gone {
        return Ok(());
    }
    host.hypervisor.power_off(&guest).await?;
    replication::tally(host, vm, &guest).await?;
    host.hypervisor.quit(&guest).await?;
    tracing::info!(vm = %vm.uuid, epoch, step = work.order.step, forced = true, "guest stopped");
    Ok(())
}
