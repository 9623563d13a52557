//! An emulator of the Azure Site Recovery REST service for Hyper-V, for tests: no Azure is needed, and none is touched.
//!
//! [`Service`] is pure: requests and times go in, answers come out, and a VM's truth can be asked for. [`Emulator`]
//! puts TLS, HTTP/1.1, a clock and faults of connections around it. Nothing of the product may depend on this crate
//! except its tests. It invents no behaviour silently: what is known of the service is built in, and what is not
//! known is a switch in [`Assumptions`].

mod arm;
mod assumptions;
mod clock;
mod control;
mod faults;
mod identity;
mod ids;
mod item;
mod jobs;
mod portal;
mod records;
mod seed;
mod server;
mod service;
mod settings;
mod state;
mod throttle;
mod wire;
mod world;

pub use assumptions::{Assumptions, CommitWord, FailbackWord, Location};
pub use clock::{Clock, Time};
pub use faults::{Fault, Held, JobFailure, OperationWarning, Rule};
pub use item::Phase;
pub use jobs::{JobError, JobState, Scenario};
pub use portal::{Button, DataSync};
pub use records::{Record, fingerprint};
pub use seed::{FabricKind, Principal, Seed, SeedFabric, SeedPlan, SeedVm, Vault};
pub use server::{Emulator, Options};
pub use service::{JobSummary, Outcome, Service};
pub use settings::{Settings, Throttle, Timings};
pub use wire::{Request, Response};
pub use world::{Copy, Machine, Site, Violation, ViolationKind};
