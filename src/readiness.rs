//! The readiness gate of pods that a workload of apps.kruise.io manages (RG).

use crate::api::names;
use crate::edits::Edits;
use crate::facts::{Fact, Recorder};
use crate::pod::{Metadata, PodError, Spec};

/// The owner for whose sake the pod needs the gate (RG-1), as its `apiVersion`.
pub fn owner(metadata: &Metadata<'_>) -> Result<Option<String>, PodError> {
    let version = metadata.controller()?.and_then(|owner| owner.api_version);
    let version =
        version.filter(|version| version.as_str().split_once('/').is_some_and(|(group, _)| group == names::GROUP));
    Ok(version.map(|version| version.as_str().to_owned()))
}

/// Adds the gate unless the pod has it (RG-3).
pub fn add_gate(spec: &Spec<'_>, owner: String, edits: &mut Edits<'_>, facts: &mut impl Recorder) {
    let is_gate = |gate: &crate::pod::ReadinessGate<'_>| {
        gate.condition_type.as_ref().is_some_and(|condition| condition.as_str() == names::POD_READY_GATE)
    };
    if spec.readiness_gates.iter().flatten().any(is_gate) {
        return;
    }
    edits.readiness_gate = Some(names::POD_READY_GATE);
    facts.record(|| Fact::ReadinessGate { gate: names::POD_READY_GATE, owner });
}
