//! The key certificate of data that is encrypted in the vault: read when a move to Azure needs it, and looked at before anything is touched.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use p12_keystore::{KeyStore, Pkcs12ImportPolicy};

use super::fetch::{Current, Fetched};
use crate::api::Site;
use crate::controllers::context::Context;
use crate::controllers::kubernetes::ApiError;
use crate::domain::{ErrorClass, SecretBytes};

/// Key of the Secret with the certificate.
const PFX: &str = "certificate.pfx";
/// Key of the Secret with the password of that.
const PASSWORD: &str = "password";
/// A certificate with its chain has a few kilobytes.
const LARGEST: usize = 256 << 10;

/// The key certificate that a move needs.
pub enum EncryptionKey {
    /// None is needed.
    NotNeeded,
    /// It can be used.
    Usable(SecretBytes),
    /// It cannot; the words say why, and what to do.
    Unusable(String),
}

impl EncryptionKey {
    /// Why it cannot be used.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Unusable(why) => Some(why),
            Self::NotNeeded | Self::Usable(_) => None,
        }
    }
}

/// Reads it, where a move to Azure is under way and the resource names one.
pub async fn key(context: &Context, fetched: &Fetched) -> Result<EncryptionKey, ApiError> {
    let to_azure = match &fetched.failover {
        Current::Known(failover, _) => failover.spec.to == Site::Azure,
        Current::None | Current::Missing => false,
    };
    let Some(name) = fetched
        .intent
        .encryption_key
        .as_deref()
        .filter(|_| to_azure)
    else {
        return Ok(EncryptionKey::NotNeeded);
    };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &fetched.key.namespace);
    let said = |problem: &str, remedy: &str| {
        EncryptionKey::Unusable(format!(
            "spec.encryptionKeySecretRef: Secret {name} {problem}; {remedy}"
        ))
    };
    let secret = match context
        .within
        .call("read a Secret", api.get_opt(name))
        .await
    {
        Ok(Some(secret)) => secret.data.unwrap_or_default(),
        Ok(None) => return Ok(said("does not exist", "apply it")),
        Err(error) if error.class() == ErrorClass::Denied => {
            return Ok(said(
                "may not be read by Homeward",
                "give its service account the right to get it",
            ));
        }
        Err(error) => return Err(error),
    };
    let Some(pfx) = secret.get(PFX) else {
        return Ok(said("has no key certificate.pfx", "put the PFX file there"));
    };
    let password = match secret.get(PASSWORD).map(|it| std::str::from_utf8(&it.0)) {
        // A PFX may have none.
        None => "",
        Some(Ok(password)) => password.trim_end_matches(['\r', '\n']),
        Some(Err(_)) => return Ok(said("has a password that is no text", "correct it")),
    };
    Ok(match check(&pfx.0, password, Timestamp::now()) {
        Ok(()) => EncryptionKey::Usable(SecretBytes(pfx.0.clone())),
        Err(problem) => said(&problem, "put the right one there"),
    })
}

/// Whether a PFX opens, holds a private key with its certificate, and is valid now. The words never hold anything of it.
fn check(pfx: &[u8], password: &str, now: Timestamp) -> Result<(), String> {
    if pfx.len() > LARGEST {
        return Err(format!(
            "has a certificate.pfx of more than {LARGEST} bytes"
        ));
    }
    let store = KeyStore::from_pkcs12(pfx, password, Pkcs12ImportPolicy::Relaxed)
        .map_err(|_| "has a certificate.pfx that is no PFX file, or that the key password (empty when it is not there) does not open".to_owned())?;
    let (_, chain) = store
        .private_key_chain()
        .ok_or("has a certificate.pfx without a private key")?;
    let certificate = chain
        .certs()
        .first()
        .ok_or("has a certificate.pfx without a certificate")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_der())
        .map_err(|_| "has a certificate.pfx whose certificate cannot be read".to_owned())?;
    let at = |time: i64| {
        Timestamp::from_second(time).map_or_else(|_| time.to_string(), |time| time.to_string())
    };
    let validity = parsed.validity();
    let (from, until) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    if now.as_second() > until {
        return Err(format!(
            "has a certificate.pfx whose certificate expired at {}",
            at(until)
        ));
    }
    if now.as_second() < from {
        return Err(format!(
            "has a certificate.pfx whose certificate is not valid before {}",
            at(from)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use p12_keystore::{Certificate, KeyStoreEntry, PrivateKey, PrivateKeyChain};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pfx(until: i32, password: &str) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["kek".into()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let chain = PrivateKeyChain::new(
            vec![1],
            PrivateKey::from_der(&key.serialize_der()).unwrap(),
            [Certificate::from_der(certificate.der()).unwrap()],
        );
        let mut store = KeyStore::new();
        store.add_entry("kek", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(password).write().unwrap()
    }

    #[test]
    fn a_key_certificate_is_looked_at_before_it_is_needed() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(check(&pfx(2030, "hush"), "hush", now), Ok(()));
        for (bytes, password, word) in [
            (pfx(2030, "hush"), "wrong", "does not open"),
            (pfx(2030, "hush"), "", "does not open"),
            (pfx(2025, "hush"), "hush", "expired at 2025-01-01"),
            (b"no PFX".to_vec(), "", "does not open"),
            (vec![0; LARGEST + 1], "", "more than"),
        ] {
            let why = check(&bytes, password, now).unwrap_err();
            assert!(why.contains(word) && !why.contains("hush"), "{why}");
        }
        let early: Timestamp = "2019-01-01T00:00:00Z".parse().unwrap();
        let why = check(&pfx(2030, "hush"), "hush", early).unwrap_err();
        assert!(why.contains("not valid before 2020-01-01"), "{why}");
    }
}
