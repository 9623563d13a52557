//! Points in time of a running guest (S15).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use super::commands::{bitmap, disk_node, prepare_point, publish, switch, transaction};
use super::files::{self, PointRecord, ProcessRecord, VERSION, storage};
use super::graph::Settle;
use super::guest::{Guest, Monitor, blocking};
use super::nbd::{ALLOCATION, NbdClient, STATE_DIRTY, bitmap_context};
use crate::agent::hypervisor::{
    Dirty, Generation, GuestPower, HypervisorError, LostGeneration, Point, PointDisk, PointOutcome,
    PointTicket, Ranges, Result, Tracking,
};

impl Guest {
    pub(super) async fn begin_point(
        &self,
        old: Option<Generation>,
        new: Generation,
    ) -> Result<Point> {
        let _turn = self.locks.operation.lock().await;
        if self.point()?.is_some() {
            return Err(HypervisorError::WrongPoint(
                "a point in time is open or was left half made: end it or recover the guest".into(),
            ));
        }
        match self.power().await {
            GuestPower::Running => {}
            GuestPower::Unknown { why } => return Err(HypervisorError::Silent(why)),
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "a running guest",
                });
            }
        }
        let process = self.started()?;
        if process.disks.is_empty() {
            return Err(HypervisorError::WrongPoint("the guest has no disks".into()));
        }
        let mut monitor = self.monitor().await?;
        let state = monitor.run_state(self).await?;
        if state == "suspended" {
            // Before version 9, QEMU's `cont` lets the processors of a sleeping guest run without waking it.
            return Err(HypervisorError::WrongPower {
                found: GuestPower::Paused { state },
                needed: "a guest that is awake: wake it up or shut it down",
            });
        }
        let graph = monitor.graph(self).await?;
        let known = graph.generations(process.disks.len());
        if known.contains(&new) {
            return Err(HypervisorError::WrongPoint(format!(
                "the generation {new} has begun before"
            )));
        }
        let lost = match old {
            None => Some(LostGeneration::NotAsked),
            Some(old) => self.holds(&graph, &process, old).await?.err(),
        };
        let sizes: Vec<u64> = (0..process.disks.len())
            .map(|index| graph.size(index).unwrap_or(0))
            .collect();
        let scratch = (0..process.disks.len())
            .map(|index| {
                self.config
                    .scratch_dir
                    .join(format!("{}.{new}.{index}.scratch", self.vm))
            })
            .collect();
        let record = PointRecord {
            version: VERSION,
            asked: old,
            old: old.filter(|_| lost.is_none()),
            new,
            scratch,
        };
        {
            let (guest, process, record) = (self.clone(), process.clone(), record.clone());
            let prepared = blocking(move || {
                // S14: the shape at the beginning of the new generation, stored before it begins.
                guest.note_sizes(&known, new, &process, &sizes)?;
                files::write(&guest.files.point(), &record)?;
                guest.make_scratch(&record, &sizes)
            });
            if let Err(error) = prepared.await? {
                self.clear_point_files()?;
                return Err(error);
            }
        }
        let taken = self
            .take_point(&mut monitor, process.disks.len(), &record)
            .await;
        // Reading the bitmaps may take a while; others may ask the monitor meanwhile.
        drop(monitor);
        let point = match taken {
            Ok(taken_at) => self.open_point(&process, &record, lost, taken_at).await,
            Err(error) => Err(error),
        };
        match point {
            Ok(point) => Ok(point),
            // Whoever is silent is in an unknown state: everything stays as it is for `recover`.
            Err(error @ HypervisorError::Silent(_)) => Err(error),
            Err(error) => match self.take_back(&process, &record).await {
                Ok(()) => Err(error),
                Err(second) => Err(HypervisorError::Silent(format!(
                    "{error}; and taking it back: {second}"
                ))),
            },
        }
    }

    /// After a point that could not be begun.
    async fn take_back(&self, process: &ProcessRecord, record: &PointRecord) -> Result<()> {
        let mut monitor = self.monitor().await?;
        self.settle(&mut monitor, process, record, Settle::Failed)
            .await
    }

    fn make_scratch(&self, record: &PointRecord, sizes: &[u64]) -> Result<()> {
        std::fs::create_dir_all(&self.config.scratch_dir)
            .map_err(storage(&self.config.scratch_dir))?;
        for (path, size) in record.scratch.iter().zip(sizes) {
            // Sparse: it takes the space of what the guest overwrites while the point is open.
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(path)
                .map_err(storage(path))?;
            file.set_len(*size).map_err(storage(path))?;
        }
        Ok(())
    }

    /// The commands of a point; returns an instant right before it.
    async fn take_point(
        &self,
        monitor: &mut Monitor<'_>,
        disks: usize,
        record: &PointRecord,
    ) -> Result<jiff::Timestamp> {
        let patience = self.config.command_timeout;
        let timeout = self.config.scratch_timeout.as_secs().max(1);
        let prepare: Vec<_> = record
            .scratch
            .iter()
            .enumerate()
            .flat_map(|(index, path)| prepare_point(index, path, timeout))
            .collect();
        monitor.session.all(&prepare, patience).await?;
        let (taken_at, stopped) = (jiff::Timestamp::now(), std::time::Instant::now());
        // S15: one write for the whole switch, and the last command lets the guest go on whatever became of the others.
        let switch = switch(disks, record.old, record.new);
        monitor.session.all(&switch, patience).await?;
        tracing::debug!(vm = %self.vm, paused = ?stopped.elapsed(), "point in time");
        files::remove(&self.files.nbd_socket())?;
        let publish = publish(disks, &self.files.nbd_socket(), record.old);
        monitor.session.all(&publish, patience).await?;
        Ok(taken_at)
    }

    /// Connects to the exports of a point and reads its dirty ranges.
    async fn open_point(
        &self,
        process: &ProcessRecord,
        record: &PointRecord,
        lost: Option<LostGeneration>,
        taken_at: jiff::Timestamp,
    ) -> Result<Point> {
        let patience = self.config.command_timeout;
        let (socket, old) = (self.files.nbd_socket(), record.old);
        let ids: Vec<_> = process.disks.iter().map(|disk| disk.id.clone()).collect();
        let opened = blocking(move || -> std::io::Result<_> {
            let mut found = Vec::new();
            let mut dirty: BTreeMap<_, Ranges> = BTreeMap::new();
            for (index, id) in ids.into_iter().enumerate() {
                let bits = old.map(|old| bitmap_context(&bitmap(old)));
                let contexts: Vec<_> = std::iter::once(ALLOCATION.to_owned())
                    .chain(bits.clone())
                    .collect();
                let mut client =
                    NbdClient::connect(&socket, &disk_node(index), &contexts, patience)?;
                let size = client.size();
                if let Some(bits) = bits {
                    dirty.insert(id.clone(), client.dirty_ranges(&bits, STATE_DIRTY)?);
                }
                found.push(PointDisk {
                    id,
                    size,
                    source: Box::new(client),
                });
            }
            Ok((found, dirty))
        });
        let (found, dirty) = opened.await?.map_err(|error| {
            HypervisorError::Process(format!("the export of the point: {error}"))
        })?;
        Ok(Point {
            ticket: PointTicket {
                vm: self.vm,
                old: record.asked,
                new: record.new,
            },
            disks: found,
            dirty: lost.map_or(Dirty::Known(dirty), Dirty::Lost),
            taken_at,
        })
    }

    pub(super) async fn end_point(
        &self,
        ticket: &PointTicket,
        outcome: PointOutcome,
    ) -> Result<Tracking> {
        let _turn = self.locks.operation.lock().await;
        let point = self.point()?.filter(|point| {
            point.new == ticket.new && point.asked == ticket.old && ticket.vm == self.vm
        });
        let Some(point) = point else {
            return Err(HypervisorError::WrongPoint(
                "this point in time is not open".into(),
            ));
        };
        if self.identity()?.is_none() {
            self.clear_point_files()?;
            return Ok(Tracking::default());
        }
        let process = self.started()?;
        let mut monitor = self.monitor().await?;
        let settle = match outcome {
            PointOutcome::Delivered => Settle::Delivered,
            PointOutcome::Failed => Settle::Failed,
        };
        self.settle(&mut monitor, &process, &point, settle).await?;
        let graph = monitor.graph(self).await?;
        self.held(&graph, &process).await
    }

    /// Takes a point back out of the guest's way, whatever is there of it. May be cut off and done again at any place.
    pub(super) async fn settle(
        &self,
        monitor: &mut Monitor<'_>,
        process: &ProcessRecord,
        point: &PointRecord,
        settle: Settle,
    ) -> Result<()> {
        let (disks, patience) = (process.disks.len(), self.config.command_timeout);
        monitor.stop_exports(self).await?;
        let drives = monitor.drives(self, disks).await?;
        let unwind = monitor.graph(self).await?.unwind(&drives);
        // One after the other: each rests on the one before.
        for command in unwind {
            monitor.session.one(command, patience).await?;
        }
        let actions = monitor.graph(self).await?.settle(disks, point, settle);
        if !actions.is_empty() {
            monitor.session.one(transaction(&actions), patience).await?;
        }
        files::remove(&self.files.nbd_socket())?;
        self.clear_point_files()
    }
}
