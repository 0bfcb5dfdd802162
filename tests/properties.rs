//! Laws of the pure core, over random pods and random SidecarSets that have much to do with each other.
//!
//! Names come from small pools, so that containers, volumes, envs and labels of pods and sets meet often. A set that
//! validation refuses is not in the store, as in a cluster; what is left is what admission must cope with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod support;

use std::collections::BTreeSet;

use outrigger::admission::pod::Ambient;
use outrigger::admission::review;
use outrigger::api::names;
use outrigger::api::sidecarset::{SidecarSet, v1alpha1};
use outrigger::pod::Pod;
use outrigger::sidecarset::admit::Stored;
use outrigger::sidecarset::revision::Hashes;
use outrigger::sidecarset::select::{Verdict, select};
use outrigger::store::{Objects, Snapshot};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select as one_of, subsequence};
use rstest::rstest;
use serde_json::{Map, Value, json};
use support::review::{apply, patch};

const CASES: u32 = 256;

fn config() -> ProptestConfig {
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

// === pools ===

const LABELS: [&str; 3] = ["app", "track", "example.io/tier"];
const VALUES: [&str; 3] = ["web", "db", "x"];
const ENVS: [&str; 5] = ["A", "B", "REGION", "ZONE", names::PRIORITY_ENV];
const VOLUMES: [&str; 4] = ["data", "conf", "spool", "disk"];
const PATHS: [&str; 4] = ["/data", "/conf", "/spool", "/var/log"];
const DEVICES: [&str; 3] = ["/dev/a", "/dev/b", "/data"];
const APPS: [&str; 3] = ["app", "helper", "worker"];
/// Names of a pod's own containers, among them such as a sidecar has too.
const CLASHING: [&str; 5] = ["app", "proxy", "worker", "tail-1", "mesh"];
const SIDECARS: [&str; 9] = ["proxy", "tail", "agent", "mesh", "cfg", "logs", "metrics", "vault", "dns"];
const SECRETS: [&str; 3] = ["reg", "hub", "mirror"];
const NAMESPACES: [&str; 3] = ["shop", "bank", "default"];
const ANNOTATIONS: [&str; 4] = ["note", "tuning", "main", names::LAUNCH_PRIORITY];

/// An object of the members that are there.
fn object(members: Vec<(&str, Option<Value>)>) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<String, Value>>())
}

fn maybe(strategy: impl Strategy<Value = Value>) -> impl Strategy<Value = Option<Value>> {
    weighted(0.35, strategy)
}

/// A member that no Kubernetes of today knows.
fn future() -> impl Strategy<Value = Option<Value>> {
    weighted(0.3, one_of(vec![json!(1), json!({"deep": [true, null, "<&>"]}), json!("x"), json!([])]))
}

fn labels() -> impl Strategy<Value = Value> {
    btree_map(one_of(&LABELS[..]), one_of(&VALUES[..]), 0..4).prop_map(|labels| json!(labels))
}

// === pods ===

fn env() -> impl Strategy<Value = Value> {
    let priority = one_of(vec!["10", "0", "-2", "+3", "10"]);
    let entry = (one_of(&ENVS[..]), one_of(vec!["1", "north", ""]), priority, future(), 0..6_u8).prop_map(
        |(name, value, priority, future, kind)| match (name, kind) {
            (names::PRIORITY_ENV, _) => json!({"name": name, "value": priority}),
            (_, 0) => json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
            _ => object(vec![("name", Some(json!(name))), ("value", Some(json!(value))), ("fromTheFuture", future)]),
        },
    );
    vec(entry, 0..4).prop_map(|entries| json!(entries))
}

