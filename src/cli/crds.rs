//! `outrigger crds`: the CustomResourceDefinitions, to standard output or into a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{Operator, say};
use crate::crds;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Writes one file for each definition into this directory, which is made if need be.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    operator: Operator,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let definitions = crds::all(&args.operator.operator_namespace);
    let Some(dir) = &args.dir else {
        for definition in &definitions {
            say(definition.to_yaml()?.trim_end());
        }
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("{}: the directory cannot be made", dir.display()))?;
    for definition in &definitions {
        let file = dir.join(definition.file_name());
        std::fs::write(&file, definition.to_yaml()?).with_context(|| format!("{}: not written", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
