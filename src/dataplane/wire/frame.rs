//! The frames themselves.

use std::ops::Range;

use uuid::Uuid;

use super::codec::{Put, Take};
use super::{MAX_DIGESTS, MAX_DISKS, MAX_POINT, MAX_SPANS, MAX_TEXT, VERSION, WireError};
use crate::dataplane::blocks::{FRAME_BLOCKS, FRAME_PAYLOAD};
use crate::dataplane::digest::Digest;
use crate::dataplane::identity::{DiskId, Mode, Roots};

/// What the sender says first: who it is, by whose order it comes, what it wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The VM.
    pub vm: Uuid,
    /// The epoch of the order (S1). What it means is the admission's business.
    pub epoch: u64,
    /// The step within the epoch (S2).
    pub step: u64,
    /// The pass, drawn by the caller, the same when it resumes.
    pub pass: Uuid,
    /// How it wants to write.
    pub mode: Mode,
    /// Every disk of the VM, in the order by which later frames number them.
    pub disks: Vec<DiskHello>,
}

/// One disk in [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskHello {
    /// Its stable name.
    pub id: DiskId,
    /// Its size in bytes.
    pub size: u64,
}

/// The receiver's answer to an admitted [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The number of the session (S9).
    pub session: u64,
    /// The roots from which a bitmap may start: what the disks hold whole, or held before the open journal. `None` when a bitmap
    /// would be of no use.
    pub base: Option<Roots>,
    /// Whether a journal is open, so that even a bitmap's ranges must be compared before they are sent.
    pub partial: bool,
    /// Whether this very pass is already whole here, only its answer was lost.
    pub done: bool,
    /// The pass goes to new files: it was asked for, or there is no room for an undo journal. Then it is said in answer to the
    /// [`Frame::Plan`], which the sender makes anew, or at once where an earlier session has turned.
    pub new_files: bool,
    /// For a full copy that resumes: bytes of each disk that have arrived durably, in the order of [`Hello::disks`].
    pub arrived: Vec<u64>,
}

/// A run of data. Its payload follows the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Which disk, by its place in [`Hello::disks`].
    pub disk: u16,
    /// Where it begins, in bytes; at a block.
    pub offset: u64,
    /// Bytes of payload, 1 to 256 KiB.
    pub len: u32,
    /// The digest of every block in it. The receiver proves by reading back that it has written just that.
    pub digests: Vec<Digest>,
}

/// Why a receiver turns a sender away. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Another version of the protocol.
    Version,
    /// The VM is not known here.
    UnknownVm,
    /// The order is older than one that was seen (S1, S2).
    Stale,
    /// The VM may not be written here now: it runs, is fenced or a session is barred.
    Fenced,
    /// Another use of the disks does not end.
    Busy,
    /// There is no room for the journal or the new files.
    NoSpace,
    /// The disks do not fit: missing here, or of a kind that cannot take this mode or size.
    Shape,
    /// The sender may not do this.
    Denied,
    /// The receiver failed before it could begin.
    Internal,
}

/// A typed refusal with words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// What to tell a person.
    pub message: String,
    /// With [`RefusalKind::NoSpace`]: bytes that are needed, else 0.
    pub needed: u64,
    /// With [`RefusalKind::NoSpace`]: bytes that are there, else 0.
    pub available: u64,
}

impl Refusal {
    /// A refusal of some kind.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            needed: 0,
            available: 0,
        }
    }
}

/// Why a receiver gives a pass up after it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The target's file system is full. What was written stays under the journal.
    NoSpace,
    /// The target's disk or journal could not be read, written or synced.
    TargetIo,
    /// What was read back, or the roots, are not what the sender promised.
    Corrupt,
    /// The sender broke the protocol.
    Protocol,
    /// A newer session, or the agent, has barred this one (S9).
    Barred,
}

/// A failure with words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What to tell a person.
    pub message: String,
}

