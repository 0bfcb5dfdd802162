//! One pod, one set, one thing changed at a time.

use rstest::rstest;

use super::*;

/// The set of every test: created and never changed, then.
fn mesh(change: &Value) -> Value {
    let mut set = json!({
        "apiVersion": names::V1BETA1,
        "metadata": {
            "name": "mesh", "uid": "u", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z",
            "annotations": {names::HASH: "now"},
        },
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "proxy", "image": "envoy:1"}]},
        "status": {"latestRevision": "mesh-2"},
    });
    merge(&mut set, change);
    set
}

/// A pod that came a day later and carries nothing.
fn web(change: &Value) -> ObjectMeta {
    let mut pod = json!({
        "name": "web-0", "namespace": "shop", "labels": {"app": "web"}, "creationTimestamp": "2026-03-02T00:00:00Z",
    });
    merge(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, change: &Value) {
    json_patch::merge(into, change);
}

fn registration(change: &Value) -> Registration {
    let mut configuration = json!({
        "metadata": {"name": CONFIGURATION, "creationTimestamp": "2026-02-01T00:00:00Z"},
        "webhooks": [{
            "name": "mpod.kb.io", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None",
            "failurePolicy": "Fail",
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchExpressions": [
                {"key": "control-plane", "operator": "DoesNotExist"},
                {"key": names::NAMESPACE_NAME, "operator": "NotIn", "values": ["kube-system", "kruise-system"]},
            ]},
        }],
    });
    merge(&mut configuration, change);
    Registration::of(Some(&serde_json::from_value(configuration).unwrap()))
}

struct Scene {
    pod: ObjectMeta,
    phase: Option<&'static str>,
    sets: Vec<Value>,
    namespace: &'static str,
    labels: Option<BTreeMap<String, String>>,
    namespace_changed: Option<&'static str>,
    registration: Registration,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            pod: web(&json!({})),
            phase: None,
            sets: vec![mesh(&json!({}))],
            namespace: "shop",
            labels: Some(BTreeMap::new()),
            namespace_changed: None,
            registration: registration(&json!({})),
        }
    }
}

impl Scene {
    /// Reason, standing and sentence of the set `mesh`.
    fn finding(self) -> (&'static str, Standing, String) {
        let sets: LiveSets = self.sets.into_iter().map(|set| LiveSet::read(set).unwrap()).collect();
        let pod = LivePod::new(&self.pod, self.phase);
        let namespace = LiveNamespace {
            namespace: Namespace { name: self.namespace, labels: self.labels.as_ref() },
            labels_changed: self.namespace_changed.map(|time| time.parse().unwrap()),
        };
        let found = audit(&pod, &sets, namespace, &self.registration, true);
        let (_, finding) = found.into_iter().find(|(name, _)| *name == "mesh").unwrap();
        (finding.reason(), finding.standing(), finding.to_string())
    }
}

fn labelled(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// `managedFields` with one entry of this time for fields below `path`.
fn written(at: &str, fields: &Value) -> Value {
    json!([{"manager": "kubectl", "operation": "Update", "time": at, "fieldsV1": fields}])
}

fn record(set: &str, hash: &str) -> Value {
    let entry = json!({set: {"hash": hash, "sidecarSetName": set, "controllerRevision": format!("{set}-1")}});
    json!({"annotations": {names::HASH: entry.to_string(), names::INJECTED_LIST: set}})
}

#[rstest]
#[case::another_label(
    json!({"labels": {"app": "api"}}), json!({}),
    "NotSelected", "does not apply: the pod's labels do not meet spec.selector (app=web)"
)]
#[case::paused(
    json!({}), json!({"spec": {"injectionStrategy": {"paused": true}}}),
    "InjectionPaused", "does not apply: spec.injectionStrategy.paused is true"
)]
#[case::another_namespace(
    json!({}), json!({"spec": {"namespaceSelector": {"matchLabels": {"mesh": "on"}}}}),
    "NamespaceNotSelected", "does not apply: the namespace's labels do not meet spec.namespaceSelector (mesh=on)"
)]
#[case::no_selector(
    json!({}), json!({"spec": {"selector": null}}),
    "SelectsNothing", "does not apply: spec.selector is empty and selects no pod"
)]
#[case::a_static_pod(
    json!({"annotations": {MIRROR: "x"}}), json!({}),
    "StaticPod", "does not apply: the kubelet runs this pod from a file of its node"
)]
#[case::going_away(
    json!({"deletionTimestamp": "2026-03-03T00:00:00Z"}), json!({}),
    "PodGoingAway", "does not apply: the pod is being deleted"
)]
#[case::without_containers(
    json!({}), json!({"spec": {"containers": null}}),
    "NothingToInject", "applies, but has no containers"
)]
fn a_set_that_does_not_apply_names_the_deciding_term_match(
    #[case] pod: Value,
    #[case] set: Value,
    #[case] reason: &str,
    #[case] sentence: &str,
) {
    let scene = Scene { pod: web(&pod), sets: vec![mesh(&set)], ..Scene::default() };
    assert_eq!(scene.finding(), (reason, Standing::NotConcerned, sentence.to_owned()));
}

