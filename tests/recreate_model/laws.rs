//! What must hold of every effect, every write and every end, said from what is true: from the API server's objects, the
//! runtime's instances and the true clock, not from the copies that the code under test decides upon.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use outrigger::api::recreate::RecreateState;
use outrigger::recreate::{Instance, Pod, Request, State};
use serde_json::Value;

use crate::cluster::{Cluster, Stored};
use crate::node::{Node, Over, Real};

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// Every write carries the uid and the resourceVersion of the copy it was decided upon.
    Guarded,
    /// Phases are those of the schema.
    Accepted,
    /// A write changes something.
    Useless,
    /// WEAK-15: what is completed stays so, with its time and message.
    Ended,
    /// CRR-41.1: a container that succeeded or failed stays so.
    Settled,
    /// WEAK-2: nothing is done to a container before the API server has the intent, with its identity.
    Intent,
    /// WEAK-2: one hook for a request and a container, across kills.
    Hook,
    /// After a stop that succeeded, none is asked for again.
    Again,
    /// For a request, one instance of each container is stopped, across kills.
    Once,
    /// CRR-47: one hook or stop at a time.
    OneAtATime,
    /// CRR-23: requests of a pod are carried out one after another.
    Turn,
    /// CRR-47: in the order of the spec; ordered ones only after the one before has succeeded.
    Order,
    /// Only what was named is stopped, and what runs.
    Named,
    /// CRR-48: without force, only the instance that was there when the request was made.
    Spared,
    /// CRR-27: not before the pod has been drained for as long as the node has seen it.
    Drain,
    /// Not in a pod that is another one, or is being deleted.
    Pod,
    /// CRR-54, CRR-55: hook and stop have the grace together.
    Grace,
    /// CRR-42: what is said to have succeeded was replaced, runs, was ready, and ran for long enough.
    Succeeded,
    /// WEAK-3: what is said to have failed was tried, and is still there.
    Failed,
    /// Time alone changes nothing for who rests without a time.
    Wakes,
    /// Every request ends, unless its container is not well.
    Ends,
    /// WEAK-9: why it waits is said.
    Told,
    /// CRR-12: no pod is kept unready by who is gone.
    Released,
    /// As many restarts as there were crashes and stops, and one stop at most for each that was asked for.
    Restarts,
    /// In the end nothing is done any more.
    Quiet,
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

/// A hook or a stop as it was decided.
pub struct Act<'a> {
    /// The daemon's copies.
    pub request: &'a Request,
    pub pod: Option<&'a Pod>,
    pub instances: &'a [Instance],
    pub reals: &'a [usize],
    pub container: &'a str,
    pub id: &'a str,
    /// Seconds to stop; `None` of a hook.
    pub grace: Option<i64>,
    /// Seconds that a hook may take.
    pub limit: Option<i64>,
    pub is_busy: bool,
    pub now: Timestamp,
}

/// What was done for a request so far, whoever did it.
#[derive(Default)]
struct Record {
    pod_uid: String,
    /// When it was first its turn.
    begun: Option<Timestamp>,
    /// When a daemon first had a copy with the condition.
    drained: Option<Timestamp>,
    has_acted: bool,
    containers: BTreeMap<String, Done>,
}

#[derive(Default)]
struct Done {
    /// Instances that were told to stop.
    told: BTreeSet<usize>,
    attempts: u32,
    is_stopped: bool,
    /// When its hook began, and when that was known to be over.
    hook: Option<(Timestamp, Option<Timestamp>)>,
    /// Instances that ended by a stop for it.
    ended: u32,
}

/// All that was done.
#[derive(Default)]
pub struct Book {
    records: BTreeMap<String, Record>,
}

const PHASES: [&str; 3] = ["Pending", "Recreating", "Completed"];
const CONTAINER_PHASES: [&str; 4] = ["Pending", "Recreating", "Succeeded", "Failed"];

fn is_settled(state: &RecreateState) -> bool {
    matches!(state.phase.as_str(), "Succeeded" | "Failed")
}

fn state<'r>(request: &'r Request, container: &str) -> Option<&'r RecreateState> {
    request.status.container_recreate_states.iter().find(|state| state.name == container)
}

fn bare(id: &str) -> &str {
    id.split_once("://").map_or("", |(_, id)| id)
}

// === impl Book ===

impl Book {
    fn record(&mut self, request: &Request) -> &mut Record {
        let record = self.records.entry(request.uid.clone()).or_default();
        record.pod_uid.clone_from(&request.pod_uid);
        record
    }

