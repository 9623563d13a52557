//! A reader of NBD exports over a Unix socket: blocking, one connection an export.
//!
//! It is used from blocking threads, as a [`BlockSource`] of a point in time and to fetch dirty ranges. After any error of the
//! connection or the protocol the client is dead and says so; an error that the server reports (a broken snapshot) is an error of
//! that one request.

pub mod codec;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use self::codec::{ChunkKind, Extent, OptionReply, ReadCover, ReplyShape, RequestKind, WireError};
use super::ranges::{self, DirtyRanges};
use crate::agent::hypervisor::{BlockSource, Ranges};

/// The context that tells holes from data.
pub const ALLOCATION: &str = "base:allocation";
/// Flag of [`ALLOCATION`]: reads as zeros.
const STATE_ZERO: u32 = 2;
/// Flag of a bitmap's context: dirty.
pub const STATE_DIRTY: u32 = 1;
/// How much of a disk one block-status request covers, bytes. A multiple of every bitmap granularity.
const STATUS_STEP: u64 = 1 << 30;
/// How much of a disk is asked for its dirty extents before they are joined to ranges, bytes: a quarter million extents at most.
const DIRTY_STEP: u64 = 16 << 30;
/// Option replies before the handshake is given up.
const MAX_OPTION_REPLIES: usize = 64;

/// The name of the context of a QEMU bitmap.
#[must_use]
pub fn bitmap_context(bitmap: &str) -> String {
    format!("qemu:dirty-bitmap:{bitmap}")
}

fn wire(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn refused(words: String) -> io::Error {
    io::Error::other(words)
}

/// A connection to one export.
pub struct NbdClient<S: Read + Write> {
    stream: S,
    size: u64,
    contexts: BTreeMap<u32, String>,
    next_handle: u64,
    /// What `base:allocation` said last: a range, and the runs of data in it.
    allocation: Option<(Range<u64>, Vec<Range<u64>>)>,
    dead: bool,
}

impl NbdClient<UnixStream> {
    /// Connects to `export` at the socket `path` and asks for `contexts`, all of which must be granted. No answer within
    /// `timeout` is an error, here and later.
    ///
    /// # Errors
    /// The socket's errors, a refusal by the server, a broken protocol.
    pub fn connect(
        path: &Path,
        export: &str,
        contexts: &[String],
        timeout: Duration,
    ) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Self::handshake(stream, export, contexts)
    }
}

impl<S: Read + Write> NbdClient<S> {
    /// Negotiates over a stream that is connected.
    ///
    /// # Errors
    /// As [`connect`](NbdClient::connect).
    pub fn handshake(mut stream: S, export: &str, contexts: &[String]) -> io::Result<Self> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let flags = codec::greeting(&greeting).map_err(wire)?
            & (codec::FLAG_FIXED_NEWSTYLE | codec::FLAG_NO_ZEROES);
        stream.write_all(&u32::from(flags).to_be_bytes())?;

