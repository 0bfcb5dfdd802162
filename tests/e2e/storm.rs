//! Hundreds of requests, one after the other and at once, also while the daemon is killed again and again: every one ends
//! well, and no container is restarted more often than was asked for.
//!
//! A kubelet delays the next start of a container that was started less than ten minutes before: 10 s, 20 s, up to 5 min.
//! The node of the tests delays it by a second (`KubeletCrashLoopBackOffMax` in the settings of its kubelet). And it looks
//! again only after 10 s to 15 s unless the pod changes, so the tests change an annotation of pods with such a container.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::daemon::{self, installed};
use crate::facts::is_ready;
use crate::harness::{Cluster, Namespace, Test, alone, eventually, until};
use crate::pods::{self, PATIENCE, status};
use crate::recreate::{request, requests, succeeded};

/// Requests one after the other for one pod, and at once over the others.
const REQUESTS: usize = 200;
/// Pods that get requests at once, each as many.
const PODS: usize = 20;
/// Requests that are made side by side.
const ABREAST: usize = 20;
/// How often the daemon is killed.
const KILLS: usize = 20;
/// A test of 200 restarts that take a kubelet three seconds each.
const LIMIT: Duration = Duration::from_mins(18);

pub fn tests() -> Vec<Test> {
    let tests = alone![
        two_hundred_requests_back_to_back_and_at_once_all_end_well,
        two_hundred_requests_back_to_back_and_at_once_all_end_well_while_the_daemon_is_killed,
    ];
    tests.into_iter().map(|test| test.within(LIMIT)).collect()
}

async fn two_hundred_requests_back_to_back_and_at_once_all_end_well(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    installed(cluster).await?;
    let restarts = restarts(cluster).await?;
    storm(cluster, ns, std::future::pending()).await?;
    let after = self::restarts(cluster).await?;
    ensure!(after == restarts, "the daemon was restarted {} times by itself", after - restarts);
    Ok(())
}

async fn two_hundred_requests_back_to_back_and_at_once_all_end_well_while_the_daemon_is_killed(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let restarts = restarts(cluster).await?;
    Box::pin(storm(cluster, ns, kill_again_and_again(cluster))).await?;
    let after = self::restarts(cluster).await?;
    println!("the daemon was started again {} times", after - restarts);
    ensure!(usize::try_from(after - restarts)? >= KILLS, "it was started again {} times only", after - restarts);
    Ok(())
}

async fn restarts(cluster: &Cluster) -> Result<i32> {
    Ok(status(&daemon::pod(cluster).await?, "daemon")?.restart_count)
}

/// Kills it some time after it has come back, in the middle of whatever it does.
async fn kill_again_and_again(cluster: &Cluster) -> Result<()> {
    for _ in 0..KILLS {
        let last = restarts(cluster).await?;
        // Some of them while it starts.
        sleep(Duration::from_millis(fastrand::u64(0..12_000))).await;
        until("it is killed", PATIENCE, async || daemon::kill(cluster).await).await?;
        until("it is started again", PATIENCE, async || Ok(restarts(cluster).await? > last)).await?;
    }
    Ok(())
}

/// All requests, and `meanwhile`, which may last longer.
async fn storm(cluster: &Cluster, ns: &Namespace, meanwhile: impl Future<Output = Result<()>>) -> Result<()> {
    let web = json!([{"name": "app", "image": "app:1"}, {"name": "sidecar", "image": "sidecar:1"}]);
    for name in (0..PODS).map(|number| format!("web-{number}")).chain(["web".to_owned()]) {
        pods::create(ns, &name, web.clone(), &json!({})).await?;
    }
    let before = all_ready(ns).await?;
    let began = Instant::now();
    let requested = async {
        let (queued, at_once) = tokio::select! {
            done = async { tokio::try_join!(back_to_back(ns), at_once(ns)) } => done?,
            failed = nudge(ns) => return failed,
        };
        println!(
            "{REQUESTS} requests one after the other in {:.0} s (the slowest {:.1} s), {REQUESTS} at once over {PODS} pods in \
             {:.0} s",
            queued.0.as_secs_f64(),
            queued.1.as_secs_f64(),
            at_once.as_secs_f64()
        );
        anyhow::Ok(())
    };
    tokio::pin!(requested);
    tokio::select! {
        done = &mut requested => done?,
        disturbed = meanwhile => {
            disturbed?;
            println!("the last disturbance was after {:.0} s", began.elapsed().as_secs_f64());
            requested.await?;
        }
    }
    let after = all_ready(ns).await?;
    for (name, pod) in &after {
        ensure!(pod.uid() == before[name].uid(), "{name} is another pod");
        let wanted = i32::try_from(if name == "web" { REQUESTS } else { REQUESTS / PODS })?;
        let now = status(pod, "app")?;
        ensure!(now.restart_count == wanted, "app of {name} was restarted {} times, not {wanted}", now.restart_count);
        ensure!(status(pod, "sidecar")? == status(&before[name], "sidecar")?, "the sidecar of {name} was touched");
    }
    let all = requests(ns, "v1beta1").list(&ListParams::default()).await?.items;
    ensure!(all.len() == 2 * REQUESTS, "there are {} requests", all.len());
    for request in &all {
        succeeded(&request.data["status"], &["app"]).with_context(|| request.name_any())?;
    }
    refused_nothing(cluster)
}

