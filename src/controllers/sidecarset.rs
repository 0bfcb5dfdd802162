//! Rolls changes of SidecarSets out to running pods (CTL, RATE).
//!
//! The [watch of all pods](crate::controllers::pods) fills a [cache](pods), the store tells of SidecarSets, namespaces and revisions, and a worker for
//! each set decides and writes ([`rollout::plan`](crate::rollout::plan)). A pod wakes the sets that it names; a set that
//! was changed, its revisions and, for who has a namespace selector, labels of namespaces wake it too (W-1, W-21, W-22).
//!
//! Run it only where the Lease is held. Nothing is remembered that the API server does not have.

pub mod flight;
pub mod history;
pub mod metrics;
pub mod pods;
mod worker;
pub mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use kube::Client;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use self::pods::{Pods, Seen, patched};
use self::worker::{Signal, Worker};
use crate::controllers::pods::{Again, Hub, Listener, Told};
use crate::gates::Gates;
use crate::store::Snapshot;

/// Who reports events: the reference's name.
const CONTROLLER: &str = "sidecarset-controller";
/// Writes that all sets together have on their way.
const WRITES: usize = 64;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// How it works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator: where revisions are (REV-1).
    pub operator_namespace: String,
    /// Changes within this time are answered together (W-28).
    pub debounce: Duration,
    /// Least time between two decisions on a set while writes are under way.
    pub pace: Duration,
    /// Writes that one set has on their way.
    pub flights: usize,
    /// Sets that are decided upon at a time (RATE-1).
    pub workers: usize,
    /// What is switched on.
    pub gates: Gates,
}

/// What the store publishes.
#[derive(Clone, Debug)]
pub struct Known {
    /// The newest snapshot.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// How many there were.
    pub published: watch::Receiver<u64>,
}

/// What workers share.
struct Shared {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    snapshots: Arc<ArcSwap<Snapshot>>,
    pods: Pods,
    signals: Mutex<BTreeMap<Arc<str>, Arc<Signal>>>,
    writes: Arc<Semaphore>,
    plans: Arc<Semaphore>,
    /// Whether all pods were told.
    listed: Notify,
}

// === impl Settings ===

impl Settings {
    /// What suits a cluster.
    pub fn new(operator_namespace: &str) -> Self {
        Self {
            operator_namespace: operator_namespace.to_owned(),
            debounce: Duration::from_millis(100),
            pace: Duration::from_millis(250),
            flights: 48,
            workers: 3,
            gates: Gates::default(),
        }
    }
}

/// Listens to `hub`, and runs until `shutdown`.
pub fn run(
    client: Client,
    known: Known,
    settings: Settings,
    metrics: Metrics,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Shared {
        client,
        metrics,
        snapshots: Arc::clone(&known.snapshots),
        pods: Pods::default(),
        signals: Mutex::default(),
        writes: Arc::new(Semaphore::new(WRITES)),
        plans: Arc::new(Semaphore::new(settings.workers.max(1))),
        listed: Notify::new(),
        settings,
    });
    // Before the first pod is read, as a rule: what it leaves out must be read again.
    let snapshot = shared.snapshots.load_full();
    shared.pods.want(patched(snapshot.objects().sidecarsets().map(|stored| &stored.set)));
    hub.listen(Arc::clone(&shared) as Arc<dyn Listener>);
    let again = hub.again();
    async move {
        // It can be stopped anywhere: a successor goes on from what the objects say.
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = lead(shared, known, again) => {}
        }
    }
}

