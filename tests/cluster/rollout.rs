//! Changes of SidecarSets reach running pods. There is no node here: the tests play the kubelet by writing pod statuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use outrigger::controllers::pods::{self, Hub};
use outrigger::controllers::sidecarset::metrics::Metrics;
use outrigger::controllers::sidecarset::{self, Known, Settings};
use outrigger::sidecarset::admit::Stored;
use outrigger::store::watch::Feed;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::explain::{clean_up, install, outrigger_says, sidecarsets};
use crate::harness::{Cluster, Namespace, PATIENCE, Test, eventually, run, until};

pub fn tests() -> Vec<Test> {
    run::alone![
        a_change_of_the_image_reaches_as_many_pods_as_it_may_with_one_write_each,
        revisions_are_kept_renumbered_and_gone_back_to,
        pods_that_must_be_recreated_are_told_and_forgiven_nup_4,
        a_rollout_of_the_reference_goes_on_and_no_pod_is_written_twice,
        a_manager_that_is_killed_is_followed_by_one_that_goes_on,
        labels_of_a_namespace_wake_the_sets_that_ask_for_them_w_21,
        a_pod_whose_write_is_refused_holds_up_no_other_w_7,
    ]
}

/// The controller as a leader runs it.
struct Leader {
    registry: Registry,
    shutdown: CancellationToken,
    tasks: [JoinHandle<()>; 3],
}

impl Leader {
    fn start(client: &Client, ns: &Namespace) -> Self {
        let feed = Feed::new(client.clone(), ns.name());
        let known = Known { snapshots: feed.snapshots(), published: feed.published() };
        let (shutdown, metrics) = (CancellationToken::new(), Metrics::default());
        let mut registry = Registry::with_prefix("outrigger");
        metrics.register(&mut registry);
        // Revisions are where the test is, so that they go with it.
        let (settings, mut hub) = (Settings::new(ns.name()), Hub::new(client.clone(), pods::Metrics::default()));
        let work = sidecarset::run(client.clone(), known, settings, metrics, &mut hub, shutdown.clone());
        let tasks = [feed.run(shutdown.clone()).boxed(), hub.run(shutdown.clone()).boxed(), work.boxed()];
        let tasks = tasks.map(tokio::spawn);
        Self { registry, shutdown, tasks }
    }

