//! What holds a move whatever its phase wants next.

use crate::api::Site;
use crate::domain::conditions::Reason;
use crate::domain::decide::wait::Wait;
use crate::domain::observation::{Connection, VmObservation};
use crate::domain::world::VaultView;

pub(super) fn disconnected(view: &VaultView<'_>) -> Option<Wait> {
    Site::BOTH
        .into_iter()
        .find_map(|site| match &view.sites[site] {
            Connection::Connected => None,
            Connection::Disconnected(why) => {
                let wait = Wait::outside(format!("{site} to be connected: {why}"));
                Some(wait.because(Reason::SiteDisconnected))
            }
        })
}

pub(super) fn silent_host(vm: &VmObservation) -> Option<Wait> {
    let why = vm.host_silent.as_ref()?;
    let wait = Wait::outside(format!("the host of the VM to be heard: {why}"));
    Some(wait.because(Reason::SiteDisconnected))
}

pub(super) fn busy(vm: &VmObservation) -> Option<Wait> {
    let what = vm.busy.as_ref()?;
    Some(Wait::operation(format!("the end of {what}")).because(Reason::OperationUnderWay))
}

/// What holds whatever would be begun with the VM.
pub(super) fn obstacles(vm: &VmObservation) -> Option<Wait> {
    let all: Vec<&str> = vm
        .obstacles
        .iter()
        .chain(&vm.protection_obstacles)
        .map(String::as_str)
        .collect();
    let mend = Wait::mend(all.join("; ")).because(Reason::VirtualMachineNotReady);
    (!all.is_empty()).then_some(mend).or_else(|| busy(vm))
}

/// S7, S18: the job of this move, or of whoever began it, is out of sight and may still act. Nothing is asked for beside it, and what its last state
/// would let be done is not either.
pub(super) fn missing_job(vm: &VmObservation) -> Option<Wait> {
    let job = vm.missing_job.as_ref()?;
    let wait = if job.is_stuck {
        Wait::mend(job.what.clone())
    } else {
        Wait::outside(job.what.clone())
    };
    Some(wait.because(Reason::JobMissing))
}
