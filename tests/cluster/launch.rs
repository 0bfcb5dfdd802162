//! Containers start in order, and readiness gates of new pods open. There is no node here: the tests play the kubelet,
//! which starts a container when its key is in the barrier, and looks again only when the pod changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use outrigger::controllers::launch::metrics::Metrics;
use outrigger::controllers::launch::{self, Settings};
use outrigger::controllers::pods::{self, Hub};
use outrigger::controllers::readiness;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, Component, Namespace, PATIENCE, Stop, Test, eventually, run, until};

const COMPLETED: &str = "apps.kruise.io/container-launch-priority-completed";

pub fn tests() -> Vec<Test> {
    run::alone![
        groups_start_one_after_the_other_lp_8,
        a_container_of_a_started_pod_restarts_without_waiting_lp_9_w_43,
        a_pod_recreated_under_its_name_starts_in_order_again_w_42,
        a_manager_that_is_killed_between_two_groups_is_followed_by_one_that_goes_on,
        a_malformed_barrier_is_told_and_holds_up_nobody_w_40,
        a_group_that_holds_up_others_is_told_and_one_that_ended_well_does_not_w_44,
        the_gate_of_a_new_pod_opens_and_a_closed_one_stays_closed_pr_1,
    ]
}

/// The controllers as a leader runs them.
struct Leader {
    registry: Registry,
    shutdown: CancellationToken,
    tasks: [JoinHandle<()>; 3],
}

impl Leader {
    fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, Settings::default())
    }

    fn with(cluster: &Cluster, settings: Settings) -> Self {
        let (client, shutdown) = (cluster.client(), CancellationToken::new());
        let (metrics, readiness) = (Metrics::default(), readiness::Metrics::default());
        let mut registry = Registry::with_prefix("outrigger");
        metrics.register(&mut registry);
        readiness.register(&mut registry);
        let mut hub = Hub::new(client.clone(), pods::Metrics::default());
        let launch = launch::run(client.clone(), settings, metrics, &mut hub, shutdown.clone());
        let readiness = readiness::run(client, readiness, &mut hub, shutdown.clone());
        let tasks = [hub.run(shutdown.clone()).boxed(), launch.boxed(), readiness.boxed()];
        Self { registry, shutdown, tasks: tasks.map(tokio::spawn) }
    }

    /// A counter or gauge; 0 if there is none.
    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let told = text.lines().find_map(|line| line.strip_prefix(&format!("outrigger_{name} ")));
        told.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    fn writes(&self, write: &str) -> u64 {
        self.metric(&format!("launch_writes_total{{write=\"{write}\",result=\"done\"}}"))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// In the middle of whatever it does.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
            drop(task.await);
        }
    }
}

/// Does for all pods of a namespace what a node does.
struct Kubelet {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Containers in the order in which they were started.
    started: Vec<String>,
    /// Containers that run and do not become ready.
    slow: BTreeSet<String>,
    /// Containers that end at once, with this exit code.
    ends: BTreeMap<String, i32>,
    /// Containers that run, as `uid/name`, and how often each was restarted.
    running: BTreeMap<String, i32>,
    /// What a pod was like when it was last looked at.
    seen: BTreeMap<String, Value>,
}

