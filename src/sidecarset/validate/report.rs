//! Where a problem is and how it is told.
//!
//! A [`Place`] is the way to a member, both as the text users read and as the steps by which members that our types do
//! not know are found. A [`Report`] collects what the rules say.

use super::{Findings, Problem};
use crate::api::json::{Step, Unknown};
use crate::api::syntax::Syntax;

/// Characters of a value that are worth repeating to its author.
const SHOWN: usize = 64;

/// The way to a member.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    text: String,
    steps: Vec<Step>,
}

/// What the rules have said so far.
pub(crate) struct Report<'a> {
    unknown: &'a Unknown,
    findings: Findings,
}

/// Whether a problem keeps the object out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gravity {
    Error,
    Warning,
}

// === impl Place ===

impl Place {
    pub(crate) fn metadata() -> Self {
        Self { text: "metadata".to_owned(), steps: vec![Step::Key("metadata".to_owned())] }
    }

    pub(crate) fn spec() -> Self {
        Self { text: "spec".to_owned(), steps: vec![Step::Key("spec".to_owned())] }
    }

    /// Into a member of an object.
    pub(crate) fn member(&self, name: &str) -> Self {
        self.step(&format!(".{name}"), Step::Key(name.to_owned()))
    }

    /// Into a list.
    pub(crate) fn item(&self, index: usize) -> Self {
        self.step(&format!("[{index}]"), Step::Index(index))
    }

    /// Into a map, whose keys are the user's.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.step(&format!("[{key}]"), Step::Key(key.to_owned()))
    }

    fn step(&self, text: &str, step: Step) -> Self {
        let mut place = self.clone();
        place.text += text;
        place.steps.push(step);
        place
    }
}

// === impl Report ===

impl<'a> Report<'a> {
    pub(crate) fn new(unknown: &'a Unknown) -> Self {
        Self { unknown, findings: Findings::default() }
    }

    pub(crate) fn error(&mut self, at: &Place, message: impl Into<String>) {
        self.note(Gravity::Error, at, message);
    }

    pub(crate) fn warn(&mut self, at: &Place, message: impl Into<String>) {
        self.note(Gravity::Warning, at, message);
    }

    pub(crate) fn note(&mut self, gravity: Gravity, at: &Place, message: impl Into<String>) {
        let list = match gravity {
            Gravity::Error => &mut self.findings.errors,
            Gravity::Warning => &mut self.findings.warnings,
        };
        list.push(Problem { field: at.text.clone(), message: message.into() });
    }

    /// Demands that there is a text.
    pub(crate) fn required(&mut self, at: &Place, text: &str) -> bool {
        if text.is_empty() {
            self.error(at, "is required");
        }
        !text.is_empty()
    }

    /// Demands a syntax.
    pub(crate) fn syntax(&mut self, at: &Place, text: &str, syntax: Syntax) -> bool {
        let verdict = syntax(text);
        if let Err(demand) = verdict {
            self.error(at, format!("{} {demand}", quote(text)));
        }
        verdict.is_ok()
    }

    /// Demands a text, and a syntax of it.
    pub(crate) fn name(&mut self, at: &Place, text: &str, syntax: Syntax) -> bool {
        self.required(at, text) && self.syntax(at, text, syntax)
    }

    /// Demands one of the words that the API knows.
    pub(crate) fn one_of(&mut self, gravity: Gravity, at: &Place, word: &str, known: &[&str]) {
        if !known.contains(&word) {
            self.note(gravity, at, format!("{} is not known; use {}", quote(word), known.join(", ")));
        }
    }

    /// Demands a number in a range.
    pub(crate) fn range(&mut self, at: &Place, number: i64, range: std::ops::RangeInclusive<i64>) {
        if !range.contains(&number) {
            self.error(at, format!("{number} must be from {} to {}", range.start(), range.end()));
        }
    }

    /// Whether the object has a member at this place that is newer than our types.
    pub(crate) fn has_newer(&self, at: &Place) -> bool {
        self.unknown.is_below(&at.steps)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.findings.errors.is_empty()
    }

    pub(crate) fn into_findings(self) -> Findings {
        self.findings
    }
}

/// A value for a message: in quotes, and shortened when long.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