        let mut client = Self {
            stream,
            size: 0,
            contexts: BTreeMap::new(),
            next_handle: 1,
            allocation: None,
            dead: false,
        };
        client.option(codec::OPTION_STRUCTURED_REPLY, &[])?;
        if !contexts.is_empty() {
            for reply in client.option(
                codec::OPTION_SET_META_CONTEXT,
                &codec::set_meta_context(export, contexts),
            )? {
                if let OptionReply::Context { id, name } = reply {
                    client.contexts.insert(id, name);
                }
            }
            if let Some(missing) = contexts
                .iter()
                .find(|name| !client.contexts.values().any(|granted| granted == *name))
            {
                return Err(refused(format!(
                    "the export {export} has no context {missing}"
                )));
            }
        }
        let replies = client.option(codec::OPTION_GO, &codec::go(export))?;
        client.size = replies
            .iter()
            .find_map(|reply| {
                if let OptionReply::Export { size, .. } = reply {
                    Some(*size)
                } else {
                    None
                }
            })
            .ok_or_else(|| wire(WireError("no size of the export".into())))?;
        Ok(client)
    }

    fn option(&mut self, kind: u32, payload: &[u8]) -> io::Result<Vec<OptionReply>> {
        self.stream.write_all(&codec::option(kind, payload))?;
        let mut replies = Vec::new();
        for _ in 0..MAX_OPTION_REPLIES {
            let mut head = [0; 20];
            self.stream.read_exact(&mut head)?;
            let header = codec::option_header(&head).map_err(wire)?;
            if header.option != kind {
                return Err(wire(WireError(format!(
                    "an answer to option {}",
                    header.option
                ))));
            }
            let mut payload = vec![0; header.length as usize];
            self.stream.read_exact(&mut payload)?;
            match codec::option_reply(header, &payload).map_err(wire)? {
                OptionReply::Ack => return Ok(replies),
                OptionReply::Error(words) => return Err(refused(words)),
                reply => replies.push(reply),
            }
        }
        Err(wire(WireError("too many answers to an option".into())))
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The extents of `range` in `context`, in order, without gaps, cut to the range.
    ///
    /// # Errors
    /// The connection's, the server's, or a context that was not asked for at the handshake.
    pub fn extents(
        &mut self,
        context: &str,
        range: Range<u64>,
    ) -> io::Result<Vec<(Range<u64>, u32)>> {
        let id = self
            .contexts
            .iter()
            .find(|(_, name)| *name == context)
            .map(|(id, _)| *id);
        let id = id.ok_or_else(|| refused(format!("the context {context} was not asked for")))?;
        let end = range.end.min(self.size);
        let mut at = range.start;
        let mut found: Vec<(Range<u64>, u32)> = Vec::new();
        while at < end {
            let length = (end - at).min(STATUS_STEP);
            for extent in self.block_status(id, at, u32::try_from(length).unwrap_or(u32::MAX))? {
                let next = at.saturating_add(u64::from(extent.length)).min(end);
                match found.last_mut() {
                    Some((last, flags)) if *flags == extent.flags => last.end = next,
                    _ if next > at => found.push((at..next, extent.flags)),
                    _ => {}
                }
                at = next;
            }
        }
        Ok(found)
    }

    /// What a bitmap's context calls dirty: a bounded number of ranges, from extents of which a bounded number is held at a time.
    ///
    /// # Errors
    /// As [`NbdClient::extents`].
    pub fn dirty_ranges(&mut self, context: &str, dirty: u32) -> io::Result<Ranges> {
        let mut gathered = DirtyRanges::new(dirty, self.size, ranges::MOST);
        let mut at = 0;
        while at < self.size {
            let end = at.saturating_add(DIRTY_STEP).min(self.size);
            gathered.add(&self.extents(context, at..end)?);
            at = end;
        }
        Ok(gathered.end())
    }

    fn block_status(&mut self, context: u32, offset: u64, length: u32) -> io::Result<Vec<Extent>> {
        let handle = self.send(RequestKind::BlockStatus, offset, length)?;
        let answer = self.guarded(|client| client.answer(handle, None))?;
        if let Some((number, words)) = answer.error {
            return Err(refused(format!(
                "block status at {offset}: {words} (NBD error {number})"
            )));
        }
        match answer.statuses.into_iter().find(|(id, _)| *id == context) {
            Some((_, extents)) => Ok(extents),
            None => self.die(WireError("a block status without extents".into())),
        }
    }

    fn send(&mut self, kind: RequestKind, offset: u64, length: u32) -> io::Result<u64> {
        let handle = self.next_handle;
        self.next_handle += 1;
        let bytes = codec::request(kind, handle, offset, length);
        self.guarded(|client| client.stream.write_all(&bytes))?;
        Ok(handle)
    }

    /// Runs something after whose failure the stream is out of step.
    fn guarded<T>(&mut self, action: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if self.dead {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the NBD connection has failed before",
            ));
        }
        let result = action(self);
        self.dead |= result.is_err();
        result
    }

    fn die<T>(&mut self, error: WireError) -> io::Result<T> {
        self.dead = true;
        Err(wire(error))
    }

    /// Reads the header of one chunk. A simple reply, which with structured replies can only be an error, becomes an error chunk.
    fn chunk_header(&mut self) -> io::Result<(codec::ChunkHeader, Option<u32>)> {
        let mut magic = [0; 4];
        self.stream.read_exact(&mut magic)?;
        if codec::reply_shape(magic).map_err(wire)? == ReplyShape::Structured {
            let mut head = [0; 16];
            self.stream.read_exact(&mut head)?;
            return Ok((codec::chunk_header(&head).map_err(wire)?, None));
        }
        let mut rest = [0; 12];
        self.stream.read_exact(&mut rest)?;
        let (number, handle) = codec::simple_reply(&rest);
        if number == 0 {
            return Err(wire(WireError("a simple reply without error".into())));
        }
        let header = codec::ChunkHeader {
            done: true,
            kind: ChunkKind::Error,
            handle,
            length: 0,
        };
        Ok((header, Some(number)))
    }

    /// Takes the chunks of the answer to `handle`. Data and holes go to the buffer of a `read`, block statuses are collected, the
    /// first error stands beside them.
    fn answer(
        &mut self,
        handle: u64,
        mut read: Option<(&mut [u8], &mut ReadCover)>,
    ) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (header, simple) = self.chunk_header()?;
            if header.handle != handle {
                return Err(wire(WireError("an answer to another request".into())));
            }
            match (header.kind, &mut read) {
                (ChunkKind::Data, Some((buf, cover))) => {
                    let mut offset = [0; 8];
                    self.stream.read_exact(&mut offset)?;
                    let length = u64::from(header.length) - 8;
                    let place = cover
                        .add(u64::from_be_bytes(offset), length)
                        .map_err(wire)?;
                    self.stream.read_exact(&mut buf[place])?;
                }
                (kind, read) => {
                    let mut payload = vec![0; header.length as usize];
                    self.stream.read_exact(&mut payload)?;
                    match (kind, read) {
                        (ChunkKind::None, _) => {}
                        (ChunkKind::Hole, Some((buf, cover))) => {
                            let (offset, length) = codec::hole(&payload).map_err(wire)?;
                            let place = cover.add(offset, u64::from(length)).map_err(wire)?;
                            buf[place].fill(0);
                        }
                        (ChunkKind::BlockStatus, None) => {
                            answer
                                .statuses
                                .push(codec::block_status(&payload).map_err(wire)?);
                        }
                        (ChunkKind::Error, _) => {
                            let error = match simple {
                                Some(number) => (number, String::new()),
                                None => codec::error_chunk(&payload),
                            };
                            answer.error.get_or_insert(error);
                        }
                        (kind, _) => {
                            return Err(wire(WireError(format!("an unexpected {kind:?} chunk"))));
                        }
                    }
                }
            }
            if header.done {
                return Ok(answer);
            }
        }
    }

    /// One read of at most [`codec::MAX_READ`] bytes.
    fn read_piece(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = buf.len() as u64;
        let handle = self.send(
            RequestKind::Read,
            offset,
            u32::try_from(length).unwrap_or(u32::MAX),
        )?;
        let mut cover = ReadCover::new(offset, length);
        let answer = self.guarded(|client| client.answer(handle, Some((buf, &mut cover))))?;
        match answer.error {
            Some((number, words)) => Err(refused(format!(
                "read at {offset}: {words} (NBD error {number})"
            ))),
            None if cover.complete() => Ok(()),
            None => self.die(WireError("a read with missing bytes".into())),
        }
    }
}

