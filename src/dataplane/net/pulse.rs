//! Who is there: when this side has to say so, and when the other side has been silent for too long.
//!
//! A side may work for hours without anything to send: digests of a large disk, a journal that is applied, a sync. Then it beats.
//! A process that stands still, a host or a network that is gone does not, and that is how the one is told from the other. Beats come from a
//! thread that no disk keeps ([`super::line`]), so that slow storage is never taken for a dead peer. They prove life and nothing else: no
//! beat counts as progress, or as a confirmation.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an agent that has nothing else to send waits until it says that it is there.
const EVERY: Duration = Duration::from_secs(5);

/// How long a peer may send nothing at all. Nine beats: more than a loaded host, a switch that comes up again or a lost packet with its
/// repetitions takes, and less than a person needs to begin to wonder. What it costs to be wrong is one pass that goes on where it was.
const SILENCE: Duration = Duration::from_secs(45);

/// How often a side says that it is there, and how long it believes in a peer that does not.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// After so long without another frame a beat is sent.
    pub every: Duration,
    /// A peer from which nothing has come for so long is gone.
    pub silence: Duration,
    /// What both are counted by.
    pub clock: Clock,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            every: EVERY,
            silence: SILENCE,
            clock: Clock::default(),
        }
    }
}

/// Tells the time; in tests another one than the host's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// A clock that says what `now` says. It must never go back.
    pub fn new(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Instant::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Clock")
    }
}

/// The signs of life of one connection, in both directions.
pub(super) struct Vitals {
    pulse: Pulse,
    /// The peer, as people know it.
    peer: String,
    heard: Instant,
    said: Instant,
    /// Whether beats may be sent and come: after the Hello, when both sides know that they speak the same version.
    beating: bool,
}

impl Vitals {
    pub(super) fn new(pulse: Pulse, peer: String) -> Self {
        let now = pulse.clock.now();
        Self {
            pulse,
            peer,
            heard: now,
            said: now,
            beating: false,
        }
    }

    /// The Hello has passed.
    pub(super) fn begin(&mut self) {
        self.beating = true;
    }

    pub(super) fn is_beating(&self) -> bool {
        self.beating
    }

    pub(super) fn now(&self) -> Instant {
        self.pulse.clock.now()
    }

    /// Bytes have come, whatever they are.
    pub(super) fn heard(&mut self) {
        self.heard = self.now();
    }

    /// A frame that was begun at that time has gone out.
    pub(super) fn said(&mut self, at: Instant) {
        self.said = at;
    }

    /// Whether this side has been silent for so long that it has to say that it is there.
    pub(super) fn is_beat_due(&self, now: Instant) -> bool {
        self.beating && now.saturating_duration_since(self.said) >= self.pulse.every
    }

    /// Judges a look at the connection that began at `looked` and has found nothing. All that had come by then was found before, so that a side
    /// that has not looked for long does no wrong to a peer that has been speaking all the while.
    pub(super) fn check(&self, looked: Instant) -> io::Result<()> {
        let silent = looked.saturating_duration_since(self.heard);
        if silent < self.pulse.silence {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "{} has sent nothing for {} s, not even that it is at work: its agent stands still, or the network between is cut",
                self.peer,
                silent.as_secs()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Vitals of 5 s and 45 s, and how to let time go by.
    fn vitals() -> (Vitals, impl Fn(u64)) {
        let (begin, gone) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let passed = Arc::clone(&gone);
        let clock = Clock::new(move || begin + Duration::from_secs(passed.load(Ordering::SeqCst)));
        let pulse = Pulse {
            every: Duration::from_secs(5),
            silence: Duration::from_secs(45),
            clock,
        };
        let step = move |seconds| {
            gone.fetch_add(seconds, Ordering::SeqCst);
        };
        (Vitals::new(pulse, "hv02".to_owned()), step)
    }

    #[test]
    fn a_peer_is_gone_when_nothing_has_come_for_the_whole_bound() {
        let (mut vitals, step) = vitals();
        step(44);
        vitals.check(vitals.now()).unwrap();
        vitals.heard();
        step(44);
        vitals.check(vitals.now()).unwrap();
        step(1);
        let words = vitals.check(vitals.now()).unwrap_err().to_string();
        assert!(
            words.starts_with("hv02 has sent nothing for 45 s"),
            "{words}"
        );
    }

    /// What came while it looked is found by the next look.
    #[test]
    fn a_look_judges_the_time_before_it_alone() {
        let (vitals, step) = vitals();
        let looked = vitals.now();
        step(1000);
        vitals.check(looked).unwrap();
    }

    #[test]
    fn a_beat_is_due_when_nothing_else_was_said_and_never_before_the_hello() {
        let (mut vitals, step) = vitals();
        step(100);
        assert!(!vitals.is_beat_due(vitals.now()));
        vitals.begin();
        assert!(vitals.is_beat_due(vitals.now()));
        vitals.said(vitals.now());
        step(4);
        assert!(!vitals.is_beat_due(vitals.now()));
        step(1);
        assert!(vitals.is_beat_due(vitals.now()));
    }
}
