//! Guests whose processes are there though this host knows no such VM: its whole `stateDir` was lost under them, and with it the definitions of VMs
//! that had arrived here. To be silent about one would send people, and the operator, to start it somewhere else (S3, S8).

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::api::{Problem, ProblemKind};
use super::host::Host;
use super::hypervisor::FoundGuest;

/// Looks for them. What a look that fails or hangs leaves open is a problem of the host.
pub(super) async fn look(host: &Arc<Host>, patience: Duration) -> Result<Vec<FoundGuest>, Problem> {
    let looking = Arc::clone(host);
    let found = tokio::task::spawn_blocking(move || {
        let mut found = looking.hypervisor.processes()?;
        found.retain(|guest| !looking.knows(guest.uuid));
        Ok::<_, super::hypervisor::HypervisorError>(found)
    });
    let why = match tokio::time::timeout(patience, found).await {
        Ok(Ok(Ok(found))) => return Ok(found),
        Ok(Ok(Err(failed))) => failed.to_string(),
        Ok(Err(failed)) => failed.to_string(),
        Err(_) => format!("no answer for {} s", patience.as_secs()),
    };
    Err(Problem {
        kind: ProblemKind::Stranger,
        message: format!(
            "whether guests run here that this host does not know cannot be told: {why}. Look with `ps` before a VM is started elsewhere"
        ),
    })
}

/// What people are told of one.
pub(super) fn problem(guest: &FoundGuest) -> Problem {
    let FoundGuest { uuid, pid, .. } = guest;
    Problem {
        kind: ProblemKind::Stranger,
        message: format!(
            "process {pid} runs the guest of VM {} ({uuid}), and this host knows no such VM: its stateDir was lost, or put back. Do not start the VM anywhere else. Bring the stateDir back if you can; if not, shut the guest down from inside, or end that process, and see the runbook on contradicting registers",
            name(guest)
        ),
    }
}

/// By which name it is listed.
pub(super) fn name(guest: &FoundGuest) -> String {
    guest.name.clone().unwrap_or_else(|| guest.uuid.to_string())
}

/// Those that were asked for.
pub(super) fn among(found: Vec<FoundGuest>, only: Option<&[Uuid]>) -> Vec<FoundGuest> {
    let asked = |guest: &FoundGuest| only.is_none_or(|only| only.contains(&guest.uuid));
    found.into_iter().filter(asked).collect()
}
