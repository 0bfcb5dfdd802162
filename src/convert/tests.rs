use rstest::rstest;
use serde_json::{Value, json};

use super::*;

const SNAPSHOT: &str = r#"[{"name":"app","ready":true,"restartCount":5,"containerID":"containerd://c2"}]"#;
const SINCE: &str = "2026-03-04T05:06:07Z";

fn converted(kind: &str, from: &str, to: &str, members: &Value) -> Value {
    let mut object = members.clone();
    object["apiVersion"] = from.into();
    object["kind"] = kind.into();
    convert(&mut object, to).unwrap();
    assert_eq!((&object["apiVersion"], &object["kind"]), (&json!(to), &json!(kind)));
    let members = object.as_object_mut().unwrap();
    members.remove("apiVersion");
    members.remove("kind");
    object
}

fn newer(kind: &str, members: &Value) -> Value {
    converted(kind, names::V1ALPHA1, names::V1BETA1, members)
}

fn older(kind: &str, members: &Value) -> Value {
    converted(kind, names::V1BETA1, names::V1ALPHA1, members)
}

fn grace(since: &str) -> Value {
    json!({
        "type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace", "lastTransitionTime": since,
        "message": "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain",
    })
}

#[rstest]
#[case::conv_ss_3_the_namespace_beats_the_selector(
    json!({"spec": {"namespace": "prod", "namespaceSelector": {"matchLabels": {"env": "y"}}}}),
    json!({"spec": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "prod"}}}})
)]
#[case::conv_ss_3_an_empty_namespace_says_nothing(
    json!({"spec": {"namespace": "", "namespaceSelector": {"matchLabels": {"env": "y"}}}}),
    json!({"spec": {"namespaceSelector": {"matchLabels": {"env": "y"}}}})
)]
#[case::conv_ss_4_the_label_becomes_the_custom_version(
    json!({"metadata": {"labels": {"app": "x", "apps.kruise.io/sidecarset-custom-version": "v3"}}, "spec": {}}),
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"customVersion": "v3"}})
)]
#[case::conv_ss_4_an_empty_label_goes_too(
    json!({"metadata": {"name": "a", "labels": {"apps.kruise.io/sidecarset-custom-version": ""}}}),
    json!({"metadata": {"name": "a"}})
)]
#[case::conv_ss_4_there_may_be_no_spec(
    json!({"metadata": {"labels": {"apps.kruise.io/sidecarset-custom-version": "v3"}}}),
    json!({"metadata": {}, "spec": {"customVersion": "v3"}})
)]
#[case::conv_ss_4_only_the_label_says_the_custom_version(json!({"spec": {"customVersion": "v9"}}), json!({"spec": {}}))]
#[case::conv_ss_8_canary_annotations_pass(
    json!({"metadata": {"annotations": {"apps.kruise.io/sidecarset-canary": "true"}}}),
    json!({"metadata": {"annotations": {"apps.kruise.io/sidecarset-canary": "true"}}})
)]
#[case::conv_2_what_is_not_known_is_kept(
    json!({"spec": {"containers": [{"name": "x", "fromTheFuture": {"y": 1}}], "new": 1}, "status": {"conditions": [1]}}),
    json!({"spec": {"containers": [{"name": "x", "fromTheFuture": {"y": 1}}], "new": 1}, "status": {"conditions": [1]}})
)]
fn a_sidecarset_becomes_v1beta1(#[case] before: Value, #[case] after: Value) {
    assert_eq!(newer("SidecarSet", &before), after);
}

