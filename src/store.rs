//! What admission knows of the world: [`Objects`] as they are stored, and the [`Snapshot`] compiled from them.
//!
//! Objects are plain data with `apply`; a change of any of them makes a new snapshot, which replaces the old one in one
//! store (design decision 1). A request reads one snapshot from start to end.

pub mod files;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::json::{Unknown, decode};
use crate::api::names;
use crate::api::sidecarset::{InjectionRevision, SidecarSet, SidecarSetSpec};
use crate::pod::Pairs;
use crate::sidecarset::admit::{Stored, admit};
use crate::sidecarset::compiled::{CompileError, Compiled, Restored, RevisionError};
use crate::sidecarset::revision::Hashes;
use crate::sidecarset::select::{Index, Namespace};
use crate::sidecarset::validate::{Findings, Problem, Revisions, Surroundings};

/// The objects that decisions depend on.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Namespace of the operator: where its ConfigMap and the revisions are (WH-8).
    operator_namespace: String,
    sets: BTreeMap<String, Stored>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    white_list: Option<String>,
    revisions: BTreeMap<String, Revision>,
}

/// A ControllerRevision of a SidecarSet (API-16).
#[derive(Clone, Debug)]
struct Revision {
    set: String,
    custom_version: Option<String>,
    number: i64,
    created: String,
    spec: SidecarSetSpec,
    unknown: Unknown,
    hashes: Hashes,
}

/// Everything admission needs, immutable.
#[derive(Debug, Default)]
pub struct Snapshot {
    sets: Vec<Compiled>,
    index: Index,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

// === impl Objects ===

impl Objects {
    /// No objects; the operator lives in `operator_namespace`.
    pub fn new(operator_namespace: &str) -> Self {
        Self {
            operator_namespace: operator_namespace.to_owned(),
            sets: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            white_list: None,
            revisions: BTreeMap::new(),
        }
    }

    /// Namespace of the operator.
    pub fn operator_namespace(&self) -> &str {
        &self.operator_namespace
    }

    /// Applies a SidecarSet in either version, as a create or, when there is one of its name, an update. Nothing changes
    /// when there are errors.
    pub fn apply_sidecarset(&mut self, document: Value) -> Findings {
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = self.sets.get(&name).map(|stored| &stored.set);
        let (stored, findings) = self.judge(document, old);
        if let Some(stored) = stored {
            self.sets.insert(name, stored);
        }
        findings
    }

    /// Judges a SidecarSet in either version beside the others, as a create or as an update of `old`. The set is there
    /// when there are no errors.
    pub fn judge(&self, document: Value, old: Option<&SidecarSet>) -> (Option<Stored>, Findings) {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        let others = self.sets.values().map(|stored| &stored.set).filter(|set| set.metadata.name != name).collect();
        let around = Surroundings {
            others,
            white_list: self.white_list.as_deref(),
            metadata_defaults_allowed: false,
            revisions: self,
        };
        admit(document, old, &around)
    }

    /// Applies a Namespace. As the API server does, its name is among its labels.
    pub fn apply_namespace(&mut self, document: &Value) -> Result<(), Problem> {
        let name = name_of(document)?;
        let mut labels: BTreeMap<String, String> = match &document["metadata"]["labels"] {
            Value::Null => BTreeMap::new(),
            labels => serde_json::from_value(labels.clone())
                .map_err(|error| Problem { field: "metadata.labels".to_owned(), message: error.to_string() })?,
        };
        labels.insert(names::NAMESPACE_NAME.to_owned(), name.clone());
        self.namespaces.insert(name, labels);
        Ok(())
    }

    /// Applies a ConfigMap; only the operator's own matters (SSV-30).
    pub fn apply_config_map(&mut self, document: &Value) -> Result<(), Problem> {
        let namespace = document["metadata"]["namespace"].as_str().unwrap_or(&self.operator_namespace);
        if name_of(document)? == names::CONFIGURATION && namespace == self.operator_namespace {
            self.white_list = document["data"][names::PATCH_WHITE_LIST].as_str().map(str::to_owned);
        }
        Ok(())
    }

