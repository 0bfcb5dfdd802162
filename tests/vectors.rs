//! Worked numbers of the specification: hashes (HASH-10), names of revisions (REV-3), and the example of its § 20.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use outrigger::admission::review;
use outrigger::api::names;
use outrigger::api::sidecarset::SidecarSet;
use outrigger::sidecarset::admit::Stored;
use outrigger::sidecarset::revision::{Hashes, hashed_text, revision_data, revision_name};
use outrigger::store::Objects;
use rstest::rstest;
use serde_json::{Value, json};
use support::review::{apply, post};

/// A set as it is stored, from its spec.
fn stored(name: &str, spec: &Value) -> Stored {
    let set = json!({"apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec});
    Stored::read(set).unwrap()
}

// === hashes (HASH-10) ===

const V1: &str = r#"{"containers":[{"name":"proxy","image":"registry.example/proxy:3.1","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","podInjectPolicy":"BeforeAppContainer","upgradeStrategy":{"upgradeType":"ColdUpgrade"},"shareVolumePolicy":{"type":"disabled"}}]}"#;
const V2: &str = r#"{"containers":[{"name":"tailer","image":"registry.example/tailer","args":["-f","a\u0026b","\u003cin\u003e"],"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}],"env":[{"name":"NODE","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"spec.nodeName"}}},{"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"0"}}}],"resources":{"limits":{"cpu":"1500m","memory":"2Gi"}},"readinessProbe":{"httpGet":{"path":"/","port":"http","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always","podInjectPolicy":"AfterAppContainer","upgradeStrategy":{"upgradeType":"ColdUpgrade"},"shareVolumePolicy":{"type":"disabled"}}]}"#;
const V3: &str = r#"{"containers":null,"initContainers":[{"name":"prep","image":"registry.example/prep:1","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","podInjectPolicy":"AfterAppContainer","upgradeStrategy":{"upgradeType":"ColdUpgrade"},"shareVolumePolicy":{"type":"disabled"}},{"name":"sc","image":"registry.example/sc:1","resources":{},"restartPolicy":"Always","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","podInjectPolicy":"AfterAppContainer","upgradeStrategy":{"upgradeType":"ColdUpgrade"},"shareVolumePolicy":{"type":"disabled"}}]}"#;

fn v1() -> Value {
    json!({"containers": [{"name": "proxy", "image": "registry.example/proxy:3.1"}]})
}

fn v2() -> Value {
    json!({"containers": [{
        "name": "tailer",
        "image": "registry.example/tailer",
        "args": ["-f", "a&b", "<in>"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ],
        "resources": {"limits": {"memory": "2048Mi", "cpu": "1.5"}},
        "readinessProbe": {"httpGet": {"port": "http"}},
        "podInjectPolicy": "AfterAppContainer",
    }]})
}

fn v3() -> Value {
    json!({"initContainers": [
        {"name": "prep", "image": "registry.example/prep:1"},
        {"name": "sc", "image": "registry.example/sc:1", "restartPolicy": "Always"},
    ]})
}

fn v4() -> Value {
    let mut spec = v1();
    spec["containers"][0]["shareVolumeDevicePolicy"] = json!({"type": "enabled"});
    spec["containers"][0]["transferEnv"] = json!([{"sourceContainerName": "app", "envNames": ["A", "B"]}]);
    spec["containers"][0]["resourcesPolicy"] = json!({
        "targetContainersMode": "sum",
        "targetContainersNameRegex": ".*",
        "resourcesExpr": {"limits": {"cpu": "max(cpu*50%, 50m)"}},
    });
    spec
}

fn with_empty_containers(mut spec: Value) -> Value {
    spec["containers"] = json!([]);
    spec
}

#[rstest]
#[case::v1(&v1(), V1)]
#[case::v2(&v2(), V2)]
#[case::v3(&v3(), V3)]
#[case::v3_with_an_empty_list(&with_empty_containers(v3()), &V3.replace("null", "[]"))]
#[case::no_containers(&json!({}), r#"{"containers":null}"#)]
#[case::empty_containers(&with_empty_containers(json!({})), r#"{"containers":[]}"#)]
fn the_hashed_text_is_that_of_hash_10(#[case] spec: &Value, #[case] text: &str) {
    assert_eq!(hashed_text(&stored("x", spec).set.spec), text);
}

#[rstest]
#[case::v1(&v1(), "4vz54d6v648bw945v2d7z5992f944z7dxww44v5x46x52dw525xfd244xccw2w84")]
#[case::v2(&v2(), "4zzffx58b6vd9bz277cw9zwdb9z87f2274c74c5w8bw22vwb652f7zb97fd65784")]
#[case::v3(&v3(), "x54dx468f2f5xzdb8dx4f27vz42982xxf4897x589v594zcf9ccv45dvw4dd54c2")]
#[case::v3_with_an_empty_list(&with_empty_containers(v3()), "b96bdcz69zcd75669c9x5476fc7c8w5b5vz7b949bzx6b9969v44wccd72xz78bd")]
#[case::v4(&v4(), "76d58cxfz6b4b44vc299df5c2z8cxfc6fv774c2zw54vx6cb4wz2x4dz746zw57d")]
#[case::no_containers(&json!({}), "x5vwx9w6vv4dv72c9w4c2f6v74fbwx545b45bbfz6z2dvf8w887xw86fvcb4cf48")]
#[case::empty_containers(&with_empty_containers(json!({})), "5662x672v59974vdzvf4bdfwc4v526wx5w7884vx5c7fc2f246v484v5988xb9z7")]
fn the_hash_is_that_of_hash_10(#[case] spec: &Value, #[case] hash: &str) {
    let stored = stored("x", spec);
    assert_eq!(Hashes::of(&stored.set.spec).full, hash);
    assert_eq!(stored.set.metadata.annotations[names::HASH], hash, "SSD-9");
}

#[rstest]
#[case::v1(&v1(), "c444cx79x98wd9cwzcw9c2584b5bzf92wvvfcdb58w5dw8xbbcxw78f44zb44254")]
#[case::v2(&v2(), "8f42cc2d8f87d76c44586wbbc44879dv462fb29fx9w4xbf62f6cz264vzz469fc")]
#[case::v3(&v3(), "zc4b4wcz7bz9x76w6dfcvv9z4862479zzc5b877x9vzdvf5b67db7c52fc7w5cxw")]
fn the_hash_without_image_is_that_of_hash_10(#[case] spec: &Value, #[case] hash: &str) {
    let stored = stored("x", spec);
    assert_eq!(stored.set.metadata.annotations[names::HASH_WITHOUT_IMAGE], hash);
}

#[test]
fn plain_init_containers_count_only_beside_a_native_sidecar_hash_2() {
    let hash = |spec: &Value| Hashes::of(&stored("x", spec).set.spec).full;
    let mut plain = v1();
    plain["initContainers"] = json!([{"name": "prep", "image": "x:1"}]);
    assert_eq!(hash(&plain), hash(&v1()));
    let mut other = v3();
    other["initContainers"][0]["image"] = json!("x:2");
    assert_ne!(hash(&other), hash(&v3()));
}

#[test]
fn both_versions_have_the_same_hash_hash_5() {
    let old = json!({"apiVersion": names::V1ALPHA1, "metadata": {"name": "x"}, "spec": v2()});
    assert_eq!(Stored::read(old).unwrap().set.metadata.annotations, stored("x", &v2()).set.metadata.annotations);
}

// === names of revisions (REV-3) ===

#[rstest]
#[case::first(None, "mesh-5c7c857c5f")]
#[case::zero(Some(0), "mesh-5c7c857c5f")]
#[case::after_a_collision(Some(1), "mesh-5c7c857c5d")]
fn the_name_of_an_empty_revision_is_that_of_rev_3(#[case] collisions: Option<i32>, #[case] expected: &str) {
    let mut set = SidecarSet::default();
    set.metadata.name = "mesh".to_owned();
    set.status.collision_count = collisions;
    assert_eq!(revision_name(&set), expected);
}

#[test]
fn a_long_name_is_cut_in_the_name_of_a_revision() {
    let mut set = SidecarSet::default();
    set.metadata.name = "x".repeat(250);
    assert_eq!(revision_name(&set), format!("{}-5c7c857c5f", "x".repeat(223)));
}

#[test]
fn the_data_of_a_revision_is_that_of_rev_2() {
    let mut set = SidecarSet::default();
    set.spec.containers = serde_json::from_value(json!([{
        "name": "agent", "image": "reg.example/agent:2", "podInjectPolicy": "BeforeAppContainer",
        "upgradeStrategy": {"upgradeType": "ColdUpgrade"}, "shareVolumePolicy": {"type": "disabled"},
    }]))
    .unwrap();
    let text = concat!(
        r#"{"spec":{"$patch":"replace","containers":[{"name":"agent","image":"reg.example/agent:2","resources":{},"#,
        r#""podInjectPolicy":"BeforeAppContainer","upgradeStrategy":{"upgradeType":"ColdUpgrade"},"#,
        r#""shareVolumePolicy":{"type":"disabled"}}],"imagePullSecrets":null,"initContainers":null,"#,
        r#""patchPodMetadata":null,"volumes":null}}"#
    );
    assert_eq!(revision_data(&set.spec), serde_json::from_str::<Value>(text).unwrap());
}

// === the worked example (§ 20) ===

fn logging() -> Value {
    json!({
        "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": "logging"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{
                "name": "tailer",
                "image": "registry.example/tailer:2",
                "volumeMounts": [{"name": "spool", "mountPath": "/spool"}],
                "podInjectPolicy": "AfterAppContainer",
                "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "registry.example/tailer:empty"},
                "shareVolumePolicy": {"type": "enabled"},
                "transferEnv": [{"sourceContainerName": "app", "envName": "ZONE"}],
            }],
            "volumes": [{"name": "spool", "emptyDir": {}}, {"name": "unused", "emptyDir": {}}],
            "imagePullSecrets": [{"name": "reg"}],
        },
        "status": {"latestRevision": "logging-7d9"},
    })
}

