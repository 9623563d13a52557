//! Whole passes between real files.

use homeward::dataplane::*;

use crate::support::*;

fn sparse(seed: u64, blocks: usize) -> Vec<u8> {
    let mut content = noise(seed, blocks * KIB64);
    for hole in [1, 5, 6] {
        if hole < blocks {
            content[hole * KIB64..(hole + 1) * KIB64].fill(0);
        }
    }
    content
}

#[test]
fn a_compare_pass_sends_only_what_differs() {
    let old = sparse(1, 40);
    let mut new = old.clone();
    new[7 * KIB64] ^= 1;
    new[39 * KIB64..].copy_from_slice(&noise(2, KIB64));
    new[20 * KIB64..22 * KIB64].fill(0);
    new[KIB64..2 * KIB64].copy_from_slice(&noise(3, KIB64));
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    let (outcome, served) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    let outcome = outcome.unwrap();
    assert!(matches!(served, Served::Whole(roots) if roots == outcome.roots));
    assert_eq!(target.read("vda"), new);
    assert_eq!(
        (outcome.blocks_changed, outcome.bytes_changed),
        (5, 5 * KIB64 as u64)
    );
    assert!(
        outcome.bytes_sent < 3 * KIB64 as u64 + 2000,
        "{}",
        outcome.bytes_sent
    );
    assert!(matches!(
        target.set().content(),
        Content::Whole { exact: true, .. }
    ));
    assert!(!target.path("state/journal").exists());
    target.reopen().unwrap();
    assert!(matches!(
        target.set().content(),
        Content::Whole { exact: true, .. }
    ));
}

fn whole(site: &Site) -> bool {
    matches!(site.set().content(), Content::Whole { exact: true, .. })
}

#[test]
fn odd_sizes_and_several_disks() {
    for size in [
        512,
        1024,
        KIB64 - 512,
        KIB64,
        KIB64 + 512,
        5 * KIB64 + 4096,
        9 * KIB64,
    ] {
        let (a, b, c) = (noise(1, size), noise(2, 3 * KIB64), noise(3, 512));
        let zero = [vec![0; size], vec![0; 3 * KIB64], vec![0; 512]];
        for mode in [Mode::InPlace, Mode::NewFiles] {
            let source = Site::new(&[("vda", &a), ("vdb", &b), ("vdc", &c)]);
            let target = Site::new(&[("vda", &zero[0]), ("vdb", &zero[1]), ("vdc", &zero[2])]);
            let outcome = pass(&source, &target, spec(1, mode, Candidates::All))
                .0
                .unwrap();
            target.set().seal(&outcome.roots).unwrap();
            assert_eq!(target.read("vda"), a, "{size} {mode:?}");
            assert_eq!(target.read("vdb"), b);
            assert_eq!(target.read("vdc"), c);
        }
    }
}

#[test]
fn a_trusted_bitmap_reads_and_sends_only_its_ranges() {
    let old = noise(1, 64 * KIB64);
    let (source, target) = (
        Site::new(&[("vda", &old)]),
        Site::new(&[("vda", &vec![0; old.len()])]),
    );
    let base = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    let mut new = old.clone();
    new[10 * KIB64 + 5] ^= 1;
    new[30 * KIB64..31 * KIB64].fill(0);
    source.write("vda", 0, &new);
    let hint = [
        ("vda", 10 * KIB64 as u64 + 5..10 * KIB64 as u64 + 6),
        ("vda", 30 * KIB64 as u64..31 * KIB64 as u64),
    ];
    let outcome = pass(
        &source,
        &target,
        spec(2, Mode::InPlace, ranges(&base.roots, &hint)),
    )
    .0
    .unwrap();
    assert_eq!(outcome.used_candidates, UsedCandidates::Ranges);
    assert_eq!(outcome.blocks_changed, 2);
    // One block of data; the zeros travel as a range, and no digests are asked for.
    assert!(
        outcome.bytes_sent < KIB64 as u64 + 1000 && outcome.bytes_received < 1000,
        "{outcome:?}"
    );
    assert_eq!(target.read("vda"), new);
    assert!(whole(&target));
}

/// As a restore does that sets the file's time as it was.
#[test]
fn s13_a_foreign_write_that_keeps_the_time_is_seen() {
    let old = noise(1, 8 * KIB64);
    let (source, target) = (Site::new(&[("vda", &old)]), Site::new(&[("vda", &old)]));
    let base = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    let time = std::fs::metadata(target.path("vda"))
        .unwrap()
        .modified()
        .unwrap();
    target.write("vda", 3 * KIB64 as u64, b"foreign");
    let file = std::fs::File::options()
        .write(true)
        .open(target.path("vda"))
        .unwrap();
    file.set_modified(time).unwrap();
    let next = spec(2, Mode::InPlace, ranges(&base.roots, &[]));
    let outcome = pass(&source, &target, next).0.unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::TargetBase)
    );
    assert_eq!(target.read("vda"), old);
}

