//! Objects from a cluster: four watches feed one task, which owns the [`Objects`] and publishes [`Snapshot`]s.
//!
//! ```text
//! API server ─▶ Source (SidecarSets)     ─┐
//!            ─▶ Source (Namespaces)      ─┤ Change   Owner: Objects ─▶ ArcSwap<Snapshot> ─▶ admission
//!            ─▶ Source (configuration)   ─┤────────▶                └▶ how many were published ─▶ whoever follows
//!            ─▶ Source (revisions)       ─┘
//!                 └───────── Health: what is missing, since when ─▶ /readyz, metrics, the log
//! ```
//!
//! The first snapshot is published when all four were listed, so it is whole. From then on admission goes on with what
//! is known, whatever becomes of the API server. Objects are read as plain JSON: nothing that is in one can stop a watch.
//!
//! The watches are our own and not those of kube-runtime, which does not tell that a broken watch is up again before
//! the next object changes, keeps a version that the API server refuses, and loses a list to one item.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Broken, Change, Effect, Kind, Objects, Snapshot};
use crate::api::names;
use crate::gates::Gates;

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Pages of a list; one that has more does not end.
const PAGES: usize = 2000;
/// Seconds until a watch is renewed. With [`GRACE`], also how long a connection may be dead unnoticed.
const RENEWAL: u32 = 60;
/// How much longer than it should a watch may last.
const GRACE: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The first and the longest wait between two attempts; jitter is added.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A watch that lasted so long was in order, and the next attempt is the first again. An API server whose CRDs change one after
/// the other ends it every second; each time it is up again at once.
const STEADY: Duration = Duration::from_millis(500);
/// A watch that is answered has caught up after so long without an event: what it missed comes first, and at once. That the
/// version is too old is told in the same way, so the answer alone says nothing.
const SETTLED: Duration = Duration::from_millis(50);
/// Attempts that follow at once after an API server has ended a watch: it does so when a CRD changes, and pods made
/// meanwhile would miss their sidecars.
const PROMPT: u32 = 3;
/// How long a pod waits to hear of new SidecarSets while their watch is down, within the time that its webhook has.
const CATCH_UP: Duration = Duration::from_secs(2);
/// For so long after its last answer an API server is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an event; etcd takes no object that comes near it.
const LINE: usize = 32 << 20;
/// Changes that wait to be taken.
const QUEUE: usize = 256;
/// The shortest time between two snapshots; what changes in it goes into the second.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the feed waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// Keeps snapshots up to date with a cluster.
pub struct Feed {
    client: Client,
    operator_namespace: String,
    gates: Gates,
    snapshots: Arc<ArcSwap<Snapshot>>,
    published: watch::Sender<u64>,
    health: Arc<Health>,
}

/// How the feed is doing.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
    restarts: [AtomicU64; Kind::ALL.len()],
    sidecarsets: AtomicUsize,
    broken: AtomicUsize,
    interrupted: watch::Sender<Interruption>,
}

/// The watch for SidecarSets is down: changes are not heard of. It is listed anew again and again, until it is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruption {
    /// Since when; `None` while the watch is up.
    pub since: Option<tokio::time::Instant>,
    /// All that was stored at this time is known.
    pub known: Option<tokio::time::Instant>,
}

/// What the owner of the objects is told.
enum News {
    Change(Change),
    /// All there are, as they were at this time or later.
    Listed(Change, tokio::time::Instant),
    /// This watch is up, and all that changed before was told.
    Current(Kind),
}

#[derive(Debug, Default)]
struct State {
    lines: [Status; Kind::ALL.len()],
    /// Since when some watch is down.
    outage: Option<Instant>,
    synced: bool,
}

/// How one watch is doing.
#[derive(Debug, Default)]
struct Status {
    listed: bool,
    /// When the API server last said anything.
    heard: Option<Instant>,
    trouble: Option<String>,
}

/// Why a watch is down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the API server does not serve {0}; install the CRDs")]
    NotServed(String),
    #[error("the API server answers: {0}")]
    Refused(String),
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the API server does not answer within {} s", ANSWER.as_secs())]
    Slow,
    #[error("what the API server sends cannot be read: {0}")]
    Unreadable(String),
}

/// How a watch ended that was in order.
enum Ended {
    /// Its time was over.
    InTime,
    /// What it went on from is too old.
    Expired,
}

// === impl Interruption ===

impl Interruption {
    /// Whether all is known that was stored at `time`, or as much as can be had: nobody waits for an API server that has not
    /// answered for [`PATIENCE`].
    fn is_over(&self, time: tokio::time::Instant) -> bool {
        let Some(since) = self.since else { return true };
        let answered = self.known.map_or(since, |known| known.max(since));
        self.known.is_some_and(|known| known >= time) || answered.elapsed() >= PATIENCE
    }
}

