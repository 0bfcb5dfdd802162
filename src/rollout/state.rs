//! Updated, consistent, ready: what a pod's records and its node's reports say (CTL-20 … CTL-27), and the text of the
//! in-place state (CTL-23).

use core::time::Duration;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::hot::Pair;
use super::image::{self, Report};
use super::pod::{Container, Phase, Pod, State, Status};
use super::sidecars::Sidecars;
use super::time_text;
use crate::api::{json, names};
use crate::sidecarset::records;

/// How long a node is given to restart a container before what it runs is taken for what it was told to run. It decides
/// only where names cannot: the same content under another tag (W-2).
const SETTLED: Duration = Duration::from_mins(1);

/// One matching pod, with its records read.
#[expect(clippy::struct_excessive_bools, reason = "each is one term of the specification")]
pub(super) struct View<'a> {
    /// Its index in the input.
    pub(super) index: usize,
    pub(super) pod: &'a Pod,
    /// CTL-21.
    pub(super) is_updated: bool,
    /// STR-2.
    pub(super) is_upgradable: bool,
    /// The `hash-without-image` it carries.
    pub(super) without_image: Rc<str>,
    /// CTL-22, of all sidecars.
    pub(super) is_consistent: bool,
    /// CTL-25.
    pub(super) is_ready: bool,
    /// When it was last written, as far as the records say.
    pub(super) written: Option<Timestamp>,
    /// Whether this set ever changed it in place.
    pub(super) is_touched: bool,
    pub(super) pairs: Vec<Pair<'a>>,
    /// The earliest time at which time alone changes something here.
    pub(super) wake: Option<Timestamp>,
    state: InPlace<'a>,
    now: Timestamp,
}

/// The in-place state of one set (CTL-23).
enum InPlace<'a> {
    /// The pod was never updated in place.
    Absent,
    /// It was, by all that can be read.
    Garbage,
    Known(Entries<'a>),
}

/// What was noted, by the name of the container. They are few.
#[derive(Default)]
struct Entries<'a>(Vec<(Cow<'a, str>, Recorded<'a>)>);

/// Records that were read. Pods that were written in the same second have the same texts.
#[derive(Default)]
pub(super) struct Records<'a>(HashMap<&'a str, Record>);

/// What a hash annotation says of the set.
#[derive(Clone)]
struct Record {
    hash: Rc<str>,
    updated: Option<Timestamp>,
}

/// What was noted of a container before its image was changed. The reference writes the first member alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Recorded<'a> {
    #[serde(rename = "imageID", borrow)]
    image_id: Cow<'a, str>,
    /// W-2: what runs afterwards is another container.
    #[serde(rename = "containerID", borrow)]
    container_id: Option<Cow<'a, str>>,
    /// The image of the spec that this container was made of: what comes back to it restarts nothing.
    #[serde(borrow)]
    image: Option<Cow<'a, str>>,
    /// Of the target of a hot upgrade: the container that it takes over from, as it was then (W-4).
    #[serde(rename = "sourceContainerID", borrow)]
    pub(super) source: Option<Cow<'a, str>>,
}

/// Whether a node acted on a change of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acted {
    Yes,
    No,
    /// Not as far as can be told; it is taken for done if nothing changes until then.
    At(Timestamp),
}

// === impl View ===

impl<'a> View<'a> {
    pub(super) fn new(
        index: usize,
        pod: &'a Pod,
        sidecars: &'a Sidecars<'a>,
        records: &mut Records<'a>,
        now: Timestamp,
    ) -> Self {
        let mut read = |key| records.read(pod.annotation(key).unwrap_or_default(), sidecars.set);
        let (record, without_image) = (read(names::HASH), read(names::HASH_WITHOUT_IMAGE).hash);
        let (state, state_written) = InPlace::read(pod.annotation(names::INPLACE_UPDATE_STATE), sidecars.set);
        let is_touched = !matches!(state, InPlace::Absent);
        let mut view = Self {
            index,
            pod,
            is_updated: *record.hash == *sidecars.hashes.full,
            is_upgradable: *without_image == *sidecars.hashes.without_image
                && sidecars.changed_fixed(pod).next().is_none(),
            without_image,
            is_consistent: false,
            is_ready: false,
            // W-9: the reference's state keeps the time of its first update; its record has that of the last.
            written: state_written.max(record.updated.filter(|_| is_touched)),
            is_touched,
            pairs: Vec::new(),
            wake: None,
            state,
            now,
        };
        view.pairs = Pair::all(&view, sidecars);
        view.is_consistent = view.has_statuses();
        for container in sidecars.of(pod) {
            let acted = view.acted(container);
            view.is_consistent &= acted == Acted::Yes;
            if let Acted::At(time) = acted {
                view.wake = Some(view.wake.map_or(time, |wake| wake.min(time)));
            }
        }
        view.is_ready = view.is_ready_itself() && view.pairs.iter().all(|pair| !pair.is_in_upgrade());
        view
    }

