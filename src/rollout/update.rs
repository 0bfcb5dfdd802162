//! What is written to a pod: one patch with images and annotations together (UPD-1 … UPD-9, HOT-5, HOT-10).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::hot::{Act, Pair};
use super::pod::{Container, Pod, is_record};
use super::sidecars::{List, Sidecars};
use super::state::{self, Change, View};
use super::{About, Event, Input, Step, Subresource, Write, time_text};
use crate::api::names;
use crate::api::sidecarset::PatchPodMetadata;
use crate::facts::PatchOutcome;
use crate::sidecarset::{metadata, records};

/// A write that is being put together.
struct Draft<'a> {
    pod: &'a Pod,
    images: Vec<(List, &'a str, &'a str)>,
    annotations: BTreeMap<String, String>,
    changes: Vec<Change<'a>>,
    events: Vec<Event>,
}

/// Brings a pod up to date (UPD). The pod must not wait for the end of a hot upgrade ([`Act::Wait`]).
pub(super) fn update(view: &View<'_>, sidecars: &Sidecars<'_>, input: &Input<'_>) -> Write {
    let mut draft = Draft::new(view.pod);
    let mut step = Step::Update;
    // UPD-2; W-26: nothing but the image is said of a container.
    for cold in &sidecars.cold {
        if let Some(container) = cold.of(view.pod)
            && *container.image != *cold.image
        {
            draft.set_image(cold.list, container, cold.image, None);
        }
    }
    for pair in &view.pairs {
        match pair.act(view) {
            Act::Nothing | Act::Wait => {}
            Act::Start(target) => {
                draft.start(pair, target, view, input.resource_version);
                step = Step::HotStart;
            }
            Act::Back => {
                draft.take_back(pair);
                if step == Step::Update {
                    step = Step::HotBack;
                }
            }
        }
    }
    draft.patch_metadata(&input.set.spec.patch_pod_metadata, view.index);
    let now = time_text(input.now);
    draft.set(names::HASH, records::renewed(view.pod.annotation(names::HASH), sidecars.set, &sidecars.record, &now));
    // UPD-7. Its entries are equal by STR-2.
    if let Some(text) = view.pod.annotation(names::HASH_WITHOUT_IMAGE).and_then(records::modernised) {
        draft.set(names::HASH_WITHOUT_IMAGE, text);
    }
    draft.finish(view, step, sidecars, input.now)
}

/// Empties the old containers of a pod's hot upgrades (HOT-10).
pub(super) fn reset(view: &View<'_>, sidecars: &Sidecars<'_>, input: &Input<'_>) -> Write {
    let mut draft = Draft::new(view.pod);
    for pair in view.pairs.iter().filter(|pair| pair.is_in_upgrade()) {
        draft.empty(pair);
        draft.set(format!("{}{}", names::VERSION_PREFIX, pair.other().name), "0".to_owned());
        draft.set(format!("{}{}", names::VERSION_ALT_PREFIX, pair.working().name), "0".to_owned());
    }
    draft.events.push(Event {
        about: About::Pod(view.index),
        is_warning: false,
        reason: "ResetContainerSucceed",
        message: "reset sidecar container image empty successfully".to_owned(),
    });
    draft.finish(view, Step::Reset, sidecars, input.now)
}

/// Gives idle containers the empty image that is configured now (W-11).
pub(super) fn refresh(view: &View<'_>, sidecars: &Sidecars<'_>, input: &Input<'_>) -> Write {
    let mut draft = Draft::new(view.pod);
    view.pairs.iter().filter(|pair| pair.is_stale()).for_each(|pair| draft.empty(pair));
    draft.finish(view, Step::Refresh, sidecars, input.now)
}

/// A patch that is conditional on the copy of the pod that was decided upon.
pub(super) fn conditional(pod: &Pod, mut patch: Map<String, Value>, annotations: &BTreeMap<String, String>) -> Value {
    let mut metadata = json!({"uid": pod.uid, "resourceVersion": pod.resource_version});
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    patch.insert("metadata".to_owned(), metadata);
    Value::Object(patch)
}

// === impl Draft ===

impl<'a> Draft<'a> {
    fn new(pod: &'a Pod) -> Self {
        Self { pod, images: Vec::new(), annotations: BTreeMap::new(), changes: Vec::new(), events: Vec::new() }
    }

