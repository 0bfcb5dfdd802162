//! A SidecarSet made ready for admission: everything that does not depend on the pod is decided here, once, when the set
//! changes (design decision 1).
//!
//! Selectors are parsed, hashes computed and containers rendered as text with gaps only where a pod has a say: shared
//! mounts, transferred envs, computed resources, the launch barrier. Carries INJ-5, HOT-1 … HOT-4, ENV-1 (1, 2, 5),
//! VOL-1, ANN-3, ANN-4 and REV-4.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::records::Record;
use super::resources::{Policy, PolicyError};
use super::revision::{Hashes, revision_name};
use crate::api::IntOrString;
use crate::api::container::{OWN_MEMBERS, SidecarContainer, TransferEnvVar};
use crate::api::json::{Step, Unknown};
use crate::api::meta::LabelSelector;
use crate::api::names;
use crate::api::sidecarset::{InjectionRevision, PatchPodMetadata, SidecarSet, SidecarSetSpec};
use crate::api::syntax;
use crate::selector::{Selector, SelectorError};

/// A SidecarSet ready for admission.
#[derive(Debug)]
pub struct Compiled {
    /// Name of the set.
    pub name: String,
    /// Whether injection is paused (MATCH-4).
    pub paused: bool,
    /// The set that this one stands in for (CAN-1).
    pub canary_of: Option<String>,
    /// Pods, by label. `None` selects nothing, and so does an empty one (MATCH-6).
    pub selector: Option<Selector>,
    /// Namespaces, by label; `None` selects all (MATCH-5).
    pub namespace_selector: Option<Selector>,
    /// The namespaces that the set names outright; `None` for a set of the whole cluster (MATCH-3).
    pub named_namespaces: Option<Vec<String>>,
    /// What the current spec puts into a pod.
    pub current: Content,
    /// Why the current spec cannot be injected: a pod that is to get it is refused (RES-4). Then `current` is empty.
    pub unusable: Option<Fault>,
    /// The revision that is to be injected instead, and when (REV).
    pub pinned: Option<Pinned>,
}

/// A revision that a SidecarSet asks for (REV-2), and what decides between it and the current spec (REV-5 … REV-8).
#[derive(Debug)]
pub struct Pinned {
    /// The revision, or why there is none.
    pub content: Result<Content, RevisionError>,
    /// `policy: Partial`.
    pub partial: bool,
    /// `updateStrategy.paused`.
    pub update_paused: bool,
    /// `updateStrategy.selector`, or what is wrong with it: that concerns only pods that are chosen by it (REV-7).
    pub update_selector: Result<Option<Selector>, SelectorError>,
    /// `updateStrategy.partition`.
    pub partition: Option<IntOrString>,
}

/// The revision that a SidecarSet names cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// No revision of that name or version.
    #[error("SidecarSet {set} asks for {wanted}, and there is none; see injectionStrategy.revision")]
    Missing {
        /// Name of the set.
        set: String,
        /// What it asks for.
        wanted: String,
    },
    /// The revision cannot be read.
    #[error("revision {revision} of SidecarSet {set} cannot be used: {reason}")]
    Broken {
        /// Name of the set.
        set: String,
        /// Name of the revision.
        revision: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A SidecarSet that cannot be compiled; validation refuses such a one before.
#[derive(Clone, Debug, thiserror::Error)]
#[error("SidecarSet {set}: {fault}")]
pub struct CompileError {
    /// Name of the set.
    pub set: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a spec that cannot be compiled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// A label selector.
    #[error("{field}: {reason}")]
    Selector {
        /// Path of the selector.
        field: &'static str,
        /// What is wrong with it.
        reason: SelectorError,
    },
    /// A resources policy.
    #[error("container {container}: {reason}")]
    Resources {
        /// Name of the entry.
        container: String,
        /// What is wrong with the policy.
        reason: Arc<PolicyError>,
    },
    /// It should not be possible.
    #[error("compiling it crashed, which is a fault of Outrigger")]
    Crashed,
}

/// What one spec, current or of a revision, puts into a pod.
#[derive(Debug, Default)]
pub struct Content {
    /// Init containers, hot-upgrade pairs split.
    pub init_containers: Vec<Template>,
    /// Containers, hot-upgrade pairs split.
    pub containers: Vec<Template>,
    /// Volumes of the set.
    pub volumes: Vec<Fragment>,
    /// Image pull secrets of the set.
    pub pull_secrets: Vec<Fragment>,
    /// Annotations to patch (META).
    pub metadata: Vec<PatchPodMetadata>,
    /// What the pod's record says of the set, beside the time.
    pub record: Record,
    /// Name of its ControllerRevision; empty when not known.
    pub revision: String,
    /// Names of all entries, and of the containers they become: these never count as targets (RES-2).
    ///
    /// Differs: RES-3. The reference leaves the `-1` and `-2` of a pair out of this, so that admitting a pod twice
    /// computes other resources the second time.
    pub own_names: BTreeSet<String>,
    /// Hot-upgrade entries and the container of each that works first (HOT-5).
    pub working: Vec<(String, String)>,
}

/// A named piece of JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its name.
    pub name: String,
    /// The whole entry as compact JSON.
    pub json: String,
}

