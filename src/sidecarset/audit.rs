//! Why a live pod carries a SidecarSet, or does not (issue of the pod that silently misses its sidecar).
//!
//! [`audit`] judges every set with the reasons of [`select`] and adds those that only a live pod can have: the namespace
//! is not sent to the webhook (WH-4), the pod is older than the set, or the set was missed. "Missed" is said only of what
//! the API server's own times show: the pod came after the set and its selectors, carries nothing that the webhook
//! put into it, and no label has changed since. Everything short of that is a [`Doubt`].
//!
//! The times are `creationTimestamp`, `metadata.generation` and `managedFields`. What they cannot show is an edit that
//! only removes a field: it leaves no time behind.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::admit::Stored;
use super::compiled::{CompileError, Compiled, RevisionError};
use super::records::{self, Carried};
use super::select::{Index, Namespace, Verdict, select};
use super::validate::Problem;
use crate::api::meta::{LabelSelector, LabelSelectorRequirement};
use crate::api::names;
use crate::api::sidecarset::InjectionRevision;
use crate::pod::{Metadata, Pairs};
use crate::selector::{Requirement, Selector};

/// The webhook configuration that sends pods to us (WH-8).
pub const CONFIGURATION: &str = "kruise-mutating-webhook-configuration";
/// Type of the condition that tells whether pods were missed.
pub const CONDITION: &str = "InjectionComplete";
/// In the condition's message, before the time since when the selectors are what they are.
pub const SINCE: &str = "Its selectors are unchanged since ";
/// The annotation of the mirror of a static pod, which the kubelet runs from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Namespaces with this label are never sent to the webhook (WH-4).
const CONTROL_PLANE: &str = "control-plane";
/// A replica may learn of a set this much later than it was written; pods that came meanwhile were not missed.
const SETTLING: SignedDuration = SignedDuration::from_secs(5);
/// Times on the API server are whole seconds, and those of one write may differ by one.
const GRAIN: SignedDuration = SignedDuration::from_secs(1);

/// A pod of the API server, as far as an audit looks at it: its metadata are enough.
#[derive(Debug)]
pub struct LivePod<'a> {
    metadata: Metadata<'a>,
    carried: BTreeMap<String, Carried>,
    created: Option<Timestamp>,
    labels_changed: Option<Timestamp>,
    is_static: bool,
    is_finished: bool,
    is_going_away: bool,
}

/// A SidecarSet of the API server, as far as an audit looks at it: what it selects and since when.
#[derive(Debug)]
pub struct LiveSet {
    /// Its selectors, without what it injects.
    pub compiled: Compiled,
    /// UID of the object.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Since when its selectors are what they are, as far as the object itself tells.
    pub selects_since: Option<Timestamp>,
    /// Everything that decides which pods it selects, as JSON.
    pub selection: String,
    /// Hash of its containers (HASH-1).
    pub hash: String,
    /// Name of its newest revision, when its status tells.
    pub revision: String,
    /// The revision that it injects instead of its current spec (REV-2).
    pub pinned: Option<InjectionRevision>,
    /// Whether its spec has no container at all.
    pub is_empty: bool,
}

/// The live sets, found fast by a pod's labels.
#[derive(Debug, Default)]
pub struct LiveSets {
    sets: Vec<Compiled>,
    index: Index,
    facts: HashMap<String, Facts>,
}

/// What [`LiveSet`] says beside its selectors.
#[derive(Clone, Debug, Default)]
struct Facts {
    created: Option<Timestamp>,
    selects_since: Option<Timestamp>,
    hash: String,
    revision: String,
    pinned: Option<InjectionRevision>,
    is_empty: bool,
}

/// The namespace of a live pod.
#[derive(Clone, Copy, Debug)]
pub struct LiveNamespace<'a> {
    /// Its name and labels.
    pub namespace: Namespace<'a>,
    /// When its labels were last written.
    pub labels_changed: Option<Timestamp>,
}

/// How pods are sent to the webhook, as registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    hooks: Vec<Hook>,
    created: Option<Timestamp>,
    is_known: bool,
}

