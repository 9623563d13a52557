//! The Secrets that a vault names. They are read one by one, by name: no right to list Secrets is needed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::api::RecoveryVaultSpec;
use crate::controllers::context::Context;
use crate::controllers::factory::VaultSecrets;
use crate::controllers::hub::Blind;
use crate::controllers::kubernetes::ApiError;
use crate::domain::ErrorClass;

/// The Secrets that a vault names, and the field that names each.
fn named(spec: &RecoveryVaultSpec) -> Vec<(&'static str, &str)> {
    let RecoveryVaultSpec {
        agents,
        azure_site_recovery,
    } = spec;
    let mut named = Vec::new();
    if let Some(agents) = agents {
        named.push((
            "spec.agents.tls.caSecretRef",
            agents.tls.ca_secret_ref.name.as_str(),
        ));
        named.push((
            "spec.agents.tls.clientCertificateSecretRef",
            agents.tls.client_certificate_secret_ref.name.as_str(),
        ));
    }
    if let Some(vault) = azure_site_recovery {
        let credentials = &vault.credentials;
        if let Some(secret) = &credentials.client_secret_ref {
            named.push((
                "spec.azureSiteRecovery.credentials.clientSecretRef",
                secret.name.as_str(),
            ));
        }
        if let Some(secret) = &credentials.client_certificate_ref {
            named.push((
                "spec.azureSiteRecovery.credentials.clientCertificateRef",
                secret.name.as_str(),
            ));
        }
    }
    named
}

/// Reads them; inside, why a person must mend one.
pub async fn secrets(
    context: &Context,
    namespace: &str,
    spec: &RecoveryVaultSpec,
) -> Result<Result<VaultSecrets, Blind>, ApiError> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let mut secrets = VaultSecrets::default();
    let mut read = BTreeSet::new();
    for (field, name) in named(spec) {
        if !read.insert(name) {
            continue;
        }
        let blind = |problem: &str, remedy: &str| {
            Ok(Err(Blind {
                class: ErrorClass::Denied,
                message: format!("{field}: Secret {namespace}/{name} {problem}; {remedy}"),
            }))
        };
        match context
            .within
            .call("read a Secret", api.get_opt(name))
            .await
        {
            Ok(Some(secret)) => {
                let data: BTreeMap<String, Vec<u8>> = secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, bytes)| (key, bytes.0))
                    .collect();
                secrets.insert(name, data);
            }
            Ok(None) => return blind("does not exist", "apply it"),
            Err(error) if error.class() == ErrorClass::Denied => {
                return blind(
                    "may not be read by Homeward",
                    "give its service account the right to get it",
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(secrets))
}