/// Waits until all SidecarSets are known that were there when this is called, unless that takes too long or the API server is
/// away: afterwards the last state is good enough.
pub async fn caught_up(interruption: &watch::Receiver<Interruption>) {
    let now = tokio::time::Instant::now();
    // The lock must not be held while it waits.
    let is_over = interruption.borrow().is_over(now);
    if !is_over {
        let _ = timeout(CATCH_UP, interruption.clone().wait_for(|interruption| interruption.is_over(now))).await;
    }
}

// === impl Feed ===

impl Feed {
    /// Watches with `client` for what the operator in `operator_namespace` needs, once it runs.
    pub fn new(client: Client, operator_namespace: &str) -> Self {
        let empty = Objects::in_cluster(operator_namespace).snapshot_after(&Snapshot::default());
        Self {
            client,
            operator_namespace: operator_namespace.to_owned(),
            gates: Gates::default(),
            snapshots: Arc::new(ArcSwap::from_pointee(empty)),
            published: watch::Sender::new(0),
            health: Arc::default(),
        }
    }

    /// The same, with SidecarSets judged by these gates.
    #[must_use]
    pub fn with_gates(self, gates: Gates) -> Self {
        Self { gates, ..self }
    }

    /// Where snapshots are published. Empty before the first: who answers then lets pods pass without their sidecars,
    /// so wait for [`Self::published`].
    pub fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshots)
    }

    /// How many snapshots were published; 0 before the first sync, and never again. Changes with each of them.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// How it is doing.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Watches until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            // Tasks of their own, since a list of thousands takes a while to read and compile. They end with the set.
            let mut tasks = JoinSet::new();
            let (sender, changes) = mpsc::channel(QUEUE);
            for kind in Kind::ALL {
                let health = Arc::clone(&self.health);
                let source = Part::source(kind, &self.operator_namespace, self.client.clone(), health);
                tasks.spawn(source.follow(sender.clone()));
            }
            drop(sender);
            let owner = Owner {
                objects: Objects::in_cluster(&self.operator_namespace).with_gates(self.gates),
                listed: BTreeSet::new(),
                snapshots: Arc::clone(&self.snapshots),
                published: self.published.clone(),
                health: Arc::clone(&self.health),
            };
            tasks.spawn(owner.run(changes));
            tokio::select! {
                () = shutdown.cancelled() => return,
                ended = tasks.join_next() => {
                    let error = ended.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
                    tracing::error!(%error, "watching the cluster crashed and starts again; the last state stays in use");
                }
            }
            drop(tasks);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(RECOVERY) => {}
            }
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("health", &self.health).finish_non_exhaustive()
    }
}

/// The one that has the objects.
struct Owner {
    objects: Objects,
    listed: BTreeSet<Kind>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    published: watch::Sender<u64>,
    health: Arc<Health>,
}

// === impl Owner ===

impl Owner {
    async fn run(mut self, mut changes: mpsc::Receiver<News>) {
        while let Some(news) = changes.recv().await {
            let mut heard = self.hear(news);
            // What came meanwhile goes into the same snapshot.
            for _ in 0..QUEUE {
                let Ok(news) = changes.try_recv() else { break };
                heard = heard.and(self.hear(news));
            }
            if self.listed.len() == Kind::ALL.len() {
                self.publish();
            }
            self.health.caught_up(heard);
            sleep(PAUSE).await;
        }
    }

    fn hear(&mut self, news: News) -> Heard {
        match news {
            News::Change(change) => self.take(change),
            News::Listed(change, began) => {
                let is_sets = matches!(change, Change::All(Kind::SidecarSets, _));
                self.take(change);
                return Heard { known: is_sets.then_some(began), is_current: false };
            }
            News::Current(kind) => return Heard { known: None, is_current: kind == Kind::SidecarSets },
        }
        Heard::default()
    }

    fn take(&mut self, change: Change) {
        let (Change::Put(kind, _) | Change::Gone(kind, _) | Change::All(kind, _)) = &change;
        let kind = *kind;
        if matches!(change, Change::All(..)) {
            self.listed.insert(kind);
            self.health.listed(kind);
        }
        for problem in self.objects.take(change) {
            tracing::warn!(watch = kind.name(), %problem, "an object cannot be used and is left out");
        }
    }

    fn publish(&self) {
        let previous = self.snapshots.load_full();
        let is_first = *self.published.borrow() == 0;
        if !is_first && self.objects.is_same(previous.objects()) {
            return;
        }
        let snapshot = Arc::new(self.objects.snapshot_after(&previous));
        report(&previous, &snapshot);
        self.snapshots.store(Arc::clone(&snapshot));
        // Only now: whoever hears that it is there takes it.
        self.health.published(&snapshot);
        self.published.send_modify(|count| *count += 1);
        if is_first {
            let (sets, broken) = (snapshot.sidecarsets().len(), snapshot.broken().len());
            tracing::info!(sets, broken, "the state of the cluster is known");
        }
    }
}

/// What was heard of the watch for SidecarSets.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// When the newest list was asked for.
    known: Option<tokio::time::Instant>,
    /// Whether it is up again.
    is_current: bool,
}

// === impl Heard ===

