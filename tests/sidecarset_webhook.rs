//! SidecarSets through the router, as an API server sends them: defaulted on one path, judged on the other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use outrigger::admission::envelope::{Named, Outcome};
use outrigger::admission::pod::Ambient;
use outrigger::admission::server::Limits;
use outrigger::admission::{
    Kinds, MUTATE_POD, MUTATE_SIDECARSET, Route, Sources, VALIDATE_SIDECARSET, Webhook, review, router, routes,
    sidecarset,
};
use outrigger::api::json::decode;
use outrigger::api::names;
use outrigger::api::sidecarset::{SidecarSet, v1alpha1};
use outrigger::cluster::registration::Cover;
use outrigger::gates::Gates;
use outrigger::sidecarset::admit::Stored;
use outrigger::store::watch::Interruption;
use outrigger::store::{Objects, Snapshot};
use outrigger::telemetry::Metrics;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const UID: &str = "6a2f1c0e-3f55-4c6e-9a53-0d7a5a6f3c11";
const OURS: [&str; 2] = [MUTATE_SIDECARSET, VALIDATE_SIDECARSET];

// === the world ===

/// `mesh` is stored, with a revision; annotations that begin with `ok/` may be patched.
fn objects() -> Objects {
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
    let data = json!({names::PATCH_WHITE_LIST: r#"{"rules":[{"allowedAnnotationKeyExprs":["^ok/"]}]}"#});
    objects.apply_config_map(&json!({"metadata": {"name": names::CONFIGURATION}, "data": data})).unwrap();
    let metadata = json!({"name": "logs-1", "labels": {names::REVISION_OF: "logs"}});
    objects.apply_revision(&json!({"metadata": metadata, "revision": 1, "data": {"spec": {}}})).unwrap();
    let findings = objects.apply_sidecarset(set("v1beta1", "mesh", "proxy"));
    assert_eq!(findings.errors, []);
    objects
}

fn ambient() -> Ambient {
    Ambient { now: "2026-03-04T05:06:07Z".parse().unwrap(), random: 7 }
}

fn serve(mut routes: Vec<Route>) -> Router {
    routes.push(Route::of_reviews("/crash", |_| panic!("as asked")));
    let metrics = Arc::new(Metrics::new(Arc::default(), || None));
    router(Webhook { routes, limits: Limits::default(), metrics, shutdown: CancellationToken::default() })
}

/// A client that nobody asks.
fn nobody() -> kube::Client {
    let refuse = |_| std::future::ready(Err::<axum::http::Response<kube::client::Body>, _>("not asked"));
    kube::Client::new(tower::service_fn(refuse), "default")
}

fn app() -> Router {
    let objects = objects();
    let snapshot = Arc::new(ArcSwap::from_pointee(objects.snapshot().unwrap()));
    serve(routes(Sources {
        snapshot,
        kinds: Some(Kinds {
            cover: Cover::of_all_pods(),
            gate: tokio::sync::watch::channel(1).1,
            interruption: heard(),
            client: nobody(),
            gates: Gates::default(),
        }),
        ambient,
    }))
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn post(app: &Router, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
    let (status, body) = send(app, request).await;
    (status, serde_json::from_slice(&body).unwrap())
}

// === reviews ===

/// A set that nothing is wrong with.
fn set(version: &str, name: &str, container: &str) -> Value {
    json!({
        "apiVersion": format!("{}/{version}", names::GROUP), "kind": "SidecarSet",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": container, "image": "registry.example/x:1"}],
        },
    })
}

/// One called `logs`, changed.
fn logs(version: &str, change: &Value) -> Value {
    let mut logs = set(version, "logs", "tailer");
    json_patch::merge(&mut logs, change);
    logs
}

fn review(version: &str, operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": review::V1, "kind": "AdmissionReview",
        "request": {
            "uid": UID,
            "kind": {"group": names::GROUP, "version": version, "kind": "SidecarSet"},
            "resource": {"group": names::GROUP, "version": version, "resource": "sidecarsets"},
            "requestKind": {"group": names::GROUP, "version": "v1beta1", "kind": "SidecarSet"},
            "name": object["metadata"]["name"],
            "operation": operation,
            "userInfo": {"username": "jane"},
            "object": object,
            "oldObject": old,
        },
    })
}

fn create(version: &str, object: &Value) -> Value {
    review(version, "CREATE", object, &Value::Null)
}

/// The answer of a function to a review, which it must answer.
fn answered(answer: &review::Answer) -> Value {
    let value: Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
    assert_eq!(value["kind"], "AdmissionReview");
    assert_eq!(value["response"]["uid"], UID);
    value["response"].clone()
}

fn mutate(version: &str, object: &Value) -> Value {
    answered(&sidecarset::mutate(create(version, object).to_string().as_bytes()))
}

/// The object after defaulting.
fn defaulted(version: &str, object: &Value) -> Value {
    let response = mutate(version, object);
    assert_eq!(response["allowed"], true, "{response}");
    support::review::apply(object, &response)
}

