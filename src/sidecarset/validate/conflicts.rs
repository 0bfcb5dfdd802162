//! Conflicts with other SidecarSets that may select the same pod (SSC).
//!
//! Names of containers, definitions of volumes and patches of annotations can clash. Envs, secrets, mount paths and
//! ports are not compared (SSC-5), and a paused SidecarSet takes part like any other (SSC-8). Both selectors decide
//! whether two SidecarSets can meet in one pod (SSC-1); how sure that is decides whether a clash is an error.

use std::collections::BTreeSet;

use super::containers::{Made, entries, fate, made, made_init, names_source, sources};
use super::overlap::{can_meet, overlap};
use super::report::{Gravity, Place, Report, quote};
use crate::api::container::SidecarContainer;
use crate::api::sidecarset::SidecarSet;

pub(super) fn check(report: &mut Report<'_>, new: &SidecarSet, others: &[&SidecarSet]) {
    let mut others: Vec<&SidecarSet> = others.iter().copied().filter(|other| !stands_in(new, other)).collect();
    others.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for other in others {
        if let Some(gravity) = meeting(new, other) {
            check_names(report, gravity, new, other);
            check_sources(report, new, other);
            check_volumes(report, gravity, new, other);
            check_patches(report, gravity, new, other);
        }
    }
}

/// Whether the two never work on one pod, because one replaces the other there (SSC-1).
///
/// Differs: SSC-7. The reference leaves out the base of a new canary but not the canaries of a new base, so that a base
/// cannot be changed while it has one.
fn stands_in(new: &SidecarSet, other: &SidecarSet) -> bool {
    let (new_name, other_name) = (&new.metadata.name, &other.metadata.name);
    new_name == other_name
        || new.canary_base() == Some(other_name.as_str())
        || other.canary_base() == Some(new_name.as_str())
}

/// How much a clash of the two matters, if they can meet in one pod at all.
///
/// Differs: SEL-3. Where the reference overlooks that two selectors can be met by one pod, a clash is a warning: people
/// have such SidecarSets, and their pods may well never meet both.
fn meeting(new: &SidecarSet, other: &SidecarSet) -> Option<Gravity> {
    let (a, b) = (new.spec.selector.as_ref()?, other.spec.selector.as_ref()?);
    let namespaces = new.spec.namespace_selector.as_ref().zip(other.spec.namespace_selector.as_ref());
    if overlap(a, b) && namespaces.is_none_or(|(a, b)| overlap(a, b)) {
        Some(Gravity::Error)
    } else if can_meet(a, b) && namespaces.is_none_or(|(a, b)| can_meet(a, b)) {
        Some(Gravity::Warning)
    } else {
        None
    }
}

/// SSC-2, over the names of the entries and those that they get in a pod.
///
/// Differs: SSC-6. The reference compares each list with its like and does not know the names of hot upgrades.
fn check_names(report: &mut Report<'_>, gravity: Gravity, new: &SidecarSet, other: &SidecarSet) {
    let theirs_made = all_made(other);
    let mut check = |list: &str, entries: &[SidecarContainer], theirs: &[SidecarContainer], made_by: Made| {
        for (index, entry) in entries.iter().enumerate() {
            let is_listed = theirs.iter().any(|their| their.name == entry.name);
            let clash = if is_listed {
                Some(entry.name.clone())
            } else {
                made_by(entry).into_iter().find(|name| theirs_made.contains(name))
            };
            if let Some(name) = clash {
                let message = format!(
                    "SidecarSet {} makes a container called {} too, and a pod can match both; rename this one, or tell the selectors apart",
                    quote(&other.metadata.name),
                    quote(&name),
                );
                report.note(gravity, &Place::spec().member(list).item(index).member("name"), message);
            }
        }
    };
    check("initContainers", new.init_containers(), other.init_containers(), made_init);
    check("containers", new.containers(), other.containers(), made);
}

/// A container that one of the two takes envs from is a pod's own (TE-4), and the other makes one of that name.
fn check_sources(report: &mut Report<'_>, new: &SidecarSet, other: &SidecarSet) {
    let shown = quote(&other.metadata.name);
    let theirs = sources(other);
    let theirs_made = all_made(other);
    for (list, entries, made_by) in entries(new) {
        for (index, entry) in entries.iter().enumerate() {
            let at = Place::spec().member(list).item(index);
            let clash = made_by(entry).into_iter().find_map(|name| Some((theirs.get(&*name)?, name)));
            if let Some((source, name)) = clash {
                let (name, fate) = (quote(&name), fate(list));
                let message = format!(
                    "makes a container called {name}, but SidecarSet {shown} takes envs from a container of the pod of that name ({source}), which {fate}; rename this one"
                );
                report.warn(&at.member("name"), message);
            }
            for (place, transfer) in
                entry.transfer_env.iter().enumerate().filter(|(_, transfer)| names_source(transfer))
            {
                let name = &transfer.source_container_name;
                if theirs_made.contains(name) {
                    let message = format!(
                        "{} is a container that SidecarSet {shown} makes, in place of the pod's own of that name; name another one",
                        quote(name),
                    );
                    report.warn(&at.member("transferEnv").item(place).member("sourceContainerName"), message);
                }
            }
        }
    }
}

/// The names of all containers that a set makes in a pod.
fn all_made(set: &SidecarSet) -> BTreeSet<String> {
    entries(set).into_iter().flat_map(|(_, entries, made_by)| entries.iter().flat_map(made_by)).collect()
}

/// SSC-3.
fn check_volumes(report: &mut Report<'_>, gravity: Gravity, new: &SidecarSet, other: &SidecarSet) {
    for (index, volume) in new.spec.volumes.iter().enumerate() {
        if other.spec.volumes.iter().any(|their| their.name == volume.name && their != volume) {
            let message = format!(
                "{} is another volume in SidecarSet {}, and a pod can match both; rename it, or define it alike",
                quote(&volume.name),
                quote(&other.metadata.name),
            );
            report.note(gravity, &Place::spec().member("volumes").item(index).member("name"), message);
        }
    }
}

/// SSC-4.
///
/// Differs: SSC-4. The reference looks at the last other SidecarSet that patches the key, we look at all.
fn check_patches(report: &mut Report<'_>, gravity: Gravity, new: &SidecarSet, other: &SidecarSet) {
    for (index, patch) in new.spec.patch_pod_metadata.iter().enumerate() {
        for key in patch.annotations.keys() {
            let theirs = other.spec.patch_pod_metadata.iter().filter(|their| their.annotations.contains_key(key));
            if theirs.into_iter().any(|their| do_fight(&patch.patch_policy, &their.patch_policy)) {
                let message = format!(
                    "SidecarSet {} patches the same annotation, and a pod can match both; use Retain, or MergePatchJson in both",
                    quote(&other.metadata.name),
                );
                let at = Place::spec().member("patchPodMetadata").item(index).member("annotations").key(key);
                report.note(gravity, &at, message);
            }
        }
    }
}

fn do_fight(a: &str, b: &str) -> bool {
    let gives_way = |policy: &str| matches!(policy, "Retain" | "");
    !gives_way(a) && !gives_way(b) && (a == "Overwrite" || b == "Overwrite")
}
