//! Which pods were missed, and what is said of it on a SidecarSet. Plain data: events go in, conditions come out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::sidecarset::audit::{Away, CONDITION, SINCE};

/// Pods that are kept; of more it is only known that there are more.
const LIMIT: usize = 100_000;
/// Pods that are remembered as heard of during one listing. With more, another listing is due.
const HEARD_LIMIT: usize = 100_000;
/// Pods that are named.
const NAMED: usize = 3;

/// The pods that were missed. A pod that is in order takes no memory.
#[derive(Debug, Default)]
pub struct Ledger {
    pods: HashMap<Box<str>, Missed>,
    round: u64,
    is_full: bool,
    /// Hashes of the UIDs that the watch told of while a listing is under way: what a page says of them is older.
    heard: Option<HashSet<u64>>,
}

/// One pod.
#[derive(Debug)]
struct Missed {
    namespace: Arc<str>,
    name: Box<str>,
    sets: Vec<(Arc<str>, Away)>,
    round: u64,
}

/// The missed pods of one SidecarSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// The first few by namespace and name.
    pub named: BTreeSet<(Arc<str>, Box<str>)>,
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether no pod was missed.
    pub is_complete: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// Sentences for people.
    pub message: String,
    /// The generation of the set that it is about.
    pub generation: i64,
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

// === impl Ledger ===

impl Ledger {
    /// A listing of all pods begins.
    pub fn begin(&mut self) {
        self.round += 1;
        self.is_full = false;
        self.heard = Some(HashSet::new());
    }

    /// The listing is complete: pods that were neither in it nor heard of are gone. Whether all that was heard of could
    /// be remembered.
    pub fn complete(&mut self) -> bool {
        let round = self.round;
        self.pods.retain(|_, pod| pod.round == round);
        self.heard.take().is_none_or(|heard| heard.len() < HEARD_LIMIT)
    }

    /// The watch tells of a pod: what a listing under way says of it is no news any more.
    pub fn hear(&mut self, uid: &str) {
        if let Some(heard) = self.heard.as_mut().filter(|heard| heard.len() < HEARD_LIMIT) {
            heard.insert(hash(uid));
        }
    }

    /// Whether the watch told of a pod since the listing began.
    pub fn was_heard(&self, uid: &str) -> bool {
        self.heard.as_ref().is_some_and(|heard| heard.contains(&hash(uid)))
    }

    /// Notes what a pod was missed by, which may be nothing.
    pub fn note(&mut self, uid: &str, namespace: &str, name: &str, sets: Vec<(Arc<str>, Away)>) {
        if sets.is_empty() {
            self.forget(uid);
            return;
        }
        if self.pods.len() >= LIMIT && !self.pods.contains_key(uid) {
            self.is_full = true;
            return;
        }
        let pod = Missed { namespace: namespace.into(), name: name.into(), sets, round: self.round };
        self.pods.insert(uid.into(), pod);
    }

    /// A pod is gone, or in order. Whether it was known.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// Whether none was missed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// The pods by SidecarSet.
    pub fn tallies(&self) -> BTreeMap<Arc<str>, Tally> {
        let mut tallies: BTreeMap<Arc<str>, Tally> = BTreeMap::new();
        for pod in self.pods.values() {
            for (set, _) in &pod.sets {
                let tally = tallies.entry(set.clone()).or_default();
                tally.count += 1;
                tally.named.insert((pod.namespace.clone(), pod.name.clone()));
                if tally.named.len() > NAMED {
                    tally.named.pop_last();
                }
            }
        }
        tallies
    }

    /// How many pods were missed, and of these how many for each of [`Away::REASONS`].
    pub fn totals(&self) -> (usize, [usize; Away::REASONS.len()]) {
        let mut by_reason = [0; Away::REASONS.len()];
        for pod in self.pods.values() {
            let reason = pod.sets.first().map(|(_, away)| away.reason());
            if let Some(place) = Away::REASONS.iter().position(|known| Some(*known) == reason) {
                by_reason[place] += 1;
            }
        }
        (self.pods.len(), by_reason)
    }

