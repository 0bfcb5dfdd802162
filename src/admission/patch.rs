//! 4. Edits into RFC 6902, out by the door they came in (RSP-4, RSP-6, RSP-7).
//!
//! Every operation adds or replaces a whole element, so what no Kubernetes of today knows stays with its element. Within
//! a list, operations come in an order in which no index is disturbed by one before: elements in place first, then those
//! put in front, then those appended.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::json;

use crate::edits::{Edits, EnvPlace, Injected, ListEdits, Secrets};
use crate::pod::{Pod, Spec};

/// The edits as the text of a JSON patch; `None` when there is nothing to change.
pub fn encode(edits: &Edits<'_>, pod: &Pod<'_>, spec: &Spec<'_>) -> Option<String> {
    let mut patch = Patch { json: String::with_capacity(8192) };
    let metadata = &pod.metadata;
    // The API server never sends a pod without these two; a person may.
    if !metadata.is_present() && (edits.name.is_some() || edits.touch_annotations()) {
        patch.operation("add", "/metadata", |out| out.push_str("{}"));
    }
    if !pod.has_spec() && edits.touch_spec() {
        patch.operation("add", "/spec", |out| out.push_str("{}"));
    }
    if let Some(name) = &edits.name {
        patch.operation("add", "/metadata/name", |out| push_string(out, name));
    }
    patch.annotations(edits, metadata.has_annotations());
    if let Some(gate) = edits.readiness_gate {
        let gate = json!({"conditionType": gate}).to_string();
        patch.append("/spec/readinessGates", spec.readiness_gates.is_some(), &[gate.as_str()], |out, gate| {
            out.push_str(gate);
        });
    }
    match &edits.pull_secrets {
        Secrets::Append(secrets) => {
            patch.append("/spec/imagePullSecrets", spec.image_pull_secrets.is_some(), secrets, |out, secret| {
                out.push_str(secret);
            });
        }
        Secrets::Replace(secrets) => {
            patch.operation("replace", "/spec/imagePullSecrets", |out| {
                push_list(out, secrets, |out, s| out.push_str(s));
            });
        }
    }
    patch.append("/spec/volumes", spec.volumes.is_some(), &edits.volumes, |out, volume| out.push_str(volume));
    patch.list("/spec/initContainers", &edits.init_containers, spec.init_containers.is_some());
    patch.list("/spec/containers", &edits.containers, spec.containers.is_some());
    patch.finish()
}

struct Patch {
    json: String,
}

impl Patch {
    fn operation(&mut self, op: &str, path: &str, value: impl FnOnce(&mut String)) {
        self.json.push_str(if self.json.is_empty() { "[{\"op\":\"" } else { ",{\"op\":\"" });
        self.json.push_str(op);
        self.json.push_str("\",\"path\":\"");
        self.json.push_str(path);
        self.json.push_str("\",\"value\":");
        value(&mut self.json);
        self.json.push('}');
    }

    fn annotations(&mut self, edits: &Edits<'_>, present: bool) {
        if !edits.touch_annotations() {
            return;
        }
        let plain = edits.annotations.iter().map(|(key, value)| (&**key, &**value, false));
        let escaped = edits.escaped_annotations.iter().map(|(key, value)| (*key, value.as_str(), true));
        let mut all: Vec<(&str, &str, bool)> = plain.chain(escaped).collect();
        all.sort_unstable_by_key(|(key, ..)| *key);
        let push_value = |out: &mut String, value: &str, is_escaped: bool| {
            out.push('"');
            if is_escaped {
                out.push_str(value);
            } else {
                push_escaped(out, value);
            }
            out.push('"');
        };
        if !present {
            // RSP-7: without a map there, the whole map is added.
            self.operation("add", "/metadata/annotations", |out| {
                for (index, (key, value, is_escaped)) in all.iter().enumerate() {
                    out.push(if index == 0 { '{' } else { ',' });
                    push_string(out, key);
                    out.push(':');
                    push_value(out, value, *is_escaped);
                }
                out.push('}');
            });
            return;
        }
        for (key, value, is_escaped) in all {
            let mut path = "/metadata/annotations/".to_owned();
            push_escaped(&mut path, &pointer(key));
            self.operation("add", &path, |out| push_value(out, value, is_escaped));
        }
    }

    /// Appends elements to a list that may not be there yet.
    fn append<T>(&mut self, path: &str, present: bool, items: &[T], write: impl Fn(&mut String, &T)) {
        if items.is_empty() {
            return;
        }
        if !present {
            self.operation("add", path, |out| push_list(out, items, write));
            return;
        }
        let path = format!("{path}/-");
        for item in items {
            self.operation("add", &path, |out| write(out, item));
        }
    }

