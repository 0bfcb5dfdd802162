//! The daemon on its node: installed by `kubectl apply -k manifests/daemon` beside the manager.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::facts::is_ready;
use crate::harness::{Cluster, eventually};
use crate::outrigger;
use crate::pods::PATIENCE;

const NAMESPACE: &str = "outrigger-daemon";
const DAEMON_SET: &str = "outrigger-daemon";

/// Installs manager and daemon unless another test did; the daemon's pod, once it is ready.
pub async fn installed(cluster: &Cluster) -> Result<Pod> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _first = ONE_AT_A_TIME.lock().await;
    outrigger::installed(cluster).await?;
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client(), NAMESPACE);
    if sets.get_opt(DAEMON_SET).await?.is_none() {
        let manifests = format!("{}/manifests/daemon", env!("CARGO_MANIFEST_DIR"));
        cluster.kubectl_says(&["apply", "--server-side", "-k", &manifests]).await?;
        let status = ["-n", NAMESPACE, "rollout", "status", "daemonset", DAEMON_SET, "--timeout=60s"];
        cluster.kubectl_says(&status).await?;
    }
    eventually("the daemon is ready", PATIENCE, async || Ok(Some(pod(cluster).await?).filter(is_ready))).await
}

/// The pod of the daemon.
async fn pod(cluster: &Cluster) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/component=daemon")).await?;
    found.items.into_iter().next().context("there is no daemon")
}
