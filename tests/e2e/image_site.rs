//! Where images are pulled in tests: the node with manager and daemon, registries of the test's own, and jobs for them.

#![allow(clippy::print_stdout, reason = "a test says what it has measured")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use outrigger::api::image::Familiar;
use serde_json::{Value, json};

use crate::daemon;
use crate::harness::{Cluster, NODE, Namespace, eventually, until};
use crate::registry::{Image, Password, Registry};

/// Pulls of other tests may have their turn first.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Where copies of Secrets are, for the daemon to read.
pub const CONFIG: &str = "kruise-daemon-config";
const SOURCE: &str = "imagepulljobs.kruise.io/source-key";

pub struct Site<'c> {
    pub registry: Registry,
    pub nodes: Api<DynamicObject>,
    pub jobs: Api<DynamicObject>,
    cluster: &'c Cluster,
    ns: &'c Namespace,
}

/// What the NodeImage of the node says of a tag; null where it says nothing.
#[derive(Debug, Default)]
pub struct Tag {
    pub spec: Value,
    pub status: Value,
}

pub fn kind(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind))
}

/// Name and tag by which NodeImages know an image.
pub fn split(image: &str) -> Result<(String, String)> {
    let Familiar { name, tag } = Familiar::parse(image).with_context(|| format!("{image} is no reference"))?;
    Ok((name, tag))
}

/// The copies of Secrets whose source begins so, such as `shop/`.
pub async fn copies(cluster: &Cluster, source: &str) -> Result<Vec<Secret>> {
    let all = Api::<Secret>::namespaced(cluster.client(), CONFIG).list(&ListParams::default()).await?.items;
    let is_meant = |secret: &Secret| secret.annotations().get(SOURCE).is_some_and(|it| it.starts_with(source));
    Ok(all.into_iter().filter(is_meant).collect())
}

// === impl Site ===

impl<'c> Site<'c> {
    pub async fn new(cluster: &'c Cluster, ns: &'c Namespace) -> Result<Self> {
        daemon::installed(cluster).await?;
        let nodes = Api::all_with(cluster.client(), &kind("NodeImage"));
        until("the node has its NodeImage", PATIENCE, async || Ok(nodes.get_opt(NODE).await?.is_some())).await?;
        let jobs = Api::namespaced_with(ns.client(), ns.name(), &kind("ImagePullJob"));
        Ok(Self { registry: Registry::start(cluster).await?, nodes, jobs, cluster, ns })
    }

