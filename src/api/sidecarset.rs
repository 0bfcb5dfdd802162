//! SidecarSet in both versions, and the way between them (API-10 … API-15, CONV-SS).
//!
//! v1beta1 is the hub: every rule reads it, and v1alpha1 objects become it at the door.

use super::container::SidecarContainer;
use super::meta::{LabelSelector, ObjectMeta};
use super::names;
use super::volume::Volume;
use super::{IntOrString, wire};

wire! {
    /// A SidecarSet, v1beta1.
    pub struct SidecarSet {
        /// Name, labels, annotations.
        always metadata: ObjectMeta,
        /// What to inject where, and how to roll it out.
        always spec: SidecarSetSpec,
        /// What the controller last saw.
        opt status: SidecarSetStatus,
    }
    /// Spec of a SidecarSet, v1beta1 (API-10).
    pub struct SidecarSetSpec {
        /// Pods to inject, by label. Required.
        ptr selector: LabelSelector,
        /// Namespaces to inject into, by label; absent means all.
        ptr namespace_selector: LabelSelector,
        /// Init containers to inject; those with `restartPolicy: Always` are native sidecars.
        list init_containers: SidecarContainer,
        /// Containers to inject.
        list containers: SidecarContainer,
        /// Volumes that the containers above mount. One that nobody mounts is not injected (VOL-1).
        opt volumes: Vec<Volume>,
        /// How changes reach running pods.
        always update_strategy: UpdateStrategy,
        /// How new pods are injected.
        always injection_strategy: InjectionStrategy,
        /// Secrets added to the pod's `imagePullSecrets` (SEC-1).
        opt image_pull_secrets: Vec<LocalObjectReference>,
        /// How many revisions are kept; 10 by default.
        ptr revision_history_limit: i32,
        /// Annotations put on the pod (META).
        opt patch_pod_metadata: Vec<PatchPodMetadata>,
        /// Name that revisions of this spec carry as a label.
        opt custom_version: String,
    }
    /// Rollout of changes to running pods (API-12).
    pub struct UpdateStrategy {
        /// `RollingUpdate` (default) or `NotUpdate`.
        opt r#type: String,
        /// Holds the rollout.
        opt paused: bool,
        /// Only pods with these labels are updated.
        ptr selector: LabelSelector,
        /// Pods, as number or percentage, that keep the old version.
        ptr partition: IntOrString,
        /// Pods, as number or percentage, that may be unavailable meanwhile.
        ptr max_unavailable: IntOrString,
        /// Which pods go first.
        ptr priority_strategy: PriorityStrategy,
        /// Which pods are spread over the rollout.
        opt scatter_strategy: Vec<ScatterTerm>,
    }
    /// Order of a rollout (API-50).
    pub struct PriorityStrategy {
        /// By the number in a label's value.
        opt order_priority: Vec<OrderTerm>,
        /// By the sum of the weights of the selectors that match.
        opt weight_priority: Vec<WeightTerm>,
    }
    /// One key of `orderPriority`.
    pub struct OrderTerm {
        /// Label key.
        always ordered_key: String,
    }
    /// One weight of `weightPriority`.
    pub struct WeightTerm {
        /// 0 to 100.
        always weight: i32,
        /// Pods that get the weight.
        always match_selector: LabelSelector,
    }
    /// One label whose pods are spread over the rollout.
    pub struct ScatterTerm {
        /// Label key.
        always key: String,
        /// Label value.
        always value: String,
    }
    /// Injection of new pods (API-13).
    pub struct InjectionStrategy {
        /// Stops injection (MATCH-4).
        opt paused: bool,
        /// Injects a revision instead of the current spec (REV).
        ptr revision: InjectionRevision,
    }
    /// The revision to inject (REV-2).
    pub struct InjectionRevision {
        /// The newest revision with this custom version.
        ptr custom_version: String,
        /// The revision of this name; wins over `customVersion`.
        ptr revision_name: String,
        /// `Always` (default) or `Partial` (REV-6 … REV-8).
        opt policy: String,
    }
    /// A Secret of the pod's namespace.
    pub struct LocalObjectReference {
        /// Its name.
        opt name: String,
    }
    /// Annotations put on the pod, and how (API-14).
    pub struct PatchPodMetadata {
        /// Annotation keys and values.
        opt annotations: std::collections::BTreeMap<String, String>,
        /// `Retain` (default), `Overwrite` or `MergePatchJson` (META-1 … META-3).
        opt patch_policy: String,
    }
    /// Status of a SidecarSet (API-15).
    pub struct SidecarSetStatus {
        /// Generation that the rest describes.
        opt observed_generation: i64,
        /// Pods that the selectors match.
        always matched_pods: i32,
        /// Of these, pods with the current spec.
        always updated_pods: i32,
        /// Of these, ready pods.
        always ready_pods: i32,
        /// Pods that are both.
        opt updated_ready_pods: i32,
        /// Name of the ControllerRevision of the current spec.
        opt latest_revision: String,
        /// Hash collisions met while naming revisions (REV-7).
        ptr collision_count: i32,
    }
}

