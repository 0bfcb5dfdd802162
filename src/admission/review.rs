//! 1. AdmissionReview in, answer out (RSP-1, RSP-2, MATCH-1, POD-1).
//!
//! The review is read in one pass that goes only as deep as the pod's metadata. When that fails, a second, patient look
//! finds the uid if it can be found, so that the API server and the user hear what is wrong.

use std::fmt::Write as _;

use base64_simd::STANDARD;
use serde_json::Value;

use super::patch::push_string;
use super::pod::{Ambient, mutate};
use crate::facts::Warnings;
use crate::pod::{Pod, Text, text};
use crate::scan::{ScanError, Scanner};
use crate::store::Snapshot;

/// `apiVersion` of reviews that are sent today.
pub const V1: &str = "admission.k8s.io/v1";
/// The older one; the members that matter here are the same.
pub const V1BETA1: &str = "admission.k8s.io/v1beta1";

/// Bytes of one warning; the API server cuts longer ones.
const WARNING_LIMIT: usize = 256;
/// Bytes of a refusal's message.
const MESSAGE_LIMIT: usize = 4096;

/// How a request was answered, for metrics and the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Admitted as it is.
    Unchanged,
    /// Admitted with a patch.
    Patched,
    /// Refused by a rule.
    Refused,
    /// The review or the pod cannot be understood.
    Malformed,
    /// The review cannot be understood, and has no uid to answer to.
    Anonymous,
    /// A crash.
    Crashed,
}

/// The answer to one request.
#[derive(Debug)]
pub struct Answer {
    /// What happened.
    pub outcome: Outcome,
    /// The body: an AdmissionReview.
    pub body: String,
    /// The refusal's text, for the log.
    pub message: Option<String>,
}

/// A review, as far as it is looked into. What is absent or `null` is empty.
#[derive(Default)]
struct Review<'a> {
    api_version: Text<'a>,
    kind: Text<'a>,
    request: Option<Request<'a>>,
}

#[derive(Default)]
struct Request<'a> {
    uid: Text<'a>,
    /// Group and kind of the object.
    kind: Option<(Text<'a>, Text<'a>)>,
    /// Group and name of the resource.
    resource: Option<(Text<'a>, Text<'a>)>,
    sub_resource: Text<'a>,
    operation: Text<'a>,
    namespace: Text<'a>,
    object: Option<Pod<'a>>,
}

