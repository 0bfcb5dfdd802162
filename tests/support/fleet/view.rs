//! What daemons and auditors read of a NodeImage. Not the types of the code under test: it shall not judge itself.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeImage {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Option<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub resource_version: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub images: BTreeMap<String, Image>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Image {
    pub tags: Vec<Tag>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tag {
    #[serde(rename = "tag")]
    pub name: String,
    pub version: i64,
    pub owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    pub uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub desired: i32,
    pub image_statuses: BTreeMap<String, ImageStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageStatus {
    pub tags: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl NodeImage {
    /// What is said of this tag at this version; nothing when it was said of another.
    pub fn said(&self, image: &str, tag: &Tag) -> Option<&serde_json::Map<String, serde_json::Value>> {
        let all = &self.status.as_ref()?.image_statuses.get(image)?.tags;
        let version = |it: &serde_json::Map<_, _>| it.get("version").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let is_meant = |it: &&serde_json::Map<String, serde_json::Value>| {
            it.get("tag").is_some_and(|it| it == &tag.name) && version(it) == tag.version
        };
        all.iter().find(is_meant)
    }

    /// Whether this version of the tag has ended (JOB-14).
    pub fn has_ended(&self, image: &str, tag: &Tag) -> bool {
        let phase = self.said(image, tag).and_then(|said| said.get("phase")?.as_str());
        phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
    }
}
