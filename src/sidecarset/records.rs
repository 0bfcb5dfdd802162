//! The record that injection leaves on a pod: hashes, the list of sets, versions of hot-upgrade pairs (ANN, HOT-3, HOT-5).
//!
//! Controllers judge a pod by these annotations, so their texts are those of the reference.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::compiled::Twin;
use super::revision::Hashes;
use super::select::Chosen;
use crate::api::json;
use crate::api::names;
use crate::edits::Edits;
use crate::facts::{Fact, Recorder, Warnings};
use crate::pod::Pairs;

/// One entry of the two hash annotations, members in the reference's order (ANN-3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry<'a> {
    update_timestamp: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "null_is_empty")]
    hash: Cow<'a, str>,
    #[serde(deserialize_with = "null_is_empty")]
    sidecar_set_name: Cow<'a, str>,
    sidecar_list: Option<Cow<'a, [String]>>,
    #[serde(skip_serializing_if = "str::is_empty", deserialize_with = "null_is_empty")]
    controller_revision: Cow<'a, str>,
}

/// As Go reads it.
fn null_is_empty<'de, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    Ok(Cow::Owned(Option::<String>::deserialize(deserializer)?.unwrap_or_default()))
}

/// Where the time ends and the rest of an entry begins.
const AFTER_TIME: &str = ",\"hash\":";

/// The entries of one SidecarSet, rendered when it is compiled; only the time is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Name of the set, as JSON that stands inside a JSON string.
    name_escaped: String,
    full: AfterTime,
    without_image: AfterTime,
}

/// What follows the time in an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct AfterTime {
    text: String,
    /// The same as it stands inside a JSON string, which is where most pods get it.
    escaped: String,
}

impl Record {
    /// The record of a set. `sidecars` are the sorted names of its containers and native sidecars, hot-upgrade entries
    /// unsplit (ANN-3, HOT-6); the revision is part of the first entry only (ANN-4).
    pub fn new(set: &str, hashes: &Hashes, sidecars: &[String], revision: &str) -> Self {
        let after_time = |hash: &str, revision: &str| {
            let entry = Entry {
                update_timestamp: None,
                hash: Cow::Borrowed(hash),
                sidecar_set_name: Cow::Borrowed(set),
                sidecar_list: Some(Cow::Borrowed(sidecars)),
                controller_revision: Cow::Borrowed(revision),
            };
            let text = json::text(&entry);
            let text = text.find(AFTER_TIME).map_or_else(String::new, |at| text[at..].to_owned());
            AfterTime { escaped: escaped(&text), text }
        };
        Self {
            name_escaped: escaped(&json::text(&set)),
            full: after_time(&hashes.full, revision),
            without_image: after_time(&hashes.without_image, ""),
        }
    }
}

/// JSON as it stands inside a JSON string.
fn escaped(json: &str) -> String {
    let string = Value::from(json).to_string();
    string.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

/// The revision of a set that a pod was injected with, as far as its record says.
pub fn revision(annotations: &Pairs<'_>, set: &str) -> Option<String> {
    let entry = json::member(annotations.get(names::HASH)?, set).ok()??.get();
    let entry: Entry<'_> = serde_json::from_str(entry).ok()?;
    Some(entry.controller_revision.into_owned()).filter(|revision| !revision.is_empty())
}

/// What a pod's record says of one SidecarSet that it carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Hash that the set had when it was injected or last updated in place; empty when the record does not say.
    pub hash: String,
    /// Name of its ControllerRevision; empty when the record does not say.
    pub revision: String,
}

/// What a hash annotation says of one SidecarSet, as a rollout reads it (CTL-20).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The hash; empty when it cannot be read.
    pub hash: String,
    /// When the entry was written, as text.
    pub updated: Option<String>,
}

/// Reads the entry of one SidecarSet, in either form of ANN-6; `None` when there is none that can be read.
pub fn told(text: &str, set: &str) -> Option<Told> {
    let entry = json::member(text, set).ok()??.get();
    if let Ok(hash) = serde_json::from_str::<String>(entry) {
        return Some(Told { hash, updated: None });
    }
    let entry: Entry<'_> = serde_json::from_str(entry).ok()?;
    Some(Told { hash: entry.hash.into_owned(), updated: entry.update_timestamp.map(Cow::into_owned) })
}

/// A hash annotation after an update in place: the entry of `set` is new, those of others stay, the legacy form is
/// brought into today's, and garbage is started afresh (UPD-5, UPD-7).
pub fn renewed(before: Option<&str>, set: &str, record: &Record, now: &str) -> String {
    let changed = [set].into();
    let before = before.unwrap_or("{}");
    hash_annotation(before, &[(set, record)], |it| &it.full, now, &changed, names::HASH, &mut Warnings::default())
}

