//! What the controller does next for one ContainerRecreateRequest: of the request, its pod and the time, one step (CRR-11 …
//! CRR-19, CRR-30 … CRR-34, CRR-60).
//!
//! ```text
//! ended or going away ─▶ release the pod, take finalizer and label off ─▶ its time is over ─▶ delete
//! pod gone, nobody took it, deadline ─▶ complete, with the reason
//! being recreated ─▶ what the pod's containers are now ─▶ finalizer ─▶ unready ─▶ since when
//! ```
//!
//! Every step is repeated without harm, and each is there on the API server before the next: who is stopped between two of
//! them leaves the next one to do (CRR-34). A write is for the version of the request that it was decided upon.

use core::fmt::Write as _;
use core::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::meta::Condition;
use crate::api::names;
use crate::api::recreate::{ContainerSnapshot, PRE_RECREATE_GRACE};
use crate::readiness;
use crate::recreate::Request;

/// What the condition says of a pod that is kept unready; the reference's words.
const DRAINED: &str = "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain";
/// The text of the reference when the pod is gone (CRR-13).
const GONE: &str = "pod has gone";
/// The text of the reference when nobody took the request (CRR-14).
const UNANSWERED: &str = "daemon has not responded for a long time";
/// The text of the reference when the deadline is over (CRR-15).
const LATE: &str = "recreating has exceeded the activeDeadlineSeconds";

/// How patient the controller is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Within this time a daemon must have taken a request (CRR-14).
    pub response: Duration,
    /// How often a request is looked at while it is carried out: events of pods may lag (CRR-18).
    pub poll: Duration,
    /// How long a request is kept that has ended and names no time itself (WEAK-13); `None` is for good.
    pub default_ttl: Option<Duration>,
}

/// What was found of the pod.
#[derive(Clone, Copy, Debug)]
pub enum Looked<'p> {
    /// Nobody has looked yet.
    NotYet,
    /// There is none of this name.
    Absent,
    /// This one.
    Found(&'p Value),
}

/// How it went to make the pod unready, in this look at the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It was not tried.
    NotYet,
    /// It is unready.
    Done,
    /// Somebody else keeps it unready by this text, which cannot be read and is left alone (W-50).
    Foreign(String),
}

/// Everything a step is decided upon.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// The request.
    pub request: &'a Request,
    /// Its pod.
    pub pod: Looked<'a>,
    /// Whether the pod was made unready.
    pub blocked: Blocked,
    /// Whether the pod was released of this request.
    pub is_released: bool,
    /// Since when this process knows the request in its present phase.
    pub known_for: Duration,
    /// The time.
    pub now: Timestamp,
    /// How patient to be.
    pub patience: Patience,
}

/// Why a request ends that no daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// CRR-13.
    PodGone,
    /// CRR-14.
    NoDaemon,
    /// CRR-15.
    Deadline,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Look at the pod, then decide again.
    Look,
    /// End the request: a merge patch of its `/status`, and the message.
    Complete(End, Value, String),
    /// Tell what the containers are now: a merge patch of its `/status` (CRR-17).
    Snapshot(Value),
    /// Put the finalizer on: a merge patch (CRR-31).
    Hold(Value),
    /// Make the pod unready (CRR-31).
    Block,
    /// Tell since when it is: a merge patch of its `/status` (CRR-32).
    Drain(Value),
    /// Let the pod be ready again (CRR-12).
    Release,
    /// Take finalizer and label off: a merge patch (CRR-12).
    Finish(Value),
    /// Delete it (CRR-60).
    Delete,
    /// Nothing now; look again after this time, if any (CRR-19).
    Rest(Option<Duration>),
}

