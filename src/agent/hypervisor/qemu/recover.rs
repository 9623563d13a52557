//! Finding a guest again after an agent died at any place.

use super::commands::Command;
use super::files::{self, Stage};
use super::graph::Settle;
use super::guest::Guest;
use crate::agent::hypervisor::{GuestPower, Recovered, Result, Tracking};

impl Guest {
    pub(super) async fn recover(&self) -> Result<Recovered> {
        let _turn = self.locks.operation.lock().await;
        let mut mended = Vec::new();
        let gone = |mended| Recovered {
            power: GuestPower::Gone,
            tracking: Tracking::default(),
            mended,
        };
        let Some(process) = self.process()? else {
            return Ok(gone(mended));
        };
        if self.identity()?.is_none() {
            if self.point()?.is_some() {
                mended.push(
                    "removed the files of a point in time of a guest that is gone".to_owned(),
                );
            }
            if process.stage != Stage::Ended && self.power().await == GuestPower::Gone {
                self.await_end().await?;
            }
            return Ok(gone(mended));
        }
        if process.stage == Stage::Starting {
            // The guest may run only once its record is complete: this one never came to an instruction.
            self.kill_process().await?;
            mended.push("ended a process whose start was cut off".to_owned());
            return Ok(gone(mended));
        }
        let mut monitor = self.monitor().await?;
        let mut power = monitor.status(self).await?;
        let point = self.point()?;
        match &power {
            GuestPower::Paused { state } if state == "prelaunch" => {
                drop(monitor);
                self.kill_process().await?;
                mended.push("ended a process whose start was cut off".to_owned());
                return Ok(gone(mended));
            }
            // Whoever pauses a guest without a point has a reason; with one it was this agent's predecessor.
            GuestPower::Paused { state } if state == "paused" && point.is_some() => {
                monitor
                    .session
                    .one(Command::bare("cont"), self.config.command_timeout)
                    .await?;
                power = monitor.status(self).await?;
                mended.push("let a guest go on that was paused for a point in time".to_owned());
            }
            _ => {}
        }
        if let Some(point) = point {
            // Nobody knows here whether the target has it: both generations are kept, each right about itself (S13).
            self.settle(&mut monitor, &process, &point, Settle::Unknown)
                .await?;
            mended.push("removed a point in time that nobody was reading".to_owned());
        } else {
            monitor.stop_exports(self).await?;
            files::remove(&self.files.nbd_socket())?;
        }
        let graph = monitor.graph(self).await?;
        Ok(Recovered {
            power,
            tracking: self.held(&graph, &process).await?,
            mended,
        })
    }
}