/// The same annotation in today's form, if it has the legacy one (UPD-7).
pub fn modernised(text: &str) -> Option<String> {
    serde_json::from_str::<BTreeMap<Cow<'_, str>, Cow<'_, str>>>(text).ok().filter(|entries| !entries.is_empty())?;
    Some(print_object(read_entries(text)?.iter().map(|(name, entry)| (name.as_str(), entry.clone()))))
}

/// The annotation of working containers after an update in place (HOT-5): other entries stay, garbage is started afresh.
pub fn working(before: Option<&str>, base: &str, container: &str) -> String {
    working_annotation(before, &[&(base.to_owned(), container.to_owned())], &mut Warnings::default())
}

/// The SidecarSets that a live pod carries, from the values of [`names::HASH`] and [`names::INJECTED_LIST`] (ANN-2,
/// ANN-9). Either form of ANN-6 is read; what cannot be read says nothing.
pub fn carried(hashes: Option<&str>, list: Option<&str>) -> BTreeMap<String, Carried> {
    let read = |entry: &RawValue| -> Option<Carried> {
        if let Ok(hash) = serde_json::from_str::<String>(entry.get()) {
            return Some(Carried { hash, revision: String::new() });
        }
        let entry: Entry<'_> = serde_json::from_str(entry.get()).ok()?;
        Some(Carried { hash: entry.hash.into_owned(), revision: entry.controller_revision.into_owned() })
    };
    let entries: BTreeMap<String, &RawValue> =
        hashes.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut carried: BTreeMap<String, Carried> =
        entries.into_iter().filter_map(|(name, entry)| Some((name, read(entry)?))).collect();
    for name in list.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        carried.entry(name.to_owned()).or_default();
    }
    carried
}

/// Writes the record of this injection. Call it last: META cannot overwrite it (ANN-8), and a set that changed nothing
/// keeps the time of its first injection.
pub fn write<'a>(
    annotations: &Pairs<'_>,
    chosen: &[Chosen<'a>],
    now: Timestamp,
    edits: &mut Edits<'a>,
    facts: &mut impl Recorder,
) {
    let contributing: Vec<&Chosen<'a>> = chosen.iter().filter(|chosen| !chosen.content.is_empty()).collect();
    if contributing.is_empty() {
        return;
    }
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let changed = changed_sets(edits);
    let before = |key: &str, edits: &Edits<'_>| {
        edits.annotations.get(key).map(ToString::to_string).or_else(|| annotations.get(key).map(str::to_owned))
    };
    let mut records: Vec<(&str, &Record)> =
        contributing.iter().map(|Chosen { set, content }| (set.name.as_str(), &content.record)).collect();
    records.sort_unstable_by_key(|(name, _)| *name);

    let mut entries = Vec::with_capacity(8);
    for (key, after_time) in [
        (names::HASH, (|record| &record.full) as fn(&Record) -> &AfterTime),
        (names::HASH_WITHOUT_IMAGE, |record| &record.without_image),
    ] {
        let Some(before) = before(key, edits) else {
            entries.push((Annotation::First(key), first_hash_annotation(&records, after_time, &now)));
            continue;
        };
        let text = hash_annotation(&before, &records, after_time, &now, &changed, key, facts);
        entries.push((Annotation::Record(key), text));
    }

    let listed = before(names::INJECTED_LIST, edits).unwrap_or_default();
    let mut list: Vec<&str> = listed.split(',').filter(|name| !name.is_empty()).collect();
    // ANN-2: all that apply, also one whose restored revision is empty.
    list.extend(chosen.iter().map(|chosen| chosen.set.name.as_str()));
    list.sort_unstable();
    list.dedup();
    entries.push((Annotation::Record(names::INJECTED_LIST), list.join(",")));

    let working: Vec<&(String, String)> = contributing.iter().flat_map(|chosen| &chosen.content.working).collect();
    if !working.is_empty() {
        let text = working_annotation(before(names::WORKING_CONTAINER, edits).as_deref(), &working, facts);
        entries.push((Annotation::Record(names::WORKING_CONTAINER), text));
    }
    for Chosen { content, .. } in contributing {
        for template in content.init_containers.iter().chain(&content.containers) {
            let (version, alternate) = match template.twin {
                None => continue,
                Some(Twin::Working) => ("1", "0"),
                Some(Twin::Idle) => ("0", "1"),
            };
            for (prefix, version) in [(names::VERSION_PREFIX, version), (names::VERSION_ALT_PREFIX, alternate)] {
                entries.push((Annotation::Version { prefix, container: &template.name, version }, version.to_owned()));
            }
        }
    }

    for (annotation, text) in entries {
        if let Annotation::First(key) = annotation {
            facts.record(|| annotation.fact());
            edits.escaped_annotations.insert(key, text);
            continue;
        }
        let key = annotation.key();
        if annotations.get(&key) == Some(text.as_str()) {
            edits.annotations.remove(&key);
        } else {
            facts.record(|| annotation.fact());
            edits.annotations.insert(key, Cow::Owned(text));
        }
    }
}

