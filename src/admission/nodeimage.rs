//! The review of a NodeImage in, its answer out: defaulted and sorted on the one path, judged on the other (NI, IMG-10,
//! IMG-11).
//!
//! The manager writes NodeImages, and each of its writes comes through here: what is in order costs a look and no patch.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::diff;
use super::envelope::Answer;
use super::object::{self, Kind, Verdict, default_to, object_at};
use super::patch::pointer;
use super::pulljob::rules::{self, BACKOFF_LIMIT, TIMEOUT};
use crate::api::json::decode;
use crate::api::nodeimage::{ImageTagSpec, NodeImageSpec};
use crate::gates::Gates;
use crate::sidecarset::validate::Problem;
use crate::sidecarset::validate::report::{Place, Report, quote};

/// Images of one node (NI-10).
const IMAGES: usize = 256;

/// The kind.
struct Nodes;

impl Kind for Nodes {
    const RESOURCE: &'static str = "nodeimages";
    const KIND: &'static str = "NodeImage";
}

/// Answers a review with what defaulting adds and sorting moves (NI-1 … NI-3). The status never comes this way: it is a
/// resource of its own (NI-2).
pub fn mutate(body: &[u8], now: Timestamp) -> Answer {
    object::answer::<Nodes>(body, |sent| {
        let document = sent.served()?;
        read(&document)?;
        Ok(Verdict::patched(defaults(&document, now)))
    })
}

/// Answers a review with whether the object may be stored (NI-5 … NI-18).
pub fn validate(body: &[u8], gates: Gates) -> Answer {
    object::answer::<Nodes>(body, |sent| {
        let new = sent.served()?;
        let spec = read(&new)?;
        match sent.old() {
            // Differs: NI-5. What is there must be able to change, and to go.
            None if !gates.daemon => return Ok(Verdict::Off(rules::switched_off(gates).unwrap_or_default())),
            // What another let in must stay writable.
            Some(old) if old["spec"] == new["spec"] => return Ok(Verdict::unchanged()),
            None | Some(_) => {}
        }
        let mut report = rules::report();
        check(&mut report, &spec);
        Ok(rules::verdict(&report.into_findings()))
    })
}

/// RSP-1.
fn read(node: &Value) -> Result<NodeImageSpec, Problem> {
    match decode::<NodeImageSpec>(&node["spec"]) {
        Ok((spec, _)) => Ok(spec),
        Err(error) => Err(rules::below_spec(error)),
    }
}

// === defaults ===

/// The operations that default and sort the tags. A list in the wrong order is replaced as a whole, so that members which
/// our types do not know move with their tag.
fn defaults(sent: &Value, now: Timestamp) -> Vec<Value> {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let nothing = Map::new();
    let images = sent["spec"]["images"].as_object().unwrap_or(&nothing);
    let mut operations = Vec::new();
    for (name, image) in images {
        let Some(tags) = image["tags"].as_array() else { continue };
        let mut after: Vec<Value> = tags.iter().map(|tag| defaulted(tag, &now)).collect();
        let path = format!("/spec/images/{}/tags", pointer(name));
        if after.is_sorted_by(|a, b| text_of(a) <= text_of(b)) {
            for (index, (before, after)) in tags.iter().zip(&after).enumerate() {
                let steps = diff::operations(before, before, after).into_iter();
                operations.extend(steps.map(|step| below(step, &format!("{path}/{index}"))));
            }
        } else {
            after.sort_by(|a, b| text_of(a).cmp(text_of(b)));
            operations.push(json!({"op": "replace", "path": path, "value": after}));
        }
    }
    operations
}

fn below(mut operation: Value, path: &str) -> Value {
    let deeper = format!("{path}{}", operation["path"].as_str().unwrap_or_default());
    operation["path"] = deeper.into();
    operation
}

fn text_of(tag: &Value) -> &str {
    tag["tag"].as_str().unwrap_or_default()
}

/// NI-1.
fn defaulted(tag: &Value, now: &str) -> Value {
    let mut after = tag.clone();
    let policy = object_at(&mut after, "pullPolicy");
    default_to(policy, "timeoutSeconds", TIMEOUT);
    default_to(policy, "backoffLimit", BACKOFF_LIMIT);
    if let Some(tag) = after.as_object_mut() {
        default_to(tag, "createdAt", now);
    }
    after
}

// === rules ===

fn check(report: &mut Report<'_>, spec: &NodeImageSpec) {
    let at = rules::spec().member("images");
    if spec.images.len() > IMAGES {
        let message = format!(
            "has {} images, at most {IMAGES} may be on the list of a node; wait until some are done, or delete jobs",
            spec.images.len()
        );
        report.error(&at, message);
    }
    for (name, image) in &spec.images {
        let at = at.key(name);
        if name.is_empty() {
            report.error(&at, "is an image without a name; name it, without its tag");
        }
        let tags = at.member("tags");
        let mut seen = BTreeSet::new();
        for (index, tag) in image.tags.iter().enumerate() {
            let at = tags.item(index);
            if tag.tag.is_empty() {
                report.error(&at.member("tag"), "is required; use latest if there is no other");
            } else if !seen.insert(tag.tag.as_str()) {
                let shown = quote(&tag.tag);
                report.error(&at.member("tag"), format!("{shown} is there twice; list each tag of an image once"));
            }
            check_tag(report, &at, tag);
        }
    }
}

/// NI-14 … NI-17.
fn check_tag(report: &mut Report<'_>, at: &Place, tag: &ImageTagSpec) {
    if tag.created_at.is_none() {
        report.error(&at.member("createdAt"), "is required; say since when the tag is asked for");
    }
    if tag.version < 0 {
        report.error(&at.member("version"), format!("{} must be 0 or more", tag.version));
    }
    let at = at.member("pullPolicy");
    match &tag.pull_policy {
        None => report.error(&at, "is required"),
        Some(policy) if policy.ttl_seconds_after_finished.is_none() => {
            let message = "is required; say for how many seconds the finished tag stays listed";
            report.error(&at.member("ttlSecondsAfterFinished"), message);
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests;
