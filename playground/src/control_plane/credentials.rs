//! Who is who in a control plane: its certificate authority, the server's certificate, the key of service accounts and
//! the tokens of users. All made anew, all worth nothing outside.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

use super::User;

pub(super) const SERVER_CERTIFICATE: &str = "apiserver.crt";
pub(super) const SERVER_KEY: &str = "apiserver.key";
pub(super) const SERVICE_ACCOUNT_KEY: &str = "service-accounts.key";
pub(super) const SERVICE_ACCOUNT_PUBLIC_KEY: &str = "service-accounts.pub";
pub(super) const TOKENS: &str = "tokens.csv";

/// What clients need of it.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) ca_pem: String,
    /// User and token.
    pub(super) tokens: Vec<(String, String)>,
}

impl Credentials {
    /// Makes everything and writes the files that kube-apiserver reads.
    pub(super) fn create(folder: &Path, admin: &str, users: &[User]) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "homeward playground");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)
            .context("cannot make a certificate authority")?;

        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        let server_key = KeyPair::generate()?;
        let mut server = CertificateParams::new(names)?;
        server
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        let server = server
            .signed_by(&server_key, &authority)
            .context("cannot make the server's certificate")?;
        write_private(&folder.join(SERVER_CERTIFICATE), &server.pem())?;
        write_private(&folder.join(SERVER_KEY), &server_key.serialize_pem())?;
        let service_accounts = KeyPair::generate()?;
        write_private(
            &folder.join(SERVICE_ACCOUNT_KEY),
            &service_accounts.serialize_pem(),
        )?;
        write_private(
            &folder.join(SERVICE_ACCOUNT_PUBLIC_KEY),
            &service_accounts.public_key_pem(),
        )?;

        let admin = User {
            name: admin.to_owned(),
            groups: vec!["system:masters".to_owned()],
        };
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for User { name, groups } in std::iter::once(&admin).chain(users) {
            let token = uuid::Uuid::new_v4().simple().to_string();
            rows.push(format!("{token},{name},{name},\"{}\"\n", groups.join(",")));
            tokens.push((name.clone(), token));
        }
        write_private(&folder.join(TOKENS), &rows.concat())?;
        Ok(Self {
            ca_pem: authority.pem(),
            tokens,
        })
    }
}

/// A kubeconfig with one cluster, one user and one context.
pub(super) fn kubeconfig(url: &str, ca_pem: &str, user: &str, token: &str) -> Result<String> {
    let ca = k8s_openapi::ByteString(ca_pem.as_bytes().to_vec());
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "playground", "cluster": {"server": url, "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "playground", "context": {"cluster": "playground", "user": user}}],
        "current-context": "playground",
    });
    serde_yaml::to_string(&config).context("cannot write a kubeconfig")
}

/// Writes a file that only its owner reads.
pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
