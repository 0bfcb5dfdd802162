//! Conversion between the served versions, on the JSON level (CONV-1 … CONV-NI).
//!
//! v1beta1 is the hub. Differs: CONV-2, the members named below are touched and no others, so what the types do not know
//! survives. What cannot be understood stays as it is: an object that does not convert is one that nobody can read any
//! more, so only what makes an answer impossible is an error.
//!
//! `sidecarset::admit` reads v1alpha1 through types of its own (`api::sidecarset`): there each wrong member must be told
//! with its path, where a conversion has to be lenient. `tests/crds.rs` holds the two together.

use serde_json::{Map, Value, json};

use crate::api::json::{decode, text};
use crate::api::names;
use crate::api::recreate::{ContainerSnapshot, PRE_RECREATE_GRACE};

/// What the condition says when it is made of the annotation (CONV-CRR-3).
const GRACE_MESSAGE: &str = "Pod has been forced to not-ready for unreadyGracePeriodSeconds drain";

/// The kinds that are ours.
const KINDS: [&str; 5] = ["SidecarSet", "ContainerRecreateRequest", "ImagePullJob", "ImageListPullJob", "NodeImage"];

/// A version that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The older one.
    V1alpha1,
    /// The hub.
    V1beta1,
}

/// Why an object cannot be converted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// It is no JSON object.
    #[error("is not an object")]
    NotObject,
    /// The wanted or the present `apiVersion`.
    #[error("apiVersion {0:?} is not served; {v1alpha1} and {v1beta1} are", v1alpha1 = names::V1ALPHA1, v1beta1 = names::V1BETA1)]
    Version(String),
    /// Its kind.
    #[error(
        "kind {0:?} is not known; SidecarSet, ContainerRecreateRequest, ImagePullJob, ImageListPullJob and NodeImage are"
    )]
    Kind(String),
    /// A member that must be written to holds something else.
    #[error("{0}: must be an object")]
    NotMap(&'static str),
}

/// Converts an object of any of our kinds to the `apiVersion` that is wanted.
pub fn convert(object: &mut Value, desired: &str) -> Result<(), ConvertError> {
    let to = Version::parse(desired)?;
    let members = object.as_object_mut().ok_or(ConvertError::NotObject)?;
    let member = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (from, kind) = (Version::parse(&member("apiVersion"))?, member("kind"));
    if !KINDS.contains(&kind.as_str()) {
        return Err(ConvertError::Kind(kind));
    }
    match (kind.as_str(), from, to) {
        ("SidecarSet", Version::V1alpha1, Version::V1beta1) => newer_set(members)?,
        ("SidecarSet", Version::V1beta1, Version::V1alpha1) => older_set(members)?,
        ("ContainerRecreateRequest", Version::V1alpha1, Version::V1beta1) => newer_recreate(members)?,
        ("ContainerRecreateRequest", Version::V1beta1, Version::V1alpha1) => older_recreate(members)?,
        // CONV-IPJ-1, CONV-NI-1: nothing is named differently.
        _ => {}
    }
    members.insert("apiVersion".to_owned(), desired.into());
    Ok(())
}

/// CONV-SS-3, CONV-SS-4. A `customVersion` of v1alpha1 means nothing, and must not come to mean something.
fn newer_set(set: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let custom_version = take(set, LABELS, names::CUSTOM_VERSION);
    let namespace = object_at(set, "spec").and_then(|spec| {
        spec.remove("customVersion");
        spec.remove("namespace")
    });
    if let Some(version) = filled(custom_version) {
        make(set, "spec", "spec")?.insert("customVersion".to_owned(), version.into());
    }
    if let Some(namespace) = filled(namespace) {
        let selector = json!({"matchLabels": {names::NAMESPACE_NAME: namespace}});
        make(set, "spec", "spec")?.insert("namespaceSelector".to_owned(), selector);
    }
    Ok(())
}

/// CONV-SS-5, CONV-SS-6. A `namespace` of v1beta1 means nothing, and must not come to mean something.
fn older_set(set: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let custom_version = object_at(set, "spec").and_then(|spec| {
        spec.remove("namespace");
        spec.remove("customVersion")
    });
    filled(custom_version).map_or(Ok(()), |version| put(set, LABELS, names::CUSTOM_VERSION, version))
}

/// CONV-CRR-2, CONV-CRR-3. Differs: CONV-CRR-7, an annotation that became a member of the status is removed.
fn newer_recreate(request: &mut Map<String, Value>) -> Result<(), ConvertError> {
    drop_status(request, &["containerStatusSnapshot", "conditions"]);
    if let Some(snapshot) = annotation(request, names::SYNC_STATUSES).and_then(snapshot_of) {
        take(request, ANNOTATIONS, names::SYNC_STATUSES);
        make(request, "status", "status")?.insert("containerStatusSnapshot".to_owned(), json!(snapshot));
    }
    if let Some(since) = annotation(request, names::UNREADY_ACQUIRED).and_then(time_of) {
        take(request, ANNOTATIONS, names::UNREADY_ACQUIRED);
        let grace = json!({
            "type": PRE_RECREATE_GRACE,
            "status": "True",
            "lastTransitionTime": since,
            "reason": PRE_RECREATE_GRACE,
            "message": GRACE_MESSAGE,
        });
        make(request, "status", "status")?.insert("conditions".to_owned(), json!([grace]));
    }
    Ok(())
}

