//! Laws of the conversion between versions, the reference's own objects, and `/convert` on the wire (CONV).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use outrigger::admission::server::Limits;
use outrigger::admission::{Route, Webhook, convert as webhook, router};
use outrigger::api::json::decode;
use outrigger::api::names;
use outrigger::api::sidecarset::{SidecarSet, v1alpha1};
use outrigger::convert::convert;
use outrigger::crds::CONVERT;
use outrigger::telemetry::Metrics;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use support::Http;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

fn converted(object: &Value, desired: &str) -> Value {
    let mut object = object.clone();
    convert(&mut object, desired).unwrap();
    object
}

/// There and back.
fn returned(object: &Value, by: &str) -> Value {
    converted(&converted(object, by), object["apiVersion"].as_str().unwrap())
}

// === objects ===

/// An object of the members that are there.
fn object(members: Vec<(&str, Option<Value>)>) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<String, Value>>())
}

fn text() -> impl Strategy<Value = Value> {
    select(vec!["a", "v1", "prod", "<b>&", "é"]).prop_map(Value::from)
}

/// Labels or annotations; never empty, as the API server leaves an empty map out.
fn map(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    btree_map(select(keys), text(), 1..3).prop_map(|entries| json!(entries))
}

fn selector() -> impl Strategy<Value = Value> {
    map(&["env", "tier"]).prop_map(|labels| json!({ "matchLabels": labels }))
}

/// A SidecarSet without what the versions say differently.
fn sidecarset(version: &'static str) -> impl Strategy<Value = Value> {
    let metadata = (of(map(&["app", "team"])), of(map(&["note", names::CANARY, names::HASH])));
    let spec = (of(selector()), of(selector()), of(vec(text(), 0..3)), of(text()), of(any::<bool>()));
    let status = of((0..9_i32, of(text())));
    (metadata, spec, status).prop_map(
        move |((labels, annotations), (selector, namespaces, args, new, paused), status)| {
            let container = |args| json!({"name": "x", "args": args, "fromTheFuture": {"deep": [1, null]}});
            let status = status.map(|(matched, condition)| {
                json!({"matchedPods": matched, "updatedPods": 0, "readyPods": 0,
                "conditions": condition.map(|text| json!([{"type": text}]))})
            });
            object(vec![
                ("apiVersion", Some(version.into())),
                ("kind", Some("SidecarSet".into())),
                (
                    "metadata",
                    Some(object(vec![
                        ("name", Some("set".into())),
                        ("uid", Some("u".into())),
                        ("labels", labels),
                        ("annotations", annotations),
                    ])),
                ),
                (
                    "spec",
                    Some(object(vec![
                        ("selector", selector),
                        ("namespaceSelector", namespaces),
                        ("containers", args.map(|args| json!([container(args)]))),
                        ("newMember", new),
                        ("updateStrategy", paused.map(|paused| json!({ "paused": paused }))),
                    ])),
                ),
                ("status", status),
            ])
        },
    )
}

fn with(mut object: Value, pointer: [&str; 2], key: &str, value: Option<Value>) -> Value {
    if let Some(value) = value {
        let [outer, inner] = pointer;
        let parent = if inner.is_empty() { &mut object[outer] } else { &mut object[outer][inner] };
        parent[key] = value;
    }
    object
}

fn snapshot() -> impl Strategy<Value = Value> {
    let one = (text(), any::<bool>(), 0..9_i32, of(Just("containerd://c")));
    let one = one.prop_map(|(name, ready, restarts, id)| {
        let id = id.map(Value::from);
        let [ready, restarts] = [ready.into(), restarts.into()];
        object(vec![
            ("name", Some(name)),
            ("ready", Some(ready)),
            ("restartCount", Some(restarts)),
            ("containerID", id),
        ])
    });
    vec(one, 0..3).prop_map(Value::from)
}

fn time() -> impl Strategy<Value = String> {
    (0..4_000_000_000_i64).prop_map(|second| jiff::Timestamp::from_second(second).unwrap().to_string())
}

fn grace(since: &str) -> Value {
    json!([{
        "type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace", "lastTransitionTime": since,
        "message": "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain",
    }])
}

/// A request as the reference's v1beta1 writers leave it.
fn recreate() -> impl Strategy<Value = Value> {
    (of(map(&["note", "team"])), of(snapshot()), of(time()), text()).prop_map(|(annotations, snapshot, since, new)| {
        json!({
            "apiVersion": names::V1BETA1, "kind": "ContainerRecreateRequest",
            "metadata": object(vec![("name", Some("r".into())), ("annotations", annotations)]),
            "spec": {"podName": "web", "containers": [{"name": "app", "newMember": new}]},
            "status": object(vec![
                ("phase", Some("Recreating".into())),
                ("containerStatusSnapshot", snapshot),
                ("conditions", since.map(|since| grace(&since))),
            ]),
        })
    })
}

