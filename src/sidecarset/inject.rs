//! What the SidecarSets that apply put into a pod (INJ, ENV, TE, SHR, ORD, VOL, SEC).
//!
//! Reads top to bottom in the order of the rules: render every entry against the pod as it was submitted, place the
//! containers, then bring along volumes and secrets. Annotations are written by `records`, once everything is placed.

use std::borrow::Cow;
use std::collections::HashSet;

use super::compiled::{Content, Fragment, Paths, Template, Transfer, TransferSource};
use super::resources::ResourcesError;
use super::select::Chosen;
use crate::api::names;
use crate::edits::{Edits, Injected, Secrets, same_json};
use crate::facts::{EnvOrigin, Fact, NotTransferred, Recorder, VolumeOutcome};
use crate::pod::{Container, EnvVar, Mount, Pairs, PodError, Resources, Spec};

/// The pod as the rules of injection see it: as submitted, with the annotations that META has set (INJ-4, TE-6).
pub struct Target<'p, 'a> {
    /// Lists of the spec.
    pub spec: &'p Spec<'a>,
    /// Labels.
    pub labels: &'p Pairs<'a>,
    /// Annotations of the pod as submitted.
    pub annotations: &'p Pairs<'a>,
}

/// A pod cannot be injected and is refused (POD-3).
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Resources cannot be computed.
    #[error("SidecarSet {set}, container {container}: {source}")]
    Resources {
        /// Name of the set.
        set: String,
        /// Name of the container.
        container: String,
        /// Why not.
        source: Box<ResourcesError>,
    },
    /// The pod cannot be read.
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// Injects the sets of `chosen`, in their order, into `edits`.
pub fn inject<'a>(
    target: &Target<'_, 'a>,
    chosen: &[Chosen<'a>],
    edits: &mut Edits<'a>,
    facts: &mut impl Recorder,
) -> Result<(), InjectError> {
    let mut renderer = Renderer { target, chosen, shared: Vec::new(), candidates: Vec::new() };
    let mut init_containers = Vec::new();
    let mut containers = Vec::new();
    for Chosen { set, content } in chosen {
        for template in &content.init_containers {
            init_containers.push(renderer.render(&set.name, template, edits, facts)?);
        }
        for template in &content.containers {
            containers.push(renderer.render(&set.name, template, edits, facts)?);
        }
    }
    if init_containers.is_empty() && containers.is_empty() {
        return Ok(());
    }

    // ORD-1: init containers of all sets are placed by name; ORD-4: containers keep the order of their sets.
    init_containers.sort_by(|a, b| a.template.name.cmp(&b.template.name));
    let own = target.spec.init_containers.as_deref().unwrap_or_default();
    for container in init_containers {
        edits.init_containers.place(container, own, facts, "initContainers")?;
    }
    let own = target.spec.containers.as_deref().unwrap_or_default();
    for container in containers {
        edits.containers.place(container, own, facts, "containers")?;
    }

    add_volumes(target.spec, chosen, edits, facts);
    add_pull_secrets(target.spec, chosen, edits, facts);
    Ok(())
}

/// Renders templates against one pod, and keeps what several of them ask of it.
struct Renderer<'r, 'a> {
    target: &'r Target<'r, 'a>,
    chosen: &'r [Chosen<'a>],
    /// Mounts and devices of the pod's own containers, read when the first sidecar shares them.
    shared: Vec<SharedFrom<'r, 'a>>,
    /// Containers that may be targets of a resources policy, read when the first sidecar has one.
    candidates: Vec<(&'r str, Resources)>,
}

/// What a container of the pod shares with sidecars.
struct SharedFrom<'r, 'a> {
    container: &'r Container<'a>,
    mounts: Vec<Mount<'a>>,
    devices: Vec<Mount<'a>>,
    /// The envs that its mounts' `subPathExpr`s need and that it has, each once (SHR-4).
    needed: Vec<(String, &'r EnvVar<'a>)>,
}

impl<'r, 'a> SharedFrom<'r, 'a> {
    fn new(container: &'r Container<'a>) -> Result<Self, PodError> {
        let (mounts, devices) = (container.mounts()?, container.devices()?);
        let mut seen = HashSet::new();
        let mut needed = Vec::new();
        for name in mounts.iter().flat_map(|mount| variables(&mount.sub_path_expr)) {
            if seen.insert(name) {
                needed.extend(container.first_env(name)?.map(|env| (name.to_owned(), env)));
            }
        }
        Ok(Self { container, mounts, devices, needed })
    }
}