fn mounts() -> impl Strategy<Value = Value> {
    let mount =
        (one_of(&VOLUMES[..]), one_of(&PATHS[..]), weighted(0.2, one_of(vec!["$(ZONE)/x", "$(A)$(B)", "$$(NOPE"])))
            .prop_map(|(name, path, expr)| {
                object(vec![
                    ("name", Some(json!(name))),
                    ("mountPath", Some(json!(path))),
                    ("subPathExpr", expr.map(Value::from)),
                ])
            });
    vec(mount, 0..3).prop_map(|mut mounts| {
        let mut seen = BTreeSet::new();
        mounts.retain(|mount| seen.insert(mount["mountPath"].to_string()));
        json!(mounts)
    })
}

fn devices() -> impl Strategy<Value = Value> {
    subsequence(&DEVICES[..], 0..2)
        .prop_map(|paths| paths.into_iter().map(|path| json!({"name": "disk", "devicePath": path})).collect())
}

fn resources() -> impl Strategy<Value = Value> {
    let list = |quantities: Vec<&'static str>| btree_map(one_of(vec!["cpu", "memory"]), one_of(quantities), 0..3);
    // What is asked for is at most what is allowed.
    (list(vec!["1", "2Gi", "1e3", "1.5"]), list(vec!["100m", "0.5", "1"]))
        .prop_map(|(limits, requests)| json!({"limits": limits, "requests": requests}))
}

fn pod_container(name: &'static str) -> BoxedStrategy<Value> {
    (maybe(env()), maybe(mounts()), maybe(devices()), maybe(resources()), future(), any::<bool>())
        .prop_map(move |(env, mounts, devices, resources, future, native)| {
            object(vec![
                ("fromTheFuture", future),
                ("name", Some(json!(name))),
                ("image", Some(json!("registry.example/app:1"))),
                ("env", env),
                ("volumeMounts", mounts),
                ("volumeDevices", devices),
                ("resources", resources),
                ("restartPolicy", native.then(|| json!("Always"))),
            ])
        })
        .boxed()
}

/// Containers of different names.
fn pod_containers(names: &'static [&'static str], at_least: usize) -> impl Strategy<Value = Value> {
    subsequence(names, at_least..=names.len())
        .prop_shuffle()
        .prop_flat_map(|names| names.into_iter().map(pod_container).collect::<Vec<_>>())
        .prop_map(|containers| json!(containers))
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    vec(one_of(names), 0..4).prop_map(|names| names.into_iter().map(|name| json!({"name": name})).collect())
}

fn pod_volumes() -> impl Strategy<Value = Value> {
    subsequence(&VOLUMES[..], 0..=VOLUMES.len()).prop_map(|names| {
        let volume = |name| json!({"name": name, "emptyDir": {}, "fromTheFuture": {"of": name}});
        names.into_iter().map(volume).collect()
    })
}

fn annotations() -> impl Strategy<Value = Value> {
    let value = one_of(vec!["", "app", "{\"app\": 1}", "plain", "[1]", "null"]);
    (btree_map(one_of(&ANNOTATIONS[..3]), value, 0..3), weighted(0.2, Just(()))).prop_map(
        |(mut annotations, ordered)| {
            if ordered.is_some() {
                annotations.insert(names::LAUNCH_PRIORITY, names::LAUNCH_PRIORITY_ORDERED);
            }
            json!(annotations)
        },
    )
}

fn metadata() -> BoxedStrategy<Value> {
    let owner =
        json!([{"apiVersion": "apps.kruise.io/v1beta1", "kind": "CloneSet", "name": "web", "controller": true}]);
    (any::<bool>(), weighted(0.9, labels()), maybe(annotations()), weighted(0.2, Just(owner)), future())
        .prop_map(|(generated, labels, annotations, owners, future)| {
            let (name, generate_name) = if generated { (None, Some("web-")) } else { (Some("web-0"), None) };
            object(vec![
                ("fromTheFuture", future),
                ("name", name.map(Value::from)),
                ("generateName", generate_name.map(Value::from)),
                ("labels", labels),
                ("annotations", annotations),
                ("ownerReferences", owners),
            ])
        })
        .boxed()
}

