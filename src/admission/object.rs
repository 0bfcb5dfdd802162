//! The review of an object of ours in, its answer out, where the rules ask nobody but the object.
//!
//! Objects come in the version that the client used and are answered in it (WH-7).

use std::fmt::Write as _;
use std::marker::PhantomData;

use serde_json::{Map, Value, json};

use super::envelope::{self, Answer, Outcome, Refused, Request, Review, Subject};
use crate::api::names;
use crate::scan::{ScanError, Scanner};
use crate::sidecarset::validate::Problem;

/// Problems of one refusal that are told one by one.
const PROBLEMS: usize = 32;
/// Bytes that these may have together, so that the count of the others fits behind them.
const TOLD: usize = 3800;

/// A kind of ours.
pub(super) trait Kind {
    /// Name of its resource.
    const RESOURCE: &'static str;
    /// Its name.
    const KIND: &'static str;
}

/// The text of an object.
pub(super) struct Raw<'a, K>(pub(super) &'a str, PhantomData<K>);

impl<'a, K: Kind> Subject<'a> for Raw<'a, K> {
    const GROUP: &'static str = names::GROUP;
    const RESOURCE: &'static str = K::RESOURCE;
    const KIND: &'static str = K::KIND;
    const OPERATIONS: &'static [&'static str] = &["CREATE", "UPDATE"];

    type World = ();

    fn scan(scanner: &mut Scanner<'a>, (): ()) -> Result<Self, ScanError> {
        let at = scanner.mark();
        let text = scanner.value()?;
        if !text.starts_with('{') {
            return Err(ScanError { expected: "an object", at });
        }
        Ok(Self(text, PhantomData))
    }

    fn scan_old(scanner: &mut Scanner<'a>) -> Result<Option<Self>, ScanError> {
        Self::scan(scanner, ()).map(Some)
    }
}

/// An object that is to be stored.
pub(super) struct Sent<'r, 'a, K> {
    request: &'r Request<'a, Raw<'a, K>>,
    object: &'r Raw<'a, K>,
}

/// What comes of an object that can be read.
pub(super) enum Verdict {
    /// It may be stored.
    Allowed {
        /// JSON patch, if anything changes.
        patch: Option<String>,
        /// What its author should know.
        warnings: Vec<String>,
    },
    /// It breaks rules.
    Invalid(Vec<Problem>),
    /// It is not decided about, as something is switched off.
    Off(String),
    /// What is done to it may not be done (RSP-2).
    Denied(String),
}

