//! The serving certificate: where it comes from, when it is exchanged, and when it ends.
//!
//! Without a cluster the files of one directory are the truth: what a user put there is served as it is, what
//! is missing is made, and what we made is renewed before it expires. With or without a cluster, [`Resolver`]
//! gives each handshake the pair of the moment; exchanging it is one store and touches no open connection.
//! Time comes in as a value, but for [`reload_when_changed`], which lives by the clock.

pub(crate) mod issue;
pub(crate) mod x509;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::issue::{IssueError, Life};

/// The name by which we know a leaf as ours.
const LEAF_NAME: &str = "outrigger standalone";
const CA_NAME: &str = "outrigger standalone ca";

const CA_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

/// A leaf of ours is renewed, and any leaf is warned about, this long before it ends.
const RENEWAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Every leaf names this machine too, so that a person on it can look.
pub(crate) const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// How often an ending certificate is looked for, and how often it is mentioned.
const EXPIRY_CHECK: Duration = Duration::from_hours(1);
const EXPIRY_WARNING: Duration = Duration::from_hours(24);

/// Where a pair lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// PEM: the serving certificate, then its intermediates.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Gives each handshake the pair of the moment. Without one, handshakes fail.
#[derive(Debug, Default)]
pub struct Resolver {
    current: ArcSwapOption<CertifiedKey>,
}

/// Why there is no certificate to serve, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file is missing or may not be read.
    #[error("cannot read {}: it must exist and be readable by this user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or the directory cannot be made.
    #[error("cannot write {}: make the directory writable, or put tls.crt and tls.key there", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// One file of a pair is there without the other.
    #[error("{} is there without {}: put the second beside it, or remove the first and a new pair is made", present.display(), missing.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// Not PEM, or PEM of something else.
    #[error("{} holds no {wanted}: it must be a complete PEM file", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What the parser said.
        source: rustls::pki_types::pem::Error,
    },
    /// PEM, but not of a certificate that can be served.
    #[error("the certificate in {} is malformed: replace it and its key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: rustls::Error,
    },
    /// The key is damaged or of a kind that ring does not sign with.
    #[error("the key in {} cannot be used: it must be an unencrypted RSA, P-256, P-384 or Ed25519 key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What ring said.
        source: rustls::Error,
    },
    /// Two files of different pairs.
    #[error("the key in {} does not belong to the certificate in {}: replace both", key.display(), cert.display())]
    Mismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// No client would accept it, and it is not ours to renew.
    #[error("the certificate in {} expired at {not_after}: replace it and its key, or remove both and a new pair is made", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// Its last second.
        not_after: Timestamp,
    },
    /// A CA that cannot issue a leaf that clients accept.
    #[error("cannot issue a certificate from {}: {reason}; replace it and its key, or remove both and a new CA is made", path.display())]
    Ca {
        /// The CA's certificate file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A host that no certificate can name.
    #[error("{host:?} is neither a DNS name nor an address: correct it")]
    Host {
        /// As it was given.
        host: String,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// Key generation or signing failed.
    #[error("cannot make a certificate")]
    Make {
        /// What rcgen said.
        source: rcgen::Error,
    },
}

/// Why two texts are no pair.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    #[error("there is no private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("the certificate is malformed")]
    Malformed(#[source] rustls::Error),
    #[error("the key does not belong to the certificate")]
    Mismatch,
    #[error("the key must be an unencrypted RSA, P-256, P-384 or Ed25519 key")]
    Unusable(#[source] rustls::Error),
}

/// What is to be done about the pair in a directory.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Serve,
    Issue,
}

/// A name in the directory, with its two files and the two that will replace them.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
    next_cert: PathBuf,
    next_key: PathBuf,
}

/// What tells one state of a file from the next. Links are followed: the kubelet exchanges a link, not a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl Paths ===

impl Paths {
    /// `tls.crt` and `tls.key`, as in a mounted Secret.
    pub fn within(dir: &Path) -> Self {
        Self { cert: dir.join("tls.crt"), key: dir.join("tls.key") }
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.cert), Stamp::of(&self.key)]
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