    /// Pushes an image; its digest.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        self.registry.push(repository, tag, image, Password::First).await?;
        Ok(image.digest.clone())
    }

    /// Makes a job for the node alone; `change` is merged into its spec.
    pub async fn job(&self, name: &str, image: &str, change: &Value) -> Result<()> {
        let mut spec = json!({"image": image, "selector": {"names": [NODE]}, "completionPolicy": {"type": "Always"}});
        json_patch::merge(&mut spec, change);
        let job = DynamicObject::new(name, &kind("ImagePullJob")).data(json!({"spec": spec}));
        self.jobs.create(&PostParams::default(), &job).await.with_context(|| format!("{name} is not made"))?;
        Ok(())
    }

    /// The status of a job; null while it has none.
    pub async fn status(&self, job: &str) -> Result<Value> {
        Ok(self.jobs.get(job).await?.data["status"].take())
    }

    /// Waits until a job has ended; its status.
    pub async fn ends(&self, job: &str) -> Result<Value> {
        eventually(&format!("{job} ends"), PATIENCE, async || {
            let status = self.status(job).await?;
            ensure!(!status["completionTime"].is_null(), "{status:#}");
            Ok(Some(status))
        })
        .await
    }

    /// Waits until a job has ended well.
    pub async fn succeeds(&self, job: &str) -> Result<()> {
        let status = self.ends(job).await?;
        let is_right = status["succeeded"] == 1 && status["failed"].as_i64().unwrap_or_default() == 0;
        let node = if is_right { Value::Null } else { self.nodes.get(NODE).await?.data };
        ensure!(is_right, "{job} did not succeed: {status:#}\n{node:#}");
        Ok(())
    }

    /// Waits until a job has ended in vain; what the node says of its image, which must be one of these things.
    pub async fn fails(&self, job: &str, image: &str, words: &[&str]) -> Result<String> {
        let status = self.ends(job).await?;
        ensure!(status["failed"] == 1 && status["succeeded"].as_i64().unwrap_or_default() == 0, "{job}: {status:#}");
        ensure!(status["failedNodes"] == json!([NODE]), "{job} does not say where: {status:#}");
        let tag = self.tag(image).await?.status;
        ensure!(tag["phase"] == "Failed", "{tag:#}");
        let message = tag["message"].as_str().unwrap_or_default().to_owned();
        println!("{job}: {message}");
        let lower = message.to_lowercase();
        ensure!(message.contains(image), "{job}: it does not say which image: {message}");
        ensure!(words.iter().any(|word| lower.contains(word)), "{job}: it says none of {words:?}: {message}");
        Ok(message)
    }

    /// What the node says of an image.
    pub async fn tag(&self, image: &str) -> Result<Tag> {
        let (name, tag) = split(image)?;
        let node = self.nodes.get(NODE).await?.data;
        let of = |images: &Value| {
            let all = images[&name]["tags"].as_array();
            all.into_iter().flatten().find(|it| it["tag"] == tag).cloned().unwrap_or_default()
        };
        Ok(Tag { spec: of(&node["spec"]["images"]), status: of(&node["status"]["imageStatuses"]) })
    }

    /// Waits until the node is not asked for this image any more, and says nothing of it.
    pub async fn tag_is_gone(&self, image: &str) -> Result<()> {
        until(&format!("{image} is gone from the NodeImage"), PATIENCE, async || {
            let tag = self.tag(image).await?;
            ensure!(tag.spec.is_null() && tag.status.is_null(), "{tag:#?}");
            Ok(true)
        })
        .await
    }

    /// Waits until so many bytes of a repository were sent, and the node says that it pulls.
    pub async fn pulls(&self, repository: &str, image: &str, bytes: usize) -> Result<()> {
        until(&format!("{image} is being pulled"), PATIENCE, async || {
            let tag = self.tag(image).await?;
            let sent = self.registry.front.sent(repository);
            ensure!(tag.status["phase"] == "Pulling", "{tag:#?}, {sent} bytes sent");
            Ok(sent >= bytes as u64)
        })
        .await
    }

    /// The digest of the manifest that the node's runtime has under this name.
    pub async fn on_node(&self, image: &str) -> Result<Option<String>> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.cluster.containerd().await?).args(["-n", "k8s.io", "images", "ls"]);
        let output = tokio::task::spawn_blocking(move || ctr.output()).await??;
        ensure!(output.status.success(), "{output:?}");
        // REF TYPE DIGEST SIZE …
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(|line| line.split_whitespace());
        let found = lines.find_map(|mut line| (line.next() == Some(image)).then(|| line.nth(1).map(str::to_owned)));
        Ok(found.flatten())
    }

    /// A Secret that opens the registry with this password, or the same with another.
    pub async fn secret(&self, name: &str, password: &str) -> Result<()> {
        let config = BTreeMap::from([(".dockerconfigjson", self.registry.docker_config(password))]);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "stringData": config,
        });
        let apply = PatchParams::apply("test").force();
        self.ns.api::<Secret>().patch(name, &apply, &Patch::Apply(secret)).await?;
        Ok(())
    }

    /// The copies of this test's Secrets.
    pub async fn copies(&self) -> Result<Vec<Secret>> {
        copies(self.cluster, &format!("{}/", self.ns.name())).await
    }
}