/// Decides the next step.
pub fn decide(input: &Input<'_>) -> Step {
    let request = input.request;
    if request.is_going || request.has_ended() {
        return finish(input);
    }
    let pod = match input.pod {
        Looked::NotYet => return Step::Look,
        Looked::Absent => return complete(input, End::PodGone, ": there is no pod of this name any more"),
        Looked::Found(pod) => pod,
    };
    if pod["metadata"]["uid"] != request.pod_uid.as_str() {
        return complete(input, End::PodGone, ": another pod of its name has taken its place");
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return complete(input, End::PodGone, ": it is being deleted");
    }

    let mut wake = None;
    let is_new = request.status.phase.is_empty();
    if is_new {
        // Differs: WEAK-8. Since it is known here, not since it was made by the clock of another machine.
        match left(input.patience.response, input.known_for) {
            None => {
                let told = format!(
                    ": none took the request within {} s; is one running on node {}? \
                     See `kubectl get pods -A -o wide --field-selector spec.nodeName={}`",
                    input.patience.response.as_secs(),
                    request.node,
                    request.node,
                );
                return complete(input, End::NoDaemon, &told);
            }
            Some(rest) => wake = Some(rest),
        }
    }
    if let (Some(seconds), Some(created)) = (request.spec.active_deadline_seconds, request.created) {
        let rest = SignedDuration::from_secs(seconds) - input.now.duration_since(created);
        if rest <= SignedDuration::ZERO {
            return complete(input, End::Deadline, &waiting_for(request, pod));
        }
        wake = Some(sooner(wake, rest.unsigned_abs()));
    }
    if request.status.phase != "Recreating" {
        return Step::Rest(wake);
    }
    let wake = sooner(wake, input.patience.poll);

    let snapshot = snapshot(request, pod);
    if snapshot != request.status.container_status_snapshot && !snapshot.is_empty() {
        return Step::Snapshot(request.status_patch(json!({"containerStatusSnapshot": snapshot})));
    }
    drain(input, pod).unwrap_or(Step::Rest(Some(wake)))
}

/// CRR-12, CRR-60.
fn finish(input: &Input<'_>) -> Step {
    let request = input.request;
    let is_held = request.finalizers.iter().any(|finalizer| finalizer == names::UNREADY_ACQUIRED);
    if is_held && !input.is_released {
        return Step::Release;
    }
    // WEAK-17: both in one write.
    if is_held || (request.is_active && !request.is_going) {
        let mut metadata = json!({"resourceVersion": request.version});
        if is_held {
            let others = request.finalizers.iter().filter(|finalizer| *finalizer != names::UNREADY_ACQUIRED);
            metadata["finalizers"] = others.cloned().collect();
        }
        if request.is_active {
            metadata["labels"] = json!({names::RECREATE_ACTIVE: null});
        }
        return Step::Finish(json!({"metadata": metadata}));
    }
    if request.is_going {
        return Step::Rest(None);
    }
    let own = request.spec.ttl_seconds_after_finished.map(|seconds| SignedDuration::from_secs(seconds.into()));
    let default = || input.patience.default_ttl.and_then(|ttl| SignedDuration::try_from(ttl).ok());
    let Some(ttl) = own.or_else(default) else { return Step::Rest(None) };
    let Some(since) = request.status.completion_time.as_ref().map(|time| time.0).or(request.created) else {
        return Step::Rest(None);
    };
    let rest = ttl - input.now.duration_since(since);
    if rest <= SignedDuration::ZERO { Step::Delete } else { Step::Rest(Some(rest.unsigned_abs())) }
}

/// CRR-16. Whoever ends it first has ended it: the patch is for this version (WEAK-15).
fn complete(input: &Input<'_>, end: End, details: &str) -> Step {
    let message = format!("{}{details}", end.text());
    let status = json!({
        "phase": "Completed", "completionTime": time(input.now), "message": message,
    });
    Step::Complete(end, input.request.status_patch(status), message)
}

/// CRR-17. Differs: WEAK-8, what is new is told by identity and not by comparing clocks of two machines, where there is one to
/// compare with; WEAK-10, sidecars among the init containers are looked at too.
fn snapshot(request: &Request, pod: &Value) -> Vec<ContainerSnapshot> {
    let statuses = |list: &str| pod["status"][list].as_array().into_iter().flatten();
    let of = |container: &crate::api::recreate::RecreateContainer| {
        let mut all = statuses("containerStatuses").chain(statuses("initContainerStatuses"));
        let status = all.find(|status| status["name"] == container.name.as_str())?;
        let running = status["state"]["running"].as_object()?;
        let id = status["containerID"].as_str().unwrap_or_default();
        let restarts = status["restartCount"].as_i64().unwrap_or_default();
        let is_new = match &container.status_context {
            Some(old) if !old.container_id.is_empty() => {
                id != old.container_id || restarts > i64::from(old.restart_count)
            }
            _ => {
                let started = running.get("startedAt").and_then(Value::as_str).and_then(|text| text.parse().ok());
                let started: Option<Timestamp> = started;
                started
                    .zip(request.created)
                    .is_some_and(|(started, created)| started.as_second() >= created.as_second())
            }
        };
        is_new.then(|| ContainerSnapshot {
            name: container.name.clone(),
            ready: status["ready"] == true,
            restart_count: i32::try_from(restarts).unwrap_or(i32::MAX),
            container_id: id.to_owned(),
        })
    };
    request.spec.containers.iter().filter_map(of).collect()
}

