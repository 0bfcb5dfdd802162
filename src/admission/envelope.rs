//! The AdmissionReview around an object: read on the way in, written on the way out (RSP-1, RSP-2, MATCH-1).
//!
//! One pass over the body reads what every kind needs, and hands the object itself to its [`Subject`]. When that fails, a
//! second, patient look finds the uid if it can be found, so that the API server and the user hear what is wrong.

use std::fmt::{self, Write as _};

use base64_simd::STANDARD;
use serde_json::Value;

use super::patch::push_string;
use crate::pod::{Text, text};
use crate::scan::{ScanError, Scanner};

/// `apiVersion` of reviews that are sent today.
pub const V1: &str = "admission.k8s.io/v1";
/// The older one; the members that matter here are the same.
pub const V1BETA1: &str = "admission.k8s.io/v1beta1";

/// Bytes of one warning; the API server cuts longer ones.
const WARNING_LIMIT: usize = 256;
/// Warnings of one answer: together they are no longer than the 4096 bytes after which the API server cuts each.
const WARNINGS: usize = 16;
/// Bytes of a refusal's message.
const MESSAGE_LIMIT: usize = 4096;
/// Bytes of a name or a reason in a log line.
const LOGGED: usize = 256;

/// How a request was answered, for metrics and the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Admitted as it is.
    Unchanged,
    /// Admitted with a patch.
    Patched,
    /// Refused by a rule.
    Refused,
    /// The review or the object cannot be understood.
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
    /// Whether it was decided without knowing the pod's namespace, which may only be too new to be known (MATCH-5).
    pub lacks_namespace: bool,
}

/// Why a request is answered without being looked at by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is not said to be JSON.
    MediaType,
    /// The rules crashed over it (WH-10).
    Crash,
    /// The rules admit it, but what has to happen in the cluster first did not, for this reason.
    Unsettled(String),
}

/// The object of a request, read as deep as its rules want.
pub(super) trait Subject<'a>: Sized {
    /// Group of the resource and kind; empty for core.
    const GROUP: &'static str;
    /// Name of the resource.
    const RESOURCE: &'static str;
    /// Name of the kind.
    const KIND: &'static str;
    /// Operations to decide about; the others are let through.
    const OPERATIONS: &'static [&'static str];

    /// What reading the object depends on.
    type World: Copy;

    /// Reads the object, which is not `null`.
    fn scan(scanner: &mut Scanner<'a>, world: Self::World) -> Result<Self, ScanError>;

    /// Reads the object as it was before, for who compares.
    fn scan_old(scanner: &mut Scanner<'a>) -> Result<Option<Self>, ScanError> {
        scanner.skip()?;
        Ok(None)
    }
}

/// A review, as far as it is looked into. What is absent or `null` is empty.
pub(super) struct Review<'a, S> {
    api_version: Text<'a>,
    kind: Text<'a>,
    request: Option<Request<'a, S>>,
}

/// The request of a review.
pub(super) struct Request<'a, S> {
    uid: Text<'a>,
    kind: Option<Grouped<'a>>,
    resource: Option<Grouped<'a>>,
    sub_resource: Text<'a>,
    operation: Text<'a>,
    /// Namespace of the object.
    pub(super) namespace: Text<'a>,
    object: Option<S>,
    /// The object as it was before an UPDATE.
    pub(super) old_object: Option<S>,
}

/// A kind or resource.
#[derive(Default)]
struct Grouped<'a> {
    group: Text<'a>,
    version: Text<'a>,
    name: Text<'a>,
}

/// What a log line says of a request, whatever else is wrong with it. Nothing of it tells who sent it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Uid of the request.
    pub uid: String,
    /// What was asked for, such as `CREATE`.
    pub operation: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object; while it has none, its `generateName` and a `*`.
    pub name: String,
}

/// Why a review is not one that this webhook can answer (RSP-1).
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
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
    #[error(
        "the request is about {found}, but this webhook admits {wanted}; check the rules of its webhook configuration"
    )]
    NotOurs { found: String, wanted: String },
    #[error("operation {0:?} is none of CREATE, UPDATE, DELETE, CONNECT")]
    Operation(String),
    #[error("the request has no object, but {0} needs one")]
    NoObject(String),
}

/// How a refusal is told apart by programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused<'a> {
    /// Status code.
    pub(super) code: u16,
    /// The text for people.
    pub(super) message: &'a str,
    /// Further members of the status, as JSON that begins with a comma, or nothing (RSP-2).
    pub(super) details: &'a str,
    /// For metrics.
    pub(super) outcome: Outcome,
}

// === impl Outcome ===

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 6] =
        [Self::Unchanged, Self::Patched, Self::Refused, Self::Malformed, Self::Anonymous, Self::Crashed];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Patched => "patched",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Anonymous => "anonymous",
            Self::Crashed => "crashed",
        }
    }
}

// === impl Review ===

