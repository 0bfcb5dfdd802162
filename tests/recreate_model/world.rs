//! A cluster of one node and one pod name in which everything happens in a random order, with a daemon and a manager in it
//! that work by the code under test.
//!
//! Each step draws from a generator of its own, made of the seed and the number of the step: a step that is left out
//! changes no other, so a failure can be cut down to the steps that matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use outrigger::api::names;
use outrigger::controllers::recreate::decide::{Blocked, Input, Looked, Patience, Step as Manage};
use outrigger::recreate::{Choice, Instance, Pod, Request, Step, Underway, no_runtime, queued, runtime};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Refused, Stored, StoredPod};
use crate::laws::{Act, Book, Broken, Law, Lawful, Wrote, accepted, at_rest, broken};
use crate::node::{Ending, Kept, Node, Over, Trouble};

const CONTAINERS: [&str; 3] = ["web", "log", "mesh"];
/// How long a daemon rests when it is told nothing.
const RESYNC: Duration = Duration::from_secs(30);
/// What a CRI call has beside its grace.
const SLACK: i64 = 120;
/// Rounds until everything must have come to rest.
const ROUNDS: usize = 150;
/// Requests that are there at a time.
const REQUESTS: usize = 4;

/// The code under test.
#[derive(Clone, Copy)]
pub struct Decider {
    pub choose: for<'a> fn(&[&'a Request], Option<&str>, &Underway) -> Choice<'a>,
    pub step: fn(&At<'_>, &mut Underway) -> Step,
    pub manage: fn(&Input<'_>) -> Manage,
}

/// What a step is decided upon.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub request: &'a Request,
    pub pod: Option<&'a Pod>,
    pub instances: &'a [Instance],
    /// By the clock of the node.
    pub now: Timestamp,
}

/// What a sequence is made of.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub seed: u64,
    pub steps: usize,
    pub skip: BTreeSet<usize>,
    pub traced: bool,
}

/// A hook or a stop that the daemon waits for.
struct Deed {
    request: Arc<Stored>,
    container: String,
    /// When it is over.
    at: Timestamp,
    /// What a stop is answered; `None` of a hook.
    answer: Option<Result<(), String>>,
}

/// The process on the node, as `src/daemon` has it: copies from two watches, and what it has under way.
#[derive(Default)]
struct Daemon {
    requests: BTreeMap<String, Arc<Stored>>,
    pod: Option<Arc<StoredPod>>,
    /// How much of what the watches tell has been heard.
    heard: usize,
    heard_of_pods: usize,
    underway: Underway,
    /// For which request a container was stopped, until that is noted.
    stopped: Option<Arc<Stored>>,
    deed: Option<Deed>,
}

/// What comes of a turn of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Look,
    Rest(Duration),
    Retry,
}

/// A pod, or that there is none.
type MaybePod = Option<Arc<StoredPod>>;

/// A look of the manager at one request.
struct Look {
    request: Arc<Stored>,
    /// What was read of the pod, once it was.
    pod: Option<MaybePod>,
    is_blocked: bool,
    is_released: bool,
}

/// The leading manager.
#[derive(Default)]
struct Manager {
    requests: BTreeMap<String, Arc<Stored>>,
    heard: usize,
    /// Since when a request is known in its phase, by UID.
    known: BTreeMap<String, (String, Timestamp)>,
    look: Option<Look>,
}

pub struct World {
    decider: Decider,
    cluster: Cluster,
    node: Node,
    daemon: Daemon,
    manager: Manager,
    book: Book,
    /// Who keeps the pod unready: UID of the pod, name of the request.
    blocks: BTreeSet<(String, String)>,
    /// Writes that may still be taken, though nobody waits for them.
    late: Vec<(String, Value)>,
    /// The true time, and the clocks of the API server and the manager against it.
    now: Timestamp,
    skews: [SignedDuration; 2],
    /// Whether the runtime answers.
    is_deaf: bool,
    made: usize,
    trace: Option<Vec<String>>,
}

