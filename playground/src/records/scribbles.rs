//! Checks the area that a busy guest scribbles over.
//!
//! One scribble is completed before the next is begun, so a point in time holds a prefix of them as well; only the place
//! of the one that was under way may be damaged. That is so for copies and for a writer or a QEMU that was killed; a host
//! that lost power may lose scribbles that were never synced.

use anyhow::Result;

use super::{
    Disk, Problem, Report,
    layout::{CHUNK, Scribble, Superblock, is_blank},
};

/// What one sector of the area holds.
enum Found {
    Blank,
    /// A scribble that belongs here.
    Scribble {
        index: u64,
        boot: u64,
        after_record: u64,
    },
    Damaged,
}

struct Sector {
    disk: u32,
    number: u64,
    place: u64,
    found: Found,
}

/// Reads the whole area of all disks.
pub(super) fn check(disks: &[Disk], set: &Superblock, report: &Report) -> Result<Vec<Problem>> {
    if set.scribble_places() == 0 {
        return Ok(Vec::new());
    }
    let sectors = read(disks, set)?;
    let highest = highest(&sectors, report);
    let latest = latest_by_place(set, highest)?;
    let under_way = set.scribble_place(highest + 1);
    let mut problems = Vec::new();
    for Sector {
        disk,
        number: sector,
        place,
        found,
    } in sectors
    {
        let expected = latest[usize::try_from(place)?];
        match found {
            Found::Blank if expected == 0 => {}
            Found::Blank => problems.push(Problem::LostScribble {
                index: expected,
                disk,
                sector,
            }),
            Found::Damaged if place == under_way => {}
            Found::Damaged => problems.push(Problem::DamagedScribble { disk, sector }),
            Found::Scribble { index, .. } if index < expected => {
                problems.push(Problem::LostScribble {
                    index: expected,
                    disk,
                    sector,
                });
            }
            Found::Scribble {
                index,
                after_record,
                ..
            } if after_record > report.last => {
                problems.push(Problem::EarlyScribble {
                    index,
                    after_record,
                });
            }
            Found::Scribble { .. } => {}
        }
    }
    Ok(problems)
}

fn read(disks: &[Disk], set: &Superblock) -> Result<Vec<Sector>> {
    let mut sectors = Vec::new();
    for (disk, file) in (0..set.disks).zip(disks) {
        file.each_sector(set.scribble_start, set.scribble_sectors, |offset, bytes| {
            let place = offset / CHUNK * u64::from(set.disks) + u64::from(disk);
            let sector = set.scribble_start + offset;
            let found = match Scribble::parse(bytes) {
                Some(found)
                    if found.set == set.set
                        && found.disk == disk
                        && found.sector == sector
                        && set.scribble_place(found.index) == place =>
                {
                    Found::Scribble {
                        index: found.index,
                        boot: found.boot,
                        after_record: found.after_record,
                    }
                }
                _ if is_blank(bytes) => Found::Blank,
                _ => Found::Damaged,
            };
            sectors.push(Sector {
                disk,
                number: sector,
                place,
                found,
            });
            Ok(())
        })?;
    }
    Ok(sectors)
}

/// The highest scribble of the current run. A run that crashed may have left higher ones: its successor starts again
/// from what the last record says.
fn highest(sectors: &[Sector], report: &Report) -> u64 {
    let current = report.boots.last().map(|boot| boot.boot);
    sectors
        .iter()
        .filter_map(|sector| match sector.found {
            Found::Scribble { index, boot, .. } if Some(boot) == current => Some(index),
            _ => None,
        })
        .max()
        .unwrap_or(0)
        .max(report.scribbles)
}

/// For each place the last scribble among the first `count` that went there, 0 for none.
fn latest_by_place(set: &Superblock, count: u64) -> Result<Vec<u64>> {
    let mut latest = vec![0; usize::try_from(set.scribble_places())?];
    for index in 1..=count {
        latest[usize::try_from(set.scribble_place(index))?] = index;
    }
    Ok(latest)
}
