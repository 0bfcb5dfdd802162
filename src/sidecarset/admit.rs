//! The way of a SidecarSet, from the document a user sent to the object that is stored: version → types → defaults →
//! hashes → validation (SSD-1, SSD-9, CONV-SS, SSV).

use serde_json::{Value, json};

use super::defaults;
use super::revision::Hashes;
use super::validate::{self, Findings, Problem, Surroundings};
use crate::api::container::OWN_MEMBERS;
use crate::api::json::{self, Step, Unknown, decode};
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
    pub fn read(document: Value) -> Result<Self, Problem> {
        Self::read_aloud(document).map(|(stored, _)| stored)
    }

    /// The same, with what its author should know of members that mean nothing.
    fn read_aloud(mut document: Value) -> Result<(Self, Vec<Problem>), Problem> {
        let version = document["apiVersion"].as_str().unwrap_or_default().to_owned();
        if let Some(members) = document.as_object_mut() {
            members.remove("apiVersion");
            members.remove("kind");
        }
        let decoded = match version.as_str() {
            names::V1BETA1 => decode::<SidecarSet>(&document),
            names::V1ALPHA1 => {
                decode::<v1alpha1::SidecarSet>(&document).map(|(set, unknown)| (SidecarSet::from(set), unknown))
            }
            other => return Err(not_served(other)),
        };
        let (mut set, mut unknown) = decoded.map_err(Problem::from)?;
        let mut warnings = Vec::new();
        // A member of the other version: kept, it would come to mean something when the object is read in that one.
        for (foreign, member, instead, label) in FOREIGN {
            let path = [Step::Key("spec".to_owned()), Step::Key(member.to_owned())];
            if version == foreign && unknown.remove(&path) {
                let served = version.rsplit('/').next().unwrap_or_default();
                let message = format!("has no effect in {served}; use {instead} {label}");
                warnings.push(Problem { field: json::print(&path), message });
            }
        }
        warnings.extend(unknown.paths().filter_map(meaningless));
        complete(&mut set, &unknown);
        Ok((Self { set, unknown }, warnings))
    }

    /// Takes over an object that is stored already, in v1beta1: nothing is defaulted, hashed or validated.
    pub fn from_stored(document: &Value) -> Result<Self, Problem> {
        let (set, unknown) = decode::<SidecarSet>(document).map_err(Problem::from)?;
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

/// What defaulting and hashing do to a document in its own version (SSD-1, SSD-9).
#[derive(Clone, Debug, PartialEq)]
pub struct Defaulted {
    /// The document as the types print it.
    pub before: Value,
    /// The same, defaulted and hashed.
    pub after: Value,
}

impl Defaulted {
    /// Defaults a document of either version. Both have the same defaults, and of members of the same names.
    pub fn of(document: &Value) -> Result<Self, Problem> {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        let mut document = document.clone();
        match version {
            names::V1BETA1 => {}
            names::V1ALPHA1 => {
                // It must be readable in its own version. What is only in v1beta1 means nothing here, so it may be
                // anything.
                decode::<v1alpha1::SidecarSet>(&document).map_err(Problem::from)?;
                document.get_mut("spec").and_then(Value::as_object_mut).map(|spec| spec.remove("customVersion"));
            }
            other => return Err(not_served(other)),
        }
        let (mut set, unknown) = decode::<SidecarSet>(&document).map_err(Problem::from)?;
        let before = json!(set);
        complete(&mut set, &unknown);
        Ok(Self { before, after: json!(set) })
    }
}

/// Defaults, then hashes.
fn complete(set: &mut SidecarSet, unknown: &Unknown) {
    defaults::apply(set, unknown);
    Hashes::of(&set.spec).annotate(set);
}

fn not_served(version: &str) -> Problem {
    Problem {
        field: "apiVersion".to_owned(),
        message: format!("{version:?} is not served; use {} or {}", names::V1BETA1, names::V1ALPHA1),
    }
}

/// Judges a document as the API server would have it judged: read, then validated against the sets around it. `old` is
/// the set of the same name, if there is one.
pub fn admit(document: Value, old: Option<&SidecarSet>, around: &Surroundings<'_>) -> (Option<Stored>, Findings) {
    match Stored::read_aloud(document) {
        Err(problem) => (None, Findings { errors: vec![problem], warnings: Vec::new() }),
        Ok((stored, mut warnings)) => {
            let mut findings = validate::validate(&stored.set, &stored.unknown, old, around);
            warnings.append(&mut findings.warnings);
            findings.warnings = warnings;
            (findings.errors.is_empty().then_some(stored), findings)
        }
    }
}

/// Members that only the other version has: the version they are of no use in, and what says the same there (CONV-SS-3,
/// CONV-SS-4).
const FOREIGN: [(&str, &str, &str, &str); 2] = [
    (names::V1BETA1, "namespace", "namespaceSelector with the label", names::NAMESPACE_NAME),
    (names::V1ALPHA1, "customVersion", "the label", names::CUSTOM_VERSION),
];

/// What is said of a member that the types do not know. Metadata and status are not the author's to be told about.
fn meaningless(path: &[Step]) -> Option<Problem> {
    let key = |index: usize| match path.get(index) {
        Some(Step::Key(key)) => key.as_str(),
        _ => "",
    };
    let reaches_the_pod = match (key(0), key(1)) {
        ("metadata" | "status", _) => return None,
        ("spec", "containers" | "initContainers") => !OWN_MEMBERS.contains(&key(3)),
        ("spec", list) => matches!(list, "volumes" | "imagePullSecrets"),
        _ => false,
    };
    let fate = if reaches_the_pod { "is passed on as it is" } else { "has no effect" };
    Some(Problem { field: json::print(path), message: format!("is not known and {fate}") })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(version: &str, spec: &Value) -> (Stored, Vec<String>) {
        let document = json!({"apiVersion": version, "kind": "SidecarSet", "metadata": {"name": "a", "x": 1}, "spec": spec,
            "status": {"x": 1}});
        let (stored, warnings) = Stored::read_aloud(document).unwrap();
        (stored, warnings.iter().map(Problem::to_string).collect())
    }

    #[rstest]
    #[case::of_a_container(
        json!({"containers": [{"imagepullpolicy": "Always"}]}),
        "spec.containers[0].imagepullpolicy: is not known and is passed on as it is"
    )]
    #[case::inside_a_volume(
        json!({"volumes": [{"emptyDir": {"x": 1}}]}),
        "spec.volumes[0].emptyDir.x: is not known and is passed on as it is"
    )]
    #[case::of_what_no_pod_sees(
        json!({"initContainers": [{"upgradeStrategy": {"type": "HotUpgrade"}}]}),
        "spec.initContainers[0].upgradeStrategy.type: is not known and has no effect"
    )]
    #[case::of_the_spec(json!({"injectionstrategy": {}}), "spec.injectionstrategy: is not known and has no effect")]
    fn a_member_that_the_types_do_not_know_is_told_rsp_5(#[case] spec: Value, #[case] warning: &str) {
        assert_eq!(read(names::V1BETA1, &spec).1, [warning]);
    }

    #[rstest]
    #[case::conv_ss_3(
        names::V1BETA1,
        json!({"namespace": "shop"}),
        "spec.namespace: has no effect in v1beta1; use namespaceSelector with the label kubernetes.io/metadata.name"
    )]
    #[case::conv_ss_4(
        names::V1ALPHA1,
        json!({"customVersion": "v1"}),
        "spec.customVersion: has no effect in v1alpha1; use the label apps.kruise.io/sidecarset-custom-version"
    )]
    fn a_member_of_the_other_version_is_told_and_never_means_anything(
        #[case] version: &str,
        #[case] spec: Value,
        #[case] warning: &str,
    ) {
        let (stored, warnings) = read(version, &spec);
        assert_eq!(warnings, [warning]);
        let (again, _) = Stored::read_aloud(stored.to_value()).unwrap();
        assert_eq!(again.set.spec, read(version, &json!({})).0.set.spec);
        assert_eq!(again.to_value()["spec"].get("namespace"), None);
    }

    #[test]
    fn a_member_of_its_own_version_means_what_it_says() {
        let (stored, warnings) = read(names::V1ALPHA1, &json!({"namespace": "shop"}));
        assert!(warnings.is_empty() && stored.set.spec.namespace_selector.is_some());
        let (stored, warnings) = read(names::V1BETA1, &json!({"customVersion": "v1"}));
        assert!(warnings.is_empty() && stored.set.spec.custom_version == "v1");
    }
}
