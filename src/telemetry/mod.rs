//! What the process tells of itself: log lines, metrics, and whether it lives and is ready.
//!
//! Labels are bounded: words of closed enums, and names of resources only where one series a VM is the point. Nothing here decides
//! anything, and nothing here may hold a secret.

mod causes;
mod fleet;
mod health;
mod http;
mod log;
mod metrics;

pub use causes::with_causes;
pub use fleet::{Fleet, VmFigures};
pub use health::Health;
pub use http::{ServeError, serve};
pub use log::{LogFormat, start_log};
pub use metrics::Metrics;
