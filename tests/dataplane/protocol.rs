//! The two machines alone, without sockets, files or clocks: a whole pass in memory, and peers that talk nonsense.

use std::collections::VecDeque;

use homeward::dataplane::blocks::{BLOCK, BlockSet, Geometry};
use homeward::dataplane::digest::{BlockHash, Digest, RootHasher, hash_blocks};
use homeward::dataplane::receiver::{self, Receiver};
use homeward::dataplane::sender::{
    self, SendError, Sender, SenderCandidates, SenderDisk, SenderSpec, Sent,
};
use homeward::dataplane::wire::{
    Data, Failure, FailureKind, Frame, HEADER, Header, MAX_DIGESTS, Welcome,
};
use homeward::dataplane::*;
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{KIB64, VM, id, noise};

fn hashes(content: &[u8], blocks: &std::ops::Range<u64>) -> Vec<BlockHash> {
    let end = content.len().min(blocks.end as usize * KIB64);
    let mut out = Vec::new();
    hash_blocks(&content[blocks.start as usize * KIB64..end], &mut out);
    out
}

fn root(content: &[u8]) -> Roots {
    let geometry = Geometry::new(content.len() as u64).unwrap();
    let mut hasher = RootHasher::new("vda", geometry);
    hashes(content, &(0..geometry.blocks()))
        .iter()
        .for_each(|hash| hasher.push(hash.digest.as_bytes()));
    [(id("vda"), hasher.finish().unwrap())].into()
}

fn spec(size: usize, mode: Mode, candidates: SenderCandidates, hint: &[u64]) -> SenderSpec {
    let geometry = Geometry::new(size as u64).unwrap();
    let mut ranges = BlockSet::new(geometry.blocks());
    hint.iter().for_each(|block| {
        ranges.insert(*block);
    });
    let disks = vec![SenderDisk {
        id: id("vda"),
        geometry,
        ranges,
    }];
    SenderSpec {
        vm: VM,
        epoch: 1,
        step: 1,
        pass: Uuid::from_u128(1),
        mode,
        point: "p".to_owned(),
        disks,
        candidates,
    }
}

struct Memory {
    source: Vec<u8>,
    target: Vec<u8>,
    welcome: Welcome,
    /// Frames from the sender, encoded: what would be on the wire.
    wire: usize,
    compared: u64,
}

impl Memory {
    /// Pumps both machines until they are over.
    fn run(&mut self, spec: SenderSpec) -> Result<Sent, SendError> {
        let (mut near, mut far) = (Sender::new(spec), Receiver::new());
        let mut ours: VecDeque<_> = near.on(sender::Event::Connected).into();
        let mut read = 0..0;
        let mut written = 0;
        let mut to_target: VecDeque<(Frame, Vec<u8>)> = VecDeque::new();
        let mut to_source: VecDeque<Frame> = VecDeque::new();
        loop {
            let event = match ours.pop_front() {
                Some(sender::Command::Done(sent)) => return Ok(sent),
                Some(sender::Command::Fail(error)) => return Err(error),
                Some(sender::Command::Send(frame)) => {
                    to_target.push_back((frame, Vec::new()));
                    None
                }
                Some(sender::Command::SendData(data, at)) => {
                    let start = read.start as usize * KIB64 + at;
                    let payload = self.source[start..start + data.len as usize].to_vec();
                    to_target.push_back((Frame::Data(data), payload));
                    None
                }
                Some(sender::Command::Measure(from)) => {
                    let rest = self.source.len() as u64 - from[0];
                    Some(sender::Event::Measured {
                        before: from[0],
                        rest,
                    })
                }
                Some(sender::Command::Begin(_)) => None,
                Some(sender::Command::Hash(_, blocks)) => {
                    Some(sender::Event::Hashed(hashes(&self.source, &blocks)))
                }
                Some(sender::Command::Read(_, blocks)) => {
                    read = blocks.clone();
                    Some(sender::Event::Hashed(hashes(&self.source, &blocks)))
                }
                Some(sender::Command::Root) => Some(sender::Event::Roots(root(&self.source))),
                // A frame is looked at when everything before it is done, as on a connection.
                None => to_source.pop_front().map(sender::Event::Frame),
            };
            if let Some(event) = event {
                ours.extend(near.on(event));
            }
            while let Some((frame, payload)) = to_target.pop_front() {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                self.wire += bytes.len() + payload.len();
                let header = Header::decode(*bytes.first_chunk::<HEADER>().unwrap()).unwrap();
                let frame = header.decode_body(&bytes[HEADER..]).unwrap();
                let mut theirs: VecDeque<_> = far.on(receiver::Event::Frame(frame)).into();
                while let Some(command) = theirs.pop_front() {
                    let event = match command {
                        receiver::Command::Admit(_) => {
                            receiver::Event::Admitted(self.welcome.clone())
                        }
                        receiver::Command::Send(frame) => {
                            to_source.push_back(frame);
                            continue;
                        }
                        receiver::Command::Digest(disk, spans) => {
                            for span in spans {
                                for first in span.clone().step_by(256) {
                                    let run = first..span.end.min(first + 256);
                                    self.compared += run.end - run.start;
                                    let digests = hashes(&self.target, &run)
                                        .iter()
                                        .map(|hash| hash.digest)
                                        .collect();
                                    theirs.extend(far.on(receiver::Event::Digested {
                                        disk,
                                        first,
                                        digests,
                                    }));
                                }
                            }
                            receiver::Event::DigestsDone
                        }
                        receiver::Command::Tell(_) => unreachable!("no sender asks in a pass"),
                        receiver::Command::Reserve { .. } => receiver::Event::Reserved,
                        receiver::Command::Write {
                            blocks, digests, ..
                        } => {
                            let start = blocks.start as usize * KIB64;
                            self.target[start..start + payload.len()].copy_from_slice(&payload);
                            assert_eq!(
                                hashes(&self.target, &blocks)
                                    .iter()
                                    .map(|hash| hash.digest)
                                    .collect::<Vec<_>>(),
                                digests
                            );
                            written += blocks.end - blocks.start;
                            receiver::Event::Durable(written)
                        }
                        receiver::Command::Zero { blocks, .. } => {
                            let end = self.target.len().min(blocks.end as usize * KIB64);
                            self.target[blocks.start as usize * KIB64..end].fill(0);
                            written += blocks.end - blocks.start;
                            continue;
                        }
                        receiver::Command::Finish { roots, .. } if roots == root(&self.target) => {
                            receiver::Event::Whole(roots)
                        }
                        receiver::Command::Finish { .. } => {
                            receiver::Event::Failed(Failure::new(FailureKind::Corrupt, "roots"))
                        }
                        receiver::Command::Close => continue,
                    };
                    theirs.extend(far.on(event));
                }
            }
        }
    }
}

