//! A pod as the rules read it: borrowed from the bytes of the request and parsed only as deep as somebody asks
//! (design decision 1).
//!
//! [`Pod`] is the first look: metadata, and the spec as raw text. [`Pod::spec`] is the second, paid only for a pod that
//! something will be done to, in the same pass when that can be foreseen: names and envs, and inside each container the raw
//! text of what else rules may look into. The third look, at mounts and resources, is paid by the rule that asks. Nothing is
//! ever printed from these types, so no field can be lost by them (RSP-6).

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use memchr::memchr;
use memchr::memmem::{self, Finder};

use crate::api::names;
use crate::quantity::Quantity;
use crate::scan::{ScanError, Scanner};
use crate::selector::Labels;

/// A string of the request, borrowed unless it holds escapes.
pub type Text<'a> = Cow<'a, str>;

/// A JSON object of strings, such as labels, in its own order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

/// A pod of a request.
#[derive(Clone, Debug, Default)]
pub struct Pod<'a> {
    /// Name, namespace, labels and the rest.
    pub metadata: Metadata<'a>,
    spec: Option<LazySpec<'a>>,
}

/// A spec whose lists are read when somebody asks for them. What is wrong with them matters only to who does: a pod that
/// nothing is done to may hold anything.
#[derive(Clone, Debug)]
struct LazySpec<'a> {
    text: &'a str,
    lists: OnceCell<Result<Spec<'a>, ScanError>>,
}

/// Metadata of a pod. An absent member and `null` are the same.
#[derive(Clone, Debug, Default)]
pub struct Metadata<'a> {
    /// Name; empty when the API server is to make one from `generate_name`.
    pub name: Text<'a>,
    /// Prefix of a name to be made.
    pub generate_name: Text<'a>,
    /// Namespace; often empty, then the request's counts (POD-1).
    pub namespace: Text<'a>,
    /// Labels.
    pub labels: Pairs<'a>,
    /// Whether the pod is going away (MATCH-2).
    pub is_going_away: bool,
    is_present: bool,
    annotations: Option<&'a str>,
    controller: Option<Text<'a>>,
}

/// The lists of a pod's spec that injection reads. `None` is a list that is absent or `null`.
#[derive(Clone, Debug, Default)]
pub struct Spec<'a> {
    /// `spec.containers`.
    pub containers: Option<Vec<Container<'a>>>,
    /// `spec.initContainers`.
    pub init_containers: Option<Vec<Container<'a>>>,
    /// `spec.volumes`.
    pub volumes: Option<Vec<Named<'a>>>,
    /// `spec.imagePullSecrets`.
    pub image_pull_secrets: Option<Vec<Named<'a>>>,
    /// The conditions of `spec.readinessGates`.
    pub readiness_gates: Option<Vec<Text<'a>>>,
}

/// A container of the pod.
#[derive(Clone, Debug, Default)]
pub struct Container<'a> {
    /// Whole text of the container.
    pub raw: &'a str,
    /// Its name.
    pub name: Text<'a>,
    /// Whether its `restartPolicy` is `Always`, which makes an init container a native sidecar.
    pub is_native_sidecar: bool,
    env: Option<&'a str>,
    volume_mounts: Option<&'a str>,
    volume_devices: Option<&'a str>,
    resources: Option<&'a str>,
    envs: OnceCell<Envs<'a>>,
}

/// The envs of a container, found by name however many there are.
#[derive(Clone, Debug, Default)]
struct Envs<'a> {
    list: Vec<EnvVar<'a>>,
    names: Vec<Text<'a>>,
    /// First and last place of each name, made only for a list too long to be searched, when it is.
    places: OnceCell<HashMap<Text<'a>, (usize, usize)>>,
}

/// Envs of a list that is searched from end to end; longer ones are indexed.
const SEARCHED: usize = 64;

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
    /// `subPathExpr`, whose variables a sharing sidecar needs too (SHR-4); empty when there is none.
    pub sub_path_expr: Text<'a>,
}

/// A list entry that is known by its name.
#[derive(Clone, Debug, Default)]
pub struct Named<'a> {
    /// Whole text of the entry.
    pub raw: &'a str,
    /// Its name.
    pub name: Text<'a>,
}

/// A pod's resources, by name.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `resources.limits`.
    pub limits: Option<BTreeMap<String, Quantity>>,
    /// `resources.requests`.
    pub requests: Option<BTreeMap<String, Quantity>>,
}

/// The pod is not what a pod must be.
#[derive(Debug, thiserror::Error)]
#[error("the pod's {part} cannot be read: {reason}")]
pub struct PodError {
    /// Part of the pod.
    part: &'static str,
    /// What is wrong with it.
    reason: String,
}

