//! The whole manager, as a process of its own under its own ServiceAccount, installed by `kubectl apply -k manifests`.

#![allow(dead_code, clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use outrigger::cluster::authority::{self, plan::Request};
use outrigger::cluster::uninstall;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::explain::{create_pod, create_set, sidecarsets};
use crate::harness::{Cluster, Namespace, PATIENCE, Process, Stop, Test, eventually, run, until};

const NAMESPACE: &str = "kruise-system";
const ACCOUNT: &str = "outrigger-manager";

pub fn tests() -> Vec<Test> {
    run::alone![
        the_pods_of_a_deployment_come_up_injected_and_sidecarsets_are_judged,
        rights_are_exactly_those_that_are_used,
        pods_are_created_again_after_uninstall_with_the_manager_gone,
        a_cluster_that_was_stopped_whole_heals_by_itself,
        certificates_of_thirteen_months_ago_refuse_nobody,
        a_cluster_of_openkruise_is_taken_over_without_a_pod_being_touched,
    ]
}

/// What takes minutes; a target of its own.
pub fn long_tests() -> Vec<Test> {
    let tests = run::alone![nobody_is_refused_and_nothing_is_missed_while_everything_is_disturbed];
    tests.into_iter().map(|test| test.within(Duration::from_mins(6))).collect()
}

/// The manifests, applied; taken away when the test is over.
pub struct Installed<'c> {
    cluster: &'c Cluster,
    kubeconfig: PathBuf,
}

/// A running manager.
pub struct Manager {
    pub process: Process,
    webhook: u16,
    health: u16,
    pub metrics: u16,
}

fn manifests() -> String {
    format!("{}/manifests", env!("CARGO_MANIFEST_DIR"))
}

/// What a test before this one deleted may still be on its way out.
async fn the_last_one_is_gone(cluster: &Cluster) -> Result<()> {
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    until("the namespace of the last test is gone", PATIENCE, async || {
        Ok(namespaces.get_opt(NAMESPACE).await?.is_none_or(|ns| ns.metadata.deletion_timestamp.is_none()))
    })
    .await
}

async fn install(cluster: &Cluster) -> Result<Installed<'_>> {
    the_last_one_is_gone(cluster).await?;
    cluster.kubectl_says(&["apply", "--server-side", "--force-conflicts", "-k", &manifests()]).await?;
    until("SidecarSets are served", PATIENCE, async || {
        Ok(sidecarsets(cluster).list(&ListParams::default()).await.is_ok())
    })
    .await?;
    // The Deployment of the manifests has no node to run on here; this process is its replica.
    cluster.kubectl_says(&["-n", NAMESPACE, "scale", "deployment/outrigger-manager", "--replicas=0"]).await?;
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, ACCOUNT).await?;
    Ok(Installed { cluster, kubeconfig })
}

