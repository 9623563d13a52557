//! Protected items, recovery points and protectable items as the service shows them.

use serde_json::{Value, json};

use crate::arm::errors::{ArmError, no_resource};
use crate::arm::lists::page;
use crate::arm::{Answer, Call};
use crate::assumptions::FailbackWord;
use crate::item::{Item, Phase};
use crate::jobs::view::{AZURE_CLOUD, names};
use crate::jobs::{Job, JobState, Scenario};
use crate::seed::FabricKind;
use crate::service::Service;
use crate::state::item_key;
use crate::wire::{moment, second};
use crate::world::Machine;

const KIND: &str =
    "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers";
/// The fabric that Azure is.
const AZURE_FABRIC: &str = "4f1c2d3e5a6b7c8d9e0f";

impl Service {
    pub(crate) fn item_at(
        &self,
        fabric: &str,
        container: &str,
        item: &str,
    ) -> Result<String, ArmError> {
        let key = item_key(fabric, container, item);
        if self.state.items.contains_key(&key) {
            Ok(key)
        } else {
            Err(no_resource(item))
        }
    }

    pub(crate) fn list_items(
        &self,
        call: &Call,
        container: Option<(&str, &str)>,
    ) -> Result<Answer, ArmError> {
        let plan = super::filter::plan(call)?;
        let members = plan.map(|name| {
            self.state
                .plan(&name)
                .map(crate::state::Plan::members)
                .unwrap_or_default()
        });
        let prefix = container.map(|(fabric, container)| item_key(fabric, container, ""));
        let keys = (self.state.items.keys())
            .filter(|key| prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix)))
            .filter(|key| members.as_ref().is_none_or(|members| members.contains(key)));
        Ok(page(call, &self.settings, &self.vault_id(), keys, |key| {
            self.item_view(key)
        })
        .into())
    }

    /// The job that the item shows it is busy with: its own, or its part of a plan's.
    fn shown_job(&self, item: &Item) -> Option<&Job> {
        let begun = |job: &Job| job.state != JobState::NotStarted;
        item.current
            .map(|place| &self.state.jobs[place])
            .filter(|job| {
                let parent = job
                    .parent
                    .is_some_and(|place| begun(&self.state.jobs[place]));
                begun(job) || parent || self.settings.assumptions.scenario_shown_before_start
            })
    }

    pub(crate) fn item_view(&self, key: &str) -> Value {
        let (Some(item), assumed) = (self.state.items.get(key), &self.settings.assumptions) else {
            return Value::Null;
        };
        let Some(machine) = self.state.machines.get(&item.vm) else {
            return Value::Null;
        };
        let vault = self.vault_id();
        let id = format!("{vault}{}", self.item_path(key));
        let home = format!("{vault}/replicationFabrics/{}", item.fabric);
        let kind = self.state.fabric(&item.fabric).map(|fabric| fabric.kind);
        let job = self.shown_job(item);
        let operations = match job {
            Some(job) if job.state == JobState::Suspended && assumed.operations_while_suspended => {
                item.operations(assumed)
            }
            Some(_) => Vec::new(),
            None => item.operations(assumed),
        };
        let scenario = match job {
            Some(job) => {
                let named = (job.parent)
                    .filter(|_| assumed.item_names_plan_job)
                    .map_or(job, |place| &self.state.jobs[place]);
                let name = match job.scenario {
                    Scenario::Failback => assumed.failback_scenario.word(),
                    Scenario::IrCompletion => "EnableProtection",
                    Scenario::PlannedFailover => FailbackWord::PlannedFailover.word(),
                    _ => names(job).0,
                };
                json!({
                    "scenarioName": name,
                    "jobId": format!("{vault}/replicationJobs/{}", named.name),
                    "startTime": moment(named.start.unwrap_or(named.created)),
                })
            }
            None => json!({
                "scenarioName": "None",
                "jobId": format!("{vault}/replicationJobs/None"),
                "startTime": "1753-01-01T01:01:01Z",
            }),
        };
        let (state, description) = item.state(assumed);
        let (test, test_description) = item.test.words();
        let untested = item.last_test.is_none();
        let point =
            (item.failover_point.as_ref()).map(|name| format!("{id}/recoveryPoints/{name}"));
        let mut view = json!({
            "id": id,
            "name": item.name,
            "type": format!("{KIND}/replicationProtectedItems"),
            "properties": {
                "friendlyName": machine.name,
                "protectedItemType": "HyperVVirtualMachine",
                "protectableItemId": format!(
                    "{home}/replicationProtectionContainers/{}/replicationProtectableItems/{}",
                    item.container, machine.vm_id
                ),
                "recoveryServicesProviderId": format!(
                    "{home}/replicationRecoveryServicesProviders/{}", machine.provider
                ),
                "primaryFabricFriendlyName": item.fabric,
                "primaryFabricProvider": match kind {
                    Some(FabricKind::Vmm) => "VMM",
                    _ => "SingleHostHyperVFabric",
                },
                "recoveryFabricFriendlyName": "Microsoft Azure",
                "recoveryFabricId": "Microsoft Azure",
                "primaryProtectionContainerFriendlyName": item.fabric,
                "recoveryProtectionContainerFriendlyName": "Microsoft Azure",
                "protectionState": state,
                "protectionStateDescription": description,
                "activeLocation": item.location(assumed).word(),
                "testFailoverState": test,
                "testFailoverStateDescription": test_description,
                "switchProviderState": "None",
                "switchProviderStateDescription": null,
                "allowedOperations": operations,
                "replicationHealth": item.replication_health(),
                "failoverHealth": if untested { "Warning" } else { "Normal" },
                "healthErrors": if untested { json!([untested_error(item, machine)]) } else { json!([]) },
                "policyId": self.policy(),
                "policyFriendlyName": "policy-1",
                "currentScenario": scenario,
                "failoverRecoveryPointId": point,
                "providerSpecificDetails": self.details_view(item, machine),
                "recoveryContainerId": format!(
                    "{vault}/replicationFabrics/{AZURE_FABRIC}/replicationProtectionContainers/{AZURE_CLOUD}"
                ),
                "eventCorrelationId": machine.vm_id,
            },
        });
        // Times that never were are left away.
        let times = [
            ("lastSuccessfulFailoverTime", item.last_failover),
            ("lastSuccessfulTestFailoverTime", item.last_test),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                view["properties"][name] = moment(time);
            }
        }
        view
    }

    fn details_view(&self, item: &Item, machine: &Machine) -> Value {
        let (state, description) = item.vm_state();
        let vault = &self.state.vault;
        let group = format!(
            "/subscriptions/{}/resourceGroups/{}",
            vault.subscription, vault.resource_group
        );
        let network = format!("{group}/providers/Microsoft.Network/virtualNetworks/homeward-net");
        let disks: Vec<Value> = (machine.disks.iter().enumerate())
            .map(|(number, size)| {
                json!({
                    "vhdType": if number == 0 { "OperatingSystem" } else { "Data" },
                    "vhdId": vhd(machine, number),
                    "diskId": format!("{}_{}", machine.vm_id.to_ascii_uppercase(), number),
                    "vhdName": vhd_name(machine, number),
                    "maxSizeMB": size.to_string(),
                    "targetDiskLocation": null,
                    "targetDiskName": null,
                    "lunId": number.to_string(),
                    "diskEncryptionSetId": null,
                    "customTargetDiskName": null,
                })
            })
            .collect();
        let replicating = item.phase == Phase::Steady;
        let time = self.state.time;
        let last = replicating.then(|| second(time));
        json!({
            "instanceType": "HyperVReplicaAzure",
            "azureVmDiskDetails": disks,
            "recoveryAzureVmName": machine.name,
            "recoveryAzureVMSize": "Standard_D2s_v5",
            "recoveryAzureStorageAccount": format!("{group}/providers/Microsoft.Storage/storageAccounts/homewardreplica"),
            "recoveryAzureLogStorageAccountId": null,
            "lastReplicatedTime": last,
            "rpoInSeconds": if replicating { json!(3) } else { Value::Null },
            "lastRpoCalculatedTime": replicating.then(|| moment(time)),
            "lastRecoveryPointReceived": item.points.first().map(|point| moment(point.at)),
            "vmId": machine.vm_id,
            "vmProtectionState": state,
            "vmProtectionStateDescription": description,
            "initialReplicationDetails": {
                "initialReplicationType": "InitialReplication",
                "initialReplicationProgressPercentage": "23",
            },
            "vmNics": [nic(machine, &network)],
            "selectedRecoveryAzureNetworkId": network,
            "selectedSourceNicId": crate::ids::named("nic", &machine.vm_id),
            "encryption": if item.encrypted { "Enabled" } else { "Disabled" },
            "oSDetails": os(machine),
            "sourceVmRamSizeInMB": 4096,
            "sourceVmCpuCount": 2,
            "enableRdpOnTargetOption": "Never",
            "recoveryAzureResourceGroupId": group,
            "recoveryAvailabilitySetId": null,
            "targetAvailabilityZone": null,
            "targetProximityPlacementGroupId": null,
            "useManagedDisks": "true",
            "licenseType": "NotSpecified",
            "sqlServerLicenseType": "NotSpecified",
            "targetVmTags": {},
            "seedManagedDiskTags": null,
            "targetManagedDiskTags": null,
            "targetNicTags": {},
            "protectedManagedDisks": [],
        })
    }

    pub(crate) fn list_points(&self, key: &str) -> Answer {
        let points = self.state.items.get(key).map(|item| item.points.clone());
        let value: Vec<Value> = (points.unwrap_or_default().iter())
            .map(|point| self.point_view(key, point))
            .collect();
        json!({ "value": value, "nextLink": null }).into()
    }

    pub(crate) fn get_point(&self, key: &str, name: &str) -> Result<Answer, ArmError> {
        (self.state.items.get(key))
            .and_then(|item| {
                item.points
                    .iter()
                    .find(|point| point.name.eq_ignore_ascii_case(name))
            })
            .map(|point| self.point_view(key, point).into())
            .ok_or_else(|| no_resource(name))
    }

    fn point_view(&self, key: &str, point: &crate::item::Point) -> Value {
        json!({
            "id": format!("{}{}/recoveryPoints/{}", self.vault_id(), self.item_path(key), point.name),
            "name": point.name,
            "type": format!("{KIND}/replicationProtectedItems/recoveryPoints"),
            "properties": {
                "recoveryPointTime": moment(point.at),
                "recoveryPointType": point.kind,
                "providerSpecificDetails": null,
            },
        })
    }

    pub(crate) fn list_protectable(&self, call: &Call, fabric: &str, container: &str) -> Answer {
        let here = |machine: &&Machine| {
            machine.fabric.eq_ignore_ascii_case(fabric)
                && machine.container.eq_ignore_ascii_case(container)
                && machine.on_premises.is_some()
        };
        let keys = (self.state.machines.values())
            .filter(here)
            .map(|machine| &machine.vm_id);
        page(call, &self.settings, &self.vault_id(), keys, |key| {
            self.protectable_view(&self.state.machines[key])
        })
        .into()
    }

    pub(crate) fn get_protectable(
        &self,
        fabric: &str,
        container: &str,
        name: &str,
    ) -> Result<Answer, ArmError> {
        self.get_container(fabric, container)?;
        (self.state.machines.get(&name.to_ascii_lowercase()))
            .map(|machine| self.protectable_view(machine).into())
            .ok_or_else(|| no_resource(name))
    }

    fn protectable_view(&self, machine: &Machine) -> Value {
        let home = format!("{}/replicationFabrics/{}", self.vault_id(), machine.fabric);
        let item = (self.state.items.iter()).find(|(_, item)| item.vm == machine.vm_id);
        let kind = self.state.fabric(&machine.fabric).map(|fabric| fabric.kind);
        let disks: Vec<Value> = (machine.disks.iter().enumerate())
            .map(|(number, size)| {
                json!({
                    "maxSizeMB": size,
                    "vhdType": if number == 0 { "OperatingSystem" } else { "Data" },
                    "vhdId": vhd(machine, number),
                    "vhdName": vhd_name(machine, number),
                })
            })
            .collect();
        json!({
            "id": format!(
                "{home}/replicationProtectionContainers/{}/replicationProtectableItems/{}",
                machine.container, machine.vm_id
            ),
            "name": machine.vm_id,
            "type": format!("{KIND}/replicationProtectableItems"),
            "properties": {
                "friendlyName": machine.name,
                "protectionStatus": if item.is_some() { "Protected" } else { "Unprotected" },
                "replicationProtectedItemId": item
                    .map(|(key, _)| format!("{}{}", self.vault_id(), self.item_path(key))),
                "recoveryServicesProviderId": format!(
                    "{home}/replicationRecoveryServicesProviders/{}", machine.provider
                ),
                "protectionReadinessErrors": [],
                "supportedReplicationProviders": ["HyperVReplicaAzure"],
                "customDetails": {
                    "instanceType": match kind {
                        Some(FabricKind::Vmm) => "VmmVirtualMachine",
                        _ => "HyperVVirtualMachine",
                    },
                    "sourceItemId": machine.vm_id,
                    "generation": machine.generation.to_string(),
                    "osDetails": if self.settings.assumptions.protectable_os_known {
                        os(machine)
                    } else {
                        Value::Null
                    },
                    "diskDetails": disks,
                    "hasPhysicalDisk": "NotPresent",
                    "hasFibreChannelAdapter": "NotPresent",
                    "hasSharedVhd": "Unknown",
                    "hyperVHostId": machine.host.split('.').next(),
                },
            },
        })
    }
}

