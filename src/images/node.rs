//! A NodeImage as the controllers keep it: what each tag's entry says, whose it is, how far it is, and how many bytes it is
//! and may become (JOB-14, IMG-60, IMG-61, WEAK-40). Texts that many have in common are there once.
//!
//! What the daemon did not answer in time is judged here, too (IMG-20 … IMG-24, WEAK-45, WEAK-47).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::names;
use crate::api::nodeimage::{
    ImageStatus, ImageTagSpec, ImageTagStatus, NodeImage, NodeImageStatus, ObjectReference, SandboxConfig,
};

/// Bytes of JSON that a NodeImage may become, as estimated here: with its metadata, its status and who owns which field
/// (WEAK-40). The API server would take 45 times as much, but each write moves all of it, through etcd and to the daemon.
pub const LIMIT: usize = 32 << 10;
/// Seconds within which a daemon must have answered for a tag (IMG-21); also how much later than the daemon the controller
/// enforces a deadline (IMG-22).
pub const RESPONSE: i64 = 600;
/// Bytes of a cause that are kept.
const CAUSE: usize = 300;
/// Bytes of a tag's status that are expected beyond its names: phase, times, the image's id and a message.
const STATUS: usize = 500;
/// Bytes of a tag's entry beyond its names.
const ENTRY: usize = 230;
/// Bytes of an owner beyond its names.
const OWNER: usize = 145;

/// Labels of a node.
pub type Labels = BTreeMap<String, String>;

/// A NodeImage.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name, that of the node.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Box<str>,
    /// Its `resourceVersion`.
    pub version: Box<str>,
    /// How often its spec was changed.
    pub generation: i64,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Whether it may be there without a Node (IMG-5).
    pub is_fake: bool,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// Whether it has a spec, and images in it; a patch must make what is not there.
    pub has: (bool, bool),
    /// Images, by name.
    pub images: Vec<Image>,
    /// Statuses of tags that the spec does not have: image, tag, version (IMG-60).
    pub left: Vec<(Arc<str>, Arc<str>, i64)>,
    /// Bytes of the object as it was told.
    pub bytes: usize,
    /// Whether it could be read.
    pub is_readable: bool,
}

/// One image name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The name, without tag.
    pub name: Arc<str>,
    /// Secrets to log in with, in their order.
    pub secrets: Vec<Secret>,
    /// What the sandbox config is, in one number; 0 is none.
    pub sandbox: u64,
    /// Bytes of the sandbox config.
    pub sandbox_bytes: usize,
    /// Its tags, in their order.
    pub tags: Vec<Tag>,
}

/// A reference to a Secret (SEC-9).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Secret {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a copy that was made for jobs.
    pub is_batch: bool,
}

/// The entry of one tag, with what its node says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The tag.
    pub tag: Arc<str>,
    /// Which round of pulling this is (IMG-60).
    pub version: i64,
    /// When it was asked for, in seconds since 1970.
    pub created: Option<i64>,
    /// Seconds for which it is kept once finished.
    pub ttl: Option<i32>,
    /// Seconds after which it is given up.
    pub deadline: Option<i64>,
    /// Whether the registry is asked also by a node that has the image (IMG-47).
    pub is_always: bool,
    /// Whose it is.
    pub owners: Vec<Owner>,
    /// How far it is.
    pub answer: Answer,
}

/// An owner of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its UID (JOB-12).
    pub uid: Arc<str>,
    /// Whether it is an ImagePullJob (IMG-14).
    pub is_job: bool,
    /// Bytes of its names.
    pub bytes: u16,
}

/// What the node says of a tag, at the version of its entry (IMG-61).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    #[default]
    Silent,
    /// It waits, or pulls.
    Underway,
    /// It is there, since these seconds since 1970.
    Succeeded(i64),
    /// It was given up then, for this reason.
    Failed(i64, Box<str>),
}

/// Texts that are shared.
#[derive(Debug, Default)]
pub struct Texts {
    texts: HashSet<Arc<str>>,
    limit: usize,
}

/// What is known of the node itself (IMG-2, WEAK-47).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Whether it is Ready.
    pub is_ready: bool,
    /// Since when that is so, in seconds since 1970.
    pub since: i64,
    /// Whether nobody but its provider looks after it (IMG-3).
    pub is_virtual: bool,
    /// Whether it is being deleted.
    pub is_going: bool,
}

