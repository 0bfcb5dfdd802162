//! Whole rounds: the worked traces of the specification, and what the reference gets wrong.

mod world;

use rstest::rstest;
use serde_json::{Value, json};

use self::world::World;
use super::{Event, Step, Verdict};
use crate::api::names;

fn cold() -> Value {
    json!({
        "selector": {"matchLabels": {"app": "web"}},
        "containers": [{"name": "agent", "image": "agent:1"}],
        "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": 1},
    })
}

fn hot() -> Value {
    json!({
        "containers": [{"name": "proxy", "image": "proxy:1",
            "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"}}],
        "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": 1},
    })
}

fn world(spec: Value, pods: &[&str]) -> World {
    let mut world = World::new(spec);
    for name in pods {
        world.inject(name);
    }
    world.reconcile();
    world
}

fn updates(names: &[&str]) -> Vec<(Step, String)> {
    names.iter().map(|name| (Step::Update, (*name).to_owned())).collect()
}

fn steps(steps: &[(Step, &str)]) -> Vec<(Step, String)> {
    steps.iter().map(|(step, name)| (*step, (*name).to_owned())).collect()
}

fn reasons(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.reason).collect()
}

fn condition(world: &World, r#type: &str) -> (String, String, String) {
    let conditions = world.plan().status.conditions;
    let found = conditions.into_iter().find(|condition| condition.r#type == r#type).unwrap();
    (found.status, found.reason, found.message)
}

// === cold ===

#[test]
fn a_cold_rollout_goes_pod_by_pod_t_1() {
    let mut world = world(cold(), &["a", "b", "c"]);
    assert_eq!(world.counts(), "3/3/3/3");
    world.image("agent:2");
    assert_eq!(world.counts(), "3/0/3/0");
    for (pod, counts) in [("c", "3/1/3/1"), ("b", "3/2/3/2"), ("a", "3/3/3/3")] {
        assert_eq!(world.reconcile(), updates(&[pod]));
        assert_eq!(world.reconcile(), [], "{pod} is in flight");
        assert_eq!(
            world.verdict(pod).split(';').next(),
            Some(&*format!("was updated at {}", super::time_text(world.now)))
        );
        world.kubelet();
        assert_eq!(world.counts(), counts);
        assert_eq!(world.image_of(pod, "agent"), "agent:2");
    }
    assert_eq!(world.reconcile(), []);
}

#[test]
fn one_write_changes_image_and_annotations_and_nothing_else_upd_16() {
    let mut world = world(cold(), &["a"]);
    let before = world.annotation("a", names::HASH_WITHOUT_IMAGE);
    let old = world.pods[0]["status"]["containerStatuses"][1].clone();
    world.image("agent:2");
    let plan = world.plan();
    let write = &plan.writes[0];
    assert_eq!(plan.writes.len(), 1, "no condition is written beside it");
    assert_eq!(write.patch["spec"], json!({"containers": [{"name": "agent", "image": "agent:2"}]}));
    let annotations = write.patch["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), [names::HASH, names::INPLACE_UPDATE_STATE]);
    let hash = &world.set.metadata.annotations[names::HASH];
    let time = super::time_text(world.now);
    assert_eq!(
        annotations[names::HASH],
        format!(
            r#"{{"log-agent":{{"updateTimestamp":"{time}","hash":"{hash}","sidecarSetName":"log-agent","sidecarList":["agent"],"controllerRevision":"log-agent-2"}}}}"#
        ),
        "CTL-20"
    );
    let (image, container) = (&old["imageID"], &old["containerID"]);
    assert_eq!(
        annotations[names::INPLACE_UPDATE_STATE],
        format!(
            r#"{{"log-agent":{{"revision":"{hash}","updateTimestamp":"{time}","lastContainerStatuses":{{"agent":{{"imageID":{image},"containerID":{container},"image":"agent:1"}}}}}}}}"#
        ),
        "CTL-23"
    );
    world.reconcile();
    assert_eq!(world.annotation("a", names::HASH_WITHOUT_IMAGE), before, "UPD-6");
}

#[test]
fn a_bad_image_holds_the_others_and_a_good_one_goes_on_t_2() {
    let mut world = world(cold(), &["a", "b", "c"]);
    world.bad.insert("agent:2".to_owned());
    world.image("agent:2");
    assert_eq!(world.reconcile(), updates(&["c"]));
    world.kubelet();
    assert_eq!(world.counts(), "3/1/2/0");
    let plan = world.plan();
    assert_eq!(reasons(&plan.events), ["RolloutStalled"]);
    assert_eq!(world.reconcile(), []);
    assert_eq!(world.plan().events, [], "told once");
    assert_eq!(world.verdict("c"), "is not ready: container agent: ImagePullBackOff");
    assert_eq!(world.verdict("b"), "waits for maxUnavailable: 1 unavailable, 1 may be");
    assert_eq!(
        condition(&world, "Progressing").2,
        "1 of 3 pods are updated; 2 waiting for maxUnavailable (1 of 1 unavailable); \
         pod shop/c is not ready: container agent: ImagePullBackOff"
    );
    assert_eq!(condition(&world, "Degraded").1, "PodsFailing");

    world.image("agent:3");
    // W-13: the reference takes b as well, as c is not "updated" any more.
    assert_eq!(world.reconcile(), updates(&["c"]));
    world.kubelet();
    assert_eq!(world.counts(), "3/1/3/1");
    for pod in ["b", "a"] {
        assert_eq!(world.reconcile(), updates(&[pod]));
        world.kubelet();
    }
    assert_eq!(reasons(&world.plan().events), ["RolloutComplete"]);
    world.reconcile();
    assert_eq!(condition(&world, "Progressing").1, "Complete");
    assert_eq!(condition(&world, "Degraded").0, "False");
}

#[test]
fn not_ready_pods_are_free_and_the_walk_ends_at_the_budget_str_11() {
    let names: Vec<String> = (0..12).map(|index| format!("p{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = world(cold(), &names);
    world.strategy(json!({"maxUnavailable": 4}));
    world.image("agent:2");
    world.reconcile();
    world.kubelet();
    assert_eq!(world.counts(), "12/4/12/4");
    // Of the updated ones one is not ready, of the old ones two, all for reasons of their own.
    for pod in ["p08", "p00", "p01"] {
        world.status_of(pod, "app")["ready"] = json!(false);
        world.pod(pod)["status"]["conditions"][0]["status"] = json!("False");
    }
    world.strategy(json!({"partition": "25%", "maxUnavailable": "10%"}));
    assert_eq!(world.reconcile(), updates(&["p01", "p00", "p07"]));
}

#[test]
fn partition_is_lowered_step_by_step_t_5() {
    let names: Vec<String> = (0..10).map(|index| format!("p{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = world(cold(), &names);
    world.image("agent:2");
    for (partition, written) in [("80%", 2), ("30%", 5), ("90%", 0), ("0%", 3)] {
        world.strategy(json!({"maxUnavailable": "100%", "partition": partition}));
        assert_eq!(world.reconcile().len(), written, "{partition}");
        world.kubelet();
        assert_eq!(world.reconcile(), []);
    }
    assert_eq!(world.counts(), "10/10/10/10");
}

#[test]
fn old_pods_that_cannot_be_updated_count_among_those_that_are_kept_w_6() {
    let mut world = world(cold(), &["a", "b", "c", "d"]);
    world.image("agent:2");
    world.strategy(json!({"maxUnavailable": 4, "partition": 2}));
    world.held.extend(["a".to_owned(), "d".to_owned()]);
    assert_eq!(world.reconcile(), updates(&["c", "b"]));
    world.kubelet();
    world.held.clear();
    assert_eq!(world.reconcile(), []);
    assert_eq!(world.verdict("d"), "keeps the old version: partition keeps 2");
    assert_eq!(condition(&world, "Progressing").1, "HeldByPartition");
}

#[rstest]
#[case::a_partition_in_words(json!({"partition": "half"}), "InvalidStrategy")]
#[case::a_selector_that_means_nothing(
    json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}), "InvalidStrategy"
)]
#[case::an_unknown_type(json!({"type": "Rolling"}), "InvalidStrategy")]
#[case::paused(json!({"paused": true}), "Paused")]
#[case::not_update(json!({"type": "NotUpdate"}), "NotUpdate")]
#[case::selects_others(json!({"selector": {"matchLabels": {"app": "db"}}}), "NotSelected")]
#[case::keeps_all(json!({"partition": "100%"}), "HeldByPartition")]
#[case::allows_none_unavailable(json!({"maxUnavailable": 0}), "Stalled")]
fn nothing_is_written_and_it_is_said_why_w_15(#[case] strategy: Value, #[case] reason: &str) {
    let mut world = world(cold(), &["a", "b"]);
    world.strategy(strategy);
    world.image("agent:2");
    assert_eq!(world.plan().writes, []);
    assert_eq!(condition(&world, "Progressing").1, reason);
    assert_eq!(world.counts(), "2/0/2/0");
    world.reconcile();
    assert_eq!(world.plan().events, [], "an event is due to a change");
}

#[test]
fn only_selected_pods_are_updated_str_12() {
    let mut world = world(cold(), &["a", "b"]);
    world.pod("a")["metadata"]["labels"]["canary"] = json!("yes");
    world.strategy(json!({"selector": {"matchLabels": {"canary": "yes"}}}));
    world.image("agent:2");
    assert_eq!(world.reconcile(), updates(&["a"]));
    assert_eq!(world.verdict("b"), "is left out by updateStrategy.selector");
}

#[rstest]
#[case::is_being_deleted(json!({"metadata": {"deletionTimestamp": "2026-03-04T05:06:07Z"}}))]
#[case::has_ended(json!({"status": {"phase": "Succeeded"}}))]
#[case::has_failed(json!({"status": {"phase": "Failed"}}))]
#[case::was_not_injected(json!({"metadata": {"annotations": {names::INJECTED_LIST: "log-agent-2,mesh"}}}))]
#[case::lacks_the_container(json!({"spec": {"containers": [{"name": "app"}]}}))]
fn such_a_pod_is_none_of_the_sets_ctl_11_to_13(#[case] more: Value) {
    let mut world = world(cold(), &["a"]);
    json_patch::merge(world.pod("a"), &more);
    world.image("agent:2");
    assert_eq!((world.counts().as_str(), world.plan().writes.len()), ("0/0/0/0", 0));
}

#[test]
fn a_container_that_stands_among_the_init_containers_matches_ctl_13() {
    let mut world = world(cold(), &["a"]);
    let pod = world.pod("a");
    pod["spec"]["containers"].as_array_mut().unwrap().pop();
    pod["status"]["containerStatuses"].as_array_mut().unwrap().pop();
    pod["spec"]["initContainers"] = json!([{"name": "agent", "image": "agent:1"}]);
    assert_eq!(world.counts(), "1/1/1/1");
}

#[test]
fn an_earlier_update_that_was_not_acted_on_is_waited_for_str_2() {
    let mut world = world(cold(), &["a"]);
    world.image("agent:2");
    world.reconcile();
    world.image("agent:3");
    assert_eq!(world.reconcile(), []);
    assert_eq!(world.verdict("a"), "waits: container agent still runs what an earlier update replaced");
    world.kubelet();
    assert_eq!(world.reconcile(), updates(&["a"]));
}

#[test]
fn a_rollback_after_a_failed_pull_completes_with_a_short_name_w_2() {
    let mut world = world(cold(), &["a"]);
    world.bad.insert("agent:2".to_owned());
    world.image("agent:2");
    world.reconcile();
    world.kubelet();
    world.image("agent:1");
    assert_eq!(world.reconcile(), updates(&["a"]));
    assert_eq!(world.counts(), "1/1/0/0");
    world.kubelet();
    assert_eq!(world.counts(), "1/1/1/1");
}

#[test]
fn an_intermediate_image_that_starts_late_is_not_taken_for_the_last_w_2() {
    let mut world = world(cold(), &["a"]);
    world.bad.insert("agent:2".to_owned());
    world.image("agent:2");
    world.reconcile();
    world.kubelet();
    world.image("agent:3");
    world.reconcile();
    // The node is still busy with the second image, which it got after all.
    let now = world.now.to_string();
    let status = world.status_of("a", "agent");
    *status = json!({"name": "agent", "image": "docker.io/library/agent:2", "imageID": "agent@sha256:2", "ready": true,
        "containerID": "containerd://late", "state": {"running": {"startedAt": now}}});
    world.pod("a")["status"]["conditions"][0]["status"] = json!("True");
    assert_eq!(world.counts(), "1/1/0/0");
}

#[test]
fn the_same_content_under_another_tag_completes_once_it_settled_w_2() {
    let mut world = world(cold(), &["a"]);
    world.image("agent:same");
    world.reconcile();
    let now = world.now.to_string();
    let status = world.status_of("a", "agent");
    status["containerID"] = json!("containerd://new");
    status["state"] = json!({"running": {"startedAt": now}});
    assert_eq!(world.counts(), "1/1/0/0");
    let wake = world.plan().wake.unwrap();
    assert_eq!(wake.as_secs(), 60);
    world.later(wake.as_secs());
    assert_eq!(world.counts(), "1/1/1/1");
}

#[test]
fn a_change_that_the_node_never_saw_completes_once_it_settled_w_2() {
    let mut world = world(cold(), &["a"]);
    world.status_of("a", "agent")["ready"] = json!(false);
    world.image("agent:2");
    world.reconcile();
    world.image("agent:1");
    assert_eq!(world.reconcile(), updates(&["a"]));
    world.status_of("a", "agent")["ready"] = json!(true);
    assert_eq!(world.counts(), "1/1/0/0");
    world.later(61);
    assert_eq!(world.counts(), "1/1/1/1");
}

#[test]
fn native_sidecars_are_updated_in_place_behind_a_gate() {
    let spec = json!({
        "initContainers": [{"name": "agent", "image": "agent:1", "restartPolicy": "Always"}],
        "updateStrategy": {"maxUnavailable": 1},
    });
    let mut world = world(spec, &["a", "b"]);
    world.image("agent:2");
    world.gates.in_place_native_sidecar = false;
    assert_eq!(world.verdict("b"), "must be recreated: spec.initContainers[agent].image changed");
    world.gates.in_place_native_sidecar = true;
    assert_eq!(world.reconcile(), updates(&["b"]));
    assert_eq!((world.image_of("b", "agent").as_str(), world.counts().as_str()), ("agent:2", "2/1/1/0"));
    assert_eq!(world.reconcile(), []);
    world.kubelet();
    assert_eq!(world.counts(), "2/1/2/1");
    assert_eq!(world.reconcile(), updates(&["a"]));
}

#[test]
fn metadata_is_patched_with_the_update_and_one_bad_value_stops_nothing_upd_9_w_20() {
    let mut world = world(cold(), &["a"]);
    let pod = world.pod("a");
    pod["metadata"]["annotations"]["oom"] = json!(r#"{"log-agent":-500}"#);
    pod["metadata"]["annotations"]["bad"] = json!("no json");
    pod["metadata"]["annotations"]["kept"] = json!("mine");
    world.set.spec.patch_pod_metadata = serde_json::from_value(json!([
        {"annotations": {"oom": r#"{"proxy":-900,"log-agent":null}"#, "bad": "{}"}, "patchPolicy": "MergePatchJson"},
        {"annotations": {"kept": "theirs", "new": "1", names::INJECTED_LIST: "x"}, "patchPolicy": "Retain"},
        {"annotations": {"new": "2", names::INJECTED_LIST: "x"}, "patchPolicy": "Overwrite"},
    ]))
    .unwrap();
    assert_eq!(world.plan().writes, [], "a change of the metadata alone updates no pod");
    world.image("agent:2");
    let plan = world.plan();
    assert_eq!(reasons(&plan.writes[0].events), ["PodMetadataNotPatched"]);
    world.reconcile();
    assert_eq!(world.annotation("a", "oom"), r#"{"proxy":-900}"#);
    assert_eq!(world.annotation("a", "bad"), "no json");
    assert_eq!(world.annotation("a", "kept"), "mine");
    assert_eq!(world.annotation("a", "new"), "2");
    assert_eq!(world.annotation("a", names::INJECTED_LIST), "log-agent");
}

#[test]
fn legacy_records_are_read_and_brought_up_to_date_upd_7() {
    let mut world = world(cold(), &["a"]);
    let annotations = world.set.metadata.annotations.clone();
    let legacy = |key: &str| json!({"log-agent": annotations[key], "mesh": "h"}).to_string();
    let (hash, without) = (legacy(names::HASH), legacy(names::HASH_WITHOUT_IMAGE));
    world.pod("a")["metadata"]["annotations"][names::HASH] = json!(hash);
    world.pod("a")["metadata"]["annotations"][names::HASH_WITHOUT_IMAGE] = json!(without);
    assert_eq!(world.counts(), "1/1/1/1");
    world.image("agent:2");
    world.reconcile();
    for key in [names::HASH, names::HASH_WITHOUT_IMAGE] {
        let text = world.annotation("a", key);
        assert!(
            text.ends_with(r#""mesh":{"updateTimestamp":null,"hash":"h","sidecarSetName":"mesh","sidecarList":null}}"#),
            "{text}"
        );
    }
}

#[test]
fn garbage_in_annotations_stops_nothing() {
    let mut world = world(cold(), &["a"]);
    world.pod("a")["metadata"]["annotations"][names::INPLACE_UPDATE_STATE] = json!("{");
    world.image("agent:2");
    world.later(60);
    assert_eq!(world.reconcile(), updates(&["a"]));
    world.kubelet();
    assert_eq!(world.counts(), "1/1/1/1");
    world.pod("a")["metadata"]["annotations"][names::HASH] = json!("[]");
    assert_eq!(world.counts(), "1/0/1/0");
    assert_eq!(world.reconcile(), updates(&["a"]));
    world.pod("a")["metadata"]["annotations"][names::HASH_WITHOUT_IMAGE] = json!("5");
    world.pod("a")["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "SidecarSetUpgradable", "status": "maybe", "message": "garbage"}));
    world.image("agent:3");
    assert_eq!(world.reconcile(), steps(&[(Step::Condition, "a")]));
}

#[test]
fn no_more_is_put_into_words_than_is_wanted_and_nothing_else_changes() {
    let mut world = world(cold(), &["a", "b", "c"]);
    world.strategy(json!({"maxUnavailable": "100%"}));
    world.image("agent:2");
    let all = world.plan();
    world.at_most = 2;
    let some = world.plan();
    assert_eq!((all.writes.len(), all.is_cut, some.is_cut), (3, false, true));
    assert_eq!(some.writes, all.writes[..2]);
    assert_eq!((some.verdicts, some.status), (all.verdicts, all.status));
}

#[test]
fn foreign_members_of_the_state_stay_ctl_23() {
    let mut world = world(cold(), &["a"]);
    let before = r#"{"mesh":{"revision":"x","lastContainerStatuses":{}},"log-agent":{"updateImages":true,"revision":"old",
        "updateTimestamp":"2020-01-01T00:00:00Z","lastContainerStatuses":{"other":{"imageID":"i"}},"nextContainerImages":{"b":"1","a":"2"}}}"#;
    world.pod("a")["metadata"]["annotations"][names::INPLACE_UPDATE_STATE] = json!(before);
    world.image("agent:2");
    world.reconcile();
    let state = world.annotation("a", names::INPLACE_UPDATE_STATE);
    assert!(
        state.contains(r#""other":{"imageID":"i"}},"nextContainerImages":{"b":"1","a":"2"},"updateImages":true}"#),
        "{state}"
    );
    assert!(state.ends_with(r#","mesh":{"revision":"x","lastContainerStatuses":{}}}"#), "{state}");
    assert!(!state.contains("2020") && !state.contains("old"), "W-9: {state}");
}

// === taken over from the reference ===

/// The reference wrote image 2 to pod a: its state has no container id and keeps the time of an earlier update.
fn left_by_the_reference() -> World {
    let mut world = world(cold(), &["a"]);
    world.image("agent:2");
    world.later(600);
    world.reconcile();
    let image = world.pods[0]["status"]["containerStatuses"][1]["imageID"].clone();
    let state = json!({"log-agent": {"revision": "x", "updateTimestamp": "2026-01-01T00:00:00Z",
        "lastContainerStatuses": {"agent": {"imageID": image}}}});
    world.pod("a")["metadata"]["annotations"][names::INPLACE_UPDATE_STATE] = json!(state.to_string());
    world
}

#[test]
fn a_pod_in_flight_is_taken_over_and_not_written_again() {
    let mut world = left_by_the_reference();
    assert_eq!((world.counts().as_str(), world.reconcile().len()), ("1/1/0/0", 0));
    world.later(3600);
    assert_eq!(world.counts(), "1/1/0/0", "the node has not acted");
    world.kubelet();
    assert_eq!((world.counts().as_str(), world.reconcile().len()), ("1/1/1/1", 0));
}

#[test]
fn a_container_that_was_restarted_before_its_node_looked_is_no_completion() {
    let mut world = left_by_the_reference();
    world.status_of("a", "agent")["imageID"] = json!("agent@sha256:another");
    world.later(3600);
    assert_eq!(world.counts(), "1/1/0/0");
}

/// Two sidecars; the reference wrote `tail:1-again`, which the runtime reports as `tail:1`.
#[test]
fn what_is_through_is_forgotten_before_the_time_that_tells_so_moves_w_9() {
    let mut spec = cold();
    spec["containers"].as_array_mut().unwrap().push(json!({"name": "tail", "image": "tail:1-again"}));
    let mut world = world(spec, &["a"]);
    let tail = world.status_of("a", "tail");
    tail["image"] = json!("docker.io/library/tail:1");
    let state = json!({"log-agent": {"revision": "x", "updateTimestamp": "2026-01-01T00:00:00Z",
        "lastContainerStatuses": {"tail": {"imageID": tail["imageID"]}}}});
    world.pod("a")["metadata"]["annotations"][names::INPLACE_UPDATE_STATE] = json!(state.to_string());
    world.later(3600);
    assert_eq!(world.counts(), "1/1/1/1");
    world.image("agent:2");
    assert_eq!(world.reconcile(), updates(&["a"]));
    let state = world.annotation("a", names::INPLACE_UPDATE_STATE);
    assert!(state.contains("agent") && !state.contains("tail"), "{state}");
    world.kubelet();
    assert_eq!(world.counts(), "1/1/1/1");
}

// === not upgradable ===

fn with_env() -> Value {
    let mut spec = cold();
    spec["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    spec
}

fn mark(world: &mut World) -> Option<String> {
    let conditions = world.pod("a")["status"]["conditions"].as_array().unwrap().clone();
    let found = conditions.into_iter().find(|condition| condition["type"] == "SidecarSetUpgradable")?;
    Some(format!("{} {} {}", found["status"], found["reason"], found["message"]).replace(['"', '\\'], ""))
}

#[test]
fn a_pod_is_not_upgradable_and_comes_back_t_4() {
    let mut world = world(cold(), &["a"]);
    let former = (world.set.metadata.annotations[names::HASH_WITHOUT_IMAGE].clone(), world.set.spec.clone());
    world.revisions.push(former);
    world.spec(with_env());
    let plan = world.plan();
    assert_eq!(reasons(&plan.events), ["NotUpgradablePods"]);
    assert_eq!(
        plan.events[0].message,
        "SidecarSet in-place update detected 1 not upgradable pod(s) in this round, will skip them."
    );
    assert_eq!(world.reconcile(), steps(&[(Step::Condition, "a")]));
    assert_eq!(mark(&mut world).as_deref(), Some("False UpdateImmutableField {log-agent:false}"), "NUP-4");
    assert_eq!(world.verdict("a"), "must be recreated: spec.containers[agent].env changed");
    assert_eq!(condition(&world, "Degraded").2, "1 must be recreated, as spec.containers[agent].env changed");
    assert_eq!(world.plan().events, [], "W-25");
    assert_eq!(world.reconcile(), []);

    let mut reverted = cold();
    reverted["containers"][0]["image"] = json!("agent:2");
    world.spec(reverted);
    assert_eq!(world.reconcile(), updates(&["a"]));
    assert_eq!(world.reconcile(), steps(&[(Step::Condition, "a")]));
    assert_eq!(mark(&mut world).as_deref(), Some("True AllSidecarsetUpgradable {log-agent:true}"));
}

#[test]
fn a_revert_takes_the_mark_back_w_8() {
    let mut world = world(cold(), &["a"]);
    world.spec(with_env());
    world.reconcile();
    world.spec(cold());
    assert_eq!(world.reconcile(), steps(&[(Step::Condition, "a")]));
    assert_eq!(mark(&mut world).as_deref(), Some("True AllSidecarsetUpgradable {log-agent:true}"));
    assert_eq!(world.reconcile(), []);
}

#[rstest]
#[case::of_a_set_that_is_gone(r#"{"gone":false,"log-agent":true}"#, "True AllSidecarsetUpgradable {log-agent:true}")]
#[case::that_cannot_be_read("garbage", "True AllSidecarsetUpgradable {}")]
fn leftovers_are_dropped_w_8(#[case] message: &str, #[case] after: &str) {
    let mut world = world(cold(), &["a"]);
    world.pod("a")["status"]["conditions"].as_array_mut().unwrap().push(json!({
        "type": "SidecarSetUpgradable", "status": "False", "reason": "UpdateImmutableField", "message": message,
    }));
    assert_eq!(world.reconcile(), steps(&[(Step::Condition, "a")]));
    assert_eq!(mark(&mut world).as_deref(), Some(after));
}

// === hot ===

fn versions(world: &mut World) -> [String; 4] {
    [
        (names::VERSION_PREFIX, "proxy-1"),
        (names::VERSION_ALT_PREFIX, "proxy-1"),
        (names::VERSION_PREFIX, "proxy-2"),
        (names::VERSION_ALT_PREFIX, "proxy-2"),
    ]
    .map(|(prefix, name)| world.annotation("a", &format!("{prefix}{name}")))
}

fn images(world: &mut World) -> [String; 2] {
    ["proxy-1", "proxy-2"].map(|name| world.image_of("a", name))
}

fn working(world: &mut World) -> String {
    world.annotation("a", names::WORKING_CONTAINER)
}

fn hot_world() -> World {
    let mut world = world(hot(), &["a"]);
    world.resource_version = 7699;
    world
}

#[test]
fn a_hot_upgrade_migrates_resets_and_returns_t_3() {
    let mut world = hot_world();
    assert_eq!(versions(&mut world), ["1", "0", "0", "1"]);
    world.image("proxy:2");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:1", "proxy:2"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-2"}"#);
    assert_eq!(versions(&mut world), ["1", "7700", "7700", "1"]);
    assert_eq!(world.counts(), "1/1/0/0");
    assert_eq!(world.verdict("a"), "is in a hot upgrade: the new container is starting");
    assert_eq!(world.reconcile(), []);
    world.kubelet();
    assert_eq!(world.verdict("a"), "is in a hot upgrade: the new container works, the old one waits to be emptied");
    let plan = world.plan();
    assert_eq!(plan.writes[0].events[0].message, "reset sidecar container image empty successfully");
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
    assert_eq!(images(&mut world), ["empty:1", "proxy:2"]);
    assert_eq!(versions(&mut world), ["0", "7700", "7700", "0"]);
    assert_eq!((world.counts().as_str(), world.reconcile().len()), ("1/1/0/0", 0));
    assert_eq!(world.verdict("a"), "is in a hot upgrade: the old container is being emptied");
    world.kubelet();
    assert_eq!(world.counts(), "1/1/1/1");
    world.image("proxy:3");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:3", "proxy:2"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-1"}"#);
    assert_eq!(versions(&mut world), ["7701", "7700", "7700", "7701"]);
}

#[test]
fn versions_rise_whatever_the_resource_version_is_w_17() {
    let mut world = hot_world();
    world.pod("a")["metadata"]["annotations"][format!("{}proxy-1", names::VERSION_PREFIX)] = json!("9000");
    world.image("proxy:2");
    world.reconcile();
    assert_eq!(versions(&mut world), ["9000", "9001", "9001", "9000"]);
}

#[test]
fn a_failing_target_gets_the_next_image_hot_21() {
    let mut world = hot_world();
    world.bad.insert("proxy:2".to_owned());
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    assert_eq!(world.verdict("a"), "is not ready: container proxy-2: ImagePullBackOff");
    world.image("proxy:3");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:1", "proxy:3"]);
    assert_eq!(versions(&mut world), ["1", "7701", "7701", "1"]);
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
}

#[test]
fn a_rollback_of_a_failing_upgrade_empties_the_target_w_4() {
    let mut world = hot_world();
    world.bad.insert("proxy:2".to_owned());
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.image("proxy:1");
    assert_eq!(world.reconcile(), steps(&[(Step::HotBack, "a")]));
    assert_eq!(images(&mut world), ["proxy:1", "empty:1"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-1"}"#);
    assert_eq!(versions(&mut world), ["1", "0", "0", "1"]);
    assert_eq!(world.counts(), "1/1/0/0");
    world.kubelet();
    assert_eq!((world.counts().as_str(), world.reconcile().len()), ("1/1/1/1", 0));
}

#[test]
fn a_rollback_that_the_reference_left_undone_is_repaired_w_4() {
    let mut world = hot_world();
    world.bad.insert("proxy:2".to_owned());
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.image("proxy:1");
    // HOT-22: the reference writes the hash and nothing else.
    let hash = world.plan().writes[0].patch["metadata"]["annotations"][names::HASH].clone();
    world.pod("a")["metadata"]["annotations"][names::HASH] = hash;
    assert_eq!(world.counts(), "1/1/0/0");
    assert_eq!(world.reconcile(), steps(&[(Step::HotBack, "a")]));
    world.kubelet();
    assert_eq!((world.counts().as_str(), world.reconcile().len()), ("1/1/1/1", 0));
}

#[test]
fn a_rollback_does_not_rely_on_an_old_container_that_may_have_handed_over_w_4() {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    // It ran, and crashes.
    let status = world.status_of("a", "proxy-2");
    status["ready"] = json!(false);
    status["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    world.pod("a")["status"]["conditions"][0]["status"] = json!("False");
    world.bad.insert("proxy:3".to_owned());
    world.image("proxy:3");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    world.kubelet();
    world.image("proxy:1");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:1", "proxy:1"]);
}

#[test]
fn a_rollback_does_not_rely_on_an_old_container_that_was_restarted_passive_w_4_hot_24() {
    let mut world = hot_world();
    world.bad.insert("proxy:2".to_owned());
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.status_of("a", "proxy-1")["containerID"] = json!("containerd://restarted");
    world.image("proxy:3");
    world.bad.insert("proxy:3".to_owned());
    world.reconcile();
    world.kubelet();
    world.image("proxy:1");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]), "the new container takes over with the old image");
    assert_eq!(images(&mut world), ["proxy:1", "proxy:1"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-2"}"#);
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
    assert_eq!(images(&mut world), ["empty:1", "proxy:1"]);
}

#[test]
fn a_rollback_after_the_migration_lets_the_upgrade_end_first_w_5() {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    // An unrelated container keeps the pod from its reset.
    world.status_of("a", "app")["ready"] = json!(false);
    world.pod("a")["status"]["conditions"][0]["status"] = json!("False");
    world.image("proxy:1");
    assert_eq!(world.reconcile(), []);
    assert_eq!(images(&mut world), ["proxy:1", "proxy:2"]);
    world.status_of("a", "app")["ready"] = json!(true);
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
    assert_eq!(world.reconcile(), [], "the emptied container is not there yet");
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:1", "proxy:2"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-1"}"#);
}

#[test]
fn a_third_image_while_the_reset_waits_goes_to_the_old_container_hot_21() {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.status_of("a", "app")["ready"] = json!(false);
    world.pod("a")["status"]["conditions"][0]["status"] = json!("False");
    world.image("proxy:3");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
    assert_eq!(images(&mut world), ["proxy:3", "proxy:2"]);
    assert_eq!(working(&mut world), r#"{"proxy":"proxy-1"}"#);
}

#[test]
fn nothing_touches_the_old_container_before_the_new_one_works_hot_9() {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.status_of("a", "proxy-2")["ready"] = json!(false);
    assert_eq!(world.reconcile(), [], "whatever the pod's condition says");
    world.pod("a")["status"]["conditions"][0]["status"] = json!("False");
    assert_eq!(world.reconcile(), []);
    // The old one may be broken, though.
    world.status_of("a", "proxy-2")["ready"] = json!(true);
    world.status_of("a", "proxy-1")["ready"] = json!(false);
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
}

#[test]
fn a_blip_of_the_old_container_does_not_make_it_the_target() {
    let mut world = hot_world();
    world.bad.insert("proxy:2".to_owned());
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.status_of("a", "proxy-1")["ready"] = json!(false);
    world.image("proxy:3");
    world.reconcile();
    assert_eq!(images(&mut world), ["proxy:1", "proxy:3"]);
}

#[rstest]
#[case::paused(json!({"paused": true}), "Paused")]
#[case::not_update(json!({"type": "NotUpdate"}), "NotUpdate")]
fn a_rollout_that_rests_in_the_middle_says_so_w_10(#[case] strategy: Value, #[case] reason: &str) {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    world.kubelet();
    world.strategy(strategy);
    assert_eq!(world.reconcile(), []);
    let (_, said, message) = condition(&world, "Progressing");
    assert_eq!(said, reason);
    assert!(message.ends_with("1 in the middle of a hot upgrade that ends when the rollout goes on"), "{message}");
}

#[test]
fn a_new_empty_image_keeps_to_partition_and_budget_w_11() {
    let mut world = world(hot(), &["a", "b", "c", "d"]);
    let mut spec = hot();
    spec["containers"][0]["upgradeStrategy"]["hotUpgradeEmptyImage"] = json!("empty:2");
    spec["updateStrategy"]["partition"] = json!(2);
    world.spec(spec);
    assert_eq!(world.counts(), "4/0/4/0", "no pod looks as if it were in an upgrade");
    let refreshed = |written: Vec<(Step, String)>| -> Vec<String> {
        written.into_iter().filter(|(step, _)| *step == Step::Refresh).map(|(_, pod)| pod).collect()
    };
    assert_eq!(refreshed(world.reconcile()), ["d"]);
    let revision = format!(r#""revision":"{}""#, world.set.metadata.annotations[names::HASH]);
    assert!(world.annotation("d", names::INPLACE_UPDATE_STATE).contains(&revision), "CTL-23");
    assert_eq!(refreshed(world.reconcile()), [""; 0]);
    world.kubelet();
    assert_eq!(refreshed(world.reconcile()), ["c"]);
    world.kubelet();
    assert_eq!(refreshed(world.reconcile()), [""; 0], "two are kept");
    assert_eq!(world.image_of("d", "proxy-2"), "empty:2");
    assert_eq!(world.image_of("a", "proxy-2"), "empty:1");
}

#[test]
fn a_pod_in_a_hot_upgrade_uses_budget_until_it_is_over_str_14() {
    let mut world = world(hot(), &["a", "b"]);
    world.image("proxy:2");
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "b")]));
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "b")]));
    assert_eq!(world.reconcile(), []);
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::HotStart, "a")]));
}

