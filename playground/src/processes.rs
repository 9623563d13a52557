//! Processes that this one did not start, or may not have started: told apart by number and start time, found by a mark in
//! their environment.

use std::{fs, io};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// One process. A number alone could be another process's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub id: u32,
    /// When it started, in clock ticks since the host's boot.
    pub started: u64,
}

/// What a process that is alive does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was stopped by a signal and stands still.
    Stopped,
    /// Anything else: it runs, or waits.
    Other,
}

impl Identity {
    /// The process that has this number now; nothing when it is gone or only waits to be asked how it ended.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        stat(id).map(|(_, started)| Self { id, started })
    }

    /// What it does; nothing when it is gone.
    #[must_use]
    pub fn state(self) -> Option<State> {
        match stat(self.id) {
            Some((state, started)) if started == self.started => Some(state),
            _ => None,
        }
    }

    /// Sends a signal, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.state().is_some()
            && let Some(id) = i32::try_from(self.id).ok().and_then(Pid::from_raw)
        {
            // It may have ended a moment ago, and that is what was wanted or will be seen.
            let _ = rustix::process::kill_process(id, signal);
        }
    }
}

/// State and start time; nothing for a zombie.
fn stat(id: u32) -> Option<(State, u64)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let state = match *fields.first()? {
        "Z" | "X" | "x" => return None,
        "T" => State::Stopped,
        _ => State::Other,
    };
    Some((state, fields.get(19)?.parse().ok()?))
}

/// All processes of this user whose environment holds `mark`, a whole `NAME=value`, without this one.
///
/// # Errors
///
/// When processes cannot be listed.
pub fn with_environment(mark: &str) -> io::Result<Vec<Identity>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Read before the environment, so that a number which changes hands in between is noticed at the next look.
        let Some(process) = Identity::of(id) else {
            continue;
        };
        let Ok(environment) = fs::read(format!("/proc/{id}/environ")) else {
            continue;
        };
        if id != own
            && environment
                .split(|byte| *byte == 0)
                .any(|it| it == mark.as_bytes())
        {
            found.push(process);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Child;
    use std::time::{Duration, Instant};

    fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_is_found_by_its_mark_and_followed_to_its_end() {
        let mark = format!("HOMEWARD_TEST_MARK={}", uuid::Uuid::new_v4());
        let (name, value) = mark.split_once('=').unwrap();
        assert!(with_environment(&mark).unwrap().is_empty());
        let mut command = std::process::Command::new("sleep");
        command.arg("600").env(name, value);
        let mut child = Child::spawn(command).unwrap();
        let mut found = Vec::new();
        until(|| !with_environment(&mark).unwrap().is_empty());
        found.extend(with_environment(&mark).unwrap());
        assert_eq!(found, [Identity::of(child.id()).unwrap()]);
        found[0].signal(Signal::STOP);
        until(|| found[0].state() == Some(State::Stopped));
        found[0].signal(Signal::CONT);
        until(|| found[0].state() == Some(State::Other));
        child.kill();
        assert_eq!(found[0].state(), None);
        let other = Identity {
            started: 1,
            ..Identity::of(std::process::id()).unwrap()
        };
        assert_eq!(other.state(), None);
    }
}
