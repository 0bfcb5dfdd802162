//! Who runs the controllers: the holder of one Lease.
//!
//! Webhooks are served by every replica and need no leader. What writes to the cluster on its own runs in
//! [`Leader::run`]'s `work`, which is cancelled the moment the Lease is no longer surely ours: a request to the API server
//! that hangs or fails counts as lost, well before others may take the Lease over.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::apiserver;
use crate::telemetry::chain;

/// Name of the Lease, the reference's: while a cluster is switched over, only one of the two acts.
pub const LEASE: &str = "kruise-manager";

/// How long a Lease counts after its last renewal, in seconds.
const DURATION_SECONDS: u64 = 15;
/// How long before that the holder renews it, in seconds.
const GRACE_SECONDS: u64 = 12;
/// How long one request about the Lease may take; with the renewal it stays within the time that others wait.
const REQUEST: Duration = Duration::from_secs(5);

/// `outrigger_leader`, 1 while the Lease is ours, and `outrigger_leader_elections_total`, how often it became ours.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    leads: Gauge,
    elections: Counter,
}

/// A candidate.
pub struct Leader {
    config: kube::Config,
    namespace: String,
    identity: String,
    standing: Standing,
}

// === impl Standing ===

impl Standing {
    /// Registers both.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("leader", "Whether this replica runs the controllers", self.leads.clone());
        registry.register("leader_elections", "How often this replica came to lead", self.elections.clone());
    }
}

// === impl Leader ===

impl Leader {
    /// A candidate called `identity`, such as the pod's name, for the Lease in `namespace`.
    pub fn new(mut config: kube::Config, namespace: &str, identity: &str) -> Self {
        config.connect_timeout = Some(REQUEST);
        config.read_timeout = Some(REQUEST);
        config.write_timeout = Some(REQUEST);
        Self { config, namespace: namespace.to_owned(), identity: identity.to_owned(), standing: Standing::default() }
    }

    /// What metrics show.
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Runs `work` whenever the Lease is ours, until `shutdown`; then lets go of the Lease, so that the next replica need
    /// not wait for its end. `work` gets a token that is cancelled when it must stop.
    pub async fn run<W, F>(self, work: W, shutdown: CancellationToken)
    where
        W: Fn(CancellationToken) -> F,
        F: Future<Output = ()>,
    {
        let mut pauses = pauses();
        while !shutdown.is_cancelled() {
            let manager = match self.candidate().await {
                Ok(manager) => manager,
                Err(error) => {
                    tracing::warn!(error = chain(&*error), lease = LEASE, "cannot stand for election; trying again");
                    pause(&mut pauses, &shutdown).await;
                    continue;
                }
            };
            let led = self.stand(&manager, &work, &shutdown).await;
            // Only a holder lets go; for others this does nothing.
            if let Ok(Err(error)) = tokio::time::timeout(REQUEST, manager.release()).await {
                tracing::debug!(error = chain(&error), "the Lease was not released; it ends by itself");
            }
            if led {
                pauses = self::pauses();
            }
            pause(&mut pauses, &shutdown).await;
        }
    }

    async fn candidate(&self) -> anyhow::Result<LeaseManager> {
        let client = apiserver::client(self.config.clone())?;
        let lease = LeaseManagerBuilder::new(client, LEASE)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS);
        Ok(lease.build().await?)
    }

    /// One candidacy: waits for the Lease, works while it is ours. Ends when it is lost, or with `shutdown`; says whether
    /// it ever was ours.
    async fn stand<W, F>(&self, manager: &LeaseManager, work: &W, shutdown: &CancellationToken) -> bool
    where
        W: Fn(CancellationToken) -> F,
        F: Future<Output = ()>,
    {
        if !self.is_ours(manager, shutdown).await {
            return false;
        }
        self.standing.leads.set(1);
        self.standing.elections.inc();
        tracing::info!(identity = self.identity, "this replica leads");
        let stop = shutdown.child_token();
        let lost = async {
            let _still_ours = self.is_ours(manager, shutdown).await;
            stop.cancel();
        };
        tokio::join!(work(stop.clone()), lost);
        self.standing.leads.set(0);
        tracing::info!(identity = self.identity, "this replica no longer leads");
        true
    }

    /// Waits for the next change of the Lease. An error is a loss.
    async fn is_ours(&self, manager: &LeaseManager, shutdown: &CancellationToken) -> bool {
        tokio::select! {
            () = shutdown.cancelled() => false,
            changed = manager.changed() => changed.unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), lease = LEASE, "the Lease cannot be read or renewed");
                false
            }),
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

async fn pause(pauses: &mut impl Iterator<Item = Duration>, shutdown: &CancellationToken) {
    let pause = pauses.next().unwrap_or(Duration::from_secs(5));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
