//! Finds what `tools/setup` has built.
//!
//! `HOMEWARD_TOOLS` names a folder that holds the programs and files themselves; without it, `tools/setup --where` says
//! where its cache keeps them, so that there is one place which knows.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// One thing that `tools/setup` provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The API server.
    KubeApiserver,
    /// The command line client of the API server.
    Kubectl,
    /// The store behind the API server.
    Etcd,
    /// The kernel of the test guest.
    GuestKernel,
    /// The initramfs of the test guest.
    GuestInitramfs,
    /// The guest's writer as a program for the host.
    Recorder,
}

impl Tool {
    fn group(self) -> &'static str {
        match self {
            Self::KubeApiserver | Self::Kubectl | Self::Etcd => "kube",
            Self::GuestKernel | Self::GuestInitramfs | Self::Recorder => "guest",
        }
    }

    fn path_in_group(self) -> &'static str {
        match self {
            Self::KubeApiserver => "bin/kube-apiserver",
            Self::Kubectl => "bin/kubectl",
            Self::Etcd => "bin/etcd",
            Self::GuestKernel => "vmlinuz",
            Self::GuestInitramfs => "initramfs.cpio.gz",
            Self::Recorder => "recorder",
        }
    }
}

/// The path of a tool.
///
/// # Errors
///
/// When it is not there; the message says what to run.
pub fn find(tool: Tool) -> Result<PathBuf> {
    find_in(
        tool,
        env::var_os("HOMEWARD_TOOLS").map(PathBuf::from).as_deref(),
    )
}

/// The program of QEMU: `HOMEWARD_QEMU`, else `qemu-system-x86_64` on the search path.
///
/// # Errors
///
/// When it is not there; the message says what to run.
pub fn find_qemu() -> Result<PathBuf> {
    if let Some(program) = env::var_os("HOMEWARD_QEMU") {
        return Ok(program.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
        .context("qemu-system-x86_64 is not on PATH: run tools/setup kube guest")
}

fn find_in(tool: Tool, chosen: Option<&Path>) -> Result<PathBuf> {
    let relative = Path::new(tool.path_in_group());
    let path = match chosen {
        Some(folder) => folder.join(relative.file_name().unwrap_or(relative.as_os_str())),
        None => group_folder(tool.group())?.join(relative),
    };
    if !path.is_file() {
        bail!("{} is missing: run tools/setup kube guest", path.display());
    }
    Ok(path)
}

fn group_folder(group: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/setup");
    let output = Command::new(&script)
        .args(["--where", group])
        .output()
        .with_context(|| {
            format!(
                "cannot run {} (HOMEWARD_TOOLS names a folder of tools without it)",
                script.display()
            )
        })?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let folder =
        String::from_utf8(output.stdout).context("the folder of the tools is not UTF-8")?;
    Ok(PathBuf::from(folder.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_says_what_to_run() {
        let empty = tempfile::tempdir().unwrap();
        let error = find_in(Tool::Etcd, Some(empty.path())).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("etcd is missing: run tools/setup kube guest"),
            "{error}"
        );
    }

    #[test]
    fn a_chosen_folder_holds_the_tools_themselves() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("etcd"), "").unwrap();
        assert_eq!(
            find_in(Tool::Etcd, Some(folder.path())).unwrap(),
            folder.path().join("etcd")
        );
    }

    #[test]
    fn the_setup_script_knows_its_groups() {
        for group in ["kube", "guest"] {
            let folder = group_folder(group).unwrap();
            assert!(folder.is_absolute(), "{}", folder.display());
        }
    }
}
