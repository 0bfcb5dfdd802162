//! How a change of a SidecarSet reaches running pods: which pods, in which order, how many at once, and what is written
//! (CTL, STR, UPD, NUP, HOT).
//!
//! [`plan`] is a function of the objects and the time. It is asked again whenever one of them changed, remembers nothing,
//! and so goes on after any restart from what the objects say. Its writes are patches of few fields, each for the copy
//! of the pod that was decided upon.

mod budget;
mod changes;
mod hot;
mod image;
mod order;
pub mod pod;
pub mod revisions;
mod round;
mod sidecars;
mod state;
mod status;
mod update;
mod upgradable;
mod verdict;

use core::time::Duration;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

pub use self::pod::Pod;
use self::round::{Round, Writes};
use self::sidecars::Sidecars;
use self::state::{Records, View};
pub use self::status::CONDITIONS;
use self::status::Report;
pub use self::verdict::{Stage, Verdict};
use crate::api::sidecarset::{SidecarSet, SidecarSetSpec, SidecarSetStatus};
use crate::gates::Gates;

/// What is known of one SidecarSet and its pods.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The set, as stored: defaulted, its hashes in its annotations, its last status in `status`.
    pub set: &'a SidecarSet,
    /// `metadata.resourceVersion` of the set (HOT-5).
    pub resource_version: &'a str,
    /// `metadata.generation` of the set.
    pub generation: i64,
    /// Name of the current ControllerRevision (REV-11).
    pub revision: &'a str,
    /// Collisions met while naming revisions.
    pub collision_count: i32,
    /// The pods whose labels and namespaces match (CTL-10), sorted by namespace and name.
    pub pods: &'a [Arc<Pod>],
    /// Whether a pod is left alone for now because its last write was refused (W-7).
    pub held: &'a dyn Fn(&Pod) -> bool,
    /// The time.
    pub now: Timestamp,
    /// What is switched on.
    pub gates: Gates,
    /// How many writes are wanted: as many as can be sent until the next plan. What is decided does not depend on it.
    pub at_most: usize,
    /// Former specs of the set by their `hash-without-image`, as far as they are known; they name the fields that
    /// changed (NUP-1).
    pub revisions: &'a [(String, SidecarSetSpec)],
}

/// What is to be done for one SidecarSet.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The status of the set (CTL-30). Its `conditions` are those of the rollout alone (`Progressing`, `Available`,
    /// `Degraded`); conditions of others are not repeated, so it is applied under a field owner of its own.
    pub status: SidecarSetStatus,
    /// Writes to pods, in the order in which they are best sent; none depends on another. At most one a pod: whatever
    /// else it needs follows from the API server's answer.
    pub writes: Vec<Write>,
    /// Whether there are more writes than [`Input::at_most`].
    pub is_cut: bool,
    /// Why each matching pod (CTL-14) is where it is: its index in [`Input::pods`], ascending.
    pub verdicts: Vec<(usize, Verdict)>,
    /// Events to emit once the status is written; they are due to its change, so the next plan does not repeat them.
    pub events: Vec<Event>,
    /// When to ask again even if no object changes.
    pub wake: Option<Duration>,
}

/// One PATCH of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Index of the pod in [`Input::pods`].
    pub pod: usize,
    /// What it does.
    pub step: Step,
    /// Where it goes.
    pub subresource: Subresource,
    /// A strategic merge patch (`application/strategic-merge-patch+json`) with `metadata.resourceVersion` and
    /// `metadata.uid` of the copy decided upon.
    pub patch: Value,
    /// Events about the pod that are due when the write succeeded.
    pub events: Vec<Event>,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Images, or only the record, are brought up to date (UPD).
    Update,
    /// The same, and a hot upgrade begins or gets another image (HOT-5).
    HotStart,
    /// The same, and a hot upgrade that failed is taken back (W-4).
    HotBack,
    /// The old container of a hot upgrade is emptied (HOT-10).
    Reset,
    /// An idle container gets the empty image that is configured now (W-11).
    Refresh,
    /// The condition `SidecarSetUpgradable` is brought up to date (NUP-4).
    Condition,
}

/// Which part of a pod is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// The pod itself.
    None,
    /// `/status`.
    Status,
}

/// An event to emit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub about: About,
    /// Whether it is a `Warning`.
    pub is_warning: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The SidecarSet.
    Set,
    /// The pod of this index in [`Input::pods`].
    Pod(usize),
}

/// Decides what is to be done (CTL-6).
pub fn plan(input: &Input<'_>) -> Plan {
    let sidecars = Sidecars::new(input);
    let matching = input.pods.iter().enumerate().filter(|(_, pod)| sidecars.match_pod(pod));
    let mut records = Records::default();
    let views: Vec<View<'_>> =
        matching.map(|(index, pod)| View::new(index, pod, &sidecars, &mut records, input.now)).collect();
    let round = Round::decide(input, &sidecars, &views);
    let Report { status, mut events, wake } = status::report(input, &views, &round);
    events.extend(round.events);
    let verdicts = views.iter().map(|view| view.index).zip(round.judged.into_iter().map(|judged| judged.verdict));
    let Writes { worded, is_cut, .. } = round.writes;
    Plan { status, writes: worded, is_cut, verdicts: verdicts.collect(), events, wake }
}

impl Plan {
    /// Whether the status must be written (CTL-31): it differs from the `stored` one in what the rollout owns.
    pub fn changes(&self, stored: &SidecarSetStatus) -> bool {
        let own = |status: &SidecarSetStatus| {
            let mut conditions: Vec<_> = status
                .conditions
                .iter()
                .filter(|condition| CONDITIONS.contains(&&*condition.r#type))
                .cloned()
                .collect();
            conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
            SidecarSetStatus { observed_generation: 0, conditions, ..status.clone() }
        };
        self.status.observed_generation > stored.observed_generation || own(&self.status) != own(stored)
    }
}

/// A time as annotations and conditions have it: RFC 3339, UTC, seconds.
fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

// === impl Step ===

impl Step {
    /// All that [`Step::name`] returns.
    pub const NAMES: [&'static str; 6] = ["update", "hot_start", "hot_back", "reset", "refresh", "condition"];

    /// One word for metrics; of a closed set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::HotStart => "hot_start",
            Self::HotBack => "hot_back",
            Self::Reset => "reset",
            Self::Refresh => "refresh",
            Self::Condition => "condition",
        }
    }
}

// === impl Write ===

impl Write {
    /// The event about the pod that is due when the write was refused.
    pub fn failed(&self, error: &dyn std::fmt::Display) -> Event {
        let (reason, message) = match self.step {
            Step::Reset => ("ResetContainerFailed", format!("reset sidecar container image empty failed: {error}")),
            Step::Condition => {
                ("SidecarConditionFailed", format!("condition SidecarSetUpgradable not written: {error}"))
            }
            _ => ("SidecarUpdateFailed", format!("in-place update of sidecars refused, tried again later: {error}")),
        };
        Event { about: About::Pod(self.pod), is_warning: true, reason, message }
    }
}

#[cfg(test)]
mod tests;
