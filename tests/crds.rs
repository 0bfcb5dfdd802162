//! The CustomResourceDefinitions: up to date in `manifests/crds`, structural, and open to every object that the reference
//! takes. What a real API server says to them is tested with the cluster.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use outrigger::api::names;
use outrigger::crds::{self, Definition};
use outrigger::manifest;
use rstest::rstest;
use serde_json::{Map, Value, json};

/// kubectl keeps the whole object in an annotation, of which there may be 256 KiB.
const SIZE_LIMIT: usize = 128 << 10;

const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

fn definition(kind: &str) -> Definition {
    let mut all = crds::all(names::DEFAULT_NAMESPACE).into_iter();
    all.find(|definition| definition.object["spec"]["names"]["kind"] == kind).unwrap()
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

// === the files ===

#[test]
fn the_files_are_those_of_the_types() {
    let directory = root("manifests/crds");
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        let file = directory.join(definition.file_name());
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(text == definition.to_yaml().unwrap(), "{} is stale; run `make crds`", file.display());
        let read = manifest::parse(&text, &file).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].value, definition.object, "the YAML says what the object says");
        assert!(text.len() < SIZE_LIMIT, "{} has {} bytes", file.display(), text.len());
    }
    let list = std::fs::read_to_string(directory.join("kustomization.yaml")).unwrap();
    let listed: BTreeSet<String> =
        list.lines().filter_map(|line| line.strip_prefix("  - ").map(str::to_owned)).collect();
    let made: BTreeSet<String> = crds::all(names::DEFAULT_NAMESPACE).iter().map(crds::Definition::file_name).collect();
    assert_eq!(listed, made, "the kustomization lists them all, and nothing else");
    let files = std::fs::read_dir(&directory).unwrap().count();
    assert_eq!(files, made.len() + 1, "nothing else is in {}", directory.display());
}

