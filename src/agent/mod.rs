//! The agent: the process that runs beside the hypervisor of one host.

pub mod hypervisor;
