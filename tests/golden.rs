//! The reference cases: what OpenKruise 1.9-alpha did with random SidecarSets and pods on a real API server.
//!
//! Each file of `tests/golden` holds SidecarSets (`sent`, and `stored` or refused) and admission requests with the pod
//! that came out. Compared as `tests/golden/README.md` says. Deliberate differences are listed in [`DIFFERENCES`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use outrigger::admission::pod::Ambient;
use outrigger::admission::review;
use outrigger::api::names;
use outrigger::gates::Gates;
use outrigger::store::Objects;
use serde_json::{Value, json};
use support::review::{apply, post};

/// Cases where we differ on purpose: file, and the BETTER rule it follows from. None is needed today: every BETTER rule
/// that is carried out is about input that these cases do not hold, and stricter rules whose column does not say
/// "compatible" warn instead of refusing (ORD-6, VOL-3, SSV-21).
const DIFFERENCES: [(&str, &str); 0] = [];

const WHITE_LIST: &str = r#"{"rules":[{"allowedAnnotationKeyExprs":["^(note|a/b|merge)$"]}]}"#;

fn cases() -> Vec<(String, Value)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let read = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
    };
    let cases: Vec<(String, Value)> = files.into_iter().map(read).collect();
    assert_eq!(cases.len(), 150, "all reference cases are here");
    cases
}

