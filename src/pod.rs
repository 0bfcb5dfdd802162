//! A pod as the rules read it: borrowed from the bytes of the request and parsed only as deep as somebody asks
//! (design decision 1).
//!
//! [`Pod`] is the first look: metadata, and the spec as raw text. [`Pod::spec`] is the second, paid only for a pod that
//! something will be done to: names, and inside each container the raw text of what rules may look into. The third look,
//! at single entries, is paid by the rule that asks. Nothing is ever printed from these types, so no field can be lost by
//! them (RSP-6).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use memchr::memmem;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::names;
use crate::selector::Labels;

/// A string of the request, borrowed unless it holds escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<'a>(pub Cow<'a, str>);

/// A JSON object of strings, such as labels, in its own order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

/// A pod of a request.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pod<'a> {
    /// Name, namespace, labels and the rest.
    #[serde(borrow)]
    pub metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

/// Metadata of a pod. An absent member and `null` are the same.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// Name; empty when the API server is to make one from `generate_name`.
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    /// Prefix of a name to be made.
    #[serde(borrow)]
    pub generate_name: Option<Text<'a>>,
    /// Namespace; often empty, then the request's counts (POD-1).
    #[serde(borrow)]
    pub namespace: Option<Text<'a>>,
    /// Labels.
    #[serde(borrow)]
    pub labels: Option<Pairs<'a>>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    owner_references: Option<&'a RawValue>,
    /// Set on a pod that is going away (MATCH-2).
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
}

/// An owner of a pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Owner<'a> {
    /// Group and version.
    #[serde(borrow)]
    pub api_version: Option<Text<'a>>,
    /// Whether this owner manages the pod.
    pub controller: Option<bool>,
}

/// The lists of a pod's spec that injection reads.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec<'a> {
    /// `spec.containers`.
    #[serde(borrow)]
    pub containers: Option<Vec<Container<'a>>>,
    /// `spec.initContainers`.
    #[serde(borrow)]
    pub init_containers: Option<Vec<Container<'a>>>,
    /// `spec.volumes`.
    #[serde(borrow)]
    pub volumes: Option<Vec<Named<'a>>>,
    /// `spec.imagePullSecrets`.
    #[serde(borrow)]
    pub image_pull_secrets: Option<Vec<Named<'a>>>,
    /// `spec.readinessGates`.
    #[serde(borrow)]
    pub readiness_gates: Option<Vec<ReadinessGate<'a>>>,
    /// The whole text, for [`Spec::texts`].
    #[serde(skip)]
    text: &'a str,
}

/// A list of the spec whose entries somebody needs as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `spec.containers`.
    Containers,
    /// `spec.initContainers`.
    InitContainers,
    /// `spec.volumes`.
    Volumes,
    /// `spec.imagePullSecrets`.
    ImagePullSecrets,
}

/// A container of the pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container<'a> {
    /// Its name.
    #[serde(borrow, deserialize_with = "or_empty")]
    pub name: Text<'a>,
    /// `Always` makes an init container a native sidecar.
    #[serde(borrow)]
    pub restart_policy: Option<Text<'a>>,
    #[serde(borrow)]
    env: Option<&'a RawValue>,
    #[serde(borrow)]
    volume_mounts: Option<&'a RawValue>,
    #[serde(borrow)]
    volume_devices: Option<&'a RawValue>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
}

/// An env of a container.
#[derive(Clone, Debug, Default)]
pub struct EnvVar<'a> {
    /// Its place in the list.
    pub index: usize,
    /// Whole text of the entry, to be copied as it is (TE-5).
    pub raw: &'a str,
    /// Its literal value, if it has one.
    pub value: Option<Text<'a>>,
}

/// A volumeMount or volumeDevice of a container.
#[derive(Clone, Debug, Default)]
pub struct Mount<'a> {
    /// Whole text of the entry, to be copied as it is (SHR-2).
    pub raw: &'a str,
    /// `mountPath` or `devicePath`.
    pub path: Text<'a>,
    /// `subPathExpr`, whose variables a sharing sidecar needs too (SHR-4).
    pub sub_path_expr: Option<Text<'a>>,
}

/// A list entry that is known by its name.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Named<'a> {
    /// Its name.
    #[serde(borrow, deserialize_with = "or_empty")]
    pub name: Text<'a>,
}

/// A readiness gate of the pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReadinessGate<'a> {
    /// The condition it waits for.
    #[serde(borrow)]
    pub condition_type: Option<Text<'a>>,
}

/// A pod's resources as text, by name.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `resources.limits`.
    pub limits: Option<std::collections::BTreeMap<String, crate::quantity::Quantity>>,
    /// `resources.requests`.
    pub requests: Option<std::collections::BTreeMap<String, crate::quantity::Quantity>>,
}

