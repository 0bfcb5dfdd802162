//! How far a pull is, by what containerd's store of content says: which manifest is the image's, which of its blobs are
//! there, and how many bytes of the others (WEAK-28: the reference knows 0 and 100 alone).
//!
//! The runtime does not say which manifest a pull has found. It labels each that it reads with where it came from, anew with
//! every pull; so the image's manifest is the one of its repository that was labelled since the pull began. Two pulls of one
//! repository at a time take what they find in turn.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Label of a blob: the repositories of a host that it came from, joined by commas; the host follows.
pub const SOURCE: &str = "containerd.io/distribution.source.";
/// Label of a manifest: its configuration.
pub const CONFIG: &str = "containerd.io/gc.ref.content.config";
/// Labels of an index: its manifests; a number follows.
pub const MANIFEST: &str = "containerd.io/gc.ref.content.m.";
/// The longest manifest that is read, in bytes: as much as registries take.
pub const LONGEST: u64 = 4 << 20;
/// The most blobs that are kept account of.
const MOST: usize = 1000;

/// A blob of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// What of an image is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Each blob once, with the bytes that are there.
    blobs: BTreeMap<String, Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    size: u64,
    there: u64,
    is_whole: bool,
}

/// A manifest that may be the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its digest.
    pub digest: String,
    /// When it was written or last labelled, in nanoseconds since 1970.
    pub touched: i128,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

// === impl Account ===

impl Account {
    /// Reads a manifest; `None` when it has no blobs.
    pub fn read(manifest: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Manifest {
            config: Option<Blob>,
            #[serde(default)]
            layers: Vec<Blob>,
        }
        let Manifest { config, layers } = serde_json::from_slice(manifest).ok()?;
        let part = |blob: Blob| (blob.digest, Part { size: blob.size, there: 0, is_whole: false });
        let blobs: BTreeMap<_, _> = layers.into_iter().chain(config).take(MOST).map(part).collect();
        (!blobs.is_empty()).then_some(Self { blobs })
    }

    /// Takes that so many bytes of a blob are there.
    pub fn arriving(&mut self, digest: &str, bytes: u64) {
        if let Some(part) = self.blobs.get_mut(digest).filter(|part| !part.is_whole) {
            // A download that began anew has less than before, and a person sees no progress go back.
            part.there = part.there.max(bytes.min(part.size));
        }
    }

    /// Takes that a blob is there.
    pub fn whole(&mut self, digest: &str) {
        if let Some(part) = self.blobs.get_mut(digest) {
            (part.there, part.is_whole) = (part.size, true);
        }
    }

    /// The blobs that are not known to be there, which may have come since.
    pub fn open(&self) -> Vec<String> {
        self.blobs.iter().filter(|(_, part)| !part.is_whole).map(|(digest, _)| digest.clone()).collect()
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> u64 {
        self.blobs.values().fold(0, |sum, part| sum.saturating_add(part.size - part.there))
    }

    /// Of a hundred parts of its bytes, how many are there. 100 is for the pull that has ended: what is there is yet to be
    /// unpacked.
    pub fn percent(&self) -> i32 {
        let sum = |of: fn(&Part) -> u64| self.blobs.values().map(|part| u128::from(of(part))).sum::<u128>();
        let (there, all) = (sum(|part| part.there), sum(|part| part.size).max(1));
        i32::try_from(there * 100 / all).unwrap_or(99).clamp(0, 99)
    }
}

/// The filter of containerd for the manifests that came from the registry of this repository.
pub fn filter(repository: &str) -> String {
    format!("labels.\"{}\",labels.\"{CONFIG}\"", source(repository).0)
}

/// The manifest of a pull of `repository` that began at `since`, in nanoseconds since 1970. `index` are the digests of the
/// manifests that it can only be, when it is known. One that `is_taken` is that of another pull.
pub fn choose<'a>(
    candidates: &'a [Candidate],
    repository: &str,
    since: i128,
    only: Option<&[String]>,
    is_taken: impl Fn(&str) -> bool,
) -> Option<&'a Candidate> {
    let (label, path) = source(repository);
    let is_of_it = |candidate: &&Candidate| {
        let sources = candidate.labels.get(&label).map(String::as_str).unwrap_or_default();
        sources.split(',').any(|source| source == path)
            && candidate.labels.contains_key(CONFIG)
            && only.map_or(candidate.touched >= since, |only| only.contains(&candidate.digest))
            && !is_taken(&candidate.digest)
    };
    candidates.iter().filter(is_of_it).min_by(|a, b| (a.touched, &a.digest).cmp(&(b.touched, &b.digest)))
}

/// The manifests of an index, by its labels; itself, when it is a manifest.
pub fn manifests(digest: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
    if labels.contains_key(CONFIG) {
        return vec![digest.to_owned()];
    }
    let of_it = labels.iter().filter(|(label, _)| label.starts_with(MANIFEST));
    of_it.map(|(_, digest)| digest.clone()).collect()
}

/// The digest that a blob on its way will have, by what it is called: `layer-sha256:…`.
pub fn digest_of(reference: &str) -> Option<&str> {
    let at = reference.find("sha256:").or_else(|| reference.find("sha512:"))?;
    Some(&reference[at..])
}