fn validate(review: &Value, objects: &Objects) -> Value {
    answered(&sidecarset::validate(review.to_string().as_bytes(), objects))
}

fn paths(response: &Value) -> Vec<String> {
    let causes = response["status"]["details"]["causes"].as_array().cloned().unwrap_or_default();
    causes.iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
}

fn warnings(response: &Value) -> Vec<String> {
    serde_json::from_value(response["warnings"].clone()).unwrap_or_default()
}

// === defaulting ===

#[rstest]
#[case::ssd_2_type("/spec/updateStrategy/type", json!("RollingUpdate"))]
#[case::ssd_2_max_unavailable("/spec/updateStrategy/maxUnavailable", json!(1))]
#[case::ssd_2_partition("/spec/updateStrategy/partition", json!(0))]
#[case::ssd_3_history("/spec/revisionHistoryLimit", json!(10))]
#[case::ssd_3_patch_policy("/spec/patchPodMetadata/0/patchPolicy", json!("Retain"))]
#[case::ssd_3_revision_policy("/spec/injectionStrategy/revision/policy", json!("Always"))]
#[case::ssd_4_before("/spec/containers/0/podInjectPolicy", json!("BeforeAppContainer"))]
#[case::ssd_4_after("/spec/initContainers/0/podInjectPolicy", json!("AfterAppContainer"))]
#[case::ssd_4_upgrade_type("/spec/containers/0/upgradeStrategy/upgradeType", json!("ColdUpgrade"))]
#[case::ssd_4_share("/spec/containers/0/shareVolumePolicy/type", json!("disabled"))]
#[case::ssd_5_pull_policy("/spec/containers/0/imagePullPolicy", json!("IfNotPresent"))]
#[case::ssd_5_protocol("/spec/containers/0/ports/0/protocol", json!("TCP"))]
#[case::ssd_5_api_version("/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion", json!("v1"))]
#[case::ssd_5_whole_thousandths("/spec/containers/0/resources/limits/cpu", json!("1m"))]
#[case::ssd_5_period("/spec/containers/0/livenessProbe/periodSeconds", json!(10))]
#[case::ssd_5_scheme("/spec/containers/0/livenessProbe/httpGet/scheme", json!("HTTP"))]
#[case::ssd_6_success("/spec/containers/0/startupProbe/successThreshold", json!(1))]
#[case::ssd_7_empty_dir("/spec/volumes/0/emptyDir", json!({}))]
#[case::ssd_7_mode("/spec/volumes/1/secret/defaultMode", json!(420))]
#[case::ssd_9_hash_over_that_of_the_client("/metadata/annotations/kruise.io~1sidecarset-hash", Value::Null)]
fn a_default_is_patched_in_its_place_in_either_version(
    #[values("v1alpha1", "v1beta1")] version: &str,
    #[case] pointer: &str,
    #[case] expected: Value,
) {
    let object = logs(
        version,
        &json!({
            "metadata": {"annotations": {names::HASH: "mine", "a": "b"}},
            "spec": {
                "containers": [{
                    "name": "tailer", "image": "x:1", "ports": [{"containerPort": 1}],
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                    "resources": {"limits": {"cpu": "100u"}},
                    "livenessProbe": {"httpGet": {"port": 1}}, "startupProbe": {"exec": {"command": ["x"]}},
                }],
                "initContainers": [{"name": "setup", "image": "x"}],
                "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}}],
                "injectionStrategy": {"revision": {"revisionName": "logs-1"}},
                "patchPodMetadata": [{"annotations": {"ok/a": "b"}}],
            },
        }),
    );
    let after = defaulted(version, &object);
    let found = after.pointer(pointer).unwrap_or(&Value::Null);
    if expected.is_null() {
        assert_eq!(found.as_str().unwrap().len(), 64);
    } else {
        assert_eq!(found, &expected);
    }
    assert_eq!(after["metadata"]["annotations"]["a"], "b", "the others stay");
}

