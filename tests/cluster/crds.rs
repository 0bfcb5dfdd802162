//! The CustomResourceDefinitions and the conversion webhook, as a real API server takes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use outrigger::admission::server::Limits;
use outrigger::admission::{Webhook, convert as webhook, router};
use outrigger::api::names;
use outrigger::crds::{self, CONVERT};
use outrigger::manifest;
use outrigger::telemetry::Metrics;
use serde_json::{Value, json};

use crate::harness::{Cluster, Namespace, PATIENCE, Test, alone, until};
use support::Running;

#[path = "../support/mod.rs"]
mod support;

const SNAPSHOT: &str = r#"[{"name":"app","ready":true,"restartCount":5,"containerID":"containerd://c2"}]"#;
const SINCE: &str = "2026-03-04T05:06:07Z";

pub fn tests() -> Vec<Test> {
    // The definitions are those of the whole cluster.
    alone![the_definitions_are_accepted_explained_and_served_in_both_versions]
}

async fn the_definitions_are_accepted_explained_and_served_in_both_versions(
    cluster: &Cluster,
    ns: &Namespace,
) -> Result<()> {
    let converter = serve().await?;
    let dir = tempfile::tempdir()?;
    let files = dir.path().display().to_string();
    write_definitions(dir.path(), &converter)?;
    cluster.kubectl_says(&["apply", "-f", &files]).await?;
    are_in_order(cluster).await?;
    let again = cluster.kubectl_says(&["apply", "-f", &files]).await?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "applied again: {again}");

    is_explained(cluster).await.context("kubectl explain")?;
    the_references_sidecarsets_read_back_equal(cluster).await.context("SidecarSets")?;
    samples_are_accepted(cluster).await.context("samples")?;
    recreate_requests_read_back_equal(cluster, ns).await.context("ContainerRecreateRequests")?;
    a_secrets_mode_survives_an_older_writer(cluster).await.context("NodeImages")?;
    jobs_read_back_equal(cluster, ns).await.context("ImagePullJobs and ImageListPullJobs")?;
    columns_are_printed(cluster, ns).await.context("kubectl get")?;
    cluster.kubectl_says(&["delete", "-f", &files]).await?;
    Ok(())
}

// === the definitions ===

/// The conversion webhook on a port of its own.
async fn serve() -> Result<Running> {
    let limits = Limits::default();
    let of_router = limits.clone();
    let build = move |counts, shutdown| {
        let metrics = Arc::new(Metrics::new(counts, || Some(0)));
        router(Webhook { routes: vec![webhook::route()], limits: of_router, metrics, shutdown })
    };
    support::start_with(build, limits, Duration::from_secs(5)).await
}

/// Writes the definitions with a webhook outside the cluster.
fn write_definitions(dir: &Path, converter: &Running) -> Result<()> {
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        let mut object = definition.object.clone();
        if let Some(config) = object.pointer_mut("/spec/conversion/webhook/clientConfig") {
            let url = format!("https://localhost:{}{CONVERT}", converter.addr.port());
            *config = json!({"url": url, "caBundle": STANDARD.encode(&converter.ca_pem)});
        }
        fs::write(dir.join(definition.file_name().replace(".yaml", ".json")), object.to_string())?;
    }
    Ok(())
}

async fn are_in_order(cluster: &Cluster) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    for definition in crds::all(names::DEFAULT_NAMESPACE) {
        until(&format!("{} is established", definition.name), PATIENCE, async || {
            let status = definitions.get(&definition.name).await?.status.unwrap_or_default();
            let conditions: BTreeMap<String, String> =
                status.conditions.unwrap_or_default().into_iter().map(|c| (c.type_, c.status)).collect();
            ensure!(!conditions.contains_key("NonStructuralSchema"), "{}: {conditions:?}", definition.name);
            Ok(conditions.get("Established").is_some_and(|status| status == "True"))
        })
        .await?;
    }
    Ok(())
}

async fn is_explained(cluster: &Cluster) -> Result<()> {
    // The API server publishes schemas a moment after it serves the kinds.
    until("the schemas are published", PATIENCE, async || {
        cluster.kubectl_says(&["explain", "nodeimage"]).await?;
        Ok(cluster.kubectl_says(&["explain", "sidecarset"]).await?.contains("Sidecar containers"))
    })
    .await?;
    for (path, words) in [
        ("sidecarset.spec.containers", "Containers to inject."),
        ("sidecarset.spec.containers.upgradeStrategy.upgradeType", "`ColdUpgrade` (default)"),
        ("sidecarset.spec.volumes", "Volumes that the containers above mount"),
        ("crr.spec.strategy", "How to restart them."),
        ("imagepulljob.spec.parallelism", "1 by default, 0 pauses the job"),
        ("imagelistpulljob.spec.images", "1 to 255, none twice"),
        ("nodeimage.status.imageStatuses", "How far each image is"),
    ] {
        let explained = cluster.kubectl_says(&["explain", path]).await?;
        let text = explained.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(text.contains(words), "{path} is explained as: {explained}");
    }
    Ok(())
}

// === objects ===

