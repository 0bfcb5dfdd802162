use core::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// A request, a pod of two containers, a runtime that does as it is told, and a node that restarts what has ended.
struct World {
    request: Value,
    pod: Value,
    instances: Vec<Instance>,
    underway: Underway,
    now: Timestamp,
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "a json! is written in place")]
fn world(strategy: Value) -> World {
    let begin = "2026-03-02T08:00:00Z";
    let instance = |name: &str, id: &str| Instance {
        name: name.to_owned(),
        id: id.to_owned(),
        created_at: 1,
        started_at: i64::try_from(time(begin).as_nanosecond()).unwrap(),
        ..Instance::default()
    };
    let wanted = |name: &str, id: &str| json!({"name": name, "statusContext": {"containerID": format!("containerd://{id}"), "restartCount": 0}});
    let status = |name: &str, id: &str| {
        json!({"name": name, "containerID": format!("containerd://{id}"), "ready": true, "restartCount": 0,
            "state": {"running": {}}})
    };
    World {
        request: json!({
            "metadata": {"namespace": "shop", "name": "r", "uid": "u-r", "resourceVersion": "1", "creationTimestamp": begin,
                "labels": {"crr.apps.kruise.io/pod-uid": "u-p", "crr.apps.kruise.io/active": "true"}},
            "spec": {"podName": "p", "containers": [wanted("web", "w0"), wanted("log", "l0")], "strategy": strategy},
            "status": {},
        }),
        pod: json!({
            "metadata": {"uid": "u-p"},
            "spec": {"containers": [{"name": "web"}, {"name": "log"}]},
            "status": {"podIP": "10.0.0.7", "containerStatuses": [status("web", "w0"), status("log", "l0")]},
        }),
        instances: vec![instance("web", "w0"), instance("log", "l0")],
        underway: Underway::default(),
        now: time("2026-03-02T08:00:05Z"),
    }
}

impl World {
    fn read(&self) -> Request {
        Request::read(&self.request)
    }

    fn step(&mut self) -> Step {
        let (request, pod) = (self.read(), Pod::read(&self.pod));
        step(&request, Some(&pod), &self.instances, &mut self.underway, self.now)
    }

    /// A step, which is written if it is a write; in short.
    fn go(&mut self) -> String {
        match self.step() {
            Step::Rest { wake: None } => "rest".to_owned(),
            Step::Rest { wake: Some(wake) } => format!("rest {} ms", wake.as_millis()),
            Step::Write(patch) => {
                self.write(&patch);
                format!("write {}", self.states())
            }
            Step::Hook { id, limit, .. } => format!("hook {id} {}", limit.as_secs()),
            Step::Stop { id, grace, .. } => format!("stop {id} {}", grace.as_secs()),
        }
    }

    fn write(&mut self, patch: &Value) {
        assert_eq!(patch["metadata"]["resourceVersion"], self.request["metadata"]["resourceVersion"]);
        json_patch::merge(&mut self.request["status"], &patch["status"]);
        let version: u64 = self.read().version.parse().unwrap();
        self.request["metadata"]["resourceVersion"] = json!((version + 1).to_string());
    }

    /// Phases in short: of the request, and of its containers, with a star for those that are killed.
    fn states(&self) -> String {
        let status = self.read().status;
        let letter = |phase: &str| phase.chars().next().unwrap_or('-');
        let containers = status.container_recreate_states.iter();
        let containers =
            containers.map(|state| format!("{}{}", letter(&state.phase), if state.is_killed { "*" } else { "" }));
        format!("{} {}", letter(&status.phase), containers.collect::<Vec<_>>().join(" "))
    }

    /// What is said of a container.
    fn message(&self, container: &str) -> String {
        let states = self.read().status.container_recreate_states;
        states.into_iter().find(|state| state.name == container).unwrap().message
    }

    fn newest(&mut self, name: &str) -> &mut Instance {
        self.instances.iter_mut().find(|instance| instance.name == name).unwrap()
    }

    fn exits(&mut self, name: &str) {
        self.newest(name).state = State::Exited;
    }

    /// The stop that was asked for is done.
    fn stopped(&mut self, name: &str) {
        self.exits(name);
        self.underway.stop_over(Ok(()), self.now);
    }

