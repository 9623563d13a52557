//! What a world is made of.

use std::{path::PathBuf, time::Duration};

use uuid::Uuid;

use crate::guest_image::GuestSettings;

/// What runs the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervisorKind {
    /// QEMU, by the product's own agent.
    Qemu {
        /// By the processor's virtualisation, else by emulation.
        kvm: bool,
    },
    /// Plain processes, see [`crate::process_hypervisor`].
    Process,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// What runs the guests.
    pub hypervisor: HypervisorKind,
    /// How many operators run at once.
    pub operators: usize,
    /// From one recovery point to the next.
    pub replication_interval: Duration,
    /// How long a guest may take to shut down.
    pub shutdown_deadline: Duration,
    /// The most that an agent sends, in bytes a second.
    pub bandwidth_limit: Option<u64>,
    /// How often operators look, from rarely to often: nothing moves, data is copied, a VM is down.
    pub looks: [Duration; 3],
    /// Log filter of operators and agents.
    pub log: String,
}

impl WorldOptions {
    /// One operator, and recovery points a few seconds apart.
    #[must_use]
    pub fn new(hypervisor: HypervisorKind) -> Self {
        Self {
            hypervisor,
            operators: 1,
            replication_interval: Duration::from_secs(5),
            shutdown_deadline: Duration::from_mins(1),
            bandwidth_limit: None,
            looks: [1000, 100, 50].map(Duration::from_millis),
            log: "info,homeward=debug".to_owned(),
        }
    }
}

impl WorldOptions {
    /// What its clusters are made of.
    pub(super) fn cluster(&self) -> ClusterOptions {
        ClusterOptions::new(self.operators, &self.log, self.looks)
    }
}

/// How a cluster is made.
pub(super) struct ClusterOptions {
    /// How many operators it has.
    pub(super) operators: usize,
    /// Log filter of the operators.
    pub(super) log: String,
    /// The operators' settings, as their environment.
    pub(super) settings: Vec<(String, String)>,
}

impl ClusterOptions {
    /// Leases are short, so that another takes over soon.
    pub(super) fn new(operators: usize, log: &str, looks: [Duration; 3]) -> Self {
        let [steady, busy, urgent] = looks.map(milliseconds);
        let settings = [
            ("HOMEWARD_POLL_STEADY", steady.as_str()),
            ("HOMEWARD_POLL_BUSY", &busy),
            ("HOMEWARD_POLL_URGENT", &urgent),
            ("HOMEWARD_POLL_SECRETS", "1s"),
            ("HOMEWARD_LEASE_DURATION", "3s"),
            ("HOMEWARD_LEASE_RENEW", "1s"),
            ("HOMEWARD_LEASE_RETRY", "250ms"),
        ];
        Self {
            operators,
            log: log.to_owned(),
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// One more setting that is a time.
    pub(super) fn set(&mut self, name: &str, value: Duration) {
        self.settings.push((name.to_owned(), milliseconds(value)));
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// A VM to be made.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// Its name, on the host and in the cluster.
    pub name: String,
    /// The size of each disk in bytes, a multiple of 512.
    pub disks: Vec<u64>,
    /// What its guest does; the site is filled in where it runs.
    pub guest: GuestSettings,
    /// Memory of a guest that has some.
    pub memory_mib: u64,
}

impl VmOptions {
    /// A small one with two disks.
    #[must_use]
    pub fn small(name: &str) -> Self {
        let mut guest = GuestSettings::new(name, "{site}");
        guest.records_per_second = 50;
        guest.ring_kib = Some(512);
        guest.dirty_kib_per_second = 64;
        guest.dirty_area_mib = Some(1);
        Self {
            name: name.to_owned(),
            disks: vec![2 << 20, 2 << 20],
            guest,
            memory_mib: 192,
        }
    }
}

/// A VM of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its name, on the host and in the cluster.
    pub name: String,
    /// Its identity on every host.
    pub uuid: Uuid,
    /// Its disks on the premises, in the order in which the guest has them.
    pub disks: Vec<PathBuf>,
}
