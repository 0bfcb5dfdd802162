//! Lets containers start in the order of their priorities (LP).
//!
//! It hears of pods from the [watch of all](super::pods), keeps those that wait and no others, and reads a pod's barrier
//! by its name when there is something to decide ([`barrier::step`]). ConfigMaps are neither listed nor watched (W-41): of
//! a barrier that is lost, the kubelet tells by the state of the container that misses it (W-43).

pub mod metrics;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use memchr::memmem::Finder;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::metrics::{Made, Metrics};
use super::events::{News, Regarding};
use super::pods::{Head, Hub, Listener, Told};
use super::queue::Queue;
use super::sidecarset::pods::{Key, is_newer};
use crate::api::names;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::launch::barrier::{self, Barrier, Mark, Pod, Step};

/// Who reports events.
const CONTROLLER: &str = "container-launch-priority-controller";
/// Steps of one turn; one pod needs four at most unless others write too.
const STEPS: usize = 8;
/// The first and the longest wait after a turn that failed.
const DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// After so many failures in a row, the pod is told.
const MANY: u32 = 5;
/// Pods whose malformed barriers were told of.
const TOLD: usize = 4096;

/// How it works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Pods that are worked on at a time.
    pub turns: usize,
    /// How long a group may take before it is told that others wait for it (W-44).
    pub patience: Duration,
}

/// What all turns share.
struct Shared {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    waiting: Queue<Case>,
    /// UIDs of pods whose malformed barriers were told of.
    told: Mutex<HashSet<Box<str>>>,
}

/// A pod that waits. Who starts anew and knows none of this does some of it again, and no harm.
#[derive(Clone, Debug)]
struct Case {
    pod: Arc<Pod>,
    /// The group that is to become ready, and since when it is.
    current: Option<i64>,
    since: Instant,
    is_blockage_told: bool,
    /// The group whose keys were seen to be there.
    released: Option<i64>,
    /// When the pod was last written to.
    touched: Option<Instant>,
    failures: u32,
}

/// How a turn ended that went well.
struct Outcome {
    pod: Arc<Pod>,
    released: Option<i64>,
    touched: Option<Instant>,
    wake: Option<Duration>,
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A call did not do what was asked.
    #[error("cannot {0} the ConfigMap {1}: {2}")]
    Barrier(&'static str, String, CallError),
    /// The pod was not written or read.
    #[error("cannot {0} the pod: {1}")]
    Pod(&'static str, CallError),
    /// It does not go away.
    #[error("the ConfigMap {0} is being deleted, and is not gone; look for its finalizers")]
    Going(String),
    /// It is somebody else's too.
    #[error("the ConfigMap {0} is changed again and again by somebody else")]
    Restless(String),
    /// The answer is no pod.
    #[error("the API server's answer is no pod: {0}")]
    Unreadable(#[from] serde_json::Error),
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { turns: 32, patience: Duration::from_mins(2) }
    }
}

/// Listens to `hub`, and runs until `shutdown`.
pub fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Shared { client, settings, metrics, waiting: Queue::default(), told: Mutex::default() });
    hub.listen(Arc::clone(&shared) as Arc<dyn Listener>);
    async move {
        let turns = shared.settings.turns.max(1);
        let turn = |key: Arc<Key>, case: Case| {
            let shared = Arc::clone(&shared);
            async move { shared.turn(&key, case).await }
        };
        // It can be stopped anywhere: a successor goes on from what the objects say.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = shared.waiting.work(turns, turn) => {}
        }
        shared.metrics.waiting(0);
    }
}

// === impl Shared ===

impl Listener for Shared {
    fn told(&self, told: &Told<'_>) {
        static BARRIER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(names::BARRIER_ENV));
        let key = |head: &Head<'_>| Key { namespace: (*head.namespace).into(), name: (*head.name).into() };
        match told {
            Told::Listing => self.waiting.lock().listing(),
            Told::Put { head, raw } => {
                // Nobody's env is taken away: a pod without a barrier never had one.
                if BARRIER.find(raw.as_bytes()).is_some()
                    && let Ok(pod) = Pod::read(raw)
                {
                    self.put(&key(head), pod);
                }
            }
            Told::Gone { head } => self.remove(&key(head)),
            Told::Listed => {
                let mut waiting = self.waiting.lock();
                waiting.listed();
                self.metrics.waiting(waiting.len());
            }
        }
    }
}

impl Shared {
    fn remove(&self, key: &Key) {
        let mut waiting = self.waiting.lock();
        waiting.remove(key);
        self.metrics.waiting(waiting.len());
    }

    fn put(&self, key: &Key, pod: Pod) {
        if !pod.waits() && !self.is_to_be_told(&pod) {
            self.remove(key);
            return;
        }
        let mut waiting = self.waiting.lock();
        let before = waiting.get_mut(key).filter(|before| before.pod.uid == pod.uid).cloned();
        let now = Instant::now();
        let case = match before {
            Some(before) if !is_newer(&pod.resource_version, &before.pod.resource_version) => before,
            Some(before) => before.with(pod, now),
            None => Case::new(pod, now),
        };
        // Of a group that was let go, nothing is to be done until it is ready, or the kubelet misses something.
        let is_news = case.released.is_none() || case.released != case.current || case.pod.is_held();
        let is_due = is_news && case.failures == 0;
        waiting.put(key, case);
        if is_due {
            waiting.hasten(key, now);
            self.waiting.wake();
        }
        self.metrics.waiting(waiting.len());
    }

