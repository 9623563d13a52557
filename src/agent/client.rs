//! A client of an agent's control API, for the driver and for `homeward vm`.
//!
//! Every call has a deadline. Nothing is retried here: an order is safe to send again with the same step, and whoever
//! sends it knows when.

use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use uuid::Uuid;

use super::api::{HostState, MAX_CONSOLE, Order, OrderAnswer, Refusal};
use super::tls;

/// How long one call may take, its connection included.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read: the state of a host with thousands of VMs.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// URL or certificates cannot be used; somebody has to change them.
    #[error("{0}")]
    Configuration(String),
    /// No connection was made, so nothing was done.
    #[error("{url} cannot be reached: {message}")]
    Unreachable {
        /// The agent.
        url: String,
        /// Why.
        message: String,
    },
    /// The connection broke or took too long: whether it had an effect is not known. Ask again with the same step.
    #[error("{url} gave no answer: {message}")]
    NoAnswer {
        /// The agent.
        url: String,
        /// Why.
        message: String,
    },
    /// The agent refused, and nothing was changed.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The answer is not one of an agent.
    #[error("{url} answered {status}: {message}")]
    Unexpected {
        /// The agent.
        url: String,
        /// The status.
        status: u16,
        /// What was wrong with it.
        message: String,
    },
}

/// The control API of one agent.
#[derive(Clone, Debug)]
pub struct AgentClient {
    base: Url,
    http: reqwest::Client,
}

impl AgentClient {
    /// A client for the agent at `url` (`https://hv01:7443`).
    ///
    /// # Errors
    /// `Configuration`, when the URL or one of the PEM texts cannot be used.
    pub fn new(
        url: &str,
        ca_pem: &[u8],
        cert_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, ClientError> {
        let wrong = |message: String| ClientError::Configuration(message);
        let base = address(url).map_err(wrong)?;
        let tls = tls::client_config(ca_pem, cert_pem, key_pem)
            .map_err(|error| wrong(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE)
            .build()
            .map_err(|error| wrong(describe(&error)))?;
        Ok(Self { base, http })
    }

    /// Where the agent is.
    #[must_use]
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Everything the agent knows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn state(&self) -> Result<HostState, ClientError> {
        let (_, body) = self.call(Method::GET, "v1/state", None).await?;
        self.read(&body)
    }

    /// As [`AgentClient::state`], with no other VMs than these.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn state_of(&self, vms: &[Uuid]) -> Result<HostState, ClientError> {
        let vms: Vec<String> = vms.iter().map(Uuid::to_string).collect();
        let path = format!("v1/state?vms={}", vms.join(","));
        let (_, body) = self.call(Method::GET, &path, None).await?;
        self.read(&body)
    }

    /// Gives an order.
    ///
    /// # Errors
    /// `Refused` when it was not admitted; see [`ClientError`] for the rest.
    pub async fn order(&self, vm: Uuid, order: &Order) -> Result<OrderAnswer, ClientError> {
        let body = serde_json::to_vec(order)
            .map_err(|error| ClientError::Configuration(error.to_string()))?;
        let (_, body) = self
            .call(Method::POST, &format!("v1/vms/{vm}/orders"), Some(body))
            .await?;
        self.read(&body)
    }

    /// The end of a guest's console.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn console(&self, vm: Uuid, tail: u64) -> Result<String, ClientError> {
        let path = format!("v1/vms/{vm}/console?tail={}", tail.min(MAX_CONSOLE));
        let (_, body) = self.call(Method::GET, &path, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| ClientError::Configuration(error.to_string()))?;
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let mut response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error))?
        {
            if answer.len() as u64 + chunk.len() as u64 > MAX_ANSWER {
                return Err(self.unexpected(status, "the answer is too long"));
            }
            answer.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok((status, answer));
        }
        match serde_json::from_slice(&answer) {
            Ok(refusal) => Err(ClientError::Refused(Box::new(refusal))),
            Err(_) => Err(self.unexpected(
                status,
                &String::from_utf8_lossy(&answer)
                    .chars()
                    .take(200)
                    .collect::<String>(),
            )),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body)
            .map_err(|error| self.unexpected(StatusCode::OK, &error.to_string()))
    }

    fn unexpected(&self, status: StatusCode, message: &str) -> ClientError {
        ClientError::Unexpected {
            url: self.base.to_string(),
            status: status.as_u16(),
            message: message.to_owned(),
        }
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        let (url, message) = (self.base.to_string(), describe(error));
        if error.is_connect() {
            ClientError::Unreachable { url, message }
        } else {
            ClientError::NoAnswer { url, message }
        }
    }
}

/// Reads the address of an agent.
///
/// # Errors
/// What is wrong with it.
pub fn address(url: &str) -> Result<Url, String> {
    let base = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    if base.scheme() != "https" || base.host_str().is_none() || base.cannot_be_a_base() {
        return Err(format!("{url}: must be https://host:port"));
    }
    Ok(base)
}

/// The innermost words are those that help; where they are a library's, with what they mean here.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let words = innermost.to_string();
    // A library's manual is of no help to whoever runs an operator.
    let words = words
        .split(": https://")
        .next()
        .unwrap_or(&words)
        .to_owned();
    let meaning = MEANINGS.iter().find(|(sign, _)| words.contains(sign));
    meaning.map_or(words.clone(), |(_, meaning)| format!("{words}: {meaning}"))
}

/// What the words of the libraries mean for whoever has to mend it.
const MEANINGS: [(&str, &str); 6] = [
    (
        "UnknownIssuer",
        "the agent's certificate is of another authority than the CA that was given here (the vault's caSecretRef, or --ca)",
    ),
    (
        "UnknownCA",
        "the certificate that was shown to the agent is of another authority than its tls.ca (the vault's clientCertificateSecretRef, or --certificate)",
    ),
    (
        "NotValidForName",
        "the agent's certificate does not carry the name in the URL: issue it with that name as --san",
    ),
    (
        "Expired",
        "the agent's certificate is no longer valid: issue a new one; agents read theirs again by themselves",
    ),
    (
        "close_notify",
        "the agent, or something between, ended the connection before it had answered",
    ),
    (
        "invalid HTTP version",
        "what answers there is no control API; is it the data address of an agent?",
    ),
];
