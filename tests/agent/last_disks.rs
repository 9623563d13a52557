//! The disks that hold what the guest wrote last: nothing is started from others, and nothing of others is sent, before a person says so.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use homeward::agent::api::{
    Command, DeliverMode, OperationErrorKind, OperationState, Order, OrderResult, Power,
    PowerSwitch, ProblemKind, RefusalKind, StopRecord,
};

use crate::broken_off::die_at;
use crate::site::{Host, Sites, VM};

const ON: Command = Command::Power {
    state: PowerSwitch::On,
    force: false,
    on_other_disks: false,
};
const ON_OTHER_DISKS: Command = Command::Power {
    state: PowerSwitch::On,
    force: false,
    on_other_disks: true,
};
const OFF: Command = Command::Power {
    state: PowerSwitch::Off,
    force: false,
    on_other_disks: false,
};

/// What was written at the first host after everything else, and must not be lost.
const LAST: &[u8] = b"the last acknowledged record";

fn file(host: &Host) -> PathBuf {
    host.folder.join("definitions/app.yaml")
}

fn kept(host: &Host) -> PathBuf {
    host.folder.join(format!("state/last-disks/{VM}.json"))
}

fn says(host: &Host) -> String {
    fs::read_to_string(kept(host)).unwrap_or_default()
}

/// A stale copy of the disk is put into the definition's place; gives the text that was there.
fn swap(sites: &Sites) -> String {
    let hv = &sites.hv;
    let written = fs::read_to_string(file(hv)).unwrap();
    fs::write(hv.folder.join("stale.raw"), vec![7u8; 4 * 1024 * 1024]).unwrap();
    fs::write(file(hv), written.replace("../root.raw", "../stale.raw")).unwrap();
    written
}

/// Protected, with something written at last, everything of it at the replica, and switched off.
async fn switched_off() -> Sites {
    let sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 200_000, LAST);
    sites.replicate(&sites.hv, &sites.az, 1).await;
    sites.hv.ok(sites.order(1, OFF)).await;
    sites
}

fn stop(sites: &Sites, epoch: u64) -> Order {
    let target = "az01".into();
    sites.order(
        epoch,
        Command::Stop {
            target,
            force: false,
        },
    )
}

fn reboot(host: &mut Host) {
    host.kill();
    host.fake.reboot();
    fs::write(host.folder.join("boot_id"), "the next boot").unwrap();
}

async fn refused(sites: &Sites) -> String {
    let refused = sites.hv.give(sites.order(1, ON)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::DisksDiffer);
    refused.message
}

