//! The receiving side of a pass as a state machine: events in, commands out. No sockets, files or clocks.
//!
//! ```text
//!  Greeting --Ask--> Telling --Told--> Over
//!  Greeting --Hello--> Admitting --Admitted--> Ready <--> Digesting
//!                                                |
//!                                               Plan --> Reserving --Reserved--> Receiving --Finish--> Finishing --Whole--> Over
//!                                                            +--no room for the journal: new files--> Ready
//! ```
//!
//! It checks every number that a sender gives against the disks' geometry before anything acts on it.

use std::collections::BTreeSet;
use std::ops::Range;

use uuid::Uuid;

use super::blocks::{FRAME_PAYLOAD, Geometry};
use super::digest::Digest;
use super::identity::Roots;
use super::wire::{
    Data, Failure, FailureKind, Frame, Hello, MAX_DIGESTS, MAX_DISKS, MAX_POINT, Refusal,
    RefusalKind, Welcome,
};

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A frame came; the payload of a data frame waits to be read.
    Frame(Frame),
    /// A [`Command::Admit`] was granted, or a [`Command::Reserve`] leads to new files.
    Admitted(Welcome),
    /// A [`Command::Admit`], [`Command::Reserve`] or [`Command::Tell`] was refused.
    Refused(Refusal),
    /// The answer to a [`Command::Tell`].
    Told(Option<u64>),
    /// Some of the digests of a [`Command::Digest`], in order.
    Digested {
        /// The disk.
        disk: usize,
        /// The first block.
        first: u64,
        /// At most [`MAX_DIGESTS`].
        digests: Vec<Digest>,
    },
    /// A [`Command::Digest`] is done.
    DigestsDone,
    /// A [`Command::Reserve`] is done.
    Reserved,
    /// Blocks of this session that are written, synced and read back, in all.
    Durable(u64),
    /// A [`Command::Finish`] is done.
    Whole(Roots),
    /// Something failed on this side.
    Failed(Failure),
}

/// What to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask whether this sender may write now.
    Admit(Hello),
    /// Say which epoch the register of this VM has, if whoever asks may know.
    Tell(Uuid),
    /// Send a frame.
    Send(Frame),
    /// Answer with the digests of these blocks.
    Digest(usize, Vec<Range<u64>>),
    /// Open or keep the journal, or the new files, with room for this much.
    Reserve {
        /// Blocks at most.
        blocks: u64,
        /// Bytes at most.
        bytes: u64,
    },
    /// Take the payload that waits and write it.
    Write {
        /// The disk.
        disk: usize,
        /// The blocks.
        blocks: Range<u64>,
        /// What they must hold, one a block.
        digests: Vec<Digest>,
    },
    /// Make these blocks zero.
    Zero {
        /// The disk.
        disk: usize,
        /// The blocks.
        blocks: Range<u64>,
    },
    /// Make everything durable, verify it against these roots, record it.
    Finish {
        /// The sender's roots.
        roots: Roots,
        /// The name of the point.
        point: String,
    },
    /// Nothing more comes: the session ends. The last command.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Telling,
    Admitting,
    Ready,
    Digesting,
    Reserving,
    Receiving,
    Finishing,
    Over,
}

#[derive(Debug)]
struct Disk {
    geometry: Geometry,
    /// The first block that may still come: a session sends every block at most once, in order.
    next: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Receiver {
    state: State,
    disks: Vec<Disk>,
    planned: u64,
    received: u64,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A machine for one connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Greeting,
            disks: Vec::new(),
            planned: 0,
            received: 0,
        }
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Bytes in a run of blocks of a disk; at most a frame's payload for a [`Command::Write`].
    #[must_use]
    pub fn run_len(&self, disk: usize, blocks: &Range<u64>) -> usize {
        let len = self.disks.get(disk).map_or(0, |disk| {
            disk.geometry
                .run_len(blocks.start, blocks.end - blocks.start)
        });
        usize::try_from(len).unwrap_or(0)
    }

    /// Takes an event and says what to do. After [`Command::Close`] nothing more is done.
    pub fn on(&mut self, event: Event) -> Vec<Command> {
        match (event, self.state) {
            (_, State::Over) => Vec::new(),
            (Event::Frame(frame), _) => self.frame(frame),
            (Event::Admitted(welcome), State::Admitting) => {
                self.state = State::Ready;
                vec![Command::Send(Frame::Welcome(welcome))]
            }
            // There is no room in place: the sender plans anew, for new files.
            (Event::Admitted(welcome), State::Reserving) if welcome.new_files => {
                self.state = State::Ready;
                vec![Command::Send(Frame::Welcome(welcome))]
            }
            (Event::Refused(refusal), State::Telling | State::Admitting | State::Reserving) => {
                self.refuse(refusal)
            }
            (Event::Told(epoch), State::Telling) => {
                self.state = State::Over;
                vec![Command::Send(Frame::Told { epoch }), Command::Close]
            }
            (
                Event::Digested {
                    disk,
                    first,
                    digests,
                },
                State::Digesting,
            ) if digests.len() <= MAX_DIGESTS => {
                vec![Command::Send(Frame::Digests {
                    disk: u16::try_from(disk).unwrap_or(u16::MAX),
                    first,
                    digests,
                })]
            }
            (Event::DigestsDone, State::Digesting) => {
                self.state = State::Ready;
                Vec::new()
            }
            (Event::Reserved, State::Reserving) => {
                self.state = State::Receiving;
                vec![Command::Send(Frame::PlanOk)]
            }
            (Event::Durable(blocks), State::Receiving | State::Finishing) => {
                vec![Command::Send(Frame::Durable { blocks })]
            }
            (Event::Whole(roots), State::Finishing) => {
                self.state = State::Over;
                vec![Command::Send(Frame::Whole { roots }), Command::Close]
            }
            (Event::Failed(failure), _) => self.fail(failure),
            (_, _) => self.broken("an event came in the wrong state"),
        }
    }

