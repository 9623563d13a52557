//! A second writer of the format, small enough to be seen right, and what becomes of its disks when they are damaged.

use std::{fs::OpenOptions, io::Write as _};

use proptest::prelude::*;

use super::{
    layout::{CHUNK, mix},
    *,
};

const RING: u64 = 4;
const AREA: u64 = 8;
const SET: u64 = 77;
const SEED: u64 = 5;
const RING_START: u64 = 16;
const DISK_SECTORS: u64 = RING_START + RING + AREA;

fn sector(magic: [u8; 8], parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.resize(SECTOR, 0xa5);
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes).to_le_bytes();
    bytes[SECTOR - 8..].copy_from_slice(&sum);
}

fn text<const N: usize>(value: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..value.len()].copy_from_slice(value.as_bytes());
    bytes
}

/// The disks of a guest, in memory.
#[derive(Clone)]
struct Model {
    disks: Vec<Vec<u8>>,
    last: u64,
    previous: u64,
    scribbles: u64,
}

impl Model {
    fn new(count: u32) -> Self {
        let disks = (0..count)
            .map(|disk| {
                let mut bytes = vec![0; usize::try_from(DISK_SECTORS).unwrap() * SECTOR];
                let numbers = [SET, SEED, RING_START, RING, RING_START + RING, AREA]
                    .map(u64::to_le_bytes)
                    .concat();
                let block = sector(
                    *b"HWDISK01",
                    &[
                        &disk.to_le_bytes(),
                        &count.to_le_bytes(),
                        &numbers,
                        &text::<64>("web"),
                    ],
                );
                bytes[..SECTOR].copy_from_slice(&block);
                bytes
            })
            .collect();
        Self {
            disks,
            last: 0,
            previous: 0,
            scribbles: 0,
        }
    }

    fn count(&self) -> u64 {
        self.disks.len() as u64
    }

    fn at(&mut self, disk: u64, sector: u64) -> &mut [u8] {
        let start = usize::try_from(sector).unwrap() * SECTOR;
        &mut self.disks[usize::try_from(disk).unwrap()][start..start + SECTOR]
    }

    fn place_of(&mut self, number: u64) -> &mut [u8] {
        let (disk, sector) = (
            number % self.count(),
            RING_START + number / self.count() % RING,
        );
        self.at(disk, sector)
    }

    fn record(&mut self, boot: u64, site: &str, kind: u32) {
        self.last += 1;
        let numbers = [self.last, self.previous, boot, SET, 0, self.scribbles]
            .map(u64::to_le_bytes)
            .concat();
        let disk = u32::try_from(self.last % self.count()).unwrap();
        let bytes = sector(
            *b"HWREC001",
            &[
                &numbers,
                &disk.to_le_bytes(),
                &kind.to_le_bytes(),
                &text::<32>(site),
                &text::<64>("web"),
            ],
        );
        self.previous = checksum(&bytes);
        let number = self.last;
        self.place_of(number).copy_from_slice(&bytes);
    }

    fn records(mut self, count: u64) -> Self {
        for _ in 0..count {
            self.record(1, "OnPremises", 0);
        }
        self
    }

    fn scribble(&mut self, boot: u64) {
        self.scribbles += 1;
        let index = self.scribbles;
        let place = mix(SEED + index) % (AREA / CHUNK * self.count());
        let disk = place % self.count();
        let start = RING_START + RING + place / self.count() * CHUNK;
        for at in start..start + CHUNK {
            let numbers = [index, boot, SET, self.last, at]
                .map(u64::to_le_bytes)
                .concat();
            let bytes = sector(
                *b"HWSCRIB1",
                &[&numbers, &u32::try_from(disk).unwrap().to_le_bytes()],
            );
            self.at(disk, at).copy_from_slice(&bytes);
        }
    }

    fn report(&self) -> Report {
        self.try_report().unwrap()
    }

