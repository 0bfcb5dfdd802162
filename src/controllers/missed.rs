//! Finds pods that should have been injected and were not: created while the webhook was away, or under `Ignore`.
//!
//! Run it only where the Lease is held. It hears of pods by the [one watch of them](crate::controllers::pods), and lists
//! their metadata when what they are judged by has changed, or missed pods may have gone unheard. It keeps nothing of a
//! pod that is in order, and changes no pod: it counts, writes a condition on each SidecarSet by server-side apply under a
//! field owner of its own, and one event when something was missed or no longer is. What it knows comes from the API
//! server; a successor goes on from there.

mod judge;
pub mod ledger;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use k8s_openapi::api::events::v1::Event as KubeEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::judge::Judge;
use self::ledger::Said;
use crate::api::names;
use crate::controllers::pods::{Head, Hub, Listener, Told};
use crate::sidecarset::audit::{self, Away, CONFIGURATION, LiveSet, Registration};
use crate::store::watch::{Line, Raw, Sink, Trouble};
use crate::telemetry::chain;

/// Owner of the condition's fields.
pub const FIELD_OWNER: &str = "outrigger-missed";
/// Who reports the events.
const CONTROLLER: &str = "outrigger.io/missed";
/// Events about objects without a namespace live here.
const EVENTS_NAMESPACE: &str = "default";
/// Objects of one page of a list.
const PAGE: u32 = 100;
/// Finished pods have no use for a sidecar.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Pods that wait to be judged.
const QUEUE: usize = 16;
/// No single request may take longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Conditions that are written in one go.
const BURST: usize = 20;
/// How often it looks whether something is due.
const TICK: Duration = Duration::from_millis(250);
/// Longest pause after errors.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Bytes of an event's note that the API server takes.
const NOTE_LIMIT: usize = 1024;

/// How patient the loop is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator, for the registration that is assumed when there may be none to read.
    pub operator_namespace: String,
    /// Changes within this time are answered together.
    pub debounce: Duration,
    /// Least time between two listings of all pods.
    pub listing_interval: Duration,
    /// Least time between two writes to one SidecarSet.
    pub write_interval: Duration,
    /// Least time between two events that more pods were missed by one SidecarSet.
    pub event_interval: Duration,
    /// How often the registration of the webhook is read.
    pub registration_interval: Duration,
}

/// `outrigger_missed_pods`, and the same by reason.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    total: Gauge,
    by_reason: Family<[(&'static str, &'static str); 1], Gauge>,
}

/// Everything the loop knows.
struct Watch {
    client: Client,
    settings: Settings,
    gauges: Gauges,
    judge: Arc<Judging>,
    sets: BTreeMap<String, Known>,
    /// Names that `InitApply` brought since `Init`.
    listed_sets: HashSet<String>,
    listed_namespaces: HashSet<String>,
    are_sets_synced: bool,
    are_namespaces_synced: bool,
    listing: Listing,
    /// When all pods are to be listed again.
    list_at: Option<Instant>,
    listed_at: Option<Instant>,
    /// When what was found is to be told.
    tell_at: Option<Instant>,
    pause: Duration,
}

/// The judge, to whom the watch of pods and the loop speak.
struct Judging {
    judge: Mutex<Judge>,
    /// The watch of pods told all there are, and none of those that went before.
    has_gap: AtomicBool,
}

/// A SidecarSet.
struct Known {
    name: Arc<str>,
    uid: String,
    generation: i64,
    /// What decides which pods it selects, and since when.
    selection: String,
    since: Option<Timestamp>,
    /// When that changed; pods that were listed before were judged by something else.
    changed_at: Instant,
    condition: Value,
    /// The counters of its status, which its schema requires.
    counters: Value,
    write_after: Option<Instant>,
    /// How many missed pods the last event told of, and when the next may be written.
    told: usize,
    event_after: Option<Instant>,
}

/// How far pods were listed with what they are judged by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    None,
    UnderWay,
    Complete,
}

/// A listing of the metadata of all pods. Object by object, since with all that was managed in them they are large when
/// read.
struct Pods {
    news: mpsc::Receiver<PodNews>,
    /// Ends with this.
    _task: JoinSet<()>,
}

enum PodNews {
    /// One, as the API server's JSON.
    Put(Box<str>),
    Listed,
}

/// What tells of pods.
struct PodTeller {
    news: mpsc::Sender<PodNews>,
    has_told: bool,
    is_down: AtomicBool,
}