    fn frame(&mut self, frame: Frame) -> Vec<Command> {
        match (frame, self.state) {
            (Frame::Hello(hello), State::Greeting) => self.hello(hello),
            (Frame::Ask { vm }, State::Greeting) => {
                self.state = State::Telling;
                vec![Command::Tell(vm)]
            }
            (Frame::Compare { disk, spans }, State::Ready) => {
                let Some(known) = self.disks.get(usize::from(disk)) else {
                    return self.broken("a disk that was not named");
                };
                let straight = spans.windows(2).all(|pair| pair[0].end <= pair[1].start)
                    && spans
                        .iter()
                        .all(|span| span.start < span.end && span.end <= known.geometry.blocks());
                if !straight || spans.is_empty() {
                    return self.broken("a range that is not on the disk");
                }
                self.state = State::Digesting;
                vec![Command::Digest(usize::from(disk), spans)]
            }
            (Frame::Plan { blocks, bytes }, State::Ready) => {
                let (most_blocks, most_bytes) = self.disks.iter().fold((0, 0), |(b, s), disk| {
                    (b + disk.geometry.blocks(), s + disk.geometry.size())
                });
                if blocks > most_blocks || bytes > most_bytes {
                    return self.broken("a plan larger than the disks");
                }
                self.planned = blocks;
                self.state = State::Reserving;
                vec![Command::Reserve { blocks, bytes }]
            }
            (Frame::Data(data), State::Receiving) => self.data(data),
            (Frame::Zero { disk, offset, len }, State::Receiving) => {
                match self.run(disk, offset, len) {
                    Some(blocks) => vec![Command::Zero {
                        disk: usize::from(disk),
                        blocks,
                    }],
                    None => self.broken("zeros that do not fit the plan or the disk"),
                }
            }
            (Frame::Finish { roots, point }, State::Receiving) => {
                if roots.len() != self.disks.len() || point.len() > MAX_POINT {
                    return self.broken("a manifest that does not name every disk");
                }
                self.state = State::Finishing;
                vec![Command::Finish { roots, point }]
            }
            (other, _) => {
                let name = other.name();
                self.broken(&format!("{name} where it does not belong"))
            }
        }
    }

    fn hello(&mut self, hello: Hello) -> Vec<Command> {
        let mut ids = BTreeSet::new();
        let fits = !hello.disks.is_empty()
            && hello.disks.len() <= MAX_DISKS
            && hello
                .disks
                .iter()
                .all(|disk| Geometry::new(disk.size).is_some() && ids.insert(&disk.id));
        if !fits {
            return self.refuse(Refusal::new(
                RefusalKind::Shape,
                "the disks must be 1 to 64, each with a name of its own and a size that is a multiple of 512 bytes, 64 TiB at most",
            ));
        }
        self.disks = hello
            .disks
            .iter()
            .filter_map(|disk| {
                Some(Disk {
                    geometry: Geometry::new(disk.size)?,
                    next: 0,
                })
            })
            .collect();
        self.state = State::Admitting;
        vec![Command::Admit(hello)]
    }

    fn data(&mut self, data: Data) -> Vec<Command> {
        let len = u64::from(data.len);
        match self.run(data.disk, data.offset, len) {
            Some(blocks)
                if len <= FRAME_PAYLOAD
                    && blocks.end - blocks.start == data.digests.len() as u64 =>
            {
                vec![Command::Write {
                    disk: usize::from(data.disk),
                    blocks,
                    digests: data.digests,
                }]
            }
            _ => self.broken("data that does not fit the plan or the disk"),
        }
    }

    /// Checks a run and counts it against the plan, for which the journal was reserved.
    fn run(&mut self, disk: u16, offset: u64, len: u64) -> Option<Range<u64>> {
        let disk = self.disks.get_mut(usize::from(disk))?;
        let blocks = disk
            .geometry
            .whole_run(offset, len)
            .filter(|blocks| blocks.start >= disk.next)?;
        self.received += blocks.end - blocks.start;
        disk.next = blocks.end;
        (self.received <= self.planned).then_some(blocks)
    }

    fn refuse(&mut self, refusal: Refusal) -> Vec<Command> {
        self.state = State::Over;
        vec![Command::Send(Frame::Refuse(refusal)), Command::Close]
    }

    fn broken(&mut self, what: &str) -> Vec<Command> {
        self.fail(Failure::new(
            FailureKind::Protocol,
            format!("the sender sent {what}"),
        ))
    }

    fn fail(&mut self, failure: Failure) -> Vec<Command> {
        self.state = State::Over;
        vec![Command::Send(Frame::Failed(failure)), Command::Close]
    }
}
