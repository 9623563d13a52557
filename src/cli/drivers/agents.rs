//! Homeward's own agents.

use std::sync::Arc;

use crate::agent::client::{self, AgentClient};
use crate::api::{AgentHost, AgentsVault, Site};
use crate::controllers::VaultSecrets;
use crate::domain::ErrorClass;
use crate::driver::agents::{AgentsDriver, AgentsHost};
use crate::driver::{DriverError, ReplicationDriver};

/// The driver of a vault of agents.
pub(super) fn build(
    agents: &AgentsVault,
    secrets: &VaultSecrets,
) -> Result<Arc<dyn ReplicationDriver>, DriverError> {
    let ca_secret = &agents.tls.ca_secret_ref.name;
    let own_secret = &agents.tls.client_certificate_secret_ref.name;
    let key = |secret: &str, key: &str| {
        secrets.get(secret, key).ok_or_else(|| {
            let message = format!("Secret {secret} has no key {key}; put the PEM text there");
            DriverError::refused(ErrorClass::Invalid, message)
        })
    };
    let ca = key(ca_secret, "ca.crt")?;
    let certificate = key(own_secret, "tls.crt")?;
    let private_key = key(own_secret, "tls.key")?;
    let host = |site: Site, list: &str, (at, host): (usize, &AgentHost)| {
        client::address(&host.url).map_err(|why| {
            let message = format!("spec.agents.{list}.hosts[{at}].url: {why}; correct it");
            DriverError::refused(ErrorClass::Invalid, message)
        })?;
        let client =
            AgentClient::new(&host.url, ca, certificate, private_key).map_err(|error| {
                let message = format!(
                    "host {}: {error} (CA: ca.crt of Secret {ca_secret}; certificate and key: tls.crt and tls.key of Secret {own_secret})",
                    host.name
                );
                DriverError::refused(ErrorClass::Invalid, message)
            })?;
        Ok(AgentsHost {
            name: host.name.clone(),
            site,
            client,
        })
    };
    let on_premises = agents.on_premises.hosts.iter().enumerate();
    let azure = agents.azure.hosts.iter().enumerate();
    let hosts = on_premises
        .map(|agent| host(Site::OnPremises, "onPremises", agent))
        .chain(azure.map(|agent| host(Site::Azure, "azure", agent)))
        .collect::<Result<Vec<_>, DriverError>>()?;
    let interval = agents.replication_interval.into();
    Ok(Arc::new(AgentsDriver::new(hosts, interval)))
}
