//! Which SidecarSets apply to a pod, at which revision, and why not the others (MATCH, CAN, REV).
//!
//! [`judge`] gives one set's verdict; [`select`] judges candidates, lets canaries take over and puts the rest in order.
//! Admission asks with the candidates that an index found, `explain` with all sets.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::compiled::{Compiled, Content, Pinned, RevisionError};
use crate::api::IntOrString;
use crate::facts::{Fact, Recorder, RevisionChoice};
use crate::pod::{Metadata, Pairs};
use crate::selector::{Operator, Requirement, Selector, SelectorError};

/// The namespace of a pod, with its labels when it is known.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels; `None` for a namespace that nobody has seen (MATCH-5).
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// What became of one SidecarSet for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It applies.
    Selected,
    /// The pod is being deleted, and nothing applies to it (MATCH-2).
    PodGoingAway,
    /// Injection is paused (MATCH-4).
    Paused,
    /// The namespace does not meet this term of `namespaceSelector`.
    NamespaceNotSelected(&'a Requirement),
    /// The set has a `namespaceSelector`, and the labels of the namespace are not known.
    NamespaceUnknown,
    /// The pod's labels do not meet this term of `selector`.
    NotSelected(&'a Requirement),
    /// The selector is absent or empty and so selects no pod (MATCH-6).
    SelectsNothing,
    /// This canary of the set applies instead (CAN-2).
    CanaryTookOver(&'a str),
}

/// A SidecarSet that applies, with what it is to inject.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The set.
    pub set: &'a Compiled,
    /// Its current spec, or the revision that is pinned.
    pub content: &'a Content,
}

/// What decides between two revisions where a rollout leaves it to chance (REV-8).
#[derive(Clone, Debug, Default)]
pub struct Draw {
    /// Drawn evenly from 0 up to, not including, 1, for each set on its own.
    pub chance: f64,
    /// The revision that the pod carries already: it is not drawn for twice.
    pub recorded: Option<String>,
}

/// The revision for a pod cannot be decided; the pod is refused (REV-2, REV-7, REV-8).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// There is no such revision.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    /// The spec cannot be injected (RES-4).
    #[error("SidecarSet {set} cannot be used: {reason}")]
    Unusable {
        /// Name of the set.
        set: String,
        /// What is wrong with its spec.
        reason: String,
    },
    /// A selector of the rollout that cannot be read.
    #[error("SidecarSet {set}: updateStrategy.selector: {reason}, so no revision can be chosen")]
    UpdateSelector {
        /// Name of the set.
        set: String,
        /// What is wrong with it.
        reason: SelectorError,
    },
    /// A partition that is text, but no percentage.
    #[error(
        "SidecarSet {set}: updateStrategy.partition {partition:?} is not a percentage, so no revision can be chosen"
    )]
    Partition {
        /// Name of the set.
        set: String,
        /// What stands there.
        partition: String,
    },
}

/// Judges one set, canaries left aside (MATCH-4 … MATCH-6).
pub fn judge<'a>(set: &'a Compiled, labels: &Pairs<'_>, namespace: Namespace<'_>) -> Verdict<'a> {
    if set.paused {
        return Verdict::Paused;
    }
    if let Some(selector) = &set.namespace_selector {
        let Some(labels) = namespace.labels else { return Verdict::NamespaceUnknown };
        if let Some(term) = selector.mismatch(labels) {
            return Verdict::NamespaceNotSelected(term);
        }
    }
    match &set.selector {
        Some(selector) if !selector.is_empty() => match selector.mismatch(labels) {
            Some(term) => Verdict::NotSelected(term),
            None => Verdict::Selected,
        },
        _ => Verdict::SelectsNothing,
    }
}

impl Compiled {
    /// Whether nothing but the unknown labels of the namespace keeps it from a pod with these labels.
    pub fn would_select(&self, labels: &Pairs<'_>, namespace: Namespace<'_>) -> bool {
        matches!(judge(self, labels, namespace), Verdict::NamespaceUnknown)
            && self.selector.as_ref().is_some_and(|own| !own.is_empty() && own.mismatch(labels).is_none())
    }
}

/// Judges all candidates for a pod. In the result those that apply stand in the order in which they are injected: sets that name
/// the pod's namespace first, then those of the whole cluster, each group by name (MATCH-8).
pub fn select<'a>(
    candidates: impl Iterator<Item = &'a Compiled>,
    pod: &Metadata<'_>,
    namespace: Namespace<'_>,
) -> Vec<(&'a Compiled, Verdict<'a>)> {
    let labels = &pod.labels;
    // MATCH-2. Differs: `status` is ignored, since the API server resets it after admission.
    let is_going_away = pod.is_going_away;
    let verdict = |set| if is_going_away { Verdict::PodGoingAway } else { judge(set, labels, namespace) };
    let mut judged: Vec<_> = candidates.map(|set| (set, verdict(set))).collect();
    let takeovers: Vec<(&str, &str)> = judged
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Selected)
        .filter_map(|(canary, _)| Some((canary.canary_of.as_deref()?, canary.name.as_str())))
        .collect();
    for (base, canary) in takeovers {
        let base = judged.iter_mut().find(|(set, verdict)| set.name == base && *verdict == Verdict::Selected);
        if let Some((_, verdict)) = base {
            *verdict = Verdict::CanaryTookOver(canary);
        }
    }
    // Differs: MATCH-8. The reference leaves the order inside a group to chance.
    judged.sort_by_key(|(set, _)| (set.named_namespaces.is_none(), set.name.as_str()));
    judged
}

