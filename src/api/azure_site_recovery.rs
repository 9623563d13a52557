//! A vault whose work is done by Azure Site Recovery.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::SecretReference;

/// A Recovery Services vault of Azure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.cloud) && self.cloud == 'Custom') == has(self.custom)")
    .message("spec.azureSiteRecovery.custom is given with cloud: Custom, and with no other"))]
#[x_kube(validation = Rule::new(
    "self.subscriptionId == oldSelf.subscriptionId && self.resourceGroup == oldSelf.resourceGroup && self.vaultName == oldSelf.vaultName")
    .message("spec.azureSiteRecovery.subscriptionId, resourceGroup and vaultName are immutable: make another RecoveryVault for another vault"))]
pub struct AzureSiteRecoveryVault {
    /// The cloud; `Public` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<AzureCloud>,
    /// Where a cloud of one's own is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomCloud>,
    /// Subscription of the vault.
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$')")
        .message("spec.azureSiteRecovery.subscriptionId must be a UUID, for example 00000000-0000-0000-0000-000000000000"))]
    #[schemars(length(max = 36))]
    pub subscription_id: String,
    /// Resource group of the vault.
    #[schemars(length(min = 1, max = 90))]
    #[x_kube(validation = Rule::new(r"self.matches('^[-\\w.()]+$') && !self.endsWith('.')")
        .message("spec.azureSiteRecovery.resourceGroup must be letters, digits, dots, dashes, underscores and parentheses, and not end with a dot"))]
    pub resource_group: String,
    /// Name of the vault.
    #[schemars(length(min = 2, max = 50))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z][-a-zA-Z0-9]*$')")
        .message("spec.azureSiteRecovery.vaultName must begin with a letter and go on with letters, digits and dashes"))]
    pub vault_name: String,
    /// Name of the one fabric (Hyper-V site or VMM server) that counts, where the vault has several with VMs of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 260))]
    pub fabric_name: Option<String>,
    /// Who Homeward is at the service.
    pub credentials: AzureCredentials,
}

/// An Azure cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AzureCloud {
    /// The public cloud.
    #[default]
    Public,
    /// The cloud for the government of the United States.
    USGovernment,
    /// The cloud in China.
    China,
    /// Another one, described by `custom`.
    Custom,
}

/// Where a cloud of one's own is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomCloud {
    /// Address of its resource manager.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getQuery().size() == 0")
        .message("spec.azureSiteRecovery.custom.endpoint must be an https URL, for example https://management.example.com"))]
    pub endpoint: String,
    /// What tokens are asked for, for example `https://management.example.com`.
    #[schemars(length(min = 1, max = 512))]
    pub audience: String,
    /// Address of its sign-in service.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getQuery().size() == 0")
        .message("spec.azureSiteRecovery.custom.authority must be an https URL, for example https://login.example.com"))]
    pub authority: String,
    /// Certificates, as PEM text, of the authorities that the certificates of both come from; those of the system when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')")
        .message("spec.azureSiteRecovery.custom.caBundle must be PEM text with at least one certificate"))]
    pub ca_bundle: Option<String>,
}

/// Who Homeward is at the service: exactly one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.workloadIdentity), has(self.managedIdentity), has(self.clientSecretRef), has(self.clientCertificateRef)].exists_one(given, given)")
    .message("spec.azureSiteRecovery.credentials must have exactly one of workloadIdentity, managedIdentity, clientSecretRef and clientCertificateRef"))]
#[x_kube(validation = Rule::new("!(has(self.clientSecretRef) || has(self.clientCertificateRef)) || (has(self.tenantId) && has(self.clientId))")
    .message("spec.azureSiteRecovery.credentials.tenantId and clientId are needed with clientSecretRef and clientCertificateRef"))]
#[x_kube(validation = Rule::new("!has(self.managedIdentity) || !has(self.tenantId)")
    .message("spec.azureSiteRecovery.credentials.tenantId is not given with managedIdentity, whose tenant is that of the machine"))]
pub struct AzureCredentials {
    /// Tenant of the application. With `workloadIdentity` that of the pod when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-a-zA-Z0-9.]+$')")
        .message("spec.azureSiteRecovery.credentials.tenantId must be a UUID or a domain"))]
    pub tenant_id: Option<String>,
    /// Client id of the application, or of a user-assigned managed identity. With `workloadIdentity` that of the pod when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub client_id: Option<String>,
    /// The identity of the operator's pod, federated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// The managed identity of the machine that the operator runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_identity: Option<ManagedIdentity>,
    /// Secret whose `clientSecret` holds the secret of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretReference>,
    /// Secret of type `kubernetes.io/tls` whose `tls.crt` and `tls.key` hold certificate and RSA key of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretReference>,
}

/// The identity of the operator's pod; nothing more is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadIdentity {}

/// The managed identity of the machine; nothing more is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManagedIdentity {}
