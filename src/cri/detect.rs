//! Finds the container runtimes of a node and keeps knowing them (DMN-7 … DMN-12).
//!
//! A flag names the only place to look at, or all known places are tried, each time anew: a runtime may come late, go away
//! and come back. WEAK-36: the process does not end for want of one; it says what it looked for and what it found, and
//! goes on looking.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures::future::join_all;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Client, Metrics, Version};
use crate::health::Part;

/// Where the node's run directory is mounted (DMN-7).
pub const RUN_DIR: &str = "/hostvarrun";
/// Sockets in the run directory, in the order in which they are tried (DMN-9), and those of k3s and RKE2.
const SOCKETS: [&str; 7] = [
    "containerd.sock",
    "containerd/containerd.sock",
    "k3s/containerd/containerd.sock",
    "crio.sock",
    "crio/crio.sock",
    "cri-dockerd.sock",
    "cri-dockerd/cri-dockerd.sock",
];

/// Where runtimes are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The node's run directory, as this process sees it.
    pub run_dir: PathBuf,
    /// The only socket to try.
    pub only: Option<PathBuf>,
}

/// How often it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often a runtime that is there is asked whether it still is.
    pub check: Duration,
    /// The first and the longest wait while there is none.
    pub retry: (Duration, Duration),
    /// A runtime counts as there for so long after it last answered (WEAK-36).
    pub window: Duration,
}

/// A runtime that answers.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Who it is.
    pub version: Version,
    /// How it is called.
    pub client: Client,
    answered: Instant,
}

/// The runtimes of this node, as known now.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    /// Those that answer, in the order in which they are tried.
    pub usable: Vec<Runtime>,
    /// What is the matter with the other places, a line for each.
    pub trouble: Vec<String>,
}

/// Looks for runtimes, again and again.
pub struct Detector {
    places: Vec<PathBuf>,
    pace: Pace,
    clients: Vec<Client>,
    runtimes: watch::Sender<Arc<Runtimes>>,
    count: Gauge,
}

// === impl Places ===

impl Places {
    /// The sockets to try, in order.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let Some(only) = &self.only else {
            return SOCKETS.map(|socket| self.run_dir.join(socket)).into();
        };
        // A path as the node knows it is found where the node's run directory is mounted.
        let below = |dir: &str| only.strip_prefix(dir).ok().map(|rest| self.run_dir.join(rest));
        let mounted = below("/var/run").or_else(|| below("/run"));
        std::iter::once(only.clone()).chain(mounted.filter(|path| path != only)).collect()
    }
}

/// Reads the value of `--runtime-endpoint`: `unix:///run/containerd/containerd.sock`, or the path alone.
pub fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Err(format!("{text:?} is not unix:// and an absolute path, such as unix:///run/containerd/containerd.sock"))
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            check: Duration::from_secs(10),
            retry: (Duration::from_millis(200), Duration::from_secs(5)),
            window: Duration::from_secs(30),
        }
    }
}

impl Pace {
    fn delays(&self) -> ExponentialBackoff {
        let (first, longest) = self.retry;
        let delays = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
        delays.with_jitter().without_max_times().build()
    }
}

// === impl Runtimes ===

impl Runtimes {
    /// The runtime of this name: that of the containers whose ids begin with `name://` (CRR-28, DMN-11).
    pub fn named(&self, name: &str) -> Option<&Runtime> {
        self.usable.iter().find(|runtime| runtime.version.name == name)
    }

    /// The runtime that most of these names are of, or the first one. WEAK-37: with several sockets on a node, images
    /// go where its containers are.
    pub fn preferred<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&Runtime> {
        let mut votes = vec![0_usize; self.usable.len()];
        for name in names {
            if let Some(place) = self.usable.iter().position(|runtime| runtime.version.name == name) {
                votes[place] += 1;
            }
        }
        let most = votes.iter().copied().max()?;
        self.usable.iter().zip(votes).find(|(_, count)| *count == most).map(|(runtime, _)| runtime)
    }

    /// What is missing, if there is no runtime.
    pub fn missing(&self) -> Option<String> {
        self.usable.is_empty().then(|| format!("no container runtime answers: {}", self.trouble.join("; ")))
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { name, version } = &self.version;
        write!(f, "{name} {version} at {}", self.client.socket().display())
    }
}

// === impl Detector ===

impl Detector {
    /// Looks in `places` once it runs.
    pub fn new(places: &Places, pace: Pace, metrics: &Metrics) -> Self {
        let places = places.candidates();
        let clients = places.iter().map(|path| Client::new(path, metrics.clone())).collect();
        Self { places, pace, clients, runtimes: watch::Sender::default(), count: Gauge::default() }
    }