/// CRR-30 … CRR-34; `None` when nothing is to be done.
fn drain(input: &Input<'_>, pod: &Value) -> Option<Step> {
    let request = input.request;
    request.spec.strategy.as_ref()?.unready_grace_period_seconds?;
    let is_grace = |condition: &&Condition| condition.r#type == PRE_RECREATE_GRACE;
    // Once it is there it stays: a second one would begin the drain anew (CRR-32).
    if request.status.conditions.iter().find(is_grace).is_some_and(|condition| condition.status == "True") {
        return None;
    }
    let mut message = DRAINED.to_owned();
    if readiness::has_gate(pod) {
        if !request.finalizers.iter().any(|finalizer| finalizer == names::UNREADY_ACQUIRED) {
            let finalizers: Vec<&str> =
                request.finalizers.iter().map(String::as_str).chain([names::UNREADY_ACQUIRED]).collect();
            let metadata = json!({"resourceVersion": request.version, "finalizers": finalizers});
            return Some(Step::Hold(json!({"metadata": metadata})));
        }
        match &input.blocked {
            Blocked::NotYet => return Some(Step::Block),
            Blocked::Done => {}
            Blocked::Foreign(text) => {
                message = format!(
                    "the pod is kept not-ready by somebody else already, whose note in its condition {} cannot be read and \
                     is left alone: {text:?}",
                    names::POD_READY_GATE
                );
            }
        }
    } else {
        // WEAK-11: the reference claims that the pod was forced to be not-ready.
        message = format!(
            "the pod stays ready: it has no readiness gate {}; its containers are stopped after the same wait",
            names::POD_READY_GATE
        );
    }
    let others = request.status.conditions.iter().filter(|condition| !is_grace(condition));
    let mut conditions: Vec<Value> = others.map(|condition| json!(condition)).collect();
    conditions.push(json!({
        "type": PRE_RECREATE_GRACE, "status": "True", "reason": PRE_RECREATE_GRACE,
        "message": message, "lastTransitionTime": time(input.now),
    }));
    Some(Step::Drain(request.status_patch(json!({"conditions": conditions}))))
}

/// What the containers that are not done wait for (WEAK-9).
fn waiting_for(request: &Request, pod: &Value) -> String {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut told = Vec::new();
    for container in &request.spec.containers {
        let name = container.name.as_str();
        let state = request.status.container_recreate_states.iter().find(|state| state.name == name);
        let phase = state.map_or("Pending", |state| state.phase.as_str());
        if phase == "Succeeded" {
            continue;
        }
        let mut all = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
        let status = all.find(|status| status["name"] == name).unwrap_or(&Value::Null);
        let reason = |state: &str| status["state"][state]["reason"].as_str();
        let why = state.map(|state| state.message.clone()).filter(|message| !message.is_empty());
        let mut why = why
            .or_else(|| reason("waiting").map(str::to_owned))
            .or_else(|| ended(status))
            .unwrap_or(if phase == "Recreating" && status["ready"] != true { "not ready" } else { "" }.to_owned());
        let restarts = container.status_context.as_ref().map_or(0, |context| i64::from(context.restart_count));
        let restarts = status["restartCount"].as_i64().unwrap_or_default().saturating_sub(restarts);
        if phase == "Recreating" && restarts > 1 {
            let _ = write!(why, "; it was started {restarts} times since");
        }
        told.push(if why.is_empty() { format!("{name} is {phase}") } else { format!("{name} is {phase} ({why})") });
    }
    if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) }
}

/// How a container has ended, if it has.
fn ended(status: &Value) -> Option<String> {
    let terminated = status["state"]["terminated"].as_object()?;
    let text = |member: &str| terminated.get(member).and_then(Value::as_str).unwrap_or_default();
    let code = terminated.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
    Some(format!("it has ended with exit code {code}: {}", text("reason")))
}

/// What is left of a time; `None` when it is over.
fn left(whole: Duration, gone: Duration) -> Option<Duration> {
    whole.checked_sub(gone).filter(|rest| !rest.is_zero())
}

fn sooner(wake: Option<Duration>, other: Duration) -> Duration {
    wake.map_or(other, |wake| wake.min(other))
}

/// As Kubernetes prints it.
fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

// === impl End ===

impl End {
    /// The words of the reference, with which the message begins.
    pub fn text(self) -> &'static str {
        match self {
            Self::PodGone => GONE,
            Self::NoDaemon => UNANSWERED,
            Self::Deadline => LATE,
        }
    }

    /// In one word, for events.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PodGone => "PodGone",
            Self::NoDaemon => "DaemonNotResponding",
            Self::Deadline => "DeadlineExceeded",
        }
    }
}

#[cfg(test)]
mod tests;
