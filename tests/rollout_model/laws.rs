//! What must hold of every plan, every write and every end, said a second time and from what pods *are*: nothing here is
//! read by the code that is tested.
//!
//! Which pods count, for a set with N matching pods (CTL-10 … CTL-14) in the manager's copy:
//! - *partition* (STR-7, W-6): a plan leaves at least P pods that are not updated, of those that are not;
//! - *budget* (STR-8 … STR-10): when a plan takes ready pods, these and the pods that are under way are not more than X
//!   together. Under way are pods that are updated and not ready, as their status says, and pods that are updated or
//!   were ever written and do not *run* what their spec asks for (W-2, W-3, W-11, W-13). The latter looks into the node,
//!   so a pod that is taken for complete too early counts; it asks that a node takes less than a minute to see a change,
//!   which it does here. Pods that are not ready are taken freely, as the reference does.

use std::collections::BTreeSet;
use std::fmt;

use outrigger::api::names;
use serde_json::{Value, json};

use crate::hollow::{Node, containers, image_id, name};

/// Name of the annotation with what was noted of containers before they were changed (CTL-23).
pub const STATE: &str = "kruise.io/sidecarset-inplace-update-state";

/// Annotations that are maps, each with an entry for every set or pair.
const MAPS: [&str; 3] = [names::HASH, names::WORKING_CONTAINER, STATE];

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// Every write carries the uid and the resourceVersion of the copy it was decided upon (W-26).
    Guarded,
    /// The API server accepts every write that meets no newer pod.
    Accepted,
    /// STR-7 with W-6.
    Partition,
    /// STR-8 … STR-10, and resets of pods in no upgrade (W-11).
    Budget,
    /// STR-12, STR-13: a set that is paused, of type NotUpdate or does not select a pod updates none.
    Held,
    /// NUP-3: a pod whose other fields differ is not updated.
    Upgradable,
    /// Hot: no write stops the last container of a pair that is ready with a real image, as its status says.
    LastReady,
    /// Hot: no write stops the last container of a pair that serves, by the versions it was started with (W-4, W-5).
    LastServing,
    /// Only what is the set's own changes, in the spec, in annotations and in conditions.
    Foreign,
    /// A write changes something beside a time.
    Useless,
    /// A pod that is up to date is not written.
    UpToDate,
    /// UPD-1: a pod whose record says a hash has the images of it.
    Recorded,
    /// The end is reached, and is the right one.
    Converges,
    /// At the end nothing is written.
    Quiet,
    /// CTL-30: the counts are those of the pods.
    Status,
}

/// A broken law.
#[derive(Clone, Debug)]
pub struct Broken {
    pub law: Law,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.what)
    }
}

pub type Lawful = Result<(), Broken>;

pub fn broken<T>(law: Law, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { law, what: what.into() })
}

fn ensure(holds: bool, law: Law, what: impl FnOnce() -> String) -> Lawful {
    if holds { Ok(()) } else { broken(law, what()) }
}

/// A set as its rules read it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub hash: String,
    pub without_image: String,
    pub sidecars: Vec<Sidecar>,
    /// Neither paused nor NotUpdate.
    pub rolls: bool,
    /// `updateStrategy.selector`, as one label.
    pub selector: Option<(String, String)>,
    pub partition: Value,
    pub max_unavailable: Value,
}

#[derive(Clone, Debug)]
pub struct Sidecar {
    pub name: String,
    pub image: String,
    /// The empty image of a hot one.
    pub empty: Option<String>,
    pub native: bool,
}

/// How far a matching pod is with a set.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Standing<'a> {
    /// Where it is among all.
    pub index: usize,
    pub pod: &'a Value,
    pub updated: bool,
    pub upgradable: bool,
    /// CTL-25.
    pub ready: bool,
    /// By the selector of the strategy.
    pub selected: bool,
    /// It was changed in place at least once.
    pub touched: bool,
}

// === impl Wanted ===

