//! Judges pods: what they are judged by, and what was found. Plain data, shared by the loop and the watch of pods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ledger::Ledger;
use crate::api::json::Text;
use crate::controllers::pods::Head;
use crate::sidecarset::audit::{self, Away, Finding, LiveNamespace, LivePod, LiveSet, LiveSets, Registration, audit};
use crate::sidecarset::select;

/// Namespaces that pods were seen in before they were seen themselves.
const UNKNOWN_LIMIT: usize = 10_000;

/// What is known of all that decides whether a pod was missed.
#[derive(Debug)]
pub(super) struct Judge {
    sets: LiveSets,
    /// Names of the sets, as findings share them.
    names: BTreeMap<String, Arc<str>>,
    namespaces: HashMap<String, Labels>,
    /// Namespaces of pods that were to be judged before the namespace was seen.
    unknown: HashSet<String>,
    pub(super) registration: Registration,
    pub(super) ledger: Ledger,
    /// Whether a listing ever began: before that, too little is known to judge.
    is_ready: bool,
    has_news: bool,
}

/// Labels of a namespace and when they were written.
type Labels = (BTreeMap<String, String>, Option<Timestamp>);

/// A pod as the API server tells it: all of it, or its metadata alone.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow, default)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    phase: Option<Text<'a>>,
}

/// The metadata without what was managed in them, which is most of their text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Light {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(registration: Registration) -> Self {
        Self {
            sets: LiveSets::default(),
            names: BTreeMap::new(),
            namespaces: HashMap::new(),
            unknown: HashSet::new(),
            registration,
            ledger: Ledger::default(),
            is_ready: false,
            has_news: false,
        }
    }

    /// Takes a SidecarSet; pods that were judged before are not judged anew.
    pub(super) fn put_set(&mut self, name: &str, set: LiveSet) {
        self.names.entry(name.to_owned()).or_insert_with(|| name.into());
        self.sets.insert(set);
    }

    /// A SidecarSet is gone.
    pub(super) fn remove_set(&mut self, name: &str) {
        self.names.remove(name);
        self.sets.remove(name);
    }

    /// Takes a namespace. Whether pods may be judged otherwise now.
    pub(super) fn put_namespace(&mut self, object: ObjectMeta) -> bool {
        let changed = audit::labels_written(&object);
        let name = object.name.unwrap_or_default();
        let labels = object.labels.unwrap_or_default();
        let is_awaited = self.unknown.remove(&name);
        let before = self.namespaces.insert(name, (labels.clone(), changed));
        is_awaited || before.is_some_and(|(before, _)| before != labels)
    }

    /// Forgets the namespaces that are not `there`.
    pub(super) fn retain_namespaces(&mut self, is_there: impl Fn(&str) -> bool) {
        self.namespaces.retain(|name, _| is_there(name));
    }

    /// A listing of all pods begins.
    pub(super) fn begin(&mut self) {
        self.unknown.clear();
        self.ledger.begin();
        self.is_ready = true;
    }

    /// All pods were listed. Whether that can be relied upon.
    pub(super) fn complete(&mut self) -> bool {
        self.has_news = true;
        self.ledger.complete()
    }

    /// Whether something was found since this was asked last.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Takes what the watch tells of a pod that is gone.
    pub(super) fn gone(&mut self, uid: &str) {
        self.ledger.hear(uid);
        self.has_news |= self.ledger.forget(uid);
    }

    /// Takes what the watch tells of a pod, as JSON.
    pub(super) fn told(&mut self, head: &Head<'_>, raw: &str) {
        self.ledger.hear(&head.uid);
        self.judge(head, raw);
    }

    /// Takes what a listing says of a pod, the JSON of its metadata. The watch knows better what it told meanwhile.
    pub(super) fn listed(&mut self, head: &Head<'_>, raw: &str) {
        if !self.ledger.was_heard(&head.uid) {
            self.judge(head, raw);
        }
    }

    fn judge(&mut self, head: &Head<'_>, raw: &str) {
        let (uid, namespace, name) = (&*head.uid, &*head.namespace, &*head.name);
        if !self.is_ready || uid.is_empty() {
            return;
        }
        if !self.namespaces.contains_key(namespace) {
            // Whether it is excluded is not known before the namespace is.
            if self.unknown.len() < UNKNOWN_LIMIT {
                self.unknown.insert(namespace.to_owned());
            }
            return;
        }
        let missed = self.missed(namespace, raw);
        self.has_news |= !missed.is_empty() || self.ledger.forget(uid);
        if !missed.is_empty() {
            self.ledger.note(uid, namespace, name, missed);
        }
    }

    /// The sets that a pod was missed by.
    fn missed(&self, namespace: &str, raw: &str) -> Vec<(Arc<str>, Away)> {
        let Some((labels, changed)) = self.namespaces.get(namespace) else { return Vec::new() };
        let Ok(Raw { metadata, status }) = serde_json::from_str(raw) else { return Vec::new() };
        let around = LiveNamespace {
            namespace: select::Namespace { name: namespace, labels: Some(labels) },
            labels_changed: *changed,
        };
        let phase = status.and_then(|status| status.phase).map(|Text(phase)| phase);
        let missed = |object: &ObjectMeta| -> Vec<(Arc<str>, Away)> {
            let pod = LivePod::new(object, phase.as_deref());
            let findings = audit(&pod, &self.sets, around, &self.registration, false);
            let missed = findings.into_iter().filter_map(|(set, finding)| match finding {
                Finding::Missed(away) => Some((Arc::clone(self.names.get(set)?), away)),
                _ => None,
            });
            missed.collect()
        };
        // What was managed can only acquit, and is not read of the many pods that are in order.
        let is_in_order =
            serde_json::from_str::<Light>(metadata.get()).is_ok_and(|light| missed(&light.into()).is_empty());
        if is_in_order {
            return Vec::new();
        }
        serde_json::from_str::<ObjectMeta>(metadata.get()).map(|object| missed(&object)).unwrap_or_default()
    }
}

