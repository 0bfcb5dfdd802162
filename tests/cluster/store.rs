//! What admission knows of a cluster, and how soon.
//!
//! These tests have API servers of their own: one has no CRDs yet, the other is killed. Their CRD has no schema, as an
//! older operator's may be laxer than ours, so that SidecarSets can be stored which nobody can read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as KubeNamespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use outrigger::store::watch::{Feed, Health, Interruption, caught_up};
use outrigger::store::{Effect, Snapshot};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::{Cluster, Namespace, PATIENCE, Parts, Stop, Test, tests, until};

const OPERATOR: &str = "kruise-system";
/// How soon a change is to be known.
const SOON: Duration = Duration::from_secs(1);

pub fn tests() -> Vec<Test> {
    tests![
        a_feed_waits_for_the_crd_and_then_knows_every_change,
        a_feed_goes_on_when_the_api_server_is_killed,
        who_waits_until_a_feed_has_caught_up_knows_what_was_stored_before_though_crds_change,
    ]
}

/// A feed that runs.
struct Running {
    snapshots: Arc<ArcSwap<Snapshot>>,
    health: Arc<Health>,
    interruption: watch::Receiver<Interruption>,
    _stop: DropGuard,
}

fn run(client: Client) -> Running {
    let feed = Feed::new(client, OPERATOR);
    let (snapshots, health) = (feed.snapshots(), feed.health());
    let interruption = health.interruption();
    let shutdown = CancellationToken::new();
    tokio::spawn(feed.run(shutdown.clone()));
    Running { snapshots, health, interruption, _stop: shutdown.drop_guard() }
}

impl Running {
    /// Waits until `condition` holds of the newest snapshot; how long that took.
    async fn sees(&self, what: &str, within: Duration, condition: impl Fn(&Snapshot) -> bool) -> Result<Duration> {
        let began = Instant::now();
        until(what, within, async || Ok(condition(&self.snapshots.load()))).await?;
        Ok(began.elapsed())
    }

    fn image(&self) -> Option<String> {
        image(&self.snapshots.load())
    }
}

fn image(snapshot: &Snapshot) -> Option<String> {
    let mesh = snapshot.sidecarsets().find(|set| set.name == "mesh")?;
    let fixed: Value = serde_json::from_str(&format!("{{{}}}", mesh.current.containers.first()?.fixed)).ok()?;
    fixed["image"].as_str().map(str::to_owned)
}

fn broken(snapshot: &Snapshot, name: &str) -> Option<Effect> {
    snapshot.broken().find(|(broken, _)| *broken == name).map(|(_, broken)| broken.effect)
}

fn sidecarsets(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps.kruise.io", "v1beta1", "SidecarSet");
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

fn sidecarset(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec})
}

