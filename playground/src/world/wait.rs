//! Waiting for something to become true, with a deadline and a word on how things stood when it passed.

use std::{fmt::Debug, time::Duration};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take that nothing hinders.
pub const LIMIT: Duration = Duration::from_mins(2);
/// How often to look where nobody tells.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// Waits until a resource is as it should be, and returns it. Every state is seen, however short; an API server that is away is
/// waited for.
///
/// # Errors
///
/// When it is not so within `limit`; the message has `what` and the status as last seen.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    limit: Duration,
    what: &str,
    mut met: impl FnMut(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let deadline = Instant::now() + limit;
    let selected = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api.clone(), selected)
        .default_backoff()
        .applied_objects();
    let mut stream = std::pin::pin!(stream);
    let mut last = None;
    let mut error = None;
    loop {
        match timeout_at(deadline, stream.next()).await {
            Ok(Some(Ok(object))) => {
                if met(&object) {
                    return Ok(object);
                }
                last = Some(object);
            }
            Ok(Some(Err(now))) => error = Some(now),
            Ok(None) | Err(_) => break,
        }
    }
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let seen = last.map_or_else(|| "never seen".to_owned(), |object| status_of(&object));
    let error = error.map_or_else(String::new, |error| format!("\nlast error: {error}"));
    bail!(
        "{kind} {name}: not within {} s: {what}\n{seen}{error}",
        limit.as_secs()
    )
}

/// The status of a resource as YAML, for messages.
pub fn status_of<K: Serialize>(object: &K) -> String {
    let value = serde_json::to_value(object).unwrap_or_default();
    serde_yaml::to_string(&value["status"]).unwrap_or_default()
}

/// Asks again and again until there is an answer.
///
/// # Errors
///
/// When there is none within `limit`; the message has `what`. An error of `ask` ends the waiting.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        sleep(PACE).await;
    }
}
