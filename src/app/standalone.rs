//! Standalone mode, wired: manifests → snapshot, certificates → resolver, both behind the server, until a signal.
//!
//! [`Standalone::start`] reads, checks and binds everything, so that whatever is wrong is an error at start;
//! [`Running::run`] then serves and follows changes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{DRAIN, ambient, now};
use crate::admission::certs::{self, Paths, Resolver};
use crate::admission::server::{Bound, Drained, Limits, Server};
use crate::admission::{Sources, Webhook, router, routes};
use crate::store::Snapshot;
use crate::store::files::{self, Loaded, Notice};
use crate::telemetry::Metrics;

/// How often files are looked at. A change counts once two looks agree, so it is taken well within a second.
const POLL: Duration = Duration::from_millis(250);

/// Settings of standalone mode.
#[derive(Clone, Debug)]
pub struct Standalone {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Where to listen.
    pub address: SocketAddr,
    /// Directory of certificates; made when missing.
    pub certs: PathBuf,
    /// Namespace of the operator (WH-8).
    pub operator_namespace: String,
    /// Limits of the server.
    pub limits: Limits,
}

/// The manifests are not in order.
#[derive(Debug, thiserror::Error)]
#[error("{} not in order", if notices.len() == 1 { "1 thing is".to_owned() } else { format!("{} things are", notices.len()) })]
pub struct NotInOrder {
    /// One line each.
    pub notices: Vec<Notice>,
}

/// A server that is bound and ready to run.
pub struct Running {
    bound: Bound,
    settings: Standalone,
    snapshot: Arc<ArcSwap<Snapshot>>,
    paths: Paths,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    stamp: Option<Stamp>,
    /// What is legal in the manifests, but likely not what was meant.
    pub warnings: Vec<Notice>,
}

// === impl Standalone ===

impl Standalone {
    /// Reads the manifests, makes certificates where there are none, and binds the port.
    pub async fn start(self) -> anyhow::Result<Running> {
        let stamp = Stamp::of(&self.manifests);
        let (snapshot, warnings) = load(&self.manifests, &self.operator_namespace)?;
        let hosts = [self.address.ip().to_string()];
        let paths = certs::ensure(&self.certs, &hosts, now())?;
        let resolver = Arc::new(Resolver::new(certs::load(&paths)?));
        let tls = Arc::new(certs::server_config(Arc::clone(&resolver)));
        let bound = Server::bind(self.address, tls, self.limits.clone()).await?;
        let expiry = Arc::clone(&resolver);
        let metrics = Arc::new(Metrics::new(bound.counts(), move || expiry.not_after()));
        metrics.set_sidecarsets(snapshot.sidecarsets().len());
        Ok(Running {
            bound,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            settings: self,
            paths,
            resolver,
            metrics,
            stamp,
            warnings,
        })
    }
}

// === impl Running ===

impl Running {
    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.local_addr()
    }

    /// How many SidecarSets are in use.
    pub fn sidecarsets(&self) -> usize {
        self.snapshot.load().sidecarsets().len()
    }

    /// Serves until `shutdown`, then lets requests in flight end.
    pub async fn run(self, shutdown: CancellationToken) -> Drained {
        let webhook = Webhook {
            routes: routes(Sources { snapshot: Arc::clone(&self.snapshot), kinds: None, ambient }),
            limits: self.settings.limits.clone(),
            metrics: Arc::clone(&self.metrics),
            shutdown: shutdown.clone(),
        };
        let follow = Follow {
            manifests: self.settings.manifests,
            operator_namespace: self.settings.operator_namespace,
            snapshot: self.snapshot,
            metrics: self.metrics,
        };
        let reload = certs::reload_when_changed(self.paths, self.resolver, POLL, shutdown.clone());
        let serve = self.bound.serve(router(webhook), shutdown.clone(), DRAIN);
        let ((), (), drained) = tokio::join!(follow.run(self.stamp, &shutdown), reload, serve);
        drained
    }
}

/// Reads the manifests and compiles them.
fn load(manifests: &Path, operator_namespace: &str) -> Result<(Snapshot, Vec<Notice>), NotInOrder> {
    let Loaded { objects, errors, warnings, .. } = files::load(manifests, operator_namespace);
    if !errors.is_empty() {
        return Err(NotInOrder { notices: errors });
    }
    match objects.snapshot() {
        Ok(snapshot) => Ok((snapshot, warnings)),
        Err(error) => {
            let place = manifests.display().to_string();
            Err(NotInOrder { notices: vec![Notice { place, message: error.to_string() }] })
        }
    }
}

/// Takes changes of the manifests; a bad one keeps the last good state.
struct Follow {
    manifests: PathBuf,
    operator_namespace: String,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
}

impl Follow {
    async fn run(self, mut taken: Option<Stamp>, shutdown: &CancellationToken) {
        let mut last = taken.clone();
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let manifests = self.manifests.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || Stamp::of(&manifests)).await else { continue };
            // A change counts once it has held still for one look: an editor may be in the middle of writing.
            let held_still = now == last;
            last = now;
            if held_still && last != taken {
                taken.clone_from(&last);
                self.take().await;
            }
        }
    }

    async fn take(&self) {
        let (manifests, namespace) = (self.manifests.clone(), self.operator_namespace.clone());
        let loaded = tokio::task::spawn_blocking(move || load(&manifests, &namespace)).await;
        match loaded {
            Ok(Ok((snapshot, warnings))) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                let sets = snapshot.sidecarsets().len();
                self.snapshot.store(Arc::new(snapshot));
                self.metrics.set_sidecarsets(sets);
                self.metrics.record_reload(true);
                tracing::info!(sets, "manifests changed and were taken");
            }
            Ok(Err(error)) => {
                self.metrics.record_reload(false);
                for notice in &error.notices {
                    tracing::error!("{notice}");
                }
                let sets = self.snapshot.load().sidecarsets().len();
                tracing::error!(sets, "manifests changed, but {error}; the last good state stays in use");
            }
            Err(crash) => {
                tracing::error!(error = %crash, "reading the manifests crashed; the last good state stays in use");
            }
        }
    }
}

/// What a directory of manifests looked like: enough to see a change, symlinks resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Vec<(PathBuf, Option<Look>)>);

/// Time of the last change, length and inode of a file.
type Look = (std::time::SystemTime, u64, u64);

impl Stamp {
    /// `None` when the directory cannot be read.
    fn of(manifests: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let files = files::files(manifests).ok()?;
        let look = |file: PathBuf| {
            let seen = std::fs::metadata(&file).and_then(|seen| Ok((seen.modified()?, seen.len(), seen.ino())));
            (file, seen.ok())
        };
        Some(Self(files.into_iter().map(look).collect()))
    }
}
