//! Events, for people: on the resource they speak of, never more than a request with a short timeout.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use super::FIELD_MANAGER;
use crate::domain;

/// How long an event may take. One that is lost is lost: status says the same.
const LIMIT: Duration = Duration::from_secs(3);

/// Tells events.
pub struct Announcer {
    recorder: Recorder,
}

impl Announcer {
    /// Tells them in the name of this replica.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: FIELD_MANAGER.into(),
            instance: Some(identity.chars().take(128).collect()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Tells what was decided, on a resource. `stage` is where it stands.
    pub async fn tell<K>(&self, about: &K, stage: &str, events: &[domain::Event])
    where
        K: Resource<DynamicType = ()>,
    {
        for event in events {
            self.say(
                &about.object_ref(&()),
                event.warning,
                event.reason,
                stage,
                &event.message,
            )
            .await;
        }
    }

    /// Tells one event.
    pub async fn say(
        &self,
        about: &ObjectReference,
        warning: bool,
        reason: &str,
        stage: &str,
        message: &str,
    ) {
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.into(),
            // The API server takes at most 1024 bytes.
            note: Some(shortened(message)),
            action: action(if stage.is_empty() { reason } else { stage }, message),
            secondary: None,
        };
        match tokio::time::timeout(LIMIT, self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, reason, "an event was not taken"),
            Err(_) => tracing::debug!(reason, "an event was not taken in time"),
        }
    }
}

/// What an event is told apart by from others of its reason. The recorder folds events of one action into one, which keeps the words of the first:
/// only what says the same is the next of a series.
fn action(stage: &str, message: &str) -> String {
    let digest = blake3::hash(message.as_bytes()).to_hex();
    format!("{stage}-{}", &digest[..8])
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(1000);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_another_event() {
        assert_eq!(
            action("AwaitingCommit", "one"),
            action("AwaitingCommit", "one")
        );
        assert_ne!(
            action("AwaitingCommit", "one"),
            action("AwaitingCommit", "two")
        );
        assert_ne!(action("Committing", "one"), action("AwaitingCommit", "one"));
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "é".repeat(600);
        let cut = shortened(&long);
        assert_eq!(cut.len(), 1000);
        assert!(long.starts_with(&cut));
    }
}
