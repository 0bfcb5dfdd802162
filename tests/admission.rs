//! The real router over real TLS: what an API server may send, what a broken client may send, and what a crash costs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode};
use http_body_util::Full;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use outrigger::admission::pod::Ambient;
use outrigger::admission::review::{self, Outcome};
use outrigger::admission::server::Limits;
use outrigger::admission::{MUTATE_POD, Route, Webhook, router};
use outrigger::api::names;
use outrigger::store::{Objects, Snapshot};
use outrigger::telemetry::Metrics;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use support::{Answer, BOTH, Connection, Http, PATIENCE, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const UID: &str = "6a2f1c0e-3f55-4c6e-9a53-0d7a5a6f3c11";
const V1: &str = review::V1;
const V1BETA1: &str = review::V1BETA1;
/// A pod of this name crashes the handler of [`start`].
const CRASH: &str = "crash-me";

// === the world ===

/// `proxy` goes into pods labelled app=web; `greedy` refuses pods labelled app=greedy, for lack of a target (RES-4).
fn snapshot() -> Snapshot {
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
    let policy = json!({
        "targetContainersMode": "sum",
        "targetContainersNameRegex": "^nobody$",
        "resourcesExpr": {"limits": {"cpu": "cpu"}},
    });
    for set in [
        json!({
            "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": "proxy"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "containers": [{"name": "proxy", "image": "registry.example/proxy:3.1"}],
            },
        }),
        json!({
            "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": "greedy"},
            "spec": {
                "selector": {"matchLabels": {"app": "greedy"}},
                "containers": [{"name": "greedy", "image": "registry.example/greedy:1", "resourcesPolicy": policy}],
            },
        }),
    ] {
        let findings = objects.apply_sidecarset(set);
        assert_eq!(findings.errors, [], "the sets of this test are in order");
    }
    objects.snapshot().unwrap()
}

fn ambient() -> Ambient {
    Ambient { now: "2026-03-04T05:06:07Z".parse().unwrap(), random: 7 }
}

async fn start() -> Result<Running> {
    start_with(Limits::default()).await
}

async fn start_with(limits: Limits) -> Result<Running> {
    let snapshot = snapshot();
    let pods = Route::of_reviews(MUTATE_POD, move |body| {
        assert!(!contains(body, CRASH), "as asked");
        review::answer(body, &snapshot, &ambient())
    });
    let of_router = limits.clone();
    let build = move |counts, shutdown| {
        let metrics = Arc::new(Metrics::new(counts, || Some(0)));
        router(Webhook { routes: vec![pods], limits: of_router, metrics, shutdown })
    };
    support::start_with(build, limits, Duration::from_secs(5)).await
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

// === reviews ===

fn pod(app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "labels": {"app": app}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/web:7"}]},
    })
}

fn review(version: &str, object: &Value) -> Value {
    json!({
        "apiVersion": version, "kind": "AdmissionReview",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "shop",
            "object": object,
        },
    })
}

/// The review of a pod that the proxy goes into, changed by `change`.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut review = review(V1, &pod("web"));
    change(&mut review);
    review.to_string()
}

/// The answer as `kube` reads it, and its version.
///
/// `kube` takes the patch as an array of bytes, while the API, which the API server speaks, writes it in base64.
fn as_kube_reads(answer: &Answer) -> Result<(String, AdmissionResponse)> {
    let mut value = json_of(answer)?;
    if let Some(patch) = support::review::patch(&value["response"]) {
        value["response"]["patch"] = json!(serde_json::to_vec(&patch)?);
    }
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(value)?;
    assert_eq!(review.types.kind, "AdmissionReview");
    Ok((review.types.api_version, review.response.context("a response")?))
}

