//! ImagePullJobs, ImageListPullJobs and NodeImages through the router, as an API server sends them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use outrigger::admission::pod::Ambient;
use outrigger::admission::server::Limits;
use outrigger::admission::{
    Kinds, MUTATE_IMAGE_LIST, MUTATE_NODE_IMAGE, MUTATE_PULL_JOB, Sources, VALIDATE_IMAGE_LIST, VALIDATE_NODE_IMAGE,
    VALIDATE_PULL_JOB, Webhook, review, router, routes,
};
use outrigger::api::names;
use outrigger::cluster::registration::Cover;
use outrigger::cluster::registration::hooks::{HOOKS, HookKind};
use outrigger::gates::Gates;
use outrigger::store::Objects;
use outrigger::store::watch::Interruption;
use outrigger::telemetry::Metrics;
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const NOW: &str = "2026-03-04T05:06:07Z";

/// A kind, its resource, and where it is defaulted and judged.
struct Subject {
    kind: &'static str,
    resource: &'static str,
    mutate: &'static str,
    validate: &'static str,
    spec: fn() -> Value,
}

const JOB: Subject = Subject {
    kind: "ImagePullJob",
    resource: "imagepulljobs",
    mutate: MUTATE_PULL_JOB,
    validate: VALIDATE_PULL_JOB,
    spec: || json!({"image": "registry.example/cart:v7", "parallelism": "10%"}),
};
const LIST: Subject = Subject {
    kind: "ImageListPullJob",
    resource: "imagelistpulljobs",
    mutate: MUTATE_IMAGE_LIST,
    validate: VALIDATE_IMAGE_LIST,
    spec: || json!({"images": ["registry.example/cart:v7", "nginx:1"]}),
};
const NODE: Subject = Subject {
    kind: "NodeImage",
    resource: "nodeimages",
    mutate: MUTATE_NODE_IMAGE,
    validate: VALIDATE_NODE_IMAGE,
    spec: || json!({"images": {"nginx": {"tags": [{"tag": "1", "pullPolicy": {"ttlSecondsAfterFinished": 9}}]}}}),
};

fn app(gates: Gates) -> Router {
    let snapshot = Objects::new(names::DEFAULT_NAMESPACE).snapshot().unwrap();
    let nobody = |_| std::future::ready(Err::<axum::http::Response<kube::client::Body>, _>("not asked"));
    let kinds = Kinds {
        cover: Cover::of_all_pods(),
        // Shut: nothing here waits for SidecarSets.
        gate: tokio::sync::watch::channel(0).1,
        interruption: tokio::sync::watch::channel(Interruption::default()).1,
        client: kube::Client::new(tower::service_fn(nobody), "default"),
        gates,
    };
    let ambient = || Ambient { now: NOW.parse().unwrap(), random: 7 };
    let routes = routes(Sources { snapshot: Arc::new(ArcSwap::from_pointee(snapshot)), kinds: Some(kinds), ambient });
    let metrics = Arc::new(Metrics::new(Arc::default(), || None));
    router(Webhook { routes, limits: Limits::default(), metrics, shutdown: CancellationToken::default() })
}

