//! A cluster without containers, for tests of the rollout: pods as JSON with resourceVersions, the patches of an API
//! server as far as a rollout sends them, and a kubelet that restarts what the spec asks for (KUB-1 … KUB-7).
//!
//! Pure and seeded: nothing here waits, draws on its own, or asks the time. What *runs* in a pod ([`Node`]) is kept apart
//! from what its status says, which lags behind, and from what its spec asks for, which runs ahead. Pods come from the
//! real admission code, so their annotations are the true ones.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use outrigger::admission::pod::{Ambient, mutate};
use outrigger::api::names;
use outrigger::facts::Everything;
use outrigger::pod::Pod;
use outrigger::store::{Change, Kind, Objects};
use serde_json::{Map, Value, json};

// === admission ===

/// The pod that the webhook makes of `pod` while these SidecarSets are stored (v1beta1, defaulted and hashed).
pub fn admitted(pod: &Value, sets: &[Value], now: Timestamp) -> Value {
    let mut objects = Objects::in_cluster(names::DEFAULT_NAMESPACE);
    for set in sets {
        assert_eq!(objects.take(Change::Put(Kind::SidecarSets, set.clone())), [], "a set can be stored");
    }
    let snapshot = objects.snapshot().expect("sets that can be compiled");
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let text = pod.to_string();
    let parsed = Pod::parse(&text).unwrap();
    let patch = mutate(&parsed, namespace, &snapshot, &Ambient { now, random: 0 }, &mut Everything::default());
    let mut injected = pod.clone();
    if let Some(patch) = patch.expect("a pod that is not refused") {
        let patch: json_patch::Patch = serde_json::from_str(&patch).unwrap();
        json_patch::patch(&mut injected, &patch).unwrap();
    }
    injected
}

// === images ===

/// The digest of what a registry has under this reference. Tags that differ only in `-again` are the same content.
fn digest(image: &str) -> String {
    if let Some((_, digest)) = image.split_once('@') {
        return digest.to_owned();
    }
    let content = image.trim_end_matches("-again");
    let seed = content
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("sha256:{seed:016x}{seed:016x}{seed:016x}{seed:016x}")
}

/// `busybox` → `docker.io/library/busybox`; no tag, no digest.
fn repository(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if !host.contains(['.', ':']) && host != "localhost" => format!("docker.io/{name}"),
        Some(_) => name.to_owned(),
    }
}

/// What a runtime calls an image in a status: of several tags of the same content the first that it met (KUB-3).
fn reported(image: &str) -> String {
    let image = image.trim_end_matches("-again");
    if image.contains('@') {
        return format!("{}@{}", repository(image), digest(image));
    }
    let tag = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or("latest", |(_, tag)| tag);
    format!("{}:{tag}", repository(image))
}

/// The `imageID` of a status: the runtime's digest reference.
pub fn image_id(image: &str) -> String {
    format!("{}@{}", repository(image), digest(image))
}

/// A reference to the same content by digest.
pub fn by_digest(image: &str) -> String {
    let name = image.rsplit_once(':').map_or(image, |(name, _)| name);
    format!("{name}@{}", digest(image))
}

// === API server ===

/// The pods of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// By name: all are in one namespace.
    pub pods: BTreeMap<String, Arc<Value>>,
    version: u64,
}

/// Why a patch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 404.
    NotFound,
    /// 409: an old resourceVersion, or another pod of that name.
    Conflict,
    /// 422, and why.
    Invalid(String),
}

impl Store {
    /// The next resourceVersion: all objects share one counter.
    pub fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Stores a new pod.
    pub fn create(&mut self, mut pod: Value) {
        pod["metadata"]["resourceVersion"] = self.next_version().to_string().into();
        self.pods.insert(name(&pod).to_owned(), Arc::new(pod));
    }