    /// Whether there are more pods than are kept.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

// === impl Said ===

impl Said {
    /// What there is to say of a set. `since` is the time since when its selectors are what they are: whoever reads the
    /// condition at the same generation knows it from there.
    pub fn of(tally: Option<&Tally>, generation: i64, since: Option<Timestamp>, is_full: bool) -> Self {
        let since = since.map(|since| format!(" {SINCE}{since}.")).unwrap_or_default();
        let Some(Tally { count, named }) = tally.filter(|tally| tally.count > 0) else {
            let message = format!("No pod is known that it was missed by.{since}");
            return Self { is_complete: true, reason: "NoPodMissed", message, generation };
        };
        let names = named.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect::<Vec<_>>().join(", ");
        let more = count.saturating_sub(named.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let at_least = if is_full { "At least " } else { "" };
        let (pods, were) = if *count == 1 { ("pod", "was") } else { ("pods", "were") };
        let explain = named.first().map(|(namespace, name)| format!("outrigger explain pod {name} -n {namespace}"));
        let message = format!(
            "{at_least}{count} {pods} that it selects {were} created without it while the webhook was away: {names}{more}. \
             Created anew, they get it. To see why: {}.{since}",
            explain.unwrap_or_default()
        );
        Self { is_complete: false, reason: "PodsMissed", message, generation }
    }

    /// Whether a condition says this already.
    pub fn is_said_by(&self, condition: &Value) -> bool {
        condition["status"] == self.status()
            && condition["reason"] == self.reason
            && condition["message"] == *self.message
            && condition["observedGeneration"] == self.generation
    }

    /// Whether the status differs from that of a condition, one that is missing counted as complete.
    pub fn is_news_after(&self, condition: &Value) -> bool {
        self.is_complete != (condition["status"] != "False")
    }

    /// The condition, which keeps the time of `before` if the status is the same.
    pub fn condition(&self, before: &Value, now: Timestamp) -> Value {
        let kept = before["lastTransitionTime"].as_str().filter(|_| before["status"] == self.status());
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({
            "type": CONDITION,
            "status": self.status(),
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.generation,
            "lastTransitionTime": kept.unwrap_or(&now),
        })
    }

    fn status(&self) -> &'static str {
        if self.is_complete { "True" } else { "False" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(sets: &[&str]) -> Vec<(Arc<str>, Away)> {
        sets.iter().map(|set| (Arc::from(*set), Away::Ignored)).collect()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn pods_are_counted_by_set_and_the_first_few_are_named() {
        let mut ledger = Ledger::default();
        for n in (0..5).rev() {
            ledger.note(&format!("u{n}"), "shop", &format!("web-{n}"), missed(&["mesh", "logs"]));
        }
        ledger.note("u0", "shop", "web-0", missed(&["mesh"]));
        ledger.note("u4", "shop", "web-4", missed(&[]));
        let tallies = ledger.tallies();
        assert_eq!((tallies["mesh"].count, tallies["logs"].count), (4, 3));
        let said = Said::of(tallies.get("mesh"), 2, Some(time("2026-03-01T00:00:00Z")), false);
        assert_eq!(
            said.message,
            "4 pods that it selects were created without it while the webhook was away: shop/web-0, shop/web-1, shop/web-2 \
             and 1 more. Created anew, they get it. To see why: outrigger explain pod web-0 -n shop. Its selectors are \
             unchanged since 2026-03-01T00:00:00Z."
        );
        assert_eq!(ledger.totals(), (4, [0, 0, 4, 0, 0]));
    }

    #[test]
    fn pods_that_a_listing_does_not_hold_are_gone() {
        let mut ledger = Ledger::default();
        ledger.begin();
        ledger.note("a", "shop", "a", missed(&["mesh"]));
        ledger.note("b", "shop", "b", missed(&["mesh"]));
        ledger.begin();
        ledger.note("b", "shop", "b", missed(&["mesh"]));
        ledger.complete();
        assert_eq!(ledger.tallies()["mesh"].count, 1);
        assert!(ledger.forget("b") && !ledger.forget("a"));
    }

    #[test]
    fn what_was_heard_of_during_a_listing_stays_and_is_remembered_until_its_end() {
        let mut ledger = Ledger::default();
        ledger.note("a", "shop", "a", missed(&["mesh"]));
        ledger.hear("a");
        assert!(!ledger.was_heard("a"), "there is no listing");
        ledger.begin();
        ledger.hear("b");
        ledger.note("b", "shop", "b", missed(&["mesh"]));
        assert!(ledger.was_heard("b") && !ledger.was_heard("a"));
        assert!(ledger.complete() && !ledger.was_heard("b"));
        assert_eq!(ledger.tallies()["mesh"].named, [(Arc::from("shop"), Box::from("b"))].into());
    }

    #[test]
    fn a_listing_during_which_too_much_was_heard_says_so() {
        let mut ledger = Ledger::default();
        ledger.begin();
        (0..HEARD_LIMIT).for_each(|n| ledger.hear(&n.to_string()));
        assert!(!ledger.complete());
    }

    #[test]
    fn a_condition_is_written_only_when_it_says_something_else() {
        let now = time("2026-03-04T05:06:07.5Z");
        let tally = Tally { count: 1, named: [(Arc::from("shop"), Box::from("web"))].into() };
        let bad = Said::of(Some(&tally), 1, None, false);
        let first = bad.condition(&Value::Null, now);
        assert_eq!(first["lastTransitionTime"], "2026-03-04T05:06:07Z");
        assert!(bad.is_said_by(&first) && bad.is_news_after(&Value::Null) && !bad.is_news_after(&first));
        // A new generation is told, and is no transition.
        let later = Said::of(Some(&tally), 2, None, false);
        assert!(!later.is_said_by(&first));
        assert_eq!(later.condition(&first, time("2027-01-01T00:00:00Z"))["lastTransitionTime"], "2026-03-04T05:06:07Z");
        let good = Said::of(None, 2, None, false);
        assert!(good.is_news_after(&first) && !good.is_news_after(&Value::Null));
        assert_eq!(good.condition(&first, time("2027-01-01T00:00:00Z"))["lastTransitionTime"], "2027-01-01T00:00:00Z");
    }

    #[test]
    fn the_time_of_the_selectors_is_read_back_from_the_condition() {
        let said = Said::of(None, 3, Some(time("2026-03-01T00:00:00Z")), false);
        let set = crate::sidecarset::audit::LiveSet::read(json!({
            "metadata": {"name": "mesh", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"conditions": [said.condition(&Value::Null, time("2026-03-04T00:00:00Z"))]},
        }));
        assert_eq!(set.unwrap().selects_since, Some(time("2026-03-01T00:00:00Z")));
    }
}
