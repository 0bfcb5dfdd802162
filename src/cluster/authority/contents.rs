//! What the Secret holds, read and written: its keys, its two annotations, and what each step makes of it.
//!
//! Any content is read without complaint; what cannot be used counts as missing, and members that are not ours
//! travel along. `ca-cert.pem`, `ca-key.pem`, `cert.pem` and `key.pem` are those of the reference's writer, so that
//! its Secret is taken over as it is: its leaf is served on, and as its CA key is RSA in PKCS#1, which ring does not
//! sign with, a CA of ours is introduced beside it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::plan::{CA_LIFE, CaView, LEAF_LIFE, LeafView, Request, Signer, Step, View, Why};
use crate::admission::certs::issue::{self, IssueError, Life, Made};
use crate::admission::certs::{LOCAL, pair, x509};
use crate::api::names;
use crate::cluster::trust::Bundle;

const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const NEXT_CERT: &str = "next-ca-cert.pem";
const NEXT_KEY: &str = "next-ca-key.pem";
const RETIRED: &str = "retired-ca-certs.pem";
const LEAF_CERT: &str = "cert.pem";
const LEAF_KEY: &str = "key.pem";

const LEAF_NAME: &str = "outrigger webhook";
/// Old CAs that are kept at most, the latest first.
const MOST_KEPT: usize = 16;

/// For how long every registered object has carried a CA.
pub(super) type Lasting<'a> = &'a dyn Fn(&CertificateDer<'_>) -> Option<jiff::SignedDuration>;

/// What the Secret holds, as far as it can be used.
#[derive(Clone, Default)]
pub(super) struct Contents {
    ca: Option<Ca>,
    next: Option<Ca>,
    leaf: Option<Leaf>,
    retired: Vec<CertificateDer<'static>>,
    retired_at: Option<Timestamp>,
    request: Option<Request>,
}

/// A CA, perhaps without a key that can be read.
#[derive(Clone)]
struct Ca {
    cert: CertificateDer<'static>,
    key: String,
}

/// A pair that can be served.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) pair: CertifiedKey,
    cert: Vec<u8>,
    key: Vec<u8>,
}

// === impl Contents ===

