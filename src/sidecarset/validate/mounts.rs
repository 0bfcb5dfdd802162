//! Where volumes appear inside a container (PODV-9).
//!
//! Only the SidecarSet's own volumes count. Those of the pod come in through `shareVolumePolicy`.

use super::report::{Gravity, Place, Report, quote};
use crate::api::container::{SidecarContainer, VolumeDevice, VolumeMount};
use crate::api::syntax;
use crate::api::volume::Volume;

pub(super) fn check(report: &mut Report<'_>, at: &Place, container: &SidecarContainer, volumes: &[Volume]) {
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let at = at.member("volumeMounts").item(index);
        check_volume(report, &at.member("name"), &mount.name, volumes);
        check_mount_path(report, &at.member("mountPath"), index, container);
        check_sub_path(report, &at, mount);
        check_mode(report, &at, mount, container);
    }
    for (index, device) in container.volume_devices.iter().enumerate() {
        let at = at.member("volumeDevices").item(index);
        if check_volume(report, &at.member("name"), &device.name, volumes) {
            check_device_volume(report, &at.member("name"), index, container, volumes);
        }
        check_device_path(report, &at.member("devicePath"), device, &container.volume_devices[..index]);
    }
}

fn check_volume(report: &mut Report<'_>, at: &Place, name: &str, volumes: &[Volume]) -> bool {
    let is_there = volumes.iter().any(|volume| volume.name == name);
    if report.required(at, name) && !is_there {
        let message = "is not in spec.volumes; add it there (a volume of the pod comes with shareVolumePolicy)";
        report.error(at, format!("{} {message}", quote(name)));
    }
    is_there
}

fn check_mount_path(report: &mut Report<'_>, at: &Place, index: usize, container: &SidecarContainer) {
    let path = &container.volume_mounts[index].mount_path;
    if !report.required(at, path) {
        return;
    }
    if container.volume_mounts[..index].iter().any(|earlier| earlier.mount_path == *path) {
        report.error(at, format!("{} is the path of an earlier mount; use another", quote(path)));
    }
    if container.volume_devices.iter().any(|device| device.device_path == *path) {
        report.error(at, format!("{} is the path of a device; use another", quote(path)));
    }
}

fn check_sub_path(report: &mut Report<'_>, at: &Place, mount: &VolumeMount) {
    report.syntax(&at.member("subPath"), &mount.sub_path, syntax::descending_path);
    report.syntax(&at.member("subPathExpr"), &mount.sub_path_expr, syntax::descending_path);
    if !mount.sub_path.is_empty() && !mount.sub_path_expr.is_empty() {
        report.error(&at.member("subPathExpr"), "excludes subPath; remove one");
    }
}

fn check_mode(report: &mut Report<'_>, at: &Place, mount: &VolumeMount, container: &SidecarContainer) {
    let propagation = mount.mount_propagation.as_deref();
    if let Some(mode) = propagation {
        let at = at.member("mountPropagation");
        report.one_of(Gravity::Error, &at, mode, &["None", "HostToContainer", "Bidirectional"]);
        let is_privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
        if mode == "Bidirectional" && !is_privileged {
            report.error(&at, "Bidirectional needs securityContext.privileged");
        }
    }
    let at = at.member("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.read_only {
                report.error(&at, "needs readOnly");
            }
            if propagation.is_some_and(|mode| mode != "None") {
                report.error(&at, "excludes mountPropagation other than None");
            }
        }
        Some(other) => report.one_of(Gravity::Error, &at, other, &["Disabled", "IfPossible", "Enabled"]),
    }
}

fn check_device_volume(
    report: &mut Report<'_>,
    at: &Place,
    index: usize,
    container: &SidecarContainer,
    volumes: &[Volume],
) {
    let name = &container.volume_devices[index].name;
    let is_device = |(at, volume): (usize, &Volume)| {
        volume.name == *name
            && (volume.persistent_volume_claim.is_some()
                || volume.ephemeral.is_some()
                || report.has_newer(&Place::spec().member("volumes").item(at)))
    };
    if !volumes.iter().enumerate().any(is_device) {
        report.error(at, format!("{} must be a persistentVolumeClaim or ephemeral volume", quote(name)));
    }
    if container.volume_devices[..index].iter().any(|earlier| earlier.name == *name) {
        report.error(at, format!("{} is the volume of an earlier device; use another", quote(name)));
    }
    if container.volume_mounts.iter().any(|mount| mount.name == *name) {
        report.error(at, format!("{} is mounted as well; remove the mount or the device", quote(name)));
    }
}

fn check_device_path(report: &mut Report<'_>, at: &Place, device: &VolumeDevice, earlier: &[VolumeDevice]) {
    let path = &device.device_path;
    if !report.name(at, path, syntax::no_backsteps) {
        return;
    }
    if earlier.iter().any(|earlier| earlier.device_path == *path) {
        report.error(at, format!("{} is the path of an earlier device; use another", quote(path)));
    }
}
