//! Runs the sending side of a pass: connects, reads, hashes, sends, waits for the verdict.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use uuid::Uuid;

use super::IDLE;
use super::conn::{Conn, ConnError, Terms};
use super::control::{PassControl, Reporter};
use super::line::Line;
use super::pulse::Pulse;
use crate::dataplane::blocks::{BlockSet, Geometry};
use crate::dataplane::digest::{BlockHash, Digest};
use crate::dataplane::error::{Context, PassError, SetError, Side};
use crate::dataplane::identity::{DiskId, Mode, Point, Roots, UsedCandidates, WhyAll};
use crate::dataplane::io::source::{BlockSource, Window, allocated};
use crate::dataplane::io::table::Table;
use crate::dataplane::io::volume_set::VolumeSet;
use crate::dataplane::rate::Bucket;
use crate::dataplane::sender::{
    Command, Event, SendError, Sender, SenderCandidates, SenderDisk, SenderSpec, Sent,
};
use crate::dataplane::wire::{Frame, MAX_DISKS, MAX_POINT};

/// Where the target's agent listens for data.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The client's configuration, with its certificate, and the name that the target's certificate must have. `None`: plain TCP.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    /// How long to try to connect, to each address that the name has.
    pub connect_timeout: Duration,
    /// How long the peer may do nothing but say that it is at work. It reads whole disks in that time.
    pub idle_timeout: Duration,
    /// How long the peer may say nothing at all, and when this side says that it is there.
    pub pulse: Pulse,
}

impl Endpoint {
    /// A plain TCP endpoint with the usual timeouts: 10 seconds to connect, [`IDLE`].
    pub fn plain(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: IDLE,
            pulse: Pulse::default(),
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        match &self.tls {
            Some((_, name)) => name.to_str().into_owned(),
            None => self.address.clone(),
        }
    }

    /// A TLS endpoint with the usual timeouts.
    pub fn tls(
        address: impl Into<String>,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Self {
        Self {
            tls: Some((config, name)),
            ..Self::plain(address)
        }
    }
}

/// What a pass is to do.
#[derive(Debug, Clone)]
pub struct PassSpec {
    /// The epoch of the order (S1); the target's admission judges it.
    pub epoch: u64,
    /// The step of the order (S2).
    pub step: u64,
    /// The pass: random, the same when it is tried again from the same point in time.
    pub pass: Uuid,
    /// How the target is written.
    pub mode: Mode,
    /// The name of the point in time, at most 64 bytes.
    pub point: String,
    /// What may differ.
    pub candidates: Candidates,
}

/// What may differ from the target. A hint: the digests are the proof.
#[derive(Debug, Clone)]
pub enum Candidates {
    /// Everything.
    All,
    /// A trusted bitmap: only these ranges (in bytes, of each disk) changed since the disks were at `base`. Where the target or the
    /// source's tables are not at that base, everything is compared instead.
    Ranges {
        /// The roots at which the bitmap began.
        base: Roots,
        /// Byte ranges; a disk without an entry has not changed.
        ranges: BTreeMap<DiskId, Vec<Range<u64>>>,
    },
}

/// One disk to send.
pub struct PassDisk {
    /// Its stable name.
    pub id: DiskId,
    /// Where it is read from.
    pub source: Box<dyn BlockSource>,
}

/// What a whole pass has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassOutcome {
    /// The manifest of the point: the same at the source and, verified, at the target.
    pub roots: Roots,
    /// Blocks of 64 KiB that were sent, zeros included.
    pub blocks_changed: u64,
    /// Bytes in them.
    pub bytes_changed: u64,
    /// Bytes that went to the target on the socket, framing and TLS included.
    pub bytes_sent: u64,
    /// Bytes that came from the target on the socket.
    pub bytes_received: u64,
    /// Bytes that an earlier try of the pass had brought already; after a compare of everything an upper bound.
    pub bytes_resumed: u64,
    /// Whether a bitmap was used or everything was a candidate, and why.
    pub used_candidates: UsedCandidates,
    /// How long it took.
    pub duration: Duration,
}

