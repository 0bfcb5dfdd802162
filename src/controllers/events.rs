//! Events, each written once: its name follows from what it says and what it is about.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};

use crate::cluster::{CallError, call};

/// Bytes of an event's note that the API server takes.
const NOTE_LIMIT: usize = 1024;
/// Characters of a name that leave room for a dot and the hash within the 253 bytes of an event's name.
const NAME_LIMIT: usize = 230;
/// Events about objects without a namespace live here (NS-1).
const DEFAULT_NAMESPACE: &str = "default";

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regarding {
    /// `apiVersion`.
    pub api_version: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Its namespace; empty for an object of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// An event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What it is about.
    pub regarding: Regarding,
    /// Whether it is a `Warning`.
    pub is_warning: bool,
    /// What was done, in one CamelCase word.
    pub action: &'static str,
    /// Why, in one CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What tells it from an earlier event that says the same; of equal ones, one is written.
    pub occasion: String,
}

// === impl News ===

impl News {
    /// Writes it under the name of `controller`. That it is there already is no error.
    pub async fn write(&self, client: &Client, controller: &str, now: Timestamp) -> Result<(), CallError> {
        let event = self.event(controller, now);
        let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let api: Api<KubeEvent> = Api::namespaced(client.clone(), namespace);
        match call(api.create(&PostParams::default(), &event)).await {
            Err(CallError::Kube(Error::Api(status))) if status.code == 409 => Ok(()),
            written => written.map(drop),
        }
    }

    fn event(&self, controller: &str, now: Timestamp) -> KubeEvent {
        let Regarding { api_version, kind, namespace, name, uid } = &self.regarding;
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let mut hasher = DefaultHasher::new();
        (uid, self.reason, &self.message, &self.occasion).hash(&mut hasher);
        let prefix: String = name.chars().take(NAME_LIMIT).collect();
        KubeEvent {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", prefix.trim_end_matches(['.', '-']), hasher.finish())),
                namespace: some(namespace).or_else(|| some(DEFAULT_NAMESPACE)),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: some(self.action),
            reason: some(self.reason),
            note: some(cut(&self.message)),
            type_: some(if self.is_warning { "Warning" } else { "Normal" }),
            regarding: Some(ObjectReference {
                api_version: some(api_version),
                kind: some(kind),
                namespace: some(namespace),
                name: some(name),
                uid: some(uid),
                ..ObjectReference::default()
            }),
            reporting_controller: some(controller),
            reporting_instance: some(controller),
            ..KubeEvent::default()
        }
    }
}

/// As much of a text as the API server takes.
fn cut(text: &str) -> &str {
    let end = (0..=NOTE_LIMIT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(message: &str, occasion: &str) -> News {
        News {
            regarding: Regarding { name: "a.".repeat(200), uid: "u".to_owned(), ..Regarding::default() },
            is_warning: false,
            action: "Update",
            reason: "Started",
            message: message.to_owned(),
            occasion: occasion.to_owned(),
        }
    }

    #[test]
    fn the_same_event_has_the_same_name_and_another_has_not() {
        let name = |news: News| news.event("c", Timestamp::UNIX_EPOCH).metadata.name.unwrap();
        assert_eq!(name(news("x", "1")), name(news("x", "1")));
        assert_ne!(name(news("x", "1")), name(news("x", "2")));
        assert_ne!(name(news("x", "1")), name(news("y", "1")));
        assert!(name(news("x", "1")).len() <= 253);
    }

    #[test]
    fn a_long_message_is_cut_between_characters_and_an_object_of_the_cluster_has_its_events_in_default_ns_1() {
        let event = news(&"ä".repeat(NOTE_LIMIT), "").event("c", Timestamp::UNIX_EPOCH);
        assert_eq!(event.note.unwrap().len(), NOTE_LIMIT);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }
}
