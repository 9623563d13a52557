//! The resource manager: who may ask, for which version, of which vault, and who answers.

pub(crate) mod actions;
pub(crate) mod errors;
mod fabrics;
mod filter;
mod item_actions;
mod items;
mod lists;
mod operations;
mod plans;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::arm::errors::{ArmError, bad_body};
use crate::identity::base_of;
use crate::jobs::start::Started;
use crate::service::Service;
use crate::wire::{Request, Response, decoded};

/// The versions of the service that are spoken.
pub(crate) const VERSIONS: [&str; 4] = ["2018-01-10", "2022-08-01", "2024-04-01", "2025-08-01"];

/// An answer and the job that came of the request.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) job: Option<String>,
}

impl From<Value> for Answer {
    fn from(body: Value) -> Self {
        Response::json(200, &body).into()
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            response,
            job: None,
        }
    }
}

/// A request to the vault, taken apart.
pub(crate) struct Call<'a> {
    pub(crate) request: &'a Request,
    pub(crate) now: Timestamp,
    pub(crate) version: String,
    /// The segments below the vault, as they were written.
    pub(crate) path: Vec<String>,
}

impl Call<'_> {
    /// Whether the version is one of those that show the operation as a job.
    fn old(&self) -> bool {
        self.version.as_str() < "2022"
    }

    /// The body; none when it is empty.
    pub(crate) fn body(&self) -> Result<Value, ArmError> {
        if self.request.body.is_empty() {
            return Ok(Value::Null);
        }
        let json = (self.request.get("content-type")).is_some_and(|kind| kind.contains("json"));
        if !json {
            return Err(ArmError::new(
                415,
                "UnsupportedMediaType",
                "The content media type is not supported. Only 'application/json' is supported.",
            ));
        }
        let body: Value = serde_json::from_slice(&self.request.body)
            .map_err(|error| bad_body(&error.to_string()))?;
        if body.is_object() {
            Ok(body)
        } else {
            Err(bad_body("an object is expected"))
        }
    }
}

