//! One case a fact. A case is a change to a SidecarSet that is fine, and the members that are then complained about.

#![expect(clippy::needless_pass_by_value, reason = "a case reads best with its values in place")]

mod conflicts;
mod pod;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::json;
use crate::sidecarset::defaults;

/// A SidecarSet that nothing is wrong with.
fn fine() -> Value {
    json!({
        "metadata": {"name": "mesh"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [plain(json!({}))],
        },
    })
}

fn plain(change: Value) -> Value {
    merged(json!({"name": "proxy", "image": "envoy:1"}), change)
}

fn merged(mut document: Value, change: Value) -> Value {
    json_patch::merge(&mut document, &change);
    document
}

// Changes, named for the place where they are made.

fn metadata(change: Value) -> Value {
    json!({"metadata": change})
}

fn spec(change: Value) -> Value {
    json!({"spec": change})
}

fn container(change: Value) -> Value {
    spec(json!({"containers": [plain(change)]}))
}

/// A container, and a volume that is called `data`.
fn with_volume(volume: Value, change: Value) -> Value {
    spec(json!({"containers": [plain(change)], "volumes": [merged(json!({"name": "data"}), volume)]}))
}

fn init(change: Value) -> Value {
    spec(json!({"initContainers": [merged(json!({"name": "setup", "image": "busybox:1"}), change)]}))
}

fn native(change: Value) -> Value {
    merged(init(merged(json!({"restartPolicy": "Always"}), change)), update(json!({"type": "NotUpdate"})))
}

fn hot(change: Value) -> Value {
    merged(json!({"upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"}}), change)
}

fn update(change: Value) -> Value {
    spec(json!({"updateStrategy": change}))
}

/// An update strategy where `Partial` has to choose between two revisions.
fn partial(change: Value) -> Value {
    spec(json!({
        "updateStrategy": merged(json!({"type": "NotUpdate"}), change),
        "injectionStrategy": {"revision": {"revisionName": "mesh-1", "policy": "Partial"}},
    }))
}

fn patches(entries: Value) -> Value {
    spec(json!({"patchPodMetadata": entries}))
}

fn canary(base: &str, change: Value) -> Value {
    let annotations = json!({crate::api::names::CANARY: "true", crate::api::names::CANARY_BASE: base});
    let canary = merged(metadata(json!({"annotations": annotations})), update(json!({"type": "NotUpdate"})));
    merged(canary, change)
}

fn decoded(change: Value) -> (SidecarSet, Unknown) {
    let document = merged(fine(), change);
    let (mut set, unknown) = json::decode(&document).unwrap();
    defaults::apply(&mut set, &unknown);
    (set, unknown)
}

fn set(change: Value) -> SidecarSet {
    decoded(change).0
}

/// Only `mesh-1` is there, and it belongs to `mesh`.
struct OneRevision;

impl Revisions for OneRevision {
    fn resolve(&self, set: &str, revision: &InjectionRevision) -> Result<(), String> {
        match (set, revision.revision_name.as_deref()) {
            ("mesh", Some("mesh-1")) => Ok(()),
            _ => Err("there is no such revision".to_owned()),
        }
    }
}

const WHITE_LIST: &str = r#"{"rules": [
    {"allowedAnnotationKeyExprs": ["^ok/"]},
    {"selector": {"matchLabels": {"team": "mesh"}}, "allowedAnnotationKeyExprs": ["^mesh/"]},
    {"selector": {"matchLabels": {"team": "other"}}, "allowedAnnotationKeyExprs": ["["]}
]}"#;

fn surroundings(others: &[SidecarSet]) -> Surroundings<'_> {
    Surroundings {
        others: others.iter().collect(),
        white_list: Some(WHITE_LIST),
        gates: Gates::default(),
        revisions: &OneRevision,
    }
}

fn findings(change: Value) -> Findings {
    let (set, unknown) = decoded(change);
    validate(&set, &unknown, None, &surroundings(&[]))
}

fn fields(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.field.as_str()).collect()
}

#[track_caller]
fn refuses(change: Value, expected: &[&str]) {
    let findings = findings(change);
    assert_eq!(fields(&findings.errors), expected, "{findings:#?}");
}

#[track_caller]
fn accepts(change: Value) {
    assert_eq!(findings(change), Findings::default());
}

