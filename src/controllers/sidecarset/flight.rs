//! What is certain of writes that are not yet answered, and how long a pod is left alone whose write was refused (W-7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::rollout::Pod;
use crate::rollout::pod::{Container, Pairs};

/// The first and the longest time that a pod is left alone.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// Pods that are left alone at a time.
const PODS: usize = 10_000;

/// The pod as it will be once a patch is taken. A plan that is made meanwhile counts it as what it will be: were it counted
/// as what it was, another pod might be chosen in its stead, and too many be changed (STR-8).
pub fn predicted(pod: &Pod, patch: &Value) -> Pod {
    let mut pod = pod.clone();
    if let Some(changes) = patch["metadata"]["annotations"].as_object() {
        let kept = pod.annotations.iter().filter(|(key, _)| !changes.contains_key(*key));
        let mut pairs: Vec<(String, String)> = kept.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let written = changes.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        pairs.extend(written);
        pod.annotations = Pairs::from_iter(pairs);
    }
    set_images(&mut pod.containers, &patch["spec"]["containers"]);
    set_images(&mut pod.init_containers, &patch["spec"]["initContainers"]);
    pod
}

fn set_images(containers: &mut [Container], patch: &Value) {
    for change in patch.as_array().into_iter().flatten() {
        let found = containers.iter_mut().find(|container| change["name"] == *container.name);
        if let (Some(container), Some(image)) = (found, change["image"].as_str()) {
            container.image = Arc::from(image);
        }
    }
}

/// Pods whose last write was refused, by UID.
#[derive(Debug, Default)]
pub struct Refusals(HashMap<Box<str>, Refusal>);

#[derive(Debug)]
struct Refusal {
    count: u32,
    until: Instant,
}

// === impl Refusals ===

impl Refusals {
    /// Notes that a write was refused; whether it is the first in a row.
    pub fn note(&mut self, uid: &str, now: Instant) -> bool {
        if self.0.len() >= PODS && !self.0.contains_key(uid) {
            return false;
        }
        let refusal = self.0.entry(uid.into()).or_insert(Refusal { count: 0, until: now });
        let pause = PAUSES.0.saturating_mul(1 << refusal.count.min(16)).min(PAUSES.1);
        refusal.count = refusal.count.saturating_add(1);
        refusal.until = now + pause;
        refusal.count == 1
    }

    /// Notes that a write was taken.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Forgets all but the pods that are still there.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| is_there(uid));
    }

    /// Forgets all of them: what is to be written is another thing now.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that are left alone now.
    pub fn held(&self, now: Instant) -> Vec<Box<str>> {
        self.0.iter().filter(|(_, refusal)| refusal.until > now).map(|(uid, _)| uid.clone()).collect()
    }

    /// When the next of them is tried again.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|refusal| refusal.until).filter(|until| *until > now).min()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_predicted_as_the_api_server_will_answer() {
        let pod = Pod::read(&json!({
            "metadata": {"annotations": {"a": "1", "b": "2", "c": "3"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}, {"name": "agent", "image": "agent:1"}],
                "initContainers": [{"name": "native", "image": "native:1"}]},
        }));
        let patch = json!({
            "metadata": {"annotations": {"b": "4", "c": null, "d": "5"}},
            "spec": {"containers": [{"name": "agent", "image": "agent:2"}, {"name": "unknown", "image": "x"}],
                "initContainers": [{"name": "native", "image": "native:2"}]},
        });
        let pod = predicted(&pod.unwrap(), &patch);
        assert_eq!(pod.annotations.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "4"), ("d", "5")]);
        let images = pod.containers.iter().chain(&pod.init_containers).map(|container| &*container.image);
        assert_eq!(images.collect::<Vec<_>>(), ["app:1", "agent:2", "native:2"]);
    }

    #[test]
    fn a_pod_that_is_refused_is_left_alone_longer_each_time_w_7() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert!(refusals.note("a", now) && !refusals.note("a", now));
        assert_eq!(refusals.held(now), ["a".into()]);
        assert_eq!(refusals.next(now), Some(now + Duration::from_secs(2)));
        assert_eq!(refusals.held(now + Duration::from_secs(2)), [] as [Box<str>; 0]);
        (0..40).for_each(|_| _ = refusals.note("a", now));
        assert_eq!(refusals.next(now), Some(now + PAUSES.1));
        refusals.retain(|uid| uid != "a");
        assert!(refusals.is_empty());
    }

    #[test]
    fn there_is_an_end_to_the_pods_that_are_remembered() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        (0..2 * PODS).for_each(|n| _ = refusals.note(&n.to_string(), now));
        assert_eq!(refusals.held(now).len(), PODS);
    }
}
