//! ImageListPullJob: several images on many nodes, an ImagePullJob each (LIST). The two versions are equal.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::meta::{LabelSelector, ObjectMeta};
use super::nodeimage::SandboxConfig;
use super::pulljob::{CompletionPolicy, NodeSelector, PullPolicy};
use super::{IntOrString, wire};

wire! {
    /// Pulls images on nodes ahead of the pods that need them, by one ImagePullJob an image.
    pub struct ImageListPullJob {
        /// Name, namespace, labels, annotations.
        shown metadata: ObjectMeta,
        /// Which images to pull, and where.
        shown spec: ListPullJobSpec,
        /// How far it got.
        opt status: ListPullJobStatus,
    }
    /// Spec of an ImageListPullJob: images, and for each of them what an ImagePullJob says of one.
    pub struct ListPullJobSpec {
        /// The images, such as `registry.example/team/app:v1`; 1 to 255, none twice.
        always images: Vec<String>,
        /// Names of Secrets, in the namespace of this object, to log in to the registry with.
        opt pull_secrets: Vec<String>,
        /// Nodes to pull on; all by default. Not together with `podSelector`.
        ptr selector: NodeSelector,
        /// Pods of this namespace on whose nodes to pull. Not together with `selector`.
        ptr pod_selector: LabelSelector,
        /// Nodes that pull each image at the same time: a number, or a share such as `10%`; 1 by default, 0 pauses the jobs.
        ptr parallelism: IntOrString,
        /// Limits of the pull of an image on one node.
        ptr pull_policy: PullPolicy,
        /// When the jobs end, and the list with them.
        always completion_policy: CompletionPolicy,
        /// Labels and annotations that the runtime is told with the pull.
        ptr sandbox_config: SandboxConfig,
        /// `IfNotPresent` (default): a node that has the image is done; `Always`: it asks the registry for a newer one.
        opt image_pull_policy: String,
    }
    /// Status of an ImageListPullJob (LIST-7).
    pub struct ListPullJobStatus {
        /// When the first of its jobs was made.
        ptr start_time: Time,
        /// When it ended.
        ptr completion_time: Time,
        /// Images of the list.
        always desired: i32,
        /// Images that are being pulled.
        shown active: i32,
        /// Images of which every node has ended.
        shown completed: i32,
        /// Images that every node has.
        shown succeeded: i32,
        /// Images that a node gave up.
        opt failed_image_statuses: Vec<FailedImageStatus>,
    }
    /// An image that a node gave up.
    pub struct FailedImageStatus {
        /// The ImagePullJob that knows more.
        opt image_pull_job: String,
        /// The image.
        opt name: String,
        /// Where to look, for people.
        opt message: String,
    }
}
