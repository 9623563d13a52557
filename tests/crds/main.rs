//! The definitions: committed as they are printed, and every rule refused or let pass by a real API server.
#![allow(missing_docs)]

mod azure;
mod cases;
#[path = "../common/mod.rs"]
mod common;

use cases::{Case, Kind};
use common::{Bench, crds};
use homeward::api::definitions;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

#[test]
fn what_is_committed_is_what_is_printed() {
    let files = homeward::cli::crd_files().unwrap();
    for (name, text) in &files {
        let there = std::fs::read_to_string(crds().join(name)).unwrap_or_default();
        assert!(
            there == *text,
            "crds/{name} differs: write it anew with `homeward crds --output crds`"
        );
    }
    assert_eq!(std::fs::read_dir(crds()).unwrap().count(), files.len());
}

/// Rules of the generated schema, so that none is left without a case here.
fn rules(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "x-kubernetes-validations" {
                    for rule in value.as_array().into_iter().flatten() {
                        found.push(rule["message"].as_str().unwrap_or_default().to_owned());
                    }
                }
                rules(value, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| rules(value, found)),
        _ => {}
    }
}

fn set(value: &mut Value, path: &str, to: Value) {
    let at = value.pointer_mut(path);
    match at {
        Some(at) => *at = to,
        None => {
            let (parent, last) = path.rsplit_once('/').unwrap();
            if value.pointer(parent).is_none() {
                set(value, parent, json!({}));
            }
            value.pointer_mut(parent).unwrap()[last] = to;
        }
    }
}

/// An answer at the commit gate, then another one at another phase.
async fn commit_twice(
    api: &Api<DynamicObject>,
    name: &str,
    first: &str,
    then: &str,
    second: Value,
) -> Result<DynamicObject, kube::Error> {
    let good = serde_json::from_value(named(Kind::Failover.good(), name)).unwrap();
    api.create(&PostParams::default(), &good).await.unwrap();
    status(api, name, &json!({"phase": "AwaitingCommit"})).await;
    change(api, name, &json!({"spec": {"commit": first}}))
        .await
        .unwrap();
    status(api, name, &json!({"phase": then})).await;
    change(api, name, &json!({"spec": {"commit": second}})).await
}

fn named(mut value: Value, name: &str) -> Value {
    if value["metadata"]["name"].is_null() {
        value["metadata"]["name"] = json!(name);
    }
    value
}

async fn status(api: &Api<DynamicObject>, name: &str, status: &Value) {
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn change(
    api: &Api<DynamicObject>,
    name: &str,
    change: &Value,
) -> Result<DynamicObject, kube::Error> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
}

