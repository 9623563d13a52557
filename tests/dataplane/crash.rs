//! S10, S11, S12: a crash after any effect leads to the whole old or the whole new content.

use std::path::PathBuf;
use std::sync::Arc;

use homeward::dataplane::io::fs::Fs;
use homeward::dataplane::*;
use proptest::prelude::*;

use crate::room::no_journal;
use crate::simfs::{Dice, SimFs};
use crate::support::*;

pub type Disks = Vec<(&'static str, Vec<u8>)>;

fn site(fs: &SimFs, disks: &Disks) -> Site {
    let list: Vec<_> = disks
        .iter()
        .map(|(name, content)| (*name, content.as_slice()))
        .collect();
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    Site::at(fs, PathBuf::from("/vm"), None, &list)
}

/// Two disks, one of odd size: data changes, zeros come and go, most stays.
pub fn old_and_new() -> (Disks, Disks) {
    let mut a = noise(1, 6 * KIB64);
    a[KIB64..2 * KIB64].fill(0);
    let b = noise(2, KIB64 + 512);
    let (mut new_a, mut new_b) = (a.clone(), b.clone());
    new_a[..KIB64].copy_from_slice(&noise(3, KIB64));
    new_a[KIB64 + 7] = 1;
    new_a[4 * KIB64..5 * KIB64].fill(0);
    new_b[KIB64..].copy_from_slice(&noise(4, 512));
    (
        vec![("vda", a), ("vdb", b)],
        vec![("vda", new_a), ("vdb", new_b)],
    )
}

pub fn content(site: &Site) -> Disks {
    site.names()
        .iter()
        .map(|name| (if name == "vda" { "vda" } else { "vdb" }, site.read(name)))
        .collect()
}

/// After a crash: whole and new, or whole and old by undo. Says whether it was new.
pub fn old_or_new_by_undo(target: &Site, old: &Disks, new: &Disks, what: &str) -> bool {
    let whole_new = |target: &Site| match target.set().content() {
        Content::Whole { point, exact: true } => point.point == "point 9",
        _ => false,
    };
    if whole_new(target) {
        assert_eq!(&content(target), new, "{what}: recorded as whole");
        return true;
    }
    target
        .set()
        .undo()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(&content(target), old, "{what}: undone");
    assert!(!target.set().has_open_journal());
    false
}

pub struct Case {
    pub base: bool,
    pub mode: Mode,
    pub ranges: bool,
}

/// A fresh pair: the target holds the old content, known whole or unknown; the source holds the new.
pub fn pair(case: &Case, old: &Disks, new: &Disks) -> (Site, SimFs, Site, Candidates) {
    let (near, far) = (SimFs::new(), SimFs::new());
    let (source, target) = (site(&near, old), site(&far, old));
    let mut candidates = Candidates::All;
    if case.base {
        let outcome = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
            .0
            .unwrap();
        if case.ranges {
            candidates = ranges(
                &outcome.roots,
                &[
                    ("vda", 0..2 * KIB64 as u64),
                    ("vda", 4 * KIB64 as u64..5 * KIB64 as u64),
                    ("vdb", KIB64 as u64..KIB64 as u64 + 512),
                ],
            );
        }
    }
    for (name, content) in new {
        source.write(name, 0, content);
    }
    (source, far, target, candidates)
}

/// Crashes at every effect of a pass in turn, then hands the target to `then`.
///
/// `HOMEWARD_FULL` repeats it with other losses of what was not synced; `HOMEWARD_SEED` chooses them.
fn at_every_effect(
    case: &Case,
    mut then: impl FnMut(u64, &Site, &SimFs, &Site, &Candidates, &mut Dice),
) {
    let (old, new) = old_and_new();
    let mut crashes = 0;
    let setting = |name| {
        std::env::var(name)
            .ok()
            .filter(|text: &String| !text.is_empty())
    };
    let first = setting("HOMEWARD_SEED")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0_u64);
    let seeds = if setting("HOMEWARD_FULL").is_some() {
        8
    } else {
        1
    };
    for seed in first..first + seeds {
        for n in 1.. {
            let mut dice = Dice::new(seed * 10_007 + n);
            let (source, far, target, candidates) = pair(case, &old, &new);
            far.crash_at(n);
            let (outcome, _) = pass(&source, &target, spec(9, case.mode, candidates.clone()));
            if !far.has_crashed() {
                assert_eq!(
                    outcome.unwrap().roots,
                    target.set().content().whole().unwrap().roots
                );
                break;
            }
            crashes += 1;
            far.power_cycle(&mut dice);
            target
                .reopen()
                .unwrap_or_else(|error| panic!("crash at effect {n}, seed {seed}: {error}"));
            then(n, &source, &far, &target, &candidates, &mut dice);
        }
    }
    assert!(crashes > 20, "{crashes}");
}

const CASES: [Case; 3] = [
    Case {
        base: false,
        mode: Mode::InPlace,
        ranges: false,
    },
    Case {
        base: true,
        mode: Mode::InPlace,
        ranges: false,
    },
    Case {
        base: true,
        mode: Mode::InPlace,
        ranges: true,
    },
];