// === impl Texts ===

impl Texts {
    /// At fewer it is not looked which are still in use.
    const FEW: usize = 4096;

    /// The one text that says this.
    pub fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.texts.get(text) {
            *text = Arc::clone(known);
            return;
        }
        if self.texts.len() >= self.limit.max(Self::FEW) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.limit = self.texts.len() * 2;
        }
        self.texts.insert(Arc::clone(text));
    }
}

// === impl Answer ===

impl Answer {
    /// Whether it has ended, and when.
    pub fn ended(&self) -> Option<i64> {
        match self {
            Self::Silent | Self::Underway => None,
            Self::Succeeded(at) | Self::Failed(at, _) => Some(*at),
        }
    }
}

// === impl Secret ===

impl Secret {
    /// JOB-17: `mode` does not matter.
    pub fn is(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }

    fn bytes(&self) -> usize {
        45 + self.namespace.len() + self.name.len()
    }
}

// === impl Image ===

impl Image {
    /// Bytes of everything but its tags, in spec, status and the record of who owns which field.
    pub fn own_bytes(&self) -> usize {
        image_bytes(&self.name) + self.sandbox_bytes + self.secrets.iter().map(Secret::bytes).sum::<usize>()
    }

    /// Bytes that one of its tags is or may become.
    pub fn tag_bytes(&self, tag: &Tag) -> usize {
        let owners: usize = tag.owners.iter().map(|owner| OWNER + usize::from(owner.bytes)).sum();
        tag_bytes(&self.name, &tag.tag) + owners
    }
}

fn image_bytes(name: &str) -> usize {
    4 * name.len() + 210
}

fn tag_bytes(image: &str, tag: &str) -> usize {
    ENTRY + STATUS + image.len() + 3 * tag.len()
}

/// Bytes that a tag that one job asks for may become, with all that belongs to it alone.
pub fn bytes_for(image: &str, tag: &str, owner: usize, secrets: &[Secret], sandbox: usize) -> usize {
    let secrets: usize = secrets.iter().map(Secret::bytes).sum();
    image_bytes(image) + tag_bytes(image, tag) + OWNER + owner + secrets + sandbox
}

/// What stands for a sandbox config, and its bytes.
pub fn sandbox(config: Option<&SandboxConfig>) -> (u64, usize) {
    let Some(config) = config.filter(|config| **config != SandboxConfig::default()) else { return (0, 0) };
    let mut hasher = DefaultHasher::new();
    (&config.labels, &config.annotations).hash(&mut hasher);
    (hasher.finish() | 1, crate::api::json::text(config).len() + 20)
}

// === impl Node ===