#[rstest]
#[case::conv_ss_5_a_selector_stays_a_selector(
    json!({"spec": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "prod"}}}}),
    json!({"spec": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "prod"}}}})
)]
#[case::conv_ss_5_a_namespace_never_comes_to_be(json!({"spec": {"namespace": "prod"}}), json!({"spec": {}}))]
#[case::conv_ss_6_the_custom_version_becomes_the_label(
    json!({"metadata": {"labels": {"apps.kruise.io/sidecarset-custom-version": "old"}}, "spec": {"customVersion": "v3"}}),
    json!({"metadata": {"labels": {"apps.kruise.io/sidecarset-custom-version": "v3"}}, "spec": {}})
)]
#[case::conv_ss_6_without_one_the_label_stays(
    json!({"metadata": {"labels": {"apps.kruise.io/sidecarset-custom-version": "old"}}, "spec": {"customVersion": ""}}),
    json!({"metadata": {"labels": {"apps.kruise.io/sidecarset-custom-version": "old"}}, "spec": {}})
)]
fn a_sidecarset_becomes_v1alpha1(#[case] before: Value, #[case] after: Value) {
    assert_eq!(older("SidecarSet", &before), after);
}

#[rstest]
#[case::conv_crr_2(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: SNAPSHOT, "note": "1"}}, "status": {"phase": "Pending"}}),
    json!({"metadata": {"annotations": {"note": "1"}}, "status": {"phase": "Pending", "containerStatusSnapshot": [
        {"name": "app", "ready": true, "restartCount": 5, "containerID": "containerd://c2"}]}})
)]
#[case::conv_crr_2_no_json_is_kept_and_ignored(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "{"}}, "status": {"phase": "Pending"}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "{"}}, "status": {"phase": "Pending"}})
)]
#[case::conv_crr_2_no_list_is_kept_and_ignored(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: r#"[{"name": 1}]"#}}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: r#"[{"name": 1}]"#}}})
)]
#[case::conv_crr_2_empty_is_kept_and_ignored(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: ""}}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: ""}}})
)]
#[case::conv_crr_3(
    json!({"metadata": {"annotations": {names::UNREADY_ACQUIRED: SINCE}}}),
    json!({"metadata": {}, "status": {"conditions": [grace(SINCE)]}})
)]
#[case::conv_crr_3_a_time_of_another_zone_with_a_fraction(
    json!({"metadata": {"annotations": {names::UNREADY_ACQUIRED: "2026-03-04T07:06:07.987+02:00"}}}),
    json!({"metadata": {}, "status": {"conditions": [grace(SINCE)]}})
)]
#[case::conv_crr_3_no_time_is_kept_and_ignored(
    json!({"metadata": {"annotations": {names::UNREADY_ACQUIRED: "2026-03-04 05:06:07"}}}),
    json!({"metadata": {"annotations": {names::UNREADY_ACQUIRED: "2026-03-04 05:06:07"}}})
)]
#[case::conv_crr_7_the_annotations_alone_say_the_status(
    json!({"metadata": {}, "status": {"phase": "Pending", "containerStatusSnapshot": [], "conditions": [grace(SINCE)]}}),
    json!({"metadata": {}, "status": {"phase": "Pending"}})
)]
fn a_recreate_request_becomes_v1beta1(#[case] before: Value, #[case] after: Value) {
    assert_eq!(newer("ContainerRecreateRequest", &before), after);
}

#[rstest]
#[case::conv_crr_4_and_conv_crr_5(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "old"}}, "status": {"phase": "Recreating",
        "containerStatusSnapshot": [{"restartCount": 5, "ready": true, "name": "app", "containerID": "containerd://c2"}],
        "conditions": [{"type": "Other", "status": "True"}, grace(SINCE)]}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: SNAPSHOT, names::UNREADY_ACQUIRED: SINCE}},
        "status": {"phase": "Recreating"}})
)]
#[case::conv_crr_4_an_empty_id_is_left_out(
    json!({"status": {"containerStatusSnapshot": [{"name": "a", "ready": false, "restartCount": 0, "containerID": ""}]}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: r#"[{"name":"a","ready":false,"restartCount":0}]"#}}})
)]
#[case::conv_crr_4_an_empty_list_is_there(
    json!({"status": {"containerStatusSnapshot": []}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "[]"}}})
)]
#[case::conv_crr_5_a_condition_that_is_not_true_says_nothing(
    json!({"status": {"phase": "Pending", "conditions": [{"type": "PreRecreateGrace", "status": "False"}]}}),
    json!({"status": {"phase": "Pending"}})
)]
#[case::conv_crr_6_without_either_annotations_stay(
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "old"}}, "status": {"phase": "Pending"}}),
    json!({"metadata": {"annotations": {names::SYNC_STATUSES: "old"}}, "status": {"phase": "Pending"}})
)]
fn a_recreate_request_becomes_v1alpha1(#[case] before: Value, #[case] after: Value) {
    assert_eq!(older("ContainerRecreateRequest", &before), after);
}

