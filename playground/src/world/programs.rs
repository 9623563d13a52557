//! Finds the project's own programs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

/// One program of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The product.
    Homeward,
    /// An agent whose guests are processes.
    ProcessAgent,
    /// Clears up after a world that was killed.
    Keeper,
    /// Answers like Azure Site Recovery.
    AsrEmulator,
}

impl Program {
    const fn file_name(self) -> &'static str {
        match self {
            Self::Homeward => "homeward",
            Self::ProcessAgent => "process-agent",
            Self::Keeper => "keeper",
            Self::AsrEmulator => "homeward-asr-emulator",
        }
    }
}

/// The path of a program: in the folder `HOMEWARD_PROGRAMS`, else where this program itself was built.
///
/// Under `cargo`, which builds only what belongs to the package under test, the others are brought up to date first.
///
/// # Errors
///
/// When it is not there; the message says what to run.
pub fn find(program: Program) -> Result<PathBuf> {
    let folder = folder()?;
    let path = folder.join(program.file_name());
    if !path.is_file() {
        bail!("{} is missing: run cargo build --workspace", path.display());
    }
    Ok(path)
}

fn folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOLDER
        .get_or_init(|| look_up().map_err(|error| format!("{error:#}")))
        .as_deref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn look_up() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("HOMEWARD_PROGRAMS") {
        return Ok(folder.into());
    }
    let own = env::current_exe().context("cannot tell where this program is")?;
    let mut folder = own.parent().context("this program is in no folder")?;
    // Test programs lie one deeper.
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps is in no folder")?;
    }
    if let Some(cargo) = env::var_os("CARGO") {
        build(Path::new(&cargo), folder.ends_with("release"))?;
    }
    Ok(folder.to_owned())
}

fn build(cargo: &Path, release: bool) -> Result<()> {
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--workspace", "--bins"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if release {
        command.arg("--release");
    }
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "the programs cannot be built:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
