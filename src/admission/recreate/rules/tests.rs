#![allow(clippy::needless_pass_by_value, reason = "tables are read more easily without borrows")]

use rstest::rstest;

use super::*;

const UID: &str = "6c0f1f0e-8d55-4b5b-9f1c-0c6a5d2a9f10";

/// `web` with an HTTP hook, `log` with none, `proxy` a sidecar among the init containers, `setup` one that runs once.
fn pod() -> Value {
    json!({
        "metadata": {"name": "cart-7", "namespace": "shop", "uid": UID},
        "spec": {
            "nodeName": "worker-b",
            "terminationGracePeriodSeconds": 30,
            "readinessGates": [{"conditionType": "KruisePodReady"}],
            "initContainers": [
                {"name": "setup"},
                {"name": "proxy", "restartPolicy": "Always", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
                    "ports": [{"containerPort": 1}]},
            ],
            "containers": [
                {"name": "web", "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": "admin"}}},
                    "ports": [{"name": "admin", "containerPort": 9090, "protocol": "TCP"}]},
                {"name": "log"},
                {"name": "sleepy", "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}, "ports": [{"containerPort": 2}]},
                {"name": "tcp", "lifecycle": {"preStop": {"tcpSocket": {"port": 3}}}, "ports": [{"containerPort": 3}]},
                {"name": "new"},
                {"name": "starting"},
            ],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                {"name": "setup", "containerID": "containerd://s", "restartCount": 0},
                {"name": "proxy", "containerID": "containerd://p", "restartCount": 4},
            ],
            "containerStatuses": [
                {"name": "web", "containerID": "containerd://1f2e", "restartCount": 0},
                {"name": "log", "containerID": "containerd://77aa", "restartCount": 2},
                {"name": "sleepy", "containerID": "containerd://z", "restartCount": 0},
                {"name": "tcp", "containerID": "containerd://t", "restartCount": 0},
                {"name": "starting", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
            ],
        },
    })
}

fn node() -> Value {
    json!({"metadata": {"name": "worker-b", "labels": {"type": "metal"}}})
}

fn request(spec: Value) -> Value {
    json!({"metadata": {"name": "cart-7-restart", "namespace": "shop"}, "spec": spec})
}

/// Of these containers.
fn of(names: &[&str]) -> Value {
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    request(json!({"podName": "cart-7", "containers": containers}))
}

fn changed(mut object: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    if let (Ok(index), Some(list)) = (key.parse::<usize>(), parent.as_array_mut()) {
        list[index] = value;
    } else if value.is_null() {
        parent.as_object_mut().unwrap().remove(key);
    } else {
        parent[key] = value;
    }
    object
}

/// All of it, as the route does it.
fn admit(request: &Value, pod: &Looked, node: &Looked) -> Result<Admitted, Refusal> {
    let name = sent(request, Gates::default())?;
    let (pod, _) = node_of(pod, "shop", name)?;
    created(request, pod, node)
}

fn applied(object: &Value, admitted: &Admitted) -> Value {
    let mut object = object.clone();
    if let Some(patch) = &admitted.patch {
        let patch: json_patch::Patch = serde_json::from_str(patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

fn stored(request: &Value) -> Value {
    let admitted = admit(request, &Looked::Found(pod()), &Looked::Found(node())).unwrap();
    applied(request, &admitted)
}

#[test]
fn the_worked_example_is_filled_in_crr_40() {
    let mut request = of(&["web", "log"]);
    request["spec"]["strategy"] = json!({"unreadyGracePeriodSeconds": 5});
    let expected = json!({
        "metadata": {"name": "cart-7-restart", "namespace": "shop", "labels": {
            "crr.apps.kruise.io/pod-uid": UID,
            "crr.apps.kruise.io/node-name": "worker-b",
            "crr.apps.kruise.io/active": "true",
        }},
        "spec": {
            "podName": "cart-7",
            "containers": [
                {"name": "web", "preStop": {"httpGet": {"path": "/drain", "port": "admin"}},
                    "ports": [{"name": "admin", "containerPort": 9090, "protocol": "TCP"}],
                    "statusContext": {"containerID": "containerd://1f2e", "restartCount": 0}},
                {"name": "log", "statusContext": {"containerID": "containerd://77aa", "restartCount": 2}},
            ],
            "strategy": {"failurePolicy": "Fail", "terminationGracePeriodSeconds": 30, "unreadyGracePeriodSeconds": 5},
        },
    });
    assert_eq!(stored(&request), expected);
}

#[rstest]
#[case::a_native_sidecar_weak_10("proxy", json!({
    "name": "proxy", "preStop": {"exec": {"command": ["bye"]}},
    "statusContext": {"containerID": "containerd://p", "restartCount": 4},
}))]
#[case::a_sleep_hook_is_left_out_weak_5("sleepy", json!({
    "name": "sleepy", "statusContext": {"containerID": "containerd://z", "restartCount": 0},
}))]
#[case::ports_belong_to_http_hooks_only_crr_45("tcp", json!({
    "name": "tcp", "preStop": {"tcpSocket": {"port": 3}},
    "statusContext": {"containerID": "containerd://t", "restartCount": 0},
}))]
fn a_container_is_filled_in_from_the_pod_crr_44(#[case] name: &str, #[case] expected: Value) {
    assert_eq!(stored(&of(&[name]))["spec"]["containers"], json!([expected]));
}