fn pod(containers: &'static [&'static str]) -> BoxedStrategy<Value> {
    let gates = one_of(vec![json!([]), json!([{"conditionType": "x"}]), json!([{"conditionType": "KruisePodReady"}])]);
    (
        metadata(),
        pod_containers(containers, 1),
        maybe(pod_containers(&["init", "native", "helper"], 0)),
        maybe(pod_volumes()),
        maybe(named(&SECRETS)),
        maybe(gates),
        future(),
        future(),
    )
        .prop_map(|(metadata, containers, init_containers, volumes, secrets, gates, spec_future, future)| {
            let spec = object(vec![
                ("containers", Some(containers)),
                ("fromTheFuture", spec_future),
                ("initContainers", init_containers),
                ("volumes", volumes),
                ("imagePullSecrets", secrets),
                ("readinessGates", gates),
            ]);
            object(vec![
                ("apiVersion", Some(json!("v1"))),
                ("kind", Some(json!("Pod"))),
                ("metadata", Some(metadata)),
                ("spec", Some(spec)),
                ("fromTheFuture", future),
            ])
        })
        .boxed()
}

// === SidecarSets ===

fn selector() -> impl Strategy<Value = Value> {
    let key = || one_of(&LABELS[..]);
    let values = || btree_set(one_of(&VALUES[..]), 1..3);
    let expression = prop_oneof![
        (key(), values()).prop_map(|(key, values)| json!({"key": key, "operator": "In", "values": values})),
        (key(), values()).prop_map(|(key, values)| json!({"key": key, "operator": "NotIn", "values": values})),
        key().prop_map(|key| json!({"key": key, "operator": "Exists"})),
        key().prop_map(|key| json!({"key": key, "operator": "DoesNotExist"})),
    ];
    prop_oneof![
        3 => (key(), one_of(&VALUES[..])).prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        2 => vec(expression.clone(), 1..3).prop_map(|terms| json!({"matchExpressions": terms})),
        1 => (key(), one_of(&VALUES[..]), expression)
            .prop_map(|(key, value, term)| json!({"matchLabels": {key: value}, "matchExpressions": [term]})),
    ]
}

fn namespace_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        one_of(&NAMESPACES[..]).prop_map(|name| json!({"matchLabels": {names::NAMESPACE_NAME: name}})),
        btree_set(one_of(&NAMESPACES[..]), 1..3).prop_map(
            |names| json!({"matchExpressions": [{"key": names::NAMESPACE_NAME, "operator": "In", "values": names}]})
        ),
        Just(json!({"matchLabels": {"team": "storefront"}})),
        Just(json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]})),
    ]
}

fn share() -> impl Strategy<Value = Value> {
    one_of(vec![json!({"type": "enabled"}), json!({"type": "enabled"}), json!({"type": "disabled"})])
}

fn transfer() -> impl Strategy<Value = Value> {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let from = one_of(vec![
        (Some(json!("app")), None),
        (Some(json!("helper")), None),
        (Some(json!("proxy")), None),
        (None, Some(field("metadata.labels['app']"))),
        (None, Some(field("metadata.annotations['main']"))),
    ]);
    let entry = (from, weighted(0.5, one_of(&ENVS[..])), vec(one_of(&ENVS[..]), 1..3)).prop_map(
        |((name, field), env_name, env_names)| {
            object(vec![
                ("sourceContainerName", name),
                ("sourceContainerNameFrom", field),
                ("envName", env_name.map(Value::from)),
                ("envNames", Some(json!(env_names))),
            ])
        },
    );
    vec(entry, 1..3).prop_map(|entries| json!(entries))
}

fn policy() -> impl Strategy<Value = Value> {
    let expression = one_of(vec!["", "cpu*50%", "max(cpu*50%, 50m)", "cpu"]);
    let memory = one_of(vec!["", "memory", "max(memory*20%, 64Mi)"]);
    (one_of(vec!["sum", "max"]), one_of(vec![".*", "^app$", "e"]), expression, memory).prop_map(
        |(mode, regex, cpu, memory)| {
            json!({
                "targetContainersMode": mode,
                "targetContainersNameRegex": regex,
                "resourcesExpr": {"limits": {"cpu": cpu}, "requests": {"memory": memory}},
            })
        },
    )
}

