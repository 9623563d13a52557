//! What follows for a VM without a move under way.

use crate::api::VirtualMachinePhase;
use crate::domain::conditions::Reason;
use crate::domain::decide::report::Standing;
use crate::domain::decide::wait::Waiting;
use crate::domain::decision::{Effect, Event};

/// What follows, before it is written up.
pub(super) struct Outcome {
    pub(super) effect: Option<Effect>,
    pub(super) phase: VirtualMachinePhase,
    pub(super) standing: Standing,
    pub(super) events: Vec<Event>,
}

impl Outcome {
    pub(super) fn new(
        phase: VirtualMachinePhase,
        reason: Reason,
        waiting: Option<Waiting>,
        message: impl Into<String>,
    ) -> Self {
        let moving = waiting == Some(Waiting::Operation);
        Self {
            effect: None,
            phase,
            standing: Standing {
                reason,
                message: message.into(),
                waiting,
                moving,
            },
            events: Vec::new(),
        }
    }

    pub(super) fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(
            VirtualMachinePhase::Stalled,
            reason,
            Some(Waiting::Mend),
            message,
        )
    }

    pub(super) fn outside(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(
            VirtualMachinePhase::Pending,
            reason,
            Some(Waiting::Outside),
            message,
        )
    }

    pub(super) fn doing(
        phase: VirtualMachinePhase,
        reason: Reason,
        effect: Effect,
        message: impl Into<String>,
    ) -> Self {
        Self {
            effect: Some(effect),
            ..Self::new(phase, reason, Some(Waiting::Operation), message)
        }
    }
}
