//! A volume set as the source of a pass: its tables grow beside the recorded ones and replace them when the target is whole.

use super::table::Table;
use super::volume_set::VolumeSet;
use crate::dataplane::blocks::Geometry;
use crate::dataplane::error::{Context, SetError};
use crate::dataplane::identity::{Content, DiskId, Point, Roots};

impl VolumeSet {
    /// The roots that the recorded tables describe, if they do: where a bitmap may begin.
    pub(crate) fn source_base(&self) -> Option<&Roots> {
        match &self.record.content {
            Content::Whole { point, .. } => Some(&point.roots),
            _ => None,
        }
    }

    /// Begins tables for a pass: copies of the recorded ones, or empty ones. The recorded ones stay until the pass is whole.
    pub(crate) fn begin_source(
        &mut self,
        shape: &[(DiskId, u64)],
        from_base: bool,
    ) -> Result<Vec<Table>, SetError> {
        if matches!(
            self.record.content,
            Content::Partial { .. } | Content::NewFiles { .. }
        ) {
            return Err(SetError::NotWhole(self.record.content.kind()));
        }
        if shape.len() != self.record.disks.len()
            || !shape.iter().all(|(id, _)| self.disk_record(id).is_some())
        {
            return Err(SetError::Shape(
                "the disks to read are not the disks of this VM".to_owned(),
            ));
        }
        let mut tables = Vec::new();
        for (id, size) in shape {
            let geometry = Geometry::new(*size).ok_or_else(|| {
                SetError::Shape(format!("disk {id} has no possible size: {size}"))
            })?;
            let path = self.table_path(id, "next");
            let next = Table::create(self.fs.as_ref(), &path, geometry).context("create", &path)?;
            if from_base {
                let base =
                    self.open_table(id, "digests", geometry)?
                        .ok_or_else(|| SetError::Damaged {
                            path: self.table_path(id, "digests"),
                            why: "the recorded table is not there".to_owned(),
                        })?;
                next.copy_from(&base).context("write", &path)?;
            }
            tables.push(next);
        }
        Ok(tables)
    }

    /// Makes the tables of a pass the recorded ones. S13: called only after the target has confirmed.
    pub(crate) fn commit_source(
        &mut self,
        tables: Vec<Table>,
        shape: &[(DiskId, u64)],
        point: Point,
    ) -> Result<(), SetError> {
        for ((id, _), table) in shape.iter().zip(&tables) {
            table.sync().context("sync", &self.table_path(id, "next"))?;
        }
        drop(tables);
        // Between the first rename and the record the tables are of two points: nothing may rest on them.
        self.record.content = Content::Unknown;
        self.store()?;
        for (id, size) in shape {
            let (from, to) = (self.table_path(id, "next"), self.table_path(id, "digests"));
            self.fs.rename(&from, &to).context("rename", &from)?;
            if let Some(disk) = self.record.disks.iter_mut().find(|disk| disk.id == *id) {
                disk.size = *size;
                disk.fresh = false;
            }
        }
        let dir = self.dir.join("tables");
        self.fs.sync_dir(&dir).context("sync", &dir)?;
        self.record.content = Content::Whole {
            point,
            exact: false,
        };
        self.store()
    }
}