/// An annotation that is written here.
enum Annotation<'t> {
    /// A record where there is none yet, as it stands inside a JSON string.
    First(&'static str),
    Record(&'static str),
    Version {
        prefix: &'static str,
        container: &'t str,
        version: &'static str,
    },
}

impl Annotation<'_> {
    fn key(&self) -> Cow<'static, str> {
        match self {
            Self::First(key) | Self::Record(key) => Cow::Borrowed(key),
            Self::Version { prefix, container, .. } => Cow::Owned(format!("{prefix}{container}")),
        }
    }

    fn fact(&self) -> Fact {
        match *self {
            Self::First(key) | Self::Record(key) => Fact::Record { key },
            Self::Version { container, version, .. } => {
                Fact::Version { container: container.to_owned(), key: self.key().into_owned(), version }
            }
        }
    }
}

/// The sets of which some container is new or differs from the one in the pod.
fn changed_sets<'a>(edits: &Edits<'a>) -> BTreeSet<&'a str> {
    let lists = [&edits.init_containers, &edits.containers];
    let injected = lists.into_iter().flat_map(|list| {
        list.before.iter().chain(&list.after).chain(list.replaced.iter().map(|(_, injected)| injected))
    });
    injected.map(|injected| injected.set).collect()
}

/// The annotation of a pod that has none yet, as it stands inside a JSON string. `records` are sorted by the names of
/// their sets, and there is at least one.
fn first_hash_annotation(records: &[(&str, &Record)], after_time: fn(&Record) -> &AfterTime, now: &str) -> String {
    let mut out = String::with_capacity(1024);
    for (_, record) in records {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&record.name_escaped);
        out.push_str(r#":{\"updateTimestamp\":\""#);
        out.push_str(now);
        out.push_str("\\\"");
        out.push_str(&after_time(record).escaped);
    }
    out.push('}');
    out
}

