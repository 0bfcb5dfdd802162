//! Pods that were created while the webhook was away are counted, and told of once.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use outrigger::controllers::missed::{self, Gauges, Settings};
use outrigger::controllers::pods::{self, Hub};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::explain::{aged, clean_up, create_pod, create_set, install, register_absent, sidecarsets};
use crate::harness::{Cluster, Namespace, PATIENCE, Test, eventually, run, until};

pub fn tests() -> Vec<Test> {
    run::alone![
        missed_pods_are_counted_and_told_once,
        selectors_are_remembered_over_a_change_of_the_image_and_a_restart,
    ]
}

/// The loop as a leader runs it, only less patient.
struct Leader {
    registry: Registry,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Leader {
    fn start(cluster: &Cluster) -> Self {
        let settings = Settings {
            debounce: Duration::from_millis(200),
            listing_interval: Duration::from_millis(500),
            write_interval: Duration::from_millis(500),
            registration_interval: Duration::from_millis(500),
            ..Settings::new("kruise-system")
        };
        let gauges = Gauges::default();
        let mut registry = Registry::with_prefix("outrigger");
        gauges.register(&mut registry);
        let shutdown = CancellationToken::new();
        let mut hub = Hub::new(cluster.client(), pods::Metrics::default());
        let missed = missed::run(cluster.client(), settings, gauges, &mut hub, shutdown.clone());
        let hub = hub.run(shutdown.clone());
        let task = tokio::spawn(async move { _ = tokio::join!(hub, missed) });
        Self { registry, shutdown, task }
    }

    /// The lines of its metrics that are not zero.
    fn metrics(&self) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let told = text.lines().filter(|line| line.starts_with("outrigger_missed_pods") && !line.ends_with(" 0"));
        told.map(str::to_owned).collect()
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await?)
    }
}

async fn condition(cluster: &Cluster, set: &str) -> Result<Value> {
    let set = serde_json::to_value(sidecarsets(cluster).get(set).await?)?;
    let conditions = set["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions.into_iter().find(|condition| condition["type"] == "InjectionComplete").unwrap_or_default())
}

/// Reasons of the events about a set, in the order of time.
async fn events(cluster: &Cluster, set: &str) -> Result<Vec<String>> {
    let api: Api<Event> = Api::namespaced(cluster.client(), "default");
    let mut events = api.list(&ListParams::default()).await?.items;
    events.retain(|event| event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(set)));
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    Ok(events.into_iter().filter_map(|event| event.reason).collect())
}

async fn missed_pods_are_counted_and_told_once(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    install(cluster).await?;
    let tested = told_once(cluster, ns).await;
    clean_up(cluster, ns).await?;
    tested
}

async fn told_once(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let old = create_pod(ns, "old", &json!({})).await?;
    aged(ns, &old, SignedDuration::from_secs(1)).await?;
    let mesh = create_set(cluster, ns, "mesh", &json!({})).await?;
    let set = mesh.name_any();
    let leader = Leader::start(cluster);
    until("a set without missed pods says so", PATIENCE, async || {
        let condition = condition(cluster, &set).await?;
        Ok(condition["status"] == "True" && condition["reason"] == "NoPodMissed")
    })
    .await?;
    aged(ns, &mesh, SignedDuration::from_secs(6)).await?;
    let web = create_pod(ns, "web", &json!({})).await?;
    create_pod(ns, "api", &json!({"metadata": {"labels": {"app": "api"}}})).await?;

    let told = eventually("the missed pod is told", PATIENCE, async || {
        let condition = condition(cluster, &set).await?;
        Ok((condition["status"] == "False").then_some(condition))
    })
    .await?;
    let message = told["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("1 pod that it selects was created without it"), "{message}");
    ensure!(message.contains(&format!("outrigger explain pod web -n {}", ns.name())), "{message}");
    assert_eq!((&told["reason"], &told["observedGeneration"]), (&json!("PodsMissed"), &json!(1)));
    assert_eq!(events(cluster, &set).await?, ["PodsMissed"]);
    let metrics = ["outrigger_missed_pods 1", "outrigger_missed_pods_by_reason{reason=\"WebhookNotRegistered\"} 1"];
    assert_eq!(leader.metrics(), metrics);

    // A successor finds it said already.
    leader.stop().await?;
    let leader = Leader::start(cluster);
    until("the successor has counted", PATIENCE, async || Ok(leader.metrics() == metrics)).await?;
    // Its next word comes after all it might have said again.
    register_absent(cluster).await?;
    create_pod(ns, "web-2", &json!({})).await?;
    until("the second pod is told", PATIENCE, async || {
        let condition = condition(cluster, &set).await?;
        Ok(condition["message"].as_str().unwrap_or_default().starts_with("2 pods"))
    })
    .await?;
    assert_eq!(condition(cluster, &set).await?["lastTransitionTime"], told["lastTransitionTime"]);
    assert_eq!(events(cluster, &set).await?, ["PodsMissed"]);

    let pods: Api<Pod> = ns.api();
    assert_eq!(pods.get("web").await?.resource_version(), web.resource_version(), "no pod is changed");
    for pod in ["web", "web-2"] {
        pods.delete(pod, &DeleteParams::default().grace_period(0)).await?;
    }
    until("nothing is missed any more", PATIENCE, async || Ok(condition(cluster, &set).await?["status"] == "True"))
        .await?;
    until("and that is told", PATIENCE, async || Ok(events(cluster, &set).await? == ["PodsMissed", "NoPodMissed"]))
        .await?;
    assert_eq!(leader.metrics(), [""; 0]);
    leader.stop().await
}

async fn selectors_are_remembered_over_a_change_of_the_image_and_a_restart(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    install(cluster).await?;
    let tested = remembered(cluster, ns).await;
    clean_up(cluster, ns).await?;
    tested
}

async fn remembered(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let mesh = create_set(cluster, ns, "mesh", &json!({})).await?;
    let set = mesh.name_any();
    aged(ns, &mesh, SignedDuration::from_secs(6)).await?;
    create_pod(ns, "web", &json!({})).await?;
    let is_missed = async |generation: i64| {
        let condition = condition(cluster, &set).await?;
        Ok(condition["status"] == "False" && condition["observedGeneration"] == generation)
    };
    let leader = Leader::start(cluster);
    until("the pod was missed", PATIENCE, async || is_missed(1).await).await?;

    let change = |spec: Value| async move {
        let patch = Patch::Merge(json!({"spec": spec}));
        sidecarsets(cluster).patch(&set_name(ns), &PatchParams::default(), &patch).await
    };
    change(json!({"containers": [{"name": "proxy", "image": "envoy:2"}]})).await?;
    until("and still was, for only the image changed", PATIENCE, async || is_missed(2).await).await?;
    leader.stop().await?;
    let leader = Leader::start(cluster);
    until("a successor knows that, too", PATIENCE, async || Ok(leader.metrics().len() == 2)).await?;

    change(json!({"selector": {"matchLabels": {"more": null, "app": "web"}}, "namespaceSelector": {"matchLabels": {
        "kubernetes.io/metadata.name": ns.name(),
    }}}))
    .await?;
    until("with other selectors nothing can be shown", PATIENCE, async || {
        let condition = condition(cluster, &set).await?;
        Ok(condition["status"] == "True" && condition["observedGeneration"] == 3)
    })
    .await?;
    assert_eq!(leader.metrics(), [""; 0]);
    leader.stop().await
}

fn set_name(ns: &Namespace) -> String {
    format!("{}-mesh", ns.name())
}
