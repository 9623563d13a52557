//! What people, scripts and alerts read: the conditions of a VM at rest, and of one in the middle of a move, in each situation that a runbook
//! is about.
//!
//! `INSTA_UPDATE=always cargo test --test decide conditions` writes the tables anew; they are reviewed like code.

use homeward::api::{Approval, FailoverPhase, FailoverStatus, ProtectedVirtualMachineStatus, Site};
use homeward::domain::{
    BySite, Connection, CurrentFailover, Decision, Fact, FailoverView, MissingJob, PerhapsDown,
    Power, ProtectionState, Stage, VaultView, VmObservation, World, decide,
};
use homeward::driver::simulated::agents_like;

use super::store::{Store, spec};
use super::tables::{Asked, FROM, TO, claim, observation, world};
use super::view::intent;

/// One situation: what is seen, and what a person has asked for.
#[derive(Clone)]
struct Situation {
    name: &'static str,
    vm: Fact<VmObservation>,
    sites: BySite<Connection>,
    status: ProtectedVirtualMachineStatus,
    placement: Site,
    suspend: bool,
    earlier_owner: Option<&'static str>,
    seen_running: Option<&'static str>,
}

fn situations(store: &Store) -> Vec<Situation> {
    let mut list = Vec::new();
    let at_rest = VmObservation {
        failovers: BySite::default(),
        power: BySite {
            on_premises: Fact::Known(Power::On),
            azure: Fact::Known(Power::Off),
        },
        ..observation(&Fact::Known(Stage::Settled { site: FROM }), &claim(store))
    };
    let usual = Situation {
        name: "protected, where it should be",
        vm: Fact::Known(at_rest.clone()),
        sites: BySite::from_fn(|_| Connection::Connected),
        status: ProtectedVirtualMachineStatus::default(),
        placement: FROM,
        suspend: false,
        earlier_owner: None,
        seen_running: None,
    };
    list.push(usual.clone());
    let mut add = |name, change: &dyn Fn(&mut Situation, &mut VmObservation)| {
        let (mut situation, mut vm) = (usual.clone(), at_rest.clone());
        situation.name = name;
        change(&mut situation, &mut vm);
        if matches!(situation.vm, Fact::Known(_)) {
            situation.vm = Fact::Known(vm);
        }
        list.push(situation);
    };
    let state = |vm: &mut VmObservation, state| {
        if let Fact::Known(protection) = &mut vm.protection {
            protection.state = state;
        }
    };
    add("replication fails", &|_, vm| {
        state(vm, ProtectionState::Failing("az01: no space".into()));
    });
    add("the first replica is being made", &|_, vm| {
        state(vm, ProtectionState::Seeding);
        vm.target_consistent = Fact::Known(false);
        if let Fact::Known(protection) = &mut vm.protection {
            protection.last_whole = None;
        }
    });
    add("the next recovery point is overdue", &|_, vm| {
        if let Fact::Known(protection) = &mut vm.protection {
            protection.overdue = true;
        }
    });
    add("replication is paused", &|_, vm| {
        state(vm, ProtectionState::Paused);
    });
    add(
        "a pass broke off where nothing brings the old back",
        &|_, vm| {
            vm.target_consistent = Fact::Known(false);
        },
    );
    add("the passive host does not say what it holds", &|_, vm| {
        vm.target_consistent = Fact::Unknown("az01 does not answer".into());
    });
    add("the passive site does not answer", &|it, vm| {
        it.sites.azure = Connection::Disconnected("host az01: refused".into());
        vm.stage = Fact::Unknown("host az01 to answer: refused".into());
        vm.target_consistent = Fact::Unknown("host az01: refused".into());
    });
    add(
        "both sites answer and something is not known all the same",
        &|_, vm| {
            vm.stage = Fact::Unknown("hv02 to be looked at".into());
        },
    );
    add("the sites contradict each other", &|_, vm| {
        vm.stage = Fact::Known(Stage::Contradiction {
            seen: "(what each side says)".into(),
        });
    });
    add(
        "the owner's register is gone, and was seen before",
        &|it, vm| {
            it.status.epoch = Some(9);
            vm.stage = Fact::Known(Stage::Contradiction {
                seen: "(one has none, the other is a replica)".into(),
            });
        },
    );
    add(
        "one host has no register any more, the other is a replica",
        &|it, vm| {
            it.status.epoch = Some(9);
            vm.marks.on_premises = Fact::Absent;
            vm.claims.on_premises = Fact::Absent;
            vm.stage = Fact::Known(Stage::Contradiction {
                seen: "(one has none, the other is a replica)".into(),
            });
        },
    );
    add(
        "a register cannot be read, and was seen before",
        &|it, vm| {
            it.status.epoch = Some(9);
            vm.stage = Fact::Known(Stage::Unreadable {
                why: "the register on host hv01 to be mended: (why)".into(),
            });
        },
    );
    add("a look that is older than the last", &|it, _| {
        it.status.epoch = Some(9);
    });
    add("no host has a register", &|_, vm| vm.stage = Fact::Absent);
    add("the guest should run and does not", &|_, vm| {
        vm.power.on_premises = Fact::Known(Power::Off);
        vm.down_because = Some("the guest should run and does not: (why)".into());
    });
    add("claimed by another cluster", &|_, vm| {
        let other = homeward::domain::Claim {
            cluster: "elsewhere".into(),
            vm_uid: "other".into(),
        };
        vm.claims = BySite::from_fn(|_| Fact::Known(other.clone()));
    });
    add("another resource came first", &|it, vm| {
        it.earlier_owner = Some("team-a/vm");
        vm.claims = BySite::from_fn(|_| Fact::Absent);
    });
    add("autostart is on", &|_, vm| {
        vm.obstacles = vec!["hv01: autostart is true".into()];
    });
    add("a disk cannot be protected", &|_, vm| {
        vm.protection_obstacles = vec!["disk data has no disk to go to on az01".into()];
    });
    add("its own host is not heard", &|_, vm| {
        vm.host_silent = Some("provider hv01 is NotConnected, last heard long ago".into());
    });
    add("somebody else's operation is under way", &|_, vm| {
        vm.busy = Some("job r of the service, which works on the VM: Resynchronize".into());
    });
    for is_stuck in [false, true] {
        let name = if is_stuck {
            "a job holds it and is not told of any more"
        } else {
            "a job is not told of for a moment"
        };
        add(name, &|_, vm| {
            vm.missing_job = Some(MissingJob {
                what: "job j of the service to be told of again: (why)".into(),
                is_stuck,
            });
        });
    }
    for seen_running in [None, Some("J")] {
        let name = if seen_running.is_some() {
            "a person has seen it run since"
        } else {
            "an operation that broke off had told it to stop"
        };
        add(name, &|it, vm| {
            it.seen_running = seen_running;
            vm.power.on_premises = Fact::Unknown("the service does not tell".into());
            vm.perhaps_down = Some(PerhapsDown {
                job: "j".into(),
                what: "job j of the service told the VM to stop, and then failed".into(),
            });
        });
    }
    // S7: no register is told that a move is over while its job may go on.
    add(
        "a job out of sight, of a move that the registers name",
        &|_, vm| {
            vm.failovers = BySite::from_fn(|_| Some("fo-gone".into()));
            vm.missing_job = Some(MissingJob {
                what: "job j of the service to be told of again: (why)".into(),
                is_stuck: true,
            });
        },
    );
    add("a plan of the service moves it with others", &|_, vm| {
        vm.led_elsewhere = Some("recovery plan p of the service".into());
    });
    add("the VM is not known", &|it, _| it.vm = Fact::Absent);
    add("the VM has not been looked at", &|it, _| {
        it.vm = Fact::Unknown("the first look".into());
    });
    add("suspended", &|it, _| {
        it.suspend = true;
        it.placement = TO;
    });
    list
}

