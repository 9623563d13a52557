//! RecoveryVault: one replication backend that ties the two sites together.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::azure_site_recovery::AzureSiteRecoveryVault;
use super::common::{Condition, SecretReference, Site};

/// What a person says of a vault.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "homeward.dev",
    version = "v1alpha1",
    kind = "RecoveryVault",
    plural = "recoveryvaults",
    shortname = "rv",
    category = "homeward",
    namespaced,
    status = "RecoveryVaultStatus",
    derive = "PartialEq",
    doc = "RecoveryVault is one replication backend that ties an on-premises site and Azure together.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "On-Premises",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='OnPremisesConnected')].status"
    ),
    printcolumn(
        name = "Azure",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='AzureConnected')].status"
    ),
    printcolumn(name = "VMs", type_ = "integer", json_path = ".status.virtualMachines"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.agents) != has(self.azureSiteRecovery)")
    .message("spec must have exactly one of agents and azureSiteRecovery"))]
#[x_kube(validation = Rule::new("has(self.agents) == has(oldSelf.agents)")
    .message("spec.agents and spec.azureSiteRecovery are immutable as a choice: make another RecoveryVault for the other one"))]
pub struct RecoveryVaultSpec {
    /// Homeward's own agents, one beside the hypervisor of each host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<AgentsVault>,
    /// A Recovery Services vault of Azure, whose Azure Site Recovery does the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_site_recovery: Option<AzureSiteRecoveryVault>,
}

/// A vault whose work is done by Homeward's own agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.onPremises.hosts.all(a, !self.azure.hosts.exists(b, a.name == b.name))")
    .message("spec.agents: a host is at one site; give every host a name of its own in onPremises.hosts and azure.hosts"))]
#[x_kube(validation = Rule::new("self.onPremises.hosts.all(a, !self.azure.hosts.exists(b, a.url == b.url))")
    .message("spec.agents: one url stands at both sites; every agent has a url of its own"))]
pub struct AgentsVault {
    /// The agents on the premises.
    pub on_premises: SiteAgents,
    /// The agents in Azure.
    pub azure: SiteAgents,
    /// Certificates for the mutual TLS between the operator and the agents.
    pub tls: TlsSecrets,
    /// How often the passive site gets a new recovery point, for example `30s` or `5m`. From 1s to 24h.
    #[serde(default = "default_replication_interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h') && duration(self).getMilliseconds() % 1000 == 0")
        .message("spec.agents.replicationInterval must be whole seconds from 1s to 24h, for example 30s or 5m"))]
    pub replication_interval: Duration,
}

/// The replication interval of a vault that names none: 30 seconds.
#[must_use]
pub fn default_replication_interval() -> Duration {
    Duration::from(std::time::Duration::from_secs(30))
}

/// The agents of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.hosts.all(a, self.hosts.exists_one(b, b.url == a.url))")
    .message("hosts: one url stands at two hosts; every agent has a url of its own"))]
pub struct SiteAgents {
    /// The hosts of this site, in the order in which a VM without a replica looks for one.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub hosts: Vec<AgentHost>,
}

/// One host and the agent beside its hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHost {
    /// The name that the agent's own configuration gives the host.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("hosts[].name must be lower case letters, digits, dots and dashes, for example hv01"))]
    pub name: String,
    /// Address of the agent's control API, for example `https://hv01.example.com:7443`.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(
        "isURL(self) && self.matches('^https://([a-z0-9]([-a-z0-9.]*[a-z0-9])?|[[][0-9a-f:.]+[]])(:[0-9]+)?$') && \
         (url(self).getPort() == '' || (size(url(self).getPort()) < 6 && int(url(self).getPort()) > 0 && int(url(self).getPort()) < 65536))")
        .message("hosts[].url must be https, a host in lower case letters, digits, dots and dashes (or an IP address), a port from 1 to 65535 where there is one, and nothing else (no path, no slash at the end, no user, no query), for example https://hv01.example.com:7443"))]
    pub url: String,
}

/// Secrets with the certificates of the mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecrets {
    /// Secret whose `ca.crt` holds the certificates of the authorities that agents' certificates must come from.
    pub ca_secret_ref: SecretReference,
    /// Secret of type `kubernetes.io/tls`: `tls.crt` and `tls.key` of the operator.
    pub client_certificate_secret_ref: SecretReference,
}

/// What is known of a vault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryVaultStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `OnPremisesConnected`, `AzureConnected`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The hosts and whether their agents answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub hosts: Vec<HostStatus>,
    /// How many VMs the vault holds, protected or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machines: Option<i64>,
}

/// One host as last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Name of the host.
    pub name: String,
    /// Its site.
    pub site: Site,
    /// Whether its agent answers.
    pub connected: bool,
    /// When it last answered; written when `connected` changes, not at every beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// Why it does not answer, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