fn memory(source: Vec<u8>, target: Vec<u8>) -> Memory {
    let welcome = Welcome {
        session: 1,
        base: None,
        partial: false,
        done: false,
        new_files: false,
        arrived: Vec::new(),
    };
    Memory {
        source,
        target,
        welcome,
        wire: 0,
        compared: 0,
    }
}

#[test]
fn a_pass_in_memory_sends_what_differs_and_no_more() {
    let old = noise(1, 700 * KIB64 + 512);
    let mut new = old.clone();
    new[300 * KIB64] ^= 1;
    new[700 * KIB64] ^= 1;
    new[310 * KIB64..320 * KIB64].fill(0);
    let mut pass = memory(new.clone(), old);
    let sent = pass
        .run(spec(
            new.len(),
            Mode::InPlace,
            SenderCandidates::All(WhyAll::Asked),
            &[],
        ))
        .unwrap();
    assert!(pass.target == new);
    assert_eq!((sent.blocks, sent.bytes), (12, 11 * BLOCK + 512));
    assert!(pass.wire < KIB64 + 512 + 1000, "{}", pass.wire);
}

#[test]
fn trusted_ranges_are_sent_without_a_question_and_compared_when_a_journal_is_open() {
    let old = noise(1, 50 * KIB64);
    let mut new = old.clone();
    new[3 * KIB64] ^= 1;
    new[9 * KIB64] ^= 1;
    let hint = [3, 4, 9];
    for partial in [false, true] {
        let mut pass = memory(new.clone(), old.clone());
        pass.welcome.base = Some(root(&old));
        pass.welcome.partial = partial;
        let sent = pass
            .run(spec(
                new.len(),
                Mode::InPlace,
                SenderCandidates::Ranges(root(&old)),
                &hint,
            ))
            .unwrap();
        assert!(pass.target == new);
        assert_eq!(sent.used, UsedCandidates::Ranges);
        assert_eq!(
            (sent.blocks, pass.compared),
            if partial { (2, 3) } else { (3, 0) }
        );
    }
    // The target is at another base: everything is compared.
    let mut pass = memory(new.clone(), old.clone());
    let sent = pass
        .run(spec(
            new.len(),
            Mode::InPlace,
            SenderCandidates::Ranges(root(&old)),
            &hint,
        ))
        .unwrap();
    assert_eq!(
        (sent.used, sent.blocks),
        (UsedCandidates::All(WhyAll::TargetBase), 2)
    );
}

