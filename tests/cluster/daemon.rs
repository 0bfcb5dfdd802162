//! `outrigger daemon` as a process of its own, under the token of its pod, installed by `kubectl apply -k manifests/daemon`.
//! The runtime is ours, and so is the kubelet: it starts containers again that ended, and writes the pods' statuses.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

mod images;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::harness::{Cluster, Namespace, PATIENCE, Process, Stop, Test, eventually, run, until};
use crate::runtime::{Behaviour, Runtime};

const NAMESPACE: &str = "outrigger-daemon";
const ACCOUNT: &str = "outrigger-daemon";

pub fn tests() -> Vec<Test> {
    let mut tests = run::alone![
        a_daemon_writes_about_its_own_node_alone_weak_38,
        a_container_is_restarted_and_its_pod_is_told_crr_52,
        containers_are_restarted_one_after_another_crr_47,
        a_hook_runs_once_before_the_stop_also_when_the_daemon_is_killed_weak_2,
        a_drain_is_waited_for_crr_27,
        a_stop_that_fails_is_tried_again_weak_3,
        what_was_begun_is_ended_though_its_request_is_deleted_crr_63,
        fifty_requests_for_one_pod_are_all_carried_out_weak_1,
        requests_survive_a_daemon_that_is_killed_again_and_again_weak_2,
        slow_pods_hold_up_no_other_weak_6,
        a_runtime_that_comes_late_is_waited_for_weak_36,
        a_dry_run_does_nothing,
        rights_are_exactly_those_that_are_used,
        a_daemon_costs_little_with_a_hundred_pods,
    ];
    tests.extend(images::tests());
    tests
}

// === what is installed ===

/// Makes the API server know what the daemon works on, and applies the daemon's manifests.
async fn install(cluster: &Cluster) -> Result<()> {
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    until("the namespace of the last test is gone", PATIENCE, async || {
        Ok(namespaces.get_opt(NAMESPACE).await?.is_none_or(|ns| ns.metadata.deletion_timestamp.is_none()))
    })
    .await?;
    let root = env!("CARGO_MANIFEST_DIR");
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for plural in ["containerrecreaterequests", "nodeimages"] {
        let text = std::fs::read_to_string(format!("{root}/manifests/crds/apps.kruise.io_{plural}.yaml"))?;
        let mut crd: Value = serde_saphyr::from_str(&text)?;
        // Nobody serves conversion here.
        crd["spec"]["conversion"] = json!({"strategy": "None"});
        let name = format!("{plural}.apps.kruise.io");
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.context("a CRD")?;
    }
    let manifests = format!("{root}/manifests/daemon");
    cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-k", &manifests]).await?;
    let requests: Api<DynamicObject> = Api::all_with(cluster.client(), &kind());
    let images = images::node_images(&cluster.client());
    until("both kinds are served", PATIENCE, async || {
        let list = ListParams::default();
        Ok(requests.list(&list).await.is_ok() && images.list(&list).await.is_ok())
    })
    .await
}

/// Takes the manifests away again.
async fn remove(cluster: &Cluster) -> Result<()> {
    // No kubelet says that they ended.
    cluster.kubectl_says(&["-n", NAMESPACE, "delete", "pods", "--all", "--force", "--grace-period=0"]).await?;
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

/// A node with its runtime, its kubelet and its daemon.
struct Host<'c> {
    cluster: &'c Cluster,
    ns: &'c Namespace,
    name: String,
    kubeconfig: PathBuf,
    runtime: Arc<Mutex<Runtime>>,
    /// Pods with the names of their containers, for the kubelet.
    pods: Arc<Mutex<Vec<KnownPod>>>,
    /// How long the kubelet takes to start a container again.
    delay: Arc<Mutex<Duration>>,
    kubelet: JoinHandle<()>,
    _dir: TempDir,
}

#[derive(Clone)]
struct KnownPod {
    name: String,
    uid: String,
    containers: Vec<String>,
}

