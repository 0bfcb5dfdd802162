//! What is watched, read as it comes: of each object no more is kept than is decided upon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::Client;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::metrics::Metrics;
use crate::api::names;
use crate::images::job::Job;
use crate::images::list::List;
use crate::images::node::{Machine, Node};
use crate::images::secrets::Copy;
use crate::store::watch::{Source, Subject, Told, Trouble};

/// NodeImages in one page of a list: a few MiB of text.
const NODE_IMAGES: u32 = 100;
/// Nodes in one page of a list.
const NODES: u32 = 100;

/// What was told.
pub(super) enum Change {
    Jobs(Told<SeenJob>),
    Nodes(Told<SeenNode>),
    Machines(Told<SeenMachine>),
    Lists(Told<SeenList>),
    Copies(Told<SeenCopy>),
}

#[derive(Clone)]
pub(super) struct SeenJob(pub(super) Job);

#[derive(Clone)]
pub(super) struct SeenNode(pub(super) Node);

#[derive(Clone)]
pub(super) struct SeenMachine {
    pub(super) name: Arc<str>,
    pub(super) machine: Machine,
    version: Box<str>,
}

#[derive(Clone)]
pub(super) struct SeenList(pub(super) List);

#[derive(Clone)]
pub(super) struct SeenCopy {
    pub(super) name: String,
    /// `None` for a Secret that is no copy.
    pub(super) copy: Option<Copy>,
    version: Box<str>,
}

/// An object that is watched.
trait Seen: DeserializeOwned + Clone + Send + 'static {
    fn version(&self) -> &str;
}

/// One watch.
struct Watched<T> {
    /// Its name in logs and metrics.
    name: &'static str,
    change: fn(Told<T>) -> Change,
    metrics: Metrics,
    is_down: AtomicBool,
}

/// Begins to watch everything.
pub(super) fn follow(
    client: &Client,
    metrics: &Metrics,
    copies: &str,
    changes: &mpsc::Sender<Change>,
    tasks: &mut JoinSet<()>,
) {
    let kind = |plural: &str| format!("/apis/{}/{plural}", names::V1BETA1);
    let jobs = Watched::new("imagepulljobs", Change::Jobs, metrics);
    tasks.spawn(Source::new(jobs, kind("imagepulljobs"), client.clone()).follow(changes.clone()));
    let nodes = Watched::new("nodeimages", Change::Nodes, metrics);
    let nodes = Source::new(nodes, kind("nodeimages"), client.clone()).paged(NODE_IMAGES);
    tasks.spawn(nodes.follow(changes.clone()));
    let machines = Watched::new("nodes", Change::Machines, metrics);
    let machines = Source::new(machines, "/api/v1/nodes".to_owned(), client.clone()).paged(NODES);
    tasks.spawn(machines.follow(changes.clone()));
    let lists = Watched::new("imagelistpulljobs", Change::Lists, metrics);
    tasks.spawn(Source::new(lists, kind("imagelistpulljobs"), client.clone()).follow(changes.clone()));
    let secrets = Watched::new("secrets", Change::Copies, metrics);
    let secrets = Source::new(secrets, format!("/api/v1/namespaces/{copies}/secrets"), client.clone());
    tasks.spawn(secrets.follow(changes.clone()));
}

// === impl Watched ===

impl<T> Watched<T> {
    fn new(name: &'static str, change: fn(Told<T>) -> Change, metrics: &Metrics) -> Self {
        Self { name, change, metrics: metrics.clone(), is_down: AtomicBool::new(false) }
    }
}

impl<T: Seen> Subject for Watched<T> {
    type Object = T;
    type Change = Change;

    fn version(object: &T) -> &str {
        object.version()
    }

    fn change(&self, told: Told<T>) -> Change {
        (self.change)(told)
    }

    fn heard(&self) {
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!(watch = self.name, "the watch is up again");
        }
    }

    fn restarted(&self) {
        self.metrics.restarted(self.name);
    }

    fn lost(&self, trouble: &Trouble) {
        self.metrics.restarted(self.name);
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(watch = self.name, reason = %trouble, "the watch is down; pulling images ahead waits for it");
        }
    }
}

// === impl Seen ===

impl Seen for SeenJob {
    fn version(&self) -> &str {
        &self.0.version
    }
}

impl Seen for SeenNode {
    fn version(&self) -> &str {
        &self.0.version
    }
}

impl Seen for SeenMachine {
    fn version(&self) -> &str {
        &self.version
    }
}

impl Seen for SeenList {
    fn version(&self) -> &str {
        &self.0.version
    }
}

impl Seen for SeenCopy {
    fn version(&self) -> &str {
        &self.version
    }
}

impl<'de> Deserialize<'de> for SeenJob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Job::read(&Value::deserialize(from)?)))
    }
}

impl<'de> Deserialize<'de> for SeenNode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from).map_err(D::Error::custom)?;
        Ok(Self(Node::read(raw.get())))
    }
}

impl<'de> Deserialize<'de> for SeenMachine {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(from)?;
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default();
        let (name, version) = (text("name").into(), text("resourceVersion").into());
        Ok(Self { name, version, machine: Machine::read(&object) })
    }
}

impl<'de> Deserialize<'de> for SeenList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(List::read(&Value::deserialize(from)?)))
    }
}

impl<'de> Deserialize<'de> for SeenCopy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(from)?;
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default();
        Ok(Self { name: text("name").into(), version: text("resourceVersion").into(), copy: Copy::read(&object) })
    }
}