#[rstest]
#[case::none(Value::Null, json!({"failurePolicy": "Fail", "terminationGracePeriodSeconds": 30}))]
#[case::empty(json!({}), json!({"failurePolicy": "Fail", "terminationGracePeriodSeconds": 30}))]
#[case::what_is_set_stays(
    json!({"failurePolicy": "Ignore", "terminationGracePeriodSeconds": 0, "orderedRecreate": true}),
    json!({"failurePolicy": "Ignore", "terminationGracePeriodSeconds": 0, "orderedRecreate": true}),
)]
fn the_strategy_is_defaulted_crr_42(#[case] strategy: Value, #[case] expected: Value) {
    assert_eq!(stored(&changed(of(&["log"]), "/spec/strategy", strategy))["spec"]["strategy"], expected);
}

#[test]
fn a_pod_without_a_grace_period_gives_none_crr_42() {
    let pod = changed(pod(), "/spec/terminationGracePeriodSeconds", Value::Null);
    let request = of(&["log"]);
    let admitted = admit(&request, &Looked::Found(pod), &Looked::Found(node())).unwrap();
    assert_eq!(applied(&request, &admitted)["spec"]["strategy"], json!({"failurePolicy": "Fail"}));
}

#[test]
fn labels_of_the_client_are_overwritten_and_others_stay_crr_40() {
    let mut request = of(&["log"]);
    request["metadata"]["labels"] = json!({
        "crr.apps.kruise.io/pod-uid": "x", "crr.apps.kruise.io/active": "false", "team": "a", "type": "mine",
    });
    assert_eq!(
        stored(&request)["metadata"]["labels"],
        json!({
            "crr.apps.kruise.io/pod-uid": UID, "crr.apps.kruise.io/node-name": "worker-b",
            "crr.apps.kruise.io/active": "true", "team": "a", "type": "mine",
        })
    );
}

#[test]
fn a_virtual_node_marks_its_requests_crr_41() {
    let node = json!({"metadata": {"labels": {"type": "virtual-kubelet"}}});
    let request = of(&["log"]);
    let admitted = admit(&request, &Looked::Found(pod()), &Looked::Found(node)).unwrap();
    assert_eq!(applied(&request, &admitted)["metadata"]["labels"]["type"], "virtual-kubelet");
}

#[test]
fn the_status_in_annotations_of_a_copied_request_is_taken_away_weak_14() {
    let mut request = of(&["log"]);
    request["metadata"]["annotations"] = json!({
        "crr.apps.kruise.io/unready-acquired": "2026-03-04T05:06:07Z",
        "crr.apps.kruise.io/sync-container-statuses": r#"[{"name":"log","ready":true,"restartCount":3}]"#,
        "mine": "x",
    });
    assert_eq!(stored(&request)["metadata"]["annotations"], json!({"mine": "x"}));
    let updated = updated(&request, &request, "v1beta1", Gates::default()).unwrap();
    assert_eq!(applied(&request, &updated)["metadata"]["annotations"], json!({"mine": "x"}));
}

#[test]
fn members_of_the_future_stay_rsp_5() {
    let request = changed(of(&["log"]), "/spec/fromTheFuture", json!({"x": 1}));
    assert_eq!(stored(&request)["spec"]["fromTheFuture"], json!({"x": 1}));
}

