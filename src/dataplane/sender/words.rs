//! What goes into the sending machine and what comes out of it.

use std::ops::Range;

use uuid::Uuid;

use crate::dataplane::blocks::{BlockSet, Geometry};
use crate::dataplane::digest::BlockHash;
use crate::dataplane::identity::{DiskId, Mode, Roots, UsedCandidates, WhyAll};
use crate::dataplane::wire::{Data, Failure, Frame, Refusal};

/// One disk to send.
#[derive(Debug, Clone)]
pub struct SenderDisk {
    /// Its stable name.
    pub id: DiskId,
    /// How it is cut.
    pub geometry: Geometry,
    /// The blocks of a trusted bitmap; not used when all blocks are candidates.
    pub ranges: BlockSet,
}

/// What the caller says the candidates are.
#[derive(Debug, Clone)]
pub enum SenderCandidates {
    /// Every block, and why.
    All(WhyAll),
    /// The disks' ranges, which begin at these roots.
    Ranges(Roots),
}

/// What to send.
#[derive(Debug, Clone)]
pub struct SenderSpec {
    /// The VM.
    pub vm: Uuid,
    /// The order's epoch.
    pub epoch: u64,
    /// The order's step.
    pub step: u64,
    /// The pass.
    pub pass: Uuid,
    /// How to write.
    pub mode: Mode,
    /// The name of the point in time.
    pub point: String,
    /// Every disk.
    pub disks: Vec<SenderDisk>,
    /// Which blocks may differ.
    pub candidates: SenderCandidates,
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The connection stands.
    Connected,
    /// A frame came.
    Frame(Frame),
    /// A [`Command::Hash`] or [`Command::Read`] is done: one hash a block.
    Hashed(Vec<BlockHash>),
    /// A [`Command::Measure`] is done.
    Measured {
        /// Bytes that hold data before the offsets.
        before: u64,
        /// Bytes that hold data from there on.
        rest: u64,
    },
    /// A [`Command::Root`] is done.
    Roots(Roots),
}

/// What to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a frame.
    Send(Frame),
    /// Send a frame of data; the payload lies in what the last [`Command::Read`] has read, at this many bytes from its start.
    SendData(Data, usize),
    /// Say how many bytes hold data before these offsets, one a disk, and from there on.
    Measure(Vec<u64>),
    /// Take this side's base table as the beginning (trusted ranges), or begin with an empty one. Comes before any hash.
    Begin(UsedCandidates),
    /// Hash these blocks, note their digests, answer with [`Event::Hashed`].
    Hash(usize, Range<u64>),
    /// Read these blocks and keep them, hash and note them, answer with [`Event::Hashed`].
    Read(usize, Range<u64>),
    /// Compute the roots from the digests that were noted.
    Root,
    /// The target is whole. The last command.
    Done(Sent),
    /// The pass has failed. The last command.
    Fail(SendError),
}

/// What a finished pass has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The roots, the same at both sides.
    pub roots: Roots,
    /// Which candidates were used.
    pub used: UsedCandidates,
    /// Blocks that differed and were sent, zeros included.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that an earlier session of this pass had brought already; for a compare of everything an upper bound.
    pub resumed: u64,
}

/// Why the machine gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The receiver turned it away before anything was written.
    Refused(Refusal),
    /// The receiver failed.
    Target(Failure),
    /// The receiver broke the protocol.
    Protocol(String),
}

/// What is done, for progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of candidates in all, while comparing.
    pub to_compare: u64,
    /// Bytes compared.
    pub compared: u64,
    /// Bytes that an earlier session of this pass has brought, as far as that is known.
    pub arrived: u64,
    /// Bytes to send.
    pub to_send: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Blocks that the receiver has confirmed as durable.
    pub durable_blocks: u64,
}
