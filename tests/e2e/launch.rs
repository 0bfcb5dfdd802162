//! Containers start in the order of their priorities, on a kubelet.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, Test, tests, until};
use crate::outrigger::installed;
use crate::pods::{self, Instance, PATIENCE, clock, instances, seconds};
use crate::rollout::{Set, ran};

const COMPLETED: &str = "apps.kruise.io/container-launch-priority-completed";
/// A container whose key is there is started within so many seconds, however often it was tried before (W-45: 10 to 15 in
/// the reference).
const AT_ONCE: f64 = 8.0;

pub fn tests() -> Vec<Test> {
    tests![
        groups_start_one_after_the_other_also_when_one_is_slow_to_be_ready_lp_7_lp_8,
        an_ordered_pod_starts_its_containers_one_by_one_lp_1,
        a_container_of_a_started_pod_that_crashes_restarts_without_waiting_lp_9,
        a_pod_recreated_under_its_name_starts_in_order_again_and_restarts_later_w_42,
        a_sidecar_that_is_injected_takes_part_lp_1,
        a_pod_without_priorities_gets_nothing,
    ]
}

/// A container of this priority.
fn container(name: &str, priority: i32, change: &Value) -> Value {
    let env = json!([{"name": "KRUISE_CONTAINER_PRIORITY", "value": priority.to_string()}]);
    let mut container = json!({"name": name, "image": "app:1", "env": env});
    json_patch::merge(&mut container, change);
    container
}

/// When each container was first started and when each key of the barrier was first seen, once the pod is ready.
struct Launch {
    pod: Pod,
    instances: Vec<Instance>,
    keys: BTreeMap<String, i64>,
}

