//! What a rollout reads of a pod, and nothing else (CTL-10 … CTL-26, STR-3, NUP-4, HOT).
//!
//! Read once from the API server's JSON and kept by the thousand: texts that repeat from pod to pod are `Arc<str>`, so
//! that whoever keeps many pods may let them share one (see [`Pod::share`]). Nothing in here refuses a pod for what an
//! annotation, label or status says.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::names;
use crate::selector::Labels;

/// The annotation that `kubectl apply` leaves behind: long, and read by nobody here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A pod, as far as a rollout reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Box<str>,
    /// The version of this copy; each write is conditional on it.
    pub resource_version: Box<str>,
    /// Its labels, by key.
    pub labels: Pairs,
    /// Its annotations, by key, without the one of `kubectl apply`.
    pub annotations: Pairs,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub is_going_away: bool,
    /// Whether it has a node.
    pub is_assigned: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its condition `Ready`.
    pub ready: Option<Ready>,
    /// Its condition `SidecarSetUpgradable` (NUP-4).
    pub upgradable: Option<Upgradable>,
    /// The condition types that it needs to become ready, beside its containers.
    pub readiness_gates: Box<[Arc<str>]>,
    /// Its containers.
    pub containers: Box<[Container]>,
    /// Its init containers, native sidecars among them.
    pub init_containers: Box<[Container]>,
    /// Length of `status.containerStatuses`.
    pub statuses: usize,
}

/// Keys and values, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Box<[(Arc<str>, Arc<str>)]>);

/// The phase of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all containers were started; also a phase that is not known.
    #[default]
    Pending,
    /// Its node does not answer.
    Unknown,
    /// At least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, at least one badly.
    Failed,
}

/// The condition `Ready`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Whether its status is `True`.
    pub is_true: bool,
    /// When the status last changed.
    pub since: Option<Timestamp>,
}

/// The condition `SidecarSetUpgradable`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgradable {
    /// Its status.
    pub status: Box<str>,
    /// Its reason.
    pub reason: Box<str>,
    /// A JSON object: SidecarSet → whether it can be updated in place.
    pub message: Arc<str>,
    /// When the status last changed.
    pub since: Option<Timestamp>,
}

/// A container or init container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// The image of the spec.
    pub image: Arc<str>,
    /// Whether its own restart policy is `Always`, which makes an init container a native sidecar.
    pub restarts_always: bool,
    /// What the node says of it; absent until the node has said something.
    pub status: Option<Status>,
}

/// The status of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The runtime's name of the image.
    pub image: Arc<str>,
    /// The runtime's digest of the image, with a repository as a rule.
    pub image_id: Arc<str>,
    /// The runtime's id of the container.
    pub container_id: Box<str>,
    /// Whether it is ready.
    pub is_ready: bool,
    /// Whether it has started, as its startup probe says.
    pub is_started: Option<bool>,
    /// How often it was restarted.
    pub restarts: i32,
    /// What it does now.
    pub state: State,
}

/// What a container does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It waits to be started; this is also what a status without a state means.
    Waiting {
        /// The word of the kubelet, such as `ImagePullBackOff`; may be empty.
        reason: Arc<str>,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Option<Timestamp>,
    },
    /// It has ended.
    Terminated {
        /// The word of the kubelet, such as `Error`; may be empty.
        reason: Arc<str>,
    },
    /// The node has said nothing.
    #[default]
    None,
}

// === impl Pod ===

impl Pod {
    /// Reads a pod from the API server's JSON. Only JSON that is no pod at all is refused.
    pub fn read(document: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(document)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key)
    }

    /// A container by name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| *container.name == *name)
    }

    /// An init container by name.
    pub fn init_container(&self, name: &str) -> Option<&Container> {
        self.init_containers.iter().find(|container| *container.name == *name)
    }

    /// The SidecarSets that it was injected with (CTL-12).
    pub fn injected_by(&self) -> impl Iterator<Item = &str> {
        self.annotation(names::INJECTED_LIST).unwrap_or_default().split(',').filter(|name| !name.is_empty())
    }

    /// Whether its condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some_and(|ready| ready.is_true)
    }

    /// Forgets the annotations that are not `wanted`. Keep those that [`is_record`] names and those that some SidecarSet
    /// patches.
    pub fn keep_annotations(&mut self, wanted: impl Fn(&str) -> bool) {
        let kept = self.annotations.0.iter().filter(|(key, _)| wanted(key)).cloned().collect();
        self.annotations = Pairs(kept);
    }

    /// Replaces texts that are likely to be the same in other pods by what `shared` returns, an equal text.
    pub fn share(&mut self, mut shared: impl FnMut(&Arc<str>) -> Arc<str>) {
        self.namespace = shared(&self.namespace);
        for (key, value) in &mut self.labels.0 {
            (*key, *value) = (shared(key), shared(value));
        }
        for (key, value) in &mut self.annotations.0 {
            (*key, *value) = (shared(key), shared(value));
        }
        self.readiness_gates.iter_mut().for_each(|gate| *gate = shared(gate));
        if let Some(condition) = &mut self.upgradable {
            condition.message = shared(&condition.message);
        }
        for container in self.containers.iter_mut().chain(&mut self.init_containers) {
            container.name = shared(&container.name);
            container.image = shared(&container.image);
            if let Some(status) = &mut container.status {
                status.image = shared(&status.image);
                status.image_id = shared(&status.image_id);
                if let State::Waiting { reason } | State::Terminated { reason } = &mut status.state {
                    *reason = shared(reason);
                }
            }
        }
    }
}

