//! What the rules did to a pod and why, as values (design decision 3).
//!
//! Each rule records a [`Fact`] where it decides. At admission only those that a user must be warned of are kept; `inject
//! -o explain` keeps all of them. Nobody formats a reason twice: the sentence of a fact is its `Display`.

use std::fmt;

/// Something that a rule did to the pod, or chose not to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A set injects a revision of it, or its current spec although it names a revision (REV-5 … REV-8).
    Revision {
        /// The SidecarSet.
        set: String,
        /// Name of the ControllerRevision.
        revision: String,
        /// Why this one.
        why: RevisionChoice,
    },
    /// A container was put into the pod.
    Container {
        /// The SidecarSet.
        set: String,
        /// `containers` or `initContainers`, in the set and in the pod.
        list: &'static str,
        /// Index of the entry in the set's list.
        entry: usize,
        /// Name of the container.
        name: String,
        /// Where it was put.
        placed: Placed,
    },
    /// An injected container got an env.
    Env {
        /// Name of the container.
        container: String,
        /// Name of the env.
        name: String,
        /// Where it came from.
        origin: EnvOrigin,
    },
    /// A `transferEnv` found nothing.
    NotTransferred {
        /// Name of the container.
        container: String,
        /// Name of the env.
        name: String,
        /// Why not.
        reason: NotTransferred,
    },
    /// A mount or device of the pod was shared with an injected container.
    Shared {
        /// Name of the container.
        container: String,
        /// Path in the container.
        path: String,
        /// The container of the pod it came from.
        from: String,
    },
    /// Resources were computed (RES).
    Resources {
        /// Name of the container.
        container: String,
        /// The result, as JSON.
        json: String,
        /// The containers it was computed from.
        targets: Vec<String>,
    },
    /// A volume of a set was queued.
    Volume {
        /// The SidecarSet.
        set: String,
        /// Name of the volume.
        name: String,
        /// Whether it was added.
        outcome: VolumeOutcome,
    },
    /// An image pull secret of a set was added.
    PullSecret {
        /// The SidecarSet.
        set: String,
        /// Name of the secret.
        name: String,
    },
    /// A set patched an annotation (META), or left it as it was.
    Patched {
        /// The SidecarSet.
        set: String,
        /// The key.
        key: String,
        /// What became of it.
        outcome: PatchOutcome,
    },
    /// An annotation that keeps the record of the injection was written (ANN, HOT-5).
    Record {
        /// The key.
        key: &'static str,
    },
    /// An annotation with a version of a hot-upgrade container was written (HOT-3).
    Version {
        /// Name of the container.
        container: String,
        /// The key.
        key: String,
        /// The version.
        version: &'static str,
    },
    /// An annotation that keeps the record of the injection was unreadable and is started afresh (ANN-6, HOT-5).
    RecordReset {
        /// The key.
        key: &'static str,
    },
    /// A readiness gate was added (RG-1).
    ReadinessGate {
        /// The gate.
        gate: &'static str,
        /// `apiVersion` of the workload that owns the pod.
        owner: String,
    },
    /// A container waits for its turn (PRI-6).
    Barrier {
        /// Name of the container.
        container: String,
        /// Its priority: higher starts earlier.
        priority: i64,
    },
    /// A name was made for the pod, because the barrier is named after it (PRI-8).
    Named {
        /// The name.
        name: String,
    },
}

/// What decided between a revision and the current spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionChoice {
    /// Policy `Always`: the revision.
    Always,
    /// The rollout is paused: the revision.
    UpdatePaused,
    /// The rollout's selector leaves the pod out: the revision.
    OutsideUpdateSelector,
    /// Policy `Partial`, no percentage: the current spec.
    NoPercentage,
    /// Policy `Partial`, drawn by the partition's percentage: the revision.
    DrawnRevision,
    /// Policy `Partial`, drawn by the partition's percentage: the current spec.
    DrawnCurrent,
    /// Policy `Partial`, drawn when the pod was admitted before: the revision.
    RecordedRevision,
    /// Policy `Partial`, drawn when the pod was admitted before: the current spec.
    RecordedCurrent,
}

/// Where a container was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Before the pod's own.
    Before,
    /// After the pod's own.
    After,
    /// In place of an injected container of the same name.
    ReplacedInjected,
    /// In place of the pod's own container of the same name (ORD-6).
    ReplacedOwn,
}

