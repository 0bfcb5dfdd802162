//! What went wrong with a pull, in classes: which are tried again, and what a person can do about each (WEAK-30).
//!
//! Runtimes have few codes for it and tell the rest in words, in those of registries and of their own libraries. Words that
//! are not known are passed on, and tried again.

use core::time::Duration;
use std::fmt;

use crate::api::image::full_name;

/// Bytes of the runtime's words that are passed on.
const WORDS: usize = 240;

/// What the runtime answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It says that something does not exist.
    Gone(&'a str),
    /// It says that what was asked makes no sense.
    Invalid(&'a str),
    /// It failed.
    Refused(&'a str),
    /// It went away.
    Cut(&'a str),
    /// It did not answer within this time.
    Slow(Duration),
}

/// A class of what can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The registry has no such image.
    Unknown,
    /// It has none for the node's kind of processor.
    Platform,
    /// It wants other credentials.
    Denied,
    /// The reference is not one.
    Invalid,
    /// The registry wants fewer requests.
    Busy,
    /// The registry is not in order.
    Server,
    /// The registry cannot be reached.
    Unreachable,
    /// The registry's certificate is not trusted.
    Untrusted,
    /// It took too long.
    Slow,
    /// What came is not what the image says.
    Broken,
    /// There is no room for it.
    Full,
    /// A pull secret is not in order.
    Secret,
    /// The runtime went away.
    Runtime,
    /// Anything else.
    Other,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub fault: Fault,
    /// For people: what, in whose words, and what to do.
    pub told: String,
}

/// Words of each class, in the order in which they are looked for: what asks for a login may also say that the image does
/// not exist.
const KNOWN: [(Fault, &[&str]); 10] = [
    (Fault::Full, &["no space left on device", "disk quota exceeded", "not enough space"]),
    (
        Fault::Busy,
        &["toomanyrequests", "too many requests", "rate limit", "status 429", "status code 429", "code: 429"],
    ),
    (Fault::Platform, &["no match for platform", "no matching manifest for", "no image found in manifest list for"]),
    (
        Fault::Broken,
        &[
            "unexpected eof",
            "unexpected commit size",
            "unexpected commit digest",
            "failed commit on ref",
            "size validation",
            "digest mismatch",
            "does not match",
            "filesystem layer verification failed",
            "invalid checksum",
            "short read",
            "gzip: ",
            "zstd: ",
            "archive/tar",
            "flate: ",
            "failed to extract layer",
            "content digest",
            "could not fetch content descriptor",
        ],
    ),
    (
        Fault::Untrusted,
        &["x509:", "tls: ", "certificate", "server gave http response to https client", "tls handshake failure"],
    ),
    (
        Fault::Unreachable,
        &[
            "no such host",
            "connection refused",
            "connection reset",
            "network is unreachable",
            "no route to host",
            "server misbehaving",
            "temporary failure in name resolution",
            "dial tcp",
            ": eof",
        ],
    ),
    (
        Fault::Denied,
        &[
            "401 unauthorized",
            "403 forbidden",
            "status 401",
            "status code 401",
            "code: 401",
            "unauthorized",
            "authorization failed",
            "authentication required",
            "insufficient_scope",
            "access denied",
            "access to the requested resource is not authorized",
            "no basic auth credentials",
            "failed to fetch anonymous token",
            "failed to fetch oauth token",
            "incorrect username or password",
            "invalid username/password",
            "denied: ",
        ],
    ),
    (
        Fault::Server,
        &["internal server error", "bad gateway", "service unavailable", "gateway timeout", "status code 50"],
    ),
    (
        Fault::Slow,
        &["i/o timeout", "timeout exceeded", "handshake timeout", "timed out", "deadline exceeded", "context canceled"],
    ),
    (
        Fault::Unknown,
        &[
            "not found",
            "manifest unknown",
            "name unknown",
            "repository name not known",
            "no such image",
            "does not exist",
        ],
    ),
];
/// Words of a reference that is not one.
const INVALID: [&str; 4] =
    ["invalid reference format", "failed to parse image reference", "failed to parse reference", "invalid tag format"];

// === impl Fault ===

impl Fault {
    /// Every class.
    pub const ALL: [Self; 14] = [
        Self::Unknown,
        Self::Platform,
        Self::Denied,
        Self::Invalid,
        Self::Busy,
        Self::Server,
        Self::Unreachable,
        Self::Untrusted,
        Self::Slow,
        Self::Broken,
        Self::Full,
        Self::Secret,
        Self::Runtime,
        Self::Other,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Platform => "platform",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Busy => "busy",
            Self::Server => "server",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Full => "full",
            Self::Secret => "secret",
            Self::Runtime => "runtime",
            Self::Other => "other",
        }
    }

    /// Whether the next attempt would fail the same way.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Unknown | Self::Platform | Self::Denied | Self::Invalid)
    }

    /// The class of an answer.
    fn of(image: &str, answer: Answer<'_>) -> Self {
        let (words, otherwise) = match answer {
            Answer::Slow(_) => return Self::Slow,
            Answer::Cut(_) => return Self::Runtime,
            Answer::Gone(words) => (words, Self::Unknown),
            Answer::Invalid(words) => (words, Self::Invalid),
            Answer::Refused(words) => (words, Self::Other),
        };
        let words = without(image, words).to_ascii_lowercase();
        let has = |part: &&str| words.contains(*part);
        if INVALID.iter().any(has) {
            return Self::Invalid;
        }
        KNOWN.iter().find(|(_, parts)| parts.iter().any(has)).map_or(otherwise, |(fault, _)| *fault)
    }

    fn what(self) -> &'static str {
        match self {
            Self::Unknown => "the registry does not have it",
            Self::Platform => "there is none for this node's platform",
            Self::Denied => "the registry refuses access",
            Self::Invalid => "it is not the name of an image",
            Self::Busy => "the registry answers 429, too many requests",
            Self::Server => "the registry is not in order",
            Self::Unreachable => "the registry cannot be reached",
            Self::Untrusted => "the registry cannot be trusted by this node",
            Self::Slow => "the registry or the runtime took too long",
            Self::Broken => "what was received is not what the image says",
            Self::Full => "the image file system is full",
            Self::Secret => "a pull secret cannot be used",
            Self::Runtime => "the container runtime went away",
            Self::Other => "the container runtime cannot pull it",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Unknown => "check its name and tag; a registry may also say so to who may not read it",
            Self::Platform => "push an image for this platform, or leave such nodes out of the job",
            Self::Denied => "check the job's pullSecrets, and that their user may read the repository",
            Self::Invalid => "check how it is written",
            Self::Busy => "log in with pullSecrets, lower the job's parallelism, or use a mirror",
            Self::Server => "its log says more",
            Self::Unreachable => "check the registry's address, and the node's DNS, routes and firewall",
            Self::Untrusted => "give the node's runtime the registry's CA, or tell it that the registry has no TLS",
            Self::Slow => "check that the registry answers from this node, or raise timeoutSeconds",
            Self::Broken => "check the registry and what is between, or push the image again",
            Self::Full => "remove what is not used on the node, or pull a smaller image",
            Self::Secret => "mend the secret",
            Self::Runtime => "its log on the node says more",
            Self::Other => "the runtime's log on the node says more",
        }
    }
}

