//! A peer that is at work is waited for, however long; one that stands still is not. Time is the tests' own: nothing here depends on how fast
//! the machine is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use homeward::dataplane::io::fs::Fs;
use homeward::dataplane::wire::{DiskHello, Frame, HEADER, Header, Welcome};
use homeward::dataplane::*;
use uuid::Uuid;

use crate::simfs::{Effect, SimFs};
use crate::support::*;
use crate::tls::Pki;

const EVERY: u64 = 1;
const SILENCE: u64 = 2;

/// Seconds that go by when the test says so.
#[derive(Clone)]
struct Time(Instant, Arc<AtomicU64>);

impl Time {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn pass(&self, seconds: u64) {
        self.1.fetch_add(seconds, Ordering::SeqCst);
    }

    fn pulse(&self, silence: u64) -> Pulse {
        let Self(begin, gone) = self.clone();
        Pulse {
            every: Duration::from_secs(EVERY),
            silence: Duration::from_secs(silence),
            clock: Clock::new(move || begin + Duration::from_secs(gone.load(Ordering::SeqCst))),
        }
    }

    fn serving(&self) -> ServeOptions {
        ServeOptions {
            pulse: self.pulse(SILENCE),
            ..ServeOptions::default()
        }
    }

    fn endpoint(&self, address: SocketAddr) -> Endpoint {
        Endpoint {
            pulse: self.pulse(SILENCE),
            ..Endpoint::plain(address.to_string())
        }
    }
}

/// Waits for what must come, and does not hang for ever where it does not.
fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let long = Instant::now() + Duration::from_secs(30);
    while !come() {
        assert!(Instant::now() < long, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn say(stream: &mut TcpStream, frame: &Frame) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
}

/// The next frame that is no beat.
fn hear(stream: &mut TcpStream) -> Frame {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).unwrap();
        let header = Header::decode(header).unwrap();
        let mut body = vec![0; header.body_len()];
        stream.read_exact(&mut body).unwrap();
        match header.decode_body(&body).unwrap() {
            Frame::Beat => {}
            frame => return frame,
        }
    }
}

fn welcome(new_files: bool) -> Frame {
    Frame::Welcome(Welcome {
        session: 1,
        base: None,
        partial: false,
        done: false,
        new_files,
        arrived: Vec::new(),
    })
}

