//! The right to run a VM: which orders a register admits, and what they make of it.
//!
//! Pure: no clock, no file, no hypervisor. Whoever executes syncs the register that [`admit`] returns before the first
//! effect (S1), and the one that [`complete`] returns after the last.
//!
//! ```text
//!              Adopt                     Stop (epoch + 1)
//!   (none) ------------>  Owner  ----------------------------->  Fenced
//!      |                  ^  | ^                                   |  |
//!      | Enroll     Start |  | | Resume (the fence's epoch)        |  |
//!      v   (stop's epoch) |  | +-----------------------------------+  |
//!   Replica --------------+  |                                        |
//!      ^  ^                  | Fence (epoch + 1), while uncommitted   |
//!      |  +------------------+                                        |
//!      +--------------------------------------------------------------+
//!                         Retire (with the target's commit)
//! ```
//!
//! Why two hosts are never `Owner` at once: an `Owner` gives the right away by `Stop`, to one named host, before the guest
//! is asked to stop. From there exactly one of two things can take it: that host's `Start`, which needs the stop record, or
//! `Resume` here, which needs that host's `Fence` at a newer epoch; after that fence the `Start` is stale.

mod check;
mod ending;
#[cfg(test)]
mod tests;
mod transition;

use jiff::Timestamp;

use crate::agent::api::{
    Operation, OperationState, Order, OrderKind, Power, Refusal, RefusalKind, Register, Role, Root,
    Roots, StepRecord, VmDefinition,
};
use check::{check_claim, check_failover, check_step};
pub(crate) use ending::{Ending, SessionRequest, admit_session, complete, promote};
use transition::transition;

/// What the host knows of the VM at the moment of an order.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// This host's name.
    pub host: &'a str,
    /// This boot of the host.
    pub boot_id: &'a str,
    /// Now.
    pub now: Timestamp,
    /// The VM's definition here.
    pub definition: Option<&'a VmDefinition>,
    /// Whether the guest runs here.
    pub power: Power,
    /// Why that is not known.
    pub power_reason: Option<&'a str>,
    /// The whole content of its disks here, if that is what they hold.
    pub content: Option<&'a Roots>,
}

/// The answer to an order that was not refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Admission {
    /// A step that is known: its recorded operation, nothing to do (S2).
    Known(Box<Operation>),
    /// A new step: this register is to be synced, then the order executed.
    Accepted(Box<Register>),
}

/// Whether the register lets the guest run on this host.
pub(crate) fn may_run(register: Option<&Register>) -> bool {
    // S4: no register means fenced.
    register.is_some_and(|register| register.role == Role::Owner)
}

/// Whether the register is `Owner` by a start that nobody has committed.
pub(crate) fn uncommitted(register: &Register) -> bool {
    register.role == Role::Owner && register.start.is_some() && register.commit.is_none()
}

/// Whether a fence has been synced but what ran has not been seen to end.
pub(crate) fn fence_unfinished(register: &Register) -> bool {
    register.role == Role::Replica
        && register.fence.is_none()
        && last_kind(register) == Some(OrderKind::Fence)
        || register.role == Role::Replica && register.start.is_some()
}

/// Digest over everything an order says.
pub(crate) fn hash(order: &Order) -> Root {
    // Serialisation of these types cannot fail; were it to, the empty text only makes a step look reused, which is refused.
    Root(*blake3::hash(&serde_json::to_vec(order).unwrap_or_default()).as_bytes())
}

fn refuse(kind: RefusalKind, message: impl Into<String>, register: Option<&Register>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
        register: register.map(|register| Box::new(register.clone())),
        needed: None,
        available: None,
    }
}

/// Decides on one order against the register as it stands.
pub(crate) fn admit(
    register: Option<&Register>,
    order: &Order,
    facts: &Facts<'_>,
) -> Result<Admission, Refusal> {
    let hash = hash(order);
    if let Some(register) = register
        && let Some(known) = check_step(register, order, hash)?
    {
        return Ok(Admission::Known(Box::new(known)));
    }
    check_claim(register, order)?;
    let failover = check_failover(register, order)?;
    let mut next = transition(register, order, facts)?;

    next.epoch = order.epoch;
    next.step = order.step;
    next.failover = failover;
    facts.boot_id.clone_into(&mut next.boot_id);
    next.updated_at = facts.now;
    next.last = Some(StepRecord {
        hash,
        operation: Operation {
            epoch: order.epoch,
            step: order.step,
            kind: order.command.kind(),
            state: OperationState::Running,
            progress: None,
            error: None,
            result: None,
            started_at: facts.now,
            ended_at: None,
        },
    });
    Ok(Admission::Accepted(Box::new(next)))
}

/// Whether no move is in the middle: exactly one host may run the VM, and nothing is pending that needs the other.
fn at_rest(register: &Register) -> bool {
    match register.role {
        Role::Owner => !uncommitted(register),
        Role::Fenced => false,
        Role::Replica => !fence_unfinished(register),
    }
}

fn last_kind(register: &Register) -> Option<OrderKind> {
    register.last.as_ref().map(|last| last.operation.kind)
}
