//! What a container may use: given (PODV-10, PODV-4), or computed per pod (SSV-40, SSV-41).
//!
//! Given resources must be such that some pod could have them. Formulas are parsed and tried here, for at injection a
//! formula that fails keeps its pod from being created (RES-10).

use std::collections::BTreeMap;

use super::report::{Gravity, Place, Report, quote};
use crate::api::container::{ContainerResizePolicy, ResourceExprs, ResourcesPolicy, SidecarContainer};
use crate::api::re2;
use crate::api::syntax;
use crate::quantity::Quantity;
use crate::sidecarset::expression::{Expression, Variable};

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";

pub(super) fn check(report: &mut Report<'_>, at: &Place, container: &SidecarContainer) {
    let resources = &container.resources;
    let resources_at = at.member("resources");
    check_amounts(report, &resources_at.member("limits"), &resources.limits);
    check_amounts(report, &resources_at.member("requests"), &resources.requests);
    check_requests(report, &resources_at.member("requests"), &resources.limits, &resources.requests);
    for (index, claim) in resources.claims.iter().enumerate() {
        let message =
            format!("{} is a claim of the pod, which a sidecar cannot count on; remove it", quote(&claim.name));
        report.error(&resources_at.member("claims").item(index).member("name"), message);
    }
    if let Some(policy) = &container.resources_policy {
        check_policy(report, &at.member("resourcesPolicy"), policy, container);
    }
}

fn check_amounts(report: &mut Report<'_>, at: &Place, amounts: &BTreeMap<String, Quantity>) {
    for (name, amount) in amounts {
        let at = at.key(name);
        if report.name(&at, name, syntax::qualified_name) {
            check_name(report, &at, name);
        }
        if amount.is_negative() {
            report.error(&at, format!("{amount} must be 0 or more"));
        } else if is_counted(name) && amount.millis() % 1000 != 0 {
            report.error(&at, format!("{amount} must be a whole number"));
        }
    }
}

fn check_name(report: &mut Report<'_>, at: &Place, name: &str) {
    if name.contains('/') {
        if is_extended(name) && name.starts_with("requests.") {
            report.error(at, format!("{} must not start with \"requests.\"", quote(name)));
        }
    } else if !STANDARD.contains(&name) && !name.starts_with(HUGE_PAGES) {
        let known = STANDARD.join(", ");
        report.error(at, format!("{} is not known; use {known}, hugepages-SIZE or a name with a domain", quote(name)));
    }
}

fn check_requests(
    report: &mut Report<'_>,
    at: &Place,
    limits: &BTreeMap<String, Quantity>,
    requests: &BTreeMap<String, Quantity>,
) {
    for (name, request) in requests {
        let at = at.key(name);
        match limits.get(name) {
            Some(limit) if is_counted(name) && request != limit => {
                report
                    .error(&at, format!("{request} must equal the limit {limit}, as {} cannot be shared", quote(name)));
            }
            Some(limit) if request > limit => {
                report.error(&at, format!("{request} must be at most the limit {limit}"));
            }
            None if is_counted(name) => {
                report.error(&at, format!("needs a limit, as {} cannot be shared", quote(name)));
            }
            _ => {}
        }
    }
}

/// Whether a resource comes in pieces that belong to one container.
fn is_counted(name: &str) -> bool {
    is_extended(name) || name.starts_with(HUGE_PAGES)
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

pub(super) fn check_resize(report: &mut Report<'_>, at: &Place, policies: &[ContainerResizePolicy]) {
    for (index, policy) in policies.iter().enumerate() {
        let at = at.item(index);
        let name = &policy.resource_name;
        report.one_of(Gravity::Error, &at.member("resourceName"), name, &["cpu", "memory"]);
        if policies[..index].iter().any(|earlier| earlier.resource_name == *name) {
            report.error(&at.member("resourceName"), format!("{} is listed already; remove one", quote(name)));
        }
        let known = &["NotRequired", "RestartContainer"];
        report.one_of(Gravity::Error, &at.member("restartPolicy"), &policy.restart_policy, known);
    }
}

/// SSV-40 and SSV-41, for both lists.
fn check_policy(report: &mut Report<'_>, at: &Place, policy: &ResourcesPolicy, container: &SidecarContainer) {
    if !container.resources.limits.is_empty() || !container.resources.requests.is_empty() {
        report.error(at, "excludes resources.limits and resources.requests; remove one");
        return;
    }
    let regex = &policy.target_containers_name_regex;
    let regex_at = at.member("targetContainersNameRegex");
    if report.required(&regex_at, regex)
        && let Err(error) = re2::compile(regex)
    {
        report.error(&regex_at, format!("{} is not a regular expression: {error}", quote(regex)));
    }
    let at = at.member("resourcesExpr");
    let exprs = [("limits", &policy.resources_expr.limits), ("requests", &policy.resources_expr.requests)];
    if exprs.iter().all(|(_, exprs)| exprs.is_none()) {
        report.error(&at, "needs limits or requests");
    } else if exprs.iter().all(|(_, exprs)| exprs.as_ref().is_none_or(|exprs| *exprs == ResourceExprs::default())) {
        report.warn(&at, "has no expression, so the container gets no resources; give one for cpu or memory");
    }
    for (member, exprs) in exprs {
        let Some(exprs) = exprs else { continue };
        let at = at.member(member);
        check_expression(report, &at.member("cpu"), &exprs.cpu, Variable::Cpu);
        check_expression(report, &at.member("memory"), &exprs.memory, Variable::Memory);
    }
}

/// Differs: EXPR-6, EXPR-12 and EXPR-13. What would fail for every pod, or is a misspelt number, is refused; a result
/// that is negative for some pods is not.
fn check_expression(report: &mut Report<'_>, at: &Place, text: &str, variable: Variable) {
    if text.is_empty() {
        return;
    }
    if let Err(error) = Expression::parse(text).and_then(|expression| expression.check(variable)) {
        report.error(at, format!("{} does not work: {error}", quote(text)));
    }
}