/// Label and value of what came from a repository. Ports are not in the label.
fn source(repository: &str) -> (String, &str) {
    let (host, path) = repository.split_once('/').unwrap_or(("docker.io", repository));
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    (format!("{SOURCE}{}", name.trim_matches(['[', ']'])), path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn account(sizes: &[u64]) -> Account {
        let layers: Vec<_> =
            sizes.iter().enumerate().map(|(n, size)| json!({"digest": format!("sha256:{n}"), "size": size})).collect();
        let manifest = json!({"schemaVersion": 2, "config": {"digest": "sha256:c", "size": 0}, "layers": layers});
        Account::read(manifest.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn bytes_that_are_there_are_counted_weak_28() {
        let mut account = account(&[600, 400]);
        assert_eq!((account.percent(), account.missing()), (0, 1000));
        account.arriving("sha256:0", 300);
        assert_eq!((account.percent(), account.missing()), (30, 700));
        account.whole("sha256:1");
        assert_eq!((account.percent(), account.open().len()), (70, 2));
        account.arriving("sha256:0", 100);
        assert_eq!(account.percent(), 70, "it does not go back");
        account.whole("sha256:0");
        assert_eq!((account.percent(), account.missing()), (99, 0), "it is yet to be unpacked");
        account.arriving("sha256:other", 300);
    }

    #[rstest]
    #[case::no_json("manifest")]
    #[case::nothing("{}")]
    #[case::index(r#"{"manifests": [{"digest": "sha256:1", "size": 1}]}"#)]
    #[case::odd(r#"{"layers": [{"digest": 1}]}"#)]
    #[case::negative(r#"{"layers": [{"digest": "a", "size": -1}]}"#)]
    fn what_has_no_blobs_has_no_account(#[case] text: &str) {
        assert_eq!(Account::read(text.as_bytes()), None);
    }

    fn candidate(digest: &str, touched: i128, label: &str, source: &str) -> Candidate {
        let labels = [(label, source), (CONFIG, "sha256:c")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Candidate { digest: digest.to_owned(), touched, labels }
    }

    #[test]
    fn the_manifest_is_the_first_of_its_repository_since_the_pull_began() {
        let label = format!("{SOURCE}reg.example");
        let all = [
            candidate("older", 9, &label, "team/app"),
            candidate("other", 11, &label, "team/other"),
            candidate("elsewhere", 11, &format!("{SOURCE}docker.io"), "team/app"),
            candidate("later", 13, &label, "team/app"),
            candidate("it", 12, &label, "mirror,team/app"),
        ];
        let found = |taken: &[&str]| {
            let chosen = choose(&all, "reg.example:5000/team/app", 10, None, |digest| taken.contains(&digest));
            chosen.map(|candidate| candidate.digest.clone())
        };
        assert_eq!(found(&[]).as_deref(), Some("it"));
        assert_eq!(found(&["it"]).as_deref(), Some("later"), "another pull has taken it");
        assert_eq!(found(&["it", "later"]), None);
        let only = ["older".to_owned()];
        let chosen = choose(&all, "reg.example:5000/team/app", 10, Some(&only), |_| false);
        assert_eq!(chosen.map(|candidate| &*candidate.digest), Some("older"), "a digest says which one");
    }

    #[test]
    fn an_index_names_its_manifests() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let index = labels(&[("containerd.io/gc.ref.content.m.0", "a"), ("containerd.io/gc.ref.content.m.1", "b")]);
        assert_eq!(manifests("i", &index), ["a", "b"]);
        assert_eq!(manifests("m", &labels(&[(CONFIG, "c")])), ["m"]);
    }

    #[rstest]
    #[case("layer-sha256:ab", Some("sha256:ab"))]
    #[case("k8s.io/1/config-sha256:ab", Some("sha256:ab"))]
    #[case("upload", None)]
    fn a_name_on_the_way_holds_a_digest(#[case] name: &str, #[case] digest: Option<&str>) {
        assert_eq!(digest_of(name), digest);
    }

    #[test]
    fn the_filter_asks_for_manifests_of_the_host_without_its_port() {
        let expected =
            "labels.\"containerd.io/distribution.source.reg.example\",labels.\"containerd.io/gc.ref.content.config\"";
        assert_eq!(filter("reg.example:5000/team/app"), expected);
    }

    proptest! {
        #[test]
        fn progress_never_goes_back_nor_beyond(
            sizes in prop::collection::vec(any::<u64>(), 1..8),
            steps in prop::collection::vec((0_usize..8, any::<u64>(), any::<bool>()), 0..40),
        ) {
            let mut account = account(&sizes);
            let (mut percent, mut missing) = (account.percent(), account.missing());
            for (blob, bytes, is_whole) in steps {
                let digest = format!("sha256:{blob}");
                if is_whole { account.whole(&digest) } else { account.arriving(&digest, bytes) }
                prop_assert!((percent..=99).contains(&account.percent()));
                prop_assert!(account.missing() <= missing);
                (percent, missing) = (account.percent(), account.missing());
            }
        }
    }
}
