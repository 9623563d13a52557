//! The QEMU hypervisor with a real guest. Needs `tools/setup guest`; runs under TCG, so everywhere.

use std::time::Duration;

use homeward::agent::hypervisor::qemu::{CacheMode, process};
use homeward::agent::hypervisor::{
    Dirty, ErrorCategory, GuestBoot, GuestPower, Hypervisor as _, HypervisorError, LostGeneration,
    PointOutcome, QuitReport, Stopped,
};
use homeward_playground::guest_image::{ConsoleLine, console_lines};
use serde_json::json;
use uuid::Uuid;

#[path = "hypervisor_qemu/host.rs"]
mod host;
#[path = "hypervisor_qemu/monitor.rs"]
mod monitor;

use host::{Host, LIMIT, apply, blocks_of, changed_blocks, difference, known, read_point};
use monitor::Monitor;

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
async fn s15_a_point_is_one_instant_of_all_disks_while_the_guest_writes_on() {
    let host = Host::new(|settings| settings.records_per_second = 0).await;
    let mut base = host.disks();
    let mut old = host.boot().await;
    for _ in 0..3 {
        host.wait_for_records(50).await;
        let acknowledged = host.acknowledged();
        let new = Uuid::new_v4();
        let mut point = host
            .qemu
            .begin_point(&host.guest, Some(old), new)
            .await
            .unwrap();
        assert_eq!(host.qemu.power(&host.guest).await, GuestPower::Running);
        let ticket = point.ticket.clone();
        let second = host
            .qemu
            .begin_point(&host.guest, Some(new), Uuid::new_v4())
            .await
            .unwrap_err();
        assert_eq!(second.category(), ErrorCategory::Conflict);
        // The guest overwrites what is about to be read.
        host.wait_for_records(200).await;
        assert!(
            host.qemu.dirty_bytes(&host.guest, old).await.unwrap()
                > host.qemu.dirty_bytes(&host.guest, new).await.unwrap()
        );
        let dirty = known(point.dirty.clone());
        let content = read_point(&mut point).await.unwrap();
        let report = host.records(&content);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(
            report.last >= acknowledged && report.last < host.acknowledged(),
            "{} {}",
            report.last,
            host.acknowledged()
        );
        // What is reported dirty is what differs from the point before.
        assert_eq!(
            blocks_of(&dirty, &host.ids()),
            changed_blocks(&base, &content)
        );
        apply(&mut base, &content, &host.ids(), &dirty);
        assert_eq!(difference(&base, &content), None);
        let held = host
            .qemu
            .end_point(&host.guest, &ticket, PointOutcome::Delivered)
            .await
            .unwrap();
        assert_eq!(held.held, vec![new]);
        assert!(
            host.qemu
                .end_point(&host.guest, &ticket, PointOutcome::Delivered)
                .await
                .is_err()
        );
        assert_eq!(host.scratch_files(), 0);
        old = new;
    }
    host.wait_for_records(50).await;
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let dirty = known(host.qemu.final_dirty(&host.guest, old).await.unwrap());
    let after = host.disks();
    assert_eq!(
        blocks_of(&dirty, &host.ids()),
        changed_blocks(&base, &after)
    );
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::Untouched
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_a_failed_point_gives_its_bits_back() {
    let host = Host::new(|_| {}).await;
    let mut base = host.disks();
    let generation = host.boot().await;
    for _ in 0..2 {
        let new = Uuid::new_v4();
        let mut point = host
            .qemu
            .begin_point(&host.guest, Some(generation), new)
            .await
            .unwrap();
        host.wait_for_records(30).await;
        let ticket = point.ticket.clone();
        let held = host
            .qemu
            .end_point(&host.guest, &ticket, PointOutcome::Failed)
            .await
            .unwrap();
        assert_eq!(held.held, vec![generation]);
        // Its sources fail now.
        assert!(read_point(&mut point).await.is_err());
        host.wait_for_records(30).await;
    }
    // A generation that nobody holds is said to be lost, and the point is read as a whole.
    let mut point = host
        .qemu
        .begin_point(&host.guest, Some(Uuid::new_v4()), Uuid::new_v4())
        .await
        .unwrap();
    assert!(matches!(
        point.dirty,
        Dirty::Lost(LostGeneration::Missing { .. })
    ));
    assert!(
        host.records(&read_point(&mut point).await.unwrap())
            .problems
            .is_empty()
    );
    host.qemu
        .end_point(&host.guest, &point.ticket, PointOutcome::Failed)
        .await
        .unwrap();

    // A guest that powers off in the middle of a point.
    let point = host
        .qemu
        .begin_point(&host.guest, Some(generation), Uuid::new_v4())
        .await
        .unwrap();
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let held = host
        .qemu
        .end_point(&host.guest, &point.ticket, PointOutcome::Failed)
        .await
        .unwrap();
    assert_eq!(held.held, vec![generation]);
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
    apply(&mut base, &after, &host.ids(), &dirty);
    assert_eq!(difference(&base, &after), None);
    // S14: a disk that has another size than at the beginning voids the generation.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&host.guest.disks[1].path)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let lost = host
        .qemu
        .final_dirty(&host.guest, generation)
        .await
        .unwrap();
    assert_eq!(
        lost,
        Dirty::Lost(LostGeneration::Resized {
            disk: "disk-b".into(),
            was: (24 << 20) + 512,
            is: 32 << 20
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_disk_that_grows_while_the_guest_runs_voids_the_generation() {
    let host = Host::new(|_| {}).await;
    let generation = host.boot().await;
    // QEMU itself refuses: an NVMe disk in use keeps its size.
    let mut monitor = Monitor::open(&host.files().qmp_socket());
    assert!(
        monitor
            .try_run(
                "block_resize",
                &json!({"node-name": "disk0", "size": 32 << 20})
            )
            .is_err()
    );
    drop(monitor);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&host.guest.disks[0].path)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let lost = Dirty::Lost(LostGeneration::Resized {
        disk: "disk-a".into(),
        was: 24 << 20,
        is: 32 << 20,
    });
    assert_eq!(
        host.qemu
            .dirty_bytes(&host.guest, generation)
            .await
            .unwrap(),
        None
    );
    let new = Uuid::new_v4();
    let mut point = host
        .qemu
        .begin_point(&host.guest, Some(generation), new)
        .await
        .unwrap();
    assert_eq!(point.dirty, lost);
    // What the guest has is what is read.
    assert_eq!(point.disks[0].size, 24 << 20);
    assert!(
        host.records(&read_point(&mut point).await.unwrap())
            .problems
            .is_empty()
    );
    // As long as file and guest disagree no generation is trusted.
    let held = host
        .qemu
        .end_point(&host.guest, &point.ticket, PointOutcome::Delivered)
        .await
        .unwrap();
    assert!(held.held.is_empty());
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    assert!(matches!(
        host.qemu.final_dirty(&host.guest, new).await.unwrap(),
        Dirty::Lost(LostGeneration::Resized { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_a_full_scratch_area_breaks_the_point_and_never_the_guest() {
    let mut host = Host::new(|settings| settings.dirty_kib_per_second = 4096).await;
    let area = host.path().join("scratch");
    std::fs::create_dir(&area).unwrap();
    let Some(_mounted) = monitor::SmallArea::mount(&area, "1m") else {
        eprintln!("left out: mounting a small file system needs root");
        return;
    };
    host.replace_agent();
    let mut base = host.disks();
    let generation = host.boot().await;
    let mut point = host
        .qemu
        .begin_point(&host.guest, Some(generation), Uuid::new_v4())
        .await
        .unwrap();
    host.wait_for_records(400).await;
    let error = read_point(&mut point).await.unwrap_err();
    assert_eq!(
        host.qemu.power(&host.guest).await,
        GuestPower::Running,
        "{error}"
    );
    let held = host
        .qemu
        .end_point(&host.guest, &point.ticket, PointOutcome::Failed)
        .await
        .unwrap();
    assert_eq!(held.held, vec![generation]);
    host.wait_for_records(20).await;
    assert!(
        !console_lines(&host.console())
            .iter()
            .any(|line| matches!(line, ConsoleLine::Error { .. }))
    );
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let dirty = known(
        host.qemu
            .final_dirty(&host.guest, generation)
            .await
            .unwrap(),
    );
    let after = host.disks();
    apply(&mut base, &after, &host.ids(), &dirty);
    assert_eq!(difference(&base, &after), None);
    assert!(host.records(&after).problems.is_empty());
    host.qemu.quit(&host.guest).await.unwrap();
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
        None => eprintln!("without a block device: attaching one needs root"),
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

/// The agent dies after each command of a point: of its beginning, of its delivered end, of its failed end. Whatever generation is
/// said to hold afterwards must tell the truth: the next point is built from it and compared with what the disks really hold.
#[tokio::test(flavor = "multi_thread")]
async fn s13_an_agent_that_dies_anywhere_in_a_point_leaves_a_running_guest_and_no_wrong_trust() {
    let mut host = Host::new(|_| {}).await;
    let mut base = host.disks();
    let mut old = host.boot().await;
    let mut deaths = 0;
    // All places with FULL=1, else every third; SEED says with which one to begin.
    let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let full = setting("HOMEWARD_FULL").is_some();
    let seed = setting("HOMEWARD_SEED").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| i64::from(std::process::id()));
    let (start, step) = if full { (0, 1) } else { (seed % 3, 3) };
    let said = format!("the torture of a guest: seed {seed}; SEED={seed} repeats it\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
    let endings = [
        None,
        Some(PointOutcome::Delivered),
        Some(PointOutcome::Failed),
    ];
    // Between two commands, and right after a write whose commands QEMU may execute or forget.
    for (ending, hang_up) in endings
        .into_iter()
        .flat_map(|ending| [(ending, false), (ending, true)])
    {
        for commands in (start..).step_by(step) {
            let new = Uuid::new_v4();
            let mut delivered = None;
            let failpoint = host.qemu.failpoint().clone();
            let survived = if let Some(outcome) = ending {
                let mut point = host
                    .qemu
                    .begin_point(&host.guest, Some(old), new)
                    .await
                    .unwrap();
                delivered = Some(read_point(&mut point).await.unwrap());
                host.wait_for_records(3).await;
                if hang_up {
                    failpoint.hang_up_after(commands);
                } else {
                    failpoint.stop_after(commands);
                }
                host.qemu
                    .end_point(&host.guest, &point.ticket, outcome)
                    .await
                    .is_ok()
            } else {
                if hang_up {
                    failpoint.hang_up_after(commands);
                } else {
                    failpoint.stop_after(commands);
                }
                host.qemu
                    .begin_point(&host.guest, Some(old), new)
                    .await
                    .is_ok()
            };
            assert_eq!(survived, !failpoint.struck());
            deaths += u32::from(!survived);
            host.replace_agent();
            let recovered = host.qemu.recover(&host.guest).await.unwrap();
            assert_eq!(
                recovered.power,
                GuestPower::Running,
                "{ending:?} {hang_up} {commands}: {:?}",
                recovered.mended
            );
            assert_eq!(host.scratch_files(), 0, "{ending:?} {hang_up} {commands}");
            // Nothing is lost needlessly either: one of the two generations always holds.
            let held = recovered.tracking.held;
            let expected = if ending == Some(PointOutcome::Delivered) {
                new
            } else {
                old
            };
            assert!(
                held.contains(&expected),
                "{ending:?} {hang_up} {commands}: {held:?}"
            );
            host.wait_for_records(3).await;

            // Every generation that is said to hold is followed to the end.
            let bases = held.iter().filter_map(|generation| {
                if *generation == old {
                    Some((*generation, base.clone()))
                } else {
                    delivered.clone().map(|content| (*generation, content))
                }
            });
            let bases: Vec<_> = bases.collect();
            for (index, (generation, mut copy)) in bases.iter().cloned().enumerate() {
                let last = index + 1 == bases.len();
                let next = Uuid::new_v4();
                let mut point = host
                    .qemu
                    .begin_point(&host.guest, Some(generation), next)
                    .await
                    .unwrap();
                let dirty = known(point.dirty.clone());
                let content = read_point(&mut point).await.unwrap();
                apply(&mut copy, &content, &host.ids(), &dirty);
                assert_eq!(
                    difference(&copy, &content),
                    None,
                    "{ending:?} {hang_up} {commands}, generation {index} of {}",
                    bases.len()
                );
                let report = host.records(&content);
                assert!(report.problems.is_empty(), "{:?}", report.problems);
                let outcome = if last {
                    PointOutcome::Delivered
                } else {
                    PointOutcome::Failed
                };
                let after = host
                    .qemu
                    .end_point(&host.guest, &point.ticket, outcome)
                    .await
                    .unwrap();
                assert!(after.held.contains(if last { &next } else { &generation }));
                if last {
                    assert_eq!(after.held, vec![next]);
                    (old, base) = (next, content);
                }
            }
            if survived {
                break;
            }
        }
    }
    assert!(deaths > if full { 60 } else { 20 }, "{deaths} deaths");
    host.qemu.power_down(&host.guest, LIMIT).await.unwrap();
    let dirty = known(host.qemu.final_dirty(&host.guest, old).await.unwrap());
    let after = host.disks();
    apply(&mut base, &after, &host.ids(), &dirty);
    assert_eq!(difference(&base, &after), None);
    assert_eq!(
        host.qemu.quit(&host.guest).await.unwrap(),
        QuitReport::Untouched
    );
}
