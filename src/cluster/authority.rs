//! The certificates of a cluster: one Secret that all replicas share, watched through the API (WH-9.1).
//!
//! ```text
//!            Secret                                   clients trust      served
//! found      ca, leaf                                 ca                 leaf of ca
//! introduce  ca, leaf, next                           ca, next           leaf of ca
//! switch     ca := next, its leaf, retired := old ca  new ca, old ca     leaf of the new ca
//! forget     ca, leaf                                 new ca             leaf of the new ca
//! ```
//!
//! `introduce` becomes `switch` when `registration` has seen `next` in every registered object for
//! [`Rules::settle`]; `forget` comes a leaf's life after `switch`, when the last leaf of the old CA has ended, wherever it
//! may still be served. Every step is one write under the resourceVersion that was read: of two replicas one
//! wins, the other reads again. Any replica may act, as none needs to be alone; a random [`Rules::patience`] keeps them
//! apart. A replica takes a leaf of another CA only once clients trust it. A Secret that was deleted is a new
//! beginning without loss: what clients trust is kept as retired.
//!
//! To rotate by hand: `kubectl annotate secret kruise-webhook-certs outrigger/rotate=ca` (or `leaf`). To end the trust
//! in an old CA at once: remove `retired-ca-certs.pem` from the Secret.
//!
//! [`Source::CertManager`]: others write the Secret (`tls.crt`, `tls.key`, `ca.crt`) and, by cert-manager's annotation,
//! `caBundle`; we serve, and only look whether clients trust what we serve (gate `EnableExternalCerts` of WH-9).
//! [`Source::Files`]: a directory of the same three names; `ca.crt` is published, and may hold two CAs.

mod contents;
pub mod plan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::contents::{Contents, Lasting, Leaf};
use self::plan::{Request, Rules, Served, Step, may_serve, plan};
use super::trust::{Bundle, Fingerprint, Published, Trust};
use super::{CallError, FIELD_OWNER, call};
use crate::admission::certs::issue::IssueError;
use crate::admission::certs::{self, CertError, Paths, Resolver, x509};
use crate::api::names;
use crate::app::now;
use crate::telemetry::chain;

/// How often the clock and the Secret are looked at when nothing changes.
const IDLE: Duration = Duration::from_mins(1);
/// How often while something is awaited.
const SOON: Duration = Duration::from_secs(1);
/// How often files are looked at.
const FILES: Duration = Duration::from_secs(5);
/// At most this much later than due a replica renews.
const MOST_PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// Steps in a row without a pause; a Secret that somebody else keeps changing must not make this loop spin.
const MOST_STEPS: usize = 4;

/// Where the certificate comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// A Secret that we keep.
    #[default]
    Secret,
    /// A Secret of type kubernetes.io/tls that cert-manager, or another, keeps.
    CertManager,
    /// A directory of `tls.crt`, `tls.key` and `ca.crt`.
    Files(PathBuf),
}

/// What the operator of a cluster may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the certificate comes from.
    pub source: Source,
    /// Namespace of the Secret: the operator's.
    pub namespace: String,
    /// Name of the Secret ([`names::CERTS_SECRET`] unless `SECRET_NAME` says otherwise).
    pub secret: String,
    /// Every host that the API server calls.
    pub hosts: Vec<String>,
    /// How long a new CA is published before a leaf of it is served.
    pub settle: SignedDuration,
}

/// The settings cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No certificate can name it.
    #[error("{0:?} is neither a DNS name nor an address: correct --webhook-host or the names of service and namespace")]
    Host(String),
    /// The files cannot be read.
    #[error(transparent)]
    Files(#[from] CertError),
}

/// Keeps the certificate of the moment in a [`Resolver`], and says what clients shall trust.
pub struct Authority {
    client: Client,
    settings: Settings,
    keeper: Keeper,
    published: watch::Receiver<Option<Published>>,
}

/// What one replica serves, offers and would do next; no I/O.
struct Keeper {
    hosts: Vec<String>,
    rules: Rules,
    resolver: Arc<Resolver>,
    served: Option<Held>,
    trust: watch::Sender<Option<Trust>>,
    /// Clients were found not to trust what is served, and it was said.
    distrusted: bool,
}

