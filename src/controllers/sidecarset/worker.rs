//! One SidecarSet's worker: decides when something changed, and sends what was decided, many writes at a time.
//!
//! ```text
//!            woken ─▶ revision registered ─▶ plan ─┬▶ status and events ─▶ API server
//!              ▲                                   └▶ queue ─▶ flights ──▶ API server
//!              └──── pods, as the API server answers ◀───────────┘
//! ```
//!
//! Everything that takes time is a task; between them the worker only looks. Writes go on while the next plan is made: what
//! is on its way counts as done (see [`predicted`]), and of the rest only as much is sent as may be sent meanwhile, which
//! counts as well. So no two plans ever spend the same budget, and none waits for the other's writes to end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::flight::{Refusals, predicted};
use super::history::{HistoryError, Revisions};
use super::metrics::{Share, Taken};
use super::pods::{is_newer, selected};
use super::writer::{self, Outcome};
use super::{CONTROLLER, Shared};
use crate::api::names;
use crate::api::sidecarset::{SidecarSet, SidecarSetStatus};
use crate::cluster::{CallError, call};
use crate::controllers::events::{News, Regarding};
use crate::rollout::revisions::{Registered, Revision, Trimmed, register, trim};
use crate::rollout::{self, About, Event, Input, Plan, Pod, Write};
use crate::selector::Selector;
use crate::sidecarset::admit::Stored;
use crate::sidecarset::records;
use crate::store::{History, Standing};

/// Owner of the status.
const STATUS_OWNER: &str = "outrigger-rollout";
/// The first and the longest pause after an error that concerns the whole set.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));
/// How soon a history that is too long is looked at again.
const TRIM_AGAIN: Duration = Duration::from_mins(1);
/// Events that are remembered as written.
const TOLD: usize = 256;
/// Writes that are put into words at a time, for each that may be on its way: a plan's worth of time goes by with them.
const AHEAD: usize = 4;
/// How much longer the pace is while there is more to send than can be on its way. A status is to be true within a second.
const LEISURE: u32 = 3;
/// A plan may take this part of the time, one of so many.
const PLANNING_SHARE: u32 = 5;

/// Wakes a worker. It remembers one call that nobody waited for.
#[derive(Debug, Default)]
pub(super) struct Signal {
    notify: Notify,
    is_urgent: AtomicBool,
}

/// The worker.
#[expect(clippy::struct_excessive_bools, reason = "each tells of a task of its own")]
pub(super) struct Worker {
    shared: Arc<Shared>,
    name: Arc<str>,
    signal: Arc<Signal>,
    share: Share,
    tasks: JoinSet<Done>,
    /// UID of the set that all of the following is about.
    uid: String,
    generation: i64,
    /// The last status that the API server answered with, and the version of the set.
    answered: Option<(String, SidecarSetStatus)>,
    registered: Option<Current>,
    /// Writes on their way, by the UID of their pod.
    flights: HashMap<Box<str>, Flight>,
    /// Writes that were decided upon and not yet sent.
    queue: VecDeque<(Arc<Pod>, Write)>,
    refusals: Refusals,
    /// Hashes of events that were written.
    told: VecDeque<u64>,
    /// Whether a revision is being registered, or a plan made.
    is_deciding: bool,
    /// Whether the last plan had more writes than it put into words.
    has_more: bool,
    is_telling: bool,
    is_trimming: bool,
    trim_after: Option<Instant>,
    /// When to decide next.
    due: Option<Instant>,
    decided: Option<Instant>,
    took: Duration,
    pause: Duration,
}

/// The revision that was registered, and for what.
#[derive(Clone)]
struct Current {
    stored: Arc<Stored>,
    history: History,
    name: String,
    collision_count: i32,
    known: Arc<Vec<Revision>>,
    /// See [`Input::revisions`].
    former: Arc<Vec<(String, crate::api::sidecarset::SidecarSetSpec)>>,
}

struct Flight {
    /// The copy that was decided upon.
    base: Arc<Pod>,
    predicted: Arc<Pod>,
}

