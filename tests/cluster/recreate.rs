//! ContainerRecreateRequests before a whole manager: judged, filled in, drained, ended. There is no node here: the tests play
//! the kubelet and the daemon by writing statuses.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use outrigger::readiness::keys::Key;
use outrigger::readiness::writer::{self, Done};
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, PATIENCE, Test, eventually, run, until};
use crate::manager::{Manager, get, while_installed};

const HELD: &str = "crr.apps.kruise.io/unready-acquired";
const ACTIVE: &str = "crr.apps.kruise.io/active";

pub fn tests() -> Vec<Test> {
    run::alone![
        requests_are_judged_and_filled_in_whatever_their_version,
        each_request_that_cannot_be_carried_out_ends_with_the_reason,
        a_pod_is_drained_for_a_request_and_released_with_other_writers_kept,
        many_writers_of_one_condition_lose_nothing_pr_6,
    ]
}

// === the world ===

/// A node that nobody runs, and the pods that a kubelet there would have started.
struct World<'c> {
    cluster: &'c Cluster,
    ns: &'c Namespace,
    node: String,
}

fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "a node has a clock")]
    let now = Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl<'c> World<'c> {
    async fn new(cluster: &'c Cluster, ns: &'c Namespace) -> Result<Self> {
        let node = format!("{}-node", ns.name());
        let nodes: Api<Node> = Api::all(cluster.client());
        nodes.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": node}}))?).await?;
        Ok(Self { cluster, ns, node })
    }

    /// Pods first: nobody else ends them on a node that is not there.
    async fn remove(self) -> Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        for pod in self.ns.api::<Pod>().list(&ListParams::default()).await? {
            drop(self.ns.api::<Pod>().delete(&pod.metadata.name.unwrap_or_default(), &at_once).await);
        }
        Api::<Node>::all(self.cluster.client()).delete(&self.node, &DeleteParams::default()).await?;
        Ok(())
    }

    /// A running pod with the containers `web` and `log` and the sidecar `proxy`; `change` is merged into it.
    async fn pod(&self, name: &str, change: Value) -> Result<Pod> {
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": self.node, "terminationGracePeriodSeconds": 7,
                "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
                "containers": [
                    {"name": "web", "image": "web:1", "ports": [{"name": "admin", "containerPort": 9090}],
                        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": "admin"}}}},
                    {"name": "log", "image": "log:1", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}},
                ],
            },
        });
        json_patch::merge(&mut pod, &change);
        // An API server may call a webhook that has just begun to listen.
        eventually("the pod is made", PATIENCE, async || self.ns.create_json::<Pod>(pod.clone()).await.map(Some))
            .await?;
        self.runs(name, 0).await
    }

    /// Writes what a kubelet would: containers that have been restarted so often.
    async fn runs(&self, name: &str, restarts: i32) -> Result<Pod> {
        let status = |container: &str| {
            json!({"name": container, "image": "x", "imageID": "x", "ready": true, "started": true,
                "restartCount": restarts, "containerID": format!("containerd://{name}-{container}-{restarts}"),
                "state": {"running": {"startedAt": now()}}})
        };
        let status = json!({"status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": now()},
                {"type": "ContainersReady", "status": "True", "lastTransitionTime": now()},
            ],
            "initContainerStatuses": [status("proxy")],
            "containerStatuses": [status("web"), status("log")],
        }});
        let pods = self.ns.api::<Pod>();
        Ok(pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?)
    }

    fn requests(&self, version: &str) -> Api<DynamicObject> {
        let kind = ApiResource {
            group: "apps.kruise.io".into(),
            version: version.into(),
            api_version: format!("apps.kruise.io/{version}"),
            kind: "ContainerRecreateRequest".into(),
            plural: "containerrecreaterequests".into(),
        };
        Api::namespaced_with(self.cluster.client(), self.ns.name(), &kind)
    }

    async fn request(&self, version: &str, name: &str, spec: Value) -> kube::Result<Value> {
        let object = json!({
            "apiVersion": format!("apps.kruise.io/{version}"), "kind": "ContainerRecreateRequest",
            "metadata": {"name": name}, "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let made = self.requests(version).create(&PostParams::default(), &object).await?;
        Ok(serde_json::to_value(made).unwrap())
    }

    async fn read(&self, version: &str, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.requests(version).get(name).await?)?)
    }

    /// The request once it is as `check` wants it.
    async fn is(&self, what: &str, name: &str, check: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = eventually(what, PATIENCE, async || {
            let request = self.read("v1beta1", name).await?;
            Ok(Some(request).filter(&check))
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(error) => bail!("{error:#}; it is {:#}", self.read("v1beta1", name).await?),
        }
    }

    async fn is_gone(&self, name: &str) -> Result<()> {
        let requests = self.requests("v1beta1");
        until("the request is gone", PATIENCE, async || Ok(requests.get_opt(name).await?.is_none())).await
    }

    /// Writes a status as the daemon does.
    async fn daemon(&self, version: &str, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"status": status}));
        self.requests(version).patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn condition(&self, pod: &str, kind: &str) -> Result<Value> {
        let status = self.ns.api::<Pod>().get(pod).await?.status.unwrap_or_default();
        let mut all = status.conditions.unwrap_or_default().into_iter();
        Ok(json!(all.find(|condition| condition.type_ == kind)))
    }
}

