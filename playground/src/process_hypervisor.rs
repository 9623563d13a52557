//! A hypervisor for tests, whose guests are plain processes: the recorder of the test guest, writing to the disk files
//! themselves.
//!
//! A guest starts within milliseconds and needs no memory to speak of, so that hundreds of moves fit into a test. What it
//! leaves out is what QEMU is there for: there are no bitmaps ([`Dirty`] is always [`Dirty::Lost`]), so all is found by
//! digests; and a guest that has powered off is gone at once. A point in time is a copy of the disks, made while the process
//! is stopped by a signal; disks are small.
//!
//! ```text
//! <folder>/<uuid>/process.json      which process it is, by number and start time
//! <folder>/<uuid>/console.log       what the recorder said
//! <folder>/<uuid>/point/<id>/       the disks at an open point in time
//! ```
//!
//! Like a real one, a guest outlives the agent. Should the agent die between the start of the process and the note of its
//! number, the guest is found by a mark in its environment.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homeward::{
    agent::hypervisor::{
        BlockSource as _, Dirty, FoundGuest, Generation, GuestBoot, GuestDefinition, GuestDisk,
        GuestPower, Hypervisor, HypervisorError, LostGeneration, Point, PointDisk, PointOutcome,
        PointTicket, QuitReport, Recovered, Result, StartSpec, Stopped, Tracking,
    },
    dataplane::FileSource,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{guest_image::GuestSettings, processes};

/// Names the guest in its own environment, so that it is found without a note of its number.
const MARK: &str = "HOMEWARD_PROCESS_GUEST";
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long a signalled process may take to stand still or to be gone: what it does in the kernel cannot be cut short.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// Runs guests as processes.
#[derive(Debug)]
pub struct ProcessHypervisor {
    folder: PathBuf,
    recorder: PathBuf,
    guests: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
}

/// What is known of a guest's process. Without a number it was about to be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    process: Option<processes::Identity>,
}

impl ProcessHypervisor {
    /// Keeps its files in `folder` and runs `recorder`.
    #[must_use]
    pub fn new(folder: PathBuf, recorder: PathBuf) -> Self {
        Self {
            folder,
            recorder,
            guests: Mutex::default(),
        }
    }

