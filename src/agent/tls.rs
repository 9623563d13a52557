//! Mutual TLS: who this host is, and whom it believes.
//!
//! Certificates, key and CA are read again when their files change, at the next connection; a broken new set leaves the old
//! one in use and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::Tls;

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct TlsError {
    place: String,
    message: String,
}

impl TlsError {
    fn new(place: &(impl ToString + ?Sized), message: &(impl ToString + ?Sized)) -> Self {
        Self {
            place: place.to_string(),
            message: message.to_string(),
        }
    }
}

/// What the three files hold.
struct Material {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// What people call the certificate and the key.
    names: [String; 2],
}

impl Material {
    fn parse(
        ca: &[u8],
        certificate: &[u8],
        key: &[u8],
        names: [&str; 3],
    ) -> Result<Self, TlsError> {
        let certificates = |pem: &[u8], name: &str| {
            let found = CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| TlsError::new(name, &format!("not PEM: {error}")))?;
            if found.is_empty() {
                Err(TlsError::new(name, "holds no certificate"))
            } else {
                Ok(found)
            }
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(ca, names[0])? {
            roots
                .add(root)
                .map_err(|error| TlsError::new(names[0], &error))?;
        }
        let chain = certificates(certificate, names[1])?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| TlsError::new(names[2], "holds no private key in PEM"))?;
        Ok(Self {
            roots: Arc::new(roots),
            chain,
            key,
            names: [names[1].to_owned(), names[2].to_owned()],
        })
    }

    fn server(&self, verifier: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, TlsError> {
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|error| self.unfit(&error))
    }

    /// A certificate and a key that cannot be used together.
    fn unfit(&self, error: &rustls::Error) -> TlsError {
        let place = format!("{} and {}", self.names[0], self.names[1]);
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::new(
                &place,
                "the key is not that of the certificate: both must come from one issue",
            ),
            other => TlsError::new(&place, other),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(
            self.roots.clone(),
            Arc::new(aws_lc_rs::default_provider()),
        )
        .build()
        .map_err(|error| TlsError::new("ca", &error))
    }

    fn client(&self) -> Result<ClientConfig, TlsError> {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_root_certificates(self.roots.clone())
                    .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|error| self.unfit(&error))
    }
}

/// A client's side of mutual TLS from PEM texts.
///
/// # Errors
/// Which of the three cannot be used, and why.
pub fn client_config(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<ClientConfig, TlsError> {
    Material::parse(ca, certificate, key, ["CA", "certificate", "key"])?.client()
}

/// The names (DNS names among the subject alternative names) of a certificate.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    alternatives
        .value
        .general_names
        .iter()
        .filter_map(dns)
        .collect()
}

/// The configurations of one moment.
#[derive(Clone)]
pub(crate) struct Configs {
    /// Of the control API: any certificate of the CA; names are checked by request.
    pub control: Arc<ServerConfig>,
    /// Of the data plane: any certificate of the CA too; names are checked at admission, which can refuse with words.
    pub data: Arc<ServerConfig>,
    /// Towards peers.
    pub client: Arc<ClientConfig>,
}

/// The files, and what was made of them.
pub(crate) struct Identity {
    settings: Tls,
    host: String,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    stamps: Vec<Stamp>,
    configs: Configs,
}

type Stamp = Option<(SystemTime, u64)>;

impl Identity {
    /// Reads the files.
    pub(crate) fn load(settings: &Tls, host: &str) -> Result<Self, TlsError> {
        let stamps = stamps(settings);
        let configs = read(settings, host)?;
        Ok(Self {
            settings: settings.clone(),
            host: host.to_owned(),
            loaded: Mutex::new(Loaded { stamps, configs }),
        })
    }

    /// The configurations, read again if a file has changed.
    pub(crate) fn configs(&self) -> Configs {
        let stamps = stamps(&self.settings);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamps != stamps {
            match read(&self.settings, &self.host) {
                Ok(configs) => {
                    tracing::info!("certificates were read again");
                    loaded.configs = configs;
                }
                Err(error) => {
                    tracing::error!(%error, "the new certificates cannot be used; the old ones stay");
                }
            }
            // A set that was caught half written is read once more when its files change again.
            loaded.stamps = stamps;
        }
        loaded.configs.clone()
    }
}

fn files(settings: &Tls) -> [&PathBuf; 3] {
    [&settings.ca, &settings.certificate, &settings.key]
}

fn stamps(settings: &Tls) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        fs::metadata(path)
            .ok()
            .and_then(|meta| Some((meta.modified().ok()?, meta.len())))
    };
    files(settings).into_iter().map(stamp).collect()
}

fn read(settings: &Tls, host: &str) -> Result<Configs, TlsError> {
    let bytes = |field: &str, path: &Path| {
        let place = format!("tls.{field} ({})", path.display());
        fs::read(path).map_err(|error| TlsError::new(&place, &error))
    };
    let (ca, certificate, key) = (
        bytes("ca", &settings.ca)?,
        bytes("certificate", &settings.certificate)?,
        bytes("key", &settings.key)?,
    );
    let material = Material::parse(
        &ca,
        &certificate,
        &key,
        ["tls.ca", "tls.certificate", "tls.key"],
    )?;
    if !material
        .chain
        .first()
        .is_some_and(|own| names(own).iter().any(|name| name == host))
    {
        let message = format!(
            "does not carry the DNS name {host} of this host; issue one with `homeward pki issue --for agent {host}`"
        );
        return Err(TlsError::new("tls.certificate", &message));
    }
    let verifier = material.verifier()?;
    let mut control = material.server(verifier.clone())?;
    control.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Configs {
        control: Arc::new(control),
        data: Arc::new(material.server(verifier)?),
        client: Arc::new(material.client()?),
    })
}
