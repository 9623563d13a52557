//! S10: what becomes of a pass when the file system has no room, before it begins or in its middle; and block devices, beside which
//! there is no room at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use homeward::dataplane::io::fs::{Fs, Open};
use homeward::dataplane::*;

use crate::crash::{self, Case, content, old_and_new, old_or_new_by_undo};
use crate::failures::{pair, sim};
use crate::simfs::{Dice, Effect, Fault, SimFs};
use crate::skipped::skipped;
use crate::support::*;

/// No journal can have its room.
pub fn no_journal(fs: &SimFs) {
    fs.fault(|effect, path| {
        (effect == Effect::Reserve && path.ends_with("journal")).then_some(Fault::NoSpace)
    });
}

fn in_place(n: u128) -> PassSpec {
    spec(n, Mode::InPlace, Candidates::All)
}

fn whole_in_place(target: &Site) -> bool {
    matches!(target.set().content(), Content::Whole { exact: true, .. })
}

#[test]
fn s10_without_room_for_the_journal_a_pass_goes_to_new_files() {
    let (old, new, source, fs, target) = pair();
    pass(&target, &source, in_place(1)).0.unwrap();
    source.write("vda", 0, &new);
    no_journal(&fs);
    // Cut in its middle: the old content has not been touched, and what has arrived is not sent again.
    cut_pass(&source, &target, in_place(2), 30 * KIB64 as u64)
        .0
        .unwrap_err();
    assert!(target.read("vda") == old);
    target.reopen().unwrap();
    let outcome = pass(&source, &target, in_place(2)).0.unwrap();
    assert!(outcome.bytes_resumed > 0, "{outcome:?}");
    assert!(outcome.bytes_changed + outcome.bytes_resumed <= new.len() as u64);
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::NoJournal)
    );
    // It ends as a pass in place does: whole, nothing to undo, the base of the next.
    assert!(whole_in_place(&target) && target.read("vda") == new);
    assert!(!target.fs.exists(&target.path("vda.incoming")).unwrap());
    assert_eq!(target.set().undo().unwrap(), UndoReport::NothingToDo);
    assert!(target.set().sealed().is_none());
    fs.no_fault();
    source.write("vda", 5, b"more");
    let next = ranges(&outcome.roots, &[("vda", 0..10)]);
    let outcome = pass(&source, &target, spec(3, Mode::InPlace, next))
        .0
        .unwrap();
    assert_eq!(outcome.used_candidates, UsedCandidates::Ranges);
    assert!(target.read("vda") == source.read("vda"));
    target.set().seal(&outcome.roots).unwrap();
}

#[test]
fn s10_a_pass_in_new_files_is_undone_by_leaving_them() {
    let (old, _, source, fs, target) = pair();
    no_journal(&fs);
    cut_pass(&source, &target, in_place(1), 20 * KIB64 as u64)
        .0
        .unwrap_err();
    assert_eq!(target.set().undo().unwrap(), UndoReport::NewFilesRemoved);
    assert!(target.read("vda") == old);
}

#[test]
fn s10_a_journal_that_cannot_grow_is_undone_before_new_files_are_filled() {
    let (old, new, source, fs, target) = pair();
    cut_pass(&source, &target, in_place(1), 20 * KIB64 as u64)
        .0
        .unwrap_err();
    assert!(target.read("vda") != old && target.set().has_open_journal());
    no_journal(&fs);
    cut_pass(&source, &target, in_place(1), 20 * KIB64 as u64)
        .0
        .unwrap_err();
    assert!(target.read("vda") == old, "whole while the new files grow");
    pass(&source, &target, in_place(1)).0.unwrap();
    assert!(whole_in_place(&target) && target.read("vda") == new);
}