    /// Applies a ControllerRevision; only those of SidecarSets in the operator's namespace matter (REV-2).
    pub fn apply_revision(&mut self, document: &Value) -> Result<(), Problem> {
        let name = name_of(document)?;
        let metadata = &document["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or(&self.operator_namespace);
        let Some(set) = metadata["labels"][names::REVISION_OF].as_str() else { return Ok(()) };
        if namespace != self.operator_namespace {
            return Ok(());
        }
        let mut spec = match &document["data"]["spec"] {
            Value::Null => return Err(Problem { field: String::new(), message: "has no data.spec".to_owned() }),
            spec => spec.clone(),
        };
        if let Some(members) = spec.as_object_mut() {
            members.remove("$patch");
        }
        let (spec, unknown) = decode::<SidecarSetSpec>(&spec).map_err(|error| {
            let separator = if error.path.is_empty() { "" } else { "." };
            Problem { field: format!("data.spec{separator}{}", error.path), message: error.message }
        })?;
        let mut hashes = Hashes::of(&spec);
        // REV-4: what its annotations say counts, each for itself.
        for (key, hash) in [(names::HASH, &mut hashes.full), (names::HASH_WITHOUT_IMAGE, &mut hashes.without_image)] {
            if let Some(text) = metadata["annotations"][key].as_str().filter(|text| !text.is_empty()) {
                text.clone_into(hash);
            }
        }
        let revision = Revision {
            set: set.to_owned(),
            custom_version: metadata["labels"][names::CUSTOM_VERSION].as_str().map(str::to_owned),
            number: document["revision"].as_i64().unwrap_or_default(),
            created: metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
            spec,
            unknown: unknown.under("spec"),
            hashes,
        };
        self.revisions.insert(name, revision);
        Ok(())
    }

    /// The stored sets, by name.
    pub fn sidecarsets(&self) -> impl Iterator<Item = &Stored> {
        self.sets.values()
    }

    /// Compiles everything.
    pub fn snapshot(&self) -> Result<Snapshot, CompileError> {
        let compile = |stored: &Stored| {
            let name = &stored.set.metadata.name;
            Compiled::new(&stored.set, &stored.unknown, |wanted| self.find_revision(name, wanted))
        };
        let sets = self.sets.values().map(compile).collect::<Result<Vec<_>, _>>()?;
        Ok(Snapshot { index: Index::new(&sets), sets, namespaces: self.namespaces.clone() })
    }

    /// REV-2. Differs: REV-3, a revision must belong to the set.
    fn find_revision(&self, set: &str, wanted: &InjectionRevision) -> Result<Restored<'_>, RevisionError> {
        let missing = |wanted: String| RevisionError::Missing { set: set.to_owned(), wanted };
        let own = self.revisions.iter().filter(|(_, revision)| revision.set == set);
        let (found, wanted) = match (&wanted.revision_name, &wanted.custom_version) {
            (Some(name), _) => (own.into_iter().find(|(own, _)| *own == name), format!("revision {name:?}")),
            (None, version) => {
                let of_version = own.filter(|(_, revision)| revision.custom_version == *version);
                let newest = of_version.max_by_key(|(name, revision)| (revision.number, &revision.created, *name));
                (newest, format!("custom version {:?}", version.as_deref().unwrap_or_default()))
            }
        };
        let (name, revision) = found.ok_or_else(|| missing(wanted))?;
        Ok(Restored { name: name.clone(), spec: &revision.spec, unknown: &revision.unknown, hashes: &revision.hashes })
    }
}

impl Revisions for Objects {
    fn resolve(&self, set: &str, revision: &InjectionRevision) -> Result<(), String> {
        self.find_revision(set, revision).map(|_| ()).map_err(|error| error.to_string())
    }
}

fn name_of(document: &Value) -> Result<String, Problem> {
    match document["metadata"]["name"].as_str() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Problem { field: "metadata.name".to_owned(), message: "the object has no name".to_owned() }),
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The sets that may select a pod with these labels.
    pub fn candidates<'a, 'l>(&'a self, labels: &'l Pairs<'l>) -> impl Iterator<Item = &'a Compiled> + use<'a, 'l> {
        self.index.candidates(labels).map(|place| &self.sets[place])
    }

    /// All sets, by name.
    pub fn sidecarsets(&self) -> &[Compiled] {
        &self.sets
    }

    /// A namespace with what is known of it.
    pub fn namespace<'a>(&'a self, name: &'a str) -> Namespace<'a> {
        Namespace { name, labels: self.namespaces.get(name) }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::no_data(json!({}), "has no data.spec")]
    #[case::no_spec(json!({"data": {"spec": null}}), "has no data.spec")]
    #[case::no_object(json!({"data": {"spec": 1}}), "data.spec: invalid type: integer `1`, expected struct SidecarSetSpec")]
    #[case::wrong_member(
        json!({"data": {"spec": {"volumes": 1}}}),
        "data.spec.volumes: invalid type: integer `1`, expected a sequence"
    )]
    fn a_revision_that_cannot_be_restored_is_told_rev_4(#[case] mut document: Value, #[case] message: &str) {
        document["metadata"] = json!({"name": "a-1", "labels": {names::REVISION_OF: "a"}});
        let problem = Objects::new(names::DEFAULT_NAMESPACE).apply_revision(&document).unwrap_err();
        assert_eq!(problem.to_string(), message);
    }

    fn hashes(annotations: &Value) -> Hashes {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let metadata = json!({"name": "a-1", "labels": {names::REVISION_OF: "a"}, "annotations": annotations});
        objects.apply_revision(&json!({"metadata": metadata, "data": {"spec": {"containers": []}}})).unwrap();
        objects.revisions["a-1"].hashes.clone()
    }

    #[rstest]
    #[case::both(Some("x"), Some("y"), Some("x"), Some("y"))]
    #[case::only_one(Some("x"), None, Some("x"), None)]
    #[case::only_the_other(None, Some("y"), None, Some("y"))]
    #[case::an_empty_one_is_none(Some(""), Some("y"), None, Some("y"))]
    fn each_hash_of_a_revision_is_its_annotation_or_computed_rev_4(
        #[case] full: Option<&str>,
        #[case] without_image: Option<&str>,
        #[case] expected_full: Option<&str>,
        #[case] expected_without: Option<&str>,
    ) {
        let computed = hashes(&Value::Null);
        assert_eq!((computed.full.len(), computed.without_image.len()), (64, 64));
        assert_eq!(
            hashes(&json!({names::HASH: full, names::HASH_WITHOUT_IMAGE: without_image})),
            Hashes {
                full: expected_full.unwrap_or(&computed.full).to_owned(),
                without_image: expected_without.unwrap_or(&computed.without_image).to_owned(),
            }
        );
    }
}