/// The answer to one request.
#[derive(Default)]
struct Answer {
    statuses: Vec<(u32, Vec<Extent>)>,
    error: Option<(u32, String)>,
}

impl<S: Read + Write + Send> BlockSource for NbdClient<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a read beyond the end of the disk",
            ));
        }
        let mut at = offset;
        for piece in buf.chunks_mut(codec::MAX_READ as usize) {
            self.read_piece(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if !self.contexts.values().any(|name| name == ALLOCATION) {
            return Ok((offset < self.size).then_some(offset..self.size));
        }
        let mut at = offset;
        while at < self.size {
            if !self
                .allocation
                .as_ref()
                .is_some_and(|(known, _)| known.contains(&at))
            {
                let known = at..at.saturating_add(STATUS_STEP).min(self.size);
                let extents = self.extents(ALLOCATION, known.clone())?;
                let data = extents
                    .into_iter()
                    .filter(|(_, flags)| flags & STATE_ZERO == 0)
                    .map(|(range, _)| range)
                    .collect();
                self.allocation = Some((known, data));
            }
            let Some((known, data)) = &self.allocation else {
                break;
            };
            if let Some(range) = data.iter().find(|range| range.end > at) {
                return Ok(Some(range.start.max(at)..range.end));
            }
            at = known.end;
        }
        Ok(None)
    }
}

impl<S: Read + Write> Drop for NbdClient<S> {
    fn drop(&mut self) {
        if !self.dead {
            // Politeness; the server copes without.
            let _ = self.stream.write_all(&codec::request(
                RequestKind::Disconnect,
                self.next_handle,
                0,
                0,
            ));
        }
    }
}

#[cfg(test)]
mod tests;
