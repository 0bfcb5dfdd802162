//! Events: that a container is stopped, that its hook failed, what became of a pull (CRR-52, CRR-56, IMG-49). Each is written
//! once: its name follows from what it says, so a process that was killed and begins again does not repeat it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::cluster::{CallError, call};

/// Who reports about containers: the reference's name (CRR-52).
pub const RECREATE: &str = "kruise-daemon-crr";
/// Who reports about pulls: the reference's name (IMG-49).
pub const IMAGES: &str = "kruise-daemon-imagepuller";
/// Where events are that are about something in no namespace.
const NOWHERE: &str = "default";
/// Bytes of an event's note that the API server takes.
const NOTE_LIMIT: usize = 1024;
/// Characters of who reports that the API server takes.
const INSTANCE_LIMIT: usize = 128;
/// Characters of a name that leave room for a dot and the hash within the 253 bytes of an event's name.
const NAME_LIMIT: usize = 230;

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// Who reports.
    pub component: &'static str,
    /// What it is about.
    pub about: ObjectReference,
    /// Whether it is a `Warning`.
    pub is_warning: bool,
    /// `Killing`, `FailedPreStopHook`, `PullImageSucceed` or `PullImageFailed`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What tells it from an earlier event that says the same.
    pub occasion: String,
}

// === impl News ===

impl News {
    /// Writes it in the name of `node`. That it is there already is no error.
    pub async fn write(&self, client: &Client, node: &str, now: Timestamp) -> Result<(), CallError> {
        let api: Api<Event> = Api::namespaced(client.clone(), self.namespace());
        match call(api.create(&PostParams::default(), &self.event(node, now))).await {
            Err(error) if error.code() == Some(409) => Ok(()),
            written => written.map(drop),
        }
    }

    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().unwrap_or(NOWHERE)
    }

    fn event(&self, node: &str, now: Timestamp) -> Event {
        let mut hasher = DefaultHasher::new();
        (&self.about.uid, &self.about.field_path, self.reason, &self.occasion).hash(&mut hasher);
        let prefix: String = self.about.name.iter().flat_map(|name| name.chars()).take(NAME_LIMIT).collect();
        let end = (0..=NOTE_LIMIT.min(self.message.len())).rev().find(|at| self.message.is_char_boundary(*at));
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:016x}", prefix.trim_end_matches(['.', '-']), hasher.finish())),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some(self.reason.to_owned()),
            reason: Some(self.reason.to_owned()),
            note: Some(self.message[..end.unwrap_or_default()].to_owned()),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(self.about.clone()),
            reporting_controller: Some(self.component.to_owned()),
            reporting_instance: Some(node.chars().take(INSTANCE_LIMIT).collect()),
            ..Event::default()
        }
    }
}

/// A container of a pod.
pub(super) fn container(namespace: &str, pod: &str, uid: &str, container: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(pod.to_owned()),
        uid: Some(uid.to_owned()),
        field_path: Some(format!("spec.containers{{{container}}}")),
        ..ObjectReference::default()
    }
}