#[test]
fn s13_a_bitmap_from_another_base_is_not_used() {
    let old = noise(1, 8 * KIB64);
    let (source, target) = (Site::new(&[("vda", &old)]), Site::new(&[("vda", &old)]));
    let base = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    // A foreign write at the target: its modification time tells, and all is compared.
    target.write("vda", 3 * KIB64 as u64, b"foreign");
    let outcome = pass(
        &source,
        &target,
        spec(2, Mode::InPlace, ranges(&base.roots, &[])),
    )
    .0
    .unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::TargetBase)
    );
    assert_eq!(target.read("vda"), old);
    // The caller says that something happened.
    target.set().void().unwrap();
    let outcome = pass(
        &source,
        &target,
        spec(3, Mode::InPlace, ranges(&base.roots, &[])),
    )
    .0
    .unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::TargetBase)
    );
    // The source's tables are of another point than the bitmap's base.
    let mut other = base.roots.clone();
    other.insert(id("vda"), homeward::dataplane::digest::Digest::of(b"other"));
    let outcome = pass(
        &source,
        &target,
        spec(4, Mode::InPlace, ranges(&other, &[])),
    )
    .0
    .unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::SourceBase)
    );
}

#[test]
fn s17_roots_that_differ_are_never_whole_and_the_next_pass_compares_everything() {
    let old = noise(1, 20 * KIB64);
    let (source, target) = (Site::new(&[("vda", &old)]), Site::new(&[("vda", &old)]));
    let base = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    let mut new = old.clone();
    new[..10 * KIB64].copy_from_slice(&noise(2, 10 * KIB64));
    source.write("vda", 0, &new);
    let wanted = || {
        spec(
            2,
            Mode::InPlace,
            ranges(&base.roots, &[("vda", 0..10 * KIB64 as u64)]),
        )
    };
    cut_pass(&source, &target, wanted(), 5 * KIB64 as u64)
        .0
        .unwrap_err();
    // The table of the half-written target is damaged where the bitmap does not look.
    let table = target.path("state/tables/vda.digests");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[15 * 32] ^= 1;
    std::fs::write(&table, &bytes).unwrap();
    let (outcome, _) = pass(&source, &target, wanted());
    assert!(matches!(outcome, Err(PassError::Corrupt(_))), "{outcome:?}");
    assert!(target.set().content().whole().is_none() && target.set().has_open_journal());
    let outcome = pass(&source, &target, wanted()).0.unwrap();
    assert_eq!(
        outcome.used_candidates,
        UsedCandidates::All(WhyAll::TargetBase)
    );
    assert_eq!(target.read("vda"), new);
}

#[test]
fn s14_a_grown_disk_is_compared_and_resized_and_shrinks_back_on_undo() {
    let old = noise(1, 4 * KIB64 + 512);
    let (source, target) = (Site::new(&[("vda", &old)]), Site::new(&[("vda", &old)]));
    let base = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    for size in [7 * KIB64 + 1024, 2 * KIB64 + 512, 4 * KIB64] {
        let new = noise(size as u64, size);
        source.resize("vda", size as u64);
        source.write("vda", 0, &new);
        // Cut late: the target has been resized and written to.
        let wanted = || spec(size as u128, Mode::InPlace, ranges(&base.roots, &[]));
        let (cut, ..) = cut_pass(&source, &target, wanted(), size as u64 - KIB64 as u64);
        cut.unwrap_err();
        assert!(target.set().has_open_journal());
        assert_eq!(target.read("vda").len(), size);
        target.set().undo().unwrap();
        assert_eq!(target.read("vda"), old);
        assert!(whole(&target));
        cut_pass(&source, &target, wanted(), size as u64 - KIB64 as u64)
            .0
            .unwrap_err();
        let outcome = pass(&source, &target, wanted()).0.unwrap();
        assert!(
            matches!(outcome.used_candidates, UsedCandidates::All(_)),
            "{outcome:?}"
        );
        assert_eq!(target.read("vda"), new);
        // Back to the beginning for the next size.
        source.resize("vda", 0);
        source.resize("vda", old.len() as u64);
        source.write("vda", 0, &old);
        pass(&source, &target, spec(99, Mode::InPlace, Candidates::All))
            .0
            .unwrap();
        assert_eq!(target.read("vda"), old);
    }
}

#[test]
fn s14_other_disks_are_refused() {
    let one = noise(1, KIB64);
    let (source, target) = (
        Site::new(&[("vda", &one), ("vdb", &one)]),
        Site::new(&[("vda", &one)]),
    );
    let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(
            outcome,
            Err(PassError::Refused(Refusal {
                kind: RefusalKind::Shape,
                ..
            }))
        ),
        "{outcome:?}"
    );
    let (outcome, _) = pass(&target, &source, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(
            outcome,
            Err(PassError::Refused(Refusal {
                kind: RefusalKind::Shape,
                ..
            }))
        ),
        "{outcome:?}"
    );
}

