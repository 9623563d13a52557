//! What follows from an agent's answer, by its kind; never by its words.

use crate::agent::api::{Operation, OperationErrorKind, OperationState, RefusalKind};
use crate::agent::client::ClientError;
use crate::domain::ErrorClass;
use crate::driver::DriverError;

/// An order that was not accepted.
pub(super) fn refusal(host: &str, error: &ClientError) -> DriverError {
    let words = format!("{host}: {error}");
    match error {
        // No connection was made: nothing was done.
        ClientError::Unreachable { .. } => DriverError::refused(ErrorClass::Transient, words),
        ClientError::Refused(refusal) => {
            DriverError::refused(class_of_refusal(refusal.kind), words)
        }
        // Not taken as a request at all, so not as an order: too large, or not known to an agent of that version.
        ClientError::Configuration(_)
        | ClientError::Unexpected {
            status: 400..=407 | 409..=428,
            ..
        } => DriverError::refused(ErrorClass::Invalid, words),
        // Whatever it was that answered, the order may have got through.
        ClientError::NoAnswer { .. } | ClientError::Unexpected { .. } => {
            DriverError::ambiguous(words)
        }
    }
}

/// What an order that was admitted has come to, when that is no success.
pub(super) fn failure(host: &str, operation: &Operation) -> Option<DriverError> {
    let words = |otherwise: &str| {
        let error = operation.error.as_ref();
        let message = error.map_or(otherwise, |error| error.message.as_str());
        format!("{host}: {:?}: {message}", operation.kind)
    };
    match operation.state {
        OperationState::Running | OperationState::Succeeded => None,
        OperationState::Failed => {
            let class = operation
                .error
                .as_ref()
                .map_or(ErrorClass::Transient, |error| class_of_failure(error.kind));
            Some(DriverError::refused(class, words("it failed")))
        }
        OperationState::Interrupted => Some(DriverError::refused(
            ErrorClass::Transient,
            words("it was cut short"),
        )),
    }
}

pub(super) const fn class_of_refusal(kind: RefusalKind) -> ErrorClass {
    match kind {
        RefusalKind::Stale
        | RefusalKind::StepReused
        | RefusalKind::WrongRole
        | RefusalKind::WrongEpoch
        | RefusalKind::OtherFailover
        | RefusalKind::NoRegister
        | RefusalKind::WrongRecord
        | RefusalKind::ContentMismatch
        | RefusalKind::Committed
        | RefusalKind::NotRunning
        | RefusalKind::Busy => ErrorClass::Conflict,
        RefusalKind::Claimed | RefusalKind::NotClaimed | RefusalKind::NotAllowed => {
            ErrorClass::Denied
        }
        RefusalKind::NoDefinition
        | RefusalKind::NoNetwork
        | RefusalKind::NoBootProfile
        | RefusalKind::DisksDiffer
        | RefusalKind::Autostart
        | RefusalKind::Invalid => ErrorClass::Invalid,
        RefusalKind::NoSpace => ErrorClass::Capacity,
        RefusalKind::PowerUnknown | RefusalKind::Storage | RefusalKind::Unknown => {
            ErrorClass::Transient
        }
    }
}

pub(super) const fn class_of_failure(kind: OperationErrorKind) -> ErrorClass {
    match kind {
        // Asking again would do the same: the move turns back, and the VM runs on where it was.
        OperationErrorKind::ShutdownTimedOut
        | OperationErrorKind::Hypervisor
        | OperationErrorKind::Unsound => ErrorClass::Unresponsive,
        OperationErrorKind::NoSpace => ErrorClass::Capacity,
        // Corrupt: what the stop wrote down does not change, so asking again finds the same.
        OperationErrorKind::DiskWithoutTarget
        | OperationErrorKind::OtherDisks
        | OperationErrorKind::Protocol
        | OperationErrorKind::Corrupt => ErrorClass::Invalid,
        OperationErrorKind::PeerRefused | OperationErrorKind::Cancelled => ErrorClass::Conflict,
        OperationErrorKind::Disconnected
        | OperationErrorKind::SourceRead
        | OperationErrorKind::TargetWrite
        | OperationErrorKind::Storage
        | OperationErrorKind::Internal
        | OperationErrorKind::Unknown => ErrorClass::Transient,
    }
}