    /// The kubelet starts the container again, and says so.
    fn restarted(&mut self, name: &str, id: &str, is_ready: bool) {
        let restart_count = self.newest(name).restart_count + 1;
        let started_at = i64::try_from(self.now.as_nanosecond()).unwrap();
        self.instances.insert(
            0,
            Instance {
                name: name.to_owned(),
                id: id.to_owned(),
                created_at: started_at,
                started_at,
                state: State::Running,
                restart_count,
            },
        );
        let status = self.status(name);
        status["containerID"] = json!(format!("containerd://{id}"));
        status["ready"] = json!(is_ready);
        status["restartCount"] = json!(restart_count);
        status["state"] = json!({"running": {}});
    }

    fn status(&mut self, name: &str) -> &mut Value {
        let statuses = self.pod["status"]["containerStatuses"].as_array_mut().unwrap();
        statuses.iter_mut().find(|status| status["name"] == name).unwrap()
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// The process is killed, and another one goes on.
    fn killed(&mut self) {
        self.underway = Underway::default();
    }

    fn hook(&mut self) {
        self.pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["/drain"]}}});
    }
}

// === the way of a request ===

#[test]
fn two_containers_are_restarted_one_after_the_other_crr_47() {
    let mut world = world(json!({}));
    assert_eq!(world.go(), "write R P P");
    assert_eq!(world.go(), "stop w0 30");
    assert_eq!(world.go(), "rest", "one stop at a time");
    world.stopped("web");
    assert_eq!(world.go(), "write R R* P");
    assert_eq!(world.go(), "stop l0 30", "the other follows as soon as the first has stopped");
    world.stopped("log");
    world.restarted("web", "w1", true);
    assert_eq!(world.go(), "write R S* R*");
    world.restarted("log", "l1", false);
    assert_eq!(world.go(), "rest 30000 ms");
    world.status("log")["ready"] = json!(true);
    assert_eq!(world.go(), "write C S* S*");
    let status = world.read().status;
    assert_eq!((status.completion_time.is_some(), status.message.as_str(), status.conditions.len()), (true, "", 0));
    assert_eq!(world.go(), "rest");
}

#[test]
fn ordered_ones_wait_until_the_one_before_is_ready_crr_47() {
    let mut world = world(json!({"orderedRecreate": true, "minStartedSeconds": 5}));
    world.go();
    world.go();
    world.stopped("web");
    assert_eq!([world.go(), world.go()], ["write R R* P", "rest"]);
    world.restarted("web", "w1", true);
    assert_eq!(world.go(), "rest 5100 ms", "CRR-42: not before minStartedSeconds");
    world.later(6);
    assert_eq!([world.go(), world.go()], ["write R S* P", "stop l0 30"]);
}

