//! Watching and steering a pass from outside while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::dataplane::rate::Rate;
use crate::dataplane::sender::Sender;

/// What a pass does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PassPhase {
    /// Connecting, or waiting to be let in.
    #[default]
    Connecting,
    /// Comparing digests.
    Comparing,
    /// Sending what differs.
    Transferring,
    /// All is sent; the target verifies.
    Verifying,
}

/// How far a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it does.
    pub phase: PassPhase,
    /// Bytes of content sent, and what an earlier try of the pass had brought: a pass that goes on does not begin to count anew.
    pub bytes_done: u64,
    /// Bytes of content to send in all, with what an earlier try had brought; 0 until it is known.
    pub bytes_total: u64,
    /// Bytes compared.
    pub bytes_compared: u64,
    /// Bytes to compare in all; 0 when nothing is compared.
    pub bytes_to_compare: u64,
    /// Bytes a second of the phase, smoothed; `None` before there is a rate.
    pub bytes_per_second: Option<u64>,
    /// Seconds until the phase is done at that rate.
    pub eta_seconds: Option<u64>,
}

/// The handle of a pass. Share it, read it and turn its knobs at any time.
#[derive(Debug, Default)]
pub struct PassControl {
    cancelled: AtomicBool,
    cap: AtomicU64,
    progress: Mutex<Progress>,
}

impl PassControl {
    /// No cancel, no cap.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the pass soon, with [`crate::dataplane::error::PassError::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Caps the bytes a second of content; 0 lifts the cap. Takes effect at the next frame.
    pub fn set_bandwidth_cap(&self, bytes_per_second: u64) {
        self.cap.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The cap in bytes a second; 0: none.
    #[must_use]
    pub fn bandwidth_cap(&self) -> u64 {
        self.cap.load(Ordering::Relaxed)
    }

    /// How far the pass is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the progress of one pass.
#[derive(Debug)]
pub(super) struct Reporter<'a> {
    control: &'a PassControl,
    begin: Instant,
    phase: PassPhase,
    rate: Rate,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(control: &'a PassControl, begin: Instant) -> Self {
        *control
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Progress::default();
        Self {
            control,
            begin,
            phase: PassPhase::Connecting,
            rate: Rate::default(),
        }
    }

    pub(super) fn note(&mut self, sender: &Sender) {
        let totals = sender.totals();
        let phase = match (sender.is_finishing(), sender.is_sending()) {
            (true, _) => PassPhase::Verifying,
            (_, true) => PassPhase::Transferring,
            _ if totals.to_compare > 0 => PassPhase::Comparing,
            _ => PassPhase::Connecting,
        };
        if phase != self.phase {
            self.phase = phase;
            self.rate = Rate::default();
        }
        let (done, total) = match phase {
            PassPhase::Connecting | PassPhase::Comparing => (totals.compared, totals.to_compare),
            PassPhase::Transferring | PassPhase::Verifying => (
                totals.arrived + totals.sent,
                totals.arrived + totals.to_send,
            ),
        };
        self.rate.note(self.begin.elapsed(), done);
        *self
            .control
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Progress {
            phase,
            bytes_done: totals.arrived + totals.sent,
            bytes_total: totals.arrived + totals.to_send,
            bytes_compared: totals.compared,
            bytes_to_compare: totals.to_compare,
            bytes_per_second: self.rate.per_second(),
            eta_seconds: self.rate.eta_seconds(total.saturating_sub(done)),
        };
    }
}