impl Wanted {
    /// From the stored object, v1beta1.
    pub fn read(set: &Value) -> Self {
        let strategy = &set["spec"]["updateStrategy"];
        let sidecar = |native: bool| {
            move |container: &Value| Sidecar {
                name: container["name"].as_str().unwrap().to_owned(),
                image: container["image"].as_str().unwrap().to_owned(),
                empty: container["upgradeStrategy"]["hotUpgradeEmptyImage"].as_str().map(str::to_owned),
                native,
            }
        };
        let list = |list| set["spec"][list].as_array().into_iter().flatten();
        let native = list("initContainers").filter(|container| container["restartPolicy"] == "Always");
        let selector = strategy["selector"]["matchLabels"].as_object().and_then(|labels| labels.iter().next());
        let annotation = |key: &str| set["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned();
        Self {
            name: name(set).to_owned(),
            hash: annotation(names::HASH),
            without_image: annotation(names::HASH_WITHOUT_IMAGE),
            sidecars: list("containers").map(sidecar(false)).chain(native.map(sidecar(true))).collect(),
            rolls: strategy["paused"] != true && strategy["type"] != "NotUpdate",
            selector: selector.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())),
            partition: strategy["partition"].clone(),
            max_unavailable: strategy["maxUnavailable"].clone(),
        }
    }

    /// STR-7: pods to keep.
    pub fn keep(&self, matching: usize) -> usize {
        let n = i64::try_from(matching).unwrap();
        let keep = match &self.partition {
            Value::String(text) => {
                let mut keep = share(text, n);
                if keep >= n && n > 1 && text != "100%" {
                    keep = n - 1;
                }
                keep
            }
            number => number.as_i64().unwrap_or(0),
        };
        usize::try_from(keep.clamp(0, n)).unwrap()
    }

    /// STR-8: ready pods that may be in an update at a time.
    pub fn at_a_time(&self, matching: usize) -> usize {
        let x = match &self.max_unavailable {
            Value::String(text) => share(text, i64::try_from(matching).unwrap()),
            Value::Null => 1,
            number => number.as_i64().unwrap_or(0),
        };
        usize::try_from(x.max(0)).unwrap()
    }

    /// CTL-11 … CTL-13. Labels are the same for all pods here.
    pub fn matches(&self, pod: &Value) -> bool {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let injected = pod["metadata"]["annotations"][names::INJECTED_LIST].as_str().unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null()
            && phase != "Succeeded"
            && phase != "Failed"
            && injected.split(',').any(|name| name == self.name)
            && self.sidecars.iter().filter(|sidecar| !sidecar.native).all(|sidecar| {
                let has = |name: &str| image(pod, name).is_some();
                match sidecar.empty {
                    None => has(&sidecar.name),
                    Some(_) => ["1", "2"].iter().all(|n| has(&format!("{}-{n}", sidecar.name))),
                }
            })
    }

    pub fn judge<'a>(&self, pods: &[&'a Value]) -> Vec<Standing<'a>> {
        let matching = pods.iter().enumerate().filter(|(_, pod)| self.matches(pod));
        matching.map(|(index, pod)| Standing { index, ..self.standing(pod) }).collect()
    }

    pub fn standing<'a>(&self, pod: &'a Value) -> Standing<'a> {
        let has = |key: &str, hash: &str| entry(pod, key, &self.name)["hash"].as_str().unwrap_or_default() == hash;
        let labels = &pod["metadata"]["labels"];
        Standing {
            index: 0,
            pod,
            updated: has(names::HASH, &self.hash),
            upgradable: has(names::HASH_WITHOUT_IMAGE, &self.without_image),
            ready: pod["status"]["phase"] == "Running" && is_ready(pod) && self.is_steady(pod),
            selected: self.selector.as_ref().is_none_or(|(key, value)| labels[key.as_str()] == *value),
            touched: !pod["metadata"]["annotations"][STATE].is_null() && entry(pod, STATE, &self.name).is_object(),
        }
    }

    /// Whether no pair is in an upgrade (HOT-3): the other container is empty, if only by an earlier empty image (W-11).
    fn is_steady(&self, pod: &Value) -> bool {
        self.others(pod).all(|(other, empty)| image(pod, &other) == Some(empty) || is_empty(pod, &other))
    }

    /// Whether every other container has the empty image that is configured now.
    pub fn is_emptied(&self, pod: &Value) -> bool {
        self.others(pod).all(|(other, empty)| image(pod, &other) == Some(empty))
    }

    /// The other container of every pair, and what it should have.
    fn others<'a>(&'a self, pod: &'a Value) -> impl Iterator<Item = (String, &'a String)> {
        let hot = self.sidecars.iter().filter_map(|sidecar| Some((sidecar, sidecar.empty.as_ref()?)));
        hot.map(|(sidecar, empty)| (pair(pod, &sidecar.name).1, empty))
    }

    /// Whether the pod has the images of this set.
    pub fn has_images(&self, pod: &Value) -> bool {
        self.sidecars.iter().all(|sidecar| {
            let working = match sidecar.empty {
                None => sidecar.name.clone(),
                Some(_) => pair(pod, &sidecar.name).0,
            };
            image(pod, &working) == Some(&sidecar.image)
        })
    }

    /// The containers of a pod that are this set's.
    fn own(&self) -> BTreeSet<String> {
        let names = |sidecar: &Sidecar| match sidecar.empty {
            None => vec![sidecar.name.clone()],
            Some(_) => vec![format!("{}-1", sidecar.name), format!("{}-2", sidecar.name)],
        };
        self.sidecars.iter().flat_map(names).collect()
    }

    /// Whether a sidecar of the pod does not run yet what its spec asks for.
    fn is_behind(&self, pod: &Value, node: &Node) -> bool {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        // One that is gone is in nobody's way.
        node.knows(uid)
            && self.own().iter().any(|name| image(pod, name).is_some_and(|image| node.is_behind(uid, name, image)))
    }

    // === laws ===

    /// Of a plan, before any of it is done. `pods` are the manager's copies; `written` those of them that the plan writes,
    /// and `updates` those of these that would become updated.
    pub fn of_plan(&self, pods: &[Standing<'_>], written: &[usize], updates: &[usize], node: Option<&Node>) -> Lawful {
        if written.is_empty() {
            return Ok(());
        }
        for index in updates {
            let Some(pod) = pods.iter().find(|pod| pod.index == *index) else {
                return broken(Law::Held, format!("pod {index} of {} would be updated, but does not match", self.name));
            };
            let why = || format!("{} would be updated by {}", name(pod.pod), self.name);
            ensure(self.rolls && pod.selected, Law::Held, why)?;
            ensure(pod.upgradable, Law::Upgradable, why)?;
        }
        let old = pods.iter().filter(|pod| !pod.updated).count();
        let keep = self.keep(pods.len());
        ensure(updates.len() <= old.saturating_sub(keep), Law::Partition, || {
            format!("{} of {old} old pods would be updated, {keep} of {} must stay", updates.len(), pods.len())
        })?;
        // One that is reset is in an upgrade, and so is not ready.
        let is_taken = |pod: &&Standing<'_>| pod.ready && written.contains(&pod.index);
        let is_used = |pod: &&Standing<'_>| {
            let is_behind = || node.is_some_and(|node| self.is_behind(pod.pod, node));
            pod.updated && !pod.ready || (pod.updated || pod.touched) && is_behind()
        };
        let taken: Vec<&str> = pods.iter().filter(is_taken).map(|pod| name(pod.pod)).collect();
        let used: Vec<&str> = pods.iter().filter(is_used).map(|pod| name(pod.pod)).collect();
        let at_a_time = self.at_a_time(pods.len());
        ensure(taken.is_empty() || used.len() + taken.len() <= at_a_time, Law::Budget, || {
            format!("{taken:?} are ready and would be taken, {used:?} are under way; {at_a_time} may be")
        })
    }

    /// Of a write to a pod, just done. `seen` are the pods that the manager knew when it decided.
    pub fn of_write(&self, write: &Written, node: &Node) -> Lawful {
        let Written { before, after, status } = *write;
        let who = name(after);
        ensure(strip_times(before) != strip_times(after), Law::Useless, || format!("{who} is written as it was"))?;
        self.foreign(write)?;
        if status {
            return Ok(());
        }
        let up_to_date = self.standing(before).updated && self.has_images(before) && self.is_emptied(before);
        ensure(!up_to_date, Law::UpToDate, || format!("{who} is written"))?;
        ensure(!self.standing(after).updated || self.has_images(after), Law::Recorded, || {
            format!("{who} is recorded as updated with other images")
        })?;
        self.hot(before, after, node)
    }

    /// The hot laws.
    fn hot(&self, before: &Value, after: &Value, node: &Node) -> Lawful {
        let uid = before["metadata"]["uid"].as_str().unwrap();
        for sidecar in self.sidecars.iter().filter(|sidecar| sidecar.empty.is_some()) {
            let both = ["1", "2"].map(|n| format!("{}-{n}", sidecar.name));
            let stays = |name: &String| image(before, name) == image(after, name);
            let ready = |name: &&String| {
                let status = status_of(before, name);
                let real = image(before, name).filter(|_| !is_empty(before, name));
                status["ready"] == true && real.is_some_and(|image| status["imageID"] == image_id(image))
            };
            let standing: Vec<&String> = both.iter().filter(ready).collect();
            ensure(standing.is_empty() || standing.iter().any(|name| stays(name)), Law::LastReady, || {
                format!("{}: {standing:?} ready, and all of these are stopped", name(before))
            })?;
            // What its status does not say yet nobody can know; what a crash has begun no write can end.
            let serving: Vec<String> = node.serving(uid, &sidecar.name).collect();
            let known = serving.iter().any(|name| status_of(before, name)["ready"] == true);
            let lost = known && !serving.iter().any(stays);
            ensure(!lost || node.is_disturbed(uid, &sidecar.name), Law::LastServing, || {
                format!("{}: {serving:?} serve, and all of these are stopped", name(before))
            })?;
        }
        Ok(())
    }

    /// Nothing of anybody else has changed.
    fn foreign(&self, write: &Written) -> Lawful {
        let Written { before, after, status } = *write;
        let mine = |what: &str| format!("{} of {} has changed {what}", self.name, name(after));
        let own = self.own();
        for (old, new) in all_containers(before).zip(all_containers(after)) {
            let is_own = own.contains(old["name"].as_str().unwrap_or_default());
            ensure(old == new || is_own, Law::Foreign, || mine(&format!("container {}", old["name"])))?;
        }
        let [old, new] = [before, after].map(|pod| without(pod, &["resourceVersion", "annotations"]));
        ensure(old["metadata"] == new["metadata"], Law::Foreign, || mine("metadata"))?;
        if status {
            let foreign = |pod: &Value| {
                let mut status = pod["status"].clone();
                let conditions = status["conditions"].as_array().cloned().unwrap_or_default().into_iter();
                status["conditions"] =
                    conditions.filter(|condition| condition["type"] != "SidecarSetUpgradable").collect();
                status
            };
            ensure(foreign(before) == foreign(after), Law::Foreign, || mine("status"))?;
            let injected = before["metadata"]["annotations"][names::INJECTED_LIST].as_str().unwrap_or_default();
            for set in injected.split(',').filter(|set| *set != self.name) {
                let [old, new] = [before, after].map(|pod| upgradable(pod)[set].clone());
                ensure(old == new, Law::Foreign, || mine(&format!("the word of {set}")))?;
            }
        }
        let [old, new] =
            [before, after].map(|pod| pod["metadata"]["annotations"].as_object().cloned().unwrap_or_default());
        for key in old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)) {
            let container = key.strip_prefix(names::VERSION_PREFIX).or(key.strip_prefix(names::VERSION_ALT_PREFIX));
            if container.is_some_and(|container| own.contains(container)) {
                continue;
            }
            let is_mine = |entry: &str| match key.as_str() {
                names::WORKING_CONTAINER => self.sidecars.iter().any(|sidecar| sidecar.name == entry),
                _ => entry == self.name,
            };
            ensure(MAPS.contains(&key.as_str()), Law::Foreign, || mine(key))?;
            let [old, new] = [&old, &new].map(|annotations| {
                let text = annotations.get(key).and_then(Value::as_str).unwrap_or("{}");
                serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!({}))
            });
            let entries =
                [&old, &new].into_iter().flat_map(|map| map.as_object().into_iter().flat_map(|map| map.keys()));
            for entry in entries.filter(|entry| !is_mine(entry)) {
                ensure(old[entry] == new[entry], Law::Foreign, || mine(&format!("{key} of {entry}")))?;
            }
        }
        Ok(())
    }

    /// Of the end: everything that may be updated is, and is well.
    pub fn of_end(&self, pods: &[&Value], node: &Node) -> Lawful {
        let all = self.judge(pods);
        let keep = self.keep(all.len());
        let old: Vec<&str> = all.iter().filter(|pod| !pod.updated).map(|pod| name(pod.pod)).collect();
        let stuck = all.iter().filter(|pod| !pod.updated && !pod.upgradable).count();
        let may_be = keep.max(stuck);
        ensure(old.len() <= may_be, Law::Converges, || {
            format!("{old:?} of {} are old; {may_be} of {} may be", self.name, all.len())
        })?;
        let stale = all.iter().filter(|pod| !self.is_emptied(pod.pod)).count();
        ensure(stale <= keep, Law::Converges, || format!("{stale} pods of {} have an old empty image", self.name))?;
        for Standing { pod, updated, upgradable: can, ready, .. } in all {
            let who = name(pod);
            ensure(ready, Law::Converges, || format!("{who} of {} is not ready", self.name))?;
            ensure(!updated || self.has_images(pod), Law::Converges, || format!("{who} has other images"))?;
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            for sidecar in self.sidecars.iter().filter(|sidecar| sidecar.empty.is_some()) {
                let served = node.serving(uid, &sidecar.name).next().is_some() || node.is_disturbed(uid, &sidecar.name);
                ensure(served, Law::LastServing, || format!("nobody serves {} in {who}", sidecar.name))?;
            }
            let word = &upgradable(pod)[&self.name];
            let is_blocked = !updated && !can;
            // Pods that nobody looks at keep their word.
            let right = if is_blocked { *word == false || !self.rolls } else { *word != false };
            ensure(right, Law::Converges, || format!("{who} says {word} of {}, blocked is {is_blocked}", self.name))?;
        }
        Ok(())
    }
}

