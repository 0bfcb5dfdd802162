//! What admission knows of the world: [`Objects`] as they are stored, and the [`Snapshot`] compiled from them.
//!
//! Objects are plain data that is cheap to clone; a change of any of them makes a new snapshot, which replaces the old
//! one in one store (design decision 1) and compiles only what changed. A request reads one snapshot from start to end.
//!
//! [`files`] reads objects from a directory, where each is judged as the API server would have it judged. [`watch`] takes
//! them from a cluster, where they are stored already, by whatever version of whatever operator. There no object can
//! stand in the way of the others:
//!
//! | a SidecarSet that | does this until it is mended |
//! |---|---|
//! | cannot be read, or has a selector that cannot be read | keeps its last good version; is left out if there is none (MATCH-5, MATCH-6) |
//! | has containers that cannot be used | keeps its last good version; refuses the pods it selects if there is none (RES-4) |
//! | asks for a revision that is missing or cannot be read | refuses the pods it selects (REV-2) |
//!
//! Each of them is among [`Snapshot::broken`].

pub mod files;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::api::json::{Unknown, decode};
use crate::api::names;
use crate::api::sidecarset::{InjectionRevision, SidecarSet, SidecarSetSpec, SidecarSetStatus};
use crate::gates::Gates;
use crate::pod::Pairs;
use crate::rollout::revisions;
use crate::sidecarset::admit::{Stored, admit};
use crate::sidecarset::compiled::{CompileError, Compiled, Fault, Restored, RevisionError, asked_revision};
use crate::sidecarset::revision::Hashes;
use crate::sidecarset::select::{Index, Namespace};
use crate::sidecarset::validate::{Findings, Problem, Revisions, Surroundings};

/// Shared until it changes, and so are its values.
type ByName<T> = Arc<BTreeMap<Arc<str>, Arc<T>>>;
type Labels = BTreeMap<String, String>;

/// The objects that decisions depend on. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Namespace of the operator: where its ConfigMap and the revisions are (WH-8).
    operator_namespace: Arc<str>,
    /// Whether they are those of a cluster.
    in_cluster: bool,
    /// What is switched on.
    gates: Gates,
    sets: ByName<Stored>,
    /// What changes of them with every pod.
    standings: ByName<Standing>,
    /// SidecarSets whose newest version cannot be read, and why not.
    unreadable: Arc<BTreeMap<Arc<str>, String>>,
    namespaces: ByName<Labels>,
    white_list: Option<Arc<str>>,
    /// By the SidecarSet that they belong to, then by their own name.
    revisions: ByName<BTreeMap<Arc<str>, Arc<Revision>>>,
    /// Name of a revision → the SidecarSet that it belongs to.
    owners: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

/// How a stored SidecarSet stands: what only its controller reads, and changes. Of the same version as the set is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// What the controller last wrote.
    pub status: SidecarSetStatus,
}

/// The stored revisions of one SidecarSet. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct History(Option<Arc<BTreeMap<Arc<str>, Arc<Revision>>>>);

/// A ControllerRevision of a SidecarSet (API-16). There are up to ten a set and few are ever asked for, so what is in
/// them is read when it is.
#[derive(Debug)]
struct Revision {
    custom_version: Option<String>,
    /// The hash in the first name that was tried for it (REV-3).
    name_hash: Option<String>,
    /// UID of the owner that controls it.
    controller: Option<String>,
    number: i64,
    created: String,
    /// Its `data.spec`, as JSON.
    data: Box<str>,
    /// What its annotations say of its hashes.
    annotations: BTreeMap<&'static str, String>,
    decoded: OnceLock<Result<Decoded, Problem>>,
}

/// What is in a revision.
#[derive(Debug)]
struct Decoded {
    spec: SidecarSetSpec,
    unknown: Unknown,
    hashes: Hashes,
}

/// A kind of object that a cluster is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SidecarSets, v1beta1.
    SidecarSets,
    /// Namespaces; only their labels count.
    Namespaces,
    /// The operator's ConfigMap (SSV-30).
    Configuration,
    /// ControllerRevisions of SidecarSets (API-16).
    Revisions,
}

/// What became of objects of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This one is new, or is now like this.
    Put(Kind, Value),
    /// The one of this name is gone.
    Gone(Kind, String),
    /// These are all there are.
    All(Kind, Vec<Value>),
}

/// Everything admission needs, immutable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    objects: Objects,
    sets: Arc<Sets>,
}

/// The SidecarSets of a snapshot.
#[derive(Debug, Default)]
struct Sets {
    built: BTreeMap<Arc<str>, Built>,
    usable: Vec<Arc<Compiled>>,
    index: Index,
    broken: BTreeMap<Arc<str>, Broken>,
}

/// What became of one SidecarSet, and of what: of the same, the same will become.
#[derive(Clone, Debug)]
struct Built {
    stored: Arc<Stored>,
    revision: Option<Arc<Revision>>,
    /// The newest version that could be compiled.
    compiled: Option<Arc<Compiled>>,
    /// Why that is not the newest of all.
    error: Option<CompileError>,
}

/// A SidecarSet that is not in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong with it.
    pub reason: String,
    /// What that means for pods.
    pub effect: Effect,
}

/// What it means for pods that a SidecarSet is not in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is injected into none.
    LeftOut,
    /// Its last good version is injected.
    EarlierVersion,
    /// Those that it selects are refused.
    Refuses,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::SidecarSets, Self::Namespaces, Self::Configuration, Self::Revisions];

    /// A word for it, also as a label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::SidecarSets => "sidecarsets",
            Self::Namespaces => "namespaces",
            Self::Configuration => "configuration",
            Self::Revisions => "revisions",
        }
    }
}