/// Installs, does what a test is about, and takes everything away again, also when it failed.
pub async fn while_installed(cluster: &Cluster, test: impl AsyncFnOnce(&Installed<'_>) -> Result<()>) -> Result<()> {
    let installed = install(cluster).await?;
    let tested = test(&installed).await;
    installed.remove().await?;
    tested
}

impl Installed<'_> {
    /// Starts a manager that registers itself at `host`, or at its own port.
    pub fn start(&self, name: &str, host: Option<u16>, args: &[&str]) -> Result<Manager> {
        let [webhook, health, metrics] = free_ports()?;
        self.start_at(name, [webhook, health, metrics], host.unwrap_or(webhook), args)
    }

    fn start_at(&self, name: &str, [webhook, health, metrics]: [u16; 3], host: u16, args: &[&str]) -> Result<Manager> {
        let host = format!("127.0.0.1:{host}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("POD_NAMESPACE", NAMESPACE)
            .args(["manager", "--bind", "127.0.0.1", "--identity", name, "--webhook-host", &host])
            .args(["--port", &webhook.to_string()])
            .args(["--health-probe-addr", &format!("127.0.0.1:{health}")])
            .args(["--metrics-addr", &format!("127.0.0.1:{metrics}")])
            .args(args);
        Ok(Manager { process: self.cluster.spawn(name, &command)?, webhook, health, metrics })
    }

    /// Starts one and waits until it is ready.
    async fn ready(&self, name: &str) -> Result<Manager> {
        let manager = self.start(name, None, &[])?;
        manager.is_ready().await?;
        Ok(manager)
    }

    /// Takes everything away again but the CRDs: an API server may forget to end one that was just changed.
    async fn remove(&self) -> Result<()> {
        let client = self.cluster.client();
        let settings = uninstall::Settings {
            namespace: NAMESPACE.to_owned(),
            deployment: "outrigger-manager".to_owned(),
            dry_run: false,
        };
        let lines = uninstall::uninstall(&client, &settings, |_| {}).await;
        ensure!(lines.iter().all(uninstall::Line::is_right), "{lines:?}");
        until("SidecarSets can be deleted", PATIENCE, async || {
            self.cluster.kubectl_says(&["delete", "sidecarsets", "--all"]).await.map(|_| true)
        })
        .await?;
        let roles = ["clusterrole/outrigger-manager", "clusterrolebinding/outrigger-manager"];
        for object in roles.into_iter().chain([&*format!("namespace/{NAMESPACE}")]) {
            self.cluster.kubectl_says(&["delete", object, "--ignore-not-found", "--wait=false"]).await?;
        }
        Ok(())
    }
}

impl Manager {
    pub async fn is_ready(&self) -> Result<()> {
        let ready = until("the manager is ready", PATIENCE, async || {
            if let Some(exit) = self.process.exit() {
                bail!("the manager ended: {exit}");
            }
            match get(self.health, "/readyz").await {
                Ok((200, _)) => Ok(true),
                Ok((status, report)) => bail!("/readyz says {status}: {report}"),
                Err(error) => Err(error),
            }
        });
        ready.await.map_err(|error| self.process.explain(error))
    }
}

/// Ports that are free at this moment.
fn free_ports() -> Result<[u16; 3]> {
    let listen = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [listen()?, listen()?, listen()?];
    let port = |listener: &std::net::TcpListener| listener.local_addr().map(|address| address.port());
    Ok([port(&held[0])?, port(&held[1])?, port(&held[2])?])
}

/// Status and body of a page, in the clear.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
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

fn containers(pod: &Pod) -> Vec<&str> {
    pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect()
}

/// A SidecarSet for the pods of this namespace. An API server may say that it is busy with the CRD, which was just changed.
async fn a_set(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    eventually("there is a SidecarSet", PATIENCE, async || {
        create_set(cluster, ns, "mesh", &json!({})).await.map(|_| Some(()))
    })
    .await
}

// === injected ===

async fn the_pods_of_a_deployment_come_up_injected_and_sidecarsets_are_judged(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let test = async |installed: &Installed<'_>| {
        let manager = installed.ready("manager").await?;
        injected_and_judged(cluster, ns, &manager).await
    };
    while_installed(cluster, test).await
}

