//! When a group of containers may start, and what is written for it (LP).
//!
//! The kubelet starts a container when its key is in the pod's barrier, a ConfigMap. The keys of a group are written when
//! all groups before it are ready, and stay for the pod's life, since each restart needs them (LP-9). Everything follows
//! from the pod and its barrier as they are: whoever decides next, after a crash anywhere, goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::api::names;

/// What the kubelet says of a container whose env cannot be made.
const CONFIG_ERROR: &str = "CreateContainerConfigError";
/// What every key begins with.
const KEY_PREFIX: &str = "p_";
/// How often the pod is touched for one group.
const TOUCHES: u8 = 2;
/// When the kubelet should have started a container after a touch. It hears of the pod and of the barrier in two ways,
/// and the pod may be faster.
pub const TOUCH_AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// A pod, as far as the order of its containers goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Box<str>,
    /// The version of this copy.
    pub resource_version: Box<str>,
    /// Whether it is being deleted, or ended for good: nothing starts in it any more.
    pub is_over: bool,
    /// Whether all groups were let go (LP-6).
    pub is_completed: bool,
    /// Its condition `ContainersReady`.
    pub is_ready: bool,
    /// For which group it was last touched (W-45).
    pub touched: Option<Touch>,
    /// Its containers with a barrier.
    pub waiters: Box<[Waiter]>,
    /// Its containers whose barrier cannot be understood: they take no part (LP-3).
    pub malformed: Box<[Malformed]>,
}

/// A container with a barrier (LP-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its name.
    pub name: Box<str>,
    /// Its priority: the highest go first.
    pub priority: i64,
    /// The keys that it cannot start without.
    pub keys: Box<[Box<str>]>,
    /// How far it is.
    pub state: State,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is ready (LP-7), or ended well and is not started again (W-44).
    Passed,
    /// The kubelet cannot create it without its key.
    Held,
    /// It was not started, or is not ready, or failed: in words.
    Behind(Box<str>),
}

/// A container whose barrier cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Its name.
    pub name: Box<str>,
    /// What is wrong with it.
    pub why: Box<str>,
    /// A key of the barrier that it needs nevertheless.
    pub key: Option<Box<str>>,
    /// Whether the kubelet says that it misses it.
    pub is_held: bool,
}

/// A change of the pod that makes the kubelet try again at once (W-45).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The group that was let go.
    pub priority: i64,
    /// The how manieth for it.
    pub count: u8,
}

/// A pod's barrier, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Barrier {
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Whether it is being deleted.
    pub is_going_away: bool,
    /// Its keys.
    pub keys: BTreeSet<String>,
}

/// An owner of a barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until the pod changes or this time is over.
    Rest(Option<SignedDuration>),
    /// The barrier is made with these keys.
    Create(BTreeSet<String>),
    /// These keys are added to the barrier.
    Add(BTreeSet<String>),
    /// The barrier is that of an earlier pod and is deleted.
    Clear,
    /// The barrier is being deleted; when it is gone, it is made anew.
    Await,
    /// The pod is annotated.
    Mark(Mark),
}

/// What is written to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// All groups were let go.
    pub is_completed: bool,
    /// The kubelet shall look again.
    pub touch: Option<Touch>,
}

/// Who keeps whom from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The priority of the group that is not ready.
    pub priority: i64,
    /// For people.
    pub message: String,
}

/// The name of a pod's barrier.
pub fn name(pod: &str) -> String {
    format!("{pod}{}", names::BARRIER_SUFFIX)
}

// === impl Pod ===

impl Pod {
    /// Reads a pod from the API server's JSON.
    pub fn read(raw: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<wire::Pod>(raw).map(Self::from)
    }

    /// Whether there is anything to decide (LP-4). A pod that is through costs no more than this question, unless the
    /// kubelet says that it misses the barrier (W-43).
    pub fn waits(&self) -> bool {
        if self.is_over || (self.waiters.is_empty() && self.malformed.is_empty()) {
            return false;
        }
        self.is_held() || (!self.is_completed && !self.is_ready && self.current().is_some())
    }

    /// Whether the kubelet says that it misses a key.
    pub fn is_held(&self) -> bool {
        let is_held = |waiter: &Waiter| waiter.state == State::Held;
        self.waiters.iter().any(is_held) || self.malformed.iter().any(|malformed| malformed.is_held)
    }

