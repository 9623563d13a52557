//! What was written a moment ago and the watch has not told of yet.
//!
//! Without it, the pass that follows a write would decide from the resource as it was before, be refused by its `resourceVersion`, and
//! have to come again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Resource;

use super::key::Key;

/// Resources as the API server answered the last write, until the watch has caught up.
#[derive(Debug)]
pub struct Recent<K> {
    written: Mutex<HashMap<Key, Arc<K>>>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self {
            written: Mutex::new(HashMap::new()),
        }
    }
}

impl<K: Resource> Recent<K> {
    /// The API server answered a write with this.
    pub fn wrote(&self, resource: K) -> Arc<K> {
        let resource = Arc::new(resource);
        self.lock()
            .insert(Key::of(resource.meta()), resource.clone());
        resource
    }

    /// The newer one of what the watch told and what was written.
    pub fn newer(&self, key: &Key, watched: Option<Arc<K>>) -> Option<Arc<K>> {
        let mut written = self.lock();
        let Some(mine) = written.get(key) else {
            return watched;
        };
        match &watched {
            Some(watched) if is_older(watched.meta(), mine.meta()) => Some(mine.clone()),
            // A resource that was just made is not in the store yet; one that is gone is taken out by `forget`.
            None => Some(mine.clone()),
            Some(_) => {
                written.remove(key);
                watched
            }
        }
    }

    /// The watch says that the resource is gone.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<K>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Versions of one resource are numbers that grow; those that cannot be compared count as not older.
fn is_older(one: &kube::core::ObjectMeta, other: &kube::core::ObjectMeta) -> bool {
    let number =
        |meta: &kube::core::ObjectMeta| meta.resource_version.as_deref()?.parse::<u128>().ok();
    one.uid == other.uid
        && match (number(one), number(other)) {
            (Some(one), Some(other)) => one < other,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;

    fn resource(uid: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some("a".into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn the_newer_one_wins_until_the_watch_has_caught_up() {
        let key = Key::new("ns", "a");
        let recent = Recent::default();
        let version = |found: Option<Arc<ConfigMap>>| {
            found.and_then(|found| found.metadata.resource_version.clone())
        };
        let watched = |uid: &str, version: &str| Some(Arc::new(resource(uid, version)));
        assert_eq!(
            version(recent.newer(&key, watched("u", "9"))).as_deref(),
            Some("9")
        );
        recent.wrote(resource("u", "10"));
        assert_eq!(
            version(recent.newer(&key, watched("u", "9"))).as_deref(),
            Some("10")
        );
        assert_eq!(version(recent.newer(&key, None)).as_deref(), Some("10"));
        assert_eq!(
            version(recent.newer(&key, watched("u", "11"))).as_deref(),
            Some("11")
        );
        assert_eq!(
            version(recent.newer(&key, watched("u", "9"))).as_deref(),
            Some("9"),
            "it was dropped"
        );
        recent.wrote(resource("u", "12"));
        assert_eq!(
            version(recent.newer(&key, watched("other", "3"))).as_deref(),
            Some("3"),
            "made anew"
        );
        recent.wrote(resource("u", "12"));
        recent.forget(&key);
        assert_eq!(recent.newer(&key, None), None);
    }
}
