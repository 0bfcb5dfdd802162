//! The readiness gate of pods that a workload of apps.kruise.io manages (RG), and those who keep such a pod unready:
//! [`keys`] decides, [`writer`] writes.

pub mod keys;
pub mod writer;

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