    /// A counter or gauge; 0 if there is none.
    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let told = text.lines().find_map(|line| line.strip_prefix(&format!("outrigger_rollout_{name} ")));
        told.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    fn writes(&self, step: &str, result: &str) -> u64 {
        self.metric(&format!("writes_total{{step=\"{step}\",result=\"{result}\"}}"))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// In the middle of whatever it does.
    fn kill(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Does for all pods of a namespace what a node does: runs what their specs say.
struct Kubelet {
    is_idle: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Kubelet {
    fn start(ns: &Namespace) -> Self {
        let (is_idle, pods) = (Arc::new(AtomicBool::new(false)), ns.api::<Pod>());
        let idle = Arc::clone(&is_idle);
        let task = tokio::spawn(async move {
            loop {
                if !idle.load(Ordering::Relaxed) {
                    for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
                        drop(act(&pods, &pod).await);
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { is_idle, task }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a runtime calls an image.
fn image_id(image: &str) -> String {
    let digest = image.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let name = image.rsplit_once(':').map_or(image, |(name, _)| name);
    format!("docker.io/library/{name}@sha256:{digest:064x}")
}

/// Runs what the spec of a pod says, unless it runs already. Images that are called broken cannot be pulled.
async fn act(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("no spec")?;
    let running = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "a node has a clock")]
    let now = Timestamp::now();
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (mut statuses, mut is_news) = (Vec::new(), running.is_empty());
    for container in &spec.containers {
        let image = container.image.clone().unwrap_or_default();
        let before = running.iter().find(|status| status.name == container.name);
        let runs = before.is_some_and(|before| before.image_id == image_id(&image));
        let is_broken = image.contains("broken");
        if runs || (is_broken && before.is_some_and(|before| !before.ready)) {
            statuses.push(json!(before));
            continue;
        }
        is_news = true;
        let count = before.map_or(0, |before| before.restart_count + 1);
        let (shown, id, container_id) = match before.filter(|_| is_broken) {
            Some(before) => (before.image.clone(), before.image_id.clone(), before.container_id.clone()),
            None => (
                image.clone(),
                image_id(&image),
                Some(format!("containerd://{}-{count}-{}", container.name, fastrand())),
            ),
        };
        let state = if is_broken {
            json!({"waiting": {"reason": "ImagePullBackOff"}})
        } else {
            json!({"running": {"startedAt": now}})
        };
        statuses.push(json!({"name": container.name, "image": shown, "imageID": id, "containerID": container_id,
            "ready": !is_broken, "started": !is_broken, "restartCount": count, "state": state}));
    }
    if !is_news {
        return Ok(());
    }
    let is_ready = statuses.iter().all(|status| status["ready"] == true);
    let ready = json!({"type": "Ready", "status": if is_ready { "True" } else { "False" }, "lastTransitionTime": now});
    let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {
        "phase": "Running", "conditions": [ready], "containerStatuses": statuses,
    }});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await?;
    Ok(())
}

fn fastrand() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(Instant::now())
}

/// A SidecarSet and the pods that it was injected into, as admission would leave them.
struct Rollout<'c> {
    cluster: &'c Cluster,
    ns: &'c Namespace,
    set: String,
}

impl<'c> Rollout<'c> {
    /// `strategy` is the update strategy.
    async fn new(cluster: &'c Cluster, ns: &'c Namespace, strategy: Value) -> Result<Self> {
        let rollout = Self { cluster, ns, set: format!("{}-mesh", ns.name()) };
        let set = rollout.admitted(&json!({
            "selector": {"matchLabels": {"app": "web", "test": ns.name()}},
            "containers": [{"name": "agent", "image": "agent:1"}],
            "updateStrategy": strategy,
        }))?;
        sidecarsets(cluster).create(&PostParams::default(), &serde_json::from_value(set)?).await?;
        Ok(rollout)
    }

    fn admitted(&self, spec: &Value) -> Result<Value> {
        let document = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": self.set}, "spec": spec});
        Ok(Stored::read(document).map_err(|problem| anyhow::anyhow!("{problem}"))?.to_value())
    }

    async fn stored(&self) -> Result<Value> {
        Ok(serde_json::to_value(sidecarsets(self.cluster).get(&self.set).await?)?)
    }

    /// Merges a change into the spec, with the hashes that admission would write.
    async fn change(&self, change: Value) -> Result<()> {
        let mut spec = self.stored().await?["spec"].clone();
        json_patch::merge(&mut spec, &change);
        let admitted = self.admitted(&spec)?;
        let patch = json!({"metadata": {"annotations": admitted["metadata"]["annotations"]}, "spec": admitted["spec"]});
        sidecarsets(self.cluster).patch(&self.set, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn image(&self, image: &str) -> Result<()> {
        self.change(json!({"containers": [{"name": "agent", "image": image}]})).await
    }

    /// A pod as admission leaves it today; `annotations` come on top.
    async fn pod(&self, name: &str, annotations: Value) -> Result<Pod> {
        let set = self.stored().await?;
        let told = &set["metadata"]["annotations"];
        let revision = set["status"]["latestRevision"].as_str().unwrap_or_default();
        let record = |hash: &str| {
            json!({&self.set: {"updateTimestamp": "2026-03-01T08:00:00Z", "hash": told[hash], "sidecarSetName": self.set,
                "sidecarList": ["agent"], "controllerRevision": revision}})
            .to_string()
        };
        let (hash, without) = ("kruise.io/sidecarset-hash", "kruise.io/sidecarset-hash-without-image");
        let mut all =
            json!({hash: record(hash), without: record(without), "kruise.io/sidecarset-injected-list": self.set});
        json_patch::merge(&mut all, &annotations);
        let image = &set["spec"]["containers"][0]["image"];
        self.ns
            .create_json(json!({
                "metadata": {"name": name, "labels": {"app": "web", "test": self.ns.name()}, "annotations": all},
                "spec": {"containers": [{"name": "app", "image": "app:1"}, {"name": "agent", "image": image}]},
            }))
            .await
    }

    async fn pods(&self, count: usize) -> Result<()> {
        for n in 0..count {
            self.pod(&format!("web-{n:03}"), json!({})).await?;
        }
        Ok(())
    }

    /// Waits until the status says so, for at most `within`.
    async fn counts(&self, what: &str, within: Duration, expected: Value) -> Result<()> {
        let reached = until(what, within, async || {
            let status = self.stored().await?["status"].clone();
            let differ = expected.as_object().into_iter().flatten().any(|(member, value)| status[member] != *value);
            Ok(!differ)
        });
        match reached.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.stored().await?["status"].to_string())),
        }
    }

    async fn condition(&self, r#type: &str) -> Result<Value> {
        let conditions = self.stored().await?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition["type"] == r#type).unwrap_or_default())
    }

    /// The images of the sidecar, and how often the spec of its pod was changed.
    async fn images(&self) -> Result<BTreeMap<String, (String, i64)>> {
        let pods = self.ns.api::<Pod>().list(&ListParams::default()).await?.items;
        let image = |pod: Pod| {
            let agent =
                pod.spec.as_ref()?.containers.iter().find(|container| container.name == "agent")?.image.clone()?;
            Some((pod.name_any(), (agent, pod.metadata.generation.unwrap_or(1) - 1)))
        };
        Ok(pods.into_iter().filter_map(image).collect())
    }

    async fn revisions(&self) -> Result<Vec<(i64, String)>> {
        let api: Api<ControllerRevision> = self.ns.api();
        let label = format!("kruise.io/sidecarset-name={}", self.set);
        let mut revisions: Vec<(i64, String)> = api
            .list(&ListParams::default().labels(&label))
            .await?
            .into_iter()
            .map(|revision| (revision.revision, revision.name_any()))
            .collect();
        revisions.sort();
        Ok(revisions)
    }

    /// Reasons of the events about the set, or about pods.
    async fn events(&self, about: &str) -> Result<Vec<String>> {
        let namespace = if about == self.set { "default" } else { self.ns.name() };
        let api: Api<Event> = Api::namespaced(self.cluster.client(), namespace);
        let mut events = api.list(&ListParams::default()).await?.items;
        events
            .retain(|event| event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(about)));
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        Ok(events.into_iter().filter_map(|event| event.reason).collect())
    }

    async fn rollout(&self, args: &[&str]) -> Result<(i32, String)> {
        let args = [&["rollout"], args, &[self.set.as_str(), "--operator-namespace", self.ns.name()]].concat();
        outrigger_says(self.cluster.kubeconfig(), &args).await
    }
}

/// What takes every right that a rollout needs, of a manager that runs and admits: an update, a rollback, a pod that must
/// be recreated, and a history that is too long.
pub async fn takes_every_right(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let (name, pods) = (format!("{}-roll", ns.name()), ns.api::<Pod>());
    let set = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": "roll", "test": ns.name()}},
        "containers": [{"name": "agent", "image": "agent:1"}],
    }});
    sidecarsets(cluster).create(&PostParams::default(), &serde_json::from_value(set)?).await?;
    let pod = json!({"metadata": {"name": "roll", "labels": {"app": "roll", "test": ns.name()}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]}});
    let pod = eventually("the pod is injected", PATIENCE, async || {
        let made: Pod = ns.create_json(pod.clone()).await?;
        if made.spec.as_ref().is_some_and(|spec| spec.containers.len() == 2) {
            return Ok(Some(made));
        }
        pods.delete("roll", &DeleteParams::default().grace_period(0)).await?;
        Ok(None)
    })
    .await?;
    act(&pods, &pod).await?;
    let change = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        sidecarsets(cluster).patch(&name, &PatchParams::default(), &patch).await.map(drop)
    };
    for image in ["agent:2", "agent:1"] {
        change(json!({"containers": [{"name": "agent", "image": image}]})).await?;
        until("the image is updated", PATIENCE, async || {
            let pod = pods.get("roll").await?;
            act(&pods, &pod).await?;
            let images = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.image.as_deref());
            Ok(images.into_iter().any(|found| found == Some(image)))
        })
        .await?;
    }
    let env = json!([{"name": "A", "value": "b"}]);
    change(json!({"revisionHistoryLimit": 1, "containers": [{"name": "agent", "image": "agent:1", "env": env}]}))
        .await?;
    until("the pod is marked", PATIENCE, async || {
        let status = pods.get("roll").await?.status.unwrap_or_default();
        Ok(status.conditions.iter().flatten().any(|condition| condition.type_ == "SidecarSetUpgradable"))
    })
    .await?;
    let revisions: Api<ControllerRevision> = Api::namespaced(cluster.client(), "kruise-system");
    let of_set = ListParams::default().labels(&format!("kruise.io/sidecarset-name={name}"));
    until("a revision is deleted", PATIENCE, async || Ok(revisions.list(&of_set).await?.items.len() == 2)).await
}

