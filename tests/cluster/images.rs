//! Images are pulled ahead: the controllers as a leader runs them, before a real API server. There is no node here: the tests
//! play the daemons by writing statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use futures::{FutureExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Node, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use outrigger::controllers::images::metrics::Metrics;
use outrigger::controllers::images::{self, Settings};
use outrigger::controllers::pods::{self, Hub};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, Namespace, PATIENCE, Test, eventually, run, until};

const NODES: usize = 20;

pub fn tests() -> Vec<Test> {
    run::alone![
        jobs_pull_on_as_many_nodes_as_they_may_and_all_they_made_goes_with_them,
        secrets_are_copied_once_follow_their_source_and_go_with_the_last_job,
        a_job_can_be_deleted_when_the_namespace_of_copies_is_gone_weak_34,
        one_node_image_that_cannot_be_written_holds_up_nobody_weak_22,
        a_list_has_a_job_an_image_and_ends_with_them,
    ]
}

// === the world ===

/// The controllers as a leader runs them; they end with it.
struct Leader {
    registry: Registry,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Leader {
    fn start(client: &Client, copies: &str) -> Self {
        let (shutdown, metrics) = (CancellationToken::new(), Metrics::default());
        let mut registry = Registry::with_prefix("outrigger");
        metrics.register(&mut registry);
        let settings = Settings { creation_delay: 0, default_ttl: 300, ..Settings::new(copies) };
        let mut hub = Hub::new(client.clone(), pods::Metrics::default());
        let work = images::run(client.clone(), settings, metrics, &mut hub, shutdown.clone());
        let tasks = [hub.run(shutdown.clone()).boxed(), work.boxed()].into_iter().collect();
        Self { registry, shutdown, tasks }
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let told = text.lines().find_map(|line| line.strip_prefix(&format!("outrigger_image_{name} ")));
        told.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.join_all().await;
    }

    /// In the middle of whatever it does.
    async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

fn kind(kind: &str) -> ApiResource {
    ApiResource {
        group: "apps.kruise.io".into(),
        version: "v1beta1".into(),
        api_version: "apps.kruise.io/v1beta1".into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "a node has a clock")]
    let now = Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct World<'c> {
    cluster: &'c Cluster,
    ns: &'c Namespace,
    nodes: Vec<String>,
    copies: String,
    daemons: JoinHandle<()>,
    witness: JoinHandle<()>,
    /// What was wrong at some instant.
    wrong: Arc<Mutex<Vec<String>>>,
    limits: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl<'c> World<'c> {
    async fn new(cluster: &'c Cluster, ns: &'c Namespace, count: usize) -> Result<Self> {
        install(cluster).await?;
        let copies = format!("{}-config", ns.name());
        let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
        let object = serde_json::from_value(json!({"metadata": {"name": copies}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        let nodes: Vec<String> = (0..count).map(|n| format!("{}-{n:02}", ns.name())).collect();
        try_join_all(nodes.iter().map(|node| add_node(cluster.client(), node))).await?;
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let limits = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let daemons = tokio::spawn(daemons(cluster.client()));
        let witness = tokio::spawn(witness(cluster.client(), Arc::clone(&limits), Arc::clone(&wrong)));
        Ok(Self { cluster, ns, nodes, copies, daemons, witness, wrong, limits })
    }

    async fn remove(self) -> Result<()> {
        self.daemons.abort();
        self.witness.abort();
        let client = self.cluster.client();
        let all = (DeleteParams::background(), ListParams::default());
        for name in ["ImageListPullJob", "ImagePullJob"] {
            let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), self.ns.name(), &kind(name));
            let strip = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            for object in objects.list(&ListParams::default()).await? {
                drop(objects.patch(&object.name_any(), &PatchParams::default(), &strip).await);
            }
            objects.delete_collection(&all.0, &all.1).await?;
        }
        self.node_images().delete_collection(&all.0, &all.1).await?;
        for node in &self.nodes {
            Api::<Node>::all(client.clone()).delete(node, &DeleteParams::default()).await?;
        }
        drop(Api::<KubeNamespace>::all(client).delete(&self.copies, &DeleteParams::default()).await);
        Ok(())
    }

    fn node_images(&self) -> Api<DynamicObject> {
        Api::all_with(self.cluster.client(), &kind("NodeImage"))
    }

    fn jobs(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.cluster.client(), self.ns.name(), &kind("ImagePullJob"))
    }

    async fn create(&self, kind_of: &str, name: &str, spec: Value) -> Result<Value> {
        let objects: Api<DynamicObject> = Api::namespaced_with(self.cluster.client(), self.ns.name(), &kind(kind_of));
        let object = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": kind_of, "metadata": {"name": name}, "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object)?;
        Ok(serde_json::to_value(objects.create(&PostParams::default(), &object).await?)?)
    }

    async fn job(&self, name: &str, parallelism: usize, change: Value) -> Result<()> {
        let mut spec = json!({
            "image": format!("registry.example/{name}:1"), "parallelism": parallelism,
            "completionPolicy": {"type": "Always"},
        });
        json_patch::merge(&mut spec, &change);
        let made = self.create("ImagePullJob", name, spec).await?;
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.limits.lock().unwrap().insert(uid, parallelism);
        Ok(())
    }

    /// The object once it is as `check` wants it.
    async fn is(&self, what: &str, kind_of: &str, name: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
        let objects: Api<DynamicObject> = Api::namespaced_with(self.cluster.client(), self.ns.name(), &kind(kind_of));
        let read = async || Ok::<_, anyhow::Error>(serde_json::to_value(objects.get(name).await?)?);
        let found = eventually(what, PATIENCE * 2, async || Ok(Some(read().await?).filter(&check)));
        match found.await {
            Ok(found) => Ok(found),
            Err(error) => bail!("{error:#}; it is {:#}", read().await?),
        }
    }

    async fn completes(&self, job: &str) -> Result<Value> {
        self.is("the job completes", "ImagePullJob", job, |job| {
            job["status"]["completionTime"].is_string() && job["metadata"].get("finalizers").is_none()
        })
        .await
    }

    async fn is_gone(&self, job: &str) -> Result<()> {
        let jobs = self.jobs();
        until("the job is gone", PATIENCE, async || Ok(jobs.get_opt(job).await?.is_none())).await
    }

    async fn nodes_have_images(&self) -> Result<()> {
        until("each node has its NodeImage", PATIENCE, async || {
            let images = self.node_images().list(&ListParams::default()).await?;
            let mirrors = |image: &&DynamicObject| image.labels().get("zone").is_some_and(|zone| zone == "a");
            Ok(images.iter().filter(mirrors).count() == self.nodes.len())
        })
        .await
    }

    async fn images(&self) -> Result<BTreeSet<String>> {
        let nodes = self.node_images().list(&ListParams::default()).await?;
        let images = nodes.iter().filter_map(|node| node.data["spec"]["images"].as_object());
        Ok(images.flat_map(|images| images.keys().cloned()).collect())
    }

    fn secrets(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.cluster.client(), namespace)
    }

