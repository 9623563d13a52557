//! Which orders a side admits: the right to run, as the agents keep it.
//!
//! ```text
//!   (none) --Adopt--> Owner --Stop--> Fenced --Retire, with the peer's commit--> Replica
//!   (none) --Enroll-> Replica --Start, with the peer's stop record--> Owner (uncommitted) --Commit--> Owner
//!   Replica or uncommitted Owner --Fence, newer epoch--> Replica        Fenced --Resume, with that fence--> Owner
//! ```

use super::orders::{Message, Order};
use crate::domain::{Claim, ErrorClass, Mark, OperationState};

/// What a side is for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Owner,
    Fenced,
    Replica,
}

/// S3: the source has stopped, with this content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StopRecord {
    pub epoch: u64,
    pub was_running: bool,
    pub records: Vec<u32>,
}

/// A start that only a commit makes final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartRecord {
    pub left_off: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Last {
    pub message: Message,
    pub state: OperationState,
    pub sent: u64,
    pub changed: u64,
}

/// S1: the right to run, as one side knows it.
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub mark: Mark,
    pub claim: Option<Claim>,
    pub failover: Option<String>,
    pub role: Role,
    pub should_run: bool,
    pub stop: Option<StopRecord>,
    pub start: Option<StartRecord>,
    pub commit: Option<u64>,
    pub fence: Option<u64>,
    /// A fence was ordered and has not ended.
    pub fencing: bool,
    pub last: Option<Last>,
}

/// What the side knows of the VM at the moment of an order.
pub(super) struct Facts<'a> {
    pub defined: bool,
    pub running: bool,
    pub content: Option<&'a [u32]>,
}

pub(super) enum Admission {
    /// S2: this very step was taken before.
    Known,
    /// The register to be, before any effect.
    Accepted(Box<Register>),
}

/// Why an order is not admitted.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub class: ErrorClass,
    pub message: String,
}

fn refuse<T>(class: ErrorClass, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        class,
        message: message.into(),
    })
}

impl Register {
    pub fn uncommitted(&self) -> bool {
        self.role == Role::Owner && self.start.is_some() && self.commit.is_none()
    }

    fn at_rest(&self) -> bool {
        match self.role {
            Role::Owner => !self.uncommitted(),
            Role::Fenced => false,
            Role::Replica => !self.fencing,
        }
    }
}

pub(super) fn admit(
    register: Option<&Register>,
    message: &Message,
    facts: &Facts<'_>,
) -> Result<Admission, Refusal> {
    if let Some(register) = register {
        // S2: older is refused, an equal step only returns its recorded result.
        if message.mark < register.mark {
            return refuse(
                ErrorClass::Conflict,
                format!("{} is older than {}", message.mark, register.mark),
            );
        }
        if message.mark == register.mark {
            return match &register.last {
                Some(last) if last.message == *message => Ok(Admission::Known),
                _ => refuse(ErrorClass::Conflict, "the step was used by another order"),
            };
        }
        check_claim(register, message)?;
        check_failover(register, message)?;
    }
    if message.mark.epoch == 0 || message.mark.step == 0 {
        return refuse(ErrorClass::Invalid, "epochs and steps begin with 1");
    }
    let mut next = transition(register, message, facts)?;
    next.mark = message.mark;
    next.failover = match message.order {
        Order::Release => None,
        _ => message.failover.clone(),
    };
    next.last = Some(Last {
        message: message.clone(),
        state: OperationState::Running,
        sent: 0,
        changed: 0,
    });
    Ok(Admission::Accepted(Box::new(next)))
}

/// S1: a claim moves only by an explicit takeover.
fn check_claim(register: &Register, message: &Message) -> Result<(), Refusal> {
    let Some(held) = &register.claim else {
        return match message.order {
            Order::Adopt { .. } | Order::Enroll => Ok(()),
            _ => refuse(ErrorClass::Denied, "the VM is nobody's: adopt it first"),
        };
    };
    match &message.order {
        _ if *held == message.claim => Ok(()),
        Order::Adopt {
            takeover: Some(named),
        } if named == held => Ok(()),
        _ => refuse(ErrorClass::Denied, format!("the VM is claimed by {held}")),
    }
}

