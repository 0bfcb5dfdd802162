//! The board before a small world: an API server that may lag, daemons, jobs that come and go, restarts. What must hold at
//! every instant is checked on the server's objects, not on what the board believes.

mod model;
mod world;

use rstest::rstest;
use serde_json::{Value, json};

use self::world::{World, seconds};
use super::*;
use crate::images::node::RESPONSE;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

fn world(nodes: &[&str]) -> World {
    let mut world = World::default();
    for node in nodes {
        world.add_node(node, json!({}));
    }
    world.start();
    world
}

/// Names of nodes on which a job has begun.
fn on(world: &World, job: &str) -> Vec<String> {
    let uid = format!("uid-{job}");
    let has = |node: &&String| world.tags(node).any(|(_, tag)| world::owns(&tag, &uid));
    world.server.keys().filter(has).cloned().collect()
}

#[rstest]
#[case::one_by_default_job_15(Value::Null, 1)]
#[case::a_number(json!(3), 3)]
#[case::a_number_as_text(json!("2"), 2)]
#[case::none(json!(0), 0)]
#[case::a_part_rounded_up(json!("30%"), 2)]
#[case::all(json!("100%"), 4)]
#[case::more_than_there_are(json!(100), 4)]
#[case::nonsense(json!("many"), 0)]
fn as_many_nodes_pull_as_the_job_allows(#[case] parallelism: Value, #[case] expected: usize) {
    let mut world = world(&NODES);
    world.add_job("a", json!({"parallelism": parallelism}));
    world.settle();
    assert_eq!(on(&world, "a").len(), expected);
    assert_eq!(world.status("a")["active"], expected);
}

#[rstest]
#[case::all_job_4(json!({}), &NODES)]
#[case::an_empty_selector_weak_48(json!({"selector": {}}), &NODES)]
#[case::names_job_5(json!({"selector": {"names": ["n3", "n1", "nobody"]}}), &["n1", "n3"])]
#[case::labels_job_6(json!({"selector": {"matchLabels": {"zone": "b"}}}), &["n2"])]
#[case::a_selector_that_cannot_be_read(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}), &[])]
fn nodes_are_selected(#[case] selection: Value, #[case] expected: &[&str]) {
    let mut world = world(&NODES);
    world.set_labels("n2", json!({"zone": "b"}));
    world.pass(2);
    let mut spec = json!({"parallelism": 10});
    json_patch::merge(&mut spec, &selection);
    world.add_job("a", spec);
    world.settle();
    assert_eq!(on(&world, "a"), expected);
    assert_eq!(world.status("a")["desired"], expected.len());
    assert!(world.status("a")["completionTime"].is_null());
}