#[rstest]
#[case::to_standard_output(&[])]
#[case::into_a_directory(&["--dir"])]
fn the_command_writes_the_same(#[case] flags: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("crds").args(flags).env_remove("POD_NAMESPACE");
    if !flags.is_empty() {
        command.arg(directory.path().join("made/on/the/way"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<String> =
        crds::all(names::DEFAULT_NAMESPACE).iter().map(|definition| definition.to_yaml().unwrap()).collect();
    let written = if flags.is_empty() {
        String::from_utf8(output.stdout).unwrap()
    } else {
        let read = |definition: Definition| {
            std::fs::read_to_string(directory.path().join("made/on/the/way").join(definition.file_name())).unwrap()
        };
        crds::all(names::DEFAULT_NAMESPACE).into_iter().map(read).collect()
    };
    assert_eq!(written, documents.concat());
}

// === API-1, API-4 ===

#[rstest]
#[case::sidecarset("SidecarSet", "sidecarsets", "Cluster", "Webhook", json!(null))]
#[case::recreate("ContainerRecreateRequest", "containerrecreaterequests", "Namespaced", "Webhook", json!(["crr"]))]
#[case::pull_job("ImagePullJob", "imagepulljobs", "Namespaced", "None", json!(null))]
#[case::list("ImageListPullJob", "imagelistpulljobs", "Namespaced", "None", json!(null))]
#[case::node_image("NodeImage", "nodeimages", "Cluster", "None", json!(null))]
fn names_scope_and_versions_are_those_of_the_reference_api_1(
    #[case] kind: &str,
    #[case] plural: &str,
    #[case] scope: &str,
    #[case] strategy: &str,
    #[case] short_names: Value,
) {
    let Definition { name, object } = definition(kind);
    let spec = &object["spec"];
    assert_eq!(name, format!("{plural}.apps.kruise.io"));
    assert_eq!(spec["names"]["plural"], plural);
    assert_eq!(spec["names"]["singular"], kind.to_lowercase());
    assert_eq!(spec["names"]["listKind"], format!("{kind}List"));
    assert_eq!(spec["names"].get("shortNames").unwrap_or(&Value::Null), &short_names);
    assert_eq!(spec["scope"], scope);
    assert_eq!(spec["conversion"]["strategy"], strategy);
    assert_eq!(crds::CONVERTED.contains(&name.as_str()), strategy == "Webhook");
    for (version, name) in spec["versions"].as_array().unwrap().iter().zip(VERSIONS) {
        let facts = json!([version["name"], version["served"], version["storage"], version["subresources"]]);
        assert_eq!(facts, json!([name, true, name == "v1beta1", {"status": {}}]));
        assert_eq!(version.get("deprecated"), None, "API-3");
    }
}

#[test]
fn conversion_goes_through_our_service_without_a_certificate() {
    let conversion = &crds::all("elsewhere")[0].object["spec"]["conversion"];
    let service =
        json!({"name": "outrigger-conversion-service", "namespace": "elsewhere", "port": 443, "path": "/convert"});
    assert_eq!(conversion["webhook"]["clientConfig"], json!({"service": service}));
    assert_eq!(conversion["webhook"]["conversionReviewVersions"], json!(["v1", "v1beta1"]));
}

#[rstest]
#[case::sidecarset("SidecarSet", &["MATCHED", "UPDATED", "READY", "AGE"], &[])]
#[case::recreate("ContainerRecreateRequest", &["PHASE", "POD", "NODE", "AGE"], &[])]
#[case::pull_job("ImagePullJob", &["TOTAL", "ACTIVE", "SUCCEED", "FAILED", "AGE"], &["MESSAGE"])]
#[case::list("ImageListPullJob", &["TOTAL", "SUCCEEDED", "COMPLETED", "AGE"], &[])]
#[case::node_image("NodeImage", &["DESIRED", "PULLING", "SUCCEED", "FAILED", "AGE"], &[])]
fn columns_are_those_of_the_reference_api_4(#[case] kind: &str, #[case] columns: &[&str], #[case] older: &[&str]) {
    let object = definition(kind).object;
    let of = |version: usize| -> Vec<&str> {
        let columns = object["spec"]["versions"][version]["additionalPrinterColumns"].as_array().unwrap();
        columns.iter().map(|column| column["name"].as_str().unwrap()).collect()
    };
    assert_eq!(of(0), [columns, older].concat());
    assert_eq!(of(1), columns);
}

#[test]
fn a_column_shows_a_member_that_is_there() {
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        for version in definition.object["spec"]["versions"].as_array().unwrap() {
            for column in version["additionalPrinterColumns"].as_array().unwrap() {
                let path = column["jsonPath"].as_str().unwrap();
                if path.starts_with(".metadata.") {
                    continue;
                }
                let pointer = path.replace('.', "/properties/");
                let member = version["schema"]["openAPIV3Schema"].pointer(&pointer).unwrap_or(&Value::Null);
                assert_eq!(member["type"], column["type"], "{}: {path}", definition.name);
            }
        }
    }
}

// === the schemas are structural ===

/// What a structural schema may say, as far as ours do.
const KNOWN: [&str; 18] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxLength",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

fn walk(path: &str, schema: &Value, problems: &mut Vec<String>) {
    let Some(members) = schema.as_object() else {
        problems.push(format!("{path}: is {schema}"));
        return;
    };
    let is_true = |member: &str| members.get(member) == Some(&json!(true));
    let is_free = is_true("x-kubernetes-preserve-unknown-fields") || is_true("x-kubernetes-int-or-string");
    let kind = members.get("type").and_then(Value::as_str);
    if kind.is_none() && !is_free {
        problems.push(format!("{path}: has no type"));
    }
    for name in members.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
        problems.push(format!("{path}: {name} does not belong into a structural schema"));
    }
    if members.contains_key("properties") && members.contains_key("additionalProperties") {
        problems.push(format!("{path}: has properties and additionalProperties"));
    }
    if let Some(default) = members.get("default") {
        problems.extend(wrong(path, schema, default, Unknown::IsWrong));
    }
    let properties = members.get("properties").and_then(Value::as_object);
    for required in members.get("required").and_then(Value::as_array).into_iter().flatten() {
        if properties.is_none_or(|properties| !properties.contains_key(required.as_str().unwrap())) {
            problems.push(format!("{path}: requires {required}, which it does not have"));
        }
    }
    for (name, member) in properties.into_iter().flatten() {
        let is_described = member.get("description").is_some_and(|text| text.as_str().is_some_and(|t| !t.is_empty()));
        if !is_described && name != "metadata" {
            problems.push(format!("{path}.{name}: has no description"));
        }
        walk(&format!("{path}.{name}"), member, problems);
    }
    if kind == Some("array") {
        walk(&format!("{path}[]"), members.get("items").unwrap_or(&Value::Null), problems);
    }
    if let Some(values) = members.get("additionalProperties") {
        walk(&format!("{path}{{}}"), values, problems);
    }
    if members.get("x-kubernetes-list-type") == Some(&json!("map")) {
        for key in members["x-kubernetes-list-map-keys"].as_array().unwrap() {
            let item = &members["items"];
            let is_required = item["required"].as_array().is_some_and(|required| required.contains(key));
            assert!(is_required && item["properties"][key.as_str().unwrap()]["type"] == "string", "{path}: {key}");
        }
    }
}

#[test]
fn the_schemas_are_structural_and_described() {
    let mut problems = Vec::new();
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        for version in VERSIONS {
            let schema = Value::Object(definition.schema(version).unwrap().clone());
            walk(&format!("{} {version}", definition.name), &schema, &mut problems);
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn descriptions_speak_to_users() {
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        let text = definition.object.to_string();
        for word in ["(API-", "(CONV-", "(HASH-", "(REV", "(META", "(SHR", "(VOL-", "[`", "HASH-"] {
            assert!(!text.contains(word), "{}: {word}", definition.name);
        }
    }
}

// === the schemas accept what the reference accepts ===

/// What of members that the schema does not know: the API server drops them without a word.
#[derive(Clone, Copy, PartialEq)]
enum Unknown {
    IsDropped,
    IsWrong,
}

/// What an API server would find wrong with a value, after defaulting. Only what our schemas use is carried out.
fn wrong(path: &str, schema: &Value, value: &Value, unknown: Unknown) -> Vec<String> {
    let is_true = |member: &str| schema.get(member) == Some(&json!(true));
    if is_true("x-kubernetes-int-or-string") {
        let fits = value.is_i64() || value.is_string();
        return if fits { Vec::new() } else { vec![format!("{path}: {value} is no number or text")] };
    }
    let fits = match schema["type"].as_str() {
        None => return Vec::new(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some(other) => panic!("{path}: type {other}"),
    };
    if !fits {
        return vec![format!("{path}: {value} is no {}", schema["type"])];
    }
    let mut found = Vec::new();
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        found.push(format!("{path}: {value} is none of {values:?}"));
    }
    if schema["minimum"].as_i64() > value.as_i64() && schema["minimum"].is_i64() {
        found.push(format!("{path}: {value} is too small"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(wrong(&format!("{path}[{index}]"), &schema["items"], item, unknown));
    }
    let Some(members) = value.as_object() else { return found };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(required) {
            found.push(format!("{path}.{required}: is required"));
        }
    }
    for (name, member) in members {
        let path = format!("{path}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            _ if path == ".metadata" => {}
            (Some(schema), _) | (None, Some(schema)) => found.extend(wrong(&path, schema, member, unknown)),
            (None, None) if is_true("x-kubernetes-preserve-unknown-fields") => {}
            (None, None) if unknown == Unknown::IsWrong => found.push(format!("{path}: is not known")),
            (None, None) => {}
        }
    }
    found
}

fn judged(object: &Value, unknown: Unknown) -> Vec<String> {
    let definition = definition(object["kind"].as_str().unwrap());
    let version = object["apiVersion"].as_str().unwrap().strip_prefix("apps.kruise.io/").unwrap();
    wrong("", &Value::Object(definition.schema(version).unwrap().clone()), object, unknown)
}

#[test]
fn every_sample_is_accepted_and_loses_nothing() {
    let mut count = 0;
    for entry in std::fs::read_dir(root("manifests/samples")).unwrap() {
        for document in manifest::read_file(&entry.unwrap().path()).unwrap() {
            if document.group() == names::GROUP {
                assert_eq!(judged(&document.value, Unknown::IsWrong), Vec::<String>::new(), "{}", document.origin);
                count += 1;
            }
        }
    }
    assert!(count >= 9, "{count} samples were looked at");
}

#[test]
fn what_the_reference_accepts_and_stores_is_accepted_and_loses_nothing() {
    let mut accepted = 0;
    for entry in std::fs::read_dir(root("tests/golden")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let case: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for set in case["sidecarSets"].as_array().unwrap().iter().filter(|set| set["accepted"] == json!(true)) {
            assert_eq!(judged(&set["sent"], Unknown::IsDropped), Vec::<String>::new(), "{}", file.display());
            assert_eq!(judged(&set["stored"], Unknown::IsWrong), Vec::<String>::new(), "{}", file.display());
            accepted += 1;
        }
    }
    assert!(accepted >= 150, "{accepted} SidecarSets were looked at");
}

fn object(version: &str, kind: &str, members: &Value) -> Value {
    let mut object = members.clone();
    object["apiVersion"] = format!("apps.kruise.io/{version}").into();
    object["kind"] = kind.into();
    object
}

/// CRR-5's example, a job and a node in full.
#[rstest]
#[case::recreate("ContainerRecreateRequest", json!({
    "spec": {
        "podName": "web", "activeDeadlineSeconds": 600, "ttlSecondsAfterFinished": 0,
        "containers": [{
            "name": "app", "preStop": {"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}},
            "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
            "statusContext": {"containerID": "containerd://c1", "restartCount": 4},
        }],
        "strategy": {"failurePolicy": "Fail", "terminationGracePeriodSeconds": 30, "unreadyGracePeriodSeconds": 5},
    },
    "status": {
        "phase": "Recreating", "completionTime": "2026-03-04T05:06:07Z",
        "containerRecreateStates": [{"name": "app", "phase": "Pending", "isKilled": true, "message": "m"}],
    },
}))]
#[case::pull_job("ImagePullJob", json!({
    "spec": {
        "image": "a:1", "pullSecrets": ["s"], "selector": {"names": ["n"], "matchLabels": {"a": "b"}},
        "podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "parallelism": "10",
        "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": -1}, "completionPolicy": {"type": "Always"},
        "sandboxConfig": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "imagePullPolicy": "whatever",
    },
    "status": {"desired": 3, "active": 1, "succeeded": 1, "failed": 1, "failedNodes": ["n"], "message": "m"},
}))]
#[case::list("ImageListPullJob", json!({
    "spec": {
        "images": ["a:1", "b:1"], "pullSecrets": ["s"], "selector": {"names": ["n"]}, "parallelism": "10%",
        "podSelector": {"matchLabels": {"a": "b"}}, "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3},
        "completionPolicy": {"type": "Always", "activeDeadlineSeconds": 900, "ttlSecondsAfterFinished": 0},
        "sandboxConfig": {"labels": {"a": "b"}}, "imagePullPolicy": "Always",
    },
    "status": {
        "desired": 2, "active": 1, "completed": 1, "succeeded": 0, "startTime": "2026-03-04T05:06:07Z",
        "failedImageStatuses": [{"imagePullJob": "warm-x7k2p", "name": "a:1", "message": "m"}],
    },
}))]
#[case::node_image("NodeImage", json!({
    "spec": {"images": {"registry.example/a": {
        "pullSecrets": [{"namespace": "kruise-daemon-config", "name": "s", "mode": "batch"}],
        "tags": [{
            "tag": "1", "createdAt": "2026-03-04T05:06:07Z", "version": 2, "imagePullPolicy": "Always",
            "pullPolicy": {"timeoutSeconds": 600, "backoffLimit": 3, "ttlSecondsAfterFinished": 2231},
            "ownerReferences": [{"apiVersion": "apps.kruise.io/v1beta1", "kind": "ImagePullJob", "name": "j", "uid": "u"}],
        }],
    }}},
    "status": {
        "desired": 1, "succeeded": 0, "failed": 0, "pulling": 1, "waiting": 0,
        "imageStatuses": {"registry.example/a": {"tags": [{"tag": "1", "phase": "Pulling", "progress": 7, "imageID": "i"}]}},
        "firstSyncStatus": {"syncAt": "2026-03-04T05:06:07Z", "status": "Succeeded"},
    },
}))]
fn objects_in_full_are_accepted_in_both_versions(#[case] kind: &str, #[case] members: Value) {
    for version in VERSIONS {
        assert_eq!(judged(&object(version, kind, &members), Unknown::IsWrong), Vec::<String>::new());
    }
}