fn json_of(answer: &Answer) -> Result<Value> {
    assert_eq!(answer.headers["content-type"], "application/json");
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn post(connection: &mut Connection, content_type: Option<&str>, body: impl Into<Bytes>) -> Result<Answer> {
    ask(connection, Method::POST, MUTATE_POD, content_type, body).await
}

async fn ask(
    connection: &mut Connection,
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    connection.ready().await?;
    timeout(PATIENCE, connection.begin(request.body(Full::new(body.into()))?)).await?
}

// === good reviews ===

#[rstest]
#[case::v1(V1)]
#[case::v1beta1(V1BETA1)]
#[tokio::test]
async fn a_review_is_answered_in_its_own_version_with_its_uid_and_a_patch(#[case] version: &str) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let object = pod("web");
        let answer = server.connect(http).await?.post(MUTATE_POD, review(version, &object).to_string()).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let (answered, response) = as_kube_reads(&answer)?;
        assert_eq!((answered.as_str(), response.uid.as_str(), response.allowed), (version, UID, true));
        assert!(response.patch.is_some());
        let value = json_of(&answer)?;
        assert_eq!(value["response"]["patchType"], "JSONPatch");
        assert_eq!(value["response"]["status"]["code"], 200, "RSP-2");
        let after = support::review::apply(&object, &value["response"]);
        assert_eq!(after["spec"]["containers"][0]["name"], "proxy");
        assert_eq!(after["spec"]["containers"][1], object["spec"]["containers"][0]);
    }
    Ok(())
}

#[rstest]
#[case::v1(V1)]
#[case::v1beta1(V1BETA1)]
#[tokio::test]
async fn a_pod_that_stays_as_it_is_has_neither_patch_nor_patch_type_rsp_4(#[case] version: &str) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let body = review(version, &pod("other")).to_string();
        let answer = server.connect(http).await?.post(MUTATE_POD, body).await?;
        let (answered, response) = as_kube_reads(&answer)?;
        assert_eq!((answered.as_str(), response.uid.as_str(), response.allowed), (version, UID, true));
        let value = json_of(&answer)?;
        assert_eq!((value["response"].get("patch"), value["response"].get("patchType")), (None, None));
    }
    Ok(())
}

#[tokio::test]
async fn requests_on_one_connection_do_not_mix_their_uids() -> Result<()> {
    let server = start().await?;
    let mut connection = server.connect(Http::Two).await?;
    let mut answers = Vec::new();
    for index in 0..50 {
        let uid = format!("uid-{index}");
        let body = changed(|review| {
            review["request"]["uid"] = json!(uid);
            review["request"]["object"]["metadata"]["labels"]["app"] = json!(["web", "other", "greedy"][index % 3]);
        });
        connection.ready().await?;
        answers.push((uid, index % 3, connection.send(MUTATE_POD, body.into())?));
    }
    for (uid, kind, answer) in answers {
        let response = json_of(&timeout(PATIENCE, answer).await??)?["response"].clone();
        assert_eq!(response["uid"], json!(uid));
        assert_eq!((response["allowed"] == true, response["patch"].is_string()), (kind != 2, kind == 0));
    }
    Ok(())
}

#[rstest]
#[case::update("operation", json!("UPDATE"))]
#[case::delete("operation", json!("DELETE"))]
#[case::connect("operation", json!("CONNECT"))]
#[case::subresource("subResource", json!("ephemeralcontainers"))]
#[tokio::test]
async fn a_request_that_creates_no_pod_is_let_through_match_1_upd_4(
    #[case] member: &str,
    #[case] value: Value,
) -> Result<()> {
    let server = start().await?;
    let mut connection = server.connect(Http::Two).await?;
    let body = changed(|review| review["request"][member] = value.clone());
    let answer = connection.post(MUTATE_POD, body).await?;
    let (_, response) = as_kube_reads(&answer)?;
    assert_eq!((response.uid.as_str(), response.allowed, response.patch), (UID, true, None));
    // What is deleted has no object, and what is connected to is no pod.
    let body = changed(|review| {
        review["request"][member] = value;
        review["request"]["object"] = Value::Null;
    });
    let (_, response) = as_kube_reads(&connection.post(MUTATE_POD, body).await?)?;
    assert!(response.allowed);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_a_rule_refuses_gets_code_500_and_a_message_res_4() -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let answer = server.connect(http).await?.post(MUTATE_POD, review(V1, &pod("greedy")).to_string()).await?;
        assert_eq!(answer.status, StatusCode::OK, "a refusal is an answer");
        let (_, response) = as_kube_reads(&answer)?;
        assert_eq!((response.uid.as_str(), response.allowed, response.patch), (UID, false, None));
        assert_eq!((response.result.code, response.result.reason.as_str()), (500, ""), "RSP-2");
        let message = response.result.message;
        assert!(["greedy", "^nobody$"].iter().all(|word| message.contains(word)), "{message}");
    }
    Ok(())
}