#[rstest]
#[case::v1alpha1("v1alpha1", json!({"namespace": "shop", "customVersion": 5}))]
#[case::v1beta1("v1beta1", json!({"customVersion": "v1"}))]
fn a_patch_holds_what_a_rule_changes_and_nothing_else_rsp_5(#[case] version: &str, #[case] own: Value) {
    let mut object = logs(
        version,
        &json!({
            "metadata": {"creationTimestamp": null, "labels": {names::CUSTOM_VERSION: "v1"}, "managedFields": [{"manager": "x"}]},
            "status": {"observedGeneration": 1},
            "spec": {"containers": [{
                "name": "tailer", "image": "x:1", "fromTheFuture": {"deep": [1]}, "resources": {"limits": {"cpu": "1.5"}},
                "upgradeStrategy": {"fromTheFuture": 1}, "command": null,
            }]},
        }),
    );
    json_patch::merge(&mut object["spec"], &own);
    let response = mutate(version, &object);
    let patch: Value = serde_json::to_value(support::review::patch(&response).unwrap()).unwrap();
    let mut done: Vec<(&str, &str)> =
        patch.as_array().unwrap().iter().map(|op| (op["op"].as_str().unwrap(), op["path"].as_str().unwrap())).collect();
    done.sort_unstable();
    assert_eq!(
        done,
        [
            ("add", "/metadata/annotations"),
            ("add", "/spec/containers/0/imagePullPolicy"),
            ("add", "/spec/containers/0/podInjectPolicy"),
            ("add", "/spec/containers/0/shareVolumePolicy"),
            ("add", "/spec/containers/0/terminationMessagePath"),
            ("add", "/spec/containers/0/terminationMessagePolicy"),
            ("add", "/spec/containers/0/upgradeStrategy/upgradeType"),
            ("add", "/spec/revisionHistoryLimit"),
            ("add", "/spec/updateStrategy"),
        ]
    );
}

#[test]
fn both_versions_have_the_same_hashes_hash_5() {
    let annotations = |version: &str| defaulted(version, &logs(version, &json!({})))["metadata"]["annotations"].clone();
    assert_eq!(annotations("v1alpha1"), annotations("v1beta1"));
    assert_eq!(annotations("v1beta1").as_object().unwrap().len(), 2);
}

// === the reference cases ===

fn cases() -> Vec<(String, Value)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    assert_eq!(files.len(), 150, "all reference cases are here");
    let read = |file: &PathBuf| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    files.iter().map(|file| (file.display().to_string(), read(file))).collect()
}

fn version_of(document: &Value) -> &str {
    document["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap()
}

/// A document as the types read it, in v1beta1; nothing is defaulted.
fn as_it_is(mut document: Value) -> Value {
    let version = version_of(&document).to_owned();
    for member in ["apiVersion", "kind"] {
        document.as_object_mut().unwrap().remove(member);
    }
    let (set, unknown) = if version == "v1alpha1" {
        let (set, unknown) = decode::<v1alpha1::SidecarSet>(&document).unwrap();
        (SidecarSet::from(set), unknown)
    } else {
        decode(&document).unwrap()
    };
    Stored { set, unknown }.to_value()
}

#[test]
fn patched_reference_cases_are_those_that_the_reference_stored() {
    for (name, case) in cases() {
        for set in case["sidecarSets"].as_array().unwrap() {
            let (sent, version) = (&set["sent"], version_of(&set["sent"]));
            let after = defaulted(version, sent);
            assert_eq!(Stored::read(after.clone()).unwrap(), Stored::read(sent.clone()).unwrap(), "{name}");
            assert_eq!(mutate(version, &after).get("patch"), None, "{name}: once is enough");
            if set["accepted"] == true {
                let mut ours = as_it_is(after);
                // The API server counts generations.
                ours["metadata"]["generation"] = json!(1);
                assert_eq!(ours, set["stored"], "{name}");
            }
        }
    }
}

#[test]
fn reference_cases_are_refused_when_the_reference_refused_them() {
    for (name, case) in cases() {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let data =
            json!({names::PATCH_WHITE_LIST: r#"{"rules":[{"allowedAnnotationKeyExprs":["^(note|a/b|merge)$"]}]}"#});
        objects.apply_config_map(&json!({"metadata": {"name": names::CONFIGURATION}, "data": data})).unwrap();
        for set in case["sidecarSets"].as_array().unwrap() {
            let version = version_of(&set["sent"]);
            let after = defaulted(version, &set["sent"]);
            let response = validate(&create(version, &after), &objects);
            assert_eq!(response["allowed"], set["accepted"], "{name}: {response}, reference: {}", set["message"]);
            assert_eq!(response["allowed"] == false, !paths(&response).is_empty(), "{name}: {response}");
            objects.apply_sidecarset(after);
        }
    }
}

// === validation ===

#[rstest]
#[case::ssv_1_name(json!({"metadata": {"name": "a.b"}}), "metadata.name")]
#[case::ssv_11_selector(json!({"spec": {"selector": null}}), "spec.selector")]
#[case::ssv_12_empty_selector(json!({"spec": {"selector": {"matchLabels": null}}}), "spec.selector")]
#[case::ssv_16_revision(
    json!({"spec": {"injectionStrategy": {"revision": {"revisionName": "logs-2"}}}}),
    "spec.injectionStrategy.revision"
)]
#[case::ssv_25_nothing_to_inject(json!({"spec": {"containers": null}}), "spec")]
#[case::ssv_30_white_list(
    json!({"spec": {"patchPodMetadata": [{"annotations": {"no/a": ""}}]}}),
    "spec.patchPodMetadata[0].annotations[no/a]"
)]
#[case::ssd_8_no_field_ref(
    json!({"spec": {"containers": [
        {"name": "x", "image": "x", "transferEnv": [{"envName": "A", "sourceContainerNameFrom": {}}]},
    ]}}),
    "spec.containers[0].transferEnv[0].sourceContainerNameFrom.fieldRef"
)]
#[case::ssc_2_container_of_another_set(
    json!({"spec": {"containers": [{"name": "proxy", "image": "x"}]}}),
    "spec.containers[0].name"
)]
#[tokio::test]
async fn what_may_not_be_stored_is_refused_with_422_and_the_path_rsp_3(
    #[values("v1alpha1", "v1beta1")] version: &str,
    #[values("CREATE", "UPDATE")] operation: &str,
    #[case] change: Value,
    #[case] path: &str,
) {
    let object = defaulted(version, &logs(version, &change));
    let (status, answer) =
        post(&app(), VALIDATE_SIDECARSET, review(version, operation, &object, &object).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!(UID), &json!(false)));
    let told = &response["status"];
    assert_eq!((&told["code"], &told["reason"]), (&json!(422), &json!("Invalid")));
    assert_eq!(told["details"]["name"], object["metadata"]["name"]);
    assert_eq!(paths(response), [path]);
    assert!(told["message"].as_str().unwrap().starts_with(&format!("{path}: ")), "{told}");
}