/// The older version: `spec.namespace` instead of a selector, custom version as a label.
pub mod v1alpha1 {
    use super::{
        InjectionStrategy, LabelSelector, LocalObjectReference, ObjectMeta, PatchPodMetadata, SidecarContainer,
        SidecarSetStatus, UpdateStrategy, Volume, wire,
    };

    wire! {
        /// A SidecarSet, v1alpha1.
        pub struct SidecarSet {
            /// Name, labels, annotations.
            always metadata: ObjectMeta,
            /// What to inject where, and how to roll it out.
            always spec: SidecarSetSpec,
            /// What the controller last saw.
            opt status: SidecarSetStatus,
        }
        /// Spec of a SidecarSet, v1alpha1. Members without a note are those of v1beta1.
        pub struct SidecarSetSpec {
            /// See v1beta1.
            ptr selector: LabelSelector,
            /// Only pods of this namespace; beats `namespaceSelector` (CONV-SS-3).
            opt namespace: String,
            /// See v1beta1.
            ptr namespace_selector: LabelSelector,
            /// See v1beta1.
            list init_containers: SidecarContainer,
            /// See v1beta1.
            list containers: SidecarContainer,
            /// See v1beta1.
            opt volumes: Vec<Volume>,
            /// See v1beta1.
            always update_strategy: UpdateStrategy,
            /// See v1beta1.
            always injection_strategy: InjectionStrategy,
            /// See v1beta1.
            opt image_pull_secrets: Vec<LocalObjectReference>,
            /// See v1beta1.
            ptr revision_history_limit: i32,
            /// See v1beta1.
            opt patch_pod_metadata: Vec<PatchPodMetadata>,
        }
    }
}

// === conversion ===

impl From<v1alpha1::SidecarSet> for SidecarSet {
    /// CONV-SS-1 … CONV-SS-4.
    fn from(old: v1alpha1::SidecarSet) -> Self {
        let v1alpha1::SidecarSet { mut metadata, spec, status } = old;
        let custom_version = metadata.labels.remove(names::CUSTOM_VERSION).unwrap_or_default();
        let namespace_selector = if spec.namespace.is_empty() {
            spec.namespace_selector
        } else {
            Some(LabelSelector {
                match_labels: [(names::NAMESPACE_NAME.to_owned(), spec.namespace)].into(),
                match_expressions: Vec::new(),
            })
        };
        Self {
            metadata,
            spec: SidecarSetSpec {
                selector: spec.selector,
                namespace_selector,
                init_containers: spec.init_containers,
                containers: spec.containers,
                volumes: spec.volumes,
                update_strategy: spec.update_strategy,
                injection_strategy: spec.injection_strategy,
                image_pull_secrets: spec.image_pull_secrets,
                revision_history_limit: spec.revision_history_limit,
                patch_pod_metadata: spec.patch_pod_metadata,
                custom_version,
            },
            status,
        }
    }
}

impl From<SidecarSet> for v1alpha1::SidecarSet {
    /// CONV-SS-5 and CONV-SS-6: a namespace stays the selector it became.
    fn from(hub: SidecarSet) -> Self {
        let SidecarSet { mut metadata, spec, status } = hub;
        if !spec.custom_version.is_empty() {
            metadata.labels.insert(names::CUSTOM_VERSION.to_owned(), spec.custom_version);
        }
        Self {
            metadata,
            spec: v1alpha1::SidecarSetSpec {
                selector: spec.selector,
                namespace: String::new(),
                namespace_selector: spec.namespace_selector,
                init_containers: spec.init_containers,
                containers: spec.containers,
                volumes: spec.volumes,
                update_strategy: spec.update_strategy,
                injection_strategy: spec.injection_strategy,
                image_pull_secrets: spec.image_pull_secrets,
                revision_history_limit: spec.revision_history_limit,
                patch_pod_metadata: spec.patch_pod_metadata,
            },
            status,
        }
    }
}

impl SidecarSet {
    /// The base that this set is a canary of, if it is one (CAN-1).
    pub fn canary_base(&self) -> Option<&str> {
        let annotations = &self.metadata.annotations;
        if annotations.get(names::CANARY).map(String::as_str) != Some("true") {
            return None;
        }
        annotations.get(names::CANARY_BASE).map(String::as_str).filter(|base| !base.is_empty())
    }

    /// `spec.containers`, absent read as empty.
    pub fn containers(&self) -> &[SidecarContainer] {
        self.spec.containers.as_deref().unwrap_or_default()
    }

    /// `spec.initContainers`, absent read as empty.
    pub fn init_containers(&self) -> &[SidecarContainer] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }
}