#[rstest]
#[case::no_pod_name_crr_20("/spec/podName", json!(""), "spec.podName")]
#[case::no_containers_crr_21("/spec/containers", json!([]), "spec.containers")]
#[case::null_containers_crr_21("/spec/containers", Value::Null, "spec.containers")]
#[case::short_deadline_crr_22("/spec/activeDeadlineSeconds", json!(2), "spec.activeDeadlineSeconds")]
#[case::grace_crr_23("/spec/strategy", json!({"terminationGracePeriodSeconds": -1}), "spec.strategy.terminationGracePeriodSeconds")]
#[case::drain_crr_24("/spec/strategy", json!({"unreadyGracePeriodSeconds": -1}), "spec.strategy.unreadyGracePeriodSeconds")]
#[case::policy_crr_25("/spec/strategy", json!({"failurePolicy": "Maybe"}), "spec.strategy.failurePolicy")]
#[case::ttl_crr_38("/spec/ttlSecondsAfterFinished", json!(-1), "spec.ttlSecondsAfterFinished")]
#[case::min_started_crr_38("/spec/strategy", json!({"minStartedSeconds": -1}), "spec.strategy.minStartedSeconds")]
#[case::a_wrong_type_rsp_1("/spec/containers", json!([{"name": 1}]), "spec.containers[0].name")]
#[case::no_spec_rsp_1("/spec", json!("x"), "spec: ")]
#[case::twice_crr_32("/spec/containers", json!([{"name": "log"}, {"name": "log"}]), "spec.containers[1].name")]
#[case::hook_set_crr_33("/spec/containers/0/preStop", json!({}), "spec.containers[0].preStop")]
#[case::ports_set_crr_33("/spec/containers/0/ports", json!([{"containerPort": 1}]), "spec.containers[0].ports")]
#[case::context_set_crr_33("/spec/containers/0/statusContext", json!({}), "spec.containers[0].statusContext")]
#[case::no_such_container_crr_34("/spec/containers/0/name", json!("nobody"), "it has proxy, web, log")]
#[case::an_empty_name_crr_34("/spec/containers/0/name", json!(""), "spec.containers[0].name")]
#[case::a_null_container_crr_34("/spec/containers/0", Value::Null, "spec.containers[0].name")]
#[case::an_init_container_crr_37("/spec/containers/0/name", json!("setup"), "runs once")]
#[case::no_status_crr_35("/spec/containers/0/name", json!("new"), "no status")]
#[case::no_id_crr_36("/spec/containers/0/name", json!("starting"), "ImagePullBackOff")]
fn what_is_wrong_with_a_request_is_refused_with_its_member(
    #[case] path: &str,
    #[case] value: Value,
    #[case] told: &str,
) {
    let request = changed(of(&["log"]), path, value);
    let Refusal { code, message } = admit(&request, &Looked::Found(pod()), &Looked::Found(node())).unwrap_err();
    assert_eq!(code, 400, "{message}");
    assert!(message.contains(told) && message.starts_with("spec"), "{message}");
}

#[rstest]
#[case::succeeded_crr_28("/status/phase", json!("Succeeded"), "has ended")]
#[case::failed_crr_28("/status/phase", json!("Failed"), "has ended")]
#[case::going_crr_28("/metadata/deletionTimestamp", json!("2026-03-04T05:06:07Z"), "is being deleted")]
#[case::unscheduled_crr_29("/spec/nodeName", Value::Null, "not on a node yet")]
#[case::unscheduled_crr_29_empty("/spec/nodeName", json!(""), "not on a node yet")]
fn a_pod_that_does_not_run_is_refused(#[case] path: &str, #[case] value: Value, #[case] told: &str) {
    let pod = changed(pod(), path, value);
    let Refusal { code, message } = admit(&of(&["log"]), &Looked::Found(pod), &Looked::Found(node())).unwrap_err();
    assert_eq!(code, 400);
    assert!(message.starts_with("spec.podName: ") && message.contains(told), "{message}");
}

#[rstest]
#[case::ended("/status/phase", json!("Succeeded"))]
#[case::going("/metadata/deletionTimestamp", json!("2026-03-04T05:06:07Z"))]
fn a_pod_whose_sidecars_were_terminated_counts_as_active_crr_28(#[case] path: &str, #[case] value: Value) {
    let mut pod = changed(pod(), path, value);
    pod["status"]["conditions"] = json!([{"type": "SidecarTerminated", "status": "False"}]);
    assert!(admit(&of(&["log"]), &Looked::Found(pod), &Looked::Found(node())).is_ok());
}

#[rstest]
#[case::no_pod_crr_26(Looked::Absent, Looked::Absent, 400, "there is no pod \"cart-7\"")]
#[case::pod_unknown_crr_27(Looked::Failed("it is away".to_owned()), Looked::Absent, 500, "it is away")]
#[case::no_node_crr_30(Looked::Found(pod()), Looked::Absent, 400, "\"worker-b\"")]
#[case::node_unknown_crr_31(Looked::Found(pod()), Looked::Failed("it is away".to_owned()), 500, "it is away")]
#[case::an_empty_pod(Looked::Found(json!({})), Looked::Absent, 400, "not on a node yet")]
fn what_cannot_be_looked_at_is_told(
    #[case] pod: Looked,
    #[case] node: Looked,
    #[case] expected: u16,
    #[case] told: &str,
) {
    let Refusal { code, message } = admit(&of(&["log"]), &pod, &node).unwrap_err();
    assert_eq!(code, expected);
    assert!(message.contains(told), "{message}");
}

