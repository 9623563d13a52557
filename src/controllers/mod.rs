//! The operator: one folder a kind, each in five steps.
//!
//! ```text
//!   feeds ── one watch a kind ──▶ stores + groups
//!     │                             │
//!     ▼ wake                        ▼
//!   fetch ─▶ observe ─▶ decide ─▶ act ─▶ publish        virtual_machines
//!              ▲                   │
//!              │   hub ◀───────────┘ submit
//!              └─ one loop a vault: ReplicationDriver::observe
//! ```
//!
//! Everything is derived anew in each pass from the resources and the newest look at the vault. What is kept in memory are caches
//! and back-offs; losing them costs time only. Controllers see the driver's trait, never a concrete driver: the command line hands
//! in a [`DriverFactory`].

mod announce;
mod backoff;
mod context;
mod factory;
mod failovers;
mod feed;
mod groups;
mod hub;
mod key;
mod kubernetes;
mod lease;
mod operator;
mod recent;
mod settings;
mod unreadable;
mod vaults;
mod virtual_machines;
mod watches;
mod work;

pub use factory::{DriverFactory, DriverInput, VaultSecrets};
pub use key::Key;
pub use lease::LeaseSettings;
pub use operator::{Operator, OperatorError};
pub use settings::{Paces, Settings, Timeouts};

/// Name under which fields are managed, and of the reporting controller in events.
pub const FIELD_MANAGER: &str = "homeward";