/// What clients shall trust: followed, or asked for afresh before something is written by it.
#[derive(Clone)]
pub struct Trusted {
    /// The last that was heard; `None` at first.
    pub latest: watch::Receiver<Option<Trust>>,
    secret: Option<(Api<Secret>, String)>,
}

/// What of the served pair the next decision needs.
struct Held {
    leaf: CertificateDer<'static>,
    signer: Option<Fingerprint>,
    until: Timestamp,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("no certificate can be made")]
    Issue(#[from] IssueError),
    #[error("the Secret cannot be written")]
    Write(#[from] CallError),
}

// === impl Settings ===

impl Settings {
    /// As the reference has them: the Service's name in the operator's namespace, or `--webhook-host`.
    pub fn new(namespace: &str, webhook_host: Option<&str>) -> Self {
        let host = webhook_host.map_or_else(|| format!("{}.{namespace}.svc", names::SERVICE), str::to_owned);
        Self {
            source: Source::default(),
            namespace: namespace.to_owned(),
            secret: names::CERTS_SECRET.to_owned(),
            hosts: vec![host],
            settle: SignedDuration::from_secs(30),
        }
    }
}

// === impl Authority ===

impl Authority {
    /// `published` comes from `registration`: which CAs the registered objects carry.
    pub fn new(
        client: Client,
        settings: Settings,
        published: watch::Receiver<Option<Published>>,
    ) -> Result<Self, SettingsError> {
        if let Some(host) = settings.hosts.iter().find(|host| ServerName::try_from(host.as_str()).is_err()) {
            return Err(SettingsError::Host(host.clone()));
        }
        let patience = SignedDuration::from_secs(fastrand::i64(0..MOST_PATIENCE.as_secs()));
        let rules = Rules { settle: settings.settle, patience };
        let keeper = Keeper::new(settings.hosts.clone(), rules);
        Ok(Self { client, settings, keeper, published })
    }

    /// The pair of the moment, for the server.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.keeper.resolver)
    }

    /// What clients shall trust, for `registration`.
    pub fn trusted(&self) -> Trusted {
        let secret = (self.settings.source == Source::Secret).then(|| (self.secrets(), self.settings.secret.clone()));
        Trusted { latest: self.keeper.trust.subscribe(), secret }
    }

    /// Keeps the certificate until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SettingsError> {
        match self.settings.source.clone() {
            Source::Files(dir) => self.follow_files(&dir, shutdown).await,
            Source::Secret | Source::CertManager => {
                self.follow_secret(shutdown).await;
                Ok(())
            }
        }
    }

    async fn follow_secret(mut self, shutdown: CancellationToken) {
        let secrets = self.secrets();
        let name = self.settings.secret.clone();
        let mut events = pin!(watcher::watch_object(secrets.clone(), &name).default_backoff());
        // Of the Secret nothing is known, it is not there, or this is it.
        let mut known: Option<Option<Secret>> = None;
        let mut pause = IDLE;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = events.next() => match event {
                    Ok(secret) => known = Some(secret),
                    Err(err) => {
                        warn!(error = chain(&err), name, "the Secret cannot be watched; what is served stays");
                        continue;
                    }
                },
                // A sender that is gone leaves the timer.
                Ok(()) = self.published.changed() => {}
                () = tokio::time::sleep(pause) => {
                    // A watch that died in silence must not cost a renewal.
                    if pause == IDLE && let Ok(secret) = call(secrets.get_opt(&name)).await {
                        known = Some(secret);
                    }
                }
            }
            let Some(secret) = &mut known else { continue };
            pause = match self.settings.source {
                Source::CertManager => self.take_external(secret.as_ref()),
                _ => self.advance(&secrets, secret).await,
            };
        }
    }

    /// Serves what the Secret holds and takes the steps that are due. Returns when to look again.
    async fn advance(&mut self, secrets: &Api<Secret>, known: &mut Option<Secret>) -> Duration {
        for _ in 0..MOST_STEPS {
            let contents = known.as_ref().map(Contents::read).unwrap_or_default();
            let now = now();
            let published = self.published.borrow().clone();
            let lasting = |ca: &CertificateDer<'_>| published.as_ref().and_then(|published| published.lasting(ca));
            let step = self.keeper.judge(&contents, &lasting, now);
            let done = match step {
                Step::Keep => return if self.keeper.serves(&contents) { IDLE } else { SOON },
                Step::Await => return SOON,
                // What clients trust must be known, lest it be forgotten.
                Step::Found if published.is_none() => return SOON,
                step => {
                    let trusted = published.unwrap_or_default().anywhere;
                    self.take(secrets, known, &contents, step, &trusted, now).await
                }
            };
            match done {
                Ok(()) => info!(?step, name = self.settings.secret, "the certificates took a step"),
                Err(StepError::Write(err)) if matches!(err.code(), Some(404 | 409)) => {
                    debug!(?step, "another was faster");
                    match call(secrets.get_opt(&self.settings.secret)).await {
                        Ok(secret) => *known = secret,
                        Err(_) => return SOON,
                    }
                    if known.is_none() && err.code() == Some(404) {
                        let ns = &self.settings.namespace;
                        error!(ns, "there is no such namespace: create it, the certificates are kept there");
                        return SOON * 5;
                    }
                }
                Err(err) => {
                    error!(error = chain(&err), ?step, name = self.settings.secret, "no step was taken");
                    return SOON * 5;
                }
            }
        }
        SOON
    }

    fn take_external(&mut self, secret: Option<&Secret>) -> Duration {
        let name = &self.settings.secret;
        let data = secret.and_then(|secret| secret.data.as_ref());
        let Some((leaf, cas)) = data.and_then(contents::external) else {
            error!(name, "there is no Secret with tls.crt and tls.key that can be served: let cert-manager write one");
            return SOON * 5;
        };
        let published = self.published.borrow().clone();
        let lasting = |ca: &CertificateDer<'_>| published.as_ref().and_then(|published| published.lasting(ca));
        let trusted = self.keeper.take_external(&leaf, &cas, &lasting, now());
        if trusted && self.keeper.is_served(&leaf) { IDLE } else { SOON * 5 }
    }

    async fn follow_files(self, dir: &Path, shutdown: CancellationToken) -> Result<(), SettingsError> {
        let paths = certs::ensure(dir, &self.settings.hosts, now())?;
        self.keeper.resolver.replace(certs::load(&paths)?);
        let (ca, keeper) = (dir.join("ca.crt"), self.keeper);
        let bundle = async {
            loop {
                let bundle = tokio::fs::read(&ca).await.map(|pem| Bundle::from_pem(&pem)).unwrap_or_default();
                keeper.offer(if bundle.is_empty() { Trust::Theirs } else { Trust::Ours(bundle) });
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(FILES) => {}
                }
            }
        };
        let renew = renew_files(dir, &self.settings.hosts, &shutdown);
        let reload =
            certs::reload_when_changed(Paths::within(dir), Arc::clone(&keeper.resolver), FILES, shutdown.clone());
        tokio::join!(bundle, renew, reload);
        Ok(())
    }

    async fn take(
        &self,
        secrets: &Api<Secret>,
        known: &mut Option<Secret>,
        contents: &Contents,
        step: Step,
        published: &Bundle,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let after = contents.after(step, &self.settings.hosts, published, now)?;
        let name = self.settings.secret.as_str();
        let params = PostParams { field_manager: Some(FIELD_OWNER.to_owned()), ..PostParams::default() };
        let written = if let Some(secret) = known {
            // It was read with a resourceVersion, so this is refused when another has written meanwhile.
            let mut secret = secret.clone();
            after.write(&mut secret);
            call(secrets.replace(name, &params, &secret)).await?
        } else {
            let mut secret = Secret::default();
            secret.metadata.name = Some(name.to_owned());
            after.write(&mut secret);
            call(secrets.create(&params, &secret)).await?
        };
        *known = Some(written);
        Ok(())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }
}

