//! What the peer's register says, before a guest is started on the word of this host's register alone.

use std::sync::Arc;
use std::time::Duration;

use super::api::{OperationError, OperationErrorKind};
use super::host::{Host, Vm, blocking, error};
use super::transfer::endpoint;
use crate::dataplane::{self, PassError, RefusalKind};

/// How long a peer may take to be connected to, and to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// S4: a register that is older than the peer's means fenced. A host that was put back from a backup has such a one: its VM has moved since, and
/// may run at the peer.
///
/// A peer that does not answer does not hinder: after a power cut at one site the VMs there must come back also while the line is down.
pub(super) async fn check(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    epoch: u64,
) -> Result<(), OperationError> {
    let Some(order) = vm.replication.kept().order else {
        return Ok(());
    };
    let peer = order.peer;
    let asked = endpoint(host, &peer)?;
    let uuid = vm.uuid;
    let answer = blocking(move || Ok(dataplane::ask_epoch(&asked, uuid, PATIENCE))).await?;
    match answer {
        Ok(Some(newer)) if newer > epoch => Err(error(
            OperationErrorKind::PeerRefused,
            format!(
                "the register on {} has epoch {newer} and the one here {epoch}: the VM has moved since this one was written. Was this host, or its stateDir, put back from a backup? It is not started here; see which host owns the VM, and move the register away here",
                peer.host
            ),
        )),
        Ok(known) => {
            tracing::info!(vm = %uuid, peer = %peer.host, epoch, ?known, "the peer knows of no newer owner");
            Ok(())
        }
        // S3: it is there, and says that the guest may run where its register gives it no right to.
        Err(PassError::Refused(refusal)) if refusal.kind == RefusalKind::Busy => Err(error(
            OperationErrorKind::PeerRefused,
            format!(
                "the guest is not started here, because it may run on {} already: {}. See the runbook on contradicting registers",
                peer.host, refusal.message
            ),
        )),
        Err(silent) => {
            tracing::warn!(vm = %uuid, peer = %peer.host, epoch, error = %silent, "the peer could not be asked for a newer owner; this host's register counts");
            Ok(())
        }
    }
}
