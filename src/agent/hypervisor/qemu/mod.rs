//! Guests as QEMU processes.
//!
//! ```text
//!   config  argv            settings, a definition's command line
//!   files   process         records on disk, the process as /proc shows it
//!   running                 the processes of all guests, whatever is written down of them
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

mod final_dirty;
mod guest;
mod points;
mod power;
mod recover;
mod running;
mod start;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

pub use self::config::{Accelerator, CacheMode, QemuConfig};
use self::files::GuestFiles;
use self::guest::{Guest, Locks};
pub use self::qmp::Failpoint;
use self::running::Running;
use super::{
    Dirty, FoundGuest, Generation, GuestDefinition, GuestDisk, GuestPower, Hypervisor, Point,
    PointOutcome, PointTicket, QuitReport, Recovered, Result, StartSpec, Stopped, Tracking,
};

/// The QEMU hypervisor of one host.
#[derive(Debug)]
pub struct Qemu {
    config: Arc<QemuConfig>,
    running: Arc<Running>,
    locks: Mutex<HashMap<Uuid, Arc<Locks>>>,
    failpoint: Failpoint,
}

impl Qemu {
    /// With these settings. Nothing is started and nothing is looked at: what is to be done about guests that run is [`Hypervisor::recover`], a guest at
    /// a time.
    ///
    /// # Errors
    /// `Invalid` when the settings would break a safety rule.
    pub fn new(config: QemuConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            running: Arc::new(Running::new(config.state_dir.clone())),
            config: Arc::new(config),
            locks: Mutex::default(),
            failpoint: Failpoint::default(),
        })
    }

    /// The switch that stops this agent in the middle of things. For tests.
    #[must_use]
    pub fn failpoint(&self) -> &Failpoint {
        &self.failpoint
    }

    fn guest(&self, vm: Uuid) -> Guest {
        let locks = self
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(vm)
            .or_default()
            .clone();
        Guest {
            vm,
            config: Arc::clone(&self.config),
            running: Arc::clone(&self.running),
            files: GuestFiles::new(&self.config.state_dir, vm),
            locks,
            failpoint: self.failpoint.clone(),
        }
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn check(&self, guest: &GuestDefinition) -> Result<()> {
        argv::check(
            &self.config,
            &GuestFiles::new(&self.config.state_dir, guest.uuid),
            guest,
        )
        .map(|_| ())
    }

    fn suits(&self, guest: &GuestDefinition) -> Result<()> {
        argv::check_all_but_disks(
            &self.config,
            &GuestFiles::new(&self.config.state_dir, guest.uuid),
            guest,
        )
    }

    fn usable(&self) -> Result<()> {
        self.config.usable()
    }

    async fn start(&self, guest: &GuestDefinition, spec: &StartSpec) -> Result<()> {
        self.guest(guest.uuid).start(guest, spec).await
    }

    fn processes(&self) -> Result<Vec<FoundGuest>> {
        let folder = &self.config.state_dir;
        self.running.all().map_err(files::storage(folder))
    }

    async fn power(&self, guest: &GuestDefinition) -> GuestPower {
        self.guest(guest.uuid).power().await
    }

    async fn power_down(&self, guest: &GuestDefinition, deadline: Duration) -> Result<Stopped> {
        self.guest(guest.uuid).power_down(deadline).await
    }

    async fn power_off(&self, guest: &GuestDefinition) -> Result<Stopped> {
        self.guest(guest.uuid).power_off().await
    }

    async fn begin_point(
        &self,
        guest: &GuestDefinition,
        old: Option<Generation>,
        new: Generation,
    ) -> Result<Point> {
        self.guest(guest.uuid).begin_point(old, new).await
    }

    async fn end_point(
        &self,
        guest: &GuestDefinition,
        ticket: &PointTicket,
        outcome: PointOutcome,
    ) -> Result<Tracking> {
        self.guest(guest.uuid).end_point(ticket, outcome).await
    }

    async fn final_dirty(&self, guest: &GuestDefinition, generation: Generation) -> Result<Dirty> {
        self.guest(guest.uuid).final_dirty(generation).await
    }

    async fn quit(&self, guest: &GuestDefinition) -> Result<QuitReport> {
        self.guest(guest.uuid).quit().await
    }

    async fn dirty_bytes(
        &self,
        guest: &GuestDefinition,
        generation: Generation,
    ) -> Result<Option<u64>> {
        self.guest(guest.uuid).dirty_bytes(generation).await
    }

    async fn recover(&self, guest: &GuestDefinition) -> Result<Recovered> {
        self.guest(guest.uuid).recover().await
    }

    async fn attached(&self, guest: &GuestDefinition) -> Result<Option<Vec<GuestDisk>>> {
        self.guest(guest.uuid).attached()
    }

    fn console(&self, guest: &GuestDefinition) -> PathBuf {
        GuestFiles::new(&self.config.state_dir, guest.uuid).console()
    }
}
