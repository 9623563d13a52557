//! What is done to good resources, and what the API server says to it.

use homeward::api::{Failover, ProtectedVirtualMachine, RecoveryVault};
use kube::api::ApiResource;
use serde_json::{Value, json};

/// What is done to a good resource, and what the API server says to it.
pub struct Case {
    pub kind: Kind,
    /// Paths and values before it is made.
    pub made_with: Vec<(&'static str, Value)>,
    /// Status given to it once it is made.
    pub status: Option<Value>,
    /// A change of the resource as it then is.
    pub then: Option<Value>,
    /// A part of the refusal; nothing when it must pass.
    pub refused: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Vault,
    /// A vault in Azure.
    Service,
    Vm,
    Failover,
}

impl Kind {
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Vault | Self::Service => ApiResource::erase::<RecoveryVault>(&()),
            Self::Vm => ApiResource::erase::<ProtectedVirtualMachine>(&()),
            Self::Failover => ApiResource::erase::<Failover>(&()),
        }
    }

    pub fn good(self) -> Value {
        let (kind, spec) = match self {
            Self::Vault => (
                "RecoveryVault",
                json!({"agents": {
                    "onPremises": {"hosts": [{"name": "hv1", "url": "https://hv1.example.com:7443"}]},
                    "azure": {"hosts": [{"name": "az1", "url": "https://az1.example.com:7443"}]},
                    "tls": {"caSecretRef": {"name": "ca"}, "clientCertificateSecretRef": {"name": "client"}},
                }}),
            ),
            Self::Service => (
                "RecoveryVault",
                json!({"azureSiteRecovery": {
                    "subscriptionId": "00000000-0000-0000-0000-000000000001",
                    "resourceGroup": "rg_1(x)", "vaultName": "vault-1",
                    "credentials": {"tenantId": "tenant.example.com", "clientId": "app", "clientSecretRef": {"name": "secret"}},
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

pub fn made(kind: Kind, with: &[(&'static str, Value)], refused: Option<&'static str>) -> Case {
    Case {
        kind,
        made_with: with.to_vec(),
        status: None,
        then: None,
        refused,
    }
}

pub fn changed(
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

pub fn cases() -> Vec<Case> {
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
            Some("must be a time in h, m and s, longer than zero"),
        ),
        made(
            Vm,
            &[("/spec/failback", json!({"fullDownloadAfter": "30d"}))],
            Some("must be a time in h, m and s, longer than zero"),
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
        changed(
            Failover,
            &[],
            json!({"host": "hv02"}),
            Some("spec.host is immutable"),
        ),
        changed(
            Failover,
            &[("/spec/createIfMissing", json!(true))],
            json!({"createIfMissing": false}),
            Some("spec.createIfMissing is immutable"),
        ),
        made(
            Vm,
            &[("/spec/failback", json!({"host": "hv02"}))],
            Some("spec.failback.host needs spec.failback.createIfMissing"),
        ),
        made(
            Vm,
            &[(
                "/spec/failback",
                json!({"host": "hv02", "createIfMissing": true}),
            )],
            None,
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
    cases.push(Case {
        status: Some(json!({"phase": "AwaitingCommit", "rollback": "Unavailable"})),
        ..changed(
            Failover,
            &[],
            json!({"commit": "Rollback"}),
            Some("the service of this vault takes no move back"),
        )
    });
    cases.push(Case {
        status: Some(json!({"phase": "AwaitingCommit", "rollback": "Unavailable"})),
        ..changed(Failover, &[], json!({"commit": "Approved"}), None)
    });
    cases
}
