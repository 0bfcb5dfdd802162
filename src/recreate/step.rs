//! The next step for one request (CRR-25 … CRR-28, CRR-40 … CRR-59).

use core::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::intent::{Identity, Intent};
use super::pod::{Pod, Status};
use super::underway::{Stage, Stopping, Underway};
use super::{Instance, Request, State};
use crate::api::recreate::{ContainerSnapshot, PRE_RECREATE_GRACE, RecreateContainer, RecreateState};

/// Seconds that a container has to stop when nobody said how many (CRR-53).
const GRACE: i64 = 30;
/// The fewest seconds that a runtime is told (CRR-55).
const LEAST_GRACE: i64 = 2;
/// How long a new container may run without being ready until that is told.
const WARM_UP: SignedDuration = SignedDuration::from_secs(30);

const PENDING: &str = "Pending";
const RECREATING: &str = "Recreating";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const COMPLETED: &str = "Completed";

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing, until an object or a container changes, or for so long.
    Rest {
        /// The time after which time alone changes something.
        wake: Option<Duration>,
    },
    /// A merge patch of the request's `/status`, conditional on its version. Then it is decided anew.
    Write(Value),
    /// The hook of a container runs: begun now, and waited for no longer than `limit` (CRR-54).
    Hook {
        /// Name of the container.
        container: String,
        /// The runtime's id of the instance.
        id: String,
        /// What runs: a `lifecycle.preStop`.
        hook: Value,
        /// How long it is waited for.
        limit: Duration,
    },
    /// A container is stopped.
    Stop {
        /// Name of the container.
        container: String,
        /// The runtime's id of the instance.
        id: String,
        /// What the runtime gives it.
        grace: Duration,
    },
}

/// The name of the runtime that has all containers of a request (CRR-28), or what to complete it with.
pub fn runtime(request: &Request) -> Result<&str, String> {
    let mut found: Option<&str> = None;
    for container in &request.spec.containers {
        let id = container.status_context.as_ref().map_or("", |context| &context.container_id);
        let name = id.split_once("://").map(|(name, rest)| (name, rest.is_empty()));
        let Some((name, false)) = name.filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("failed to find runtime service: container {} has no id: {id:?}", container.name));
        };
        if found.is_some_and(|found| found != name) {
            return Err("failed to find runtime service: its containers are of several runtimes".to_owned());
        }
        found = Some(name);
    }
    found.ok_or_else(|| "failed to find runtime service: the request names no container".to_owned())
}

/// The write that ends a request since no runtime has its containers (CRR-28).
pub fn no_runtime(request: &Request, why: &str, now: Timestamp) -> Value {
    let mut change = Change { message: Some(why.to_owned()), ..Change::default() };
    change.complete(now);
    change.patch(request)
}

/// The next step for a request that was chosen. `instances` are all containers of its pod that the runtime knows, the newest
/// first (CRR-40).
pub fn step(
    request: &Request,
    pod: Option<&Pod>,
    instances: &[Instance],
    underway: &mut Underway,
    now: Timestamp,
) -> Step {
    const REST: Step = Step::Rest { wake: None };
    if underway.is_busy() {
        return REST;
    }
    if !request.is_live() {
        return late(request, pod, instances, underway, now);
    }
    // The manager completes requests whose pod has gone (CRR-13).
    let Some(pod) = pod.filter(|pod| stays(pod, request)) else { return REST };

    let mut change = Change::default();
    if request.status.phase != RECREATING {
        change.phase = Some(RECREATING);
    }
    let strategy = request.spec.strategy.clone().unwrap_or_default();
    // Once containers are told of, the drain is over, also for a process that did not see it begin.
    let is_begun = !request.status.container_recreate_states.is_empty();
    if let Some(seconds) = strategy.unready_grace_period_seconds.filter(|_| !is_begun) {
        if change.phase.is_some() {
            // WEAK-9
            change.message = Some(format!("waits until the manager has kept the pod unready for {seconds} s"));
            return Step::Write(change.patch(request));
        }
        if !request.status.conditions.iter().any(is_drained) {
            return REST;
        }
        let end = underway.drained(request, SignedDuration::from_secs(seconds.max(0)), now);
        if end > now {
            return Step::Rest { wake: wait(end, now) };
        }
    }

    let look = Look { request, pod, instances, intent: Intent::of(request), now };
    let mut walk = look.walk(underway);
    let message = summary(&walk.states);
    if message != request.status.message {
        change.message = Some(message);
    }
    if walk.states != request.status.container_recreate_states {
        change.states = Some(std::mem::take(&mut walk.states));
    }
    match walk.end {
        End::Rest => {}
        End::Complete => {
            change.complete(now);
            change.snapshot = look.snapshot();
        }
        End::Stop { at, instance } => {
            let container = &request.spec.containers[at].name;
            let identity = Identity::of(instance);
            let is_written =
                look.intent.as_ref().filter(|intent| intent.container == *container && intent.instance == identity);
            if let (Some(intent), true) = (is_written, change.is_empty()) {
                return look.act(intent, underway);
            }
            if is_written.is_none() {
                let intent = Intent { container: container.clone(), instance: identity, since: now };
                underway.intend(request, &intent, Stage::Intended);
                change.intent = After::This(intent);
            }
        }
    }
    if change.is_empty() {
        return Step::Rest { wake: walk.wake };
    }
    if matches!(change.intent, After::Same) && look.intent.as_ref().is_some_and(|intent| change.settles(intent)) {
        change.intent = After::None;
    }
    Step::Write(change.patch(request))
}

