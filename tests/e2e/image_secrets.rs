//! Repositories behind a password.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{Cluster, Namespace, Test, eventually, tests, until};
use crate::image_site::{PATIENCE, Site};
use crate::registry::{Asked, Fault, Image, Password};

/// What a message says of a repository that does not let one in.
const NO_ENTRY: &[&str] = &["secret", "credential", "password"];

pub fn tests() -> Vec<Test> {
    tests![a_secret_opens_a_repository_and_a_wrong_one_is_told_sec_1, a_secret_that_changes_in_mid_run_is_taken_weak_33,]
}

async fn a_secret_opens_a_repository_and_a_wrong_one_is_told_sec_1(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    for name in ["without", "wrong", "right"] {
        site.push(&format!("guarded/{name}"), "1", &Image::small()?).await?;
    }
    site.secret("wrong", Password::Second.text()).await?;
    site.secret("right", Password::First.text()).await?;
    let reference = |name: &str| site.registry.reference(&format!("guarded/{name}"), "1");
    let asked = |name: &str| site.registry.front.asked(&format!("guarded/{name}"));
    let said_who = |asked: &[Asked]| asked.iter().filter(|asked| asked.authorized).count();
    let retries = |secrets: &[&str]| json!({"pullSecrets": secrets, "pullPolicy": {"backoffLimit": 8}});

    let without = async {
        site.job("without", &reference("without"), &retries(&[])).await?;
        site.fails("without", &reference("without"), NO_ENTRY).await?;
        ensure!(said_who(&asked("without")) == 0, "somebody said who they are");
        anyhow::Ok(())
    };
    let wrong = async {
        site.job("wrong", &reference("wrong"), &retries(&["wrong"])).await?;
        site.fails("wrong", &reference("wrong"), NO_ENTRY).await?;
        ensure!(said_who(&asked("wrong")) > 0, "the secret was not tried");
        anyhow::Ok(())
    };
    let right = async {
        site.job("right", &reference("right"), &retries(&["right"])).await?;
        site.succeeds("right").await?;
        ensure!(site.on_node(&reference("right")).await?.is_some());
        ensure!(said_who(&asked("right")) > 0, "the repository is open to all");
        anyhow::Ok(())
    };
    tokio::try_join!(without, wrong, right)?;
    // Nine attempts ask at least so often: it is no use to ask again (WEAK-30).
    for (name, requests) in [("without", 9), ("wrong", 18)] {
        ensure!(asked(name).len() < requests, "{name}: the registry was asked again and again: {:#?}", asked(name));
    }

    // A job that failed for want of a secret is no hindrance to one that has it.
    site.job("then", &reference("wrong"), &retries(&["right"])).await?;
    site.succeeds("then").await?;
    until("the copies are gone with the last job that needed them", PATIENCE, async || {
        let names: Vec<_> = site.copies().await?.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(names.is_empty(), "{names:?}");
        Ok(true)
    })
    .await
}

async fn a_secret_that_changes_in_mid_run_is_taken_weak_33(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    /// So long a daemon may go on with what it has read.
    const REMEMBERED: Duration = Duration::from_secs(11);
    let site = Site::new(cluster, ns).await?;
    let front = &site.registry.front;
    let reference = site.registry.reference("guarded/app", "1");
    site.push("guarded/app", "1", &Image::small()?).await?;
    site.secret("login", Password::First.text()).await?;
    let copy_holds = async |password: Password| {
        eventually(&format!("the copy holds {password:?}"), PATIENCE, async || {
            let copies = site.copies().await?;
            ensure!(copies.len() <= 1, "there are {} copies", copies.len());
            let data = copies.first().and_then(|copy| copy.data.as_ref()?.get(".dockerconfigjson"));
            let holds = data.is_some_and(|data| String::from_utf8_lossy(&data.0).contains(password.text()));
            Ok(holds.then(|| copies[0].name_any()))
        })
        .await
    };

    // It is busy, so that the job goes on trying.
    front.set("guarded/app", Some(Fault::TooMany));
    let tries = json!({"pullSecrets": ["login"], "pullPolicy": {"backoffLimit": 20}});
    site.job("warm", &reference, &tries).await?;
    let copy = copy_holds(Password::First).await?;
    until("the registry is asked", PATIENCE, async || Ok(!front.asked("guarded/app").is_empty())).await?;
    site.registry.set_password(Password::Second)?;
    site.secret("login", Password::Second.text()).await?;
    ensure!(copy_holds(Password::Second).await? == copy, "there is another copy");
    sleep(REMEMBERED).await;
    ensure!(site.status("warm").await?["completionTime"].is_null(), "it gave up");
    front.set("guarded/app", None);
    site.succeeds("warm").await?;
    ensure!(site.on_node(&reference).await?.is_some());
    Ok(())
}
