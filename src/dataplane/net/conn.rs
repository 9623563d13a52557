//! One connection: frames over TCP, plain or TLS, both directions in one thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::pki_types::{CertificateDer, ServerName};

use crate::dataplane::wire::{Frame, HEADER, Header, WireError};

/// How long a peer may keep a frame unfinished, or take nothing of one.
const STALL: Duration = Duration::from_mins(5);
/// How often a wait looks up: for a cancel, a deadline, work of its own.
const TICK: Duration = Duration::from_millis(100);

/// Bytes that are read ahead of what a frame needs.
const AHEAD: usize = 32 * 1024;

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
pub(super) type Stop<'a> = &'a dyn Fn() -> bool;

pub(super) struct Conn<'a> {
    link: Link,
    stop: Stop<'a>,
    idle: Duration,
    /// When all patience ends, whatever the peer sends meanwhile; until it is let in.
    until: Option<Instant>,
    /// How long the wait for a frame has lasted in vain.
    waited: Duration,
    input: Input,
    output: Vec<u8>,
    sent: u64,
}

enum Link {
    Plain(TcpStream),
    Tls(Box<rustls::Connection>, TcpStream),
}

/// What was read from the socket and not yet used.
struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    received: u64,
    ended: bool,
}

impl Input {
    fn give(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.end - self.start);
        out[..len].copy_from_slice(&self.buf[self.start..self.start + len]);
        self.start += len;
        len
    }
}

/// Reads for TLS from what was read ahead, so that its small reads cost no system calls.
impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(self.give(out))
    }
}

impl<'a> Conn<'a> {
    pub(super) fn plain(
        stream: TcpStream,
        idle: Duration,
        stop: Stop<'a>,
    ) -> Result<Self, ConnError> {
        Self::new(Link::Plain(stream), idle, stop)
    }

    /// A plain connection whose peer has to be let in before a moment.
    pub(super) fn plain_server(
        stream: TcpStream,
        greeting: Duration,
        stop: Stop<'a>,
    ) -> Result<Self, ConnError> {
        Ok(Self::new(Link::Plain(stream), greeting, stop)?.limited(greeting))
    }

    pub(super) fn client(
        stream: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        idle: Duration,
        stop: Stop<'a>,
    ) -> Result<Self, ConnError> {
        let tls = rustls::ClientConnection::new(config, name).map_err(ConnError::Tls)?;
        Self::new(Link::Tls(Box::new(tls.into()), stream), idle, stop)?.shake_hands()
    }

    pub(super) fn server(
        stream: TcpStream,
        config: Arc<rustls::ServerConfig>,
        greeting: Duration,
        stop: Stop<'a>,
    ) -> Result<Self, ConnError> {
        let tls = rustls::ServerConnection::new(config).map_err(ConnError::Tls)?;
        Self::new(Link::Tls(Box::new(tls.into()), stream), greeting, stop)?
            .limited(greeting)
            .shake_hands()
    }

    fn limited(mut self, greeting: Duration) -> Self {
        self.until = Some(Instant::now() + greeting);
        self
    }

