//! S11: the point of no undo, and the swap of new files for old ones that belongs to it.

use super::undo::incoming_path;
use super::volume_set::{VolumeSet, parent};
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, Point, Roots};

impl VolumeSet {
    /// Marks the whole content as the one that a start rests on, durably, and swaps new files in. After it undo is refused for
    /// ever. Sealing the same content again does nothing.
    ///
    /// # Errors
    /// [`SetError::NotWhole`] and [`SetError::OtherRoots`] when the disks do not hold exactly this: nothing has changed then.
    pub fn seal(&mut self, expected: &Roots) -> Result<(), SetError> {
        self.recover()?;
        if self.record.sealed.as_ref() == Some(expected) {
            return Ok(());
        }
        self.void_if_touched()?;
        let Some(point) = self.record.content.whole().cloned() else {
            return Err(SetError::NotWhole(self.record.content.kind()));
        };
        // S3, S17: a start rests on verified content of just this manifest.
        if point.roots != *expected {
            return Err(SetError::OtherRoots);
        }
        if matches!(self.record.content, Content::NewFiles { .. }) {
            // The mark comes first: from here on recovery only goes forward.
            self.record.swap = Some(point);
            self.store()?;
            return self.finish_swap();
        }
        self.mark_sealed(point)
    }

    /// Swaps the new files in, wherever a crash has left it, and seals where a seal has begun it.
    pub(super) fn finish_swap(&mut self) -> Result<(), SetError> {
        let Some(point) = self.record.swap.clone() else {
            return Ok(());
        };
        for disk in self.record.disks.clone() {
            let incoming = incoming_path(&disk.path);
            if self.fs.exists(&incoming).context("look for", &incoming)? {
                if self.fs.exists(&disk.path).context("look for", &disk.path)? {
                    self.fs
                        .own_like(&incoming, &disk.path)
                        .context("give owner to", &incoming)?;
                }
                self.fs
                    .rename(&incoming, &disk.path)
                    .context("rename", &incoming)?;
            }
            // Also when the rename was done before a crash: its durability is not known.
            let dir = parent(&disk.path);
            self.fs.sync_dir(dir).context("sync", dir)?;
            let (from, to) = (
                self.table_path(&disk.id, "incoming"),
                self.table_path(&disk.id, "digests"),
            );
            if self.fs.exists(&from).context("look for", &from)? {
                self.fs.rename(&from, &to).context("rename", &from)?;
            }
        }
        let tables = self.dir.join("tables");
        self.fs.sync_dir(&tables).context("sync", &tables)?;
        self.record.swap = None;
        if std::mem::take(&mut self.record.swap_only) {
            return self.record_whole(Content::Whole { point, exact: true });
        }
        self.mark_sealed(point)
    }

    fn mark_sealed(&mut self, point: Point) -> Result<(), SetError> {
        self.record.sealed = Some(point.roots.clone());
        // Whoever starts the VM writes: from now on the tables are a bitmap's base and do not stand for the disks.
        self.record.content = Content::Whole {
            point,
            exact: false,
        };
        self.record.disks.iter_mut().for_each(|disk| {
            disk.stamp = None;
            disk.fresh = false;
        });
        self.store()
    }
}