async fn injected_and_judged(cluster: &Cluster, ns: &Namespace, manager: &Manager) -> Result<()> {
    // Written in v1alpha1, read in v1beta1: defaulted, hashed and converted.
    let name = format!("{}-mesh", ns.name());
    let old = json!({
        "apiVersion": "apps.kruise.io/v1alpha1", "kind": "SidecarSet",
        "metadata": {"name": name, "labels": {"apps.kruise.io/sidecarset-custom-version": "v3"}},
        "spec": {
            "namespace": ns.name(), "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "proxy", "image": "envoy:1", "fromTheFuture": {"x": 1}}],
        },
    });
    apply(cluster, &old).await?;
    let set = serde_json::to_value(sidecarsets(cluster).get(&name).await?)?;
    ensure!(set["spec"]["customVersion"] == "v3", "{set:#}");
    ensure!(set["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == ns.name(), "{set:#}");
    ensure!(set["spec"]["containers"][0]["podInjectPolicy"] == "BeforeAppContainer", "{set:#}");
    ensure!(set["spec"]["containers"][0]["fromTheFuture"]["x"] == 1, "{set:#}");
    ensure!(set["metadata"]["annotations"]["kruise.io/sidecarset-hash"].as_str().is_some_and(|hash| hash.len() == 64));
    let back = cluster.kubectl_says(&["get", "sidecarsets.v1alpha1.apps.kruise.io", &name, "-o", "json"]).await?;
    let back: Value = serde_json::from_str(&back)?;
    ensure!(back["metadata"]["labels"]["apps.kruise.io/sidecarset-custom-version"] == "v3", "{back:#}");

    // A Deployment's pods.
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        }},
    });
    ns.create_json::<Deployment>(deployment).await?;
    let pods = eventually("there are three pods", PATIENCE, async || {
        let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok((pods.len() == 3).then_some(pods))
    })
    .await?;
    for pod in &pods {
        ensure!(containers(pod) == ["proxy", "app"], "{} has {:?}", pod.name_any(), containers(pod));
    }

    // Refusals name the field; what is surprising is said.
    for (change, field) in [
        (json!({"containers": [{"name": "Bad_Name", "image": "x:1"}]}), "spec.containers[0].name"),
        (json!({"selector": null}), "spec.selector"),
        (
            json!({"containers": [{"name": "proxy", "image": "x:1"}], "selector": {"matchLabels": {"app": "web"}}}),
            "spec.containers",
        ),
    ] {
        let refused = create_set(cluster, ns, "bad", &change).await;
        let message = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(message.contains(field), "a refusal should name {field}: {message:?}");
    }
    let update = json!({
        "apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": name},
        "spec": {
            "customVersion": "v3", "selector": {"matchLabels": {"app": "web"}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name()}},
            "containers": [{"name": "proxy", "image": "envoy:1", "args": ["--new"]}],
        },
    });
    let said = apply(cluster, &update).await?;
    ensure!(said.contains("Warning: ") && said.contains("spec.containers[0].args"), "kubectl should warn: {said}");

    // The pages for who runs it.
    let (_, report) = get(manager.health, "/readyz").await?;
    ensure!(report == "caches: ok\ncertificate: ok\nhooks: ok\n", "{report}");
    let (_, metrics) = get(manager.metrics, "/metrics").await?;
    for line in [
        r#"outrigger_admission_requests_total{path="/mutate-pod",outcome="patched"} 3"#,
        "outrigger_sidecarsets 1",
        "outrigger_leader 1",
        "outrigger_snapshot_age_seconds",
        "outrigger_certificate_expiry_seconds",
        "outrigger_missed_pods 0",
    ] {
        ensure!(metrics.contains(line), "{line} is not among the metrics:\n{metrics}");
    }
    Ok(())
}

/// `kubectl apply`, with what it says on both outputs.
async fn apply(cluster: &Cluster, object: &Value) -> Result<String> {
    let file = cluster.dir().join(format!("apply-{}.json", fastrand::u32(..)));
    std::fs::write(&file, object.to_string())?;
    let output = tokio::task::spawn_blocking({
        let mut kubectl = cluster.kubectl()?;
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&file);
        move || kubectl.output()
    })
    .await??;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "kubectl apply: {said}");
    Ok(said)
}

// === rights ===

async fn rights_are_exactly_those_that_are_used(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    while_installed(cluster, async |installed| used_rights(installed, ns).await).await
}

