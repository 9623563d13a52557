//! Calls of the API server: each with a timeout, each error with a class.

use std::future::Future;
use std::time::Duration;

use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::FIELD_MANAGER;
use crate::domain::ErrorClass;
use crate::telemetry::with_causes;

/// Why a call of the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer came in time.
    #[error("{what}: the API server did not answer within {limit:?}")]
    Timeout {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// It refused, or could not be reached.
    #[error("{what}: {}", with_causes(source.as_ref()))]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its words.
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Timeout { .. } => ErrorClass::Transient,
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    409 => ErrorClass::Conflict,
                    429 => ErrorClass::Throttled,
                    401 | 403 => ErrorClass::Denied,
                    400 | 422 => ErrorClass::Invalid,
                    _ => ErrorClass::Transient,
                },
                kube::Error::SerdeError(_) => ErrorClass::Invalid,
                _ => ErrorClass::Transient,
            },
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        // By code: the answer for a kind that is not served is a line of text without a reason.
        matches!(self, Self::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404))
    }

    /// Whether the API server said that it did not do it; anything else may have taken effect.
    pub fn is_definite(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if (400..500).contains(&status.code)))
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()))
    }
}

/// Makes calls with a timeout.
#[derive(Clone, Copy, Debug)]
pub struct Within(pub Duration);

impl Within {
    /// Waits for an answer, but not for ever.
    pub async fn call<T>(
        self,
        what: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(self.0, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(ApiError::Refused {
                what,
                source: Box::new(source),
            }),
            Err(_) => Err(ApiError::Timeout {
                what,
                limit: self.0,
            }),
        }
    }

    /// Replaces the status of a resource, if it is still the one that was read.
    pub async fn write_status<K>(
        self,
        what: &'static str,
        api: &Api<K>,
        resource: &K,
    ) -> Result<K, ApiError>
    where
        K: Resource + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let name = resource.meta().name.clone().unwrap_or_default();
        self.call(
            what,
            api.replace_status(&name, &post_parameters(), resource),
        )
        .await
    }

    /// Replaces the finalizers of a resource, if it is still the one that was read.
    pub async fn write_finalizers<K>(
        self,
        what: &'static str,
        api: &Api<K>,
        resource: &K,
        finalizers: &[String],
    ) -> Result<K, ApiError>
    where
        K: Resource + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let meta = resource.meta();
        let name = meta.name.clone().unwrap_or_default();
        let patch = json!({"metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": finalizers,
        }});
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        self.call(what, api.patch(&name, &parameters, &Patch::Merge(patch)))
            .await
    }
}

/// Writes are made in the operator's name.
pub fn post_parameters() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

/// Whether the resource carries the operator's finalizer.
pub fn is_held(resource: &impl Resource) -> bool {
    is_held_by(resource.meta())
}

/// Whether these metadata carry the operator's finalizer.
pub fn is_held_by(meta: &ObjectMeta) -> bool {
    meta.finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == crate::api::FINALIZER)
}

/// The finalizers with the operator's.
pub fn held(resource: &impl Resource) -> Vec<String> {
    let mut finalizers = resource.meta().finalizers.clone().unwrap_or_default();
    finalizers.push(crate::api::FINALIZER.into());
    finalizers
}

/// The finalizers without the operator's.
pub fn let_go(resource: &impl Resource) -> Vec<String> {
    resource
        .meta()
        .finalizers
        .iter()
        .flatten()
        .filter(|finalizer| *finalizer != crate::api::FINALIZER)
        .cloned()
        .collect()
}
