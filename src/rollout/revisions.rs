//! Which ControllerRevision holds the content of a SidecarSet, and which of the former ones are kept (REV-1 … REV-9).
//!
//! [`register`] is asked again after each of its writes, with what the API server holds by then, until there is nothing
//! left to write. So it does not matter where a manager was stopped, nor how old the list was that it began with: a name
//! that turns out to be taken is in the next one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::names;
use crate::api::sidecarset::{InjectionRevision, SidecarSet};
use crate::sidecarset::revision::{revision_data, revision_name};

/// How many revisions are kept unless the set says otherwise (REV-9).
const HISTORY_LIMIT: i32 = 10;
/// Names that are tried for one content. Each is free with a probability of nearly 1.
const NAMES_TRIED: i32 = 100;

/// A stored ControllerRevision of the operator's namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    /// Its name.
    pub name: String,
    /// Its `revision`: the newest has the largest.
    pub number: i64,
    /// Its creation time, RFC 3339.
    pub created: String,
    /// Its labels, as far as they are read here.
    pub labels: BTreeMap<&'static str, String>,
    /// UID of the owner that controls it.
    pub controller: Option<String>,
    /// Its `data`.
    pub data: Value,
}

/// What [`register`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// Name of the revision that holds the current content (REV-11).
    pub name: String,
    /// Collisions of names met so far (REV-7).
    pub collision_count: i32,
    /// What is to be written before that is true; then ask again.
    pub write: Option<Write>,
}

/// One write of a revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create this object. If its name is taken, read who has it and ask again.
    Create(Value),
    /// Merge this patch into the object of this name.
    Patch(String, Value),
}

/// No name for the content is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{NAMES_TRIED} names for the revision were tried and all are taken; delete ControllerRevisions that nobody needs"
)]
pub struct NoNameFree;

/// What [`trim`] finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Names of revisions to delete, oldest first.
    pub delete: Vec<String>,
    /// How many there are still too many then, because pods or the set itself refer to them (W-19).
    pub excess: usize,
}

// === impl Revision ===