/// What a set that applies injects: its current spec, or the revision it pins (REV-1, REV-5 … REV-8). `draw` is asked
/// only for a set that leaves its revision to chance.
pub fn choose<'a>(
    set: &'a Compiled,
    labels: &Pairs<'_>,
    draw: impl FnOnce() -> Draw,
    facts: &mut impl Recorder,
) -> Result<Chosen<'a>, SelectError> {
    let current = || match &set.unusable {
        None => Ok(&set.current),
        Some(fault) => Err(SelectError::Unusable { set: set.name.clone(), reason: fault.to_string() }),
    };
    let Some(pinned) = &set.pinned else { return Ok(Chosen { set, content: current()? }) };
    // A revision that cannot be had refuses the pod even where the current spec would be injected (REV-2 before REV-5).
    let specified = pinned.content.as_ref().map_err(Clone::clone)?;
    let why = choose_revision(set, pinned, specified, labels, draw)?;
    let content = match why {
        RevisionChoice::NoPercentage | RevisionChoice::DrawnCurrent | RevisionChoice::RecordedCurrent => current()?,
        _ => specified,
    };
    facts.record(|| Fact::Revision { set: set.name.clone(), revision: content.revision.clone(), why });
    Ok(Chosen { set, content })
}

fn choose_revision(
    set: &Compiled,
    pinned: &Pinned,
    specified: &Content,
    labels: &Pairs<'_>,
    draw: impl FnOnce() -> Draw,
) -> Result<RevisionChoice, SelectError> {
    if pinned.update_paused {
        return Ok(RevisionChoice::UpdatePaused);
    }
    if !pinned.partial {
        return Ok(RevisionChoice::Always);
    }
    let unreadable =
        |reason: &SelectorError| SelectError::UpdateSelector { set: set.name.clone(), reason: reason.clone() };
    let selector = pinned.update_selector.as_ref().map_err(unreadable)?;
    if selector.as_ref().is_some_and(|selector| selector.mismatch(labels).is_some()) {
        return Ok(RevisionChoice::OutsideUpdateSelector);
    }
    let Some(IntOrString::String(text)) = &pinned.partition else { return Ok(RevisionChoice::NoPercentage) };
    let percentage = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let unreadable = || SelectError::Partition { set: set.name.clone(), partition: text.clone() };
    let percentage = percentage.ok_or_else(unreadable)?;
    let Draw { chance, recorded } = draw();
    let carries = |content: &Content| recorded.as_ref().is_some_and(|revision| *revision == content.revision);
    // Differs: REV-8. The reference draws again when a pod is admitted a second time.
    Ok(if carries(specified) {
        RevisionChoice::RecordedRevision
    } else if carries(&set.current) {
        RevisionChoice::RecordedCurrent
    } else if chance <= percentage / 100.0 {
        RevisionChoice::DrawnRevision
    } else {
        RevisionChoice::DrawnCurrent
    })
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selected => write!(f, "applies"),
            Self::PodGoingAway => write!(f, "does not apply: the pod is being deleted"),
            Self::Paused => write!(f, "does not apply: spec.injectionStrategy.paused is true"),
            Self::NamespaceNotSelected(term) => {
                write!(f, "does not apply: the namespace's labels do not meet spec.namespaceSelector ({term})")
            }
            Self::NamespaceUnknown => {
                write!(f, "does not apply: spec.namespaceSelector is set and the labels of the namespace are not known")
            }
            Self::NotSelected(term) => {
                write!(f, "does not apply: the pod's labels do not meet spec.selector ({term})")
            }
            Self::SelectsNothing => write!(f, "does not apply: spec.selector is empty and selects no pod"),
            Self::CanaryTookOver(canary) => write!(f, "does not apply: its canary {canary} applies instead"),
        }
    }
}

/// Finds the sets that a pod's labels may select without asking each of them.
///
/// A set with a term `key=value` or `key in (…)` is found under those pairs; the others are always candidates.
#[derive(Debug, Default)]
pub struct Index {
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    others: Vec<usize>,
}

