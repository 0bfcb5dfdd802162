//! Images are on the node before the pod is: jobs pull them from a real registry, whatever that does meanwhile.
//!
//! Each test has registries of its own, with a front that counts what they are asked and misbehaves as told. What the node
//! has, its runtime tells; what was pulled again, the registry.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Cluster, NODE, Namespace, Test, alone, eventually, tests, until};
use crate::image_site::{self, PATIENCE, Site, kind};
use crate::registry::{Fault, Image, Kind};
use crate::{image_secrets, image_trouble};

const MIB: usize = 1 << 20;

pub fn tests() -> Vec<Test> {
    let mut tests = tests![
        progress_of_a_large_image_is_told_on_the_way_weak_28,
        an_image_that_is_there_is_asked_for_again_by_always_alone_img_47,
        a_job_that_never_ends_serves_a_node_that_comes_later_job_29,
        a_digest_is_pulled_and_known_again_weak_27,
        a_finished_job_goes_after_its_ttl_and_takes_its_tag_along_job_36,
        deleting_a_job_stops_its_pull_job_38,
        two_jobs_for_one_image_share_a_pull_img_60,
        a_list_of_images_is_pulled_by_a_job_each_list_2,
        the_command_pulls_and_says_what_failed,
    ];
    tests.extend(image_secrets::tests());
    tests.extend(image_trouble::tests());
    tests.extend(alone![no_right_was_missing]);
    // Whichever is first installs manager and daemon.
    tests.into_iter().map(|test| test.within(Duration::from_mins(5))).collect()
}

async fn progress_of_a_large_image_is_told_on_the_way_weak_28(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    const LAYERS: [usize; 4] = [20 * MIB, 40 * MIB, 60 * MIB, 80 * MIB];
    /// Bytes a second: it takes some seventeen seconds.
    const RATE: u32 = 12 << 20;
    const VALUES: usize = 5;
    let site = Site::new(cluster, ns).await?;
    let image = tokio::task::spawn_blocking(|| Image::random(&LAYERS)).await??;
    site.push("team/large", "1", &image).await?;
    let reference = site.registry.reference("team/large", "1");
    site.registry.front.set("team/large", Some(Fault::Throttle(RATE)));
    site.job("large", &reference, &json!({})).await?;
    let mut told = Vec::new();
    eventually("large ends", 2 * PATIENCE, async || {
        let status = site.tag(&reference).await?.status;
        let progress = status["progress"].as_i64().unwrap_or_default();
        if status["phase"] == "Pulling" && told.last() != Some(&progress) {
            told.push(progress);
        }
        let has_ended = !site.status("large").await?["completionTime"].is_null();
        Ok(has_ended.then_some(()))
    })
    .await?;
    site.succeeds("large").await?;
    println!("progress of {} MiB: {told:?}", image.size() >> 20);
    ensure!(told.is_sorted(), "it went back: {told:?}");
    let on_the_way: BTreeSet<_> = told.iter().filter(|progress| (1..100).contains(*progress)).collect();
    ensure!(on_the_way.len() >= VALUES, "there were {} values on the way up: {told:?}", on_the_way.len());
    ensure!(site.tag(&reference).await?.status["progress"] == 100);
    ensure!(site.on_node(&reference).await?.as_deref() == Some(&*image.digest));
    Ok(())
}

async fn an_image_that_is_there_is_asked_for_again_by_always_alone_img_47(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let reference = site.registry.reference("team/app", "1");
    let asked = |kind| site.registry.front.asked("team/app").iter().filter(|asked| asked.kind == kind).count();
    let first = site.push("team/app", "1", &Image::small()?).await?;
    site.job("first", &reference, &json!({})).await?;
    site.succeeds("first").await?;
    ensure!(site.on_node(&reference).await?.as_ref() == Some(&first));
    let id = site.tag(&reference).await?.status["imageID"].clone();
    ensure!(id.as_str().is_some_and(|id| id.contains("/team/app@sha256:")), "imageID is {id}");
    let (manifests, blobs) = (asked(Kind::Manifest), asked(Kind::Blob));
    ensure!(manifests > 0 && blobs > 0, "it came from elsewhere");

    site.job("again", &reference, &json!({})).await?;
    site.succeeds("again").await?;
    ensure!((asked(Kind::Manifest), asked(Kind::Blob)) == (manifests, blobs), "an image that was there was asked for");

    site.job("always", &reference, &json!({"imagePullPolicy": "Always"})).await?;
    site.succeeds("always").await?;
    ensure!(asked(Kind::Manifest) > manifests, "the registry was not asked for a newer one");
    ensure!(asked(Kind::Blob) == blobs, "what was there was fetched again");

    // The tag is another image now.
    let second = site.push("team/app", "1", &Image::small()?).await?;
    let (manifests, blobs) = (asked(Kind::Manifest), asked(Kind::Blob));
    site.job("present", &reference, &json!({"imagePullPolicy": "IfNotPresent"})).await?;
    site.succeeds("present").await?;
    ensure!((asked(Kind::Manifest), asked(Kind::Blob)) == (manifests, blobs), "an image that was there was asked for");
    ensure!(site.on_node(&reference).await?.as_ref() == Some(&first));
    site.job("newer", &reference, &json!({"imagePullPolicy": "Always"})).await?;
    site.succeeds("newer").await?;
    ensure!(site.on_node(&reference).await?.as_ref() == Some(&second), "the newer one was not pulled");
    Ok(())
}