/// Sends to a target that answers as `target` says and then stands still, for 45 s of the tests' time or some times that.
fn send_to_one_that_stands_still(
    mode: Mode,
    size: usize,
    target: impl FnOnce(&mut TcpStream, &PassControl),
) -> String {
    let source = Site::new(&[("vda", &noise(1, size))]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let time = Time::new();
    let endpoint = Endpoint {
        pulse: time.pulse(45),
        ..Endpoint::plain(listener.local_addr().unwrap().to_string())
    };
    let control = PassControl::new();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            send_pass(
                &endpoint,
                spec(1, mode, Candidates::All),
                source.sources(),
                &mut source.set(),
                &control,
            )
        });
        let (mut stream, _) = listener.accept().unwrap();
        target(&mut stream, &control);
        wait_for("the end of the pass", || {
            // More than once: what was said last may only be read now.
            time.pass(45);
            sending.is_finished()
        });
        match sending.join().unwrap() {
            Err(PassError::Disconnected(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn a_target_that_stands_still_ends_the_pass_with_words() {
    // Not a word; in the middle of a comparison; in the middle of a frame.
    let cases: [fn(&mut TcpStream, &PassControl); 3] = [
        |stream, _| drop(hear(stream)),
        |stream, _| {
            hear(stream);
            say(stream, &welcome(false));
            assert!(matches!(hear(stream), Frame::Compare { .. }));
        },
        |stream, _| {
            hear(stream);
            let mut bytes = Vec::new();
            welcome(false).encode(&mut bytes);
            stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
        },
    ];
    for case in cases {
        let words = send_to_one_that_stands_still(Mode::InPlace, KIB64, case);
        assert!(
            words.starts_with("127.0.0.1:") && words.contains(" has sent nothing for "),
            "{words}"
        );
    }
}

#[test]
fn a_target_that_takes_nothing_and_says_nothing_ends_the_pass() {
    let words = send_to_one_that_stands_still(Mode::NewFiles, 400 * KIB64, |stream, control| {
        hear(stream);
        say(stream, &welcome(true));
        assert!(matches!(hear(stream), Frame::Plan { .. }));
        say(stream, &Frame::PlanOk);
        // Until the connection is full.
        let mut before = 0;
        wait_for("a full connection", || {
            std::thread::sleep(Duration::from_millis(200));
            let done = control.progress().bytes_done;
            done > 0 && std::mem::replace(&mut before, done) == done
        });
    });
    assert!(words.contains(" has sent nothing for "), "{words}");
}

#[test]
fn a_sender_that_stands_still_ends_the_session_with_words() {
    let target = Site::new(&[("vda", &noise(1, KIB64))]);
    let time = Time::new();
    let options = ServeOptions {
        pulse: time.pulse(45),
        ..ServeOptions::default()
    };
    let (address, serving) = serve_one(&target, options);
    let mut stream = TcpStream::connect(address).unwrap();
    let hello = homeward::dataplane::Hello {
        vm: VM,
        epoch: 1,
        step: 1,
        pass: Uuid::from_u128(1),
        mode: Mode::InPlace,
        disks: vec![DiskHello {
            id: id("vda"),
            size: KIB64 as u64,
        }],
    };
    say(&mut stream, &Frame::Hello(hello));
    assert!(matches!(hear(&mut stream), Frame::Welcome(_)));
    time.pass(45);
    wait_for("the end of the session", || serving.is_finished());
    match serving.join().unwrap() {
        Served::Disconnected(why) => {
            assert!(
                why.starts_with("the sender has sent nothing for 45 s"),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Stands between and counts what goes to the target and what comes back.
struct Relay {
    address: SocketAddr,
    there: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
}

impl Relay {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            there: Arc::default(),
            back: Arc::default(),
        };
        let (there, back) = (Arc::clone(&relay.there), Arc::clone(&relay.back));
        std::thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect(target).unwrap();
            let (to, from) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let thread = std::thread::spawn(move || carry(from, to, &back));
            carry(near, far, &there);
            thread.join().unwrap();
        });
        relay
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buf = vec![0; KIB64];
    while let Ok(read @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..read]).is_err() {
            break;
        }
        count.fetch_add(read as u64, Ordering::SeqCst);
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Lets ten times the bound go by, as long as a beat comes each time.
fn outlast(time: &Time, beats: &AtomicU64) {
    for _ in 0..10 * SILENCE / EVERY {
        let before = beats.load(Ordering::SeqCst);
        time.pass(EVERY);
        wait_for("a beat", || beats.load(Ordering::SeqCst) > before);
    }
}

/// A disk that hangs at its first effect of a kind, until the test lets go.
fn hang(fs: &SimFs, at: Effect) -> (Receiver<()>, Sender<()>) {
    let (hung, hangs) = channel();
    let (go, goes_on) = channel();
    let goes_on = Mutex::new(goes_on);
    let mut first = true;
    fs.fault(move |effect, path| {
        if effect == at && path.ends_with("vda") && std::mem::take(&mut first) {
            hung.send(()).unwrap();
            let _ = goes_on.lock().unwrap().recv();
        }
        None
    });
    (hangs, go)
}

/// A target whose disk hangs for long, while the sender waits for the verdict and while it cannot send on.
#[test]
fn a_target_that_is_at_work_is_waited_for() {
    let pki = Pki::new();
    for (blocks, at, tls) in [
        (40, Effect::Sync, true),
        (800, Effect::Write, false),
        (800, Effect::Write, true),
    ] {
        let new = noise(2, blocks * KIB64);
        let source = Site::new(&[("vda", &new)]);
        let fs = SimFs::new();
        let target = Site::at(
            Arc::new(fs.clone()) as Arc<dyn Fs>,
            PathBuf::from("/vm"),
            None,
            &[("vda", &noise(1, blocks * KIB64))],
        );
        let (hangs, go) = hang(&fs, at);
        let time = Time::new();
        let mut serving = time.serving();
        serving.tls = pki.server().tls.filter(|_| tls);
        let (address, serving) = serve_one(&target, serving);
        let relay = Relay::to(address);
        let mut endpoint = time.endpoint(relay.address);
        if tls {
            endpoint.tls = pki.client(String::new(), "target.test").tls;
        }
        std::thread::scope(|scope| {
            // The disk is let go also where the test fails.
            let go = go;
            let sending = scope.spawn(|| {
                send_pass(
                    &endpoint,
                    spec(1, Mode::InPlace, Candidates::All),
                    source.sources(),
                    &mut source.set(),
                    &PassControl::new(),
                )
            });
            hangs.recv().unwrap();
            outlast(&time, &relay.back);
            assert!(!sending.is_finished(), "{at:?}, TLS {tls}");
            go.send(()).unwrap();
            sending.join().unwrap().unwrap();
        });
        assert!(matches!(serving.join().unwrap(), Served::Whole(_)));
        assert!(target.read("vda") == new);
    }
}

/// Hangs at its first read until the test lets go.
struct Hanging {
    inner: FileSource,
    hung: Option<Sender<()>>,
    goes_on: Receiver<()>,
}

impl BlockSource for Hanging {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        if let Some(hung) = self.hung.take() {
            hung.send(()).unwrap();
            let _ = self.goes_on.recv();
        }
        self.inner.read_at(offset, buf)
    }
}

#[test]
fn a_source_that_is_at_work_is_waited_for() {
    let new = noise(2, 40 * KIB64);
    let (source, target) = (
        Site::new(&[("vda", &new)]),
        Site::new(&[("vda", &noise(1, new.len()))]),
    );
    let ((hung, hangs), (go, goes_on)) = (channel(), channel());
    let disk = Hanging {
        inner: FileSource::open(&source.path("vda")).unwrap(),
        hung: Some(hung),
        goes_on,
    };
    let time = Time::new();
    let (address, serving) = serve_one(&target, time.serving());
    let relay = Relay::to(address);
    std::thread::scope(|scope| {
        let go = go;
        let sending = scope.spawn(|| {
            let disks = vec![PassDisk {
                id: id("vda"),
                source: Box::new(disk),
            }];
            send_pass(
                &time.endpoint(relay.address),
                spec(1, Mode::InPlace, Candidates::All),
                disks,
                &mut source.set(),
                &PassControl::new(),
            )
        });
        hangs.recv().unwrap();
        outlast(&time, &relay.there);
        assert!(!serving.is_finished());
        go.send(()).unwrap();
        sending.join().unwrap().unwrap();
    });
    assert!(matches!(serving.join().unwrap(), Served::Whole(_)));
    assert_eq!(target.read("vda"), new);
}
