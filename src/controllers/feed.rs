//! One watch a kind: fills a store, and tells what was touched.
//!
//! Several namespaces are watched side by side and fill one store. A resource that cannot be read is told of like any other
//! ([`DeserializeGuard`]); it never stops the watch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::key::Key;
use crate::telemetry::{Health, with_causes};

/// How long one watch lasts before it is taken up where it was: one that nothing comes through any more is not noticed earlier.
const WATCH_SECONDS: u32 = 60;

/// A resource that could be read, or what is known of one that could not.
pub type Guarded<K> = DeserializeGuard<K>;

/// What a watch tells.
pub enum Touch<'a, K> {
    /// It was made or changed, or may have been while nobody watched.
    Changed(&'a Key, &'a Guarded<K>),
    /// It is gone.
    Gone(&'a Key),
}

/// A kind that is watched in namespaces.
pub trait Watched:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Watches a kind in these namespaces (all, when there are none) until `stop`, in the background. `health` hears, under the name `part`, when
/// the API server says that there is nothing to watch, or that it is not allowed.
pub fn feed<K: Watched>(
    client: &Client,
    namespaces: &[String],
    (health, part): (Arc<Health>, &'static str),
    stop: CancellationToken,
    touched: impl Fn(Touch<'_, K>) + Send + 'static,
) -> Store<Guarded<K>> {
    let apis: Vec<Api<Guarded<K>>> = if namespaces.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        namespaces
            .iter()
            .map(|namespace| Api::namespaced(client.clone(), namespace))
            .collect()
    };
    let events = apis.into_iter().enumerate().map(|(source, api)| {
        watch(api, watcher::Config::default().timeout(WATCH_SECONDS))
            .default_backoff()
            .modify(|resource| resource.meta_mut().managed_fields = None)
            .map(move |event| (source, event))
            .boxed()
    });
    let sources = events.len();
    let writer = Writer::default();
    let store = writer.as_reader();
    let events = stream::select_all(events).take_until(stop.cancelled_owned());
    let refusals = Refusals::<K>::new(health, part);
    tokio::spawn(run(Filler::new(writer, sources), events, refusals, touched));
    store
}

async fn run<K: Watched>(
    mut filler: Filler<K>,
    events: impl Stream<Item = (usize, watcher::Result<Event<Guarded<K>>>)>,
    mut refusals: Refusals<K>,
    touched: impl Fn(Touch<'_, K>) + Send + 'static,
) {
    let mut events = std::pin::pin!(events);
    while let Some((source, event)) = events.next().await {
        match event {
            Ok(event) => {
                refusals.works(source);
                filler.take(source, event, &touched);
            }
            Err(error) => {
                refusals.failed(source, &error);
                tracing::warn!(kind = %K::kind(&()), error = with_causes(&error), "the watch was interrupted and is taken up again");
            }
        }
    }
}

/// Watches that the API server refuses, by source. One that it does not answer at all says nothing: it is taken up again.
struct Refusals<K> {
    health: Arc<Health>,
    part: &'static str,
    refused: BTreeSet<usize>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Watched> Refusals<K> {
    fn new(health: Arc<Health>, part: &'static str) -> Self {
        Self {
            health,
            part,
            refused: BTreeSet::new(),
            kind: PhantomData,
        }
    }

    fn works(&mut self, source: usize) {
        if self.refused.remove(&source) && self.refused.is_empty() {
            self.health.ready(self.part);
        }
    }

    fn failed(&mut self, source: usize, error: &watcher::Error) {
        let Some(code) = code(error).filter(|code| [401, 403, 404].contains(code)) else {
            return;
        };
        self.refused.insert(source);
        let kind = K::kind(&());
        let what_for = if code == 404 {
            format!(
                "the CustomResourceDefinition of {kind}, which is there no more: apply what `homeward crds` prints"
            )
        } else {
            format!("the right to list and watch resources of kind {kind}: {error}")
        };
        self.health.waits(self.part, what_for);
    }
}

impl<K> Drop for Refusals<K> {
    fn drop(&mut self) {
        self.health.rests(self.part);
    }
}

/// What the API server answered.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        Error::WatchError(status) => Some(status.code),
        Error::NoResourceVersion => None,
    }
}

/// Brings the events of several watches into one store.
struct Filler<K: Watched> {
    writer: Writer<Guarded<K>>,
    store: Store<Guarded<K>>,
    /// Sources that have not told everything once.
    waiting: BTreeSet<usize>,
    /// What each source is known to hold, and what it has listed so far while it lists anew.
    known: BTreeMap<usize, BTreeSet<Key>>,
    listing: BTreeMap<usize, BTreeSet<Key>>,
}

impl<K: Watched> Filler<K> {
    fn new(mut writer: Writer<Guarded<K>>, sources: usize) -> Self {
        writer.apply_watcher_event(&Event::Init);
        let store = writer.as_reader();
        Self {
            writer,
            store,
            waiting: (0..sources).collect(),
            known: BTreeMap::new(),
            listing: BTreeMap::new(),
        }
    }

    fn take(&mut self, source: usize, event: Event<Guarded<K>>, touched: &impl Fn(Touch<'_, K>)) {
        match event {
            Event::Init => {
                self.listing.insert(source, BTreeSet::new());
            }
            Event::InitApply(resource) => {
                let key = Key::of(resource.meta());
                self.listing.entry(source).or_default().insert(key.clone());
                if self.waiting.is_empty() {
                    self.changed(source, &key, resource, touched);
                } else {
                    self.known.entry(source).or_default().insert(key);
                    self.writer.apply_watcher_event(&Event::InitApply(resource));
                }
            }
            Event::InitDone => {
                let listed = self.listing.remove(&source).unwrap_or_default();
                let known = self.known.entry(source).or_default();
                let gone: Vec<Key> = known.difference(&listed).cloned().collect();
                *known = listed;
                if self.waiting.is_empty() {
                    for key in gone {
                        self.gone(&key, touched);
                    }
                } else if self.waiting.remove(&source) && self.waiting.is_empty() {
                    self.writer.apply_watcher_event(&Event::InitDone);
                    for resource in self.store.state() {
                        let key = Key::of(resource.meta());
                        if !self.known.values().any(|known| known.contains(&key)) {
                            // It went while another source was still listing.
                            self.gone(&key, touched);
                            continue;
                        }
                        touched(Touch::Changed(&key, &resource));
                    }
                }
            }
            Event::Apply(resource) => {
                let key = Key::of(resource.meta());
                self.changed(source, &key, resource, touched);
            }
            Event::Delete(resource) => {
                let key = Key::of(resource.meta());
                if let Some(known) = self.known.get_mut(&source) {
                    known.remove(&key);
                }
                if self.waiting.is_empty() {
                    self.gone(&key, touched);
                }
            }
        }
    }

    fn changed(
        &mut self,
        source: usize,
        key: &Key,
        resource: Guarded<K>,
        touched: &impl Fn(Touch<'_, K>),
    ) {
        self.known.entry(source).or_default().insert(key.clone());
        if !self.waiting.is_empty() {
            // Another source has not told everything yet: what is new goes in with the first filling.
            self.writer.apply_watcher_event(&Event::InitApply(resource));
            return;
        }
        let before: Option<Arc<Guarded<K>>> = self.store.get(&key.reference());
        let same = before.is_some_and(|before| {
            before.meta().resource_version.is_some()
                && before.meta().resource_version == resource.meta().resource_version
                && before.meta().uid == resource.meta().uid
        });
        if same {
            return;
        }
        let event = Event::Apply(resource);
        self.writer.apply_watcher_event(&event);
        if let Event::Apply(resource) = &event {
            touched(Touch::Changed(key, resource));
        }
    }

    fn gone(&mut self, key: &Key, touched: &impl Fn(Touch<'_, K>)) {
        let before: Option<Arc<Guarded<K>>> = self.store.get(&key.reference());
        if let Some(before) = before {
            self.writer
                .apply_watcher_event(&Event::Delete(before.as_ref().clone()));
        }
        touched(Touch::Gone(key));
    }
}

/// The resource of this name, when it is there.
pub fn find<K: Watched>(store: &Store<Guarded<K>>, key: &Key) -> Option<Arc<Guarded<K>>> {
    store.get(&key.reference())
}