    /// It is its turn, for the first time or again.
    pub fn begins(&mut self, request: &Request, now: Timestamp) {
        self.record(request).begun.get_or_insert(now);
    }

    /// A daemon got a copy.
    pub fn seen(&mut self, request: &Request, now: Timestamp) {
        if is_drained(request) {
            self.record(request).drained.get_or_insert(now);
        }
    }

    /// A hook or a stop is about to be done.
    pub fn act(&mut self, act: &Act<'_>, cluster: &Cluster, node: &Node) -> Lawful {
        let Act { request, container, id, now, .. } = *act;
        let what = || {
            let deed = if act.grace.is_some() { "stop" } else { "hook" };
            format!("{deed} of {container} ({id}) for {}", request.name)
        };
        let is_stopped = self.done(&request.uid, container).is_some_and(|done| done.is_stopped);
        ensure(!is_stopped, Law::Again, || format!("{}, which is done", what()))?;
        ensure(!act.is_busy, Law::OneAtATime, || format!("{} while another runs", what()))?;
        ensure(act.pod.is_some_and(|pod| pod.uid == request.pod_uid && !pod.is_going_away), Law::Pod, what)?;
        let at = act.instances.iter().position(|instance| instance.id == id && instance.name == container);
        let at = at.filter(|_| request.spec.containers.iter().any(|named| named.name == container));
        let Some(at) = at else { return broken(Law::Named, format!("{}, which was not named", what())) };
        let (instance, real) = (&act.instances[at], act.reals[at]);
        let is_newest = act.instances.iter().find(|other| other.name == container).is_some_and(|it| it.id == id);
        ensure(is_newest && instance.state != State::Exited, Law::Named, || format!("{}, which is old", what()))?;

        let stored = cluster.requests.get(&request.name).filter(|stored| stored.read.uid == request.uid);
        if let Some(stored) = stored {
            let is_announced = has_intent(&stored.json, container, instance);
            ensure(is_announced, Law::Intent, || format!("{}, which was not announced", what()))?;
        }
        let strategy = request.spec.strategy.clone().unwrap_or_default();
        let is_old = |old: &outrigger::api::recreate::StatusContext| {
            bare(&old.container_id) == id && old.restart_count == instance.restart_count
        };
        let old = request.spec.containers.iter().find(|named| named.name == container);
        let old = old.and_then(|named| named.status_context.as_ref());
        ensure(strategy.force_recreate || old.is_some_and(is_old), Law::Spared, || {
            format!("{}, which is not what it was made for", what())
        })?;

        for before in request.spec.containers.iter().take_while(|named| named.name != container) {
            let phase = stored.map(|stored| &stored.read).and_then(|stored| state(stored, &before.name));
            let is_past = phase
                .is_some_and(|state| is_settled(state) || (state.phase == "Recreating" && !strategy.ordered_recreate));
            ensure(is_past || stored.is_none(), Law::Order, || format!("{} before {}", what(), before.name))?;
        }
        let others = self.records.iter().filter(|(uid, record)| **uid != request.uid && record.has_acted);
        for (uid, _) in others.filter(|(_, record)| record.pod_uid == request.pod_uid) {
            let other = cluster.requests.values().find(|stored| stored.read.uid == *uid);
            let is_live = other.is_some_and(|other| other.read.is_live());
            ensure(!is_live, Law::Turn, || format!("{} while {uid} is under way", what()))?;
        }
        let record = self.record(request);
        if let Some(seconds) = strategy.unready_grace_period_seconds {
            let waited = record.drained.map(|since| now.duration_since(since));
            ensure(waited >= Some(SignedDuration::from_secs(seconds)), Law::Drain, || {
                format!("{} after {waited:?} of {seconds} s", what())
            })?;
        }
        record.has_acted = true;
        let grace = strategy.termination_grace_period_seconds.unwrap_or(30);
        let done = record.containers.entry(container.to_owned()).or_default();
        if let Some(limit) = act.limit {
            ensure(limit == grace && grace > 0, Law::Grace, || format!("{} has {limit} s", what()))?;
            ensure(done.hook.is_none(), Law::Hook, || format!("{} again", what()))?;
            done.hook = Some((now, None));
        }
        if let Some(seconds) = act.grace {
            let took = done.hook.map(|(since, until)| until.unwrap_or(now).duration_since(since).as_secs());
            let most = (grace - took.unwrap_or_default()).max(2);
            ensure((2..=most).contains(&seconds), Law::Grace, || format!("{} within {seconds} s of {most}", what()))?;
            done.told.insert(real);
            done.attempts += 1;
            ensure(done.told.len() == 1, Law::Once, || format!("{}, the second instance", what()))?;
        }
        let real = &node.reals[real];
        ensure(real.pod_uid == request.pod_uid, Law::Pod, || format!("{} of pod {}", what(), real.pod_uid))
    }

