//! One connection: frames over TCP, plain or TLS, one direction at a time. While it sends it still takes in what the peer says, so that
//! a peer that is busy can be told from one that is gone ([`super::pulse`]).

mod beat;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::pki_types::{CertificateDer, ServerName};

use super::input::{AHEAD, Input};
use super::pulse::{Pulse, Vitals};
use crate::dataplane::wire::{Frame, HEADER, Header, WireError};

/// How often a wait looks up: for a cancel, a deadline, work of its own.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Why no frame could be had.
#[derive(Debug)]
pub(super) enum ConnError {
    /// The connection is gone.
    Io(io::Error),
    /// The certificate, or anything else of TLS, was not accepted.
    Tls(rustls::Error),
    /// What came is no frame.
    Wire(WireError),
    /// The caller's check wanted to stop.
    Stopped,
}

impl From<io::Error> for ConnError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Asked at every tick; `true` stops the wait with [`ConnError::Stopped`].
pub(super) type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// What a peer may do, and how it is called.
pub(super) struct Terms<'a> {
    /// Its name, for people.
    pub(super) peer: String,
    /// How long it may do nothing but beat.
    pub(super) idle: Duration,
    /// How long it may be silent, and when this side beats.
    pub(super) pulse: Pulse,
    /// What ends the wait for it.
    pub(super) stop: Stop<'a>,
}

pub(super) struct Conn<'a> {
    link: Link,
    stop: Stop<'a>,
    idle: Duration,
    /// When all patience ends, whatever the peer sends meanwhile; until it is let in.
    until: Option<Instant>,
    /// How long the wait for a frame has lasted in vain.
    waited: Duration,
    vitals: Vitals,
    input: Input,
    /// The header of the next frame, and how much of it has come.
    header: ([u8; HEADER], usize),
    output: Vec<u8>,
    /// Whether a frame was begun and is not out whole: nothing may come in between, nor after it when it broke off.
    midway: bool,
    /// What the socket did not take of a beat; it goes before anything else.
    rest: Vec<u8>,
    sent: u64,
}

enum Link {
    Plain(TcpStream),
    Tls(Box<rustls::Connection>, TcpStream),
}

impl<'a> Conn<'a> {
    pub(super) fn plain(stream: TcpStream, terms: Terms<'a>) -> Result<Self, ConnError> {
        Self::new(Link::Plain(stream), terms)
    }

    /// A plain connection whose peer has to be let in before a moment.
    pub(super) fn plain_server(
        stream: TcpStream,
        greeting: Duration,
        terms: Terms<'a>,
    ) -> Result<Self, ConnError> {
        Ok(Self::new(Link::Plain(stream), terms)?.limited(greeting))
    }

    pub(super) fn client(
        stream: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        terms: Terms<'a>,
    ) -> Result<Self, ConnError> {
        let tls = rustls::ClientConnection::new(config, name).map_err(ConnError::Tls)?;
        Self::new(Link::Tls(Box::new(tls.into()), stream), terms)?.shake_hands()
    }

    pub(super) fn server(
        stream: TcpStream,
        config: Arc<rustls::ServerConfig>,
        greeting: Duration,
        terms: Terms<'a>,
    ) -> Result<Self, ConnError> {
        let tls = rustls::ServerConnection::new(config).map_err(ConnError::Tls)?;
        Self::new(Link::Tls(Box::new(tls.into()), stream), terms)?
            .limited(greeting)
            .shake_hands()
    }

    fn limited(mut self, greeting: Duration) -> Self {
        self.until = Some(Instant::now() + greeting);
        self
    }

    fn new(link: Link, terms: Terms<'a>) -> Result<Self, ConnError> {
        let stream = match &link {
            Link::Plain(stream) | Link::Tls(_, stream) => stream,
        };
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        keep_alive(stream)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(Self {
            link,
            stop: terms.stop,
            idle: terms.idle,
            until: None,
            waited: Duration::ZERO,
            vitals: Vitals::new(terms.pulse, terms.peer),
            input: Input::new(),
            header: ([0; HEADER], 0),
            output: Vec::new(),
            midway: false,
            rest: Vec::new(),
            sent: 0,
        })
    }