impl Failure {
    /// A failure of some kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Everything that can travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Sender: first frame.
    Hello(Hello),
    /// Sender: asks for the digests of these blocks, given as (first, count), ascending.
    Compare {
        /// Which disk.
        disk: u16,
        /// The blocks.
        spans: Vec<Range<u64>>,
    },
    /// Sender: how much will be written at most, so that the receiver can reserve its journal first.
    Plan {
        /// Blocks.
        blocks: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Sender: data; the payload follows.
    Data(Data),
    /// Sender: a run of zeros.
    Zero {
        /// Which disk.
        disk: u16,
        /// Where, in bytes; at a block.
        offset: u64,
        /// Bytes; ends at a block or at the end of the disk.
        len: u64,
    },
    /// Sender: all is sent; this is what the disks must now hold.
    Finish {
        /// The roots.
        roots: Roots,
        /// The name of the point in time.
        point: String,
    },
    /// Instead of [`Frame::Hello`]: what does your register of this VM say (S4)?
    Ask {
        /// The VM.
        vm: Uuid,
    },
    /// Receiver: go on.
    Welcome(Welcome),
    /// Receiver: no.
    Refuse(Refusal),
    /// Receiver: digests that were asked for, of adjacent blocks.
    Digests {
        /// Which disk.
        disk: u16,
        /// The first block.
        first: u64,
        /// One a block.
        digests: Vec<Digest>,
    },
    /// Receiver: the journal is reserved, send.
    PlanOk,
    /// Receiver: so many blocks of this session have been written, synced and read back (S12).
    Durable {
        /// Blocks, zeros included.
        blocks: u64,
    },
    /// Receiver: the point is whole, synced, verified and recorded.
    Whole {
        /// Its roots.
        roots: Roots,
    },
    /// Receiver: the pass has failed here.
    Failed(Failure),
    /// The answer to [`Frame::Ask`].
    Told {
        /// The epoch of its register, if it has one.
        epoch: Option<u64>,
    },
    /// Either, after the [`Frame::Hello`] and between any two frames: I am there and at work. It confirms nothing.
    Beat,
}

macro_rules! byte_enum {
    ($name:ident { $($variant:ident = $byte:literal),+ $(,)? }) => {
        impl $name {
            fn byte(self) -> u8 {
                match self { $(Self::$variant => $byte),+ }
            }
            fn from_byte(byte: u8) -> Result<Self, WireError> {
                match byte { $($byte => Ok(Self::$variant),)+ _ => Err(WireError::Malformed) }
            }
        }
    };
}

byte_enum!(RefusalKind {
    Version = 1,
    UnknownVm = 2,
    Stale = 3,
    Fenced = 4,
    Busy = 5,
    NoSpace = 6,
    Shape = 7,
    Denied = 8,
    Internal = 9,
});
byte_enum!(FailureKind { NoSpace = 1, TargetIo = 2, Corrupt = 3, Protocol = 4, Barred = 5 });

const SMALL: usize = 4096;
const ROOTS: usize = MAX_DISKS * (2 + DiskId::MAX + Digest::LEN) + 4;

impl Frame {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Compare { .. } => 2,
            Self::Plan { .. } => 3,
            Self::Data(_) => 4,
            Self::Zero { .. } => 5,
            Self::Finish { .. } => 6,
            Self::Ask { .. } => 7,
            Self::Welcome(_) => 65,
            Self::Refuse(_) => 66,
            Self::Digests { .. } => 67,
            Self::PlanOk => 68,
            Self::Durable { .. } => 69,
            Self::Whole { .. } => 70,
            Self::Failed(_) => 71,
            Self::Told { .. } => 72,
            Self::Beat => 129,
        }
    }

    /// The frame's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Compare { .. } => "Compare",
            Self::Plan { .. } => "Plan",
            Self::Data(_) => "Data",
            Self::Zero { .. } => "Zero",
            Self::Finish { .. } => "Finish",
            Self::Ask { .. } => "Ask",
            Self::Welcome(_) => "Welcome",
            Self::Refuse(_) => "Refuse",
            Self::Digests { .. } => "Digests",
            Self::PlanOk => "PlanOk",
            Self::Durable { .. } => "Durable",
            Self::Whole { .. } => "Whole",
            Self::Failed(_) => "Failed",
            Self::Told { .. } => "Told",
            Self::Beat => "Beat",
        }
    }

    /// Longest body of a type, `None` when there is no such type.
    pub(super) fn bound(kind: u8) -> Option<usize> {
        Some(match kind {
            1 => 128 + MAX_DISKS * (2 + DiskId::MAX + 8),
            2 => 16 + MAX_SPANS * 16,
            3 | 5 | 7 | 68 | 69 | 72 => 32,
            4 => 32 + Digest::LEN * usize::try_from(FRAME_BLOCKS).ok()?,
            6 => ROOTS + MAX_POINT + 16,
            65 => ROOTS + MAX_DISKS * 8 + 64,
            66 | 71 => SMALL,
            67 => 16 + MAX_DIGESTS * Digest::LEN,
            70 => ROOTS,
            129 => 0,
            _ => return None,
        })
    }

    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        let mut put = Put(out);
        match self {
            Self::Hello(hello) => put_hello(&mut put, hello),
            Self::Compare { disk, spans } => {
                put.u16(*disk);
                put.u32(u32::try_from(spans.len()).unwrap_or(u32::MAX));
                for span in spans {
                    put.u64(span.start);
                    put.u64(span.end - span.start);
                }
            }
            Self::Plan { blocks, bytes } => {
                put.u64(*blocks);
                put.u64(*bytes);
            }
            Self::Data(data) => {
                put.u16(data.disk);
                put.u64(data.offset);
                put.u32(data.len);
                put_digests(&mut put, &data.digests);
            }
            Self::Zero { disk, offset, len } => {
                put.u16(*disk);
                put.u64(*offset);
                put.u64(*len);
            }
            Self::Finish { roots, point } => {
                put_roots(&mut put, roots);
                put.text(point, MAX_POINT);
            }
            Self::Ask { vm } => {
                put.u16(VERSION);
                put.bytes(vm.as_bytes());
            }
            Self::Welcome(welcome) => {
                put.u64(welcome.session);
                put.u8(u8::from(welcome.partial)
                    | u8::from(welcome.done) << 1
                    | u8::from(welcome.base.is_some()) << 2
                    | u8::from(welcome.new_files) << 3);
                if let Some(base) = &welcome.base {
                    put_roots(&mut put, base);
                }
                put.u32(u32::try_from(welcome.arrived.len()).unwrap_or(u32::MAX));
                welcome.arrived.iter().for_each(|bytes| put.u64(*bytes));
            }
            Self::Refuse(refusal) => {
                put.u8(refusal.kind.byte());
                put.u64(refusal.needed);
                put.u64(refusal.available);
                put.text(&refusal.message, MAX_TEXT);
            }
            Self::Digests {
                disk,
                first,
                digests,
            } => {
                put.u16(*disk);
                put.u64(*first);
                put_digests(&mut put, digests);
            }
            Self::PlanOk | Self::Beat => {}
            Self::Durable { blocks } => put.u64(*blocks),
            Self::Whole { roots } => put_roots(&mut put, roots),
            Self::Failed(failure) => {
                put.u8(failure.kind.byte());
                put.text(&failure.message, MAX_TEXT);
            }
            // No register has epoch 0.
            Self::Told { epoch } => put.u64(epoch.unwrap_or(0)),
        }
    }

    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut take = Take(body);
        let frame = match kind {
            1 => Self::Hello(take_hello(&mut take)?),
            2 => {
                let disk = take.u16()?;
                let count = take.count(MAX_SPANS, 16)?;
                let mut spans = Vec::with_capacity(count);
                let mut after = 0;
                for _ in 0..count {
                    let (first, len) = (take.u64()?, take.u64()?);
                    let end = first
                        .checked_add(len)
                        .filter(|_| len > 0 && first >= after)
                        .ok_or(WireError::Malformed)?;
                    after = end;
                    spans.push(first..end);
                }
                Self::Compare { disk, spans }
            }
            3 => Self::Plan {
                blocks: take.u64()?,
                bytes: take.u64()?,
            },
            4 => {
                let (disk, offset, len) = (take.u16()?, take.u64()?, take.u32()?);
                let digests = take_digests(&mut take, usize::try_from(FRAME_BLOCKS).unwrap_or(0))?;
                if len == 0 || u64::from(len) > FRAME_PAYLOAD {
                    return Err(WireError::TooLong);
                }
                Self::Data(Data {
                    disk,
                    offset,
                    len,
                    digests,
                })
            }
            5 => Self::Zero {
                disk: take.u16()?,
                offset: take.u64()?,
                len: take.u64()?,
            },
            6 => Self::Finish {
                roots: take_roots(&mut take)?,
                point: take.text(MAX_POINT)?,
            },
            7 => {
                take_version(&mut take)?;
                Self::Ask {
                    vm: Uuid::from_bytes(take.array()?),
                }
            }
            65 => Self::Welcome(take_welcome(&mut take)?),
            66 => Self::Refuse(Refusal {
                kind: RefusalKind::from_byte(take.u8()?)?,
                needed: take.u64()?,
                available: take.u64()?,
                message: take.text(MAX_TEXT)?,
            }),
            67 => Self::Digests {
                disk: take.u16()?,
                first: take.u64()?,
                digests: take_digests(&mut take, MAX_DIGESTS)?,
            },
            68 => Self::PlanOk,
            69 => Self::Durable {
                blocks: take.u64()?,
            },
            70 => Self::Whole {
                roots: take_roots(&mut take)?,
            },
            71 => Self::Failed(Failure {
                kind: FailureKind::from_byte(take.u8()?)?,
                message: take.text(MAX_TEXT)?,
            }),
            72 => Self::Told {
                epoch: Some(take.u64()?).filter(|epoch| *epoch > 0),
            },
            129 => Self::Beat,
            other => return Err(WireError::UnknownType(other)),
        };
        take.end()?;
        Ok(frame)
    }
}

