//! Nodes without machines, for jobs that pull images: NodeImages that need no Node, daemons that pull nothing but say so,
//! and an [`Auditor`] who sees every NodeImage as it was after each write.
//!
//! One watch serves them all, in the order of resourceVersions. It is never begun anew: a gap would be an instant that
//! nobody has seen, so it is an error.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]
#![allow(clippy::disallowed_methods, reason = "daemons have a clock")]

mod auditor;
mod daemon;
mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::Request;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::Cluster;

pub use auditor::Auditor;
use view::NodeImage;

pub const NODE_IMAGES: &str = "/apis/apps.kruise.io/v1beta1/nodeimages";
const FAKE: &str = "apps.kruise.io/fake-nodeimage";
/// Requests in flight while NodeImages are made.
const ABREAST: usize = 32;

/// An image whose name holds this cannot be pulled.
pub const BROKEN: &str = "broken";

/// How daemons work.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long a pull takes.
    pub pull: Range<Duration>,
    /// How long a daemon waits when it has something to tell, to tell what happens meanwhile with it.
    pub gather: Duration,
}

/// NodeImages and their daemons. Dropping it ends the daemons.
pub struct Fleet {
    auditor: Arc<Mutex<Auditor>>,
    /// Why the watch ended; it should not.
    watching: watch::Receiver<Option<String>>,
    tasks: Vec<JoinHandle<()>>,
}

/// How often somebody wrote, by resource and verb, and how many of the answers were refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(pub BTreeMap<(String, String), (u64, u64)>);

pub fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps.kruise.io", "v1beta1", kind))
}

// === impl Fleet ===

impl Fleet {
    /// Makes NodeImages of these names and starts their daemons.
    pub async fn start(client: &Client, names: &[String], pace: &Pace) -> Result<Self> {
        let requests = names.iter().map(async |name| {
            let object = json!({"apiVersion": "apps.kruise.io/v1beta1", "kind": "NodeImage",
                "metadata": {"name": name, "labels": {FAKE: "true"}}, "spec": {}});
            let request = Request::post(NODE_IMAGES).header("content-type", "application/json");
            let made = client.request_text(request.body(object.to_string().into_bytes())?).await;
            made.map(drop).with_context(|| format!("cannot make the NodeImage {name}"))
        });
        stream::iter(requests).buffer_unordered(ABREAST).try_collect::<()>().await?;

        let auditor = Arc::new(Mutex::new(Auditor::new(names.len())));
        let (mut inboxes, mut tasks) = (BTreeMap::new(), Vec::new());
        for name in names {
            let (inbox, object) = watch::channel(None);
            inboxes.insert(name.clone(), inbox);
            tasks.push(tokio::spawn(daemon::run(client.clone(), name.clone(), object, pace.clone())));
        }
        let (ended, watching) = watch::channel(None);
        let (client, audit) = (client.clone(), Arc::clone(&auditor));
        tasks.push(tokio::spawn(async move {
            let error = follow(&client, &audit, &inboxes).await.err();
            ended.send_replace(Some(error.map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"))));
        }));
        Ok(Self { auditor, watching, tasks })
    }

    /// What has been seen so far; an error when something may have been missed.
    pub fn auditor(&self) -> Result<MutexGuard<'_, Auditor>> {
        if let Some(why) = &*self.watching.borrow() {
            bail!("the watch of NodeImages has ended: {why}");
        }
        Ok(self.auditor.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the daemons and takes the NodeImages away.
    pub async fn remove(self, client: &Client) -> Result<()> {
        drop(self);
        let all = Request::delete(format!("{NODE_IMAGES}?labelSelector={FAKE}")).body(Vec::new())?;
        client.request_text(all).await?;
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Shows each event to the auditor and to the daemon of its node. Returns only with an error.
async fn follow(
    client: &Client,
    auditor: &Mutex<Auditor>,
    daemons: &BTreeMap<String, watch::Sender<Option<Arc<NodeImage>>>>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct List {
        metadata: view::Metadata,
        items: Vec<Box<RawValue>>,
    }
    let show = |object: &RawValue, is_gone: bool| {
        let view: NodeImage = serde_json::from_str(object.get())?;
        let mut auditor = auditor.lock().unwrap_or_else(PoisonError::into_inner);
        auditor.see(&view, object.get().len(), is_gone);
        drop(auditor);
        let version = view.metadata.resource_version.clone();
        if let Some(daemon) = daemons.get(&view.metadata.name).filter(|_| !is_gone) {
            daemon.send_replace(Some(Arc::new(view)));
        }
        anyhow::Ok(version)
    };
    let list = Request::get(format!("{NODE_IMAGES}?labelSelector={FAKE}")).body(Vec::new())?;
    let list: List = client.request(list).await?;
    for object in &list.items {
        show(object, false)?;
    }
    let mut version = list.metadata.resource_version;
    loop {
        let path = format!(
            "{NODE_IMAGES}?watch=true&labelSelector={FAKE}&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={version}"
        );
        let events = client.request_events::<Box<RawValue>>(Request::get(path).body(Vec::new())?).await?;
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            let next = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => show(&object, false)?,
                WatchEvent::Deleted(object) => show(&object, true)?,
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Error(status) => bail!("{}", status.message),
            };
            ensure!(number(&next) >= number(&version), "{next} came after {version}");
            version = next;
        }
    }
}

/// Versions of the API servers that we start are numbers that grow.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

// === impl Writes ===

impl Writes {
    /// What this ServiceAccount has written since the cluster began, but for what every manager keeps writing: its lease.
    pub fn of(cluster: &Cluster, user: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            verb: String,
            user: User,
            object_ref: Option<Object>,
            response_status: Option<Status>,
        }
        #[derive(Deserialize)]
        struct User {
            username: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Object {
            resource: String,
            subresource: String,
        }
        #[derive(Deserialize)]
        struct Status {
            code: u16,
        }
        let mut all = Self::default();
        cluster.audited(|event: Event| {
            let Object { resource, subresource } = event.object_ref.unwrap_or_default();
            let is_write = ["create", "update", "patch", "delete", "deletecollection"].contains(&&*event.verb);
            if !is_write || event.user.username != user || resource == "leases" || resource.ends_with("reviews") {
                return;
            }
            let resource = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
            let (written, refused) = all.0.entry((resource, event.verb)).or_default();
            *written += 1;
            *refused += u64::from(event.response_status.is_some_and(|status| status.code >= 400));
        })?;
        Ok(all)
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for (what, (written, refused)) in &before.0 {
            if let Some(now) = self.0.get_mut(what) {
                *now = (now.0 - written, now.1 - refused);
            }
        }
        self.0.retain(|_, (written, _)| *written > 0);
        self
    }

    /// Of all resources, or of one and its subresources; refused ones are counted too.
    pub fn sum(&self, resource: Option<&str>) -> u64 {
        let is_meant = |name: &str| resource.is_none_or(|resource| name.split('/').next() == Some(resource));
        self.0.iter().filter(|((name, _), _)| is_meant(name)).map(|(_, (written, _))| written).sum()
    }

    /// Of exactly this.
    pub fn exactly(&self, resource: &str) -> u64 {
        self.0.iter().filter(|((name, _), _)| name == resource).map(|(_, (written, _))| written).sum()
    }
}

/// All ImagePullJobs of a namespace.
pub fn jobs(client: &Client, namespace: &str) -> kube::Api<DynamicObject> {
    kube::Api::namespaced_with(client.clone(), namespace, &resource("ImagePullJob"))
}