const UNLIMITED: &str = "100%";

/// Installs what a test needs, and takes it away again.
macro_rules! with_sets {
    ($($name:ident => $body:ident;)*) => {$(
        async fn $name(cluster: &Cluster, ns: &Namespace) -> Result<()> {
            install(cluster).await?;
            let tested = $body(cluster, ns).await;
            clean_up(cluster, ns).await?;
            tested
        }
    )*};
}

with_sets! {
    a_change_of_the_image_reaches_as_many_pods_as_it_may_with_one_write_each => cold;
    revisions_are_kept_renumbered_and_gone_back_to => revisions;
    pods_that_must_be_recreated_are_told_and_forgiven_nup_4 => not_upgradable;
    a_rollout_of_the_reference_goes_on_and_no_pod_is_written_twice => taken_over;
    a_manager_that_is_killed_is_followed_by_one_that_goes_on => killed;
    labels_of_a_namespace_wake_the_sets_that_ask_for_them_w_21 => namespaces;
    a_pod_whose_write_is_refused_holds_up_no_other_w_7 => refused;
}

async fn cold(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let strategy = json!({"type": "RollingUpdate", "partition": 2, "maxUnavailable": UNLIMITED});
    let rollout = Rollout::new(cluster, ns, strategy).await?;
    rollout.pods(6).await?;
    let kubelet = Kubelet::start(ns);
    let leader = Leader::start(&cluster.client(), ns);
    let ready = json!({"matchedPods": 6, "updatedPods": 6, "readyPods": 6, "updatedReadyPods": 6, "observedGeneration": 1,
        "collisionCount": 0});
    rollout.counts("all are counted", PATIENCE, ready).await?;
    ensure!(leader.writes("update", "done") == 0 && leader.writes("condition", "done") == 0, "pods are left alone");
    // A condition of somebody else.
    let foreign = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": rollout.set},
        "status": {"matchedPods": 6, "updatedPods": 6, "readyPods": 6, "conditions": [{"type": "InjectionComplete",
            "status": "True", "reason": "NoPodMissed", "message": "", "lastTransitionTime": "2026-03-01T08:00:00Z"}]}});
    let owner = PatchParams::apply("outrigger-missed").force();
    sidecarsets(cluster).patch_status(&rollout.set, &owner, &Patch::Apply(&foreign)).await?;

    rollout.image("agent:2").await?;
    let partly =
        json!({"matchedPods": 6, "updatedPods": 4, "readyPods": 6, "updatedReadyPods": 4, "observedGeneration": 2});
    rollout.counts("the partition is reached", PATIENCE, partly).await?;
    let images = rollout.images().await?;
    assert_eq!(images.values().filter(|(image, writes)| image == "agent:2" && *writes == 1).count(), 4, "{images:?}");
    assert_eq!(images.values().filter(|(image, writes)| image == "agent:1" && *writes == 0).count(), 2, "{images:?}");
    let (code, said) = rollout.rollout(&["status"]).await?;
    ensure!(
        code == 4 && said.contains("HeldByPartition: 4 of 6 pods updated, 4 of them ready (2 HeldByPartition)"),
        "{said}"
    );

    // A pod that stops being ready is told within a second, though nothing is rolled out (W-1, W-28).
    kubelet.is_idle.store(true, Ordering::Relaxed);
    let broken = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    ns.api::<Pod>().patch_status("web-000", &PatchParams::default(), &Patch::Strategic(&broken)).await?;
    rollout.counts("a pod is not ready", Duration::from_secs(1), json!({"readyPods": 5})).await?;
    let mended = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    ns.api::<Pod>().patch_status("web-000", &PatchParams::default(), &Patch::Strategic(&mended)).await?;
    kubelet.is_idle.store(false, Ordering::Relaxed);
    rollout.counts("it is ready again", Duration::from_secs(1), json!({"readyPods": 6})).await?;

    rollout.change(json!({"updateStrategy": {"partition": 0}})).await?;
    let (code, said) = rollout.rollout(&["status", "--watch", "--timeout", "30"]).await?;
    ensure!(code == 0 && said.contains("Complete: 6 of 6 pods updated, 6 of them ready"), "{code} {said}");
    rollout.counts("all are updated", PATIENCE, json!({"updatedReadyPods": 6, "observedGeneration": 3})).await?;
    let images = rollout.images().await?;
    ensure!(images.values().all(|(image, writes)| image == "agent:2" && *writes == 1), "{images:?}");
    assert_eq!(leader.writes("update", "done"), 6, "one write a pod");
    assert_eq!(leader.metric("pods{verdict=\"UpToDate\"}"), 6);
    assert_eq!(rollout.condition("InjectionComplete").await?["reason"], "NoPodMissed", "others' conditions stay");
    assert_eq!(rollout.condition("Progressing").await?["reason"], "Complete");
    until("start and end were told", PATIENCE, async || {
        let events = rollout.events(&rollout.set).await?;
        Ok(events.contains(&"RolloutStarted".to_owned()) && events.contains(&"RolloutComplete".to_owned()))
    })
    .await?;
    leader.stop().await;
    Ok(())
}

