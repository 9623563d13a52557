//! What happens when files, disks or sessions fail under a pass.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use homeward::dataplane::io::fs::Fs;
use homeward::dataplane::wire::{Frame, HEADER, Header, VERSION};
use homeward::dataplane::*;

use crate::simfs::{Dice, Effect, Fault, SimFs};
use crate::support::*;

pub fn sim(content: &[u8]) -> (SimFs, Site) {
    let fs = SimFs::new();
    let site = Site::at(
        Arc::new(fs.clone()) as Arc<dyn Fs>,
        PathBuf::from("/vm"),
        None,
        &[("vda", content)],
    );
    (fs, site)
}

pub fn pair() -> (Vec<u8>, Vec<u8>, Site, SimFs, Site) {
    let (old, new) = (noise(1, 40 * KIB64), noise(2, 40 * KIB64));
    let source = Site::new(&[("vda", &new)]);
    let (fs, target) = sim(&old);
    (old, new, source, fs, target)
}

#[test]
fn s17_a_corrupted_write_is_seen_by_reading_back() {
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (old, new, source, fs, target) = pair();
        let mut writes = 0;
        fs.fault(move |effect, path| {
            let disk = path
                .file_name()
                .is_some_and(|name| name == "vda" || name == "vda.incoming");
            writes += u32::from(disk && effect == Effect::Write);
            (disk && effect == Effect::Write && writes == 5).then_some(Fault::Corrupt)
        });
        let (outcome, served) = pass(&source, &target, spec(1, mode, Candidates::All));
        assert!(matches!(outcome, Err(PassError::Corrupt(_))), "{outcome:?}");
        match served {
            Served::Failed(failure) => assert!(failure.message.contains("read back"), "{failure}"),
            other => panic!("{other:?}"),
        }
        assert!(target.set().content().whole().is_none());
        fs.no_fault();
        let outcome = pass(&source, &target, spec(1, mode, Candidates::All))
            .0
            .unwrap();
        if mode == Mode::NewFiles {
            assert_eq!(target.read("vda"), old);
        }
        target.set().seal(&outcome.roots).unwrap();
        assert_eq!(target.read("vda"), new);
    }
}

#[test]
fn s12_after_a_failed_sync_the_cache_is_not_believed() {
    for (mode, file) in [
        (Mode::InPlace, "vda"),
        (Mode::NewFiles, "vda.incoming"),
        (Mode::InPlace, "journal"),
    ] {
        for undo in [false, true] {
            let (old, new, source, fs, target) = pair();
            let mut syncs = 0;
            fs.fault(move |effect, path| {
                let hit = effect == Effect::Sync
                    && !path.parent().is_some_and(|dir| dir.ends_with("tables"))
                    && path.ends_with(file);
                syncs += u32::from(hit);
                let nth = if file == "vda" { 1 } else { 2 };
                (hit && syncs == nth).then_some(Fault::LostSync)
            });
            let (outcome, _) = pass(&source, &target, spec(1, mode, Candidates::All));
            assert!(
                matches!(outcome, Err(PassError::TargetIo(_))),
                "{file}: {outcome:?}"
            );
            fs.no_fault();
            if undo {
                target.set().undo().unwrap();
                fs.power_cycle(&mut Dice::new(1));
                target.reopen().unwrap();
                assert_eq!(target.read("vda"), old, "{file}");
                continue;
            }
            let outcome = pass(&source, &target, spec(1, mode, Candidates::All))
                .0
                .unwrap();
            target.set().seal(&outcome.roots).unwrap();
            fs.power_cycle(&mut Dice::new(3));
            target.reopen().unwrap();
            assert_eq!(
                target.read("vda"),
                new,
                "{file}: what was called durable has survived"
            );
        }
    }
}

/// What was written behind the old end has no pre-image, and is believed no more than the rest; nor by an agent that was started again.
#[test]
fn s12_after_a_failed_sync_what_has_grown_is_not_believed() {
    let old = noise(1, 40 * KIB64);
    let new = [old.clone(), noise(2, 40 * KIB64)].concat();
    for nth in 1..=4 {
        for restarted in [false, true] {
            let source = Site::new(&[("vda", &new)]);
            let (fs, target) = sim(&old);
            let mut syncs = 0;
            fs.fault(move |effect, path| {
                let hit = effect == Effect::Sync && path.ends_with("vda");
                syncs += u32::from(hit);
                (hit && syncs == nth).then_some(Fault::LostSync)
            });
            let failed = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All)).0;
            fs.no_fault();
            if restarted {
                target.reopen().unwrap();
            }
            if failed.is_ok() {
                continue;
            }
            let outcome = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
                .0
                .unwrap();
            target.set().seal(&outcome.roots).unwrap();
            fs.power_cycle(&mut Dice::new(3));
            target.reopen().unwrap();
            assert!(
                target.read("vda") == new,
                "sync {nth}, restarted {restarted}"
            );
        }
    }
}

