//! Hot upgrade as a state machine over what a pod's annotations, images and statuses say (HOT-1 … HOT-30).
//!
//! ```text
//!            Start                      node restarts target, postStart returns          Reset              node restarts old
//!  Steady ─────────▶ Upgrading ───────────────────────────────────────────────▶ Migrated ─────▶ Resetting ─────────────────▶ Steady
//!    ▲                 │  ▲ │
//!    │                 │  └─┘ Start: another image for a target that is not good (HOT-21)
//!    └── Resetting ◀───┘ Back: the target cannot start and the old image is wanted again (W-4)
//! ```
//!
//! *Working* is the new container from the moment that an upgrade starts (HOT-2); until it is good, the other one serves.
//! So nothing here touches the other container before the working one is good, and nothing makes it the working one
//! again unless the new one never ran.

use super::pod::{Container, State};
use super::sidecars::{Hot, Sidecars, working};
use super::state::{Acted, View};
use super::verdict::Stage;
use crate::api::names::{VERSION_ALT_PREFIX, VERSION_PREFIX};

/// The words of a kubelet for a container that it did not get to start: nothing can have migrated to it.
const NOT_STARTED: [&str; 9] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ErrInvalidImageName",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
];

/// The pair of one hot sidecar in one pod.
pub(super) struct Pair<'a> {
    pub(super) hot: &'a Hot<'a>,
    /// `-1` and `-2`.
    pub(super) containers: [&'a Container; 2],
    /// Index of the working one (HOT-2).
    pub(super) working: usize,
    /// `version.…` of the two; absent and garbage is `None`.
    versions: [Option<u64>; 2],
    alternates: [Option<u64>; 2],
}

/// What is to be done with a pair of a pod that is to be updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It has the wanted image, or is about to.
    Nothing,
    /// The container of this index gets the wanted image and is the working one (HOT-5).
    Start(usize),
    /// The working one is emptied and the other one works again (W-4).
    Back,
    /// The upgrade that is under way must end first (W-5).
    Wait,
}

// === impl Pair ===

impl<'a> Pair<'a> {
    pub(super) fn all(view: &View<'a>, sidecars: &'a Sidecars<'a>) -> Vec<Self> {
        if sidecars.hot.is_empty() {
            return Vec::new();
        }
        let working = working(view.pod);
        let pair = |hot: &'a Hot<'a>| {
            let [first, second] = &hot.names;
            let containers = [view.pod.container(first)?, view.pod.container(second)?];
            let is_first = working.get(hot.base).is_some_and(|name| name == first);
            let numbers = |prefix: &str| {
                [first, second].map(|name| view.pod.annotation(&format!("{prefix}{name}"))?.parse::<u64>().ok())
            };
            Some(Self {
                hot,
                containers,
                working: usize::from(!is_first),
                versions: numbers(VERSION_PREFIX),
                alternates: numbers(VERSION_ALT_PREFIX),
            })
        };
        sidecars.hot.iter().filter_map(pair).collect()
    }