impl<'a, S: Subject<'a>> Review<'a, S> {
    /// Reads a body.
    pub(super) fn parse(body: &'a [u8], world: S::World) -> Result<Self, ReviewError> {
        let text = std::str::from_utf8(body).map_err(|_| ReviewError::NotText)?;
        Self::scan(text, world).map_err(ReviewError::NotReview)
    }

    fn scan(body: &'a str, world: S::World) -> Result<Self, ScanError> {
        let mut review = Self { api_version: Text::default(), kind: Text::default(), request: None };
        let mut scanner = Scanner::new(body);
        scanner.object(|scanner, key| {
            match key {
                "apiVersion" => review.api_version = text(scanner)?,
                "kind" => review.kind = text(scanner)?,
                "request" if !scanner.null()? => review.request = Some(Request::scan(scanner, world)?),
                "request" => {}
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        scanner.end()?;
        Ok(review)
    }

    /// What to answer to: version and uid.
    pub(super) fn address(&self) -> (&str, &str) {
        (&self.api_version, self.request.as_ref().map_or("", |request| &*request.uid))
    }

    /// The request and the object to decide about; `None` when the request is one that is let through untouched.
    pub(super) fn subject(&self) -> Result<Option<(&Request<'a, S>, &S)>, ReviewError> {
        match &*self.api_version {
            V1 | V1BETA1 => {}
            other => return Err(ReviewError::Version(other.to_owned())),
        }
        if self.kind != "AdmissionReview" {
            return Err(ReviewError::Kind(self.kind.clone().into_owned()));
        }
        let request = self.request.as_ref().ok_or(ReviewError::NoRequest)?;
        if request.uid.is_empty() {
            return Err(ReviewError::NoUid);
        }
        // MATCH-1: subresources, and operations that nobody decides about, are let through.
        if !request.sub_resource.is_empty() {
            return Ok(None);
        }
        for (found, wanted) in [(&request.resource, S::RESOURCE), (&request.kind, S::KIND)] {
            if let Some(found) = found.as_ref().filter(|found| !(found.group == S::GROUP && found.name == wanted)) {
                let (found, wanted) = (qualified(&found.name, &found.group), qualified(S::RESOURCE, S::GROUP));
                return Err(ReviewError::NotOurs { found, wanted });
            }
        }
        match &*request.operation {
            operation if S::OPERATIONS.contains(&operation) => {}
            "CREATE" | "UPDATE" | "DELETE" | "CONNECT" => return Ok(None),
            other => return Err(ReviewError::Operation(other.to_owned())),
        }
        let object = request.object.as_ref().ok_or_else(|| ReviewError::NoObject(request.operation.to_string()))?;
        Ok(Some((request, object)))
    }
}

// === impl Request ===

impl<'a, S: Subject<'a>> Request<'a, S> {
    /// Version of the resource, which is that of the object (WH-7).
    pub(super) fn version(&self) -> &str {
        self.resource.as_ref().map_or("", |resource| &resource.version)
    }

    fn scan(scanner: &mut Scanner<'a>, world: S::World) -> Result<Self, ScanError> {
        let mut request = Self {
            uid: Text::default(),
            kind: None,
            resource: None,
            sub_resource: Text::default(),
            operation: Text::default(),
            namespace: Text::default(),
            object: None,
            old_object: None,
        };
        scanner.object(|scanner, key| {
            match key {
                "uid" => request.uid = text(scanner)?,
                "kind" => request.kind = grouped(scanner, "kind")?,
                "resource" => request.resource = grouped(scanner, "resource")?,
                "subResource" => request.sub_resource = text(scanner)?,
                "operation" => request.operation = text(scanner)?,
                "namespace" => request.namespace = text(scanner)?,
                "object" if !scanner.null()? => request.object = Some(S::scan(scanner, world)?),
                "oldObject" if !scanner.null()? => request.old_object = S::scan_old(scanner)?,
                "object" | "oldObject" => {}
                _ => scanner.skip()?,
            }
            Ok::<_, ScanError>(())
        })?;
        Ok(request)
    }
}

/// A kind or resource, whose name is the member `name`.
fn grouped<'a>(scanner: &mut Scanner<'a>, name: &str) -> Result<Option<Grouped<'a>>, ScanError> {
    if scanner.null()? {
        return Ok(None);
    }
    let mut found = Grouped::default();
    scanner.object(|scanner, key| {
        match key {
            "group" => found.group = text(scanner)?,
            "version" => found.version = text(scanner)?,
            key if key == name => found.name = text(scanner)?,
            _ => scanner.skip()?,
        }
        Ok::<_, ScanError>(())
    })?;
    Ok(Some(found))
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

// === impl Named ===

impl Named {
    /// Reads as much as can be read of a body. Costs a pass over it, so it is for log lines that are really written.
    pub fn of(body: &[u8]) -> Self {
        let text = match std::str::from_utf8(body) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut named = Self::default();
        // What comes before the place where the body breaks off is kept.
        let _ = Scanner::new(text).object(|scanner, key| match key {
            "request" => named.request(scanner),
            _ => scanner.skip(),
        });
        named
    }

