//! What a driver sees of a vault and its VMs, in words that no driver owns.
//!
//! An observation is the whole truth of one moment, a running operation and its progress included. Every fact says whether it is
//! known; a driver never fills in a guess.

mod jobs;

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use jiff::Timestamp;

use super::action::{ActionKind, Mark};
use super::fact::Fact;
use super::failure::ErrorClass;
use crate::api::Site;
pub use jobs::{Job, JobKind, JobState, JobTask, Jobs, MissingJob};

/// One value for each site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BySite<T> {
    /// The value on-premises.
    pub on_premises: T,
    /// The value in Azure.
    pub azure: T,
}

impl<T> BySite<T> {
    /// Makes each value from its site.
    pub fn from_fn(mut f: impl FnMut(Site) -> T) -> Self {
        Self {
            on_premises: f(Site::OnPremises),
            azure: f(Site::Azure),
        }
    }
}

impl<T> Index<Site> for BySite<T> {
    type Output = T;
    fn index(&self, site: Site) -> &T {
        match site {
            Site::OnPremises => &self.on_premises,
            Site::Azure => &self.azure,
        }
    }
}

impl<T> IndexMut<Site> for BySite<T> {
    fn index_mut(&mut self, site: Site) -> &mut T {
        match site {
            Site::OnPremises => &mut self.on_premises,
            Site::Azure => &mut self.azure,
        }
    }
}

/// All that one look at a vault showed.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultObservation {
    /// Whether each site can be worked with.
    pub sites: BySite<Connection>,
    /// The hosts behind the sites.
    pub hosts: Vec<HostObservation>,
    /// The VMs that were seen, by name.
    pub vms: BTreeMap<String, VmObservation>,
    /// What Homeward will have to do and the service does not let it do, in the service's names.
    pub missing_permissions: Vec<String>,
    /// Whether every place was looked at, so that a VM not listed is absent. When not, why.
    pub complete: Result<(), String>,
}

impl VaultObservation {
    /// What is known of the VM of this name (safety rule S7: absent only after a complete look).
    #[must_use]
    pub fn vm(&self, name: &str) -> Fact<&VmObservation> {
        match (self.vms.get(name), &self.complete) {
            (Some(vm), _) => Fact::Known(vm),
            (None, Ok(())) => Fact::Absent,
            (None, Err(why)) => Fact::Unknown(why.clone()),
        }
    }

    /// The name of the VM of this identity, when it is another than `name`.
    #[must_use]
    pub fn renamed(&self, id: &str, name: &str) -> Option<&str> {
        self.vms
            .iter()
            .find(|(known, vm)| vm.id == id && *known != name)
            .map(|(known, _)| known.as_str())
    }
}

/// Whether something can be worked with now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It answers.
    Connected,
    /// It does not; the words say why and what to do.
    Disconnected(String),
}

impl Connection {
    /// Whether it answers.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

/// One host of a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostObservation {
    /// Name of the host.
    pub name: String,
    /// Its site.
    pub site: Site,
    /// Whether it answers.
    pub connection: Connection,
    /// When it last answered.
    pub last_heartbeat: Option<Timestamp>,
    /// What a person should mend there.
    pub problems: Vec<String>,
}

/// Who may act on a VM: one ProtectedVirtualMachine of one cluster (safety rule S1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Identity of the cluster: the UID of its `kube-system` namespace.
    pub cluster: String,
    /// UID of the ProtectedVirtualMachine.
    pub vm_uid: String,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.cluster, self.vm_uid)
    }
}