    fn try_report(&self) -> Result<Report> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..self.disks.len())
            .map(|index| folder.path().join(index.to_string()))
            .collect();
        for (path, bytes) in paths.iter().zip(&self.disks) {
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .open(path)
                .unwrap();
            file.write_all(bytes).unwrap();
        }
        read_disks(&paths)
    }
}

#[test]
fn blank_disks_hold_nothing() {
    let mut model = Model::new(2);
    model.disks.iter_mut().for_each(|disk| disk.fill(0));
    assert_eq!(model.report(), Report::default());
}

#[test]
fn records_are_found_before_and_after_the_ring_is_full() {
    for disks in 1..=3 {
        for count in 0..40 {
            let report = Model::new(disks).records(count).report();
            report.ensure_consistent().unwrap();
            assert_eq!((report.last, report.contiguous), (count, count));
            assert_eq!(report.records.len() as u64, count.min(report.capacity));
        }
    }
}

#[test]
fn boots_and_sites_are_told_apart() {
    let mut model = Model::new(2).records(2);
    model.record(1, "OnPremises", 2);
    model.record(2, "Azure", 1);
    let report = model.report();
    let seen: Vec<_> = report
        .boots
        .iter()
        .map(|it| (it.site.as_str(), it.records.clone(), it.stopped))
        .collect();
    assert_eq!(seen, [("OnPremises", 1..=3, true), ("Azure", 4..=4, false)]);
    assert!(!report.stopped_cleanly());
    assert_eq!(report.record(3).unwrap().kind, Kind::Stop);
}

#[test]
fn a_lost_write_is_a_gap() {
    let mut model = Model::new(2).records(6);
    model.place_of(4).fill(0);
    model.place_of(5).fill(0);
    let report = model.report();
    assert_eq!(report.contiguous, 3);
    assert_eq!(report.gaps(), [4..=5]);
    assert!(
        report
            .ensure_consistent()
            .unwrap_err()
            .to_string()
            .contains("record 4 is missing")
    );
}

#[test]
fn an_older_lap_in_the_place_of_a_required_record_is_a_gap() {
    let old = Model::new(2).records(10);
    let mut model = old.clone().records(5);
    let stale = old.clone().place_of(5).to_vec();
    model.place_of(13).copy_from_slice(&stale);
    assert_eq!(
        model.report().problems[0],
        Problem::Missing {
            number: 13,
            damaged: false
        }
    );
}

#[test]
fn the_place_of_the_next_record_may_be_torn_and_no_other() {
    for count in [3, 20] {
        let mut model = Model::new(2).records(count);
        model.place_of(count + 1)[100..].fill(0xee);
        model.report().ensure_consistent().unwrap();
        model.place_of(count + 2)[100..].fill(0xee);
        assert_eq!(model.report().problems.len(), 1);
    }
}

#[test]
fn disks_of_different_times_are_found_out() {
    let early = Model::new(2).records(3);
    let mut mixed = early.clone().records(3);
    mixed.disks[0] = early.disks[0].clone();
    assert_eq!(mixed.report().gaps(), [4..=4]);
}

#[test]
fn two_histories_are_found_out() {
    let common = Model::new(1).records(2);
    let mut here = common.clone();
    let mut there = common;
    for _ in 0..2 {
        here.record(1, "OnPremises", 0);
        there.record(2, "Azure", 0);
    }
    let foreign = there.place_of(4).to_vec();
    here.place_of(4).copy_from_slice(&foreign);
    assert_eq!(here.report().problems, [Problem::BrokenChain { number: 4 }]);
}

#[test]
fn swapped_disks_are_refused() {
    let mut model = Model::new(2).records(3);
    model.disks.swap(0, 1);
    let error = model.try_report().unwrap_err().to_string();
    assert!(error.contains("is disk 1 of 2, not 0 of 2"), "{error}");
}

#[test]
fn a_disk_of_another_set_is_refused() {
    let mut model = Model::new(2).records(3);
    let block = model.at(1, 0);
    block[16] ^= 1;
    seal(block);
    assert!(
        model
            .try_report()
            .unwrap_err()
            .to_string()
            .contains("is of another set")
    );
}

