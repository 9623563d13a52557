//! The process beside a hypervisor: it alone starts and stops the VMs of its host.
//!
//! ```text
//!   operator, people                          other agents
//!        │ orders, state (server, api)              │ data (receive)
//!        v                                          v
//!   ┌─ register: who may run ──> orders: effects ──> volume, manifest ──┐
//!   │      │ store: synced             │                                │
//!   │      v                           v                                │
//!   │   inventory                hypervisor          replication ──> transfer ──> other agents
//!   └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`register`] decides and is pure; everything else carries out.
//! - Guests outlive the agent. What it was told survives it too: registers, definitions, replication, unfinished orders.
//! - It knows nothing of Kubernetes, of Azure, and of the operator's inside; it asks nobody for leave but its registers.

pub mod api;
pub mod client;
pub mod config;
mod console;
mod definitions;
pub mod failpoint;
mod growth;
mod host;
pub mod hypervisor;
mod inventory;
mod keep_running;
mod last_disks;
mod manifest;
mod orders;
mod peer;
mod probe;
mod receive;
mod register;
mod replication;
mod room;
mod server;
mod startup;
mod store;
mod strangers;
mod stray;
pub mod tls;
mod transfer;
mod volume;

pub use startup::{hypervisor, run, run_with};
