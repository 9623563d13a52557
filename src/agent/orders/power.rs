//! Power: a person's switch.

use super::{start, stop};
use crate::agent::api::{
    OperationError, OperationErrorKind, OrderResult, PowerSwitch, ProgressPhase,
};
use crate::agent::host::{Work, error, lock};
use crate::agent::hypervisor::GuestPower;
use crate::agent::{peer, replication};

pub(super) async fn power(
    work: &Work,
    state: PowerSwitch,
    force: bool,
) -> Result<OrderResult, OperationError> {
    let (host, vm, epoch, step) = (&work.host, &work.vm, work.order.epoch, work.order.step);
    match state {
        PowerSwitch::On => {
            work.phase(ProgressPhase::Starting);
            let started = match peer::check(host, vm, epoch).await {
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
