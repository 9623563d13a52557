//! What a transfer takes of memory, whatever the size of the disk. A process of its own: the kernel tells the peak of a process as a whole.
#![allow(missing_docs, dead_code)]

#[path = "dataplane/support.rs"]
mod support;

use std::io::Write as _;

use homeward::dataplane::{Candidates, Mode};
use support::{Site, noise, pass, spec};

const MIB: u64 = 1 << 20;

/// Of a line of `/proc/self/status`, in bytes.
fn of_this_process(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// A disk of noise, so that nothing of it is a hole, filled a piece at a time.
fn fill(site: &Site, seed: u64, size: u64) {
    let mut file = std::fs::File::create(site.path("vda")).unwrap();
    for at in 0..size / MIB {
        file.write_all(&noise(seed + at, usize::try_from(MIB).unwrap()))
            .unwrap();
    }
}

/// How much more than before was taken at the peak.
fn peak(work: impl FnOnce()) -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = of_this_process("VmRSS:");
    work();
    of_this_process("VmHWM:").saturating_sub(before)
}

#[test]
fn a_transfer_takes_16_mib_for_a_disk_at_most_whatever_its_size() {
    let mut peaks = Vec::new();
    for size in [32 * MIB, 256 * MIB] {
        for mode in [Mode::InPlace, Mode::NewFiles] {
            let (source, target) = (Site::new(&[("vda", b"")]), Site::new(&[("vda", b"")]));
            fill(&source, 1, size);
            // Everything differs, so that in place all of it goes through the undo journal too.
            fill(&target, 1_000_000, size);
            source.reopen().unwrap();
            target.reopen().unwrap();
            let took = peak(|| {
                let outcome = pass(&source, &target, spec(1, mode, Candidates::All)).0;
                assert_eq!(outcome.unwrap().bytes_changed, size);
            });
            println!("{mode:?}, {} MiB: {} KiB", size / MIB, took / 1024);
            peaks.push((mode, size, took));
        }
    }
    for (mode, size, took) in peaks {
        // Sender and receiver are both in this process.
        assert!(took <= 2 * 16 * MIB, "{mode:?}, {size} bytes: {took}");
    }
}