#[rstest]
#[case::finished("Succeeded", "PodFinished")]
#[case::failed("Failed", "PodFinished")]
#[case::running("Running", "WebhookAway")]
fn a_pod_that_has_finished_was_not_missed(#[case] phase: &'static str, #[case] reason: &str) {
    assert_eq!(Scene { phase: Some(phase), ..Scene::default() }.finding().0, reason);
}

#[rstest]
#[case::by_label("shop", Some(labelled(&[("control-plane", "x")])), "control-plane does not exist")]
#[case::kube_system("kube-system", Some(labelled(&[])), "kubernetes.io/metadata.name notin (kube-system, kruise-system)")]
#[case::our_own("kruise-system", None, "kubernetes.io/metadata.name notin (kube-system, kruise-system)")]
fn an_excluded_namespace_is_told_by_the_rule_wh_4(
    #[case] namespace: &'static str,
    #[case] labels: Option<BTreeMap<String, String>>,
    #[case] term: &str,
    #[values(registration(&json!({})), Registration::assumed("kruise-system"))] registration: Registration,
) {
    let (reason, standing, sentence) = Scene { namespace, labels, registration, ..Scene::default() }.finding();
    assert_eq!((reason, standing), ("NamespaceExcluded", Standing::NotConcerned));
    assert!(sentence.contains("mpod.kb.io") && sentence.ends_with(&format!("({term})")), "{sentence}");
}

#[test]
fn a_pod_is_excluded_only_when_no_hook_takes_it() {
    let hook = |labels: Value| {
        json!({
            "name": "a", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None",
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "objectSelector": {"matchLabels": labels},
        })
    };
    let both = |first: Value, second: Value| {
        let registration = registration(&json!({"webhooks": [hook(first), hook(second)]}));
        Scene { registration, ..Scene::default() }.finding().0
    };
    assert_eq!(both(json!({"x": "1"}), json!({"x": "2"})), "PodExcluded");
    assert_eq!(both(json!({"x": "1"}), json!({"app": "web"})), "WebhookAway");
}

