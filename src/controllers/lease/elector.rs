//! What to ask of the lease next, and until when this process may act. Pure: records, answers and instants come in as values.
//!
//! ```text
//!              read: held by another, not expired ──▶ wait retry, read again
//!             ┌──────────────────────────────────────────────┐
//!   Candidate ┤ read: none, released, or unchanged for its   │
//!             │ whole duration ──▶ write ──▶ written ──▶ Leader ──▶ renew every, by compare-and-swap
//!             └──────────────────────────────────────────────┘        │ claim over, or another holder seen
//!                       ▲                                             ▼
//!                       └─────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

/// Who takes part, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of this process; no other process ever has the same.
    pub identity: String,
    /// How long others must see the lease unchanged before they take it.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew_every: Duration,
    /// How soon it is tried again.
    pub retry_every: Duration,
    /// How long before the end of the lease this process stops acting.
    pub margin: Duration,
}

/// Terms that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTerms(String);

impl Terms {
    /// Whether a leader can renew at least once more after a failed attempt, before it has to stop acting.
    pub fn check(&self) -> Result<(), BadTerms> {
        if self.identity.is_empty() {
            return Err(BadTerms("the lease identity is empty".into()));
        }
        if self.duration.as_secs() < 1 || self.duration.subsec_nanos() != 0 {
            return Err(BadTerms(
                "the lease duration must be whole seconds, at least one".into(),
            ));
        }
        if self.retry_every.is_zero() || self.renew_every.is_zero() {
            return Err(BadTerms(
                "the lease is renewed and retried after a time longer than zero".into(),
            ));
        }
        if self.renew_every + self.retry_every + self.margin >= self.duration {
            return Err(BadTerms(format!(
                "renewing every {:?}, retrying after {:?} and stopping {:?} early does not fit into a lease of {:?}",
                self.renew_every, self.retry_every, self.margin, self.duration
            )));
        }
        Ok(())
    }
}

/// The lease as the API server told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its `resourceVersion`.
    pub version: String,
    /// Who holds it; none when it was released.
    pub holder: Option<String>,
    /// How long others must see it unchanged.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read it.
    Read,
    /// Make it, held by this process.
    Create,
    /// Replace the one of this version by one held by this process.
    Replace {
        /// The version that is replaced; any other is a conflict.
        version: String,
        /// How often it will have changed hands.
        transitions: i32,
    },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask.
    Ask(Ask),
    /// Wait until then.
    Wait(Instant),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was read; none when it does not exist.
    Read(Option<Record>),
    /// It was written.
    Written(Record),
    /// Somebody else wrote it first.
    Conflict,
    /// No answer, or another error: it may have been written.
    Failed,
}

/// The state of one participant.
#[derive(Clone, Debug)]
pub struct Elector {
    terms: Terms,
    /// The record last seen, and since when it stands like this.
    seen: Option<(Option<Record>, Instant)>,
    /// The record must be read before it can be written.
    must_read: bool,
    not_before: Instant,
    held_until: Option<Instant>,
}

impl Elector {
    /// A candidate that has seen nothing yet.
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self {
            terms,
            seen: None,
            must_read: true,
            not_before: now,
            held_until: None,
        }
    }

    /// Until when this process may act; none when it may not.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| now < *until)
    }

    /// What to do now.
    pub fn next(&self, now: Instant) -> Next {
        if now < self.not_before {
            let wake = self
                .held_until(now)
                .map_or(self.not_before, |until| self.not_before.min(until));
            return Next::Wait(wake);
        }
        match &self.seen {
            Some((record, _)) if !self.must_read => match record {
                None => Next::Ask(Ask::Create),
                Some(record) => {
                    let mine = record.holder.as_deref() == Some(self.terms.identity.as_str());
                    Next::Ask(Ask::Replace {
                        version: record.version.clone(),
                        transitions: record.transitions + i32::from(!mine),
                    })
                }
            },
            Some(_) | None => Next::Ask(Ask::Read),
        }
    }

    /// Takes in what came of a request that was begun at `began`.
    pub fn answered(&mut self, answer: Answer, began: Instant, now: Instant) {
        match answer {
            Answer::Written(record) => {
                self.held_until =
                    Some(began + self.terms.duration.saturating_sub(self.terms.margin));
                self.not_before = began + self.terms.renew_every;
                self.must_read = false;
                self.seen = Some((Some(record), now));
            }
            Answer::Conflict => {
                self.must_read = true;
                self.not_before = now;
            }
            Answer::Failed => {
                // The write may have been taken: what stands there has to be read before the next one.
                self.must_read = true;
                self.not_before = now + self.terms.retry_every;
            }
            Answer::Read(record) => self.read(record.as_ref(), now),
        }
    }

    fn read(&mut self, record: Option<&Record>, now: Instant) {
        let same = matches!(&self.seen, Some((before, _)) if before.as_ref() == record);
        if !same {
            self.seen = Some((record.cloned(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let may_write = match record {
            None => true,
            Some(record) => match record.holder.as_deref() {
                None | Some("") => true,
                Some(holder) if holder == self.terms.identity => true,
                Some(_) => {
                    // Somebody else holds it: whatever was believed here is over.
                    self.held_until = None;
                    now >= since + record.duration
                }
            },
        };
        self.must_read = !may_write;
        self.not_before = if may_write {
            now
        } else {
            now + self.terms.retry_every
        };
    }

    /// What to write to let go of the lease, when this process holds it.
    pub fn release(&mut self) -> Option<Record> {
        self.held_until = None;
        self.must_read = true;
        let (record, _) = self.seen.as_ref()?;
        record
            .as_ref()
            .filter(|record| record.holder.as_deref() == Some(self.terms.identity.as_str()))
            .cloned()
    }
}

#[cfg(test)]
mod tests;
