//! Container launch priority: which containers wait, and for which key (PRI).
//!
//! A container that waits gets an env from a key of the ConfigMap `<pod>-barrier`; the kubelet cannot start it before a
//! controller writes that key: when that is, [`barrier`] tells. Runs after injection, so sidecars take part.

pub mod barrier;

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::json;

use crate::api::names;
use crate::edits::{Edits, EnvEdit, EnvPlace, Final, same_json};
use crate::facts::{Fact, Recorder};
use crate::pod::{Container, Metadata, Pairs, Pod, PodError};

/// Bytes of a `generateName` that are kept (PRI-8).
const GENERATED_PREFIX: usize = 58;
const GENERATED_SUFFIX: usize = 5;
/// Bytes of a pod's name that leave room for the end of its barrier's within the 253 of a name (LP-23).
const NAME_LIMIT: usize = 253 - names::BARRIER_SUFFIX.len();

/// The containers cannot be ordered; the pod is refused.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A priority that is no number (PRI-4).
    #[error(
        "container {container}: env {} is {shape}, but a priority is a whole number such as 10 or -1",
        names::PRIORITY_ENV
    )]
    Priority {
        /// Name of the container.
        container: String,
        /// What stands there, without a character of it: it may be a secret that went astray.
        shape: Shape,
    },
    /// A name that leaves no room for that of its barrier (LP-23).
    #[error(
        "metadata.name has {length} characters; a pod whose containers start in order may have {NAME_LIMIT}, since its ConfigMap \
         is called like it with {} at the end",
        names::BARRIER_SUFFIX
    )]
    TooLong {
        /// How long it is.
        length: usize,
    },
    /// The pod cannot be read.
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// What a value that is no priority looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing at all, or taken from elsewhere by `valueFrom`.
    Empty,
    /// Digits that do not fit into 64 bits.
    TooLarge,
    /// A whole number with white space around it.
    Spaced,
    /// Anything else, by its number of characters.
    Text(usize),
}

/// Whether the pod itself may ask for an order of its containers. A sidecar may too: see
/// [`crate::edits::Injected::priority`].
pub fn may_concern(pod: &Pod<'_>) -> bool {
    // To make one of these costs as much as to search with it.
    static ANNOTATION: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(names::LAUNCH_PRIORITY));
    static ENV: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(names::PRIORITY_ENV));
    pod.metadata.may_annotate(&ANNOTATION) || pod.may_mention(&ENV)
}

/// Adds barriers to the containers of the pod and to those that are injected. `random` makes the pod's name when it has
/// only a `generateName`.
pub fn order(
    metadata: &Metadata<'_>,
    annotations: &Pairs<'_>,
    own: &[Container<'_>],
    edits: &mut Edits<'_>,
    random: u64,
    facts: &mut impl Recorder,
) -> Result<(), LaunchError> {
    // PRI-2.
    if edits.containers.len(own.len()) <= 1 {
        return Ok(());
    }
    let patched = edits.annotations.get(names::LAUNCH_PRIORITY).map(|value| &**value);
    let ordered = patched.or_else(|| annotations.get(names::LAUNCH_PRIORITY)) == Some(names::LAUNCH_PRIORITY_ORDERED);
    let mut containers = edits.containers.in_final_order(own.len());
    let priorities = if ordered { (0..containers.len()).map(by_position).collect() } else { by_env(&containers, own)? };
    // PRI-5.
    if priorities.iter().all(|priority| *priority == priorities[0]) {
        return Ok(());
    }

    let (name, generated) = pod_name(metadata, random);
    // LP-23: it would be let in and never start.
    if name.len() > NAME_LIMIT {
        return Err(LaunchError::TooLong { length: name.len() });
    }
    let barrier = barrier::name(&name);
    let mut barriers = Vec::new();
    for (container, priority) in containers.iter_mut().zip(priorities) {
        let env = json!({
            "name": names::BARRIER_ENV,
            "valueFrom": {"configMapKeyRef": {"name": barrier, "key": format!("p_{priority}")}},
        });
        let env = env.to_string();
        let container_name = match container {
            Final::Injected(injected) => {
                injected.barrier = Some(env);
                injected.template.name.clone()
            }
            Final::Own(index) => {
                let container = &own[*index];
                if let Some(place) = barrier_place(container, &env)? {
                    barriers.push((*index, EnvEdit { place, json: env }));
                }
                container.name.clone().into_owned()
            }
        };
        facts.record(|| Fact::Barrier { container: container_name, priority });
    }
    edits.containers.barriers = barriers;
    if generated {
        let name = name.into_owned();
        facts.record(|| Fact::Named { name: name.clone() });
        edits.name = Some(name);
    }
    Ok(())
}

// === impl Shape ===

impl Shape {
    fn of(value: &str) -> Self {
        let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
        if value.is_empty() {
            Self::Empty
        } else if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            Self::TooLarge
        } else if value.trim().parse::<i64>().is_ok() {
            Self::Spaced
        } else {
            Self::Text(value.chars().count())
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty or not a plain value"),
            Self::TooLarge => f.write_str("a number beyond 64 bits"),
            Self::Spaced => f.write_str("a number with white space around it"),
            Self::Text(1) => f.write_str("1 character that is no digit"),
            Self::Text(length) => write!(f, "{length} characters that are not all digits"),
        }
    }
}