fn put_hello(put: &mut Put<'_>, hello: &Hello) {
    put.u16(VERSION);
    put.bytes(hello.vm.as_bytes());
    put.u64(hello.epoch);
    put.u64(hello.step);
    put.bytes(hello.pass.as_bytes());
    put.u8(match hello.mode {
        Mode::InPlace => 1,
        Mode::NewFiles => 2,
    });
    put.u32(u32::try_from(hello.disks.len()).unwrap_or(u32::MAX));
    for disk in &hello.disks {
        put.text(disk.id.as_str(), DiskId::MAX);
        put.u64(disk.size);
    }
}

/// It comes first and decides whether the rest is ours to read.
fn take_version(take: &mut Take<'_>) -> Result<(), WireError> {
    let version = take.u16()?;
    if version == VERSION {
        Ok(())
    } else {
        Err(WireError::Version(version))
    }
}

fn take_hello(take: &mut Take<'_>) -> Result<Hello, WireError> {
    take_version(take)?;
    let vm = Uuid::from_bytes(take.array()?);
    let (epoch, step) = (take.u64()?, take.u64()?);
    let pass = Uuid::from_bytes(take.array()?);
    let mode = match take.u8()? {
        1 => Mode::InPlace,
        2 => Mode::NewFiles,
        _ => return Err(WireError::Malformed),
    };
    let count = take.count(MAX_DISKS, 10)?;
    let mut disks = Vec::with_capacity(count);
    for _ in 0..count {
        let id = take_id(take)?;
        disks.push(DiskHello {
            id,
            size: take.u64()?,
        });
    }
    Ok(Hello {
        vm,
        epoch,
        step,
        pass,
        mode,
        disks,
    })
}

