//! The service over HTTPS: one budget, reads that are tried again, mutations that are sent once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::headers::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use azure_core::http::{
    ClientOptions, Context, Method, Pipeline, PipelineStreamOptions, Request, RetryOptions,
    Transport, Url,
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::Clock;
use super::budget::Bucket;
use super::credential::{Given, SignIn};
use super::request::API_VERSION;
use super::wire::page::{Element, Page};
use super::wire::problem::{Problem, one_line};
use crate::domain::ErrorClass;
use crate::driver::DriverError;
use crate::telemetry::with_causes;

const DATE: HeaderName = HeaderName::from_static("date");
/// How often a read is tried.
const READ_ATTEMPTS: u32 = 5;
/// The first pause between two of them.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that is waited out inside one request, and all pauses of one read together; what lasts longer is told of instead: who waits for
/// an answer gives up after half a minute, and knows no reason then.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// More pages than this are not a list but a circle.
const MOST_PAGES: usize = 10_000;
/// The largest answer that is taken: a page of items has a few megabytes.
const LARGEST_ANSWER: usize = 256 << 20;

/// A client of one vault.
pub struct Client {
    pipeline: Pipeline,
    sign_in: SignIn,
    scope: String,
    /// Of the service, without a slash at the end.
    endpoint: Url,
    /// Path of the vault.
    vault: String,
    reads: Mutex<Bucket>,
    writes: Mutex<Bucket>,
    began: Instant,
    clock: Clock,
}

/// An answer, whatever its status.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The service's clock.
    pub date: Option<Timestamp>,
    /// For how long the service asks to wait.
    pub retry_after: Option<Duration>,
}