    fn list(&mut self, path: &str, edits: &ListEdits<'_>, present: bool) {
        for (index, injected) in &edits.replaced {
            self.operation("replace", &place(path, *index), |out| injected.write(out));
        }
        for (index, edit) in &edits.barriers {
            let env = format!("{path}/{index}/env");
            match edit.place {
                EnvPlace::NewList => self.operation("add", &env, |out| {
                    let _ = write!(out, "[{}]", edit.json);
                }),
                EnvPlace::Append => self.operation("add", &format!("{env}/-"), |out| out.push_str(&edit.json)),
                EnvPlace::Replace(at) => {
                    self.operation("replace", &format!("{env}/{at}"), |out| out.push_str(&edit.json));
                }
            }
        }
        if present {
            for (index, injected) in edits.before.iter().enumerate() {
                self.operation("add", &place(path, index), |out| injected.write(out));
            }
            self.append(path, true, &edits.after, |out, injected| injected.write(out));
        } else {
            let all: Vec<&Injected<'_>> = edits.before.iter().chain(&edits.after).collect();
            self.append(path, false, &all, |out, injected| injected.write(out));
        }
    }

    fn finish(mut self) -> Option<String> {
        if self.json.is_empty() {
            return None;
        }
        self.json.push(']');
        Some(self.json)
    }
}

fn push_list<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Appends `text` as a JSON string.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text);
    out.push('"');
}

/// Appends `text` as it stands inside a JSON string.
fn push_escaped(out: &mut String, text: &str) {
    out.reserve(text.len() + text.len() / 4);
    let bytes = text.as_bytes();
    let mut done = 0;
    loop {
        let at = end_of_plain(bytes, done);
        out.push_str(&text[done..at]);
        match bytes.get(at) {
            None => return,
            Some(b'"') => out.push_str("\\\""),
            Some(b'\\') => out.push_str("\\\\"),
            Some(b'\n') => out.push_str("\\n"),
            Some(control) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        done = at + 1;
    }
}

/// The place of the first quote, backslash or control character from `at` on, or the end: eight bytes at a time.
#[inline]
fn end_of_plain(bytes: &[u8], at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut rest = bytes.get(at..).unwrap_or_default();
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // A difference below zero sets the high bit of its byte, and may spoil the bytes above: only the lowest mark is
        // exact, and only the lowest is looked at. The quote, 0x22, is made to come right after the control characters
        // by changing places with 0x20.
        let quote_or_control = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let marks = (quote_or_control | backslash) & !word & HIGH;
        if marks != 0 {
            return bytes.len() - rest.len() + marks.trailing_zeros() as usize / 8;
        }
        rest = tail;
    }
    bytes.len() - rest.len() + plain_in(rest)
}

/// How many bytes come before the first quote, backslash or control character.
#[cold]
fn plain_in(text: &[u8]) -> usize {
    text.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(text.len())
}

/// A key as a step of a JSON pointer (RSP-7).
pub(super) fn pointer(key: &str) -> Cow<'_, str> {
    if !key.contains(['~', '/']) {
        return Cow::Borrowed(key);
    }
    let mut step = String::with_capacity(key.len() + 8);
    for character in key.chars() {
        match character {
            '~' => step.push_str("~0"),
            '/' => step.push_str("~1"),
            other => step.push(other),
        }
    }
    Cow::Owned(step)
}

/// A place in a list.
fn place(list: &str, index: usize) -> String {
    [list, "/", &index.to_string()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Pod;

    fn patch(pod: &str, edits: &Edits<'_>) -> String {
        let pod = Pod::parse(pod).unwrap();
        encode(edits, &pod, pod.spec().unwrap()).unwrap()
    }

    #[test]
    fn nothing_to_change_is_no_patch() {
        let pod = Pod::parse("{}").unwrap();
        assert_eq!(encode(&Edits::default(), &pod, pod.spec().unwrap()), None);
    }

    #[test]
    fn a_missing_map_is_added_whole() {
        let mut edits = Edits::default();
        edits.annotations.insert("a/b".into(), "x\"y".into());
        assert_eq!(
            patch(r#"{"metadata":{}}"#, &edits),
            r#"[{"op":"add","path":"/metadata/annotations","value":{"a/b":"x\"y"}}]"#
        );
        assert_eq!(
            patch(r#"{"metadata":{"annotations":{}}}"#, &edits),
            r#"[{"op":"add","path":"/metadata/annotations/a~1b","value":"x\"y"}]"#
        );
    }

    #[test]
    fn a_missing_list_is_added_whole() {
        let edits = Edits { volumes: vec![r#"{"name":"v"}"#], ..Edits::default() };
        assert_eq!(patch(r#"{"spec":{}}"#, &edits), r#"[{"op":"add","path":"/spec/volumes","value":[{"name":"v"}]}]"#);
        assert_eq!(
            patch(r#"{"spec":null}"#, &edits),
            r#"[{"op":"add","path":"/spec","value":{}},{"op":"add","path":"/spec/volumes","value":[{"name":"v"}]}]"#
        );
        assert_eq!(
            patch(r#"{"spec":{"volumes":[]}}"#, &edits),
            r#"[{"op":"add","path":"/spec/volumes/-","value":{"name":"v"}}]"#
        );
    }

    proptest::proptest! {
        #[test]
        fn strings_are_printed_as_serde_reads_them(text in ".*") {
            let mut out = String::new();
            push_string(&mut out, &text);
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
