//! Opens the gate `KruisePodReady` of new pods (PR-1, RDY-3).
//!
//! A pod with the gate and without the condition gets it, `True`, once. Whoever closes the gate later may have been
//! faster: the write is conditional on the pod as it was seen.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use memchr::memmem::Finder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pods::{Head, Hub, Listener, Told};
use super::queue::Queue;
use super::sidecarset::pods::Key;
use crate::api::names;
use crate::cluster::{CallError, FIELD_OWNER, call};
use crate::readiness::lacks_condition;

/// Pods that are written at a time.
const TURNS: usize = 16;
/// The first and the longest wait after a write that failed.
const DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// `outrigger_readiness_conditions_total` by result. A clone shares it.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 1], Counter>,
}

struct Shared {
    client: Client,
    metrics: Metrics,
    waiting: Queue<Case>,
}

/// A pod without the condition.
#[derive(Clone, Debug)]
struct Case {
    uid: Box<str>,
    version: Box<str>,
    failures: u32,
}

const RESULTS: [&str; 5] = ["done", "conflict", "gone", "refused", "unanswered"];

// === impl Metrics ===

impl Metrics {
    /// Registers it under the prefix of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Conditions that open the readiness gate of a new pod";
        registry.register("readiness_conditions", help, self.writes.clone());
        for result in RESULTS {
            drop(self.writes.get_or_create(&[("result", result)]));
        }
    }
}

/// Listens to `hub`, and runs until `shutdown`.
pub fn run(
    client: Client,
    metrics: Metrics,
    hub: &mut Hub,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let shared = Arc::new(Shared { client, metrics, waiting: Queue::default() });
    hub.listen(Arc::clone(&shared) as Arc<dyn Listener>);
    async move {
        let turn = |key: Arc<Key>, case: Case| {
            let shared = Arc::clone(&shared);
            async move { shared.turn(&key, &case).await }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = shared.waiting.work(TURNS, turn) => {}
        }
    }
}

// === impl Shared ===

impl Listener for Shared {
    fn told(&self, told: &Told<'_>) {
        static GATE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(names::POD_READY_GATE));
        let key = |head: &Head<'_>| Key { namespace: (*head.namespace).into(), name: (*head.name).into() };
        match told {
            Told::Listing => self.waiting.lock().listing(),
            Told::Put { head, raw } => {
                if GATE.find(raw.as_bytes()).is_none() {
                    return;
                }
                let (key, mut waiting) = (key(head), self.waiting.lock());
                if head.is_going_away || !lacks_condition(raw) {
                    waiting.remove(&key);
                    return;
                }
                let before = waiting.get_mut(&key).filter(|before| *before.uid == *head.uid);
                let failures = before.map_or(0, |before| before.failures);
                let case = Case { uid: (*head.uid).into(), version: (*head.resource_version).into(), failures };
                waiting.put(&key, case);
                if failures == 0 {
                    waiting.hasten(&key, Instant::now());
                    self.waiting.wake();
                }
            }
            Told::Gone { head } => self.waiting.lock().remove(&key(head)),
            Told::Listed => self.waiting.lock().listed(),
        }
    }
}

impl Shared {
    async fn turn(&self, key: &Key, case: &Case) {
        #[expect(clippy::disallowed_methods, reason = "the edge has a clock")]
        let now = Timestamp::now();
        let answer = self.open(key, case, now).await;
        let result = match &answer {
            Ok(()) => "done",
            Err(error) => match error.code() {
                Some(409) => "conflict",
                Some(404) => "gone",
                Some(400..500) => "refused",
                _ => "unanswered",
            },
        };
        self.metrics.writes.get_or_create(&[("result", result)]).inc();
        let mut waiting = self.waiting.lock();
        let is_same = |waiting: &mut Case| *waiting.uid == *case.uid && *waiting.version == *case.version;
        let is_known = waiting.get_mut(key).is_some_and(is_same);
        match (result, answer) {
            // A newer copy is told, or was: it is judged anew.
            ("done" | "conflict" | "gone", _) if is_known => waiting.remove(key),
            ("done" | "conflict" | "gone", _) => {}
            (_, Err(error)) => {
                let (ns, name) = (&*key.namespace, &*key.name);
                tracing::warn!(ns, name, %error, "the readiness gate of a pod cannot be opened; tried again");
                if let Some(case) = waiting.get_mut(key) {
                    case.failures = case.failures.saturating_add(1);
                    let delay = DELAYS.0.saturating_mul(2_u32.saturating_pow(case.failures - 1)).min(DELAYS.1);
                    waiting.hasten(key, Instant::now() + delay.mul_f64(0.75 + fastrand::f64() / 2.0));
                }
            }
            _ => {}
        }
    }

    async fn open(&self, key: &Key, case: &Case, now: Timestamp) -> Result<(), CallError> {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"type": names::POD_READY_GATE, "status": "True", "lastTransitionTime": now});
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": case.uid, "resourceVersion": case.version},
            "status": {"conditions": [condition]},
        }));
        let params = PatchParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PatchParams::default() };
        let request = Request::new(format!("/api/v1/namespaces/{}/pods", key.namespace));
        let request = request.patch_subresource("status", &key.name, &params, &patch);
        let request = request.map_err(kube::Error::BuildRequest);
        call(async { self.client.request::<Value>(request?).await }).await.map(drop)
    }
}
