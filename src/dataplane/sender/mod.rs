//! The sending side of a pass as a state machine: events in, commands out. No sockets, files or clocks.
//!
//! ```text
//!  Greeting --Welcome--> Comparing --all compared--> Planning --PlanOk--> Sending --all sent--> Rooting --> Finishing --Whole--> Over
//!     |                                                ^    (a full copy first hashes again
//!     +--trusted ranges on a whole target, full copy---+     what has arrived: Rehashing)
//!                                                      +--no room in place: a Welcome to new files, planned anew
//! ```

mod words;

use std::collections::VecDeque;
use std::ops::Range;

use crate::dataplane::blocks::{BLOCK, BlockSet, FRAME_BLOCKS, Geometry};
use crate::dataplane::digest::{BlockHash, Digest};
use crate::dataplane::identity::{Mode, Roots, UsedCandidates, WhyAll};
use crate::dataplane::wire::{Data, DiskHello, Frame, Hello, MAX_DIGESTS, MAX_SPANS, Welcome};

/// Blocks that one [`Command::Hash`] takes at most when a full copy resumes.
const REHASH: u64 = 256;

pub use words::{
    Command, Event, SendError, SenderCandidates, SenderDisk, SenderSpec, Sent, Totals,
};

#[derive(Debug)]
enum State {
    Start,
    Greeting,
    Comparing {
        disk: usize,
        next: u64,
        asked: VecDeque<Range<u64>>,
        theirs: Option<(Range<u64>, Vec<Digest>)>,
    },
    Measuring,
    Planning,
    Rehashing {
        disk: usize,
        next: u64,
    },
    Sending {
        disk: usize,
        next: u64,
        reading: Option<Range<u64>>,
    },
    Rooting,
    Finishing {
        roots: Roots,
    },
    Over,
}

/// The machine.
#[derive(Debug)]
pub struct Sender {
    spec: SenderSpec,
    state: State,
    used: UsedCandidates,
    /// Blocks to send, one set a disk; for a full copy what has not arrived.
    differs: Vec<BlockSet>,
    arrived: Vec<u64>,
    partial: bool,
    zeros: Option<(usize, Range<u64>)>,
    sent_blocks: u64,
    planned_blocks: u64,
    totals: Totals,
}

impl Sender {
    /// A machine for one pass.
    #[must_use]
    pub fn new(spec: SenderSpec) -> Self {
        let differs = spec
            .disks
            .iter()
            .map(|disk| BlockSet::new(disk.geometry.blocks()))
            .collect();
        Self {
            spec,
            state: State::Start,
            used: UsedCandidates::All(WhyAll::Asked),
            differs,
            arrived: Vec::new(),
            partial: false,
            zeros: None,
            sent_blocks: 0,
            planned_blocks: 0,
            totals: Totals::default(),
        }
    }