impl From<Light> for ObjectMeta {
    fn from(light: Light) -> Self {
        let Light { labels, annotations, creation_timestamp, deletion_timestamp } = light;
        Self { labels, annotations, creation_timestamp, deletion_timestamp, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn judge() -> Judge {
        let mut judge = Judge::new(Registration::of(None));
        let set = LiveSet::read(json!({
            "metadata": {"name": "mesh", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "agent:1"}]},
        }));
        judge.put_set("mesh", set.unwrap());
        judge.put_namespace(ObjectMeta { name: Some("shop".to_owned()), ..ObjectMeta::default() });
        judge
    }

    /// A pod that `mesh` selects and was not there for, with members changed.
    fn pod(change: &Value) -> Value {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "web"}, "creationTimestamp": "2026-03-02T00:00:00Z"},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            "status": {"phase": "Running"},
        });
        json_patch::merge(&mut pod, change);
        pod
    }

    fn take(judge: &mut Judge, pod: &Value) {
        let raw = pod.to_string();
        judge.told(&Head::read(&raw), &raw);
    }

    fn count(judge: &Judge) -> usize {
        judge.ledger.tallies().get("mesh").map_or(0, |tally| tally.count)
    }

    #[rstest]
    #[case::without_the_set(json!({}), 1)]
    #[case::by_its_metadata_alone(json!({"spec": null, "status": null}), 1)]
    #[case::with_the_set(json!({"metadata": {"annotations": {"kruise.io/sidecarset-injected-list": "mesh"}}}), 0)]
    #[case::not_selected(json!({"metadata": {"labels": {"app": "api"}}}), 0)]
    #[case::finished(json!({"status": {"phase": "Succeeded"}}), 0)]
    #[case::going_away(json!({"metadata": {"deletionTimestamp": "2026-03-03T00:00:00Z"}}), 0)]
    #[case::of_another_namespace(json!({"metadata": {"namespace": "bar"}}), 0)]
    #[case::labelled_later(json!({"metadata": {"managedFields": [{"manager": "kubectl", "operation": "Update",
        "time": "2026-03-02T08:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}}}]}}), 0)]
    #[case::labelled_when_it_was_made(json!({"metadata": {"managedFields": [{"manager": "kubectl", "operation": "Update",
        "time": "2026-03-02T00:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}}}]}}), 1)]
    fn a_pod_is_missed_by_what_the_watch_tells_of_it(#[case] change: Value, #[case] expected: usize) {
        let mut judge = judge();
        judge.begin();
        take(&mut judge, &pod(&change));
        assert_eq!((count(&judge), judge.take_news()), (expected, expected > 0));
    }

    #[test]
    fn a_pod_that_comes_to_be_in_order_or_goes_is_news() {
        for in_order in [true, false] {
            let mut judge = judge();
            judge.begin();
            take(&mut judge, &pod(&json!({})));
            assert!(judge.complete());
            assert!(judge.take_news() && !judge.take_news());
            if in_order {
                take(&mut judge, &pod(&json!({"status": {"phase": "Failed"}})));
            } else {
                judge.gone("u");
            }
            assert_eq!((count(&judge), judge.take_news()), (0, true));
        }
    }

    #[rstest]
    #[case::that_finished(Some(json!({"status": {"phase": "Succeeded"}})), json!({}), 0)]
    #[case::that_went(None, json!({}), 0)]
    #[case::that_is_selected_now(Some(json!({})), json!({"metadata": {"labels": {"app": "api"}}}), 1)]
    fn the_watch_is_believed_rather_than_a_listing_that_began_before(
        #[case] told: Option<Value>,
        #[case] listed: Value,
        #[case] expected: usize,
    ) {
        let mut judge = judge();
        judge.begin();
        match told {
            Some(change) => take(&mut judge, &pod(&change)),
            None => judge.gone("u"),
        }
        let raw = pod(&listed).to_string();
        judge.listed(&Head::read(&raw), &raw);
        judge.complete();
        assert_eq!(count(&judge), expected);
    }

    #[test]
    fn nothing_is_judged_before_pods_were_listed_and_nothing_of_a_namespace_before_it_is_known() {
        let mut judge = judge();
        take(&mut judge, &pod(&json!({})));
        assert_eq!(count(&judge), 0);
        judge.begin();
        take(&mut judge, &pod(&json!({"metadata": {"namespace": "bar"}})));
        let bar = |labels: &[(&str, &str)]| ObjectMeta {
            name: Some("bar".to_owned()),
            labels: Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..ObjectMeta::default()
        };
        assert!(judge.put_namespace(bar(&[])), "its pod waits");
        assert!(!judge.put_namespace(bar(&[])), "nothing is otherwise");
        assert!(judge.put_namespace(bar(&[("team", "shop")])));
    }
}
