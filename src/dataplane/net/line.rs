//! A connection that beats, whatever the thread that uses it does meanwhile.

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::conn::{Conn, ConnError, TICK};
use crate::dataplane::wire::Frame;

/// A connection and the lock under which frames go out whole. Whoever holds it for long waits for the peer in it, and beats itself;
/// at all other times the beating thread gets it at once.
pub(super) struct Line<'a>(Mutex<Conn<'a>>);

impl<'a> Line<'a> {
    pub(super) fn new(conn: Conn<'a>) -> Self {
        Self(Mutex::new(conn))
    }

    fn conn(&self) -> MutexGuard<'_, Conn<'a>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work of a pass, and beats until it ends.
    pub(super) fn beating<T>(&self, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            let (working, ended) = channel::<()>();
            scope.spawn(move || {
                while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    self.beat();
                }
            });
            let done = work();
            // As it does when the work panics.
            drop(working);
            done
        })
    }

    fn beat(&self) {
        let mut conn = match self.0.try_lock() {
            Ok(conn) => conn,
            Err(TryLockError::Poisoned(conn)) => conn.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // A connection that is gone is found gone by whoever needs it, with what the peer said last.
        let _ = conn.beat();
    }

    /// [`Conn::send`].
    pub(super) fn send(&self, frame: &Frame, payload: &[u8]) -> Result<(), ConnError> {
        self.conn().send(frame, payload)
    }

    /// [`Conn::frame`].
    pub(super) fn frame(&self, wait: bool) -> Result<Option<Frame>, ConnError> {
        self.conn().frame(wait)
    }

    /// [`Conn::payload`].
    pub(super) fn payload(&self, out: &mut [u8]) -> Result<(), ConnError> {
        self.conn().payload(out)
    }

    /// [`Conn::last_words`].
    pub(super) fn last_words(&self) -> Option<Frame> {
        self.conn().last_words()
    }

    /// [`Conn::let_in`].
    pub(super) fn let_in(&self, idle: Duration) {
        self.conn().let_in(idle);
    }

    /// [`Conn::peer_certificates`].
    pub(super) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.conn().peer_certificates()
    }

    /// [`Conn::bytes`].
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.conn().bytes()
    }

    /// [`Conn::socket`].
    pub(super) fn socket(&self) -> io::Result<TcpStream> {
        self.conn().socket()
    }

    /// [`Conn::close`].
    pub(super) fn close(self) {
        self.0
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .close();
    }
}