fn sidecar(name: &'static str, is_init: bool) -> BoxedStrategy<Value> {
    let upgrade = one_of(vec![
        json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "registry.example/empty:1"}),
        json!({"upgradeType": "ColdUpgrade"}),
        json!({}),
    ]);
    let place = one_of(vec![json!("BeforeAppContainer"), json!("AfterAppContainer")]);
    let lists = (maybe(env()), maybe(mounts()), maybe(devices()), maybe(resources()));
    let own = (maybe(place), maybe(upgrade), maybe(share()), maybe(share()), maybe(transfer()));
    (lists, own, weighted(0.15, policy()), future(), any::<bool>())
        .prop_map(
            move |(
                (env, mounts, devices, resources),
                (place, upgrade, share, share_devices, transfer),
                policy,
                future,
                native,
            )| {
                // A container has resources or a policy, and a plain init container has no policy (SSV-28).
                let native = is_init && native;
                let policy = policy.filter(|_| !is_init || native);
                object(vec![
                    ("fromTheFuture", future),
                    ("name", Some(json!(if is_init { format!("i-{name}") } else { name.to_owned() }))),
                    ("image", Some(json!("registry.example/sidecar:2"))),
                    ("env", env),
                    ("volumeMounts", mounts),
                    ("volumeDevices", devices),
                    ("resources", resources.filter(|_| policy.is_none())),
                    ("restartPolicy", native.then(|| json!("Always"))),
                    ("podInjectPolicy", place),
                    ("upgradeStrategy", upgrade),
                    ("shareVolumePolicy", share),
                    ("shareVolumeDevicePolicy", share_devices),
                    ("transferEnv", transfer),
                    ("resourcesPolicy", policy),
                ])
            },
        )
        .boxed()
}

fn sidecars(is_init: bool) -> impl Strategy<Value = Value> {
    subsequence(&SIDECARS[..], usize::from(!is_init)..3)
        .prop_flat_map(move |names| names.into_iter().map(|name| sidecar(name, is_init)).collect::<Vec<_>>())
        .prop_map(|containers| json!(containers))
}

fn patches() -> impl Strategy<Value = Value> {
    let policy = one_of(vec!["Retain", "Overwrite", "MergePatchJson", "MergePatchJson"]);
    let value = one_of(vec!["app", "{\"proxy\": 2}", "{\"proxy\": 3}", "{\"log\": {\"b\": 1}}", "[2]", "helper"]);
    btree_map(one_of(&ANNOTATIONS[..3]), (policy, value), 1..3).prop_map(|patches| {
        let patch = |(key, (policy, value)): (&str, (&str, &str))| {
            let value = if policy == "MergePatchJson" && !value.starts_with('{') { "{\"x\": 1}" } else { value };
            json!({"patchPolicy": policy, "annotations": {key: value}})
        };
        patches.into_iter().map(patch).collect()
    })
}

