//! A Kubernetes to play with, Outrigger inside: the one that the tests start.
//!
//! `cluster DIR` runs until SIGTERM or ctrl-c. Into `DIR` it writes `kubeconfig` once the cluster answers, a file `NAME.pid`
//! for each process, and the link `log`. As root with a node, otherwise the control plane alone. `make cluster-up` and
//! `make cluster-down` call it.

#![allow(clippy::print_stdout, reason = "talks to the person who started it")]

#[path = "../tests/support/cluster/mod.rs"]
mod harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use harness::{Cluster, Parts, Process, START, Stop, until};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use outrigger::api::names;
use tokio::signal::unix::{SignalKind, signal};

/// Where the manifests put Outrigger.
const NAMESPACE: &str = names::DEFAULT_NAMESPACE;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).context("usage: cluster DIR")?;
    fs::create_dir_all(&dir)?;
    // Ours to catch from here on, so that nothing is left behind by one who is impatient.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let parts = if fs::metadata("/proc/self")?.uid() == 0 { Parts::Node } else { Parts::ControlPlane };
    let stopped = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::pin!(stopped);
    let cluster = tokio::select! {
        cluster = Cluster::start(parts) => cluster?,
        () = &mut stopped => return Ok(()),
    };

    let manager = tokio::select! {
        manager = outrigger(&cluster) => manager?,
        () = &mut stopped => return Ok(()),
    };
    announce(&cluster, &manager, parts, &dir).await?;
    stopped.await;
    manager.stop(Stop::Gracefully).await?;
    drop(cluster);
    Ok(fs::remove_dir_all(&dir)?)
}

/// Outrigger inside: installed by the manifests, and run by this machine instead of by a Deployment, so that a change is a
/// build away. It has the rights of its ServiceAccount and no others.
async fn outrigger(cluster: &Cluster) -> Result<Process> {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");
    cluster.kubectl_says(&["apply", "--server-side", "-k", manifests]).await?;
    cluster.kubectl_says(&["-n", NAMESPACE, "scale", "deployment/outrigger-manager", "--replicas=0"]).await?;
    let kubeconfig = cluster.kubeconfig_of(NAMESPACE, "outrigger-manager").await?;
    // Beside the directory that this program is in.
    let program = std::env::current_exe()?.ancestors().nth(2).map(|built| built.join("outrigger"));
    let mut command = Command::new(program.context("this program has no directory")?);
    command.env("KUBECONFIG", kubeconfig).env("POD_NAMESPACE", NAMESPACE);
    command.args(["manager", "--bind", "127.0.0.1", "--webhook-host", "127.0.0.1", "--identity", "cluster-up"]);
    let manager = cluster.spawn("outrigger", &command)?;
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let registered = until("Outrigger has registered itself", START, async || {
        if let Some(exit) = manager.exit() {
            bail!("it ended: {exit}");
        }
        let hooks = hooks.get(names::MUTATING_CONFIGURATION).await?;
        Ok(hooks.webhooks.is_some_and(|hooks| !hooks.is_empty()))
    });
    registered.await.map_err(|error| manager.explain(error))?;
    Ok(manager)
}

async fn announce(cluster: &Cluster, manager: &Process, parts: Parts, dir: &Path) -> Result<()> {
    let manager = (manager.name().to_owned(), manager.id());
    for (name, id) in cluster.processes().await.into_iter().chain([manager]) {
        fs::write(dir.join(format!("{name}.pid")), format!("{id}\n"))?;
    }
    symlink(cluster.logs(), dir.join("log"))?;
    // Last, and in one step: whoever waits for it may use it.
    fs::copy(cluster.kubeconfig(), dir.join("kubeconfig.next"))?;
    fs::rename(dir.join("kubeconfig.next"), dir.join("kubeconfig"))?;
    if parts == Parts::Node {
        println!("images for any name: push to {}", cluster.registry().await?);
    } else {
        println!("without root there is no node: pods stay pending");
    }
    Ok(())
}
