use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// A pod called web-0 of containers `name=priority`, each with a state: `` for none, `ready`, `unready`, `held`, `ended`,
/// `failed`, or any other word, which it waits for.
fn document(containers: &[(&str, &str)]) -> Value {
    let spec = |(container, _): &(&str, &str)| {
        let (name, priority) = container.split_once('=').unwrap();
        let from = json!({"configMapKeyRef": {"name": "web-0-barrier", "key": format!("p_{priority}")}});
        json!({"name": name, "image": "x", "env": [{"name": "A", "value": "b"}, {"name": names::BARRIER_ENV, "valueFrom": from}]})
    };
    let status = |(container, state): &(&str, &str)| {
        let name = container.split_once('=').unwrap().0;
        let state_of = match *state {
            "ready" | "unready" => json!({"running": {"startedAt": "2026-03-01T08:00:00Z"}}),
            "ended" => json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            "failed" => json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
            "held" => json!({"waiting": {"reason": CONFIG_ERROR, "message": "configmap \"web-0-barrier\" not found"}}),
            reason => json!({"waiting": {"reason": reason}}),
        };
        json!({"name": name, "ready": *state == "ready", "state": state_of})
    };
    json!({
        "metadata": {"namespace": "shop", "name": "web-0", "uid": "u-2", "resourceVersion": "7", "annotations": {}},
        "spec": {"restartPolicy": "Always", "containers": containers.iter().map(spec).collect::<Vec<_>>()},
        "status": {"phase": "Pending", "containerStatuses":
            containers.iter().filter(|(_, state)| !state.is_empty()).map(status).collect::<Vec<_>>()},
    })
}

fn pod(document: &Value) -> Pod {
    Pod::read(&document.to_string()).unwrap()
}

fn with(mut document: Value, change: &Value) -> Pod {
    json_patch::merge(&mut document, change);
    pod(&document)
}

fn barrier(keys: &[&str]) -> Barrier {
    let owner = Owner { kind: "Pod".to_owned(), name: "web-0".to_owned(), uid: "u-2".to_owned() };
    Barrier { uid: "b".to_owned(), version: "3".to_owned(), owners: vec![owner], keys: set(keys), is_going_away: false }
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn completed() -> Step {
    Step::Mark(Mark { is_completed: true, touch: None })
}

fn touch(priority: i64, count: u8) -> Step {
    Step::Mark(Mark { is_completed: false, touch: Some(Touch { priority, count }) })
}

fn completed_touch(priority: i64) -> Step {
    Step::Mark(Mark { is_completed: true, touch: Some(Touch { priority, count: 1 }) })
}

const FOUR: [&str; 4] = ["proxy=100", "cache=100", "app=0", "report=-5"];

#[rstest]
#[case::created(["", "", "", ""], None, Step::Create(set(&["p_100"])))]
#[case::made_empty_by_the_reference(["", "", "", ""], Some(&[][..]), Step::Add(set(&["p_100"])))]
#[case::first_group_let_go(["", "", "", ""], Some(&["p_100"][..]), Step::Rest(None))]
#[case::first_group_missed_it(["held", "ready", "held", "held"], Some(&["p_100"][..]), touch(100, 1))]
#[case::one_is_ready(["ready", "unready", "held", "held"], Some(&["p_100"][..]), Step::Rest(None))]
#[case::both_are_ready(["ready", "ready", "held", "held"], Some(&["p_100"][..]), Step::Add(set(&["p_0"])))]
#[case::second_group_let_go(["ready", "ready", "held", "held"], Some(&["p_100", "p_0"][..]), touch(0, 1))]
#[case::second_group_starts(["ready", "ready", "unready", "held"], Some(&["p_100", "p_0"][..]), Step::Rest(None))]
#[case::app_is_ready(["ready", "ready", "ready", "held"], Some(&["p_100", "p_0"][..]), Step::Add(set(&["p_-5"])))]
#[case::last_group_let_go(
    ["ready", "ready", "ready", "held"], Some(&["p_100", "p_0", "p_-5"][..]), completed_touch(-5)
)]
#[case::last_group_starts(["ready", "ready", "ready", "unready"], Some(&["p_100", "p_0", "p_-5"][..]), completed())]
#[case::all_is_ready(["ready"; 4], Some(&["p_100", "p_0", "p_-5"][..]), Step::Rest(None))]
#[case::regression_lp_10(["ready", "CrashLoopBackOff", "ready", "held"], Some(&["p_100", "p_0"][..]), Step::Rest(None))]
#[case::barrier_lost_midway_w_43(["ready", "ready", "unready", "held"], None, Step::Create(set(&["p_100", "p_0"])))]
#[case::key_lost_midway_w_43(["ready", "held", "held", "held"], Some(&[][..]), Step::Add(set(&["p_100"])))]
fn a_group_goes_when_those_before_it_are_ready_lp_8(
    #[case] states: [&str; 4],
    #[case] keys: Option<&[&str]>,
    #[case] expected: Step,
) {
    let containers: Vec<(&str, &str)> = FOUR.into_iter().zip(states).collect();
    let barrier = keys.map(barrier);
    assert_eq!(step(&pod(&document(&containers)), barrier.as_ref(), None), expected);
}