async fn revisions(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": UNLIMITED})).await?;
    let leader = Leader::start(&cluster.client(), ns);
    let count = |expected: usize| {
        let rollout = &rollout;
        async move {
            eventually("there are as many revisions", PATIENCE, async || {
                Ok(Some(rollout.revisions().await?).filter(|revisions| revisions.len() == expected))
            })
            .await
        }
    };
    let first = count(1).await?;
    rollout.counts("the status names it", PATIENCE, json!({"latestRevision": first[0].1})).await?;
    rollout.pods(2).await?;
    let _kubelet = Kubelet::start(ns);
    rollout.image("agent:2").await?;
    let second = count(2).await?;
    assert_eq!((second[0].clone(), second[1].0), (first[0].clone(), 2));
    rollout.counts("both are updated", PATIENCE, json!({"updatedReadyPods": 2, "latestRevision": second[1].1})).await?;

    let (_, said) = rollout.rollout(&["history"]).await?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 3 && lines[1].starts_with("1 ") && lines[2].starts_with("2 (current)"), "{said}");
    ensure!(lines[1].ends_with("agent=agent:1") && lines[2].ends_with("agent=agent:2"), "{said}");
    let (code, said) = rollout.rollout(&["undo"]).await?;
    ensure!(code == 0 && said.contains(&format!("goes back to revision 1 ({})", first[0].1)), "{said}");
    // Nobody admits here, so the hashes are written by hand.
    rollout.image("agent:1").await?;
    until("the old revision is the newest", PATIENCE, async || {
        Ok(rollout.revisions().await? == [(2, second[1].1.clone()), (3, first[0].1.clone())])
    })
    .await?;
    rollout.counts("pods are back", PATIENCE, json!({"updatedReadyPods": 2, "latestRevision": first[0].1})).await?;
    let images = rollout.images().await?;
    ensure!(images.values().all(|(image, writes)| image == "agent:1" && *writes == 2), "{images:?}");

    // REV-9: no more than asked for, and none that a pod refers to.
    rollout.change(json!({"revisionHistoryLimit": 2})).await?;
    rollout.image("agent:3").await?;
    until("the oldest is gone", PATIENCE, async || {
        let revisions = rollout.revisions().await?;
        Ok(revisions.len() == 2 && revisions.iter().all(|(_, name)| *name != second[1].1))
    })
    .await?;
    // W-22: one that is deleted is made again.
    let newest = rollout.revisions().await?.pop().context("no revision")?.1;
    ns.api::<ControllerRevision>().delete(&newest, &DeleteParams::default()).await?;
    until("it is there again", PATIENCE, async || {
        Ok(rollout.revisions().await?.iter().any(|(_, name)| *name == newest))
    })
    .await?;
    leader.stop().await;
    Ok(())
}

