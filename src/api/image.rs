//! Image references: which tag does a container ask for (SSD-5), and under which names an image is known.

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

/// An image as NodeImages name it: the name is a key of `spec.images`, the tag one of its `tags` (JOB-13).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Familiar {
    /// The repository, without the default registry and its `library/`.
    pub name: String,
    /// The tag, `latest` where there is none; or the digest, and then no tag.
    pub tag: String,
}

impl Familiar {
    /// Splits `image`; `None` when it is not a valid reference.
    pub fn parse(image: &str) -> Option<Self> {
        let ImageReference { tag, digest } = ImageReference::parse(image)?;
        let name = image.split_once('@').map_or(image, |(name, _)| name);
        let name = tag.and_then(|tag| name.strip_suffix(tag)?.strip_suffix(':')).unwrap_or(name);
        Some(Self { name: familiar_name(name).to_owned(), tag: digest.or(tag).unwrap_or("latest").to_owned() })
    }

    /// What a runtime is asked for: `name:tag`, or `name@digest` (WEAK-27: the reference puts a colon before digests).
    pub fn reference(name: &str, tag: &str) -> String {
        let sign = if tag.contains(':') { '@' } else { ':' };
        format!("{name}{sign}{tag}")
    }
}

/// A repository without the default registry and its `library/`: `nginx` for `docker.io/library/nginx`.
fn familiar_name(repository: &str) -> &str {
    let default = repository.strip_prefix("docker.io/").or_else(|| repository.strip_prefix("index.docker.io/"));
    let Some(rest) = default else { return repository };
    rest.strip_prefix("library/").filter(|name| !name.contains('/')).unwrap_or(rest)
}

/// A name with its registry and tag as runtimes write it, without a digest: `docker.io/library/nginx:latest` for `nginx`,
/// `docker.io/library/nginx` for `nginx@sha256:…`.
pub fn full_name(image: &str) -> String {
    let (name, has_digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let library = if host == "docker.io" && !path.contains('/') { "library/" } else { "" };
    let has_tag = path.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let tag = if has_tag || has_digest { "" } else { ":latest" };
    format!("{host}/{library}{path}{tag}")
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

    #[rstest]
    #[case::tagged("nginx:1", "nginx", "1")]
    #[case::untagged("docker.io/library/nginx", "nginx", "latest")]
    #[case::somebodys("docker.io/bitnami/nginx:2", "bitnami/nginx", "2")]
    #[case::old_host("index.docker.io/library/nginx:1", "nginx", "1")]
    #[case::own_registry("registry.local:5000/cart:v7", "registry.local:5000/cart", "v7")]
    #[case::own_registry_untagged("registry.local:5000/library/cart", "registry.local:5000/library/cart", "latest")]
    fn an_image_is_known_by_its_familiar_name_job_13(#[case] image: &str, #[case] name: &str, #[case] tag: &str) {
        let expected = Familiar { name: name.to_owned(), tag: tag.to_owned() };
        assert_eq!(Familiar::parse(image), Some(expected));
    }

    #[test]
    fn a_digest_stands_for_the_tag_and_is_asked_for_as_one_weak_27() {
        let familiar = Familiar::parse(&format!("reg:5000/a:2@{DIGEST}")).unwrap();
        assert_eq!((&*familiar.name, &*familiar.tag), ("reg:5000/a", DIGEST));
        assert_eq!(Familiar::reference(&familiar.name, &familiar.tag), format!("reg:5000/a@{DIGEST}"));
        assert_eq!(Familiar::reference("nginx", "1"), "nginx:1");
        assert_eq!(Familiar::parse("Nginx"), None);
    }

    #[test]
    fn a_digest_pins_the_image_unless_the_tag_is_latest() {
        assert_eq!(default_pull_policy(&format!("envoy@{DIGEST}")), "IfNotPresent");
        assert_eq!(default_pull_policy(&format!("envoy:latest@{DIGEST}")), "Always");
    }
}
