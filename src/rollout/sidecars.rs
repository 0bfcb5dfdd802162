//! What a SidecarSet wants of its pods: one list of containers to update, whatever part of the spec they come from.

use std::collections::{BTreeSet, HashMap};

use super::pod::{Container, Phase, Pod};
use super::{Gates, Input};
use crate::api::container::SidecarContainer;
use crate::api::names;
use crate::api::sidecarset::SidecarSet;
use crate::sidecarset::records::Record;
use crate::sidecarset::revision::Hashes;

/// The sidecars of a set, compiled for one plan.
pub(super) struct Sidecars<'a> {
    pub(super) set: &'a str,
    pub(super) hashes: Hashes,
    pub(super) cold: Vec<Cold<'a>>,
    pub(super) hot: Vec<Hot<'a>>,
    /// Native sidecars whose images are left alone: hot pairs (HOT-33), and all of them when the gate is off.
    pub(super) fixed: Vec<Fixed<'a>>,
    /// What UPD-5 writes.
    pub(super) record: Record,
}

/// A container that is restarted with the new image.
pub(super) struct Cold<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    pub(super) list: List,
}

/// Where a container stands in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Containers,
    InitContainers,
}

/// A pair of containers, one of which takes over from the other (HOT-1).
pub(super) struct Hot<'a> {
    pub(super) base: &'a str,
    pub(super) image: &'a str,
    pub(super) empty: &'a str,
    pub(super) names: [String; 2],
}

/// A native sidecar that is not updated in place.
pub(super) struct Fixed<'a> {
    pub(super) base: &'a str,
    /// Its container in the pod, of a pair the one that was injected as working.
    pub(super) name: String,
    pub(super) image: &'a str,
}

// === impl Sidecars ===

impl<'a> Sidecars<'a> {
    pub(super) fn new(input: &Input<'a>) -> Self {
        let set = input.set;
        let (mut cold, mut hot, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
        for container in set.containers() {
            if container.is_hot_upgrade() {
                hot.push(Hot::new(container));
            } else {
                cold.push(Cold { name: &container.name, image: &container.image, list: List::Containers });
            }
        }
        for container in natives(set) {
            let Gates { in_place_native_sidecar, .. } = input.gates;
            if in_place_native_sidecar && !container.is_hot_upgrade() {
                cold.push(Cold { name: &container.name, image: &container.image, list: List::InitContainers });
            } else {
                let suffix = if container.is_hot_upgrade() { "-1" } else { "" };
                let name = format!("{}{suffix}", container.name);
                fixed.push(Fixed { base: &container.name, name, image: &container.image });
            }
        }
        let hashes = Hashes::told(|key| set.metadata.annotations.get(key).map(String::as_str), &set.spec);
        let names: BTreeSet<&String> =
            set.containers().iter().chain(natives(set)).map(|container| &container.name).collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let record = Record::new(&set.metadata.name, &hashes, &names, input.revision);
        Self { set: &set.metadata.name, hashes, cold, hot, fixed, record }
    }

    /// The containers of a pod that are updated (CTL-22): both of each pair.
    pub(super) fn of<'p>(&self, pod: &'p Pod) -> impl Iterator<Item = &'p Container> {
        let cold = self.cold.iter().filter_map(|cold| cold.of(pod));
        let hot = self.hot.iter().flat_map(|hot| &hot.names).filter_map(|name| pod.container(name));
        cold.chain(hot)
    }

    /// Native sidecars whose image changed and that are not updated in place: as any other field, they need a new pod.
    pub(super) fn changed_fixed(&self, pod: &Pod) -> impl Iterator<Item = &str> {
        let changed = |fixed: &&Fixed<'_>| {
            pod.init_container(&fixed.name).is_some_and(|container| *container.image != *fixed.image)
        };
        self.fixed.iter().filter(changed).map(|fixed| fixed.base)
    }

    /// CTL-11 … CTL-13: whether the pod, whose labels match, is one of the set's.
    pub(super) fn match_pod(&self, pod: &Pod) -> bool {
        let is_active = !pod.is_going_away && !matches!(pod.phase, Phase::Succeeded | Phase::Failed);
        // CTL-14: init containers play no role.
        let complete = || {
            let mut cold = self.cold.iter().filter(|cold| cold.list == List::Containers);
            cold.all(|cold| pod.container(cold.name).or_else(|| pod.init_container(cold.name)).is_some())
                && (self.hot.is_empty() || {
                    let working = working(pod);
                    let both = |hot: &Hot<'_>| hot.names.iter().all(|name| pod.container(name).is_some());
                    self.hot.iter().all(|hot| working.contains_key(hot.base) && both(hot))
                })
        };
        is_active && pod.injected_by().any(|set| set == self.set) && complete()
    }
}

fn natives(set: &SidecarSet) -> impl Iterator<Item = &SidecarContainer> {
    set.init_containers().iter().filter(|container| container.is_native_sidecar())
}

/// Base name → the container that works (HOT-2); garbage says nothing.
pub(super) fn working(pod: &Pod) -> HashMap<String, String> {
    let text = pod.annotation(names::WORKING_CONTAINER);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

impl Cold<'_> {
    /// The container of a pod; CTL-13 lets a container stand among the init containers.
    pub(super) fn of<'p>(&self, pod: &'p Pod) -> Option<&'p Container> {
        match self.list {
            List::Containers => pod.container(self.name),
            List::InitContainers => pod.init_container(self.name),
        }
    }
}

impl<'a> Hot<'a> {
    fn new(container: &'a SidecarContainer) -> Self {
        Self {
            base: &container.name,
            image: &container.image,
            empty: &container.upgrade_strategy.hot_upgrade_empty_image,
            names: [format!("{}-1", container.name), format!("{}-2", container.name)],
        }
    }
}