async fn a_job_that_never_ends_serves_a_node_that_comes_later_job_29(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let later = format!("{}-later", ns.name());
    let reference = site.registry.reference("team/app", "1");
    site.push("team/app", "1", &Image::small()?).await?;
    let never = json!({"selector": {"names": [NODE, later]}, "completionPolicy": {"type": "Never"}});
    site.job("keep", &reference, &never).await?;
    let counts = async |expected: [i64; 3]| {
        until(&format!("desired, active, succeeded are {expected:?}"), PATIENCE, async || {
            let status = site.status("keep").await?;
            let now = ["desired", "active", "succeeded"].map(|count| status[count].as_i64().unwrap_or_default());
            ensure!(now == expected, "{status:#}");
            Ok(true)
        })
        .await
    };
    counts([1, 0, 1]).await?;

    // A node without a daemon: the test plays it.
    let mut object = DynamicObject::new(&later, &kind("NodeImage")).data(json!({"spec": {}}));
    object.labels_mut().insert("apps.kruise.io/fake-nodeimage".to_owned(), "true".to_owned());
    site.nodes.create(&PostParams::default(), &object).await?;
    counts([2, 1, 1]).await?;
    let (name, tag) = image_site::split(&reference)?;
    let asked = site.nodes.get(&later).await?.data["spec"]["images"][&name]["tags"][0].clone();
    ensure!(asked["tag"] == tag, "{asked:#}");
    let mut done = json!({"tag": tag, "phase": "Succeeded", "progress": 100, "completionTime": asked["createdAt"]});
    if let Some(version) = asked["version"].as_i64().filter(|version| *version > 0) {
        done["version"] = version.into();
    }
    let status = json!({"status": {"desired": 1, "succeeded": 1, "imageStatuses": {&name: {"tags": [done]}}}});
    site.nodes.patch_status(&later, &PatchParams::default(), &Patch::Merge(status)).await?;
    counts([2, 0, 2]).await?;
    let status = site.status("keep").await?;
    ensure!(status["completionTime"].is_null(), "it has ended: {status:#}");

    // What it asked for goes with it.
    site.jobs.delete("keep", &DeleteParams::default()).await?;
    until("nothing is asked of that node", PATIENCE, async || {
        let images = site.nodes.get(&later).await?.data["spec"]["images"].clone();
        Ok(images.as_object().is_none_or(serde_json::Map::is_empty))
    })
    .await?;
    site.nodes.delete(&later, &DeleteParams::default()).await?;
    site.tag_is_gone(&reference).await
}

async fn a_digest_is_pulled_and_known_again_weak_27(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let digest = site.push("team/app", "1", &Image::small()?).await?;
    let reference = site.registry.reference("team/app", &digest);
    site.job("digest", &reference, &json!({})).await?;
    site.succeeds("digest").await?;
    ensure!(site.on_node(&reference).await?.as_ref() == Some(&digest));
    let asked = site.registry.front.asked("team/app").len();
    ensure!(asked > 0, "it came from elsewhere");
    site.job("again", &reference, &json!({})).await?;
    site.succeeds("again").await?;
    ensure!(site.registry.front.asked("team/app").len() == asked, "an image that was there was asked for");
    Ok(())
}

