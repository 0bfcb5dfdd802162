//! The containers of a SidecarSet: what each must be, and what they must be beside each other (SSV-25 … SSV-28,
//! SSV-37, PODV-2 … PODV-4).
//!
//! The PODV rules are those of a pod made of the SidecarSet's containers and volumes (PODV-1). Each part of a container
//! has its file; rules that need a pod's own containers are left to the API server.

use std::collections::BTreeMap;

use super::report::{Gravity, Place, Report, quote};
use super::{env, mounts, ports, probes, resources, security};
use crate::api::container::{SidecarContainer, TransferEnvVar};
use crate::api::sidecarset::SidecarSet;
use crate::api::syntax;

/// Bytes that an entry's name may have when `-1` is put behind it.
const HOT_UPGRADE_NAME: usize = 61;

pub(super) fn check(report: &mut Report<'_>, set: &SidecarSet) {
    let spec = Place::spec();
    if set.init_containers().is_empty() && set.containers().is_empty() {
        report.error(&spec, "needs containers or initContainers");
    }
    for (index, container) in set.init_containers().iter().enumerate() {
        let at = spec.member("initContainers").item(index);
        check_common(report, &at, container, set);
        check_init(report, &at, container);
    }
    for (index, container) in set.containers().iter().enumerate() {
        let at = spec.member("containers").item(index);
        check_common(report, &at, container, set);
        check_plain(report, &at, container);
    }
    check_names(report, set);
    check_sources(report, set);
    ports::check_host_ports(report, &spec, set);
}