/// The volumes that containers mount, each always defined alike so that sets can meet, and one that nobody mounts.
fn set_volumes() -> Value {
    let volume = |name: &&str| json!({"name": name, "emptyDir": {"medium": "Memory"}, "fromTheFuture": [name]});
    let claim = json!({"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}});
    VOLUMES.iter().filter(|name| **name != "disk").chain([&"unused"]).map(volume).chain([claim]).collect()
}

fn set(name: &'static str) -> BoxedStrategy<Value> {
    let lists = (sidecars(true), sidecars(false), maybe(named(&SECRETS)), maybe(patches()));
    let selectors = (selector(), weighted(0.2, namespace_selector()), weighted(0.1, Just(true)));
    let version = weighted(0.2, one_of(vec!["v1", "2"]));
    (lists, selectors, any::<bool>(), version, future(), future())
        .prop_map(
            move |(
                (init, containers, secrets, patches),
                (selector, namespaces, paused),
                old,
                version,
                spec_future,
                future,
            )| {
                let labels = if old { version.map(|version| json!({names::CUSTOM_VERSION: version})) } else { None };
                let metadata = object(vec![("name", Some(json!(name))), ("labels", labels)]);
                let spec = object(vec![
                    ("fromTheFuture", spec_future),
                    ("selector", Some(selector)),
                    ("namespaceSelector", namespaces),
                    // An empty list is stored as none, and hashed as one (HASH-3): the reference's own law would fail.
                    ("initContainers", Some(init).filter(|init| *init != json!([]))),
                    ("containers", Some(containers)),
                    ("volumes", Some(set_volumes())),
                    ("updateStrategy", Some(json!({"type": "NotUpdate"}))),
                    ("injectionStrategy", paused.map(|paused| json!({"paused": paused}))),
                    ("imagePullSecrets", secrets),
                    ("patchPodMetadata", patches),
                    ("customVersion", version.filter(|_| !old).map(Value::from)),
                ]);
                object(vec![
                    ("apiVersion", Some(json!(if old { names::V1ALPHA1 } else { names::V1BETA1 }))),
                    ("kind", Some(json!("SidecarSet"))),
                    ("metadata", Some(metadata)),
                    ("spec", Some(spec)),
                    ("fromTheFuture", future),
                ])
            },
        )
        .boxed()
}

/// Up to four sets, one of them perhaps a canary of the first.
fn sets() -> impl Strategy<Value = Vec<Value>> {
    (set("alpha"), weighted(0.8, set("beta")), weighted(0.5, set("gamma")), weighted(0.4, set("zeta")), any::<bool>())
        .prop_map(|(first, second, third, mut fourth, is_canary)| {
            if let Some(canary) = fourth.as_mut().filter(|_| is_canary) {
                canary["metadata"]["annotations"] = json!({names::CANARY: "true", names::CANARY_BASE: "alpha"});
            }
            [Some(first), second, third, fourth].into_iter().flatten().collect()
        })
}

fn store(sets: &[Value]) -> Snapshot {
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
    let white_list = json!({"rules": [{"allowedAnnotationKeyExprs": [".*"]}]}).to_string();
    let data = json!({names::PATCH_WHITE_LIST: white_list});
    objects.apply_config_map(&json!({"metadata": {"name": names::CONFIGURATION}, "data": data})).unwrap();
    objects.apply_namespace(&json!({"metadata": {"name": "shop", "labels": {"team": "storefront"}}})).unwrap();
    objects.apply_namespace(&json!({"metadata": {"name": "bank"}})).unwrap();
    for set in sets {
        objects.apply_sidecarset(set.clone());
    }
    objects.snapshot().unwrap()
}

#[test]
fn most_random_sets_are_accepted_and_most_pods_are_patched() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut sent, mut accepted, mut patched, mut refused) = (0, 0, 0, 0);
    for _ in 0..200 {
        let sets = sets().new_tree(&mut runner).unwrap().current();
        let pod = pod(&APPS).new_tree(&mut runner).unwrap().current();
        let snapshot = store(&sets);
        sent += sets.len();
        accepted += snapshot.sidecarsets().len();
        let response = admit(&snapshot, &pod, "shop", 0);
        patched += usize::from(response["patch"].is_string());
        refused += usize::from(response["allowed"] == false);
    }
    assert!(accepted * 2 > sent, "{accepted} of {sent} sets were accepted");
    println!("{accepted} of {sent} sets accepted, {patched} of 200 pods patched, {refused} refused");
    assert!(patched > 80 && refused > 0 && refused < 60, "{patched} of 200 patched, {refused} refused");
}

// === admission ===

