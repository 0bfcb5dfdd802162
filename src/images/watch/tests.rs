use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

const WIDE: usize = 200;

fn view(images: &[&str]) -> View {
    View::new(images.iter().map(|image| (*image).to_owned()).collect())
}

fn job(image: &str, status: &Value) -> Value {
    json!({"metadata": {"name": format!("job-{image}"), "uid": format!("uid-{image}")}, "spec": {"image": image}, "status": status})
}

fn running(image: &str, desired: i32) -> Value {
    job(image, &json!({"startTime": "2026-03-04T05:06:07Z", "desired": desired, "active": 1}))
}

/// A node that was asked for `nginx:1` by `owner`, and answers this.
fn node(name: &str, owner: &str, answer: &Value) -> Value {
    let tag = json!({"tag": "1", "version": 3, "ownerReferences": [{"uid": "other"}, {"uid": owner}]});
    let mut node = json!({"metadata": {"name": name}, "spec": {"images": {"nginx": {"tags": [tag]}}}});
    if !answer.is_null() {
        let mut answer = answer.clone();
        answer["tag"] = "1".into();
        answer["version"] = answer.get("version").cloned().unwrap_or(json!(3));
        node["status"] = json!({"imageStatuses": {"nginx": {"tags": [answer]}}});
    }
    node
}

const OURS: &str = "uid-docker.io/library/nginx:1";
const IMAGE: &str = "docker.io/library/nginx:1";

fn seen(nodes: &[(&str, Value)]) -> View {
    let mut view = view(&[IMAGE]);
    // A node may be heard of before the job.
    for (name, answer) in nodes {
        view.node(&node(name, OURS, answer));
    }
    view.job(&running(IMAGE, 10));
    view
}

#[rstest]
#[case::asked(json!(null), "0 of 10 nodes have it, 1 asked")]
#[case::an_answer_to_an_earlier_question_img_61(json!({"phase": "Succeeded", "version": 2}), "0 of 10 nodes have it, 1 asked")]
#[case::queued(json!({"phase": "Waiting"}), "0 of 10 nodes have it, 1 queued")]
#[case::pulling(json!({"phase": "Pulling", "progress": 57}), "0 of 10 nodes have it, 1 pulling")]
#[case::there(json!({"phase": "Succeeded", "progress": 100}), "1 of 10 nodes have it")]
#[case::failed(json!({"phase": "Failed", "message": "no"}), "0 of 10 nodes have it, 1 failed")]
fn a_node_stands_where_it_says(#[case] answer: Value, #[case] told: &str) {
    assert_eq!(seen(&[("a", answer)]).progress().counts(), told);
}

#[test]
fn bytes_of_what_is_under_way_count() {
    let view = seen(&[
        ("a", json!({"phase": "Pulling", "progress": 50})),
        ("b", json!({"phase": "Pulling", "progress": 20})),
        ("c", json!({"phase": "Succeeded"})),
        ("d", json!({"phase": "Failed"})),
    ]);
    let progress = view.progress();
    assert_eq!((progress.percent, progress.slowest.clone()), (27, Some(("b".to_owned(), 20))));
    let line = "[######------------------]  27 %  1 of 10 nodes have it, 2 pulling, 1 failed (b 20 %)";
    assert_eq!(progress.line(WIDE), line);
    assert_eq!(progress.line(60), " 27 %  1 of 10 nodes have it, 2 pulling, 1 failed (b 20 %)", "no room for a bar");
    assert_eq!(progress.line(10), " 27 %  1 o");
}

#[test]
fn what_another_job_asked_for_is_not_ours() {
    let mut view = view(&[IMAGE]);
    view.job(&running(IMAGE, 2));
    view.node(&node("a", "somebody", &json!({"phase": "Failed"})));
    assert_eq!(view.progress().counts(), "0 of 2 nodes have it");
    assert_eq!(view.failures(), []);
}

#[test]
fn how_a_node_ended_stays_true_when_it_is_taken_off_its_list() {
    let mut view = seen(&[("a", json!({"phase": "Failed", "message": "no"})), ("b", json!({"phase": "Pulling"}))]);
    for name in ["a", "b"] {
        view.node(&json!({"metadata": {"name": name}, "spec": {}}));
    }
    assert_eq!(view.progress().counts(), "0 of 10 nodes have it, 1 failed");
    view.only_nodes(|name| name == "b");
    assert_eq!(view.progress().counts(), "0 of 10 nodes have it");
}

