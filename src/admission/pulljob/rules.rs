//! What is asked of an ImagePullJob, and of the members that an ImageListPullJob shares with it (IPJ-10 … IPJ-21).
//!
//! All problems are told together, each with its member and the remedy.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use crate::admission::object::{Verdict, default_to, object_at};
use crate::api::IntOrString;
use crate::api::image::ImageReference;
use crate::api::imagelist::ListPullJobSpec;
use crate::api::json::{DecodeError, Unknown};
use crate::api::meta::LabelSelector;
use crate::api::pulljob::{CompletionPolicy, NodeSelector, Parallelism, PullJobSpec, PullPolicy};
use crate::gates::Gates;
use crate::sidecarset::validate::report::{Place, Report, quote};
use crate::sidecarset::validate::selectors::check_terms;
use crate::sidecarset::validate::{Findings, Problem};

/// Seconds that one attempt may take when nothing is said (IPJ-1).
pub(in crate::admission) const TIMEOUT: i32 = 600;
/// Attempts after the first one when nothing is said (IPJ-1).
pub(in crate::admission) const BACKOFF_LIMIT: i32 = 3;

/// Nothing here is newer than our types: no rule asks for what they do not know.
static NOTHING: LazyLock<Unknown> = LazyLock::new(Unknown::default);

/// What both kinds say alike of the pulls.
pub(in crate::admission) struct Template<'s> {
    selector: Option<&'s NodeSelector>,
    pod_selector: Option<&'s LabelSelector>,
    parallelism: Option<&'s IntOrString>,
    pull_policy: PullPolicy,
    completion: &'s CompletionPolicy,
    image_pull_policy: &'s str,
}

/// What stands in the way of new jobs (IPJ-6). Differs: the gates do not concern jobs that are there already, which must be
/// able to change and to go.
pub(in crate::admission) fn switched_off(gates: Gates) -> Option<String> {
    let gate = if !gates.daemon {
        "KruiseDaemon"
    } else if !gates.image_pull_job {
        "ImagePullJobGate"
    } else {
        return None;
    };
    Some(format!(
        "images are not pulled ahead here: the manager runs with the feature gate {gate}=false; start it without, or with \
         --feature-gates={gate}=true"
    ))
}

/// Fills in what both kinds have (IPJ-1, LIST-1). Differs: IPJ-4. Whatever else is there.
pub(in crate::admission) fn fill(spec: &mut Value) {
    if spec.is_null() {
        *spec = Value::Object(serde_json::Map::new());
    }
    if !spec.is_object() {
        return;
    }
    if spec["completionPolicy"].is_null() || spec["completionPolicy"].is_object() {
        default_to(object_at(spec, "completionPolicy"), "type", "Always");
    }
    if spec["pullPolicy"].is_null() || spec["pullPolicy"].is_object() {
        let policy = object_at(spec, "pullPolicy");
        default_to(policy, "timeoutSeconds", TIMEOUT);
        default_to(policy, "backoffLimit", BACKOFF_LIMIT);
    }
}

pub(in crate::admission) fn report() -> Report<'static> {
    Report::new(&NOTHING)
}

pub(in crate::admission) fn spec() -> Place {
    Place::spec()
}

/// A problem of reading the member `spec`, with its whole path.
pub(in crate::admission) fn below_spec(error: DecodeError) -> Problem {
    let separator = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
    Problem { field: format!("spec{separator}{}", error.path), message: error.message }
}

pub(in crate::admission) fn verdict(findings: &Findings) -> Verdict {
    if findings.errors.is_empty() {
        Verdict::Allowed { patch: None, warnings: findings.warnings.iter().map(ToString::to_string).collect() }
    } else {
        Verdict::Invalid(findings.errors.clone())
    }
}

/// IPJ-15, IPJ-16.
pub(in crate::admission) fn check_image(report: &mut Report<'_>, at: &Place, image: &str) {
    if image.is_empty() {
        report.error(at, "is required; name the image to pull, such as registry.example/team/app:v1");
    } else if ImageReference::parse(image).is_none() {
        let shown = quote(image);
        report.error(
            at,
            format!("{shown} is not an image; write REGISTRY/REPOSITORY:TAG or …@sha256:DIGEST, the repository in lower case"),
        );
    }
}

/// `sent` is the member `spec` as it was sent: whether a list is there at all, the types do not tell.
pub(in crate::admission) fn check(report: &mut Report<'_>, template: &Template<'_>, sent: &Value) {
    check_nodes(report, template, sent);
    if let Err(demand) = Parallelism::read(template.parallelism) {
        let shown = template.parallelism.map(ToString::to_string).unwrap_or_default();
        report.error(&spec().member("parallelism"), format!("{shown} {demand}"));
    }
    check_limits(report, template);
    let policy = template.image_pull_policy;
    if !matches!(policy, "" | "IfNotPresent" | "Always") {
        // IPJ-21: any text may be stored, and all but one mean the same (IMG-47).
        let shown = quote(policy);
        report.warn(
            &spec().member("imagePullPolicy"),
            format!("{shown} is not known and acts like Always; use Always or IfNotPresent"),
        );
    }
}

