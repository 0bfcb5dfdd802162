//! Outrigger itself on the node: installed by `kubectl apply -k manifests/ha`, from the image that `make image` packs.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use outrigger::api::names;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, Stop, Test, alone, eventually, until};

const NAMESPACE: &str = names::DEFAULT_NAMESPACE;
const DEPLOYMENT: &str = "outrigger-manager";
const IMAGE: &str = "target/image/outrigger.tar";

/// Images are pulled, processes start, probes succeed.
const PATIENCE: Duration = Duration::from_mins(1);

/// After it was switched off and on, a cluster must be in order again.
const HEALED: Duration = Duration::from_mins(1);

/// The kubelet has seen that a killed container is gone, and every proxy knows it.
const NOTICED: Duration = Duration::from_secs(10);

pub fn tests() -> Vec<Test> {
    alone![
        a_deployments_pods_run_with_their_sidecars,
        no_pod_is_refused_while_replicas_are_rolled_and_none_goes_without_its_sidecar_when_one_is_killed,
        a_cluster_that_was_switched_off_heals_with_policy_fail,
        kubectl_delete_leaves_nobody_in_the_way,
    ]
}

// === installed ===

fn manifests() -> String {
    format!("{}/manifests/ha", env!("CARGO_MANIFEST_DIR"))
}

/// Installs it unless another test did.
pub async fn installed(cluster: &Cluster) -> Result<()> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _first = ONE_AT_A_TIME.lock().await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), NAMESPACE);
    let is_there = |it: Deployment| it.metadata.deletion_timestamp.is_none();
    if !deployments.get_opt(DEPLOYMENT).await?.is_some_and(is_there) {
        install(cluster).await?;
    }
    Ok(())
}

/// Applies the manifests as a user does, and waits until both replicas serve.
async fn install(cluster: &Cluster) -> Result<()> {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join(IMAGE);
    ensure!(image.exists(), "there is no {IMAGE}: run `make image`");
    cluster.push(&format!("oci-archive:{}", image.display()), "outrigger:latest").await?;
    gone(cluster).await?;
    cluster.kubectl_says(&["apply", "--server-side", "-k", &manifests()]).await?;
    let status = ["-n", NAMESPACE, "rollout", "status", "deployment", DEPLOYMENT, "--timeout=60s"];
    cluster.kubectl_says(&status).await?;
    Ok(())
}

/// Waits until nothing of an earlier installation is on its way out.
async fn gone(cluster: &Cluster) -> Result<()> {
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    until("the installation before is gone", PATIENCE, async || {
        let namespace = namespaces.get_opt(NAMESPACE).await?;
        let definitions = definitions.list(&ListParams::default()).await?;
        let mut metadata =
            definitions.items.iter().map(|it| &it.metadata).chain(namespace.iter().map(|it| &it.metadata));
        Ok(metadata.all(|metadata| metadata.deletion_timestamp.is_none()))
    })
    .await
}

/// A SidecarSet for the pods of this namespace that are labelled `app=web`, written in v1alpha1.
async fn a_set(cluster: &Cluster, ns: &Namespace) -> Result<String> {
    let name = format!("{}-mesh", ns.name());
    let set = json!({
        "apiVersion": "apps.kruise.io/v1alpha1", "kind": "SidecarSet",
        "metadata": {"name": name, "labels": {"apps.kruise.io/sidecarset-custom-version": "v3"}},
        "spec": {
            "namespace": ns.name(),
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "proxy", "image": "sidecar:1"}],
            "updateStrategy": {"type": "NotUpdate"},
        },
    });
    let file = cluster.dir().join(format!("{name}.json"));
    std::fs::write(&file, set.to_string())?;
    cluster.kubectl_says(&["apply", "-f", &file.display().to_string()]).await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let probe = a_pod("probe", &json!({}))?;
    until("the SidecarSet is known", PATIENCE, async || {
        Ok(containers(&ns.api::<Pod>().create(&dry_run, &probe).await?) == ["proxy", "app"])
    })
    .await?;
    Ok(name)
}

