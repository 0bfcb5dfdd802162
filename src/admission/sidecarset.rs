//! The review of a SidecarSet in, its answer out: defaulted and hashed on the one path, judged on the other (SSD, SSV).
//!
//! Objects come in the version that the client used and are answered in it (WH-7): what defaulting does is done to the
//! members of the same names in either version, so nothing is converted in a patch.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::diff;
use super::envelope::{self, Answer, Outcome, Refused, Request, Review, Subject};
use crate::api::names;
use crate::api::sidecarset::SidecarSet;
use crate::scan::{ScanError, Scanner};
use crate::sidecarset::admit::{Defaulted, Stored};
use crate::sidecarset::validate::{Findings, Problem};
use crate::store::Objects;

/// Problems of one refusal that are told one by one.
const PROBLEMS: usize = 32;
/// Bytes that these may have together, so that the count of the others fits behind them.
const TOLD: usize = 3800;

/// The text of a SidecarSet.
struct Raw<'a>(&'a str);

impl<'a> Subject<'a> for Raw<'a> {
    const GROUP: &'static str = names::GROUP;
    const RESOURCE: &'static str = "sidecarsets";
    const KIND: &'static str = "SidecarSet";
    const OPERATIONS: &'static [&'static str] = &["CREATE", "UPDATE"];

    type World = ();

    fn scan(scanner: &mut Scanner<'a>, (): ()) -> Result<Self, ScanError> {
        let at = scanner.mark();
        let text = scanner.value()?;
        if !text.starts_with('{') {
            return Err(ScanError { expected: "an object", at });
        }
        Ok(Self(text))
    }

    fn scan_old(scanner: &mut Scanner<'a>) -> Result<Option<Self>, ScanError> {
        Self::scan(scanner, ()).map(Some)
    }
}

/// Answers a review with what defaulting and hashing change (SSD, RSP-4, RSP-5).
pub fn mutate(body: &[u8]) -> Answer {
    answer(body, |request, sent| {
        let sent = document(request, sent)?;
        let Defaulted { before, after } = Defaulted::of(&sent)?;
        Ok(Verdict::Allowed { patch: diff::patch(&sent, &before, &after), warnings: Vec::new() })
    })
}

/// Answers a review with whether the object may be stored beside `objects` (SSV, SSU, SSC).
pub fn validate(body: &[u8], objects: &Objects) -> Answer {
    answer(body, |request, sent| {
        let new = document(request, sent)?;
        // An old object that cannot be read is no reason to refuse the one that mends it.
        let old = request.old_object.as_ref().and_then(|old| document(request, old).ok());
        if old.as_ref().is_some_and(|old| only_goes_away(&new, old)) {
            return Ok(Verdict::Allowed { patch: None, warnings: Vec::new() });
        }
        let old = old.and_then(|old| Stored::read(old).ok());
        // What cannot be read at all is told apart from what may not be stored (RSP-1).
        Defaulted::of(&new)?;
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let (_, findings) = objects.judge(new, old.as_ref().map(|old| &old.set));
        Ok(if findings.errors.is_empty() {
            let warnings = findings.warnings.iter().map(ToString::to_string).collect();
            Verdict::Allowed { patch: None, warnings }
        } else {
            Verdict::Invalid { name, findings }
        })
    })
}

/// The SidecarSet that will be stored once this request is admitted; `None` for a dry run and for what stores none.
pub fn to_be_stored(body: &[u8]) -> Option<SidecarSet> {
    let mut review: Value = serde_json::from_slice(body).ok()?;
    let request = review["request"].take();
    let stores = matches!(request["operation"].as_str(), Some("CREATE" | "UPDATE"))
        && request["dryRun"] != true
        && request["subResource"].as_str().unwrap_or_default().is_empty();
    let object = stores.then(|| request["object"].clone())?;
    Stored::read(object).ok().map(|stored| stored.set)
}

/// What comes of an object that can be read.
enum Verdict {
    Allowed { patch: Option<String>, warnings: Vec<String> },
    Invalid { name: String, findings: Findings },
}

fn answer<'a>(
    body: &'a [u8],
    decide: impl FnOnce(&Request<'a, Raw<'a>>, &Raw<'a>) -> Result<Verdict, Problem>,
) -> Answer {
    let review = match Review::parse(body, ()) {
        Ok(review) => review,
        Err(error) => return envelope::unreadable(body, &error),
    };
    let (version, uid) = review.address();
    let decided = match review.subject() {
        Err(error) => return envelope::malformed(version, uid, &error),
        Ok(None) => Ok(Verdict::Allowed { patch: None, warnings: Vec::new() }),
        Ok(Some((request, object))) => decide(request, object),
    };
    match decided {
        Err(problem) => envelope::malformed(version, uid, &problem),
        Ok(Verdict::Allowed { patch, warnings }) => envelope::allowed(version, uid, patch.as_deref(), &warnings),
        Ok(Verdict::Invalid { name, findings }) => invalid(version, uid, &name, &findings.errors),
    }
}

/// The object in the version of the request's resource (WH-7), which the API server has converted it to.
fn document(request: &Request<'_, Raw<'_>>, raw: &Raw<'_>) -> Result<Value, Problem> {
    let mut document: Value = serde_json::from_str(raw.0)
        .map_err(|error| Problem { field: String::new(), message: format!("the object cannot be read: {error}") })?;
    document["apiVersion"] = format!("{}/{}", names::GROUP, request.version()).into();
    Ok(document)
}

/// Whether an update only takes away what holds back a deletion. To refuse that, say because the base of a canary is gone
/// already, would keep the object for good.
fn only_goes_away(new: &Value, old: &Value) -> bool {
    new["metadata"]["deletionTimestamp"].is_string() && new["spec"] == old["spec"]
}

/// Differs: RSP-3. The reference answers 500.
fn invalid(version: &str, uid: &str, name: &str, errors: &[Problem]) -> Answer {
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
    let details = json!({"group": names::GROUP, "kind": Raw::KIND, "name": name, "causes": causes});
    let details = format!(",\"reason\":\"Invalid\",\"details\":{details}");
    envelope::refused(
        version,
        uid,
        Refused { code: 422, message: &message, details: &details, outcome: Outcome::Refused },
    )
}
