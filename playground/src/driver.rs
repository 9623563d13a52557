//! What moves the VMs of a world.

use clap::ValueEnum;

/// The kinds of vault that a world can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Homeward's own agents.
    #[value(name = "agents")]
    Agents,
    /// Azure Site Recovery, or rather its emulator: no Azure is needed, and none is touched.
    #[value(name = "azureSiteRecovery")]
    AzureSiteRecovery,
}
