//! Nothing outlives a world: its guests, which outlive their agents by design, are found by a mark in their environment.
//!
//! A world ends them itself. Should it be killed, the keeper does: a process of its own, which waits for the other end of its
//! standard input to close.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::programs::{self, Program};
use crate::processes;

/// In the environment of everything that a world starts: the world's folder.
pub(super) const MARK: &str = "HOMEWARD_WORLD";
/// The word with which a world lets its keeper go.
const FAREWELL: &[u8] = b"done\n";
const LIMIT: Duration = Duration::from_secs(20);

/// The keeper of one world.
#[derive(Debug)]
pub(super) struct Keeper {
    process: std::process::Child,
}

impl Keeper {
    /// Starts one for the world in `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let process = Command::new(programs::find(Program::Keeper)?)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own, so that Ctrl-C does not end it before the others.
            .process_group(0)
            .current_dir("/")
            .spawn()
            .context("cannot start the keeper")?;
        Ok(Self { process })
    }

    /// Lets it go: the world has cleared up itself.
    pub(super) fn dismiss(&mut self) {
        if let Some(mut input) = self.process.stdin.take() {
            let _ = input.write_all(FAREWELL);
        }
        let _ = self.process.wait();
    }
}

/// Kills every process that was started in the world in `folder`, until there is none.
///
/// # Errors
///
/// When processes cannot be listed, or one does not die.
pub(super) fn sweep(folder: &Path) -> Result<()> {
    sweep_mark(&format!("{MARK}={}", folder.display()))
}

/// Kills every process with this mark in its environment, until there is none.
pub(super) fn sweep_mark(mark: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = processes::with_environment(mark).context("cannot list processes")?;
        if found.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "processes with {mark} do not die: {found:?}"
        );
        for process in found {
            process.signal(Signal::KILL);
        }
        sleep(Duration::from_millis(10));
    }
}

/// What the keeper's program does: waits for the world in the folder that is its argument, and clears up after it unless it was
/// let go.
///
/// # Errors
///
/// When something could not be cleared up.
pub fn keep() -> Result<()> {
    use std::io::Read as _;
    let folder = PathBuf::from(
        std::env::args_os()
            .nth(1)
            .context("usage: keeper FOLDER (started by a world, for its own folder)")?,
    );
    ensure!(folder.is_absolute(), "the folder must be absolute");
    let mut said = Vec::new();
    // An error is an end too.
    let _ = std::io::stdin().read_to_end(&mut said);
    if said == FAREWELL {
        return Ok(());
    }
    sweep(&folder)?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}