#[rstest]
#[case::as_it_is(json!({}))]
#[case::ssv_16_revision(json!({"spec": {"injectionStrategy": {"revision": {"revisionName": "logs-1"}}}}))]
#[case::ssv_30_white_list(json!({"spec": {"patchPodMetadata": [{"annotations": {"ok/a": ""}}]}}))]
#[case::ssv_1_generated_name(json!({"metadata": {"name": null, "generateName": "logs-"}}))]
fn what_may_be_stored_is_admitted_without_a_patch(
    #[values("v1alpha1", "v1beta1")] version: &str,
    #[case] change: Value,
) {
    let response = validate(&create(version, &logs(version, &change)), &objects());
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!((response.get("patch"), response.get("warnings")), (None, None));
}

#[rstest]
#[case::ssu_1_a_container_is_new(json!({"containers": [{"name": "other", "image": "x:1"}]}), &["spec.containers[0].name"])]
#[case::ssu_2_upgrade_type(
    json!({"containers": [{"name": "tailer", "image": "registry.example/x:1",
        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "x:1"}}]}),
    &["spec.containers[0].upgradeStrategy.upgradeType"],
)]
#[case::ssu_3_image(json!({"containers": [{"name": "tailer", "image": "x:2"}]}), &[])]
fn an_update_is_judged_against_the_old_object_and_not_against_the_store_ssu(
    #[values("v1alpha1", "v1beta1")] version: &str,
    #[case] change: Value,
    #[case] expected: &[&str],
) {
    let old = logs(version, &json!({}));
    let new = logs(version, &json!({"spec": change}));
    let mut objects = objects();
    // What the store has of it is older still.
    objects.apply_sidecarset(set("v1beta1", "logs", "ancient"));
    let response = validate(&review(version, "UPDATE", &new, &old), &objects);
    assert_eq!(response["allowed"], expected.is_empty(), "{response}");
    assert_eq!(paths(&response), expected);
    // There is nothing to compare with when it is created.
    assert_eq!(validate(&create(version, &new), &objects)["allowed"], true);
}

#[test]
fn an_old_object_that_cannot_be_read_keeps_nobody_from_mending_it() {
    let old = logs("v1beta1", &json!({"spec": {"containers": 7}}));
    let response = validate(&review("v1beta1", "UPDATE", &logs("v1beta1", &json!({})), &old), &objects());
    assert_eq!(response["allowed"], true, "{response}");
}

#[rstest]
#[case::finalizers_go(json!({}), true)]
#[case::the_spec_changes_too(json!({"spec": {"revisionHistoryLimit": 3}}), false)]
fn what_is_being_deleted_is_not_held_back_by_what_is_wrong_with_it(#[case] change: Value, #[case] allowed: bool) {
    let wrong = json!({
        "metadata": {"deletionTimestamp": "2026-03-04T05:06:07Z", "finalizers": ["a/b"]},
        "spec": {"selector": null},
    });
    let old = logs("v1beta1", &wrong);
    let mut new = old.clone();
    json_patch::merge(&mut new, &json!({"metadata": {"finalizers": null}}));
    json_patch::merge(&mut new, &change);
    let response = validate(&review("v1beta1", "UPDATE", &new, &old), &objects());
    assert_eq!(response["allowed"], allowed, "{response}");
}

#[test]
fn the_version_is_that_of_the_resource_whatever_the_object_says_wh_7() {
    // customVersion means something in v1beta1 only.
    let object = logs("v1beta1", &json!({"spec": {"customVersion": "no label"}}));
    assert_eq!(paths(&validate(&create("v1beta1", &object), &objects())), ["spec.customVersion"]);
    let response = validate(&create("v1alpha1", &object), &objects());
    assert_eq!(response["allowed"], true, "{response}");
    assert!(warnings(&response)[0].contains("has no effect in v1alpha1"), "{response}");
}