// === media types, methods, paths ===

#[rstest]
#[case::plain("application/json")]
#[case::with_charset("application/json; charset=utf-8")]
#[case::without_space("application/json;charset=UTF-8")]
#[case::in_capitals("Application/JSON")]
#[tokio::test]
async fn json_is_taken_under_any_spelling_of_its_name(#[case] content_type: &str) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        let answer = post(&mut connection, Some(content_type), review(V1, &pod("web")).to_string()).await?;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(as_kube_reads(&answer)?.1.patch.is_some());
    }
    Ok(())
}

#[rstest]
#[case::none(None)]
#[case::empty(Some(""))]
#[case::protobuf(Some("application/vnd.kubernetes.protobuf"))]
#[case::text(Some("text/plain"))]
#[case::only_begins_alike(Some("application/json-patch+json"))]
#[tokio::test]
async fn another_media_type_is_refused_and_the_answer_carries_the_uid(
    #[case] content_type: Option<&str>,
) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        let answer = post(&mut connection, content_type, review(V1BETA1, &pod("web")).to_string()).await?;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let (version, response) = as_kube_reads(&answer)?;
        assert_eq!((version.as_str(), response.uid.as_str(), response.allowed), (V1BETA1, UID, false));
        assert!(response.result.message.contains("application/json"));
    }
    Ok(())
}

#[tokio::test]
async fn other_methods_are_told_to_use_post() -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let answer = ask(&mut connection, method, MUTATE_POD, None, "").await?;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers["allow"], "POST");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_path_is_not_found() -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        for path in ["/", "/mutate-pods", "/mutate-pod/", "/mutate-pod/x", "/validate-pod", "/%00", "/../etc/passwd"] {
            let answer = ask(&mut connection, Method::POST, path, Some("application/json"), "{}").await?;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        }
        // A query does not make it another path: an API server may be configured to send one.
        let body = review(V1, &pod("web")).to_string();
        let answer = connection.post("/mutate-pod?timeout=3s", body).await?;
        assert_eq!(answer.status, StatusCode::OK);
    }
    Ok(())
}

// === broken reviews (RSP-1) ===

fn bytes(body: impl Into<Vec<u8>>) -> Vec<u8> {
    body.into()
}

#[rstest]
#[case::empty(bytes(""), "not an AdmissionReview")]
#[case::not_json(bytes("kind: AdmissionReview"), "not an AdmissionReview")]
#[case::truncated(bytes(&changed(|_| ())[..200]), "not an AdmissionReview")]
#[case::two_documents(bytes("{} {}"), "not an AdmissionReview")]
#[case::not_an_object(bytes("[1, 2]"), "expected an object")]
#[case::members_without_names(bytes(format!("[{V1:?},\"AdmissionReview\",{{\"uid\":\"x\"}}]")), "expected an object")]
#[case::null(bytes("null"), "not an AdmissionReview")]
#[case::not_utf_8(bytes(*b"{\"kind\":\"\xff\xfe\"}"), "UTF-8")]
#[case::empty_object(bytes("{}"), "apiVersion")]
#[case::no_request(bytes(changed(|review| review["request"] = Value::Null)), "no request")]
#[case::no_uid(bytes(changed(|review| review["request"]["uid"] = Value::Null)), "no uid")]
#[case::empty_uid(bytes(changed(|review| review["request"]["uid"] = json!(""))), "no uid")]
#[case::uid_is_a_number(bytes(changed(|review| review["request"]["uid"] = json!(7))), "not an AdmissionReview")]
#[tokio::test]
async fn a_body_without_a_uid_is_a_bad_request(#[case] body: Vec<u8>, #[case] why: &str) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        let answer = connection.post(MUTATE_POD, body.clone()).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let (_, response) = as_kube_reads(&answer)?;
        assert_eq!((response.uid.as_str(), response.allowed, response.result.code), ("", false, 400));
        assert!(response.result.message.contains(why), "{:?}", response.result.message);
        // The connection is as good as before.
        connection.ready().await?;
        assert_eq!(connection.post(MUTATE_POD, changed(|_| ())).await?.status, StatusCode::OK);
    }
    Ok(())
}

