//! Guests that should run and do not, and guests that stand still with nobody at work on them.

use std::fs;
use std::sync::atomic::Ordering;

use homeward::agent::api::{Command, OperationState, OrderResult, Power, ProblemKind};

use crate::site::{Host, Sites, VM};

async fn not_started(host: &Host) -> Option<String> {
    let vm = host.vm().await;
    let problem = vm
        .problems
        .into_iter()
        .find(|problem| problem.kind == ProblemKind::NotStarted);
    problem.map(|problem| problem.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_after_a_reboot_is_tried_until_it_works() {
    let mut sites = Sites::protected().await;
    sites.hv.kill();
    sites.hv.fake.reboot();
    fs::write(sites.hv.folder.join("boot_id"), "the next boot").unwrap();
    sites.hv.fake.broken.store(true, Ordering::SeqCst);
    sites.hv.start();
    let why = not_started(&sites.hv).await.unwrap();
    assert!(why.contains("does not come up"), "{why}");
    // An agent that dies now has forgotten nothing.
    sites.hv.kill();
    sites.hv.start();
    assert!(not_started(&sites.hv).await.is_some());
    sites.hv.fake.broken.store(false, Ordering::SeqCst);
    sites
        .hv
        .until("the guest runs", |vm| {
            (vm.power == Power::Running && vm.problems.is_empty()).then_some(())
        })
        .await;
    assert_eq!(
        sites.hv.vm().await.register.unwrap().boot_id,
        "the next boot"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_no_order_passes_for_the_voiding_of_digests_that_failed() {
    let mut sites = Sites::protected().await;
    sites.hv.kill();
    sites.hv.fake.reboot();
    fs::write(sites.hv.folder.join("boot_id"), "the next boot").unwrap();
    sites.hv.fake.broken.store(true, Ordering::SeqCst);
    sites.hv.start();
    sites.hv.ok(sites.order(1, Command::Release {})).await;
    let boot = sites.hv.vm().await.register.unwrap().boot_id;
    assert_ne!(boot, "the next boot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_goes_down_after_its_move_turned_back_is_started_again() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.deaf.store(true, Ordering::SeqCst);
    let stop = Command::Stop {
        target: "az01".into(),
        force: false,
    };
    let stopped = hv.give(sites.order(2, stop)).await.unwrap();
    assert_eq!(stopped.state, OperationState::Failed, "{stopped:?}");
    let fenced = az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    let resumed = hv.ok(sites.order(3, Command::Resume { fence })).await;
    assert_eq!(resumed, OrderResult::Resumed { running: true });
    let starts = hv.fake.starts(VM);
    hv.fake.shut_down(VM);
    hv.until("the guest runs again", |vm| {
        (vm.power == Power::Running).then_some(())
    })
    .await;
    assert_eq!(hv.fake.starts(VM), starts + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_shut_down_from_inside_is_told_of_and_left() {
    let sites = Sites::protected().await;
    let starts = sites.hv.fake.starts(VM);
    assert_eq!(not_started(&sites.hv).await, None);
    sites.hv.fake.shut_down(VM);
    let why = not_started(&sites.hv).await.unwrap();
    assert!(why.contains("homeward vm start"), "{why}");
    // A pass goes by, and nobody has started it.
    sites.replicate(&sites.hv, &sites.az, 1).await;
    assert_eq!(sites.hv.fake.starts(VM), starts);
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_a_guest_left_standing_in_a_point_goes_on_with_the_next_pass() {
    let sites = Sites::protected().await;
    sites.hv.fake.leave_in_a_point(VM);
    assert_eq!(sites.hv.vm().await.power, Power::Paused);
    sites.replicate(&sites.hv, &sites.az, 1).await;
    assert_eq!(sites.hv.vm().await.power, Power::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_a_point_that_was_left_open_does_not_end_replication() {
    let sites = Sites::protected().await;
    sites.hv.fake.leave_a_point(VM);
    sites.replicate(&sites.hv, &sites.az, 1).await;
}

/// No pass comes after a pause that would let it go on.
#[tokio::test(flavor = "multi_thread")]
async fn s15_a_guest_left_standing_in_a_point_goes_on_when_replication_is_paused() {
    let sites = Sites::protected().await;
    sites.hv.fake.leave_in_a_point(VM);
    assert_eq!(sites.hv.vm().await.power, Power::Paused);
    sites.hv.ok(sites.order(1, Command::Pause {})).await;
    assert_eq!(sites.hv.vm().await.power, Power::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_left_standing_in_a_point_can_be_stopped() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.ok(sites.order(1, Command::Pause {})).await;
    hv.fake.leave_in_a_point(VM);
    assert_eq!(hv.vm().await.power, Power::Paused);
    sites.cut_over(hv, az, 2).await;
    assert!(az.fake.running(VM));
    sites.same_disks();
}
