//! Stopping a guest, and ending its process.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::commands::Command;
use super::guest::{Guest, Monitor};
use super::process;
use crate::agent::hypervisor::{GuestPower, HypervisorError, QuitReport, Result, Stopped};

/// How often the state is looked at while a guest powers down.
const POLL: Duration = Duration::from_millis(100);
/// After this time the power button is pressed again: a guest that is still booting has not heard the first time.
const PRESS_AGAIN: Duration = Duration::from_secs(10);

impl Guest {
    pub(super) async fn power_down(&self, deadline: Duration) -> Result<Stopped> {
        let until = Instant::now() + deadline;
        let mut pressed: Option<Instant> = None;
        loop {
            match self.power().await {
                GuestPower::ShutDown => return Ok(Stopped::ShutDown),
                GuestPower::Gone => return Ok(Stopped::Gone),
                GuestPower::Running => {}
                found @ GuestPower::Paused { .. } => {
                    return Err(HypervisorError::WrongPower {
                        found,
                        needed: "a running guest: one that is paused cannot power down",
                    });
                }
                GuestPower::Unknown { why } if Instant::now() >= until => {
                    return Err(HypervisorError::Silent(why));
                }
                GuestPower::Unknown { .. } => {
                    sleep(POLL).await;
                    continue;
                }
            }
            if Instant::now() >= until {
                // No escalation: whether to take the power away is for the caller to say.
                return Err(HypervisorError::Deadline { deadline });
            }
            if pressed.is_none_or(|at| at.elapsed() >= PRESS_AGAIN) {
                match self.press().await {
                    Ok(()) => pressed = Some(Instant::now()),
                    Err(HypervisorError::Silent(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            sleep(POLL.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn press(&self) -> Result<()> {
        let mut monitor = self.monitor().await?;
        monitor
            .session
            .one(
                Command::bare("system_powerdown"),
                self.config.answer_timeout,
            )
            .await
            .map(|_| ())
    }

    pub(super) async fn power_off(&self) -> Result<Stopped> {
        match self.power().await {
            GuestPower::Gone => return Ok(Stopped::Gone),
            GuestPower::ShutDown => return Ok(Stopped::ShutDown),
            GuestPower::Running => match self.pull_cord().await {
                Ok(()) => return Ok(Stopped::ShutDown),
                Err(error) => {
                    tracing::warn!(vm = %self.vm, %error, "the guest is killed: its monitor did not take the power away");
                }
            },
            found => tracing::warn!(vm = %self.vm, %found, "the guest is killed"),
        }
        self.kill_process().await?;
        Ok(Stopped::Gone)
    }

    /// A reset that ends in the state of a guest that has powered off: QEMU drains and flushes its disks and stays.
    async fn pull_cord(&self) -> Result<()> {
        {
            let mut monitor = self.monitor().await?;
            let commands = [
                Command::new("set-action", json!({"reboot": "shutdown"})),
                Command::bare("system_reset"),
            ];
            monitor
                .session
                .all(&commands, self.config.command_timeout)
                .await?;
        }
        let until = Instant::now() + self.config.command_timeout;
        loop {
            match self.power().await {
                GuestPower::ShutDown => return Ok(()),
                found if Instant::now() >= until => {
                    return Err(HypervisorError::WrongPower {
                        found,
                        needed: "a guest that is off",
                    });
                }
                _ => sleep(POLL / 10).await,
            }
        }
    }

    /// Kills the process and waits until it is gone.
    pub(super) async fn kill_process(&self) -> Result<()> {
        self.running.look_anew();
        let known = self.identity()?;
        let identity = match known {
            Some(identity) => Some(identity),
            None => self.stranger()?,
        };
        if let Some(identity) = identity {
            let failed = |error: std::io::Error| {
                HypervisorError::Process(format!("process {}: {error}", identity.pid))
            };
            process::kill(identity).map_err(failed)?;
            let deadline = tokio::time::Instant::now() + self.config.command_timeout;
            while process::is_there(identity).map_err(failed)? {
                if tokio::time::Instant::now() >= deadline {
                    return Err(HypervisorError::Silent("the process does not end".into()));
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        self.await_end().await
    }

    /// Ends the process of a guest that is off.
    pub(super) async fn end_process(&self) -> Result<()> {
        let mut monitor = self.monitor().await?;
        self.send_quit(&mut monitor).await?;
        drop(monitor);
        self.await_end().await
    }

    async fn send_quit(&self, monitor: &mut Monitor<'_>) -> Result<()> {
        let quit = Command::bare("quit");
        match monitor.session.one(quit, self.config.command_timeout).await {
            // It may go before its answer has left; whether it is gone is looked at anyway.
            Ok(_) | Err(HypervisorError::Silent(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn quit(&self) -> Result<QuitReport> {
        let _turn = self.locks.operation.lock().await;
        match self.power().await {
            GuestPower::ShutDown => {}
            GuestPower::Gone => {
                self.await_end().await?;
                return Ok(QuitReport::NotWatched);
            }
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "a guest that has powered off",
                });
            }
        }
        let report = {
            let mut monitor = self.monitor().await?;
            let disks = self.process()?.map_or(0, |record| record.disks.len());
            // S3: this session has the monitor for itself, so nobody revives the guest between the look and the end.
            match monitor.status(self).await? {
                GuestPower::ShutDown => {}
                found => {
                    return Err(HypervisorError::WrongPower {
                        found,
                        needed: "a guest that has powered off",
                    });
                }
            }
            let report = match monitor.graph(self).await?.written_since_freeze(disks) {
                Some(false) => QuitReport::Untouched,
                Some(true) => QuitReport::Written,
                None => QuitReport::NotWatched,
            };
            self.send_quit(&mut monitor).await?;
            report
        };
        self.await_end().await?;
        Ok(report)
    }
}
