//! Reviews without a socket: post one to the rules, apply what comes back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger::admission::pod::Ambient;
use outrigger::admission::review;
use outrigger::store::Snapshot;
use serde_json::Value;

/// The answer to a review at some fixed time.
pub fn post(snapshot: &Snapshot, review: &Value) -> Value {
    let ambient = Ambient { now: "2026-03-04T05:06:07Z".parse().expect("a time"), random: 0x9e37_79b9_7f4a_7c15 };
    let answer = review::answer(review.to_string().as_bytes(), snapshot, &ambient);
    serde_json::from_str(&answer.body).expect("an answer is JSON")
}

/// The patch of a response, decoded.
pub fn patch(response: &Value) -> Option<json_patch::Patch> {
    let text = response["patch"].as_str()?;
    assert_eq!(response["patchType"], "JSONPatch", "a patch has its type");
    Some(serde_json::from_slice(&STANDARD.decode(text).expect("base64")).expect("a JSON patch"))
}

/// The object after the patch of a response.
pub fn apply(object: &Value, response: &Value) -> Value {
    let mut object = object.clone();
    if let Some(patch) = patch(response) {
        json_patch::patch(&mut object, &patch).expect("the patch fits the object");
    }
    object
}
