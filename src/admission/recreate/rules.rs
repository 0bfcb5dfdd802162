//! What a ContainerRecreateRequest must be to be admitted, and what is filled in (CRR-1 … CRR-45): of the object, its pod
//! and its Node, to a patch or a refusal.
//!
//! Every refusal names the member and says what to do. Codes are the reference's: 400 for what is wrong with the request or
//! its pod, 403 for what may not be done, 500 when the API server could not be asked.

use serde_json::{Map, Value, json};

use crate::admission::diff;
use crate::admission::object::object_at;
use crate::admission::patch::pointer;
use crate::api::json::decode;
use crate::api::names;
use crate::api::recreate::{RecreateContainer, RecreateSpec};
use crate::convert::promoted;
use crate::gates::Gates;

/// The shortest deadline (CRR-22).
const SHORTEST_DEADLINE: i64 = 3;

/// What an object was found to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Looked {
    /// This.
    Found(Value),
    /// There is none.
    Absent,
    /// It could not be read, for this reason.
    Failed(String),
}

/// A request that is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Admitted {
    /// JSON patch, if anything changes.
    pub(super) patch: Option<String>,
    /// What is legal, but likely not what was meant.
    pub(super) warnings: Vec<String>,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) code: u16,
    /// For people: which member, what is wrong, what to do.
    pub(super) message: String,
}

fn refusal(code: u16, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// CRR-1.
fn is_off() -> Refusal {
    refusal(
        403,
        "containers are not recreated on request here: the manager runs with the feature gate KruiseDaemon=false; \
         start it without, or with --feature-gates=KruiseDaemon=true",
    )
}

// === UPDATE ===

/// Whether an update may be (CRR-10 … CRR-14).
pub(super) fn updated(new: &Value, old: &Value, version: &str, gates: Gates) -> Result<Admitted, Refusal> {
    let is_going = new["metadata"]["deletionTimestamp"].is_string();
    // Differs: CRR-1. An object that is going away must be able to lose its finalizers, or it stays for ever.
    if !gates.daemon && !is_going {
        return Err(is_off());
    }
    if !same_spec(new, old) {
        return Err(refusal(
            403,
            "spec: must not be changed once the request is made; delete this request and create another",
        ));
    }
    for label in [names::RECREATE_POD_UID, names::RECREATE_NODE] {
        let value = |object: &Value| object["metadata"]["labels"].get(label).cloned();
        if value(new) != value(old) {
            let is = shown(value(old));
            return Err(refusal(
                403,
                format!("metadata.labels[{label}]: must not be changed, as it tells which pod is meant; keep it {is}"),
            ));
        }
    }
    // CRR-2: any other version is the older one.
    if version == "v1beta1" {
        return Ok(Admitted { patch: printed(stripped(new)), ..Admitted::default() });
    }
    // There the annotations are the status: who took them away would take it away (CONV-CRR-7).
    let since = |object: &Value| object["metadata"]["annotations"].get(names::UNREADY_ACQUIRED).cloned();
    let before = since(old).filter(|since| since.as_str().is_some_and(|since| !since.is_empty()));
    if before.is_some() && since(new) != before {
        let (key, is) = (names::UNREADY_ACQUIRED, shown(before));
        return Err(refusal(
            403,
            format!(
                "metadata.annotations[{key}]: must not be changed, as it tells since when the pod is unready; keep it {is}"
            ),
        ));
    }
    Ok(Admitted::default())
}

fn shown(value: Option<Value>) -> String {
    value.map_or_else(|| "unset".to_owned(), |value| value.to_string())
}

/// Differs: CRR-10. An absent list and an empty one are the same.
fn same_spec(new: &Value, old: &Value) -> bool {
    if new["spec"] == old["spec"] {
        return true;
    }
    let read = |object: &Value| decode::<RecreateSpec>(&object["spec"]).ok();
    matches!((read(new), read(old)), (Some(new), Some(old)) if new == old)
}

/// Takes away the annotations that mean something only in v1alpha1, where they become status (WEAK-14).
fn stripped(object: &Value) -> Vec<Value> {
    let path = |key| format!("/metadata/annotations/{}", pointer(key));
    promoted(object).into_iter().map(|key| json!({"op": "remove", "path": path(key)})).collect()
}

fn printed(operations: Vec<Value>) -> Option<String> {
    (!operations.is_empty()).then(|| Value::Array(operations).to_string())
}

// === CREATE: the request by itself ===

/// The name of the pod of a new request, when the request is in order by itself (CRR-1, CRR-20 … CRR-25).
pub(super) fn sent(sent: &Value, gates: Gates) -> Result<&str, Refusal> {
    if !gates.daemon {
        return Err(is_off());
    }
    let spec = spec(sent)?;
    if spec.pod_name.is_empty() {
        return Err(refusal(400, "spec.podName: is required; name the pod whose containers are to be restarted"));
    }
    if spec.containers.is_empty() {
        return Err(refusal(400, "spec.containers: is required; name at least one container of the pod"));
    }
    let strategy = spec.strategy.unwrap_or_default();
    if spec.active_deadline_seconds.is_some_and(|seconds| seconds < SHORTEST_DEADLINE) {
        let message =
            format!("spec.activeDeadlineSeconds: must be at least {SHORTEST_DEADLINE}, or left out for no limit");
        return Err(refusal(400, message));
    }
    // Differs: CRR-38. The schema of v1beta1, in which it is stored, lets no negative number be: every write of its status
    // would be refused, and the request would never end.
    let numbers = [
        ("strategy.terminationGracePeriodSeconds", strategy.termination_grace_period_seconds),
        ("strategy.unreadyGracePeriodSeconds", strategy.unready_grace_period_seconds),
        ("strategy.minStartedSeconds", Some(strategy.min_started_seconds.into())),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
    ];
    if let Some((field, Some(number))) = numbers.into_iter().find(|(_, number)| number.is_some_and(|n| n < 0)) {
        return Err(refusal(400, format!("spec.{field}: is {number}; must be 0 or more, or left out")));
    }
    if !matches!(strategy.failure_policy.as_str(), "" | "Fail" | "Ignore") {
        let policy = strategy.failure_policy;
        let message = format!("spec.strategy.failurePolicy: is {policy:?}; must be Fail (the default) or Ignore");
        return Err(refusal(400, message));
    }
    Ok(sent["spec"]["podName"].as_str().unwrap_or_default())
}

/// RSP-1.
fn spec(sent: &Value) -> Result<RecreateSpec, Refusal> {
    let decoded = decode::<RecreateSpec>(&sent["spec"]);
    decoded.map(|(spec, _)| spec).map_err(|error| {
        let path = if error.path.is_empty() { String::new() } else { format!(".{}", error.path) };
        refusal(400, format!("spec{path}: {}", error.message))
    })
}

/// Whether a text can be the name of a pod or a Node, so that asking for it means something.
pub(super) fn is_name(text: &str) -> bool {
    let is_ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_ok) && !text.starts_with('.')
}