/// Lets the kubelet look again at pods with a container that it keeps waiting.
async fn nudge(ns: &Namespace) -> Result<()> {
    let pods = ns.api::<Pod>();
    for number in 0_u64.. {
        let all = pods.list(&ListParams::default()).await?.items;
        let waits = |pod: &Pod| {
            let waiting = status(pod, "app").ok().and_then(|status| status.state.as_ref()?.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
        };
        for pod in all.iter().filter(|pod| waits(pod)) {
            let change = json!({"metadata": {"annotations": {"nudged": number.to_string()}}});
            pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
        }
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn all_ready(ns: &Namespace) -> Result<BTreeMap<String, Pod>> {
    eventually("all pods are ready", PATIENCE, async || {
        let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
        Ok(pods.iter().all(is_ready).then(|| pods.into_iter().map(|pod| (pod.name_any(), pod)).collect()))
    })
    .await
}

/// Each is made when the one before has ended. How long all took, and the slowest.
async fn back_to_back(ns: &Namespace) -> Result<(Duration, Duration)> {
    let (api, began, mut slowest) = (requests(ns, "v1beta1"), Instant::now(), Duration::ZERO);
    for number in 0..REQUESTS {
        let name = format!("one-{number}");
        let asked = Instant::now();
        api.create(&PostParams::default(), &request(&name, &["app"], &json!({}))?).await?;
        until(&format!("{name} ends"), PATIENCE, async || Ok(has_ended(&api.get(&name).await?.data))).await?;
        slowest = slowest.max(asked.elapsed());
    }
    Ok((began.elapsed(), slowest))
}

/// All are made at once. Forced: those that wait for their turn mean another instance than the one that they were made for.
async fn at_once(ns: &Namespace) -> Result<Duration> {
    let (api, began) = (requests(ns, "v1beta1"), Instant::now());
    let asked = (0..REQUESTS).map(async |number| {
        let spec = json!({"podName": format!("web-{}", number % PODS), "strategy": {"forceRecreate": true}});
        api.create(&PostParams::default(), &request(&format!("all-{number}"), &["app"], &spec)?).await?;
        anyhow::Ok(())
    });
    stream::iter(asked).buffer_unordered(ABREAST).try_collect::<()>().await?;
    let mut left = REQUESTS;
    let mut last = Instant::now();
    while left > 0 {
        let all = api.list(&ListParams::default()).await?.items;
        let waiting: Vec<_> =
            all.iter().filter(|it| it.name_any().starts_with("all-") && !has_ended(&it.data)).collect();
        if waiting.len() < left {
            (left, last) = (waiting.len(), Instant::now());
        }
        ensure!(
            last.elapsed() < PATIENCE,
            "none of {left} requests has ended for {} s: {:#?}",
            PATIENCE.as_secs(),
            waiting[0]
        );
        sleep(Duration::from_millis(500)).await;
    }
    Ok(began.elapsed())
}

fn has_ended(request: &Value) -> bool {
    request["status"]["phase"] == "Completed"
}

/// That the API server let the daemon do all that it wanted to do.
fn refused_nothing(cluster: &Cluster) -> Result<()> {
    let user = format!("system:serviceaccount:{0}:{0}", daemon::NAMESPACE);
    let mut codes: BTreeMap<u64, usize> = BTreeMap::new();
    for event in cluster.audit()?.iter().filter(|event| event["user"]["username"] == user.as_str()) {
        *codes.entry(event["responseStatus"]["code"].as_u64().unwrap_or_default()).or_default() += 1;
    }
    println!("answers to the daemon by code: {codes:?}");
    ensure!(!codes.contains_key(&403), "the daemon was refused something");
    Ok(())
}