fn mesh() -> Value {
    let mut spec = v1();
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    spec["patchPodMetadata"] = json!([{"patchPolicy": "Retain", "annotations": {"mesh.example/on": "1"}}]);
    json!({
        "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": "mesh"}, "spec": spec,
        "status": {"latestRevision": "mesh-6c7"},
    })
}

fn web_0() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "labels": {"app": "web"},
            "annotations": {"apps.kruise.io/container-launch-priority": "Ordered"},
            "ownerReferences": [
                {"apiVersion": "apps.kruise.io/v1beta1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true},
            ],
        },
        "spec": {
            "containers": [{
                "name": "app",
                "image": "registry.example/web:7",
                "env": [{"name": "ZONE", "value": "z1"}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "conf", "mountPath": "/conf", "subPathExpr": "$(ZONE)/x"},
                ],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "conf", "emptyDir": {}}],
        },
    })
}

fn barrier(key: &str) -> Value {
    json!({"name": "KRUISE_CONTAINER_BARRIER", "valueFrom": {"configMapKeyRef": {"name": "web-0-barrier", "key": key}}})
}

fn tailer(name: &str, image: &str, key: &str) -> Value {
    let version = |prefix: &str| json!({"fieldRef": {"fieldPath": format!("metadata.annotations['{prefix}.sidecarset.kruise.io/{name}']")}});
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "spool", "mountPath": "/spool"},
            {"name": "data", "mountPath": "/data"},
            {"name": "conf", "mountPath": "/conf", "subPathExpr": "$(ZONE)/x"},
        ],
        "env": [
            {"name": "IS_INJECTED", "value": "true"},
            {"name": "ZONE", "value": "z1"},
            {"name": "SIDECARSET_VERSION", "valueFrom": version("version")},
            {"name": "SIDECARSET_VERSION_ALT", "valueFrom": version("versionalt")},
            barrier(key),
        ],
    })
}