    /// Replaces the status, as a kubelet does, which nobody refuses. Whether that changed anything.
    pub fn publish(&mut self, name: &str, status: Value) -> bool {
        let Some(pod) = self.pods.get_mut(name) else { return false };
        // A kubelet leaves conditions alone that are not its own.
        let mut status = status;
        if let (Some(own), Some(old)) = (status["conditions"].as_array_mut(), pod["status"]["conditions"].as_array()) {
            own.extend(old.iter().filter(|condition| condition["type"] != "Ready").cloned());
        }
        if pod["status"] == status {
            return false;
        }
        Arc::make_mut(pod)["status"] = status;
        self.touch(name);
        true
    }

    /// A change that means nothing to a rollout: only the resourceVersion moves.
    pub fn touch(&mut self, name: &str) {
        let version = self.next_version();
        if let Some(pod) = self.pods.get_mut(name) {
            Arc::make_mut(pod)["metadata"]["resourceVersion"] = version.to_string().into();
        }
    }

    /// Applies a strategic merge patch to a pod or its status, as the API server would, and gives the pod as it is then.
    pub fn patch(&mut self, name: &str, status: bool, patch: &Value) -> Result<Arc<Value>, Refused> {
        let version = self.version + 1;
        let pod = self.pods.get_mut(name).ok_or(Refused::NotFound)?;
        let wanted = &patch["metadata"];
        for key in ["uid", "resourceVersion"] {
            if !wanted[key].is_null() && wanted[key] != pod["metadata"][key] {
                return Err(Refused::Conflict);
            }
        }
        // What belongs to the other resource is left out without a word.
        let mut own = patch.clone();
        let members = own.as_object_mut().ok_or_else(|| Refused::Invalid("a patch is an object".to_owned()))?;
        members.retain(|member, _| (member == "status") == status);
        let mut after = Value::clone(pod);
        merge(&mut after, &own).map_err(Refused::Invalid)?;
        only_images_change(pod, &after).map_err(Refused::Invalid)?;
        // One that changes nothing is stored nowhere.
        if after != **pod {
            after["metadata"]["resourceVersion"] = version.to_string().into();
            *pod = Arc::new(after);
            self.version = version;
        }
        Ok(Arc::clone(pod))
    }
}

/// Lists that are merged by key; other lists are replaced. `containerStatuses` are such others.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "volumes" | "env" => Some("name"),
        "conditions" => Some("type"),
        _ => None,
    }
}

/// Strategic merge, without its directives, which no rollout sends.
fn merge(target: &mut Value, patch: &Value) -> Result<(), String> {
    let patch = patch.as_object().ok_or("a patch is an object")?;
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            return Err(format!("directive {key} is not known here"));
        }
        match (value, merge_key(key)) {
            (Value::Null, _) => {
                target.as_object_mut().unwrap().remove(key);
            }
            (Value::Array(items), Some(by)) => {
                let list = target.as_object_mut().unwrap().entry(key.clone()).or_insert_with(|| json!([]));
                let list = list.as_array_mut().ok_or_else(|| format!("{key} is no list"))?;
                for item in items {
                    if item[by].is_null() {
                        return Err(format!("an item of {key} has no {by}"));
                    }
                    match list.iter_mut().find(|old| old[by] == item[by]) {
                        Some(old) => merge(old, item)?,
                        None => list.push(item.clone()),
                    }
                }
            }
            (Value::Object(_), _) => {
                merge(target.as_object_mut().unwrap().entry(key.clone()).or_insert_with(|| json!({})), value)?;
            }
            _ => target[key.as_str()] = value.clone(),
        }
    }
    Ok(())
}

/// What the API server allows to change in the spec of a pod that exists.
fn only_images_change(before: &Value, after: &Value) -> Result<(), String> {
    if before["spec"] == after["spec"] {
        return Ok(());
    }
    let mut allowed = before["spec"].clone();
    for list in ["containers", "initContainers"] {
        let old = allowed.get_mut(list).and_then(Value::as_array_mut);
        let (Some(old), Some(new)) = (old, after["spec"][list].as_array()) else { continue };
        for (old, new) in old.iter_mut().zip(new) {
            old["image"] = new["image"].clone();
        }
    }
    if allowed == after["spec"] {
        Ok(())
    } else {
        Err("pod updates may not change fields other than images".to_owned())
    }
}