// === CREATE: the pod ===

/// The pod and the name of its Node (CRR-26 … CRR-29).
pub(super) fn node_of<'p>(pod: &'p Looked, namespace: &str, name: &str) -> Result<(&'p Value, &'p str), Refusal> {
    let pod = match pod {
        Looked::Found(pod) => pod,
        Looked::Absent => {
            return Err(refusal(
                400,
                format!("spec.podName: there is no pod {name:?} in namespace {namespace:?}; name one that is there"),
            ));
        }
        Looked::Failed(reason) => {
            return Err(refusal(
                500,
                format!("spec.podName: the pod {name:?} cannot be looked at, so try again in a moment: {reason}"),
            ));
        }
    };
    if let Some(why) = inactive(pod) {
        return Err(refusal(
            400,
            format!("spec.podName: the pod {name:?} {why}, so nothing in it can be restarted; name one that runs"),
        ));
    }
    match pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        Some(node) => Ok((pod, node)),
        None => Err(refusal(
            400,
            format!(
                "spec.podName: the pod {name:?} is not on a node yet, so nothing runs that could be restarted; wait until it is scheduled"
            ),
        )),
    }
}

/// CRR-28.
fn inactive(pod: &Value) -> Option<&'static str> {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.any(|condition| condition["type"] == names::SIDECAR_TERMINATED) {
        return None;
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Some("is being deleted");
    }
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => Some("has ended (phase Succeeded)"),
        Some("Failed") => Some("has ended (phase Failed)"),
        _ => None,
    }
}

// === CREATE: all of it ===

/// A new request, filled in from its pod (CRR-30 … CRR-45).
pub(super) fn created(sent: &Value, pod: &Value, node: &Looked) -> Result<Admitted, Refusal> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let node = match node {
        Looked::Found(node) => node,
        Looked::Absent => {
            return Err(refusal(
                400,
                format!(
                    "spec.podName: the Node {name:?} of the pod is gone, and nobody there could restart anything; wait until the pod is replaced"
                ),
            ));
        }
        Looked::Failed(reason) => {
            return Err(refusal(
                500,
                format!(
                    "spec.podName: the Node {name:?} of the pod cannot be looked at, so try again in a moment: {reason}"
                ),
            ));
        }
    };
    let spec = spec(sent)?;
    let mut after = sent.clone();
    for index in 0..spec.containers.len() {
        let found = found(&spec.containers, index, pod)?;
        fill(&mut after["spec"]["containers"][index], &found);
    }

    let strategy = object_at(&mut after["spec"], "strategy");
    if strategy.get("failurePolicy").and_then(Value::as_str).unwrap_or_default().is_empty() {
        strategy.insert("failurePolicy".to_owned(), "Fail".into());
    }
    let grace = &pod["spec"]["terminationGracePeriodSeconds"];
    if strategy.get("terminationGracePeriodSeconds").is_none_or(Value::is_null) && grace.is_i64() {
        strategy.insert("terminationGracePeriodSeconds".to_owned(), grace.clone());
    }

    let labels = object_at(&mut after["metadata"], "labels");
    labels.insert(names::RECREATE_ACTIVE.to_owned(), "true".into());
    labels.insert(names::RECREATE_NODE.to_owned(), name.into());
    labels.insert(names::RECREATE_POD_UID.to_owned(), pod["metadata"]["uid"].as_str().unwrap_or_default().into());
    if node["metadata"]["labels"][names::NODE_TYPE] == names::VIRTUAL_KUBELET {
        labels.insert(names::NODE_TYPE.to_owned(), names::VIRTUAL_KUBELET.into());
    }

    let mut operations = diff::operations(sent, sent, &after);
    // WEAK-14: a copy of a request that has ended would begin with its status, the drain behind it.
    operations.extend(stripped(sent));
    Ok(Admitted { patch: printed(operations), warnings: warnings(&spec, pod) })
}