impl Revision {
    /// Reads a ControllerRevision. Whatever is in it that cannot be read counts as absent.
    pub fn read(document: &Value) -> Self {
        let metadata = &document["metadata"];
        let label = |key: &'static str| Some((key, metadata["labels"][key].as_str()?.to_owned()));
        Self {
            name: metadata["name"].as_str().unwrap_or_default().to_owned(),
            number: document["revision"].as_i64().unwrap_or_default(),
            created: metadata["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
            labels: [names::REVISION_OF, names::REVISION_HASH, names::CUSTOM_VERSION]
                .into_iter()
                .filter_map(label)
                .collect(),
            controller: controller(metadata).map(str::to_owned),
            data: document["data"].clone(),
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// REV-5. W-18, W-24: one that another UID controls is not ours, whatever its name.
    fn is_of(&self, set: &str, uid: &str) -> bool {
        self.label(names::REVISION_OF) == Some(set) && self.controller.as_deref().is_none_or(|owner| owner == uid)
    }

    /// REV-5: oldest first.
    fn age(&self) -> (i64, &str, &str) {
        (self.number, &self.created, &self.name)
    }

    /// REV-6. W-18: compared as JSON, not as bytes.
    fn holds(&self, data: &Value, hash: &str) -> bool {
        let number = |hash: &str| hash.parse::<i32>().ok();
        let differ = number(hash).zip(self.label(names::REVISION_HASH).and_then(number)).is_some_and(|(a, b)| a != b);
        !differ && self.data == *data
    }
}

/// UID of the owner that controls an object, from its metadata.
pub fn controller(metadata: &Value) -> Option<&str> {
    let owners = metadata["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// The revisions of the set `name`, oldest first (REV-5).
pub fn own<'a>(name: &str, uid: &str, known: &'a [Revision]) -> Vec<&'a Revision> {
    let mut own: Vec<&Revision> = known.iter().filter(|revision| revision.is_of(name, uid)).collect();
    own.sort_by(|a, b| a.age().cmp(&b.age()));
    own
}

/// The revision of a set's current content, and what to write for it (REV-6 … REV-8). `known` are the revisions with the
/// set's label, and those whose names were found to be taken.
pub fn register(
    set: &SidecarSet,
    uid: &str,
    collision_count: i32,
    namespace: &str,
    known: &[Revision],
) -> Result<Registered, NoNameFree> {
    let data = revision_data(&set.spec);
    let first = name_of(set, collision_count);
    let hash = first.rsplit('-').next().unwrap_or_default().to_owned();
    let own = own(&set.metadata.name, uid, known);
    let newest = own.last().map_or(0, |newest| newest.number);
    if let Some(current) = own.iter().rev().find(|revision| revision.holds(&data, &hash)) {
        return Ok(Registered { name: current.name.clone(), collision_count, write: refreshed(current, newest, set) });
    }
    for collision_count in (0..NAMES_TRIED).map(|tried| collision_count.saturating_add(tried)) {
        let name = name_of(set, collision_count);
        match known.iter().find(|revision| revision.name == name) {
            None => {
                let write = Some(Write::Create(created(set, uid, namespace, (&name, &hash), &data, newest + 1)));
                return Ok(Registered { name, collision_count, write });
            }
            // REV-7: the same content under a label that says otherwise.
            Some(taken) if taken.data == data && taken.is_of(&set.metadata.name, uid) => {
                return Ok(Registered { name, collision_count, write: refreshed(taken, newest, set) });
            }
            // W-18: also one of a former set of this name, which the garbage collector is about to delete.
            Some(_) => {}
        }
    }
    Err(NoNameFree)
}

fn name_of(set: &SidecarSet, collision_count: i32) -> String {
    // REV-3 reads nothing else of the status.
    let mut set = SidecarSet { metadata: set.metadata.clone(), spec: set.spec.clone(), ..SidecarSet::default() };
    set.status.collision_count = Some(collision_count);
    revision_name(&set)
}

/// REV-6, REV-8: the current revision is the newest and has the set's custom version.
fn refreshed(current: &Revision, newest: i64, set: &SidecarSet) -> Option<Write> {
    let mut patch = json!({});
    if current.number < newest {
        patch["revision"] = (newest + 1).into();
    }
    let version = &set.spec.custom_version;
    if !version.is_empty() && current.label(names::CUSTOM_VERSION) != Some(version) {
        patch["metadata"]["labels"][names::CUSTOM_VERSION] = version.as_str().into();
    }
    (patch != json!({})).then(|| Write::Patch(current.name.clone(), patch))
}

/// REV-1, REV-4.
fn created(
    set: &SidecarSet,
    uid: &str,
    namespace: &str,
    (name, hash): (&str, &str),
    data: &Value,
    number: i64,
) -> Value {
    let metadata = &set.metadata;
    let mut labels = metadata.labels.clone();
    labels.insert(names::REVISION_HASH.to_owned(), hash.to_owned());
    labels.insert(names::REVISION_OF.to_owned(), metadata.name.clone());
    if !set.spec.custom_version.is_empty() {
        labels.insert(names::CUSTOM_VERSION.to_owned(), set.spec.custom_version.clone());
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": metadata.annotations,
            "ownerReferences": [{
                "apiVersion": names::V1BETA1, "kind": "SidecarSet", "name": metadata.name, "uid": uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "data": data,
        "revision": number,
    })
}

/// Which revisions are too many (REV-9). `in_use` says whether a matching pod's record names a revision.
pub fn trim(set: &SidecarSet, uid: &str, known: &[Revision], in_use: impl Fn(&str) -> bool) -> Trimmed {
    let own = own(&set.metadata.name, uid, known);
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(HISTORY_LIMIT).max(1)).unwrap_or(1);
    let Some(mut excess) = own.len().checked_sub(limit).filter(|excess| *excess > 0) else {
        return Trimmed::default();
    };
    let asked = set.spec.injection_strategy.revision.as_ref();
    let pinned = asked.and_then(|asked| pinned(asked, &own));
    let mut delete = Vec::new();
    // Never the newest.
    for revision in own.iter().rev().skip(1).rev() {
        if excess == 0 {
            break;
        }
        if pinned != Some(revision.name.as_str()) && !in_use(&revision.name) {
            delete.push(revision.name.clone());
            excess -= 1;
        }
    }
    Trimmed { delete, excess }
}

fn pinned<'a>(asked: &'a InjectionRevision, own: &[&'a Revision]) -> Option<&'a str> {
    if let Some(name) = &asked.revision_name {
        return Some(name);
    }
    let version = asked.custom_version.as_deref()?;
    let newest = own.iter().rev().find(|revision| revision.label(names::CUSTOM_VERSION) == Some(version))?;
    Some(&newest.name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::sidecarset::admit::Stored;

    const UID: &str = "u1";

    fn set(image: &str) -> SidecarSet {
        let document = json!({
            "apiVersion": names::V1BETA1,
            "metadata": {"name": "agent", "labels": {"team": "a"}, "annotations": {"note": "x"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": image}]},
        });
        Stored::read(document).unwrap().set
    }

    /// What the API server has after a write.
    fn store(known: &mut Vec<Revision>, write: Write) {
        match write {
            Write::Create(document) => known.push(Revision::read(&document)),
            Write::Patch(name, patch) => {
                let found = known.iter_mut().find(|revision| revision.name == name).unwrap();
                if let Some(number) = patch["revision"].as_i64() {
                    found.number = number;
                }
                if let Some(version) = patch["metadata"]["labels"][names::CUSTOM_VERSION].as_str() {
                    found.labels.insert(names::CUSTOM_VERSION, version.to_owned());
                }
            }
        }
    }

    /// Registers until there is nothing to write; how many writes that took.
    fn settle(set: &SidecarSet, known: &mut Vec<Revision>) -> (Registered, usize) {
        let mut collisions = 0;
        for writes in 0..5 {
            let registered = register(set, UID, collisions, "kruise-system", known).unwrap();
            collisions = registered.collision_count;
            match registered.write.clone() {
                None => return (registered, writes),
                Some(write) => store(known, write),
            }
        }
        panic!("there is always something to write");
    }

    fn numbers(known: &[Revision]) -> Vec<(&str, i64)> {
        own("agent", UID, known).into_iter().map(|revision| (revision.name.as_str(), revision.number)).collect()
    }

    #[test]
    fn a_new_content_gets_a_revision_as_the_reference_makes_it_rev_1_rev_4() {
        let set = set("agent:1");
        let Some(Write::Create(made)) = register(&set, UID, 0, "kruise-system", &[]).unwrap().write else { panic!() };
        let name = made["metadata"]["name"].as_str().unwrap();
        let hash = name.strip_prefix("agent-").unwrap();
        assert_eq!(made["metadata"]["labels"][names::REVISION_HASH], hash);
        assert_eq!(made["metadata"]["labels"][names::REVISION_OF], "agent");
        assert_eq!(made["metadata"]["labels"]["team"], "a");
        assert_eq!(made["metadata"]["labels"].get(names::CUSTOM_VERSION), None);
        assert_eq!(made["metadata"]["annotations"]["note"], "x");
        assert_eq!(made["metadata"]["annotations"][names::HASH], set.metadata.annotations[names::HASH]);
        assert_eq!(
            made["metadata"]["ownerReferences"],
            json!([{"apiVersion": "apps.kruise.io/v1beta1", "kind": "SidecarSet", "name": "agent", "uid": "u1",
                "controller": true, "blockOwnerDeletion": true}])
        );
        assert_eq!((&made["revision"], &made["data"]), (&json!(1), &revision_data(&set.spec)));
    }

    #[test]
    fn a_rollback_renumbers_the_old_revision_rev_6() {
        let mut known = Vec::new();
        let (first, writes) = settle(&set("agent:1"), &mut known);
        assert_eq!(writes, 1);
        assert_eq!(settle(&set("agent:1"), &mut known), (first.clone(), 0), "nothing is written twice");
        let (second, _) = settle(&set("agent:2"), &mut known);
        assert_eq!(numbers(&known), [(first.name.as_str(), 1), (second.name.as_str(), 2)]);
        assert_eq!(settle(&set("agent:1"), &mut known), (first.clone(), 1));
        assert_eq!(numbers(&known), [(second.name.as_str(), 2), (first.name.as_str(), 3)]);
    }

    #[rstest]
    #[case::of_a_set_that_was_deleted(true, Some("u0"), 1)]
    #[case::with_another_content(false, Some(UID), 1)]
    #[case::of_nobody(true, None, 0)]
    fn a_name_that_is_taken_is_a_collision_unless_it_is_ours_rev_7_w_18(
        #[case] same_content: bool,
        #[case] controller: Option<&str>,
        #[case] collisions: i32,
    ) {
        let set = set("agent:1");
        let mut known = Vec::new();
        settle(&set, &mut known);
        known[0].controller = controller.map(str::to_owned);
        if !same_content {
            known[0].data = json!({"spec": {}});
        }
        let taken = known[0].name.clone();
        let (registered, _) = settle(&set, &mut known);
        assert_eq!(registered.collision_count, collisions);
        assert_eq!(registered.name == taken, collisions == 0);
        assert_eq!(settle(&set, &mut known).1, 0);
    }

    #[test]
    fn an_order_of_members_is_no_content_and_two_hashes_that_are_numbers_are_two_revisions_rev_6() {
        let set = set("agent:1");
        let mut known = Vec::new();
        let (first, _) = settle(&set, &mut known);
        let text = known[0].data.to_string();
        known[0].data = serde_json::from_str(&text).unwrap();
        known[0].labels.insert(names::REVISION_HASH, "4567".to_owned());
        assert_eq!(register(&set, UID, 0, "x", &known).unwrap().name, first.name);
        assert!(!known[0].holds(&known[0].data, "4568") && known[0].holds(&known[0].data, "4568b"));
    }

    #[test]
    fn the_custom_version_is_a_label_and_stays_one_rev_8() {
        let mut set = set("agent:1");
        let mut known = Vec::new();
        settle(&set, &mut known);
        set.spec.custom_version = "v1".to_owned();
        assert_eq!(settle(&set, &mut known).1, 1);
        set.spec.custom_version.clear();
        assert_eq!(settle(&set, &mut known).1, 0);
        assert_eq!(known[0].label(names::CUSTOM_VERSION), Some("v1"));
        let mut other = super::tests::set("agent:2");
        other.spec.custom_version = "v2".to_owned();
        settle(&other, &mut known);
        assert_eq!(known[1].label(names::CUSTOM_VERSION), Some("v2"));
    }

    fn history(count: i64) -> Vec<Revision> {
        let revision = |number: i64| Revision {
            name: format!("agent-{number}"),
            number,
            labels: [(names::REVISION_OF, "agent".to_owned()), (names::CUSTOM_VERSION, format!("v{}", number / 2))]
                .into(),
            controller: Some(UID.to_owned()),
            ..Revision::default()
        };
        (1..=count).rev().map(revision).collect()
    }

    #[rstest]
    #[case::the_example(12, None, json!({}), &["agent-1", "agent-2"], &["agent-3", "agent-4"], 0)]
    #[case::ten_are_kept(10, None, json!({}), &[], &[], 0)]
    #[case::at_least_one_is_kept(3, Some(0), json!({}), &[], &["agent-1", "agent-2"], 0)]
    #[case::never_the_newest(2, Some(1), json!({}), &["agent-1"], &[], 1)]
    #[case::the_name_asked_for(3, Some(1), json!({"revisionName": "agent-1"}), &[], &["agent-2"], 1)]
    #[case::the_newest_of_the_version_asked_for(4, Some(2), json!({"customVersion": "v1"}), &[], &["agent-1", "agent-2"], 0)]
    #[case::more_than_can_go_w_19(4, Some(1), json!({}), &["agent-1", "agent-2", "agent-3"], &[], 3)]
    fn the_oldest_go_first_and_none_that_is_in_use_rev_9(
        #[case] count: i64,
        #[case] limit: Option<i32>,
        #[case] asked: Value,
        #[case] in_use: &[&str],
        #[case] deleted: &[&str],
        #[case] excess: usize,
    ) {
        let mut set = set("agent:1");
        set.spec.revision_history_limit = limit;
        set.spec.injection_strategy.revision = serde_json::from_value(asked).ok();
        let mut known = history(count);
        known.push(Revision { name: "foreign".to_owned(), controller: Some("u0".to_owned()), ..known[0].clone() });
        let trimmed = trim(&set, UID, &known, |name| in_use.contains(&name));
        assert_eq!((trimmed.delete, trimmed.excess), (deleted.iter().map(ToString::to_string).collect(), excess));
    }
}