fn decided(situation: &Situation, store: &Store, moving: Option<FailoverPhase>) -> Decision {
    let pvm = store.pvm.as_ref().unwrap();
    let mut intent = intent(pvm);
    intent.placement = moving.map_or(situation.placement, |_| TO);
    intent.suspend = situation.suspend;
    intent.seen_running = situation.seen_running.map(Into::into);
    let asked = Asked::new(pvm.uid.clone());
    let status = FailoverStatus {
        phase: moving,
        ..FailoverStatus::default()
    };
    let vm = match &situation.vm {
        Fact::Known(vm) => Fact::Known(vm),
        Fact::Absent => Fact::Absent,
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    };
    let vault = VaultView {
        renamed: None,
        sites: &situation.sites,
        capabilities: &agents_like(),
        vm,
    };
    let failover = moving.map_or(CurrentFailover::None, |_| {
        CurrentFailover::Known(FailoverView {
            start_held_because: (moving == Some(FailoverPhase::AwaitingStart))
                .then_some("the last one failed"),
            ..asked.view(&status)
        })
    });
    decide(&World {
        earlier_owner: situation.earlier_owner,
        ..world(&intent, &situation.status, failover, vault, claim(store))
    })
}

fn shown(decision: &Decision) -> String {
    let mut text = format!("  {:?}\n", decision.status.phase.unwrap());
    for event in &decision.events {
        let kind = if event.warning { "Warning" } else { "Normal" };
        text += &format!("    event {kind} {}\n", event.reason);
    }
    for condition in &decision.status.conditions {
        text += &format!(
            "    {:17} {:8} {:22} {}\n",
            condition.type_, condition.status, condition.reason, condition.message
        );
    }
    text
}

