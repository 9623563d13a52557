//! Who the operators are at the service: the kinds of credentials that a vault can name.

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// What the operators show to be given a token.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A secret of the application.
    ClientSecret(String),
    /// A certificate of the application.
    ClientCertificate(ClientCertificate),
    /// What stands in the pod's file for the token of its service account.
    WorkloadIdentity(String),
}

/// A certificate with its RSA key, as the sign-in service takes them.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

impl ClientCertificate {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When none can be made.
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .context("no RSA key can be made")?;
        let certificate = CertificateParams::default().self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The Secret that a vault names.
pub(super) const SECRET: &str = "homeward-service-principal";

impl Credentials {
    /// The part of the vault's spec that names them.
    pub(super) fn spec(&self, tenant: &str, client: &str) -> Value {
        match self {
            Self::ClientSecret(_) => json!({
                "tenantId": tenant,
                "clientId": client,
                "clientSecretRef": {"name": SECRET},
            }),
            Self::ClientCertificate(_) => json!({
                "tenantId": tenant,
                "clientId": client,
                "clientCertificateRef": {"name": SECRET},
            }),
            // Tenant and client come from the pod.
            Self::WorkloadIdentity(_) => json!({"workloadIdentity": {}}),
        }
    }
}