/// PRI-3.
fn by_position(index: usize) -> i64 {
    -i64::try_from(index).unwrap_or(i64::MAX)
}

/// PRI-4.
fn by_env(containers: &[Final<'_, '_>], own: &[Container<'_>]) -> Result<Vec<i64>, LaunchError> {
    let mut priorities = Vec::with_capacity(containers.len());
    for container in containers {
        let (name, value) = match container {
            Final::Injected(injected) => (injected.template.name.as_str(), injected.priority.clone()),
            Final::Own(index) => {
                let container = &own[*index];
                let last = container.last_env(names::PRIORITY_ENV)?;
                // An env with valueFrom has no literal value, and so no priority.
                (&*container.name, last.map(|env| env.value.clone().unwrap_or_default()))
            }
        };
        priorities.push(match value {
            None => 0,
            Some(value) => value
                .parse()
                .map_err(|_| LaunchError::Priority { container: name.to_owned(), shape: Shape::of(&value) })?,
        });
    }
    Ok(priorities)
}

/// Where a barrier goes in a container of the pod. Differs: PRI-9. The reference appends a second one to a container that
/// has a barrier already; here it is replaced, or left alone when it is the same.
fn barrier_place(container: &Container<'_>, barrier: &str) -> Result<Option<EnvPlace>, PodError> {
    if !container.has_env() {
        return Ok(Some(EnvPlace::NewList));
    }
    let Some(existing) = container.first_env(names::BARRIER_ENV)? else { return Ok(Some(EnvPlace::Append)) };
    Ok((!same_json(existing.raw, barrier)).then_some(EnvPlace::Replace(existing.index)))
}

/// The name of the pod, and whether it was made here (PRI-8).
fn pod_name<'m>(metadata: &'m Metadata<'_>, mut random: u64) -> (Cow<'m, str>, bool) {
    let (name, prefix) = (&*metadata.name, &*metadata.generate_name);
    if !name.is_empty() || prefix.is_empty() {
        return (Cow::Borrowed(name), false);
    }
    let cut = (0..=GENERATED_PREFIX.min(prefix.len())).rev().find(|at| prefix.is_char_boundary(*at)).unwrap_or(0);
    let mut generated = prefix[..cut].to_owned();
    for _ in 0..GENERATED_SUFFIX {
        let letters = names::ALPHABET.len() as u64;
        let letter = usize::try_from(random % letters).unwrap_or(0);
        generated.push(char::from(names::ALPHABET[letter]));
        random /= letters;
    }
    (Cow::Owned(generated), true)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::facts::Everything;

    #[rstest]
    #[case::nothing("", "empty")]
    #[case::too_large("99999999999999999999", "beyond 64 bits")]
    #[case::spaced(" 4711", "white space")]
    #[case::a_text("hunter2-s3cret", "14 characters")]
    #[case::one_letter("x", "1 character ")]
    fn a_value_that_is_no_priority_is_told_by_its_shape_only_pri_4(#[case] value: &str, #[case] words: &str) {
        let error = LaunchError::Priority { container: "app".to_owned(), shape: Shape::of(value) }.to_string();
        assert!(error.contains(words), "{error}");
        assert!(value.len() < 2 || !error.contains(value), "{error}");
    }

    #[rstest]
    #[case::fits(245, false)]
    #[case::too_long(246, true)]
    fn a_pod_whose_barrier_could_have_no_name_is_refused_lp_23(#[case] length: usize, #[case] is_refused: bool) {
        let document = serde_json::json!({
            "metadata": {"name": "n".repeat(length), "annotations": {names::LAUNCH_PRIORITY: names::LAUNCH_PRIORITY_ORDERED}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        });
        let document = document.to_string();
        let pod = Pod::parse(&document).unwrap();
        let annotations = pod.metadata.annotations().unwrap();
        let own = pod.spec().unwrap().containers.as_deref().unwrap_or_default();
        let ordered = order(&pod.metadata, &annotations, own, &mut Edits::default(), 0, &mut Everything::default());
        assert_eq!(matches!(ordered, Err(LaunchError::TooLong { length: 246 })), is_refused);
    }
}
