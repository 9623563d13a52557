//! The state file: written whole and renamed into place, so that a restart finds the old one or the new one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the state is kept.
#[derive(Clone, Debug)]
pub(crate) struct Store(pub(crate) PathBuf);

/// Writes a file whole, for its owner alone or for all to read.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let written = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}

impl Store {
    pub(crate) fn read(&self) -> anyhow::Result<Option<Vec<u8>>> {
        match fs::read(&self.0) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("{} cannot be read", self.0.display()))
            }
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        // Tokens, and the CA's key beside it, are nobody else's to read.
        write(&self.0, bytes, 0o600)
    }
}
