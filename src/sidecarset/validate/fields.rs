//! References to fields and resources of the pod, in envs and volumes (PODV-7, PODV-8).
//!
//! Which fields there are depends on who asks: an env takes what is known when the container starts, a file what can be
//! kept up to date. Single labels and annotations, `metadata.labels['KEY']`, are open to both.

use super::report::{Place, Report, quote};
use crate::api::container::{ObjectFieldSelector, ResourceFieldSelector};
use crate::api::syntax;

/// Fields that an env can have.
pub(super) const ENV: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.host", // its name in the first versions of Kubernetes
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file can have.
pub(super) const FILE: &[&str] =
    &["metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"];

const RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];

pub(super) fn check_field(report: &mut Report<'_>, at: &Place, field: &ObjectFieldSelector, known: &[&str]) {
    if field.api_version != "v1" {
        report.error(&at.member("apiVersion"), format!("{} must be v1", quote(&field.api_version)));
    }
    let at = at.member("fieldPath");
    let path = &field.field_path;
    if !report.required(&at, path) {
        return;
    }
    let verdict = match syntax::subscript(path) {
        Some(("metadata.labels", key)) => syntax::qualified_name(key),
        Some(("metadata.annotations", key)) => syntax::annotation_key(key),
        None if known.contains(&path.as_str()) => Ok(()),
        _ => {
            let known = known.iter().filter(|path| **path != "spec.host").copied().collect::<Vec<_>>().join(", ");
            let more = "metadata.labels['KEY'] or metadata.annotations['KEY']";
            return report.error(&at, format!("{} is not known; use {known}, {more}", quote(path)));
        }
    };
    if let Err(demand) = verdict {
        report.error(&at, format!("the key of {} {demand}", quote(path)));
    }
}

pub(super) fn check_resource(report: &mut Report<'_>, at: &Place, field: &ResourceFieldSelector) {
    let at = at.member("resource");
    let resource = &field.resource;
    if !report.required(&at, resource) {
        return;
    }
    let name = resource.strip_prefix("limits.").or_else(|| resource.strip_prefix("requests."));
    if !name.is_some_and(|name| RESOURCES.contains(&name) || name.starts_with("hugepages-")) {
        let message = "is not known; use limits. or requests. with cpu, memory, ephemeral-storage or hugepages-SIZE";
        report.error(&at, format!("{} {message}", quote(resource)));
    }
}
