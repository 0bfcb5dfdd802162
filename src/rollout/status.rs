//! What is said of a rollout: counts, conditions, events (CTL-30, W-13, W-25).
//!
//! Everything is derived from the verdicts and from what the stored conditions said before, so an event is due exactly
//! once for each change, whoever asks.

use core::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::round::{Mode, Round};
use super::state::View;
use super::verdict::Verdict;
use super::{About, Event, Input};
use crate::api::meta::Condition;
use crate::api::sidecarset::SidecarSetStatus;

/// The condition types that a rollout writes.
pub const CONDITIONS: [&str; 3] = [PROGRESSING, AVAILABLE, DEGRADED];
/// Whether pods are being brought up to date; when not, its reason says why.
const PROGRESSING: &str = "Progressing";
/// Whether no more pods are unavailable than may be.
const AVAILABLE: &str = "Available";
/// Whether somebody has to look.
const DEGRADED: &str = "Degraded";

/// After this time a pod that was written and is not ready holds the rollout up.
const PATIENCE: Duration = Duration::from_mins(10);

const ROLLING_OUT: &str = "RollingOut";
const COMPLETE: &str = "Complete";
const STALLED: &str = "Stalled";

pub(super) struct Report {
    pub(super) status: SidecarSetStatus,
    pub(super) events: Vec<Event>,
    pub(super) wake: Option<Duration>,
}

/// How many pods are where.
#[derive(Default)]
struct Tally<'a> {
    /// Written now, or lately.
    moving: usize,
    /// Written, and not getting ready.
    stuck: usize,
    /// Injected with the current version, and starting.
    starting: usize,
    /// The first pod that is stuck, or else fails, or never got ready after its injection.
    first: Option<(&'a View<'a>, &'a Verdict)>,
    failing: usize,
    waiting: usize,
    held: usize,
    kept: usize,
    not_selected: usize,
    field_changed: usize,
    paths: &'a [String],
    /// In the middle of a hot upgrade that does not end while the rollout rests.
    halfway: usize,
    wake: Option<Timestamp>,
}

pub(super) fn report(input: &Input<'_>, views: &[View<'_>], round: &Round) -> Report {
    let count = |is: &dyn Fn(&View<'_>) -> bool| {
        i32::try_from(views.iter().filter(|view| is(view)).count()).unwrap_or(i32::MAX)
    };
    let mut status = SidecarSetStatus {
        observed_generation: input.generation,
        matched_pods: count(&|_| true),
        updated_pods: count(&|view| view.is_updated),
        ready_pods: count(&|view| view.counts_ready()),
        updated_ready_pods: count(&|view| view.is_updated && view.counts_ready()),
        latest_revision: input.revision.to_owned(),
        collision_count: Some(input.collision_count),
        conditions: Vec::new(),
    };
    let tally = Tally::of(views, round, input.now);
    let said = [progressing(&status, &tally, round), available(&status, round), degraded(&tally, round)];
    let events = events(input, &said);
    status.conditions = said.into_iter().map(|said| said.condition(input)).collect();
    let wake = tally.wake.map(|time| time.duration_since(input.now).unsigned_abs());
    Report { status, events, wake }
}

// === impl Tally ===

