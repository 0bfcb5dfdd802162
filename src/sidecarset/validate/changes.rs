//! What may change in a stored SidecarSet (SSU), and what a change does not do to pods that run already.
//!
//! Only images reach running pods (STR-2, CTL-58). Any other change of a container gives the SidecarSet another hash
//! without images: no update reaches the older pods any more, not even that of an image. What no hash covers, such as a
//! volume, leaves running pods as they are and counted as updated (HASH-5). Both are legal, and easily overlooked.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::report::{Place, Report, quote};
use crate::api::container::SidecarContainer;
use crate::api::sidecarset::SidecarSet;

const NOT_IN_PLACE: &str = "is changed, but only an image can be changed in a running pod: such pods keep what they have, and get no update of this SidecarSet, until they are recreated";
const GONE: &str = "is removed, but no container can be removed from a running pod: such pods keep it, and get no update of this SidecarSet, until they are recreated";
const REORDERED: &str = "are in another order, but containers cannot be moved in a running pod: such pods get no update of this SidecarSet until they are recreated";
const NEW_PODS: &str = "is changed for new pods only: running ones keep what they have until they are recreated";

pub(super) fn check(report: &mut Report<'_>, new: &SidecarSet, old: &SidecarSet) {
    check_allowed(report, new, old);
    // With NotUpdate nobody expects a running pod to change.
    if report.is_clean() && new.spec.update_strategy.r#type != "NotUpdate" {
        check_in_place(report, new, old);
        check_new_pods(report, new, old);
    }
}

/// SSU-1 and SSU-2; everything else may change.
fn check_allowed(report: &mut Report<'_>, new: &SidecarSet, old: &SidecarSet) {
    let olds = by_name(old);
    let list = Place::spec().member("containers");
    for (index, container) in new.containers().iter().enumerate() {
        let at = list.item(index);
        let Some(before) = olds.get(&*container.name) else {
            let name = quote(&container.name);
            report.error(
                &at.member("name"),
                format!("{name} is new, and containers cannot be added or renamed after creation; create another SidecarSet for it"),
            );
            continue;
        };
        let (was, is) = (&before.upgrade_strategy.upgrade_type, &container.upgrade_strategy.upgrade_type);
        if !was.is_empty() && was != is {
            let (was, is) = (quote(was), quote(is));
            report.error(
                &at.member("upgradeStrategy").member("upgradeType"),
                format!("cannot change from {was} to {is}; create another SidecarSet for it"),
            );
        }
    }
}

/// Members that the hash without images covers.
fn check_in_place(report: &mut Report<'_>, new: &SidecarSet, old: &SidecarSet) {
    let (olds, news) = (by_name(old), by_name(new));
    let list = Place::spec().member("containers");
    for (index, container) in new.containers().iter().enumerate() {
        if let Some(before) = olds.get(&*container.name) {
            differences(&list.item(index), &without_image(before), &without_image(container), &mut |at| {
                report.warn(at, NOT_IN_PLACE);
            });
        }
    }
    let (kept, gone): (Vec<_>, Vec<_>) = old.containers().iter().partition(|before| news.contains_key(&*before.name));
    for gone in gone {
        report.warn(&list, format!("{} {GONE}", quote(&gone.name)));
    }
    if !kept.into_iter().map(|container| &container.name).eq(new.containers().iter().map(|container| &container.name)) {
        report.warn(&list, REORDERED);
    }
}

/// Members that no hash covers and that pods get at injection.
fn check_new_pods(report: &mut Report<'_>, new: &SidecarSet, old: &SidecarSet) {
    fn both<'a, T: Serialize>(member: &'static str, old: &'a T, new: &'a T) -> (&'static str, Value, Value) {
        (member, json!(old), json!(new))
    }
    let (old, new) = (&old.spec, &new.spec);
    for (member, old, new) in [
        both("selector", &old.selector, &new.selector),
        both("namespaceSelector", &old.namespace_selector, &new.namespace_selector),
        both("initContainers", &old.init_containers, &new.init_containers),
        both("volumes", &old.volumes, &new.volumes),
        both("imagePullSecrets", &old.image_pull_secrets, &new.image_pull_secrets),
        both("patchPodMetadata", &old.patch_pod_metadata, &new.patch_pod_metadata),
    ] {
        if old != new {
            report.warn(&Place::spec().member(member), NEW_PODS);
        }
    }
}

fn by_name(set: &SidecarSet) -> HashMap<&str, &SidecarContainer> {
    // The first of a name counts.
    set.containers().iter().rev().map(|container| (container.name.as_str(), container)).collect()
}

fn without_image(container: &SidecarContainer) -> Value {
    json!(SidecarContainer { image: String::new(), ..container.clone() })
}

/// Calls `found` with each place that differs: as deep as there are members on both sides. A list whose length changes
/// is one place, and so are the amounts of resources.
fn differences(at: &Place, old: &Value, new: &Value, found: &mut impl FnMut(&Place)) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(olds), Value::Object(news)) => {
            let gone = olds.keys().filter(|key| !news.contains_key(*key));
            for key in news.keys().chain(gone) {
                match key.as_str() {
                    "limits" | "requests" if old[key] != new[key] => found(&at.member(key)),
                    _ => differences(&at.member(key), &old[key], &new[key], found),
                }
            }
        }
        (Value::Array(olds), Value::Array(news)) if olds.len() == news.len() => {
            for (index, (old, new)) in olds.iter().zip(news).enumerate() {
                differences(&at.item(index), old, new, found);
            }
        }
        _ => found(at),
    }
}
