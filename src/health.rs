//! Is the process well, and may it be sent requests: plain HTTP for the kubelet's probes and for metrics.
//!
//! Every part that must be there before requests can be answered rightly holds a [`Part`] and says what it still waits
//! for. Ready means that no part waits, and says so once: a part that was ready does not take that back, because a
//! webhook that goes on with what it knows serves better than none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Media type of metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the process waits for, by part.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// A part with what it waits for; `None` once it is ready.
    parts: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    stopping: CancellationToken,
}

/// One part of the process.
#[derive(Clone, Debug)]
pub struct Part {
    name: &'static str,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    /// Not ready again once `stopping` is cancelled.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { parts: Arc::default(), stopping }
    }

    /// A part that has to become ready.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part { name, readiness: self.clone() };
        part.set(Some("not started".to_owned()));
        part
    }

    /// Whether nothing is waited for.
    pub fn is_ready(&self) -> bool {
        !self.stopping.is_cancelled() && self.lock().values().all(Option::is_none)
    }

    /// One line a part, as `/readyz` prints them.
    pub fn report(&self) -> String {
        let mut report = String::new();
        for (name, waits) in &*self.lock() {
            // Writing to a String cannot fail.
            let _ = match waits {
                None => writeln!(report, "{name}: ok"),
                Some(reason) => writeln!(report, "{name}: waiting, {reason}"),
            };
        }
        if self.stopping.is_cancelled() {
            report.push_str("shutting down\n");
        }
        report
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Part ===

impl Part {
    /// Says what is still missing. Nothing, once the part was ready.
    pub fn waits_for(&self, reason: &str) {
        if self.readiness.lock().get(self.name) != Some(&None) {
            self.set(Some(reason.to_owned()));
        }
    }

    /// Says that nothing is missing, for good.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Says what is missing, even if the part was ready: one without which nothing can be done.
    pub fn fails(&self, reason: &str) {
        self.set(Some(reason.to_owned()));
    }

    fn set(&self, waits: Option<String>) {
        self.readiness.lock().insert(self.name, waits);
    }
}

/// `/healthz` and `/readyz`.
pub fn probes(readiness: Readiness) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(readiness)
}

/// `/metrics`, of a process that has no webhook.
pub fn registry(registry: Arc<Registry>) -> Router {
    let print = |State(registry): State<Arc<Registry>>| async move {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text)
    };
    Router::new().route("/metrics", get(print)).with_state(registry)
}

/// `/metrics`.
pub fn metrics(metrics: Arc<Metrics>) -> Router {
    let encode =
        |State(metrics): State<Arc<Metrics>>| async move { ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode()) };
    Router::new().route("/metrics", get(encode)).with_state(metrics)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, readiness.report()).into_response()
}

/// Serves a router in the clear until `stopped`.
pub async fn serve(listener: TcpListener, router: Router, stopped: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the probes' port is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_no_part_waits() {
        let readiness = Readiness::new(CancellationToken::new());
        let (hooks, caches) = (readiness.part("hooks"), readiness.part("caches"));
        assert!(!readiness.is_ready());
        hooks.ready();
        caches.waits_for("namespaces are not listed: connection refused");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "caches: waiting, namespaces are not listed: connection refused\nhooks: ok\n");
        caches.ready();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_part_that_was_ready_stays_so_until_the_process_stops() {
        let stopping = CancellationToken::new();
        let readiness = Readiness::new(stopping.clone());
        let part = readiness.part("caches");
        part.ready();
        part.waits_for("the API server is away");
        assert!(readiness.is_ready());
        stopping.cancel();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "caches: ok\nshutting down\n");
    }
}
