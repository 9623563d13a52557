//! Faults that tests ask for, and the requests they hold back.

use jiff::Timestamp;
use regex::RegexBuilder;
use serde::{Deserialize, Serialize};

use crate::jobs::run::later;
use crate::jobs::{JobError, Scenario};
use crate::service::{Outcome, Service};
use crate::wire::{Request, Response};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Fault {
    /// Refused as one too many.
    #[serde(rename_all = "camelCase")]
    Throttle {
        /// `Retry-After` in seconds.
        retry_after: Option<u32>,
    },
    /// Refused with that status.
    Status {
        /// The status.
        status: u16,
    },
    /// Acted upon, and answered with that status all the same.
    StatusAfter {
        /// The status.
        status: u16,
    },
    /// Acted upon later, while the client waits.
    Delay {
        /// How long, in milliseconds of the emulator's clock.
        millis: u64,
    },
    /// The connection is closed and nothing is done.
    DropBefore,
    /// All is done and the connection is closed without an answer.
    DropAfter,
    /// All is done, and the client waits in vain until the connection is closed.
    Silence {
        /// How long, in milliseconds of the emulator's clock.
        millis: u64,
    },
    /// The connection is closed at once, and the request acts later.
    Hold {
        /// How much later, in milliseconds; with none, when it is released.
        millis: Option<u64>,
    },
}

impl Fault {
    fn word(&self) -> &'static str {
        match self {
            Self::Throttle { .. } => "throttle",
            Self::Status { .. } => "status",
            Self::StatusAfter { .. } => "statusAfter",
            Self::Delay { .. } => "delay",
            Self::DropBefore => "dropBefore",
            Self::DropAfter => "dropAfter",
            Self::Silence { .. } => "silence",
            Self::Hold { .. } => "hold",
        }
    }
}

/// Which requests a fault befalls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The method; any when there is none.
    #[serde(default)]
    pub method: Option<String>,
    /// A regular expression that is found anywhere in the path and query; letter case does not matter.
    pub path: String,
    /// The first of the requests it befalls: 1 is the next one.
    #[serde(default = "one")]
    pub nth: u32,
    /// How many it befalls from there on; none for all.
    #[serde(default = "just_one")]
    pub times: Option<u32>,
    /// What happens.
    pub fault: Fault,
    /// Matching requests so far.
    #[serde(default)]
    pub seen: u32,
}

fn one() -> u32 {
    1
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the default of an optional number"
)]
fn just_one() -> Option<u32> {
    Some(1)
}

impl Rule {
    /// The next request that matches.
    #[must_use]
    pub fn next(method: &str, path: &str, fault: Fault) -> Self {
        Self {
            method: Some(method.into()),
            path: path.into(),
            nth: 1,
            times: Some(1),
            fault,
            seen: 0,
        }
    }

    /// Every request that matches.
    #[must_use]
    pub fn always(method: &str, path: &str, fault: Fault) -> Self {
        Self {
            times: None,
            ..Self::next(method, path, fault)
        }
    }

    fn fits(&self, request: &Request) -> bool {
        let method = (self.method.as_ref())
            .is_none_or(|method| method.eq_ignore_ascii_case(&request.method));
        let target = format!("{}?{}", request.path, request.query);
        method
            && RegexBuilder::new(&self.path)
                .case_insensitive(true)
                .build()
                .is_ok_and(|pattern| pattern.is_match(&target))
    }

    fn over(&self) -> bool {
        self.times
            .is_some_and(|times| self.seen >= (self.nth.max(1) - 1).saturating_add(times))
    }
}

/// The next job of a scenario fails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobFailure {
    /// The scenario.
    pub scenario: Scenario,
    /// The item, or the VM, by name; any when there is none.
    #[serde(default)]
    pub item: Option<String>,
    /// The name of the task; the first one when empty.
    #[serde(default)]
    pub task: String,
    /// The error.
    pub error: JobError,
}

/// The next operation of a scenario carries a warning, and ends well all the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationWarning {
    /// The scenario.
    pub scenario: Scenario,
    /// The warning's code.
    pub code: String,
    /// Its text.
    pub message: String,
}

/// A request that acts later.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its number, by which it is released.
    pub number: u64,
    /// When it came.
    pub came: Timestamp,
    /// When it acts; none until it is released.
    pub acts: Option<Timestamp>,
    /// The request.
    pub request: Request,
}

