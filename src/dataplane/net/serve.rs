//! Runs the receiving side of a pass on a connection that was accepted.

use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use uuid::Uuid;

use super::IDLE;
use super::conn::{Conn, ConnError, Terms};
use super::line::Line;
use super::pulse::Pulse;
use super::stages::{Lines, Note, journal, prove, write};
use crate::dataplane::identity::Roots;
use crate::dataplane::io::apply::{Batch, JournalStage, ProveStage, StageError, WriteStage};
use crate::dataplane::io::gate::Session;
use crate::dataplane::io::new_files::Room;
use crate::dataplane::io::target::{Target, refusal};
use crate::dataplane::io::volume_set::VolumeSet;
use crate::dataplane::receiver::{Command, Event, Receiver};
use crate::dataplane::wire::{Failure, FailureKind, Frame, Hello, Refusal, RefusalKind, WireError};

/// Batches of 2 MiB that are under way at once: one that is received, one journaled, one written, one in between.
const BATCHES: usize = 4;

/// Decides who may write. Given by the agent, which keeps the registers.
pub trait Admission: Send + Sync {
    /// Says yes, with the VM's disks and a session that was opened under the same lock under which the order was judged, or no.
    ///
    /// # Errors
    /// A refusal, which goes to the sender as it is.
    fn admit(&self, hello: &Hello, peer: &Peer) -> Result<Admitted, Refusal>;

    /// The epoch of the register of a VM, if there is one, for a peer that asks before it starts a guest (S4).
    ///
    /// # Errors
    /// A refusal, which goes to whoever asks as it is.
    fn epoch(&self, vm: Uuid, peer: &Peer) -> Result<Option<u64>, Refusal>;
}

/// Who has connected.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The certificates it has shown, its own first; verified against the server's configuration. Empty without TLS.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Leave to write.
#[derive(Debug)]
pub struct Admitted {
    /// The VM's disks here. Held for the whole session.
    pub set: Arc<Mutex<VolumeSet>>,
    /// The session, from the VM's gate.
    pub session: Session,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The server's configuration, which demands client certificates. `None`: plain TCP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How long all of it may take until the sender is let in: the TLS handshake and the first frame.
    pub greeting: Duration,
    /// How long the sender may do nothing but say that it is at work. It reads whole disks in that time.
    pub idle_timeout: Duration,
    /// How long the sender may say nothing at all, and when this side says that it is there.
    pub pulse: Pulse,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            tls: None,
            greeting: Duration::from_secs(10),
            idle_timeout: IDLE,
            pulse: Pulse::default(),
        }
    }
}

/// How a session that was admitted, or was not, has ended.
#[derive(Debug)]
pub enum Served {
    /// The disks hold this point, verified.
    Whole(Roots),
    /// A question was answered.
    Told,
    /// The sender was turned away; nothing was written.
    Refused(Refusal),
    /// The pass failed here; what was written stays under the journal.
    Failed(Failure),
    /// The connection broke, or the sender was cancelled; what has arrived is kept for the next session.
    Disconnected(String),
}

/// Serves one connection until it ends. Blocks the thread.
pub fn serve_connection(
    stream: TcpStream,
    admission: &dyn Admission,
    options: &ServeOptions,
) -> Served {
    // Whoever has not yet been admitted gets less patience.
    let patience = options.idle_timeout.min(options.greeting);
    let terms = Terms {
        peer: "the sender".to_owned(),
        idle: patience,
        pulse: options.pulse.clone(),
        stop: &|| false,
    };
    let conn = match &options.tls {
        None => Conn::plain_server(stream, patience, terms),
        Some(config) => Conn::server(stream, Arc::clone(config), patience, terms),
    };
    let line = match conn {
        Ok(conn) => Line::new(conn),
        Err(error) => return Served::Disconnected(describe(&error)),
    };
    let mut serving = Serving {
        line: &line,
        machine: Receiver::new(),
        end: None,
    };
    let ended = line.beating(|| serving.greet(admission, options.idle_timeout));
    let served = match (ended, serving.end.take()) {
        (_, Some(end)) => end,
        (Err(error), None) => Served::Disconnected(describe(&error)),
        (Ok(()), None) => Served::Disconnected("the sender has left".to_owned()),
    };
    line.close();
    served
}

struct Serving<'a, 'c> {
    line: &'a Line<'c>,
    machine: Receiver,
    end: Option<Served>,
}

impl Serving<'_, '_> {
    /// The first frame, and the admission.
    fn greet(&mut self, admission: &dyn Admission, idle: Duration) -> Result<(), ConnError> {
        let frame = self.next()?;
        let commands = self.machine.on(Event::Frame(frame));
        for command in self.simple(commands)? {
            let peer = Peer {
                certificates: self.line.peer_certificates(),
            };
            let hello = match command {
                Command::Admit(hello) => hello,
                Command::Tell(vm) => {
                    let answer = match admission.epoch(vm, &peer) {
                        Ok(epoch) => Event::Told(epoch),
                        Err(refusal) => Event::Refused(refusal),
                    };
                    self.event(answer)?;
                    continue;
                }
                _ => continue,
            };
            match admission.admit(&hello, &peer) {
                Err(refusal) => self.event(Event::Refused(refusal))?,
                Ok(admitted) => {
                    self.line.let_in(idle);
                    return self.session(&hello, &admitted);
                }
            };
        }
        Ok(())
    }