    /// One thing at a time with each guest.
    async fn turn(&self, guest: Uuid) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = Arc::clone(
            self.guests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(guest)
                .or_default(),
        );
        lock.lock_owned().await
    }

    fn guest_folder(&self, guest: Uuid) -> PathBuf {
        self.folder.join(guest.to_string())
    }

    fn note_path(&self, guest: Uuid) -> PathBuf {
        self.guest_folder(guest).join("process.json")
    }

    fn mark(&self, guest: Uuid) -> String {
        format!("{MARK}={}", self.guest_folder(guest).display())
    }

    fn write_note(&self, guest: Uuid, note: Note) -> Result<()> {
        let path = self.note_path(guest);
        let text = serde_json::to_vec(&note).map_err(|error| at(&path, error.into()))?;
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| at(&path, error))
    }

    /// The guest's process, if it has one that is alive.
    fn process(&self, guest: Uuid) -> Result<Option<processes::Identity>> {
        let path = self.note_path(guest);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, error)),
        };
        let note: Note = serde_json::from_slice(&text).map_err(|error| at(&path, error.into()))?;
        match note.process {
            Some(process) => Ok(process.state().map(|_| process)),
            None => {
                let found = processes::with_environment(&self.mark(guest))
                    .map_err(|error| at(Path::new("/proc"), error))?;
                let process = found.first().copied();
                if process.is_some() {
                    self.write_note(guest, Note { process })?;
                }
                Ok(process)
            }
        }
    }

    fn forget(&self, guest: Uuid) -> Result<()> {
        let path = self.note_path(guest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, error)),
            _ => Ok(()),
        }
    }

    fn observe(&self, guest: Uuid) -> GuestPower {
        match self.process(guest) {
            Ok(None) => GuestPower::Gone,
            Ok(Some(process)) => match process.state() {
                None => GuestPower::Gone,
                Some(processes::State::Stopped) => GuestPower::Paused {
                    state: "stopped by a signal".into(),
                },
                Some(processes::State::Other) => GuestPower::Running,
            },
            Err(error) => GuestPower::Unknown {
                why: error.to_string(),
            },
        }
    }

    fn arguments(guest: &GuestDefinition, spec: &StartSpec) -> Result<Vec<String>> {
        let line = match &guest.boot {
            GuestBoot::Kernel { command_line, .. } => spec.command_line(command_line),
            GuestBoot::Disk { .. } => {
                format!("homeward.vm={} homeward.site={}", guest.name, spec.site)
            }
        };
        let settings = GuestSettings::from_kernel_command_line(&line).map_err(|error| {
            HypervisorError::Invalid {
                field: "boot.commandLine".into(),
                message: error.to_string(),
            }
        })?;
        let mut arguments = settings.recorder_arguments();
        for disk in &guest.disks {
            arguments.push(format!("{}={}", disk.id, disk.path.display()));
        }
        Ok(arguments)
    }

    fn spawn(&self, guest: &GuestDefinition, spec: &StartSpec) -> Result<()> {
        use io::Write as _;
        let folder = self.guest_folder(guest.uuid);
        fs::create_dir_all(&folder).map_err(|error| at(&folder, error))?;
        let arguments = Self::arguments(guest, spec)?;
        let console = self.console(guest);
        let mut output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .map_err(|error| at(&console, error))?;
        writeln!(
            output,
            "--- {} started at {} on {} {} ---",
            guest.name,
            spec.site,
            spec.host,
            jiff::Timestamp::now()
        )
        .map_err(|error| at(&console, error))?;
        let errors = output.try_clone().map_err(|error| at(&console, error))?;
        self.write_note(guest.uuid, Note::default())?;
        let (name, value) = (MARK, folder.as_os_str());
        let child = Command::new(&self.recorder)
            .args(arguments)
            .env(name, value)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Whoever ends the agent with its process group does not end the guest.
            .process_group(0)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                self.forget(guest.uuid)?;
                return Err(HypervisorError::Process(format!(
                    "{}: {error}",
                    self.recorder.display()
                )));
            }
        };
        let process = processes::Identity::of(child.id());
        // Somebody has to ask how it ended, or it stays as a zombie for as long as the agent lives.
        let name = guest.name.clone();
        std::thread::spawn(move || match child.wait() {
            Ok(status) if status.success() || status.signal().is_some() => {}
            Ok(status) => tracing::warn!(guest = name, %status, "the guest's process has ended"),
            Err(error) => tracing::warn!(guest = name, %error, "the guest's process is lost"),
        });
        self.write_note(guest.uuid, Note { process })
    }

    /// Sends a signal and waits until the guest is gone; whether it is.
    async fn end(&self, guest: Uuid, signal: Signal, limit: Duration) -> Result<bool> {
        let Some(process) = self.process(guest)? else {
            return Ok(true);
        };
        process.signal(signal);
        if signal == Signal::KILL {
            process.signal(Signal::CONT);
        }
        let deadline = Instant::now() + limit;
        while process.state().is_some() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(true)
    }

    fn points(&self, guest: Uuid) -> PathBuf {
        self.guest_folder(guest).join("point")
    }

    fn drop_points(&self, guest: Uuid) -> Result<bool> {
        let folder = self.points(guest);
        match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at(&folder, error)),
        }
    }
}

#[async_trait]
impl Hypervisor for ProcessHypervisor {
    fn check(&self, guest: &GuestDefinition) -> Result<()> {
        if !self.recorder.is_file() {
            return Err(HypervisorError::Invalid {
                field: "hypervisor".into(),
                message: format!(
                    "{} is missing: run tools/setup guest",
                    self.recorder.display()
                ),
            });
        }
        let spec = StartSpec {
            site: String::new(),
            host: String::new(),
            generation: None,
        };
        Self::arguments(guest, &spec).map(drop)
    }