    /// Registers its metrics under the prefix of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cri_runtimes", "Container runtimes of this node that answer", self.count.clone());
    }

    /// What it knows. Changes only when a runtime comes, goes or becomes another.
    pub fn runtimes(&self) -> watch::Receiver<Arc<Runtimes>> {
        self.runtimes.subscribe()
    }

    /// Looks until `stopping`. `part` is ready while there is a runtime, and only then.
    pub async fn run(self, part: Part, stopping: CancellationToken) {
        let mut delays = self.pace.delays();
        while !stopping.is_cancelled() {
            let looked = tokio::select! {
                () = stopping.cancelled() => return,
                looked = self.look() => looked,
            };
            let is_well = !looked.usable.is_empty();
            match looked.missing() {
                None => part.ready(),
                Some(why) => part.fails(&why),
            }
            self.publish(looked);
            let pause = if is_well {
                delays = self.pace.delays();
                self.pace.check
            } else {
                delays.next().unwrap_or(self.pace.retry.1)
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn look(&self) -> Runtimes {
        let known = Arc::clone(&self.runtimes.borrow());
        let asked = self.clients.iter().map(|client| self.ask(client, &known));
        let mut runtimes = Runtimes::default();
        let mut absent = Vec::new();
        for (client, answer) in self.clients.iter().zip(join_all(asked).await) {
            match answer {
                Ok(runtime) => runtimes.usable.push(runtime),
                Err(Absence::NoSocket) => absent.push(client.socket().display().to_string()),
                Err(Absence::Trouble(why)) => runtimes.trouble.push(why),
            }
        }
        if runtimes.usable.is_empty() && !absent.is_empty() {
            runtimes.trouble.push(format!(
                "there is no socket at {}; mount the node's /var/run, or say with --runtime-endpoint where it is",
                absent.join(", ")
            ));
        }
        runtimes
    }

    async fn ask(&self, client: &Client, known: &Runtimes) -> Result<Runtime, Absence> {
        let before = known.usable.iter().find(|runtime| runtime.client.socket() == client.socket());
        let is_there = tokio::fs::try_exists(client.socket()).await.unwrap_or(true);
        let absence = if is_there {
            match client.version().await {
                Ok(version) => return Ok(Runtime { version, client: client.clone(), answered: Instant::now() }),
                Err(error) => Absence::Trouble(error.to_string()),
            }
        } else {
            Absence::NoSocket
        };
        // One lost answer is no outage.
        match before {
            Some(runtime) if runtime.answered.elapsed() < self.pace.window => Ok(runtime.clone()),
            _ => Err(absence),
        }
    }

    fn publish(&self, looked: Runtimes) {
        let before = Arc::clone(&self.runtimes.borrow());
        let texts = |runtimes: &Runtimes| runtimes.usable.iter().map(Runtime::to_string).collect::<Vec<_>>();
        let (was, is) = (texts(&before), texts(&looked));
        for runtime in is.iter().filter(|runtime| !was.contains(runtime)) {
            tracing::info!(%runtime, "a container runtime answers");
        }
        for runtime in was.iter().filter(|runtime| !is.contains(runtime)) {
            tracing::warn!(%runtime, "a container runtime is gone, or is another now");
        }
        for reason in looked.trouble.iter().filter(|reason| !before.trouble.contains(reason)) {
            if looked.usable.is_empty() {
                tracing::warn!(%reason, "there is no container runtime to work with; tried again until there is");
            } else {
                tracing::info!(%reason, "a socket is left out");
            }
        }
        self.count.set(i64::try_from(looked.usable.len()).unwrap_or(i64::MAX));
        let is_news = was != is || before.trouble != looked.trouble;
        // When it answered is kept without telling anyone.
        self.runtimes.send_if_modified(|runtimes| {
            *runtimes = Arc::new(looked);
            is_news
        });
    }
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector").field("places", &self.places).finish_non_exhaustive()
    }
}

/// Why a place has no runtime.
enum Absence {
    NoSocket,
    Trouble(String),
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn places(only: Option<&str>) -> Vec<String> {
        let places = Places { run_dir: "/hostvarrun".into(), only: only.map(PathBuf::from) };
        places.candidates().into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn without_a_flag_every_known_socket_is_tried_in_order_dmn_9() {
        let found = places(None);
        let at = |name: &str| found.iter().position(|path| path == &format!("/hostvarrun/{name}")).unwrap();
        let order =
            ["containerd.sock", "containerd/containerd.sock", "crio.sock", "crio/crio.sock", "cri-dockerd.sock"];
        assert!(order.map(at).is_sorted(), "{found:?}");
        assert!(at("k3s/containerd/containerd.sock") < at("crio.sock"));
    }

    #[rstest]
    #[case::elsewhere("/mnt/x.sock", &["/mnt/x.sock"])]
    #[case::as_the_node_knows_it("/run/k3s/c.sock", &["/run/k3s/c.sock", "/hostvarrun/k3s/c.sock"])]
    #[case::or_so("/var/run/c.sock", &["/var/run/c.sock", "/hostvarrun/c.sock"])]
    #[case::as_it_is_mounted("/hostvarrun/c.sock", &["/hostvarrun/c.sock"])]
    fn a_flag_is_the_only_place_dmn_8(#[case] only: &str, #[case] tried: &[&str]) {
        assert_eq!(places(Some(only)), tried);
    }

    #[rstest]
    #[case::of_the_kubelet("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock"))]
    #[case::one_slash("unix:/run/c.sock", Some("/run/c.sock"))]
    #[case::a_path("/run/c.sock", Some("/run/c.sock"))]
    #[case::tcp("tcp://127.0.0.1:1", None)]
    #[case::relative("unix://c.sock", None)]
    fn an_endpoint_is_a_unix_socket(#[case] text: &str, #[case] path: Option<&str>) {
        assert_eq!(endpoint(text).ok(), path.map(PathBuf::from));
    }
}
