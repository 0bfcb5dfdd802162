//! Pulls that cannot succeed: each ends in a message that somebody can act on, and the next one works.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::daemon;
use crate::harness::{Cluster, Namespace, Test, alone, tests, until};
use crate::image_site::{PATIENCE, Site};
use crate::registry::{Fault, Image, Kind};

const MIB: usize = 1 << 20;
/// More than any file system has left. Layers are copied on this node, so that the daemon's root is a directory of the image
/// file system, but no overlay, by which the daemon would know it.
const FULL: [&str; 2] = ["--image-fs-reserve=100%", "--image-fs-path=/"];

pub fn tests() -> Vec<Test> {
    let mut tests = tests![
        an_unknown_image_fails_at_once_and_says_so_weak_30,
        a_registry_that_hangs_is_busy_or_sends_half_is_given_up_and_works_again_img_41,
        a_job_ends_at_its_deadline_and_its_pull_with_it_job_27,
    ];
    tests.extend(alone![
        a_pull_is_taken_up_again_when_the_daemon_was_killed_img_34,
        a_full_image_file_system_is_not_filled_further,
    ]);
    tests
}

async fn an_unknown_image_fails_at_once_and_says_so_weak_30(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    site.push("team/app", "1", &Image::small()?).await?;
    for (name, repository, tag) in [("tag", "team/app", "9"), ("repository", "team/none", "1")] {
        let reference = site.registry.reference(repository, tag);
        site.job(name, &reference, &json!({"pullPolicy": {"backoffLimit": 8}})).await?;
        site.fails(name, &reference, &["not found", "does not exist", "unknown", "no such"]).await?;
        let asked = site.registry.front.asked(repository);
        let asked: Vec<_> = asked.iter().filter(|asked| asked.reference == tag).collect();
        ensure!((1..9).contains(&asked.len()), "the registry was asked again and again: {asked:#?}");
        until("the job is told by an event", PATIENCE, async || {
            let events = ns.api::<Event>().list(&ListParams::default().fields("reason=PullImageFailed")).await?;
            Ok(events.items.iter().any(|event| event.involved_object.name.as_deref() == Some(name)))
        })
        .await?;
    }
    Ok(())
}

async fn a_registry_that_hangs_is_busy_or_sends_half_is_given_up_and_works_again_img_41(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let timeout = ["timed out", "timeout", "time-out", "did not answer", "deadline", "within"];
    let half = u64::try_from(MIB)?;
    tokio::try_join!(
        fails_then_works(&site, "hangs", Fault::Hang, 3, &timeout),
        fails_then_works(&site, "busy", Fault::TooMany, 60, &["429", "too many requests"]),
        fails_then_works(&site, "half", Fault::Truncate(half), 60, &["eof", "truncated", "incomplete", "cut", "short"]),
    )?;
    Ok(())
}

/// A repository with a fault: after two attempts its pull ends with one of these things in its message. Without the fault
/// the next pull works.
async fn fails_then_works(site: &Site<'_>, name: &str, fault: Fault, timeout: u32, words: &[&str]) -> Result<()> {
    /// The first back-off is a second.
    const APART: Duration = Duration::from_millis(900);
    let repository = format!("team/{name}");
    let (reference, front) = (site.registry.reference(&repository, "1"), &site.registry.front);
    let digest = site.push(&repository, "1", &Image::random(&[2 * MIB])?).await?;
    front.set(&repository, Some(fault));
    let policy = json!({"pullPolicy": {"timeoutSeconds": timeout, "backoffLimit": 1}});
    site.job(name, &reference, &policy).await?;
    site.fails(name, &reference, words).await?;
    let times: Vec<_> = front.asked(&repository).iter().map(|asked| asked.at).collect();
    let longest =
        times.windows(2).map(|pair| pair[1] - pair[0]).max().with_context(|| format!("{name}: asked once"))?;
    ensure!(longest >= APART, "{name}: it was not waited for before the second attempt: {longest:?}");
    ensure!(site.on_node(&reference).await?.is_none(), "{name}: it is there");

    front.set(&repository, None);
    let then = format!("{name}-then");
    site.job(&then, &reference, &policy_of(60)).await?;
    site.succeeds(&then).await?;
    ensure!(site.on_node(&reference).await? == Some(digest), "{name}: it is another image");
    Ok(())
}

fn policy_of(timeout: u32) -> Value {
    json!({"pullPolicy": {"timeoutSeconds": timeout}})
}