// === impl Pod ===

impl<'a> Pod<'a> {
    /// Reads the metadata of a pod.
    pub fn parse(json: &'a str) -> Result<Self, PodError> {
        let mut scanner = Scanner::new(json);
        let pod = Self::scan(&mut scanner, |_| false).and_then(|pod| scanner.end().map(|()| pod));
        pod.map_err(|error| PodError::new("metadata", &error))
    }

    /// Reads the metadata of a pod that is part of a larger text. `wants_spec` is asked about it when the spec is reached:
    /// a yes saves a second pass over the spec for who will ask for it.
    pub fn scan(scanner: &mut Scanner<'a>, wants_spec: impl Fn(&Metadata<'a>) -> bool) -> Result<Self, ScanError> {
        let mut pod = Self::default();
        scanner.object(|scanner, key| {
            match key {
                "metadata" if !scanner.null()? => pod.metadata = Metadata::scan(scanner)?,
                "spec" if !scanner.null()? => {
                    let mark = scanner.mark();
                    let lists = OnceCell::new();
                    if wants_spec(&pod.metadata)
                        && let Ok(spec) = Spec::scan(scanner)
                    {
                        let _ = lists.set(Ok(spec));
                    } else {
                        scanner.back_to(mark);
                        scanner.skip()?;
                    }
                    pod.spec = Some(LazySpec { text: scanner.since(mark), lists });
                }
                "spec" => pod.spec = None,
                "metadata" => {}
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        Ok(pod)
    }

    /// The lists of the spec.
    pub fn spec(&self) -> Result<&Spec<'a>, PodError> {
        let Some(spec) = &self.spec else { return Ok(&Spec::EMPTY) };
        let lists = spec.lists.get_or_init(|| Spec::scan(&mut Scanner::new(spec.text)));
        lists.as_ref().map_err(|error| PodError::new("spec", error))
    }

    /// Whether there is a `spec` to add to.
    pub fn has_spec(&self) -> bool {
        self.spec.is_some()
    }

    /// Whether the text of the spec may hold this name somewhere; never wrong when it says no.
    pub fn may_mention(&self, name: &Finder<'_>) -> bool {
        self.spec.as_ref().is_some_and(|spec| mentions(spec.text, name))
    }
}

/// Whether a JSON text may hold `name`, which must not need an escape. A text that spells characters in another way than
/// as themselves counts as a yes.
fn mentions(json: &str, name: &Finder<'_>) -> bool {
    let json = json.as_bytes();
    let escapes = |spelling: &[u8]| memmem::find(json, spelling).is_some();
    name.find(json).is_some()
        || memchr(b'\\', json).is_some() && (escapes(b"\\u") || name.needle().contains(&b'/') && escapes(b"\\/"))
}

// === impl Metadata ===

impl<'a> Metadata<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut metadata = Self { is_present: true, ..Self::default() };
        scanner.object(|scanner, key| {
            match key {
                "name" => metadata.name = text(scanner)?,
                "generateName" => metadata.generate_name = text(scanner)?,
                "namespace" => metadata.namespace = text(scanner)?,
                "labels" => metadata.labels = Pairs::scan(scanner)?,
                "annotations" => metadata.annotations = optional(scanner)?,
                "ownerReferences" => metadata.controller = controller(scanner)?,
                "deletionTimestamp" => metadata.is_going_away = !text(scanner)?.is_empty(),
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        Ok(metadata)
    }

    /// Whether there is a `metadata` to add to.
    pub fn is_present(&self) -> bool {
        self.is_present
    }

    /// All annotations.
    pub fn annotations(&self) -> Result<Pairs<'a>, PodError> {
        self.annotations.map_or_else(|| Ok(Pairs::default()), Pairs::parse)
    }

    /// Whether the object has a map of annotations, be it empty.
    pub fn has_annotations(&self) -> bool {
        self.annotations.is_some()
    }

    /// Whether `metadata.annotations` may hold this key; like [`Pod::may_mention`].
    pub fn may_annotate(&self, key: &Finder<'_>) -> bool {
        self.annotations.is_some_and(|text| mentions(text, key))
    }

    /// `apiVersion` of the owner that manages the pod (RG-1).
    pub fn controller(&self) -> Option<&str> {
        self.controller.as_deref()
    }
}

/// `apiVersion` of the first owner that is a controller.
fn controller<'a>(scanner: &mut Scanner<'a>) -> Result<Option<Text<'a>>, ScanError> {
    let mut found = None;
    list(scanner, |scanner| {
        let (mut version, mut is_controller) = (Text::default(), false);
        scanner.object(|scanner, key| {
            match key {
                "apiVersion" => version = text(scanner)?,
                "controller" => is_controller = !scanner.null()? && scanner.boolean()?,
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        if is_controller && found.is_none() {
            found = Some(version);
        }
        Ok(())
    })?;
    Ok(found)
}

// === impl Spec ===

impl<'a> Spec<'a> {
    const EMPTY: Self = Self {
        containers: None,
        init_containers: None,
        volumes: None,
        image_pull_secrets: None,
        readiness_gates: None,
    };

    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut spec = Self::default();
        scanner.object(|scanner, key| {
            match key {
                "containers" => spec.containers = collect(scanner, Container::scan)?,
                "initContainers" => spec.init_containers = collect(scanner, Container::scan)?,
                "volumes" => spec.volumes = collect(scanner, Named::scan)?,
                "imagePullSecrets" => spec.image_pull_secrets = collect(scanner, Named::scan)?,
                "readinessGates" => spec.readiness_gates = collect(scanner, condition)?,
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        Ok(spec)
    }
}

/// The condition of a readiness gate.
fn condition<'a>(scanner: &mut Scanner<'a>) -> Result<Text<'a>, ScanError> {
    let mut condition = Text::default();
    scanner.object(|scanner, key| {
        if key == "conditionType" {
            condition = text(scanner)?;
            return Ok::<_, ScanError>(());
        }
        scanner.skip()
    })?;
    Ok(condition)
}

// === impl Container ===

impl<'a> Container<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut container = Self::default();
        container.raw = whole(scanner, |scanner| {
            scanner.object(|scanner, key| {
                match key {
                    "name" => container.name = text(scanner)?,
                    "restartPolicy" => container.is_native_sidecar = text(scanner)? == "Always",
                    "env" => container.scan_env(scanner)?,
                    "volumeMounts" => container.volume_mounts = optional(scanner)?,
                    "volumeDevices" => container.volume_devices = optional(scanner)?,
                    "resources" => container.resources = optional(scanner)?,
                    _ => scanner.skip()?,
                }
                Ok(())
            })
        })?;
        Ok(container)
    }

    /// Reads the envs at once, for they are asked for by name of most pods that are injected. What is wrong with one of
    /// them matters only to who asks; that they are a list matters also to who appends to them.
    fn scan_env(&mut self, scanner: &mut Scanner<'a>) -> Result<(), ScanError> {
        let mark = scanner.mark();
        if let Ok(envs) = Envs::scan(scanner) {
            self.env = envs.as_ref().map(|_| scanner.since(mark));
            self.envs = envs.unwrap_or_default().into();
        } else {
            scanner.back_to(mark);
            self.env = optional_list(scanner)?;
            self.envs = OnceCell::new();
        }
        Ok(())
    }

    /// Whether a SidecarSet put this container here: the first env of that name decides (ENV-2).
    pub fn is_injected(&self) -> Result<bool, PodError> {
        let marker = self.first_env(names::IS_INJECTED)?;
        Ok(marker.is_some_and(|env| env.value.as_deref() == Some("true")))
    }

    /// Whether the container has a list of envs, be it empty.
    pub fn has_env(&self) -> bool {
        self.env.is_some()
    }

    /// The first env of a name.
    pub fn first_env(&self, name: &str) -> Result<Option<&EnvVar<'a>>, PodError> {
        self.find_env(name, |(first, _)| first)
    }

    /// The last env of a name.
    pub fn last_env(&self, name: &str) -> Result<Option<&EnvVar<'a>>, PodError> {
        self.find_env(name, |(_, last)| last)
    }

    fn find_env(
        &self,
        name: &str,
        pick: impl FnOnce((usize, usize)) -> usize,
    ) -> Result<Option<&EnvVar<'a>>, PodError> {
        let envs = match (self.envs.get(), self.env) {
            (Some(envs), _) => envs,
            (None, None) => return Ok(None),
            // There is something wrong with one of them: it is told when it may be the one that is asked for.
            (None, Some(text)) => {
                let needs_no_escape = !name.contains(['"', '\\']) && !name.contains(char::is_control);
                if needs_no_escape && !mentions(text, &Finder::new(name)) {
                    return Ok(None);
                }
                let envs = Envs::scan(&mut Scanner::new(text)).map_err(|error| PodError::new("env", &error))?;
                self.envs.get_or_init(|| envs.unwrap_or_default())
            }
        };
        Ok(envs.places(name).map(|places| &envs.list[pick(places)]))
    }

    /// Its volumeMounts, in order.
    pub fn mounts(&self) -> Result<Vec<Mount<'a>>, PodError> {
        Mount::scan_all(self.volume_mounts, "mountPath", "volume mounts")
    }

    /// Its volumeDevices, in order.
    pub fn devices(&self) -> Result<Vec<Mount<'a>>, PodError> {
        Mount::scan_all(self.volume_devices, "devicePath", "volume devices")
    }

    /// Its limits and requests.
    pub fn resources(&self) -> Result<Resources, PodError> {
        match self.resources {
            None => Ok(Resources::default()),
            Some(text) => serde_json::from_str(text).map_err(|error| PodError::new("resources", &error)),
        }
    }
}