/// CRR-61, CRR-63: a request was completed or is deleted while its hook or stop ran. A container whose hook has run is
/// stopped, and what came of it is written; nothing else. WEAK-15: the phase stays.
fn late(request: &Request, pod: Option<&Pod>, instances: &[Instance], underway: &mut Underway, now: Timestamp) -> Step {
    const REST: Step = Step::Rest { wake: None };
    let left = underway.stop.clone().filter(|_| underway.is_left(request));
    let Some(stop) = left else { return REST };
    let newest = instances.iter().find(|instance| instance.name == stop.container);
    let is_over = stop.instance.is_over(newest);
    let next = match &stop.stage {
        Stage::HookOver { took } if !is_over => Some((1, *took)),
        Stage::NotStopped { attempt, .. } if !is_over && stop.failed().is_none() => {
            Some((attempt + 1, SignedDuration::from_secs(grace(request))))
        }
        _ => None,
    };
    if let Some((attempt, took)) = next {
        if !pod.is_some_and(|pod| stays(pod, request)) {
            // The kubelet ends all of its containers.
            underway.stop = None;
            return REST;
        }
        if let Some(pause) = stop.pause(now) {
            return Step::Rest { wake: Some(pause) };
        }
        underway.enter(Stage::StopRuns { attempt });
        return Step::Stop { grace: rest_of(grace(request), took), container: stop.container, id: stop.instance.id };
    }
    if matches!(stop.stage, Stage::HookOver { .. }) {
        // It has ended by itself meanwhile.
        underway.enter(Stage::Stopped);
        if !underway.is_left(request) {
            return REST;
        }
    }
    let mut states = request.status.container_recreate_states.clone();
    for state in states.iter_mut().filter(|state| state.name == stop.container) {
        match &stop.stage {
            Stage::NotStopped { error, .. } if !is_over => {
                (state.phase, state.message) = (FAILED.to_owned(), not_stopped(error));
            }
            _ => (state.is_killed, state.phase, state.message) = (true, RECREATING.to_owned(), String::new()),
        }
    }
    Step::Write(Change { states: Some(states), intent: After::None, ..Change::default() }.patch(request))
}

/// Whether it is the pod that is meant, and is there to stay.
fn stays(pod: &Pod, request: &Request) -> bool {
    pod.uid == request.pod_uid && !pod.is_going_away
}

// === one look ===

struct Look<'a> {
    request: &'a Request,
    pod: &'a Pod,
    instances: &'a [Instance],
    intent: Option<Intent>,
    now: Timestamp,
}

/// The states as they are, and what follows.
struct Walk<'a> {
    states: Vec<RecreateState>,
    end: End<'a>,
    wake: Option<Duration>,
}

enum End<'a> {
    Rest,
    Complete,
    /// The container of this index of the spec is to be stopped.
    Stop {
        at: usize,
        instance: &'a Instance,
    },
}

/// How a new container is doing.
enum Health {
    Good,
    /// It may be as soon as so much time has gone by.
    In(Duration),
    /// It is not, and why, if that is worth telling.
    Waits(Option<String>, Option<Duration>),
}

