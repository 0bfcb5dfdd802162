//! Volumes of a SidecarSet (PODV-8).
//!
//! Each has a name of its own and one source; a source that our types do not know counts as one. Those that Kubernetes
//! has retired or hands to drivers are left to the API server, which looks at them when pods are created.

use std::collections::BTreeSet;

use super::fields;
use super::report::{Gravity, Place, Report, quote};
use crate::api::syntax;
use crate::api::volume::{DownwardApiFile, KeyToPath, ProjectedSource, TokenProjection, Volume};

const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
const MODES: std::ops::RangeInclusive<i64> = 0..=0o777;
/// Seconds that a service account token may live.
const TOKEN_LIFE: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

pub(super) fn check(report: &mut Report<'_>, volumes: &[Volume]) {
    for (index, volume) in volumes.iter().enumerate() {
        let at = Place::spec().member("volumes").item(index);
        if report.name(&at.member("name"), &volume.name, syntax::dns_label)
            && volumes[..index].iter().any(|earlier| earlier.name == volume.name)
        {
            let name = quote(&volume.name);
            report.error(&at.member("name"), format!("{name} is the name of an earlier volume; rename one"));
        }
        let sources = volume.sources();
        if sources.is_empty() && !report.has_newer(&at) {
            report.error(&at, "needs a source");
        } else if sources.len() > 1 {
            report.error(&at, format!("has more than one source ({}); keep one", sources.join(", ")));
        }
        check_source(report, &at, volume);
    }
}

fn check_source(report: &mut Report<'_>, at: &Place, volume: &Volume) {
    if let Some(source) = &volume.host_path {
        let at = at.member("hostPath");
        report.name(&at.member("path"), &source.path, syntax::no_backsteps);
        if let Some(kind) = &source.r#type {
            report.one_of(Gravity::Error, &at.member("type"), kind, HOST_PATH_TYPES);
        }
    }
    if let Some(source) = &volume.secret {
        let at = at.member("secret");
        report.required(&at.member("secretName"), &source.secret_name);
        check_files(report, &at, source.default_mode, &source.items);
    }
    if let Some(source) = &volume.config_map {
        let at = at.member("configMap");
        report.required(&at.member("name"), &source.name);
        check_files(report, &at, source.default_mode, &source.items);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        report.required(&at.member("persistentVolumeClaim").member("claimName"), &source.claim_name);
    }
    if let Some(source) = &volume.downward_api {
        let at = at.member("downwardAPI");
        check_mode(report, &at.member("defaultMode"), source.default_mode);
        for (index, file) in source.items.iter().enumerate() {
            check_downward_file(report, &at.member("items").item(index), file);
        }
    }
    if let Some(source) = &volume.projected {
        check_projected(report, &at.member("projected"), source);
    }
    if let Some(source) = &volume.image {
        report.one_of(
            Gravity::Error,
            &at.member("image").member("pullPolicy"),
            &source.pull_policy,
            &["Always", "IfNotPresent", "Never"],
        );
    }
}

fn check_files(report: &mut Report<'_>, at: &Place, mode: Option<i32>, items: &[KeyToPath]) {
    check_mode(report, &at.member("defaultMode"), mode);
    for (index, item) in items.iter().enumerate() {
        let at = at.member("items").item(index);
        report.required(&at.member("key"), &item.key);
        report.name(&at.member("path"), &item.path, syntax::unreserved_path);
        check_mode(report, &at.member("mode"), item.mode);
    }
}

fn check_mode(report: &mut Report<'_>, at: &Place, mode: Option<i32>) {
    if let Some(mode) = mode
        && !MODES.contains(&mode.into())
    {
        report.error(at, format!("{mode} must be from 0 to 0777 (octal; 511 as a plain number)"));
    }
}

fn check_downward_file(report: &mut Report<'_>, at: &Place, file: &DownwardApiFile) {
    report.name(&at.member("path"), &file.path, syntax::unreserved_path);
    check_mode(report, &at.member("mode"), file.mode);
    match (&file.field_ref, &file.resource_field_ref) {
        (None, None) if !report.has_newer(at) => report.error(at, "needs a fieldRef or a resourceFieldRef"),
        (Some(_), Some(_)) => report.error(at, "has fieldRef and resourceFieldRef; keep one"),
        _ => {}
    }
    if let Some(field) = &file.field_ref {
        fields::check_field(report, &at.member("fieldRef"), field, fields::FILE);
    }
    if let Some(resource) = &file.resource_field_ref {
        let at = at.member("resourceFieldRef");
        report.required(&at.member("containerName"), &resource.container_name);
        fields::check_resource(report, &at, resource);
    }
}

fn check_projected(report: &mut Report<'_>, at: &Place, source: &ProjectedSource) {
    check_mode(report, &at.member("defaultMode"), source.default_mode);
    let mut paths = BTreeSet::new();
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        let at = at.member("sources").item(index);
        let mut files: Vec<(Place, &str)> = Vec::new();
        for (member, objects) in [("secret", &projection.secret), ("configMap", &projection.config_map)] {
            let Some(objects) = objects else { continue };
            let at = at.member(member);
            report.required(&at.member("name"), &objects.name);
            check_files(report, &at, None, &objects.items);
            let items = objects.items.iter().enumerate();
            files.extend(items.map(|(index, item)| (at.member("items").item(index), item.path.as_str())));
        }
        if let Some(downward) = &projection.downward_api {
            for (index, file) in downward.items.iter().enumerate() {
                let at = at.member("downwardAPI").member("items").item(index);
                check_downward_file(report, &at, file);
                files.push((at, &file.path));
            }
        }
        if let Some(token) = &projection.service_account_token {
            check_token(report, &at.member("serviceAccountToken"), token);
        }
        for (at, path) in files {
            if !path.is_empty() && !paths.insert(path) {
                report
                    .error(&at.member("path"), format!("{} is an earlier file of the volume; rename one", quote(path)));
            }
        }
        let sources = [
            projection.secret.is_some(),
            projection.config_map.is_some(),
            projection.downward_api.is_some(),
            projection.service_account_token.is_some(),
            projection.cluster_trust_bundle.is_some(),
        ];
        if sources.iter().filter(|is_present| **is_present).count() > 1 {
            report.error(&at, "has more than one source; make it several entries");
        }
    }
}

fn check_token(report: &mut Report<'_>, at: &Place, token: &TokenProjection) {
    if let Some(seconds) = token.expiration_seconds {
        report.range(&at.member("expirationSeconds"), seconds, TOKEN_LIFE);
    }
    report.name(&at.member("path"), &token.path, syntax::unreserved_path);
}