/// Runs a test in a world with a manager, and takes the world away.
async fn with_manager(
    cluster: &Cluster,
    ns: &Namespace,
    args: &[&str],
    test: impl AsyncFnOnce(&World<'_>, &Manager) -> Result<()>,
) -> Result<()> {
    while_installed(cluster, async |installed| {
        let manager = installed.start("recreate", None, args)?;
        manager.is_ready().await?;
        let world = World::new(cluster, ns).await?;
        let tested = test(&world, &manager).await.map_err(|error| manager.process.explain(error));
        world.remove().await?;
        tested
    })
    .await
}

fn completed(request: &Value) -> bool {
    request["status"]["phase"] == "Completed"
}

/// Completed with this message, and no longer looked at by any daemon.
fn ended_by(message: &str) -> impl Fn(&Value) -> bool {
    move |request| {
        completed(request)
            && request["status"]["message"].as_str().unwrap_or_default().starts_with(message)
            && request["metadata"]["labels"].get(ACTIVE).is_none()
            && request["metadata"].get("finalizers").is_none()
            && request["status"]["completionTime"].is_string()
    }
}

// === admission ===

async fn requests_are_judged_and_filled_in_whatever_their_version(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    with_manager(cluster, ns, &[], async |world, _| {
        let pod = world.pod("cart", json!({})).await?;
        is_filled_in(world, &pod).await?;
        is_refused(world).await?;
        versions_agree(world).await
    })
    .await
}

async fn is_filled_in(world: &World<'_>, pod: &Pod) -> Result<()> {
    let containers = json!([{"name": "web"}, {"name": "log"}, {"name": "proxy"}]);
    let made = world.request("v1beta1", "all", json!({"podName": "cart", "containers": containers})).await?;
    let labels = &made["metadata"]["labels"];
    ensure!(labels["crr.apps.kruise.io/pod-uid"] == json!(pod.metadata.uid), "{made:#}");
    ensure!(labels["crr.apps.kruise.io/node-name"] == world.node.as_str() && labels[ACTIVE] == "true", "{made:#}");
    let strategy = json!({"failurePolicy": "Fail", "terminationGracePeriodSeconds": 7});
    ensure!(made["spec"]["strategy"] == strategy, "{made:#}");
    let context = |name: &str| json!({"containerID": format!("containerd://cart-{name}-0"), "restartCount": 0});
    let expected = json!([
        {"name": "web", "statusContext": context("web"),
            "preStop": {"httpGet": {"path": "/drain", "port": "admin", "scheme": "HTTP"}},
            "ports": [{"name": "admin", "containerPort": 9090, "protocol": "TCP"}]},
        {"name": "log", "statusContext": context("log")},
        {"name": "proxy", "statusContext": context("proxy")},
    ]);
    ensure!(made["spec"]["containers"] == expected, "CRR-43, WEAK-5, WEAK-10: {made:#}");

    // CRR-10 … CRR-14
    let requests = world.requests("v1beta1");
    let change = async |patch: Value| {
        requests.patch("all", &PatchParams::default(), &Patch::Merge(patch)).await.err().map(|error| error.to_string())
    };
    for (patch, told) in [
        (json!({"spec": {"ttlSecondsAfterFinished": 5}}), "spec: must not be changed"),
        (json!({"metadata": {"labels": {"crr.apps.kruise.io/pod-uid": "x"}}}), "pod-uid"),
        (json!({"metadata": {"labels": {"crr.apps.kruise.io/node-name": null}}}), "node-name"),
    ] {
        let said = change(patch).await.unwrap_or_default();
        ensure!(said.contains(told), "{told} is not told: {said}");
    }
    ensure!(change(json!({"metadata": {"labels": {"mine": "x"}}})).await.is_none());
    requests.delete("all", &DeleteParams::default()).await?;
    Ok(())
}

async fn is_refused(world: &World<'_>) -> Result<()> {
    world
        .ns
        .create_json::<Pod>(
            json!({"metadata": {"name": "unscheduled"}, "spec": {"containers": [{"name": "web", "image": "x"}]}}),
        )
        .await?;
    let web = json!([{"name": "web"}]);
    for (change, told) in [
        (json!({"podName": "nobody"}), "there is no pod \"nobody\""),
        (json!({"podName": "no/such?name"}), "there is no pod"),
        (json!({"podName": "unscheduled"}), "is not on a node yet"),
        (json!({"containers": [{"name": "nobody"}]}), "it has proxy, web, log"),
        (json!({"containers": [{"name": "web"}, {"name": "web"}]}), "spec.containers[1].name"),
        (json!({"activeDeadlineSeconds": 2}), "spec.activeDeadlineSeconds"),
        (json!({"containers": [{"name": "web", "ports": [{"containerPort": 1}]}]}), "spec.containers[0].ports"),
        (json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished"),
    ] {
        for version in ["v1alpha1", "v1beta1"] {
            let mut spec = json!({"podName": "cart", "containers": web});
            json_patch::merge(&mut spec, &change);
            match world.request(version, "bad", spec).await {
                Err(kube::Error::Api(status)) => {
                    let is_schema = version == "v1beta1" && status.code == 422;
                    ensure!(status.code == 400 || is_schema, "{status:?}");
                    ensure!(status.message.contains(told) || is_schema, "{told} is not told: {}", status.message);
                }
                other => bail!("{change} is not refused: {other:?}"),
            }
        }
    }
    Ok(())
}

/// What the one version writes, the other reads (CRR-70 … CRR-74).
async fn versions_agree(world: &World<'_>) -> Result<()> {
    let spec = json!({"podName": "cart", "containers": [{"name": "web"}]});
    let made = world.request("v1alpha1", "old", spec.clone()).await?;
    ensure!(made["metadata"]["labels"][ACTIVE] == "true", "{made:#}");
    let newer = world.read("v1beta1", "old").await?;
    ensure!(newer["spec"] == made["spec"] && newer["apiVersion"] == "apps.kruise.io/v1beta1", "{newer:#}");
    // It would end with its pod, while the manager of the next test counts.
    world.requests("v1beta1").delete("old", &DeleteParams::default()).await?;

    world.request("v1beta1", "new", spec).await?;
    world.daemon("v1beta1", "new", json!({"phase": "Recreating"})).await?;
    world.runs("cart", 1).await?;
    world
        .is("the new container is told", "new", |request| {
            request["status"]["containerStatusSnapshot"][0]["containerID"] == "containerd://cart-web-1"
        })
        .await?;
    let older = world.read("v1alpha1", "new").await?;
    let told = older["metadata"]["annotations"]["crr.apps.kruise.io/sync-container-statuses"].as_str();
    let expected = r#"[{"name":"web","ready":true,"restartCount":1,"containerID":"containerd://cart-web-1"}]"#;
    ensure!(told == Some(expected), "{older:#}");
    ensure!(older["status"]["phase"] == "Recreating", "{older:#}");

    // An older daemon ends it; nothing of the annotations stays behind (WEAK-14).
    world.daemon("v1alpha1", "new", json!({"phase": "Completed", "completionTime": now()})).await?;
    let ended = world.is("it ended", "new", ended_by("")).await?;
    ensure!(ended["metadata"].get("annotations").is_none(), "{ended:#}");
    Ok(())
}

// === ends ===

async fn each_request_that_cannot_be_carried_out_ends_with_the_reason(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let args = ["--crr-response", "4", "--crr-default-ttl", "3600"];
    with_manager(cluster, ns, &args, async |world, manager| {
        ends(world).await?;
        let (_, metrics) = get(manager.metrics, "/metrics").await?;
        for line in [
            r#"outrigger_recreate_ended_total{outcome="pod_gone"} 3"#,
            r#"outrigger_recreate_ended_total{outcome="no_daemon"} 1"#,
            r#"outrigger_recreate_ended_total{outcome="deadline"} 2"#,
            r#"outrigger_recreate_requests{phase="New"} 0"#,
        ] {
            ensure!(metrics.contains(line), "{line} is not among the metrics:\n{metrics}");
        }
        Ok(())
    })
    .await
}

async fn ends(world: &World<'_>) -> Result<()> {
    let (pods, at_once) = (world.ns.api::<Pod>(), DeleteParams::default().grace_period(0));
    let web = |pod: &str| json!({"podName": pod, "containers": [{"name": "web"}]});
    let with = |pod: &str, change: Value| {
        let mut spec = web(pod);
        json_patch::merge(&mut spec, &change);
        spec
    };
    for name in ["gone", "replaced", "going", "stays"] {
        world
            .pod(
                name,
                json!({"metadata": {"finalizers": if name == "going" { json!(["test/keep"]) } else { json!([]) }}}),
            )
            .await?;
        world.request("v1beta1", name, web(name)).await?;
    }
    // One that a daemon has taken, and one that waits behind it.
    for name in ["gone", "replaced", "going"] {
        let phase = if name == "gone" { "Pending" } else { "Recreating" };
        world.daemon("v1beta1", name, json!({"phase": phase})).await?;
    }
    pods.delete("gone", &at_once).await?;
    pods.delete("replaced", &at_once).await?;
    pods.delete("going", &DeleteParams::default()).await?;
    until("there is another pod of the name", PATIENCE, async || Ok(world.pod("replaced", json!({})).await.is_ok()))
        .await?;
    for name in ["gone", "replaced", "going"] {
        world.is("it ends as its pod is gone", name, ended_by("pod has gone: ")).await.context("CRR-13")?;
    }
    pods.patch("going", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;

    let ended =
        world.is("it ends without a daemon", "stays", ended_by("daemon has not responded for a long time")).await?;
    let message = ended["status"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains(&world.node), "the message should name the node: {message}");
    let events = world.ns.api::<Event>();
    let told = eventually("the event is there", PATIENCE, async || {
        let all = events.list(&ListParams::default()).await?.items;
        Ok(all.into_iter().find(|event| event.reason.as_deref() == Some("DaemonNotResponding")))
    })
    .await?;
    ensure!(told.note.as_deref() == Some(message), "{told:?}");

    // CRR-15, in any phase; then its time is over (CRR-60).
    world.request("v1beta1", "queued", with("stays", json!({"activeDeadlineSeconds": 3}))).await?;
    world.daemon("v1beta1", "queued", json!({"phase": "Pending"})).await?;
    let late = with("stays", json!({"activeDeadlineSeconds": 3, "ttlSecondsAfterFinished": 2}));
    world.request("v1alpha1", "late", late).await?;
    let states = json!([{"name": "web", "phase": "Recreating", "isKilled": true}]);
    world.daemon("v1beta1", "late", json!({"phase": "Recreating", "containerRecreateStates": states})).await?;
    let text = "recreating has exceeded the activeDeadlineSeconds: web is Recreating";
    let ended = world
        .is("it is late", "late", |request| {
            completed(request) && request["status"]["message"].as_str().is_some_and(|told| told.starts_with(text))
        })
        .await?;
    ensure!(ended["status"]["containerRecreateStates"] == states, "CRR-62: {ended:#}");
    world.is_gone("late").await.context("CRR-60")?;
    world.is("the other is late too", "queued", ended_by("recreating has exceeded the activeDeadlineSeconds")).await?;
    ensure!(world.requests("v1beta1").get_opt("stays").await?.is_some(), "WEAK-13: its time is not over");
    Ok(())
}

// === the drain ===

const THEIRS: &str = r#"[{"userAgent":"Lifecycle","key":"preparing"}]"#;

async fn a_pod_is_drained_for_a_request_and_released_with_other_writers_kept(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    with_manager(cluster, ns, &[], async |world, _| {
        let gate = json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]}});
        world.pod("cart", gate.clone()).await?;
        drained_and_released(world).await?;
        deleted_in_mid_drain(world).await?;
        world.pod("gateless", json!({})).await?;
        not_drained_without_a_gate(world).await
    })
    .await
}

