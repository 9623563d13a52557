//! What a driver can be asked to do, and the key that makes asking twice the same as asking once.

use std::fmt;

use jiff::Timestamp;

use super::observation::Claim;
use crate::api::{DataSync, Site};

/// Place of an order in the history of a VM: epoch first, then step (safety rule S2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Raised whenever the right to run moves.
    pub epoch: u64,
    /// Raised with every order of an epoch.
    pub step: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} step {}", self.epoch, self.step)
    }
}

/// One thing to do with one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the VM on where it is.
    Adopt {
        /// Where it is.
        at: Site,
        /// The claim that is taken over, named so that no other is.
        takeover: Option<Claim>,
    },
    /// Make the replica where it is missing and keep sending recovery points.
    Protect {
        /// The site that sends.
        from: Site,
    },
    /// Phase 1: bring the target to a point in time that begins now, while the VM runs; keep refreshing it.
    Synchronize {
        /// The source.
        from: Site,
    },
    /// Take the right to run from the source, then stop it and record that it stopped (safety rule S3).
    StopSource {
        /// The source.
        from: Site,
    },
    /// Phase 2: send what the stopped source has and the target has not.
    FinalSync {
        /// The source.
        from: Site,
        /// The delta, or everything.
        data_sync: DataSync,
    },
    /// Give the right to run to the target and start it.
    StartTarget {
        /// The target.
        to: Site,
    },
    /// Stop, last delta and start in one, where the driver cannot separate them.
    CompleteFailover {
        /// The source.
        from: Site,
        /// The delta, or everything.
        data_sync: DataSync,
    },
    /// Accept the result, on record at the target (safety rule S5).
    Commit {
        /// The target.
        at: Site,
    },
    /// Retire the source copy; its disks become the replica.
    RetireSource {
        /// The source.
        at: Site,
    },
    /// Protect the VM in the other direction, sending changes only.
    ReverseReplicate {
        /// The site that sends: the one that runs the VM now.
        from: Site,
    },
    /// Stop phase 1 and bring the target back to a whole point in time. Both sides that know the VM take it, under the same mark.
    CancelSync {
        /// The source.
        from: Site,
    },
    /// Turning back: bar the target at a newer epoch, stopping its guest if it runs (safety rule S2).
    FenceTarget {
        /// The target.
        to: Site,
    },
    /// Turning back: give the right to run to the source again and start it if it ran.
    ResumeSource {
        /// The source.
        from: Site,
    },
    /// The move that the registers still name is over; another may begin (safety rule S1). Nothing of the VM is touched.
    Release,
    /// Let go of the VM; nothing of it is touched.
    Detach,
}

/// The name of an action without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each is documented at the action of the same name
pub enum ActionKind {
    Adopt,
    Protect,
    Synchronize,
    StopSource,
    FinalSync,
    StartTarget,
    CompleteFailover,
    Commit,
    RetireSource,
    ReverseReplicate,
    CancelSync,
    FenceTarget,
    ResumeSource,
    Release,
    Detach,
}

