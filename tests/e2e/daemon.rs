//! The daemon on its node: installed by `kubectl apply -k manifests/daemon` beside the manager.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::facts::is_ready;
use crate::harness::{Cluster, NODE, Namespace, Test, alone, eventually, until};
use crate::outrigger;
use crate::pods::{self, PATIENCE};

pub const NAMESPACE: &str = "outrigger-daemon";
pub const DAEMON_SET: &str = "outrigger-daemon";

/// What the shipped daemon keeps free on its disk, and what the one of the tests does.
const SHIPPED_RESERVE: &str = "--image-fs-reserve=15%";
pub const RESERVE: &str = "--image-fs-reserve=1%";

/// Pods beside the daemon while it has nothing to do.
const PODS: usize = 100;
/// How long it is watched doing nothing.
const IDLE: Duration = Duration::from_mins(1);
/// What it may take meanwhile.
const MEBIBYTES: f64 = 15.0;
const CORE_PERCENT: f64 = 0.5;

pub fn tests() -> Vec<Test> {
    let mut tests = alone![without_a_runtime_it_stays_up_and_says_why_weak_36];
    tests.extend(
        alone![it_costs_next_to_nothing_while_idle].into_iter().map(|test| test.within(Duration::from_mins(12))),
    );
    tests
}

/// Installs manager and daemon unless another test did; the daemon's pod, once it is ready.
pub async fn installed(cluster: &Cluster) -> Result<Pod> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _first = ONE_AT_A_TIME.lock().await;
    outrigger::installed(cluster).await?;
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client(), NAMESPACE);
    if sets.get_opt(DAEMON_SET).await?.is_none() {
        // As it is shipped, but that this machine may be fuller than a node should be.
        let manifests =
            cluster.kubectl_says(&["kustomize", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/daemon")]).await?;
        ensure!(manifests.contains(SHIPPED_RESERVE), "{DAEMON_SET} has no {SHIPPED_RESERVE}");
        let file = cluster.dir().join("daemon.yaml");
        fs::write(&file, manifests.replace(SHIPPED_RESERVE, RESERVE))?;
        cluster.kubectl_says(&["apply", "--server-side", "-f", &file.display().to_string()]).await?;
        let status = ["-n", NAMESPACE, "rollout", "status", "daemonset", DAEMON_SET, "--timeout=60s"];
        let told = cluster.kubectl_says(&status).await;
        if told.is_err() {
            let describe = ["-n", NAMESPACE, "describe", "pods"];
            println!("{}", cluster.kubectl_says(&describe).await.unwrap_or_default());
            println!("{}", log(cluster).await);
        }
        told?;
    }
    eventually("the daemon is ready", PATIENCE, async || Ok(Some(pod(cluster).await?).filter(is_ready))).await
}

/// The pod of the daemon.
pub async fn pod(cluster: &Cluster) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/component=daemon")).await?;
    found.items.into_iter().next().context("there is no daemon")
}

/// What it said.
pub async fn log(cluster: &Cluster) -> String {
    let all = ["-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/component=daemon", "--tail=-1"];
    cluster.kubectl_says(&all).await.unwrap_or_else(|error| format!("{error:#}"))
}