#[track_caller]
fn warns(change: Value, expected: &[&str]) {
    let findings = findings(change);
    assert_eq!(findings.errors, [], "no errors");
    assert_eq!(fields(&findings.warnings), expected, "{findings:#?}");
}

// === metadata ===

#[rstest]
#[case::ssv_1_a_name_has_no_dots(metadata(json!({"name": "a.b"})), &["metadata.name"])]
#[case::ssv_1_a_name_has_at_most_63_characters(metadata(json!({"name": "a".repeat(64)})), &["metadata.name"])]
#[case::ssv_1_there_is_a_name(metadata(json!({"name": null})), &["metadata.name"])]
#[case::ssv_1_a_generated_name_obeys_too(metadata(json!({"generateName": "a."})), &["metadata.generateName"])]
#[case::ssv_2_there_is_no_namespace(metadata(json!({"namespace": "default"})), &["metadata.namespace"])]
#[case::ssv_2_label_key(metadata(json!({"labels": {"a/b/c": ""}})), &["metadata.labels[a/b/c]"])]
#[case::ssv_2_label_value(metadata(json!({"labels": {"a": "-"}})), &["metadata.labels[a]"])]
#[case::ssv_2_annotation_key(metadata(json!({"annotations": {"c~d": ""}})), &["metadata.annotations[c~d]"])]
#[case::ssv_2_annotation_size(metadata(json!({"annotations": {"a": "x".repeat(262_144)}})), &["metadata.annotations"])]
#[case::ssv_2_finalizer(metadata(json!({"finalizers": ["a", "-"]})), &["metadata.finalizers[1]"])]
#[case::ssv_2_owner(
    metadata(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "", "uid": "u"}]})),
    &["metadata.ownerReferences[0].name", "metadata.ownerReferences[0].kind"],
)]
#[case::ssv_2_one_controller(
    metadata(json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
        {"apiVersion": "v1", "kind": "A", "name": "b", "uid": "2", "controller": true},
    ]})),
    &["metadata.ownerReferences[1].controller"],
)]
fn wrong_metadata(#[case] change: Value, #[case] expected: &[&str]) {
    refuses(change, expected);
}

#[test]
fn a_generated_name_may_end_with_a_dash() {
    accepts(metadata(json!({"name": null, "generateName": "mesh-"})));
}

#[rstest]
#[case::ssv_3_base_is_itself("mesh", json!({}), &["metadata.annotations[apps.kruise.io/sidecarset-base]"])]
#[case::ssv_5_base_is_missing("none", json!({}), &["metadata.annotations[apps.kruise.io/sidecarset-base]"])]
#[case::ssv_6_base_is_a_canary("canary", json!({}), &["metadata.annotations[apps.kruise.io/sidecarset-base]"])]
#[case::ssv_7_a_canary_is_not_rolled_out("base", update(json!({"type": null})), &["spec.updateStrategy.type"])]
#[case::a_canary_of_a_base_is_fine("base", json!({}), &[])]
#[case::ssc_7_names_like_those_of_its_base_are_fine("base", json!({}), &[])]
fn canary_of(#[case] base: &str, #[case] change: Value, #[case] expected: &[&str]) {
    let others = [
        set(metadata(json!({"name": "base"}))),
        set(canary(
            "base",
            json!({"metadata": {"name": "canary"}, "spec": {"selector": {"matchLabels": {"app": "x"}}}}),
        )),
    ];
    let new = set(canary(base, change));
    let findings = validate(&new, &Unknown::default(), None, &surroundings(&others));
    assert_eq!(fields(&findings.errors), expected, "{findings:#?}");
}

#[rstest]
#[case::from_a_plain_set(json!({}), &["metadata.annotations[apps.kruise.io/sidecarset-base]"])]
#[case::from_another_base(canary("old", json!({})), &["metadata.annotations[apps.kruise.io/sidecarset-base]"])]
#[case::from_a_base_that_was_not_in_use(
    metadata(json!({"annotations": {"apps.kruise.io/sidecarset-base": "base"}})),
    &[],
)]
fn ssv_4_the_base_stays(#[case] old: Value, #[case] expected: &[&str]) {
    let others = [set(metadata(json!({"name": "base"})))];
    let findings =
        validate(&set(canary("base", json!({}))), &Unknown::default(), Some(&set(old)), &surroundings(&others));
    assert_eq!(fields(&findings.errors), expected, "{findings:#?}");
}

