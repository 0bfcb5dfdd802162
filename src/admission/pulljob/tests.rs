#![allow(clippy::needless_pass_by_value, reason = "tables are read more easily without borrows")]

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::admission::object::tests::{Said, patched, review, said};

const NOTHING: Option<&Value> = None;

fn job(spec: Value) -> Value {
    json!({"apiVersion": names::V1BETA1, "kind": "ImagePullJob", "metadata": {"name": "warm", "namespace": "shop"}, "spec": spec})
}

/// One that nothing is wrong with, changed.
fn with(change: Value) -> Value {
    let mut spec = json!({"image": "registry.example/cart:v7", "completionPolicy": {"type": "Always"}});
    json_patch::merge(&mut spec, &change);
    job(spec)
}

fn mutated(version: &str, job: &Value, old: Option<&Value>) -> Value {
    patched(job, &mutate(&review("imagepulljobs", version, job, old)))
}

fn judged(job: &Value, old: Option<&Value>) -> Said {
    said(&validate(&review("imagepulljobs", "v1beta1", job, old), Gates::default()))
}

// === defaults ===

#[rstest]
#[case::v1alpha1("v1alpha1")]
#[case::v1beta1("v1beta1")]
fn a_new_job_is_filled_in_alike_in_both_versions_ipj_1_ipj_3(#[case] version: &str) {
    let stored = mutated(version, &job(json!({"image": "a:1"})), NOTHING);
    let expected = json!({
        "image": "a:1", "imagePullPolicy": "IfNotPresent",
        "completionPolicy": {"type": "Always"}, "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3},
    });
    assert_eq!(stored["spec"], expected, "parallelism is not defaulted");
    assert_eq!(stored["metadata"]["finalizers"], json!([names::DELETION_PROTECTION]));
}

#[rstest]
#[case::the_timeout(json!({"timeoutSeconds": 5}), json!({"timeoutSeconds": 5, "backoffLimit": 3}))]
#[case::the_attempts(json!({"backoffLimit": 0}), json!({"timeoutSeconds": 600, "backoffLimit": 0}))]
#[case::neither(json!(null), json!({"timeoutSeconds": 600, "backoffLimit": 3}))]
fn one_member_of_the_policy_does_not_stand_for_the_other_ipj_4(#[case] policy: Value, #[case] expected: Value) {
    let sent = with(json!({"imagePullPolicy": "Always", "pullPolicy": policy}));
    assert_eq!(mutated("v1beta1", &sent, NOTHING)["spec"]["pullPolicy"], expected);
}