impl<'a> Tally<'a> {
    fn of(views: &'a [View<'a>], round: &'a Round, now: Timestamp) -> Self {
        let mut tally = Self::default();
        for (view, judged) in views.iter().zip(&round.judged) {
            let verdict = &judged.verdict;
            if let Some(time) = view.wake {
                tally.wake_at(time);
            }
            if judged.is_failing {
                tally.failing += 1;
                tally.first.get_or_insert((view, verdict));
            }
            match verdict {
                Verdict::Updating => tally.moving += 1,
                // A pod that was only injected starts at its own pace, and is no business of a rollout.
                Verdict::NotReady { .. }
                | Verdict::InFlight { .. }
                | Verdict::HotUpgrade { .. }
                | Verdict::NotSettled { .. }
                    if view.is_touched =>
                {
                    tally.written(view, judged.is_failing, verdict, now);
                    let rests = matches!(round.mode, Mode::Paused | Mode::NotUpdate);
                    tally.halfway += usize::from(rests && matches!(verdict, Verdict::HotUpgrade { .. }));
                }
                Verdict::NotReady { .. } => {
                    let end = view.pod.created.and_then(|created| created.checked_add(PATIENCE).ok());
                    match end.filter(|end| *end > now && !judged.is_failing) {
                        Some(end) => {
                            tally.starting += 1;
                            tally.wake_at(end);
                        }
                        None => _ = tally.first.get_or_insert((view, verdict)),
                    }
                }
                Verdict::BudgetExhausted { .. } => tally.waiting += 1,
                Verdict::Held => tally.held += 1,
                Verdict::HeldByPartition { .. } => tally.kept += 1,
                Verdict::NotSelected => tally.not_selected += 1,
                Verdict::FieldChanged { paths } => {
                    tally.field_changed += 1;
                    if tally.paths.is_empty() {
                        tally.paths = paths;
                    }
                }
                _ => {}
            }
        }
        tally
    }

    /// A pod that was written and is not ready.
    fn written(&mut self, view: &'a View<'a>, is_failing: bool, verdict: &'a Verdict, now: Timestamp) {
        let end = view.written.and_then(|written| written.checked_add(PATIENCE).ok());
        if let Some(end) = end.filter(|end| *end > now && !is_failing) {
            self.moving += 1;
            self.wake_at(end);
        } else {
            if self.stuck == 0 {
                self.first = Some((view, verdict));
            }
            self.stuck += 1;
        }
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    fn first(&self) -> Option<String> {
        self.first.map(|(view, verdict)| format!("pod {}/{} {verdict}", view.pod.namespace, view.pod.name))
    }
}

// === conditions ===