/// A task that ended.
enum Done {
    Registered(Box<Current>),
    NotRegistered(HistoryError),
    Planned(Box<Planned>),
    Written(Box<Landed>),
    Told(Result<Option<(String, SidecarSetStatus)>, CallError>),
    Trimmed(Result<(), HistoryError>),
    Noted,
}

/// A write that is known to have been taken or not.
struct Landed {
    pod: Arc<Pod>,
    write: Write,
    outcome: Outcome,
}

/// A plan and what it was made of.
struct Planned {
    plan: Plan,
    pods: Vec<Arc<Pod>>,
    trimmed: Trimmed,
    stored: Arc<Stored>,
    status: SidecarSetStatus,
    took: Duration,
}

// === impl Signal ===

impl Signal {
    /// Something changed.
    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    /// The set itself changed: what was decided for it before is not to be done.
    pub(super) fn wake_at_once(&self) {
        self.is_urgent.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, name: Arc<str>, signal: Arc<Signal>) -> Self {
        Self {
            share: shared.metrics.share(),
            shared,
            name,
            signal,
            tasks: JoinSet::new(),
            uid: String::new(),
            generation: 0,
            answered: None,
            registered: None,
            flights: HashMap::new(),
            queue: VecDeque::new(),
            refusals: Refusals::default(),
            told: VecDeque::new(),
            is_deciding: false,
            has_more: false,
            is_telling: false,
            is_trimming: false,
            trim_after: None,
            due: None,
            decided: None,
            took: Duration::ZERO,
            pause: Duration::ZERO,
        }
    }

