//! Pulls the images that this node's NodeImage asks for, and reports how far they are (IMG-30 … IMG-56).
//!
//! ```text
//! watch of this node's NodeImage ─▶ follow: a worker for each tag that is not finished at its version
//!                                     worker ─▶ images::tag decides ▶ is it there? ▶ a slot ▶ room, secrets ▶ PullImage
//!                                        │                                                    └─ progress, room meanwhile
//!                                        └─▶ board: what each tag says
//! board, what the API server has ─▶ images::report ─▶ /status of the NodeImage, coalesced (nothing else is written)
//! ```
//!
//! A worker that is not wanted any more is dropped, and with it its call: the runtime ends the pull. All that must outlive the
//! process is in the status: a process that is killed is followed by one that begins each unfinished tag anew (IMG-34).

pub mod metrics;
mod progress;
mod secrets;
mod space;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Request as KubeRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::metrics::{Metrics, Written};
use self::secrets::Secrets;
use self::space::Spaces;
use self::worker::{Order, Worker};
use super::node;
use crate::api::image::Familiar;
use crate::api::names;
use crate::api::nodeimage::{ImageTagStatus, NodeImageSpec, NodeImageStatus};
use crate::app::now;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::cri::detect::Runtimes;
use crate::health::Part;
use crate::images::disk::Reserve;
use crate::images::report::{self, Key, Urgency};
use crate::store::watch::{Source, Subject, Told, Trouble};

/// Changes that wait to be taken.
const QUEUE: usize = 4;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);
/// Between two writes of what is urgent, so that what happens at once is told at once.
const SOON: Duration = Duration::from_millis(100);
/// Between two writes of progress, while there are any left of [`BURST`].
const SLOWLY: Duration = Duration::from_millis(300);
/// Seconds in which a node may write progress once (IMG-36).
const PERIOD: f64 = 2.0;
/// Writes of progress that may follow each other faster (IMG-36).
const BURST: f64 = 5.0;
/// The first and the longest wait after a write that failed; jitter is added.
const DELAYS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What pulls may take of the node.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// How many pulls there are at a time; any number when `None` (IMG-40).
    pub workers: Option<usize>,
    /// What is to stay free on the image file system.
    pub reserve: Reserve,
    /// A directory on that file system; found out when `None`.
    pub image_fs: Option<PathBuf>,
}

/// What a node's images are served with.
pub(super) struct Images {
    pub(super) client: Client,
    pub(super) node: String,
    pub(super) is_dry_run: bool,
    pub(super) runtimes: watch::Receiver<Arc<Runtimes>>,
    /// Which knows the node's pods, and so which runtime they are of (WEAK-37).
    pub(super) pods: Arc<node::Shared>,
    pub(super) limits: Limits,
    pub(super) part: Part,
    pub(super) metrics: Metrics,
    pub(super) restarts: super::metrics::Metrics,
    pub(super) stopping: CancellationToken,
}

/// What workers share.
struct Shared {
    client: Client,
    node: String,
    is_dry_run: bool,
    runtimes: watch::Receiver<Arc<Runtimes>>,
    pods: Arc<node::Shared>,
    /// Who may pull; anybody when `None`.
    slots: Option<Arc<Semaphore>>,
    reserve: Reserve,
    spaces: Spaces,
    secrets: Secrets,
    metrics: Metrics,
    board: Mutex<Board>,
    /// Something on the board is new.
    news: Notify,
    underway: progress::Underway,
}

/// What is known of each tag.
#[derive(Default)]
struct Board {
    /// What its worker says.
    live: BTreeMap<Key, ImageTagStatus>,
    /// Which worker may say it.
    serials: BTreeMap<Key, u64>,
}

/// A NodeImage as it was last heard of.
#[derive(Clone, Debug)]
struct Seen {
    name: String,
    uid: String,
    version: String,
    spec: NodeImageSpec,
    status: NodeImageStatus,
}

/// A NodeImage as the watch tells it, or why it cannot be one; and its version.
#[derive(Clone)]
struct Read(Result<Arc<Seen>, String>, String);

/// The watch of the NodeImage.
struct OfImages {
    part: Part,
    restarts: super::metrics::Metrics,
    is_down: std::sync::atomic::AtomicBool,
}

