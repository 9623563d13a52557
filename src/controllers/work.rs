//! The queue of one kind: who was woken gets a pass, one at a time for each resource; what follows when it failed.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt as _, StreamExt as _};
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, ReconcileRequest};
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Resources};
use super::feed::{Guarded, Watched};
use super::key::Key;
use crate::domain::ErrorClass;

/// Why a pass failed: what follows from it, and its words.
pub(super) type Failure = (ErrorClass, String);

/// Passes over the resources of one kind, one at a time for each resource and `workers` at once, until `stop`; then those under way
/// end.
pub(super) async fn work<K, F, Fut>(
    name: &'static str,
    context: &Arc<Context>,
    of: fn(&Context) -> &Resources<K>,
    woken: UnboundedReceiver<Key>,
    workers: u16,
    stop: CancellationToken,
    pass: F,
) where
    K: Watched,
    F: Fn(Arc<Guarded<K>>, Arc<Context>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Failure>> + Send + 'static,
{
    let store: Store<Guarded<K>> = of(context).store.clone();
    let queue = woken
        .map(|key| Ok::<_, Infallible>(ReconcileRequest::from(key.reference::<Guarded<K>>())))
        .take_until(stop.clone().cancelled_owned());
    let reconcile = move |resource: Arc<Guarded<K>>, context: Arc<Context>| {
        let pass = pass.clone();
        let stop = stop.clone();
        // A task of its own: passes run side by side, and end even when nobody waits for them any more.
        let task = tokio::spawn(async move {
            if stop.is_cancelled() {
                return Action::await_change();
            }
            one(name, of, resource, context, pass).await
        });
        let ended: Pin<Box<dyn Future<Output = Result<Action, Infallible>> + Send>> = task
            .map(move |ended| {
                Ok(ended.unwrap_or_else(|error| {
                    tracing::error!(controller = name, %error, "a pass did not end as it should");
                    Action::requeue(Duration::from_secs(30))
                }))
            })
            .boxed();
        ended
    };
    applier(
        reconcile,
        |_, never: &Infallible, _| match *never {},
        context.clone(),
        store,
        queue,
        Config::default().concurrency(workers),
    )
    .for_each(|_| std::future::ready(()))
    .await;
}

/// One pass, and what follows when it failed.
async fn one<K, F, Fut>(
    name: &'static str,
    of: fn(&Context) -> &Resources<K>,
    resource: Arc<Guarded<K>>,
    context: Arc<Context>,
    pass: F,
) -> Action
where
    K: Watched,
    F: Fn(Arc<Guarded<K>>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Failure>>,
{
    let meta = kube::Resource::meta(resource.as_ref());
    let (key, generation) = (Key::of(meta), meta.generation);
    let backoff = &of(&context).backoff;
    if let Some(left) = backoff.left(&key, generation, Instant::now()) {
        return Action::requeue(left);
    }
    match pass(resource, context.clone()).await {
        Ok(action) => {
            backoff.clear(&key);
            context.metrics.pass(name, "ok");
            action
        }
        Err((class, error)) => {
            context.metrics.pass(name, class.as_str());
            let delay = backoff.failed(&key, generation, class, Instant::now());
            said(name, &key, class, &error, delay);
            Action::requeue(delay)
        }
    }
}

fn said(name: &str, key: &impl Display, class: ErrorClass, error: &str, delay: Duration) {
    if class == ErrorClass::Conflict {
        tracing::debug!(controller = name, resource = %key, class = class.as_str(), error, ?delay, "a pass is repeated");
    } else {
        tracing::warn!(controller = name, resource = %key, class = class.as_str(), error, ?delay, "a pass is repeated");
    }
}
