//! An action as orders to agents, in the order sent. Harmless when only the first ones arrive.

use uuid::Uuid;

use super::look::{At, Look, address};
use super::mapping::{stage_of, strays};
use super::obstacles::takes;
use super::stale;
use crate::agent::api::{
    Claim, Command, DeliverMode, Order, PeerAddress, Register, Role, VmDefinition,
};
use crate::api::{DataSync, Site};
use crate::domain::{self, Action, ErrorClass, Fact, Mark, Stage, Submission};
use crate::driver::DriverError;

/// One order to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub host: String,
    pub order: Order,
}

struct Planner<'a> {
    look: &'a Look,
    vm: Uuid,
    submission: &'a Submission,
    interval: u64,
    orders: Vec<Planned>,
}

type Done = Result<(), DriverError>;

pub(super) fn plan(
    look: &Look,
    name: &str,
    submission: &Submission,
    interval: u64,
) -> Result<Vec<Planned>, DriverError> {
    let vm = identity(look, name)?;
    let mut planner = Planner {
        look,
        vm,
        submission,
        interval,
        orders: Vec::new(),
    };
    planner.check_strays()?;
    planner.plan()?;
    Ok(planner.orders)
}

fn identity(look: &Look, name: &str) -> Result<Uuid, DriverError> {
    let mut named = look.vms().into_iter().filter(|(known, _)| known == name);
    match (named.next(), named.next()) {
        (Some((_, vm)), None) => Ok(vm),
        (Some(_), Some(_)) => Err(DriverError::refused(
            ErrorClass::Invalid,
            format!("two VMs are named {name}: rename one of them"),
        )),
        (None, _) => Err(DriverError::refused(
            ErrorClass::Transient,
            format!("no host that answers knows a VM named {name}"),
        )),
    }
}

fn conflict(words: impl Into<String>) -> DriverError {
    DriverError::refused(ErrorClass::Conflict, words)
}

impl<'a> Planner<'a> {
    /// S3, S7: read anew. What gives a host the right to run waits while the guest may run on one that knows nothing else of it.
    fn check_strays(&self) -> Done {
        let gives_a_right = matches!(
            self.submission.action,
            Action::Adopt { .. } | Action::StartTarget { .. } | Action::ResumeSource { .. }
        );
        let found = strays(self.look, self.vm);
        if gives_a_right && !found.is_empty() {
            return Err(conflict(found.join("; ")));
        }
        Ok(())
    }

    fn plan(&mut self) -> Done {
        match &self.submission.action {
            Action::Adopt { at, takeover } => self.adopt(*at, takeover.as_ref()),
            // In the middle of a move nobody waits for the next interval.
            Action::Protect { from } => self.protect(*from, self.submission.failover.is_some()),
            Action::ReverseReplicate { from } if self.is_stale(*from)? => self.protect(*from, true),
            Action::Synchronize { from } | Action::ReverseReplicate { from } => {
                let (own, peer) = (self.at(*from)?, self.replica(from.other())?);
                self.replicate(&own, peer, true);
                Ok(())
            }
            Action::StopSource { from } => {
                let own = self.at(*from)?;
                let target = match own.register().and_then(|own| own.moving_to.clone()) {
                    // Ordered again after it was cut short: the fence names the one host that may start the VM.
                    Some(target) => target,
                    None => self.replica(from.other())?.host,
                };
                let stop = Command::Stop {
                    target,
                    force: false,
                };
                self.to(&own, stop);
                Ok(())
            }
            Action::FinalSync { from, data_sync } => {
                let own = self.at(*from)?;
                let peer = self.target(&own)?.address();
                let mode = match data_sync {
                    DataSync::DeltaBeforeFailover => DeliverMode::Delta,
                    DataSync::FullDuringFailover => DeliverMode::Full,
                };
                self.to(&own, Command::Deliver { peer, mode });
                Ok(())
            }
            Action::StartTarget { to } => {
                let source = self.at(to.other())?;
                let stop = record(&source, "stop record", |own| own.stop.clone())?;
                let target = self.target(&source)?;
                self.to(&target, Command::Start { stop });
                Ok(())
            }
            Action::CompleteFailover { .. } => Err(DriverError::refused(
                ErrorClass::Invalid,
                "agents stop, send and start one after the other",
            )),
            Action::Commit { at } => {
                let own = self.at(*at)?;
                self.to(&own, Command::Commit {});
                Ok(())
            }
            Action::RetireSource { at } => {
                let (own, target) = (self.at(*at)?, self.at(at.other())?);
                let commit = record(&target, "commit record", |own| own.commit.clone())?;
                self.to(&own, Command::Retire { commit });
                Ok(())
            }
            Action::CancelSync { from } => {
                let own = self.at(*from)?;
                self.to(&own, Command::Pause {});
                if let Fact::Known(replica) = self.look.at(from.other(), self.vm) {
                    if replica.register().is_some() {
                        self.to(&replica, Command::Undo {});
                    }
                }
                Ok(())
            }
            Action::FenceTarget { to } => {
                let source = self.at(to.other())?;
                let host = match source.register().and_then(|own| own.moving_to.clone()) {
                    Some(host) => host,
                    // A fence that broke off is brought to its end where it stands, also when the source is at rest.
                    None => self.replica(*to)?.host,
                };
                self.order(&host, self.submission.mark, Command::Fence {});
                Ok(())
            }
            Action::ResumeSource { from } => {
                let own = self.at(*from)?;
                let fence = match own.register() {
                    // Given again after the right had come back: the register no longer says where from, and the fence is of its epoch.
                    Some(there) if there.role == Role::Owner => self
                        .look
                        .all_at(from.other(), self.vm)
                        .filter_map(|at| at.register()?.fence.clone())
                        .find(|fence| fence.epoch == there.epoch)
                        .ok_or_else(|| {
                            conflict(format!(
                                "no host in {} that answers has the fence after which the VM came back",
                                from.other()
                            ))
                        })?,
                    _ => {
                        let target = self.target(&own)?;
                        record(&target, "fence record", |own| own.fence.clone())?
                    }
                };
                self.to(&own, Command::Resume { fence });
                Ok(())
            }
            Action::Release => {
                for site in self.passive_first() {
                    if let Some(at) = self.known(site)?.filter(|at| at.register().is_some()) {
                        self.to(&at, Command::Release {});
                    }
                }
                Ok(())
            }
            Action::Detach => self.detach(),
        }
    }