    async fn secret(&self, password: &str) -> Result<()> {
        let login = json!({"auths": {"registry.example": {"username": "u", "password": password}}}).to_string();
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cred", "labels": {"not": "copied"}},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": login},
        });
        let params = PatchParams::apply("test").force();
        self.secrets(self.ns.name()).patch("cred", &params, &Patch::Apply(object)).await?;
        Ok(())
    }

    fn was_well(&self) -> Result<()> {
        let wrong = self.wrong.lock().unwrap();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }
}

/// Runs a test in a world, and takes the world away.
async fn in_world(
    cluster: &Cluster,
    ns: &Namespace,
    nodes: usize,
    test: impl AsyncFnOnce(&World<'_>) -> Result<()>,
) -> Result<()> {
    let world = World::new(cluster, ns, nodes).await?;
    let tested = test(&world).await;
    let tested = tested.and_then(|()| world.was_well());
    if tested.is_ok() {
        return world.remove().await;
    }
    drop(world.remove().await);
    tested
}

/// Installs the definitions. Nobody serves conversion here.
async fn install(cluster: &Cluster) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for kind_of in ["ImagePullJob", "NodeImage", "ImageListPullJob"] {
        let name = format!("{}s.apps.kruise.io", kind_of.to_lowercase());
        let file = format!("manifests/crds/apps.kruise.io_{}s.yaml", kind_of.to_lowercase());
        let mut definition: Value = match std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) {
            Ok(text) => serde_saphyr::from_str(&text)?,
            Err(_) => permissive(kind_of),
        };
        definition["spec"]["conversion"] = json!({"strategy": "None"});
        definitions
            .patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&definition))
            .await
            .context(name)?;
        until("the kind is served", PATIENCE, async || {
            let objects: Api<DynamicObject> = Api::all_with(cluster.client(), &kind(kind_of));
            Ok(objects.list(&ListParams::default()).await.is_ok())
        })
        .await?;
    }
    Ok(())
}