/// The pod is not what a pod must be.
#[derive(Debug, thiserror::Error)]
#[error("the pod's {part} cannot be read: {source}")]
pub struct PodError {
    /// Part of the pod.
    pub part: &'static str,
    /// What the parser says.
    source: serde_json::Error,
}

// === impl Pod ===

impl<'a> Pod<'a> {
    /// Reads the metadata of a pod.
    pub fn parse(json: &'a str) -> Result<Self, PodError> {
        serde_json::from_str(json).map_err(|source| PodError { part: "metadata", source })
    }

    /// Reads the lists of the spec.
    pub fn spec(&self) -> Result<Spec<'a>, PodError> {
        match self.spec {
            None => Ok(Spec::default()),
            Some(raw) => {
                let spec: Spec<'a> =
                    serde_json::from_str(raw.get()).map_err(|source| PodError { part: "spec", source })?;
                Ok(Spec { text: raw.get(), ..spec })
            }
        }
    }

    /// Whether the text of the spec may hold this name somewhere. Never wrong when it says no: a text with escapes,
    /// which could spell the name in another way, counts as a yes.
    pub fn may_mention(&self, name: &str) -> bool {
        self.spec.is_some_and(|raw| mentions(raw.get(), name))
    }
}

fn mentions(json: &str, name: &str) -> bool {
    memmem::find(json.as_bytes(), name.as_bytes()).is_some() || memmem::find(json.as_bytes(), b"\\u").is_some()
}

impl<'a> Metadata<'a> {
    /// All annotations.
    pub fn annotations(&self) -> Result<Pairs<'a>, PodError> {
        match self.annotations {
            None => Ok(Pairs::default()),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|source| PodError { part: "annotations", source }),
        }
    }

    /// Whether the object has a map of annotations, be it empty.
    pub fn has_annotations(&self) -> bool {
        self.annotations.is_some()
    }

    /// Whether `metadata.annotations` may hold this key; like [`Pod::may_mention`].
    pub fn may_annotate(&self, key: &str) -> bool {
        self.annotations.is_some_and(|raw| mentions(raw.get(), key))
    }

    /// The owner that manages the pod (RG-1).
    pub fn controller(&self) -> Result<Option<Owner<'a>>, PodError> {
        let Some(raw) = self.owner_references else { return Ok(None) };
        let owners: Vec<Owner<'a>> =
            serde_json::from_str(raw.get()).map_err(|source| PodError { part: "owner references", source })?;
        Ok(owners.into_iter().find(|owner| owner.controller == Some(true)))
    }
}

// === impl Spec ===

impl<'a> Spec<'a> {
    /// The entries of a list as text: a further look at the whole spec, for the few who need it.
    pub fn texts(&self, list: List) -> Result<Vec<&'a str>, PodError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Texts<'a> {
            #[serde(borrow)]
            containers: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            init_containers: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            volumes: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            image_pull_secrets: Option<Vec<&'a RawValue>>,
        }
        if self.text.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Texts<'a> = serde_json::from_str(self.text).map_err(|source| PodError { part: "spec", source })?;
        let texts = match list {
            List::Containers => texts.containers,
            List::InitContainers => texts.init_containers,
            List::Volumes => texts.volumes,
            List::ImagePullSecrets => texts.image_pull_secrets,
        };
        Ok(texts.into_iter().flatten().map(RawValue::get).collect())
    }
}

// === impl Container ===

impl<'a> Container<'a> {
    /// Whether a SidecarSet put this container here: the first env of that name decides (ENV-2).
    pub fn is_injected(&self) -> Result<bool, PodError> {
        let marker = self.first_env(names::IS_INJECTED)?;
        Ok(marker.and_then(|env| env.value).is_some_and(|value| value.as_str() == "true"))
    }

    /// Whether this init container keeps running beside the containers.
    pub fn is_native_sidecar(&self) -> bool {
        self.restart_policy.as_ref().is_some_and(|policy| policy.as_str() == "Always")
    }

    /// Whether the container has a list of envs, be it empty.
    pub fn has_env(&self) -> bool {
        self.env.is_some()
    }

