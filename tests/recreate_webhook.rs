//! ContainerRecreateRequests through the router, before an API server that answers, refuses, hangs or crashes the handler.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use outrigger::admission::pod::Ambient;
use outrigger::admission::server::Limits;
use outrigger::admission::{Kinds, MUTATE_RECREATE, Sources, Webhook, review, router, routes};
use outrigger::api::names;
use outrigger::cluster::registration::Cover;
use outrigger::gates::Gates;
use outrigger::store::Objects;
use outrigger::store::watch::Interruption;
use outrigger::telemetry::Metrics;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What the API server does when it is asked for a path.
#[derive(Clone, Copy)]
enum Server {
    Answers,
    HasNoNode,
    Forbids,
    Hangs,
    CrashesUs,
}

impl Server {
    async fn answer(self, path: String) -> (u16, Value) {
        let failed = |code: u16| {
            (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "as asked", "reason": "x"}))
        };
        let pod = json!({
            "metadata": {"name": "cart", "uid": "u"}, "spec": {"nodeName": "worker-b", "containers": [{"name": "web"}]},
            "status": {"containerStatuses": [{"name": "web", "containerID": "containerd://x", "restartCount": 1}]},
        });
        match (self, path.as_str()) {
            (Self::Hangs, _) => std::future::pending().await,
            (Self::CrashesUs, _) => panic!("as asked"),
            (Self::Forbids, _) => failed(403),
            (_, "/api/v1/namespaces/shop/pods/cart") => (200, pod),
            (Self::Answers, "/api/v1/nodes/worker-b") => (200, json!({"metadata": {"name": "worker-b"}})),
            _ => failed(404),
        }
    }

    fn client(self) -> Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| async move {
            let (code, body) = self.answer(request.uri().path().to_owned()).await;
            let body = kube::client::Body::from(body.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
        });
        Client::new(service, "default")
    }
}

fn ambient() -> Ambient {
    Ambient { now: "2026-03-04T05:06:07Z".parse().unwrap(), random: 7 }
}

async fn post(server: Server, gates: Gates, body: String) -> (StatusCode, Value) {
    let snapshot = Objects::new(names::DEFAULT_NAMESPACE).snapshot().unwrap();
    let kinds = Kinds {
        cover: Cover::of_all_pods(),
        gate: tokio::sync::watch::channel(1).1,
        interruption: tokio::sync::watch::channel(Interruption::default()).1,
        client: server.client(),
        gates,
    };
    let routes = routes(Sources { snapshot: Arc::new(ArcSwap::from_pointee(snapshot)), kinds: Some(kinds), ambient });
    let metrics = Arc::new(Metrics::new(Arc::default(), || None));
    let app = router(Webhook { routes, limits: Limits::default(), metrics, shutdown: CancellationToken::default() });
    let request = Request::post(MUTATE_RECREATE).header("content-type", "application/json").body(Body::from(body));
    let response = app.oneshot(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

fn created() -> Value {
    json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "ContainerRecreateRequest", "metadata": {"generateName": "r-"},
        "spec": {"podName": "cart", "containers": [{"name": "web"}]},
    })
}

fn review(resource: &str, operation: &str, object: &Value, old: &Value) -> String {
    let resource = json!({"group": names::GROUP, "version": "v1beta1", "resource": resource});
    let request = json!({
        "uid": "1", "resource": resource, "namespace": "shop", "operation": operation, "object": object, "oldObject": old,
    });
    json!({"apiVersion": review::V1, "kind": "AdmissionReview", "request": request}).to_string()
}

const CRRS: &str = "containerrecreaterequests";

#[rstest]
#[case::it_answers(Server::Answers, 200, "")]
#[case::there_is_no_node_crr_30(Server::HasNoNode, 400, "the Node \"worker-b\" of the pod is gone")]
#[case::we_may_not_crr_27(Server::Forbids, 500, "the pod \"cart\" cannot be looked at")]
#[case::it_crashes_us_wh_10(Server::CrashesUs, 500, "crashed")]
#[tokio::test]
async fn whatever_the_api_server_does_there_is_an_answer(
    #[case] server: Server,
    #[case] code: u16,
    #[case] told: &str,
) {
    let body = review(CRRS, "CREATE", &created(), &Value::Null);
    let (status, answer) = post(server, Gates::default(), body).await;
    assert_eq!((status, &answer["response"]["uid"]), (StatusCode::OK, &json!("1")));
    let response = &answer["response"];
    assert_eq!(response["status"]["code"], code, "{answer}");
    assert!(response["status"]["message"].as_str().unwrap_or_default().contains(told), "{answer}");
    assert_eq!(response["allowed"], code == 200);
    if code == 200 {
        let stored = support::review::apply(&created(), response);
        assert_eq!(stored["metadata"]["labels"][names::RECREATE_NODE], "worker-b");
        assert_eq!(stored["spec"]["containers"][0]["statusContext"]["containerID"], "containerd://x");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_is_waited_for_no_longer_than_the_webhook_crr_27() {
    let began = Instant::now();
    let (_, answer) = post(Server::Hangs, Gates::default(), review(CRRS, "CREATE", &created(), &Value::Null)).await;
    assert_eq!(answer["response"]["status"]["code"], 500);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("did not answer within 3 s"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(8), "the API server gives up after 10 s");
}

#[rstest]
#[case::a_deletion(review(CRRS, "DELETE", &Value::Null, &created()))]
#[case::an_update_without_a_change(review(CRRS, "UPDATE", &created(), &created()))]
#[tokio::test]
async fn what_needs_no_question_asks_none(#[case] body: String) {
    let (_, answer) = post(Server::Hangs, Gates::default(), body).await;
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    assert_eq!(answer["response"].get("patch"), None);
}

#[rstest]
#[case::no_json("{".to_owned())]
#[case::another_kind(review("sidecarsets", "CREATE", &created(), &Value::Null))]
#[case::no_object(review(CRRS, "CREATE", &Value::Null, &Value::Null))]
#[case::an_object_that_is_a_text(review(CRRS, "CREATE", &json!("x"), &Value::Null))]
#[tokio::test]
async fn what_cannot_be_understood_is_malformed_rsp_1(#[case] body: String) {
    let (_, answer) = post(Server::Hangs, Gates::default(), body).await;
    assert_eq!(answer["response"]["status"]["code"], 400, "{answer}");
}

#[tokio::test]
async fn nothing_is_asked_while_the_gate_is_off_crr_1() {
    let gates = Gates { daemon: false, ..Gates::default() };
    let (_, answer) = post(Server::Hangs, gates, review(CRRS, "CREATE", &created(), &Value::Null)).await;
    assert_eq!(answer["response"]["status"]["code"], 403, "{answer}");
    assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("KruiseDaemon"));
}
