//! Object metadata and label selectors, as far as Outrigger reads them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::wire;

wire! {
    /// The members of ObjectMeta that rules read or write. Others travel along untouched (see `json`).
    pub struct ObjectMeta {
        /// Name of the object.
        opt name: String,
        /// Prefix of a name that the API server completes.
        opt generate_name: String,
        /// Namespace; empty for a SidecarSet.
        opt namespace: String,
        /// Labels.
        opt labels: BTreeMap<String, String>,
        /// Annotations.
        opt annotations: BTreeMap<String, String>,
        /// Finalizers.
        opt finalizers: Vec<String>,
        /// Owners.
        opt owner_references: Vec<OwnerReference>,
    }
    /// One owner of an object.
    pub struct OwnerReference {
        /// Group and version of the owner.
        always api_version: String,
        /// Kind of the owner.
        always kind: String,
        /// Name of the owner.
        always name: String,
        /// UID of the owner.
        always uid: String,
        /// Whether the owner manages the object.
        ptr controller: bool,
        /// Whether the owner's deletion waits for this object.
        ptr block_owner_deletion: bool,
    }
    /// A label selector: all requirements must hold.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub struct LabelSelector {
        /// Labels that must have exactly these values.
        opt match_labels: BTreeMap<String, String>,
        /// Further requirements.
        #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
        opt match_expressions: Vec<LabelSelectorRequirement>,
    }
    /// One requirement of a [`LabelSelector`].
    pub struct LabelSelectorRequirement {
        /// Label key.
        always key: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        always operator: String,
        /// Values of `In` and `NotIn`.
        #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
        opt values: Vec<String>,
    }
    /// One fact about an object, as metav1.Condition has it.
    pub struct Condition {
        /// What the fact is about, in CamelCase.
        #[schemars(
            length(max = 316),
            extend("pattern" = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$")
        )]
        always r#type: String,
        /// `True`, `False` or `Unknown`.
        #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
        always status: String,
        /// Generation of the object that the fact is about.
        #[schemars(range(min = 0))]
        opt observed_generation: i64,
        /// When `status` last changed.
        #[schemars(required)]
        always last_transition_time: Option<Time>,
        /// Why, in one CamelCase word.
        #[schemars(
            length(min = 1, max = 1024),
            extend("pattern" = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
        )]
        always reason: String,
        /// Why, for people.
        #[schemars(length(max = 32768))]
        always message: String,
    }
}
