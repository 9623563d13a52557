//! Orders that broke off half way, and what the host makes good by itself.

use std::fs;

use homeward::agent::api::{
    Command, DeliverMode, FenceRecord, OperationErrorKind, OperationState, Order, OrderResult,
    PowerSwitch, ProblemKind, Role, StopRecord,
};

use crate::site::{Host, Sites, VM};

/// Gives an order to an agent that dies at this place, and starts the agent again.
pub async fn die_at(host: &mut Host, place: &str, order: Order) {
    killed_at(host, place, order).await;
    host.start();
}

async fn killed_at(host: &mut Host, place: &str, order: Order) {
    host.failpoints.arm(place);
    let client = host.client().clone();
    let giving = tokio::spawn(async move { client.order(order.vm, &order).await });
    host.failpoints.reached(place).await;
    host.kill();
    giving.abort();
}

async fn running_unasked(host: &Host) {
    host.until("the guest is up", |_| host.fake.running(VM).then_some(()))
        .await;
    // And that it is owed nothing more is written down.
    host.until("the register says so", |vm| {
        let own = vm.register.as_ref()?;
        (!own.start_owed && vm.problems.is_empty()).then_some(())
    })
    .await;
}

async fn delivered() -> (Sites, StopRecord) {
    let sites = Sites::protected().await;
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    let deliver = Command::Deliver {
        peer: sites.az.address(),
        mode: DeliverMode::Delta,
    };
    sites.hv.ok(sites.order(2, deliver)).await;
    (sites, record)
}