fn permissive(kind: &str) -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        })
    };
    let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.apps.kruise.io")},
        "spec": {
            "group": "apps.kruise.io", "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular},
            "versions": [version("v1alpha1", false), version("v1beta1", true)],
        },
    })
}

async fn add_node(client: Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let node = json!({"metadata": {"name": name, "labels": {"zone": "a"}}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "",
        "lastHeartbeatTime": now(), "lastTransitionTime": now()}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
    Ok(())
}

/// Status of the tag of a node that has ended.
fn has_ended(node: &Value, image: &str, tag: &Value) -> bool {
    let reports = node["status"]["imageStatuses"][image]["tags"].as_array().into_iter().flatten();
    let version = |value: &Value| value["version"].as_i64().unwrap_or_default();
    reports.into_iter().any(|report| {
        report["tag"] == tag["tag"] && version(report) == version(tag) && report["completionTime"].is_string()
    })
}

fn tags(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let images = node["spec"]["images"].as_object().into_iter().flatten();
    images.flat_map(|(image, entry)| entry["tags"].as_array().into_iter().flatten().map(move |tag| (image, tag)))
}

/// All daemons: what was asked for a look ago is there now. Images called `slow` never are, `none` cannot be.
async fn daemons(client: Client) {
    let nodes: Api<DynamicObject> = Api::all_with(client, &kind("NodeImage"));
    loop {
        let list = nodes.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
        for node in list {
            let node = serde_json::to_value(node).unwrap();
            let mut statuses = BTreeMap::<&String, Vec<Value>>::new();
            let mut changes = false;
            for (image, tag) in tags(&node) {
                let known = node["status"]["imageStatuses"][image]["tags"].as_array().into_iter().flatten();
                let version = |value: &Value| value["version"].as_i64().unwrap_or_default();
                let known =
                    known.into_iter().find(|report| report["tag"] == tag["tag"] && version(report) == version(tag));
                let phase = match known.map(|report| report["phase"].as_str().unwrap_or_default()) {
                    None => "Pulling",
                    Some("Pulling") if image.contains("none") => "Failed",
                    Some("Pulling") if !image.contains("slow") => "Succeeded",
                    Some(_) => "",
                };
                let report = if phase.is_empty() {
                    known.cloned().unwrap_or_default()
                } else {
                    changes = true;
                    let ended = (phase != "Pulling").then(now);
                    let message = if phase == "Failed" { "not found" } else { "" };
                    json!({"tag": tag["tag"], "version": version(tag), "phase": phase, "completionTime": ended,
                        "message": message})
                };
                statuses.entry(image).or_default().push(report);
            }
            if !changes {
                continue;
            }
            let statuses: BTreeMap<_, _> =
                statuses.into_iter().map(|(image, tags)| (image, json!({"tags": tags}))).collect();
            let patch = json!({
                "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
                "status": {"desired": 1, "imageStatuses": statuses},
            });
            let name = node["metadata"]["name"].as_str().unwrap();
            drop(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await);
        }
        sleep(Duration::from_millis(30)).await;
    }
}

/// Sees every version of every NodeImage, and counts.
async fn witness(client: Client, limits: Arc<Mutex<BTreeMap<String, usize>>>, wrong: Arc<Mutex<Vec<String>>>) {
    let nodes: Api<DynamicObject> = Api::all_with(client, &kind("NodeImage"));
    let mut seen = BTreeMap::<String, Value>::new();
    let watched = async {
        let from = nodes.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        let mut events = Box::pin(nodes.watch(&WatchParams::default().timeout(290), &from).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                    seen.insert(node.name_any(), serde_json::to_value(&node)?);
                }
                WatchEvent::Deleted(node) => _ = seen.remove(&node.name_any()),
                _ => continue,
            }
            let mut active = BTreeMap::<&str, usize>::new();
            for node in seen.values() {
                for (image, tag) in tags(node).filter(|(image, tag)| !has_ended(node, image, tag)) {
                    let owners = tag["ownerReferences"].as_array().into_iter().flatten();
                    for uid in owners.filter_map(|owner| owner["uid"].as_str()) {
                        *active.entry(uid).or_default() += 1;
                    }
                    let _ = image;
                }
            }
            let limits = limits.lock().unwrap();
            for (uid, active) in active {
                if limits.get(uid).is_some_and(|limit| active > *limit) {
                    wrong.lock().unwrap().push(format!("{active} nodes pull for {uid}, and {} may", limits[uid]));
                }
            }
        }
        anyhow::Ok(())
    };
    if let Err(error) = watched.await {
        wrong.lock().unwrap().push(format!("the watch broke: {error:#}"));
    }
}

