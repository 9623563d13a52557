//! Two agents on loopback, over real mutual TLS and the real data plane, with a hypervisor that tests can steer.

mod broken_off;
mod definitions;
mod fake;
mod identity;
mod keeping;
mod last_disks;
mod moves;
mod qemu;
mod restarts;
mod room;
mod site;
mod stray;
mod trouble;
