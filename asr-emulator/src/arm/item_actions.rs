//! What can be asked of a protected item: the request is checked here, and what becomes of it is the job's affair.

use serde_json::Value;

use crate::arm::errors::{ArmError, bad_direction, bad_parameter, no_resource};
use crate::arm::{Answer, Call, no_route};
use crate::assumptions::Location;
use crate::jobs::start::Order;
use crate::jobs::{FailbackOptions, Scenario};
use crate::seed::FabricKind;
use crate::service::Service;

/// `failoverDirection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToAzure,
    ToPremises,
}

pub(crate) fn direction(properties: &Value) -> Result<Direction, ArmError> {
    match &properties["failoverDirection"] {
        // Older clients leave it away and mean a failover to Azure.
        Value::Null => Ok(Direction::ToAzure),
        Value::String(word) if word == "PrimaryToRecovery" => Ok(Direction::ToAzure),
        Value::String(word) if word == "RecoveryToPrimary" => Ok(Direction::ToPremises),
        _ => Err(bad_direction()),
    }
}

/// Checks `instanceType` of the details.
pub(crate) fn instance(details: &Value, wanted: &str) -> Result<(), ArmError> {
    if details["instanceType"] == wanted {
        Ok(())
    } else {
        Err(bad_parameter(&format!(
            "The provider specific details must be of the type '{wanted}'."
        )))
    }
}

/// The two options of a failback, spelled as the service spells them.
pub(crate) fn failback(details: &Value) -> Result<FailbackOptions, ArmError> {
    let full_download = match details["dataSyncOption"].as_str() {
        Some("ForSynchronization") => true,
        Some("ForDownTime") => false,
        _ => return Err(bad_parameter("The value of 'dataSyncOption' is not valid.")),
    };
    let create = match details["recoveryVmCreationOption"].as_str() {
        Some("CreateVmIfNotFound") => true,
        Some("NoAction") => false,
        _ => {
            let what = "The value of 'recoveryVmCreationOption' is not valid.";
            return Err(bad_parameter(what));
        }
    };
    Ok(FailbackOptions {
        full_download,
        create,
        provider: None,
    })
}

pub(crate) fn has_key(details: &Value) -> bool {
    details["primaryKekCertificatePfx"]
        .as_str()
        .is_some_and(|key| !key.is_empty())
}

impl Service {
    pub(crate) fn item_action(
        &mut self,
        call: &Call,
        key: &str,
        verb: &str,
    ) -> Result<Answer, ArmError> {
        // Calls that take no body do not look at one.
        let bare = matches!(
            verb,
            "failovercommit" | "failovercancel" | "repairreplication"
        );
        let body = if bare { Value::Null } else { call.body()? };
        let order = match verb {
            "plannedfailover" => self.planned(key, &body["properties"])?,
            "unplannedfailover" => self.unplanned(key, &body["properties"])?,
            "failovercommit" => Order::new(self.commit_of(key)),
            "failovercancel" => return Err(unsupported()),
            "reprotect" => self.reprotect(key, &body["properties"])?,
            "testfailover" => self.test(&body["properties"])?,
            "testfailovercleanup" => Order {
                comments: body["properties"]["comments"].as_str().map(str::to_owned),
                ..Order::new(Scenario::TestFailoverCleanup)
            },
            "applyrecoverypoint" => self.point(key, &body["properties"])?,
            "repairreplication" => Order::new(Scenario::RepairReplication),
            "remove" => Order::new(Scenario::DisableDr),
            _ => return Err(no_route(call)),
        };
        let started = self.start_item(&order, key, call.now);
        Ok(self.accepted(call, &started))
    }

    fn location_of(&self, key: &str) -> Option<Location> {
        (self.state.items.get(key)).map(|item| item.location(&self.settings.assumptions))
    }

    fn planned(&self, key: &str, properties: &Value) -> Result<Order, ArmError> {
        let details = &properties["providerSpecificDetails"];
        if direction(properties)? == Direction::ToAzure {
            instance(details, "HyperVReplicaAzure")?;
            self.known_point(key, details)?;
            return Ok(Order {
                key: has_key(details),
                ..Order::new(Scenario::PlannedFailover)
            });
        }
        instance(details, "HyperVReplicaAzureFailback")?;
        let mut failback = failback(details)?;
        if let Some(id) = details["providerIdForAlternateRecovery"]
            .as_str()
            .filter(|id| !id.is_empty())
        {
            failback.provider = Some(self.alternate(key, id)?);
        }
        Ok(Order {
            failback,
            ..Order::new(Scenario::Failback)
        })
    }

