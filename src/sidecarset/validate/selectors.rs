//! Label selectors of a SidecarSet (SSV-11, SSV-12).
//!
//! A selector must be there, must not be empty, and every part of it must be one that labels can meet. Each mistake is
//! told once, at the key, operator or value that is wrong.

use std::collections::BTreeMap;

use super::report::{Gravity, Place, Report, quote};
use crate::api::meta::{LabelSelector, LabelSelectorRequirement};
use crate::api::sidecarset::SidecarSetSpec;
use crate::api::syntax;

pub(super) fn check(report: &mut Report<'_>, spec: &SidecarSetSpec) {
    let at = Place::spec().member("selector");
    match &spec.selector {
        Some(selector) => {
            check_selector(report, &at, selector);
            check_breadth(report, &at, spec, selector);
        }
        None => report.error(&at, "is required; say which pods get the sidecars"),
    }
    if let Some(selector) = &spec.namespace_selector {
        check_selector(report, &Place::spec().member("namespaceSelector"), selector);
    }
}

/// A selector that only says which pods it does not want is legal, and takes in the pods of every system component.
fn check_breadth(report: &mut Report<'_>, at: &Place, spec: &SidecarSetSpec, selector: &LabelSelector) {
    let excludes = |expression: &LabelSelectorRequirement| matches!(&*expression.operator, "NotIn" | "DoesNotExist");
    let expressions = &selector.match_expressions;
    if selector.match_labels.is_empty() && !expressions.is_empty() && expressions.iter().all(excludes) {
        let area = if spec.namespace_selector.is_some() { "the selected namespaces" } else { "all namespaces" };
        report.warn(
            at,
            format!("only excludes pods, so it selects every other pod of {area}, those without any label too; add a label that the pods must have"),
        );
    }
}

/// Demands a selector that says something and says it well.
pub(super) fn check_selector(report: &mut Report<'_>, at: &Place, selector: &LabelSelector) {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        report.error(at, "must not be empty; give matchLabels or matchExpressions");
    }
    check_terms(report, at, &selector.match_labels, &selector.match_expressions);
}

/// Demands that every term of a selector is one that labels can meet.
pub(crate) fn check_terms(
    report: &mut Report<'_>,
    at: &Place,
    labels: &BTreeMap<String, String>,
    expressions: &[LabelSelectorRequirement],
) {
    for (key, value) in labels {
        let at = at.member("matchLabels").key(key);
        report.syntax(&at, key, syntax::qualified_name);
        report.syntax(&at, value, syntax::label_value);
    }
    for (index, expression) in expressions.iter().enumerate() {
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
