//! What the daemon counts. Labels come from closed sets.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The status of a request was written.
    Write,
    /// A hook ran.
    Hook,
    /// A container was stopped.
    Stop,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It was done.
    Done,
    /// The object had changed meanwhile: it is looked at again.
    Conflict,
    /// The object is gone.
    Gone,
    /// It failed.
    Failed,
    /// It took too long.
    Slow,
}

/// Metrics of the daemon. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    deeds: Family<[(&'static str, &'static str); 2], Counter>,
    live: Gauge,
    pods: Gauge,
    restarts: Counter,
}

// === impl Deed ===

impl Deed {
    const ALL: [Self; 3] = [Self::Write, Self::Hook, Self::Stop];

    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Hook => "hook",
            Self::Stop => "stop",
        }
    }
}

// === impl Became ===

impl Became {
    const ALL: [Self; 5] = [Self::Done, Self::Conflict, Self::Gone, Self::Failed, Self::Slow];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Failed => "failed",
            Self::Slow => "slow",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "recreate_steps",
            "Steps of ContainerRecreateRequests by kind and result",
            self.deeds.clone(),
        );
        registry.register("recreate_requests", "Live ContainerRecreateRequests of this node", self.live.clone());
        registry.register("daemon_pods", "Pods of this node", self.pods.clone());
        registry.register("daemon_watch_restarts", "How often a watch broke and began again", self.restarts.clone());
        for deed in Deed::ALL {
            for became in Became::ALL {
                drop(self.deeds.get_or_create(&[("step", deed.name()), ("result", became.name())]));
            }
        }
    }

    pub(super) fn did(&self, deed: Deed, became: Became) {
        self.deeds.get_or_create(&[("step", deed.name()), ("result", became.name())]).inc();
    }

    pub(super) fn live(&self, count: usize) {
        self.live.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn pods(&self, count: usize) {
        self.pods.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }
}