    /// The name of the provider on another host of the item's site.
    fn alternate(&self, key: &str, id: &str) -> Result<String, ArmError> {
        let item = self.state.items.get(key);
        let fabric = item
            .and_then(|item| self.state.fabric(&item.fabric))
            .ok_or_else(|| no_resource(key))?;
        if fabric.kind != FabricKind::HyperVSite {
            return Err(bad_parameter(
                "An alternate recovery location is possible in a Hyper-V site only.",
            ));
        }
        let home = format!(
            "{}/replicationFabrics/{}/replicationRecoveryServicesProviders/",
            self.vault_id(),
            fabric.name
        );
        let name = (id.get(..home.len()))
            .filter(|start| start.eq_ignore_ascii_case(&home))
            .map_or("", |_| &id[home.len()..]);
        let provider = fabric.provider(name).ok_or_else(|| {
            bad_parameter(&format!(
                "There is no provider '{id}' in the site of the virtual machine."
            ))
        })?;
        Ok(provider.name.clone())
    }

    fn known_point(&self, key: &str, details: &Value) -> Result<Option<String>, ArmError> {
        let Some(id) = details["recoveryPointId"]
            .as_str()
            .filter(|id| !id.is_empty())
        else {
            return Ok(None);
        };
        let name = id.rsplit('/').next().unwrap_or(id);
        self.get_point(key, name)?;
        Ok(Some(name.to_owned()))
    }

    fn unplanned(&self, key: &str, properties: &Value) -> Result<Order, ArmError> {
        let details = &properties["providerSpecificDetails"];
        if direction(properties)? != Direction::ToAzure {
            return Err(bad_direction());
        }
        instance(details, "HyperVReplicaAzure")?;
        let stops = match properties["sourceSiteOperations"].as_str() {
            Some("Required") => true,
            None | Some("NotRequired") => false,
            Some(_) => {
                let what = "The value of 'sourceSiteOperations' is not valid.";
                return Err(bad_parameter(what));
            }
        };
        Ok(Order {
            key: has_key(details),
            stops,
            point: self.known_point(key, details)?,
            ..Order::new(Scenario::UnplannedFailover)
        })
    }

    fn reprotect(&self, key: &str, properties: &Value) -> Result<Order, ArmError> {
        // Towards the premises is a direction only for a VM that is not there.
        if direction(properties)? == Direction::ToPremises
            && self.location_of(key) == Some(Location::Primary)
        {
            return Err(bad_direction());
        }
        instance(&properties["providerSpecificDetails"], "HyperVReplicaAzure")?;
        Ok(Order::new(Scenario::Reprotect))
    }

    fn test(&self, properties: &Value) -> Result<Order, ArmError> {
        if direction(properties)? != Direction::ToAzure {
            return Err(bad_direction());
        }
        let details = &properties["providerSpecificDetails"];
        instance(details, "HyperVReplicaAzure")?;
        Ok(Order {
            key: has_key(details),
            ..Order::new(Scenario::TestFailover)
        })
    }

    fn point(&self, key: &str, properties: &Value) -> Result<Order, ArmError> {
        instance(&properties["providerSpecificDetails"], "HyperVReplicaAzure")?;
        let point = self.known_point(key, properties)?;
        if point.is_none() {
            return Err(bad_parameter("The value of 'recoveryPointId' is missing."));
        }
        Ok(Order {
            point,
            ..Order::new(Scenario::ChangePit)
        })
    }
}

/// The answer to what Hyper-V items cannot do.
pub(crate) fn unsupported() -> ArmError {
    ArmError::detailed(
        (400, "BadRequest"),
        "OperationNotSupported",
        "The operation is not supported for the replication provider 'HyperVReplicaAzure'.",
        "The operation exists for other replication providers only.",
        "Check which operations the protected item allows.",
    )
}
