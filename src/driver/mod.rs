//! The drivers: what does the work behind a vault.
//!
//! A driver tells the whole truth of a vault (`observe`) and starts one action at a time (`submit`). It decides nothing. Controllers see
//! this trait alone; `cli` picks the concrete one.
//!
//! ```text
//!            observe() ─▶ VaultObservation        one look serves every VM of the vault
//!            submit(vm, submission) ─▶ accepted   idempotent by the submission's mark
//!            capabilities()                       per direction
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{Capabilities, ErrorClass, Submission, VaultObservation};

pub mod agents;
pub mod azure_site_recovery;
pub mod simulated;

/// The code behind a vault.
#[async_trait]
pub trait ReplicationDriver: Send + Sync {
    /// What it can do, by direction.
    fn capabilities(&self) -> &Capabilities;

    /// How soon after one look the next may come, however urgent it is: a service counts requests.
    fn shortest_pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Looks at the whole vault. Facts that could not be looked at are told as unknown inside the observation.
    ///
    /// # Errors
    /// Only when nothing at all could be said, for example because credentials are refused.
    async fn observe(&self) -> Result<VaultObservation, DriverError>;

    /// Whether [`observe_some`](Self::observe_some) costs less than a look at the whole vault.
    fn observes_some(&self) -> bool {
        false
    }

    /// Looks at the VMs of these names. What it shows of them, of the sites and of the hosts is as good as a whole look; other VMs may be
    /// missing in it.
    ///
    /// # Errors
    /// As [`observe`](Self::observe).
    async fn observe_some(
        &self,
        _names: &BTreeSet<String>,
    ) -> Result<VaultObservation, DriverError> {
        self.observe().await
    }

    /// Starts one action with one VM and returns once it was accepted; how it goes on shows in [`observe`](Self::observe). Asking again
    /// with the same mark has no further effect.
    ///
    /// # Errors
    /// [`DriverError::ambiguous`] tells a refusal (nothing was done) from an answer that never came (it may have been).
    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError>;
}

/// Why a driver did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    /// What follows from it.
    pub class: ErrorClass,
    /// In words a person can act on; never a secret.
    pub message: String,
    /// Whether it may have taken effect all the same.
    pub ambiguous: bool,
}

impl DriverError {
    /// A refusal: nothing was done.
    #[must_use]
    pub fn refused(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            ambiguous: false,
        }
    }

    /// No answer came: it may have been done.
    #[must_use]
    pub fn ambiguous(message: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::Transient,
            message: message.into(),
            ambiguous: true,
        }
    }
}
