//! How a pass, and work on a volume set, can fail. The kind is the enum's variant; words for people are its text.

use std::io;
use std::path::PathBuf;

use super::identity::DiskId;
use super::wire::{Failure, Refusal};

/// A side of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side that reads.
    Source,
    /// The side that writes.
    Target,
}

/// Why work on a volume set failed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A file could not be read, written or synced.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has content that this version cannot have written.
    #[error("{path} is damaged: {why}; see the runbook on replication that does not get through", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The VM has been started from this content: it cannot be undone any more (S11).
    #[error("the content is sealed, the VM may have run from it: it cannot be undone")]
    Sealed,
    /// The disks do not hold one whole, verified point.
    #[error("the disks do not hold a whole point: they are {0}")]
    NotWhole(&'static str),
    /// The disks hold another point than was expected.
    #[error("the disks hold another point than was expected")]
    OtherRoots,
    /// The disks are not the recorded ones, or not of a size or kind that allows this.
    #[error("{0}")]
    Shape(String),
    /// Somebody else uses the disks or the state.
    #[error("{path} is in use", path = path.display())]
    Busy {
        /// What is in use.
        path: PathBuf,
    },
    /// A file is there already and is not overwritten.
    #[error("{path} exists and is not overwritten", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What undo has restored is not what was there before: the disks are now of unknown content.
    #[error("disk {0}: what was restored does not have the digest it had; its content is unknown")]
    UndoMismatch(DiskId),
}

/// Adds what was tried and on which file.
pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: &std::path::Path) -> Result<T, SetError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: &std::path::Path) -> Result<T, SetError> {
        self.map_err(|source| SetError::Io {
            what,
            path: path.to_owned(),
            source,
        })
    }
}

impl SetError {
    /// Whether it is want of space.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_space(source))
    }
}

/// Whether an error is want of space or quota.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Why a pass failed. After each of them the target is whole: old, new, or one undo away from old.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The caller has cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// No connection could be made, or it broke. The same pass can go on where it was.
    #[error("the connection to the target failed: {0}")]
    Disconnected(io::Error),
    /// The peer's certificate or ours was not accepted.
    #[error("the TLS connection to the target failed: {0}")]
    Tls(String),
    /// The target turned the pass away before it wrote anything.
    #[error("the target refused: {0}")]
    Refused(Refusal),
    /// The target has too little room for the journal or the copy, with how much is needed and there when it is known, in bytes.
    #[error("the target has too little space: {message}")]
    NoSpace {
        /// Bytes needed; 0 when not known.
        needed: u64,
        /// Bytes there; 0 when not known.
        available: u64,
        /// What the target said.
        message: String,
    },
    /// The source's disk could not be read.
    #[error("reading disk {disk} of the source failed: {source}")]
    SourceRead {
        /// The disk.
        disk: DiskId,
        /// Why.
        source: io::Error,
    },
    /// The source's own state could not be read or written.
    #[error("the source's state: {0}")]
    SourceState(#[from] SetError),
    /// The target could not read, write or sync.
    #[error("the target failed: {0}")]
    TargetIo(String),
    /// The target does not hold what was sent. The next pass has to compare everything.
    #[error("the target's content does not match: {0}")]
    Corrupt(String),
    /// A newer session or the target's host has barred this one (S9).
    #[error("the target has barred this session: {0}")]
    Barred(String),
    /// One side broke the protocol, or speaks another version.
    #[error("the protocol was broken by the {side:?}: {message}")]
    Protocol {
        /// Who broke it.
        side: Side,
        /// How.
        message: String,
    },
}

impl PassError {
    /// Which side failed; `None` when neither or both may have.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Cancelled | Self::SourceRead { .. } | Self::SourceState(_) => Some(Side::Source),
            Self::Refused(_)
            | Self::NoSpace { .. }
            | Self::TargetIo(_)
            | Self::Corrupt(_)
            | Self::Barred(_) => Some(Side::Target),
            Self::Protocol { side, .. } => Some(*side),
            Self::Disconnected(_) | Self::Tls(_) => None,
        }
    }

    /// A word for a metric's label.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Disconnected(_) => "disconnected",
            Self::Tls(_) => "tls",
            Self::Refused(_) => "refused",
            Self::NoSpace { .. } => "no_space",
            Self::SourceRead { .. } => "source_read",
            Self::SourceState(_) => "source_state",
            Self::TargetIo(_) => "target_io",
            Self::Corrupt(_) => "corrupt",
            Self::Barred(_) => "barred",
            Self::Protocol { .. } => "protocol",
        }
    }
}

impl From<Failure> for PassError {
    fn from(failure: Failure) -> Self {
        use super::wire::FailureKind;
        let message = failure.message;
        match failure.kind {
            FailureKind::NoSpace => Self::NoSpace {
                needed: 0,
                available: 0,
                message,
            },
            FailureKind::TargetIo => Self::TargetIo(message),
            FailureKind::Corrupt => Self::Corrupt(message),
            FailureKind::Protocol => Self::Protocol {
                side: Side::Source,
                message,
            },
            FailureKind::Barred => Self::Barred(message),
        }
    }
}

impl From<Refusal> for PassError {
    fn from(refusal: Refusal) -> Self {
        use super::wire::RefusalKind;
        if refusal.kind == RefusalKind::NoSpace {
            Self::NoSpace {
                needed: refusal.needed,
                available: refusal.available,
                message: refusal.message,
            }
        } else {
            Self::Refused(refusal)
        }
    }
}
