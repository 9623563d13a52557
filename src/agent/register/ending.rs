//! After the admission: the right that moves in the middle of a start, how orders end, who may send data.

use jiff::Timestamp;
use uuid::Uuid;

use super::{fence_unfinished, last_kind, refuse};
use crate::agent::api::{
    OperationError, OperationErrorKind, OperationState, OrderKind, OrderResult, PowerSwitch,
    Refusal, RefusalKind, Register, Role, StartRecord, StepId,
};

/// In the middle of a `Start`: the content is sealed, the right to run moves here (S11, then S1).
pub(crate) fn promote(
    register: &Register,
    step: StepId,
    start: StartRecord,
    now: Timestamp,
) -> Option<Register> {
    let running = register
        .last
        .as_ref()
        .is_some_and(|last| last.operation.state == OperationState::Running);
    if register.id() != step
        || last_kind(register) != Some(OrderKind::Start)
        || !running
        || register.role != Role::Replica
    {
        return None;
    }
    Some(Register {
        role: Role::Owner,
        start_owed: register.desired_power == PowerSwitch::On,
        start: Some(start),
        commit: None,
        fence: None,
        session: None,
        updated_at: now,
        ..register.clone()
    })
}

/// How the execution of an order ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Done.
    Succeeded(OrderResult),
    /// Not done.
    Failed(OperationError),
    /// Cut short.
    Interrupted(String),
}

/// The register after the order with this step has ended; None when a newer order has taken its place.
pub(crate) fn complete(
    register: &Register,
    step: StepId,
    ending: Ending,
    now: Timestamp,
) -> Option<Register> {
    let mut next = register.clone();
    let last = next.last.as_mut()?;
    if register.id() != step || last.operation.state != OperationState::Running {
        return None;
    }
    last.operation.ended_at = Some(now);
    match ending {
        Ending::Succeeded(result) => {
            match &result {
                // S3: the stop is a record.
                OrderResult::Stopped { record } if next.role == Role::Fenced => {
                    next.stop = Some(record.clone());
                }
                OrderResult::Fenced { record } if next.role == Role::Replica => {
                    next.fence = Some(record.clone());
                    next.start = None;
                }
                OrderResult::Started { .. }
                | OrderResult::Resumed { .. }
                | OrderResult::Powered { .. } => next.start_owed = false,
                _ => {}
            }
            last.operation.state = OperationState::Succeeded;
            last.operation.result = Some(result);
        }
        Ending::Failed(error) => {
            last.operation.state = OperationState::Failed;
            last.operation.error = Some(error);
        }
        Ending::Interrupted(message) => {
            last.operation.state = OperationState::Interrupted;
            last.operation.error = Some(OperationError {
                kind: OperationErrorKind::Cancelled,
                message,
            });
        }
    }
    next.updated_at = now;
    Some(next)
}

/// What a data session says of the order it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionRequest<'a> {
    /// The VM.
    pub vm: Uuid,
    /// The source's epoch and step.
    pub id: StepId,
    /// The names in the source's certificate.
    pub names: &'a [String],
}

/// How many epochs an owner may be ahead of the replica that it sends to.
const EPOCHS_AHEAD: u64 = 16;

/// S9: whether a data session may write now. The register is to be synced first when one is returned.
pub(crate) fn admit_session(
    register: Option<&Register>,
    session: SessionRequest<'_>,
    now: Timestamp,
) -> Result<Option<Register>, Refusal> {
    let Some(register) = register else {
        return Err(refuse(
            RefusalKind::NoRegister,
            "this host does not know the VM: enroll it first",
            None,
        ));
    };
    if register.role != Role::Replica || fence_unfinished(register) {
        let message = format!(
            "this host is {} at epoch {} and takes no data",
            register.role, register.epoch
        );
        return Err(refuse(RefusalKind::WrongRole, message, Some(register)));
    }
    // A replica takes its content from the VM's owner alone, whoever else this host may hear.
    if register
        .owner
        .as_ref()
        .is_none_or(|owner| !session.names.contains(owner))
    {
        let owner = register.owner.as_deref().unwrap_or("nobody");
        let message = format!(
            "the replica here takes data from {owner}, not from {}: enroll it with its owner",
            session
                .names
                .first()
                .map_or("a nameless host", String::as_str)
        );
        return Err(refuse(RefusalKind::NotAllowed, message, Some(register)));
    }
    // The owner's stop is an epoch ahead, and orders that never came here may have taken it further. What was let in from far beyond would bar
    // all that is real.
    if session.id.epoch > register.epoch.saturating_add(EPOCHS_AHEAD) {
        let message = format!(
            "data of {} is more than {EPOCHS_AHEAD} epochs ahead of the register here, which is at epoch {}: turn the move back, so that the VM is enrolled again at its owner's epoch",
            session.id, register.epoch
        );
        return Err(refuse(RefusalKind::WrongEpoch, message, Some(register)));
    }
    if session.id.epoch < register.epoch
        || register.session.is_some_and(|newest| session.id < newest)
    {
        let newest = register.session.unwrap_or_else(|| register.id());
        let message = format!(
            "data of {} is older than what was let in before ({newest})",
            session.id
        );
        return Err(refuse(RefusalKind::Stale, message, Some(register)));
    }
    if register.session == Some(session.id) {
        return Ok(None);
    }
    Ok(Some(Register {
        session: Some(session.id),
        updated_at: now,
        ..register.clone()
    }))
}