/// Answers a review by what `decide` says. A problem that is an error is one of reading the object (RSP-1).
pub(super) fn answer<K: Kind>(
    body: &[u8],
    decide: impl FnOnce(&Sent<'_, '_, K>) -> Result<Verdict, Problem>,
) -> Answer {
    let review = match Review::<'_, Raw<'_, K>>::parse(body, ()) {
        Ok(review) => review,
        Err(error) => return envelope::unreadable(body, &error),
    };
    let (version, uid) = review.address();
    let sent = match review.subject() {
        Err(error) => return envelope::malformed(version, uid, &error),
        Ok(None) => return envelope::allowed(version, uid, None, &[]),
        Ok(Some((request, object))) => Sent { request, object },
    };
    match decide(&sent) {
        Err(problem) => envelope::malformed(version, uid, &problem),
        Ok(Verdict::Allowed { patch, warnings }) => envelope::allowed(version, uid, patch.as_deref(), &warnings),
        Ok(Verdict::Invalid(errors)) => {
            let name = sent.object().map(|object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            invalid::<K>(version, uid, &name.unwrap_or_default(), &errors)
        }
        Ok(Verdict::Off(message)) => forbidden(version, uid, &message, ""),
        Ok(Verdict::Denied(message)) => forbidden(version, uid, &message, ",\"reason\":\"Forbidden\""),
    }
}

/// The answer to an object that breaks rules, with all of them. Differs: RSP-3. The reference answers 400 or 500, and
/// tells the first.
fn invalid<K: Kind>(version: &str, uid: &str, name: &str, errors: &[Problem]) -> Answer {
    let mut message = String::new();
    let mut told = 0;
    for error in errors.iter().take(PROBLEMS) {
        let line = error.to_string();
        if told > 0 && message.len() + line.len() > TOLD {
            break;
        }
        if told > 0 {
            message.push('\n');
        }
        message.push_str(&line);
        told += 1;
    }
    if told < errors.len() {
        // Writing to a String cannot fail.
        let _ = write!(message, "\nand {} more", errors.len() - told);
    }
    let cause =
        |error: &Problem| json!({"reason": "FieldValueInvalid", "field": error.field, "message": error.message});
    let causes: Vec<Value> = errors.iter().take(told).map(cause).collect();
    let details = json!({"group": names::GROUP, "kind": K::KIND, "name": name, "causes": causes});
    let details = format!(",\"reason\":\"Invalid\",\"details\":{details}");
    envelope::refused(
        version,
        uid,
        Refused { code: 422, message: &message, details: &details, outcome: Outcome::Refused },
    )
}

fn forbidden(version: &str, uid: &str, message: &str, details: &str) -> Answer {
    envelope::refused(version, uid, Refused { code: 403, message, details, outcome: Outcome::Refused })
}

/// The object at `name`, made when it is not there.
pub(super) fn object_at<'a>(parent: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = json!({});
    }
    let member = &mut parent[name];
    if !member.is_object() {
        *member = json!({});
    }
    member.as_object_mut().expect("it was made an object")
}

/// Sets a member that says nothing yet.
pub(super) fn default_to(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if object.get(name).is_none_or(|member| member.is_null() || member == "") {
        object.insert(name.to_owned(), value.into());
    }
}

// === impl Sent ===

impl<K: Kind> Sent<'_, '_, K> {
    /// The object in the version of the request's resource (WH-7), which the API server has converted it to.
    pub(super) fn object(&self) -> Result<Value, Problem> {
        self.read(self.object)
    }

    /// The same, where no other version than ours can be told anything (IPJ-5, NI-3).
    pub(super) fn served(&self) -> Result<Value, Problem> {
        let object = self.object()?;
        let is = &object["apiVersion"];
        if *is == names::V1BETA1 || *is == names::V1ALPHA1 {
            return Ok(object);
        }
        let message = format!("{is} is not served; use {} or {}", names::V1BETA1, names::V1ALPHA1);
        Err(Problem { field: "apiVersion".to_owned(), message })
    }

    /// The object as it was; `None` on CREATE. One that cannot be read is no reason to refuse what mends it.
    pub(super) fn old(&self) -> Option<Value> {
        self.read(self.request.old_object.as_ref()?).ok()
    }

    /// Whether it is new.
    pub(super) fn is_new(&self) -> bool {
        self.request.old_object.is_none()
    }

    fn read(&self, raw: &Raw<'_, K>) -> Result<Value, Problem> {
        let mut document: Value = serde_json::from_str(raw.0).map_err(|error| Problem {
            field: String::new(),
            message: format!("the object cannot be read: {error}"),
        })?;
        document["apiVersion"] = format!("{}/{}", names::GROUP, self.request.version()).into();
        Ok(document)
    }
}

// === impl Verdict ===

impl Verdict {
    /// It may be stored as it is.
    pub(super) fn unchanged() -> Self {
        Self::Allowed { patch: None, warnings: Vec::new() }
    }

    /// It may be stored with these changes.
    pub(super) fn patched(operations: Vec<Value>) -> Self {
        let patch = (!operations.is_empty()).then(|| Value::Array(operations).to_string());
        Self::Allowed { patch, warnings: Vec::new() }
    }
}

#[cfg(test)]
pub(super) mod tests;
