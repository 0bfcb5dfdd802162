//! Syntax of the names and texts of Kubernetes.
//!
//! Each rule takes a text and answers with what it must be, when it is not. The sentence goes behind the text in the
//! message (see `report`), so it begins with "must".

const LABEL: &str = "must consist of lower-case letters, digits and \"-\", start and end with a letter or digit, and have at most 63 characters";
const SUBDOMAIN: &str = "must consist of lower-case letters, digits, \"-\" and \".\", start and end with a letter or digit, and have at most 253 characters";
const QUALIFIED: &str = "must be a name of at most 63 letters, digits, \"-\", \"_\" and \".\" that starts and ends with a letter or digit, with an optional DNS name and \"/\" before it";
const VALUE: &str = "must be empty or consist of at most 63 letters, digits, \"-\", \"_\" and \".\", starting and ending with a letter or digit";
const SET: &str = "must consist of at most 63 letters, digits and \"-\"";
const ENV: &str =
    "must consist of letters, digits, \"_\", \"-\" and \".\", and start neither with a digit nor with \"..\"";
const KEY: &str =
    "must consist of at most 253 letters, digits, \"-\", \"_\" and \".\", and be neither \".\" nor start with \"..\"";
const PORT: &str =
    "must consist of at most 15 lower-case letters, digits and single \"-\" between them, with at least one letter";
const HEADER: &str = "must consist of letters, digits and \"-\"";
const DESCENDING: &str = "must be a relative path without \"..\"";
const UNRESERVED: &str = "must be a relative path without \"..\" that does not start with \"..\"";
const NO_BACKSTEPS: &str = "must not contain \"..\"";

/// One of the rules below: what a text must be, when it is not.
pub type Syntax = fn(&str) -> Result<(), &'static str>;

/// Splits a field path `path['key']` (TE-2).
pub fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(path, _)| !path.is_empty())
}

/// A DNS-1123 label: names of containers and volumes.
pub fn dns_label(text: &str) -> Result<(), &'static str> {
    demand(is_dns_label(text), LABEL)
}

/// A DNS-1123 subdomain: names of most objects.
pub fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    demand(is_dns_subdomain(text), SUBDOMAIN)
}

/// As [`dns_subdomain`], where the API lets a trailing dash pass.
pub fn dns_subdomain_prefix(text: &str) -> Result<(), &'static str> {
    let masked = text.strip_suffix('-').filter(|rest| !rest.is_empty()).unwrap_or(text);
    demand(is_dns_subdomain(masked) || is_dns_subdomain(text), SUBDOMAIN)
}

/// A label key, finalizer or resource name.
pub fn qualified_name(text: &str) -> Result<(), &'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    demand(prefix.is_none_or(is_dns_subdomain) && is_plain_name(name), QUALIFIED)
}

/// An annotation key: a qualified name in any case.
pub fn annotation_key(text: &str) -> Result<(), &'static str> {
    qualified_name(&text.to_lowercase())
}

/// The value of a label.
pub fn label_value(text: &str) -> Result<(), &'static str> {
    demand(text.is_empty() || is_plain_name(text), VALUE)
}

/// The name of a SidecarSet (SSV-1).
pub fn sidecar_set(text: &str) -> Result<(), &'static str> {
    demand(text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), SET)
}

/// The name of an env, by the rule that held before Kubernetes 1.32 (PODV-7).
pub fn env(text: &str) -> Result<(), &'static str> {
    let starts_well = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    demand(starts_well && text.bytes().all(is_key_byte) && !text.starts_with("..") && text != ".", ENV)
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Result<(), &'static str> {
    let is_key = !text.is_empty() && text.len() <= 253 && text.bytes().all(is_key_byte);
    demand(is_key && text != "." && !text.starts_with(".."), KEY)
}