/// The response to a pod that is being created; `turn` makes the time and the dice differ.
fn admit(snapshot: &Snapshot, pod: &Value, namespace: &str, turn: u64) -> Value {
    let times = ["2026-03-04T05:06:07Z", "2027-01-01T00:00:00Z"];
    let now = times[usize::try_from(turn).unwrap() % 2].parse().unwrap();
    let request = json!({"uid": "u", "operation": "CREATE", "namespace": namespace, "object": pod});
    let review = json!({"apiVersion": review::V1, "kind": "AdmissionReview", "request": request});
    let answer = review::answer(review.to_string().as_bytes(), snapshot, &Ambient { now, random: 7 + turn });
    serde_json::from_str::<Value>(&answer.body).unwrap()["response"].clone()
}

/// Names of everything that the sets may put into a pod.
fn claimed(snapshot: &Snapshot) -> BTreeSet<&str> {
    snapshot.sidecarsets().flat_map(|set| &set.current.own_names).map(String::as_str).collect()
}

fn items<'a>(object: &'a Value, list: &str) -> &'a [Value] {
    object[list].as_array().map_or(&[], Vec::as_slice)
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap()
}

/// `list` without what is not in `kept`, in its order.
fn only<'a>(list: &'a [Value], kept: &BTreeSet<&str>) -> Vec<&'a Value> {
    list.iter().filter(|item| kept.contains(name(item))).collect()
}

/// A container without the barrier that launch priority gives it.
fn without_barrier(container: &Value) -> Value {
    let mut container = container.clone();
    if let Some(env) = container["env"].as_array_mut() {
        env.retain(|env| env["name"] != names::BARRIER_ENV);
    }
    if container["env"].as_array().is_some_and(Vec::is_empty) || container["env"].is_null() {
        container.as_object_mut().unwrap().remove("env");
    }
    container
}

/// What a patch must leave of a pod: everything that no set claims, unchanged and in its order.
fn keeps_what_is_not_claimed(before: &Value, after: &Value, claimed: &BTreeSet<&str>) {
    // Whatever is beside metadata and spec, and beside the lists that injection knows, stays as it is.
    let rest = |pod: &Value| {
        let mut pod = pod.clone();
        for list in ["containers", "initContainers", "volumes", "imagePullSecrets", "readinessGates"] {
            pod["spec"].as_object_mut().unwrap().remove(list);
        }
        for member in ["annotations", "name"] {
            pod["metadata"].as_object_mut().unwrap().remove(member);
        }
        pod
    };
    assert_eq!(rest(before), rest(after));
    if let Some(name) = before["metadata"].get("name") {
        assert_eq!(&after["metadata"]["name"], name, "a given name stays");
    }

    let (spec, new_spec) = (&before["spec"], &after["spec"]);
    for list in ["containers", "initContainers"] {
        let old: BTreeSet<&str> = items(spec, list).iter().map(name).filter(|name| !claimed.contains(name)).collect();
        let own = only(items(spec, list), &old);
        let kept = only(items(new_spec, list), &old);
        assert_eq!(own.len(), kept.len(), "{list}: none lost, none doubled");
        for (own, kept) in own.iter().zip(kept) {
            assert_eq!(without_barrier(own), without_barrier(kept), "{list}: in the same order and unchanged");
            // Envs of the pod come first; a barrier is appended, or takes the place of one before it.
            let envs = items(own, "env");
            for (index, env) in envs.iter().enumerate() {
                assert!(kept["env"][index] == *env || env["name"] == names::BARRIER_ENV);
            }
            assert!(items(kept, "env").len() <= envs.len() + 1);
        }
        for container in items(new_spec, list) {
            assert!(old.contains(name(container)) || claimed.contains(name(container)), "{list}: nobody's container");
        }
    }

    let volumes = items(spec, "volumes");
    assert_eq!(&items(new_spec, "volumes")[..volumes.len()], volumes, "VOL-3");
    let gates = items(spec, "readinessGates");
    assert_eq!(&items(new_spec, "readinessGates")[..gates.len()], gates, "RG-3");
    let mut secrets: Vec<&Value> = items(spec, "imagePullSecrets").iter().collect();
    if items(new_spec, "imagePullSecrets").len() != secrets.len()
        || new_spec["imagePullSecrets"] != spec["imagePullSecrets"]
    {
        // SEC-1: names that the pod has twice are told once.
        let mut seen = BTreeSet::new();
        secrets.retain(|secret| seen.insert(name(secret)));
    }
    let kept: Vec<&Value> = items(new_spec, "imagePullSecrets").iter().take(secrets.len()).collect();
    assert_eq!(kept, secrets, "SEC-1");

    let patched: BTreeSet<&str> = ANNOTATIONS[..3].iter().copied().collect();
    for (key, value) in before["metadata"]["annotations"].as_object().into_iter().flatten() {
        let new = &after["metadata"]["annotations"][key];
        assert!(new == value || (patched.contains(key.as_str()) && new.is_string()), "annotation {key}");
    }
}

