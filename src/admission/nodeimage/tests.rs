#![allow(clippy::needless_pass_by_value, reason = "tables are read more easily without borrows")]

use rstest::rstest;

use super::*;
use crate::admission::object::tests::{Said, patched, review, said};
use crate::api::names;

const NOW: &str = "2026-03-04T05:06:07Z";

fn node(images: Value) -> Value {
    json!({"apiVersion": names::V1BETA1, "kind": "NodeImage", "metadata": {"name": "worker-b"}, "spec": {"images": images}})
}

/// A tag in order.
fn tag(tag: &str) -> Value {
    let policy = json!({"timeoutSeconds": 5, "backoffLimit": 0, "ttlSecondsAfterFinished": 9});
    json!({"tag": tag, "createdAt": NOW, "version": 1, "pullPolicy": policy})
}

fn with(change: Value) -> Value {
    let mut one = tag("v1");
    json_patch::merge(&mut one, &change);
    node(json!({"a/b": {"tags": [one]}}))
}

fn mutated(node: &Value) -> Value {
    patched(node, &mutate(&review("nodeimages", "v1beta1", node, None), NOW.parse().unwrap()))
}

fn judged(node: &Value, old: Option<&Value>) -> Said {
    said(&validate(&review("nodeimages", "v1beta1", node, old), Gates::default()))
}

#[rstest]
#[case::all(
    json!({"tag": "v1"}),
    json!({"tag": "v1", "createdAt": NOW, "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3}})
)]
#[case::one_of_the_policy(
    json!({"tag": "v1", "createdAt": "2020-01-01T00:00:00Z", "pullPolicy": {"backoffLimit": 0, "x": 1}, "y": 2}),
    json!({"tag": "v1", "createdAt": "2020-01-01T00:00:00Z",
        "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 0, "x": 1}, "y": 2})
)]
fn tags_are_filled_in_and_keep_what_is_unknown_ni_1(#[case] sent: Value, #[case] stored: Value) {
    let expected = node(json!({"a/b~c": {"tags": [stored]}}));
    assert_eq!(mutated(&node(json!({"a/b~c": {"tags": [sent]}}))), expected);
}

#[test]
fn tags_are_sorted_and_their_unknown_members_move_along_ni_2() {
    let marked = |name: &str| {
        let mut tag = tag(name);
        tag["mark"] = name.into();
        tag
    };
    let sent = node(
        json!({"a": {"tags": [marked("v2"), tag("v10"), tag("V1")], "z": 1}, "b": {"tags": [tag("x"), tag("y")]}}),
    );
    let expected = node(
        json!({"a": {"tags": [tag("V1"), tag("v10"), marked("v2")], "z": 1}, "b": {"tags": [tag("x"), tag("y")]}}),
    );
    assert_eq!(mutated(&sent), expected);
    assert_eq!(mutated(&expected), expected);
}

#[rstest]
#[case::in_order(node(json!({"a": {"tags": [tag("v1"), tag("v2")]}})))]
#[case::nothing_listed(node(json!(null)))]
#[case::no_spec(json!({"metadata": {"name": "n"}}))]
fn what_is_in_order_is_not_patched_rsp_4(#[case] node: Value) {
    let said = said(&mutate(&review("nodeimages", "v1alpha1", &node, None), NOW.parse().unwrap()));
    assert_eq!((said.code, said.patch), (200, Value::Null));
    assert_eq!(judged(&node, None).code, 200);
}

#[rstest]
#[case::version_ni_3("v1", node(json!({})), "apiVersion: ")]
#[case::tags("v1beta1", node(json!({"a": {"tags": "x"}})), "spec.images.a.tags: ")]
#[case::created("v1beta1", with(json!({"createdAt": "yesterday"})), "spec.images.a/b.tags[0].createdAt: ")]
fn what_cannot_be_read_is_told_with_its_path_rsp_1(#[case] version: &str, #[case] node: Value, #[case] path: &str) {
    let body = review("nodeimages", version, &node, None);
    for answer in [mutate(&body, NOW.parse().unwrap()), validate(&body, Gates::default())] {
        let said = said(&answer);
        assert_eq!(said.code, 400);
        assert!(said.message.starts_with(path), "{}", said.message);
    }
}

fn many(count: usize) -> Value {
    let image = |index| (format!("a/{index}"), json!({"tags": [tag("v1")]}));
    Value::Object((0..count).map(image).collect())
}

#[rstest]
#[case::too_many_ni_10(node(many(257)), "spec.images: has 257 images, at most 256")]
#[case::no_name_ni_11(node(json!({"": {"tags": [tag("v1")]}})), "spec.images[]: is an image without a name")]
#[case::no_tag_ni_12(node(json!({"a": {"tags": [tag("")]}})), "spec.images[a].tags[0].tag: is required")]
#[case::a_tag_twice_ni_13(node(json!({"a": {"tags": [tag("v1"), tag("v1")]}})), "spec.images[a].tags[1].tag: \"v1\" is there twice")]
#[case::no_time_ni_14(with(json!({"createdAt": null})), "spec.images[a/b].tags[0].createdAt: is required")]
#[case::version_ni_15(with(json!({"version": -1})), "spec.images[a/b].tags[0].version: -1 must be 0 or more")]
#[case::no_policy_ni_16(with(json!({"pullPolicy": null})), "spec.images[a/b].tags[0].pullPolicy: is required")]
#[case::no_ttl_ni_17(
    with(json!({"pullPolicy": {"ttlSecondsAfterFinished": null}})),
    "spec.images[a/b].tags[0].pullPolicy.ttlSecondsAfterFinished: is required; say for how many seconds"
)]
fn what_cannot_be_is_refused_with_member_and_remedy(#[case] node: Value, #[case] told: &str) {
    let said = judged(&node, None);
    assert_eq!(said.code, 422, "{}", said.message);
    assert!(said.message.starts_with(told), "{}", said.message);
    assert_eq!(judged(&node, Some(&node)).code, 200, "it stays writable where it is stored already");
}

#[test]
fn as_many_images_as_may_be_are_stored_ni_10() {
    assert_eq!(judged(&node(many(256)), None).code, 200);
}

#[test]
fn nothing_is_immutable_ni_18() {
    let changed = node(json!({"c": {"tags": [tag("v9")], "pullSecrets": [{"name": "s"}]}}));
    assert_eq!(judged(&changed, Some(&with(json!({})))).code, 200);
}

#[test]
fn the_gate_keeps_new_ones_out_and_leaves_the_others_alone_ni_5() {
    let gates = Gates { daemon: false, image_pull_job: false, ..Gates::default() };
    let body = |old| review("nodeimages", "v1beta1", &with(json!({"version": 2})), old);
    let (old, new) = (with(json!({})), said(&validate(&body(None), gates)));
    assert_eq!(new.code, 403);
    assert!(new.message.contains("KruiseDaemon=false"), "{}", new.message);
    assert_eq!(said(&validate(&body(Some(&old)), gates)).code, 200);
    let of_jobs = Gates { image_pull_job: false, ..Gates::default() };
    assert_eq!(said(&validate(&body(None), of_jobs)).code, 200, "the gate of jobs is not that of nodes");
}