// === tests ===

async fn jobs_pull_on_as_many_nodes_as_they_may_and_all_they_made_goes_with_them(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    in_world(cluster, ns, NODES, async |world| {
        let leader = Leader::start(&cluster.client(), &world.copies);
        world.nodes_have_images().await?;
        world.job("one", 1, json!({"selector": {"names": [world.nodes[3], world.nodes[1]]}})).await?;
        world.job("three", 3, json!({})).await?;
        world.job("half", 10, json!({"parallelism": "50%"})).await?;
        world.job("none", 20, json!({"selector": {"matchLabels": {"zone": "a"}}})).await?;
        let pod = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
            "nodeName": world.nodes[7], "containers": [{"name": "web", "image": "x"}]}});
        ns.create_json::<Pod>(pod).await?;
        world.job("pods", 2, json!({"podSelector": {"matchLabels": {"app": "web"}}})).await?;
        // In the middle of it another one takes over.
        world
            .is("some are there", "ImagePullJob", "three", |job| job["status"]["succeeded"].as_i64() > Some(2))
            .await?;
        leader.kill().await;
        let leader = Leader::start(&cluster.client(), &world.copies);
        for (job, nodes) in [("one", 2), ("three", NODES), ("half", NODES), ("pods", 1)] {
            let job = world.completes(job).await?;
            let status = &job["status"];
            ensure!(
                status["succeeded"] == nodes && status["desired"] == nodes && status["message"] == "job has completed",
                "{job:#}"
            );
        }
        let failed = world.completes("none").await?;
        let told = failed["status"]["message"].as_str().unwrap_or_default();
        ensure!(failed["status"]["failed"] == NODES && told.contains(": not found"), "{failed:#}");
        ensure!(leader.metric("jobs_active") == 0 && leader.metric("nodes_handed_out_total") > 0);

        // A node that comes later is of no interest to jobs that ended; a deleted job takes its tags along.
        for job in ["one", "three", "half", "none", "pods"] {
            world.jobs().delete(job, &DeleteParams::default()).await?;
        }
        until("nothing is left", PATIENCE, async || Ok(world.images().await?.is_empty())).await?;
        let gone = &world.nodes[0];
        Api::<Node>::all(cluster.client()).delete(gone, &DeleteParams::default()).await?;
        until("the NodeImage goes with its node", PATIENCE, async || {
            Ok(world.node_images().get_opt(gone).await?.is_none())
        })
        .await?;
        add_node(cluster.client(), gone).await?;
        until("it comes back with it", PATIENCE, async || Ok(world.node_images().get_opt(gone).await?.is_some()))
            .await?;
        leader.stop().await;
        Ok(())
    })
    .await
}

