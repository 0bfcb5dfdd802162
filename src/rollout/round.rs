//! One round of a rollout: which pods are written now, and why the others are not (CTL-6.6 … CTL-6.10).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::hot::{self, Act, Pair};
use super::pod::{Container, State};
use super::sidecars::Sidecars;
use super::state::View;
use super::upgradable::{self, Say};
use super::verdict::{Stage, Verdict};
use super::{About, Event, Input, Write, budget, changes, order, update};
use crate::selector::Selector;

/// What one round decided.
pub(super) struct Round {
    /// Of each view, in order.
    pub(super) judged: Vec<Judged>,
    pub(super) writes: Writes,
    pub(super) events: Vec<Event>,
    pub(super) mode: Mode,
    /// Unavailable pods before the round, and how many may be.
    pub(super) used: usize,
    pub(super) limit: usize,
    /// What in the strategy cannot be read, but stops nothing.
    pub(super) doubt: Option<String>,
}

/// Writes to pods, at most one each.
pub(super) struct Writes {
    /// Those that are put into words.
    pub(super) worded: Vec<Write>,
    /// Whether there are more than were asked for.
    pub(super) is_cut: bool,
    at_most: usize,
    /// Indexes of all pods that are written, now or later.
    pods: BTreeSet<usize>,
}

/// A verdict, and what it means for the rollout as a whole.
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// A sidecar of the set fails in a way that waiting seldom mends.
    pub(super) is_failing: bool,
}

/// What may be done at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Rolling,
    Paused,
    NotUpdate,
    /// What is wrong with the set; pods in the middle of a hot upgrade still end it.
    Invalid(String),
}

/// The strategy, read.
struct Strategy {
    mode: Mode,
    selector: Option<Selector>,
    keep: usize,
    limit: usize,
    doubt: Option<String>,
}

// === impl Round ===