#[rstest]
#[case::up_to_date(record("mesh", "now"), "Injected", "injected, up to date")]
#[case::outdated(
    record("mesh", "then"),
    "InjectedOutdated",
    "injected, outdated: the SidecarSet has changed since; carries mesh-1, newest is mesh-2"
)]
#[case::in_the_legacy_form_ann_6(
    json!({"annotations": {names::HASH: r#"{"mesh":"now"}"#}}), "Injected", "injected, up to date"
)]
#[case::by_the_list_alone(
    json!({"annotations": {names::HASH: "garbage", names::INJECTED_LIST: "a, mesh"}}), "InjectedUnknown",
    "injected, by its list of SidecarSets; at which revision, its record does not say"
)]
#[case::with_an_entry_of_the_wrong_shape(
    json!({"annotations": {names::HASH: r#"{"mesh":7,"a":"x"}"#, names::INJECTED_LIST: "mesh"}}), "InjectedUnknown",
    "injected, by its list of SidecarSets; at which revision, its record does not say"
)]
fn an_injected_pod_is_known_by_its_record_ann_9(#[case] pod: Value, #[case] reason: &str, #[case] sentence: &str) {
    let scene = Scene { pod: web(&pod), ..Scene::default() };
    assert_eq!(scene.finding(), (reason, Standing::Covered, sentence.to_owned()));
    // It stays injected whatever the set or the labels have become.
    let mut moved = pod.clone();
    merge(&mut moved, &json!({"labels": {"app": "api"}}));
    assert_eq!(Scene { pod: web(&moved), ..Scene::default() }.finding().0, reason);
}

#[test]
fn the_revision_that_is_named_is_not_outdated_rev_6() {
    let set = mesh(&json!({"spec": {"injectionStrategy": {"revision": {"revisionName": "mesh-1"}}}}));
    let scene = Scene { pod: web(&record("mesh", "then")), sets: vec![set], ..Scene::default() };
    assert_eq!(scene.finding().0, "InjectedPinned");
}

#[test]
fn a_pod_older_than_its_set_was_not_missed() {
    let scene = Scene { pod: web(&json!({"creationTimestamp": "2026-02-28T23:59:59Z"})), ..Scene::default() };
    let (reason, standing, sentence) = scene.finding();
    assert_eq!((reason, standing), ("CreatedBeforeSet", Standing::Lacking));
    assert_eq!(
        sentence,
        "not injected: the pod was created at 2026-02-28T23:59:59Z, before the SidecarSet at 2026-03-01T00:00:00Z; a new \
         pod will get it"
    );
}

#[rstest]
#[case::fail(json!({}), "WebhookAway")]
#[case::ignore(json!({"webhooks": [{
    "name": "a", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None", "failurePolicy": "Ignore",
    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"], "operations": ["*"]}],
}]}), "WebhookIgnored")]
#[case::not_registered(json!({"webhooks": []}), "WebhookNotRegistered")]
#[case::registered_for_something_else(json!({"webhooks": [{
    "name": "a", "admissionReviewVersions": ["v1"], "clientConfig": {}, "sideEffects": "None",
    "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["*"], "operations": ["*"]}],
}]}), "WebhookNotRegistered")]
#[case::registered_later(
    json!({"metadata": {"creationTimestamp": "2026-03-02T00:00:01Z"}}), "WebhookRegisteredLater"
)]
fn a_missed_pod_is_told_with_where_the_webhook_was(#[case] change: Value, #[case] expected: &str) {
    let scene = Scene { registration: registration(&change), ..Scene::default() };
    let (reason, standing, sentence) = scene.finding();
    assert_eq!((reason, standing), (expected, Standing::Missed));
    assert!(Away::REASONS.contains(&reason));
    assert!(
        sentence.starts_with("MISSED: it applied when the pod was created, and the webhook was away"),
        "{sentence}"
    );
}

#[test]
fn without_any_configuration_the_webhook_was_away() {
    let scene = Scene { registration: Registration::of(None), ..Scene::default() };
    assert_eq!(scene.finding().0, "WebhookNotRegistered");
    let scene = Scene { registration: Registration::assumed("kruise-system"), ..Scene::default() };
    assert_eq!(scene.finding().0, "WebhookUnknown");
}

#[rstest]
#[case::spec_written_later(
    json!({}),
    json!({"metadata": {"generation": 2, "managedFields": written("2026-03-02T00:00:01Z", &json!({"f:spec": {}}))}}),
    "SetChangedSince"
)]
#[case::spec_written_before(
    json!({}),
    json!({"metadata": {"generation": 2, "managedFields": written("2026-03-01T23:00:00Z", &json!({"f:spec": {}}))}}),
    "WebhookAway"
)]
#[case::only_metadata_written_later(
    json!({}),
    json!({"metadata": {"generation": 1, "managedFields": written("2026-03-03T00:00:00Z", &json!({"f:metadata": {}}))}}),
    "WebhookAway"
)]
#[case::written_seconds_before(
    json!({}),
    json!({"metadata": {"creationTimestamp": "2026-03-01T23:59:58Z"}}),
    "SetTooNew"
)]
#[case::selectors_watched_since_before(
    json!({}),
    json!({
        "metadata": {"generation": 7, "managedFields": written("2026-03-03T00:00:00Z", &json!({"f:spec": {}}))},
        "status": {"conditions": [{
            "type": CONDITION, "observedGeneration": 7, "message": format!("x. {SINCE}2026-03-01T05:00:00Z."),
        }]},
    }),
    "WebhookAway"
)]
#[case::selectors_watched_at_another_generation(
    json!({}),
    json!({
        "metadata": {"generation": 8, "managedFields": written("2026-03-03T00:00:00Z", &json!({"f:spec": {}}))},
        "status": {"conditions": [{
            "type": CONDITION, "observedGeneration": 7, "message": format!("x. {SINCE}2026-03-01T05:00:00Z."),
        }]},
    }),
    "SetChangedSince"
)]
#[case::labels_written_later(
    json!({"managedFields": written("2026-03-02T01:00:00Z", &json!({"f:metadata": {"f:labels": {}}}))}), json!({}),
    "LabelsChangedSince"
)]
#[case::labels_written_with_the_pod(
    json!({"managedFields": written("2026-03-02T00:00:01Z", &json!({"f:metadata": {"f:labels": {}}}))}), json!({}),
    "WebhookAway"
)]
#[case::something_else_written_later(
    json!({"managedFields": written("2026-03-02T01:00:00Z", &json!({"f:metadata": {"f:annotations": {}}}))}), json!({}),
    "WebhookAway"
)]
#[case::the_webhook_was_asked(record("logs", "x"), json!({}), "LeftOut")]
#[case::a_set_that_is_gone_may_have_been_its_canary(record("gone", "x"), json!({}), "CanaryStoodIn")]
#[case::no_creation_time(json!({"creationTimestamp": null}), json!({}), "NoTimes")]
fn a_pod_is_missed_only_when_that_can_be_shown(#[case] pod: Value, #[case] set: Value, #[case] expected: &str) {
    let logs = json!({
        "metadata": {"name": "logs"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "tail", "image": "tail:1"}]},
    });
    let scene = Scene { pod: web(&pod), sets: vec![mesh(&set), logs], ..Scene::default() };
    let (reason, standing, _) = scene.finding();
    let doubted = if expected == "WebhookAway" { Standing::Missed } else { Standing::Lacking };
    assert_eq!((reason, standing), (expected, doubted));
}

