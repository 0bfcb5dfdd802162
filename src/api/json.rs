//! JSON in and out of the typed API without losing what the types do not know.
//!
//! [`decode`] reads a document into a type and keeps every member that the type has no field for, with its place
//! (RSP-5, HASH-9); [`Unknown::restore`] puts them back after the types were changed. [`text`] prints as the reference
//! prints, which is what hashes and revision names are made of (HASH-7).

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};

use serde::de::value::{BorrowedStrDeserializer, MapDeserializer};
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

/// A document does not fit its type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{message}", if path.is_empty() { "" } else { ": " })]
pub struct DecodeError {
    /// Path of the member, such as `spec.containers[0].ports[0].containerPort`; empty for the document itself.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// The members of a document that its type has no field for, with their places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unknown(Vec<(Vec<Step>, Value)>);

/// One step of the way to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into an array.
    Index(usize),
}

/// A text that is borrowed where it has no escapes, also as a key, in an option or in a list, where a bare [`Cow`] is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Reads `document` as `T`. As in the reference, a member that is `null` counts as absent, and a `null` in a list or map
/// as what an absent one would be: an empty text, a zero quantity (HASH-7).
pub fn decode<'a, T: Deserialize<'a>>(document: &'a Value) -> Result<(T, Unknown), DecodeError> {
    let reading = RefCell::new(Reading::default());
    let decoded = T::deserialize(NullAsGo { value: document, reading: &reading });
    let Reading { unknown: paths, failed, .. } = reading.into_inner();
    let value = decoded.map_err(|error| DecodeError { path: print(&failed), message: error.to_string() })?;
    let unknown = paths
        .into_iter()
        .filter_map(|path| {
            let mut member = look_up(document, &path)?.clone();
            drop_nulls(&mut member);
            Some((path, member)).filter(|(_, member)| !member.is_null())
        })
        .collect();
    Ok((value, Unknown(unknown)))
}

/// The text of one member of an object, of several with that key the last; an error if `object` is no object. All of
/// it is read, and nothing kept.
pub fn member<'a>(object: &'a str, key: &str) -> Result<Option<&'a RawValue>, serde_json::Error> {
    struct Member<'k>(&'k str);
    impl<'de> Visitor<'de> for Member<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = members.next_key::<Text<'de>>()? {
                if key.0 == self.0 {
                    found = Some(members.next_value()?);
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(object);
    let found = Deserializer::deserialize_map(&mut deserializer, Member(key))?;
    deserializer.end()?;
    Ok(found)
}

/// Compact JSON as the reference prints it: `<`, `>`, `&`, U+2028 and U+2029 are escaped, members keep the order of
/// their declaration (HASH-7).
pub fn text(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, HtmlSafe);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

// === impl Unknown ===

impl Unknown {
    /// Puts the members back into `document`, wherever their parent still exists. Nothing that is there is changed.
    pub fn restore(&self, document: &mut Value) {
        for (path, member) in &self.0 {
            let Some((Step::Key(key), parent)) = path.split_last() else { continue };
            if let Some(Value::Object(parent)) = look_up_mut(document, parent) {
                parent.entry(key.clone()).or_insert_with(|| member.clone());
            }
        }
    }

    /// The ways to the members.
    pub fn paths(&self) -> impl Iterator<Item = &[Step]> {
        self.0.iter().map(|(path, _)| path.as_slice())
    }

    /// Forgets the member at `path`; whether there was one.
    pub fn remove(&mut self, path: &[Step]) -> bool {
        let before = self.0.len();
        self.0.retain(|(unknown, _)| unknown != path);
        self.0.len() < before
    }

    /// Whether there is an unknown member directly below `path`.
    pub fn is_below(&self, path: &[Step]) -> bool {
        self.0.iter().any(|(unknown, _)| unknown.len() == path.len() + 1 && unknown.starts_with(path))
    }

    /// The same members inside an object that holds the document as its member `key`.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        let deeper = |(path, member): (Vec<Step>, Value)| {
            (std::iter::once(Step::Key(key.to_owned())).chain(path).collect(), member)
        };
        Self(self.0.into_iter().map(deeper).collect())
    }

    /// The members below `path`, with paths relative to it.
    #[must_use]
    pub fn below(&self, path: &[Step]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(unknown, _)| unknown.len() > path.len() && unknown.starts_with(path))
                .map(|(unknown, member)| (unknown[path.len()..].to_vec(), member.clone()))
                .collect(),
        )
    }
}