    fn suits(&self, _: &GuestDefinition) -> Result<()> {
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        Ok(())
    }

    /// These guests are known by their records alone.
    fn processes(&self) -> Result<Vec<FoundGuest>> {
        Ok(Vec::new())
    }

    async fn start(&self, guest: &GuestDefinition, spec: &StartSpec) -> Result<()> {
        let _turn = self.turn(guest.uuid).await;
        match self.observe(guest.uuid) {
            GuestPower::Gone | GuestPower::ShutDown => self.spawn(guest, spec),
            found => Err(HypervisorError::WrongPower {
                found,
                needed: "off",
            }),
        }
    }

    async fn power(&self, guest: &GuestDefinition) -> GuestPower {
        self.observe(guest.uuid)
    }

    async fn power_down(&self, guest: &GuestDefinition, deadline: Duration) -> Result<Stopped> {
        let _turn = self.turn(guest.uuid).await;
        match self.observe(guest.uuid) {
            GuestPower::Gone => return Ok(Stopped::Gone),
            GuestPower::Running | GuestPower::ShutDown => {}
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "running",
                });
            }
        }
        let deaf = matches!(&guest.boot, GuestBoot::Kernel { command_line, .. }
            if GuestSettings::from_kernel_command_line(command_line).is_ok_and(|it| it.ignore_power_button));
        let gone = if deaf {
            sleep(deadline).await;
            false
        } else {
            self.end(guest.uuid, Signal::TERM, deadline).await?
        };
        if gone {
            Ok(Stopped::Gone)
        } else {
            Err(HypervisorError::Deadline { deadline })
        }
    }

    async fn power_off(&self, guest: &GuestDefinition) -> Result<Stopped> {
        let _turn = self.turn(guest.uuid).await;
        if self.end(guest.uuid, Signal::KILL, SIGNAL_LIMIT).await? {
            Ok(Stopped::Gone)
        } else {
            Err(HypervisorError::Process("it does not die".into()))
        }
    }

    async fn begin_point(
        &self,
        guest: &GuestDefinition,
        old: Option<Generation>,
        new: Generation,
    ) -> Result<Point> {
        let _turn = self.turn(guest.uuid).await;
        if self.points(guest.uuid).exists() {
            return Err(HypervisorError::WrongPoint(
                "a point is open already".into(),
            ));
        }
        let process = match self.observe(guest.uuid) {
            GuestPower::Running => self.process(guest.uuid)?,
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "running",
                });
            }
        };
        let Some(process) = process else {
            return Err(HypervisorError::WrongPower {
                found: GuestPower::Gone,
                needed: "running",
            });
        };
        let folder = self.points(guest.uuid).join(new.to_string());
        let disks = guest.disks.clone();
        let into = folder;
        // On a thread of its own: whoever gives up waiting leaves no stopped guest behind.
        let copied =
            tokio::task::spawn_blocking(move || copy_at_one_instant(process, &disks, &into))
                .await
                .map_err(|error| HypervisorError::Process(error.to_string()))?;
        let (disks, taken_at) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                self.drop_points(guest.uuid)?;
                return Err(error);
            }
        };
        let lost = if old.is_some() {
            LostGeneration::ProcessGone
        } else {
            LostGeneration::NotAsked
        };
        Ok(Point {
            ticket: PointTicket {
                vm: guest.uuid,
                old,
                new,
            },
            disks,
            dirty: Dirty::Lost(lost),
            taken_at,
        })
    }

    async fn end_point(
        &self,
        guest: &GuestDefinition,
        ticket: &PointTicket,
        _outcome: PointOutcome,
    ) -> Result<Tracking> {
        let _turn = self.turn(guest.uuid).await;
        let folder = self.points(guest.uuid);
        if folder.exists() && !folder.join(ticket.new.to_string()).exists() {
            return Err(HypervisorError::WrongPoint("another point is open".into()));
        }
        self.drop_points(guest.uuid)?;
        Ok(Tracking::default())
    }

    async fn final_dirty(&self, guest: &GuestDefinition, _generation: Generation) -> Result<Dirty> {
        match self.observe(guest.uuid) {
            GuestPower::Gone | GuestPower::ShutDown => Ok(Dirty::Lost(LostGeneration::ProcessGone)),
            found => Err(HypervisorError::WrongPower {
                found,
                needed: "off",
            }),
        }
    }

    async fn quit(&self, guest: &GuestDefinition) -> Result<QuitReport> {
        let _turn = self.turn(guest.uuid).await;
        match self.observe(guest.uuid) {
            GuestPower::Gone | GuestPower::ShutDown => {
                self.forget(guest.uuid)?;
                Ok(QuitReport::NotWatched)
            }
            found => Err(HypervisorError::WrongPower {
                found,
                needed: "off",
            }),
        }
    }

    async fn dirty_bytes(
        &self,
        _guest: &GuestDefinition,
        _generation: Generation,
    ) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn recover(&self, guest: &GuestDefinition) -> Result<Recovered> {
        let _turn = self.turn(guest.uuid).await;
        let mut mended = Vec::new();
        if self.drop_points(guest.uuid)? {
            mended.push("removed a point in time that a dead agent had left".to_owned());
        }
        if let Some(process) = self.process(guest.uuid)?
            && process.state() == Some(processes::State::Stopped)
        {
            process.signal(Signal::CONT);
            let deadline = Instant::now() + SIGNAL_LIMIT;
            while process.state() == Some(processes::State::Stopped) && Instant::now() < deadline {
                sleep(LOOK_AGAIN).await;
            }
            mended.push("let a guest go on that had been stopped for a point in time".to_owned());
        }
        Ok(Recovered {
            power: self.observe(guest.uuid),
            tracking: Tracking::default(),
            mended,
        })
    }

    async fn attached(&self, _guest: &GuestDefinition) -> Result<Option<Vec<GuestDisk>>> {
        Ok(None)
    }

    fn console(&self, guest: &GuestDefinition) -> PathBuf {
        self.guest_folder(guest.uuid).join("console.log")
    }
}

