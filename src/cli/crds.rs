//! `homeward crds`: the CustomResourceDefinitions, printed, written to a folder, or compared with one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::api::definitions;

/// What `homeward crds` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder to write to, one file a kind. Printed to standard output when neither this nor --check is given.
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    output: Option<PathBuf>,
    /// Folder to compare with; fails and names the files that differ, are missing or are too many.
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

const HEADER: &str = "\
# Made by `homeward crds --output crds`. Change the types in src/api instead of this file.
";

/// The files: name and content, in the order in which they are written.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn files() -> anyhow::Result<Vec<(String, String)>> {
    definitions()
        .iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.spec.names.kind.to_lowercase());
            let text = serde_yaml::to_string(definition)?;
            Ok((name, format!("{HEADER}{text}")))
        })
        .collect()
}

/// Does what the arguments say.
pub fn crds(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { output, check } = arguments;
    if let Some(folder) = check {
        return compare(folder);
    }
    match output {
        Some(folder) => write(folder),
        None => {
            for (_, text) in files()? {
                print!("---\n{text}");
            }
            Ok(())
        }
    }
}

fn write(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make folder {}", folder.display()))?;
    for (name, text) in files()? {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn compare(folder: &Path) -> anyhow::Result<()> {
    let files = files()?;
    let mut wrong = Vec::new();
    for (name, text) in &files {
        match std::fs::read_to_string(folder.join(name)) {
            Ok(there) if there == *text => {}
            Ok(_) => wrong.push(format!("{name} differs")),
            Err(_) => wrong.push(format!("{name} is missing")),
        }
    }
    let entries = folder
        .read_dir()
        .with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if is_yaml && !files.iter().any(|(known, _)| *known == name) {
            wrong.push(format!("{name} is not a definition of this version"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort();
    bail!(
        "{}: {}; write them anew with `homeward crds --output {}`",
        folder.display(),
        wrong.join(", "),
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_written_and_compared() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        write(at).unwrap();
        compare(at).unwrap();
        std::fs::write(at.join("failover.yaml"), "old").unwrap();
        std::fs::remove_file(at.join("recoveryvault.yaml")).unwrap();
        std::fs::write(at.join("other.yaml"), "").unwrap();
        let error = compare(at).unwrap_err().to_string();
        for part in [
            "failover.yaml differs",
            "recoveryvault.yaml is missing",
            "other.yaml is not a definition of this version",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