#[test]
fn the_worked_example_comes_out_as_written() {
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
    let white_list =
        json!({names::PATCH_WHITE_LIST: r#"{"rules":[{"allowedAnnotationKeyExprs":["^mesh\\.example/"]}]}"#});
    objects.apply_config_map(&json!({"metadata": {"name": names::CONFIGURATION}, "data": white_list})).unwrap();
    for set in [logging(), mesh()] {
        assert_eq!(objects.apply_sidecarset(set).errors, []);
    }
    let stored = objects.sidecarsets().find(|stored| stored.set.metadata.name == "logging").unwrap();
    let text = hashed_text(&stored.set.spec);
    let members = ["name", "image", "resources", "volumeMounts", "terminationMessagePath", "terminationMessagePolicy"]
        .into_iter()
        .chain(["imagePullPolicy", "podInjectPolicy", "upgradeStrategy", "shareVolumePolicy", "transferEnv"]);
    let places: Vec<usize> = members.map(|member| text.find(&format!("\"{member}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");

    let snapshot = objects.snapshot().unwrap();
    let request = json!({"uid": "u", "operation": "CREATE", "namespace": "default", "object": web_0()});
    let answer = post(&snapshot, &json!({"apiVersion": review::V1, "kind": "AdmissionReview", "request": request}));
    let mut pod = web_0();
    pod["metadata"]["annotations"] = json!({
        "apps.kruise.io/container-launch-priority": "Ordered",
        "kruise.io/sidecarset-hash": r#"{"logging":{"updateTimestamp":"2026-03-04T05:06:07Z","hash":"ddzdb6d5vcb962dwcbfw49zc6wz8bvfb64dfb44cw895x444z2xbf425f98zz7x7","sidecarSetName":"logging","sidecarList":["tailer"],"controllerRevision":"logging-7d9"},"mesh":{"updateTimestamp":"2026-03-04T05:06:07Z","hash":"4vz54d6v648bw945v2d7z5992f944z7dxww44v5x46x52dw525xfd244xccw2w84","sidecarSetName":"mesh","sidecarList":["proxy"],"controllerRevision":"mesh-6c7"}}"#,
        "kruise.io/sidecarset-hash-without-image": r#"{"logging":{"updateTimestamp":"2026-03-04T05:06:07Z","hash":"4dx2wd6664cz2cdb2vf6fbzb4zxc75zw428cvf4dxfw82746x44554wxx4bfzb26","sidecarSetName":"logging","sidecarList":["tailer"]},"mesh":{"updateTimestamp":"2026-03-04T05:06:07Z","hash":"c444cx79x98wd9cwzcw9c2584b5bzf92wvvfcdb58w5dw8xbbcxw78f44zb44254","sidecarSetName":"mesh","sidecarList":["proxy"]}}"#,
        "kruise.io/sidecarset-injected-list": "logging,mesh",
        "kruise.io/sidecarset-working-hotupgrade-container": r#"{"tailer":"tailer-1"}"#,
        "mesh.example/on": "1",
        "version.sidecarset.kruise.io/tailer-1": "1",
        "versionalt.sidecarset.kruise.io/tailer-1": "0",
        "version.sidecarset.kruise.io/tailer-2": "0",
        "versionalt.sidecarset.kruise.io/tailer-2": "1",
    });
    pod["spec"]["readinessGates"] = json!([{"conditionType": "KruisePodReady"}]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": "reg"}]);
    pod["spec"]["volumes"] = json!(["data", "conf", "spool"].map(|name| json!({"name": name, "emptyDir": {}})));
    let mut app = pod["spec"]["containers"][0].clone();
    app["env"].as_array_mut().unwrap().push(barrier("p_-1"));
    pod["spec"]["containers"] = json!([
        {
            "name": "proxy",
            "image": "registry.example/proxy:3.1",
            "imagePullPolicy": "IfNotPresent",
            "resources": {},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "env": [{"name": "IS_INJECTED", "value": "true"}, barrier("p_0")],
        },
        app,
        tailer("tailer-1", "registry.example/tailer:2", "p_-2"),
        tailer("tailer-2", "registry.example/tailer:empty", "p_-3"),
    ]);
    assert_json_diff::assert_json_eq!(apply(&web_0(), &answer["response"]), pod);
}