#[test]
fn s10_a_crash_at_any_effect_is_undone_to_the_whole_old_content() {
    let (old, new) = old_and_new();
    for case in CASES {
        at_every_effect(&case, |n, _, _, target, _, _| {
            old_or_new_by_undo(target, &old, &new, &format!("effect {n}"));
        });
    }
}

#[test]
fn s10_a_crash_at_any_effect_resumes_to_the_whole_new_content() {
    let (_, new) = old_and_new();
    for case in CASES {
        at_every_effect(&case, |n, source, _, target, candidates, _| {
            let (outcome, _) = pass(source, target, spec(9, Mode::InPlace, candidates.clone()));
            outcome.unwrap_or_else(|error| panic!("effect {n}: {error}"));
            assert_eq!(content(target), new, "effect {n}");
            assert!(target.set().content().whole().is_some());
        });
    }
}

#[test]
fn s12_what_a_killed_process_wrote_is_synced_before_it_counts() {
    let (old, new) = old_and_new();
    let case = &CASES[1];
    for n in 1.. {
        let (source, far, target, candidates) = pair(case, &old, &new);
        far.crash_at(n);
        let (outcome, _) = pass(&source, &target, spec(9, Mode::InPlace, candidates.clone()));
        if !far.has_crashed() {
            outcome.unwrap();
            break;
        }
        // The machine lives on, and with it what is in its cache: the next session finds it there.
        far.kill();
        target.reopen().unwrap();
        pass(&source, &target, spec(9, Mode::InPlace, candidates))
            .0
            .unwrap();
        far.lose_what_is_not_synced();
        target.reopen().unwrap();
        assert!(target.set().content().whole().is_some());
        assert_eq!(content(&target), new, "effect {n}");
    }
}

#[test]
fn s10_undo_may_crash_anywhere_and_is_begun_again() {
    let (old, new) = old_and_new();
    let case = &CASES[1];
    // Past the middle of a pass, so that there is much to undo.
    let total = {
        let (source, far, target, candidates) = pair(case, &old, &new);
        let before = far.effects();
        pass(&source, &target, spec(9, Mode::InPlace, candidates))
            .0
            .unwrap();
        far.effects() - before
    };
    for stop in [total / 2, total * 2 / 3, total - 12] {
        for m in 1.. {
            let mut dice = Dice::new(m);
            let (source, far, target, candidates) = pair(case, &old, &new);
            far.crash_at(stop);
            pass(&source, &target, spec(9, Mode::InPlace, candidates.clone()))
                .0
                .unwrap_err();
            far.power_cycle(&mut dice);
            target.reopen().unwrap();
            far.crash_at(m);
            let undone = target.set().undo();
            let crashed = far.has_crashed();
            far.power_cycle(&mut dice);
            target.reopen().unwrap();
            if m % 2 == 0 {
                old_or_new_by_undo(
                    &target,
                    &old,
                    &new,
                    &format!("stop {stop}, undo effect {m}"),
                );
            } else {
                // A pass may also follow a half-done undo.
                pass(&source, &target, spec(10, Mode::InPlace, candidates))
                    .0
                    .unwrap();
                assert_eq!(content(&target), new);
            }
            if !crashed {
                undone.unwrap();
                break;
            }
        }
    }
}

#[test]
fn s10_a_full_copy_leaves_the_old_files_alone_until_the_seal() {
    let (old, new) = old_and_new();
    let case = Case {
        base: true,
        mode: Mode::NewFiles,
        ranges: false,
    };
    at_every_effect(&case, |n, source, _, target, _, _| {
        assert_eq!(content(target), old, "effect {n}");
        if n % 2 == 0 {
            target.set().undo().unwrap();
            assert_eq!(content(target), old);
            assert!(matches!(
                target.set().content(),
                Content::Whole { exact: true, .. }
            ));
        } else {
            let outcome = pass(source, target, spec(9, Mode::NewFiles, Candidates::All))
                .0
                .unwrap();
            assert_eq!(content(target), old);
            target.set().seal(&outcome.roots).unwrap();
            assert_eq!(content(target), new);
        }
    });
}

#[test]
fn s11_a_crash_in_a_seal_is_replayed_or_has_not_happened() {
    let (old, new) = old_and_new();
    for mode in [Mode::NewFiles, Mode::InPlace] {
        let case = Case {
            base: true,
            mode,
            ranges: false,
        };
        for n in 1.. {
            let mut dice = Dice::new(n);
            let (source, far, target, candidates) = pair(&case, &old, &new);
            let roots = pass(&source, &target, spec(9, mode, candidates))
                .0
                .unwrap()
                .roots;
            far.crash_at(n);
            let sealed = target.set().seal(&roots);
            let crashed = far.has_crashed();
            far.power_cycle(&mut dice);
            target.reopen().unwrap();
            let is_sealed = target.set().sealed().is_some();
            if is_sealed {
                assert_eq!(content(&target), new, "effect {n}");
                assert!(matches!(target.set().undo(), Err(SetError::Sealed)));
            } else if mode == Mode::NewFiles {
                assert_eq!(content(&target), old, "effect {n}");
            }
            target.set().seal(&roots).unwrap();
            assert_eq!(content(&target), new, "effect {n}");
            if !crashed {
                sealed.unwrap();
                assert!(is_sealed);
                break;
            }
        }
    }
}

