//! Changes of SidecarSets reach running pods: real containers are restarted, and nothing else is.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, Test, eventually, tests, until};
use crate::outrigger::installed;

/// A container is stopped, its image pulled and the next one started; the kubelet looks at all pods once a minute only.
const PATIENCE: Duration = Duration::from_secs(90);

/// For so long pods must have got their sidecar before one is taken for sure to get it.
const SETTLED: Duration = Duration::from_secs(3);

pub fn tests() -> Vec<Test> {
    tests![
        an_image_reaches_the_pods_within_partition_and_budget,
        a_paused_rollout_changes_no_pod_until_it_goes_on,
        a_selector_limits_a_rollout_to_its_pods,
        a_failed_image_holds_the_other_pods_until_it_is_mended,
        more_than_an_image_leaves_pods_as_they_are_and_says_so,
        two_sets_on_one_pod_are_both_rolled_out,
        a_native_sidecar_is_updated_in_place,
        requests_are_answered_throughout_hot_upgrades_in_both_directions,
    ]
}

// === what happens to pods ===

/// A SidecarSet for the pods of this namespace that are labelled `app=web`.
pub struct Set<'c> {
    cluster: &'c Cluster,
    name: String,
}

impl<'c> Set<'c> {
    /// `spec` is merged into one of a single container `agent`.
    pub async fn create(cluster: &'c Cluster, ns: &Namespace, name: &str, spec: Value) -> Result<Self> {
        let mut whole = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name()}},
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": "sidecar:1"}],
            "updateStrategy": {"type": "RollingUpdate", "maxUnavailable": 1},
        });
        json_patch::merge(&mut whole, &spec);
        let set = Self { cluster, name: format!("{}-{name}", ns.name()) };
        let object = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": set.name}, "spec": whole,
        });
        let file = cluster.dir().join(format!("{}.json", set.name));
        std::fs::write(&file, object.to_string())?;
        // Another test may have installed it this moment, and an API server is busy with a CRD that was just changed.
        eventually("there is a SidecarSet", PATIENCE, async || {
            cluster.kubectl_says(&["apply", "-f", &file.display().to_string()]).await.map(Some)
        })
        .await?;
        // As with every watch, a pod of the next millisecond may be too early.
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let probe: Pod = serde_json::from_value(a_pod("probe"))?;
        // A replica may have to list them anew at this moment, and another one than before may be asked: it is known when
        // it was for a while.
        let mut since: Option<tokio::time::Instant> = None;
        until("the SidecarSet is known", PATIENCE, async || {
            let probe = ns.api::<Pod>().create(&dry_run, &probe).await?;
            let list = probe.annotations().get("kruise.io/sidecarset-injected-list");
            if !list.is_some_and(|list| list.contains(&set.name)) {
                since = None;
                return Ok(false);
            }
            Ok(since.get_or_insert_with(tokio::time::Instant::now).elapsed() > SETTLED)
        })
        .await?;
        Ok(set)
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = ApiResource {
            group: "apps.kruise.io".into(),
            version: "v1beta1".into(),
            api_version: "apps.kruise.io/v1beta1".into(),
            kind: "SidecarSet".into(),
            plural: "sidecarsets".into(),
        };
        Api::all_with(self.cluster.client(), &kind)
    }

    async fn change(&self, spec: Value) -> Result<()> {
        let change = Patch::Merge(json!({"spec": spec}));
        self.api().patch(&self.name, &PatchParams::default(), &change).await?;
        Ok(())
    }

    /// The image of the first container is changed, and nothing else of it.
    async fn change_image(&self, image: &str) -> Result<()> {
        self.change_container(&json!({"image": image})).await
    }

    async fn change_container(&self, change: &Value) -> Result<()> {
        let set = self.api().get(&self.name).await?;
        let mut containers = set.data["spec"]["containers"].clone();
        json_patch::merge(containers.get_mut(0).context("no container")?, change);
        self.change(json!({"containers": containers})).await
    }

    async fn status(&self) -> Result<Value> {
        Ok(self.api().get_status(&self.name).await?.data["status"].clone())
    }

    /// Waits until the status speaks of the newest spec and has these counters.
    async fn stands_at(&self, counters: Value) -> Result<()> {
        let what = format!("the status is {counters}");
        let reached = until(&what, PATIENCE, async || {
            let set = self.api().get(&self.name).await?;
            let status = &set.data["status"];
            let is_current = status["observedGeneration"].as_i64() == set.metadata.generation;
            let counters = counters.as_object().context("counters")?;
            Ok(is_current && counters.iter().all(|(name, count)| status.get(name).unwrap_or(&json!(0)) == count))
        });
        let told = reached.await;
        if told.is_err() {
            println!("{}: {:#}", self.name, self.status().await?);
        }
        told
    }

    pub async fn remove(self) -> Result<()> {
        self.cluster.kubectl_says(&["delete", "sidecarset", &self.name]).await?;
        Ok(())
    }
}

