//! The register: a whole move, each refusal, and a world of hosts, operators, crashes and late orders.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::agent::api::{
    Boot, DeliverMode, DiskDefinition, DiskShape, ManifestSource, PeerAddress, StopProof,
};

const VM: Uuid = Uuid::from_u128(7);
const HOSTS: [&str; 3] = ["hv01", "az01", "hv02"];

fn definition() -> VmDefinition {
    VmDefinition {
        uuid: VM,
        name: "app".into(),
        cpus: 1,
        memory_mib: 64,
        disks: vec![DiskDefinition {
            id: "root".into(),
            path: "/d".into(),
            size_bytes: Some(1024),
        }],
        networks: vec![],
        boot: Boot::Disk,
        autostart: false,
    }
}

fn peer(host: &str) -> PeerAddress {
    PeerAddress {
        host: host.into(),
        control: String::new(),
        data: "127.0.0.1:1".into(),
    }
}

fn roots(content: u8) -> Roots {
    BTreeMap::from([("root".to_owned(), Root([content; 32]))])
}

fn claim(operator: u8) -> Claim {
    Claim {
        cluster: "c".into(),
        pvm: format!("p{operator}"),
    }
}

/// One host in the model: its register, what really runs, and what an agent that has not died would still do.
#[derive(Clone, Debug)]
struct Host {
    name: &'static str,
    definition: Option<VmDefinition>,
    register: Option<Register>,
    running: bool,
    whole: bool,
    content: u8,
    pending: Option<(Order, u8)>,
}