/// The one that decides who pulls and what is written.
struct Puller {
    shared: Arc<Shared>,
    seen: Option<Arc<Seen>>,
    workers: BTreeMap<Key, Running>,
    tasks: JoinSet<()>,
    keys: HashMap<Id, (Key, u64)>,
    serial: u64,
    /// What a dry run has told.
    told: BTreeSet<String>,
    writes: JoinSet<Answer>,
    pace: Pace,
}

/// A worker, as who started it knows it.
struct Running {
    serial: u64,
    version: i64,
    orders: watch::Sender<Arc<Order>>,
    task: AbortHandle,
}

/// What became of a write.
enum Answer {
    /// The object is like this now.
    Is(Arc<Seen>),
    /// There is none.
    Gone,
    /// Somebody else wrote: the object is like this now.
    Conflict(Arc<Seen>),
    /// It failed.
    Failed(CallError),
}

/// When what may be written.
struct Pace {
    /// When it was last written.
    last: Option<Instant>,
    /// Writes of progress that are left, as of then.
    left: f64,
    counted: Instant,
    /// Not before, since a write failed.
    retry: Option<Instant>,
    delays: ExponentialBackoff,
}

/// Works until the node is stopped.
pub(super) async fn run(images: Images) {
    let stopping = images.stopping.clone();
    // It can be stopped anywhere: a successor goes on from what the status says.
    tokio::select! {
        () = stopping.cancelled() => {}
        () = lead(images) => {}
    }
}

async fn lead(images: Images) {
    let Images { client, node, is_dry_run, runtimes, pods, limits, part, metrics, restarts, .. } = images;
    let shared = Arc::new(Shared {
        secrets: Secrets::new(client.clone()),
        client,
        node,
        is_dry_run,
        runtimes,
        pods,
        slots: limits.workers.map(|count| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)))),
        reserve: limits.reserve,
        spaces: Spaces::new(limits.image_fs),
        metrics,
        board: Mutex::default(),
        news: Notify::new(),
        underway: progress::Underway::default(),
    });
    let (mut watching, mut news) = shared.watch(&part, &restarts);
    let mut puller = Puller::new(Arc::clone(&shared));
    loop {
        let wake = puller.report();
        tokio::select! {
            told = news.recv() => {
                if let Some(told) = told {
                    puller.take(told);
                } else {
                    tracing::error!("the watch of images crashed and starts again");
                    sleep(RECOVERY).await;
                    (watching, news) = shared.watch(&part, &restarts);
                }
            }
            Some(ended) = watching.join_next(), if !watching.is_empty() => {
                let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
                tracing::error!(%error, "a watch ended that should run for ever");
            }
            Some(ended) = puller.tasks.join_next_with_id(), if !puller.tasks.is_empty() => puller.ended(ended).await,
            Some(written) = puller.writes.join_next(), if !puller.writes.is_empty() => puller.written(written),
            () = shared.news.notified() => {}
            () = until(wake) => {}
        }
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

// === impl Shared ===

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something of a tag, if this worker still may.
    fn tell(&self, key: &Key, serial: u64, say: impl FnOnce(&mut ImageTagStatus)) {
        let mut board = self.board();
        if board.serials.get(key) == Some(&serial)
            && let Some(entry) = board.live.get_mut(key)
        {
            say(entry);
            self.news.notify_one();
        }
    }

    fn watch(&self, part: &Part, restarts: &super::metrics::Metrics) -> (JoinSet<()>, mpsc::Receiver<Told<Read>>) {
        let (sender, news) = mpsc::channel(QUEUE);
        let subject = OfImages {
            part: part.clone(),
            restarts: restarts.clone(),
            is_down: std::sync::atomic::AtomicBool::new(false),
        };
        let source = Source::new(subject, PATH.clone(), self.client.clone());
        let mut watching = JoinSet::new();
        watching.spawn(source.having(&format!("metadata.name={}", self.node)).paged(1).follow(sender));
        (watching, news)
    }

    /// Writes the status, and nothing else (DMN-20).
    async fn write(&self, patch: &Value) -> Answer {
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        let asked = call(async {
            let built = path().patch_subresource("status", &self.node, &params, &Patch::Merge(patch));
            self.client.request::<Read>(built.map_err(kube::Error::BuildRequest)?).await
        });
        let (became, answer) = match asked.await {
            Ok(Read(Ok(seen), _)) => (Written::Done, Answer::Is(seen)),
            Ok(Read(Err(_), _)) => (Written::Done, self.refresh(false).await),
            Err(error) => match error.code() {
                // There is none, or its kind is not served at this moment.
                Some(404) => (Written::Gone, self.refresh(false).await),
                Some(409) => (Written::Conflict, self.refresh(true).await),
                _ => (Written::Failed, Answer::Failed(error)),
            },
        };
        self.metrics.wrote(became);
        answer
    }

    /// Reads the object anew. A list of one, which asks for no further right.
    async fn refresh(&self, is_conflict: bool) -> Answer {
        let list = call(async {
            let built = path().list(&ListParams::default().fields(&format!("metadata.name={}", self.node)));
            self.client.request::<List>(built.map_err(kube::Error::BuildRequest)?).await
        });
        match list.await {
            Ok(List { mut items }) => match items.pop() {
                Some(Read(Ok(seen), _)) if is_conflict => Answer::Conflict(seen),
                Some(Read(Ok(seen), _)) => Answer::Is(seen),
                Some(Read(Err(_), _)) | None => Answer::Gone,
            },
            Err(error) => Answer::Failed(error),
        }
    }
}

