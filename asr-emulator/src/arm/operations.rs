//! Jobs and asynchronous operations as a client asks about them.

use serde_json::{Value, json};

use crate::arm::errors::{ArmError, no_resource, operation_error};
use crate::arm::filter::JobFilter;
use crate::arm::{Answer, Call, no_route};
use crate::jobs::steer::Steer;
use crate::jobs::{JobState, Operation};
use crate::service::Service;
use crate::wire::{Response, encoded, moment, second};

impl Service {
    pub(crate) fn list_jobs(&self, call: &Call) -> Result<Answer, ArmError> {
        let filter = JobFilter::of(call)?;
        let assumed = &self.settings.assumptions;
        let token = (call.request.parameter("$skipToken"))
            .or_else(|| call.request.parameter("skipToken"))
            .and_then(|token| token.parse::<usize>().ok());
        let size = self.settings.page_size.max(1);
        let mut places = (self.state.jobs.iter().enumerate().rev())
            .filter(|(place, job)| {
                token.is_none_or(|token| *place < token)
                    && (job.start.is_some()
                        || (assumed.job_listed_before_start
                            && !job.automatic
                            && job.parent.is_none()))
                    && !job.purged
                    && filter.keeps(job)
            })
            .map(|(place, _)| place);
        let mut value = Vec::new();
        let mut last = None;
        for place in places.by_ref().take(size) {
            value.push(self.job_line_or_placeholder(place));
            last = Some(place);
        }
        let more = places.next().is_some() || self.settings.empty_last_page;
        let next = last.filter(|_| more).map(|last| {
            let narrowed = call
                .request
                .parameter("$filter")
                .map(|filter| format!("&$filter={}", encoded(&filter)))
                .unwrap_or_default();
            format!(
                "{}{}/replicationJobs?api-version={}{narrowed}&$skipToken={last}",
                crate::identity::base_of(call.request),
                self.vault_id(),
                call.version
            )
        });
        Ok(json!({ "value": value, "nextLink": next }).into())
    }

    fn job_line_or_placeholder(&self, place: usize) -> Value {
        if self.state.jobs[place].state == JobState::NotStarted {
            self.job_view(place)
        } else {
            self.job_line(place)
        }
    }

    pub(crate) fn get_job(&self, call: &Call, name: &str) -> Result<Answer, ArmError> {
        let place = self
            .state
            .job_place(name)
            .ok_or_else(|| no_resource(name))?;
        let job = &self.state.jobs[place];
        if job.purged || (job.automatic && job.start.is_none()) {
            return Err(no_resource(name));
        }
        let mut view = self.job_view(place);
        // The older versions poll an operation as a job: its members stand beside `properties`.
        if call.old()
            && self
                .state
                .operations
                .contains_key(&name.to_ascii_lowercase())
        {
            let status = self.status_view(&name.to_ascii_lowercase());
            for member in ["status", "error", "startTime", "endTime"] {
                view[member] = status[member].clone();
            }
        }
        Ok(view.into())
    }

    pub(crate) fn steer_job(
        &mut self,
        call: &Call,
        name: &str,
        verb: &str,
    ) -> Result<Answer, ArmError> {
        let steer = match verb {
            "cancel" => Steer::Cancel,
            "resume" => Steer::Resume,
            "restart" => Steer::Restart,
            _ => return Err(no_route(call)),
        };
        let place = (self
            .state
            .job_places
            .get(&name.to_ascii_lowercase())
            .copied())
        .filter(|place| !self.state.jobs[*place].purged)
        .ok_or_else(|| no_resource(name))?;
        let body = if steer == Steer::Resume {
            call.body()?
        } else {
            Value::Null
        };
        let comments = body["properties"]["comments"].as_str().map(str::to_owned);
        let state = self.state.jobs[place].state;
        let started = self
            .steer(place, steer, comments, call.now)
            .ok_or_else(|| {
                let detail = if steer == Steer::Restart && state == JobState::Succeeded {
                    "CannotRemediateSucceededWorkflow"
                } else {
                    "JobActionNotAllowed"
                };
                ArmError::detailed(
                    (400, "BadRequest"),
                    detail,
                    &format!(
                        "The action '{}' is not possible for a job in the state '{}'.",
                        steer.word(),
                        state.word()
                    ),
                    "The job has moved on, or does not allow the action.",
                    "Check the actions the job allows.",
                )
            })?;
        Ok(self.accepted(call, &started))
    }