/// Listens to `hub`, and runs until `shutdown`. Errors are logged and tried again, for ever.
pub fn run(
    client: Client,
    settings: Settings,
    gauges: Gauges,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let mut watch = Watch::new(client, settings, gauges.clone());
    hub.listen(Arc::clone(&watch.judge) as Arc<dyn Listener>);
    async move {
        // It can be stopped anywhere: what it has not told, a successor finds again.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = watch.work() => {}
        }
        // Whoever leads next counts.
        gauges.set(0, [0; Away::REASONS.len()]);
    }
}

/// The kind that is watched.
fn sidecarsets() -> ApiResource {
    ApiResource {
        group: names::GROUP.to_owned(),
        version: "v1beta1".to_owned(),
        api_version: names::V1BETA1.to_owned(),
        kind: "SidecarSet".to_owned(),
        plural: "sidecarsets".to_owned(),
    }
}

// === impl Settings ===

impl Settings {
    /// What suits a cluster.
    pub fn new(operator_namespace: &str) -> Self {
        Self {
            operator_namespace: operator_namespace.to_owned(),
            debounce: Duration::from_secs(3),
            listing_interval: Duration::from_mins(1),
            write_interval: Duration::from_secs(15),
            event_interval: Duration::from_mins(5),
            registration_interval: Duration::from_secs(30),
        }
    }
}

// === impl Gauges ===

impl Gauges {
    /// Registers the gauges under the prefix of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Pods that were created without a SidecarSet that selects them, because the webhook was away; told by the leader";
        registry.register("missed_pods", help, self.total.clone());
        registry.register("missed_pods_by_reason", "The same by where the webhook was", self.by_reason.clone());
        self.set(0, [0; Away::REASONS.len()]);
    }

    fn set(&self, total: usize, by_reason: [usize; Away::REASONS.len()]) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.total.set(number(total));
        for (reason, count) in Away::REASONS.into_iter().zip(by_reason) {
            self.by_reason.get_or_create(&[("reason", reason)]).set(number(count));
        }
    }
}

// === impl Pods ===

impl Pods {
    /// Nothing is told.
    fn none() -> Self {
        // Closed, so that nobody waits for it.
        Self { news: mpsc::channel(1).1, _task: JoinSet::new() }
    }

    /// Lists them once, however often that must be tried.
    fn list(client: Client) -> Self {
        let (sender, news) = mpsc::channel(QUEUE);
        let mut teller = PodTeller { news: sender, has_told: false, is_down: AtomicBool::new(false) };
        let line = Line::new("/api/v1/pods".to_owned(), client).having(RUNNING).paged(PAGE).of_metadata();
        let mut task = JoinSet::new();
        task.spawn(async move { line.follow(&mut teller).await });
        Self { news, _task: task }
    }
}

// === impl PodTeller ===

impl Sink for PodTeller {
    async fn take(&mut self, told: Raw<'_>) -> Result<String, serde_json::Error> {
        let news = match told {
            Raw::Item(raw) => PodNews::Put(raw.get().into()),
            Raw::Listed => PodNews::Listed,
            // It may be listed in several attempts; and is closed before anything is watched.
            Raw::Listing | Raw::Put(_) | Raw::Gone(_) | Raw::Current => return Ok(String::new()),
        };
        self.has_told |= matches!(news, PodNews::Listed);
        let _ = self.news.send(news).await;
        Ok(String::new())
    }

    fn is_closed(&self) -> bool {
        self.has_told || self.news.is_closed()
    }

    fn heard(&self) {
        self.is_down.store(false, Ordering::Relaxed);
    }

    fn restarted(&self) {}

    fn lost(&self, trouble: &Trouble) {
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %trouble, "pods cannot be listed, so none is known to be missed; tried again");
        }
    }
}

// === impl Judging ===