/// Installs, makes [`a_set`], does what a test is about, and writes down what the replicas said; then the set goes.
async fn with_a_set(cluster: &Cluster, ns: &Namespace, test: impl AsyncFnOnce(&str) -> Result<()>) -> Result<()> {
    install(cluster).await?;
    let set = a_set(cluster, ns).await?;
    let tested = test(&set).await;
    let all = ["-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/component=manager", "--prefix", "--tail=-1"];
    let said = cluster.kubectl_says(&all).await.unwrap_or_else(|error| format!("{error:#}"));
    std::fs::write(cluster.logs().join(format!("manager-{}.log", ns.name())), said)?;
    tested?;
    cluster.kubectl_says(&["delete", "sidecarset", &set]).await?;
    Ok(())
}

fn a_pod(name: &str, change: &Value) -> Result<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    json_patch::merge(&mut pod, change);
    Ok(serde_json::from_value(pod)?)
}

fn containers(pod: &Pod) -> Vec<&str> {
    pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect()
}

async fn runs(ns: &Namespace, name: &str) -> Result<Pod> {
    let pods: Api<Pod> = ns.api();
    eventually(&format!("pod {name} is ready"), PATIENCE, async || {
        let pod = pods.get(name).await?;
        Ok(is_ready(&pod).then_some(pod))
    })
    .await
}

// === injected ===

async fn a_deployments_pods_run_with_their_sidecars(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    with_a_set(cluster, ns, async |set| injected(cluster, ns, set).await).await
}

async fn injected(cluster: &Cluster, ns: &Namespace, set: &str) -> Result<()> {
    // The API server asks us, at the address of a Service, for either version.
    for (version, field, wanted) in [
        ("v1beta1", "{.spec.customVersion}", "v3"),
        ("v1alpha1", r"{.metadata.labels.apps\.kruise\.io/sidecarset-custom-version}", "v3"),
    ] {
        let kind = format!("sidecarsets.{version}.apps.kruise.io");
        let said = cluster.kubectl_says(&["get", &kind, set, "-o", &format!("jsonpath={field}")]).await?;
        ensure!(said.trim() == wanted, "in {version}: {said:?}");
    }
    ns.create_json::<Deployment>(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        }},
    }))
    .await?;
    let pods = eventually("three pods are ready", PATIENCE, async || {
        let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok((pods.len() == 3 && pods.iter().all(is_ready)).then_some(pods))
    })
    .await?;
    for pod in &pods {
        ensure!(containers(pod) == ["proxy", "app"], "{} has {:?}", pod.name_any(), containers(pod));
        let exec = ["exec", "-n", ns.name(), &pod.name_any(), "-c", "proxy", "--", "cat", "/version"];
        ensure!(cluster.kubectl_says(&exec).await?.trim() == "sidecar 1");
    }
    Ok(())
}

// === disturbed ===

/// What the creators of pods saw.
#[derive(Default)]
struct Seen {
    created: AtomicUsize,
    /// Refusals while no replica had been killed.
    refused: Mutex<Vec<String>>,
    /// Calls that met the replica that was killed, until everybody knew.
    met_the_killed: AtomicUsize,
    killed: AtomicBool,
    stop: AtomicBool,
}

async fn no_pod_is_refused_while_replicas_are_rolled_and_none_goes_without_its_sidecar_when_one_is_killed(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    with_a_set(cluster, ns, async |_| disturbed(cluster, ns).await).await
}

async fn disturbed(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let seen = Arc::new(Seen::default());
    let creators: Vec<JoinHandle<()>> = (0..2).map(|n| tokio::spawn(create(ns.api(), n, Arc::clone(&seen)))).collect();
    let disturbances = async {
        reached(&seen, 50).await?;
        cluster.kubectl_says(&["-n", NAMESPACE, "rollout", "restart", "deployment", DEPLOYMENT]).await?;
        let status = ["-n", NAMESPACE, "rollout", "status", "deployment", DEPLOYMENT, "--timeout=60s"];
        cluster.kubectl_says(&status).await?;
        reached(&seen, 50).await?;
        let rolled = seen.created.load(Relaxed);

        seen.killed.store(true, Relaxed);
        let asked = Instant::now();
        kill_a_replica(cluster).await?;
        sleep(NOTICED.saturating_sub(asked.elapsed())).await;
        seen.killed.store(false, Relaxed);
        cluster.kubectl_says(&status).await?;
        reached(&seen, 50).await?;
        anyhow::Ok(rolled)
    };
    let disturbed = timeout(Duration::from_mins(2), disturbances).await;
    seen.stop.store(true, Relaxed);
    for creator in creators {
        creator.await?;
    }
    let rolled = disturbed.context("the disturbances took too long")??;
    let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
    let missed = pods.iter().filter(|pod| containers(pod) != ["proxy", "app"]).count();
    let refused = seen.refused.lock().unwrap().clone();
    println!(
        "{} pods created, {rolled} of them by the end of a rolling restart; {} refused, {missed} without their sidecar; {} \
         calls met a killed replica and were made again",
        pods.len(),
        refused.len(),
        seen.met_the_killed.load(Relaxed),
    );
    ensure!(refused.is_empty(), "{} refused: {:#?}", refused.len(), refused.iter().take(3).collect::<Vec<_>>());
    ensure!(missed == 0, "{missed} pods without their sidecar");
    Ok(())
}