/// S1: an equal epoch with another Failover is refused; at rest a Failover is over once an order comes without one.
fn check_failover(register: &Register, message: &Message) -> Result<(), Refusal> {
    if message.mark.epoch > register.mark.epoch {
        return Ok(());
    }
    match (&register.failover, &message.failover) {
        (Some(held), Some(named)) if held != named => refuse(
            ErrorClass::Conflict,
            format!("failover {held} is under way at this epoch"),
        ),
        (Some(held), None) if !register.at_rest() => refuse(
            ErrorClass::Conflict,
            format!("failover {held} is in the middle of its move"),
        ),
        _ => Ok(()),
    }
}

fn wrong_role<T>(register: Option<&Register>, needed: &str) -> Result<T, Refusal> {
    let is = register.map_or_else(
        || "without a register, hence fenced".to_owned(),
        |register| format!("{:?} at {}", register.role, register.mark),
    );
    refuse(
        ErrorClass::Conflict,
        format!("this side is {is}; it would have to be {needed}"),
    )
}

fn fresh(message: &Message, role: Role, should_run: bool) -> Register {
    Register {
        mark: message.mark,
        claim: Some(message.claim.clone()),
        failover: None,
        role,
        should_run,
        stop: None,
        start: None,
        commit: None,
        fence: None,
        fencing: false,
        last: None,
    }
}

