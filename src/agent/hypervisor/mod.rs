//! What the agent asks of a hypervisor: run a guest, stop it, know its power, read it at one instant, know what it wrote.
//!
//! ```text
//!            agent (orders, replication)
//!                      |
//!                 Hypervisor             the trait of this file: no policy, no register, no network
//!                      |
//!        qemu::Qemu --- QMP --- one QEMU process a guest (outlives the agent)
//!                 \---- NBD --- points in time and dirty ranges
//! ```
//!
//! An implementation decides nothing about who may run a guest: it starts what it is told to start. It never escalates by
//! itself (a guest that does not power down in time is reported, not killed), never takes silence for a stopped guest
//! (S3), and never reports a bitmap generation as held when it is in doubt (S13).
//!
//! A *generation* is a random id minted together with the change tracking of all disks of a guest. "Dirty since generation
//! G" is the set of byte ranges that may differ from the content at the instant at which G began.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub mod disk;
pub mod qemu;

pub use crate::dataplane::BlockSource;

/// Stable name of a disk inside its VM, the same at both sites.
pub type DiskId = String;

/// The id of a bitmap generation (S13).
pub type Generation = Uuid;

/// Byte ranges of one disk: sorted, apart from each other, inside the disk, on 64 KiB borders except at the disk's end.
pub type Ranges = Vec<Range<u64>>;

/// A guest as the hypervisor has to build it. The agent maps its own VM definition to this, paths already those of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDefinition {
    /// The VM's UUID, the same at both sites.
    pub uuid: Uuid,
    /// Name for people; letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Virtual CPUs, at least 1.
    pub cpus: u32,
    /// Memory in MiB, at least 1.
    pub memory_mib: u64,
    /// The disks, in the order in which the guest sees them.
    pub disks: Vec<GuestDisk>,
    /// The network cards.
    pub networks: Vec<GuestNetwork>,
    /// What the guest boots.
    pub boot: GuestBoot,
}

/// One raw disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisk {
    /// Stable id, unique in the VM; also the origin of the serial number that the guest sees.
    pub id: DiskId,
    /// A raw file or a block device on this host; its size is a multiple of 512 bytes.
    pub path: PathBuf,
}

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The name of the network; each host maps it to something of its own.
    pub name: String,
    /// MAC address (`52:54:00:12:34:56`); the hypervisor chooses when there is none.
    pub mac: Option<String>,
}

/// What a guest boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestBoot {
    /// A kernel given from outside.
    Kernel {
        /// Path of the kernel on this host.
        kernel: PathBuf,
        /// Path of the initramfs on this host.
        initramfs: Option<PathBuf>,
        /// Command line; `{site}` and `{host}` are filled in at the start, see [`StartSpec::command_line`].
        command_line: String,
    },
    /// The first disk, through the machine's firmware or the given one.
    Disk {
        /// Path of a firmware image on this host, instead of the machine's own.
        firmware: Option<PathBuf>,
    },
}

/// With what a guest is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartSpec {
    /// The site of this host, filled into the command line and the console's marker.
    pub site: String,
    /// The name of this host, filled in likewise.
    pub host: String,
    /// The generation to mint on all disks before the guest's first instruction (S13); none leaves changes untracked.
    pub generation: Option<Generation>,
}

impl StartSpec {
    /// The kernel command line for this start: `{site}` and `{host}` replaced, all else as it is.
    #[must_use]
    pub fn command_line(&self, template: &str) -> String {
        template
            .replace("{site}", &self.site)
            .replace("{host}", &self.host)
    }
}

/// Is the guest running? As observed from the hypervisor, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestPower {
    /// It runs, or sleeps in a way that a wake-up ends.
    Running,
    /// The process is there, the CPUs stand still and may go on at any moment. Not stopped in the sense of S3.
    Paused {
        /// The hypervisor's own word for the state (`paused`, `io-error`, `prelaunch`, ...).
        state: String,
    },
    /// The guest has powered off; the process is still there and holds the change tracking.
    ShutDown,
    /// There is no process.
    Gone,
    /// Nothing can be said (S3: silence is not a stopped guest).
    Unknown {
        /// Why, for people.
        why: String,
    },
}