/// A write and what became of it.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    pub before: &'a Value,
    pub after: &'a Value,
    /// Of the status, not of the pod.
    pub status: bool,
}

// === pods ===

/// STR-7, STR-8: rounded up.
fn share(percent: &str, of: i64) -> i64 {
    let percent: i64 = percent.trim_end_matches('%').parse().unwrap();
    (percent * of + 99) / 100
}

fn all_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}

/// The image that the spec of a pod asks for.
pub fn image<'a>(pod: &'a Value, container: &str) -> Option<&'a String> {
    let container = containers(pod).find(|other| other["name"] == container)?;
    match &container["image"] {
        Value::String(image) => Some(image),
        _ => None,
    }
}

/// The working and the other container of a pair (HOT-2).
pub fn pair(pod: &Value, base: &str) -> (String, String) {
    let [first, second] = ["1", "2"].map(|n| format!("{base}-{n}"));
    let text = pod["metadata"]["annotations"][names::WORKING_CONTAINER].as_str().unwrap_or_default();
    let working: Value = serde_json::from_str(text).unwrap_or_default();
    if working[base] == first { (first, second) } else { (second, first) }
}

/// HOT-6: its own version is 0.
fn is_empty(pod: &Value, container: &str) -> bool {
    pod["metadata"]["annotations"][format!("{}{container}", names::VERSION_PREFIX)] == "0"
}