// === kubelet ===

/// A node with all the pods there are.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// By UID.
    pods: BTreeMap<String, Running>,
    /// Images that cannot be pulled.
    pub broken: BTreeSet<String>,
    next_id: u64,
}

/// What runs of one pod.
#[derive(Clone, Debug, Default)]
struct Running {
    containers: BTreeMap<String, Container>,
    /// Hot pairs, both ways.
    partner: BTreeMap<String, String>,
    started: bool,
    ready_since: Option<Timestamp>,
    /// Something has changed since the status was last asked for.
    news: bool,
    /// Bases of hot pairs of which one crashed or was unwell since both were last in order.
    disturbed: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Container {
    process: Option<Process>,
    /// What ran before, told while nothing runs (KUB-3).
    last: Option<Told>,
    /// Why nothing runs.
    waiting: &'static str,
    /// The image that could not be pulled.
    failed: Option<String>,
    restarts: i64,
    /// Does not get ready.
    unwell: bool,
}

/// What a status says of an image and the container made of it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    image: String,
    image_id: String,
    container_id: String,
}

#[derive(Clone, Debug)]
struct Process {
    /// As the spec had it.
    image: String,
    told: Told,
    phase: Phase,
    role: Role,
    since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// postStart runs, and the worker of the pod with it (KUB-4).
    Starting,
    Running,
    Ready,
    Crashed,
}

/// What a sidecar of a hot pair does; it reads its versions once, when it starts (HOT-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves, alone or as the newer.
    Serving,
    /// The newer, before its partner has handed over.
    Migrating,
    /// Has handed over, or was started as the older.
    Passive,
    /// Empty.
    Idle,
}

/// What a kubelet did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// Stopped a container whose image is another now.
    Stopped(String),
    /// Could not pull.
    FailedToPull(String, String),
    /// Made and started a container.
    Started(String, String),
    /// postStart returned.
    Hooked(String),
    /// A container got ready.
    Readied(String),
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(container) => write!(f, "stopped {container}"),
            Self::FailedToPull(container, image) => write!(f, "could not pull {image} for {container}"),
            Self::Started(container, image) => write!(f, "started {container} of {image}"),
            Self::Hooked(container) => write!(f, "postStart of {container} returned"),
            Self::Readied(container) => write!(f, "{container} is ready"),
        }
    }
}

impl Node {
    /// The next thing that the kubelet does for a pod, if there is one. `choose` picks one of so many containers.
    pub fn step(&mut self, pod: &Value, now: Timestamp, choose: impl Fn(usize) -> usize) -> Option<Did> {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        if !self.pods.contains_key(uid) {
            self.pods.insert(uid.to_owned(), Running::of(pod));
        }
        let running = self.pods.get_mut(uid)?;
        let specs: Vec<(&str, &str)> = containers(pod)
            .map(|container| (container["name"].as_str().unwrap(), container["image"].as_str().unwrap()))
            .collect();
        // KUB-4: nothing else happens to the pod meanwhile.
        running.news = true;
        let hooking = specs.iter().find(|(name, _)| running.phase(name) == Some(Phase::Starting));
        if let Some((name, _)) = hooking {
            running.hooked(name);
            return Some(Did::Hooked((*name).to_owned()));
        }
        let open: Vec<&(&str, &str)> =
            specs.iter().filter(|(name, image)| running.has_work(name, image, &self.broken)).collect();
        if open.is_empty() {
            running.started =
                specs.iter().all(|(name, _)| running.containers[*name].process.is_some()) || running.started;
            return None;
        }
        let (name, image) = open[choose(open.len()).min(open.len() - 1)];
        let container = running.containers.get_mut(*name).unwrap();
        match &mut container.process {
            Some(process) if process.image != *image => {
                container.last = Some(process.told.clone());
                container.process = None;
                container.waiting = "ContainerCreating";
                Some(Did::Stopped((*name).to_owned()))
            }
            Some(process) if process.phase == Phase::Running => {
                process.phase = Phase::Ready;
                running.settle();
                Some(Did::Readied((*name).to_owned()))
            }
            _ if self.broken.contains(*image) => {
                container.waiting = "ImagePullBackOff";
                container.failed = Some((*image).to_owned());
                Some(Did::FailedToPull((*name).to_owned(), (*image).to_owned()))
            }
            _ => {
                self.next_id += 1;
                let version = |prefix: &str| {
                    let text = pod["metadata"]["annotations"][format!("{prefix}{name}")].as_str();
                    text.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
                };
                let (phase, role) = match running.partner.get(*name) {
                    None => (Phase::Running, Role::Serving),
                    Some(_) => match (version(names::VERSION_PREFIX), version(names::VERSION_ALT_PREFIX)) {
                        (0, _) => (Phase::Running, Role::Idle),
                        (_, 0) => (Phase::Starting, Role::Serving),
                        (own, other) if own > other => (Phase::Starting, Role::Migrating),
                        _ => (Phase::Starting, Role::Passive),
                    },
                };
                container.failed = None;
                container.restarts += i64::from(container.last.is_some() || container.process.is_some());
                container.process = Some(Process {
                    image: (*image).to_owned(),
                    told: Told {
                        image: reported(image),
                        image_id: image_id(image),
                        container_id: format!("containerd://{:016x}", self.next_id),
                    },
                    phase,
                    role,
                    since: now,
                });
                Some(Did::Started((*name).to_owned(), (*image).to_owned()))
            }
        }
    }