    /// Whether the pod says that it is ready.
    pub(super) fn is_ready_itself(&self) -> bool {
        self.pod.phase == Phase::Running && self.pod.is_ready() && !self.pod.is_going_away
    }

    /// CTL-22.1.
    fn has_statuses(&self) -> bool {
        self.pod.containers.len() == self.pod.statuses
    }

    /// CTL-26.
    pub(super) fn counts_ready(&self) -> bool {
        self.is_consistent && self.is_ready
    }

    /// CTL-22 for one container alone.
    pub(super) fn is_consistent_alone(&self, container: &Container) -> bool {
        self.has_statuses() && self.acted(container) == Acted::Yes
    }

    /// HOT-4.3: ready, and what it was told to be.
    pub(super) fn is_good(&self, container: &Container) -> bool {
        container.is_ready() && self.is_consistent_alone(container)
    }

    /// STR-2: the first container that still runs, ready, what an earlier update replaced.
    pub(super) fn unsettled(&self, sidecars: &Sidecars<'_>) -> Option<&'a Container> {
        sidecars.of(self.pod).find(|container| container.is_ready() && !self.is_consistent_alone(container))
    }

    /// What was noted of a container.
    pub(super) fn recorded(&self, container: &str) -> Option<&Recorded<'a>> {
        match &self.state {
            InPlace::Known(entries) => entries.of(container),
            InPlace::Absent | InPlace::Garbage => None,
        }
    }

    /// Whether a container acted on what the reference noted of it. The time of the last write tells so, and the next
    /// write moves that: then there must be no entry any more, which says the same to every reader (CTL-22).
    fn is_through(&self, container: &str) -> bool {
        let is_of_reference = self.recorded(container).is_some_and(|recorded| recorded.container_id.is_none());
        let container = self.pod.container(container).or_else(|| self.pod.init_container(container));
        is_of_reference && container.is_some_and(|container| self.acted(container) == Acted::Yes)
    }

    /// Whether a container was started since its image was last changed here.
    pub(super) fn ran_since(&self, container: &Container) -> bool {
        let (Some(recorded), Some(status)) = (self.recorded(&container.name), &container.status) else { return false };
        match &recorded.container_id {
            Some(old) => !status.container_id.is_empty() && *status.container_id != **old,
            None => *status.image_id != *recorded.image_id,
        }
    }

    /// Whether the node runs what the spec of a container says (CTL-22.2 and CTL-22.4, by what really runs: W-2).
    pub(super) fn acted(&self, container: &Container) -> Acted {
        let recorded = self.recorded(&container.name);
        let is_garbage = matches!(self.state, InPlace::Garbage);
        let Some(status) = &container.status else {
            return if recorded.is_none() && !is_garbage { Acted::Yes } else { Acted::No };
        };
        let is_same = image::report(&container.image, status) == Report::Same;
        let Some(recorded) = recorded else {
            // Never changed here, so it runs what it was created with; a digest can be checked all the same.
            let is_plain = image::digest(&container.image).is_none();
            return if is_same || (is_plain && !is_garbage) { Acted::Yes } else { self.settles(status) };
        };
        match &recorded.container_id {
            // W-2: the same name and content under a new string, or a name that comes back, count with a new container.
            Some(_) => {
                match (self.ran_since(container), is_same) {
                    (true, true) => Acted::Yes,
                    // The same content under another name; or changed back before the node looked, so that there is
                    // nothing to restart.
                    (true, false) | (false, true) => self.settles(status),
                    (false, false) if recorded.image.as_deref() == Some(&*container.image) => self.settles(status),
                    (false, false) => Acted::No,
                }
            }
            // Written by the reference.
            None if is_same => Acted::Yes,
            None => {
                let is_other_content = !recorded.image_id.is_empty() && *recorded.image_id != *status.image_id;
                match (&status.state, self.written) {
                    (State::Running { since: Some(since) }, Some(written)) if *since >= written => self.settles(status),
                    (State::Running { since: Some(_) }, Some(_)) => Acted::No,
                    _ if is_other_content => Acted::Yes,
                    _ => Acted::No,
                }
            }
        }
    }

    /// A container that keeps running this long is what the node takes the spec for.
    fn settles(&self, status: &Status) -> Acted {
        let State::Running { since } = status.state else { return Acted::No };
        let Some(begin) = since.max(self.written) else { return Acted::No };
        match begin.checked_add(SETTLED) {
            Ok(end) if end > self.now => Acted::At(end),
            _ => Acted::Yes,
        }
    }
}

// === impl InPlace ===