impl Heard {
    fn and(self, later: Self) -> Self {
        Self { known: later.known.or(self.known), is_current: self.is_current || later.is_current }
    }
}

/// Tells which SidecarSets broke, and which were mended.
fn report(previous: &Snapshot, snapshot: &Snapshot) {
    let before: BTreeMap<&str, &Broken> = previous.broken().collect();
    for (sidecarset, broken) in snapshot.broken() {
        if before.get(sidecarset) == Some(&broken) {
            continue;
        }
        let effect = match broken.effect {
            Effect::LeftOut => "it is injected into no pod",
            Effect::EarlierVersion => "its last good version stays in use",
            Effect::Refuses => "pods that it selects are refused",
        };
        tracing::warn!(sidecarset, reason = broken.reason, "a SidecarSet is not in order: {effect}");
    }
    let now: BTreeSet<&str> = snapshot.broken().map(|(name, _)| name).collect();
    for sidecarset in before.into_keys().filter(|name| !now.contains(name)) {
        tracing::info!(sidecarset, "a SidecarSet is in order again, or gone");
    }
}

/// What a [`Source`] watches, and whom it tells.
pub(crate) trait Subject: Send + Sync + 'static {
    /// One object, as it is read from the API server's JSON.
    type Object: DeserializeOwned + Clone + Send;
    /// What is sent when objects changed.
    type Change: Send;

    /// The version of an object; empty when it has none.
    fn version(object: &Self::Object) -> &str;
    /// What is kept of an object. Done page by page, so that a long list is never there as it came.
    fn trim(&self, object: Self::Object) -> Self::Object {
        object
    }
    /// How a change is told.
    fn change(&self, told: Told<Self::Object>) -> Self::Change;
    /// How a list is told that was asked for at this time.
    fn listed(&self, objects: Vec<Self::Object>, _began: tokio::time::Instant) -> Self::Change {
        self.change(Told::All(objects))
    }
    /// The API server said something: the watch is up.
    fn heard(&self);
    /// The watch began anew, with a list.
    fn restarted(&self);
    /// The watch is down.
    fn lost(&self, trouble: &Trouble);
    /// The watch has ended, in whatever way, and the next one is not up yet.
    fn interrupted(&self) {}
}

/// What a [`Source`] has to tell.
pub(crate) enum Told<T> {
    /// These are all there are.
    All(Vec<T>),
    /// This one is new, or is now like this.
    Put(T),
    /// This one, as it was last, is gone.
    Gone(T),
    /// The watch is up, and all that changed before was told.
    Current,
}

