//! Annotations that SidecarSets patch into a pod (META).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
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
                facts.tell(is_warning, fact);
            }
        }
    }
    // What one set changed and another changed back is no change (RSP-4).
    edits.annotations.retain(|key, value| annotations.get(key) != Some(&**value));
}

/// The new value of one annotation, if it gets one.
pub(crate) fn patch_one<'a>(
    policy: &str,
    before: Option<&str>,
    value: &'a str,
) -> (Option<Cow<'a, str>>, PatchOutcome) {
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

/// RFC 7386 on texts: what the patch does not touch keeps its spelling (META-4).
pub fn merge(before: &str, patch: &str) -> Result<String, &'static str> {
    let patch = read_patch(patch)?;
    let before = Node::parse(before).map_err(|unreadable| match unreadable {
        Unreadable::Syntax => "the pod's value is not JSON",
        Unreadable::TooDeep => "the pod's value is nested too deeply",
    })?;
    let mut out = String::new();
    match (&before.kind, &patch.kind) {
        (Kind::Null, _) => return Err("the pod's value is null"),
        (Kind::Object(old), Kind::Object(new)) => merge_objects(old, new, &mut out),
        _ => without_nulls(&patch, &mut out),
    }
    Ok(out)
}

/// Whether a value can be merged into what a pod carries already.
pub(super) fn check_patch(patch: &str) -> Result<(), &'static str> {
    read_patch(patch).map(|_| ())
}

fn read_patch(patch: &str) -> Result<Node<'_>, &'static str> {
    match Node::parse(patch) {
        Ok(patch) if matches!(patch.kind, Kind::Object(_) | Kind::Array(_)) => Ok(patch),
        Ok(_) => Err("the value of the SidecarSet is neither an object nor an array"),
        Err(Unreadable::Syntax) => Err("the value of the SidecarSet is not JSON"),
        Err(Unreadable::TooDeep) => Err("the value of the SidecarSet is nested too deeply"),
    }
}

fn merge_objects(before: &Members<'_>, patch: &Members<'_>, out: &mut String) {
    let keys: BTreeSet<&str> = before.keys().chain(patch.keys()).map(|key| &**key).collect();
    let mut separator = "{";
    for key in keys {
        let (old, new) = (before.get(key), patch.get(key));
        if new.is_some_and(|new| matches!(new.kind, Kind::Null)) {
            continue;
        }
        let _ = write!(out, "{separator}{}:", json::text(&key));
        separator = ",";
        match (old, new) {
            (Some(Node { kind: Kind::Object(old), .. }), Some(Node { kind: Kind::Object(new), .. })) => {
                merge_objects(old, new, out);
            }
            (_, Some(new)) => without_nulls(new, out),
            (Some(old), None) => compact(old.text, out),
            (None, None) => {}
        }
    }
    out.push_str(if separator == "{" { "{}" } else { "}" });
}

/// The value with sorted keys and without the null members of its objects.
fn without_nulls(node: &Node<'_>, out: &mut String) {
    match &node.kind {
        // Into nothing, an object merges as itself without its nulls.
        Kind::Object(members) => merge_objects(&Members::new(), members, out),
        Kind::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                without_nulls(item, out);
            }
            out.push(']');
        }
        Kind::Null | Kind::Scalar => compact(node.text, out),
    }
}

/// The text without white space, and safe inside HTML.
fn compact(text: &str, out: &mut String) {
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
}

// === reading ===

/// How deep an annotation's JSON may nest: rules go down level by level, and a pod's owner chooses its annotations.
const DEPTH_LIMIT: usize = 64;

/// A JSON value that knows its spelling.
struct Node<'a> {
    text: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Null,
    Scalar,
    Array(Vec<Node<'a>>),
    Object(Members<'a>),
}

type Members<'a> = BTreeMap<Cow<'a, str>, Node<'a>>;

/// A text that is not made into a [`Node`].
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Syntax,
    TooDeep,
}

