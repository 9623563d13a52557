//! The vault of agents, as people apply it: its hosts, and the Secrets with the certificates.

use anyhow::Result;
use homeward::api::Site;
use serde_json::{Value, json};

use super::{
    Cluster, Host, WorldOptions,
    pki::{Certificate, Pki},
};

const CA_SECRET: &str = "homeward-agents-ca";
const CLIENT_SECRET: &str = "homeward-operator-certificate";

/// Applies the Secrets and the vault.
pub(super) async fn apply(
    cluster: &Cluster,
    hosts: &[Host],
    pki: &Pki,
    options: &WorldOptions,
) -> Result<()> {
    let ca = [("ca.crt", pki.authority()?)];
    cluster.apply_secret(CA_SECRET, None, ca).await?;
    apply_client_certificate(cluster, pki.operators(Certificate::Good)?).await?;
    let of = |site| -> Vec<Value> {
        hosts
            .iter()
            .filter(|host| host.site == site)
            .map(|host| json!({"name": host.name, "url": host.url()}))
            .collect()
    };
    let spec = json!({"agents": {
        "onPremises": {"hosts": of(Site::OnPremises)},
        "azure": {"hosts": of(Site::Azure)},
        "tls": {"caSecretRef": {"name": CA_SECRET}, "clientCertificateSecretRef": {"name": CLIENT_SECRET}},
        "replicationInterval": format!("{}s", options.replication_interval.as_secs()),
    }});
    cluster.apply_vault(spec).await
}

/// Gives the operators a certificate.
pub(super) async fn apply_client_certificate(
    cluster: &Cluster,
    [certificate, key]: [Vec<u8>; 2],
) -> Result<()> {
    let pair = [("tls.crt", certificate), ("tls.key", key)];
    cluster
        .apply_secret(CLIENT_SECRET, Some("kubernetes.io/tls"), pair)
        .await
}