    /// What is done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether the machine compares, sends, or waits for the verdict.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        matches!(
            self.state,
            State::Sending { .. } | State::Rehashing { .. } | State::Planning | State::Measuring
        )
    }

    /// Whether all is sent and the receiver verifies.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        matches!(
            self.state,
            State::Rooting | State::Finishing { .. } | State::Over
        )
    }

    /// Takes an event and says what to do. After [`Command::Done`] or [`Command::Fail`] nothing more is done.
    pub fn on(&mut self, event: Event) -> Vec<Command> {
        match event {
            Event::Connected if matches!(self.state, State::Start) => self.greet(),
            Event::Frame(frame) => self.frame(frame),
            Event::Hashed(hashes) => self.hashed(&hashes),
            Event::Measured { before, rest } => self.measured(before, rest),
            Event::Roots(roots) if matches!(self.state, State::Rooting) => {
                self.state = State::Finishing {
                    roots: roots.clone(),
                };
                vec![Command::Send(Frame::Finish {
                    roots,
                    point: self.spec.point.clone(),
                })]
            }
            Event::Connected | Event::Roots(_) => self.broken("an event came in the wrong state"),
        }
    }

    fn greet(&mut self) -> Vec<Command> {
        self.state = State::Greeting;
        let disks = self
            .spec
            .disks
            .iter()
            .map(|disk| DiskHello {
                id: disk.id.clone(),
                size: disk.geometry.size(),
            })
            .collect();
        let SenderSpec {
            vm,
            epoch,
            step,
            pass,
            mode,
            ..
        } = self.spec;
        vec![Command::Send(Frame::Hello(Hello {
            vm,
            epoch,
            step,
            pass,
            mode,
            disks,
        }))]
    }

    fn frame(&mut self, frame: Frame) -> Vec<Command> {
        match (frame, &mut self.state) {
            (_, State::Over) => Vec::new(),
            (Frame::Refuse(refusal), State::Greeting | State::Planning) => {
                self.fail(SendError::Refused(refusal))
            }
            (Frame::Failed(failure), _) => self.fail(SendError::Target(failure)),
            (Frame::Welcome(welcome), State::Greeting) => self.welcome(welcome),
            // The receiver has no room for an undo journal. Once: a full copy cannot turn again.
            (Frame::Welcome(welcome), State::Planning)
                if welcome.new_files && self.spec.mode == Mode::InPlace =>
            {
                self.welcome(welcome)
            }
            (
                Frame::Digests {
                    disk,
                    first,
                    digests,
                },
                State::Comparing {
                    disk: ours,
                    asked,
                    theirs,
                    ..
                },
            ) => {
                let blocks = first..first.saturating_add(digests.len() as u64);
                let expected = asked
                    .front()
                    .is_some_and(|span| span.start == first && blocks.end <= span.end);
                if usize::from(disk) != *ours
                    || !expected
                    || theirs.is_some()
                    || digests.is_empty()
                    || digests.len() > MAX_DIGESTS
                {
                    return self.broken("the receiver sent digests that were not asked for");
                }
                *theirs = Some((blocks.clone(), digests));
                vec![Command::Hash(usize::from(disk), blocks)]
            }
            (Frame::PlanOk, State::Planning) => {
                self.state = State::Rehashing { disk: 0, next: 0 };
                self.rehash()
            }
            (
                Frame::Durable { blocks },
                State::Sending { .. } | State::Rooting | State::Finishing { .. },
            ) => {
                if blocks < self.totals.durable_blocks || blocks > self.sent_blocks {
                    return self.broken("the receiver confirmed blocks that were not sent");
                }
                self.totals.durable_blocks = blocks;
                Vec::new()
            }
            (Frame::Whole { roots }, State::Finishing { roots: ours }) => {
                if roots != *ours {
                    return self.broken("the receiver confirmed other roots than were sent");
                }
                self.state = State::Over;
                let resumed = self.resumed();
                let (used, blocks, bytes) = (self.used, self.sent_blocks, self.totals.sent);
                vec![Command::Done(Sent {
                    roots,
                    used,
                    blocks,
                    bytes,
                    resumed,
                })]
            }
            (other, _) => {
                let name = other.name();
                self.broken(&format!(
                    "the receiver sent {name} where it does not belong"
                ))
            }
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Vec<Command> {
        if welcome.arrived.len() > self.spec.disks.len() {
            return self.broken("the receiver named more disks than there are");
        }
        self.arrived = welcome.arrived;
        self.arrived.resize(self.spec.disks.len(), 0);
        self.partial = welcome.partial;
        if welcome.new_files != (self.spec.mode == Mode::NewFiles) {
            if !welcome.new_files {
                return self.broken("the receiver takes a full copy in place");
            }
            self.spec.mode = Mode::NewFiles;
            self.used = UsedCandidates::All(WhyAll::NoJournal);
            self.differs = (self.spec.disks.iter())
                .map(|disk| BlockSet::new(disk.geometry.blocks()))
                .collect();
        } else if welcome.new_files {
            self.used = UsedCandidates::All(WhyAll::FullCopy);
        }
        if self.spec.mode == Mode::NewFiles {
            for (differs, (disk, arrived)) in self
                .differs
                .iter_mut()
                .zip(self.spec.disks.iter().zip(&mut self.arrived))
            {
                *arrived = (*arrived).min(disk.geometry.size());
                let from = if *arrived == disk.geometry.size() {
                    disk.geometry.blocks()
                } else {
                    *arrived / BLOCK
                };
                differs.insert_range(from..disk.geometry.blocks());
            }
            self.state = State::Measuring;
            return vec![
                Command::Begin(self.used),
                Command::Measure(self.arrived.clone()),
            ];
        }
        self.used = match &self.spec.candidates {
            SenderCandidates::All(why) => UsedCandidates::All(*why),
            // A bitmap counts only from the very base that it was begun at (S13); a pass that was whole already only lost its answer.
            SenderCandidates::Ranges(base)
                if welcome.done || welcome.base.as_ref() == Some(base) =>
            {
                UsedCandidates::Ranges
            }
            SenderCandidates::Ranges(_) => UsedCandidates::All(WhyAll::TargetBase),
        };
        let begin = Command::Begin(self.used);
        let mut commands = vec![begin];
        if self.used == UsedCandidates::Ranges && !welcome.partial && !welcome.done {
            self.differs = self
                .spec
                .disks
                .iter()
                .map(|disk| disk.ranges.clone())
                .collect();
            commands.extend(self.plan(None));
        } else {
            self.totals.to_compare = (0..self.spec.disks.len())
                .map(|disk| self.candidate_bytes(disk))
                .sum();
            self.state = State::Comparing {
                disk: 0,
                next: 0,
                asked: VecDeque::new(),
                theirs: None,
            };
            commands.extend(self.compare());
        }
        commands
    }

    fn candidate_bytes(&self, disk: usize) -> u64 {
        let Some(spec) = self.spec.disks.get(disk) else {
            return 0;
        };
        match self.used {
            UsedCandidates::All(_) => spec.geometry.size(),
            UsedCandidates::Ranges => bytes_of(&spec.ranges, spec.geometry),
        }
    }

    /// Asks for the next digests, or plans when all are compared.
    fn compare(&mut self) -> Vec<Command> {
        let State::Comparing {
            disk, next, asked, ..
        } = &mut self.state
        else {
            return Vec::new();
        };
        while let Some(spec) = self.spec.disks.get(*disk) {
            let mut spans = Vec::new();
            while spans.len() < MAX_SPANS {
                let span = match self.used {
                    UsedCandidates::All(_) => {
                        (*next < spec.geometry.blocks()).then(|| *next..spec.geometry.blocks())
                    }
                    UsedCandidates::Ranges => spec.ranges.next_run(*next, u64::MAX),
                };
                let Some(span) = span else { break };
                *next = span.end;
                spans.push(span);
            }
            if !spans.is_empty() {
                asked.extend(spans.iter().cloned());
                let disk = u16::try_from(*disk).unwrap_or(u16::MAX);
                return vec![Command::Send(Frame::Compare { disk, spans })];
            }
            (*disk, *next) = (*disk + 1, 0);
        }
        self.plan(None)
    }

    fn plan(&mut self, measured: Option<u64>) -> Vec<Command> {
        let blocks = self.differs.iter().map(BlockSet::count).sum();
        let bytes = measured.unwrap_or_else(|| {
            self.spec
                .disks
                .iter()
                .zip(&self.differs)
                .map(|(disk, set)| bytes_of(set, disk.geometry))
                .sum()
        });
        self.totals.to_send = bytes;
        if measured.is_none() {
            self.totals.arrived = self.resumed();
        }
        self.planned_blocks = blocks;
        self.state = State::Planning;
        vec![Command::Send(Frame::Plan { blocks, bytes })]
    }

    fn measured(&mut self, before: u64, rest: u64) -> Vec<Command> {
        if !matches!(self.state, State::Measuring) {
            return self.broken("a measure came in the wrong state");
        }
        self.totals.arrived = before;
        self.plan(Some(rest))
    }

    /// A full copy that resumes hashes what has arrived: the source's own table needs it, the wire does not.
    fn rehash(&mut self) -> Vec<Command> {
        let State::Rehashing { disk, next } = &mut self.state else {
            return Vec::new();
        };
        while self.spec.mode == Mode::NewFiles && *disk < self.spec.disks.len() {
            let end = self.differs[*disk]
                .next_run(0, 1)
                .map_or(self.differs[*disk].blocks(), |run| run.start);
            if *next < end {
                return vec![Command::Hash(*disk, *next..end.min(*next + REHASH))];
            }
            (*disk, *next) = (*disk + 1, 0);
        }
        self.state = State::Sending {
            disk: 0,
            next: 0,
            reading: None,
        };
        self.read()
    }

    fn read(&mut self) -> Vec<Command> {
        let State::Sending {
            disk,
            next,
            reading,
        } = &mut self.state
        else {
            return Vec::new();
        };
        while let Some(differs) = self.differs.get(*disk) {
            if let Some(run) = differs.next_run(*next, FRAME_BLOCKS) {
                *next = run.end;
                *reading = Some(run.clone());
                return vec![Command::Read(*disk, run)];
            }
            (*disk, *next) = (*disk + 1, 0);
        }
        self.state = State::Rooting;
        let mut commands = self.flush_zeros();
        commands.push(Command::Root);
        commands
    }

    fn hashed(&mut self, hashes: &[BlockHash]) -> Vec<Command> {
        match &mut self.state {
            State::Comparing {
                disk,
                asked,
                theirs,
                ..
            } => {
                let Some((blocks, digests)) = theirs.take() else {
                    return self.broken("hashes without a question");
                };
                if hashes.len() != digests.len() {
                    return self.broken("hashes of another length than asked");
                }
                for (index, (theirs, ours)) in blocks.clone().zip(digests.iter().zip(hashes)) {
                    if *theirs != ours.digest {
                        self.differs[*disk].insert(index);
                    }
                }
                self.totals.compared += self.spec.disks[*disk]
                    .geometry
                    .run_len(blocks.start, blocks.end - blocks.start);
                if let Some(span) = asked.front_mut() {
                    span.start = blocks.end;
                }
                if asked.front().is_some_and(|span| span.start >= span.end) {
                    asked.pop_front();
                }
                if asked.is_empty() {
                    self.compare()
                } else {
                    Vec::new()
                }
            }
            State::Rehashing { next, .. } => {
                *next += hashes.len() as u64;
                self.rehash()
            }
            State::Sending { disk, reading, .. } => {
                let disk = *disk;
                let Some(blocks) = reading
                    .take()
                    .filter(|blocks| blocks.end - blocks.start == hashes.len() as u64)
                else {
                    return self.broken("hashes of another length than asked");
                };
                let mut commands = self.send(disk, &blocks, hashes);
                commands.extend(self.read());
                commands
            }
            State::Over => Vec::new(),
            _ => self.broken("hashes without a question"),
        }
    }

    /// Cuts what was read into runs of data and runs of zeros (S16).
    fn send(&mut self, disk: usize, blocks: &Range<u64>, hashes: &[BlockHash]) -> Vec<Command> {
        let geometry = self.spec.disks[disk].geometry;
        let mut commands = Vec::new();
        let mut at = 0;
        for group in hashes.chunk_by(|a, b| a.zero == b.zero) {
            let first = blocks.start + at as u64;
            let run = first..first + group.len() as u64;
            let len = geometry.run_len(run.start, group.len() as u64);
            if group[0].zero {
                // Only new files are left as they are for zeros (S16).
                if self.spec.mode == Mode::InPlace {
                    self.totals.sent += len;
                    match &mut self.zeros {
                        Some((same, pending)) if *same == disk && pending.end == run.start => {
                            pending.end = run.end;
                        }
                        _ => {
                            commands.extend(self.flush_zeros());
                            self.zeros = Some((disk, run));
                        }
                    }
                }
            } else {
                commands.extend(self.flush_zeros());
                self.sent_blocks += group.len() as u64;
                self.totals.sent += len;
                let data = Data {
                    disk: u16::try_from(disk).unwrap_or(u16::MAX),
                    offset: run.start * BLOCK,
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                    digests: group.iter().map(|hash| hash.digest).collect(),
                };
                let start = at * usize::try_from(BLOCK).unwrap_or(0);
                commands.push(Command::SendData(data, start));
            }
            at += group.len();
        }
        commands
    }

    fn flush_zeros(&mut self) -> Vec<Command> {
        let Some((disk, run)) = self.zeros.take() else {
            return Vec::new();
        };
        self.sent_blocks += run.end - run.start;
        let len = self.spec.disks[disk]
            .geometry
            .run_len(run.start, run.end - run.start);
        let disk = u16::try_from(disk).unwrap_or(u16::MAX);
        vec![Command::Send(Frame::Zero {
            disk,
            offset: run.start * BLOCK,
            len,
        })]
    }

    fn resumed(&self) -> u64 {
        // The receiver's word: it may be any number.
        let arrived = (self.arrived.iter()).fold(0_u64, |sum, one| sum.saturating_add(*one));
        match (self.spec.mode, self.partial) {
            (Mode::NewFiles, _) => arrived,
            (Mode::InPlace, true) => self
                .totals
                .to_compare
                .saturating_sub(self.totals.to_send)
                .min(arrived),
            (Mode::InPlace, false) => 0,
        }
    }

    fn broken(&mut self, what: &str) -> Vec<Command> {
        self.fail(SendError::Protocol(what.to_owned()))
    }

    fn fail(&mut self, error: SendError) -> Vec<Command> {
        if matches!(self.state, State::Over) {
            return Vec::new();
        }
        self.state = State::Over;
        vec![Command::Fail(error)]
    }
}

/// Bytes of the blocks in a set.
fn bytes_of(set: &BlockSet, geometry: Geometry) -> u64 {
    let Some(last) = geometry.blocks().checked_sub(1) else {
        return 0;
    };
    let whole = set.count() * BLOCK;
    if set.contains(last) {
        whole - (BLOCK - geometry.block_len(last))
    } else {
        whole
    }
}
