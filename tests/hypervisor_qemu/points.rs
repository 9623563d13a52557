//! Points in time of a running guest, their bitmaps, and what becomes of both when something breaks.

use homeward::agent::hypervisor::{
    Dirty, ErrorCategory, GuestPower, Hypervisor as _, LostGeneration, PointOutcome, QuitReport,
};
use homeward_playground::guest_image::{ConsoleLine, console_lines};
use serde_json::json;
use uuid::Uuid;

use crate::host::{Host, LIMIT, apply, blocks_of, changed_blocks, difference, known, read_point};
use crate::monitor::{Monitor, SmallArea};
use crate::skipped::skipped;

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
    // Two seconds of what the guest writes: enough for a point to begin on a machine that is busy.
    let Some(_mounted) = SmallArea::mount(&area, "8m") else {
        skipped(
            "s15_a_full_scratch_area_breaks_the_point_and_never_the_guest",
            "to mount a small file system",
        );
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
