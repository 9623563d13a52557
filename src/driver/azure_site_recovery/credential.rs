//! Who Homeward is at the service. Each kind is an explicit choice; none falls back to another.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::http::{
    ClientMethodOptions, ClientOptions, ExponentialRetryOptions, RetryOptions, Transport,
};
use azure_core::time::Duration;
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

use super::client::answered;
use crate::domain::ErrorClass;
use crate::driver::DriverError;

/// For how long an assertion is valid.
const ASSERTION_LIFE: SignedDuration = SignedDuration::from_mins(10);

/// A token that is refused so soon after it was given is not refused for its age.
const YOUNG: std::time::Duration = std::time::Duration::from_secs(2);

/// Who Homeward is.
#[derive(Clone)]
pub enum Identity {
    /// The identity of the pod, federated; what is absent stands in the environment of the pod.
    WorkloadIdentity {
        /// Tenant.
        tenant_id: Option<String>,
        /// Client id.
        client_id: Option<String>,
    },
    /// The managed identity of the machine.
    ManagedIdentity {
        /// Client id of a user-assigned one.
        client_id: Option<String>,
    },
    /// An application with a secret.
    ClientSecret {
        /// Tenant.
        tenant_id: String,
        /// Client id.
        client_id: String,
        /// The secret.
        secret: String,
    },
    /// An application with a certificate.
    ClientCertificate {
        /// Tenant.
        tenant_id: String,
        /// Client id.
        client_id: String,
        /// The certificate, as PEM text; those that follow it are not needed.
        certificate: Vec<u8>,
        /// Its RSA key, as PEM text.
        key: Vec<u8>,
    },
}

impl fmt::Debug for Identity {
    /// The kind alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkloadIdentity { .. } => "WorkloadIdentity",
            Self::ManagedIdentity { .. } => "ManagedIdentity",
            Self::ClientSecret { .. } => "ClientSecret",
            Self::ClientCertificate { .. } => "ClientCertificate",
        })
    }
}

fn unusable(why: impl fmt::Display) -> DriverError {
    DriverError::refused(ErrorClass::Invalid, why.to_string())
}

/// Where tokens come from. The libraries keep a token until it expires, also when it is not taken any more: then everything is made anew.
pub struct SignIn {
    /// What a credential is made of, unless it was given.
    made_of: Option<(Identity, String, Transport)>,
    current: Mutex<Current>,
}

struct Current {
    credential: Arc<dyn TokenCredential>,
    made: Instant,
    /// How many there were before it.
    number: u64,
}

/// A token, and the number of what gave it.
pub struct Given {
    /// The token.
    pub token: AccessToken,
    number: u64,
}

impl SignIn {
    /// For an identity. `authority` is the address of the sign-in service.
    ///
    /// # Errors
    /// `Invalid`, when certificate, key or ids cannot be used.
    pub fn new(
        identity: Identity,
        authority: &str,
        transport: Transport,
    ) -> Result<Self, DriverError> {
        let credential = credential(identity.clone(), authority, transport.clone())?;
        Ok(Self {
            made_of: Some((identity, authority.to_owned(), transport)),
            ..Self::with(credential)
        })
    }