impl<'r, 'a> Renderer<'r, 'a> {
    /// Renders one container (INJ-3).
    fn render(
        &mut self,
        set: &'a str,
        template: &'a Template,
        edits: &Edits<'a>,
        facts: &mut impl Recorder,
    ) -> Result<Injected<'a>, InjectError> {
        let mut priority = template.priority.as_deref().map(Cow::Borrowed);
        record_own_env(template, facts);
        let json = if let Some(ready) = &template.ready {
            Cow::Borrowed(ready.as_str())
        } else {
            let resources = self.resources(set, template, facts)?;
            let (mounts, devices) = self.share(template, facts)?;
            let mut env = MoreEnv { template, json: String::new(), names: HashSet::new(), priority };
            self.transfer(template, edits, &mut env, facts)?;
            if template.share_mounts {
                // SHR-4: also for mounts whose path the sidecar has already.
                for SharedFrom { container, needed, .. } in &self.shared {
                    for (name, found) in needed {
                        env.add(found, name, facts, || EnvOrigin::SubPathExpr(container.name.clone().into_owned()));
                    }
                }
            }
            priority = env.priority;
            Cow::Owned(template.render(resources.as_deref(), &mounts, &devices, &env.json))
        };
        if template.version_env.is_some() {
            for name in [names::VERSION_ENV, names::VERSION_ALT_ENV] {
                facts.record(|| Fact::Env {
                    container: template.name.clone(),
                    name: name.to_owned(),
                    origin: EnvOrigin::HotUpgrade,
                });
            }
        }
        Ok(Injected { template, set, json, priority, barrier: None })
    }

    /// RES-1 … RES-8.
    fn resources(
        &mut self,
        set: &str,
        template: &Template,
        facts: &mut impl Recorder,
    ) -> Result<Option<String>, InjectError> {
        let Some(policy) = &template.resources else { return Ok(None) };
        if self.candidates.is_empty() {
            let native =
                self.target.spec.init_containers.iter().flatten().filter(|container| container.is_native_sidecar);
            let containers = native.chain(self.target.spec.containers.iter().flatten());
            let chosen = self.chosen;
            let is_own = |name: &str| chosen.iter().any(|chosen| chosen.content.own_names.contains(name));
            for container in containers.filter(|container| !is_own(&container.name)) {
                self.candidates.push((&*container.name, container.resources()?));
            }
        }
        let candidates = self.candidates.iter().map(|(name, resources)| (*name, resources));
        let computed = policy.compute(candidates).map_err(|source| InjectError::Resources {
            set: set.to_owned(),
            container: template.name.clone(),
            source: Box::new(source),
        })?;
        let json = computed.json.clone();
        facts.record(|| Fact::Resources {
            container: template.name.clone(),
            json: computed.json,
            targets: computed.targets,
        });
        Ok(Some(json))
    }

    /// The container's mounts and devices with those it shares, as JSON (SHR-2, SHR-5).
    fn share(&mut self, template: &'a Template, facts: &mut impl Recorder) -> Result<(String, String), InjectError> {
        if !template.share_mounts && !template.share_devices {
            return Ok((template.mounts.json.clone(), template.devices.json.clone()));
        }
        if self.shared.is_empty() {
            let target = self.target;
            for container in target.spec.containers.iter().flatten() {
                if !container.is_injected()? {
                    self.shared.push(SharedFrom::new(container)?);
                }
            }
        }
        let mut mounts = Growing::new(&template.mounts, self.shared.iter().flat_map(|shared| &shared.mounts));
        let mut devices = Growing::new(&template.devices, self.shared.iter().flat_map(|shared| &shared.devices));
        if template.share_mounts {
            for SharedFrom { container, mounts: theirs, .. } in &self.shared {
                for mount in theirs {
                    if !template.devices.paths.iter().any(|device| *device == mount.path) {
                        mounts.add(mount, template, container, facts);
                    }
                }
            }
        }
        if template.share_devices {
            for SharedFrom { container, devices: theirs, .. } in &self.shared {
                for device in theirs {
                    if !mounts.paths.contains(&*device.path) {
                        devices.add(device, template, container, facts);
                    }
                }
            }
        }
        Ok((mounts.json, devices.json))
    }

    /// TE-1 … TE-6.
    fn transfer<'n>(
        &self,
        template: &'a Template,
        edits: &Edits<'a>,
        env: &mut MoreEnv<'n, 'a>,
        facts: &mut impl Recorder,
    ) -> Result<(), PodError>
    where
        'a: 'n,
    {
        for Transfer { source, names } in &template.transfer {
            let found = self.source(source, edits)?;
            for name in names {
                let missing = |reason| {
                    move || Fact::NotTransferred { container: template.name.clone(), name: name.clone(), reason }
                };
                let source = match &found {
                    Ok(source) => *source,
                    Err(reason) => {
                        facts.record(missing(reason.clone()));
                        continue;
                    }
                };
                // TE-4: of several envs of one name, the last.
                match source.last_env(name)? {
                    None => facts.record(missing(NotTransferred::NoEnv(source.name.clone().into_owned()))),
                    Some(found) => {
                        env.add(found, name, facts, || EnvOrigin::Transferred(source.name.clone().into_owned()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The container to transfer from. An injected container that this request injects again does not count, or a second
    /// admission would find what the first could not (INJ-4).
    fn source(
        &self,
        source: &TransferSource,
        edits: &Edits<'a>,
    ) -> Result<Result<&'r Container<'a>, NotTransferred>, PodError> {
        let name = match source {
            TransferSource::Name(name) => Cow::Borrowed(name.as_str()),
            TransferSource::Label(key) => match self.target.labels.get(key) {
                Some(name) => Cow::Borrowed(name),
                None => return Ok(Err(NotTransferred::NoField(format!("label {key}")))),
            },
            TransferSource::Annotation(key) => {
                let patched = edits.annotations.get(key.as_str()).map(|value| &**value);
                match patched.or_else(|| self.target.annotations.get(key)) {
                    Some(name) => Cow::Owned(name.to_owned()),
                    None => return Ok(Err(NotTransferred::NoField(format!("annotation {key}")))),
                }
            }
            TransferSource::Unusable(path) => return Ok(Err(NotTransferred::Unusable(path.clone()))),
        };
        for container in self.target.spec.containers.iter().flatten() {
            let is_own = |chosen: &Chosen<'_>| chosen.content.own_names.contains(&*container.name);
            if container.name == name && !(self.chosen.iter().any(is_own) && container.is_injected()?) {
                return Ok(Ok(container));
            }
        }
        Ok(Err(NotTransferred::NoContainer(name.into_owned())))
    }
}

/// Mounts or devices of a sidecar while the pod's are added.
struct Growing<'t> {
    json: String,
    paths: HashSet<&'t str>,
}

impl<'t> Growing<'t> {
    /// Begins with the sidecar's own, with room for `more`.
    fn new<'m>(own: &'t Paths, more: impl Iterator<Item = &'m Mount<'m>>) -> Self {
        let (entries, length) = more.fold((0, 0), |(n, length), mount| (n + 1, length + 1 + mount.raw.len()));
        let mut growing = Self {
            json: String::with_capacity(own.json.len() + length),
            paths: HashSet::with_capacity(own.paths.len() + entries),
        };
        growing.json.push_str(&own.json);
        growing.paths.extend(own.paths.iter().map(String::as_str));
        growing
    }

    /// Adds an entry of the pod unless its path is taken.
    fn add(&mut self, mount: &'t Mount<'_>, template: &Template, from: &Container<'_>, facts: &mut impl Recorder) {
        if !self.paths.insert(&mount.path) {
            return;
        }
        if !self.json.is_empty() {
            self.json.push(',');
        }
        self.json.push_str(mount.raw);
        facts.record(|| Fact::Shared {
            container: template.name.clone(),
            path: mount.path.clone().into_owned(),
            from: from.name.clone().into_owned(),
        });
    }
}

/// Envs added to those of the template (ENV-1: 3 and 4).
struct MoreEnv<'n, 'a> {
    template: &'a Template,
    json: String,
    names: HashSet<&'n str>,
    priority: Option<Cow<'a, str>>,
}

impl<'n, 'a> MoreEnv<'n, 'a> {
    fn add(&mut self, env: &EnvVar<'a>, name: &'n str, facts: &mut impl Recorder, origin: impl FnOnce() -> EnvOrigin) {
        let container = || self.template.name.clone();
        if self.template.env_names.iter().any(|own| own == name) || !self.names.insert(name) {
            let reason = NotTransferred::Present;
            facts.record(|| Fact::NotTransferred { container: container(), name: name.to_owned(), reason });
            return;
        }
        self.json.push(',');
        self.json.push_str(env.raw);
        if name == names::PRIORITY_ENV {
            self.priority = Some(env.value.clone().unwrap_or_default());
        }
        facts.record(|| Fact::Env { container: container(), name: name.to_owned(), origin: origin() });
    }
}

fn record_own_env(template: &Template, facts: &mut impl Recorder) {
    for (index, name) in template.env_names.iter().enumerate() {
        facts.record(|| Fact::Env {
            container: template.name.clone(),
            name: name.clone(),
            // The marker is the last of a template's envs (ENV-1).
            origin: if index + 1 == template.env_names.len() { EnvOrigin::Marker } else { EnvOrigin::Own },
        });
    }
}

/// The names in `$(NAME)` of a `subPathExpr` (SHR-4).
fn variables(expr: &str) -> impl Iterator<Item = &str> {
    let is_name = |name: &&str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b"-._".contains(&b))
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    expr.split("$(").skip(1).filter_map(|rest| rest.split_once(')')).map(|(name, _)| name).filter(is_name)
}

/// VOL-1 and VOL-3: the pod's volume wins over one of the same name, aloud when the two differ.
fn add_volumes<'a>(spec: &Spec<'a>, chosen: &[Chosen<'a>], edits: &mut Edits<'a>, facts: &mut impl Recorder) {
    // Searched from end to end for each volume of a set: sets have few, and nobody but their author can change that.
    let own = spec.volumes.as_deref().unwrap_or_default();
    let mut added: Vec<&Fragment> = Vec::new();
    for Chosen { set, content } in chosen {
        for index in used_volumes(content) {
            let volume = &content.volumes[index];
            let Fragment { name, json } = volume;
            let theirs = own.iter().find(|volume| volume.name == *name).map(|volume| volume.raw);
            let there =
                theirs.or_else(|| added.iter().find(|other| other.name == *name).map(|other| other.json.as_str()));
            let outcome = match there {
                None => {
                    added.push(volume);
                    edits.volumes.push(json);
                    VolumeOutcome::Added
                }
                Some(there) if same_json(there, json) => VolumeOutcome::Same,
                Some(_) => VolumeOutcome::Different,
            };
            let fact = || Fact::Volume { set: set.name.clone(), name: name.clone(), outcome };
            facts.tell(outcome == VolumeOutcome::Different, fact);
        }
    }
}

/// Indexes of the volumes that the containers of a set mount, in the order of the containers.
fn used_volumes(content: &Content) -> Vec<usize> {
    let mut used = Vec::new();
    for template in content.init_containers.iter().chain(&content.containers) {
        for index in &template.volumes {
            if !used.contains(index) {
                used.push(*index);
            }
        }
    }
    used
}

/// SEC-1.
fn add_pull_secrets<'a>(spec: &Spec<'a>, chosen: &[Chosen<'a>], edits: &mut Edits<'a>, facts: &mut impl Recorder) {
    let own = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let mut names: HashSet<&str> = HashSet::new();
    let mut kept: Vec<&str> = Vec::with_capacity(own.len());
    for secret in own {
        if names.insert(&secret.name) {
            kept.push(secret.raw);
        }
    }
    let has_duplicates = kept.len() < own.len();
    let mut added = Vec::new();
    for Chosen { set, content } in chosen {
        for Fragment { name, json } in &content.pull_secrets {
            if names.insert(name) {
                added.push(json.as_str());
                facts.record(|| Fact::PullSecret { set: set.name.clone(), name: name.clone() });
            }
        }
    }
    edits.pull_secrets = if has_duplicates {
        kept.extend(added);
        Secrets::Replace(kept)
    } else {
        Secrets::Append(added)
    };
}