    fn set(&mut self, key: impl Into<String>, value: String) {
        self.annotations.insert(key.into(), value);
    }

    /// The value that an annotation has so far.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str).or_else(|| self.pod.annotation(key))
    }

    fn set_image(&mut self, list: List, container: &'a Container, image: &'a str, source: Option<String>) {
        self.images.push((list, &container.name, image));
        self.changes.push(Change { container, source });
    }

    /// HOT-5.
    fn start(&mut self, pair: &Pair<'a>, target: usize, view: &View<'_>, resource_version: &str) {
        let version = pair.next_version(resource_version).to_string();
        let [new, old] = [target, 1 - target].map(|index| pair.containers[index]);
        self.set_image(List::Containers, new, pair.hot.image, pair.source_id(target, view));
        let working = records::working(self.annotation(names::WORKING_CONTAINER), pair.hot.base, &new.name);
        self.set(names::WORKING_CONTAINER, working);
        self.set(format!("{}{}", names::VERSION_PREFIX, new.name), version.clone());
        self.set(format!("{}{}", names::VERSION_ALT_PREFIX, new.name), pair.version(1 - target).to_string());
        self.set(format!("{}{}", names::VERSION_ALT_PREFIX, old.name), version);
    }

    /// W-4: the old container works on, as after an upgrade.
    fn take_back(&mut self, pair: &Pair<'a>) {
        let (new, old) = (pair.working(), pair.other());
        self.set_image(List::Containers, new, pair.hot.empty, None);
        let working = records::working(self.annotation(names::WORKING_CONTAINER), pair.hot.base, &old.name);
        self.set(names::WORKING_CONTAINER, working);
        self.set(format!("{}{}", names::VERSION_PREFIX, new.name), "0".to_owned());
        self.set(format!("{}{}", names::VERSION_ALT_PREFIX, new.name), pair.version(1 - pair.working).to_string());
        self.set(format!("{}{}", names::VERSION_ALT_PREFIX, old.name), "0".to_owned());
    }

    fn empty(&mut self, pair: &Pair<'a>) {
        self.set_image(List::Containers, pair.other(), pair.hot.empty, None);
    }

    /// UPD-9. Records cannot be overwritten (ANN-8).
    fn patch_metadata(&mut self, patches: &[PatchPodMetadata], index: usize) {
        for patch in patches {
            for (key, value) in patch.annotations.iter().filter(|(key, _)| !is_record(key)) {
                let (new, outcome) = metadata::patch_one(&patch.patch_policy, self.annotation(key), value);
                // W-20: the rest of the update goes on.
                if let PatchOutcome::Unmergeable(why) = outcome {
                    self.events.push(Event {
                        about: About::Pod(index),
                        is_warning: true,
                        reason: "PodMetadataNotPatched",
                        message: format!("annotation {key} is left as it is: {why}"),
                    });
                }
                if let Some(new) = new.map(std::borrow::Cow::into_owned) {
                    self.set(key, new);
                }
            }
        }
    }

    fn finish(mut self, view: &View<'_>, step: Step, sidecars: &Sidecars<'_>, now: Timestamp) -> Write {
        let renews = !matches!(step, Step::Reset | Step::Refresh);
        let state = state::written(view, sidecars.set, (&sidecars.hashes.full, renews), &self.changes, now);
        self.set(names::INPLACE_UPDATE_STATE, state);
        let pod = self.pod;
        self.annotations.retain(|key, value| pod.annotation(key) != Some(value));
        let mut spec = Map::new();
        for (list, name, image) in &self.images {
            let list = match list {
                List::Containers => "containers",
                List::InitContainers => "initContainers",
            };
            let containers = spec.entry(list).or_insert_with(|| json!([]));
            if let Value::Array(containers) = containers {
                containers.push(json!({"name": name, "image": image}));
            }
        }
        let mut patch = Map::new();
        if !spec.is_empty() {
            patch.insert("spec".to_owned(), Value::Object(spec));
        }
        let patch = conditional(pod, patch, &self.annotations);
        Write { pod: view.index, step, subresource: Subresource::None, patch, events: self.events }
    }
}
