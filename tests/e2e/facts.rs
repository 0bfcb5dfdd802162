//! What the other tests rely on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Cluster, NODE, Namespace, Stop, Test, alone, eventually, tests, until};

/// The kubelet looks at all pods once a minute only; whatever it is told at once is done within this.
const PATIENCE: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    let mut tests = tests![
        the_node_is_ready,
        a_pod_with_two_containers_runs,
        a_changed_image_restarts_that_container_only,
        kubectl_logs_and_exec_reach_the_container,
        a_container_that_ignores_sigterm_takes_its_grace_period,
        a_pod_reaches_the_api_server_at_the_address_of_its_service,
    ];
    tests.extend(alone![pods_come_back_when_the_whole_cluster_was_switched_off]);
    tests
}

async fn the_node_is_ready(cluster: &Cluster, _: &Namespace) -> Result<()> {
    let node = Api::<Node>::all(cluster.client()).get(NODE).await?;
    let conditions = node.status.context("no status")?.conditions.unwrap_or_default();
    ensure!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    Ok(())
}

async fn a_pod_with_two_containers_runs(_: &Cluster, ns: &Namespace) -> Result<()> {
    let pod =
        run(ns, "web", json!([{"name": "app", "image": "app:1"}, {"name": "sidecar", "image": "sidecar:1"}])).await?;
    assert_eq!(statuses(&pod).iter().filter(|status| status.ready).count(), 2);
    Ok(())
}

async fn a_changed_image_restarts_that_container_only(_: &Cluster, ns: &Namespace) -> Result<()> {
    let containers = json!([{"name": "app", "image": "app:1"}, {"name": "sidecar", "image": "sidecar:1"}]);
    let before = run(ns, "web", containers).await?;
    let change = json!({"spec": {"containers": [{"name": "sidecar", "image": "sidecar:2"}]}});
    let pods: Api<Pod> = ns.api();
    pods.patch("web", &PatchParams::default(), &Patch::Strategic(change)).await?;
    let after = eventually("the sidecar runs its new image", PATIENCE, async || {
        let pod = pods.get("web").await?;
        let done = status(&pod, "sidecar")?.image.ends_with("sidecar:2") && is_ready(&pod);
        Ok(done.then_some(pod))
    })
    .await?;
    let (old, new) = (status(&before, "sidecar")?, status(&after, "sidecar")?);
    assert_ne!(new.image_id, old.image_id);
    assert_eq!(new.restart_count, old.restart_count + 1);
    assert_eq!(status(&after, "app")?, status(&before, "app")?, "the other container is untouched");
    let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    assert_eq!(address(&after), address(&before));
    Ok(())
}

async fn kubectl_logs_and_exec_reach_the_container(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    run(ns, "web", json!([{"name": "app", "image": "app:2"}, {"name": "sidecar", "image": "sidecar:3"}])).await?;
    let said = cluster.kubectl_says(&["logs", "-n", ns.name(), "web", "-c", "app"]).await?;
    assert_eq!(said.trim(), "app 2 has started");
    let exec = ["exec", "-n", ns.name(), "web", "-c", "sidecar", "--", "cat", "/version"];
    assert_eq!(cluster.kubectl_says(&exec).await?.trim(), "sidecar 3");
    Ok(())
}

async fn a_container_that_ignores_sigterm_takes_its_grace_period(_: &Cluster, ns: &Namespace) -> Result<()> {
    const GRACE: u32 = 4;
    run(ns, "polite", json!([{"name": "app", "image": "app:1"}])).await?;
    run(ns, "stubborn", json!([{"name": "app", "image": "stubborn:1"}])).await?;
    let pods: Api<Pod> = ns.api();
    for (name, takes_it) in [("polite", false), ("stubborn", true)] {
        let asked = Instant::now();
        pods.delete(name, &DeleteParams::default().grace_period(GRACE)).await?;
        until("the pod is gone", PATIENCE, async || Ok(pods.get_opt(name).await?.is_none())).await?;
        assert_eq!(asked.elapsed() >= Duration::from_secs(GRACE.into()), takes_it, "{name}: {:?}", asked.elapsed());
    }
    Ok(())
}

async fn a_pod_reaches_the_api_server_at_the_address_of_its_service(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    run(ns, "web", json!([{"name": "app", "image": "app:1"}])).await?;
    let plain = "wget -q -O - http://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT 2>&1 || true";
    let exec = ["exec", "-n", ns.name(), "web", "--", "sh", "-c", plain];
    let said = cluster.kubectl_says(&exec).await?;
    ensure!(said.contains("400 Bad Request"), "a server of TLS answers plain text so, but: {said}");
    Ok(())
}

async fn pods_come_back_when_the_whole_cluster_was_switched_off(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    run(ns, "web", json!([{"name": "app", "image": "app:1"}])).await?;
    cluster.stop_all(Stop::Kill).await?;
    cluster.start_all().await?;
    let pods: Api<Pod> = ns.api();
    until("its container was started again", PATIENCE, async || {
        let pod = pods.get("web").await?;
        Ok(is_ready(&pod) && status(&pod, "app")?.restart_count == 1)
    })
    .await
}

/// Makes a pod of these containers and waits until they are all ready.
async fn run(ns: &Namespace, name: &str, containers: Value) -> Result<Pod> {
    ns.create_json::<Pod>(json!({"metadata": {"name": name}, "spec": {"containers": containers}})).await?;
    let pods: Api<Pod> = ns.api();
    eventually(&format!("pod {name} is ready"), PATIENCE, async || {
        let pod = pods.get(name).await?;
        Ok(is_ready(&pod).then_some(pod))
    })
    .await
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

fn status<'a>(pod: &'a Pod, container: &str) -> Result<&'a ContainerStatus> {
    let found = statuses(pod).iter().find(|status| status.name == container);
    found.with_context(|| format!("the pod has no status of {container} yet"))
}
