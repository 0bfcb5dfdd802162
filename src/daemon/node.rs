//! What is known of this node: its live requests and its pods, from two watches and the answers to own writes; and the
//! workers, one for each pod that has live requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::worker::Worker;
use crate::api::names;
use crate::cri::detect::Runtimes;
use crate::health::Part;
use crate::recreate;
use crate::store::watch::{Source, Subject, Told, Trouble};

/// Changes that wait to be taken.
const QUEUE: usize = 64;
/// Objects in one page of a list: few, since what a page takes is never given back.
const PAGE: u32 = 25;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// What a node is served with.
pub(super) struct Node {
    pub(super) shared: Arc<Shared>,
    pub(super) requests_part: Part,
    pub(super) pods_part: Part,
    pub(super) stopping: CancellationToken,
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// What workers share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) is_dry_run: bool,
    pub(super) runtimes: watch::Receiver<Arc<Runtimes>>,
    pub(super) metrics: Metrics,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Requests of this node by their own names.
    requests: HashMap<Key, Arc<Request>>,
    pods: HashMap<Key, Arc<Pod>>,
    /// What wakes the worker of a pod.
    signals: HashMap<Key, Arc<Notify>>,
}

/// A request as it was last heard of.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    /// Namespace and name of its pod.
    pub(super) pod: Key,
    /// What is read of it.
    pub(super) read: recreate::Request,
}

/// A pod as it was last heard of.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) key: Key,
    pub(super) uid: Box<str>,
    pub(super) version: Box<str>,
    /// What is read of it, as JSON: a worker is rare, and a text is small.
    pub(super) text: Box<str>,
}

/// A request as the watch tells it; `None` when it cannot be one.
#[derive(Clone)]
struct SeenRequest(Option<Arc<Request>>);

/// A pod as the watch tells it; `None` when it cannot be one.
#[derive(Clone)]
struct SeenPod(Option<Arc<Pod>>);

/// What the watches tell.
enum News {
    Requests(Told<SeenRequest>),
    Pods(Told<SeenPod>),
}

/// A watch, for who asks how it is doing.
struct Line {
    what: &'static str,
    part: Part,
    metrics: Metrics,
    is_down: AtomicBool,
}

/// The watch of requests.
struct OfRequests(Line);

/// The watch of pods.
struct OfPods(Line);

/// Works until the node is stopped.
pub(super) async fn run(node: Node) {
    let stopping = node.stopping.clone();
    // It can be stopped anywhere: a successor goes on from what the objects say.
    tokio::select! {
        () = stopping.cancelled() => {}
        () = lead(node) => {}
    }
}

async fn lead(node: Node) {
    let Node { shared, requests_part, pods_part, .. } = node;
    let parts = [requests_part, pods_part];
    let (mut watching, mut news) = shared.watch(&parts);
    let mut workers = Workers { shared: Arc::clone(&shared), tasks: JoinSet::new(), keys: HashMap::new() };
    let mut has_pods = false;
    loop {
        tokio::select! {
            told = news.recv() => match told {
                Some(News::Requests(told)) => {
                    shared.take_request(told);
                    if has_pods {
                        workers.follow();
                    }
                }
                Some(News::Pods(told)) => {
                    let is_first = !has_pods && matches!(told, Told::All(_));
                    shared.take_pod(told);
                    if is_first {
                        // Not before: who knows no pods would take them for gone.
                        has_pods = true;
                        workers.follow();
                    }
                }
                None => {
                    tracing::error!("a watch crashed and starts again");
                    sleep(RECOVERY).await;
                    drop(watching);
                    (watching, news) = shared.watch(&parts);
                }
            },
            Some(ended) = watching.join_next(), if !watching.is_empty() => {
                // One without the other is as good as none.
                let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
                tracing::error!(%error, "a watch ended that should run for ever");
                watching.abort_all();
            }
            Some(ended) = workers.tasks.join_next_with_id(), if !workers.tasks.is_empty() => {
                workers.ended(ended).await;
            }
        }
    }
}

