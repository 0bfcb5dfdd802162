//! What the launch priority controller counts. Labels come from closed sets.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::cluster::CallError;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A barrier is made.
    Create,
    /// Keys are added to one.
    Add,
    /// That of an earlier pod is deleted.
    Clear,
    /// A pod is touched.
    Touch,
    /// A pod's last group was let go.
    Complete,
}

/// Metrics of the controller. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    waiting: Gauge,
}

// === impl Made ===

impl Made {
    const ALL: [Self; 5] = [Self::Create, Self::Add, Self::Clear, Self::Touch, Self::Complete];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Add => "change",
            Self::Clear => "delete",
            Self::Touch => "touch",
            Self::Complete => "complete",
        }
    }
}

// === impl Metrics ===

const RESULTS: [&str; 5] = ["done", "conflict", "gone", "refused", "unanswered"];

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("launch_writes", "Writes for pods whose containers start in order", self.writes.clone());
        registry.register(
            "launch_waiting_pods",
            "Pods with containers that wait for their turn; told by the leader",
            self.waiting.clone(),
        );
        for made in Made::ALL {
            for result in RESULTS {
                drop(self.writes.get_or_create(&[("write", made.name()), ("result", result)]));
            }
        }
    }

    /// Counts a write.
    pub fn wrote<T>(&self, made: Made, answer: &Result<T, CallError>) {
        let result = match answer {
            Ok(_) => "done",
            Err(error) => match error.code() {
                Some(409) => "conflict",
                Some(404) => "gone",
                Some(400..500) => "refused",
                _ => "unanswered",
            },
        };
        self.writes.get_or_create(&[("write", made.name()), ("result", result)]).inc();
    }

    /// Notes how many pods wait.
    pub fn waiting(&self, pods: usize) {
        self.waiting.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }
}