#[test]
fn a_full_copy_goes_on_after_what_has_arrived() {
    let new = noise(2, 50 * KIB64);
    let mut target = vec![0; new.len()];
    target[..20 * KIB64].copy_from_slice(&new[..20 * KIB64]);
    let mut pass = memory(new.clone(), target);
    pass.welcome.arrived = vec![20 * BLOCK];
    pass.welcome.new_files = true;
    let sent = pass
        .run(spec(
            new.len(),
            Mode::NewFiles,
            SenderCandidates::All(WhyAll::Asked),
            &[],
        ))
        .unwrap();
    assert!(pass.target == new);
    assert_eq!(
        (sent.blocks, sent.resumed, pass.compared),
        (30, 20 * BLOCK, 0)
    );
}

/// A receiver that has been admitted with one disk of ten blocks and a plan of four.
fn receiving() -> Receiver {
    let mut machine = Receiver::new();
    let hello = match &Sender::new(spec(
        10 * KIB64,
        Mode::InPlace,
        SenderCandidates::All(WhyAll::Asked),
        &[],
    ))
    .on(sender::Event::Connected)[0]
    {
        sender::Command::Send(frame) => frame.clone(),
        other => panic!("{other:?}"),
    };
    machine.on(receiver::Event::Frame(hello));
    machine.on(receiver::Event::Admitted(
        memory(Vec::new(), Vec::new()).welcome,
    ));
    machine.on(receiver::Event::Frame(Frame::Plan {
        blocks: 4,
        bytes: 4 * BLOCK,
    }));
    machine.on(receiver::Event::Reserved);
    machine
}

#[test]
fn a_receiver_takes_only_what_fits_the_disk_the_plan_and_the_order() {
    let data = |disk: u16, block: u64, count: u64, digests: usize| {
        Frame::Data(Data {
            disk,
            offset: block * BLOCK,
            len: (count * BLOCK) as u32,
            digests: vec![Digest::of(b"x"); digests],
        })
    };
    let zero = |block: u64, count: u64| Frame::Zero {
        disk: 0,
        offset: block * BLOCK,
        len: count * BLOCK,
    };
    let good: Vec<Vec<Frame>> = vec![
        vec![data(0, 0, 4, 4)],
        vec![data(0, 1, 1, 1), zero(2, 1), data(0, 9, 1, 1)],
    ];
    for frames in good {
        let mut machine = receiving();
        for frame in frames {
            let commands = machine.on(receiver::Event::Frame(frame));
            assert!(
                matches!(
                    commands[0],
                    receiver::Command::Write { .. } | receiver::Command::Zero { .. }
                ),
                "{commands:?}"
            );
        }
    }
    let bad: Vec<Vec<Frame>> = vec![
        vec![data(1, 0, 1, 1)],
        vec![data(0, 10, 1, 1)],
        vec![data(0, 9, 2, 2)],
        vec![data(0, 0, 2, 1)],
        vec![Frame::Data(Data {
            disk: 0,
            offset: 512,
            len: 512,
            digests: vec![Digest::of(b"x")],
        })],
        vec![zero(0, 5)],
        vec![data(0, 5, 1, 1), data(0, 5, 1, 1)],
        vec![data(0, 5, 1, 1), data(0, 2, 1, 1)],
        vec![data(0, 0, 4, 4), zero(5, 1)],
        vec![Frame::Zero {
            disk: 0,
            offset: u64::MAX,
            len: u64::MAX,
        }],
        vec![Frame::PlanOk],
        vec![Frame::Finish {
            roots: Roots::new(),
            point: String::new(),
        }],
        vec![Frame::Compare {
            disk: 0,
            spans: std::iter::once(0..1).collect(),
        }],
    ];
    for frames in bad {
        let mut machine = receiving();
        let last = frames
            .iter()
            .map(|frame| machine.on(receiver::Event::Frame(frame.clone())))
            .last()
            .unwrap();
        assert!(
            matches!(
                &last[0],
                receiver::Command::Send(Frame::Failed(Failure {
                    kind: FailureKind::Protocol,
                    ..
                }))
            ),
            "{frames:?}: {last:?}"
        );
        assert!(machine.is_over() && machine.on(receiver::Event::Frame(Frame::PlanOk)).is_empty());
    }
}