async fn used_rights(installed: &Installed<'_>, ns: &Namespace) -> Result<()> {
    let cluster = installed.cluster;
    let before = cluster.audit()?.len();
    let manager = installed.ready("rights").await?;
    // Everything it does: it rolls out, finds a missed pod, renews its Lease and its certificates, repairs and hands over.
    a_set(cluster, ns).await?;
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let pod_hook = "kruise-mutating-webhook-configuration";
    crate::rollout::takes_every_right(cluster, ns).await?;
    crate::launch::takes_every_right(cluster, ns).await?;
    crate::recreate::takes_every_right(cluster, ns).await?;
    crate::images::takes_every_right(cluster, ns).await?;
    missed_pod(cluster, ns, &manager).await?;
    authority::request(cluster.client(), NAMESPACE, "kruise-webhook-certs", Request::Leaf).await?;
    until("the registration is repaired", PATIENCE * 2, async || Ok(hooks.get_opt(pod_hook).await?.is_some())).await?;
    sleep(Duration::from_secs(8)).await;
    let namespaces: Api<KubeNamespace> = Api::all(cluster.client());
    drop(manager.process.stop(Stop::Gracefully).await);
    // A first start, with neither a Secret nor a Lease; then the end of the installation.
    cluster.kubectl_says(&["-n", NAMESPACE, "delete", "secret/kruise-webhook-certs", "lease/kruise-manager"]).await?;
    let manager = installed.ready("rights-again").await?;
    until("it leads", PATIENCE, async || Ok(get(manager.metrics, "/metrics").await?.1.contains("outrigger_leader 1")))
        .await?;
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    let others: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    until("the hooks are gone", PATIENCE, async || {
        let validating = others.get_opt("kruise-validating-webhook-configuration").await?;
        Ok(hooks.get_opt(pod_hook).await?.is_none() && validating.is_none())
    })
    .await?;

    let manager_account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    let mut used: BTreeSet<String> = BTreeSet::new();
    for event in
        cluster.audit()?.iter().skip(before).filter(|event| event["user"]["username"] == manager_account.as_str())
    {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, mut resource) = (text(&object["apiGroup"]), text(&object["resource"]));
        if let Some(sub) = object["subresource"].as_str() {
            resource = format!("{resource}/{sub}");
        }
        let right = format!("{} {resource}.{group}", text(&event["verb"]));
        // A server-side apply of what is not there asks for two rights.
        if event["verb"] == "patch" && event["responseStatus"]["code"] == 201 {
            used.insert(format!("create {resource}.{group}"));
        }
        // Once its namespace is going, the ServiceAccount and its rights go too, in any order.
        let is_going = namespaces.get_opt(NAMESPACE).await?.is_none_or(|ns| ns.metadata.deletion_timestamp.is_some());
        let refused = matches!(event["responseStatus"]["code"].as_i64(), Some(401 | 403));
        ensure!(!refused || is_going && text(&event["requestURI"]).contains(NAMESPACE), "forbidden: {event:#}");
        used.insert(right);
    }
    let granted = granted()?;
    let never: Vec<&String> = granted.difference(&used).collect();
    ensure!(never.is_empty(), "granted and never used: {never:?}\nused: {used:#?}");
    Ok(())
}

/// A pod that was let in while nothing was registered, and is found.
async fn missed_pod(cluster: &Cluster, ns: &Namespace, manager: &Manager) -> Result<()> {
    let set = sidecarsets(cluster).get(&format!("{}-mesh", ns.name())).await?;
    crate::explain::aged(ns, &set, SignedDuration::from_secs(6)).await?;
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    hooks.delete("kruise-mutating-webhook-configuration", &DeleteParams::default()).await?;
    let others: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    others.delete("kruise-validating-webhook-configuration", &DeleteParams::default()).await?;
    eventually("a pod slips by", PATIENCE, async || {
        let pod = create_pod(ns, &format!("missed-{}", fastrand::u32(..)), &json!({})).await?;
        Ok((containers(&pod) == ["app"]).then_some(()))
    })
    .await?;
    let counted = until("the missed pod is counted", PATIENCE, async || {
        let (_, metrics) = get(manager.metrics, "/metrics").await?;
        Ok(metrics.lines().any(|line| line.starts_with("outrigger_missed_pods ") && !line.ends_with(" 0")))
    });
    counted.await.map_err(|error| manager.process.explain(error))
}

/// The rights in `manifests/base/rbac.yaml` and, in the namespace of copied Secrets, `manifests/config/manager.yaml`, as
/// `verb resource.group`.
fn granted() -> Result<BTreeSet<String>> {
    let mut granted = BTreeSet::new();
    let mut documents = Vec::new();
    for file in ["base/rbac.yaml", "config/manager.yaml"] {
        let text = std::fs::read_to_string(format!("{}/{file}", manifests()))?;
        documents.extend(serde_saphyr::from_multiple::<Value>(&text)?);
    }
    for document in documents {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let list = |member: &str| -> Vec<String> {
                let items = rule[member].as_array().into_iter().flatten();
                items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
            };
            for group in list("apiGroups") {
                for resource in list("resources") {
                    granted.extend(list("verbs").iter().map(|verb| format!("{verb} {resource}.{group}")));
                }
            }
        }
    }
    ensure!(!granted.is_empty(), "no rights were found");
    Ok(granted)
}

// === gone, and back ===