    pub(super) fn working(&self) -> &'a Container {
        self.containers[self.working]
    }

    pub(super) fn other(&self) -> &'a Container {
        self.containers[1 - self.working]
    }

    /// Whether the container of this index is the empty one, with whatever image was configured when it was emptied.
    fn is_idle(&self, index: usize) -> bool {
        let has_empty_image = *self.containers[index].image == *self.hot.empty;
        // W-11: a new empty image does not make every pod look as if it were in an upgrade. The version of an emptied
        // container is 0 (HOT-6).
        has_empty_image || (index != self.working && self.versions[index] == Some(0))
    }

    /// HOT-3.
    pub(super) fn is_in_upgrade(&self) -> bool {
        !self.is_idle(1 - self.working)
    }

    /// W-11: whether the idle container has another image than the empty one that is configured now.
    pub(super) fn is_stale(&self) -> bool {
        !self.is_in_upgrade() && *self.other().image != *self.hot.empty
    }

    /// HOT-4 and HOT-5, better where they end in an outage (W-4, W-5).
    pub(super) fn act(&self, view: &View<'_>) -> Act {
        let wanted = self.hot.image;
        let image = |index: usize| &*self.containers[index].image;
        if !self.is_in_upgrade() || self.is_idle(self.working) {
            let target = if *self.containers[0].image == *self.hot.empty {
                0
            } else if *self.containers[1].image == *self.hot.empty {
                1
            } else {
                1 - self.working
            };
            return if image(1 - target) == wanted { Act::Nothing } else { Act::Start(target) };
        }
        let (new, old) = (self.working, 1 - self.working);
        let is_good = |index: usize| view.is_good(self.containers[index]);
        if image(new) == wanted {
            return Act::Nothing;
        }
        match (is_good(new), is_good(old)) {
            // W-5: the old process was told to hand over and would not be restarted; the upgrade ends first.
            (true, _) if image(old) == wanted => Act::Wait,
            // W-4. Had the new one run, or the old one been restarted passive (HOT-24), the old one might not serve: then
            // the new one gets the old image, and takes over as always.
            (false, _) if image(old) == wanted && self.never_ran(view) && !self.old_restarted(view) => Act::Back,
            (false, true) => Act::Start(new),
            // Differs: HOT-4.4 takes the old one even when it runs and is just not ready.
            (false, false) if image(old) == wanted || is_running(self.containers[old]) => Act::Start(new),
            // HOT-4.3 and HOT-4.4.
            (true, _) | (false, false) => Act::Start(old),
        }
    }

    /// Whether the node could not start the working container.
    fn never_ran(&self, view: &View<'_>) -> bool {
        let container = self.working();
        let waits = container.status.as_ref().is_some_and(|status| match &status.state {
            State::Waiting { reason } => NOT_STARTED.contains(&&**reason),
            _ => false,
        });
        waits && view.acted(container) != Acted::Yes && !view.ran_since(container)
    }

    /// Whether the old container was restarted since the upgrade began.
    fn old_restarted(&self, view: &View<'_>) -> bool {
        let Some(status) = &self.other().status else { return true };
        let source = view.recorded(&self.working().name).and_then(|recorded| recorded.source.as_deref());
        match (source, &status.state) {
            (Some(source), State::Running { .. }) => source != &*status.container_id,
            // Begun by the reference: the record has the time of the last write.
            (None, State::Running { since: Some(since) }) => view.written.is_none_or(|written| *since >= written),
            _ => true,
        }
    }

    /// W-17: a version above all that the pod has seen; the set's resourceVersion as long as that is one (HOT-6).
    pub(super) fn next_version(&self, resource_version: &str) -> u64 {
        let seen = self.versions.iter().chain(&self.alternates).flatten().copied().max().unwrap_or(1).max(1);
        resource_version.parse().ok().filter(|version| *version > seen).unwrap_or(seen.saturating_add(1))
    }

    /// The version of a container; of one without, that of injection.
    pub(super) fn version(&self, index: usize) -> u64 {
        self.versions[index].unwrap_or(1)
    }

    /// The container that the target of a starting upgrade takes over from, as it was when the upgrade began.
    pub(super) fn source_id(&self, target: usize, view: &View<'_>) -> Option<String> {
        if target == self.working && self.is_in_upgrade() {
            // The old one may have handed over, or be passive: nothing equals this.
            if view.ran_since(self.working()) || self.old_restarted(view) {
                return Some(String::new());
            }
        }
        self.containers[1 - target].status.as_ref().map(|status| status.container_id.to_string())
    }
}

fn is_running(container: &Container) -> bool {
    container.status.as_ref().is_some_and(|status| matches!(status.state, State::Running { .. }))
}

/// Whether the old containers of a pod's upgrades can be emptied (HOT-9).
pub(super) fn is_migrated(view: &View<'_>, sidecars: &Sidecars<'_>) -> bool {
    if !view.pairs.iter().any(Pair::is_in_upgrade) {
        return false;
    }
    let is_other = |container: &Container| view.pairs.iter().any(|pair| pair.other().name == container.name);
    let is_consistent = sidecars
        .of(view.pod)
        .filter(|container| !is_other(container))
        .all(|container| view.is_consistent_alone(container));
    let all_ready = || {
        let mut containers = view.pod.containers.iter().filter(|container| !is_other(container));
        containers.all(|container| container.status.as_ref().is_none_or(|status| status.is_ready))
    };
    // Whatever the pod says: the container that is to go on alone must work.
    let works = view.pairs.iter().filter(|pair| pair.is_in_upgrade()).all(|pair| view.is_good(pair.working()));
    is_consistent && works && (view.is_ready_itself() || all_ready())
}

/// How far a pod's hot upgrade is, if it is in one (HOT §9.4).
pub(super) fn stage(view: &View<'_>, sidecars: &Sidecars<'_>) -> Option<Stage> {
    if view.pairs.iter().any(Pair::is_in_upgrade) {
        return Some(if is_migrated(view, sidecars) { Stage::Migrated } else { Stage::Upgrading });
    }
    let is_emptying = |pair: &Pair<'_>| view.is_touched && !view.is_consistent_alone(pair.other());
    view.pairs.iter().any(is_emptying).then_some(Stage::Resetting)
}