/// Frames that a peer could send, valid or not, with small numbers so that they hit.
fn frame() -> impl Strategy<Value = Frame> {
    let digests = || prop::collection::vec(any::<[u8; 32]>().prop_map(Digest::from_bytes), 0..6);
    let small = || prop_oneof![0u64..12, any::<u64>()];
    let roots = || prop_oneof![Just(Roots::new()), Just(root(&noise(1, KIB64)))];
    prop_oneof![
        Just(
            match &Sender::new(spec(
                10 * KIB64,
                Mode::InPlace,
                SenderCandidates::All(WhyAll::Asked),
                &[]
            ))
            .on(sender::Event::Connected)[0]
            {
                sender::Command::Send(frame) => frame.clone(),
                _ => Frame::PlanOk,
            }
        ),
        (
            0u16..3,
            prop::collection::vec((small(), small()).prop_map(|(a, b)| a..b), 0..4)
        )
            .prop_map(|(disk, spans)| Frame::Compare { disk, spans }),
        (small(), small()).prop_map(|(blocks, bytes)| Frame::Plan { blocks, bytes }),
        (0u16..3, small(), small(), digests()).prop_map(|(disk, block, count, digests)| {
            Frame::Data(Data {
                disk,
                offset: block.wrapping_mul(BLOCK),
                len: count.wrapping_mul(BLOCK) as u32,
                digests,
            })
        }),
        (0u16..3, small(), small()).prop_map(|(disk, block, count)| Frame::Zero {
            disk,
            offset: block.wrapping_mul(BLOCK),
            len: count.wrapping_mul(BLOCK)
        }),
        roots().prop_map(|roots| Frame::Finish {
            roots,
            point: "p".to_owned()
        }),
        (
            any::<(bool, bool, bool)>(),
            prop::option::of(roots()),
            prop::collection::vec(small(), 0..3)
        )
            .prop_map(
                |((partial, done, new_files), base, arrived)| Frame::Welcome(Welcome {
                    session: 1,
                    base,
                    partial,
                    done,
                    new_files,
                    arrived
                })
            ),
        (0u16..3, small(), digests()).prop_map(|(disk, first, digests)| Frame::Digests {
            disk,
            first,
            digests
        }),
        Just(Frame::PlanOk),
        Just(Frame::Beat),
        small().prop_map(|blocks| Frame::Durable { blocks }),
        roots().prop_map(|roots| Frame::Whole { roots }),
        Just(Frame::Failed(Failure::new(FailureKind::TargetIo, "x"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_receiver_survives_any_sequence_of_frames(frames in prop::collection::vec(frame(), 0..25)) {
        let mut machine = Receiver::new();
        for frame in frames {
            for command in machine.on(receiver::Event::Frame(frame)) {
                match command {
                    receiver::Command::Admit(_) => drop(machine.on(receiver::Event::Admitted(memory(Vec::new(), Vec::new()).welcome))),
                    receiver::Command::Reserve { blocks, .. } => {
                        prop_assert!(blocks <= 10);
                        machine.on(receiver::Event::Reserved);
                    }
                    receiver::Command::Digest(disk, spans) => {
                        prop_assert!(disk == 0 && spans.iter().all(|span| span.start < span.end && span.end <= 10));
                        machine.on(receiver::Event::DigestsDone);
                    }
                    receiver::Command::Write { disk, blocks, digests } => {
                        prop_assert!(disk == 0 && blocks.end <= 10 && digests.len() as u64 == blocks.end - blocks.start && digests.len() <= 4);
                    }
                    receiver::Command::Zero { disk, blocks } => prop_assert!(disk == 0 && blocks.end <= 10),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_sender_survives_any_sequence_of_frames(frames in prop::collection::vec(frame(), 0..25), new: bool, answer in 0usize..MAX_DIGESTS) {
        let mode = if new { Mode::NewFiles } else { Mode::InPlace };
        let content = noise(3, 10 * KIB64);
        let mut machine = Sender::new(spec(content.len(), mode, SenderCandidates::All(WhyAll::Asked), &[]));
        let mut queue: VecDeque<_> = machine.on(sender::Event::Connected).into();
        let mut frames = frames.into_iter();
        loop {
            let event = match queue.pop_front() {
                Some(sender::Command::Hash(_, blocks) | sender::Command::Read(_, blocks)) => {
                    prop_assert!(blocks.start < blocks.end && blocks.end <= 10);
                    // Now and then an answer of the wrong length.
                    let mut hashes = hashes(&content, &blocks);
                    if answer == 0 {
                        hashes.pop();
                    }
                    sender::Event::Hashed(hashes)
                }
                Some(sender::Command::Measure(_)) => sender::Event::Measured { before: 1, rest: 1 },
                Some(sender::Command::Root) => sender::Event::Roots(root(&content)),
                Some(_) => continue,
                None => match frames.next() {
                    Some(frame) => sender::Event::Frame(frame),
                    None => break,
                },
            };
            queue.extend(machine.on(event));
        }
    }
}
