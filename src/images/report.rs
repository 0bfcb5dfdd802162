//! The status of a NodeImage, as its node reports it (IMG-35): what was finished before is kept, what is under way is told.
//!
//! First completion wins: an entry that is completed at the tag's version is never written over, whoever wrote it (IMG-31).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::tag::fault::shorten;
use crate::api::nodeimage::{ImageStatus, ImageTagSpec, ImageTagStatus, NodeImageSpec, NodeImageStatus, SyncStatus};

/// Not yet begun.
pub const WAITING: &str = "Waiting";
/// Under way.
pub const PULLING: &str = "Pulling";
/// The image is there.
pub const SUCCEEDED: &str = "Succeeded";
/// It was given up.
pub const FAILED: &str = "Failed";

/// Bytes of all messages of a NodeImage. WEAK-40: what hundreds of tags say must not make it large.
const MESSAGES: usize = 16 << 10;
/// Bytes that every message may have.
const SHORTEST: usize = 48;

/// Image name and tag.
pub type Key = (String, String);

/// How urgent a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing is new.
    None,
    /// A percentage or a word of explanation.
    Slight,
    /// A tag is in another phase, or one came or went.
    High,
}

/// All tags of a spec.
pub fn tags(spec: &NodeImageSpec) -> impl Iterator<Item = (&String, &ImageTagSpec)> {
    spec.images.iter().flat_map(|(name, image)| image.tags.iter().map(move |tag| (name, tag)))
}

/// What a status says of a tag at this version, if that is completed.
pub fn finished<'a>(status: &'a NodeImageStatus, name: &str, tag: &ImageTagSpec) -> Option<&'a ImageTagStatus> {
    let tags = &status.image_statuses.get(name)?.tags;
    let entry = tags.iter().find(|entry| entry.tag == tag.tag && entry.version == tag.version)?;
    entry.completion_time.is_some().then_some(entry)
}

/// The status to report at `now`: `stored` is the one that the API server has, `live` what this process knows.
pub fn status(
    spec: &NodeImageSpec,
    stored: &NodeImageStatus,
    live: &BTreeMap<Key, ImageTagStatus>,
    now: Timestamp,
) -> NodeImageStatus {
    let mut status =
        NodeImageStatus { first_sync_status: stored.first_sync_status.clone(), ..NodeImageStatus::default() };
    let (mut said, mut speaking) = (0, 0);
    for (name, tag) in tags(spec) {
        let known = live.get(&(name.clone(), tag.tag.clone())).filter(|entry| entry.version == tag.version);
        let entry = finished(stored, name, tag).or(known).cloned().unwrap_or_else(|| ImageTagStatus {
            tag: tag.tag.clone(),
            version: tag.version,
            phase: WAITING.to_owned(),
            ..ImageTagStatus::default()
        });
        said += entry.message.len();
        speaking += usize::from(!entry.message.is_empty());
        let count = match &*entry.phase {
            SUCCEEDED => &mut status.succeeded,
            FAILED => &mut status.failed,
            PULLING => &mut status.pulling,
            _ => &mut status.waiting,
        };
        *count += 1;
        status.desired += 1;
        let of_image: &mut ImageStatus = status.image_statuses.entry(name.clone()).or_default();
        of_image.tags.push(entry);
    }
    if said > MESSAGES {
        let each = (MESSAGES / speaking.max(1)).max(SHORTEST);
        for entry in status.image_statuses.values_mut().flat_map(|image| &mut image.tags) {
            entry.message = shorten(&entry.message, each);
        }
    }
    // WEAK-31: the reference never writes it.
    if status.first_sync_status.is_none() && status.desired > 0 && status.succeeded + status.failed == status.desired {
        status.first_sync_status = Some(first_sync(&status, now));
    }
    status
}

fn first_sync(status: &NodeImageStatus, now: Timestamp) -> SyncStatus {
    let NodeImageStatus { desired, succeeded, failed, .. } = status;
    let message = format!("{succeeded} of {desired} images are there, {failed} were given up");
    let verdict = if *failed == 0 { SUCCEEDED } else { FAILED };
    SyncStatus { sync_at: Some(seconds(now)), status: verdict.to_owned(), message }
}

/// How much a new status differs from the stored one (WEAK-29: it is compared with what the API server has, so what others
/// wrote is noticed, and nothing is written twice).
pub fn urgency(stored: &NodeImageStatus, new: &NodeImageStatus) -> Urgency {
    if stored == new {
        return Urgency::None;
    }
    let without_words = |status: &NodeImageStatus| {
        let mut status = status.clone();
        for entry in status.image_statuses.values_mut().flat_map(|image| &mut image.tags) {
            entry.progress = 0;
            entry.message.clear();
        }
        status
    };
    if without_words(stored) == without_words(new) { Urgency::Slight } else { Urgency::High }
}