impl Judging {
    fn lock(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Judging {
    fn told(&self, told: &Told<'_>) {
        match told {
            Told::Listing => {}
            Told::Put { head, raw } => self.lock().told(head, raw),
            Told::Gone { head } => self.lock().gone(&head.uid),
            Told::Listed => self.has_gap.store(true, Ordering::Relaxed),
        }
    }
}

// === impl Watch ===

impl Watch {
    fn new(client: Client, settings: Settings, gauges: Gauges) -> Self {
        let registration = Registration::assumed(&settings.operator_namespace);
        Self {
            client,
            settings,
            gauges,
            judge: Arc::new(Judging { judge: Mutex::new(Judge::new(registration)), has_gap: AtomicBool::new(false) }),
            sets: BTreeMap::new(),
            listed_sets: HashSet::new(),
            listed_namespaces: HashSet::new(),
            are_sets_synced: false,
            are_namespaces_synced: false,
            listing: Listing::None,
            list_at: None,
            listed_at: None,
            tell_at: None,
            pause: Duration::ZERO,
        }
    }

    async fn work(&mut self) {
        let client = self.client.clone();
        let config = || watcher::Config::default().page_size(PAGE);
        let sets = watcher(Api::<DynamicObject>::all_with(client.clone(), &sidecarsets()), config());
        let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), config());
        let (mut sets, mut namespaces) = (sets.default_backoff().boxed(), namespaces.default_backoff().boxed());
        let mut pods = Pods::none();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut registration = tokio::time::interval(self.settings.registration_interval);
        registration.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = sets.next() => self.on_set(event),
                Some(event) = namespaces.next() => self.on_namespace(event),
                news = pods.news.recv(), if self.listing == Listing::UnderWay => self.on_pod(news),
                _ = registration.tick() => self.read_registration().await,
                _ = ticks.tick() => {
                    self.look();
                    if self.is_listing_due() {
                        self.read_registration().await;
                        // What the watch tells from now on is newer than the list.
                        self.begin_listing();
                        pods = Pods::list(client.clone());
                    }
                    if self.is_telling_due() {
                        self.tell().await;
                    }
                }
            }
        }
    }

    /// What the watch of pods has told.
    fn look(&mut self) {
        let has_gap = self.judge.has_gap.swap(false, Ordering::Relaxed);
        let mut judge = self.judge.lock();
        let (has_news, is_empty) = (judge.take_news(), judge.ledger.is_empty());
        drop(judge);
        if has_gap && (self.listing == Listing::UnderWay || !is_empty) {
            self.want_listing();
        }
        if has_news {
            self.want_telling();
        }
    }

    // --- SidecarSets ---

    fn on_set(&mut self, event: watcher::Result<Event<DynamicObject>>) {
        match event {
            Ok(Event::Init) => self.listed_sets.clear(),
            Ok(Event::InitApply(set)) => {
                self.listed_sets.insert(set.metadata.name.clone().unwrap_or_default());
                self.apply_set(set);
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut self.listed_sets);
                let gone: Vec<String> = self.sets.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                for name in gone {
                    self.remove_set(&name);
                }
                self.are_sets_synced = true;
                self.want_listing();
            }
            Ok(Event::Apply(set)) => self.apply_set(set),
            Ok(Event::Delete(set)) => self.remove_set(&set.metadata.name.unwrap_or_default()),
            Err(error) => tracing::warn!(error = chain(&error), "SidecarSets cannot be watched; tried again"),
        }
    }

    fn apply_set(&mut self, object: DynamicObject) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let document = serde_json::to_value(object).unwrap_or_default();
        let condition = audit::condition(&document).cloned().unwrap_or_default();
        let counters = counters(&document);
        let mut set = match LiveSet::read(document) {
            Ok(set) => set,
            Err(problem) => {
                tracing::warn!(sidecarset = name, %problem, "cannot be read, so its pods are not looked after");
                self.remove_set(&name);
                return;
            }
        };
        let before = self.sets.get(&name).filter(|before| before.uid == set.uid);
        set.selects_since = since(before, &set, crate::app::now());
        let is_same =
            before.is_some_and(|before| before.selection == set.selection && before.since == set.selects_since);
        let known = Known {
            name: name.as_str().into(),
            uid: set.uid.clone(),
            generation: set.generation,
            selection: set.selection.clone(),
            since: set.selects_since,
            changed_at: before.filter(|_| is_same).map_or_else(Instant::now, |before| before.changed_at),
            condition,
            counters,
            write_after: before.and_then(|before| before.write_after),
            told: before.map_or(0, |before| before.told),
            event_after: before.and_then(|before| before.event_after),
        };
        self.judge.lock().put_set(&name, set);
        self.sets.insert(name, known);
        if !is_same {
            self.want_listing();
        }
        self.want_telling();
    }

    fn remove_set(&mut self, name: &str) {
        self.judge.lock().remove_set(name);
        if self.sets.remove(name).is_some() {
            self.want_listing();
        }
    }

    // --- Namespaces ---

    fn on_namespace(&mut self, event: watcher::Result<Event<PartialObjectMeta<Namespace>>>) {
        match event {
            Ok(Event::Init) => self.listed_namespaces.clear(),
            Ok(Event::InitApply(namespace)) => {
                self.listed_namespaces.insert(namespace.metadata.name.clone().unwrap_or_default());
                self.apply_namespace(namespace.metadata);
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut self.listed_namespaces);
                self.judge.lock().retain_namespaces(|name| listed.contains(name));
                self.are_namespaces_synced = true;
                self.want_listing();
            }
            Ok(Event::Apply(namespace)) => self.apply_namespace(namespace.metadata),
            Ok(Event::Delete(namespace)) => {
                let gone = namespace.metadata.name.unwrap_or_default();
                self.judge.lock().retain_namespaces(|name| name != gone);
            }
            Err(error) => tracing::warn!(error = chain(&error), "Namespaces cannot be watched; tried again"),
        }
    }

    fn apply_namespace(&mut self, object: ObjectMeta) {
        if self.judge.lock().put_namespace(object) {
            self.want_listing();
        }
    }

    // --- pods ---

    /// Takes what the listing brings; `None` when it broke off.
    fn on_pod(&mut self, news: Option<PodNews>) {
        match news {
            Some(PodNews::Put(raw)) => self.judge.lock().listed(&Head::read(&raw), &raw),
            Some(PodNews::Listed) => {
                let is_sure = self.judge.lock().complete();
                self.listing = Listing::Complete;
                if !is_sure {
                    self.want_listing();
                }
            }
            None => {
                tracing::error!("the listing of pods crashed and is made again");
                self.listing = Listing::None;
                self.want_listing();
            }
        }
    }

    fn want_listing(&mut self) {
        self.list_at.get_or_insert_with(|| Instant::now() + self.settings.debounce);
    }

    fn want_telling(&mut self) {
        self.tell_at.get_or_insert_with(|| Instant::now() + self.settings.debounce);
    }

    fn is_listing_due(&self) -> bool {
        let now = Instant::now();
        let rested = self.listed_at.is_none_or(|at| at + self.settings.listing_interval <= now);
        self.are_sets_synced
            && self.are_namespaces_synced
            && self.listing != Listing::UnderWay
            && rested
            && self.list_at.is_some_and(|at| at <= now)
    }

    fn begin_listing(&mut self) {
        self.list_at = None;
        self.listed_at = Some(Instant::now());
        self.listing = Listing::UnderWay;
        self.judge.lock().begin();
        tracing::debug!(sidecarsets = self.sets.len(), "listing all pods to see which were missed");
    }

    async fn read_registration(&mut self) {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        match patiently(api.get_opt(CONFIGURATION)).await {
            Ok(configuration) => {
                let read = Registration::of(configuration.as_ref());
                let mut judge = self.judge.lock();
                let is_other = read != judge.registration;
                judge.registration = read;
                drop(judge);
                if is_other {
                    self.want_listing();
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "{CONFIGURATION} cannot be read; what was known of it counts");
            }
        }
    }

    // --- telling ---

    fn is_telling_due(&self) -> bool {
        self.listing == Listing::Complete && self.tell_at.is_some_and(|at| at <= Instant::now())
    }

    /// Writes what is new: metrics at once, conditions and events a few at a time.
    async fn tell(&mut self) {
        self.tell_at = None;
        let (tallies, is_full) = {
            let ledger = &self.judge.lock().ledger;
            let (total, by_reason) = ledger.totals();
            self.gauges.set(total, by_reason);
            (ledger.tallies(), ledger.is_full())
        };
        let names: Vec<String> = self.sets.keys().cloned().collect();
        let (mut writes, mut failed) = (0, false);
        let mut again: Option<Instant> = None;
        for name in names {
            let Some(known) = self.sets.get(&name).filter(|known| Some(known.changed_at) < self.listed_at) else {
                continue;
            };
            let tally = tallies.get(name.as_str());
            let said = Said::of(tally, known.generation, known.since, is_full);
            if said.is_said_by(&known.condition) {
                continue;
            }
            let now = Instant::now();
            if let Some(after) = known.write_after.filter(|after| *after > now) {
                again = Some(again.map_or(after, |again| again.min(after)));
                continue;
            }
            if writes == BURST {
                again = Some(now);
                break;
            }
            writes += 1;
            let count = tally.map_or(0, |tally| tally.count);
            if let Err(error) = self.write(&name, &said, count).await {
                tracing::warn!(sidecarset = name, error = chain(&error), "what was missed cannot be told; tried again");
                failed = true;
                break;
            }
        }
        if failed {
            self.pause = (self.pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE);
            again = Some(Instant::now() + self.pause);
        } else {
            self.pause = Duration::ZERO;
        }
        if let Some(again) = again {
            self.tell_at = Some(again);
        }
    }

    /// The event first: whoever is stopped between the two writes the same event again, which is then there already.
    async fn write(&mut self, name: &str, said: &Said, count: usize) -> Result<(), Error> {
        let Some(known) = self.sets.get(name) else { return Ok(()) };
        let (wall, now) = (crate::app::now(), Instant::now());
        let grew = !said.is_complete && count > known.told && known.event_after.is_none_or(|after| after <= now);
        let is_news = said.is_news_after(&known.condition);
        // A successor does not know what was told: only a change of the status is news to it.
        let is_event = is_news || (grew && known.told > 0);
        if is_event {
            let event = event(known, said, wall);
            let api: Api<KubeEvent> = Api::namespaced(self.client.clone(), EVENTS_NAMESPACE);
            match patiently(api.create(&PostParams::default(), &event)).await {
                Err(Error::Api(status)) if status.code == 409 => {}
                written => drop(written?),
            }
        }
        let condition = said.condition(&known.condition, wall);
        let patched = apply(&self.client, known, &condition).await?;
        if let Some(known) = self.sets.get_mut(name) {
            if patched {
                known.condition = condition;
            }
            known.write_after = Some(now + self.settings.write_interval);
            if is_event {
                known.event_after = Some(now + self.settings.event_interval);
            }
            known.told = if said.is_complete {
                0
            } else if is_event || known.told == 0 {
                count
            } else {
                known.told
            };
        }
        Ok(())
    }
}

