//! `outrigger restart`: a container of many pods, few at a time.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::daemon::installed;
use crate::harness::{Cluster, Namespace, Test, tests};
use crate::pods::{self, ready, status};

const PODS: usize = 6;
/// How many may be away at a time.
const AT_A_TIME: usize = 2;

pub fn tests() -> Vec<Test> {
    tests![a_batch_keeps_to_its_budget_and_is_taken_up_again_after_an_interruption]
}

async fn a_batch_keeps_to_its_budget_and_is_taken_up_again_after_an_interruption(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    installed(cluster).await?;
    let containers = json!([{"name": "app", "image": "app:1"}, {"name": "sidecar", "image": "sidecar:1"}]);
    let labels = json!({"metadata": {"labels": {"app": "web"}}});
    for number in 0..PODS {
        pods::create(ns, &format!("web-{number}"), containers.clone(), &labels).await?;
    }
    for number in 0..PODS {
        ready(ns, &format!("web-{number}")).await?;
    }

    // Too short for all of them.
    let began = Instant::now();
    let (first, most) = watched(ns, restart(cluster, ns, &["--timeout", "3"])).await?;
    ensure!(first.status.code() == Some(3), "{first:?}");
    ensure!(most <= AT_A_TIME, "{most} pods were away at a time");
    let said = String::from_utf8_lossy(&first.stderr) + String::from_utf8_lossy(&first.stdout);
    let batch = said.split_once("--resume ").and_then(|(_, rest)| rest.split_whitespace().next());
    let batch = batch.with_context(|| format!("it does not say how to go on: {said}"))?;
    ensure!(restarts(ns).await?.contains(&0), "all were restarted in three seconds");

    let (second, most) = watched(ns, restart(cluster, ns, &["--resume", batch])).await?;
    println!("{PODS} pods in {:.1} s\n{}", began.elapsed().as_secs_f64(), String::from_utf8_lossy(&second.stdout));
    ensure!(second.status.success(), "{second:?}");
    ensure!(most <= AT_A_TIME, "{most} pods were away at a time");
    ensure!(restarts(ns).await? == [1; PODS], "{:?}", restarts(ns).await?);

    // All of it is done already.
    let (again, _) = watched(ns, restart(cluster, ns, &["--resume", batch])).await?;
    ensure!(again.status.success() && restarts(ns).await? == [1; PODS], "{again:?}");
    Ok(())
}

async fn restart(cluster: &Cluster, ns: &Namespace, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["restart", "-l", "app=web", "-c", "app", "--max-unavailable", &AT_A_TIME.to_string()]);
    command.args(["-n", ns.name()]).args(more).arg("--kubeconfig").arg(cluster.kubeconfig());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// What came of it, and how many pods were not ready at a time.
async fn watched(ns: &Namespace, work: impl Future<Output = Result<Output>>) -> Result<(Output, usize)> {
    let mut most = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, most)),
            () = sleep(Duration::from_millis(100)) => {
                let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
                let is_away = |pod: &&Pod| !status(pod, "app").is_ok_and(|status| status.ready);
                most = most.max(pods.iter().filter(is_away).count());
            }
        }
    }
}

/// How often `app` of each pod was restarted; the sidecars never are.
async fn restarts(ns: &Namespace) -> Result<Vec<i32>> {
    let pods = ns.api::<Pod>().list(&ListParams::default()).await?.items;
    for pod in &pods {
        ensure!(status(pod, "sidecar")?.restart_count == 0, "the sidecar of {} was touched", pod.name_any());
    }
    pods.iter().map(|pod| Ok(status(pod, "app")?.restart_count)).collect()
}
