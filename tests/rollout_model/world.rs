//! A cluster in which everything happens in a random order, and a manager in it that works by the code under test.
//!
//! Each step draws from a generator of its own, made of the seed and the number of the step: a step that is left out
//! changes no other, so a failure can be cut down to the steps that matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use outrigger::api::names;
use outrigger::api::sidecarset::SidecarSet;
use outrigger::rollout::pod::Pod;
use outrigger::sidecarset::admit::Stored;
use outrigger::sidecarset::revision::revision_name;
use serde_json::{Value, json};

use crate::hollow::{self, Node, Refused, Store, by_digest, containers, name};
use crate::laws::{Broken, Law, Lawful, STATE, Standing, Wanted, Written, broken, entry};

const NAMESPACE: &str = "shop";
const EMPTY: &str = "registry.example/empty:1";
/// Rounds until everything must have come to rest, for each pod and beside.
const ROUNDS: usize = 12;
const ROUNDS_A_POD: usize = 12;

/// What the manager looks at when it plans.
pub struct Look<'a> {
    pub set: &'a SidecarSet,
    pub version: &'a str,
    pub generation: i64,
    pub revision: &'a str,
    pub pods: &'a [Arc<Pod>],
    /// The same pods, as JSON.
    pub raw: &'a [&'a Value],
    pub held: &'a dyn Fn(&str) -> bool,
    pub now: Timestamp,
    /// Whether anybody reads the verdicts.
    pub traced: bool,
}

/// What it means to write.
pub struct Act {
    pub pod: usize,
    pub status: bool,
    pub patch: Value,
}

/// What a plan says.
pub struct Planned {
    pub acts: Vec<Act>,
    /// matched, updated, ready, updatedReady.
    pub counts: [i32; 4],
    /// Index of a pod, and why it is where it is.
    pub verdicts: Vec<(usize, String)>,
}

pub type Planner = dyn Fn(&Look<'_>) -> Planned + Sync;

/// What a sequence is made of.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub seed: u64,
    pub steps: usize,
    pub skip: BTreeSet<usize>,
    pub traced: bool,
}

impl Script {
    /// Whether pods are found as the reference leaves them: it notes less of what it changes (CTL-23).
    fn as_reference(&self) -> bool {
        self.seed % 8 == 7
    }
}

/// A SidecarSet in the cluster.
struct Set {
    shape: Shape,
    style: Style,
    /// What its user wrote: versions of the images, the other fields, the strategy.
    versions: Vec<&'static str>,
    previous: Vec<&'static str>,
    env: u8,
    empty: &'static str,
    strategy: Value,
    typed: SidecarSet,
    stored: Value,
    wanted: Wanted,
    /// The counts of the last plan.
    told: [i32; 4],
    generation: i64,
    version: String,
    revision: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Cold,
    TwoCold,
    Hot,
    Mixed,
    TwoHot,
    Native,
}

/// How images are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Full,
    Short,
    Digest,
}

pub struct World<'p> {
    planner: &'p Planner,
    store: Store,
    node: Node,
    sets: Vec<Set>,
    /// The manager's copies.
    seen: BTreeMap<String, (Arc<Value>, Arc<Pod>)>,
    held: BTreeSet<String>,
    now: Timestamp,
    pods_made: usize,
    as_reference: bool,
    trace: Option<Vec<String>>,
}

/// Runs a sequence to its end.
pub fn run(script: &Script, planner: &Planner) -> Result<(), (Broken, Vec<String>)> {
    let mut world = World::new(script, planner);
    let outcome = world.all_steps(script);
    outcome.map_err(|broken| (broken, world.trace.unwrap_or_default()))
}

macro_rules! told {
    ($world:expr, $($what:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!($($what)*));
        }
    };
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

impl<'p> World<'p> {
    fn new(script: &Script, planner: &'p Planner) -> Self {
        let mut rng = Rng::with_seed(script.seed);
        let mut world = Self {
            planner,
            store: Store::default(),
            node: Node::default(),
            sets: Vec::new(),
            seen: BTreeMap::new(),
            held: BTreeSet::new(),
            now: "2026-03-04T05:06:07Z".parse().unwrap(),
            pods_made: 0,
            as_reference: script.as_reference(),
            trace: script.traced.then(Vec::new),
        };
        let count = if rng.u8(..3) == 0 { 2 } else { 1 };
        for n in 0..count {
            let set = Set::new(n, &mut rng, &mut world.store);
            told!(world, "set {}: {:?} {:?} {}", set.wanted.name, set.shape, set.style, set.strategy);
            world.sets.push(set);
        }
        for _ in 0..pick(&mut rng, &[2, 2, 3, 3, 4, 5]) {
            let name = format!("p{}", world.store.pods.len());
            world.create(&name, rng.bool());
        }
        // Most begin in order, some do not.
        if rng.u8(..4) != 0 {
            world.kubelets_run();
        }
        world.list();
        world
    }

