//! The service: requests and time go in, answers come out. It has no socket, no clock and no randomness of its own.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::item::Phase;
use crate::jobs::{JobState, Scenario};
use crate::records::Record;
use crate::seed::{Seed, Vault};
use crate::settings::Settings;
use crate::state::State;
use crate::throttle::Buckets;
use crate::wire::{Request, Response};
use crate::world::{Machine, Violation};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is answered.
    Answer(Response),
    /// The connection is closed without an answer.
    Dropped,
    /// It was handled, and the connection is closed without an answer so many milliseconds later.
    Silence {
        /// Milliseconds of the emulator's clock.
        millis: u64,
    },
    /// It is to be handled so many milliseconds later.
    Later {
        /// Milliseconds of the emulator's clock.
        millis: u64,
    },
}

/// The emulated service.
#[derive(Debug)]
pub struct Service {
    /// How it behaves; may be changed at any time.
    pub settings: Settings,
    pub(crate) state: State,
    pub(crate) records: VecDeque<Record>,
    pub(crate) record_count: u64,
    pub(crate) buckets: Buckets,
    /// Whether the emulator's time is the world's: assertions are checked for theirs.
    pub(crate) strict_time: bool,
    /// How many of the emulator's seconds a second of a token's life is.
    pub(crate) token_scale: u32,
}

/// A job, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSummary {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub scenario: Scenario,
    /// Its state.
    pub state: JobState,
    /// The name of the VM, plan or server.
    pub target: String,
    /// The code of its first error.
    pub error: Option<String>,
}

impl Service {
    /// A service with that vault, at that time.
    #[must_use]
    pub fn new(seed: &Seed, settings: Settings, now: Timestamp) -> Self {
        Self::with_state(State::new(seed, now), settings)
    }

    fn with_state(state: State, settings: Settings) -> Self {
        let mut service = Self {
            settings,
            state,
            records: VecDeque::new(),
            record_count: 0,
            buckets: Buckets::default(),
            strict_time: false,
            token_scale: 1,
        };
        service.state.index();
        service
    }

    /// The state, to be kept over a restart. Settings and remembered requests are not part of it.
    pub fn save(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.state)
    }

    /// A service that goes on from a saved state.
    pub fn restore(saved: &[u8], settings: Settings) -> serde_json::Result<Self> {
        Ok(Self::with_state(serde_json::from_slice(saved)?, settings))
    }

    /// Where the vault is.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.state.vault
    }

    /// The tenant whose token endpoint is served.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.state.tenant
    }

    /// The time up to which everything has happened.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.state.time
    }

    /// What is true of a VM, by its name or GUID.
    #[must_use]
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.state.find_machine(name)
    }

    /// Every VM.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.state.machines.values()
    }

    /// What should never have been and was.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.state.violations
    }

    /// Where an item is on its way round, by its name or its VM's.
    #[must_use]
    pub fn phase(&self, item: &str) -> Option<Phase> {
        let key = self.state.find_item(item)?;
        self.state.items.get(&key).map(|item| item.phase)
    }

    /// The id of an item, by its name or its VM's.
    #[must_use]
    pub fn item_id(&self, item: &str) -> Option<String> {
        let key = self.state.find_item(item)?;
        Some(format!("{}{}", self.vault_id(), self.item_path(&key)))
    }

    /// The jobs, the oldest first, with those that have not begun.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobSummary> {
        (self.state.jobs.iter())
            .map(|job| JobSummary {
                name: job.name.clone(),
                scenario: job.scenario,
                state: job.state,
                target: job.object.1.clone(),
                error: job.errors.first().map(|(_, _, error)| error.code.clone()),
            })
            .collect()
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next_event(&self) -> Option<Timestamp> {
        let job = self.state.due.first().map(|(at, _)| *at);
        let held = self.state.held.iter().filter_map(|held| held.acts).min();
        match (job, held) {
            (Some(job), Some(held)) => Some(job.min(held)),
            (job, held) => job.or(held),
        }
    }

    /// Gives an item's `replicationHealth` another word, or its own back.
    pub fn set_health(&mut self, item: &str, health: Option<&str>) -> bool {
        let key = self.state.find_item(item);
        match key.and_then(|key| self.state.items.get_mut(&key)) {
            Some(item) => {
                item.health = health.map(str::to_owned);
                true
            }
            None => false,
        }
    }

    /// Takes an action away from every principal, or gives it back; `*` stands for any text.
    pub fn deny(&mut self, action: &str, denied: bool) {
        for principal in &mut self.state.principals {
            principal.not_actions.retain(|taken| taken != action);
            if denied {
                principal.not_actions.push(action.to_owned());
            }
        }
    }

    /// Who may ask for a token, to be changed at will.
    pub fn principals_mut(&mut self) -> &mut Vec<crate::seed::Principal> {
        &mut self.state.principals
    }

    /// Makes every token that was given out invalid from now on.
    pub fn revoke_tokens(&mut self) {
        self.state.tokens.clear();
    }

    pub(crate) fn vault_id(&self) -> String {
        self.state.vault.id()
    }

    pub(crate) fn item_path(&self, key: &str) -> String {
        self.state.items.get(key).map_or_else(String::new, |item| {
            format!(
                "/replicationFabrics/{}/replicationProtectionContainers/{}/replicationProtectedItems/{}",
                item.fabric, item.container, item.name
            )
        })
    }

    pub(crate) fn policy(&self) -> String {
        format!("{}/replicationPolicies/policy-1", self.vault_id())
    }

    /// Handles a request: what it asks for is done and answered.
    pub fn handle(&mut self, request: &Request, now: Timestamp) -> Response {
        self.handle_with(request, now, None, false)
    }

    /// Handles a request whose fault has been dealt with; an admitted one was let in when it came.
    pub(crate) fn handle_with(
        &mut self,
        request: &Request,
        now: Timestamp,
        fault: Option<&str>,
        admitted: bool,
    ) -> Response {
        // Held requests act from within `advance`, at their own time.
        if !admitted {
            self.advance(now);
        }
        let now = if admitted {
            now
        } else {
            now.max(self.state.time)
        };
        if request.path.starts_with("/_emulator") {
            return self.control(request, now);
        }
        let (response, job) = if let Some(response) = self.identity(request, now) {
            (response, None)
        } else {
            match self.arm(request, now, admitted) {
                Ok(answer) => (answer.response, answer.job),
                Err(refusal) => (refusal.response(), None),
            }
        };
        let response = self.dress(request, now, response);
        let status = (!matches!(fault, Some("dropAfter" | "silence")) && !admitted)
            .then_some(response.status);
        let acted = response.status < 400;
        self.remember(request, now, status, fault, job, acted);
        response
    }
}