#[test]
fn what_is_there_stays_and_what_is_unknown_too_rsp_5() {
    let mut sent = with(json!({"imagePullPolicy": "", "fromTheFuture": {"x": 1}, "pullPolicy": {"y": 2}}));
    sent["metadata"]["finalizers"] = json!(["theirs"]);
    let stored = mutated("v1beta1", &sent, NOTHING);
    assert_eq!(stored["spec"]["fromTheFuture"], json!({"x": 1}));
    assert_eq!(stored["spec"]["pullPolicy"], json!({"y": 2, "timeoutSeconds": 600, "backoffLimit": 3}));
    assert_eq!(stored["spec"]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(stored["metadata"]["finalizers"], json!(["theirs", names::DELETION_PROTECTION]));
}

#[test]
fn a_job_that_has_all_is_not_patched_rsp_4() {
    let stored = mutated("v1beta1", &with(json!({})), NOTHING);
    let again = said(&mutate(&review("imagepulljobs", "v1beta1", &stored, NOTHING)));
    assert_eq!((again.code, again.patch), (200, Value::Null));
}

#[test]
fn an_update_brings_no_finalizer_back_ipj_3() {
    let stored = mutated("v1beta1", &with(json!({})), Some(&with(json!({}))));
    assert_eq!(stored["metadata"].get("finalizers"), None);
    assert_eq!(stored["spec"]["pullPolicy"]["timeoutSeconds"], 600);
}

#[rstest]
#[case::spec(json!(7), "spec: ")]
#[case::policy(json!({"image": "a", "pullPolicy": "x"}), "spec.pullPolicy: ")]
#[case::timeout(json!({"image": "a", "pullPolicy": {"timeoutSeconds": "x"}}), "spec.pullPolicy.timeoutSeconds: ")]
#[case::names(json!({"image": "a", "selector": {"names": [1]}}), "spec.selector.names[0]: ")]
fn what_cannot_be_read_is_told_with_its_path_rsp_1(#[case] spec: Value, #[case] path: &str) {
    let body = review("imagepulljobs", "v1beta1", &job(spec), NOTHING);
    for answer in [mutate(&body), validate(&body, Gates::default())] {
        let said = said(&answer);
        assert_eq!(said.code, 400);
        assert!(said.message.starts_with(path), "{}", said.message);
    }
}

// === rules ===

const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

#[rstest]
#[case::the_least(json!({}))]
#[case::by_digest(json!({"image": format!("reg:5000/a@sha256:{DIGEST}")}))]
#[case::every_node(json!({"selector": {}}))]
#[case::nodes_by_name(json!({"selector": {"names": ["a", "b"]}}))]
#[case::nodes_by_label(json!({"selector": {"matchLabels": {"disk": "ssd"}, "matchExpressions": [{"key": "x/y", "operator": "Exists"}]}}))]
#[case::nodes_by_pod(json!({"podSelector": {"matchLabels": {"app": "web"}}}))]
#[case::a_pause(json!({"parallelism": 0}))]
#[case::a_text(json!({"parallelism": "50"}))]
#[case::a_share(json!({"parallelism": "50%"}))]
#[case::a_deadline_of_one_attempt(json!({"completionPolicy": {"activeDeadlineSeconds": 600}}))]
#[case::a_short_deadline_of_short_attempts(json!({"completionPolicy": {"activeDeadlineSeconds": 5}, "pullPolicy": {"timeoutSeconds": 5}}))]
#[case::never(json!({"completionPolicy": {"type": "Never"}}))]
#[case::no_second_attempt(json!({"pullPolicy": {"backoffLimit": 0}}))]
fn what_is_in_order_is_stored_ipj_21(#[case] change: Value) {
    let said = judged(&with(change), NOTHING);
    assert_eq!((said.code, said.warnings), (200, Vec::new()), "{}", said.message);
}

#[rstest]
#[case::names_and_labels_ipj_10(json!({"selector": {"names": ["a"], "matchLabels": {"a": "b"}}}), "spec.selector: has names together with matchLabels")]
#[case::an_empty_list_of_names_ipj_10(json!({"selector": {"names": [], "matchLabels": {}}}), "spec.selector: has names together")]
#[case::names_and_expressions_ipj_10(json!({"selector": {"names": ["a"], "matchExpressions": []}}), "spec.selector: has names together")]
#[case::operator_ipj_11(
    json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
    "spec.selector.matchExpressions[0].operator: \"Like\" is not known; use In, NotIn"
)]
#[case::label_ipj_11(json!({"selector": {"matchLabels": {"a b": "c"}}}), "spec.selector.matchLabels[a b]: \"a b\" must be a name")]
#[case::a_node_twice_ipj_12(json!({"selector": {"names": ["a", "b", "a"]}}), "spec.selector.names[2]: \"a\" is there twice")]
#[case::both_selectors_ipj_13(json!({"selector": {}, "podSelector": {}}), "spec.podSelector: is there together with selector")]
#[case::pod_selector_ipj_14(
    json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
    "spec.podSelector.matchExpressions[0].values: is required"
)]
#[case::no_image_ipj_15(json!({"image": null}), "spec.image: is required")]
#[case::upper_case_ipj_16(json!({"image": "Cart:v7"}), "spec.image: \"Cart:v7\" is not an image; write")]
#[case::an_id_ipj_16(json!({"image": DIGEST}), "spec.image: ")]
#[case::bad_tag_ipj_16(json!({"image": "cart:-1"}), "spec.image: ")]
#[case::bad_digest_ipj_16(json!({"image": "cart@sha256:12"}), "spec.image: ")]
#[case::no_parallelism_ipj_17(json!({"parallelism": "abc"}), "spec.parallelism: \"abc\" must be a number of nodes")]
#[case::negative_parallelism_ipj_17(json!({"parallelism": -1}), "spec.parallelism: -1 must be 0 or more")]
#[case::too_large_a_share_ipj_17(json!({"parallelism": "101%"}), "spec.parallelism: \"101%\" must be a whole percentage")]
#[case::a_deadline_too_short_ipj_18(
    json!({"completionPolicy": {"activeDeadlineSeconds": 599}}),
    "spec.completionPolicy.activeDeadlineSeconds: 599 is less than spec.pullPolicy.timeoutSeconds, which is 600"
)]
#[case::never_with_a_deadline_ipj_19(
    json!({"completionPolicy": {"type": "Never", "activeDeadlineSeconds": 900}}),
    "spec.completionPolicy.activeDeadlineSeconds: must be left out with type \"Never\""
)]
#[case::never_with_a_ttl_ipj_19(
    json!({"completionPolicy": {"type": "Never", "ttlSecondsAfterFinished": 9}}),
    "spec.completionPolicy.ttlSecondsAfterFinished: must be left out"
)]
#[case::type_ipj_20(json!({"completionPolicy": {"type": "Sometimes"}}), "spec.completionPolicy.type: \"Sometimes\" is not known; use Always")]
#[case::negative_timeout_ipj_21(json!({"pullPolicy": {"timeoutSeconds": -1}}), "spec.pullPolicy.timeoutSeconds: -1 must be 0 or more")]
#[case::negative_attempts_ipj_21(json!({"pullPolicy": {"backoffLimit": -1}}), "spec.pullPolicy.backoffLimit: -1 must be 0 or more")]
fn what_cannot_be_is_refused_with_member_and_remedy(#[case] change: Value, #[case] told: &str) {
    for old in [None, Some(with(json!({"parallelism": 7})))] {
        let said = judged(&with(change.clone()), old.as_ref());
        assert_eq!((said.code, said.reason), (422, json!("Invalid")), "RSP-3: {}", said.message);
        assert!(said.message.starts_with(told), "{}", said.message);
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let said = judged(&with(json!({"image": "A", "parallelism": "x", "pullPolicy": {"backoffLimit": -1}})), NOTHING);
    assert_eq!(said.message.lines().count(), 3, "{}", said.message);
}

#[rstest]
#[case::unknown_policy(json!({"imagePullPolicy": "Sometimes"}), "spec.imagePullPolicy: \"Sometimes\" is not known and acts like Always")]
#[case::no_time(json!({"pullPolicy": {"timeoutSeconds": 0}}), "spec.pullPolicy.timeoutSeconds: 0 leaves no time")]
#[case::no_node(json!({"selector": {"names": []}}), "spec.selector.names: names no node")]
#[case::gone_at_once(json!({"completionPolicy": {"ttlSecondsAfterFinished": -1}}), "spec.completionPolicy.ttlSecondsAfterFinished: is negative")]
fn what_is_legal_and_odd_is_warned_of_ipj_21(#[case] change: Value, #[case] told: &str) {
    let said = judged(&with(change), NOTHING);
    assert_eq!(said.code, 200, "{}", said.message);
    assert!(said.warnings.len() == 1 && said.warnings[0].starts_with(told), "{:?}", said.warnings);
}

// === gates and updates ===

#[rstest]
#[case::pulls(Gates { image_pull_job: false, ..Gates::default() }, "ImagePullJobGate=false")]
#[case::daemon(Gates { image_pull_job: false, daemon: false, ..Gates::default() }, "KruiseDaemon=false")]
fn a_gate_keeps_new_jobs_out_and_leaves_the_others_alone_ipj_6(#[case] gates: Gates, #[case] told: &str) {
    let body = |old| review("imagepulljobs", "v1beta1", &with(json!({})), old);
    let (old, new) = (with(json!({"parallelism": 3})), said(&validate(&body(None), gates)));
    assert_eq!((new.code, new.reason), (403, Value::Null));
    assert!(new.message.contains(told), "{}", new.message);
    let changed = said(&validate(&body(Some(&old)), gates));
    assert_eq!(changed.code, 200, "{}", changed.message);
    assert_eq!(said(&mutate(&body(None))).code, 200, "defaulting asks no gate");
}

#[rstest]
#[case::added(json!(null), json!(["a"]), 403)]
#[case::changed(json!(["a"]), json!(["b"]), 403)]
#[case::taken_away(json!(["a"]), json!(null), 403)]
#[case::the_same(json!(["a"]), json!(["a"]), 200)]
#[case::empty_is_as_absent(json!(null), json!([]), 200)]
fn pull_secrets_stay_as_they_are_ipj_8(#[case] old: Value, #[case] new: Value, #[case] code: u64) {
    let said = judged(&with(json!({"parallelism": 5, "pullSecrets": new})), Some(&with(json!({"pullSecrets": old}))));
    assert_eq!(said.code, code, "{}", said.message);
    if code == 403 {
        assert_eq!(said.reason, json!("Forbidden"));
        assert!(said.message.starts_with("spec.pullSecrets: must not be changed"));
    }
}

#[test]
fn everything_else_may_change_ipj_8() {
    let said = judged(&with(json!({"image": "other:2", "selector": {"names": ["a"]}})), Some(&with(json!({}))));
    assert_eq!(said.code, 200, "{}", said.message);
}

#[test]
fn a_job_that_another_let_in_can_lose_its_finalizer_ipj_6() {
    let mut old = with(json!({"pullPolicy": {"backoffLimit": -1}, "completionPolicy": {"type": null}}));
    old["metadata"]["finalizers"] = json!([names::DELETION_PROTECTION]);
    // Defaulting has filled it in on the way.
    let new = mutated("v1beta1", &with(json!({"pullPolicy": {"backoffLimit": -1}})), Some(&old));
    let said = judged(&new, Some(&old));
    assert_eq!(said.code, 200, "{}", said.message);
}