    /// Everything that is to be done for a pod.
    pub fn run(&mut self, pod: &Value, now: Timestamp) {
        const STEPS: usize = 1000;
        for _ in 0..STEPS {
            if self.step(pod, now, |_| 0).is_none() {
                return;
            }
        }
        panic!("the kubelet finds no end with {}", name(pod));
    }

    /// Whether the kubelet has nothing to do for a pod.
    pub fn is_at_rest(&self, pod: &Value) -> bool {
        let Some(running) = self.pods.get(pod["metadata"]["uid"].as_str().unwrap()) else { return false };
        containers(pod).all(|container| {
            let (name, image) = (container["name"].as_str().unwrap(), container["image"].as_str().unwrap());
            !running.has_work(name, image, &self.broken)
        })
    }

    /// Whether there may be something to publish.
    pub fn has_news(&self, pod: &Value) -> bool {
        self.pods.get(pod["metadata"]["uid"].as_str().unwrap()).is_some_and(|running| running.news)
    }

    /// The status that the kubelet would publish; none while a postStart keeps it from doing so (KUB-4).
    pub fn status(&mut self, pod: &Value, now: Timestamp) -> Option<Value> {
        let running = self.pods.get_mut(pod["metadata"]["uid"].as_str()?)?;
        if running.containers.values().any(|c| c.process.as_ref().is_some_and(|p| p.phase == Phase::Starting)) {
            return None;
        }
        running.news = false;
        let lists = ["containers", "initContainers"].map(|list| {
            let specs = pod["spec"][list].as_array().into_iter().flatten();
            let statuses = specs.filter_map(|spec| Some(running.containers.get(spec["name"].as_str()?)?.status(spec)));
            Value::Array(statuses.collect())
        });
        let ready = running.containers.values().all(Container::is_ready) && gates_are_open(pod);
        running.ready_since = ready.then(|| running.ready_since.unwrap_or(now));
        let since = running.ready_since.unwrap_or(now);
        let old = pod["status"]["conditions"].as_array().into_iter().flatten().find(|old| old["type"] == "Ready");
        let text = if ready { "True" } else { "False" };
        // KUB-7: the time moves with the status only.
        let since = match old {
            Some(old) if old["status"] == text => old["lastTransitionTime"].clone(),
            _ => json!(since),
        };
        let [regular, init] = lists;
        let mut status = json!({
            "phase": if running.started || ready { "Running" } else { "Pending" },
            "conditions": [{"type": "Ready", "status": text, "lastTransitionTime": since}],
            "containerStatuses": regular,
        });
        if init.as_array().is_some_and(|init| !init.is_empty()) {
            status["initContainerStatuses"] = init;
        }
        running.started |= ready;
        Some(status)
    }