/// A running daemon.
struct Daemon {
    process: Process,
    port: u16,
}

impl<'c> Host<'c> {
    async fn new(cluster: &'c Cluster, ns: &'c Namespace) -> Result<Self> {
        let name = ns.name().to_owned();
        node(cluster, &name).await?;
        let credentials = cluster.token_of_pod(NAMESPACE, ACCOUNT, &format!("daemon-{name}")).await?;
        let kubeconfig = cluster.kubeconfig_with(&name, &credentials)?;
        let dir = tempfile::tempdir()?;
        let runtime = Runtime::start(&dir.path().join("containerd/containerd.sock"), "containerd");
        let runtime = Arc::new(Mutex::new(runtime));
        let (pods, delay) = (Arc::default(), Arc::default());
        let kubelet = tokio::spawn(kubelet(ns.clone(), Arc::clone(&runtime), Arc::clone(&pods), Arc::clone(&delay)));
        Ok(Self { cluster, ns, name, kubeconfig, runtime, pods, delay, kubelet, _dir: dir })
    }

    fn runtime(&self) -> MutexGuard<'_, Runtime> {
        self.runtime.lock().unwrap()
    }

    async fn daemon(&self, args: &[&str]) -> Result<Daemon> {
        let daemon = self.start(args)?;
        daemon.is_ready().await?;
        Ok(daemon)
    }

    fn start(&self, args: &[&str]) -> Result<Daemon> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        drop(listener);
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("NODE_NAME", &self.name)
            // As the manifests have it.
            .env("MIMALLOC_ALLOW_THP", "0")
            .args(["daemon", "--log", "outrigger=debug", "--addr", &format!("127.0.0.1:{port}")])
            .arg("--runtime-endpoint")
            .arg(format!("unix://{}", self.runtime().socket.display()))
            .args(args);
        Ok(Daemon { process: self.cluster.spawn("daemon", &command)?, port })
    }

    /// A running pod with these containers, and this change of its spec.
    async fn pod(&self, name: &str, containers: &[&str], change: &Value) -> Result<KnownPod> {
        let list: Vec<Value> = containers.iter().map(|name| json!({"name": name, "image": "example/web:1"})).collect();
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": self.name, "containers": list, "tolerations": [{"operator": "Exists"}]},
        });
        if change.is_object() {
            pod["spec"]["containers"][0].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        }
        let made: Pod = self.ns.create_json(pod).await?;
        let known = KnownPod {
            name: name.to_owned(),
            uid: made.uid().context("a UID")?,
            containers: containers.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.pods.lock().unwrap().push(known.clone());
        for container in containers {
            self.runtime().run(&known.uid, container, 0);
        }
        until("the pod's status is written", PATIENCE, async || {
            let pod = self.ns.api::<Pod>().get(name).await?;
            let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
            Ok(statuses.len() == containers.len())
        })
        .await?;
        Ok(known)
    }

    /// The newest instance of a container.
    fn newest(&self, pod: &KnownPod, container: &str) -> v1::ContainerStatus {
        newest(&self.runtime(), pod, container).unwrap()
    }

    /// How often a container was restarted.
    fn restarts(&self, pod: &KnownPod, container: &str) -> u32 {
        self.newest(pod, container).metadata.unwrap().attempt
    }

    /// A request as admission leaves it; `strategy` is that of its spec.
    async fn request(&self, name: &str, pod: &KnownPod, containers: &[&str], strategy: &Value) -> Result<()> {
        let list = containers.iter().map(|container| {
            let newest = self.newest(pod, container);
            let id = format!("containerd://{}", newest.id);
            json!({
                "name": container,
                "statusContext": {"containerID": id, "restartCount": newest.metadata.unwrap().attempt},
            })
        });
        let mut all = json!({"failurePolicy": "Fail", "terminationGracePeriodSeconds": 30});
        json_patch::merge(&mut all, strategy);
        let request = json!({
            "apiVersion": "apps.kruise.io/v1beta1",
            "kind": "ContainerRecreateRequest",
            "metadata": {"name": name, "labels": {
                "crr.apps.kruise.io/node-name": self.name,
                "crr.apps.kruise.io/pod-uid": pod.uid,
                "crr.apps.kruise.io/active": "true",
            }},
            "spec": {"podName": pod.name, "containers": list.collect::<Vec<_>>(), "strategy": all},
        });
        self.requests().create(&PostParams::default(), &serde_json::from_value(request)?).await?;
        Ok(())
    }

    fn requests(&self) -> Api<DynamicObject> {
        requests(&self.cluster.client(), self.ns)
    }

    async fn status(&self, name: &str) -> Result<Value> {
        Ok(self.requests().get(name).await?.data["status"].clone())
    }

    async fn completed(&self, name: &str) -> Result<Value> {
        until(&format!("{name} is completed"), PATIENCE, async || {
            let status = self.status(name).await?;
            if status["phase"] == "Completed" { Ok(true) } else { bail!("{status}") }
        })
        .await?;
        self.status(name).await
    }

    /// What the runtime was told to do that begins so.
    fn logged(&self, beginning: &str) -> Vec<String> {
        self.runtime().world().logged(beginning)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

impl Daemon {
    async fn is_ready(&self) -> Result<()> {
        let ready = until("the daemon is ready", PATIENCE, async || {
            if let Some(exit) = self.process.exit() {
                bail!("the daemon ended: {exit}");
            }
            match get(self.port, "/readyz").await? {
                (200, _) => Ok(true),
                (status, report) => bail!("/readyz says {status}: {report}"),
            }
        });
        ready.await.map_err(|error| self.process.explain(error))
    }
}

fn newest(runtime: &Runtime, pod: &KnownPod, container: &str) -> Option<v1::ContainerStatus> {
    let world = runtime.world();
    let of_it = world.containers.values().filter(|there| there.pod_uid == pod.uid && there.name == container);
    of_it.max_by_key(|there| there.status.created_at).map(|there| there.status.clone())
}

/// Starts containers again that ended, and tells pods.
async fn kubelet(
    ns: Namespace,
    runtime: Arc<Mutex<Runtime>>,
    pods: Arc<Mutex<Vec<KnownPod>>>,
    delay: Arc<Mutex<Duration>>,
) {
    let mut changes = runtime.lock().unwrap().changes();
    let mut told = std::collections::BTreeMap::new();
    loop {
        _ = timeout(Duration::from_millis(100), changes.changed()).await;
        let known = pods.lock().unwrap().clone();
        for pod in known {
            let mut statuses = Vec::new();
            for container in &pod.containers {
                let Some(mut status) = newest(&runtime.lock().unwrap(), &pod, container) else { continue };
                if status.state() == v1::ContainerState::ContainerExited {
                    let pause = *delay.lock().unwrap();
                    sleep(pause).await;
                    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt) + 1;
                    let runtime = runtime.lock().unwrap();
                    runtime.run(&pod.uid, container, attempt.try_into().unwrap());
                    status = newest(&runtime, &pod, container).unwrap();
                }
                statuses.push(json!({
                    "name": container, "image": "example/web:1", "imageID": "example/web@sha256:0",
                    "ready": true, "started": true, "containerID": format!("containerd://{}", status.id),
                    "restartCount": status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
                    "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}},
                }));
            }
            let patch = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": statuses}});
            if told.get(&pod.uid) != Some(&patch) {
                let api: Api<Pod> = ns.api();
                if api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                    told.insert(pod.uid.clone(), patch);
                }
            }
        }
    }
}

