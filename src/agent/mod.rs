//! The process beside a hypervisor: it alone starts and stops the VMs of its host.

pub mod api;
pub mod client;
pub mod config;
pub mod failpoint;
pub mod hypervisor;
mod register;
mod store;
pub mod tls;