    fn all_steps(&mut self, script: &Script) -> Lawful {
        for step in (0..script.steps).filter(|step| !script.skip.contains(step)) {
            let mut rng = Rng::with_seed(script.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            told!(self, "-- step {step}");
            self.step(&mut rng)?;
        }
        self.settle()
    }

    // === what happens ===

    fn step(&mut self, rng: &mut Rng) -> Lawful {
        self.now += SignedDuration::from_secs(i64::from(rng.u8(..3)));
        match rng.u8(..100) {
            0..30 => {
                for _ in 0..rng.u8(1..6) {
                    self.kubelet_step(rng);
                }
            }
            30..40 => self.publish(rng),
            40..48 => self.deliver(rng),
            48..70 => {
                let set = rng.usize(..self.sets.len());
                self.reconcile(set, Some(rng))?;
            }
            70..84 => self.edit(rng),
            84..88 => self.hurt(rng, true),
            88..92 => self.hurt(rng, false),
            92..95 => self.registry(rng),
            95..97 => self.recreate(rng),
            97 => {
                self.held = self.store.pods.keys().filter(|_| rng.bool()).cloned().collect();
                told!(self, "back-off of {:?}", self.held);
            }
            98 => {
                let pod = self.any_pod(rng);
                self.store.touch(&pod);
                told!(self, "somebody labels {pod}");
            }
            _ => {
                told!(self, "the manager is killed");
                self.list();
            }
        }
        Ok(())
    }

    fn any_pod(&self, rng: &mut Rng) -> String {
        self.store.pods.keys().nth(rng.usize(..self.store.pods.len())).unwrap().clone()
    }

    fn kubelet_step(&mut self, rng: &mut Rng) {
        let pod = self.any_pod(rng);
        let draw = rng.usize(..);
        if let Some(did) = self.node.step(&self.store.pods[&pod], self.now, |count| draw % count) {
            told!(self, "kubelet of {pod}: {did}");
            if rng.bool() {
                self.publish_of(&pod);
            }
        }
    }

    fn publish(&mut self, rng: &mut Rng) {
        let pod = self.any_pod(rng);
        self.publish_of(&pod);
    }

    fn publish_of(&mut self, pod: &str) {
        if !self.node.has_news(&self.store.pods[pod]) {
            return;
        }
        let status = self.node.status(&self.store.pods[pod], self.now);
        if status.is_some_and(|status| self.store.publish(pod, status)) {
            told!(self, "kubelet of {pod}: published");
        }
    }

    fn kubelets_run(&mut self) {
        let names: Vec<String> = self.store.pods.keys().cloned().collect();
        for name in names {
            if !self.node.is_at_rest(&self.store.pods[&name]) {
                told!(self, "kubelet of {name}: does all that is to be done");
                self.node.run(&self.store.pods[&name], self.now);
            }
            self.publish_of(&name);
        }
    }

    /// One event reaches the manager.
    fn deliver(&mut self, rng: &mut Rng) {
        let pod = self.any_pod(rng);
        told!(self, "the manager hears of {pod}");
        self.see(&pod);
    }

    fn see(&mut self, pod: &str) {
        match self.store.pods.get(pod) {
            Some(now) => {
                if self.seen.get(pod).is_none_or(|(seen, _)| !Arc::ptr_eq(seen, now)) {
                    let read = Pod::read(now).unwrap_or_else(|error| panic!("{pod} cannot be read: {error}"));
                    self.seen.insert(pod.to_owned(), (Arc::clone(now), Arc::new(read)));
                }
            }
            None => {
                self.seen.remove(pod);
            }
        }
    }

    /// All events reach the manager, or it starts anew.
    fn list(&mut self) {
        let names: BTreeSet<String> = self.store.pods.keys().chain(self.seen.keys()).cloned().collect();
        for name in names {
            self.see(&name);
        }
    }

    fn edit(&mut self, rng: &mut Rng) {
        let which = rng.usize(..self.sets.len());
        let set = &mut self.sets[which];
        match rng.u8(..14) {
            0..6 => {
                set.previous.clone_from(&set.versions);
                let n = rng.usize(..set.versions.len());
                set.versions[n] = pick(rng, &["1", "2", "3", "1-again"]);
            }
            6..8 => std::mem::swap(&mut set.previous, &mut set.versions),
            8 => set.env = rng.u8(..2),
            9 => set.empty = pick(rng, &[EMPTY, EMPTY, "registry.example/empty:2"]),
            10 => set.strategy["paused"] = rng.bool().into(),
            11 => {
                let partition = pick(rng, &["0", "1", "2", "\"30%\"", "\"50%\"", "\"100%\"", "\"90%\""]);
                set.strategy["partition"] = serde_json::from_str(partition).unwrap();
                set.strategy.as_object_mut().unwrap().remove("selector");
            }
            12 => {
                let most = pick(rng, &["0", "1", "1", "2", "\"20%\"", "\"50%\"", "\"100%\""]);
                set.strategy["maxUnavailable"] = serde_json::from_str(most).unwrap();
            }
            _ => {
                set.strategy["selector"] = json!({"matchLabels": {"track": "canary"}});
                set.strategy["partition"] = json!(0);
            }
        }
        self.put(which);
    }

    fn put(&mut self, which: usize) {
        let set = &mut self.sets[which];
        set.put(&mut self.store);
        let Set { versions, env, empty, strategy, wanted, .. } = &self.sets[which];
        told!(self, "user: {} is {versions:?} env {env} {empty} {strategy}, hash {:.6}", wanted.name, wanted.hash);
    }

    fn hurt(&mut self, rng: &mut Rng, crash: bool) {
        let pod = self.any_pod(rng);
        let pod = Arc::clone(&self.store.pods[&pod]);
        let all: Vec<&str> = containers(&pod).filter_map(|container| container["name"].as_str()).collect();
        let container = pick(rng, &all).to_owned();
        let (who, uid) = (name(&pod).to_owned(), pod["metadata"]["uid"].as_str().unwrap().to_owned());
        if crash {
            if self.node.crash(&uid, &container) {
                told!(self, "{container} of {who} crashes");
            }
        } else {
            let unwell = rng.u8(..3) > 0;
            self.node.set_unwell(&uid, &container, unwell);
            told!(self, "{container} of {who} is {}", if unwell { "unwell" } else { "well again" });
        }
    }

    fn registry(&mut self, rng: &mut Rng) {
        let set = &self.sets[rng.usize(..self.sets.len())];
        let n = rng.usize(..set.versions.len());
        let image = set.image(n, pick(rng, &["1", "2", "3", set.versions[n]]));
        if self.node.broken.remove(&image) {
            told!(self, "{image} can be pulled again");
        } else {
            told!(self, "{image} cannot be pulled any more");
            self.node.broken.insert(image);
        }
    }

    fn recreate(&mut self, rng: &mut Rng) {
        let pod = self.any_pod(rng);
        let old = self.store.pods.remove(&pod).unwrap();
        self.node.forget(old["metadata"]["uid"].as_str().unwrap());
        told!(self, "{pod} is deleted and made again");
        self.create(&pod, rng.bool());
    }

    fn create(&mut self, name: &str, canary: bool) {
        thread_local! {
            static ADMITTED: RefCell<HashMap<String, Value>> = RefCell::default();
        }
        let sets: Vec<Value> = self
            .sets
            .iter()
            .map(|set| {
                let mut stored = set.stored.clone();
                stored["spec"]["updateStrategy"].take();
                stored["status"] = json!({
                    "latestRevision": set.revision, "matchedPods": 0, "updatedPods": 0, "readyPods": 0,
                });
                stored
            })
            .collect();
        let key: String = sets.iter().map(Value::to_string).collect();
        let mut pod = ADMITTED.with_borrow_mut(|known| {
            let made = || {
                let app = json!({"name": "app", "image": "registry.example/app:1"});
                let metadata = json!({"namespace": NAMESPACE, "name": "any", "labels": {"app": "web"}});
                let pod =
                    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [app]}});
                hollow::admitted(&pod, &sets, self.now)
            };
            known.entry(key).or_insert_with(made).clone()
        });
        self.pods_made += 1;
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["uid"] = format!("uid-{}", self.pods_made).into();
        pod["metadata"]["creationTimestamp"] = json!(self.now);
        pod["metadata"]["labels"]["track"] = if canary { "canary" } else { "stable" }.into();
        pod["spec"]["nodeName"] = "hollow".into();
        pod["status"] = json!({"phase": "Pending"});
        told!(self, "{name} is made as {}", pod["metadata"]["uid"]);
        self.store.create(pod);
    }

    // === the manager ===

    /// Plans a set and does what the plan says, met by faults on the way. How much was written.
    fn reconcile(&mut self, which: usize, mut faults: Option<&mut Rng>) -> Result<usize, Broken> {
        let set = &self.sets[which];
        let wanted = set.wanted.clone();
        let pods: Vec<Arc<Pod>> = self.seen.values().map(|(_, pod)| Arc::clone(pod)).collect();
        let copies: Vec<Arc<Value>> = self.seen.values().map(|(json, _)| Arc::clone(json)).collect();
        let raw: Vec<&Value> = copies.iter().map(AsRef::as_ref).collect();
        let held = |pod: &str| self.held.contains(pod);
        let plan = (self.planner)(&Look {
            set: &set.typed,
            version: &set.version,
            generation: set.generation,
            revision: &set.revision,
            pods: &pods,
            raw: &raw,
            held: &held,
            now: self.now,
            traced: self.trace.is_some(),
        });
        told!(self, "{} is planned: {} writes, counts {:?}", wanted.name, plan.acts.len(), plan.counts);
        for (pod, verdict) in &plan.verdicts {
            told!(self, "  {} {verdict}", name(raw[*pod]));
        }
        let standings = wanted.judge(&raw);
        counts(&wanted, &standings, plan.counts)?;
        self.sets[which].told = plan.counts;
        let acts = || plan.acts.iter().filter(|act| !act.status);
        let updates = acts().filter(|act| becomes(&act.patch, &wanted)).map(|act| act.pod).collect::<Vec<_>>();
        // What the reference notes does not tell a container that was restarted from one that will be (W-2).
        let node = Some(&self.node).filter(|_| !self.as_reference);
        wanted.of_plan(&standings, &acts().map(|act| act.pod).collect::<Vec<_>>(), &updates, node)?;

        let mut written = 0;
        for act in &plan.acts {
            let pod = name(raw[act.pod]).to_owned();
            let mut killed_after = false;
            if let Some(rng) = faults.as_deref_mut() {
                match rng.u8(..40) {
                    0..2 => {
                        told!(self, "the manager is killed before it writes {pod}");
                        self.list();
                        return Ok(written);
                    }
                    2..4 => killed_after = true,
                    4..6 => {
                        told!(self, "somebody labels {pod}");
                        self.store.touch(&pod);
                    }
                    6..12 => self.kubelet_step(rng),
                    12 => self.hurt(rng, true),
                    13 => self.recreate(rng),
                    14 => self.edit(rng),
                    _ => {}
                }
            }
            let meta = &act.patch["metadata"];
            let copy = &raw[act.pod]["metadata"];
            if ["uid", "resourceVersion"].iter().any(|key| meta[key] != copy[key]) {
                // A second write to the same pod follows upon the answer to the first.
                let answered = self.seen.get(&pod).is_some_and(|(seen, _)| {
                    ["uid", "resourceVersion"].iter().all(|key| meta[key] == seen["metadata"][key])
                });
                if !answered {
                    return broken(Law::Guarded, format!("{pod} is written with {meta}, seen was {copy}"));
                }
            }
            let before = self.store.pods.get(&pod).cloned();
            told!(self, "write {pod}{}: {}", if act.status { "/status" } else { "" }, brief(&act.patch));
            match self.store.patch(&pod, act.status, &act.patch) {
                Ok(after) => {
                    written += 1;
                    let write = Written { before: &before.unwrap(), after: &after, status: act.status };
                    wanted.of_write(&write, &self.node)?;
                    if self.as_reference {
                        self.forget_what_we_noted(&pod);
                    }
                    self.see(&pod);
                }
                Err(Refused::Conflict | Refused::NotFound) => {
                    told!(self, "  conflict");
                    self.see(&pod);
                }
                Err(Refused::Invalid(why)) => return broken(Law::Accepted, format!("{pod}: {why}: {}", act.patch)),
            }
            if killed_after {
                told!(self, "the manager is killed");
                self.list();
                return Ok(written);
            }
        }
        Ok(written)
    }

    /// Leaves of the in-place state what the reference would have written.
    fn forget_what_we_noted(&mut self, pod: &str) {
        let pod = Arc::make_mut(self.store.pods.get_mut(pod).unwrap());
        let Some(text) = pod.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(STATE)) else { return };
        let mut sets: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        for set in sets.as_object_mut().into_iter().flat_map(|sets| sets.values_mut()) {
            let containers = set["lastContainerStatuses"].as_object_mut().into_iter().flat_map(|all| all.values_mut());
            for members in containers.filter_map(Value::as_object_mut) {
                members.retain(|member, _| member == "imageID");
            }
        }
        *text = sets.to_string().into();
    }

    // === the end ===

    /// No more faults: everything comes to rest, and stays there.
    fn settle(&mut self) -> Lawful {
        told!(self, "-- the faults stop");
        self.node.heal();
        self.held.clear();
        for which in 0..self.sets.len() {
            let strategy = &mut self.sets[which].strategy;
            strategy["paused"] = false.into();
            strategy.as_object_mut().unwrap().remove("selector");
            if strategy["maxUnavailable"] == 0 {
                strategy["maxUnavailable"] = 1.into();
            }
            self.put(which);
        }
        let limit = ROUNDS + ROUNDS_A_POD * self.store.pods.len();
        let mut quiet = 0;
        for round in 0..limit {
            self.kubelets_run();
            self.list();
            let mut written = 0;
            for which in 0..self.sets.len() {
                written += self.reconcile(which, None)?;
            }
            quiet = if written == 0 { quiet + 1 } else { 0 };
            // At rest is what still is when every delay has passed.
            self.now += SignedDuration::from_secs(if quiet > 0 { 600 } else { 5 });
            if quiet == 2 {
                told!(self, "at rest after {round} rounds");
                return self.end();
            }
        }
        broken(Law::Quiet, format!("still writes after {limit} rounds"))
    }

    fn end(&mut self) -> Lawful {
        let pods: Vec<&Value> = self.store.pods.values().map(AsRef::as_ref).collect();
        for set in &self.sets {
            set.wanted.of_end(&pods, &self.node)?;
            // At rest the counts are exact: all are ready.
            let matching = set.wanted.judge(&pods);
            let updated = matching.iter().filter(|pod| pod.updated).count();
            let counts = [matching.len(), updated, matching.len(), updated].map(|count| i32::try_from(count).unwrap());
            if set.told != counts {
                return broken(Law::Status, format!("{} tells {:?}, there are {counts:?}", set.wanted.name, set.told));
            }
        }
        Ok(())
    }
}

