//! The control plane is a real one.

use std::{collections::BTreeMap, path::Path, time::Duration};

use homeward_playground::control_plane::{ControlPlane, ControlPlaneOptions, User};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{DynamicObject, ListParams, ObjectMeta, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: boats.example.dev
spec:
  group: example.dev
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                oars: {type: integer}
              x-kubernetes-validations:
                - {rule: "self.oars % 2 == 0", message: "oars come in pairs"}
"#;

#[tokio::test]
async fn a_control_plane_keeps_what_it_was_told_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = ControlPlaneOptions {
        users: vec![User::new("nobody-special")],
        ..ControlPlaneOptions::default()
    };
    let started = std::time::Instant::now();
    let mut plane = ControlPlane::start_with(folder.path(), options)
        .await
        .unwrap();
    println!("ready after {:?}", started.elapsed());
    let client = plane.client().await.unwrap();

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names: Vec<String> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .iter()
        .map(kube::ResourceExt::name_any)
        .collect();
    assert!(names.contains(&"default".to_owned()), "{names:?}");

    let denied = Api::<Namespace>::all(plane.client_for("nobody-special").await.unwrap())
        .list(&ListParams::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&denied, kube::Error::Api(status) if status.is_forbidden()),
        "{denied}"
    );
    assert!(plane.client_for("stranger").await.is_err());

    plane.create_namespaces(&["harbour"]).await.unwrap();
    plane.create_namespaces(&["harbour"]).await.unwrap();
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), "harbour");
    let tide = ConfigMap {
        metadata: ObjectMeta {
            name: Some("tide".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("level".to_owned(), "high".to_owned())])),
        ..ConfigMap::default()
    };
    config_maps
        .patch("tide", &PatchParams::apply("test"), &Patch::Apply(&tide))
        .await
        .unwrap();

    custom_resources(&plane, folder.path()).await;

    plane.stop_apiserver().await.unwrap();
    let refused = tokio::net::TcpStream::connect(plane.url().trim_start_matches("https://")).await;
    assert!(refused.is_err());
    plane.start_apiserver().await.unwrap();
    let seen = config_maps.get("tide").await.unwrap();
    assert_eq!(seen.data, tide.data);

    plane.freeze_apiserver().unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), config_maps.get("tide")).await;
    assert!(answer.is_err(), "a frozen server answers nothing");
    plane.thaw_apiserver().unwrap();
    config_maps.get("tide").await.unwrap();
}

async fn custom_resources(plane: &ControlPlane, folder: &Path) {
    let file = folder.join("boats.yaml");
    std::fs::write(&file, CRD).unwrap();
    assert_eq!(
        plane.install_crds(&[&file]).await.unwrap(),
        ["boats.example.dev"]
    );
    plane.install_crds(&[&file]).await.unwrap();

    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("example.dev", "v1", "Boat"));
    let boats: Api<DynamicObject> =
        Api::namespaced_with(plane.client().await.unwrap(), "harbour", &resource);
    let boat = |oars: i64| serde_json::json!({"apiVersion": "example.dev/v1", "kind": "Boat", "metadata": {"name": "dory"}, "spec": {"oars": oars}});
    let apply = PatchParams::apply("test");
    let refused = boats
        .patch("dory", &apply, &Patch::Apply(boat(3)))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("oars come in pairs"), "{refused}");
    boats
        .patch("dory", &apply, &Patch::Apply(boat(4)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_live_side_by_side() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (first, second) = tokio::join!(
        ControlPlane::start(folders[0].path()),
        ControlPlane::start(folders[1].path())
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.url(), second.url());
    first.create_namespaces(&["only-here"]).await.unwrap();
    let elsewhere: Api<Namespace> = Api::all(second.client().await.unwrap());
    assert!(elsewhere.get_opt("only-here").await.unwrap().is_none());
}