// === impl Key ===

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        client: Client,
        node: String,
        is_dry_run: bool,
        runtimes: watch::Receiver<Arc<Runtimes>>,
        metrics: Metrics,
    ) -> Self {
        Self { client, node, is_dry_run, runtimes, metrics, known: Mutex::default() }
    }

    /// Names of the runtimes that this node's pods are of, one for each pod that tells (WEAK-37).
    pub(super) fn runtimes(&self) -> Vec<String> {
        let known = self.known();
        known.pods.values().filter_map(|pod| runtime_of(&pod.text)).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests of a pod, finished ones too as long as they are watched.
    pub(super) fn requests(&self, pod: &Key) -> Vec<Arc<Request>> {
        let known = self.known();
        let mut found: Vec<_> = known.requests.values().filter(|request| request.pod == *pod).cloned().collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// A pod of this node.
    pub(super) fn pod(&self, key: &Key) -> Option<Arc<Pod>> {
        self.known().pods.get(key).cloned()
    }

    /// Takes the API server's answer to a write, so that nothing is decided on an older copy (CRR-24).
    pub(super) fn wrote(&self, answer: Value) {
        if let SeenRequest(Some(request)) = SeenRequest::from(answer) {
            self.known().put(request);
        }
    }

    /// Takes that a request is gone.
    pub(super) fn forget(&self, request: &Request) {
        self.known().remove(&request.key, &request.read.uid);
    }

    /// Whether the worker of a pod may end, since it has nothing to do. It must then.
    pub(super) fn is_over(&self, pod: &Key) -> bool {
        let mut known = self.known();
        let has_live = known.requests.values().any(|request| request.read.is_live() && request.pod == *pod);
        if !has_live {
            known.signals.remove(pod);
            // What the watch does not have it does not take away.
            known.requests.retain(|_, request| request.read.is_active || request.pod != *pod);
        }
        !has_live
    }

    fn take_request(&self, told: Told<SeenRequest>) {
        let mut known = self.known();
        match told {
            Told::All(requests) => {
                let listed: Vec<Arc<Request>> =
                    requests.into_iter().filter_map(|SeenRequest(request)| request).collect();
                let uids: HashMap<&Key, &str> =
                    listed.iter().map(|request| (&request.key, &*request.read.uid)).collect();
                let gone =
                    known.requests.values().filter(|request| uids.get(&request.key) != Some(&&*request.read.uid));
                let gone: Vec<Arc<Request>> = gone.cloned().collect();
                for request in gone {
                    known.remove(&request.key, &request.read.uid);
                }
                for request in listed {
                    known.put(request);
                }
            }
            Told::Put(SeenRequest(Some(request))) => known.put(request),
            Told::Gone(SeenRequest(Some(request))) => known.remove(&request.key, &request.read.uid),
            Told::Put(_) | Told::Gone(_) | Told::Current => {}
        }
        self.metrics.live(known.requests.values().filter(|request| request.read.is_live()).count());
    }

    fn take_pod(&self, told: Told<SeenPod>) {
        let mut known = self.known();
        match told {
            Told::All(pods) => {
                let listed: HashMap<Key, Arc<Pod>> =
                    pods.into_iter().filter_map(|SeenPod(pod)| pod).map(|pod| (pod.key.clone(), pod)).collect();
                known.pods = listed;
                known.signals.values().for_each(|signal| signal.notify_one());
            }
            Told::Put(SeenPod(Some(pod))) => {
                known.wake(&pod.key);
                known.pods.insert(pod.key.clone(), pod);
            }
            Told::Gone(SeenPod(Some(pod))) => {
                known.wake(&pod.key);
                if known.pods.get(&pod.key).is_some_and(|there| there.uid == pod.uid) {
                    known.pods.remove(&pod.key);
                }
            }
            Told::Put(_) | Told::Gone(_) | Told::Current => {}
        }
        self.metrics.pods(known.pods.len());
    }

    fn watch(&self, [requests, pods]: &[Part; 2]) -> (JoinSet<()>, mpsc::Receiver<News>) {
        let (sender, news) = mpsc::channel(QUEUE);
        let line = |what, part: &Part| Line {
            what,
            part: part.clone(),
            metrics: self.metrics.clone(),
            is_down: AtomicBool::new(false),
        };
        let mut watching = JoinSet::new();
        let path = format!("/apis/{}/containerrecreaterequests", names::V1BETA1);
        let mine = format!("{}={},{}=true", names::RECREATE_NODE, self.node, names::RECREATE_ACTIVE);
        let source = Source::new(OfRequests(line("requests", requests)), path, self.client.clone());
        watching.spawn(source.labelled(&mine).paged(PAGE).follow(sender.clone()));
        let source = Source::new(OfPods(line("pods", pods)), "/api/v1/pods".to_owned(), self.client.clone());
        watching.spawn(source.having(&format!("spec.nodeName={}", self.node)).paged(PAGE).follow(sender));
        (watching, news)
    }
}

// === impl Known ===

impl Known {
    fn put(&mut self, request: Arc<Request>) {
        if let Some(there) = self.requests.get(&request.key)
            && there.read.uid == request.read.uid
            && is_newer(&there.read.version, &request.read.version)
        {
            return;
        }
        self.wake(&request.pod);
        self.requests.insert(request.key.clone(), request);
    }

    fn remove(&mut self, key: &Key, uid: &str) {
        if self.requests.get(key).is_some_and(|there| there.read.uid == uid)
            && let Some(request) = self.requests.remove(key)
        {
            // WEAK-1: what waited for it has its turn.
            self.wake(&request.pod);
        }
    }

    fn wake(&self, pod: &Key) {
        if let Some(signal) = self.signals.get(pod) {
            signal.notify_one();
        }
    }
}

/// The scheme of the first container's id in a pod's text.
fn runtime_of(text: &str) -> Option<String> {
    let pod: Value = serde_json::from_str(text).ok()?;
    let mut statuses = pod["status"]["containerStatuses"].as_array()?.iter();
    let (name, _) = statuses.find_map(|status| status["containerID"].as_str()?.split_once("://"))?;
    Some(name.to_owned())
}

/// Whether one resourceVersion is of a later time than another.
pub(super) fn is_newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => false,
    }
}

