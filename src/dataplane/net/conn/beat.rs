//! The beats of a connection: those that it sends, and those that it hears while it cannot send.

use std::io::{self, Read, Write};

use rustix::event::PollFlags;

use super::{Conn, ConnError, Link, is_pause};
use crate::dataplane::wire::{Frame, HEADER, Header};

impl Conn<'_> {
    /// Says that this side is there, if it has said nothing for a while. Never waits: who has something of us still to read will hear us
    /// when it looks.
    pub(in crate::dataplane::net) fn beat(&mut self) -> Result<(), ConnError> {
        let now = self.vitals.now();
        if self.midway || !self.vitals.is_beat_due(now) || !self.is_ready(PollFlags::OUT)? {
            return Ok(());
        }
        let written = match &mut self.link {
            Link::Plain(stream) => {
                if self.rest.is_empty() {
                    Frame::Beat.encode(&mut self.rest);
                }
                let written = stream.write(&self.rest);
                self.rest.drain(..*written.as_ref().unwrap_or(&0));
                written
            }
            Link::Tls(tls, stream) => {
                if !tls.wants_write() {
                    let mut beat = Vec::new();
                    Frame::Beat.encode(&mut beat);
                    tls.writer().write_all(&beat)?;
                }
                tls.write_tls(stream)
            }
        };
        match written {
            Ok(written) => {
                self.sent += written as u64;
                self.vitals.said(now);
                Ok(())
            }
            Err(error) if is_pause(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// While the peer takes nothing, what it says is taken in as far as there is room: a peer that is busy beats.
    pub(super) fn hear(&mut self) -> Result<(), ConnError> {
        self.skip_beats()?;
        let looked = self.vitals.now();
        if self.input.is_full() {
            // It has said more than was asked for, and can say no more: TCP alone knows now whether its host is there.
            self.vitals.heard();
            Ok(())
        } else if !self.input.has_ended() && self.is_ready(PollFlags::IN)? {
            self.read_ahead()?;
            self.skip_beats()
        } else {
            self.vitals.check(looked).map_err(ConnError::from)
        }
    }

    /// Drops the beats that come next of what was received, so that hours of them fit.
    fn skip_beats(&mut self) -> Result<(), ConnError> {
        loop {
            let (mut header, begun) = self.header;
            let more = self.at_hand(&mut header[begun..])?;
            self.header = (header, begun + more);
            if begun + more < HEADER {
                return Ok(());
            }
            if !self.vitals.is_beating() || !Header::decode(header).is_ok_and(Header::is_beat) {
                return Ok(());
            }
            self.header.1 = 0;
        }
    }

    /// What comes next, as far as it was received.
    fn at_hand(&mut self, out: &mut [u8]) -> Result<usize, ConnError> {
        self.process()?;
        match &mut self.link {
            Link::Plain(_) => Ok(self.input.give(out)),
            Link::Tls(tls, _) => match tls.reader().read(out) {
                Ok(read) => Ok(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(error) => Err(error.into()),
            },
        }
    }
}