// === impl Resolver ===

impl Resolver {
    /// Serves `pair` until another comes.
    pub fn new(pair: CertifiedKey) -> Self {
        Self { current: ArcSwapOption::from_pointee(pair) }
    }

    /// Every handshake from now on sees `pair`.
    pub fn replace(&self, pair: CertifiedKey) {
        self.current.store(Some(Arc::new(pair)));
    }

    /// The pair of the moment; `None` until the first has come.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    /// When the served certificate ends, in Unix seconds. `None` before the first, and for a certificate that did
    /// not come by [`load`] and cannot be read.
    pub fn not_after(&self) -> Option<i64> {
        not_after(self.current.load().as_deref()?)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

/// TLS 1.2 and 1.3 with ring, HTTP/2 before HTTP/1.1, and the resolver's pair.
///
/// # Panics
///
/// Never: ring has suites for both versions.
pub fn server_config(resolver: Arc<Resolver>) -> rustls::ServerConfig {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// When a pair's certificate ends, in Unix seconds.
pub fn not_after(pair: &CertifiedKey) -> Option<i64> {
    x509::not_after(pair.end_entity_cert().ok()?).ok()
}

// === files to pairs ===

/// Reads a pair and makes sure that its halves belong together.
pub fn load(paths: &Paths) -> Result<CertifiedKey, CertError> {
    let chain = certificates(&paths.cert)?;
    pair(chain, &read(&paths.key)?).map_err(|problem| match problem {
        PairError::Key(source) => CertError::Pem { path: paths.key.clone(), wanted: "private key", source },
        PairError::Malformed(source) => CertError::Malformed { path: paths.cert.clone(), source },
        PairError::Mismatch => CertError::Mismatch { cert: paths.cert.clone(), key: paths.key.clone() },
        PairError::Unusable(source) => CertError::Key { path: paths.key.clone(), source },
    })
}

/// A chain that is not empty and the PEM of its key, as a pair that can be served.
pub(crate) fn pair(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<CertifiedKey, PairError> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Key)?;
    let malformed = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    let leaf = chain.first().ok_or_else(|| PairError::Malformed(malformed()))?;
    x509::not_after(leaf).map_err(|_| PairError::Malformed(malformed()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => PairError::Mismatch,
        rustls::Error::InvalidCertificate(_) => PairError::Malformed(source),
        source => PairError::Unusable(source),
    })
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let malformed = |source| CertError::Pem { path: path.to_path_buf(), wanted: "certificate", source };
    let chain = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    if chain.is_empty() {
        return Err(malformed(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(path).map_err(|source| CertError::Read { path: path.to_path_buf(), source })
}

// === making what is missing ===

/// Sees to it that `dir` holds a pair that can be served for `localhost` and `hosts`.
///
/// A missing pair is issued by the CA in `ca.crt` and `ca.key`, and that is made when missing. A leaf of ours is
/// issued anew 30 days before it ends, or when it does not name every host. Files of a user stay as they are.
/// May be called again at any time; [`reload_when_changed`] sees a new pair.
pub fn ensure(dir: &Path, hosts: &[String], now: Timestamp) -> Result<Paths, CertError> {
    let paths = Paths::within(dir);
    let tls = Pair::named(dir, "tls");
    let ca = Pair::named(dir, "ca");
    let interrupted = exists(&tls.next_cert) || exists(&ca.next_cert);
    if !interrupted && matches!(standing(&tls, &ca, hosts, now), Ok(Standing::Serve)) {
        return Ok(paths);
    }

    let failed = |source| CertError::Write { path: dir.to_path_buf(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    // Two starts at the same time: the second finds what the first has made.
    let lock = File::open(dir).map_err(failed)?;
    match lock.lock() {
        Err(err) if err.kind() != ErrorKind::Unsupported => return Err(failed(err)),
        _ => {}
    }
    ca.finish()?;
    tls.finish()?;
    if standing(&tls, &ca, hosts, now)? == Standing::Serve {
        return Ok(paths);
    }
    if !ca.is_present()? {
        make_ca(&ca, now)?;
    }
    issue(&tls, &ca, hosts, now)?;
    Ok(paths)
}

fn standing(tls: &Pair, ca: &Pair, hosts: &[String], now: Timestamp) -> Result<Standing, CertError> {
    if !tls.is_present()? {
        return Ok(Standing::Issue);
    }
    let pair = load(&tls.paths())?;
    let leaf = &pair.cert[0];
    let ends = not_after(&pair).unwrap_or(i64::MAX);
    if is_ours(leaf, ca) {
        let due = ends < (now + RENEWAL).as_second();
        let named = hosts.iter().all(|host| x509::names(leaf, host));
        let fits = !due && named;
        return Ok(if fits { Standing::Serve } else { Standing::Issue });
    }
    if ends < now.as_second() {
        return Err(CertError::Expired {
            path: tls.cert.clone(),
            not_after: Timestamp::from_second(ends).unwrap_or(Timestamp::MAX),
        });
    }
    Ok(Standing::Serve)
}

/// Ours is what bears our name and was signed by the CA whose key lies beside it.
fn is_ours(leaf: &CertificateDer<'_>, ca: &Pair) -> bool {
    exists(&ca.key)
        && x509::is_named(leaf, LEAF_NAME)
        && certificates(&ca.cert).is_ok_and(|chain| x509::is_issued_by(leaf, &chain[0]))
}

fn make_ca(ca: &Pair, now: Timestamp) -> Result<(), CertError> {
    let made = issue::ca(CA_NAME, Life::starting(now, CA_LIFE)).map_err(|err| failed(err, ca))?;
    ca.put(&made.cert, &made.key)?;
    info!(file = %ca.cert.display(), "made a CA: clients must trust it");
    Ok(())
}

fn issue(tls: &Pair, ca: &Pair, hosts: &[String], now: Timestamp) -> Result<(), CertError> {
    let root = certificates(&ca.cert)?.swap_remove(0);
    let pem = read(&ca.key)?;
    let pem = String::from_utf8_lossy(&pem);
    let hosts = LOCAL.into_iter().chain(hosts.iter().map(String::as_str));
    let made = issue::leaf(&root, &pem, LEAF_NAME, hosts, Life::starting(now, LEAF_LIFE), now)
        .map_err(|err| failed(err, ca))?;
    tls.put(&made.cert, &made.key)?;
    info!(file = %tls.cert.display(), "issued a serving certificate");
    Ok(())
}

fn failed(err: IssueError, ca: &Pair) -> CertError {
    match err {
        IssueError::Unfit(reason) => CertError::Ca { path: ca.cert.clone(), reason },
        IssueError::Host { host, source } => CertError::Host { host, source },
        IssueError::Make(source) => CertError::Make { source },
    }
}

// === impl Pair ===

impl Pair {
    fn named(dir: &Path, name: &str) -> Self {
        Self {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
            next_cert: dir.join(format!(".{name}.crt.next")),
            next_key: dir.join(format!(".{name}.key.next")),
        }
    }

    fn paths(&self) -> Paths {
        Paths { cert: self.cert.clone(), key: self.key.clone() }
    }

    fn is_present(&self) -> Result<bool, CertError> {
        let half = |present: &Path, missing: &Path| CertError::Half {
            present: present.to_path_buf(),
            missing: missing.to_path_buf(),
        };
        match (exists(&self.cert), exists(&self.key)) {
            (true, true) => Ok(true),
            (false, false) => Ok(false),
            (true, false) => Err(half(&self.cert, &self.key)),
            (false, true) => Err(half(&self.key, &self.cert)),
        }
    }

    /// Both files are complete on disk before either gets its name. The certificate is renamed last, so that
    /// [`Pair::finish`] can tell how far a killed process came.
    fn put(&self, cert: &str, key: &str) -> Result<(), CertError> {
        write_new(&self.next_key, key, 0o600)?;
        write_new(&self.next_cert, cert, 0o644)?;
        rename(&self.next_key, &self.key)?;
        rename(&self.next_cert, &self.cert)
    }

    /// Ends what a killed process began: when its key has its name already, the certificate gets it too,
    /// otherwise nothing has happened yet and both are thrown away.
    fn finish(&self) -> Result<(), CertError> {
        let halfway = Paths { cert: self.next_cert.clone(), key: self.key.clone() };
        if !exists(&self.next_key) && load(&halfway).is_ok() {
            return rename(&self.next_cert, &self.cert);
        }
        remove(&self.next_cert)?;
        remove(&self.next_key)
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| CertError::Write { path: path.to_path_buf(), source })
}

fn rename(from: &Path, to: &Path) -> Result<(), CertError> {
    fs::rename(from, to).map_err(|source| CertError::Write { path: to.to_path_buf(), source })
}

fn remove(path: &Path) -> Result<(), CertError> {
    // A read-only directory is fine as long as there is nothing to remove.
    if !exists(path) {
        return Ok(());
    }
    fs::remove_file(path).map_err(|source| CertError::Write { path: path.to_path_buf(), source })
}

/// A link that leads nowhere is there too: it is somebody's, and not to be written over.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

// === reloading ===

/// Serves what lies at `paths`, looking every `every`, until `shutdown`.
///
/// Polling sees a kubelet exchange a link, which inotify on the file does not. A changed pair is read once it has
/// been the same at two looks, so that a writer can finish; a pair that cannot be served is reported once and the
/// last good one stays.
pub async fn reload_when_changed(paths: Paths, resolver: Arc<Resolver>, every: Duration, shutdown: CancellationToken) {
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    let mut handled = None;
    let mut expiry = Expiry::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = looks.tick() => {}
        }
        expiry.mention(&resolver, &paths);
        let look = paths.clone();
        let Ok(stamps) = tokio::task::spawn_blocking(move || look.stamps()).await else {
            continue;
        };
        let settled = last.replace(stamps) == Some(stamps);
        if !settled || handled == Some(stamps) {
            continue;
        }
        handled = Some(stamps);
        let look = paths.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || load(&look)).await else {
            continue;
        };
        match loaded.and_then(|pair| unexpired(pair, &paths, clock())) {
            Ok(pair) if resolver.current().is_some_and(|served| served.cert == pair.cert) => {}
            Ok(pair) => {
                let ends = not_after(&pair).and_then(|ends| Timestamp::from_second(ends).ok());
                resolver.replace(pair);
                expiry = Expiry::default();
                info!(file = %paths.cert.display(), not_after = ?ends, "serving a new certificate");
            }
            Err(err) => {
                let error = crate::telemetry::chain(&err);
                error!(error, "the last good certificate is still served");
            }
        }
    }
}

fn unexpired(pair: CertifiedKey, paths: &Paths, now: Timestamp) -> Result<CertifiedKey, CertError> {
    match not_after(&pair).and_then(|ends| Timestamp::from_second(ends).ok()) {
        Some(not_after) if not_after < now => Err(CertError::Expired { path: paths.cert.clone(), not_after }),
        _ => Ok(pair),
    }
}

#[expect(clippy::disallowed_methods, reason = "the reload loop is the edge that reads the clock")]
fn clock() -> Timestamp {
    Timestamp::now()
}

/// Warns of an ending certificate, once a day.
#[derive(Default)]
struct Expiry {
    checked: Option<Instant>,
    warned: Option<Instant>,
}

impl Expiry {
    fn mention(&mut self, resolver: &Resolver, paths: &Paths) {
        let now = Instant::now();
        let due = |last: Option<Instant>, pause| last.is_none_or(|last| now - last >= pause);
        if !due(self.checked, EXPIRY_CHECK) {
            return;
        }
        self.checked = Some(now);
        let Some(ends) = resolver.not_after() else {
            return;
        };
        let left = ends - clock().as_second();
        if left < RENEWAL.as_secs() && due(self.warned, EXPIRY_WARNING) {
            self.warned = Some(now);
            let days = left.div_euclid(24 * 3600);
            warn!(file = %paths.cert.display(), days, "the serving certificate ends soon: replace it");
        }
    }
}

#[cfg(test)]
mod tests;
