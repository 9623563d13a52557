//! The end of a pass at the target: verified as a whole, recorded, the journal dropped; or failed, with what must not be believed.

use super::apply::StageError;
use super::gate::Session;
use super::source::Padded;
use super::target::{Target, roots};
use super::volume_set::VolumeSet;
use crate::dataplane::error::SetError;
use crate::dataplane::identity::{Content, Mode, Point, Roots};
use crate::dataplane::wire::FailureKind;

impl VolumeSet {
    /// Compares what is on the disks with the manifest of the sender; only equal roots make the content whole (S17).
    pub(crate) fn finish(
        &mut self,
        target: &mut Target,
        promised: &Roots,
        point: String,
        session: &Session,
    ) -> Result<Roots, StageError> {
        let failed = |error: &std::io::Error| StageError::io("verifying", error);
        for disk in &target.disks {
            let mut source = Padded {
                disk: disk.disk.as_ref(),
                size: disk.geometry.size(),
            };
            disk.table
                .learn_all(&mut source)
                .map_err(|error| failed(&error))?;
            // A session that had nothing to write may follow one that had: its writes are synced here at the latest.
            disk.disk.sync().map_err(|error| StageError {
                disk_sync: true,
                ..failed(&error)
            })?;
            disk.table.sync().map_err(|error| failed(&error))?;
        }
        let found = roots(&target.disks).map_err(|error| failed(&error))?;
        if found != *promised {
            let others: Vec<_> = promised
                .iter()
                .filter(|(id, root)| found.get(id) != Some(root))
                .map(|(id, _)| id.as_str())
                .collect();
            self.distrust();
            let text = format!(
                "the digests of disk {} are not those of the source",
                others.join(", ")
            );
            return Err(StageError::new(FailureKind::Corrupt, text));
        }
        let whole = Point {
            roots: found.clone(),
            point,
            pass: target.pass,
        };
        // S9: that the content is whole is a write too, and drops what an undo would need.
        let _entered = session
            .enter()
            .map_err(|barred| StageError::new(FailureKind::Barred, barred.to_string()))?;
        self.record_finish(target, whole)
            .map_err(|error| state_error(&error))?;
        Ok(found)
    }

    fn record_finish(&mut self, target: &mut Target, whole: Point) -> Result<(), SetError> {
        if target.in_place_of {
            return self.swap_in(whole);
        }
        if target.mode == Mode::NewFiles {
            if let Content::NewFiles { whole: slot, .. } = &mut self.record.content {
                *slot = Some(whole);
            }
            return self.store();
        }
        if let Some(mut journal) = target.journal.take() {
            // From this record on, recovery goes forward.
            journal.commit(&whole).map_err(|source| SetError::Io {
                what: "commit",
                path: self.journal_path(),
                source,
            })?;
        }
        self.record_whole(Content::Whole {
            point: whole,
            exact: true,
        })?;
        self.drop_journal()
    }

    /// After roots that did not match: no bitmap counts, and no table entry.
    fn distrust(&mut self) {
        // Best effort: where it cannot be recorded, the next pass comes to the same honest mismatch.
        match &mut self.record.content {
            Content::Partial { distrust, .. } => {
                *distrust = true;
                let _ = self.forget_tables().and_then(|()| self.store());
            }
            Content::NewFiles { base, .. } => {
                let base = base.clone();
                let _ = self.leave_new_files(base);
            }
            // Nothing was written: what was known before still holds.
            Content::Unknown | Content::Whole { .. } => {}
        }
    }

    /// Notes what a failed session leaves: after a failed sync nothing that the cache shows may be believed (S12).
    pub(crate) fn note_failure(&mut self, target: &Target, error: &StageError) {
        if error.journal_sync
            && let Some(journal) = &target.journal
        {
            self.journal_limit = Some(journal.synced());
        }
        if !error.disk_sync {
            return;
        }
        match &mut self.record.content {
            Content::NewFiles { base, .. } => {
                let base = base.clone();
                // The copy begins anew.
                let _ = self.leave_new_files(base);
            }
            Content::Partial { resend, .. } => {
                *resend = true;
                self.resend = true;
                let _ = self.store();
            }
            Content::Unknown | Content::Whole { .. } => {}
        }
    }
}

fn state_error(error: &SetError) -> StageError {
    let kind = if error.is_no_space() {
        FailureKind::NoSpace
    } else {
        FailureKind::TargetIo
    };
    StageError::new(kind, error.to_string())
}