impl Client {
    /// A client.
    #[must_use]
    pub fn new(
        transport: Transport,
        sign_in: SignIn,
        scope: String,
        endpoint: Url,
        vault: String,
        clock: Clock,
    ) -> Self {
        // Nothing is sent again beneath this module: for a mutation that would be a second attempt.
        let options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(transport),
            ..ClientOptions::default()
        };
        let pipeline = Pipeline::new(
            option_env!("CARGO_PKG_NAME"),
            option_env!("CARGO_PKG_VERSION"),
            options,
            Vec::new(),
            Vec::new(),
            None,
        );
        Self {
            pipeline,
            sign_in,
            scope,
            endpoint,
            vault,
            reads: Mutex::new(Bucket::reads()),
            writes: Mutex::new(Bucket::writes()),
            began: Instant::now(),
            clock,
        }
    }

    /// The path of something in the vault.
    #[must_use]
    pub fn in_vault(&self, below: &str) -> String {
        format!("{}/{below}", self.vault)
    }

    fn url(&self, path: &str, version: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(path);
        url.query_pairs_mut()
            .clear()
            .append_pair("api-version", version)
            .extend_pairs(query);
        url
    }

    /// Every page of a list.
    ///
    /// # Errors
    /// When one of them could not be read: a part of a list is no list.
    pub async fn list<T: Element>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(Vec<T>, Option<Timestamp>), DriverError> {
        self.list_of_version(path, API_VERSION, query).await
    }

    /// As [`Client::list`], of an API that has versions of its own.
    ///
    /// # Errors
    /// As there.
    pub async fn list_of_version<T: Element>(
        &self,
        path: &str,
        version: &str,
        query: &[(&str, &str)],
    ) -> Result<(Vec<T>, Option<Timestamp>), DriverError> {
        let mut all = Vec::new();
        let mut url = self.url(path, version, query);
        let mut date = None;
        for _ in 0..MOST_PAGES {
            let answer = self.read(&url).await?;
            // The clock of the first page: what the list shows is not older.
            date = date.or(answer.date);
            let page: Page<T> = Page::read(&answer.body).map_err(|error| {
                transient(format!("{path} answered with what is no list: {error}"))
            })?;
            all.extend(page.elements);
            let Some(next) = page.next else {
                return Ok((all, date));
            };
            url = self.next(&next)?;
        }
        Err(transient(format!(
            "{path} has more than {MOST_PAGES} pages"
        )))
    }

    /// Where the next page is: at the same service, or the token would go elsewhere.
    fn next(&self, next: &str) -> Result<Url, DriverError> {
        let url = self
            .endpoint
            .join(next)
            .map_err(|_| transient("the service's link to the next page is no URL".into()))?;
        if url.origin() != self.endpoint.origin() {
            return Err(DriverError::refused(
                ErrorClass::Denied,
                format!(
                    "the service's link to the next page leads to another host, {}; it is not followed",
                    url.host_str().unwrap_or_default()
                ),
            ));
        }
        Ok(url)
    }

    /// One thing; none when it is not there.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn get(&self, path: &str) -> Result<Option<(Value, Option<Timestamp>)>, DriverError> {
        let url = self.url(path, API_VERSION, &[]);
        let answer = match self.read(&url).await {
            Ok(answer) => answer,
            Err(Missing::Gone) => return Ok(None),
            Err(Missing::Failed(error)) => return Err(error),
        };
        let value = serde_json::from_slice(&answer.body)
            .map_err(|error| transient(format!("{path} answered with no JSON: {error}")))?;
        Ok(Some((value, answer.date)))
    }

    /// Reads, again and again while that can help.
    async fn read(&self, url: &Url) -> Result<Answer, Missing> {
        let mut pause = FIRST_PAUSE;
        let mut waited = Duration::ZERO;
        let mut last = None;
        for attempt in 0..READ_ATTEMPTS {
            if attempt > 0 {
                waited += pause;
                if waited > LONGEST_PAUSE {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            self.wait_for(&self.reads).await?;
            let given = self.given().await?;
            let mut request = Request::new(url.clone(), Method::Get);
            request.insert_header(AUTHORIZATION, bearer(&given));
            let answer = match self.exchange(&mut request).await {
                Ok(answer) => answer,
                Err(error) => {
                    last = Some(transient(said(url, &error)));
                    continue;
                }
            };
            match answer.status {
                200..=299 => return Ok(answer),
                404 => {
                    let problem = Problem::read(&answer.body);
                    // The vault itself is another matter than something in it.
                    return Err(match problem.code.as_deref() {
                        Some(
                            "ResourceNotFound" | "ResourceGroupNotFound" | "SubscriptionNotFound",
                        ) => Missing::Failed(DriverError::refused(
                            ErrorClass::Invalid,
                            format!(
                                "{}; correct the vault's subscription, group or name",
                                problem.text()
                            ),
                        )),
                        _ => Missing::Gone,
                    });
                }
                401 if self.sign_in.renew(&given) => last = Some(problem(&answer, url)),
                408 | 429 | 500..=599 => {
                    if let Some(asked) = answer.retry_after {
                        if answer.status == 429 {
                            self.pause(&self.reads, asked);
                        }
                        pause = pause.max(asked);
                    }
                    last = Some(problem(&answer, url));
                }
                _ => return Err(problem(&answer, url).into()),
            }
        }
        Err(last
            .unwrap_or_else(|| transient(format!("{} could not be read", url.path())))
            .into())
    }

    /// Sends a mutation, once.
    ///
    /// # Errors
    /// [`DriverError::ambiguous`] says whether it may have taken effect.
    pub async fn mutate(
        &self,
        path: &str,
        body: Option<&Value>,
        send_before: Option<Timestamp>,
    ) -> Result<(), DriverError> {
        self.wait_for(&self.writes).await?;
        // A token that cannot be had is no request that was sent.
        let given = self.given().await?;
        let url = self.url(path, API_VERSION, &[]);
        let mut request = Request::new(url.clone(), Method::Post);
        request.insert_header(AUTHORIZATION, bearer(&given));
        request.insert_header(CONTENT_TYPE, "application/json");
        if let Some(body) = body {
            request.set_body(body.to_string());
        }
        // S18: looked at last, after all that may have taken long.
        if send_before.is_some_and(|before| self.clock.now() > before) {
            return Err(DriverError::refused(
                ErrorClass::Transient,
                "its time to be sent had passed, and it was not sent; it is decided anew",
            ));
        }
        let answer = match self.exchange(&mut request).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.kind(), ErrorKind::Connection) => {
                return Err(transient(said(&url, &error)));
            }
            Err(error) => return Err(DriverError::ambiguous(said(&url, &error))),
        };
        match answer.status {
            200..=299 => Ok(()),
            429 => {
                let asked = answer.retry_after.unwrap_or(Duration::from_secs(30));
                self.pause(&self.writes, asked);
                Err(problem(&answer, &url))
            }
            // It was not acted upon, and the next token may be taken.
            401 if self.sign_in.renew(&given) => Err(DriverError {
                class: ErrorClass::Transient,
                ..problem(&answer, &url)
            }),
            408 | 500..=599 => Err(DriverError {
                ambiguous: true,
                ..problem(&answer, &url)
            }),
            _ => Err(problem(&answer, &url)),
        }
    }

    async fn given(&self) -> Result<Given, DriverError> {
        let given = self.sign_in.token(&self.scope).await;
        given.map_err(|error| refused_token(&error))
    }

    async fn exchange(&self, request: &mut Request) -> azure_core::Result<Answer> {
        let options = PipelineStreamOptions {
            skip_checks: true,
            ..PipelineStreamOptions::default()
        };
        let response = self
            .pipeline
            .stream(&Context::new(), request, Some(options))
            .await?;
        let (status, headers, stream) = response.deconstruct();
        let date = headers
            .get_optional_str(&DATE)
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map(|date| date.timestamp());
        let retry_after = headers
            .get_optional_str(&RETRY_AFTER)
            .and_then(|asked| seconds(asked, date));
        Ok(Answer {
            status: u16::from(status),
            body: bounded(stream, LARGEST_ANSWER).await?,
            date,
            retry_after,
        })
    }

    /// Waits until a request may be sent; one that would have to wait for long is not sent at all.
    async fn wait_for(&self, bucket: &Mutex<Bucket>) -> Result<(), DriverError> {
        let now = self.began.elapsed();
        let wait = {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let left = bucket.pause_left(now);
            if left > LONGEST_PAUSE {
                let until = self.clock.now().checked_add(left).unwrap_or(Timestamp::MAX);
                return Err(DriverError::refused(
                    ErrorClass::Throttled,
                    format!(
                        "the service takes no more requests for now (429) and has asked to be left alone until {}",
                        until.strftime("%H:%M:%S UTC")
                    ),
                ));
            }
            bucket.take(now)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn pause(&self, bucket: &Mutex<Bucket>, asked: Duration) {
        bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pause(self.began.elapsed(), asked);
    }
}

fn bearer(given: &Given) -> String {
    format!("Bearer {}", given.token.token.secret())
}

/// All of a body, given up once it is larger than this.
async fn bounded(
    mut stream: impl Stream<Item = azure_core::Result<Bytes>> + Unpin,
    largest: usize,
) -> azure_core::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        if chunk.len() > largest - body.len() {
            return Err(azure_core::Error::with_message(
                ErrorKind::DataConversion,
                format!("the answer has more than {largest} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why something was not read.
enum Missing {
    /// It is not there.
    Gone,
    /// It could not be read.
    Failed(DriverError),
}

impl From<DriverError> for Missing {
    fn from(error: DriverError) -> Self {
        Self::Failed(error)
    }
}

impl From<Missing> for DriverError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Gone => Self::refused(ErrorClass::Conflict, "it is not there any more"),
            Missing::Failed(error) => error,
        }
    }
}

/// `Retry-After`, in seconds or as a date.
fn seconds(asked: &str, now: Option<Timestamp>) -> Option<Duration> {
    if let Ok(seconds) = asked.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
    let wait = until.duration_since(now?);
    Duration::try_from(wait).ok()
}

fn transient(message: String) -> DriverError {
    DriverError::refused(ErrorClass::Transient, message)
}

/// Words for a request that had no answer. Neither query nor headers stand in them.
fn said(url: &Url, error: &azure_core::Error) -> String {
    one_line(&format!(
        "{} did not answer: {}",
        url.host_str().unwrap_or_default(),
        with_causes(error)
    ))
}

/// What follows from an answer that is an error.
fn problem(answer: &Answer, url: &Url) -> DriverError {
    let problem = Problem::read(&answer.body);
    let class = match (answer.status, problem.code.as_deref()) {
        (401 | 403, _) => ErrorClass::Denied,
        (429, _) => ErrorClass::Throttled,
        (404 | 409 | 412, _) => ErrorClass::Conflict,
        (408 | 500..=599, _) => ErrorClass::Transient,
        _ => ErrorClass::Invalid,
    };
    let mut words = problem.text();
    if words.is_empty() {
        words = "no reason was given".into();
    }
    let what = url.path().rsplit('/').next().unwrap_or_default();
    let remedy = if answer.status == 403 {
        "; the credentials are taken, and their identity needs a role with this action at the vault"
    } else {
        ""
    };
    DriverError::refused(
        class,
        format!(
            "the service answered {} to {what}: {words}{remedy}",
            answer.status
        ),
    )
}

/// Words for a token that was not given. What was shown to get it never stands in them.
fn refused_token(error: &azure_core::Error) -> DriverError {
    let (class, said) = match answered(error) {
        Some(status) => {
            let class = match status {
                429 => ErrorClass::Throttled,
                408 | 500..=599 => ErrorClass::Transient,
                _ => ErrorClass::Denied,
            };
            (class, format!("answered {status}"))
        }
        None if is_outage(error) => (ErrorClass::Transient, "did not answer".into()),
        None => (ErrorClass::Denied, "was not asked".into()),
    };
    let words = without_ids(&one_line(&with_causes(error)));
    DriverError::refused(
        class,
        format!(
            "no token for the service by spec.azureSiteRecovery.credentials: the sign-in service {said}: {words}"
        ),
    )
}

/// The error and its causes: what the credential says is only the outermost.
fn causes(error: &azure_core::Error) -> impl Iterator<Item = &azure_core::Error> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref())
}

/// What the sign-in service answered.
pub fn answered(error: &azure_core::Error) -> Option<u16> {
    causes(error).find_map(|error| match error.kind() {
        ErrorKind::HttpResponse { status, .. } => Some(u16::from(*status)),
        _ => None,
    })
}

/// No answer came, or one that is none of the sign-in service: of something that stands before it.
fn is_outage(error: &azure_core::Error) -> bool {
    causes(error).any(|error| {
        matches!(
            error.kind(),
            ErrorKind::Connection | ErrorKind::Io | ErrorKind::DataConversion
        )
    })
}

/// Without the numbers of the single request: with them the words would be others at each look, and each look a write.
fn without_ids(words: &str) -> String {
    let Some((before, ids)) = words.split_once("Trace ID:") else {
        return words.to_owned();
    };
    let after = ids.find("To troubleshoot").map_or("", |at| &ids[at..]);
    format!("{} {after}", before.trim_end())
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests;