/// All that one look showed of one VM.
#[derive(Clone, Debug, PartialEq)]
pub struct VmObservation {
    /// Identity of the VM, the same at both sites.
    pub id: String,
    /// Who may act on it, as each side knows it: a claim that moves reaches one side before the other.
    pub claims: BySite<Fact<Claim>>,
    /// Where the right to run stands, from the registers (safety rule S8).
    pub stage: Fact<Stage>,
    /// The newest order that each side has taken.
    pub marks: BySite<Fact<Mark>>,
    /// UID of the Failover that the register of each side names.
    pub failovers: BySite<Option<String>>,
    /// Whether the guest runs, at each side.
    pub power: BySite<Fact<Power>>,
    /// The protection that runs.
    pub protection: Fact<Protection>,
    /// The operations that each side still tells of.
    pub operations: Vec<Operation>,
    /// When the active site got the right to run, where that is known.
    pub active_since: Option<Timestamp>,
    /// Whether the passive side holds a whole point in time, so that it could be started.
    pub target_consistent: Fact<bool>,
    /// Whether anything of the VM is left at the passive site, so that a delta is possible.
    pub replica_present: Fact<bool>,
    /// Bytes that the guest wrote since it was started at the site that runs it now.
    pub written_since_start: Fact<u64>,
    /// Bytes that would have to be sent for the next recovery point, where the driver can tell.
    pub pending_delta: Option<u64>,
    /// Bytes of all disks together, where the driver can tell.
    pub disk_bytes: Option<u64>,
    /// Whether data in the vault is encrypted with the customer's key certificate, which a move to Azure then needs.
    pub encrypted: bool,
    /// Names of the networks (virtual switches) that the VM is in on the premises, where they are told.
    pub networks: Vec<String>,
    /// Things that a person must mend before anything is begun with this VM; each with its remedy.
    pub obstacles: Vec<String>,
    /// Things that a person must mend before the VM is protected or moved; it is taken on and runs without that.
    pub protection_obstacles: Vec<String>,
    /// Why the VM's own host on the premises is not heard, when it is not and a service has to reach it for whatever is asked of the VM. It comes
    /// back by itself, or a person sees to it.
    pub host_silent: Option<String>,
    /// What somebody else's operation does with the VM now, which is waited for before anything is begun; it ends by itself.
    pub busy: Option<String>,
    /// Why the passive site could not take a full download now; each with its remedy.
    pub full_download_obstacles: Vec<String>,
    /// Why the protection must be set up anew, when it must: the replica is gone, or was made for something else than what is there now.
    pub protection_stale: Option<String>,
    /// Why the guest does not run at the active site, when it should.
    pub down_because: Option<String>,
    /// What a service that keeps no registers tells of its own jobs on the VM; none where registers are kept.
    pub jobs: Option<Jobs>,
    /// Why the passive site's copy cannot be started, where that can be told.
    pub inconsistent_because: Option<String>,
    /// Why the data sync that this move had under way is over, when somebody else ended it, or it broke off by itself.
    pub sync_ended: Option<String>,
    /// The site that the VM leaves by a job of a service that goes on, whoever began that.
    pub leaving: Option<Site>,
    /// What leads the move of this VM and of others too, when that is so: people lead it on, or cancel it, where they began it.
    pub led_elsewhere: Option<String>,
    /// A job that holds the VM at a service which does not tell of it: whether, and how, it goes on is not known (safety rule S7).
    pub missing_job: Option<MissingJob>,
    /// An operation of a service that told the VM to stop at the active site, and was not brought to its end: nobody says whether the VM runs.
    pub perhaps_down: Option<PerhapsDown>,
}

/// A VM that was told to stop by an operation that then broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerhapsDown {
    /// The service's name of the operation.
    pub job: String,
    /// What it was and how it ended.
    pub what: String,
}

impl VmObservation {
    /// Somebody else's claim that stands at a side.
    #[must_use]
    pub fn claimed_by_other(&self, own: &Claim) -> Option<&Claim> {
        Site::BOTH
            .into_iter()
            .filter_map(|site| self.claims[site].known())
            .find(|claim| *claim != own)
    }

    /// The newest order that either side has taken.
    #[must_use]
    pub fn newest_mark(&self) -> Option<Mark> {
        Site::BOTH
            .into_iter()
            .filter_map(|site| self.marks[site].known().copied())
            .max()
    }

    /// UID of the Failover that the newest register with one names; of two that are as new, the one at the side that holds the right to run.
    #[must_use]
    pub fn failover(&self) -> Option<&str> {
        let active = self.stage.known().and_then(Stage::active);
        Site::BOTH
            .into_iter()
            .filter_map(|site| Some((site, self.failovers[site].as_deref()?)))
            .max_by_key(|(site, _)| (self.marks[*site].known().copied(), Some(*site) == active))
            .map(|(_, uid)| uid)
    }

    /// Whether a register names another Failover than this one: orders of both were on their way at once.
    #[must_use]
    pub fn names_another_failover(&self, uid: &str) -> bool {
        let names_another = |site| {
            self.failovers[site]
                .as_deref()
                .is_some_and(|other: &str| other != uid)
        };
        Site::BOTH.into_iter().any(names_another)
    }

    /// Whether a look that shows this much may be as new as what was written down (safety rule S7): registers only grow. A passive host
    /// that is lost, or replaced, takes its steps with it; at rest the epoch alone decides who may run the VM, and it stands at the active
    /// side.
    #[must_use]
    pub fn reaches(&self, written: Mark) -> bool {
        let Some(newest) = self.newest_mark() else {
            return true;
        };
        // The side that has taken more may be the one that is silent; nothing follows from such a look anyhow.
        let silent = Site::BOTH
            .into_iter()
            .any(|site| self.marks[site].why_unknown().is_some());
        if silent && self.stage.why_unknown().is_some() {
            return true;
        }
        let rests = matches!(self.stage, Fact::Known(Stage::Settled { .. }));
        newest >= written || (rests && newest.epoch == written.epoch)
    }

    /// Whether every side that knows the VM holds this claim; at least one does.
    #[must_use]
    pub fn is_claimed_by(&self, own: &Claim) -> bool {
        let knows = |site: &Site| self.marks[*site].known().is_some();
        Site::BOTH
            .into_iter()
            .any(|site| self.claims[site].known() == Some(own))
            && Site::BOTH
                .into_iter()
                .filter(knows)
                .all(|site| self.claims[site].known() == Some(own))
    }
}

