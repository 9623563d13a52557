//! How far a pass says that it is.

use std::sync::{Arc, Mutex};

use homeward::dataplane::*;

use crate::support::*;

/// Notes at every read how far the pass is.
struct Watched {
    inner: FileSource,
    control: Arc<PassControl>,
    seen: Arc<Mutex<Vec<Progress>>>,
}

impl BlockSource for Watched {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.seen.lock().unwrap().push(self.control.progress());
        self.inner.read_at(offset, buf)
    }
    fn next_data(&mut self, from: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.inner.next_data(from)
    }
}

#[test]
fn a_pass_that_goes_on_does_not_begin_to_count_anew() {
    let new = noise(2, 200 * KIB64);
    for mode in [Mode::InPlace, Mode::NewFiles] {
        let (source, target) = (
            Site::new(&[("vda", &new)]),
            Site::new(&[("vda", &noise(1, new.len()))]),
        );
        cut_pass(
            &source,
            &target,
            spec(1, mode, Candidates::All),
            150 * KIB64 as u64,
        )
        .0
        .unwrap_err();
        let (control, seen) = (Arc::new(PassControl::new()), Arc::default());
        let disks = vec![PassDisk {
            id: id("vda"),
            source: Box::new(Watched {
                inner: FileSource::open(&source.path("vda")).unwrap(),
                control: Arc::clone(&control),
                seen: Arc::clone(&seen),
            }),
        }];
        let (address, serving) = serve_one(&target, ServeOptions::default());
        let outcome = send_pass(
            &Endpoint::plain(address.to_string()),
            spec(1, mode, Candidates::All),
            disks,
            &mut source.set(),
            &control,
        )
        .unwrap();
        serving.join().unwrap();
        assert!(outcome.bytes_resumed > 0, "{mode:?}");
        let seen: Vec<_> = seen.lock().unwrap().drain(..).collect();
        let sending = |progress: &&Progress| progress.phase == PassPhase::Transferring;
        let first = seen.iter().find(sending).unwrap();
        assert_eq!(
            (first.bytes_done, first.bytes_total),
            (outcome.bytes_resumed, new.len() as u64),
            "{mode:?}"
        );
        let last = control.progress();
        assert_eq!(
            (last.bytes_done, last.bytes_total),
            (new.len() as u64, new.len() as u64),
            "{mode:?}"
        );
        // What was sent is told without what had arrived.
        assert_eq!(
            outcome.bytes_changed + outcome.bytes_resumed,
            new.len() as u64
        );
    }
}

/// Holes of the source are no part of the total, neither before nor after.
#[test]
fn a_full_copy_that_goes_on_counts_what_holds_data() {
    let mut new = noise(2, 200 * KIB64);
    new[..64 * KIB64].fill(0);
    let (source, target) = (
        Site::new(&[("vda", &new)]),
        Site::new(&[("vda", &vec![0; new.len()])]),
    );
    let full = || spec(1, Mode::NewFiles, Candidates::All);
    cut_pass(&source, &target, full(), 80 * KIB64 as u64)
        .0
        .unwrap_err();
    let control = PassControl::new();
    let (address, serving) = serve_one(&target, ServeOptions::default());
    let outcome = send_pass(
        &Endpoint::plain(address.to_string()),
        full(),
        source.sources(),
        &mut source.set(),
        &control,
    )
    .unwrap();
    serving.join().unwrap();
    assert!(outcome.bytes_changed < 136 * KIB64 as u64);
    let last = control.progress();
    assert_eq!(
        (last.bytes_done, last.bytes_total),
        (136 * KIB64 as u64, 136 * KIB64 as u64)
    );
}