/// Since when the selectors of a set are what they are. An edit that was seen and left them alone is forgiven; of several
/// edits at once the object itself is asked.
fn since(before: Option<&Known>, set: &LiveSet, now: Timestamp) -> Option<Timestamp> {
    let Some(before) = before else { return set.selects_since };
    if before.selection != set.selection {
        return Some(now);
    }
    if set.generation <= before.generation + 1 { before.since } else { set.selects_since }
}

/// Applies the condition; whether the set is still there.
async fn apply(client: &Client, known: &Known, condition: &Value) -> Result<bool, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &sidecarsets());
    let params = PatchParams::apply(FIELD_OWNER).force();
    let mut object = json!({
        "apiVersion": names::V1BETA1,
        "kind": "SidecarSet",
        "metadata": {"name": &*known.name, "uid": known.uid},
        "status": {"conditions": [condition]},
    });
    let mut applied = patiently(api.patch_status(&known.name, &params, &Patch::Apply(&object))).await;
    if matches!(&applied, Err(Error::Api(status)) if status.code == 422) {
        // A status that no controller has written yet lacks counters that the schema requires (API-15).
        for (counter, value) in known.counters.as_object().into_iter().flatten() {
            object["status"][counter] = value.clone();
        }
        applied = patiently(api.patch_status(&known.name, &params, &Patch::Apply(&object))).await;
    }
    match applied {
        Ok(_) => Ok(true),
        // Gone, or another one of its name: the watch tells.
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

fn counters(set: &Value) -> Value {
    let count = |counter: &str| set["status"][counter].as_i64().unwrap_or_default();
    json!({
        "matchedPods": count("matchedPods"),
        "updatedPods": count("updatedPods"),
        "readyPods": count("readyPods"),
    })
}

/// An event whose name follows from what it says, so that none is written twice.
fn event(known: &Known, said: &Said, now: Timestamp) -> KubeEvent {
    let mut hasher = DefaultHasher::new();
    (&known.uid, said.reason, &said.message, known.condition["lastTransitionTime"].as_str()).hash(&mut hasher);
    let mut note = said.message.clone();
    if note.len() > NOTE_LIMIT {
        let end = (0..=NOTE_LIMIT).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
        note.truncate(end);
    }
    // Room for a dot and the hash within the 253 bytes of a name.
    let prefix: String = known.name.chars().take(230).collect();
    KubeEvent {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", prefix.trim_end_matches(['.', '-']), hasher.finish())),
            namespace: Some(EVENTS_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some("Audit".to_owned()),
        reason: Some(said.reason.to_owned()),
        note: Some(note),
        type_: Some(if said.is_complete { "Normal" } else { "Warning" }.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(names::V1BETA1.to_owned()),
            kind: Some("SidecarSet".to_owned()),
            name: Some(known.name.to_string()),
            uid: Some(known.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(FIELD_OWNER.to_owned()),
        ..KubeEvent::default()
    }
}

async fn patiently<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(PATIENCE, request).await {
        Ok(answer) => answer,
        Err(late) => Err(Error::Service(Box::new(late))),
    }
}