async fn post(app: &Router, path: &str, body: String) -> Value {
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

impl Subject {
    fn object(&self, version: &str) -> Value {
        json!({
            "apiVersion": format!("{}/{version}", names::GROUP), "kind": self.kind, "metadata": {"name": "one"},
            "spec": (self.spec)(),
        })
    }

    fn review(&self, version: &str, operation: &str, object: &Value, old: &Value) -> String {
        let request = json!({
            "uid": "1", "operation": operation, "object": object, "oldObject": old, "namespace": "shop", "name": "one",
            "kind": {"group": names::GROUP, "version": version, "kind": self.kind},
            "resource": {"group": names::GROUP, "version": version, "resource": self.resource},
        });
        json!({"apiVersion": review::V1, "kind": "AdmissionReview", "request": request}).to_string()
    }
}

#[rstest]
#[case::job(JOB)]
#[case::list(LIST)]
#[case::node(NODE)]
#[tokio::test]
async fn what_is_defaulted_is_valid_and_is_defaulted_once(#[case] subject: Subject) {
    let app = app(Gates::default());
    for version in ["v1alpha1", "v1beta1"] {
        let sent = subject.object(version);
        let answer = post(&app, subject.mutate, subject.review(version, "CREATE", &sent, &Value::Null)).await;
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        let stored = support::review::apply(&sent, &answer["response"]);
        assert_ne!(stored, sent);
        let again = post(&app, subject.mutate, subject.review(version, "UPDATE", &stored, &stored)).await;
        assert_eq!(again["response"].get("patch"), None, "{again}");
        let judged = post(&app, subject.validate, subject.review(version, "CREATE", &stored, &Value::Null)).await;
        assert_eq!(judged["response"]["allowed"], true, "{judged}");
        assert_eq!(judged["response"].get("patch"), None);
    }
}

#[tokio::test]
async fn a_tag_is_asked_for_now_ni_1() {
    let sent = NODE.object("v1beta1");
    let answer = post(&app(Gates::default()), NODE.mutate, NODE.review("v1beta1", "CREATE", &sent, &Value::Null)).await;
    let stored = support::review::apply(&sent, &answer["response"]);
    assert_eq!(stored["spec"]["images"]["nginx"]["tags"][0]["createdAt"], NOW);
}

#[rstest]
#[case::job(JOB, json!({"image": "Cart"}), "spec.image")]
#[case::list(LIST, json!({"images": ["a", "a"]}), "spec.images[1]")]
#[case::node(NODE, json!({"images": {"a": {"tags": [{"tag": "1", "createdAt": NOW}]}}}), "spec.images[a].tags[0].pullPolicy")]
#[tokio::test]
async fn a_refusal_names_the_member_for_programs_too_rsp_3(
    #[case] subject: Subject,
    #[case] spec: Value,
    #[case] field: &str,
) {
    let mut sent = subject.object("v1beta1");
    sent["spec"] = spec;
    let body = subject.review("v1beta1", "CREATE", &sent, &Value::Null);
    let answer = post(&app(Gates::default()), subject.validate, body).await;
    let status = &answer["response"]["status"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(422), &json!("Invalid")), "{answer}");
    assert_eq!(status["details"]["kind"], subject.kind);
    assert_eq!(status["details"]["causes"][0]["field"], field);
}

#[rstest]
#[case::job(JOB)]
#[case::list(LIST)]
#[case::node(NODE)]
#[tokio::test]
async fn a_gate_refuses_what_is_new_and_nothing_else_ipj_6_ni_5(#[case] subject: Subject) {
    let app = app(Gates { daemon: false, image_pull_job: false, ..Gates::default() });
    let object = subject.object("v1beta1");
    let new = post(&app, subject.validate, subject.review("v1beta1", "CREATE", &object, &Value::Null)).await;
    assert_eq!(new["response"]["status"]["code"], 403, "{new}");
    for (operation, object, old) in [("UPDATE", &object, &object), ("DELETE", &Value::Null, &object)] {
        let answer = post(&app, subject.validate, subject.review("v1beta1", operation, object, old)).await;
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
    }
}

#[rstest]
#[case::no_json("{".to_owned())]
#[case::another_kind(LIST.review("v1beta1", "CREATE", &LIST.object("v1beta1"), &Value::Null))]
#[case::no_object(JOB.review("v1beta1", "CREATE", &Value::Null, &Value::Null))]
#[case::another_version_ipj_5(JOB.review("v1", "CREATE", &JOB.object("v1"), &Value::Null))]
#[tokio::test]
async fn what_cannot_be_understood_is_malformed_rsp_1(#[case] body: String) {
    let app = app(Gates::default());
    for path in [JOB.mutate, JOB.validate] {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.clone()));
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        let answer: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(answer["response"]["status"]["code"], 400, "{answer}");
    }
}

#[rstest]
#[case::job(JOB)]
#[case::list(LIST)]
#[case::node(NODE)]
fn each_path_is_registered_in_both_versions_wh_2(#[case] subject: Subject) {
    for (path, kind) in [(subject.mutate, HookKind::Mutating), (subject.validate, HookKind::Validating)] {
        let hook = HOOKS.iter().find(|hook| hook.path == path).unwrap();
        assert_eq!((hook.kind, hook.resource, hook.versions), (kind, subject.resource, &["v1alpha1", "v1beta1"][..]));
        assert_eq!(hook.operations, ["CREATE", "UPDATE"]);
    }
}
