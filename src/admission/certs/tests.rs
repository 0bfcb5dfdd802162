use std::os::unix::fs::{PermissionsExt, symlink};

use rcgen::{BasicConstraints, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::issue::lasting;
use super::*;

const DAY: i64 = 24 * 3600;

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn after(days: i64) -> Timestamp {
    start() + SignedDuration::from_secs(days * DAY)
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn made(dir: &TempDir, now: Timestamp) -> Result<Paths, CertError> {
    ensure(dir.path(), &["webhook.test".to_owned()], now)
}

fn leaf(paths: &Paths) -> CertificateDer<'static> {
    certificates(&paths.cert).unwrap().swap_remove(0)
}

fn text(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// A CA as another tool makes it: several name parts, some of them printable strings.
fn foreign_ca(dir: &TempDir) {
    let key = KeyPair::generate().unwrap();
    let mut params = lasting("Corporate Root", Life { from: start(), until: after(1000) });
    let country = rcgen::DnValue::PrintableString("CH".try_into().unwrap());
    params.distinguished_name.push(DnType::CountryName, country);
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "4711");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_identifier_method = rcgen::KeyIdMethod::Sha512;
    let cert = params.self_signed(&key).unwrap();
    fs::write(dir.path().join("ca.crt"), cert.pem()).unwrap();
    fs::write(dir.path().join("ca.key"), key.serialize_pem()).unwrap();
}

/// A self-signed leaf of a user, with its key.
fn foreign_leaf(dir: &TempDir, end: Timestamp) {
    let key = KeyPair::generate().unwrap();
    let cert = lasting("theirs", Life { from: start(), until: end }).self_signed(&key).unwrap();
    fs::write(dir.path().join("tls.crt"), cert.pem()).unwrap();
    fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
}

#[test]
fn makes_a_ca_and_a_leaf_for_every_host() {
    let dir = dir();
    let paths = made(&dir, start()).unwrap();
    let leaf = leaf(&paths);
    for host in ["localhost", "127.0.0.1", "::1", "webhook.test"] {
        assert!(x509::names(&leaf, host), "{host}");
    }
    assert!(!x509::names(&leaf, "other.test"));
    let ca = certificates(&dir.path().join("ca.crt")).unwrap();
    assert!(x509::is_issued_by(&leaf, &ca[0]));
    assert_eq!(x509::not_after(&ca[0]), Ok(after(3650).as_second()));
    let pair = load(&paths).unwrap();
    assert_eq!(not_after(&pair), Some(after(365).as_second()));
}

#[test]
fn makes_the_directory_and_leaves_nothing_else_in_it() {
    let dir = dir();
    let deep = dir.path().join("a/b");
    ensure(&deep, &[], start()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&deep).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ca.crt", "ca.key", "tls.crt", "tls.key"]);
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let dir = dir();
    made(&dir, start()).unwrap();
    for name in ["ca.key", "tls.key"] {
        let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn changes_nothing_when_all_is_there() {
    let dir = dir();
    let paths = made(&dir, start()).unwrap();
    let before = paths.stamps();
    made(&dir, after(300)).unwrap();
    assert_eq!(paths.stamps(), before);
}

#[test]
fn renews_its_own_leaf_within_thirty_days_of_its_end() {
    for day in [336, 364, 400] {
        let dir = dir();
        let paths = made(&dir, start()).unwrap();
        let ca = text(&dir, "ca.crt");
        made(&dir, after(day)).unwrap();
        let ends = not_after(&load(&paths).unwrap()).unwrap();
        assert_eq!(ends, after(day + 365).as_second());
        assert_eq!(text(&dir, "ca.crt"), ca);
    }
}

#[test]
fn renews_its_own_leaf_for_a_new_host() {
    let dir = dir();
    let paths = made(&dir, start()).unwrap();
    ensure(dir.path(), &["new.test".to_owned()], start()).unwrap();
    assert!(x509::names(&leaf(&paths), "new.test"));
}

#[test]
fn a_leaf_never_outlives_its_ca() {
    let dir = dir();
    let paths = made(&dir, after(0)).unwrap();
    made(&dir, after(3500)).unwrap();
    let ends = not_after(&load(&paths).unwrap()).unwrap();
    assert_eq!(ends, after(3650).as_second());
    let err = made(&dir, after(3651)).unwrap_err();
    assert!(err.to_string().contains("it has expired"), "{err}");
}

#[test]
fn issues_from_a_ca_of_the_user() {
    let dir = dir();
    foreign_ca(&dir);
    let before = text(&dir, "ca.crt");
    let paths = made(&dir, start()).unwrap();
    let ca = certificates(&dir.path().join("ca.crt")).unwrap();
    let leaf = leaf(&paths);
    assert!(x509::is_issued_by(&leaf, &ca[0]));
    let id = x509::key_identifier(&ca[0]).unwrap();
    assert!(memchr::memmem::find(&leaf, id).is_some());
    assert_eq!(text(&dir, "ca.crt"), before);
}

#[test]
fn refuses_a_ca_whose_key_is_another() {
    let (dir, other) = (dir(), self::dir());
    foreign_ca(&dir);
    foreign_ca(&other);
    fs::write(dir.path().join("ca.key"), text(&other, "ca.key")).unwrap();
    let err = made(&dir, start()).unwrap_err();
    assert!(matches!(err, CertError::Ca { .. }), "{err}");
    assert!(!dir.path().join("tls.crt").exists());
}

#[test]
fn asks_for_the_other_half_of_a_pair() {
    for (name, other) in [("tls.crt", "tls.key"), ("tls.key", "tls.crt"), ("ca.crt", "ca.key"), ("ca.key", "ca.crt")] {
        let dir = dir();
        fs::write(dir.path().join(name), "theirs").unwrap();
        let err = made(&dir, start()).unwrap_err().to_string();
        assert!(err.contains(name) && err.contains(other), "{err}");
        assert_eq!(text(&dir, name), "theirs");
    }
}

#[test]
fn serves_a_leaf_of_the_user_until_its_end_and_never_writes_over_it() {
    let dir = dir();
    foreign_leaf(&dir, after(10));
    let before = text(&dir, "tls.crt");
    made(&dir, after(9)).unwrap();
    let err = made(&dir, after(11)).unwrap_err();
    assert!(matches!(err, CertError::Expired { not_after, .. } if not_after == after(10)));
    assert_eq!(text(&dir, "tls.crt"), before);
}

#[test]
fn a_link_that_leads_nowhere_is_not_written_over() {
    let dir = dir();
    for name in ["tls.crt", "tls.key"] {
        symlink("/nonexistent/file", dir.path().join(name)).unwrap();
    }
    let err = made(&dir, start()).unwrap_err();
    assert!(matches!(err, CertError::Read { .. }), "{err}");
}

#[test]
fn ends_what_a_killed_process_began() {
    let dir = dir();
    let paths = made(&dir, start()).unwrap();
    let (cert, key) = (text(&dir, "tls.crt"), text(&dir, "tls.key"));
    // Killed before the first rename, then between the two.
    let tls = Pair::named(dir.path(), "tls");
    fs::write(&tls.next_cert, "half").unwrap();
    fs::write(&tls.next_key, "half").unwrap();
    made(&dir, start()).unwrap();
    assert_eq!(text(&dir, "tls.crt"), cert);
    assert!(!exists(&tls.next_cert) && !exists(&tls.next_key));

    made(&dir, after(350)).unwrap();
    let renewed = text(&dir, "tls.crt");
    fs::rename(&tls.cert, &tls.next_cert).unwrap();
    fs::write(&tls.cert, cert).unwrap();
    made(&dir, after(350)).unwrap();
    assert_eq!(text(&dir, "tls.crt"), renewed);
    assert_ne!(text(&dir, "tls.key"), key);
    load(&paths).unwrap();
}

#[test]
fn says_which_file_is_wrong() {
    let (dir, other) = (dir(), self::dir());
    let paths = made(&dir, start()).unwrap();
    let key = text(&dir, "tls.key");
    made(&other, start()).unwrap();

    fs::write(&paths.key, text(&other, "tls.key")).unwrap();
    let err = load(&paths).unwrap_err();
    assert!(matches!(err, CertError::Mismatch { .. }), "{err}");

    fs::write(&paths.key, &key[..key.len() / 2]).unwrap();
    let err = load(&paths).unwrap_err();
    assert!(err.to_string().contains("tls.key"), "{err}");

    fs::write(&paths.key, &key).unwrap();
    let nonsense = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    fs::write(&paths.cert, nonsense).unwrap();
    let err = load(&paths).unwrap_err();
    assert!(matches!(err, CertError::Malformed { .. }), "{err}");

    fs::write(&paths.cert, "").unwrap();
    let err = crate::telemetry::chain(&load(&paths).unwrap_err());
    assert!(err.contains("tls.crt holds no certificate"), "{err}");
}

#[test]
fn two_starts_at_once_agree_on_one_pair() {
    let dir = dir();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| made(&dir, start()).unwrap());
        }
    });
    let paths = made(&dir, start()).unwrap();
    let ca = certificates(&dir.path().join("ca.crt")).unwrap();
    assert!(x509::is_issued_by(&leaf(&paths), &ca[0]));
}

#[test]
fn refuses_a_host_that_no_certificate_can_name() {
    let err = ensure(dir().path(), &["bücher.test".to_owned()], start()).unwrap_err();
    assert!(err.to_string().contains("bücher.test"), "{err}");
}
