//! Which processes run guests of this host, whatever is written down of them: each is known by its pid file on its command line.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::files::GuestFiles;
use super::process::{self, Identity};
use crate::agent::hypervisor::FoundGuest;

/// A process and the guest's name that its command line tells.
type Named = (Identity, Option<String>);

/// All processes that were given a pid file in this folder or below it, by that file.
fn search_all(folder: &Path) -> io::Result<HashMap<PathBuf, Named>> {
    let found = process::running(|line| {
        let path = PathBuf::from(OsStr::from_bytes(word_after(line, b"-pidfile")?));
        path.starts_with(folder).then(|| (path, guest_name(line)))
    })?;
    let by_file = found
        .into_iter()
        .map(|((path, name), identity)| (path, (identity, name)));
    Ok(by_file.collect())
}

/// The word that follows another on a command line.
fn word_after<'a>(line: &'a [u8], option: &[u8]) -> Option<&'a [u8]> {
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == option)?;
    words.next()
}

/// The name in `-name guest=NAME`, where it is one that a VM may have: it is shown to people.
fn guest_name(line: &[u8]) -> Option<String> {
    let named = std::str::from_utf8(word_after(line, b"-name")?).ok()?;
    let name = named
        .split(',')
        .find_map(|part| part.strip_prefix("guest="))?;
    let usual = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    (!name.is_empty() && name.chars().all(usual)).then(|| name.to_owned())
}

/// The processes that run guests of one host, by their pid files, whatever is written down of them.
#[derive(Debug)]
pub(super) struct Running {
    folder: PathBuf,
    seen: Mutex<Option<(Instant, HashMap<PathBuf, Named>)>>,
}

impl Running {
    /// How old a look may be that all guests of the host share: each of them asks whenever its power is asked for.
    const FRESH: Duration = Duration::from_secs(1);

    /// Of guests whose pid files are in this folder or below it.
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            seen: Mutex::new(None),
        }
    }

    /// The process with this pid file, if there is one.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn of(&self, pid_file: &Path) -> io::Result<Option<Identity>> {
        let identity = self.look(|found| found.get(pid_file).map(|(identity, _)| *identity))?;
        match identity {
            Some(identity) if process::is_there(identity)? => Ok(Some(identity)),
            _ => Ok(None),
        }
    }

    /// All of them, by the folders of their pid files: each bears the UUID of its VM.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn all(&self) -> io::Result<Vec<FoundGuest>> {
        let found = self.look(HashMap::clone)?;
        let mut guests = Vec::new();
        for (path, (identity, name)) in found {
            let folder = path.parent().and_then(Path::file_name);
            let uuid = folder.and_then(|folder| folder.to_str()?.parse::<Uuid>().ok());
            // Such a path is what a power is asked by, too.
            let own = uuid.filter(|uuid| GuestFiles::new(&self.folder, *uuid).pid() == path);
            if let Some(uuid) = own
                && process::is_there(identity)?
            {
                let pid = identity.pid;
                guests.push(FoundGuest { uuid, pid, name });
            }
        }
        guests.sort_by_key(|guest| guest.uuid);
        Ok(guests)
    }

    /// What a look says that is no older than [`Self::FRESH`].
    fn look<T>(&self, read: impl FnOnce(&HashMap<PathBuf, Named>) -> T) -> io::Result<T> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = seen.take().filter(|(at, _)| at.elapsed() < Self::FRESH);
        let anew = || Ok((Instant::now(), search_all(&self.folder)?));
        let (at, found) = fresh.map_or_else(anew, io::Result::Ok)?;
        let what = read(&found);
        *seen = Some((at, found));
        drop(seen);
        Ok(what)
    }

    /// The next look is a new one: it decides over more than what is shown.
    pub(super) fn look_anew(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A process with such a command line, once that can be read: a spawned one has it a moment later.
    fn playing(pid_file: &Path) -> std::process::Child {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "echo && read line",
                "-name",
                "guest=app,debug-threads=on",
            ])
            .arg("-pidfile")
            .arg(pid_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = child.stdout.as_mut().unwrap();
        io::Read::read_exact(told, &mut [0]).unwrap();
        child
    }

    #[test]
    fn s03_a_new_look_sees_what_the_last_one_did_not() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::new(folder.path().to_owned());
        let pid_file = folder.path().join("vm/pid");
        assert_eq!(running.of(&pid_file).unwrap(), None);
        let mut guest = playing(&pid_file);
        running.look_anew();
        let found = running.of(&pid_file).unwrap();
        assert_eq!(found.map(|found| found.pid), Some(guest.id()));
        drop(guest.stdin.take());
        guest.wait().unwrap();
        assert_eq!(running.of(&pid_file).unwrap(), None, "it has ended");
    }

    #[test]
    fn a_guest_is_found_by_its_folder_and_named_by_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::new(folder.path().to_owned());
        let (vm, other) = (Uuid::from_u128(1), folder.path().join("scratch/qemu.pid"));
        let mut guest = playing(&GuestFiles::new(folder.path(), vm).pid());
        let mut no_guest = playing(&other);
        let found = running.all().unwrap();
        let expected = FoundGuest {
            uuid: vm,
            pid: guest.id(),
            name: Some("app".into()),
        };
        assert_eq!(found, [expected]);
        for process in [&mut guest, &mut no_guest] {
            drop(process.stdin.take());
            process.wait().unwrap();
        }
        assert_eq!(running.all().unwrap(), [], "it has ended");
    }

    #[test]
    fn only_what_could_be_a_name_is_shown_as_one() {
        for (line, name) in [
            ("qemu\0-name\0guest=app", Some("app")),
            ("qemu\0-name\0process=x,guest=app-1.a_b", Some("app-1.a_b")),
            ("qemu\0-name\0guest=two words", None),
            ("qemu\0-name\0guest=", None),
            ("qemu\0-name", None),
            ("qemu", None),
        ] {
            assert_eq!(guest_name(line.as_bytes()).as_deref(), name, "{line}");
        }
    }
}