#[test]
fn s16_zeros_are_content_and_become_holes() {
    let old = noise(1, 32 * KIB64);
    let mut new = vec![0; old.len()];
    new[..KIB64].copy_from_slice(&old[..KIB64]);
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    let outcome = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    assert_eq!(target.read("vda"), new);
    assert_eq!(outcome.blocks_changed, 31);
    assert!(
        outcome.bytes_sent < 2000,
        "zeros do not travel as data: {outcome:?}"
    );
    let blocks =
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(target.path("vda")).unwrap());
    assert!(blocks * 512 <= 2 * KIB64 as u64, "{blocks}");
}

#[test]
fn s12_what_has_arrived_durably_is_not_sent_again() {
    let blocks = 60;
    let old = noise(1, blocks * KIB64);
    let new = noise(2, blocks * KIB64);
    let total = new.len() as u64;
    for (mode, seed) in [
        (Mode::InPlace, 1),
        (Mode::NewFiles, 2),
        (Mode::InPlace, 3),
        (Mode::NewFiles, 4),
    ] {
        let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
        let mut dice = crate::simfs::Dice::new(seed);
        let (mut sent, mut tries) = (0, 0);
        let outcome = loop {
            tries += 1;
            let (result, _, passed) = cut_pass(
                &source,
                &target,
                spec(1, mode, Candidates::All),
                1000 + dice.next(total / 2),
            );
            sent += passed;
            target.reopen().unwrap();
            if let Ok(outcome) = result {
                break outcome;
            }
            assert!(tries < 100);
        };
        // A frame of 256 KiB that was cut in the middle is sent again, and each try has some frames of its own.
        assert!(
            sent < total + tries * (4 * KIB64 as u64 + 3000),
            "{mode:?}: {sent} of {total} in {tries} tries"
        );
        assert!(tries > 1 && outcome.bytes_resumed > 0, "{outcome:?}");
        target.set().seal(&outcome.roots).unwrap();
        assert_eq!(target.read("vda"), new);
    }
}

