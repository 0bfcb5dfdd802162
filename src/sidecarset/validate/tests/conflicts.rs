//! SSC: a stored SidecarSet called `other`, and a new one.

use super::*;

fn judge(new: Value, other: Value) -> Findings {
    let others = [set(merged(metadata(json!({"name": "other"})), other))];
    validate(&set(new), &Unknown::default(), None, &surroundings(&others))
}

/// Containers with a name that nobody else has.
fn apart(change: Value) -> Value {
    merged(container(json!({"name": "lonely"})), change)
}

fn selecting(selector: Value) -> Value {
    spec(json!({"selector": selector}))
}

fn in_namespace(name: &str) -> Value {
    spec(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}))
}

fn exists(key: &str) -> Value {
    json!({"matchLabels": null, "matchExpressions": [{"key": key, "operator": "Exists"}]})
}

const CONTAINER: &[&str] = &["spec.containers[0].name"];
const INIT: &[&str] = &["spec.initContainers[0].name"];
const VOLUME: &[&str] = &["spec.volumes[0].name"];
const PATCH: &[&str] = &["spec.patchPodMetadata[0].annotations[ok/a]"];

#[rstest]
#[case::ssc_2_same_container(json!({}), json!({}), CONTAINER)]
#[case::ssc_2_same_init_container(apart(init(json!({}))), init(json!({})), INIT)]
#[case::ssc_2_same_entry_upgraded_hot(container(hot(json!({}))), json!({}), CONTAINER)]
#[case::ssc_6_init_container_like_a_container(apart(init(json!({"name": "proxy"}))), json!({}), INIT)]
#[case::ssc_6_container_like_an_init_container(
    container(json!({"name": "setup"})),
    apart(init(json!({}))),
    CONTAINER,
)]
#[case::ssc_6_name_of_a_hot_upgrade(container(json!({"name": "proxy-2"})), container(hot(json!({}))), CONTAINER)]
#[case::ssc_6_hot_upgrade_over_a_name(container(hot(json!({}))), container(json!({"name": "proxy-1"})), CONTAINER)]
#[case::ssc_3_other_volume(
    apart(spec(json!({"volumes": [{"name": "v"}]}))),
    spec(json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]})),
    VOLUME,
)]
#[case::ssc_4_overwrite_twice(
    apart(patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "Overwrite"}]))),
    patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "Overwrite"}])),
    PATCH,
)]
#[case::ssc_4_overwrite_and_merge(
    apart(patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "MergePatchJson"}]))),
    patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "Overwrite"}])),
    PATCH,
)]
#[case::ssc_1_same_namespace(in_namespace("a"), in_namespace("a"), CONTAINER)]
#[case::ssc_1_one_selects_all_namespaces(in_namespace("a"), json!({}), CONTAINER)]
#[case::ssc_8_paused(json!({}), spec(json!({"injectionStrategy": {"paused": true}})), CONTAINER)]
fn conflict(#[case] new: Value, #[case] other: Value, #[case] expected: &[&str]) {
    let findings = judge(new, other);
    assert_eq!(fields(&findings.errors), expected, "{findings:#?}");
    assert!(findings.errors[0].message.contains("SidecarSet \"other\""), "{findings:#?}");
}

