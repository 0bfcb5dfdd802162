//! The node's side: restarts containers of its own pods, as ContainerRecreateRequests ask (DMN, CRR), and pulls images ahead,
//! as its NodeImage asks ([`images`]).
//!
//! ```text
//! watch of this node's requests ─┐            a worker for each pod with live requests
//! watch of this node's pods ─────┼─▶ known ─▶ asks the runtime ▶ recreate::step decides ▶ acts: one step at a time
//! own writes, as answered ───────┘                                 ├─ /status of the request (nothing else is written)
//! cri::detect ─▶ runtimes ───────────────▶                         ├─ hook: command, HTTP, sleep
//!                                                                  └─ stop of a container
//! ```
//!
//! WEAK-6: workers wait without a thread, so any number of slow pods holds up no other. All that must outlive the process
//! is in the statuses of requests; a process that is killed is followed by one that goes on from there.

pub mod events;
pub mod hook;
pub mod http;
pub mod images;
pub mod metrics;
mod node;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use crate::apiserver;
use crate::cri;
use crate::cri::detect::{Detector, Pace, Places};
use crate::gates::Gates;
use crate::health::{self, Readiness};

/// How it works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the API server is reached.
    pub config: Config,
    /// Name of this node.
    pub node: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, in the clear (DMN-2).
    pub address: SocketAddr,
    /// Where container runtimes are looked for.
    pub places: Places,
    /// How often they are asked.
    pub pace: Pace,
    /// Whether it only says what it would do.
    pub is_dry_run: bool,
    /// What is switched on.
    pub gates: Gates,
    /// What pulls may take of the node.
    pub limits: images::Limits,
}

/// A daemon whose port is bound.
pub struct Running {
    settings: Settings,
    client: Client,
    listener: TcpListener,
}

// === impl Settings ===

impl Settings {
    /// Makes the client and binds the port.
    pub async fn start(self) -> anyhow::Result<Running> {
        let client = apiserver::client(self.config.clone()).context("no client for the API server can be made")?;
        let listener = TcpListener::bind(self.address).await;
        let listener =
            listener.with_context(|| format!("cannot listen on {}: choose a free port with --addr", self.address))?;
        Ok(Running { settings: self, client, listener })
    }
}

// === impl Running ===

impl Running {
    /// Where it is served.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Works until `stopping`. What is under way then is left to the next process (DMN-6).
    pub async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let Self { settings, client, listener } = self;
        let readiness = Readiness::new(stopping.clone());
        let mut registry = Registry::with_prefix("outrigger");
        let metrics = Metrics::default();
        metrics.register(&mut registry);
        let pulls = images::metrics::Metrics::default();
        pulls.register(&mut registry);
        let calls = cri::Metrics::default();
        calls.register(&mut registry);
        let detector = Detector::new(&settings.places, settings.pace, &calls);
        detector.register(&mut registry);
        let runtimes = detector.runtimes();

        // Differs: DMN-3. Who hears nothing of the API server or of a runtime is not ready; to be started again helps nobody.
        let routes = health::probes(readiness.clone()).merge(health::registry(Arc::new(registry)));
        let mut tasks = JoinSet::new();
        tasks.spawn(health::serve(listener, routes, stopping.clone()));
        tasks.spawn(detector.run(readiness.part("runtime"), stopping.clone()));
        if settings.is_dry_run {
            tracing::info!(node = settings.node, "a dry run: it is only told what would be done");
        }
        if !settings.gates.daemon {
            tracing::warn!("KruiseDaemon=false: requests are not carried out");
        }
        let Settings { node, is_dry_run, gates, limits, .. } = settings;
        let shared = node::Shared::new(client.clone(), node.clone(), is_dry_run, runtimes.clone(), metrics.clone());
        let shared = Arc::new(shared);
        if gates.daemon {
            tasks.spawn(node::run(node::Node {
                shared: Arc::clone(&shared),
                requests_part: readiness.part("requests"),
                pods_part: readiness.part("pods"),
                stopping: stopping.clone(),
            }));
        }
        // Never on without the other, whose watch of pods it uses (FG-2).
        if gates.image_pull_job {
            tasks.spawn(images::run(images::Images {
                client,
                node,
                is_dry_run,
                runtimes,
                pods: shared,
                limits,
                part: readiness.part("images"),
                metrics: pulls,
                restarts: metrics,
                stopping: stopping.clone(),
            }));
        } else {
            tracing::info!("images are not pulled: the gate ImagePullJobGate is off");
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a part of the daemon crashed")?;
            if !stopping.is_cancelled() {
                bail!("a part of the daemon ended that should run for ever; the log says which");
            }
        }
        Ok(())
    }
}