    /// Works until the set is gone.
    pub(super) async fn run(mut self) {
        let signal = Arc::clone(&self.signal);
        self.due = Some(Instant::now());
        loop {
            self.start_writes();
            self.share.queued(self.queue.len());
            let due = self.due.filter(|_| !self.is_deciding);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => {
                        tracing::error!(set = &*self.name, %error, "a part of its rollout crashed; it begins again");
                        return;
                    }
                },
                () = signal.notify.notified() => self.heed(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => if !self.decide() { return },
            }
        }
    }

    fn heed(&mut self) {
        if self.signal.is_urgent.swap(false, Ordering::AcqRel) {
            self.queue.clear();
            self.due = Some(Instant::now());
        } else {
            self.want_decision();
        }
    }

    /// Decides soon, with whatever else changes until then.
    fn want_decision(&mut self) {
        let settings = &self.shared.settings;
        let is_busy = !self.flights.is_empty() || !self.queue.is_empty();
        let pace = match self.queue.len() {
            // What waits to be sent was decided upon; nothing but the status has to hear of it.
            waiting if waiting > settings.flights => settings.pace * LEISURE,
            _ if is_busy => settings.pace,
            _ => settings.debounce,
        };
        let rested = self.decided.map(|decided| decided + pace.max(self.took * PLANNING_SHARE));
        let soon = Instant::now() + settings.debounce;
        self.decide_by(rested.map_or(soon, |rested| rested.max(soon)));
    }

    fn decide_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Longer after each error in a row.
    fn pause(&mut self) {
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.decide_by(Instant::now() + self.pause.mul_f64(0.75 + fastrand::f64() / 2.0));
    }

    // --- deciding ---

    /// Begins to decide. Whether the set is still there.
    fn decide(&mut self) -> bool {
        (self.due, self.has_more) = (None, false);
        let snapshot = self.shared.snapshots.load_full();
        let Some((stored, standing)) = snapshot.objects().standing(&self.name) else { return false };
        if self.uid != standing.uid {
            // Another one of its name: nothing of the former counts.
            self.uid.clone_from(&standing.uid);
            (self.answered, self.registered) = (None, None);
            self.refusals.clear();
            self.queue.clear();
        }
        if self.generation != standing.generation {
            self.generation = standing.generation;
            self.refusals.clear();
            self.queue.clear();
        }
        let history = snapshot.objects().history(&self.name);
        let current = self.registered.as_ref();
        match current.filter(|current| Arc::ptr_eq(&current.stored, stored) && current.history.is_same(&history)) {
            Some(current) => {
                let current = current.clone();
                self.plan(current, &snapshot, Arc::clone(standing));
            }
            None => self.register(Arc::clone(stored), standing, history),
        }
        true
    }

    /// REV-6: without a call if what is known of the history says that there is nothing to write.
    fn register(&mut self, stored: Arc<Stored>, standing: &Standing, history: History) {
        let before = self.registered.as_ref().map(|current| current.collision_count);
        let collisions = before.or(self.status(standing).collision_count).unwrap_or_default();
        let (shared, uid, name) = (Arc::clone(&self.shared), self.uid.clone(), Arc::clone(&self.name));
        self.is_deciding = true;
        self.tasks.spawn(async move {
            let known = history.revisions(&name);
            let namespace = &shared.settings.operator_namespace;
            let found = register(&stored.set, &uid, collisions, namespace, &known);
            let registered = if let Ok(found @ Registered { write: None, .. }) = found {
                Ok(found)
            } else {
                let revisions = Revisions::new(shared.client.clone(), namespace);
                revisions.register(&stored.set, &uid, collisions).await
            };
            match registered {
                Ok(Registered { name, collision_count, .. }) => {
                    let without_image = stored.set.metadata.annotations.get(names::HASH_WITHOUT_IMAGE);
                    let former = history.former(without_image.map_or("", String::as_str));
                    let (known, former) = (Arc::new(known), Arc::new(former));
                    Done::Registered(Box::new(Current { stored, history, name, collision_count, known, former }))
                }
                Err(error) => Done::NotRegistered(error),
            }
        });
    }

    /// The newest status that is known.
    fn status(&self, standing: &Standing) -> SidecarSetStatus {
        match &self.answered {
            Some((version, status)) if is_newer(version, &standing.resource_version) => status.clone(),
            _ => standing.status.clone(),
        }
    }

    fn plan(&mut self, current: Current, snapshot: &Arc<crate::store::Snapshot>, standing: Arc<Standing>) {
        let status = self.status(&standing);
        // As much as may be sent while the plan is made is sent whatever it says.
        self.queue.truncate(self.shared.settings.flights);
        let certain = self.queue.iter().map(|(pod, write)| (pod, Arc::new(predicted(pod, &write.patch))));
        let certain = self.flights.values().map(|flight| (&flight.base, Arc::clone(&flight.predicted))).chain(certain);
        let certain: HashMap<Box<str>, (Box<str>, Arc<Pod>)> =
            certain.map(|(base, predicted)| (base.uid.clone(), (base.resource_version.clone(), predicted))).collect();
        let held: HashSet<Box<str>> = self.refusals.held(Instant::now()).into_iter().collect();
        let at_most = self.shared.settings.flights * AHEAD;
        let trims = !self.is_trimming && self.trim_after.is_none_or(|after| after <= Instant::now());
        let (shared, snapshot, name) = (Arc::clone(&self.shared), Arc::clone(snapshot), Arc::clone(&self.name));
        self.is_deciding = true;
        let permits = Arc::clone(&self.shared.plans);
        let work = move || {
            let began = Instant::now();
            let mut set = current.stored.set.clone();
            set.status = status.clone();
            let is_in = |name: &str, selector: &Selector| {
                snapshot.namespace(name).labels.is_some_and(|labels| selector.mismatch(labels).is_none())
            };
            let mut pods = selected(&set, shared.pods.of(&name), is_in).unwrap_or_else(|error| {
                tracing::warn!(set = &*name, %error, "its selector cannot be read, so it is rolled out to no pod");
                Vec::new()
            });
            for pod in &mut pods {
                // A copy that is newer than the one decided upon tells more than a prediction.
                if let Some((_, predicted)) =
                    certain.get(&pod.uid).filter(|(base, _)| !is_newer(&pod.resource_version, base))
                {
                    *pod = Arc::clone(predicted);
                }
            }
            let plan = rollout::plan(&Input {
                set: &set,
                resource_version: &standing.resource_version,
                generation: standing.generation,
                revision: &current.name,
                collision_count: current.collision_count,
                pods: &pods,
                held: &|pod| held.contains(&pod.uid),
                now: crate::app::now(),
                gates: shared.settings.gates,
                at_most,
                revisions: &current.former,
            });
            let trimmed = if trims { trimmed(&set, &standing.uid, &current.known, &pods) } else { Trimmed::default() };
            let took = began.elapsed();
            Planned { plan, pods, trimmed, stored: current.stored, status, took }
        };
        self.tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            match spawn_blocking(work).await {
                Ok(planned) => Done::Planned(Box::new(planned)),
                Err(crash) => std::panic::resume_unwind(crash.into_panic()),
            }
        });
    }

    // --- what tasks bring ---

    fn finish(&mut self, done: Done) {
        match done {
            Done::Registered(current) => {
                self.is_deciding = false;
                self.pause = Duration::ZERO;
                self.registered = Some(*current);
                self.due = Some(Instant::now());
            }
            Done::NotRegistered(error) => {
                self.is_deciding = false;
                tracing::warn!(set = &*self.name, %error, "its revision cannot be registered; tried again");
                self.pause();
            }
            Done::Planned(planned) => {
                self.is_deciding = false;
                self.take(*planned);
            }
            Done::Written(landed) => self.land(*landed),
            Done::Told(Ok(answered)) => {
                self.is_telling = false;
                self.pause = Duration::ZERO;
                if answered.is_some() {
                    self.answered = answered;
                }
            }
            Done::Told(Err(error)) => {
                self.is_telling = false;
                tracing::warn!(set = &*self.name, %error, "its status cannot be written; tried again");
                self.pause();
            }
            Done::Trimmed(trimmed) => {
                self.is_trimming = false;
                if let Err(error) = trimmed {
                    tracing::warn!(set = &*self.name, %error, "its history is too long; tried again");
                }
            }
            Done::Noted => {}
        }
    }

    fn take(&mut self, planned: Planned) {
        let Planned { plan, pods, trimmed, stored, status, took } = planned;
        let now = Instant::now();
        (self.decided, self.took) = (Some(now), took);
        self.shared.metrics.decided(took);
        let snapshot = self.shared.snapshots.load_full();
        let is_current =
            snapshot.objects().standing(&self.name).is_some_and(|(newest, _)| Arc::ptr_eq(newest, &stored));
        if !is_current {
            // The set changed while the plan was made: there will be another.
            self.decide_by(now);
            return;
        }
        self.share.judged(plan.verdicts.iter().map(|(_, verdict)| verdict));
        if !self.refusals.is_empty() {
            let uids: HashSet<&str> = pods.iter().map(|pod| &*pod.uid).collect();
            self.refusals.retain(|uid| uids.contains(uid));
        }

        // What is left of the queue was certain when the plan was made, and is in it as done.
        let on_their_way: HashSet<&str> =
            self.flights.keys().map(|uid| &**uid).chain(self.queue.iter().map(|(pod, _)| &*pod.uid)).collect();
        let fresh = |write: Write| {
            let pod = Arc::clone(pods.get(write.pod)?);
            (!on_their_way.contains(&*pod.uid)).then_some((pod, write))
        };
        let fresh: Vec<(Arc<Pod>, Write)> = plan.writes.into_iter().filter_map(fresh).collect();
        self.queue.extend(fresh);
        self.has_more = plan.is_cut;
        let news = self.news(&plan.events, &pods, &status);
        if differs(&status, &plan.status) || !news.is_empty() {
            self.tell(news, differs(&status, &plan.status).then_some(plan.status));
        }
        if !trimmed.delete.is_empty() || trimmed.excess > 0 {
            self.trim(trimmed, now);
        }
        if let Some(wake) = plan.wake {
            self.decide_by(now + wake.max(self.shared.settings.debounce));
        }
        if let Some(next) = self.refusals.next(now) {
            self.decide_by(next);
        }
    }

    // --- writing pods ---

    fn start_writes(&mut self) {
        if self.has_more && !self.is_deciding && self.queue.len() <= self.shared.settings.flights {
            self.has_more = false;
            self.due = Some(Instant::now());
        }
        while self.flights.len() < self.shared.settings.flights {
            let Some((pod, write)) = self.queue.pop_front() else { return };
            if self.flights.contains_key(&pod.uid) {
                continue;
            }
            if self.shared.pods.version(&pod).is_none_or(|version| version != pod.resource_version) {
                // It would be refused: there is a newer copy.
                self.want_decision();
                continue;
            }
            let predicted = Arc::new(predicted(&pod, &write.patch));
            self.flights.insert(pod.uid.clone(), Flight { base: Arc::clone(&pod), predicted });
            let (shared, permits) = (Arc::clone(&self.shared), Arc::clone(&self.shared.writes));
            self.tasks.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let mut outcome = writer::send(&shared.client, &pod, &write).await;
                if let Some(answer) = outcome.pod.take() {
                    // Before the flight ends: what it predicted is there by then.
                    shared.pods.answer(answer, |set| shared.wake(set));
                }
                Done::Written(Box::new(Landed { pod, write, outcome }))
            });
        }
    }

    fn land(&mut self, landed: Landed) {
        let Landed { pod, write, outcome } = landed;
        self.flights.remove(&pod.uid);
        self.shared.metrics.wrote(write.step, outcome.taken);
        let (ns, name, set) = (&*pod.namespace, &*pod.name, &*self.name);
        match outcome.taken {
            Taken::Done => {
                tracing::debug!(ns, name, set, step = write.step.name(), "written");
                self.refusals.forget(&pod.uid);
                let occasion = pod.resource_version.to_string();
                let news = write.events.iter().map(|event| self.about(event, Some(&pod), occasion.clone())).collect();
                self.note(news);
            }
            Taken::Gone | Taken::Conflict | Taken::Throttled | Taken::Unanswered => {
                tracing::debug!(ns, name, set, error = outcome.error, "not written; looked at again");
            }
            // W-7: the others go on.
            Taken::Refused => {
                let error = outcome.error.unwrap_or_default();
                if self.refusals.note(&pod.uid, Instant::now()) {
                    tracing::warn!(ns, name, set, error, "a write is refused; tried again later");
                    let news = self.about(&write.failed(&error), Some(&pod), String::new());
                    self.note(vec![news]);
                }
            }
        }
        self.want_decision();
    }

    // --- telling ---

    /// The events that were not yet written.
    fn news(&mut self, events: &[Event], pods: &[Arc<Pod>], before: &SidecarSetStatus) -> Vec<News> {
        // One that is written again before the status is has the same name; in the next rollout it has another.
        let progressing = before.conditions.iter().find(|condition| condition.r#type == "Progressing");
        let since = progressing.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
        let occasion = format!("{} {since:?}", self.generation);
        let mut news = Vec::new();
        for event in events {
            let pod = match event.about {
                About::Set => None,
                About::Pod(index) => pods.get(index),
            };
            let about = self.about(event, pod, occasion.clone());
            let mut hasher = DefaultHasher::new();
            (&about.regarding.uid, about.reason, &about.message, &about.occasion).hash(&mut hasher);
            let hash = hasher.finish();
            if self.told.contains(&hash) {
                continue;
            }
            if self.told.len() >= TOLD {
                self.told.pop_front();
            }
            self.told.push_back(hash);
            news.push(about);
        }
        news
    }

    fn about(&self, event: &Event, pod: Option<&Arc<Pod>>, occasion: String) -> News {
        let regarding = match pod {
            Some(pod) => Regarding {
                api_version: "v1",
                kind: "Pod",
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                uid: pod.uid.to_string(),
            },
            None => Regarding {
                api_version: names::V1BETA1,
                kind: "SidecarSet",
                namespace: String::new(),
                name: self.name.to_string(),
                uid: self.uid.clone(),
            },
        };
        let (reason, message) = (event.reason, event.message.clone());
        News { regarding, is_warning: event.is_warning, action: "Rollout", reason, message, occasion }
    }

    fn note(&mut self, news: Vec<News>) {
        if news.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            shared.write_news(&news).await;
            Done::Noted
        });
    }

    /// Events first: whoever is stopped between the two writes them again, and they are there already.
    fn tell(&mut self, news: Vec<News>, status: Option<SidecarSetStatus>) {
        if self.is_telling {
            // The one on its way is older than this: look again.
            self.want_decision();
            self.note(news);
            return;
        }
        self.is_telling = true;
        let (shared, name, uid) = (Arc::clone(&self.shared), Arc::clone(&self.name), self.uid.clone());
        self.tasks.spawn(async move {
            shared.write_news(&news).await;
            Done::Told(match status {
                Some(status) => apply(&shared.client, &name, &uid, &status).await,
                None => Ok(None),
            })
        });
    }

    fn trim(&mut self, trimmed: Trimmed, now: Instant) {
        let Trimmed { delete, excess } = trimmed;
        self.trim_after = Some(now + TRIM_AGAIN);
        self.decide_by(now + TRIM_AGAIN);
        if excess > 0 {
            // W-19
            let message =
                format!("{excess} revisions more than revisionHistoryLimit are kept: pods or the set refer to them");
            let event = Event { about: About::Set, is_warning: false, reason: "HistoryOverLimit", message };
            let news = self.news(&[event], &[], &SidecarSetStatus::default());
            self.note(news);
        }
        if delete.is_empty() {
            return;
        }
        self.is_trimming = true;
        let revisions = Revisions::new(self.shared.client.clone(), &self.shared.settings.operator_namespace);
        self.tasks.spawn(async move { Done::Trimmed(revisions.delete(&delete).await) });
    }
}