/// A container to inject, rendered as far as it does not depend on the pod.
#[derive(Debug)]
pub struct Template {
    /// Name of the container.
    pub name: String,
    /// Index of the entry in its list of the SidecarSet.
    pub entry: usize,
    /// Before or after the pod's own (ORD-2).
    pub before: bool,
    /// Compact JSON of the container up to and into its `env`, when no pod has a say in it. Lacks the closing `]}`.
    pub ready: Option<String>,
    /// Members that no pod has a say in, as compact JSON without braces.
    pub fixed: String,
    /// The container's own envs and the marker, comma-separated.
    pub env: String,
    /// Names of these envs.
    pub env_names: Vec<String>,
    /// The two version envs of a hot-upgrade container, comma-separated (HOT-4).
    pub version_env: Option<String>,
    /// Literal value of the last own `KRUISE_CONTAINER_PRIORITY` (PRI-4).
    pub priority: Option<String>,
    /// Own volumeMounts.
    pub mounts: Paths,
    /// Own volumeDevices.
    pub devices: Paths,
    /// Whether the pod's mounts are shared (SHR-1).
    pub share_mounts: bool,
    /// Whether the pod's devices are shared (SHR-5).
    pub share_devices: bool,
    /// Envs to copy from the pod (TE).
    pub transfer: Vec<Transfer>,
    /// Resources to compute (RES); `None` when they are among the fixed members.
    pub resources: Option<Policy>,
    /// Indexes into [`Content::volumes`], in mount order (VOL-1).
    pub volumes: Vec<usize>,
    /// `X-1` works, `X-2` is idle (HOT-2, HOT-3).
    pub twin: Option<Twin>,
}

/// Which container of a hot-upgrade pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// `X-1`: has the image.
    Working,
    /// `X-2`: has the empty image.
    Idle,
}

/// Own mounts or devices of a container.
#[derive(Debug, Default)]
pub struct Paths {
    /// The entries, comma-separated.
    pub json: String,
    /// Their paths.
    pub paths: Vec<String>,
}

/// One entry of `transferEnv` (TE-1, TE-2).
#[derive(Debug)]
pub struct Transfer {
    /// The container to copy from.
    pub source: TransferSource,
    /// Names to copy, sorted, without duplicates.
    pub names: Vec<String>,
}

/// Where the name of the source container comes from (TE-2).
#[derive(Debug, PartialEq, Eq)]
pub enum TransferSource {
    /// Given.
    Name(String),
    /// The value of a label of the pod.
    Label(String),
    /// The value of an annotation of the pod.
    Annotation(String),
    /// A field that is not supported: nothing is transferred (TE-3).
    Unusable(String),
}

// === impl Compiled ===

/// What a SidecarSet's pinned revision is looked up with: a spec with its name, or why there is none.
pub struct Restored<'a> {
    /// Name of the ControllerRevision.
    pub name: String,
    /// Its spec.
    pub spec: &'a SidecarSetSpec,
    /// Members of the spec that the types do not know, below `spec`.
    pub unknown: &'a Unknown,
    /// Its hashes (REV-4).
    pub hashes: &'a Hashes,
}

