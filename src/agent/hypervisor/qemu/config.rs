//! The settings of the QEMU hypervisor.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::hypervisor::{HypervisorError, Result};

/// The processor's virtualisation, as Linux gives it to programs.
const KVM: &str = "/dev/kvm";

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor's virtualisation. The usual choice.
    Kvm,
    /// Emulation: slow, works everywhere.
    Tcg,
}

/// How QEMU uses the page cache of the host. A cache that ignores flushes cannot be chosen (S12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the page cache; the guest's flushes are honoured.
    Writeback,
    /// Around the page cache (`O_DIRECT`).
    None,
}

/// Settings of one host. QEMU 7.1 or newer is needed (`snapshot-access`, `cbw-timeout`).
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// The program, a name to be found in `PATH` or a path.
    pub binary: PathBuf,
    /// How guest code is executed.
    pub accelerator: Accelerator,
    /// How the page cache is used.
    pub cache: CacheMode,
    /// The networks of this host: name to `-netdev` value without its id, such as `user` or `bridge,br=br0`.
    pub networks: BTreeMap<String, String>,
    /// Arguments added at the end of every command line.
    pub extra_arguments: Vec<String>,
    /// Where each guest has a folder with its sockets, records and console. Short: a Unix socket's path has at most 107 bytes.
    pub state_dir: PathBuf,
    /// Where the scratch files of points in time lie. It may fill up: that breaks a point and never a guest.
    pub scratch_dir: PathBuf,
    /// How long QEMU may be silent at a question before its state counts as unknown.
    pub answer_timeout: Duration,
    /// How long a command may take that drains requests or copies bitmaps, and the end of a process.
    pub command_timeout: Duration,
    /// How long copying old data to the scratch file may hold up a write of the guest before the point is broken instead. Whole
    /// seconds, at least 1.
    pub scratch_timeout: Duration,
}

impl QemuConfig {
    /// The defaults for a host that keeps guests' folders in `state_dir` and scratch files in `scratch_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf, scratch_dir: PathBuf) -> Self {
        Self {
            binary: PathBuf::from("qemu-system-x86_64"),
            accelerator: Accelerator::Kvm,
            cache: CacheMode::Writeback,
            networks: BTreeMap::new(),
            extra_arguments: Vec::new(),
            state_dir,
            scratch_dir,
            answer_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_mins(1),
            scratch_timeout: Duration::from_secs(15),
        }
    }

    /// Whether the program is there and the accelerator can be had.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn usable(&self) -> Result<()> {
        let invalid = |field: &str, message: String| {
            Err(HypervisorError::Invalid {
                field: format!("hypervisor.qemu.{field}"),
                message,
            })
        };
        let executable = |path: &Path| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let found = if self.binary.components().count() > 1 {
            executable(&self.binary)
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| executable(&folder.join(&self.binary)))
        };
        if !found {
            let message = format!(
                "{} is not there or cannot be run: install QEMU, or name its program",
                self.binary.display()
            );
            return invalid("binary", message);
        }
        if self.accelerator == Accelerator::Kvm
            && let Err(error) = File::options().read(true).write(true).open(KVM)
        {
            let message = format!(
                "kvm needs {KVM}: {error}; turn the processor's virtualisation on and load the module, or set accelerator: tcg (slow)"
            );
            return invalid("accelerator", message);
        }
        Ok(())
    }

    /// Refuses settings under which the safety rules do not hold.
    ///
    /// # Errors
    /// `Invalid`, naming the argument.
    pub fn check(&self) -> Result<()> {
        let invalid = |message: String| {
            Err(HypervisorError::Invalid {
                field: "hypervisor.qemu.extraArguments".into(),
                message,
            })
        };
        for argument in &self.extra_arguments {
            // S12: a flush that does nothing would make every promise of durability a lie.
            if argument.contains("cache=unsafe") || argument.contains("no-flush") {
                return invalid(format!(
                    "{argument}: a cache that ignores flushes is refused; use the setting `cache`"
                ));
            }
            let flag = argument.trim_start_matches('-');
            if argument.starts_with('-') && OWN_FLAGS.contains(&flag) {
                return invalid(format!("{argument} is set by the agent itself; remove it"));
            }
        }
        Ok(())
    }
}

/// Flags that say how the process lives; changing them would take the ground from under the agent.
const OWN_FLAGS: &[&str] = &[
    "S",
    "action",
    "daemonize",
    "incoming",
    "loadvm",
    "mon",
    "monitor",
    "no-shutdown",
    "no-reboot",
    "pidfile",
    "preconfig",
    "qmp",
    "snapshot",
    "uuid",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_a_cache_without_flushes_is_refused() {
        let mut config = QemuConfig::new("/s".into(), "/t".into());
        assert!(config.check().is_ok());
        for argument in [
            "file=x,cache=unsafe",
            "driver=file,cache.no-flush=on",
            "-snapshot",
            "--daemonize",
            "-qmp",
        ] {
            config.extra_arguments = vec![argument.into()];
            assert!(config.check().is_err(), "{argument}");
        }
        config.extra_arguments = vec!["-cpu".into(), "max".into()];
        assert!(config.check().is_ok());
    }
}
