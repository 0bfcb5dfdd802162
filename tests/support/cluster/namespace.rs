//! A namespace for each test: gone when the test succeeds, kept and written down when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::object::HasSpec;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Cluster, PATIENCE, Parts, until};

/// Writing down what a failed test has left may take so long.
const DUMP: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Namespace {
    client: Client,
    name: String,
}

impl Namespace {
    /// A new namespace in which pods can be made; its name begins with `prefix` and is unlike any other.
    pub async fn create(cluster: &Cluster, prefix: &str) -> Result<Self> {
        let client = cluster.client();
        let prefix: String = prefix.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(45).collect();
        let object = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{}-", prefix.trim_matches('-').to_lowercase())},
        }))?;
        let namespaces: Api<KubeNamespace> = Api::all(client.clone());
        let made = namespaces.create(&PostParams::default(), &object).await.context("cannot make a namespace")?;
        let namespace = Self { client, name: made.name_any() };
        if cluster.parts >= Parts::Controllers {
            let accounts: Api<ServiceAccount> = namespace.api();
            until("the namespace has its ServiceAccount", PATIENCE, async || {
                Ok(accounts.get_opt("default").await?.is_some())
            })
            .await?;
        }
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of one kind in this namespace, as cluster-admin.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default> + DeserializeOwned,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Creates an object that is written as JSON; what the API server made of it.
    pub async fn create_json<K>(&self, object: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>
            + DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object)?;
        Ok(self.api().create(&PostParams::default(), &object).await?)
    }

    /// Begins to delete it with all it holds.
    pub async fn delete(&self) -> Result<()> {
        let namespaces: Api<KubeNamespace> = Api::all(self.client());
        namespaces.delete(&self.name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Writes all objects of the namespace, and those of the cluster that may explain them, to `DIR/NAME/`: one file for
    /// each kind, the events in the order of time. Secrets without what they keep.
    pub async fn dump(&self, dir: &Path) -> Result<PathBuf> {
        let dir = dir.join(&self.name);
        fs::create_dir_all(&dir)?;
        timeout(DUMP, self.dump_all(&dir)).await.context("the API server was too slow")??;
        Ok(dir)
    }

    async fn dump_all(&self, dir: &Path) -> Result<()> {
        const OF_THE_CLUSTER: [&str; 5] = [
            "nodes",
            "customresourcedefinitions",
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
            "sidecarsets",
        ];
        let discovery = Discovery::new(self.client()).run_aggregated().await?;
        for (kind, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
            let namespaced = capabilities.scope == Scope::Namespaced;
            if !capabilities.supports_operation(verbs::LIST)
                || !(namespaced || OF_THE_CLUSTER.contains(&kind.plural.as_str()))
            {
                continue;
            }
            let api: Api<DynamicObject> = if namespaced {
                Api::namespaced_with(self.client(), &self.name, &kind)
            } else {
                Api::all_with(self.client(), &kind)
            };
            let objects = match api.list(&ListParams::default()).await {
                Ok(list) => list.items,
                Err(error) => {
                    fs::write(dir.join(format!("{}.error", kind.plural)), error.to_string())?;
                    continue;
                }
            };
            let mut objects: Vec<Value> = objects.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
            if objects.is_empty() {
                continue;
            }
            for object in &mut objects {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
                if kind.kind == "Secret" {
                    object["data"] = json!("not written down");
                }
            }
            objects.sort_by_key(|object| object["metadata"]["creationTimestamp"].to_string());
            let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
            fs::write(dir.join(format!("{}{group}.json", kind.plural)), serde_json::to_string_pretty(&objects)?)?;
        }
        Ok(())
    }
}
