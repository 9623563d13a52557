//! Time: guests write, passes travel, operations end, late messages arrive, hosts start again.

use jiff::SignedDuration;

use super::effects::Happening;
use super::orders::Order;
use super::register::{Register, Role, StartRecord, StopRecord};
use super::{BEAT, Pass, Simulation, Whole};
use crate::api::Site;
use crate::domain::OperationState;

/// Beats that a pass takes.
const PASS_BEATS: u32 = 3;
/// How often an agent tries to bring up a guest that should run and did not come up.
const TRIES_EVERY: SignedDuration = SignedDuration::from_secs(20);
/// How many epochs a sender may be ahead of the replica, as orders that never came there take it. Agents are more patient.
const EPOCHS_AHEAD: u64 = 3;
/// Beats of a long wait that are played one by one; nothing in the simulation takes longer.
const BUSY_BEATS: u32 = 40;

impl Simulation {
    /// Time passes: beat by beat, and what is left after [`BUSY_BEATS`] of them in one.
    pub fn advance(&mut self, by: SignedDuration) {
        let end = self.now + by;
        let mut beats = 0;
        while self.now < end {
            beats += 1;
            self.now = if beats > BUSY_BEATS {
                end
            } else {
                end.min(self.now + BEAT)
            };
            self.arrivals();
            let names: Vec<String> = self.vms.keys().cloned().collect();
            for name in names {
                self.write(&name);
                for site in Site::BOTH {
                    self.work(&name, site);
                    self.try_to_start(&name, site);
                    self.replicate(&name, site);
                }
            }
        }
    }

    /// The agent of a site is started again: guests run on, an operation that had not ended is interrupted.
    pub fn restart_agent(&mut self, site: Site) {
        for vm in self.vms.values_mut() {
            let side = &mut vm.sides[site];
            let in_service = matches!(side.running_order(), Some(Order::Complete { .. }));
            if !in_service {
                side.end(OperationState::Interrupted);
            }
            if let Some(replication) = &mut side.replication {
                replication.pass = None;
            }
        }
    }

    /// The host of a site is started again: guests are gone; those that this site may run are started again.
    pub fn reboot_host(&mut self, site: Site) {
        let names: Vec<String> = self.vms.keys().cloned().collect();
        for name in &names {
            self.stop_guest(name, site);
        }
        self.restart_agent(site);
        for name in &names {
            let starts = self.vms.get(name).is_some_and(|vm| {
                // S4: only agents start VMs, and only where the register lets them.
                vm.sides[site]
                    .register
                    .as_ref()
                    .is_some_and(|register| register.role == Role::Owner && register.should_run)
            });
            if starts {
                self.start_guest(name, site);
            }
        }
    }

    /// A person moves the power switch; refused where the side may not run the VM.
    pub fn switch(&mut self, name: &str, site: Site, on: bool) -> bool {
        let Some(register) = self
            .vms
            .get_mut(name)
            .and_then(|vm| vm.sides[site].register.as_mut())
        else {
            return false;
        };
        if register.role != Role::Owner {
            return false;
        }
        register.should_run = on;
        if on {
            self.start_guest(name, site);
        } else {
            self.stop_guest(name, site);
        }
        true
    }

