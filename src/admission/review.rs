//! 1. The review of a pod in, its answer out (MATCH-1, POD-1).
//!
//! The pod is read in one pass with the review around it, no deeper than its metadata unless a SidecarSet may select it.

use super::envelope::{self, Refused, Request, Review, Subject};
use super::pod::{Ambient, mutate};
use crate::facts::Warnings;
use crate::pod::Pod;
use crate::scan::{ScanError, Scanner};
use crate::store::Snapshot;

pub use super::envelope::{Answer, Outcome, V1, V1BETA1};

impl<'a> Subject<'a> for Pod<'a> {
    const GROUP: &'static str = "";
    const RESOURCE: &'static str = "pods";
    const KIND: &'static str = "Pod";
    /// UPD-4: an update never changes anything.
    const OPERATIONS: &'static [&'static str] = &["CREATE"];

    type World = &'a Snapshot;

    /// The spec is read at once for a pod that a SidecarSet may select.
    fn scan(scanner: &mut Scanner<'a>, snapshot: &'a Snapshot) -> Result<Self, ScanError> {
        Pod::scan(scanner, |metadata| snapshot.candidates(&metadata.labels).next().is_some())
    }
}

/// Answers a review of a pod.
pub fn answer(body: &[u8], snapshot: &Snapshot, ambient: &Ambient) -> Answer {
    let review = match Review::<Pod<'_>>::parse(body, snapshot) {
        Ok(review) => review,
        Err(error) => return envelope::unreadable(body, &error),
    };
    let (version, uid) = review.address();
    match review.subject() {
        Err(error) => envelope::malformed(version, uid, &error),
        Ok(None) => envelope::allowed(version, uid, None, &[]),
        Ok(Some((request, pod))) => {
            let namespace = namespace(request, pod);
            let lacks_namespace = snapshot.lacks_namespace(namespace, &pod.metadata.labels);
            Answer { lacks_namespace, ..decide(version, uid, pod, namespace, snapshot, ambient) }
        }
    }
}

fn decide<'a>(
    version: &str,
    uid: &str,
    pod: &Pod<'a>,
    namespace: &str,
    snapshot: &'a Snapshot,
    ambient: &Ambient,
) -> Answer {
    let mut facts = Warnings::default();
    match mutate(pod, namespace, snapshot, ambient, &mut facts) {
        Ok(patch) => {
            let warnings: Vec<String> = facts.0.iter().map(ToString::to_string).collect();
            envelope::allowed(version, uid, patch.as_deref(), &warnings)
        }
        Err(refusal) => {
            let outcome = if refusal.code() == 400 { Outcome::Malformed } else { Outcome::Refused };
            let message = &refusal.to_string();
            envelope::refused(version, uid, Refused { code: refusal.code(), message, details: "", outcome })
        }
    }
}

/// POD-1, MATCH-7.
fn namespace<'r>(request: &'r Request<'_, Pod<'_>>, pod: &'r Pod<'_>) -> &'r str {
    let named = [&*pod.metadata.namespace, &*request.namespace];
    named.into_iter().find(|name| !name.is_empty()).unwrap_or("default")
}
