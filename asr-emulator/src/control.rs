//! `/_emulator/...`: what tests may do over the wire. No path of the resource manager begins like this.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::faults::{JobFailure, OperationWarning, Rule};
use crate::portal::Button;
use crate::service::Service;
use crate::settings::Settings;
use crate::wire::{Request, Response};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Silence {
    /// A provider, by its name or its host's.
    provider: String,
    connected: bool,
    /// How old its last heartbeat is.
    #[serde(default)]
    silent_seconds: i64,
    /// The service goes on calling it connected.
    #[serde(default)]
    unnoticed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Denial {
    action: String,
    denied: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    item: String,
    health: Option<String>,
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, String> {
    serde_json::from_slice(&request.body).map_err(|error| error.to_string())
}

impl Service {
    pub(crate) fn control(&mut self, request: &Request, now: Timestamp) -> Response {
        match self.controlled(request, now) {
            Ok(Some(value)) => Response::json(200, &value),
            Ok(None) => {
                Response::json(404, &json!({ "error": "the emulator has no such control" }))
            }
            Err(error) => Response::json(400, &json!({ "error": error })),
        }
    }

    fn controlled(&mut self, request: &Request, now: Timestamp) -> Result<Option<Value>, String> {
        let path = request.path.trim_matches('/').split('/').skip(1);
        let path: Vec<&str> = path.collect();
        let done = Ok(Some(json!({ "done": true })));
        match (request.method.as_str(), path.as_slice()) {
            ("GET", ["requests"]) => Ok(Some(json!({ "value": self.records }))),
            ("DELETE", ["requests"]) => {
                self.forget_requests();
                done
            }
            ("GET", ["violations"]) => Ok(Some(json!({ "value": self.state.violations }))),
            ("GET", ["machines"]) => {
                let machines: Vec<Value> = self.machines().map(|machine| json!(machine)).collect();
                Ok(Some(json!({ "value": machines })))
            }
            ("GET", ["machines", name]) => Ok(self.machine(name).map(|machine| json!(machine))),
            ("GET", ["time"]) => Ok(Some(json!({ "now": now.to_string() }))),
            ("GET", ["vault"]) => Ok(Some(json!({
                "id": self.vault_id(),
                "path": self.vault().path(),
                "tenant": self.tenant(),
            }))),
            ("GET", ["settings"]) => Ok(Some(json!(self.settings))),
            ("PUT", ["settings"]) => {
                self.settings = read::<Settings>(request)?;
                done
            }
            ("PUT", ["assumptions"]) => {
                self.settings.assumptions = read(request)?;
                done
            }
            ("GET", ["faults"]) => Ok(Some(json!({
                "rules": self.state.rules,
                "jobs": self.state.failures,
                "warnings": self.state.warnings,
            }))),
            ("POST", ["faults"]) => {
                self.add_rule(read::<Rule>(request)?)?;
                done
            }
            ("POST", ["faults", "job"]) => {
                self.fail_job(read::<JobFailure>(request)?);
                done
            }
            ("POST", ["faults", "warning"]) => {
                self.warn(read::<OperationWarning>(request)?);
                done
            }
            ("DELETE", ["faults"]) => {
                self.clear_faults();
                done
            }
            ("GET", ["held"]) => Ok(Some(json!({ "value": self.state.held.iter()
                .map(|held| json!({
                    "number": held.number,
                    "came": held.came,
                    "acts": held.acts,
                    "method": held.request.method,
                    "path": held.request.path,
                }))
                .collect::<Vec<_>>() }))),
            ("POST", ["held", "release"]) => {
                let released = self.release(None, now);
                Ok(Some(json!({ "released": released })))
            }
            ("POST", ["held", number, "release"]) => {
                let number = number.parse().map_err(|_| "not a number".to_owned())?;
                let released = self.release(Some(number), now);
                Ok(Some(json!({ "released": released })))
            }
            ("POST", ["providers"]) => {
                let order: Silence = read(request)?;
                let since = now - SignedDuration::from_secs(order.silent_seconds);
                let since = (!order.connected).then_some(since);
                let found = if order.unnoticed {
                    self.silence_unnoticed(&order.provider, since)
                } else {
                    self.silence(&order.provider, since)
                };
                Ok(found.then(|| json!({ "done": true })))
            }
            ("POST", ["jobs", job, "purge"]) => {
                let found = self.purge_job(job);
                Ok(found.then(|| json!({ "done": true })))
            }
            ("POST", ["permissions"]) => {
                let order: Denial = read(request)?;
                self.deny(&order.action, order.denied);
                done
            }
            ("POST", ["tokens", "revoke"]) => {
                self.revoke_tokens();
                done
            }
            ("POST", ["health"]) => {
                let order: Health = read(request)?;
                let found = self.set_health(&order.item, order.health.as_deref());
                Ok(found.then(|| json!({ "done": true })))
            }
            ("POST", ["portal"]) => {
                let job = self.press(&read::<Button>(request)?, now)?;
                Ok(Some(json!({ "job": job })))
            }
            ("POST", ["portal", press]) => {
                let mut body: Value = read(request)?;
                body["press"] = (*press).into();
                let button = serde_json::from_value(body).map_err(|error| error.to_string())?;
                let job = self.press(&button, now)?;
                Ok(Some(json!({ "job": job })))
            }
            _ => Ok(None),
        }
    }
}
