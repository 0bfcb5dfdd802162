//! The security context of a container (PODV-10).
//!
//! Values that no kubelet takes and wishes that contradict each other, whatever the pod around them. What depends on the
//! pod, its user namespace or its operating system, is left to the API server.

use super::report::{Gravity, Place, Report};
use crate::api::container::{ConfinementProfile, SecurityContext};
use crate::api::syntax;

const IDS: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;
/// Characters of the name of an AppArmor profile.
const PROFILE: usize = 4095;

pub(super) fn check(report: &mut Report<'_>, at: &Place, context: &SecurityContext) {
    for (member, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            report.range(&at.member(member), id, IDS);
        }
    }
    if let Some(mount) = &context.proc_mount {
        report.one_of(Gravity::Error, &at.member("procMount"), mount, &["Default", "Unmasked"]);
    }
    if context.allow_privilege_escalation == Some(false) {
        let at = at.member("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            report.error(&at, "cannot be false with privileged; remove one");
        }
        let added = context.capabilities.as_ref().map(|capabilities| capabilities.add.as_slice()).unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            report.error(&at, "cannot be false with capability CAP_SYS_ADMIN; remove one");
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        check_profile(report, &at.member("seccompProfile"), profile);
        if let Some(path) = &profile.localhost_profile {
            report.syntax(&at.member("seccompProfile").member("localhostProfile"), path, syntax::descending_path);
        }
    }
    if let Some(profile) = &context.app_armor_profile {
        check_profile(report, &at.member("appArmorProfile"), profile);
        if let Some(name) = &profile.localhost_profile
            && (name.is_empty() || name.trim() != name || name.len() > PROFILE)
        {
            let message = format!("must have 1 to {PROFILE} characters and no white space around them");
            report.error(&at.member("appArmorProfile").member("localhostProfile"), message);
        }
    }
}

fn check_profile(report: &mut Report<'_>, at: &Place, profile: &ConfinementProfile) {
    report.one_of(Gravity::Error, &at.member("type"), &profile.r#type, &["RuntimeDefault", "Unconfined", "Localhost"]);
    let is_local = profile.r#type == "Localhost";
    let at = at.member("localhostProfile");
    match profile.localhost_profile {
        None if is_local => report.error(&at, "is required with type Localhost"),
        Some(_) if !is_local => report.error(&at, "must be left out unless type is Localhost"),
        _ => {}
    }
}
