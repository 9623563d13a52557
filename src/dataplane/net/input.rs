//! What was read from the socket and not yet used.

use std::io::{self, Read};

/// Bytes that are read ahead of what a frame needs.
pub(super) const AHEAD: usize = 32 * 1024;

/// A stretch of what the peer has sent.
pub(super) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    received: u64,
    ended: bool,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            buf: vec![0; AHEAD],
            start: 0,
            end: 0,
            received: 0,
            ended: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is no room to read into.
    pub(super) fn is_full(&self) -> bool {
        self.end - self.start == self.buf.len()
    }

    /// Whether the peer has said that no more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether no more comes and all was used.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// Bytes that were read from the socket, in all.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Counts bytes that went from the socket to their place.
    pub(super) fn count(&mut self, read: usize) {
        self.received += read as u64;
    }

    /// Reads once, behind what is there. Only while there is room.
    pub(super) fn read_from(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = from.read(&mut self.buf[self.end..])?;
        self.end += read;
        self.ended = read == 0;
        self.count(read);
        Ok(read)
    }

    pub(super) fn give(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.end - self.start);
        out[..len].copy_from_slice(&self.buf[self.start..self.start + len]);
        self.start += len;
        len
    }
}

/// Reads for TLS from what was read ahead, so that its small reads cost no system calls.
impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.give(out))
    }
}