impl fmt::Display for GuestPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Paused { state } => write!(f, "paused ({state})"),
            Self::ShutDown => f.write_str("shut down"),
            Self::Gone => f.write_str("gone"),
            Self::Unknown { why } => write!(f, "unknown ({why})"),
        }
    }
}

/// A guest's process as it is found by itself, whatever is written down of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundGuest {
    /// The VM's UUID.
    pub uuid: Uuid,
    /// The process.
    pub pid: u32,
    /// The VM's name, where the process tells it.
    pub name: Option<String>,
}

/// How a guest that was told to stop has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Powered off, drained and flushed; the process is kept for [`Hypervisor::final_dirty`], then [`Hypervisor::quit`].
    ShutDown,
    /// The process is gone, and the change tracking with it.
    Gone,
}

/// What was written since a generation began, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    /// Everything that may differ. A disk without changes has an entry with no range.
    Known(BTreeMap<DiskId, Ranges>),
    /// The generation does not hold (any more): compare by digests.
    Lost(LostGeneration),
}

/// Why a generation cannot be trusted (S13, S14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostGeneration {
    /// No generation was asked for.
    NotAsked,
    /// The process that held it is gone.
    ProcessGone,
    /// Some disk has no intact, recording bitmap of that name.
    Missing {
        /// The first such disk.
        disk: DiskId,
    },
    /// A disk's size is not what it was when the generation began.
    Resized {
        /// Which disk.
        disk: DiskId,
        /// Size in bytes at the beginning of the generation.
        was: u64,
        /// Size in bytes now.
        is: u64,
    },
    /// The disks are not those with which the generation began.
    OtherDisks,
    /// The guest is off, and what it changed could not be read.
    NotRead(String),
}

impl fmt::Display for LostGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("no generation was asked for"),
            Self::ProcessGone => f.write_str("the process that tracked changes is gone"),
            Self::Missing { disk } => {
                write!(f, "disk {disk} has no intact bitmap of the generation")
            }
            Self::Resized { disk, was, is } => write!(
                f,
                "disk {disk} was {was} bytes when the generation began and is {is} bytes now"
            ),
            Self::OtherDisks => {
                f.write_str("disks were added or removed since the generation began")
            }
            Self::NotRead(why) => write!(f, "what the guest changed could not be read: {why}"),
        }
    }
}

/// A point in time of all disks of a running guest, readable until it is ended (S15).
pub struct Point {
    /// Names the point at [`Hypervisor::end_point`]. Dropping a `Point` does not end it.
    pub ticket: PointTicket,
    /// One source a disk, in the order of the definition, all at the same instant.
    pub disks: Vec<PointDisk>,
    /// What changed between the beginning of the old generation and this point.
    pub dirty: Dirty,
    /// The instant of the point by the host's clock.
    pub taken_at: jiff::Timestamp,
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Point")
            .field("ticket", &self.ticket)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}

/// One disk at a point in time.
pub struct PointDisk {
    /// Which disk.
    pub id: DiskId,
    /// Size in bytes at the point; may differ from that of earlier points (S14).
    pub size: u64,
    /// Its content at the point. Reads fail once the point is broken or ended; the guest never notices.
    pub source: Box<dyn BlockSource>,
}

/// The name of an open point. There is at most one a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointTicket {
    /// The VM.
    pub vm: Uuid,
    /// The generation that ended at the point.
    pub old: Option<Generation>,
    /// The generation that began at the point.
    pub new: Generation,
}

/// What became of a point at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointOutcome {
    /// The target has acknowledged it durably: the old generation is dropped, the new one holds.
    Delivered,
    /// It was not: the old generation goes on and includes what was written since the point (S13).
    Failed,
}

/// What holds after a point was ended or a guest was recovered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracking {
    /// The generations that hold on all disks. More than one only after a recovery in the middle of a point, when the hypervisor
    /// cannot know whether the target has the point: each of them tells the truth about itself.
    pub held: Vec<Generation>,
}

/// What [`Hypervisor::recover`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The guest's power after the recovery.
    pub power: GuestPower,
    /// The generations that hold.
    pub tracking: Tracking,
    /// What was mended, one sentence each, for the log.
    pub mended: Vec<String>,
}