async fn pass_is_held(sites: &Sites, host: &Host, epoch: u64, said: &str) {
    let before = sites.disk(&sites.az, "root");
    let order = sites.pass(&sites.az, epoch);
    host.ok(order).await;
    host.until("the pass is held", |vm| {
        let failed = vm.replication.as_ref()?.last_error.as_ref()?;
        failed.message.contains(said).then_some(())
    })
    .await;
    assert!(
        sites.disk(&sites.az, "root") == before,
        "the replica was written to"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_not_started_on_other_disks_than_it_last_ran_on() {
    let sites = switched_off().await;
    let written = swap(&sites);
    let starts = sites.hv.fake.starts(VM);
    let why = refused(&sites).await;
    for said in [
        "last ran on",
        "root.raw",
        "stale.raw instead",
        "last written to at",
        "definitionsDir",
        "`homeward vm start --on-other-disks`",
        "given up",
    ] {
        assert!(why.contains(said), "{said}: {why}");
    }
    assert!(why.find("Put the definition back") < why.find("--on-other-disks"));
    let register = sites.hv.vm().await.register.unwrap();
    assert_eq!(
        register.desired_power,
        PowerSwitch::Off,
        "nothing is owed that was refused"
    );
    assert_eq!(sites.hv.fake.starts(VM), starts);
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(1, ON)).await;
    assert!(sites.disk(&sites.hv, "root")[200_000..].starts_with(LAST));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_taken_out_and_is_still_there_is_no_less_left_out() {
    let sites = switched_off().await;
    let written = fs::read_to_string(file(&sites.hv)).unwrap();
    let without = written.replace(", { id: data, path: ../data.raw }", "");
    assert_ne!(without, written);
    fs::write(file(&sites.hv), without).unwrap();
    let why = refused(&sites).await;
    assert!(why.contains("names no such disk"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_moved_away_or_added_is_no_reason_not_to_start() {
    let sites = switched_off().await;
    let hv = &sites.hv;
    let written = fs::read_to_string(file(hv)).unwrap();
    fs::rename(hv.folder.join("root.raw"), hv.folder.join("moved.raw")).unwrap();
    fs::write(hv.folder.join("more.raw"), [0; 4096]).unwrap();
    let moved = written.replace(
        "{ id: root, path: ../root.raw }",
        "{ id: root, path: ../moved.raw }, { id: more, path: ../more.raw }",
    );
    assert_ne!(moved, written);
    fs::write(file(hv), moved).unwrap();
    hv.ok(sites.order(1, ON)).await;
    assert!(hv.fake.running(VM));
    assert!(says(hv).contains("moved.raw") && says(hv).contains("more.raw"));
    // And from now on those are the ones.
    hv.ok(sites.order(1, OFF)).await;
    fs::copy(hv.folder.join("moved.raw"), hv.folder.join("root.raw")).unwrap();
    fs::write(file(hv), written).unwrap();
    assert!(refused(&sites).await.contains("moved.raw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_runs_on_is_durable_before_its_first_instruction() {
    let mut sites = switched_off().await;
    let starts = sites.hv.fake.starts(VM);
    fs::write(sites.hv.folder.join("more.raw"), [0; 4096]).unwrap();
    let written = fs::read_to_string(file(&sites.hv)).unwrap();
    let more = written.replace(
        "{ id: root,",
        "{ id: more, path: ../more.raw }, { id: root,",
    );
    fs::write(file(&sites.hv), more).unwrap();
    let order = sites.order(1, ON);
    die_at(&mut sites.hv, "run:minted", order).await;
    assert_eq!(sites.hv.fake.starts(VM), starts);
    assert!(says(&sites.hv).contains("more.raw"), "{}", says(&sites.hv));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_no_guest_is_started_on_other_disks() {
    let mut sites = Sites::protected().await;
    let starts = sites.hv.fake.starts(VM);
    reboot(&mut sites.hv);
    let written = swap(&sites);
    sites.hv.start();
    let vm = sites.hv.vm().await;
    let told = |kind| {
        let mut problems = vm.problems.iter();
        problems.any(|problem| problem.kind == kind && problem.message.contains("last ran on"))
    };
    assert!(told(ProblemKind::NotStarted), "{:?}", vm.problems);
    assert!(told(ProblemKind::Definition), "{:?}", vm.problems);
    assert_eq!(sites.hv.fake.starts(VM), starts);
    fs::write(file(&sites.hv), written).unwrap();
    sites
        .hv
        .until("the guest runs", |vm| {
            (vm.power == Power::Running && vm.problems.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_does_not_start_the_guest_on_other_disks() {
    let sites = Sites::protected().await;
    sites.stop(&sites.hv, &sites.az, 2).await;
    let fenced = sites.az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    let written = swap(&sites);
    let starts = sites.hv.fake.starts(VM);
    let resumed = sites.hv.give(sites.order(3, Command::Resume { fence }));
    let resumed = resumed.await.unwrap();
    assert_eq!(resumed.state, OperationState::Failed);
    assert_eq!(resumed.error.unwrap().kind, OperationErrorKind::OtherDisks);
    assert_eq!(sites.hv.fake.starts(VM), starts);
    fs::write(file(&sites.hv), written).unwrap();
    sites
        .hv
        .until("the guest runs", |vm| {
            (vm.power == Power::Running && vm.problems.is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_disks_than_the_guest_last_ran_on_reach_no_replica_and_no_move() {
    let sites = switched_off().await;
    let written = swap(&sites);
    let problems = sites.hv.vm().await.problems;
    let told = |problem: &&homeward::agent::api::Problem| {
        problem.kind == ProblemKind::Definition && problem.message.contains("last ran on")
    };
    assert!(
        problems.iter().any(|problem| told(&problem)),
        "{problems:?}"
    );
    pass_is_held(&sites, &sites.hv, 1, "last ran on").await;
    let refused = sites.hv.give(stop(&sites, 2)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::DisksDiffer);
    assert!(refused.message.contains("last ran on"));
    fs::write(file(&sites.hv), written).unwrap();
    assert_eq!(sites.hv.vm().await.problems, []);
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    sites.same_disks();
}

/// A guest that is off has nothing attached that could tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_given_again_writes_no_record_of_other_disks() {
    let mut sites = switched_off().await;
    let first = stop(&sites, 2);
    die_at(&mut sites.hv, "Stop:fenced", first).await;
    let written = swap(&sites);
    let failed = sites.hv.give(stop(&sites, 2)).await.unwrap();
    let error = failed.error.unwrap();
    assert_eq!(error.kind, OperationErrorKind::DiskWithoutTarget);
    assert!(error.message.contains("last ran on"), "{}", error.message);
    fs::write(file(&sites.hv), written).unwrap();
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    assert!(!record.was_running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_is_not_delivered_from_other_disks() {
    let sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 200_000, LAST);
    let record: StopRecord = sites.stop(&sites.hv, &sites.az, 2).await;
    let written = swap(&sites);
    let before = sites.disk(&sites.az, "root");
    let deliver = || Command::Deliver {
        peer: sites.az.address(),
        mode: DeliverMode::Delta,
    };
    let failed = sites.hv.give(sites.order(2, deliver())).await.unwrap();
    let error = failed.error.unwrap();
    assert_eq!(error.kind, OperationErrorKind::DiskWithoutTarget);
    assert!(error.message.contains("last ran on"), "{}", error.message);
    assert!(sites.disk(&sites.az, "root") == before);
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(2, deliver())).await;
    let start = Command::Start { stop: record };
    sites.az.ok(sites.order(2, start)).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_say_that_the_other_disks_are_meant() {
    let sites = switched_off().await;
    let written = swap(&sites);
    sites.hv.ok(sites.order(1, ON_OTHER_DISKS)).await;
    assert!(sites.hv.fake.running(VM));
    assert!(says(&sites.hv).contains("stale.raw"));
    assert_eq!(sites.hv.vm().await.problems, []);
    sites.replicate(&sites.hv, &sites.az, 1).await;
    assert!(sites.disk(&sites.az, "root").iter().all(|byte| *byte == 7));
    // What it left is guarded in its turn.
    sites.hv.ok(sites.order(1, OFF)).await;
    fs::write(file(&sites.hv), written).unwrap();
    assert!(refused(&sites).await.contains("stale.raw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_other_disks_is_said_of_a_start_alone() {
    let sites = Sites::protected().await;
    let off = Command::Power {
        state: PowerSwitch::Off,
        force: false,
        on_other_disks: true,
    };
    let refused = sites.hv.give(sites.order(1, off)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Invalid);
    assert!(sites.hv.fake.running(VM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_other_disks_that_failed_leaves_the_first_as_they_were() {
    let sites = switched_off().await;
    let written = swap(&sites);
    sites.hv.fake.broken.store(true, Ordering::SeqCst);
    let failed = sites.hv.give(sites.order(1, ON_OTHER_DISKS)).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    sites.hv.fake.broken.store(false, Ordering::SeqCst);
    assert!(refused(&sites).await.contains("stale.raw instead"));
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(1, ON)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_taken_on_switched_off_keeps_the_disks_it_was_taken_on_with() {
    let sites = Sites::new();
    let adopt = sites.order(1, Command::Adopt { takeover: None });
    sites.hv.ok(adopt).await;
    let written = swap(&sites);
    let why = refused(&sites).await;
    assert!(why.contains("was switched off"), "{why}");
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(1, ON)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_that_is_taken_on_is_asked_what_it_runs_on() {
    let mut sites = Sites::protected().await;
    sites.hv.end();
    fs::remove_file(sites.hv.folder.join(format!("state/registers/{VM}.json"))).unwrap();
    fs::remove_file(kept(&sites.hv)).unwrap();
    let written = swap(&sites);
    sites.hv.start();
    let adopt = sites.order(1, Command::Adopt { takeover: None });
    sites.hv.ok(adopt).await;
    assert!(!says(&sites.hv).contains("stale.raw"));
    assert!(says(&sites.hv).contains("root.raw"));
    sites.hv.ok(sites.order(1, OFF)).await;
    refused(&sites).await;
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(1, ON)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_that_is_lost_does_not_take_with_it_what_the_guest_ran_on() {
    let mut sites = Sites::protected().await;
    reboot(&mut sites.hv);
    fs::remove_file(sites.hv.folder.join(format!("state/registers/{VM}.json"))).unwrap();
    let written = swap(&sites);
    sites.hv.start();
    let adopt = sites.order(1, Command::Adopt { takeover: None });
    sites.hv.ok(adopt).await;
    assert!(refused(&sites).await.contains("last ran on"));
    fs::write(file(&sites.hv), written).unwrap();
    sites.hv.ok(sites.order(1, ON)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_an_older_agent_is_asked_what_it_runs_on() {
    let mut sites = Sites::protected().await;
    sites.hv.end();
    fs::remove_file(kept(&sites.hv)).unwrap();
    sites.hv.start();
    sites
        .hv
        .until("it is written down", |_| {
            says(&sites.hv).contains("root.raw").then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_taken_for_nothing() {
    let mut sites = switched_off().await;
    sites.hv.end();
    fs::write(kept(&sites.hv), "{").unwrap();
    sites.hv.start();
    let why = refused(&sites).await;
    assert!(why.contains("cannot be read"), "{why}");
    pass_is_held(&sites, &sites.hv, 1, "cannot be read").await;
    sites.hv.ok(sites.order(1, ON_OTHER_DISKS)).await;
    assert!(says(&sites.hv).contains("root.raw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_where_the_right_to_run_is_and_nowhere_else() {
    let sites = Sites::protected().await;
    assert!(kept(&sites.hv).exists() && !kept(&sites.az).exists());
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    assert!(says(&sites.az).contains("storage"), "{}", says(&sites.az));
    let fenced = sites.az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    assert!(!kept(&sites.az).exists());
    sites.hv.ok(sites.order(3, Command::Resume { fence })).await;
    sites.replicate(&sites.hv, &sites.az, 3).await;
    sites.cut_over(&sites.hv, &sites.az, 4).await;
    sites.commit(&sites.hv, &sites.az, 4).await;
    assert!(!kept(&sites.hv).exists() && kept(&sites.az).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_arrived_switched_off_is_not_started_on_other_disks() {
    let sites = switched_off().await;
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    assert!(!sites.az.fake.running(VM));
    let other = sites.az.folder.join("other.raw");
    fs::write(&other, vec![7u8; 4 * 1024 * 1024]).unwrap();
    let data = sites.path(&sites.az, "data");
    let text = fs::read_to_string(file(&sites.hv)).unwrap();
    let text = text
        .replace("../root.raw", other.to_str().unwrap())
        .replace("../data.raw", data.to_str().unwrap());
    sites.commit(&sites.hv, &sites.az, 2).await;
    fs::write(file(&sites.az), text).unwrap();
    let refused = sites.az.give(sites.order(2, ON)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::DisksDiffer);
    assert!(
        refused.message.contains("arrived on"),
        "{}",
        refused.message
    );
    fs::remove_file(file(&sites.az)).unwrap();
    sites.az.ok(sites.order(2, ON)).await;
}

/// A hand-written definition of stale disks is put back where the VM has come home to others. The messages then given are followed one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_put_back_after_the_vm_came_home_costs_no_record() {
    let mut sites = Sites::protected().await;
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    sites.commit(&sites.hv, &sites.az, 2).await;
    let by_hand = fs::read_to_string(file(&sites.hv)).unwrap();
    // The register of the host where the VM lives is lost, and everything taken away that makes the other one know it.
    sites.hv.end();
    sites.az.end();
    for (host, kinds) in [
        (&sites.az, &["registers"][..]),
        (&sites.hv, &["registers", "definitions", "remembered"][..]),
    ] {
        for kind in kinds {
            let path = host.folder.join(format!("state/{kind}/{VM}.json"));
            let _ = fs::remove_file(path);
        }
    }
    fs::remove_file(file(&sites.hv)).unwrap();
    sites.hv.start();
    sites.az.start();
    let (hv, az) = (&sites.hv, &sites.az);
    az.ok(sites.order(3, Command::Adopt { takeover: None }))
        .await;
    let mut definition = az.vm().await.definition.unwrap();
    for (disk, shape) in definition.disks.iter_mut().zip(az.vm().await.disks) {
        disk.size_bytes = Some(shape.size_bytes);
    }
    let enroll = Command::Enroll {
        definition: Box::new(definition),
        owner: az.address(),
    };
    hv.ok(sites.order(3, enroll)).await;
    sites.replicate(az, hv, 3).await;
    sites.cut_over(az, hv, 4).await;
    sites.commit(az, hv, 4).await;
    hv.fake.write(VM, "root", 200_000, LAST);
    sites.replicate(hv, az, 4).await;
    let home = hv.folder.join(format!("storage/{VM}/root.raw"));
    let safe = || {
        assert!(fs::read(&home).unwrap()[200_000..].starts_with(LAST));
        assert!(sites.disk(az, "root")[200_000..].starts_with(LAST));
    };
    safe();
    fs::write(file(hv), &by_hand).unwrap();
    let problems = hv.vm().await.problems;
    let told = problems
        .iter()
        .find(|problem| problem.message.contains("changed under a running guest"))
        .unwrap_or_else(|| panic!("{problems:?}"));
    let (first, last) = (
        told.message.find("Put the definition back").unwrap(),
        told.message.find("--on-other-disks").unwrap(),
    );
    assert!(first < last && told.message.contains("given up"));
    pass_is_held(&sites, hv, 4, "changed under a running guest").await;
    hv.ok(sites.order(4, OFF)).await;
    pass_is_held(&sites, hv, 4, "last ran on").await;
    let refused = hv.give(sites.order(4, ON)).await.unwrap_err();
    assert!(
        refused.message.contains(home.to_str().unwrap()),
        "{}",
        refused.message
    );
    safe();
    // What the message says first.
    fs::remove_file(file(hv)).unwrap();
    hv.ok(sites.order(4, ON)).await;
    hv.until("nothing is left to say", |vm| {
        (vm.power == Power::Running && vm.problems.is_empty()).then_some(())
    })
    .await;
    sites.replicate(hv, az, 4).await;
    safe();
}
