//! The next step for one request (CRR-25 … CRR-28, CRR-40 … CRR-59).

use core::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::intent::{Identity, Intent};
use super::pod::{Pod, Status};
use super::underway::{Stage, Stopping, Underway};
use super::{Instance, Request, State};
use crate::api::recreate::{PRE_RECREATE_GRACE, RecreateContainer, RecreateState};

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
    let mut change = Change::default();
    change.complete(why.to_owned(), now);
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
        return late(request, instances, underway);
    }
    // The manager completes requests whose pod has gone (CRR-13).
    let Some(pod) = pod.filter(|pod| pod.uid == request.pod_uid && !pod.is_going_away) else { return REST };

    let mut change = Change::default();
    if request.status.phase != RECREATING {
        change.phase = Some(RECREATING);
    }
    let strategy = request.spec.strategy.clone().unwrap_or_default();
    if let Some(seconds) = strategy.unready_grace_period_seconds {
        let is_drained = request.status.conditions.iter().any(is_drained);
        if change.phase.is_some() || !is_drained {
            return if change.phase.is_some() { Step::Write(change.patch(request)) } else { REST };
        }
        let end = underway.drained(request, SignedDuration::from_secs(seconds.max(0)), now);
        if end > now {
            return Step::Rest { wake: wait(end, now) };
        }
    }

    let look = Look { request, pod, instances, intent: Intent::of(request), now };
    let mut walk = look.walk(underway);
    if walk.states != request.status.container_recreate_states {
        change.states = Some(std::mem::take(&mut walk.states));
    }
    match walk.end {
        End::Rest => {}
        End::Complete(message) => change.complete(message, now),
        End::Stop { at, instance } => {
            let container = &request.spec.containers[at].name;
            let identity = Identity::of(instance);
            let is_written =
                look.intent.as_ref().filter(|intent| intent.container == *container && intent.instance == identity);
            if let (Some(intent), true) = (is_written, change.is_empty()) {
                return look.act(intent, underway);
            }
            if is_written.is_none() {
                change.intent =
                    After::This(Intent { container: container.clone(), instance: identity.clone(), since: now });
                underway.stop = Some(Stopping {
                    request: request.uid.clone(),
                    container: container.clone(),
                    instance: identity,
                    stage: Stage::Intended,
                });
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

/// CRR-61: what came of a stop is written to a request that was completed meanwhile, and nothing else. WEAK-15: its phase
/// stays.
fn late(request: &Request, instances: &[Instance], underway: &mut Underway) -> Step {
    let stop = underway.stop.take().filter(|stop| stop.request == request.uid && !request.is_going);
    let Some(stop) = stop else { return Step::Rest { wake: None } };
    let newest = instances.iter().find(|instance| instance.name == stop.container);
    let mut states = request.status.container_recreate_states.clone();
    let state = states.iter_mut().find(|state| state.name == stop.container && !is_terminal(state));
    if let Some(state) = state
        && stop.is_done(newest)
        && !state.is_killed
    {
        (state.is_killed, state.phase) = (true, RECREATING.to_owned());
        let change = Change { states: Some(states), intent: After::None, ..Change::default() };
        return Step::Write(change.patch(request));
    }
    Step::Rest { wake: None }
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
    Complete(String),
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
                        // WEAK-9: the reference says nothing here.
                        walk.end = End::Complete(format!("container {}: {}", state.name, state.message));
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
            let failed = walk.states.iter().filter(|state| state.phase == FAILED);
            let failed: Vec<String> =
                failed.map(|state| format!("container {}: {}", state.name, state.message)).collect();
            walk.end = End::Complete(failed.join("; "));
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
            return (state(FAILED, format!("kill container error: {error}")), None);
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
                    Health::Waits(why, wait) => (state(RECREATING, why.unwrap_or_default()), wait),
                };
            }
        }
        // WEAK-9: a new one does not come, and it is said why.
        let reason = self.reason(name);
        let message =
            if reason.is_empty() { String::new() } else { format!("the new container does not start{reason}") };
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

    /// CRR-51, CRR-54, CRR-55: the hook, then the stop, of an instance whose end was announced.
    fn act(&self, intent: &Intent, underway: &mut Underway) -> Step {
        let Intent { container, instance, since } = intent;
        let strategy = self.request.spec.strategy.as_ref();
        let grace = strategy.and_then(|strategy| strategy.termination_grace_period_seconds).unwrap_or(GRACE).max(0);
        let known = underway.stop_of(self.request, container).filter(|stop| stop.instance == *instance);
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
        underway.stop = Some(Stopping {
            request: self.request.uid.clone(),
            container: container.clone(),
            instance: instance.clone(),
            stage: Stage::StopRuns { attempt },
        });
        let left = grace.saturating_sub(took.as_secs()).max(LEAST_GRACE);
        Step::Stop {
            container: container.clone(),
            id: instance.id.clone(),
            grace: Duration::from_secs(left.unsigned_abs()),
        }
    }
}

fn is_drained(condition: &crate::api::meta::Condition) -> bool {
    condition.r#type == PRE_RECREATE_GRACE && condition.status == "True"
}

fn is_terminal(state: &RecreateState) -> bool {
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
    /// When and why it ended.
    end: Option<(Timestamp, String)>,
    states: Option<Vec<RecreateState>>,
    intent: After,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.phase.is_none() && self.states.is_none() && matches!(self.intent, After::Same)
    }

    fn complete(&mut self, message: String, now: Timestamp) {
        self.phase = Some(COMPLETED);
        self.end = Some((now, message));
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
        if let Some((time, message)) = self.end {
            status.insert("completionTime".to_owned(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
            if !message.is_empty() {
                status.insert("message".to_owned(), message.into());
            }
        }
        if let Some(states) = self.states {
            status.insert("containerRecreateStates".to_owned(), json!(states));
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
