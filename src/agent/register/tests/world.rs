//! Three hosts, two operators, late orders and crashes: at no time do two registers let the guest run.

use proptest::prelude::*;

use super::host::*;
use super::*;

#[derive(Clone, Debug)]
enum Event {
    Order {
        host: usize,
        other: usize,
        operator: u8,
        failover: u8,
        command: u8,
        epoch: u8,
        step: u8,
        record: usize,
        flag: bool,
    },
    Advance {
        host: usize,
    },
    Crash {
        host: usize,
    },
    Reboot {
        host: usize,
    },
    GuestEnds {
        host: usize,
    },
    Deliver {
        from: usize,
        to: usize,
    },
    Late {
        host: usize,
        sent: usize,
    },
    /// What a driver that knows what it does would do next; `back` turns back where that is possible.
    Sensible {
        other: usize,
        back: bool,
    },
}

fn events() -> impl Strategy<Value = Event> {
    let host = || 0..HOSTS.len();
    prop_oneof![
        16 => (host(), (0..4u8)).prop_map(|(other, back)| Event::Sensible { other, back: back == 0 }),
        6 => (host(), host(), 0..8u8, 0..8u8, 0..14u8, 0..10u8, 0..8u8, 0..4usize, any::<bool>()).prop_map(
            |(host, other, operator, failover, command, epoch, step, record, flag)| Event::Order {
                // Mostly one operator and one failover, so that moves get far; sometimes a second of each.
                host, other, operator: operator / 7, failover: failover / 7, command, epoch, step, record, flag,
            }
        ),
        30 => host().prop_map(|host| Event::Advance { host }),
        1 => host().prop_map(|host| Event::Crash { host }),
        1 => host().prop_map(|host| Event::Reboot { host }),
        1 => host().prop_map(|host| Event::GuestEnds { host }),
        4 => (host(), host()).prop_map(|(from, to)| Event::Deliver { from, to }),
        2 => (host(), 0..64usize).prop_map(|(host, sent)| Event::Late { host, sent }),
    ]
}

struct World {
    hosts: Vec<Host>,
    issued: Issued,
    sent: Vec<(usize, Order)>,
    starts: usize,
}

impl World {
    fn new() -> Self {
        let mut hosts: Vec<_> = HOSTS.iter().map(|name| Host::new(name)).collect();
        hosts[0].definition = Some(definition());
        hosts[0].running = true;
        hosts[0].content = 1;
        Self {
            hosts,
            issued: Issued::default(),
            sent: vec![],
            starts: 0,
        }
    }

    fn make(&self, event: &Event) -> Option<(usize, Order)> {
        let Event::Order {
            host,
            other,
            operator,
            failover,
            command,
            epoch,
            step,
            record,
            flag,
        } = *event
        else {
            return None;
        };
        let newest = |len: usize| len.checked_sub(1 + record.min(len.saturating_sub(1)));
        let command = match command {
            0 => Command::Adopt {
                takeover: flag.then(|| claim(operator ^ 1)),
            },
            1 | 2 => Command::Enroll {
                definition: Box::new(definition()),
                owner: peer(HOSTS[other]),
            },
            3 | 4 => Command::Stop {
                target: HOSTS[other].into(),
                force: flag,
            },
            5 => Command::Deliver {
                peer: peer(HOSTS[other]),
                mode: DeliverMode::Delta,
            },
            6 | 7 => Command::Start {
                stop: self
                    .issued
                    .stops
                    .get(newest(self.issued.stops.len())?)?
                    .clone(),
            },
            8 => Command::Commit {},
            9 => Command::Retire {
                commit: self
                    .issued
                    .commits
                    .get(newest(self.issued.commits.len())?)?
                    .clone(),
            },
            10 => Command::Fence {},
            11 => Command::Resume {
                fence: self
                    .issued
                    .fences
                    .get(newest(self.issued.fences.len())?)?
                    .clone(),
            },
            12 => Command::Power {
                state: if flag {
                    PowerSwitch::On
                } else {
                    PowerSwitch::Off
                },
                force: false,
                on_other_disks: false,
            },
            _ if flag => Command::Release {},
            _ => Command::Detach {},
        };
        let highest = self
            .hosts
            .iter()
            .filter_map(|host| host.register.as_ref())
            .map(|register| register.epoch)
            .max()
            .unwrap_or(0);
        let own = self.hosts[host].register.as_ref();
        let (own_epoch, own_step) = own.map_or((1, 0), |register| (register.epoch, register.step));
        let natural = match &command {
            Command::Stop { .. } | Command::Fence {} => highest + 1,
            Command::Start { stop } => stop.epoch,
            Command::Resume { fence } => fence.epoch,
            Command::Enroll { .. } => highest.max(1),
            _ => own_epoch,
        };
        let epoch = match epoch {
            0..=6 => natural,
            7 => highest + 1,
            8 => own_epoch,
            _ => own_epoch.saturating_sub(1).max(1),
        };
        let step = match step {
            0..=5 => own_step + 1,
            6 => own_step.max(1),
            _ => own_step.saturating_sub(1).max(1),
        };
        let order = Order {
            vm: VM,
            epoch,
            step,
            claim: Some(claim(operator)),
            failover: (!matches!(command, Command::Detach {})).then(|| format!("f{failover}")),
            command,
        };
        Some((host, order))
    }