/// Status and body of a page, in the clear.
async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    };
    timeout(Duration::from_secs(5), asked).await?
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
    writes_of_node_images(cluster, &daemon, [&mine, &other]).await?;
    let nodes: Api<Node> = Api::all(cluster.client());
    nodes.delete(&mine, &DeleteParams::default()).await?;
    Ok(())
}

/// The status of the NodeImage of its own node, and nothing else of it.
async fn writes_of_node_images(cluster: &Cluster, daemon: &Client, [mine, other]: [&str; 2]) -> Result<()> {
    let file = format!("{}/manifests/crds/apps.kruise.io_nodeimages.yaml", env!("CARGO_MANIFEST_DIR"));
    cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await?;
    let kind = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "NodeImage"));
    let [own, all]: [Api<DynamicObject>; 2] =
        [daemon.clone(), cluster.client()].map(|client| Api::all_with(client, &kind));
    for node in [mine, other] {
        let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage", "metadata": {"name": node}});
        let object: DynamicObject = serde_json::from_value(object)?;
        eventually("NodeImages are served", PATIENCE, async || {
            all.create(&PostParams::default(), &object).await?;
            Ok(Some(()))
        })
        .await?;
    }
    let status = Patch::Merge(json!({"status": {"desired": 0}}));
    own.patch_status(mine, &PatchParams::default(), &status).await.context("the status of its own NodeImage")?;
    let told = own.patch_status(other, &PatchParams::default(), &status).await.err().context("that of another")?;
    ensure!(told.to_string().contains(&format!("may not write nodeimages of node \"{other}\"")), "{told}");
    let spec = Patch::Merge(json!({"spec": {"images": {}}}));
    own.patch(mine, &PatchParams::default(), &spec).await.err().context("the spec of its own NodeImage")?;
    for node in [mine, other] {
        all.delete(node, &DeleteParams::default()).await?;
    }
    Ok(())
}

