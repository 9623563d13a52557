//! Guests as QEMU processes.
//!
//! ```text
//!   config  argv            settings, a definition's command line
//!   files   process         records on disk, the process as /proc shows it
//!   commands graph ranges   what is sent and what follows from the answers, pure
//!   qmp     nbd             the two protocols
//!   guest                   one guest: its files, its locks, its monitor
//!   start power points final_dirty recover    one file an operation of the trait
//! ```
//!
//! A guest outlives its agent: QEMU runs in a session of its own, and everything that the agent must know about it later is in its
//! folder or in the process itself. Under a service manager that kills a service's whole control group, the agent's unit has to say
//! that only the agent is killed (systemd: `KillMode=process`).
//!
//! Facts about QEMU were tried on version 7.2.

pub mod argv;
pub mod commands;
pub mod config;
pub mod files;
pub mod graph;
pub mod nbd;
pub mod process;
pub mod qmp;
pub mod ranges;