    /// With a credential that the caller has made.
    #[must_use]
    pub fn with(credential: Arc<dyn TokenCredential>) -> Self {
        Self {
            made_of: None,
            current: Mutex::new(Current {
                credential,
                made: Instant::now(),
                number: 0,
            }),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for a scope.
    ///
    /// # Errors
    /// What the sign-in service, or the way to it, says.
    pub async fn token(&self, scope: &str) -> azure_core::Result<Given> {
        let (credential, number) = self.credential();
        let given = credential.get_token(&[scope], None).await;
        // The library keeps what stood in the pod's file for ten minutes, and another token may stand there by now.
        let of_file = matches!(&self.made_of, Some((Identity::WorkloadIdentity { .. }, ..)));
        let refused = given.as_ref().err().is_some_and(is_refusal);
        if of_file && refused && self.make_anew(number) {
            let (credential, number) = self.credential();
            let token = credential.get_token(&[scope], None).await?;
            return Ok(Given { token, number });
        }
        given.map(|token| Given { token, number })
    }

    fn credential(&self) -> (Arc<dyn TokenCredential>, u64) {
        let current = self.current();
        (current.credential.clone(), current.number)
    }

    /// A token was not taken: the next one is another. Whether that can help.
    pub fn renew(&self, refused: &Given) -> bool {
        self.make_anew(refused.number)
    }

    /// What has this number is of no use any more, unless it is so young that another would be none either.
    fn make_anew(&self, number: u64) -> bool {
        let mut current = self.current();
        // Somebody else has made it anew meanwhile.
        if current.number != number {
            return true;
        }
        if current.made.elapsed() < YOUNG {
            return false;
        }
        let Some((identity, authority, transport)) = &self.made_of else {
            return false;
        };
        let made = credential(identity.clone(), authority, transport.clone());
        let Ok(credential) = made else { return false };
        *current = Current {
            credential,
            made: Instant::now(),
            number: number + 1,
        };
        true
    }
}

/// What was shown was looked at, and is not taken.
fn is_refusal(error: &azure_core::Error) -> bool {
    matches!(answered(error), Some(400..=403))
}

/// The credential of an identity.
fn credential(
    identity: Identity,
    authority: &str,
    transport: Transport,
) -> Result<Arc<dyn TokenCredential>, DriverError> {
    let mut cloud = CustomConfiguration::default();
    authority
        .trim_end_matches('/')
        .clone_into(&mut cloud.authority_host);
    let client_options = ClientOptions {
        transport: Some(transport),
        // A token asked for twice is one token more, and nothing else.
        retry: RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: 3,
            max_total_elapsed: Duration::seconds(20),
            ..ExponentialRetryOptions::default()
        }),
        cloud: Some(Arc::new(CloudConfiguration::from(cloud))),
        ..ClientOptions::default()
    };
    let wrong = |error: azure_core::Error| unusable(error);
    Ok(match identity {
        Identity::WorkloadIdentity {
            tenant_id,
            client_id,
        } => WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
            credential_options: ClientAssertionCredentialOptions { client_options },
            tenant_id,
            client_id,
            token_file_path: None,
        }))
        .map_err(|error| {
            unusable(format!(
                "the operator's pod has no workload identity: {error}; label its service account and pod for workload identity, or choose another kind of credentials"
            ))
        })?,
        Identity::ManagedIdentity { client_id } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: client_id.map(UserAssignedId::ClientId),
                client_options,
            }))
            .map_err(wrong)?
        }
        Identity::ClientSecret {
            tenant_id,
            client_id,
            secret,
        } => ClientSecretCredential::new(
            &tenant_id,
            client_id,
            Secret::new(secret),
            Some(ClientSecretCredentialOptions { client_options }),
        )
        .map_err(wrong)?,
        Identity::ClientCertificate {
            tenant_id,
            client_id,
            certificate,
            key,
        } => {
            let audience = format!(
                "{}/{tenant_id}/oauth2/v2.0/token",
                authority.trim_end_matches('/')
            );
            let assertion = CertificateAssertion::new(&certificate, &key, &client_id, audience)?;
            ClientAssertionCredential::new(
                tenant_id,
                client_id,
                assertion,
                Some(ClientAssertionCredentialOptions { client_options }),
            )
            .map_err(wrong)?
        }
    })
}

/// Signs what shows that the key of the certificate is at hand. Written here because the library's own needs OpenSSL, a second set of cryptography.
struct CertificateAssertion {
    key: KeyPair,
    thumbprint: String,
    client_id: String,
    audience: String,
}

impl fmt::Debug for CertificateAssertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAssertion")
            .finish_non_exhaustive()
    }
}

impl CertificateAssertion {
    fn new(
        certificate: &[u8],
        key: &[u8],
        client_id: &str,
        audience: String,
    ) -> Result<Self, DriverError> {
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|_| unusable("tls.crt holds no certificate as PEM text"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| unusable("tls.key holds no private key as PEM text"))?;
        // The reason of a rejection is left out: it may speak of the key.
        let key = match &key {
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            _ => {
                return Err(unusable(
                    "tls.key is no RSA key; the sign-in service takes no other",
                ));
            }
        }
        .map_err(|_| unusable("tls.key is no RSA key that can be used"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| unusable("tls.crt holds a certificate that cannot be read"))?;
        let until = parsed.validity().not_after.timestamp();
        if until < Timestamp::now().as_second() {
            return Err(unusable(format!(
                "the certificate in tls.crt expired at {}; put a new one there",
                Timestamp::from_second(until).unwrap_or_default()
            )));
        }
        Ok(Self {
            key,
            thumbprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificate)),
            client_id: client_id.to_owned(),
            audience,
        })
    }

    fn sign(&self, now: Timestamp, id: &str) -> Result<String, azure_core::Error> {
        let until = now.checked_add(ASSERTION_LIFE).unwrap_or(now);
        let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "x5t#S256": self.thumbprint});
        let claims = serde_json::json!({
            "aud": self.audience,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": id,
            "nbf": now.as_second(),
            "exp": until.as_second(),
        });
        let mut text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                text.as_bytes(),
                &mut signature,
            )
            .map_err(|_| {
                azure_core::Error::with_message(
                    azure_core::error::ErrorKind::Credential,
                    "the assertion could not be signed",
                )
            })?;
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(text)
    }
}

#[async_trait::async_trait]
impl ClientAssertion for CertificateAssertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        self.sign(Timestamp::now(), &uuid::Uuid::new_v4().to_string())
    }
}

#[cfg(test)]
mod tests;