async fn pods_are_created_again_after_uninstall_with_the_manager_gone(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let test = async |installed: &Installed<'_>| {
        let manager = installed.ready("gone").await?;
        a_set(cluster, ns).await?;
        manager.process.kill();
        manager.process.ended(PATIENCE).await?;
        let refused = create_pod(ns, "waits", &json!({})).await;
        ensure!(refused.is_err(), "with the policy Fail a pod waits for the manager");
        let mut uninstall = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        uninstall.env("KUBECONFIG", cluster.kubeconfig()).arg("uninstall");
        let output = tokio::task::spawn_blocking(move || uninstall.output()).await??;
        ensure!(output.status.success(), "outrigger uninstall: {output:?}");
        until("pods are created again", PATIENCE, async || Ok(create_pod(ns, "again", &json!({})).await.is_ok()))
            .await?;
        until("SidecarSets can be read, and are still there", PATIENCE, async || {
            Ok(!sidecarsets(cluster).list(&ListParams::default()).await?.items.is_empty())
        })
        .await
    };
    while_installed(cluster, test).await
}

async fn a_cluster_that_was_stopped_whole_heals_by_itself(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let test = async |installed: &Installed<'_>| {
        let manager = installed.ready("before").await?;
        a_set(cluster, ns).await?;
        manager.process.kill();
        cluster.stop_all(Stop::Kill).await?;
        // What a node would do: the manager is started as soon as there is an API server, or before.
        let started = Instant::now();
        let ports = [manager.webhook, manager.health, manager.metrics];
        let manager = installed.start_at("after", ports, manager.webhook, &[])?;
        cluster.start_all().await?;
        let healed = eventually("pods are injected again", Duration::from_mins(1), async || {
            let pod = create_pod(ns, &format!("web-{}", fastrand::u32(..)), &json!({})).await?;
            Ok(Some(pod))
        });
        let pod = healed.await.map_err(|error| manager.process.explain(error))?;
        println!("healed {:.1} s after everything was stopped", started.elapsed().as_secs_f64());
        ensure!(containers(&pod) == ["proxy", "app"], "it has {:?}", containers(&pod));
        Ok(())
    };
    while_installed(cluster, test).await
}

/// As after a clock that was set thirteen months ahead: the CA lasts, the leaf has long ended.
async fn certificates_of_thirteen_months_ago_refuse_nobody(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let test = async |installed: &Installed<'_>| {
        let made = now() - SignedDuration::from_hours(13 * 30 * 24);
        let old = old_certificates(made)?;
        let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
        let secret = json!({"metadata": {"name": "kruise-webhook-certs"}, "stringData": old});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        let manager = installed.ready("old").await?;
        a_set(cluster, ns).await?;
        for number in 0..20 {
            let pod = create_pod(ns, &format!("web-{number}"), &json!({})).await?;
            ensure!(containers(&pod) == ["proxy", "app"], "it has {:?}", containers(&pod));
        }
        let log = std::fs::read_to_string(manager.process.log())?;
        let renewals = log.matches("the certificates took a step").count();
        ensure!(renewals == 1, "{renewals} renewals:\n{log}");
        Ok(())
    };
    while_installed(cluster, test).await
}

#[expect(clippy::disallowed_methods, reason = "certificates are judged by the clock of the machine")]
fn now() -> Timestamp {
    Timestamp::now()
}

// === taken over ===

/// A case that was run through OpenKruise: a SidecarSet as it is stored, and a pod that it was injected into.
const OPENKRUISE: &str = include_str!("../golden/001-0039.json");
const REVISION: &str = "g1-39-0-7f84445b48";

async fn a_cluster_of_openkruise_is_taken_over_without_a_pod_being_touched(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    the_last_one_is_gone(cluster).await?;
    crate::explain::install(cluster).await?;
    let tested = taken_over(cluster, ns).await;
    Installed { cluster, kubeconfig: PathBuf::new() }.remove().await?;
    tested
}