/// Whether an annotation keeps the record of an injection or update, which every rollout reads.
pub fn is_record(key: &str) -> bool {
    matches!(
        key,
        names::HASH
            | names::HASH_WITHOUT_IMAGE
            | names::INJECTED_LIST
            | names::INPLACE_UPDATE_STATE
            | names::WORKING_CONTAINER
    ) || key.starts_with(names::VERSION_PREFIX)
        || key.starts_with(names::VERSION_ALT_PREFIX)
}

// === impl Container ===

impl Container {
    /// Whether the node says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_ready)
    }
}

// === impl Pairs ===

impl Pairs {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        self.0.get(found).map(|(_, value)| &**value)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl FromIterator<(String, String)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let pairs: std::collections::BTreeMap<String, String> = pairs.into_iter().collect();
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl Labels for Pairs {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

// === reading ===

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Pod::deserialize(deserializer).map(Self::from)
    }
}

/// The JSON of a pod, with `null` read as absent.
mod wire {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, de::IgnoredAny};

    fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
        Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
    }

    macro_rules! read {
        ($(pub(super) struct $name:ident { $($field:ident: $type:ty,)* })*) => {$(
            #[derive(Default, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            pub(super) struct $name {
                $(#[serde(deserialize_with = "nullable")] pub(super) $field: $type,)*
            }
        )*};
    }

    read! {
        pub(super) struct Pod {
            metadata: Metadata,
            spec: Spec,
            status: PodStatus,
        }
        pub(super) struct Metadata {
            namespace: String,
            name: String,
            uid: String,
            resource_version: String,
            labels: BTreeMap<String, String>,
            annotations: BTreeMap<String, String>,
            creation_timestamp: String,
            deletion_timestamp: Option<IgnoredAny>,
        }
        pub(super) struct Spec {
            node_name: String,
            containers: Vec<Container>,
            init_containers: Vec<Container>,
            readiness_gates: Vec<Gate>,
        }
        pub(super) struct Gate {
            condition_type: String,
        }
        pub(super) struct Container {
            name: String,
            image: String,
            restart_policy: String,
        }
        pub(super) struct PodStatus {
            phase: String,
            conditions: Vec<Condition>,
            container_statuses: Vec<Status>,
            init_container_statuses: Vec<Status>,
        }
        pub(super) struct Condition {
            r#type: String,
            status: String,
            reason: String,
            message: String,
            last_transition_time: String,
        }
        pub(super) struct State {
            waiting: Option<Reason>,
            running: Option<Running>,
            terminated: Option<Reason>,
        }
        pub(super) struct Reason {
            reason: String,
        }
        pub(super) struct Running {
            started_at: String,
        }
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    pub(super) struct Status {
        pub(super) name: String,
        #[serde(deserialize_with = "nullable")]
        pub(super) image: String,
        #[serde(rename = "imageID", deserialize_with = "nullable")]
        pub(super) image_id: String,
        #[serde(rename = "containerID", deserialize_with = "nullable")]
        pub(super) container_id: String,
        #[serde(deserialize_with = "nullable")]
        pub(super) ready: bool,
        pub(super) started: Option<bool>,
        #[serde(deserialize_with = "nullable")]
        pub(super) restart_count: i32,
        #[serde(deserialize_with = "nullable")]
        pub(super) state: State,
    }
}