impl Service {
    /// Takes a request with the faults that are to befall it.
    pub fn submit(&mut self, request: &Request, now: Timestamp) -> Outcome {
        self.advance(now);
        let now = now.max(self.state.time);
        let mut fault = None;
        if !request.path.starts_with("/_emulator") {
            for rule in &mut self.state.rules {
                if !rule.fits(request) {
                    continue;
                }
                rule.seen += 1;
                if fault.is_none() && rule.seen >= rule.nth.max(1) {
                    fault = Some(rule.fault.clone());
                    break;
                }
            }
            self.state.rules.retain(|rule| !rule.over());
        }
        let Some(fault) = fault else {
            return Outcome::Answer(self.handle(request, now));
        };
        let word = fault.word();
        match fault {
            Fault::Throttle { retry_after } => {
                let mut response = crate::arm::errors::throttled("Fault").response();
                if let Some(seconds) = retry_after {
                    response = response.with("retry-after", &seconds.to_string());
                }
                Outcome::Answer(self.refused(request, now, response, word))
            }
            Fault::Status { status } => {
                let response = crate::arm::errors::failing(status).response();
                Outcome::Answer(self.refused(request, now, response, word))
            }
            Fault::StatusAfter { status } => {
                let _ = self.handle_with(request, now, Some(word), false);
                if let Some(record) = self.records.back_mut() {
                    record.status = Some(status);
                }
                let response = crate::arm::errors::failing(status).response();
                Outcome::Answer(self.dress(request, now, response))
            }
            Fault::Delay { millis } => Outcome::Later { millis },
            Fault::DropBefore => {
                self.remember(request, now, None, Some(word), None, false);
                Outcome::Dropped
            }
            Fault::DropAfter => {
                let _ = self.handle_with(request, now, Some(word), false);
                Outcome::Dropped
            }
            Fault::Silence { millis } => {
                let _ = self.handle_with(request, now, Some(word), false);
                Outcome::Silence { millis }
            }
            Fault::Hold { millis } => {
                if let Err(refusal) = self.admit(request, now) {
                    return Outcome::Answer(self.refused(request, now, refusal.response(), word));
                }
                self.state.held_count += 1;
                self.state.held.push(Held {
                    number: self.state.held_count,
                    came: now,
                    acts: millis.map(|millis| later(now, millis)),
                    request: request.clone(),
                });
                self.remember(request, now, None, Some(word), None, false);
                Outcome::Dropped
            }
        }
    }

    fn refused(
        &mut self,
        request: &Request,
        now: Timestamp,
        response: Response,
        word: &str,
    ) -> Response {
        let response = self.dress(request, now, response);
        self.remember(request, now, Some(response.status), Some(word), None, false);
        response
    }

    pub(crate) fn next_held(&self, now: Timestamp) -> Option<(Timestamp, u64)> {
        (self.state.held.iter())
            .filter_map(|held| Some((held.acts?, held.number)))
            .filter(|(at, _)| *at <= now)
            .min()
    }

    pub(crate) fn act_held(&mut self, number: u64, at: Timestamp) {
        let found = self
            .state
            .held
            .iter()
            .position(|held| held.number == number);
        if let Some(found) = found {
            let held = self.state.held.remove(found);
            let _ = self.handle_with(&held.request, at, Some("held"), true);
        }
    }

    /// Requests that are held back.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.state.held
    }

    /// Lets a held request act now, or all of them; says how many did.
    pub fn release(&mut self, number: Option<u64>, now: Timestamp) -> usize {
        let numbers: Vec<u64> = (self.state.held.iter())
            .map(|held| held.number)
            .filter(|held| number.is_none_or(|number| number == *held))
            .collect();
        self.advance(now);
        for number in &numbers {
            self.act_held(*number, now.max(self.state.time));
        }
        numbers.len()
    }

    /// Adds a rule; an expression that cannot be read is an error.
    pub fn add_rule(&mut self, rule: Rule) -> Result<(), String> {
        regex::Regex::new(&rule.path).map_err(|error| error.to_string())?;
        self.state.rules.push(rule);
        Ok(())
    }

    /// How many rules there are that still wait for a request.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.state.rules.len()
    }

    /// Takes all rules, failures and warnings away.
    pub fn clear_faults(&mut self) {
        self.state.rules.clear();
        self.state.failures.clear();
        self.state.warnings.clear();
    }

    /// The next job of a scenario fails.
    pub fn fail_job(&mut self, failure: JobFailure) {
        self.state.failures.push(failure);
    }

    /// The next operation of a scenario carries a warning.
    pub fn warn(&mut self, warning: OperationWarning) {
        self.state.warnings.push(warning);
    }

    /// Nobody is told of a job any more, by its name or its operation's; what it does goes on.
    pub fn purge_job(&mut self, job: &str) -> bool {
        let place = self.state.job_place(job);
        if let Some(place) = place {
            self.state.jobs[place].purged = true;
        }
        place.is_some()
    }

    /// A provider, by its name or its host's, goes silent with its last heartbeat at that time, or comes back with none.
    pub fn silence(&mut self, provider: &str, since: Option<Timestamp>) -> bool {
        self.set_silence(provider, since, false)
    }

    /// As [`Service::silence`], and the service goes on calling it connected: only the heartbeat tells.
    pub fn silence_unnoticed(&mut self, provider: &str, since: Option<Timestamp>) -> bool {
        self.set_silence(provider, since, true)
    }

    fn set_silence(&mut self, provider: &str, since: Option<Timestamp>, unnoticed: bool) -> bool {
        let mut found = false;
        for fabric in self.state.fabrics.values_mut() {
            for entry in &mut fabric.providers {
                if entry.name.eq_ignore_ascii_case(provider)
                    || entry.host.eq_ignore_ascii_case(provider)
                {
                    entry.silent_since = since;
                    entry.silence_unnoticed = unnoticed;
                    found = true;
                }
            }
        }
        found
    }
}