/// ANN-1, ANN-5, ANN-6: entries of other sets stay; a set that changed nothing keeps its time.
fn hash_annotation(
    before: &str,
    records: &[(&str, &Record)],
    after_time: fn(&Record) -> &AfterTime,
    now: &str,
    changed: &BTreeSet<&str>,
    key: &'static str,
    facts: &mut impl Recorder,
) -> String {
    // Differs: ANN-6. The reference refuses the pod.
    let old = read_entries(before).unwrap_or_else(|| {
        facts.warn(Fact::RecordReset { key });
        Vec::new()
    });
    let mut texts: BTreeMap<&str, String> = old.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    for (name, record) in records {
        let after_time = after_time(record).text.as_str();
        let same = texts.get(name).is_some_and(|old| old.ends_with(after_time));
        if !same || changed.contains(name) {
            texts.insert(name, [r#"{"updateTimestamp":""#, now, "\"", after_time].concat());
        }
    }
    print_object(texts.into_iter())
}

/// The entries of a hash annotation, each as the text it had; the legacy form is brought into today's (ANN-6). `None`
/// when the text is neither form.
fn read_entries(text: &str) -> Option<Vec<(String, String)>> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let read = |(name, entry): (String, &RawValue)| {
        if let Ok(hash) = serde_json::from_str::<String>(entry.get()) {
            let legacy = Entry { hash: Cow::Owned(hash), sidecar_set_name: Cow::Borrowed(&name), ..Entry::default() };
            return Some((name.clone(), json::text(&legacy)));
        }
        let record: Entry<'_> = serde_json::from_str(entry.get()).ok()?;
        Some((name, json::text(&record)))
    };
    entries.into_iter().map(read).collect()
}

/// HOT-5: merged into what the pod already carries.
fn working_annotation(before: Option<&str>, working: &[&(String, String)], facts: &mut impl Recorder) -> String {
    let old: Option<BTreeMap<String, String>> = match before {
        None | Some("") => Some(BTreeMap::new()),
        Some(text) => serde_json::from_str(text).ok(),
    };
    if old.is_none() {
        facts.warn(Fact::RecordReset { key: names::WORKING_CONTAINER });
    }
    let mut all = old.unwrap_or_default();
    all.extend(working.iter().map(|(entry, container)| (entry.clone(), container.clone())));
    json::text(&all)
}

/// An object of these members.
fn print_object<'n>(members: impl Iterator<Item = (&'n str, String)>) -> String {
    let mut out = String::with_capacity(1024);
    for (name, text) in members {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&json::text(&name));
        out.push(':');
        out.push_str(&text);
    }
    out.push_str(if out.is_empty() { "{}" } else { "}" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Everything;

    const NOW: &str = "2026-03-04T05:06:07Z";

    fn record(hash: &str) -> Record {
        let hashes = Hashes { full: hash.to_owned(), without_image: "none".to_owned() };
        Record::new("mesh", &hashes, &["proxy".to_owned()], "mesh-6c7")
    }

    fn annotation(before: Option<&str>, record: &Record, changed: &[&str], facts: &mut Everything) -> String {
        let changed = changed.iter().copied().collect();
        let records = [("mesh", record)];
        let Some(before) = before else {
            let escaped = first_hash_annotation(&records, |record| &record.full, NOW);
            return serde_json::from_str(&format!("\"{escaped}\"")).unwrap();
        };
        hash_annotation(before, &records, |record| &record.full, NOW, &changed, names::HASH, facts)
    }

    #[test]
    fn a_record_has_the_text_of_the_reference() {
        let text = annotation(None, &record("4vz5"), &[], &mut Everything::default());
        assert_eq!(
            text,
            r#"{"mesh":{"updateTimestamp":"2026-03-04T05:06:07Z","hash":"4vz5","sidecarSetName":"mesh","sidecarList":["proxy"],"controllerRevision":"mesh-6c7"}}"#
        );
        assert!(!record("4vz5").without_image.text.contains("controllerRevision"), "ANN-4");
    }

    #[test]
    fn a_revision_is_read_back_from_its_record() {
        let text = annotation(None, &record("x"), &[], &mut Everything::default());
        let revision_in = |text: &str, set| {
            let annotations = serde_json::json!({names::HASH: text}).to_string();
            revision(&Pairs::parse(&annotations).unwrap(), set)
        };
        assert_eq!(revision_in(&text, "mesh").as_deref(), Some("mesh-6c7"));
        assert_eq!(revision_in(&text, "other"), None);
        assert_eq!(revision_in(r#"{"mesh":"legacy"}"#, "mesh"), None);
        assert_eq!(revision_in("garbage", "mesh"), None);
    }

    #[test]
    fn null_is_read_as_nothing() {
        let text = r#"{"mesh":{"updateTimestamp":null,"hash":"x","sidecarSetName":null,"controllerRevision":null}}"#;
        assert_eq!(told(text, "mesh"), Some(Told { hash: "x".to_owned(), updated: None }));
    }

    #[test]
    fn records_of_other_sets_stay() {
        let old =
            r#"{"old":{"updateTimestamp":"2020-01-01T00:00:00Z","hash":"h","sidecarSetName":"old","sidecarList":[]}}"#;
        let text = annotation(Some(old), &record("x"), &[], &mut Everything::default());
        assert!(text.starts_with(r#"{"mesh":{"updateTimestamp":"2026"#), "{text}");
        assert!(text.contains(r#""old":{"updateTimestamp":"2020"#), "{text}");
    }

    #[test]
    fn the_legacy_form_is_brought_up_to_date() {
        let text = annotation(Some(r#"{"old":"h"}"#), &record("x"), &[], &mut Everything::default());
        let old = r#""old":{"updateTimestamp":null,"hash":"h","sidecarSetName":"old","sidecarList":null}}"#;
        assert!(text.ends_with(old), "{text}");
    }

    #[test]
    fn garbage_is_started_afresh_and_told() {
        let mut facts = Everything::default();
        let text = annotation(Some("garbage"), &record("x"), &[], &mut facts);
        assert!(text.starts_with(r#"{"mesh":"#));
        assert_eq!(facts.0, [Fact::RecordReset { key: names::HASH }]);
    }

    #[test]
    fn a_set_that_changed_nothing_keeps_its_time() {
        let before = annotation(None, &record("x"), &[], &mut Everything::default()).replace("2026", "2020");
        assert_eq!(annotation(Some(&before), &record("x"), &[], &mut Everything::default()), before);
        assert_ne!(annotation(Some(&before), &record("x"), &["mesh"], &mut Everything::default()), before);
        assert_ne!(annotation(Some(&before), &record("y"), &[], &mut Everything::default()), before);
    }

    #[test]
    fn the_working_containers_are_merged() {
        let pair = ("tail".to_owned(), "tail-1".to_owned());
        let text = working_annotation(Some(r#"{"mesh":"mesh-2"}"#), &[&pair], &mut Everything::default());
        assert_eq!(text, r#"{"mesh":"mesh-2","tail":"tail-1"}"#);
    }
}