impl From<wire::Pod> for Pod {
    fn from(pod: wire::Pod) -> Self {
        let wire::Pod { metadata, spec, status } = pod;
        let condition = |r#type: &str| status.conditions.iter().find(|condition| condition.r#type == r#type);
        Self {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            resource_version: metadata.resource_version.into(),
            labels: metadata.labels.into_iter().collect(),
            annotations: metadata.annotations.into_iter().filter(|(key, _)| key != LAST_APPLIED).collect(),
            created: metadata.creation_timestamp.parse().ok(),
            is_going_away: metadata.deletion_timestamp.is_some(),
            is_assigned: !spec.node_name.is_empty(),
            phase: match status.phase.as_str() {
                "Running" => Phase::Running,
                "Unknown" => Phase::Unknown,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                _ => Phase::Pending,
            },
            ready: condition("Ready")
                .map(|ready| Ready { is_true: ready.status == "True", since: ready.last_transition_time.parse().ok() }),
            upgradable: condition(names::UPGRADABLE).map(|condition| Upgradable {
                status: condition.status.as_str().into(),
                reason: condition.reason.as_str().into(),
                message: condition.message.as_str().into(),
                since: condition.last_transition_time.parse().ok(),
            }),
            readiness_gates: spec.readiness_gates.into_iter().map(|gate| gate.condition_type.into()).collect(),
            statuses: status.container_statuses.len(),
            containers: join(spec.containers, status.container_statuses),
            init_containers: join(spec.init_containers, status.init_container_statuses),
        }
    }
}

/// Containers with their statuses.
fn join(containers: Vec<wire::Container>, mut statuses: Vec<wire::Status>) -> Box<[Container]> {
    let mut status = |name: &str| {
        let found = statuses.iter().position(|status| status.name == name)?;
        Some(Status::from(statuses.swap_remove(found)))
    };
    let container = |container: wire::Container| Container {
        status: status(&container.name),
        name: container.name.into(),
        image: container.image.into(),
        restarts_always: container.restart_policy == "Always",
    };
    containers.into_iter().map(container).collect()
}

impl From<wire::Status> for Status {
    fn from(status: wire::Status) -> Self {
        let state = match status.state {
            wire::State { running: Some(running), .. } => State::Running { since: running.started_at.parse().ok() },
            wire::State { terminated: Some(ended), .. } => State::Terminated { reason: ended.reason.into() },
            wire::State { waiting: Some(waiting), .. } => State::Waiting { reason: waiting.reason.into() },
            wire::State { .. } => State::None,
        };
        Self {
            image: status.image.into(),
            image_id: status.image_id.into(),
            container_id: status.container_id.into(),
            is_ready: status.ready,
            is_started: status.started,
            restarts: status.restart_count,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_read_with_what_the_node_says_of_each_container() {
        let pod = Pod::read(&json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "7", "labels": {"app": "web"},
                "annotations": {"b": "2", "a": "1", LAST_APPLIED: "{}"}, "creationTimestamp": "2026-03-04T05:06:07Z",
                "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "app:1"}, {"name": "agent", "image": "a:2"}],
                "initContainers": [{"name": "init", "image": "i", "restartPolicy": "Always"}],
                "readinessGates": [{"conditionType": "KruisePodReady"}]},
            "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-04T05:06:08Z"}],
                "containerStatuses": [
                    {"name": "agent", "image": "a:1", "imageID": "a@sha256:1", "containerID": "containerd://1",
                     "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "ImagePullBackOff"}}},
                    {"name": "app", "state": {"running": {"startedAt": "2026-03-04T05:06:07Z"}}, "ready": true},
                ],
                "initContainerStatuses": null},
        }))
        .unwrap();
        assert_eq!((&*pod.name, pod.is_assigned, pod.is_going_away, pod.statuses), ("web", true, false, 2));
        assert_eq!(pod.annotations.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert!(pod.is_ready() && pod.phase == Phase::Running);
        let agent = pod.container("agent").unwrap().status.as_ref().unwrap();
        assert_eq!(agent.state, State::Waiting { reason: "ImagePullBackOff".into() });
        assert_eq!((agent.restarts, &*agent.image_id, &*agent.container_id), (3, "a@sha256:1", "containerd://1"));
        assert!(pod.container("app").unwrap().is_ready());
        assert!(pod.init_container("init").unwrap().restarts_always);
        assert!(pod.init_container("init").unwrap().status.is_none());
    }

    #[test]
    fn an_empty_pod_is_read_and_what_is_no_pod_is_not() {
        assert_eq!(Pod::read(&json!({})).unwrap(), Pod::default());
        assert!(Pod::read(&json!("pod")).is_err());
    }

    #[test]
    fn sharing_changes_no_text() {
        let mut pod = Pod::read(&json!({"metadata": {"namespace": "a", "labels": {"x": "y"}}})).unwrap();
        let before = pod.clone();
        pod.share(|text| Arc::from(&**text));
        assert_eq!(pod, before);
    }
}
