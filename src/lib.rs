//! Homeward keeps each virtual machine at the site its resource names, on-premises or in Azure.
//!
//! ```text
//!   api ◀── domain ◀── driver ◀── controllers ◀── cli        the operator
//!                        │
//!                        ▼ orders over mutual TLS
//!           dataplane ◀── agent ◀────────────────── cli        the process on a host
//! ```
//!
//! Arrows say who knows whom; `docs/architecture.md` has the table, and `tests/architecture.rs` checks it. The words (site, placement,
//! failover, commit, epoch, point, pass) are explained in `docs/concepts.md`.

// A panic is never the operator's or the agent's answer. Tests may.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod agent;
pub mod api;
pub mod cli;
pub mod controllers;
pub mod dataplane;
pub mod domain;
pub mod driver;
pub mod pki;
pub mod telemetry;
