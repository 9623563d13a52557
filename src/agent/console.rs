//! The files to which the guests' consoles are written: a guest that talks a lot must not fill the agent's own folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::host::Host;

/// The longest that a console's file grows, bytes; as much again may lie beside it.
const LIMIT: u64 = 64 << 20;
/// How often they are looked at.
const INTERVAL: Duration = Duration::from_mins(1);

/// Looks at all of them until the agent ends.
pub(crate) async fn keep_short(host: Arc<Host>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = host.shutdown.cancelled() => return,
        }
        let consoles: Vec<_> = host
            .vms()
            .into_iter()
            .map(|vm| host.hypervisor.console(&host.process(vm.uuid)))
            .collect();
        let shortened = tokio::task::spawn_blocking(move || {
            for console in consoles {
                if let Err(failed) = shorten(&console, LIMIT) {
                    tracing::warn!(file = %console.display(), error = %failed, "a console's file could not be shortened");
                }
            }
        });
        let _ended = shortened.await;
    }
}

/// A file longer than `limit` begins anew; what it ended with lies beside it, in `FILE.1`. Whoever writes to it appends, and is not
/// disturbed; what it writes in this very moment may be lost.
fn shorten(path: &Path, limit: u64) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(failed) => return Err(failed),
    };
    let length = file.metadata()?.len();
    if length <= limit {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length - limit))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".1");
    io::copy(&mut file, &mut File::create(&beside)?)?;
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_long_console_begins_anew_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        shorten(&path, 4).unwrap();
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        writer.write_all(b"1234").unwrap();
        shorten(&path, 4).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1234", "not longer than allowed");
        writer.write_all(b"56").unwrap();
        shorten(&path, 4).unwrap();
        writer.write_all(b"7").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7");
        let beside = folder.path().join("console.1");
        assert_eq!(fs::read(beside).unwrap(), b"3456");
    }
}