    /// The highest priority that has not passed: its group is let go, and all before it were (LP-5).
    pub fn current(&self) -> Option<i64> {
        self.behind().map(|waiter| waiter.priority).max()
    }

    /// The lowest (LP-5).
    fn lowest(&self) -> Option<i64> {
        self.behind().map(|waiter| waiter.priority).min()
    }

    fn behind(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().filter(|waiter| waiter.state != State::Passed)
    }

    /// The priorities that may start.
    fn may_start(&self, priority: i64) -> bool {
        self.is_completed
            || self.current().is_none_or(|current| priority >= current)
            || self.behind().all(|waiter| waiter.priority != priority)
    }

    /// The keys that the barrier should have.
    fn keys(&self) -> BTreeSet<String> {
        let started = self.waiters.iter().filter(|waiter| self.may_start(waiter.priority));
        let keys = started.flat_map(|waiter| waiter.keys.iter());
        keys.chain(self.malformed.iter().filter_map(|malformed| malformed.key.as_ref()))
            .map(ToString::to_string)
            .collect()
    }

    /// Who waits for whom, while somebody does (W-44).
    pub fn blocked(&self) -> Option<Blocked> {
        let (current, lowest) = (self.current()?, self.lowest()?);
        if self.is_over || current == lowest {
            return None;
        }
        let mut blockers = String::new();
        for waiter in self.behind().filter(|waiter| waiter.priority == current) {
            let separator = if blockers.is_empty() { "" } else { ", " };
            let why = match &waiter.state {
                State::Behind(why) => why,
                State::Held => CONFIG_ERROR,
                State::Passed => continue,
            };
            let _infallible = write!(blockers, "{separator}{} ({why})", waiter.name);
        }
        let mut others: Vec<&Waiter> = self.behind().filter(|waiter| waiter.priority < current).collect();
        others.sort_by_key(|waiter| std::cmp::Reverse(waiter.priority));
        let others: Vec<&str> = others.iter().map(|waiter| &*waiter.name).collect();
        let message = format!(
            "containers do not start before those of priority {current} are ready: {} {} for {blockers}",
            others.join(", "),
            if others.len() == 1 { "waits" } else { "wait" },
        );
        Some(Blocked { priority: current, message })
    }

    /// What is wrong with barriers, for people (W-40).
    pub fn complaint(&self) -> Option<String> {
        let mut told = String::new();
        for Malformed { name, why, .. } in &self.malformed {
            let separator = if told.is_empty() { "" } else { "; " };
            let _infallible = write!(told, "{separator}container {name}: {why}");
        }
        let env = names::BARRIER_ENV;
        (!told.is_empty()).then(|| format!("not started in order, since the env {env} is not understood: {told}"))
    }

    /// The barrier to create.
    pub fn barrier(&self, keys: &BTreeSet<String>) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name(&self.name),
                "namespace": self.namespace,
                // Neither controlling nor blocking (LP-6): it goes with the pod.
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}],
            },
            "data": data(keys),
        })
    }
}

/// The keys with their value.
fn data(keys: &BTreeSet<String>) -> BTreeMap<&str, &str> {
    keys.iter().map(|key| (key.as_str(), "true")).collect()
}

// === impl Barrier ===

impl Barrier {
    /// Reads a ConfigMap.
    pub fn read(config_map: &Value) -> Self {
        let metadata = &config_map["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let keys = |member: &str| config_map[member].as_object().into_iter().flat_map(|data| data.keys().cloned());
        let owner =
            |owner: &Value| Owner { kind: text(&owner["kind"]), name: text(&owner["name"]), uid: text(&owner["uid"]) };
        Self {
            uid: text(&metadata["uid"]),
            version: text(&metadata["resourceVersion"]),
            owners: metadata["ownerReferences"].as_array().into_iter().flatten().map(owner).collect(),
            is_going_away: !metadata["deletionTimestamp"].is_null(),
            keys: keys("data").chain(keys("binaryData")).collect(),
        }
    }

    /// Whether it was made for an earlier pod of the same name. One that no such pod owns is somebody's own.
    fn is_stale(&self, pod: &Pod) -> bool {
        let of_pods = || self.owners.iter().filter(|owner| owner.kind == "Pod" && *owner.name == *pod.name);
        of_pods().next().is_some() && of_pods().all(|owner| *owner.uid != *pod.uid)
    }

    /// The patch that adds keys to it as it is known.
    pub fn addition(&self, keys: &BTreeSet<String>) -> Value {
        json!({"metadata": {"uid": self.uid, "resourceVersion": self.version}, "data": data(keys)})
    }
}

// === impl Mark ===

impl Mark {
    /// The patch that writes it to a pod.
    pub fn patch(&self, pod: &Pod) -> Value {
        let mut annotations = serde_json::Map::new();
        if self.is_completed {
            annotations.insert(names::LAUNCH_COMPLETED.to_owned(), "true".into());
        }
        if let Some(touch) = self.touch {
            annotations.insert(names::LAUNCH_RELEASED.to_owned(), touch.to_string().into());
        }
        json!({"metadata": {"uid": pod.uid, "annotations": annotations}})
    }
}

// === impl Touch ===

impl std::fmt::Display for Touch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            0 | 1 => write!(f, "{}", self.priority),
            count => write!(f, "{} {count}", self.priority),
        }
    }
}