#[test]
fn s12_what_counts_as_arrived_has_survived_a_loss_of_power() {
    for mode in [Mode::NewFiles, Mode::InPlace] {
        let (_, new, source, fs, target) = pair();
        cut_pass(
            &source,
            &target,
            spec(1, mode, Candidates::All),
            30 * KIB64 as u64,
        )
        .0
        .unwrap_err();
        fs.lose_what_is_not_synced();
        target.reopen().unwrap();
        let outcome = pass(&source, &target, spec(1, mode, Candidates::All))
            .0
            .unwrap();
        assert!(outcome.bytes_resumed > 0, "{mode:?}");
        target.set().seal(&outcome.roots).unwrap();
        assert!(target.read("vda") == new, "{mode:?}");
    }
}

#[test]
fn s12_records_of_a_failed_journal_sync_never_count() {
    let (old, _, source, fs, target) = pair();
    let mut syncs = 0;
    fs.fault(move |effect, path| {
        if !path.ends_with("journal") {
            return None;
        }
        syncs += u32::from(effect == Effect::Sync);
        match effect {
            Effect::Sync if syncs == 2 => Some(Fault::LostSync),
            // Not even cutting the records off succeeds.
            Effect::SetSize if syncs == 2 => Some(Fault::Io),
            _ => None,
        }
    });
    let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(outcome, Err(PassError::TargetIo(_))),
        "{outcome:?}"
    );
    fs.no_fault();
    // The next session gets far enough to overwrite what those records would protect.
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        38 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    assert!(target.read("vda") != old);
    fs.lose_what_is_not_synced();
    target.reopen().unwrap();
    target.set().undo().unwrap();
    assert!(target.read("vda") == old);
}

/// Stops the source in the middle of a pass until the test lets it go on.
struct Pausing {
    inner: FileSource,
    at: u64,
    barrier: Arc<Barrier>,
    reads: u64,
}

impl BlockSource for Pausing {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.reads += 1;
        if self.reads == self.at {
            self.barrier.wait();
            self.barrier.wait();
        }
        self.inner.read_at(offset, buf)
    }
}

#[test]
fn s12_what_is_journaled_after_a_failed_sync_counts_again() {
    let (old, _, source, fs, target) = pair();
    let mut syncs = 0;
    fs.fault(move |effect, path| {
        syncs += u32::from(effect == Effect::Sync && path.ends_with("journal"));
        (effect == Effect::Sync && syncs == 2).then_some(Fault::LostSync)
    });
    pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap_err();
    fs.no_fault();
    cut_pass(
        &source,
        &target,
        spec(1, Mode::InPlace, Candidates::All),
        38 * KIB64 as u64,
    )
    .0
    .unwrap_err();
    assert!(target.read("vda") != old);
    // By the very process that saw the sync fail.
    assert!(matches!(
        target.set().undo().unwrap(),
        UndoReport::Restored { blocks } if blocks > 0
    ));
    assert!(target.read("vda") == old);
}

#[test]
fn s09_a_barred_session_writes_nothing_more() {
    let (old, new) = (noise(1, 200 * KIB64), noise(2, 200 * KIB64));
    for newer in [false, true] {
        let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
        let barrier = Arc::new(Barrier::new(2));
        let slow = Pausing {
            inner: FileSource::open(&source.path("vda")).unwrap(),
            at: 80,
            barrier: Arc::clone(&barrier),
            reads: 0,
        };
        let (address, serving) = serve_one(&target, ServeOptions::default());
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let disks = vec![PassDisk {
                    id: id("vda"),
                    source: Box::new(slow),
                }];
                send_pass(
                    &Endpoint::plain(address.to_string()),
                    spec(1, Mode::InPlace, Candidates::All),
                    disks,
                    &mut source.set(),
                    &PassControl::new(),
                )
            });
            barrier.wait();
            if newer {
                // A second session of the same VM takes over; the first is closed first.
                let second = Site::new(&[("vda", &new)]);
                let (outcome, _) = pass(&second, &target, spec(2, Mode::InPlace, Candidates::All));
                outcome.unwrap();
                assert_eq!(target.read("vda"), new);
            } else {
                target.gate.close_all();
                target.set().undo().unwrap();
                assert_eq!(target.read("vda"), old);
                // Nobody new comes in either.
                let (outcome, _) = pass(
                    &Site::new(&[("vda", &new)]),
                    &target,
                    spec(2, Mode::InPlace, Candidates::All),
                );
                assert!(
                    matches!(
                        outcome,
                        Err(PassError::Refused(Refusal {
                            kind: RefusalKind::Fenced,
                            ..
                        }))
                    ),
                    "{outcome:?}"
                );
            }
            let before = target.read("vda");
            barrier.wait();
            let outcome = sending.join().unwrap();
            assert!(
                matches!(
                    outcome,
                    Err(PassError::Disconnected(_) | PassError::Barred(_))
                ),
                "{outcome:?}"
            );
            assert!(!matches!(serving.join().unwrap(), Served::Whole(_)));
            assert_eq!(target.read("vda"), before, "the late one changed nothing");
        });
    }
}