async fn secrets_are_copied_once_follow_their_source_and_go_with_the_last_job(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    in_world(cluster, ns, 3, async |world| {
        world.secret("first").await?;
        let leader = Leader::start(&cluster.client(), &world.copies);
        world.nodes_have_images().await?;
        let spec = json!({"pullSecrets": ["cred", "nobody"]});
        world.job("slow-a", 2, spec.clone()).await?;
        world.job("slow-b", 2, spec).await?;
        let copies = world.secrets(&world.copies);
        let copy = eventually("there is one copy for both", PATIENCE, async || {
            let list = copies.list(&ListParams::default()).await?.items;
            let for_both = |copy: &Secret| {
                copy.annotations().get("imagepulljobs.kruise.io/references")
                    == Some(&format!("{0}/slow-a,{0}/slow-b", ns.name()))
            };
            Ok(list.into_iter().find(for_both))
        })
        .await?;
        let source = copy.annotations().get("imagepulljobs.kruise.io/source-key");
        ensure!(source == Some(&format!("{}/cred", ns.name())) && copy.labels().is_empty(), "WEAK-43: {copy:?}");
        let told = world.is("the other is told", "ImagePullJob", "slow-a", |job| {
            job["status"]["message"].as_str().unwrap_or_default().contains("there is no pull secret \"nobody\"")
        });
        told.await?;
        for job in ["slow-a", "slow-b"] {
            world
                .is("it is on as many nodes as it may", "ImagePullJob", job, |job| job["status"]["active"] == 2)
                .await?;
        }
        let node = eventually("the copy is named", PATIENCE, async || {
            let list = world.node_images().list(&ListParams::default()).await?;
            let named = |node: &&DynamicObject| {
                node.data["spec"]["images"]["registry.example/slow-a"]["pullSecrets"]
                    == json!([{"namespace": world.copies, "name": copy.name_any(), "mode": "batch"}])
            };
            Ok(list.iter().find(named).cloned())
        })
        .await?;
        let generation = node.metadata.generation;

        world.secret("second").await?;
        let data = |secret: &Secret| serde_json::to_string(&secret.data).unwrap();
        until("the copy follows", PATIENCE, async || {
            let source = world.secrets(ns.name()).get("cred").await?;
            Ok(data(&copies.get(&copy.name_any()).await?) == data(&source))
        })
        .await?;
        let after = world.node_images().get(&node.name_any()).await?.metadata.generation;
        ensure!(generation == after, "no NodeImage is written for that");

        world.jobs().delete("slow-a", &DeleteParams::default()).await?;
        world.is_gone("slow-a").await?;
        ensure!(copies.get_opt(&copy.name_any()).await?.is_some());
        world.jobs().delete("slow-b", &DeleteParams::default()).await?;
        world.is_gone("slow-b").await?;
        ensure!(copies.get_opt(&copy.name_any()).await?.is_none(), "SEC-8");
        until("pulls are stopped", PATIENCE, async || Ok(world.images().await?.is_empty())).await?;
        leader.stop().await;
        Ok(())
    })
    .await
}

async fn a_job_can_be_deleted_when_the_namespace_of_copies_is_gone_weak_34(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    in_world(cluster, ns, 2, async |world| {
        world.secret("first").await?;
        let nowhere = format!("{}-nowhere", ns.name());
        let leader = Leader::start(&cluster.client(), &nowhere);
        world.nodes_have_images().await?;
        world.job("slow", 1, json!({})).await?;
        world.job("with-secret", 1, json!({"pullSecrets": ["cred"]})).await?;
        let told = world.is("it is told", "ImagePullJob", "with-secret", |job| {
            let message = job["status"]["message"].as_str().unwrap_or_default();
            message.contains("cannot be copied") && message.contains("not found")
        });
        told.await?;
        world.is("the other goes on", "ImagePullJob", "slow", |job| job["status"]["active"] == 1).await?;
        for job in ["slow", "with-secret"] {
            let held = world.jobs().get(job).await?;
            ensure!(held.finalizers().contains(&"apps.kruise.io/deletion-protection".to_owned()), "{held:?}");
            world.jobs().delete(job, &DeleteParams::default()).await?;
            world.is_gone(job).await?;
        }
        leader.stop().await;
        Ok(())
    })
    .await
}