    /// A hook is known to be over.
    pub fn hook_over(&mut self, uid: &str, container: &str, now: Timestamp) {
        if let Some((_, until)) = self.done(uid, container).and_then(|done| done.hook.as_mut()) {
            until.get_or_insert(now);
        }
    }

    /// The answer that it is stopped has come.
    pub fn stopped(&mut self, uid: &str, container: &str) {
        if let Some(done) = self.done(uid, container) {
            done.is_stopped = true;
        }
    }

    /// An instance ended by a stop.
    pub fn ended(&mut self, real: &Real) -> Lawful {
        let Some(Over::Stop(uid)) = &real.over else { return Ok(()) };
        let Some(done) = self.done(uid, &real.instance.name) else { return Ok(()) };
        done.ended += 1;
        ensure(done.ended == 1, Law::Once, || format!("{} ended, the second one for {uid}", real.instance.id))
    }

    fn done(&mut self, uid: &str, container: &str) -> Option<&mut Done> {
        self.records.get_mut(uid)?.containers.get_mut(container)
    }

    /// A daemon's write was taken.
    pub fn wrote(&self, wrote: &Wrote<'_>) -> Lawful {
        let (old, new) = (&wrote.before.read, &wrote.after.read);
        let name = &new.name;
        accepted(old, new)?;
        ensure(old.version != new.version, Law::Useless, || format!("{name}: {}", wrote.patch))?;
        for state in &new.status.container_recreate_states {
            let before = self::state(old, &state.name).filter(|before| is_settled(before));
            if before.is_some() || !is_settled(state) {
                continue;
            }
            let record = self.records.get(&new.uid);
            if state.phase == "Failed" {
                let done = record.and_then(|record| record.containers.get(&state.name));
                let is_tried = done.is_some_and(|done| done.attempts >= 5 && !done.is_stopped);
                ensure(is_tried && !state.message.is_empty(), Law::Failed, || format!("{name}: {state:?}"))?;
            } else {
                self.succeeded(wrote, &state.name)?;
            }
        }
        if new.has_ended() && !old.has_ended() && new.status.message.is_empty() {
            let are_good = new.status.container_recreate_states.iter().all(|state| state.phase == "Succeeded");
            let all = new.status.container_recreate_states.len() == new.spec.containers.len();
            ensure(are_good && all, Law::Succeeded, || format!("{name} has ended without a word: {:?}", new.status))?;
        }
        Ok(())
    }

    fn succeeded(&self, wrote: &Wrote<'_>, container: &str) -> Lawful {
        let request = &wrote.after.read;
        let what = |why: &str| format!("{container} of {} {why}", request.name);
        let newest = wrote.instances.iter().position(|instance| instance.name == container);
        let Some(newest) = newest else { return broken(Law::Succeeded, what("is not there")) };
        let (instance, real) = (&wrote.instances[newest], &wrote.node.reals[wrote.reals[newest]]);
        let old = request.spec.containers.iter().find(|named| named.name == container);
        let old = old.and_then(|named| named.status_context.clone()).unwrap_or_default();
        let is_new = bare(&old.container_id) != instance.id || instance.restart_count > old.restart_count;
        ensure(is_new, Law::Succeeded, || what("is the old one"))?;
        ensure(instance.state == State::Running, Law::Succeeded, || what("does not run"))?;
        ensure(real.was_ready, Law::Succeeded, || what("was never ready"))?;
        let strategy = request.spec.strategy.clone().unwrap_or_default();
        let least = SignedDuration::from_secs(strategy.min_started_seconds.into());
        let started = Timestamp::from_nanosecond(instance.started_at.into()).unwrap();
        let ran = wrote.node.clock(wrote.now).duration_since(started);
        ensure(ran >= least, Law::Succeeded, || what("has not run for long enough"))?;
        let begun = self.records.get(&request.uid).and_then(|record| record.begun);
        ensure(!strategy.force_recreate || Some(real.began) >= begun, Law::Succeeded, || {
            what("is older than the request, which asks for force")
        })
    }

    pub fn has_acted(&self, request: &Request) -> bool {
        self.records.get(&request.uid).is_some_and(|record| record.has_acted)
    }

