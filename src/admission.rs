//! From the socket to the answer: `server` (TLS, limits) → the table of [`routes`] below → the function of the path.
//!
//! A handler reads the body, takes one snapshot and answers; it holds nothing across an await and calls nobody. The one
//! that asks the API server, `recreate`, concerns objects of our own kind only.

pub mod certs;
pub mod convert;
pub mod diff;
pub mod envelope;
pub mod imagelist;
pub mod nodeimage;
mod object;
pub mod patch;
pub mod pod;
pub mod pulljob;
pub mod recreate;
pub mod review;
pub mod server;
pub mod sidecarset;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::Client;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::cluster::registration::Cover;
use crate::gates::Gates;
use crate::store::watch::Interruption;
use crate::store::{self, Snapshot};
use crate::telemetry::{Admissions, Metrics};
use envelope::{Answer, Failure, Named, Outcome};
use pod::Ambient;
use server::Limits;

/// Path of the pod webhook (WH-2).
pub const MUTATE_POD: &str = "/mutate-pod";
/// Path that defaults and hashes SidecarSets (WH-2).
pub const MUTATE_SIDECARSET: &str = "/mutate-apps-kruise-io-sidecarset";
/// Path that validates SidecarSets (WH-2).
pub const VALIDATE_SIDECARSET: &str = "/validate-apps-kruise-io-sidecarset";
/// Path that defaults and validates ContainerRecreateRequests (WH-2).
pub const MUTATE_RECREATE: &str = "/mutate-apps-kruise-io-containerrecreaterequest";
/// Path that defaults ImagePullJobs (WH-2).
pub const MUTATE_PULL_JOB: &str = "/mutate-apps-kruise-io-imagepulljob";
/// Path that validates ImagePullJobs (WH-2).
pub const VALIDATE_PULL_JOB: &str = "/validate-apps-kruise-io-imagepulljob";
/// Path that defaults ImageListPullJobs (LIST-1).
pub const MUTATE_IMAGE_LIST: &str = "/mutate-apps-kruise-io-imagelistpulljob";
/// Path that validates ImageListPullJobs (LIST-1).
pub const VALIDATE_IMAGE_LIST: &str = "/validate-apps-kruise-io-imagelistpulljob";
/// Path that defaults NodeImages (WH-2).
pub const MUTATE_NODE_IMAGE: &str = "/mutate-apps-kruise-io-nodeimage";
/// Path that validates NodeImages (WH-2).
pub const VALIDATE_NODE_IMAGE: &str = "/validate-apps-kruise-io-nodeimage";

/// Answers the body of one request.
pub enum Admit {
    /// From what is known.
    AtOnce(AtOnce),
    /// After having asked the API server.
    Asking(Asking),
}

/// See [`Admit::AtOnce`].
pub type AtOnce = Box<dyn Fn(&[u8]) -> Answer + Send + Sync>;
/// See [`Admit::Asking`].
pub type Asking = Box<dyn Fn(&[u8]) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What has to happen in the cluster before an object is admitted, or why it did not happen.
pub type Settle = Box<dyn Fn(&[u8]) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A path that takes POST, and what answers there.
pub struct Route {
    /// The path; it is also a label of metrics.
    pub path: &'static str,
    /// Answers a body.
    pub admit: Admit,
    /// Answers a body that `admit` does not get to see, or crashes over.
    pub fail: fn(&[u8], Failure) -> Answer,
    /// Awaited between the decision to admit and the answer.
    pub settle: Option<Settle>,
    /// What must be known before anybody is answered.
    pub gate: Option<Gate>,
    /// Whether changes of SidecarSets are heard of; a pod waits a little while they are not.
    pub interruption: Option<watch::Receiver<Interruption>>,
    /// How many times the usual limit a body may have.
    pub bodies: usize,
}

/// Shut until the number is not 0: how many snapshots were published.
pub type Gate = watch::Receiver<u64>;

/// Said to who waited at a gate in vain.
const SHUT: &str = "outrigger has only just started and does not know every SidecarSet yet: try again in a moment; /readyz says what is missing";

/// Said to who asked about a pod in a namespace that the watch has not told of.
const NO_NAMESPACE: &str =
    "outrigger does not know the pod's namespace yet, and a SidecarSet asks for its labels: try again in a moment";

/// How long a request waits at a gate, within the time that its body has.
const GATE: Duration = Duration::from_secs(2);

/// What the functions of the table read. Each request takes what is newest.
pub struct Sources {
    /// For pods.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// For the kinds that are ours; `None` where no API server asks about them.
    pub kinds: Option<Kinds>,
    /// The clock and the dice.
    pub ambient: fn() -> Ambient,
}

