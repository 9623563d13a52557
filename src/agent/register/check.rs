//! Steps, claims and failovers: what is looked at before the role.

use super::{at_rest, refuse};
use crate::agent::api::{
    Claim, Command, Operation, Order, Refusal, RefusalKind, Register, Role, Root,
};

/// S2: not newer is refused; equal returns the recorded result.
pub(super) fn check_step(
    register: &Register,
    order: &Order,
    hash: Root,
) -> Result<Option<Operation>, Refusal> {
    let (ours, theirs) = (register.id(), order.id());
    if theirs < ours {
        let message = format!("{theirs} is older than the register's {ours}: read the state again");
        return Err(refuse(RefusalKind::Stale, message, Some(register)));
    }
    if theirs > ours {
        return Ok(None);
    }
    match &register.last {
        Some(last) if last.hash == hash => Ok(Some(last.operation.clone())),
        _ => {
            let message = format!(
                "{theirs} was used by another order: read the state again and take a newer step"
            );
            Err(refuse(RefusalKind::StepReused, message, Some(register)))
        }
    }
}

/// S1: a claim moves only by an explicit takeover.
pub(super) fn check_claim(register: Option<&Register>, order: &Order) -> Result<(), Refusal> {
    let Some(register) = register else {
        return Ok(());
    };
    if register.claim == order.claim {
        return Ok(());
    }
    let claimed = |by: &Claim| {
        let message = format!(
            "the VM belongs to {by}; it can be taken over by an Adopt that names this claim"
        );
        Err(refuse(RefusalKind::Claimed, message, Some(register)))
    };
    match (&register.claim, &order.command) {
        // A person at the host may always use the switch of a VM that the host owns.
        (_, Command::Power { .. }) if order.claim.is_none() => Ok(()),
        (None, Command::Adopt { .. } | Command::Enroll { .. }) => Ok(()),
        (None, _) => {
            let message = "the VM is nobody's since it was detached: adopt it at its owner, enroll it at its replica";
            Err(refuse(RefusalKind::NotClaimed, message, Some(register)))
        }
        (
            Some(held),
            Command::Adopt {
                takeover: Some(named),
            },
        ) if held == named => Ok(()),
        (Some(held), _) => claimed(held),
    }
}

/// S1, S6: an equal epoch with another Failover is refused. Returns the failover that stands afterwards.
pub(super) fn check_failover(
    register: Option<&Register>,
    order: &Order,
) -> Result<Option<String>, Refusal> {
    let Some(register) = register else {
        return Ok(order.failover.clone());
    };
    if matches!(order.command, Command::Power { .. }) {
        return Ok(register.failover.clone());
    }
    if matches!(order.command, Command::Release {}) {
        return match (&register.failover, &order.failover) {
            (Some(held), Some(named)) if held != named => Err(other_failover(register, held)),
            _ if at_rest(register) => Ok(None),
            _ => Err(mid_move(register, "released")),
        };
    }
    if order.epoch > register.epoch {
        return Ok(order.failover.clone());
    }
    match (&register.failover, &order.failover) {
        (Some(held), Some(named)) if held != named => Err(other_failover(register, held)),
        (Some(held), None) if !at_rest(register) => Err(other_failover(register, held)),
        (_, named) => Ok(named.clone()),
    }
}

pub(super) fn other_failover(register: &Register, held: &str) -> Refusal {
    let message = format!(
        "failover {held} is under way at epoch {}; it has to be released first",
        register.epoch
    );
    refuse(RefusalKind::OtherFailover, message, Some(register))
}

pub(super) fn mid_move(register: &Register, what: &str) -> Refusal {
    let state = if register.role == Role::Fenced {
        "fenced for a move"
    } else {
        "started and not committed, or not yet fenced"
    };
    let message =
        format!("the VM is {state}: it can be {what} once the move is committed or turned back");
    refuse(RefusalKind::WrongRole, message, Some(register))
}
