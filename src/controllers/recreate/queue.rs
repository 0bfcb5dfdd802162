//! Which request is looked at next: each when something changed or its time has come, one look at a time, and later and
//! later while looks fail.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::metrics::Outcome;
use crate::api::names;
use crate::controllers::sidecarset::pods::is_newer;
use crate::recreate::Request;

/// The first and the longest pause after a look that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// `namespace/name` of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(Arc<str>);

/// The requests that something may have to be done for.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whether requests that ended are kept until they are to be deleted, also those that name no time themselves.
    keeps_ended: bool,
    entries: HashMap<Key, Entry>,
    due: BTreeSet<(Instant, Key)>,
    phases: [u32; 3],
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    /// Since when it is known here.
    since: Instant,
    due: Option<Instant>,
    is_running: bool,
    /// Woken while it was looked at.
    is_woken: bool,
    /// The version that was last looked at.
    decided: String,
    failures: u32,
    not_before: Option<Instant>,
}

// === impl Entry ===

impl Entry {
    fn new(request: Request, since: Instant) -> Self {
        Self {
            request: Arc::new(request),
            since,
            due: None,
            is_running: false,
            is_woken: false,
            decided: String::new(),
            failures: 0,
            not_before: None,
        }
    }
}

// === impl Key ===

impl Key {
    pub(super) fn of(request: &Request) -> Self {
        Self(format!("{}/{}", request.namespace, request.name).into())
    }

    pub(super) fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(super) fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Queue ===

impl Queue {
    /// Without requests.
    pub(super) fn new(keeps_ended: bool) -> Self {
        Self { keeps_ended, ..Self::default() }
    }

    /// These are all there are; gives those that were known and are not among them.
    pub(super) fn all(&mut self, requests: Vec<Request>, now: Instant) -> Vec<Key> {
        let there: HashSet<Key> = requests.iter().map(Key::of).collect();
        let gone: Vec<Key> = self.entries.keys().filter(|key| !there.contains(*key)).cloned().collect();
        for key in &gone {
            self.gone(key);
        }
        for request in requests {
            self.put(request, now);
        }
        gone
    }

    /// This one is new, or is now like this. Tells when it ended by that.
    pub(super) fn put(&mut self, request: Request, now: Instant) -> Option<Outcome> {
        let key = Key::of(&request);
        let ended = self.answered(request, now);
        let Some(entry) = self.entries.get(&key) else { return ended };
        if !entry.is_running && entry.decided != entry.request.version {
            self.wake(&key, now);
        }
        ended
    }

    /// The same, as the answer to a write: there is no need to look at it for that.
    pub(super) fn answered(&mut self, request: Request, now: Instant) -> Option<Outcome> {
        let key = Key::of(&request);
        let known = self.entries.get(&key);
        // Another of its name begins anew.
        let known = known.filter(|known| known.request.uid == request.uid);
        if known.is_some_and(|known| is_newer(&known.request.version, &request.version)) {
            return None;
        }
        let ended = known.filter(|known| !known.request.has_ended() && request.has_ended());
        let ended = ended.map(|_| Outcome::of(&request));
        if self.is_done(&request) {
            self.gone(&key);
            return ended;
        }
        self.count(&request, 1);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.request.uid != request.uid {
                (entry.since, entry.failures, entry.not_before) = (now, 0, None);
            }
            let before = std::mem::replace(&mut entry.request, Arc::new(request));
            self.count(&before, -1);
        } else {
            self.entries.insert(key, Entry::new(request, now));
        }
        ended
    }