    /// Whether somebody should hear that the pod's barriers are malformed. Not of pods that run already: after a start,
    /// there would be many.
    fn is_to_be_told(&self, pod: &Pod) -> bool {
        let is_starting = !pod.is_over && !pod.is_ready && !pod.is_completed;
        is_starting && !pod.malformed.is_empty() && !self.told().contains(&pod.uid)
    }

    fn told(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done about one pod.
    async fn turn(&self, key: &Key, case: Case) {
        let blocked = case.pod.blocked().filter(|_| self.tells_blockage(&case));
        if let Some(blocked) = &blocked {
            self.tell(&case.pod, "LaunchBlocked", &blocked.message, &blocked.priority.to_string()).await;
        }
        if self.is_to_be_told(&case.pod)
            && let Some(complaint) = case.pod.complaint()
        {
            self.tell(&case.pod, "LaunchPriorityMalformed", &complaint, "").await;
            let mut told = self.told();
            if told.len() >= TOLD {
                told.clear();
            }
            told.insert(case.pod.uid.clone());
        }
        let result = self.steps(&case).await;
        if let Err(error) = &result {
            let (ns, name) = (&*key.namespace, &*key.name);
            tracing::warn!(ns, name, %error, "containers cannot be let go; tried again");
            if case.failures + 1 == MANY {
                self.tell(&case.pod, "LaunchFailed", &format!("containers wait, since I {error}"), "").await;
            }
        }
        self.settle(key, &case.pod, result, blocked.is_some());
    }

    fn tells_blockage(&self, case: &Case) -> bool {
        !case.is_blockage_told && case.since.elapsed() >= self.settings.patience
    }

    /// Takes down how a turn ended, and when the next one is.
    fn settle(&self, key: &Key, pod: &Pod, result: Result<Outcome, Error>, is_blockage_told: bool) {
        let mut waiting = self.waiting.lock();
        let Some(case) = waiting.get_mut(key).filter(|case| case.pod.uid == pod.uid) else { return };
        case.is_blockage_told |= is_blockage_told;
        let now = Instant::now();
        let due = if let Ok(Outcome { pod, released, touched, wake }) = result {
            case.failures = 0;
            (case.released, case.touched) = (released, touched.or(case.touched));
            if is_newer(&pod.resource_version, &case.pod.resource_version) {
                *case = case.clone().with(Arc::unwrap_or_clone(pod), now);
            }
            if !case.pod.waits() {
                waiting.remove(key);
                self.metrics.waiting(waiting.len());
                return;
            }
            let blocked = Some(case.since + self.settings.patience).filter(|_| !case.is_blockage_told);
            blocked.into_iter().chain(wake.map(|wake| now + wake)).min()
        } else {
            case.failures = case.failures.saturating_add(1);
            case.released = None;
            Some(now + delay(case.failures))
        };
        if let Some(due) = due {
            waiting.hasten(key, due);
        }
        self.waiting.wake();
    }

    async fn steps(&self, case: &Case) -> Result<Outcome, Error> {
        let mut outcome = Outcome { pod: Arc::clone(&case.pod), released: None, touched: None, wake: None };
        if !case.pod.waits() {
            return Ok(outcome);
        }
        let mut barrier = self.get(&case.pod).await?;
        for _ in 0..STEPS {
            let pod = &outcome.pod;
            let touched = outcome.touched.or(case.touched);
            let touched = touched.and_then(|touched| touched.elapsed().try_into().ok());
            match barrier::step(pod, barrier.as_ref(), touched) {
                Step::Rest(wake) => {
                    return Ok(Outcome {
                        released: pod.current(),
                        wake: wake.map(SignedDuration::unsigned_abs),
                        ..outcome
                    });
                }
                Step::Await => return Err(Error::Going(barrier::name(&pod.name))),
                Step::Create(keys) => {
                    let made = config_maps(pod).create(&PostParams::default(), pod.barrier(&keys).to_string().into());
                    barrier = self.write(pod, Made::Create, made, &keys).await?;
                }
                Step::Add(keys) => {
                    let Some(known) = &barrier else { continue };
                    let patch = Patch::Merge(known.addition(&keys));
                    let made = config_maps(pod).patch(&barrier::name(&pod.name), &params(), &patch);
                    barrier = self.write(pod, Made::Add, made, &keys).await?;
                }
                Step::Clear => {
                    let Some(stale) = &barrier else { continue };
                    // Who heard of this pod late must not delete the barrier of its successor.
                    if !self.is_there(pod).await? {
                        return Ok(outcome);
                    }
                    let preconditions = Preconditions { uid: Some(stale.uid.clone()), resource_version: None };
                    let params = DeleteParams::default().preconditions(preconditions);
                    let made = config_maps(pod).delete(&barrier::name(&pod.name), &params);
                    _ = self.write(pod, Made::Clear, made, &stale.keys).await?;
                    barrier = self.get(pod).await?;
                }
                Step::Mark(mark) => {
                    let Some(marked) = self.mark(pod, mark).await? else { return Ok(outcome) };
                    outcome.pod = Arc::new(marked);
                    outcome.touched = Some(Instant::now());
                }
            }
        }
        Err(Error::Restless(barrier::name(&case.pod.name)))
    }

    /// The barrier as it is; `None` when there is none.
    async fn get(&self, pod: &Pod) -> Result<Option<Barrier>, Error> {
        let name = barrier::name(&pod.name);
        let request = config_maps(pod).get(&name, &GetParams::default());
        match self.ask(request).await {
            Ok(answer) => Ok(Some(Barrier::read(&answer))),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(Error::Barrier("read", name, error)),
        }
    }

    /// Writes to the barrier. Says what it is then, whoever wrote it.
    async fn write(
        &self,
        pod: &Pod,
        made: Made,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
        keys: &BTreeSet<String>,
    ) -> Result<Option<Barrier>, Error> {
        let answer = self.ask(request).await;
        self.metrics.wrote(made, &answer);
        match answer {
            Ok(answer) => {
                let (ns, name, keys) =
                    (&*pod.namespace, &*pod.name, keys.iter().cloned().collect::<Vec<_>>().join(" "));
                tracing::info!(ns, name, keys, "barrier: {}", made.name());
                Ok(Some(Barrier::read(&answer)))
            }
            // Somebody was faster.
            Err(error) if matches!(error.code(), Some(404 | 409)) => self.get(pod).await,
            Err(error) => Err(Error::Barrier(made.name(), barrier::name(&pod.name), error)),
        }
    }

    /// Annotates the pod; `None` when it is gone.
    async fn mark(&self, pod: &Pod, mark: Mark) -> Result<Option<Pod>, Error> {
        let patch = Patch::Merge(mark.patch(pod));
        let request = pods(pod).patch(&pod.name, &params(), &patch).map_err(kube::Error::BuildRequest);
        let answer = call(async { self.client.request_text(request?).await }).await;
        let made = if mark.is_completed { Made::Complete } else { Made::Touch };
        self.metrics.wrote(made, &answer);
        match answer {
            Ok(text) => Ok(Some(Pod::read(&text)?)),
            // The UID is part of the patch: another pod has the name now.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(None),
            Err(error) => Err(Error::Pod("annotate", error)),
        }
    }

    /// Whether this very pod is there.
    async fn is_there(&self, pod: &Pod) -> Result<bool, Error> {
        // A list of one, which asks for no further right.
        let params = ListParams::default().fields(&format!("metadata.name={}", pod.name));
        let list = self.ask(pods(pod).list(&params)).await.map_err(|error| Error::Pod("read", error))?;
        Ok(list["items"][0]["metadata"]["uid"] == *pod.uid)
    }

    async fn ask(
        &self,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, CallError> {
        let request = request.map_err(kube::Error::BuildRequest);
        call(async { self.client.request(request?).await }).await
    }

    /// Writes an event about a pod. It is not worth a second try.
    async fn tell(&self, pod: &Pod, reason: &'static str, message: &str, occasion: &str) {
        let news = News {
            regarding: Regarding {
                api_version: "v1",
                kind: "Pod",
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                uid: pod.uid.to_string(),
            },
            is_warning: true,
            action: "Launch",
            reason,
            message: message.to_owned(),
            occasion: occasion.to_owned(),
        };
        #[expect(clippy::disallowed_methods, reason = "the edge has a clock")]
        let now = Timestamp::now();
        if let Err(error) = news.write(&self.client, CONTROLLER, now).await {
            let (ns, name) = (&*pod.namespace, &*pod.name);
            tracing::debug!(ns, name, reason, %error, "an event cannot be written");
        }
    }
}

fn config_maps(pod: &Pod) -> Request {
    Request::new(format!("/api/v1/namespaces/{}/configmaps", pod.namespace))
}

fn pods(pod: &Pod) -> Request {
    Request::new(format!("/api/v1/namespaces/{}/pods", pod.namespace))
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() }
}

/// How long to wait after so many failures in a row, more or less.
fn delay(failures: u32) -> Duration {
    let (first, longest) = DELAYS;
    let delay = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    delay.min(longest).mul_f64(0.75 + fastrand::f64() / 2.0)
}

// === impl Case ===

impl Case {
    fn new(pod: Pod, now: Instant) -> Self {
        Self {
            current: pod.current(),
            pod: Arc::new(pod),
            since: now,
            is_blockage_told: false,
            released: None,
            touched: None,
            failures: 0,
        }
    }

    /// The same with the pod as it is now.
    fn with(self, pod: Pod, now: Instant) -> Self {
        let current = pod.current();
        let pod = Arc::new(pod);
        if current == self.current {
            return Self { pod, ..self };
        }
        Self { pod, current, since: now, is_blockage_told: false, ..self }
    }
}