impl Compiled {
    /// Compiles a defaulted set. `unknown` are the members that the types have no field for; `restore` finds the
    /// revision that the set may ask for. The name of the current revision is the one that the controller would give it.
    pub fn new<'a>(
        set: &SidecarSet,
        unknown: &Unknown,
        restore: impl FnOnce(&InjectionRevision) -> Result<Restored<'a>, RevisionError>,
    ) -> Result<Self, CompileError> {
        let latest = &set.status.latest_revision;
        let latest = if latest.is_empty() { revision_name(set) } else { latest.clone() };
        let compiled = Self::stored(set, unknown, latest, restore)?;
        match compiled.unusable {
            Some(fault) => Err(CompileError { set: compiled.name, fault }),
            None => Ok(compiled),
        }
    }

    /// Compiles a set that is stored, whoever stored it: one whose containers cannot be used refuses the pods that it
    /// selects (RES-4), so only a selector that cannot be read is an error. `latest` is the name of the current revision;
    /// an empty one is left out of records (ANN-3).
    pub fn stored<'a>(
        set: &SidecarSet,
        unknown: &Unknown,
        latest: String,
        restore: impl FnOnce(&InjectionRevision) -> Result<Restored<'a>, RevisionError>,
    ) -> Result<Self, CompileError> {
        Self::compile(set, unknown, latest, Pinned::new(set, restore))
            .map_err(|fault| CompileError { set: set.metadata.name.clone(), fault })
    }

    fn compile(set: &SidecarSet, unknown: &Unknown, latest: String, pinned: Option<Pinned>) -> Result<Self, Fault> {
        let spec = &set.spec;
        let hashes = Hashes::told(|key| set.metadata.annotations.get(key).map(String::as_str), spec);
        let current = Content::new(&set.metadata.name, spec, unknown, &hashes, latest);
        let (current, unusable) = match current {
            Ok(content) => (content, None),
            Err(fault) => (Content::default(), Some(fault)),
        };
        Ok(Self {
            name: set.metadata.name.clone(),
            paused: spec.injection_strategy.paused,
            canary_of: set.canary_base().map(str::to_owned),
            selector: compile_selector("spec.selector", spec.selector.as_ref())?,
            namespace_selector: compile_selector("spec.namespaceSelector", spec.namespace_selector.as_ref())?,
            named_namespaces: spec.namespace_selector.as_ref().and_then(named_namespaces),
            current,
            unusable,
            pinned,
        })
    }
}

/// The revision that a set asks for (REV-1, REV-2).
pub fn asked_revision(set: &SidecarSet) -> Option<&InjectionRevision> {
    let revision = set.spec.injection_strategy.revision.as_ref()?;
    (revision.custom_version.is_some() || revision.revision_name.is_some()).then_some(revision)
}

fn compile_selector(field: &'static str, selector: Option<&LabelSelector>) -> Result<Option<Selector>, Fault> {
    selector.map(Selector::try_from).transpose().map_err(|reason| Fault::Selector { field, reason })
}

/// MATCH-3: namespaces that the selector names outright.
fn named_namespaces(selector: &LabelSelector) -> Option<Vec<String>> {
    if let Some(name) = selector.match_labels.get(names::NAMESPACE_NAME) {
        return Some(vec![name.clone()]);
    }
    let names = |e: &&crate::api::meta::LabelSelectorRequirement| e.key == names::NAMESPACE_NAME && e.operator == "In";
    selector.match_expressions.iter().find(names).map(|expression| expression.values.clone())
}

// === impl Pinned ===

impl Pinned {
    fn new<'a>(
        set: &SidecarSet,
        restore: impl FnOnce(&InjectionRevision) -> Result<Restored<'a>, RevisionError>,
    ) -> Option<Self> {
        let revision = asked_revision(set)?;
        let update = &set.spec.update_strategy;
        let content = restore(revision).and_then(|restored| {
            let Restored { name, spec, unknown, hashes } = restored;
            Content::new(&set.metadata.name, spec, unknown, hashes, name.clone()).map_err(|fault| {
                RevisionError::Broken { set: set.metadata.name.clone(), revision: name, reason: fault.to_string() }
            })
        });
        Some(Self {
            content,
            partial: revision.policy == "Partial",
            update_paused: update.paused,
            update_selector: update.selector.as_ref().map(Selector::try_from).transpose(),
            partition: update.partition.clone(),
        })
    }
}

// === impl Content ===

impl Content {
    fn new(
        set: &str,
        spec: &SidecarSetSpec,
        unknown: &Unknown,
        hashes: &Hashes,
        revision: String,
    ) -> Result<Self, Fault> {
        let volumes = fragments(&spec.volumes, |volume| &volume.name, unknown, "volumes");
        let pull_secrets = fragments(&spec.image_pull_secrets, |secret| &secret.name, unknown, "imagePullSecrets");
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let containers = spec.containers.as_deref().unwrap_or_default();

        let mut content =
            Self { volumes, pull_secrets, metadata: spec.patch_pod_metadata.clone(), revision, ..Self::default() };
        let mut sidecars = BTreeSet::new();
        for (index, entry) in init.iter().enumerate() {
            let native = entry.is_native_sidecar();
            if native {
                sidecars.insert(entry.name.clone());
            }
            let unknown = unknown.below(&place("initContainers", index));
            let templates = content.split(entry, index, native && entry.is_hot_upgrade(), native, &unknown)?;
            content.init_containers.extend(templates);
        }
        for (index, entry) in containers.iter().enumerate() {
            sidecars.insert(entry.name.clone());
            let unknown = unknown.below(&place("containers", index));
            let templates = content.split(entry, index, entry.is_hot_upgrade(), true, &unknown)?;
            content.containers.extend(templates);
        }
        let sidecars: Vec<String> = sidecars.into_iter().collect();
        content.record = Record::new(set, hashes, &sidecars, &content.revision);
        Ok(content)
    }

