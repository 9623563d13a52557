//! The register of a VM whose service keeps none, in the status of its ProtectedVirtualMachine.
//!
//! Homeward's own agents keep the right to run of each VM in a register of their own. A service such as Azure Site Recovery keeps none, and
//! takes whatever request comes: what was asked of it, and what it knew before, stands here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{DataSync, Site};

/// Who acts on the VM, and the newest order that the service is known to have taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptRegister {
    /// Identity of the cluster that acts on the VM: the UID of its `kube-system` namespace.
    pub cluster: String,
    /// UID of the ProtectedVirtualMachine that acts on it.
    pub vm_uid: String,
    /// Epoch of the newest order that took effect.
    pub epoch: i64,
    /// Its step within the epoch.
    pub step: i64,
    /// UID of the Failover under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<String>,
    /// The last request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<KeptRequest>,
    /// Why the passive copy must not be started, when it must not: a data sync towards it was broken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inconsistent_because: Option<String>,
}

/// A request to the service, stored before it is sent, with what was known before (safety rules S18, S19).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptRequest {
    /// The action that it is for.
    pub action: String,
    /// The site of that action.
    pub site: Site,
    /// The data sync of that action, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_sync: Option<DataSync>,
    /// Epoch of the order.
    pub epoch: i64,
    /// Step of the order.
    pub step: i64,
    /// How often it has been attempted, this time included.
    pub attempt: i64,
    /// It is not sent after this.
    pub send_before: MicroTime,
    /// The job that it acts on, or that was under way already and is taken for its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Jobs of the VM that were known before; none of them can be its result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs_before: Vec<String>,
    /// What the service called under way before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scenario_before: String,
    /// The service's clock before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<Time>,
    /// The service has said that it took it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// What came of it, once that is known for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<KeptOutcome>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptOutcome {
    /// How it ended.
    pub result: KeptResult,
    /// The job that was its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Class of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The words of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeptResult {
    /// It took effect and was done.
    Succeeded,
    /// It took effect and failed.
    Failed,
    /// It had no effect, and can have none any more.
    NoEffect,
}