fn table(moving: Option<FailoverPhase>) -> String {
    table_with(moving, Approval::Manual)
}

fn table_with(moving: Option<FailoverPhase>, cutover: Approval) -> String {
    let mut wanted = spec(FROM);
    wanted.cutover = cutover;
    let store = Store::new(wanted);
    let told = situations(&store).into_iter().map(|situation| {
        let decision = decided(&situation, &store, moving);
        format!("{}\n{}", situation.name, shown(&decision))
    });
    told.collect()
}

#[test]
fn of_a_vm_at_rest() {
    insta::assert_snapshot!(table(None));
}

/// The move before it may have left the VM down.
#[test]
fn of_a_vm_whose_next_move_is_held() {
    insta::assert_snapshot!(table(Some(FailoverPhase::AwaitingStart)));
}

#[test]
fn of_a_vm_that_waits_for_its_cutover() {
    insta::assert_snapshot!(table(Some(FailoverPhase::AwaitingCutover)));
}

/// What holds the stop of the VM when nobody has to approve it.
#[test]
fn s20_of_a_vm_whose_cutover_needs_no_answer() {
    let waits = Some(FailoverPhase::AwaitingCutover);
    insta::assert_snapshot!(table_with(waits, Approval::Automatic));
}

/// The index of the runbooks names reasons: each of them is shown in some situation, at rest or in a move.
#[test]
fn s08_every_reason_that_a_runbook_is_about_is_shown() {
    let index = include_str!("../../docs/runbooks/README.md");
    let rows = index.lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.trim_start_matches("| ").split_once(" |"));
    let words: Vec<&str> = first
        .flat_map(|(reasons, _)| reasons.split('`').skip(1).step_by(2))
        .collect();
    let shown = table(None) + &table(Some(FailoverPhase::AwaitingCutover));
    // Tables of their own: an action that fails is one that was asked for.
    let elsewhere = ["ActionFailed"];
    for reason in words.iter().filter(|word| !elsewhere.contains(word)) {
        assert!(shown.contains(*reason), "{reason}");
    }
    assert!(words.len() > 5, "{words:?}");
}