    /// Everything after the admission.
    fn session(&mut self, hello: &Hello, admitted: &Admitted) -> Result<(), ConnError> {
        let socket = self.line.socket()?;
        admitted.session.on_barred(move || {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        });
        // An older session of the VM was barred when this one was opened, and is on its way out.
        let mut set = admitted.set.lock().unwrap_or_else(PoisonError::into_inner);
        // S9: whoever waited for the set while it was sealed changes nothing of it any more.
        let begun = match admitted.session.enter() {
            Err(barred) => {
                let refusal = Refusal::new(RefusalKind::Fenced, barred.to_string());
                return self.event(Event::Refused(refusal)).map(drop);
            }
            Ok(_entered) => set.begin_target(hello),
        };
        let done = match begun {
            Err(error) => self.event(Event::Refused(refusal(&error))).map(drop),
            Ok((mut target, mut welcome)) => {
                welcome.session = admitted.session.number();
                let begun = self.event(Event::Admitted(welcome)).map(drop);
                begun.and_then(|()| self.pass(hello, &mut set, &mut target, &admitted.session))
            }
        };
        admitted.session.forget();
        // What is in memory follows what is durable.
        if let Err(error) = set.settle() {
            tracing::warn!(vm = %hello.vm, %error, "the state of the disks could not be read after a session");
        }
        done
    }