/// CTL-30, as far as it can be told without the rules of consistency: what is not ready is not counted so.
fn counts(wanted: &Wanted, pods: &[Standing<'_>], [matched, updated, ready, both]: [i32; 4]) -> Lawful {
    let count = |is: fn(&&Standing<'_>) -> bool| i32::try_from(pods.iter().filter(is).count()).unwrap();
    let is = [count(|_| true), count(|pod| pod.updated), count(|pod| pod.ready), count(|pod| pod.ready && pod.updated)];
    if [matched, updated] == is[..2] && ready <= is[2] && both <= is[3] {
        return Ok(());
    }
    broken(Law::Status, format!("{} counts {matched} {updated} {ready} {both}, there are {is:?}", wanted.name))
}

/// A patch for a person: long texts of annotations are cut.
fn brief(patch: &Value) -> String {
    let mut patch = patch.clone();
    for key in [names::HASH, STATE] {
        if let Some(text) = patch.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(key)) {
            let brief = text.as_str().map(|text| text.replace('"', "").replace("sha256:", "")).unwrap_or_default();
            let words = brief.split(',').map(|word| word.chars().take(48).collect::<String>());
            *text = words.collect::<Vec<_>>().join(",").into();
        }
    }
    patch.to_string()
}

/// Whether a patch makes a pod updated: it writes the hash of the set into the record.
fn becomes(patch: &Value, wanted: &Wanted) -> bool {
    entry(patch, names::HASH, &wanted.name)["hash"] == wanted.hash
}

// === impl Set ===

impl Set {
    fn new(n: usize, rng: &mut Rng, store: &mut Store) -> Self {
        let shape = pick(
            rng,
            &[
                Shape::Cold,
                Shape::Cold,
                Shape::TwoCold,
                Shape::Hot,
                Shape::Hot,
                Shape::Mixed,
                Shape::TwoHot,
                Shape::Native,
            ],
        );
        let versions = vec!["1"; shape.containers().len()];
        let most = pick(rng, &["0", "1", "1", "2", "\"50%\"", "\"100%\""]);
        let partition = pick(rng, &["0", "0", "0", "1", "\"50%\""]);
        let (max_unavailable, partition): (Value, Value) =
            (serde_json::from_str(most).unwrap(), serde_json::from_str(partition).unwrap());
        let mut set = Self {
            shape,
            style: pick(rng, &[Style::Full, Style::Full, Style::Short, Style::Digest]),
            previous: versions.clone(),
            versions,
            env: 0,
            empty: EMPTY,
            strategy: json!({"type": "RollingUpdate", "maxUnavailable": max_unavailable, "partition": partition}),
            typed: SidecarSet::default(),
            stored: Value::Null,
            told: [0; 4],
            wanted: Wanted::read(&json!({"metadata": {"name": if n == 0 { "logs" } else { "mesh" }}})),
            generation: 0,
            version: String::new(),
            revision: String::new(),
        };
        set.put(store);
        set
    }

    /// Stores what the user wrote.
    fn put(&mut self, store: &mut Store) {
        type Known = RefCell<HashMap<String, (SidecarSet, Value, String)>>;
        thread_local! {
            // Without the strategy, which is all that most of them differ in.
            static STORED: Known = RefCell::default();
        }
        let document = self.document();
        let (mut set, mut stored, revision) = STORED.with_borrow_mut(|known| {
            let read = || {
                let stored =
                    Stored::read(document.clone()).unwrap_or_else(|problem| panic!("a set is refused: {problem:?}"));
                let value = stored.to_value();
                let revision = revision_name(&stored.set);
                (stored.set, value, revision)
            };
            known.entry(document.to_string()).or_insert_with(read).clone()
        });
        set.spec.update_strategy = serde_json::from_value(self.strategy.clone()).unwrap();
        stored["spec"]["updateStrategy"] = self.strategy.clone();
        if stored["spec"] != self.stored["spec"] {
            self.generation += 1;
        }
        self.version = store.next_version().to_string();
        self.revision = revision;
        self.wanted = Wanted::read(&stored);
        (self.typed, self.stored) = (set, stored);
    }

    fn image(&self, container: usize, version: &str) -> String {
        let repository = format!("{}-{}", self.wanted.name, self.shape.containers()[container]);
        match self.style {
            Style::Full => format!("registry.example/{repository}:{version}"),
            Style::Short => format!("{repository}:{version}"),
            Style::Digest => by_digest(&format!("{repository}:{version}")),
        }
    }

    fn document(&self) -> Value {
        let container = |n: usize| {
            let name = format!("{}-{}", self.wanted.name, self.shape.containers()[n]);
            let mut container = json!({
                "name": name,
                "image": self.image(n, self.versions[n]),
                "env": [{"name": "LEVEL", "value": self.env.to_string()}],
            });
            if self.shape.containers()[n].starts_with("proxy") {
                container["upgradeStrategy"] = json!({"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": self.empty});
            }
            container
        };
        let mut all: Vec<Value> = (0..self.versions.len()).map(container).collect();
        let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}});
        if self.shape == Shape::Native {
            let mut native = all.remove(0);
            native["restartPolicy"] = "Always".into();
            spec["initContainers"] = json!([native]);
        }
        spec["containers"] = json!(all);
        json!({
            "apiVersion": names::V1BETA1,
            "kind": "SidecarSet",
            "metadata": {"name": self.wanted.name},
            "spec": spec,
        })
    }
}

impl Shape {
    fn containers(self) -> &'static [&'static str] {
        match self {
            Self::Cold => &["agent"],
            Self::TwoCold => &["agent", "rotator"],
            Self::Hot => &["proxy"],
            Self::Mixed => &["proxy", "agent"],
            Self::TwoHot => &["proxy-a", "proxy-b"],
            Self::Native => &["warm", "agent"],
        }
    }
}