#[rstest]
#[case::policy_api_22(json!({"spec": {"podName": "p", "containers": [], "strategy": {"failurePolicy": "x"}}}))]
#[case::minimum_api_20(json!({"spec": {"podName": "p", "containers": [], "activeDeadlineSeconds": -1}}))]
#[case::phase_api_23(json!({"status": {"phase": "Done"}}))]
fn v1alpha1_of_a_recreate_request_has_no_bounds(#[case] members: Value) {
    let judged = |version| judged(&object(version, "ContainerRecreateRequest", &members), Unknown::IsWrong);
    assert_eq!(judged("v1alpha1"), Vec::<String>::new());
    assert_eq!(judged("v1beta1").len(), 1);
}

#[rstest]
#[case::pod_name("ContainerRecreateRequest", json!({"spec": {"containers": []}}), ".spec.podName: is required")]
#[case::completion_policy_api_30("ImagePullJob", json!({"spec": {"image": "a"}}), ".spec.completionPolicy: is required")]
#[case::images("ImageListPullJob", json!({"spec": {"completionPolicy": {}}}), ".spec.images: is required")]
#[case::tags_api_40("NodeImage", json!({"spec": {"images": {"a": {}}}}), ".spec.images.a.tags: is required")]
#[case::revision_policy_api_13(
    "SidecarSet",
    json!({"spec": {"injectionStrategy": {"revision": {"policy": "Never"}}}}),
    ".spec.injectionStrategy.revision.policy: \"Never\" is none of [String(\"Always\"), String(\"Partial\")]"
)]
#[case::resources_mode_api_11(
    "SidecarSet",
    json!({"spec": {"containers": [{"resourcesPolicy": {"targetContainersMode": "sum"}}]}}),
    ".spec.containers[0].resourcesPolicy.resourcesExpr: is required"
)]
fn what_the_schema_asks_for_is_told(#[case] kind: &str, #[case] members: Value, #[case] expected: &str) {
    for version in VERSIONS {
        assert_eq!(judged(&object(version, kind, &members), Unknown::IsWrong), [expected]);
    }
}