// === impl Objects ===

impl Objects {
    /// No objects, outside of a cluster; the operator's namespace is `operator_namespace`. There is no controller that
    /// names revisions here, so they get the name that it would give them.
    pub fn new(operator_namespace: &str) -> Self {
        Self {
            operator_namespace: operator_namespace.into(),
            in_cluster: false,
            gates: Gates::default(),
            sets: ByName::default(),
            standings: ByName::default(),
            unreadable: Arc::default(),
            namespaces: ByName::default(),
            white_list: None,
            revisions: ByName::default(),
            owners: Arc::default(),
        }
    }

    /// No objects yet, of a cluster. What the controller has not written into a status is not known (ANN-3).
    pub fn in_cluster(operator_namespace: &str) -> Self {
        Self { in_cluster: true, ..Self::new(operator_namespace) }
    }

    /// The same, judged with these gates.
    #[must_use]
    pub fn with_gates(self, gates: Gates) -> Self {
        Self { gates, ..self }
    }

    /// Namespace of the operator.
    pub fn operator_namespace(&self) -> &str {
        &self.operator_namespace
    }

    /// Applies a SidecarSet in either version, as a create or, when there is one of its name, an update. Nothing changes
    /// when there are errors.
    pub fn apply_sidecarset(&mut self, document: Value) -> Findings {
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = self.sets.get(name.as_str()).map(|stored| &stored.set);
        let (stored, findings) = self.judge(document, old);
        if let Some(stored) = stored {
            put(&mut self.sets, &name, stored);
        }
        findings
    }

    /// Judges a SidecarSet in either version beside the others, as a create or as an update of `old`. The set is there
    /// when there are no errors.
    pub fn judge(&self, document: Value, old: Option<&SidecarSet>) -> (Option<Stored>, Findings) {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        let others = self.sets.values().map(|stored| &stored.set).filter(|set| set.metadata.name != name).collect();
        let around =
            Surroundings { others, white_list: self.white_list.as_deref(), gates: self.gates, revisions: self };
        admit(document, old, &around)
    }

    /// Applies a Namespace. As the API server does, its name is among its labels.
    pub fn apply_namespace(&mut self, document: &Value) -> Result<(), Problem> {
        let name = name_of(document)?;
        let mut labels: Labels = match &document["metadata"]["labels"] {
            Value::Null => BTreeMap::new(),
            labels => serde_json::from_value(labels.clone())
                .map_err(|error| Problem { field: "metadata.labels".to_owned(), message: error.to_string() })?,
        };
        labels.insert(names::NAMESPACE_NAME.to_owned(), name.to_owned());
        put(&mut self.namespaces, name, labels);
        Ok(())
    }

    /// Applies a ConfigMap; only the operator's own matters (SSV-30).
    pub fn apply_config_map(&mut self, document: &Value) -> Result<(), Problem> {
        let namespace = document["metadata"]["namespace"].as_str().unwrap_or(&self.operator_namespace);
        if name_of(document)? == names::CONFIGURATION && namespace == &*self.operator_namespace {
            self.white_list = document["data"][names::PATCH_WHITE_LIST].as_str().map(Arc::from);
        }
        Ok(())
    }

    /// Applies a ControllerRevision; only those of SidecarSets in the operator's namespace matter (REV-2). One that
    /// cannot be restored is an error; in a cluster it is there nevertheless, and an error for who asks for it.
    pub fn apply_revision(&mut self, document: &Value) -> Result<(), Problem> {
        let name = name_of(document)?;
        let metadata = &document["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or(&self.operator_namespace);
        if namespace != &*self.operator_namespace {
            return Ok(());
        }
        let set = metadata["labels"][names::REVISION_OF].as_str();
        if self.owners.get(name).is_some_and(|owner| Some(&**owner) != set) {
            self.delete_revision(name);
        }
        let Some(set) = set else { return Ok(()) };
        let revision = Revision::read(document);
        if !self.in_cluster {
            revision.decoded().map_err(Clone::clone)?;
        }
        let own = self.revisions.get(set);
        if own.and_then(|own| own.get(name)).is_none_or(|old| **old != revision) {
            let own = Arc::make_mut(&mut self.revisions).entry(set.into()).or_default();
            put(own, name, revision);
            Arc::make_mut(&mut self.owners).insert(name.into(), set.into());
        }
        Ok(())
    }

    /// Takes a change that a cluster tells; answers with what is wrong with objects that are of no use. SidecarSets are
    /// stored already and so are not judged; what is wrong with one is found in the snapshot.
    pub fn take(&mut self, change: Change) -> Vec<Problem> {
        match change {
            Change::Put(kind, document) => self.put(kind, document).err().into_iter().collect(),
            Change::Gone(kind, name) => {
                self.delete(kind, &name);
                Vec::new()
            }
            Change::All(kind, documents) => {
                let listed: BTreeSet<&str> = documents.iter().filter_map(|document| name_of(document).ok()).collect();
                for name in self.names(kind) {
                    if !listed.contains(&*name) {
                        self.delete(kind, &name);
                    }
                }
                documents.into_iter().filter_map(|document| self.put(kind, document).err()).collect()
            }
        }
    }

    fn put(&mut self, kind: Kind, document: Value) -> Result<(), Problem> {
        match kind {
            Kind::SidecarSets => self.put_sidecarset(document),
            Kind::Namespaces => self.apply_namespace(&document),
            Kind::Configuration => self.apply_config_map(&document),
            Kind::Revisions => self.apply_revision(&document),
        }
    }

    /// One that cannot be read leaves the version before it in use.
    fn put_sidecarset(&mut self, mut document: Value) -> Result<(), Problem> {
        let name = name_of(&document)?.to_owned();
        let standing = Standing::read(&document);
        trim(&mut document);
        let read = guarded(|| Stored::from_stored(&document).map_err(|problem| problem.to_string()));
        match read.unwrap_or_else(|| Err("reading it crashed, which is a fault of Outrigger".to_owned())) {
            Ok(stored) => {
                put(&mut self.sets, &name, stored);
                put(&mut self.standings, &name, standing);
                forget(&mut self.unreadable, &name);
            }
            Err(reason) if self.unreadable.get(name.as_str()) == Some(&reason) => {}
            Err(reason) => {
                Arc::make_mut(&mut self.unreadable).insert(name.into(), reason);
            }
        }
        Ok(())
    }

    /// Takes away the object of this name, if there is one.
    pub fn delete(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::SidecarSets => {
                forget(&mut self.sets, name);
                forget(&mut self.standings, name);
                forget(&mut self.unreadable, name);
            }
            Kind::Namespaces => forget(&mut self.namespaces, name),
            Kind::Configuration if name == names::CONFIGURATION => self.white_list = None,
            Kind::Configuration => {}
            Kind::Revisions => self.delete_revision(name),
        }
    }

