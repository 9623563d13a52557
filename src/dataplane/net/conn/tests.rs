//! Beats between frames, over a socket whose other end the test holds.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use uuid::Uuid;

use super::*;
use crate::dataplane::digest::Digest;
use crate::dataplane::identity::Mode;
use crate::dataplane::net::pulse::Clock;
use crate::dataplane::wire::{Data, Hello};

/// Seconds that have passed, and a pulse that goes by them.
fn time() -> (Arc<AtomicU64>, Pulse) {
    let (begin, gone) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let passed = Arc::clone(&gone);
    let clock = Clock::new(move || begin + Duration::from_secs(passed.load(Ordering::SeqCst)));
    let pulse = Pulse {
        every: Duration::from_secs(5),
        silence: Duration::from_secs(45),
        clock,
    };
    (gone, pulse)
}

/// A connection that has said Hello, and what the peer has got.
fn greeted(pulse: Pulse, stop: Stop<'_>) -> (Conn<'_>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let terms = Terms {
        peer: "hv02".to_owned(),
        idle: Duration::from_hours(1),
        pulse,
        stop,
    };
    let mut conn = Conn::plain(near, terms).unwrap();
    let hello = Frame::Hello(Hello {
        vm: Uuid::from_u128(1),
        epoch: 1,
        step: 1,
        pass: Uuid::from_u128(1),
        mode: Mode::InPlace,
        disks: Vec::new(),
    });
    conn.send(&hello, &[]).unwrap();
    far.read_exact(&mut vec![0; encoded(&hello).len()]).unwrap();
    (conn, far)
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

fn data() -> (Frame, Vec<u8>) {
    let frame = Frame::Data(Data {
        disk: 0,
        offset: 0,
        len: 256 * 1024,
        digests: vec![Digest::of(b"x"); 4],
    });
    (frame, vec![1; 256 * 1024])
}

/// All that comes until the other side ends.
fn drain(mut far: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn a_beat_goes_out_when_nothing_else_did() {
    let (gone, pulse) = time();
    let (mut conn, far) = greeted(pulse, &|| false);
    for seconds in [4, 1, 4, 1] {
        gone.fetch_add(seconds, Ordering::SeqCst);
        conn.beat().unwrap();
        conn.beat().unwrap();
    }
    drop(conn);
    assert_eq!(
        drain(far),
        [encoded(&Frame::Beat), encoded(&Frame::Beat)].concat()
    );
}

/// The peer would take it for the rest of the frame, and what it proves would be the disk's fault.
#[test]
fn no_beat_follows_a_frame_that_broke_off() {
    let (gone, pulse) = time();
    let stopped = AtomicBool::new(false);
    let stop = || stopped.load(Ordering::SeqCst);
    let (mut conn, far) = greeted(pulse, &stop);
    let (frame, payload) = data();
    let whole = encoded(&frame).len() + payload.len();
    // Nobody reads until the connection is full: a frame breaks off in the middle.
    stopped.store(true, Ordering::SeqCst);
    let before = conn.bytes().0;
    while conn.send(&frame, &payload).is_ok() {}
    let sent = usize::try_from(conn.bytes().0 - before).unwrap();
    assert!(sent % whole > 0);
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| drain(far));
        gone.fetch_add(1000, Ordering::SeqCst);
        // There is room again at some time during these.
        for _ in 0..50 {
            conn.beat().unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(conn);
        assert_eq!(drained.join().unwrap().len(), sent);
    });
}

/// More of them than are read ahead, while this side cannot send; what comes behind them is not lost.
#[test]
fn hours_of_beats_are_heard_while_nothing_can_be_sent() {
    let (gone, pulse) = time();
    let (mut conn, far) = greeted(pulse, &|| false);
    let (frame, payload) = &data();
    let durable = Frame::Durable { blocks: 7 };
    std::thread::scope(|scope| {
        let mut far = far;
        let sending = scope.spawn(move || {
            for _ in 0..200 {
                conn.send(frame, payload).unwrap();
            }
            loop {
                if let Some(frame) = conn.frame(true).unwrap() {
                    return frame;
                }
            }
        });
        for _ in 0..20 {
            gone.fetch_add(40, Ordering::SeqCst);
            far.write_all(&encoded(&Frame::Beat).repeat(1000)).unwrap();
        }
        far.write_all(&encoded(&durable)).unwrap();
        let mut all = vec![0; 200 * (encoded(frame).len() + payload.len())];
        far.read_exact(&mut all).unwrap();
        assert_eq!(sending.join().unwrap(), durable);
    });
}

/// Before the Hello nobody knows whether the other side has heard of beats.
#[test]
fn a_beat_before_the_hello_is_for_the_machine_to_refuse() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    let terms = Terms {
        peer: "the sender".to_owned(),
        idle: Duration::from_hours(1),
        pulse: Pulse::default(),
        stop: &|| false,
    };
    let mut conn = Conn::plain(near, terms).unwrap();
    far.write_all(&encoded(&Frame::Beat)).unwrap();
    let come = loop {
        if let Some(frame) = conn.frame(true).unwrap() {
            break frame;
        }
    };
    assert_eq!(come, Frame::Beat);
}