// === selectors ===

#[rstest]
#[case::ssv_11_a_selector_is_required(spec(json!({"selector": null})), &["spec.selector"])]
#[case::ssv_12_an_empty_selector(spec(json!({"selector": {"matchLabels": null}})), &["spec.selector"])]
#[case::ssv_12_an_empty_namespace_selector(spec(json!({"namespaceSelector": {}})), &["spec.namespaceSelector"])]
#[case::ssv_12_key(spec(json!({"selector": {"matchLabels": {"-": "x"}}})), &["spec.selector.matchLabels[-]"])]
#[case::ssv_12_value(spec(json!({"selector": {"matchLabels": {"a": "x y"}}})), &["spec.selector.matchLabels[a]"])]
#[case::ssv_12_operator(
    spec(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["x"]}]}})),
    &["spec.selector.matchExpressions[0].operator"],
)]
#[case::ssv_12_in_needs_values(
    spec(json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
    &["spec.namespaceSelector.matchExpressions[0].values"],
)]
#[case::ssv_12_exists_has_none(
    spec(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}})),
    &["spec.selector.matchExpressions[0].values"],
)]
#[case::ssv_12_expression_value(
    spec(json!({"selector": {"matchExpressions": [{"key": "/", "operator": "In", "values": ["x", "y z"]}]}})),
    &["spec.selector.matchExpressions[0].key", "spec.selector.matchExpressions[0].values[1]"],
)]
fn wrong_selector(#[case] change: Value, #[case] expected: &[&str]) {
    refuses(change, expected);
}

// === strategies ===

#[rstest]
#[case::switched_on(true, &[])]
#[case::switched_off(false, &["spec.updateStrategy.type"])]
fn ssv_10_native_sidecars_are_rolled_out_when_that_is_switched_on(#[case] gate: bool, #[case] refused: &[&str]) {
    let gates = Gates { in_place_native_sidecar: gate, ..Gates::default() };
    let (set, unknown) = decoded(init(json!({"restartPolicy": "Always"})));
    let findings = validate(&set, &unknown, None, &Surroundings { gates, ..surroundings(&[]) });
    let fields: Vec<&str> = findings.errors.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, refused);
}

