//! The token endpoint, and what a token allows.
//!
//! Everything is compared with what the seed registered; nothing is fetched and no real identity is known here.

mod assertion;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::arm::errors::ArmError;
use crate::seed::Principal;
use crate::service::Service;
use crate::state::Token;
use crate::wire::{Request, Response, form, second};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A refusal of the token endpoint.
struct Refusal {
    status: u16,
    error: &'static str,
    code: u32,
    text: String,
}

fn refuse(status: u16, error: &'static str, code: u32, text: &str) -> Refusal {
    Refusal {
        status,
        error,
        code,
        text: text.into(),
    }
}

/// Whether `pattern`, in which `*` stands for any text, is all of `text`.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Principal {
    /// Whether the principal may do that.
    #[must_use]
    pub fn may(&self, action: &str) -> bool {
        self.actions.iter().any(|granted| matches(granted, action))
            && !self.not_actions.iter().any(|taken| matches(taken, action))
    }
}

impl Service {
    /// Answers at `/{tenant}/...`, or nothing when the path is not one of those.
    pub(crate) fn identity(&mut self, request: &Request, now: Timestamp) -> Option<Response> {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), path.as_slice()) {
            ("POST", [tenant, "oauth2", "v2.0", "token"]) => {
                Some(match self.token(request, tenant, now) {
                    Ok(response) => response,
                    Err(refusal) => {
                        let trace = self.state.ids.next();
                        let description = format!(
                            "AADSTS{}: {} Trace ID: {trace} Timestamp: {}",
                            refusal.code,
                            refusal.text,
                            second(now)
                        );
                        Response::json(
                            refusal.status,
                            &json!({
                                "error": refusal.error,
                                "error_description": description,
                                "error_codes": [refusal.code],
                                "timestamp": second(now),
                                "trace_id": trace,
                                "correlation_id": self.state.ids.next(),
                            }),
                        )
                    }
                })
            }
            ("GET", [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
                let base = base_of(request);
                Some(Response::json(
                    200,
                    &json!({
                        "issuer": format!("{base}/{tenant}/v2.0"),
                        "token_endpoint": format!("{base}/{tenant}/oauth2/v2.0/token"),
                        "token_endpoint_auth_methods_supported":
                            ["client_secret_post", "private_key_jwt"],
                    }),
                ))
            }
            _ => None,
        }
    }

    fn token(
        &mut self,
        request: &Request,
        tenant: &str,
        now: Timestamp,
    ) -> Result<Response, Refusal> {
        let text = String::from_utf8_lossy(&request.body);
        let pairs = form(&text);
        let field = |name: &str| {
            (pairs.iter().find(|(key, _)| key == name)).map_or("", |(_, value)| value.as_str())
        };
        if !tenant.eq_ignore_ascii_case(&self.state.tenant) {
            let text = format!("Tenant '{tenant}' not found.");
            return Err(refuse(400, "invalid_request", 90002, &text));
        }
        if field("grant_type") != "client_credentials" {
            let text = "The app requested an unsupported grant type.";
            return Err(refuse(400, "unsupported_grant_type", 70003, text));
        }
        if !field("scope").ends_with("/.default") {
            let text = "The provided value for scope is not valid. Client credential flows must have a scope value with /.default.";
            return Err(refuse(400, "invalid_scope", 1_002_012, text));
        }
        let client = field("client_id");
        let principal = (self.state.principals.iter())
            .find(|principal| principal.client_id.eq_ignore_ascii_case(client))
            .ok_or_else(|| {
                let text = format!(
                    "Application with identifier '{client}' was not found in the directory."
                );
                refuse(400, "unauthorized_client", 700_016, &text)
            })?;
        let (given, kind) = (field("client_assertion"), field("client_assertion_type"));
        if given.is_empty() {
            if !(principal.secrets.iter()).any(|secret| secret == field("client_secret")) {
                let text = "Invalid client secret provided.";
                return Err(refuse(401, "invalid_client", 7_000_215, text));
            }
        } else if kind != JWT_BEARER {
            let text = "The client assertion type is not supported.";
            return Err(refuse(400, "invalid_request", 50027, text));
        } else if !principal
            .federated_tokens
            .iter()
            .any(|token| token == given)
        {
            let clock = self.strict_time.then_some(now);
            assertion::check(principal, tenant, given, clock)
                .map_err(|wrong| refuse(401, "invalid_client", wrong.code, &wrong.text))?;
        }
        let token = self.state.ids.token();
        let lifetime = self.settings.token_lifetime;
        let client_id = principal.client_id.clone();
        // Tokens are few; those that have expired long ago serve nobody.
        let forgotten = now - SignedDuration::from_hours(24);
        self.state
            .tokens
            .retain(|_, token| token.expires > forgotten);
        let expires =
            now + SignedDuration::from_secs(i64::from(lifetime) * i64::from(self.token_scale));
        self.state
            .tokens
            .insert(token.clone(), Token { client_id, expires });
        Ok(Response::json(
            200,
            &json!({
                "token_type": "Bearer",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
                "access_token": token,
            }),
        )
        .with("cache-control", "no-store, no-cache"))
    }

    /// The principal whose token the request carries.
    pub(crate) fn admit(&self, request: &Request, now: Timestamp) -> Result<&Principal, ArmError> {
        let challenge = |code: &str, text: String| {
            let challenge = format!(
                "Bearer authorization_uri=\"{}/{}\", error=\"invalid_token\", error_description=\"{text}\"",
                base_of(request),
                self.state.tenant
            );
            ArmError::new(401, code, &text).with("www-authenticate", &challenge)
        };
        let Some(given) = request.get("authorization") else {
            let text = "Authentication failed. The 'Authorization' header is missing.";
            return Err(challenge("AuthenticationFailed", text.into()));
        };
        let token = (given.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .and_then(|(_, token)| self.state.tokens.get(token.trim()));
        let Some(token) = token else {
            let text = "The access token is invalid.";
            return Err(challenge("InvalidAuthenticationToken", text.into()));
        };
        if token.expires <= now {
            let text = format!(
                "The access token expiry UTC time '{}' is earlier than current UTC time '{}'.",
                second(token.expires),
                second(now)
            );
            return Err(challenge("ExpiredAuthenticationToken", text));
        }
        (self.state.principals.iter())
            .find(|principal| principal.client_id == token.client_id)
            .ok_or_else(|| {
                let text = "The access token is of a principal that is gone.";
                challenge("InvalidAuthenticationToken", text.into())
            })
    }
}

/// The address at which the client sees the emulator.
pub(crate) fn base_of(request: &Request) -> String {
    format!(
        "https://{}",
        request.get("host").unwrap_or("management.example.test")
    )
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("*", "A/b/read"));
        assert!(matches("A/*/action", "a/b/c/action"));
        assert!(matches("a/b", "A/B"));
        assert!(!matches("a/b", "a/b/c"));
        assert!(!matches("a/*/write", "a/b/read"));
    }
}