#[test]
fn nodes_of_pods_are_handed_the_image_in_the_order_of_the_pods_job_3_weak_24() {
    let mut world = world(&NODES);
    world.add_job("a", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    world.settle();
    assert!(on(&world, "a").is_empty(), "its pods are not known");
    assert!(world.status("a")["message"].as_str().unwrap().contains("waits for the list of its pods"));
    world.board.set_pods("uid-a", &["n4".into(), "n2".into(), "nobody".into()]);
    world.settle();
    assert_eq!(on(&world, "a"), ["n4"]);
    assert_eq!(world.status("a")["desired"], 2);
    world.board.set_pods("uid-a", &["n1".into()]);
    world.settle();
    assert_eq!(world.status("a")["desired"], 1, "JOB-7");
}

#[rstest]
#[case::a_few(6, true)]
#[case::more_than_should_meet_there(20, false)]
fn a_node_whose_write_waits_takes_along_what_else_wants_it(#[case] jobs: usize, #[case] are_all_aboard: bool) {
    let mut world = world(&NODES);
    world.add_job("a", json!({"parallelism": 2}));
    world.deliver_all();
    world.plan(0);
    for number in 0..jobs {
        world.add_job(&format!("b{number}"), json!({"image": format!("x:{number}")}));
    }
    world.deliver_all();
    world.plan(0);
    world.settle();
    let waited = on(&world, "a");
    let aboard = (0..jobs).filter(|number| waited.contains(&on(&world, &format!("b{number}"))[0])).count();
    assert_eq!(aboard == jobs, are_all_aboard, "{aboard} of {jobs}");
    assert!(aboard >= jobs.min(2 * (ABOARD - 1)), "{aboard} of {jobs}");
    assert_eq!(world.writes.values().sum::<usize>() == 2, are_all_aboard);
}

#[test]
fn a_job_completes_when_all_nodes_have_ended_and_tells_who_failed_job_26() {
    let mut world = world(&NODES);
    world.add_job("a", json!({"parallelism": 2}));
    for _ in 0..2 {
        world.settle();
        world.end(on(&world, "a").iter().map(String::as_str), "n3", "Failed");
    }
    world.settle();
    let status = world.status("a");
    assert_eq!(status["failedNodes"], json!(["n3"]));
    assert_eq!([&status["succeeded"], &status["failed"], &status["active"]], [3, 1, 0]);
    assert!(status["completionTime"].is_string());
    assert_eq!(status["message"], "job has completed; n3: no such image");
}

#[test]
fn a_second_job_of_a_tag_that_is_being_pulled_is_appended_and_ends_with_it() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"image": "x:1"}));
    world.settle();
    world.add_job("b", json!({"image": "x:1", "pullPolicy": {"timeoutSeconds": 7}}));
    world.settle();
    let (_, tag) = world.tags("n1").next().unwrap();
    assert_eq!((&tag["version"], tag["ownerReferences"].as_array().unwrap().len()), (&Value::Null, 2));
    assert_eq!(tag["pullPolicy"]["timeoutSeconds"], 7, "WEAK-21");
    world.end(["n1"], "", "");
    world.settle();
    assert!(world.status("a")["completionTime"].is_string() && world.status("b")["completionTime"].is_string());
}

#[test]
fn a_second_job_of_a_tag_that_has_ended_begins_anew_and_takes_a_slot_of_the_first_img_60() {
    let mut world = world(&["n1", "n2"]);
    world.add_job("a", json!({"image": "x:1"}));
    world.settle();
    let first = on(&world, "a")[0].clone();
    world.end([first.as_str()], "", "");
    world.settle();
    assert_eq!(on(&world, "a").len(), 2, "the second node is its one slot");
    world.add_job("b", json!({"image": "x:1", "parallelism": 2}));
    world.settle();
    // On the node where `a` pulls it was appended; on the other it waits, since that would be the second pull for `a`.
    let second = if first == "n1" { "n2" } else { "n1" };
    assert_eq!(on(&world, "b"), [second]);
    assert!(world.status("b")["message"].as_str().unwrap().contains("waits for older jobs on 1 node"));
    world.end([second], "", "");
    world.settle();
    let (_, tag) = world.tags(&first).next().unwrap();
    assert_eq!(tag["version"], 1);
    // `a` had ended by then, and is not asked any more.
    assert!(world.status("a")["completionTime"].is_string());
    world.end([first.as_str()], "", "");
    world.settle();
    assert!(world.status("b")["completionTime"].is_string());
}

#[test]
fn what_a_paused_job_has_does_not_keep_others_from_pulling_anew() {
    let mut world = world(&["n1", "n2"]);
    world.add_job("a", json!({"image": "x:1", "parallelism": 2, "selector": {"names": ["n1", "n2"]}}));
    world.settle();
    world.end(["n1"], "", "");
    world.settle();
    world.change_job("a", json!({"spec": {"parallelism": 0}}));
    world.add_job("b", json!({"image": "x:1", "parallelism": 2, "selector": {"names": ["n1"]}}));
    world.settle();
    assert_eq!((on(&world, "a"), on(&world, "b")), (vec!["n2".to_owned()], vec!["n1".to_owned()]));
}