// === impl SeenRequest ===

impl From<Value> for SeenRequest {
    fn from(object: Value) -> Self {
        let read = recreate::Request::read(&object);
        if read.name.is_empty() {
            return Self(None);
        }
        let (key, pod) = (Key::new(&read.namespace, &read.name), Key::new(&read.namespace, &read.spec.pod_name));
        Self(Some(Arc::new(Request { key, pod, read })))
    }
}

impl<'de> Deserialize<'de> for SeenRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

// === impl SeenPod ===

impl From<Value> for SeenPod {
    fn from(mut object: Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if name.is_empty() {
            return Self(None);
        }
        let (key, uid, version) =
            (Key::new(namespace, name), text("/metadata/uid").into(), text("/metadata/resourceVersion").into());
        trim(&mut object);
        Self(Some(Arc::new(Pod { key, uid, version, text: object.to_string().into() })))
    }
}

impl<'de> Deserialize<'de> for SeenPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// Leaves of a pod what is read.
fn trim(pod: &mut Value) {
    keep(pod, &["metadata", "spec", "status"]);
    let metadata = ["name", "namespace", "uid", "resourceVersion", "deletionTimestamp"];
    keep(&mut pod["metadata"], &metadata);
    keep(&mut pod["spec"], &["containers", "initContainers", "restartPolicy"]);
    keep(&mut pod["status"], &["phase", "podIP", "podIPs", "containerStatuses", "initContainerStatuses"]);
    for list in ["containers", "initContainers"] {
        for container in list_of(&mut pod["spec"], list) {
            keep(container, &["name", "ports", "lifecycle", "restartPolicy"]);
        }
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        for status in list_of(&mut pod["status"], list) {
            keep(status, &["name", "containerID", "ready", "started", "restartCount", "state", "lastState"]);
        }
    }
}

fn list_of<'a>(of: &'a mut Value, member: &str) -> impl Iterator<Item = &'a mut Value> {
    of.get_mut(member).and_then(Value::as_array_mut).into_iter().flatten()
}

fn keep(value: &mut Value, members: &[&str]) {
    match value {
        Value::Object(object) => object.retain(|name, _| members.contains(&name.as_str())),
        // Whatever it is, it is not what it should be.
        other => *other = Value::Object(Map::new()),
    }
}

// === impl Line ===

impl Line {
    fn heard(&self) {
        self.part.ready();
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!(watch = self.what, "the watch is up again");
        }
    }

    fn lost(&self, trouble: &Trouble) {
        self.metrics.restarted();
        self.part.waits_for(&trouble.to_string());
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(watch = self.what, reason = %trouble, "the watch is down; what changes is not heard of");
        }
    }
}

// === impl OfRequests ===

impl Subject for OfRequests {
    type Object = SeenRequest;
    type Change = News;

