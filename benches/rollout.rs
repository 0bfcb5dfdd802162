//! How fast an image reaches running pods, against what the API server does for as many bare PATCH calls: `make
//! bench-rollout N=1000`.
//!
//! A real API server and etcd, the real manager, and hollow nodes: one task that does for all pods what a kubelet does,
//! without containers. Writes and answers are timed by the same watch, from the first request until it has shown the last;
//! a rollout is done when its status says so. How often a pod was written, the API server's own metrics tell; nodes write
//! by PUT, so every PATCH of a pod is ours.
//!
//! First, in turn and several times, N bare patches of the size of ours and a rollout without a budget. Nodes answer to
//! both when all is written: how many answers come before that is a matter of chance, and each costs the API server as
//! much as a patch. Then both once more with nodes that answer at once, until the last has; and a rollout of 10 %.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints, and reads the clock")]

#[path = "support/fixtures.rs"]
mod fixtures;
#[path = "../tests/support/cluster/mod.rs"]
mod harness;
#[path = "../tests/support/hollow.rs"]
mod hollow;
#[path = "support/manager.rs"]
mod manager;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::http::{Method, Request, header};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, Parts, until};
use hollow::Node;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use manager::{Manager, OPERATOR};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const ROUNDS: usize = 3;
const PODS: &str = "/api/v1/namespaces/bench/pods";
const SETS: &str = "/apis/apps.kruise.io/v1beta1/sidecarsets";
const SET: &str = "bench-000";
/// Bare requests in flight: more than the manager has, and more than the API server needs to be busy.
const IN_FLIGHT: usize = 64;
/// Requests of the hollow nodes in flight.
const NODES: usize = 32;
const REPOSITORY: &str = "registry.example/platform/sidecar-0";
/// The goals.
const RATIO: f64 = 0.8;
const WRITES: f64 = 1.0;

/// What the watch has shown.
#[derive(Default)]
struct Shown {
    /// Name → uid, resourceVersion.
    pods: BTreeMap<String, (String, String)>,
    /// The image that is waited for, and the pods that have it.
    image: String,
    have: BTreeSet<String>,
    /// When the last of so many had it.
    last: Option<Instant>,
    /// When anything was shown at all.
    news: Option<Instant>,
    ready: BTreeSet<String>,
    /// The pods whose nodes say that they run it, and when the last of so many did.
    run: BTreeSet<String>,
    ran: Option<Instant>,
}

struct Bench {
    cluster: Cluster,
    /// A ServiceAccount like the manager's: what it asks is authorised and audited alike.
    client: Client,
    manager: Manager,
    pods: usize,
    shown: Arc<Mutex<Shown>>,
    /// Whether nodes answer.
    answers: watch::Sender<bool>,
    _tasks: Vec<JoinHandle<()>>,
}

/// When nodes answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nodes {
    /// When all pods are written.
    Wait,
    AtOnce,
}

/// What the API server has done so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// PATCH requests of pods and their status that succeeded, and those that were refused.
    patches: f64,
    refused: f64,
    /// Seconds of CPU.
    cpu: f64,
}