#[test]
fn what_is_legal_and_surprising_is_warned_of() {
    let old = logs("v1beta1", &json!({}));
    let selector =
        json!({"matchLabels": null, "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]});
    let new = logs(
        "v1beta1",
        &json!({"spec": {
            "selector": selector,
            "containers": [{"name": "tailer", "image": "registry.example/x:2", "args": ["-v"]}],
        }}),
    );
    let response = validate(&review("v1beta1", "UPDATE", &new, &old), &objects());
    assert_eq!(response["allowed"], true, "{response}");
    let warnings = warnings(&response);
    for words in [
        "spec.selector: only excludes pods, so it selects every other pod of all namespaces",
        "spec.containers[0].args: is changed, but only an image can be changed in a running pod",
        "spec.selector: is changed for new pods only",
    ] {
        assert!(warnings.iter().any(|warning| warning.starts_with(words)), "{words} is in {warnings:#?}");
    }
}

#[test]
fn warnings_and_messages_are_bounded() {
    let unknown: serde_json::Map<_, _> = (0..40).map(|n| (format!("x{n}{}", "x".repeat(300)), json!(1))).collect();
    let response = validate(&create("v1beta1", &logs("v1beta1", &json!({"spec": unknown}))), &objects());
    let warnings = warnings(&response);
    assert_eq!((response["allowed"].as_bool(), warnings.len()), (Some(true), 16));
    assert!(warnings.iter().all(|warning| warning.len() <= 256));
    assert_eq!(warnings[15], "and 25 more warnings");

    let containers: Vec<Value> = (0..2000).map(|_| json!({"name": "A".repeat(200), "image": ""})).collect();
    let response =
        validate(&create("v1beta1", &logs("v1beta1", &json!({"spec": {"containers": containers}}))), &objects());
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.len() < 4096 && message.lines().last().unwrap().starts_with("and "), "{message}");
    assert!(response.to_string().len() < 16 << 10);
}

// === what is none of ours ===

#[rstest]
#[case::delete("operation", json!("DELETE"))]
#[case::connect("operation", json!("CONNECT"))]
#[case::status("subResource", json!("status"))]
#[tokio::test]
async fn other_requests_are_let_through_untouched_ssd_1(#[case] member: &str, #[case] value: Value) {
    for path in OURS {
        for object in [logs("v1beta1", &json!({"spec": {"selector": null}})), Value::Null] {
            let mut review = create("v1beta1", &object);
            review["request"][member] = value.clone();
            let (status, answer) = post(&app(), path, review.to_string()).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!(UID), &json!(true)));
            assert_eq!(answer["response"].get("patch"), None);
        }
    }
}

#[rstest]
#[case::another_resource("resource", json!({"group": "", "version": "v1", "resource": "pods"}), "pods")]
#[case::another_group("resource", json!({"group": "x.io", "version": "v1beta1", "resource": "sidecarsets"}), "sidecarsets.x.io")]
#[case::another_kind("kind", json!({"group": names::GROUP, "version": "v1beta1", "kind": "ImagePullJob"}), "ImagePullJob")]
#[case::ssd_1_another_version("resource", json!({"group": names::GROUP, "version": "v1", "resource": "sidecarsets"}), "apps.kruise.io/v1\\\" is not served")]
#[case::no_version("resource", Value::Null, "is not served")]
#[case::no_object("object", Value::Null, "no object")]
#[case::object_is_a_list("object", json!([]), "expected an object")]
#[case::wrong_member("object", json!({"spec": {"containers": [{"args": [1]}]}}), "spec.containers[0].args[0]: invalid type")]
#[case::unknown_operation("operation", json!("PATCH"), "PATCH")]
#[tokio::test]
async fn what_cannot_be_read_is_refused_with_400_its_uid_and_why_rsp_1(
    #[case] member: &str,
    #[case] value: Value,
    #[case] why: &str,
) {
    for path in OURS {
        for version in [review::V1, review::V1BETA1] {
            let mut review = create("v1beta1", &logs("v1beta1", &json!({})));
            review["apiVersion"] = json!(version);
            review["request"][member] = value.clone();
            let (status, answer) = post(&app(), path, review.to_string()).await;
            assert_eq!((status, &answer["apiVersion"]), (StatusCode::OK, &json!(version)));
            let response = &answer["response"];
            assert_eq!((&response["uid"], &response["allowed"]), (&json!(UID), &json!(false)));
            assert_eq!(response["status"]["code"], 400);
            assert!(response["status"].to_string().contains(why), "{response}");
        }
    }
}

#[rstest]
#[case::not_json("{\"apiVersion\"")]
#[case::nothing("")]
#[case::no_request("{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}")]
#[tokio::test]
async fn a_body_without_a_uid_is_a_bad_request(#[case] body: &'static str) {
    for path in OURS {
        let (status, answer) = post(&app(), path, body).await;
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::BAD_REQUEST, &json!(false)));
    }
}