/// One entry of the webhook configuration that concerns new pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Whether pods are let in when it does not answer: `failurePolicy: Ignore`.
    pub is_ignorable: bool,
    namespace_selector: Selector,
    object_selector: Selector,
}

/// What is found of one SidecarSet for one live pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// The pod carries it.
    Injected(Currency),
    /// The API server does not send the pod to the webhook.
    Excluded(Exclusion<'a>),
    /// It does not apply; never [`Verdict::Selected`].
    NotSelected(Verdict<'a>),
    /// The kubelet runs the pod from a file of its node, and no webhook has a say in it.
    StaticPod,
    /// The pod has finished, and nothing can be injected any more.
    Finished,
    /// The set has no containers.
    NothingToInject,
    /// The pod is older than the set.
    CreatedBefore {
        /// When the pod was created.
        pod: Timestamp,
        /// When the set was created.
        set: Timestamp,
    },
    /// It applies today and the pod lacks it, yet nothing shows that it applied when the pod was created.
    Unproven(Doubt),
    /// It applied when the pod was created, and was not injected.
    Missed(Away),
}

/// How what a pod carries compares with its SidecarSet (ANN-9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Currency {
    /// The current containers.
    UpToDate,
    /// The revision that `injectionStrategy` names.
    Pinned(String),
    /// Another revision; both names, empty when not known.
    Outdated {
        /// The one that the pod carries.
        carried: String,
        /// The newest one.
        newest: String,
    },
    /// The record does not say.
    Unknown,
}

/// Why the API server does not send a pod to the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion<'a> {
    /// A term of the hook's `namespaceSelector`.
    Namespace {
        /// Name of the hook.
        hook: &'a str,
        /// The term that the namespace does not meet.
        term: &'a Requirement,
    },
    /// A term of the hook's `objectSelector`.
    Object {
        /// Name of the hook.
        hook: &'a str,
        /// The term that the pod does not meet.
        term: &'a Requirement,
    },
}

/// Why it is not known that a set was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The set was changed after the pod was created; when, if that is known.
    SetChanged(Option<Timestamp>),
    /// The set was written so shortly before the pod that the webhook may not have known it.
    SetTooNew(Timestamp),
    /// The namespace's labels were written after the pod was created.
    NamespaceChanged(Timestamp),
    /// The pod's labels were written after it was created.
    LabelsChanged(Timestamp),
    /// This canary, which the pod carries, stood in (CAN-2).
    CanaryStoodIn(String),
    /// The webhook was asked, since the pod carries this other set, and left this one out.
    Asked(String),
    /// The API server tells no creation time.
    NoTimes,
}

/// Where the webhook was when it was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Away {
    /// No hook for pods is registered.
    NotRegistered,
    /// It was registered after the pod was created.
    RegisteredLater(Timestamp),
    /// Pods are let in when it does not answer.
    Ignored,
    /// Pods are refused today when it does not answer; it was not so then.
    Fail,
    /// The registration may not be read.
    Unknown,
}

/// What a finding comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The set has no business with the pod.
    NotConcerned,
    /// The pod carries it.
    Covered,
    /// It applies today and the pod lacks it, by no fault of the webhook; a pod that is created anew would get it.
    Lacking,
    /// What decides may not be read.
    Undecided,
    /// It was missed.
    Missed,
}

/// Judges the sets for a live pod. Those that the pod carries, or that may select it, come first in no order; sets that an
/// index has ruled out are left away unless `all` are asked for.
pub fn audit<'a>(
    pod: &LivePod<'_>,
    sets: &'a LiveSets,
    namespace: LiveNamespace<'_>,
    registration: &'a Registration,
    all: bool,
) -> Vec<(&'a str, Finding<'a>)> {
    let candidates: Vec<&Compiled> = if all {
        sets.sets.iter().collect()
    } else {
        sets.index.candidates(&pod.metadata.labels).map(|place| &sets.sets[place]).collect()
    };
    let exclusion = registration.exclusion(namespace.namespace, &pod.metadata.labels);
    let judged = select(candidates.into_iter(), &pod.metadata, namespace.namespace);
    let finding = |(set, verdict): (&'a Compiled, Verdict<'a>)| {
        let facts = sets.facts.get(&set.name)?;
        let finding = match (pod.carried.get(&set.name), &exclusion, verdict) {
            (Some(carried), _, _) => Finding::Injected(facts.currency(carried)),
            (None, Some(exclusion), _) => Finding::Excluded(exclusion.clone()),
            (None, None, Verdict::Selected) => pod.lacks(set, sets, facts, namespace, registration),
            (None, None, verdict) => Finding::NotSelected(verdict),
        };
        Some((set.name.as_str(), finding))
    };
    judged.into_iter().filter_map(finding).collect()
}