fn mesh(image: &str) -> Value {
    let containers = json!([{"name": "proxy", "image": image}]);
    sidecarset("mesh", &json!({"selector": {"matchLabels": {"app": "web"}}, "containers": containers}))
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

async fn put(client: &Client, object: Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let owner = PatchParams::apply("test").force();
    sidecarsets(client).patch(&name, &owner, &Patch::Apply(object)).await?;
    Ok(())
}

/// Lets any SidecarSet be stored.
async fn install_crd(client: &Client) -> Result<()> {
    let names = json!({"kind": "SidecarSet", "plural": "sidecarsets", "singular": "sidecarset"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1beta1", "served": true, "storage": true, "schema": schema});
    create(
        &Api::<CustomResourceDefinition>::all(client.clone()),
        json!({
            "metadata": {"name": "sidecarsets.apps.kruise.io"},
            "spec": {"group": "apps.kruise.io", "names": names, "scope": "Cluster", "versions": [version]},
        }),
    )
    .await?;
    until("SidecarSets can be stored", PATIENCE, async || Ok(put(client, mesh("mesh:1")).await.is_ok())).await
}

#[expect(clippy::print_stdout, reason = "figures to look at")]
async fn a_feed_waits_for_the_crd_and_then_knows_every_change(_: &Cluster, _: &Namespace) -> Result<()> {
    let cluster = Cluster::start(Parts::ApiServer).await?;
    let client = cluster.client();
    let namespaces: Api<KubeNamespace> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), OPERATOR);
    let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), OPERATOR);

    let feed = run(client.clone());
    let missing =
        ["sidecarsets: the API server does not serve /apis/apps.kruise.io/v1beta1/sidecarsets; install the CRDs"];
    until("only the CRD is missing", PATIENCE, async || Ok(feed.health.missing() == missing)).await?;
    ensure!(!feed.health.is_synced() && feed.health.age().is_none());

    install_crd(&client).await?;
    until("all is known", PATIENCE, async || Ok(feed.health.is_synced())).await?;
    feed.sees("the SidecarSet", SOON, |snapshot| image(snapshot).as_deref() == Some("mesh:1")).await?;
    ensure!(feed.health.missing().is_empty());

    let mut slowest = Duration::ZERO;
    for round in 2..12 {
        let wanted = format!("mesh:{round}");
        put(&client, mesh(&wanted)).await?;
        let took = feed.sees("a new image", SOON, |snapshot| image(snapshot).as_ref() == Some(&wanted)).await?;
        slowest = slowest.max(took);
    }
    println!("a change of a SidecarSet was known {} ms after it was stored, at the slowest of 10", slowest.as_millis());

    create(&namespaces, json!({"metadata": {"name": OPERATOR}})).await?;
    create(&namespaces, json!({"metadata": {"name": "shop", "labels": {"team": "a"}}})).await?;
    let labels = |snapshot: &Snapshot| snapshot.namespace("shop").labels.cloned().unwrap_or_default();
    feed.sees("a namespace", SOON, |snapshot| {
        labels(snapshot)
            == [("kubernetes.io/metadata.name", "shop"), ("team", "a")].map(|(k, v)| (k.into(), v.into())).into()
    })
    .await?;

    let annotated = || {
        let metadata = json!([{"annotations": {"example.com/a": "b"}}]);
        sidecarset("other", &json!({"selector": {"matchLabels": {"a": "b"}}, "patchPodMetadata": metadata}))
    };
    let is_allowed = |snapshot: &Snapshot| {
        let (_, findings) = snapshot.objects().judge(annotated(), None);
        !findings.errors.iter().any(|problem| problem.field.starts_with("spec.patchPodMetadata"))
    };
    ensure!(!is_allowed(&feed.snapshots.load()));
    let rules = json!({"rules": [{"allowedAnnotationKeyExprs": ["^example.com/"]}]}).to_string();
    let data = json!({"SidecarSet_PatchPodMetadata_WhiteList": rules});
    create(&maps, json!({"metadata": {"name": "unrelated"}})).await?;
    create(&maps, json!({"metadata": {"name": "kruise-configuration"}, "data": data})).await?;
    feed.sees("the white list", SOON, is_allowed).await?;
    maps.delete("kruise-configuration", &DeleteParams::default()).await?;
    feed.sees("no white list", SOON, |snapshot| !is_allowed(snapshot)).await?;

    let mut pinned = mesh("mesh:12");
    pinned["spec"]["injectionStrategy"] = json!({"revision": {"customVersion": "v1"}});
    put(&client, pinned).await?;
    feed.sees("a revision is missing", SOON, |snapshot| broken(snapshot, "mesh") == Some(Effect::Refuses)).await?;
    let labels = json!({"kruise.io/sidecarset-name": "mesh", "apps.kruise.io/sidecarset-custom-version": "v1"});
    let spec = json!({"$patch": "replace", "containers": [{"name": "proxy", "image": "mesh:0"}]});
    let revision = json!({"metadata": {"name": "mesh-1", "labels": labels}, "revision": 1, "data": {"spec": spec}});
    create(&revisions, revision).await?;
    feed.sees("the revision", SOON, |snapshot| broken(snapshot, "mesh").is_none()).await?;

    let garbage = sidecarset("garbage", &json!({"containers": "none", "selector": [7]}));
    put(&client, garbage).await?;
    feed.sees("it is broken", SOON, |snapshot| broken(snapshot, "garbage") == Some(Effect::LeftOut)).await?;
    put(&client, sidecarset("mesh", &json!({"containers": {"a": null}}))).await?;
    feed.sees("so is the mesh", SOON, |snapshot| broken(snapshot, "mesh") == Some(Effect::EarlierVersion)).await?;
    ensure!(feed.image().as_deref() == Some("mesh:12"), "its last good version stays in use");
    put(&client, mesh("mesh:13")).await?;
    feed.sees("mended", SOON, |snapshot| image(snapshot).as_deref() == Some("mesh:13")).await?;
    ensure!(feed.health.broken() == 1);

    let late = run(client.clone());
    until("a second one knows all", PATIENCE, async || Ok(late.health.is_synced())).await?;
    ensure!(late.image() == feed.image() && late.health.broken() == 1, "garbage does not stop a list");

    for name in ["mesh", "garbage"] {
        sidecarsets(&client).delete(name, &DeleteParams::default()).await?;
    }
    feed.sees("nothing", SOON, |snapshot| snapshot.sidecarsets().len() + snapshot.broken().len() == 0).await?;
    ensure!(feed.health.restarts().iter().all(|(watch, count)| *watch == "sidecarsets" || *count == 0));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures to look at")]
