//! The review of a SidecarSet in, its answer out: defaulted and hashed on the one path, judged on the other (SSD, SSV).
//!
//! Objects come in the version that the client used and are answered in it (WH-7): what defaulting does is done to the
//! members of the same names in either version, so nothing is converted in a patch.

use serde_json::Value;

use super::diff;
use super::envelope::Answer;
use super::object::{self, Kind, Verdict};
use crate::api::sidecarset::SidecarSet;
use crate::sidecarset::admit::{Defaulted, Stored};
use crate::store::Objects;

/// The kind.
struct Sets;

impl Kind for Sets {
    const RESOURCE: &'static str = "sidecarsets";
    const KIND: &'static str = "SidecarSet";
}

/// Answers a review with what defaulting and hashing change (SSD, RSP-4, RSP-5).
pub fn mutate(body: &[u8]) -> Answer {
    object::answer::<Sets>(body, |sent| {
        let sent = sent.object()?;
        let Defaulted { before, after } = Defaulted::of(&sent)?;
        Ok(Verdict::Allowed { patch: diff::patch(&sent, &before, &after), warnings: Vec::new() })
    })
}

/// Answers a review with whether the object may be stored beside `objects` (SSV, SSU, SSC).
pub fn validate(body: &[u8], objects: &Objects) -> Answer {
    object::answer::<Sets>(body, |sent| {
        let new = sent.object()?;
        let old = sent.old();
        if old.as_ref().is_some_and(|old| only_goes_away(&new, old)) {
            return Ok(Verdict::unchanged());
        }
        let old = old.and_then(|old| Stored::read(old).ok());
        // What cannot be read at all is told apart from what may not be stored (RSP-1).
        Defaulted::of(&new)?;
        let (_, findings) = objects.judge(new, old.as_ref().map(|old| &old.set));
        Ok(if findings.errors.is_empty() {
            let warnings = findings.warnings.iter().map(ToString::to_string).collect();
            Verdict::Allowed { patch: None, warnings }
        } else {
            Verdict::Invalid(findings.errors)
        })
    })
}

/// The SidecarSet that will be stored once this request is admitted; `None` for a dry run and for what stores none.
pub fn to_be_stored(body: &[u8]) -> Option<SidecarSet> {
    let mut review: Value = serde_json::from_slice(body).ok()?;
    let request = review["request"].take();
    let stores = matches!(request["operation"].as_str(), Some("CREATE" | "UPDATE"))
        && request["dryRun"] != true
        && request["subResource"].as_str().unwrap_or_default().is_empty();
    let object = stores.then(|| request["object"].clone())?;
    Stored::read(object).ok().map(|stored| stored.set)
}

/// Whether an update only takes away what holds back a deletion. To refuse that, say because the base of a canary is gone
/// already, would keep the object for good.
fn only_goes_away(new: &Value, old: &Value) -> bool {
    new["metadata"]["deletionTimestamp"].is_string() && new["spec"] == old["spec"]
}