impl Node {
    /// Reads an object of v1beta1, whatever is in it.
    pub fn read(raw: &str) -> Self {
        if let Ok(read) = serde_json::from_str::<Raw<'_>>(raw) {
            return Self::of(read, raw.len());
        }
        // Nothing that the API server's schema lets in; a name is enough to say so.
        let object: serde_json::Value = serde_json::from_str(raw).unwrap_or_default();
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default();
        let (uid, version) = (text("uid").into(), text("resourceVersion").into());
        Self { name: text("name").into(), uid, version, ..Self::default() }
    }

    fn of(raw: Raw<'_>, bytes: usize) -> Self {
        let Raw { metadata, spec, status } = raw;
        let mut statuses: BTreeMap<String, Vec<RawTagStatus<'_>>> =
            status.image_statuses.into_iter().map(|(name, status)| (name, status.tags)).collect();
        let has = (spec.is_some(), spec.as_ref().is_some_and(|spec| spec.images.is_some()));
        let images = spec.and_then(|spec| spec.images).unwrap_or_default().into_iter();
        let images = images.map(|(name, image)| {
            let mut statuses = statuses.get_mut(&name);
            let tags = image.tags.into_iter().map(|tag| {
                let status = statuses.as_mut().and_then(|statuses| {
                    let at = statuses.iter().position(|status| status.tag == tag.tag)?;
                    Some(statuses.swap_remove(at))
                });
                tag.with(status)
            });
            let tags = tags.collect();
            let (sandbox, sandbox_bytes) = sandbox(image.sandbox_config.as_ref());
            let secrets = image.pull_secrets.into_iter().map(RawSecret::read).collect();
            Image { name: name.into(), secrets, sandbox, sandbox_bytes, tags }
        });
        let images = images.collect();
        let left = statuses.into_iter().flat_map(|(name, statuses)| {
            let name: Arc<str> = name.into();
            statuses.into_iter().map(move |status| (Arc::clone(&name), (*status.tag).into(), status.version))
        });
        Self {
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            version: metadata.resource_version.into(),
            generation: metadata.generation,
            is_fake: metadata.labels.contains_key(names::FAKE_NODE_IMAGE),
            labels: Arc::new(metadata.labels),
            is_going: metadata.deletion_timestamp.is_some(),
            has,
            left: left.collect(),
            images,
            bytes,
            is_readable: true,
        }
    }

    /// Has its texts in common with others.
    pub fn share(&mut self, texts: &mut Texts) {
        texts.share(&mut self.name);
        for image in &mut self.images {
            texts.share(&mut image.name);
            for secret in &mut image.secrets {
                texts.share(&mut secret.namespace);
                texts.share(&mut secret.name);
            }
            for tag in &mut image.tags {
                texts.share(&mut tag.tag);
                for owner in &mut tag.owners {
                    texts.share(&mut owner.uid);
                }
            }
        }
    }

    /// The entry of an image.
    pub fn image(&self, name: &str) -> Option<&Image> {
        let at = self.images.binary_search_by(|image| (*image.name).cmp(name)).ok()?;
        self.images.get(at)
    }

    /// The entry of a tag.
    pub fn tag(&self, image: &str, tag: &str) -> Option<&Tag> {
        self.image(image)?.tags.iter().find(|found| &*found.tag == tag)
    }

    /// The version of a tag that is new here (IMG-60).
    pub fn first_version(&self, image: &str, tag: &str) -> i64 {
        let left = self.left.iter().find(|(name, found, _)| &**name == image && &**found == tag);
        left.map_or(0, |(_, _, version)| version.saturating_add(1))
    }

    /// Bytes that are neither images nor tags.
    pub fn own_bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| 2 * key.len() + value.len() + 16).sum();
        let left: usize = self.left.iter().map(|(image, tag, _)| STATUS / 2 + image.len() + tag.len()).sum();
        900 + labels + left
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    metadata: RawMetadata,
    #[serde(borrow, default)]
    spec: Option<RawSpec<'a>>,
    #[serde(borrow, default)]
    status: RawStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: String,
    uid: String,
    resource_version: String,
    generation: i64,
    labels: Labels,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawSpec<'a> {
    #[serde(borrow, default)]
    images: Option<BTreeMap<String, RawImage<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawImage<'a> {
    pull_secrets: Vec<RawSecret>,
    #[serde(borrow)]
    tags: Vec<RawTag<'a>>,
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSecret {
    namespace: String,
    name: String,
    mode: String,
}

impl RawSecret {
    fn read(self) -> Secret {
        Secret { namespace: self.namespace.into(), name: self.name.into(), is_batch: self.mode == "batch" }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTag<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow)]
    created_at: Option<Cow<'a, str>>,
    pull_policy: RawPolicy,
    #[serde(borrow)]
    owner_references: Vec<RawOwner<'a>>,
    version: i64,
    #[serde(borrow)]
    image_pull_policy: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPolicy {
    ttl_seconds_after_finished: Option<i32>,
    active_deadline_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawOwner<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    api_version: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus<'a> {
    #[serde(borrow)]
    image_statuses: BTreeMap<String, RawImageStatus<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawImageStatus<'a> {
    #[serde(borrow)]
    tags: Vec<RawTagStatus<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTagStatus<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(borrow)]
    completion_time: Option<Cow<'a, str>>,
    version: i64,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