/// What the webhooks of the kinds that are ours need besides.
pub struct Kinds {
    /// Sees to it that the pods of a SidecarSet are sent before it is stored.
    pub cover: Cover,
    /// Shut until the first snapshot: before, a pod would pass without its sidecars.
    pub gate: Gate,
    /// Whether changes of SidecarSets are heard of.
    pub interruption: watch::Receiver<Interruption>,
    /// Who is asked about the pod of a ContainerRecreateRequest.
    pub client: Client,
    /// What is switched on.
    pub gates: Gates,
}

/// Path → function (WH-2).
pub fn routes(sources: Sources) -> Vec<Route> {
    let Sources { snapshot, kinds, ambient } = sources;
    let pods = Arc::clone(&snapshot);
    let pods = Route::of_reviews(MUTATE_POD, move |body| review::answer(body, &pods.load(), &ambient()));
    let Some(Kinds { cover, gate, interruption, client, gates }) = kinds else { return vec![pods] };
    let validate = move |body: &[u8]| sidecarset::validate(body, snapshot.load().objects());
    let validate = Route::of_reviews(VALIDATE_SIDECARSET, validate);
    vec![
        Route { gate: Some(gate.clone()), interruption: Some(interruption), ..pods },
        Route::of_reviews(MUTATE_SIDECARSET, sidecarset::mutate),
        Route { settle: Some(cover_pods(cover)), gate: Some(gate), ..validate },
        recreate::route(client, gates),
        Route::of_reviews(MUTATE_PULL_JOB, pulljob::mutate),
        Route::of_reviews(VALIDATE_PULL_JOB, move |body| pulljob::validate(body, gates)),
        Route::of_reviews(MUTATE_IMAGE_LIST, imagelist::mutate),
        Route::of_reviews(VALIDATE_IMAGE_LIST, move |body| imagelist::validate(body, gates)),
        Route::of_reviews(MUTATE_NODE_IMAGE, move |body| nodeimage::mutate(body, ambient().now)),
        Route::of_reviews(VALIDATE_NODE_IMAGE, move |body| nodeimage::validate(body, gates)),
        convert::route(),
    ]
}

fn cover_pods(cover: Cover) -> Settle {
    Box::new(move |body| {
        let set = sidecarset::to_be_stored(body);
        let cover = cover.clone();
        Box::pin(async move {
            match set {
                Some(set) => cover.cover(&set).await.map_err(|error| error.to_string()),
                None => Ok(()),
            }
        })
    })
}

/// What the handlers share.
pub struct Webhook {
    /// The paths that take POST.
    pub routes: Vec<Route>,
    /// Limits of a request.
    pub limits: Limits,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Set when the process is going away: `/readyz` then says so.
    pub shutdown: CancellationToken,
}

/// All paths: those of the table, and those for who runs the process.
pub fn router(mut webhook: Webhook) -> Router {
    let table = std::mem::take(&mut webhook.routes);
    let paths: Vec<&str> = table.iter().map(|route| route.path).collect();
    let nothing_here = format!("nothing here; there are {}, /healthz, /readyz and /metrics\n", paths.join(", "));
    let webhook = Arc::new(webhook);

    let mut router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    for route in table {
        let admissions = webhook.metrics.admissions(route.path);
        let body_bytes = webhook.limits.body_bytes.saturating_mul(route.bodies);
        let limits = Limits { body_bytes, ..webhook.limits.clone() };
        let posted = Arc::new(Posted { limits, route, admissions });
        let path = posted.route.path;
        let handler = move |request| Arc::clone(&posted).answer(request);
        router = router.route(path, post(handler).fallback(use_post));
    }
    router.fallback(|| async { (StatusCode::NOT_FOUND, nothing_here) }).with_state(webhook)
}

/// One path of the running server.
struct Posted {
    limits: Limits,
    route: Route,
    admissions: Admissions,
}

// === impl Route ===

impl Route {
    /// A path that takes AdmissionReviews.
    pub fn of_reviews(path: &'static str, admit: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::new(path, Admit::AtOnce(Box::new(admit)))
    }

    /// A path that takes AdmissionReviews and asks the API server before it answers.
    pub fn asking(
        path: &'static str,
        admit: impl Fn(&[u8]) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::new(path, Admit::Asking(Box::new(admit)))
    }

    fn new(path: &'static str, admit: Admit) -> Self {
        Self { path, admit, fail: envelope::failed, settle: None, gate: None, interruption: None, bodies: 1 }
    }
}

// === impl Posted ===

