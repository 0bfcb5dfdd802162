//! What the rollout controller counts. Labels come from closed sets.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::rollout::{Step, Verdict};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The API server took it.
    Done,
    /// The pod had changed since it was decided upon.
    Conflict,
    /// The pod is gone.
    Gone,
    /// The API server, or a webhook of it, refused it.
    Refused,
    /// The API server has too much to do.
    Throttled,
    /// There was no answer; the pod was read to see.
    Unanswered,
}

/// Metrics of the controller. A clone shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    pods: Family<[(&'static str, &'static str); 1], Gauge>,
    reconciles: Histogram,
    queued: Gauge,
}

/// What one SidecarSet adds to the gauges, until it is dropped.
#[derive(Debug)]
pub struct Share {
    metrics: Metrics,
    pods: [i64; Verdict::REASONS.len()],
    queued: i64,
}

/// Bounds in seconds of one reconcile.
const BUCKETS: [f64; 8] = [0.000_1, 0.000_5, 0.002_5, 0.01, 0.05, 0.25, 1.0, 5.0];

// === impl Taken ===

impl Taken {
    const ALL: [Self; 6] = [Self::Done, Self::Conflict, Self::Gone, Self::Refused, Self::Throttled, Self::Unanswered];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unanswered => "unanswered",
        }
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            writes: Family::default(),
            pods: Family::default(),
            reconciles: Histogram::new(BUCKETS),
            queued: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers everything under the prefix of `registry`. Every series is there from the start.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rollout_writes", "Writes to pods by step and result", self.writes.clone());
        registry.register(
            "rollout_pods",
            "Pods that SidecarSets match, by verdict; told by the leader",
            self.pods.clone(),
        );
        let help = "Time to decide what is to be done for one SidecarSet";
        registry.register_with_unit("rollout_reconcile_duration", help, Unit::Seconds, self.reconciles.clone());
        registry.register(
            "rollout_writes_queued",
            "Writes to pods that wait for those before them",
            self.queued.clone(),
        );
        for step in Step::NAMES {
            for taken in Taken::ALL {
                drop(self.writes.get_or_create(&[("step", step), ("result", taken.name())]));
            }
        }
        for verdict in Verdict::REASONS {
            drop(self.pods.get_or_create(&[("verdict", verdict)]));
        }
    }

    /// Counts a write.
    pub fn wrote(&self, step: Step, taken: Taken) {
        self.writes.get_or_create(&[("step", step.name()), ("result", taken.name())]).inc();
    }

    /// Notes how long a decision took.
    pub fn decided(&self, took: Duration) {
        self.reconciles.observe(took.as_secs_f64());
    }

    /// What one more SidecarSet adds.
    pub fn share(&self) -> Share {
        Share { metrics: self.clone(), pods: [0; Verdict::REASONS.len()], queued: 0 }
    }
}

// === impl Share ===

impl Share {
    /// Notes the verdicts on the pods of the set.
    pub fn judged<'a>(&mut self, verdicts: impl Iterator<Item = &'a Verdict>) {
        let mut pods = [0; Verdict::REASONS.len()];
        for verdict in verdicts {
            if let Some(place) = Verdict::REASONS.iter().position(|reason| *reason == verdict.reason()) {
                pods[place] += 1;
            }
        }
        for ((reason, before), now) in Verdict::REASONS.into_iter().zip(self.pods).zip(pods) {
            if before != now {
                self.metrics.pods.get_or_create(&[("verdict", reason)]).inc_by(now - before);
            }
        }
        self.pods = pods;
    }

    /// Notes how many writes wait.
    pub fn queued(&mut self, queued: usize) {
        let queued = i64::try_from(queued).unwrap_or(i64::MAX);
        self.metrics.queued.inc_by(queued - self.queued);
        self.queued = queued;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.judged(std::iter::empty());
        self.queued(0);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_set_takes_its_pods_along_when_it_goes() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let pods = |verdict: &str| {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let line = format!("rollout_pods{{verdict=\"{verdict}\"}} ");
            text.lines().find_map(|told| told.strip_prefix(&line)).unwrap().to_owned()
        };
        let (mut a, mut b) = (metrics.share(), metrics.share());
        a.judged([Verdict::UpToDate, Verdict::Paused].iter());
        b.judged([Verdict::UpToDate].iter());
        assert_eq!((pods("UpToDate"), pods("Paused")), ("2".to_owned(), "1".to_owned()));
        a.judged([Verdict::UpToDate, Verdict::UpToDate].iter());
        assert_eq!((pods("UpToDate"), pods("Paused")), ("3".to_owned(), "0".to_owned()));
        drop(a);
        assert_eq!((pods("UpToDate"), pods("Held")), ("1".to_owned(), "0".to_owned()));
    }
}
