//! The definitions: committed as they are printed, and every rule refused or let pass by a real API server.
#![allow(missing_docs)]

mod common;

use common::{Bench, crds};
use homeward::api::{Failover, ProtectedVirtualMachine, RecoveryVault, definitions};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
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

/// What is done to a good resource, and what the API server says to it.
struct Case {
    kind: Kind,
    /// Paths and values before it is made.
    made_with: Vec<(&'static str, Value)>,
    /// Status given to it once it is made.
    status: Option<Value>,
    /// A change of the resource as it then is.
    then: Option<Value>,
    /// A part of the refusal; nothing when it must pass.
    refused: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Vault,
    Vm,
    Failover,
}

impl Kind {
    fn resource(self) -> ApiResource {
        match self {
            Self::Vault => ApiResource::erase::<RecoveryVault>(&()),
            Self::Vm => ApiResource::erase::<ProtectedVirtualMachine>(&()),
            Self::Failover => ApiResource::erase::<Failover>(&()),
        }
    }

    fn good(self) -> Value {
        let (kind, spec) = match self {
            Self::Vault => (
                "RecoveryVault",
                json!({"agents": {
                    "onPremises": {"hosts": [{"name": "hv1", "url": "https://hv1.example.com:7443"}]},
                    "azure": {"hosts": [{"name": "az1", "url": "https://az1.example.com:7443"}]},
                    "tls": {"caSecretRef": {"name": "ca"}, "clientCertificateSecretRef": {"name": "client"}},
                }}),
            ),
            Self::Vm => (
                "ProtectedVirtualMachine",
                json!({"vaultRef": {"name": "vault"}, "placement": "OnPremises"}),
            ),
            Self::Failover => (
                "Failover",
                json!({"virtualMachine": {"name": "web", "uid": "u"}, "from": "OnPremises", "to": "Azure", "dataSync": "Auto"}),
            ),
        };
        json!({"apiVersion": "homeward.dev/v1alpha1", "kind": kind, "metadata": {}, "spec": spec})
    }
}

fn made(kind: Kind, with: &[(&'static str, Value)], refused: Option<&'static str>) -> Case {
    Case {
        kind,
        made_with: with.to_vec(),
        status: None,
        then: None,
        refused,
    }
}

fn changed(
    kind: Kind,
    with: &[(&'static str, Value)],
    then: impl Into<Value>,
    refused: Option<&'static str>,
) -> Case {
    let then: Value = then.into();
    Case {
        then: Some(json!({"spec": then})),
        ..made(kind, with, refused)
    }
}

fn answered(phase: &str, then: Value, refused: Option<&'static str>) -> Case {
    Case {
        status: Some(json!({"phase": phase})),
        ..changed(Kind::Failover, &[], then, refused)
    }
}

fn cases() -> Vec<Case> {
    use Kind::{Failover, Vault, Vm};
    let long = "n".repeat(64);
    let mut cases = vec![
        // RecoveryVault
        made(Vault, &[], None),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/name", json!("hv1"))],
            Some("a host is at one site"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts/0/url",
                json!("https://hv1.example.com:7443"),
            )],
            Some("one url stands at both sites"),
        ),
        made(
            Vault,
            &[("/spec/agents/replicationInterval", json!("500ms"))],
            Some("must be whole seconds from 1s to 24h"),
        ),
        made(
            Vault,
            &[("/spec/agents/replicationInterval", json!("25h"))],
            Some("must be whole seconds from 1s to 24h"),
        ),
        made(
            Vault,
            &[("/spec/agents/replicationInterval", json!("24h"))],
            None,
        ),
        made(
            Vault,
            &[("/spec/agents/replicationInterval", json!("1s"))],
            None,
        ),
        made(
            Vm,
            &[("/spec/vaultRef/name", json!(""))],
            Some("spec.vaultRef.name"),
        ),
        made(
            Vm,
            &[("/spec/virtualMachineName", json!(""))],
            Some("spec.virtualMachineName"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/name", json!(""))],
            Some("spec.agents.azure.hosts[0].name"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!(""))],
            Some("spec.agents.azure.hosts[0].url"),
        ),
        made(
            Vault,
            &[("/spec/agents/tls/caSecretRef/name", json!(""))],
            Some("spec.agents.tls.caSecretRef.name"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/tls/clientCertificateSecretRef/name",
                json!(""),
            )],
            Some("spec.agents.tls.clientCertificateSecretRef.name"),
        ),
        made(
            Failover,
            &[("/spec/virtualMachine/name", json!(""))],
            Some("spec.virtualMachine.name"),
        ),
        made(
            Failover,
            &[("/spec/virtualMachine/uid", json!(""))],
            Some("spec.virtualMachine.uid"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/name", json!("Upper"))],
            Some("must be lower case letters"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1:99999"))],
            Some("a port from 1 to 65535"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1:0"))],
            Some("a port from 1 to 65535"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1:65535"))],
            None,
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1"))],
            None,
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("http://az1:7443"))],
            Some("must be https, a host in lower case"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts/0/url",
                json!("https://az1:7443/api"),
            )],
            Some("must be https, a host in lower case"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts/0/url",
                json!("https://user:word@az1:7443"),
            )],
            Some("no user"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1/?a=b"))],
            Some("no query"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://az1/"))],
            Some("no slash at the end"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://a$1:7443"))],
            Some("lower case letters"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://AZ1:7443"))],
            Some("lower case letters"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts/0/url",
                json!("https://[2001:db8::7]:7443"),
            )],
            None,
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts/0/url", json!("https://192.0.2.7"))],
            None,
        ),
        made(
            Vault,
            &[("/spec/agents/replicationInterval", json!("1500ms"))],
            Some("whole seconds"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts",
                json!([{"name": "a", "url": "https://a"}, {"name": "b", "url": "https://a"}]),
            )],
            Some("one url stands at two hosts"),
        ),
        made(
            Vault,
            &[("/spec/agents/azure/hosts", json!([]))],
            Some("should have at least 1 items"),
        ),
        made(
            Vault,
            &[(
                "/spec/agents/azure/hosts",
                json!([{"name": "a", "url": "https://a"}, {"name": "a", "url": "https://b"}]),
            )],
            Some("Duplicate value"),
        ),
        // ProtectedVirtualMachine
        made(Vm, &[], None),
        made(
            Vm,
            &[("/metadata/name", json!(long))],
            Some("must have at most 63 characters"),
        ),
        made(
            Vm,
            &[("/spec/placement", json!("Moon"))],
            Some("Unsupported value"),
        ),
        made(
            Vm,
            &[("/spec/failback", json!({"fullDownloadAfter": "0s"}))],
            Some("must be longer than zero"),
        ),
        made(
            Vm,
            &[("/spec/failback", json!({"fullDownloadAfter": "720h"}))],
            None,
        ),
        made(
            Vm,
            &[("/spec/failoverHistoryLimit", json!(1001))],
            Some("should be less than or equal to 1000"),
        ),
        changed(Vm, &[], json!({"placement": "Azure"}), None),
        changed(
            Vm,
            &[],
            json!({"vaultRef": {"name": "other"}}),
            Some("spec.vaultRef is immutable"),
        ),
        changed(
            Vm,
            &[],
            json!({"virtualMachineName": "other"}),
            Some("spec.virtualMachineName is immutable"),
        ),
        changed(
            Vm,
            &[("/spec/virtualMachineName", json!("one"))],
            json!({"virtualMachineName": null}),
            Some("spec.virtualMachineName is immutable"),
        ),
        changed(
            Vm,
            &[("/spec/virtualMachineName", json!("one"))],
            json!({"suspend": true}),
            None,
        ),
        // Failover
        made(Failover, &[], None),
        made(
            Failover,
            &[("/spec/to", json!("OnPremises"))],
            Some("spec.to must be the other site"),
        ),
        made(
            Failover,
            &[("/spec/commit", json!("Approved"))],
            Some("spec.commit can be answered only once"),
        ),
        made(Failover, &[("/spec/cancel", json!(true))], None),
        changed(
            Failover,
            &[],
            json!({"virtualMachine": {"name": "db"}}),
            Some("spec.virtualMachine is immutable"),
        ),
        changed(
            Failover,
            &[],
            json!({"from": "Azure", "to": "OnPremises"}),
            Some("spec.from is immutable"),
        ),
        changed(
            Failover,
            &[],
            json!({"from": "Azure", "to": "OnPremises"}),
            Some("spec.to is immutable"),
        ),
        changed(
            Failover,
            &[],
            json!({"dataSync": "FullDuringFailover"}),
            Some("spec.dataSync is immutable"),
        ),
    ];
    for (field, value, message) in [
        (
            "start",
            json!("Approved"),
            "spec.start was answered and cannot be taken back",
        ),
        (
            "cutover",
            json!("Approved"),
            "spec.cutover was answered and cannot be taken back",
        ),
        (
            "reverseReplicate",
            json!("Approved"),
            "spec.reverseReplicate was answered and cannot be taken back",
        ),
        (
            "cancel",
            json!(true),
            "spec.cancel was answered and cannot be taken back",
        ),
    ] {
        let path: &'static str = Box::leak(format!("/spec/{field}").into_boxed_str());
        cases.push(changed(
            Failover,
            &[(path, value.clone())],
            json!({field: null}),
            Some(message),
        ));
        cases.push(changed(Failover, &[], json!({field: value}), None));
    }
    let commit = json!({"commit": "Approved"});
    let early = Some("spec.commit can be answered only once status.phase is AwaitingCommit");
    for phase in [
        "AwaitingStart",
        "Preparing",
        "Synchronizing",
        "AwaitingCutover",
        "CuttingOver",
        "Cancelling",
    ] {
        cases.push(answered(phase, commit.clone(), early));
        cases.push(answered(phase, json!({"cancel": true}), None));
    }
    for phase in [
        "AwaitingCommit",
        "Committing",
        "AwaitingReverseReplication",
        "ReverseReplicating",
    ] {
        cases.push(answered(phase, commit.clone(), None));
        cases.push(answered(
            phase,
            json!({"cancel": true}),
            Some("spec.cancel comes too late"),
        ));
        let late = (phase != "AwaitingCommit").then_some("spec.commit: Rollback comes too late");
        cases.push(answered(phase, json!({"commit": "Rollback"}), late));
    }
    for phase in ["Succeeded", "Cancelled", "RolledBack", "Failed"] {
        for answer in [
            json!({"commit": "Approved"}),
            json!({"commit": "Rollback"}),
            json!({"start": "Approved"}),
            json!({"cutover": "Approved"}),
            json!({"reverseReplicate": "Approved"}),
            json!({"cancel": true}),
        ] {
            let ended = Some("the move has ended and takes no answer any more");
            cases.push(answered(phase, answer, ended));
        }
    }
    cases
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
    for (number, case) in cases().iter().enumerate() {
        let name = format!("case-{number}");
        let told = attempt(&api(case.kind), &name, case).await;
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