fn api(cluster: &Cluster, version: &str, kind: &str, namespace: Option<&Namespace>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(names::GROUP, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client(), namespace.name(), &resource),
        None => Api::all_with(cluster.client(), &resource),
    }
}

async fn create(api: &Api<DynamicObject>, object: &Value) -> Result<Value> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    Ok(json!(api.create(&PostParams::default(), &object).await?))
}

async fn get(api: &Api<DynamicObject>, name: &str) -> Result<Value> {
    Ok(json!(api.get(name).await?))
}

async fn replace(api: &Api<DynamicObject>, object: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let name = object.metadata.name.clone().context("no name")?;
    api.replace(&name, &PostParams::default(), &object).await?;
    Ok(())
}

/// What the reference stored reads back as it is, after a v1alpha1 client has read and written it too; what was sent to
/// the reference is read in v1beta1 as the reference converted it.
async fn the_references_sidecarsets_read_back_equal(cluster: &Cluster) -> Result<()> {
    let [older, newer] = ["v1alpha1", "v1beta1"].map(|version| api(cluster, version, "SidecarSet", None));
    let mut count = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))? {
        let file = entry?.path();
        if file.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let case: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let sets = case["sidecarSets"].as_array().context("no SidecarSets")?;
        for set in sets.iter().filter(|set| set["accepted"] == json!(true)) {
            let (sent, stored) = (&set["sent"], &set["stored"]);
            let name = stored["metadata"]["name"].as_str().context("no name")?;
            let place = || format!("{}: {name}", file.display());

            create(&newer, stored).await.with_context(place)?;
            assert_eq!(get(&newer, name).await?["spec"], stored["spec"], "{}", place());
            let read = get(&older, name).await.with_context(place)?;
            assert_eq!(read["apiVersion"], names::V1ALPHA1);
            replace(&older, &read).await.with_context(place)?;
            let after = get(&newer, name).await?;
            assert_eq!(after["spec"], stored["spec"], "{}", place());
            assert_eq!(after["metadata"]["annotations"], stored["metadata"]["annotations"], "{}", place());

            let mut sent = sent.clone();
            sent["metadata"]["name"] = format!("{name}-sent").into();
            let writer = if sent["apiVersion"] == names::V1ALPHA1 { &older } else { &newer };
            create(writer, &sent).await.with_context(place)?;
            let read = get(&newer, &format!("{name}-sent")).await?;
            for pointer in ["/metadata/labels", "/spec/namespaceSelector", "/spec/customVersion", "/spec/namespace"] {
                assert_eq!(read.pointer(pointer), stored.pointer(pointer), "{}: {pointer}", place());
            }
            count += 1;
        }
    }
    ensure!(count >= 150, "{count} SidecarSets were looked at");
    Ok(())
}

async fn samples_are_accepted(cluster: &Cluster) -> Result<()> {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/samples"))? {
        for document in manifest::read_file(&entry?.path())? {
            if document.group() == names::GROUP {
                let version = document.api_version.rsplit('/').next().unwrap_or_default();
                create(&api(cluster, version, &document.kind, None), &document.value)
                    .await
                    .with_context(|| document.origin.to_string())?;
            }
        }
    }
    Ok(())
}

