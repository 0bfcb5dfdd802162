//! Envs of a container, its own and those it takes from the pod's containers (PODV-7, SSV-27, SSD-8).
//!
//! No message repeats a value: it may be a secret.

use super::fields;
use super::report::{Gravity, Place, Report, quote};
use crate::api::container::{
    EnvFromSource, EnvVar, EnvVarSource, KeySelector, ObjectFieldSelector, SidecarContainer, TransferEnvVar,
};
use crate::api::syntax;

pub(super) fn check(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    for (index, source) in container.env_from.iter().enumerate() {
        check_env_from(report, &at.member("envFrom").item(index), source);
    }
    for (index, env) in container.env.iter().enumerate() {
        check_env(report, &at.member("env").item(index), env);
    }
}

fn check_env_from(report: &mut Report<'_>, at: &Place, source: &EnvFromSource) {
    if !source.prefix.is_empty() {
        report.syntax(&at.member("prefix"), &source.prefix, syntax::env);
    }
    let sources = [("configMapRef", &source.config_map_ref), ("secretRef", &source.secret_ref)];
    let present: Vec<_> = sources.into_iter().filter_map(|(name, source)| Some((name, source.as_ref()?))).collect();
    for (name, source) in &present {
        report.name(&at.member(name).member("name"), &source.name, syntax::dns_subdomain_prefix);
    }
    match present.len() {
        0 if !report.has_newer(at) => report.error(at, "needs a configMapRef or a secretRef"),
        0 | 1 => {}
        _ => report.error(at, "has configMapRef and secretRef; make it two entries"),
    }
}

fn check_env(report: &mut Report<'_>, at: &Place, env: &EnvVar) {
    report.name(&at.member("name"), &env.name, syntax::env);
    let Some(from) = &env.value_from else { return };
    let at = at.member("valueFrom");
    let sources = check_value_from(report, &at, from);
    if sources == 0 && !report.has_newer(&at) {
        report.error(&at, "needs one of fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef");
    } else if sources > 1 {
        report.error(&at, "has more than one source; keep one");
    }
    if !env.value.is_empty() {
        report.error(&at, "excludes value; remove one");
    }
}

fn check_value_from(report: &mut Report<'_>, at: &Place, from: &EnvVarSource) -> usize {
    if let Some(field) = &from.field_ref {
        fields::check_field(report, &at.member("fieldRef"), field, fields::ENV);
    }
    if let Some(resource) = &from.resource_field_ref {
        fields::check_resource(report, &at.member("resourceFieldRef"), resource);
    }
    for (name, key) in [("configMapKeyRef", &from.config_map_key_ref), ("secretKeyRef", &from.secret_key_ref)] {
        if let Some(key) = key {
            check_key(report, &at.member(name), key);
        }
    }
    [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
    ]
    .into_iter()
    .filter(|is_present| *is_present)
    .count()
}

fn check_key(report: &mut Report<'_>, at: &Place, key: &KeySelector) {
    report.name(&at.member("name"), &key.name, syntax::dns_subdomain);
    report.name(&at.member("key"), &key.key, syntax::config_key);
}

/// `gravity` is that of what makes an entry useless (SSV-27).
pub(super) fn check_transfer(report: &mut Report<'_>, gravity: Gravity, at: &Place, entries: &[TransferEnvVar]) {
    for (index, entry) in entries.iter().enumerate() {
        let at = at.item(index);
        if entry.env_name.is_empty() && entry.env_names.is_empty() {
            report.warn(&at, "names no env, so it has no effect; give envName or envNames");
        }
        let Some(from) = &entry.source_container_name_from else {
            if entry.source_container_name.is_empty() {
                report.warn(&at, "names no container, so it has no effect; give sourceContainerName");
            }
            continue;
        };
        let at = at.member("sourceContainerNameFrom");
        match &from.field_ref {
            Some(field) => check_source_field(report, gravity, &at.member("fieldRef"), field),
            // Differs: SSD-8. The reference crashes on it.
            None => report.error(&at.member("fieldRef"), "is required"),
        }
    }
}

fn check_source_field(report: &mut Report<'_>, gravity: Gravity, at: &Place, field: &ObjectFieldSelector) {
    if field.api_version != "v1" {
        report.note(gravity, &at.member("apiVersion"), format!("{} must be v1", quote(&field.api_version)));
    }
    let at = at.member("fieldPath");
    let path = &field.field_path;
    let verdict = match syntax::subscript(path) {
        Some(("metadata.labels", key)) => syntax::qualified_name(key),
        Some(("metadata.annotations", key)) => syntax::annotation_key(key),
        _ => {
            let message = "cannot name a container; use metadata.labels['KEY'] or metadata.annotations['KEY']";
            return report.note(gravity, &at, format!("{} {message}", quote(path)));
        }
    };
    if let Err(demand) = verdict {
        report.note(gravity, &at, format!("the key of {} {demand}", quote(path)));
    }
}