impl RawTag<'_> {
    fn with(self, status: Option<RawTagStatus<'_>>) -> Tag {
        let created = self.created_at.as_deref().and_then(seconds);
        let answer = status.filter(|status| status.version == self.version).map_or(Answer::Silent, |status| {
            let at = status.completion_time.as_deref().and_then(seconds).or(created).unwrap_or_default();
            match &*status.phase {
                "Succeeded" => Answer::Succeeded(at),
                "Failed" => {
                    let cause = status.message.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
                    Answer::Failed(at, cut(&cause.unwrap_or_default(), CAUSE).into())
                }
                // IMG-31: what has an end has ended.
                _ if status.completion_time.is_some() => {
                    Answer::Failed(at, "its status has an end and no result".into())
                }
                _ => Answer::Underway,
            }
        });
        let owners = self.owner_references.into_iter().map(|owner| Owner {
            uid: (*owner.uid).into(),
            is_job: owner.kind == "ImagePullJob"
                && owner.api_version.strip_prefix(names::GROUP).is_some_and(|rest| rest.starts_with('/')),
            bytes: u16::try_from(owner.namespace.len() + owner.name.len()).unwrap_or(u16::MAX),
        });
        Tag {
            tag: (*self.tag).into(),
            version: self.version,
            created,
            ttl: self.pull_policy.ttl_seconds_after_finished,
            deadline: self.pull_policy.active_deadline_seconds,
            is_always: self.image_pull_policy != "IfNotPresent",
            owners: owners.collect(),
            answer,
        }
    }
}

fn seconds(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// As much of a text as goes into so many bytes.
pub fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    &text[..end]
}

// === verdicts ===

/// Why a tag is given up that its daemon has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// IMG-21.
    NoAnswer,
    /// WEAK-47: the node is not Ready, so nobody there will answer.
    NotReady,
    /// IMG-22.
    Deadline,
}

/// A tag that was given up: whom to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why.
    pub verdict: Verdict,
    /// The image, with its tag.
    pub image: String,
    /// For people.
    pub message: String,
    /// The owners of the tag.
    pub owners: Vec<ObjectReference>,
}

/// For so long a node must not have been Ready, and a tag have been asked for, until it is given up.
const PATIENCE: (i64, i64) = (180, 60);

/// When a tag is to be given up that nobody has ended, in seconds since 1970, and why.
pub fn verdict_at(
    created: Option<i64>,
    deadline: Option<i64>,
    answer: &Answer,
    machine: Option<&Machine>,
) -> Option<(i64, Verdict)> {
    let created = created?;
    match answer {
        Answer::Silent => {
            let timeout = (created.saturating_add(RESPONSE), Verdict::NoAnswer);
            // Differs: WEAK-47. The reference waits ten minutes for a node that is switched off.
            let dead = machine.filter(|machine| !machine.is_ready).map(|machine| {
                let at = machine.since.saturating_add(PATIENCE.0).max(created.saturating_add(PATIENCE.1));
                (at, Verdict::NotReady)
            });
            Some(dead.filter(|dead| dead.0 < timeout.0).unwrap_or(timeout))
        }
        Answer::Underway => {
            deadline.map(|deadline| (created.saturating_add(deadline).saturating_add(RESPONSE), Verdict::Deadline))
        }
        Answer::Succeeded(_) | Answer::Failed(..) => None,
    }
}

/// Judges what the daemon has not ended in time: the new status, and what to tell. `None` when there is nothing to judge.
pub fn judge(node: &NodeImage, machine: Option<&Machine>, now: Timestamp) -> Option<(NodeImageStatus, Vec<Failure>)> {
    let mut status = node.status.clone();
    let mut failures = Vec::new();
    for (name, image) in &node.spec.images {
        for tag in &image.tags {
            let entries = status.image_statuses.get(name).map_or(&[][..], |status| &status.tags);
            let entry = entries.iter().find(|entry| entry.tag == tag.tag && entry.version == tag.version);
            let answer = match entry {
                None => Answer::Silent,
                Some(entry) if entry.completion_time.is_some() => continue,
                Some(entry) if matches!(entry.phase.as_str(), "Succeeded" | "Failed") => continue,
                Some(_) => Answer::Underway,
            };
            let deadline = tag.pull_policy.as_ref().and_then(|policy| policy.active_deadline_seconds);
            let created = tag.created_at.as_ref().map(|at| at.0.as_second());
            let Some((at, verdict)) = verdict_at(created, deadline, &answer, machine) else { continue };
            if at > now.as_second() {
                continue;
            }
            let message = verdict.message(&node.metadata.name, machine, deadline.unwrap_or_default());
            let ended = ImageTagStatus {
                tag: tag.tag.clone(),
                phase: "Failed".to_owned(),
                completion_time: Some(whole(now)),
                version: tag.version,
                message: message.clone(),
                ..entry.cloned().unwrap_or_default()
            };
            let entries = &mut status.image_statuses.entry(name.clone()).or_default().tags;
            entries.retain(|entry| entry.tag != tag.tag);
            entries.push(ended);
            let image = crate::api::image::Familiar::reference(name, &tag.tag);
            failures.push(Failure { verdict, image, message, owners: tag.owner_references.clone() });
        }
    }
    if failures.is_empty() {
        return None;
    }
    trim(&mut status, node);
    Some((status, failures))
}