#[test]
fn hot_upgrade_native_sidecars_are_said_to_stay_as_they_are_hot_33() {
    let hot = json!({"restartPolicy": "Always", "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "e:1"}});
    let findings = findings(init(hot));
    assert!(findings.errors.is_empty(), "{findings:#?}");
    assert!(findings.warnings.iter().any(|warning| warning.message.contains("hot upgrade")), "{findings:#?}");
}

const PARTITION: &[&str] = &["spec.updateStrategy.partition"];
const MAX_UNAVAILABLE: &[&str] = &["spec.updateStrategy.maxUnavailable"];

#[rstest]
#[case::ssv_20_selector_beside_partition(
    update(json!({"selector": {"matchLabels": {"a": "b"}}, "partition": "0%"})),
    &["spec.updateStrategy"],
)]
#[case::ssv_20_empty_selector(update(json!({"selector": {}})), &["spec.updateStrategy.selector"])]
#[case::ssv_20_negative_partition(update(json!({"partition": -1})), PARTITION)]
#[case::ssv_20_partition_without_percent(update(json!({"partition": "5"})), PARTITION)]
#[case::ssv_20_partition_with_a_fraction(update(json!({"partition": "2.5%"})), PARTITION)]
#[case::ssv_20_negative_max_unavailable(update(json!({"maxUnavailable": -1})), MAX_UNAVAILABLE)]
#[case::ssv_20_max_unavailable_in_words(update(json!({"maxUnavailable": "%"})), MAX_UNAVAILABLE)]
#[case::ssv_20_two_priorities(
    update(json!({"priorityStrategy": {
        "orderPriority": [{"orderedKey": "a"}],
        "weightPriority": [{"weight": 1, "matchSelector": {"matchLabels": {"a": "b"}}}],
    }})),
    &["spec.updateStrategy.priorityStrategy"],
)]
#[case::ssv_20_ordered_key(
    update(json!({"priorityStrategy": {"orderPriority": [{"orderedKey": ""}]}})),
    &["spec.updateStrategy.priorityStrategy.orderPriority[0].orderedKey"],
)]
#[case::ssv_20_weight(
    update(json!({"priorityStrategy": {"weightPriority": [{"weight": 101, "matchSelector": {}}]}})),
    &[
        "spec.updateStrategy.priorityStrategy.weightPriority[0].weight",
        "spec.updateStrategy.priorityStrategy.weightPriority[0].matchSelector",
    ],
)]
#[case::ssv_20_scatter_key(
    update(json!({"scatterStrategy": [{"key": "", "value": "b"}]})),
    &["spec.updateStrategy.scatterStrategy[0].key"],
)]
#[case::ssv_20_scatter_twice(
    update(json!({"scatterStrategy": [{"key": "a", "value": "b"}, {"key": "a", "value": "b"}]})),
    &["spec.updateStrategy.scatterStrategy[1]"],
)]
#[case::ssv_21_unknown_type(update(json!({"type": "Foo"})), &["spec.updateStrategy.type"])]
#[case::ssv_21_what_rev_8_cannot_read(partial(json!({"partition": "half"})), PARTITION)]
#[case::ssv_21_what_rev_7_cannot_read(
    partial(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}})),
    &["spec.updateStrategy.selector"],
)]
#[case::ssv_15_a_revision_of_nothing(
    spec(json!({"injectionStrategy": {"revision": {"policy": "Always"}}})),
    &["spec.injectionStrategy.revision"],
)]
#[case::ssv_16_a_revision_that_is_not_there(
    spec(json!({"injectionStrategy": {"revision": {"customVersion": "v2"}}})),
    &["spec.injectionStrategy.revision"],
)]
#[case::ssv_17_policy(
    spec(json!({"injectionStrategy": {"revision": {"revisionName": "mesh-1", "policy": "Often"}}})),
    &["spec.injectionStrategy.revision.policy"],
)]
fn wrong_strategy(#[case] change: Value, #[case] expected: &[&str]) {
    refuses(change, expected);
}

#[rstest]
#[case::ssv_20_more_than_all(update(json!({"partition": "200%", "maxUnavailable": "200%"})))]
#[case::ssv_20_selector_beside_partition_0(update(json!({"selector": {"matchLabels": {"a": "b"}}, "partition": 0})))]
#[case::ssv_20_scatter_over_values(
    update(json!({"scatterStrategy": [{"key": "a", "value": "b"}, {"key": "a", "value": "c"}]}))
)]
#[case::rev_8_a_fraction_is_a_probability(partial(json!({"partition": "2.5%"})))]
#[case::native_sidecars_with_not_update(native(json!({})))]
fn right_strategy(#[case] change: Value) {
    accepts(change);
}

#[rstest]
#[case::ssv_20_max_unavailable_0(update(json!({"maxUnavailable": 0})), MAX_UNAVAILABLE)]
#[case::ssv_20_max_unavailable_0_percent(update(json!({"maxUnavailable": "0%"})), MAX_UNAVAILABLE)]
#[case::ssv_20_weight_0(
    update(json!({"priorityStrategy": {"weightPriority": [{"weight": 0, "matchSelector": {"matchLabels": {"a": "b"}}}]}})),
    &["spec.updateStrategy.priorityStrategy.weightPriority[0].weight"],
)]
#[case::ssv_21_partition_that_nobody_reads(update(json!({"type": "NotUpdate", "partition": "half"})), PARTITION)]
#[case::ssv_21_partition_while_paused(partial(json!({"partition": "half", "paused": true})), PARTITION)]
#[case::ssv_21_negative_partition(partial(json!({"partition": -1})), PARTITION)]
#[case::ssv_21_max_unavailable(update(json!({"type": "NotUpdate", "maxUnavailable": "x"})), MAX_UNAVAILABLE)]
fn odd_strategy(#[case] change: Value, #[case] expected: &[&str]) {
    warns(change, expected);
}

// === patches ===