impl Kubelet {
    fn start(ns: &Namespace, slow: &[&str]) -> Self {
        let state = State { slow: slow.iter().map(ToString::to_string).collect(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (pods, barriers, node) = (ns.api::<Pod>(), ns.api::<ConfigMap>(), Arc::clone(&state));
        let task = tokio::spawn(async move {
            loop {
                for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                    drop(sync(&pods, &barriers, &pod, &node).await);
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { state, task }
    }

    fn started(&self) -> Vec<String> {
        self.state.lock().unwrap().started.clone()
    }

    /// This container becomes ready.
    fn ready(&self, container: &str) {
        let mut state = self.state.lock().unwrap();
        state.slow.remove(container);
        state.seen.clear();
    }

    /// All containers of this name crash; they are started anew.
    fn crash(&self, container: &str) {
        let mut state = self.state.lock().unwrap();
        state.running.retain(|running, _| !running.ends_with(&format!("/{container}")));
        state.seen.clear();
    }

    async fn has_started(&self, expected: &[&str]) -> Result<()> {
        let what = format!("{expected:?} have started");
        let reached = until(&what, PATIENCE, async || Ok(self.started() == expected)).await;
        reached.with_context(|| format!("{:?}", self.started()))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts what may start. Looks again only when the pod changed, as the kubelet does but for a retry after 10 seconds.
async fn sync(pods: &Api<Pod>, barriers: &Api<ConfigMap>, pod: &Pod, node: &Mutex<State>) -> Result<()> {
    let (uid, name) = (pod.uid().context("no UID")?, pod.name_any());
    let told = json!(pod.metadata.annotations);
    if node.lock().unwrap().seen.insert(uid.clone(), told.clone()).as_ref() == Some(&told) {
        return Ok(());
    }
    // The kubelet hears of a ConfigMap a little later than of the pod.
    let mut statuses = Vec::new();
    let mut is_ready = true;
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let key = format!("{uid}/{}", container.name);
        let mut is_missing = false;
        for reference in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            let Some(reference) = &reference.config_map_key_ref else { continue };
            let data = barriers.get_opt(&reference.name).await?.and_then(|barrier| barrier.data).unwrap_or_default();
            is_missing |= !data.contains_key(&reference.key);
        }
        let mut state = node.lock().unwrap();
        let ended = state.ends.get(&container.name).copied();
        let is_running = state.running.contains_key(&key);
        if !is_running && !is_missing {
            state.started.push(container.name.clone());
            state.running.insert(key, 0);
        }
        let runs = is_running || !is_missing;
        let status = match ended {
            Some(code) if runs => json!({"terminated": {"exitCode": code, "containerID": "containerd://x"}}),
            _ if runs => json!({"running": {"startedAt": "2026-03-01T08:00:00Z"}}),
            _ => json!({"waiting": {"reason": "CreateContainerConfigError",
                "message": format!("configmap \"{name}-barrier\" not found")}}),
        };
        let ready = runs && ended.is_none() && !state.slow.contains(&container.name);
        is_ready &= ready;
        statuses.push(json!({"name": container.name, "image": "x", "imageID": "x@sha256:1", "ready": ready,
            "restartCount": 0, "state": status}));
    }
    let condition = |r#type: &str| json!({"type": r#type, "status": if is_ready { "True" } else { "False" }});
    let status = json!({"metadata": {"uid": uid}, "status": {
        "phase": "Pending", "containerStatuses": statuses, "conditions": [condition("ContainersReady"), condition("Ready")],
    }});
    if pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await.is_err() {
        node.lock().unwrap().seen.remove(&uid);
    }
    Ok(())
}

/// A pod as admission leaves it, of containers `name=priority`.
fn document(name: &str, containers: &[&str]) -> Value {
    let container = |container: &&str| {
        let (container, priority) = container.split_once('=').unwrap();
        let from = json!({"configMapKeyRef": {"name": format!("{name}-barrier"), "key": format!("p_{priority}")}});
        json!({"name": container, "image": "x", "env": [{"name": "KRUISE_CONTAINER_BARRIER", "valueFrom": from}]})
    };
    let containers: Vec<Value> = containers.iter().map(container).collect();
    json!({"metadata": {"name": name}, "spec": {"containers": containers}})
}

async fn pod(ns: &Namespace, name: &str, containers: &[&str]) -> Result<Pod> {
    ns.create_json(document(name, containers)).await
}

async fn keys(ns: &Namespace, pod: &str) -> Result<Vec<String>> {
    let barrier = ns.api::<ConfigMap>().get_opt(&format!("{pod}-barrier")).await?;
    Ok(barrier.and_then(|barrier| barrier.data).unwrap_or_default().into_keys().collect())
}

async fn is_completed(ns: &Namespace, pod: &str) -> Result<bool> {
    Ok(ns.api::<Pod>().get(pod).await?.annotations().get(COMPLETED).is_some_and(|value| value == "true"))
}

async fn events(ns: &Namespace, reason: &str) -> Result<Vec<String>> {
    let events = ns.api::<Event>().list(&ListParams::default()).await?.items;
    let events = events.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
    Ok(events.filter_map(|event| event.note).collect())
}

/// What takes every right that the order of containers needs, of a manager that runs.
pub async fn takes_every_right(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let mut gated = document("ordered", &["first=1", "second=0"]);
    gated["spec"]["readinessGates"] = json!([{"conditionType": "KruisePodReady"}]);
    cleared(cluster, ns, gated).await?;
    let kubelet = Kubelet::start(ns, &[]);
    until("it starts", PATIENCE, async || is_completed(ns, "ordered").await).await?;
    drop(kubelet);
    Ok(())
}

/// Makes a pod while the barrier of an earlier one is there with all its keys, and waits until it has its own.
async fn cleared(cluster: &Cluster, ns: &Namespace, document: Value) -> Result<()> {
    // The garbage collector could be faster than the manager.
    cluster.stop(Component::ControllerManager, Stop::Gracefully).await?;
    let name = document["metadata"]["name"].as_str().context("no name")?.to_owned();
    let old: ConfigMap = ns.create_json(stale(&name, &["p_1", "p_0"])).await?;
    let made: Pod = ns.create_json(document).await?;
    let barrier = eventually("the barrier is the pod's own", PATIENCE, async || {
        let barrier = ns.api::<ConfigMap>().get_opt(&format!("{name}-barrier")).await?;
        Ok(barrier.filter(|barrier| barrier.uid() != old.uid()))
    })
    .await?;
    let owners = barrier.metadata.owner_references.unwrap_or_default();
    ensure!(Some(&owners[0].uid) == made.metadata.uid.as_ref(), "{owners:?}");
    cluster.resume(Component::ControllerManager).await
}

/// The barrier of an earlier pod.
fn stale(pod: &str, keys: &[&str]) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": "7c1d2a52-6b7f-4bc7-9a7e-0d5c7f2f8d11"});
    let data: BTreeMap<&str, &str> = keys.iter().map(|key| (*key, "true")).collect();
    json!({"metadata": {"name": format!("{pod}-barrier"), "ownerReferences": [owner]}, "data": data})
}

async fn groups_start_one_after_the_other_lp_8(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let leader = Leader::start(cluster);
    let kubelet = Kubelet::start(ns, &["cache", "app"]);
    let made = pod(ns, "web-0", &["proxy=100", "cache=100", "app=0", "report=-5"]).await?;
    kubelet.has_started(&["proxy", "cache"]).await?;
    ensure!(keys(ns, "web-0").await? == ["p_100"]);
    let barrier = ns.api::<ConfigMap>().get("web-0-barrier").await?;
    let owners = barrier.metadata.owner_references.unwrap_or_default();
    ensure!(owners.len() == 1 && Some(&owners[0].uid) == made.metadata.uid.as_ref(), "{owners:?}");
    ensure!(owners[0].controller.is_none() && owners[0].block_owner_deletion.is_none());
    kubelet.ready("cache");
    kubelet.has_started(&["proxy", "cache", "app"]).await?;
    ensure!(keys(ns, "web-0").await? == ["p_0", "p_100"] && !is_completed(ns, "web-0").await?);
    kubelet.ready("app");
    kubelet.has_started(&["proxy", "cache", "app", "report"]).await?;
    until("it is completed", PATIENCE, async || is_completed(ns, "web-0").await).await?;
    until("nobody waits", PATIENCE, async || Ok(leader.metric("launch_waiting_pods") == 0)).await?;
    ensure!(keys(ns, "web-0").await? == ["p_-5", "p_0", "p_100"]);
    // The fewest writes that are compatible, but for a second touch when a kubelet is slow.
    ensure!((leader.writes("create"), leader.writes("change"), leader.writes("complete")) == (1, 2, 1));
    ensure!(leader.writes("delete") == 0 && leader.writes("touch") <= 3, "{}", leader.writes("touch"));
    // Pods without priorities are left alone.
    ns.create_json::<Pod>(
        json!({"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "plain", "image": "x"}]}}),
    )
    .await?;
    kubelet.has_started(&["proxy", "cache", "app", "report", "plain"]).await?;
    ensure!(ns.api::<ConfigMap>().get_opt("plain-barrier").await?.is_none());
    leader.stop().await;
    Ok(())
}

async fn a_container_of_a_started_pod_restarts_without_waiting_lp_9_w_43(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let leader = Leader::start(cluster);
    let kubelet = Kubelet::start(ns, &[]);
    pod(ns, "web-0", &["proxy=2", "app=1", "report=0"]).await?;
    kubelet.has_started(&["proxy", "app", "report"]).await?;
    until("it is completed", PATIENCE, async || is_completed(ns, "web-0").await).await?;
    kubelet.crash("app");
    kubelet.has_started(&["proxy", "app", "report", "app"]).await?;
    ensure!(leader.writes("create") == 1, "the barrier is there");
    // Whoever deletes it holds up the next restart, until the kubelet says so.
    ns.api::<ConfigMap>().delete("web-0-barrier", &DeleteParams::default()).await?;
    kubelet.crash("report");
    kubelet.has_started(&["proxy", "app", "report", "app", "report"]).await?;
    ensure!(keys(ns, "web-0").await? == ["p_0", "p_1", "p_2"]);
    leader.stop().await;
    Ok(())
}

async fn a_pod_recreated_under_its_name_starts_in_order_again_w_42(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let leader = Leader::start(cluster);
    let (pods, barriers) = (ns.api::<Pod>(), ns.api::<ConfigMap>());
    for round in 1..=2 {
        cleared(cluster, ns, document("web-0", &["proxy=1", "app=0"])).await?;
        ensure!(leader.writes("delete") == round);
        ensure!(keys(ns, "web-0").await? == ["p_1"]);
        // A real one, too, hears of the pod later than the manager.
        let kubelet = Kubelet::start(ns, &["proxy"]);
        kubelet.has_started(&["proxy"]).await?;
        kubelet.ready("proxy");
        kubelet.has_started(&["proxy", "app"]).await?;
        until("it is completed", PATIENCE, async || is_completed(ns, "web-0").await).await?;
        ensure!(keys(ns, "web-0").await? == ["p_0", "p_1"]);
        pods.delete("web-0", &DeleteParams::default().grace_period(0)).await?;
        until("the barrier went with it", PATIENCE, async || Ok(barriers.get_opt("web-0-barrier").await?.is_none()))
            .await?;
    }
    leader.stop().await;
    Ok(())
}

async fn a_manager_that_is_killed_between_two_groups_is_followed_by_one_that_goes_on(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let kubelet = Kubelet::start(ns, &["a", "b", "c"]);
    let containers = ["a=3", "b=2", "c=1", "d=0"];
    for name in ["web-0", "web-1"] {
        pod(ns, name, &containers).await?;
    }
    let mut expected = Vec::new();
    for container in ["a", "b", "c"] {
        let leader = Leader::start(cluster);
        expected.extend([container; 2]);
        kubelet.has_started(&expected).await?;
        // While it writes, or before.
        kubelet.ready(container);
        leader.kill().await;
    }
    let leader = Leader::start(cluster);
    expected.extend(["d"; 2]);
    kubelet.has_started(&expected).await?;
    for name in ["web-0", "web-1"] {
        until("it is completed", PATIENCE, async || is_completed(ns, name).await).await?;
        ensure!(keys(ns, name).await? == ["p_0", "p_1", "p_2", "p_3"]);
    }
    leader.stop().await;
    Ok(())
}

async fn a_malformed_barrier_is_told_and_holds_up_nobody_w_40(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let leader = Leader::start(cluster);
    let kubelet = Kubelet::start(ns, &[]);
    let mut odd = document("odd", &["key=5", "value=4", "proxy=1", "app=0"]);
    odd["spec"]["containers"][0]["env"][0]["valueFrom"]["configMapKeyRef"]["key"] = "p".into();
    odd["spec"]["containers"][1]["env"][0] = json!({"name": "KRUISE_CONTAINER_BARRIER", "value": "p_4"});
    ns.create_json::<Pod>(odd).await?;
    // The two odd ones wait for nobody.
    until("all run", PATIENCE, async || Ok(kubelet.started().len() == 4)).await?;
    let started = kubelet.started();
    let at = |name: &str| started.iter().position(|started| started == name);
    ensure!(at("proxy") < at("app") && at("key") < at("app"), "{started:?}");
    until("it is completed", PATIENCE, async || is_completed(ns, "odd").await).await?;
    let told = events(ns, "LaunchPriorityMalformed").await?;
    ensure!(told.len() == 1, "{told:?}");
    ensure!(told[0].contains("container key: the key p is not p_ and a whole number"), "{told:?}");
    ensure!(told[0].contains("container value: its value is not from a ConfigMap"), "{told:?}");
    leader.stop().await;
    Ok(())
}

async fn a_group_that_holds_up_others_is_told_and_one_that_ended_well_does_not_w_44(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let leader = Leader::with(cluster, Settings { patience: Duration::from_millis(500), ..Settings::default() });
    let kubelet = Kubelet::start(ns, &["proxy"]);
    kubelet.state.lock().unwrap().ends.insert("job".to_owned(), 0);
    pod(ns, "web-0", &["proxy=1", "app=0"]).await?;
    let mut once = document("once", &["job=1", "after=0"]);
    once["spec"]["restartPolicy"] = "OnFailure".into();
    ns.create_json::<Pod>(once).await?;
    until("the job was not waited for", PATIENCE, async || Ok(kubelet.started().iter().any(|name| name == "after")))
        .await?;
    let told = eventually("it is told", PATIENCE, async || {
        let told = events(ns, "LaunchBlocked").await?;
        Ok((!told.is_empty()).then_some(told))
    })
    .await?;
    let expected = "containers do not start before those of priority 1 are ready: app waits for proxy (not ready)";
    ensure!(told == [expected], "{told:?}");
    // Its key stays where it is, and its successor goes on.
    kubelet.ready("proxy");
    until("app runs", PATIENCE, async || Ok(kubelet.started().iter().any(|name| name == "app"))).await?;
    leader.stop().await;
    Ok(())
}

async fn the_gate_of_a_new_pod_opens_and_a_closed_one_stays_closed_pr_1(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let pods = ns.api::<Pod>();
    let gated = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "readinessGates": [{"conditionType": "KruisePodReady"}], "containers": [{"name": "app", "image": "x"}],
        }})
    };
    ns.create_json::<Pod>(gated("closed")).await?;
    let condition = json!({"type": "KruisePodReady", "status": "False", "message": "[]"});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    pods.patch_status("closed", &PatchParams::default(), &patch).await?;
    let leader = Leader::start(cluster);
    let condition = async |name: &str| -> Result<Option<(String, Option<String>, bool)>> {
        let status = pods.get(name).await?.status.unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        let found = conditions.find(|condition| condition.type_ == "KruisePodReady");
        Ok(found.map(|found| (found.status, found.message, found.last_transition_time.is_some())))
    };
    for n in 0..10 {
        ns.create_json::<Pod>(gated(&format!("new-{n}"))).await?;
    }
    for n in 0..10 {
        let name = format!("new-{n}");
        let open = eventually("the gate opens", PATIENCE, async || condition(&name).await).await?;
        ensure!(open == ("True".to_owned(), None, true), "{open:?}");
    }
    ensure!(condition("closed").await?.is_some_and(|(status, ..)| status == "False"));
    until("each was written once", PATIENCE, async || {
        Ok(leader.metric("readiness_conditions_total{result=\"done\"}") == 10)
    })
    .await?;
    leader.stop().await;
    Ok(())
}