fn transition(
    register: Option<&Register>,
    message: &Message,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    let epoch = message.mark.epoch;
    let same_epoch = |register: &Register| {
        if epoch == register.mark.epoch {
            return Ok(());
        }
        refuse(
            ErrorClass::Conflict,
            format!("takes epoch {}, not {epoch}", register.mark.epoch),
        )
    };
    match (&message.order, register) {
        (Order::Adopt { .. }, None) if facts.defined => {
            Ok(fresh(message, Role::Owner, facts.running))
        }
        (Order::Adopt { .. }, None) => refuse(ErrorClass::Invalid, "no such VM here"),
        (Order::Adopt { .. }, Some(register)) => {
            same_epoch(register)?;
            Ok(Register {
                claim: Some(message.claim.clone()),
                // A fence that broke off where nothing had been started leaves nothing to be ended.
                fencing: register.fencing && register.start.is_some(),
                ..register.clone()
            })
        }
        (Order::Enroll, None) if !facts.running => Ok(fresh(message, Role::Replica, false)),
        (Order::Enroll, Some(register))
            if register.role == Role::Replica && register.at_rest() && !facts.running =>
        {
            Ok(Register {
                claim: Some(message.claim.clone()),
                ..register.clone()
            })
        }
        (Order::Enroll, register) => wrong_role(register, "without a guest, and a replica at rest"),
        (Order::Replicate { .. } | Order::Pause, Some(register))
            if register.role == Role::Owner && !register.uncommitted() =>
        {
            // A newer epoch than the register's bars what may still be on its way under one in between.
            Ok(register.clone())
        }
        (Order::Complete { .. }, Some(register))
            if register.role == Role::Owner && !register.uncommitted() =>
        {
            Ok(register.clone())
        }
        (Order::Stop, Some(register)) if register.role == Role::Owner => {
            if register.uncommitted() {
                return wrong_role(Some(register), "committed");
            }
            if epoch <= register.mark.epoch {
                return refuse(ErrorClass::Conflict, "a stop takes a new epoch");
            }
            Ok(Register {
                role: Role::Fenced,
                should_run: facts.running,
                stop: None,
                start: None,
                commit: None,
                fence: None,
                ..register.clone()
            })
        }
        (Order::Stop, Some(register))
            if register.role == Role::Fenced && register.stop.is_none() =>
        {
            same_epoch(register)?;
            Ok(register.clone())
        }
        (Order::Deliver { .. }, Some(register))
            if register.role == Role::Fenced && register.stop.is_some() =>
        {
            same_epoch(register)?;
            Ok(register.clone())
        }
        (Order::Start { stop }, Some(register)) => start(register, stop, epoch, facts),
        (Order::Commit, Some(register)) if register.role == Role::Owner => {
            same_epoch(register)?;
            let Some(start) = &register.start else {
                return wrong_role(Some(register), "an owner by a start");
            };
            // S5: accepted only while the guest runs, or was moved switched off.
            let moved_switched_off = start.left_off && !register.should_run;
            if !(facts.running || moved_switched_off) {
                return refuse(ErrorClass::Conflict, "the guest does not run here");
            }
            Ok(Register {
                commit: Some(epoch),
                ..register.clone()
            })
        }
        (Order::Retire { commit }, Some(register))
            if register.role == Role::Fenced && register.stop.is_some() =>
        {
            same_epoch(register)?;
            // S5: only then does the source retire.
            if *commit != register.mark.epoch {
                return refuse(ErrorClass::Conflict, "the commit is of another move");
            }
            Ok(Register {
                role: Role::Replica,
                should_run: false,
                stop: None,
                ..register.clone()
            })
        }
        (Order::Fence, None) => Ok(Register {
            fencing: true,
            ..fresh(message, Role::Replica, false)
        }),
        (Order::Fence, Some(register)) => {
            // S5: nothing rolls back after the commit.
            if register.role == Role::Fenced
                || (register.role == Role::Owner && !register.uncommitted())
            {
                return wrong_role(Some(register), "the target of an uncommitted move");
            }
            if epoch < register.mark.epoch || (epoch == register.mark.epoch && !register.fencing) {
                return refuse(ErrorClass::Conflict, "a fence takes a new epoch");
            }
            Ok(Register {
                role: Role::Replica,
                should_run: false,
                fence: None,
                fencing: true,
                ..register.clone()
            })
        }
        (Order::Resume { fence }, Some(register)) if register.role == Role::Fenced => {
            // S2: turning back takes a new epoch, first synced at the stopped target.
            if epoch <= register.mark.epoch || *fence != epoch {
                return refuse(
                    ErrorClass::Conflict,
                    "resuming takes the epoch of the target's fence",
                );
            }
            Ok(Register {
                role: Role::Owner,
                stop: None,
                start: None,
                commit: None,
                ..register.clone()
            })
        }
        (Order::Resume { fence }, Some(register))
            if register.role == Role::Owner
                && *fence == epoch
                && register.mark.epoch == epoch
                && register
                    .last
                    .as_ref()
                    .is_some_and(|last| matches!(last.message.order, Order::Resume { .. })) =>
        {
            Ok(register.clone())
        }
        (Order::Undo, Some(register)) if register.role == Role::Replica && register.at_rest() => {
            Ok(register.clone())
        }
        (Order::Release, Some(register)) if register.at_rest() => Ok(register.clone()),
        (Order::Detach, Some(register)) if register.at_rest() => Ok(Register {
            claim: None,
            ..register.clone()
        }),
        (order, register) => wrong_role(register, &format!("in another role for {order:?}")),
    }
}

fn start(
    register: &Register,
    stop: &StopRecord,
    epoch: u64,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    if stop.epoch != epoch {
        return refuse(
            ErrorClass::Conflict,
            format!("the stop record is of epoch {}", stop.epoch),
        );
    }
    if register.uncommitted() && register.mark.epoch == epoch {
        return Ok(register.clone());
    }
    if register.role != Role::Replica || register.fencing {
        return wrong_role(Some(register), "a replica at rest");
    }
    // S3: only with that record, and with a verified copy of what it lists.
    if facts.content != Some(&stop.records) {
        return refuse(
            ErrorClass::Conflict,
            "the disks here do not hold the content of the stop record",
        );
    }
    Ok(Register {
        should_run: stop.was_running,
        ..register.clone()
    })
}