#[test]
fn s10_a_crash_at_any_effect_of_a_pass_that_turned_to_new_files() {
    let (old, new) = old_and_new();
    for base in [false, true] {
        let case = Case {
            base,
            mode: Mode::InPlace,
            ranges: base,
        };
        for n in 1.. {
            let mut dice = Dice::new(n);
            let (source, far, target, candidates) = crash::pair(&case, &old, &new);
            no_journal(&far);
            far.crash_at(n);
            let (outcome, _) = pass(&source, &target, spec(9, Mode::InPlace, candidates.clone()));
            if !far.has_crashed() {
                outcome.unwrap();
                assert!(n > 30, "{n}");
                break;
            }
            far.power_cycle(&mut dice);
            target.reopen().unwrap();
            if n % 2 == 0 {
                old_or_new_by_undo(&target, &old, &new, &format!("effect {n}"));
                continue;
            }
            // On with it, with room for a journal by now or still without.
            if n % 4 == 1 {
                no_journal(&far);
            }
            pass(&source, &target, spec(9, Mode::InPlace, candidates))
                .0
                .unwrap_or_else(|error| panic!("effect {n}: {error}"));
            far.lose_what_is_not_synced();
            target.reopen().unwrap();
            assert!(
                whole_in_place(&target) && content(&target) == new,
                "effect {n}"
            );
        }
    }
}