async fn taken_over(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    // What OpenKruise leaves: a SidecarSet, a pod, a Secret, a registration.
    let case: Value = serde_json::from_str(OPENKRUISE)?;
    let mut stored = case["sidecarSets"][0]["stored"].clone();
    stored["metadata"].as_object_mut().context("metadata")?.remove("generation");
    let sets = sidecarsets(cluster);
    let set = sets.create(&PostParams::default(), &serde_json::from_value(stored.clone())?).await?;
    let counters = json!({"matchedPods": 1, "updatedPods": 1, "readyPods": 0, "latestRevision": REVISION});
    let status = Patch::Merge(json!({"status": counters}));
    sets.patch_status(&set.name_any(), &PatchParams::default(), &status).await?;
    let injected = &case["pods"][1]["pod"];
    let sidecar = injected["spec"]["containers"].as_array().into_iter().flatten().find(|it| it["name"] == "s0-0");
    let old: Pod = ns
        .create_json(json!({
            "metadata": {"name": "old", "labels": {"app": "a1-39"}, "annotations": injected["metadata"]["annotations"]},
            "spec": {"containers": [{"name": "app", "image": "app:1"}, sidecar], "volumes": [{"name": "sv00", "emptyDir": {}}]},
        }))
        .await?;
    let namespace = format!("{}/base/namespace.yaml", manifests());
    cluster.kubectl_says(&["apply", "--server-side", "-f", &namespace]).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    let theirs = old_certificates(now() - SignedDuration::from_hours(24))?;
    let secret = json!({"metadata": {"name": "kruise-webhook-certs"}, "stringData": theirs});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let hook = json!({
        "metadata": {"name": "kruise-mutating-webhook-configuration", "annotations": {"template": "[]"}},
        "webhooks": [{
            "name": "mpod.kb.io", "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"], "failurePolicy": "Fail",
            "clientConfig": {"service": {"name": "kruise-webhook-service", "namespace": NAMESPACE, "path": "/mutate-pod"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchExpressions": [{"key": "control-plane", "operator": "DoesNotExist"}]},
        }],
    });
    hooks.create(&PostParams::default(), &serde_json::from_value(hook)?).await?;

    let installed = install(cluster).await?;
    let _manager = installed.ready("switched").await?;
    let new: Pod = ns
        .create_json(json!({
            "metadata": {"name": "new", "labels": {"app": "a1-39"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        }))
        .await?;
    ensure!(containers(&new) == ["app", "s0-0"], "it has {:?}", containers(&new));
    for key in ["kruise.io/sidecarset-hash", "kruise.io/sidecarset-hash-without-image"] {
        let record = |pod: &Pod| -> Result<Value> {
            let mut record: Value = serde_json::from_str(pod.annotations().get(key).context("no record")?)?;
            record["g1-39-0"]["updateTimestamp"] = Value::Null;
            Ok(record)
        };
        ensure!(record(&new)? == record(&old)?, "{:#} differs from {:#}", record(&new)?, record(&old)?);
    }
    let pod = ns.api::<Pod>().get("old").await?;
    ensure!(pod.metadata.resource_version == old.metadata.resource_version, "the old pod was touched");
    let set = serde_json::to_value(sets.get(&set.name_any()).await?)?;
    ensure!(set["spec"] == stored["spec"], "{:#} differs", set["spec"]);
    ensure!(set["metadata"]["annotations"] == stored["metadata"]["annotations"], "{:#}", set["metadata"]);
    let secret = secrets.get("kruise-webhook-certs").await?;
    let ca = secret.data.as_ref().and_then(|data| data.get("ca-cert.pem")).context("no CA")?;
    ensure!(theirs["ca-cert.pem"].as_str().map(str::as_bytes) == Some(&ca.0), "the CA is another");
    Ok(())
}

/// A CA of ten years and a leaf of thirty days, both made at `made`, as the Secret holds them.
fn old_certificates(made: Timestamp) -> Result<Value> {
    let date = |days: i64| -> Result<_> {
        let day = (made + SignedDuration::from_hours(days * 24)).to_zoned(jiff::tz::TimeZone::UTC).date();
        Ok(rcgen::date_time_ymd(day.year().into(), day.month().try_into()?, day.day().try_into()?))
    };
    let key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(rcgen::DnType::CommonName, "old ca");
    (ca.not_before, ca.not_after) = (date(0)?, date(3650)?);
    let ca_cert = ca.self_signed(&key)?;
    let leaf_key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()])?;
    (leaf.not_before, leaf.not_after) = (date(0)?, date(30)?);
    let leaf_cert = leaf.signed_by(&leaf_key, &rcgen::Issuer::new(ca, &key))?;
    Ok(json!({
        "ca-cert.pem": ca_cert.pem(), "ca-key.pem": key.serialize_pem(),
        "cert.pem": leaf_cert.pem(), "key.pem": leaf_key.serialize_pem(),
    }))
}

// === disturbed ===

/// What a Service does: connections go to one of the replicas that are ready, and end with it.
struct Service {
    port: u16,
    backends: Arc<std::sync::Mutex<Vec<(u16, u16)>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Service {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let backends: Arc<std::sync::Mutex<Vec<(u16, u16)>>> = Arc::default();
        let ready: Arc<std::sync::Mutex<Vec<u16>>> = Arc::default();
        // Readiness as the kubelet finds it, faster.
        let probing = tokio::spawn({
            let (backends, ready) = (Arc::clone(&backends), Arc::clone(&ready));
            async move {
                loop {
                    let known = backends.lock().unwrap().clone();
                    let probe = |(webhook, health): (u16, u16)| async move {
                        matches!(get(health, "/readyz").await, Ok((200, _))).then_some(webhook)
                    };
                    let found = join_all(known.into_iter().map(probe)).await;
                    *ready.lock().unwrap() = found.into_iter().flatten().collect();
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let targets = ready.lock().unwrap().clone();
                tokio::spawn(async move {
                    // A replica that is gone is not there; the next one is.
                    let first = fastrand::usize(..targets.len().max(1));
                    for offset in 0..targets.len() {
                        let address =
                            SocketAddr::from((Ipv4Addr::LOCALHOST, targets[(first + offset) % targets.len()]));
                        if let Ok(mut server) = TcpStream::connect(address).await {
                            let _ = (client.set_nodelay(true), server.set_nodelay(true));
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { port, backends, tasks: vec![probing, accepting] })
    }

    fn set(&self, managers: &BTreeMap<&str, Manager>) {
        *self.backends.lock().unwrap() = managers.values().map(|manager| (manager.webhook, manager.health)).collect();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What the creators of pods saw.
#[derive(Default)]
struct Seen {
    created: AtomicUsize,
    /// Refusals that have to do with the webhook.
    refused: std::sync::Mutex<Vec<String>>,
    /// Calls whose connection to the webhook ended under them, as only a kill does; they are made again.
    cut: std::sync::Mutex<Vec<String>>,
    /// Calls that failed because the API server itself was away; they are made again.
    away: AtomicUsize,
    /// A replica is being killed.
    killing: AtomicBool,
    stop: AtomicBool,
}

const PODS: usize = 2000;
const CREATORS: usize = 6;

async fn nobody_is_refused_and_nothing_is_missed_while_everything_is_disturbed(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    while_installed(cluster, async |installed| disturbed(installed, ns).await).await
}

async fn disturbed(installed: &Installed<'_>, ns: &Namespace) -> Result<()> {
    let cluster = installed.cluster;
    let service = Service::start().await?;
    let start = |name| installed.start(name, Some(service.port), &["--ca-settle", "2"]);
    let mut managers = BTreeMap::from([("one", start("one")?), ("two", start("two")?)]);
    service.set(&managers);
    for manager in managers.values() {
        manager.is_ready().await?;
    }
    a_set(cluster, ns).await?;

    let seen = Arc::new(Seen::default());
    let creators: Vec<JoinHandle<()>> =
        (0..CREATORS).map(|n| tokio::spawn(create(ns.api(), ns.name().to_owned(), n, Arc::clone(&seen)))).collect();
    let disturbances = async {
        // The replica that leads is killed and started again, then the other.
        let leads = leader(cluster).await?;
        let other = if leads == "one" { "two" } else { "one" };
        let one = if leads == "one" { "one" } else { "two" };
        for name in [one, other] {
            reached(&seen, 150).await?;
            let killed = managers.remove(name).context("a manager")?;
            seen.killing.store(true, Relaxed);
            killed.process.kill();
            killed.process.ended(PATIENCE).await?;
            let again = start(name)?;
            managers.insert(name, again);
            service.set(&managers);
            managers[name].is_ready().await?;
            seen.killing.store(false, Relaxed);
        }
        until("another leads", PATIENCE, async || Ok(leader(cluster).await? != leads || !leads.is_empty())).await?;
        for _ in 0..2 {
            reached(&seen, 100).await?;
            authority::request(cluster.client(), NAMESPACE, "kruise-webhook-certs", Request::Ca).await?;
            rotated(cluster).await?;
        }
        reached(&seen, 100).await?;
        cluster.restart_api_server(Stop::Gracefully).await?;
        reached(&seen, 100).await?;
        anyhow::Ok(())
    };
    let disturbed = timeout(Duration::from_mins(4), disturbances).await;
    seen.stop.store(true, Relaxed);
    timeout(Duration::from_mins(1), join_all(creators)).await.context("pods are created too slowly")?;
    disturbed.context("the disturbances took too long")??;

    let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
    let missed = pods.iter().filter(|pod| containers(pod) != ["proxy", "app"]).count();
    let refused = seen.refused.lock().unwrap().clone();
    let cut = seen.cut.lock().unwrap().clone();
    println!(
        "{} pods created, {} refused for our reasons, {missed} without their sidecar ({} calls were under way as a \
         replica was killed and were made again, {} met no API server)",
        pods.len(),
        refused.len(),
        cut.len(),
        seen.away.load(Relaxed),
    );
    // Two kills, and no more than every creator's call under each.
    ensure!(cut.len() <= 2 * CREATORS, "{} calls were cut: {cut:#?}", cut.len());
    ensure!(pods.len() >= PODS, "only {} pods", pods.len());
    ensure!(missed == 0, "{missed} pods without their sidecar");
    ensure!(refused.is_empty(), "{} refused: {:#?}", refused.len(), refused.iter().take(3).collect::<Vec<_>>());
    Ok(())
}

/// Creates its share of the pods, and goes on until the disturbances have seen enough of them.
async fn create(pods: Api<Pod>, test: String, creator: usize, seen: Arc<Seen>) {
    let mut number = 0;
    while seen.created.load(Relaxed) < PODS || !seen.stop.load(Relaxed) {
        let pod = json!({
            "metadata": {"name": format!("pod-{creator}-{number}"), "labels": {"app": "web", "test": test}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        });
        let Ok(pod) = serde_json::from_value(pod) else { return };
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                seen.created.fetch_add(1, Relaxed);
                number += 1;
            }
            Err(kube::Error::Api(status)) if status.code == 409 => number += 1,
            Err(kube::Error::Api(status)) if seen.killing.load(Relaxed) && was_cut(&status.message) => {
                seen.cut.lock().unwrap().push(status.message.clone());
            }
            Err(kube::Error::Api(status)) if status.message.contains("webhook") => {
                seen.refused.lock().unwrap().push(status.message.clone());
                number += 1;
            }
            Err(_) => {
                seen.away.fetch_add(1, Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whether the connection to the webhook ended under a call: what a process that is killed with -9 was doing is lost, and
/// whoever creates pods makes the call again. No replica that was left alone, or told to stop, ever causes this.
fn was_cut(message: &str) -> bool {
    message.contains("failed to call webhook")
        && ["EOF", "broken pipe", "connection reset", "client connection"].iter().any(|end| message.contains(end))
}

/// Waits for so many more pods.
async fn reached(seen: &Seen, more: usize) -> Result<()> {
    let goal = seen.created.load(Relaxed) + more;
    until("more pods are created", Duration::from_mins(2), async || Ok(seen.created.load(Relaxed) >= goal.min(PODS)))
        .await
}

async fn leader(cluster: &Cluster) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    eventually("somebody leads", PATIENCE, async || {
        let lease = leases.get_opt("kruise-manager").await?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()))
    })
    .await
}

/// Waits until a rotation that was asked for is through: the new CA signs what is served.
async fn rotated(cluster: &Cluster) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), NAMESPACE);
    until("the CA is rotated", PATIENCE * 2, async || {
        let secret = secrets.get("kruise-webhook-certs").await?;
        let is_asked = secret.annotations().contains_key("outrigger/rotate");
        let is_waiting = secret.data.iter().flatten().any(|(key, _)| key.starts_with("next-"));
        Ok(!is_asked && !is_waiting)
    })
    .await
}