#[rstest]
#[case::ssv_30_key_that_is_not_listed(
    patches(json!([{"annotations": {"ok/a": "", "no/a": ""}}])),
    &["spec.patchPodMetadata[0].annotations[no/a]"],
)]
#[case::ssv_31_rule_for_others(
    patches(json!([{"annotations": {"mesh/a": ""}}])),
    &["spec.patchPodMetadata[0].annotations[mesh/a]"],
)]
#[case::ssv_33_bad_expression_of_a_rule_that_counts(
    merged(metadata(json!({"labels": {"team": "other"}})), patches(json!([{"annotations": {"ok/a": ""}}]))),
    &["spec.patchPodMetadata"],
)]
#[case::ssv_34_no_annotations(patches(json!([{"patchPolicy": "Retain"}])), &["spec.patchPodMetadata[0].annotations"])]
#[case::ssv_34_key_syntax(
    patches(json!([{"annotations": {"ok/a~b": ""}}])),
    &["spec.patchPodMetadata[0].annotations[ok/a~b]"],
)]
#[case::ssv_35_key_twice(
    patches(json!([{"annotations": {"ok/a": ""}}, {"annotations": {"ok/a": ""}, "patchPolicy": "Overwrite"}])),
    &["spec.patchPodMetadata[1].annotations[ok/a]"],
)]
#[case::ssv_36_unknown_policy(
    patches(json!([{"annotations": {"ok/a": ""}, "patchPolicy": "Replace"}])),
    &["spec.patchPodMetadata[0].patchPolicy"],
)]
fn wrong_patch(#[case] change: Value, #[case] expected: &[&str]) {
    refuses(change, expected);
}

#[rstest]
#[case::meta_4_a_word("on", true)]
#[case::meta_4_null("null", true)]
#[case::meta_4_an_array("[1]", false)]
#[case::meta_4_an_object("{}", false)]
#[case::meta_5_nested_too_deeply(&"[".repeat(1000), true)]
fn a_value_that_can_never_be_merged_is_told(#[case] value: &str, #[case] told: bool) {
    let at = ["spec.patchPodMetadata[0].annotations[ok/a]"];
    let change = patches(json!([{"annotations": {"ok/a": value}, "patchPolicy": "MergePatchJson"}]));
    warns(change, if told { &at } else { &[] });
}

#[rstest]
#[case::of_a_rule_for_all(patches(json!([{"annotations": {"ok/a": ""}}])))]
#[case::ssv_31_of_a_rule_for_its_label(
    merged(metadata(json!({"labels": {"team": "mesh"}})), patches(json!([{"annotations": {"mesh/a": "", "ok/b": ""}}])))
)]
fn right_patch(#[case] change: Value) {
    accepts(change);
}

#[rstest]
#[case::missing(None, false, false)]
#[case::missing_with_the_gate(None, true, true)]
#[case::no_expression_left(Some(r#"{"rules": [{"selector": {"matchLabels": {"a": "b"}}}]}"#), false, false)]
#[case::no_expression_left_with_the_gate(Some(r#"{"rules": [{"allowedKeys": ["x"]}]}"#), true, true)]
#[case::null_members(Some(r#"{"rules": [{"selector": null, "allowedAnnotationKeyExprs": ["x"]}]}"#), false, true)]
#[case::another_key_even_with_the_gate(Some(r#"{"rules": [{"allowedAnnotationKeyExprs": ["y"]}]}"#), true, false)]
#[case::expressions_are_unanchored(Some(r#"{"rules": [{"allowedAnnotationKeyExprs": ["."]}]}"#), false, true)]
#[case::not_json(Some("rules"), true, false)]
#[case::bad_selector(
    Some(r#"{"rules": [{"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}"#),
    true,
    false
)]
fn ssv_32_white_list(#[case] white_list: Option<&str>, #[case] gate: bool, #[case] accepted: bool) {
    let gates = Gates { patch_metadata_defaults_allowed: gate, ..Gates::default() };
    let around = Surroundings { white_list, gates, ..surroundings(&[]) };
    let new = set(patches(json!([{"annotations": {"x": ""}}])));
    let findings = validate(&new, &Unknown::default(), None, &around);
    assert_eq!(findings.errors.is_empty(), accepted, "{findings:#?}");
}

// === the whole ===

#[test]
fn ssv_37_a_custom_version_is_a_label_value() {
    refuses(spec(json!({"customVersion": "v 1"})), &["spec.customVersion"]);
    accepts(spec(json!({"customVersion": "v1"})));
}