#[test]
fn a_job_that_asks_the_registry_begins_a_pull_anew_that_would_not() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"image": "x:1"}));
    world.settle();
    world.add_job("b", json!({"image": "x:1", "imagePullPolicy": "Always"}));
    world.settle();
    let (_, tag) = world.tags("n1").next().unwrap();
    assert_eq!((&tag["version"], &tag["imagePullPolicy"]), (&json!(1), &json!("Always")));
}

#[test]
fn the_version_of_a_tag_that_comes_back_goes_on_from_its_last_status_img_60() {
    let mut world = world(&["n1"]);
    world.change_node(
        "n1",
        json!({"status": {"desired": 0, "imageStatuses": {"x": {"tags": [
        {"tag": "1", "version": 6, "phase": "Succeeded"}]}}}}),
    );
    world.add_job("a", json!({"image": "x:1"}));
    world.settle();
    assert_eq!(world.tags("n1").next().unwrap().1["version"], 7);
}

#[test]
fn deleting_a_job_takes_its_tags_away_unless_another_job_owns_them_job_37_job_38() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"image": "x:1"}));
    world.add_job("b", json!({"image": "x:1"}));
    world.add_job("c", json!({"image": "y:1"}));
    world.settle();
    world.remove_job("a");
    world.remove_job("c");
    world.settle();
    world.pass(2);
    let tags: Vec<_> = world.tags("n1").collect();
    assert_eq!(tags.len(), 1, "{tags:?}");
    assert_eq!(tags[0].1["ownerReferences"].as_array().unwrap().len(), 1);
    world.remove_job("b");
    world.pass(2);
    assert_eq!(world.server["n1"]["spec"]["images"], json!({}));
}

#[test]
fn tags_of_a_job_that_is_gone_go_also_when_nobody_saw_it_go_weak_25() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({}));
    world.settle();
    world.end(["n1"], "", "");
    world.settle();
    world.jobs.remove("a");
    world.restart();
    world.pass(2);
    assert_eq!(world.tags("n1").count(), 0);
}

#[test]
fn a_tag_is_kept_for_its_time_from_when_the_last_job_ended_weak_20() {
    let mut world = world(&["n1", "n2"]);
    world.add_job("a", json!({"completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 10}}));
    world.settle();
    let first = on(&world, "a")[0].clone();
    world.end([first.as_str()], "", "");
    world.pass(10_000);
    assert_eq!(world.tags(&first).count(), 1, "its job is at work");
    let second = if first == "n1" { "n2" } else { "n1" };
    world.end([second], "", "");
    world.settle();
    world.pass(305);
    assert_eq!(world.tags(&first).count(), 1);
    world.pass(400);
    assert_eq!((world.tags("n1").count(), world.tags("n2").count()), (0, 0));
    assert!(world.status("a")["completionTime"].is_string());
}

#[test]
fn a_job_that_never_ends_refreshes_each_node_about_daily_job_22() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"completionPolicy": {"type": "Never"}}));
    world.settle();
    world.end(["n1"], "", "");
    world.settle();
    assert_eq!(world.status("a")["message"], "job is running, progress 100.0%");
    assert!(world.status("a")["completionTime"].is_null());
    world.pass(85_000);
    assert_eq!(world.status("a")["succeeded"], 1);
    world.pass(3_000);
    assert_eq!((world.status("a")["active"].clone(), world.tags("n1").count()), (json!(1), 1));
}

#[test]
fn the_deadline_ends_a_job_and_its_pulls_job_27_weak_44() {
    let mut world = world(&NODES);
    world.add_job(
        "a",
        json!({
            "parallelism": 2, "completionPolicy": {"type": "Always", "activeDeadlineSeconds": 700},
        }),
    );
    world.settle();
    let first = on(&world, "a")[0].clone();
    world.end([first.as_str()], "", "");
    world.settle();
    world.report_all("Pulling");
    world.pass(701);
    let status = world.status("a");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("job exceeds activeDeadlineSeconds"), "{message}");
    assert_eq!([&status["succeeded"], &status["failed"], &status["active"]], [1, 3, 0]);
    assert_eq!(status["failedNodes"].as_array().unwrap().len(), 3);
    assert_eq!(on(&world, "a"), [first]);
}