#[rstest]
#[case::no_version(changed(|review| review["apiVersion"] = Value::Null), "apiVersion")]
#[case::wrong_version(changed(|review| review["apiVersion"] = json!("admission.k8s.io/v2")), "admission.k8s.io/v2")]
#[case::version_of_another_group(changed(|review| review["apiVersion"] = json!("v1")), "apiVersion")]
#[case::wrong_kind(changed(|review| review["kind"] = json!("ConversionReview")), "ConversionReview")]
#[case::no_kind(changed(|review| review["kind"] = Value::Null), "kind")]
#[case::another_resource(changed(|review| review["request"]["resource"]["resource"] = json!("nodes")), "nodes")]
#[case::pods_of_another_group(changed(|review| review["request"]["resource"]["group"] = json!("x.io")), "pods.x.io")]
#[case::another_kind(changed(|review| review["request"]["kind"] = json!({"group": "apps", "kind": "Deployment"})), "Deployment.apps")]
#[case::unknown_operation(changed(|review| review["request"]["operation"] = json!("PATCH")), "PATCH")]
#[case::no_operation(changed(|review| review["request"]["operation"] = Value::Null), "operation")]
#[case::null_object(changed(|review| review["request"]["object"] = Value::Null), "no object")]
#[case::no_object(changed(|review| { review["request"].as_object_mut().unwrap().remove("object"); }), "no object")]
#[case::object_is_text(changed(|review| review["request"]["object"] = json!("pod")), "not an AdmissionReview")]
#[case::labels_are_no_strings(changed(|review| review["request"]["object"]["metadata"]["labels"] = json!({"app": 1})), "a string")]
#[case::labels_are_a_list(changed(|review| review["request"]["object"]["metadata"]["labels"] = json!(["app"])), "expected an object")]
#[case::metadata_is_a_number(changed(|review| review["request"]["object"]["metadata"] = json!(1)), "not an AdmissionReview")]
#[case::request_is_a_list(changed(|review| review["request"]["resource"] = json!(["", "pods"])), "expected an object")]
#[case::object_is_a_list(changed(|review| review["request"]["object"] = json!([{}, {}])), "expected an object")]
#[case::spec_is_a_list(changed(|review| review["request"]["object"]["spec"] = json!([])), "spec")]
#[case::containers_are_an_object(changed(|review| review["request"]["object"]["spec"]["containers"] = json!({})), "spec")]
#[case::name_is_a_number(changed(|review| review["request"]["object"]["spec"]["containers"][0]["name"] = json!(1)), "spec")]
#[case::annotations_are_a_list(changed(|review| review["request"]["object"]["metadata"]["annotations"] = json!([])), "annotations")]
#[tokio::test]
async fn a_review_that_makes_no_sense_is_refused_with_its_uid_and_why(
    #[case] body: String,
    #[case] why: &str,
) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let answer = server.connect(http).await?.post(MUTATE_POD, body.clone()).await?;
        assert_eq!(answer.status, StatusCode::OK, "the API server reads an answer only under 200");
        let (version, response) = as_kube_reads(&answer)?;
        assert_eq!((version.as_str(), response.uid.as_str(), response.allowed), (V1, UID, false));
        assert_eq!(response.result.code, 400, "RSP-1");
        assert!(response.result.message.contains(why), "{:?}", response.result.message);
    }
    Ok(())
}