#[test]
fn a_table_tells_every_node_that_failed_and_why() {
    let mut view = seen(&[("b", json!({"phase": "Failed", "message": "401"})), ("a", json!({"phase": "Failed"}))]);
    let status = json!({
        "startTime": "2026-03-04T05:06:07Z", "completionTime": "2026-03-04T05:07:07Z", "desired": 3, "failed": 3,
        "failedNodes": ["a", "b", "z"], "message": "job exceeds activeDeadlineSeconds",
    });
    view.job(&job(IMAGE, &status));
    let failure = |node: &str, reason: &str| Failure {
        node: node.to_owned(),
        image: IMAGE.to_owned(),
        reason: reason.to_owned(),
    };
    let expected = [
        failure("a", "the node does not say why"),
        failure("b", "401"),
        failure("z", "job exceeds activeDeadlineSeconds"),
    ];
    assert_eq!(view.failures(), expected);
    assert!(view.is_over());
    assert_eq!(view.progress().counts(), "0 of 3 nodes have it, 3 failed");
    assert_eq!(view.progress().percent, 100);
}

#[test]
fn several_images_are_one_progress() {
    let mut view = view(&[IMAGE, "b:1", "c:1"]);
    assert_eq!(
        (view.progress().line(WIDE), view.has_begun()),
        ("[------------------------]   0 %  0 of 3 images, 0 of 0 pulls are done".to_owned(), false,)
    );
    view.job(&running(IMAGE, 4));
    view.job(&job(
        "b:1",
        &json!({"startTime": "2026-03-04T05:06:07Z", "completionTime": "2026-03-04T05:06:09Z",
        "desired": 4, "succeeded": 4}),
    ));
    view.job(&job("d:1", &json!({"desired": 9})));
    let progress = view.progress();
    assert_eq!(progress.counts(), "1 of 3 images, 4 of 12 pulls are done", "the third has no job yet");
    assert!(view.has_begun() && !view.is_over());
    let fared = view.fared();
    assert_eq!((fared[1].succeeded, fared[1].job.as_deref(), fared[2].job.as_deref()), (4, Some("job-b:1"), None));
}

#[test]
fn without_the_right_to_see_nodes_the_jobs_tell() {
    let mut view = seen(&[("a", json!({"phase": "Pulling", "progress": 50}))]);
    view.is_blind_to_nodes();
    view.job(&job(IMAGE, &json!({"desired": 4, "active": 1, "succeeded": 2, "failed": 1, "failedNodes": ["x"]})));
    assert_eq!(view.progress().counts(), "2 of 4 nodes have it, 1 pulling, 1 failed");
    assert_eq!(view.failures()[0].reason, "the job does not say why");
    assert_eq!(view.unknown(&["x".to_owned()]), Vec::<&str>::new());
}

#[test]
fn a_job_that_has_ended_may_go_and_another_may_not() {
    let mut view = seen(&[]);
    assert!(!view.job_gone("somebody"));
    assert!(view.job_gone(OURS));
    view.job(&job(IMAGE, &json!({"completionTime": "2026-03-04T05:06:09Z"})));
    assert!(!view.job_gone(OURS) && view.is_over());
}

#[test]
fn what_a_job_says_beside_its_progress_is_told() {
    let mut view = view(&[IMAGE]);
    view.job(&job(IMAGE, &json!({"desired": 1, "message": "job is running, progress 0%"})));
    assert_eq!(view.remark(), None);
    let message = "job is running, progress 0%; paused by parallelism 0; and more";
    view.job(&job(IMAGE, &json!({"desired": 1, "message": message})));
    assert_eq!(view.remark(), Some("paused by parallelism 0; and more"));
}

#[test]
fn who_does_not_answer_and_who_is_not_there_is_named() {
    let view = seen(&[("b", json!(null)), ("a", json!({"phase": "Pulling"}))]);
    assert_eq!(view.silent(), ["b"]);
    let names = ["a", "z"].map(str::to_owned);
    assert_eq!(view.unknown(&names), ["z"]);
}

proptest! {
    #[test]
    fn no_answer_makes_more_than_all_of_it(
        answers in prop::collection::vec((0..6_usize, -500..500_i32, 0..3_i64), 0..20),
        desired in -1..30_i32,
    ) {
        let phases = ["", "Waiting", "Pulling", "Succeeded", "Failed", "odd"];
        let mut view = view(&[IMAGE]);
        view.job(&running(IMAGE, desired));
        for (number, (phase, progress, version)) in answers.iter().enumerate() {
            let answer = json!({"phase": phases[*phase], "progress": progress, "version": version + 2});
            view.node(&node(&format!("n{number}"), OURS, &answer));
        }
        let Progress { desired, succeeded, failed, pulling, waiting, asked, percent, .. } = view.progress();
        prop_assert!(succeeded + failed + pulling + waiting + asked <= desired);
        prop_assert!(percent < 100, "the job has not ended");
    }
}