    /// The first env of a name.
    pub fn first_env(&self, name: &str) -> Result<Option<EnvVar<'a>>, PodError> {
        self.find_env(name, |places| places.next())
    }

    /// The last env of a name.
    pub fn last_env(&self, name: &str) -> Result<Option<EnvVar<'a>>, PodError> {
        self.find_env(name, |places| places.last())
    }

    fn find_env(
        &self,
        name: &str,
        pick: impl FnOnce(&mut dyn Iterator<Item = EnvVar<'a>>) -> Option<EnvVar<'a>>,
    ) -> Result<Option<EnvVar<'a>>, PodError> {
        let Some(env) = self.env.filter(|env| mentions(env.get(), name)) else { return Ok(None) };
        let wrong = |source| PodError { part: "env", source };
        let entries: Vec<&'a RawValue> = serde_json::from_str(env.get()).map_err(wrong)?;
        let mut found = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let raw = entry.get();
            if mentions(raw, name) {
                let members: EnvMembers<'a> = serde_json::from_str(raw).map_err(wrong)?;
                if members.name.is_some_and(|found| found.as_str() == name) {
                    found.push(EnvVar { index, raw, value: members.value });
                }
            }
        }
        Ok(pick(&mut found.into_iter()))
    }

    /// Its volumeMounts, in order.
    pub fn mounts(&self) -> Result<Vec<Mount<'a>>, PodError> {
        parse_list(self.volume_mounts, "volume mounts")
    }

    /// Its volumeDevices, in order.
    pub fn devices(&self) -> Result<Vec<Mount<'a>>, PodError> {
        parse_list(self.volume_devices, "volume devices")
    }

    /// Its limits and requests.
    pub fn resources(&self) -> Result<Resources, PodError> {
        match self.resources {
            None => Ok(Resources::default()),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|source| PodError { part: "resources", source }),
        }
    }
}

fn parse_list<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>, part: &'static str) -> Result<Vec<T>, PodError> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    let list: Option<Vec<T>> = serde_json::from_str(raw.get()).map_err(|source| PodError { part, source })?;
    Ok(list.unwrap_or_default())
}

/// An absent name and `null` are the empty one.
fn or_empty<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
    Ok(Option::<Text<'a>>::deserialize(deserializer)?.unwrap_or_default())
}

// An entry of which the text is kept is read twice: for its text, and for the few members that rules look at.

#[derive(serde::Deserialize)]
struct EnvMembers<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MountMembers<'a> {
    #[serde(borrow, alias = "devicePath")]
    mount_path: Option<Text<'a>>,
    #[serde(borrow)]
    sub_path_expr: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Mount<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'a RawValue>::deserialize(deserializer)?.get();
        let members: MountMembers<'a> = serde_json::from_str(raw).map_err(serde::de::Error::custom)?;
        Ok(Self { raw, path: members.mount_path.unwrap_or_default(), sub_path_expr: members.sub_path_expr })
    }
}

// === impl Text ===

impl Text<'_> {
    /// The string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Borrow<'a> {
            type Value = Text<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow(PhantomData))
    }
}

// === impl Pairs ===

impl Pairs<'_> {
    /// The value of a key. The last of several counts, as in the reference.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k.as_str() == key).map(|(_, value)| value.as_str())
    }

    /// All keys and values, in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Labels for Pairs<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Collect<'a> {
            type Value = Pairs<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'a>, A::Error> {
                let mut pairs = Vec::with_capacity(8);
                while let Some((key, value)) = map.next_entry::<Text<'a>, Option<Text<'a>>>()? {
                    // A null value is the empty string, as in the reference.
                    pairs.push((key, value.unwrap_or_default()));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_borrowed_from_the_request() {
        let json = r#"{"metadata":{"name":"web","labels":{"app":"a\"b"}},"spec":{}}"#;
        let pod = Pod::parse(json).unwrap();
        assert!(matches!(pod.metadata.name, Some(Text(Cow::Borrowed("web")))));
        assert_eq!(pod.metadata.labels.unwrap().get("app"), Some("a\"b"));
    }

    #[test]
    fn null_is_absent() {
        let json = r#"{"metadata":{"name":null,"labels":null,"annotations":null,"ownerReferences":null},"spec":null}"#;
        let pod = Pod::parse(json).unwrap();
        assert!(pod.metadata.name.is_none() && !pod.metadata.has_annotations());
        assert!(pod.spec().unwrap().containers.is_none());
    }

    #[test]
    fn a_container_is_injected_by_its_first_marker() {
        let json = r#"{"spec":{"containers":[
            {"name":"a","env":[{"name":"IS_INJECTED","value":"true"}]},
            {"name":"b","env":[{"name":"IS_INJECTED","value":"no"},{"name":"IS_INJECTED","value":"true"}]},
            {"name":"c"}]}}"#;
        let spec = Pod::parse(json).unwrap().spec().unwrap();
        let containers = spec.containers.iter().flatten();
        let injected: Vec<bool> = containers.map(|container| container.is_injected().unwrap()).collect();
        assert_eq!(injected, [true, false, false]);
    }

    #[test]
    fn an_escaped_name_is_not_overlooked() {
        let pod = Pod::parse(r#"{"spec":{"containers":[{"env":[{"name":"KRUISE\u005fX"}]}]}}"#).unwrap();
        assert!(pod.may_mention("KRUISE_X"));
        assert!(!Pod::parse(r#"{"spec":{"containers":[{}]}}"#).unwrap().may_mention("KRUISE_X"));
    }

    #[test]
    fn an_error_names_the_part() {
        let error = Pod::parse(r#"{"spec":{"containers":{}}}"#).unwrap().spec().unwrap_err();
        assert!(error.to_string().starts_with("the pod's spec cannot be read"), "{error}");
    }
}
