//! What it costs to pull many images on many nodes, and whether the promises hold: `make bench-images N=1000 JOBS=200`.
//!
//! A real API server and etcd, the real manager, and nodes without machines: their daemons are tasks here, which say after
//! a short while that an image is there. All jobs are made at once and are for all nodes; when they have ended, they are
//! deleted, and what they have left in the NodeImages goes. Each write of each NodeImage is seen by an auditor, in the order
//! of resourceVersions. What the manager has written, the API server's audit log tells; the daemons here are somebody else.
//!
//! Ends with an error when a bound is not kept.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints, and reads the clock")]

#[path = "../tests/support/fleet/mod.rs"]
mod fleet;
#[path = "../tests/support/cluster/mod.rs"]
mod harness;
#[path = "support/manager.rs"]
mod manager;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fleet::{BROKEN, Fleet, Pace, Writes, jobs, resource};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, Parts};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use manager::{Manager, USER};
use serde_json::{Value, json};
use tokio::time::sleep;

const NAMESPACE: &str = "bench";
/// Jobs that are made side by side.
const ABREAST: usize = 16;
/// How often it is looked whether all have ended, and how often that is told.
const LOOK: Duration = Duration::from_secs(2);
const TELL: Duration = Duration::from_secs(30);
/// Without a node that has ended for so long, none will.
const STALL: Duration = Duration::from_mins(3);
/// Every so manieth job wants what the one before it wants.
const TWIN: usize = 20;
/// Every so manieth image cannot be pulled.
const BAD: usize = 50;
/// The bounds.
const WRITES: f64 = 2.0;
const BYTES: usize = 64 << 10;

/// A job, and how many nodes may pull for it at a time.
struct Job {
    name: String,
    uid: String,
    limit: usize,
    is_bad: bool,
}

struct Bench {
    cluster: Cluster,
    manager: Manager,
    fleet: Fleet,
    nodes: usize,
}

