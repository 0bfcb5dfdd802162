//! Several writers of one condition: who keeps a pod unready, and the patch that adds or removes one of them (PR-3 … PR-7,
//! RDY-4 … RDY-9).
//!
//! The message of `KruisePodReady` lists who wants the pod unready. It is true only when nobody is left. What others have
//! written is kept as it is, whatever it is.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::has_gate;
use crate::api::names::POD_READY_GATE;

/// Bytes of a message that is quoted.
const QUOTED: usize = 100;

/// One who keeps a pod unready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Which kind of writer, such as `ContainerRecreateRequest`.
    pub user_agent: &'static str,
    /// Which one of them, such as `shop/restart-7`.
    pub key: String,
}

/// What is to be written to a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This strategic merge patch of `/status`, for the very version of the pod that it was made of.
    Patch(Value),
    /// Nothing: it is so already.
    Already,
    /// Nothing: the pod has no such gate, so nothing would come of it (RDY-5).
    NoGate,
    /// Nothing: somebody keeps the pod unready in a way that cannot be read, and would be lost (PR-7).
    Foreign(String),
}

/// How the condition is.
struct Found<'p> {
    /// `True`, `False`, or anything; `None` when there is no condition.
    status: Option<&'p str>,
    message: Message,
}

/// What the message says.
enum Message {
    /// These; what is no pair of ours is a [`Value`] like the others.
    Pairs(Vec<Value>),
    /// Something else.
    Other(String),
}

/// Adds a key, which makes the pod unready at once (PR-4).
pub fn blocked(pod: &Value, key: &Key, now: Timestamp) -> Change {
    if !has_gate(pod) {
        return Change::NoGate;
    }
    let Found { status, message } = found(pod);
    let mut pairs = match message {
        Message::Pairs(pairs) => pairs,
        // Who is ready is kept by nobody: whatever the text says, nothing is lost with it.
        Message::Other(_) if status == Some("True") => Vec::new(),
        // W-50: the reference takes it for an empty list, and whoever wrote it loses his hold.
        Message::Other(text) => return Change::Foreign(text),
    };
    if pairs.iter().any(|pair| key.is(pair)) {
        // WEAK-12: a status that is neither is mended.
        if status == Some("False") {
            return Change::Already;
        }
    } else {
        pairs.push(json!(key));
    }
    let gate = condition("False", status, &pairs, now);
    let ready = not_ready(pod, now);
    let conditions: Vec<Value> = [Some(gate), ready].into_iter().flatten().collect();
    Change::Patch(patch(pod, &conditions))
}

/// Removes a key; the pod is ready again once there is none (PR-5). Its `Ready` is the kubelet's.
pub fn released(pod: &Value, key: &Key, now: Timestamp) -> Change {
    if !has_gate(pod) {
        return Change::NoGate;
    }
    let Found { status, message } = found(pod);
    // What cannot be read does not hold our key.
    let Message::Pairs(mut pairs) = message else { return Change::Already };
    let before = pairs.len();
    pairs.retain(|pair| !key.is(pair));
    if pairs.len() == before {
        return Change::Already;
    }
    // PR-6
    let wanted = if pairs.is_empty() { "True" } else { "False" };
    Change::Patch(patch(pod, &[condition(wanted, status, &pairs, now)]))
}

fn found(pod: &Value) -> Found<'_> {
    let Some(condition) = of_type(pod, POD_READY_GATE) else {
        return Found { status: None, message: Message::Pairs(Vec::new()) };
    };
    let text = condition["message"].as_str().unwrap_or_default();
    let message = match serde_json::from_str(text) {
        _ if text.is_empty() => Message::Pairs(Vec::new()),
        Ok(Value::Null) => Message::Pairs(Vec::new()),
        Ok(Value::Array(pairs)) => Message::Pairs(pairs),
        _ => Message::Other(text.chars().take(QUOTED).collect()),
    };
    Found { status: condition["status"].as_str(), message }
}

fn of_type<'p>(pod: &'p Value, kind: &str) -> Option<&'p Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn condition(wanted: &str, status: Option<&str>, pairs: &[Value], now: Timestamp) -> Value {
    let mut sorted: Vec<&Value> = pairs.iter().collect();
    let text = |pair: &Value, member: &str| pair[member].as_str().unwrap_or_default().to_owned();
    sorted.sort_by_cached_key(|pair| (text(pair, "userAgent"), text(pair, "key")));
    let listed: Vec<String> = sorted.into_iter().map(printed).collect();
    let mut condition = json!({"type": POD_READY_GATE, "status": wanted, "message": format!("[{}]", listed.join(","))});
    if status != Some(wanted) {
        condition["lastTransitionTime"] = time(now);
    }
    condition
}