/// What [`Hypervisor::quit`] can say about the time between [`Hypervisor::final_dirty`] and the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuitReport {
    /// Nothing was written after the last answer of `final_dirty`: it stands.
    Untouched,
    /// The guest ran and wrote again (S3: a reset revives it): what `final_dirty` said is void.
    Written,
    /// `final_dirty` was not asked, or the process was gone before.
    NotWatched,
}

/// Why the hypervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The definition or the host's settings do not allow it; a person has to change something.
    #[error("{field}: {message}")]
    Invalid {
        /// The field, as people know it.
        field: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The guest is not in a state in which this can be done. Nothing was changed.
    #[error("the guest is {found}, needed: {needed}")]
    WrongPower {
        /// What was seen.
        found: GuestPower,
        /// What would be needed.
        needed: &'static str,
    },
    /// A point is already open, or none is.
    #[error("{0}")]
    WrongPoint(String),
    /// The hypervisor does not answer: the outcome is unknown, [`Hypervisor::recover`] finds out.
    #[error("the hypervisor does not answer: {0}")]
    Silent(String),
    /// The guest has not powered down in time. It still runs, and nothing further was done to it.
    #[error("the guest has not powered down within {} s and still runs", deadline.as_secs())]
    Deadline {
        /// The time that it was given.
        deadline: Duration,
    },
    /// The hypervisor refused a command.
    #[error("{command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// The hypervisor's words.
        message: String,
    },
    /// The process did not come up, or ended by itself.
    #[error("the guest's process failed: {0}")]
    Process(String),
    /// No space for the point's scratch area or the records.
    #[error("no space on {path}: {message}")]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What was needed.
        message: String,
    },
    /// A file of the host could not be read or written.
    #[error("{path}: {source}")]
    Storage {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The hypervisor said something that this code does not understand.
    #[error("unexpected answer of the hypervisor: {0}")]
    Protocol(String),
}

/// The class of a [`HypervisorError`]: label of metrics, and what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCategory {
    /// Needs a person.
    Invalid,
    /// Not in this state.
    Conflict,
    /// Outcome unknown: observe, then try again.
    Unknown,
    /// The guest took too long.
    Deadline,
    /// Tried and failed; may be tried again.
    Failed,
    /// Out of space.
    NoSpace,
}

impl HypervisorError {
    /// The class of this error.
    #[must_use]
    pub fn category(&self) -> ErrorCategory {
        match self {
            Self::Invalid { .. } => ErrorCategory::Invalid,
            Self::WrongPower { .. } | Self::WrongPoint(_) => ErrorCategory::Conflict,
            Self::Silent(_) => ErrorCategory::Unknown,
            Self::Deadline { .. } => ErrorCategory::Deadline,
            Self::Refused { .. } | Self::Process(_) | Self::Storage { .. } | Self::Protocol(_) => {
                ErrorCategory::Failed
            }
            Self::NoSpace { .. } => ErrorCategory::NoSpace,
        }
    }
}

/// A result of a hypervisor.
pub type Result<T> = std::result::Result<T, HypervisorError>;