// === restarts ===

/// Runs a test on a node of its own.
async fn on_a_node(cluster: &Cluster, ns: &Namespace, test: impl AsyncFnOnce(&Host<'_>) -> Result<()>) -> Result<()> {
    while_installed(cluster, async || {
        let host = Host::new(cluster, ns).await?;
        let tested = test(&host).await;
        Api::<Node>::all(cluster.client()).delete(&host.name, &DeleteParams::default()).await?;
        // Some tests have none, or have deleted it.
        _ = images::node_images(&cluster.client()).delete(&host.name, &DeleteParams::default()).await;
        tested
    })
    .await
}

async fn a_container_is_restarted_and_its_pod_is_told_crr_52(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let pod = host.pod("web", &["web", "log"], &json!(null)).await?;
        host.request("r", &pod, &["web"], &json!({})).await?;
        let status = host.completed("r").await?;
        let state = &status["containerRecreateStates"][0];
        ensure!(state["phase"] == "Succeeded" && state["isKilled"] == true, "{status}");
        ensure!((host.restarts(&pod, "web"), host.restarts(&pod, "log")) == (1, 0), "only the one that was asked for");
        let log = host.logged("stop");
        ensure!(log.len() == 1 && log[0].ends_with(" 30"), "{log:?}");
        let events: Api<Event> = ns.api();
        let killing = eventually("the event", PATIENCE, async || {
            let events = events.list(&ListParams::default()).await?;
            Ok(events.into_iter().find(|event| event.reason.as_deref() == Some("Killing")))
        })
        .await?;
        let about = killing.regarding.context("it is about something")?;
        ensure!(about.field_path.as_deref() == Some("spec.containers{web}"), "{about:?}");
        ensure!(about.uid.as_deref() == Some(&*pod.uid), "{about:?}");
        Ok(())
    })
    .await
}

async fn containers_are_restarted_one_after_another_crr_47(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        *host.delay.lock().unwrap() = Duration::from_millis(500);
        let pod = host.pod("web", &["web", "log"], &json!(null)).await?;
        host.request("r", &pod, &["log", "web"], &json!({"orderedRecreate": true})).await?;
        until("the first is stopped", PATIENCE, async || Ok(host.logged("stop").len() == 1)).await?;
        ensure!(
            host.logged("stop web").is_empty() && host.restarts(&pod, "log") == 0,
            "the second waits for the first"
        );
        host.completed("r").await?;
        let log = host.logged("stop");
        ensure!(log.len() == 2 && log[0].starts_with("stop log") && log[1].starts_with("stop web"), "{log:?}");
        ensure!((host.restarts(&pod, "web"), host.restarts(&pod, "log")) == (1, 1), "each once");
        Ok(())
    })
    .await
}