    /// In the end, of a pod that stays.
    pub fn restarts(&self, node: &Node) -> Lawful {
        for kept in &node.containers {
            let count = |counts: &BTreeMap<&str, i32>| counts.get(kept.name).copied().unwrap_or_default();
            let asked = self.records.values().filter(|record| record.pod_uid == node.uid);
            let asked = asked.filter_map(|record| record.containers.get(kept.name)).map(|done| done.ended).sum::<u32>();
            let newest = node.newest(kept.name).map(|at| &node.reals[at]);
            let is_down = i32::from(newest.is_none_or(|newest| newest.over.is_some()));
            let ends = kept.restarts + is_down;
            let expected = count(&node.crashes) + i32::try_from(asked).unwrap();
            ensure(ends == expected, Law::Restarts, || format!("{} ended {ends} times, not {expected}", kept.name))?;
        }
        Ok(())
    }
}

/// A write that was taken, and what it was decided upon.
pub struct Wrote<'a> {
    pub before: &'a Stored,
    pub after: &'a Stored,
    pub patch: &'a Value,
    pub instances: &'a [Instance],
    pub reals: &'a [usize],
    pub node: &'a Node,
    /// When it was decided.
    pub now: Timestamp,
}

/// What holds of every write, whoever writes.
pub fn accepted(old: &Request, new: &Request) -> Lawful {
    let (before, after) = (&old.status, &new.status);
    let phases = after.container_recreate_states.iter().map(|state| state.phase.as_str());
    let are_known =
        PHASES.contains(&&*after.phase) && phases.into_iter().all(|phase| CONTAINER_PHASES.contains(&phase));
    ensure(are_known, Law::Accepted, || format!("{}: {after:?}", new.name))?;
    if old.has_ended() {
        let end = |status: &outrigger::api::recreate::RecreateStatus| {
            (status.phase.clone(), status.message.clone(), status.completion_time.as_ref().map(|time| time.0))
        };
        ensure(end(before) == end(after), Law::Ended, || format!("{}: {before:?} became {after:?}", new.name))?;
    }
    let ends = new.has_ended() == after.completion_time.is_some();
    ensure(ends, Law::Accepted, || format!("{}: {after:?}", new.name))?;
    for state in before.container_recreate_states.iter().filter(|state| is_settled(state)) {
        let is_same = self::state(new, &state.name) == Some(state);
        ensure(is_same, Law::Settled, || {
            format!("{}: {state:?} became {:?}", new.name, self::state(new, &state.name))
        })?;
    }
    Ok(())
}

pub fn is_drained(request: &Request) -> bool {
    let mut conditions = request.status.conditions.iter();
    conditions.any(|condition| condition.r#type == "PreRecreateGrace" && condition.status == "True")
}

/// Whether it was announced that an instance will be stopped.
fn has_intent(request: &Value, container: &str, instance: &Instance) -> bool {
    let mut conditions = request["status"]["conditions"].as_array().into_iter().flatten();
    let Some(condition) = conditions.find(|condition| condition["type"] == "ContainerStopping") else { return false };
    let intent: Value = serde_json::from_str(condition["message"].as_str().unwrap_or_default()).unwrap_or_default();
    intent["container"] == container
        && intent["containerID"] == instance.id.as_str()
        && intent["restartCount"] == instance.restart_count
}

/// What holds of a request when nothing happens any more.
pub fn at_rest(request: &Request, is_first: bool, has_acted: bool, node: &Node) -> Lawful {
    let name = &request.name;
    if request.has_ended() {
        return Ok(());
    }
    if request.is_going {
        return broken(Law::Ends, format!("{name} is kept by {:?}", request.finalizers));
    }
    if !is_first {
        // Two may have been begun when the answer to the first write was lost; nothing was done for the second.
        let waits = request.status.phase == "Pending" || !has_acted;
        return ensure(waits, Law::Ends, || format!("{name} is {:?}", request.status));
    }
    let mut waits = request.spec.containers.iter().map(|named| named.name.as_str());
    let waits = waits.find(|container| {
        state(request, container).is_some_and(|state| !is_settled(state)) && !node.is_well(container)
    });
    let Some(container) = waits.filter(|_| request.status.phase == "Recreating") else {
        return broken(Law::Ends, format!("{name} does not end, and all is well: {:?}", request.status));
    };
    let message = state(request, container).map_or("", |state| &state.message);
    let word = node.word(container);
    let is_told =
        if word.is_empty() || word == "ContainerCreating" { !message.is_empty() } else { message.contains(word) };
    ensure(is_told, Law::Told, || format!("{container} of {name} waits ({word:?}), and {message:?} is said"))
}