impl Contents {
    pub(super) fn read(secret: &Secret) -> Self {
        let data = secret.data.as_ref();
        let member = |name: &str| data.and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        let annotation = |name: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(name));
        Self {
            ca: Ca::read(member(CA_CERT), member(CA_KEY)),
            next: Ca::read(member(NEXT_CERT), member(NEXT_KEY)),
            leaf: member(LEAF_CERT).zip(member(LEAF_KEY)).and_then(|(cert, key)| Leaf::read(cert, key)),
            retired: member(RETIRED)
                .map(|pem| Bundle::from_pem(pem).certs().iter().filter(|cert| readable(cert)).cloned().collect())
                .unwrap_or_default(),
            retired_at: annotation(names::RETIRED_AT).and_then(|text| text.parse().ok()),
            request: match annotation(names::ROTATE).map(String::as_str) {
                Some("leaf") => Some(Request::Leaf),
                Some("ca") => Some(Request::Ca),
                _ => None,
            },
        }
    }

    /// Puts everything of ours into the Secret; what is not ours stays.
    pub(super) fn write(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        let ca = |ca: &Option<Ca>| match ca {
            Some(ca) => (Some(pem_of(&ca.cert)), Some(ca.key.clone().into_bytes())),
            None => (None, None),
        };
        let (ca_cert, ca_key) = ca(&self.ca);
        let (next_cert, next_key) = ca(&self.next);
        let (cert, key) = self.leaf.as_ref().map(|leaf| (leaf.cert.clone(), leaf.key.clone())).unzip();
        let retired = (!self.retired.is_empty()).then(|| Bundle::new(self.retired.iter().cloned()).pem().into_bytes());
        let members = [
            (CA_CERT, ca_cert),
            (CA_KEY, ca_key),
            (NEXT_CERT, next_cert),
            (NEXT_KEY, next_key),
            (LEAF_CERT, cert),
            (LEAF_KEY, key),
            (RETIRED, retired),
        ];
        for (name, member) in members {
            match member {
                Some(bytes) => data.insert(name.to_owned(), ByteString(bytes)),
                None => data.remove(name),
            };
        }
        let annotations = secret.metadata.annotations.get_or_insert_default();
        match self.retired_at {
            Some(at) => annotations.insert(names::RETIRED_AT.to_owned(), at.to_string()),
            None => annotations.remove(names::RETIRED_AT),
        };
        if self.request.is_none() {
            annotations.remove(names::ROTATE);
        }
    }

    pub(super) fn view(&self, hosts: &[String], lasting: Lasting<'_>) -> View {
        let ca = |ca: &Ca| ca.view(hosts, lasting);
        View {
            ca: self.ca.as_ref().and_then(ca),
            next: self.next.as_ref().and_then(ca),
            leaf: self.leaf.as_ref().and_then(|leaf| {
                let (from, until) = life(leaf.cert())?;
                let named = hosts.iter().all(|host| x509::names(leaf.cert(), host));
                let view = LeafView { from, until, named, signer: Signer::Unknown };
                let Some(signer) = self.signer() else { return Some(view) };
                // Clients in Go look at the dates of the CA too.
                let (ca_from, ca_until) = life(signer)?;
                let by_ca = self.ca.as_ref().is_some_and(|ca| ca.cert == *signer);
                let signer = if by_ca { Signer::Ca } else { Signer::Other };
                Some(LeafView { from: from.max(ca_from), until: until.min(ca_until), signer, ..view })
            }),
            retired: self.retired.len(),
            retired_at: self.retired_at,
            request: self.request,
        }
    }

    /// What clients shall trust. The same for every replica and at any time: it follows from the Secret alone.
    pub(super) fn bundle(&self) -> Bundle {
        Bundle::new(self.trusted().cloned())
    }

    pub(super) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// The CA by which clients accept the leaf.
    pub(super) fn signer(&self) -> Option<&CertificateDer<'static>> {
        let chain = &self.leaf.as_ref()?.pair.cert;
        self.trusted().find(|ca| x509::issuer_of(chain, [*ca]).is_some())
    }

    fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        let cas = self.ca.iter().chain(&self.next).map(|ca| &ca.cert);
        cas.chain(&self.retired)
    }

    /// What the Secret holds after `step`. `published` is what clients trust already.
    pub(super) fn after(
        &self,
        step: Step,
        hosts: &[String],
        published: &Bundle,
        now: Timestamp,
    ) -> Result<Self, IssueError> {
        let mut next = self.clone();
        match step {
            Step::Keep | Step::Await => {}
            Step::Found => {
                let ca = Ca::make(now)?;
                let trusted = self.trusted().chain(published.certs()).filter(|cert| lasts(cert, now)).cloned();
                let trusted = Bundle::new(trusted).certs().iter().take(MOST_KEPT).cloned().collect::<Vec<_>>();
                next.retired_at = (!trusted.is_empty()).then_some(now);
                next.retired = trusted;
                next.leaf = Some(ca.issue(hosts, now)?);
                next.ca = Some(ca);
                next.next = None;
                next.request = None;
            }
            Step::Renew(_) => {
                next.leaf = self.ca.as_ref().map(|ca| ca.issue(hosts, now)).transpose()?;
                next.request = self.request.filter(|request| *request != Request::Leaf);
            }
            Step::Introduce(why) => {
                next.next = Some(Ca::make(now)?);
                if why == Why::Requested || self.next.is_none() {
                    next.request = self.request.filter(|request| *request != Request::Ca);
                }
            }
            Step::Switch => {
                let old = self.ca.iter().map(|ca| &ca.cert).chain(&self.retired).filter(|cert| lasts(cert, now));
                next.retired = Bundle::new(old.cloned()).certs().iter().take(MOST_KEPT).cloned().collect::<Vec<_>>();
                next.retired_at = (!next.retired.is_empty()).then_some(now);
                next.leaf = self.next.as_ref().map(|ca| ca.issue(hosts, now)).transpose()?;
                next.ca = next.next.take();
            }
            Step::Forget => {
                next.retired = Vec::new();
                next.retired_at = None;
            }
            Step::Date => next.retired_at = Some(now),
        }
        Ok(next)
    }
}

