//! The NBD wire format: pure encoding and decoding, every length from the wire bounded before it is used.
//!
//! Only what a reader needs: fixed newstyle handshake, structured replies, metadata contexts, READ, BLOCK_STATUS, DISC. Facts come
//! from the protocol description `doc/proto.md` of the NBD project.

use std::ops::Range;

/// First word of the server's greeting.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting, and first of every option request.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag of both sides: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag of both sides: no 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// `NBD_OPT_GO`.
pub const OPTION_GO: u32 = 7;
/// `NBD_OPT_STRUCTURED_REPLY`.
pub const OPTION_STRUCTURED_REPLY: u32 = 8;
/// `NBD_OPT_SET_META_CONTEXT`.
pub const OPTION_SET_META_CONTEXT: u32 = 10;

const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_META_CONTEXT: u32 = 4;
const REPLY_ERROR_BIT: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

/// Longest option reply that is accepted, bytes.
pub const MAX_OPTION_REPLY: u32 = 64 * 1024;
/// Longest read of one request, bytes.
pub const MAX_READ: u32 = 1024 * 1024;
/// Most extents in one block-status answer: what QEMU sends at most.
pub const MAX_EXTENTS: u32 = 131_072;
/// Longest string of the protocol, bytes.
pub const MAX_STRING: usize = 4096;
const MAX_ERROR: u32 = 2 + 2 + 4096 + 8;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_DISC`.
    Disconnect,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
}

/// A violation of the protocol by the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the NBD server broke the protocol: {0}")]
pub struct WireError(pub String);

fn broken<T>(what: impl Into<String>) -> Result<T, WireError> {
    Err(WireError(what.into()))
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads the greeting and returns the server's handshake flags.
///
/// # Errors
/// When it is not the fixed newstyle protocol.
pub fn greeting(bytes: &[u8; 18]) -> Result<u16, WireError> {
    if word64(bytes, 0) != Some(GREETING_MAGIC) || word64(bytes, 8) != Some(OPTION_MAGIC) {
        return broken("not a newstyle greeting");
    }
    let flags = u16::from_be_bytes([bytes[16], bytes[17]]);
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        return broken("no fixed newstyle");
    }
    Ok(flags)
}

/// An option request.
#[must_use]
pub fn option(kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + payload.len());
    bytes.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    bytes.extend_from_slice(payload);
    bytes
}

fn string(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// Payload of [`OPTION_SET_META_CONTEXT`].
#[must_use]
pub fn set_meta_context(export: &str, contexts: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    string(&mut bytes, export);
    bytes.extend_from_slice(
        &u32::try_from(contexts.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    for context in contexts {
        string(&mut bytes, context);
    }
    bytes
}

/// Payload of [`OPTION_GO`]. No block-size information is asked for: then the server aligns requests by itself.
#[must_use]
pub fn go(export: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    string(&mut bytes, export);
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes
}

/// The header of an option reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option it answers.
    pub option: u32,
    /// Its kind.
    pub kind: u32,
    /// Length of its payload, at most [`MAX_OPTION_REPLY`].
    pub length: u32,
}

/// Reads the header of an option reply.
///
/// # Errors
/// A wrong magic number, or a payload that is too long.
pub fn option_header(bytes: &[u8; 20]) -> Result<OptionHeader, WireError> {
    if word64(bytes, 0) != Some(OPTION_REPLY_MAGIC) {
        return broken("option reply magic");
    }
    let header = OptionHeader {
        option: word32(bytes, 8).unwrap_or(0),
        kind: word32(bytes, 12).unwrap_or(0),
        length: word32(bytes, 16).unwrap_or(u32::MAX),
    };
    if header.length > MAX_OPTION_REPLY {
        return broken(format!("option reply of {} bytes", header.length));
    }
    Ok(header)
}

/// One option reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionReply {
    /// Done.
    Ack,
    /// Size in bytes and transmission flags of the export.
    Export {
        /// Bytes.
        size: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// A metadata context was granted.
    Context {
        /// Its number in block-status answers.
        id: u32,
        /// Its name.
        name: String,
    },
    /// Something that may be passed over.
    Other,
    /// The server refused.
    Error(String),
}

/// Reads the payload of an option reply.
///
/// # Errors
/// A payload that does not fit its kind.
pub fn option_reply(header: OptionHeader, payload: &[u8]) -> Result<OptionReply, WireError> {
    if header.kind & REPLY_ERROR_BIT != 0 {
        let words = String::from_utf8_lossy(&payload[..payload.len().min(MAX_STRING)]);
        return Ok(OptionReply::Error(format!(
            "{words} (NBD option {} error {})",
            header.option,
            header.kind & !REPLY_ERROR_BIT
        )));
    }
    match header.kind {
        REPLY_ACK => Ok(OptionReply::Ack),
        REPLY_INFO => match (word16(payload, 0), word64(payload, 2), word16(payload, 10)) {
            (Some(INFO_EXPORT), Some(size), Some(flags)) => Ok(OptionReply::Export { size, flags }),
            (Some(INFO_EXPORT) | None, ..) => broken("short export information"),
            _ => Ok(OptionReply::Other),
        },
        REPLY_META_CONTEXT => match (word32(payload, 0), payload.get(4..)) {
            (Some(id), Some(name)) if name.len() <= MAX_STRING => Ok(OptionReply::Context {
                id,
                name: String::from_utf8_lossy(name).into_owned(),
            }),
            _ => broken("metadata context"),
        },
        _ => Ok(OptionReply::Other),
    }
}

/// A request of the transmission phase.
#[must_use]
pub fn request(kind: RequestKind, handle: u64, offset: u64, length: u32) -> [u8; 28] {
    let number: u16 = match kind {
        RequestKind::Read => 0,
        RequestKind::Disconnect => 2,
        RequestKind::BlockStatus => 7,
    };
    let mut bytes = [0; 28];
    bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..16].copy_from_slice(&handle.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..28].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// What follows the magic number of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyShape {
    /// 12 more bytes: error number, handle.
    Simple,
    /// 16 more bytes: a chunk's header.
    Structured,
}

/// Reads the magic number of a reply.
///
/// # Errors
/// Neither kind.
pub fn reply_shape(bytes: [u8; 4]) -> Result<ReplyShape, WireError> {
    match u32::from_be_bytes(bytes) {
        SIMPLE_REPLY_MAGIC => Ok(ReplyShape::Simple),
        STRUCTURED_REPLY_MAGIC => Ok(ReplyShape::Structured),
        other => broken(format!("reply magic {other:#x}")),
    }
}

/// Reads a simple reply after its magic number: error number and handle.
#[must_use]
pub fn simple_reply(bytes: &[u8; 12]) -> (u32, u64) {
    (
        word32(bytes, 0).unwrap_or(u32::MAX),
        word64(bytes, 4).unwrap_or(0),
    )
}

/// What a chunk of a structured reply carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// Nothing.
    None,
    /// An offset, then data.
    Data,
    /// An offset and a length that reads as zeros.
    Hole,
    /// A context number, then extents.
    BlockStatus,
    /// An error.
    Error,
}

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// The last chunk of its reply.
    pub done: bool,
    /// What it carries.
    pub kind: ChunkKind,
    /// The request that it answers.
    pub handle: u64,
    /// Length of its payload, bounded by its kind.
    pub length: u32,
}

/// Reads the header of a chunk after its magic number.
///
/// # Errors
/// An unknown kind, or a length that does not fit the kind.
pub fn chunk_header(bytes: &[u8; 16]) -> Result<ChunkHeader, WireError> {
    let flags = word16(bytes, 0).unwrap_or(0);
    let number = word16(bytes, 2).unwrap_or(0);
    let length = word32(bytes, 12).unwrap_or(u32::MAX);
    let (kind, allowed) = match number {
        0 => (ChunkKind::None, 0..=0),
        1 => (ChunkKind::Data, 9..=8 + MAX_READ),
        2 => (ChunkKind::Hole, 12..=12),
        5 => (ChunkKind::BlockStatus, 12..=4 + 8 * MAX_EXTENTS),
        n if n & 0x8000 != 0 => (ChunkKind::Error, 6..=MAX_ERROR),
        n => return broken(format!("unknown chunk type {n}")),
    };
    if !allowed.contains(&length) {
        return broken(format!("{kind:?} chunk of {length} bytes"));
    }
    Ok(ChunkHeader {
        done: flags & 1 != 0,
        kind,
        handle: word64(bytes, 4).unwrap_or(0),
        length,
    })
}

/// A run of bytes with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, more than zero.
    pub length: u32,
    /// Flags; their meaning depends on the context.
    pub flags: u32,
}

/// Reads the payload of a block-status chunk: context number and extents.
///
/// # Errors
/// A payload that is not whole extents, or an empty extent.
pub fn block_status(payload: &[u8]) -> Result<(u32, Vec<Extent>), WireError> {
    let Some(id) = word32(payload, 0) else {
        return broken("short block status");
    };
    let rest = &payload[4..];
    if rest.is_empty() || !rest.len().is_multiple_of(8) {
        return broken("block status is not whole extents");
    }
    let mut extents = Vec::with_capacity(rest.len() / 8);
    for one in rest.chunks_exact(8) {
        let extent = Extent {
            length: word32(one, 0).unwrap_or(0),
            flags: word32(one, 4).unwrap_or(0),
        };
        if extent.length == 0 {
            return broken("an extent of no bytes");
        }
        extents.push(extent);
    }
    Ok((id, extents))
}

/// Reads the payload of a hole: offset and length.
///
/// # Errors
/// A payload that is too short.
pub fn hole(payload: &[u8]) -> Result<(u64, u32), WireError> {
    match (word64(payload, 0), word32(payload, 8)) {
        (Some(offset), Some(length)) => Ok((offset, length)),
        _ => broken("short hole"),
    }
}

/// Reads the payload of an error chunk.
#[must_use]
pub fn error_chunk(payload: &[u8]) -> (u32, String) {
    let number = word32(payload, 0).unwrap_or(u32::MAX);
    let length = usize::from(word16(payload, 4).unwrap_or(0));
    let words = payload.get(6..6 + length).unwrap_or_default();
    (number, String::from_utf8_lossy(words).into_owned())
}

/// Keeps account of which bytes of one read have arrived: each exactly once, none outside.
#[derive(Debug)]
pub struct ReadCover {
    offset: u64,
    length: u64,
    seen: Vec<Range<u64>>,
}

impl ReadCover {
    /// For a read of `length` bytes at `offset`.
    #[must_use]
    pub fn new(offset: u64, length: u64) -> Self {
        Self {
            offset,
            length,
            seen: Vec::new(),
        }
    }

    /// Notes a piece at the absolute `offset` and returns its place in the read's buffer.
    ///
    /// # Errors
    /// A piece outside of the read, empty, or there already.
    pub fn add(&mut self, offset: u64, length: u64) -> Result<Range<usize>, WireError> {
        let start = offset
            .checked_sub(self.offset)
            .filter(|start| *start < self.length);
        let piece = start.and_then(|start| start.checked_add(length).map(|end| start..end));
        let Some(piece) = piece.filter(|piece| piece.end <= self.length && !piece.is_empty())
        else {
            return broken(format!(
                "a piece of {length} bytes at {offset} outside of the read"
            ));
        };
        let at = self.seen.partition_point(|other| other.end <= piece.start);
        if self.seen.get(at).is_some_and(|next| next.start < piece.end) {
            return broken("a piece came twice");
        }
        self.seen.insert(at, piece.clone());
        match (usize::try_from(piece.start), usize::try_from(piece.end)) {
            (Ok(start), Ok(end)) => Ok(start..end),
            _ => broken("a piece beyond the memory"),
        }
    }

    /// Has everything arrived?
    #[must_use]
    pub fn complete(&self) -> bool {
        self.seen
            .iter()
            .map(|piece| piece.end - piece.start)
            .sum::<u64>()
            == self.length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn greeting_of_an_old_server_is_refused() {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(b"NBDMAGIC");
        bytes[8..16].copy_from_slice(b"IHAVEOPT");
        assert!(greeting(&bytes).is_err());
        bytes[17] = 3;
        assert_eq!(greeting(&bytes), Ok(3));
    }

    #[test]
    fn chunk_lengths_are_bounded_by_their_kind() {
        let header = |kind: u16, length: u32| {
            let mut bytes = [0; 16];
            bytes[2..4].copy_from_slice(&kind.to_be_bytes());
            bytes[12..16].copy_from_slice(&length.to_be_bytes());
            chunk_header(&bytes)
        };
        assert!(header(1, 8 + MAX_READ).is_ok());
        assert!(header(1, 9 + MAX_READ).is_err());
        assert!(header(1, 8).is_err());
        assert!(header(2, 13).is_err());
        assert!(header(5, 4 + 8 * MAX_EXTENTS + 1).is_err());
        assert!(header(0x8001, MAX_ERROR + 1).is_err());
        assert!(header(3, 0).is_err());
    }

    #[test]
    fn a_read_is_covered_exactly_once() {
        let mut cover = ReadCover::new(1000, 100);
        assert_eq!(cover.add(1050, 50), Ok(50..100));
        assert!(cover.add(1040, 20).is_err());
        assert!(cover.add(1090, 20).is_err());
        assert!(cover.add(990, 20).is_err());
        assert!(!cover.complete());
        assert_eq!(cover.add(1000, 50), Ok(0..50));
        assert!(cover.complete());
        assert!(cover.add(u64::MAX, 1).is_err());
        assert!(cover.add(1000, u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_asks_for_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut head = [0; 20];
            for (to, from) in head.iter_mut().zip(&bytes) { *to = *from; }
            head[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
            if let Ok(header) = option_header(&head) {
                prop_assert!(header.length <= MAX_OPTION_REPLY);
                let _ = option_reply(header, &bytes);
            }
            for kind in [1, 3, 4, 1 << 31] {
                let _ = option_reply(OptionHeader { option: 7, kind, length: 0 }, &bytes);
            }
            let mut head = [0; 16];
            for (to, from) in head.iter_mut().zip(&bytes) { *to = *from; }
            if let Ok(header) = chunk_header(&head) { prop_assert!(header.length <= 8 * MAX_EXTENTS + MAX_READ); }
            if let Ok((_, extents)) = block_status(&bytes) { prop_assert!(extents.iter().all(|extent| extent.length > 0)); }
            let _ = (error_chunk(&bytes), hole(&bytes));
            let mut head = [0; 18];
            for (to, from) in head.iter_mut().zip(&bytes) { *to = *from; }
            let _ = greeting(&head);
        }

        #[test]
        fn pieces_never_leave_the_buffer(pieces in proptest::collection::vec((0_u64..3000, 0_u64..3000), 0..40)) {
            let mut cover = ReadCover::new(500, 1000);
            let mut seen = [false; 1000];
            for (offset, length) in pieces {
                if let Ok(piece) = cover.add(offset, length) {
                    for byte in &mut seen[piece] { prop_assert!(!*byte); *byte = true; }
                }
            }
            prop_assert_eq!(cover.complete(), seen.iter().all(|byte| *byte));
        }
    }
}
