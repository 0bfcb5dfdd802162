//! The way of a SidecarSet, from the document a user sent to the object that is stored: version → types → defaults →
//! hashes → validation (SSD-1, SSD-9, CONV-SS, SSV).

use serde_json::{Value, json};

use super::defaults;
use super::revision::Hashes;
use super::validate::{self, Findings, Problem, Surroundings};
use crate::api::json::{Unknown, decode};
use crate::api::names;
use crate::api::sidecarset::{SidecarSet, v1alpha1};

/// A SidecarSet as it is stored: in v1beta1, defaulted, hashed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The set.
    pub set: SidecarSet,
    /// Members that the types have no field for.
    pub unknown: Unknown,
}

impl Stored {
    /// Reads a document of either version, defaults and hashes it. Nothing is validated.
    pub fn read(mut document: Value) -> Result<Self, Problem> {
        let version = document["apiVersion"].as_str().unwrap_or_default().to_owned();
        if let Some(members) = document.as_object_mut() {
            members.remove("apiVersion");
            members.remove("kind");
        }
        let decoded = match version.as_str() {
            names::V1BETA1 => decode::<SidecarSet>(&mut document),
            names::V1ALPHA1 => {
                decode::<v1alpha1::SidecarSet>(&mut document).map(|(set, unknown)| (SidecarSet::from(set), unknown))
            }
            other => {
                return Err(Problem {
                    field: "apiVersion".to_owned(),
                    message: format!("{other:?} is not served; use {} or {}", names::V1BETA1, names::V1ALPHA1),
                });
            }
        };
        let (mut set, unknown) = decoded.map_err(|error| Problem { field: error.path, message: error.message })?;
        defaults::apply(&mut set, &unknown);
        Hashes::of(&set.spec).annotate(&mut set);
        Ok(Self { set, unknown })
    }

    /// The object as it is stored, v1beta1, with the members that the types do not know.
    pub fn to_value(&self) -> Value {
        let mut value = json!(self.set);
        self.unknown.restore(&mut value);
        value["apiVersion"] = names::V1BETA1.into();
        value["kind"] = "SidecarSet".into();
        value
    }
}

/// Judges a document as the API server would have it judged: read, then validated against the sets around it. `old` is
/// the set of the same name, if there is one.
pub fn admit(document: Value, old: Option<&SidecarSet>, around: &Surroundings<'_>) -> (Option<Stored>, Findings) {
    match Stored::read(document) {
        Err(problem) => (None, Findings { errors: vec![problem], warnings: Vec::new() }),
        Ok(stored) => {
            let findings = validate::validate(&stored.set, &stored.unknown, old, around);
            (findings.errors.is_empty().then_some(stored), findings)
        }
    }
}