#[rstest]
#[case::a_label_was_asked(json!({"matchLabels": {"mesh": "on"}}), "NamespaceChangedSince")]
#[case::only_the_name_was_asked(json!({"matchLabels": {names::NAMESPACE_NAME: "shop"}}), "WebhookAway")]
#[case::nothing_was_asked(Value::Null, "WebhookAway")]
fn labels_of_a_namespace_written_later_leave_a_doubt_match_5(#[case] selector: Value, #[case] expected: &str) {
    let scene = Scene {
        sets: vec![mesh(&json!({"spec": {"namespaceSelector": selector}}))],
        labels: Some(labelled(&[("mesh", "on"), (names::NAMESPACE_NAME, "shop")])),
        namespace_changed: Some("2026-03-05T00:00:00Z"),
        ..Scene::default()
    };
    assert_eq!(scene.finding().0, expected);
}

#[test]
fn a_canary_that_applies_takes_over_can_2() {
    let canary = json!({
        "metadata": {
            "name": "mesh-next", "generation": 1, "creationTimestamp": "2026-03-01T00:00:00Z",
            "annotations": {names::CANARY: "true", names::CANARY_BASE: "mesh"},
        },
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "proxy", "image": "envoy:2"}]},
    });
    let scene = Scene { sets: vec![mesh(&json!({})), canary], ..Scene::default() };
    assert_eq!(scene.finding().0, "CanaryTookOver");
}

#[test]
fn what_may_not_be_read_is_not_decided() {
    let set = mesh(&json!({"spec": {"namespaceSelector": {"matchLabels": {"mesh": "on"}}}}));
    let (reason, standing, _) = Scene { sets: vec![set], labels: None, ..Scene::default() }.finding();
    assert_eq!((reason, standing), ("NamespaceUnknown", Standing::Undecided));
}

#[test]
fn the_index_leaves_out_only_sets_that_cannot_select_the_pod() {
    let other = json!({"metadata": {"name": "other"}, "spec": {"selector": {"matchLabels": {"app": "api"}}}});
    let sets: LiveSets = [mesh(&json!({})), other].into_iter().map(|set| LiveSet::read(set).unwrap()).collect();
    let object = web(&json!({}));
    let (pod, registration) = (LivePod::new(&object, None), registration(&json!({})));
    let namespace = LiveNamespace { namespace: Namespace { name: "shop", labels: None }, labels_changed: None };
    let names =
        |all| audit(&pod, &sets, namespace, &registration, all).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(false), ["mesh"]);
    assert_eq!(names(true), ["mesh", "other"]);
}

#[test]
fn a_set_that_cannot_be_read_says_where() {
    let problem = LiveSet::read(json!({"metadata": {"name": "x"}, "spec": {"selector": 7}})).unwrap_err();
    assert!(problem.to_string().starts_with("spec.selector: "), "{problem}");
}