/// What must be the same for a container that was not touched, and how often one was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub ip: String,
    pub node_sees: BTreeMap<String, Container>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub image: String,
    pub restarts: i32,
}

pub fn ran(pod: &Pod) -> Ran {
    let status = pod.status.clone().unwrap_or_default();
    let all =
        status.container_statuses.into_iter().flatten().chain(status.init_container_statuses.into_iter().flatten());
    let container = |it: ContainerStatus| {
        let image = it.image.rsplit('/').next().unwrap_or_default().to_owned();
        (it.name, Container { id: it.container_id.unwrap_or_default(), image, restarts: it.restart_count })
    };
    Ran { ip: status.pod_ip.unwrap_or_default(), node_sees: all.map(container).collect() }
}

/// That one container was started once more with this image, and that nothing else happened to the pod.
pub fn only_restarted(before: &Pod, after: &Pod, container: &str, image: &str) -> Result<()> {
    ensure!(before.uid() == after.uid(), "it is another pod");
    let (before, after) = (ran(before), ran(after));
    ensure!(before.ip == after.ip && !after.ip.is_empty(), "its address was {} and is {}", before.ip, after.ip);
    for (name, then) in &before.node_sees {
        let now = after.node_sees.get(name).context("a container is gone")?;
        if name == container {
            ensure!(now.image == image && now.restarts == then.restarts + 1, "{name} was {then:?} and is {now:?}");
        } else {
            ensure!(now == then, "{name} was {then:?} and is {now:?}");
        }
    }
    Ok(())
}

pub fn untouched(before: &Pod, after: &Pod) -> Result<()> {
    ensure!(before.uid() == after.uid() && ran(before) == ran(after), "{:#?} became {:#?}", ran(before), ran(after));
    Ok(())
}

fn a_pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "app", "image": "app:1"}]},
    })
}

async fn create_pod(ns: &Namespace, name: &str, change: &Value) -> Result<()> {
    let mut pod = a_pod(name);
    json_patch::merge(&mut pod, change);
    ns.create_json::<Pod>(pod).await?;
    Ok(())
}

/// The pods of the namespace by name, once they are all ready.
async fn all_ready(ns: &Namespace) -> Result<BTreeMap<String, Pod>> {
    eventually("all pods are ready", PATIENCE, async || {
        let pods = pods(ns).await?;
        Ok(pods.values().all(is_ready).then_some(pods))
    })
    .await
}

async fn pods(ns: &Namespace) -> Result<BTreeMap<String, Pod>> {
    let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
    Ok(pods.into_iter().map(|pod| (pod.name_any(), pod)).collect())
}

/// Pods called `web-0` and so on, ready, with a sidecar of this name.
async fn start_pods(ns: &Namespace, count: usize, sidecar: &str) -> Result<BTreeMap<String, Pod>> {
    for number in 0..count {
        create_pod(ns, &format!("web-{number}"), &json!({})).await?;
    }
    let pods = all_ready(ns).await?;
    for (name, pod) in &pods {
        ensure!(ran(pod).node_sees.contains_key(sidecar), "{name} has no {sidecar}");
    }
    Ok(pods)
}

/// The names of the pods in which a container has this image in its spec.
fn with_image(pods: &BTreeMap<String, Pod>, container: &str, image: &str) -> BTreeSet<String> {
    let has = |pod: &Pod| {
        let spec = pod.spec.iter();
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .any(|it| it.name == container && it.image.as_deref() == Some(image))
    };
    pods.iter().filter(|(_, pod)| has(pod)).map(|(name, _)| name.clone()).collect()
}

