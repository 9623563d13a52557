//! Words that several kinds share.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A condition as Kubernetes defines it; the list is a map by `type`.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// One of the two places where a VM can live.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Site {
    /// The hosts on the premises.
    OnPremises,
    /// Azure.
    Azure,
}

impl Site {
    /// Both sites, on-premises first.
    pub const BOTH: [Self; 2] = [Self::OnPremises, Self::Azure];

    /// The other site.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::OnPremises => Self::Azure,
            Self::Azure => Self::OnPremises,
        }
    }

    /// The word as it stands in resources and as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnPremises => "OnPremises",
            Self::Azure => "Azure",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a VM should run.
pub type Placement = Site;

/// How a data sync is done, once chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DataSync {
    /// Copy what differs while the VM runs, then stop it and send the last delta: longer in all, short downtime.
    DeltaBeforeFailover,
    /// Stop the VM first and send the whole disks, with no checksums of the target: downtime as long as the copy.
    FullDuringFailover,
}

impl DataSync {
    /// The word as it stands in resources.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeltaBeforeFailover => "DeltaBeforeFailover",
            Self::FullDuringFailover => "FullDuringFailover",
        }
    }
}

/// Takes the description of a type out of its schema: `kubectl explain` is to show that of the field, which an optional one would lose to it.
fn by_its_field(schema: &mut schemars::Schema) {
    schema.remove("description");
}

/// Who lets a gate pass when nothing else holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = by_its_field)]
pub enum Approval {
    /// The gate passes by itself.
    #[default]
    Automatic,
    /// The gate waits for an answer on the Failover.
    Manual,
}

/// The only answer to a question that can only be agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = by_its_field)]
pub enum Yes {
    /// Go on.
    Approved,
}

/// The answer at the commit gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = by_its_field)]
pub enum Verdict {
    /// Accept the result: the source copy is retired.
    Approved,
    /// Stop the target, drop what it wrote since cutover, and start the source again.
    Rollback,
}

/// How well something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// As it should be.
    Normal,
    /// Works, with something to look at.
    Warning,
    /// Does not work.
    Critical,
    /// Cannot be told now.
    Unknown,
}

/// Name of a RecoveryVault in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VaultReference {
    /// Name of the RecoveryVault.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Name of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A Failover, by name and UID: a name alone could be another object's by now (safety rule S6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverReference {
    /// Name of the Failover.
    pub name: String,
    /// UID of the Failover.
    pub uid: String,
    /// Why it waits for `start: Approved`; absent when it starts by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_held_because: Option<String>,
    /// The move was under way when this Failover was made for it: whether it is accepted or taken back is asked, and not derived from a
    /// placement that may be older than the move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_up: bool,
}