    fn delete_revision(&mut self, name: &str) {
        let Some(set) = self.owners.get(name).cloned() else { return };
        forget(&mut self.owners, name);
        let revisions = Arc::make_mut(&mut self.revisions);
        let Some(own) = revisions.get_mut(&set) else { return };
        forget(own, name);
        if own.is_empty() {
            revisions.remove(&set);
        }
    }

    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        match kind {
            Kind::SidecarSets => self.sets.keys().chain(self.unreadable.keys()).cloned().collect(),
            Kind::Namespaces => self.namespaces.keys().cloned().collect(),
            Kind::Configuration => vec![names::CONFIGURATION.into()],
            Kind::Revisions => self.owners.keys().cloned().collect(),
        }
    }

    /// The stored sets, by name; of one that is broken, the last version that could be read.
    pub fn sidecarsets(&self) -> impl Iterator<Item = &Stored> {
        self.sets.values().map(Arc::as_ref)
    }

    /// The set of this name and how it stands, in a cluster; of one that is broken, the last version that could be read.
    pub fn standing(&self, name: &str) -> Option<(&Arc<Stored>, &Arc<Standing>)> {
        Some((self.sets.get(name)?, self.standings.get(name)?))
    }

    /// The revisions of the set of this name.
    pub fn history(&self, name: &str) -> History {
        History(self.revisions.get(name).cloned())
    }

    /// Whether nothing changed since `other`, a clone of these objects.
    pub fn is_same(&self, other: &Self) -> bool {
        self.has_same_sets(other)
            && Arc::ptr_eq(&self.standings, &other.standings)
            && self.has_same_namespaces(other)
            && self.white_list == other.white_list
    }

    /// Whether no namespace changed its labels since `other`, a clone of these objects.
    pub fn has_same_namespaces(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.namespaces, &other.namespaces)
    }

    /// Whether no set came to mean something else since `other`, a clone of these objects.
    pub fn has_same_sets(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sets, &other.sets)
            && Arc::ptr_eq(&self.unreadable, &other.unreadable)
            && Arc::ptr_eq(&self.revisions, &other.revisions)
    }

    /// Compiles everything. Nothing may be wrong.
    pub fn snapshot(&self) -> Result<Snapshot, CompileError> {
        let sets = Sets::build(self, None);
        let wrong = sets.built.values().find_map(|built| {
            let unusable = || {
                let compiled = built.compiled.as_ref()?;
                Some(CompileError { set: compiled.name.clone(), fault: compiled.unusable.clone()? })
            };
            built.error.clone().or_else(unusable)
        });
        match wrong {
            Some(error) => Err(error),
            None => Ok(Snapshot { objects: self.clone(), sets: Arc::new(sets) }),
        }
    }

    /// Compiles what is not as it was in `previous`, a snapshot of these objects at an earlier time. Whatever is wrong
    /// with a SidecarSet concerns it alone.
    #[must_use]
    pub fn snapshot_after(&self, previous: &Snapshot) -> Snapshot {
        let sets = if self.has_same_sets(&previous.objects) {
            Arc::clone(&previous.sets)
        } else {
            Arc::new(Sets::build(self, Some(&previous.sets)))
        };
        Snapshot { objects: self.clone(), sets }
    }

    fn compile(&self, stored: &Stored) -> Result<Compiled, CompileError> {
        let Stored { set, unknown } = stored;
        let name = &set.metadata.name;
        let restore = |wanted: &InjectionRevision| self.restore(name, wanted);
        if !self.in_cluster {
            return Compiled::new(set, unknown, restore);
        }
        let compile = || Compiled::stored(set, unknown, set.status.latest_revision.clone(), restore);
        guarded(compile).unwrap_or_else(|| Err(CompileError { set: name.clone(), fault: Fault::Crashed }))
    }

    /// REV-2. Differs: REV-3, a revision must belong to the set.
    fn find_revision(
        &self,
        set: &str,
        wanted: &InjectionRevision,
    ) -> Result<(&Arc<str>, &Arc<Revision>), RevisionError> {
        let missing = |wanted: String| RevisionError::Missing { set: set.to_owned(), wanted };
        let own = self.revisions.get(set);
        let (found, wanted) = match (&wanted.revision_name, &wanted.custom_version) {
            (Some(name), _) => (own.and_then(|own| own.get_key_value(name.as_str())), format!("revision {name:?}")),
            (None, version) => {
                let of_version =
                    own.iter().flat_map(|own| own.iter()).filter(|(_, own)| own.custom_version == *version);
                let newest = of_version.max_by_key(|(name, revision)| (revision.number, &revision.created, *name));
                (newest, format!("custom version {:?}", version.as_deref().unwrap_or_default()))
            }
        };
        found.ok_or_else(|| missing(wanted))
    }

    fn restore(&self, set: &str, wanted: &InjectionRevision) -> Result<Restored<'_>, RevisionError> {
        let (name, revision) = self.find_revision(set, wanted)?;
        match revision.decoded() {
            Ok(Decoded { spec, unknown, hashes }) => Ok(Restored { name: name.to_string(), spec, unknown, hashes }),
            Err(problem) => Err(RevisionError::Broken {
                set: set.to_owned(),
                revision: name.to_string(),
                reason: problem.to_string(),
            }),
        }
    }
}

