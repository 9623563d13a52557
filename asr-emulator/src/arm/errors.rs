//! Refusals in the words of the resource manager and of the service.

use serde_json::{Value, json};

use crate::wire::{Request, Response};

/// What the service itself adds to a refusal.
#[derive(Clone, Debug)]
struct Detail {
    code: String,
    causes: String,
    action: String,
}

/// A refusal; boxed, as most calls have none.
#[derive(Clone, Debug)]
pub(crate) struct ArmError(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: u16,
    code: String,
    message: String,
    detail: Option<Detail>,
    headers: Vec<(String, String)>,
}

impl ArmError {
    pub(crate) fn new(status: u16, code: &str, message: &str) -> Self {
        Self(Box::new(Parts {
            status,
            code: code.into(),
            message: message.into(),
            detail: None,
            headers: Vec::new(),
        }))
    }

    /// A refusal by the service behind the resource manager.
    pub(crate) fn detailed(
        (status, code): (u16, &str),
        detail: &str,
        message: &str,
        causes: &str,
        action: &str,
    ) -> Self {
        let mut error = Self::new(status, code, message);
        error.0.detail = Some(Detail {
            code: detail.into(),
            causes: causes.into(),
            action: action.into(),
        });
        error
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn response(self) -> Response {
        let this = self.0;
        let mut error = json!({ "code": this.code, "message": this.message });
        if let Some(detail) = this.detail {
            error["details"] = json!([{
                "code": detail.code,
                "message": this.message,
                "possibleCauses": detail.causes,
                "recommendedAction": detail.action,
                "clientRequestId": "",
                "activityId": "00000000-0000-0000-0000-000000000000",
            }]);
        }
        let mut response = Response::json(this.status, &json!({ "error": error }));
        response.headers.extend(this.headers);
        response
    }
}

pub(crate) fn no_resource(name: &str) -> ArmError {
    ArmError::detailed(
        (404, "NotFound"),
        "ArmResourceDoesNotExist",
        &format!("Specified resource with name '{name}' does not exist."),
        "The name that was given is not the name of a resource.",
        "Check the name of the resource.",
    )
}

pub(crate) fn bad_direction() -> ArmError {
    ArmError::detailed(
        (400, "BadRequest"),
        "InvalidFailoverDirection",
        "Invalid failover direction was specified. Verify input and try operation again.",
        "Invalid parameters were specified.",
        "Verify the input and try again.",
    )
}

pub(crate) fn bad_parameter(what: &str) -> ArmError {
    ArmError::detailed(
        (400, "BadRequest"),
        "InvalidParameter",
        what,
        "Invalid parameters were specified.",
        "Verify the input and try again.",
    )
}

pub(crate) fn bad_body(what: &str) -> ArmError {
    ArmError::new(
        400,
        "InvalidRequestContent",
        &format!("The request content was invalid and could not be deserialized: '{what}'."),
    )
}

pub(crate) fn throttled(kind: &str) -> ArmError {
    ArmError::new(
        429,
        "SubscriptionRequestsThrottled",
        &format!(
            "Number of '{kind}' requests exceeded the limit. Please try again after the time given in the Retry-After header."
        ),
    )
}

/// A failure of the service itself.
pub(crate) fn failing(status: u16) -> ArmError {
    let (code, message) = match status {
        429 => return throttled("Fault"),
        503 => (
            "ServiceUnavailable",
            "The service is temporarily unavailable.",
        ),
        504 => (
            "GatewayTimeout",
            "The gateway did not receive a response in time.",
        ),
        500 => ("InternalServerError", "Encountered internal server error."),
        409 => ("Conflict", "The request conflicts with another one."),
        _ => ("BadRequest", "The request was refused."),
    };
    ArmError::new(status, code, message)
}

/// The body of an operation's error.
pub(crate) fn operation_error(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message, "details": null })
}

/// Names the request in the details of a refusal.
pub(crate) fn traced(mut response: Response, request: &Request, id: &str) -> Response {
    if response.status >= 400 {
        let mut body = response.value();
        if let Some(detail) = body.pointer_mut("/error/details/0") {
            let client = request.get("x-ms-client-request-id").unwrap_or_default();
            detail["clientRequestId"] = client.into();
            detail["activityId"] = id.into();
            response.body = body.to_string().into_bytes();
        }
    }
    response
}