/// IMG-24, WEAK-31: what the spec does not have goes, and the rest is counted.
fn trim(status: &mut NodeImageStatus, node: &NodeImage) {
    let has = |name: &str, tag: &str| {
        node.spec.images.get(name).is_some_and(|image| image.tags.iter().any(|found| found.tag == tag))
    };
    status.image_statuses.retain(|name, image: &mut ImageStatus| {
        image.tags.retain(|entry| has(name, &entry.tag));
        image.tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        !image.tags.is_empty()
    });
    let version = |name: &str, tag: &str| -> Option<i64> {
        let found = |found: &&ImageTagSpec| found.tag == tag;
        node.spec.images.get(name)?.tags.iter().find(found).map(|tag| tag.version)
    };
    let count = |phase: &str| {
        let entries =
            status.image_statuses.iter().flat_map(|(name, image)| image.tags.iter().map(move |tag| (name, tag)));
        let of_phase = entries.filter(|(name, tag)| tag.phase == phase && version(name, &tag.tag) == Some(tag.version));
        i32::try_from(of_phase.count()).unwrap_or(i32::MAX)
    };
    let counts = ["Succeeded", "Failed", "Pulling", "Waiting"].map(count);
    [status.succeeded, status.failed, status.pulling, status.waiting] = counts;
    let desired = node.spec.images.values().map(|image| image.tags.len()).sum::<usize>();
    status.desired = i32::try_from(desired).unwrap_or(i32::MAX);
}

/// A time of the API, which has whole seconds.
pub fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

// === impl Verdict ===

impl Verdict {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::NoAnswer, Self::NotReady, Self::Deadline];

    /// In a metric's words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NotReady => "not_ready",
            Self::Deadline => "deadline",
        }
    }

    /// The texts of the reference, and why.
    fn message(self, node: &str, machine: Option<&Machine>, deadline: i64) -> String {
        match self {
            Self::NoAnswer if machine.is_none() => {
                format!("node has not responded for a long time: there is no Node {node}, so nobody pulls there")
            }
            Self::NoAnswer => format!(
                "node has not responded for a long time: no daemon took the tag within {RESPONSE} s; is one running on \
                 node {node}? See `kubectl get pods -A -o wide --field-selector spec.nodeName={node}`"
            ),
            Self::NotReady => {
                let since = machine.and_then(|machine| Timestamp::from_second(machine.since).ok());
                let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
                format!("node has not responded for a long time: node {node} is not Ready{since}")
            }
            Self::Deadline => format!(
                "pulling exceeds the activeDeadlineSeconds: it did not end within {deadline} s, and the daemon of node \
                 {node} has not said so itself"
            ),
        }
    }
}

// === impl Machine ===

impl Machine {
    /// Seconds since 1970 from which on the node may have a NodeImage (IMG-2); `None` when it may not.
    pub fn due(&self, delay: i64) -> Option<i64> {
        (self.is_ready && !self.is_going && !self.is_virtual).then(|| self.since.saturating_add(delay))
    }

