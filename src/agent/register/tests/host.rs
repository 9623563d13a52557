//! A host in the model, and how far one is brought before a test begins.

use super::*;

pub(super) const VM: Uuid = Uuid::from_u128(7);
pub(super) const HOSTS: [&str; 3] = ["hv01", "az01", "hv02"];

pub(super) fn definition() -> VmDefinition {
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

pub(super) fn peer(host: &str) -> PeerAddress {
    PeerAddress {
        host: host.into(),
        control: String::new(),
        data: "127.0.0.1:1".into(),
    }
}

pub(super) fn roots(content: u8) -> Roots {
    BTreeMap::from([("root".to_owned(), Root([content; 32]))])
}

pub(super) fn claim(operator: u8) -> Claim {
    Claim {
        cluster: "c".into(),
        pvm: format!("p{operator}"),
    }
}

/// One host in the model: its register, what really runs, and what an agent that has not died would still do.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) definition: Option<VmDefinition>,
    pub(super) register: Option<Register>,
    pub(super) running: bool,
    pub(super) whole: bool,
    pub(super) content: u8,
    pub(super) pending: Option<(Order, u8)>,
}

impl Host {
    pub(super) fn new(name: &'static str) -> Self {
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

    pub(super) fn admit(&self, order: &Order) -> Result<Admission, Refusal> {
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
            power_reason: None,
            content: self.whole.then_some(&held),
        };
        admit(self.register.as_ref(), order, &facts)
    }

    /// Admits and, if that is accepted, leaves the execution pending.
    pub(super) fn order(&mut self, order: &Order) -> Result<(), Refusal> {
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

    pub(super) fn interrupt(&mut self) {
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

    pub(super) fn may_run(&self) -> bool {
        may_run(self.register.as_ref())
    }

    /// The next single effect or sync of the pending order; records that it issues go to the pool.
    pub(super) fn advance(&mut self, issued: &mut Issued) {
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

    pub(super) fn run(&mut self) {
        self.running = true;
        self.whole = false;
        self.content = self.content.wrapping_add(1).max(1);
    }

    /// The agent dies and comes back: it starts nothing by itself.
    pub(super) fn crash(&mut self) {
        if self.pending.take().is_some() {
            self.interrupt();
        }
    }

    /// The whole host dies and comes back: owners that were on are started again.
    pub(super) fn reboot(&mut self) {
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

    pub(super) fn settle(&mut self, issued: &mut Issued) {
        while self.pending.is_some() {
            self.advance(issued);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Issued {
    pub(super) stops: Vec<StopRecord>,
    pub(super) commits: Vec<CommitRecord>,
    pub(super) fences: Vec<FenceRecord>,
}

pub(super) fn order(epoch: u64, step: u64, command: Command) -> Order {
    Order {
        vm: VM,
        epoch,
        step,
        claim: Some(claim(0)),
        failover: Some("f0".into()),
        command,
    }
}

pub(super) fn stop_to(host: &str) -> Command {
    Command::Stop {
        target: host.into(),
        force: false,
    }
}

pub(super) fn start_of(stop: &StopRecord) -> Command {
    Command::Start { stop: stop.clone() }
}

pub(super) fn owner_and_replica() -> (Host, Host, Issued) {
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

pub(super) fn deliver(from: &Host, to: &mut Host, step: u64) -> Result<(), Refusal> {
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

/// Owner hv01 stopped for a move to az01.
pub(super) fn stopped() -> (Host, Host, Issued) {
    let (mut hv, az, mut issued) = owner_and_replica();
    hv.order(&order(2, 1, stop_to(az.name))).unwrap();
    hv.settle(&mut issued);
    (hv, az, issued)
}

/// Owner hv01 stopped, az01 started, not committed.
pub(super) fn moved() -> (Host, Host, Issued) {
    let (hv, mut az, mut issued) = stopped();
    deliver(&hv, &mut az, 2).unwrap();
    az.order(&order(2, 3, start_of(&issued.stops[0]))).unwrap();
    az.settle(&mut issued);
    (hv, az, issued)
}

pub(super) fn kind(answer: Result<(), Refusal>) -> RefusalKind {
    answer.expect_err("must be refused").kind
}