// === paths ===

#[tokio::test]
async fn every_path_of_the_table_takes_post_with_json_only() {
    let app = app();
    for path in [MUTATE_POD, MUTATE_SIDECARSET, VALIDATE_SIDECARSET] {
        let (status, _) = send(&app, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        let body = create("v1beta1", &logs("v1beta1", &json!({}))).to_string();
        let (status, body) = send(&app, Request::post(path).body(body.into()).unwrap()).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!(UID), &json!(false)));
    }
    let (status, body) = send(&app, Request::post("/x").body(Body::empty()).unwrap()).await;
    let body = String::from_utf8(body).unwrap();
    assert!(status == StatusCode::NOT_FOUND && body.contains(VALIDATE_SIDECARSET), "{body}");
}

#[tokio::test]
async fn without_a_cluster_nobody_asks_about_sidecarsets() {
    let snapshot = Arc::new(ArcSwap::from_pointee(objects().snapshot().unwrap()));
    let app = serve(routes(Sources { snapshot, kinds: None, ambient }));
    for path in OURS {
        let (status, _) = send(&app, Request::post(path).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn requests_are_counted_by_path_and_outcome() {
    let app = app();
    let good = logs("v1beta1", &json!({}));
    let bad = logs("v1beta1", &json!({"spec": {"selector": null}}));
    post(&app, MUTATE_SIDECARSET, create("v1beta1", &good).to_string()).await;
    post(&app, VALIDATE_SIDECARSET, create("v1beta1", &good).to_string()).await;
    post(&app, VALIDATE_SIDECARSET, create("v1beta1", &bad).to_string()).await;
    post(&app, "/crash", "{}").await;
    let (_, metrics) = send(&app, Request::get("/metrics").body(Body::empty()).unwrap()).await;
    let metrics = String::from_utf8(metrics).unwrap();
    for (path, outcome, count) in [
        (MUTATE_SIDECARSET, "patched", 1),
        (MUTATE_SIDECARSET, "unchanged", 0),
        (VALIDATE_SIDECARSET, "unchanged", 1),
        (VALIDATE_SIDECARSET, "refused", 1),
        ("/crash", "crashed", 1),
        (MUTATE_POD, "patched", 0),
    ] {
        let line = format!("outrigger_admission_requests_total{{path=\"{path}\",outcome=\"{outcome}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} is in {metrics}");
    }
}

// === log lines ===

/// What is logged meanwhile, as JSON lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn subscribe(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_max_level(level).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_log_line_names_the_request_and_not_who_sent_it() {
    let app = app();
    let pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": []}});
    let mut of_pod = create("v1", &pod);
    of_pod["request"]["resource"] = json!({"group": "", "version": "v1", "resource": "pods"});
    of_pod["request"]["kind"] = json!({"group": "", "version": "v1", "kind": "Pod"});
    of_pod["request"]["namespace"] = json!("shop");
    let bad = logs("v1beta1", &json!({"spec": {"selector": null}}));
    let ask = async || {
        post(&app, MUTATE_POD, of_pod.to_string()).await;
        post(&app, VALIDATE_SIDECARSET, review("v1beta1", "UPDATE", &bad, &bad).to_string()).await;
        post(&app, "/crash", create("v1beta1", &bad).to_string()).await;
    };
    // A line that another test, without a subscriber, is just the first to reach is not heard of: so it is reached before.
    ask().await;
    let log = Log::default();
    let _guard = log.subscribe(tracing::Level::DEBUG);
    ask().await;

    let lines = log.lines();
    let seen: Vec<Value> = lines
        .iter()
        .map(|line| {
            let of = &line["fields"];
            json!([line["level"], of["path"], of["uid"], of["operation"], of["namespace"], of["name"], of["outcome"]])
        })
        .collect();
    assert_eq!(
        seen,
        [
            json!(["DEBUG", MUTATE_POD, UID, "CREATE", "shop", "web-*", "unchanged"]),
            json!(["INFO", VALIDATE_SIDECARSET, UID, "UPDATE", "", "logs", "refused"]),
            json!(["ERROR", "/crash", UID, "CREATE", "", "logs", "crashed"]),
        ]
    );
    assert!(lines[1]["fields"]["error"].as_str().unwrap().starts_with("spec.selector: "));
    assert_eq!(lines[2]["fields"]["error"], "as asked");
    assert!(!json!(lines).to_string().contains("jane"));
}

#[tokio::test]
async fn what_is_admitted_is_not_logged_at_info() {
    let log = Log::default();
    let _guard = log.subscribe(tracing::Level::INFO);
    post(&app(), MUTATE_SIDECARSET, create("v1beta1", &logs("v1beta1", &json!({}))).to_string()).await;
    assert_eq!(log.lines(), Vec::<Value>::new());
}

#[rstest]
#[case::cut_short(
    "{\"request\":{\"uid\":\"u\",\"operation\":\"CREATE\",\"object\":{\"metadata\":{\"name\":\"n\",",
    "n"
)]
#[case::odd_members(
    "{\"request\":{\"uid\":\"u\",\"operation\":\"CREATE\",\"name\":{},\"namespace\":[],\"object\":7}}",
    ""
)]
#[case::long(
    "{\"request\":{\"uid\":\"u\",\"operation\":\"CREATE\",\"name\":null,\"object\":{\"metadata\":{\"generateName\":\"g-\"}}}}",
    "g-*"
)]
fn a_broken_request_is_named_as_far_as_it_can_be(#[case] body: &str, #[case] name: &str) {
    let named = Named::of(body.as_bytes());
    assert_eq!((&*named.uid, &*named.operation, &*named.name), ("u", "CREATE", name));
}

