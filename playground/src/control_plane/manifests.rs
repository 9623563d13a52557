//! Applies manifests that hold anything but custom resource definitions.

use std::path::Path;

use anyhow::{Context as _, Result};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde::Deserialize as _;

/// Applies every document of a file, in its order. A document without a namespace is of the cluster, or goes into `namespace`.
pub(super) async fn apply(client: &Client, path: &Path, namespace: Option<&str>) -> Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object = DynamicObject::deserialize(document)
            .with_context(|| format!("{} is not a list of resources", path.display()))?;
        let types = object
            .types
            .clone()
            .with_context(|| format!("{}: a resource without a kind", path.display()))?;
        let name = object.metadata.name.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(types.clone())?;
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match object.metadata.namespace.as_deref().or(namespace) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let strict = PatchParams {
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::apply("homeward-playground").force()
        };
        api.patch(&name, &strict, &Patch::Apply(&object))
            .await
            .with_context(|| {
                format!(
                    "the API server refuses {} {name} of {}",
                    types.kind,
                    path.display()
                )
            })?;
    }
    Ok(())
}
