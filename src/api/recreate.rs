//! ContainerRecreateRequest: restart single containers of a pod (API-20 … API-24).
//!
//! These are the types of v1beta1, which is stored and read by everything here. v1alpha1 has the same spec without the
//! schema's bounds, and a status without the two newest members (CONV-CRR; see `crds` and `convert`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container::{ContainerPort, ExecAction, HttpGetAction, TcpSocketAction};
use super::meta::{Condition, ObjectMeta};
use super::wire;

/// The condition that tells since when a pod is kept unready before its containers are stopped (API-24).
pub const PRE_RECREATE_GRACE: &str = "PreRecreateGrace";

wire! {
    /// Restarts containers of a running pod, which stays where it is.
    pub struct ContainerRecreateRequest {
        /// Name, namespace, labels, annotations.
        shown metadata: ObjectMeta,
        /// Which containers to restart, and how.
        shown spec: RecreateSpec,
        /// How far it got.
        opt status: RecreateStatus,
    }
    /// Spec of a ContainerRecreateRequest (API-20).
    pub struct RecreateSpec {
        /// Name of the pod, in the namespace of this object.
        always pod_name: String,
        /// Containers to restart, in this order.
        always containers: Vec<RecreateContainer>,
        /// How to restart them.
        ptr strategy: RecreateStrategy,
        /// Seconds from the creation of this object after which it is given up; at least 3. No limit by default.
        #[schemars(range(min = 0))]
        ptr active_deadline_seconds: i64,
        /// Seconds for which the finished object is kept. It is kept for good by default.
        #[schemars(range(min = 0))]
        ptr ttl_seconds_after_finished: i32,
    }
    /// One container to restart (API-21). A request names it; the other members are filled in when it is admitted.
    pub struct RecreateContainer {
        /// Name of the container.
        always name: String,
        /// Hook to run before the container is stopped, taken from the pod. Must not be set in a request.
        ptr pre_stop: PreStop,
        /// Ports of the container, taken from the pod for `preStop`. Must not be set in a request.
        opt ports: Vec<ContainerPort>,
        /// The container that is to be replaced, taken from the pod. Must not be set in a request.
        ptr status_context: StatusContext,
    }
    /// A hook that runs before a container is stopped: one of the three.
    pub struct PreStop {
        /// Runs a command in the container.
        ptr exec: ExecAction,
        /// Sends an HTTP request to the pod.
        ptr http_get: HttpGetAction,
        /// Kept for compatibility; opens a TCP connection to the pod.
        ptr tcp_socket: TcpSocketAction,
    }
    /// Which instance of a container is to be replaced.
    pub struct StatusContext {
        /// Id of the container, with the name of its runtime: `containerd://…`.
        #[serde(rename = "containerID")]
        always container_id: String,
        /// How often the container had been restarted.
        always restart_count: i32,
    }
    /// How containers are restarted (API-22).
    pub struct RecreateStrategy {
        /// When a container cannot be restarted: `Fail` (default) ends the request, `Ignore` goes on with the others.
        #[schemars(extend("enum" = ["Fail", "Ignore"]))]
        opt failure_policy: String,
        /// Whether a container must be ready again before the next one is stopped.
        opt ordered_recreate: bool,
        /// Whether a container is restarted even if it was replaced after the request was made.
        opt force_recreate: bool,
        /// Seconds that a container has to stop, its hook included; those of the pod by default.
        #[schemars(range(min = 0))]
        ptr termination_grace_period_seconds: i64,
        /// Seconds for which the pod is kept unready before its containers are stopped, so that no new traffic reaches them.
        #[schemars(range(min = 0))]
        ptr unready_grace_period_seconds: i64,
        /// Seconds that a new container must have run, and be ready, to count as restarted; 0 by default.
        #[schemars(range(min = 0))]
        opt min_started_seconds: i32,
    }
    /// Status of a ContainerRecreateRequest (API-23).
    pub struct RecreateStatus {
        /// `Pending`, `Recreating`, or at the end `Completed`; `Succeeded` and `Failed` are those of single containers.
        #[schemars(extend("enum" = PHASES))]
        always phase: String,
        /// When it ended.
        ptr completion_time: Time,
        /// Why it ended, for people.
        opt message: String,
        /// How far each container got.
        opt container_recreate_states: Vec<RecreateState>,
        /// The containers of the pod as last seen.
        opt container_status_snapshot: Vec<ContainerSnapshot>,
        /// What else there is to know, such as `PreRecreateGrace`.
        #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
        opt conditions: Vec<Condition>,
    }
    /// How far one container got.
    pub struct RecreateState {
        /// Name of the container.
        always name: String,
        /// `Pending`, `Recreating`, `Succeeded` or `Failed`.
        #[schemars(extend("enum" = PHASES))]
        always phase: String,
        /// Why, for people.
        opt message: String,
        /// Whether the old container has been stopped.
        opt is_killed: bool,
    }
    /// One container of the pod as last seen.
    pub struct ContainerSnapshot {
        /// Name of the container.
        always name: String,
        /// Whether it is ready.
        always ready: bool,
        /// How often it has been restarted.
        always restart_count: i32,
        /// Its id, with the name of its runtime: `containerd://…`.
        #[serde(rename = "containerID")]
        opt container_id: String,
    }
}

/// What `phase` may be, of a request and of a container.
const PHASES: [&str; 5] = ["Pending", "Recreating", "Succeeded", "Failed", "Completed"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::json::text;

    #[test]
    fn a_request_is_printed_as_the_reference_prints_it_api_20() {
        let spec = RecreateSpec {
            containers: vec![RecreateContainer { name: "app".to_owned(), ..RecreateContainer::default() }],
            strategy: Some(RecreateStrategy { min_started_seconds: 3, ..RecreateStrategy::default() }),
            ..RecreateSpec::default()
        };
        assert_eq!(text(&spec), r#"{"podName":"","containers":[{"name":"app"}],"strategy":{"minStartedSeconds":3}}"#);
    }

    #[test]
    fn a_time_is_printed_in_whole_seconds_of_utc() {
        let status = json!({"phase": "Completed", "completionTime": "2026-03-04T07:06:07.9+02:00"});
        let status: RecreateStatus = serde_json::from_value(status).unwrap();
        assert_eq!(text(&status), r#"{"phase":"Completed","completionTime":"2026-03-04T05:06:07Z"}"#);
    }
}