/// Brings the target to the point in time that `disks` show, whole or not at all, and records the point in the source's `set`.
/// Blocks the thread until it is done.
///
/// # Errors
/// [`PassError`]: after each of them the same call with the same pass goes on where the target's durable state is.
pub fn send_pass(
    endpoint: &Endpoint,
    spec: PassSpec,
    disks: Vec<PassDisk>,
    set: &mut VolumeSet,
    control: &PassControl,
) -> Result<PassOutcome, PassError> {
    let begin = Instant::now();
    let sender = Sender::new(sender_spec(&spec, &disks, set)?);
    let reporter = Reporter::new(control, begin);
    if control.is_cancelled() {
        return Err(PassError::Cancelled);
    }
    let stop = || control.is_cancelled();
    let stream = connect(endpoint)?;
    let terms = Terms {
        peer: endpoint.name(),
        idle: endpoint.idle_timeout,
        pulse: endpoint.pulse.clone(),
        stop: &stop,
    };
    let conn = match &endpoint.tls {
        None => Conn::plain(stream, terms),
        Some((config, name)) => Conn::client(stream, Arc::clone(config), name.clone(), terms),
    };
    let line = Line::new(conn.map_err(conn_error)?);
    let windows = disks
        .iter()
        .filter_map(|disk| Geometry::new(disk.source.size()).map(Window::new))
        .collect();
    let mut run = Run {
        line: &line,
        sender,
        reporter,
        control,
        begin,
        bucket: Bucket::new(),
        disks,
        windows,
        tables: Vec::new(),
        set,
        hashes: Vec::new(),
    };
    let finished = match line.beating(|| run.all()) {
        // The target may have said why, right before it closed.
        Err(error @ PassError::Disconnected(_)) => match line.last_words() {
            Some(Frame::Failed(failure)) => return Err(failure.into()),
            Some(Frame::Refuse(refusal)) => return Err(refusal.into()),
            _ => return Err(error),
        },
        other => other?,
    };
    let point = Point {
        roots: finished.roots.clone(),
        point: spec.point,
        pass: spec.pass,
    };
    let shape = shape(&run.disks);
    run.set
        .commit_source(std::mem::take(&mut run.tables), &shape, point)?;
    let (bytes_sent, bytes_received) = line.bytes();
    line.close();
    Ok(PassOutcome {
        roots: finished.roots,
        blocks_changed: finished.blocks,
        bytes_changed: finished.bytes,
        bytes_sent,
        bytes_received,
        bytes_resumed: finished.resumed,
        used_candidates: finished.used,
        duration: begin.elapsed(),
    })
}

fn shape(disks: &[PassDisk]) -> Vec<(DiskId, u64)> {
    disks
        .iter()
        .map(|disk| (disk.id.clone(), disk.source.size()))
        .collect()
}

fn sender_spec(
    spec: &PassSpec,
    disks: &[PassDisk],
    set: &VolumeSet,
) -> Result<SenderSpec, PassError> {
    let wrong = |text: String| PassError::SourceState(SetError::Shape(text));
    if disks.is_empty() || disks.len() > MAX_DISKS || spec.point.len() > MAX_POINT {
        return Err(wrong(format!(
            "a pass takes 1 to {MAX_DISKS} disks and a name of at most {MAX_POINT} bytes"
        )));
    }
    let candidates = match &spec.candidates {
        Candidates::All => SenderCandidates::All(WhyAll::Asked),
        // S14: growth is not marked in a bitmap, so another size voids it.
        Candidates::Ranges { .. } if !same_shape(disks, set) => {
            SenderCandidates::All(WhyAll::Shape)
        }
        // S13: the source's tables must describe the very content at which the bitmap began.
        Candidates::Ranges { base, .. } if set.source_base() != Some(base) => {
            SenderCandidates::All(WhyAll::SourceBase)
        }
        Candidates::Ranges { base, .. } => SenderCandidates::Ranges(base.clone()),
    };
    let mut out = Vec::new();
    for disk in disks {
        let size = disk.source.size();
        let geometry = Geometry::new(size).ok_or_else(|| {
            wrong(format!(
                "disk {}: {size} bytes are no size of a disk",
                disk.id
            ))
        })?;
        let mut blocks = BlockSet::new(geometry.blocks());
        if let (SenderCandidates::Ranges(_), Candidates::Ranges { ranges, .. }) =
            (&candidates, &spec.candidates)
        {
            ranges
                .get(&disk.id)
                .into_iter()
                .flatten()
                .for_each(|range| blocks.insert_range(geometry.blocks_of(range)));
        }
        out.push(SenderDisk {
            id: disk.id.clone(),
            geometry,
            ranges: blocks,
        });
    }
    Ok(SenderSpec {
        vm: set.vm(),
        epoch: spec.epoch,
        step: spec.step,
        pass: spec.pass,
        mode: spec.mode,
        point: spec.point.clone(),
        disks: out,
        candidates,
    })
}

fn same_shape(disks: &[PassDisk], set: &VolumeSet) -> bool {
    let known = set.disks();
    known.len() == disks.len()
        && disks.iter().all(|disk| {
            known
                .iter()
                .any(|one| one.id == disk.id && one.size == disk.source.size())
        })
}