    /// From the welcome to the plan, which leads on to receiving.
    fn pass(
        &mut self,
        hello: &Hello,
        set: &mut VolumeSet,
        target: &mut Target,
        session: &Session,
    ) -> Result<(), ConnError> {
        while !self.machine.is_over() {
            let frame = self.next()?;
            let commands = self.machine.on(Event::Frame(frame));
            for command in self.simple(commands)? {
                match command {
                    Command::Digest(disk, spans) => self.digest(target, disk, &spans)?,
                    Command::Reserve { blocks, bytes } => {
                        let room = match session.enter() {
                            Err(barred) => {
                                Err(Refusal::new(RefusalKind::Fenced, barred.to_string()))
                            }
                            Ok(_entered) => set.make_room(hello, target, blocks, bytes),
                        };
                        match room {
                            Err(refusal) => self.event(Event::Refused(refusal)).map(drop)?,
                            Ok(Room::NewFiles(mut welcome)) => {
                                welcome.session = session.number();
                                self.event(Event::Admitted(welcome))?;
                            }
                            Ok(Room::Reserved) => {
                                self.event(Event::Reserved)?;
                                return self.receive_and_finish(set, target, session);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn digest(
        &mut self,
        target: &Target,
        disk: usize,
        spans: &[std::ops::Range<u64>],
    ) -> Result<(), ConnError> {
        let mut broken = None;
        let read = target.digests(disk, spans, |first, digests| {
            self.event(Event::Digested {
                disk,
                first,
                digests,
            })
            .map(drop)
            .map_err(|error| {
                broken = Some(error);
                std::io::ErrorKind::BrokenPipe.into()
            })
        });
        match (broken, read) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => self.event(Event::DigestsDone).map(drop),
            (None, Err(error)) => self
                .event(Event::Failed(
                    StageError::io("reading the target's disk", &error).failure,
                ))
                .map(drop),
        }
    }

    fn receive_and_finish(
        &mut self,
        set: &mut VolumeSet,
        target: &mut Target,
        session: &Session,
    ) -> Result<(), ConnError> {
        match self.receive(target, session) {
            Ok(Some((roots, point))) => match set.finish(target, &roots, point, session) {
                Ok(roots) => self.event(Event::Whole(roots)).map(drop),
                Err(error) => {
                    set.note_failure(target, &error);
                    self.event(Event::Failed(error.failure)).map(drop)
                }
            },
            Ok(None) => Ok(()),
            Err(Stopped::Stage(error)) => {
                set.note_failure(target, &error);
                self.event(Event::Failed(error.failure)).map(drop)
            }
            Err(Stopped::Conn(error)) => Err(error),
        }
    }

    /// Takes data until the sender says that all is sent. Three threads journal, write and prove meanwhile.
    fn receive(
        &mut self,
        target: &mut Target,
        session: &Session,
    ) -> Result<Option<(Roots, String)>, Stopped> {
        let writer = WriteStage::new(&target.disks, session.clone());
        let prover = ProveStage::new(&target.disks);
        let (work, journal_work) = mpsc::sync_channel(1);
        let (covered, write_work) = mpsc::sync_channel(1);
        let (free, pool) = mpsc::channel();
        let (notes, heard) = mpsc::channel();
        for _ in 0..BATCHES {
            let _ = free.send(Batch::new());
        }
        thread::scope(|scope| {
            let (of_journal, of_writer) = (notes.clone(), notes.clone());
            let (written, prove_work) = mpsc::sync_channel(1);
            scope.spawn(move || {
                journal(
                    JournalStage { target },
                    &journal_work,
                    &covered,
                    &of_journal,
                );
            });
            scope.spawn(move || write(&writer, &write_work, &free, &written, &of_writer));
            scope.spawn(move || prove(prover, &prove_work, &notes));
            let mut lines = Lines::new(work, pool, heard);
            let taken = self.take(&mut lines);
            // Whatever has arrived whole is written and made durable, also when the connection is gone.
            lines.submit();
            lines.work = None;
            lines.pool.iter().for_each(drop);
            let mut told = Ok(());
            while let Ok(note) = lines.heard.recv() {
                match note {
                    // A sender that is gone is not told; what the other stages say counts all the same.
                    Note::Durable(blocks) => {
                        if taken.is_ok() && told.is_ok() {
                            told = self.event(Event::Durable(blocks)).map(drop);
                        }
                    }
                    Note::Failed(error) => lines.fail(error),
                }
            }
            match (lines.failed, taken.and_then(|finish| told.map(|()| finish))) {
                (Some(error), _) => Err(Stopped::Stage(error)),
                (None, Ok(finish)) => Ok(finish),
                (None, Err(error)) => Err(Stopped::Conn(error)),
            }
        })
    }

    /// The receiving loop itself; `None` when the machine has ended the session.
    fn take(&mut self, lines: &mut Lines) -> Result<Option<(Roots, String)>, ConnError> {
        while !self.machine.is_over() {
            while let Ok(note) = lines.heard.try_recv() {
                match note {
                    Note::Durable(blocks) => self.event(Event::Durable(blocks)).map(drop)?,
                    Note::Failed(error) => {
                        lines.fail(error);
                        return Ok(None);
                    }
                }
            }
            let Some(frame) = self.frame(true)? else {
                // The sender pauses: what is here becomes durable now.
                lines.checkpoint();
                continue;
            };
            let commands = self.machine.on(Event::Frame(frame));
            for command in self.simple(commands)? {
                match command {
                    Command::Write {
                        disk,
                        blocks,
                        digests,
                    } => {
                        let len = self.machine.run_len(disk, &blocks);
                        let Some(batch) = lines.room() else {
                            return Ok(None);
                        };
                        let Some(place) = batch.place(len) else {
                            return Ok(None);
                        };
                        self.line.payload(place)?;
                        batch.data(disk, blocks, digests, len);
                    }
                    Command::Zero { disk, blocks } => {
                        let Some(batch) = lines.room() else {
                            return Ok(None);
                        };
                        batch.zeros(disk, blocks);
                    }
                    Command::Finish { roots, point } => return Ok(Some((roots, point))),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// The next frame; what is none ends the session with words.
    fn frame(&mut self, wait: bool) -> Result<Option<Frame>, ConnError> {
        match self.line.frame(wait) {
            Err(ConnError::Wire(error @ WireError::Version(_))) => {
                let refusal = Refusal::new(RefusalKind::Version, error.to_string());
                self.end = Some(Served::Refused(refusal.clone()));
                self.line.send(&Frame::Refuse(refusal), &[])?;
                Err(ConnError::Wire(error))
            }
            Err(ConnError::Wire(error)) => {
                self.event(Event::Failed(Failure::new(
                    FailureKind::Protocol,
                    error.to_string(),
                )))?;
                Err(ConnError::Wire(error))
            }
            other => other,
        }
    }

    fn next(&mut self) -> Result<Frame, ConnError> {
        loop {
            if let Some(frame) = self.frame(true)? {
                return Ok(frame);
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<Vec<Command>, ConnError> {
        let commands = self.machine.on(event);
        self.simple(commands)
    }

    /// Sends what is to be sent; gives back the rest.
    fn simple(&mut self, commands: Vec<Command>) -> Result<Vec<Command>, ConnError> {
        let mut rest = Vec::new();
        for command in commands {
            let Command::Send(frame) = command else {
                rest.push(command);
                continue;
            };
            match &frame {
                Frame::Whole { roots } => self.end = Some(Served::Whole(roots.clone())),
                Frame::Refuse(refusal) => self.end = Some(Served::Refused(refusal.clone())),
                Frame::Failed(failure) => self.end = Some(Served::Failed(failure.clone())),
                Frame::Told { .. } => self.end = Some(Served::Told),
                _ => {}
            }
            self.line.send(&frame, &[])?;
        }
        Ok(rest)
    }
}

enum Stopped {
    Stage(StageError),
    Conn(ConnError),
}

fn describe(error: &ConnError) -> String {
    match error {
        ConnError::Io(error) => error.to_string(),
        ConnError::Tls(error) => error.to_string(),
        ConnError::Wire(error) => error.to_string(),
        ConnError::Stopped => "stopped".to_owned(),
    }
}
