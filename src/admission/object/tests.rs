//! Reviews of single objects, and what is said of any kind.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

/// What came of a review.
#[derive(Debug)]
pub(in crate::admission) struct Said {
    pub(in crate::admission) code: u64,
    pub(in crate::admission) message: String,
    pub(in crate::admission) reason: Value,
    pub(in crate::admission) warnings: Vec<String>,
    pub(in crate::admission) patch: Value,
}

/// The body of a review; an UPDATE when there is an `old` object.
pub(in crate::admission) fn review(resource: &str, version: &str, object: &Value, old: Option<&Value>) -> Vec<u8> {
    let resource = json!({"group": names::GROUP, "version": version, "resource": resource});
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    let request = json!({"uid": "1", "resource": resource, "operation": operation, "object": object, "oldObject": old});
    json!({"apiVersion": envelope::V1, "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

/// Reads an answer.
pub(in crate::admission) fn said(answer: &Answer) -> Said {
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let response = &body["response"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let warnings = response["warnings"].as_array().into_iter().flatten().map(text).collect();
    let patch = response["patch"].as_str().map(|patch| STANDARD.decode(patch).unwrap());
    Said {
        code: response["status"]["code"].as_u64().unwrap(),
        message: text(&response["status"]["message"]),
        reason: response["status"]["reason"].clone(),
        warnings,
        patch: patch.map(|patch| serde_json::from_slice(&patch).unwrap()).unwrap_or_default(),
    }
}

/// The object with the patch of the answer.
pub(in crate::admission) fn patched(object: &Value, answer: &Answer) -> Value {
    let mut object = object.clone();
    let said = said(answer);
    assert_eq!(said.code, 200, "{said:?}");
    if !said.patch.is_null() {
        let patch: json_patch::Patch = serde_json::from_value(said.patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

struct Things;

impl Kind for Things {
    const RESOURCE: &'static str = "things";
    const KIND: &'static str = "Thing";
}

fn answered(verdict: Verdict) -> Said {
    let object = json!({"metadata": {"name": "one"}});
    said(&answer::<Things>(&review("things", "v1beta1", &object, None), |_| Ok(verdict)))
}

#[test]
fn what_is_switched_off_has_no_reason_and_what_is_denied_has_one_rsp_2() {
    let off = answered(Verdict::Off("off".to_owned()));
    assert_eq!((off.code, &*off.message, off.reason), (403, "off", Value::Null));
    let denied = answered(Verdict::Denied("no".to_owned()));
    assert_eq!((denied.code, &*denied.message, denied.reason), (403, "no", json!("Forbidden")));
}

#[test]
fn a_refusal_tells_many_problems_and_counts_the_others_rsp_3() {
    let problem = |index| Problem { field: format!("spec.x[{index}]"), message: "is odd".to_owned() };
    let said = answered(Verdict::Invalid((0..100).map(problem).collect()));
    assert_eq!((said.code, said.reason), (422, json!("Invalid")));
    let lines: Vec<&str> = said.message.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[32]), (33, "spec.x[0]: is odd", "and 68 more"));
}

#[test]
fn an_object_of_another_version_is_not_understood_ipj_5() {
    let object = json!({"apiVersion": "apps.kruise.io/v1", "metadata": {}});
    let body = review("things", "v1", &object, None);
    let said = said(&answer::<Things>(&body, |sent| sent.served().map(|_| Verdict::unchanged())));
    assert_eq!(said.code, 400);
    assert!(said.message.starts_with("apiVersion: \"apps.kruise.io/v1\" is not served; use"), "{}", said.message);
}

#[test]
fn an_old_object_that_cannot_be_read_does_not_stand_in_the_way() {
    let object = json!({"metadata": {"name": "one"}});
    let body = review("things", "v1beta1", &object, Some(&object));
    let body = String::from_utf8(body)
        .unwrap()
        .replace("\"oldObject\":{\"metadata\":{\"name\":\"one\"}}", "\"oldObject\":{\"a\":1,\"a\":2}");
    let said = said(&answer::<Things>(body.as_bytes(), |sent| {
        assert!(!sent.is_new());
        Ok(Verdict::unchanged())
    }));
    assert_eq!(said.code, 200);
}
