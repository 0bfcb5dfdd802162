#![allow(clippy::needless_pass_by_value, reason = "tables are read more easily without borrows")]

use rstest::rstest;

use super::*;

const NOW: &str = "2026-03-04T05:06:07Z";
const UID: &str = "6c0f1f0e-8d55-4b5b-9f1c-0c6a5d2a9f10";
const SECOND: Duration = Duration::from_secs(1);

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// As admitted ten seconds ago, changed by a merge patch.
fn request(change: Value) -> Request {
    let mut object = json!({
        "metadata": {
            "namespace": "shop", "name": "restart", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-03-04T05:05:57Z",
            "labels": {names::RECREATE_POD_UID: UID, names::RECREATE_NODE: "worker-b", names::RECREATE_ACTIVE: "true"},
        },
        "spec": {
            "podName": "cart-7",
            "containers": [
                {"name": "web", "statusContext": {"containerID": "containerd://old", "restartCount": 2}},
                {"name": "log", "statusContext": {"containerID": "containerd://log", "restartCount": 0}},
            ],
            "strategy": {"failurePolicy": "Fail"},
        },
    });
    json_patch::merge(&mut object, &change);
    Request::read(&object)
}

fn recreating(change: Value) -> Request {
    let mut all = json!({"status": {"phase": "Recreating"}});
    json_patch::merge(&mut all, &change);
    request(all)
}

fn pod(statuses: Value) -> Value {
    json!({
        "metadata": {"name": "cart-7", "uid": UID},
        "spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]},
        "status": {"containerStatuses": statuses},
    })
}

fn running(name: &str, id: &str, restarts: i32) -> Value {
    json!({"name": name, "containerID": id, "restartCount": restarts, "ready": true,
        "state": {"running": {"startedAt": "2026-03-04T04:00:00Z"}}})
}

const PATIENCE: Patience =
    Patience { response: Duration::from_mins(1), poll: Duration::from_secs(3), default_ttl: None };

fn input<'a>(request: &'a Request, pod: Looked<'a>) -> Input<'a> {
    Input {
        request,
        pod,
        blocked: Blocked::NotYet,
        is_released: false,
        known_for: 10 * SECOND,
        now: now(),
        patience: PATIENCE,
    }
}

fn step(request: &Request, pod: &Value) -> Step {
    decide(&input(request, Looked::Found(pod)))
}

// === ends ===

#[test]
fn the_pod_is_looked_at_before_anything_is_decided() {
    assert_eq!(decide(&input(&request(json!({})), Looked::NotYet)), Step::Look);
}

#[rstest]
#[case::absent(Value::Null, "no pod of this name")]
#[case::another(json!({"metadata": {"uid": "other"}}), "another pod")]
#[case::going(json!({"metadata": {"uid": UID, "deletionTimestamp": NOW}}), "being deleted")]
fn a_request_whose_pod_is_gone_ends_in_any_phase_crr_13(
    #[case] pod: Value,
    #[case] why: &str,
    #[values("", "Pending", "Recreating")] phase: &str,
) {
    let request =
        request(json!({"status": {"phase": phase, "containerRecreateStates": [{"name": "web", "phase": "Pending"}]}}));
    let pod = if pod.is_null() { Looked::Absent } else { Looked::Found(&pod) };
    let Step::Complete(End::PodGone, patch, message) = decide(&input(&request, pod)) else { panic!("it goes on") };
    assert!(message.starts_with("pod has gone: ") && message.contains(why), "{message}");
    let expected = json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {
        "phase": "Completed", "completionTime": NOW, "message": message,
    }});
    assert_eq!(patch, expected, "CRR-16");
}

#[rstest]
#[case::in_time("", 59, None)]
#[case::late("", 60, Some(End::NoDaemon))]
#[case::taken_by_a_daemon("Pending", 600, None)]
#[case::being_done("Recreating", 600, None)]
fn a_request_that_no_daemon_takes_ends_crr_14(#[case] phase: &str, #[case] known: u64, #[case] expected: Option<End>) {
    let request = request(json!({"status": {"phase": phase}}));
    let pod = pod(json!([]));
    let decided = decide(&Input { known_for: Duration::from_secs(known), ..input(&request, Looked::Found(&pod)) });
    match (decided, expected) {
        (Step::Complete(end, _, message), Some(expected)) => {
            assert_eq!(end, expected);
            assert!(message.starts_with("daemon has not responded for a long time: "), "{message}");
            assert!(message.contains("worker-b"), "{message}");
        }
        (Step::Rest(_), None) => {}
        (other, expected) => panic!("{other:?}, not {expected:?}"),
    }
}