#[test]
fn schema_defaults_are_those_of_the_reference_ssd_10() {
    let mut defaults = Map::new();
    collect("", &Value::Object(definition("SidecarSet").schema("v1beta1").unwrap().clone()), &mut defaults);
    let expected = json!({
        ".spec.containers[].resourcesPolicy.targetContainersNameRegex": ".*",
        ".spec.imagePullSecrets[].name": "",
        ".spec.initContainers[].resourcesPolicy.targetContainersNameRegex": ".*",
        ".spec.injectionStrategy.revision.policy": "Always",
    });
    assert_eq!(Value::Object(defaults), expected);
}

fn collect(path: &str, schema: &Value, defaults: &mut Map<String, Value>) {
    if let Some(default) = schema.get("default") {
        defaults.insert(path.to_owned(), default.clone());
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        collect(&format!("{path}.{name}"), member, defaults);
    }
    if let Some(items) = schema.get("items") {
        collect(&format!("{path}[]"), items, defaults);
    }
}

#[test]
fn the_versions_of_a_sidecarset_differ_in_two_members_api_10() {
    let definition = definition("SidecarSet");
    let [mut older, mut newer] = VERSIONS.map(|version| Value::Object(definition.schema(version).unwrap().clone()));
    let take = |schema: &mut Value, member: &str| {
        schema.pointer_mut("/properties/spec/properties").unwrap().as_object_mut().unwrap().remove(member)
    };
    assert!(take(&mut older, "namespace").is_some() && take(&mut newer, "customVersion").is_some());
    assert_eq!(older, newer, "descriptions included");
}
