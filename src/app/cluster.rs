//! In a cluster, wired: watches → snapshot, Secret → certificate, both behind the server; then the registration that sends
//! requests here; and under the Lease, the loops that act on their own.
//!
//! ```text
//! start    ports are bound, so that a conflict is an error at start
//! run      certificate ▶ conversion is answered ▶ caches are filled ▶ hooks are registered ▶ ready
//! stop     not ready ▶ the Lease is let go, nothing is registered any more ▶ requests are still answered for a while,
//!          until every API server and proxy has heard of it ▶ requests in flight are finished
//! ```
//!
//! Each part is a task of its own; the end of one that should run for ever ends the process, and the kubelet starts it again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::loops::{Counts, Loops};
use super::{DRAIN, ambient};
use crate::admission::certs;
use crate::admission::server::{Bound, Drained, Limits, Server};
use crate::admission::{Kinds, Sources, Webhook, router, routes};
use crate::apiserver;
use crate::cluster::authority::{self, Authority};
use crate::cluster::leader::Leader;
use crate::cluster::registration::scope::{self, Terms};
use crate::cluster::registration::{self, Registration};
use crate::cluster::trust::Published;
use crate::controllers::{images, missed, recreate, sidecarset};
use crate::health::{self, Part, Readiness};
use crate::store::Snapshot;
use crate::store::watch::Feed;
use crate::telemetry::{Metrics, chain};

/// How often a part that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Settings of a manager in a cluster.
#[derive(Clone, Debug)]
pub struct InCluster {
    /// How the API server is reached.
    pub config: Config,
    /// Namespace of the operator (WH-8).
    pub operator_namespace: String,
    /// Who this replica is: the pod's name.
    pub identity: String,
    /// Where webhooks are served.
    pub webhook: SocketAddr,
    /// Where `/healthz` and `/readyz` are served, in the clear.
    pub health: SocketAddr,
    /// Where `/metrics` is served, in the clear.
    pub metrics: SocketAddr,
    /// Where the certificate comes from.
    pub certificates: authority::Settings,
    /// What is registered, and for which pods.
    pub registration: registration::Settings,
    /// How changes of SidecarSets are rolled out.
    pub rollout: sidecarset::Settings,
    /// How ContainerRecreateRequests are looked after.
    pub recreate: recreate::Settings,
    /// How images are pulled ahead.
    pub images: images::Settings,
    /// Whether this replica stands for election.
    pub elects: bool,
    /// How long requests are still answered after a signal.
    pub linger: Duration,
    /// Limits of the server.
    pub limits: Limits,
}

/// A manager whose ports are bound.
pub struct Running {
    settings: InCluster,
    client: Client,
    authority: Authority,
    published: watch::Sender<Option<Published>>,
    bound: Bound,
    health: TcpListener,
    metrics: TcpListener,
}

/// What makes the process ready.
struct Parts {
    caches: Part,
    certificate: Part,
    hooks: Part,
}

// === impl InCluster ===

impl InCluster {
    /// Makes the client and binds the ports.
    pub async fn start(self) -> anyhow::Result<Running> {
        let client = apiserver::client(self.config.clone()).context("no client for the API server can be made")?;
        let (published, seen) = watch::channel(None);
        let authority = Authority::new(client.clone(), self.certificates.clone(), seen)?;
        let tls = Arc::new(certs::server_config(authority.resolver()));
        let bound = Server::bind(self.webhook, tls, self.limits.clone()).await?;
        let health = listen(self.health, "--health-probe-addr").await?;
        let metrics = listen(self.metrics, "--metrics-addr").await?;
        Ok(Running { settings: self, client, authority, published, bound, health, metrics })
    }
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}: choose a free port with {flag}"))
}

// === impl Running ===

impl Running {
    /// Where webhooks, health and metrics are served.
    pub fn addresses(&self) -> anyhow::Result<[SocketAddr; 3]> {
        Ok([self.bound.local_addr(), self.health.local_addr()?, self.metrics.local_addr()?])
    }

