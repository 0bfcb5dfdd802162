//! SidecarSet in both versions, and the way between them (API-10 … API-15, CONV-SS).
//!
//! v1beta1 is the hub: every rule reads it, and v1alpha1 objects become it at the door.

use super::container::SidecarContainer;
use super::meta::{Condition, LabelSelector, ObjectMeta};
use super::names;
use super::volume::Volume;
use super::{IntOrString, wire};

wire! {
    /// Sidecar containers, the pods that they are injected into, and how changes reach running pods.
    pub struct SidecarSet {
        /// Name, labels, annotations.
        shown metadata: ObjectMeta,
        /// What to inject where, and how to roll it out.
        shown spec: SidecarSetSpec,
        /// What the controller last saw.
        opt status: SidecarSetStatus,
    }
    /// Spec of a SidecarSet, v1beta1 (API-10).
    pub struct SidecarSetSpec {
        /// Pods to inject, by label. Required; `{}` selects every pod.
        ptr selector: LabelSelector,
        /// Namespaces to inject into, by label; absent means all.
        ptr namespace_selector: LabelSelector,
        /// Init containers to inject; those with `restartPolicy: Always` are native sidecars. Each is a Container of
        /// core/v1 with the members below. Pods get them when they are created, and never later.
        list init_containers: SidecarContainer,
        /// Containers to inject. Each is a Container of core/v1 with the members below.
        list containers: SidecarContainer,
        /// Volumes that the containers above mount, as in a pod. One that nobody mounts is not injected (VOL-1).
        #[schemars(schema_with = "super::schema::anything")]
        opt volumes: Vec<Volume>,
        /// How changes reach running pods.
        shown update_strategy: UpdateStrategy,
        /// How new pods are injected.
        shown injection_strategy: InjectionStrategy,
        /// Secrets added to the pod's `imagePullSecrets` (SEC-1).
        opt image_pull_secrets: Vec<LocalObjectReference>,
        /// How many revisions are kept; 10 by default.
        ptr revision_history_limit: i32,
        /// Annotations put on the pod (META). The administrator says in the ConfigMap kruise-configuration which keys may
        /// be named here.
        opt patch_pod_metadata: Vec<PatchPodMetadata>,
        /// Name that revisions of this spec carry as a label.
        opt custom_version: String,
    }
    /// Rollout of changes to running pods (API-12).
    pub struct UpdateStrategy {
        /// `RollingUpdate` (default): running pods are updated in place; `NotUpdate`: only new pods get changes.
        opt r#type: String,
        /// Holds the rollout; injection of new pods goes on.
        opt paused: bool,
        /// Only pods with these labels are updated.
        ptr selector: LabelSelector,
        /// Pods, as number or percentage, that keep the old version; 0 by default.
        ptr partition: IntOrString,
        /// Pods, as number or percentage, that may be unavailable meanwhile; 1 by default.
        ptr max_unavailable: IntOrString,
        /// Which pods go first.
        ptr priority_strategy: PriorityStrategy,
        /// Which pods are spread over the rollout.
        opt scatter_strategy: Vec<ScatterTerm>,
    }
    /// Order of a rollout: one of the two, not both (API-50).
    pub struct PriorityStrategy {
        /// By the label that comes first in this list, then by the number at the end of its value, the largest first.
        opt order_priority: Vec<OrderTerm>,
        /// By the sum of the weights of the selectors that match, the largest first.
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
        /// Stops injection into new pods (MATCH-4); running pods keep their sidecars and are updated.
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
        /// `Always` (default): every new pod gets this revision; `Partial`: with a percentage as `partition`, that share of
        /// them gets it, and the others the newest (REV-6 … REV-8).
        #[schemars(extend("enum" = ["Always", "Partial"], "default" = "Always"))]
        opt policy: String,
    }
    /// A Secret of the pod's namespace.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub struct LocalObjectReference {
        /// Its name.
        #[schemars(extend("default" = ""))]
        opt name: String,
    }
    /// Annotations put on the pod, and how (API-14).
    pub struct PatchPodMetadata {
        /// Annotation keys and values.
        opt annotations: std::collections::BTreeMap<String, String>,
        /// `Retain` (default): a value that the pod has stays; `Overwrite`: ours wins; `MergePatchJson`: both are JSON and
        /// are merged (META-1 … META-3).
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
        /// What else there is to know, such as pods that should have been injected and were not.
        #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
        opt conditions: Vec<Condition>,
    }
}

/// The older version: `spec.namespace` instead of a selector, custom version as a label.
pub mod v1alpha1 {
    use super::{
        InjectionStrategy, LabelSelector, LocalObjectReference, ObjectMeta, PatchPodMetadata, SidecarContainer,
        SidecarSetStatus, UpdateStrategy, Volume, wire,
    };

    wire! {
        /// Sidecar containers, the pods that they are injected into, and how changes reach running pods.
        pub struct SidecarSet {
            /// Name, labels, annotations.
            shown metadata: ObjectMeta,
            /// What to inject where, and how to roll it out.
            shown spec: SidecarSetSpec,
            /// What the controller last saw.
            opt status: SidecarSetStatus,
        }
        /// Spec of a SidecarSet, v1alpha1: `namespace` more and `customVersion` less than in v1beta1.
        pub struct SidecarSetSpec {
            /// Pods to inject, by label. Required; `{}` selects every pod.
            ptr selector: LabelSelector,
            /// Only pods of this namespace are injected; beats `namespaceSelector` (CONV-SS-3). It is stored as a
            /// `namespaceSelector` for the label kubernetes.io/metadata.name, and reads back as that.
            opt namespace: String,
            /// Namespaces to inject into, by label; absent means all.
            ptr namespace_selector: LabelSelector,
            /// Init containers to inject; those with `restartPolicy: Always` are native sidecars. Each is a Container of
            /// core/v1 with the members below. Pods get them when they are created, and never later.
            list init_containers: SidecarContainer,
            /// Containers to inject. Each is a Container of core/v1 with the members below.
            list containers: SidecarContainer,
            /// Volumes that the containers above mount, as in a pod. One that nobody mounts is not injected (VOL-1).
            #[schemars(schema_with = "crate::api::schema::anything")]
            opt volumes: Vec<Volume>,
            /// How changes reach running pods.
            shown update_strategy: UpdateStrategy,
            /// How new pods are injected.
            shown injection_strategy: InjectionStrategy,
            /// Secrets added to the pod's `imagePullSecrets` (SEC-1).
            opt image_pull_secrets: Vec<LocalObjectReference>,
            /// How many revisions are kept; 10 by default.
            ptr revision_history_limit: i32,
            /// Annotations put on the pod (META). The administrator says in the ConfigMap kruise-configuration which keys may
            /// be named here.
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