/// Creates pods that no node takes, until told to stop.
async fn create(pods: Api<Pod>, creator: usize, seen: Arc<Seen>) {
    let mut number = 0;
    while !seen.stop.load(Relaxed) {
        let nowhere = json!({"spec": {"nodeSelector": {"is": "nowhere"}}});
        let Ok(pod) = a_pod(&format!("pod-{creator}-{number}"), &nowhere) else { return };
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                seen.created.fetch_add(1, Relaxed);
                number += 1;
            }
            Err(error) if seen.killed.load(Relaxed) && error.to_string().contains("failed calling webhook") => {
                seen.met_the_killed.fetch_add(1, Relaxed);
            }
            Err(error) => {
                seen.refused.lock().unwrap().push(error.to_string());
                number += 1;
            }
        }
        // The node is for the pods of others, too.
        sleep(Duration::from_millis(20)).await;
    }
}

async fn reached(seen: &Seen, more: usize) -> Result<()> {
    let goal = seen.created.load(Relaxed) + more;
    until("more pods are created", PATIENCE, async || Ok(seen.created.load(Relaxed) >= goal)).await
}

/// Kills the process of one replica with -9, by the id that containerd knows it by.
async fn kill_a_replica(cluster: &Cluster) -> Result<()> {
    let replicas: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let replicas = replicas.list(&ListParams::default().labels("app.kubernetes.io/component=manager")).await?;
    let replica = replicas.items.iter().find(|pod| is_ready(pod)).context("no replica is ready")?;
    let statuses = replica.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let id = { statuses }.find_map(|status| status.container_id.as_deref()).context("it has no container")?;
    let id = id.strip_prefix("containerd://").unwrap_or(id);
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(cluster.containerd().await?).args(["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]);
    let killed = tokio::task::spawn_blocking(move || ctr.output()).await??;
    ensure!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
    Ok(())
}

// === switched off ===

async fn a_cluster_that_was_switched_off_heals_with_policy_fail(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    with_a_set(cluster, ns, async |_| healed(cluster, ns).await).await
}

async fn healed(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    cluster.stop_all(Stop::Kill).await?;
    cluster.start_all().await?;
    let began = Instant::now();
    let pods: Api<Pod> = ns.api();
    let pod = a_pod("after", &json!({}))?;
    until("a pod is created", HEALED, async || {
        pods.create(&PostParams::default(), &pod).await?;
        Ok(true)
    })
    .await?;
    println!("the first pod was created {:.1} s after the cluster was up", began.elapsed().as_secs_f64());
    let pod = runs(ns, "after").await?;
    ensure!(containers(&pod) == ["proxy", "app"], "it has {:?}", containers(&pod));
    Ok(())
}

// === removed ===

async fn kubectl_delete_leaves_nobody_in_the_way(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    a_set(cluster, ns).await?;
    ns.api::<Pod>().create(&PostParams::default(), &a_pod("before", &json!({}))?).await?;
    let before = runs(ns, "before").await?;
    cluster.kubectl_says(&["delete", "--ignore-not-found", "-k", &manifests(), "--timeout=90s"]).await?;
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    until("no webhook is registered", PATIENCE, async || {
        let list = ListParams::default();
        Ok(mutating.list(&list).await?.items.is_empty() && validating.list(&list).await?.items.is_empty())
    })
    .await?;
    let pods: Api<Pod> = ns.api();
    let created = pods.create(&PostParams::default(), &a_pod("after", &json!({}))?).await?;
    ensure!(containers(&created) == ["app"], "it has {:?}", containers(&created));
    let kept = pods.get("before").await?;
    ensure!(kept.uid() == before.uid() && is_ready(&kept), "the pod that was injected runs on");
    pods.delete("after", &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}