#[rstest]
#[case::ssu_1_a_container_is_new(container(json!({"name": "other"})), &["spec.containers[0].name"])]
#[case::ssu_2_another_upgrade_type(
    container(hot(json!({}))),
    &["spec.containers[0].upgradeStrategy.upgradeType"],
)]
#[case::ssu_3_another_image(container(json!({"image": "envoy:2"})), &[])]
#[case::ssu_3_another_init_container(init(json!({})), &[])]
#[case::ssu_3_no_container(merged(init(json!({})), spec(json!({"containers": null}))), &[])]
fn change_of_a_stored_set(#[case] change: Value, #[case] expected: &[&str]) {
    let (new, old) = (set(change), set(json!({})));
    let findings = validate(&new, &Unknown::default(), Some(&old), &surroundings(&[]));
    assert_eq!(fields(&findings.errors), expected, "{findings:#?}");
}

#[test]
fn an_upgrade_type_that_was_never_stored_may_come() {
    let (new, mut old) = (set(container(hot(json!({})))), set(json!({})));
    old.spec.containers.as_mut().unwrap()[0].upgrade_strategy.upgrade_type.clear();
    let findings = validate(&new, &Unknown::default(), Some(&old), &surroundings(&[]));
    assert_eq!(findings.errors, []);
}

const IMAGE: &str = "envoy:2";

#[rstest]
#[case::an_image(container(json!({"image": IMAGE})), &[])]
#[case::nothing(json!({}), &[])]
#[case::a_strategy(update(json!({"partition": 1, "paused": true})), &[])]
#[case::a_custom_version(spec(json!({"customVersion": "v2"})), &[])]
#[case::metadata_of_the_set(metadata(json!({"labels": {"a": "b"}})), &[])]
#[case::ctl_58_resources(
    container(json!({"image": IMAGE, "resources": {"limits": {"cpu": "1"}}})),
    &["spec.containers[0].resources.limits"],
)]
#[case::a_list_that_grows(container(json!({"args": ["-v"]})), &["spec.containers[0].args"])]
#[case::a_deep_member(
    container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 2}}}})),
    &["spec.containers[0].lifecycle.preStop.sleep.seconds"],
)]
#[case::an_item_of_a_list(
    container(json!({"env": [{"name": "A", "value": "hunter3"}]})),
    &["spec.containers[0].env[0].value"],
)]
#[case::several(
    container(json!({"tty": true, "command": ["x"]})),
    &["spec.containers[0].command", "spec.containers[0].tty"],
)]
#[case::a_volume(spec(json!({"volumes": [{"name": "v", "emptyDir": {}}]})), &["spec.volumes"])]
#[case::ctl_56_an_init_container(init(json!({})), &["spec.initContainers"])]
#[case::a_pull_secret(spec(json!({"imagePullSecrets": [{"name": "s"}]})), &["spec.imagePullSecrets"])]
#[case::a_patch(patches(json!([{"annotations": {"ok/a": ""}}])), &["spec.patchPodMetadata"])]
#[case::the_selectors(
    spec(json!({"selector": {"matchLabels": {"app": "db"}}, "namespaceSelector": {"matchLabels": {"a": "b"}}})),
    &["spec.selector", "spec.namespaceSelector"],
)]
#[case::without_rolling_update(merged(container(json!({"tty": true})), update(json!({"type": "NotUpdate"}))), &[])]
fn what_a_change_does_not_do_to_running_pods_is_told(#[case] change: Value, #[case] expected: &[&str]) {
    let before = json!({
        "env": [{"name": "A", "value": "hunter2"}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    });
    let before = container(before);
    let old = set(before.clone());
    let mut document = before;
    let containers = document["spec"]["containers"].take();
    // A merge replaces lists, so the one container is merged apart.
    let mut change = change;
    let mut only = containers[0].clone();
    if let Some(changes) = change["spec"].as_object_mut().and_then(|spec| spec.remove("containers")) {
        json_patch::merge(&mut only, &changes[0]);
    }
    document = merged(document, change);
    document["spec"]["containers"] = json!([only]);
    let findings = validate(&set(document), &Unknown::default(), Some(&old), &surroundings(&[]));
    assert_eq!(findings.errors, [], "it is legal");
    assert_eq!(fields(&findings.warnings), expected, "{findings:#?}");
    for warning in &findings.warnings {
        let text = warning.to_string();
        assert!(text.contains("until they are recreated") && !text.contains("hunter"), "{text}");
        assert!(text.len() <= 256, "the API server shows all of it: {text}");
    }
}

#[test]
fn a_hot_upgrade_cannot_get_another_empty_image_in_place() {
    let of = |empty: &str| set(container(hot(json!({"upgradeStrategy": {"hotUpgradeEmptyImage": empty}}))));
    let findings = validate(&of("empty:2"), &Unknown::default(), Some(&of("empty:1")), &surroundings(&[]));
    assert_eq!(findings.errors, []);
    assert_eq!(fields(&findings.warnings), ["spec.containers[0].upgradeStrategy.hotUpgradeEmptyImage"]);
}

#[rstest]
#[case::another_order(&["b", "a"], &["spec.containers"])]
#[case::one_less(&["b"], &["spec.containers"])]
#[case::the_same(&["a", "b"], &[])]
fn containers_that_move_or_go_are_told(#[case] names: &[&str], #[case] expected: &[&str]) {
    let of = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| plain(json!({"name": name}))).collect();
        set(spec(json!({"containers": containers})))
    };
    let findings = validate(&of(names), &Unknown::default(), Some(&of(&["a", "b"])), &surroundings(&[]));
    assert_eq!(findings.errors, []);
    assert_eq!(fields(&findings.warnings), expected, "{findings:#?}");
}

