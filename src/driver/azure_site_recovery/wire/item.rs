//! A replication protected item: one VM as the service knows it. It is kept small, since a vault holds thousands.

use jiff::Timestamp;
use serde_json::Value;

use super::page::Element;
use super::value::{Object, last_segment};
use crate::api::Site;

/// One protected item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Name of the VM.
    pub friendly_name: String,
    /// Identity of the VM on its Hyper-V host, in lower case.
    pub vm_id: Option<String>,
    /// Which kind of replication it is: `HyperVReplicaAzure` is the one that this driver knows.
    pub instance_type: String,
    /// State of protection, as the service names it.
    pub protection_state: String,
    /// The same for people.
    pub protection_state_description: String,
    /// The site where the service says that the VM is.
    pub active: Option<Site>,
    /// State of a test failover.
    pub test_failover_state: String,
    /// What the service lets be done now.
    pub allowed: Vec<String>,
    /// How replication does.
    pub replication_health: String,
    /// What is wrong with it.
    pub health_errors: Vec<HealthError>,
    /// What is under way, and the job that does it.
    pub scenario: Scenario,
    /// When it was last moved.
    pub last_failover: Option<Timestamp>,
    /// The provider that serves it.
    pub provider_id: Option<String>,
    /// The VM as something that can be protected.
    pub protectable_item_id: Option<String>,
    /// When it was last replicated.
    pub last_replicated: Option<Timestamp>,
    /// When the last recovery point came.
    pub last_recovery_point: Option<Timestamp>,
    /// Whether data in the vault is encrypted with the customer's certificate.
    pub encrypted: bool,
    /// Kind of the operating system.
    pub os_type: Option<String>,
    /// Id of the disk that it boots from.
    pub os_disk: Option<String>,
    /// Where its data goes.
    pub storage_account: Option<String>,
    /// Where its logs go.
    pub log_storage_account: Option<String>,
    /// Names of the virtual switches that it is in.
    pub networks: Vec<String>,
    /// Sizes of its disks together, in bytes.
    pub disk_bytes: Option<u64>,
}

/// What is under way on an item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scenario {
    /// Its name; empty for none.
    pub name: String,
    /// Name of its job.
    pub job: Option<String>,
    /// When it began.
    pub started: Option<Timestamp>,
}

/// Something wrong with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthError {
    /// Its code.
    pub code: String,
    /// Whether it is critical.
    pub critical: bool,
    /// What is wrong.
    pub message: String,
    /// What the service recommends.
    pub recommended: Option<String>,
}

impl Item {
    /// Whether the service lets this be done now.
    #[must_use]
    pub fn allows(&self, operation: &str) -> bool {
        self.allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(operation))
    }

    /// Whether the service has nothing under way on it: it names no job, and lets something be done.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.scenario.name.is_empty() && self.scenario.job.is_none() && !self.allowed.is_empty()
    }

    /// Identity of the VM: that of its host where it is told, else that of the item.
    #[must_use]
    pub fn identity(&self) -> String {
        self.vm_id
            .clone()
            .unwrap_or_else(|| self.id.to_ascii_lowercase())
    }

    /// Name of the fabric in its id.
    #[must_use]
    pub fn fabric(&self) -> Option<&str> {
        super::value::segment_after(&self.id, "replicationFabrics")
    }
}

impl Element for Item {
    fn read(value: &Value) -> Option<Self> {
        let item = Object::of(value);
        let id = item.text("id")?;
        let properties = item.object("properties");
        let details = properties.object("providerSpecificDetails");
        let disks: Vec<Object<'_>> = details.objects("azureVmDiskDetails").collect();
        let boots = |disk: &&Object<'_>| {
            disk.text("vhdType")
                .is_some_and(|kind| kind.eq_ignore_ascii_case("OperatingSystem"))
        };
        let megabytes: Option<Vec<u64>> = disks
            .iter()
            .map(|disk| disk.text("maxSizeMB")?.parse().ok())
            .collect();
        let scenario = properties.object("currentScenario");
        let named = |text: Option<String>| text.filter(|it| !it.eq_ignore_ascii_case("none"));
        let mut errors: Vec<HealthError> = ["healthErrors", "replicationHealthErrors"]
            .into_iter()
            .flat_map(|name| properties.objects(name))
            .filter_map(health_error)
            .collect();
        errors.sort_by(|one, other| one.code.cmp(&other.code));
        Some(Self {
            friendly_name: properties
                .text("friendlyName")
                .unwrap_or_else(|| last_segment(&id).to_owned()),
            vm_id: details.text("vmId").map(|id| id.to_ascii_lowercase()),
            instance_type: details.text("instanceType").unwrap_or_default(),
            protection_state: properties.text("protectionState").unwrap_or_default(),
            protection_state_description: properties
                .text("protectionStateDescription")
                .unwrap_or_default(),
            active: match properties.text("activeLocation") {
                Some(at) if at.eq_ignore_ascii_case("primary") => Some(Site::OnPremises),
                Some(at) if at.eq_ignore_ascii_case("recovery") => Some(Site::Azure),
                _ => None,
            },
            test_failover_state: named(properties.text("testFailoverState")).unwrap_or_default(),
            allowed: properties.texts("allowedOperations"),
            replication_health: properties.text("replicationHealth").unwrap_or_default(),
            health_errors: errors,
            scenario: Scenario {
                name: named(scenario.text("scenarioName")).unwrap_or_default(),
                job: named(
                    scenario
                        .text("jobId")
                        .map(|id| last_segment(&id).to_owned()),
                ),
                started: scenario.time("startTime"),
            },
            last_failover: properties.time("lastSuccessfulFailoverTime"),
            provider_id: properties.text("recoveryServicesProviderId"),
            protectable_item_id: properties.text("protectableItemId"),
            last_replicated: details.time("lastReplicatedTime"),
            last_recovery_point: details.time("lastRecoveryPointReceived"),
            encrypted: details
                .text("encryption")
                .is_some_and(|it| it.eq_ignore_ascii_case("enabled")),
            os_type: details.object("oSDetails").text("osType"),
            os_disk: disks
                .iter()
                .find(boots)
                .or(disks.first())
                .and_then(|disk| disk.text("vhdId")),
            storage_account: details.text("recoveryAzureStorageAccount"),
            log_storage_account: details.text("recoveryAzureLogStorageAccountId"),
            networks: details
                .objects("vmNics")
                .filter_map(|nic| nic.text("vMNetworkName"))
                .collect(),
            disk_bytes: megabytes.filter(|sizes| !sizes.is_empty()).map(|sizes| {
                sizes
                    .into_iter()
                    .fold(0, |sum, size| u64::saturating_add(sum, size << 20))
            }),
            id,
        })
    }
}

fn health_error(error: Object<'_>) -> Option<HealthError> {
    let code = error.text("errorCode").unwrap_or_default();
    let message = error
        .text("errorMessage")
        .or_else(|| error.text("summaryMessage"))?;
    Some(HealthError {
        code,
        critical: error
            .text("errorLevel")
            .is_some_and(|level| level.eq_ignore_ascii_case("error")),
        message,
        recommended: error.text("recommendedAction"),
    })
}