/// IPJ-10 … IPJ-14.
fn check_nodes(report: &mut Report<'_>, template: &Template<'_>, sent: &Value) {
    let at = spec().member("selector");
    if let Some(selector) = template.selector {
        // IPJ-10: even an empty list says something.
        let is_there = |member: &str| !sent["selector"][member].is_null();
        if is_there("names") && (is_there("matchLabels") || is_there("matchExpressions")) {
            report.error(
                &at,
                "has names together with matchLabels or matchExpressions; choose nodes by the one or by the other",
            );
        }
        check_terms(report, &at, &selector.match_labels, &selector.match_expressions);
        let names = at.member("names");
        let mut seen = BTreeSet::new();
        for (index, name) in selector.names.iter().enumerate() {
            if !seen.insert(name) {
                report.error(&names.item(index), format!("{} is there twice; name each node once", quote(name)));
            }
        }
        if is_there("names") && selector.names.is_empty() {
            report.warn(&names, "names no node, so nothing is pulled; leave it out for all nodes");
        }
    }
    if let Some(selector) = template.pod_selector {
        let at = spec().member("podSelector");
        if template.selector.is_some() {
            report.error(&at, "is there together with selector; choose nodes by their pods or by themselves");
        }
        check_terms(report, &at, &selector.match_labels, &selector.match_expressions);
    }
}

/// IPJ-18 … IPJ-21.
fn check_limits(report: &mut Report<'_>, template: &Template<'_>) {
    let policy = spec().member("pullPolicy");
    let numbers = [
        ("timeoutSeconds", template.pull_policy.timeout_seconds, "leave it out for 600"),
        ("backoffLimit", template.pull_policy.backoff_limit, "leave it out for 3"),
    ];
    for (member, number, remedy) in numbers {
        // Differs: IPJ-21.
        if let Some(number) = number.filter(|number| *number < 0) {
            report.error(&policy.member(member), format!("{number} must be 0 or more; {remedy}"));
        }
    }
    let timeout = template.pull_policy.timeout_seconds.unwrap_or(TIMEOUT);
    if timeout == 0 {
        report.warn(&policy.member("timeoutSeconds"), "0 leaves no time to pull anything; leave it out for 600");
    }
    let at = spec().member("completionPolicy");
    let completion = template.completion;
    let limits = [
        ("activeDeadlineSeconds", completion.active_deadline_seconds.is_some()),
        ("ttlSecondsAfterFinished", completion.ttl_seconds_after_finished.is_some()),
    ];
    match completion.r#type.as_str() {
        "Always" | "" => {
            let deadline = completion.active_deadline_seconds.filter(|deadline| *deadline < i64::from(timeout));
            if let Some(deadline) = deadline {
                report.error(
                    &at.member("activeDeadlineSeconds"),
                    format!("{deadline} is less than spec.pullPolicy.timeoutSeconds, which is {timeout}: no attempt could use its time; raise the one or lower the other"),
                );
            }
            if completion.ttl_seconds_after_finished.is_some_and(|ttl| ttl < 0) {
                let message = "is negative, so the job is deleted as soon as it has finished; use 0 to say so, or leave it out to keep the job";
                report.warn(&at.member("ttlSecondsAfterFinished"), message);
            }
        }
        "Never" => {
            for (member, _) in limits.into_iter().filter(|(_, is_set)| *is_set) {
                report.error(&at.member(member), "must be left out with type \"Never\", as such a job does not end");
            }
        }
        other => {
            let shown = quote(other);
            report.error(&at.member("type"), format!("{shown} is not known; use Always (the default) or Never"));
        }
    }
}

// === impl Template ===

impl<'s> Template<'s> {
    pub(in crate::admission) fn of_job(spec: &'s PullJobSpec) -> Self {
        Self {
            selector: spec.selector.as_ref(),
            pod_selector: spec.pod_selector.as_ref(),
            parallelism: spec.parallelism.as_ref(),
            pull_policy: spec.pull_policy.clone().unwrap_or_default(),
            completion: &spec.completion_policy,
            image_pull_policy: &spec.image_pull_policy,
        }
    }

    pub(in crate::admission) fn of_list(spec: &'s ListPullJobSpec) -> Self {
        Self {
            selector: spec.selector.as_ref(),
            pod_selector: spec.pod_selector.as_ref(),
            parallelism: spec.parallelism.as_ref(),
            pull_policy: spec.pull_policy.clone().unwrap_or_default(),
            completion: &spec.completion_policy,
            image_pull_policy: &spec.image_pull_policy,
        }
    }
}
