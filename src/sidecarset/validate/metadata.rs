//! Name, labels, annotations and owners of a SidecarSet (SSV-1, SSV-2), and what makes it a canary (SSV-3 … SSV-7).
//!
//! The API server has looked at most of this already, but not when a SidecarSet comes from a file; and it lets dots in
//! names pass, which are refused here.

use std::collections::BTreeMap;

use super::report::{Place, Report, quote};
use crate::api::meta::{ObjectMeta, OwnerReference};
use crate::api::names::CANARY_BASE;
use crate::api::sidecarset::SidecarSet;
use crate::api::syntax;

/// Bytes that all annotations of an object may have together.
const ANNOTATIONS: usize = 256 * 1024;

pub(super) fn check(report: &mut Report<'_>, metadata: &ObjectMeta) {
    let at = Place::metadata();
    if !metadata.name.is_empty() {
        report.syntax(&at.member("name"), &metadata.name, syntax::sidecar_set);
    } else if metadata.generate_name.is_empty() {
        report.error(&at.member("name"), "is required");
    }
    report.syntax(&at.member("generateName"), &metadata.generate_name, syntax::sidecar_set);
    if !metadata.namespace.is_empty() {
        let namespace = quote(&metadata.namespace);
        report.error(&at.member("namespace"), format!("{namespace} must be left out; a SidecarSet has no namespace"));
    }
    for (key, value) in &metadata.labels {
        let at = at.member("labels").key(key);
        report.syntax(&at, key, syntax::qualified_name);
        report.syntax(&at, value, syntax::label_value);
    }
    check_annotations(report, &at.member("annotations"), &metadata.annotations);
    for (index, finalizer) in metadata.finalizers.iter().enumerate() {
        report.syntax(&at.member("finalizers").item(index), finalizer, syntax::qualified_name);
    }
    check_owners(report, &at.member("ownerReferences"), &metadata.owner_references);
}

/// Keys and total size of annotations, those of the SidecarSet or those it puts on pods.
pub(super) fn check_annotations(report: &mut Report<'_>, at: &Place, annotations: &BTreeMap<String, String>) {
    for key in annotations.keys() {
        report.syntax(&at.key(key), key, syntax::annotation_key);
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS {
        report.error(at, format!("{size} bytes must be at most {ANNOTATIONS}"));
    }
}

fn check_owners(report: &mut Report<'_>, at: &Place, owners: &[OwnerReference]) {
    for (index, owner) in owners.iter().enumerate() {
        let at = at.item(index);
        for (member, text) in
            [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)]
        {
            report.required(&at.member(member), text);
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            report.error(&at.member("kind"), "an Event cannot own an object");
        }
    }
    let mut controllers = owners.iter().enumerate().filter(|(_, owner)| owner.controller == Some(true));
    if let (Some(_), Some((index, _))) = (controllers.next(), controllers.next()) {
        report.error(&at.item(index).member("controller"), "an object has at most one controller");
    }
}

pub(super) fn check_canary(
    report: &mut Report<'_>,
    new: &SidecarSet,
    old: Option<&SidecarSet>,
    others: &[&SidecarSet],
) {
    let Some(base) = new.canary_base() else { return };
    let at = Place::metadata().member("annotations").key(CANARY_BASE);
    let shown = quote(base);
    if base == new.metadata.name {
        report.error(&at, format!("{shown} is this SidecarSet itself; name the one that it stands in for"));
    } else {
        match others.iter().find(|other| other.metadata.name == base) {
            None => report.error(&at, format!("there is no SidecarSet {shown}; create it before its canary")),
            Some(other) if other.canary_base().is_some() => {
                report.error(&at, format!("{shown} is itself a canary; name its base"));
            }
            Some(_) => {}
        }
    }
    if let Some(old) = old
        && old.metadata.annotations.get(CANARY_BASE).is_none_or(|before| before != base)
    {
        report.error(&at, format!("cannot become {shown} after creation; create another SidecarSet as the canary"));
    }
    let kind = &new.spec.update_strategy.r#type;
    if kind != "NotUpdate" {
        let message = format!("{} is not possible for a canary; use NotUpdate", quote(kind));
        report.error(&Place::spec().member("updateStrategy").member("type"), message);
    }
}
