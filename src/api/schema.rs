//! The schemas of the API's types, as a CustomResourceDefinition wants them: structural, nothing by reference.
//!
//! What is required follows from the words of [`wire!`](super), enums, minimums and defaults stand at their members, and
//! docs become descriptions. A member that is absent is absent: nothing is nullable, and the API server drops a `null`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::container::OWN_MEMBERS;
use crate::quantity::Quantity;

/// The structural schema of a type.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
        settings.transforms.clear();
        // Members that are always printed are those that readers may rely on.
        settings.contract = Contract::Serialize;
    });
    let mut schema = settings.into_generator().subschema_for::<T>().to_value();
    describe(&mut schema);
    schema
}

/// No structure at all: everything is accepted and kept.
pub(super) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// RFC 3339, for a member that is printed as `null` when there is no time.
pub(super) fn time(generator: &mut SchemaGenerator) -> Schema {
    Time::json_schema(generator)
}

/// API-10: of a sidecar only the members of its own are spelled out. Those of a core Container, of any Kubernetes
/// version, are kept as they are.
pub(super) fn keep_own_members(schema: &mut Schema) {
    schema.remove("required");
    schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    if let Some(Value::Object(members)) = schema.get_mut("properties") {
        members.retain(|member, _| OWN_MEMBERS.contains(&member.as_str()));
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// Makes descriptions of docs, everywhere below.
fn describe(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    if let Some(Value::String(text)) = members.get_mut("description") {
        *text = plain(text);
    }
    for (name, member) in members {
        match (name.as_str(), member) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(describe),
            ("items" | "additionalProperties", schema) => describe(schema),
            _ => {}
        }
    }
}

/// A doc comment for readers of `kubectl explain`: paragraphs without line breaks, links and rule ids.
fn plain(doc: &str) -> String {
    let text = doc.split("\n\n").map(|lines| lines.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    let text = text.replace("[`", "`").replace("`]", "`");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(" (") {
        out.push_str(before);
        match after.split_once(')') {
            Some((inside, behind)) if is_rules(inside) => rest = behind,
            _ => {
                out.push_str(" (");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether a remark only names rules of the specification, such as `CONV-SS-3` or `REV-6 … REV-8, META`.
fn is_rules(remark: &str) -> bool {
    let is_rule = |word: &str| {
        let (family, numbers) = word.split_once('-').unwrap_or((word, "1"));
        let is_number = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
        };
        family.len() >= 2 && family.bytes().all(|b| b.is_ascii_uppercase()) && is_number(numbers)
    };
    remark.split([',', ' ']).filter(|word| !matches!(*word, "" | "…" | "and")).all(is_rule)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::sidecarset::{SidecarSetSpec, SidecarSetStatus};

    #[rstest]
    #[case::rule("Pods to inject (API-10).", "Pods to inject.")]
    #[case::family("Devices (SHR).", "Devices.")]
    #[case::several("How (META-1 … META-3, CONV-SS).", "How.")]
    #[case::remark("Waits (at most 5 s) for it (CRR-3).", "Waits (at most 5 s) for it.")]
    #[case::word("A runtime (CRI) answers (see above).", "A runtime answers (see above).")]
    #[case::lines("One\ntwo\n\nthree [`Four`]", "One two\n\nthree `Four`")]
    #[case::open("Odd (API-1", "Odd (API-1")]
    fn a_description_is_a_doc_without_what_only_developers_need(#[case] doc: &str, #[case] description: &str) {
        assert_eq!(plain(doc), description);
    }

    #[test]
    fn an_absent_member_is_absent_and_not_null() {
        let schema = of::<SidecarSetSpec>();
        assert_eq!(schema["properties"]["revisionHistoryLimit"]["type"], json!("integer"));
        assert_eq!(schema["properties"]["selector"]["type"], json!("object"));
        assert_eq!(schema.get("required"), None);
    }

    #[test]
    fn what_is_always_there_is_required_api_15() {
        let schema = of::<SidecarSetStatus>();
        assert_eq!(schema["required"], json!(["matchedPods", "updatedPods", "readyPods"]));
    }

    #[test]
    fn of_a_sidecar_only_its_own_members_are_spelled_out_api_11() {
        let schema = of::<SidecarSetSpec>();
        let item = &schema["properties"]["containers"]["items"];
        assert_eq!(item["x-kubernetes-preserve-unknown-fields"], json!(true));
        let members: Vec<&String> = item["properties"].as_object().unwrap().keys().collect();
        assert_eq!(members.len(), OWN_MEMBERS.len());
        assert_eq!(item.get("required"), None);
        assert_eq!(schema["properties"]["volumes"].as_object().unwrap().len(), 2, "a description, and no structure");
    }
}
