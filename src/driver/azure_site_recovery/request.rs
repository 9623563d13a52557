//! Request bodies, by the names of API version 2025-08-01. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::wire::item::Item;
use crate::api::DataSync;
use crate::domain::SecretBytes;

/// Version of the API that is spoken.
pub const API_VERSION: &str = "2025-08-01";

/// Where the VM is brought back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To where it came from; it has to be there.
    Own,
    /// It is created where it is not found.
    Created {
        /// The provider of the host, in a Hyper-V site.
        provider_id: Option<String>,
    },
}

/// Planned failover to Azure, with the key certificate of encrypted data.
#[must_use]
pub fn failover_to_azure(key: Option<&SecretBytes>) -> Value {
    let mut details = json!({"instanceType": "HyperVReplicaAzure"});
    if let Some(SecretBytes(pfx)) = key {
        details["primaryKekCertificatePfx"] = json!(STANDARD.encode(pfx));
    }
    json!({"properties": {
        "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": details,
    }})
}

/// Planned failover from Azure.
#[must_use]
pub fn failback(data_sync: DataSync, place: &Place) -> Value {
    // The names say when the VM is down, not what is done while it is up.
    let option = match data_sync {
        DataSync::DeltaBeforeFailover => "ForDownTime",
        DataSync::FullDuringFailover => "ForSynchronization",
    };
    let mut details = json!({
        "instanceType": "HyperVReplicaAzureFailback",
        "dataSyncOption": option,
        "recoveryVmCreationOption": match place {
            Place::Own => "NoAction",
            Place::Created { .. } => "CreateVmIfNotFound",
        },
    });
    if let Place::Created {
        provider_id: Some(provider),
    } = place
    {
        details["providerIdForAlternateRecovery"] = json!(provider);
    }
    json!({"properties": {
        "failoverDirection": "RecoveryToPrimary",
        "providerSpecificDetails": details,
    }})
}

/// Reverse replication, after a failback was committed.
#[must_use]
pub fn reverse_replicate(item: &Item) -> Value {
    let mut details = json!({
        "instanceType": "HyperVReplicaAzure",
        "vmName": item.friendly_name,
        // The service knows two kinds.
        "osType": item.os_type.as_deref().filter(|os| os.eq_ignore_ascii_case("linux")).map_or("Windows", |_| "Linux"),
    });
    let mut add = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            details[name] = json!(value);
        }
    };
    add("hvHostVmId", item.vm_id.as_ref());
    // Spelled `vhdId` where protection is enabled, and like this here.
    add("vHDId", item.os_disk.as_ref());
    add("storageAccountId", item.storage_account.as_ref());
    add(
        "logStorageAccountId",
        item.log_storage_account
            .as_ref()
            .or(item.storage_account.as_ref()),
    );
    json!({"properties": {
        "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": details,
    }})
}

/// "Complete failover": a job that has synchronised goes on.
#[must_use]
pub fn resume() -> Value {
    json!({"properties": {"comments": "Cutover passed by Homeward"}})
}
