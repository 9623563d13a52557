//! One guest: its files, its locks, its monitor, and the questions that every operation asks.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use super::commands::{self, Command};
use super::config::QemuConfig;
use super::files::{self, GuestFiles, PointRecord, ProcessRecord, Stage, TrackingRecord, VERSION};
use super::graph::Graph;
use super::process::{self, Identity, Presence};
use super::qmp::{Failpoint, Session};
use super::running::Running;
use crate::agent::hypervisor::disk::measure;
use crate::agent::hypervisor::{
    Generation, GuestDisk, GuestPower, HypervisorError, LostGeneration, Result, Tracking,
};

/// What keeps operations on one guest apart.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Held by whoever changes the guest's tracking or process.
    pub(super) operation: Mutex<()>,
    /// Held by whoever talks to the monitor: QEMU serves one client at a time.
    monitor: Mutex<()>,
}

/// One guest.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) vm: Uuid,
    pub(super) config: Arc<QemuConfig>,
    pub(super) running: Arc<Running>,
    pub(super) files: GuestFiles,
    pub(super) locks: Arc<Locks>,
    pub(super) failpoint: Failpoint,
}

/// A session that has the monitor for itself.
pub(super) struct Monitor<'a> {
    pub(super) session: Session,
    _turn: MutexGuard<'a, ()>,
}

/// Runs something that waits for the disk or for a process, off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    action: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(action)
        .await
        .map_err(|error| HypervisorError::Process(format!("a blocking task failed: {error}")))
}

fn power_of(status: &str) -> GuestPower {
    match status {
        "running" | "suspended" => GuestPower::Running,
        "shutdown" => GuestPower::ShutDown,
        other => GuestPower::Paused {
            state: other.to_owned(),
        },
    }
}

