//! The register: a whole move, each refusal, and a world of hosts, operators, crashes and late orders.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::agent::api::{
    Boot, Claim, Command, CommitRecord, DeliverMode, DiskDefinition, DiskShape, FenceRecord,
    ManifestSource, OrderResult, PeerAddress, PowerSwitch, StartRecord, StepId, StopProof,
    StopRecord,
};

mod world;

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
        SessionRequest {
            vm: VM,
            id,
            names: &[from.name.into()],
        },
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
            on_other_disks: false,
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
        on_other_disks: false,
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
    // A record of an earlier move, of another host, of another VM.
    for (vm, epoch, host) in [
        (VM, 1, az.name),
        (VM, 2, HOSTS[2]),
        (Uuid::from_u128(8), 2, az.name),
    ] {
        let forged = CommitRecord {
            vm,
            epoch,
            host: host.into(),
            failover: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let retired = hv.order(&order(2, 5, Command::Retire { commit: forged }));
        assert_eq!(
            kind(retired),
            RefusalKind::WrongRecord,
            "{vm} {epoch} {host}"
        );
    }
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
    let stop = Command::Stop {
        target: az.name.into(),
        force: false,
    };
    // One that should run and does not would be left off for good.
    assert_eq!(
        kind(hv.order(&order(2, 1, stop.clone()))),
        RefusalKind::NotRunning
    );
    hv.register.as_mut().unwrap().desired_power = PowerSwitch::Off;
    hv.order(&order(2, 1, stop)).unwrap();
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
            names: &[HOSTS[0].into()],
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
fn s09_only_the_owner_sends_data_and_not_from_far_beyond() {
    let (mut hv, mut az, mut issued) = moved();
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    let commit = az.register.as_ref().unwrap().commit.clone().unwrap();
    az.settle(&mut issued);
    hv.order(&order(2, 5, Command::Retire { commit })).unwrap();
    hv.settle(&mut issued);
    let ask = |host: &Host, name: &str, epoch| {
        let session = SessionRequest {
            vm: VM,
            id: StepId { epoch, step: 9 },
            names: &[name.into()],
        };
        admit_session(host.register.as_ref(), session, Timestamp::UNIX_EPOCH)
            .map_err(|refusal| refusal.kind)
    };
    assert!(
        ask(&hv, HOSTS[1], 2).is_ok(),
        "whose commit it retired after"
    );
    assert!(ask(&hv, HOSTS[1], 3).is_ok(), "its next stop");
    assert!(
        ask(&hv, HOSTS[1], 18).is_ok(),
        "orders that never came here have taken the owner further"
    );
    for stranger in [HOSTS[0], "hv99"] {
        assert_eq!(ask(&hv, stranger, 2), Err(RefusalKind::NotAllowed));
    }
    for beyond in [19, u64::MAX] {
        assert_eq!(ask(&hv, HOSTS[1], beyond), Err(RefusalKind::WrongEpoch));
    }
    hv.register.as_mut().unwrap().owner = None;
    assert_eq!(ask(&hv, HOSTS[1], 2), Err(RefusalKind::NotAllowed));
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
