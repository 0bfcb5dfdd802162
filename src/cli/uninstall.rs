//! `outrigger uninstall`: takes Outrigger out of the way of everybody else, with the user's own rights.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{Operator, say, say_error};
use crate::cluster::uninstall::{Line, Outcome, Settings, uninstall};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Deployment of the manager: it is scaled to zero, or it would register again.
    #[arg(long, value_name = "NAME", default_value = "outrigger-manager")]
    deployment: String,
    #[command(flatten)]
    operator: Operator,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(remove(args))
}

async fn remove(args: Args) -> anyhow::Result<ExitCode> {
    let client = kube::Client::try_default().await.context("cannot find a cluster: set KUBECONFIG")?;
    let settings =
        Settings { namespace: args.operator.operator_namespace, deployment: args.deployment, dry_run: args.dry_run };
    let lines = uninstall(&client, &settings, |line| tell(line, settings.dry_run)).await;
    if !lines.iter().all(Line::is_right) {
        say_error("not everything was done: see the lines marked with !, then run this again");
        return Ok(ExitCode::FAILURE);
    }
    if settings.dry_run {
        say("nothing was changed (--dry-run)");
        return Ok(ExitCode::SUCCESS);
    }
    say("pods are created without us now; containers that were injected run on");
    say("a manager that runs elsewhere (out of the cluster) registers again: stop it first");
    say("what remains: the CRDs with every SidecarSet (read them as v1beta1), the Secret, Service and RBAC");
    say("to remove these too, SidecarSets included: kubectl delete --ignore-not-found -k manifests");
    Ok(ExitCode::SUCCESS)
}

fn tell(line: &Line, dry_run: bool) {
    let Line { what, outcome } = line;
    match outcome {
        Outcome::Done(did) if dry_run => say(&format!("  {what}: would be {did}")),
        Outcome::Done(did) => say(&format!("  {what}: {did}")),
        Outcome::Already(so) => say(&format!("  {what}: {so}")),
        Outcome::Failed(why) => say_error(&format!("! {what}: {why}")),
    }
}
