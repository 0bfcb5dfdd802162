//! What we need to know of a certificate, asked of webpki, which rustls brings along.
//!
//! Two things it does not tell are read from the DER here: the parts of a CA's name and its key identifier,
//! which a leaf must repeat to be accepted. Certificates come from our own disk or Secret, and a leaf that was
//! issued from these parts is verified before it is used.

use std::time::Duration;

use memchr::memmem;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyIdMethod};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// One second after the last that a certificate can name.
const AFTER_ALL: UnixTime = UnixTime::since_unix_epoch(Duration::from_hours(70_389_528));

/// The last second of any certificate: verified at the end of time it has expired, and the error says when.
pub(crate) fn not_after(cert: &CertificateDer<'_>) -> Result<i64, webpki::Error> {
    match verify(cert, None, AFTER_ALL) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Ok(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX)),
        Err(err) => Err(err),
        Ok(()) => Ok(i64::MAX),
    }
}

/// The first second of a certificate, asked as [`not_after`] asks for the last.
pub(crate) fn not_before(cert: &CertificateDer<'_>) -> Result<i64, webpki::Error> {
    match verify(cert, None, UnixTime::since_unix_epoch(Duration::ZERO)) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Ok(i64::try_from(not_before.as_secs()).unwrap_or(i64::MAX))
        }
        // It began before clocks did.
        Err(webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity) | Ok(()) => Ok(0),
        Err(err) => Err(err),
    }
}

/// Whether it says of itself that it is a CA. Clients in Go insist on that for roots too.
pub(crate) fn is_ca(cert: &CertificateDer<'_>) -> bool {
    let Ok(begins) = not_before(cert) else {
        return false;
    };
    let first = UnixTime::since_unix_epoch(Duration::from_secs(begins.unsigned_abs()));
    matches!(verify(cert, None, first), Err(webpki::Error::CaUsedAsEndEntity))
}

/// Whether a client that trusts `ca` alone accepts `leaf` while it lasts.
pub(crate) fn is_issued_by(leaf: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> bool {
    let Ok(ends) = not_after(leaf) else {
        return false;
    };
    let last = UnixTime::since_unix_epoch(Duration::from_secs(ends.unsigned_abs()));
    verify(leaf, Some(ca), last).is_ok()
}

/// The first of `cas` by which a client accepts `chain` while its leaf lasts.
pub(crate) fn issuer_of<'a>(
    chain: &[CertificateDer<'_>],
    cas: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> Option<&'a CertificateDer<'a>> {
    let (leaf, intermediates) = chain.split_first()?;
    let last = UnixTime::since_unix_epoch(Duration::from_secs(not_after(leaf).ok()?.unsigned_abs()));
    cas.into_iter().find(|ca| verify_chain(leaf, intermediates, Some(*ca), last).is_ok())
}

fn verify(leaf: &CertificateDer<'_>, ca: Option<&CertificateDer<'_>>, at: UnixTime) -> Result<(), webpki::Error> {
    verify_chain(leaf, &[], ca, at)
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    ca: Option<&CertificateDer<'_>>,
    at: UnixTime,
) -> Result<(), webpki::Error> {
    let anchors = ca.map(anchor_from_trusted_cert).transpose()?.into_iter().collect::<Vec<_>>();
    let algorithms = ring::default_provider().signature_verification_algorithms;
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(algorithms.all, &anchors, intermediates, at, KeyUsage::server_auth(), None, None)
        .map(|_| ())
}

/// Whether the subject's name holds `name`.
pub(crate) fn is_named(cert: &CertificateDer<'_>, name: &str) -> bool {
    anchor_from_trusted_cert(cert).is_ok_and(|cert| memmem::find(&cert.subject, name.as_bytes()).is_some())
}

/// Whether a client may reach `host` by this certificate. A pattern is not a host and holds by itself.
pub(crate) fn names(cert: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(host) = ServerName::try_from(host) else {
        return true;
    };
    EndEntityCert::try_from(cert).is_ok_and(|cert| cert.verify_is_valid_for_subject_name(&host).is_ok())
}

/// What a leaf repeats of its CA. `None` when the name has parts that rcgen cannot write.
pub(crate) fn issuer_params(ca: &CertificateDer<'_>) -> Option<CertificateParams> {
    let anchor = anchor_from_trusted_cert(ca).ok()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&anchor.subject)?;
    if let Some(id) = key_identifier(ca) {
        params.key_identifier_method = KeyIdMethod::PreSpecified(id.to_vec());
    }
    Some(params)
}

/// The subject key identifier: an extension that holds an octet string in an octet string.
pub(crate) fn key_identifier<'a>(ca: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    const OID: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];
    let at = memmem::find(ca, OID)?;
    let (tag, extension, _) = element(&ca[at + OID.len()..])?;
    let (inner, id, _) = element(extension)?;
    (tag == 0x04 && inner == 0x04).then_some(id)
}

fn name(mut der: &[u8]) -> Option<DistinguishedName> {
    let mut name = DistinguishedName::new();
    while !der.is_empty() {
        let (_, set, rest) = element(der)?;
        der = rest;
        let (_, pair, more) = element(set)?;
        let (_, oid, value) = element(pair)?;
        let (tag, text, _) = element(value)?;
        let text = std::str::from_utf8(text).ok()?;
        let kind = DnType::from_oid(&arcs(oid));
        if !more.is_empty() || name.get(&kind).is_some() {
            return None;
        }
        let text = match tag {
            0x0c => DnValue::Utf8String(text.to_owned()),
            0x13 => DnValue::PrintableString(text.try_into().ok()?),
            0x14 => DnValue::TeletexString(text.try_into().ok()?),
            0x16 => DnValue::Ia5String(text.try_into().ok()?),
            _ => return None,
        };
        name.push(kind, text);
    }
    Some(name)
}

/// Tag, content and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0, |sum: usize, digit| sum << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn arcs(oid: &[u8]) -> Vec<u64> {
    let mut arcs = Vec::new();
    let mut arc: u64 = 0;
    for byte in oid {
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.extend([first, arc - first * 40]);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    arcs
}