    fn new(link: Link, idle: Duration, stop: Stop<'a>) -> Result<Self, ConnError> {
        let stream = match &link {
            Link::Plain(stream) | Link::Tls(_, stream) => stream,
        };
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        keep_alive(stream)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        let input = Input {
            buf: vec![0; AHEAD],
            start: 0,
            end: 0,
            received: 0,
            ended: false,
        };
        Ok(Self {
            link,
            stop,
            idle,
            until: None,
            waited: Duration::ZERO,
            input,
            output: Vec::new(),
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

    /// The peer is let in: from now on it may be silent for so long.
    pub(super) fn set_idle(&mut self, idle: Duration) {
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
        (self.sent, self.input.received)
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
        let mut head = std::mem::take(&mut self.output);
        head.clear();
        frame.encode(&mut head);
        let done = self.write_parts(&head, payload);
        self.output = head;
        done
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
                    Err(error) => self.tick(error, &deadline)?,
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
                Err(error) => self.tick(error, &deadline)?,
            }
        }
    }

    /// The next frame. `None` after a tick without one, when `wait` is set, or at once, when it is not. The payload of a data frame is
    /// left for [`Conn::payload`].
    pub(super) fn frame(&mut self, wait: bool) -> Result<Option<Frame>, ConnError> {
        let mut header = [0; HEADER];
        if !self.begins(wait)? {
            return Ok(None);
        }
        self.payload(&mut header)?;
        let header = Header::decode(header).map_err(ConnError::Wire)?;
        let mut body = vec![0; header.body_len()];
        self.payload(&mut body)?;
        header.decode_body(&body).map(Some).map_err(ConnError::Wire)
    }

    /// Whether a byte of a frame is there.
    fn begins(&mut self, wait: bool) -> Result<bool, ConnError> {
        self.in_time()?;
        if self.has_plaintext()? {
            return Ok(true);
        }
        let timeout = if wait { TICK } else { Duration::ZERO };
        let timeout = Timespec::try_from(timeout)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut fds = [PollFd::new(self.stream(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {
                if (self.stop)() {
                    return Err(ConnError::Stopped);
                }
                if wait {
                    self.waited += TICK;
                    if self.waited >= self.idle {
                        return Err(silent().into());
                    }
                }
                Ok(false)
            }
            Ok(_) => {
                self.waited = Duration::ZERO;
                self.fill(&mut self.deadline())?;
                self.has_plaintext()
            }
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Whether something is there that was received and can be used.
    fn has_plaintext(&mut self) -> Result<bool, ConnError> {
        match &mut self.link {
            Link::Plain(_) => {
                if self.input.start == self.input.end && self.input.ended {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Ok(self.input.start < self.input.end)
            }
            Link::Tls(..) => {
                self.process()?;
                let Link::Tls(tls, _) = &mut self.link else {
                    return Ok(false);
                };
                let state = tls.process_new_packets().map_err(ConnError::Tls)?;
                if state.plaintext_bytes_to_read() == 0
                    && (state.peer_has_closed()
                        || (self.input.ended && self.input.start == self.input.end))
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
        while tls.wants_read() && self.input.start < self.input.end {
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
        if self.input.start == self.input.end {
            self.fill(deadline)?;
            if self.input.ended && self.input.start == self.input.end {
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

    /// Reads ahead into the empty input.
    fn fill(&mut self, deadline: &mut Instant) -> Result<(), ConnError> {
        if self.input.start < self.input.end {
            return Ok(());
        }
        loop {
            self.in_time()?;
            let read = match &mut self.link {
                Link::Plain(stream) | Link::Tls(_, stream) => stream.read(&mut self.input.buf),
            };
            match read {
                Ok(read) => {
                    (self.input.start, self.input.end) = (0, read);
                    self.input.received += read as u64;
                    self.input.ended = read == 0;
                    *deadline = self.deadline();
                    return Ok(());
                }
                Err(error) => self.tick(error, deadline)?,
            }
        }
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
                        match stream.read(&mut out[done..]) {
                            Ok(0) => {
                                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                            }
                            Ok(read) => {
                                done += read;
                                self.input.received += read as u64;
                                deadline = self.deadline();
                            }
                            Err(error) => self.tick(error, &deadline)?,
                        }
                        continue;
                    }
                    self.fill(&mut deadline)?;
                    if self.input.ended {
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
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => break,
            }
        }
    }

    /// In the middle of a frame, and where the peer takes nothing.
    fn deadline(&self) -> Instant {
        let idle = Instant::now() + self.idle.min(STALL);
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

    /// What to make of a read or write that did not go through: wait on, or give up.
    fn tick(&self, error: io::Error, deadline: &Instant) -> Result<(), ConnError> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                if (self.stop)() {
                    Err(ConnError::Stopped)
                } else if Instant::now() >= *deadline {
                    Err(silent().into())
                } else {
                    Ok(())
                }
            }
            _ => Err(error.into()),
        }
    }
}

/// A host that is gone is noticed within two minutes, however long its peer has nothing to say: while it reads disks of terabytes.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 6)?;
    Ok(())
}

fn silent() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer neither sends nor takes anything",
    )
}