proptest! {
    #![proptest_config(config())]

    /// RSP-6, ORD-2, VOL-3, SEC-1: a patch removes nothing that we did not put there, and moves nothing elsewhere.
    #[test]
    fn a_patch_leaves_alone_what_no_set_claims(sets in sets(), pod in prop_oneof![3 => pod(&APPS), 1 => pod(&CLASHING)], namespace in one_of(&NAMESPACES[..])) {
        let snapshot = store(&sets);
        let response = admit(&snapshot, &pod, namespace, 0);
        for operation in patch(&response).iter().flat_map(|patch| &patch.0) {
            let operation = json!(operation);
            prop_assert!(operation["op"] == "add" || operation["op"] == "replace", "{}", operation);
        }
        keeps_what_is_not_claimed(&pod, &apply(&pod, &response), &claimed(&snapshot));
    }

    /// POD-5: what was injected once is not injected again, whatever the time and the dice.
    ///
    /// Left out are pods with a container that a sidecar overwrites (ORD-6): it is a source of shared mounts and envs only
    /// as long as it is there. And pods that come out with two containers of one name, which the API server refuses
    /// (ORD-7): two sets that can meet unseen may make them (SEL-3).
    #[test]
    fn a_second_admission_changes_nothing(sets in sets(), pod in pod(&APPS), namespace in one_of(&NAMESPACES[..])) {
        let snapshot = store(&sets);
        let first = admit(&snapshot, &pod, namespace, 0);
        prop_assume!(first["allowed"] == true);
        let once = apply(&pod, &first);
        let spec = &once["spec"];
        let made: Vec<&str> = items(spec, "containers").iter().chain(items(spec, "initContainers")).map(name).collect();
        prop_assume!(made.iter().collect::<BTreeSet<_>>().len() == made.len());
        let second = admit(&snapshot, &once, namespace, 1);
        prop_assert_eq!(&second["allowed"], &json!(true), "{}", second);
        let again = patch(&second).map(|patch| json!(patch));
        prop_assert_eq!(again, None, "sets {} pod {} namespace {}", json!(sets), pod, namespace);
    }

    /// MATCH-3: the index is an optimisation.
    #[test]
    fn the_label_index_finds_what_judging_every_set_finds(
        sets in sets(),
        labels in labels(),
        namespace in one_of(&["shop", "bank", "unknown"][..]),
    ) {
        let snapshot = store(&sets);
        let json = json!({"metadata": {"labels": labels}}).to_string();
        let pod = Pod::parse(&json).unwrap();
        let labels = &pod.metadata.labels;
        let namespace = snapshot.namespace(namespace);
        let selected = |judged: Vec<(&outrigger::sidecarset::compiled::Compiled, Verdict<'_>)>| -> Vec<String> {
            judged.into_iter().filter(|(_, verdict)| *verdict == Verdict::Selected).map(|(set, _)| set.name.clone()).collect()
        };
        let all = selected(select(snapshot.sidecarsets(), &pod.metadata, namespace));
        let found = selected(select(snapshot.candidates(labels), &pod.metadata, namespace));
        prop_assert_eq!(found, all);
        let candidates: Vec<&str> = snapshot.candidates(labels).map(|set| set.name.as_str()).collect();
        let distinct: BTreeSet<&str> = candidates.iter().copied().collect();
        prop_assert_eq!(candidates.len(), distinct.len(), "no set comes twice");
    }

    /// SSD-1, HASH-6: what was defaulted once is not defaulted again.
    #[test]
    fn a_stored_set_is_read_back_as_it_was_stored(set in set("alpha")) {
        let stored = Stored::read(set).unwrap();
        let again = Stored::read(stored.to_value()).unwrap();
        prop_assert_eq!(again.to_value(), stored.to_value());
        prop_assert_eq!(&again.set, &stored.set);
        prop_assert_eq!(Hashes::of(&again.set.spec), Hashes::of(&stored.set.spec));
        prop_assert_eq!(&again.set.metadata.annotations[names::HASH], &Hashes::of(&stored.set.spec).full);
    }

    /// CONV-SS-7: from v1beta1 through v1alpha1 and back nothing is lost.
    #[test]
    fn the_older_version_and_back_is_lossless(set in set("alpha")) {
        let stored = Stored::read(set).unwrap().set;
        let old = v1alpha1::SidecarSet::from(stored.clone());
        prop_assert_eq!(SidecarSet::from(old), stored);
    }

    /// HASH-7, HASH-9: the hashed text has an order of its own, and does not hold what the types do not know.
    #[test]
    fn hashes_depend_neither_on_member_order_nor_on_unknown_members(set in set("alpha")) {
        let hashes = |document: &str| {
            let stored = Stored::read(serde_json::from_str(document).unwrap()).unwrap();
            let annotations = stored.set.metadata.annotations;
            [annotations[names::HASH].clone(), annotations[names::HASH_WITHOUT_IMAGE].clone()]
        };
        let straight = hashes(&set.to_string());
        prop_assert_eq!(&hashes(&backwards(&set)), &straight);
        let mut known = set.clone();
        forget_the_future(&mut known);
        prop_assert_eq!(&hashes(&known.to_string()), &straight);
    }
}

