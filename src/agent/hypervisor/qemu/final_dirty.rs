//! What a guest had written when it powered off, and how much it has written so far.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::commands::{Command, FINAL_BITMAP, disk_node, export, start_server};
use super::files::{ProcessRecord, remove};
use super::graph::Settle;
use super::guest::{Guest, blocking};
use super::nbd::{NbdClient, STATE_DIRTY, bitmap_context};
use crate::agent::hypervisor::{
    Dirty, Generation, GuestPower, HypervisorError, LostGeneration, Result,
};

impl Guest {
    pub(super) async fn final_dirty(&self, generation: Generation) -> Result<Dirty> {
        let _turn = self.locks.operation.lock().await;
        match self.power().await {
            GuestPower::ShutDown => {}
            GuestPower::Gone => return Ok(Dirty::Lost(LostGeneration::ProcessGone)),
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "a guest that has powered off",
                });
            }
        }
        let process = self.started()?;
        let disks = process.disks.len();
        let mut monitor = self.monitor().await?;
        monitor.stop_exports(self).await?;
        if let Some(point) = self.point()? {
            self.settle(&mut monitor, &process, &point, Settle::Unknown)
                .await?;
        }
        let graph = monitor.graph(self).await?;
        if let Err(lost) = self.holds(&graph, &process, generation).await? {
            return Ok(Dirty::Lost(lost));
        }
        if disks == 0 {
            return Ok(Dirty::Known(BTreeMap::new()));
        }
        // S3: a bare reset does not revive it any more. Who overrides this is found out by the bitmaps that watch.
        monitor
            .session
            .one(
                Command::new("set-action", json!({"reboot": "shutdown"})),
                self.config.answer_timeout,
            )
            .await?;
        // The generation goes on recording: should the guest be revived all the same, it still tells the truth. A copy is read, since
        // QEMU exports no recording bitmap read-only.
        monitor
            .session
            .all(
                &graph.freeze(disks, generation),
                self.config.command_timeout,
            )
            .await?;
        remove(&self.files.nbd_socket())?;
        let mut commands = vec![start_server(&self.files.nbd_socket())];
        commands.extend((0..disks).map(|index| {
            export(
                index,
                &disk_node(index),
                &[json!({"node": disk_node(index), "name": FINAL_BITMAP})],
            )
        }));
        monitor
            .session
            .all(&commands, self.config.command_timeout)
            .await?;
        let read = self.read_bitmaps(&process, FINAL_BITMAP.to_owned()).await;
        monitor.stop_exports(self).await?;
        match monitor.status(self).await? {
            GuestPower::ShutDown => read.map(Dirty::Known),
            found => Err(HypervisorError::WrongPower {
                found,
                needed: "a guest that stays powered off",
            }),
        }
    }

    /// The dirty ranges of the exported bitmap `name` of all disks.
    async fn read_bitmaps(
        &self,
        process: &ProcessRecord,
        name: String,
    ) -> Result<BTreeMap<String, Vec<std::ops::Range<u64>>>> {
        let (socket, patience): (_, Duration) =
            (self.files.nbd_socket(), self.config.command_timeout);
        let ids: Vec<_> = process.disks.iter().map(|disk| disk.id.clone()).collect();
        let read = blocking(move || -> std::io::Result<_> {
            let context = bitmap_context(&name);
            let mut found = BTreeMap::new();
            for (index, id) in ids.into_iter().enumerate() {
                let mut client = NbdClient::connect(
                    &socket,
                    &disk_node(index),
                    std::slice::from_ref(&context),
                    patience,
                )?;
                found.insert(id, client.dirty_ranges(&context, STATE_DIRTY)?);
            }
            Ok(found)
        });
        read.await?.map_err(|error| {
            HypervisorError::Process(format!("the export of the bitmaps: {error}"))
        })
    }

    pub(super) async fn dirty_bytes(&self, generation: Generation) -> Result<Option<u64>> {
        if self.identity()?.is_none() {
            return Ok(None);
        }
        let process = self.started()?;
        let point = self.point()?;
        let graph = self.monitor().await?.graph(self).await?;
        // While a point is open its old generation does not record; what it missed is in the new one.
        let during_point = point
            .as_ref()
            .is_some_and(|point| point.old == Some(generation));
        if !during_point && self.holds(&graph, &process, generation).await?.is_err() {
            return Ok(None);
        }
        Ok(graph.dirty_bytes(process.disks.len(), generation, point.as_ref()))
    }
}
