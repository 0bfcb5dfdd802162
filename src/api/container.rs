//! A sidecar container and all that is inside it, in the member order of Kubernetes 1.32 (HASH-8).
//!
//! The order of the members is the order of the hashed text: to move one is to make every pod look outdated.
//! Members that are not listed here are newer than the list; they are kept apart (see `json`) and not hashed (HASH-9).
#![allow(missing_docs, reason = "members are those of core/v1 Container and are documented there")]

use std::collections::BTreeMap;

use super::{IntOrString, wire};
use crate::quantity::Quantity;

wire! {
    /// One entry of `containers` or `initContainers`: a core Container and six members of its own (API-11).
    #[schemars(transform = super::schema::keep_own_members)]
    pub struct SidecarContainer {
        always name: String,
        opt image: String,
        opt command: Vec<String>,
        opt args: Vec<String>,
        opt working_dir: String,
        opt ports: Vec<ContainerPort>,
        opt env_from: Vec<EnvFromSource>,
        opt env: Vec<EnvVar>,
        always resources: ResourceRequirements,
        opt resize_policy: Vec<ContainerResizePolicy>,
        ptr restart_policy: String,
        opt volume_mounts: Vec<VolumeMount>,
        opt volume_devices: Vec<VolumeDevice>,
        ptr liveness_probe: Probe,
        ptr readiness_probe: Probe,
        ptr startup_probe: Probe,
        ptr lifecycle: Lifecycle,
        opt termination_message_path: String,
        opt termination_message_policy: String,
        opt image_pull_policy: String,
        ptr security_context: SecurityContext,
        opt stdin: bool,
        opt stdin_once: bool,
        opt tty: bool,
        /// Place among the pod's own containers (ORD-2): `BeforeAppContainer` (default of containers) or
        /// `AfterAppContainer` (default of init containers).
        opt pod_inject_policy: String,
        /// How this sidecar is upgraded in running pods.
        always upgrade_strategy: UpgradeStrategy,
        /// Whether this sidecar gets the volume mounts of the pod's own containers too (SHR).
        always share_volume_policy: SharePolicy,
        /// Whether this sidecar gets the volume devices of the pod's own containers too (SHR).
        ptr share_volume_device_policy: SharePolicy,
        /// Envs copied from the pod's own containers (TE).
        opt transfer_env: Vec<TransferEnvVar>,
        /// Resources computed from those of the pod's own containers (RES); not together with `resources`.
        ptr resources_policy: ResourcesPolicy,
    }
    /// How a sidecar is upgraded in running pods.
    pub struct UpgradeStrategy {
        /// `ColdUpgrade` (default): the container is restarted with the new image; `HotUpgrade`: of two containers, the idle
        /// one gets the new image and takes over.
        opt upgrade_type: String,
        /// Image of the idle container of a `HotUpgrade` pair. Required then.
        opt hot_upgrade_empty_image: String,
    }
    /// Whether the pod's mounts or devices are shared with a sidecar (SHR).
    pub struct SharePolicy {
        /// `enabled` or `disabled`, which is the default.
        opt r#type: String,
    }
    /// Envs to copy from one container of the pod (TE).
    pub struct TransferEnvVar {
        /// Name of the container.
        opt source_container_name: String,
        /// Where the pod says the name of the container; wins over `sourceContainerName`.
        ptr source_container_name_from: SourceContainerNameSource,
        /// Name of one env.
        opt env_name: String,
        /// Names of more envs.
        opt env_names: Vec<String>,
    }
    /// Where the name of the source container is read from (TE-2).
    pub struct SourceContainerNameSource {
        /// A label or annotation of the pod: `metadata.labels['KEY']` or `metadata.annotations['KEY']`.
        ptr field_ref: ObjectFieldSelector,
    }
    /// Resources computed from the pod's containers (RES).
    pub struct ResourcesPolicy {
        /// What `cpu` and `memory` stand for in the expressions: the `sum` over the target containers or the `max`.
        #[schemars(extend("enum" = ["sum", "max"]))]
        always target_containers_mode: String,
        /// Which containers of the pod are targets, by name; all by default.
        #[schemars(extend("default" = ".*"))]
        opt target_containers_name_regex: String,
        /// The expressions.
        always resources_expr: ResourcesExpr,
    }
    /// The expressions of a [`ResourcesPolicy`].
    pub struct ResourcesExpr {
        /// Of the limits.
        ptr limits: ResourceExprs,
        /// Of the requests.
        ptr requests: ResourceExprs,
    }
    /// One expression each for cpu and memory; empty means "not set".
    pub struct ResourceExprs {
        /// Such as `max(cpu*50%, 50m)`.
        opt cpu: String,
        /// Such as `max(memory*50%, 100Mi)`.
        opt memory: String,
    }

    /// A port of a container, as core/v1 has it.
    pub struct ContainerPort {
        /// Its name.
        opt name: String,
        /// Its number on the host.
        opt host_port: i32,
        /// Its number in the pod.
        always container_port: i32,
        /// `TCP` (default), `UDP` or `SCTP`.
        #[schemars(extend("default" = "TCP"))]
        opt protocol: String,
        /// The address of the host that it is bound to.
        #[serde(rename = "hostIP")]
        opt host_ip: String,
    }
    pub struct EnvFromSource {
        opt prefix: String,
        ptr config_map_ref: OptionalRef,
        ptr secret_ref: OptionalRef,
    }
    /// A ConfigMap or Secret by name.
    pub struct OptionalRef {
        opt name: String,
        ptr optional: bool,
    }
    pub struct EnvVar {
        always name: String,
        opt value: String,
        ptr value_from: EnvVarSource,
    }
    pub struct EnvVarSource {
        ptr field_ref: ObjectFieldSelector,
        ptr resource_field_ref: ResourceFieldSelector,
        ptr config_map_key_ref: KeySelector,
        ptr secret_key_ref: KeySelector,
    }
    /// A field of an object, as core/v1 has it.
    pub struct ObjectFieldSelector {
        /// Version in which the path is to be read; `v1` by default.
        opt api_version: String,
        /// Path of the field.
        always field_path: String,
    }
    pub struct ResourceFieldSelector {
        opt container_name: String,
        always resource: String,
        always divisor: Quantity,
    }
    /// One key of a ConfigMap or Secret.
    pub struct KeySelector {
        opt name: String,
        always key: String,
        ptr optional: bool,
    }
    pub struct ResourceRequirements {
        opt limits: BTreeMap<String, Quantity>,
        opt requests: BTreeMap<String, Quantity>,
        opt claims: Vec<ResourceClaim>,
    }
    pub struct ResourceClaim {
        always name: String,
        opt request: String,
    }
    pub struct ContainerResizePolicy {
        always resource_name: String,
        always restart_policy: String,
    }
    pub struct VolumeMount {
        always name: String,
        opt read_only: bool,
        ptr recursive_read_only: String,
        always mount_path: String,
        opt sub_path: String,
        ptr mount_propagation: String,
        opt sub_path_expr: String,
    }
    pub struct VolumeDevice {
        always name: String,
        always device_path: String,
    }
    pub struct Probe {
        ptr exec: ExecAction,
        ptr http_get: HttpGetAction,
        ptr tcp_socket: TcpSocketAction,
        ptr grpc: GrpcAction,
        opt initial_delay_seconds: i32,
        opt timeout_seconds: i32,
        opt period_seconds: i32,
        opt success_threshold: i32,
        opt failure_threshold: i32,
        ptr termination_grace_period_seconds: i64,
    }
    pub struct Lifecycle {
        ptr post_start: LifecycleHandler,
        ptr pre_stop: LifecycleHandler,
    }
    pub struct LifecycleHandler {
        ptr exec: ExecAction,
        ptr http_get: HttpGetAction,
        ptr tcp_socket: TcpSocketAction,
        ptr sleep: SleepAction,
    }
    /// A command, run in the container without a shell.
    pub struct ExecAction {
        /// Program and arguments.
        opt command: Vec<String>,
    }
    /// An HTTP GET request.
    pub struct HttpGetAction {
        /// Path of the URL.
        opt path: String,
        /// Number or name of the port.
        always port: IntOrString,
        /// Host; the pod's address by default.
        opt host: String,
        /// `HTTP` (default) or `HTTPS`.
        opt scheme: String,
        /// Further headers.
        opt http_headers: Vec<HttpHeader>,
    }
    /// One header of an HTTP request.
    pub struct HttpHeader {
        /// Its name.
        always name: String,
        /// Its value.
        always value: String,
    }
    /// A TCP connection.
    pub struct TcpSocketAction {
        /// Number or name of the port.
        always port: IntOrString,
        /// Host; the pod's address by default.
        opt host: String,
    }
    pub struct GrpcAction {
        always port: i32,
        /// Printed as `null` when absent.
        always service: Option<String>,
    }
    pub struct SleepAction {
        always seconds: i64,
    }
    pub struct SecurityContext {
        ptr capabilities: Capabilities,
        ptr privileged: bool,
        ptr se_linux_options: SeLinuxOptions,
        ptr windows_options: WindowsOptions,
        ptr run_as_user: i64,
        ptr run_as_group: i64,
        ptr run_as_non_root: bool,
        ptr read_only_root_filesystem: bool,
        ptr allow_privilege_escalation: bool,
        ptr proc_mount: String,
        ptr seccomp_profile: ConfinementProfile,
        ptr app_armor_profile: ConfinementProfile,
    }
    pub struct Capabilities {
        opt add: Vec<String>,
        opt drop: Vec<String>,
    }
    pub struct SeLinuxOptions {
        opt user: String,
        opt role: String,
        opt r#type: String,
        opt level: String,
    }
    pub struct WindowsOptions {
        ptr gmsa_credential_spec_name: String,
        ptr gmsa_credential_spec: String,
        ptr run_as_user_name: String,
        ptr host_process: bool,
    }
    /// A seccomp or AppArmor profile.
    pub struct ConfinementProfile {
        always r#type: String,
        ptr localhost_profile: String,
    }
}

/// The members of an entry that no pod ever sees (INJ-5).
pub const OWN_MEMBERS: [&str; 6] = [
    "podInjectPolicy",
    "upgradeStrategy",
    "shareVolumePolicy",
    "shareVolumeDevicePolicy",
    "transferEnv",
    "resourcesPolicy",
];

impl SidecarContainer {
    /// Whether this entry of `initContainers` keeps running beside the containers.
    pub fn is_native_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    /// Whether two containers are made of this entry (HOT-1 leaves plain init containers out; the caller knows the list).
    pub fn is_hot_upgrade(&self) -> bool {
        self.upgrade_strategy.upgrade_type == "HotUpgrade"
    }
}