pub(super) fn connect(endpoint: &Endpoint) -> Result<TcpStream, PassError> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} has no address", endpoint.address),
    );
    for address in endpoint
        .address
        .to_socket_addrs()
        .map_err(PassError::Disconnected)?
    {
        match TcpStream::connect_timeout(&address, endpoint.connect_timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(PassError::Disconnected(last))
}

struct Run<'a, 'c> {
    line: &'a Line<'c>,
    sender: Sender,
    reporter: Reporter<'a>,
    control: &'a PassControl,
    begin: Instant,
    bucket: Bucket,
    disks: Vec<PassDisk>,
    windows: Vec<Window>,
    tables: Vec<Table>,
    set: &'a mut VolumeSet,
    hashes: Vec<BlockHash>,
}

impl Run<'_, '_> {
    fn all(&mut self) -> Result<Sent, PassError> {
        let mut queue: VecDeque<_> = self.sender.on(Event::Connected).into();
        loop {
            if self.control.is_cancelled() {
                return Err(PassError::Cancelled);
            }
            let event = match queue.pop_front() {
                Some(Command::Done(sent)) => return Ok(sent),
                Some(Command::Fail(error)) => return Err(send_error(error)),
                Some(command) => self.act(command)?,
                None => self.line.frame(true).map_err(conn_error)?.map(Event::Frame),
            };
            if let Some(event) = event {
                queue.extend(self.sender.on(event));
                self.reporter.note(&self.sender);
            }
        }
    }

    /// Does one thing; what it leads to, if anything.
    fn act(&mut self, command: Command) -> Result<Option<Event>, PassError> {
        match command {
            Command::Send(frame) => {
                self.line.send(&frame, &[]).map_err(conn_error)?;
                Ok(None)
            }
            Command::SendData(data, at) => {
                self.throttle(u64::from(data.len))?;
                let disk = usize::from(data.disk);
                let len = usize::try_from(data.len).unwrap_or(0);
                let payload = self
                    .windows
                    .get(disk)
                    .and_then(|window| window.bytes().get(at..at + len))
                    .ok_or_else(|| lost("bytes to send"))?;
                self.line
                    .send(&Frame::Data(data), payload)
                    .map_err(conn_error)?;
                // What the receiver says meanwhile is heard between frames: confirmations, or that it has failed.
                Ok(self
                    .line
                    .frame(false)
                    .map_err(conn_error)?
                    .map(Event::Frame))
            }
            Command::Measure(from) => {
                let (mut before, mut rest) = (0, 0);
                for (disk, from) in self.disks.iter_mut().zip(from) {
                    let mut held = |stretch| {
                        allocated(disk.source.as_mut(), stretch).map_err(|source| {
                            PassError::SourceRead {
                                disk: disk.id.clone(),
                                source,
                            }
                        })
                    };
                    before += held(0..from)?;
                    rest += held(from..u64::MAX)?;
                }
                Ok(Some(Event::Measured { before, rest }))
            }
            Command::Begin(used) => {
                self.tables = self
                    .set
                    .begin_source(&shape(&self.disks), used == UsedCandidates::Ranges)?;
                Ok(None)
            }
            Command::Hash(disk, blocks) => self.hash(disk, &blocks, false).map(Some),
            Command::Read(disk, blocks) => self.hash(disk, &blocks, true).map(Some),
            Command::Root => {
                let mut roots = Roots::new();
                for (disk, table) in self.disks.iter().zip(&self.tables) {
                    let root = table
                        .root(&disk.id)
                        .context("read", std::path::Path::new("the table"))?
                        .ok_or_else(|| lost("a digest"))?;
                    roots.insert(disk.id.clone(), root);
                }
                Ok(Some(Event::Roots(roots)))
            }
            Command::Done(_) | Command::Fail(_) => Ok(None),
        }
    }

    fn hash(&mut self, at: usize, blocks: &Range<u64>, keep: bool) -> Result<Event, PassError> {
        let (Some(disk), Some(window), Some(table)) = (
            self.disks.get_mut(at),
            self.windows.get_mut(at),
            self.tables.get(at),
        ) else {
            return Err(lost("a disk"));
        };
        self.hashes.clear();
        let source = disk.source.as_mut();
        let read = if keep {
            window.read(source, blocks, &mut self.hashes)
        } else {
            window.hash(source, blocks, &mut self.hashes)
        };
        read.map_err(|source| PassError::SourceRead {
            disk: disk.id.clone(),
            source,
        })?;
        let digests: Vec<Digest> = self.hashes.iter().map(|hash| hash.digest).collect();
        table
            .write(blocks.start, &digests)
            .context("write", std::path::Path::new("the table"))?;
        Ok(Event::Hashed(std::mem::take(&mut self.hashes)))
    }

    /// Waits as long as the cap wants, in short steps, so that a cancel or a higher cap is seen soon.
    fn throttle(&mut self, bytes: u64) -> Result<(), PassError> {
        let wait = self
            .bucket
            .take(self.begin.elapsed(), bytes, self.control.bandwidth_cap());
        let until = Instant::now() + wait;
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            if self.control.is_cancelled() {
                return Err(PassError::Cancelled);
            }
            if self.control.bandwidth_cap() == 0 {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }
}

fn lost(what: &str) -> PassError {
    PassError::Protocol {
        side: Side::Source,
        message: format!("{what} is missing where it was expected"),
    }
}

fn send_error(error: SendError) -> PassError {
    match error {
        SendError::Refused(refusal) => refusal.into(),
        SendError::Target(failure) => failure.into(),
        SendError::Protocol(message) => PassError::Protocol {
            side: Side::Target,
            message,
        },
    }
}

pub(super) fn conn_error(error: ConnError) -> PassError {
    match error {
        ConnError::Stopped => PassError::Cancelled,
        ConnError::Wire(error) => PassError::Protocol {
            side: Side::Target,
            message: error.to_string(),
        },
        ConnError::Tls(error) => PassError::Tls(error.to_string()),
        ConnError::Io(error) => match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(tls) => PassError::Tls(tls.to_string()),
            None => PassError::Disconnected(error),
        },
    }
}
