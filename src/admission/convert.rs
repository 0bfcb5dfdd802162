//! ConversionReview in, answer out (CONV-1): every object in its place, or the reason for each that cannot be converted.
//!
//! What is done to an object is decided in [`crate::convert`]. Objects are read one by one, so that one which cannot be
//! read is told by its place and the others are looked at all the same.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Route;
use super::envelope::{Answer, Failure, Named, Outcome, shortened};
use super::patch::push_string;
use crate::convert::{Version, convert};
use crate::crds::CONVERT;

/// `apiVersion` of reviews that are sent today.
pub const V1: &str = "apiextensions.k8s.io/v1";
/// The older one; its members are the same.
pub const V1BETA1: &str = "apiextensions.k8s.io/v1beta1";

/// Bytes after which no further failing object is described.
const MESSAGE_LIMIT: usize = 16 << 10;

/// A review. What is absent or `null` is empty.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
struct Request<'a> {
    uid: Option<String>,
    #[serde(rename = "desiredAPIVersion")]
    desired: Option<String>,
    #[serde(borrow)]
    objects: Option<Vec<&'a RawValue>>,
}

/// Why a review is not one that can be answered.
#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("the body is not a ConversionReview: {0}")]
    NotReview(serde_json::Error),
    #[error("apiVersion is {0:?}, but {V1} or v1beta1 is expected")]
    Version(String),
    #[error("kind is {0:?}, but ConversionReview is expected")]
    Kind(String),
    #[error("the ConversionReview has no request")]
    NoRequest,
    #[error("the request has no uid")]
    NoUid,
}

/// A list of thousands of objects is converted in one request.
const BODIES: usize = 8;

/// The route of the conversion webhook. It reads nothing but the request.
pub fn route() -> Route {
    Route { fail: failed, bodies: BODIES, ..Route::of_reviews(CONVERT, answer) }
}

/// Answers a review: [`Outcome::Patched`] when all objects are converted, [`Outcome::Refused`] when one is not.
pub fn answer(body: &[u8]) -> Answer {
    let review = match serde_json::from_slice::<Review<'_>>(body) {
        Ok(review) => review,
        Err(error) => return unreadable(body, &ReviewError::NotReview(error).to_string()),
    };
    let version = review.api_version.clone().unwrap_or_default();
    match checked(review) {
        Err(error) => unreadable(body, &error.to_string()),
        Ok((uid, request)) => match convert_all(&request) {
            Ok(objects) => success(&version, &uid, &objects),
            Err(message) => failure(&version, &uid, 422, message, Outcome::Refused),
        },
    }
}

/// Answers a body that [`answer`] does not get to see, or crashes over (WH-10).
pub fn failed(body: &[u8], failure_kind: Failure) -> Answer {
    match failure_kind {
        Failure::MediaType => unreadable(
            body,
            "the media type is not application/json; send the ConversionReview with content-type: application/json",
        ),
        Failure::Crash => {
            let message = "outrigger crashed while it converted these objects; the log has the details. Other requests are not affected";
            let (version, uid) = address(body);
            let answer = failure(&version, &uid, 500, message.to_owned(), Outcome::Crashed);
            Answer { outcome: Outcome::Crashed, ..answer }
        }
        Failure::Unsettled(reason) => unreadable(body, &reason),
    }
}

fn checked(review: Review<'_>) -> Result<(String, Request<'_>), ReviewError> {
    match review.api_version.unwrap_or_default() {
        version if version == V1 || version == V1BETA1 => {}
        other => return Err(ReviewError::Version(other)),
    }
    match review.kind.unwrap_or_default() {
        kind if kind == "ConversionReview" => {}
        other => return Err(ReviewError::Kind(other)),
    }
    let mut request = review.request.ok_or(ReviewError::NoRequest)?;
    let uid = request.uid.take().filter(|uid| !uid.is_empty()).ok_or(ReviewError::NoUid)?;
    Ok((uid, request))
}

/// All objects in their order, or what is wrong with each that fails.
fn convert_all(request: &Request<'_>) -> Result<Vec<Value>, String> {
    let desired = request.desired.as_deref().unwrap_or_default();
    if let Err(error) = Version::parse(desired) {
        return Err(format!("desiredAPIVersion: {error}"));
    }
    let objects = request.objects.as_deref().unwrap_or_default();
    let mut converted = Vec::with_capacity(objects.len());
    let mut failures = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        match converted_object(object, desired) {
            Ok(object) => converted.push(object),
            Err(reason) => failures.push((index, reason)),
        }
    }
    if failures.is_empty() { Ok(converted) } else { Err(described(&failures, objects.len(), desired)) }
}