// === impl LivePod ===

impl<'a> LivePod<'a> {
    /// Reads the metadata of a pod. `phase` is `status.phase`, when it is known.
    pub fn new(object: &'a ObjectMeta, phase: Option<&str>) -> Self {
        let mut metadata = Metadata::default();
        metadata.labels = object.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let annotation = |key: &str| object.annotations.as_ref()?.get(key).map(String::as_str);
        let created = time(object.creation_timestamp.as_ref());
        let labels_changed = labels_written(object);
        Self {
            // As when it was admitted: that it goes away now is told apart.
            metadata,
            carried: records::carried(annotation(names::HASH), annotation(names::INJECTED_LIST)),
            created,
            labels_changed: labels_changed.filter(|changed| created.is_some_and(|created| *changed > created + GRAIN)),
            is_static: annotation(MIRROR).is_some(),
            is_finished: matches!(phase, Some("Succeeded" | "Failed")),
            is_going_away: object.deletion_timestamp.is_some(),
        }
    }

    /// The SidecarSets that its record names.
    pub fn carries(&self) -> impl Iterator<Item = &str> {
        self.carried.keys().map(String::as_str)
    }

    /// Why it lacks a set that selects it.
    fn lacks<'f>(
        &self,
        set: &Compiled,
        sets: &LiveSets,
        facts: &Facts,
        namespace: LiveNamespace<'_>,
        registration: &Registration,
    ) -> Finding<'f> {
        if self.is_static {
            return Finding::StaticPod;
        }
        if self.is_finished {
            return Finding::Finished;
        }
        if self.is_going_away {
            return Finding::NotSelected(Verdict::PodGoingAway);
        }
        if facts.is_empty {
            return Finding::NothingToInject;
        }
        let (Some(pod), Some(created)) = (self.created, facts.created) else {
            return Finding::Unproven(Doubt::NoTimes);
        };
        if pod < created {
            return Finding::CreatedBefore { pod, set: created };
        }
        match self.doubt(pod, set, sets, facts, namespace) {
            Some(doubt) => Finding::Unproven(doubt),
            None => Finding::Missed(registration.away(pod)),
        }
    }

    fn doubt(
        &self,
        created: Timestamp,
        set: &Compiled,
        sets: &LiveSets,
        facts: &Facts,
        namespace: LiveNamespace<'_>,
    ) -> Option<Doubt> {
        let Some(since) = facts.selects_since else { return Some(Doubt::SetChanged(None)) };
        if created < since {
            return Some(Doubt::SetChanged(Some(since)));
        }
        if created <= since + SETTLING {
            return Some(Doubt::SetTooNew(since));
        }
        let asks_labels =
            |selector: &Selector| selector.requirements().iter().any(|term| term.key != names::NAMESPACE_NAME);
        if let Some(changed) = namespace.labels_changed.filter(|changed| *changed > created)
            && set.namespace_selector.as_ref().is_some_and(asks_labels)
        {
            return Some(Doubt::NamespaceChanged(changed));
        }
        if let Some(changed) = self.labels_changed {
            return Some(Doubt::LabelsChanged(changed));
        }
        // Only the webhook writes a record when a pod is created, so it was there.
        let other = self.carries().next()?;
        let stands_in = |name: &&str| {
            let known = sets.sets.iter().find(|known| known.name == *name);
            known.is_none_or(|known| known.canary_of.as_deref() == Some(&set.name))
        };
        Some(match self.carries().find(stands_in) {
            Some(canary) => Doubt::CanaryStoodIn(canary.to_owned()),
            None => Doubt::Asked(other.to_owned()),
        })
    }
}

// === impl LiveSet ===