#[test]
fn s10_a_device_has_no_new_file_beside_it_and_that_is_said() {
    let (old, _, source, fs, target) = pair();
    fs.make_device("/vm/vda");
    no_journal(&fs);
    let (outcome, _) = pass(&source, &target, in_place(1));
    match outcome {
        Err(PassError::NoSpace {
            needed, message, ..
        }) => {
            assert!(needed >= old.len() as u64);
            assert!(
                message.contains("undo journal needs") && message.contains("block device"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(target.read("vda") == old);
}

#[test]
fn room_that_two_folders_share_is_counted_once() {
    let new = noise(2, 10 * KIB64);
    let disks = [("a/vda", &new[..]), ("b/vdb", &new[..])];
    let fs = SimFs::new();
    for (path, content) in disks {
        let made = fs
            .open(&Path::new("/vm").join(path), Open::CreateNew)
            .unwrap();
        made.write_at(0, content).unwrap();
    }
    let spec_of = |(path, _): (&str, _)| DiskSpec {
        id: id(&path[2..]),
        path: Path::new("/vm").join(path),
        size: 0,
    };
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let state = Path::new("/vm/state");
    let set = VolumeSet::open_with(shared, state, VM, &disks.map(spec_of)).unwrap();
    let mut target = Site::new(&[]);
    target.set = Arc::new(std::sync::Mutex::new(set));
    let source = Site::new(&[("vda", &new), ("vdb", &new)]);
    fs.set_free(new.len() as u64 * 3 / 2);
    let full = spec(1, Mode::NewFiles, Candidates::All);
    let (outcome, _) = pass(&source, &target, full);
    assert!(
        matches!(outcome, Err(PassError::NoSpace { needed, available, .. }) if needed == 2 * new.len() as u64 && available == new.len() as u64 * 3 / 2),
        "{outcome:?}"
    );
}

#[test]
fn a_file_system_that_fills_up_at_any_effect_ends_the_pass_with_words_and_the_next_goes_through() {
    let (old, new) = old_and_new();
    for (base, mode) in [
        (false, Mode::InPlace),
        (true, Mode::InPlace),
        (true, Mode::NewFiles),
    ] {
        let case = Case {
            base,
            mode,
            ranges: base && mode == Mode::InPlace,
        };
        for n in 1.. {
            let (source, far, target, candidates) = crash::pair(&case, &old, &new);
            far.fill_at(n);
            let (outcome, _) = pass(&source, &target, spec(9, mode, candidates.clone()));
            if !far.make_room() {
                outcome.unwrap();
                assert!(n > 20, "{n}");
                break;
            }
            if let Err(error) = outcome {
                assert!(
                    matches!(error, PassError::NoSpace { .. }),
                    "effect {n}: {error:?}"
                );
                assert!(error.to_string().contains("space"), "{error}");
            }
            if n % 2 == 0 && mode == Mode::InPlace {
                old_or_new_by_undo(&target, &old, &new, &format!("effect {n}"));
                continue;
            }
            let outcome = pass(&source, &target, spec(9, mode, candidates))
                .0
                .unwrap_or_else(|error| panic!("effect {n}: {error}"));
            far.lose_what_is_not_synced();
            target.reopen().unwrap();
            target.set().seal(&outcome.roots).unwrap();
            assert_eq!(content(&target), new, "effect {n}");
        }
    }
}

/// A loop device over a file, for as long as this lives.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let made = std::process::Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        (made.status.success() && name.starts_with("/dev/")).then_some(Self(name))
    }
}

impl Loop {
    /// Another file stands behind it.
    fn put(&self, file: &Path) {
        for arguments in [
            vec!["--detach", &self.0],
            vec![&self.0, file.to_str().unwrap()],
        ] {
            let done = std::process::Command::new("losetup")
                .args(arguments)
                .status();
            assert!(done.unwrap().success());
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
    }
}

/// Data and zeros onto a target that is a device: the whole content, nothing beside it, and back.
fn onto_a_device(old: &[u8], new: &[u8], target: &Site) {
    let source = Site::new(&[("vda", new)]);
    let cut = cut_pass(&source, target, in_place(1), 9 * KIB64 as u64);
    cut.0.unwrap_err();
    target.set().undo().unwrap();
    assert!(target.read("vda") == old);
    let outcome = pass(&source, target, in_place(2)).0.unwrap();
    assert!(target.read("vda") == new && whole_in_place(target));
    assert!(!target.fs.exists(&target.path("vda.incoming")).unwrap());
    target.set().seal(&outcome.roots).unwrap();
    assert!(target.read("vda") == new);
    let full = pass(&source, target, spec(3, Mode::NewFiles, Candidates::All)).0;
    assert!(
        matches!(&full, Err(PassError::Refused(refusal)) if refusal.kind == RefusalKind::Shape && refusal.message.contains("block device")),
        "{full:?}"
    );
    // It cannot be resized either.
    source.resize("vda", new.len() as u64 + 512);
    let larger = pass(&source, target, in_place(4)).0;
    assert!(
        matches!(&larger, Err(PassError::Refused(refusal)) if refusal.kind == RefusalKind::Shape),
        "{larger:?}"
    );
    assert!(target.read("vda") == new);
}

fn for_a_device() -> (Vec<u8>, Vec<u8>) {
    let (old, mut new) = (noise(1, 24 * KIB64), noise(2, 24 * KIB64));
    new[10 * KIB64..14 * KIB64].fill(0);
    (old, new)
}

#[test]
fn s16_a_device_gets_zeros_and_keeps_its_size() {
    let (old, new) = for_a_device();
    let (fs, target) = sim(&old);
    fs.make_device("/vm/vda");
    onto_a_device(&old, &new, &target);
}

#[test]
fn s16_a_real_device_gets_zeros_and_keeps_its_size() {
    let (old, new) = for_a_device();
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("below");
    std::fs::write(&below, &old).unwrap();
    let Some(device) = Loop::over(&below) else {
        skipped(
            "s16_a_real_device_gets_zeros_and_keeps_its_size",
            "to make a loop device",
        );
        return;
    };
    let host: Arc<dyn Fs> = Arc::new(homeward::dataplane::io::fs::HostFs);
    std::os::unix::fs::symlink(&device.0, dir.path().join("vda")).unwrap();
    let target = Site::of_existing(host, dir.path().to_owned(), &["vda"]);
    onto_a_device(&old, &new, &target);
}

/// A path may come to stand for another device, without a reboot: a loop device, a LUN, a logical volume that was made anew.
#[test]
fn s13_another_device_behind_the_path_is_not_believed_to_hold_the_point() {
    let (old, new) = for_a_device();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for below in [&first, &second] {
        std::fs::write(below, &old).unwrap();
    }
    let Some(device) = Loop::over(&first) else {
        skipped(
            "s13_another_device_behind_the_path_is_not_believed_to_hold_the_point",
            "to make a loop device",
        );
        return;
    };
    let host: Arc<dyn Fs> = Arc::new(homeward::dataplane::io::fs::HostFs);
    let link = dir.path().join("vda");
    std::os::unix::fs::symlink(&device.0, &link).unwrap();
    let target = Site::of_existing(host, dir.path().to_owned(), &["vda"]);
    let source = Site::new(&[("vda", &new)]);
    let roots = pass(&source, &target, in_place(1)).0.unwrap().roots;
    source.write("vda", 5, b"more");
    let next = |n, base| spec(n, Mode::InPlace, ranges(base, &[("vda", 0..10)]));
    let outcome = pass(&source, &target, next(2, &roots)).0.unwrap();
    assert_eq!(outcome.used_candidates, UsedCandidates::Ranges);
    // The same device number for another disk, as after the first was taken away and the second came.
    target.reopen().unwrap();
    device.put(&second);
    let outcome = pass(&source, &target, next(3, &outcome.roots)).0.unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::TargetBase),
        "{outcome:?}"
    );
    assert!(target.read("vda") == source.read("vda"));
}

#[test]
fn no_space_for_the_journal_is_a_typed_refusal_and_nothing_is_written() {
    let (old, _, source, fs, target) = pair();
    fs.set_free(12_345);
    fs.fault(|effect, path| {
        (effect == Effect::Reserve && path.ends_with("journal")).then_some(Fault::NoSpace)
    });
    let (outcome, served) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    let message = match outcome {
        Err(PassError::NoSpace {
            needed,
            available,
            message,
        }) => {
            assert!(
                needed >= old.len() as u64 && available == 12_345,
                "{needed} {available}"
            );
            message
        }
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        served,
        Served::Refused(Refusal {
            kind: RefusalKind::NoSpace,
            ..
        })
    ));
    assert_eq!(target.read("vda"), old);
    assert!(!target.set().has_open_journal());
    // Both ways are named, and what was begun for the second is gone.
    for words in ["undo journal needs", "new files need"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!target.fs.exists(&target.path("vda.incoming")).unwrap());
    // New files that are asked for do not fit either: that is said before a byte travels.
    let (outcome, _) = pass(&source, &target, spec(1, Mode::NewFiles, Candidates::All));
    assert!(
        matches!(outcome, Err(PassError::NoSpace { needed, .. }) if needed == old.len() as u64),
        "{outcome:?}"
    );
}

