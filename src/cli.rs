//! The command line: subcommands and every flag. Each subcommand has a file of its own below.

mod crds;
mod daemon;
mod explain;
mod inject;
mod manager;
mod pull;
mod restart;
mod rollout;
mod uninstall;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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
    Manager(Box<manager::Args>),
    /// Serve one node: restart containers of its pods on request.
    Daemon(daemon::Args),
    /// Check a directory of manifests without serving: one line an error, exit 0 or 1.
    Validate(validate::Args),
    /// Show what would happen to pods, without a cluster.
    Inject(inject::Args),
    /// Print the CustomResourceDefinitions.
    Crds(crds::Args),
    /// Explain, in a live cluster, why pods carry their SidecarSets or lack them.
    Explain(explain::Args),
    /// Follow how a SidecarSet reaches running pods, see its revisions, go back to one.
    Rollout(rollout::Args),
    /// Restart a container of many pods, few at a time.
    Restart(restart::Args),
    /// Have nodes pull images ahead of the pods that need them, few nodes at a time.
    Pull(Box<pull::Args>),
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
    // One provider for our server and for the client of the API server; it fails only when one is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ran = match parse().command {
        Command::Manager(args) => manager::run(*args),
        Command::Daemon(args) => daemon::run(args),
        Command::Validate(args) => validate::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Crds(args) => crds::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Rollout(args) => rollout::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Uninstall(args) => uninstall::run(args),
    };
    ran.unwrap_or_else(|error| {
        say_error(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Under the name `kubectl-outrigger` the binary is a plugin of kubectl, and its help says so.
fn parse() -> Cli {
    let is_plugin = std::env::args_os()
        .next()
        .is_some_and(|path| std::path::Path::new(&path).file_stem().is_some_and(|name| name == "kubectl-outrigger"));
    if !is_plugin {
        return Cli::parse();
    }
    let matches = Cli::command().name("kubectl-outrigger").bin_name("kubectl outrigger").get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Prints a line to standard output. A reader that went away (`| head`) is no error.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line over the one before it.
fn rewrite(line: &str, is_last: bool) {
    use std::io::Write as _;
    let end = if is_last { "\n" } else { "" };
    let mut out = std::io::stdout();
    let _ = write!(out, "\r\x1b[K{line}{end}");
    let _ = out.flush();
}

/// Rows with columns of the same width.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Prints a line to standard error.
fn say_error(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
