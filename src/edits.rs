//! Edits of a pod: what the rules return instead of a changed pod (design decision 2).
//!
//! An edit names whole elements only (put this container before the pod's own, append this env), so whatever else an
//! element holds stays with it (RSP-6). `admission::patch` turns edits into RFC 6902.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::facts::{Fact, Placed, Recorder};
use crate::pod::{Container, PodError};
use crate::sidecarset::compiled::Template;

/// All edits of one pod. Lists refer to the pod as it was submitted.
#[derive(Debug, Default)]
pub struct Edits<'a> {
    /// A name for the pod (PRI-8).
    pub name: Option<String>,
    /// Annotations to set.
    pub annotations: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// Further annotations to set, with values as they stand inside a JSON string: their quotes were escaped when the
    /// SidecarSet was compiled.
    pub escaped_annotations: BTreeMap<&'static str, String>,
    /// A readiness gate to append.
    pub readiness_gate: Option<&'static str>,
    /// Image pull secrets.
    pub pull_secrets: Secrets<'a>,
    /// Volumes to append, as JSON.
    pub volumes: Vec<&'a str>,
    /// `spec.initContainers`.
    pub init_containers: ListEdits<'a>,
    /// `spec.containers`.
    pub containers: ListEdits<'a>,
}

/// What happens to `spec.imagePullSecrets` (SEC-1).
#[derive(Debug, PartialEq, Eq)]
pub enum Secrets<'a> {
    /// These are appended, as JSON.
    Append(Vec<&'a str>),
    /// The list becomes this one, because the pod's own had duplicates.
    Replace(Vec<&'a str>),
}

impl Default for Secrets<'_> {
    fn default() -> Self {
        Self::Append(Vec::new())
    }
}

/// Edits of a list of containers.
#[derive(Debug, Default)]
pub struct ListEdits<'a> {
    /// Containers that are replaced, by index.
    pub replaced: Vec<(usize, Injected<'a>)>,
    /// Containers to put before the pod's own.
    pub before: Vec<Injected<'a>>,
    /// Containers to put after them.
    pub after: Vec<Injected<'a>>,
    /// Barrier envs of the pod's own containers, by index.
    pub barriers: Vec<(usize, EnvEdit)>,
}

/// A container to inject.
#[derive(Debug)]
pub struct Injected<'a> {
    /// What it is made of.
    pub template: &'a Template,
    /// Name of its SidecarSet.
    pub set: &'a str,
    /// Compact JSON that lacks the closing `]}` of its env and itself.
    pub json: Cow<'a, str>,
    /// The last value of `KRUISE_CONTAINER_PRIORITY` among its envs (PRI-4).
    pub priority: Option<Cow<'a, str>>,
    /// A barrier env to append (PRI-6).
    pub barrier: Option<String>,
}

/// A change to the env of a container that stays.
#[derive(Debug, PartialEq, Eq)]
pub struct EnvEdit {
    /// Where the env goes.
    pub place: EnvPlace,
    /// The env, as JSON.
    pub json: String,
}

/// Where an env goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvPlace {
    /// The container has no env yet.
    NewList,
    /// After the others.
    Append,
    /// In place of the one at this index (PRI-9).
    Replace(usize),
}

/// Where a container of the final list came from.
pub enum Final<'e, 'a> {
    /// The pod's own, by its index.
    Own(usize),
    /// An injected one.
    Injected(&'e mut Injected<'a>),
}

// === impl Edits ===

impl Edits<'_> {
    /// Whether any annotation is set.
    pub fn touch_annotations(&self) -> bool {
        !self.annotations.is_empty() || !self.escaped_annotations.is_empty()
    }

    /// Whether anything below `spec` is edited.
    pub fn touch_spec(&self) -> bool {
        self.readiness_gate.is_some()
            || self.pull_secrets != Secrets::default()
            || !self.volumes.is_empty()
            || !self.init_containers.is_empty()
            || !self.containers.is_empty()
    }
}

// === impl Injected ===

impl Injected<'_> {
    /// The whole container as compact JSON.
    pub fn whole(&self) -> String {
        let mut out = String::with_capacity(self.json.len() + 128);
        self.write(&mut out);
        out
    }

    /// Appends the whole container to `out`.
    pub fn write(&self, out: &mut String) {
        out.push_str(&self.json);
        if let Some(barrier) = &self.barrier {
            out.push(',');
            out.push_str(barrier);
        }
        out.push_str("]}");
    }
}

// === impl ListEdits ===

impl<'a> ListEdits<'a> {
    /// Whether the list stays as it is.
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.before.is_empty() && self.after.is_empty() && self.barriers.is_empty()
    }

    /// How many containers the list will have when the pod has `own` now.
    pub fn len(&self, own: usize) -> usize {
        own + self.before.len() + self.after.len()
    }

    /// Places a container: over one of the same name, else before or after the pod's own (ORD-2).
    pub fn place(
        &mut self,
        injected: Injected<'a>,
        own: &[Container<'_>],
        facts: &mut impl Recorder,
        list: &'static str,
    ) -> Result<(), PodError> {
        let name = injected.template.name.as_str();
        let existing = own.iter().position(|container| container.name == name);
        let placed = match existing {
            Some(index) if own[index].is_injected()? => Placed::ReplacedInjected,
            Some(_) => Placed::ReplacedOwn,
            None if injected.template.before => Placed::Before,
            None => Placed::After,
        };
        let fact = || Fact::Container {
            set: injected.set.to_owned(),
            list,
            entry: injected.template.entry,
            name: name.to_owned(),
            placed,
        };
        // ORD-6: the reference overwrites in silence. To refuse such pods would break manifests that work today, so it is
        // done aloud.
        facts.tell(placed == Placed::ReplacedOwn, fact);
        match (existing, placed) {
            (Some(index), _) => {
                self.replaced.retain(|(replaced, _)| *replaced != index);
                self.replaced.push((index, injected));
            }
            (None, Placed::Before) => self.before.push(injected),
            (None, _) => self.after.push(injected),
        }
        Ok(())
    }

    /// The containers in their final order, when the pod has `own` of them now.
    pub fn in_final_order(&mut self, own: usize) -> Vec<Final<'_, 'a>> {
        let mut replaced: BTreeMap<usize, &mut Injected<'a>> =
            self.replaced.iter_mut().map(|(index, injected)| (*index, injected)).collect();
        let middle = (0..own).map(|index| match replaced.remove(&index) {
            Some(injected) => Final::Injected(injected),
            None => Final::Own(index),
        });
        let before = self.before.iter_mut().map(Final::Injected);
        before.chain(middle).chain(self.after.iter_mut().map(Final::Injected)).collect()
    }

    /// Drops replacements that would change nothing, so that a second admission of the same pod is one (POD-5).
    pub fn drop_unchanged(&mut self, own: &[Container<'_>]) {
        self.replaced.retain(|(index, injected)| !same_json(own[*index].raw, &injected.whole()));
    }
}

/// Whether two texts are the same JSON; texts that cannot be read are the same only when they are equal.
pub fn same_json(a: &str, b: &str) -> bool {
    let parse = |json: &str| serde_json::from_str::<serde_json::Value>(json).ok();
    a == b || parse(a).zip(parse(b)).is_some_and(|(a, b)| a == b)
}
