//! Whether a runtime's report is about the image that a spec asks for (CTL-22, W-2, W-3).
//!
//! Runtimes write names out in full (`docker.io/library/busybox:1` for `busybox:1`) and report digests with a repository
//! or bare, so names are compared as runtimes write them, and a digest before any name.

use super::pod::Status;
use crate::api::image::full_name;

/// What the report of a runtime says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It is that image.
    Same,
    /// It is another image, or the same under another name.
    Other,
}

/// Compares the image of a spec with what the node reports.
pub(super) fn report(spec: &str, status: &Status) -> Report {
    let same = match digest(spec) {
        Some(wanted) => {
            let reported = digest(&status.image_id).or_else(|| digest(&status.image));
            // W-3: a bare image id is not the digest of any manifest and decides nothing.
            reported.map_or_else(|| same_name(spec, &status.image), |reported| reported == wanted)
        }
        None => same_name(spec, &status.image),
    };
    if same { Report::Same } else { Report::Other }
}

/// The digest of a reference such as `repo@sha256:…`; not that of a bare `sha256:…`.
pub(super) fn digest(image: &str) -> Option<&str> {
    image.split_once('@').map(|(_, digest)| digest).filter(|digest| !digest.is_empty())
}

fn same_name(spec: &str, reported: &str) -> bool {
    !reported.is_empty() && (spec == reported || full_name(spec) == full_name(reported))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::the_same_text("reg.example/agent:2", "reg.example/agent:2", "", true)]
    #[case::another_tag("reg.example/agent:2", "reg.example/agent:1", "", false)]
    #[case::a_short_name_is_written_out("busybox:1", "docker.io/library/busybox:1", "", true)]
    #[case::no_tag_is_latest("busybox", "docker.io/library/busybox:latest", "", true)]
    #[case::a_registry_with_port("reg:5000/a", "reg:5000/a:latest", "", true)]
    #[case::the_digest_decides("busybox@sha256:1", "sha256:9", "docker.io/library/busybox@sha256:1", true)]
    #[case::a_digest_of_another_repository("a@sha256:1", "", "b@sha256:1", true)]
    #[case::another_digest_under_the_same_name("a:1@sha256:1", "docker.io/library/a:1", "a@sha256:2", false)]
    #[case::a_bare_id_leaves_it_to_the_name("a:1@sha256:1", "docker.io/library/a:1", "sha256:77", true)]
    #[case::a_scheme_before_the_digest("a@sha256:1", "", "docker-pullable://a@sha256:1", true)]
    #[case::nothing_reported("a:1", "", "", false)]
    #[case::a_bare_id_as_name("a:1", "sha256:77", "sha256:77", false)]
    fn images_are_compared_as_runtimes_write_them_w_3(
        #[case] spec: &str,
        #[case] image: &str,
        #[case] image_id: &str,
        #[case] same: bool,
    ) {
        let status = Status { image: image.into(), image_id: image_id.into(), ..Status::default() };
        assert_eq!(report(spec, &status) == Report::Same, same);
    }
}
