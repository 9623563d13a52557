//! Starting a guest.

use super::argv;
use super::commands::{Command, add_bitmap, bitmap, transaction};
use super::files::{self, ProcessRecord, RecordedDisk, Stage, VERSION};
use super::guest::{Guest, blocking};
use super::process;
use crate::agent::hypervisor::{GuestDefinition, GuestPower, HypervisorError, Result, StartSpec};

impl Guest {
    pub(super) async fn start(&self, definition: &GuestDefinition, spec: &StartSpec) -> Result<()> {
        let _turn = self.locks.operation.lock().await;
        self.running.look_anew();
        match self.power().await {
            GuestPower::Gone => {}
            // It has powered off; what it tracked is given up with this start.
            GuestPower::ShutDown => self.end_process().await?,
            found => {
                return Err(HypervisorError::WrongPower {
                    found,
                    needed: "a guest that is off",
                });
            }
        }
        let checked = {
            let (config, files, definition) =
                (self.config.clone(), self.files.clone(), definition.clone());
            blocking(move || argv::check(&config, &files, &definition)).await??
        };
        let kinds: Vec<_> = checked.iter().map(|(kind, _)| *kind).collect();
        let sizes: Vec<_> = checked.iter().map(|(_, size)| *size).collect();
        let mut record = ProcessRecord {
            version: VERSION,
            stage: Stage::Starting,
            boot_id: process::boot_id()?,
            pid_namespace: process::pid_namespace()?,
            pid: None,
            start_ticks: None,
            arguments: argv::arguments(&self.config, &self.files, definition, spec, &kinds),
            disks: definition
                .disks
                .iter()
                .map(|disk| RecordedDisk {
                    id: disk.id.clone(),
                    path: disk.path.clone(),
                })
                .collect(),
        };
        let generation = spec
            .generation
            .map_or_else(|| "none".to_owned(), |generation| generation.to_string());
        let marker = format!(
            "\n--- homeward: start at {} on {} ({}), generation {generation} ---\n",
            jiff::Timestamp::now(),
            spec.host,
            spec.site
        );

        let guest = self.clone();
        let (arguments, generation) = (record.arguments.clone(), spec.generation);
        let prepared = record.clone();
        let launched = blocking(move || {
            guest.files.make_dir()?;
            guest.files.prepare_start(&marker)?;
            guest.clear_point_files()?;
            files::remove(&guest.files.tracking())?;
            if let Some(generation) = generation {
                // S14: the shape at the beginning, before the bitmaps.
                guest.note_sizes(&[], generation, &prepared, &sizes)?;
            }
            // From here on a process may exist, and a later agent looks for it.
            files::write(&guest.files.process(), &prepared)?;
            process::launch(
                &guest.config.binary,
                &arguments,
                &guest.files,
                guest.config.command_timeout,
            )
        })
        .await?;

        let result = match launched {
            Ok(()) => self.release(&mut record, spec).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(()),
            // An agent that died does nothing further.
            Err(error) if self.failpoint.struck() => Err(error),
            Err(error) => {
                // It never came to an instruction, or that is not known: then it stays, and its state is unknown.
                if matches!(error, HypervisorError::Silent(_)) && record.stage == Stage::Started {
                    return Err(error);
                }
                self.kill_process().await?;
                Err(match error {
                    HypervisorError::Silent(words) => HypervisorError::Process(words),
                    error => error,
                })
            }
        }
    }

    /// Mints the generation and lets the guest run.
    async fn release(&self, record: &mut ProcessRecord, spec: &StartSpec) -> Result<()> {
        let identity =
            process::search(&self.files.pid()).map_err(files::storage(&self.files.pid()))?;
        let identity = identity.ok_or_else(|| {
            HypervisorError::Process(format!("it ended at once: {}", self.files.last_words()))
        })?;
        record.pid = Some(identity.pid);
        record.start_ticks = Some(identity.start_ticks);

        let mut monitor = self.monitor().await?;
        if let Some(generation) = spec.generation {
            // S13: all disks in one transaction, before the first instruction.
            let actions: Vec<_> = (0..record.disks.len())
                .map(|index| add_bitmap(index, &bitmap(generation), false))
                .collect();
            if !actions.is_empty() {
                monitor
                    .session
                    .one(transaction(&actions), self.config.command_timeout)
                    .await?;
            }
        }
        // The record is complete before the guest may run: a process without it never ran anything.
        record.stage = Stage::Started;
        files::write(&self.files.process(), record)?;
        monitor
            .session
            .one(Command::bare("cont"), self.config.command_timeout)
            .await?;
        Ok(())
    }
}
