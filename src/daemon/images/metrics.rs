//! What the puller counts. Labels come from closed sets.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::nodeimage::NodeImageStatus;
use crate::images::tag::Fault;

/// What became of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// The runtime pulled it.
    Now,
    /// It was there.
    Before,
    /// It was given up.
    Never,
}

/// What became of a write of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was done.
    Done,
    /// The object had changed meanwhile.
    Conflict,
    /// There is no object.
    Gone,
    /// It failed.
    Failed,
}

/// Metrics of the puller. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pulls: Family<[(&'static str, &'static str); 1], Counter>,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
    writes: Family<[(&'static str, &'static str); 1], Counter>,
    tags: Family<[(&'static str, &'static str); 1], Gauge>,
}

// === impl Pulled ===

impl Pulled {
    const ALL: [Self; 3] = [Self::Now, Self::Before, Self::Never];

    fn name(self) -> &'static str {
        match self {
            Self::Now => "pulled",
            Self::Before => "present",
            Self::Never => "failed",
        }
    }
}

// === impl Written ===

impl Written {
    const ALL: [Self; 4] = [Self::Done, Self::Conflict, Self::Gone, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("image_pulls", "Tags of the NodeImage that ended, by result", self.pulls.clone());
        registry.register("image_pull_failures", "Attempts to pull that failed, by reason", self.failures.clone());
        registry.register("image_status_writes", "Writes of the NodeImage's status by result", self.writes.clone());
        registry.register("image_tags", "Tags of the NodeImage by phase", self.tags.clone());
        for pulled in Pulled::ALL {
            drop(self.pulls.get_or_create(&[("result", pulled.name())]));
        }
        for fault in Fault::ALL {
            drop(self.failures.get_or_create(&[("reason", fault.name())]));
        }
        for written in Written::ALL {
            drop(self.writes.get_or_create(&[("result", written.name())]));
        }
        self.phases(&NodeImageStatus::default());
    }

    pub(super) fn pulled(&self, pulled: Pulled) {
        self.pulls.get_or_create(&[("result", pulled.name())]).inc();
    }

    pub(super) fn failed(&self, fault: Fault) {
        self.failures.get_or_create(&[("reason", fault.name())]).inc();
    }

    pub(super) fn wrote(&self, written: Written) {
        self.writes.get_or_create(&[("result", written.name())]).inc();
    }

    pub(super) fn phases(&self, status: &NodeImageStatus) {
        let NodeImageStatus { succeeded, failed, pulling, waiting, .. } = status;
        for (phase, count) in [("succeeded", succeeded), ("failed", failed), ("pulling", pulling), ("waiting", waiting)]
        {
            self.tags.get_or_create(&[("phase", phase)]).set(i64::from(*count));
        }
    }
}