impl LiveSet {
    /// Reads an object of the API server. What it injects is not kept.
    pub fn read(mut document: Value) -> Result<Self, Problem> {
        if document["apiVersion"].as_str().is_none_or(str::is_empty) {
            document["apiVersion"] = names::V1BETA1.into();
        }
        let object: ObjectMeta = serde_json::from_value(document["metadata"].clone()).unwrap_or_default();
        let condition = condition(&document).cloned().unwrap_or_default();
        let hash = document["metadata"]["annotations"][names::HASH].as_str().map(str::to_owned);
        let mut stored = Stored::read(document)?;
        let set = &mut stored.set;
        let selection = json!({
            "selector": &set.spec.selector,
            "namespaceSelector": &set.spec.namespace_selector,
            "paused": set.spec.injection_strategy.paused,
            "canaryOf": set.canary_base(),
        });
        let is_empty = set.containers().is_empty() && set.init_containers().is_empty();
        let hash = hash.or_else(|| set.metadata.annotations.get(names::HASH).cloned()).unwrap_or_default();
        let pinned = set.spec.injection_strategy.revision.take();
        let pinned = pinned.filter(|pin| pin.revision_name.is_some() || pin.custom_version.is_some());
        let revision = set.status.latest_revision.clone();
        // Only selectors are judged, and thousands of sets may be kept.
        (set.spec.containers, set.spec.init_containers) = (None, None);
        (set.spec.volumes, set.spec.patch_pod_metadata) = (Vec::new(), Vec::new());
        let missing =
            |_: &InjectionRevision| Err(RevisionError::Missing { set: String::new(), wanted: "a revision".to_owned() });
        let compiled = Compiled::new(set, &crate::api::json::Unknown::default(), missing)
            .map_err(|error: CompileError| Problem { field: "spec".to_owned(), message: error.fault.to_string() })?;
        let created = time(object.creation_timestamp.as_ref());
        let generation = object.generation.unwrap_or_default();
        Ok(Self {
            uid: object.uid.clone().unwrap_or_default(),
            generation,
            created,
            selects_since: selects_since(&object, &condition),
            selection: selection.to_string(),
            hash,
            revision,
            pinned,
            is_empty,
            compiled,
        })
    }
}