/// The dotted path of a member, for a message.
pub fn print(path: &[Step]) -> String {
    use fmt::Write as _;
    let mut out = String::new();
    for step in path {
        // Writing to a String cannot fail.
        let _ = match step {
            Step::Key(key) if out.is_empty() => write!(out, "{key}"),
            Step::Key(key) => write!(out, ".{key}"),
            Step::Index(index) => write!(out, "[{index}]"),
        };
    }
    out
}

fn look_up<'a>(document: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(document, |at, step| match step {
        Step::Key(key) => at.get(key),
        Step::Index(index) => at.get(index),
    })
}

fn look_up_mut<'a>(document: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |at, step| match step {
        Step::Key(key) => at.get_mut(key),
        Step::Index(index) => at.get_mut(index),
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

// === impl NullAsGo ===

/// Where the reading of a document is, and what it met.
#[derive(Default)]
struct Reading {
    at: Vec<Step>,
    /// Members that the type has no field for.
    unknown: Vec<Vec<Step>>,
    has_failed: bool,
    /// The innermost member that does not fit.
    failed: Vec<Step>,
}

/// A value that is read with Go's idea of `null`: it leaves what it is read into as it is, which is the zero value.
#[derive(Clone, Copy)]
struct NullAsGo<'de, 'r> {
    value: &'de Value,
    reading: &'r RefCell<Reading>,
}

impl<'de, 'r> NullAsGo<'de, 'r> {
    fn members<V: Visitor<'de>>(self, visitor: V, keeps_null: bool) -> Result<V::Value, serde_json::Error> {
        let Value::Object(members) = self.value else { return self.deserialize_any(visitor) };
        visitor.visit_map(Members { left: members.iter(), next: None, keeps_null, reading: self.reading })
    }

    /// Reads what is at `step` from where the reading is.
    fn enter<S: DeserializeSeed<'de>>(
        value: &'de Value,
        step: Step,
        reading: &'r RefCell<Reading>,
        seed: S,
    ) -> Result<S::Value, serde_json::Error> {
        reading.borrow_mut().at.push(step);
        let read = seed.deserialize(Self { value, reading });
        let mut reading = reading.borrow_mut();
        if read.is_err() && !reading.has_failed {
            (reading.has_failed, reading.failed) = (true, reading.at.clone());
        }
        reading.at.pop();
        read
    }
}

impl<'de> Deserializer<'de> for NullAsGo<'de, '_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.value {
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), reading: self.reading }),
            Value::Object(_) => self.members(visitor, false),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if self.value.is_null() { self.deserialize_map(visitor) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.is_null() {
            let nothing: [(&str, &str); 0] = [];
            return visitor.visit_map(MapDeserializer::new(nothing.into_iter()));
        }
        self.members(visitor, true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.is_null() { visitor.visit_str("") } else { self.deserialize_any(visitor) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let mut reading = self.reading.borrow_mut();
        let path = reading.at.clone();
        reading.unknown.push(path);
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct enum identifier
    }
}

/// The members of an object.
struct Members<'de, 'r> {
    left: serde_json::map::Iter<'de>,
    next: Option<(&'de str, &'de Value)>,
    keeps_null: bool,
    reading: &'r RefCell<Reading>,
}

impl<'de> MapAccess<'de> for Members<'de, '_> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let keeps_null = self.keeps_null;
        let Some((key, value)) = self.left.find(|(_, value)| keeps_null || !value.is_null()) else {
            return Ok(None);
        };
        self.next = Some((key, value));
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        let (key, value) = self.next.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        NullAsGo::enter(value, Step::Key(key.to_owned()), self.reading, seed)
    }
}

/// The items of an array.
struct Items<'de, 'r> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    reading: &'r RefCell<Reading>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = serde_json::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Self::Error> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        NullAsGo::enter(value, Step::Index(index), self.reading, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

// === impl HtmlSafe ===