impl Service {
    pub(crate) fn arm(
        &mut self,
        request: &Request,
        now: Timestamp,
        admitted: bool,
    ) -> Result<Answer, ArmError> {
        let principal = if admitted {
            None
        } else {
            Some(self.admit(request, now)?.clone())
        };
        if !admitted {
            self.take(&request.method, now)?;
        }
        let version = request.api_version().ok_or_else(|| {
            ArmError::new(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        })?;
        let path = self.below_vault(&request.path)?;
        let call = Call {
            request,
            now,
            version,
            path,
        };
        let low: Vec<String> = (call.path.iter())
            .map(|segment| segment.to_ascii_lowercase())
            .collect();
        let low: Vec<&str> = low.iter().map(String::as_str).collect();
        if low == ["providers", "microsoft.authorization", "permissions"] {
            return self.permissions(&call, principal.as_ref());
        }
        check_version(&call)?;
        if let Some(principal) = principal {
            let action = actions::action(&request.method, &call.path);
            if !principal.may(&action) {
                return Err(ArmError::new(
                    403,
                    "AuthorizationFailed",
                    &format!(
                        "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope '{}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
                        principal.client_id, principal.object_id, request.path
                    ),
                ));
            }
        }
        let mut answer = self.route(&call, &low)?;
        if self.settings.legacy_casing {
            lists::legacy(&mut answer.response);
        }
        Ok(answer)
    }

    /// The segments of the path below the vault.
    fn below_vault(&self, path: &str) -> Result<Vec<String>, ArmError> {
        let all: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let vault = &self.state.vault;
        let wanted = [
            "subscriptions",
            &vault.subscription,
            "resourceGroups",
            &vault.resource_group,
            "providers",
            "Microsoft.RecoveryServices",
            "vaults",
            &vault.name,
        ];
        let same = |at: usize| {
            (all.get(at)).is_some_and(|segment| segment.eq_ignore_ascii_case(wanted[at]))
        };
        let shaped = all.len() >= wanted.len() && [0, 2, 4, 5, 6].into_iter().all(same);
        if !shaped {
            return Err(ArmError::new(
                404,
                "InvalidResourceType",
                "The resource type could not be found in the namespace.",
            ));
        }
        if [1, 3, 7].into_iter().all(same) {
            return Ok(all[wanted.len()..].to_vec());
        }
        Err(ArmError::new(
            404,
            "ResourceNotFound",
            &format!(
                "The Resource 'Microsoft.RecoveryServices/vaults/{}' under resource group '{}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
                all[7], all[3]
            ),
        ))
    }

    fn permissions(
        &self,
        call: &Call,
        principal: Option<&crate::seed::Principal>,
    ) -> Result<Answer, ArmError> {
        if !["2015-07-01", "2018-07-01", "2022-04-01"].contains(&call.version.as_str()) {
            return Err(unknown_version(&call.version, "permissions"));
        }
        let none = Vec::new();
        let (actions, not) = principal.map_or((&none, &none), |principal| {
            (&principal.actions, &principal.not_actions)
        });
        Ok(json!({
            "value": [{
                "actions": actions,
                "notActions": not,
                "dataActions": [],
                "notDataActions": [],
            }],
            "nextLink": null,
        })
        .into())
    }

    /// The answer to an accepted request: no body, and two addresses at which to ask about it.
    pub(crate) fn accepted(&self, call: &Call, started: &Started) -> Answer {
        let mut response = Response::empty(202);
        for (name, value) in self.operation_headers(call, &started.operation) {
            response = response.with(&name, &value);
        }
        Answer {
            response,
            job: Some(self.state.jobs[started.job].name.clone()),
        }
    }

    pub(crate) fn operation_headers(&self, call: &Call, operation: &str) -> Vec<(String, String)> {
        let base = format!("{}{}", base_of(call.request), self.vault_id());
        let version = &call.version;
        let resource = (self.state.operations.get(operation))
            .map_or("", |operation| operation.resource.as_str());
        let status = if call.old() {
            "replicationJobs"
        } else {
            "replicationOperationStatus"
        };
        let mut headers = vec![
            (
                "location".to_owned(),
                format!("{base}{resource}/operationresults/{operation}?api-version={version}"),
            ),
            (
                "azure-asyncoperation".to_owned(),
                format!("{base}/{status}/{operation}?api-version={version}"),
            ),
        ];
        // The older versions always named a time.
        let wait = self.settings.retry_after.or(call.old().then_some(30));
        if let Some(seconds) = wait {
            headers.push(("retry-after".to_owned(), seconds.to_string()));
        }
        headers
    }

    /// Adds the headers that every answer has.
    pub(crate) fn dress(
        &mut self,
        request: &Request,
        now: Timestamp,
        response: Response,
    ) -> Response {
        let id = self.state.ids.next();
        let (limit, left) = self.remaining(&request.method);
        let response = errors::traced(response, request, &id);
        let mut response = response
            .with("x-ms-request-id", &id)
            .with("x-ms-correlation-request-id", &id)
            .with("server", "Kestrel")
            .with(
                "date",
                &now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            );
        if response.get("cache-control").is_none() {
            response = response.with("cache-control", "no-cache");
        }
        if let Some(id) = request.get("x-ms-client-request-id") {
            response = response.with("x-ms-client-request-id", id);
        }
        if request
            .path
            .to_ascii_lowercase()
            .starts_with("/subscriptions")
        {
            response = response.with(&limit, &left.to_string());
        }
        response
    }

    fn route(&mut self, call: &Call, low: &[&str]) -> Result<Answer, ArmError> {
        let method = call.request.method.as_str();
        let at = |place: usize| call.path[place].as_str();
        match (method, low) {
            ("GET", []) => Ok(self.vault_view().into()),
            ("GET", ["replicationprotecteditems"]) => self.list_items(call, None),
            ("GET", ["replicationfabrics"]) => Ok(self.list_fabrics()),
            ("GET", ["replicationfabrics", _]) => self.get_fabric(at(1)),
            ("GET", ["replicationprotectioncontainers"]) => Ok(self.list_containers(None)),
            ("GET", ["replicationrecoveryservicesproviders"]) => Ok(self.list_providers(None)),
            ("GET", ["replicationvaulthealth"])
            | ("POST", ["replicationvaulthealth", _, "refresh"]) => Ok(self.vault_health()),
            ("GET", ["replicationpolicies"]) => Ok(self.list_policies()),
            ("GET", ["replicationpolicies", _]) => self.get_policy(at(1)),
            ("GET", ["replicationevents"]) => Ok(json!({ "value": [], "nextLink": null }).into()),
            ("GET", ["replicationjobs"]) => self.list_jobs(call),
            ("GET", ["replicationjobs", _]) => self.get_job(call, at(1)),
            ("POST", ["replicationjobs", _, verb]) => self.steer_job(call, at(1), verb),
            ("GET", ["replicationoperationstatus", _]) => self.operation_status(at(1)),
            ("GET", [.., "operationresults", _]) => self.operation_result(call),
            ("GET", ["replicationrecoveryplans"]) => Ok(self.list_plans()),
            ("GET", ["replicationrecoveryplans", _]) => self.get_plan(at(1)),
            ("POST", ["replicationrecoveryplans", _, verb]) => self.plan_action(call, at(1), verb),
            (_, ["replicationfabrics", _, rest @ ..]) => self.route_fabric(call, rest),
            _ => Err(no_route(call)),
        }
    }

    fn route_fabric(&mut self, call: &Call, low: &[&str]) -> Result<Answer, ArmError> {
        let method = call.request.method.as_str();
        let at = |place: usize| call.path[place].as_str();
        let fabric = at(1);
        match (method, low) {
            ("GET", ["replicationprotectioncontainers"]) => {
                self.get_fabric(fabric)?;
                Ok(self.list_containers(Some(fabric)))
            }
            ("GET", ["replicationrecoveryservicesproviders"]) => {
                self.get_fabric(fabric)?;
                Ok(self.list_providers(Some(fabric)))
            }
            ("GET", ["replicationrecoveryservicesproviders", _]) => {
                self.get_provider(fabric, at(3))
            }
            ("POST", ["replicationrecoveryservicesproviders", _, "refreshprovider"]) => {
                self.refresh_provider(call, fabric, at(3))
            }
            ("GET", ["replicationprotectioncontainers", _]) => self.get_container(fabric, at(3)),
            (
                "GET",
                [
                    "replicationprotectioncontainers",
                    _,
                    "replicationprotecteditems",
                ],
            ) => {
                self.get_container(fabric, at(3))?;
                self.list_items(call, Some((fabric, at(3))))
            }
            (
                "GET",
                [
                    "replicationprotectioncontainers",
                    _,
                    "replicationprotectableitems",
                ],
            ) => {
                self.get_container(fabric, at(3))?;
                Ok(self.list_protectable(call, fabric, at(3)))
            }
            (
                "GET",
                [
                    "replicationprotectioncontainers",
                    _,
                    "replicationprotectableitems",
                    _,
                ],
            ) => self.get_protectable(fabric, at(3), at(5)),
            (
                _,
                [
                    "replicationprotectioncontainers",
                    _,
                    "replicationprotecteditems",
                    _,
                    rest @ ..,
                ],
            ) => {
                let key = self.item_at(fabric, at(3), at(5))?;
                self.route_item(call, &key, rest)
            }
            _ => Err(no_route(call)),
        }
    }

    fn route_item(&mut self, call: &Call, key: &str, low: &[&str]) -> Result<Answer, ArmError> {
        match (call.request.method.as_str(), low) {
            ("GET", []) => Ok(self.item_view(key).into()),
            ("DELETE", []) => self.item_action(call, key, "remove"),
            ("GET", ["recoverypoints"]) => Ok(self.list_points(key)),
            ("GET", ["recoverypoints", name]) => self.get_point(key, name),
            ("POST", [verb]) => self.item_action(call, key, verb),
            _ => Err(no_route(call)),
        }
    }
}

pub(crate) fn no_route(call: &Call) -> ArmError {
    if call.request.method == "GET" {
        ArmError::new(
            404,
            "InvalidResourceType",
            &format!(
                "The resource type '{}' could not be found in the namespace 'Microsoft.RecoveryServices' for api version '{}'.",
                actions::kind(&call.path),
                call.version
            ),
        )
    } else {
        ArmError::new(
            405,
            "HttpMethodNotSupported",
            &format!(
                "The emulator has no {} at this address.",
                call.request.method
            ),
        )
    }
}

fn unknown_version(version: &str, kind: &str) -> ArmError {
    let dated = version.len() >= 10 && version.as_bytes()[4] == b'-';
    let known = VERSIONS.join(", ");
    if dated {
        ArmError::new(
            400,
            "NoRegisteredProviderFound",
            &format!(
                "No registered resource provider found for location 'global' and API version '{version}' for type '{kind}'. The supported api-versions are '{known}'."
            ),
        )
    } else {
        ArmError::new(
            400,
            "InvalidApiVersionParameter",
            &format!(
                "The api-version '{version}' is invalid. The supported versions are '{known}'."
            ),
        )
    }
}

fn check_version(call: &Call) -> Result<(), ArmError> {
    if VERSIONS.contains(&call.version.as_str()) {
        return Ok(());
    }
    Err(unknown_version(
        &call.version,
        &format!("vaults/{}", actions::kind(&call.path)),
    ))
}
