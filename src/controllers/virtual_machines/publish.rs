//! Step 5: writes the statuses, each at most once, and not at all when nothing changed; then tells.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;

use super::act::{self, Acted};
use super::fetch::Fetched;
use crate::api::{
    Failover, FailoverStatus, ProtectedVirtualMachine, ProtectedVirtualMachineStatus,
    VirtualMachinePhase,
};
use crate::controllers::context::Context;
use crate::controllers::key::Key;
use crate::controllers::kubernetes::ApiError;
use crate::controllers::lease::LeadershipEnded;
use crate::domain::{ConditionType, ErrorClass, Event, Reason, Said, Truth, merge_conditions};
use crate::driver::DriverError;

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
}

impl PublishError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
        }
    }

    /// Whether it is known that nothing was written.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Api(error) => error.is_definite(),
            Self::Leadership(_) => true,
        }
    }
}

/// Writes what was acted. Returns the driver's refusal of an action that belongs to no move, so that it is tried again later.
pub async fn publish(
    context: &Context,
    fetched: &Fetched,
    acted: Acted,
) -> Result<Option<DriverError>, PublishError> {
    let Acted {
        vm: of_vm,
        failover: of_failover,
        made,
        events,
        refused,
    } = acted;
    let mut about_failover = None;
    if let Some((resource, status)) = of_failover {
        about_failover = Some(failover(context, resource, &status).await?);
    }
    let mut resource = fetched.vm.clone();
    if let Some((read, status)) = of_vm {
        note(context, fetched, &status, about_failover.as_deref());
        match (vm(context, read, &status).await, &made) {
            (Ok(written), _) => resource = written,
            (Err(error), Some(made)) => {
                if error.is_definite() {
                    act::unmake(context, made).await;
                }
                return Err(error);
            }
            (Err(error), None) => return Err(error),
        }
    } else {
        context
            .metrics
            .fleet
            .forget(&fetched.key.namespace, &fetched.key.name);
    }
    if let Some(made) = made {
        about_failover = Some(context.failovers.recent.wrote(made));
    }
    tell(context, &resource, about_failover.as_deref(), &events).await;
    Ok(refused)
}

/// Takes down the figures of a VM for whoever scrapes them.
fn note(
    context: &Context,
    fetched: &Fetched,
    status: &ProtectedVirtualMachineStatus,
    failover: Option<&Failover>,
) {
    let phase = failover
        .and_then(|failover| failover.status.as_ref()?.phase)
        .filter(|phase| !phase.is_final() && status.current_failover.is_some());
    let standing = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == ConditionType::Ready.as_str())
        .map(|ready| ready.reason.clone());
    context
        .metrics
        .fleet
        .note(&fetched.key.namespace, &fetched.key.name, |figures| {
            figures.failover = phase;
            figures.standing = standing;
        });
}

async fn tell(
    context: &Context,
    vm: &ProtectedVirtualMachine,
    failover: Option<&Failover>,
    events: &[Event],
) {
    if events.is_empty() {
        return;
    }
    let stage = failover
        .and_then(|failover| failover.status.as_ref()?.phase)
        .map(|phase| format!("{phase:?}"))
        .or_else(|| Some(format!("{:?}", vm.status.as_ref()?.phase?)))
        .unwrap_or_default();
    context.announcer.tell(vm, &stage, events).await;
    if let Some(failover) = failover {
        context.announcer.tell(failover, &stage, events).await;
    }
}

/// Writes the status of a Failover, if it is another one and nobody else wrote since the resource was read.
pub async fn failover(
    context: &Context,
    resource: Arc<Failover>,
    status: &FailoverStatus,
) -> Result<Arc<Failover>, PublishError> {
    if resource.status.as_ref() == Some(status) {
        return Ok(resource);
    }
    context.proof.check()?;
    let mut next = resource.as_ref().clone();
    next.status = Some(status.clone());
    let api = context.failover_api(&resource.namespace().unwrap_or_default());
    let written = context
        .within
        .write_status("write the status of a Failover", &api, &next)
        .await?;
    context.metrics.status_write("Failover");
    Ok(context.failovers.recent.wrote(written))
}

/// Writes the status of a VM, if it is another one and nobody else wrote since the resource was read.
pub async fn vm(
    context: &Context,
    resource: Arc<ProtectedVirtualMachine>,
    status: &ProtectedVirtualMachineStatus,
) -> Result<Arc<ProtectedVirtualMachine>, PublishError> {
    if resource.status.as_ref() == Some(status) {
        return Ok(resource);
    }
    context.proof.check()?;
    let mut next = resource.as_ref().clone();
    next.status = Some(status.clone());
    let api = context.vm_api(&resource.namespace().unwrap_or_default());
    let written = context
        .within
        .write_status("write the status of a VM", &api, &next)
        .await?;
    context.metrics.status_write("ProtectedVirtualMachine");
    let named = |vm: &ProtectedVirtualMachine| vm.status.as_ref()?.current_failover.clone();
    let (before, written) = (named(&resource), context.vms.recent.wrote(written));
    if let Some(before) = before.filter(|before| named(&written).as_ref() != Some(before)) {
        // Deleted by a person, it waits to be no longer the move under way. The receiver is gone only while a term ends.
        let ended = Key::new(resource.namespace().unwrap_or_default(), &before.name);
        let _ = context.wake_failover.unbounded_send(ended);
    }
    Ok(written)
}

/// Says that a resource cannot be understood, with the offending field and the remedy.
pub async fn invalid(
    context: &Context,
    resource: &Arc<ProtectedVirtualMachine>,
    problem: &str,
) -> Result<(), PublishError> {
    let before = resource.status.clone().unwrap_or_default();
    let said = |kind, truth| Said::new(kind, truth, Reason::InvalidSpec, problem.to_owned());
    let status = ProtectedVirtualMachineStatus {
        observed_generation: resource.metadata.generation,
        phase: Some(VirtualMachinePhase::Stalled),
        conditions: merge_conditions(
            &before.conditions,
            vec![
                said(ConditionType::Ready, Truth::False),
                said(ConditionType::Stalled, Truth::True),
            ],
            resource.metadata.generation,
            Timestamp::now(),
        ),
        ..before.clone()
    };
    if status != before {
        vm(context, resource.clone(), &status).await?;
        let event = Event {
            warning: true,
            reason: Reason::InvalidSpec.as_str(),
            message: problem.to_owned(),
        };
        context
            .announcer
            .tell(resource.as_ref(), "", &[event])
            .await;
    }
    Ok(())
}
