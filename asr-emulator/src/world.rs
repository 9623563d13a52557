//! What is true of a VM, whatever the service says of it: which copies there are, which of them run, and what is on them.
//!
//! The service's state never decides here; a test asks the world whether a client has done harm.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One of the two places a VM can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Site {
    /// A Hyper-V host.
    OnPremises,
    /// Azure.
    Azure,
}

/// A copy of a VM at one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// Whether it runs.
    pub running: bool,
    /// How new its disks are: each run of the VM makes the next version.
    pub version: u64,
    /// Whether its disks are of one moment; a data sync that is under way makes them a mixture.
    pub consistent: bool,
}

/// A VM as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its GUID on the premises.
    pub vm_id: String,
    /// Its name.
    pub name: String,
    /// `Windows` or `Linux`.
    pub os_type: String,
    /// 1 or 2.
    pub generation: u8,
    /// Sizes of its disks in megabytes.
    pub disks: Vec<u64>,
    /// The fabric of its host.
    pub fabric: String,
    /// The container it is listed in.
    pub container: String,
    /// The provider of its host.
    pub provider: String,
    /// The name of its host.
    pub host: String,
    /// The copy on the premises.
    pub on_premises: Option<Copy>,
    /// The copy in Azure, outside of tests of a failover.
    pub azure: Option<Copy>,
    /// Whether the VM of a test failover is there.
    pub test_vm: bool,
    /// Copies on the premises that a failback to another host has left behind.
    pub abandoned: u32,
    /// The newest version any copy has had.
    pub newest: u64,
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ViolationKind {
    /// The VM ran at both sites at one time.
    RanAtBothSites,
    /// The VM was started from disks that are a mixture of two versions.
    StartedInconsistent,
    /// The VM was started from older disks than it has had, and nobody had accepted the loss.
    StartedStale,
}

/// Something that must never be and was.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// When it began.
    pub at: Timestamp,
    /// The VM's GUID.
    pub vm_id: String,
    /// What it was.
    pub kind: ViolationKind,
    /// What led to it: a job's name, or a person.
    pub cause: String,
}

impl Machine {
    /// Whether the copy at that site runs.
    #[must_use]
    pub fn runs(&self, site: Site) -> bool {
        self.copy(site).is_some_and(|copy| copy.running)
    }

    /// The copy at that site.
    #[must_use]
    pub fn copy(&self, site: Site) -> Option<&Copy> {
        match site {
            Site::OnPremises => self.on_premises.as_ref(),
            Site::Azure => self.azure.as_ref(),
        }
    }

    fn copy_mut(&mut self, site: Site) -> Option<&mut Copy> {
        match site {
            Site::OnPremises => self.on_premises.as_mut(),
            Site::Azure => self.azure.as_mut(),
        }
    }

    /// Starts the copy at that site, and says what was wrong with that. `loss` is whether older disks are accepted.
    pub(crate) fn start(&mut self, site: Site, loss: bool) -> Vec<ViolationKind> {
        let newest = self.newest;
        let Some(copy) = self.copy_mut(site) else {
            return Vec::new();
        };
        if copy.running {
            return Vec::new();
        }
        copy.running = true;
        let (consistent, stale) = (copy.consistent, copy.version < newest);
        self.newest += 1;
        let version = self.newest;
        if let Some(copy) = self.copy_mut(site) {
            copy.version = version;
        }
        let mut wrong = Vec::new();
        if self.runs(Site::OnPremises) && self.runs(Site::Azure) {
            wrong.push(ViolationKind::RanAtBothSites);
        }
        if !consistent {
            wrong.push(ViolationKind::StartedInconsistent);
        }
        if stale && !loss {
            wrong.push(ViolationKind::StartedStale);
        }
        wrong
    }

    /// Stops the copy at that site.
    pub(crate) fn stop(&mut self, site: Site) {
        if let Some(copy) = self.copy_mut(site) {
            copy.running = false;
        }
    }

    /// Makes the copy in Azure out of the replica: as new as the copy on the premises.
    pub(crate) fn make_azure(&mut self) {
        let version = self
            .on_premises
            .as_ref()
            .map_or(self.newest, |copy| copy.version);
        self.azure = Some(Copy {
            running: false,
            version,
            consistent: true,
        });
    }

    /// Makes an empty copy on the premises.
    pub(crate) fn make_on_premises(&mut self) {
        self.on_premises = Some(Copy {
            running: false,
            version: 0,
            consistent: false,
        });
    }

    /// Blocks from Azure begin to be written over the disks on the premises.
    pub(crate) fn begin_sync(&mut self) {
        if let Some(copy) = &mut self.on_premises {
            copy.consistent = false;
        }
    }

    /// The disks on the premises are those in Azure.
    pub(crate) fn finish_sync(&mut self) {
        let version = self.azure.as_ref().map_or(self.newest, |copy| copy.version);
        if let Some(copy) = &mut self.on_premises {
            copy.consistent = true;
            copy.version = version;
        }
    }
}