#[rstest]
#[case::other_names(apart(json!({})), json!({}))]
#[case::ssc_1_other_pods(selecting(json!({"matchLabels": {"app": "db"}})), json!({}))]
#[case::ssc_1_other_namespaces(in_namespace("a"), in_namespace("b"))]
#[case::ssc_3_same_volume(
    apart(spec(json!({"volumes": [{"name": "v"}]}))),
    spec(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
)]
#[case::ssc_4_retain(
    apart(patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "Overwrite"}]))),
    patches(json!([{"annotations": {"ok/a": ""}}])),
)]
#[case::ssc_4_two_merges(
    apart(patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "MergePatchJson"}]))),
    patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "MergePatchJson"}])),
)]
#[case::ssc_5_same_env_and_host_port(
    apart(container(json!({"name": "lonely", "env": [{"name": "A"}], "ports": [{"containerPort": 1, "hostPort": 1}]}))),
    container(json!({"env": [{"name": "A"}], "ports": [{"containerPort": 1, "hostPort": 1}]})),
)]
#[case::ssc_7_canary_of_the_new_set(json!({}), canary("mesh", json!({})))]
#[case::ssc_1_base_of_the_new_canary(canary("other", json!({})), json!({}))]
#[case::plain_init_container_is_not_upgraded_hot(
    apart(init(hot(json!({"name": "x"})))),
    apart(container(json!({"name": "x-1"}))),
)]
fn peace(#[case] new: Value, #[case] other: Value) {
    let findings = judge(new, other);
    assert_eq!(findings.errors, []);
}

#[rstest]
#[case::sel_3_a_key_that_only_one_side_names(selecting(exists("c")), json!({}))]
#[case::sel_3_in_a_shared_namespace(merged(selecting(exists("c")), in_namespace("a")), in_namespace("a"))]
fn a_clash_that_the_reference_overlooks_is_told(#[case] new: Value, #[case] other: Value) {
    let findings = judge(new, other);
    assert_eq!(findings.errors, []);
    assert_eq!(fields(&findings.warnings), CONTAINER);
}

#[rstest]
#[case::the_other_takes_envs(
    apart(json!({})),
    container(json!({"transferEnv": [{"sourceContainerName": "lonely", "envName": "A"}]})),
    CONTAINER,
)]
#[case::the_new_one_takes_envs(
    container(json!({"name": "lonely", "transferEnv": [{"sourceContainerName": "proxy", "envName": "A"}]})),
    json!({}),
    &["spec.containers[0].transferEnv[0].sourceContainerName"],
)]
#[case::other_pods(
    merged(container(json!({"transferEnv": [{"sourceContainerName": "proxy-1", "envName": "A"}]})),
        selecting(json!({"matchLabels": {"app": "db"}}))),
    container(hot(json!({}))),
    &[],
)]
fn a_container_that_one_set_makes_and_another_reads_is_told_te_4(
    #[case] new: Value,
    #[case] other: Value,
    #[case] expected: &[&str],
) {
    let findings = judge(new, other);
    assert_eq!(findings.errors, []);
    assert_eq!(fields(&findings.warnings), expected, "{findings:#?}");
}

#[test]
fn other_namespaces_are_no_reason_to_warn() {
    let findings = judge(merged(selecting(exists("c")), in_namespace("a")), in_namespace("b"));
    assert_eq!(findings, Findings::default());
}

#[test]
fn ssc_4_all_other_sets_count_and_are_named_in_order() {
    let patch = |name: &str, policy: &str| {
        set(merged(
            json!({"metadata": {"name": name}, "spec": {"containers": [plain(json!({"name": name}))]}}),
            patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": policy}])),
        ))
    };
    let others = [patch("c", "Retain"), patch("b", "Overwrite"), patch("a", "Overwrite")];
    let findings = validate(&patch("new", "Overwrite"), &Unknown::default(), None, &surroundings(&others));
    let named: Vec<_> = findings.errors.iter().map(|problem| problem.message.split('"').nth(1).unwrap()).collect();
    assert_eq!(named, ["a", "b"]);
}

#[test]
fn conflicts_wait_until_the_set_itself_is_right() {
    let findings = judge(container(json!({"image": ""})), json!({}));
    assert_eq!(fields(&findings.errors), ["spec.containers[0].image"]);
}

#[test]
fn a_set_does_not_clash_with_itself() {
    let stored = [set(json!({}))];
    let findings = validate(&stored[0], &Unknown::default(), Some(&stored[0]), &surroundings(&stored));
    assert_eq!(findings, Findings::default());
}
