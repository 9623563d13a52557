//! An action as orders to the two sides, and what an admitted order does.

use super::effects::Happening;
use super::register::{self, Admission, Facts, Role, StopRecord};
use super::{Fate, InFlight, Replication, Simulation};
use crate::api::{DataSync, Site};
use crate::domain::{Action, ActionKind, Claim, ErrorClass, Mark, OperationState, Submission};
use crate::driver::DriverError;

/// What one side is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Adopt { takeover: Option<Claim> },
    Enroll,
    Replicate { immediate: bool },
    Pause,
    Stop,
    Deliver { full: bool },
    Start { stop: StopRecord },
    Complete { full: bool },
    Commit,
    Retire { commit: u64 },
    Fence,
    Resume { fence: u64 },
    Undo,
    Release,
    Detach,
}

/// An order with all that makes it safe to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: ActionKind,
    pub mark: Mark,
    pub claim: Claim,
    pub failover: Option<String>,
    pub order: Order,
}

impl Simulation {
    /// Starts one action; idempotent by its mark.
    ///
    /// # Errors
    /// As [`ReplicationDriver::submit`](crate::driver::ReplicationDriver::submit).
    pub fn submit(&mut self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        self.check_capable(&submission.action)?;
        for (site, order) in self.plan(vm, &submission.action)? {
            let failover = match order {
                // A cancelled or detached move is over with the very order that ends it.
                Order::Pause | Order::Undo | Order::Detach | Order::Release => None,
                // Each side takes a claim in the name of the Failover that its own register has.
                Order::Adopt { .. } => self
                    .vms
                    .get(vm)
                    .and_then(|vm| vm.sides[site].register.as_ref()?.failover.clone())
                    .or_else(|| submission.failover.clone()),
                _ => submission.failover.clone(),
            };
            let message = Message {
                kind: submission.action.kind(),
                mark: self.mark_for(vm, site, &order, submission.mark),
                claim: submission.claim.clone(),
                failover,
                order,
            };
            self.send(vm, site, message)?;
        }
        Ok(())
    }

    /// A claim moves at the epoch that each side is at: in the middle of a move they differ, and have to.
    fn mark_for(&self, vm: &str, site: Site, order: &Order, mark: Mark) -> Mark {
        let own = self
            .vms
            .get(vm)
            .and_then(|vm| vm.sides[site].register.as_ref())
            .map(|register| register.mark);
        match (order, own) {
            (Order::Adopt { .. }, Some(own)) if own.epoch != mark.epoch => Mark {
                epoch: own.epoch,
                step: own.step + 1,
            },
            _ => mark,
        }
    }

    /// Whether this driver can do such a thing at all.
    ///
    /// # Errors
    /// `Invalid`, with what it cannot do.
    pub fn check_capable(&self, action: &Action) -> Result<(), DriverError> {
        let cannot = |what: &str| Err(DriverError::refused(ErrorClass::Invalid, what));
        let towards = |site: Site| &self.capabilities.towards[site];
        match action {
            Action::StopSource { from } | Action::FinalSync { from, .. }
                if !towards(from.other()).separate_stop =>
            {
                cannot("stop, last delta and start are one here")
            }
            Action::StartTarget { to } if !towards(*to).separate_stop => {
                cannot("stop, last delta and start are one here")
            }
            Action::CompleteFailover { from, .. } if towards(from.other()).separate_stop => {
                cannot("stop, last delta and start are separate here")
            }
            Action::FenceTarget { to } if !towards(*to).rollback => {
                cannot("a move cannot be turned back here once the source was stopped")
            }
            Action::ResumeSource { from } if !towards(from.other()).rollback => {
                cannot("a move cannot be turned back here once the source was stopped")
            }
            Action::Synchronize { from } if !towards(from.other()).pause_before_cutover => {
                cannot("there is no synchronising before the stop in this direction")
            }
            Action::Protect { from } | Action::ReverseReplicate { from } => {
                match &towards(*from).protects_after_commit {
                    Ok(()) => Ok(()),
                    Err(why) => cannot(why),
                }
            }
            _ => Ok(()),
        }
    }

