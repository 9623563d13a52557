//! Namespace and name of a resource.

use std::fmt;

use kube::Resource;
use kube::core::ObjectMeta;
use kube::runtime::reflector::{Lookup, ObjectRef};

/// Namespace and name of a resource whose kind is known from the place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of this namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of a resource.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// The same as a reference to a resource of a kind.
    #[must_use]
    pub fn reference<K>(&self) -> ObjectRef<K>
    where
        K: Resource + Lookup,
        <K as Lookup>::DynamicType: Default,
    {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
