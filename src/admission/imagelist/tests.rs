#![allow(clippy::needless_pass_by_value, reason = "tables are read more easily without borrows")]

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::admission::object::tests::{Said, patched, review, said};
use crate::api::names;

/// One that nothing is wrong with, changed.
fn with(change: Value) -> Value {
    let mut spec = json!({"images": ["registry.example/cart:v7", "nginx:1"], "completionPolicy": {"type": "Always"}});
    json_patch::merge(&mut spec, &change);
    json!({"apiVersion": names::V1BETA1, "kind": "ImageListPullJob", "metadata": {"name": "warm"}, "spec": spec})
}

fn judged(list: &Value, old: Option<&Value>) -> Said {
    said(&validate(&review("imagelistpulljobs", "v1beta1", list, old), Gates::default()))
}

#[rstest]
#[case::v1alpha1("v1alpha1")]
#[case::v1beta1("v1beta1")]
fn a_list_is_filled_in_without_pull_policy_and_finalizer_list_1(#[case] version: &str) {
    let sent = with(json!({"completionPolicy": null}));
    let stored = patched(&sent, &mutate(&review("imagelistpulljobs", version, &sent, None)));
    let expected = json!({
        "images": ["registry.example/cart:v7", "nginx:1"],
        "completionPolicy": {"type": "Always"}, "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3},
    });
    assert_eq!(stored["spec"], expected);
    assert_eq!(stored["metadata"], json!({"name": "warm"}));
    let again = said(&mutate(&review("imagelistpulljobs", version, &stored, None)));
    assert_eq!(again.patch, Value::Null);
}

fn many(count: usize) -> Value {
    (0..count).map(|index| format!("a/{index}:1")).collect()
}

#[rstest]
#[case::two(json!({}))]
#[case::as_many_as_may_be(json!({"images": many(255)}))]
#[case::a_share(json!({"parallelism": "10%"}))]
#[case::nodes_by_pod(json!({"podSelector": {"matchLabels": {"app": "web"}}}))]
fn what_is_in_order_is_stored_list_1(#[case] change: Value) {
    let said = judged(&with(change), None);
    assert_eq!((said.code, said.warnings), (200, Vec::new()), "{}", said.message);
}

#[rstest]
#[case::no_image(json!({"images": []}), "spec.images: is required")]
#[case::too_many(json!({"images": many(256)}), "spec.images: has 256 images, at most 255 may be; make several lists")]
#[case::twice(json!({"images": ["a:1", "b:1", "a:1"]}), "spec.images[2]: \"a:1\" is spec.images[0] already")]
#[case::no_reference(json!({"images": ["a:1", "B"]}), "spec.images[1]: \"B\" is not an image")]
#[case::an_empty_one(json!({"images": [""]}), "spec.images[0]: is required")]
#[case::selectors(json!({"selector": {}, "podSelector": {}}), "spec.podSelector: is there together with selector")]
#[case::parallelism(json!({"parallelism": "x"}), "spec.parallelism: \"x\" must be a number")]
#[case::type_of_completion(json!({"completionPolicy": {"type": "x"}}), "spec.completionPolicy.type: \"x\" is not known")]
#[case::a_deadline_that_no_job_could_have(
    json!({"completionPolicy": {"activeDeadlineSeconds": 5}}),
    "spec.completionPolicy.activeDeadlineSeconds: 5 is less than"
)]
fn what_cannot_be_is_refused_list_1(#[case] change: Value, #[case] told: &str) {
    let said = judged(&with(change), None);
    assert_eq!(said.code, 422, "{}", said.message);
    assert!(said.message.starts_with(told), "{}", said.message);
}

#[test]
fn the_same_image_by_another_name_is_warned_of() {
    let said = judged(&with(json!({"images": ["nginx", "docker.io/library/nginx:latest"]})), None);
    let told = "spec.images[1]: \"docker.io/library/nginx:latest\" is the same image as spec.images[0]";
    assert_eq!((said.code, said.warnings), (200, vec![told.to_owned()]));
}

#[test]
fn images_and_secrets_may_change_and_the_gate_is_for_new_lists_ipj_6() {
    let gates = Gates { image_pull_job: false, ..Gates::default() };
    let new = with(json!({"images": ["c:1"], "pullSecrets": ["s"]}));
    let body = |old: Option<&Value>| review("imagelistpulljobs", "v1beta1", &new, old);
    assert_eq!(said(&validate(&body(Some(&with(json!({})))), gates)).code, 200);
    assert_eq!(said(&validate(&body(None), gates)).code, 403);
}

#[test]
fn a_list_that_another_let_in_stays_writable() {
    let odd = with(json!({"completionPolicy": {"activeDeadlineSeconds": 5}}));
    assert_eq!(judged(&odd, Some(&odd)).code, 200);
}
