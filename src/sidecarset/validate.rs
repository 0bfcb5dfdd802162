//! Whether a SidecarSet may be stored (SSV, SSU), read top to bottom in the order of its members.
//!
//! Works on the defaulted v1beta1 form; an older object is converted first. All problems are reported together, in a
//! stable order and under the full path of the member. What the reference refuses is an error here too, unless the
//! specification says `BETTER`; a stricter rule of ours is an error only where the object could never work, else a
//! warning, so that no manifest has to change for the switch.

mod changes;
mod conflicts;
mod containers;
mod env;
mod fields;
mod metadata;
mod mounts;
mod overlap;
mod patches;
mod ports;
mod probes;
pub(crate) mod report;
mod resources;
mod security;
pub(crate) mod selectors;
mod strategies;
#[cfg(test)]
mod tests;
mod volumes;

use std::fmt;

use self::report::{Place, Report};
use crate::api::json::{DecodeError, Unknown};
use crate::api::sidecarset::{InjectionRevision, SidecarSet};
use crate::api::syntax;
use crate::gates::Gates;

/// One thing that is wrong, or odd, with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the member, such as `spec.containers[1].image`; empty when it is about the whole.
    pub field: String,
    /// What is wrong with it and what to do.
    pub message: String,
}

/// All problems of an object, in the order of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Reasons to refuse the object.
    pub errors: Vec<Problem>,
    /// What its author should know.
    pub warnings: Vec<Problem>,
}

/// What the verdict depends on beside the object itself.
pub struct Surroundings<'a> {
    /// Every other stored SidecarSet.
    pub others: Vec<&'a SidecarSet>,
    /// The annotations that `patchPodMetadata` may touch, as stored in the operator's configuration (SSV-30).
    pub white_list: Option<&'a str>,
    /// What is switched on.
    pub gates: Gates,
    /// The stored revisions.
    pub revisions: &'a dyn Revisions,
}

/// Knows the stored revisions of SidecarSets.
pub trait Revisions {
    /// Whether `revision` leads to a stored revision that belongs to the SidecarSet called `set` (REV-2, REV-3). The
    /// error says why not.
    fn resolve(&self, set: &str, revision: &InjectionRevision) -> Result<(), String>;
}

/// Judges a defaulted SidecarSet. `unknown` are the members that the types have no field for: what is newer than ours
/// is never a reason to refuse. `old` is the stored object, on UPDATE.
pub fn validate(new: &SidecarSet, unknown: &Unknown, old: Option<&SidecarSet>, around: &Surroundings<'_>) -> Findings {
    let mut report = Report::new(unknown);
    metadata::check(&mut report, &new.metadata);
    metadata::check_canary(&mut report, new, old, &around.others);
    selectors::check(&mut report, &new.spec);
    containers::check(&mut report, new);
    volumes::check(&mut report, &new.spec.volumes);
    strategies::check_update(&mut report, new, around.gates);
    strategies::check_injection(&mut report, new, around.revisions);
    patches::check(&mut report, new, around);
    check_custom_version(&mut report, new);
    if let Some(old) = old {
        changes::check(&mut report, new, old);
    }
    if report.is_clean() {
        conflicts::check(&mut report, new, &around.others);
    }
    report.into_findings()
}

/// Differs: SSV-37. The custom version becomes a label of the revision, whose creation would fail.
fn check_custom_version(report: &mut Report<'_>, set: &SidecarSet) {
    report.syntax(&Place::spec().member("customVersion"), &set.spec.custom_version, syntax::label_value);
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        Self { field: error.path, message: error.message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.field.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.field, self.message)
    }
}