#[test]
fn an_empty_image_that_is_the_image_is_refused_hot_31() {
    let mut world = hot_world();
    world.image("empty:1");
    assert_eq!(world.reconcile(), []);
    assert!(matches!(world.plan().verdicts[0].1, Verdict::Invalid { .. }));
}

#[test]
fn an_upgrade_of_the_reference_is_taken_over_in_the_middle() {
    let mut world = hot_world();
    world.image("proxy:2");
    world.reconcile();
    let state = world.annotation("a", names::INPLACE_UPDATE_STATE);
    let mut state: Value = serde_json::from_str(&state).unwrap();
    let target = state["log-agent"]["lastContainerStatuses"]["proxy-2"].as_object_mut().unwrap();
    target.retain(|member, _| member == "imageID");
    world.pod("a")["metadata"]["annotations"][names::INPLACE_UPDATE_STATE] = json!(state.to_string());
    assert_eq!(world.reconcile(), []);
    world.kubelet();
    assert_eq!(world.reconcile(), steps(&[(Step::Reset, "a")]));
    world.kubelet();
    assert_eq!(world.counts(), "1/1/1/1");
}

// === status ===

#[test]
fn a_status_is_written_only_when_it_changes_ctl_31() {
    let mut world = world(cold(), &["a"]);
    world.reconcile();
    let stored = world.set.status.clone();
    assert_eq!(stored.collision_count, Some(0));
    let mut foreign = stored.clone();
    foreign.conditions.push(crate::api::meta::Condition { r#type: "InjectionComplete".into(), ..Default::default() });
    world.later(5);
    assert!(!world.plan().changes(&foreign));
    world.strategy(json!({"partition": 0}));
    assert!(world.plan().changes(&stored), "a greater generation");
    world.image("agent:2");
    assert!(world.plan().changes(&stored));
}

#[test]
fn a_pod_that_is_just_created_starts_no_rollout() {
    let mut world = world(cold(), &["a"]);
    world.inject("b");
    world.status_of("b", "agent")["ready"] = json!(false);
    world.pod("b")["status"]["conditions"][0]["status"] = json!("False");
    assert_eq!(world.plan().events, []);
    assert_eq!(condition(&world, "Progressing").1, "Complete");
    // W-13: it uses the budget all the same, and is named when it does not get ready.
    world.image("agent:2");
    world.reconcile();
    world.later(700);
    world.kubelet();
    assert_eq!(condition(&world, "Available").0, "True");
}