impl<'a> Look<'a> {
    /// CRR-41, then CRR-45 and CRR-46.
    fn walk(&self, underway: &Underway) -> Walk<'a> {
        let strategy = self.request.spec.strategy.clone().unwrap_or_default();
        let mut walk = Walk { states: Vec::new(), end: End::Rest, wake: None };
        for container in &self.request.spec.containers {
            let (state, wake) = self.state(container, strategy.force_recreate, underway);
            walk.wake = earlier(walk.wake, wake);
            walk.states.push(state);
        }
        let mut ended = 0;
        for (at, container) in self.request.spec.containers.iter().enumerate() {
            let state = &mut walk.states[at];
            match state.phase.as_str() {
                SUCCEEDED => ended += 1,
                FAILED => {
                    ended += 1;
                    if strategy.failure_policy != "Ignore" {
                        walk.end = End::Complete;
                        return walk;
                    }
                }
                RECREATING => {
                    // Even if somebody else ended it.
                    state.is_killed = true;
                    if strategy.ordered_recreate {
                        return walk;
                    }
                }
                _ => {
                    if let Some(instance) = self.newest(&container.name) {
                        walk.end = End::Stop { at, instance };
                    }
                    return walk;
                }
            }
        }
        if ended == walk.states.len() {
            walk.end = End::Complete;
        }
        walk
    }

    /// CRR-41: what became of a container, and when that may change by time alone.
    fn state(
        &self,
        container: &RecreateContainer,
        is_forced: bool,
        underway: &Underway,
    ) -> (RecreateState, Option<Duration>) {
        let name = &container.name;
        let before = self.request.status.container_recreate_states.iter().find(|state| state.name == *name);
        if let Some(ended) = before.filter(|state| is_terminal(state)) {
            return (ended.clone(), None);
        }
        let newest = self.newest(name);
        let stop = underway.stop_of(self.request, name);
        let intent = self.intent.as_ref().filter(|intent| intent.container == *name);
        let is_killed = before.is_some_and(|state| state.is_killed)
            || stop.is_some_and(|stop| stop.is_done(newest))
            // WEAK-2: it was to be stopped, and is gone: whoever did it, it is done.
            || intent.is_some_and(|intent| intent.instance.is_over(newest));
        let state = |phase: &str, message: String| RecreateState {
            name: name.clone(),
            phase: phase.to_owned(),
            message,
            is_killed,
        };
        if let Some(error) = stop.filter(|_| !is_killed).and_then(Stopping::failed) {
            return (state(FAILED, not_stopped(error)), None);
        }
        let Some(newest) = newest else {
            return (state(PENDING, format!("container {name} was not found on the node{}", self.reason(name))), None);
        };
        let is_replaced = container.status_context.as_ref().is_none_or(|context| {
            let id = context.container_id.split_once("://").map_or("", |(_, id)| id);
            Identity { id: id.to_owned(), restart_count: context.restart_count }.is_replaced_by(newest)
        });
        if newest.state != State::Exited {
            if !is_killed && (is_forced || !is_replaced) {
                return (state(PENDING, String::new()), None);
            }
            if is_replaced {
                return match self.health(newest) {
                    // CRR-48: also when somebody else has ended the old one.
                    Health::Good => (RecreateState { is_killed: true, ..state(SUCCEEDED, String::new()) }, None),
                    Health::In(wait) => (state(RECREATING, String::new()), Some(wait)),
                    Health::Waits(why, wait) => {
                        // WEAK-9: one that crashes at once is seen running now and then.
                        let crash = self.end(container).map(|end| format!("the new container has ended with {end}"));
                        (state(RECREATING, crash.or(why).unwrap_or_default()), wait)
                    }
                };
            }
        }
        // WEAK-9: a new one does not come, and it is said why.
        let reason = match (self.reason(name), self.end(container)) {
            (reason, Some(end)) if reason.is_empty() => format!(": it has ended with {end}"),
            (reason, _) => reason,
        };
        let policy = self.pod.container(name).map_or("", |container| &container.restart_policy);
        let message = match (reason.as_str(), policy) {
            ("", "Never" | "OnFailure") => {
                format!(
                    "the container has ended, and the kubelet starts it again by its restartPolicy only, which is {policy}"
                )
            }
            ("", _) => String::new(),
            (reason, _) => format!("the new container does not start{reason}, after {} restarts", newest.restart_count),
        };
        (state(RECREATING, message), None)
    }

    /// CRR-42. Differs: WEAK-8, what the node's own watch of the pod says is as good as what the manager noted.
    fn health(&self, newest: &Instance) -> Health {
        let is_it = |id: &str, restarts: i32| {
            id.split_once("://").is_some_and(|(_, id)| id == newest.id) && restarts >= newest.restart_count
        };
        let status = self.pod.container(&newest.name).and_then(|container| container.status.as_ref());
        let snapshot = &self.request.status.container_status_snapshot;
        let is_ready = status.is_some_and(|status| status.is_ready && is_it(&status.id, status.restart_count))
            || snapshot
                .iter()
                .any(|seen| seen.name == newest.name && seen.ready && is_it(&seen.container_id, seen.restart_count));
        let started = Timestamp::from_nanosecond(i128::from(newest.started_at)).unwrap_or_default();
        let ran = self.now.duration_since(started);
        if newest.state != State::Running || newest.started_at == 0 {
            return Health::Waits(None, None);
        }
        if !is_ready {
            let why = "the new container runs and is not ready: its probes, or its postStart hook";
            let left = WARM_UP - ran;
            return if left.is_positive() {
                Health::Waits(None, Duration::try_from(left.min(WARM_UP)).ok())
            } else {
                Health::Waits(Some(why.to_owned()), None)
            };
        }
        let least = i64::from(self.request.spec.strategy.as_ref().map_or(0, |strategy| strategy.min_started_seconds));
        let least = SignedDuration::from_secs(least.max(0));
        if least.is_zero() || ran > least {
            return Health::Good;
        }
        // Its clock is the node's own; one that was set back is no reason to wait longer than was asked for.
        let left = (least - ran).min(least) + SignedDuration::from_millis(100);
        Duration::try_from(left).map_or(Health::Good, Health::In)
    }

    /// CRR-17: what the manager may not have noted when the request ends, as this node's own watch is faster (WEAK-8).
    fn snapshot(&self) -> Option<Vec<ContainerSnapshot>> {
        let stored = &self.request.status.container_status_snapshot;
        let of = |container: &RecreateContainer| {
            let status = self.pod.container(&container.name).and_then(|container| container.status.as_ref());
            let newest = self.newest(&container.name);
            let new = status.filter(|status| {
                newest.is_some_and(|newest| newest.state == State::Running && status.id.ends_with(&newest.id))
                    && container
                        .status_context
                        .as_ref()
                        .is_none_or(|old| old.container_id != status.id || status.restart_count > old.restart_count)
            });
            let new = new.map(|status| ContainerSnapshot {
                name: container.name.clone(),
                ready: status.is_ready,
                restart_count: status.restart_count,
                container_id: status.id.clone(),
            });
            new.or_else(|| stored.iter().find(|seen| seen.name == container.name).cloned())
        };
        let seen: Vec<_> = self.request.spec.containers.iter().filter_map(of).collect();
        (!seen.is_empty() && seen != *stored).then_some(seen)
    }

    fn newest(&self, name: &str) -> Option<&'a Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }

    /// The kubelet's word for why a container does not start; empty while all is as it should be.
    fn reason(&self, name: &str) -> String {
        let status = self.pod.container(name).and_then(|container| container.status.as_ref());
        match status {
            Some(Status { waiting, details, .. }) => match waiting.as_str() {
                "" | "ContainerCreating" | "PodInitializing" => String::new(),
                reason if details.is_empty() => format!(": {reason}"),
                reason => format!(": {reason}: {details}"),
            },
            None => String::new(),
        }
    }

    /// How an instance ended that came after the one that was to be restarted.
    fn end(&self, container: &RecreateContainer) -> Option<&'a str> {
        let old = container.status_context.as_ref().map_or("", |context| &context.container_id);
        let status = self.pod.container(&container.name).and_then(|container| container.status.as_ref())?;
        status.ends.iter().find(|(id, _)| id != old).map(|(_, end)| end.as_str())
    }

    /// CRR-51, CRR-54, CRR-55: the hook, then the stop, of an instance whose end was announced.
    fn act(&self, intent: &Intent, underway: &mut Underway) -> Step {
        let Intent { container, instance, since } = intent;
        let grace = grace(self.request);
        let known = underway.stop_of(self.request, container);
        let known = known.filter(|stop| stop.instance == *instance && stop.since == *since);
        let (attempt, took) = match known.map(|stop| &stop.stage) {
            Some(Stage::Intended) => {
                let hook = self.pod.container(container).and_then(|container| container.hook.clone());
                if let Some(hook) = hook.filter(|_| grace > 0) {
                    underway.enter(Stage::HookRuns { since: self.now });
                    let limit = Duration::from_secs(grace.unsigned_abs());
                    return Step::Hook { container: container.clone(), id: instance.id.clone(), hook, limit };
                }
                (1, SignedDuration::ZERO)
            }
            Some(Stage::HookOver { took }) => (1, *took),
            Some(Stage::NotStopped { attempt, .. }) => {
                if let Some(pause) = known.and_then(|stop| stop.pause(self.now)) {
                    return Step::Rest { wake: Some(pause) };
                }
                (attempt + 1, SignedDuration::from_secs(grace))
            }
            // WEAK-2: the process before this one meant to stop it, and may have run the hook. What is left of its time is
            // known.
            _ => (1, self.now.duration_since(*since).max(SignedDuration::ZERO)),
        };
        underway.intend(self.request, intent, Stage::StopRuns { attempt });
        Step::Stop { container: container.clone(), id: instance.id.clone(), grace: rest_of(grace, took) }
    }
}