// === impl Read ===

impl From<Value> for Read {
    fn from(mut object: Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, uid, version) = (text("/metadata/name"), text("/metadata/uid"), text("/metadata/resourceVersion"));
        let read = member(&mut object, "spec").and_then(|spec| Ok((spec, member(&mut object, "status")?)));
        let seen = read.and_then(
            |(spec, status)| {
                if name.is_empty() { Err("it has no name".to_owned()) } else { Ok((spec, status)) }
            },
        );
        let seen = seen.map(|(spec, status)| Arc::new(Seen { name, uid, version: version.clone(), spec, status }));
        Self(seen, version)
    }
}

/// A member of an object; what it starts as when it is not there.
fn member<T: Default + DeserializeOwned>(object: &mut Value, name: &str) -> Result<T, String> {
    match object.get_mut(name).map(Value::take) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => serde_json::from_value(value).map_err(|error| format!("its {name} cannot be read: {error}")),
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

// === impl OfImages ===

impl Subject for OfImages {
    type Object = Read;
    type Change = Told<Read>;

    fn version(Read(_, version): &Read) -> &str {
        version
    }

    fn change(&self, told: Told<Read>) -> Told<Read> {
        told
    }

    fn heard(&self) {
        self.part.ready();
        if self.is_down.swap(false, std::sync::atomic::Ordering::Relaxed) {
            tracing::info!(watch = "images", "the watch is up again");
        }
    }

    fn restarted(&self) {
        self.restarts.restarted();
    }

    fn lost(&self, trouble: &Trouble) {
        self.restarts.restarted();
        self.part.waits_for(&trouble.to_string());
        if !self.is_down.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(watch = "images", reason = %trouble, "the watch is down; what changes is not heard of");
        }
    }
}

// === impl Puller ===

