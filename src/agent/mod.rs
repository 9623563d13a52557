//! The process beside a hypervisor: it alone starts and stops the VMs of its host.

pub mod api;
pub mod hypervisor;
mod register;
