//! Looks after ContainerRecreateRequests: what daemons cannot do or may not (CRR-10 … CRR-19, CRR-30 … CRR-34, CRR-60).
//!
//! ```text
//! watch of requests ─▶ queue (one look at a request at a time) ─▶ pass: decide ─▶ one step ─▶ decide …
//! watch of pods ─▶ listener (by UID) ─▶┘                            ▲                 │
//!                                                                   └── the answer ◀──┘
//! ```
//!
//! Run it only where the Lease is held. Nothing is remembered that the API server does not have, but for how long a request
//! has been waiting for its daemon, which begins anew with another leader.

pub mod decide;
mod listener;
pub mod metrics;
mod pass;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::decide::Patience;
use self::listener::Listener;
use self::metrics::Metrics;
use self::pass::{Pass, pass};
use self::queue::{Key, Queue};
use crate::api::names;
use crate::controllers::pods::Hub;
use crate::recreate::Request;
use crate::store::watch::{Source, Subject, Told, Trouble};

/// Who reports events.
const CONTROLLER: &str = "recreate-controller";
/// Changes of requests that wait to be taken.
const QUEUE: usize = 256;
/// How long it waits after a crash of its own.
const RECOVERY: Duration = Duration::from_secs(1);

/// How it works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Requests that are looked at at a time.
    pub workers: usize,
    /// How patient it is.
    pub patience: Patience,
}

/// The watch of requests.
struct AllRequests {
    metrics: Metrics,
    is_down: AtomicBool,
}

/// The running controller.
struct Lead {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    listener: Arc<Listener>,
    queue: Queue,
    passes: JoinSet<(Key, Pass)>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        let patience = Patience { response: Duration::from_mins(1), poll: Duration::from_secs(3), default_ttl: None };
        Self { workers: 16, patience }
    }
}

/// What runs until `shutdown`. It is told of pods by `hub`.
pub fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let listener = Arc::<Listener>::default();
    hub.listen(Arc::<Listener>::clone(&listener));
    lead(client, listener, settings, metrics, shutdown)
}

async fn lead(
    client: Client,
    listener: Arc<Listener>,
    settings: Settings,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    // It can be stopped anywhere: a successor goes on from what the objects say.
    let lead = async {
        loop {
            let lead = Lead {
                client: client.clone(),
                settings,
                metrics: metrics.clone(),
                listener: Arc::clone(&listener),
                queue: Queue::new(settings.patience.default_ttl.is_some()),
                passes: JoinSet::new(),
            };
            lead.run().await;
            tracing::error!("the watch of ContainerRecreateRequests crashed and starts again");
            sleep(RECOVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = lead => {}
    }
    metrics.follow([0; 3]);
}

// === impl Lead ===

impl Lead {
    async fn run(mut self) {
        let (sender, mut changes) = mpsc::channel(QUEUE);
        let subject = AllRequests { metrics: self.metrics.clone(), is_down: AtomicBool::new(false) };
        let path = format!("/apis/{}/containerrecreaterequests", names::V1BETA1);
        let mut watching = JoinSet::new();
        watching.spawn(Source::new(subject, path, self.client.clone()).follow(sender));
        loop {
            self.start();
            let due = self.queue.next().filter(|_| self.passes.len() < self.settings.workers.max(1));
            tokio::select! {
                told = changes.recv() => match told {
                    Some(told) => self.take(told),
                    None => return,
                },
                () = self.listener.heard() => {
                    for key in self.listener.take() {
                        self.queue.wake(&key, Instant::now());
                    }
                }
                Some(ended) = self.passes.join_next(), if !self.passes.is_empty() => match ended {
                    Ok((key, pass)) => self.ended(&key, pass),
                    Err(crash) => {
                        // The key of who crashed is not told: everything begins anew.
                        tracing::error!(error = %crash, "a look at a request crashed");
                        return;
                    }
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Begins to look at what is due.
    fn start(&mut self) {
        while self.passes.len() < self.settings.workers.max(1) {
            let Some((key, request, known_since)) = self.queue.take(Instant::now()) else { return };
            let (client, patience, metrics) = (self.client.clone(), self.settings.patience, self.metrics.clone());
            self.passes.spawn(async move {
                let pass = pass(&client, patience, &metrics, &request, known_since).await;
                (key, pass)
            });
        }
    }

    fn take(&mut self, told: Told<Value>) {
        let now = Instant::now();
        match told {
            Told::All(objects) => {
                let requests: Vec<Request> = objects.iter().map(Request::read).collect();
                for gone in self.queue.all(requests, now) {
                    self.listener.forget(&gone);
                }
                for key in self.queue.keys() {
                    self.know(key);
                }
            }
            Told::Put(object) => {
                let request = Request::read(&object);
                let key = Key::of(&request);
                if let Some(outcome) = self.queue.put(request, now) {
                    self.metrics.ended(outcome);
                }
                self.know(&key);
            }
            Told::Gone(object) => {
                let key = Key::of(&Request::read(&object));
                self.queue.gone(&key);
                self.know(&key);
            }
            Told::Current => {}
        }
        self.metrics.follow(self.queue.phases());
    }

    /// Changes of its pod wake a request as long as it is not over.
    fn know(&self, key: &Key) {
        match self.queue.pod_uid(key) {
            Some(uid) => self.listener.know(key, uid),
            None => self.listener.forget(key),
        }
    }

    fn ended(&mut self, key: &Key, pass: Pass) {
        let Pass { request, wake, error } = pass;
        let decided = request.as_ref().map(|request| request.version.clone());
        if let Some(outcome) = request.and_then(|request| self.queue.answered(*request, Instant::now())) {
            self.metrics.ended(outcome);
        }
        let pause = self.queue.ended(key, decided.as_deref(), wake, error.is_some(), Instant::now());
        self.know(key);
        if let Some(error) = error {
            let (ns, name) = (key.namespace(), key.name());
            tracing::warn!(ns, name, error, again_ms = pause.as_millis(), "a request is tried again");
        }
        self.metrics.follow(self.queue.phases());
    }
}

// === impl AllRequests ===

impl Subject for AllRequests {
    type Object = Value;
    type Change = Told<Value>;

    fn version(object: &Value) -> &str {
        object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    fn change(&self, told: Told<Value>) -> Told<Value> {
        told
    }

    fn heard(&self) {
        if self.is_down.swap(false, Ordering::Relaxed) {
            tracing::info!("the watch of ContainerRecreateRequests is up again");
        }
    }

    fn restarted(&self) {
        self.metrics.restarted();
    }

    fn lost(&self, trouble: &Trouble) {
        self.metrics.restarted();
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %trouble, "the watch of ContainerRecreateRequests is down; requests wait for it");
        }
    }
}