/// Makes files anew before they end, as often as that can matter.
async fn renew_files(dir: &Path, hosts: &[String], shutdown: &CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(IDLE) => {}
        }
        let (dir, hosts) = (dir.to_path_buf(), hosts.to_vec());
        let ensured = tokio::task::spawn_blocking(move || certs::ensure(&dir, &hosts, now())).await;
        if let Ok(Err(err)) = ensured {
            error!(error = chain(&err), "the files stay as they are");
        }
    }
}

// === impl Keeper ===

impl Keeper {
    fn new(hosts: Vec<String>, rules: Rules) -> Self {
        let resolver = Arc::new(Resolver::default());
        Self { hosts, rules, resolver, served: None, trust: watch::Sender::new(None), distrusted: false }
    }

    /// Offers what the Secret holds to the server and to clients, and says what is next.
    fn judge(&mut self, contents: &Contents, lasting: Lasting<'_>, now: Timestamp) -> Step {
        let view = contents.view(&self.hosts, lasting);
        let bundle = contents.bundle();
        if !bundle.is_empty() {
            self.offer(Trust::Ours(bundle));
        }
        if let (Some(leaf), Some(facts)) = (contents.leaf(), view.leaf) {
            // What no client accepts is better than nothing only when there is nothing.
            if facts.from <= now && now < facts.until || self.served.is_none() {
                self.serve(leaf, contents.signer(), lasting, now);
            }
        }
        plan(&view, self.rules, now)
    }