/// Runs `check` on every case and reports all that fail.
fn each_case(check: impl Fn(&Value) -> Result<(), String>) {
    let mut failures = Vec::new();
    for (name, case) in cases() {
        if DIFFERENCES.iter().any(|(different, _)| *different == name) {
            continue;
        }
        if let Err(why) = check(&case) {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

/// The operator's ConfigMap and the namespaces of a case.
fn surroundings(case: &Value) -> Objects {
    // The reference has no such gate, and refuses what it allows (SSV-10).
    let gates = Gates { in_place_native_sidecar: false, ..Gates::default() };
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE).with_gates(gates);
    let data = json!({ names::PATCH_WHITE_LIST: WHITE_LIST });
    objects.apply_config_map(&json!({"metadata": {"name": names::CONFIGURATION}, "data": data})).unwrap();
    for pod in case["pods"].as_array().unwrap() {
        let metadata = json!({"name": pod["namespace"], "labels": pod["namespaceLabels"]});
        objects.apply_namespace(&json!({ "metadata": metadata })).unwrap();
    }
    objects
}

fn with_sets(case: &Value) -> Objects {
    let mut objects = surroundings(case);
    for set in case["sidecarSets"].as_array().unwrap() {
        objects.apply_sidecarset(set["sent"].clone());
    }
    objects
}

#[test]
fn the_same_sidecarsets_are_refused() {
    each_case(|case| {
        let mut objects = surroundings(case);
        for set in case["sidecarSets"].as_array().unwrap() {
            let findings = objects.apply_sidecarset(set["sent"].clone());
            let accepted = findings.errors.is_empty();
            if json!(accepted) != set["accepted"] {
                let name = &set["sent"]["metadata"]["name"];
                return Err(format!(
                    "{name}: accepted {accepted}, errors {:?}, reference {}",
                    findings.errors, set["message"]
                ));
            }
        }
        Ok(())
    });
}

#[test]
fn sidecarsets_are_stored_in_the_same_form() {
    each_case(|case| {
        let objects = with_sets(case);
        for set in case["sidecarSets"].as_array().unwrap().iter().filter(|set| set["accepted"] == json!(true)) {
            let name = &set["sent"]["metadata"]["name"];
            let stored = objects.sidecarsets().find(|stored| json!(stored.set.metadata.name) == *name);
            let mut ours = stored.ok_or(format!("{name} was not stored"))?.to_value();
            // The API server counts generations, and the reference's status is not part of the cases.
            ours["metadata"]["generation"] = json!(1);
            difference(&ours, &set["stored"], &name.to_string())?;
        }
        Ok(())
    });
}

#[test]
fn pods_come_out_the_same() {
    each_case(|case| {
        let snapshot = with_sets(case).snapshot().unwrap();
        for (index, pod) in case["pods"].as_array().unwrap().iter().enumerate() {
            let review = review::V1;
            let answer =
                post(&snapshot, &json!({"apiVersion": review, "kind": "AdmissionReview", "request": pod["request"]}));
            let response = &answer["response"];
            if response["allowed"] != pod["allowed"] {
                return Err(format!("pod {index}: allowed {}, {response}", response["allowed"]));
            }
            if pod["allowed"] == json!(false) {
                difference(&response["status"]["code"], &pod["code"], &format!("code of pod {index}"))?;
                continue;
            }
            let ours = apply(&pod["request"]["object"], response);
            same_pod(ours, pod["pod"].clone()).map_err(|why| format!("pod {index}: {why}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_second_admission_changes_nothing() {
    each_case(|case| {
        let snapshot = with_sets(case).snapshot().unwrap();
        for (index, pod) in case["pods"].as_array().unwrap().iter().enumerate() {
            let own: Vec<&str> = pod["request"]["object"]["spec"]["containers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|container| container["name"].as_str().unwrap())
                .collect();
            // A container of the pod that a sidecar overwrites (ORD-6) is a source of shared mounts only the first time.
            if own.iter().any(|name| snapshot.sidecarsets().any(|set| set.current.own_names.contains(*name))) {
                continue;
            }
            let request = |object: &Value, ambient: &Ambient| {
                let mut request = pod["request"].clone();
                request["object"] = object.clone();
                let review = json!({"apiVersion": review::V1, "kind": "AdmissionReview", "request": request});
                let answer = review::answer(review.to_string().as_bytes(), &snapshot, ambient);
                serde_json::from_str::<Value>(&answer.body).unwrap()
            };
            let first = request(
                &pod["request"]["object"],
                &Ambient { now: "2026-01-01T00:00:00Z".parse().unwrap(), random: 7 },
            );
            if first["response"]["allowed"] == json!(false) {
                continue;
            }
            let once = apply(&pod["request"]["object"], &first["response"]);
            let second = request(&once, &Ambient { now: "2027-02-02T00:00:00Z".parse().unwrap(), random: 8 });
            let twice = apply(&once, &second["response"]);
            if second["response"]["patch"] != Value::Null {
                difference(&twice, &once, &format!("pod {index}"))?;
                return Err(format!("pod {index}: a patch that changes nothing"));
            }
        }
        Ok(())
    });
}

/// Compares two pods, leaving aside what may differ without being wrong.
fn same_pod(mut ours: Value, mut theirs: Value) -> Result<(), String> {
    for pod in [&mut ours, &mut theirs] {
        normalize(pod);
    }
    for list in ["initContainers", "containers"] {
        same_containers(&ours["spec"][list], &theirs["spec"][list], list)?;
        for pod in [&mut ours, &mut theirs] {
            pod["spec"].as_object_mut().unwrap().remove(list);
        }
    }
    for list in ["volumes", "imagePullSecrets"] {
        for pod in [&mut ours, &mut theirs] {
            sort_by_name(&mut pod["spec"][list]);
        }
    }
    difference(&ours, &theirs, "pod")
}

/// A generated name becomes `NAME`, JSON inside annotations becomes JSON, and times become one time.
fn normalize(pod: &mut Value) {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if !name.is_empty() {
        let prefix = pod["metadata"]["generateName"].as_str().unwrap();
        let suffix = name.strip_prefix(prefix).expect("a generated name begins with its prefix");
        assert!(suffix.len() == 5 && suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)), "{name}");
        *pod = serde_json::from_str(&pod.to_string().replace(&name, "NAME")).unwrap();
    }
    let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() else { return };
    for key in [names::HASH, names::HASH_WITHOUT_IMAGE] {
        let Some(text) = annotations.get(key).and_then(Value::as_str) else { continue };
        let mut records: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
        for record in records.values_mut() {
            let time = record["updateTimestamp"].as_str().unwrap();
            assert!(time.len() == 20 && time.ends_with('Z'), "{time} is RFC 3339 with whole seconds");
            record["updateTimestamp"] = json!("TIME");
        }
        annotations.insert(key.to_owned(), json!(records));
    }
    if let Some(text) = annotations.get(names::WORKING_CONTAINER).and_then(Value::as_str) {
        let working: Value = serde_json::from_str(text).unwrap();
        annotations.insert(names::WORKING_CONTAINER.to_owned(), working);
    }
}

fn sort_by_name(list: &mut Value) {
    if let Some(items) = list.as_array_mut() {
        items.sort_by_key(|item| item["name"].as_str().unwrap_or_default().to_owned());
    }
}

/// Containers must be equal by name, and in the same order within each SidecarSet and against the pod's own. With one set
/// that is equality; with several, the reference's order between sets is random.
fn same_containers(ours: &Value, theirs: &Value, list: &str) -> Result<(), String> {
    let empty = Vec::new();
    let (ours, theirs) = (ours.as_array().unwrap_or(&empty), theirs.as_array().unwrap_or(&empty));
    let name = |container: &Value| container["name"].as_str().unwrap().to_owned();
    for container in theirs {
        let same = ours.iter().find(|ours| name(ours) == name(container));
        let mut same = same.ok_or(format!("{list}: {} is missing", name(container)))?.clone();
        let mut container = container.clone();
        // With sets in another order, positions and so the barriers of `Ordered` differ.
        if several_sets(theirs) {
            for container in [&mut same, &mut container] {
                let envs = container["env"].as_array_mut();
                envs.into_iter()
                    .flatten()
                    .filter(|env| env["name"] == names::BARRIER_ENV)
                    .for_each(|env| *env = json!({}));
            }
        }
        difference(&same, &container, &format!("{list} {}", name(&container)))?;
    }
    // Sidecars of the cases are named <letter><set>-<entry>, so a set and the pod's own are told apart by the name.
    let group = |container: &Value| name(container).chars().nth(1).filter(char::is_ascii_digit);
    let groups: Vec<Option<char>> = theirs.iter().map(group).collect();
    for kept in &groups {
        let order = |containers: &[Value]| -> Vec<String> {
            let of_group = |container: &&Value| group(container) == *kept || group(container).is_none();
            containers.iter().filter(of_group).map(name).collect()
        };
        difference(&json!(order(ours)), &json!(order(theirs)), &format!("order of {list}"))?;
    }
    difference(&json!(ours.len()), &json!(theirs.len()), &format!("number of {list}"))
}

fn several_sets(containers: &[Value]) -> bool {
    let names: Vec<&str> = containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
    names.iter().any(|name| name.starts_with("s0")) && names.iter().any(|name| name.starts_with("s1"))
}

fn difference(ours: &Value, theirs: &Value, what: &str) -> Result<(), String> {
    let config = assert_json_diff::Config::new(assert_json_diff::CompareMode::Strict);
    assert_json_diff::assert_json_matches_no_panic(ours, theirs, config).map_err(|why| format!("{what}: {why}"))
}