async fn lead(shared: Arc<Shared>, mut known: Known, again: Again) {
    if known.published.wait_for(|count| *count > 0).await.is_err() {
        return;
    }
    let mut snapshot = shared.snapshots.load_full();
    if shared.pods.want(patched(snapshot.objects().sidecarsets().map(|stored| &stored.set))) {
        again.ask();
    }
    let mut workers = Workers { shared: Arc::clone(&shared), tasks: JoinSet::new(), ids: HashMap::new() };
    let mut is_listed = false;
    loop {
        tokio::select! {
            () = shared.listed.notified(), if !is_listed => {
                // Not before: who knows no pods would write a status of none.
                is_listed = true;
                workers.follow(None, &snapshot);
            }
            published = known.published.changed() => {
                if published.is_err() {
                    return;
                }
                let newest = shared.snapshots.load_full();
                if !newest.objects().has_same_sets(snapshot.objects())
                    && shared.pods.want(patched(newest.objects().sidecarsets().map(|stored| &stored.set)))
                {
                    // Annotations that were left out so far are read now.
                    again.ask();
                }
                if is_listed {
                    workers.follow(Some(&snapshot), &newest);
                }
                snapshot = newest;
            }
            Some(ended) = workers.tasks.join_next_with_id(), if !workers.tasks.is_empty() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(crash) => {
                        tracing::error!(error = %crash, "a worker crashed and starts again");
                        sleep(RECOVERY).await;
                        crash.id()
                    }
                };
                workers.ended(id, &snapshot);
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn signals(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Signal>>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the worker of a set, if there is one.
    fn wake(&self, set: &str) {
        if let Some(signal) = self.signals().get(set) {
            signal.wake();
        }
    }
}

impl Listener for Shared {
    fn told(&self, told: &Told<'_>) {
        let wake = |set: &str| self.wake(set);
        match told {
            Told::Listing => self.pods.listing(),
            Told::Put { head, raw } => self.pods.put(self.pods.trim(Seen::read(head, raw)), wake),
            Told::Gone { head } => self.pods.gone(&Seen::bare(head), wake),
            Told::Listed => {
                self.pods.listed(wake);
                self.listed.notify_one();
            }
        }
    }
}

/// The workers, one for each set.
struct Workers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    ids: HashMap<Id, Arc<str>>,
}

// === impl Workers ===

impl Workers {
    /// Starts workers of new sets, and wakes those whose objects changed since `before`. One whose set is gone ends by
    /// itself.
    fn follow(&mut self, before: Option<&Snapshot>, now: &Snapshot) {
        let (before, now) = (before.map(Snapshot::objects), now.objects());
        let namespaces_changed = before.is_some_and(|before| !before.has_same_namespaces(now));
        for stored in now.sidecarsets() {
            let name = stored.set.metadata.name.as_str();
            let signal = self.shared.signals().get(name).cloned();
            let Some(signal) = signal else {
                self.start(name.into());
                continue;
            };
            let Some((stored, standing)) = now.standing(name) else { continue };
            let earlier = before.and_then(|before| before.standing(name));
            let is_same = earlier.is_some_and(|(earlier, _)| Arc::ptr_eq(earlier, stored));
            let stands_same = earlier.is_some_and(|(_, earlier)| Arc::ptr_eq(earlier, standing));
            let has_same_history = before.is_some_and(|before| before.history(name).is_same(&now.history(name)));
            // CTL-1. Differs: W-21, W-22.
            if !is_same || earlier.is_none_or(|(_, earlier)| earlier.generation != standing.generation) {
                signal.wake_at_once();
            } else if !stands_same
                || !has_same_history
                || (namespaces_changed && stored.set.spec.namespace_selector.is_some())
            {
                signal.wake();
            }
        }
        let gone = |name: &Arc<str>| now.standing(name).is_none();
        for (_, signal) in self.shared.signals().iter().filter(|(name, _)| gone(name)) {
            signal.wake_at_once();
        }
    }

    fn start(&mut self, name: Arc<str>) {
        let signal = Arc::new(Signal::default());
        self.shared.signals().insert(Arc::clone(&name), Arc::clone(&signal));
        let worker = Worker::new(Arc::clone(&self.shared), Arc::clone(&name), signal);
        let id = self.tasks.spawn(worker.run()).id();
        self.ids.insert(id, name);
    }

    /// Takes note that a worker ended. If its set is there nevertheless, there is another.
    fn ended(&mut self, id: Id, now: &Snapshot) {
        let Some(name) = self.ids.remove(&id) else { return };
        self.shared.signals().remove(&name);
        if now.objects().standing(&name).is_some() {
            self.start(name);
        }
    }
}