    /// The orders of an action, in the order sent; harmless when only the first ones arrive.
    fn plan(&self, vm: &str, action: &Action) -> Result<Vec<(Site, Order)>, DriverError> {
        let known = self
            .vms
            .get(vm)
            .ok_or_else(|| DriverError::refused(ErrorClass::Invalid, "no such VM"))?;
        let look = |site: Site| {
            if self.connected[site] {
                return Ok(known.sides[site].register.as_ref());
            }
            Err(DriverError::refused(
                ErrorClass::Transient,
                format!("{site} does not answer"),
            ))
        };
        let missing =
            |what: &str| DriverError::refused(ErrorClass::Conflict, format!("there is no {what}"));
        let has_register = |site: Site| Ok::<_, DriverError>(look(site)?.is_some());
        Ok(match action {
            Action::Adopt { at, takeover } => {
                let order = Order::Adopt {
                    takeover: takeover.clone(),
                };
                // S1: where somebody else than the one named holds the claim, it stays for the next time.
                let named = |site: Site| {
                    let held = look(site)?.and_then(|register| register.claim.as_ref());
                    Ok::<_, DriverError>(held.is_none() || held == takeover.as_ref())
                };
                let mut orders = Vec::new();
                if has_register(at.other())? && named(at.other())? {
                    orders.push((at.other(), order.clone()));
                }
                if named(*at)? {
                    orders.push((*at, order));
                }
                orders
            }
            Action::Protect { from } => vec![
                (from.other(), Order::Enroll),
                (*from, Order::Replicate { immediate: false }),
            ],
            Action::Synchronize { from } => vec![(*from, Order::Replicate { immediate: true })],
            Action::ReverseReplicate { from } => {
                let mut orders = Vec::new();
                // A peer that has lost its replica is enrolled again.
                if self.capabilities.towards[from.other()].separate_stop
                    && !has_register(from.other())?
                {
                    orders.push((from.other(), Order::Enroll));
                }
                orders.push((*from, Order::Replicate { immediate: true }));
                orders
            }
            Action::StopSource { from } => vec![(*from, Order::Stop)],
            Action::FinalSync { from, data_sync } => vec![(
                *from,
                Order::Deliver {
                    full: *data_sync == DataSync::FullDuringFailover,
                },
            )],
            Action::StartTarget { to } => {
                let stop = look(to.other())?
                    .and_then(|register| register.stop.clone())
                    .ok_or_else(|| missing("stop record"))?;
                vec![(*to, Order::Start { stop })]
            }
            Action::CompleteFailover { from, data_sync } => vec![(
                *from,
                Order::Complete {
                    full: *data_sync == DataSync::FullDuringFailover,
                },
            )],
            Action::Commit { at } => vec![(*at, Order::Commit)],
            Action::RetireSource { at } => {
                let commit = look(at.other())?
                    .and_then(|register| register.commit)
                    .ok_or_else(|| missing("commit record"))?;
                vec![(*at, Order::Retire { commit })]
            }
            Action::CancelSync { from } => {
                let mut orders = vec![(*from, Order::Pause)];
                if has_register(from.other())? {
                    orders.push((from.other(), Order::Undo));
                }
                orders
            }
            Action::FenceTarget { to } => vec![(*to, Order::Fence)],
            Action::ResumeSource { from } => {
                let fence = look(from.other())?
                    .and_then(|register| register.fence)
                    .ok_or_else(|| missing("fence record"))?;
                vec![(*from, Order::Resume { fence })]
            }
            Action::Release => self.both_known(known, &Order::Release)?,
            Action::Detach => self.both_known(known, &Order::Detach)?,
        })
    }

    fn both_known(&self, vm: &super::Vm, order: &Order) -> Result<Vec<(Site, Order)>, DriverError> {
        let mut orders = Vec::new();
        for site in super::observe::passive_first(self, vm) {
            if !self.connected[site] {
                return Err(DriverError::refused(
                    ErrorClass::Transient,
                    format!("{site} does not answer"),
                ));
            }
            // What was let go of before, half way, is nobody's already.
            let held = vm.sides[site]
                .register
                .as_ref()
                .is_some_and(|register| register.claim.is_some());
            if held {
                orders.push((site, order.clone()));
            }
        }
        Ok(orders)
    }

    fn send(&mut self, vm: &str, site: Site, message: Message) -> Result<(), DriverError> {
        if !self.connected[site] {
            return Err(DriverError::refused(
                ErrorClass::Transient,
                format!("{site} does not answer"),
            ));
        }
        let lost = || Err(DriverError::ambiguous(format!("no answer from {site}")));
        match self.fates.pop_front().unwrap_or(Fate::Arrives) {
            Fate::Arrives => self
                .receive(vm, site, &message)
                .map_err(|refusal| DriverError::refused(refusal.class, refusal.message)),
            Fate::LostBefore => lost(),
            Fate::Refused(class) => Err(DriverError::refused(
                class,
                format!("{site} cannot take it now"),
            )),
            Fate::LostAfter => {
                let _unheard = self.receive(vm, site, &message);
                lost()
            }
            Fate::Late(after) => {
                self.in_flight.push(InFlight {
                    arrives: self.now + after,
                    vm: vm.into(),
                    site,
                    message,
                });
                lost()
            }
        }
    }