/// The name of a port.
pub fn port(text: &str) -> Result<(), &'static str> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let has_letter = text.bytes().any(|b| b.is_ascii_lowercase());
    let dashes = text.contains("--") || text.starts_with('-') || text.ends_with('-');
    demand(text.len() <= 15 && text.bytes().all(is_allowed) && has_letter && !dashes, PORT)
}

/// The name of an HTTP header.
pub fn http_header(text: &str) -> Result<(), &'static str> {
    demand(!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), HEADER)
}

/// A path below some directory.
pub fn descending_path(text: &str) -> Result<(), &'static str> {
    demand(!text.starts_with('/') && no_backsteps(text).is_ok(), DESCENDING)
}

/// A path below a volume that Kubernetes writes itself.
pub fn unreserved_path(text: &str) -> Result<(), &'static str> {
    demand(descending_path(text).is_ok() && !text.starts_with(".."), UNRESERVED)
}

/// A path without steps up.
pub fn no_backsteps(text: &str) -> Result<(), &'static str> {
    demand(text.split('/').all(|part| part != ".."), NO_BACKSTEPS)
}

fn demand(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

fn is_dns_subdomain(text: &str) -> bool {
    // Only the whole has a limit here, not each part.
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    is_framed(text, is_alphanumeric) && text.bytes().all(|b| is_alphanumeric(b) || b == b'-')
}

fn is_plain_name(text: &str) -> bool {
    text.len() <= 63 && is_framed(text, |b| b.is_ascii_alphanumeric()) && text.bytes().all(is_key_byte)
}

fn is_framed(text: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [only] => is_allowed(*only),
        [first, .., last] => is_allowed(*first) && is_allowed(*last),
        [] => false,
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::label(dns_label, &["a", "a-1", "0"], &["", "A", "a.b", "-a", "a-", "a_b"])]
    #[case::subdomain(dns_subdomain, &["a", "a.b-c"], &["", "a..b", "A", "a."])]
    #[case::prefix_may_end_with_a_dash(dns_subdomain_prefix, &["a", "a-"], &["", "-", "a_"])]
    #[case::qualified_name(qualified_name, &["a", "A_b.c", "x.y/Z"], &["", "/a", "a/", "a/b/c", "X/a", "c~d", "-a"])]
    #[case::annotation_key_in_any_case(annotation_key, &["X.y/A"], &["c~d", ""])]
    #[case::label_value(label_value, &["", "A-b_c.1"], &["-a", "a b", "ü"])]
    #[case::sidecar_set(sidecar_set, &["a", "A-"], &["a.b", "a_b"])]
    #[case::env(env, &["A", "-x", "_.y", ".a"], &["", "1A", "A B", "..a", ".", "A=B"])]
    #[case::config_key(config_key, &["a.b", "1", "-"], &["", ".", "..a", "a/b"])]
    #[case::port(port, &["http", "a-1"], &["", "1", "a--b", "-a", "a-", "HTTP", "abcdefghijklmnop"])]
    #[case::http_header(http_header, &["X-A"], &["", "X_A", "a b"])]
    #[case::descending_path(descending_path, &["", "a/b", "..a"], &["/a", "a/../b", ".."])]
    #[case::unreserved_path(unreserved_path, &["a/b", "a/..b"], &["..a", "/a", "../a"])]
    fn syntax(#[case] rule: Syntax, #[case] good: &[&str], #[case] bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(rule(text).is_err(), "{text:?}");
        }
    }

    #[rstest]
    #[case::label(dns_label, 63)]
    #[case::subdomain(dns_subdomain, 253)]
    #[case::qualified_name(qualified_name, 63)]
    #[case::label_value(label_value, 63)]
    #[case::sidecar_set(sidecar_set, 63)]
    #[case::config_key(config_key, 253)]
    #[case::port(port, 15)]
    fn length(#[case] rule: Syntax, #[case] most: usize) {
        assert_eq!(rule(&"a".repeat(most)), Ok(()));
        assert!(rule(&"a".repeat(most + 1)).is_err());
    }
}
