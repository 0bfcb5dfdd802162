//! What the controller of ContainerRecreateRequests counts. Labels come from closed sets.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::decide::End;
use crate::cluster::CallError;
use crate::recreate::Request;

/// Metrics of the controller. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<[(&'static str, &'static str); 1], Gauge>,
    ended: Family<[(&'static str, &'static str); 1], Counter>,
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    restarts: Counter,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All containers were restarted.
    Succeeded,
    /// Not all were.
    Failed,
    /// CRR-13.
    PodGone,
    /// CRR-14.
    NoDaemon,
    /// CRR-15.
    Deadline,
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

/// The phases of requests that are under way.
const PHASES: [&str; 3] = ["New", "Pending", "Recreating"];
/// What is written.
const STEPS: [&str; 8] = ["complete", "snapshot", "hold", "block", "drain", "release", "finish", "delete"];

// === impl Outcome ===

impl Outcome {
    const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::PodGone, Self::NoDaemon, Self::Deadline];

    /// That of a request that has ended.
    pub fn of(request: &Request) -> Self {
        let is = |end: End| request.status.message.starts_with(end.text());
        let mut states = request.status.container_recreate_states.iter();
        if is(End::PodGone) {
            Self::PodGone
        } else if is(End::NoDaemon) {
            Self::NoDaemon
        } else if is(End::Deadline) {
            Self::Deadline
        } else if states.all(|state| state.phase == "Succeeded") {
            Self::Succeeded
        } else {
            Self::Failed
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::PodGone => "pod_gone",
            Self::NoDaemon => "no_daemon",
            Self::Deadline => "deadline",
        }
    }
}

// === impl Taken ===

impl Taken {
    const ALL: [Self; 5] = [Self::Done, Self::Conflict, Self::Gone, Self::Refused, Self::Unanswered];

    /// Of a write that was not.
    pub fn of(error: &CallError) -> Self {
        match error.code() {
            Some(404) => Self::Gone,
            Some(409) => Self::Conflict,
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

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        let help = "ContainerRecreateRequests that are under way, by phase; told by the leader";
        registry.register("recreate_requests", help, self.requests.clone());
        registry.register("recreate_ended", "ContainerRecreateRequests that ended, by outcome", self.ended.clone());
        let help = "Writes of the controller of ContainerRecreateRequests, by step and result";
        registry.register("recreate_writes", help, self.writes.clone());
        let help = "How often the watch of ContainerRecreateRequests broke and began again";
        registry.register("recreate_watch_restarts", help, self.restarts.clone());
        for phase in PHASES {
            drop(self.requests.get_or_create(&[("phase", phase)]));
        }
        for outcome in Outcome::ALL {
            drop(self.ended.get_or_create(&[("outcome", outcome.name())]));
        }
        for step in STEPS {
            for taken in Taken::ALL {
                drop(self.writes.get_or_create(&[("step", step), ("result", taken.name())]));
            }
        }
    }

    /// Notes how many requests are in each phase.
    pub(super) fn follow(&self, phases: [u32; 3]) {
        for (phase, count) in PHASES.into_iter().zip(phases) {
            self.requests.get_or_create(&[("phase", phase)]).set(count.into());
        }
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.ended.get_or_create(&[("outcome", outcome.name())]).inc();
    }

    pub(super) fn wrote(&self, step: &'static str, taken: Taken) {
        self.writes.get_or_create(&[("step", step), ("result", taken.name())]).inc();
    }

    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }
}