async fn not_upgradable(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": UNLIMITED})).await?;
    let leader = Leader::start(&cluster.client(), ns);
    rollout.counts("there is a revision", PATIENCE, json!({"observedGeneration": 1})).await?;
    rollout.pods(2).await?;
    let _kubelet = Kubelet::start(ns);
    rollout.counts("both are ready", PATIENCE, json!({"updatedReadyPods": 2})).await?;
    let upgradable = async || {
        let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
        let condition = |pod: &Pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            Some(conditions.iter().find(|condition| condition.type_ == "SidecarSetUpgradable")?.status.clone())
        };
        anyhow::Ok(pods.iter().map(condition).collect::<Vec<_>>())
    };
    rollout
        .change(json!({"containers": [{"name": "agent", "image": "agent:2", "env": [{"name": "A", "value": "b"}]}]}))
        .await?;
    let no = Some("False".to_owned());
    until("the pods are marked", PATIENCE, async || Ok(upgradable().await? == [no.clone(), no.clone()])).await?;
    let (code, said) = rollout.rollout(&["status"]).await?;
    ensure!(code == 4 && said.contains("containers[agent].env"), "{said}");
    until("that is told", PATIENCE, async || {
        Ok(rollout.events(&rollout.set).await?.contains(&"NotUpgradablePods".to_owned()))
    })
    .await?;
    rollout.change(json!({"containers": [{"name": "agent", "image": "agent:3"}]})).await?;
    rollout.counts("the others are updated", PATIENCE, json!({"updatedReadyPods": 2})).await?;
    let yes = Some("True".to_owned());
    until("the marks are taken back", PATIENCE, async || Ok(upgradable().await? == [yes.clone(), yes.clone()])).await?;
    leader.stop().await;
    Ok(())
}