impl<'a> Review<'a> {
    fn parse(body: &'a str) -> Result<Self, ScanError> {
        let mut review = Self::default();
        let mut scanner = Scanner::new(body);
        scanner.object(|scanner, key| {
            match key {
                "apiVersion" => review.api_version = text(scanner)?,
                "kind" => review.kind = text(scanner)?,
                "request" if !scanner.null()? => review.request = Some(Request::scan(scanner)?),
                "request" => {}
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        scanner.end()?;
        Ok(review)
    }
}

impl<'a> Request<'a> {
    fn scan(scanner: &mut Scanner<'a>) -> Result<Self, ScanError> {
        let mut request = Self::default();
        scanner.object(|scanner, key| {
            match key {
                "uid" => request.uid = text(scanner)?,
                "kind" => request.kind = grouped(scanner, "kind")?,
                "resource" => request.resource = grouped(scanner, "resource")?,
                "subResource" => request.sub_resource = text(scanner)?,
                "operation" => request.operation = text(scanner)?,
                "namespace" => request.namespace = text(scanner)?,
                "object" if !scanner.null()? => request.object = Some(Pod::scan(scanner)?),
                "object" => {}
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        Ok(request)
    }
}

/// Group and `name` of a kind or resource.
fn grouped<'a>(scanner: &mut Scanner<'a>, name: &str) -> Result<Option<(Text<'a>, Text<'a>)>, ScanError> {
    if scanner.null()? {
        return Ok(None);
    }
    let mut found = (Text::default(), Text::default());
    scanner.object(|scanner, key| {
        match key {
            "group" => found.0 = text(scanner)?,
            key if key == name => found.1 = text(scanner)?,
            _ => scanner.skip()?,
        }
        Ok::<_, ScanError>(())
    })?;
    Ok(Some(found))
}

/// Why a review is not one that this webhook can answer (RSP-1).
#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("the body is not UTF-8")]
    NotText,
    #[error("the body is not an AdmissionReview: {0}")]
    NotReview(ScanError),
    #[error("apiVersion is {0:?}, but admission.k8s.io/v1 or v1beta1 is expected")]
    Version(String),
    #[error("kind is {0:?}, but AdmissionReview is expected")]
    Kind(String),
    #[error("the AdmissionReview has no request")]
    NoRequest,
    #[error("the request has no uid")]
    NoUid,
    #[error("the request is about {0}, but this webhook admits pods; check the rules of its webhook configuration")]
    NotPods(String),
    #[error("operation {0:?} is none of CREATE, UPDATE, DELETE, CONNECT")]
    Operation(String),
    #[error("the request has no object, but CREATE needs one")]
    NoObject,
}

/// Answers a review of a pod.
pub fn answer(body: &[u8], snapshot: &Snapshot, ambient: &Ambient) -> Answer {
    let Ok(body_text) = std::str::from_utf8(body) else { return malformed(body, &ReviewError::NotText) };
    let review = match Review::parse(body_text) {
        Ok(review) => review,
        Err(error) => return malformed(body, &ReviewError::NotReview(error)),
    };
    let version = &*review.api_version;
    let uid = review.request.as_ref().map_or("", |request| &*request.uid);
    match subject(&review) {
        Err(error) => refused(version, uid, 400, &error.to_string(), Outcome::Malformed),
        Ok(None) => allowed(version, uid, None, &[]),
        Ok(Some((pod, namespace))) => decide(version, uid, pod, namespace, snapshot, ambient),
    }
}

fn decide<'a>(
    version: &str,
    uid: &str,
    pod: &Pod<'a>,
    namespace: &str,
    snapshot: &'a Snapshot,
    ambient: &Ambient,
) -> Answer {
    let mut facts = Warnings::default();
    match mutate(pod, namespace, snapshot, ambient, &mut facts) {
        Ok(patch) => {
            let warnings: Vec<String> = facts.0.iter().map(ToString::to_string).collect();
            allowed(version, uid, patch.as_deref(), &warnings)
        }
        Err(refusal) => {
            let outcome = if refusal.code() == 400 { Outcome::Malformed } else { Outcome::Refused };
            refused(version, uid, refusal.code(), &refusal.to_string(), outcome)
        }
    }
}

/// The pod to decide about and its namespace; `None` when the request is one that is let through untouched.
fn subject<'r, 'a>(review: &'r Review<'a>) -> Result<Option<(&'r Pod<'a>, &'r str)>, ReviewError> {
    match &*review.api_version {
        V1 | V1BETA1 => {}
        other => return Err(ReviewError::Version(other.to_owned())),
    }
    if review.kind != "AdmissionReview" {
        return Err(ReviewError::Kind(review.kind.clone().into_owned()));
    }
    let request = review.request.as_ref().ok_or(ReviewError::NoRequest)?;
    if request.uid.is_empty() {
        return Err(ReviewError::NoUid);
    }
    // MATCH-1: subresources, updates and deletions are let through; UPD-4: an update never changes anything.
    if !request.sub_resource.is_empty() {
        return Ok(None);
    }
    for (subject, pod) in [(&request.resource, "pods"), (&request.kind, "Pod")] {
        if let Some((group, name)) = subject.as_ref().filter(|(group, name)| !(group.is_empty() && name == pod)) {
            return Err(ReviewError::NotPods(qualified(name, group)));
        }
    }
    match &*request.operation {
        "CREATE" => {}
        "UPDATE" | "DELETE" | "CONNECT" => return Ok(None),
        other => return Err(ReviewError::Operation(other.to_owned())),
    }
    let pod = request.object.as_ref().ok_or(ReviewError::NoObject)?;
    // POD-1, MATCH-7.
    let named = [&*pod.metadata.namespace, &*request.namespace];
    let namespace = named.into_iter().find(|name| !name.is_empty()).unwrap_or("default");
    Ok(Some((pod, namespace)))
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn allowed(version: &str, uid: &str, patch: Option<&str>, warnings: &[String]) -> Answer {
    let mut body = open(version, uid, patch.map_or(0, |patch| patch.len() * 4 / 3 + 64));
    body.push_str("\"allowed\":true,\"status\":{\"code\":200}");
    if let Some(patch) = patch {
        body.push_str(",\"patchType\":\"JSONPatch\",\"patch\":\"");
        STANDARD.encode_append(patch, &mut body);
        body.push('"');
    }
    if !warnings.is_empty() {
        body.push_str(",\"warnings\":[");
        for (index, warning) in warnings.iter().enumerate() {
            if index > 0 {
                body.push(',');
            }
            push_string(&mut body, cut(warning, WARNING_LIMIT));
        }
        body.push(']');
    }
    body.push_str("}}");
    let outcome = if patch.is_some() { Outcome::Patched } else { Outcome::Unchanged };
    Answer { outcome, body, message: None }
}

fn refused(version: &str, uid: &str, code: u16, message: &str, outcome: Outcome) -> Answer {
    let message = cut(message, MESSAGE_LIMIT);
    let mut body = open(version, uid, message.len());
    // Writing to a String cannot fail.
    let _ = write!(body, "\"allowed\":false,\"status\":{{\"code\":{code},\"message\":");
    push_string(&mut body, message);
    body.push_str("}}}");
    let outcome = if uid.is_empty() { Outcome::Anonymous } else { outcome };
    Answer { outcome, body, message: Some(message.to_owned()) }
}

/// The answer to a request whose handling crashed (WH-10).
pub fn crashed(body: &[u8]) -> Answer {
    let message =
        "outrigger crashed while it handled this pod; the log has the details. Other requests are not affected";
    let (version, uid) = address(body);
    Answer { outcome: Outcome::Crashed, ..refused(&version, &uid, 500, message, Outcome::Crashed) }
}

/// The answer to a request that is no review, for the reason that `message` gives.
pub fn unreadable(body: &[u8], message: &str) -> Answer {
    let (version, uid) = address(body);
    refused(&version, &uid, 400, message, Outcome::Malformed)
}

fn malformed(body: &[u8], error: &ReviewError) -> Answer {
    unreadable(body, &error.to_string())
}

/// A patient look for the version to answer in and the uid to answer to, in a body that is not what it should be.
fn address(body: &[u8]) -> (String, String) {
    let review: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&review["apiVersion"]), text(&review["request"]["uid"]))
}

fn open(version: &str, uid: &str, room: usize) -> String {
    let version = if version == V1BETA1 { V1BETA1 } else { V1 };
    let mut out = String::with_capacity(room + uid.len() + 256);
    out.push_str("{\"apiVersion\":\"");
    out.push_str(version);
    out.push_str("\",\"kind\":\"AdmissionReview\",\"response\":{\"uid\":");
    push_string(&mut out, uid);
    out.push(',');
    out
}

/// At most `limit` bytes of a text, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
