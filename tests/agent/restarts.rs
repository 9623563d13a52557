//! Agents that die between a sync and its effect, and hosts that reboot.

use std::fs;
use std::path::Path;

use homeward::agent::api::{
    CandidatesUsed, Command, ContentKind, DeliverMode, OperationErrorKind, OperationState, Order,
    OrderResult, Power, PowerSwitch, ProblemKind, Role,
};

use crate::site::{Host, Sites, VM};

/// Gives an order to an agent that dies at this place, starts the agent again, and gives the order anew.
async fn through(
    host: &mut Host,
    place: &str,
    order: Order,
    again: impl FnOnce() -> Order,
) -> OrderResult {
    host.failpoints.arm(place);
    let (client, vm, sent) = (host.client().clone(), order.vm, order.clone());
    let giving = tokio::spawn(async move { client.order(vm, &sent).await });
    tokio::time::timeout(
        std::time::Duration::from_secs(20),
        host.failpoints.reached(place),
    )
    .await
    .unwrap_or_else(|_| panic!("{place} was never reached"));
    host.kill();
    giving.abort();
    host.start();
    let operation = host.vm().await.operation.expect("the order is remembered");
    assert_eq!(
        (operation.epoch, operation.step),
        (order.epoch, order.step),
        "{place}"
    );
    assert_eq!(
        operation.state,
        OperationState::Interrupted,
        "{place}: {:?}",
        operation.error
    );
    assert!(
        host.state().await.found.interrupted.contains(&VM),
        "{place}"
    );
    host.ok(again()).await
}

macro_rules! die {
    ($sites:ident, $host:ident, $place:literal, $epoch:literal, $command:expr) => {{
        let (first, second) = (
            $sites.order($epoch, $command),
            $sites.order($epoch, $command),
        );
        through(&mut $sites.$host, $place, first, || second).await
    }};
}

async fn prepared() -> Sites {
    let sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 200_000, b"before the stop");
    sites
}

async fn die_in_stop(place: &str) {
    let mut sites = prepared().await;
    let (first, second) = (
        sites.order(
            2,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ),
        sites.order(
            2,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ),
    );
    let stopped = through(&mut sites.hv, place, first, || second).await;
    let OrderResult::Stopped { record } = stopped else {
        panic!("{stopped:?}")
    };
    assert!(record.was_running, "{place}");
    sites
        .hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer: sites.az.address(),
                mode: DeliverMode::Delta,
            },
        ))
        .await;
    sites
        .az
        .ok(sites.order(2, Command::Start { stop: record }))
        .await;
    sites.same_disks();
    assert!(sites.az.fake.running(VM));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_in_a_stop() {
    for place in [
        "Stop:admitted",
        "Stop:fenced",
        "Stop:off",
        "Stop:changes",
        "Stop:ended",
        "Stop:read",
        "Stop:done",
    ] {
        die_in_stop(place).await;
    }
}

