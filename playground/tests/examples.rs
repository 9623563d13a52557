//! What stands in `examples/` is accepted by a real API server as it is.

use std::path::{Path, PathBuf};

use homeward::api::{ProtectedVirtualMachine, RecoveryVault};
use homeward_playground::control_plane::ControlPlane;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde::Deserialize as _;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents() -> Vec<(PathBuf, DynamicObject)> {
    let mut found = Vec::new();
    for entry in root().join("examples").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            found.push((path.clone(), DynamicObject::deserialize(document).unwrap()));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[tokio::test]
async fn every_example_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(folder.path()).await.unwrap();
    plane.install_crds(&[root().join("crds")]).await.unwrap();
    let client = plane.client().await.unwrap();
    let examples = documents();
    assert!(examples.len() >= 3, "{examples:?}");
    for (path, example) in examples {
        let types = example.types.clone().unwrap();
        let resource = match types.kind.as_str() {
            "RecoveryVault" => ApiResource::erase::<RecoveryVault>(&()),
            "ProtectedVirtualMachine" => ApiResource::erase::<ProtectedVirtualMachine>(&()),
            "Role" => ApiResource::erase::<k8s_openapi::api::rbac::v1::Role>(&()),
            kind => panic!("{} holds a {kind}", path.display()),
        };
        let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
        let name = example.metadata.name.clone().unwrap();
        // Strictly: a field that the schema does not know is an error.
        let strict = PatchParams {
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::apply("test")
        };
        api.patch(&name, &strict, &Patch::Apply(&example))
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
