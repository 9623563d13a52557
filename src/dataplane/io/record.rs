//! `set.json`: what is known of a volume set, replaced as a whole and durably.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fs::{Fs, Open, Stamp};
use super::volume_set::DiskSpec;
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, DiskId, Point, Roots};

/// The version of the file that this build reads and writes.
const VERSION: u32 = 1;

/// Longest file that is read, in bytes.
const MAX: u64 = 1 << 20;

/// Everything in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    pub(crate) vm: Uuid,
    pub(crate) disks: Vec<DiskRecord>,
    pub(crate) content: Content,
    /// The roots that a start rests on (S11).
    pub(crate) sealed: Option<Roots>,
    /// New files are being swapped in for the old; recovery goes on with it.
    pub(crate) swap: Option<Point>,
    /// The swap ends a pass; nothing is sealed by it.
    #[serde(default)]
    pub(crate) swap_only: bool,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiskRecord {
    pub(crate) id: DiskId,
    pub(crate) path: PathBuf,
    /// Bytes, as of the recorded content; of the incoming files while there are some.
    pub(crate) size: u64,
    /// Made by Homeward and never written: all zeros.
    pub(crate) fresh: bool,
    /// How the file looked when the content was recorded.
    pub(crate) stamp: Option<Stamp>,
}

impl DiskRecord {
    pub(crate) fn spec(&self) -> DiskSpec {
        DiskSpec {
            id: self.id.clone(),
            path: self.path.clone(),
            size: self.size,
        }
    }
}

impl Record {
    pub(crate) fn new(vm: Uuid, disks: Vec<DiskRecord>) -> Self {
        Self {
            version: VERSION,
            vm,
            disks,
            content: Content::Unknown,
            sealed: None,
            swap: None,
            swap_only: false,
        }
    }

    /// Reads the file; `None` when there is none yet.
    pub(crate) fn load(fs: &dyn Fs, path: &Path) -> Result<Option<Self>, SetError> {
        if !fs.exists(path).context("look for", path)? {
            return Ok(None);
        }
        let file = fs.open(path, Open::Read).context("open", path)?;
        let size = file.size().context("read", path)?.min(MAX);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = file.read_at(0, &mut bytes).context("read", path)?;
        let damaged = |why: String| SetError::Damaged {
            path: path.to_owned(),
            why,
        };
        let record: Self =
            serde_json::from_slice(&bytes[..read]).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("version {} is not known", record.version)));
        }
        Ok(Some(record))
    }

    /// Writes the file so that after a crash it is the old or the new one, and after this returns the new one.
    pub(crate) fn store(&self, fs: &dyn Fs, path: &Path) -> Result<(), SetError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| SetError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        let next = path.with_extension("json.next");
        let write = || -> io::Result<()> {
            fs.remove(&next)?;
            let file = fs.open(&next, Open::CreateNew)?;
            file.write_at(0, &bytes)?;
            file.sync()?;
            fs.rename(&next, path)?;
            path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir))
        };
        write().context("write", path)
    }
}