fn take_welcome(take: &mut Take<'_>) -> Result<Welcome, WireError> {
    let session = take.u64()?;
    let flags = take.u8()?;
    if flags > 15 {
        return Err(WireError::Malformed);
    }
    let base = if flags & 4 != 0 {
        Some(take_roots(take)?)
    } else {
        None
    };
    let count = take.count(MAX_DISKS, 8)?;
    let arrived = (0..count).map(|_| take.u64()).collect::<Result<_, _>>()?;
    Ok(Welcome {
        session,
        base,
        partial: flags & 1 != 0,
        done: flags & 2 != 0,
        new_files: flags & 8 != 0,
        arrived,
    })
}

fn take_id(take: &mut Take<'_>) -> Result<DiskId, WireError> {
    DiskId::new(take.text(DiskId::MAX)?).map_err(|_| WireError::Malformed)
}

fn put_digests(put: &mut Put<'_>, digests: &[Digest]) {
    put.u32(u32::try_from(digests.len()).unwrap_or(u32::MAX));
    for digest in digests {
        put.bytes(digest.as_bytes());
    }
}

fn take_digests(take: &mut Take<'_>, max: usize) -> Result<Vec<Digest>, WireError> {
    let count = take.count(max, Digest::LEN)?;
    (0..count)
        .map(|_| Ok(Digest::from_bytes(take.array()?)))
        .collect()
}

fn put_roots(put: &mut Put<'_>, roots: &Roots) {
    put.u32(u32::try_from(roots.len()).unwrap_or(u32::MAX));
    for (id, root) in roots {
        put.text(id.as_str(), DiskId::MAX);
        put.bytes(root.as_bytes());
    }
}

fn take_roots(take: &mut Take<'_>) -> Result<Roots, WireError> {
    let count = take.count(MAX_DISKS, 2 + Digest::LEN)?;
    (0..count)
        .map(|_| Ok((take_id(take)?, Digest::from_bytes(take.array()?))))
        .collect()
}