#[test]
fn a_shrunk_disk_is_refused() {
    let mut model = Model::new(1).records(1);
    model.disks[0].truncate(SECTOR * 20);
    assert!(
        model
            .try_report()
            .unwrap_err()
            .to_string()
            .contains("has shrunk")
    );
}

fn scribbled() -> Model {
    let mut model = Model::new(2);
    model.record(1, "OnPremises", 1);
    for _ in 0..12 {
        model.scribble(1);
    }
    model.record(1, "OnPremises", 0);
    model
}

fn scribbled_sector(model: &Model, index: u64) -> (u64, u64) {
    let place = mix(SEED + index) % (AREA / CHUNK * model.count());
    (
        place % model.count(),
        RING_START + RING + place / model.count() * CHUNK,
    )
}

#[test]
fn scribbles_are_found_whole() {
    let report = scribbled().report();
    report.ensure_consistent().unwrap();
    assert_eq!(report.scribbles, 12);
}

#[test]
fn a_lost_scribble_is_found_out() {
    let mut model = scribbled();
    let (disk, sector) = scribbled_sector(&model, 12);
    model.at(disk, sector + 2).fill(0);
    assert_eq!(
        model.report().problems,
        [Problem::LostScribble {
            index: 12,
            disk: u32::try_from(disk).unwrap(),
            sector: sector + 2
        }]
    );
}

#[test]
fn a_scribble_in_the_wrong_place_is_damage() {
    let mut model = scribbled();
    let (disk, sector) = scribbled_sector(&model, 12);
    let moved = model.at(disk, sector).to_vec();
    model.at(disk, sector + 1).copy_from_slice(&moved);
    assert!(matches!(
        model.report().problems[..],
        [Problem::DamagedScribble { .. }]
    ));
}

#[test]
fn a_scribble_newer_than_the_last_record_needs_all_before_it() {
    let mut model = scribbled();
    model.scribble(1);
    let before = model.clone();
    model.scribble(1);
    model.report().ensure_consistent().unwrap();
    let (disk, sector) = scribbled_sector(&model, 14);
    // The one under way may be damaged.
    let mut torn = before;
    torn.at(disk, sector)[9] ^= 1;
    torn.report().ensure_consistent().unwrap();
    // A later one without its predecessor is not a point in time.
    let (disk, sector) = scribbled_sector(&model, 13);
    if scribbled_sector(&model, 14) != (disk, sector) {
        model.at(disk, sector).fill(0);
        assert!(matches!(
            model.report().problems[..],
            [Problem::LostScribble { index: 13, .. }]
        ));
    }
}

#[test]
fn a_scribble_without_the_record_before_it_is_found_out() {
    let mut model = scribbled();
    model.scribble(1);
    model.place_of(2).fill(0);
    let problems = model.report().problems;
    assert!(
        problems.iter().any(|it| matches!(
            it,
            Problem::EarlyScribble {
                index: 13,
                after_record: 2
            }
        )),
        "{problems:?}"
    );
}

proptest! {
    /// Copies of single disks from two moments are a point in time only when nothing was written between them to the
    /// disk that is older, or to the one that is newer.
    #[test]
    fn only_points_in_time_pass(disks in 2_u32..4, early in 1_u64..30, more in 0_u64..8, stale in 0_usize..4) {
        let stale = stale % disks as usize;
        let old = Model::new(disks).records(early);
        let mut mixed = old.clone().records(more);
        mixed.disks[stale] = old.disks[stale].clone();
        let lost = (early + 1..=early + more).filter(|number| number % u64::from(disks) == stale as u64);
        // Only records after which nothing else was written may be gone without a trace.
        let first_lost = lost.min();
        let expected = first_lost.is_none_or(|first| first == early + more);
        prop_assert_eq!(mixed.report().problems.is_empty(), expected);
    }
}
