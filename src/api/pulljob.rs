//! ImagePullJob: one image on many nodes (API-30, API-31). The two versions are equal.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::meta::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use super::nodeimage::SandboxConfig;
use super::{IntOrString, wire};

wire! {
    /// Pulls an image on nodes ahead of the pods that need it.
    pub struct ImagePullJob {
        /// Name, namespace, labels, annotations.
        shown metadata: ObjectMeta,
        /// Which image to pull, and where.
        shown spec: PullJobSpec,
        /// How far it got.
        opt status: PullJobStatus,
    }
    /// Spec of an ImagePullJob (API-30).
    pub struct PullJobSpec {
        /// The image, such as `registry.example/team/app:v1`.
        always image: String,
        /// Names of Secrets, in the namespace of this object, to log in to the registry with. Cannot be changed.
        opt pull_secrets: Vec<String>,
        /// Nodes to pull on; all by default. Not together with `podSelector`.
        ptr selector: NodeSelector,
        /// Pods of this namespace on whose nodes to pull. Not together with `selector`.
        ptr pod_selector: LabelSelector,
        /// Nodes that pull at the same time; 1 by default, 0 pauses the job.
        ptr parallelism: IntOrString,
        /// Limits of the pull on one node.
        ptr pull_policy: PullPolicy,
        /// When the job ends.
        always completion_policy: CompletionPolicy,
        /// Labels and annotations that the runtime is told with the pull.
        ptr sandbox_config: SandboxConfig,
        /// `IfNotPresent` (default): a node that has the image is done; `Always`: it asks the registry for a newer one.
        opt image_pull_policy: String,
    }
    /// Nodes by name or by label, not both.
    pub struct NodeSelector {
        /// Names of nodes.
        opt names: Vec<String>,
        /// Labels that must have exactly these values.
        opt match_labels: BTreeMap<String, String>,
        /// Further requirements.
        #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
        opt match_expressions: Vec<LabelSelectorRequirement>,
    }
    /// Limits of the pull on one node.
    pub struct PullPolicy {
        /// Seconds that one attempt may take; 600 by default.
        ptr timeout_seconds: i32,
        /// Attempts after the first one; 3 by default.
        ptr backoff_limit: i32,
    }
    /// When a job ends.
    pub struct CompletionPolicy {
        /// `Always` (default): when every node is done; `Never`: it goes on with nodes that come later.
        opt r#type: String,
        /// Seconds from the start after which the job ends anyway. Only with `Always`.
        ptr active_deadline_seconds: i64,
        /// Seconds for which the finished job is kept. It is kept for good by default. Only with `Always`.
        ptr ttl_seconds_after_finished: i32,
    }
    /// Status of an ImagePullJob (API-31).
    pub struct PullJobStatus {
        /// When the job began.
        ptr start_time: Time,
        /// When it ended.
        ptr completion_time: Time,
        /// Nodes that shall have the image.
        always desired: i32,
        /// Nodes that are pulling.
        shown active: i32,
        /// Nodes that have it.
        shown succeeded: i32,
        /// Nodes that gave up.
        shown failed: i32,
        /// How far the job is, for people.
        opt message: String,
        /// Names of nodes that gave up.
        opt failed_nodes: Vec<String>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::text;

    #[test]
    fn counts_are_printed_even_when_zero_api_31() {
        let counts = r#"{"desired":0,"active":0,"succeeded":0,"failed":0}"#;
        assert_eq!(text(&PullJobStatus::default()), counts);
    }
}