async fn one_node_image_that_cannot_be_written_holds_up_nobody_weak_22(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    in_world(cluster, ns, 4, async |world| {
        let (policies, bindings) = (
            Api::<ValidatingAdmissionPolicy>::all(cluster.client()),
            Api::<ValidatingAdmissionPolicyBinding>::all(cluster.client()),
        );
        let name = "no-bad-images";
        let policy = json!({
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps.kruise.io"], "apiVersions": ["*"],
                    "resources": ["nodeimages"], "operations": ["UPDATE"]}]},
                "validations": [{
                    "expression": format!(
                        "!(object.metadata.name == '{}' && has(object.spec.images) && 'registry.example/bad' in object.spec.images)",
                        world.nodes[2]
                    ),
                    "message": "256 images are the most",
                }],
            },
        });
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
        let leader = Leader::start(&cluster.client(), &world.copies);
        let tested = async {
            world.nodes_have_images().await?;
            let probe = json!({"spec": {"images": {"registry.example/bad": {"tags": []}}}});
            until("the policy is in force", PATIENCE, async || {
                let dry = PatchParams { dry_run: true, ..PatchParams::default() };
                Ok(world.node_images().patch(&world.nodes[2], &dry, &Patch::Merge(&probe)).await.is_err())
            })
            .await?;
            world.job("bad", 1, json!({})).await?;
            world.job("good", 1, json!({})).await?;
            let good = world.completes("good").await?;
            ensure!(good["status"]["succeeded"] == 4, "{good:#}");
            let bad = world.completes("bad").await?;
            ensure!(bad["status"]["succeeded"] == 3 && bad["status"]["failedNodes"] == json!([world.nodes[2]]), "{bad:#}");
            let message = bad["status"]["message"].as_str().unwrap_or_default();
            ensure!(message.contains("256 images are the most"), "{message}");
            ensure!(leader.metric("nodes_failed_total{cause=\"unwritable\"}") == 1);
            Ok(())
        };
        let tested = tested.await;
        bindings.delete(name, &DeleteParams::default()).await?;
        policies.delete(name, &DeleteParams::default()).await?;
        leader.stop().await;
        tested
    })
    .await
}

