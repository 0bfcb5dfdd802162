//! Annotations that SidecarSets patch into a pod (META).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::select::Chosen;
use crate::api::json;
use crate::edits::Edits;
use crate::facts::{Fact, PatchOutcome, Recorder};
use crate::pod::Pairs;

/// Applies the patches of all sets, in their order, to the annotations of the pod.
pub fn patch<'a>(annotations: &Pairs<'_>, chosen: &[Chosen<'a>], edits: &mut Edits<'a>, facts: &mut impl Recorder) {
    for Chosen { set, content } in chosen {
        for entry in &content.metadata {
            for (key, value) in &entry.annotations {
                let before = edits.annotations.get(key.as_str()).map(|value| &**value).or_else(|| annotations.get(key));
                let (new, outcome) = patch_one(&entry.patch_policy, before, value);
                if let Some(new) = new
                    && Some(&*new) != before
                {
                    edits.annotations.insert(Cow::Borrowed(key), new);
                }
                let is_warning = matches!(outcome, PatchOutcome::Unmergeable(_));
                let fact = || Fact::Patched { set: set.name.clone(), key: key.clone(), outcome };
                if is_warning { facts.warn(fact()) } else { facts.record(fact) }
            }
        }
    }
    // What one set changed and another changed back is no change (RSP-4).
    edits.annotations.retain(|key, value| annotations.get(key) != Some(&**value));
}

/// The new value of one annotation, if it gets one.
fn patch_one<'a>(policy: &str, before: Option<&str>, value: &'a str) -> (Option<Cow<'a, str>>, PatchOutcome) {
    match (policy, before) {
        // META-1: an empty value counts as present.
        ("Retain" | "", Some(_)) => (None, PatchOutcome::Retained),
        ("Retain" | "", None) | ("Overwrite", _) | ("MergePatchJson", None | Some("")) => {
            (Some(Cow::Borrowed(value)), PatchOutcome::Set)
        }
        // A second admission finds the text that the first stored verbatim (META-3).
        ("MergePatchJson", Some(before)) if before == value => (None, PatchOutcome::Merged),
        ("MergePatchJson", Some(before)) => match merge(before, value) {
            Ok(merged) => (Some(Cow::Owned(merged)), PatchOutcome::Merged),
            // Differs: META-5. The reference refuses the pod.
            Err(why) => (None, PatchOutcome::Unmergeable(why)),
        },
        (unknown, _) => (None, PatchOutcome::UnknownPolicy(unknown.to_owned())),
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// RFC 7386 on texts: what the patch does not touch keeps its spelling (META-4).
pub fn merge(before: &str, patch: &str) -> Result<String, &'static str> {
    let parse = |text| serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get).filter(|text| *text != "null");
    let before = parse(before).ok_or("the pod's value is not JSON, or is null")?;
    let patch = parse(patch).ok_or("the value of the SidecarSet is not JSON, or is null")?;
    match (members(before), members(patch)) {
        (Some(before), Some(patch)) => Ok(merge_objects(&before, patch)),
        (None, Some(_)) => Ok(without_nulls(patch)),
        (_, None) if patch.starts_with('[') => Ok(without_nulls(patch)),
        (_, None) => Err("the value of the SidecarSet is neither an object nor an array"),
    }
}

fn merge_objects(before: &Members<'_>, patch: Members<'_>) -> String {
    let mut merged: BTreeMap<String, String> =
        before.iter().map(|(key, value)| (key.clone(), compact(value.get()))).collect();
    for (key, value) in patch {
        let value = value.get();
        if value == "null" {
            merged.remove(&key);
            continue;
        }
        let both = before.get(&key).and_then(|old| Some((members(old.get())?, members(value)?)));
        let new = match both {
            Some((old, new)) => merge_objects(&old, new),
            None => without_nulls(value),
        };
        merged.insert(key, new);
    }
    print_object(&merged)
}

/// The text with sorted keys and without the null members of its objects.
fn without_nulls(text: &str) -> String {
    if let Some(members) = members(text) {
        let kept = members.into_iter().filter(|(_, value)| value.get() != "null");
        return print_object(&kept.map(|(key, value)| (key, without_nulls(value.get()))).collect());
    }
    if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
        let items: Vec<String> = items.iter().map(|item| without_nulls(item.get())).collect();
        return format!("[{}]", items.join(","));
    }
    compact(text)
}

fn members(text: &str) -> Option<Members<'_>> {
    if text.starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

fn print_object(members: &BTreeMap<String, String>) -> String {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{}:{value}", json::text(key))).collect();
    format!("{{{}}}", members.join(","))
}

/// The text without white space, and safe inside HTML.
fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if !in_string && c.is_ascii_whitespace() => continue,
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
                escaped = false;
                continue;
            }
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::adds_and_sorts(
        r#"{"app": 1}"#,
        r#"{"proxy": 2, "a": {"z":1,"b":2}}"#,
        r#"{"a":{"b":2,"z":1},"app":1,"proxy":2}"#
    )]
    #[case::null_deletes(r#"{"a":1,"b":2}"#, r#"{"a":null}"#, r#"{"b":2}"#)]
    #[case::nulls_of_new_objects_are_dropped("{}", r#"{"log":{"b":1,"a":null}}"#, r#"{"log":{"b":1}}"#)]
    #[case::untouched_keeps_order_and_numbers(r#"{"x": {"b": 1.50, "a": 1e3}}"#, "{}", r#"{"x":{"b":1.50,"a":1e3}}"#)]
    #[case::html_is_escaped(r#"{"x":"<a & \"b\">"}"#, "{}", r#"{"x":"\u003ca \u0026 \"b\"\u003e"}"#)]
    #[case::not_an_object_is_replaced_by_one("[1, 2]", r#"{"a":1,"b":null}"#, r#"{"a":1}"#)]
    #[case::an_array_replaces(r#"{"a":1}"#, "[1, 2]", "[1,2]")]
    fn a_merge(#[case] before: &str, #[case] patch: &str, #[case] merged: &str) {
        assert_eq!(merge(before, patch).unwrap(), merged);
    }

    #[rstest]
    #[case::the_pods_value_is_no_json("plain", "{}")]
    #[case::the_pods_value_is_null("null", "{}")]
    #[case::the_patch_is_no_json("{}", "{")]
    #[case::the_patch_is_null("{}", "null")]
    #[case::the_patch_is_a_bare_string("{}", "\"x\"")]
    fn there_is_no_merge_when(#[case] before: &str, #[case] patch: &str) {
        assert!(merge(before, patch).is_err());
    }

    #[rstest]
    #[case::retain_keeps_an_empty_value("Retain", Some(""), None)]
    #[case::retain_sets_what_is_absent("Retain", None, Some("{ }"))]
    #[case::overwrite_sets("Overwrite", Some("x"), Some("{ }"))]
    #[case::merge_stores_verbatim_over_nothing("MergePatchJson", None, Some("{ }"))]
    #[case::merge_stores_verbatim_over_an_empty_value("MergePatchJson", Some(""), Some("{ }"))]
    #[case::merge_keeps_what_it_stored_before("MergePatchJson", Some("{ }"), None)]
    #[case::merge_keeps_what_it_cannot_read("MergePatchJson", Some("plain"), None)]
    #[case::an_unknown_policy_does_nothing("Replace", Some("x"), None)]
    fn a_policy(#[case] policy: &str, #[case] before: Option<&str>, #[case] after: Option<&str>) {
        assert_eq!(patch_one(policy, before, "{ }").0.as_deref(), after);
    }
}
