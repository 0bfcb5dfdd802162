//! The review of an ImagePullJob in, its answer out: defaulted on the one path, judged on the other (IPJ).

pub(super) mod rules;

use serde_json::Value;

use super::diff;
use super::envelope::Answer;
use super::object::{self, Kind, Verdict, default_to, object_at};
use crate::api::json::decode;
use crate::api::names;
use crate::api::pulljob::PullJobSpec;
use crate::gates::Gates;
use crate::sidecarset::validate::{Findings, Problem};
use rules::Template;

/// The kind.
struct Jobs;

impl Kind for Jobs {
    const RESOURCE: &'static str = "imagepulljobs";
    const KIND: &'static str = "ImagePullJob";
}

/// Answers a review with what defaulting adds (IPJ-1 … IPJ-5).
pub fn mutate(body: &[u8]) -> Answer {
    object::answer::<Jobs>(body, |sent| {
        let document = sent.served()?;
        read(&document)?;
        let mut after = defaulted(&document);
        if sent.is_new() {
            protect(&mut after);
        }
        Ok(Verdict::patched(diff::operations(&document, &document, &after)))
    })
}

/// Answers a review with whether the job may be stored (IPJ-6 … IPJ-21).
pub fn validate(body: &[u8], gates: Gates) -> Answer {
    object::answer::<Jobs>(body, |sent| {
        let new = defaulted(&sent.served()?);
        let spec = read(&new)?;
        let Some(old) = sent.old() else {
            return Ok(match rules::switched_off(gates) {
                Some(why) => Verdict::Off(why),
                None => rules::verdict(&judged(&new, &spec)),
            });
        };
        // What another let in must stay writable, or its labels and finalizers could never be changed.
        let old = defaulted(&old);
        if new["spec"] == old["spec"] {
            return Ok(Verdict::unchanged());
        }
        // Differs: IPJ-8. A list that is absent and one that is empty are the same.
        if read(&old).is_ok_and(|old| old.pull_secrets != spec.pull_secrets) {
            let message =
                "spec.pullSecrets: must not be changed once the job is made; delete this job and create another";
            return Ok(Verdict::Denied(message.to_owned()));
        }
        Ok(rules::verdict(&judged(&new, &spec)))
    })
}

/// What is wrong with a job from a file.
pub fn judge(job: &Value) -> Result<Findings, Problem> {
    let job = defaulted(job);
    let spec = read(&job)?;
    Ok(judged(&job, &spec))
}

fn judged(job: &Value, spec: &PullJobSpec) -> Findings {
    let mut report = rules::report();
    rules::check_image(&mut report, &rules::spec().member("image"), &spec.image);
    rules::check(&mut report, &Template::of_job(spec), &job["spec"]);
    report.into_findings()
}

/// RSP-1.
fn read(job: &Value) -> Result<PullJobSpec, Problem> {
    match decode::<PullJobSpec>(&job["spec"]) {
        Ok((spec, _)) => Ok(spec),
        Err(error) => Err(rules::below_spec(error)),
    }
}

/// IPJ-1, JOB-1. What is not an object where one must be is told by [`read`].
fn defaulted(job: &Value) -> Value {
    let mut after = job.clone();
    rules::fill(&mut after["spec"]);
    if let Some(spec) = after["spec"].as_object_mut() {
        default_to(spec, "imagePullPolicy", "IfNotPresent");
    }
    after
}

/// Differs: IPJ-3. In v1beta1 too, which saves the controller a write of every job.
fn protect(job: &mut Value) {
    let metadata = object_at(job, "metadata");
    let finalizers = metadata.entry("finalizers").or_insert(Value::Null);
    if finalizers.is_null() {
        *finalizers = Value::Array(Vec::new());
    }
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == names::DELETION_PROTECTION)
    {
        finalizers.push(names::DELETION_PROTECTION.into());
    }
}

#[cfg(test)]
mod tests;
