//! How changes reach running pods and what new pods get (SSV-10, SSV-15 … SSV-17, SSV-20, SSV-21).
//!
//! With RollingUpdate everything is checked. With NotUpdate only what injection reads can do harm, and only when it
//! reads it; the rest lies idle until somebody changes the type, and is told as a warning.

use super::Revisions;
use super::report::{Gravity, Place, Report, quote};
use super::selectors::check_selector;
use crate::api::IntOrString;
use crate::api::sidecarset::{PriorityStrategy, ScatterTerm, SidecarSet, SidecarSetSpec};
use crate::gates::Gates;
use crate::selector::Selector;

const WHOLE_PERCENT: &str = "must be a number of pods, 0 or more, or a percentage such as \"30%\"";

pub(super) fn check_update(report: &mut Report<'_>, set: &SidecarSet, gates: Gates) {
    let at = Place::spec().member("updateStrategy");
    let strategy = &set.spec.update_strategy;
    match strategy.r#type.as_str() {
        "RollingUpdate" => check_rolling(report, &at, set, gates),
        "NotUpdate" => check_resting(report, &at, &set.spec),
        // Differs: SSV-21. The reference stores any type and then never updates a pod.
        other => report.one_of(Gravity::Error, &at.member("type"), other, &["RollingUpdate", "NotUpdate"]),
    }
}

fn check_rolling(report: &mut Report<'_>, at: &Place, set: &SidecarSet, gates: Gates) {
    let strategy = &set.spec.update_strategy;
    for container in set.init_containers().iter().filter(|container| container.is_native_sidecar()) {
        let name = quote(&container.name);
        if !gates.in_place_native_sidecar {
            let message = format!(
                "RollingUpdate cannot update the init container {name}, as it has restartPolicy Always and the gate \
                 InPlaceUpdateNativeSidecar is off; use NotUpdate"
            );
            report.error(&at.member("type"), message);
        } else if container.is_hot_upgrade() {
            // HOT-33: nobody could hand over between two init containers.
            let message = format!("the init container {name} is injected as a pair, but never updated by hot upgrade");
            report.warn(&at.member("type"), message);
        }
    }
    if let Some(selector) = &strategy.selector {
        check_selector(report, &at.member("selector"), selector);
        if is_set(strategy.partition.as_ref()) {
            report.error(at, "selector and partition exclude each other; remove one");
        }
    }
    check_amount(report, Gravity::Error, &at.member("partition"), strategy.partition.as_ref());
    check_amount(report, Gravity::Error, &at.member("maxUnavailable"), strategy.max_unavailable.as_ref());
    if is_nothing(strategy.max_unavailable.as_ref()) {
        report.warn(&at.member("maxUnavailable"), "is 0, so no ready pod is ever updated; use 1 or more");
    }
    if let Some(priority) = &strategy.priority_strategy {
        check_priority(report, &at.member("priorityStrategy"), priority);
    }
    check_scatter(report, &at.member("scatterStrategy"), &strategy.scatter_strategy);
}

/// Without an update only injection reads partition and selector, and only when it chooses between two revisions.
///
/// Differs: SSV-21. The reference checks nothing here. What would then keep every pod from being created (REV-7, REV-8)
/// is an error; the rest is told, and would be an error with RollingUpdate.
fn check_resting(report: &mut Report<'_>, at: &Place, spec: &SidecarSetSpec) {
    let strategy = &spec.update_strategy;
    let revision = spec.injection_strategy.revision.as_ref();
    let chooses = revision.is_some_and(|revision| revision.policy == "Partial") && !strategy.paused;
    let gravity = if chooses { Gravity::Error } else { Gravity::Warning };

    let partition = at.member("partition");
    match &strategy.partition {
        Some(IntOrString::String(text)) if chooses && is_decimal_percent(text) => {}
        Some(IntOrString::String(_)) => check_amount(report, gravity, &partition, strategy.partition.as_ref()),
        amount => check_amount(report, Gravity::Warning, &partition, amount.as_ref()),
    }
    check_amount(report, Gravity::Warning, &at.member("maxUnavailable"), strategy.max_unavailable.as_ref());
    if let Some(Err(error)) = strategy.selector.as_ref().map(Selector::try_from) {
        report.note(gravity, &at.member("selector"), error.to_string());
    }
}

fn check_amount(report: &mut Report<'_>, gravity: Gravity, at: &Place, amount: Option<&IntOrString>) {
    let shown = match amount {
        Some(IntOrString::Int(number)) if *number < 0 => number.to_string(),
        Some(IntOrString::String(text)) if !is_whole_percent(text) => quote(text),
        _ => return,
    };
    report.note(gravity, at, format!("{shown} {WHOLE_PERCENT}"));
}

fn is_whole_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What injection can read as a probability (REV-8).
fn is_decimal_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|number| number.parse::<f64>().is_ok())
}

/// Whether a partition says something beside the default (SSV-20).
fn is_set(partition: Option<&IntOrString>) -> bool {
    !matches!(partition, None | Some(IntOrString::Int(0)))
}

fn is_nothing(amount: Option<&IntOrString>) -> bool {
    match amount {
        Some(IntOrString::Int(number)) => *number == 0,
        Some(IntOrString::String(text)) => is_whole_percent(text) && text.bytes().all(|b| b"0%".contains(&b)),
        None => false,
    }
}

fn check_priority(report: &mut Report<'_>, at: &Place, priority: &PriorityStrategy) {
    if !priority.order_priority.is_empty() && !priority.weight_priority.is_empty() {
        report.error(at, "orderPriority and weightPriority exclude each other; remove one");
    }
    for (index, term) in priority.order_priority.iter().enumerate() {
        report.required(&at.member("orderPriority").item(index).member("orderedKey"), &term.ordered_key);
    }
    for (index, term) in priority.weight_priority.iter().enumerate() {
        let at = at.member("weightPriority").item(index);
        report.range(&at.member("weight"), term.weight.into(), 0..=100);
        if term.weight == 0 {
            report.warn(&at.member("weight"), "is 0, so the selector has no effect; use 1 to 100");
        }
        check_selector(report, &at.member("matchSelector"), &term.match_selector);
    }
}

fn check_scatter(report: &mut Report<'_>, at: &Place, terms: &[ScatterTerm]) {
    for (index, term) in terms.iter().enumerate() {
        let at = at.item(index);
        report.required(&at.member("key"), &term.key);
        if terms[..index].contains(term) {
            report.error(
                &at,
                format!("{} is listed already; remove one", quote(&format!("{}={}", term.key, term.value))),
            );
        }
    }
}

pub(super) fn check_injection(report: &mut Report<'_>, set: &SidecarSet, revisions: &dyn Revisions) {
    let Some(revision) = &set.spec.injection_strategy.revision else { return };
    let at = Place::spec().member("injectionStrategy").member("revision");
    if revision.revision_name.is_none() && revision.custom_version.is_none() {
        report.error(&at, "needs a revisionName or a customVersion");
    } else if let Err(reason) = revisions.resolve(&set.metadata.name, revision) {
        report.error(&at, reason);
    }
    if !revision.policy.is_empty() {
        report.one_of(Gravity::Error, &at.member("policy"), &revision.policy, &["Always", "Partial"]);
    }
}