    /// Reads a core/v1 Node, whatever is in it.
    pub fn read(object: &serde_json::Value) -> Self {
        let metadata = &object["metadata"];
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let labels: Labels =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
        let since = ready.and_then(|ready| ready["lastTransitionTime"].as_str()).and_then(seconds);
        let created = || metadata["creationTimestamp"].as_str().and_then(seconds);
        Self {
            is_ready: ready.is_some_and(|ready| ready["status"] == "True"),
            since: since.or_else(created).unwrap_or_default(),
            is_virtual: labels.get(names::NODE_TYPE).is_some_and(|kind| kind == names::VIRTUAL_KUBELET),
            is_going: metadata["deletionTimestamp"].is_string(),
            labels: Arc::new(labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-03-02T08:10:00Z".parse().unwrap()
    }

    fn object() -> Value {
        json!({
            "metadata": {"name": "worker-b", "uid": "u", "generation": 3, "resourceVersion": "7",
                "labels": {"kubernetes.io/arch": "amd64"}, "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"images": {"registry.local:5000/cart": {
                "pullSecrets": [{"namespace": "kruise-daemon-config", "name": "reg-cred-a1b2c3", "mode": "batch"}],
                "sandboxConfig": {"labels": {"team": "shop"}},
                "tags": [{"tag": "v7", "version": 1, "createdAt": "2026-03-02T08:00:00Z", "imagePullPolicy": "IfNotPresent",
                    "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3, "ttlSecondsAfterFinished": 2231},
                    "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob",
                        "namespace": "shop", "name": "warm-v7", "uid": "0e9c"},
                        {"apiVersion": "v1", "kind": "ImagePullJob", "uid": "other"}]}]}}},
            "status": {"desired": 1, "imageStatuses": {"registry.local:5000/cart": {"tags": [
                {"tag": "v7", "version": 1, "phase": "Failed", "completionTime": "2026-03-02T08:00:19Z", "message": "no \"such\""},
                {"tag": "v6", "version": 4, "phase": "Succeeded"}]}}},
        })
    }

    fn read(object: &Value) -> Node {
        Node::read(&object.to_string())
    }

    #[test]
    fn a_node_image_is_read_as_the_specification_shows_it() {
        let node = read(&object());
        let tag = node.tag("registry.local:5000/cart", "v7").unwrap();
        let at = |time: &str| time.parse::<Timestamp>().unwrap().as_second();
        assert_eq!((tag.version, tag.created, tag.ttl), (1, Some(at("2026-03-02T08:00:00Z")), Some(2231)));
        assert_eq!(tag.answer, Answer::Failed(at("2026-03-02T08:00:19Z"), "no \"such\"".into()));
        assert!(tag.is_of("0e9c") && !tag.is_of("other"), "IMG-14: {:?}", tag.owners);
        assert_eq!((node.generation, node.has, node.is_readable), (3, (true, true), true));
        assert_eq!(node.first_version("registry.local:5000/cart", "v6"), 5, "IMG-60");
        assert_eq!(node.first_version("registry.local:5000/cart", "v5"), 0);
    }

    #[test]
    fn a_status_speaks_for_its_version_only_img_61() {
        let mut older = object();
        older["spec"]["images"]["registry.local:5000/cart"]["tags"][0]["version"] = json!(2);
        assert_eq!(read(&older).tag("registry.local:5000/cart", "v7").unwrap().answer, Answer::Silent);
    }

    #[rstest]
    #[case::nothing("{}")]
    #[case::no_object("7")]
    #[case::odd(r#"{"metadata":{"name":"n"},"spec":{"images":{"x":{"tags":"none"}}}}"#)]
    fn what_cannot_be_read_is_there_by_its_name(#[case] raw: &str) {
        assert!(!Node::read(raw).is_readable);
    }

    #[test]
    fn what_a_tag_may_become_is_estimated_above_what_it_is() {
        let node = read(&object());
        let image = &node.images[0];
        let estimate = node.own_bytes() + image.own_bytes() + image.tag_bytes(&image.tags[0]);
        assert!(estimate > node.bytes, "{estimate} {}", node.bytes);
        let alone =
            bytes_for("registry.local:5000/cart", "v7", "shopwarm-v7".len(), &image.secrets, image.sandbox_bytes);
        assert!(alone >= image.own_bytes() + tag_bytes(&image.name, "v7"));
    }

    fn typed(change: impl FnOnce(&mut Value)) -> NodeImage {
        let mut object = object();
        object["status"]["imageStatuses"]["registry.local:5000/cart"]["tags"][0] =
            json!({"tag": "v7", "version": 1, "phase": "Pulling", "startTime": "2026-03-02T08:00:01Z", "progress": 40});
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    const IMAGE: &str = "registry.local:5000/cart";

    #[test]
    fn who_does_not_answer_in_time_is_given_up_and_the_status_is_trimmed_img_21_img_24() {
        let node = typed(|object| object["spec"]["images"][IMAGE]["tags"][0]["version"] = json!(2));
        let machine = Machine { is_ready: true, ..Machine::default() };
        assert_eq!(judge(&node, Some(&machine), "2026-03-02T08:09:59Z".parse().unwrap()), None);
        let (status, failures) = judge(&node, Some(&machine), now()).unwrap();
        let tags = &status.image_statuses[IMAGE].tags;
        assert_eq!(tags.len(), 1, "v6 is in the spec no more");
        assert_eq!(
            (tags[0].phase.as_str(), tags[0].version, tags[0].completion_time.clone()),
            ("Failed", 2, Some(whole(now())))
        );
        assert!(tags[0].message.starts_with("node has not responded for a long time"), "{}", tags[0].message);
        assert_eq!((status.desired, status.failed, status.pulling), (1, 1, 0));
        assert_eq!((failures[0].verdict, failures[0].owners.len()), (Verdict::NoAnswer, 2));
        assert_eq!(failures[0].image, "registry.local:5000/cart:v7");
    }

    #[rstest]
    #[case::no_deadline(None, None)]
    #[case::within(Some(1), None)]
    #[case::over(Some(0), Some(Verdict::Deadline))]
    fn a_pull_that_outlives_its_deadline_is_given_up_img_22(
        #[case] deadline: Option<i64>,
        #[case] expected: Option<Verdict>,
    ) {
        let node = typed(|object| {
            object["spec"]["images"][IMAGE]["tags"][0]["pullPolicy"]["activeDeadlineSeconds"] = json!(deadline);
        });
        let judged = judge(&node, None, now());
        assert_eq!(judged.as_ref().map(|(_, failures)| failures[0].verdict), expected);
        if let Some((status, _)) = judged {
            let tag = &status.image_statuses[IMAGE].tags[0];
            assert!(tag.message.starts_with("pulling exceeds the activeDeadlineSeconds") && tag.start_time.is_some());
        }
    }

    #[test]
    fn a_node_that_is_not_ready_is_given_up_sooner_weak_47() {
        let node = typed(|object| object["spec"]["images"][IMAGE]["tags"][0]["version"] = json!(2));
        let since = "2026-03-02T07:59:00Z".parse::<Timestamp>().unwrap().as_second();
        let machine = Machine { is_ready: false, since, ..Machine::default() };
        assert_eq!(judge(&node, Some(&machine), "2026-03-02T08:01:59Z".parse().unwrap()), None);
        let (_, failures) = judge(&node, Some(&machine), "2026-03-02T08:02:00Z".parse().unwrap()).unwrap();
        assert_eq!(failures[0].verdict, Verdict::NotReady);
        assert_eq!(
            failures[0].message,
            "node has not responded for a long time: node worker-b is not Ready since 2026-03-02T07:59:00Z"
        );
    }

    #[test]
    fn what_has_ended_is_nobodys_to_judge() {
        let node: NodeImage = serde_json::from_value(object()).unwrap();
        assert_eq!(judge(&node, None, "2026-03-03T08:00:00Z".parse().unwrap()), None);
    }

    #[test]
    fn a_node_is_read_by_its_labels_and_its_readiness() {
        let machine = Machine::read(&json!({
            "metadata": {"labels": {"type": "virtual-kubelet"}},
            "status": {"conditions": [{"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-02T08:00:00Z"}]},
        }));
        assert!(machine.is_ready && machine.is_virtual && !machine.is_going);
        assert_eq!(machine.due(30), None, "IMG-3");
        let plain = Machine { is_virtual: false, ..machine };
        assert_eq!(plain.due(30), Some("2026-03-02T08:00:30Z".parse::<Timestamp>().unwrap().as_second()));
        assert_eq!(Machine::read(&Value::Null), Machine::default());
    }
}