    /// Serves until `stopping`.
    pub async fn run(self, stopping: CancellationToken) -> anyhow::Result<Drained> {
        let Self { settings, client, authority, published, bound, health, metrics: metrics_port } = self;
        let readiness = Readiness::new(stopping.clone());
        let parts = Parts {
            caches: readiness.part("caches"),
            certificate: readiness.part("certificate"),
            hooks: readiness.part("hooks"),
        };

        let feed = Feed::new(client.clone(), &settings.operator_namespace).with_gates(settings.rollout.gates);
        let (snapshots, feed_health, snapshot_count) = (feed.snapshots(), feed.health(), feed.published());
        let interruption = feed_health.interruption();
        let resolver = authority.resolver();
        let (terms, wanted_terms) = watch::channel(None);
        let registration = Registration::new(
            client.clone(),
            settings.registration.clone(),
            authority.trusted(),
            published,
            wanted_terms,
        );
        let (registered, cover) = (registration.registered(), registration.cover());
        let leader = Leader::new(settings.config.clone(), &settings.operator_namespace, &settings.identity);
        let (asked, gates) = (client.clone(), settings.rollout.gates);
        let counts = Counts::default();

        let expiry = Arc::clone(&resolver);
        let mut metrics = Metrics::new(bound.counts(), move || expiry.not_after()).with_feed(Arc::clone(&feed_health));
        leader.standing().register(metrics.registry());
        counts.register(metrics.registry());
        let metrics = Arc::new(metrics);

        // The server's end is the process's end: until then probes and metrics answer.
        let stopped = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(health::serve(health, health::probes(readiness), stopped.clone()));
        tasks.spawn(health::serve(metrics_port, health::metrics(Arc::clone(&metrics)), stopped.clone()));
        tasks.spawn(feed.run(stopping.clone()));
        tasks.spawn(follow_terms(Arc::clone(&snapshots), snapshot_count.clone(), terms, stopping.clone()));

        tasks.spawn(keep_certificate(authority, stopping.clone()));
        tasks.spawn(registration.run(stopping.clone()));
        let unlisted = move || (!feed_health.is_synced()).then(|| feed_health.missing().join("; "));
        tasks.spawn(tell(parts.caches, unlisted, stopping.clone()));
        let no_certificate = move || {
            let why = || "there is none yet; the log of this replica says why".to_owned();
            resolver.not_after().is_none().then(why)
        };
        tasks.spawn(tell(parts.certificate, no_certificate, stopping.clone()));
        tasks.spawn(tell_registered(registered, parts.hooks, stopping.clone()));
        if settings.elects {
            let loops = Loops {
                client,
                snapshots: Arc::clone(&snapshots),
                published: snapshot_count.clone(),
                rollout: settings.rollout.clone(),
                recreate: settings.recreate,
                images: settings.images,
                missed: missed::Settings::new(&settings.operator_namespace),
                counts,
            };
            let work = move |stop: CancellationToken| loops.run(stop);
            tasks.spawn(leader.run(work, stopping.clone()));
        }

        let kinds = Kinds { cover, gate: snapshot_count, interruption, client: asked, gates };
        let webhook = Webhook {
            routes: routes(Sources { snapshot: snapshots, kinds: Some(kinds), ambient }),
            limits: settings.limits.clone(),
            metrics,
            shutdown: stopping.clone(),
        };
        // Requests are answered a while longer than the process calls itself ready.
        let closing = CancellationToken::new();
        let serve = tokio::spawn(bound.serve(router(webhook), closing.clone(), DRAIN));

        let lost = loop {
            tokio::select! {
                () = stopping.cancelled() => break None,
                Some(ended) = tasks.join_next() => {
                    if let Err(crash) = ended {
                        break Some(crash);
                    }
                    if !stopping.is_cancelled() {
                        bail!("a part of the manager ended that should run for ever; the log says which");
                    }
                }
            }
        };
        if let Some(crash) = lost {
            stopping.cancel();
            closing.cancel();
            let _drained = serve.await;
            bail!("a part of the manager crashed: {crash}");
        }
        tokio::time::sleep(settings.linger).await;
        closing.cancel();
        let drained = serve.await.context("the server crashed")?;
        stopped.cancel();
        // The Lease is let go by now; what still hangs on the API server is cut.
        tasks.shutdown().await;
        Ok(drained)
    }
}

/// Tells the registration which pods SidecarSets can select.
async fn follow_terms(
    snapshots: Arc<ArcSwap<Snapshot>>,
    mut published: watch::Receiver<u64>,
    terms: watch::Sender<Option<Arc<Terms>>>,
    stopping: CancellationToken,
) {
    let mut before: Option<Arc<Snapshot>> = None;
    loop {
        let is_published = *published.borrow_and_update() > 0;
        let snapshot = snapshots.load_full();
        let is_same = before.as_ref().is_some_and(|before| before.objects().has_same_sets(snapshot.objects()));
        if is_published && !is_same {
            let sets = snapshot.objects().sidecarsets();
            let selectors = sets.filter_map(|stored| {
                scope::term(stored.set.spec.selector.as_ref(), stored.set.spec.namespace_selector.as_ref())
            });
            terms.send_replace(Some(Arc::new(selectors.collect())));
            before = Some(snapshot);
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = published.changed() => if changed.is_err() { return },
        }
    }
}

async fn keep_certificate(authority: Authority, stopping: CancellationToken) {
    if let Err(error) = authority.run(stopping.clone()).await {
        tracing::error!(error = chain(&error), "there is no certificate to serve");
        stopping.cancel();
    }
}

/// Ready once nothing is missing any more.
async fn tell(part: Part, missing: impl Fn() -> Option<String>, stopping: CancellationToken) {
    while !stopping.is_cancelled()
        && let Some(why) = missing()
    {
        part.waits_for(&why);
        tokio::time::sleep(LOOK).await;
    }
    part.ready();
    stopping.cancelled().await;
}

/// Ready once the API server sends requests here.
async fn tell_registered(mut registered: watch::Receiver<bool>, hooks: Part, stopping: CancellationToken) {
    hooks.waits_for("they are not registered yet; the log of this replica says why");
    tokio::select! {
        () = stopping.cancelled() => return,
        found = registered.wait_for(|registered| *registered) => if found.is_err() { return },
    }
    hooks.ready();
    stopping.cancelled().await;
}