/// What a [`Line`] tells, object by object, as the API server's JSON.
pub(crate) enum Raw<'a> {
    /// A list begins, maybe anew: all there is follows as [`Raw::Item`].
    Listing,
    /// An object of the list.
    Item(&'a RawValue),
    /// The list is whole.
    Listed,
    /// This one is new, or is now like this.
    Put(&'a RawValue),
    /// This one, as it was last, is gone.
    Gone(&'a RawValue),
    /// The watch is up, and all that changed before was told.
    Current,
}

/// Whom a [`Line`] tells.
pub(crate) trait Sink: Send {
    /// Takes it, and says what version the object has, if there is one.
    fn take(&mut self, told: Raw<'_>) -> impl Future<Output = Result<String, serde_json::Error>> + Send;
    /// Whether nobody takes anything any more.
    fn is_closed(&self) -> bool {
        false
    }
    /// The API server said something: the watch is up.
    fn heard(&self);
    /// The watch began anew, with a list.
    fn restarted(&self);
    /// The watch is down.
    fn lost(&self, trouble: &Trouble);
    /// The watch has ended, in whatever way, and the next one is not up yet.
    fn interrupted(&self) {}
}

/// One watch, and who is told of it by a channel.
pub(crate) struct Source<S> {
    subject: S,
    line: Line,
}

/// One watch.
pub(crate) struct Line {
    client: Client,
    path: String,
    request: Request,
    lists: ListParams,
    watches: WatchParams,
    /// Whether only the metadata of objects are asked for.
    metadata_only: bool,
    /// Whether a watch that broke begins with a list, which tells at once what was missed; a version that is gone on from does
    /// so only if the next watch holds.
    lists_anew: bool,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// An event of a watch; the order of its members does not matter.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An object that tells nothing but a version.
#[derive(Deserialize)]
struct Bookmark {
    metadata: PageMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PageMetadata {
    resource_version: String,
    r#continue: String,
}

/// One kind of the feed's objects.
struct Part {
    kind: Kind,
    health: Arc<Health>,
}

// === impl Part ===

impl Part {
    fn source(kind: Kind, namespace: &str, client: Client, health: Arc<Health>) -> Source<Self> {
        let path = match kind {
            Kind::SidecarSets => format!("/apis/{}/sidecarsets", names::V1BETA1),
            Kind::Namespaces => "/api/v1/namespaces".to_owned(),
            Kind::Configuration => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Kind::Revisions => format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions"),
        };
        let mut source = Source::new(Self { kind, health }, path, client);
        let Line { lists, watches, metadata_only, lists_anew, .. } = &mut source.line;
        match kind {
            // They are few, and what is missed of them costs sidecars.
            Kind::SidecarSets => *lists_anew = true,
            Kind::Namespaces => *metadata_only = true,
            Kind::Configuration => {
                let name = format!("metadata.name={}", names::CONFIGURATION);
                (lists.field_selector, watches.field_selector) = (Some(name.clone()), Some(name));
            }
            Kind::Revisions => {
                let label = Some(names::REVISION_OF.to_owned());
                (lists.label_selector, watches.label_selector) = (label.clone(), label);
            }
        }
        source
    }
}

impl Subject for Part {
    type Object = Value;
    type Change = News;

    fn version(object: &Value) -> &str {
        object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    fn change(&self, told: Told<Value>) -> News {
        News::Change(match told {
            Told::All(objects) => Change::All(self.kind, objects),
            Told::Put(object) => Change::Put(self.kind, object),
            Told::Gone(object) => {
                Change::Gone(self.kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            }
            Told::Current => return News::Current(self.kind),
        })
    }

    fn listed(&self, objects: Vec<Value>, began: tokio::time::Instant) -> News {
        News::Listed(Change::All(self.kind, objects), began)
    }

    fn heard(&self) {
        self.health.heard(self.kind);
    }

    fn restarted(&self) {
        self.health.restarted(self.kind);
    }

    fn lost(&self, trouble: &Trouble) {
        self.health.lost(self.kind, trouble);
    }

    fn interrupted(&self) {
        self.health.interrupted(self.kind);
    }
}

// === impl Source ===

impl<S: Subject> Source<S> {
    /// Watches all objects under `path`, such as `/api/v1/pods`.
    pub(crate) fn new(subject: S, path: String, client: Client) -> Self {
        Self { subject, line: Line::new(path, client) }
    }

    /// Only those with these labels.
    pub(crate) fn labelled(mut self, selector: &str) -> Self {
        let selector = Some(selector.to_owned());
        (self.line.lists.label_selector, self.line.watches.label_selector) = (selector.clone(), selector);
        self
    }

    /// Only those with these fields.
    pub(crate) fn having(mut self, selector: &str) -> Self {
        self.line = self.line.having(selector);
        self
    }

    /// Lists in pages of this length, for who has little memory.
    pub(crate) fn paged(mut self, length: u32) -> Self {
        self.line = self.line.paged(length);
        self
    }

    /// Lists and watches, and begins again whatever happens, until nobody takes the changes any more.
    pub(crate) async fn follow(self, changes: mpsc::Sender<S::Change>) {
        let began = tokio::time::Instant::now();
        let mut channel = Channel { subject: self.subject, changes, listed: Vec::new(), began };
        self.line.follow(&mut channel).await;
    }
}

/// Tells by a channel.
struct Channel<S: Subject> {
    subject: S,
    changes: mpsc::Sender<S::Change>,
    /// What was listed so far.
    listed: Vec<S::Object>,
    /// When that began.
    began: tokio::time::Instant,
}

// === impl Channel ===

impl<S: Subject> Sink for Channel<S> {
    async fn take(&mut self, told: Raw<'_>) -> Result<String, serde_json::Error> {
        let mut version = String::new();
        let mut read = |raw: &RawValue| {
            let object = serde_json::from_str(raw.get())?;
            S::version(&object).clone_into(&mut version);
            Ok::<_, serde_json::Error>(object)
        };
        let told = match told {
            Raw::Listing => {
                self.listed.clear();
                self.began = tokio::time::Instant::now();
                return Ok(version);
            }
            Raw::Item(raw) => {
                self.listed.push(self.subject.trim(read(raw)?));
                return Ok(version);
            }
            Raw::Listed => {
                let listed = self.subject.listed(std::mem::take(&mut self.listed), self.began);
                let _ = self.changes.send(listed).await;
                return Ok(version);
            }
            Raw::Put(raw) => Told::Put(self.subject.trim(read(raw)?)),
            Raw::Gone(raw) => Told::Gone(read(raw)?),
            Raw::Current => Told::Current,
        };
        let _ = self.changes.send(self.subject.change(told)).await;
        Ok(version)
    }

    fn is_closed(&self) -> bool {
        self.changes.is_closed()
    }

    fn heard(&self) {
        self.subject.heard();
    }

    fn restarted(&self) {
        self.subject.restarted();
    }

    fn lost(&self, trouble: &Trouble) {
        self.subject.lost(trouble);
    }

    fn interrupted(&self) {
        self.subject.interrupted();
    }
}

// === impl Line ===

impl Line {
    /// Watches all objects under `path`, such as `/api/v1/pods`.
    pub(crate) fn new(path: String, client: Client) -> Self {
        let lists = ListParams::default().limit(PAGE);
        let watches = WatchParams::default().timeout(RENEWAL);
        Self {
            client,
            request: Request::new(path.clone()),
            path,
            lists,
            watches,
            metadata_only: false,
            lists_anew: false,
        }
    }

    /// Only those with these fields.
    pub(crate) fn having(mut self, selector: &str) -> Self {
        let selector = Some(selector.to_owned());
        (self.lists.field_selector, self.watches.field_selector) = (selector.clone(), selector);
        self
    }

    /// Only their metadata.
    pub(crate) fn of_metadata(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// Lists in pages of this length: what is read at a time, and takes memory.
    pub(crate) fn paged(mut self, length: u32) -> Self {
        self.lists.limit = Some(length);
        self
    }

    /// Lists and watches, and begins again whatever happens, until nobody is there to be told. May be dropped anywhere.
    pub(crate) async fn follow(&self, sink: &mut impl Sink) {
        let mut version = None;
        let mut delays = delays();
        let mut prompt = PROMPT;
        while !sink.is_closed() {
            let began = Instant::now();
            let ended = self.attempt(&mut version, sink).await;
            sink.interrupted();
            let was_steady = began.elapsed() >= STEADY;
            if was_steady {
                delays = self::delays();
                prompt = PROMPT;
            }
            match ended {
                Ok(Ended::InTime) if was_steady => continue,
                Ok(ended) => {
                    if self.lists_anew || matches!(ended, Ended::Expired) {
                        version = None;
                        sink.restarted();
                    }
                    if prompt > 0 {
                        prompt -= 1;
                        continue;
                    }
                }
                Err(trouble) => {
                    // Who cannot be reached has said nothing about the version. Whoever answers otherwise may mean it:
                    // after a restore of its data, a version can be one of the future.
                    if self.lists_anew || !matches!(trouble, Trouble::Unreachable(_) | Trouble::Slow) {
                        version = None;
                    }
                    sink.lost(&trouble);
                }
            }
            sleep(delays.next().unwrap_or(DELAYS.1)).await;
        }
    }

    /// Lists, unless there is a version to go on from, and watches.
    async fn attempt(&self, version: &mut Option<String>, sink: &mut impl Sink) -> Result<Ended, Trouble> {
        let from = if let Some(version) = version {
            version
        } else {
            let Some(listed) = self.list(sink).await? else { return Ok(Ended::Expired) };
            sink.heard();
            sink.take(Raw::Listed).await.map_err(unreadable)?;
            if sink.is_closed() {
                return Ok(Ended::InTime);
            }
            version.insert(listed)
        };
        self.watch(from, sink).await
    }

    /// Tells all objects, page by page; the version of the list. `None` when it expired before its last page.
    async fn list(&self, sink: &mut impl Sink) -> Result<Option<String>, Trouble> {
        let mut params = self.lists.clone();
        sink.take(Raw::Listing).await.map_err(unreadable)?;
        for _ in 0..PAGES {
            let list =
                if self.metadata_only { self.request.list_metadata(&params) } else { self.request.list(&params) };
            let list = list.map_err(|error| Trouble::Unreadable(error.to_string()))?;
            let text = match self.answer(self.client.request_text(list)).await {
                Err(Failure::Expired) => return Ok(None),
                Err(Failure::Trouble(trouble)) => return Err(trouble),
                Ok(text) => text,
            };
            let page: Page<'_> = serde_json::from_str(&text).map_err(unreadable)?;
            for object in page.items.into_iter().flatten() {
                sink.take(Raw::Item(object)).await.map_err(unreadable)?;
            }
            let PageMetadata { resource_version, r#continue } = page.metadata;
            if r#continue.is_empty() {
                return Ok(Some(resource_version));
            }
            params.continue_token = Some(r#continue);
        }
        Err(Trouble::Unreadable(format!("a list of more than {PAGES} pages")))
    }

    /// Follows `version` to what is newest, until the watch ends.
    async fn watch(&self, version: &mut String, sink: &mut impl Sink) -> Result<Ended, Trouble> {
        let watch = if self.metadata_only {
            self.request.watch_metadata(&self.watches, version)
        } else {
            self.request.watch(&self.watches, version)
        };
        let watch = watch.map_err(|error| Trouble::Unreadable(error.to_string()))?;
        // Not kube's own events: they own what they are read into, and need the type before the object.
        let body = match self.answer(self.client.request_stream(watch)).await {
            Err(Failure::Expired) => return Ok(Ended::Expired),
            Err(Failure::Trouble(trouble)) => return Err(trouble),
            Ok(body) => body,
        };
        let mut lines = Lines { reader: pin!(body), line: Vec::new(), is_whole: false };
        let limit = Duration::from_secs(RENEWAL.into()) + GRACE;
        let answered = Instant::now();
        let mut is_current = false;
        loop {
            sink.heard();
            let patience = if is_current { limit } else { SETTLED.saturating_sub(answered.elapsed()) };
            let line = match timeout(patience, lines.next()).await {
                Err(_) if !is_current => {
                    is_current = true;
                    sink.take(Raw::Current).await.map_err(unreadable)?;
                    continue;
                }
                Err(_) => return Err(Trouble::Slow),
                Ok(Ok(None)) => return Ok(Ended::InTime),
                Ok(Ok(Some(line))) => line,
                Ok(Err(error)) if is_cut(&error) => return Ok(Ended::InTime),
                Ok(Err(error)) => return Err(Trouble::Unreachable(error.to_string())),
            };
            let event: Event<'_> = match serde_json::from_slice(line) {
                Ok(event) => event,
                // The connection was cut in the middle of a line.
                Err(error) if error.is_eof() => continue,
                Err(error) => match serde_json::from_slice::<Box<kube::core::Status>>(line) {
                    Ok(status) if status.code != 0 => return self.refused(status),
                    _ => return Err(unreadable(error)),
                },
            };
            let told = match &*event.r#type {
                "ADDED" | "MODIFIED" => Raw::Put(event.object),
                "DELETED" => Raw::Gone(event.object),
                "BOOKMARK" => {
                    let bookmark: Bookmark = serde_json::from_str(event.object.get()).map_err(unreadable)?;
                    advance(version, bookmark.metadata.resource_version);
                    continue;
                }
                "ERROR" => {
                    return self.refused(serde_json::from_str(event.object.get()).map_err(unreadable)?);
                }
                other => return Err(Trouble::Unreadable(format!("an event of the unknown type {other}"))),
            };
            advance(version, sink.take(told).await.map_err(unreadable)?);
        }
    }

    /// How a watch ends that the API server refuses to go on with.
    fn refused(&self, status: Box<kube::core::Status>) -> Result<Ended, Trouble> {
        match self.failure(&kube::Error::Api(status)) {
            Failure::Expired => Ok(Ended::Expired),
            Failure::Trouble(trouble) => Err(trouble),
        }
    }

    async fn answer<T>(&self, asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
        match timeout(ANSWER, asked).await {
            Err(_) => Err(Failure::Trouble(Trouble::Slow)),
            Ok(answer) => answer.map_err(|error| self.failure(&error)),
        }
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        Failure::Trouble(match error {
            kube::Error::Api(status) => match status.code {
                410 => return Failure::Expired,
                404 => Trouble::NotServed(self.path.clone()),
                code => Trouble::Refused(format!("{code} {}", status.message)),
            },
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                Trouble::Unreachable(causes(error))
            }
            _ => Trouble::Unreadable(causes(error)),
        })
    }
}

/// Why there is no answer.
enum Failure {
    /// What was asked about is too old.
    Expired,
    Trouble(Trouble),
}

fn advance(version: &mut String, newer: String) {
    if !newer.is_empty() {
        *version = newer;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "of map_err")]
fn unreadable(error: serde_json::Error) -> Trouble {
    Trouble::Unreadable(error.to_string())
}

/// Whether a connection ended between two messages or in one; an API server that goes away does so.
fn is_cut(error: &std::io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let is_end = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
        if error.downcast_ref().is_some_and(is_end) || error.to_string().contains("unexpected EOF during chunk") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The lines of an answer.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    /// Whether the line was handed out.
    is_whole: bool,
}

// === impl Lines ===

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next one, without its end. May be dropped while it waits, and called again.
    async fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        if std::mem::take(&mut self.is_whole) {
            self.line.clear();
        }
        loop {
            let chunk = self.reader.fill_buf().await?;
            let end = memchr::memchr(b'\n', chunk);
            if chunk.is_empty() && self.line.is_empty() {
                return Ok(None);
            }
            self.is_whole = chunk.is_empty() || end.is_some();
            self.line.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
            let read = end.map_or(chunk.len(), |end| end + 1);
            self.reader.consume_unpin(read);
            if self.is_whole {
                return Ok(Some(&self.line));
            }
            if self.line.len() > LINE {
                return Err(std::io::Error::other(format!("an event of more than {LINE} bytes")));
            }
        }
    }
}

fn delays() -> ExponentialBackoff {
    let (first, longest) = DELAYS;
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_factor(1.3)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The innermost causes are what a person needs: who refused what.
fn causes(error: &kube::Error) -> String {
    let mut told = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told.push(text);
        }
        cause = error.source();
    }
    if told.is_empty() { error.to_string() } else { told.join(": ") }
}

// === impl Health ===

impl Health {
    /// What is missing for the first sync, a line for each watch. Empty once it was reached, and from then on.
    pub fn missing(&self) -> Vec<String> {
        let state = self.state();
        if state.synced {
            return Vec::new();
        }
        let missing = Kind::ALL.into_iter().zip(&state.lines).filter(|(_, line)| !line.listed);
        missing
            .map(|(kind, line)| {
                let why = line.trouble.as_deref().unwrap_or("waiting for the first answer of the API server");
                format!("{}: {why}", kind.name())
            })
            .collect()
    }

    /// Whether the first sync was reached.
    pub fn is_synced(&self) -> bool {
        self.state().synced
    }

    /// How long ago the API server last confirmed all that is known: within a minute while it is there. `None` before
    /// the first sync.
    pub fn age(&self) -> Option<Duration> {
        let state = self.state();
        let oldest = state.lines.iter().map(|line| line.heard).min().flatten();
        oldest.filter(|_| state.synced).map(|heard| heard.elapsed())
    }

    /// How often each watch broke and began again. That one is renewed after its time does not count.
    pub fn restarts(&self) -> [(&'static str, u64); Kind::ALL.len()] {
        Kind::ALL.map(|kind| (kind.name(), self.restarts[kind as usize].load(Ordering::Relaxed)))
    }

    /// How many SidecarSets are in use.
    pub fn sidecarsets(&self) -> usize {
        self.sidecarsets.load(Ordering::Relaxed)
    }

    /// How many SidecarSets are not in order.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self, kind: Kind) {
        self.state().lines[kind as usize].listed = true;
    }

    fn published(&self, snapshot: &Snapshot) {
        self.sidecarsets.store(snapshot.sidecarsets().len(), Ordering::Relaxed);
        self.broken.store(snapshot.broken().len(), Ordering::Relaxed);
        self.state().synced = true;
    }

    /// How the watch for SidecarSets is doing; see [`caught_up`].
    pub fn interruption(&self) -> watch::Receiver<Interruption> {
        self.interrupted.subscribe()
    }

    fn interrupted(&self, kind: Kind) {
        if kind == Kind::SidecarSets {
            self.interrupted.send_if_modified(|interruption| {
                let is_news = interruption.since.is_none();
                interruption.since.get_or_insert_with(tokio::time::Instant::now);
                is_news
            });
        }
    }

    /// What was heard is published.
    fn caught_up(&self, heard: Heard) {
        self.interrupted.send_if_modified(|interruption| {
            let before = *interruption;
            interruption.known = heard.known.or(interruption.known);
            if heard.is_current {
                interruption.since = None;
            }
            *interruption != before
        });
    }

    fn restarted(&self, kind: Kind) {
        self.restarts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The API server said something: the watch is up.
    fn heard(&self, kind: Kind) {
        if let Some(outage) = self.note_sign_of_life(kind) {
            tracing::info!(seconds = outage.as_secs(), "all watches are up again");
        }
    }

    /// How long an outage took that is over now: when all are up.
    fn note_sign_of_life(&self, kind: Kind) -> Option<Duration> {
        let mut state = self.state();
        let line = &mut state.lines[kind as usize];
        line.heard = Some(Instant::now());
        line.trouble = None;
        let all_up = state.lines.iter().all(|line| line.trouble.is_none());
        if all_up { state.outage.take().map(|since| since.elapsed()) } else { None }
    }

    fn lost(&self, kind: Kind, trouble: &Trouble) {
        self.restarted(kind);
        if self.note_trouble(kind, trouble) {
            let meanwhile = if self.is_synced() { "the last state stays in use" } else { "not ready until it is up" };
            tracing::warn!(watch = kind.name(), reason = %trouble, "a watch is down: {meanwhile}");
        }
    }

    /// Whether it is to be told: once for an outage, and besides when the API server answers something particular.
    fn note_trouble(&self, kind: Kind, trouble: &Trouble) -> bool {
        let reason = trouble.to_string();
        let is_shared = matches!(trouble, Trouble::Unreachable(_) | Trouble::Slow);
        let mut state = self.state();
        let is_first = state.outage.is_none();
        state.outage.get_or_insert_with(Instant::now);
        let line = &mut state.lines[kind as usize];
        let is_news = is_first || (!is_shared && line.trouble.as_ref() != Some(&reason));
        line.trouble = Some(reason);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::body::Body;
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use futures::{StreamExt as _, stream};
    use serde_json::json;

    use super::*;

    /// An API server that answers each request for SidecarSets with the next of `answers`, and knows nothing else.
    fn api_server(answers: Vec<(StatusCode, String)>) -> Client {
        let asked = Arc::new(AtomicUsize::new(0));
        let answers = Arc::new(answers);
        let answer = move |uri: Uri| {
            let text = match uri.path().ends_with("/sidecarsets") {
                true => answers.get(asked.fetch_add(1, Ordering::Relaxed)).cloned(),
                false if uri.query().is_some_and(|query| query.contains("watch=true")) => None,
                false => Some((StatusCode::OK, list(&[]))),
            };
            std::future::ready(respond(text))
        };
        Client::new(Router::new().fallback(answer), "default")
    }

    /// A watch never ends by itself.
    fn respond(answer: Option<(StatusCode, String)>) -> Response {
        let Some((status, text)) = answer else {
            return Body::from_stream(stream::pending::<Result<String, std::io::Error>>()).into_response();
        };
        let goes_on = text.ends_with('\n');
        let text = stream::iter([Ok::<_, std::io::Error>(text)]);
        let body = if goes_on { Body::from_stream(text.chain(stream::pending())) } else { Body::from_stream(text) };
        (status, body).into_response()
    }

    fn list(items: &[Value]) -> String {
        json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string()
    }

    fn set(name: &str, spec: &Value) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": "2"}, "spec": spec})
    }

    fn events(events: &[(&str, Value)]) -> (StatusCode, String) {
        let lines = events.iter().map(|(r#type, object)| json!({"type": r#type, "object": object}).to_string() + "\n");
        (StatusCode::OK, lines.collect())
    }

    fn failure(code: u16) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code})
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        snapshot.sidecarsets().map(|set| set.name.clone()).collect()
    }

    /// Runs a feed until `condition` holds of its last snapshot and of its health.
    async fn run_until(client: Client, condition: impl Fn(&Snapshot, &Health) -> bool) -> Result<(), String> {
        let feed = Feed::new(client, names::DEFAULT_NAMESPACE);
        let (snapshots, health) = (feed.snapshots(), feed.health());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(feed.run(shutdown.clone()));
        let reached = timeout(Duration::from_secs(5), async {
            while !condition(&snapshots.load(), &health) {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        shutdown.cancel();
        running.await.unwrap();
        reached.map_err(|_| format!("{:?} {health:?}", names(&snapshots.load())))
    }

    #[tokio::test]
    async fn what_vanished_while_a_watch_was_down_is_removed() {
        let both = [set("mesh", &json!({})), set("other", &json!({}))];
        let client = api_server(vec![
            (StatusCode::OK, list(&both)),
            events(&[("ERROR", failure(410))]),
            (StatusCode::OK, list(&both[1..])),
        ]);
        let seen = |snapshot: &Snapshot, health: &Health| names(snapshot) == ["other"] && health.restarts()[0].1 == 1;
        run_until(client, seen).await.unwrap();
    }

    #[tokio::test]
    async fn an_interruption_lasts_until_the_watch_is_up_again_and_all_is_published() {
        let client = api_server(vec![
            (StatusCode::OK, list(&[])),
            (StatusCode::OK, String::new()),
            (StatusCode::GONE, failure(410).to_string()),
            (StatusCode::OK, list(&[set("mesh", &json!({}))])),
        ]);
        let told = Mutex::new(Vec::new());
        let seen = |snapshot: &Snapshot, health: &Health| {
            let interrupted = health.interruption().borrow().since.is_some();
            told.lock().unwrap().push((interrupted, names(snapshot).len()));
            !interrupted && names(snapshot) == ["mesh"]
        };
        run_until(client, seen).await.unwrap();
        let told = told.into_inner().unwrap();
        assert!(!told.contains(&(true, 1)) || told.ends_with(&[(false, 1)]), "{told:?}");
    }

    #[tokio::test]
    async fn a_version_that_the_api_server_refuses_is_given_up() {
        let client = api_server(vec![
            (StatusCode::OK, list(&[set("mesh", &json!({}))])),
            (StatusCode::GATEWAY_TIMEOUT, failure(504).to_string()),
            (StatusCode::OK, list(&[set("other", &json!({}))])),
        ]);
        run_until(client, |snapshot, _| names(snapshot) == ["other"]).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_in_an_object_stops_a_watch() {
        let garbage = [json!(null), json!(7), json!({"metadata": {"name": 7}}), set("bad", &json!({"containers": 1}))];
        let mut later: Vec<(&str, Value)> = garbage.iter().map(|object| ("MODIFIED", object.clone())).collect();
        later.extend([("DELETED", json!({})), ("ADDED", set("later", &json!({})))]);
        let client = api_server(vec![(StatusCode::OK, list(&garbage)), events(&later)]);
        run_until(client, |snapshot, health| names(snapshot) == ["later"] && health.broken() == 1).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_missing_is_told_until_it_is_there() {
        let answers = vec![
            (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
            (StatusCode::FORBIDDEN, failure(403).to_string()),
        ];
        let told = Mutex::new(BTreeSet::new());
        let seen = |_: &Snapshot, health: &Health| {
            told.lock().unwrap().extend(health.missing());
            health.is_synced() && health.missing().is_empty() && health.age().is_some()
        };
        let answers = answers.into_iter().chain([(StatusCode::OK, list(&[]))]).collect();
        run_until(api_server(answers), seen).await.unwrap();
        let told = told.into_inner().unwrap();
        for line in [
            "sidecarsets: the API server does not serve /apis/apps.kruise.io/v1beta1/sidecarsets; install the CRDs",
            "sidecarsets: the API server answers: 403 no",
        ] {
            assert!(told.contains(line), "{told:?}");
        }
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let health = Health::default();
        let away = || Trouble::Unreachable("connection refused".to_owned());
        assert!(health.note_trouble(Kind::Namespaces, &away()));
        for kind in Kind::ALL {
            assert!(!health.note_trouble(kind, &away()), "{kind:?}");
        }
        assert!(health.note_trouble(Kind::Revisions, &Trouble::Refused("403".to_owned())), "only this one says so");
        assert!(!health.note_trouble(Kind::Revisions, &Trouble::Refused("403".to_owned())));
        let over: Vec<bool> = Kind::ALL.map(|kind| health.note_sign_of_life(kind).is_some()).into();
        assert_eq!(over, [false, false, false, true]);
        assert!(health.note_trouble(Kind::Namespaces, &away()), "the next outage");
    }
}
