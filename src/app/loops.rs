//! What runs under the Lease: every loop that acts on its own, with the one watch of pods that they share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::controllers::{images, launch, missed, pods, readiness, recreate, sidecarset};
use crate::store::Snapshot;

/// The loops, and what they count.
pub(super) struct Loops {
    /// Who speaks to the API server.
    pub(super) client: Client,
    /// The newest snapshot.
    pub(super) snapshots: Arc<ArcSwap<Snapshot>>,
    /// How many there were.
    pub(super) published: watch::Receiver<u64>,
    /// How changes of SidecarSets are rolled out.
    pub(super) rollout: sidecarset::Settings,
    /// How ContainerRecreateRequests are looked after.
    pub(super) recreate: recreate::Settings,
    /// How images are pulled ahead.
    pub(super) images: images::Settings,
    /// How missed pods are looked for.
    pub(super) missed: missed::Settings,
    /// Counted.
    pub(super) counts: Counts,
}

/// What the loops count, whoever leads.
#[derive(Default)]
pub(super) struct Counts {
    pods: pods::Metrics,
    rollout: sidecarset::metrics::Metrics,
    recreate: recreate::metrics::Metrics,
    images: images::metrics::Metrics,
    launch: launch::metrics::Metrics,
    readiness: readiness::Metrics,
    missed: missed::Gauges,
}

// === impl Counts ===

impl Counts {
    /// Registers everything under the prefix of `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        self.missed.register(registry);
        self.rollout.register(registry);
        self.recreate.register(registry);
        self.images.register(registry);
        self.launch.register(registry);
        self.readiness.register(registry);
        self.pods.register(registry);
    }
}

// === impl Loops ===

impl Loops {
    /// What runs until `stop`.
    pub(super) fn run(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let Self { client, counts, .. } = self;
        let mut hub = pods::Hub::new(client.clone(), counts.pods.clone());
        let known = sidecarset::Known { snapshots: Arc::clone(&self.snapshots), published: self.published.clone() };
        let (settings, metrics) = (self.rollout.clone(), counts.rollout.clone());
        let rollout = sidecarset::run(client.clone(), known, settings, metrics, &mut hub, stop.clone());
        // FG-1
        let recreate = self
            .rollout
            .gates
            .daemon
            .then(|| recreate::run(client.clone(), self.recreate, counts.recreate.clone(), &mut hub, stop.clone()));
        // FG-1, FG-2
        let images =
            self.rollout.gates.image_pull_job.then(|| {
                images::run(client.clone(), self.images.clone(), counts.images.clone(), &mut hub, stop.clone())
            });
        let (settings, metrics) = (launch::Settings::default(), counts.launch.clone());
        let launch = launch::run(client.clone(), settings, metrics, &mut hub, stop.clone());
        let readiness = readiness::run(client.clone(), counts.readiness.clone(), &mut hub, stop.clone());
        let (settings, gauges) = (self.missed.clone(), counts.missed.clone());
        let missed = missed::run(client.clone(), settings, gauges, &mut hub, stop.clone());
        async move {
            let recreate = async {
                match recreate {
                    Some(recreate) => recreate.await,
                    None => stop.cancelled().await,
                }
            };
            let images = async {
                match images {
                    Some(images) => images.await,
                    None => stop.cancelled().await,
                }
            };
            _ = tokio::join!(hub.run(stop.clone()), rollout, recreate, images, launch, readiness, missed);
        }
    }
}
