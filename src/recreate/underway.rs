//! What this process has under way for one pod. A new process knows nothing, and finds what it needs on the API server.

use core::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::intent::{Identity, Intent};
use super::{Instance, Request};

/// How often an instance is told to stop before the container has failed.
const ATTEMPTS: u32 = 5;
/// How long it is left alone after the first attempt that failed; twice as long after each further one.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// What is under way.
#[derive(Clone, Debug, Default)]
pub struct Underway {
    /// UID of a request, and since when it is known that its pod gets no new traffic.
    drained: Option<(String, Timestamp)>,
    pub(super) stop: Option<Stopping>,
}

/// An instance that is being stopped.
#[derive(Clone, Debug)]
pub(super) struct Stopping {
    /// UID of the request.
    pub(super) request: String,
    pub(super) container: String,
    pub(super) instance: Identity,
    /// When it was decided: tells the intent of this process from that of another.
    pub(super) since: Timestamp,
    pub(super) stage: Stage,
}

/// How far that got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The intent is being written.
    Intended,
    HookRuns {
        since: Timestamp,
    },
    HookOver {
        took: SignedDuration,
    },
    StopRuns {
        attempt: u32,
    },
    Stopped,
    /// The runtime did not do it.
    NotStopped {
        attempt: u32,
        at: Timestamp,
        error: String,
    },
}

// === impl Underway ===

impl Underway {
    /// Whether a hook or a stop runs: nothing else is done for the pod meanwhile.
    pub fn is_busy(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| matches!(stop.stage, Stage::HookRuns { .. } | Stage::StopRuns { .. }))
    }

    /// Takes that the hook ended, or is waited for no longer.
    pub fn hook_over(&mut self, now: Timestamp) {
        if let Some(stop) = &mut self.stop
            && let Stage::HookRuns { since } = stop.stage
        {
            stop.stage = Stage::HookOver { took: now.duration_since(since) };
        }
    }

    /// Takes what the runtime answered to a stop. That there is no such container is no error (WEAK-3).
    pub fn stop_over(&mut self, answer: Result<(), String>, now: Timestamp) {
        if let Some(stop) = &mut self.stop
            && let Stage::StopRuns { attempt } = stop.stage
        {
            stop.stage = match answer {
                Ok(()) => Stage::Stopped,
                Err(error) => Stage::NotStopped { attempt, at: now, error },
            };
        }
    }

    /// Whether there is something left to do for a request that is over: the stop after its hook, or a note of what came of
    /// it.
    pub(super) fn is_left(&self, request: &Request) -> bool {
        self.stop.as_ref().filter(|stop| stop.request == request.uid).is_some_and(|stop| {
            let mut states = request.status.container_recreate_states.iter();
            let state = states.find(|state| state.name == stop.container);
            let is_noted = state.map(|state| state.is_killed || super::step::is_terminal(state));
            match stop.stage {
                Stage::HookOver { .. } => is_noted != Some(true),
                Stage::Stopped | Stage::NotStopped { .. } => is_noted == Some(false),
                _ => false,
            }
        })
    }

    /// When the pod of a request has had no new traffic for so long (CRR-27). WEAK-8: counted from when this node heard of
    /// it, since the clock of whoever wrote it may be another.
    pub(super) fn drained(&mut self, request: &Request, period: SignedDuration, now: Timestamp) -> Timestamp {
        let since = match &self.drained {
            Some((uid, since)) if *uid == request.uid => *since,
            _ => now,
        };
        self.drained = Some((request.uid.clone(), since));
        since.checked_add(period).unwrap_or(since)
    }

    /// What is under way for a container of a request.
    pub(super) fn stop_of(&self, request: &Request, container: &str) -> Option<&Stopping> {
        self.stop.as_ref().filter(|stop| stop.request == request.uid && stop.container == container)
    }

    /// Takes what is about to be done.
    pub(super) fn intend(&mut self, request: &Request, intent: &Intent, stage: Stage) {
        let Intent { container, instance, since } = intent.clone();
        self.stop = Some(Stopping { request: request.uid.clone(), container, instance, since, stage });
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        if let Some(stop) = &mut self.stop {
            stop.stage = stage;
        }
    }
}

// === impl Stopping ===

impl Stopping {
    /// Whether the instance runs no more. WEAK-3: what the runtime shows counts more than what it answered.
    pub(super) fn is_done(&self, newest: Option<&Instance>) -> bool {
        match self.stage {
            Stage::Stopped => true,
            Stage::NotStopped { .. } => self.instance.is_over(newest),
            _ => false,
        }
    }

    /// Why it is not tried again.
    pub(super) fn failed(&self) -> Option<&str> {
        match &self.stage {
            Stage::NotStopped { attempt, error, .. } if *attempt >= ATTEMPTS => Some(error),
            _ => None,
        }
    }

    /// How long to wait for the next attempt.
    pub(super) fn pause(&self, now: Timestamp) -> Option<Duration> {
        let Stage::NotStopped { attempt, at, .. } = &self.stage else { return None };
        let pause = PAUSE * 2_i32.pow(attempt.saturating_sub(1).min(10));
        let left = at.checked_add(pause).ok()?.duration_since(now);
        // A clock that was set back is no reason to wait longer.
        Duration::try_from(left.min(pause)).ok().filter(|left| !left.is_zero())
    }
}