/// Runs a sequence to its end.
pub fn run(script: &Script, decider: Decider) -> Result<(), (Broken, Vec<String>)> {
    let mut world = World::new(script, decider);
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

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn is_active(stored: &Stored) -> bool {
    stored.read.is_active
}

impl World {
    fn new(script: &Script, decider: Decider) -> Self {
        let mut rng = Rng::with_seed(script.seed);
        let mut skew = || seconds(pick(&mut rng, &[0, 0, -60, 60, -7, 9]));
        let (node, skews) = (skew(), [skew(), skew()]);
        let mut world = Self {
            decider,
            cluster: Cluster::default(),
            node: Node::new(node, rng.u8(..4) == 0, rng.bool()),
            daemon: Daemon::default(),
            manager: Manager::default(),
            book: Book::default(),
            blocks: BTreeSet::new(),
            late: Vec::new(),
            now: "2026-03-04T05:06:07Z".parse().unwrap(),
            skews,
            is_deaf: false,
            made: 0,
            trace: script.traced.then(Vec::new),
        };
        told!(world, "clocks: node {node:?}, API server and manager {skews:?}; in place {}", world.node.in_place);
        world.make_pod(&mut rng);
        world.kubelet_rests();
        for _ in 0..rng.usize(1..3) {
            world.ask(&mut rng);
        }
        world.hear();
        world
    }

    fn all_steps(&mut self, script: &Script) -> Lawful {
        for step in (0..script.steps).filter(|step| !script.skip.contains(step)) {
            let mut rng = Rng::with_seed(script.seed ^ (step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            told!(self, "-- step {step}");
            self.step(&mut rng)?;
        }
        self.settle(script.seed.is_multiple_of(3))
    }

    // === what happens ===

    fn step(&mut self, rng: &mut Rng) -> Lawful {
        let gone_by = pick(rng, &[0, 0, 0, 1, 1, 2, 3, 8]);
        self.passes(gone_by)?;
        match rng.u8(..100) {
            0..38 => {
                for _ in 0..rng.u8(1..4) {
                    match self.turn(Some(rng))? {
                        Next::Look => {}
                        Next::Rest(_) | Next::Retry => break,
                    }
                }
            }
            38..57 => {
                for _ in 0..rng.u8(1..5) {
                    self.kubelet(rng);
                }
            }
            57..65 => self.hear_some(rng),
            65..78 => {
                for _ in 0..rng.u8(1..4) {
                    self.manage(Some(rng))?;
                }
            }
            78..83 => self.ask(rng),
            83..95 => self.other(rng)?,
            _ => self.passes(pick(rng, &[15, 31, 31, 70, 130]))?,
        }
        Ok(())
    }

    /// What nobody here decides.
    fn other(&mut self, rng: &mut Rng) -> Lawful {
        match rng.u8(..24) {
            0..5 => {
                told!(self, "the daemon is killed");
                self.kill(rng);
            }
            5..10 => {
                let name = pick(rng, &CONTAINERS);
                if let Some(at) = self.node.newest(name).filter(|at| self.node.reals[*at].over.is_none()) {
                    told!(self, "{name} crashes");
                    self.node.end(at, Over::Crash);
                }
            }
            10..13 => {
                let trouble = pick(rng, &[Trouble::Image, Trouble::Crashes, Trouble::Unready, Trouble::None]);
                if !self.node.containers.is_empty() {
                    let which = rng.usize(..self.node.containers.len());
                    let kept = &mut self.node.containers[which];
                    kept.trouble = trouble;
                    told!(self, "{} has from now on {trouble:?}", kept.name);
                }
            }
            13 => {
                let name = pick(rng, &CONTAINERS);
                if self.node.forget(name) {
                    told!(self, "the runtime forgets {name}");
                }
            }
            14..16 => {
                self.is_deaf = !self.is_deaf;
                told!(self, "the runtime {}", if self.is_deaf { "does not answer" } else { "answers again" });
            }
            16..18 => {
                if let Some(name) = self.any_request(rng) {
                    told!(self, "somebody touches {name}");
                    self.cluster.touch(&name);
                }
            }
            18 => {
                if let Some(name) = self.any_request(rng) {
                    told!(self, "user: deletes {name}");
                    _ = self.cluster.delete(&name, None, self.now);
                }
            }
            19 => self.remove_pod(rng),
            20..22 => {
                told!(self, "the manager is killed");
                self.manager = Manager { heard: self.cluster.told.len(), ..Manager::default() };
                for (name, stored) in &self.cluster.requests {
                    self.manager.requests.insert(name.clone(), Arc::clone(stored));
                }
            }
            _ => self.land(rng)?,
        }
        Ok(())
    }

    /// Something small that happens while somebody waits for an answer.
    fn meanwhile(&mut self, rng: Option<&mut Rng>) -> Lawful {
        let Some(rng) = rng else { return Ok(()) };
        if rng.u8(..4) != 0 {
            return Ok(());
        }
        match rng.u8(..12) {
            0..4 => self.kubelet(rng),
            4..7 => _ = self.manage(Some(rng))?,
            7..9 => self.hear_some(rng),
            9 => self.passes(pick(rng, &[1, 2, 5]))?,
            10 => self.ask(rng),
            _ => {
                let name = pick(rng, &CONTAINERS);
                if let Some(at) = self.node.newest(name).filter(|at| self.node.reals[*at].over.is_none()) {
                    told!(self, "  meanwhile {name} crashes");
                    self.node.end(at, Over::Crash);
                }
            }
        }
        Ok(())
    }

    fn passes(&mut self, by: i64) -> Lawful {
        self.now += seconds(by);
        let due: Vec<Ending> = {
            let now = self.now;
            self.node.endings.extract_if(.., |ending| ending.at <= now).collect()
        };
        for Ending { real, request, .. } in due {
            if self.node.end(real, Over::Stop(request)) {
                told!(self, "{} has stopped", self.node.reals[real].instance.id);
                self.book.ended(&self.node.reals[real])?;
            }
        }
        Ok(())
    }

    fn any_request(&self, rng: &mut Rng) -> Option<String> {
        let all = &self.cluster.requests;
        all.keys().nth(rng.usize(..all.len().max(1))).cloned()
    }

    // === the pod and its kubelet ===

    fn make_pod(&mut self, rng: &mut Rng) {
        self.made += 1;
        let count = rng.usize(1..=3);
        let container = |name: &'static str| {
            let hook = (rng.u8(..3) == 0).then(|| json!({"exec": {"command": ["/drain"]}}));
            Kept::new(name, name == "mesh" && rng.bool(), hook, pick(rng, &[0, 0, 1, 4, 40]))
        };
        let containers: Vec<Kept> = CONTAINERS.into_iter().take(count).map(container).collect();
        self.node.admit(format!("pod-{}", self.made), containers);
        told!(self, "a pod is made: {} with {count} containers", self.node.uid);
        let pod = self.node.pod();
        self.cluster.put_pod(pod);
    }

    fn remove_pod(&mut self, rng: &mut Rng) {
        match &self.cluster.pod {
            None => self.make_pod(rng),
            Some(pod) if pod.read.is_going_away => {
                told!(self, "the pod is gone");
                self.node.leave();
                self.cluster.remove_pod();
            }
            Some(pod) => {
                told!(self, "user: deletes the pod");
                let mut json = pod.json.clone();
                json["metadata"]["deletionTimestamp"] = json!(self.now);
                self.cluster.put_pod(json);
            }
        }
    }

    fn is_pod_going(&self) -> bool {
        self.cluster.pod.as_ref().is_none_or(|pod| pod.read.is_going_away)
    }

    fn kubelet(&mut self, rng: &mut Rng) {
        if self.is_pod_going() {
            return;
        }
        let which = rng.usize(..self.node.containers.len());
        if let Some(did) = self.node.step(which, self.now, false, rng.u8(..4) == 0) {
            told!(self, "kubelet: {} {did}", self.node.containers[which].name);
        }
        if rng.bool() {
            self.publish();
        }
    }

    fn publish(&mut self) -> bool {
        let Some(pod) = self.node.publish() else { return false };
        told!(self, "kubelet: publishes");
        self.cluster.put_pod(pod);
        true
    }

    /// The kubelet does all that is to be done.
    fn kubelet_rests(&mut self) {
        if self.is_pod_going() {
            return;
        }
        for which in 0..self.node.containers.len() {
            for _ in 0..16 {
                if self.node.step(which, self.now, true, false).is_none() {
                    break;
                }
            }
        }
        self.publish();
    }

    // === users ===

    fn ask(&mut self, rng: &mut Rng) {
        if self.is_pod_going() || self.cluster.requests.len() >= REQUESTS {
            return;
        }
        let mut wanted: Vec<&Kept> = self.node.containers.iter().collect();
        rng.shuffle(&mut wanted);
        wanted.truncate(rng.usize(1..=wanted.len()));
        let is_odd = rng.u8(..60) == 0;
        let containers: Option<Vec<Value>> = wanted
            .iter()
            .map(|kept| {
                let (id, restarts) = self.node.identity(kept.name)?;
                let id = if is_odd { "nonsense" } else { id };
                Some(json!({"name": kept.name, "statusContext": {"containerID": id, "restartCount": restarts}}))
            })
            .collect();
        // CRR-4: one that has no id yet cannot be asked for.
        let Some(containers) = containers else { return };
        let taken = |name: &String| !self.cluster.requests.contains_key(name);
        let names: Vec<String> = (0..6).map(|n| format!("r{n}")).filter(taken).collect();
        let name = names[rng.usize(..names.len())].clone();
        let mut strategy = json!({
            "failurePolicy": pick(rng, &["Fail", "Fail", "Ignore"]),
            "terminationGracePeriodSeconds": pick(rng, &[0, 1, 5, 30]),
        });
        for (member, of) in [("orderedRecreate", 2), ("forceRecreate", 2)] {
            if rng.u8(..of) == 0 {
                strategy[member] = true.into();
            }
        }
        if rng.u8(..3) == 0 {
            strategy["unreadyGracePeriodSeconds"] = pick(rng, &[0, 3, 20]).into();
        }
        if rng.u8(..3) == 0 {
            strategy["minStartedSeconds"] = pick(rng, &[1, 4, 25]).into();
        }
        let mut spec = json!({"podName": "p", "containers": containers, "strategy": strategy});
        if rng.u8(..6) == 0 {
            spec["activeDeadlineSeconds"] = pick(rng, &[5, 40, 300]).into();
        }
        if rng.u8(..4) == 0 {
            spec["ttlSecondsAfterFinished"] = pick(rng, &[0, 10, 500]).into();
        }
        self.made += 1;
        let created = (self.now + self.skews[0]).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        told!(self, "user: {name} as uid-{} {}", self.made, spec);
        self.cluster.create(json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{}", self.made), "creationTimestamp": created,
                "labels": {names::RECREATE_POD_UID: self.node.uid, names::RECREATE_NODE: "n", names::RECREATE_ACTIVE: "true"}},
            "spec": spec,
        }));
    }

    // === watches ===

    /// Everybody hears of everything.
    fn hear(&mut self) {
        while self.daemon_hears() | self.daemon_hears_of_pods() | self.manager_hears() {}
    }

    fn hear_some(&mut self, rng: &mut Rng) {
        for _ in 0..rng.u8(1..6) {
            match rng.u8(..3) {
                0 => self.daemon_hears(),
                1 => self.daemon_hears_of_pods(),
                _ => self.manager_hears(),
            };
        }
    }

    fn daemon_hears(&mut self) -> bool {
        let Some(told) = self.cluster.told.get(self.daemon.heard) else { return false };
        self.daemon.heard += 1;
        let object = Arc::clone(&told.object);
        if told.is_gone || !is_active(&object) {
            self.daemon.remove(&object);
        } else {
            self.daemon.put(&object);
            self.book.seen(&object.read, self.now);
        }
        true
    }

    fn daemon_hears_of_pods(&mut self) -> bool {
        let Some(told) = self.cluster.told_of_pods.get(self.daemon.heard_of_pods) else { return false };
        self.daemon.heard_of_pods += 1;
        let is_same = |pod: &Arc<StoredPod>| pod.read.uid == told.object.read.uid;
        if !told.is_gone {
            self.daemon.pod = Some(Arc::clone(&told.object));
        } else if self.daemon.pod.as_ref().is_some_and(is_same) {
            self.daemon.pod = None;
        }
        true
    }

    fn manager_hears(&mut self) -> bool {
        let Some(told) = self.cluster.told.get(self.manager.heard) else { return false };
        self.manager.heard += 1;
        if told.is_gone {
            self.manager.requests.remove(&told.object.read.name);
        } else {
            self.manager.requests.insert(told.object.read.name.clone(), Arc::clone(&told.object));
        }
        true
    }

    // === the daemon ===

    fn kill(&mut self, rng: &mut Rng) {
        // The runtime may go on with what it was asked to do.
        if rng.bool() {
            self.node.endings.clear();
        }
        self.daemon = Daemon {
            requests: self.cluster.requests.iter().filter(|(_, stored)| is_active(stored)).map(own).collect(),
            pod: self.cluster.pod.clone(),
            heard: self.cluster.told.len(),
            heard_of_pods: self.cluster.told_of_pods.len(),
            ..Daemon::default()
        };
        for stored in self.daemon.requests.values() {
            self.book.seen(&stored.read, self.now);
        }
    }

    /// Takes note of what ended, then looks, decides and does one thing, as `daemon::worker` does.
    #[expect(clippy::too_many_lines, reason = "one turn, top to bottom, as the real one is read")]
    fn turn(&mut self, mut rng: Option<&mut Rng>) -> Result<Next, Broken> {
        if let Some(deed) = self.daemon.deed.take_if(|deed| deed.at <= self.now) {
            let now = self.node.clock(self.now);
            match deed.answer {
                None => {
                    told!(self, "daemon: the hook of {} is over", deed.container);
                    self.book.hook_over(&deed.request.read.uid, &deed.container, self.now);
                    self.daemon.underway.hook_over(now);
                }
                Some(answer) => {
                    told!(self, "daemon: the stop of {} is answered {answer:?}", deed.container);
                    if answer.is_ok() {
                        self.book.stopped(&deed.request.read.uid, &deed.container);
                    }
                    self.daemon.underway.stop_over(answer, now);
                    self.daemon.stopped = Some(deed.request);
                }
            }
        }
        let copies: Vec<Arc<Stored>> = self.daemon.requests.values().cloned().collect();
        // CRR-61: one that was completed meanwhile is watched no longer.
        if let Some(request) = self.daemon.stopped.take()
            && !copies.iter().any(|known| known.read.uid == request.read.uid)
        {
            if rng.as_deref_mut().is_some_and(|rng| rng.u8(..8) == 0) {
                self.daemon.stopped = Some(request);
                return Ok(Next::Retry);
            }
            self.refresh(&request);
            return Ok(Next::Look);
        }
        let pod = self.daemon.pod.clone();
        let all: Vec<&Request> = copies.iter().map(|stored| &stored.read).collect();
        let choice = (self.decider.choose)(&all, pod.as_ref().map(|pod| &*pod.read.uid), &self.daemon.underway);
        let find = |read: &Request| copies.iter().find(|stored| std::ptr::eq(&raw const stored.read, read)).cloned();
        for waits in choice.told.into_iter().filter_map(find) {
            let next = self.write(&waits, &queued(&waits.read), None, rng.as_deref_mut())?;
            if next != Next::Look {
                return Ok(next);
            }
        }
        let Some(chosen) = choice.chosen.and_then(find) else {
            if self.daemon.deed.is_none() && !all.iter().any(|request| request.is_live()) {
                // The worker ends.
                self.daemon.underway = Underway::default();
                self.daemon.requests.retain(|_, stored| is_active(stored));
            }
            return Ok(Next::Rest(RESYNC));
        };
        let request = &chosen.read;
        let clock = self.node.clock(self.now);
        if let Err(why) = runtime(request) {
            return self.write(&chosen, &no_runtime(request, &why, clock), None, rng);
        }
        self.meanwhile(rng.as_deref_mut())?;
        if self.is_deaf {
            told!(self, "daemon: the runtime does not answer");
            if request.status.phase.is_empty() {
                return self.write(&chosen, &queued(request), None, rng);
            }
            return Ok(Next::Retry);
        }
        let (instances, reals) = self.node.list(&request.pod_uid);
        let seen = Seen { instances, reals, now: self.now };
        let clock = self.node.clock(self.now);
        if request.is_live() {
            self.book.begins(request, self.now);
        }
        let read = pod.as_ref().map(|pod| &pod.read);
        let at = At { request, pod: read, instances: &seen.instances, now: clock };
        match (self.decider.step)(&at, &mut self.daemon.underway) {
            Step::Rest { wake } => {
                told!(self, "daemon: rests for {} ({wake:?})", request.name);
                if wake.is_none() {
                    let mut later = self.daemon.underway.clone();
                    let later = (self.decider.step)(&At { now: clock + seconds(3600), ..at }, &mut later);
                    if !matches!(later, Step::Rest { .. }) {
                        return broken(Law::Wakes, format!("{} rests, and an hour later: {later:?}", request.name));
                    }
                }
                Ok(Next::Rest(wake.map_or(RESYNC, |wake| wake.min(RESYNC))))
            }
            Step::Write(patch) => self.write(&chosen, &patch, Some(&seen), rng),
            Step::Hook { container, id, limit, .. } => {
                let limit = i64::try_from(limit.as_secs()).unwrap();
                told!(self, "daemon: hook of {id} for {}, {limit} s", request.name);
                self.permit(request, read, &seen, (&container, &id), Err(limit))?;
                let mut took = 1;
                if let Some(rng) = rng.as_deref_mut() {
                    took = pick(rng, &[0, 1, 3, 12, 100]);
                }
                let at = self.now + seconds(took.min(limit));
                self.daemon.deed = Some(Deed { request: Arc::clone(&chosen), container, at, answer: None });
                Ok(Next::Look)
            }
            Step::Stop { container, id, grace } => {
                let grace = i64::try_from(grace.as_secs()).unwrap();
                told!(self, "daemon: stop of {id} for {}, {grace} s", request.name);
                self.permit(request, read, &seen, (&container, &id), Ok(grace))?;
                self.meanwhile(rng.as_deref_mut())?;
                let (at, answer) = self.stop(&request.uid, &id, grace, rng)?;
                self.daemon.deed = Some(Deed { request: Arc::clone(&chosen), container, at, answer: Some(answer) });
                Ok(Next::Look)
            }
        }
    }

    /// The laws about a stop within a grace, or a hook within a limit.
    fn permit(
        &mut self,
        request: &Request,
        pod: Option<&Pod>,
        seen: &Seen,
        (container, id): (&str, &str),
        time: Result<i64, i64>,
    ) -> Lawful {
        let act = Act {
            request,
            pod,
            instances: &seen.instances,
            reals: &seen.reals,
            container,
            id,
            grace: time.ok(),
            limit: time.err(),
            is_busy: self.daemon.deed.is_some(),
            now: self.now,
        };
        self.book.act(&act, &self.cluster, &self.node)?;
        let stored = self.cluster.requests.get(&request.name);
        let is_live = stored.is_some_and(|stored| stored.read.uid == request.uid && stored.read.is_live());
        let drains = request.spec.strategy.as_ref().is_some_and(|it| it.unready_grace_period_seconds.is_some());
        if is_live && drains && self.node.has_gate {
            let is_blocked = self.blocks.contains(&(request.pod_uid.clone(), request.name.clone()));
            if !is_blocked {
                return broken(Law::Drain, format!("{container} for {} while the pod may be ready", request.name));
            }
        }
        Ok(())
    }

    /// The runtime is told to stop a container: when it answers, and what.
    fn stop(
        &mut self,
        uid: &str,
        id: &str,
        grace: i64,
        rng: Option<&mut Rng>,
    ) -> Result<(Timestamp, Result<(), String>), Broken> {
        let real = self.node.reals.iter().rposition(|real| real.instance.id == id && !real.is_gone);
        let Some(real) = real.filter(|real| self.node.reals[*real].over.is_none()) else {
            return Ok((self.now, Ok(())));
        };
        let name = self.node.reals[real].instance.name.clone();
        let linger = self.node.containers.iter().find(|kept| kept.name == name).map_or(0, |kept| kept.linger);
        let after = |by: i64| self.now + seconds(by);
        let usual = linger.min(grace);
        let (at, answered, answer) = match rng.map_or(99, |rng| rng.u8(..18)) {
            0..2 => (None, 0, Err("connection refused")),
            2 => (Some(1), 0, Err("reset by peer")),
            16 => (Some(9), 0, Err("reset by peer")),
            3 => (Some(grace + 20), grace + 20, Ok(())),
            4 => (Some(grace + SLACK + 5), grace + SLACK, Err("too slow")),
            5 => (Some(usual), grace + SLACK, Err("too slow")),
            6 => (None, grace + SLACK, Err("too slow")),
            _ => (Some(usual), usual, Ok(())),
        };
        let (at, answered) = (at.map(after), after(answered));
        if let Some(at) = at {
            self.node.endings.push(Ending { real, at, request: uid.to_owned() });
        }
        self.passes(0)?;
        Ok((answered, answer.map_err(str::to_owned)))
    }

    /// Writes the status of a request, as `daemon::worker` does.
    fn write(
        &mut self,
        request: &Arc<Stored>,
        patch: &Value,
        seen: Option<&Seen>,
        mut rng: Option<&mut Rng>,
    ) -> Result<Next, Broken> {
        let name = &request.read.name;
        let guard = &patch["metadata"];
        if guard["uid"] != request.read.uid.as_str() || guard["resourceVersion"] != request.read.version.as_str() {
            return broken(Law::Guarded, format!("{name} is written with {guard}, seen was {}", request.read.version));
        }
        told!(self, "daemon: writes {name} at {}: {}", request.read.version, patch["status"]);
        self.meanwhile(rng.as_deref_mut())?;
        match rng.as_deref_mut().map_or(99, |rng| rng.u8(..60)) {
            0 => {
                told!(self, "  and is killed before");
                self.kill(rng.unwrap());
                Ok(Next::Retry)
            }
            1 => {
                told!(self, "  which is taken, and it is killed");
                _ = self.take(name, patch, seen)?;
                self.kill(rng.unwrap());
                Ok(Next::Retry)
            }
            2 => {
                told!(self, "  an error");
                Ok(Next::Retry)
            }
            draw @ 3..7 => {
                let is_taken = draw < 5;
                told!(self, "  no answer; taken {is_taken}");
                if is_taken {
                    _ = self.take(name, patch, seen)?;
                } else if draw == 5 {
                    self.late.push((name.clone(), patch.clone()));
                }
                if rng.is_none_or(Rng::bool) {
                    self.refresh(request);
                }
                Ok(Next::Retry)
            }
            _ => match self.take(name, patch, seen)? {
                Ok(answer) => {
                    self.daemon.put(&answer);
                    self.book.seen(&answer.read, self.now);
                    Ok(Next::Look)
                }
                Err(Refused::NotFound) => {
                    told!(self, "  it is gone");
                    self.daemon.remove(request);
                    Ok(Next::Look)
                }
                Err(Refused::Conflict) => {
                    told!(self, "  conflict");
                    self.refresh(request);
                    Ok(Next::Look)
                }
            },
        }
    }

    /// The API server takes a write of the daemon, or does not.
    fn take(&mut self, name: &str, patch: &Value, seen: Option<&Seen>) -> Result<Result<Arc<Stored>, Refused>, Broken> {
        let before = self.cluster.requests.get(name).cloned();
        let answer = self.cluster.patch(name, true, patch);
        if let (Some(before), Ok(after)) = (before, &answer) {
            let nothing = Seen { instances: Vec::new(), reals: Vec::new(), now: self.now };
            let Seen { instances, reals, now } = seen.unwrap_or(&nothing);
            let (node, now) = (&self.node, *now);
            // One that ends for lack of a runtime has not looked.
            if seen.is_some() {
                self.book.wrote(&Wrote { before: &before, after, patch, instances, reals, node, now })?;
            } else {
                accepted(&before.read, &after.read)?;
            }
        }
        Ok(answer)
    }

    /// A write lands that nobody waits for any more.
    fn land(&mut self, rng: &mut Rng) -> Lawful {
        if self.late.is_empty() {
            return Ok(());
        }
        let (name, patch) = self.late.swap_remove(rng.usize(..self.late.len()));
        let before = self.cluster.requests.get(&name).cloned();
        let taken = self.cluster.patch(&name, true, &patch);
        told!(self, "a write of {name} lands late: taken {}", taken.is_ok());
        match (before, taken) {
            (Some(before), Ok(after)) => accepted(&before.read, &after.read),
            _ => Ok(()),
        }
    }

    fn refresh(&mut self, request: &Stored) {
        match self.cluster.requests.get(&request.read.name) {
            Some(stored) => {
                let stored = Arc::clone(stored);
                self.book.seen(&stored.read, self.now);
                self.daemon.put(&stored);
            }
            None => self.daemon.remove(request),
        }
    }

    // === the manager ===

    /// One step of a look at a request; a new look, if there is none. Whether anything was done.
    fn manage(&mut self, mut rng: Option<&mut Rng>) -> Result<bool, Broken> {
        if self.manager.look.is_none() {
            let all = &self.manager.requests;
            let at = rng.as_deref_mut().map_or(0, |rng| rng.usize(..all.len().max(1)));
            let Some(request) = all.values().nth(at).cloned() else { return Ok(false) };
            self.look_at(request);
        }
        let look = self.manager.look.take().unwrap();
        self.manage_one(look, rng)
    }

    fn look_at(&mut self, request: Arc<Stored>) {
        let known = self.manager.known.entry(request.read.uid.clone()).or_default();
        if known.0 != request.read.status.phase || known.1 == Timestamp::default() {
            *known = (request.read.status.phase.clone(), self.now);
        }
        self.manager.look = Some(Look { request, pod: None, is_blocked: false, is_released: false });
    }

    fn manage_one(&mut self, mut look: Look, rng: Option<&mut Rng>) -> Result<bool, Broken> {
        let request = Arc::clone(&look.request);
        let (name, pod_uid) = (&request.read.name, &request.read.pod_uid);
        let since = self.manager.known.get(&request.read.uid).map_or(self.now, |(_, since)| *since);
        let step = (self.decider.manage)(&Input {
            request: &request.read,
            pod: match &look.pod {
                None => Looked::NotYet,
                Some(None) => Looked::Absent,
                Some(Some(pod)) => Looked::Found(&pod.json),
            },
            blocked: if look.is_blocked { Blocked::Done } else { Blocked::NotYet },
            is_released: look.is_released,
            known_for: Duration::try_from(self.now.duration_since(since)).unwrap_or_default(),
            now: self.now + self.skews[1],
            patience: Patience { response: Duration::from_mins(1), poll: Duration::from_secs(3), default_ttl: None },
        });
        let is_status = matches!(step, Manage::Complete(..) | Manage::Snapshot(_) | Manage::Drain(_));
        let is_here = self.cluster.pod.as_ref().is_some_and(|pod| pod.read.uid == *pod_uid && pod.has_gate);
        match step {
            Manage::Rest(_) => return Ok(false),
            Manage::Look => look.pod = Some(self.cluster.pod.clone()),
            Manage::Complete(_, patch, _)
            | Manage::Snapshot(patch)
            | Manage::Drain(patch)
            | Manage::Hold(patch)
            | Manage::Finish(patch) => {
                told!(self, "manager: writes {name} at {}: {patch}", request.read.version);
                if patch["metadata"]["resourceVersion"] != request.read.version.as_str() {
                    return broken(Law::Guarded, format!("the manager writes {name} with {}", patch["metadata"]));
                }
                let draw = rng.map_or(9, |rng| rng.u8(..20));
                if draw == 0 {
                    return Ok(true);
                }
                let before = self.cluster.requests.get(name).cloned();
                let taken = self.cluster.patch(name, is_status, &patch);
                if let (Some(before), Ok(after)) = (&before, &taken) {
                    accepted(&before.read, &after.read)?;
                }
                match taken {
                    // Its answer may be lost.
                    Ok(after) if draw != 1 => {
                        self.manager.put(&after);
                        look.request = after;
                    }
                    _ => return Ok(true),
                }
            }
            Manage::Block => {
                if is_here {
                    told!(self, "manager: makes the pod unready for {name}");
                    self.blocks.insert((pod_uid.clone(), name.clone()));
                    look.is_blocked = true;
                } else {
                    look.pod = None;
                }
            }
            Manage::Release => {
                self.blocks.remove(&(pod_uid.clone(), name.clone()));
                look.is_released = true;
            }
            Manage::Delete => {
                told!(self, "manager: deletes {name}");
                _ = self.cluster.delete(name, Some(&request.read.version), self.now);
                return Ok(true);
            }
        }
        self.manager.look = Some(look);
        Ok(true)
    }

    // === the end ===

    /// No more faults: everything comes to rest.
    fn settle(&mut self, stays_broken: bool) -> Lawful {
        told!(self, "-- the faults stop");
        self.is_deaf = false;
        self.late.clear();
        self.manager.look = None;
        let mut rng = Rng::with_seed(1);
        while self.is_pod_going() {
            self.remove_pod(&mut rng);
        }
        for kept in &mut self.node.containers {
            if !stays_broken {
                kept.trouble = Trouble::None;
            }
        }
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let before = self.cluster.version();
            self.kubelet_rests();
            self.hear();
            let mut wake = RESYNC;
            for turn in 0.. {
                match self.turn(None)? {
                    Next::Look if turn > 40 => return broken(Law::Quiet, "the daemon does not come to rest"),
                    Next::Look => {}
                    Next::Rest(rest) => {
                        wake = rest;
                        break;
                    }
                    Next::Retry => break,
                }
            }
            self.hear();
            for name in self.cluster.requests.keys().cloned().collect::<Vec<_>>() {
                let Some(request) = self.cluster.requests.get(&name).cloned() else { continue };
                self.look_at(request);
                for turn in 0.. {
                    if !self.manage(None)? || self.manager.look.is_none() {
                        break;
                    }
                    if turn > 16 {
                        return broken(Law::Quiet, "the manager does not come to rest");
                    }
                }
                self.manager.look = None;
            }
            let is_quiet = self.cluster.version() == before && self.daemon.deed.is_none();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == 3 {
                return self.end();
            }
            let rest = i64::try_from(wake.as_millis().div_ceil(1000)).unwrap();
            self.passes(match &self.daemon.deed {
                Some(deed) => deed.at.duration_since(self.now).as_secs().max(0),
                // What is at rest still is when every deadline has passed.
                None if quiet == 2 => 700,
                None if is_quiet => rest.max(1),
                None => 1,
            })?;
        }
        broken(Law::Quiet, format!("still something to do after {ROUNDS} rounds"))
    }

    fn end(&self) -> Lawful {
        let mut live: Vec<&Request> = self.cluster.requests.values().map(|stored| &stored.read).collect();
        live.sort_by_key(|request| (request.status.phase != "Recreating", request.created, &request.name));
        let mut is_first = true;
        for request in live {
            at_rest(request, is_first, self.book.has_acted(request), &self.node)?;
            is_first &= request.has_ended();
        }
        let is_live = |name: &str| self.cluster.requests.get(name).is_some_and(|stored| stored.read.is_live());
        let left = self.blocks.iter().find(|(uid, name)| *uid == self.node.uid && !is_live(name));
        if let Some((_, name)) = left {
            return broken(Law::Released, format!("{name} is over and keeps the pod unready"));
        }
        self.book.restarts(&self.node)
    }
}

fn own((name, stored): (&String, &Arc<Stored>)) -> (String, Arc<Stored>) {
    (name.clone(), Arc::clone(stored))
}

/// What a decision was made upon.
struct Seen {
    instances: Vec<Instance>,
    reals: Vec<usize>,
    now: Timestamp,
}

// === impl Daemon ===

impl Daemon {
    /// Takes a copy, unless it has a newer one (CRR-24).
    fn put(&mut self, stored: &Arc<Stored>) {
        let version = |stored: &Stored| stored.read.version.parse::<u64>().unwrap();
        let there = self.requests.get(&stored.read.name);
        if there.is_some_and(|there| there.read.uid == stored.read.uid && version(there) > version(stored)) {
            return;
        }
        self.requests.insert(stored.read.name.clone(), Arc::clone(stored));
    }

    fn remove(&mut self, stored: &Stored) {
        if self.requests.get(&stored.read.name).is_some_and(|there| there.read.uid == stored.read.uid) {
            self.requests.remove(&stored.read.name);
        }
    }
}

// === impl Manager ===

impl Manager {
    fn put(&mut self, stored: &Arc<Stored>) {
        self.requests.insert(stored.read.name.clone(), Arc::clone(stored));
    }
}
