//! What was asked, and what came of it: secrets are blotted out before anything is kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::service::Service;
use crate::wire::{Request, form};

/// A request that came.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its number, counted from 1.
    pub number: u64,
    /// When it came, or when it acted if it had been held.
    pub at: Timestamp,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query.
    pub query: String,
    /// `api-version`.
    pub api_version: Option<String>,
    /// `x-ms-client-request-id`.
    pub client_request_id: Option<String>,
    /// The body, without secrets.
    pub body: Value,
    /// The status that was answered; none when no answer was sent.
    pub status: Option<u16>,
    /// The fault that befell it.
    pub fault: Option<String>,
    /// Whether it was acted upon.
    pub acted: bool,
    /// The job it made.
    pub job: Option<String>,
}

const BLOT: &str = "***";

/// What a record has of a key certificate, by which a test knows which one was sent.
#[must_use]
pub fn fingerprint(pfx: &str) -> String {
    format!("{BLOT} {}", blake3::hash(pfx.as_bytes()).to_hex())
}

fn secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "password", "pfx", "assertion", "token"]
        .iter()
        .any(|word| name.contains(word) && name != "client_assertion_type")
}

fn blot(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str().filter(|_| name.ends_with("Pfx")) {
                    Some(pfx) => *member = fingerprint(pfx).into(),
                    None if secret(name) && !member.is_null() => *member = BLOT.into(),
                    None => blot(member),
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(blot),
        _ => {}
    }
}

fn body(request: &Request) -> Value {
    if request.body.is_empty() {
        return Value::Null;
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(&request.body) {
        blot(&mut value);
        return value;
    }
    let text = String::from_utf8_lossy(&request.body);
    let pairs = form(&text).into_iter().map(|(name, value)| {
        let value = if secret(&name) { BLOT.into() } else { value };
        (name, Value::from(value))
    });
    Value::Object(pairs.collect())
}

impl Service {
    pub(crate) fn remember(
        &mut self,
        request: &Request,
        at: Timestamp,
        status: Option<u16>,
        fault: Option<&str>,
        job: Option<String>,
        acted: bool,
    ) {
        self.record_count += 1;
        while self.records.len() >= self.settings.remembered_requests.max(1) {
            self.records.pop_front();
        }
        self.records.push_back(Record {
            number: self.record_count,
            at,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            api_version: request.api_version(),
            client_request_id: request.get("x-ms-client-request-id").map(str::to_owned),
            body: body(request),
            status,
            fault: fault.map(str::to_owned),
            acted,
            job,
        });
    }

    /// Every request that is remembered, the oldest first.
    pub fn requests(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&mut self) {
        self.records.clear();
    }
}
