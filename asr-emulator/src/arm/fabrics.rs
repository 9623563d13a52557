//! Fabrics, containers, providers, the policy and the vault's health as the service shows them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::arm::errors::{ArmError, no_resource};
use crate::arm::{Answer, Call};
use crate::seed::FabricKind;
use crate::service::Service;
use crate::state::{Fabric, Provider};
use crate::wire::moment;

const KIND: &str = "Microsoft.RecoveryServices/vaults/replicationFabrics";

fn list(value: &[Value]) -> Answer {
    json!({ "value": value, "nextLink": null }).into()
}

impl Service {
    fn known_fabric(&self, name: &str) -> Result<&Fabric, ArmError> {
        self.state.fabric(name).ok_or_else(|| no_resource(name))
    }

    pub(crate) fn list_fabrics(&self) -> Answer {
        list(
            &self
                .state
                .fabrics
                .values()
                .map(|fabric| self.fabric_view(fabric))
                .collect::<Vec<_>>(),
        )
    }

    pub(crate) fn get_fabric(&self, name: &str) -> Result<Answer, ArmError> {
        Ok(self.fabric_view(self.known_fabric(name)?).into())
    }

    fn fabric_view(&self, fabric: &Fabric) -> Value {
        let custom = match fabric.kind {
            FabricKind::HyperVSite => json!({
                "instanceType": "HyperVSite",
                "hyperVHosts": (fabric.hosts.iter())
                    .map(|host| json!({
                        "id": host.split('.').next(),
                        "name": host,
                        "marsAgentVersion": "2.0.9259.0",
                    }))
                    .collect::<Vec<_>>(),
            }),
            FabricKind::Vmm => json!({ "instanceType": "VMM" }),
        };
        let encryption = match fabric.kind {
            FabricKind::HyperVSite => json!({ "kekState": "None", "kekCertThumbprint": null }),
            FabricKind::Vmm => json!({
                "kekState": "Enabled",
                "kekCertThumbprint": "0000000000000000000000000000000000000000",
                "kekCertExpiryDate": moment(self.state.time + SignedDuration::from_hours(24 * 300)),
            }),
        };
        json!({
            "id": format!("{}/replicationFabrics/{}", self.vault_id(), fabric.name),
            "name": fabric.name,
            "type": KIND,
            "properties": {
                "friendlyName": fabric.name,
                "encryptionDetails": encryption,
                "rolloverEncryptionDetails": { "kekState": "None", "kekCertThumbprint": null },
                "internalIdentifier": fabric.container.trim_start_matches("cloud_"),
                "bcdrState": "Valid",
                "customDetails": custom,
                "healthErrorDetails": [],
                "health": "Normal",
            },
        })
    }

    pub(crate) fn list_containers(&self, fabric: Option<&str>) -> Answer {
        list(
            &(self.state.fabrics.values())
                .filter(|entry| fabric.is_none_or(|name| name.eq_ignore_ascii_case(&entry.name)))
                .map(|entry| self.container_view(entry))
                .collect::<Vec<_>>(),
        )
    }

    pub(crate) fn get_container(&self, fabric: &str, name: &str) -> Result<Answer, ArmError> {
        let fabric = self.known_fabric(fabric)?;
        if fabric.container.eq_ignore_ascii_case(name) {
            Ok(self.container_view(fabric).into())
        } else {
            Err(no_resource(name))
        }
    }

    fn items_of(&self, fabric: &Fabric, provider: Option<&str>) -> usize {
        (self.state.items.values())
            .filter(|item| item.fabric == fabric.name)
            .filter(|item| {
                let machine = self.state.machines.get(&item.vm);
                provider.is_none_or(|provider| {
                    machine.is_some_and(|machine| machine.provider == provider)
                })
            })
            .count()
    }

    fn container_view(&self, fabric: &Fabric) -> Value {
        json!({
            "id": format!(
                "{}/replicationFabrics/{}/replicationProtectionContainers/{}",
                self.vault_id(), fabric.name, fabric.container
            ),
            "name": fabric.container,
            "type": format!("{KIND}/replicationProtectionContainers"),
            "properties": {
                "fabricFriendlyName": fabric.name,
                "friendlyName": fabric.name,
                "fabricType": fabric.kind.word(),
                "protectedItemCount": self.items_of(fabric, None),
                "pairingStatus": "Paired",
                "role": "Primary",
                "fabricSpecificDetails": null,
            },
        })
    }

    pub(crate) fn list_providers(&self, fabric: Option<&str>) -> Answer {
        let mut value = Vec::new();
        for entry in self.state.fabrics.values() {
            if fabric.is_none_or(|name| name.eq_ignore_ascii_case(&entry.name)) {
                value.extend(
                    entry
                        .providers
                        .iter()
                        .map(|provider| self.provider_view(entry, provider)),
                );
            }
        }
        list(&value)
    }

    pub(crate) fn get_provider(&self, fabric: &str, name: &str) -> Result<Answer, ArmError> {
        let fabric = self.known_fabric(fabric)?;
        let provider = fabric.provider(name).ok_or_else(|| no_resource(name))?;
        Ok(self.provider_view(fabric, provider).into())
    }

