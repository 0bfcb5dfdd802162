//! Image references: which tag does a container ask for (SSD-5).

use std::sync::LazyLock;

use regex::Regex;

/// What an image reference says beside the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference<'a> {
    /// Text after `:`.
    pub tag: Option<&'a str>,
    /// Text after `@`.
    pub digest: Option<&'a str>,
}

const HOST: &str = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?";
const COMPONENT: &str = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";

static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(&format!(
        r"^(?:{HOST}/)?{COMPONENT}(?:/{COMPONENT})*(?::([0-9A-Za-z_][0-9A-Za-z_.-]{{0,127}}))?(?:@(sha256:[0-9a-fA-F]{{64}}|sha384:[0-9a-fA-F]{{96}}|sha512:[0-9a-fA-F]{{128}}))?$"
    ))
    .ok()
});

impl<'a> ImageReference<'a> {
    /// Splits `image`; `None` when it is not a valid reference.
    pub fn parse(image: &'a str) -> Option<Self> {
        let is_bare_id = image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_bare_id {
            return None;
        }
        let parts = REFERENCE.as_ref()?.captures(image)?;
        // The part before the first slash is a host only when it looks like one; else it must be a lower-case
        // repository name, which the expression above has let pass as a host.
        if let Some((first, _)) = image.split_once('/') {
            let is_host = first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase);
            if !is_host && !first.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)) {
                return None;
            }
        }
        Some(Self { tag: parts.get(1).map(|found| found.as_str()), digest: parts.get(2).map(|found| found.as_str()) })
    }
}

/// The pull policy of a container that names none (SSD-5).
pub fn default_pull_policy(image: &str) -> &'static str {
    match ImageReference::parse(image) {
        Some(ImageReference { tag: Some("latest"), .. } | ImageReference { tag: None, digest: None }) => "Always",
        _ => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:abababababababababababababababababababababababababababababababab";

    #[rstest]
    #[case::untagged("envoy", "Always")]
    #[case::latest("envoy:latest", "Always")]
    #[case::tagged("busybox:1.36", "IfNotPresent")]
    #[case::host_with_port("localhost:5000/a/b", "Always")]
    #[case::host_with_port_and_tag("reg.example:5000/a/b:2", "IfNotPresent")]
    #[case::empty("", "IfNotPresent")]
    #[case::upper_case_repository("Envoy", "IfNotPresent")]
    #[case::blank(" envoy", "IfNotPresent")]
    #[case::bare_id("abababababababababababababababababababababababababababababababab", "IfNotPresent")]
    #[case::bad_tag("envoy:-x", "IfNotPresent")]
    fn pull_policy_follows_the_tag(#[case] image: &str, #[case] policy: &str) {
        assert_eq!(default_pull_policy(image), policy);
    }

    #[test]
    fn a_digest_pins_the_image_unless_the_tag_is_latest() {
        assert_eq!(default_pull_policy(&format!("envoy@{DIGEST}")), "IfNotPresent");
        assert_eq!(default_pull_policy(&format!("envoy:latest@{DIGEST}")), "Always");
    }
}