/// The condition that is written by the loop that looks for missed pods.
pub fn condition(set: &Value) -> Option<&Value> {
    set["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == CONDITION)
}

/// Since when the selectors of a set are what they are: since it was created, if its spec never changed; since the time that
/// is told by the one who watches it, if that was about this very spec; else since anybody last wrote its spec.
fn selects_since(object: &ObjectMeta, condition: &Value) -> Option<Timestamp> {
    let created = time(object.creation_timestamp.as_ref());
    if object.generation == Some(1) {
        return created;
    }
    if condition["observedGeneration"].as_i64() == object.generation
        && let Some((_, since)) = condition["message"].as_str().unwrap_or_default().rsplit_once(SINCE)
        && let Ok(since) = since.trim_end_matches('.').parse()
    {
        return Some(since);
    }
    last_written(object, &["f:spec"]).max(created)
}

fn time(time: Option<&meta::Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

/// When the labels of an object were last written by anyone, as far as it tells.
pub fn labels_written(object: &ObjectMeta) -> Option<Timestamp> {
    last_written(object, &["f:metadata", "f:labels"])
}

/// When the fields below `path` were last written, by anyone and not by way of a subresource.
fn last_written(object: &ObjectMeta, path: &[&str]) -> Option<Timestamp> {
    let entries = object.managed_fields.iter().flatten();
    let writes = |entry: &&meta::ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let found = path.iter().try_fold(fields?, |fields, key| fields.get(key));
        found.filter(|_| entry.subresource.as_ref().is_none_or(String::is_empty)).map(|_| ())
    };
    entries.filter(|entry| writes(entry).is_some()).filter_map(|entry| time(entry.time.as_ref())).max()
}

// === impl LiveSets ===

impl FromIterator<LiveSet> for LiveSets {
    fn from_iter<I: IntoIterator<Item = LiveSet>>(sets: I) -> Self {
        let mut all = Self::default();
        sets.into_iter().for_each(|set| all.put(set));
        all.index = Index::new(&all.sets);
        all
    }
}

impl LiveSets {
    /// Puts a set in place of the one of its name.
    pub fn insert(&mut self, set: LiveSet) {
        self.put(set);
        self.index = Index::new(&self.sets);
    }

    /// Forgets a set.
    pub fn remove(&mut self, name: &str) {
        self.facts.remove(name);
        self.sets.retain(|set| set.name != name);
        self.index = Index::new(&self.sets);
    }

    fn put(&mut self, set: LiveSet) {
        let LiveSet { compiled, created, selects_since, hash, revision, pinned, is_empty, .. } = set;
        let facts = Facts { created, selects_since, hash, revision, pinned, is_empty };
        if self.facts.insert(compiled.name.clone(), facts).is_some() {
            self.sets.retain(|known| known.name != compiled.name);
        }
        self.sets.push(compiled);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

// === impl Facts ===

impl Facts {
    fn currency(&self, carried: &Carried) -> Currency {
        let pinned = |pin: &InjectionRevision| pin.revision_name.as_ref() == Some(&carried.revision);
        if carried.hash.is_empty() {
            Currency::Unknown
        } else if carried.hash == self.hash {
            Currency::UpToDate
        } else if self.pinned.as_ref().is_some_and(pinned) {
            Currency::Pinned(carried.revision.clone())
        } else {
            Currency::Outdated { carried: carried.revision.clone(), newest: self.revision.clone() }
        }
    }
}

// === impl Registration ===

impl Registration {
    /// What the configuration registers for new pods; `None` is one that does not exist.
    pub fn of(configuration: Option<&MutatingWebhookConfiguration>) -> Self {
        let hooks = configuration.and_then(|configuration| configuration.webhooks.as_deref()).unwrap_or_default();
        Self {
            hooks: hooks.iter().filter(|hook| concerns_new_pods(hook)).map(Hook::of).collect(),
            created: configuration.and_then(|object| time(object.metadata.creation_timestamp.as_ref())),
            is_known: true,
        }
    }

    /// What is registered by default, for someone who may not read it.
    pub fn assumed(operator_namespace: &str) -> Self {
        let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let selector = LabelSelector {
            match_expressions: vec![
                expression(CONTROL_PLANE, "DoesNotExist", &[]),
                expression(names::NAMESPACE_NAME, "NotIn", &["kube-system", operator_namespace]),
            ],
            ..LabelSelector::default()
        };
        let hook = Hook {
            name: "mpod.kb.io".to_owned(),
            is_ignorable: false,
            namespace_selector: Selector::try_from(&selector).unwrap_or_default(),
            object_selector: Selector::default(),
        };
        Self { hooks: vec![hook], created: None, is_known: false }
    }

    /// The hooks that new pods are sent to.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Whether it was read, not assumed.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Why pods like this are sent to no hook. Without any hook nothing is excluded: then every pod is missed.
    fn exclusion(&self, namespace: Namespace<'_>, labels: &Pairs<'_>) -> Option<Exclusion<'_>> {
        let mut reason = None;
        for hook in &self.hooks {
            reason = Some(hook.exclusion(namespace, labels)?);
        }
        reason
    }

    /// Where the webhook was when a pod was created that it was not asked about.
    fn away(&self, pod: Timestamp) -> Away {
        match self.created {
            _ if !self.is_known => Away::Unknown,
            _ if self.hooks.is_empty() => Away::NotRegistered,
            Some(created) if created > pod => Away::RegisteredLater(created),
            _ if self.hooks.iter().all(|hook| hook.is_ignorable) => Away::Ignored,
            _ => Away::Fail,
        }
    }
}

/// Whether a hook is asked about pods that are created.
fn concerns_new_pods(hook: &MutatingWebhook) -> bool {
    let holds =
        |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|item| item == wanted || item == "*");
    hook.rules
        .iter()
        .flatten()
        .any(|rule| holds(&rule.api_groups, "") && holds(&rule.resources, "pods") && holds(&rule.operations, "CREATE"))
}

// === impl Hook ===

impl Hook {
    fn of(hook: &MutatingWebhook) -> Self {
        Self {
            name: hook.name.clone(),
            is_ignorable: hook.failure_policy.as_deref() == Some("Ignore"),
            namespace_selector: selector(hook.namespace_selector.as_ref()),
            object_selector: selector(hook.object_selector.as_ref()),
        }
    }

    fn exclusion(&self, namespace: Namespace<'_>, labels: &Pairs<'_>) -> Option<Exclusion<'_>> {
        let fails = |term: &&Requirement| match namespace.labels {
            _ if term.key == names::NAMESPACE_NAME => !term.holds(Some(namespace.name)),
            Some(labels) => !term.holds(labels.get(&term.key).map(String::as_str)),
            None => false,
        };
        if let Some(term) = self.namespace_selector.requirements().iter().find(fails) {
            return Some(Exclusion::Namespace { hook: &self.name, term });
        }
        let term = self.object_selector.mismatch(labels)?;
        Some(Exclusion::Object { hook: &self.name, term })
    }
}