async fn attempt(api: &Api<DynamicObject>, name: &str, case: &Case) -> Result<(), kube::Error> {
    let mut value = named(case.kind.good(), name);
    for (path, to) in &case.made_with {
        set(&mut value, path, to.clone());
    }
    let resource = serde_json::from_value(value).unwrap();
    let made = api.create(&PostParams::default(), &resource).await?;
    let name = made.metadata.name.unwrap();
    if let Some(given) = &case.status {
        status(api, &name, given).await;
    }
    if let Some(then) = &case.then {
        change(api, &name, then).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_refuses_what_it_should_and_nothing_else() {
    let bench = Bench::new("rules").await;
    let api = |kind: Kind| -> Api<DynamicObject> {
        Api::namespaced_with(bench.client.clone(), &bench.namespace, &kind.resource())
    };
    let mut heard = String::new();
    for (number, case) in cases::cases().into_iter().chain(azure::cases()).enumerate() {
        let name = format!("case-{number}");
        let told = attempt(&api(case.kind), &name, &case).await;
        let what = format!(
            "{name}: {:?} with {:?} and {:?} then {:?}",
            case.kind, case.made_with, case.status, case.then
        );
        match (told, case.refused) {
            (Ok(()), None) => {}
            (Ok(()), Some(expected)) => panic!("{what} was let pass; it should say: {expected}"),
            (Err(error), None) => panic!("{what} was refused: {error}"),
            (Err(error), Some(expected)) => {
                let text = error.to_string();
                assert!(
                    text.contains(expected),
                    "{what} says {text}, not: {expected}"
                );
                heard.push_str(&text);
            }
        }
    }
    for (number, (first, then, second, refused)) in [
        (
            "Rollback",
            "AwaitingCommit",
            json!("Approved"),
            Some("spec.commit was answered and cannot be taken back"),
        ),
        // An answer given does not hold up what the move goes through after it.
        ("Approved", "CuttingOver", json!("Approved"), None),
        ("Rollback", "Cancelling", json!("Rollback"), None),
        (
            "Rollback",
            "RollingBack",
            json!("Approved"),
            Some("spec.commit was answered and cannot be taken back"),
        ),
        (
            "Approved",
            "AwaitingCommit",
            json!("Rollback"),
            Some("spec.commit was answered and cannot be taken back"),
        ),
        (
            "Approved",
            "AwaitingCommit",
            json!(null),
            Some("spec.commit was answered and cannot be taken back"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("commit-{number}");
        let told = commit_twice(&api(Kind::Failover), &name, first, then, second.clone()).await;
        let what = format!("{first}, then {second} at {then}");
        match (told, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let text = error.to_string();
                assert!(text.contains(expected), "{what} says {text}");
                heard.push_str(&text);
            }
            (told, _) => panic!("{what}: {told:?}"),
        }
    }

    let mut messages = Vec::new();
    for definition in definitions() {
        rules(&serde_json::to_value(definition).unwrap(), &mut messages);
    }
    assert!(messages.len() > 15);
    for message in messages {
        assert!(
            heard.contains(&message),
            "no case was refused with: {message}"
        );
    }
}

/// A condition as a status has it; its message tells of which one it is.
fn said(kind: &str) -> Value {
    json!({
        "type": kind, "status": format!("{kind}?"), "reason": "Because", "message": format!("what {kind} says"),
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// Every cell of a resource whose every field is told from the others.
#[tokio::test(flavor = "multi_thread")]
async fn columns_answer_what_a_person_asks() {
    let bench = Bench::new("columns").await;
    let conditions = |kinds: &[&str]| kinds.iter().map(|kind| said(kind)).collect::<Vec<_>>();
    let of_vault = conditions(&["Ready", "OnPremisesConnected", "AzureConnected"]);
    let of_vm = conditions(&["Placed", "Protected", "Ready", "TargetConsistent"]);
    for (kind, plural, status, expected) in [
        (
            Kind::Vault,
            "recoveryvaults",
            json!({"virtualMachines": 7, "conditions": of_vault}),
            vec![
                ("Name", json!("thing")),
                ("Ready", json!("Ready?")),
                ("On-Premises", json!("OnPremisesConnected?")),
                ("Azure", json!("AzureConnected?")),
                ("VMs", json!(7)),
                ("Message", json!("what Ready says")),
            ],
        ),
        (
            Kind::Vm,
            "protectedvirtualmachines",
            json!({
                "activeSite": "Azure", "phase": "Protected", "conditions": of_vm,
                "currentFailover": {"name": "thing-3", "uid": "u"},
            }),
            vec![
                ("Name", json!("thing")),
                ("Placement", json!("OnPremises")),
                ("Active", json!("Azure")),
                ("Phase", json!("Protected")),
                ("Protected", json!("Protected?")),
                ("Failover", json!("thing-3")),
                ("Ready", json!("Ready?")),
                ("Message", json!("what Ready says")),
            ],
        ),
        (
            Kind::Failover,
            "failovers",
            json!({
                "phase": "Synchronizing", "waitingFor": "a word",
                "progress": {"summary": "5% of 9 MiB", "bytesDone": 1, "observedTime": "2026-01-01T00:00:00Z"},
            }),
            vec![
                ("Name", json!("thing")),
                ("VM", json!("web")),
                ("From", json!("OnPremises")),
                ("To", json!("Azure")),
                ("Phase", json!("Synchronizing")),
                ("Progress", json!("5% of 9 MiB")),
                ("Waiting For", json!("a word")),
            ],
        ),
    ] {
        let api: Api<DynamicObject> =
            Api::namespaced_with(bench.client.clone(), &bench.namespace, &kind.resource());
        let made = serde_json::from_value(named(kind.good(), "thing")).unwrap();
        api.create(&PostParams::default(), &made).await.unwrap();
        self::status(&api, "thing", &status).await;
        let path = format!("/apis/homeward.dev/v1alpha1/namespaces/columns/{plural}");
        let table: Value = bench.client.request(http_table(&path)).await.unwrap();
        let names = table["columnDefinitions"].as_array().unwrap().iter();
        let cells = table["rows"][0]["cells"].as_array().unwrap().iter();
        let mut shown: Vec<_> = names
            .map(|column| column["name"].as_str().unwrap())
            .zip(cells.cloned())
            .collect();
        // How old it is: some time.
        let (age, since) = shown.pop().unwrap();
        assert!(age == "Age" && since.is_string(), "{age}: {since}");
        assert_eq!(shown, expected, "{plural}");
    }
}

fn http_table(path: &str) -> kube_http::Request<Vec<u8>> {
    kube_http::Request::get(path)
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap()
}

/// The `http` crate that the client speaks in.
use axum::http as kube_http;

/// `kubectl explain` tells of the field, not of the kind of value that it takes.
#[test]
fn an_answer_is_explained_by_its_field() {
    let definition = definitions()
        .into_iter()
        .map(|definition| serde_json::to_value(definition).unwrap())
        .find(|definition| definition["spec"]["names"]["kind"] == "Failover")
        .unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = &schema["properties"]["spec"]["properties"];
    for answer in ["start", "cutover", "commit", "reverseReplicate", "cancel"] {
        let said = spec[answer]["description"].as_str().unwrap_or_default();
        assert!(said.starts_with("Answer: "), "{answer}: {said}");
    }
}