fn check_common(report: &mut Report<'_>, at: &Place, container: &SidecarContainer, set: &SidecarSet) {
    report.name(&at.member("name"), &container.name, syntax::dns_label);
    check_image(report, &at.member("image"), &container.image);
    report.one_of(
        Gravity::Error,
        &at.member("imagePullPolicy"),
        &container.image_pull_policy,
        &["Always", "IfNotPresent", "Never"],
    );
    ports::check(report, &at.member("ports"), &container.ports);
    env::check(report, at, container);
    mounts::check(report, at, container, &set.spec.volumes);
    resources::check(report, at, container);
    report.one_of(
        Gravity::Error,
        &at.member("terminationMessagePolicy"),
        &container.termination_message_policy,
        &["File", "FallbackToLogsOnError"],
    );
    if let Some(context) = &container.security_context {
        security::check(report, &at.member("securityContext"), context);
    }
    let upgrade = at.member("upgradeStrategy").member("upgradeType");
    report.one_of(Gravity::Warning, &upgrade, &container.upgrade_strategy.upgrade_type, &["ColdUpgrade", "HotUpgrade"]);
    if let Some(policy) = container.share_volume_device_policy.as_ref().filter(|policy| !policy.r#type.is_empty()) {
        let at = at.member("shareVolumeDevicePolicy").member("type");
        report.one_of(Gravity::Warning, &at, &policy.r#type, &["enabled", "disabled"]);
    }
}

fn check_image(report: &mut Report<'_>, at: &Place, image: &str) {
    if report.required(at, image) && image.trim() != image {
        report.error(at, format!("{} must not start or end with white space", quote(image)));
    }
}

/// What only an entry of `initContainers` must be. The reference looks neither at its policies nor at its transferEnv
/// (SSV-26, SSV-27), so what is wrong with these is a warning.
fn check_init(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    check_policies(report, Gravity::Warning, at, container);
    if let Some(policy) = &container.restart_policy
        && policy != "Always"
    {
        let message = format!("{} is not possible; use Always for a sidecar, or leave it out", quote(policy));
        report.error(&at.member("restartPolicy"), message);
    }
    if !container.resize_policy.is_empty() {
        report.error(&at.member("resizePolicy"), "must be left out of init containers");
    }
    if container.is_native_sidecar() {
        probes::check(report, at, container);
        check_hot_upgrade(report, at, container);
        return;
    }
    if container.resources_policy.is_some() {
        let message = "needs restartPolicy Always; an init container that ends cannot have computed resources";
        report.error(&at.member("resourcesPolicy"), message);
    }
    let present = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (member, _) in present.into_iter().filter(|(_, is_present)| *is_present) {
        report.error(&at.member(member), "must be left out of an init container without restartPolicy Always");
    }
    if container.is_hot_upgrade() {
        report.warn(
            &at.member("upgradeStrategy").member("upgradeType"),
            "HotUpgrade has no effect on an init container without restartPolicy Always",
        );
    }
}

/// What only an entry of `containers` must be.
fn check_plain(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    check_policies(report, Gravity::Error, at, container);
    if container.restart_policy.is_some() {
        report.error(
            &at.member("restartPolicy"),
            "must be left out of containers; a native sidecar is an init container",
        );
    }
    resources::check_resize(report, &at.member("resizePolicy"), &container.resize_policy);
    probes::check(report, at, container);
    check_hot_upgrade(report, at, container);
}

/// What the reference looks at in `containers` only.
fn check_policies(report: &mut Report<'_>, gravity: Gravity, at: &Place, container: &SidecarContainer) {
    env::check_transfer(report, gravity, &at.member("transferEnv"), &container.transfer_env);
    report.one_of(
        gravity,
        &at.member("podInjectPolicy"),
        &container.pod_inject_policy,
        &["BeforeAppContainer", "AfterAppContainer"],
    );
    let at = at.member("shareVolumePolicy").member("type");
    report.one_of(gravity, &at, &container.share_volume_policy.r#type, &["enabled", "disabled"]);
}

/// Differs: SSV-37. The reference stores it, and the API server then refuses every pod.
fn check_hot_upgrade(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    if !container.is_hot_upgrade() {
        return;
    }
    let image = at.member("upgradeStrategy").member("hotUpgradeEmptyImage");
    let empty_image = &container.upgrade_strategy.hot_upgrade_empty_image;
    if empty_image.is_empty() {
        report.error(&image, "is required with upgradeType HotUpgrade");
    } else {
        check_image(report, &image, empty_image);
    }
    if container.name.len() > HOT_UPGRADE_NAME {
        let name = quote(&container.name);
        let message = format!("{name} must have at most {HOT_UPGRADE_NAME} characters with upgradeType HotUpgrade");
        report.error(&at.member("name"), message);
    }
}

/// Names must be unique over both lists, those that hot upgrade makes included (PODV-2, SSV-37).
///
/// Differs: PODV-2. The reference adds a container called `test` to a SidecarSet without containers.
fn check_names(report: &mut Report<'_>, set: &SidecarSet) {
    let spec = Place::spec();
    let containers =
        set.containers().iter().enumerate().map(|(index, entry)| ("containers", index, entry, made(entry)));
    let init = set.init_containers().iter().enumerate();
    let init = init.map(|(index, entry)| ("initContainers", index, entry, made_init(entry)));

    let mut makers: BTreeMap<String, String> = BTreeMap::new();
    for (list, index, entry, made) in containers.chain(init).filter(|(_, _, entry, _)| !entry.name.is_empty()) {
        let at = format!("spec.{list}[{index}]");
        // The entry's own name counts too: pods remember by it which of the two containers works.
        let own = Some(entry.name.clone()).filter(|name| !made.contains(name));
        let clash = own.iter().chain(&made).find_map(|name| Some((name, makers.get(name)?)));
        if let Some((name, maker)) = clash {
            let message = format!("{} is also the name of a container of {maker}; rename one", quote(name));
            report.error(&spec.member(list).item(index).member("name"), message);
        }
        for name in made.into_iter().chain(own) {
            makers.entry(name).or_insert_with(|| at.clone());
        }
    }
}

/// A container that the set takes envs from is one of the pod's own (TE-4). One that the set makes under that name takes
/// its place (ORD-6), or clashes with it when it is an init container.
fn check_sources(report: &mut Report<'_>, set: &SidecarSet) {
    let sources = sources(set);
    for (list, entries, made_by) in entries(set) {
        for (index, entry) in entries.iter().enumerate() {
            let clash = made_by(entry).into_iter().find_map(|name| Some((sources.get(&*name)?, name)));
            if let Some((source, name)) = clash {
                let message = format!(
                    "makes a container called {}, but {source} takes envs from a container of the pod of that name, which {}; rename this one",
                    quote(&name),
                    fate(list),
                );
                report.warn(&Place::spec().member(list).item(index).member("name"), message);
            }
        }
    }
}

/// What becomes of a pod's own container when an entry of `list` makes one of its name.
pub(super) fn fate(list: &str) -> &'static str {
    if list == "containers" { "this one replaces" } else { "keeps the API server from creating the pod" }
}

/// The containers of a pod that `set` takes envs from, each with the first place that says so.
pub(super) fn sources(set: &SidecarSet) -> BTreeMap<&str, String> {
    let mut sources = BTreeMap::new();
    for (list, entries, _) in entries(set) {
        for (index, entry) in entries.iter().enumerate() {
            for (place, transfer) in
                entry.transfer_env.iter().enumerate().filter(|(_, transfer)| names_source(transfer))
            {
                let place = || format!("spec.{list}[{index}].transferEnv[{place}]");
                sources.entry(transfer.source_container_name.as_str()).or_insert_with(place);
            }
        }
    }
    sources
}

/// Whether the container to take envs from is named, and not looked up in each pod.
pub(super) fn names_source(transfer: &TransferEnvVar) -> bool {
    transfer.source_container_name_from.is_none() && !transfer.source_container_name.is_empty()
}

/// Both lists of a set, with what their entries become.
pub(super) fn entries(set: &SidecarSet) -> [(&'static str, &[SidecarContainer], Made); 2] {
    [("initContainers", set.init_containers(), made_init), ("containers", set.containers(), made)]
}

/// The names of the containers that an entry becomes in a pod.
pub(super) type Made = fn(&SidecarContainer) -> Vec<String>;

/// [`Made`] of an entry of `containers` (HOT-1, HOT-2).
pub(super) fn made(entry: &SidecarContainer) -> Vec<String> {
    let name = &entry.name;
    if entry.is_hot_upgrade() { vec![format!("{name}-1"), format!("{name}-2")] } else { vec![name.clone()] }
}

/// [`Made`] of an entry of `initContainers`.
pub(super) fn made_init(entry: &SidecarContainer) -> Vec<String> {
    if entry.is_native_sidecar() { made(entry) } else { vec![entry.name.clone()] }
}
