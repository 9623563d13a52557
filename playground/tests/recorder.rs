//! The recorder as a plain process: what it writes is what `records` reads, however it ends.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use homeward_playground::{
    child::Child,
    guest_image::{ConsoleLine, GuestSettings, console_lines, highest_acknowledged},
    records::{Report, read_disks},
    tools::{self, Tool},
};
use rustix::process::Signal;

struct Recorder {
    child: Child,
    output: PathBuf,
}

impl Recorder {
    fn start(folder: &Path, site: &str, change: impl FnOnce(&mut GuestSettings)) -> Self {
        let mut settings = GuestSettings::new("web", site);
        settings.records_per_second = 200;
        change(&mut settings);
        let output = folder.join("output");
        let mut command = Command::new(tools::find(Tool::Recorder).unwrap());
        command
            .args(settings.recorder_arguments())
            .args(disks(folder))
            .stdout(File::create(&output).unwrap());
        Self {
            child: Child::spawn(command).unwrap(),
            output,
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    fn wait_for_record(&self, number: u64) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while highest_acknowledged(&self.said()) < number {
            assert!(
                Instant::now() < deadline,
                "no record {number}: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn stop(mut self) -> u64 {
        self.child.signal(Signal::TERM).unwrap();
        let status = self
            .child
            .wait_for(Duration::from_secs(30))
            .await
            .unwrap()
            .expect("it stops when asked");
        assert!(status.success(), "{status}: {}", self.said());
        let lines = console_lines(&self.said());
        let Some(ConsoleLine::Stopped { last }) = lines.last() else {
            panic!("{lines:?}")
        };
        *last
    }
}

fn disks(folder: &Path) -> [PathBuf; 2] {
    ["a.raw", "b.raw"].map(|name| folder.join(name))
}

fn make_disks(folder: &Path) {
    for disk in disks(folder) {
        File::create_new(disk).unwrap().set_len(4 << 20).unwrap();
    }
}

fn report(folder: &Path) -> Report {
    let report = read_disks(&disks(folder)).unwrap();
    report.ensure_consistent().unwrap();
    report
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_stop_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    make_disks(folder.path());

    let recorder = Recorder::start(folder.path(), "OnPremises", |settings| {
        settings.dirty_kib_per_second = 2048;
    });
    recorder.wait_for_record(20);
    let last = recorder.stop().await;
    let stopped = report(folder.path());
    assert_eq!((stopped.vm.as_str(), stopped.last), ("web", last));
    assert!(stopped.stopped_cleanly());
    assert!(stopped.scribbles > 0);

    let mut recorder = Recorder::start(folder.path(), "Azure", |settings| {
        settings.dirty_kib_per_second = 2048;
    });
    recorder.wait_for_record(last + 20);
    recorder.child.kill();
    let killed = report(folder.path());
    let acknowledged = highest_acknowledged(&recorder.said());
    assert!(
        killed.last == acknowledged || killed.last == acknowledged + 1,
        "{} {acknowledged}",
        killed.last
    );
    assert!(!killed.stopped_cleanly());
    let sites: Vec<&str> = killed.boots.iter().map(|boot| boot.site.as_str()).collect();
    assert_eq!(sites, ["OnPremises", "Azure"]);

    let recorder = Recorder::start(folder.path(), "OnPremises", |settings| {
        settings.dirty_kib_per_second = 2048;
    });
    recorder.wait_for_record(killed.last + 5);
    assert!(console_lines(&recorder.said()).contains(&ConsoleLine::Verified { last: killed.last }));
    recorder.stop().await;
    report(folder.path());
}

#[tokio::test]
async fn a_full_ring_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    make_disks(folder.path());
    for _ in 0..2 {
        let recorder = Recorder::start(folder.path(), "OnPremises", |settings| {
            settings.records_per_second = 0;
            settings.ring_kib = Some(64);
        });
        recorder.wait_for_record(100);
        recorder.stop().await;
        let report = report(folder.path());
        assert_eq!((report.capacity, report.records.len()), (32, 32));
    }
}

#[tokio::test]
async fn the_recorder_refuses_disks_that_lost_a_write() {
    let folder = tempfile::tempdir().unwrap();
    make_disks(folder.path());
    let recorder = Recorder::start(folder.path(), "OnPremises", |_| {});
    recorder.wait_for_record(10);
    recorder.stop().await;

    // Record 5 of 2 disks: second disk, third sector of the ring, which starts at sector 16.
    let disk = File::options()
        .write(true)
        .open(&disks(folder.path())[1])
        .unwrap();
    disk.write_all_at(&[0; 4096], (16 + 2) * 4096).unwrap();
    assert_eq!(read_disks(&disks(folder.path())).unwrap().gaps(), [5..=5]);

    let mut recorder = Recorder::start(folder.path(), "OnPremises", |_| {});
    let status = recorder
        .child
        .wait_for(Duration::from_secs(30))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(3));
    let lines = console_lines(&recorder.said());
    assert!(
        matches!(&lines[..], [_, ConsoleLine::NotVerified { reason }] if reason.contains("missing=5")),
        "{lines:?}"
    );
}