    /// This one is gone.
    pub(super) fn gone(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.count(&entry.request, -1);
        if let Some(due) = entry.due {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// It is to be looked at.
    pub(super) fn wake(&mut self, key: &Key, at: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.is_running {
            entry.is_woken = true;
            return;
        }
        let at = entry.not_before.map_or(at, |not_before| at.max(not_before));
        if entry.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = entry.due.replace(at) {
            self.due.remove(&(due, key.clone()));
        }
        self.due.insert((at, key.clone()));
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the one that has been due for the longest time, with the time since when it is known.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Key, Arc<Request>, Instant)> {
        loop {
            self.due.first().filter(|(due, _)| *due <= now)?;
            let (_, key) = self.due.pop_first()?;
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.due = None;
            (entry.is_running, entry.is_woken) = (true, false);
            entry.decided.clone_from(&entry.request.version);
            return Some((key, Arc::clone(&entry.request), entry.since));
        }
    }

    /// It was looked at, as of `decided` if it was written to; is to be looked at again after `wake`. Gives the pause after a
    /// failure.
    pub(super) fn ended(
        &mut self,
        key: &Key,
        decided: Option<&str>,
        wake: Option<Duration>,
        has_failed: bool,
        now: Instant,
    ) -> Duration {
        let Some(entry) = self.entries.get_mut(key) else { return Duration::ZERO };
        entry.is_running = false;
        if let Some(decided) = decided {
            decided.clone_into(&mut entry.decided);
        }
        let (first, longest) = PAUSES;
        let mut pause = Duration::ZERO;
        if has_failed {
            pause = first.saturating_mul(1 << entry.failures.min(16)).min(longest);
            entry.failures += 1;
            entry.not_before = Some(now + pause);
        } else {
            (entry.failures, entry.not_before) = (0, None);
        }
        let is_woken = std::mem::take(&mut entry.is_woken) || has_failed || entry.decided != entry.request.version;
        if is_woken {
            self.wake(key, now);
        }
        if let Some(wake) = wake {
            self.wake(key, now + wake);
        }
        pause
    }

    /// The UID of the pod of a request that is known.
    pub(super) fn pod_uid(&self, key: &Key) -> Option<&str> {
        let request = &self.entries.get(key)?.request;
        (!request.has_ended()).then_some(request.pod_uid.as_str())
    }

    /// All that are known.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// How many wait for their daemon, wait for others, are being carried out.
    pub(super) fn phases(&self) -> [u32; 3] {
        self.phases
    }

    fn count(&mut self, request: &Request, by: i32) {
        let place = match request.status.phase.as_str() {
            "" => 0,
            "Pending" => 1,
            "Recreating" => 2,
            _ => return,
        };
        self.phases[place] = self.phases[place].saturating_add_signed(by);
    }

    /// Whether nothing is ever to be done for it again.
    fn is_done(&self, request: &Request) -> bool {
        request.has_ended()
            && !request.is_active
            && !request.finalizers.iter().any(|finalizer| finalizer == names::UNREADY_ACQUIRED)
            && request.spec.ttl_seconds_after_finished.is_none()
            && !self.keeps_ended
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request(version: u32, phase: &str) -> Request {
        Request::read(&json!({
            "metadata": {"namespace": "shop", "name": "a", "uid": "u", "resourceVersion": version.to_string()},
            "spec": {"podName": "p", "containers": []},
            "status": {"phase": phase},
        }))
    }

    fn key() -> Key {
        Key::of(&request(1, ""))
    }

    #[tokio::test]
    async fn a_request_is_looked_at_once_at_a_time_and_again_when_it_changed_meanwhile() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(request(1, ""), now);
        assert!(queue.take(now).is_some());
        queue.put(request(2, "Recreating"), now);
        queue.wake(&key(), now);
        assert!(queue.take(now).is_none(), "it is being looked at");
        queue.ended(&key(), None, None, false, now);
        assert_eq!(queue.take(now).map(|(_, request, _)| request.version.clone()).as_deref(), Some("2"));
        queue.ended(&key(), None, None, false, now);
        assert_eq!(queue.next(), None);
        assert_eq!(queue.phases(), [0, 0, 1]);
    }

    #[tokio::test]
    async fn the_echo_of_our_own_write_is_no_news() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(request(1, "Recreating"), now);
        queue.take(now).unwrap();
        queue.put(request(2, "Recreating"), now);
        queue.answered(request(2, "Recreating"), now);
        queue.ended(&key(), Some("2"), Some(3 * SECOND), false, now);
        queue.put(request(2, "Recreating"), now);
        queue.put(request(1, "Recreating"), now);
        assert_eq!(queue.next(), Some(now + 3 * SECOND));
        queue.put(request(3, "Recreating"), now);
        assert_eq!(queue.next(), Some(now));
    }

    #[tokio::test]
    async fn looks_that_fail_come_later_and_later_whatever_wakes_them() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.put(request(1, ""), now);
        let mut last = Duration::ZERO;
        for version in 2..20 {
            queue.take(now).unwrap();
            let pause = queue.ended(&key(), None, None, true, now);
            assert!(pause >= last && pause <= PAUSES.1);
            last = pause;
            queue.put(request(version, ""), now);
            assert_eq!(queue.next(), Some(now + pause));
            now += pause;
        }
        assert_eq!(last, PAUSES.1);
    }

    #[tokio::test]
    async fn the_end_is_told_once_and_what_needs_nothing_more_is_forgotten() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert_eq!(queue.put(request(1, "Completed"), now), None, "it ended before it was known");
        assert_eq!(queue.keys().count(), 0);
        queue.put(request(2, "Recreating"), now);
        assert_eq!(queue.put(request(3, "Completed"), now), Some(Outcome::Succeeded));
        assert_eq!(queue.put(request(3, "Completed"), now), None);
        assert_eq!((queue.keys().count(), queue.next(), queue.phases()), (0, None, [0; 3]));
    }

    #[tokio::test]
    async fn what_a_list_does_not_have_is_gone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(request(1, ""), now);
        assert_eq!(queue.all(Vec::new(), now), [key()]);
        assert_eq!((queue.next(), queue.phases()), (None, [0; 3]));
        queue.ended(&key(), None, Some(SECOND), false, now);
        assert_eq!(queue.next(), None);
    }
}