    /// Serves what another keeps, and says whether clients trust it.
    fn take_external(&mut self, leaf: &Leaf, cas: &Bundle, lasting: Lasting<'_>, now: Timestamp) -> bool {
        self.offer(Trust::Theirs);
        let signer = x509::issuer_of(&leaf.pair.cert, cas.certs());
        self.serve(leaf, signer, lasting, now);
        let trusted = signer.is_some_and(|ca| lasting(ca).is_some());
        if !trusted && !self.distrusted {
            warn!("not every caBundle has the CA of the certificate: is cert-manager.io/inject-ca-from set on all?");
        }
        self.distrusted = !trusted;
        trusted
    }

    fn serve(&mut self, leaf: &Leaf, signer: Option<&CertificateDer<'_>>, lasting: Lasting<'_>, now: Timestamp) {
        if self.is_served(leaf) {
            return;
        }
        let published = signer.and_then(lasting);
        let signer = signer.map(Fingerprint::of);
        let served = self
            .served
            .as_ref()
            .map(|held| Served { until: held.until, same_ca: held.signer.is_some() && held.signer == signer });
        if may_serve(served, published, self.rules, now) {
            self.resolver.replace(leaf.pair.clone());
            let until = leaf.until();
            self.served = Some(Held { leaf: leaf.pair.cert[0].clone(), signer, until });
            let ca = signer.map(tracing::field::display);
            info!(not_after = %until, ca, "serving a new certificate");
        }
    }

    fn serves(&self, contents: &Contents) -> bool {
        contents.leaf().is_some_and(|leaf| self.is_served(leaf))
    }

    fn is_served(&self, leaf: &Leaf) -> bool {
        self.served.as_ref().is_some_and(|held| held.leaf == leaf.pair.cert[0])
    }

    fn offer(&self, trust: Trust) {
        self.trust.send_if_modified(|last| {
            let news = last.as_ref() != Some(&trust);
            if news {
                *last = Some(trust);
            }
            news
        });
    }
}

// === impl Trusted ===

impl Trusted {
    /// For tests and for those who know: always this.
    pub fn fixed(trust: Trust) -> Self {
        Self { latest: watch::Sender::new(Some(trust)).subscribe(), secret: None }
    }

    /// What clients shall trust by the Secret as it is now, not as it was when the watch last spoke: whoever repairs
    /// a `caBundle` must not take away the CA that another replica has just introduced.
    pub async fn fresh(&self) -> Result<Option<Trust>, CallError> {
        if let Some((secrets, name)) = &self.secret
            && self.latest.borrow().is_some()
        {
            let secret = call(secrets.get_opt(name)).await?;
            let bundle = secret.as_ref().map(|secret| Contents::read(secret).bundle()).unwrap_or_default();
            // An empty Secret is about to be filled; nobody is told to trust nothing.
            return Ok((!bundle.is_empty()).then_some(Trust::Ours(bundle)));
        }
        Ok(self.latest.borrow().clone())
    }
}

/// Asks for a new leaf or a new CA, as `kubectl annotate` would; whichever replica sees it first, acts.
pub async fn request(client: Client, namespace: &str, secret: &str, wanted: Request) -> Result<(), CallError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let wanted = match wanted {
        Request::Leaf => "leaf",
        Request::Ca => "ca",
    };
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { names::ROTATE: wanted } } }));
    call(secrets.patch(secret, &PatchParams::default(), &patch)).await.map(|_| ())
}
