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

use jiff::Timestamp;
use uuid::Uuid;

use super::api::{
    Claim, Command, CommitRecord, FenceRecord, Operation, OperationError, OperationErrorKind,
    OperationState, Order, OrderKind, OrderResult, Power, PowerSwitch, Refusal, RefusalKind,
    Register, Role, Root, Roots, StartRecord, StepId, StepRecord, StopRecord, VmDefinition,
};

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
    next.boot_id = facts.boot_id.to_owned();
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

/// S2: not newer is refused; equal returns the recorded result.
fn check_step(
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
fn check_claim(register: Option<&Register>, order: &Order) -> Result<(), Refusal> {
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
fn check_failover(register: Option<&Register>, order: &Order) -> Result<Option<String>, Refusal> {
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

fn other_failover(register: &Register, held: &str) -> Refusal {
    let message = format!(
        "failover {held} is under way at epoch {}; it has to be released first",
        register.epoch
    );
    refuse(RefusalKind::OtherFailover, message, Some(register))
}

fn mid_move(register: &Register, what: &str) -> Refusal {
    let state = if register.role == Role::Fenced {
        "fenced for a move"
    } else {
        "started and not committed, or not yet fenced"
    };
    let message =
        format!("the VM is {state}: it can be {what} once the move is committed or turned back");
    refuse(RefusalKind::WrongRole, message, Some(register))
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

/// The register after the order, without epoch, step, failover and the record of the step.
fn transition(
    register: Option<&Register>,
    order: &Order,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    match (&order.command, register) {
        (Command::Adopt { .. }, _) => adopt(register, order, facts),
        (
            Command::Enroll {
                definition,
                owner: _,
            },
            _,
        ) => enroll(register, order, &definition.name, facts),
        (Command::Fence {}, _) => fence(register, order, facts),
        (_, None) => {
            // S4: a missing register means fenced.
            let message = "this host has no register of the VM, so it is fenced here: adopt it where it runs, enroll it elsewhere";
            Err(refuse(RefusalKind::NoRegister, message, None))
        }
        (Command::Stop { target, force }, Some(register)) => {
            stop(register, order, target, *force, facts)
        }
        (Command::Start { stop }, Some(register)) => start(register, order, stop, facts),
        (Command::Resume { fence }, Some(register)) => resume(register, order, fence),
        (Command::Retire { commit }, Some(register)) => retire(register, order, commit, facts),
        (Command::Commit {}, Some(register)) => commit(register, order, facts),
        (Command::Deliver { peer, mode: _ }, Some(register)) => {
            deliver(register, order, &peer.host)
        }
        (Command::Replicate { .. } | Command::Pause {}, Some(register)) => {
            same_epoch(register, order)?;
            owner(register, order, facts)?;
            if uncommitted(register) {
                // The source still holds what a rollback needs; nothing may be written over it (design 4.3).
                return Err(refuse(
                    RefusalKind::WrongRole,
                    "the start here is not committed: commit or turn back first",
                    Some(register),
                ));
            }
            Ok(register.clone())
        }
        (Command::Power { state, force: _ }, Some(register)) => {
            same_epoch(register, order)?;
            owner(register, order, facts)?;
            Ok(Register {
                desired_power: *state,
                ..register.clone()
            })
        }
        (Command::Undo {}, Some(register)) => {
            same_epoch(register, order)?;
            if register.role != Role::Replica || fence_unfinished(register) {
                return Err(wrong_role(
                    register,
                    order,
                    "a replica whose fence, if any, has ended",
                ));
            }
            Ok(register.clone())
        }
        (Command::Release {}, Some(register)) => {
            same_epoch(register, order)?;
            Ok(register.clone())
        }
        (Command::Detach {}, Some(register)) => {
            same_epoch(register, order)?;
            if !at_rest(register) {
                return Err(mid_move(register, "detached"));
            }
            // S4: the register stays.
            Ok(Register {
                claim: None,
                ..register.clone()
            })
        }
    }
}

fn wrong_role(register: &Register, order: &Order, needed: &str) -> Refusal {
    let message = format!(
        "this host is {} at epoch {}; {} needs {needed}",
        register.role,
        register.epoch,
        order.command.kind()
    );
    refuse(RefusalKind::WrongRole, message, Some(register))
}

fn wrong_epoch(register: &Register, order: &Order, needed: &str) -> Refusal {
    let message = format!(
        "{} takes {needed}, not epoch {}; the register is at epoch {}",
        order.command.kind(),
        order.epoch,
        register.epoch
    );
    refuse(RefusalKind::WrongEpoch, message, Some(register))
}

fn wrong_record(register: &Register, what: &str) -> Refusal {
    refuse(RefusalKind::WrongRecord, what, Some(register))
}

fn same_epoch(register: &Register, order: &Order) -> Result<(), Refusal> {
    if order.epoch == register.epoch {
        Ok(())
    } else {
        Err(wrong_epoch(register, order, "the register's own epoch"))
    }
}

fn owner(register: &Register, order: &Order, facts: &Facts<'_>) -> Result<(), Refusal> {
    if register.role != Role::Owner {
        return Err(wrong_role(register, order, "the owner"));
    }
    if facts.definition.is_none() {
        return Err(refuse(
            RefusalKind::NoDefinition,
            "this host owns the VM but has no definition of it",
            Some(register),
        ));
    }
    Ok(())
}

fn fresh(order: &Order, name: &str, role: Role, facts: &Facts<'_>) -> Register {
    Register {
        vm: order.vm,
        name: name.to_owned(),
        epoch: order.epoch,
        step: order.step,
        claim: order.claim.clone(),
        failover: order.failover.clone(),
        role,
        desired_power: PowerSwitch::Off,
        moving_to: None,
        stop: None,
        start: None,
        commit: None,
        fence: None,
        session: None,
        last: None,
        boot_id: facts.boot_id.to_owned(),
        updated_at: facts.now,
    }
}

fn adopt(
    register: Option<&Register>,
    order: &Order,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    if let Some(register) = register {
        same_epoch(register, order)?;
        return Ok(Register {
            claim: order.claim.clone(),
            ..register.clone()
        });
    }
    // S4: without a register the VM is fenced; whoever adopts says by the epoch that it is above all that was seen elsewhere.
    let Some(definition) = facts.definition else {
        return Err(refuse(
            RefusalKind::NoDefinition,
            "this host has no definition of the VM",
            None,
        ));
    };
    if definition.autostart {
        let message =
            "the definition has autostart: true; only the agent may start the VM: set it to false";
        return Err(refuse(RefusalKind::Autostart, message, None));
    }
    let desired_power = match facts.power {
        Power::Running | Power::Paused => PowerSwitch::On,
        Power::Off | Power::ShutDown => PowerSwitch::Off,
        Power::Unknown => return Err(power_unknown(None)),
    };
    Ok(Register {
        desired_power,
        ..fresh(order, &definition.name, Role::Owner, facts)
    })
}

fn power_unknown(register: Option<&Register>) -> Refusal {
    refuse(
        RefusalKind::PowerUnknown,
        "the hypervisor does not say whether the guest runs; nothing is done from that",
        register,
    )
}

fn not_off(register: Option<&Register>, power: Power) -> Refusal {
    if power == Power::Unknown {
        return power_unknown(register);
    }
    refuse(
        RefusalKind::WrongRole,
        "the guest has a process on this host, though it has no right to run here: stop it first",
        register,
    )
}

fn enroll(
    register: Option<&Register>,
    order: &Order,
    name: &str,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    if facts.power != Power::Off {
        return Err(not_off(register, facts.power));
    }
    let Some(register) = register else {
        return Ok(fresh(order, name, Role::Replica, facts));
    };
    if register.role != Role::Replica || fence_unfinished(register) {
        return Err(wrong_role(
            register,
            order,
            "a host without a register, or a replica whose fence, if any, has ended",
        ));
    }
    Ok(Register {
        name: name.to_owned(),
        claim: order.claim.clone(),
        ..register.clone()
    })
}

fn stop(
    register: &Register,
    order: &Order,
    target: &str,
    force: bool,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    if target == facts.host {
        return Err(refuse(
            RefusalKind::Invalid,
            "command.target: a VM does not move to the host where it is",
            Some(register),
        ));
    }
    match register.role {
        Role::Owner => {
            owner(register, order, facts)?;
            if uncommitted(register) {
                return Err(refuse(
                    RefusalKind::WrongRole,
                    "the start here is not committed: commit or turn back first",
                    Some(register),
                ));
            }
            if order.epoch <= register.epoch {
                return Err(wrong_epoch(
                    register,
                    order,
                    "a new epoch, the highest of both sites plus one",
                ));
            }
            // Whether it ran is kept now: when the order is given again the guest may already be off.
            let desired_power = match facts.power {
                Power::Running | Power::Paused => PowerSwitch::On,
                Power::Off | Power::ShutDown => PowerSwitch::Off,
                // S7: a silent hypervisor blocks the stop, unless a person's force says to pull the plug whatever it is.
                Power::Unknown if force => register.desired_power,
                Power::Unknown => return Err(power_unknown(Some(register))),
            };
            Ok(Register {
                role: Role::Fenced,
                desired_power,
                moving_to: Some(target.to_owned()),
                stop: None,
                start: None,
                commit: None,
                fence: None,
                ..register.clone()
            })
        }
        Role::Fenced if register.stop.is_none() => {
            same_epoch(register, order)?;
            if register.moving_to.as_deref() != Some(target) {
                let held = register.moving_to.as_deref().unwrap_or("nobody");
                return Err(refuse(
                    RefusalKind::WrongRecord,
                    format!("the fence was set for a move to {held}: turn back first"),
                    Some(register),
                ));
            }
            Ok(register.clone())
        }
        Role::Fenced | Role::Replica => Err(wrong_role(
            register,
            order,
            "the owner, or a fenced host without a stop record",
        )),
    }
}

fn deliver(register: &Register, order: &Order, peer: &str) -> Result<Register, Refusal> {
    same_epoch(register, order)?;
    if register.role != Role::Fenced || register.stop.is_none() {
        return Err(wrong_role(
            register,
            order,
            "a fenced host with its stop record",
        ));
    }
    if register.moving_to.as_deref() != Some(peer) {
        let held = register.moving_to.as_deref().unwrap_or("nobody");
        return Err(wrong_record(
            register,
            &format!("the fence was set for a move to {held}, not to {peer}"),
        ));
    }
    Ok(register.clone())
}

fn start(
    register: &Register,
    order: &Order,
    stop: &StopRecord,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    // S3: a target starts only with the record of this very stop, made for it.
    if stop.vm != order.vm || stop.target != facts.host || stop.host == facts.host {
        let message = format!(
            "the stop record is of VM {} moving from {} to {}, not to this host",
            stop.vm, stop.host, stop.target
        );
        return Err(wrong_record(register, &message));
    }
    if stop.epoch != order.epoch {
        return Err(wrong_epoch(
            register,
            order,
            &format!("the stop record's epoch {}", stop.epoch),
        ));
    }
    let Some(definition) = facts.definition else {
        return Err(refuse(
            RefusalKind::NoDefinition,
            "this host has no definition of the VM: enroll it",
            Some(register),
        ));
    };
    match register.role {
        // Given again after the right had moved here but the guest did not come up.
        Role::Owner if uncommitted(register) && order.epoch == register.epoch => {
            Ok(register.clone())
        }
        Role::Replica if !fence_unfinished(register) => {
            if facts.power != Power::Off {
                return Err(not_off(Some(register), facts.power));
            }
            // S14: the disks after the stop are those that stand here.
            let here: Vec<_> = definition
                .disks
                .iter()
                .map(|disk| disk.id.as_str())
                .collect();
            if here.len() != stop.disks.len()
                || !stop
                    .disks
                    .iter()
                    .all(|disk| here.contains(&disk.id.as_str()))
            {
                return Err(refuse(
                    RefusalKind::DisksDiffer,
                    "the disks of the stop record are not those of the definition here",
                    Some(register),
                ));
            }
            // S3: and only with a verified copy of that manifest.
            if facts.content != Some(&stop.roots) {
                let message =
                    "the disks here do not hold the content of the stop record: deliver it first";
                return Err(refuse(
                    RefusalKind::ContentMismatch,
                    message,
                    Some(register),
                ));
            }
            let desired_power = if stop.was_running {
                PowerSwitch::On
            } else {
                PowerSwitch::Off
            };
            // S9: data sessions up to this step are barred for good. The role changes in `promote`, once the content is sealed.
            let session = register.session.max(Some(order.id()));
            Ok(Register {
                desired_power,
                session,
                ..register.clone()
            })
        }
        Role::Owner | Role::Fenced | Role::Replica => Err(wrong_role(
            register,
            order,
            "a replica whose fence, if any, has ended",
        )),
    }
}

fn commit(register: &Register, order: &Order, facts: &Facts<'_>) -> Result<Register, Refusal> {
    same_epoch(register, order)?;
    owner(register, order, facts)?;
    let Some(start) = &register.start else {
        return Err(wrong_role(register, order, "an owner by a start"));
    };
    if register.commit.is_some() {
        return Ok(register.clone());
    }
    // S5: accepted only while the guest runs here. A VM that was off at its source has been moved as it was.
    let as_it_was = start.left_off && register.desired_power == PowerSwitch::Off;
    match facts.power {
        Power::Running => {}
        Power::Off if as_it_was => {}
        Power::Unknown => return Err(power_unknown(Some(register))),
        Power::Off | Power::ShutDown | Power::Paused => {
            let message = "the guest does not run on this host, so its move cannot be accepted: start it, or turn back";
            return Err(refuse(RefusalKind::NotRunning, message, Some(register)));
        }
    }
    let commit = CommitRecord {
        vm: order.vm,
        epoch: order.epoch,
        host: facts.host.to_owned(),
        failover: order.failover.clone(),
        at: facts.now,
    };
    // The record takes effect with the sync of this very register.
    Ok(Register {
        commit: Some(commit),
        ..register.clone()
    })
}

fn retire(
    register: &Register,
    order: &Order,
    commit: &CommitRecord,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    same_epoch(register, order)?;
    if register.role == Role::Replica && last_kind(register) == Some(OrderKind::Retire) {
        return Ok(register.clone());
    }
    if register.role != Role::Fenced || register.stop.is_none() {
        return Err(wrong_role(
            register,
            order,
            "a fenced host with its stop record",
        ));
    }
    // S5: the source retires only after the target's commit of this very move.
    if commit.vm != order.vm
        || commit.epoch != register.epoch
        || register.moving_to.as_deref() != Some(&commit.host)
    {
        let message = format!(
            "the commit is of VM {} at epoch {} on {}, not of this move",
            commit.vm, commit.epoch, commit.host
        );
        return Err(wrong_record(register, &message));
    }
    if facts.power != Power::Off {
        return Err(not_off(Some(register), facts.power));
    }
    Ok(Register {
        role: Role::Replica,
        desired_power: PowerSwitch::Off,
        moving_to: None,
        stop: None,
        session: None,
        ..register.clone()
    })
}

fn fence(
    register: Option<&Register>,
    order: &Order,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    let Some(register) = register else {
        // A target that never heard of the VM can still promise not to run it.
        let name = facts.definition.map_or_else(
            || order.vm.to_string(),
            |definition| definition.name.clone(),
        );
        return Ok(fresh(order, &name, Role::Replica, facts));
    };
    let unfinished = fence_unfinished(register);
    match register.role {
        Role::Owner if register.commit.is_some() => {
            // S5: nothing rolls back after the commit.
            let message = "the move is committed: a way back is a new failover";
            return Err(refuse(RefusalKind::Committed, message, Some(register)));
        }
        Role::Owner if !uncommitted(register) => {
            return Err(wrong_role(
                register,
                order,
                "the target of an uncommitted move",
            ));
        }
        Role::Fenced => {
            return Err(wrong_role(
                register,
                order,
                "the target of an uncommitted move",
            ));
        }
        Role::Owner | Role::Replica => {}
    }
    if order.epoch < register.epoch || (order.epoch == register.epoch && !unfinished) {
        return Err(wrong_epoch(
            register,
            order,
            "a new epoch, the highest of both sites plus one",
        ));
    }
    // `start` stays until what ran has been seen to end: it says that something may have run.
    Ok(Register {
        role: Role::Replica,
        desired_power: PowerSwitch::Off,
        fence: None,
        session: None,
        ..register.clone()
    })
}

fn resume(register: &Register, order: &Order, fence: &FenceRecord) -> Result<Register, Refusal> {
    if fence.vm != order.vm {
        return Err(wrong_record(register, "the fence record is of another VM"));
    }
    if fence.epoch != order.epoch {
        return Err(wrong_epoch(
            register,
            order,
            &format!("the fence record's epoch {}", fence.epoch),
        ));
    }
    match register.role {
        // Given again after the right had come back but the guest did not come up.
        Role::Owner
            if order.epoch == register.epoch && last_kind(register) == Some(OrderKind::Resume) =>
        {
            Ok(register.clone())
        }
        Role::Fenced => {
            // S2: turning back takes a new epoch, first synced at the one host that could have started it.
            if order.epoch <= register.epoch {
                return Err(wrong_epoch(
                    register,
                    order,
                    "the epoch of a fence that is newer than the stop",
                ));
            }
            if register.moving_to.as_deref() != Some(&fence.host) {
                let held = register.moving_to.as_deref().unwrap_or("nobody");
                return Err(wrong_record(
                    register,
                    &format!(
                        "the fence is of host {}, the move was to {held}",
                        fence.host
                    ),
                ));
            }
            Ok(Register {
                role: Role::Owner,
                moving_to: None,
                stop: None,
                start: None,
                commit: None,
                fence: None,
                ..register.clone()
            })
        }
        Role::Owner | Role::Replica => Err(wrong_role(
            register,
            order,
            "the fenced source of this move",
        )),
    }
}

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
pub(crate) struct SessionRequest {
    /// The VM.
    pub vm: Uuid,
    /// The source's epoch and step.
    pub id: StepId,
}

/// S9: whether a data session may write now. The register is to be synced first when one is returned.
pub(crate) fn admit_session(
    register: Option<&Register>,
    session: SessionRequest,
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

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