/// What was found of a bound.
struct Bound {
    what: &'static str,
    found: String,
    allowed: String,
    is_kept: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse::<usize>().with_context(|| format!("{name} is a number")),
        Err(_) => Ok(default),
    };
    let (nodes, jobs) = (number("N", 1000)?, number("JOBS", 200)?);
    let bench = Bench::start(nodes).await?;
    match bench.measure(jobs).await {
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
    async fn start(nodes: usize) -> Result<Self> {
        let cluster = Cluster::start(Parts::ApiServer).await?;
        let manager = Manager::install(&cluster).await?;
        cluster.kubectl_says(&["create", "namespace", NAMESPACE]).await?;
        let names: Vec<String> = (0..nodes).map(|number| format!("node-{number:05}")).collect();
        let pace =
            Pace { pull: Duration::from_millis(50)..Duration::from_millis(500), gather: Duration::from_millis(300) };
        let fleet = Fleet::start(&cluster.client(), &names, &pace).await;
        let fleet = fleet.map_err(|error| manager.process.explain(error))?;
        Ok(Self { cluster, manager, fleet, nodes })
    }

    async fn measure(&self, count: usize) -> Result<()> {
        println!("{} nodes, {count} jobs for all of them", self.nodes);
        let (before, cpu, began) = (Writes::of(&self.cluster, USER)?, self.manager.cpu()?, Instant::now());
        let jobs = self.create(count).await?;
        let made = began.elapsed();
        self.all_end(&jobs, began).await?;
        let (ended, cpu_ended) = (began.elapsed(), self.manager.cpu()? - cpu);
        self.delete(began).await?;
        let (gone, cpu_gone) = (began.elapsed(), self.manager.cpu()? - cpu);
        let writes = Writes::of(&self.cluster, USER)?.since(&before);
        let (resident, peak) = self.manager.memory()?;

        println!("all jobs made             {:>9.1} s", made.as_secs_f64());
        println!("all jobs ended            {:>9.1} s, manager CPU {cpu_ended:.1} s", ended.as_secs_f64());
        println!("all traces gone           {:>9.1} s, manager CPU {cpu_gone:.1} s", gone.as_secs_f64());
        println!("manager resident          {resident:>9.1} MiB, {peak:.1} at most");
        println!("{:<34}{:>12}{:>12}{:>18}", "writes by the manager", "", "refused", "a node and job");
        for ((resource, verb), (written, refused)) in &writes.0 {
            let each = self.each(*written, count);
            println!("  {:<32}{written:>12}{refused:>12}{each:>18.4}", format!("{verb} {resource}"));
        }
        self.judge(&jobs, &writes)
    }

    /// All at once, each for all nodes.
    async fn create(&self, count: usize) -> Result<Vec<Job>> {
        let api = jobs(&self.cluster.client(), NAMESPACE);
        let nodes = self.nodes;
        let made = (0..count).map(|number| {
            let api = api.clone();
            async move {
                // A twin wants the image of the one before.
                let image = if number % TWIN == TWIN - 1 { number - 1 } else { number };
                let is_bad = image % BAD == BAD - 1;
                let bad = if is_bad { BROKEN } else { "team" };
                let image = format!("registry.example/{bad}/application-{image:03}:v1.{image}.0");
                let (parallelism, limit) = parallelism(number, nodes);
                let name = format!("warm-{number:03}");
                let spec = json!({
                    "image": image, "parallelism": parallelism, "completionPolicy": {"type": "Always"},
                });
                let job = DynamicObject::new(&name, &resource("ImagePullJob")).data(json!({"spec": spec}));
                let made = api.create(&PostParams::default(), &job).await?;
                let uid = made.uid().context("no uid")?;
                anyhow::Ok(Job { name, uid, limit, is_bad })
            }
        });
        stream::iter(made).buffer_unordered(ABREAST).try_collect().await
    }

    async fn all_end(&self, asked: &[Job], began: Instant) -> Result<()> {
        let api = jobs(&self.cluster.client(), NAMESPACE);
        let (mut told, mut moved, mut before) = (Instant::now(), Instant::now(), 0);
        loop {
            let all = api.list(&ListParams::default()).await?.items;
            let has_ended = |job: &&DynamicObject| !job.data["status"]["completionTime"].is_null();
            let ended = all.iter().filter(has_ended).count();
            if ended == asked.len() {
                let statuses = all.iter().map(|job| (job.name_any(), &job.data["status"])).collect();
                return self.statuses_are_right(asked, &statuses);
            }
            let count = |job: &DynamicObject, name: &str| job.data["status"][name].as_u64().unwrap_or_default();
            let nodes = all.iter().map(|job| count(job, "succeeded") + count(job, "failed")).sum();
            if nodes != before {
                (before, moved) = (nodes, Instant::now());
            }
            if told.elapsed() > TELL {
                told = Instant::now();
                let (after, state) = (began.elapsed().as_secs_f64(), self.state()?);
                println!("  after {after:.0} s: {ended} jobs have ended, {nodes} nodes of jobs, {state}");
            }
            let over = self.beyond_parallelism(asked)?;
            ensure!(over.is_empty(), "{}", over.join("\n"));
            let waiting = all.iter().find(|job| !has_ended(job)).map(|job| (job.name_any(), &job.data["status"]));
            ensure!(moved.elapsed() < STALL, "{ended} of {} jobs ended, then nothing; {waiting:#?}", asked.len());
            sleep(LOOK).await;
        }
    }

    /// Jobs that ever had more nodes pulling than they may.
    fn beyond_parallelism(&self, asked: &[Job]) -> Result<Vec<String>> {
        let auditor = self.fleet.auditor()?;
        let seen = asked.iter().map(|job| (job, auditor.job(&job.uid))).filter(|(job, seen)| seen.most > job.limit);
        let told = seen.map(|(job, seen)| {
            format!("{}: {} nodes pulled at a time, not {}, at {}", job.name, seen.most, job.limit, seen.when)
        });
        Ok(told.collect())
    }

    fn statuses_are_right(&self, asked: &[Job], statuses: &BTreeMap<String, &Value>) -> Result<()> {
        for job in asked {
            let status = statuses.get(&job.name).with_context(|| format!("{} is gone", job.name))?;
            let failed = if job.is_bad { self.nodes } else { 0 };
            let expected =
                [("desired", self.nodes), ("succeeded", self.nodes - failed), ("failed", failed), ("active", 0)];
            for (count, expected) in expected {
                ensure!(status[count] == expected, "{}: {count} is not {expected}: {status:#}", job.name);
            }
        }
        Ok(())
    }

    /// Deletes all jobs and waits until nothing of them is left.
    async fn delete(&self, began: Instant) -> Result<()> {
        let api = jobs(&self.cluster.client(), NAMESPACE);
        api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        let what = "the NodeImages are empty again";
        let patience = Duration::from_mins(2) + Duration::from_millis(200) * u32::try_from(self.nodes)?;
        let gone = harness::until(what, patience, async || {
            sleep(LOOK).await;
            Ok(self.fleet.auditor()?.left() == 0 && api.list(&ListParams::default()).await?.items.is_empty())
        });
        gone.await.with_context(|| format!("after {:.0} s: {:?}", began.elapsed().as_secs_f64(), self.state()))
    }

    fn state(&self) -> Result<String> {
        let auditor = self.fleet.auditor()?;
        let (memory, _) = self.manager.memory()?;
        Ok(format!(
            "{} tags are stored, {} writes were seen, the largest NodeImage had {} bytes, the manager has {memory:.0} MiB",
            auditor.left(),
            auditor.events,
            auditor.largest.0
        ))
    }

    fn each(&self, written: u64, jobs: usize) -> f64 {
        let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        f64::from(u32::try_from(written).unwrap_or(u32::MAX)) / (number(self.nodes) * number(jobs))
    }

    /// Prints the bounds; an error when one is not kept.
    fn judge(&self, jobs: &[Job], writes: &Writes) -> Result<()> {
        let over = self.beyond_parallelism(jobs)?;
        for job in &over {
            println!("{job}");
        }
        let auditor = self.fleet.auditor()?;
        let used = jobs.iter().filter(|job| auditor.job(&job.uid).most == job.limit).count();
        println!("jobs that used all their parallelism: {used} of {}", jobs.len());
        println!("writes of NodeImages seen: {}, most tags in one: {}", auditor.events, auditor.tags);
        let each = self.each(writes.sum(None), jobs.len());
        let bounds = [
            Bound {
                what: "jobs beyond their parallelism",
                found: over.len().to_string(),
                allowed: "0".to_owned(),
                is_kept: over.is_empty() && used > 0,
            },
            Bound {
                what: "writes by the manager",
                found: format!("{each:.4} a node and job"),
                allowed: format!("{WRITES:.1}"),
                is_kept: each <= WRITES,
            },
            Bound {
                what: "largest NodeImage",
                found: format!("{} bytes", auditor.largest.0),
                allowed: format!("{BYTES}"),
                is_kept: auditor.largest.0 < BYTES,
            },
            Bound {
                what: "statuses of nodes written",
                found: writes.exactly("nodeimages/status").to_string(),
                allowed: "0".to_owned(),
                is_kept: writes.exactly("nodeimages/status") == 0,
            },
        ];
        println!("{:<34}{:>28}{:>16}", "bound", "found", "allowed");
        for Bound { what, found, allowed, is_kept } in &bounds {
            println!("  {what:<32}{found:>28}{allowed:>16}  {}", if *is_kept { "kept" } else { "NOT KEPT" });
        }
        ensure!(bounds.iter().all(|bound| bound.is_kept), "short of a bound");
        println!("all bounds kept");
        Ok(())
    }
}

/// What the job of this number asks for, and how many nodes that is.
fn parallelism(number: usize, nodes: usize) -> (Value, usize) {
    let percent = |percent: usize| (json!(format!("{percent}%")), (nodes * percent).div_ceil(100));
    let count = |count: usize| (json!(count), count.min(nodes));
    match number % 5 {
        0 => percent(10),
        1 => count(50),
        2 => percent(5),
        3 => count(100),
        _ => count(25),
    }
}