#[test]
fn s10_cut_anywhere_undo_restores_every_byte() {
    let old = noise(1, 20 * KIB64 + 512);
    let new = noise(2, 23 * KIB64);
    let mut dice = crate::simfs::Dice::new(77);
    for mode in [Mode::InPlace, Mode::InPlace, Mode::InPlace, Mode::NewFiles] {
        let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
        for _ in 0..3 {
            cut_pass(
                &source,
                &target,
                spec(1, mode, Candidates::All),
                dice.next(7 * KIB64 as u64),
            )
            .0
            .unwrap_err();
        }
        target.gate.close_all();
        target.reopen().unwrap();
        target.set().undo().unwrap();
        assert_eq!(target.read("vda"), old);
        assert_eq!(target.set().undo().unwrap(), UndoReport::NothingToDo);
        let left: Vec<_> = std::fs::read_dir(&target.root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_newer_pass_goes_on_over_an_open_journal() {
    let old = noise(1, 20 * KIB64);
    let (source, target) = (
        Site::new(&[("vda", &noise(2, old.len()))]),
        Site::new(&[("vda", &old)]),
    );
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        9 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    let newer = noise(3, old.len());
    source.write("vda", 0, &newer);
    cut_pass(
        &source,
        &target,
        spec(2, Mode::InPlace, Candidates::All),
        15 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    target.set().undo().unwrap();
    assert_eq!(target.read("vda"), old, "the first pre-image counts");
    pass(&source, &target, spec(2, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    assert_eq!(target.read("vda"), newer);
}

#[test]
fn a_full_copy_over_an_open_journal_undoes_it_first_and_the_other_way_round() {
    let old = noise(1, 20 * KIB64);
    let new = noise(2, old.len());
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        9 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    cut_pass(
        &source,
        &target,
        spec(2, Mode::NewFiles, Candidates::All),
        9 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    assert_eq!(target.read("vda"), old);
    assert!(matches!(
        target.set().content(),
        Content::NewFiles { whole: None, .. }
    ));
    pass(&source, &target, spec(3, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    assert_eq!(target.read("vda"), new);
    assert!(!target.path("vda.incoming").exists());
}

#[test]
fn new_disks_are_made_and_undone_to_empty() {
    let new = noise(2, 9 * KIB64 + 512);
    let source = Site::new(&[("vda", &new)]);
    let dir = tempfile::tempdir().unwrap();
    let spec_of = DiskSpec {
        id: id("vda"),
        path: dir.path().join("disks/vda"),
        size: new.len() as u64,
    };
    let mut set = VolumeSet::open(
        &dir.path().join("state"),
        VM,
        std::slice::from_ref(&spec_of),
    )
    .unwrap();
    set.create_missing().unwrap();
    let mut target = Site::new(&[]);
    target.set = std::sync::Arc::new(std::sync::Mutex::new(set));
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        5 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    assert!(target.set().has_open_journal());
    // There are no pre-images of a disk that was empty, so no room is reserved for them.
    let journal = std::fs::metadata(dir.path().join("state/journal")).unwrap();
    assert!(journal.len() < new.len() as u64 / 2, "{}", journal.len());
    target.set().undo().unwrap();
    assert_eq!(std::fs::read(&spec_of.path).unwrap(), vec![0; new.len()]);
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        5 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    let outcome = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    assert!(outcome.bytes_resumed > 0);
    assert_eq!(std::fs::read(&spec_of.path).unwrap(), new);
    target.set().create_missing().unwrap();
    assert_eq!(
        std::fs::read(&spec_of.path).unwrap(),
        new,
        "what is there is never overwritten"
    );
}

#[test]
fn roles_change_without_reading_anything_again() {
    let old = noise(1, 16 * KIB64);
    let (here, there) = (
        Site::new(&[("vda", &noise(2, old.len()))]),
        Site::new(&[("vda", &old)]),
    );
    // Moved there.
    let moved = pass(&here, &there, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    here.set().adopt(&moved.roots).unwrap();
    there.set().seal(&moved.roots).unwrap();
    // The guest writes there; its bitmap began at the seal.
    there.write("vda", 4 * KIB64 as u64, &noise(3, 512));
    let back = pass(
        &there,
        &here,
        spec(
            2,
            Mode::InPlace,
            ranges(
                &moved.roots,
                &[("vda", 4 * KIB64 as u64..4 * KIB64 as u64 + 512)],
            ),
        ),
    )
    .0
    .unwrap();
    assert_eq!(back.used_candidates, UsedCandidates::Ranges);
    assert!(back.bytes_received < 1000 && back.bytes_sent < KIB64 as u64 + 1000);
    assert_eq!(here.read("vda"), there.read("vda"));
    // After a start its own disks are not taken for the recorded point, whatever the tables say.
    let outcome = pass(
        &here,
        &there,
        spec(3, Mode::InPlace, ranges(&moved.roots, &[])),
    )
    .0
    .unwrap();
    assert!(matches!(outcome.used_candidates, UsedCandidates::All(_)));
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let old = noise(1, 16 * KIB64);
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (source, target) = (
            Site::new(&[("vda", &noise(2, old.len()))]),
            Site::new(&[("vda", &old)]),
        );
        let first = pass(&source, &target, spec(1, mode, Candidates::All))
            .0
            .unwrap();
        let again = pass(&source, &target, spec(1, mode, Candidates::All))
            .0
            .unwrap();
        assert_eq!(first.roots, again.roots);
        assert!(
            again.blocks_changed == 0 && again.bytes_sent < 2000,
            "{again:?}"
        );
        target.set().seal(&first.roots).unwrap();
        target.set().seal(&first.roots).unwrap();
    }
}

#[test]
fn s11_after_a_seal_undo_is_refused() {
    let old = noise(1, 4 * KIB64);
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (source, target) = (
            Site::new(&[("vda", &noise(2, old.len()))]),
            Site::new(&[("vda", &old)]),
        );
        let outcome = pass(&source, &target, spec(1, mode, Candidates::All))
            .0
            .unwrap();
        target.set().seal(&outcome.roots).unwrap();
        target.reopen().unwrap();
        assert!(matches!(target.set().undo(), Err(SetError::Sealed)));
        assert_eq!(target.read("vda"), source.read("vda"));
    }
}

#[test]
fn s17_a_seal_wants_a_whole_point_with_just_these_roots() {
    let old = noise(1, 16 * KIB64);
    let (source, target) = (
        Site::new(&[("vda", &noise(2, old.len()))]),
        Site::new(&[("vda", &old)]),
    );
    let wrong: Roots = [(id("vda"), homeward::dataplane::digest::Digest::of(b"x"))].into();
    assert!(matches!(
        target.set().seal(&wrong),
        Err(SetError::NotWhole(_))
    ));
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        9 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    assert!(matches!(
        target.set().seal(&wrong),
        Err(SetError::NotWhole(_))
    ));
    let outcome = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    assert!(matches!(
        target.set().seal(&wrong),
        Err(SetError::OtherRoots)
    ));
    assert!(target.set().sealed().is_none());
    // Touched by somebody after it was verified.
    target.write("vda", 0, b"foreign");
    assert!(matches!(
        target.set().seal(&outcome.roots),
        Err(SetError::NotWhole(_))
    ));
}