    fn version(SeenRequest(request): &SeenRequest) -> &str {
        request.as_ref().map(|request| &*request.read.version).unwrap_or_default()
    }

    fn change(&self, told: Told<SeenRequest>) -> News {
        News::Requests(told)
    }

    fn heard(&self) {
        self.0.heard();
    }

    fn restarted(&self) {
        self.0.metrics.restarted();
    }

    fn lost(&self, trouble: &Trouble) {
        self.0.lost(trouble);
    }
}

// === impl OfPods ===

impl Subject for OfPods {
    type Object = SeenPod;
    type Change = News;

    fn version(SeenPod(pod): &SeenPod) -> &str {
        pod.as_ref().map(|pod| &*pod.version).unwrap_or_default()
    }

    fn change(&self, told: Told<SeenPod>) -> News {
        News::Pods(told)
    }

    fn heard(&self) {
        self.0.heard();
    }

    fn restarted(&self) {
        self.0.metrics.restarted();
    }

    fn lost(&self, trouble: &Trouble) {
        self.0.lost(trouble);
    }
}

/// The workers, one for each pod with live requests.
struct Workers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    keys: HashMap<Id, Key>,
}

// === impl Workers ===

impl Workers {
    /// Starts workers where there are none.
    fn follow(&mut self) {
        let mut new = Vec::new();
        {
            let known = &mut *self.shared.known();
            for request in known.requests.values().filter(|request| request.read.is_live()) {
                if !known.signals.contains_key(&request.pod) {
                    let signal = Arc::new(Notify::new());
                    known.signals.insert(request.pod.clone(), Arc::clone(&signal));
                    new.push((request.pod.clone(), signal));
                }
            }
        }
        for (pod, signal) in new {
            let worker = Worker::new(Arc::clone(&self.shared), pod.clone(), signal);
            let id = self.tasks.spawn(worker.run()).id();
            self.keys.insert(id, pod);
        }
    }

    /// Takes note that a worker ended.
    async fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        match ended {
            Ok((id, ())) => {
                self.keys.remove(&id);
            }
            Err(crash) => {
                tracing::error!(error = %crash, "a worker crashed and starts again");
                sleep(RECOVERY).await;
                if let Some(pod) = self.keys.remove(&crash.id()) {
                    self.shared.known().signals.remove(&pod);
                }
                self.follow();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_little_is_kept() {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "managedFields": [{"x": 1}]},
            "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "x", "env": [{"name": "SECRET"}]}]},
            "status": {"podIP": "10.0.0.1", "conditions": [], "containerStatuses": [{"name": "a", "image": "x", "ready": true}]},
        });
        let SeenPod(Some(pod)) = SeenPod::from(pod) else { panic!("it is a pod") };
        let kept = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"name": "a", "ready": true}]},
        });
        assert_eq!(serde_json::from_str::<Value>(&pod.text).unwrap(), kept);
    }

    #[test]
    fn a_pod_tells_which_runtime_it_is_of_weak_37() {
        let pod = json!({"status": {"containerStatuses": [{"name": "a"}, {"name": "b", "containerID": "cri-o://12"}]}});
        assert_eq!(runtime_of(&pod.to_string()).as_deref(), Some("cri-o"));
        assert_eq!(runtime_of("{}"), None);
    }

    #[test]
    fn any_garbage_is_tolerated() {
        for garbage in [json!(null), json!(7), json!({"metadata": 7}), json!({"metadata": {"name": 7}})] {
            assert!(SeenPod::from(garbage.clone()).0.is_none());
            assert!(SeenRequest::from(garbage).0.is_none());
        }
        let odd =
            json!({"metadata": {"name": "a"}, "spec": {"containers": [7, null]}, "status": {"containerStatuses": 3}});
        assert!(SeenPod::from(odd).0.is_some());
    }

    #[test]
    fn an_older_copy_of_a_request_changes_nothing_crr_24() {
        let request = |version: &str| {
            let metadata = json!({"namespace": "shop", "name": "r", "uid": "u", "resourceVersion": version});
            SeenRequest::from(json!({"metadata": metadata, "spec": {"podName": "web"}})).0.unwrap()
        };
        let mut known = Known::default();
        known.put(request("10"));
        known.put(request("9"));
        assert_eq!(&*known.requests[&Key::new("shop", "r")].read.version, "10");
        known.put(request("11"));
        assert_eq!(&*known.requests[&Key::new("shop", "r")].read.version, "11");
    }
}