// === impl Failure ===

impl Failure {
    /// What an answer means for `image`.
    pub fn of(image: &str, answer: Answer<'_>) -> Self {
        let fault = Fault::of(image, answer);
        let words = match answer {
            Answer::Slow(limit) => format!("no end within {} s", limit.as_secs_f64().ceil()),
            Answer::Gone(words) | Answer::Invalid(words) | Answer::Refused(words) | Answer::Cut(words) => {
                plain(image, words)
            }
        };
        Self::new(image, fault, &words)
    }

    /// A failure in these words.
    pub fn new(image: &str, fault: Fault, words: &str) -> Self {
        let told = format!("{image}: {} ({}); {}", fault.what(), shorten(words, WORDS), fault.advice());
        Self { fault, told }
    }

    /// There is no room for `image`, which says itself what to do.
    pub fn full(image: &str, full: &crate::images::disk::Full) -> Self {
        Self { fault: Fault::Full, told: format!("{image}: {full}") }
    }

    /// Several that follow each other: one for each credential (IMG-55). Not final unless all of them are.
    pub fn join(failures: Vec<Self>) -> Option<Self> {
        let mut all = failures.into_iter();
        let first = all.next()?;
        Some(all.fold(first, |before, next| {
            let fault = if before.fault.is_final() { next.fault } else { before.fault };
            let told =
                if before.told.contains(&next.told) { before.told } else { format!("{}; {}", before.told, next.told) };
            Self { fault, told }
        }))
    }

    /// Says more.
    #[must_use]
    pub fn and(mut self, more: &str) -> Self {
        self.told = format!("{}; {more}", self.told);
        self
    }

    /// Whether the next attempt would fail the same way.
    pub fn is_final(&self) -> bool {
        self.fault.is_final()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

/// Words without the image, which may be called anything: neither as it is asked for, nor as a part of an address.
fn without(image: &str, words: &str) -> String {
    if image.is_empty() {
        return words.to_owned();
    }
    let full = full_name(image);
    let (_, path) = full.split_once('/').unwrap_or(("", &full));
    let (path, _) = path.rsplit_once(':').unwrap_or((path, ""));
    words.replace(image, "").replace(&format!("/{path}/"), "/")
}

/// The runtime's words without what repeats the image, which stands in front already.
fn plain(image: &str, words: &str) -> String {
    let mut rest = words.trim();
    // Each time it is shorter.
    while let Some((head, tail)) = rest.split_once(": ") {
        let is_noise = head.starts_with("rpc error")
            || head.starts_with("failed to pull and unpack image")
            || head.starts_with("failed to resolve reference")
            || head.starts_with("failed to resolve image")
            || head.ends_with(image);
        if !is_noise || tail.is_empty() {
            break;
        }
        rest = tail;
    }
    rest.to_owned()
}

/// The beginning of a text, and its end, where it is longer than so many bytes.
pub fn shorten(text: &str, limit: usize) -> String {
    const GAP: &str = " … ";
    if text.len() <= limit {
        return text.to_owned();
    }
    let half = limit.saturating_sub(GAP.len()) / 2;
    let begin = (0..=half).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    let end = (text.len() - half..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("{}{GAP}{}", &text[..begin], &text[end..])
}
