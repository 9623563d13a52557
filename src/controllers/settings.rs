//! What can be set of the operator.

use std::time::Duration;

use super::lease::LeaseSettings;
use crate::domain::Pace;
use crate::domain::kept::Limits;

/// How often a vault is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paces {
    /// While nothing moves.
    pub steady: Duration,
    /// While something is copied.
    pub busy: Duration,
    /// While a guest is down.
    pub urgent: Duration,
}

impl Paces {
    /// The time between two looks at this pace.
    #[must_use]
    pub const fn of(&self, pace: Pace) -> Duration {
        match pace {
            Pace::Steady => self.steady,
            Pace::Busy => self.busy,
            Pace::Urgent => self.urgent,
        }
    }
}

/// How long is waited for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Of the API server.
    pub api: Duration,
    /// Of a driver, to a look at the vault.
    pub look: Duration,
    /// Of a driver, to an action it is asked for.
    pub submit: Duration,
}

/// Everything that can be set of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespaces that are watched; none means all.
    pub namespaces: Vec<String>,
    /// How many resources of a kind are worked on at once.
    pub workers: u16,
    /// How often vaults are looked at.
    pub paces: Paces,
    /// How long is waited for answers.
    pub timeouts: Timeouts,
    /// How often the Secrets of a vault are read again.
    pub secrets_every: Duration,
    /// How late a request to a service can have an effect.
    pub service: Limits,
    /// The lease that decides which replica acts.
    pub lease: LeaseSettings,
}

impl Settings {
    /// Defaults of everything, for a replica of this name whose lease is in this namespace.
    #[must_use]
    pub fn new(identity: impl Into<String>, lease_namespace: impl Into<String>) -> Self {
        Self {
            namespaces: Vec::new(),
            workers: 16,
            paces: Paces {
                steady: Duration::from_secs(10),
                busy: Duration::from_secs(1),
                urgent: Duration::from_millis(200),
            },
            timeouts: Timeouts {
                api: Duration::from_secs(10),
                look: Duration::from_secs(30),
                submit: Duration::from_secs(30),
            },
            secrets_every: Duration::from_mins(1),
            service: Limits::default(),
            lease: LeaseSettings {
                name: "homeward".into(),
                namespace: lease_namespace.into(),
                identity: identity.into(),
                duration: Duration::from_secs(15),
                renew_every: Duration::from_secs(5),
                retry_every: Duration::from_secs(2),
            },
        }
    }

    /// How long work under way gets to end when the operator stops or has lost the lease: an action being asked for, and what is written of it.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.timeouts.submit + self.timeouts.api * 3
    }

    /// How old a look may be before nothing is known any more.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        self.paces.steady * 3 + self.timeouts.look
    }
}