/// What a rollout took.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    /// Until the last pod was written.
    written: Duration,
    /// Until the last node had answered.
    answered: Duration,
    /// Until the status said that all are updated and ready; of bare patches, until the last node had answered.
    done: Duration,
    patches: f64,
    refused: f64,
    /// Seconds of CPU that the manager spent until the last pod was written. Bare patches cost it, too: it hears of them.
    cpu: f64,
    /// The same of the API server.
    served: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo bench` without a name runs this with the others; it takes minutes.
    let pods = match std::env::var("N") {
        Ok(text) => text.parse().context("N is a number of pods")?,
        Err(_) => 1000,
    };
    let bench = Bench::start(pods).await?;
    let measured = bench.measure().await;
    match measured {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = bench.manager.process.explain(error);
            println!("logs: {}", bench.cluster.keep().display());
            Err(error)
        }
    }
}

// === impl Bench ===

impl Bench {
    async fn start(pods: usize) -> Result<Self> {
        let cluster = Cluster::start(Parts::ApiServer).await?;
        let manager = Manager::install(&cluster).await?;
        for (kind, name, more) in [
            ("namespace", "bench", &[][..]),
            ("serviceaccount", "floor", &["-n", OPERATOR][..]),
            (
                "clusterrolebinding",
                "floor",
                &["--clusterrole=cluster-admin", "--serviceaccount=kruise-system:floor"][..],
            ),
        ] {
            cluster.kubectl_says(&[&["create", kind, name], more].concat()).await?;
        }
        let client = cluster.client_of(OPERATOR, "floor").await?;

        let shown = Arc::default();
        let (answers, may_answer) = watch::channel(true);
        let tasks = hollow_nodes(&cluster, Arc::clone(&shown), may_answer);
        let bench = Self { cluster, client, manager, pods, shown, answers, _tasks: tasks };
        bench.fill().await.map_err(|error| bench.manager.process.explain(error))?;
        Ok(bench)
    }

    /// The set and its pods, injected by the manager's own webhook, and ready.
    async fn fill(&self) -> Result<()> {
        let set = &mut fixtures::sidecarsets(1)[0];
        set["spec"]["containers"][0]["image"] = format!("{REPOSITORY}:0").into();
        set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "maxUnavailable": "100%"});
        until("the set is stored", harness::PATIENCE, async || {
            self.send(Method::POST, SETS, "application/json", set).await.map(|_| true)
        })
        .await?;
        let template = pod();
        self.expect(&format!("{REPOSITORY}:0"), Nodes::AtOnce);
        stream::iter((0..self.pods).map(Ok))
            .try_for_each_concurrent(IN_FLIGHT, |n| {
                let mut pod = template.clone();
                pod["metadata"]["name"] = format!("web-{n:05}").into();
                pod["spec"]["nodeName"] = format!("hollow-{}", n / 100).into();
                async move { self.send(Method::POST, PODS, "application/json", &pod).await.map(drop) }
            })
            .await?;
        self.all_have_it().await.context("pods are not injected")?;
        until("all pods are ready", self.patience(), async || Ok(self.shown().ready.len() == self.pods)).await?;
        self.at_rest().await
    }

    async fn measure(&self) -> Result<()> {
        println!("{} pods, {IN_FLIGHT} bare requests in flight, {ROUNDS} rounds in turn", self.pods);
        println!(
            "{:<34}{:>10}{:>10}{:>12}{:>10}{:>14}{:>10}{:>14}{:>14}",
            "", "written s", "pods/s", "answered s", "done s", "writes a pod", "refused", "manager CPU", "server CPU"
        );
        let mut image = 0;
        let mut next = || {
            image += 1;
            (image, format!("{REPOSITORY}:{image}"))
        };
        let (mut ratios, mut floors, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (number, image) = next();
            let floor = self.floor(number, Nodes::Wait).await?;
            self.row("bare PATCH", &floor);
            let took = self.rollout(&image, "100%", Nodes::Wait).await?;
            self.row("no budget", &took);
            ratios.push(floor.written.as_secs_f64() / took.written.as_secs_f64());
            floors.push(floor);
            all.push(took);
        }
        let (number, image) = next();
        let answered = self.floor(number, Nodes::AtOnce).await?;
        self.row("bare PATCH, nodes answer at once", &answered);
        let whole = self.rollout(&image, "100%", Nodes::AtOnce).await?;
        self.row("no budget, nodes answer at once", &whole);
        let tenth = self.rollout(&next().1, "10%", Nodes::AtOnce).await?;
        self.row("budget of 10 %", &tenth);

        let (resident, peak) = self.manager.memory()?;
        let pods = f64::from(u32::try_from(self.pods)?);
        let allowed = 30.0 + pods * 2.0 / 1024.0;
        let ratio = median(ratios);
        let writes = all.iter().chain([&whole, &tenth]).map(|took| took.patches / pods).fold(0.0, f64::max);
        let each = |times: Vec<f64>| median(times) * 1000.0 / pods;
        let written = each(all.iter().map(|took| took.written.as_secs_f64()).collect());
        let bare = each(floors.iter().map(|took| took.written.as_secs_f64()).collect());
        let done = each(vec![whole.done.as_secs_f64()]);
        let same = answered.answered.as_secs_f64() / whole.answered.as_secs_f64();
        println!("rate of bare PATCH        {ratio:.2} (goal {RATIO}); until nodes have answered {same:.2}");
        println!("writes a pod, at most     {writes:.2} (goal {WRITES:.2})");
        println!("time a pod                {written:.2} ms until written, {done:.2} until done");
        println!(
            "in times of a bare PATCH  {:.2} of {bare:.2} ms (goal: no more with N=5000 than with N=1000)",
            written / bare
        );
        println!("resident                  {resident:.1} MiB, {peak:.1} at most (goal {allowed:.1})");
        let met = ratio >= RATIO && (writes - WRITES).abs() < 0.005 && resident <= allowed;
        println!("{}", if met { "all goals met" } else { "short of a goal" });
        Ok(())
    }

    fn row(&self, name: &str, took: &Took) {
        let pods = f64::from(u32::try_from(self.pods).unwrap_or(u32::MAX));
        let written = took.written.as_secs_f64();
        println!(
            "{name:<34}{written:>10.2}{:>10.0}{:>12.2}{:>10.2}{:>14.3}{:>10.0}{:>12.2} s{:>12.2} s",
            pods / written,
            took.answered.as_secs_f64(),
            took.done.as_secs_f64(),
            took.patches / pods,
            took.refused,
            took.cpu,
            took.served
        );
    }

    /// N patches as the manager would send them, of another container's image and of annotations as long as ours.
    async fn floor(&self, round: usize, nodes: Nodes) -> Result<Took> {
        let image = format!("registry.example/shop/web:{round}");
        self.expect(&image, nodes);
        let targets: Vec<_> = self.shown().pods.clone().into_iter().collect();
        let (before, cpu) = (self.counts().await?, self.manager.cpu()?);
        let start = Instant::now();
        stream::iter(targets.into_iter().map(Ok))
            .try_for_each_concurrent(IN_FLIGHT, |(name, (uid, version))| {
                let body = json!({
                    "metadata": {"uid": uid, "resourceVersion": version, "annotations": {
                        "bench.example/hash": format!("{round}{}", "x".repeat(260)),
                        "bench.example/inplace-update-state": format!("{round}{}", "x".repeat(330)),
                    }},
                    "spec": {"containers": [{"name": "web", "image": image}]},
                });
                async move {
                    let path = format!("{PODS}/{name}");
                    self.send(Method::PATCH, &path, "application/strategic-merge-patch+json", &body).await.map(drop)
                }
            })
            .await?;
        let last = self.all_have_it().await?;
        let (spent, after) = (self.manager.cpu()? - cpu, self.counts().await?);
        self.answers.send_replace(true);
        let ran = self.all_run_it().await?;
        self.at_rest().await?;
        Ok(Took {
            written: last - start,
            answered: ran - start,
            done: ran - start,
            patches: after.patches - before.patches,
            refused: after.refused - before.refused,
            cpu: spent,
            served: after.cpu - before.cpu,
        })
    }

    /// A user changes the image; then it is the manager's turn.
    async fn rollout(&self, image: &str, at_a_time: &str, nodes: Nodes) -> Result<Took> {
        let path = format!("{SETS}/{SET}");
        let strategy = json!({"spec": {"updateStrategy": {"maxUnavailable": at_a_time}}});
        self.send(Method::PATCH, &path, "application/merge-patch+json", &strategy).await?;
        self.at_rest().await?;
        self.expect(image, nodes);
        let (before, cpu) = (self.counts().await?, self.manager.cpu()?);
        let start = Instant::now();
        let change = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": image}]);
        self.send(Method::PATCH, &path, "application/json-patch+json", &change).await?;
        let last = self.all_have_it().await.with_context(|| format!("not all pods got {image}"))?;
        let (spent, served) = (self.manager.cpu()? - cpu, self.counts().await?.cpu - before.cpu);
        self.answers.send_replace(true);
        let status = async || {
            let answer = self.client.request_text(Request::get(&path).body(Vec::new())?).await?;
            let set: Value = serde_json::from_str(&answer)?;
            Ok(["updatedPods", "readyPods", "updatedReadyPods"].iter().all(|count| set["status"][count] == self.pods))
        };
        until("the status says that all are updated and ready", self.patience(), status).await?;
        let (done, ran) = (start.elapsed(), self.all_run_it().await?);
        // What is written too much is written late.
        self.at_rest().await?;
        let after = self.counts().await?;
        Ok(Took {
            written: last - start,
            answered: ran - start,
            done,
            patches: after.patches - before.patches,
            refused: after.refused - before.refused,
            cpu: spent,
            served,
        })
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<String> {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
        Ok(self.client.request_text(request.body(body.to_string().into_bytes())?).await?)
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this image is waited for.
    fn expect(&self, image: &str, nodes: Nodes) {
        self.answers.send_replace(nodes == Nodes::AtOnce);
        let mut shown = self.shown();
        image.clone_into(&mut shown.image);
        shown.have.clear();
        shown.run.clear();
        (shown.last, shown.ran) = (None, None);
    }

    /// Waits until all pods have the image; when the last one was shown.
    async fn all_have_it(&self) -> Result<Instant> {
        harness::eventually("all pods have the image", self.patience(), async || {
            let shown = self.shown();
            Ok(shown.last.filter(|_| shown.have.len() == self.pods))
        })
        .await
        .with_context(|| format!("{} of {} have it", self.shown().have.len(), self.pods))
    }

    /// Waits until all nodes say that they run it; when the last one was shown.
    async fn all_run_it(&self) -> Result<Instant> {
        harness::eventually("all nodes have answered", self.patience(), async || {
            let shown = self.shown();
            Ok(shown.ran.filter(|_| shown.run.len() == self.pods))
        })
        .await
        .with_context(|| format!("{} of {} have answered", self.shown().run.len(), self.pods))
    }

    /// Waits until nodes and manager have nothing more to say.
    async fn at_rest(&self) -> Result<()> {
        const QUIET: Duration = Duration::from_secs(2);
        until("there is no more news", self.patience(), async || {
            Ok(self.shown().news.is_none_or(|news| news.elapsed() > QUIET))
        })
        .await
    }

    fn patience(&self) -> Duration {
        Duration::from_mins(1) + Duration::from_millis(200) * u32::try_from(self.pods).unwrap_or(u32::MAX)
    }

    /// What the API server counts of itself.
    async fn counts(&self) -> Result<Counts> {
        let metrics = self.client.request_text(Request::get("/metrics").body(Vec::new())?).await?;
        let mut counts = Counts::default();
        for line in metrics.lines() {
            let is = |label| line.contains(label);
            let value = || line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default();
            if line.starts_with("process_cpu_seconds_total ") {
                counts.cpu = value();
            }
            if line.starts_with("apiserver_request_total{")
                && is(r#"verb="PATCH""#)
                && is(r#"resource="pods""#)
                && is(r#"group="""#)
            {
                *if is(r#"code="2"#) { &mut counts.patches } else { &mut counts.refused } += value();
            }
        }
        Ok(counts)
    }
}

// === hollow nodes ===

/// A pod of about 8 KB, as they are in real clusters.
fn pod() -> Value {
    let mut pod = fixtures::review(true)["request"]["object"].take();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        for member in ["generateName", "managedFields", "creationTimestamp"] {
            metadata.remove(member);
        }
    }
    pod["metadata"]["namespace"] = "bench".into();
    pod
}

/// One task that notes what the watch shows, and one that does what kubelets do.
fn hollow_nodes(cluster: &Cluster, shown: Arc<Mutex<Shown>>, may_answer: watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let client = cluster.client();
    // Bounded by the pods of the benchmark; an event that waits here is none that the watch has to wait for.
    let (events, inbox) = mpsc::unbounded_channel();
    let resource = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), "bench", &resource);
    let watched = watcher::watcher(pods, watcher::Config::default()).for_each(move |event| {
        if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
            let now = Instant::now();
            note(&mut shown.lock().unwrap_or_else(PoisonError::into_inner), &pod, now);
            let _ = events.send(pod);
        }
        futures::future::ready(())
    });
    vec![tokio::spawn(watched), tokio::spawn(kubelets(client, inbox, may_answer))]
}

fn note(shown: &mut Shown, pod: &DynamicObject, now: Instant) {
    let (Some(name), Some(uid), Some(version)) =
        (&pod.metadata.name, &pod.metadata.uid, &pod.metadata.resource_version)
    else {
        return;
    };
    shown.news = Some(now);
    shown.pods.insert(name.clone(), (uid.clone(), version.clone()));
    let containers = pod.data["spec"]["containers"].as_array();
    if containers.is_some_and(|all| all.iter().any(|container| container["image"] == shown.image))
        && shown.have.insert(name.clone())
    {
        shown.last = Some(now);
    }
    let statuses = pod.data["status"]["containerStatuses"].as_array();
    if statuses.is_some_and(|all| all.iter().any(|status| status["image"] == shown.image))
        && shown.run.insert(name.clone())
    {
        shown.ran = Some(now);
    }
    let conditions = pod.data["status"]["conditions"].as_array();
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    if conditions.is_some_and(|all| all.iter().any(is_ready)) {
        shown.ready.insert(name.clone());
    } else {
        shown.ready.remove(name);
    }
}

/// Restarts what has changed, as soon as they may, and says so.
async fn kubelets(client: Client, inbox: mpsc::UnboundedReceiver<DynamicObject>, may_answer: watch::Receiver<bool>) {
    let node = Mutex::new(Node::default());
    let (client, node, may_answer) = (&client, &node, &may_answer);
    stream::unfold(inbox, |mut inbox| async { Some((inbox.recv().await?, inbox)) })
        .for_each_concurrent(NODES, |pod| async move {
            if may_answer.clone().wait_for(|may_answer| *may_answer).await.is_err() {
                return;
            }
            let Ok(mut pod) = serde_json::to_value(pod) else { return };
            let status = {
                let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
                // Whole seconds, as the API server keeps them.
                let now = Timestamp::now();
                let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
                node.run(&pod, now);
                node.status(&pod, now)
            };
            let Some(mut status) = status else { return };
            let old = &pod["status"];
            if status["containerStatuses"] == trimmed(old) {
                return;
            }
            if let (Some(own), Some(old)) = (status["conditions"].as_array_mut(), old["conditions"].as_array()) {
                own.extend(old.iter().filter(|condition| condition["type"] != "Ready").cloned());
            }
            pod["status"] = status;
            // PUT, to be told from the manager's PATCH. One that is late meets a conflict, and the next event is coming.
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("{PODS}/{name}/status");
            let request = Request::put(path).header(header::CONTENT_TYPE, "application/json");
            if let Ok(request) = request.body(pod.to_string().into_bytes()) {
                let _ = client.request_text(request).await;
            }
        })
        .await;
}

/// The statuses as we write them: the API server adds members.
fn trimmed(status: &Value) -> Value {
    const OURS: [&str; 8] = ["name", "ready", "started", "restartCount", "image", "imageID", "containerID", "state"];
    let mut statuses = status["containerStatuses"].clone();
    for status in statuses.as_array_mut().into_iter().flatten() {
        if let Some(members) = status.as_object_mut() {
            members.retain(|member, _| OURS.contains(&member.as_str()));
        }
    }
    statuses
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