    /// Who speaks for the VM at a site; silent hosts are a refusal (S7).
    fn known(&self, site: Site) -> Result<Option<At<'a>>, DriverError> {
        match self.look.at(site, self.vm) {
            Fact::Known(at) => Ok(Some(at)),
            Fact::Absent => Ok(None),
            Fact::Unknown(why) => Err(DriverError::refused(ErrorClass::Transient, why)),
        }
    }

    fn at(&self, site: Site) -> Result<At<'a>, DriverError> {
        self.known(site)?
            .ok_or_else(|| conflict(format!("no host in {site} knows the VM")))
    }

    fn replica(&self, site: Site) -> Result<PeerAddress, DriverError> {
        let at = self.at(site)?;
        match at.register().map(|own| own.role) {
            Some(Role::Replica) => Ok(at.address()),
            _ => Err(conflict(format!("{} holds no replica", at.host.name))),
        }
    }

    /// The host that a fenced source moves to.
    fn target(&self, source: &At<'_>) -> Result<At<'a>, DriverError> {
        let name = source
            .register()
            .and_then(|own| own.moving_to.as_deref())
            .ok_or_else(|| conflict(format!("{} is not fenced for a move", source.host.name)))?;
        self.look
            .all_at(source.host.site.other(), self.vm)
            .find(|at| at.host.name == name)
            .ok_or_else(|| {
                DriverError::refused(
                    ErrorClass::Transient,
                    format!(
                        "host {name}, to which the VM moves, does not answer or does not know it; it has to stay in spec.agents of the vault until the move has ended"
                    ),
                )
            })
    }

    fn to(&mut self, at: &At<'_>, command: Command) {
        self.order(&at.host.name, self.submission.mark, command);
    }

    fn order(&mut self, host: &str, mark: Mark, command: Command) {
        let submission = self.submission;
        let failover = match command {
            // The very order that ends a move says so: the registers let go of it at rest (S1).
            Command::Pause {} | Command::Undo {} | Command::Release {} | Command::Detach {} => None,
            _ => submission.failover.clone(),
        };
        self.orders.push(Planned {
            host: host.into(),
            order: Order {
                vm: self.vm,
                epoch: mark.epoch,
                step: mark.step,
                claim: Some(claim(&submission.claim)),
                failover,
                command,
            },
        });
    }

    fn replicate(&mut self, own: &At<'_>, peer: PeerAddress, immediate: bool) {
        let command = Command::Replicate {
            peer,
            interval_seconds: self.interval,
            immediate,
        };
        self.to(own, command);
    }

    fn passive_first(&self) -> [Site; 2] {
        let active = stage_of(self.look, self.vm)
            .known()
            .and_then(Stage::active)
            .unwrap_or(Site::OnPremises);
        [active.other(), active]
    }

    /// In the middle of a move the epochs of the two sides differ, and have to: claims move at the epoch that each side is at.
    fn own_mark(&self, register: Option<&Register>) -> Mark {
        let mark = self.submission.mark;
        match register {
            Some(own) if own.epoch != mark.epoch => Mark {
                epoch: own.epoch,
                step: own.step + 1,
            },
            _ => mark,
        }
    }

    fn adopt(&mut self, at: Site, takeover: Option<&domain::Claim>) -> Done {
        let own = claim(&self.submission.claim);
        let takeover = takeover.map(claim);
        for site in [at.other(), at] {
            let Some(there) = self.known(site)? else {
                continue;
            };
            let held = there
                .register()
                .and_then(|register| register.claim.as_ref());
            // S1: a claim that is not the one named stays for the next time.
            let free = held.is_none_or(|held| *held == own || Some(held) == takeover.as_ref());
            if !free || (site != at && there.register().is_none()) {
                continue;
            }
            let mark = self.own_mark(there.register());
            let takeover = takeover.clone().filter(|named| Some(named) == held);
            // S1: nor need both name the same Failover, and each takes orders in the name of its own alone.
            let named = there.register().and_then(|own| own.failover.clone());
            self.order(&there.host.name, mark, Command::Adopt { takeover });
            if let (Some(planned), Some(_)) = (self.orders.last_mut(), &named) {
                planned.order.failover = named;
            }
        }
        Ok(())
    }

    /// Whether the replica must be made anew before anything is sent to it.
    fn is_stale(&self, from: Site) -> Result<bool, DriverError> {
        let (own, passive) = (self.at(from)?, self.look.at(from.other(), self.vm));
        Ok(stale::why(self.look, &own, &passive, self.interval).is_some())
    }

    fn protect(&mut self, from: Site, immediate: bool) -> Done {
        let own = self.at(from)?;
        let to = from.other();
        let (host, peer) = match self.known(to)?.filter(|at| at.register().is_some()) {
            Some(replica) => (replica.host.name.clone(), replica.address()),
            None => self
                .look
                .answering(to)
                .find(|(_, state)| takes(&own, state).is_ok())
                .map(|(host, state)| (host.name.clone(), address(host, state)))
                .ok_or_else(|| {
                    DriverError::refused(
                        ErrorClass::Capacity,
                        format!(
                            "no host in {to} that answers has room and the networks for the VM"
                        ),
                    )
                })?,
        };
        let definition = Box::new(travelling(&own)?);
        let owner = own.address();
        let enroll = Command::Enroll { definition, owner };
        self.order(&host, self.submission.mark, enroll);
        self.replicate(&own, peer, immediate);
        Ok(())
    }

    fn detach(&mut self) -> Done {
        let own = claim(&self.submission.claim);
        for site in self.passive_first() {
            self.known(site)?;
            let held: Vec<At<'a>> = self
                .look
                .all_at(site, self.vm)
                .filter(|at| {
                    at.register()
                        .is_some_and(|register| register.claim.as_ref() == Some(&own))
                })
                .collect();
            for at in held {
                let mark = self.own_mark(at.register());
                self.order(&at.host.name, mark, Command::Detach {});
            }
        }
        Ok(())
    }
}

fn record<T>(
    at: &At<'_>,
    what: &str,
    get: impl FnOnce(&Register) -> Option<T>,
) -> Result<T, DriverError> {
    at.register()
        .and_then(get)
        .ok_or_else(|| conflict(format!("{} has no {what}", at.host.name)))
}

fn claim(claim: &domain::Claim) -> Claim {
    Claim {
        cluster: claim.cluster.clone(),
        pvm: claim.vm_uid.clone(),
    }
}

/// The owner's definition with the exact sizes of its disks (S14); paths are the other host's own affair.
fn travelling(own: &At<'_>) -> Result<VmDefinition, DriverError> {
    let mut definition = own.vm.definition.clone().ok_or_else(|| {
        DriverError::refused(
            ErrorClass::Invalid,
            format!("{} has no definition of the VM", own.host.name),
        )
    })?;
    for disk in &mut definition.disks {
        let seen = own.vm.disks.iter().find(|seen| seen.id == disk.id);
        disk.size_bytes = seen.map(|seen| seen.size_bytes).or(disk.size_bytes);
    }
    Ok(definition)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