// === anything at all ===

static OBJECTS: LazyLock<Objects> = LazyLock::new(objects);

/// Reviews of the sets of the reference cases.
static REVIEWS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let of_case = |(_, case): (String, Value)| {
        let sets = case["sidecarSets"].as_array().unwrap().clone();
        sets.into_iter().map(|set| review(version_of(&set["sent"]), "UPDATE", &set["sent"], &set["sent"]))
    };
    cases().into_iter().flat_map(of_case).collect()
});

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
        Just(json!(["HotUpgrade", "x:1"])),
        Just(json!({"name": "proxy"})),
        Just(json!({"a": {"b": [1, "x"]}})),
    ]
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

/// What any body at all is answered with; the patch, if there is one, does what defaulting does, and once.
fn is_an_answer(body: &[u8], answer: &review::Answer) {
    let value: Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let (response, request) = (&value["response"], &request["request"]);
    assert!(request["uid"].as_str().is_none_or(|uid| response["uid"] == uid));
    let is_allowed = matches!(answer.outcome, Outcome::Unchanged | Outcome::Patched);
    assert_eq!(response["allowed"], is_allowed);
    if !is_allowed {
        assert!(response["status"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    // A wrong escape where nobody reads is overlooked by ours, and makes the whole unreadable for the library.
    if answer.outcome == Outcome::Patched && !request.is_null() {
        let mut object = request["object"].clone();
        object["apiVersion"] = format!("{}/{}", names::GROUP, request["resource"]["version"].as_str().unwrap()).into();
        let after = support::review::apply(&object, response);
        assert_eq!(Stored::read(after.clone()).unwrap(), Stored::read(object).unwrap());
        let mut again: Value = serde_json::from_slice(body).unwrap();
        again["request"]["object"] = after;
        assert_eq!(sidecarset::mutate(again.to_string().as_bytes()).outcome, Outcome::Unchanged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        is_an_answer(&body, &sidecarset::mutate(&body));
        is_an_answer(&body, &sidecarset::validate(&body, &OBJECTS));
        Named::of(&body);
    }

    #[test]
    fn a_review_with_broken_bytes_is_answered(
        review in any::<proptest::sample::Index>(),
        breaks in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let mut body = review.get(&REVIEWS).to_string().into_bytes();
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
        is_an_answer(&body, &sidecarset::mutate(&body));
        is_an_answer(&body, &sidecarset::validate(&body, &OBJECTS));
        Named::of(&body);
    }

    #[test]
    fn a_review_with_odd_members_is_answered_and_every_patch_fits(
        review in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), odd_value()), 1..4),
    ) {
        let mut review = review.get(&REVIEWS).clone();
        for (place, value) in changes {
            let mut target = place.index(count(&review));
            put(&mut review, &mut target, &value);
        }
        let body = review.to_string().into_bytes();
        is_an_answer(&body, &sidecarset::mutate(&body));
        is_an_answer(&body, &sidecarset::validate(&body, &OBJECTS));
        Named::of(&body);
    }
}

// === pods in namespaces that are too new ===

fn pod_in(namespace: &str) -> Value {
    json!({
        "apiVersion": review::V1, "kind": "AdmissionReview",
        "request": {
            "uid": UID, "operation": "CREATE", "namespace": namespace,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": {
                "metadata": {"name": "web-0", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

/// The watch for SidecarSets is up.
fn heard() -> tokio::sync::watch::Receiver<Interruption> {
    tokio::sync::watch::channel(Interruption::default()).1
}

/// With a set for the namespaces of a team.
fn for_a_team() -> Objects {
    let mut objects = Objects::in_cluster(names::DEFAULT_NAMESPACE);
    let mut mesh = set("v1beta1", "mesh", "proxy");
    mesh["spec"]["namespaceSelector"] = json!({"matchLabels": {"team": "a"}});
    assert_eq!(objects.apply_sidecarset(mesh).errors, []);
    objects
}

#[tokio::test]
async fn a_pod_waits_until_its_namespace_is_known_match_5() {
    let mut objects = for_a_team();
    let snapshot = Arc::new(ArcSwap::from_pointee(objects.snapshot().unwrap()));
    let (published, gate) = tokio::sync::watch::channel(1);
    let kinds = Some(Kinds {
        cover: Cover::of_all_pods(),
        gate,
        interruption: heard(),
        client: nobody(),
        gates: Gates::default(),
    });
    let app = serve(routes(Sources { snapshot: Arc::clone(&snapshot), kinds, ambient }));
    let asked = tokio::spawn({
        let app = app.clone();
        async move { post(&app, MUTATE_POD, pod_in("new").to_string()).await }
    });
    tokio::task::yield_now().await;
    objects.apply_namespace(&json!({"metadata": {"name": "new", "labels": {"team": "a"}}})).unwrap();
    snapshot.store(Arc::new(objects.snapshot().unwrap()));
    published.send_modify(|count| *count += 1);
    let (_, answer) = asked.await.unwrap();
    assert_eq!(answer["response"]["patchType"], "JSONPatch", "{answer}");
}

#[tokio::test]
async fn a_pod_whose_namespace_stays_unknown_is_refused_rather_than_missed_match_5() {
    let snapshot = Arc::new(ArcSwap::from_pointee(for_a_team().snapshot().unwrap()));
    let (_published, gate) = tokio::sync::watch::channel(1);
    let kinds = Some(Kinds {
        cover: Cover::of_all_pods(),
        gate,
        interruption: heard(),
        client: nobody(),
        gates: Gates::default(),
    });
    let app = serve(routes(Sources { snapshot, kinds, ambient }));
    let (_, answer) = post(&app, MUTATE_POD, pod_in("new").to_string()).await;
    assert_eq!(answer["response"]["status"]["code"], 503, "{answer}");
}

/// Asks about a pod while the watch has been interrupted for so long; then `change` happens.
async fn asked_during_an_interruption(age: Duration, change: impl FnOnce(&ArcSwap<Snapshot>, &Heard)) -> Value {
    let snapshot = Arc::new(ArcSwap::from_pointee(Objects::in_cluster(names::DEFAULT_NAMESPACE).snapshot().unwrap()));
    let (_published, gate) = tokio::sync::watch::channel(1);
    let interruption = Interruption { since: Some(tokio::time::Instant::now() - age), known: None };
    let (heard, interruption) = tokio::sync::watch::channel(interruption);
    let kinds =
        Some(Kinds { cover: Cover::of_all_pods(), gate, interruption, client: nobody(), gates: Gates::default() });
    let app = serve(routes(Sources { snapshot: Arc::clone(&snapshot), kinds, ambient }));
    let asked = tokio::spawn(async move { post(&app, MUTATE_POD, pod_in("new").to_string()).await });
    tokio::task::yield_now().await;
    change(&snapshot, &heard);
    asked.await.unwrap().1
}

type Heard = tokio::sync::watch::Sender<Interruption>;

fn a_set_appears(snapshot: &ArcSwap<Snapshot>, heard: &Heard) {
    let mut objects = for_a_team();
    objects.apply_namespace(&json!({"metadata": {"name": "new", "labels": {"team": "a"}}})).unwrap();
    snapshot.store(Arc::new(objects.snapshot().unwrap()));
    heard.send_modify(|interruption| interruption.since = None);
}

/// A list that was asked for just now; the watch after it is not up yet.
fn a_set_is_listed(snapshot: &ArcSwap<Snapshot>, heard: &Heard) {
    a_set_appears(snapshot, &tokio::sync::watch::channel(Interruption::default()).0);
    heard.send_modify(|interruption| interruption.known = Some(tokio::time::Instant::now()));
}

#[tokio::test]
async fn a_pod_waits_while_the_watch_for_sidecarsets_is_interrupted() {
    let answer = asked_during_an_interruption(Duration::ZERO, a_set_appears).await;
    assert_eq!(answer["response"]["patchType"], "JSONPatch", "{answer}");
}

#[tokio::test]
async fn a_pod_waits_no_longer_than_for_a_list_that_was_asked_for_after_it_came() {
    let answer = asked_during_an_interruption(Duration::from_secs(1), a_set_is_listed).await;
    assert_eq!(answer["response"]["patchType"], "JSONPatch", "{answer}");
}

#[tokio::test]
async fn a_list_from_before_the_pod_came_is_not_enough() {
    let early = |snapshot: &ArcSwap<Snapshot>, heard: &Heard| {
        let before = tokio::time::Instant::now() - Duration::from_millis(200);
        heard.send_modify(|interruption| interruption.known = Some(before));
        a_set_appears(snapshot, heard);
    };
    let answer = asked_during_an_interruption(Duration::from_secs(1), early).await;
    assert_eq!(answer["response"]["patchType"], "JSONPatch", "{answer}");
}

#[tokio::test]
async fn a_pod_is_answered_at_once_by_the_last_state_when_the_api_server_stays_away() {
    let began = tokio::time::Instant::now();
    let answer = asked_during_an_interruption(Duration::from_secs(6), |_, _| {}).await;
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(1), "it does not wait");
}