#[test]
fn everything_is_refused_while_the_gate_is_off_but_for_going_away_crr_1() {
    let gates = Gates { daemon: false, ..Gates::default() };
    let request = of(&["log"]);
    assert_eq!(sent(&request, gates).unwrap_err().code, 403);
    assert_eq!(updated(&request, &request, "v1beta1", gates).unwrap_err().code, 403);
    let going = changed(request.clone(), "/metadata/deletionTimestamp", json!("2026-03-04T05:06:07Z"));
    assert_eq!(updated(&going, &request, "v1beta1", gates), Ok(Admitted::default()));
}

/// One that was admitted.
fn live() -> Value {
    let mut live = stored(&of(&["web"]));
    live["metadata"]["annotations"] = json!({"crr.apps.kruise.io/unready-acquired": "2026-03-04T05:06:07Z"});
    live
}

#[rstest]
#[case::spec_crr_10("/spec/podName", json!("other"), "spec: ")]
#[case::spec_added_crr_10("/spec/ttlSecondsAfterFinished", json!(9), "spec: ")]
#[case::uid_changed_crr_11("/metadata/labels/crr.apps.kruise.io~1pod-uid", json!("x"), "pod-uid")]
#[case::uid_removed_crr_11("/metadata/labels/crr.apps.kruise.io~1pod-uid", Value::Null, "pod-uid")]
#[case::node_crr_12("/metadata/labels/crr.apps.kruise.io~1node-name", json!("x"), "node-name")]
#[case::labels_gone_crr_11("/metadata/labels", Value::Null, "pod-uid")]
#[case::drain_changed_crr_13("/metadata/annotations/crr.apps.kruise.io~1unready-acquired", json!("x"), "unready-acquired")]
#[case::drain_removed_crr_13("/metadata/annotations", Value::Null, "unready-acquired")]
fn what_must_stay_is_held_in_v1alpha1(#[case] path: &str, #[case] value: Value, #[case] told: &str) {
    let old = live();
    let path = path.replace("~1", "\u{1}");
    let (parent, key) = path.rsplit_once('/').unwrap();
    let mut new = old.clone();
    let parent = new.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    let key = key.replace('\u{1}', "/");
    if value.is_null() {
        parent.remove(&key);
    } else {
        parent.insert(key, value);
    }
    let Refusal { code, message } = updated(&new, &old, "v1alpha1", Gates::default()).unwrap_err();
    assert_eq!(code, 403);
    assert!(message.contains(told), "{message}");
}

#[rstest]
#[case::active_label("/metadata/labels/active", json!("x"))]
#[case::finalizers("/metadata/finalizers", json!(["a"]))]
#[case::an_empty_list_crr_10("/spec/containers/0/ports", json!([]))]
fn the_rest_may_change_crr_14(#[case] path: &str, #[case] value: Value) {
    let old = stored(&of(&["log"]));
    let new = changed(old.clone(), path, value);
    for version in ["v1alpha1", "v1beta1"] {
        assert_eq!(updated(&new, &old, version, Gates::default()), Ok(Admitted::default()));
    }
}

#[test]
fn the_drain_annotation_may_go_in_v1beta1_where_it_is_not_the_status_crr_13() {
    let (old, mut new) = (live(), live());
    new["metadata"]["annotations"] = json!({});
    assert_eq!(updated(&new, &old, "v1beta1", Gates::default()), Ok(Admitted::default()));
}

#[rstest]
#[case::nothing(json!({}), Value::Null, 0)]
#[case::never_restarted(json!({"restartPolicy": "Never"}), Value::Null, 1)]
#[case::drain_without_a_gate_weak_11(json!({"readinessGates": []}), json!({"unreadyGracePeriodSeconds": 0}), 1)]
#[case::drain_with_a_gate(json!({}), json!({"unreadyGracePeriodSeconds": 5}), 0)]
fn what_would_surprise_is_warned_of(#[case] change: Value, #[case] strategy: Value, #[case] expected: usize) {
    let mut pod = pod();
    json_patch::merge(&mut pod["spec"], &change);
    let request = changed(of(&["log"]), "/spec/strategy", strategy);
    let admitted = admit(&request, &Looked::Found(pod), &Looked::Found(node())).unwrap();
    assert_eq!(admitted.warnings.len(), expected, "{:?}", admitted.warnings);
    assert!(admitted.warnings.iter().all(|warning| warning.len() <= 256));
}
