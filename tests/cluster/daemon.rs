//! `outrigger daemon` as a process of its own, under the token of its pod, installed by `kubectl apply -k manifests/daemon`.
//! The runtime is ours, and so is the kubelet: it starts containers again that ended, and writes the pods' statuses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Node, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use outrigger::cri::v1;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::{Cluster, Namespace, PATIENCE, Process, Test, eventually, run, until};
use crate::runtime::{Behaviour, Runtime};

const NAMESPACE: &str = "outrigger-daemon";
const ACCOUNT: &str = "outrigger-daemon";

pub fn tests() -> Vec<Test> {
    run::alone![a_daemon_writes_about_its_own_node_alone_weak_38]
}

// === what is installed ===

/// Makes the API server know ContainerRecreateRequests, and applies the daemon's manifests.
async fn install(cluster: &Cluster) -> Result<()> {
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    until("the namespace of the last test is gone", PATIENCE, async || {
        Ok(namespaces.get_opt(NAMESPACE).await?.is_none_or(|ns| ns.metadata.deletion_timestamp.is_none()))
    })
    .await?;
    let root = env!("CARGO_MANIFEST_DIR");
    let name = "containerrecreaterequests.apps.kruise.io";
    let text = std::fs::read_to_string(format!("{root}/manifests/crds/apps.kruise.io_containerrecreaterequests.yaml"))?;
    let mut crd: Value = serde_saphyr::from_str(&text)?;
    // Nobody serves conversion here.
    crd["spec"]["conversion"] = json!({"strategy": "None"});
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.context("the CRD")?;
    let manifests = format!("{root}/manifests/daemon");
    cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-k", &manifests]).await?;
    let requests: Api<DynamicObject> = Api::all_with(cluster.client(), &kind());
    until("requests are served", PATIENCE, async || Ok(requests.list(&ListParams::default()).await.is_ok())).await
}

/// Takes the manifests away again.
async fn remove(cluster: &Cluster) -> Result<()> {
    let objects = [
        "validatingadmissionpolicybinding/outrigger-daemon",
        "validatingadmissionpolicy/outrigger-daemon",
        "clusterrolebinding/outrigger-daemon",
        "clusterrole/outrigger-daemon",
        "namespace/outrigger-daemon",
    ];
    for object in objects {
        cluster.kubectl_says(&["delete", object, "--ignore-not-found", "--wait=false"]).await?;
    }
    Ok(())
}

/// Installs, does what a test is about, and takes everything away again, also when it failed.
async fn while_installed(cluster: &Cluster, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    install(cluster).await?;
    let tested = test().await;
    remove(cluster).await?;
    tested
}

fn kind() -> ApiResource {
    ApiResource {
        group: "apps.kruise.io".into(),
        version: "v1beta1".into(),
        api_version: "apps.kruise.io/v1beta1".into(),
        kind: "ContainerRecreateRequest".into(),
        plural: "containerrecreaterequests".into(),
    }
}

fn requests(client: &Client, ns: &Namespace) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), ns.name(), &kind())
}

/// A node of this test, and the daemon's pod on it. Nothing runs there.
async fn node(cluster: &Cluster, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client());
    let node = json!({"metadata": {"name": name}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let pod = json!({
        "metadata": {"name": format!("daemon-{name}")},
        "spec": {
            "serviceAccountName": ACCOUNT,
            "nodeName": name,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "daemon", "image": "outrigger"}],
        },
    });
    let pod: Pod = serde_json::from_value(pod)?;
    eventually("the ServiceAccount is there", PATIENCE, async || {
        pods.create(&PostParams::default(), &pod).await?;
        Ok(Some(()))
    })
    .await
}

// === rights ===

async fn a_daemon_writes_about_its_own_node_alone_weak_38(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    while_installed(cluster, async || writes_of_a_daemon(cluster, ns).await).await
}

async fn writes_of_a_daemon(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let [mine, other] = ["mine", "other"].map(|name| format!("{}-{name}", ns.name()));
    node(cluster, &mine).await?;
    let credentials = cluster.token_of_pod(NAMESPACE, ACCOUNT, &format!("daemon-{mine}")).await?;
    let daemon = cluster.client_with(&credentials).await?;
    for node in [&mine, &other] {
        let request = json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "ContainerRecreateRequest",
            "metadata": {"name": node, "labels": {"crr.apps.kruise.io/node-name": node}},
            "spec": {"podName": "web", "containers": [{"name": "web"}]},
        });
        requests(&cluster.client(), ns).create(&PostParams::default(), &serde_json::from_value(request)?).await?;
    }
    let status = |client: &Client, name: &str| {
        let (api, name) = (requests(client, ns), name.to_owned());
        async move {
            let patch = json!({"status": {"phase": "Recreating"}});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
        }
    };
    let event = |node: &str| {
        let api: Api<Event> = Api::namespaced(daemon.clone(), ns.name());
        let event = json!({
            "metadata": {"generateName": "web-"},
            "eventTime": "2026-01-02T03:04:05.000000Z",
            "action": "Killing", "reason": "Killing", "type": "Normal", "note": "test",
            "reportingController": "kruise-daemon-crr", "reportingInstance": node,
            "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": ns.name(), "name": "web"},
        });
        async move { api.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await }
    };
    // A policy is enforced some time after it was made.
    let refused =
        eventually("the policy is enforced", PATIENCE, async || Ok(status(&daemon, &other).await.err())).await?;
    let told = refused.to_string();
    ensure!(told.contains(&format!("may not write containerrecreaterequests of node \"{other}\"")), "{told}");
    status(&daemon, &mine).await.context("the status of a request of its own node")?;
    event(&mine).await.context("an event of its own node")?;
    let told = event(&other).await.err().context("an event of another node")?.to_string();
    ensure!(told.contains("may not write events"), "{told}");

    let unbound = cluster.client_of(NAMESPACE, ACCOUNT).await?;
    let told = status(&unbound, &mine).await.err().context("a token that names no node")?.to_string();
    ensure!(told.contains("names no node"), "{told}");
    status(&cluster.client(), &other).await.context("others are not concerned")?;
    let nodes: Api<Node> = Api::all(cluster.client());
    nodes.delete(&mine, &DeleteParams::default()).await?;
    Ok(())
}