async fn launch(cluster: &Cluster, ns: &Namespace, name: &str) -> Result<Launch> {
    let barriers: Api<ConfigMap> = ns.api();
    let mut keys = BTreeMap::new();
    let watch = async {
        loop {
            if let Some(barrier) = barriers.get_opt(&format!("{name}-barrier")).await? {
                for key in barrier.data.unwrap_or_default().into_keys() {
                    keys.entry(key).or_insert_with(clock);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let pod = tokio::select! {
        pod = pods::ready(ns, name) => pod?,
        failed = watch => return failed,
    };
    Ok(Launch { instances: instances(cluster, &pod).await?, pod, keys })
}

impl Launch {
    /// Every container was started once, those of a group after all of the group before, and soon after their key came.
    fn in_order(&self, groups: &[(&str, &[&str])]) -> Result<()> {
        let count: usize = groups.iter().map(|(_, names)| names.len()).sum();
        ensure!(self.instances.len() == count, "{:#?}", self.instances);
        let mut before = 0;
        for (key, names) in groups {
            let released = *self.keys.get(*key).with_context(|| format!("no key {key}: {:?}", self.keys))?;
            let mut last = before;
            for name in *names {
                let instance = self.instances.iter().find(|instance| instance.name == *name);
                let instance = instance.with_context(|| format!("{name} was not started"))?;
                ensure!(
                    instance.finished == 0 && instance.started > before,
                    "{name} is too early: {:#?}",
                    self.instances
                );
                let waited = seconds(released, instance.started);
                println!("{}: {name} was started {waited:.2} s after {key} was there", self.pod.name_any());
                ensure!(waited < AT_ONCE, "{name} was started {waited:.1} s after {key} was there");
                last = last.max(instance.started);
            }
            before = last;
        }
        ensure!(self.pod.annotations().get(COMPLETED).is_some_and(|it| it == "true"), "{:?}", self.pod.annotations());
        Ok(())
    }

    fn started(&self, container: &str) -> Result<i64> {
        let found = self.instances.iter().find(|instance| instance.name == container);
        Ok(found.with_context(|| format!("{container}: {:#?}", self.instances))?.started)
    }
}

async fn groups_start_one_after_the_other_also_when_one_is_slow_to_be_ready_lp_7_lp_8(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    // Ready five seconds after its start, not earlier.
    let slow = json!({"readinessProbe": {
        "exec": {"command": ["true"]}, "initialDelaySeconds": 5, "periodSeconds": 1, "failureThreshold": 1,
    }});
    let containers = json!([
        container("report", -5, &json!({})),
        container("app", 0, &json!({})),
        container("proxy", 100, &json!({})),
        container("cache", 100, &slow),
    ]);
    pods::create(ns, "web", containers, &json!({})).await?;
    let launch = launch(cluster, ns, "web").await?;
    launch.in_order(&[("p_100", &["proxy", "cache"]), ("p_0", &["app"]), ("p_-5", &["report"])])?;
    let (cache, app) = (launch.started("cache")?, launch.started("app")?);
    println!("app was started {:.2} s after cache, which takes 5 s to be ready", seconds(cache, app));
    // The kubelet counts from the start in whole seconds.
    ensure!(seconds(cache, launch.keys["p_0"]) > 4.0, "the key was there too early: {:?}", launch.keys);
    Ok(())
}

async fn an_ordered_pod_starts_its_containers_one_by_one_lp_1(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let names = ["one", "two", "three", "four"];
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "app:1"})).collect();
    let ordered = json!({"metadata": {"annotations": {"apps.kruise.io/container-launch-priority": "Ordered"}}});
    pods::create(ns, "web", json!(containers), &ordered).await?;
    let launch = launch(cluster, ns, "web").await?;
    launch.in_order(&[("p_0", &["one"]), ("p_-1", &["two"]), ("p_-2", &["three"]), ("p_-3", &["four"])])
}

/// Ends the process of a container and waits until the next one is ready; nothing else of the pod changes.
async fn crash(cluster: &Cluster, ns: &Namespace, pod: &Pod, container: &str) -> Result<()> {
    let (name, before) = (pod.name_any(), ran(pod));
    // The command may end with the container.
    _ = pods::sh(cluster, ns, &name, container, "kill 1").await;
    let mut expected = before.node_sees.clone();
    let (api, crashed) = (ns.api::<Pod>(), expected.remove(container).context("no such container")?);
    until(&format!("{container} was started again"), PATIENCE, async || {
        let pod = api.get(&name).await?;
        Ok(is_ready(&pod) && ran(&pod).node_sees[container].restarts == crashed.restarts + 1)
    })
    .await?;
    let mut after = ran(&api.get(&name).await?).node_sees;
    let again = after.remove(container).context("it is gone")?;
    ensure!(again.id != crashed.id && after == expected, "{expected:#?} became {after:#?}");
    let all = instances(cluster, pod).await?;
    let [old, new] = pods::both(&all, container)?;
    let waited = seconds(old.finished, new.started);
    println!("{container} was started again {waited:.2} s after it had ended");
    ensure!(waited < AT_ONCE, "{container} was started again only {waited:.1} s after it had ended");
    Ok(())
}

async fn a_container_of_a_started_pod_that_crashes_restarts_without_waiting_lp_9(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let containers = json!([container("first", 1, &json!({})), container("last", -1, &json!({}))]);
    let pod = pods::run(ns, "web", containers, &json!({})).await?;
    crash(cluster, ns, &pod, "first").await?;
    let pod = ns.api::<Pod>().get("web").await?;
    crash(cluster, ns, &pod, "last").await
}

async fn a_pod_recreated_under_its_name_starts_in_order_again_and_restarts_later_w_42(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let containers = json!([container("last", -1, &json!({})), container("first", 1, &json!({}))]);
    let (api, barriers): (Api<Pod>, Api<ConfigMap>) = (ns.api(), ns.api());
    let mut last = None;
    for round in 0..4 {
        // The barrier of the one before is still there: the garbage collector takes a while.
        pods::create(ns, "web-0", containers.clone(), &json!({})).await?;
        let launch = launch(cluster, ns, "web-0").await?;
        launch.in_order(&[("p_1", &["first"]), ("p_-1", &["last"])]).with_context(|| format!("round {round}"))?;
        let barrier = barriers.get("web-0-barrier").await?;
        let owners: Vec<&str> = barrier.owner_references().iter().map(|owner| owner.uid.as_str()).collect();
        ensure!(owners == [launch.pod.uid().unwrap_or_default()], "the barrier belongs to {owners:?}");
        if round < 3 {
            api.delete("web-0", &DeleteParams::default().grace_period(0)).await?;
            until("it is gone", PATIENCE, async || Ok(api.get_opt("web-0").await?.is_none())).await?;
        }
        last = Some(launch.pod);
    }
    let pod = last.context("no pod")?;
    crash(cluster, ns, &pod, "first").await
}

async fn a_sidecar_that_is_injected_takes_part_lp_1(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let proxy = container("proxy", 10, &json!({"image": "sidecar:1"}));
    let set = Set::create(cluster, ns, "mesh", json!({"containers": [proxy]})).await?;
    let labels = json!({"metadata": {"labels": {"app": "web"}}});
    pods::create(ns, "web", json!([{"name": "app", "image": "app:1"}]), &labels).await?;
    launch(cluster, ns, "web").await?.in_order(&[("p_10", &["proxy"]), ("p_0", &["app"])])?;
    set.remove().await
}

async fn a_pod_without_priorities_gets_nothing(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let asked = json!([{"name": "app", "image": "app:1"}, {"name": "other", "image": "app:2"}]);
    let pod = pods::run(ns, "web", asked, &json!({})).await?;
    ensure!(pod.metadata.annotations.is_none(), "it was annotated: {:?}", pod.metadata.annotations);
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        ensure!(container.env.is_none() && container.env_from.is_none(), "{container:?}");
    }
    let barriers = ns.api::<ConfigMap>().list(&ListParams::default()).await?.items;
    let barriers: Vec<String> = barriers.iter().map(kube::ResourceExt::name_any).collect();
    ensure!(barriers == ["kube-root-ca.crt"], "there are {barriers:?}");
    let events = ns.api::<Event>().list(&ListParams::default().fields("reason=CreateContainerConfigError")).await?;
    ensure!(events.items.is_empty(), "{:#?}", events.items);
    Ok(())
}