async fn a_job_ends_at_its_deadline_and_its_pull_with_it_job_27(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let front = &site.registry.front;
    let reference = site.registry.reference("team/slow", "1");
    let image = Image::random(&[16 * MIB])?;
    site.push("team/slow", "1", &image).await?;
    // It would take a minute, and an attempt may take five seconds.
    front.set("team/slow", Some(Fault::Throttle(256 << 10)));
    let deadline = json!({
        "pullPolicy": {"timeoutSeconds": 5, "backoffLimit": 20}, "completionPolicy": {"activeDeadlineSeconds": 7},
    });
    site.job("late", &reference, &deadline).await?;
    let status = site.ends("late").await?;
    ensure!(status["failed"] == 1 && status["active"].as_i64().unwrap_or_default() == 0, "{status:#}");
    ensure!(status["message"].as_str().is_some_and(|it| it.contains("activeDeadlineSeconds")), "{status:#}");
    until("the pull is given up", PATIENCE, async || Ok(front.open("team/slow") == 0)).await?;
    until("the node has given up, too", PATIENCE, async || {
        let tag = site.tag(&reference).await?;
        ensure!(tag.spec.is_null() || tag.status["phase"] == "Failed", "{tag:#?}");
        Ok(true)
    })
    .await?;
    let asked = front.asked("team/slow").len();
    sleep(Duration::from_secs(3)).await;
    ensure!(front.asked("team/slow").len() == asked, "it is still being pulled");
    ensure!(front.sent("team/slow") < image.size() && site.on_node(&reference).await?.is_none());

    front.set("team/slow", None);
    site.job("then", &reference, &policy_of(60)).await?;
    site.succeeds("then").await
}

async fn a_pull_is_taken_up_again_when_the_daemon_was_killed_img_34(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let front = &site.registry.front;
    let reference = site.registry.reference("team/large", "1");
    let image = Image::random(&[24 * MIB, 24 * MIB])?;
    site.push("team/large", "1", &image).await?;
    // It takes twelve seconds.
    front.set("team/large", Some(Fault::Throttle(4 << 20)));
    site.job("large", &reference, &json!({})).await?;
    site.pulls("team/large", &reference, 4 * MIB).await?;
    let before = site.tag(&reference).await?.spec;
    until("the daemon is killed", PATIENCE, async || daemon::kill(cluster).await).await?;
    site.succeeds("large").await?;
    let after = site.tag(&reference).await?;
    ensure!(after.spec["version"] == before["version"], "it was asked for anew: {after:#?}");
    ensure!(after.status["phase"] == "Succeeded", "{after:#?}");
    ensure!(site.on_node(&reference).await? == Some(image.digest));
    println!("{} of {} MiB were fetched", front.sent("team/large") >> 20, 48);
    Ok(())
}

async fn a_full_image_file_system_is_not_filled_further(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let reference = site.registry.reference("team/app", "1");
    site.push("team/app", "1", &Image::random(&[MIB])?).await?;
    let before = daemon_args(cluster).await?;
    let others = before.iter().filter(|argument| *argument != daemon::RESERVE);
    let full: Vec<String> = others.cloned().chain(FULL.map(str::to_owned)).collect();
    set_daemon_args(cluster, &full).await?;
    let refused = async {
        let once = json!({"pullPolicy": {"backoffLimit": 0}});
        site.job("full", &reference, &once).await?;
        let message = site.fails("full", &reference, &["image-fs-reserve", "full", "free", "space"]).await?;
        ensure!(message.contains("image-fs-reserve"), "it does not say why it is too full: {message}");
        let asked = site.registry.front.asked("team/app");
        ensure!(asked.iter().all(|asked| asked.kind != Kind::Blob), "it was fetched all the same: {asked:#?}");
        anyhow::Ok(())
    };
    let refused = refused.await;
    set_daemon_args(cluster, &before).await?;
    refused?;
    site.job("then", &reference, &json!({})).await?;
    site.succeeds("then").await
}

fn daemon_sets(cluster: &Cluster) -> Api<DaemonSet> {
    Api::namespaced(cluster.client(), daemon::NAMESPACE)
}

async fn daemon_args(cluster: &Cluster) -> Result<Vec<String>> {
    let set = daemon_sets(cluster).get(daemon::DAEMON_SET).await?;
    let containers = set.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers).unwrap_or_default();
    containers.into_iter().next().and_then(|container| container.args).context("the daemon has no arguments")
}

/// Gives the daemon other arguments, and waits until the only one has them.
async fn set_daemon_args(cluster: &Cluster, args: &[String]) -> Result<()> {
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "daemon", "args": args}]}}}});
    daemon_sets(cluster).patch(daemon::DAEMON_SET, &PatchParams::default(), &Patch::Strategic(change)).await?;
    let status = ["-n", daemon::NAMESPACE, "rollout", "status", "daemonset", daemon::DAEMON_SET, "--timeout=60s"];
    cluster.kubectl_says(&status).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), daemon::NAMESPACE);
    until("the daemon before is gone", PATIENCE, async || {
        Ok(pods.list(&ListParams::default().labels("app.kubernetes.io/component=daemon")).await?.items.len() == 1)
    })
    .await?;
    daemon::installed(cluster).await.map(drop)
}