/// REV-9.
fn trimmed(set: &SidecarSet, uid: &str, known: &[Revision], pods: &[Arc<Pod>]) -> Trimmed {
    let in_use = std::cell::OnceCell::new();
    let revision = |pod: &Arc<Pod>| {
        let mut carried = records::carried(pod.annotation(names::HASH), None);
        carried.remove(&set.metadata.name).map(|carried| carried.revision)
    };
    let all = || pods.iter().filter_map(revision).collect::<HashSet<String>>();
    trim(set, uid, known, |name| in_use.get_or_init(all).contains(name))
}

/// Whether a status is to be written (CTL-31). Conditions of others are not ours to compare.
fn differs(stored: &SidecarSetStatus, wanted: &SidecarSetStatus) -> bool {
    let ours = |condition: &&crate::api::meta::Condition| {
        wanted.conditions.iter().any(|wanted| wanted.r#type == condition.r#type)
    };
    let by_type = |status: &SidecarSetStatus| -> BTreeMap<String, crate::api::meta::Condition> {
        let conditions = status.conditions.iter().filter(ours);
        conditions.map(|condition| (condition.r#type.clone(), condition.clone())).collect()
    };
    let counts = |status: &SidecarSetStatus| SidecarSetStatus {
        conditions: Vec::new(),
        observed_generation: 0,
        ..status.clone()
    };
    wanted.observed_generation > stored.observed_generation
        || counts(wanted) != counts(stored)
        || by_type(wanted) != by_type(stored)
}

/// Writes the status; the answer's version and status, unless the set is gone. Conditions of others stay.
async fn apply(
    client: &kube::Client,
    name: &str,
    uid: &str,
    status: &SidecarSetStatus,
) -> Result<Option<(String, SidecarSetStatus)>, CallError> {
    let object = json!({
        "apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": name, "uid": uid}, "status": status,
    });
    let params = kube::api::PatchParams::apply(STATUS_OWNER).force();
    let request = kube::core::Request::new(format!("/apis/{}/sidecarsets", names::V1BETA1));
    let request = request.patch_subresource("status", name, &params, &kube::api::Patch::Apply(&object));
    let applied: Result<Value, CallError> =
        call(async { client.request(request.map_err(kube::Error::BuildRequest)?).await }).await;
    match applied {
        Ok(answer) => {
            let version = answer["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let status = crate::api::json::decode::<SidecarSetStatus>(&answer["status"]);
            Ok(status.ok().map(|(status, _)| (version, status)))
        }
        // Gone, or another one of its name: the watch tells.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(None),
        Err(error) => Err(error),
    }
}

// === impl Shared ===

impl Shared {
    /// Writes events. One that cannot be written is no reason to stop.
    async fn write_news(&self, news: &[News]) {
        for news in news {
            if let Err(error) = news.write(&self.client, CONTROLLER, crate::app::now()).await {
                tracing::warn!(reason = news.reason, name = news.regarding.name, %error, "an event cannot be written");
            }
        }
    }
}