#[test]
fn s09_what_had_arrived_before_the_gate_closed_is_not_written_after() {
    let (old, _, source, fs, target) = pair();
    let gate = Arc::clone(&target.gate);
    let mut syncs = 0;
    fs.fault(move |effect, path| {
        syncs += u32::from(effect == Effect::Sync && path.ends_with("journal"));
        // The first batch has arrived and is journaled; its write comes next.
        if effect == Effect::Sync && syncs == 2 {
            gate.close_all();
        }
        None
    });
    let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(
            outcome,
            Err(PassError::Disconnected(_) | PassError::Barred(_))
        ),
        "{outcome:?}"
    );
    fs.no_fault();
    assert_eq!(target.read("vda"), old);
}

#[test]
fn s09_a_start_locks_the_disks_against_every_session() {
    let old = noise(1, 4 * KIB64);
    let (source, target) = (
        Site::new(&[("vda", &noise(2, old.len()))]),
        Site::new(&[("vda", &old)]),
    );
    let lock = target.set().lock_exclusive().unwrap();
    let (outcome, _) = pass(&source, &target, spec(1, Mode::InPlace, Candidates::All));
    assert!(
        matches!(
            outcome,
            Err(PassError::Refused(Refusal {
                kind: RefusalKind::Busy,
                ..
            }))
        ),
        "{outcome:?}"
    );
    drop(lock);
    pass(&source, &target, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
}

#[test]
fn s09_a_session_that_comes_late_to_the_disks_changes_nothing() {
    struct BarredOnTheWay(AdmitAll);
    impl Admission for BarredOnTheWay {
        fn admit(&self, hello: &Hello, peer: &Peer) -> Result<Admitted, Refusal> {
            let admitted = self.0.admit(hello, peer);
            // A start comes between the admission and the disks.
            self.0.gate.close_all();
            admitted
        }

        fn epoch(&self, vm: uuid::Uuid, peer: &Peer) -> Result<Option<u64>, Refusal> {
            self.0.epoch(vm, peer)
        }
    }
    let (_, _, source, fs, target) = pair();
    // New files that a seal could be about to swap in: a session of another pass would remove them.
    pass(&source, &target, spec(1, Mode::NewFiles, Candidates::All))
        .0
        .unwrap();
    let files = [
        "vda.incoming",
        "state/set.json",
        "state/tables/vda.incoming",
    ];
    let before = files.map(|name| target.read(name));
    let effects = fs.effects();
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let admission = BarredOnTheWay(AdmitAll {
            set: Arc::clone(&target.set),
            gate: Gate::new(),
        });
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                serve_connection(stream, &admission, &ServeOptions::default())
            });
            send_pass(
                &Endpoint::plain(address.to_string()),
                spec(2, mode, Candidates::All),
                source.sources(),
                &mut source.set(),
                &PassControl::new(),
            )
            .unwrap_err();
            assert!(!matches!(serving.join().unwrap(), Served::Whole(_)));
        });
        assert_eq!(fs.effects(), effects, "{mode:?}");
        assert!(files.map(|name| target.read(name)) == before, "{mode:?}");
    }
}