impl Revisions for Objects {
    fn resolve(&self, set: &str, revision: &InjectionRevision) -> Result<(), String> {
        self.restore(set, revision).map(|_| ()).map_err(|error| error.to_string())
    }
}

fn name_of(document: &Value) -> Result<&str, Problem> {
    match document["metadata"]["name"].as_str() {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Problem { field: "metadata.name".to_owned(), message: "the object has no name".to_owned() }),
    }
}

/// Leaves out what nobody here reads and what changes with every pod, so that an object that changed is one that means
/// something else.
fn trim(sidecarset: &mut Value) {
    if let Some(Value::Object(metadata)) = sidecarset.get_mut("metadata") {
        for member in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(member);
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    if let Some(Value::Object(status)) = sidecarset.get_mut("status") {
        status.retain(|member, _| member == "latestRevision" || member == "collisionCount");
    }
    if let Some(members) = sidecarset.as_object_mut() {
        members.remove("apiVersion");
        members.remove("kind");
    }
}

/// Runs what one object goes through. If that crashes, the others are none the worse.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// What is as it was stays the same, so that nobody compiles it again.
fn put<T: PartialEq>(map: &mut ByName<T>, name: &str, value: T) {
    if map.get(name).is_none_or(|old| **old != value) {
        Arc::make_mut(map).insert(name.into(), Arc::new(value));
    }
}

/// Nothing is copied for one that is not there.
fn forget<T: Clone>(map: &mut Arc<BTreeMap<Arc<str>, T>>, name: &str) {
    if map.contains_key(name) {
        Arc::make_mut(map).remove(name);
    }
}

// === impl Standing ===

impl Standing {
    fn read(document: &Value) -> Self {
        let metadata = &document["metadata"];
        let text = |member: &str| metadata[member].as_str().unwrap_or_default().to_owned();
        // A status that cannot be read is one that is written anew.
        let status = decode::<SidecarSetStatus>(&document["status"]).map(|(status, _)| status);
        Self {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            status: status.unwrap_or_default(),
        }
    }
}

// === impl History ===

impl History {
    /// Whether nothing changed since `other`.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |own| own.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, as their registration reads them; `set` is the name of the set.
    pub fn revisions(&self, set: &str) -> Vec<revisions::Revision> {
        let read = |(name, revision): (&Arc<str>, &Arc<Revision>)| {
            let labels = [
                (names::REVISION_OF, Some(set.to_owned())),
                (names::REVISION_HASH, revision.name_hash.clone()),
                (names::CUSTOM_VERSION, revision.custom_version.clone()),
            ];
            revisions::Revision {
                name: name.to_string(),
                number: revision.number,
                created: revision.created.clone(),
                labels: labels.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
                controller: revision.controller.clone(),
                data: serde_json::json!({"spec": serde_json::from_str::<Value>(&revision.data).unwrap_or_default()}),
            }
        };
        self.0.iter().flat_map(|own| own.iter()).map(read).collect()
    }

    /// The specs of the revisions that differ in more than images from each other and from `without_image`, by their hash
    /// without images.
    pub fn former(&self, without_image: &str) -> Vec<(String, SidecarSetSpec)> {
        let decoded = self.0.iter().flat_map(|own| own.values()).filter_map(|revision| revision.decoded().ok());
        let other = decoded.filter(|decoded| decoded.hashes.without_image != without_image);
        let by_hash: BTreeMap<&String, &SidecarSetSpec> =
            other.map(|decoded| (&decoded.hashes.without_image, &decoded.spec)).collect();
        by_hash.into_iter().map(|(hash, spec)| (hash.clone(), spec.clone())).collect()
    }
}

// === impl Revision ===

impl Revision {
    fn read(document: &Value) -> Self {
        let metadata = &document["metadata"];
        let annotation = |key: &'static str| Some((key, metadata["annotations"][key].as_str()?.to_owned()));
        Self {
            custom_version: metadata["labels"][names::CUSTOM_VERSION].as_str().map(str::to_owned),
            name_hash: metadata["labels"][names::REVISION_HASH].as_str().map(str::to_owned),
            controller: revisions::controller(metadata).map(str::to_owned),
            number: document["revision"].as_i64().unwrap_or_default(),
            created: metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
            data: document["data"]["spec"].to_string().into(),
            annotations: [names::HASH, names::HASH_WITHOUT_IMAGE].into_iter().filter_map(annotation).collect(),
            decoded: OnceLock::new(),
        }
    }

    fn decoded(&self) -> Result<&Decoded, &Problem> {
        self.decoded.get_or_init(|| self.decode()).as_ref()
    }

    fn decode(&self) -> Result<Decoded, Problem> {
        let mut spec = match serde_json::from_str(&self.data) {
            Ok(Value::Null) | Err(_) => {
                return Err(Problem { field: String::new(), message: "has no data.spec".to_owned() });
            }
            Ok(spec) => spec,
        };
        if let Value::Object(members) = &mut spec {
            members.remove("$patch");
        }
        let (spec, unknown) = decode::<SidecarSetSpec>(&spec).map_err(|error| {
            let separator = if error.path.is_empty() { "" } else { "." };
            Problem { field: format!("data.spec{separator}{}", error.path), message: error.message }
        })?;
        let hashes = Hashes::told(|key| self.annotations.get(key).map(String::as_str), &spec);
        Ok(Decoded { spec, unknown: unknown.under("spec"), hashes })
    }
}

impl PartialEq for Revision {
    /// Whether anything that was read is different.
    fn eq(&self, other: &Self) -> bool {
        let labels = |it: &Self| (it.custom_version.clone(), it.name_hash.clone(), it.controller.clone());
        let all = |it: &Self| (it.number, it.created.clone(), it.annotations.clone());
        self.data == other.data && all(self) == all(other) && labels(self) == labels(other)
    }
}

// === impl Sets ===

impl Sets {
    fn build(objects: &Objects, previous: Option<&Self>) -> Self {
        let built: BTreeMap<Arc<str>, Built> = objects
            .sets
            .iter()
            .map(|(name, stored)| {
                let before = previous.and_then(|previous| previous.built.get(name));
                (Arc::clone(name), Built::new(objects, stored, before))
            })
            .collect();
        let usable: Vec<Arc<Compiled>> = built.values().filter_map(|built| built.compiled.clone()).collect();
        let mut broken: BTreeMap<Arc<str>, Broken> =
            built.iter().filter_map(|(name, built)| Some((Arc::clone(name), built.broken()?))).collect();
        for (name, reason) in &*objects.unreadable {
            let has_earlier = built.get(name).is_some_and(|built| built.compiled.is_some());
            let effect = if has_earlier { Effect::EarlierVersion } else { Effect::LeftOut };
            broken.insert(Arc::clone(name), Broken { reason: reason.clone(), effect });
        }
        Self { index: Index::new(usable.iter().map(Arc::as_ref)), built, usable, broken }
    }
}

// === impl Built ===

impl Built {
    fn new(objects: &Objects, stored: &Arc<Stored>, before: Option<&Self>) -> Self {
        let wanted = asked_revision(&stored.set);
        let revision = wanted.and_then(|wanted| objects.find_revision(&stored.set.metadata.name, wanted).ok());
        let revision = revision.map(|(_, revision)| revision);
        if let Some(before) = before
            && Arc::ptr_eq(stored, &before.stored)
            && revision.map(Arc::as_ptr) == before.revision.as_ref().map(Arc::as_ptr)
        {
            return before.clone();
        }
        let earlier = before.and_then(|before| before.compiled.clone()).filter(|earlier| earlier.unusable.is_none());
        let (compiled, error) = match objects.compile(stored) {
            // A version that refuses pods gives way to one that does not.
            Ok(compiled) => match (compiled.unusable.clone(), earlier) {
                (Some(fault), Some(earlier)) => (Some(earlier), Some(CompileError { set: compiled.name, fault })),
                _ => (Some(Arc::new(compiled)), None),
            },
            Err(error) => (earlier, Some(error)),
        };
        Self { stored: Arc::clone(stored), revision: revision.cloned(), compiled, error }
    }

    fn broken(&self) -> Option<Broken> {
        if let Some(error) = &self.error {
            let effect = if self.compiled.is_some() { Effect::EarlierVersion } else { Effect::LeftOut };
            return Some(Broken { reason: error.fault.to_string(), effect });
        }
        let compiled = self.compiled.as_ref()?;
        let missing = compiled.pinned.as_ref().and_then(|pinned| pinned.content.as_ref().err());
        let reason = match (&compiled.unusable, missing) {
            (Some(fault), _) => fault.to_string(),
            (None, Some(error)) => error.to_string(),
            (None, None) => return None,
        };
        Some(Broken { reason, effect: Effect::Refuses })
    }
}

// === impl Snapshot ===

impl Default for Snapshot {
    /// Nothing known of a cluster yet.
    fn default() -> Self {
        Self { objects: Objects::in_cluster(names::DEFAULT_NAMESPACE), sets: Arc::default() }
    }
}

impl Snapshot {
    /// The sets that may select a pod with these labels.
    pub fn candidates<'a, 'l>(&'a self, labels: &'l Pairs<'l>) -> impl Iterator<Item = &'a Compiled> + use<'a, 'l> {
        self.sets.index.candidates(labels).map(|place| &*self.sets.usable[place])
    }

    /// All sets that are in use, by name.
    pub fn sidecarsets(&self) -> impl ExactSizeIterator<Item = &Compiled> {
        self.sets.usable.iter().map(Arc::as_ref)
    }

    /// The SidecarSets that are not in order, by name.
    pub fn broken(&self) -> impl ExactSizeIterator<Item = (&str, &Broken)> {
        self.sets.broken.iter().map(|(name, broken)| (&**name, broken))
    }

    /// Whether a SidecarSet that selects a pod with these labels asks for the labels of a namespace that is not known
    /// (MATCH-5).
    pub fn lacks_namespace(&self, name: &str, labels: &Pairs<'_>) -> bool {
        let namespace = self.namespace(name);
        namespace.labels.is_none() && self.candidates(labels).any(|set| set.would_select(labels, namespace))
    }

    /// A namespace with what is known of it.
    pub fn namespace<'a>(&'a self, name: &'a str) -> Namespace<'a> {
        Namespace { name, labels: self.objects.namespaces.get(name).map(Arc::as_ref) }
    }

    /// The objects that this was made of.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::facts::Everything;
    use crate::sidecarset::select::{self, Draw};

    #[rstest]
    #[case::no_data(json!({}), "has no data.spec")]
    #[case::no_spec(json!({"data": {"spec": null}}), "has no data.spec")]
    #[case::no_object(json!({"data": {"spec": 1}}), "data.spec: invalid type: integer `1`, expected struct SidecarSetSpec")]
    #[case::wrong_member(
        json!({"data": {"spec": {"volumes": 1}}}),
        "data.spec.volumes: invalid type: integer `1`, expected a sequence"
    )]
    fn a_revision_that_cannot_be_restored_is_told_rev_4(#[case] mut document: Value, #[case] message: &str) {
        document["metadata"] = json!({"name": "a-1", "labels": {names::REVISION_OF: "a"}});
        let problem = Objects::new(names::DEFAULT_NAMESPACE).apply_revision(&document).unwrap_err();
        assert_eq!(problem.to_string(), message);
    }

    fn hashes(annotations: &Value) -> Hashes {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let metadata = json!({"name": "a-1", "labels": {names::REVISION_OF: "a"}, "annotations": annotations});
        objects.apply_revision(&json!({"metadata": metadata, "data": {"spec": {"containers": []}}})).unwrap();
        objects.revisions["a"]["a-1"].decoded().unwrap().hashes.clone()
    }

    #[rstest]
    #[case::both(Some("x"), Some("y"), Some("x"), Some("y"))]
    #[case::only_one(Some("x"), None, Some("x"), None)]
    #[case::only_the_other(None, Some("y"), None, Some("y"))]
    #[case::an_empty_one_is_none(Some(""), Some("y"), None, Some("y"))]
    fn each_hash_of_a_revision_is_its_annotation_or_computed_rev_4(
        #[case] full: Option<&str>,
        #[case] without_image: Option<&str>,
        #[case] expected_full: Option<&str>,
        #[case] expected_without: Option<&str>,
    ) {
        let computed = hashes(&Value::Null);
        assert_eq!((computed.full.len(), computed.without_image.len()), (64, 64));
        assert_eq!(
            hashes(&json!({names::HASH: full, names::HASH_WITHOUT_IMAGE: without_image})),
            Hashes {
                full: expected_full.unwrap_or(&computed.full).to_owned(),
                without_image: expected_without.unwrap_or(&computed.without_image).to_owned(),
            }
        );
    }

    fn set(name: &str, spec: &Value) -> Value {
        json!({"apiVersion": names::V1BETA1, "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec})
    }

    fn mesh(image: &str) -> Value {
        let containers = json!([{"name": "proxy", "image": image}]);
        set("mesh", &json!({"selector": {"matchLabels": {"app": "web"}}, "containers": containers}))
    }

    fn pinned(name: &str, revision: &str) -> Value {
        let strategy = json!({"revision": {"revisionName": revision}});
        set(name, &json!({"selector": {"matchLabels": {"app": "web"}}, "injectionStrategy": strategy}))
    }

    fn revision(name: &str, of: &str, spec: &Value) -> Value {
        let metadata = json!({"name": name, "namespace": names::DEFAULT_NAMESPACE, "labels": {names::REVISION_OF: of}});
        json!({"metadata": metadata, "data": {"spec": spec}, "revision": 1})
    }

    fn cluster(changes: impl IntoIterator<Item = Change>) -> (Objects, Snapshot) {
        let mut objects = Objects::in_cluster(names::DEFAULT_NAMESPACE);
        let mut snapshot = Snapshot::default();
        for change in changes {
            assert_eq!(objects.take(change), []);
            snapshot = objects.snapshot_after(&snapshot);
        }
        (objects, snapshot)
    }

    fn put_set(document: Value) -> Change {
        Change::Put(Kind::SidecarSets, document)
    }

    fn compiled(snapshot: &Snapshot, name: &str) -> *const Compiled {
        snapshot.sidecarsets().find(|set| set.name == name).unwrap()
    }

    #[rstest]
    #[case::its_spec(put_set(mesh("b")), &["mesh"])]
    #[case::its_annotations({
        let mut changed = mesh("a");
        changed["metadata"]["annotations"] = json!({names::HASH: "x"});
        put_set(changed)
    }, &["mesh"])]
    #[case::the_name_of_its_revision({
        let mut changed = mesh("a");
        changed["status"] = json!({"latestRevision": "mesh-1"});
        put_set(changed)
    }, &["mesh"])]
    #[case::what_only_controllers_read({
        let mut changed = mesh("a");
        changed["metadata"]["resourceVersion"] = "7".into();
        changed["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        changed["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
        changed["status"] = json!({"matchedPods": 3, "observedGeneration": 2});
        put_set(changed)
    }, &[])]
    #[case::the_revision_it_asks_for(Change::Put(Kind::Revisions, revision("a-1", "asks", &json!({"volumes": []}))), &["asks"])]
    #[case::a_revision_nobody_asks_for(Change::Put(Kind::Revisions, revision("a-2", "asks", &json!({}))), &[])]
    #[case::a_revision_of_another(Change::Put(Kind::Revisions, revision("a-1", "mesh", &json!({}))), &["asks"])]
    #[case::the_same_revision(Change::Put(Kind::Revisions, revision("a-1", "asks", &json!({}))), &[])]
    #[case::a_namespace(Change::Put(Kind::Namespaces, json!({"metadata": {"name": "shop"}})), &[])]
    #[case::a_list_of_the_same(Change::All(Kind::SidecarSets, vec![mesh("a"), pinned("asks", "a-1")]), &[])]
    fn only_a_set_that_a_change_concerns_is_compiled(#[case] change: Change, #[case] expected: &[&str]) {
        let (mut objects, before) = cluster([
            put_set(mesh("a")),
            put_set(pinned("asks", "a-1")),
            Change::Put(Kind::Revisions, revision("a-1", "asks", &json!({}))),
        ]);
        objects.take(change);
        let after = objects.snapshot_after(&before);
        let changed: Vec<&str> =
            ["asks", "mesh"].into_iter().filter(|name| compiled(&before, name) != compiled(&after, name)).collect();
        assert_eq!(changed, expected);
    }

    #[rstest]
    #[case::sidecarset(Change::Gone(Kind::SidecarSets, "mesh".into()))]
    #[case::sidecarset_that_a_list_lacks(Change::All(Kind::SidecarSets, vec![pinned("other", "x")]))]
    #[case::namespace(Change::Gone(Kind::Namespaces, "shop".into()))]
    #[case::namespace_that_a_list_lacks(Change::All(Kind::Namespaces, vec![]))]
    #[case::configuration(Change::Gone(Kind::Configuration, names::CONFIGURATION.into()))]
    #[case::configuration_that_a_list_lacks(Change::All(Kind::Configuration, vec![]))]
    #[case::configuration_without_the_key(Change::Put(Kind::Configuration, json!({"metadata": {"name": names::CONFIGURATION}})))]
    #[case::revision(Change::Gone(Kind::Revisions, "mesh-1".into()))]
    #[case::revision_that_a_list_lacks(Change::All(Kind::Revisions, vec![revision("mesh-2", "mesh", &json!({}))]))]
    #[case::revision_that_lost_its_label(Change::Put(Kind::Revisions, json!({"metadata": {"name": "mesh-1"}})))]
    fn what_is_gone_is_gone(#[case] change: Change) {
        let configuration =
            json!({"metadata": {"name": names::CONFIGURATION}, "data": {names::PATCH_WHITE_LIST: "[]"}});
        let (mut objects, _) = cluster([
            Change::All(Kind::SidecarSets, vec![mesh("a")]),
            Change::All(Kind::Namespaces, vec![json!({"metadata": {"name": "shop", "labels": {"a": "b"}}})]),
            Change::All(Kind::Configuration, vec![configuration]),
            Change::All(Kind::Revisions, vec![revision("mesh-1", "mesh", &json!({}))]),
        ]);
        let wanted = InjectionRevision { revision_name: Some("mesh-1".into()), ..InjectionRevision::default() };
        let known = |objects: &Objects| {
            let snapshot = objects.snapshot_after(&Snapshot::default());
            let mesh = snapshot.sidecarsets().any(|set| set.name == "mesh");
            let namespace = snapshot.namespace("shop").labels.is_some();
            let facts = [mesh, namespace, objects.white_list.is_some(), objects.resolve("mesh", &wanted).is_ok()];
            facts.into_iter().filter(|known| *known).count()
        };
        assert_eq!(known(&objects), 4);
        objects.take(change.clone());
        assert_eq!(known(&objects), 3);
        let before = objects.clone();
        objects.take(change);
        assert!(objects.is_same(&before), "once is enough");
    }

    #[rstest]
    #[case::cannot_be_read(set("mesh", &json!({"containers": "none"})), "spec.containers: invalid type", Effect::LeftOut)]
    #[case::selector_match_6(
        set("mesh", &json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}})),
        "spec.selector: `Like` is not an operator",
        Effect::LeftOut
    )]
    #[case::namespace_selector_match_5(
        set("mesh", &json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})),
        "spec.namespaceSelector: operator In",
        Effect::LeftOut
    )]
    #[case::resources_res_4(
        set("mesh", &json!({
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "x", "resourcesPolicy": {"targetContainersNameRegex": "["}}],
        })),
        "container x: resourcesPolicy.targetContainersNameRegex `[`",
        Effect::Refuses
    )]
    fn a_set_that_is_not_in_order_concerns_only_itself(
        #[case] broken: Value,
        #[case] reason: &str,
        #[case] effect: Effect,
    ) {
        let name = |set: &Compiled| set.name.clone();
        let (mut objects, snapshot) = cluster([put_set(broken.clone()), put_set(pinned("other", "other-1"))]);
        let found = snapshot.broken().find(|(name, _)| *name == "mesh").unwrap().1;
        assert!(found.reason.starts_with(reason), "{}", found.reason);
        assert_eq!(found.effect, effect);
        let expected: &[&str] = if effect == Effect::LeftOut { &["other"] } else { &["mesh", "other"] };
        assert_eq!(snapshot.sidecarsets().map(name).collect::<Vec<_>>(), expected);

        objects.take(put_set(mesh("good")));
        let good = objects.snapshot_after(&snapshot);
        assert_eq!(good.broken().len(), 1, "mended; the other still has no revision");
        objects.take(Change::All(Kind::SidecarSets, vec![broken, pinned("other", "other-1")]));
        let again = objects.snapshot_after(&good);
        assert_eq!(again.broken().find(|(name, _)| *name == "mesh").unwrap().1.effect, Effect::EarlierVersion);
        assert_eq!(compiled(&good, "mesh"), compiled(&again, "mesh"));
        objects.take(Change::Gone(Kind::SidecarSets, "mesh".into()));
        let gone = objects.snapshot_after(&again);
        assert_eq!((gone.broken().len(), gone.sidecarsets().len()), (1, 1));
    }

    fn chosen(snapshot: &Snapshot, name: &str) -> Result<String, String> {
        let set = snapshot.sidecarsets().find(|set| set.name == name).unwrap();
        let labels = Pairs::parse(r#"{"app":"web"}"#).unwrap();
        select::choose(set, &labels, Draw::default, &mut Everything::default())
            .map(|chosen| chosen.content.revision.clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn containers_that_cannot_be_used_refuse_the_pods_they_are_for_res_4() {
        let container = json!({"name": "x", "resourcesPolicy": {"targetContainersNameRegex": "["}});
        let mut broken = pinned("mesh", "mesh-1");
        broken["spec"]["containers"] = json!([container]);
        let restorable = Change::Put(Kind::Revisions, revision("mesh-1", "mesh", &json!({})));
        let (mut objects, snapshot) = cluster([restorable, put_set(broken.clone())]);
        assert_eq!(chosen(&snapshot, "mesh").as_deref(), Ok("mesh-1"), "the revision is in order");
        broken["spec"]["injectionStrategy"] = json!({});
        objects.take(put_set(broken));
        let snapshot = objects.snapshot_after(&Snapshot::default());
        let error = chosen(&snapshot, "mesh").unwrap_err();
        assert!(error.starts_with("SidecarSet mesh cannot be used: container x: resourcesPolicy."), "{error}");
    }

    #[rstest]
    #[case::missing(revision("mesh-2", "mesh", &json!({})), "SidecarSet mesh asks for revision \"mesh-1\", and there is none")]
    #[case::of_another_set_rev_3(revision("mesh-1", "other", &json!({})), "SidecarSet mesh asks for revision \"mesh-1\"")]
    #[case::cannot_be_read_rev_4(
        revision("mesh-1", "mesh", &json!({"volumes": 1})),
        "revision mesh-1 of SidecarSet mesh cannot be used: data.spec.volumes: invalid type"
    )]
    #[case::without_data_rev_4(
        revision("mesh-1", "mesh", &Value::Null),
        "revision mesh-1 of SidecarSet mesh cannot be used: has no data.spec"
    )]
    fn a_revision_that_cannot_be_had_refuses_the_pods_that_are_to_get_it_rev_2(
        #[case] revision: Value,
        #[case] reason: &str,
    ) {
        let (_, snapshot) = cluster([Change::Put(Kind::Revisions, revision), put_set(pinned("mesh", "mesh-1"))]);
        let error = chosen(&snapshot, "mesh").unwrap_err();
        assert!(error.starts_with(reason), "{error}");
        let broken: Vec<_> = snapshot.broken().collect();
        assert_eq!(broken, [("mesh", &Broken { reason: error, effect: Effect::Refuses })]);
    }

    fn record(objects: &Objects) -> String {
        let snapshot = objects.snapshot().unwrap();
        let set = snapshot.sidecarsets().next().unwrap();
        format!("{:?} {}", set.current.record, set.current.revision)
    }

    #[rstest]
    #[case::nothing(json!({}), json!({}), None, "")]
    #[case::hash(json!({names::HASH: "told"}), json!({}), Some("told"), "")]
    #[case::revision(json!({}), json!({"latestRevision": "mesh-1"}), None, "mesh-1")]
    #[case::an_empty_hash(json!({names::HASH: ""}), json!({}), None, "")]
    fn in_a_cluster_the_record_says_what_the_object_says_ann_3(
        #[case] annotations: Value,
        #[case] status: Value,
        #[case] hash: Option<&str>,
        #[case] revision: &str,
    ) {
        let mut document = mesh("a");
        document["metadata"]["annotations"] = annotations;
        document["status"] = status;
        let computed = Hashes::of(&Stored::from_stored(&document).unwrap().set.spec);
        let (objects, _) = cluster([put_set(document)]);
        let text = record(&objects);
        assert!(text.contains(hash.unwrap_or(&computed.full)) && text.contains(&computed.without_image), "{text}");
        assert_eq!(text.contains("controllerRevision"), !revision.is_empty(), "{text}");
        assert!(text.ends_with(&format!(" {revision}")), "{text}");
    }

    #[test]
    fn outside_of_a_cluster_hashes_and_revision_are_computed_ann_3() {
        let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
        let mut document = mesh("a");
        document["metadata"]["annotations"] = json!({names::HASH: "told"});
        assert_eq!(objects.apply_sidecarset(document).errors, []);
        let text = record(&objects);
        assert!(!text.contains("told") && text.contains("controllerRevision") && text.contains("} mesh-"), "{text}");
    }

    #[test]
    fn an_object_without_a_name_is_told() {
        let mut objects = Objects::in_cluster(names::DEFAULT_NAMESPACE);
        for kind in Kind::ALL {
            for garbage in [json!(null), json!(7), json!({"metadata": 1}), json!({"metadata": {"name": ["x"]}})] {
                assert_eq!(objects.take(Change::Put(kind, garbage)).len(), 1, "{kind:?}");
            }
        }
    }
}