#[rstest]
#[case::a_new_pod(json!({}), true)]
#[case::completed(json!({"metadata": {"annotations": {names::LAUNCH_COMPLETED: "true"}}}), false)]
#[case::completed_in_another_word(json!({"metadata": {"annotations": {names::LAUNCH_COMPLETED: "True"}}}), true)]
#[case::containers_are_ready(json!({"status": {"conditions": [{"type": "ContainersReady", "status": "True"}]}}), false)]
#[case::containers_are_not_ready(
    json!({"status": {"conditions": [{"type": "ContainersReady", "status": "False"}, {"type": "Ready", "status": "True"}]}}), true
)]
#[case::going_away_lp_11(json!({"metadata": {"deletionTimestamp": "2026-03-01T08:00:00Z"}}), false)]
#[case::ended(json!({"status": {"phase": "Failed"}}), false)]
#[case::nulls(json!({"status": null, "metadata": {"annotations": null}}), true)]
fn a_pod_that_is_through_costs_one_question_lp_4(#[case] change: Value, #[case] expected: bool) {
    let pod = with(document(&[("a=1", "unready"), ("b=0", "")]), &change);
    assert_eq!(pod.waits(), expected);
    assert_eq!(step(&pod, None, None) != Step::Rest(None), expected);
}

#[rstest]
#[case::all_keys_there(Some(&["p_1", "p_0"][..]), "held", touch(0, 1))]
#[case::barrier_deleted(None, "held", Step::Create(set(&["p_1", "p_0"])))]
#[case::key_deleted(Some(&["p_1"][..]), "held", Step::Add(set(&["p_0"])))]
#[case::not_missed(None, "CrashLoopBackOff", Step::Rest(None))]
fn a_completed_pod_gets_back_what_its_kubelet_misses_w_43(
    #[case] keys: Option<&[&str]>,
    #[case] state: &str,
    #[case] expected: Step,
) {
    let done = json!({"metadata": {"annotations": {names::LAUNCH_COMPLETED: "true"}}});
    let pod = with(document(&[("a=1", "ready"), ("b=0", state)]), &done);
    assert_eq!(step(&pod, keys.map(barrier).as_ref(), None), expected);
}

#[rstest]
#[case::another_config_map_is_missing("configmap \"settings\" not found", false)]
#[case::the_key_is_missing("couldn't find key p_0 in ConfigMap shop/web-0-barrier", true)]
#[case::nothing_is_said("", true)]
fn the_barrier_is_read_for_what_is_missing_of_it_w_43(#[case] message: &str, #[case] expected: bool) {
    let mut document = document(&[("a=1", "ready"), ("b=0", "held")]);
    document["status"]["containerStatuses"][1]["state"]["waiting"]["message"] = message.into();
    assert_eq!(pod(&document).is_held(), expected);
}

#[rstest]
#[case::earlier_pod(&[("Pod", "web-0", "u-1")], Step::Clear)]
#[case::this_pod(&[("Pod", "web-0", "u-2")], completed_touch(0))]
#[case::both(&[("Pod", "web-0", "u-1"), ("Pod", "web-0", "u-2")], completed_touch(0))]
#[case::nobody(&[], completed_touch(0))]
#[case::somebody_else(&[("StatefulSet", "web-0", "u-1")], completed_touch(0))]
#[case::another_pod(&[("Pod", "web-1", "u-1")], completed_touch(0))]
fn the_barrier_of_an_earlier_pod_of_the_same_name_is_deleted_first_w_42(
    #[case] owners: &[(&str, &str, &str)],
    #[case] expected: Step,
) {
    let owner = |(kind, name, uid): &(&str, &str, &str)| Owner {
        kind: (*kind).to_owned(),
        name: (*name).to_owned(),
        uid: (*uid).to_owned(),
    };
    let barrier = Barrier { owners: owners.iter().map(owner).collect(), ..barrier(&["p_1", "p_0"]) };
    assert_eq!(step(&pod(&document(&[("a=1", "ready"), ("b=0", "held")])), Some(&barrier), None), expected);
    let going = Barrier { is_going_away: true, ..barrier };
    assert_eq!(step(&pod(&document(&[("a=1", "ready"), ("b=0", "held")])), Some(&going), None), Step::Await);
}