/// One block of the new content.
#[derive(Debug, Clone, Copy)]
enum Change {
    Same,
    Data,
    Zero,
}

/// What comes between the first pass and the last word.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A pass that is cut short at an effect, then loses power (or only the process); with or without room for a journal.
    Pass { at: u64, power: bool, room: bool },
    /// An undo that is cut short likewise.
    Undo { at: u64, power: bool },
    /// A pass during which the file system fills up at an effect; then there is room again.
    Full { at: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![Just(Change::Same), Just(Change::Data), Just(Change::Zero)]
}

fn step() -> impl Strategy<Value = Step> {
    (0..4, 1u64..130, any::<bool>()).prop_map(|(kind, at, power)| match kind {
        0 => Step::Undo { at, power },
        1 => Step::Full { at },
        room => Step::Pass {
            at,
            power,
            room: room == 2,
        },
    })
}

fn changed(old: &[u8], changes: &[Change], size: usize) -> Vec<u8> {
    let mut new = old.to_vec();
    new.resize(size, 0);
    for (at, (block, change)) in new.chunks_mut(KIB64).zip(changes).enumerate() {
        match change {
            Change::Same => {}
            Change::Data => block.copy_from_slice(&noise(100 + at as u64, block.len())),
            Change::Zero => block.fill(0),
        }
    }
    new
}

fn cases() -> u32 {
    if std::env::var("HOMEWARD_FULL").is_ok_and(|text| !text.is_empty()) {
        2000
    } else {
        64
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Whatever was cut short in whatever order, with the disk growing or shrinking meanwhile: the last word holds, every byte of it.
    #[test]
    fn s10_any_history_of_crashes_ends_whole(
        sectors in 1usize..500,
        new_sectors in prop::option::of(1usize..500),
        changes in prop::collection::vec(change(), 4),
        known: bool,
        steps in prop::collection::vec(step(), 1..4),
        back: bool,
        seed: u64,
    ) {
        let mut dice = Dice::new(seed);
        let old = noise(1, sectors * 512);
        let new = changed(&old, &changes, new_sectors.unwrap_or(sectors) * 512);
        let (near, far) = (SimFs::new(), SimFs::new());
        let (source, target) = (site(&near, &vec![("vda", old.clone())]), site(&far, &vec![("vda", old.clone())]));
        if known {
            pass(&source, &target, spec(1, Mode::InPlace, Candidates::All)).0.unwrap();
        }
        source.resize("vda", new.len() as u64);
        source.write("vda", 0, &new);
        let mut done = false;
        for step in steps {
            match step {
                Step::Pass { at, power, .. } | Step::Undo { at, power } => {
                    if matches!(step, Step::Pass { room: false, .. }) {
                        no_journal(&far);
                    }
                    far.crash_at(at);
                    match step {
                        Step::Undo { .. } => drop(target.set().undo()),
                        _ => drop(pass(&source, &target, spec(9, Mode::InPlace, Candidates::All))),
                    }
                    if power { far.power_cycle(&mut dice) } else { far.kill() }
                    target.reopen().unwrap();
                }
                Step::Full { at } => {
                    far.fill_at(at);
                    let (outcome, _) = pass(&source, &target, spec(9, Mode::InPlace, Candidates::All));
                    if far.make_room() {
                        prop_assert!(
                            matches!(outcome, Ok(_) | Err(PassError::NoSpace { .. } | PassError::Disconnected(_))),
                            "{outcome:?}"
                        );
                    }
                }
            }
            // Once whole, undo has nothing to take back: that the new content is whole was the promise.
            done |= target.set().content().whole().is_some_and(|point| point.point == "point 9");
        }
        if back {
            target.set().undo().unwrap();
            let wanted = if done { new } else { old };
            prop_assert!(target.read("vda") == wanted);
        } else {
            pass(&source, &target, spec(9, Mode::InPlace, Candidates::All)).0.unwrap();
            far.lose_what_is_not_synced();
            target.reopen().unwrap();
            prop_assert!(target.read("vda") == new);
        }
    }
}

/// A guest wrote to it again between two sessions of one pass: what the first session left there is not what undo goes back to.
#[test]
fn s10_a_block_that_is_sent_again_keeps_its_first_pre_image() {
    let (old, new) = (noise(1, 40 * KIB64), noise(2, 40 * KIB64));
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    let in_place = || spec(1, Mode::InPlace, Candidates::All);
    cut_pass(&source, &target, in_place(), 20 * KIB64 as u64)
        .0
        .unwrap_err();
    assert!(target.read("vda")[..KIB64] == new[..KIB64]);
    source.write("vda", 0, b"written again");
    cut_pass(&source, &target, in_place(), 8 * KIB64 as u64)
        .0
        .unwrap_err();
    assert!(target.read("vda").starts_with(b"written again"));
    target.set().undo().unwrap();
    assert!(target.read("vda") == old);
}