impl<'a> Envs<'a> {
    /// `null` is none.
    fn scan(scanner: &mut Scanner<'a>) -> Result<Option<Self>, ScanError> {
        if scanner.null()? {
            return Ok(None);
        }
        let mut envs =
            Self { list: Vec::with_capacity(16), names: Vec::with_capacity(16), places: OnceCell::default() };
        scanner.array(|scanner| {
            let mut name = Text::default();
            let mut value = None;
            let raw = whole(scanner, |scanner| {
                scanner.object(|scanner, key| {
                    match key {
                        "name" => name = text(scanner)?,
                        "value" if !scanner.null()? => value = Some(scanner.string()?),
                        "value" => {}
                        _ => scanner.skip()?,
                    }
                    Ok(())
                })
            })?;
            envs.list.push(EnvVar { index: envs.list.len(), raw, value });
            envs.names.push(name);
            Ok::<_, ScanError>(())
        })?;
        Ok(Some(envs))
    }

    /// First and last place of a name.
    fn places(&self, name: &str) -> Option<(usize, usize)> {
        if self.list.len() > SEARCHED {
            return self.places.get_or_init(|| self.index()).get(name).copied();
        }
        let is_it = |found: &Text<'_>| found == name;
        Some((self.names.iter().position(is_it)?, self.names.iter().rposition(is_it)?))
    }