async fn a_list_has_a_job_an_image_and_ends_with_them(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    in_world(cluster, ns, 3, async |world| {
        let leader = Leader::start(&cluster.client(), &world.copies);
        world.nodes_have_images().await?;
        let spec = json!({
            "images": ["registry.example/a:1", "registry.example/slow:1", "registry.example/none:1"], "parallelism": 3,
            "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 1},
        });
        world.create("ImageListPullJob", "warm", spec).await?;
        let under_way =
            world.is("two of three ended", "ImageListPullJob", "warm", |list| list["status"]["completed"] == 2);
        let list = under_way.await?;
        ensure!(list["status"]["desired"] == 3 && list["status"]["active"] == 1, "{list:#}");
        ensure!(list["status"]["succeeded"] == 1, "{list:#}");
        let failed = &list["status"]["failedImageStatuses"];
        ensure!(failed[0]["name"] == "registry.example/none:1" && failed[1].is_null(), "{list:#}");
        // What ended is kept as long as the list goes on, whatever its own time is.
        sleep(Duration::from_secs(3)).await;
        let jobs = world.jobs().list(&ListParams::default()).await?.items;
        ensure!(jobs.len() == 3, "{:?}", jobs.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        let hash = list["metadata"]["labels"]["controller-revision-hash"].as_str().context("no hash")?.to_owned();
        ensure!(jobs.iter().all(|job| job.labels().get("controller-revision-hash") == Some(&hash)));

        let lists: Api<DynamicObject> = Api::namespaced_with(cluster.client(), ns.name(), &kind("ImageListPullJob"));
        let without = json!({"spec": {"images": ["registry.example/a:1", "registry.example/none:1"]}});
        lists.patch("warm", &PatchParams::default(), &Patch::Merge(without)).await?;
        until("the list ends and goes with its jobs", PATIENCE, async || {
            Ok(lists.get_opt("warm").await?.is_none()
                && world.jobs().list(&ListParams::default()).await?.items.is_empty())
        })
        .await?;
        leader.stop().await;
        Ok(())
    })
    .await
}

/// Makes a manager that runs do everything that it may do about images.
pub async fn takes_every_right(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let client = cluster.client();
    let daemons = tokio::spawn(daemons(client.clone()));
    let (nodes, node) = (Api::<Node>::all(client.clone()), format!("{}-images", ns.name()));
    add_node(client.clone(), &node).await?;
    let since = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "",
        "lastHeartbeatTime": now(), "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(since)).await?;
    let node_images: Api<DynamicObject> = Api::all_with(client.clone(), &kind("NodeImage"));
    until("it gets a NodeImage", PATIENCE, async || Ok(node_images.get_opt(&node).await?.is_some())).await?;
    let labels = Patch::Merge(json!({"metadata": {"labels": {"zone": "b"}}}));
    nodes.patch(&node, &PatchParams::default(), &labels).await?;
    until("its labels follow", PATIENCE, async || {
        Ok(node_images.get(&node).await?.labels().get("zone").is_some_and(|zone| zone == "b"))
    })
    .await?;
    let secret = json!({"metadata": {"name": "cred"}, "data": {"x": "eA=="}});
    ns.create_json::<Secret>(secret).await?;
    let objects = |of: &str| Api::<DynamicObject>::namespaced_with(client.clone(), ns.name(), &kind(of));
    let create = async |of: &str, name: &str, spec: Value| {
        let object = json!({
            "apiVersion": "apps.kruise.io/v1beta1", "kind": of, "metadata": {"name": name}, "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object)?;
        eventually("it is admitted", PATIENCE, async || {
            Ok(Some(objects(of).create(&PostParams::default(), &object).await?))
        })
        .await
    };
    let common = json!({
        "selector": {"names": [node]}, "pullSecrets": ["cred"],
        "completionPolicy": {"type": "Always", "ttlSecondsAfterFinished": 0},
    });
    let with = |member: &str, value: Value| {
        let mut spec = common.clone();
        spec[member] = value;
        spec
    };
    create("ImagePullJob", "slow", with("image", json!("registry.example/slow:1"))).await?;
    create("ImagePullJob", "short", with("image", json!("registry.example/a:1"))).await?;
    create("ImageListPullJob", "list", with("images", json!(["registry.example/b:1"]))).await?;
    until("those that end are gone", PATIENCE * 2, async || {
        Ok(objects("ImagePullJob").get_opt("short").await?.is_none()
            && objects("ImageListPullJob").get_opt("list").await?.is_none())
    })
    .await?;
    objects("ImagePullJob").delete("slow", &DeleteParams::default()).await?;
    until("so is the one that does not", PATIENCE, async || {
        Ok(objects("ImagePullJob").get_opt("slow").await?.is_none())
    })
    .await?;
    daemons.abort();
    let old = json!({"spec": {"images": {"registry.example/silent": {"tags": [{"tag": "1",
        "createdAt": "2026-01-01T00:00:00Z", "pullPolicy": {"ttlSecondsAfterFinished": 600}}]}}}});
    node_images.patch(&node, &PatchParams::default(), &Patch::Merge(old)).await?;
    until("what nobody answers for is given up", PATIENCE, async || {
        let status = node_images.get(&node).await?.data["status"].clone();
        Ok(status["imageStatuses"]["registry.example/silent"]["tags"][0]["phase"] == "Failed")
    })
    .await?;
    nodes.delete(&node, &DeleteParams::default()).await?;
    until("the NodeImage goes with its node", PATIENCE, async || Ok(node_images.get_opt(&node).await?.is_none())).await
}