/// Watches until `done`, and tells how many pods were not ready at once, at most.
async fn most_unready(ns: &Namespace, done: impl Future<Output = Result<()>>) -> Result<usize> {
    let mut most = 0;
    tokio::pin!(done);
    loop {
        let unready = pods(ns).await?.values().filter(|pod| !is_ready(pod)).count();
        most = most.max(unready);
        tokio::select! {
            done = &mut done => return done.map(|()| most),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}

// === cold ===

async fn an_image_reaches_the_pods_within_partition_and_budget(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let set = Set::create(cluster, ns, "mesh", json!({"updateStrategy": {"partition": "50%"}})).await?;
    let before = start_pods(ns, 4, "agent").await?;
    set.stands_at(json!({"matchedPods": 4, "updatedPods": 4, "readyPods": 4, "updatedReadyPods": 4})).await?;

    set.change_image("sidecar:2").await?;
    let half = set.stands_at(json!({"matchedPods": 4, "updatedPods": 2, "readyPods": 4, "updatedReadyPods": 2}));
    let unready = most_unready(ns, half).await?;
    ensure!(unready <= 1, "{unready} pods were not ready at once, and one may be");
    let after = pods(ns).await?;
    let updated = with_image(&after, "agent", "sidecar:2");
    ensure!(updated.len() == 2, "half of 4 is kept: {updated:?}");
    for (name, pod) in &after {
        if updated.contains(name) {
            only_restarted(&before[name], pod, "agent", "sidecar:2").context(name.clone())?;
        } else {
            untouched(&before[name], pod).context(name.clone())?;
        }
    }

    set.change(json!({"updateStrategy": {"partition": 0}})).await?;
    set.stands_at(json!({"matchedPods": 4, "updatedPods": 4, "readyPods": 4, "updatedReadyPods": 4})).await?;
    for (name, pod) in all_ready(ns).await? {
        only_restarted(&before[&name], &pod, "agent", "sidecar:2").context(name)?;
    }
    set.remove().await
}

async fn a_paused_rollout_changes_no_pod_until_it_goes_on(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let set = Set::create(cluster, ns, "mesh", json!({"updateStrategy": {"paused": true}})).await?;
    let before = start_pods(ns, 2, "agent").await?;
    set.change_image("sidecar:2").await?;
    set.stands_at(json!({"matchedPods": 2, "updatedPods": 0, "readyPods": 2, "updatedReadyPods": 0})).await?;
    for (name, pod) in pods(ns).await? {
        untouched(&before[&name], &pod).context(name)?;
    }
    set.change(json!({"updateStrategy": {"paused": false}})).await?;
    set.stands_at(json!({"matchedPods": 2, "updatedPods": 2, "readyPods": 2, "updatedReadyPods": 2})).await?;
    for (name, pod) in all_ready(ns).await? {
        only_restarted(&before[&name], &pod, "agent", "sidecar:2").context(name)?;
    }
    set.remove().await
}

async fn a_selector_limits_a_rollout_to_its_pods(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let set = Set::create(cluster, ns, "mesh", json!({})).await?;
    create_pod(ns, "canary", &json!({"metadata": {"labels": {"canary": "yes"}}})).await?;
    let before = start_pods(ns, 2, "agent").await?;
    set.change(json!({
        "updateStrategy": {"selector": {"matchLabels": {"canary": "yes"}}, "maxUnavailable": "100%"},
        "containers": [{"name": "agent", "image": "sidecar:2"}],
    }))
    .await?;
    set.stands_at(json!({"matchedPods": 3, "updatedPods": 1, "readyPods": 3, "updatedReadyPods": 1})).await?;
    for (name, pod) in pods(ns).await? {
        match name.as_str() {
            "canary" => only_restarted(&before[&name], &pod, "agent", "sidecar:2")?,
            _ => untouched(&before[&name], &pod).context(name)?,
        }
    }
    set.change(json!({"updateStrategy": {"selector": null}})).await?;
    set.stands_at(json!({"matchedPods": 3, "updatedPods": 3, "readyPods": 3, "updatedReadyPods": 3})).await?;
    set.remove().await
}

async fn a_failed_image_holds_the_other_pods_until_it_is_mended(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let set = Set::create(cluster, ns, "mesh", json!({})).await?;
    let before = start_pods(ns, 3, "agent").await?;
    set.change_image("no-such-image:1").await?;
    let failed = eventually("a pod cannot pull the image", PATIENCE, async || {
        let pods = pods(ns).await?;
        let waits = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let mut waiting = statuses.filter_map(|it| it.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
            waiting.any(|reason| matches!(reason, "ErrImagePull" | "ImagePullBackOff"))
        };
        Ok(pods.into_iter().find(|(_, pod)| waits(pod)).map(|(name, _)| name))
    })
    .await?;
    set.stands_at(json!({"matchedPods": 3, "updatedPods": 1, "readyPods": 2, "updatedReadyPods": 0})).await?;
    for (name, pod) in pods(ns).await?.into_iter().filter(|(name, _)| *name != failed) {
        untouched(&before[&name], &pod).context(name)?;
    }

    set.change_image("sidecar:2").await?;
    set.stands_at(json!({"matchedPods": 3, "updatedPods": 3, "readyPods": 3, "updatedReadyPods": 3})).await?;
    for (name, pod) in all_ready(ns).await? {
        only_restarted(&before[&name], &pod, "agent", "sidecar:2").context(name)?;
    }
    set.remove().await
}

async fn more_than_an_image_leaves_pods_as_they_are_and_says_so(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let set = Set::create(cluster, ns, "mesh", json!({})).await?;
    let before = start_pods(ns, 2, "agent").await?;
    let changed = json!({"image": "sidecar:2", "env": [{"name": "MODE", "value": "new"}]});
    set.change_container(&changed).await?;
    set.stands_at(json!({"matchedPods": 2, "updatedPods": 0, "readyPods": 2, "updatedReadyPods": 0})).await?;
    let marked = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().find(|it| it.type_ == "SidecarSetUpgradable").cloned()
    };
    until("the pods say that they cannot be updated", PATIENCE, async || {
        Ok(pods(ns).await?.values().all(|pod| marked(pod).is_some_and(|condition| condition.status == "False")))
    })
    .await?;
    for (name, pod) in pods(ns).await? {
        let condition = marked(&pod).context("no condition")?;
        ensure!(condition.reason.as_deref() == Some("UpdateImmutableField"), "{condition:?}");
        ensure!(condition.message == Some(json!({&set.name: false}).to_string()), "{condition:?}");
        untouched(&before[&name], &pod).context(name)?;
    }
    let events: Api<Event> = Api::namespaced(cluster.client(), "default");
    until("an event counts them", PATIENCE, async || {
        let events = events.list(&ListParams::default().fields("reason=NotUpgradablePods")).await?;
        let name = Some(set.name.as_str());
        Ok(events.items.iter().any(|event| event.involved_object.name.as_deref() == name))
    })
    .await?;

    // A new pod gets the new form, and the old ones take part again when the change is taken back.
    create_pod(ns, "new", &json!({})).await?;
    set.stands_at(json!({"matchedPods": 3, "updatedPods": 1, "readyPods": 3, "updatedReadyPods": 1})).await?;
    set.change(json!({"containers": [{"name": "agent", "image": "sidecar:3"}]})).await?;
    until("the old pods are updated", PATIENCE, async || {
        Ok(with_image(&pods(ns).await?, "agent", "sidecar:3")
            == BTreeSet::from(["web-0".to_owned(), "web-1".to_owned()]))
    })
    .await?;
    until("they say so", PATIENCE, async || {
        let pods = pods(ns).await?;
        let mut old = pods.iter().filter(|(name, _)| *name != "new");
        Ok(old.all(|(_, pod)| is_ready(pod) && marked(pod).is_some_and(|condition| condition.status == "True")))
    })
    .await?;
    set.remove().await
}

async fn two_sets_on_one_pod_are_both_rolled_out(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let mesh = Set::create(cluster, ns, "mesh", json!({})).await?;
    let logs =
        Set::create(cluster, ns, "logs", json!({"containers": [{"name": "logs", "image": "sidecar:1"}]})).await?;
    let before = start_pods(ns, 2, "logs").await?;
    mesh.change_image("sidecar:2").await?;
    logs.change_image("sidecar:3").await?;
    let rolled_out = json!({"matchedPods": 2, "updatedPods": 2, "readyPods": 2, "updatedReadyPods": 2});
    mesh.stands_at(rolled_out.clone()).await?;
    logs.stands_at(rolled_out).await?;
    for (name, pod) in all_ready(ns).await? {
        let (then, now) = (ran(&before[&name]), ran(&pod));
        ensure!(then.ip == now.ip && now.node_sees["app"] == then.node_sees["app"], "{then:?} became {now:?}");
        for (container, image) in [("agent", "sidecar:2"), ("logs", "sidecar:3")] {
            let now = &now.node_sees[container];
            ensure!(now.image == image && now.restarts == 1, "{container} of {name} is {now:?}");
        }
    }
    mesh.remove().await?;
    logs.remove().await
}

async fn a_native_sidecar_is_updated_in_place(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let native = |image: &str| json!([{"name": "agent", "image": image, "restartPolicy": "Always"}]);
    let set =
        Set::create(cluster, ns, "mesh", json!({"containers": null, "initContainers": native("sidecar:1")})).await?;
    let before = start_pods(ns, 2, "agent").await?;
    set.change(json!({"initContainers": native("sidecar:2")})).await?;
    set.stands_at(json!({"matchedPods": 2, "updatedPods": 2, "readyPods": 2, "updatedReadyPods": 2})).await?;
    for (name, pod) in all_ready(ns).await? {
        only_restarted(&before[&name], &pod, "agent", "sidecar:2").context(name)?;
    }
    set.remove().await
}

// === hot ===

async fn requests_are_answered_throughout_hot_upgrades_in_both_directions(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let spec = json!({"containers": [{
        "name": "proxy", "image": "hot:1",
        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": "empty:1"},
        "shareVolumePolicy": {"type": "enabled"},
        "lifecycle": {"postStart": {"exec": {"command": ["/bin/take-over"]}}},
    }]});
    let set = Set::create(cluster, ns, "mesh", spec).await?;
    create_pod(
        ns,
        "web",
        &json!({"spec": {
            "containers": [{
                "name": "app", "image": "app:1", "command": ["/bin/client"],
                "volumeMounts": [{"name": "hand-over", "mountPath": "/hand-over"}],
            }],
            "volumes": [{"name": "hand-over", "emptyDir": {}}],
        }}),
    )
    .await?;
    all_ready(ns).await?;
    let said = async |file: &str| {
        let exec =
            ["exec", "-n", ns.name(), "web", "-c", "app", "--", "sh", "-c", &format!("cat /hand-over/{file} || true")];
        cluster.kubectl_says(&exec).await
    };
    let answered_by = async |version: &str| {
        until(&format!("{version} answers"), PATIENCE, async || {
            Ok(said("answers").await?.lines().last() == Some(version))
        })
        .await
    };
    answered_by("hot 1").await?;
    let once = json!({"matchedPods": 1, "updatedPods": 1, "readyPods": 1, "updatedReadyPods": 1});
    for (image, version, works, rests) in [
        ("hot:2", "hot 2", "proxy-2", "proxy-1"),
        ("hot:3", "hot 3", "proxy-1", "proxy-2"),
        ("hot:1", "hot 1", "proxy-2", "proxy-1"),
        ("hot:2", "hot 2", "proxy-1", "proxy-2"),
    ] {
        set.change_image(image).await?;
        set.stands_at(once.clone()).await.context(version)?;
        answered_by(version).await?;
        let pods = all_ready(ns).await?;
        let pod = &pods["web"];
        ensure!(with_image(&pods, works, image).len() == 1, "{works} has another image");
        ensure!(with_image(&pods, rests, "empty:1").len() == 1, "{rests} is not empty");
        let annotation = |key: &str| pod.annotations().get(key).cloned().unwrap_or_default();
        let number =
            |key: String| annotation(&key).parse::<u64>().with_context(|| format!("{key}: {:?}", annotation(&key)));
        ensure!(number(format!("version.sidecarset.kruise.io/{works}"))? > 1);
        ensure!(number(format!("versionalt.sidecarset.kruise.io/{works}"))? == 0);
        ensure!(number(format!("version.sidecarset.kruise.io/{rests}"))? == 0);
        ensure!(annotation("kruise.io/sidecarset-working-hotupgrade-container").contains(works));
    }
    let (answers, failures) = (said("answers").await?, said("failures").await?);
    println!(
        "{} requests answered over four hot upgrades, {} failed",
        answers.lines().count(),
        failures.lines().count()
    );
    ensure!(failures.is_empty(), "requests failed at {failures}");
    ensure!(answers.lines().count() > 100, "a client that asks seldom proves nothing");
    let events = ns.api::<Event>().list(&ListParams::default().fields("reason=ResetContainerSucceed")).await?;
    let message = Some("reset sidecar container image empty successfully");
    ensure!(events.items.iter().any(|event| event.message.as_deref() == message), "{:#?}", events.items);
    set.remove().await
}