/// The API server has validated it; one that cannot be read excludes nothing.
fn selector(selector: Option<&meta::LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::default() };
    let own = LabelSelector {
        match_labels: selector.match_labels.clone().unwrap_or_default(),
        match_expressions: selector
            .match_expressions
            .iter()
            .flatten()
            .map(|expression| LabelSelectorRequirement {
                key: expression.key.clone(),
                operator: expression.operator.clone(),
                values: expression.values.clone().unwrap_or_default(),
            })
            .collect(),
    };
    Selector::try_from(&own).unwrap_or_default()
}

// === impl Finding ===

impl Finding<'_> {
    /// What it comes to.
    pub fn standing(&self) -> Standing {
        match self {
            Self::Injected(_) => Standing::Covered,
            Self::NotSelected(Verdict::NamespaceUnknown) => Standing::Undecided,
            Self::Excluded(_) | Self::NotSelected(_) | Self::StaticPod | Self::Finished | Self::NothingToInject => {
                Standing::NotConcerned
            }
            Self::CreatedBefore { .. } | Self::Unproven(_) => Standing::Lacking,
            Self::Missed(_) => Standing::Missed,
        }
    }

    /// A word for programs, of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Injected(Currency::UpToDate) => "Injected",
            Self::Injected(Currency::Pinned(_)) => "InjectedPinned",
            Self::Injected(Currency::Outdated { .. }) => "InjectedOutdated",
            Self::Injected(Currency::Unknown) => "InjectedUnknown",
            Self::Excluded(Exclusion::Namespace { .. }) => "NamespaceExcluded",
            Self::Excluded(Exclusion::Object { .. }) => "PodExcluded",
            Self::NotSelected(verdict) => match verdict {
                Verdict::Selected => "Selected",
                Verdict::PodGoingAway => "PodGoingAway",
                Verdict::Paused => "InjectionPaused",
                Verdict::NamespaceNotSelected(_) => "NamespaceNotSelected",
                Verdict::NamespaceUnknown => "NamespaceUnknown",
                Verdict::NotSelected(_) => "NotSelected",
                Verdict::SelectsNothing => "SelectsNothing",
                Verdict::CanaryTookOver(_) => "CanaryTookOver",
            },
            Self::StaticPod => "StaticPod",
            Self::Finished => "PodFinished",
            Self::NothingToInject => "NothingToInject",
            Self::CreatedBefore { .. } => "CreatedBeforeSet",
            Self::Unproven(doubt) => match doubt {
                Doubt::SetChanged(_) => "SetChangedSince",
                Doubt::SetTooNew(_) => "SetTooNew",
                Doubt::NamespaceChanged(_) => "NamespaceChangedSince",
                Doubt::LabelsChanged(_) => "LabelsChangedSince",
                Doubt::CanaryStoodIn(_) => "CanaryStoodIn",
                Doubt::Asked(_) => "LeftOut",
                Doubt::NoTimes => "NoTimes",
            },
            Self::Missed(away) => away.reason(),
        }
    }
}