impl Guest {
    /// A session on the monitor.
    pub(super) async fn monitor(&self) -> Result<Monitor<'_>> {
        let turn = timeout(self.config.answer_timeout, self.locks.monitor.lock()).await;
        let turn = turn.map_err(|_| {
            HypervisorError::Silent("the monitor is busy with another operation".into())
        })?;
        let session = Session::open(
            &self.files.qmp_socket(),
            self.config.answer_timeout,
            &self.failpoint,
        )
        .await?;
        Ok(Monitor {
            session,
            _turn: turn,
        })
    }

    /// The record of the process, if any.
    pub(super) fn process(&self) -> Result<Option<ProcessRecord>> {
        let record: Option<ProcessRecord> = files::read(&self.files.process())?;
        match record {
            Some(record) if record.version != VERSION => Err(HypervisorError::Protocol(format!(
                "{}: version {} is not known",
                self.files.process().display(),
                record.version
            ))),
            record => Ok(record),
        }
    }

    /// The record of the process that runs the guest.
    pub(super) fn started(&self) -> Result<ProcessRecord> {
        self.process()?
            .filter(|record| record.stage == Stage::Started)
            .ok_or(HypervisorError::WrongPower {
                found: GuestPower::Gone,
                needed: "a running guest",
            })
    }

    /// The disks of the process, if it is there.
    pub(super) fn attached(&self) -> Result<Option<Vec<GuestDisk>>> {
        if self.identity()?.is_none() {
            return Ok(None);
        }
        let disks = self.started()?.disks.into_iter();
        Ok(Some(
            disks
                .map(|disk| GuestDisk {
                    id: disk.id,
                    path: disk.path,
                })
                .collect(),
        ))
    }

    /// The process, if it is there.
    pub(super) fn identity(&self) -> Result<Option<Identity>> {
        let Some(record) = self.process()? else {
            return Ok(None);
        };
        match process::presence(&record, &self.files) {
            Presence::Alive(identity) => Ok(Some(identity)),
            Presence::Gone => Ok(None),
            Presence::Unknown(why) => Err(HypervisorError::Silent(why)),
        }
    }

    /// A process that runs this guest, to be asked for where none is written down: `stateDir` was lost, or put back.
    pub(super) fn stranger(&self) -> Result<Option<Identity>> {
        let pid = self.files.pid();
        self.running.of(&pid).map_err(files::storage(&pid))
    }

    pub(super) fn tracking(&self) -> Result<TrackingRecord> {
        Ok(files::read(&self.files.tracking())?.unwrap_or_default())
    }

    pub(super) fn point(&self) -> Result<Option<PointRecord>> {
        files::read(&self.files.point())
    }

    /// The guest's power. S3: only a process that is seen not to be there is gone; whoever is silent is unknown.
    pub(super) async fn power(&self) -> GuestPower {
        let unknown = |why: String| GuestPower::Unknown { why };
        match self.identity() {
            Err(error) => return unknown(error.to_string()),
            Ok(None) => {
                // S3: what is written down may be gone, or of an earlier time, and the guest is there all the same.
                match self.stranger() {
                    Ok(None) => {}
                    Ok(Some(Identity { pid, .. })) => {
                        return unknown(format!(
                            "process {pid} runs it, and stateDir knows nothing of that process: it was lost, or put back. Shut the guest down from inside, or end that process, before anything else is done with the VM"
                        ));
                    }
                    Err(error) => return unknown(error.to_string()),
                }
                // Another witness: no process, no listener.
                let listener = timeout(
                    self.config.answer_timeout,
                    tokio::net::UnixStream::connect(self.files.qmp_socket()),
                )
                .await;
                return match listener {
                    Ok(Err(error))
                        if matches!(
                            error.kind(),
                            std::io::ErrorKind::NotFound
                                | std::io::ErrorKind::ConnectionRefused
                                | std::io::ErrorKind::InvalidInput
                        ) =>
                    {
                        GuestPower::Gone
                    }
                    _ => unknown(
                        "no process is known, yet something listens at the monitor's socket".into(),
                    ),
                };
            }
            Ok(Some(_)) => {}
        }
        let asked = async { self.monitor().await?.status(self).await };
        match asked.await {
            Ok(power) => power,
            Err(error) => match self.identity() {
                Ok(None) => GuestPower::Gone,
                _ => unknown(error.to_string()),
            },
        }
    }

    /// Sizes of the disks in bytes as the host shows them now; 0 for one that cannot be read.
    async fn actual_sizes(process: &ProcessRecord) -> Result<Vec<u64>> {
        let disks = process.disks.clone();
        blocking(move || {
            let sizes = disks.iter().map(|disk| measure(&disk.path));
            sizes
                .map(|measured| measured.map_or(0, |(_, size)| size))
                .collect()
        })
        .await
    }

    /// Does `generation` hold?
    pub(super) async fn holds(
        &self,
        graph: &Graph,
        process: &ProcessRecord,
        generation: Generation,
    ) -> Result<std::result::Result<(), LostGeneration>> {
        Ok(graph.holds(
            process,
            &self.tracking()?,
            &Self::actual_sizes(process).await?,
            generation,
        ))
    }

    /// The generations that hold.
    pub(super) async fn held(&self, graph: &Graph, process: &ProcessRecord) -> Result<Tracking> {
        let (tracking, actual) = (self.tracking()?, Self::actual_sizes(process).await?);
        let held = graph.generations(process.disks.len()).into_iter();
        Ok(Tracking {
            held: held
                .filter(|generation| {
                    graph
                        .holds(process, &tracking, &actual, *generation)
                        .is_ok()
                })
                .collect(),
        })
    }

    /// Stores the sizes of the disks for a generation about to begin, and forgets those of generations that nobody has.
    pub(super) fn note_sizes(
        &self,
        known: &[Generation],
        begins: Generation,
        process: &ProcessRecord,
        sizes: &[u64],
    ) -> Result<()> {
        let mut tracking = self.tracking()?;
        tracking.version = VERSION;
        tracking
            .generations
            .retain(|generation, _| known.contains(generation));
        let sizes = process
            .disks
            .iter()
            .map(|disk| disk.id.clone())
            .zip(sizes.iter().copied())
            .collect();
        tracking.generations.insert(begins, sizes);
        files::write(&self.files.tracking(), &tracking)
    }

    /// Waits until the process is gone and writes that down.
    pub(super) async fn await_end(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + self.config.command_timeout;
        while self.identity()?.is_some() {
            if tokio::time::Instant::now() >= deadline {
                return Err(HypervisorError::Silent("the process does not end".into()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.clear_point_files()?;
        if let Some(mut record) = self.process()? {
            record.stage = Stage::Ended;
            files::write(&self.files.process(), &record)?;
        }
        files::remove(&self.files.tracking())
    }

    /// Removes scratch files and the record of a point that nothing uses any more.
    pub(super) fn clear_point_files(&self) -> Result<()> {
        if let Some(point) = self.point()? {
            for path in &point.scratch {
                files::remove(path)?;
            }
            files::remove(&self.files.point())?;
        }
        Ok(())
    }
}

impl Monitor<'_> {
    /// `query-status`, as the guest's power.
    pub(super) async fn status(&mut self, guest: &Guest) -> Result<GuestPower> {
        Ok(power_of(&self.run_state(guest).await?))
    }

    /// `query-status`, in QEMU's word.
    pub(super) async fn run_state(&mut self, guest: &Guest) -> Result<String> {
        let answer = self
            .session
            .one(Command::bare("query-status"), guest.config.answer_timeout)
            .await?;
        let status = answer.get("status").and_then(Value::as_str);
        status
            .map(str::to_owned)
            .ok_or_else(|| HypervisorError::Protocol(format!("query-status: {answer}")))
    }

    /// `query-named-block-nodes`.
    pub(super) async fn graph(&mut self, guest: &Guest) -> Result<Graph> {
        let command = Command::new("query-named-block-nodes", json!({"flat": true}));
        let answer = self
            .session
            .one(command, guest.config.command_timeout)
            .await?;
        Graph::parse(answer).map_err(HypervisorError::Protocol)
    }

    /// Ends all exports and cuts off their readers; none is fine.
    pub(super) async fn stop_exports(&mut self, guest: &Guest) -> Result<()> {
        let replies = self
            .session
            .run(
                &[Command::bare("nbd-server-stop")],
                guest.config.command_timeout,
            )
            .await?;
        match replies.into_iter().next() {
            Some(Err(message)) if !message.contains("not running") => {
                Err(HypervisorError::Refused {
                    command: "nbd-server-stop".into(),
                    message,
                })
            }
            _ => Ok(()),
        }
    }

    /// The nodes that the devices of the disks use now.
    pub(super) async fn drives(&mut self, guest: &Guest, disks: usize) -> Result<Vec<String>> {
        let questions: Vec<_> = (0..disks).map(commands::get_drive).collect();
        let answers = self
            .session
            .all(&questions, guest.config.command_timeout)
            .await?;
        answers
            .into_iter()
            .map(|answer| {
                answer
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| HypervisorError::Protocol(format!("drive: {answer}")))
            })
            .collect()
    }
}