#[test]
fn no_space_in_the_middle_keeps_the_old_content_within_reach() {
    for nth in [2, 3, 9, 14] {
        let (old, new, source, fs, target) = pair();
        let mut writes = 0;
        fs.fault(move |effect, path| {
            let hit =
                effect == Effect::Write && (path.ends_with("vda") || path.ends_with("journal"));
            writes += u32::from(hit);
            (hit && writes == nth).then_some(Fault::NoSpace)
        });
        let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
        assert!(
            matches!(outcome, Err(PassError::NoSpace { .. })),
            "{nth}: {outcome:?}"
        );
        fs.no_fault();
        if nth % 2 == 0 {
            pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
                .0
                .unwrap();
            assert_eq!(target.read("vda"), new);
        } else {
            target.set().undo().unwrap();
            assert_eq!(target.read("vda"), old);
        }
    }
}

#[test]
fn no_space_on_a_real_small_file_system() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(mount.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        skipped("no_space_on_a_real_small_file_system", "to mount a tmpfs");
        return;
    }
    struct Unmount<'a>(&'a std::path::Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0)
                .status();
        }
    }
    let _unmount = Unmount(mount.path());
    let (old, new) = (noise(1, 40 * KIB64), noise(2, 40 * KIB64));
    let source = Site::new(&[("vda", &new)]);
    let host: Arc<dyn Fs> = Arc::new(homeward::dataplane::io::fs::HostFs);
    let target = Site::at(host, mount.path().to_owned(), None, &[("vda", &old)]);
    let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(outcome, Err(PassError::NoSpace { needed, available, .. }) if needed > available && available > 0),
        "{outcome:?}"
    );
    assert_eq!(target.read("vda"), old);
    let (outcome, _) = pass(&source, &target, spec(2, Mode::NewFiles, Candidates::All));
    assert!(
        matches!(outcome, Err(PassError::NoSpace { .. })),
        "{outcome:?}"
    );
    target.set().undo().unwrap();
    assert_eq!(target.read("vda"), old);
}

#[test]
fn s10_a_journal_leaves_the_last_room_to_the_registers_beside_it() {
    let (old, new, source, fs, target) = pair();
    let needed = 40 * (KIB64 as u64 + 4096) + 3 * 16 * 1024;
    let left = 1 << 20;
    fs.set_total(20 * left);
    for (free, why) in [
        (needed + left - 1, WhyAll::NoJournal),
        (needed + left, WhyAll::Asked),
    ] {
        fs.set_free(free);
        let outcome = pass(&source, &target, in_place(u128::from(free)))
            .0
            .unwrap();
        assert_eq!(outcome.used_candidates, UsedCandidates::All(why), "{free}");
        assert!(whole_in_place(&target) && target.read("vda") == new);
        target.set().void().unwrap();
        target.write("vda", 0, &old);
    }
}