/// The annotations of a ContainerRecreateRequest that become members of its status when it is converted (WEAK-14).
pub fn promoted(request: &Value) -> Vec<&'static str> {
    let Some(request) = request.as_object() else { return Vec::new() };
    let snapshot = annotation(request, names::SYNC_STATUSES).and_then(snapshot_of).map(|_| names::SYNC_STATUSES);
    let since = annotation(request, names::UNREADY_ACQUIRED).and_then(time_of).map(|_| names::UNREADY_ACQUIRED);
    snapshot.into_iter().chain(since).collect()
}

/// CONV-CRR-4 … CONV-CRR-6.
fn older_recreate(request: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let status = request.get("status");
    let member = |name: &str| status.and_then(|status| status.get(name)).filter(|member| !member.is_null());
    let snapshot = member("containerStatusSnapshot").and_then(|value| decode::<Vec<ContainerSnapshot>>(value).ok());
    let conditions = member("conditions").and_then(Value::as_array).into_iter().flatten();
    let grace = conditions.filter(|condition| condition["type"] == PRE_RECREATE_GRACE).find(|c| c["status"] == "True");
    let since = grace.and_then(|grace| grace["lastTransitionTime"].as_str()).and_then(time_of);
    if let Some((snapshot, _)) = snapshot {
        put(request, ANNOTATIONS, names::SYNC_STATUSES, text(&snapshot))?;
    }
    if let Some(since) = since {
        put(request, ANNOTATIONS, names::UNREADY_ACQUIRED, since)?;
    }
    drop_status(request, &["containerStatusSnapshot", "conditions"]);
    Ok(())
}

/// The containers of the pod, when the text is a JSON array of them.
fn snapshot_of(text: &str) -> Option<Vec<ContainerSnapshot>> {
    let value: Value = serde_json::from_str(text).ok()?;
    decode::<Vec<ContainerSnapshot>>(&value).ok().map(|(snapshot, _)| snapshot)
}

/// A time of RFC 3339 in whole seconds of UTC. The format is checked first: the parser takes more than the standard.
fn time_of(text: &str) -> Option<String> {
    let shape: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let (head, rest) = (text.get(..shape.len())?, &text[shape.len()..]);
    let fits = |(byte, want): (u8, &u8)| if *want == b'd' { byte.is_ascii_digit() } else { byte == *want };
    let zone =
        rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches(|c: char| c.is_ascii_digit()));
    let has_zone = match zone.as_bytes() {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()),
        _ => false,
    };
    if !head.bytes().zip(shape).all(fits) || !has_zone || head.ends_with("60") {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

// === members ===

/// A map inside metadata: its name and its path.
type MetadataMap = (&'static str, &'static str);
const LABELS: MetadataMap = ("labels", "metadata.labels");
const ANNOTATIONS: MetadataMap = ("annotations", "metadata.annotations");

fn object_at<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

/// The object at `name`, made when it is not there.
fn make<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
    path: &'static str,
) -> Result<&'a mut Map<String, Value>, ConvertError> {
    let member = object.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    member.as_object_mut().ok_or(ConvertError::NotMap(path))
}

/// A text that says something.
fn filled(member: Option<Value>) -> Option<String> {
    match member {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn annotation<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// Takes a label or annotation away. A map that gets empty goes with it, as in the reference's JSON.
fn take(object: &mut Map<String, Value>, (map, _): MetadataMap, key: &str) -> Option<Value> {
    let metadata = object_at(object, "metadata")?;
    let entries = object_at(metadata, map)?;
    let taken = entries.remove(key);
    if taken.is_some() && entries.is_empty() {
        metadata.remove(map);
    }
    taken
}

/// Sets a label or annotation.
fn put(
    object: &mut Map<String, Value>,
    (map, path): MetadataMap,
    key: &str,
    value: String,
) -> Result<(), ConvertError> {
    make(make(object, "metadata", "metadata")?, map, path)?.insert(key.to_owned(), value.into());
    Ok(())
}

/// Removes members of the status, and the status when nothing else was in it.
fn drop_status(object: &mut Map<String, Value>, members: &[&str]) {
    let Some(Value::Object(status)) = object.get_mut("status") else { return };
    let before = status.len();
    for member in members {
        status.remove(*member);
    }
    if status.is_empty() && before > 0 {
        object.remove("status");
    }
}

// === impl Version ===

impl Version {
    /// Reads an `apiVersion`.
    pub fn parse(api_version: &str) -> Result<Self, ConvertError> {
        match api_version {
            names::V1ALPHA1 => Ok(Self::V1alpha1),
            names::V1BETA1 => Ok(Self::V1beta1),
            other => Err(ConvertError::Version(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