#[rstest]
#[case::not_yet("Recreating", 11, None)]
#[case::new("", 10, Some(": web is Pending, log is Pending"))]
#[case::waiting("Pending", 10, Some(": web is Pending, log is Pending"))]
#[case::being_done("Recreating", 3, Some(": web is Pending, log is Pending"))]
fn the_deadline_counts_from_the_creation_in_every_phase_crr_15(
    #[case] phase: &str,
    #[case] deadline: i64,
    #[case] expected: Option<&str>,
) {
    let request = request(json!({"spec": {"activeDeadlineSeconds": deadline}, "status": {"phase": phase}}));
    match (step(&request, &pod(json!([]))), expected) {
        (Step::Complete(End::Deadline, patch, message), Some(details)) => {
            assert_eq!(message, format!("recreating has exceeded the activeDeadlineSeconds{details}"));
            assert_eq!(patch["status"]["containerRecreateStates"], Value::Null, "CRR-62");
        }
        (Step::Rest(wake), None) => assert_eq!(wake, Some(SECOND), "CRR-19"),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn the_message_at_the_deadline_tells_what_was_waited_for_weak_9() {
    let states = json!([{"name": "web", "phase": "Recreating"}, {"name": "log", "phase": "Succeeded"}]);
    let request = recreating(json!({
        "spec": {"activeDeadlineSeconds": 5}, "status": {"containerRecreateStates": states},
    }));
    let crashing = json!([{"name": "web", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    let Step::Complete(_, _, message) = step(&request, &pod(crashing)) else { panic!("it goes on") };
    assert!(message.ends_with(": web is Recreating (CrashLoopBackOff)"), "{message}");
}

#[test]
fn the_message_at_the_deadline_tells_how_often_a_container_ended_weak_9() {
    let request = recreating(json!({
        "spec": {"activeDeadlineSeconds": 5}, "status": {"containerRecreateStates": [{"name": "web", "phase": "Recreating"}]},
    }));
    let ended = json!([{
        "name": "web", "restartCount": 4, "state": {"terminated": {"reason": "Error", "exitCode": 7}},
    }]);
    let Step::Complete(_, _, message) = step(&request, &pod(ended)) else { panic!("it goes on") };
    assert!(message.contains("web is Recreating (it has ended with exit code 7: Error; it was started "), "{message}");
}

#[rstest]
#[case::new("", Some(50))]
#[case::waiting("Pending", None)]
#[case::being_done("Recreating", Some(3))]
fn it_looks_again_in_time_crr_19(#[case] phase: &str, #[case] expected: Option<u64>) {
    let request = request(json!({"status": {"phase": phase}}));
    assert_eq!(step(&request, &pod(json!([]))), Step::Rest(expected.map(Duration::from_secs)));
}

// === what the containers are ===

fn entry(name: &str, id: &str, restarts: i32) -> Value {
    json!({"name": name, "ready": true, "restartCount": restarts, "containerID": id})
}

#[rstest]
#[case::the_old_ones(json!([running("web", "containerd://old", 2), running("log", "containerd://log", 0)]), json!([]))]
#[case::a_new_one(json!([running("web", "containerd://new", 3)]), json!([entry("web", "containerd://new", 3)]))]
#[case::restarted_in_place(json!([running("web", "containerd://old", 3)]), json!([entry("web", "containerd://old", 3)]))]
#[case::in_the_order_of_the_spec(
    json!([running("log", "containerd://l2", 1), running("web", "containerd://w2", 3)]),
    json!([entry("web", "containerd://w2", 3), entry("log", "containerd://l2", 1)]),
)]
#[case::one_that_does_not_run(json!([{"name": "web", "containerID": "containerd://new", "state": {"waiting": {}}}]), json!([]))]
#[case::garbage(json!([7, {"name": "web", "state": "?"}, null]), json!([]))]
#[case::no_list(json!("?"), json!([]))]
fn new_containers_are_told_by_identity_weak_8(#[case] statuses: Value, #[case] expected: Value) {
    let decided = step(&recreating(json!({})), &pod(statuses));
    if expected == json!([]) {
        assert_eq!(decided, Step::Rest(Some(3 * SECOND)));
    } else {
        let status = json!({"phase": "Recreating", "containerStatusSnapshot": expected});
        assert_eq!(
            decided,
            Step::Snapshot(json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": status}))
        );
    }
}

#[rstest]
#[case::as_stored(json!([entry("web", "containerd://new", 3)]), false)]
#[case::another(json!([entry("web", "containerd://newer", 4)]), true)]
fn what_was_told_already_is_not_told_again_crr_17(#[case] stored: Value, #[case] is_written: bool) {
    let request = recreating(json!({"status": {"containerStatusSnapshot": stored}}));
    let decided = step(&request, &pod(json!([running("web", "containerd://new", 3)])));
    assert_eq!(matches!(decided, Step::Snapshot(_)), is_written, "{decided:?}");
}

#[test]
fn what_was_told_is_never_replaced_by_nothing_crr_17() {
    let stored = json!([entry("web", "containerd://new", 3)]);
    let request = recreating(json!({"status": {"containerStatusSnapshot": stored}}));
    assert_eq!(step(&request, &pod(json!([]))), Step::Rest(Some(3 * SECOND)));
}

#[test]
fn a_sidecar_among_the_init_containers_is_told_weak_10() {
    let mut pod = pod(json!([]));
    pod["status"]["initContainerStatuses"] = json!([running("web", "containerd://new", 3)]);
    assert!(matches!(step(&recreating(json!({})), &pod), Step::Snapshot(_)));
}

#[rstest]
#[case::before("2026-03-04T05:05:56Z", false)]
#[case::in_the_same_second("2026-03-04T05:05:57Z", true)]
fn without_an_identity_the_start_decides_crr_17(#[case] started: &str, #[case] is_new: bool) {
    let request = recreating(json!({"spec": {"containers": [{"name": "web"}]}}));
    let mut status = running("web", "containerd://x", 0);
    status["state"]["running"]["startedAt"] = json!(started);
    assert_eq!(matches!(step(&request, &pod(json!([status]))), Step::Snapshot(_)), is_new);
}

// === the drain ===

fn draining(change: Value) -> Request {
    let mut all = json!({"spec": {"strategy": {"unreadyGracePeriodSeconds": 0}}});
    json_patch::merge(&mut all, &change);
    recreating(all)
}

#[test]
fn a_pod_is_drained_step_by_step_crr_34() {
    let pod = pod(json!([]));
    let request = draining(json!({"metadata": {"finalizers": ["other"]}}));
    let held = json!({"metadata": {"resourceVersion": "7", "finalizers": ["other", names::UNREADY_ACQUIRED]}});
    assert_eq!(step(&request, &pod), Step::Hold(held));

    let other = json!({"type": "Intent", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": NOW});
    let request = draining(json!({
        "metadata": {"finalizers": [names::UNREADY_ACQUIRED]}, "status": {"conditions": [other]},
    }));
    assert_eq!(step(&request, &pod), Step::Block);

    let blocked = Input { blocked: Blocked::Done, ..input(&request, Looked::Found(&pod)) };
    let Step::Drain(patch) = decide(&blocked) else { panic!("it goes on") };
    let grace = json!({
        "type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace", "lastTransitionTime": NOW,
        "message": "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain",
    });
    assert_eq!(patch["status"], json!({"phase": "Recreating", "conditions": [other, grace]}), "CRR-32");

    let request = draining(json!({"status": {"conditions": [grace]}}));
    assert_eq!(step(&request, &pod), Step::Rest(Some(3 * SECOND)), "the time does not move");
}

#[test]
fn a_pod_without_the_gate_is_not_said_to_be_drained_weak_11() {
    let mut pod = pod(json!([]));
    pod["spec"] = json!({});
    let Step::Drain(patch) = step(&draining(json!({})), &pod) else { panic!("it is told") };
    let condition = &patch["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PreRecreateGrace"), &json!("True")));
    assert!(condition["message"].as_str().unwrap().starts_with("the pod stays ready: "), "{condition}");
}

#[test]
fn a_pod_that_somebody_keeps_unready_otherwise_is_told_w_50() {
    let request = draining(json!({"metadata": {"finalizers": [names::UNREADY_ACQUIRED]}}));
    let pod = pod(json!([]));
    let foreign = Blocked::Foreign("by hand".to_owned());
    let Step::Drain(patch) = decide(&Input { blocked: foreign, ..input(&request, Looked::Found(&pod)) }) else {
        panic!("it goes on")
    };
    assert!(patch["status"]["conditions"][0]["message"].as_str().unwrap().contains("by hand"));
}

#[rstest]
#[case::not_asked_for(json!({"spec": {"strategy": {"unreadyGracePeriodSeconds": null}}}))]
#[case::queued(json!({"status": {"phase": "Pending"}}))]
#[case::new(json!({"status": {"phase": ""}}))]
fn a_pod_is_drained_only_when_it_is_its_turn_crr_30(#[case] change: Value) {
    assert!(matches!(step(&draining(change), &pod(json!([]))), Step::Rest(_)));
}

// === the end of life ===

#[rstest]
#[case::completed(json!({"status": {"phase": "Completed"}}))]
#[case::deleted_in_mid_drain(json!({"metadata": {"deletionTimestamp": NOW}, "status": {"phase": "Recreating"}}))]
fn a_pod_is_released_before_the_finalizer_goes_crr_12(#[case] change: Value) {
    let mut all = json!({"metadata": {"finalizers": [names::UNREADY_ACQUIRED, "other"]}});
    json_patch::merge(&mut all, &change);
    let request = request(all);
    let before = input(&request, Looked::NotYet);
    assert_eq!(decide(&before), Step::Release);
    let finish = json!({"metadata": {
        "resourceVersion": "7", "finalizers": ["other"], "labels": {names::RECREATE_ACTIVE: null},
    }});
    assert_eq!(decide(&Input { is_released: true, ..before }), Step::Finish(finish), "WEAK-17");
}

#[rstest]
#[case::the_label_goes(json!({}), true, true)]
#[case::nothing_is_left(json!({}), false, false)]
#[case::going_without_our_finalizer(json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["other"]}}), true, false)]
fn what_ended_is_marked_crr_12(#[case] change: Value, #[case] is_active: bool, #[case] is_written: bool) {
    let mut all = json!({"status": {"phase": "Completed", "completionTime": NOW}});
    json_patch::merge(&mut all, &change);
    let request = Request { is_active, ..request(all) };
    let decided = decide(&input(&request, Looked::NotYet));
    assert_eq!(matches!(decided, Step::Finish(_)), is_written, "{decided:?}");
    assert!(is_written || decided == Step::Rest(None));
}

#[rstest]
#[case::none(None, None, Step::Rest(None))]
#[case::not_yet(Some(11), None, Step::Rest(Some(SECOND)))]
#[case::over(Some(10), None, Step::Delete)]
#[case::at_once(Some(0), None, Step::Delete)]
#[case::of_the_manager_weak_13(None, Some(10), Step::Delete)]
#[case::its_own_first(Some(12), Some(10), Step::Rest(Some(Duration::from_secs(2))))]
fn what_ended_is_deleted_in_time_crr_60(
    #[case] ttl: Option<i32>,
    #[case] default: Option<u64>,
    #[case] expected: Step,
) {
    let request = request(json!({
        "metadata": {"labels": {names::RECREATE_ACTIVE: null}},
        "spec": {"ttlSecondsAfterFinished": ttl},
        "status": {"phase": "Completed", "completionTime": "2026-03-04T05:05:57Z"},
    }));
    let patience = Patience { default_ttl: default.map(Duration::from_secs), ..PATIENCE };
    assert_eq!(decide(&Input { patience, ..input(&request, Looked::NotYet) }), expected);
}

#[rstest]
#[case::nothing(json!({}))]
#[case::texts(json!({"metadata": "x", "spec": 7, "status": []}))]
#[case::nulls(json!({"metadata": {"finalizers": null, "labels": null}, "spec": null, "status": null}))]
fn garbage_ends_as_a_request_without_a_pod(#[case] object: Value) {
    let request = Request::read(&object);
    assert!(matches!(decide(&input(&request, Looked::Absent)), Step::Complete(End::PodGone, ..)));
}