impl<'a> InPlace<'a> {
    fn read(text: Option<&'a str>, set: &str) -> (Self, Option<Timestamp>) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Entry<'a> {
            #[serde(borrow)]
            update_timestamp: Option<Cow<'a, str>>,
            #[serde(borrow)]
            last_container_statuses: Option<Entries<'a>>,
        }
        let Some(text) = text else { return (Self::Absent, None) };
        let Ok(entry) = json::member(text, set) else { return (Self::Garbage, None) };
        let Some(entry) = entry else { return (Self::Absent, None) };
        match serde_json::from_str::<Entry<'_>>(entry.get()) {
            Ok(entry) => {
                let written = entry.update_timestamp.and_then(|time| time.parse().ok());
                (Self::Known(entry.last_container_statuses.unwrap_or_default()), written)
            }
            Err(_) => (Self::Garbage, None),
        }
    }
}

// === impl Entries ===

impl<'a> Entries<'a> {
    fn of(&self, container: &str) -> Option<&Recorded<'a>> {
        // Of two with one name the last counts.
        self.0.iter().rev().find(|(name, _)| *name == container).map(|(_, recorded)| recorded)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ToEntries;
        impl<'de> Visitor<'de> for ToEntries {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((json::Text(name), recorded)) = members.next_entry()? {
                    entries.push((name, recorded));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(ToEntries)
    }
}

// === impl Records ===

impl<'a> Records<'a> {
    fn read(&mut self, text: &'a str, set: &str) -> Record {
        let record = self.0.entry(text).or_insert_with(|| {
            let told = records::told(text, set).unwrap_or_default();
            Record { hash: told.hash.into(), updated: told.updated.and_then(|time| time.parse().ok()) }
        });
        record.clone()
    }
}

// === writing ===

/// A container whose image is changed.
pub(super) struct Change<'a> {
    pub(super) container: &'a Container,
    /// See [`Recorded::source`].
    pub(super) source: Option<String>,
}

/// The state of `set` after a write to the pod of `view` (UPD-8). Members that others wrote, and the entries of other
/// containers and sets, keep their texts. `revision` is the set's hash; a write that does not renew the record
/// (`renews`) keeps the one that is there.
pub(super) fn written(
    view: &View<'_>,
    set: &str,
    (revision, renews): (&str, bool),
    changes: &[Change<'_>],
    now: Timestamp,
) -> String {
    type Members = BTreeMap<String, Box<RawValue>>;
    fn members(text: Option<&str>) -> Members {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
    fn print<'m>(members: impl Iterator<Item = (&'m str, &'m str)>) -> String {
        let members: Vec<String> = members.map(|(key, text)| format!("{}:{text}", json::text(&key))).collect();
        format!("{{{}}}", members.join(","))
    }

    let mut sets = members(view.pod.annotation(names::INPLACE_UPDATE_STATE));
    let mut own = members(sets.remove(set).as_deref().map(RawValue::get));
    let old_revision = own.remove("revision").map(|text| String::from(Box::<str>::from(text)));
    let revision = old_revision.filter(|_| !renews).unwrap_or_else(|| json::text(&revision));
    let mut containers: BTreeMap<String, String> =
        members(own.remove("lastContainerStatuses").as_deref().map(RawValue::get))
            .into_iter()
            .map(|(name, text)| (name, text.get().to_owned()))
            .filter(|(name, _)| !view.is_through(name))
            .collect();
    for Change { container, source } in changes {
        let status = container.status.clone().unwrap_or_default();
        let mut entry = Vec::new();
        if !status.image_id.is_empty() {
            entry.push(("imageID", json::text(&&*status.image_id)));
        }
        entry.push(("containerID", json::text(&&*status.container_id)));
        // Changed twice before the node looked: it is still the container of the first time.
        let old = containers.get(&*container.name).and_then(|text| serde_json::from_str::<Recorded<'_>>(text).ok());
        let old = old.filter(|old| old.container_id.as_deref() == Some(&*status.container_id));
        let image = old.and_then(|old| old.image.map(Cow::into_owned)).unwrap_or_else(|| container.image.to_string());
        entry.push(("image", json::text(&image)));
        if let Some(source) = source {
            entry.push(("sourceContainerID", json::text(source)));
        }
        containers.insert(container.name.to_string(), print(entry.iter().map(|(key, text)| (*key, text.as_str()))));
    }
    own.remove("updateTimestamp");
    // W-9: both are refreshed by each write.
    let time = json::text(&time_text(now));
    let containers = print(containers.iter().map(|(key, text)| (key.as_str(), text.as_str())));
    let known = [("revision", &*revision), ("updateTimestamp", &*time), ("lastContainerStatuses", &*containers)];
    let foreign = own.iter().map(|(key, text)| (key.as_str(), text.get()));
    let own = print(known.into_iter().chain(foreign));
    let mut sets: BTreeMap<&str, &str> = sets.iter().map(|(key, text)| (key.as_str(), text.get())).collect();
    sets.insert(set, &own);
    print(sets.into_iter())
}