impl Round {
    pub(super) fn decide(input: &Input<'_>, sidecars: &Sidecars<'_>, views: &[View<'_>]) -> Self {
        let Strategy { mode, selector, keep, limit, doubt } = Strategy::read(input, sidecars, views.len());
        let is_selected =
            |view: &View<'_>| selector.as_ref().is_none_or(|selector| selector.mismatch(&view.pod.labels).is_none());
        let may_reset = matches!(mode, Mode::Rolling | Mode::Invalid(_));
        let used = views.iter().filter(|view| is_unavailable(view, sidecars)).count();

        let mut paths = Paths { input, sidecars, known: BTreeMap::new() };
        let mut writes = Writes::new(input.at_most);
        let mut candidates = Vec::new();
        let mut judged = Vec::with_capacity(views.len());
        for (place, view) in views.iter().enumerate() {
            let stage = hot::stage(view, sidecars);
            let held = (input.held)(view.pod);
            if may_reset && stage == Some(Stage::Migrated) {
                // CTL-6.8, HOT-9: whatever the hash, the partition and the budget are.
                if held {
                    judged.push(Judged::new(Verdict::Held));
                } else {
                    writes.add(view, || update::reset(view, sidecars, input));
                    judged.push(Judged::new(Verdict::HotUpgrade { stage: Stage::Migrated }));
                }
                continue;
            }
            if view.is_updated {
                let is_stranded = mode == Mode::Rolling && !held && is_stranded(view, sidecars, stage);
                if is_stranded {
                    writes.add(view, || update::update(view, sidecars, input));
                }
                judged.push(if is_stranded {
                    Judged::new(Verdict::Updating)
                } else {
                    Judged::updated(view, sidecars, stage)
                });
                continue;
            }
            let why = match &mode {
                Mode::Invalid(why) => Some(Verdict::Invalid { why: why.clone() }),
                Mode::NotUpdate => Some(Verdict::NotUpdate),
                Mode::Paused => Some(Verdict::Paused),
                Mode::Rolling if !is_selected(view) => Some(Verdict::NotSelected),
                Mode::Rolling if !view.is_upgradable => Some(Verdict::FieldChanged { paths: paths.of(view) }),
                Mode::Rolling => unsettled(view, sidecars, stage).or_else(|| held.then_some(Verdict::Held)),
            };
            if why.is_none() {
                candidates.push(place);
            }
            // Candidates wait for the partition unless the walk says otherwise.
            judged.push(Judged::new(why.unwrap_or(Verdict::HeldByPartition { keep })));
        }

        let all: Vec<_> = views.iter().map(|view| view.pod).collect();
        let strategy = &input.set.spec.update_strategy;
        order::sort(&mut candidates, |place: &usize| views[*place].pod, &all, strategy);
        // W-6: old pods that cannot be candidates are among those that keep the old version.
        let old = views.iter().filter(|view| !view.is_updated).count();
        let keep_back = keep.saturating_sub(old - candidates.len());
        let cut = budget::cut(&costly(views, &candidates, sidecars), keep_back, used, limit);
        for (index, place) in candidates.iter().enumerate().take(cut.within_partition) {
            judged[*place].verdict = if index < cut.taken {
                Verdict::Updating
            } else {
                Verdict::BudgetExhausted { used: cut.used, of: limit }
            };
        }
        let taken: BTreeSet<usize> = candidates[..cut.taken].iter().copied().collect();
        for view in candidates[..cut.taken].iter().map(|place| &views[*place]) {
            writes.add(view, || update::update(view, sidecars, input));
        }

        let mut round = Self { judged, writes, events: Vec::new(), mode, used, limit, doubt };
        if round.mode == Mode::Rolling && !sidecars.hot.is_empty() {
            let free =
                |place: usize, view: &View<'_>| !taken.contains(&place) && is_selected(view) && !(input.held)(view.pod);
            round.refresh(input, sidecars, views, (keep, cut.used), free);
        }
        round.mark(input, sidecars, views, is_selected);
        round
    }

    /// W-11: gives idle containers the new empty image, within partition and budget.
    fn refresh(
        &mut self,
        input: &Input<'_>,
        sidecars: &Sidecars<'_>,
        views: &[View<'_>],
        (keep, used): (usize, usize),
        is_free: impl Fn(usize, &View<'_>) -> bool,
    ) {
        let is_stale = |view: &View<'_>| view.pairs.iter().any(Pair::is_stale);
        let done = views.iter().filter(|view| !is_stale(view)).count();
        let stale = views.iter().enumerate().filter(|(place, view)| {
            is_stale(view)
                && is_free(*place, view)
                && view.unsettled(sidecars).is_none()
                && view.pairs.iter().all(|pair| !pair.is_in_upgrade())
        });
        let mut stale: Vec<usize> = stale.map(|(place, _)| place).collect();
        let all: Vec<_> = views.iter().map(|view| view.pod).collect();
        order::sort(&mut stale, |place: &usize| views[*place].pod, &all, &input.set.spec.update_strategy);
        stale.truncate((views.len() - keep).saturating_sub(done));
        let cut = budget::cut(&costly(views, &stale, sidecars), 0, used, self.limit);
        for view in stale[..cut.taken].iter().map(|place| &views[*place]) {
            self.writes.add(view, || update::refresh(view, sidecars, input));
        }
    }

    /// NUP-2, NUP-5, W-8: brings the conditions up to date.
    fn mark(
        &mut self,
        input: &Input<'_>,
        sidecars: &Sidecars<'_>,
        views: &[View<'_>],
        is_selected: impl Fn(&View<'_>) -> bool,
    ) {
        let (mut marked, mut not_upgradable) = (false, 0);
        for view in views {
            let say = if view.is_updated || view.is_upgradable {
                Say::Can
            } else if self.mode == Mode::Rolling && is_selected(view) {
                not_upgradable += 1;
                Say::Not
            } else {
                Say::Nothing
            };
            if self.writes.pods.contains(&view.index) || (input.held)(view.pod) {
                continue;
            }
            if let Some(write) = upgradable::write(view, sidecars.set, say, input.now) {
                marked |= say == Say::Not;
                self.writes.add(view, || write);
            }
        }
        // W-25: once for each change, not at every look.
        if marked {
            self.events.push(Event {
                about: About::Set,
                is_warning: false,
                reason: "NotUpgradablePods",
                message: format!(
                    "SidecarSet in-place update detected {not_upgradable} not upgradable pod(s) in this round, will skip them."
                ),
            });
        }
    }
}

// === impl Writes ===

impl Writes {
    fn new(at_most: usize) -> Self {
        Self { worded: Vec::new(), is_cut: false, at_most, pods: BTreeSet::new() }
    }

    fn add(&mut self, view: &View<'_>, write: impl FnOnce() -> Write) {
        self.pods.insert(view.index);
        if self.worded.len() < self.at_most {
            self.worded.push(write());
        } else {
            self.is_cut = true;
        }
    }
}

/// STR-9, and W-13: a pod that this rollout made unavailable counts even after the set changed again. A pod that it never
/// touched and that still has the old version does not.
fn is_unavailable(view: &View<'_>, sidecars: &Sidecars<'_>) -> bool {
    if view.is_updated {
        return !view.counts_ready();
    }
    let is_in_upgrade = view.pairs.iter().any(Pair::is_in_upgrade);
    let has_idle_sidecar = || sidecars.of(view.pod).any(|container| !container.is_ready());
    view.is_touched && (!view.is_consistent || is_in_upgrade || (!view.is_ready && has_idle_sidecar()))
}

/// Of each candidate, whether to write it makes one more pod unavailable (STR-10). Those that are counted already cost
/// nothing, whatever their condition says.
fn costly(views: &[View<'_>], candidates: &[usize], sidecars: &Sidecars<'_>) -> Vec<bool> {
    candidates.iter().map(|place| &views[*place]).map(|view| view.is_ready && !is_unavailable(view, sidecars)).collect()
}

/// W-4: a pod that counts as updated while its hot upgrade is stuck on another image than the wanted one, as the
/// reference leaves it after a rollback (HOT-22).
fn is_stranded(view: &View<'_>, sidecars: &Sidecars<'_>, stage: Option<Stage>) -> bool {
    let is_other = |pair: &Pair<'_>| pair.is_in_upgrade() && *pair.working().image != *pair.hot.image;
    view.pairs.iter().any(is_other) && unsettled(view, sidecars, stage).is_none()
}

/// STR-2, and W-5: what an old pod waits for before it can be a candidate.
fn unsettled(view: &View<'_>, sidecars: &Sidecars<'_>, stage: Option<Stage>) -> Option<Verdict> {
    if let Some(container) = view.unsettled(sidecars) {
        return Some(Verdict::NotSettled { container: container.name.to_string() });
    }
    let waits = view.pairs.iter().any(|pair| pair.act(view) == Act::Wait);
    waits.then_some(Verdict::HotUpgrade { stage: stage.unwrap_or(Stage::Upgrading) })
}

/// The paths that changed since a revision, found once for all pods of it.
struct Paths<'a> {
    input: &'a Input<'a>,
    sidecars: &'a Sidecars<'a>,
    known: BTreeMap<Rc<str>, Vec<String>>,
}

impl Paths<'_> {
    fn of(&mut self, view: &View<'_>) -> Vec<String> {
        let spec = &self.input.set.spec;
        let find = || {
            let former = self.input.revisions.iter().find(|(hash, _)| **hash == *view.without_image);
            former.map(|(_, former)| changes::paths(former, spec)).unwrap_or_default()
        };
        let mut paths = if *view.without_image == *self.sidecars.hashes.without_image {
            Vec::new()
        } else {
            self.known.entry(Rc::clone(&view.without_image)).or_insert_with(find).clone()
        };
        let fixed = self.sidecars.changed_fixed(view.pod);
        paths.extend(fixed.map(|name| format!("spec.initContainers[{name}].image")));
        paths
    }
}

// === impl Strategy ===

impl Strategy {
    fn read(input: &Input<'_>, sidecars: &Sidecars<'_>, all: usize) -> Self {
        let strategy = &input.set.spec.update_strategy;
        let selector = strategy.selector.as_ref().map(Selector::try_from).transpose();
        let keep = budget::partition(strategy.partition.as_ref(), all);
        let limit = budget::max_unavailable(strategy.max_unavailable.as_ref(), all);
        let doubt = limit.as_ref().err().map(ToString::to_string);
        // HOT-31.
        let empty = sidecars.hot.iter().find(|hot| hot.image == hot.empty).map(|hot| {
            format!(
                "spec.containers[{}]: image and upgradeStrategy.hotUpgradeEmptyImage are the same; change one",
                hot.base
            )
        });
        let wrong = || {
            let selector =
                selector.as_ref().err().map(|error| format!("spec.updateStrategy.selector: {error}; correct it"));
            selector.or_else(|| keep.as_ref().err().map(ToString::to_string)).or(empty)
        };
        let mode = match strategy.r#type.as_str() {
            "NotUpdate" => Mode::NotUpdate,
            "RollingUpdate" | "" if strategy.paused => Mode::Paused,
            "RollingUpdate" | "" => wrong().map_or(Mode::Rolling, Mode::Invalid),
            other => Mode::Invalid(format!(
                "spec.updateStrategy.type {other:?} is unknown; use \"RollingUpdate\" or \"NotUpdate\""
            )),
        };
        Self {
            mode,
            keep: keep.unwrap_or(all),
            limit: limit.unwrap_or(0),
            selector: selector.unwrap_or_default(),
            doubt,
        }
    }
}

// === impl Judged ===

impl Judged {
    fn new(verdict: Verdict) -> Self {
        Self { verdict, is_failing: false }
    }

    /// A pod that was written, or injected with the current version.
    fn updated(view: &View<'_>, sidecars: &Sidecars<'_>, stage: Option<Stage>) -> Self {
        if view.counts_ready() {
            return Self::new(Verdict::UpToDate);
        }
        let failing = sidecars.of(view.pod).find_map(|container| Some((container, failure(container)?)));
        if let Some((container, why)) = failing {
            let (container, why) = (container.name.to_string(), why.to_owned());
            return Self { verdict: Verdict::NotReady { container, why }, is_failing: true };
        }
        Self::new(match stage {
            Some(stage) => Verdict::HotUpgrade { stage },
            None if !view.is_consistent && view.is_touched => Verdict::InFlight { since: view.written },
            None => not_ready(view),
        })
    }
}

/// The word of the kubelet for a container that does not start.
fn failure(container: &Container) -> Option<&str> {
    match &container.status.as_ref()?.state {
        State::Waiting { reason } if !matches!(&**reason, "" | "ContainerCreating" | "PodInitializing") => Some(reason),
        _ => None,
    }
}

/// The first container of the pod that keeps it from being ready.
fn not_ready(view: &View<'_>) -> Verdict {
    let natives = view.pod.init_containers.iter().filter(|container| container.restarts_always);
    let mut containers = natives.chain(&view.pod.containers);
    let verdict =
        |container: &str, why: &str| Verdict::NotReady { container: container.to_owned(), why: why.to_owned() };
    if let Some(container) = containers.find(|container| !container.is_ready()) {
        let why = match container.status.as_ref().map(|status| &status.state) {
            Some(State::Waiting { reason } | State::Terminated { reason }) if !reason.is_empty() => reason,
            None | Some(State::None | State::Waiting { .. }) => "not started",
            Some(State::Terminated { .. }) => "terminated",
            Some(State::Running { .. }) => "runs, but its probes do not say that it is ready",
        };
        return verdict(&container.name, why);
    }
    match view.pod.readiness_gates.first() {
        Some(gate) if !view.is_ready_itself() => {
            verdict("", &format!("all containers are ready; look at readiness gate {gate}"))
        }
        _ => verdict("", "its condition Ready is not True"),
    }
}