#[rstest]
#[case::conv_ipj_1("ImagePullJob", json!({"spec": {"image": "a", "podSelector": {}}, "status": {"desired": 0}}))]
#[case::list("ImageListPullJob", json!({"spec": {"images": ["a", "b"], "parallelism": "10%"}, "status": {"desired": 2}}))]
#[case::conv_ni_2("NodeImage", json!({"spec": {"images": {"a": {"pullSecrets": [{"name": "s", "mode": "batch"}]}}}}))]
fn where_the_versions_are_equal_only_the_version_changes(#[case] kind: &str, #[case] members: Value) {
    assert_eq!(newer(kind, &members), members);
    assert_eq!(older(kind, &members), members);
}

#[rstest]
#[case::sidecarset("SidecarSet", json!({"metadata": {"labels": {"a": "b"}}, "spec": {"namespace": "prod"}}))]
#[case::recreate("ContainerRecreateRequest", json!({"metadata": {"annotations": {names::SYNC_STATUSES: SNAPSHOT}}}))]
fn an_object_of_the_wanted_version_stays_as_it_is(#[case] kind: &str, #[case] members: Value) {
    for version in [names::V1ALPHA1, names::V1BETA1] {
        assert_eq!(converted(kind, version, version, &members), members);
    }
}

#[rstest]
#[case::version(json!({"apiVersion": "apps.kruise.io/v2", "kind": "SidecarSet"}), names::V1BETA1, "apiVersion \"apps.kruise.io/v2\" is not served; apps.kruise.io/v1alpha1 and apps.kruise.io/v1beta1 are")]
#[case::wanted_version(json!({}), "v1", "apiVersion \"v1\" is not served; apps.kruise.io/v1alpha1 and apps.kruise.io/v1beta1 are")]
#[case::kind(json!({"apiVersion": names::V1ALPHA1, "kind": "CloneSet"}), names::V1BETA1, "kind \"CloneSet\" is not known; SidecarSet, ContainerRecreateRequest, ImagePullJob, ImageListPullJob and NodeImage are")]
#[case::list(json!([]), names::V1BETA1, "is not an object")]
#[case::labels(
    json!({"apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"labels": 1}, "spec": {"customVersion": "v1"}}),
    names::V1ALPHA1,
    "metadata.labels: must be an object"
)]
fn what_cannot_be_converted_is_told(#[case] mut object: Value, #[case] desired: &str, #[case] message: &str) {
    assert_eq!(convert(&mut object, desired).unwrap_err().to_string(), message);
}

#[rstest]
#[case::utc("2026-03-04T05:06:07Z", Some("2026-03-04T05:06:07Z"))]
#[case::west("2026-03-03T23:06:07-06:00", Some("2026-03-04T05:06:07Z"))]
#[case::fraction("2026-03-04T05:06:07.999999999Z", Some("2026-03-04T05:06:07Z"))]
#[case::early("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z"))]
#[case::leap_second("2026-03-04T05:06:60Z", None)]
#[case::no_zone("2026-03-04T05:06:07", None)]
#[case::small_letters("2026-03-04t05:06:07z", None)]
#[case::named_zone("2026-03-04T05:06:07+00:00[UTC]", None)]
#[case::no_such_day("2026-02-30T05:06:07Z", None)]
#[case::trailing("2026-03-04T05:06:07Z ", None)]
#[case::letters("2026-03-04T05:06:0éZ", None)]
fn a_time_is_one_of_rfc_3339(#[case] text: &str, #[case] time: Option<&str>) {
    assert_eq!(time_of(text).as_deref(), time);
}