/// A container of the pod and how it is.
struct Found<'p> {
    container: &'p Value,
    status: &'p Value,
}

/// CRR-32 … CRR-36.
fn found<'p>(containers: &[RecreateContainer], index: usize, pod: &'p Value) -> Result<Found<'p>, Refusal> {
    let RecreateContainer { name, pre_stop, ports, status_context } = &containers[index];
    let wrong = |field: &str, what: String| Err(refusal(400, format!("spec.containers[{index}]{field}: {what}")));
    if containers[..index].iter().any(|other| other.name == *name) {
        return wrong(".name", format!("{name:?} is there twice; name each container once"));
    }
    let filled_in =
        [(".preStop", pre_stop.is_some()), (".ports", !ports.is_empty()), (".statusContext", status_context.is_some())];
    if let Some((field, _)) = filled_in.into_iter().find(|(_, is_set)| *is_set) {
        return wrong(field, "must not be set, as it is filled in from the pod; leave it out".to_owned());
    }
    let named = |list: &'p Value| list.as_array()?.iter().find(|item| item["name"] == name.as_str());
    let of = |list: &'static str| named(&pod["spec"][list]).map(|container| (list, container));
    let Some((list, container)) = of("initContainers").or_else(|| of("containers")) else {
        let there = named_containers(pod);
        return wrong(".name", format!("the pod has no container {name:?}; it has {there}"));
    };
    let is_init = list == "initContainers";
    if is_init && container["restartPolicy"] != "Always" {
        return wrong(
            ".name",
            format!(
                "{name:?} is an init container, which runs once and is not restarted; name one of {}",
                named_containers(pod)
            ),
        );
    }
    // WEAK-10: sidecars among the init containers have their statuses elsewhere.
    let statuses = if is_init { "initContainerStatuses" } else { "containerStatuses" };
    let Some(status) = named(&pod["status"][statuses]) else {
        return wrong(".name", format!("{name:?} has no status in the pod yet; wait until it has been started"));
    };
    if status["containerID"].as_str().unwrap_or_default().is_empty() {
        let why = status["state"]["waiting"]["reason"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        return wrong(".name", format!("{name:?} has not been started yet{why}; wait until it has been"));
    }
    Ok(Found { container, status })
}

/// The containers that can be restarted.
fn named_containers(pod: &Value) -> String {
    let of = |list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
    let sidecars = of("initContainers").into_iter().filter(|container| container["restartPolicy"] == "Always");
    let names: Vec<String> = sidecars
        .chain(of("containers"))
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// CRR-43 … CRR-45.
fn fill(target: &mut Value, found: &Found<'_>) {
    let Found { container, status } = found;
    target["statusContext"] = json!({
        "containerID": status["containerID"],
        "restartCount": status["restartCount"].as_i64().unwrap_or_default(),
    });
    let hook = &container["lifecycle"]["preStop"];
    let known = |member: &str| Some((member.to_owned(), hook.get(member).filter(|value| value.is_object())?.clone()));
    let pre_stop: Map<String, Value> = ["exec", "httpGet", "tcpSocket"].into_iter().filter_map(known).collect();
    // WEAK-5: of a hook that only sleeps there is nothing to record here; the daemon reads it from the pod.
    if !pre_stop.is_empty() {
        let is_http = pre_stop.contains_key("httpGet");
        target["preStop"] = pre_stop.into();
        let ports = container["ports"].as_array().filter(|ports| is_http && !ports.is_empty());
        if let Some(ports) = ports {
            target["ports"] = json!(ports);
        }
    }
}

/// What would otherwise be a surprise, or a wait without a reason.
fn warnings(spec: &RecreateSpec, pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if pod["spec"]["restartPolicy"] == "Never" {
        warnings.push(
            "spec.podName: the pod's restartPolicy is Never: its containers are stopped, and the kubelet does not start them again"
                .to_owned(),
        );
    }
    let drains = spec.strategy.as_ref().is_some_and(|strategy| strategy.unready_grace_period_seconds.is_some());
    if drains && !crate::readiness::has_gate(pod) {
        // WEAK-11
        let gate = names::POD_READY_GATE;
        warnings.push(format!(
            "spec.strategy.unreadyGracePeriodSeconds: the pod has no readiness gate {gate}, so it stays ready while it waits"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