#[rstest]
#[case::always("Always", "", "ended", Step::Rest(None))]
#[case::on_failure("OnFailure", "", "ended", Step::Add(set(&["p_0"])))]
#[case::never("Never", "", "ended", Step::Add(set(&["p_0"])))]
#[case::on_failure_failed("OnFailure", "", "failed", Step::Rest(None))]
#[case::never_failed("Never", "", "failed", Step::Rest(None))]
#[case::of_the_container("Always", "Never", "ended", Step::Add(set(&["p_0"])))]
#[case::of_the_container_too("Never", "Always", "ended", Step::Rest(None))]
fn a_container_that_ended_well_for_good_has_passed_w_44(
    #[case] policy: &str,
    #[case] own: &str,
    #[case] state: &str,
    #[case] expected: Step,
) {
    let mut document = document(&[("job=1", state), ("app=0", "held")]);
    document["spec"]["restartPolicy"] = policy.into();
    document["spec"]["containers"][0]["restartPolicy"] = own.into();
    assert_eq!(step(&pod(&document), Some(&barrier(&["p_1"])), None), expected);
}

#[rstest]
#[case::no_config_map(json!({"value": "1"}), "not from a ConfigMap")]
#[case::from_elsewhere(json!({"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}), "not from a ConfigMap")]
#[case::empty(json!({"valueFrom": {"configMapKeyRef": {}}}), "names the ConfigMap ,")]
#[case::a_short_key(json!({"valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": "p"}}}), "the key p is not p_")]
#[case::another_prefix(json!({"valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": "q_1"}}}), "the key q_1 is not p_")]
#[case::no_number(json!({"valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": "p_x"}}}), "the key p_x is not p_")]
#[case::too_large(
    json!({"valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": "p_99999999999999999999"}}}), "the key p_999"
)]
#[case::another_name(
    json!({"valueFrom": {"configMapKeyRef": {"name": "web-1-barrier", "key": "p_1"}}}),
    "names the ConfigMap web-1-barrier, and the one of this pod is web-0-barrier"
)]
fn a_container_with_a_malformed_barrier_takes_no_part_w_40(#[case] env: Value, #[case] words: &str) {
    let mut document = document(&[("odd=5", "unready"), ("app=0", ""), ("late=-1", "")]);
    document["spec"]["containers"][0]["env"][1] = env;
    document["spec"]["containers"][0]["env"][1]["name"] = names::BARRIER_ENV.into();
    let read = pod(&document);
    assert_eq!(read.waiters.len(), 2);
    let complaint = read.complaint().unwrap();
    assert!(complaint.contains("container odd: ") && complaint.contains(words), "{complaint}");
    // It waits for nobody, and if only for a key that nobody else would write.
    let expected: Vec<String> = read
        .malformed
        .iter()
        .filter_map(|odd| odd.key.as_deref().map(str::to_owned))
        .chain(["p_0".to_owned()])
        .collect();
    assert_eq!(step(&read, None, None), Step::Create(expected.into_iter().collect()));
}

#[test]
fn a_pod_with_malformed_barriers_alone_is_let_go_once_it_is_held_w_40() {
    let mut document = document(&[("odd=5", "held"), ("app=0", "ready")]);
    document["spec"]["containers"][0]["env"][1]["valueFrom"]["configMapKeyRef"]["key"] = "first".into();
    document["spec"]["containers"][1]["env"] = json!(null);
    assert_eq!(step(&pod(&document), None, None), Step::Create(set(&["first"])));
    assert_eq!(step(&pod(&document), Some(&barrier(&["first"])), None), Step::Rest(None));
    document["status"] = json!({});
    assert!(!pod(&document).waits(), "the kubelet has not asked for it");
}

#[test]
fn an_optional_barrier_holds_nobody_back_lp_1() {
    let mut document = document(&[("a=1", ""), ("b=0", "")]);
    document["spec"]["containers"][0]["env"][1]["valueFrom"]["configMapKeyRef"]["optional"] = true.into();
    assert_eq!(step(&pod(&document), None, None), Step::Create(set(&["p_0"])));
    assert!(pod(&document).complaint().is_none());
}

#[test]
fn a_container_with_two_barriers_waits_for_the_lower_and_gets_both_keys_pri_9() {
    let mut document = document(&[("a=1", "ready"), ("b=0", "held"), ("c=-1", "held")]);
    let second =
        json!({"name": names::BARRIER_ENV, "valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": "p_7"}}});
    document["spec"]["containers"][1]["env"].as_array_mut().unwrap().push(second);
    assert_eq!(step(&pod(&document), Some(&barrier(&["p_1"])), None), Step::Add(set(&["p_0", "p_7"])));
}

