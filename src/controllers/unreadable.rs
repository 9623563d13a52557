//! A resource that cannot be read: said once on the resource itself, and never in the way of the others.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Client, Resource};
use serde_json::json;

use super::FIELD_MANAGER;
use super::announce::Announcer;
use super::key::Key;
use super::kubernetes::{ApiError, Within, is_held_by};
use super::lease::{LeadershipEnded, LeadershipProof};
use crate::api::Condition;
use crate::domain::{ConditionType, ErrorClass, Reason, Said, Truth, merge_conditions};

/// Which resources were told of, at which version.
#[derive(Debug, Default)]
pub struct Unreadable {
    told: Mutex<HashMap<(String, Key), Option<String>>>,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum UntoldError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
}

impl UntoldError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
        }
    }
}

impl Unreadable {
    /// Says on the resource that it cannot be read, and why.
    pub async fn tell<K>(
        &self,
        client: &Client,
        within: Within,
        announcer: &Announcer,
        proof: &LeadershipProof,
        invalid: &InvalidObject,
    ) -> Result<(), UntoldError>
    where
        K: Resource<DynamicType = ()> + Debug,
    {
        let key = Key::of(&invalid.metadata);
        let kind = K::kind(&()).into_owned();
        let slot = (kind.clone(), key.clone());
        let version = invalid.metadata.generation.map(|number| number.to_string());
        if self.lock().get(&slot) == Some(&version) {
            return Ok(());
        }
        tracing::warn!(%kind, resource = %key, error = %invalid.error, "a resource cannot be read and is left alone");
        let held = if invalid.metadata.deletion_timestamp.is_some() && is_held_by(&invalid.metadata)
        {
            format!(
                ". It is being deleted and is held, since a move of it may be under way; where none is, take the finalizer {} off by hand",
                crate::api::FINALIZER
            )
        } else {
            String::new()
        };
        let message = format!(
            "the resource cannot be read: {}; apply it again with the definitions of this version of Homeward{held}",
            invalid.error
        );
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &key.namespace, &resource);
        let now = match within.call("read a resource", api.get(&key.name)).await {
            Err(error) if error.is_not_found() => return Ok(()),
            now => now?,
        };
        let before: Vec<Condition> = now
            .data
            .pointer("/status/conditions")
            .and_then(|conditions| serde_json::from_value(conditions.clone()).ok())
            .unwrap_or_default();
        let said = |kind, truth| Said::new(kind, truth, Reason::InvalidSpec, message.clone());
        let conditions = merge_conditions(
            &before,
            vec![
                said(ConditionType::Ready, Truth::False),
                said(ConditionType::Stalled, Truth::True),
            ],
            now.metadata.generation,
            Timestamp::now(),
        );
        if conditions != before {
            proof.check()?;
            let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
            let parameters = PatchParams {
                field_manager: Some(FIELD_MANAGER.into()),
                ..PatchParams::default()
            };
            let written = within
                .call(
                    "write status",
                    api.patch_status(&key.name, &parameters, &patch),
                )
                .await;
            if let Err(error) = written {
                // What is wrong with it can be in the status itself; the event still tells.
                tracing::debug!(resource = %key, %error, "the condition could not be written");
            }
        }
        let about = now.object_ref(&resource);
        announcer
            .say(&about, true, Reason::InvalidSpec.as_str(), "", &message)
            .await;
        self.lock().insert(slot, version);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Key), Option<String>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
