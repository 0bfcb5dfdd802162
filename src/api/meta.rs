//! Object metadata and label selectors, as far as Outrigger reads them.

use std::collections::BTreeMap;

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
    pub struct LabelSelector {
        /// Labels that must have exactly these values.
        opt match_labels: BTreeMap<String, String>,
        /// Further requirements.
        opt match_expressions: Vec<LabelSelectorRequirement>,
    }
    /// One requirement of a [`LabelSelector`].
    pub struct LabelSelectorRequirement {
        /// Label key.
        always key: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        always operator: String,
        /// Values of `In` and `NotIn`.
        opt values: Vec<String>,
    }
}