fn converted_object(object: &RawValue, desired: &str) -> Result<Value, String> {
    let mut object: Value = serde_json::from_str(object.get())
        .map_err(|error| format!(": cannot be read: {}", shortened(&error.to_string())))?;
    // A failed conversion may leave an object half-done, but never its name.
    convert(&mut object, desired).map_err(|error| format!("{}: {}", named(&object), shortened(&error.to_string())))?;
    // Server-side apply has the fields of each owner converted, with or without metadata; the answer must have some.
    if let Some(members) = object.as_object_mut() {
        members.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    Ok(object)
}

/// ` KIND NAMESPACE/NAME`, as far as the object says so.
fn named(object: &Value) -> String {
    let text = |member: &Value| shortened(member.as_str().unwrap_or_default()).to_owned();
    let metadata = &object["metadata"];
    let (kind, namespace, name) = (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
    let name = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
    let words = [kind, name].into_iter().filter(|word| !word.is_empty());
    words.fold(String::new(), |out, word| out + " " + &word)
}

fn described(failures: &[(usize, String)], objects: usize, desired: &str) -> String {
    let mut message = format!("{} of {objects} objects cannot be converted to {desired}", failures.len());
    for (told, (index, reason)) in failures.iter().enumerate() {
        if message.len() > MESSAGE_LIMIT {
            // Writing to a String cannot fail.
            let _ = write!(message, "; and {} more", failures.len() - told);
            break;
        }
        let separator = if told == 0 { ": " } else { "; " };
        let _ = write!(message, "{separator}objects[{index}]{reason}");
    }
    message
}

// === answers ===

fn success(version: &str, uid: &str, objects: &[Value]) -> Answer {
    let mut body = open(version, uid);
    body.push_str("\"result\":{\"status\":\"Success\"},\"convertedObjects\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write!(body, "{object}");
    }
    body.push_str("]}}");
    Answer { outcome: Outcome::Patched, body, message: None, lacks_namespace: false }
}

fn failure(version: &str, uid: &str, code: u16, message: String, outcome: Outcome) -> Answer {
    let mut body = open(version, uid);
    // Writing to a String cannot fail.
    let _ = write!(body, "\"result\":{{\"status\":\"Failure\",\"code\":{code},\"message\":");
    push_string(&mut body, &message);
    body.push_str("},\"convertedObjects\":[]}}");
    let outcome = if uid.is_empty() { Outcome::Anonymous } else { outcome };
    Answer { outcome, body, message: Some(message), lacks_namespace: false }
}

/// The answer to a body that is no review, for the reason that `message` gives.
fn unreadable(body: &[u8], message: &str) -> Answer {
    let (version, uid) = address(body);
    failure(&version, &uid, 400, message.to_owned(), Outcome::Malformed)
}

/// A patient look for the version to answer in and the uid to answer to.
fn address(body: &[u8]) -> (String, String) {
    let review: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match text(&review["request"]["uid"]) {
        uid if uid.is_empty() => (text(&review["apiVersion"]), Named::of(body).uid),
        uid => (text(&review["apiVersion"]), uid),
    }
}

fn open(version: &str, uid: &str) -> String {
    let version = if version == V1BETA1 { V1BETA1 } else { V1 };
    let mut out = format!("{{\"apiVersion\":\"{version}\",\"kind\":\"ConversionReview\",\"response\":{{\"uid\":");
    push_string(&mut out, uid);
    out.push(',');
    out
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::names;

    fn review(version: &str, desired: &str, objects: &Value) -> Value {
        json!({
            "apiVersion": version, "kind": "ConversionReview",
            "request": {"uid": "u-1", "desiredAPIVersion": desired, "objects": objects},
        })
    }

    fn ask(review: &Value) -> (Outcome, Value) {
        let answer = answer(review.to_string().as_bytes());
        (answer.outcome, serde_json::from_str(&answer.body).unwrap())
    }

    fn set(name: &str, version: &str) -> Value {
        json!({"apiVersion": version, "kind": "SidecarSet", "metadata": {"name": name}, "spec": {}})
    }

    #[rstest]
    #[case::v1(V1)]
    #[case::v1beta1(V1BETA1)]
    fn a_batch_keeps_its_order_conv_1(#[case] version: &str) {
        let objects = json!([set("b", names::V1ALPHA1), set("a", names::V1BETA1), set("c", names::V1ALPHA1)]);
        let (outcome, answer) = ask(&review(version, names::V1BETA1, &objects));
        let expected = json!(["b", "a", "c"].map(|name| set(name, names::V1BETA1)));
        assert_eq!(outcome, Outcome::Patched);
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!(version), &json!("ConversionReview")));
        let response = json!({"uid": "u-1", "result": {"status": "Success"}, "convertedObjects": expected});
        assert_eq!(answer["response"], response);
    }

    #[test]
    fn the_fields_of_an_owner_are_converted_though_they_have_no_metadata() {
        let pruned = json!([{"apiVersion": names::V1BETA1, "kind": "SidecarSet", "status": {"matchedPods": 1}}]);
        let (_, answer) = ask(&review(V1, names::V1ALPHA1, &pruned));
        assert_eq!(answer["response"]["convertedObjects"][0]["metadata"], json!({}));
    }

    #[test]
    fn the_failure_of_a_batch_names_each_object_that_fails_and_why() {
        let mut request = json!({"apiVersion": names::V1ALPHA1, "kind": "Other"});
        request["metadata"] = json!({"namespace": "shop", "name": "web"});
        let objects = json!([set("a", names::V1ALPHA1), request, set("b", "apps.kruise.io/v9"), 7]);
        let (outcome, answer) = ask(&review(V1, names::V1BETA1, &objects));
        assert_eq!(outcome, Outcome::Refused);
        let response = &answer["response"];
        assert_eq!((&response["uid"], &response["convertedObjects"]), (&json!("u-1"), &json!([])));
        assert_eq!(response["result"]["status"], json!("Failure"));
        let message = "3 of 4 objects cannot be converted to apps.kruise.io/v1beta1: \
            objects[1] Other shop/web: kind \"Other\" is not known; SidecarSet, ContainerRecreateRequest, ImagePullJob, ImageListPullJob and NodeImage are; \
            objects[2] SidecarSet b: apiVersion \"apps.kruise.io/v9\" is not served; apps.kruise.io/v1alpha1 and apps.kruise.io/v1beta1 are; \
            objects[3]: is not an object";
        assert_eq!(response["result"]["message"], json!(message));
    }

    #[test]
    fn an_object_too_deep_to_read_fails_alone() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let body = format!(
            r#"{{"apiVersion":"{V1}","kind":"ConversionReview","request":{{"uid":"u-1","desiredAPIVersion":"{}","objects":[{},{deep}]}}}}"#,
            names::V1BETA1,
            set("a", names::V1ALPHA1)
        );
        let answer = answer(body.as_bytes());
        assert_eq!(answer.outcome, Outcome::Refused);
        let message = answer.message.unwrap();
        assert!(message.contains(": objects[1]: cannot be read: recursion limit"), "{message}");
    }

    #[test]
    fn the_message_of_many_failures_stays_bounded() {
        let objects: Vec<Value> = (0..5000).map(|index| set(&format!("set-{index}"), "x/v9")).collect();
        let (_, answer) = ask(&review(V1, names::V1BETA1, &json!(objects)));
        let message = answer["response"]["result"]["message"].as_str().unwrap();
        assert!(message.len() < MESSAGE_LIMIT + 1024 && message.ends_with(" more"), "{}", message.len());
    }

    #[test]
    fn nothing_to_convert_is_a_success() {
        for objects in [json!([]), Value::Null] {
            let (outcome, answer) = ask(&review(V1, names::V1ALPHA1, &objects));
            assert_eq!((outcome, &answer["response"]["convertedObjects"]), (Outcome::Patched, &json!([])));
        }
    }

    #[rstest]
    #[case::no_json("{", "", "the body is not a ConversionReview: EOF while parsing an object at line 1 column 1")]
    #[case::empty("", "", "the body is not a ConversionReview: EOF while parsing a value at line 1 column 0")]
    #[case::cut_off(
        r#"{"request":{"uid":"u-1","objects":[{"#,
        "u-1",
        "the body is not a ConversionReview: EOF while parsing an object at line 1 column 36"
    )]
    #[case::version(
        r#"{"apiVersion":"v2","kind":"ConversionReview","request":{"uid":"u-1"}}"#,
        "u-1",
        "apiVersion is \"v2\", but apiextensions.k8s.io/v1 or v1beta1 is expected"
    )]
    #[case::kind(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1"}}"#,
        "u-1",
        "kind is \"AdmissionReview\", but ConversionReview is expected"
    )]
    #[case::no_request(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview"}"#,
        "",
        "the ConversionReview has no request"
    )]
    #[case::no_uid(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","request":{}}"#,
        "",
        "the request has no uid"
    )]
    #[case::wanted_version(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","request":{"uid":"u-1","desiredAPIVersion":"v1","objects":[]}}"#,
        "u-1",
        "desiredAPIVersion: apiVersion \"v1\" is not served; apps.kruise.io/v1alpha1 and apps.kruise.io/v1beta1 are"
    )]
    #[case::uid_of_another_type(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","request":{"uid":7}}"#,
        "",
        "the body is not a ConversionReview: invalid type: integer `7`, expected a string at line 1 column 84"
    )]
    fn a_review_that_cannot_be_answered_is_told_why(#[case] body: &str, #[case] uid: &str, #[case] message: &str) {
        let answer = answer(body.as_bytes());
        assert_eq!(answer.outcome == Outcome::Anonymous, uid.is_empty());
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((&body["kind"], &body["response"]["uid"]), (&json!("ConversionReview"), &json!(uid)));
        assert_eq!(body["response"]["result"]["status"], json!("Failure"));
        assert_eq!(body["response"]["result"]["message"], json!(message));
    }

    #[test]
    fn a_crash_is_a_failure_with_the_uid_wh_10() {
        let review = review(V1BETA1, names::V1BETA1, &json!([]));
        let answer = failed(review.to_string().as_bytes(), Failure::Crash);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.outcome, Outcome::Crashed);
        assert_eq!((&body["apiVersion"], &body["response"]["uid"]), (&json!(V1BETA1), &json!("u-1")));
    }
}