/// CONV-CRR: the same facts, as annotations in v1alpha1 and as status in v1beta1.
async fn recreate_requests_read_back_equal(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let [older, newer] =
        ["v1alpha1", "v1beta1"].map(|version| api(cluster, version, "ContainerRecreateRequest", Some(ns)));
    let annotations = json!({"note": "mine", names::SYNC_STATUSES: SNAPSHOT, names::UNREADY_ACQUIRED: SINCE});
    let request = json!({
        "apiVersion": names::V1ALPHA1, "kind": "ContainerRecreateRequest",
        "metadata": {"name": "restart", "annotations": annotations},
        "spec": {"podName": "web", "containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
    });
    create(&older, &request).await?;
    let read = get(&older, "restart").await?;
    assert_eq!(read["metadata"]["annotations"], annotations);

    let read = get(&newer, "restart").await?;
    assert_eq!(read["metadata"]["annotations"], json!({"note": "mine"}), "CONV-CRR-7");
    assert_eq!(read["status"]["containerStatusSnapshot"], serde_json::from_str::<Value>(SNAPSHOT)?);
    assert_eq!(read["status"]["conditions"][0]["lastTransitionTime"], SINCE);
    assert_eq!(read["spec"]["containers"][0]["ports"][0]["protocol"], "TCP", "API-21");

    // A v1beta1 writer that empties the status leaves nothing behind for v1alpha1 readers.
    let mut emptied: DynamicObject = serde_json::from_value(read)?;
    emptied.data["status"] = json!({"phase": "Completed"});
    newer.replace_status("restart", &PostParams::default(), &emptied).await?;
    let read = get(&older, "restart").await?;
    assert_eq!(read["metadata"]["annotations"], json!({"note": "mine"}), "CONV-CRR-7");
    assert_eq!(read["status"], json!({"phase": "Completed"}));

    // API-22: bounds are those of v1beta1 alone.
    let odd = |version: &str, name: &str| {
        let spec = json!({"podName": "web", "containers": [], "strategy": {"failurePolicy": "Odd"}});
        json!({"apiVersion": format!("apps.kruise.io/{version}"), "kind": "ContainerRecreateRequest", "metadata": {"name": name}, "spec": spec})
    };
    create(&older, &odd("v1alpha1", "odd")).await?;
    let refused = create(&newer, &odd("v1beta1", "refused")).await.err().context("v1beta1 takes any policy")?;
    ensure!(format!("{refused:#}").contains("spec.strategy.failurePolicy"), "{refused:#}");
    Ok(())
}

/// CONV-NI-2.
async fn a_secrets_mode_survives_an_older_writer(cluster: &Cluster) -> Result<()> {
    let [older, newer] = ["v1alpha1", "v1beta1"].map(|version| api(cluster, version, "NodeImage", None));
    let images = json!({"a": {"pullSecrets": [{"namespace": "n", "name": "s", "mode": "batch"}], "tags": []}});
    let image = json!({"apiVersion": names::V1BETA1, "kind": "NodeImage", "metadata": {"name": "node-1"}, "spec": {"images": images}});
    create(&newer, &image).await?;
    let read = get(&older, "node-1").await?;
    replace(&older, &read).await?;
    assert_eq!(get(&newer, "node-1").await?["spec"]["images"], images);
    Ok(())
}

/// CONV-IPJ-1: what one version writes the other reads, and writes back, without loss.
async fn jobs_read_back_equal(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let shared = json!({
        "selector": {"names": ["n"]}, "parallelism": "10%", "pullSecrets": ["s"], "imagePullPolicy": "Always",
        "pullPolicy": {"timeoutSeconds": 5, "backoffLimit": 0}, "sandboxConfig": {"labels": {"a": "b"}},
        "completionPolicy": {"type": "Always", "activeDeadlineSeconds": 900, "ttlSecondsAfterFinished": 0},
    });
    let with = |member: &str, value: Value| {
        let mut spec = shared.clone();
        spec[member] = value;
        spec
    };
    for (kind, spec, status) in [
        (
            "ImagePullJob",
            with("image", json!("a:1")),
            json!({"desired": 3, "active": 1, "succeeded": 1, "failed": 1, "failedNodes": ["n"]}),
        ),
        (
            "ImageListPullJob",
            with("images", json!(["a:1", "b:1"])),
            json!({"desired": 2, "active": 1, "completed": 1, "succeeded": 0, "failedImageStatuses": [
                {"imagePullJob": "j", "name": "a:1", "message": "m"}]}),
        ),
    ] {
        let versions = ["v1alpha1", "v1beta1"];
        for (written, read) in [(versions[0], versions[1]), (versions[1], versions[0])] {
            let name = format!("warm-{written}");
            let [writer, reader] = [written, read].map(|version| api(cluster, version, kind, Some(ns)));
            let object = json!({
                "apiVersion": format!("{}/{written}", names::GROUP), "kind": kind, "metadata": {"name": name}, "spec": spec,
            });
            let made = create(&writer, &object).await.with_context(|| format!("{kind} {name}"))?;
            let mut told: DynamicObject = serde_json::from_value(made)?;
            told.data["status"] = status.clone();
            writer.replace_status(&name, &PostParams::default(), &told).await?;
            let seen = get(&reader, &name).await?;
            assert_eq!((&seen["spec"], &seen["status"]), (&spec, &status), "{kind} {name}");
            assert_eq!(seen["apiVersion"], format!("{}/{read}", names::GROUP));
            replace(&reader, &seen).await?;
            let again = get(&writer, &name).await?;
            assert_eq!((&again["spec"], &again["status"]), (&spec, &status), "{kind} {name}");
        }
    }
    Ok(())
}

/// API-4.
async fn columns_are_printed(cluster: &Cluster, ns: &Namespace) -> Result<()> {
    let job = json!({
        "apiVersion": names::V1BETA1, "kind": "ImagePullJob", "metadata": {"name": "job"},
        "spec": {"image": "a:1", "completionPolicy": {}, "parallelism": "10"},
    });
    create(&api(cluster, "v1beta1", "ImagePullJob", Some(ns)), &job).await?;
    for (resource, columns) in [
        ("sidecarsets", "NAME MATCHED UPDATED READY AGE"),
        ("crr", "NAME PHASE POD NODE AGE"),
        ("imagepulljobs", "NAME TOTAL ACTIVE SUCCEED FAILED AGE"),
        ("imagepulljobs.v1alpha1.apps.kruise.io", "NAME TOTAL ACTIVE SUCCEED FAILED AGE MESSAGE"),
        ("imagelistpulljobs", "NAME TOTAL SUCCEEDED COMPLETED AGE"),
        ("imagelistpulljobs.v1alpha1.apps.kruise.io", "NAME TOTAL SUCCEEDED COMPLETED AGE"),
        ("nodeimages", "NAME DESIRED PULLING SUCCEED FAILED AGE"),
    ] {
        let printed = cluster.kubectl_says(&["get", resource, "-n", ns.name()]).await?;
        let head = printed.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(head, columns, "{resource}");
    }
    Ok(())
}