fn os(machine: &Machine) -> Value {
    json!({
        "osType": machine.os_type,
        "productType": "UNKNOWN",
        "osEdition": "Standard",
        "oSVersion": "1.1.1.1",
        "oSMajorVersion": "0",
        "oSMinorVersion": "0",
    })
}

/// The VM's only network adapter, with the members that matter to a client.
fn nic(machine: &Machine, network: &str) -> Value {
    json!({
        "nicId": crate::ids::named("nic", &machine.vm_id),
        "replicaNicId": null,
        "sourceNicArmId": null,
        "vMNetworkName": "virtual-switch",
        "recoveryVMNetworkId": network,
        "ipConfigs": [{
            "name": null,
            "isPrimary": true,
            "subnetName": "virtual-switch",
            "staticIPAddress": null,
            "ipAddressType": "Dynamic",
            "isSeletedForFailover": true,
            "recoverySubnetName": "default",
            "recoveryStaticIPAddress": "",
            "recoveryIPAddressType": "Dynamic",
        }],
        "selectionType": "SelectedByUser",
        "reuseExistingNic": false,
        "targetNicName": format!("nic-{}-00", machine.name),
    })
}

fn vhd(machine: &Machine, number: usize) -> String {
    crate::ids::named("vhd", &format!("{}/{number}", machine.vm_id))
}

fn vhd_name(machine: &Machine, number: usize) -> String {
    if number == 0 {
        machine.name.clone()
    } else {
        format!("{}-{number}", machine.name)
    }
}

fn untested_error(item: &Item, machine: &Machine) -> Value {
    json!({
        "innerHealthErrors": [],
        "errorSource": "ReplicationUnitFailoverValidatorError",
        "errorType": "8010",
        "errorLevel": "Warning",
        "errorCategory": "TestFailover",
        "errorCode": "161011",
        "summaryMessage": "",
        "errorMessage": format!("The virtual machine '{}' has had no test failover.", machine.name),
        "possibleCauses": "No test failover has been done since replication began.",
        "recommendedAction": "Do a test failover.",
        "creationTimeUtc": null,
        "recoveryProviderErrorMessage": null,
        "entityId": item.vm,
        "errorId": "6:8010",
        "customerResolvability": "NotAllowed",
    })
}
