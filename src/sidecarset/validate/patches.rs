//! Annotations that a SidecarSet may put on pods (SSV-30 … SSV-36).
//!
//! The white list is the administrator's: which annotation keys which SidecarSets may touch. It is asked when a
//! SidecarSet is stored and never when a pod is injected (META-8).

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::Surroundings;
use super::metadata::check_annotations;
use super::report::{Gravity, Place, Report};
use crate::api::json;
use crate::api::meta::LabelSelector;
use crate::api::names::{CONFIGURATION, PATCH_WHITE_LIST};
use crate::api::re2;
use crate::api::sidecarset::SidecarSet;
use crate::selector::Selector;
use crate::sidecarset::metadata::check_patch;

/// The white list as it is stored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WhiteList {
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    selector: Option<LabelSelector>,
    allowed_annotation_key_exprs: Vec<String>,
}

pub(super) fn check(report: &mut Report<'_>, set: &SidecarSet, around: &Surroundings<'_>) {
    let patches = &set.spec.patch_pod_metadata;
    if patches.is_empty() {
        return;
    }
    let at = Place::spec().member("patchPodMetadata");
    let source = format!("{PATCH_WHITE_LIST} in ConfigMap {CONFIGURATION}");
    let allowed = match allowed_keys(around.white_list, &set.metadata.labels) {
        Ok(expressions) if !expressions.is_empty() => Some(expressions),
        Ok(_) => {
            if !around.gates.patch_metadata_defaults_allowed {
                report.error(&at, format!("{source} allows this SidecarSet no annotation; add a rule there"));
            }
            None
        }
        Err(reason) => {
            report.error(&at, format!("{source} {reason}"));
            None
        }
    };

    let mut seen = BTreeSet::new();
    for (index, patch) in patches.iter().enumerate() {
        let at = at.item(index);
        if patch.annotations.is_empty() {
            report.error(&at.member("annotations"), "is required");
        }
        check_annotations(report, &at.member("annotations"), &patch.annotations);
        for (key, value) in &patch.annotations {
            let at = at.member("annotations").key(key);
            // META-4, META-5: stored by the reference, which then refuses every pod that has a value.
            if patch.patch_policy == "MergePatchJson"
                && let Err(reason) = check_patch(value)
            {
                report.warn(&at, format!("is never merged into the value of a pod: {reason}"));
            }
            if let Some(expressions) = &allowed
                && !expressions.iter().any(|expression| expression.is_match(key))
            {
                report.error(&at, format!("is not allowed by the rules of {source}"));
            }
            if !seen.insert(key) {
                report.error(&at, "is in an earlier entry already; keep one");
            }
        }
        // Differs: SSV-36. The reference stores any policy and then patches nothing.
        report.one_of(
            Gravity::Error,
            &at.member("patchPolicy"),
            &patch.patch_policy,
            &["Retain", "Overwrite", "MergePatchJson"],
        );
    }
}

/// The expressions of all rules that count for a SidecarSet with these labels (SSV-31).
fn allowed_keys(white_list: Option<&str>, labels: &BTreeMap<String, String>) -> Result<Vec<Regex>, String> {
    let Some(text) = white_list else { return Ok(Vec::new()) };
    let document: Value = serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    let (list, _) = json::decode::<WhiteList>(&document).map_err(|error| format!("is not a list of rules: {error}"))?;
    let mut expressions = Vec::new();
    for (index, rule) in list.rules.iter().enumerate() {
        let selector = rule.selector.as_ref().map(Selector::try_from).transpose();
        let selector = selector.map_err(|error| format!("has a bad selector in rules[{index}]: {error}"))?;
        if selector.is_some_and(|selector| selector.mismatch(labels).is_some()) {
            continue;
        }
        for expression in &rule.allowed_annotation_key_exprs {
            let wrong = |error| format!("has a bad expression in rules[{index}]: {error}");
            expressions.push(re2::compile(expression).map_err(wrong)?);
        }
    }
    Ok(expressions)
}
