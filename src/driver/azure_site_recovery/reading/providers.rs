//! Whether the premises answer: by the providers there.

use jiff::{SignedDuration, Timestamp};

use crate::domain::Connection;
use crate::driver::azure_site_recovery::wire::fabric::Provider;
use crate::driver::azure_site_recovery::wire::item::Item;
use crate::driver::azure_site_recovery::wire::value::same_id;

/// A provider beats every few minutes; the service itself says NotConnected only after a while.
const HEARTBEAT_LATE: SignedDuration = SignedDuration::from_mins(30);

/// The site answers while one of its providers does; a VM whose own provider does not is held by itself.
pub fn on_premises(providers: &[&Provider], fabric: Option<&str>, now: Timestamp) -> Connection {
    if providers.is_empty() {
        return Connection::Disconnected(match fabric {
            Some(fabric) => format!(
                "the vault has no recovery services provider in fabric {fabric}; correct spec.azureSiteRecovery.fabricName, or register the Hyper-V host"
            ),
            None => "the vault has no recovery services provider; register the Hyper-V host or the VMM server in it".to_owned(),
        });
    }
    let all: Vec<Connection> = providers
        .iter()
        .map(|provider| connection(provider, now))
        .collect();
    if all.iter().any(Connection::is_connected) {
        return Connection::Connected;
    }
    all.into_iter().next().unwrap_or(Connection::Connected)
}

/// Whether one of them is not heard.
#[must_use]
pub fn is_one_silent(providers: &[Provider], now: Timestamp) -> bool {
    let silent = |provider: &Provider| !connection(provider, now).is_connected();
    providers.iter().any(silent)
}

pub fn connection(provider: &Provider, now: Timestamp) -> Connection {
    let beat = provider.last_heartbeat.map_or_else(
        || "never heard".to_owned(),
        |beat| format!("last heard at {}", beat.strftime("%Y-%m-%d %H:%M UTC")),
    );
    let remedy = "check that the host runs, its services Azure Site Recovery Provider (dra) and obengine run, and that it reaches Azure";
    if !provider.connected {
        let status = if provider.connection_status.is_empty() {
            "of an unknown connection"
        } else {
            &provider.connection_status
        };
        return Connection::Disconnected(format!(
            "provider {} is {status}, {beat}; {remedy}",
            provider.host
        ));
    }
    let late = provider
        .last_heartbeat
        .is_some_and(|at| now.duration_since(at) > HEARTBEAT_LATE);
    if late {
        return Connection::Disconnected(format!(
            "provider {} is called Connected, but was {beat}; {remedy}",
            provider.host
        ));
    }
    Connection::Connected
}

/// Why the provider that serves the VM is not heard, when it is not.
pub fn host_silent(item: &Item, providers: &[&Provider], now: Timestamp) -> Option<String> {
    let id = item.provider_id.as_deref()?;
    let own = providers
        .iter()
        .find(|provider| same_id(&provider.id, id))?;
    match connection(own, now) {
        Connection::Connected => None,
        Connection::Disconnected(why) => Some(why),
    }
}