/// A pair in the order of the reference; anything else as it is.
fn printed(pair: &Value) -> String {
    match (&pair["userAgent"], &pair["key"], pair.as_object()) {
        (agent @ Value::String(_), key @ Value::String(_), Some(members)) if members.len() == 2 => {
            format!(r#"{{"userAgent":{agent},"key":{key}}}"#)
        }
        _ => pair.to_string(),
    }
}

/// The condition `Ready` as the kubelet will have it, so that endpoints need not wait for the kubelet (PR-4).
fn not_ready(pod: &Value, now: Timestamp) -> Option<Value> {
    let ready = of_type(pod, "Ready")?;
    if of_type(pod, "ContainersReady").is_none_or(|containers| containers["status"] != "True") {
        return None;
    }
    let gates = pod["spec"]["readinessGates"].as_array().into_iter().flatten();
    let unsatisfied = gates.filter_map(|gate| {
        let kind = gate["conditionType"].as_str()?;
        let status = if kind == POD_READY_GATE {
            "False"
        } else {
            match of_type(pod, kind) {
                Some(condition) => condition["status"].as_str().unwrap_or_default(),
                None => {
                    return Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist."));
                }
            }
        };
        let clause = format!(r#"the status of pod readiness gate "{kind}" is not "True", but {status}"#);
        (status != "True").then_some(clause)
    });
    let message: Vec<String> = unsatisfied.collect();
    let mut wanted =
        json!({"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": message.join(", ")});
    if ready["status"] != "False" {
        // W-50
        wanted["lastTransitionTime"] = time(now);
    }
    Some(wanted)
}

/// Differs: WEAK-18, RDY-5. The single conditions and no others, and only of this version of the pod: neither the kubelet's writes
/// nor those of other writers are undone.
fn patch(pod: &Value, conditions: &[Value]) -> Value {
    let metadata = &pod["metadata"];
    json!({
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": {"conditions": conditions},
    })
}

/// As Kubernetes prints it.
fn time(now: Timestamp) -> Value {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

// === impl Key ===

impl Key {
    /// The key of a ContainerRecreateRequest.
    pub fn of_request(namespace: &str, name: &str) -> Self {
        Self { user_agent: "ContainerRecreateRequest", key: format!("{namespace}/{name}") }
    }

    fn is(&self, pair: &Value) -> bool {
        pair["userAgent"] == self.user_agent && pair["key"] == self.key.as_str()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.user_agent, self.key)
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({"userAgent": self.user_agent, "key": self.key}).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOW: &str = "2026-03-04T05:06:07Z";
    const OURS: &str = r#"[{"userAgent":"ContainerRecreateRequest","key":"shop/restart-7"}]"#;
    const THEIRS: &str = r#"[{"userAgent":"Lifecycle","key":"preparing-update"}]"#;
    const BOTH: &str = r#"[{"userAgent":"ContainerRecreateRequest","key":"shop/restart-7"},{"userAgent":"Lifecycle","key":"preparing-update"}]"#;

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn key() -> Key {
        Key::of_request("shop", "restart-7")
    }

    fn pod(conditions: &Value) -> Value {
        json!({
            "metadata": {"uid": "u", "resourceVersion": "7"},
            "spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]},
            "status": {"conditions": conditions},
        })
    }

    fn gate(status: &str, message: &str) -> Value {
        json!({"type": POD_READY_GATE, "status": status, "message": message})
    }

    /// The conditions of a patch.
    fn written(change: Change) -> Value {
        let Change::Patch(patch) = change else { panic!("{change:?}") };
        assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "7"}), "WEAK-18");
        patch["status"]["conditions"].clone()
    }

    #[rstest]
    #[case::nobody_yet(json!([gate("True", "")]), OURS, true)]
    #[case::nobody_any_more(json!([gate("True", "[]")]), OURS, true)]
    #[case::another_writer_pr_6(json!([gate("False", THEIRS)]), BOTH, false)]
    #[case::listed_and_yet_ready_rdy_5(json!([gate("True", OURS)]), OURS, true)]
    #[case::listed_with_an_empty_status_weak_12(json!([gate("", OURS)]), OURS, true)]
    #[case::no_condition_yet_weak_12(json!([]), OURS, true)]
    #[case::null(Value::Null, OURS, true)]
    #[case::a_text_of_one_who_is_ready(json!([gate("True", "all is well")]), OURS, true)]
    #[case::null_in_the_message(json!([gate("False", "null")]), OURS, false)]
    fn a_key_is_added_pr_4(#[case] conditions: Value, #[case] message: &str, #[case] is_transition: bool) {
        let conditions = written(blocked(&pod(&conditions), &key(), now()));
        let mut expected = gate("False", message);
        if is_transition {
            expected["lastTransitionTime"] = json!(NOW);
        }
        assert_eq!(conditions, json!([expected]));
    }

    #[rstest]
    #[case::listed(json!([gate("False", OURS)]), Change::Already)]
    #[case::listed_beside_another(json!([gate("False", BOTH)]), Change::Already)]
    #[case::unreadable_w_50(json!([gate("False", "held by ops")]), Change::Foreign("held by ops".to_owned()))]
    #[case::no_list_w_50(json!([gate("False", "{}")]), Change::Foreign("{}".to_owned()))]
    fn nothing_is_written_when_there_is_nothing_to_add(#[case] conditions: Value, #[case] expected: Change) {
        assert_eq!(blocked(&pod(&conditions), &key(), now()), expected);
    }

    #[rstest]
    #[case::the_last_one(gate("False", OURS), gate("True", "[]"), true)]
    #[case::one_of_two_pr_6(gate("False", BOTH), gate("False", THEIRS), false)]
    #[case::one_of_two_while_ready(gate("True", BOTH), gate("False", THEIRS), true)]
    #[case::listed_while_ready(gate("True", OURS), gate("True", "[]"), false)]
    fn a_key_is_removed_pr_5(#[case] before: Value, #[case] after: Value, #[case] is_transition: bool) {
        let mut expected = after;
        if is_transition {
            expected["lastTransitionTime"] = json!(NOW);
        }
        assert_eq!(written(released(&pod(&json!([before])), &key(), now())), json!([expected]));
    }

    #[rstest]
    #[case::no_condition(json!([]))]
    #[case::nobody(json!([gate("True", "[]")]))]
    #[case::another(json!([gate("False", THEIRS)]))]
    #[case::unreadable_w_50(json!([gate("False", "held by ops")]))]
    fn an_unknown_key_is_not_removed_pr_5(#[case] conditions: Value) {
        assert_eq!(released(&pod(&conditions), &key(), now()), Change::Already);
    }

    #[test]
    fn what_others_wrote_in_the_list_stays_whatever_it_is_pr_6() {
        let message = r#"[{"userAgent":"Lifecycle","key":"b","note":1},7,{"userAgent":"A","key":"z"}]"#;
        let pod = pod(&json!([gate("False", message)]));
        let all = written(blocked(&pod, &key(), now()));
        let text = all[0]["message"].as_str().unwrap();
        let list: Value = serde_json::from_str(text).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 4, "{text}");
        assert!(
            text.starts_with(r#"[7,{"userAgent":"A","key":"z"},{"userAgent":"ContainerRecreateRequest""#),
            "{text}"
        );
        assert_eq!(list[3], json!({"userAgent": "Lifecycle", "key": "b", "note": 1}));
    }

    #[test]
    fn a_pod_without_the_gate_is_left_alone_rdy_5() {
        let pod = json!({"spec": {"readinessGates": [{"conditionType": "other"}]}});
        assert_eq!(blocked(&pod, &key(), now()), Change::NoGate);
        assert_eq!(released(&pod, &key(), now()), Change::NoGate);
        assert_eq!(blocked(&json!({}), &key(), now()), Change::NoGate);
    }

    const KRUISE: &str = r#"the status of pod readiness gate "KruisePodReady" is not "True", but False"#;

    #[rstest]
    #[case::ready("True", "True", Some(true))]
    #[case::not_ready_yet("False", "True", Some(false))]
    #[case::containers_are_not("True", "False", None)]
    fn ready_turns_false_at_once_pr_4(#[case] ready: &str, #[case] containers: &str, #[case] expected: Option<bool>) {
        let conditions = json!([
            gate("True", "[]"), {"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers},
        ]);
        let written = written(blocked(&pod(&conditions), &key(), now()));
        let mut wanted =
            json!({"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": KRUISE});
        match expected {
            None => assert_eq!(written.as_array().unwrap().len(), 1),
            Some(is_transition) => {
                if is_transition {
                    wanted["lastTransitionTime"] = json!(NOW);
                }
                assert_eq!(written[1], wanted);
            }
        }
    }

    #[test]
    fn each_unsatisfied_gate_is_told_pr_4() {
        let mut pod = pod(&json!([
            {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"},
            {"type": "b", "status": "Unknown"}, {"type": "c", "status": "True"},
        ]));
        let gates: Vec<Value> =
            ["a", "KruisePodReady", "b", "c"].iter().map(|kind| json!({"conditionType": kind})).collect();
        pod["spec"]["readinessGates"] = json!(gates);
        let message = written(blocked(&pod, &key(), now()))[1]["message"].clone();
        assert_eq!(
            message,
            format!(
                "corresponding condition of pod readiness gate \"a\" does not exist., {KRUISE}, {}",
                r#"the status of pod readiness gate "b" is not "True", but Unknown"#
            )
        );
    }
}