#[rstest]
#[case::no_pod_must_have_a_label(json!({"key": "skip", "operator": "DoesNotExist"}), &["spec.selector"])]
#[case::any_other_value(json!({"key": "a", "operator": "NotIn", "values": ["b"]}), &["spec.selector"])]
#[case::a_label_is_demanded(json!({"key": "a", "operator": "Exists"}), &[])]
fn a_selector_that_takes_in_nearly_every_pod_is_told(#[case] expression: Value, #[case] expected: &[&str]) {
    warns(spec(json!({"selector": {"matchLabels": null, "matchExpressions": [expression]}})), expected);
}

#[rstest]
#[case::replaces(
    container(json!({"transferEnv": [{"sourceContainerName": "proxy", "envName": "A"}]})),
    &["spec.containers[0].name"],
)]
#[case::one_of_a_hot_pair(
    container(hot(json!({"transferEnv": [{"sourceContainerName": "proxy-2", "envName": "A"}]}))),
    &["spec.containers[0].name"],
)]
#[case::an_init_container(
    init(json!({"transferEnv": [{"sourceContainerName": "setup", "envName": "A"}]})),
    &["spec.initContainers[0].name"],
)]
#[case::another_container(container(json!({"transferEnv": [{"sourceContainerName": "app", "envName": "A"}]})), &[])]
fn a_name_that_collides_with_a_container_that_pods_are_said_to_have_is_told(
    #[case] change: Value,
    #[case] expected: &[&str],
) {
    warns(change, expected);
}

#[test]
fn problems_come_together_in_the_order_of_the_members() {
    refuses(
        json!({
            "metadata": {"name": "a.b"},
            "spec": {
                "selector": null,
                "containers": [plain(json!({"image": ""})), plain(json!({"name": "Bad"}))],
                "volumes": [{"name": "v", "secret": {}}],
                "updateStrategy": {"partition": "x"},
                "patchPodMetadata": [{"annotations": {"no": ""}}],
                "customVersion": "-",
            },
        }),
        &[
            "metadata.name",
            "spec.selector",
            "spec.containers[0].image",
            "spec.containers[1].name",
            "spec.volumes[0].secret.secretName",
            "spec.updateStrategy.partition",
            "spec.patchPodMetadata[0].annotations[no]",
            "spec.customVersion",
        ],
    );
}

#[test]
fn a_message_shows_long_values_in_part_and_env_values_never() {
    let long = "A".repeat(500);
    let env = json!([{"name": long, "value": "hunter2", "valueFrom": {}}]);
    let findings = findings(container(json!({"env": env})));
    assert!(findings.errors.len() > 1);
    for problem in findings.errors {
        assert!(problem.to_string().len() < 300, "{problem}");
        assert!(!problem.message.contains("hunter2"), "{problem}");
    }
}