async fn delivered() -> (Sites, homeward::agent::api::StopRecord) {
    let sites = prepared().await;
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    sites
        .hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer: sites.az.address(),
                mode: DeliverMode::Delta,
            },
        ))
        .await;
    (sites, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_in_a_delivery() {
    for place in ["Deliver:admitted", "Deliver:done"] {
        let mut sites = prepared().await;
        let record = sites.stop(&sites.hv, &sites.az, 2).await;
        let peer = sites.az.address();
        let deliver = |sites: &Sites| {
            sites.order(
                2,
                Command::Deliver {
                    peer: peer.clone(),
                    mode: DeliverMode::Delta,
                },
            )
        };
        let (first, second) = (deliver(&sites), deliver(&sites));
        through(&mut sites.hv, place, first, || second).await;
        sites
            .az
            .ok(sites.order(2, Command::Start { stop: record }))
            .await;
        sites.same_disks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_in_a_start() {
    for place in [
        "Start:admitted",
        "Start:sealed",
        "Start:promoted",
        "run:minted",
        "Start:started",
        "Start:done",
    ] {
        let (mut sites, record) = delivered().await;
        let start = |sites: &Sites| {
            sites.order(
                2,
                Command::Start {
                    stop: record.clone(),
                },
            )
        };
        let (first, second) = (start(&sites), start(&sites));
        through(&mut sites.az, place, first, || second).await;
        assert!(sites.az.fake.running(VM), "{place}");
        assert_eq!(sites.az.fake.starts(VM), 1, "{place}");
        let committed = sites.az.ok(sites.order(2, Command::Commit {})).await;
        let OrderResult::Committed { record: commit } = committed else {
            panic!("{committed:?}")
        };
        sites
            .hv
            .ok(sites.order(2, Command::Retire { commit }))
            .await;
        sites.az.fake.write(VM, "root", 0, b"after the start");
        sites.replicate(&sites.az, &sites.hv, 2).await;
        sites.same_disks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_in_the_small_orders() {
    let mut sites = Sites::new();
    die!(
        sites,
        hv,
        "Adopt:admitted",
        1,
        Command::Adopt { takeover: None }
    );
    die!(
        sites,
        hv,
        "Power:admitted",
        1,
        Command::Power {
            state: PowerSwitch::On,
            force: false,
            on_other_disks: false,
        }
    );
    let definition = sites.definition().await;
    let owner = sites.hv.address();
    die!(
        sites,
        az,
        "Enroll:admitted",
        1,
        Command::Enroll {
            definition: Box::new(definition.clone()),
            owner: owner.clone()
        }
    );
    die!(
        sites,
        az,
        "Enroll:defined",
        1,
        Command::Enroll {
            definition: Box::new(definition.clone()),
            owner: owner.clone()
        }
    );
    let peer = sites.az.address();
    die!(
        sites,
        hv,
        "Replicate:admitted",
        1,
        Command::Replicate {
            peer: peer.clone(),
            interval_seconds: 3600,
            immediate: true
        }
    );
    sites.replicate(&sites.hv, &sites.az, 1).await;
    die!(sites, hv, "Pause:admitted", 1, Command::Pause {});
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    sites
        .hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer,
                mode: DeliverMode::Delta,
            },
        ))
        .await;
    sites
        .az
        .ok(sites.order(2, Command::Start { stop: record }))
        .await;
    let committed = die!(sites, az, "Commit:admitted", 2, Command::Commit {});
    let OrderResult::Committed { record: commit } = committed else {
        panic!("{committed:?}")
    };
    die!(
        sites,
        hv,
        "Retire:admitted",
        2,
        Command::Retire {
            commit: commit.clone()
        }
    );
    die!(sites, hv, "Undo:admitted", 2, Command::Undo {});
    die!(sites, az, "Release:admitted", 2, Command::Release {});
    sites.replicate(&sites.az, &sites.hv, 2).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_dies_while_turning_back() {
    for (fence, resume) in [
        ("Fence:admitted", "Resume:admitted"),
        ("Fence:barred", "Resume:standing"),
        ("Fence:off", "run:minted"),
        ("Fence:done", "Resume:done"),
    ] {
        let (mut sites, record) = delivered().await;
        sites
            .az
            .ok(sites.order(2, Command::Start { stop: record }))
            .await;
        let (first, second) = (
            sites.order(3, Command::Fence {}),
            sites.order(3, Command::Fence {}),
        );
        let fenced = through(&mut sites.az, fence, first, || second).await;
        let OrderResult::Fenced { record } = fenced else {
            panic!("{fenced:?}")
        };
        assert!(record.was_started, "{fence}");
        let again = |sites: &Sites| {
            sites.order(
                3,
                Command::Resume {
                    fence: record.clone(),
                },
            )
        };
        let (first, second) = (again(&sites), again(&sites));
        through(&mut sites.hv, resume, first, || second).await;
        assert!(
            sites.hv.fake.running(VM) && !sites.az.fake.running(VM),
            "{resume}"
        );
        sites.replicate(&sites.hv, &sites.az, 3).await;
        sites.same_disks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_and_replication_outlive_the_agent() {
    let mut sites = Sites::protected().await;
    let replicate = Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 1,
        immediate: true,
    };
    sites.hv.ok(sites.order(1, replicate)).await;
    sites.hv.end();
    assert!(sites.hv.fake.running(VM));
    sites.hv.fake.write(VM, "root", 0, b"while no agent looked");
    sites.hv.start();
    let state = sites.hv.state().await;
    assert!(
        state.found.running.contains(&VM)
            && !state.found.rebooted
            && state.found.started.is_empty()
    );
    assert_eq!(sites.hv.fake.starts(VM), 1);
    let pass = sites
        .hv
        .until("a pass brings it", |vm| {
            vm.replication
                .as_ref()?
                .last
                .clone()
                .filter(|last| last.bytes_changed == 65_536)
        })
        .await;
    assert_eq!(
        pass.candidates,
        CandidatesUsed::Ranges,
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_an_acknowledged_pass_that_the_agent_did_not_end_costs_no_change() {
    let mut sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 0, b"acknowledged");
    sites.hv.failpoints.arm("pass:acknowledged");
    sites.hv.ok(sites.pass(&sites.az, 1)).await;
    sites.hv.failpoints.reached("pass:acknowledged").await;
    sites.hv.fake.write(VM, "data", 0, b"after the point");
    sites.hv.kill();
    sites.hv.start();
    let pass = sites.replicate(&sites.hv, &sites.az, 1).await;
    assert_eq!(
        pass.candidates,
        CandidatesUsed::Ranges,
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();
}

/// Its file may come back at any time, and with it what was known of its disks.
#[tokio::test(flavor = "multi_thread")]
async fn s12_digests_are_void_after_a_reboot_though_nobody_defines_the_vm() {
    let mut sites = Sites::protected().await;
    let hv = &mut sites.hv;
    hv.kill();
    hv.fake.reboot();
    let state = hv.folder.join("state");
    let known = state.join("volumes").join(VM.to_string()).join("set.json");
    let content = || {
        let set: serde_json::Value = serde_json::from_slice(&fs::read(&known).unwrap()).unwrap();
        set["content"]["kind"].clone()
    };
    assert_ne!(content(), "unknown", "there is something to void");
    fs::write(hv.folder.join("boot_id"), "second").unwrap();
    fs::remove_file(hv.folder.join("definitions/app.yaml")).unwrap();
    fs::remove_file(state.join(format!("remembered/{VM}.json"))).unwrap();
    hv.start();
    assert_eq!(hv.vm().await.register.unwrap().boot_id, "second");
    assert!(!hv.fake.running(VM));
    assert_eq!(content(), "unknown");
    let replication: serde_json::Value =
        serde_json::from_slice(&fs::read(state.join(format!("replication/{VM}.json"))).unwrap())
            .unwrap();
    assert!(replication["base"].is_null() && replication["tracking"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_s12_after_a_reboot_only_owners_are_started_and_digests_are_void() {
    let mut sites = Sites::protected().await;
    for host in [&mut sites.hv, &mut sites.az] {
        host.kill();
        host.fake.reboot();
        fs::write(host.folder.join("boot_id"), "second").unwrap();
        host.start();
    }
    let (hv, az) = (&sites.hv, &sites.az);
    let state = hv.state().await;
    assert!(state.found.rebooted && state.found.started.contains(&VM) && hv.fake.running(VM));
    assert!(!az.fake.running(VM) && az.vm().await.register.unwrap().role == Role::Replica);
    let pass = hv
        .until("a pass is whole after the reboot", |vm| {
            vm.replication
                .as_ref()?
                .last
                .clone()
                .filter(|last| last.point > state.started_at)
        })
        .await;
    assert_eq!(
        (pass.bytes_changed, pass.candidates),
        (0, CandidatesUsed::All),
        "compared, and nothing differs"
    );
    // A fenced source stays off through a reboot, with its stop record.
    let record = sites.stop(hv, az, 2).await;
    sites.hv.kill();
    sites.hv.fake.reboot();
    fs::write(sites.hv.folder.join("boot_id"), "third").unwrap();
    sites.hv.start();
    assert!(!sites.hv.fake.running(VM));
    assert_eq!(sites.hv.vm().await.register.unwrap().stop, Some(record));
    assert_eq!(sites.az.vm().await.content.kind, ContentKind::Whole);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let into = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &into);
        } else {
            fs::copy(entry.path(), into).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_host_from_a_backup_asks_its_peer_before_it_starts_what_has_moved_since() {
    let mut sites = Sites::protected().await;
    let (state, backup) = (
        sites.hv.folder.join("state"),
        sites.hv.folder.join("backup"),
    );
    copy(&state, &backup);
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    sites.commit(&sites.hv, &sites.az, 2).await;
    sites.hv.kill();
    sites.hv.fake.reboot();
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&backup, &state).unwrap();
    fs::write(sites.hv.folder.join("boot_id"), "second").unwrap();
    sites.hv.start();
    let (hv, az) = (&sites.hv, &sites.az);
    let seen = hv.vm().await;
    assert_eq!(seen.register.unwrap().role, Role::Owner, "what it says");
    assert!(!hv.fake.running(VM) && az.fake.running(VM));
    let told = seen
        .problems
        .iter()
        .find(|problem| problem.kind == ProblemKind::NotStarted)
        .unwrap();
    assert!(
        told.message.contains("az01 has epoch 2 and the one here 1"),
        "{}",
        told.message
    );
    // Nor by hand.
    let switch = Command::Power {
        state: PowerSwitch::On,
        force: false,
        on_other_disks: false,
    };
    let refused = hv.give(sites.order(1, switch)).await.unwrap();
    assert_eq!(refused.state, OperationState::Failed, "{refused:?}");
    assert_eq!(refused.error.unwrap().kind, OperationErrorKind::PeerRefused);
    assert!(!hv.fake.running(VM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_ask_its_peer_starts_what_its_register_says() {
    let mut sites = Sites::protected().await;
    sites.az.kill();
    sites.hv.kill();
    sites.hv.fake.reboot();
    fs::write(sites.hv.folder.join("boot_id"), "second").unwrap();
    sites.hv.start();
    sites
        .hv
        .until("the guest runs", |vm| {
            (vm.power == Power::Running && vm.problems.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_guest_had_changed_is_known_to_the_next_agent() {
    let mut sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 0, b"last words");
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    sites.hv.kill();
    sites.hv.start();
    let delivered = sites
        .hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer: sites.az.address(),
                mode: DeliverMode::Delta,
            },
        ))
        .await;
    let OrderResult::Delivered { pass } = delivered else {
        panic!("{delivered:?}")
    };
    assert_eq!(
        (pass.candidates, pass.bytes_changed),
        (CandidatesUsed::Ranges, 65_536),
        "{}",
        pass.candidates_reason
    );
    sites
        .az
        .ok(sites.order(2, Command::Start { stop: record }))
        .await;
    sites.same_disks();
}
