//! The way of a pod, in order: gate → select → inject → launch → record → patch (POD-2).
//!
//! Pure: everything it needs is in its arguments. A pod that nothing concerns is answered after a look at its metadata.

use jiff::Timestamp;

use crate::admission::patch;
use crate::edits::Edits;
use crate::facts::Recorder;
use crate::launch::{self, LaunchError};
use crate::pod::{Pairs, Pod, PodError};
use crate::readiness;
use crate::sidecarset::inject::{self, InjectError, Target};
use crate::sidecarset::select::{self, Chosen, Draw, SelectError, Verdict};
use crate::sidecarset::{metadata, records};
use crate::store::Snapshot;

/// What a decision depends on beside the pod and the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Ambient {
    /// The time.
    pub now: Timestamp,
    /// Random bits, for a generated name (PRI-8) and a partial revision (REV-8). Zero stands for no draw at all: every
    /// set then gets the middle, as if 0.5 had been drawn.
    pub random: u64,
}

/// Why a pod is refused. Each is a Reject 500 (POD-3).
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Choosing the revision of a set.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Injecting a set.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// Ordering the containers.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Reading the pod. Reject 400 (RSP-1).
    #[error(transparent)]
    Pod(#[from] PodError),
}

impl Refusal {
    /// The status code of the answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Pod(_) | Self::Inject(InjectError::Pod(_)) | Self::Launch(LaunchError::Pod(_)) => 400,
            Self::Select(_) | Self::Inject(_) | Self::Launch(_) => 500,
        }
    }
}

/// Decides what happens to a pod that is being created in `namespace`. The result is the text of a JSON patch, or `None`
/// when the pod stays as it is.
pub fn mutate<'a>(
    pod: &Pod<'a>,
    namespace: &str,
    snapshot: &'a Snapshot,
    ambient: &Ambient,
    facts: &mut impl Recorder,
) -> Result<Option<String>, Refusal> {
    let labels = &pod.metadata.labels;

    let gate = readiness::owner(&pod.metadata);
    let chosen = choose(pod, labels, namespace, snapshot, ambient, facts)?;
    if gate.is_none() && chosen.is_empty() && !launch::may_concern(pod) {
        return Ok(None);
    }

    let spec = pod.spec()?;
    let annotations = pod.metadata.annotations()?;
    let mut edits = Edits::default();
    if let Some(owner) = gate {
        readiness::add_gate(spec, owner, &mut edits, facts);
    }
    metadata::patch(&annotations, &chosen, &mut edits, facts);
    let target = Target { spec, labels, annotations: &annotations };
    inject::inject(&target, &chosen, &mut edits, facts)?;
    let own = spec.containers.as_deref().unwrap_or_default();
    launch::order(&pod.metadata, &annotations, own, &mut edits, ambient.random, facts)?;
    edits.containers.drop_unchanged(own);
    edits.init_containers.drop_unchanged(spec.init_containers.as_deref().unwrap_or_default());
    records::write(&annotations, &chosen, ambient.now, &mut edits, facts);
    Ok(patch::encode(&edits, pod, spec))
}

/// The sets that apply, in order, each with its current spec or a revision of it.
fn choose<'a>(
    pod: &Pod<'_>,
    labels: &Pairs<'_>,
    namespace: &str,
    snapshot: &'a Snapshot,
    ambient: &Ambient,
    facts: &mut impl Recorder,
) -> Result<Vec<Chosen<'a>>, SelectError> {
    let judged = select::select(snapshot.candidates(labels), &pod.metadata, snapshot.namespace(namespace));
    let selected = judged.into_iter().filter(|(_, verdict)| *verdict == Verdict::Selected);
    let mut chosen = Vec::new();
    for (set, _) in selected {
        let draw = || Draw {
            chance: chance(ambient.random, &set.name),
            // Annotations that cannot be read refuse the pod further on.
            recorded: pod.metadata.annotations().ok().and_then(|own| records::revision(&own, &set.name)),
        };
        chosen.push(select::choose(set, labels, draw, facts)?);
    }
    Ok(chosen)
}

/// A number from 0 up to, not including, 1. Each set draws its own: a pod that gets the old revision of one is as likely
/// as any to get the new one of another.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
fn chance(random: u64, set: &str) -> f64 {
    if random == 0 {
        return 0.5;
    }
    // FNV-1a tells the sets apart; the finalizer of SplitMix64 spreads that over all bits.
    let seed = set
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut bits = seed ^ random;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_draws_evenly_and_on_its_own_rev_8() {
        let both = |a: &str, b: &str| (1..=4000).filter(|n| chance(*n, a) < 0.5 && chance(*n, b) < 0.5).count();
        assert!((1850..2150).contains(&both("mesh", "mesh")), "half of the pods: {}", both("mesh", "mesh"));
        assert!((900..1100).contains(&both("mesh", "logs")), "half of these: {}", both("mesh", "logs"));
    }

    #[test]
    fn without_a_draw_every_set_gets_the_middle() {
        assert!((chance(0, "mesh") - 0.5).abs() < f64::EPSILON);
    }
}