    fn arrivals(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.in_flight)
            .into_iter()
            .partition(|message| message.arrives <= now);
        self.in_flight = later;
        for message in due {
            // Nobody hears the answer any more.
            let _unheard = self.receive(&message.vm, message.site, &message.message);
        }
    }

    /// A guest that runs writes a record a beat, and it is acknowledged to whoever asked for it.
    fn write(&mut self, name: &str) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        for site in Site::BOTH {
            if vm.sides[site].running {
                vm.next_record += 1;
                vm.sides[site].disk.records.push(vm.next_record);
                vm.acknowledged.push(vm.next_record);
            }
        }
    }

    fn try_to_start(&mut self, name: &str, site: Site) {
        let now = self.now;
        let down = self.is_left_down(name, site);
        let Some(side) = self.vms.get_mut(name).map(|vm| &mut vm.sides[site]) else {
            return;
        };
        if !down || side.running_order().is_some() {
            side.down_since = None;
            return;
        }
        let since = *side.down_since.get_or_insert(now);
        if now.duration_since(since) >= TRIES_EVERY {
            side.down_since = None;
            self.start_guest(name, site);
        }
    }

    fn work(&mut self, name: &str, site: Site) {
        let Some(side) = self.vms.get_mut(name).map(|vm| &mut vm.sides[site]) else {
            return;
        };
        let Some(order) = side.running_order().cloned() else {
            return;
        };
        if side.beats_left > 1 {
            side.beats_left -= 1;
            match order {
                Order::Complete { .. } => self.complete_on_the_way(name, site),
                // The right moves before the guest comes up: what breaks off in between leaves it off.
                Order::Start { .. } => self.promote(name, site),
                _ => {}
            }
            return;
        }
        if let Some(failure) = self.failures[site].pop_front() {
            self.fail(
                name,
                site,
                &order,
                OperationState::Failed {
                    class: failure.class,
                    message: failure.message,
                },
            );
            return;
        }
        self.finish(name, site, &order);
    }

    fn fail(&mut self, name: &str, site: Site, order: &Order, state: OperationState) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        vm.sides[site].end(state);
        if let Order::Complete { .. } = order {
            self.put_back(name, site);
        }
    }

    /// The service puts its source back by itself when it does not get through.
    fn put_back(&mut self, name: &str, site: Site) {
        let Some(register) = self
            .vms
            .get_mut(name)
            .and_then(|vm| vm.sides[site].register.as_mut())
        else {
            return;
        };
        register.role = Role::Owner;
        register.stop = None;
        if register.should_run {
            self.start_guest(name, site);
        }
    }

    fn finish(&mut self, name: &str, site: Site, order: &Order) {
        match order {
            Order::Stop => {
                self.stop_guest(name, site);
                self.record_stop(name, site);
            }
            Order::Deliver { .. } => {
                let delivered = self.deliver(name, site);
                if !delivered {
                    return;
                }
            }
            Order::Complete { .. } => {
                self.stop_guest(name, site);
                self.record_stop(name, site);
                if !self.deliver(name, site) {
                    self.put_back(name, site);
                    return;
                }
                self.promote_by_service(name, site);
            }
            Order::Start { .. } | Order::Resume { .. } => self.start_if_wanted(name, site),
            Order::Fence => self.end_fence(name, site),
            _ => {}
        }
        if let Some(vm) = self.vms.get_mut(name) {
            vm.sides[site].end(OperationState::Succeeded);
        }
    }

    fn register(&self, name: &str, site: Site) -> Option<&Register> {
        self.vms.get(name)?.sides[site].register.as_ref()
    }

    /// S3: stopped is a record.
    fn record_stop(&mut self, name: &str, site: Site) {
        let Some(side) = self.vms.get_mut(name).map(|vm| &mut vm.sides[site]) else {
            return;
        };
        let records = side.disk.records.clone();
        if let Some(register) = &mut side.register {
            register.role = Role::Fenced;
            register.stop = Some(StopRecord {
                epoch: register.mark.epoch,
                was_running: register.should_run,
                records,
            });
        }
    }

    fn deliver(&mut self, name: &str, site: Site) -> bool {
        let target = site.other();
        let takes = self.takes_data(name, site);
        if let Err(why) = takes {
            if let Some(vm) = self.vms.get_mut(name) {
                vm.sides[site].end(OperationState::Failed {
                    class: crate::domain::ErrorClass::Transient,
                    message: format!("{target} does not take the data: {why}"),
                });
            }
            return false;
        }
        let Some(records) = self
            .register(name, site)
            .and_then(|register| register.stop.as_ref())
            .map(|stop| stop.records.clone())
        else {
            return false;
        };
        let (sent, changed) = self.overwrite(name, site, records);
        if let Some(last) = self
            .vms
            .get_mut(name)
            .and_then(|vm| vm.sides[site].register.as_mut())
            .and_then(|register| register.last.as_mut())
        {
            last.sent = sent;
            last.changed = changed;
        }
        true
    }

    /// S9: data is let in only at a replica, and only at an epoch that is not older than its own.
    fn takes_data(&self, name: &str, from: Site) -> Result<(), String> {
        let to = from.other();
        if !self.connected[from] || !self.connected[to] {
            return Err("the sites do not reach each other".into());
        }
        let Some(own) = self.register(name, from) else {
            return Err("no register at the sender".into());
        };
        match self.register(name, to) {
            None if !self.capabilities.towards[to].separate_stop => Ok(()),
            None => Err("it does not know the VM".into()),
            Some(register) if register.role != Role::Replica || register.fencing => {
                Err("it is not a replica".into())
            }
            Some(register) if register.mark.epoch > own.mark.epoch => {
                Err("it has seen a newer epoch".into())
            }
            Some(register)
                if self.capabilities.towards[to].separate_stop
                    && own.mark.epoch > register.mark.epoch + EPOCHS_AHEAD =>
            {
                Err("the sender is too many epochs ahead".into())
            }
            Some(_) => Ok(()),
        }
    }

    /// S3, S11: the copy is sealed, then the right to run moves, then the guest starts.
    fn promote(&mut self, name: &str, site: Site) {
        let now = self.now;
        let Some(side) = self.vms.get_mut(name).map(|vm| &mut vm.sides[site]) else {
            return;
        };
        if side.role() == Some(Role::Owner) {
            // Given again: the right had moved, and what ran has written since.
            return;
        }
        side.active_since = Some(now);
        side.records_at_start = side.disk.records.len();
        side.disk.before = None;
        let Some(register) = &mut side.register else {
            return;
        };
        register.role = Role::Owner;
        register.commit = None;
        register.fence = None;
        register.start = Some(StartRecord {
            left_off: !register.should_run,
        });
    }

    fn start_if_wanted(&mut self, name: &str, site: Site) {
        let runs = self.register(name, site).is_some_and(|own| own.should_run);
        if runs && !self.guest(name, site).running {
            self.start_guest(name, site);
        }
    }

    fn complete_on_the_way(&mut self, name: &str, site: Site) {
        let stops = self
            .vms
            .get(name)
            .is_some_and(|vm| vm.sides[site].beats_left == 4);
        if stops {
            let runs = self.guest(name, site).running;
            if let Some(register) = self
                .vms
                .get_mut(name)
                .and_then(|vm| vm.sides[site].register.as_mut())
            {
                register.should_run = runs;
                register.role = Role::Fenced;
            }
            self.stop_guest(name, site);
        }
    }

    /// The service starts the VM at the other site by itself.
    fn promote_by_service(&mut self, name: &str, from: Site) {
        let Some(source) = self.register(name, from).cloned() else {
            return;
        };
        let to = from.other();
        if let Some(vm) = self.vms.get_mut(name) {
            let side = &mut vm.sides[to];
            side.defined = true;
            let newest = side
                .register
                .as_ref()
                .map_or(source.mark, |own| own.mark.max(source.mark));
            side.register = Some(Register {
                mark: newest,
                role: Role::Replica,
                last: None,
                stop: None,
                ..source
            });
        }
        self.promote(name, to);
        self.start_if_wanted(name, to);
    }

    fn end_fence(&mut self, name: &str, site: Site) {
        self.stop_guest(name, site);
        let Some(side) = self.vms.get_mut(name).map(|vm| &mut vm.sides[site]) else {
            return;
        };
        let Some(register) = &mut side.register else {
            return;
        };
        if register.start.take().is_some() {
            // S11: after any start there is no way back to the old content.
            side.disk.whole = false;
            side.disk.before = None;
        }
        register.fencing = false;
        register.fence = Some(register.mark.epoch);
        side.active_since = None;
    }

    fn replicate(&mut self, name: &str, site: Site) {
        let takes = self.takes_data(name, site);
        let now = self.now;
        let to = site.other();
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        let owner = vm.sides[site].role() == Some(Role::Owner)
            && !vm.sides[site]
                .register
                .as_ref()
                .is_some_and(Register::uncommitted);
        let passes_fail = vm.sides[site].pass_fails.clone();
        let side = &mut vm.sides[site];
        let Some(replication) = &mut side.replication else {
            return;
        };
        if replication.paused || !owner {
            return;
        }
        if let Some(why) = takes.err().or(passes_fail) {
            replication.pass = None;
            replication.failing = Some(why);
            return;
        }
        replication.failing = None;
        let Some(pass) = &mut replication.pass else {
            replication.pass = Some(Pass {
                failover: replication.failover.clone(),
                beats_left: PASS_BEATS,
                records: side.disk.records.clone(),
                taken_at: now,
            });
            let there = &mut vm.sides[to].disk;
            if there.whole && there.before.is_none() {
                there.before = Some(there.records.clone());
            }
            there.whole = false;
            return;
        };
        if pass.beats_left > 1 {
            pass.beats_left -= 1;
            return;
        }
        let pass = pass.clone();
        replication.pass = None;
        let (sent, changed) = self.overwrite(name, site, pass.records);
        if let Some(replication) = self
            .vms
            .get_mut(name)
            .and_then(|vm| vm.sides[site].replication.as_mut())
        {
            replication.sent += sent;
            replication.changed += changed;
            replication.last = Some(Whole {
                failover: pass.failover,
                point: pass.taken_at,
            });
        }
    }
}

impl super::Side {
    /// Whether the guest should run here, and does not.
    pub(super) fn is_left_down(&self) -> bool {
        let should = |own: &Register| own.role == Role::Owner && own.should_run;
        !self.running && self.register.as_ref().is_some_and(should)
    }

    /// The order whose operation runs.
    pub(super) fn running_order(&self) -> Option<&Order> {
        let last = self.register.as_ref()?.last.as_ref()?;
        (last.state == OperationState::Running).then_some(&last.message.order)
    }
}

impl Simulation {
    /// Bytes that one site has sent so far.
    #[must_use]
    pub fn sent(&self, name: &str, from: Site) -> u64 {
        self.effects
            .iter()
            .filter(|effect| effect.vm == name && effect.site == from)
            .map(|effect| match effect.what {
                Happening::Sent(bytes) => bytes,
                _ => 0,
            })
            .sum()
    }
}
