//! The drivers that this program has: from a vault's spec and Secrets to a concrete one.

mod agents;
mod azure_site_recovery;

use std::sync::Arc;
use std::time::Duration;

use crate::controllers::{DriverFactory, DriverInput};
use crate::domain::ErrorClass;
use crate::driver::{DriverError, ReplicationDriver};

/// Makes the driver that a vault's spec asks for.
pub struct Drivers {
    /// How soon after one look at a service the next may come.
    pub service_pause: Duration,
}

impl DriverFactory for Drivers {
    fn build(&self, input: &DriverInput) -> Result<Arc<dyn ReplicationDriver>, DriverError> {
        match (&input.spec.agents, &input.spec.azure_site_recovery) {
            (Some(vault), None) => agents::build(vault, &input.secrets),
            (None, Some(vault)) => {
                azure_site_recovery::build(vault, &input.secrets, self.service_pause)
            }
            (Some(_), Some(_)) | (None, None) => Err(DriverError::refused(
                ErrorClass::Invalid,
                "spec must have exactly one of agents and azureSiteRecovery; correct it",
            )),
        }
    }
}
