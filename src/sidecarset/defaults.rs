//! Defaulting of a SidecarSet, the same in both versions (SSD-2 … SSD-8, SSD-10).
//!
//! Runs before hashing and validation; both see its result (HASH-6).

use crate::api::IntOrString;
use crate::api::container::{EnvVar, HttpGetAction, Lifecycle, ObjectFieldSelector, Probe, SidecarContainer};
use crate::api::image::default_pull_policy;
use crate::api::json::{Step, Unknown};
use crate::api::sidecarset::SidecarSet;
use crate::api::volume::{DownwardApiFile, EmptyDir, Volume};

/// Fills in what the user left out. `unknown` are the members that the types have no field for: a volume whose source
/// is newer than ours is not given a second one.
pub fn apply(set: &mut SidecarSet, unknown: &Unknown) {
    let spec = &mut set.spec;

    let update = &mut spec.update_strategy;
    fill(&mut update.r#type, "RollingUpdate");
    update.max_unavailable.get_or_insert(IntOrString::Int(1));
    update.partition.get_or_insert(IntOrString::Int(0));

    spec.revision_history_limit.get_or_insert(10);
    for patch in &mut spec.patch_pod_metadata {
        fill(&mut patch.patch_policy, "Retain");
    }
    if let Some(revision) = &mut spec.injection_strategy.revision {
        fill(&mut revision.policy, "Always");
    }

    for container in spec.init_containers.iter_mut().flatten() {
        fill(&mut container.pod_inject_policy, "AfterAppContainer");
        default_container(container);
    }
    for container in spec.containers.iter_mut().flatten() {
        fill(&mut container.pod_inject_policy, "BeforeAppContainer");
        default_container(container);
    }
    for (index, volume) in spec.volumes.iter_mut().enumerate() {
        let place = [Step::Key("spec".into()), Step::Key("volumes".into()), Step::Index(index)];
        default_volume(volume, unknown.is_below(&place));
    }
}

fn default_container(container: &mut SidecarContainer) {
    fill(&mut container.upgrade_strategy.upgrade_type, "ColdUpgrade");
    fill(&mut container.share_volume_policy.r#type, "disabled");
    fill(&mut container.image_pull_policy, default_pull_policy(&container.image));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    for port in &mut container.ports {
        fill(&mut port.protocol, "TCP");
    }
    for env in &mut container.env {
        default_env(env);
    }
    for transfer in &mut container.transfer_env {
        if let Some(field) = transfer.source_container_name_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            default_field(field);
        }
    }
    for quantity in container.resources.limits.values_mut().chain(container.resources.requests.values_mut()) {
        *quantity = quantity.clone().round_up_to_milli();
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe].into_iter().flatten() {
        default_probe(probe);
    }
    if let Some(probe) = &mut container.startup_probe {
        default_startup_probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        default_lifecycle(lifecycle);
    }
    if let Some(policy) = &mut container.resources_policy {
        fill(&mut policy.target_containers_name_regex, ".*");
    }
}

fn default_env(env: &mut EnvVar) {
    if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
        default_field(field);
    }
}

fn default_field(field: &mut ObjectFieldSelector) {
    fill(&mut field.api_version, "v1");
}

fn default_probe(probe: &mut Probe) {
    fill_number(&mut probe.timeout_seconds, 1);
    fill_number(&mut probe.period_seconds, 10);
    fill_number(&mut probe.success_threshold, 1);
    fill_number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        default_http(http);
    }
}

/// Differs: SSD-6. The reference defaults nothing here and then refuses a probe without these three. They are filled in;
/// the timeouts are not, so that no set which the reference accepts gets another hash.
fn default_startup_probe(probe: &mut Probe) {
    fill_number(&mut probe.success_threshold, 1);
    if let Some(http) = &mut probe.http_get {
        default_http(http);
    }
}

fn default_http(http: &mut HttpGetAction) {
    fill(&mut http.path, "/");
    fill(&mut http.scheme, "HTTP");
}

fn default_lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(http) = &mut handler.http_get {
            default_http(http);
        }
    }
}

fn default_volume(volume: &mut Volume, has_unknown_source: bool) {
    const MODE: i32 = 0o644;
    if volume.sources().is_empty() && !has_unknown_source {
        volume.empty_dir = Some(EmptyDir::default());
    }
    if let Some(source) = &mut volume.host_path {
        source.r#type.get_or_insert_default();
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(MODE);
        source.items.iter_mut().for_each(default_file);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(MODE);
        for projection in source.sources.iter_mut().flatten() {
            if let Some(downward) = &mut projection.downward_api {
                downward.items.iter_mut().for_each(default_file);
            }
            if let Some(token) = &mut projection.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
}

fn default_file(file: &mut DownwardApiFile) {
    if let Some(field) = &mut file.field_ref {
        default_field(field);
    }
}

fn fill(text: &mut String, default: &str) {
    if text.is_empty() {
        default.clone_into(text);
    }
}

fn fill_number(number: &mut i32, default: i32) {
    if *number == 0 {
        *number = default;
    }
}