    fn shake_hands(mut self) -> Result<Self, ConnError> {
        loop {
            self.write_tls()?;
            let Link::Tls(tls, _) = &self.link else {
                return Ok(self);
            };
            if !tls.is_handshaking() {
                return Ok(self);
            }
            self.read_tls(&mut self.deadline())?;
        }
    }

    /// The peer is let in: from now on it may do nothing but beat for so long.
    pub(super) fn let_in(&mut self, idle: Duration) {
        self.idle = idle;
        self.until = None;
        self.waited = Duration::ZERO;
    }

    /// The certificates that the peer has shown.
    pub(super) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        match &self.link {
            Link::Plain(_) => Vec::new(),
            Link::Tls(tls, _) => tls
                .peer_certificates()
                .map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect())
                .unwrap_or_default(),
        }
    }

    /// Bytes sent and received on the socket.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent, self.input.received())
    }

    /// Another handle of the socket, for ending it from elsewhere.
    pub(super) fn socket(&self) -> io::Result<TcpStream> {
        self.stream().try_clone()
    }

    fn stream(&self) -> &TcpStream {
        match &self.link {
            Link::Plain(stream) | Link::Tls(_, stream) => stream,
        }
    }

    /// Sends a frame and the payload that belongs to it.
    pub(super) fn send(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), ConnError> {
        debug_assert_eq!(frame.payload_len(), payload.len());
        let begun = self.vitals.now();
        let mut head = std::mem::take(&mut self.output);
        head.clear();
        head.append(&mut self.rest);
        frame.encode(&mut head);
        self.midway = true;
        let done = self.write_parts(&head, payload);
        self.output = head;
        done?;
        self.midway = false;
        self.vitals.said(begun);
        if matches!(frame, Frame::Hello(_)) {
            self.vitals.begin();
        }
        Ok(())
    }

    fn write_parts(&mut self, head: &[u8], payload: &[u8]) -> Result<(), ConnError> {
        let mut deadline = self.deadline();
        let total = head.len() + payload.len();
        let mut done = 0;
        while done < total {
            let parts = [
                io::IoSlice::new(head.get(done..).unwrap_or(&[])),
                io::IoSlice::new(&payload[done.saturating_sub(head.len())..]),
            ];
            match &mut self.link {
                Link::Plain(stream) => match stream.write_vectored(&parts) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                    Ok(written) => {
                        done += written;
                        self.sent += written as u64;
                        deadline = self.deadline();
                    }
                    Err(error) => self.blocked(error, &deadline)?,
                },
                Link::Tls(tls, _) => {
                    done += tls.writer().write_vectored(&parts)?;
                    self.write_tls()?;
                }
            }
        }
        Ok(())
    }

    fn write_tls(&mut self) -> Result<(), ConnError> {
        let mut deadline = self.deadline();
        loop {
            let Link::Tls(tls, stream) = &mut self.link else {
                return Ok(());
            };
            if !tls.wants_write() {
                return Ok(());
            }
            match tls.write_tls(stream) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => {
                    self.sent += written as u64;
                    deadline = self.deadline();
                }
                Err(error) => self.blocked(error, &deadline)?,
            }
        }
    }

    /// The next frame. `None` after a tick without one, when `wait` is set, or at once, when it is not. The payload of a data frame is
    /// left for [`Conn::payload`].
    pub(super) fn frame(&mut self, wait: bool) -> Result<Option<Frame>, ConnError> {
        while self.begins(wait)? {
            let (mut header, begun) = self.header;
            self.payload(&mut header[begun..])?;
            self.header.1 = 0;
            let header = Header::decode(header).map_err(ConnError::Wire)?;
            let mut body = vec![0; header.body_len()];
            self.payload(&mut body)?;
            let frame = header.decode_body(&body).map_err(ConnError::Wire)?;
            match frame {
                // It has done its work by having come.
                Frame::Beat if self.vitals.is_beating() => {
                    if (self.stop)() {
                        return Err(ConnError::Stopped);
                    }
                    continue;
                }
                Frame::Hello(_) => self.vitals.begin(),
                _ => {}
            }
            self.waited = Duration::ZERO;
            return Ok(Some(frame));
        }
        Ok(None)
    }

    /// Whether a byte of a frame is there.
    fn begins(&mut self, wait: bool) -> Result<bool, ConnError> {
        self.in_time()?;
        if self.header.1 > 0 || self.has_plaintext()? {
            return Ok(true);
        }
        let looked = self.vitals.now();
        if self.poll(PollFlags::IN, if wait { TICK } else { Duration::ZERO })? {
            self.fill(&mut self.deadline())?;
            return self.has_plaintext();
        }
        if (self.stop)() {
            return Err(ConnError::Stopped);
        }
        self.vitals.check(looked)?;
        if wait {
            self.beat()?;
            self.waited += TICK;
            if self.waited >= self.idle {
                return Err(stuck().into());
            }
        }
        Ok(false)
    }

    fn is_ready(&self, flags: PollFlags) -> Result<bool, ConnError> {
        self.poll(flags, Duration::ZERO)
    }

    /// Whether the socket could be read or written without a wait, or comes to that in time.
    fn poll(&self, flags: PollFlags, timeout: Duration) -> Result<bool, ConnError> {
        let timeout = Timespec::try_from(timeout)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut fds = [PollFd::new(self.stream(), flags)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Whether something is there that was received and can be used.
    fn has_plaintext(&mut self) -> Result<bool, ConnError> {
        match &mut self.link {
            Link::Plain(_) => {
                if self.input.is_over() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Ok(!self.input.is_empty())
            }
            Link::Tls(..) => {
                self.process()?;
                let Link::Tls(tls, _) = &mut self.link else {
                    return Ok(false);
                };
                let state = tls.process_new_packets().map_err(ConnError::Tls)?;
                if state.plaintext_bytes_to_read() == 0
                    && (state.peer_has_closed() || self.input.is_over())
                {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Ok(state.plaintext_bytes_to_read() > 0)
            }
        }
    }

    /// Decrypts what was read ahead, as far as there is room for it.
    fn process(&mut self) -> Result<(), ConnError> {
        let Link::Tls(tls, _) = &mut self.link else {
            return Ok(());
        };
        while tls.wants_read() && !self.input.is_empty() {
            match tls.read_tls(&mut self.input) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            tls.process_new_packets().map_err(ConnError::Tls)?;
        }
        Ok(())
    }

    fn read_tls(&mut self, deadline: &mut Instant) -> Result<(), ConnError> {
        if self.input.is_empty() {
            self.fill(deadline)?;
            if self.input.is_over() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let done = self.process();
        if done.is_err() {
            // The peer is told why.
            let _ = self.write_tls();
        }
        done
    }

    /// Reads ahead, unless there is something already.
    fn fill(&mut self, deadline: &mut Instant) -> Result<(), ConnError> {
        while self.input.is_empty() && !self.input.has_ended() {
            self.in_time()?;
            let looked = self.vitals.now();
            match self.read_ahead() {
                Ok(()) => *deadline = self.deadline(),
                Err(error) => self.starved(error, deadline, looked)?,
            }
        }
        Ok(())
    }

    fn read_ahead(&mut self) -> io::Result<()> {
        let stream = match &mut self.link {
            Link::Plain(stream) | Link::Tls(_, stream) => stream,
        };
        if self.input.read_from(stream)? > 0 {
            self.vitals.heard();
        }
        Ok(())
    }

    /// Fills the buffer with what comes next.
    pub(super) fn payload(&mut self, out: &mut [u8]) -> Result<(), ConnError> {
        let mut deadline = self.deadline();
        let mut done = 0;
        while done < out.len() {
            match &mut self.link {
                Link::Plain(stream) => {
                    done += self.input.give(&mut out[done..]);
                    if done == out.len() {
                        break;
                    }
                    // Large payloads go straight to their place.
                    if out.len() - done >= AHEAD {
                        let looked = self.vitals.now();
                        match stream.read(&mut out[done..]) {
                            Ok(0) => {
                                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                            }
                            Ok(read) => {
                                done += read;
                                self.input.count(read);
                                self.vitals.heard();
                                deadline = self.deadline();
                            }
                            Err(error) => self.starved(error, &deadline, looked)?,
                        }
                        continue;
                    }
                    self.fill(&mut deadline)?;
                    if self.input.is_over() {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                }
                Link::Tls(tls, _) => match tls.reader().read(&mut out[done..]) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Ok(read) => done += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.read_tls(&mut deadline)?;
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// Says what was sent before the connection broke, if anything: why the peer ended it.
    pub(super) fn last_words(&mut self) -> Option<Frame> {
        // What is in the socket still; the peer has nothing more to say when this ends.
        let _ = self.stream().shutdown(Shutdown::Write);
        loop {
            match self.frame(true) {
                Ok(Some(frame @ (Frame::Failed(_) | Frame::Refuse(_)))) => return Some(frame),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Ends the connection in order: what was sent arrives, also where the peer is still sending.
    pub(super) fn close(mut self) {
        if let Link::Tls(tls, _) = &mut self.link {
            tls.send_close_notify();
        }
        let _ = self.write_tls();
        let _ = self.stream().shutdown(Shutdown::Write);
        // Closing with unread input would reset the connection and lose our last frame on the way.
        let until = Instant::now() + Duration::from_secs(1);
        let mut sink = [0; 4096];
        while Instant::now() < until && !(self.stop)() {
            let mut stream = self.stream();
            match stream.read(&mut sink) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_pause(&error) => {}
                Err(_) => break,
            }
        }
    }

    /// In the middle of a frame, and where the peer takes nothing.
    fn deadline(&self) -> Instant {
        let idle = Instant::now() + self.idle;
        self.until.map_or(idle, |until| until.min(idle))
    }

    /// A peer that sends a byte now and then is never silent, but it is not let in for ever either.
    fn in_time(&self) -> Result<(), ConnError> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            let late = "the peer did not say in time who it is and what it wants";
            return Err(io::Error::new(io::ErrorKind::TimedOut, late).into());
        }
        Ok(())
    }

    /// A read in the middle of a frame did not go through: wait on, or give up.
    fn starved(
        &mut self,
        error: io::Error,
        deadline: &Instant,
        looked: Instant,
    ) -> Result<(), ConnError> {
        self.pause(error, deadline)?;
        self.vitals.check(looked)?;
        self.beat()
    }

    /// A write did not go through: wait on, or give up.
    fn blocked(&mut self, error: io::Error, deadline: &Instant) -> Result<(), ConnError> {
        self.pause(error, deadline)?;
        self.hear()
    }

    fn pause(&self, error: io::Error, deadline: &Instant) -> Result<(), ConnError> {
        if !is_pause(&error) {
            Err(error.into())
        } else if (self.stop)() {
            Err(ConnError::Stopped)
        } else if Instant::now() >= *deadline {
            Err(stuck().into())
        } else {
            Ok(())
        }
    }
}

/// Whether an error of a socket says no more than that its time is up.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// A host that is gone is noticed also where nobody waits for it: while disks of terabytes are read.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

fn stuck() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer neither sends nor takes anything",
    )
}

#[cfg(test)]
mod tests;