/// Where an env of an injected container came from (ENV-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvOrigin {
    /// The entry of the SidecarSet.
    Own,
    /// The mark of an injected container.
    Marker,
    /// `transferEnv`, from this container of the pod.
    Transferred(String),
    /// A shared mount's `subPathExpr` needs it; from this container of the pod.
    SubPathExpr(String),
    /// The version of a hot-upgrade container.
    HotUpgrade,
}

/// Why an env was not transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTransferred {
    /// The container has an env of that name already (ENV-3).
    Present,
    /// The pod has no such container.
    NoContainer(String),
    /// The source container has no such env (TE-5).
    NoEnv(String),
    /// The pod has no such label or annotation (TE-3).
    NoField(String),
    /// The field is not supported (TE-3).
    Unusable(String),
}

/// What became of a queued volume (VOL-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeOutcome {
    /// Added to the pod.
    Added,
    /// The pod, or a set before, has the same volume.
    Same,
    /// The pod, or a set before, has another volume of that name, which wins.
    Different,
}

/// What became of an annotation that a set patches (META).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchOutcome {
    /// It was set to the set's value.
    Set,
    /// It was merged with the set's value.
    Merged,
    /// The pod's value stays (META-1).
    Retained,
    /// The two cannot be merged, and the pod's value stays (META-5).
    Unmergeable(&'static str),
    /// The policy is none that is known (META-6).
    UnknownPolicy(String),
}

impl Fact {
    /// The container that this is a detail of.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Env { container, .. }
            | Self::NotTransferred { container, .. }
            | Self::Shared { container, .. }
            | Self::Resources { container, .. }
            | Self::Version { container, .. }
            | Self::Barrier { container, .. } => Some(container),
            Self::Revision { .. }
            | Self::Container { .. }
            | Self::Volume { .. }
            | Self::PullSecret { .. }
            | Self::Patched { .. }
            | Self::Record { .. }
            | Self::RecordReset { .. }
            | Self::ReadinessGate { .. }
            | Self::Named { .. } => None,
        }
    }

    /// Whether a user should hear of this without asking: it is legal, and likely not what was meant.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Container { placed: Placed::ReplacedOwn, .. }
                | Self::Volume { outcome: VolumeOutcome::Different, .. }
                | Self::Patched { outcome: PatchOutcome::Unmergeable(_), .. }
                | Self::RecordReset { .. }
        )
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision { set, revision, why } => {
                write!(f, "SidecarSet {set}: revision {revision}, {why}")
            }
            Self::Container { set, list, entry, name, placed } => {
                let place = match placed {
                    Placed::Before => "before the pod's own",
                    Placed::After => "after the pod's own",
                    Placed::ReplacedInjected => "in place of the one injected before",
                    Placed::ReplacedOwn => "IN PLACE OF THE POD'S OWN container of that name",
                };
                let kind = if *list == "containers" { "container" } else { "init container" };
                write!(f, "{kind} {name}: from SidecarSet {set}, spec.{list}[{entry}], put {place}")
            }
            Self::Env { container, name, origin } => {
                write!(f, "env {name} of {container}: ")?;
                match origin {
                    EnvOrigin::Own => write!(f, "the SidecarSet's own"),
                    EnvOrigin::Marker => write!(f, "marks an injected container"),
                    EnvOrigin::Transferred(from) => write!(f, "transferEnv, from container {from}"),
                    EnvOrigin::SubPathExpr(from) => {
                        write!(f, "needed by a shared mount's subPathExpr, from container {from}")
                    }
                    EnvOrigin::HotUpgrade => write!(f, "version for hot upgrade"),
                }
            }
            Self::NotTransferred { container, name, reason } => {
                write!(f, "env {name} of {container}: not transferred, ")?;
                match reason {
                    NotTransferred::Present => write!(f, "the container already has it"),
                    NotTransferred::NoContainer(source) => write!(f, "the pod has no container {source:?}"),
                    NotTransferred::NoEnv(source) => write!(f, "container {source} does not have it"),
                    NotTransferred::NoField(field) => write!(f, "the pod has no {field}"),
                    NotTransferred::Unusable(field) => write!(f, "the field {field} is not supported"),
                }
            }
            Self::Shared { container, path, from } => {
                write!(f, "mount {path} of {container}: shared by container {from}")
            }
            Self::Resources { container, json, targets } => {
                write!(f, "resources of {container}: {json}, computed from {}", targets.join(", "))
            }
            Self::Volume { set, name, outcome } => {
                write!(f, "volume {name}: ")?;
                match outcome {
                    VolumeOutcome::Added => write!(f, "from SidecarSet {set}"),
                    VolumeOutcome::Same => write!(f, "wanted by SidecarSet {set}, already there"),
                    VolumeOutcome::Different => {
                        write!(
                            f,
                            "the pod's own differs from that of SidecarSet {set} and wins; sidecars mount the pod's"
                        )
                    }
                }
            }
            Self::PullSecret { set, name } => write!(f, "imagePullSecret {name}: from SidecarSet {set}"),
            Self::Patched { set, key, outcome } => {
                write!(f, "annotation {key}: ")?;
                match outcome {
                    PatchOutcome::Set => write!(f, "set by SidecarSet {set}"),
                    PatchOutcome::Merged => write!(f, "merged with the value of SidecarSet {set}"),
                    PatchOutcome::Retained => write!(f, "the pod's own is kept (policy Retain of SidecarSet {set})"),
                    PatchOutcome::Unmergeable(why) => {
                        write!(f, "the pod's own is kept, SidecarSet {set} cannot merge into it: {why}")
                    }
                    PatchOutcome::UnknownPolicy(policy) => {
                        write!(f, "not patched, SidecarSet {set} has the unknown policy {policy:?}")
                    }
                }
            }
            Self::Record { key } => write!(f, "annotation {key}: the record of this injection"),
            Self::Version { container, key, version } => {
                write!(f, "annotation {key}: {version}, the version of {container} for hot upgrade")
            }
            Self::RecordReset { key } => write!(f, "annotation {key}: was unreadable and is started afresh"),
            Self::ReadinessGate { gate, owner } => write!(f, "readiness gate {gate}: the pod is managed by {owner}"),
            Self::Barrier { container, priority } => {
                write!(f, "env {} of {container}: launch priority {priority}", crate::api::names::BARRIER_ENV)
            }
            Self::Named { name } => {
                write!(f, "name {name}: made from generateName, the barrier is named after the pod")
            }
        }
    }
}

