//! The command line: subcommands and every flag. Each subcommand has a file of its own below.

mod inject;
mod manager;
mod uninstall;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps sidecars beside the containers they serve: OpenKruise's SidecarSet API, served fast.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the webhook for pods.
    Manager(manager::Args),
    /// Check a directory of manifests without serving: one line an error, exit 0 or 1.
    Validate(validate::Args),
    /// Show what would happen to pods, without a cluster.
    Inject(inject::Args),
    /// Take Outrigger out of a cluster's way: webhooks first, then the manager, then conversion.
    Uninstall(uninstall::Args),
}

/// What manifests are judged by, whatever the subcommand.
#[derive(Clone, Debug, clap::Args)]
struct Operator {
    /// Namespace of the operator: where its ConfigMap kruise-configuration and the ControllerRevisions are.
    #[arg(long, env = "POD_NAMESPACE", default_value = crate::api::names::DEFAULT_NAMESPACE, value_name = "NAMESPACE")]
    operator_namespace: String,
}

/// Parses the arguments and runs one subcommand.
pub fn run() -> ExitCode {
    let ran = match Cli::parse().command {
        Command::Manager(args) => manager::run(args),
        Command::Validate(args) => validate::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Uninstall(args) => uninstall::run(args),
    };
    ran.unwrap_or_else(|error| {
        say_error(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Prints a line to standard output. A reader that went away (`| head`) is no error.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line to standard error.
fn say_error(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