/// Kills the daemon's process with -9, by the id that containerd knows it by. Nothing when it is not running.
pub async fn kill(cluster: &Cluster) -> Result<bool> {
    let pod = pod(cluster).await?;
    let status = pods::status(&pod, "daemon")?;
    if status.state.as_ref().is_none_or(|state| state.running.is_none()) {
        return Ok(false);
    }
    let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://")).context("no id")?;
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(cluster.containerd().await?).args(["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]);
    Ok(tokio::task::spawn_blocking(move || ctr.output()).await??.status.success())
}

async fn without_a_runtime_it_stays_up_and_says_why_weak_36(cluster: &Cluster, _: &Namespace) -> Result<()> {
    installed(cluster).await?;
    // As the DaemonSet makes it, but that its node has no socket.
    let set = Api::<DaemonSet>::namespaced(cluster.client(), NAMESPACE).get(DAEMON_SET).await?;
    let mut spec: Value = serde_json::to_value(set.spec.context("no spec")?.template.spec)?;
    spec["volumes"] = json!([{"name": "run", "emptyDir": {}}]);
    spec["nodeName"] = json!(NODE);
    let blind: Pod = serde_json::from_value(json!({"metadata": {"name": "blind"}, "spec": spec}))?;
    let api: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    api.create(&PostParams::default(), &blind).await?;
    until("it runs", PATIENCE, async || {
        Ok(pods::status(&api.get("blind").await?, "daemon").is_ok_and(|status| status.started == Some(true)))
    })
    .await?;
    // Longer than a liveness probe needs to end it.
    sleep(Duration::from_secs(40)).await;
    let pod = api.get("blind").await?;
    let status = pods::status(&pod, "daemon")?;
    ensure!(status.restart_count == 0 && !status.ready, "it was restarted, or claims to be ready: {status:#?}");
    let said = cluster.kubectl_says(&["-n", NAMESPACE, "logs", "blind"]).await?;
    let lines: Vec<&str> = said.lines().collect();
    println!("it said {} lines, the last:\n{}", lines.len(), lines.last().unwrap_or(&""));
    ensure!(said.contains("/hostvarrun/containerd/containerd.sock"), "it does not say where it looked: {said}");
    ensure!(lines.len() < 60, "it says it again and again: {} lines", lines.len());
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("no address")?;
    let answer = http(&format!("{address}:10221"), "/readyz").await?;
    println!("/readyz: {answer}");
    ensure!(answer.contains(" 503 ") && answer.contains("containerd.sock"), "{answer}");
    api.delete("blind", &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

async fn it_costs_next_to_nothing_while_idle(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    for number in 0..PODS {
        let bare = json!({"spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 0}});
        pods::create(ns, &format!("web-{number}"), json!([{"name": "app", "image": "app:1"}]), &bare).await?;
    }
    until("they are all ready", Duration::from_mins(8), async || {
        let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok(pods.len() == PODS && pods.iter().all(is_ready))
    })
    .await?;
    // One that has only just started, so that it does not matter which tests ran before; those are told apart.
    let veteran = pod(cluster).await?;
    println!("after what it did before: {:.1} MiB resident", resident(&process_of(&veteran)?)?);
    let restarts = pods::status(&veteran, "daemon")?.restart_count;
    until("it is killed", PATIENCE, async || kill(cluster).await).await?;
    let pod = eventually("it is ready again", PATIENCE, async || {
        let pod = pod(cluster).await?;
        let is_another = pods::status(&pod, "daemon").is_ok_and(|status| status.restart_count > restarts);
        Ok(Some(pod).filter(|pod| is_another && is_ready(pod)))
    })
    .await?;
    let process = process_of(&pod)?;
    let (before, began) = (ticks(&process)?, Instant::now());
    sleep(IDLE).await;
    let spent = ticks(&process)? - before;
    let percent = spent / began.elapsed().as_secs_f64();
    let resident = resident(&process)?;
    println!(
        "{} with {PODS} pods on its node: {resident:.1} MiB resident, {percent:.2} % of a core over {} s",
        pod.name_any(),
        IDLE.as_secs(),
    );
    ensure!(resident <= MEBIBYTES && percent < CORE_PERCENT, "it takes more than {MEBIBYTES} MiB or {CORE_PERCENT} %");
    Ok(())
}

/// What a server without TLS answers, head and all.
async fn http(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The directory in `/proc` of the daemon's process.
fn process_of(pod: &Pod) -> Result<std::path::PathBuf> {
    let id = pods::status(pod, "daemon")?.container_id.clone().unwrap_or_default();
    process(id.strip_prefix("containerd://").unwrap_or(&id))
}

/// The directory in `/proc` of the process of a container, by the name of its control group.
fn process(id: &str) -> Result<std::path::PathBuf> {
    let all = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let mut of = all.filter(|path| fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.contains(id)));
    of.next().with_context(|| format!("there is no process of {id}"))
}

/// Time that it has run, in hundredths of a second.
fn ticks(process: &Path) -> Result<f64> {
    let stat = fs::read_to_string(process.join("stat"))?;
    // The second field is the name, in parentheses.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("no such field");
    Ok(field(11)? + field(12)?)
}

/// MiB in memory.
fn resident(process: &Path) -> Result<f64> {
    let status = fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