impl Puller {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            seen: None,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            serial: 0,
            told: BTreeSet::new(),
            writes: JoinSet::new(),
            pace: Pace::new(),
        }
    }

    fn take(&mut self, told: Told<Read>) {
        let read = match told {
            Told::All(mut all) => all.pop(),
            Told::Put(read) => Some(read),
            Told::Gone(_) => None,
            Told::Current => return,
        };
        match read {
            None => self.know(None),
            Some(Read(Ok(seen), _)) => self.know(Some(seen)),
            Some(Read(Err(why), _)) => {
                tracing::warn!(node = self.shared.node, %why, "the NodeImage cannot be used; what was asked for before goes on");
            }
        }
    }

    /// Takes what the object is now.
    fn know(&mut self, seen: Option<Arc<Seen>>) {
        if let (Some(new), Some(old)) = (&seen, &self.seen) {
            if new.uid == old.uid && node::is_newer(&old.version, &new.version) {
                return;
            }
            if new.uid != old.uid {
                self.seen = None;
                self.follow();
            }
        }
        self.seen = seen;
        self.follow();
    }

    /// Stops what is not wanted any more, and starts what is wanted (IMG-31, IMG-32).
    fn follow(&mut self) {
        let seen = self.seen.clone();
        let wanted: BTreeMap<Key, Arc<Order>> = seen.iter().flat_map(orders).collect();
        let is_finished = |key: &Key, order: &Order| {
            seen.as_ref().is_some_and(|seen| report::finished(&seen.status, &key.0, &order.tag).is_some())
        };
        {
            let board = &mut *self.shared.board();
            self.workers.retain(|key, worker| {
                let is_over = board.live.get(key).is_some_and(|entry| entry.completion_time.is_some());
                let same = wanted.get(key).filter(|order| order.tag.version == worker.version);
                let goes_on = same.is_some_and(|order| !is_finished(key, order));
                // Who is over may still have to tell others so.
                if !goes_on && !is_over {
                    worker.task.abort();
                }
                if !goes_on {
                    board.live.remove(key);
                    board.serials.remove(key);
                }
                goes_on
            });
        }
        for (key, order) in wanted {
            if is_finished(&key, &order) {
                continue;
            }
            match self.workers.get(&key) {
                Some(worker) => {
                    worker.orders.send_if_modified(|known| {
                        let is_news = **known != *order;
                        *known = Arc::clone(&order);
                        is_news
                    });
                }
                None if self.shared.is_dry_run => self.would(&order),
                None => self.start(key, order),
            }
        }
    }

    fn start(&mut self, key: Key, order: Arc<Order>) {
        self.serial += 1;
        let serial = self.serial;
        let version = order.tag.version;
        let entry = ImageTagStatus {
            tag: key.1.clone(),
            version,
            phase: report::WAITING.to_owned(),
            ..ImageTagStatus::default()
        };
        {
            let mut board = self.shared.board();
            board.live.insert(key.clone(), entry);
            board.serials.insert(key.clone(), serial);
        }
        let (orders, receiver) = watch::channel(order);
        let worker = Worker::new(Arc::clone(&self.shared), key.clone(), serial, receiver, now());
        let task = self.tasks.spawn(worker.run());
        self.keys.insert(task.id(), (key.clone(), serial));
        self.workers.insert(key, Running { serial, version, orders, task });
    }

    /// Says what would be pulled, once.
    fn would(&mut self, order: &Order) {
        let image = Familiar::reference(&order.name, &order.tag.tag);
        let policy = if order.tag.image_pull_policy.is_empty() { "Always" } else { &order.tag.image_pull_policy };
        if self.told.len() < 1000 && self.told.insert(format!("{image} {}", order.tag.version)) {
            tracing::info!(image, policy, secrets = order.secrets.len(), "a dry run: it would be pulled");
        }
    }

    /// Takes note that a worker ended.
    async fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let known = self.keys.remove(&id);
        let Err(crash) = ended else { return };
        if !crash.is_panic() {
            return;
        }
        tracing::error!(error = %crash, "a pull crashed and starts again");
        sleep(RECOVERY).await;
        if let Some((key, serial)) = known
            && self.workers.get(&key).is_some_and(|worker| worker.serial == serial)
        {
            self.workers.remove(&key);
            self.follow();
        }
    }

    /// Writes the status, if it is time, and says when to look again.
    fn report(&mut self) -> Option<Instant> {
        let secrets = self.shared.secrets.forget();
        let Some(seen) = self.seen.clone() else {
            self.shared.metrics.phases(&NodeImageStatus::default());
            return secrets;
        };
        let status = report::status(&seen.spec, &seen.status, &self.shared.board().live, now());
        self.shared.metrics.phases(&status);
        if self.shared.is_dry_run || !self.writes.is_empty() {
            return secrets;
        }
        let urgency = report::urgency(&seen.status, &status);
        if urgency == Urgency::None {
            return secrets;
        }
        let (due, time) = (self.pace.due(urgency), Instant::now());
        if due > time {
            return Some(secrets.map_or(due, |secrets| secrets.min(due)));
        }
        self.pace.wrote(urgency, time);
        let (shared, patch) = (Arc::clone(&self.shared), report::patch(&seen.version, &seen.status, &status));
        self.writes.spawn(async move { shared.write(&patch).await });
        secrets
    }

    fn written(&mut self, written: Result<Answer, JoinError>) {
        let warn = |error: &dyn std::fmt::Display| {
            tracing::warn!(node = self.shared.node, %error, "the NodeImage's status cannot be written; tried again");
        };
        match written {
            Ok(Answer::Is(seen)) => {
                self.pace.is_well();
                self.know(Some(seen));
            }
            Ok(Answer::Conflict(seen)) => self.know(Some(seen)),
            Ok(Answer::Gone) => self.know(None),
            Ok(Answer::Failed(error)) => {
                warn(&error);
                self.pace.failed();
            }
            Err(crash) => {
                warn(&crash);
                self.pace.failed();
            }
        }
    }
}

