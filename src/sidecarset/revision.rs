//! Hashes of a SidecarSet and the name of its revision, character for character those of the reference (HASH, REV-2, REV-3).
//!
//! A pod is outdated when the hash it carries is not its SidecarSet's: one character of difference here, and a cluster
//! that switches sees every pod as outdated.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::container::SidecarContainer;
use crate::api::json;
use crate::api::names;
use crate::api::sidecarset::{SidecarSet, SidecarSetSpec};

/// Bytes of a SidecarSet's name that fit into a revision's name beside the hash (REV-3).
const REVISION_PREFIX: usize = 223;

/// The two hashes of a spec (HASH-1, HASH-4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// Over containers with their images.
    pub full: String,
    /// Over containers without their images.
    pub without_image: String,
}

impl Hashes {
    /// Hashes a defaulted spec (HASH-6).
    pub fn of(spec: &SidecarSetSpec) -> Self {
        let full = safe_encode(&hex(&Sha256::digest(hashed_text(spec))));
        let mut spec = HashedSpec::from(spec).cloned();
        for container in spec.containers.iter_mut().chain(&mut spec.init_containers).flatten() {
            container.image.clear();
        }
        let without_image = safe_encode(&hex(&Sha256::digest(json::text(&HashedSpec {
            containers: spec.containers.as_deref(),
            init_containers: spec.init_containers.as_deref(),
        }))));
        Self { full, without_image }
    }

    /// The hashes that an object's annotations tell, each for itself; what they do not tell is computed (ANN-3, REV-4).
    pub fn told<'a>(annotation: impl Fn(&str) -> Option<&'a str>, spec: &SidecarSetSpec) -> Self {
        let told = |key| annotation(key).filter(|hash| !hash.is_empty()).map(str::to_owned);
        match (told(names::HASH), told(names::HASH_WITHOUT_IMAGE)) {
            (Some(full), Some(without_image)) => Self { full, without_image },
            (full, without_image) => {
                let computed = Self::of(spec);
                Self {
                    full: full.unwrap_or(computed.full),
                    without_image: without_image.unwrap_or(computed.without_image),
                }
            }
        }
    }

    /// Writes the hashes into the annotations of `set`, over whatever the client sent (SSD-9).
    pub fn annotate(&self, set: &mut SidecarSet) {
        let annotations = &mut set.metadata.annotations;
        annotations.insert(names::HASH.to_owned(), self.full.clone());
        annotations.insert(names::HASH_WITHOUT_IMAGE.to_owned(), self.without_image.clone());
    }
}

/// The text that the full hash covers (HASH-2, HASH-3, HASH-7).
pub fn hashed_text(spec: &SidecarSetSpec) -> String {
    json::text(&HashedSpec::from(spec))
}

/// Data of the ControllerRevision of a spec (REV-2).
pub fn revision_data(spec: &SidecarSetSpec) -> Value {
    fn list<T: Serialize>(items: &[T]) -> Value {
        if items.is_empty() { Value::Null } else { json!(items) }
    }
    json!({"spec": {
        "$patch": "replace",
        "containers": list(spec.containers.as_deref().unwrap_or_default()),
        "imagePullSecrets": list(&spec.image_pull_secrets),
        "initContainers": list(spec.init_containers.as_deref().unwrap_or_default()),
        "patchPodMetadata": list(&spec.patch_pod_metadata),
        "volumes": list(&spec.volumes),
    }})
}

/// Name of the ControllerRevision of `set` (REV-3), from its spec and `status.collisionCount`.
pub fn revision_name(set: &SidecarSet) -> String {
    let text = json::text(&revision_data(&set.spec));
    let collisions = set.status.collision_count.unwrap_or_default();
    let hash = fnv1_32(format!("{text}{collisions}").as_bytes());
    let name = &set.metadata.name;
    let prefix = name.get(..REVISION_PREFIX).unwrap_or(name);
    format!("{prefix}-{}", safe_encode(&hash.to_string()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HashedSpec<'a> {
    containers: Option<&'a [SidecarContainer]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_containers: Option<&'a [SidecarContainer]>,
}

struct OwnedSpec {
    containers: Option<Vec<SidecarContainer>>,
    init_containers: Option<Vec<SidecarContainer>>,
}

impl<'a> From<&'a SidecarSetSpec> for HashedSpec<'a> {
    fn from(spec: &'a SidecarSetSpec) -> Self {
        let init = spec.init_containers.as_deref();
        Self {
            containers: spec.containers.as_deref(),
            // HASH-2: plain init containers count only beside a native sidecar.
            init_containers: init.filter(|init| init.iter().any(SidecarContainer::is_native_sidecar)),
        }
    }
}

impl HashedSpec<'_> {
    fn cloned(&self) -> OwnedSpec {
        OwnedSpec {
            containers: self.containers.map(<[_]>::to_vec),
            init_containers: self.init_containers.map(<[_]>::to_vec),
        }
    }
}

/// Replaces each character by one that cannot spell a word (HASH-1).
fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(names::ALPHABET[usize::from(byte) % names::ALPHABET.len()])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// FNV-1, not FNV-1a: multiplies before it mixes in the byte.
fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}
