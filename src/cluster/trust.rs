//! CA certificates that clients trust: what shall be in every `caBundle`, and what is.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// More certificates than this are not read from one text.
const MOST: usize = 32;

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// Some CA certificates, each once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(Vec<CertificateDer<'static>>);

/// Who sees to it that clients trust our CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// We do: this is to be in every `caBundle`.
    Ours(Bundle),
    /// Somebody else writes `caBundle` (cert-manager's injector); we only look.
    Theirs,
}

/// What the registered objects carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// In all of them, and since when it has been so.
    pub everywhere: BTreeMap<Fingerprint, Instant>,
    /// In any of them.
    pub anywhere: Bundle,
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Of a certificate.
    pub fn of(cert: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(cert).into())
    }
}

/// The first eight bytes in hex: enough to tell certificates apart in a log.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

// === impl Bundle ===

impl Bundle {
    /// Each certificate once, the first of equal ones.
    pub fn new(certs: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut bundle = Self::default();
        for cert in certs {
            if !bundle.0.contains(&cert) {
                bundle.0.push(cert);
            }
        }
        bundle
    }

    /// The certificates of a PEM text. Whatever else is in there is passed over.
    pub fn from_pem(pem: &[u8]) -> Self {
        Self::new(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).take(MOST))
    }

    /// PEM of the certificates and nothing else: no comment, and never a key.
    pub fn pem(&self) -> String {
        let mut text = String::new();
        for cert in &self.0 {
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let body = STANDARD.encode(cert);
            for line in body.as_bytes().chunks(64) {
                text.extend(line.iter().copied().map(char::from));
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        text
    }

    /// The certificates.
    pub fn certs(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Published ===

impl Published {
    /// For how long every registered object has carried `cert`.
    pub fn lasting(&self, cert: &CertificateDer<'_>) -> Option<SignedDuration> {
        let since = self.everywhere.get(&Fingerprint::of(cert))?;
        SignedDuration::try_from(since.elapsed()).ok()
    }

    /// What is seen now, after what was seen before: a certificate that never left keeps its time.
    #[must_use]
    pub fn then(&self, bundles: &[Bundle], now: Instant) -> Self {
        let mut everywhere = BTreeMap::new();
        if let Some((first, others)) = bundles.split_first() {
            for cert in first.certs().iter().filter(|cert| others.iter().all(|other| other.0.contains(cert))) {
                let print = Fingerprint::of(cert);
                everywhere.insert(print, self.everywhere.get(&print).copied().unwrap_or(now));
            }
        }
        let anywhere = Bundle::new(bundles.iter().flat_map(|bundle| bundle.0.iter().cloned()));
        Self { everywhere, anywhere }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cert(text: &str) -> CertificateDer<'static> {
        CertificateDer::from(text.repeat(40).into_bytes())
    }

    #[test]
    fn a_bundle_is_the_certificates_of_a_text_and_nothing_else() {
        let bundle = Bundle::new([cert("a"), cert("b"), cert("a")]);
        assert_eq!(bundle.certs().len(), 2);
        let pem = bundle.pem();
        assert!(pem.lines().all(|line| line.len() <= 64));
        let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        let read = Bundle::from_pem(format!("# a comment\n{key}{pem}").as_bytes());
        assert_eq!(read, bundle);
        assert_eq!(read.pem(), pem);
        assert!(Bundle::from_pem(b"-----BEGIN CERTIFICATE-----\n!").is_empty());
    }

    #[test]
    fn a_certificate_is_published_since_it_was_in_every_bundle_without_a_break() {
        let (a, b) = (cert("a"), cert("b"));
        let (only_a, both) = (Bundle::new([a.clone()]), Bundle::new([a.clone(), b.clone()]));
        let start = Instant::now();
        let at = |seconds| start + std::time::Duration::from_secs(seconds);
        let first = Published::default().then(&[only_a.clone(), both.clone()], at(0));
        assert_eq!(first.everywhere.len(), 1);
        assert_eq!(first.anywhere.certs().len(), 2);
        let second = first.then(&[both.clone(), both.clone()], at(5));
        assert_eq!(second.everywhere[&Fingerprint::of(&a)], at(0));
        assert_eq!(second.everywhere[&Fingerprint::of(&b)], at(5));
        let broken = second.then(&[both.clone(), only_a], at(6)).then(&[both.clone(), both], at(7));
        assert_eq!(broken.everywhere[&Fingerprint::of(&b)], at(7));
        assert_eq!(second.then(&[], at(8)), Published::default());
    }
}
