//! Logs and metrics. Labels of metrics come from closed sets only.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::runtime::watcher;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::admission::envelope::Outcome;
use crate::admission::server::Counts;
use crate::store::watch::Health;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `filter` is a directive such as `info` or `outrigger=debug`.
pub fn init_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// The error and what caused it, for a log line. Of what the API server answers, the words for people.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if error.is::<watcher::Error>() && next.is_some() {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            let (code, message) = (status.code, &status.message);
            // Writing to a String cannot fail.
            let _ = write!(text, "the API server answers {code}: {message}");
            break;
        }
        text.push_str(&error.to_string());
    }
    text
}

/// Metrics that are read where they are kept: at the listener and the certificate.
struct Rim {
    counts: Arc<Counts>,
    expiry: Box<dyn Fn() -> Option<i64> + Send + Sync>,
}

/// Metrics of the feed, read where they are kept.
#[derive(Debug)]
struct Feeding(Arc<Health>);

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<[(&'static str, &'static str); 2], Counter>,
    durations: Durations,
    sidecarsets: Gauge,
    reloads: [Counter; 2],
    feed: Option<Arc<Health>>,
}

/// Histograms by path.
type Durations = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Metrics of one path.
#[derive(Debug)]
pub struct Admissions {
    requests: [Counter; Outcome::ALL.len()],
    duration: Histogram,
}

/// Bounds in seconds, from a pod that nothing selects to the deadline.
const BUCKETS: [f64; 12] =
    [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

// === impl Metrics ===

impl Metrics {
    /// Registers everything. Connections are read from `counts`, the expiry of the certificate in use from `expiry`, as
    /// seconds since 1970.
    pub fn new(counts: Arc<Counts>, expiry: impl Fn() -> Option<i64> + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("outrigger");
        let requests = Family::default();
        registry.register("admission_requests", "Admission requests by path and outcome", requests.clone());
        let durations = Durations::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register_with_unit(
            "admission_duration",
            "Time from a request's head to its answer, by path",
            Unit::Seconds,
            durations.clone(),
        );
        let sidecarsets = Gauge::default();
        registry.register("sidecarsets", "SidecarSets in use", sidecarsets.clone());
        let reloads: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
        registry.register("reloads", "Changes of the manifests, taken or refused", reloads.clone());
        registry.register_collector(Box::new(Rim { counts, expiry: Box::new(expiry) }));
        Self {
            reloads: ["taken", "refused"].map(|name| reloads.get_or_create(&[("result", name)]).clone()),
            registry,
            requests,
            durations,
            sidecarsets,
            feed: None,
        }
    }

    /// Adds what is known of the feed of a cluster's objects.
    #[must_use]
    pub fn with_feed(mut self, health: Arc<Health>) -> Self {
        self.registry.register_collector(Box::new(Feeding(Arc::clone(&health))));
        self.feed = Some(health);
        self
    }

    /// Where parts of the process register metrics of their own.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Metrics of one path of the webhook's table. Every series of it is there from the start.
    pub fn admissions(&self, path: &'static str) -> Admissions {
        let requests =
            |outcome: Outcome| self.requests.get_or_create(&[("path", path), ("outcome", outcome.name())]).clone();
        Admissions {
            requests: Outcome::ALL.map(requests),
            duration: self.durations.get_or_create(&[("path", path)]).clone(),
        }
    }

    /// Notes that the manifests were read again, and how many sets are in use.
    pub fn record_reload(&self, taken: bool) {
        self.reloads[usize::from(!taken)].inc();
    }

    /// Notes how many sets are in use.
    pub fn set_sidecarsets(&self, count: usize) {
        self.sidecarsets.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        if let Some(feed) = &self.feed {
            self.set_sidecarsets(feed.sidecarsets());
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

// === impl Admissions ===

impl Admissions {
    /// Counts one request.
    pub fn record(&self, outcome: Outcome, duration: Duration) {
        if let Some(place) = Outcome::ALL.iter().position(|known| *known == outcome) {
            self.requests[place].inc();
        }
        self.duration.observe(duration.as_secs_f64());
    }
}

// === impl Rim ===

impl Collector for Rim {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let counts = &self.counts;
        let read = |count: &AtomicU64| ConstCounter::new(count.load(Ordering::Relaxed));
        for (name, help, count) in [
            ("connections_accepted", "Connections accepted", read(&counts.accepted)),
            ("connections_refused", "Connections closed because too many were open", read(&counts.refused)),
            ("connections_cut", "Connections cut because the peer was too slow", read(&counts.cut)),
            ("handshakes_failed", "TLS handshakes that failed", read(&counts.handshakes_failed)),
            ("accept_errors", "Connections that the kernel could not hand over", read(&counts.accept_errors)),
        ] {
            count.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        if let Some(expiry) = (self.expiry)() {
            let help = "When the serving certificate expires, as seconds since 1970";
            let name = "certificate_expiry";
            ConstGauge::new(expiry).encode(encoder.encode_descriptor(
                name,
                help,
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Rim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rim").field("counts", &self.counts).finish_non_exhaustive()
    }
}

// === impl Feeding ===

impl Collector for Feeding {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Self(health) = self;
        if let Some(age) = health.age() {
            let help = "How long ago the API server last confirmed what is known of the cluster";
            let unit = Some(&Unit::Seconds);
            let descriptor = encoder.encode_descriptor("snapshot_age", help, unit, MetricType::Gauge)?;
            ConstGauge::new(age.as_secs_f64()).encode(descriptor)?;
        }
        let broken = i64::try_from(health.broken()).unwrap_or(i64::MAX);
        let help = "SidecarSets that are not in order";
        ConstGauge::new(broken).encode(encoder.encode_descriptor(
            "sidecarsets_broken",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Watches that broke and began again";
        let mut restarts = encoder.encode_descriptor("watch_restarts", help, None, MetricType::Counter)?;
        for (watch, count) in health.restarts() {
            ConstCounter::new(count).encode(restarts.encode_family(&[("watch", watch)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feed_of_a_cluster_is_among_the_metrics() {
        let metrics = || Metrics::new(Arc::default(), || None);
        assert!(!metrics().encode().contains("outrigger_watch_restarts"), "there is none in standalone mode");
        let text = metrics().with_feed(Arc::default()).encode();
        for watch in ["sidecarsets", "namespaces", "configuration", "revisions"] {
            assert!(text.contains(&format!("outrigger_watch_restarts_total{{watch=\"{watch}\"}} 0")), "{text}");
        }
        assert!(text.contains("outrigger_sidecarsets_broken 0"), "{text}");
        assert!(!text.contains("outrigger_snapshot_age_seconds"), "nothing is known yet: {text}");
    }
}