impl std::str::FromStr for Touch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (priority, count) = text.split_once(' ').unwrap_or((text, "1"));
        Ok(Self { priority: priority.parse()?, count: count.parse()? })
    }
}

/// What is to be done for a pod that [waits](Pod::waits), its barrier being as it is. `touched` is how long ago this
/// process last wrote to the pod, if it did.
pub fn step(pod: &Pod, barrier: Option<&Barrier>, touched: Option<SignedDuration>) -> Step {
    if !pod.waits() {
        return Step::Rest(None);
    }
    let keys = pod.keys();
    // LP-6; the first keys at once, which saves a write and a wait.
    let Some(barrier) = barrier else {
        return if keys.is_empty() { Step::Rest(None) } else { Step::Create(keys) };
    };
    if barrier.is_going_away {
        return Step::Await;
    }
    // W-42: with the keys of an earlier pod everything would start at once, and nothing again once they are collected.
    if barrier.is_stale(pod) {
        return Step::Clear;
    }
    let missing: BTreeSet<String> = keys.difference(&barrier.keys).cloned().collect();
    if !missing.is_empty() {
        return Step::Add(missing);
    }
    mark(pod, touched)
}

/// What is written to a pod whose keys are all there.
fn mark(pod: &Pod, touched: Option<SignedDuration>) -> Step {
    let Some(current) = pod.current() else { return Step::Rest(None) };
    let is_completed = !pod.is_completed && pod.lowest() == Some(current);
    // W-45: the kubelet would try again after 10 to 15 seconds.
    let is_held = pod.waiters.iter().any(|waiter| waiter.state == State::Held && pod.may_start(waiter.priority));
    let count = pod.touched.filter(|touch| touch.priority == current).map_or(0, |touch| touch.count);
    let early = touched.map(|touched| TOUCH_AGAIN - touched).filter(|rest| count > 0 && rest.is_positive());
    let touch = Touch { priority: current, count: count.saturating_add(1) };
    let touch = Some(touch).filter(|touch| is_held && touch.count <= TOUCHES && early.is_none());
    if is_completed || touch.is_some() {
        return Step::Mark(Mark { is_completed, touch });
    }
    Step::Rest(early.filter(|_| is_held && count < TOUCHES))
}

// === reading ===

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
            status: Status,
        }
        pub(super) struct Metadata {
            namespace: String,
            name: String,
            uid: String,
            resource_version: String,
            annotations: BTreeMap<String, String>,
            deletion_timestamp: Option<IgnoredAny>,
        }
        pub(super) struct Spec {
            restart_policy: String,
            containers: Vec<Container>,
        }
        pub(super) struct Container {
            name: String,
            restart_policy: String,
            env: Vec<Env>,
        }
        pub(super) struct Env {
            name: String,
            value_from: ValueFrom,
        }
        pub(super) struct ValueFrom {
            config_map_key_ref: Option<KeyRef>,
        }
        pub(super) struct KeyRef {
            name: String,
            key: String,
            optional: bool,
        }
        pub(super) struct Status {
            phase: String,
            conditions: Vec<Condition>,
            container_statuses: Vec<ContainerStatus>,
        }
        pub(super) struct Condition {
            r#type: String,
            status: String,
        }
        pub(super) struct ContainerStatus {
            name: String,
            ready: bool,
            state: ContainerState,
        }
        pub(super) struct ContainerState {
            waiting: Option<Waiting>,
            running: Option<IgnoredAny>,
            terminated: Option<Terminated>,
        }
        pub(super) struct Waiting {
            reason: String,
            message: String,
        }
        pub(super) struct Terminated {
            exit_code: i64,
        }
    }
}