/// RSP-4: what one set changes and the next changes back is no change.
///
/// Not so for a `null` that the first set stored verbatim (META-3) and a later one merged into: the reference's text keeps
/// it at first, and the next merge drops it.
#[rstest]
#[case::the_same_member(r#"{"x": 1}"#, r#"{"x": 2}"#)]
#[case::other_members(r#"{"x": 1}"#, r#"{"y": {"z": 2}}"#)]
#[case::a_member_that_one_sets_and_the_other_deletes(r#"{"x": 1}"#, r#"{"x": null}"#)]
fn a_second_admission_merges_nothing_anew(#[case] first: &str, #[case] second: &str) {
    let set = |name: &str, value: &str| {
        json!({
            "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "containers": [{"name": name, "image": "x:1"}],
                "patchPodMetadata": [{"patchPolicy": "MergePatchJson", "annotations": {"tuning": value}}],
            },
        })
    };
    let snapshot = store(&[set("alpha", first), set("beta", second)]);
    assert_eq!(snapshot.sidecarsets().len(), 2);
    let pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app"}]}});
    let once = apply(&pod, &admit(&snapshot, &pod, "shop", 0));
    let again = patch(&admit(&snapshot, &once, "shop", 1)).map(|patch| json!(patch));
    assert_eq!(again, None, "{}", once["metadata"]["annotations"]["tuning"]);
}

/// A document with the members of every object in reverse order.
fn backwards(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().rev().map(|(key, value)| format!("{}:{}", json!(key), backwards(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(backwards).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

fn forget_the_future(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("fromTheFuture");
            members.values_mut().for_each(forget_the_future);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_the_future),
        _ => {}
    }
}