// === impl Ca ===

impl Ca {
    fn read(cert: Option<&[u8]>, key: Option<&[u8]>) -> Option<Self> {
        let cert = Bundle::from_pem(cert?).certs().iter().find(|cert| readable(cert))?.clone();
        let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
        Some(Self { cert, key })
    }

    /// Its name holds the time, so that a person can tell one from the next.
    fn make(now: Timestamp) -> Result<Self, IssueError> {
        let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let Made { cert, key } = issue::ca(&format!("outrigger ca {second}"), Life::starting(now, CA_LIFE))?;
        Self::read(Some(cert.as_bytes()), Some(key.as_bytes())).ok_or(IssueError::Unfit("it cannot be read back"))
    }

    /// A leaf that begins when its CA began: a replica whose clock is ahead makes no leaf that the others, or an API
    /// server, hold for not yet valid.
    fn issue(&self, hosts: &[String], now: Timestamp) -> Result<Leaf, IssueError> {
        let from = life(&self.cert).map_or(now, |(from, _)| from);
        let until = now.checked_add(LEAF_LIFE).unwrap_or(Timestamp::MAX);
        let whole = hosts
            .iter()
            .filter(|host| host.rsplit('.').next() == Some("svc"))
            .map(|host| format!("{host}.cluster.local"));
        let names = hosts.iter().cloned().chain(whole).chain(LOCAL.map(str::to_owned));
        let made = issue::leaf(&self.cert, &self.key, LEAF_NAME, names, Life { from, until }, now)?;
        Leaf::read(made.cert.as_bytes(), made.key.as_bytes()).ok_or(IssueError::Unfit("its leaf cannot be served"))
    }

    fn view(&self, hosts: &[String], lasting: Lasting<'_>) -> Option<CaView> {
        let (from, until) = life(&self.cert)?;
        // The surest way to know whether it can issue is to let it.
        let issues = x509::is_ca(&self.cert) && self.issue(hosts, from).is_ok();
        Some(CaView { from, until, issues, published: lasting(&self.cert) })
    }
}

// === impl Leaf ===

impl Leaf {
    pub(super) fn read(cert: &[u8], key: &[u8]) -> Option<Self> {
        let chain = Bundle::from_pem(cert).certs().to_vec();
        Some(Self { pair: pair(chain, key).ok()?, cert: cert.to_vec(), key: key.to_vec() })
    }

    fn cert(&self) -> &CertificateDer<'static> {
        // `pair` takes no empty chain.
        &self.pair.cert[0]
    }

    pub(super) fn until(&self) -> Timestamp {
        life(self.cert()).map_or(Timestamp::MAX, |(_, until)| until)
    }
}

fn life(cert: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let from = Timestamp::from_second(x509::not_before(cert).ok()?).unwrap_or(Timestamp::MIN);
    let until = Timestamp::from_second(x509::not_after(cert).ok()?).unwrap_or(Timestamp::MAX);
    Some((from, until))
}

fn readable(cert: &CertificateDer<'_>) -> bool {
    life(cert).is_some()
}

fn lasts(cert: &CertificateDer<'_>, now: Timestamp) -> bool {
    life(cert).is_some_and(|(_, until)| now < until)
}

fn pem_of(cert: &CertificateDer<'static>) -> Vec<u8> {
    Bundle::new([cert.clone()]).pem().into_bytes()
}

/// The keys of a Secret of type kubernetes.io/tls, as cert-manager writes it.
pub(super) fn external(data: &BTreeMap<String, ByteString>) -> Option<(Leaf, Bundle)> {
    let member = |name: &str| data.get(name).map(|bytes| bytes.0.as_slice());
    let leaf = Leaf::read(member("tls.crt")?, member("tls.key")?)?;
    Some((leaf, Bundle::from_pem(member("ca.crt").unwrap_or_default())))
}
