//! Volumes of a SidecarSet. The sources that defaulting or validation looks into are typed; the others are carried as
//! they are (SSD-7, PODV-8).
#![allow(missing_docs, reason = "members are those of core/v1 Volume and are documented there")]

use serde_json::Value;

use super::container::{ObjectFieldSelector, ResourceFieldSelector};
use super::wire;
use crate::quantity::Quantity;

wire! {
    pub struct Volume {
        always name: String,
        ptr host_path: HostPath,
        ptr empty_dir: EmptyDir,
        ptr gce_persistent_disk: Value,
        ptr aws_elastic_block_store: Value,
        ptr git_repo: Value,
        ptr secret: SecretSource,
        ptr nfs: Value,
        ptr iscsi: Value,
        ptr glusterfs: Value,
        ptr persistent_volume_claim: ClaimSource,
        ptr rbd: Value,
        ptr flex_volume: Value,
        ptr cinder: Value,
        ptr cephfs: Value,
        ptr flocker: Value,
        #[serde(rename = "downwardAPI")]
        ptr downward_api: DownwardApiSource,
        ptr fc: Value,
        ptr azure_file: Value,
        ptr config_map: ConfigMapSource,
        ptr vsphere_volume: Value,
        ptr quobyte: Value,
        ptr azure_disk: Value,
        ptr photon_persistent_disk: Value,
        ptr projected: ProjectedSource,
        ptr portworx_volume: Value,
        #[serde(rename = "scaleIO")]
        ptr scale_io: Value,
        ptr storageos: Value,
        ptr csi: Value,
        ptr ephemeral: Value,
        ptr image: ImageSource,
    }
    pub struct HostPath {
        always path: String,
        ptr r#type: String,
    }
    pub struct EmptyDir {
        opt medium: String,
        ptr size_limit: Quantity,
    }
    pub struct SecretSource {
        opt secret_name: String,
        opt items: Vec<KeyToPath>,
        ptr default_mode: i32,
        ptr optional: bool,
    }
    pub struct ClaimSource {
        always claim_name: String,
        opt read_only: bool,
    }
    pub struct ConfigMapSource {
        opt name: String,
        opt items: Vec<KeyToPath>,
        ptr default_mode: i32,
        ptr optional: bool,
    }
    pub struct KeyToPath {
        always key: String,
        always path: String,
        ptr mode: i32,
    }
    pub struct DownwardApiSource {
        opt items: Vec<DownwardApiFile>,
        ptr default_mode: i32,
    }
    pub struct DownwardApiFile {
        always path: String,
        ptr field_ref: ObjectFieldSelector,
        ptr resource_field_ref: ResourceFieldSelector,
        ptr mode: i32,
    }
    pub struct ProjectedSource {
        always sources: Option<Vec<VolumeProjection>>,
        ptr default_mode: i32,
    }
    pub struct VolumeProjection {
        ptr secret: SecretProjection,
        #[serde(rename = "downwardAPI")]
        ptr downward_api: DownwardApiProjection,
        ptr config_map: SecretProjection,
        ptr service_account_token: TokenProjection,
        ptr cluster_trust_bundle: Value,
    }
    /// A Secret or ConfigMap inside a projected volume.
    pub struct SecretProjection {
        opt name: String,
        opt items: Vec<KeyToPath>,
        ptr optional: bool,
    }
    pub struct DownwardApiProjection {
        opt items: Vec<DownwardApiFile>,
    }
    pub struct TokenProjection {
        opt audience: String,
        ptr expiration_seconds: i64,
        always path: String,
    }
    pub struct ImageSource {
        opt reference: String,
        opt pull_policy: String,
    }
}

impl Volume {
    /// The names of the sources that are set, in the order of their declaration. A valid volume has exactly one.
    pub fn sources(&self) -> Vec<String> {
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => {
                members.into_iter().map(|(name, _)| name).filter(|name| name != "name").collect()
            }
            _ => Vec::new(),
        }
    }
}
