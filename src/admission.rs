//! From the socket to the answer: `server` (TLS, limits) → the routes below → `review` → `pod` → `patch`.
//!
//! A handler reads the body, takes one snapshot and answers; it holds nothing across an await and calls nobody.

pub mod certs;
pub mod patch;
pub mod pod;
pub mod review;
pub mod server;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use review::{Answer, Outcome};
use server::Limits;

/// Path of the pod webhook (WH-2).
pub const MUTATE_POD: &str = "/mutate-pod";

/// Answers the body of one request.
pub type Admit = Box<dyn Fn(&[u8]) -> Answer + Send + Sync>;

/// What the handlers share.
pub struct Webhook {
    /// Answers one review.
    pub admit: Admit,
    /// Limits of a request.
    pub limits: Limits,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Set when the process is going away: `/readyz` then says so.
    pub shutdown: CancellationToken,
}

/// All routes.
pub fn router(webhook: Webhook) -> Router {
    Router::new()
        .route(MUTATE_POD, post(mutate_pod).fallback(use_post))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .with_state(Arc::new(webhook))
}

async fn mutate_pod(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let body = match server::read_body(body, &webhook.limits).await {
        Ok(body) => body,
        Err(error) => {
            webhook.metrics.record(Outcome::Anonymous, started.elapsed());
            tracing::info!(%error, "body not read");
            return (error.status(), format!("{error}\n")).into_response();
        }
    };
    if !is_json(&head.headers) {
        let message =
            "the media type is not application/json; send the AdmissionReview with content-type: application/json";
        let answer = review::unreadable(&body, message);
        webhook.metrics.record(answer.outcome, started.elapsed());
        return respond(StatusCode::UNSUPPORTED_MEDIA_TYPE, answer);
    }
    // WH-10: a crash costs this one request. Nothing is shared that it could leave half-done: a snapshot is immutable.
    let answer = catch_unwind(AssertUnwindSafe(|| (webhook.admit)(&body))).unwrap_or_else(|_| review::crashed(&body));
    webhook.metrics.record(answer.outcome, started.elapsed());
    let status = if answer.outcome == Outcome::Anonymous { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    respond(status, answer)
}

fn respond(status: StatusCode, answer: Answer) -> Response {
    if let Some(message) = &answer.message {
        tracing::info!(outcome = ?answer.outcome, error = message, "pod not admitted");
    }
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(answer.body)).into_response()
}

/// Whether the body is said to be JSON, parameters such as a charset aside.
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn use_post() -> Response {
    let message = "this path takes POST with an AdmissionReview as application/json\n";
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], message).into_response()
}

async fn not_found() -> Response {
    let message = format!("nothing here; there are {MUTATE_POD}, /healthz, /readyz and /metrics\n");
    (StatusCode::NOT_FOUND, message).into_response()
}

async fn readyz(State(webhook): State<Arc<Webhook>>) -> Response {
    if webhook.shutdown.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    "ok\n".into_response()
}

async fn metrics(State(webhook): State<Arc<Webhook>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], webhook.metrics.encode()).into_response()
}