/// In the middle of trace T-1: c is done, b is written and not yet restarted, a is old.
async fn taken_over(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": 1})).await?;
    let pods: Api<Pod> = ns.api();
    let old = rollout.pod("a", json!({})).await?;
    act(&pods, &old).await?;
    let before = rollout.stored().await?["metadata"]["annotations"]["kruise.io/sidecarset-hash"].clone();
    rollout.image("agent:2").await?;
    // The reference keeps no containerID, and wrote the record with the new hash.
    let state = json!({&rollout.set: {"revision": before, "updateTimestamp": "2026-03-02T10:15:00Z",
        "lastContainerStatuses": {"agent": {"imageID": image_id("agent:1")}}}})
    .to_string();
    let state = json!({"kruise.io/sidecarset-inplace-update-state": state});
    let done = rollout.pod("c", state.clone()).await?;
    act(&pods, &done).await?;
    let flying = rollout.pod("b", state).await?;
    act(&pods, &flying).await?;
    // It still runs what it ran before.
    let lagging = json!({"status": {"containerStatuses": [
        {"name": "app", "image": "app:1", "imageID": image_id("app:1"), "containerID": "containerd://app", "ready": true,
         "restartCount": 0},
        {"name": "agent", "image": "agent:1", "imageID": image_id("agent:1"), "containerID": "containerd://old", "ready": true,
         "restartCount": 0},
    ]}});
    pods.patch_status("b", &PatchParams::default(), &Patch::Merge(&lagging)).await?;

    let leader = Leader::start(&cluster.client(), ns);
    let waits = json!({"matchedPods": 3, "updatedPods": 2, "readyPods": 2, "updatedReadyPods": 1});
    rollout.counts("it is understood", PATIENCE, waits).await?;
    // The answer to another change comes after all that it might have done.
    rollout.change(json!({"revisionHistoryLimit": 5})).await?;
    rollout.counts("it looked again", PATIENCE, json!({"observedGeneration": 3})).await?;
    assert_eq!(leader.writes("update", "done"), 0, "the budget is spent on b");
    let _kubelet = Kubelet::start(ns);
    rollout.counts("the rollout went on", PATIENCE, json!({"updatedReadyPods": 3})).await?;
    let images = rollout.images().await?;
    let writes: Vec<i64> = images.values().map(|(_, writes)| *writes).collect();
    assert_eq!(writes, [1, 0, 0], "{images:?}");
    leader.stop().await;
    Ok(())
}