/// The entry of a set in an annotation that is a map.
pub fn entry(pod: &Value, key: &str, set: &str) -> Value {
    let text = pod["metadata"]["annotations"][key].as_str().unwrap_or_default();
    let mut map: Value = serde_json::from_str(text).unwrap_or_default();
    map[set].take()
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// What the condition says of each set (NUP-4).
pub fn upgradable(pod: &Value) -> Value {
    let text = condition(pod, "SidecarSetUpgradable")["message"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn status_of<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let all = ["containerStatuses", "initContainerStatuses"].into_iter();
    let mut all = all.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

fn without(pod: &Value, members: &[&str]) -> Value {
    let mut pod = json!({"metadata": pod["metadata"], "status": pod["status"]});
    for member in members {
        pod["metadata"].as_object_mut().map(|metadata| metadata.remove(*member));
    }
    pod
}

/// A pod without resourceVersion and without the times of records and conditions.
fn strip_times(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["resourceVersion"] = Value::Null;
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        for text in annotations.values_mut() {
            let Some(Ok(mut map)) =
                text.as_str().filter(|text| text.starts_with('{')).map(serde_json::from_str::<Value>)
            else {
                continue;
            };
            for entry in map.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
                entry.as_object_mut().map(|entry| entry.remove("updateTimestamp"));
            }
            *text = map;
        }
    }
    for condition in pod["status"]["conditions"].as_array_mut().into_iter().flatten() {
        condition.as_object_mut().map(|condition| condition.remove("lastTransitionTime"));
    }
    pod
}