impl fmt::Display for RevisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => write!(f, "the one that injectionStrategy.revision names"),
            Self::UpdatePaused => write!(f, "named by injectionStrategy; the rollout is paused"),
            Self::OutsideUpdateSelector => {
                write!(f, "named by injectionStrategy; updateStrategy.selector leaves the pod out")
            }
            Self::NoPercentage => {
                write!(f, "the current one; policy Partial without a percentage as partition")
            }
            Self::DrawnRevision => {
                write!(f, "named by injectionStrategy; drawn by the partition, another pod may get the current one")
            }
            Self::DrawnCurrent => {
                write!(f, "the current one; drawn by the partition, another pod may get the one of injectionStrategy")
            }
            Self::RecordedRevision => {
                write!(f, "named by injectionStrategy; the pod was injected with it before")
            }
            Self::RecordedCurrent => {
                write!(f, "the current one; the pod was injected with it before")
            }
        }
    }
}

/// Who keeps the facts.
pub trait Recorder {
    /// Records a fact that is told only on request; `fact` is not even made when nobody listens.
    fn record(&mut self, fact: impl FnOnce() -> Fact);
    /// Records a fact that a user should hear of.
    fn warn(&mut self, fact: Fact);
    /// Records a fact that a user should hear of only when it is told `aloud`.
    fn tell(&mut self, aloud: bool, fact: impl FnOnce() -> Fact) {
        if aloud {
            self.warn(fact());
        } else {
            self.record(fact);
        }
    }
}

/// Keeps warnings only: what admission does.
#[derive(Debug, Default)]
pub struct Warnings(pub Vec<Fact>);

/// Keeps everything: what `explain` does.
#[derive(Debug, Default)]
pub struct Everything(pub Vec<Fact>);

impl Recorder for Warnings {
    fn record(&mut self, _: impl FnOnce() -> Fact) {}
    fn warn(&mut self, fact: Fact) {
        self.0.push(fact);
    }
}

impl Recorder for Everything {
    fn record(&mut self, fact: impl FnOnce() -> Fact) {
        self.0.push(fact());
    }
    fn warn(&mut self, fact: Fact) {
        self.0.push(fact);
    }
}