async fn killed(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    const PODS: usize = 40;
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": UNLIMITED})).await?;
    rollout.pods(PODS).await?;
    let _kubelet = Kubelet::start(ns);
    let leader = Leader::start(&cluster.client(), ns);
    rollout.counts("all are ready", PATIENCE, json!({"updatedReadyPods": PODS})).await?;
    rollout.image("agent:2").await?;
    until("some are written", PATIENCE, async || Ok(leader.writes("update", "done") > 3)).await?;
    leader.kill();
    let leader = Leader::start(&cluster.client(), ns);
    rollout
        .counts("the next one went on", PATIENCE, json!({"updatedReadyPods": PODS, "observedGeneration": 2}))
        .await?;
    let images = rollout.images().await?;
    ensure!(images.values().all(|(image, writes)| image == "agent:2" && *writes == 1), "{images:?}");
    assert_eq!(rollout.revisions().await?.len(), 2);
    leader.stop().await;
    Ok(())
}

async fn namespaces(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": UNLIMITED})).await?;
    rollout.change(json!({"namespaceSelector": {"matchLabels": {"mesh": "on"}}})).await?;
    rollout.pods(1).await?;
    let _kubelet = Kubelet::start(ns);
    let leader = Leader::start(&cluster.client(), ns);
    rollout.counts("the namespace has no label", PATIENCE, json!({"matchedPods": 0, "observedGeneration": 2})).await?;
    let all: Api<KubeNamespace> = Api::all(cluster.client());
    let label = Patch::Merge(json!({"metadata": {"labels": {"mesh": "on"}}}));
    all.patch(ns.name(), &PatchParams::default(), &label).await?;
    rollout.counts("it has one", Duration::from_secs(1), json!({"matchedPods": 1})).await?;
    leader.stop().await;
    Ok(())
}

/// A policy of the cluster refuses the new image for one pod.
async fn refused(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let rollout = Rollout::new(cluster, ns, json!({"type": "RollingUpdate", "maxUnavailable": UNLIMITED})).await?;
    rollout.pods(3).await?;
    let _kubelet = Kubelet::start(ns);
    let name = format!("{}-refuses", ns.name());
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
            "operations": ["UPDATE"]}]},
        "validations": [{"expression": "object.metadata.name != 'web-001' || \
            object.spec.containers.all(c, c.image != 'agent:2')", "message": "not that one"}],
    }});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name()}}}}});
    let api = |kind: &str| {
        let kind = kube::api::GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        Api::<DynamicObject>::all_with(cluster.client(), &kube::api::ApiResource::from_gvk(&kind))
    };
    let (policies, bindings) = (
        api("ValidatingAdmissionPolicy"),
        Api::<DynamicObject>::all_with(
            cluster.client(),
            &kube::api::ApiResource {
                plural: "validatingadmissionpolicybindings".to_owned(),
                ..kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(
                    "admissionregistration.k8s.io",
                    "v1",
                    "ValidatingAdmissionPolicyBinding",
                ))
            },
        ),
    );
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    let probe = Patch::Strategic(json!({"spec": {"containers": [{"name": "agent", "image": "agent:2"}]}}));
    until("the policy is obeyed", PATIENCE, async || Ok(ns.api::<Pod>().patch("web-001", &dry, &probe).await.is_err()))
        .await?;

    let leader = Leader::start(&cluster.client(), ns);
    rollout.counts("all are ready", PATIENCE, json!({"updatedReadyPods": 3})).await?;
    rollout.image("agent:2").await?;
    rollout.counts("the others are updated", PATIENCE, json!({"updatedReadyPods": 2})).await?;
    until("the refusal is told at the pod", PATIENCE, async || {
        Ok(rollout.events("web-001").await? == ["SidecarUpdateFailed"])
    })
    .await?;
    ensure!(leader.writes("update", "refused") >= 1 && leader.writes("update", "refused") <= 5, "it rests in between");
    bindings.delete(&name, &DeleteParams::default()).await?;
    policies.delete(&name, &DeleteParams::default()).await?;
    rollout.counts("it was tried again", PATIENCE * 2, json!({"updatedReadyPods": 3})).await?;
    leader.stop().await;
    Ok(())
}
