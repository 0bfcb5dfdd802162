//! A container runtime, and a kubelet that starts again what has ended.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use outrigger::recreate::{Instance, State};
use serde_json::{Value, json};

/// What is wrong with the new containers of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Its image cannot be pulled.
    Image,
    /// It ends soon after it was started.
    Crashes,
    /// Its probes never succeed.
    Unready,
}

/// Why an instance runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    Crash,
    /// It was stopped for the request of this UID.
    Stop(String),
}

/// An instance that there is or was.
#[derive(Clone, Debug)]
pub struct Real {
    pub pod_uid: String,
    pub instance: Instance,
    pub over: Option<Over>,
    /// The runtime knows it no more, or by a higher count.
    pub is_gone: bool,
    /// When it was made, by the true clock.
    pub began: Timestamp,
    pub was_ready: bool,
}

/// A container as its kubelet knows it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub name: &'static str,
    pub is_native: bool,
    pub hook: Option<Value>,
    pub trouble: Trouble,
    /// How often it was started again; -1 before it was started.
    pub restarts: i32,
    /// How long it takes to end when it is asked to, in seconds.
    pub linger: i64,
    shown: Shown,
    waiting: &'static str,
    is_ready: bool,
    /// Time that its postStart hook takes is over.
    is_up: bool,
}

/// What the pod's status says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    id: String,
    restarts: i32,
    is_ready: bool,
    waiting: &'static str,
    started: Option<Timestamp>,
}

/// A stop that the runtime works on.
pub struct Ending {
    pub real: usize,
    pub at: Timestamp,
    pub request: String,
}

pub struct Node {
    /// Its clock, against the true one.
    pub skew: SignedDuration,
    /// Whether the runtime starts an instance again under its id.
    pub in_place: bool,
    pub uid: String,
    pub has_gate: bool,
    pub reals: Vec<Real>,
    pub containers: Vec<Kept>,
    pub endings: Vec<Ending>,
    pub crashes: BTreeMap<&'static str, i32>,
    pub stops: BTreeMap<&'static str, i32>,
    ids: u32,
}

// === impl Kept ===

impl Kept {
    pub fn new(name: &'static str, is_native: bool, hook: Option<Value>, linger: i64) -> Self {
        Self {
            name,
            is_native,
            hook,
            trouble: Trouble::None,
            restarts: -1,
            linger,
            shown: Shown::default(),
            waiting: "ContainerCreating",
            is_ready: false,
            is_up: false,
        }
    }
}

// === impl Node ===

impl Node {
    pub fn new(skew: SignedDuration, in_place: bool, has_gate: bool) -> Self {
        Self {
            skew,
            in_place,
            uid: String::new(),
            has_gate,
            reals: Vec::new(),
            containers: Vec::new(),
            endings: Vec::new(),
            crashes: BTreeMap::new(),
            stops: BTreeMap::new(),
            ids: 0,
        }
    }

