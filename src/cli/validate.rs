//! `outrigger validate DIR`: the checks of `manager`, for a pipeline, and those of jobs that pull images.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Operator, say, say_error};
use crate::admission::{imagelist, pulljob};
use crate::convert::Version;
use crate::manifest::Document;
use crate::sidecarset::validate::{Findings, Problem};
use crate::store::files::{self, Notice};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory with *.yaml, *.yml and *.json: ImagePullJobs, ImageListPullJobs, SidecarSets, and the Namespaces, ConfigMaps and ControllerRevisions they
    /// are judged with. SidecarSets are judged in file order, as if applied one after the other.
    #[arg(value_name = "DIR")]
    manifests: PathBuf,
    #[command(flatten)]
    operator: Operator,
}

/// Errors go to standard output, a line each; warnings to standard error.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut loaded = files::load(&args.manifests, &args.operator.operator_namespace);
    for job in std::mem::take(&mut loaded.jobs) {
        let findings = judge(&job);
        loaded.errors.extend(findings.errors.iter().map(|problem| Notice::about(&job.origin, problem)));
        loaded.warnings.extend(findings.warnings.iter().map(|problem| Notice::about(&job.origin, problem)));
    }
    for warning in &loaded.warnings {
        say_error(&format!("warning: {warning}"));
    }
    for error in &loaded.errors {
        say(&error.to_string());
    }
    if !loaded.errors.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    loaded.objects.snapshot()?;
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with a job that pulls images.
fn judge(job: &Document) -> Findings {
    let version =
        Version::parse(&job.api_version).map_err(|error| Problem { field: String::new(), message: error.to_string() });
    let findings = version.and_then(|_| match &*job.kind {
        "ImageListPullJob" => imagelist::judge(&job.value),
        _ => pulljob::judge(&job.value),
    });
    findings.unwrap_or_else(|problem| Findings { errors: vec![problem], warnings: Vec::new() })
}
