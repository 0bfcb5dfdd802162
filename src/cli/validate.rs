//! `outrigger validate DIR`: the checks of `manager`, for a pipeline.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Operator, say, say_error};
use crate::store::files;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory with *.yaml, *.yml and *.json: SidecarSets, and the Namespaces, ConfigMaps and ControllerRevisions they
    /// are judged with. SidecarSets are judged in file order, as if applied one after the other.
    #[arg(value_name = "DIR")]
    manifests: PathBuf,
    #[command(flatten)]
    operator: Operator,
}

/// Errors go to standard output, a line each; warnings to standard error.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = files::load(&args.manifests, &args.operator.operator_namespace);
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