/// What a condition says now.
struct Said {
    r#type: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Said {
    fn condition(self, input: &Input<'_>) -> Condition {
        let status = if self.is_true { "True" } else { "False" };
        let before = stored(input, self.r#type).filter(|condition| condition.status == status);
        Condition {
            r#type: self.r#type.to_owned(),
            status: status.to_owned(),
            observed_generation: input.generation,
            last_transition_time: before
                .and_then(|condition| condition.last_transition_time.clone())
                // Seconds are what the API server keeps.
                .or_else(|| Timestamp::from_second(input.now.as_second()).ok().map(Time)),
            reason: self.reason.to_owned(),
            message: self.message,
        }
    }
}

fn stored<'a>(input: &Input<'a>, r#type: &str) -> Option<&'a Condition> {
    input.set.status.conditions.iter().find(|condition| condition.r#type == r#type)
}

fn progressing(status: &SidecarSetStatus, tally: &Tally<'_>, round: &Round) -> Said {
    let reason = match &round.mode {
        Mode::NotUpdate => "NotUpdate",
        Mode::Paused => "Paused",
        Mode::Invalid(_) => "InvalidStrategy",
        // What was refused is tried again.
        Mode::Rolling if tally.moving + tally.held > 0 || (tally.waiting > 0 && tally.starting > 0) => ROLLING_OUT,
        Mode::Rolling if tally.waiting + tally.stuck > 0 => STALLED,
        Mode::Rolling if tally.kept > 0 => "HeldByPartition",
        Mode::Rolling if tally.not_selected > 0 => "NotSelected",
        Mode::Rolling if tally.field_changed > 0 => "NotUpgradable",
        Mode::Rolling => COMPLETE,
    };
    let mut message = format!("{} of {} pods are updated", status.updated_pods, status.matched_pods);
    let mut add = |text: String| {
        message.push_str("; ");
        message.push_str(&text);
    };
    if let Mode::Invalid(why) = &round.mode {
        add(why.clone());
    }
    for (count, what) in [
        (tally.moving, "in flight"),
        (tally.held, "to be tried again after a refusal"),
        (tally.kept, "kept at the old version by partition"),
        (tally.not_selected, "left out by updateStrategy.selector"),
        (tally.halfway, "in the middle of a hot upgrade that ends when the rollout goes on"),
    ] {
        if count > 0 {
            add(format!("{count} {what}"));
        }
    }
    if tally.waiting > 0 {
        add(format!("{} waiting for maxUnavailable ({} of {} unavailable)", tally.waiting, round.used, round.limit));
    }
    if tally.field_changed > 0 {
        add(recreate(tally));
    }
    if let Some(first) = tally.first().filter(|_| tally.stuck + tally.waiting > 0) {
        add(first);
    }
    Said { r#type: PROGRESSING, is_true: reason == ROLLING_OUT, reason, message }
}

fn recreate(tally: &Tally<'_>) -> String {
    if tally.paths.is_empty() {
        return format!("{} must be recreated", tally.field_changed);
    }
    // A few say enough; conditions are bounded.
    let shown = tally.paths.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if tally.paths.len() > 5 { " and more" } else { "" };
    format!("{} must be recreated, as {shown}{more} changed", tally.field_changed)
}

fn available(status: &SidecarSetStatus, round: &Round) -> Said {
    let unavailable = status.matched_pods - status.ready_pods;
    let is_true = usize::try_from(unavailable).unwrap_or(0) <= round.limit;
    let message = format!("{} of {} pods are ready", status.ready_pods, status.matched_pods);
    let reason = if is_true { "EnoughReady" } else { "TooManyUnavailable" };
    Said { r#type: AVAILABLE, is_true, reason, message }
}

fn degraded(tally: &Tally<'_>, round: &Round) -> Said {
    let stuck = tally.failing.max(tally.stuck);
    let found = match &round.mode {
        Mode::Invalid(why) => Some(("InvalidStrategy", why.clone())),
        _ if round.doubt.is_some() && round.mode == Mode::Rolling => {
            Some(("InvalidStrategy", round.doubt.clone().unwrap_or_default()))
        }
        _ if stuck > 0 => {
            Some(("PodsFailing", format!("{stuck} not getting ready, first: {}", tally.first().unwrap_or_default())))
        }
        _ if tally.field_changed > 0 => Some(("NotUpgradable", recreate(tally))),
        _ => None,
    };
    let is_true = found.is_some();
    let (reason, message) = found.unwrap_or(("AsExpected", "nothing needs attention".to_owned()));
    Said { r#type: DEGRADED, is_true, reason, message }
}

// === events ===

/// W-25: start, end and stall, when the stored condition said something else.
fn events(input: &Input<'_>, [progressing, _, degraded]: &[Said; 3]) -> Vec<Event> {
    let event = |is_warning, reason, message: &str| Event {
        about: About::Set,
        is_warning,
        reason,
        message: message.to_owned(),
    };
    let mut events = Vec::new();
    let before = stored(input, PROGRESSING).map_or("", |condition| condition.reason.as_str());
    let was_moving = matches!(before, ROLLING_OUT | STALLED);
    let is_another = input.set.status.latest_revision != input.revision;
    match progressing.reason {
        ROLLING_OUT if !was_moving || is_another => events.push(event(false, "RolloutStarted", &progressing.message)),
        STALLED if before != STALLED => events.push(event(true, "RolloutStalled", &progressing.message)),
        COMPLETE if was_moving => events.push(event(false, "RolloutComplete", &progressing.message)),
        _ => {}
    }
    let was_invalid = stored(input, DEGRADED).is_some_and(|condition| condition.reason == "InvalidStrategy");
    if degraded.reason == "InvalidStrategy" && !was_invalid {
        events.push(event(true, "InvalidStrategy", &degraded.message));
    }
    events
}