/// Escapes what is dangerous inside HTML, as Go's encoder does.
struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut chars = special.chars();
            if let Some(special) = chars.next() {
                write!(out, "\\u{:04x}", u32::from(special))?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::sidecarset::SidecarSet;

    #[rstest]
    #[case::there(r#"{"a": {"x":1} ,"b":2}"#, Ok(Some(r#"{"x":1}"#)))]
    #[case::not_there(r#"{"b":2}"#, Ok(None))]
    #[case::twice(r#"{"a":1,"a":2}"#, Ok(Some("2")))]
    #[case::escaped(r#"{"\u0061":1}"#, Ok(Some("1")))]
    #[case::deeper(r#"{"b":{"a":1}}"#, Ok(None))]
    #[case::broken_later(r#"{"a":1,"b":}"#, Err(()))]
    #[case::more_behind(r#"{"a":1} x"#, Err(()))]
    #[case::a_list("[1]", Err(()))]
    #[case::nothing("null", Err(()))]
    #[case::empty("", Err(()))]
    fn one_member_is_found_in_an_object_that_is_whole(
        #[case] object: &str,
        #[case] expected: Result<Option<&str>, ()>,
    ) {
        let found = member(object, "a").map(|found| found.map(RawValue::get)).map_err(drop);
        assert_eq!(found, expected);
    }

    #[test]
    fn members_of_the_future_come_back_at_their_place() {
        let document = json!({
            "metadata": {"name": "a", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"containers": [{"name": "x", "fromTheFuture": {"y": 1}}], "newMember": true},
        });
        let (set, unknown) = decode::<SidecarSet>(&document).unwrap();
        let mut out = serde_json::to_value(&set).unwrap();
        unknown.restore(&mut out);
        assert_eq!(out["spec"]["containers"][0]["fromTheFuture"], json!({"y": 1}));
        assert_eq!(out["spec"]["newMember"], json!(true));
        assert_eq!(out["metadata"]["managedFields"][0]["manager"], json!("kubectl"));
    }

    #[test]
    fn an_error_names_the_member() {
        let document = json!({"spec": {"containers": [{"name": "x"}, {"name": "y", "args": ["a", 1]}]}});
        let error = decode::<SidecarSet>(&document).unwrap_err();
        assert_eq!(error.path, "spec.containers[1].args[1]");
        assert!(error.message.contains("integer `1`"), "{error}");
    }

    #[test]
    fn an_error_of_the_document_itself_has_no_path() {
        let error = decode::<SidecarSet>(&json!("x")).unwrap_err();
        assert_eq!(error.path, "");
        assert!(error.to_string().starts_with("invalid type: string"), "{error}");
    }

    #[test]
    fn a_set_with_conditions_is_read() {
        let condition = json!({
            "type": "InjectionComplete", "status": "True", "lastTransitionTime": "2026-03-04T05:06:07Z",
            "reason": "AllInjected", "message": "no pod was missed",
        });
        let document = json!({"status": {"conditions": [condition]}});
        let (set, _) = decode::<SidecarSet>(&document).unwrap();
        assert_eq!(json!(set.status.conditions[0]), condition);
    }

    #[test]
    fn null_counts_as_absent() {
        let document = json!({"spec": {"containers": null, "selector": null}});
        let (set, _) = decode::<SidecarSet>(&document).unwrap();
        assert_eq!(set, SidecarSet::default());
    }

    #[test]
    fn null_in_a_list_or_map_is_the_zero_value_hash_7() {
        let document = json!({"spec": {
            "containers": [{"name": "x", "args": [null, "a"], "env": [null], "resources": {"limits": {"cpu": null}}}],
            "selector": {"matchLabels": {"a": null}},
            "volumes": [{"name": "v", "nfs": {"path": "/", "server": null}, "new": {"a": null, "b": 1}}],
            "newer": null,
        }});
        let (set, unknown) = decode::<SidecarSet>(&document).unwrap();
        let mut value = json!(set.spec);
        unknown.below(&[Step::Key("spec".into())]).restore(&mut value);
        let container = &value["containers"][0];
        assert_eq!(container["args"], json!(["", "a"]));
        assert_eq!(container["env"], json!([{"name": ""}]));
        assert_eq!(container["resources"], json!({"limits": {"cpu": "0"}}));
        assert_eq!(value["selector"]["matchLabels"], json!({"a": ""}));
        assert_eq!(value["volumes"][0], json!({"name": "v", "nfs": {"path": "/"}, "new": {"b": 1}}));
        assert_eq!(value.get("newer"), None);
    }

    #[test]
    fn text_escapes_as_the_reference_does() {
        let value = json!({"a": "<b> & \u{2028}\u{2029} \u{7f}/ \u{1} \n é"});
        assert_eq!(text(&value), "{\"a\":\"\\u003cb\\u003e \\u0026 \\u2028\\u2029 \u{7f}/ \\u0001 \\n é\"}");
    }
}