async fn a_finished_job_goes_after_its_ttl_and_takes_its_tag_along_job_36(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let reference = site.registry.reference("team/app", "1");
    site.push("team/app", "1", &Image::small()?).await?;
    let ttl = json!({"completionPolicy": {"ttlSecondsAfterFinished": 3}});
    site.job("short", &reference, &ttl).await?;
    site.succeeds("short").await?;
    until("the job is gone", PATIENCE, async || Ok(site.jobs.get_opt("short").await?.is_none())).await?;
    site.tag_is_gone(&reference).await?;
    ensure!(site.on_node(&reference).await?.is_some(), "the image went with the job");
    Ok(())
}

async fn deleting_a_job_stops_its_pull_job_38(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let front = &site.registry.front;
    let reference = site.registry.reference("team/slow", "1");
    let image = Image::random(&[16 * MIB, 16 * MIB])?;
    site.push("team/slow", "1", &image).await?;
    // It would take a minute.
    front.set("team/slow", Some(Fault::Throttle(512 << 10)));
    site.job("slow", &reference, &json!({})).await?;
    site.pulls("team/slow", &reference, MIB).await?;
    ensure!(site.status("slow").await?["active"] == 1);
    site.jobs.delete("slow", &DeleteParams::default()).await?;
    until("the job is gone", PATIENCE, async || Ok(site.jobs.get_opt("slow").await?.is_none())).await?;
    site.tag_is_gone(&reference).await?;
    until("the pull is given up", PATIENCE, async || Ok(front.open("team/slow") == 0)).await?;
    ensure!(front.sent("team/slow") < image.size(), "all of it was fetched");
    ensure!(site.on_node(&reference).await?.is_none());

    front.set("team/slow", None);
    site.job("after", &reference, &json!({})).await?;
    site.succeeds("after").await?;
    ensure!(site.on_node(&reference).await? == Some(image.digest));
    Ok(())
}

async fn two_jobs_for_one_image_share_a_pull_img_60(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let front = &site.registry.front;
    let reference = site.registry.reference("team/shared", "1");
    let image = Image::random(&[4 * MIB, 4 * MIB])?;
    site.push("team/shared", "1", &image).await?;
    front.set("team/shared", Some(Fault::Throttle(1 << 20)));
    site.job("one", &reference, &json!({})).await?;
    site.pulls("team/shared", &reference, MIB / 2).await?;
    let before = site.tag(&reference).await?.spec;
    site.job("two", &reference, &json!({})).await?;
    let owners = async |count: usize| {
        eventually(&format!("{count} jobs own the tag"), PATIENCE, async || {
            let spec = site.tag(&reference).await?.spec;
            let owners = spec["ownerReferences"].as_array().map_or(0, Vec::len);
            ensure!(owners == count, "{spec:#}");
            Ok(Some(spec))
        })
        .await
    };
    let joined = owners(2).await?;
    ensure!(joined["version"] == before["version"], "a pull that was under way was begun anew: {joined:#}");
    site.succeeds("one").await?;
    site.succeeds("two").await?;
    let fetched = front.sent("team/shared");
    ensure!(fetched < image.size() * 3 / 2, "{fetched} bytes were fetched for an image of {}", image.size());

    // It is there, so that a third asks nobody; and the tag stays until the last has gone.
    front.set("team/shared", None);
    let asked = front.asked("team/shared").len();
    site.job("three", &reference, &json!({})).await?;
    site.succeeds("three").await?;
    ensure!(front.asked("team/shared").len() == asked, "an image that was there was asked for");
    for (name, left) in [("one", 2), ("two", 1)] {
        site.jobs.delete(name, &DeleteParams::default()).await?;
        until(&format!("{name} is gone"), PATIENCE, async || {
            let spec = site.tag(&reference).await?.spec;
            let names: Vec<_> =
                spec["ownerReferences"].as_array().into_iter().flatten().map(|it| &it["name"]).collect();
            ensure!(names.iter().any(|owner| *owner == "three"), "the tag was taken from a job that is left: {spec:#}");
            Ok(names.len() <= left && names.iter().all(|owner| *owner != name))
        })
        .await?;
    }
    site.jobs.delete("three", &DeleteParams::default()).await?;
    site.tag_is_gone(&reference).await
}

