//! Why a pod is where it is (design decision 3): the same values make conditions, events, metrics and `rollout status`.

use std::fmt;

use jiff::Timestamp;

/// What becomes of one matching pod, or keeps it from becoming something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs the current sidecars and is ready (CTL-27).
    UpToDate,
    /// It is written in this round.
    Updating,
    /// It was written, and its node has not yet acted on it (CTL-22).
    InFlight {
        /// When it was written.
        since: Option<Timestamp>,
    },
    /// It runs the current sidecars, or tries to, and is not ready.
    NotReady {
        /// The container that is not; empty when it is the pod itself.
        container: String,
        /// The word of the kubelet, or what else is known.
        why: String,
    },
    /// It is in the middle of a hot upgrade.
    HotUpgrade {
        /// How far.
        stage: Stage,
    },
    /// It is among those that keep the old version (STR-7).
    HeldByPartition {
        /// How many are kept.
        keep: usize,
    },
    /// As many pods are unavailable as may be (STR-8 … STR-10).
    BudgetExhausted {
        /// Pods that are unavailable.
        used: usize,
        /// Pods that may be.
        of: usize,
    },
    /// `updateStrategy.selector` leaves it out (STR-12).
    NotSelected,
    /// The rollout is paused (STR-13).
    Paused,
    /// The set only injects new pods (STR-13).
    NotUpdate,
    /// More than images changed, so it must be recreated to get the current sidecars (NUP-1).
    FieldChanged {
        /// What changed, such as `spec.containers[agent].env`; empty when the former spec is not known.
        paths: Vec<String>,
    },
    /// A container still runs what an earlier update replaced (STR-2).
    NotSettled {
        /// The container.
        container: String,
    },
    /// Its last write was refused, and is repeated later (W-7).
    Held,
    /// The set cannot be rolled out as it is (W-15).
    Invalid {
        /// What is wrong, where, and what to do.
        why: String,
    },
}

/// How far a hot upgrade is (HOT §9.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The new container starts, or migrates.
    Upgrading,
    /// The new container works; the old one is not yet emptied.
    Migrated,
    /// The old container is being emptied.
    Resetting,
}

// === impl Verdict ===

impl Verdict {
    /// All that [`Verdict::reason`] returns.
    pub const REASONS: [&'static str; 14] = [
        "UpToDate",
        "Updating",
        "InFlight",
        "NotReady",
        "HotUpgrade",
        "HeldByPartition",
        "BudgetExhausted",
        "NotSelected",
        "Paused",
        "NotUpdate",
        "FieldChanged",
        "NotSettled",
        "Held",
        "Invalid",
    ];

    /// One word for programs; of a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::Updating => "Updating",
            Self::InFlight { .. } => "InFlight",
            Self::NotReady { .. } => "NotReady",
            Self::HotUpgrade { .. } => "HotUpgrade",
            Self::HeldByPartition { .. } => "HeldByPartition",
            Self::BudgetExhausted { .. } => "BudgetExhausted",
            Self::NotSelected => "NotSelected",
            Self::Paused => "Paused",
            Self::NotUpdate => "NotUpdate",
            Self::FieldChanged { .. } => "FieldChanged",
            Self::NotSettled { .. } => "NotSettled",
            Self::Held => "Held",
            Self::Invalid { .. } => "Invalid",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpToDate => write!(f, "is up to date"),
            Self::Updating => write!(f, "is being updated"),
            Self::InFlight { since: Some(since) } => {
                write!(f, "was updated at {}; its node has not restarted the sidecars yet", super::time_text(*since))
            }
            Self::InFlight { since: None } => write!(f, "was updated; its node has not restarted the sidecars yet"),
            Self::NotReady { container, why } if container.is_empty() => write!(f, "is not ready: {why}"),
            Self::NotReady { container, why } => write!(f, "is not ready: container {container}: {why}"),
            Self::HotUpgrade { stage } => write!(f, "is in a hot upgrade: {stage}"),
            Self::HeldByPartition { keep } => write!(f, "keeps the old version: partition keeps {keep}"),
            Self::BudgetExhausted { used, of } => {
                write!(f, "waits for maxUnavailable: {used} unavailable, {of} may be")
            }
            Self::NotSelected => write!(f, "is left out by updateStrategy.selector"),
            Self::Paused => write!(f, "waits: the rollout is paused"),
            Self::NotUpdate => write!(f, "keeps its sidecars: updateStrategy.type is NotUpdate"),
            Self::FieldChanged { paths } if paths.is_empty() => {
                write!(f, "must be recreated: more than images changed since its sidecars were injected")
            }
            Self::FieldChanged { paths } => write!(f, "must be recreated: {} changed", paths.join(", ")),
            Self::NotSettled { container } => {
                write!(f, "waits: container {container} still runs what an earlier update replaced")
            }
            Self::Held => write!(f, "waits: its last update was refused and is tried again later"),
            Self::Invalid { why } => write!(f, "cannot be updated: {why}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgrading => "the new container is starting",
            Self::Migrated => "the new container works, the old one waits to be emptied",
            Self::Resetting => "the old container is being emptied",
        })
    }
}