    /// A message arrives at a side.
    pub(super) fn receive(
        &mut self,
        name: &str,
        site: Site,
        message: &Message,
    ) -> Result<(), register::Refusal> {
        let Some(vm) = self.vms.get_mut(name) else {
            return Ok(());
        };
        let side = &mut vm.sides[site];
        if matches!(side.running_order(), Some(Order::Complete { .. })) {
            let known = side
                .register
                .as_ref()
                .is_some_and(|own| own.mark == message.mark);
            return if known {
                Ok(())
            } else {
                // A service finishes its job before it begins another one.
                Err(register::Refusal {
                    class: ErrorClass::Conflict,
                    message: "a job of this VM runs".into(),
                })
            };
        }
        let facts = Facts {
            defined: side.defined,
            running: side.running,
            content: side.disk.whole.then_some(&side.disk.records[..]),
        };
        let Admission::Accepted(next) = register::admit(side.register.as_ref(), message, &facts)?
        else {
            return Ok(());
        };
        // A newer order cuts the one before it short; the register goes before the first effect (S1).
        side.register = Some(*next);
        side.beats_left = 0;
        self.note(
            name,
            site,
            Happening::Admitted {
                kind: message.kind,
                mark: message.mark,
                failover: message.failover.clone(),
            },
        );
        self.begin(name, site, message);
        Ok(())
    }

    fn begin(&mut self, name: &str, site: Site, message: &Message) {
        let now = self.now;
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        let side = &mut vm.sides[site];
        let mut beats = 0;
        match &message.order {
            Order::Adopt { .. } => side.active_since = side.active_since.or(Some(now)),
            Order::Enroll => side.defined = true,
            Order::Replicate { immediate } => {
                let before = side.replication.take();
                let same = before
                    .as_ref()
                    .is_some_and(|old| old.failover == message.failover);
                side.replication = Some(Replication {
                    failover: message.failover.clone(),
                    paused: false,
                    pass: before
                        .as_ref()
                        .filter(|_| !immediate)
                        .and_then(|old| old.pass.clone()),
                    last: before.as_ref().and_then(|old| old.last.clone()),
                    failing: None,
                    sent: before.as_ref().filter(|_| same).map_or(0, |old| old.sent),
                    changed: before
                        .as_ref()
                        .filter(|_| same)
                        .map_or(0, |old| old.changed),
                });
            }
            Order::Pause => pause(side),
            Order::Stop => {
                pause(side);
                beats = 3;
            }
            Order::Complete { full } => {
                pause(side);
                beats = if *full { 8 } else { 6 };
            }
            Order::Deliver { full } => beats = if *full { 5 } else { 3 },
            Order::Start { .. } => beats = 2,
            Order::Fence => beats = 1,
            Order::Resume { .. } => {
                beats = 1;
                self.take_back(name, site);
            }
            Order::Commit => self.note(name, site, Happening::Committed),
            Order::Retire { .. } => {
                side.active_since = None;
                side.replication = None;
                self.note(name, site, Happening::Retired);
            }
            Order::Undo => {
                if let Some(records) = side.disk.before.take() {
                    side.disk.records = records;
                    side.disk.whole = true;
                    self.note(name, site, Happening::Undone);
                }
            }
            Order::Release | Order::Detach => {}
        }
        if let Some(vm) = self.vms.get_mut(name) {
            let side = &mut vm.sides[site];
            side.beats_left = beats;
            if beats == 0 {
                side.end(OperationState::Succeeded);
            }
        }
    }
}

fn pause(side: &mut super::Side) {
    if let Some(replication) = &mut side.replication {
        replication.paused = true;
        replication.pass = None;
    }
}

impl super::Side {
    /// The operation in the register ends.
    pub(super) fn end(&mut self, state: OperationState) {
        self.beats_left = 0;
        if let Some(last) = self
            .register
            .as_mut()
            .and_then(|register| register.last.as_mut())
        {
            if last.state == OperationState::Running {
                last.state = state;
            }
        }
    }

    pub(super) fn role(&self) -> Option<Role> {
        self.register.as_ref().map(|register| register.role)
    }
}