/// Whatever was counted before the pass: others take room meanwhile, and a sparse disk grows.
#[test]
fn s10_a_disk_does_not_grow_into_the_room_that_is_left_to_others() {
    let left = 1 << 20;
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let new = noise(2, 60 * KIB64);
        let source = Site::new(&[("vda", &new)]);
        let (fs, target) = sim(&vec![0; new.len()]);
        fs.set_total(20 * left);
        fs.set_free(100 * left);
        let free = fs.free();
        // Somebody else takes the room when the first bytes have been written.
        fs.fault(move |effect, path| {
            let data = path.ends_with("vda") || path.ends_with("vda.incoming");
            if effect == Effect::Write && data {
                free.store(left, Ordering::SeqCst);
            }
            None
        });
        let whole = || pass(&source, &target, spec(1, mode, Candidates::All)).0;
        let failed = whole().unwrap_err();
        assert!(
            matches!(failed, PassError::NoSpace { .. }) && failed.to_string().contains("grows"),
            "{failed:?}"
        );
        // What has arrived stays, and with room again it goes on from there.
        fs.no_fault();
        fs.set_free(100 * left);
        let outcome = whole().unwrap();
        assert!(outcome.bytes_resumed > 0, "{outcome:?}");
        target.set().seal(&outcome.roots).unwrap();
        assert!(target.read("vda") == new);
    }
}

#[test]
fn a_disk_that_has_its_room_is_written_where_nothing_else_is_left() {
    let (_, new, source, fs, target) = pair();
    let left = 1 << 20;
    fs.set_total(20 * left);
    fs.set_free(100 * left);
    let free = fs.free();
    fs.fault(move |effect, path| {
        if effect == Effect::Write && path.ends_with("vda") {
            free.store(0, Ordering::SeqCst);
        }
        None
    });
    pass(&source, &target, in_place(1)).0.unwrap();
    assert!(whole_in_place(&target) && target.read("vda") == new);
}

/// It may be as large as the disks are.
#[test]
fn an_open_journal_is_read_once_when_its_pass_goes_on_and_once_when_it_is_undone() {
    let journal = "/vm/state/journal";
    for undo in [false, true] {
        let (old, new, source, fs, target) = pair();
        cut_pass(&source, &target, in_place(1), 30 * KIB64 as u64)
            .0
            .unwrap_err();
        let size = fs.open(Path::new(journal), Open::Read).unwrap();
        let (records, head) = (size.size().unwrap(), 2 * 16 * 1024);
        fs.read_of(journal);
        if undo {
            target.set().undo().unwrap();
            let read = fs.read_of(journal);
            assert!(read > 0 && read <= records + head, "{read} {records}");
            assert!(target.read("vda") == old);
        } else {
            cut_pass(&source, &target, in_place(1), 2 * KIB64 as u64)
                .0
                .unwrap_err();
            let read = fs.read_of(journal);
            // Once to go on, and once after the session has ended: it might have been whole.
            assert!(read > 0 && read <= 2 * records + head, "{read} {records}");
            pass(&source, &target, in_place(1)).0.unwrap();
            assert!(target.read("vda") == new);
        }
        assert!(!fs.exists(Path::new(journal)).unwrap());
    }
}

#[test]
fn s11_no_space_between_the_commit_record_and_the_record_of_it_goes_forward() {
    let (old, new, source, fs, target) = pair();
    let mut records = 0;
    // The first tells that a pass writes, the second that it is whole.
    fs.fault(move |effect, path| {
        let recorded = effect == Effect::Create && path.ends_with("set.json.next");
        records += u32::from(recorded);
        (recorded && records == 2).then_some(Fault::NoSpace)
    });
    pass(&source, &target, in_place(1)).0.unwrap_err();
    fs.no_fault();
    // The same process, without reading its state anew.
    assert!(whole_in_place(&target), "{:?}", target.set().content());
    assert_eq!(target.set().undo().unwrap(), UndoReport::NothingToDo);
    assert!(target.read("vda") == new && new != old);
}