// === laws ===

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_v1beta1_sidecarset_comes_back_as_it_was_conv_ss_7(
        set in sidecarset(names::V1BETA1),
        version in of(select(vec!["v1", "2026-03"])),
    ) {
        let set = with(set, ["spec", ""], "customVersion", version.map(Value::from));
        prop_assert_eq!(returned(&set, names::V1ALPHA1), set);
    }

    #[test]
    fn a_v1alpha1_sidecarset_comes_back_with_its_namespace_as_a_selector_conv_ss_7(
        set in sidecarset(names::V1ALPHA1),
        namespace in of(select(vec!["prod", "shop"])),
        version in of(select(vec!["v1", "2026-03"])),
    ) {
        let set = with(set, ["metadata", "labels"], names::CUSTOM_VERSION, version.map(Value::from));
        let sent = with(set.clone(), ["spec", ""], "namespace", namespace.map(Value::from));
        let moved = namespace.map(|name| json!({"matchLabels": {names::NAMESPACE_NAME: name}}));
        prop_assert_eq!(returned(&sent, names::V1BETA1), with(set, ["spec", ""], "namespaceSelector", moved));
    }

    #[test]
    fn a_v1beta1_recreate_request_comes_back_as_it_was_conv_crr_7(request in recreate()) {
        let older = converted(&request, names::V1ALPHA1);
        prop_assert_eq!(&older["status"], &json!({"phase": "Recreating"}));
        prop_assert_eq!(converted(&older, names::V1BETA1), request);
    }

    #[test]
    fn a_v1alpha1_recreate_request_comes_back_as_it_was_conv_crr_7(
        request in recreate(),
        unreadable in of(select(vec!["", "{", "soon", "null"])),
    ) {
        let older = converted(&request, names::V1ALPHA1);
        let older = with(older, ["metadata", "annotations"], names::SYNC_STATUSES, unreadable.map(Value::from));
        prop_assert_eq!(returned(&older, names::V1BETA1), older);
    }

    /// Admission reads v1alpha1 through types, to tell what is wrong with a member. Both ways mean the same.
    #[test]
    fn the_typed_way_and_this_one_mean_the_same(
        set in sidecarset(names::V1ALPHA1),
        namespace in of(select(vec!["", "prod"])),
        version in of(select(vec!["", "v1"])),
    ) {
        let set = with(set, ["metadata", "labels"], names::CUSTOM_VERSION, version.map(Value::from));
        let set = with(set, ["spec", ""], "namespace", namespace.map(Value::from));
        let (typed, _) = decode::<v1alpha1::SidecarSet>(&set).unwrap();
        let typed = SidecarSet::from(typed);
        let (newer, _) = decode::<SidecarSet>(&converted(&set, names::V1BETA1)).unwrap();
        prop_assert_eq!(&newer, &typed);
        let (older, _) = decode::<v1alpha1::SidecarSet>(&converted(&converted(&set, names::V1BETA1), names::V1ALPHA1)).unwrap();
        prop_assert_eq!(older, v1alpha1::SidecarSet::from(typed));
    }

    #[test]
    fn of_metadata_only_labels_and_annotations_change_conv_1(set in sidecarset(names::V1ALPHA1), request in recreate()) {
        for (object, desired) in [(&set, names::V1BETA1), (&request, names::V1ALPHA1)] {
            let rest = |object: &Value| {
                let mut metadata = object["metadata"].clone();
                metadata.as_object_mut().unwrap().retain(|member, _| member != "labels" && member != "annotations");
                metadata
            };
            prop_assert_eq!(rest(&converted(object, desired)), rest(object));
        }
    }
}

// === the reference's objects ===

#[test]
fn what_the_reference_converted_is_converted_alike_conv_ss() {
    let mut count = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let case: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for set in case["sidecarSets"].as_array().unwrap().iter().filter(|set| set["accepted"] == json!(true)) {
            let newer = converted(&set["sent"], names::V1BETA1);
            // The other members are defaulted in `stored`; these four are those that conversion is about.
            for pointer in ["/metadata/labels", "/spec/namespaceSelector", "/spec/namespace", "/spec/customVersion"] {
                assert_eq!(newer.pointer(pointer), set["stored"].pointer(pointer), "{}: {pointer}", file.display());
            }
            assert_eq!(returned(&set["stored"], names::V1ALPHA1), set["stored"], "{}", file.display());
            count += 1;
        }
    }
    assert!(count >= 150, "{count} SidecarSets were looked at");
}

// === on the wire ===

#[tokio::test]
async fn the_webhook_converts_on_either_protocol_and_survives_garbage_and_crashes() -> Result<()> {
    let limits = Limits { body_bytes: 64 * 1024, ..Limits::default() };
    let of_router = limits.clone();
    let build = move |counts, shutdown| {
        let plain = webhook::route();
        let admit = move |body: &[u8]| {
            assert!(!body.windows(9).any(|window| window == b"crash-now"), "as asked");
            webhook::answer(body)
        };
        let routes = vec![Route { fail: plain.fail, ..Route::of_reviews(CONVERT, admit) }];
        router(Webhook { routes, limits: of_router, metrics: Arc::new(Metrics::new(counts, || Some(0))), shutdown })
    };
    let server = support::start_with(build, limits, Duration::from_secs(5)).await?;
    let review = |name: &str| {
        let set = json!({"apiVersion": names::V1ALPHA1, "kind": "SidecarSet", "metadata": {"name": name}, "spec": {"namespace": "a"}});
        let request = json!({"uid": "u-1", "desiredAPIVersion": names::V1BETA1, "objects": [set]});
        json!({"apiVersion": webhook::V1, "kind": "ConversionReview", "request": request}).to_string()
    };
    for http in support::BOTH {
        let mut connection = server.connect(http).await?;
        for (body, status, result) in [
            (review("set"), 200, "Success"),
            (review("crash-now"), 200, "Failure"),
            ("garbage".to_owned(), 400, "Failure"),
            (review("set"), 200, "Success"),
        ] {
            let answer = connection.post(CONVERT, body).await?;
            let body: Value = serde_json::from_slice(&answer.body)?;
            assert_eq!((answer.status.as_u16(), &body["response"]["result"]["status"]), (status, &json!(result)));
            if status == 200 {
                assert_eq!(body["response"]["uid"], "u-1");
            }
        }
    }
    let mut connection = server.connect(Http::Two).await?;
    assert_eq!(connection.post(CONVERT, vec![b' '; 9 * 64 * 1024]).await?.status, 413);
    Ok(())
}