impl Posted {
    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let body = match server::read_body(body, &self.limits).await {
            Ok(body) => body,
            Err(error) => {
                self.admissions.record(Outcome::Anonymous, started.elapsed());
                tracing::info!(path = self.route.path, %error, "body not read");
                return (error.status(), format!("{error}\n")).into_response();
            }
        };
        let is_json = is_json(&head.headers);
        let mut answer = match (is_json, self.is_open().await) {
            (false, _) => (self.route.fail)(&body, Failure::MediaType),
            (true, false) => (self.route.fail)(&body, Failure::Unsettled(SHUT.to_owned())),
            (true, true) => {
                self.catch_up().await;
                self.admit_in_known_namespace(&body).await
            }
        };
        if let Some(settle) = &self.route.settle
            && matches!(answer.outcome, Outcome::Unchanged | Outcome::Patched)
            && let Err(reason) = settle(&body).await
        {
            answer = (self.route.fail)(&body, Failure::Unsettled(reason));
        }
        self.admissions.record(answer.outcome, started.elapsed());
        self.log(&body, &answer);
        let status = match answer.outcome {
            _ if !is_json => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Outcome::Anonymous => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        (status, [(header::CONTENT_TYPE, "application/json")], Body::from(answer.body)).into_response()
    }

    /// Whether enough is known to answer; waits for it a little.
    async fn is_open(&self) -> bool {
        let Some(gate) = &self.route.gate else { return true };
        if *gate.borrow() > 0 {
            return true;
        }
        matches!(timeout(GATE, gate.clone().wait_for(|published| *published > 0)).await, Ok(Ok(_)))
    }

    /// Whenever a CRD changes the API server ends the watch for its objects, and takes a second until there can be another. A
    /// pod of that second must not miss the sidecars of a SidecarSet of that second.
    async fn catch_up(&self) {
        if let Some(interruption) = &self.route.interruption {
            store::watch::caught_up(interruption).await;
        }
    }

    /// A pod can be created before the watch has told of its namespace. It must not miss its sidecar for that: the answer
    /// waits for the next snapshots. Without a cluster there is nobody to wait for.
    async fn admit_in_known_namespace(&self, body: &[u8]) -> Answer {
        let mut answer = self.admit(body).await;
        if !answer.lacks_namespace {
            return answer;
        }
        let Some(gate) = &self.route.gate else { return answer };
        let (mut published, end) = (gate.clone(), tokio::time::Instant::now() + GATE);
        while answer.lacks_namespace {
            if !matches!(timeout_at(end, published.changed()).await, Ok(Ok(()))) {
                return (self.route.fail)(body, Failure::Unsettled(NO_NAMESPACE.to_owned()));
            }
            answer = self.admit(body).await;
        }
        answer
    }

    /// WH-10: a crash costs this one request. Nothing is shared that it could leave half-done: a snapshot is immutable.
    async fn admit(&self, body: &[u8]) -> Answer {
        let answered = match &self.route.admit {
            Admit::AtOnce(admit) => catch_unwind(AssertUnwindSafe(|| admit(body))),
            Admit::Asking(admit) => AssertUnwindSafe(async { admit(body).await }).catch_unwind().await,
        };
        answered.unwrap_or_else(|panic| {
            let reason = reason(&*panic).to_owned();
            Answer { message: Some(reason), ..(self.route.fail)(body, Failure::Crash) }
        })
    }

    /// Says what became of a request. The body is looked into for its names only when the line is written.
    fn log(&self, body: &[u8], answer: &Answer) {
        macro_rules! line {
            ($level:ident, $message:literal) => {
                if tracing::enabled!(tracing::Level::$level) {
                    let Named { uid, operation, namespace, name } = Named::of(body);
                    let error = answer.message.as_deref();
                    let (path, outcome) = (self.route.path, answer.outcome.name());
                    tracing::event!(
                        tracing::Level::$level,
                        path,
                        uid,
                        operation,
                        namespace,
                        name,
                        outcome,
                        error,
                        $message
                    );
                }
            };
        }
        match answer.outcome {
            Outcome::Unchanged | Outcome::Patched => line!(DEBUG, "admitted"),
            Outcome::Refused | Outcome::Malformed | Outcome::Anonymous => line!(INFO, "not admitted"),
            Outcome::Crashed => line!(ERROR, "not admitted, as its handler crashed"),
        }
    }
}

/// What a panic said.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    envelope::shortened(said.unwrap_or("a panic without words"))
}

/// Whether the body is said to be JSON, parameters such as a charset aside.
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn use_post() -> Response {
    let message = "this path takes POST with a review as application/json\n";
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], message).into_response()
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