/// A hypervisor of one host. All calls may come at the same time; those for one guest are put in order inside.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// Checks what can be checked about a definition without starting it (sizes, networks, names, paths).
    ///
    /// # Errors
    /// `Invalid` names the first field that this host cannot satisfy.
    fn check(&self, guest: &GuestDefinition) -> Result<()>;

    /// As [`Hypervisor::check`], without looking at a disk.
    ///
    /// # Errors
    /// `Invalid` names the first field that this host cannot satisfy.
    fn suits(&self, guest: &GuestDefinition) -> Result<()>;

    /// Whether guests could be started on this host at all: the program, the processor's support. Looks at files only.
    ///
    /// # Errors
    /// `Invalid` names the setting and what is missing.
    fn usable(&self) -> Result<()>;

    /// Starts a guest: the process stopped, then the generation's tracking on all disks, then the first instruction. A process in
    /// which the guest had powered off is ended first.
    ///
    /// # Errors
    /// `WrongPower` when it runs or may run already; `Invalid`, `Process`, `Refused` when it cannot be started (then no process is left);
    /// `Silent` when it is not known whether it runs.
    async fn start(&self, guest: &GuestDefinition, spec: &StartSpec) -> Result<()>;

    /// The guests whose processes are there, also those of which nothing is written down. May block.
    ///
    /// # Errors
    /// `Storage` when it cannot be told which processes there are.
    fn processes(&self) -> Result<Vec<FoundGuest>>;

    /// The guest's power, now. Never changes anything.
    async fn power(&self, guest: &GuestDefinition) -> GuestPower;

    /// Asks the guest to power down and waits. A guest that is off already is a success.
    ///
    /// # Errors
    /// `Deadline` when it still runs after `deadline` (nothing further was done to it); `WrongPower` when it is paused; `Silent`.
    async fn power_down(&self, guest: &GuestDefinition, deadline: Duration) -> Result<Stopped>;

    /// Takes the power away, as if the cord were pulled. Where the hypervisor answers, the process stays and its tracking is exact;
    /// where it is silent, the process is killed. A guest that is off already is a success.
    ///
    /// # Errors
    /// `Process` when the process cannot be ended.
    async fn power_off(&self, guest: &GuestDefinition) -> Result<Stopped>;

    /// Takes a point in time of all disks of a running guest and lets the generation `new` begin at it (S13, S15).
    ///
    /// # Errors
    /// `WrongPower` when it is not running (a guest that is off is read directly); `WrongPoint` when a point is open. After any error the
    /// old generation goes on as after `end_point(Failed)`, unless it is `Silent`: then `recover` has to be called.
    async fn begin_point(
        &self,
        guest: &GuestDefinition,
        old: Option<Generation>,
        new: Generation,
    ) -> Result<Point>;

    /// Ends a point: its sources fail from now on, its scratch area is freed.
    ///
    /// # Errors
    /// `Silent` when the outcome is unknown (`recover` mends it); a point whose guest is gone meanwhile ends without error.
    async fn end_point(
        &self,
        guest: &GuestDefinition,
        ticket: &PointTicket,
        outcome: PointOutcome,
    ) -> Result<Tracking>;

    /// What a guest that has powered off had written since `generation`: exact, and final unless [`quit`](Self::quit) says otherwise.
    /// May be asked again.
    ///
    /// # Errors
    /// `WrongPower` when the guest is running, paused or unknown. A process that is gone is an answer: [`LostGeneration::ProcessGone`].
    async fn final_dirty(&self, guest: &GuestDefinition, generation: Generation) -> Result<Dirty>;

    /// Ends the process of a guest that has powered off. When this returns without error the process is gone.
    ///
    /// # Errors
    /// `WrongPower` when the guest is running, paused or unknown.
    async fn quit(&self, guest: &GuestDefinition) -> Result<QuitReport>;

    /// How many bytes are dirty since `generation`, rounded up to blocks; while a point is open, an upper bound. None when the generation
    /// does not hold.
    ///
    /// # Errors
    /// `Silent` when it cannot be known now.
    async fn dirty_bytes(
        &self,
        guest: &GuestDefinition,
        generation: Generation,
    ) -> Result<Option<u64>>;

    /// After an agent died at any place, or after an error whose outcome is unknown: lets a guest go on that was paused for a point,
    /// removes points, exports and scratch files (nobody may be reading a point of this guest), ends a process that never came to its
    /// first instruction, and says which generations hold. A guest that somebody else paused stays paused.
    ///
    /// # Errors
    /// `Silent` when the hypervisor does not answer: to be called again.
    async fn recover(&self, guest: &GuestDefinition) -> Result<Recovered>;

    /// The disks with which the guest's process was started. None: there is no process, or the hypervisor cannot tell.
    ///
    /// # Errors
    /// When what was written down about the process cannot be read.
    async fn attached(&self, guest: &GuestDefinition) -> Result<Option<Vec<GuestDisk>>>;

    /// The file to which the guest's console is appended, a marker line at each start.
    fn console(&self, guest: &GuestDefinition) -> PathBuf;
}
