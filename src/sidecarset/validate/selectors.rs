//! Label selectors of a SidecarSet (SSV-11, SSV-12).
//!
//! A selector must be there, must not be empty, and every part of it must be one that labels can meet. Each mistake is
//! told once, at the key, operator or value that is wrong.

use super::report::{Gravity, Place, Report, quote};
use crate::api::meta::{LabelSelector, LabelSelectorRequirement};
use crate::api::sidecarset::SidecarSetSpec;
use crate::api::syntax;

pub(super) fn check(report: &mut Report<'_>, spec: &SidecarSetSpec) {
    let at = Place::spec().member("selector");
    match &spec.selector {
        Some(selector) => check_selector(report, &at, selector),
        None => report.error(&at, "is required; say which pods get the sidecars"),
    }
    if let Some(selector) = &spec.namespace_selector {
        check_selector(report, &Place::spec().member("namespaceSelector"), selector);
    }
}

/// Demands a selector that says something and says it well.
pub(super) fn check_selector(report: &mut Report<'_>, at: &Place, selector: &LabelSelector) {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        report.error(at, "must not be empty; give matchLabels or matchExpressions");
    }
    for (key, value) in &selector.match_labels {
        let at = at.member("matchLabels").key(key);
        report.syntax(&at, key, syntax::qualified_name);
        report.syntax(&at, value, syntax::label_value);
    }
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        check_expression(report, &at.member("matchExpressions").item(index), expression);
    }
}

fn check_expression(report: &mut Report<'_>, at: &Place, expression: &LabelSelectorRequirement) {
    let LabelSelectorRequirement { key, operator, values } = expression;
    report.syntax(&at.member("key"), key, syntax::qualified_name);
    match (operator.as_str(), values.is_empty()) {
        ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => {}
        ("In" | "NotIn", true) => {
            report.error(&at.member("values"), format!("is required with operator {}", quote(operator)));
        }
        ("Exists" | "DoesNotExist", false) => {
            report.error(&at.member("values"), format!("must be left out with operator {}", quote(operator)));
        }
        _ => {
            report.one_of(Gravity::Error, &at.member("operator"), operator, &["In", "NotIn", "Exists", "DoesNotExist"]);
        }
    }
    for (index, value) in values.iter().enumerate() {
        report.syntax(&at.member("values").item(index), value, syntax::label_value);
    }
}
