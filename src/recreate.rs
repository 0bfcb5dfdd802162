//! Stub of what decides, until the real one is merged.
#![allow(missing_docs, clippy::needless_pass_by_value)]

use core::time::Duration;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub id: String,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub state: State,
    pub restart_count: i32,
    pub exit_code: i32,
}

#[derive(Clone, Debug, Default)]
pub struct Underway {
    pub hooks: BTreeMap<String, Option<Result<(), String>>>,
    pub stops: BTreeMap<String, Option<Result<(), String>>>,
}

pub struct Seen<'a> {
    pub runtime: Result<&'a [Instance], &'a str>,
    pub pod: Option<&'a Value>,
    pub underway: &'a Underway,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Rest { wake: Option<Duration> },
    Patch(Value),
    Hook { container: String, id: String, hook: Value, limit: Duration },
    Stop { container: String, id: String, grace: Duration },
}

pub fn choose(requests: &[&Value]) -> (Option<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..requests.len())
        .filter(|i| {
            requests[*i]["status"]["phase"] != "Completed" && requests[*i]["metadata"]["deletionTimestamp"].is_null()
        })
        .collect();
    order.sort_by_key(|i| {
        let request = requests[*i];
        let rank = match request["status"]["phase"].as_str() {
            Some("Recreating") => 0,
            Some("Pending") => 1,
            _ => 2,
        };
        let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (rank, text("/metadata/creationTimestamp"), text("/metadata/name"))
    });
    let pending = order.iter().skip(1).copied();
    let pending = pending.filter(|i| requests[*i]["status"]["phase"].as_str().unwrap_or_default().is_empty()).collect();
    (order.first().copied(), pending)
}

fn patch(request: &Value, status: Value) -> Step {
    Step::Patch(json!({"metadata": {"resourceVersion": request["metadata"]["resourceVersion"]}, "status": status}))
}

pub fn step(request: &Value, seen: &Seen<'_>, now: Timestamp) -> Step {
    if request["status"]["phase"] != "Recreating" {
        return patch(request, json!({"phase": "Recreating"}));
    }
    let complete = || {
        patch(request, json!({"phase": "Completed", "completionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}))
    };
    let Ok(instances) = seen.runtime else { return Step::Rest { wake: None } };
    let Some(pod) = seen.pod else { return Step::Rest { wake: None } };
    let strategy = &request["spec"]["strategy"];
    if !strategy["unreadyGracePeriodSeconds"].is_null()
        && request["status"]["conditions"].as_array().is_none_or(Vec::is_empty)
    {
        return Step::Rest { wake: None };
    }
    let before = request["status"]["containerRecreateStates"].as_array().cloned().unwrap_or_default();
    let mut states = Vec::new();
    let mut act = None;
    for (at, wanted) in request["spec"]["containers"].as_array().into_iter().flatten().enumerate() {
        let name = wanted["name"].as_str().unwrap_or_default();
        let old =
            wanted["statusContext"]["containerID"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let newest = instances.iter().find(|instance| instance.name == name);
        let mut state = before.get(at).cloned().unwrap_or_else(|| json!({"name": name, "phase": "Pending"}));
        let ready = pod["status"]["containerStatuses"].as_array().into_iter().flatten().any(|status| {
            status["name"] == name
                && status["ready"] == true
                && newest.is_some_and(|n| status["containerID"].as_str().unwrap_or_default().ends_with(&n.id))
        });
        match newest {
            Some(newest) if newest.id != old => {
                state["phase"] = if ready { json!("Succeeded") } else { json!("Recreating") };
                state["isKilled"] = json!(true);
            }
            Some(newest) if newest.state == State::Exited => {
                state["phase"] = json!("Recreating");
                state["isKilled"] = json!(true);
            }
            Some(_) => {
                let blocked =
                    strategy["orderedRecreate"] == true && states.iter().any(|s: &Value| s["phase"] != "Succeeded");
                if act.is_none() && !blocked {
                    act = Some((name.to_owned(), old.to_owned()));
                }
            }
            None => {}
        }
        states.push(state);
    }
    if states != before {
        return patch(request, json!({"containerRecreateStates": states}));
    }
    if states.iter().all(|state| state["phase"] == "Succeeded") {
        return complete();
    }
    if let Some((container, id)) = act {
        let grace = strategy["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let containers = pod["spec"]["containers"].as_array();
        let spec = containers.into_iter().flatten().find(|spec| spec["name"] == *container);
        let hook = spec.map(|spec| spec["lifecycle"]["preStop"].clone()).unwrap_or_default();
        match seen.underway.hooks.get(&id) {
            None if !hook.is_null() && grace > 0 => {
                return Step::Hook { container, id, hook, limit: Duration::from_secs(grace) };
            }
            Some(None) => return Step::Rest { wake: None },
            _ => {}
        }
        if let Some(None) = seen.underway.stops.get(&id) {
            return Step::Rest { wake: None };
        }
        return Step::Stop { container, id, grace: Duration::from_secs(grace.max(2)) };
    }
    Step::Rest { wake: Some(Duration::from_secs(3)) }
}
