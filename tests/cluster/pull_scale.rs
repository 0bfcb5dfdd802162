//! Many jobs over many nodes: parallelism is kept at every instant, and what it costs does not grow with nodes times jobs.
//! The same at full size: `make bench-images`.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fleet::{BROKEN, Fleet, Pace, Writes, jobs, resource};
use crate::harness::{Cluster, Namespace, Test, eventually, run, until};
use crate::manager::while_installed;

const NODES: usize = 40;
const PATIENCE: Duration = Duration::from_mins(4);
/// What a NodeImage may have at most, as the API server sends it.
const KIBIBYTES: usize = 64;
const MANAGER: &str = "system:serviceaccount:kruise-system:outrigger-manager";

pub fn tests() -> Vec<Test> {
    run::alone![parallelism_is_a_limit_at_every_instant_and_writes_are_few_weak_26]
        .into_iter()
        .map(|test| test.within(Duration::from_mins(8)))
        .collect()
}

/// A job, and how many nodes may pull for it at a time.
struct Asked {
    name: &'static str,
    image: &'static str,
    parallelism: Value,
    limit: usize,
}

fn asked() -> Vec<Asked> {
    let job = |name, image, parallelism: Value, limit| Asked { name, image, parallelism, limit };
    vec![
        job("one", "registry.example/one:1", Value::Null, 1),
        job("three", "registry.example/three:1", json!(3), 3),
        job("text", "registry.example/text:1", json!("7"), 7),
        job("all", "registry.example/all:1", json!(1000), NODES),
        job("tenth", "registry.example/tenth:1", json!("10%"), 4),
        // Rounded up.
        job("little", "registry.example/little:1", json!("1%"), 1),
        job("third", "registry.example/third:1", json!("33%"), 14),
        job("half", "registry.example/half:1", json!("50%"), 20),
        // These two want the same, at the same time; and these two tags of one image.
        job("first", "registry.example/shared:1", json!(5), 5),
        job("second", "registry.example/shared:1", json!(2), 2),
        job("other", "registry.example/shared:2", json!("20%"), 8),
        job("fails", "registry.example/broken:1", json!(6), 6),
    ]
}

async fn parallelism_is_a_limit_at_every_instant_and_writes_are_few_weak_26(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    while_installed(cluster, async |installed| {
        let manager = installed.start("pulls", None, &[])?;
        manager.is_ready().await?;
        let tested = scale(cluster, ns).await;
        tested.map_err(|error| manager.process.explain(error))
    })
    .await
}

async fn scale(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let client = cluster.client();
    let names: Vec<String> = (0..NODES).map(|number| format!("{}-{number:02}", ns.name())).collect();
    let pace = Pace { pull: Duration::from_millis(50)..Duration::from_millis(400), gather: Duration::from_millis(100) };
    let fleet = Fleet::start(&client, &names, &pace).await?;
    let tested = all_end(cluster, ns, &fleet).await;
    fleet.remove(&client).await?;
    tested
}

async fn all_end(cluster: &Cluster, ns: &Namespace, fleet: &Fleet) -> Result<()> {
    let (asked, api) = (asked(), jobs(&cluster.client(), ns.name()));
    let before = Writes::of(cluster, MANAGER)?;
    for job in &asked {
        create(ns, job.name, job.image, &job.parallelism).await?;
    }
    // This one waits until it is told to go on (JOB-15).
    create(ns, "paused", "registry.example/paused:1", &json!(0)).await?;
    for job in &asked {
        let name = job.name;
        let status =
            ended(ns, name).await.with_context(|| format!("seen: {:?}", fleet.auditor().map(|it| it.left())))?;
        let failed = if job.image.contains(BROKEN) { NODES } else { 0 };
        for (count, expected) in [("desired", NODES), ("succeeded", NODES - failed), ("failed", failed), ("active", 0)]
        {
            ensure!(status[count] == expected, "{name}: {count} is not {expected}: {status:#}");
        }
        let named = status["failedNodes"].as_array().map_or(0, Vec::len);
        ensure!((named > 0) == (failed > 0), "{name}: {status:#}");
    }
    let paused = api.get("paused").await?;
    let uid = paused.uid().context("no uid")?;
    ensure!(fleet.auditor()?.job(&uid).most == 0, "a paused job was carried out: {:#}", paused.data["status"]);
    ensure!(paused.data["status"]["completionTime"].is_null(), "{:#}", paused.data["status"]);
    let on = Patch::Merge(json!({"spec": {"parallelism": "25%"}}));
    api.patch("paused", &PatchParams::default(), &on).await?;
    ended(ns, "paused").await?;

    let all = api.list(&ListParams::default()).await?.items;
    for (name, limit) in asked.iter().map(|job| (job.name, job.limit)).chain([("paused", 10)]) {
        let uid = all.iter().find(|job| job.name_any() == name).and_then(kube::ResourceExt::uid).context("no uid")?;
        let seen = fleet.auditor()?.job(&uid);
        println!("{name:<8} at most {limit:>4} at a time, seen {:>4}", seen.most);
        ensure!(seen.most <= limit, "{name}: {} nodes pulled at a time, not {limit}, at {}", seen.most, seen.when);
        ensure!(seen.most > 0, "{name}: no node was seen to pull");
    }

    // What was pulled for a job goes with it.
    api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    until("the NodeImages are empty again", PATIENCE, async || Ok(fleet.auditor()?.left() == 0)).await?;
    let writes = Writes::of(cluster, MANAGER)?.since(&before);
    let (bytes, of) = fleet.auditor()?.largest.clone();
    println!("{writes:#?}\nthe largest NodeImage had {bytes} bytes ({of})");
    ensure!(bytes < KIBIBYTES << 10, "a NodeImage had {bytes} bytes");
    let pairs = u64::try_from(NODES * all.len())?;
    let written = writes.sum(Some("nodeimages"));
    ensure!(written <= 2 * pairs, "NodeImages were written {written} times for {pairs} pairs of node and job");
    let statuses = writes.exactly("nodeimages/status");
    ensure!(statuses == 0, "statuses of nodes that are well were written {statuses} times by the manager");
    Ok(())
}

async fn create(ns: &Namespace, name: &str, image: &str, parallelism: &Value) -> Result<()> {
    let mut spec = json!({"image": image, "completionPolicy": {"type": "Always"}});
    if !parallelism.is_null() {
        spec["parallelism"] = parallelism.clone();
    }
    let job = DynamicObject::new(name, &resource("ImagePullJob")).data(json!({"spec": spec}));
    let api = jobs(&ns.client(), ns.name());
    // An API server may say that it is busy with the CRD, which was just changed.
    until(&format!("{name} is made"), PATIENCE, async || match api.create(&PostParams::default(), &job).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(true),
        Err(error) => Err(error.into()),
    })
    .await
}

/// The status of a job that has ended.
async fn ended(ns: &Namespace, name: &str) -> Result<Value> {
    let api = jobs(&ns.client(), ns.name());
    eventually(&format!("{name} ends"), PATIENCE, async || {
        let job = api.get(name).await?;
        let status = job.data["status"].clone();
        ensure!(!status["completionTime"].is_null(), "{status:#}");
        Ok(Some(status))
    })
    .await
}