    /// Another pod comes. What is left of the former is still there.
    pub fn admit(&mut self, uid: String, containers: Vec<Kept>) {
        (self.uid, self.containers) = (uid, containers);
        self.crashes.clear();
        self.stops.clear();
    }

    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now + self.skew
    }

    /// What the runtime lists for a pod, the newest first; with where each is in `reals`.
    pub fn list(&self, pod_uid: &str) -> (Vec<Instance>, Vec<usize>) {
        let all = self.reals.iter().enumerate().rev();
        let found = all.filter(|(_, real)| real.pod_uid == pod_uid && !real.is_gone);
        found.map(|(at, real)| (real.instance.clone(), at)).unzip()
    }

    pub fn newest(&self, name: &str) -> Option<usize> {
        let is_it = |real: &Real| real.pod_uid == self.uid && !real.is_gone && real.instance.name == name;
        self.reals.iter().rposition(is_it)
    }

    /// An instance ends.
    pub fn end(&mut self, at: usize, over: Over) -> bool {
        let real = &mut self.reals[at];
        if real.over.is_some() || real.is_gone {
            return false;
        }
        real.instance.state = State::Exited;
        if real.pod_uid == self.uid {
            let counts = if over == Over::Crash { &mut self.crashes } else { &mut self.stops };
            if let Some(kept) = self.containers.iter().find(|kept| kept.name == real.instance.name) {
                *counts.entry(kept.name).or_default() += 1;
            }
        }
        real.over = Some(over);
        true
    }

    /// The runtime forgets an instance that has ended.
    pub fn forget(&mut self, name: &str) -> bool {
        match self.newest(name) {
            Some(at) if self.reals[at].over.is_some() => {
                self.reals[at].is_gone = true;
                true
            }
            _ => false,
        }
    }

    fn start(&mut self, which: usize, now: Timestamp, is_slow: bool) {
        let name = self.containers[which].name;
        let before = self.newest(name);
        let kept = &mut self.containers[which];
        kept.restarts += 1;
        (kept.waiting, kept.is_ready, kept.is_up) = ("", false, false);
        let nanoseconds = i64::try_from((now + self.skew).as_nanosecond()).unwrap();
        let mut instance = Instance {
            name: name.to_owned(),
            created_at: nanoseconds,
            started_at: if is_slow { 0 } else { nanoseconds },
            state: if is_slow { State::Created } else { State::Running },
            restart_count: kept.restarts,
            ..Instance::default()
        };
        if let Some(at) = before.filter(|_| self.in_place) {
            let old = &mut self.reals[at];
            old.is_gone = true;
            (instance.id, instance.created_at) = (old.instance.id.clone(), old.instance.created_at);
        } else {
            self.ids += 1;
            instance.id = format!("{name}-{}", self.ids);
            // One dead instance is kept.
            let pod_uid = &self.uid;
            let dead = self.reals.iter_mut().rev();
            let dead = dead.filter(|real| real.pod_uid == *pod_uid && real.instance.name == name && !real.is_gone);
            dead.skip(1).for_each(|real| real.is_gone = true);
        }
        let pod_uid = self.uid.clone();
        self.reals.push(Real { pod_uid, instance, over: None, is_gone: false, began: now, was_ready: false });
    }

    /// One thing that the kubelet does for a container; what, or nothing.
    pub fn step(&mut self, which: usize, now: Timestamp, is_last: bool, is_slow: bool) -> Option<&'static str> {
        let newest = self.newest(self.containers[which].name);
        let kept = &mut self.containers[which];
        let Some(at) = newest.filter(|at| self.reals[*at].over.is_none()) else {
            kept.is_ready = false;
            let waits = match kept.trouble {
                Trouble::Image => "ImagePullBackOff",
                Trouble::Crashes if kept.waiting == "CrashLoopBackOff" && is_last => return None,
                Trouble::Crashes if kept.waiting != "CrashLoopBackOff" => "CrashLoopBackOff",
                _ => {
                    self.start(which, now, is_slow);
                    return Some("starts it");
                }
            };
            let is_new = kept.waiting != waits;
            kept.waiting = waits;
            return is_new.then_some("has it wait");
        };
        let real = &mut self.reals[at];
        if real.instance.state == State::Created {
            real.instance.state = State::Running;
            real.instance.started_at = i64::try_from((now + self.skew).as_nanosecond()).unwrap();
            return Some("has it run");
        }
        if !kept.is_up {
            kept.is_up = true;
            return Some("has run its postStart hook");
        }
        match kept.trouble {
            Trouble::Crashes if real.instance.restart_count > 0 && !kept.is_ready => {
                self.end(at, Over::Crash);
                Some("sees it crash")
            }
            Trouble::Unready if real.instance.restart_count > 0 => None,
            _ if kept.is_ready => None,
            _ => {
                (kept.is_ready, real.was_ready) = (true, true);
                Some("finds it ready")
            }
        }
    }

    /// Whether the newest instance of a container runs and is ready.
    pub fn is_well(&self, name: &str) -> bool {
        let kept = self.containers.iter().find(|kept| kept.name == name);
        let runs = self.newest(name).is_some_and(|at| self.reals[at].instance.state == State::Running);
        runs && kept.is_some_and(|kept| kept.is_ready)
    }

    /// What the pod's status would say, if that is news.
    pub fn publish(&mut self) -> Option<Value> {
        let mut is_news = false;
        for which in 0..self.containers.len() {
            let newest = self.newest(self.containers[which].name).map(|at| &self.reals[at]);
            let kept = &self.containers[which];
            let mut shown = Shown { waiting: kept.waiting, ..kept.shown.clone() };
            shown.started = None;
            shown.is_ready = false;
            // While its postStart hook runs, nothing is told of a container.
            if let Some(real) = newest.filter(|_| kept.is_up) {
                shown.id = format!("containerd://{}", real.instance.id);
                shown.restarts = real.instance.restart_count;
                if real.over.is_none() {
                    shown.started = Timestamp::from_nanosecond(real.instance.started_at.into()).ok();
                    shown.is_ready = kept.is_ready;
                }
            }
            if shown != kept.shown {
                self.containers[which].shown = shown;
                is_news = true;
            }
        }
        is_news.then(|| self.pod())
    }

    pub fn pod(&self) -> Value {
        let list = |is_native: bool| self.containers.iter().filter(move |kept| kept.is_native == is_native);
        let spec = |kept: &Kept| {
            let mut container = json!({"name": kept.name});
            if kept.is_native {
                container["restartPolicy"] = "Always".into();
            }
            if let Some(hook) = &kept.hook {
                container["lifecycle"] = json!({"preStop": hook});
            }
            container
        };
        let status = |kept: &Kept| {
            let Shown { id, restarts, is_ready, waiting, started } = &kept.shown;
            let state = match started {
                Some(started) => json!({"running": {"startedAt": started}}),
                None if waiting.is_empty() => json!({"terminated": {"exitCode": 1}}),
                None => json!({"waiting": {"reason": waiting, "message": format!("the kubelet says {waiting}")}}),
            };
            json!({"name": kept.name, "containerID": id, "restartCount": restarts, "ready": is_ready, "state": state})
        };
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "p", "uid": self.uid},
            "spec": {"containers": list(false).map(spec).collect::<Vec<_>>()},
            "status": {"phase": "Running", "containerStatuses": list(false).map(status).collect::<Vec<_>>()},
        });
        if list(true).next().is_some() {
            pod["spec"]["initContainers"] = list(true).map(spec).collect();
            pod["status"]["initContainerStatuses"] = list(true).map(status).collect();
        }
        if self.has_gate {
            pod["spec"]["readinessGates"] = json!([{"conditionType": "KruisePodReady"}]);
        }
        pod
    }

    /// What the kubelet says a container waits for, as the pod's status has it.
    pub fn word(&self, name: &str) -> &'static str {
        let shown = self.containers.iter().find(|kept| kept.name == name).map(|kept| &kept.shown);
        shown.filter(|shown| shown.started.is_none()).map_or("", |shown| shown.waiting)
    }

    /// The identity of a container as the pod's status has it.
    pub fn identity(&self, name: &str) -> Option<(&str, i32)> {
        let shown = &self.containers.iter().find(|kept| kept.name == name)?.shown;
        Some((&*shown.id, shown.restarts)).filter(|(id, _)| !id.is_empty())
    }

    /// The pod is gone, with its containers.
    pub fn leave(&mut self) {
        for real in self.reals.iter_mut().filter(|real| real.pod_uid == self.uid) {
            real.instance.state = State::Exited;
            real.is_gone = true;
        }
        self.uid.clear();
        self.containers.clear();
    }
}