impl Index {
    /// Indexes `sets` by their places.
    pub fn new<'a>(sets: impl IntoIterator<Item = &'a Compiled>) -> Self {
        let mut index = Self::default();
        for (place, set) in sets.into_iter().enumerate() {
            let requirements = set.selector.as_ref().map_or(&[][..], Selector::requirements);
            let named = requirements.iter().find_map(|requirement| match &requirement.operator {
                Operator::In(values) => Some((&requirement.key, values)),
                _ => None,
            });
            let Some((key, values)) = named else {
                index.others.push(place);
                continue;
            };
            let by_value = index.by_label.entry(key.clone()).or_default();
            for value in values {
                let places = by_value.entry(value.clone()).or_default();
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        index
    }

    /// Places of the sets that may select an object with these labels. No place comes twice. The work is bounded by the
    /// keys of the sets times the labels of the pod, however many labels a pod may carry.
    pub fn candidates<'i, 'l>(&'i self, labels: &'l Pairs<'l>) -> impl Iterator<Item = usize> + use<'i, 'l> {
        let found = self.by_label.iter().filter_map(|(key, by_value)| by_value.get(labels.get(key)?));
        self.others.iter().chain(found.flatten()).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use rstest::rstest;

    use super::*;
    use crate::api::json::Unknown;
    use crate::api::sidecarset::{SidecarSet, SidecarSetSpec};
    use crate::facts::Everything;
    use crate::pod::Pod;
    use crate::sidecarset::compiled::Restored;
    use crate::sidecarset::revision::Hashes;

    /// The set `mesh`, with `mesh-2` as its current and `mesh-1` as its pinned revision.
    fn pinned(policy: &str, update: &Value) -> Compiled {
        let set: SidecarSet = serde_json::from_value(json!({
            "metadata": {"name": "mesh"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "updateStrategy": update,
                "injectionStrategy": {"revision": {"revisionName": "mesh-1", "policy": policy}},
            },
            "status": {"latestRevision": "mesh-2"},
        }))
        .unwrap();
        let (spec, unknown, hashes) = (SidecarSetSpec::default(), Unknown::default(), Hashes::default());
        let restore = |_: &_| Ok(Restored { name: "mesh-1".into(), spec: &spec, unknown: &unknown, hashes: &hashes });
        Compiled::new(&set, &unknown, restore).unwrap()
    }

    fn labels() -> Pairs<'static> {
        Pairs::parse(r#"{"app":"web"}"#).unwrap()
    }

    fn revision(set: &Compiled, draw: Draw) -> Result<String, SelectError> {
        choose(set, &labels(), || draw, &mut Everything::default()).map(|chosen| chosen.content.revision.clone())
    }

    #[rstest]
    #[case::is_alive("{}", false)]
    #[case::is_being_deleted(r#"{"metadata":{"deletionTimestamp":"2026-03-04T05:06:07Z"}}"#, true)]
    fn nothing_applies_to_a_pod_that_is_going_away_match_2(#[case] pod: &str, #[case] going_away: bool) {
        let set = pinned("Always", &json!({}));
        let pod = Pod::parse(pod).unwrap();
        let judged = select([&set].into_iter(), &pod.metadata, Namespace { name: "default", labels: None });
        assert_eq!(judged[0].1 == Verdict::PodGoingAway, going_away, "{:?}", judged[0].1);
    }

    #[test]
    fn an_unreadable_update_selector_refuses_only_the_pods_that_ask_it_rev_7() {
        let update = json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}});
        assert_eq!(revision(&pinned("Always", &update), Draw::default()).unwrap(), "mesh-1");
        let error = revision(&pinned("Partial", &update), Draw::default()).unwrap_err().to_string();
        assert!(error.starts_with("SidecarSet mesh: updateStrategy.selector: `Like` is not"), "{error}");
    }

    #[rstest]
    #[case::drawn_below_the_percentage(0.29, None, "mesh-1")]
    #[case::drawn_above_it(0.31, None, "mesh-2")]
    #[case::carries_the_pinned_one(0.99, Some("mesh-1"), "mesh-1")]
    #[case::carries_the_current_one(0.0, Some("mesh-2"), "mesh-2")]
    #[case::carries_one_that_is_no_candidate(0.29, Some("mesh-0"), "mesh-1")]
    fn a_pod_keeps_the_revision_that_was_drawn_for_it_rev_8(
        #[case] chance: f64,
        #[case] recorded: Option<&str>,
        #[case] expected: &str,
    ) {
        let set = pinned("Partial", &json!({"partition": "30%"}));
        assert_eq!(revision(&set, Draw { chance, recorded: recorded.map(str::to_owned) }).unwrap(), expected);
    }

    #[test]
    fn a_record_counts_only_where_a_revision_is_drawn_rev_8() {
        let draw = || Draw { chance: 0.0, recorded: Some("mesh-2".to_owned()) };
        assert_eq!(revision(&pinned("Always", &json!({"partition": "30%"})), draw()).unwrap(), "mesh-1");
        assert_eq!(revision(&pinned("Partial", &json!({"partition": 3})), draw()).unwrap(), "mesh-2");
        let error = revision(&pinned("Partial", &json!({"partition": "half"})), draw()).unwrap_err();
        assert!(matches!(error, SelectError::Partition { .. }), "{error}");
    }
}