    fn index(&self) -> HashMap<Text<'a>, (usize, usize)> {
        let mut places = HashMap::with_capacity(self.names.len());
        for (index, name) in self.names.iter().enumerate() {
            places.entry(name.clone()).and_modify(|(_, last)| *last = index).or_insert((index, index));
        }
        places
    }
}

impl<'a> Mount<'a> {
    fn scan_all(list: Option<&'a str>, path_key: &str, part: &'static str) -> Result<Vec<Self>, PodError> {
        let Some(list) = list else { return Ok(Vec::new()) };
        let scan = |scanner: &mut Scanner<'a>| {
            let mut mount = Self::default();
            mount.raw = whole(scanner, |scanner| {
                scanner.object(|scanner, key| {
                    match key {
                        key if key == path_key => mount.path = text(scanner)?,
                        "subPathExpr" => mount.sub_path_expr = text(scanner)?,
                        _ => scanner.skip()?,
                    }
                    Ok(())
                })
            })?;
            Ok(mount)
        };
        let mounts = collect(&mut Scanner::new(list), scan).map_err(|error| PodError::new(part, &error))?;
        Ok(mounts.unwrap_or_default())
    }
}

impl<'a> Named<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut name = Text::default();
        let raw = whole(scanner, |scanner| {
            scanner.object(|scanner, key| {
                if key == "name" {
                    name = text(scanner)?;
                    return Ok(());
                }
                scanner.skip()
            })
        })?;
        Ok(Self { raw, name })
    }
}

// === impl Pairs ===

impl<'a> Pairs<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut pairs = Vec::new();
        if scanner.null()? {
            return Ok(Self(pairs));
        }
        pairs.reserve(8);
        scanner.members(|scanner, key| {
            // A null value is the empty string, as in the reference.
            pairs.push((key, text(scanner)?));
            Ok::<_, ScanError>(())
        })?;
        Ok(Self(pairs))
    }

    /// Reads an object of strings.
    pub fn parse(json: &'a str) -> Result<Self, PodError> {
        Self::scan(&mut Scanner::new(json)).map_err(|error| PodError::new("annotations", &error))
    }

    /// The value of a key. The last of several counts, as in the reference.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| &**value)
    }

    /// All keys and values, in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Pairs<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value))).collect())
    }
}

impl Labels for Pairs<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

// === impl PodError ===

impl PodError {
    fn new(part: &'static str, reason: &impl ToString) -> Self {
        Self { part, reason: reason.to_string() }
    }
}

// === pieces ===

