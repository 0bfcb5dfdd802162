//! What the controllers of images count. Labels come from closed sets.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::cluster::CallError;
use crate::images::board::Counts;
use crate::images::node::Verdict;

/// Metrics of the controllers. A clone shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    jobs: Gauge,
    pulling: Gauge,
    queued: Gauge,
    handed_out: Counter,
    succeeded: Counter,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    restarts: Family<[(&'static str, &'static str); 1], Counter>,
    plans: Histogram,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The API server took it.
    Done,
    /// The object had changed.
    Conflict,
    /// The object is gone.
    Gone,
    /// The API server, or a webhook of it, refused it.
    Refused,
    /// There was no answer, or one that says nothing.
    Unanswered,
}

/// Bounds in seconds of one plan.
const BUCKETS: [f64; 7] = [0.000_1, 0.000_5, 0.002_5, 0.01, 0.05, 0.25, 1.0];
/// What is written.
pub(super) const OBJECTS: [&str; 5] = ["nodeimage", "verdict", "job", "list", "secret"];
/// What is watched.
pub(super) const WATCHES: [&str; 5] = ["imagepulljobs", "nodeimages", "nodes", "imagelistpulljobs", "secrets"];

// === impl Taken ===

impl Taken {
    const ALL: [Self; 5] = [Self::Done, Self::Conflict, Self::Gone, Self::Refused, Self::Unanswered];

    /// Of a write that was not.
    pub fn of(error: &CallError) -> Self {
        match error.code() {
            Some(404) => Self::Gone,
            Some(409) => Self::Conflict,
            Some(429) => Self::Unanswered,
            Some(400..=500) => Self::Refused,
            _ => Self::Unanswered,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
        }
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            jobs: Gauge::default(),
            pulling: Gauge::default(),
            queued: Gauge::default(),
            handed_out: Counter::default(),
            succeeded: Counter::default(),
            failures: Family::default(),
            writes: Family::default(),
            restarts: Family::default(),
            plans: Histogram::new(BUCKETS),
        }
    }
}

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        let help = "ImagePullJobs that go on; told by the leader";
        registry.register("image_jobs_active", help, self.jobs.clone());
        let help = "Nodes that pull, counted for each job; told by the leader";
        registry.register("image_nodes_pulling", help, self.pulling.clone());
        let help = "NodeImages that wait to be written; told by the leader";
        registry.register("image_writes_queued", help, self.queued.clone());
        let help = "Nodes that were handed an image";
        registry.register("image_nodes_handed_out", help, self.handed_out.clone());
        registry.register("image_nodes_succeeded", "Nodes that have an image", self.succeeded.clone());
        registry.register("image_nodes_failed", "Nodes that gave an image up, by cause", self.failures.clone());
        registry.register("image_writes", "Writes by kind of object and result", self.writes.clone());
        let help = "How often a watch broke and began again";
        registry.register("image_watch_restarts", help, self.restarts.clone());
        let help = "Time to decide what is to be done after a change";
        registry.register_with_unit("image_plan_duration", help, Unit::Seconds, self.plans.clone());
        let causes = Verdict::ALL.map(Verdict::name).into_iter().chain(["reported", "unwritable"]);
        for cause in causes {
            drop(self.failures.get_or_create(&[("cause", cause)]));
        }
        for object in OBJECTS {
            for taken in Taken::ALL {
                drop(self.writes.get_or_create(&[("object", object), ("result", taken.name())]));
            }
        }
        for watch in WATCHES {
            drop(self.restarts.get_or_create(&[("watch", watch)]));
        }
    }

    pub(super) fn wrote(&self, object: &'static str, taken: Taken) {
        self.writes.get_or_create(&[("object", object), ("result", taken.name())]).inc();
    }

    pub(super) fn judged(&self, verdict: Verdict) {
        self.failures.get_or_create(&[("cause", verdict.name())]).inc();
    }

    pub(super) fn restarted(&self, watch: &'static str) {
        self.restarts.get_or_create(&[("watch", watch)]).inc();
    }

    pub(super) fn planned(&self, took: Duration) {
        self.plans.observe(took.as_secs_f64());
    }

    /// Notes what happened between two looks, and how it is now.
    pub(super) fn follow(&self, before: Counts, now: Counts, [jobs, pulling, queued]: [usize; 3]) {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.jobs.set(gauge(jobs));
        self.pulling.set(gauge(pulling));
        self.queued.set(gauge(queued));
        self.handed_out.inc_by(now.handed_out.saturating_sub(before.handed_out));
        self.succeeded.inc_by(now.succeeded.saturating_sub(before.succeeded));
        let failed = |cause: &'static str, number: u64| self.failures.get_or_create(&[("cause", cause)]).inc_by(number);
        failed("reported", now.failed.saturating_sub(before.failed));
        failed("unwritable", now.unwritable.saturating_sub(before.unwritable));
    }
}