    /// The process of a container ends by itself. Whether there was one.
    pub fn crash(&mut self, uid: &str, container: &str) -> bool {
        self.disturb(uid, container);
        let process = self.container(uid, container).and_then(|container| container.process.as_mut());
        let process = process.filter(|process| process.phase != Phase::Crashed);
        process.map(|process| process.phase = Phase::Crashed).is_some()
    }

    /// A container ceases to be ready, until it is well again.
    pub fn set_unwell(&mut self, uid: &str, container: &str, unwell: bool) {
        self.disturb(uid, container);
        if let Some(container) = self.container(uid, container) {
            container.unwell = unwell;
            if let Some(process) = container.process.as_mut().filter(|process| unwell && process.phase == Phase::Ready)
            {
                process.phase = Phase::Running;
            }
        }
    }

    /// All are well again.
    pub fn heal(&mut self) {
        self.broken.clear();
        for container in self.pods.values_mut().flat_map(|pod| pod.containers.values_mut()) {
            container.unwell = false;
        }
    }

    /// The pod is gone.
    pub fn forget(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// What serves of a pair of hot containers: running, of a real image, and allowed to by its versions.
    pub fn serving<'a>(&'a self, uid: &str, base: &'a str) -> impl Iterator<Item = String> + 'a {
        let running = self.pods.get(uid);
        ["1", "2"].into_iter().map(move |n| format!("{base}-{n}")).filter(move |name| {
            let process = running.and_then(|running| running.containers.get(name)?.process.as_ref());
            let up = |process: &Process| matches!(process.phase, Phase::Running | Phase::Ready);
            process.is_some_and(|process| process.role == Role::Serving && up(process))
        })
    }

    /// Whether anything was ever done for this pod, and it is not gone.
    pub fn knows(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Whether this container runs the image that the spec asks for, and is ready.
    pub fn runs(&self, uid: &str, container: &str, image: &str) -> bool {
        let process = self.pods.get(uid).and_then(|pod| pod.containers.get(container)?.process.as_ref());
        process.is_some_and(|process| process.image == image && process.phase == Phase::Ready)
    }

    /// Whether this container runs an image other than this, or none.
    pub fn is_behind(&self, uid: &str, container: &str, image: &str) -> bool {
        let process = self.pods.get(uid).and_then(|pod| pod.containers.get(container)?.process.as_ref());
        process.is_none_or(|process| process.image != image)
    }

    /// Whether a pair has met with a crash since it last was in order: one serves, and one is empty. What was started
    /// anew in the middle of an upgrade does as its versions say, and no write can help that (HOT-24).
    pub fn is_disturbed(&self, uid: &str, base: &str) -> bool {
        self.pods.get(uid).is_some_and(|running| running.disturbed.contains(base))
    }

    fn disturb(&mut self, uid: &str, container: &str) {
        if let Some(running) = self.pods.get_mut(uid)
            && running.partner.contains_key(container)
        {
            running.disturbed.insert(base(container).to_owned());
        }
    }

    fn container(&mut self, uid: &str, container: &str) -> Option<&mut Container> {
        let running = self.pods.get_mut(uid)?;
        running.news = true;
        running.containers.get_mut(container)
    }
}

impl Running {
    fn of(pod: &Value) -> Self {
        let hot = containers(pod).filter(|container| {
            container["env"].as_array().is_some_and(|env| env.iter().any(|env| env["name"] == names::VERSION_ENV))
        });
        let partner = hot.filter_map(|container| {
            let name = container["name"].as_str()?;
            let (base, other) = name
                .strip_suffix("-1")
                .map(|base| (base, "2"))
                .or_else(|| name.strip_suffix("-2").map(|base| (base, "1")))?;
            Some((name.to_owned(), format!("{base}-{other}")))
        });
        let names = containers(pod).filter_map(|container| container["name"].as_str());
        let waiting = Container { waiting: "ContainerCreating", ..Container::default() };
        Self {
            partner: partner.collect(),
            containers: names.map(|name| (name.to_owned(), waiting.clone())).collect(),
            ..Self::default()
        }
    }

    fn phase(&self, container: &str) -> Option<Phase> {
        Some(self.containers.get(container)?.process.as_ref()?.phase)
    }

    fn has_work(&self, container: &str, image: &str, broken: &BTreeSet<String>) -> bool {
        let Some(container) = self.containers.get(container) else { return false };
        match &container.process {
            Some(process) if process.image != image => true,
            Some(process) if process.phase == Phase::Running => !container.unwell,
            Some(process) => matches!(process.phase, Phase::Starting | Phase::Crashed),
            None => container.failed.as_deref() != Some(image) || !broken.contains(image),
        }
    }

    /// Forgets disturbances of pairs of which one serves, ready, and the other is empty.
    fn settle(&mut self) {
        let containers = &self.containers;
        let is = |name: &str, role: Role| {
            let process = containers.get(name).and_then(|container| container.process.as_ref());
            process.is_some_and(|process| process.role == role && process.phase == Phase::Ready)
        };
        self.disturbed.retain(|base| {
            let [first, second] = ["1", "2"].map(|n| format!("{base}-{n}"));
            let in_order = is(&first, Role::Serving) && is(&second, Role::Idle)
                || is(&second, Role::Serving) && is(&first, Role::Idle);
            !in_order
        });
    }

    /// postStart returned: the newer has taken over from its partner (HOT-8).
    fn hooked(&mut self, name: &str) {
        let process = self.containers.get_mut(name).and_then(|container| container.process.as_mut()).unwrap();
        process.phase = Phase::Running;
        if process.role == Role::Migrating {
            process.role = Role::Serving;
            let partner = self.partner.get(name).and_then(|partner| self.containers.get_mut(partner));
            let partner = partner.and_then(|partner| partner.process.as_mut());
            if let Some(partner) = partner.filter(|partner| partner.role == Role::Serving) {
                partner.role = Role::Passive;
            }
        }
    }
}

/// `proxy-2` → `proxy`
fn base(container: &str) -> &str {
    container.rsplit_once('-').map_or(container, |(base, _)| base)
}

impl Container {
    fn is_ready(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.phase == Phase::Ready)
    }

    fn status(&self, spec: &Value) -> Value {
        let told = self.process.as_ref().map(|process| &process.told).or(self.last.as_ref());
        let started = self.process.as_ref().is_some_and(|p| matches!(p.phase, Phase::Running | Phase::Ready));
        let state = match &self.process {
            Some(process) if process.phase == Phase::Crashed => {
                json!({"terminated": {"exitCode": 1, "reason": "Error"}})
            }
            Some(process) => json!({"running": {"startedAt": process.since}}),
            None => json!({"waiting": {"reason": self.waiting}}),
        };
        let mut status = Map::new();
        status.insert("name".to_owned(), spec["name"].clone());
        status.insert("ready".to_owned(), self.is_ready().into());
        status.insert("started".to_owned(), started.into());
        status.insert("restartCount".to_owned(), self.restarts.into());
        status.insert("image".to_owned(), told.map_or(spec["image"].clone(), |told| told.image.clone().into()));
        status.insert("imageID".to_owned(), told.map_or("", |told| &told.image_id).into());
        if let Some(told) = told {
            status.insert("containerID".to_owned(), told.container_id.clone().into());
        }
        status.insert("state".to_owned(), state);
        Value::Object(status)
    }
}

/// Whether all conditions are true that the pod asks for (KUB-7).
fn gates_are_open(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let is_true = |gate: &Value| {
        let mut all = conditions.into_iter().flatten();
        all.any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    };
    pod["spec"]["readinessGates"].as_array().into_iter().flatten().all(is_true)
}

/// The containers of a pod that keep running: regular ones and native sidecars.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |list| pod["spec"][list].as_array().into_iter().flatten();
    let native = list("initContainers").filter(|container| container["restartPolicy"] == "Always");
    native.chain(list("containers"))
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