    /// The word for an operation's state.
    fn operation_word(&self, operation: &Operation) -> &'static str {
        if operation.instant {
            return "Succeeded";
        }
        match self.state.jobs[operation.job].state {
            JobState::NotStarted => "NotStarted",
            JobState::Suspended if self.settings.assumptions.operation_ends_at_pause => "Succeeded",
            JobState::InProgress | JobState::Suspended | JobState::Cancelling => "InProgress",
            JobState::Succeeded => "Succeeded",
            JobState::Failed => "Failed",
            JobState::Cancelled => "Canceled",
        }
    }

    fn status_view(&self, id: &str) -> Value {
        let Some(operation) = self.state.operations.get(id) else {
            return Value::Null;
        };
        let job = &self.state.jobs[operation.job];
        let word = self.operation_word(operation);
        let failure = (job.errors.first())
            .filter(|_| word == "Failed")
            .map(|(_, _, error)| operation_error(&error.code, &error.message));
        let warning = (operation.warning.as_ref())
            .filter(|_| word != "NotStarted")
            .map(|(code, message)| operation_error(code, message));
        json!({
            "error": failure.or(warning),
            "id": null,
            "name": operation.id,
            "properties": null,
            "status": word,
            "startTime": job.start.map(moment),
            "endTime": (job.end.filter(|_| job.state.over()))
                .map(|end| second(end).replace('Z', ".0000000Z")),
            "percentComplete": null,
        })
    }

    pub(crate) fn operation_status(&self, id: &str) -> Result<Answer, ArmError> {
        let id = id.to_ascii_lowercase();
        if self.state.operations.contains_key(&id) {
            Ok(self.status_view(&id).into())
        } else {
            Err(no_resource(&id))
        }
    }

    /// What the resource is after the operation; accepted as before while it goes on.
    pub(crate) fn operation_result(&self, call: &Call) -> Result<Answer, ArmError> {
        let id = call
            .path
            .last()
            .map(|id| id.to_ascii_lowercase())
            .unwrap_or_default();
        let operation = self
            .state
            .operations
            .get(&id)
            .ok_or_else(|| no_resource(&id))?;
        let word = self.operation_word(operation);
        if matches!(word, "NotStarted" | "InProgress") {
            let mut response = Response::empty(202);
            for (name, value) in self.operation_headers(call, &id) {
                response = response.with(&name, &value);
            }
            return Ok(response.into());
        }
        let job = &self.state.jobs[operation.job];
        if word == "Failed" && self.settings.assumptions.failed_result_is_error {
            if let Some((_, _, error)) = job.errors.first() {
                return Err(ArmError::detailed(
                    (400, "BadRequest"),
                    &error.code,
                    &error.message,
                    &error.possible_causes,
                    &error.recommended_action,
                ));
            }
        }
        if operation.deletes {
            return Ok(Response::empty(204).into());
        }
        let segments: Vec<&str> = operation.resource.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["replicationJobs", name] => self.get_job(call, name),
            ["replicationRecoveryPlans", name] => self.get_plan(name),
            ["replicationFabrics", fabric, _, name] => self.get_provider(fabric, name),
            ["replicationFabrics", fabric, _, container, _, item] => {
                let key = self.item_at(fabric, container, item)?;
                Ok(self.item_view(&key).into())
            }
            _ => Err(no_resource(&id)),
        }
    }
}