async fn a_hook_runs_once_before_the_stop_also_when_the_daemon_is_killed_weak_2(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["/drain"]}}}});
        let pod = host.pod("web", &["web"], &hook).await?;
        let slow = Behaviour::After(Duration::from_secs(1));
        host.runtime().world().stops.insert("web".to_owned(), [slow.clone(), slow].into());
        let daemon = host.daemon(&[]).await?;
        host.request("r", &pod, &["web"], &json!({"forceRecreate": true})).await?;
        until("the stop is under way", PATIENCE, async || Ok(host.logged("stop").len() == 1)).await?;
        daemon.process.kill();
        daemon.process.ended(PATIENCE).await?;
        let _daemon = host.daemon(&[]).await?;
        host.completed("r").await?;
        ensure!(host.logged("exec").len() == 1, "{:?}", host.logged("exec"));
        ensure!(host.restarts(&pod, "web") == 1, "{:?}", host.logged(""));
        Ok(())
    })
    .await
}

async fn a_drain_is_waited_for_crr_27(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        host.request("r", &pod, &["web"], &json!({"unreadyGracePeriodSeconds": 1})).await?;
        until("it is begun", PATIENCE, async || Ok(host.status("r").await?["phase"] == "Recreating")).await?;
        sleep(Duration::from_millis(500)).await;
        ensure!(host.logged("stop").is_empty(), "nobody has made the pod unready yet");
        let condition = json!({
            "type": "PreRecreateGrace", "status": "True", "reason": "PreRecreateGrace", "message": "",
            // By another clock (WEAK-8): what counts is when the node hears of it.
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        });
        let patch = json!({"status": {"conditions": [condition]}});
        host.requests().patch_status("r", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        host.completed("r").await?;
        ensure!(host.restarts(&pod, "web") == 1, "once");
        Ok(())
    })
    .await
}

async fn a_stop_that_fails_is_tried_again_weak_3(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        let fails = Behaviour::Fails(Duration::ZERO, tonic::Code::Internal, "the shim is stuck".to_owned());
        host.runtime().world().stops.insert("web".to_owned(), [fails].into());
        host.request("r", &pod, &["web"], &json!({})).await?;
        let status = host.completed("r").await?;
        ensure!(status["containerRecreateStates"][0]["phase"] == "Succeeded", "{status}");
        ensure!((host.logged("stop").len(), host.restarts(&pod, "web")) == (2, 1), "{:?}", host.logged("stop"));
        Ok(())
    })
    .await
}

async fn what_was_begun_is_ended_though_its_request_is_deleted_crr_63(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["/drain"]}}}});
        let pod = host.pod("web", &["web"], &hook).await?;
        let slow = Behaviour::After(Duration::from_secs(1));
        host.runtime().world().execs.insert("web".to_owned(), [slow].into());
        host.request("r", &pod, &["web"], &json!({})).await?;
        until("the hook runs", PATIENCE, async || Ok(host.logged("exec").len() == 1)).await?;
        host.requests().delete("r", &DeleteParams::default()).await?;
        until("the container that had its hook is stopped", PATIENCE, async || Ok(host.restarts(&pod, "web") == 1))
            .await?;
        host.request("again", &pod, &["web"], &json!({})).await?;
        host.completed("again").await?;
        ensure!(host.restarts(&pod, "web") == 2, "{:?}", host.logged(""));
        Ok(())
    })
    .await
}

