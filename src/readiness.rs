//! The readiness gate of pods that a workload of apps.kruise.io manages (RG), who is to open it first (PR-1), and those
//! who keep such a pod unready: [`keys`] decides, [`writer`] writes.

pub mod keys;
pub mod writer;

use serde::Deserialize;

use crate::api::names;
use crate::edits::Edits;
use crate::facts::{Fact, Recorder};
use crate::pod::{Metadata, Spec};

/// `apiVersion` of the workload for whose sake the pod needs the gate (RG-1).
pub fn owner<'m>(metadata: &'m Metadata<'_>) -> Option<&'m str> {
    metadata.controller().filter(|version| version.split_once('/').is_some_and(|(group, _)| group == names::GROUP))
}

/// Adds the gate unless the pod has it (RG-3).
pub fn add_gate(spec: &Spec<'_>, owner: &str, edits: &mut Edits<'_>, facts: &mut impl Recorder) {
    if spec.readiness_gates.iter().flatten().any(|condition| condition == names::POD_READY_GATE) {
        return;
    }
    edits.readiness_gate = Some(names::POD_READY_GATE);
    facts.record(|| Fact::ReadinessGate { gate: names::POD_READY_GATE, owner: owner.to_owned() });
}

/// Whether a pod, as JSON, has the gate (RDY-2).
pub fn has_gate(pod: &serde_json::Value) -> bool {
    let gates = pod["spec"]["readinessGates"].as_array();
    gates.into_iter().flatten().any(|gate| gate["conditionType"] == names::POD_READY_GATE)
}

/// Whether a pod, as the API server's JSON, has the gate and no condition for it (PR-1). Of one that cannot be read,
/// nothing is said.
pub fn lacks_condition(pod: &str) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Pod {
        spec: Option<Spec>,
        status: Option<Status>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        readiness_gates: Option<Vec<Gate>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Gate {
        condition_type: Option<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        conditions: Option<Vec<Condition>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Condition {
        r#type: Option<String>,
    }
    let Ok(Pod { spec, status }) = serde_json::from_str(pod) else { return false };
    let is_ours = |name: Option<String>| name.as_deref() == Some(names::POD_READY_GATE);
    let mut gates = spec.and_then(|spec| spec.readiness_gates).into_iter().flatten();
    let mut conditions = status.and_then(|status| status.conditions).into_iter().flatten();
    gates.any(|gate| is_ours(gate.condition_type)) && !conditions.any(|condition| is_ours(condition.r#type))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::a_gate(json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]}}), true)]
    #[case::another_gate(json!({"spec": {"readinessGates": [{"conditionType": "Other"}]}}), false)]
    #[case::no_gate(json!({"metadata": {"annotations": {"note": "KruisePodReady"}}, "spec": {"readinessGates": null}}), false)]
    #[case::true_already(json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]},
        "status": {"conditions": [{"type": "KruisePodReady", "status": "True"}]}}), false)]
    #[case::false_already(json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]},
        "status": {"conditions": [{"type": "Ready"}, {"type": "KruisePodReady", "status": "False"}]}}), false)]
    #[case::another_condition(json!({"spec": {"readinessGates": [{"conditionType": "KruisePodReady"}]},
        "status": {"conditions": [{"type": "Ready", "status": "False"}]}}), true)]
    #[case::no_pod(json!(7), false)]
    #[case::garbage(json!({"spec": {"readinessGates": "KruisePodReady"}}), false)]
    fn only_a_gate_without_its_condition_is_to_be_opened_pr_1(#[case] pod: Value, #[case] expected: bool) {
        assert_eq!(lacks_condition(&pod.to_string()), expected);
    }
}