#[test]
fn nothing_is_stopped_before_the_api_server_knows_of_it_weak_2() {
    let mut world = world(json!({}));
    let Step::Write(patch) = world.step() else { unreachable!() };
    assert!(patch["status"]["conditions"][0]["message"].as_str().unwrap().contains(r#""containerID":"w0""#), "{patch}");
    assert_eq!(world.go(), "write R P P", "it was not taken, so it is written again");
}

// === drain ===

#[test]
fn the_pod_is_drained_first_for_as_long_as_the_node_has_seen_crr_27_weak_8() {
    let mut world = world(json!({"unreadyGracePeriodSeconds": 5}));
    assert_eq!([world.go(), world.go()], ["write R ", "rest"], "CRR-25, then it waits for the manager");
    // The clock of the manager is an hour behind.
    world.request["status"]["conditions"] = json!([{"type": "PreRecreateGrace", "status": "True",
        "reason": "PreRecreateGrace", "message": "", "lastTransitionTime": "2026-03-02T07:00:05Z"}]);
    assert_eq!(world.go(), "rest 5000 ms");
    world.later(4);
    assert_eq!(world.go(), "rest 1000 ms");
    world.later(1);
    assert_eq!([world.go(), world.go()], ["write R P P", "stop w0 30"]);
    let conditions = world.read().status.conditions;
    assert_eq!(
        conditions.iter().map(|c| c.r#type.as_str()).collect::<Vec<_>>(),
        ["PreRecreateGrace", "ContainerStopping"]
    );
}

#[test]
fn a_drain_that_is_over_is_not_waited_for_again_after_a_kill() {
    let mut world = world(json!({"unreadyGracePeriodSeconds": 5}));
    world.go();
    assert!(world.read().status.message.contains("kept the pod unready for 5 s"), "WEAK-9");
    world.request["status"]["conditions"] = json!([{"type": "PreRecreateGrace", "status": "True"}]);
    world.go();
    world.later(5);
    world.go();
    assert_eq!(world.read().status.message, "");
    world.killed();
    assert_eq!(world.go(), "stop w0 30");
}

// === hooks and grace ===

#[rstest]
#[case::the_default(json!({}), "hook w0 30", 10, "stop w0 20")]
#[case::the_hook_takes_it_all_crr_54(json!({"terminationGracePeriodSeconds": 10}), "hook w0 10", 10, "stop w0 2")]
#[case::no_grace_no_hook_crr_55(json!({"terminationGracePeriodSeconds": 0}), "stop w0 2", 0, "rest")]
fn a_hook_uses_up_the_grace(#[case] strategy: Value, #[case] first: &str, #[case] took: i64, #[case] second: &str) {
    let mut world = world(strategy);
    world.hook();
    world.go();
    assert_eq!(world.go(), first);
    world.later(took);
    world.underway.hook_over(world.now);
    assert_eq!(world.go(), second);
}

#[rstest]
#[case::completed_crr_61(json!({"phase": "Completed"}), json!(null), "write C R* P")]
#[case::deleted_crr_63(json!({}), json!("2026-03-02T08:00:09Z"), "write R R* P")]
fn a_container_whose_hook_has_run_is_stopped_even_if_its_request_was(
    #[case] status: Value,
    #[case] deleted: Value,
    #[case] noted: &str,
) {
    let mut world = world(json!({}));
    world.hook();
    assert_eq!([world.go(), world.go()], ["write R P P", "hook w0 30"]);
    json_patch::merge(&mut world.request["status"], &status);
    world.request["metadata"]["deletionTimestamp"] = deleted;
    let is_chosen = |world: &World| choose([&world.read()], Some("u-p"), &world.underway).chosen.is_some();
    assert!(!is_chosen(&world));
    world.later(4);
    world.underway.hook_over(world.now);
    assert!(is_chosen(&world));
    assert_eq!(world.go(), "stop w0 26");
    world.stopped("web");
    assert!(is_chosen(&world));
    assert!(matches!(world.step(), Step::Write(_)), "a note that does not get through is not lost");
    assert_eq!(world.go(), noted);
    assert!(!is_chosen(&world));
}

#[test]
fn an_old_copy_is_no_reason_to_run_a_hook_again_weak_2() {
    let mut world = world(json!({}));
    world.hook();
    let old = world.request.clone();
    assert_eq!([world.go(), world.go()], ["write R P P", "hook w0 30"]);
    world.killed();
    let now = std::mem::replace(&mut world.request, old);
    world.later(1);
    assert!(matches!(world.step(), Step::Write(_)), "which the API server will refuse");
    world.request = now;
    assert_eq!(world.go(), "stop w0 29");
}

#[test]
fn after_a_kill_the_hook_is_not_run_again_and_the_rest_of_its_time_is_kept_weak_2() {
    let mut world = world(json!({}));
    world.hook();
    world.go();
    assert_eq!(world.go(), "hook w0 30");
    world.later(12);
    world.killed();
    assert_eq!(world.go(), "stop w0 18");
}

#[rstest]
#[case::and_the_new_one_is_there(true)]
#[case::and_the_new_one_is_not_there_yet(false)]
fn after_a_kill_what_was_stopped_is_not_stopped_again_weak_2(#[case] is_back: bool) {
    let mut world = world(json!({"forceRecreate": true}));
    world.go();
    assert_eq!(world.go(), "stop w0 30");
    world.exits("web");
    if is_back {
        world.restarted("web", "w1", false);
    }
    world.killed();
    assert_eq!([world.go(), world.go()], ["write R R* P", "stop l0 30"]);
}

// === stops that fail ===

#[test]
fn a_stop_is_tried_again_and_only_then_fails_weak_3() {
    let mut world = world(json!({}));
    world.go();
    assert_eq!(world.go(), "stop w0 30");
    for pause in [1, 2, 4, 8] {
        world.underway.stop_over(Err("StopContainer on /run/x: too slow".to_owned()), world.now);
        assert_eq!(world.go(), format!("rest {} ms", pause * 1000));
        world.later(pause);
        assert_eq!(world.go(), "stop w0 2", "its grace is over");
    }
    world.underway.stop_over(Err("StopContainer on /run/x: too slow".to_owned()), world.now);
    assert_eq!(world.go(), "write C F P");
    assert_eq!(world.message("web"), "kill container error: StopContainer on /run/x: too slow");
    assert_eq!(world.read().status.message, "container web: kill container error: StopContainer on /run/x: too slow");
}

#[test]
fn a_stop_that_failed_and_did_its_work_is_a_stop_weak_3() {
    let mut world = world(json!({}));
    world.go();
    world.go();
    world.exits("web");
    world.underway.stop_over(Err("too slow".to_owned()), world.now);
    assert_eq!(world.go(), "write R R* P");
}

#[test]
fn the_others_go_on_where_failures_are_ignored_crr_45() {
    let mut world = world(json!({"failurePolicy": "Ignore"}));
    world.go();
    for _ in 0..5 {
        world.later(60);
        assert_eq!(&world.go()[..7], "stop w0");
        world.underway.stop_over(Err("no".to_owned()), world.now);
    }
    assert_eq!([world.go(), world.go()], ["write R F P", "stop l0 30"]);
    world.stopped("log");
    world.restarted("log", "l1", true);
    assert_eq!(world.go(), "write C F S*");
    assert_eq!(world.read().status.message, "container web: kill container error: no");
}

// === CRR-41, line by line ===

#[rstest]
#[case::it_is_not_on_the_node("gone", false, "write R P P")]
#[case::it_has_ended("exited", false, "write R R* P")]
#[case::it_was_replaced("replaced", false, "write R R* P")]
#[case::it_was_restarted_in_place_crr_9("again", false, "write R R* P")]
#[case::it_was_replaced_and_must_be_stopped("replaced", true, "write R P P")]
#[case::it_has_ended_and_must_be_stopped("exited", true, "write R R* P")]
#[case::it_is_as_it_was("same", false, "write R P P")]
fn what_happened_before_anything_was_done_counts_crr_48(
    #[case] what: &str,
    #[case] is_forced: bool,
    #[case] first: &str,
) {
    let mut world = world(json!({"forceRecreate": is_forced}));
    match what {
        "gone" => world.instances.retain(|instance| instance.name != "web"),
        "exited" => world.exits("web"),
        "replaced" => world.restarted("web", "w1", false),
        "again" => world.newest("web").restart_count = 1,
        _ => {}
    }
    assert_eq!(world.go(), first);
    let second = match (what, is_forced) {
        ("gone", _) => "rest",
        ("replaced", true) => "stop w1 30",
        ("same", _) => "stop w0 30",
        _ => "stop l0 30",
    };
    assert_eq!(world.go(), second);
}

#[test]
fn one_that_was_replaced_and_is_ready_needs_nothing_crr_42() {
    let mut world = world(json!({}));
    world.restarted("web", "w1", true);
    world.restarted("log", "l1", true);
    assert_eq!(world.go(), "write C S* S*", "CRR-48: whoever stopped it");
    let snapshot = &world.request["status"]["containerStatusSnapshot"];
    assert_eq!(
        *snapshot,
        json!([
        {"name": "web", "ready": true, "restartCount": 1, "containerID": "containerd://w1"},
        {"name": "log", "ready": true, "restartCount": 1, "containerID": "containerd://l1"}])
    );
}

#[test]
fn ready_is_what_the_manager_saw_or_the_node_crr_42() {
    let mut world = world(json!({}));
    world.restarted("web", "w1", false);
    world.restarted("log", "l1", false);
    world.request["status"]["containerStatusSnapshot"] = json!([
        {"name": "web", "ready": true, "restartCount": 1, "containerID": "containerd://w1"},
        {"name": "log", "ready": true, "restartCount": 0, "containerID": "containerd://l0"}]);
    assert_eq!(world.go(), "write R S* R*", "what was seen of the old one says nothing of the new");
}

// === what it waits for ===

#[test]
fn why_a_container_does_not_come_back_is_told_weak_9() {
    let mut world = world(json!({}));
    world.go();
    world.go();
    world.stopped("web");
    world.go();
    world.go();
    world.status("web")["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
    world.stopped("log");
    world.go();
    assert_eq!(world.message("web"), "the new container does not start: ImagePullBackOff, after 0 restarts");
    assert_eq!(world.read().status.message, format!("container web: {}", world.message("web")));
    world.status("web")["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
    world.restarted("log", "l1", true);
    world.go();
    assert_eq!((world.message("web").as_str(), world.message("log").as_str()), ("", ""));
    world.restarted("web", "w1", false);
    assert_eq!(world.go(), "rest 30000 ms");
    world.later(31);
    world.go();
    assert!(world.message("web").contains("not ready"));
}

#[test]
fn a_new_container_that_crashes_is_told_of_whether_it_waits_or_runs_weak_9() {
    let mut world = world(json!({}));
    world.go();
    world.go();
    world.stopped("web");
    world.go();
    world.go();
    world.stopped("log");
    let ended = |id: &str, reason: &str| json!({"terminated": {"exitCode": 1, "reason": reason, "containerID": id}});
    world.status("web")["state"] = ended("containerd://w0", "Error");
    world.go();
    assert_eq!(world.message("web"), "", "that the old one has ended is as it should be");
    world.restarted("web", "w1", false);
    world.exits("web");
    world.status("web")["state"] = ended("containerd://w1", "OOMKilled");
    world.go();
    let told = "the new container does not start: it has ended with exit code 1 (OOMKilled), after 1 restarts";
    assert_eq!(world.message("web"), told);
    world.restarted("web", "w2", false);
    world.status("web")["lastState"] = ended("containerd://w1", "Error");
    world.go();
    assert_eq!(world.message("web"), "the new container has ended with exit code 1");
}

#[rstest]
#[case::of_the_pod(json!("Never"), json!(null), true)]
#[case::of_the_container(json!("Always"), json!("OnFailure"), true)]
#[case::always(json!("Never"), json!("Always"), false)]
#[case::garbage(json!(7), json!(null), false)]
fn that_a_container_need_not_come_back_is_told_weak_9(#[case] pod: Value, #[case] own: Value, #[case] expected: bool) {
    let mut world = world(json!({}));
    world.pod["spec"]["restartPolicy"] = pod;
    world.pod["spec"]["containers"][0]["restartPolicy"] = own;
    world.exits("web");
    world.go();
    assert_eq!(world.message("web").contains("restartPolicy"), expected);
}

#[test]
fn one_that_is_not_on_the_node_is_said_to_be_missing_crr_41() {
    let mut world = world(json!({}));
    world.instances.clear();
    world.go();
    assert_eq!(world.message("web"), "container web was not found on the node");
    assert_eq!(world.go(), "rest");
}

// === the end ===

#[test]
fn what_was_completed_meanwhile_stays_so_and_learns_of_the_stop_crr_61_weak_15() {
    let mut world = world(json!({}));
    world.go();
    world.go();
    world.request["status"]["phase"] = json!("Completed");
    world.request["status"]["message"] = json!("recreating has exceeded the activeDeadlineSeconds");
    assert_eq!(world.go(), "rest");
    world.stopped("web");
    let request = world.read();
    let choice = choose([&request], Some("u-p"), &world.underway);
    assert_eq!(choice.chosen.map(|chosen| chosen.uid.as_str()), Some("u-r"));
    assert_eq!([world.go(), world.go()], ["write C R* P", "rest"]);
    assert!(choose([&world.read()], Some("u-p"), &world.underway).chosen.is_none());
}

#[rstest]
#[case::is_another("u-other", false)]
#[case::is_going_away("u-p", true)]
fn nothing_is_stopped_when_the_pod(#[case] uid: &str, #[case] is_going_away: bool) {
    let mut world = world(json!({}));
    world.pod["metadata"] = json!({"uid": uid});
    if is_going_away {
        world.pod["metadata"]["deletionTimestamp"] = json!("2026-03-02T08:00:01Z");
    }
    assert_eq!(world.go(), "rest");
}

#[rstest]
#[case::one("containerd://a", "containerd://b", Ok("containerd"))]
#[case::two("containerd://a", "cri-o://b", Err("several runtimes"))]
#[case::none("a", "containerd://b", Err("has no id"))]
#[case::empty("containerd://", "containerd://b", Err("has no id"))]
fn the_runtime_is_that_of_the_ids_crr_28(#[case] a: &str, #[case] b: &str, #[case] expected: Result<&str, &str>) {
    let mut world = world(json!({}));
    for (at, id) in [a, b].into_iter().enumerate() {
        world.request["spec"]["containers"][at]["statusContext"]["containerID"] = json!(id);
    }
    let request = world.read();
    match (runtime(&request), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(why), Err(expected)) => {
            assert!(why.starts_with("failed to find runtime service: ") && why.contains(expected), "{why}");
            world.write(&no_runtime(&request, &why, world.now));
            assert_eq!((world.states().as_str(), world.read().status.message), ("C ", why));
        }
        (found, _) => unreachable!("{found:?}"),
    }
}

// === whose turn it is ===

fn request(name: &str, phase: &str, created: u8, pod_uid: &str) -> Request {
    Request::read(&json!({
        "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-03-02T08:00:{created:02}Z"),
            "labels": {"crr.apps.kruise.io/pod-uid": pod_uid}},
        "status": {"phase": phase},
    }))
}

#[rstest]
#[case::the_oldest(&[("b", "", 1), ("a", "", 2)], Some("b"), &["a"])]
#[case::by_name_when_they_are_of_one_second(&[("b", "", 1), ("a", "", 1)], Some("a"), &["b"])]
#[case::the_one_that_was_begun(&[("a", "", 1), ("b", "Pending", 2), ("c", "Recreating", 3)], Some("c"), &["a"])]
#[case::one_that_waits_before_one_that_is_new(&[("a", "", 1), ("b", "Pending", 2)], Some("b"), &["a"])]
#[case::one_that_waits_when_the_other_is_done_weak_1(&[("a", "Completed", 1), ("b", "Pending", 2)], Some("b"), &[])]
#[case::none(&[("a", "Completed", 1)], None, &[])]
fn one_of_a_pods_requests_is_chosen_crr_23(
    #[case] requests: &[(&str, &str, u8)],
    #[case] chosen: Option<&str>,
    #[case] told: &[&str],
) {
    let requests: Vec<Request> =
        requests.iter().map(|(name, phase, created)| request(name, phase, *created, "u-p")).collect();
    let choice = choose(&requests, Some("u-p"), &Underway::default());
    assert_eq!(choice.chosen.map(|request| request.name.as_str()), chosen);
    assert_eq!(choice.told.iter().map(|request| request.name.as_str()).collect::<Vec<_>>(), told);
    assert!(choice.told.iter().all(|request| queued(request)["status"]["phase"] == "Pending"));
    assert!(choice.told.iter().all(|request| queued(request)["status"]["message"] != ""), "WEAK-9");
}

#[test]
fn requests_of_an_earlier_pod_hold_up_nobody_weak_19() {
    let requests = [request("old", "Recreating", 1, "u-old"), request("new", "", 2, "u-p")];
    let choice = choose(&requests, Some("u-p"), &Underway::default());
    assert_eq!((choice.chosen.unwrap().name.as_str(), choice.told.len()), ("new", 0));
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_wait_longer() {
    let mut world = world(json!({"minStartedSeconds": 5}));
    world.restarted("web", "w1", true);
    world.restarted("log", "l1", true);
    world.later(-3600);
    world.go();
    let Step::Rest { wake: Some(wake) } = world.step() else { unreachable!() };
    assert!(wake <= Duration::from_millis(5100), "{wake:?}");
}