/// Where the right to run a VM stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No register anywhere; the VM is known at this site alone.
    Unclaimed {
        /// Where the VM is.
        site: Site,
    },
    /// This site may run the VM, the other may not, and no move is under way.
    Settled {
        /// The site that may.
        site: Site,
    },
    /// The source may no longer run the VM, but is not known to have stopped.
    SourceFenced {
        /// The source.
        from: Site,
    },
    /// The source has stopped, on record (safety rule S3).
    SourceStopped {
        /// The source.
        from: Site,
        /// Whether the guest ran when it was fenced; one that was off is left off.
        was_running: bool,
    },
    /// The target holds a verified copy of the stopped source.
    TargetWhole {
        /// The source.
        from: Site,
    },
    /// The target may run the VM; nothing is committed.
    TargetStarted {
        /// The target.
        to: Site,
        /// Whether its guest runs, or was left off because it was off at the source.
        as_left: bool,
    },
    /// The commit is on record at the target; the source is not retired yet (safety rule S5).
    Committed {
        /// The target.
        to: Site,
    },
    /// The move goes back: the target is barred at a newer epoch; the source may be resumed (safety rule S2).
    TargetFenced {
        /// The source.
        from: Site,
    },
    /// What the two sides say cannot both be true, or leaves nobody who may run the VM (safety rule S8).
    Contradiction {
        /// What was seen on each side.
        seen: String,
    },
    /// A register is there and cannot be read, which is not one that is missing: nothing is known of the right to run until a person has
    /// looked at it (safety rule S4).
    Unreadable {
        /// What is to be mended, and where.
        why: String,
    },
}

impl Stage {
    /// Whether a move has taken the right to run from its source and has not come to its end.
    #[must_use]
    pub const fn is_midway(&self) -> bool {
        match self {
            Self::SourceFenced { .. }
            | Self::SourceStopped { .. }
            | Self::TargetWhole { .. }
            | Self::TargetStarted { .. }
            | Self::Committed { .. }
            | Self::TargetFenced { .. } => true,
            Self::Unclaimed { .. }
            | Self::Settled { .. }
            | Self::Contradiction { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// The site that holds the right to run the VM, or held it last.
    #[must_use]
    pub const fn active(&self) -> Option<Site> {
        match self {
            Self::Unclaimed { site } | Self::Settled { site } => Some(*site),
            Self::SourceFenced { from }
            | Self::SourceStopped { from, .. }
            | Self::TargetWhole { from }
            | Self::TargetFenced { from } => Some(*from),
            Self::TargetStarted { to, .. } | Self::Committed { to } => Some(*to),
            Self::Contradiction { .. } | Self::Unreadable { .. } => None,
        }
    }
}

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It runs.
    On,
    /// It does not.
    Off,
}

/// Protection of a VM from one site to the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Protection {
    /// The site that sends.
    pub from: Site,
    /// How it stands.
    pub state: ProtectionState,
    /// UID of the Failover that the running order belongs to.
    pub failover: Option<String>,
    /// The last point in time that became whole at the other side.
    pub last_whole: Option<WholePass>,
    /// The copy under way.
    pub progress: Option<Progress>,
    /// The next point in time should have become whole by now: a pass takes very long, or its peer neither answers nor goes away.
    pub overdue: bool,
}

/// How protection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtectionState {
    /// The first copy is under way.
    Seeding,
    /// Recovery points follow each other.
    Replicating,
    /// Stopped by an order.
    Paused,
    /// Goes on trying and does not get through; the words say why.
    Failing(String),
}

/// A pass that brought the other side to one point in time.
#[derive(Clone, Debug, PartialEq)]
pub struct WholePass {
    /// The point in time.
    pub point: Timestamp,
    /// UID of the Failover whose order was in force before the pass began.
    pub failover: Option<String>,
    /// Bytes on the wire since the order now in force, this pass included.
    pub bytes_on_wire: u64,
    /// Bytes of the blocks that differed, counted the same way.
    pub bytes_changed: u64,
    /// Bytes a second of the last pass that was long enough to tell.
    pub bytes_per_second: Option<u64>,
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, in a few words.
    pub what: String,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes to do, once known.
    pub bytes_total: Option<u64>,
    /// Rate.
    pub bytes_per_second: Option<u64>,
}

/// One action that a side has taken on.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The side.
    pub site: Site,
    /// The order it came with.
    pub mark: Mark,
    /// What it is.
    pub kind: ActionKind,
    /// How it stands.
    pub state: OperationState,
    /// How far it is.
    pub progress: Option<Progress>,
    /// The job that does it, where a service does.
    pub job: Option<Job>,
    /// Bytes on the wire, once it is done.
    pub bytes_on_wire: Option<u64>,
    /// Bytes of the blocks that differed, once it is done.
    pub bytes_changed: Option<u64>,
    /// What people must hear of how it was done, if it was not done as one would wish.
    pub remark: Option<String>,
}

/// How an operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Not done, in the words of the side that failed.
    Failed {
        /// What follows from it.
        class: ErrorClass,
        /// The words.
        message: String,
    },
    /// Its process died; it has not been taken up again.
    Interrupted,
}