#[rstest]
#[case::arrays("[".repeat(100_000))]
#[case::objects("{\"a\":".repeat(100_000))]
#[case::closed("[".repeat(100_000) + &"]".repeat(100_000))]
#[case::below_the_pod(changed(|_| ()).replace("\"web-0\"", &("[".repeat(100_000) + &"]".repeat(100_000))))]
#[case::below_the_spec(changed(|_| ()).replace("\"registry.example/web:7\"", &("[".repeat(100_000) + &"]".repeat(100_000))))]
#[case::below_what_nobody_reads(changed(|_| ()).replace("\"kind\":\"Pod\",", &format!("\"kind\":\"Pod\",\"x\":{}{},", "[".repeat(100_000), "]".repeat(100_000))))]
#[tokio::test]
async fn json_that_is_nested_deeply_is_answered(#[case] body: String) -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        let answer = connection.post(MUTATE_POD, body.clone()).await?;
        assert_eq!(json_of(&answer)?["kind"], "AdmissionReview");
        connection.ready().await?;
        assert_eq!(connection.post(MUTATE_POD, changed(|_| ())).await?.status, StatusCode::OK);
    }
    Ok(())
}

// === size ===

#[tokio::test]
async fn a_body_of_one_mebibyte_is_admitted() -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut object = pod("web");
        object["spec"]["containers"][0]["env"] = json!([{"name": "BIG", "value": "x".repeat(1 << 20)}]);
        let answer = server.connect(http).await?.post(MUTATE_POD, review(V1, &object).to_string()).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let after = support::review::apply(&object, &json_of(&answer)?["response"]);
        assert_eq!(after["spec"]["containers"][1], object["spec"]["containers"][0]);
        assert!(answer.body.len() < 16 << 10, "only what changes is sent");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_twenty_mebibytes_is_refused_before_it_is_sent() -> Result<()> {
    let server = start().await?;
    let mut stream = server.client()?.stream(server.addr, Http::One).await?;
    let head = format!(
        "POST {MUTATE_POD} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        20 << 20
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&[b' '; 1024]).await?;
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 413");

    let mut connection = server.connect(Http::Two).await?;
    let began = Instant::now();
    let answer = connection.post(MUTATE_POD, vec![b' '; 20 << 20]).await?;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(began.elapsed() < Duration::from_secs(2));
    connection.ready().await?;
    assert_eq!(connection.post(MUTATE_POD, changed(|_| ())).await?.status, StatusCode::OK);
    Ok(())
}

// === a crash (WH-10) ===

#[tokio::test]
async fn a_crash_costs_one_request_and_not_its_connection_wh_10() -> Result<()> {
    let server = start().await?;
    for version in [V1, V1BETA1] {
        let mut connection = server.connect(Http::Two).await?;
        let mut answers = Vec::new();
        for crashes in [false, true, false, true, false] {
            let mut object = pod("web");
            if crashes {
                object["metadata"]["name"] = json!(CRASH);
            }
            connection.ready().await?;
            answers.push((crashes, connection.send(MUTATE_POD, review(version, &object).to_string().into())?));
        }
        for (crashes, answer) in answers {
            let answer = timeout(PATIENCE, answer).await??;
            assert_eq!(answer.status, StatusCode::OK);
            let (answered, response) = as_kube_reads(&answer)?;
            assert_eq!((answered.as_str(), response.uid.as_str(), response.allowed), (version, UID, !crashes));
            if crashes {
                assert_eq!((response.result.code, response.patch), (500, None));
            }
        }
        assert!(!connection.is_closed());
        let after = connection.post(MUTATE_POD, changed(|_| ())).await?;
        assert!(as_kube_reads(&after)?.1.patch.is_some());
    }
    let metrics = text(&server.connect(Http::Two).await?.get("/metrics").await?);
    assert!(
        metrics.contains("outrigger_admission_requests_total{path=\"/mutate-pod\",outcome=\"crashed\"} 4\n"),
        "{metrics}"
    );
    Ok(())
}