#[test]
fn keys_of_one_priority_go_together_however_they_are_written() {
    let mut document = document(&[("a=1", ""), ("b=1", ""), ("c=0", "")]);
    document["spec"]["containers"][1]["env"][1]["valueFrom"]["configMapKeyRef"]["key"] = "p_01".into();
    assert_eq!(step(&pod(&document), None, None), Step::Create(set(&["p_1", "p_01"])));
}

#[rstest]
#[case::at_once(None, None, touch(1, 1))]
#[case::for_another_group(Some("5 2"), Some(0), touch(1, 1))]
#[case::just_now(Some("1"), Some(500), Step::Rest(Some(SignedDuration::from_millis(1500))))]
#[case::long_ago(Some("1"), Some(2000), touch(1, 2))]
#[case::by_another_process(Some("1"), None, touch(1, 2))]
#[case::often_enough(Some("1 2"), Some(9000), Step::Rest(None))]
#[case::garbage(Some("soon"), None, touch(1, 1))]
#[case::garbage_after_a_number(Some("1 300"), None, touch(1, 1))]
fn the_kubelet_is_told_to_look_again_twice_at_most_w_45(
    #[case] annotation: Option<&str>,
    #[case] ago: Option<i64>,
    #[case] expected: Step,
) {
    let touched = json!({"metadata": {"annotations": {names::LAUNCH_RELEASED: annotation}}});
    let pod = with(document(&[("a=1", "held"), ("b=0", "held")]), &touched);
    assert_eq!(step(&pod, Some(&barrier(&["p_1"])), ago.map(SignedDuration::from_millis)), expected);
}

#[rstest]
#[case::one(&[("a=2", "CrashLoopBackOff"), ("b=2", "ready"), ("c=0", "held")],
    Some("containers do not start before those of priority 2 are ready: c waits for a (CrashLoopBackOff)"))]
#[case::several(&[("d=-1", ""), ("a=2", "unready"), ("b=2", "failed"), ("e=2", ""), ("c=0", "held")],
    Some("containers do not start before those of priority 2 are ready: c, d wait for a (not ready), b (ended with exit code 3), \
          e (not started)"))]
#[case::the_last_group(&[("a=2", "ready"), ("c=0", "CrashLoopBackOff")], None)]
#[case::nobody_waits(&[("a=2", "ready"), ("c=0", "ready")], None)]
#[case::a_config_map_of_the_user(&[("a=2", "held"), ("c=0", "held")],
    Some("containers do not start before those of priority 2 are ready: c waits for a (CreateContainerConfigError)"))]
fn who_waits_for_whom_is_told_w_44(#[case] containers: &[(&str, &str)], #[case] expected: Option<&str>) {
    let blocked = pod(&document(containers)).blocked();
    assert_eq!(blocked.as_ref().map(|blocked| blocked.message.as_str()), expected);
}

#[test]
fn what_is_written_names_the_pod_by_its_uid_and_the_barrier_by_its_version_lp_6() {
    let pod = pod(&document(&[("a=1", ""), ("b=0", "")]));
    let created = pod.barrier(&set(&["p_1"]));
    assert_eq!(created["metadata"]["name"], "web-0-barrier");
    assert_eq!(
        created["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u-2"}])
    );
    assert_eq!(created["data"], json!({"p_1": "true"}));
    let mut answered = created.clone();
    json_patch::merge(&mut answered, &json!({"metadata": {"uid": "b", "resourceVersion": "3"}}));
    let read = Barrier::read(&answered);
    assert_eq!(read, barrier(&["p_1"]));
    assert_eq!(
        read.addition(&set(&["p_0"])),
        json!({"metadata": {"uid": "b", "resourceVersion": "3"}, "data": {"p_0": "true"}})
    );
    let mark = Mark { is_completed: true, touch: Some(Touch { priority: -5, count: 2 }) };
    let annotations = json!({names::LAUNCH_COMPLETED: "true", names::LAUNCH_RELEASED: "-5 2"});
    assert_eq!(mark.patch(&pod), json!({"metadata": {"uid": "u-2", "annotations": annotations}}));
}

#[rstest]
#[case::null(json!(null))]
#[case::empty(json!({}))]
#[case::odd(json!({"metadata": {"ownerReferences": 7, "uid": 7}, "data": [], "binaryData": "x"}))]
fn any_config_map_is_read(#[case] document: Value) {
    assert_eq!(Barrier::read(&document), Barrier::default());
}