#[test]
fn s09_a_session_that_is_barred_at_the_end_of_its_pass_does_not_make_it_whole() {
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (old, _, source, fs, target) = pair();
        // A fence comes when all is written: at the last sync, which is not done by the thread that proves, and after all others have ended.
        let gate = Arc::clone(&target.gate);
        let (mut serving, mut written) = (None, false);
        fs.fault(move |effect, path| {
            let here = std::thread::current().id();
            let serving = *serving.get_or_insert(here);
            let data = path.ends_with("vda") || path.ends_with("vda.incoming");
            written |= effect == Effect::Write && data;
            if effect == Effect::Sync && data && written && here == serving {
                gate.close_all();
            }
            None
        });
        let (outcome, served) = pass(&source, &target, spec(1, mode, Candidates::All));
        assert!(
            matches!(
                outcome,
                Err(PassError::Disconnected(_) | PassError::Barred(_))
            ),
            "{outcome:?}"
        );
        assert!(!matches!(served, Served::Whole(_)), "{served:?}");
        fs.no_fault();
        let content = target.set().content().clone();
        assert!(
            matches!(
                content,
                Content::Partial { .. } | Content::NewFiles { whole: None, .. }
            ),
            "{content:?}"
        );
        target.set().undo().unwrap();
        assert!(target.read("vda") == old, "{mode:?}");
    }
}

#[test]
fn a_set_without_its_definition_can_still_be_voided() {
    let source = Site::new(&[("vda", &noise(2, KIB64))]);
    let host = Site::new(&[("vda", &noise(1, KIB64))]);
    pass(&source, &host, spec(1, Mode::InPlace, Candidates::All))
        .0
        .unwrap();
    let (state, disks) = (host.path("state"), host.set().disks());
    // The agent that had it open is gone.
    let elsewhere = tempfile::tempdir().unwrap();
    let none = VolumeSet::open_recorded(elsewhere.path(), VM).unwrap();
    assert!(none.is_none());
    *host.set() = VolumeSet::open(elsewhere.path(), VM, &[]).unwrap();
    let mut set = VolumeSet::open_recorded(&state, VM).unwrap().unwrap();
    assert_eq!(set.disks(), disks);
    assert!(matches!(set.content(), Content::Whole { .. }));
    set.void().unwrap();
    drop(set);
    let set = VolumeSet::open(&state, VM, &disks).unwrap();
    assert!(matches!(set.content(), Content::Unknown));
}

#[test]
fn a_second_process_is_kept_out() {
    let target = Site::new(&[("vda", &noise(1, KIB64))]);
    let again = VolumeSet::open(&target.path("state"), VM, &target.set().disks());
    assert!(matches!(again, Err(SetError::Busy { .. })), "{again:?}");
}

