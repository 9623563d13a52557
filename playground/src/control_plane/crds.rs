//! Installs custom resource definitions.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::wait::{await_condition, conditions},
};
use serde::Deserialize as _;
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_mins(1);

/// Applies every definition, then waits for each.
pub(super) async fn install<P: AsRef<Path>>(client: &Client, paths: &[P]) -> Result<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut definitions = Vec::new();
    for path in yaml_files(paths)? {
        for (name, definition) in read(&path)? {
            // The text as it is, so that a field this library does not know reaches the server.
            api.patch(
                &name,
                &PatchParams::apply("homeward-playground").force(),
                &Patch::Apply(&definition),
            )
            .await
            .with_context(|| format!("the API server refuses {name} of {}", path.display()))?;
            definitions.push(name);
        }
    }
    for name in &definitions {
        timeout(
            LIMIT,
            await_condition(api.clone(), name, conditions::is_crd_established()),
        )
        .await
        .with_context(|| format!("{name} was not established in time"))?
        .with_context(|| format!("cannot watch {name}"))?;
        wait_until_served(client, &api.get(name).await?).await?;
    }
    Ok(definitions)
}

/// A definition is established a moment before its path answers.
async fn wait_until_served(client: &Client, definition: &CustomResourceDefinition) -> Result<()> {
    let spec = &definition.spec;
    let deadline = Instant::now() + LIMIT;
    for version in spec.versions.iter().filter(|version| version.served) {
        let kind = GroupVersionKind::gvk(&spec.group, &version.name, &spec.names.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &spec.names.plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        while let Err(error) = api.list(&ListParams::default().limit(1)).await {
            let path = format!("{}/{}", resource.api_version, resource.plural);
            ensure!(
                Instant::now() < deadline,
                "{path} was not served in time: {error}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn yaml_files<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        if path.is_dir() {
            let mut inside = Vec::new();
            for entry in path
                .read_dir()
                .with_context(|| format!("cannot list {}", path.display()))?
            {
                let file = entry?.path();
                if file
                    .extension()
                    .is_some_and(|extension| extension == "yaml" || extension == "yml")
                {
                    inside.push(file);
                }
            }
            inside.sort();
            files.append(&mut inside);
        } else {
            files.push(path.to_owned());
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<(String, serde_json::Value)>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut definitions = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_json::Value::deserialize(document)
            .with_context(|| format!("{} is not YAML", path.display()))?;
        if value.is_null() {
            continue;
        }
        ensure!(
            value["kind"] == "CustomResourceDefinition",
            "{} holds a {}, not a CustomResourceDefinition",
            path.display(),
            value["kind"]
        );
        let name = value["metadata"]["name"]
            .as_str()
            .with_context(|| format!("{} has no name", path.display()))?
            .to_owned();
        definitions.push((name, value));
    }
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_yaml_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "notes.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names: Vec<_> = yaml_files(&[folder.path()])
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.yml", "b.yaml"]);
    }

    #[test]
    fn something_else_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "---\nkind: ConfigMap\n").unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("ConfigMap"), "{error}");
    }
}