async fn a_list_of_images_is_pulled_by_a_job_each_list_2(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    let mut references = Vec::new();
    for repository in ["team/one", "team/two"] {
        site.push(repository, "1", &Image::small()?).await?;
        references.push(site.registry.reference(repository, "1"));
    }
    let list = kind("ImageListPullJob");
    let spec = json!({"images": references, "selector": {"names": [NODE]}, "completionPolicy": {"type": "Always"}});
    let api: kube::Api<DynamicObject> = kube::Api::namespaced_with(ns.client(), ns.name(), &list);
    let object = DynamicObject::new("both", &list).data(json!({"spec": spec}));
    api.create(&PostParams::default(), &object).await?;
    eventually("the list has ended", PATIENCE, async || {
        let status = api.get("both").await?.data["status"].clone();
        ensure!(!status["completionTime"].is_null(), "{status:#}");
        for count in ["desired", "completed", "succeeded"] {
            ensure!(status[count] == 2, "{count}: {status:#}");
        }
        Ok(Some(()))
    })
    .await?;
    for reference in &references {
        ensure!(site.on_node(reference).await?.is_some(), "{reference} is not there");
    }
    let children = site.jobs.list(&kube::api::ListParams::default()).await?.items;
    ensure!(children.len() == 2, "there are {} jobs", children.len());
    ensure!(children.iter().all(|job| job.owner_references().iter().any(|owner| owner.name == "both")));
    api.delete("both", &DeleteParams::default()).await?;
    for reference in &references {
        site.tag_is_gone(reference).await?;
    }
    Ok(())
}

async fn the_command_pulls_and_says_what_failed(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let site = Site::new(cluster, ns).await?;
    site.push("team/app", "1", &Image::small()?).await?;
    let (good, bad) = (site.registry.reference("team/app", "1"), site.registry.reference("team/none", "1"));
    let pulled = pull(cluster, ns, &[&good, "-o", "json"]).await?;
    ensure!(pulled.status.success(), "{pulled:?}");
    let told: Value = serde_json::from_slice(&pulled.stdout).with_context(|| format!("{pulled:?}"))?;
    ensure!(told.to_string().contains(&good), "it does not tell of its image: {told:#}");
    ensure!(site.on_node(&good).await?.is_some());

    let failed = pull(cluster, ns, &[&good, &bad]).await?;
    ensure!(failed.status.code().is_some_and(|code| code != 0), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stdout) + String::from_utf8_lossy(&failed.stderr);
    println!("{said}");
    for word in [NODE, &bad] {
        ensure!(said.contains(word), "it does not say {word:?}:\n{said}");
    }
    ensure!(["not found", "does not have"].iter().any(|why| said.contains(why)), "it does not say why:\n{said}");
    Ok(())
}

/// `outrigger pull` for the node alone.
async fn pull(cluster: &Cluster, ns: &Namespace, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.arg("pull").args(args).args(["--node-selector", &format!("kubernetes.io/hostname={NODE}")]);
    command.args(["-n", ns.name()]).arg("--kubeconfig").arg(cluster.kubeconfig());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The last of all: what the tests before have had done, needed no right that is not given.
async fn no_right_was_missing(cluster: &Cluster, _: &Namespace) -> Result<()> {
    // What a namespace or a CRD on its way out refuses is no matter of rights.
    const LOOKED_AT: [&str; 5] = ["nodeimages", "imagepulljobs", "imagelistpulljobs", "secrets", "namespaces"];
    sleep(Duration::from_secs(1)).await;
    // By uid: an installation that a test before has removed lost its rights before its pods.
    let mut accounts = Vec::new();
    for (ns, name) in [("outrigger-daemon", "outrigger-daemon"), ("kruise-system", "outrigger-manager")] {
        let account = Api::<ServiceAccount>::namespaced(cluster.client(), ns).get(name).await?;
        accounts.push(account.uid().with_context(|| format!("{name} has no uid"))?);
    }
    let audit = cluster.audit()?;
    for account in &accounts {
        ensure!(audit.iter().any(|event| event["user"]["uid"] == **account), "no request of {account} is in the log");
    }
    let refused = audit.iter().filter(|event| {
        let is_ours = accounts.iter().any(|account| event["user"]["uid"] == **account);
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        let is_forbidden = event["annotations"]["authorization.k8s.io/decision"] == "forbid";
        is_ours && is_forbidden && LOOKED_AT.contains(&resource)
    });
    let refused: Vec<&Value> = refused.collect();
    ensure!(refused.is_empty(), "{} requests were refused, such as {:#}", refused.len(), refused[0]);
    until("no copy of a Secret is left", PATIENCE, async || {
        let left = image_site::copies(cluster, "").await?;
        let names: Vec<_> = left.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(names.is_empty(), "{names:?}");
        Ok(true)
    })
    .await
}
