//! NodeImage: the images that one node shall have, and how far it is (API-40, API-41).
//!
//! The two versions are equal here. Differs: CONV-NI-2, `pullSecrets[].mode` is in both, so that a v1alpha1 client that
//! writes back what it read erases nothing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::meta::ObjectMeta;
use super::wire;

wire! {
    /// The images that the node of the same name shall have. Made and filled by the controller; use ImagePullJobs.
    pub struct NodeImage {
        /// Name (that of the node), labels, annotations.
        shown metadata: ObjectMeta,
        /// Images that the node shall have.
        shown spec: NodeImageSpec,
        /// How far the node is.
        opt status: NodeImageStatus,
    }
    /// Spec of a NodeImage (API-40).
    pub struct NodeImageSpec {
        /// By image name without tag; at most 256.
        opt images: BTreeMap<String, ImageSpec>,
    }
    /// One image name.
    pub struct ImageSpec {
        /// Secrets to log in to the registry with.
        opt pull_secrets: Vec<SecretReference>,
        /// Tags of the image to pull.
        always tags: Vec<ImageTagSpec>,
        /// Labels and annotations that the runtime is told with the pull.
        ptr sandbox_config: SandboxConfig,
    }
    /// A Secret anywhere.
    pub struct SecretReference {
        /// Its namespace.
        opt namespace: String,
        /// Its name.
        opt name: String,
        /// `batch` for a copy that the controller made for pull jobs; such an entry stays when the Secret is gone.
        opt mode: String,
    }
    /// One tag to pull.
    pub struct ImageTagSpec {
        /// The tag.
        always tag: String,
        /// When it was asked for.
        ptr created_at: Time,
        /// Limits of the pull.
        ptr pull_policy: TagPullPolicy,
        /// The jobs that want it.
        opt owner_references: Vec<ObjectReference>,
        /// Grows when the tag is to be pulled again.
        opt version: i64,
        /// `IfNotPresent`: done when the node has the image; `Always` or empty: the registry is asked for a newer one.
        opt image_pull_policy: String,
    }
    /// Limits of the pull of one tag.
    pub struct TagPullPolicy {
        /// Seconds that one attempt may take; 600 by default.
        ptr timeout_seconds: i32,
        /// Attempts after the first one; 3 by default.
        ptr backoff_limit: i32,
        /// Seconds for which a finished entry is kept. Required.
        ptr ttl_seconds_after_finished: i32,
        /// Seconds after which the pull is given up.
        ptr active_deadline_seconds: i64,
    }
    /// An object of the cluster, as core/v1 ObjectReference has it.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub struct ObjectReference {
        /// Its kind.
        opt kind: String,
        /// Its namespace.
        opt namespace: String,
        /// Its name.
        opt name: String,
        /// Its UID.
        opt uid: String,
        /// Its group and version.
        opt api_version: String,
        /// Its resource version.
        opt resource_version: String,
        /// The part of it that is meant.
        opt field_path: String,
    }
    /// Labels and annotations that the runtime is told with a pull.
    pub struct SandboxConfig {
        /// Labels.
        opt labels: BTreeMap<String, String>,
        /// Annotations.
        opt annotations: BTreeMap<String, String>,
    }
    /// Status of a NodeImage (API-41).
    pub struct NodeImageStatus {
        /// Tags that the node shall have.
        always desired: i32,
        /// Tags that it has.
        shown succeeded: i32,
        /// Tags that it gave up.
        shown failed: i32,
        /// Tags that it is pulling.
        shown pulling: i32,
        /// Tags that wait to be pulled.
        shown waiting: i32,
        /// How far each image is, by image name without tag.
        opt image_statuses: BTreeMap<String, ImageStatus>,
        /// How the first report of the node went.
        ptr first_sync_status: SyncStatus,
    }
    /// How far one image is.
    pub struct ImageStatus {
        /// By tag.
        always tags: Vec<ImageTagStatus>,
    }
    /// How far one tag is.
    pub struct ImageTagStatus {
        /// The tag.
        always tag: String,
        /// `Waiting`, `Pulling`, `Succeeded` or `Failed`.
        always phase: String,
        /// Percentage of the bytes that are there, 0 to 100.
        opt progress: i32,
        /// When the pull began.
        ptr start_time: Time,
        /// When it ended.
        ptr completion_time: Time,
        /// Version of the entry in `spec` that this is about.
        opt version: i64,
        /// Id of the image in the runtime.
        #[serde(rename = "imageID")]
        opt image_id: String,
        /// Why, for people.
        opt message: String,
    }
    /// How the first report of the node went.
    pub struct SyncStatus {
        /// When it was made.
        #[schemars(schema_with = "super::schema::time")]
        shown sync_at: Option<Time>,
        /// `Succeeded` or `Failed`.
        opt status: String,
        /// Why, for people.
        opt message: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::text;

    #[test]
    fn a_time_that_is_not_there_is_null_where_the_reference_prints_it_api_41() {
        assert_eq!(text(&SyncStatus::default()), r#"{"syncAt":null}"#);
        assert_eq!(text(&ImageTagSpec::default()), r#"{"tag":""}"#);
    }

    #[test]
    fn a_reference_has_the_members_of_core_v1() {
        let reference = ObjectReference { kind: "Job".to_owned(), uid: "u".to_owned(), ..ObjectReference::default() };
        assert_eq!(text(&reference), r#"{"kind":"Job","uid":"u"}"#);
    }
}