// === health and metrics ===

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn health_and_readiness_are_told() -> Result<()> {
    let server = start().await?;
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        for path in ["/healthz", "/readyz"] {
            connection.ready().await?;
            let answer = connection.get(path).await?;
            assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok\n"[..]));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_shuts_down_is_healthy_but_not_ready() -> Result<()> {
    let server = start().await?;
    // A request on each, so that they linger for one more when the drain begins.
    let mut connections = Vec::new();
    for path in ["/readyz", "/healthz"] {
        let mut connection = server.connect(Http::One).await?;
        assert_eq!(connection.get(path).await?.status, StatusCode::OK);
        connection.ready().await?;
        connections.push((connection, path));
    }
    server.shutdown.cancel();
    for (mut connection, path) in connections {
        let expected = if path == "/readyz" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        assert_eq!(connection.get(path).await?.status, expected);
    }
    Ok(())
}

/// The value of a sample, zero when there is none.
fn sample(metrics: &str, name: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn metrics_are_named_after_us_and_count_every_outcome() -> Result<()> {
    let server = start().await?;
    let mut connection = server.connect(Http::Two).await?;
    let before = connection.get("/metrics").await?;
    assert!(before.headers["content-type"].to_str()?.starts_with("application/openmetrics-text"));
    let before = text(&before);
    for line in before.lines() {
        let name = line.strip_prefix("# ").and_then(|comment| comment.split(' ').nth(1)).unwrap_or(line);
        assert!(name.starts_with("outrigger_") || line == "# EOF", "{line}");
    }
    assert!(before.ends_with("# EOF\n"));

    let mut sent = 0;
    for (outcome, times, body) in [
        ("patched", 3, review(V1, &pod("web")).to_string()),
        ("unchanged", 2, review(V1, &pod("other")).to_string()),
        ("refused", 2, review(V1, &pod("greedy")).to_string()),
        ("malformed", 1, changed(|review| review["request"]["operation"] = json!("X"))),
        ("anonymous", 4, "{}".to_owned()),
        ("crashed", 1, review(V1, &pod(CRASH)).to_string()),
    ] {
        for _ in 0..times {
            connection.ready().await?;
            connection.post(MUTATE_POD, body.clone()).await?;
            sent += 1;
        }
        let name = format!("outrigger_admission_requests_total{{path=\"/mutate-pod\",outcome=\"{outcome}\"}}");
        connection.ready().await?;
        let after = text(&connection.get("/metrics").await?);
        let moved = sample(&after, &name) - sample(&before, &name);
        assert!((moved - f64::from(times)).abs() < f64::EPSILON, "{outcome} moved by {moved}");
    }
    let after = text(&connection.get("/metrics").await?);
    let timed = sample(&after, "outrigger_admission_duration_seconds_count{path=\"/mutate-pod\"}");
    assert!((timed - f64::from(sent)).abs() < f64::EPSILON, "{timed} of {sent} were timed");
    server.connect(Http::One).await?;
    let later = text(&connection.get("/metrics").await?);
    let accepted = "outrigger_connections_accepted_total";
    assert!(sample(&later, accepted) > sample(&before, accepted));
    Ok(())
}

// === anything at all ===

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(snapshot);

/// Sets and reviews of some reference cases.
static GOLDEN: LazyLock<Vec<(Snapshot, Vec<Value>)>> = LazyLock::new(|| {
    let read = |number: usize| -> Option<(Snapshot, Vec<Value>)> {
        let file = format!("{}/tests/golden/001-{number:04}.json", env!("CARGO_MANIFEST_DIR"));
        let case: Value = serde_json::from_slice(&std::fs::read(file).ok()?).unwrap();
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        for set in case["sidecarSets"].as_array()? {
            objects.apply_sidecarset(set["sent"].clone());
        }
        let review = |pod: &Value| {
            let mut request = pod["request"].clone();
            request["uid"] = json!(UID);
            json!({"apiVersion": V1, "kind": "AdmissionReview", "request": request})
        };
        Some((objects.snapshot().unwrap(), case["pods"].as_array()?.iter().map(review).collect()))
    };
    let cases: Vec<_> = (0..40).filter_map(read).collect();
    assert!(cases.len() > 20, "reference cases are there");
    cases
});

/// What any body at all is answered with.
fn is_an_answer(body: &[u8], answer: &review::Answer) {
    let value: Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
    assert_eq!(value["kind"], "AdmissionReview");
    let response = &value["response"];
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let uid = request["request"]["uid"].as_str();
    assert!(uid.is_none_or(|uid| response["uid"] == uid));
    assert_eq!(response["patch"].is_string(), response["patchType"].is_string());
    match answer.outcome {
        Outcome::Patched => assert!(response["allowed"] == true && response["patch"].is_string()),
        Outcome::Unchanged => assert!(response["allowed"] == true && response["patch"].is_null()),
        Outcome::Refused | Outcome::Malformed | Outcome::Anonymous | Outcome::Crashed => {
            assert_eq!(response["allowed"], false);
            assert!(response["status"]["message"].as_str().is_some_and(|message| !message.is_empty()));
            assert!(response["status"]["code"].as_u64().is_some_and(|code| code >= 400));
        }
    }
    if answer.outcome == Outcome::Patched {
        support::review::apply(&request["request"]["object"], response);
    }
}

/// Puts `value` in place of the `target`th node of a document, in depth-first order.
fn put(document: &mut Value, target: &mut usize, value: &Value) -> bool {
    if *target == 0 {
        *document = value.clone();
        return true;
    }
    *target -= 1;
    match document {
        Value::Object(members) => members.values_mut().any(|member| put(member, target, value)),
        Value::Array(items) => items.iter_mut().any(|item| put(item, target, value)),
        _ => false,
    }
}

fn count(document: &Value) -> usize {
    1 + match document {
        Value::Object(members) => members.values().map(count).sum(),
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        _ => 0,
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!("")),
        Just(json!("\u{0}\"\\\u{2028}é😀")),
        Just(json!(-1)),
        Just(json!(1.5e300)),
        Just(json!(true)),
        Just(json!([null])),
        Just(json!([{}])),
        Just(json!({"name": "app"})),
        Just(json!([{"name": "app"}, {"name": "app"}])),
        Just(json!({"a": {"b": [1, "x"]}})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        is_an_answer(&body, &review::answer(&body, &SNAPSHOT, &ambient()));
    }

    #[test]
    fn a_review_with_broken_bytes_is_answered(
        case in any::<proptest::sample::Index>(),
        pod in any::<proptest::sample::Index>(),
        breaks in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let (snapshot, reviews) = case.get(&GOLDEN);
        let mut body = pod.get(reviews).to_string().into_bytes();
        for (place, byte, how) in breaks {
            let at = place.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => { body.remove(at); }
                2 => body.insert(at, byte),
                _ => body.truncate(at.max(1)),
            }
            if body.is_empty() {
                break;
            }
        }
        let answer = review::answer(&body, snapshot, &ambient());
        serde_json::from_str::<Value>(&answer.body).expect("an answer is JSON");
    }

    #[test]
    fn a_review_with_odd_members_is_answered_and_every_patch_fits(
        case in any::<proptest::sample::Index>(),
        pod in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), odd_value()), 1..4),
    ) {
        let (snapshot, reviews) = case.get(&GOLDEN);
        let mut review = pod.get(reviews).clone();
        for (place, value) in changes {
            let mut target = place.index(count(&review));
            put(&mut review, &mut target, &value);
        }
        let body = review.to_string().into_bytes();
        is_an_answer(&body, &review::answer(&body, snapshot, &ambient()));
    }
}

#[tokio::test]
async fn a_stream_of_broken_bodies_leaves_the_server_standing() -> Result<()> {
    use proptest::strategy::ValueTree as _;
    let server = start().await?;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let good = review(V1, &pod("web")).to_string().into_bytes();
    let breaks = proptest::collection::vec((0..good.len(), any::<u8>()), 1..8);
    for http in BOTH {
        let mut connection = server.connect(http).await?;
        for _ in 0..100 {
            let mut body = good.clone();
            for (at, byte) in breaks.new_tree(&mut runner).unwrap().current() {
                body[at] = byte;
            }
            connection.ready().await?;
            let answer = connection.post(MUTATE_POD, body).await?;
            assert!([StatusCode::OK, StatusCode::BAD_REQUEST].contains(&answer.status));
            assert_eq!(json_of(&answer)?["kind"], "AdmissionReview");
        }
        connection.ready().await?;
        let answer = connection.post(MUTATE_POD, good.clone()).await?;
        assert!(as_kube_reads(&answer)?.1.patch.is_some());
    }
    Ok(())
}
