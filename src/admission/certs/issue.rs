//! Making certificates: a CA, and a leaf of a CA. P-256, by rcgen; the texts are PEM.
//!
//! Whoever asks decides where they are kept (files: [`super::ensure`]; a Secret: `cluster::authority`). A leaf
//! that clients would not accept is never returned.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;

use super::x509;

/// Clients whose clocks are a little behind accept a new certificate too.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// A certificate and its key. Not `Debug`: the key is nobody's to read.
pub(crate) struct Made {
    /// PEM.
    pub(crate) cert: String,
    /// PEM, PKCS#8.
    pub(crate) key: String,
}

/// The first and the last second of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// A CA that cannot issue a leaf that clients accept.
    #[error("the CA cannot issue: {0}")]
    Unfit(&'static str),
    /// A host that no certificate can name.
    #[error("{host:?} is neither a DNS name nor an address: correct it")]
    Host { host: String, source: rcgen::Error },
    /// Key generation or signing failed.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
}

// === impl Life ===

impl Life {
    /// From a little before `now`, for clocks that are behind.
    pub(crate) fn starting(now: Timestamp, lasting: SignedDuration) -> Self {
        let until = now.checked_add(lasting).unwrap_or(Timestamp::MAX);
        Self { from: now.checked_sub(SKEW).unwrap_or(now), until }
    }
}

/// A CA that signs leaves and nothing else.
pub(crate) fn ca(name: &str, life: Life) -> Result<Made, IssueError> {
    let key = KeyPair::generate().map_err(IssueError::Make)?;
    let mut params = lasting(name, life);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).map_err(IssueError::Make)?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

/// A serving certificate for `hosts`, which ends no later than its CA. The CA must be within its own life at `now`.
pub(crate) fn leaf(
    ca: &CertificateDer<'_>,
    ca_key: &str,
    name: &str,
    hosts: impl IntoIterator<Item = impl AsRef<str>>,
    life: Life,
    now: Timestamp,
) -> Result<Made, IssueError> {
    let ends = x509::not_after(ca).map_err(|_| IssueError::Unfit("it is malformed"))?;
    if ends <= now.as_second() {
        return Err(IssueError::Unfit("it has expired"));
    }
    let root_key =
        KeyPair::from_pem(ca_key).map_err(|_| IssueError::Unfit("its key is not an unencrypted PKCS#8 key"))?;
    let issuer = x509::issuer_params(ca).ok_or(IssueError::Unfit("its name cannot be repeated"))?;
    let issuer = Issuer::new(issuer, root_key);

    let ends = Timestamp::from_second(ends).unwrap_or(Timestamp::MAX);
    let mut params = lasting(name, Life { until: ends.min(life.until), ..life });
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = x509::key_identifier(ca).is_some();
    for host in hosts {
        let host = host.as_ref();
        let named = CertificateParams::new([host.to_owned()])
            .map_err(|source| IssueError::Host { host: host.to_owned(), source })?;
        for name in named.subject_alt_names {
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
    }
    let key = KeyPair::generate().map_err(IssueError::Make)?;
    let cert = params.signed_by(&key, &issuer).map_err(IssueError::Make)?;
    if !x509::is_issued_by(cert.der(), ca) {
        return Err(IssueError::Unfit("its key does not belong to it, or it may not issue"));
    }
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

pub(super) fn lasting(name: &str, life: Life) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| epoch + Duration::from_secs(time.as_second().max(0).unsigned_abs());
    params.not_before = at(life.from);
    params.not_after = at(life.until);
    params
}
