//! Start, shutdown, death and silence of a guest, and what is known of its last writes.

use std::time::Duration;

use homeward::agent::hypervisor::qemu::{CacheMode, process};
use homeward::agent::hypervisor::{
    Dirty, ErrorCategory, FoundGuest, GuestBoot, GuestPower, Hypervisor as _, HypervisorError,
    LostGeneration, PointOutcome, QuitReport, Stopped,
};
use homeward_playground::guest_image::{ConsoleLine, console_lines};
use serde_json::json;
use uuid::Uuid;

use crate::host::{Host, LIMIT, blocks_of, changed_blocks, difference, known, read_point};
use crate::monitor::{self, Monitor};
use crate::skipped::skipped;

/// What is written down of a guest is gone with `stateDir`, or of an earlier time, and the guest runs on: it is not taken for one that is off, and
/// no start ends it.
#[tokio::test(flavor = "multi_thread")]
async fn s03_a_guest_that_nothing_is_known_of_any_more_is_not_off() {
    let mut host = Host::new(|_| {}).await;
    host.boot().await;
    let identity = host.identity().unwrap();
    let guests = host.config.state_dir.clone();
    let kept = host.path().join("kept");
    std::fs::rename(&guests, &kept).unwrap();
    // To an agent that lives on, and to one that begins then.
    for agent in ["old", "new"] {
        let start = host.qemu.start(&host.guest, &Host::spec(None)).await;
        assert_eq!(start.unwrap_err().category(), ErrorCategory::Conflict);
        assert!(process::is_there(identity).unwrap(), "the start ended it");
        let GuestPower::Unknown { why } = host.qemu.power(&host.guest).await else {
            panic!("it runs, and the {agent} agent does not see it");
        };
        assert!(
            why.contains(&format!("process {}", identity.pid)) && why.contains("stateDir"),
            "{why}"
        );
        let found = host.qemu.processes().unwrap();
        let expected = FoundGuest {
            uuid: host.guest.uuid,
            pid: identity.pid,
            name: Some(host.guest.name.clone()),
        };
        assert_eq!(found, [expected]);
        host.replace_agent();
    }
    // What was lost is put back: everything is as it was.
    let _ = std::fs::remove_dir_all(&guests);
    std::fs::rename(&kept, &guests).unwrap();
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    // A person who says so ends that very process.
    std::fs::rename(&guests, &kept).unwrap();
    assert_eq!(
        host.qemu.power_off(&host.guest).await.unwrap(),
        Stopped::Gone
    );
    assert!(!process::is_there(identity).unwrap());
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Gone);
    assert_eq!(host.qemu.processes().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_outlives_its_agent_and_its_last_writes_are_known_exactly() {
    let mut host = Host::new(|_| {}).await;
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Gone);
    let before = host.disks();
    let generation = host.boot().await;
    assert!(
        host.console().contains("--- homeward: start at")
            && host.console().contains("site=OnPremises")
    );
    let error = host
        .qemu
        .start(&host.guest, &Host::spec(None))
        .await
        .unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Conflict);

    let identity = host.identity();
    host.replace_agent();
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    let recovered = host.qemu.recover(&host.guest).await.unwrap();
    assert_eq!(
        (recovered.power, recovered.tracking.held),
        (GuestPower::Running, vec![generation])
    );
    assert_eq!(host.identity(), identity);
    assert!(
        host.qemu
            .dirty_bytes(&host.guest, generation)
            .await
            .unwrap()
            .unwrap()
            > 0
    );
    assert_eq!(
        host.qemu
            .dirty_bytes(&host.guest, Uuid::new_v4())
            .await
            .unwrap(),
        None
    );
    let error = host
        .qemu
        .final_dirty(&host.guest, generation)
        .await
        .unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Conflict);
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap_err().category(),
        ErrorCategory::Conflict
    );

    host.wait_for_records(100).await;
    assert_eq!(
        host.qemu.power_down(&host.guest, LIMIT).await.unwrap(),
        Stopped::ShutDown
    );
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::ShutDown);
    let dirty = known(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
    );
    let after = host.disks();
    assert_eq!(
        blocks_of(&dirty, &host.ids()),
        changed_blocks(&before, &after)
    );
    assert_eq!(
        known(
            host.qemu
                .final_dirty(&host.guest, generation)
                .await
                .unwrap()
        ),
        dirty
    );
    assert_eq!(
        host.qemu
            .final_dirty(&host.guest, Uuid::new_v4())
            .await
            .unwrap(),
        Dirty::Lost(LostGeneration::Missing {
            disk: "disk-a".into()
        })
    );
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::Untouched
    );
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Gone);
    assert_eq!(host.identity(), None);
    assert_eq!(difference(&after, &host.disks()), None);
    let report = host.records(&after);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.last >= host.acknowledged());
    assert_eq!(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
        Dirty::Lost(LostGeneration::ProcessGone)
    );
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::NotWatched
    );

    // It finds its disks again, and the console says both starts.
    host.qemu
        .start(&host.guest, &Host::spec(Some(Uuid::new_v4())))
        .await
        .unwrap();
    host.wait_for_records(20).await;
    assert_eq!(host.console().matches("--- homeward: start at").count(), 2);
    assert!(
        !console_lines(&host.console())
            .iter()
            .any(|line| matches!(line, ConsoleLine::NotVerified { .. }))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_revived_guest_voids_what_was_said_about_its_last_writes() {
    let host = Host::new(|_| {}).await;
    let base = host.disks();
    let generation = host.boot().await;
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let mut monitor = Monitor::open(&host.files().qmp_socket());
    // Revived before anything was asked: it runs, and its bitmaps still tell the truth.
    monitor.run("system_reset", &json!({}));
    monitor.run("cont", &json!({}));
    drop(monitor);
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    host.wait_for_records(20).await;
    assert!(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .is_err()
    );
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let dirty = known(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
    );
    assert_eq!(
        blocks_of(&dirty, &host.ids()),
        changed_blocks(&base, &host.disks())
    );

    // After the answer a bare reset does not revive it.
    let mut monitor = Monitor::open(&host.files().qmp_socket());
    monitor.run("system_reset", &json!({}));
    assert!(monitor.try_run("cont", &json!({})).is_err());
    drop(monitor);
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::ShutDown);
    // Whoever insists does, and then the answer is void: the process cannot be ended for a guest that is off ...
    let mut monitor = Monitor::open(&host.files().qmp_socket());
    monitor.run("set-action", &json!({"reboot": "reset"}));
    monitor.run("system_reset", &json!({}));
    monitor.run("cont", &json!({}));
    drop(monitor);
    host.wait_for_records(20).await;
    assert!(matches!(
        host.qemu.quit(&host.guest).await,
        Err(HypervisorError::WrongPower {
            found: GuestPower::Running,
            ..
        })
    ));
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    // ... and should it be off again by then, the end says so.
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::Written
    );
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_silence_is_unknown_and_only_a_dead_process_is_gone() {
    let mut host = Host::new(|_| {}).await;
    host.config.answer_timeout = Duration::from_millis(700);
    host.replace_agent();
    let generation = host.boot().await;
    let identity = host.identity().unwrap();
    monitor::signal(identity.pid, rustix::process::Signal::STOP);
    for _ in 0..4 {
        assert!(matches!(
            host.qemu.power(&host.guest).await,
            GuestPower::Unknown { .. }
        ));
    }
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap_err().category(),
        ErrorCategory::Conflict
    );
    assert_eq!(
        host.qemu
            .power_down(&host.guest, Duration::from_secs(2))
            .await
            .unwrap_err()
            .category(),
        ErrorCategory::Unknown
    );
    let error = host
        .qemu
        .begin_point(&host.guest, Some(generation), Uuid::new_v4())
        .await
        .unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Unknown);
    assert_eq!(
        host.qemu.recover(&host.guest).await.unwrap_err().category(),
        ErrorCategory::Unknown
    );
    assert!(
        host.qemu
            .start(&host.guest, &Host::spec(None))
            .await
            .is_err()
    );
    monitor::signal(identity.pid, rustix::process::Signal::CONT);
    host.wait_for_records(5).await;
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    assert_eq!(
        host.qemu.recover(&host.guest).await.unwrap().tracking.held,
        vec![generation]
    );

    let point = host
        .qemu
        .begin_point(&host.guest, Some(generation), Uuid::new_v4())
        .await
        .unwrap();
    process::kill(identity).unwrap();
    tokio::time::timeout(LIMIT, async {
        while host.qemu.power(&host.guest).await != GuestPower::Gone {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert!(
        host.qemu
            .end_point(&host.guest, &point.ticket, PointOutcome::Failed)
            .await
            .unwrap()
            .held
            .is_empty()
    );
    assert_eq!(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
        Dirty::Lost(LostGeneration::ProcessGone)
    );
    assert_eq!(
        host.qemu
            .dirty_bytes(&host.guest, generation)
            .await
            .unwrap(),
        None
    );
    let recovered = host.qemu.recover(&host.guest).await.unwrap();
    assert_eq!(
        (recovered.power, recovered.tracking.held),
        (GuestPower::Gone, vec![])
    );
    assert_eq!(host.scratch_files(), 0);

    // Frozen for good: the power can still be taken away.
    let generation = host.boot().await;
    monitor::signal(host.identity().unwrap().pid, rustix::process::Signal::STOP);
    assert_eq!(
        host.qemu.power_off(&host.guest).await.unwrap(),
        Stopped::Gone
    );
    assert_eq!(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
        Dirty::Lost(LostGeneration::ProcessGone)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_guest_is_reported_and_goes_on_until_its_power_is_taken() {
    let host = Host::new(|settings| settings.ignore_power_button = true).await;
    let base = host.disks();
    let generation = host.boot().await;
    let error = host
        .qemu
        .power_down(&host.guest, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Deadline);
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    host.wait_for_records(20).await;
    // Paused by somebody: that is neither off nor anything to be mended.
    Monitor::open(&host.files().qmp_socket()).run("stop", &json!({}));
    assert_eq!(
        host.qemu.power(&host.guest).await,
        GuestPower::Paused {
            state: "paused".into()
        }
    );
    assert_eq!(
        host.qemu
            .power_down(&host.guest, LIMIT)
            .await
            .unwrap_err()
            .category(),
        ErrorCategory::Conflict
    );
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap_err().category(),
        ErrorCategory::Conflict
    );
    let error = host
        .qemu
        .begin_point(&host.guest, Some(generation), Uuid::new_v4())
        .await
        .unwrap_err();
    assert_eq!(error.category(), ErrorCategory::Conflict);
    assert!(matches!(
        host.qemu.recover(&host.guest).await.unwrap().power,
        GuestPower::Paused { .. }
    ));
    Monitor::open(&host.files().qmp_socket()).run("cont", &json!({}));

    assert_eq!(
        host.qemu.power_off(&host.guest).await.unwrap(),
        Stopped::ShutDown
    );
    let dirty = known(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
    );
    let after = host.disks();
    assert_eq!(
        blocks_of(&dirty, &host.ids()),
        changed_blocks(&base, &after)
    );
    assert!(host.records(&after).problems.is_empty());
    assert_eq!(
        host.qemu.power_off(&host.guest).await.unwrap(),
        Stopped::ShutDown
    );
    // It is started again without a detour: the old process is ended first.
    host.qemu
        .start(&host.guest, &Host::spec(None))
        .await
        .unwrap();
    host.wait_for_records(20).await;
    assert!(
        !console_lines(&host.console())
            .iter()
            .any(|line| matches!(line, ConsoleLine::NotVerified { .. }))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_or_is_cut_off_leaves_no_process() {
    let mut host = Host::new(|_| {}).await;
    let spec = Host::spec(Some(Uuid::new_v4()));
    host.config.extra_arguments = vec!["-no-such-flag".into()];
    host.replace_agent();
    let error = host.qemu.start(&host.guest, &spec).await.unwrap_err();
    assert!(error.to_string().contains("no-such-flag"), "{error}");
    assert_eq!(
        (host.qemu.power(&host.guest).await, host.identity()),
        (GuestPower::Gone, None)
    );

    host.config.extra_arguments.clear();
    // One command mints the generation, the next lets the guest run.
    for commands in 0..2 {
        host.replace_agent();
        host.qemu.failpoint().stop_after(commands);
        let error = host.qemu.start(&host.guest, &spec).await.unwrap_err();
        assert!(host.identity().is_some(), "{commands}: {error}");
        host.replace_agent();
        assert!(
            matches!(
                host.qemu.power(&host.guest).await,
                GuestPower::Paused { .. }
            ),
            "{commands}"
        );
        assert!(host.qemu.start(&host.guest, &spec).await.is_err());
        let recovered = host.qemu.recover(&host.guest).await.unwrap();
        assert_eq!((recovered.power, host.identity()), (GuestPower::Gone, None));
    }
    host.boot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_may_boot_from_its_disk_and_have_block_devices() {
    let mut host = Host::new(|_| {}).await;
    host.guest.boot = GuestBoot::Disk { firmware: None };
    host.config.cache = CacheMode::None;
    let attached = monitor::LoopDevice::attach(&host.guest.disks[1].path);
    match &attached {
        Some(device) => host.guest.disks[1].path = device.path().to_owned(),
        None => skipped(
            "a_guest_may_boot_from_its_disk_and_have_block_devices, the block device",
            "to attach a loop device",
        ),
    }
    host.replace_agent();
    let generation = Uuid::new_v4();
    host.qemu.check(&host.guest).unwrap();
    host.qemu
        .start(&host.guest, &Host::spec(Some(generation)))
        .await
        .unwrap();
    assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
    let new = Uuid::new_v4();
    let mut point = host
        .qemu
        .begin_point(&host.guest, Some(generation), new)
        .await
        .unwrap();
    assert!(known(point.dirty.clone()).values().all(Vec::is_empty));
    assert_eq!(
        difference(&read_point(&mut point).await.unwrap(), &host.disks()),
        None
    );
    host.qemu
        .end_point(&host.guest, &point.ticket, PointOutcome::Delivered)
        .await
        .unwrap();
    assert_eq!(
        host.qemu.power_off(&host.guest).await.unwrap(),
        Stopped::ShutDown
    );
    assert!(
        known(host.qemu.final_dirty(&host.guest, new).await.unwrap())
            .values()
            .all(Vec::is_empty)
    );
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::Untouched
    );
}