/// What each tag of a NodeImage asks for.
fn orders(seen: &Arc<Seen>) -> impl Iterator<Item = (Key, Arc<Order>)> {
    report::tags(&seen.spec).map(|(name, tag)| {
        let image = seen.spec.images.get(name);
        let order = Order {
            node_image: (seen.name.clone(), seen.uid.clone()),
            name: name.clone(),
            tag: tag.clone(),
            secrets: image.map(|image| image.pull_secrets.clone()).unwrap_or_default(),
            sandbox: image.and_then(|image| image.sandbox_config.clone()).unwrap_or_default(),
        };
        ((name.clone(), tag.tag.clone()), Arc::new(order))
    })
}

// === impl Pace ===

impl Pace {
    fn new() -> Self {
        Self { last: None, left: BURST, counted: Instant::now(), retry: None, delays: delays() }
    }

    /// When a report of this urgency may be written.
    fn due(&self, urgency: Urgency) -> Instant {
        let now = Instant::now();
        let after = |pause| self.last.map_or(now, |last| last + pause);
        let due = match urgency {
            Urgency::None | Urgency::High => after(SOON),
            Urgency::Slight => {
                let missing = (1.0 - self.available(now)).max(0.0);
                after(SLOWLY).max(now + Duration::from_secs_f64(missing * PERIOD))
            }
        };
        self.retry.map_or(due, |retry| retry.max(due))
    }

    fn wrote(&mut self, urgency: Urgency, time: Instant) {
        self.left = self.available(time);
        self.counted = time;
        if urgency == Urgency::Slight {
            self.left = (self.left - 1.0).max(0.0);
        }
        self.last = Some(time);
    }

    fn available(&self, now: Instant) -> f64 {
        (self.left + now.duration_since(self.counted).as_secs_f64() / PERIOD).min(BURST)
    }

    fn failed(&mut self) {
        self.retry = Some(Instant::now() + self.delays.next().unwrap_or(DELAYS.1));
    }

    fn is_well(&mut self) {
        (self.retry, self.delays) = (None, delays());
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Read>,
}

static PATH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| format!("/apis/{}/nodeimages", names::V1BETA1));

fn path() -> KubeRequest {
    KubeRequest::new(PATH.as_str())
}

fn delays() -> ExponentialBackoff {
    let (first, longest) = DELAYS;
    let delays = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
    delays.with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn any_garbage_is_tolerated() {
        let garbage =
            [json!(null), json!(7), json!({"metadata": 7}), json!({"metadata": {"name": "a"}, "spec": {"images": 7}})];
        for garbage in garbage {
            assert!(Read::from(garbage).0.is_err());
        }
        let bare = Read::from(json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}}));
        assert_eq!(bare.0.unwrap().version, "7");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_written_seldom_and_phases_soon_img_36() {
        let mut pace = Pace::new();
        let mut written = Vec::new();
        let began = Instant::now();
        for _ in 0..8 {
            sleep_until(pace.due(Urgency::Slight)).await;
            pace.wrote(Urgency::Slight, Instant::now());
            written.push(began.elapsed().as_millis());
        }
        assert_eq!(written[..5], [0, 300, 600, 900, 1200]);
        assert!(written[7] >= 5500, "then one in two seconds: {written:?}");
        assert!(pace.due(Urgency::High) <= Instant::now() + SOON);
        pace.failed();
        assert!(pace.due(Urgency::High) > Instant::now() + SOON);
        pace.is_well();
        assert!(pace.due(Urgency::High) <= Instant::now() + SOON);
    }
}