/// Stops the process, copies its disks, and lets it go on whatever happened.
fn copy_at_one_instant(
    process: processes::Identity,
    disks: &[homeward::agent::hypervisor::GuestDisk],
    folder: &Path,
) -> Result<(Vec<PointDisk>, jiff::Timestamp)> {
    struct GoOn(processes::Identity);
    impl Drop for GoOn {
        fn drop(&mut self) {
            self.0.signal(Signal::CONT);
        }
    }
    fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
    process.signal(Signal::STOP);
    let go_on = GoOn(process);
    let deadline = std::time::Instant::now() + SIGNAL_LIMIT;
    // A write that is under way ends before the process stands still.
    while process.state() != Some(processes::State::Stopped) {
        if process.state().is_none() {
            return Err(HypervisorError::WrongPower {
                found: GuestPower::Gone,
                needed: "running",
            });
        }
        if std::time::Instant::now() >= deadline {
            return Err(HypervisorError::Process("it does not stand still".into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let taken_at = jiff::Timestamp::now();
    let mut copies = Vec::new();
    for disk in disks {
        let copy = folder.join(&disk.id);
        fs::copy(&disk.path, &copy).map_err(|error| at(&disk.path, error))?;
        let source = FileSource::open(&copy).map_err(|error| at(&copy, error))?;
        copies.push(PointDisk {
            id: disk.id.clone(),
            size: source.size(),
            source: Box::new(source),
        });
    }
    drop(go_on);
    Ok((copies, taken_at))
}

fn at(path: &Path, source: io::Error) -> HypervisorError {
    HypervisorError::Storage {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