/// The merge patch that makes the one of the other, if the object is still at `version`. Differs: IMG-36. What others add to
/// the status is not lost.
pub fn patch(version: &str, stored: &NodeImageStatus, new: &NodeImageStatus) -> Value {
    let mut status = serde_json::to_value(new).unwrap_or_default();
    // What is left out stays as it was, so what is gone has to be named.
    let gone = stored.image_statuses.keys().filter(|name| !new.image_statuses.contains_key(*name));
    for name in gone {
        status["imageStatuses"][name] = Value::Null;
    }
    if new.image_statuses.is_empty() {
        status["imageStatuses"] = Value::Null;
    }
    json!({"metadata": {"resourceVersion": version}, "status": status})
}

/// A time as the API server keeps it: in whole seconds. Another one would differ from itself when it comes back.
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spec(images: &[(&str, &[(&str, i64)])]) -> NodeImageSpec {
        let tag = |(tag, version): &(&str, i64)| json!({"tag": tag, "version": version});
        let images: serde_json::Map<String, Value> = images
            .iter()
            .map(|(name, tags)| ((*name).to_owned(), json!({"tags": tags.iter().map(tag).collect::<Vec<_>>()})))
            .collect();
        serde_json::from_value(json!({"images": images})).unwrap()
    }

    fn entry(tag: &str, version: i64, phase: &str, done: bool) -> ImageTagStatus {
        ImageTagStatus {
            tag: tag.to_owned(),
            version,
            phase: phase.to_owned(),
            completion_time: done.then(|| seconds(now())),
            ..ImageTagStatus::default()
        }
    }

    fn now() -> Timestamp {
        "2026-03-02T08:00:19.5Z".parse().unwrap()
    }

    fn stored(entries: &[(&str, ImageTagStatus)]) -> NodeImageStatus {
        let mut status = NodeImageStatus::default();
        for (name, entry) in entries {
            status.image_statuses.entry((*name).to_owned()).or_default().tags.push(entry.clone());
        }
        status
    }

    fn live(entries: &[(&str, ImageTagStatus)]) -> BTreeMap<Key, ImageTagStatus> {
        entries.iter().map(|(name, entry)| (((*name).to_owned(), entry.tag.clone()), entry.clone())).collect()
    }

    #[test]
    fn tags_are_counted_by_phase_waiting_ones_too_weak_31() {
        let spec = spec(&[("a", &[("1", 0), ("2", 0), ("3", 0)]), ("b", &[("1", 0), ("2", 0)])]);
        let live = live(&[
            ("a", entry("1", 0, PULLING, false)),
            ("a", entry("2", 0, SUCCEEDED, true)),
            ("b", entry("1", 0, FAILED, true)),
        ]);
        let status = status(&spec, &NodeImageStatus::default(), &live, now());
        let NodeImageStatus { desired, succeeded, failed, pulling, waiting, .. } = &status;
        assert_eq!((*desired, *succeeded, *failed, *pulling, *waiting), (5, 1, 1, 1, 2));
        let tags: Vec<&str> = status.image_statuses["a"].tags.iter().map(|entry| &*entry.tag).collect();
        assert_eq!(tags, ["1", "2", "3"], "in the order of the spec");
        assert!(status.first_sync_status.is_none());
    }

    #[test]
    fn the_first_completion_of_a_version_stays_img_31() {
        let mut failed = entry("1", 3, FAILED, true);
        failed.message = "node has not responded for a long time".to_owned();
        let stored = stored(&[("a", failed.clone())]);
        let live = live(&[("a", entry("1", 3, SUCCEEDED, true))]);
        assert_eq!(status(&spec(&[("a", &[("1", 3)])]), &stored, &live, now()).image_statuses["a"].tags, [failed]);
        let next = status(&spec(&[("a", &[("1", 4)])]), &stored, &live, now());
        assert_eq!(next.image_statuses["a"].tags, [entry("1", 4, WAITING, false)], "another version is another round");
    }

    #[test]
    fn the_first_sync_is_told_once_when_everything_is_finished_weak_31() {
        let spec = spec(&[("a", &[("1", 0), ("2", 0)])]);
        let live = live(&[("a", entry("1", 0, SUCCEEDED, true)), ("a", entry("2", 0, FAILED, true))]);
        let first = status(&spec, &NodeImageStatus::default(), &live, now());
        let sync = first.first_sync_status.clone().unwrap();
        assert_eq!((&*sync.status, &*sync.message), (FAILED, "1 of 2 images are there, 1 were given up"));
        let later = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(status(&spec, &first, &live, later), first);
        let none = status(&NodeImageSpec::default(), &NodeImageStatus::default(), &live, now());
        assert_eq!(none, NodeImageStatus::default(), "an empty spec is no sync, and nothing to write");
    }

    #[test]
    fn a_report_is_as_urgent_as_what_it_says_weak_29() {
        let spec = spec(&[("a", &[("1", 0)])]);
        let report = |phase: &str, progress: i32| {
            let entry = ImageTagStatus { progress, ..entry("1", 0, phase, false) };
            status(&spec, &NodeImageStatus::default(), &live(&[("a", entry)]), now())
        };
        assert_eq!(urgency(&report(PULLING, 5), &report(PULLING, 5)), Urgency::None);
        assert_eq!(urgency(&report(PULLING, 5), &report(PULLING, 6)), Urgency::Slight);
        assert_eq!(urgency(&report(WAITING, 0), &report(PULLING, 0)), Urgency::High);
        assert_eq!(urgency(&NodeImageStatus::default(), &report(WAITING, 0)), Urgency::High);
    }

    #[test]
    fn what_hundreds_of_tags_say_stays_small_weak_40() {
        let tags: Vec<(String, i64)> = (0..255).map(|n| (n.to_string(), 0)).collect();
        let tags: Vec<(&str, i64)> = tags.iter().map(|(tag, version)| (&**tag, *version)).collect();
        let spec = spec(&[("a", &tags)]);
        let entries: Vec<_> = tags
            .iter()
            .map(|(tag, _)| ("a", ImageTagStatus { message: "é".repeat(300), ..entry(tag, 0, FAILED, true) }))
            .collect();
        let status = status(&spec, &NodeImageStatus::default(), &live(&entries), now());
        let said: usize = status.image_statuses["a"].tags.iter().map(|entry| entry.message.len()).sum();
        assert!(said <= MESSAGES && said > MESSAGES / 2, "{said}");
    }

    #[test]
    fn a_time_survives_the_way_to_the_api_server_and_back() {
        let time = seconds(now());
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!((&*text, serde_json::from_str::<Time>(&text).unwrap()), ("\"2026-03-02T08:00:19Z\"", time));
    }

    /// One of few images, its tag, version and phase, and whether it is done.
    fn some_entries() -> impl Strategy<Value = Vec<(String, ImageTagStatus)>> {
        let phases = prop::sample::select(vec![WAITING, PULLING, SUCCEEDED, FAILED]);
        let one = ("[ab]", "[12]", 0_i64..2, phases, any::<bool>());
        let one = one.prop_map(|(name, tag, version, phase, done)| (name, entry(&tag, version, phase, done)));
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn a_patch_makes_of_what_is_stored_what_is_reported(
            specified in some_entries(), before in some_entries(), known in some_entries(),
        ) {
            let mut spec = NodeImageSpec::default();
            for (name, entry) in &specified {
                let tags = &mut spec.images.entry(name.clone()).or_default().tags;
                if tags.iter().all(|tag| tag.tag != entry.tag) {
                    tags.push(ImageTagSpec { tag: entry.tag.clone(), version: entry.version, ..ImageTagSpec::default() });
                }
            }
            let of = |list: &[(String, ImageTagStatus)]| -> Vec<(String, ImageTagStatus)> { list.to_vec() };
            let mut stored = NodeImageStatus::default();
            for (name, entry) in of(&before) {
                stored.image_statuses.entry(name).or_default().tags.push(entry);
            }
            let known = known.iter().map(|(name, entry)| ((name.clone(), entry.tag.clone()), entry.clone())).collect();
            let new = status(&spec, &stored, &known, now());
            let mut object = json!({"metadata": {"resourceVersion": "1"}, "status": stored});
            json_patch::merge(&mut object, &patch("1", &stored, &new));
            prop_assert_eq!(serde_json::from_value::<NodeImageStatus>(object["status"].clone()).unwrap(), new.clone());
            prop_assert_eq!(new.desired, new.succeeded + new.failed + new.pulling + new.waiting);
            prop_assert_eq!(urgency(&new, &status(&spec, &new, &known, now())), Urgency::None, "and then there is nothing to say");
        }
    }
}