async fn a_feed_goes_on_when_the_api_server_is_killed(_: &Cluster, _: &Namespace) -> Result<()> {
    let cluster = Cluster::start(Parts::ApiServer).await?;
    let client = cluster.client();
    install_crd(&client).await?;
    let feed = run(client.clone());
    until("all is known", PATIENCE, async || Ok(feed.health.is_synced())).await?;

    for (how, before, after) in [(Stop::Kill, "mesh:1", "mesh:2"), (Stop::Gracefully, "mesh:2", "mesh:3")] {
        let restarts = feed.health.restarts();
        cluster.stop_api_server(how).await?;
        let all_broke = async || Ok(feed.health.restarts().iter().zip(restarts).all(|(now, before)| now.1 > before.1));
        until("every watch has noticed", PATIENCE, all_broke).await?;
        ensure!(feed.image().as_deref() == Some(before), "the last state stays in use");
        ensure!(feed.health.is_synced() && feed.health.missing().is_empty(), "ready stays ready");

        cluster.start_api_server().await?;
        put(&client, mesh(after)).await?;
        let patience = Duration::from_secs(15);
        let took =
            feed.sees("a change after it", patience, |snapshot| image(snapshot).as_deref() == Some(after)).await?;
        println!("{how:?}: the first change after it was known {} ms after it was stored", took.as_millis());
        let young = Duration::from_secs(10);
        let is_fresh = async || Ok(feed.health.age().is_some_and(|age| age < young));
        until("all watches are up again", patience, is_fresh).await?;
    }
    Ok(())
}

/// Whenever a CRD changes the API server ends the watch for its objects, and answers for a while that it is not ready. Two
/// replicas that come up, or rotate a CA, change each of them several times.
#[expect(clippy::print_stdout, reason = "figures to look at")]
async fn who_waits_until_a_feed_has_caught_up_knows_what_was_stored_before_though_crds_change(
    _: &Cluster,
    _: &Namespace,
) -> Result<()> {
    const ROUNDS: usize = 75;
    let cluster = Cluster::start(Parts::ApiServer).await?;
    let client = cluster.client();
    install_crd(&client).await?;
    let feed = run(client.clone());
    until("all is known", PATIENCE, async || Ok(feed.health.is_synced())).await?;

    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let busy = tokio::spawn(async move {
        for round in 0_u32.. {
            let schema = json!({"openAPIV3Schema": {
                "type": "object", "description": format!("{round}"), "x-kubernetes-preserve-unknown-fields": true,
            }});
            let change = json!({"spec": {"versions": [
                {"name": "v1beta1", "served": true, "storage": true, "schema": schema},
            ]}});
            let _ = crds.patch("sidecarsets.apps.kruise.io", &PatchParams::default(), &Patch::Merge(change)).await;
            sleep(Duration::from_millis(500 + u64::from(round % 7) * 400)).await;
        }
    });
    let (mut unknown, mut longest) = (Vec::new(), Duration::ZERO);
    for round in 2..ROUNDS + 2 {
        let wanted = format!("mesh:{round}");
        // It is refused now and then.
        until("the change is stored", PATIENCE, async || Ok(put(&client, mesh(&wanted)).await.is_ok())).await?;
        // As late as every watch may be.
        sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        caught_up(&feed.interruption).await;
        longest = longest.max(began.elapsed());
        if feed.image().as_ref() != Some(&wanted) {
            unknown.push((round, began.elapsed()));
        }
        sleep(Duration::from_millis(u64::try_from(round)? * 37 % 200)).await;
    }
    busy.abort();
    println!("{ROUNDS} changes; the longest wait took {} ms", longest.as_millis());
    ensure!(unknown.is_empty(), "these were not known: {unknown:?}");
    Ok(())
}