    fn request(&mut self, scanner: &mut Scanner<'_>) -> Result<(), ScanError> {
        let mut requested = String::new();
        let mut own = (String::new(), String::new());
        let read = scanner.object(|scanner, key| {
            match key {
                "uid" => self.uid = logged(scanner)?,
                "operation" => self.operation = logged(scanner)?,
                "namespace" => self.namespace = logged(scanner)?,
                "name" => requested = logged(scanner)?,
                "object" if !scanner.null()? => scanner.object(|scanner, key| match key {
                    "metadata" if !scanner.null()? => scanner.object(|scanner, key| {
                        match key {
                            "name" => own.0 = logged(scanner)?,
                            "generateName" => own.1 = logged(scanner)? + "*",
                            _ => scanner.skip()?,
                        }
                        Ok(())
                    }),
                    _ => scanner.skip(),
                })?,
                _ => scanner.skip()?,
            }
            Ok(())
        });
        let names = [requested, own.0, own.1];
        self.name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        read
    }
}

/// A text as it is logged: any other value is none.
fn logged(scanner: &mut Scanner<'_>) -> Result<String, ScanError> {
    let value = scanner.value()?;
    let text: Option<String> = serde_json::from_str(value).unwrap_or_default();
    Ok(cut(&text.unwrap_or_default(), LOGGED).to_owned())
}

/// A reason as it is logged.
pub(super) fn shortened(text: &str) -> &str {
    cut(text, LOGGED)
}

// === answers ===

/// The request is admitted, with the text of a JSON patch if there is one.
pub(super) fn allowed(version: &str, uid: &str, patch: Option<&str>, warnings: &[String]) -> Answer {
    let mut body = open(version, uid, patch.map_or(0, |patch| patch.len() * 4 / 3 + 64));
    body.push_str("\"allowed\":true,\"status\":{\"code\":200}");
    if let Some(patch) = patch {
        body.push_str(",\"patchType\":\"JSONPatch\",\"patch\":\"");
        STANDARD.encode_append(patch, &mut body);
        body.push('"');
    }
    push_warnings(&mut body, warnings);
    body.push_str("}}");
    let outcome = if patch.is_some() { Outcome::Patched } else { Outcome::Unchanged };
    Answer { outcome, body, message: None, lacks_namespace: false }
}

fn push_warnings(body: &mut String, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    let shown = if warnings.len() > WARNINGS { WARNINGS - 1 } else { warnings.len() };
    body.push_str(",\"warnings\":[");
    for (index, warning) in warnings[..shown].iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        push_string(body, cut(warning, WARNING_LIMIT));
    }
    if shown < warnings.len() {
        // Writing to a String cannot fail.
        let _ = write!(body, ",\"and {} more warnings\"", warnings.len() - shown);
    }
    body.push(']');
}

/// The request is refused.
pub(super) fn refused(version: &str, uid: &str, refused: Refused<'_>) -> Answer {
    let message = cut(refused.message, MESSAGE_LIMIT);
    let mut body = open(version, uid, message.len() + refused.details.len());
    // Writing to a String cannot fail.
    let _ = write!(body, "\"allowed\":false,\"status\":{{\"code\":{},\"message\":", refused.code);
    push_string(&mut body, message);
    body.push_str(refused.details);
    body.push_str("}}}");
    let outcome = if uid.is_empty() { Outcome::Anonymous } else { refused.outcome };
    Answer { outcome, body, message: Some(message.to_owned()), lacks_namespace: false }
}

/// The answer to a review that cannot be understood (RSP-1).
pub(super) fn malformed(version: &str, uid: &str, error: &impl fmt::Display) -> Answer {
    let message = error.to_string();
    refused(version, uid, Refused { code: 400, message: &message, details: "", outcome: Outcome::Malformed })
}

/// The answer to a body that is no review.
pub(super) fn unreadable(body: &[u8], error: &impl fmt::Display) -> Answer {
    let (version, uid) = address(body);
    malformed(&version, &uid, error)
}

/// The answer to a request that the rules did not answer.
pub fn failed(body: &[u8], failure: Failure) -> Answer {
    match failure {
        Failure::MediaType => unreadable(
            body,
            &"the media type is not application/json; send the AdmissionReview with content-type: application/json",
        ),
        Failure::Crash => {
            let message = "outrigger crashed while it handled this object; the log has the details. Other requests are not affected";
            let (version, uid) = address(body);
            let crash = Refused { code: 500, message, details: "", outcome: Outcome::Crashed };
            Answer { outcome: Outcome::Crashed, ..refused(&version, &uid, crash) }
        }
        Failure::Unsettled(reason) => {
            let (version, uid) = address(body);
            let late = Refused { code: 503, message: &reason, details: "", outcome: Outcome::Refused };
            refused(&version, &uid, late)
        }
    }
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