/// What a container's env says of its barrier.
enum Reference {
    Waits { priority: i64, key: Box<str> },
    Malformed { why: String, key: Option<Box<str>> },
}

impl From<wire::Pod> for Pod {
    fn from(pod: wire::Pod) -> Self {
        let wire::Pod { metadata, spec, status } = pod;
        let (mut waiters, mut malformed) = (Vec::new(), Vec::new());
        let barrier = name(&metadata.name);
        for container in spec.containers {
            let policy =
                if container.restart_policy.is_empty() { &spec.restart_policy } else { &container.restart_policy };
            let status = status.container_statuses.iter().find(|status| status.name == container.name);
            let state = state(status, policy, &barrier);
            let own = container.env.into_iter().filter(|env| env.name == names::BARRIER_ENV);
            let (mut priority, mut keys) = (None::<i64>, Vec::new());
            for reference in own.filter_map(|env| reference(env, &barrier)) {
                match reference {
                    // A second run of admission may have left two; the kubelet wants the keys of both.
                    Reference::Waits { priority: other, key } => {
                        priority = Some(priority.map_or(other, |priority| priority.min(other)));
                        keys.push(key);
                    }
                    Reference::Malformed { why, key } => {
                        let (name, is_held) = (container.name.as_str().into(), key.is_some() && state == State::Held);
                        malformed.push(Malformed { name, why: why.into(), key, is_held });
                    }
                }
            }
            let Some(priority) = priority else { continue };
            waiters.push(Waiter { name: container.name.into(), priority, keys: keys.into(), state });
        }
        let is_ready = status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "ContainersReady" && condition.status == "True");
        Self {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            resource_version: metadata.resource_version.into(),
            is_over: metadata.deletion_timestamp.is_some() || matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            is_completed: metadata.annotations.get(names::LAUNCH_COMPLETED).is_some_and(|value| value == "true"),
            is_ready,
            touched: metadata.annotations.get(names::LAUNCH_RELEASED).and_then(|text| text.parse().ok()),
            waiters: waiters.into(),
            malformed: malformed.into(),
        }
    }
}

/// W-40: the reference stops at what it does not expect here, and anybody may write it.
fn reference(env: wire::Env, barrier: &str) -> Option<Reference> {
    let Some(wire::KeyRef { name, key, optional }) = env.value_from.config_map_key_ref else {
        let why = "its value is not from a ConfigMap".to_owned();
        return Some(Reference::Malformed { why, key: None });
    };
    // The kubelet does not wait for what is optional.
    if optional {
        return None;
    }
    if name != barrier {
        let why = format!("it names the ConfigMap {name}, and the one of this pod is {barrier}");
        return Some(Reference::Malformed { why, key: None });
    }
    let priority = key.strip_prefix(KEY_PREFIX).and_then(|priority| priority.parse().ok());
    Some(match priority {
        Some(priority) => Reference::Waits { priority, key: key.into() },
        // Whoever takes no part must not wait for ever.
        None => Reference::Malformed {
            why: format!("the key {key} is not {KEY_PREFIX} and a whole number"),
            key: (!key.is_empty()).then(|| key.as_str().into()),
        },
    })
}

fn state(status: Option<&wire::ContainerStatus>, policy: &str, barrier: &str) -> State {
    let Some(status) = status else { return State::Behind("not started".into()) };
    let wire::ContainerState { waiting, running, terminated } = &status.state;
    if status.ready {
        return State::Passed;
    }
    match (waiting, running, terminated) {
        (Some(waiting), ..) if waiting.reason == CONFIG_ERROR => {
            // Another ConfigMap, or a Secret, may be missing as well.
            if waiting.message.is_empty() || waiting.message.contains(barrier) {
                State::Held
            } else {
                State::Behind(format!("{CONFIG_ERROR}: {}", waiting.message).into())
            }
        }
        (Some(waiting), ..) if !waiting.reason.is_empty() => State::Behind(waiting.reason.as_str().into()),
        (_, Some(_), _) => State::Behind("not ready".into()),
        // W-44.
        (.., Some(ended)) if ended.exit_code == 0 && matches!(policy, "Never" | "OnFailure") => State::Passed,
        (.., Some(ended)) => State::Behind(format!("ended with exit code {}", ended.exit_code).into()),
        _ => State::Behind("not started".into()),
    }
}

#[cfg(test)]
mod tests;