    fn provider_view(&self, fabric: &Fabric, provider: &Provider) -> Value {
        let every = i64::try_from(self.settings.timings.heartbeat.max(1)).unwrap_or(i64::MAX);
        let beat = self.state.time.as_millisecond() / every * every;
        let beat = Timestamp::from_millisecond(beat).unwrap_or(self.state.time);
        // The service needs a while to notice; until then only the heartbeat tells.
        let noticed = provider
            .silent_since
            .filter(|_| !provider.silence_unnoticed);
        let health = match noticed {
            Some(since) => json!([{
                "innerHealthErrors": [],
                "errorSource": "Server",
                "errorLevel": "Critical",
                "errorCategory": "FabricInfrastructure",
                "errorCode": "581",
                "errorMessage": format!("The server '{}' is not connected.", provider.host),
                "possibleCauses": "The server, its network or the provider's service is down.",
                "recommendedAction": "Check the provider's service and the server's connection.",
                "creationTimeUtc": moment(since),
            }]),
            None => json!([]),
        };
        json!({
            "id": format!(
                "{}/replicationFabrics/{}/replicationRecoveryServicesProviders/{}",
                self.vault_id(), fabric.name, provider.name
            ),
            "name": provider.name,
            "type": format!("{KIND}/replicationRecoveryServicesProviders"),
            "properties": {
                "fabricType": fabric.kind.word(),
                "friendlyName": provider.host,
                "providerVersion": "5.24.1112.300",
                "serverVersion": "3.2.7510.0",
                "providerVersionState": "Latest",
                "providerVersionExpiryDate": null,
                "fabricFriendlyName": fabric.name,
                "lastHeartBeat": moment(provider.silent_since.unwrap_or(beat)),
                "connectionStatus": match noticed {
                    Some(_) => "NotConnected",
                    None => "Connected",
                },
                "protectedItemCount": match fabric.kind {
                    FabricKind::HyperVSite => self.items_of(fabric, Some(&provider.name)),
                    FabricKind::Vmm => self.items_of(fabric, None),
                },
                "allowedScenarios": ["Refresh", "Purge"],
                "healthErrorDetails": health,
                "draIdentifier": provider.name,
            },
        })
    }

    pub(crate) fn refresh_provider(
        &mut self,
        call: &Call,
        fabric: &str,
        name: &str,
    ) -> Result<Answer, ArmError> {
        self.get_provider(fabric, name)?;
        let started = self.start_refresh(fabric, name, call.now);
        Ok(self.accepted(call, &started))
    }

    pub(crate) fn vault_view(&self) -> Value {
        json!({
            "id": self.state.vault.path(),
            "name": self.state.vault.name,
            "type": "Microsoft.RecoveryServices/vaults",
            "location": "westeurope",
            "sku": { "name": "Standard" },
            "properties": { "provisioningState": "Succeeded" },
        })
    }

    pub(crate) fn vault_health(&self) -> Answer {
        let silent: Vec<&str> = (self.state.fabrics.values())
            .flat_map(|fabric| &fabric.providers)
            .filter(|provider| provider.silent_since.is_some() && !provider.silence_unnoticed)
            .map(|provider| provider.name.as_str())
            .collect();
        let issues = if silent.is_empty() {
            json!([])
        } else {
            json!([{
                "summaryCode": "581",
                "category": "FabricInfrastructure",
                "severity": "Error",
                "summaryMessage": "Hyper-V server not connected",
                "affectedResourceType": "replicationFabrics",
                "affectedResourceSubtype": "",
                "affectedResourceCorrelationIds": silent,
            }])
        };
        json!({
            "id": format!("{}/replicationVaultHealth/Default", self.vault_id()),
            "name": "Default",
            "type": "Microsoft.RecoveryServices/vaults/replicationVaultHealth",
            "properties": {
                "vaultErrors": [],
                "protectedItemsHealth": { "resourceCount": self.state.items.len(), "issues": [] },
                "fabricsHealth": { "resourceCount": self.state.fabrics.len(), "issues": issues },
                "containersHealth": { "resourceCount": self.state.fabrics.len(), "issues": [] },
            },
        })
        .into()
    }

    pub(crate) fn list_policies(&self) -> Answer {
        list(&[self.policy_view()])
    }

    pub(crate) fn get_policy(&self, name: &str) -> Result<Answer, ArmError> {
        if name.eq_ignore_ascii_case("policy-1") {
            Ok(self.policy_view().into())
        } else {
            Err(no_resource(name))
        }
    }

    fn policy_view(&self) -> Value {
        json!({
            "id": self.policy(),
            "name": "policy-1",
            "type": "Microsoft.RecoveryServices/vaults/replicationPolicies",
            "properties": {
                "friendlyName": "policy-1",
                "providerSpecificDetails": {
                    "instanceType": "HyperVReplicaAzure",
                    "recoveryPointHistoryDurationInHours": 24,
                    "applicationConsistentSnapshotFrequencyInHours": 1,
                    "replicationInterval": 300,
                    "encryption": "Disabled",
                },
            },
        })
    }
}
