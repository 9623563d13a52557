//! The guest's process as the host sees it: is it there, and how it is ended. Facts come from `/proc` (proc(5)) and pidfds.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::files::{GuestFiles, ProcessRecord, Stage, storage};
use crate::agent::hypervisor::{HypervisorError, Result};

/// Is a process there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Yes, this one.
    Alive(Identity),
    /// No.
    Gone,
    /// It cannot be said, and why.
    Unknown(String),
}

/// A process that a recycled pid cannot be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Its start, in clock ticks after the boot.
    pub start_ticks: u64,
}

/// What matters of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The letter of its state; `Z` and `X` have ended.
    pub state: char,
    /// Its start, in clock ticks after the boot.
    pub start_ticks: u64,
}

/// Reads the text of `/proc/PID/stat`. The name in brackets may hold anything.
#[must_use]
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start is field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(&text)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat")),
        // A process that ends while it is read gives ESRCH.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A zombie has closed its files, unless other threads of it still run.
fn has_ended(pid: u32, stat: Stat) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.state == 'X' || (stat.state == 'Z' && threads() <= 1)
}

/// The id of this boot of the host.
///
/// # Errors
/// `Storage`.
pub fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(storage(path))
}

/// The PID namespace of this process.
///
/// # Errors
/// `Storage`.
pub fn pid_namespace() -> Result<String> {
    let path = Path::new("/proc/self/ns/pid");
    fs::read_link(path)
        .map(|link| link.to_string_lossy().into_owned())
        .map_err(storage(path))
}

/// Is the process of `record` there?
#[must_use]
pub fn presence(record: &ProcessRecord, files: &GuestFiles) -> Presence {
    if record.stage == Stage::Ended {
        return Presence::Gone;
    }
    match boot_id() {
        Ok(boot) if boot != record.boot_id => return Presence::Gone,
        Ok(_) => {}
        Err(error) => return Presence::Unknown(error.to_string()),
    }
    // A pid says nothing in another namespace, and its absence even less (S3).
    match pid_namespace() {
        Ok(namespace) if namespace != record.pid_namespace => {
            return Presence::Unknown(
                "the guest was started in another PID namespace than that of this agent".into(),
            );
        }
        Ok(_) => {}
        Err(error) => return Presence::Unknown(error.to_string()),
    }
    match (record.stage, record.pid, record.start_ticks) {
        (Stage::Started, Some(pid), Some(start_ticks)) => match stat(pid) {
            Ok(Some(stat)) if stat.start_ticks == start_ticks && !has_ended(pid, stat) => {
                Presence::Alive(Identity { pid, start_ticks })
            }
            Ok(_) => Presence::Gone,
            Err(error) => Presence::Unknown(format!("process {pid}: {error}")),
        },
        // The agent died while the process came up: it is known by the path of its own pid file on its command line.
        _ => match search(&files.pid()) {
            Ok(Some(identity)) => Presence::Alive(identity),
            Ok(None) => Presence::Gone,
            Err(error) => Presence::Unknown(format!("/proc: {error}")),
        },
    }
}

/// Finds a process with this pid file on its command line.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn search(pid_file: &Path) -> io::Result<Option<Identity>> {
    let wanted = pid_file.as_os_str().as_encoded_bytes();
    let mut found = running(|line| {
        let named = line.split(|byte| *byte == 0).any(|word| word == wanted);
        named.then_some(())
    })?;
    Ok(found.pop().map(|((), identity)| identity))
}

/// The processes whose command line, words that end with a zero, is one that is looked for.
pub(super) fn running<T>(
    looked_for: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<(T, Identity)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline"));
        let Some(what) = line.ok().and_then(|line| looked_for(&line)) else {
            continue;
        };
        if let Some(stat) = stat(pid)?.filter(|stat| !has_ended(pid, *stat)) {
            let start_ticks = stat.start_ticks;
            found.push((what, Identity { pid, start_ticks }));
        }
    }
    Ok(found)
}

/// Whether exactly this process is still there: its memory, and with it its command line, goes before its files do.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn is_there(identity: Identity) -> io::Result<bool> {
    Ok(stat(identity.pid)?.is_some_and(|stat| {
        stat.start_ticks == identity.start_ticks && !has_ended(identity.pid, stat)
    }))
}

/// Runs QEMU until it has gone to the background (blocking), at most for `patience`.
///
/// # Errors
/// `Process` with QEMU's words.
pub fn launch(
    binary: &Path,
    arguments: &[String],
    files: &GuestFiles,
    patience: Duration,
) -> Result<()> {
    let log = fs::File::create(files.launch_log()).map_err(storage(&files.launch_log()))?;
    let copy = log.try_clone().map_err(storage(&files.launch_log()))?;
    let spawned = Command::new(binary)
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .spawn();
    let mut child = spawned
        .map_err(|error| HypervisorError::Process(format!("{}: {error}", binary.display())))?;
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(HypervisorError::Process(format!(
                    "{status}: {}",
                    files.last_words()
                )));
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(HypervisorError::Process(format!(
                    "it did not come up within {} s",
                    patience.as_secs()
                )));
            }
            Err(error) => return Err(HypervisorError::Process(error.to_string())),
        }
    }
}

/// Kills exactly this process.
///
/// # Errors
/// The system's; a process that is gone is a success.
pub fn kill(identity: Identity) -> io::Result<()> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // The handle names one process for ever: if its start is right now, it was right when the handle was opened.
    match stat(identity.pid)? {
        Some(stat) if stat.start_ticks == identity.start_ticks => {
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::agent::hypervisor::qemu::files::VERSION;

    fn record(stage: Stage, pid: u32, start_ticks: u64) -> ProcessRecord {
        ProcessRecord {
            version: VERSION,
            stage,
            boot_id: boot_id().unwrap(),
            pid_namespace: pid_namespace().unwrap(),
            pid: Some(pid),
            start_ticks: Some(start_ticks),
            arguments: vec![],
            disks: vec![],
        }
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text =
            "42 (a) S 1 (b) c) R 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: 'R',
                start_ticks: 98765
            })
        );
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat("42 (a) R 1"), None);
    }

    #[test]
    fn s03_a_recycled_pid_is_not_the_guest_and_a_foreign_namespace_is_unknown() {
        let files = GuestFiles::new(Path::new("/nowhere"), Uuid::from_u128(1));
        let pid = std::process::id();
        let ticks = stat(pid).unwrap().unwrap().start_ticks;
        let mine = record(Stage::Started, pid, ticks);
        assert_eq!(
            presence(&mine, &files),
            Presence::Alive(Identity {
                pid,
                start_ticks: ticks
            })
        );
        assert_eq!(
            presence(&record(Stage::Started, pid, ticks + 1), &files),
            Presence::Gone
        );
        assert_eq!(
            presence(
                &ProcessRecord {
                    boot_id: "another".into(),
                    ..mine.clone()
                },
                &files
            ),
            Presence::Gone
        );
        let foreign = ProcessRecord {
            pid_namespace: "pid:[1]".into(),
            ..mine.clone()
        };
        assert!(matches!(presence(&foreign, &files), Presence::Unknown(_)));
        assert_eq!(
            presence(&record(Stage::Starting, pid, ticks), &files),
            Presence::Gone
        );
        assert_eq!(
            presence(&record(Stage::Ended, pid, ticks), &files),
            Presence::Gone
        );
        // Killing by a stale identity hits nobody.
        kill(Identity {
            pid,
            start_ticks: ticks + 1,
        })
        .unwrap();
    }
}
