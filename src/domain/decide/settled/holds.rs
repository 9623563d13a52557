//! What holds a VM at rest, as an outcome.

use super::outcome::Outcome;
use crate::api::{Site, VirtualMachinePhase};
use crate::domain::conditions::Reason;
use crate::domain::decide::wait::Waiting;
use crate::domain::observation::{Connection, VmObservation};
use crate::domain::world::VaultView;

pub(super) fn mend(obstacles: &[String]) -> Option<Outcome> {
    (!obstacles.is_empty())
        .then(|| Outcome::stalled(Reason::VirtualMachineNotReady, obstacles.join("; ")))
}

pub(super) fn disconnected(view: &VaultView<'_>) -> Option<Outcome> {
    Site::BOTH
        .into_iter()
        .find_map(|site| match &view.sites[site] {
            Connection::Connected => None,
            Connection::Disconnected(why) => Some(Outcome::outside(
                Reason::SiteDisconnected,
                format!("waits for {site} to be connected: {why}"),
            )),
        })
}

pub(super) fn silent_host(vm: &VmObservation) -> Option<Outcome> {
    let why = vm.host_silent.as_ref()?;
    Some(Outcome::outside(
        Reason::SiteDisconnected,
        format!("waits for the host of the VM to be heard: {why}"),
    ))
}

/// A job that somebody began, or that outlived the move it was of, and that the service does not tell of.
pub(super) fn missing_job(vm: &VmObservation) -> Option<Outcome> {
    let job = vm.missing_job.as_ref()?;
    let message = format!("waits for {}", job.what);
    Some(if job.is_stuck {
        Outcome::stalled(Reason::JobMissing, message)
    } else {
        Outcome::outside(Reason::JobMissing, message)
    })
}

pub(super) fn busy(vm: &VmObservation) -> Option<Outcome> {
    if let Some(missing) = missing_job(vm) {
        return Some(missing);
    }
    let what = vm.busy.as_ref()?;
    Some(Outcome::new(
        VirtualMachinePhase::Pending,
        Reason::OperationUnderWay,
        Some(Waiting::Operation),
        format!("waits for the end of {what}"),
    ))
}