/// A string; `null` is the empty one.
pub fn text<'a>(scanner: &mut Scanner<'a>) -> Result<Text<'a>, ScanError> {
    if scanner.null()? { Ok(Text::default()) } else { scanner.string() }
}

/// The text of a value; `null` is none.
fn optional<'a>(scanner: &mut Scanner<'a>) -> Result<Option<&'a str>, ScanError> {
    if scanner.null()? { Ok(None) } else { scanner.value().map(Some) }
}

/// The text of a list; `null` is none.
fn optional_list<'a>(scanner: &mut Scanner<'a>) -> Result<Option<&'a str>, ScanError> {
    let at = scanner.mark();
    let text = optional(scanner)?;
    if text.is_some_and(|text| !text.starts_with('[')) {
        return Err(ScanError { expected: "an array", at });
    }
    Ok(text)
}

/// The items of a list that may be `null`.
fn list<'a>(
    scanner: &mut Scanner<'a>,
    item: impl FnMut(&mut Scanner<'a>) -> Result<(), ScanError>,
) -> Result<bool, ScanError> {
    if scanner.null()? {
        return Ok(false);
    }
    scanner.array(item)?;
    Ok(true)
}

/// The items of a list as a vector; `null` is none.
fn collect<'a, T>(
    scanner: &mut Scanner<'a>,
    mut item: impl FnMut(&mut Scanner<'a>) -> Result<T, ScanError>,
) -> Result<Option<Vec<T>>, ScanError> {
    let mut items = Vec::new();
    let is_list = list(scanner, |scanner| {
        items.push(item(scanner)?);
        Ok(())
    })?;
    Ok(is_list.then_some(items))
}

/// Reads a value by `read`, and gives its whole text.
fn whole<'a>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Result<(), ScanError>,
) -> Result<&'a str, ScanError> {
    let start = scanner.mark();
    read(scanner)?;
    Ok(scanner.since(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_borrowed_from_the_request() {
        let json = r#"{"metadata":{"name":"web","labels":{"app":"a\"b"}},"spec":{}}"#;
        let pod = Pod::parse(json).unwrap();
        assert!(matches!(pod.metadata.name, Cow::Borrowed("web")));
        assert_eq!(pod.metadata.labels.get("app"), Some("a\"b"));
    }

    #[test]
    fn null_is_absent() {
        let json = r#"{"metadata":{"name":null,"labels":null,"annotations":null,"ownerReferences":null},"spec":null}"#;
        let pod = Pod::parse(json).unwrap();
        assert!(pod.metadata.name.is_empty() && !pod.metadata.has_annotations());
        assert!(pod.spec().unwrap().containers.is_none());
    }

    #[test]
    fn a_container_is_injected_by_its_first_marker() {
        let json = r#"{"spec":{"containers":[
            {"name":"a","env":[{"name":"IS_INJECTED","value":"true"}]},
            {"name":"b","env":[{"name":"IS_INJECTED","value":"no"},{"name":"IS_INJECTED","value":"true"}]},
            {"name":"c"}]}}"#;
        let pod = Pod::parse(json).unwrap();
        let spec = pod.spec().unwrap();
        let containers = spec.containers.iter().flatten();
        let injected: Vec<bool> = containers.map(|container| container.is_injected().unwrap()).collect();
        assert_eq!(injected, [true, false, false]);
    }

    #[test]
    fn an_escaped_name_is_not_overlooked() {
        let pod = Pod::parse(r#"{"spec":{"containers":[{"env":[{"name":"KRUISE\u005fX"}]}]}}"#).unwrap();
        let name = Finder::new("KRUISE_X");
        assert!(pod.may_mention(&name));
        assert!(!Pod::parse(r#"{"spec":{"containers":[{}]}}"#).unwrap().may_mention(&name));
        let pod = Pod::parse(r#"{"metadata":{"annotations":{"a.io\/b":"x"}}}"#).unwrap();
        assert!(pod.metadata.may_annotate(&Finder::new("a.io/b")));
    }

    #[test]
    fn an_error_names_the_part() {
        let error = Pod::parse(r#"{"spec":{"containers":{}}}"#).unwrap().spec().unwrap_err();
        assert!(error.to_string().starts_with("the pod's spec cannot be read"), "{error}");
    }

    #[test]
    fn envs_that_are_no_list_are_refused_before_anything_is_appended_to_them() {
        let error = Pod::parse(r#"{"spec":{"containers":[{"env": {}}]}}"#).unwrap().spec().unwrap_err();
        assert!(error.to_string().contains("expected an array at byte 23"), "{error}");
    }
}
