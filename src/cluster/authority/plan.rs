//! What is to be done about the certificates of a Secret: one step, from what it holds and what clients trust.
//!
//! The order that costs no call: a new CA is made *beside* the one that issues; clients get both; only when every
//! registered object has carried the new one for [`Rules::settle`] does a leaf of it come, and the old CA stays trusted
//! for as long as any leaf of it can last. Each step is one write with a precondition, and the Secret alone says which
//! is next: whoever is killed, another goes on. See `authority` for the phases in one picture (WH-9.1).

use jiff::{SignedDuration, Timestamp};

/// Life of a CA.
pub const CA_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Life of a leaf.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A leaf is renewed when this much is left: a third of its life.
pub const LEAF_LEFT: SignedDuration = SignedDuration::from_hours(10 * 24);
/// A CA is replaced when this much is left: three lives of a leaf.
pub const CA_LEFT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A wish for a new CA waits while so many old ones are still trusted: the bundle stays small.
pub const MOST_RETIRED: usize = 6;
/// Renewing must gain at least this much, or a leaf that ends with its CA would be renewed without end.
const GAIN: SignedDuration = SignedDuration::from_hours(24);

/// What may differ from one installation or replica to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a CA must have been seen in every registered object before a leaf of it is served: the time in which
    /// every API server hears of a changed webhook configuration.
    pub settle: SignedDuration,
    /// How much later than due this replica renews, so that not all try at once.
    pub patience: SignedDuration,
}

/// A CA in the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaView {
    /// Its first second.
    pub from: Timestamp,
    /// Its last second.
    pub until: Timestamp,
    /// Whether its key is there, belongs to it, and can sign.
    pub issues: bool,
    /// For how long every registered object has carried it; `None` is not everywhere.
    pub published: Option<SignedDuration>,
}

/// The serving certificate in the Secret, with a key that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafView {
    /// Its first second.
    pub from: Timestamp,
    /// Its last second.
    pub until: Timestamp,
    /// Whether it names every host that clients use.
    pub named: bool,
    /// Who signed it.
    pub signer: Signer,
}

/// Which CA of the Secret signed the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The one that issues.
    Ca,
    /// Another that clients trust.
    Other,
    /// None that is known.
    Unknown,
}

/// What a person asked for by annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new leaf of the same CA.
    Leaf,
    /// A new CA.
    Ca,
}

/// What the Secret holds. What is missing and what is garbage are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The CA that issues.
    pub ca: Option<CaView>,
    /// The CA that comes.
    pub next: Option<CaView>,
    /// What is served.
    pub leaf: Option<LeafView>,
    /// How many old CAs are still trusted.
    pub retired: usize,
    /// When the last of them ceased to issue.
    pub retired_at: Option<Timestamp>,
    /// What a person asked for.
    pub request: Option<Request>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for now.
    Keep,
    /// Nothing, until the CA that comes has settled: look again soon.
    Await,
    /// A new CA and a leaf of it at once; whatever clients trusted stays trusted.
    Found,
    /// A new leaf of the CA that issues.
    Renew(Why),
    /// A CA that comes, beside the one that issues.
    Introduce(Why),
    /// The CA that comes issues from now on: a leaf of it, and the old CA is retired.
    Switch,
    /// The retired CAs are trusted no more.
    Forget,
    /// It is written down that the retired CAs are retired.
    Date,
}

/// Why a step is taken, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its time has come.
    Due,
    /// There is none that clients accept.
    Missing,
    /// A host has no name in it.
    Hosts,
    /// A person asked.
    Requested,
    /// The CA cannot issue.
    Unfit,
    /// It was signed by another CA than the one that issues.
    Stray,
}

/// The next step.
pub fn plan(view: &View, rules: Rules, now: Timestamp) -> Step {
    let View { ca, next, leaf, .. } = *view;
    let fit = |ca: Option<CaView>| ca.filter(|ca| ca.issues && within(ca.from, ca.until, now));
    let issuer = fit(ca);
    let settled = |ca: CaView| ca.published.is_some_and(|published| published >= rules.settle);

    let accepted = leaf.filter(|leaf| leaf.signer != Signer::Unknown && within(leaf.from, leaf.until, now));
    let Some(leaf) = accepted.filter(|leaf| leaf.named) else {
        // Nothing here is accepted, so there is nothing to lose by haste.
        return match (issuer, fit(next)) {
            (Some(_), _) => Step::Renew(if accepted.is_some() { Why::Hosts } else { Why::Missing }),
            (None, Some(_)) => Step::Switch,
            (None, None) => Step::Found,
        };
    };

    if fit(next).is_some_and(settled) {
        return Step::Switch;
    }
    if let Some(issuer) = issuer {
        if leaf.signer == Signer::Other && settled(issuer) {
            return Step::Renew(Why::Stray);
        }
        let gains = later(now, LEAF_LIFE).min(issuer.until) > later(leaf.until, GAIN);
        if leaf.signer == Signer::Ca && later(now, LEAF_LEFT) >= later(leaf.until, rules.patience) && gains {
            return Step::Renew(Why::Due);
        }
        if view.request == Some(Request::Leaf) && leaf.signer == Signer::Ca {
            return Step::Renew(Why::Requested);
        }
    }
    match (next, fit(next)) {
        (Some(_), Some(_)) => return Step::Await,
        (Some(_), None) => return Step::Introduce(Why::Unfit),
        (None, _) => {}
    }
    match issuer {
        None => return Step::Introduce(Why::Unfit),
        Some(issuer) if later(now, CA_LEFT) >= issuer.until => return Step::Introduce(Why::Due),
        Some(_) if view.request == Some(Request::Ca) && view.retired < MOST_RETIRED => {
            return Step::Introduce(Why::Requested);
        }
        Some(issuer) if leaf.signer == Signer::Other && !settled(issuer) => return Step::Await,
        Some(_) => {}
    }
    match view.retired_at {
        _ if view.retired == 0 => Step::Keep,
        None => Step::Date,
        // No leaf of theirs was made later, and none lasts longer.
        Some(at) if now >= later(at, LEAF_LIFE) => Step::Forget,
        Some(_) => Step::Keep,
    }
}

/// What this process serves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its last second.
    pub until: Timestamp,
    /// Whether the CA that signed it is the one that signed the other.
    pub same_ca: bool,
}

/// Whether the leaf of the Secret may take the place of what is served. `published`: for how long every registered
/// object has carried the CA of that leaf.
pub fn may_serve(served: Option<Served>, published: Option<SignedDuration>, rules: Rules, now: Timestamp) -> bool {
    match served {
        // Nobody is sent to a process that serves nothing.
        None => true,
        Some(served) => {
            served.same_ca || served.until <= now || published.is_some_and(|published| published >= rules.settle)
        }
    }
}

fn within(from: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    from <= now && now < until
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
