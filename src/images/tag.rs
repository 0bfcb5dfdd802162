//! One tag on one node: what its pull may take, when it is tried again, and when it is given up (IMG-41, IMG-42).
//!
//! [`Attempts`] remembers what was tried; [`Attempts::next`] says what to do now, from that, the tag's [`Policy`] and the time.
//! What went wrong is a [`Failure`]; some will go wrong again the same way and end the pull at once (WEAK-30).

pub mod fault;

use core::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use self::fault::{Answer, Failure, Fault};
use crate::api::nodeimage::{ImageTagSpec, TagPullPolicy};

/// Seconds that one attempt may take when nothing is said (IMG-41).
const TIMEOUT: u32 = 600;
/// Attempts after the first one when nothing is said (IMG-41).
const RETRIES: u32 = 3;
/// The longest wait between two attempts, in seconds.
const LONGEST: u32 = 30;
/// What a pull is told that ran out of time (IMG-42).
pub const DEADLINE: &str = "pulling exceeds the activeDeadlineSeconds";

/// What a pull may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub retries: u32,
    /// When it is given up. WEAK-45: counted from when it was asked for; the reference counts from when it began.
    pub deadline: Option<Timestamp>,
    /// Whether the registry is asked even if the image is there (IMG-47).
    pub is_always: bool,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// How many failed.
    failed: u32,
    /// How the last one failed, and when the next one may begin.
    last: Option<(Failure, Timestamp)>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Try, for so long at most.
    Try(Duration),
    /// Wait until then.
    Rest(Timestamp),
    /// Give up, for this reason.
    GiveUp(String),
}

// === impl Policy ===

impl Policy {
    /// What a tag may take that was first heard of at `seen`.
    pub fn of(spec: &ImageTagSpec, seen: Timestamp) -> Self {
        let TagPullPolicy { timeout_seconds, backoff_limit, active_deadline_seconds, .. } =
            spec.pull_policy.clone().unwrap_or_default();
        let since = spec.created_at.as_ref().map_or(seen, |time| time.0);
        let positive = |seconds: i32| u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        let timeout = timeout_seconds.and_then(positive).unwrap_or(TIMEOUT);
        let limit = active_deadline_seconds.map(|seconds| SignedDuration::from_secs(seconds.max(0)));
        Self {
            timeout: Duration::from_secs(timeout.into()),
            retries: backoff_limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(RETRIES),
            // One that is further away than time goes is none.
            deadline: limit.and_then(|limit| since.checked_add(limit).ok()),
            is_always: spec.image_pull_policy != "IfNotPresent",
        }
    }
}

// === impl Attempts ===

impl Attempts {
    /// What to do at `now`.
    pub fn next(&self, policy: &Policy, now: Timestamp) -> Step {
        if policy.deadline.is_some_and(|deadline| deadline <= now) {
            return Step::GiveUp(match &self.last {
                None => DEADLINE.to_owned(),
                Some((failure, _)) => format!("{DEADLINE}; {}: {failure}", self.count(policy)),
            });
        }
        let Some((failure, earliest)) = &self.last else { return Step::Try(limit(policy, now)) };
        if failure.is_final() {
            let again = "not tried again, it would fail the same way";
            return Step::GiveUp(format!("{failure}; {}, {again}", self.count(policy)));
        }
        if self.failed > policy.retries {
            return Step::GiveUp(format!("{failure}; {}", self.count(policy)));
        }
        if *earliest > now {
            return Step::Rest(policy.deadline.map_or(*earliest, |deadline| deadline.min(*earliest)));
        }
        Step::Try(limit(policy, now))
    }

    /// Takes that an attempt failed, at `now`.
    pub fn failed(&mut self, failure: Failure, now: Timestamp) {
        self.failed = self.failed.saturating_add(1);
        let pause = SignedDuration::from_secs(self.pause().into());
        let earliest = now.checked_add(pause).unwrap_or(Timestamp::MAX);
        self.last = Some((failure, earliest));
    }

    /// How many failed.
    pub fn count_failed(&self) -> u32 {
        self.failed
    }

    /// What a person is told while it waits for the next attempt.
    pub fn told(&self, policy: &Policy) -> Option<String> {
        let (failure, _) = self.last.as_ref()?;
        Some(format!("{failure}; {}, tried again in up to {} s", self.count(policy), self.pause()))
    }

    /// Seconds until the next attempt: 1, 2, 4, 8, 16, 30, 30, …
    ///
    /// Differs: IMG-41. Nothing is waited for after the last one.
    fn pause(&self) -> u32 {
        let doublings = self.failed.saturating_sub(1).min(LONGEST);
        1_u32.checked_shl(doublings).filter(|seconds| *seconds < LONGEST).unwrap_or(LONGEST)
    }

    fn count(&self, policy: &Policy) -> String {
        format!("attempt {} of {} failed", self.failed, u64::from(policy.retries) + 1)
    }
}

/// What an attempt may take that begins at `now`: its own time, cut to what is left (IMG-41).
fn limit(policy: &Policy, now: Timestamp) -> Duration {
    let left = policy.deadline.and_then(|deadline| Duration::try_from(deadline.duration_since(now)).ok());
    left.map_or(policy.timeout, |left| left.min(policy.timeout))
}

#[cfg(test)]
mod tests;