impl ActionKind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Adopt,
        Self::Protect,
        Self::Synchronize,
        Self::StopSource,
        Self::FinalSync,
        Self::StartTarget,
        Self::CompleteFailover,
        Self::Commit,
        Self::RetireSource,
        Self::ReverseReplicate,
        Self::CancelSync,
        Self::FenceTarget,
        Self::ResumeSource,
        Self::Release,
        Self::Detach,
    ];

    /// The word as it stands in status, metrics and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adopt => "Adopt",
            Self::Protect => "Protect",
            Self::Synchronize => "Synchronize",
            Self::StopSource => "StopSource",
            Self::FinalSync => "FinalSync",
            Self::StartTarget => "StartTarget",
            Self::CompleteFailover => "CompleteFailover",
            Self::Commit => "Commit",
            Self::RetireSource => "RetireSource",
            Self::ReverseReplicate => "ReverseReplicate",
            Self::CancelSync => "CancelSync",
            Self::FenceTarget => "FenceTarget",
            Self::ResumeSource => "ResumeSource",
            Self::Release => "Release",
            Self::Detach => "Detach",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Action {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ActionKind {
        match self {
            Self::Adopt { .. } => ActionKind::Adopt,
            Self::Protect { .. } => ActionKind::Protect,
            Self::Synchronize { .. } => ActionKind::Synchronize,
            Self::StopSource { .. } => ActionKind::StopSource,
            Self::FinalSync { .. } => ActionKind::FinalSync,
            Self::StartTarget { .. } => ActionKind::StartTarget,
            Self::CompleteFailover { .. } => ActionKind::CompleteFailover,
            Self::Commit { .. } => ActionKind::Commit,
            Self::RetireSource { .. } => ActionKind::RetireSource,
            Self::ReverseReplicate { .. } => ActionKind::ReverseReplicate,
            Self::CancelSync { .. } => ActionKind::CancelSync,
            Self::FenceTarget { .. } => ActionKind::FenceTarget,
            Self::ResumeSource { .. } => ActionKind::ResumeSource,
            Self::Release => ActionKind::Release,
            Self::Detach => ActionKind::Detach,
        }
    }

    /// The action of this kind in a move from `from` to the other site.
    #[must_use]
    pub const fn of_move(kind: ActionKind, from: Site, data_sync: DataSync) -> Option<Self> {
        let to = from.other();
        Some(match kind {
            ActionKind::Protect => Self::Protect { from },
            ActionKind::Synchronize => Self::Synchronize { from },
            ActionKind::StopSource => Self::StopSource { from },
            ActionKind::FinalSync => Self::FinalSync { from, data_sync },
            ActionKind::StartTarget => Self::StartTarget { to },
            ActionKind::CompleteFailover => Self::CompleteFailover { from, data_sync },
            ActionKind::Commit => Self::Commit { at: to },
            ActionKind::RetireSource => Self::RetireSource { at: from },
            ActionKind::ReverseReplicate => Self::ReverseReplicate { from: to },
            ActionKind::CancelSync => Self::CancelSync { from },
            ActionKind::FenceTarget => Self::FenceTarget { to },
            ActionKind::ResumeSource => Self::ResumeSource { from },
            ActionKind::Adopt | ActionKind::Release | ActionKind::Detach => return None,
        })
    }

    /// The side whose answer tells whether the action took effect.
    #[must_use]
    pub const fn site(&self) -> Option<Site> {
        match self {
            Self::Adopt { at, .. } | Self::Commit { at } | Self::RetireSource { at } => Some(*at),
            Self::Protect { from }
            | Self::Synchronize { from }
            | Self::StopSource { from }
            | Self::FinalSync { from, .. }
            | Self::CompleteFailover { from, .. }
            | Self::ReverseReplicate { from }
            | Self::CancelSync { from }
            | Self::ResumeSource { from } => Some(*from),
            Self::StartTarget { to } | Self::FenceTarget { to } => Some(*to),
            Self::Release | Self::Detach => None,
        }
    }
}

/// An action with all that makes it safe to ask for: asking again with the same mark has no further effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The action.
    pub action: Action,
    /// Its place in the history of the VM.
    pub mark: Mark,
    /// On whose behalf.
    pub claim: Claim,
    /// UID of the Failover that it belongs to; none for protection outside of a move.
    pub failover: Option<String>,
    /// Where on the premises the VM is brought to, where that is another place than it came from.
    pub alternate: Alternate,
    /// The key certificate of encrypted data, where the action needs one.
    pub encryption_key: Option<SecretBytes>,
    /// For a service that keeps no registers: what makes it safe to send.
    pub attempt: Option<Attempt>,
}

/// Bytes that are shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes")
    }
}

/// Another place on the premises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alternate {
    /// The host.
    pub host: Option<String>,
    /// Leave to create the VM where it is not found.
    pub create_if_missing: bool,
}

impl Alternate {
    /// Whether anything is asked for.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.create_if_missing || self.host.is_some()
    }
}

/// What makes a request safe to send to a service that takes whatever comes (safety rules S18, S19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// It is not sent after this.
    pub send_before: Timestamp,
    /// The job that it acts on.
    pub job: Option<String>,
    /// Jobs that were known before. One that is not among them and does the same is the result of an attempt before.
    pub jobs_before: Vec<String>,
}
