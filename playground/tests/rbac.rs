//! The roles that are handed out allow what they are for, and nothing that they are not for.

use std::path::{Path, PathBuf};

use homeward_playground::control_plane::ControlPlane;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
};
use serde_json::json;

const OPERATOR: &str = "system:serviceaccount:homeward-system:homeward";
const PERSON: &str = "night-shift";

/// Verb, resource with its subresource, group, name, namespace.
type Request = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const OURS: &str = "homeward.dev";

/// What the operator asks of the API server: all of it shows in what the end-to-end tests do with these rights.
const OPERATOR_MAY: &[Request] = &[
    ("watch", "protectedvirtualmachines", OURS, "", ""),
    ("patch", "protectedvirtualmachines", OURS, "web", "shop"),
    (
        "update",
        "protectedvirtualmachines/status",
        OURS,
        "web",
        "shop",
    ),
    ("update", "recoveryvaults/status", OURS, "main", "shop"),
    ("create", "failovers", OURS, "", "shop"),
    ("delete", "failovers", OURS, "web-1", "shop"),
    ("get", "secrets", "", "homeward-agents-ca", "shop"),
    ("get", "namespaces", "", "kube-system", ""),
    ("create", "events", "events.k8s.io", "", "shop"),
    (
        "update",
        "leases",
        "coordination.k8s.io",
        "homeward",
        "homeward-system",
    ),
];

const OPERATOR_MAY_NOT: &[Request] = &[
    ("list", "secrets", "", "", ""),
    ("watch", "secrets", "", "", "shop"),
    ("update", "secrets", "", "homeward-agents-ca", "shop"),
    ("create", "protectedvirtualmachines", OURS, "", "shop"),
    ("delete", "protectedvirtualmachines", OURS, "web", "shop"),
    ("delete", "recoveryvaults", OURS, "main", "shop"),
    (
        "update",
        "leases",
        "coordination.k8s.io",
        "another",
        "homeward-system",
    ),
    (
        "update",
        "leases",
        "coordination.k8s.io",
        "homeward",
        "shop",
    ),
    ("get", "namespaces", "", "shop", ""),
    ("list", "pods", "", "", ""),
    ("create", "pods", "", "", "shop"),
    (
        "escalate",
        "clusterroles",
        "rbac.authorization.k8s.io",
        "",
        "",
    ),
];

const PERSON_MAY: &[Request] = &[
    ("patch", "failovers", OURS, "web-1", "default"),
    ("watch", "protectedvirtualmachines", OURS, "", "default"),
];

const PERSON_MAY_NOT: &[Request] = &[
    ("patch", "protectedvirtualmachines", OURS, "web", "default"),
    ("patch", "failovers/status", OURS, "web-1", "default"),
    ("create", "failovers", OURS, "", "default"),
    ("delete", "failovers", OURS, "web-1", "default"),
    ("patch", "failovers", OURS, "web-1", "another"),
    ("get", "secrets", "", "homeward-operator", "default"),
];

async fn may(client: &Client, user: &str, request: &Request) -> bool {
    let (verb, resource, group, name, namespace) = *request;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.into()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                resource: Some(resource.into()),
                subresource: Some(subresource.into()),
                group: Some(group.into()),
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn roles_allow_what_they_are_for_and_nothing_else() {
    let root =
        |file: &str| -> PathBuf { Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file) };
    let folder = tempfile::tempdir().unwrap();
    let plane = ControlPlane::start(folder.path()).await.unwrap();
    plane.apply(&root("deploy/rbac.yaml"), None).await.unwrap();
    plane
        .apply(&root("examples/approver-role.yaml"), Some("default"))
        .await
        .unwrap();
    let client = plane.client().await.unwrap();
    let binding: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "night-shift"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "homeward-approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": PERSON}],
    }))
    .unwrap();
    let resource = kube::api::ApiResource::erase::<k8s_openapi::api::rbac::v1::RoleBinding>(&());
    let bindings: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    for (user, requests, allowed) in [
        (OPERATOR, OPERATOR_MAY, true),
        (OPERATOR, OPERATOR_MAY_NOT, false),
        (PERSON, PERSON_MAY, true),
        (PERSON, PERSON_MAY_NOT, false),
        ("a-stranger", OPERATOR_MAY, false),
    ] {
        for request in requests {
            assert_eq!(
                may(&client, user, request).await,
                allowed,
                "{user}: {request:?}"
            );
        }
    }
}
