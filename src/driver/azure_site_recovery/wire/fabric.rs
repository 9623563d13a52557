//! Fabrics and the providers that serve them: the on-premises side as the service knows it.

use jiff::Timestamp;
use serde_json::Value;

use super::page::Element;
use super::value::{Object, segment_after};

/// One recovery services provider: on a Hyper-V host of a site, or on a VMM server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its id.
    pub id: String,
    /// Name of the host.
    pub host: String,
    /// `HyperVSite` or `VMM`.
    pub fabric_type: String,
    /// Whether the service calls it connected.
    pub connected: bool,
    /// What it calls it.
    pub connection_status: String,
    /// When it was last heard.
    pub last_heartbeat: Option<Timestamp>,
}

impl Provider {
    /// Name of its fabric.
    #[must_use]
    pub fn fabric(&self) -> Option<&str> {
        segment_after(&self.id, "replicationFabrics")
    }
}

impl Element for Provider {
    fn read(value: &Value) -> Option<Self> {
        let provider = Object::of(value);
        let id = provider.text("id")?;
        let properties = provider.object("properties");
        let status = properties.text("connectionStatus").unwrap_or_default();
        Some(Self {
            host: properties
                .text("friendlyName")
                .or_else(|| provider.text("name"))
                .unwrap_or_else(|| super::value::last_segment(&id).to_owned()),
            fabric_type: properties.text("fabricType").unwrap_or_default(),
            connected: status.eq_ignore_ascii_case("connected"),
            connection_status: status,
            last_heartbeat: properties.time("lastHeartBeat"),
            id,
        })
    }
}
