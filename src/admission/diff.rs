//! What was done to the typed form of an object, as a JSON patch of the object as it was sent (RSP-4, RSP-5, RSP-7).
//!
//! Members that the types do not know, and zero values that they always print, are in neither the one form nor the other,
//! so the patch does not touch them.

use serde_json::{Map, Value, json};

use super::patch::pointer;

/// The operations that do to `sent` what was done to `before` to make it `after`, where `before` is `sent` as the types
/// print it. `None` when there is nothing to do.
pub fn patch(sent: &Value, before: &Value, after: &Value) -> Option<String> {
    let operations = operations(sent, before, after);
    (!operations.is_empty()).then(|| Value::Array(operations).to_string())
}

/// The same as a list, for who adds to it.
pub fn operations(sent: &Value, before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(&mut operations, "", sent, before, after);
    operations
}

fn compare(operations: &mut Vec<Value>, path: &str, sent: &Value, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    match (sent, after) {
        (Value::Object(sent), Value::Object(after)) => {
            for (key, after) in after {
                let path = format!("{path}/{}", pointer(key));
                let before = before.get(key).unwrap_or(&Value::Null);
                match sent.get(key) {
                    Some(sent) => compare(operations, &path, sent, before, after),
                    None if before == after => {}
                    None => operations.push(json!({"op": "add", "path": path, "value": news(before, after)})),
                }
            }
        }
        (Value::Array(sent), Value::Array(after)) if sent.len() == after.len() => {
            for (index, (sent, after)) in sent.iter().zip(after).enumerate() {
                let before = before.get(index).unwrap_or(&Value::Null);
                compare(operations, &format!("{path}/{index}"), sent, before, after);
            }
        }
        _ => {
            // A list may stand for an object; what is not repeated of it would be lost.
            let value = if sent.is_null() { news(before, after) } else { after.clone() };
            operations.push(json!({"op": "replace", "path": path, "value": value}));
        }
    }
}

/// Of what comes into being, the members that were not there without it.
fn news(before: &Value, after: &Value) -> Value {
    let Value::Object(after) = after else { return after.clone() };
    let is_new = |(key, after): (&String, &Value)| match before.get(key) {
        Some(before) if before == after => None,
        before => Some((key.clone(), news(before.unwrap_or(&Value::Null), after))),
    };
    after.iter().filter_map(is_new).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing(json!({"a": 1}), json!({"a": 1}), json!({"a": 1}), None)]
    #[case::a_member(
        json!({"x": 1}), json!({"a": {}}), json!({"a": {"b/c": 1}, "d": 2}),
        Some(json!([
            {"op": "add", "path": "/a", "value": {"b/c": 1}},
            {"op": "add", "path": "/d", "value": 2},
        ])),
    )]
    #[case::a_member_beside_what_is_unknown(
        json!({"a": {"x": 1}}), json!({"a": {}}), json!({"a": {"b/c~": 1}}),
        Some(json!([{"op": "add", "path": "/a/b~1c~0", "value": 1}])),
    )]
    #[case::a_member_that_is_null_or_zero(
        json!({"a": null, "b": ""}), json!({"a": {"z": 0}}), json!({"a": {"z": 0, "y": 1}, "b": "c"}),
        Some(json!([
            {"op": "replace", "path": "/a", "value": {"y": 1}},
            {"op": "replace", "path": "/b", "value": "c"},
        ])),
    )]
    #[case::an_item(
        json!([{"x": 1}, null]), json!([{"z": 0}, {"z": 0}]), json!([{"z": 0, "y": 1}, {"z": 0, "y": 1}]),
        Some(json!([
            {"op": "add", "path": "/0/y", "value": 1},
            {"op": "replace", "path": "/1", "value": {"y": 1}},
        ])),
    )]
    #[case::a_list_in_place_of_an_object(
        json!({"a": [1]}), json!({"a": {"z": 1}}), json!({"a": {"z": 1, "y": 1}}),
        Some(json!([{"op": "replace", "path": "/a", "value": {"z": 1, "y": 1}}])),
    )]
    #[case::zero_values_of_the_types(json!({"x": 1}), json!({"a": {}, "b": 0}), json!({"a": {}, "b": 0}), None)]
    fn only_what_was_done_is_patched_rsp_5(
        #[case] sent: Value,
        #[case] before: Value,
        #[case] after: Value,
        #[case] expected: Option<Value>,
    ) {
        let patch = patch(&sent, &before, &after).map(|text| serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(patch, expected);
    }
}