#[test]
fn nodes_that_are_named_are_waited_for_for_a_while_weak_23() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"selector": {"names": ["n1", "later"]}}));
    world.settle();
    world.end(["n1"], "", "");
    world.settle();
    assert_eq!(world.status("a")["message"], "job is running, progress 100.0%; there is no NodeImage of later");
    world.add_node("later", json!({}));
    world.settle();
    assert_eq!((&world.status("a")["desired"], on(&world, "a").len()), (&json!(2), 2));
    world.add_job("b", json!({"selector": {"names": ["nobody"]}}));
    world.settle();
    assert!(world.status("b")["completionTime"].is_null());
    world.pass(61);
    assert_eq!(world.status("b")["message"], "job has completed; there is no NodeImage of nobody");
    world.add_job("c", json!({"selector": {"matchLabels": {"zone": "none"}}}));
    world.settle();
    assert_eq!(world.status("c")["message"], "job has completed", "JOB-26");
}

#[test]
fn a_node_image_that_cannot_be_written_fails_for_the_job_and_the_others_go_on_weak_22() {
    let mut world = world(&NODES);
    world.refuses.insert("n2".to_owned(), "/spec/images/bad".to_owned());
    world.add_job("a", json!({"image": "bad:1"}));
    world.add_job("b", json!({"image": "good:1"}));
    for _ in 0..8 {
        world.pass(60);
        world.end(NODES, "", "");
    }
    world.settle();
    let status = world.status("a");
    assert_eq!((&status["failedNodes"], &status["succeeded"]), (&json!(["n2"]), &json!(3)), "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("n2: its NodeImage cannot be written: 256 images"), "{message}");
    assert_eq!((&world.status("b")["succeeded"], &world.status("b")["failed"]), (&json!(4), &json!(0)));
    assert_eq!(world.board.counts().unwritable, 1);
}

#[test]
fn secrets_come_with_the_tag_in_their_order_later_ones_too_and_go_with_the_last_job_weak_40() {
    let mut world = world(&["n1"]);
    let secret = |name: &str| Secret { namespace: "config".into(), name: name.into(), is_batch: true };
    world.add_job("a", json!({"image": "x:1", "pullSecrets": ["one", "two"]}));
    world.settle();
    assert_eq!(world.tags("n1").count(), 0, "copies are being made");
    world.board.set_secrets("uid-a", Some(vec![secret("z")]), Some("there is no pull secret \"two\"".to_owned()));
    world.settle();
    assert!(world.status("a")["message"].as_str().unwrap().contains("there is no pull secret"));
    let secrets = |world: &World| world.server["n1"]["spec"]["images"]["x"]["pullSecrets"].clone();
    let z = json!({"namespace": "config", "name": "z", "mode": "batch"});
    assert_eq!(secrets(&world), json!([z]));
    world.board.set_secrets("uid-a", Some(vec![secret("z"), secret("b")]), None);
    world.settle();
    world.pass(2);
    assert_eq!(secrets(&world), json!([z, {"namespace": "config", "name": "b", "mode": "batch"}]), "JOB-14");
    world.end(["n1"], "", "");
    world.settle();
    world.add_job("b", json!({"image": "x:2"}));
    world.settle();
    assert_eq!(secrets(&world), json!([]));
}

#[test]
fn the_sandbox_config_is_that_of_the_newest_job_unless_one_pulls_weak_46() {
    let mut world = world(&["n1"]);
    let config = |value: &str| json!({"labels": {"team": value}});
    world.add_job("a", json!({"image": "x:1", "sandboxConfig": config("a")}));
    world.settle();
    world.add_job("b", json!({"image": "x:2", "sandboxConfig": config("b")}));
    world.settle();
    let now = |world: &World| world.server["n1"]["spec"]["images"]["x"]["sandboxConfig"].clone();
    assert_eq!(now(&world), config("a"));
    world.end(["n1"], "", "");
    world.settle();
    world.add_job("c", json!({"image": "x:3", "sandboxConfig": config("c")}));
    world.settle();
    assert_eq!(now(&world), config("c"));
    world.end(["n1"], "", "");
    world.settle();
    world.add_job("d", json!({"image": "x:4"}));
    world.settle();
    assert_eq!(now(&world), Value::Null);
}

#[test]
fn jobs_queue_by_age_for_room_and_all_get_through_weak_40() {
    let mut world = world(&["n1"]);
    let image = |job: usize| format!("registry.example/{}/{job:03}:1", "team/".repeat(40).trim_end_matches('/'));
    for job in 0..60 {
        world.add_job(&format!("j{job:03}"), json!({"image": image(job)}));
    }
    world.settle();
    let admitted = world.tags("n1").count();
    assert!((10..60).contains(&admitted), "{admitted}");
    assert!(on(&world, "j000") == ["n1"] && on(&world, "j059").is_empty());
    assert_eq!(world.status("j059")["message"], "job is running, progress 0.0%; waits for older jobs on 1 node");
    for _ in 0..60 {
        world.end(["n1"], "", "");
        world.settle();
        assert!(world.server["n1"].to_string().len() < 64 << 10);
    }
    for job in 0..60 {
        assert!(world.status(&format!("j{job:03}"))["completionTime"].is_string(), "{job}");
    }
    let writes = world.writes["n1"];
    assert!(writes <= 60, "{writes} writes: what is over goes with what comes");
}

#[test]
fn one_patch_carries_what_all_jobs_want_of_a_node() {
    let mut world = world(&["n1"]);
    for job in 0..20 {
        world.add_job(&format!("j{job}"), json!({"image": format!("x{}:{job}", job % 7)}));
    }
    world.settle();
    assert_eq!((world.tags("n1").count(), world.writes["n1"]), (20, 1));
}

#[test]
fn labels_follow_the_node_and_fake_ones_stay_img_5_img_12() {
    let mut world = world(&["n1"]);
    world.set_labels("n1", json!({"zone": "b"}));
    world.add_node("fake", json!({"metadata": {"labels": {"apps.kruise.io/fake-nodeimage": "x"}}}));
    world.machines.remove("fake");
    world.restart();
    world.pass(2);
    assert_eq!(world.server["n1"]["metadata"]["labels"], json!({"zone": "b"}));
    assert_eq!(world.server["fake"]["metadata"]["labels"], json!({"apps.kruise.io/fake-nodeimage": "x"}));
    assert!(world.board.take_deaths(9).is_empty());
}

#[test]
fn node_images_are_made_when_the_node_was_ready_for_a_while_and_go_with_it_img_2_img_4() {
    let mut world = world(&[]);
    let now = world.now.as_second();
    let machine = |is_ready, since| Machine { is_ready, since, ..Machine::default() };
    world.board.put_machine("ready".into(), machine(true, now - 30));
    world.board.put_machine("fresh".into(), machine(true, now - 29));
    world.board.put_machine("down".into(), machine(false, now - 99));
    world.board.put_machine("virtual".into(), Machine { is_virtual: true, ..machine(true, 0) });
    world.board.put_machine("going".into(), Machine { is_going: true, ..machine(true, 0) });
    let born = |world: &mut World| -> Vec<String> {
        world.board.take_births(world.now, 9).iter().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(born(&mut world), ["ready"]);
    world.now += seconds(1);
    assert_eq!(born(&mut world), ["fresh"]);
    world.add_node("ready", json!({}));
    world.deliver_all();
    world.board.put_machine("ready".into(), machine(false, now));
    assert!(world.board.take_deaths(9).is_empty(), "IMG-2: kept when it is not Ready any more");
    world.board.machine_gone("ready");
    let deaths = world.board.take_deaths(9);
    assert_eq!(&*deaths[0].0, "ready");
}

#[test]
fn it_does_not_matter_what_is_listed_first() {
    let mut board = Board::new(300, 0);
    board.machines_listed(vec![("n".into(), Machine { is_ready: true, ..Machine::default() })]);
    board.nodes_listed(vec![Node { name: "old".into(), is_readable: true, ..Node::default() }]);
    board.jobs_listed(Vec::new());
    let now = World::default().now;
    assert_eq!(&*board.take_births(now, 9)[0].0, "n");
    assert_eq!(&*board.take_deaths(9)[0].0, "old");
}

#[rstest]
#[case::the_node_is_ready(true, RESPONSE)]
#[case::the_node_is_not_weak_47(false, 60)]
fn a_tag_that_nobody_answers_for_is_to_be_judged_in_time_img_21(#[case] is_ready: bool, #[case] after: i64) {
    let mut world = world(&["n1"]);
    let since = world.now.as_second() - 1000;
    world.board.put_machine("n1".into(), Machine { is_ready, since, ..Machine::default() });
    world.add_job("a", json!({}));
    world.settle();
    let due = world.now + seconds(after);
    world.now = due - seconds(1);
    world.board.plan(world.now);
    assert!(world.board.take_overdue(9).is_empty());
    assert_eq!(world.board.next_due(), Some(due));
    world.board.plan(due);
    assert_eq!(world.board.take_overdue(9), ["n1".into()]);
}

#[test]
fn nodes_that_are_not_ready_come_last_weak_47() {
    let mut world = world(&NODES);
    world.board.put_machine("n1".into(), Machine { is_ready: false, ..Machine::default() });
    world.add_job("a", json!({"parallelism": 3}));
    world.settle();
    assert_eq!(on(&world, "a"), ["n2", "n3", "n4"]);
}

#[test]
fn nothing_is_done_for_a_job_whose_image_is_none_and_it_says_so() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"image": "Not An Image"}));
    world.settle();
    let message = world.status("a")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("is not a reference to an image"), "{message}");
    assert!(on(&world, "a").is_empty());
}

