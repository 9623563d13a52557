//! Azure Site Recovery.

use std::sync::Arc;
use std::time::Duration;

use azure_core::http::{HttpClient, Transport, Url};

use crate::api::{AzureCloud, AzureSiteRecoveryVault};
use crate::controllers::VaultSecrets;
use crate::domain::ErrorClass;
use crate::driver::azure_site_recovery::{
    AzureSiteRecoveryDriver, Clock, Identity, Settings, SignIn,
};
use crate::driver::{DriverError, ReplicationDriver};
use crate::telemetry::with_causes;

/// How long a connection gets to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer gets to come; a mutation that takes longer may have taken effect.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);

/// Where a cloud is: its resource manager, what tokens are asked for, its sign-in service. The addresses of the sovereign clouds are those that
/// Azure's documentation on national clouds names.
fn cloud(vault: &AzureSiteRecoveryVault) -> Result<(String, String, String), DriverError> {
    let own =
        |one: &str, other: &str| Ok((one.to_owned(), format!("{one}/.default"), other.to_owned()));
    match (vault.cloud.unwrap_or_default(), &vault.custom) {
        (AzureCloud::Public, _) => own(
            "https://management.azure.com",
            "https://login.microsoftonline.com",
        ),
        (AzureCloud::USGovernment, _) => own(
            "https://management.usgovcloudapi.net",
            "https://login.microsoftonline.us",
        ),
        (AzureCloud::China, _) => own(
            "https://management.chinacloudapi.cn",
            "https://login.partner.microsoftonline.cn",
        ),
        (AzureCloud::Custom, Some(custom)) => Ok((
            custom.endpoint.clone(),
            format!("{}/.default", custom.audience.trim_end_matches('/')),
            custom.authority.clone(),
        )),
        (AzureCloud::Custom, None) => Err(invalid(
            "spec.azureSiteRecovery.custom is missing; say where the cloud is",
        )),
    }
}

fn invalid(message: impl Into<String>) -> DriverError {
    DriverError::refused(ErrorClass::Invalid, message)
}

/// The driver of a vault in Azure.
pub(super) fn build(
    vault: &AzureSiteRecoveryVault,
    secrets: &VaultSecrets,
    shortest_pause: Duration,
) -> Result<Arc<dyn ReplicationDriver>, DriverError> {
    let (endpoint, scope, authority) = cloud(vault)?;
    let field = "spec.azureSiteRecovery.custom.endpoint";
    let endpoint = Url::parse(&endpoint).map_err(|error| {
        invalid(format!(
            "{field}: {endpoint} is no URL: {error}; correct it"
        ))
    })?;
    if endpoint.scheme() != "https" {
        return Err(invalid(format!(
            "{field}: {endpoint} must be https; correct it"
        )));
    }
    let transport = transport(vault)?;
    let sign_in = SignIn::new(identity(vault, secrets)?, &authority, transport.clone());
    let sign_in = sign_in.map_err(|error| match &vault.credentials.client_certificate_ref {
        Some(secret) => invalid(format!("Secret {}: {}", secret.name, error.message)),
        None => error,
    })?;
    let settings = Settings {
        endpoint,
        scope,
        subscription_id: vault.subscription_id.clone(),
        resource_group: vault.resource_group.clone(),
        vault_name: vault.vault_name.clone(),
        fabric_name: vault.fabric_name.clone(),
        shortest_pause,
        clock: Clock::default(),
    };
    Ok(Arc::new(AzureSiteRecoveryDriver::new(
        settings, transport, sign_in,
    )))
}

fn transport(vault: &AzureSiteRecoveryVault) -> Result<Transport, DriverError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // What was sent and not answered is for the driver to find out about.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(ANSWER_DEADLINE);
    let bundle = vault
        .custom
        .as_ref()
        .and_then(|custom| custom.ca_bundle.as_ref());
    if let Some(bundle) = bundle {
        let field = "spec.azureSiteRecovery.custom.caBundle";
        let certificates =
            reqwest::Certificate::from_pem_bundle(bundle.as_bytes()).map_err(|error| {
                invalid(format!(
                    "{field} cannot be read: {error}; put PEM text there"
                ))
            })?;
        if certificates.is_empty() {
            return Err(invalid(format!(
                "{field} holds no certificate; put PEM text there"
            )));
        }
        builder = builder.tls_certs_only(certificates);
    }
    let client = builder.build().map_err(|error| {
        invalid(format!(
            "no connection can be set up, perhaps for spec.azureSiteRecovery.custom.caBundle: {}",
            with_causes(&error)
        ))
    })?;
    let client: Arc<dyn HttpClient> = Arc::new(client);
    Ok(Transport::new(client))
}

fn identity(
    vault: &AzureSiteRecoveryVault,
    secrets: &VaultSecrets,
) -> Result<Identity, DriverError> {
    let credentials = &vault.credentials;
    let given = |value: &Option<String>, field: &str| {
        value.clone().ok_or_else(|| {
            invalid(format!(
                "spec.azureSiteRecovery.credentials.{field} is missing; give it"
            ))
        })
    };
    let key = |secret: &str, key: &str, what: &str| {
        secrets.get(secret, key).ok_or_else(|| {
            invalid(format!(
                "Secret {secret} has no key {key}; put {what} there"
            ))
        })
    };
    if let Some(secret) = &credentials.client_secret_ref {
        let bytes = key(
            &secret.name,
            "clientSecret",
            "the secret of the application",
        )?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| invalid(format!("clientSecret of Secret {} is no text", secret.name)))?
            .trim();
        return Ok(Identity::ClientSecret {
            tenant_id: given(&credentials.tenant_id, "tenantId")?,
            client_id: given(&credentials.client_id, "clientId")?,
            secret: text.to_owned(),
        });
    }
    if let Some(secret) = &credentials.client_certificate_ref {
        return Ok(Identity::ClientCertificate {
            tenant_id: given(&credentials.tenant_id, "tenantId")?,
            client_id: given(&credentials.client_id, "clientId")?,
            certificate: key(
                &secret.name,
                "tls.crt",
                "the certificate of the application",
            )?
            .to_vec(),
            key: key(&secret.name, "tls.key", "its RSA key")?.to_vec(),
        });
    }
    if credentials.workload_identity.is_some() {
        return Ok(Identity::WorkloadIdentity {
            tenant_id: credentials.tenant_id.clone(),
            client_id: credentials.client_id.clone(),
        });
    }
    if credentials.managed_identity.is_some() {
        return Ok(Identity::ManagedIdentity {
            client_id: credentials.client_id.clone(),
        });
    }
    Err(invalid(
        "spec.azureSiteRecovery.credentials has none of workloadIdentity, managedIdentity, clientSecretRef and clientCertificateRef; give one",
    ))
}
