//! What each order makes of the register, or why not.

use super::check::mid_move;
use super::{Facts, at_rest, fence_unfinished, last_kind, refuse, uncommitted};
use crate::agent::api::{
    Command, CommitRecord, FenceRecord, Order, OrderKind, Power, PowerSwitch, Refusal, RefusalKind,
    Register, Role, StopRecord,
};

/// The register after the order, without epoch, step, failover and the record of the step.
pub(super) fn transition(
    register: Option<&Register>,
    order: &Order,
    facts: &Facts<'_>,
) -> Result<Register, Refusal> {
    match (&order.command, register) {
        (Command::Adopt { .. }, _) => adopt(register, order, facts),
        (Command::Enroll { definition, owner }, _) => Ok(Register {
            owner: Some(owner.host.clone()),
            ..enroll(register, order, &definition.name, facts)?
        }),
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
            not_older(register, order)?;
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
        (Command::Power { state, .. }, Some(register)) => {
            same_epoch(register, order)?;
            owner(register, order, facts)?;
            Ok(Register {
                desired_power: *state,
                ..register.clone()
            })
        }
        (Command::Undo {}, Some(register)) => {
            not_older(register, order)?;
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
            not_older(register, order)?;
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

/// S2: an order to a host at rest may come with a newer epoch than the register's. Nothing moves by it, and whatever is still on its way
/// under an epoch in between, a stop above all, is refused from then on.
fn not_older(register: &Register, order: &Order) -> Result<(), Refusal> {
    if order.epoch == register.epoch || (order.epoch > register.epoch && at_rest(register)) {
        Ok(())
    } else {
        Err(wrong_epoch(
            register,
            order,
            "the register's own epoch or, at rest, a newer one",
        ))
    }
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
        start_owed: false,
        moving_to: None,
        stop: None,
        start: None,
        commit: None,
        fence: None,
        owner: None,
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
        Power::Unknown => return Err(power_unknown(None, facts)),
    };
    Ok(Register {
        desired_power,
        ..fresh(order, &definition.name, Role::Owner, facts)
    })
}

fn power_unknown(register: Option<&Register>, facts: &Facts<'_>) -> Refusal {
    let why = facts
        .power_reason
        .map_or_else(String::new, |why| format!(" ({why})"));
    refuse(
        RefusalKind::PowerUnknown,
        format!(
            "the hypervisor does not say whether the guest runs{why}; nothing is done from that"
        ),
        register,
    )
}

fn not_off(register: Option<&Register>, facts: &Facts<'_>) -> Refusal {
    if facts.power == Power::Unknown {
        return power_unknown(register, facts);
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
        return Err(not_off(register, facts));
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
            // It would be moved as one that is meant to be off, and be left off.
            let should = register.desired_power == PowerSwitch::On;
            if should && !force && matches!(facts.power, Power::Off | Power::ShutDown) {
                let message = "the guest should run on this host and does not: start it with `homeward vm start`, or switch it off with `homeward vm stop` so that it is moved as it is";
                return Err(refuse(RefusalKind::NotRunning, message, Some(register)));
            }
            // Whether it ran is kept now: when the order is given again the guest may already be off.
            let desired_power = match facts.power {
                Power::Running | Power::Paused => PowerSwitch::On,
                Power::Off | Power::ShutDown => PowerSwitch::Off,
                // S7: a silent hypervisor blocks the stop, unless a person's force says to pull the plug whatever it is.
                Power::Unknown if force => register.desired_power,
                Power::Unknown => return Err(power_unknown(Some(register), facts)),
            };
            Ok(Register {
                role: Role::Fenced,
                desired_power,
                start_owed: false,
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
                return Err(not_off(Some(register), facts));
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
        Power::Unknown => return Err(power_unknown(Some(register), facts)),
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
        return Err(not_off(Some(register), facts));
    }
    Ok(Register {
        role: Role::Replica,
        desired_power: PowerSwitch::Off,
        start_owed: false,
        moving_to: None,
        stop: None,
        owner: Some(commit.host.clone()),
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
        // S4: whatever gave it the right is lost, and what it writes is nowhere else: not power, but a person says which copy is given up.
        match facts.power {
            Power::Running | Power::Paused => {
                let message = "this host has no register of the VM, and its guest runs here: what it has written would be dropped; see the runbook on contradicting registers";
                return Err(refuse(RefusalKind::NoRegister, message, None));
            }
            Power::Unknown => return Err(power_unknown(None, facts)),
            Power::Off | Power::ShutDown => {}
        }
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
        start_owed: false,
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
                start_owed: register.desired_power == PowerSwitch::On,
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