    fn sensible(&mut self, other: usize, back: bool) -> Option<(usize, Order)> {
        let registers: Vec<_> = self
            .hosts
            .iter()
            .map(|host| host.register.clone())
            .collect();
        let highest = registers
            .iter()
            .flatten()
            .map(|register| register.epoch)
            .max()
            .unwrap_or(0);
        let held = registers
            .iter()
            .flatten()
            .find_map(|register| register.failover.clone());
        let order = |at: usize, epoch: u64, command: Command| {
            let register = registers[at].as_ref();
            let step = register
                .filter(|register| register.epoch >= epoch)
                .map_or(1, |register| register.step + 1);
            let claim = register
                .and_then(|register| register.claim.clone())
                .unwrap_or_else(|| claim(0));
            Some((
                at,
                Order {
                    vm: VM,
                    epoch,
                    step,
                    claim: Some(claim),
                    failover: held.clone().or(Some("f0".into())),
                    command,
                },
            ))
        };
        let index = |name: &str| HOSTS.iter().position(|host| *host == name);
        let fenced = registers.iter().position(|register| {
            register
                .as_ref()
                .is_some_and(|register| register.role == Role::Fenced)
        });
        if let Some(from) = fenced {
            let source = registers[from].clone()?;
            let to = index(source.moving_to.as_deref()?)?;
            let Some(stop) = source.stop.clone() else {
                return order(
                    from,
                    source.epoch,
                    Command::Stop {
                        target: HOSTS[to].into(),
                        force: false,
                    },
                );
            };
            let target = registers[to].clone();
            if let Some(fence) = target
                .as_ref()
                .and_then(|target| target.fence.clone())
                .filter(|fence| fence.epoch > source.epoch)
            {
                return order(from, fence.epoch, Command::Resume { fence });
            }
            if let Some(commit) = target.as_ref().and_then(|target| target.commit.clone()) {
                return order(from, source.epoch, Command::Retire { commit });
            }
            if back
                || target
                    .as_ref()
                    .is_some_and(|target| target.epoch > source.epoch)
            {
                return order(to, highest + 1, Command::Fence {});
            }
            let Some(target) = target else {
                return order(
                    to,
                    highest,
                    Command::Enroll {
                        definition: Box::new(definition()),
                        owner: peer(HOSTS[from]),
                    },
                );
            };
            if uncommitted(&target) && self.hosts[to].running {
                return order(to, target.epoch, Command::Commit {});
            }
            if target.role == Role::Replica && self.hosts[to].pending.is_none() {
                let source = self.hosts[from].clone();
                let _refused_is_fine = deliver(&source, &mut self.hosts[to], stop.epoch);
            }
            return order(to, stop.epoch, Command::Start { stop });
        }
        let Some(from) = self.hosts.iter().position(Host::may_run) else {
            let at = (0..HOSTS.len()).find(|host| self.hosts[*host].definition.is_some())?;
            return order(at, highest + 1, Command::Adopt { takeover: None });
        };
        if registers[from]
            .as_ref()
            .is_some_and(|register| register.claim.is_none())
        {
            return order(
                from,
                registers[from].as_ref()?.epoch,
                Command::Adopt { takeover: None },
            );
        }
        match &registers[other] {
            _ if other == from => order(
                from,
                registers[from].as_ref()?.epoch,
                Command::Power {
                    state: PowerSwitch::On,
                    force: false,
                    on_other_disks: false,
                },
            ),
            None => order(
                other,
                highest,
                Command::Enroll {
                    definition: Box::new(definition()),
                    owner: peer(HOSTS[from]),
                },
            ),
            Some(_) => order(
                from,
                highest + 1,
                Command::Stop {
                    target: HOSTS[other].into(),
                    force: false,
                },
            ),
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Sensible { other, back } => {
                if let Some((host, order)) = self.sensible(other, back) {
                    self.sent.push((host, order.clone()));
                    let _refused_is_fine = self.hosts[host].order(&order);
                }
            }
            Event::Order { .. } => {
                if let Some((host, order)) = self.make(event) {
                    self.sent.push((host, order.clone()));
                    let _refused_is_fine = self.hosts[host].order(&order);
                }
            }
            Event::Late { host, sent } => {
                if !self.sent.is_empty() {
                    // A late copy, or one that reaches the wrong host.
                    let (meant, order) = self.sent[sent % self.sent.len()].clone();
                    let to = if sent % 3 == 0 { host } else { meant };
                    let _refused_is_fine = self.hosts[to].order(&order);
                }
            }
            Event::Advance { host } => {
                let before = self.hosts[host].may_run();
                self.hosts[host].advance(&mut self.issued);
                self.starts += usize::from(!before && self.hosts[host].may_run());
            }
            Event::Crash { host } => self.hosts[host].crash(),
            Event::Reboot { host } => self.hosts[host].reboot(),
            Event::GuestEnds { host } => self.hosts[host].running = false,
            Event::Deliver { from, to } => {
                let source = self.hosts[from].clone();
                if from != to
                    && source.register.as_ref().is_some_and(|register| {
                        register.role == Role::Fenced && register.stop.is_some()
                    })
                {
                    let step = source.register.as_ref().map_or(1, |register| register.step);
                    let _refused_is_fine = deliver(&source, &mut self.hosts[to], step);
                }
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let owners: Vec<_> = self
            .hosts
            .iter()
            .filter(|host| host.may_run())
            .map(|host| host.name)
            .collect();
        prop_assert!(
            owners.len() <= 1,
            "two registers let the guest run: {owners:?}"
        );
        let running: Vec<_> = self
            .hosts
            .iter()
            .filter(|host| host.running)
            .map(|host| host.name)
            .collect();
        prop_assert!(running.len() <= 1, "the guest runs twice: {running:?}");
        for host in &self.hosts {
            if let Some(register) = &host.register {
                let held = [
                    register.stop.is_some(),
                    register.commit.is_some(),
                    register.moving_to.is_some(),
                ];
                let may = match register.role {
                    Role::Owner | Role::Replica => [false, true, false],
                    Role::Fenced => [true, false, true],
                };
                prop_assert!(
                    held.iter().zip(may).all(|(held, may)| !held || may),
                    "{}: {:?} holds {held:?}",
                    host.name,
                    register.role
                );
            }
        }
        Ok(())
    }
}

/// `make test FULL=1` plays many more worlds.
fn cases() -> u32 {
    if std::env::var_os("HOMEWARD_FULL").is_some_and(|full| !full.is_empty()) {
        5000
    } else {
        250
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Two operators, two failovers, three hosts; late, stale, repeated and misdirected orders; agents that die between a sync and its
    /// effect; hosts that reboot: at no time do two registers let the guest run, and it never runs twice.
    #[test]
    fn s01_s02_s04_s05_one_right_to_run(events in prop::collection::vec(events(), 1..250)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
            world.check()?;
        }
    }
}

/// The world above is no use if nothing ever moves in it.
#[test]
fn the_world_moves() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut starts, mut commits, mut fences) = (0, 0, 0);
    for _ in 0..150 {
        let events = prop::collection::vec(events(), 250..251)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
        starts += world.starts;
        commits += world.issued.commits.len();
        fences += world.issued.fences.len();
    }
    println!("{starts} starts, {commits} commits, {fences} fences");
    assert!(
        starts > 50 && commits > 15 && fences > 50,
        "{starts} starts, {commits} commits, {fences} fences"
    );
}
