//! The API as Rust types: what is on the wire, in the reference's member order.
//!
//! Nothing here decides. Every struct is declared with [`wire!`], whose words are those of the specification's tables
//! (API notation, HASH-8): `always`, `opt` and `ptr`. Because members are printed in the order of their declaration,
//! the JSON of these types *is* the text that the hashes cover (HASH-7). Their docs are the descriptions of the CRDs
//! (see [`schema`]), so they speak to users.

pub mod container;
pub mod image;
pub mod imagelist;
pub mod json;
pub mod meta;
pub mod names;
pub mod nodeimage;
pub mod pulljob;
pub mod re2;
pub mod recreate;
pub mod schema;
pub mod sidecarset;
pub mod syntax;
pub mod volume;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

/// Whether a value is what its type starts as, and so left out by an `opt` member.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether a list is absent or empty, and so left out by a `list` member.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
pub(crate) fn is_empty_list<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

/// Declares structs of the API with the words of the specification's tables.
///
/// * `always`: printed even when empty or zero, and required by the CRD's schema;
/// * `shown`: printed even when empty or zero, but not required;
/// * `opt`: left out when empty, zero or absent;
/// * `ptr`: left out only when absent (the field becomes an `Option`);
/// * `list`: left out when absent or empty, yet the two are kept apart (an `Option<Vec<_>>`, for HASH-3).
///
/// `#[schemars(required)]` on the last two makes the schema that of the value: an absent member is absent, never `null`.
macro_rules! wire {
    ($( $(#[$meta:meta])* pub struct $name:ident { $($body:tt)* } )*) => {
        $( $crate::api::wire!(@member [$(#[$meta])* pub struct $name] [] $($body)*); )*
    };
    (@member [$($head:tt)*] [$($done:tt)*]) => {
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        // Reading is lenient; the schema's defaults are only those that a member spells out.
        #[schemars(!default)]
        $($head)* { $($done)* }
    };
    (@member $head:tt [$($done:tt)*] $(#[$m:meta])* always $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::api::wire!(@member $head [$($done)* $(#[$m])* pub $field: $type,] $($rest)*);
    };
    (@member $head:tt [$($done:tt)*] $(#[$m:meta])* shown $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::api::wire!(@member $head [$($done)* $(#[$m])*
            #[schemars(skip_serializing_if = "crate::api::is_zero")] pub $field: $type,] $($rest)*);
    };
    (@member $head:tt [$($done:tt)*] $(#[$m:meta])* opt $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::api::wire!(@member $head [$($done)* $(#[$m])*
            #[serde(skip_serializing_if = "crate::api::is_zero")] pub $field: $type,] $($rest)*);
    };
    (@member $head:tt [$($done:tt)*] $(#[$m:meta])* ptr $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::api::wire!(@member $head [$($done)* $(#[$m])*
            #[serde(skip_serializing_if = "Option::is_none")] #[schemars(required)] pub $field: Option<$type>,]
            $($rest)*);
    };
    (@member $head:tt [$($done:tt)*] $(#[$m:meta])* list $field:ident: $type:ty, $($rest:tt)*) => {
        $crate::api::wire!(@member $head [$($done)* $(#[$m])*
            #[serde(skip_serializing_if = "crate::api::is_empty_list")] #[schemars(required)]
            pub $field: Option<Vec<$type>>,] $($rest)*);
    };
}
pub(crate) use wire;

/// A number or a string, printed as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A JSON integer.
    Int(i32),
    /// A JSON string, such as `"50%"` or a port's name.
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrStringVisitor)
    }
}

impl JsonSchema for IntOrString {
    fn schema_name() -> Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

struct IntOrStringVisitor;

impl IntOrStringVisitor {
    fn int<E: de::Error>(number: impl TryInto<i32>, shown: Unexpected<'_>) -> Result<IntOrString, E> {
        let is_32_bits = number.try_into().map(IntOrString::Int);
        is_32_bits.map_err(|_| E::invalid_value(shown, &"an integer of 32 bits or a string"))
    }
}

impl Visitor<'_> for IntOrStringVisitor {
    type Value = IntOrString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or a string")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
        Self::int(number, Unexpected::Unsigned(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
        Self::int(number, Unexpected::Signed(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
        Ok(IntOrString::String(text.to_owned()))
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::String(text) => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::number(json!(-1), IntOrString::Int(-1))]
    #[case::text(json!("50%"), IntOrString::String("50%".to_owned()))]
    fn a_number_or_a_text_is_read_as_it_is(#[case] value: Value, #[case] expected: IntOrString) {
        assert_eq!(serde_json::from_value::<IntOrString>(value).unwrap(), expected);
    }

    #[rstest]
    #[case::fraction(json!(1.5), "invalid type: floating point `1.5`, expected an integer or a string")]
    #[case::boolean(json!(true), "invalid type: boolean `true`, expected an integer or a string")]
    #[case::too_large(
        json!(4_294_967_296_u64),
        "invalid value: integer `4294967296`, expected an integer of 32 bits or a string"
    )]
    fn anything_else_is_refused_in_words(#[case] value: Value, #[case] message: &str) {
        assert_eq!(serde_json::from_value::<IntOrString>(value).unwrap_err().to_string(), message);
    }
}