impl Away {
    /// All reasons for programs.
    pub const REASONS: [&'static str; 5] =
        ["WebhookNotRegistered", "WebhookRegisteredLater", "WebhookIgnored", "WebhookAway", "WebhookUnknown"];

    /// A word for programs, one of [`Self::REASONS`].
    pub fn reason(self) -> &'static str {
        let place = match self {
            Self::NotRegistered => 0,
            Self::RegisteredLater(_) => 1,
            Self::Ignored => 2,
            Self::Fail => 3,
            Self::Unknown => 4,
        };
        Self::REASONS[place]
    }
}

impl Standing {
    /// A word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConcerned => "NotConcerned",
            Self::Covered => "Covered",
            Self::Lacking => "Lacking",
            Self::Undecided => "Undecided",
            Self::Missed => "Missed",
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected(currency) => write!(f, "injected, {currency}"),
            Self::Excluded(exclusion) => write!(f, "does not apply: {exclusion}"),
            Self::NotSelected(verdict) => verdict.fmt(f),
            Self::StaticPod => write!(f, "does not apply: the kubelet runs this pod from a file of its node"),
            Self::Finished => write!(f, "does not apply: the pod has finished"),
            Self::NothingToInject => write!(f, "applies, but has no containers"),
            Self::CreatedBefore { pod, set } => write!(
                f,
                "not injected: the pod was created at {pod}, before the SidecarSet at {set}; a new pod will get it"
            ),
            Self::Unproven(doubt) => write!(f, "not injected: {doubt}; a new pod will get it"),
            Self::Missed(away) => write!(f, "MISSED: it applied when the pod was created, and {away}"),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToDate => write!(f, "up to date"),
            Self::Pinned(revision) => write!(f, "with revision {revision}, which injectionStrategy names"),
            Self::Outdated { carried, newest } => {
                write!(f, "outdated: the SidecarSet has changed since")?;
                let told =
                    [("carries", carried), ("newest is", newest)].into_iter().filter(|(_, name)| !name.is_empty());
                told.enumerate().try_for_each(|(place, (what, name))| {
                    write!(f, "{} {what} {name}", if place == 0 { ";" } else { "," })
                })
            }
            Self::Unknown => write!(f, "by its list of SidecarSets; at which revision, its record does not say"),
        }
    }
}

impl fmt::Display for Exclusion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { hook, term } => write!(
                f,
                "the namespace is excluded: pods of it are not sent to the webhook, by the namespaceSelector of {hook} ({term})"
            ),
            Self::Object { hook, term } => {
                write!(f, "pods like this are not sent to the webhook, by the objectSelector of {hook} ({term})")
            }
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetChanged(Some(since)) => {
                write!(
                    f,
                    "the SidecarSet was changed after the pod was created, at {since}, and may not have selected it then"
                )
            }
            Self::SetChanged(None) => {
                write!(f, "the SidecarSet was changed, nobody knows when, and may not have selected the pod then")
            }
            Self::SetTooNew(since) => {
                write!(
                    f,
                    "the SidecarSet was written at {since}, seconds before the pod was created, and may not have been known yet"
                )
            }
            Self::NamespaceChanged(at) => {
                write!(
                    f,
                    "the namespace's labels were written after the pod was created, at {at}, and may have been others then"
                )
            }
            Self::LabelsChanged(at) => {
                write!(f, "the pod's labels were written after it was created, at {at}, and may have been others then")
            }
            Self::CanaryStoodIn(canary) => write!(f, "the pod carries {canary}, which stood in or is gone"),
            Self::Asked(other) => {
                write!(f, "the webhook was asked, for the pod carries {other}, and this one did not apply then")
            }
            Self::NoTimes => write!(f, "the creation times are not known"),
        }
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered => write!(f, "the webhook was away: none for pods is registered in {CONFIGURATION}"),
            Self::RegisteredLater(at) => write!(f, "the webhook was away: it was registered later, at {at}"),
            Self::Ignored => {
                write!(f, "the webhook was away: with failurePolicy Ignore, pods are let in when it does not answer")
            }
            Self::Fail => write!(
                f,
                "the webhook was away: it has failurePolicy Fail today, so it was not registered, or under Ignore, or \
                 excluded the pod, then"
            ),
            Self::Unknown => write!(f, "the webhook was away; how it is registered may not be read"),
        }
    }
}

#[cfg(test)]
mod tests;