/// Started at the target, and then fenced there: the source may be resumed.
async fn fenced() -> (Sites, FenceRecord) {
    let (sites, stop) = delivered().await;
    sites.az.ok(sites.order(2, Command::Start { stop })).await;
    let fenced = sites.az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record } = fenced else {
        panic!("{fenced:?}")
    };
    (sites, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_broke_off_after_the_right_had_moved_is_brought_to_its_end() {
    let (mut sites, stop) = delivered().await;
    let start = sites.order(2, Command::Start { stop });
    die_at(&mut sites.az, "Start:promoted", start).await;
    running_unasked(&sites.az).await;
    assert_eq!(sites.az.fake.starts(VM), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_broke_off_before_the_right_had_moved_is_not() {
    let (mut sites, stop) = delivered().await;
    let start = sites.order(2, Command::Start { stop: stop.clone() });
    die_at(&mut sites.az, "Start:sealed", start).await;
    let vm = sites.az.vm().await;
    let register = vm.register.unwrap();
    assert_eq!((register.role, register.start_owed), (Role::Replica, false));
    sites.az.ok(sites.order(2, Command::Start { stop })).await;
    assert_eq!(sites.az.fake.starts(VM), 1);
}

/// The last order is another one by then, and the agent knows nothing any more of what it was about.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_owed_outlives_the_order_and_the_agent() {
    let (mut sites, fence) = fenced().await;
    sites
        .hv
        .fake
        .broken
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let resume = sites.order(3, Command::Resume { fence });
    let failed = sites.hv.give(resume).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    let vm = sites.hv.vm().await;
    assert!(
        vm.problems
            .iter()
            .any(|problem| problem.kind == ProblemKind::NotStarted
                && problem.message.contains("it does not come up")),
        "{:?}",
        vm.problems
    );
    sites.hv.ok(sites.order(3, Command::Release {})).await;
    sites.hv.kill();
    sites
        .hv
        .fake
        .broken
        .store(false, std::sync::atomic::Ordering::SeqCst);
    sites.hv.start();
    running_unasked(&sites.hv).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_owed_a_start_and_loses_the_right_stays_off() {
    let (mut sites, stop) = delivered().await;
    sites
        .az
        .fake
        .broken
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let start = sites.order(2, Command::Start { stop });
    let failed = sites.az.give(start).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert!(sites.az.vm().await.register.unwrap().start_owed);
    sites.az.ok(sites.order(3, Command::Fence {})).await;
    sites
        .az
        .fake
        .broken
        .store(false, std::sync::atomic::Ordering::SeqCst);
    sites.az.kill();
    sites.az.start();
    let vm = sites.az.vm().await;
    assert!(!vm.register.unwrap().start_owed);
    assert_eq!(vm.problems, []);
    assert_eq!(sites.az.fake.starts(VM), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_broke_off_is_given_again_by_the_same_fence() {
    let (mut sites, fence) = fenced().await;
    let resume = sites.order(
        3,
        Command::Resume {
            fence: fence.clone(),
        },
    );
    die_at(&mut sites.hv, "Resume:admitted", resume).await;
    sites.hv.ok(sites.order(3, Command::Resume { fence })).await;
    assert_eq!(sites.hv.fake.starts(VM), 2);
}

/// S14: the process is gone, and nobody but the agent's own record can tell what the guest ran on.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_was_changed_while_the_guest_shut_down_is_seen_however_often_the_stop_is_given()
 {
    let mut sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 200_000, b"the last word");
    let stop = || Command::Stop {
        target: "az01".into(),
        force: false,
    };
    let file = sites.hv.folder.join("definitions/app.yaml");
    let written = fs::read_to_string(&file).unwrap();
    for (place, forgets) in [
        ("Stop:off", false),
        ("Stop:ended", false),
        ("Stop:read", true),
    ] {
        let again = sites.order(2, stop());
        killed_at(&mut sites.hv, place, again).await;
        if forgets {
            // What this order has written down by itself is enough.
            fs::remove_file(sites.hv.folder.join(format!("state/last-disks/{VM}.json"))).unwrap();
        }
        sites.hv.start();
        let other = sites.hv.folder.join("other.raw");
        fs::copy(sites.hv.folder.join("root.raw"), &other).unwrap();
        fs::write(&file, written.replace("../root.raw", "../other.raw")).unwrap();
        let failed = sites.hv.give(sites.order(2, stop())).await.unwrap();
        let error = failed.error.unwrap();
        assert_eq!(error.kind, OperationErrorKind::DiskWithoutTarget);
        assert!(
            error.message.contains("other.raw")
                && error.message.contains("Put the definition back"),
            "{place}: {}",
            error.message
        );
        fs::write(&file, &written).unwrap();
    }
    let stopped = sites.hv.ok(sites.order(2, stop())).await;
    let OrderResult::Stopped { record } = stopped else {
        panic!("{stopped:?}")
    };
    let deliver = Command::Deliver {
        peer: sites.az.address(),
        mode: DeliverMode::Delta,
    };
    sites.hv.ok(sites.order(2, deliver)).await;
    sites
        .az
        .ok(sites.order(2, Command::Start { stop: record }))
        .await;
    sites.same_disks();
}

/// It was on a moment ago, and is to be on: as one that is switched off it would be left off at the other site for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_should_run_and_does_not_is_not_moved_as_one_that_is_off() {
    let sites = Sites::protected().await;
    sites.hv.fake.shut_down(VM);
    let stop = || Command::Stop {
        target: "az01".into(),
        force: false,
    };
    let refused = sites.hv.give(sites.order(2, stop())).await.unwrap_err();
    assert!(
        refused.message.contains("homeward vm start")
            && refused.message.contains("homeward vm stop"),
        "{}",
        refused.message
    );
    let off = Command::Power {
        state: PowerSwitch::Off,
        force: false,
        on_other_disks: false,
    };
    sites.hv.ok(sites.order(1, off)).await;
    let stopped = sites.hv.ok(sites.order(2, stop())).await;
    let OrderResult::Stopped { record } = stopped else {
        panic!("{stopped:?}")
    };
    assert!(!record.was_running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_replica_that_is_gone_is_made_again_by_enrolling() {
    let sites = Sites::protected().await;
    let gone = sites.path(&sites.az, "root");
    fs::remove_file(&gone).unwrap();
    sites
        .az
        .until("it is told of", |vm| {
            let told = |kind| vm.problems.iter().any(|problem| problem.kind == kind);
            (told(ProblemKind::DiskMissing) && !told(ProblemKind::Disk)).then_some(())
        })
        .await;
    sites.enroll(1).await;
    sites.hv.fake.write(VM, "data", 4096, b"after the loss");
    sites.replicate(&sites.hv, &sites.az, 1).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_could_start_nothing_says_so() {
    let sites = Sites::protected().await;
    let unusable = &sites.az.fake.unusable;
    unusable.store(true, std::sync::atomic::Ordering::SeqCst);
    let said = |state: &homeward::agent::api::HostState| {
        let mut problems = state.problems.iter();
        problems.any(|problem| problem.kind == ProblemKind::Hypervisor)
    };
    assert!(said(&sites.az.state().await));
    unusable.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(!said(&sites.az.state().await));
}

/// S12: an error of a disk is told once, to who had it open; a second try would find nothing wrong and deliver what stands there.
#[tokio::test(flavor = "multi_thread")]
async fn s12_a_stop_whose_content_did_not_all_reach_its_disk_is_never_a_record() {
    let mut sites = Sites::protected().await;
    let stop = |epoch| {
        let target = "az01".into();
        sites.order(
            epoch,
            Command::Stop {
                target,
                force: false,
            },
        )
    };
    let (first, again) = (stop(2), stop(2));
    die_at(&mut sites.hv, "Stop:ended", first).await;
    // What the agent writes down when the sync of a disk fails.
    let mark = sites.hv.folder.join(format!("state/attached/{VM}.json"));
    let mut kept: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&mark).unwrap()).unwrap();
    kept["unsound"] = "disk root: what the guest wrote did not all reach it".into();
    fs::write(&mark, kept.to_string()).unwrap();
    let failed = sites.hv.give(again).await.unwrap();
    let error = failed.error.unwrap();
    assert_eq!(error.kind, OperationErrorKind::Unsound);
    assert!(error.message.contains("did not all reach it"));
    assert!(sites.hv.vm().await.register.unwrap().stop.is_none());
    // It goes back, and may be moved another time.
    let fenced = sites.az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record } = fenced else {
        panic!("{fenced:?}")
    };
    let resume = Command::Resume { fence: record };
    sites.hv.ok(sites.order(3, resume)).await;
    assert!(sites.hv.fake.running(VM));
    sites.cut_over(&sites.hv, &sites.az, 4).await;
    sites.same_disks();
}