impl Host {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            definition: None,
            register: None,
            running: false,
            whole: false,
            content: 0,
            pending: None,
        }
    }

    fn admit(&self, order: &Order) -> Result<Admission, Refusal> {
        let held = roots(self.content);
        let facts = Facts {
            host: self.name,
            boot_id: "boot",
            now: Timestamp::UNIX_EPOCH,
            definition: self.definition.as_ref(),
            power: if self.running {
                Power::Running
            } else {
                Power::Off
            },
            content: self.whole.then_some(&held),
        };
        admit(self.register.as_ref(), order, &facts)
    }

    /// Admits and, if that is accepted, leaves the execution pending.
    fn order(&mut self, order: &Order) -> Result<(), Refusal> {
        if let Admission::Accepted(next) = self.admit(order)? {
            if self.pending.take().is_some() {
                self.interrupt();
            }
            // The interrupted register is the one that is replaced; admission is repeated on it as the agent does.
            self.register = Some(*next);
            self.pending = Some((order.clone(), 0));
        }
        Ok(())
    }

    fn interrupt(&mut self) {
        if let Some(register) = &self.register
            && let Some(next) = complete(
                register,
                register.id(),
                Ending::Interrupted("agent ended".into()),
                Timestamp::UNIX_EPOCH,
            )
        {
            self.register = Some(next);
        }
    }

    fn may_run(&self) -> bool {
        may_run(self.register.as_ref())
    }

    /// The next single effect or sync of the pending order; records that it issues go to the pool.
    fn advance(&mut self, issued: &mut Issued) {
        let Some((order, stage)) = self.pending.clone() else {
            return;
        };
        let now = Timestamp::UNIX_EPOCH;
        let register = self
            .register
            .clone()
            .expect("a pending order has a register");
        let wants = register.desired_power == PowerSwitch::On;
        let result = match (&order.command, stage) {
            (Command::Stop { .. } | Command::Fence {}, 0) => {
                self.running = false;
                None
            }
            (Command::Stop { target, .. }, _) => {
                let record = StopRecord {
                    vm: VM,
                    epoch: order.epoch,
                    host: self.name.into(),
                    target: target.clone(),
                    proof: StopProof::ProcessGone,
                    was_running: wants,
                    roots: roots(self.content),
                    disks: vec![DiskShape {
                        id: "root".into(),
                        size_bytes: 1024,
                    }],
                    manifest: ManifestSource::Read,
                    at: now,
                };
                issued.stops.push(record.clone());
                Some(OrderResult::Stopped { record })
            }
            (Command::Fence {}, _) => {
                let record = FenceRecord {
                    vm: VM,
                    epoch: order.epoch,
                    host: self.name.into(),
                    was_started: register.start.is_some(),
                    at: now,
                };
                issued.fences.push(record.clone());
                Some(OrderResult::Fenced { record })
            }
            (Command::Start { stop }, 0) => {
                if register.role == Role::Replica {
                    let start = StartRecord {
                        epoch: order.epoch,
                        roots: stop.roots.clone(),
                        left_off: !wants,
                        at: now,
                    };
                    self.register = Some(
                        promote(&register, order.id(), start, now)
                            .expect("the start is the last order"),
                    );
                }
                None
            }
            (Command::Start { .. } | Command::Resume { .. }, 1) | (Command::Resume { .. }, 0) => {
                if wants {
                    self.run();
                }
                None
            }
            (Command::Start { .. }, _) => Some(OrderResult::Started {
                record: register.start.clone().expect("started"),
            }),
            (Command::Resume { .. }, _) => Some(OrderResult::Resumed {
                running: self.running,
            }),
            (Command::Power { state, .. }, _) => {
                match state {
                    PowerSwitch::On => self.run(),
                    PowerSwitch::Off => self.running = false,
                }
                Some(OrderResult::Powered { state: *state })
            }
            (Command::Commit {}, _) => {
                let record = register.commit.clone().expect("committed");
                issued.commits.push(record.clone());
                Some(OrderResult::Committed { record })
            }
            (Command::Enroll { definition, .. }, _) => {
                self.definition = Some(*definition.clone());
                Some(OrderResult::Enrolled { created: vec![] })
            }
            _ => Some(OrderResult::Released {}),
        };
        match result {
            None => self.pending = Some((order, stage + 1)),
            Some(result) => {
                let register = self.register.clone().expect("register");
                self.register = complete(&register, order.id(), Ending::Succeeded(result), now);
                assert!(self.register.is_some());
                self.pending = None;
            }
        }
    }

    fn run(&mut self) {
        self.running = true;
        self.whole = false;
        self.content = self.content.wrapping_add(1).max(1);
    }

    /// The agent dies and comes back: it starts nothing by itself.
    fn crash(&mut self) {
        if self.pending.take().is_some() {
            self.interrupt();
        }
    }

    /// The whole host dies and comes back: owners that were on are started again.
    fn reboot(&mut self) {
        self.running = false;
        self.crash();
        if self.may_run()
            && self
                .register
                .as_ref()
                .is_some_and(|register| register.desired_power == PowerSwitch::On)
        {
            self.run();
        }
    }

    fn settle(&mut self, issued: &mut Issued) {
        while self.pending.is_some() {
            self.advance(issued);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Issued {
    stops: Vec<StopRecord>,
    commits: Vec<CommitRecord>,
    fences: Vec<FenceRecord>,
}

fn order(epoch: u64, step: u64, command: Command) -> Order {
    Order {
        vm: VM,
        epoch,
        step,
        claim: Some(claim(0)),
        failover: Some("f0".into()),
        command,
    }
}

fn owner_and_replica() -> (Host, Host, Issued) {
    let (mut hv, mut az, mut issued) =
        (Host::new(HOSTS[0]), Host::new(HOSTS[1]), Issued::default());
    hv.definition = Some(definition());
    hv.running = true;
    hv.content = 5;
    hv.order(&order(1, 1, Command::Adopt { takeover: None }))
        .unwrap();
    hv.settle(&mut issued);
    az.order(&order(
        1,
        2,
        Command::Enroll {
            definition: Box::new(definition()),
            owner: peer(HOSTS[0]),
        },
    ))
    .unwrap();
    az.settle(&mut issued);
    (hv, az, issued)
}

fn deliver(from: &Host, to: &mut Host, step: u64) -> Result<(), Refusal> {
    let register = from.register.as_ref().unwrap();
    let id = StepId {
        epoch: register.epoch,
        step,
    };
    if let Some(next) = admit_session(
        to.register.as_ref(),
        SessionRequest { vm: VM, id },
        Timestamp::UNIX_EPOCH,
    )? {
        to.register = Some(next);
    }
    to.content = from.content;
    to.whole = true;
    Ok(())
}

/// Owner hv01 stopped, az01 started, not committed.
fn moved() -> (Host, Host, Issued) {
    let (mut hv, mut az, mut issued) = owner_and_replica();
    hv.order(&order(
        2,
        1,
        Command::Stop {
            target: az.name.into(),
            force: false,
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    deliver(&hv, &mut az, 2).unwrap();
    az.order(&order(
        2,
        3,
        Command::Start {
            stop: issued.stops[0].clone(),
        },
    ))
    .unwrap();
    az.settle(&mut issued);
    (hv, az, issued)
}

fn kind(answer: Result<(), Refusal>) -> RefusalKind {
    answer.expect_err("must be refused").kind
}

#[test]
fn a_move_there_and_back() {
    let (mut hv, mut az, mut issued) = moved();
    assert!(az.running && !hv.running && az.may_run() && !hv.may_run());
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    az.settle(&mut issued);
    hv.order(&order(
        2,
        5,
        Command::Retire {
            commit: issued.commits[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert_eq!(hv.register.as_ref().unwrap().role, Role::Replica);
    // And back, as another failover at a new epoch.
    let back = |epoch, step, command| Order {
        failover: Some("f1".into()),
        ..order(epoch, step, command)
    };
    az.order(&back(
        3,
        1,
        Command::Stop {
            target: hv.name.into(),
            force: false,
        },
    ))
    .unwrap();
    az.settle(&mut issued);
    deliver(&az, &mut hv, 1).unwrap();
    hv.order(&back(
        3,
        2,
        Command::Start {
            stop: issued.stops[1].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert!(hv.running && !az.running);
}

#[test]
fn s01_an_equal_epoch_with_another_failover_is_refused() {
    let (mut hv, ..) = owner_and_replica();
    let other = Order {
        failover: Some("f9".into()),
        ..order(1, 9, Command::Pause {})
    };
    assert_eq!(kind(hv.order(&other)), RefusalKind::OtherFailover);
    let release = Order {
        failover: Some("f0".into()),
        ..order(1, 9, Command::Release {})
    };
    hv.order(&release).unwrap();
    hv.settle(&mut Issued::default());
    hv.order(&Order { step: 10, ..other }).unwrap();
}

#[test]
fn s01_a_claim_moves_only_by_takeover() {
    let (mut hv, ..) = owner_and_replica();
    let theirs = |step, command| Order {
        claim: Some(claim(1)),
        failover: None,
        ..order(1, step, command)
    };
    assert_eq!(
        kind(hv.order(&theirs(9, Command::Pause {}))),
        RefusalKind::Claimed
    );
    assert_eq!(
        kind(hv.order(&theirs(9, Command::Adopt { takeover: None }))),
        RefusalKind::Claimed
    );
    assert_eq!(
        kind(hv.order(&theirs(
            9,
            Command::Adopt {
                takeover: Some(claim(2))
            }
        ))),
        RefusalKind::Claimed
    );
    hv.order(&theirs(
        9,
        Command::Adopt {
            takeover: Some(claim(0)),
        },
    ))
    .unwrap();
    hv.settle(&mut Issued::default());
    assert_eq!(
        kind(hv.order(&order(1, 10, Command::Pause {}))),
        RefusalKind::Claimed
    );
    hv.order(&theirs(10, Command::Pause {})).unwrap();
    assert!(hv.running, "a takeover touches no guest");
}

#[test]
fn s01_a_third_host_cannot_let_the_source_resume() {
    let (mut hv, az, mut issued) = moved();
    let mut third = Host::new(HOSTS[2]);
    third.order(&order(3, 1, Command::Fence {})).unwrap();
    third.settle(&mut issued);
    let resume = order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    );
    assert_eq!(kind(hv.order(&resume)), RefusalKind::WrongRecord);
    assert!(az.running);
}

#[test]
fn s02_old_steps_are_refused_and_equal_ones_return_what_is_recorded() {
    let (mut hv, _, mut issued) = owner_and_replica();
    let stop = order(
        2,
        1,
        Command::Stop {
            target: HOSTS[1].into(),
            force: false,
        },
    );
    hv.order(&stop).unwrap();
    hv.settle(&mut issued);
    assert_eq!(
        kind(hv.order(&order(1, 99, Command::Pause {}))),
        RefusalKind::Stale
    );
    let other = order(
        2,
        1,
        Command::Stop {
            target: HOSTS[1].into(),
            force: true,
        },
    );
    assert_eq!(kind(hv.order(&other)), RefusalKind::StepReused);
    let Ok(Admission::Known(known)) = hv.admit(&stop) else {
        panic!("not replayed")
    };
    assert_eq!(
        known.result,
        Some(OrderResult::Stopped {
            record: issued.stops[0].clone()
        })
    );
}

#[test]
fn s02_a_start_delayed_past_the_fence_is_refused() {
    let (mut hv, mut az, mut issued) = owner_and_replica();
    hv.order(&order(
        2,
        1,
        Command::Stop {
            target: az.name.into(),
            force: false,
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    deliver(&hv, &mut az, 2).unwrap();
    let late = order(
        2,
        3,
        Command::Start {
            stop: issued.stops[0].clone(),
        },
    );
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    az.settle(&mut issued);
    assert_eq!(kind(az.order(&late)), RefusalKind::Stale);
    hv.order(&order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert_eq!(kind(az.order(&late)), RefusalKind::Stale);
    let renumbered = order(
        3,
        9,
        Command::Start {
            stop: issued.stops[0].clone(),
        },
    );
    assert_eq!(kind(az.order(&renumbered)), RefusalKind::WrongEpoch);
    assert!(hv.running && !az.running);
}

#[test]
fn s02_turning_back_needs_the_targets_fence() {
    let (mut hv, mut az, mut issued) = moved();
    let forged = FenceRecord {
        vm: VM,
        epoch: 2,
        host: az.name.into(),
        was_started: false,
        at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        kind(hv.order(&order(
            2,
            9,
            Command::Resume {
                fence: forged.clone()
            }
        ))),
        RefusalKind::WrongEpoch
    );
    assert_eq!(
        kind(hv.order(&order(3, 9, Command::Resume { fence: forged }))),
        RefusalKind::WrongEpoch
    );
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    // The fence is synced, the guest still runs: there is no record yet, and nothing else may happen here.
    assert!(az.running && issued.fences.is_empty() && !az.may_run());
    assert_eq!(
        kind(az.order(&order(3, 2, Command::Undo {}))),
        RefusalKind::WrongRole
    );
    az.settle(&mut issued);
    assert!(issued.fences[0].was_started && !az.running);
    hv.order(&order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    assert!(hv.running);
}

#[test]
fn s03_a_start_needs_the_record_and_the_content() {
    let (mut hv, mut az, mut issued) = owner_and_replica();
    hv.order(&order(
        2,
        1,
        Command::Stop {
            target: az.name.into(),
            force: false,
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    let stop = issued.stops[0].clone();
    let start = |stop: &StopRecord, epoch| order(epoch, 9, Command::Start { stop: stop.clone() });
    assert_eq!(
        kind(az.order(&start(&stop, 2))),
        RefusalKind::ContentMismatch
    );
    deliver(&hv, &mut az, 2).unwrap();
    assert_eq!(kind(az.order(&start(&stop, 3))), RefusalKind::WrongEpoch);
    assert_eq!(
        kind(az.order(&start(
            &StopRecord {
                target: HOSTS[2].into(),
                ..stop.clone()
            },
            2
        ))),
        RefusalKind::WrongRecord
    );
    az.content += 1;
    assert_eq!(
        kind(az.order(&start(&stop, 2))),
        RefusalKind::ContentMismatch
    );
    az.content -= 1;
    let mut more = stop.clone();
    more.disks.push(DiskShape {
        id: "data".into(),
        size_bytes: 512,
    });
    assert_eq!(
        kind(az.order(&start(&more, 2))),
        RefusalKind::DisksDiffer,
        "S14"
    );
    az.order(&start(&stop, 2)).unwrap();
}

#[test]
fn s03_a_silent_hypervisor_is_not_a_stopped_guest() {
    let (hv, ..) = owner_and_replica();
    let definition = definition();
    let facts = Facts {
        host: hv.name,
        boot_id: "boot",
        now: Timestamp::UNIX_EPOCH,
        definition: Some(&definition),
        power: Power::Unknown,
        content: None,
    };
    let stop = |force| {
        order(
            2,
            1,
            Command::Stop {
                target: HOSTS[1].into(),
                force,
            },
        )
    };
    let refused = admit(hv.register.as_ref(), &stop(false), &facts).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PowerUnknown);
    let Ok(Admission::Accepted(next)) = admit(hv.register.as_ref(), &stop(true), &facts) else {
        panic!("force")
    };
    assert_eq!(
        next.desired_power,
        PowerSwitch::On,
        "what was wanted is kept"
    );
}

#[test]
fn s04_a_missing_register_is_a_fence() {
    let mut host = Host::new(HOSTS[1]);
    host.definition = Some(definition());
    let stop = Command::Stop {
        target: HOSTS[0].into(),
        force: false,
    };
    for command in [
        Command::Power {
            state: PowerSwitch::On,
            force: false,
        },
        Command::Pause {},
        Command::Commit {},
        stop,
    ] {
        assert_eq!(
            kind(host.order(&order(1, 1, command))),
            RefusalKind::NoRegister
        );
    }
    assert!(!host.may_run());
}

#[test]
fn s04_registers_outlive_commit_and_detach() {
    let (mut hv, mut az, mut issued) = moved();
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    az.settle(&mut issued);
    hv.order(&order(
        2,
        5,
        Command::Retire {
            commit: issued.commits[0].clone(),
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    for host in [&mut hv, &mut az] {
        host.order(&Order {
            failover: None,
            ..order(2, 9, Command::Detach {})
        })
        .unwrap();
        host.settle(&mut issued);
        assert_eq!(host.register.as_ref().unwrap().claim, None);
    }
    assert!(az.running, "a detach touches no guest");
    let power = Command::Power {
        state: PowerSwitch::On,
        force: false,
    };
    assert_eq!(
        kind(hv.order(&Order {
            claim: None,
            ..order(2, 10, power)
        })),
        RefusalKind::WrongRole
    );
    assert_eq!(
        kind(hv.order(&order(2, 10, Command::Undo {}))),
        RefusalKind::NotClaimed
    );
}

#[test]
fn s04_a_definition_that_starts_itself_is_not_adopted() {
    let mut host = Host::new(HOSTS[0]);
    host.definition = Some(VmDefinition {
        autostart: true,
        ..definition()
    });
    assert_eq!(
        kind(host.order(&order(1, 1, Command::Adopt { takeover: None }))),
        RefusalKind::Autostart
    );
}

#[test]
fn s05_a_commit_needs_a_running_guest_and_ends_every_way_back() {
    let (mut hv, mut az, mut issued) = moved();
    az.running = false;
    assert_eq!(
        kind(az.order(&order(2, 4, Command::Commit {}))),
        RefusalKind::NotRunning
    );
    az.running = true;
    let forged = CommitRecord {
        vm: VM,
        epoch: 1,
        host: az.name.into(),
        failover: None,
        at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        kind(hv.order(&order(2, 5, Command::Retire { commit: forged }))),
        RefusalKind::WrongRecord
    );
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    az.settle(&mut issued);
    assert_eq!(
        kind(az.order(&order(3, 1, Command::Fence {}))),
        RefusalKind::Committed
    );
}

#[test]
fn s05_a_vm_that_was_off_is_committed_off() {
    let (mut hv, mut az, mut issued) = owner_and_replica();
    hv.running = false;
    hv.order(&order(
        2,
        1,
        Command::Stop {
            target: az.name.into(),
            force: false,
        },
    ))
    .unwrap();
    hv.settle(&mut issued);
    deliver(&hv, &mut az, 2).unwrap();
    az.order(&order(
        2,
        3,
        Command::Start {
            stop: issued.stops[0].clone(),
        },
    ))
    .unwrap();
    az.settle(&mut issued);
    assert!(!az.running && az.may_run());
    az.order(&order(2, 4, Command::Commit {})).unwrap();
}

#[test]
fn s09_older_data_sessions_are_refused() {
    let (hv, mut az, mut issued) = owner_and_replica();
    let ask = |host: &Host, epoch, step| {
        let session = SessionRequest {
            vm: VM,
            id: StepId { epoch, step },
        };
        admit_session(host.register.as_ref(), session, Timestamp::UNIX_EPOCH)
            .map_err(|refusal| refusal.kind)
    };
    assert_eq!(ask(&Host::new("x"), 1, 1), Err(RefusalKind::NoRegister));
    assert_eq!(ask(&hv, 1, 1), Err(RefusalKind::WrongRole));
    az.register = ask(&az, 1, 5).unwrap();
    assert_eq!(ask(&az, 1, 5), Ok(None));
    assert_eq!(ask(&az, 1, 4), Err(RefusalKind::Stale));
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    assert_eq!(
        ask(&az, 3, 1),
        Err(RefusalKind::WrongRole),
        "the fence has not ended"
    );
    az.settle(&mut issued);
    assert_eq!(ask(&az, 2, 9), Err(RefusalKind::Stale));
    assert!(ask(&az, 3, 1).is_ok());
}

#[test]
fn an_uncommitted_owner_neither_moves_on_nor_replicates() {
    let (_, mut az, _) = moved();
    let stop = Command::Stop {
        target: HOSTS[0].into(),
        force: false,
    };
    assert_eq!(kind(az.order(&order(3, 1, stop))), RefusalKind::WrongRole);
    let replicate = Command::Replicate {
        peer: peer(HOSTS[0]),
        interval_seconds: 5,
        immediate: false,
    };
    assert_eq!(
        kind(az.order(&order(2, 9, replicate))),
        RefusalKind::WrongRole
    );
    let elsewhere = Order {
        failover: None,
        ..order(2, 9, Command::Detach {})
    };
    assert_eq!(kind(az.order(&elsewhere)), RefusalKind::OtherFailover);
}

// ------------------------------------------------------------------------------------------- the world

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
                    Role::Owner => [false, true, false],
                    Role::Fenced => [true, false, true],
                    Role::Replica => [false, true, false],
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
        events.iter().for_each(|event| world.apply(event));
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