#[test]
fn another_image_takes_the_place_of_the_first() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({"image": "x:1"}));
    world.settle();
    world.change_job("a", json!({"spec": {"image": "y:2"}}));
    world.settle();
    world.pass(2);
    let images: Vec<String> = world.tags("n1").map(|(image, _)| image).collect();
    assert_eq!(images, ["y"]);
}

#[test]
fn two_nodes_never_share_a_place_though_one_went_while_it_was_written() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({}));
    world.deliver_all();
    world.plan(1);
    // The answer to the write is there before the watch tells.
    world.remove_node("n1");
    world.land(0);
    world.deliver_all();
    for name in ["n2", "n3"] {
        world.add_node(name, json!({}));
    }
    world.deliver_all();
    assert_eq!(["n2", "n3"].map(|name| world.board.node(name).map(|node| &*node.name)), [Some("n2"), Some("n3")]);
    world.settle();
    assert_eq!(world.status("a")["desired"], 2);
}

#[test]
fn a_write_that_nobody_could_judge_counts_against_no_node() {
    let mut world = world(&["n1"]);
    world.add_job("a", json!({}));
    world.deliver_all();
    for _ in 0..2 * TRIES {
        world.plan(1);
        let write = world.flights.pop().expect("it is tried again");
        world.board.landed(&write.name, Outcome::Away("no webhook answers".to_owned()), world.now);
        world.plan(1);
        assert!(world.flights.is_empty(), "it is waited for a while");
        world.now += seconds(6);
    }
    world.settle();
    assert_eq!(on(&world, "a"), ["n1"]);
    assert_eq!(world.status("a")["failed"], 0);
}
