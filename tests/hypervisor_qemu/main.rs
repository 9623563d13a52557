//! The QEMU hypervisor with a real guest. Needs `tools/setup guest`; runs under TCG, so everywhere.

mod host;
mod monitor;
mod points;
mod power;
#[path = "../common/skipped.rs"]
mod skipped;