    /// Whether nothing at all is injected: no record is then left on the pod (META-7, ANN-5).
    pub fn is_empty(&self) -> bool {
        self.init_containers.is_empty() && self.containers.is_empty()
    }

    /// The containers that an entry becomes: itself, or a hot-upgrade pair (HOT-1, HOT-2).
    fn split(
        &mut self,
        entry: &SidecarContainer,
        index: usize,
        pair: bool,
        may_compute: bool,
        unknown: &Unknown,
    ) -> Result<Vec<Template>, Fault> {
        self.own_names.insert(entry.name.clone());
        if !pair {
            return Ok(vec![Template::new(entry, index, None, may_compute, unknown, &self.volumes)?]);
        }
        let mut working = entry.clone();
        working.name = format!("{}-1", entry.name);
        let mut idle = entry.clone();
        idle.name = format!("{}-2", entry.name);
        idle.image.clone_from(&entry.upgrade_strategy.hot_upgrade_empty_image);
        self.own_names.extend([working.name.clone(), idle.name.clone()]);
        self.working.push((entry.name.clone(), working.name.clone()));
        Ok(vec![
            Template::new(&working, index, Some(Twin::Working), may_compute, unknown, &self.volumes)?,
            Template::new(&idle, index, Some(Twin::Idle), may_compute, unknown, &self.volumes)?,
        ])
    }
}

fn place(list: &str, index: usize) -> [Step; 3] {
    [Step::Key("spec".into()), Step::Key(list.into()), Step::Index(index)]
}

fn fragments<T: serde::Serialize>(
    items: &[T],
    name: impl Fn(&T) -> &str,
    unknown: &Unknown,
    list: &str,
) -> Vec<Fragment> {
    let fragment = |(index, item): (usize, &T)| {
        let mut value = json!(item);
        unknown.below(&place(list, index)).restore(&mut value);
        Fragment { name: name(item).to_owned(), json: value.to_string() }
    };
    items.iter().enumerate().map(fragment).collect()
}

// === impl Template ===