impl<'a> Node<'a> {
    fn parse(text: &'a str) -> Result<Self, Unreadable> {
        // Judges the syntax without recursion; what follows only finds where values begin and end.
        let text = serde_json::from_str::<&RawValue>(text).map_err(|_| Unreadable::Syntax)?.get();
        Reader { text, at: 0 }.node(DEPTH_LIMIT)
    }
}

/// Walks over a text that is JSON, once.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn node(&mut self, levels: usize) -> Result<Node<'a>, Unreadable> {
        let start = self.at;
        let kind = match self.peek()? {
            b'{' | b'[' if levels == 0 => return Err(Unreadable::TooDeep),
            b'{' => {
                let mut members = Members::new();
                self.list(b'}', |reader| {
                    let key = reader.key()?;
                    reader.skip(|byte| byte == b':' || byte.is_ascii_whitespace());
                    members.insert(key, reader.node(levels - 1)?);
                    Ok(())
                })?;
                Kind::Object(members)
            }
            b'[' => {
                let mut items = Vec::new();
                self.list(b']', |reader| {
                    items.push(reader.node(levels - 1)?);
                    Ok(())
                })?;
                Kind::Array(items)
            }
            b'"' => {
                self.string()?;
                Kind::Scalar
            }
            first => {
                self.skip(|byte| !matches!(byte, b',' | b']' | b'}') && !byte.is_ascii_whitespace());
                if first == b'n' { Kind::Null } else { Kind::Scalar }
            }
        };
        Ok(Node { text: self.since(start)?, kind })
    }

    fn list(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<(), Unreadable>) -> Result<(), Unreadable> {
        self.at += 1;
        loop {
            self.skip(|byte| byte == b',' || byte.is_ascii_whitespace());
            if self.peek()? == close {
                self.at += 1;
                return Ok(());
            }
            item(self)?;
        }
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let literal = self.string()?;
        if literal.contains('\\') {
            return serde_json::from_str(literal).map(Cow::Owned).map_err(|_| Unreadable::Syntax);
        }
        Ok(Cow::Borrowed(literal.trim_matches('"')))
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a str, Unreadable> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek()? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.since(start)
    }

    fn skip(&mut self, what: impl Fn(u8) -> bool) {
        while self.peek().is_ok_and(&what) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, Unreadable> {
        self.text.as_bytes().get(self.at).copied().ok_or(Unreadable::Syntax)
    }

    fn since(&self, start: usize) -> Result<&'a str, Unreadable> {
        self.text.get(start..self.at).ok_or(Unreadable::Syntax)
    }
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
    #[case::goes_down_into_both(
        r#"{"a": {"b": {"y": 1, "x": 2}, "c": 0}}"#,
        r#"{"a": {"c": null, "d": [ ]}}"#,
        r#"{"a":{"b":{"y":1,"x":2},"d":[]}}"#
    )]
    #[case::keys_are_compared_as_what_they_say(r#"{"\u0061\"": 1}"#, r#"{"a\"": 2, "é": "ü"}"#, r#"{"a\"":2,"é":"ü"}"#)]
    #[case::the_last_of_a_key_wins(r#"{"a":1,"a":2}"#, "{}", r#"{"a":2}"#)]
    #[case::nothing_is_left(r#" {"a":1} "#, r#"{"a":null}"#, "{}")]
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

    /// META-5: who owns a pod must not be able to end the server with one annotation.
    #[rstest]
    #[case::at_the_limit(DEPTH_LIMIT, true)]
    #[case::beyond_the_limit(DEPTH_LIMIT + 1, false)]
    #[case::far_beyond_it(100_000, false)]
    fn a_merge_goes_only_so_deep(#[case] depth: usize, #[case] merges: bool) {
        let nested = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(merge(&nested, "{}").is_ok(), merges);
        assert_eq!(merge("{}", &nested).is_ok(), merges);
        assert_eq!(check_patch(&nested).is_ok(), merges);
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