fn draining(pod: &str) -> Value {
    json!({"podName": pod, "containers": [{"name": "web"}], "strategy": {"unreadyGracePeriodSeconds": 1}})
}

fn is_drained(request: &Value) -> bool {
    let mut conditions = request["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "PreRecreateGrace" && condition["status"] == "True")
}

async fn drained_and_released(world: &World<'_>) -> Result<()> {
    let theirs = json!({"status": {"conditions": [{"type": "KruisePodReady", "status": "False", "message": THEIRS}]}});
    let pods = world.ns.api::<Pod>();
    pods.patch_status("cart", &PatchParams::default(), &Patch::Strategic(theirs)).await?;
    world.request("v1beta1", "drain", draining("cart")).await?;
    ensure!(!is_drained(&world.read("v1beta1", "drain").await?), "CRR-30: it is not its turn");
    // What the daemon writes besides stays there.
    let intent = json!({"type": "Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": now()});
    world.daemon("v1beta1", "drain", json!({"phase": "Recreating", "conditions": [intent]})).await?;
    let drained = world.is("the pod is drained", "drain", is_drained).await?;
    ensure!(drained["metadata"]["finalizers"] == json!([HELD]), "{drained:#}");
    ensure!(drained["status"]["conditions"][0] == intent, "CRR-32: {drained:#}");
    let gate = world.condition("cart", "KruisePodReady").await?;
    let ours = format!(r#"{{"userAgent":"ContainerRecreateRequest","key":"{}/drain"}}"#, world.ns.name());
    ensure!(gate["status"] == "False" && gate["message"] == format!("[{ours},{}", &THEIRS[1..]), "{gate}");
    let ready = world.condition("cart", "Ready").await?;
    ensure!(ready["status"] == "False" && ready["reason"] == "ReadinessGatesNotReady", "PR-4: {ready}");
    ensure!(world.condition("cart", "ContainersReady").await?["status"] == "True");
    let older = world.read("v1alpha1", "drain").await?;
    ensure!(older["metadata"]["annotations"][HELD].is_string(), "{older:#}");

    let done = json!([{"name": "web", "phase": "Succeeded", "isKilled": true}]);
    let status = json!({"phase": "Completed", "completionTime": now(), "containerRecreateStates": done});
    world.daemon("v1beta1", "drain", status).await?;
    world
        .is("it is done", "drain", |request| {
            request["metadata"].get("finalizers").is_none() && request["metadata"]["labels"].get(ACTIVE).is_none()
        })
        .await?;
    let gate = world.condition("cart", "KruisePodReady").await?;
    ensure!(gate["status"] == "False" && gate["message"] == THEIRS, "PR-6: {gate}");
    let ready = json!({"status": {"conditions": [{"type": "KruisePodReady", "status": "True", "message": "[]"}]}});
    pods.patch_status("cart", &PatchParams::default(), &Patch::Strategic(ready)).await?;
    Ok(())
}

async fn deleted_in_mid_drain(world: &World<'_>) -> Result<()> {
    world.request("v1beta1", "cut", draining("cart")).await?;
    world.daemon("v1beta1", "cut", json!({"phase": "Recreating"})).await?;
    world.is("the pod is drained", "cut", is_drained).await?;
    ensure!(world.condition("cart", "KruisePodReady").await?["status"] == "False");
    world.requests("v1beta1").delete("cut", &DeleteParams::default()).await?;
    world.is_gone("cut").await?;
    let gate = world.condition("cart", "KruisePodReady").await?;
    ensure!(gate["status"] == "True" && gate["message"] == "[]", "CRR-12: {gate}");
    Ok(())
}

async fn not_drained_without_a_gate(world: &World<'_>) -> Result<()> {
    world.request("v1beta1", "gateless", draining("gateless")).await?;
    world.daemon("v1beta1", "gateless", json!({"phase": "Recreating"})).await?;
    let told = world.is("that it waits is told", "gateless", is_drained).await?;
    let message = told["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("the pod stays ready"), "WEAK-11: {message}");
    ensure!(told["metadata"].get("finalizers").is_none(), "{told:#}");
    ensure!(world.condition("gateless", "KruisePodReady").await?.is_null());
    Ok(())
}

// === many writers ===

async fn many_writers_of_one_condition_lose_nothing_pr_6(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    const WRITERS: usize = 8;
    let world = World::new(cluster, ns).await?;
    let pod = world.pod("cart", json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]}})).await?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let keys: Vec<Key> = (0..WRITERS).map(|n| Key::of_request(ns.name(), &format!("r-{n}"))).collect();
    let client = cluster.client();
    // Who is too slow tries again, as a controller does.
    let patient = async |is_block: bool, key: &Key| {
        eventually("the key is written", Duration::from_secs(20), async || {
            let name = ns.name();
            let done = if is_block {
                writer::block(&client, name, "cart", &uid, key).await?
            } else {
                writer::release(&client, name, "cart", &uid, key).await?
            };
            ensure!(matches!(done, Done::Written | Done::Already), "{done:?}");
            Ok(Some(()))
        })
        .await
    };
    try_join_all(keys.iter().map(|key| patient(true, key))).await?;
    let gate = world.condition("cart", "KruisePodReady").await?;
    let listed: Value = serde_json::from_str(gate["message"].as_str().unwrap_or_default())?;
    ensure!(gate["status"] == "False" && listed.as_array().is_some_and(|all| all.len() == WRITERS), "{gate}");
    // Half of them go while a kubelet writes.
    let (leaving, staying) = keys.split_at(WRITERS / 2);
    let kubelet = async {
        for restarts in 1..10 {
            world.runs("cart", restarts).await?;
        }
        anyhow::Ok(())
    };
    let leave = try_join_all(leaving.iter().map(|key| patient(false, key)));
    futures::future::try_join(kubelet, leave).await?;
    let gate = world.condition("cart", "KruisePodReady").await?;
    ensure!(gate["status"] == "False" && !gate["message"].as_str().unwrap_or_default().contains("r-0\""), "{gate}");
    try_join_all(staying.iter().map(|key| patient(false, key))).await?;
    let gate = world.condition("cart", "KruisePodReady").await?;
    ensure!(gate["status"] == "True" && gate["message"] == "[]", "{gate}");
    let gone = writer::block(&client, ns.name(), "cart", "another", &keys[0]).await?;
    ensure!(gone == Done::Gone, "{gone:?}");
    world.remove().await
}

// === rights ===

/// Makes a manager use every right that this controller and its webhook need.
pub async fn takes_every_right(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let world = World::new(cluster, ns).await?;
    world.pod("recreated", json!({})).await?;
    let spec = json!({
        "podName": "recreated", "containers": [{"name": "web"}], "activeDeadlineSeconds": 3, "ttlSecondsAfterFinished": 0,
    });
    eventually("a request is admitted", PATIENCE, async || {
        Ok(Some(world.request("v1beta1", "short", spec.clone()).await?))
    })
    .await?;
    world.is_gone("short").await?;
    world.remove().await
}