/// Seconds that a container has to stop (CRR-53).
fn grace(request: &Request) -> i64 {
    let strategy = request.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.termination_grace_period_seconds).unwrap_or(GRACE).max(0)
}

/// What the runtime is told when a hook took so long (CRR-54, CRR-55).
fn rest_of(grace: i64, took: SignedDuration) -> Duration {
    Duration::from_secs(grace.saturating_sub(took.as_secs()).max(LEAST_GRACE).unsigned_abs())
}

fn not_stopped(error: &str) -> String {
    format!("kill container error: {error}")
}

/// Why containers failed, and what others wait for, in one text (WEAK-9). The reference says nothing when it ends by its
/// failurePolicy.
fn summary(states: &[RecreateState]) -> String {
    let told = states.iter().filter(|state| !state.message.is_empty());
    told.map(|state| format!("container {}: {}", state.name, state.message)).collect::<Vec<_>>().join("; ")
}

fn is_drained(condition: &crate::api::meta::Condition) -> bool {
    condition.r#type == PRE_RECREATE_GRACE && condition.status == "True"
}

pub(super) fn is_terminal(state: &RecreateState) -> bool {
    matches!(state.phase.as_str(), SUCCEEDED | FAILED)
}

fn wait(end: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(end.duration_since(now)).ok()
}

fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

// === writing ===

/// The intent that a request has afterwards.
#[derive(Default)]
enum After {
    #[default]
    Same,
    None,
    This(Intent),
}

/// What is to be written to a request. WEAK-17: all at once.
#[derive(Default)]
struct Change {
    phase: Option<&'static str>,
    /// When it ended.
    end: Option<Timestamp>,
    /// The text that it has from now on, which may be none.
    message: Option<String>,
    states: Option<Vec<RecreateState>>,
    /// The containers as they are at the end.
    snapshot: Option<Vec<ContainerSnapshot>>,
    intent: After,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.phase.is_none() && self.message.is_none() && self.states.is_none() && matches!(self.intent, After::Same)
    }

    fn complete(&mut self, now: Timestamp) {
        self.phase = Some(COMPLETED);
        self.end = Some(now);
    }

    /// Whether nothing is meant any more by an intent.
    fn settles(&self, intent: &Intent) -> bool {
        let states = self.states.iter().flatten();
        self.end.is_some()
            || states.filter(|state| state.name == intent.container).any(|state| state.is_killed || is_terminal(state))
    }

    fn patch(self, request: &Request) -> Value {
        let mut status = Map::new();
        if let Some(phase) = self.phase {
            status.insert("phase".to_owned(), phase.into());
        }
        if let Some(time) = self.end {
            status.insert("completionTime".to_owned(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        }
        if let Some(message) = self.message {
            let none = message.is_empty();
            status.insert("message".to_owned(), if none { Value::Null } else { message.into() });
        }
        if let Some(states) = self.states {
            status.insert("containerRecreateStates".to_owned(), json!(states));
        }
        if let Some(snapshot) = self.snapshot {
            status.insert("containerStatusSnapshot".to_owned(), json!(snapshot));
        }
        let conditions = match &self.intent {
            After::Same => None,
            After::None => Some(Intent::conditions(request, None)),
            After::This(intent) => Some(Intent::conditions(request, Some(intent))),
        };
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions.into());
        }
        request.status_patch(Value::Object(status))
    }
}