async fn fifty_requests_for_one_pod_are_all_carried_out_weak_1(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        for number in 0..50 {
            host.request(&format!("r-{number}"), &pod, &["web"], &json!({"forceRecreate": true})).await?;
        }
        for number in 0..50 {
            host.completed(&format!("r-{number}")).await?;
        }
        ensure!(host.restarts(&pod, "web") == 50, "{} restarts", host.restarts(&pod, "web"));
        Ok(())
    })
    .await
}

async fn slow_pods_hold_up_no_other_weak_6(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let _daemon = host.daemon(&[]).await?;
        let hangs = std::iter::repeat_n(Behaviour::Hangs, 40).collect();
        host.runtime().world().stops.insert("slow".to_owned(), hangs);
        for number in 0..40 {
            let name = format!("slow-{number}");
            let pod = host.pod(&name, &["slow"], &json!(null)).await?;
            host.request(&name, &pod, &["slow"], &json!({})).await?;
        }
        until("all slow stops are under way", PATIENCE, async || Ok(host.logged("stop slow").len() == 40)).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        host.request("r", &pod, &["web"], &json!({})).await?;
        host.completed("r").await?;
        Ok(())
    })
    .await
}

async fn a_runtime_that_comes_late_is_waited_for_weak_36(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        host.runtime().close();
        let daemon = host.start(&[])?;
        until("it says what is missing", PATIENCE, async || {
            let (status, report) = get(daemon.port, "/readyz").await?;
            Ok(status == 503
                && report.contains("runtime: waiting, no container runtime answers: there is no socket at"))
        })
        .await?;
        ensure!(get(daemon.port, "/healthz").await?.0 == 200, "it is well");
        host.request("r", &pod, &["web"], &json!({})).await?;
        until("it is begun", PATIENCE, async || Ok(!host.status("r").await?.is_null())).await?;
        host.runtime().open();
        host.completed("r").await?;
        ensure!(daemon.process.is_running(), "it has not ended");
        daemon.is_ready().await
    })
    .await
}

async fn a_dry_run_does_nothing(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&["--dry-run"]).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        host.request("r", &pod, &["web"], &json!({})).await?;
        until("it tells", PATIENCE, async || Ok(daemon.process.tail().contains("would be done"))).await?;
        ensure!(host.status("r").await?.is_null() && host.logged("").is_empty(), "nothing is done");
        Ok(())
    })
    .await
}

async fn requests_survive_a_daemon_that_is_killed_again_and_again_weak_2(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    const PODS: usize = 4;
    const REQUESTS: u32 = 8;
    on_a_node(cluster, ns, async |host| {
        let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["/drain"]}}}});
        let mut pods = Vec::new();
        for number in 0..PODS {
            pods.push(host.pod(&format!("web-{number}"), &["web"], &hook).await?);
        }
        let slow = |_| Behaviour::After(Duration::from_millis(fastrand::u64(0..200)));
        host.runtime().world().stops.insert("web".to_owned(), (0..1000).map(slow).collect());
        host.runtime().world().execs.insert("web".to_owned(), (0..1000).map(slow).collect());
        for (number, pod) in pods.iter().enumerate() {
            for request in 0..REQUESTS {
                let name = format!("r-{number}-{request}");
                host.request(&name, pod, &["web"], &json!({"forceRecreate": true})).await?;
            }
        }
        for _ in 0..10 {
            let daemon = host.daemon(&[]).await?;
            sleep(Duration::from_millis(fastrand::u64(50..600))).await;
            daemon.process.kill();
            daemon.process.ended(PATIENCE).await?;
        }
        let _daemon = host.daemon(&[]).await?;
        for (number, pod) in pods.iter().enumerate() {
            for request in 0..REQUESTS {
                host.completed(&format!("r-{number}-{request}")).await?;
            }
            let restarts = host.restarts(pod, "web");
            ensure!(restarts == REQUESTS, "{} was restarted {restarts} times", pod.name);
        }
        let mut hooks = host.logged("exec");
        let count = hooks.len();
        hooks.sort();
        hooks.dedup();
        ensure!(hooks.len() == count, "a hook ran twice in the same instance");
        Ok(())
    })
    .await
}