impl Template {
    fn new(
        entry: &SidecarContainer,
        index: usize,
        twin: Option<Twin>,
        may_compute: bool,
        unknown: &Unknown,
        volumes: &[Fragment],
    ) -> Result<Self, Fault> {
        let mut members = core_members(entry, unknown);
        let mut env = list(members.remove("env"));
        env.push(json!({"name": names::IS_INJECTED, "value": "true"}));
        let mounts = Paths::new(members.remove("volumeMounts"), "mountPath");
        let devices = Paths::new(members.remove("volumeDevices"), "devicePath");
        let policy = entry.resources_policy.as_ref().filter(|_| may_compute);
        let resources = policy
            .map(Policy::new)
            .transpose()
            .map_err(|reason| Fault::Resources { container: entry.name.clone(), reason: Arc::new(reason) })?;
        if resources.is_some() {
            members.remove("resources");
        }

        let mounted = entry.volume_mounts.iter().map(|mount| &mount.name);
        let attached = entry.volume_devices.iter().map(|device| &device.name);
        let mut used = Vec::new();
        for name in mounted.chain(attached) {
            // VOL-2: a volume that the set does not have is skipped.
            if let Some(index) = volumes.iter().position(|volume| volume.name == *name)
                && !used.contains(&index)
            {
                used.push(index);
            }
        }

        let mut template = Self {
            name: entry.name.clone(),
            entry: index,
            before: entry.pod_inject_policy == "BeforeAppContainer",
            ready: None,
            fixed: inner(&Value::Object(members)),
            env_names: env.iter().filter_map(|env| env["name"].as_str()).map(str::to_owned).collect(),
            env: join(&env),
            version_env: twin.map(|_| version_env(&entry.name)),
            priority: own_priority(entry),
            mounts,
            devices,
            share_mounts: entry.share_volume_policy.r#type == "enabled",
            share_devices: entry.share_volume_device_policy.as_ref().is_some_and(|policy| policy.r#type == "enabled"),
            transfer: entry.transfer_env.iter().map(Transfer::new).collect(),
            resources,
            volumes: used,
            twin,
        };
        template.ready = template.rendered_without_pod();
        Ok(template)
    }

    /// The whole container, when no pod has a say in it.
    fn rendered_without_pod(&self) -> Option<String> {
        let fixed = !self.share_mounts && !self.share_devices && self.transfer.is_empty() && self.resources.is_none();
        fixed.then(|| self.render(None, &self.mounts.json, &self.devices.json, ""))
    }

    /// The container as compact JSON that lacks its closing `]}`, so that a barrier can be appended to its env (PRI-6).
    /// `more_env` starts with a comma when it is not empty.
    pub fn render(&self, resources: Option<&str>, mounts: &str, devices: &str, more_env: &str) -> String {
        let version_env = self.version_env.as_deref().unwrap_or_default();
        let length = self.fixed.len() + mounts.len() + devices.len() + self.env.len() + more_env.len();
        let mut out = String::with_capacity(length + version_env.len() + 256);
        out.push('{');
        out.push_str(&self.fixed);
        if let Some(resources) = resources {
            out.push_str(",\"resources\":");
            out.push_str(resources);
        }
        for (member, items) in [(",\"volumeMounts\":[", mounts), (",\"volumeDevices\":[", devices)] {
            if !items.is_empty() {
                out.push_str(member);
                out.push_str(items);
                out.push(']');
            }
        }
        out.push_str(",\"env\":[");
        out.push_str(&self.env);
        out.push_str(more_env);
        if !version_env.is_empty() {
            out.push(',');
            out.push_str(version_env);
        }
        out
    }
}

/// The members of an entry that reach the pod: all but the six of its own (INJ-5), those of the future included (RSP-5).
fn core_members(entry: &SidecarContainer, unknown: &Unknown) -> Map<String, Value> {
    let mut value = json!(entry);
    unknown.restore(&mut value);
    let Value::Object(mut members) = value else { return Map::new() };
    for own in OWN_MEMBERS {
        members.remove(own);
    }
    members
}

fn own_priority(entry: &SidecarContainer) -> Option<String> {
    entry.env.iter().rfind(|env| env.name == names::PRIORITY_ENV).map(|env| env.value.clone())
}

/// HOT-4: no `apiVersion` in the field reference.
fn version_env(container: &str) -> String {
    let field = |prefix: &str| format!("metadata.annotations['{prefix}{container}']");
    let env = |name: &str, prefix: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field(prefix)}}});
    join(&[env(names::VERSION_ENV, names::VERSION_PREFIX), env(names::VERSION_ALT_ENV, names::VERSION_ALT_PREFIX)])
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn join(items: &[Value]) -> String {
    items.iter().map(Value::to_string).collect::<Vec<_>>().join(",")
}

/// The text of an object without its braces.
fn inner(object: &Value) -> String {
    let text = object.to_string();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default().to_owned()
}

// === impl Paths ===

impl Paths {
    fn new(value: Option<Value>, path: &str) -> Self {
        let items = list(value);
        let paths = items.iter().filter_map(|item| item[path].as_str()).map(str::to_owned).collect();
        Self { json: join(&items), paths }
    }
}

// === impl Transfer ===

impl Transfer {
    fn new(entry: &TransferEnvVar) -> Self {
        let names: BTreeSet<&String> =
            entry.env_names.iter().chain([&entry.env_name].into_iter().filter(|name| !name.is_empty())).collect();
        Self { source: TransferSource::new(entry), names: names.into_iter().cloned().collect() }
    }
}

impl TransferSource {
    fn new(entry: &TransferEnvVar) -> Self {
        let Some(from) = &entry.source_container_name_from else {
            return Self::Name(entry.source_container_name.clone());
        };
        let Some(field) = &from.field_ref else {
            return Self::Name(entry.source_container_name.clone());
        };
        Self::from_field_path(&field.field_path)
    }

    /// TE-2: a label or an annotation, subscripted.
    pub fn from_field_path(path: &str) -> Self {
        match syntax::subscript(path) {
            Some(("metadata.labels", key)) if syntax::qualified_name(key).is_ok() => Self::Label(key.to_owned()),
            Some(("metadata.annotations", key)) if syntax::annotation_key(key).is_ok() => {
                Self::Annotation(key.to_owned())
            }
            _ => Self::Unusable(path.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_cannot_be_compiled_is_named() {
        let set = serde_json::from_value(json!({
            "metadata": {"name": "mesh"},
            "spec": {"containers": [{"name": "x", "resourcesPolicy": {"targetContainersNameRegex": "["}}]},
        }));
        let error =
            Compiled::new(&set.unwrap(), &Unknown::default(), |_| unreachable!("nothing is pinned")).unwrap_err();
        assert!(error.to_string().starts_with("SidecarSet mesh: container x: resourcesPolicy."), "{error}");
    }
}
