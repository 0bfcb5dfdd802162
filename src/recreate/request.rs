//! A ContainerRecreateRequest as those who carry it out read it.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::json::decode;
use crate::api::names;
use crate::api::recreate::{RecreateSpec, RecreateStatus};

/// A request. Garbage in it counts as nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// UID of its pod, as admission wrote it.
    pub pod_uid: String,
    /// The pod's node, as admission wrote it.
    pub node: String,
    /// Whether it is marked as one for daemons to look at.
    pub is_active: bool,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// What is wanted.
    pub spec: RecreateSpec,
    /// How far it got.
    pub status: RecreateStatus,
}

// === impl Request ===

impl Request {
    /// Reads an object of v1beta1, whatever is in it.
    pub fn read(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let label = |name: &str| text(&metadata["labels"][name]);
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            version: text(&metadata["resourceVersion"]),
            created: metadata["creationTimestamp"].as_str().and_then(|text| text.parse().ok()),
            is_going: metadata["deletionTimestamp"].is_string(),
            pod_uid: label(names::RECREATE_POD_UID),
            node: label(names::RECREATE_NODE),
            is_active: !metadata["labels"][names::RECREATE_ACTIVE].is_null(),
            finalizers: finalizers.filter_map(Value::as_str).map(str::to_owned).collect(),
            spec: or_default(&object["spec"]),
            status: or_default(&object["status"]),
        }
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Completed" | "Succeeded" | "Failed")
    }

    /// Whether there is something to do for it (CRR-22).
    pub fn is_live(&self) -> bool {
        !self.has_ended() && !self.is_going
    }

    /// A merge patch of `/status` for this version.
    pub fn status_patch(&self, mut status: Value) -> Value {
        // The schema asks for a phase, also when there is none yet.
        if status.get("phase").is_none() {
            status["phase"] = self.status.phase.as_str().into();
        }
        json!({"metadata": {"uid": self.uid, "resourceVersion": self.version}, "status": status})
    }
}

fn or_default<T: DeserializeOwned + Default>(value: &Value) -> T {
    decode(value).map(|(value, _)| value).unwrap_or_default()
}