#[test]
fn another_version_is_refused_with_words() {
    use std::io::{Read, Write};
    let target = Site::new(&[("vda", &noise(1, KIB64))]);
    let (address, serving) = serve_one(&target, ServeOptions::default());
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let mut hello = vec![1, 0, 0, 0, 5, 0, 0, 0];
    hello.extend_from_slice(&(VERSION + 1).to_le_bytes());
    hello.extend_from_slice(b"???");
    stream.write_all(&hello).unwrap();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).unwrap();
    let header = Header::decode(header).unwrap();
    let mut body = vec![0; header.body_len()];
    stream.read_exact(&mut body).unwrap();
    match header.decode_body(&body).unwrap() {
        Frame::Refuse(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::Version);
            assert!(
                refusal
                    .message
                    .contains(&format!("version {}", VERSION + 1)),
                "{refusal}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(stream);
    assert!(matches!(serving.join().unwrap(), Served::Refused(_)));
}

#[test]
fn a_peer_that_says_nothing_is_let_go() {
    let target = Site::new(&[("vda", &noise(1, KIB64))]);
    let options = ServeOptions {
        idle_timeout: std::time::Duration::from_millis(1),
        ..ServeOptions::default()
    };
    let (address, serving) = serve_one(&target, options);
    let silent = std::net::TcpStream::connect(address).unwrap();
    assert!(matches!(serving.join().unwrap(), Served::Disconnected(_)));
    drop(silent);
    // The other way round: a target that takes the connection and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut endpoint = Endpoint::plain(listener.local_addr().unwrap().to_string());
    endpoint.idle_timeout = std::time::Duration::from_millis(1);
    let outcome = send_pass(
        &endpoint,
        spec(1, Mode::InPlace, Candidates::All),
        target.sources(),
        &mut target.set(),
        &PassControl::new(),
    );
    assert!(
        matches!(outcome, Err(PassError::Disconnected(_))),
        "{outcome:?}"
    );
}

#[test]
fn a_peer_that_never_comes_to_the_point_is_let_go() {
    use std::io::{Read, Write};
    let target = Site::new(&[("vda", &noise(1, KIB64))]);
    let options = ServeOptions {
        greeting: std::time::Duration::from_millis(50),
        ..ServeOptions::default()
    };
    let (address, serving) = serve_one(&target, options);
    let mut peer = std::net::TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(std::time::Duration::from_millis(5)))
        .unwrap();
    // A Hello of 3000 bytes, one at a time: never silent for long.
    let hello = [&[1, 0, 0, 0, 0xb8, 0x0b, 0, 0][..], &[0; 3000]].concat();
    for byte in hello {
        let gone = matches!(peer.read(&mut [0]), Ok(0)) || peer.write_all(&[byte]).is_err();
        if gone {
            break;
        }
    }
    drop(peer);
    match serving.join().unwrap() {
        Served::Disconnected(why) => assert!(why.contains("who it is"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_on_the_wire_ends_the_session_and_touches_nothing() {
    use std::io::Write;
    let old = noise(1, 4 * KIB64);
    for seed in 0..20 {
        let target = Site::new(&[("vda", &old)]);
        let (address, serving) = serve_one(&target, ServeOptions::default());
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&noise(seed, 3000));
        drop(stream);
        assert!(!matches!(serving.join().unwrap(), Served::Whole(_)));
        assert_eq!(target.read("vda"), old);
    }
}

#[test]
fn a_cancel_ends_the_pass_and_undo_brings_the_old_content_back() {
    let (old, new) = (noise(1, 200 * KIB64), noise(2, 200 * KIB64));
    let (source, target) = (Site::new(&[("vda", &new)]), Site::new(&[("vda", &old)]));
    let barrier = Arc::new(Barrier::new(2));
    let slow = Pausing {
        inner: FileSource::open(&source.path("vda")).unwrap(),
        at: 80,
        barrier: Arc::clone(&barrier),
        reads: 0,
    };
    let (address, serving) = serve_one(&target, ServeOptions::default());
    let control = PassControl::new();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let disks = vec![PassDisk {
                id: id("vda"),
                source: Box::new(slow),
            }];
            send_pass(
                &Endpoint::plain(address.to_string()),
                spec(1, Mode::InPlace, Candidates::All),
                disks,
                &mut source.set(),
                &control,
            )
        });
        barrier.wait();
        let progress = control.progress();
        assert_eq!(progress.phase, PassPhase::Transferring);
        assert_eq!(
            (progress.bytes_compared, progress.bytes_total),
            (new.len() as u64, new.len() as u64)
        );
        assert!(
            progress.bytes_done > 0 && progress.bytes_done < progress.bytes_total,
            "{progress:?}"
        );
        control.cancel();
        barrier.wait();
        assert!(matches!(sending.join().unwrap(), Err(PassError::Cancelled)));
    });
    assert!(matches!(serving.join().unwrap(), Served::Disconnected(_)));
    target.set().undo().unwrap();
    assert_eq!(target.read("vda"), old);
}

#[test]
fn a_source_that_cannot_be_read_fails_on_its_own_side() {
    struct Broken;
    impl BlockSource for Broken {
        fn size(&self) -> u64 {
            4 * KIB64 as u64
        }
        fn read_at(&mut self, _offset: u64, _buf: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::other("bad sector"))
        }
    }
    let old = noise(1, 4 * KIB64);
    let (source, target) = (Site::new(&[("vda", &old)]), Site::new(&[("vda", &old)]));
    let (address, serving) = serve_one(&target, ServeOptions::default());
    let disks = vec![PassDisk {
        id: id("vda"),
        source: Box::new(Broken),
    }];
    let outcome = send_pass(
        &Endpoint::plain(address.to_string()),
        spec(1, Mode::InPlace, Candidates::All),
        disks,
        &mut source.set(),
        &PassControl::new(),
    );
    let error = outcome.unwrap_err();
    assert!(matches!(error, PassError::SourceRead { .. }));
    assert_eq!(
        (error.side(), error.category()),
        (Some(Side::Source), "source_read")
    );
    serving.join().unwrap();
    assert_eq!(target.read("vda"), old);
}

#[test]
fn s04_a_peer_says_which_epoch_its_register_has() {
    let site = Site::new(&[("vda", &noise(1, KIB64))]);
    for (vm, epoch) in [(VM, Some(7)), (uuid::Uuid::from_u128(99), None)] {
        let (address, serving) = serve_one(&site, ServeOptions::default());
        let asked = Endpoint::plain(address.to_string());
        let answer = ask_epoch(&asked, vm, std::time::Duration::from_secs(10));
        assert_eq!(answer.unwrap(), epoch);
        assert!(matches!(serving.join().unwrap(), Served::Told));
    }
}