async fn rights_are_exactly_those_that_are_used(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let before = cluster.audit()?.len();
    on_a_node(cluster, ns, async |host| {
        let daemon = host.daemon(&[]).await?;
        let pod = host.pod("web", &["web"], &json!(null)).await?;
        host.request("r", &pod, &["web"], &json!({})).await?;
        host.completed("r").await?;
        host.pull_with_a_secret().await?;
        // A watch is written down when it ends.
        daemon.process.stop(Stop::Gracefully).await?;
        let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        until("every right is used", PATIENCE, async || {
            let mut used = BTreeSet::new();
            let audit = cluster.audit()?;
            for event in audit.iter().skip(before).filter(|event| event["user"]["username"] == account.as_str()) {
                ensure!(event["responseStatus"]["code"] != 403, "forbidden: {event:#}");
                let text = |member: &str| event["objectRef"][member].as_str().unwrap_or_default().to_owned();
                let sub = text("subresource");
                let resource = if sub.is_empty() { text("resource") } else { format!("{}/{sub}", text("resource")) };
                used.insert(format!("{} {resource}.{}", event["verb"].as_str().unwrap_or_default(), text("apiGroup")));
            }
            let granted = granted()?;
            let never: Vec<_> = granted.difference(&used).collect();
            if never.is_empty() { Ok(true) } else { bail!("granted and never used: {never:?}") }
        })
        .await
    })
    .await
}

/// The rights in `manifests/daemon/rbac.yaml` and, in the namespace of copied Secrets, `manifests/config/daemon.yaml`, as
/// `verb resource.group`.
fn granted() -> Result<BTreeSet<String>> {
    let mut granted = BTreeSet::new();
    let mut documents = Vec::new();
    for file in ["daemon/rbac.yaml", "config/daemon.yaml"] {
        let text = std::fs::read_to_string(format!("{}/manifests/{file}", env!("CARGO_MANIFEST_DIR")))?;
        documents.extend(serde_saphyr::from_multiple::<Value>(&text)?);
    }
    for document in documents {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let list = |member: &str| -> Vec<String> {
                let items = rule[member].as_array().into_iter().flatten();
                items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
            };
            for (group, resource) in list("apiGroups").iter().zip(std::iter::repeat(list("resources"))) {
                for (verb, resource) in list("verbs").iter().flat_map(|verb| resource.iter().map(move |it| (verb, it)))
                {
                    granted.insert(format!("{verb} {resource}.{group}"));
                }
            }
        }
    }
    Ok(granted)
}

async fn a_daemon_costs_little_with_a_hundred_pods(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    on_a_node(cluster, ns, async |host| {
        let env: Vec<Value> = (0..20).map(|n| json!({"name": format!("ENV_{n}"), "value": "x".repeat(100)})).collect();
        for number in 0..100 {
            host.pod(&format!("web-{number}"), &["web", "log"], &json!({"env": env})).await?;
        }
        let daemon = host.daemon(&[]).await?;
        sleep(Duration::from_secs(2)).await;
        let (_, before) = usage(daemon.process.id())?;
        sleep(Duration::from_secs(20)).await;
        let (memory, after) = usage(daemon.process.id())?;
        // The kernel's clock has a hundred ticks a second: 0.5 %.
        let ticks = after - before;
        println!("memory: {} KiB besides the binary; processor: {ticks} ticks in 20 s", memory / 1024);
        ensure!(memory < 10 << 20, "{} KiB of memory", memory / 1024);
        ensure!(ticks <= 10, "{ticks} ticks in 20 s");
        Ok(())
    })
    .await
}

/// Bytes of memory of its own, and ticks of the processor. The binary itself is not counted: that of a test is many times
/// larger than that of a release.
fn usage(process: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    let memory: u64 = memory.trim().trim_end_matches(" kB").parse()?;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    Ok((memory * 1024, fields[11].parse::<u64>()? + fields[12].parse::<u64>()?))
}
