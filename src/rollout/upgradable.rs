//! The condition `SidecarSetUpgradable`: which SidecarSets cannot update a pod in place (NUP-4, NUP-5, W-8).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::View;
use super::{Step, Subresource, Write, time_text, update};
use crate::api::{json as api_json, names};

/// What a set has to say of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// It can be updated. This is what silence means, so it is only said to take back a `Not`.
    Can,
    /// More than images changed.
    Not,
    /// Nothing new.
    Nothing,
}

/// The write that brings the condition up to date, if it is not.
///
/// W-8: members of sets that the pod does not carry are dropped, a text that cannot be read is started afresh, and the
/// write is conditional on the pod's version, so that no member of another set is lost.
pub(super) fn write(view: &View<'_>, set: &str, say: Say, now: Timestamp) -> Option<Write> {
    let before = view.pod.upgradable.as_ref();
    if before.is_none() && say != Say::Not {
        return None;
    }
    let carried: BTreeSet<&str> = view.pod.injected_by().collect();
    let told: Option<BTreeMap<String, Value>> =
        before.map_or_else(|| Some(BTreeMap::new()), |condition| serde_json::from_str(&condition.message).ok());
    let mut members: BTreeMap<&str, bool> = BTreeMap::new();
    for (name, value) in told.iter().flatten() {
        if let (true, Some(value)) = (carried.contains(name.as_str()), value.as_bool()) {
            members.insert(name, value);
        }
    }
    match say {
        Say::Not => _ = members.insert(set, false),
        Say::Can => _ = members.entry(set).and_modify(|value| *value = true),
        Say::Nothing => {}
    }
    let (status, reason) = if members.values().all(|can| *can) {
        ("True", "AllSidecarsetUpgradable")
    } else {
        ("False", "UpdateImmutableField")
    };
    let message = api_json::text(&members);
    let same = |condition: &super::pod::Upgradable| {
        (&*condition.status, &*condition.reason, &*condition.message) == (status, reason, message.as_str())
    };
    if before.is_some_and(same) {
        return None;
    }
    let since = before.filter(|condition| &*condition.status == status).and_then(|condition| condition.since);
    let condition = json!({
        "type": names::UPGRADABLE, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": time_text(since.unwrap_or(now)),
    });
    let mut patch = Map::new();
    patch.insert("status".to_owned(), json!({"conditions": [condition]}));
    let patch = update::conditional(view.pod, patch, &BTreeMap::new());
    Some(Write { pod: view.index, step: Step::Condition, subresource: Subresource::Status, patch, events: Vec::new() })
}
