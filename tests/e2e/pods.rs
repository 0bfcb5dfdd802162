//! Pods of the tests, as the API server and as the node's runtime see them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use outrigger::cri::{self, v1};
use serde_json::{Value, json};

use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, eventually};

/// A container is stopped, its image pulled and the next one started; the kubelet looks at all pods once a minute only.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Ten digits after the seconds are enough.
const NANOS: i64 = 1_000_000_000;

/// An instance of a container, by the clock of the node, in nanoseconds since 1970.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    pub started: i64,
    pub finished: i64,
}

/// Makes a pod with these containers; `change` is merged into it.
pub async fn create(ns: &Namespace, name: &str, containers: Value, change: &Value) -> Result<Pod> {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {
            "containers": containers, "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false,
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    json_patch::merge(&mut pod, change);
    ns.create_json(pod).await
}

/// The pod once it is ready.
pub async fn ready(ns: &Namespace, name: &str) -> Result<Pod> {
    eventually(&format!("pod {name} is ready"), PATIENCE, async || {
        let pod = ns.api::<Pod>().get(name).await?;
        Ok(is_ready(&pod).then_some(pod))
    })
    .await
}

/// Makes it and waits until it is ready.
pub async fn run(ns: &Namespace, name: &str, containers: Value, change: &Value) -> Result<Pod> {
    create(ns, name, containers, change).await?;
    ready(ns, name).await
}

/// What the kubelet says of a container.
pub fn status<'p>(pod: &'p Pod, container: &str) -> Result<&'p ContainerStatus> {
    let status = pod.status.iter();
    let mut all = status
        .flat_map(|status| status.container_statuses.iter().chain(status.init_container_statuses.iter()).flatten());
    all.find(|status| status.name == container).with_context(|| format!("there is no status of {container} yet"))
}

/// Status and message of a condition.
pub fn condition(pod: &Pod, r#type: &str) -> Option<(String, String)> {
    let mut all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let found = all.find(|condition| condition.type_ == r#type)?;
    Some((found.status.clone(), found.message.clone().unwrap_or_default()))
}

/// What the runtime has of a pod, in the order of the starts. The kubelet keeps one dead instance of each container.
pub async fn instances(cluster: &Cluster, pod: &Pod) -> Result<Vec<Instance>> {
    let client = cri::Client::new(&cluster.containerd().await?, cri::Metrics::default());
    let found = client.containers(&pod.uid().context("no uid")?).await?;
    let instance = |it: &v1::ContainerStatus| Instance {
        name: cri::name_of(it).unwrap_or_default().to_owned(),
        started: it.started_at,
        finished: it.finished_at,
    };
    let mut found: Vec<_> = found.iter().map(instance).collect();
    found.sort_by_key(|instance| instance.started);
    Ok(found)
}

/// The instances of a container before and after its only restart.
pub fn both<'i>(instances: &'i [Instance], container: &str) -> Result<[&'i Instance; 2]> {
    let found: Vec<&Instance> = instances.iter().filter(|instance| instance.name == container).collect();
    let [old, new] = found[..] else { anyhow::bail!("{container} has other than two instances: {found:#?}") };
    ensure!(old.finished != 0 && new.finished == 0, "{container}: {found:#?}");
    Ok([old, new])
}

/// From one moment of the node's clock to another, in seconds.
#[allow(clippy::cast_precision_loss, reason = "for people and for bounds of half a second")]
pub fn seconds(from: i64, to: i64) -> f64 {
    (to - from) as f64 / NANOS as f64
}

/// The node's clock, which is ours.
#[expect(clippy::disallowed_methods, reason = "containers are started and ended by this clock")]
pub fn clock() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Runs a shell command in a container; what it printed.
pub async fn sh(cluster: &Cluster, ns: &Namespace, pod: &str, container: &str, command: &str) -> Result<String> {
    cluster.kubectl_says(&["exec", "-n", ns.name(), pod, "-c", container, "--", "sh", "-c", command]).await
}
