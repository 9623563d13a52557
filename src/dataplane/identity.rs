//! The words of a pass: which disk, which pass, what a set of disks holds. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::digest::Digest;

/// The stable name of a disk of a VM, the same on both sides. It names files, so it is plain: 1 to 64 of `A-Z a-z 0-9 . _ -`, and
/// does not begin with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// Longest name, in bytes.
    pub const MAX: usize = 64;

    /// A disk's name.
    ///
    /// # Errors
    /// When the text could not name a file plainly.
    pub fn new(text: impl Into<String>) -> Result<Self, BadDiskId> {
        let text = text.into();
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if text.is_empty()
            || text.len() > Self::MAX
            || text.starts_with('.')
            || !text.bytes().all(plain)
        {
            return Err(BadDiskId);
        }
        Ok(Self(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskId {
    type Error = BadDiskId;
    fn try_from(text: String) -> Result<Self, BadDiskId> {
        Self::new(text)
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.0
    }
}

/// A text that is no disk id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a disk id is 1 to 64 letters, digits, dots, underscores or dashes and does not begin with a dot"
)]
pub struct BadDiskId;

/// The roots of all disks of a VM at one point in time: its manifest.
pub type Roots = BTreeMap<DiskId, Digest>;

/// One whole point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// One root a disk.
    pub roots: Roots,
    /// The point's name as the source gave it, usually a timestamp. Not interpreted.
    pub point: String,
    /// The pass that brought it.
    pub pass: Uuid,
}

/// What a volume set holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Content {
    /// Nothing is known. Digests are read anew.
    Unknown,
    /// One whole point in time.
    Whole {
        /// The point.
        point: Point,
        /// Whether the disks still hold exactly it. Not so at a source whose guest has run on since, nor after a seal: there the
        /// tables serve as the base of a bitmap and never stand for the disks.
        exact: bool,
    },
    /// A pass has written to the disks and did not finish: the journal is open and can take everything back.
    Partial {
        /// What the disks held before; `None`: it was not known, undo still restores every byte.
        base: Option<Point>,
        /// The latest pass that wrote.
        pass: Uuid,
        /// A bitmap has led to roots that did not match, so the next pass must compare everything.
        distrust: bool,
        /// A sync has failed: what the cache shows of journaled blocks may not be on the disk, so they are sent again (S12).
        resend: bool,
    },
    /// A full copy into new files, under way or whole; the old files lie untouched beside it until the seal.
    NewFiles {
        /// What the old files hold.
        base: Option<Point>,
        /// The pass that copies.
        pass: Uuid,
        /// The point that the new files hold, once whole and verified.
        whole: Option<Point>,
    },
}

impl Content {
    /// The whole point that would be sealed now, in place or in new files.
    #[must_use]
    pub fn whole(&self) -> Option<&Point> {
        match self {
            Self::Whole { point, exact: true } => Some(point),
            Self::NewFiles { whole, .. } => whole.as_ref(),
            Self::Whole { .. } | Self::Partial { .. } | Self::Unknown => None,
        }
    }

    /// One word, for logs and refusals.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Whole { exact: true, .. } => "whole",
            Self::Whole { exact: false, .. } => "whole, written to since",
            Self::Partial { .. } => "partial",
            Self::NewFiles { whole: None, .. } => "new files, incomplete",
            Self::NewFiles { whole: Some(_), .. } => "new files, whole",
        }
    }
}

/// How a pass writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Onto the disks themselves, under the undo journal.
    InPlace,
    /// Into new files that are swapped in by the seal.
    NewFiles,
}

/// Which candidates a pass worked from in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedCandidates {
    /// Every block was compared or copied.
    All(WhyAll),
    /// Only the ranges of a trusted bitmap.
    Ranges,
}

/// Why every block was a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyAll {
    /// The caller asked for it.
    Asked,
    /// A full copy takes everything.
    FullCopy,
    /// The target has no room for an undo journal and takes the pass as a full copy (S10).
    NoJournal,
    /// The target does not hold the base that the bitmap starts from.
    TargetBase,
    /// The source's own table does not describe the base that the bitmap starts from.
    SourceBase,
    /// The set or the size of the disks differs (S14).
    Shape,
}
